"""Predictions of whole runs, for tests."""

from __future__ import annotations
