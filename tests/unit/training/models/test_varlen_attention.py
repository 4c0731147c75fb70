"""Attention by a kernel that is told where samples begin. The kernel needs a GPU: here a slow one is in its place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import make_tokenizer
from transformers import AutoModelForMaskedLM

from warmup.errors import UserError
from warmup.training.models import build as model_build
from warmup.training.models import varlen_attention
from warmup.training.models.input_layout import choose_varlen, describe_attention
from warmup.training.models.partial_forward import install_partial_forward

CPU = torch.device("cpu")


def test_the_operator_takes_what_it_is_given_and_has_a_gradient() -> None:
    """By its shapes alone, as there is no GPU: fewer queries than keys, offsets, dropout."""
    query, key, value = (
        torch.randn(places, 2, 64, dtype=torch.bfloat16, device="meta", requires_grad=True) for places in (10, 30, 30)
    )
    offsets = torch.empty(5, dtype=torch.int32, device="meta")
    out = varlen_attention.kernel(query, key, value, offsets, offsets, 9, 0.1)
    out.sum().backward()
    assert out.shape == query.shape and out.dtype == torch.bfloat16
    assert query.grad.shape == query.shape and key.grad.shape == value.grad.shape == key.shape


def test_its_stand_in_is_attention_sample_by_sample() -> None:
    torch.manual_seed(0)
    asked, lengths = [2, 1, 3], [5, 1, 9]
    query, key, value = (torch.randn(places, 2, 8) for places in (6, 15, 15))
    found = varlen_attention.masked_attention(
        query, key, value, varlen_attention._cu_seqlens(asked), varlen_attention._cu_seqlens(lengths), 9, 0.0
    )
    parts = zip(query.split(asked), key.split(lengths), value.split(lengths), strict=True)
    every = [F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in part)).transpose(0, 1) for part in parts]
    torch.testing.assert_close(found, torch.cat(every))


def blind(query, key, value, query_offsets, key_offsets, longest, dropout):
    """Looks beyond the sample."""
    whole = (torch.tensor([0, len(x)], dtype=torch.int32) for x in (query, key))
    return varlen_attention.masked_attention(query, key, value, *whole, longest, dropout)


def steadfast(*args):
    """Drops nothing."""
    return varlen_attention.masked_attention(*args[:-1], 0.0)


def test_the_kernel_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    for kernel, wrong in (
        (varlen_attention.masked_attention, None),
        (blind, "numbers are not those"),
        (steadfast, "dropout"),
    ):
        monkeypatch.setattr(varlen_attention, "kernel", kernel)
        said = varlen_attention._why_wrong(CPU, 2, 64, False)
        assert said is None if wrong is None else wrong in said


def test_why_it_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert varlen_attention.why_unsupported(CPU, "bf16", 2, 64, False) == "there is no kernel for cpu"
    gpu = torch.device("cuda", 0)
    assert "precision 'no'" in varlen_attention.why_unsupported(gpu, "no", 2, 64, False)

    def fail(*args: object) -> None:
        raise RuntimeError("not built in\nC++ stack")

    for capability, size, why in (
        ((7, 5), 64, "the GPU is older than Ampere"),
        ((9, 0), 60, "heads of 60 are not a multiple of 8 up to 256"),
        ((9, 0), 64, "the kernel fails: not built in"),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        monkeypatch.setattr(varlen_attention, "_why_wrong", fail)
        assert varlen_attention.why_unsupported(gpu, "bf16", 2, size, False) == why
    monkeypatch.setattr(varlen_attention, "_why_wrong", lambda *args: None)
    assert varlen_attention.why_unsupported(gpu, "bf16", 2, 64, False) is None


def tiny() -> torch.nn.Module:
    return model_build.build_model("tiny", AutoModelForMaskedLM, make_tokenizer(), 64, None, (), 0)[0]


def test_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny()
    assert not choose_varlen(net, True, False, "auto", CPU, "bf16")
    with pytest.raises(UserError, match=r"^speed.attention: varlen cannot be: there is no kernel for cpu; use auto$"):
        choose_varlen(net, True, False, "varlen", CPU, "bf16")
    monkeypatch.setattr(varlen_attention, "why_unsupported", lambda *args: None)
    assert [choose_varlen(net, True, False, wanted, CPU, "bf16") for wanted in ("auto", "varlen", "mask")] == [
        True, True, False
    ]  # fmt: skip
    with pytest.raises(UserError, match="samples are not packed in rows"):
        choose_varlen(net, False, False, "varlen", CPU, "bf16")


def test_the_model_is_transformers_own_where_it_is_told_of_no_offsets(tmp_path) -> None:
    net = tiny().eval()
    ids, mask = torch.randint(5, 200, (2, 12)), torch.ones(2, 12, dtype=torch.long)
    mask[1, 7:] = 0
    before = net(ids, attention_mask=mask).logits
    reading = install_partial_forward(net, True, packs=True, masked_only=True, varlen=True)
    assert "FlashAttention" in describe_attention(net, reading)
    assert torch.equal(net(ids, attention_mask=mask).logits, before)
    net.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa" and "varlen" not in (tmp_path / "config.json").read_text()
