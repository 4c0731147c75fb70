"""What is true of each task and needs no library to say."""

from __future__ import annotations

LANGUAGE_TASKS = ("mlm", "clm")
"""Tasks that learn from plain text, which needs no labels."""


CLASSIFIERS = ("classification", "token-classification")
"""Tasks whose labels are classes."""
