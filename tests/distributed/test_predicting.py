"""Predictions of whole runs: those of transformers' pipelines, a line for every row, on any number of ranks."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from conftest import DEFAULTS, WORDS, make_tokenizer
from harness import train
from predictions import predict, read, write_rows
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, BertTokenizerFast, pipeline

from warmup.training.models import build as model_build

RUN = ("--model", "tiny", "--data.vocab_size", 200, "--recipe.reference_batch_size", 32, "--recipe.lr", 1e-3)
LIMIT = 16


def texts(count: int, words: list[str], seed: int) -> list[str]:
    """Of 1 to 30 words."""
    random_ = random.Random(seed)
    return [" ".join(random_.choices(words, k=random_.randint(1, 30))) for _ in range(count)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on pairs, of a column that no one would guess, at a length that cuts most of them."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs = zip(texts(64, WORDS, 1), texts(64, WORDS, 2), strict=True)
    rows = [{"say": one, "reply": two, "label": "yes" if len(one) > len(two) else "no"} for one, two in pairs]
    job = (*DEFAULTS, "--task", "classification", "--data.train_files", write_rows(folder / "train.jsonl", rows))
    columns = ("--data.text_column", "say", "--data.pair_column", "reply", "--data.max_length", LIMIT)
    ended = train(1, folder / "run", *job, *columns, *RUN, "--recipe.duration", "4 steps", "--batch.evaluation", 7)
    assert ended.codes == [0], ended.status
    return folder / "run"


def test_the_same_bytes_on_any_number_of_ranks_and_from_any_folder_of_a_run(run: Path, tmp_path: Path, cache: Path):
    """And a line for every row, in their order, the bad ones included; and nothing is left anywhere else."""
    pairs = list(zip(texts(60, WORDS, 3), texts(60, WORDS, 4), strict=True))
    rows: list[dict] = [{"say": one, "reply": two} for one, two in pairs]
    rows[20:20] = [{"say": "", "reply": "x"}]
    rows.append({"say": "x"})
    files = [write_rows(tmp_path / "a.jsonl", rows[:30]), write_rows(tmp_path / "b.jsonl", rows[30:])]
    cached = sorted(cache.iterdir())
    outputs = []
    checkpoint = max((run / "checkpoints").glob("step-*"))
    for world_size, source in ((1, run), (2, run), (3, run / "model"), (1, checkpoint)):
        outputs.append(tmp_path / f"{len(outputs)}.jsonl")
        ended = predict(world_size, outputs[-1], "--predict", *files, "--model", source)
        assert ended.codes == [0] * world_size, (ended.status, ended.stderr)
        assert ended.status["outcome"] == "done"
        assert ended.stdout.startswith(f"predictions are in {outputs[-1]}: 62 rows, 2 of them errors, in ")
    assert len({output.read_bytes() for output in outputs}) == 1
    assert sorted(cache.iterdir()) == cached and not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*.folder"))

    found = read(outputs[0])
    assert [line["row"] for line in found] == list(range(1, 63))
    assert found[20] == {"row": 21, "error": f"{files[0]}:21: 'say' is blank"}
    assert found[61] == {"row": 62, "error": f"{files[1]}:32: 'reply' is missing"}
    classify = pipeline("text-classification", model=str(run / "model"), top_k=None)
    given = [{"text": one, "text_pair": two} for one, two in pairs]
    wanted = [classify(pair, truncation="longest_first", max_length=LIMIT) for pair in given]
    answered = [line for line in found if "error" not in line]
    for line, answer, pair in zip(answered, wanted, given, strict=True):
        assert line["label"] == answer[0]["label"]
        assert line["score"] == line["scores"][line["label"]] == pytest.approx(answer[0]["score"], abs=1e-5)
        assert line["scores"] == pytest.approx({one["label"]: one["score"] for one in answer}, abs=1e-5)
        words = len(classify.tokenizer(pair["text"], pair["text_pair"])["input_ids"])
        assert line.get("cut", False) == (words > LIMIT)
    assert len({line["score"] for line in answered}) > 50  # or all of this says little
    assert 10 < sum("cut" in line for line in answered) < 60


def folder_of(path: Path, name: str, task: str, tokenizer: BertTokenizerFast, labels: tuple[str, ...]) -> Path:
    """A model of random weights, large enough that it says something else of each text."""
    kind = AutoModelForMaskedLM if task == "mlm" else AutoModelForSequenceClassification
    problem_type = "regression" if task == "regression" else "single_label_classification"
    spec = model_build.ModelSpec(name, kind, max_length=64, seed=0, labels=labels, problem_type=problem_type)
    model, _ = model_build.build_model(spec, tokenizer)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data *= 5
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def distilled(path: Path, tokenizer: BertTokenizerFast) -> Path:
    """An encoder that is not packed."""
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    torch.manual_seed(0)
    sizes = {"dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64}
    DistilBertForMaskedLM(DistilBertConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes)).save_pretrained(
        path
    )
    tokenizer.save_pretrained(path)
    return path


def test_numbers_and_labels_of_model_folders(tmp_path: Path) -> None:
    """Whose task and length are their own; .txt files and .csv outputs."""
    tokenizer = make_tokenizer()
    lines = texts(40, [f"w{number}" for number in range(190)], 5)
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    for task, labels in (("regression", ("value",)), ("classification", ("a", "b", "c"))):
        folder = folder_of(tmp_path / task, "tiny", task, tokenizer, labels)
        arguments = ("--predict", tmp_path / "lines.txt", "--model", folder)
        ended = predict(1, tmp_path / f"{task}.csv", *arguments, "--batch.evaluation", 9)
        assert ended.codes == [0], (ended.status, ended.stderr)
        answer = pipeline(
            "text-classification", model=str(folder), function_to_apply="none" if len(labels) == 1 else None
        )
        wanted = answer(lines)
        head, *rows = [line.split(",") for line in (tmp_path / f"{task}.csv").read_text().splitlines()]
        assert len({row[1] for row in rows}) > (20 if task == "regression" else 1)
        if task == "regression":
            assert head == ["row", "value", "error"]
            assert [float(row[1]) for row in rows] == pytest.approx([one["score"] for one in wanted], abs=1e-5)
        else:
            assert head == ["row", "label", "score", "error"]
            assert [row[1] for row in rows] == [one["label"] for one in wanted]
            assert [float(row[2]) for row in rows] == pytest.approx([one["score"] for one in wanted], abs=1e-5)
        assert [row[0] for row in rows] == [str(number) for number in range(1, 41)]


@pytest.mark.parametrize(("world_size", "kind", "options"), [
    (3, "tiny", ()),
    (1, "tiny", ("--speed.packing", "false", "--speed.masked_only", "false")),
    (1, "distilled", ()),
    (1, "distilled", ("--speed.masked_only", "false")),
])  # fmt: skip
def test_masks_are_filled_as_the_pipeline_does(world_size: int, kind: str, options: tuple, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    random_, lines = random.Random(6), texts(40, [f"w{number}" for number in range(190)], 7)
    for number, line in enumerate(lines):
        words = line.split()
        for position in random_.sample(range(len(words)), min(number % 4, len(words))):
            words[position] = "[MASK]"
        lines[number] = " ".join(words)
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": line, "text_pair": "not read"} for line in lines])
    folder = tmp_path / "model"
    distilled(folder, tokenizer) if kind == "distilled" else folder_of(folder, kind, "mlm", tokenizer, ())
    ended = predict(
        world_size, tmp_path / "out.jsonl", "--predict", rows, "--model", folder, "--batch.evaluation", 6, *options
    )
    assert ended.codes == [0] * world_size, (ended.status, ended.stderr)
    fill = pipeline("fill-mask", model=str(folder), top_k=1)
    found = read(tmp_path / "out.jsonl")
    assert len(found) == 40
    for line, given in zip(found, lines, strict=True):
        if "[MASK]" not in given:
            assert line["error"] == "holds no [MASK] to fill in"
            continue
        each = fill(given)
        tokens = [one["token_str"] for one in ([each] if isinstance(each[0], dict) else each) for one in one]
        assert line["tokens"] == tokens
        filled = given
        for token in tokens:
            filled = filled.replace("[MASK]", token, 1)
        filled = " ".join(word for word in filled.split() if word not in tokenizer.all_special_tokens)
        assert line["text"] == filled and set(line) == {"row", "tokens", "text"}
    assert len({token for line in found for token in line.get("tokens", ())}) > 10


def test_what_cannot_be_predicted_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    classifier = folder_of(tmp_path / "classifier", "tiny", "classification", tokenizer, ("a", "b"))
    mlm = folder_of(tmp_path / "mlm", "tiny", "mlm", tokenizer, ())
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": "w1"}, {"text": ""}, {"text": "w2"}, {"text": 3}])
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"text": "w1", "text_pair": "w2"}])
    there = tmp_path / "there.jsonl"
    there.write_text("mine")
    out = tmp_path / "out.jsonl"
    for output, arguments, message in (
        (out, (rows, "--model", mlm), "--predict: each of the 2 texts holds no [MASK] to fill in"),
        (out, (rows, "--model", mlm, "--task", "classification"), "has no trained weights for task classification ("),
        (out, (rows, "--model", classifier, "--data.max_bad_rows", 1), "2 bad rows so far, and --data.max_bad_rows"),
        (out, (rows, pairs, "--model", classifier), "some files have a second text and some have none"),
        (out, (tmp_path / "no.jsonl", "--model", classifier), f"{tmp_path / 'no.jsonl'} does not exist"),
        (there, (rows, "--model", classifier), f"--output: {there} is there already"),
        (tmp_path / "x.csv", (rows, "--model", mlm), "x.csv: a .csv file is for one label or number of a text"),
        (tmp_path / "x.tsv", (rows, "--model", mlm), "x.tsv ends neither in .jsonl nor in .csv"),
        (tmp_path / "no" / "x.jsonl", (rows, "--model", mlm), f"the folder {tmp_path / 'no'} does not exist"),
    ):  # fmt: skip
        before = sorted(tmp_path.iterdir())
        world_size = 2 if "bad rows" in message else 1  # of which one reads
        ended = predict(world_size, output, "--predict", *arguments)
        assert ended.codes == [2] * world_size, (message, ended.status, ended.stderr)
        assert message in ended.status["message"], (message, ended.status)
        left = {path.name for path in set(tmp_path.iterdir()) - set(before)}
        assert all(name.startswith(f"{output.stem}.folder.") for name in left), left
    assert there.read_text() == "mine"


def test_an_answer_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", "tiny", "classification", make_tokenizer(), ("a", "b"))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.classifier.bias.data[1] = float("nan")
    model.save_pretrained(folder)
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": "w1"}])
    ended = predict(1, tmp_path / "out.jsonl", "--predict", rows, "--model", folder)
    assert ended.codes == [0] and "1 rows, 1 of them errors" in ended.stdout
    assert read(tmp_path / "out.jsonl") == [{"row": 1, "error": "what the model computes is not finite"}]


def test_two_machines_read_their_own_files_and_must_have_the_same(tmp_path: Path) -> None:
    """Each of two ranks takes itself for the first one of its machine."""
    folder = folder_of(tmp_path / "model", "tiny", "regression", make_tokenizer(), ("value",))
    for number, text in enumerate(("w1 w2", "w1 w2", "w1 w3")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "rows.txt").write_text(text)

    def first_of_its_machine(rank: int) -> None:
        os.environ["LOCAL_RANK"] = "0"

    for other, codes in ((1, [0, 0]), (2, [2, 2])):
        output = tmp_path / f"{other}.jsonl"
        arguments = ("--predict", tmp_path / "0" / "rows.txt", "--model", folder, "--output", output)
        theirs = [(), ("--predict", tmp_path / str(other) / "rows.txt")]
        ended = train(2, tmp_path / f"run{other}", *arguments, per_rank=theirs, before=first_of_its_machine)
        assert ended.codes == codes, (ended.status, ended.stderr)
        assert output.exists() == (codes == [0, 0])
    assert "ranks disagree on rows or tokenizer: rank 0 has " in ended.status["message"]
