"""The exported folder: a normal Hugging Face model, written as a whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    MPNetConfig,
    MPNetModel,
    pipeline,
)

from warmup.errors import UserError
from warmup.training.data.tokenizers.load import with_model_max_length
from warmup.training.data.tokenizers.train import train_bpe
from warmup.training.models import build as model_build
from warmup.training.reporting.export import export_model

CLASSES = {
    "mlm": AutoModelForMaskedLM,
    "clm": AutoModelForCausalLM,
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
}


def small(task: str, tokenizer: BertTokenizerFast, labels: tuple[str, ...] = ()):
    spec = model_build.ModelSpec(
        "tiny",
        CLASSES[task],
        max_length=32,
        seed=0,
        labels=labels,
        problem_type="regression" if task == "regression" else "single_label_classification",
        causal=task == "clm",
    )
    return model_build.build_model(spec, tokenizer)[0]


def test_a_masked_language_model_in_a_pipeline(tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    model = small("mlm", tokenizer)
    folder = export_model(tmp_path, model, tokenizer, "# A model")
    assert folder == tmp_path / "model" and [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (folder / "README.md").read_text() == "# A model"
    loaded = AutoModelForMaskedLM.from_pretrained(folder)
    for (name, trained), again in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(trained, again), name
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()
    output = pipeline("fill-mask", model=str(folder), top_k=200)("w1 [MASK] w3")
    logits = model.eval()(**tokenizer("w1 [MASK] w3", return_tensors="pt")).logits[0, 2].detach()
    assert output[0]["token"] == int(logits.argmax())
    assert output[0]["score"] == pytest.approx(float(logits.softmax(0).max()), rel=1e-5)
    assert len({answer["token_str"] for answer in output}) == 200


def test_all_files_are_as_readable_as_the_umask_says(tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    folder = export_model(tmp_path, small("mlm", tokenizer), tokenizer, "# A model")
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {folder.stat().st_mode & 0o666}


def test_a_causal_language_model_generates_until_the_end_of_a_text(tmp_path: Path) -> None:
    tokenizer = train_bpe(datasets.Dataset.from_dict({"text": ["the cat sat on the mat"] * 5}), 270)
    model = small("clm", tokenizer)
    folder = export_model(tmp_path, model, tokenizer, "# A model")
    answer = pipeline("text-generation", model=str(folder))("the", max_new_tokens=4, do_sample=False, min_new_tokens=4)
    ids = tokenizer("the", return_tensors="pt")["input_ids"]
    for _ in range(4):
        logits = model.eval()(ids).logits[0, -1]
        logits[tokenizer.eos_token_id] = -torch.inf  # min_new_tokens excludes the end
        ids = torch.cat([ids, logits.argmax()[None, None]], 1)
    assert answer[0]["generated_text"] == tokenizer.decode(ids[0])
    settings = json.loads((folder / "generation_config.json").read_text())
    assert settings["eos_token_id"] == tokenizer.eos_token_id and settings.get("use_cache", True)


def test_a_classifier_in_a_pipeline_gives_the_labels_names(tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    labels = ("bad", "very good", "0")
    model = small("classification", tokenizer, labels)
    folder = export_model(tmp_path, model, tokenizer, "# A model")
    (output,) = pipeline("text-classification", model=str(folder), top_k=None)(["w1 w2"])
    scores = model.eval()(**tokenizer("w1 w2", return_tensors="pt")).logits[0].softmax(0).tolist()
    expected = dict(zip(labels, scores, strict=True))
    assert {answer["label"]: answer["score"] for answer in output} == pytest.approx(expected, rel=1e-5)
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "bad", "1": "very good", "2": "0"}
    pair = pipeline("text-classification", model=str(folder))({"text": "w1", "text_pair": "w2"})
    assert pair["label"] in labels


def test_a_regressor_in_a_pipeline_gives_its_value(tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    model = small("regression", tokenizer, ("value",))
    with torch.no_grad():
        model.classifier.bias.fill_(3.5)  # which neither a sigmoid nor a softmax gives
    folder = export_model(tmp_path, model, tokenizer, "# A model")
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert (loaded.config.problem_type, loaded.config.num_labels) == ("regression", 1)
    inputs = tokenizer("w1 w2", return_tensors="pt")
    expected = model.eval()(**inputs).logits.item()
    assert loaded.eval()(**inputs).logits.item() == expected
    for arguments in ({"function_to_apply": "none"}, {}):
        (output,) = pipeline("text-classification", model=str(folder), **arguments)(["w1 w2"])
        assert output == {"label": "value", "score": pytest.approx(expected, rel=1e-5)} and expected > 2


def test_a_tagger_in_a_pipeline_gives_the_words_tags(tmp_path: Path) -> None:
    """Each piece's tag, and entities by each word's first piece with the options of the model card."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "an", "##na", "lives", "in", "rio", "de", "."]
    tokenizer = BertTokenizerFast(vocab={piece: number for number, piece in enumerate(vocabulary)})
    labels = ("B-LOC", "B-PER", "I-LOC", "O")
    model = small("token-classification", tokenizer, labels)
    with torch.no_grad():  # so that the tag depends on the token alone
        for layer in model.bert.encoder.layer:
            for part in (layer.attention.output.dense, layer.output.dense):
                part.weight.zero_()
        embeddings = model.bert.embeddings
        embeddings.position_embeddings.weight.zero_()
        for token, tag in {"an": 1, "##na": 2, "lives": 3, "in": 3, "rio": 0, "de": 2, ".": 3}.items():
            embeddings.word_embeddings.weight[vocabulary.index(token)] = 0
            embeddings.word_embeddings.weight[vocabulary.index(token), tag] = 1
        model.classifier.weight[:, :4] = 10 * torch.eye(4)
    folder = export_model(tmp_path, model, tokenizer, "# A model")
    output = pipeline("token-classification", model=str(folder), ignore_labels=[])("Anna lives in Rio de .")
    tags = ["B-PER", "I-LOC", "O", "O", "B-LOC", "I-LOC", "O"]
    assert [(piece["word"], piece["entity"]) for piece in output] == list(zip(vocabulary[5:], tags, strict=True))
    output = pipeline("token-classification", model=str(folder), aggregation_strategy="first")("Anna lives in Rio de .")
    assert [(piece["word"], piece["entity_group"]) for piece in output] == [("anna", "PER"), ("rio de", "LOC")]


