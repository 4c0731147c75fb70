"""Loss and gradients of a model that computes only what is read, against transformers' own computation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import MicroBatch, sequence_targets, to_device, token_targets
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.models.partial_forward import install_partial_forward
from warmup.training.tasks.losses import cross_entropy_sum

WORDS = 120
HEADS = {"MaskedLM": "token", "SequenceClassification": "sequence", "TokenClassification": "token"}
LENGTHS = torch.tensor([3, 9, 30, 7, 12, 5, 22, 18])


def ragged(net: transformers.PreTrainedModel, kind: str, lengths_B: torch.Tensor = LENGTHS) -> MicroBatch:
    """Eight samples, padded at their ends, of two texts each where the model can tell."""
    mask_BT = torch.arange(30) < lengths_B[:, None]
    ids_BT = torch.where(mask_BT, torch.randint(5, WORDS, (8, 30)), net.config.pad_token_id or 0)
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


class Products(TorchDispatchMode):
    """Notes the sizes of all products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.sizes.update(size for matrix in args[-2:] for size in matrix.shape)
        return func(*args, **(kwargs or {}))


def assert_equal_to_the_whole(
    net: transformers.PreTrainedModel,
    kind: str,
    packed: bool,
    masked_only: bool,
    lengths_B: torch.Tensor = LENGTHS,
    varlen: bool = False,
    static_max_length: int = 0,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Compare a model's loss and gradients with those of transformers' own forward pass on padded samples.

    Args:
        net: the model; is changed.
        kind: of its head, in HEADS.
        packed: as `install_partial_forward`, like the others that are not named here.
        masked_only: the same.
        lengths_B: of the eight samples, at most 30.
        varlen: the same.
        static_max_length: the same.

    Returns:
        Inputs as the model got them, and its logits.
    """
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
    own_reads = net.config.model_type == "deberta" or not layout.rows  # transformers' own code reads values
    assert reads.count == 0 or own_reads
    assert int((targets.values != IGNORE_INDEX).sum()) == batch.target_count
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    assert gradients.keys() == expected.keys() and len(gradients) > 10
    for weight, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[weight], rtol=1e-4, atol=1e-5, msg=weight)
    assert net(**batch.inputs).logits.shape == shape  # as it is once exported
    return inputs, logits
