"""Errors that the user can fix. Each message is one line: what is wrong, where, and what would be right."""

from __future__ import annotations


class UserError(ValueError):
    """The user can fix this: a wrong option, a missing file, data that cannot be read."""


class PlanError(UserError):
    """The recipe cannot be run on this topology."""

    def __init__(self, code: str, message: str):
        """
        Args:
            code: the code of the linter's finding, such as "reference-missing".
            message: what is wrong, naming the field, and what would be right.
        """
        super().__init__(message)
        self.code = code


def shorten(value: object, limit: int = 80) -> str:
    """How a value is written in Python, with the middle left out if that is longer than `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[-limit // 4 :]}"


def one_line(error: BaseException, limit: int = 300) -> str:
    """The error's text without line breaks, at most `limit` characters; the name of its type if it has no text."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
