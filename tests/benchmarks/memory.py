"""Peak memory of preparing one huge document, for each kind of file.

    python tests/benchmarks/memory.py --megabytes 100

Each kind is prepared in a process of its own; what is printed is its peak beyond that of a small document, in MB and as
a multiple of the document.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet

from warmup.config import Config, Data
from warmup.training.data.prepare import prepare_data
from warmup.training.tasks import create_task


def make_files(folder: Path, size: int) -> dict[str, tuple[str, str]]:
    """Write a document of so many bytes in each kind of file; the file and the task by a name for it."""
    source = random.Random(1)
    words = [f"w{source.randrange(30_000)}" for _ in range(size // 6)]
    text = " ".join(words)[:size]
    _write(folder / "a.txt", f"{text}\na b c\n")
    _write(folder / "wide.txt", f"\N{GRINNING FACE}{text}\na b c\n")  # four bytes for each character in Python
    _write(folder / "symbols.txt", "." * size + "\na b c\n")  # a token for each byte
    rows = [{"text": text, "label": "a"}, *({"text": "b c", "label": label} for label in "abab")]
    _write(folder / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with open(folder / "a.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["text", "label"], *([f'"{row["text"]}, "', row["label"]] for row in rows)])
    pyarrow.parquet.write_table(pyarrow.table({"text": [text, "a b c"]}), folder / "a.parquet")
    _write(folder / "a.conll", "".join(f"{word} O\n" for word in words[: size // 8]) + "\na B\n\nb O\n\n")
    tasks = {"a.csv": "classification", "a.conll": "token-classification"}
    files = {path.name: (str(path), tasks.get(path.name, "mlm")) for path in sorted(folder.iterdir())}
    text_file, labelled = str(folder / "a.txt"), str(folder / "a.jsonl")
    return files | {"a.txt (clm)": (text_file, "clm"), "a.jsonl (labels)": (labelled, "classification")}


def _write(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")


def peak(file: str, task: str) -> float:
    """MB that preparing a file takes at most, in this process."""
    with tempfile.TemporaryDirectory() as cache:
        data = Data(train_files=(file,), cache_dir=cache, vocab_size=500, validation_fraction=0.2)
        prepare_data(Config(task=task, data=data), create_task(Config(task=task, data=data)))
    status = Path("/proc/self/status").read_text()  # not ru_maxrss, which begins at that of the parent process
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measured(file: str, task: str) -> float:
    """`peak` in a process of its own."""
    command = [sys.executable, __file__, "--file", file, "--task", task]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100, help="size of the document")
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.file:
        print(peak(arguments.file, arguments.task))
        return
    size = arguments.megabytes * 1_000_000
    with tempfile.TemporaryDirectory() as large, tempfile.TemporaryDirectory() as small:
        base = make_files(Path(small), 10_000)
        for name, (file, task) in make_files(Path(large), size).items():
            more = measured(file, task) - measured(*base[name])
            print(f"{name:18} {more:8.0f} MB  {more * 1e6 / size:5.1f} times the document", flush=True)


if __name__ == "__main__":
    main()
