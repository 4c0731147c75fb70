"""The head that is computed only where something is asked gives what the dense one gives."""

from __future__ import annotations

import pytest
import torch
import transformers

from warmup.training import model, tasks

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


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_equal_the_dense_heads(name: str) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**MODELS[name])
    net = getattr(transformers, f"{name}ForMaskedLM")(config).eval()
    ids_BT = torch.randint(5, WORDS, (4, 16))
    targets_BT = torch.where(torch.rand(4, 16) < 0.2, ids_BT, tasks.IGNORED)
    asked = int((targets_BT != tasks.IGNORED).sum())
    batch = tasks.MicroBatch({"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}, targets_BT, asked, 64)

    dense = tasks.loss_sum(net(**batch.inputs).logits, targets_BT)
    dense.backward()
    expected = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    net.zero_grad()

    model.head_only_where_asked(net)
    inputs, targets = tasks.on_device(batch, torch.device("cpu"))
    logits = net(**inputs).logits
    loss = tasks.loss_sum(logits, targets)
    loss.backward()
    found = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]

    assert logits.shape == (asked, WORDS)
    assert loss.item() == pytest.approx(dense.item(), rel=1e-6)
    assert len(found) == len(expected) > 10
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert net(**batch.inputs).logits.shape == (4, 16, WORDS)  # as it is once exported


def test_a_batch_in_which_nothing_is_asked_has_no_gradient() -> None:
    net = transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)).eval()
    model.head_only_where_asked(net)
    ids_BT = torch.randint(5, WORDS, (2, 8))
    batch = tasks.MicroBatch({"input_ids": ids_BT}, ids_BT, 16, 16)
    inputs, targets = tasks.on_device(tasks.weightless(batch), torch.device("cpu"))
    loss = tasks.loss_sum(net(**inputs).logits, targets)
    loss.backward()
    assert float(loss.detach()) == 0.0
    # All parameters take part, so that ranks that wait for each other's gradients do not wait for ever.
    unused = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    assert unused == set()
    assert max(float(parameter.grad.abs().max()) for parameter in net.parameters()) == 0.0
