"""Causal language models: a token attends only to those before it in its sample, whether samples are packed or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import make_tokenizer
from made_samples import samples
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, GPT2Config, GPT2TokenizerFast

from warmup.config import Config
from warmup.errors import UserError
from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import to_device, zero_weight
from warmup.training.data.tokenizers.load import load_tokenizer
from warmup.training.engines.optimizers import lr_multipliers
from warmup.training.engines.sparse_embedding import sparse_embedding_grad
from warmup.training.models import build as model_build
from warmup.training.models.flops import useful_flops
from warmup.training.models.partial_forward import install_partial_forward
from warmup.training.tasks import Objective, create_task

WORDS = 120
SMALL = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 64, "pad_token_id": None}
OWN = {
    "GPT2": {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 1},
    "OPT": {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 1},
    "Mistral": {**SMALL, "num_key_value_heads": 2, "sliding_window": 4},
}
LENGTHS = torch.tensor([3, 9, 30, 7, 12, 5, 22, 18])


def network(name: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(getattr(transformers, f"{name}Config")(**OWN.get(name, SMALL))).eval()


def end_tokenizer(size: int = WORDS) -> GPT2TokenizerFast:
    vocabulary = {"<|endoftext|>": 0} | {f"w{number}": number for number in range(1, size)}
    return GPT2TokenizerFast(vocab=vocabulary, merges=[])


def objective() -> Objective:
    return create_task(Config(task="clm")).objective(end_tokenizer(), (), None)


def build(name: object, tokenizer: object = None, **changes: object):
    spec = model_build.ModelSpec(
        str(name), AutoModelForCausalLM, causal=True, **{"max_length": 32, "seed": 0, **changes}
    )
    return model_build.build_model(spec, tokenizer or end_tokenizer())


def backward(net: transformers.PreTrainedModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    net.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters()}


def assert_equal_to_one_by_one(
    name: str, packed: bool, masked_only: bool, lengths_B: torch.Tensor = LENGTHS
) -> tuple[dict[str, torch.Tensor | int], torch.Tensor]:
    """Compare a batch with its samples computed one by one, by transformers' own loss, which shifts the targets itself.

    Returns:
        The inputs of the model for the batch, and its logits.
    """
    net = network(name)
    rows = [torch.randint(2, WORDS, (length,)) for length in lengths_B.tolist()]
    whole = sum(net(input_ids=row[None], labels=row[None]).loss * (len(row) - 1) for row in rows)
    expected = backward(net, whole)

    indices, clm = np.arange(len(rows)), objective()
    batch = clm.collate(samples([row.tolist() for row in rows]), indices, indices, 0)
    assert batch.target_count == int((lengths_B - 1).sum()) and batch.token_count == int(lengths_B.sum())
    layout = install_partial_forward(net, "token", packed, masked_only)
    inputs, targets = to_device(lay_out(batch, layout), torch.device("cpu"))
    output = net(**inputs)
    loss = clm.losses(output.logits, targets).sum()
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    for weight, gradient in backward(net, loss).items():
        torch.testing.assert_close(gradient, expected[weight], rtol=1e-4, atol=1e-5, msg=weight)
    assert output.get("past_key_values") is None  # nothing is kept for tokens that will not come
    assert net(input_ids=rows[0][None]).get("past_key_values") is None
    assert net(input_ids=rows[0][None], use_cache=True).past_key_values is not None  # as generation asks for it
    return inputs, output.logits


@pytest.mark.parametrize("masked_only", [True, False], ids=["read", "dense"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("name", ["GPT2", "Llama", "GPTNeoX"])
def test_packed_and_padded(name: str, packed: bool, masked_only: bool) -> None:
    inputs, logits = assert_equal_to_one_by_one(name, packed, masked_only)
    assert tuple(inputs["input_ids"].shape) == ((2, 54) if packed else (8, 30))
    assert logits.shape[:-1].numel() == (98 if masked_only else inputs["input_ids"].numel())


@pytest.mark.parametrize("name", ["OPT", "Mistral", "Bloom"])
def test_other_architectures_are_padded(name: str) -> None:
    """Their attention or their position ids do not support several samples in a row."""
    inputs, logits = assert_equal_to_one_by_one(name, packed=True, masked_only=True)
    assert tuple(inputs["input_ids"].shape) == (8, 30) and logits.shape[:-1].numel() == 98


@pytest.mark.parametrize("name", ["GPT2", "Llama"])
def test_rows_of_one_full_sample_need_no_mask(name: str) -> None:
    """Attention is causal anyway; but a single shorter sample makes a mask necessary."""
    lengths_B = torch.full((8,), 30)
    inputs, _ = assert_equal_to_one_by_one(name, True, True, lengths_B)
    assert "attention_mask" not in inputs and tuple(inputs["input_ids"].shape) == (8, 30)
    lengths_B[3] = 29
    inputs, _ = assert_equal_to_one_by_one(name, True, True, lengths_B)
    assert tuple(inputs["attention_mask"].shape) == (8, 1, 30, 30)


def test_a_batch_without_targets_has_no_gradient() -> None:
    net, clm = network("GPT2"), objective()
    batch = clm.collate(samples([[1, 5, 6], [1, 9]]), np.arange(2), np.arange(2), 0)
    layout = install_partial_forward(net, "token", packed=True, masked_only=True)
    inputs, targets = to_device(zero_weight(lay_out(batch, layout)), torch.device("cpu"))
    loss = clm.losses(net(**inputs).logits, targets).sum()
    assert loss.item() == 0 and max(float(grad.abs().max()) for grad in backward(net, loss).values()) == 0


def test_targets_and_metrics() -> None:
    clm = objective()
    batch = clm.collate(samples([[0, 7, 8, 0], [0, 9]]), np.arange(2), np.arange(2), 0)
    assert batch.inputs["input_ids"].tolist() == [[0, 7, 8, 0], [0, 9, 0, 0]]
    assert batch.positions_N.tolist() == [0, 1, 2, 4] and batch.sample_ids_N.tolist() == [0, 0, 0, 1]
    assert batch.targets.tolist() == [7, 8, 0, 9]
    logits = torch.zeros(2, 4, 10)
    logits[0, 0, 7] = logits[0, 1, 1] = np.log(10)  # the right one of 10 at 10 to 1, a wrong one, and twice none
    logits_NV, targets = logits.flatten(0, 1)[batch.positions_N], to_device(batch, torch.device("cpu"))[1]
    result = clm.metrics(float(clm.losses(logits_NV, targets).sum()), clm.results(logits_NV, targets))
    loss = (np.log(19 / 10) + np.log(19) + 2 * np.log(10)) / 4
    assert (result["targets"], result["accuracy"]) == (4, 0.5)  # of equals the first, token 0, is taken
    assert (result["loss"], result["perplexity"]) == pytest.approx((loss, np.exp(loss)), rel=1e-6)


# Models


@pytest.mark.parametrize(("size", "layers", "width", "heads"), [("tiny", 2, 128, 2), ("base", 12, 768, 12)])
def test_a_new_model_is_a_gpt2(size: str, layers: int, width: int, heads: int) -> None:
    with torch.device("meta"):
        built, new = build(size, max_length=2000)
    config = built.config
    assert (config.n_layer, config.n_embd, config.n_head, config.n_positions) == (layers, width, heads, 2000)
    assert (config.bos_token_id, config.eos_token_id, config.vocab_size, new) == (0, 0, WORDS, ["all"])
    # 12 d^2 + 13 d a layer, embeddings of words and positions, the last norm (Radford et al. 2019); a tied head
    count = sum(parameter.numel() for parameter in built.parameters())
    assert count == layers * (12 * width**2 + 13 * width) + (WORDS + 2000) * width + 2 * width


def test_dropout_reaches_every_module() -> None:
    for rate in (0.0, 0.3):
        built, _ = build("tiny", dropout=rate)
        rates = [module.p for module in built.modules() if isinstance(module, torch.nn.Dropout)]
        assert set(rates) == {rate} and len(rates) == 7


def test_a_saved_model_and_tokenizer_are_loaded(tmp_path: Path) -> None:
    built, _ = build("tiny", seed=3)
    built.save_pretrained(tmp_path)
    end_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), "model", needs="eos")
    again, new = build(tmp_path, tokenizer)
    assert new == []
    for name, tensor in built.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    with pytest.raises(UserError, match=r"model: the tokenizer of .* is not a fast one with \[CLS\], \[SEP\] and"):
        load_tokenizer(str(tmp_path), "model")


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=9)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="sees the tokens that it is to predict; task: clm needs one that reads from"):
        build(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"data.tokenizer: the tokenizer of .* a token that ends a text \(eos\)"):
        load_tokenizer(str(tmp_path), "data.tokenizer", needs="eos")


def test_layers_have_their_depth_and_the_tied_embedding_is_exchanged_whole() -> None:
    built, _ = build("tiny")
    multipliers = lr_multipliers(built, 0.5, ())
    result = {
        name: multiplier
        for name, multiplier in multipliers.items()
        if name.endswith(("wte.weight", "wpe.weight", "ln_1.bias", "f.bias"))
    }
    assert result == {
        "transformer.wte.weight": 0.125,
        "transformer.wpe.weight": 0.125,
        "transformer.h.0.ln_1.bias": 0.25,
        "transformer.h.1.ln_1.bias": 0.5,
        "transformer.ln_f.bias": 1.0,
    }
    multipliers = lr_multipliers(network("Llama"), 0.5, ())
    names = ("model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight")
    assert [multipliers[name] for name in names] == [0.125, 0.5, 1.0, 1.0]
    assert sparse_embedding_grad(built, torch.device("cpu")) is None


def test_useful_flops_are_those_that_torch_counts_without_masked_attention() -> None:
    """torch.utils.flop_counter counts all pairs of tokens, though those above the diagonal are not needed."""
    config = GPT2Config(vocab_size=500, n_embd=64, n_layer=2, n_head=2, n_positions=32, attn_pdrop=0.0)
    net = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter:
        net(torch.randint(5, 500, (4, 32))).logits.sum().backward()
    ours = useful_flops(config, np.full(4, 32), 4 * 32, 500)
    masked_pairs = 3 * 2 * 4 * 64 * 4 * (32 * 31 / 2)
    assert counter.get_total_flops() == pytest.approx(ours + masked_pairs, rel=1e-6)
