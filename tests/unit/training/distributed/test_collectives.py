"""What NCCL must be told; on stand-ins for torch.distributed. Collectives of real ranks are in tests/distributed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from warmup.training.distributed import collectives


@pytest.mark.parametrize(("backend", "devices"), [("nccl", [3]), ("cuda:nccl,cpu:gloo", [3]), ("gloo", None)])
def test_the_barrier_names_its_gpu(backend: str, devices: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL would guess it from the rank, with a warning, and the guess is wrong where a rank has another GPU. CPU ranks
    must not ask for one: that would open a context on it.
    """
    waited: list[list[int] | None] = []
    group = dict(is_available=lambda: True, is_initialized=lambda: True, get_backend=lambda: backend)
    monkeypatch.setattr(
        collectives, "dist", SimpleNamespace(barrier=lambda device_ids: waited.append(device_ids), **group)
    )
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3 if "nccl" in backend else pytest.fail("a context"))
    collectives.barrier()
    assert waited == [devices]
