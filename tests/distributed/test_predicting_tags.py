"""Predicted tags: those of the plain model at each word's first piece, for every word, on any number of ranks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from predictions import predict, read, write_rows
from transformers import (
    AutoModelForTokenClassification,
    BertTokenizerFast,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaForTokenClassification,
    RobertaTokenizerFast,
    pipeline,
)

from warmup.training.data.tokenizers.load import load_tokenizer
from warmup.training.models import build as model_build

LABELS = ("O", "B-X", "I-X", "B-Y")
LIMIT = 12
NOTHING = "\x07"  # BERT's tokenizer leaves nothing of it


def louder(model: torch.nn.Module, path: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A model of random weights, so large that it says something else of each word."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data *= 3
    model.base_model.get_input_embeddings().weight.data *= 5
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def bert(path: Path) -> Path:
    """Whose words are of one to five pieces."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *(f"##{letter}" for letter in "abcdefgh")]
    tokenizer = BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)})
    spec = model_build.ModelSpec(
        "tiny",
        AutoModelForTokenClassification,
        max_length=64,
        seed=0,
        labels=LABELS,
        problem_type="single_label_classification",
    )
    model, _ = model_build.build_model(spec, tokenizer)
    return louder(model, path, tokenizer)


def roberta(path: Path) -> Path:
    """Its tokenizer without add_prefix_space, as published ones are."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefgh", "Ġ", *(f"Ġ{letter}" for letter in "abcdefgh")]
    merges = [("Ġ", letter) for letter in "abcdefgh"]
    tokenizer = RobertaTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)}, merges=merges)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: n for n, label in enumerate(LABELS)}}
    config = RobertaConfig(vocab_size=len(pieces), max_position_embeddings=66, pad_token_id=1, **sizes, **names)
    return louder(RobertaForTokenClassification(config), path, tokenizer)


def sentence(random_: random.Random, most: int) -> list[str]:
    return ["".join(random_.choices("abcdefgh", k=random_.randint(1, 5))) for _ in range(random_.randint(1, most))]


def plain_tags(folder: Path, words: list[str]) -> list[str | None]:
    """By the model and its tokenizer alone, which is given a word at a time."""
    model = AutoModelForTokenClassification.from_pretrained(folder)
    tokenizer = load_tokenizer(str(folder), "model")
    pieces = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"][: LIMIT - 2] for word in words]
    tags: list[str | None] = [None] * len(words)
    rest = [number for number in range(len(words)) if pieces[number]]
    while rest:
        window = [rest.pop(0)]
        while rest and sum(len(pieces[word]) for word in (*window, rest[0])) <= LIMIT - 2:
            window.append(rest.pop(0))
        ids, firsts = [tokenizer.cls_token_id], []
        for word in window:
            firsts.append(len(ids))
            ids += pieces[word]
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, tokenizer.sep_token_id]])).logits[0, firsts]
        for word, tag in zip(window, logits.argmax(-1).tolist(), strict=True):
            tags[word] = LABELS[tag]
    return tags


@pytest.mark.parametrize("kind", [bert, roberta])
def test_tags_of_every_word_on_any_number_of_ranks(kind, tmp_path: Path) -> None:
    random_, folder = random.Random(1), kind(tmp_path / "model")
    texts = [sentence(random_, 30) for _ in range(30)]
    texts[3] = ["a", "abcdefgh" * 3, "b"]
    texts[4] = ["a", NOTHING, *["b"] * 12, NOTHING]
    texts[25] = [*["ab"] * 300, "c"]
    rows: list[dict] = [{"tokens": words, "tags": "not read"} for words in texts[:20]]
    rows[10:10] = [{"tokens": ["a", ""]}]
    files = [write_rows(tmp_path / "a.jsonl", rows), tmp_path / "b.conll", tmp_path / "c.txt"]
    files[1].write_text("".join("\n".join(words) + "\n\n" for words in texts[20:25]))
    files[2].write_text("".join(" ".join(words) + "\n" for words in texts[25:]))
    outputs = []
    for world_size, options in ((1, ()), (2, ()), (3, ()), (1, ("--speed.packing", "false"))):
        outputs.append(tmp_path / f"{len(outputs)}.jsonl")
        arguments = ("--predict", *files, "--model", folder, "--data.max_length", LIMIT, "--batch.evaluation", 9)
        ended = predict(world_size, outputs[-1], *arguments, *options)
        assert ended.codes == [0] * world_size, (ended.status, ended.stderr)
        assert f"predictions are in {outputs[-1]}: 31 rows, 1 of them errors, in " in ended.stdout
    assert len({output.read_bytes() for output in outputs}) == 1

    found = read(outputs[0])
    assert [line["row"] for line in found] == list(range(1, 32))
    assert found.pop(10) == {"row": 11, "error": f"{files[0]}:11: word 2 of 'tokens' is blank"}
    for number, (line, words) in enumerate(zip(found, texts, strict=True)):
        assert line["tokens"] == words and line["tags"] == plain_tags(folder, words), number
        assert line.get("cut", False) == (number == 3)
    tags = [tag for line in found for tag in line["tags"]]
    assert tags.count(None) == (2 if kind is bert else 0)
    assert sorted(tags.count(label) for label in LABELS)[1] > 50  # or all of this says little


def test_short_sentences_have_the_tags_of_the_pipeline(tmp_path: Path) -> None:
    random_, folder = random.Random(2), bert(tmp_path / "model")
    texts = [sentence(random_, 9) for _ in range(20)]
    rows = write_rows(tmp_path / "rows.jsonl", [{"words": " ".join(words)} for words in texts])
    ended = predict(1, tmp_path / "out.jsonl", "--predict", rows, "--model", folder)
    assert ended.codes == [0], (ended.status, ended.stderr)
    tagger = pipeline("token-classification", model=str(folder), ignore_labels=[])
    for line, words in zip(read(tmp_path / "out.jsonl"), texts, strict=True):
        pieces = tagger(" ".join(words))
        assert line["tags"] == [piece["entity"] for piece in pieces if not piece["word"].startswith("##")]


def test_what_has_no_tags(tmp_path: Path) -> None:
    folder = bert(tmp_path / "model")
    rows = write_rows(tmp_path / "rows.jsonl", [{"tokens": [NOTHING]}, {"tokens": ["a"]}, {"tokens": [NOTHING] * 2}])
    arguments = ("--model", folder, "--predict", rows)
    assert predict(1, tmp_path / "out.jsonl", *arguments).codes == [0]
    first, second, third = read(tmp_path / "out.jsonl")
    nothing = "holds no word of which the tokenizer leaves anything"
    assert (first["error"], second["tokens"], third["error"]) == (nothing, ["a"], nothing)

    model = AutoModelForTokenClassification.from_pretrained(folder)
    model.classifier.bias.data[1] = float("nan")
    model.save_pretrained(folder)
    assert predict(1, tmp_path / "nan.jsonl", *arguments).codes == [0]
    assert read(tmp_path / "nan.jsonl")[1] == {"row": 2, "error": "what the model computes is not finite"}

    for output, file, message in (
        ("x.csv", rows, "x.csv: a .csv file is for one label or number of a text; use .jsonl"),
        ("x.jsonl", write_rows(tmp_path / "no.jsonl", [{"text": "a b"}]), "no column known to hold the text"),
        ("x.jsonl", write_rows(tmp_path / "nothing.jsonl", [{"tokens": [NOTHING]}]), f"each of the 1 texts {nothing}"),
    ):
        ended = predict(1, tmp_path / output, "--model", folder, "--predict", file)
        assert ended.codes == [2] and message in ended.status["message"], ended.status
        assert not (tmp_path / output).exists()
