"""Models have the published sizes, are the same on every rank, and are refused if they do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import make_tokenizer
from model_families import small_config
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    RobertaConfig,
    RobertaModel,
    pipeline,
)

from warmup.config import Config
from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data.tokenizers.load import load_tokenizer
from warmup.training.models import build as model_build
from warmup.training.reporting.export import export_model
from warmup.training.tasks import create_task

VOCABULARY = 200
LABELS = ("bad", "good", "so so")


def build(name: object, tokenizer: BertTokenizerFast, **changes: object):
    fields = {"auto_class": AutoModelForMaskedLM, "max_length": 32, "seed": 0, **changes}
    return model_build.build_model(model_build.ModelSpec(str(name), **fields), tokenizer)


def classifier(name: object, tokenizer: BertTokenizerFast, **changes: object):
    fields = {"labels": LABELS, "problem_type": "single_label_classification", **changes}
    return build(name, tokenizer, auto_class=AutoModelForSequenceClassification, **fields)


def regression(name: object, tokenizer: BertTokenizerFast, **changes: object):
    return classifier(name, tokenizer, problem_type="regression", has_classes=False, **changes)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, tokenizer: BertTokenizerFast) -> Path:
    """The folder of a masked language model."""
    folder = tmp_path_factory.mktemp("pretrained")
    build("tiny", tokenizer, seed=3)[0].save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# Millions of parameters, as published: Turc et al. 2019 (arXiv:1908.08962), table 1; large: Devlin et al. 2018,
# section 3. Within 2%, since these do not say whether a head is counted.
@pytest.mark.parametrize(("size", "layers", "width", "heads", "millions"), [
    ("tiny", 2, 128, 2, 4.4), ("mini", 4, 256, 4, 11.3), ("small", 4, 512, 8, 29.1), ("medium", 8, 512, 8, 41.7),
    ("base", 12, 768, 12, 110.1), ("large", 24, 1024, 16, 340),
])  # fmt: skip
def test_the_published_sizes(size: str, layers: int, width: int, heads: int, millions: float) -> None:
    config = model_build._new_bert_config(size, make_tokenizer(30522), 128)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (layers, width, heads)
    with torch.device("meta"):
        encoder = BertModel(config)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    # embeddings of words, 512 positions, 2 segments; 12 d^2 + 13 d per layer; pooler
    d = width
    by_hand = (30522 + 512 + 2 + 2) * d + layers * (12 * d * d + 13 * d) + d * d + d
    assert count == by_hand
    assert count / 1e6 == pytest.approx(millions, rel=0.02)


def test_tiny_has_4_4_million_parameters() -> None:
    encoder = build("tiny", make_tokenizer(30522))[0].bert  # without pooler, which no masked language model has
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 4_369_408


def test_the_same_seed_gives_the_same_weights(tokenizer: BertTokenizerFast) -> None:
    first, new = build("tiny", tokenizer, seed=5)
    torch.rand(17)  # the state of the generator must not matter
    second, _ = build("tiny", tokenizer, seed=5)
    other, _ = build("tiny", tokenizer, seed=6)
    assert new == ["all"]
    for (name, one), two in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert not torch.equal(first.bert.embeddings.word_embeddings.weight, other.bert.embeddings.word_embeddings.weight)


def test_the_new_head_of_a_pretrained_model_is_the_same_on_every_rank(
    pretrained: Path, tokenizer: BertTokenizerFast
) -> None:
    first, new = classifier(pretrained, tokenizer, seed=5)
    torch.rand(17)
    second, _ = classifier(pretrained, tokenizer, seed=5)
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    assert torch.equal(first.bert.pooler.dense.weight, second.bert.pooler.dense.weight)
    assert not torch.equal(first.classifier.weight, classifier(pretrained, tokenizer, seed=6)[0].classifier.weight)
    assert new == ["bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight"]
    saved = load_file(pretrained / "model.safetensors")
    for name, tensor in first.bert.encoder.state_dict().items():
        assert torch.equal(tensor, saved[f"bert.encoder.{name}"]), name


@pytest.mark.parametrize("setting", [name for facts in TASKS.values() for name in facts.model_settings])
def test_what_another_run_chose_is_not_handed_on(
    setting: str, pretrained: Path, tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    """A run that chooses no thresholds would export those of the run that its model is from."""
    config = json.loads((pretrained / "config.json").read_text())
    shutil.copytree(pretrained, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, setting: 0.25}))
    assert setting not in build(tmp_path / "model", tokenizer)[0].config.to_dict()


def test_nothing_is_new_in_a_folder_of_the_same_task(pretrained: Path, tokenizer: BertTokenizerFast) -> None:
    model, new = build(pretrained, tokenizer)
    assert new == []
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("make", [build, classifier])
@pytest.mark.parametrize("source", ["new", "pretrained"])
def test_dropout_reaches_every_module(make, source: str, pretrained: Path, tokenizer: BertTokenizerFast) -> None:
    name = "tiny" if source == "new" else pretrained
    for given, expected in ((0.0, 0.0), (0.3, 0.3), (None, 0.1)):
        model, _ = make(name, tokenizer, dropout=given)
        rates = {path: module.p for path, module in model.named_modules() if isinstance(module, nn.Dropout)}
        attention = [path for path in rates if "attention" in path]
        assert len(rates) == 1 + 2 * 3 + (make is classifier) and len(attention) == 2 * 2
        assert set(rates.values()) == {expected}, rates
        # The rate that an attention kernel is given is not a module's.
        kernels = [module.dropout for module in model.modules() if type(module).__name__ == "BertSelfAttention"]
        assert {getattr(kernel, "p", kernel) for kernel in kernels} == {expected}


def test_dropout_of_zero_is_no_randomness(tokenizer: BertTokenizerFast) -> None:
    inputs = {"input_ids": torch.arange(5, 25)[None]}
    for dropout, same in ((0.0, True), (0.1, False)):
        model = build("tiny", tokenizer, dropout=dropout)[0].train()
        assert torch.equal(model(**inputs).logits, model(**inputs).logits) == same


def test_labels_are_kept(tokenizer: BertTokenizerFast, tmp_path: Path, pretrained: Path) -> None:
    for name in ("tiny", pretrained):
        model, _ = classifier(name, tokenizer)
        assert model.classifier.out_features == 3
        model.save_pretrained(tmp_path / "saved")
        config = BertConfig.from_pretrained(tmp_path / "saved")
        assert config.id2label == {0: "bad", 1: "good", 2: "so so"}
        assert config.label2id == {"bad": 0, "good": 1, "so so": 2}
    # Another set of labels than the folder's: a new head, not an error.
    model, new = classifier(tmp_path / "saved", tokenizer, labels=("x", "y"))
    assert model.config.id2label == {0: "x", 1: "y"} and model.classifier.out_features == 2
    assert new == ["classifier.bias", "classifier.weight"]


# Errors


def copy_of(folder: Path, target: Path, keep) -> Path:
    """A copy of the folder with only those weights whose name `keep` accepts."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    weights = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if keep(name)}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_an_encoder_without_its_weights(pretrained: Path, tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    folder = copy_of(pretrained, tmp_path / "a", lambda name: ".layer.1." not in name)
    with pytest.raises(UserError, match=r"^model: .* lacks weights of its encoder, bert.encoder.layer.1.* and 15 more"):
        classifier(folder, tokenizer)
    other = BertConfig.from_pretrained(pretrained)
    other.intermediate_size = 100
    other.save_pretrained(copy_of(pretrained, tmp_path / "b", lambda name: True))
    with pytest.raises(UserError, match="lacks weights of its encoder, .*intermediate"):  # shapes that do not fit
        build(tmp_path / "b", tokenizer)


