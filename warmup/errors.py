"""Errors that a person can mend. Their text is one line: what is wrong, where, and what would be right."""

from __future__ import annotations


class UserError(ValueError):
    """Something that the user can mend: a wrong option, a missing file, data that cannot be read."""


class PlanError(UserError):
    """A recipe that cannot be run on a topology. `code` names the linter's finding."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


def one_line(error: BaseException, limit: int = 300) -> str:
    """The text of an error without line breaks, cut off after `limit` characters; its type's name if it has no text."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
