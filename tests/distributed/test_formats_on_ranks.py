"""Training on two ranks from a parquet file, held out against compressed files that a pattern names."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
from conftest import TINY
from harness import train


def test_parquet_and_a_pattern_of_compressed_files(documents: Path, tmp_path: Path) -> None:
    """The numbers are those of the same texts in one .jsonl and one .txt file."""
    texts = [json.loads(line)["text"] for line in documents.read_text().splitlines()]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts[:300]}), tmp_path / "train.parquet")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:300]))
    (tmp_path / "held_out.txt").write_text("\n".join(texts[300:]))
    for number, part in enumerate((texts[300:340], texts[340:])):
        (tmp_path / f"part{number}.txt.gz").write_bytes(gzip.compress("\n".join(part).encode()))
    job = (
        "--task",
        "mlm",
        *TINY,
        "--data.max_length",
        24,
        "--recipe.duration",
        "4 steps",
        "--recipe.lr",
        "1e-3",
        "--batch.per_device",
        16,
    )
    runs = [
        train(2, tmp_path / name, *job, "--data.train_files", tmp_path / files[0], "--data.validation_files",
              tmp_path / files[1])
        for name, files in (("new", ("train.parquet", "part*.txt.gz")), ("plain", ("train.jsonl", "held_out.txt")))
    ]  # fmt: skip
    for run in runs:
        assert run.codes == [0, 0], (run.status, run.stderr[-2000:])
        assert run.column("step") == [1, 2, 3, 4]
    assert json.loads((tmp_path / "new" / "result.json").read_text())["world_size"] == 2
    assert runs[0].column("loss") == runs[1].column("loss")
    assert runs[0].of_kind("eval")[-1]["loss"] == runs[1].of_kind("eval")[-1]["loss"]
