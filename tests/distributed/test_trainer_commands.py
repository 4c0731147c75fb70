"""Commands of transformers' example scripts, rewritten as train.py says, train."""

from __future__ import annotations

import json
import random
import shlex
from pathlib import Path

import pytest
from conftest import make_tokenizer, write_csv
from harness import train
from predictions import write_rows
from trainer_commands import GLUE, MLM, NER, whole_command
from transformers import AutoModelForMaskedLM

from warmup.errors import UserError
from warmup.training.models import build as model_build
from warmup.training.run import arguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model, and the files that the commands name: 48 rows to train on, 16 held out."""
    folder, random_ = tmp_path_factory.mktemp("files"), random.Random(6)
    tokenizer = make_tokenizer()
    spec = model_build.ModelSpec("tiny", AutoModelForMaskedLM, max_length=64, seed=0)
    model_build.build_model(spec, tokenizer)[0].save_pretrained(folder / "MODEL")
    tokenizer.save_pretrained(folder / "MODEL")
    rows = [[f"w{random_.randrange(195)}" for _ in range(random_.randint(3, 12))] for _ in range(64)]
    texts = [{"sentence": " ".join(row), "label": ("neg", "pos")[row[0] < row[1]]} for row in rows]
    tags = [{"words": row, "tags": ["B-LOC" if word < "w2" else "O" for word in row]} for row in rows]
    for name, part in (("train", slice(48)), ("dev", slice(48, 64))):
        write_csv(folder / f"{name}.csv", texts[part])
        write_rows(folder / f"{name}.json", tags[part])
    (folder / "corpus.txt").write_text("\n".join(row["sentence"] for row in texts))
    return folder


@pytest.mark.parametrize(("given", "steps", "metric"), [
    (GLUE, 9, "matthews"),  # 3 epochs of 48 in steps of 16
    (MLM, 4, "perplexity"),
    (NER, 12, "f1"),  # 2 epochs of 48 in steps of 8
], ids=["run_glue", "run_mlm", "run_ner"])  # fmt: skip
def test_the_command_in_the_answer_trains(given: str, steps: int, metric: str, folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError) as answer:
        arguments.parse(shlex.split(given))
    out = folder / metric
    words = [word if word != "out" else str(out) for word in whole_command(str(answer.value))]
    run = train(1, out, *words[words.index("train.py") + 1 :])
    assert run.codes == [0], (run.status, run.stderr[-2000:])
    result = json.loads((out / "result.json").read_text())
    assert (result["step"], result["outcome"]) == (steps, "done") and metric in result["metrics"]
    every_epoch = {GLUE: [3, 6, 9], MLM: [4], NER: [6, 12]}  # as the command says, or the recipe of the task
    assert [line["step"] for line in run.of_kind("eval")] == every_epoch[given]
    plan = json.loads((out / "plan.json").read_text())
    assert plan["scale"] == 1 and plan["peak_lr"] == {GLUE: 2e-5, MLM: 1e-4, NER: 5e-5}[given]