class Failing:
    """A model whose weights do not fit on the disk."""

    def __init__(self, error: Exception):
        self.error = error

    def save_pretrained(self, folder: Path, state_dict: object = None) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise self.error


def test_after_an_error_nothing_half_written_is_left(tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^.*model: cannot be written, is there space left\? \(incomplete\)$"):
        export_model(tmp_path, Failing(SafetensorError("incomplete")), tokenizer, "# A model")
    with pytest.raises(OSError, match="No space left"):  # on_main makes a UserError of it
        export_model(tmp_path, Failing(OSError(28, "No space left on device")), tokenizer, "# A model")
    assert not list(tmp_path.iterdir())


def test_what_an_earlier_process_left_behind_is_no_part_of_it(tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / ".model.stage").mkdir()
    (tmp_path / ".model.stage" / "stray").write_text("")
    folder = export_model(tmp_path, small("mlm", tokenizer), tokenizer, "# A model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and not (folder / "stray").exists()


def earlier(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text("old")


def test_an_earlier_model_is_replaced_as_a_whole(tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    """One that an earlier attempt to finish this run left."""
    earlier(tmp_path)
    folder = export_model(tmp_path, small("mlm", tokenizer), tokenizer, "# A model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (folder / "weights").exists() and (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("left", ["model", None])
def test_a_kill_after_the_old_model_was_put_away(tokenizer: BertTokenizerFast, tmp_path: Path, left: str) -> None:
    """Before the new one was in place, or after: the next attempt succeeds."""
    if left:
        earlier(tmp_path)
    (tmp_path / ".model.old").mkdir()
    (tmp_path / ".model.old" / "weights").write_text("older")
    folder = export_model(tmp_path, small("mlm", tokenizer), tokenizer, "# A model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and (folder / "model.safetensors").is_file()


def test_a_model_that_cannot_be_written_leaves_the_earlier_one(tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    earlier(tmp_path)
    for error, raised in ((SafetensorError("incomplete"), UserError), (OSError(28, "No space left"), OSError)):
        with pytest.raises(raised):
            export_model(tmp_path, Failing(error), tokenizer, "# A model")
        assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["model", "model/weights"]
        assert (tmp_path / "model" / "weights").read_text() == "old"


@pytest.mark.parametrize("number", [1, 2])
def test_a_model_that_cannot_be_put_in_place_leaves_the_earlier_one(
    tokenizer: BertTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whichever of the renames it is that fails."""
    earlier(tmp_path)
    count, rename = 0, Path.rename

    def failing(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == number:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        export_model(tmp_path, small("mlm", tokenizer), tokenizer, "# A model")
    assert (tmp_path / "model" / "weights").read_text() == "old"


def test_the_exported_tokenizer_knows_where_the_positions_end(tokenizer: BertTokenizerFast) -> None:
    sizes = dict(vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    bert = BertModel(BertConfig(**sizes, max_position_embeddings=512))
    assert with_model_max_length(tokenizer, bert).model_max_length == 512
    assert tokenizer.model_max_length > 10**20  # the run's own is as it was
    mpnet = MPNetModel(MPNetConfig(**sizes, max_position_embeddings=514))
    assert with_model_max_length(tokenizer, mpnet).model_max_length == 512
