"""What is computed only where it is read, and packed: loss and gradients are those of transformers' own computation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import (
    MicroBatch,
    sequence_targets,
    to_device,
    token_targets,
    zero_weight,
)
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.models import varlen_attention
from warmup.training.models.partial_forward import install_partial_forward
from warmup.training.tasks.losses import cross_entropy_sum

WORDS = 120
SMALL = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 64}
MODELS = {
    "Bert": SMALL,
    "Roberta": SMALL,
    "Electra": {**SMALL, "embedding_size": 32},
    "Albert": {**SMALL, "embedding_size": 32},
    "DistilBert": {"vocab_size": WORDS, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
}


HEADS = {"MaskedLM": "token", "SequenceClassification": "sequence", "TokenClassification": "token"}
IN_ROWS = ("Bert", "Roberta", "Electra", "Camembert", "XLMRoberta")
LENGTHS = torch.tensor([3, 9, 30, 7, 12, 5, 22, 18])


def network(name: str, kind: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    padding = {"pad_token_id": 1} if "ober" in name or "ember" in name else {}
    config = getattr(transformers, f"{name}Config")(**MODELS.get(name, SMALL), **padding)
    return getattr(transformers, f"{name}For{kind}")(config).eval()


def ragged(net: transformers.PreTrainedModel, kind: str, lengths_B: torch.Tensor = LENGTHS) -> MicroBatch:
    """Eight samples, padded at their ends, of two texts each where the model can tell."""
    mask_BT = torch.arange(30) < lengths_B[:, None]
    ids_BT = torch.where(mask_BT, torch.randint(5, WORDS, (8, 30)), net.config.pad_token_id)
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT.long()}
    if getattr(net.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = ((torch.arange(30) > 2) & mask_BT).long()
    if HEADS[kind] == "sequence":
        return sequence_targets(inputs, torch.randint(0, 2, (8,)).numpy())
    predicted_BT = (torch.rand(8, 30) < 0.2) & mask_BT
    return token_targets(inputs, predicted_BT.numpy(), (ids_BT if kind == "MaskedLM" else ids_BT % 2).numpy())


def whole_loss(net: transformers.PreTrainedModel, kind: str, batch: MicroBatch) -> torch.Tensor:
    """The sum of the losses of a padded batch as transformers computes all logits."""
    logits = net(**batch.inputs).logits
    if HEADS[kind] == "token":
        logits = logits.flatten(0, 1)[batch.positions_N]
    return F.cross_entropy(logits, batch.targets, reduction="sum")


def backward(net: transformers.PreTrainedModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    net.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}


class HostReads(TorchDispatchMode):
    """Counts where the host reads a value of a tensor, for which it would wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def assert_equal_to_the_whole(
    name: str,
    kind: str,
    packed: bool,
    masked_only: bool,
    lengths_B: torch.Tensor = LENGTHS,
    varlen: bool = False,
    static_max_length: int = 0,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs as the model got them, and its logits."""
    net = network(name, kind)
    batch = ragged(net, kind, lengths_B)
    whole = whole_loss(net, kind, batch)
    expected = backward(net, whole)
    shape = net(**batch.inputs).logits.shape

    layout = install_partial_forward(net, HEADS[kind], packed, masked_only, varlen, static_max_length)
    laid_out = lay_out(batch, layout)
    with HostReads() as reads:
        inputs, targets = to_device(laid_out, torch.device("cpu"))
        logits = net(**inputs).logits
        loss = cross_entropy_sum(logits, targets)
        gradients = backward(net, loss)
    assert reads.count == 0 or not layout.rows  # transformers' own reads the mask
    assert int((targets.values != IGNORE_INDEX).sum()) == batch.target_count
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    assert gradients.keys() == expected.keys() and len(gradients) > 10
    for weight, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[weight], rtol=1e-4, atol=1e-5, msg=weight)
    assert net(**batch.inputs).logits.shape == shape  # as it is once exported
    return inputs, logits


@pytest.mark.parametrize("masked_only", [True, False], ids=["read", "dense"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", IN_ROWS)
def test_encoders_in_rows(name: str, kind: str, packed: bool, masked_only: bool) -> None:
    inputs, logits = assert_equal_to_the_whole(name, kind, packed, masked_only)
    assert tuple(inputs["input_ids"].shape) == ((2, 54) if packed else (8, 30))
    if packed:
        assert (inputs["position_ids"].min() == 0) == (name in ("Bert", "Electra"))
    count = logits.shape[:-1].numel()
    if HEADS[kind] == "sequence":
        assert count == 8
    else:
        assert count == (inputs["gather_index"].numel() if masked_only else 108 if packed else 240)


@pytest.mark.parametrize("static_max_length", [0, 31], ids=["tight", "static"])
@pytest.mark.parametrize("masked_only", [True, False], ids=["read", "dense"])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", IN_ROWS)
def test_encoders_in_one_row(
    name: str, kind: str, masked_only: bool, static_max_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With masked attention in place of the GPU's kernel. Some samples have no target."""
    monkeypatch.setattr(varlen_attention, "kernel", varlen_attention.masked_attention)
    inputs, logits = assert_equal_to_the_whole(
        name, kind, True, masked_only, varlen=True, static_max_length=static_max_length
    )
    assert "attention_mask" not in inputs
    assert tuple(inputs["input_ids"].shape) == (1, 112 if static_max_length else 106)
    assert inputs["cu_seqlens"].dtype == torch.int32 and int(inputs["cu_seqlens"].diff().min()) > 0
    assert inputs["cu_seqlens"].tolist()[:9] == [0, *LENGTHS.cumsum(0).tolist()]
    assert int(inputs["cu_seqlens"].diff().max()) <= inputs["max_seqlen"] == (static_max_length or 30)
    assert ("read_positions" in inputs) == (masked_only or HEADS[kind] == "sequence")
    if "read_positions" in inputs:
        assert int(inputs["read_cu_seqlens"].diff().min()) > 0  # a kernel may leave gradients of unread keys unwritten
        assert logits.shape[0] == inputs["read_positions"].numel() == int(inputs["read_cu_seqlens"][-1])


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("masked_only", [True, False], ids=["read", "dense"])
@pytest.mark.parametrize("kind", HEADS)
def test_encoders_in_rows_of_static_width(kind: str, masked_only: bool, packed: bool) -> None:
    inputs, _ = assert_equal_to_the_whole("Bert", kind, packed, masked_only, static_max_length=31)
    assert tuple(inputs["input_ids"].shape) == ((4, 32) if packed else (8, 32))
    assert "gather_index" not in inputs


@pytest.mark.parametrize("masked_only", [True, False], ids=["read", "dense"])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", IN_ROWS)
def test_rows_of_one_whole_sample_need_no_mask(name: str, kind: str, masked_only: bool) -> None:
    """Which is what allows the fastest attention; a single shorter sample needs one again."""
    lengths_B = torch.full((8,), 30)
    inputs, _ = assert_equal_to_the_whole(name, kind, True, masked_only, lengths_B)
    assert "attention_mask" not in inputs and tuple(inputs["input_ids"].shape) == (8, 30)
    lengths_B[3] = 29
    inputs, _ = assert_equal_to_the_whole(name, kind, True, masked_only, lengths_B)
    assert tuple(inputs["attention_mask"].shape) == (8, 1, 30, 30)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", ["Albert", "DistilBert"])
def test_other_encoders_are_padded(name: str, kind: str) -> None:
    inputs, _ = assert_equal_to_the_whole(name, kind, packed=True, masked_only=True)
    assert tuple(inputs["input_ids"].shape) == (8, 30)
    assert ("positions" in inputs) == (HEADS[kind] == "token")


@pytest.mark.parametrize("kind", HEADS)
def test_a_batch_without_targets_has_no_gradient(kind: str) -> None:
    """And all parameters take part, so that ranks that wait for each other's gradients do not wait for ever."""
    net = network("Bert", kind)
    batch = ragged(net, kind)
    layout = install_partial_forward(net, HEADS[kind], packed=True, masked_only=True)
    inputs, targets = to_device(zero_weight(lay_out(batch, layout)), torch.device("cpu"))
    loss = cross_entropy_sum(net(**inputs).logits, targets)
    gradients = backward(net, loss)
    assert float(loss.detach()) == 0.0
    assert gradients.keys() == {name for name, _ in net.named_parameters()}
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) == 0.0
