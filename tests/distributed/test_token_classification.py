"""Tags of words end to end: the same training on any cut, the score of the exported model, and what it says."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from conftest import DEFAULTS, tagged_sentence
from harness import Ended, assert_same_training, train

SMOOTHED = ("--recipe.label_smoothing", 0.05, "--recipe.class_weights", "O=0.7", "B-ORG=1.5")
STEPS = 50


@pytest.fixture(scope="module")
def runs(token_classification: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> list[Ended]:
    """On one rank padded and whole; on two and on three in packed rows, computed only at target positions."""
    folder = tmp_path_factory.mktemp("tagging")
    job = (*token_classification, *SMOOTHED, "--recipe.duration", f"{STEPS} steps", "--dropout", 0)
    padded = ("--speed.packing", "false", "--speed.masked_only", "false")
    whole = train(1, folder / "1", *job, "--batch.per_device", 32, *padded, timeout_s=300)
    by_size = ("--batch.global_size", 32, "--batch.per_device", 6)
    return [whole, *(train(ranks, folder / str(ranks), *job, *by_size, timeout_s=300) for ranks in (2, 3))]


def test_equal_on_any_cut(runs: list[Ended]) -> None:
    whole, *others = runs
    for run in others:
        assert_same_training(run, whole, steps=STEPS, rel=1e-5)
        ours, theirs = (ended.of_kind("eval")[-1] for ended in (run, whole))
        assert ours["targets"] == theirs["targets"]
        for name in ("precision", "recall", "f1", "accuracy"):  # a tag may be decided by the last digit of a logit
            assert ours[name] == pytest.approx(theirs[name], abs=0.01), name
    assert [json.loads((run.folder / "result.json").read_text())["world_size"] for run in runs] == [1, 2, 3]
    for run in runs:  # the counts of all entity types together are those of the F1 over all entities
        per_class = json.loads((run.folder / "result.json").read_text())["per_class"]
        correct = sum(row["recall"] * row["support"] for row in per_class.values())
        recall = correct / sum(row["support"] for row in per_class.values())
        assert recall == pytest.approx(run.of_kind("eval")[-1]["recall"], rel=1e-12) and len(per_class) > 1
    losses = [run.of_kind("eval")[-1]["loss"] for run in runs]
    assert losses[0] < 0.5 * whole.column("loss")[-1]  # plain; the training's cannot get below its smoothing


def sentences(path: Path) -> list[tuple[list[str], list[str]]]:
    parts = path.read_text().split("\n\n")[1:]
    rows = [[line.split() for line in part.splitlines()] for part in parts if part]
    return [([row[0] for row in lines], [row[-1] for row in lines]) for lines in rows]


def test_the_score_is_that_of_the_exported_model(runs: list[Ended], tagged: tuple[Path, Path]) -> None:
    """Window by window, in plain transformers, and scored by seqeval."""
    import torch
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    folder = runs[1].folder / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForTokenClassification.from_pretrained(folder)
    found, wanted, losses = [], [], []
    for words, tags in sentences(tagged[1]):
        pieces, rest = [tokenizer.tokenize(word) for word in words], list(range(len(words)))
        while rest:
            window = [rest.pop(0)]
            while rest and sum(len(pieces[word]) for word in (*window, rest[0])) <= 14:
                window.append(rest.pop(0))
            text = ["[CLS]", *(piece for word in window for piece in pieces[word]), "[SEP]"]
            firsts = [1 + sum(len(pieces[word]) for word in window[:number]) for number in range(len(window))]
            with torch.no_grad():
                logits = model(torch.tensor([tokenizer.convert_tokens_to_ids(text)])).logits[0, firsts]
            found.append([model.config.id2label[tag] for tag in logits.argmax(-1).tolist()])
            wanted.append([tags[word] for word in window])
            true = torch.tensor([model.config.label2id[tag] for tag in wanted[-1]])
            losses += torch.nn.functional.cross_entropy(logits, true, reduction="none").tolist()
    metrics = runs[1].of_kind("eval")[-1]
    assert len(found) > 110 and metrics["targets"] == len(losses)
    assert metrics["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert metrics[name] == pytest.approx(score(wanted, found), rel=1e-9)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(wanted, found), rel=1e-9)
    assert metrics["f1"] > 0.9


def test_predictions_have_the_score_of_the_evaluation(runs: list[Ended], tagged: tuple[Path, Path], tmp_path: Path):
    """Of the same sentences, whose tags they do not read."""
    from seqeval.metrics import f1_score

    words = [words for words, _ in sentences(tagged[1])]
    (tmp_path / "words.txt").write_text("".join(" ".join(row) + "\n" for row in words))
    arguments = ("--predict", tmp_path / "words.txt", "--model", runs[1].folder, "--output", tmp_path / "out.jsonl")
    ended = train(2, tmp_path / "predict", *arguments)
    assert ended.codes == [0, 0], (ended.status, ended.stderr)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["tokens"] for line in found] == words and not any("cut" in line for line in found)
    tags, wanted = [line["tags"] for line in found], [tags for _, tags in sentences(tagged[1])]
    pairs = [pair for row in zip(tags, wanted, strict=True) for pair in zip(*row, strict=True)]
    metrics = runs[1].of_kind("eval")[-1]
    assert sum(one == other for one, other in pairs) / len(pairs) == pytest.approx(metrics["accuracy"], abs=0.002)
    assert f1_score(wanted, tags) == pytest.approx(metrics["f1"], abs=0.02)  # of entities that are cut in the latter


def test_it_reads_sentences_that_it_has_not_seen(runs: list[Ended]) -> None:
    """As text, which the pipeline parts into words by itself."""
    from transformers import pipeline

    tagger = pipeline("token-classification", model=str(runs[2].folder / "model"), aggregation_strategy="first")
    random_, right, total = random.Random(99), 0, 0
    for _ in range(20):
        words, tags = tagged_sentence(random_)
        starts = [sum(len(word) + 1 for word in words[:number]) for number in range(len(words))]
        true = {(start, tag[2:]) for start, tag in zip(starts, tags, strict=True) if tag.startswith("B-")}
        right += len(true & {(entity["start"], entity["entity_group"]) for entity in tagger(" ".join(words))})
        total += len(true)
    assert right > 0.9 * total


def test_parts_of_speech_on_two_ranks(tmp_path: Path) -> None:
    """Tags that are no entities', numbers in the file, balanced weights; going on with other ones, it says so."""
    random_ = random.Random(5)
    lexicon = {word: number % 3 for number, word in enumerate(("ana", "bor", "cet", "dim", "eka", "fol", "gam"))}
    rows = [random_.choices(list(lexicon), k=random_.randint(1, 9)) for _ in range(120)]
    lines = [json.dumps({"words": words, "upos": [lexicon[word] for word in words]}) for words in rows]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    job = (
        *DEFAULTS,
        "--task",
        "token-classification",
        "--model",
        "tiny",
        "--data.train_files",
        tmp_path / "train.jsonl",
    )
    job += ("--data.vocab_size", 100, "--recipe.reference_batch_size", 16, "--recipe.lr", "1e-3", "--log.every", 1)
    job += ("--recipe.class_weights", "balanced", "--recipe.duration", "24 steps", "--batch.per_device", 8)
    run = train(2, tmp_path / "run", *job)
    assert run.codes == [0, 0], (run.status, run.stderr[-2000:])
    metrics = run.of_kind("eval")[-1]
    assert set(metrics) == {"kind", "step", "consumed_samples", "loss", "accuracy", "f1", "targets"}
    assert metrics["accuracy"] == 1.0 == metrics["f1"]
    alone = train(1, tmp_path / "alone", *job, "--batch.accumulation", 2)  # with dropout
    assert_same_training(run, alone, steps=24, rel=1e-5)
    more = ("--recipe.class_weights", "0=2", "--recipe.label_smoothing", 0.1, "--recipe.duration", "26 steps")
    again = train(2, tmp_path / "run", *job, *more, "--resume", "auto")
    assert again.codes == [0, 0], again.status
    for change in ("class_weights was ['balanced'], is ('0=2',)", "label_smoothing was 0.0, is 0.1"):
        assert f"recipe.{change}" in again.stderr
    assert again.column("step") == list(range(1, 27)) and again.column("loss")[-1] > 0.1