def test_a_head_that_is_missing_is_listed(pretrained: Path, tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    folder = copy_of(pretrained, tmp_path / "a", lambda name: not name.startswith("cls.predictions.transform"))
    _, new = build(folder, tokenizer)
    assert new == [f"cls.predictions.transform.{part}" for part in (
        "LayerNorm.bias", "LayerNorm.weight", "dense.bias", "dense.weight"
    )]  # fmt: skip


def test_folders_that_hold_no_model(pretrained: Path, tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model: no folder .*nowhere; give a folder, a hub name, or one of tiny, "):
        build(tmp_path / "nowhere", tokenizer)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^model: .*empty cannot be loaded: .*; sizes are tiny, mini"):
        build(tmp_path / "empty", tokenizer)
    without = copy_of(pretrained, tmp_path / "without", lambda name: True)
    (without / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"^model: the weights of .*without cannot be loaded: [^\n]+$"):
        build(without, tokenizer)
    (without / "model.safetensors").write_bytes((pretrained / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"^model: the weights of .*without cannot be loaded: [^\n]+$"):
        build(without, tokenizer)


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/outside.safetensors", "a/../../outside.safetensors"])
def test_an_index_that_names_files_outside_its_folder(
    shard: str, pretrained: Path, tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    folder = copy_of(pretrained, tmp_path / "model", lambda name: True)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"^model: .*index.json names '.*outside.safetensors', which is outside its "):
        build(folder, tokenizer)
    (folder / "part.safetensors").write_bytes((tmp_path / "outside.safetensors").read_bytes())
    (folder / "model.safetensors.index.json").write_text(json.dumps(index).replace(shard, "part.safetensors"))
    assert build(folder, tokenizer)[1] == []


def test_more_tokens_than_embeddings(pretrained: Path) -> None:
    with pytest.raises(UserError, match=r"has 200 word embeddings, its tokenizer 201 tokens"):
        build(pretrained, make_tokenizer(VOCABULARY + 1))
    build(pretrained, make_tokenizer(VOCABULARY - 1))  # padded embeddings are usual


def test_more_tokens_than_positions(pretrained: Path, tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    assert build(pretrained, tokenizer, max_length=512)[1] == []
    with pytest.raises(UserError, match=r"^data.max_length: 513 is more than the 512 positions of"):
        build(pretrained, tokenizer, max_length=513)
    long, _ = build("tiny", tokenizer, max_length=600)
    assert long.bert.embeddings.position_embeddings.num_embeddings == 600
    # RoBERTa's positions begin at 2.
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    RobertaModel(RobertaConfig(vocab_size=VOCABULARY, max_position_embeddings=34, **sizes)).save_pretrained(tmp_path)
    model, _ = build(tmp_path, tokenizer, max_length=32)
    ids = torch.full((1, 32), 5)
    assert model(ids).logits.shape == (1, 32, VOCABULARY)
    with pytest.raises(UserError, match=r"^data.max_length: 33 is more than the 32 positions"):
        build(tmp_path, tokenizer, max_length=33)


def test_tokenizers_that_cannot_be_used(tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "good")
    assert load_tokenizer(str(tmp_path / "good"), "model").get_vocab() == tokenizer.get_vocab()
    with pytest.raises(UserError, match=r"^data.tokenizer: no folder \./nowhere"):
        load_tokenizer("./nowhere", "data.tokenizer")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^model: .*empty has no tokenizer that can be loaded: [^\n]+$"):
        load_tokenizer(str(tmp_path / "empty"), "model")
    bare = make_tokenizer()
    bare.sep_token = None
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match=r"not a fast one with \[CLS\], \[SEP\] and \[PAD\]"):
        load_tokenizer(str(tmp_path / "bare"), "model")


def test_names_of_sizes() -> None:
    names = ("tiny", "large", "bert-base-uncased", "./tiny", "Tiny")
    assert [name for name in names if model_build.is_new_model(name)] == ["tiny", "large"]


def test_a_head_for_other_classes_is_drawn_anew(tmp_path: Path, tokenizer: BertTokenizerFast) -> None:
    """The same number of classes does not mean the same classes: a head that is kept would silently mix them up."""
    folder = tmp_path / "classifier"
    before, _ = classifier("tiny", tokenizer, labels=("ham", "spam"))
    before.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    def again(*labels: str):
        return classifier(folder, tokenizer, labels=labels, seed=5)

    kept, new = again("Ham", "Spam")
    assert new == [] and torch.equal(kept.classifier.weight, before.classifier.weight)
    other, new = again("ok", "toxic")
    assert new == ["classifier.weight", "classifier.bias"]
    assert not torch.equal(other.classifier.weight, before.classifier.weight)
    assert torch.equal(other.bert.embeddings.word_embeddings.weight, before.bert.embeddings.word_embeddings.weight)
    assert other.config.problem_type == "single_label_classification"


def test_a_head_of_one_output_is_kept_and_another_is_drawn_anew(tmp_path: Path, tokenizer: BertTokenizerFast) -> None:
    def save(name: str, make, *labels: str):
        model, _ = make("tiny", tokenizer, labels=labels)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return model

    before = save("similarity", regression, "similarity")
    save("classifier", classifier, "ham", "spam")
    # What the one number is called makes no difference.
    kept, new = regression(tmp_path / "similarity", tokenizer, labels=("value",), seed=5)
    assert new == [] and torch.equal(kept.classifier.weight, before.classifier.weight)
    for model, new in (
        regression(tmp_path / "classifier", tokenizer, labels=("value",), seed=5),
        regression("tiny", tokenizer, labels=("value",)),
    ):
        assert model.classifier.weight.shape == (1, 128) and new
        assert (model.config.problem_type, model.config.num_labels) == ("regression", 1)
    _, new = classifier(tmp_path / "similarity", tokenizer, labels=("ham", "spam"), seed=5)
    assert new == ["classifier.bias", "classifier.weight"]


@pytest.mark.parametrize("task", ["multiple-choice", "question-answering"])
def test_a_head_without_classes_is_kept_whatever_its_outputs_are_called(
    task: str, tmp_path: Path, tokenizer: BertTokenizerFast
) -> None:
    """As models on the hub call them, whose configs tell of two or more labels that are none."""
    kind = create_task(Config(task=task))
    labels = kind.find_labels([], [])
    fields = {"labels": tuple(labels), "has_classes": kind.facts.has_classes, "auto_class": kind.auto_class}
    before, _ = build("tiny", tokenizer, **fields)
    before.config.id2label = {0: "wrong", 1: "right"}
    before.save_pretrained(tmp_path)
    kept, new = build(tmp_path, tokenizer, **fields, seed=5)
    heads = [dict(model.named_children()) for model in (before, kept)]
    name = "classifier" if task == "multiple-choice" else "qa_outputs"
    assert new == [] and torch.equal(*(head[name].weight for head in heads))


def test_a_model_with_one_token_type_gets_no_token_type_ids(tmp_path: Path) -> None:
    """Nor does its pipeline: a pair's second text would have a type that it has no embedding for."""
    config = small_config("roberta", type_vocab_size=1)
    RobertaModel(config).save_pretrained(tmp_path / "base")
    tokenizer = make_tokenizer()
    assert "token_type_ids" in tokenizer.model_input_names
    model, _ = classifier(tmp_path / "base", tokenizer)
    assert "token_type_ids" not in tokenizer.model_input_names
    folder = export_model(tmp_path, model, tokenizer, "# A model")
    pair = pipeline("text-classification", model=str(folder))({"text": "w1", "text_pair": "w2"})
    logits = model.eval()(**tokenizer("w1", "w2", return_tensors="pt")).logits[0]
    assert pair == {"label": LABELS[int(logits.argmax())], "score": pytest.approx(logits.softmax(0).max().item())}


@pytest.mark.parametrize("load", [model_build.load_config, lambda name: load_tokenizer(name, "model")])
def test_without_a_network_it_says_so_and_not_that_something_is_missing(load) -> None:
    """HF_HUB_OFFLINE is set in tests."""
    with pytest.raises(
        UserError, match=r"^model: there is no folder nobody/nothing, so that it would have to be downloaded, and hugg"
    ):
        load("nobody/nothing")
