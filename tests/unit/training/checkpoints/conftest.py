"""What the tests of this folder have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from warmup.training.checkpoints import run_directory


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    """Release the run directories that a test has claimed."""
    yield
    while run_directory._held:
        run_directory._held.pop().release()
