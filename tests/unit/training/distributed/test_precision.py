"""Requests for mixed precision that would not train, or only slowly."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from warmup.errors import UserError
from warmup.training.distributed import environment, launch


@pytest.mark.parametrize("engine", ["DEEPSPEED", "FSDP"])
def test_fp16_is_for_whole_models_on_gpus(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment.check_fp16(on_cpu=True)  # fp16 is not requested
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    environment.check_fp16(on_cpu=False)
    with pytest.raises(UserError, match="mixed_precision: fp16 is for GPUs"):
        environment.check_fp16(on_cpu=True)
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(UserError, match="mixed_precision: fp16 is not supported with DeepSpeed or FSDP"):
        environment.check_fp16(on_cpu=False)


@pytest.mark.parametrize(("capabilities", "precision", "main", "warned"), [
    ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, "bf16", True, True),
    ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, "bf16", False, False),
    ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, "no", True, False),
    ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, "bf16", True, False),
    ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, "bf16", True, False),
    ({"architecture": "aarch64"}, "bf16", True, False),
])  # fmt: skip
def test_bf16_on_a_processor_without_it(
    capabilities: dict, precision: str, main: bool, warned: bool, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    launch._warn_of_slow_bf16(SimpleNamespace(mixed_precision=precision, is_main_process=main))
    assert capsys.readouterr().err.startswith("warning: mixed_precision: without AVX512-BF16") == warned
