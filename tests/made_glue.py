"""Small files in the formats of GLUE's own: with and without a header, with lone quotation marks and ids."""

from __future__ import annotations

import random
from pathlib import Path

from warmup.training.glue.tasks import TASKS, GlueTask

HEADERS = {
    "cola": (None, "index sentence"),
    "sst2": ("sentence label", "index sentence"),
    "mrpc": ("Quality|#1 ID|#2 ID|#1 String|#2 String", "index|#1 ID|#2 ID|#1 String|#2 String"),
    "stsb": (
        "index genre filename year old_index source1 source2 sentence1 sentence2 score",
        "index genre filename year old_index source1 source2 sentence1 sentence2",
    ),
    "qqp": ("id qid1 qid2 question1 question2 is_duplicate", "id question1 question2"),
    "mnli": (
        "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
        "sentence1 sentence2 label1 gold_label",
        "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
        "sentence1 sentence2",
    ),
    "qnli": ("index question sentence label", "index question sentence"),
    "rte": ("index sentence1 sentence2 label", "index sentence1 sentence2"),
    "wnli": ("index sentence1 sentence2 label", "index sentence1 sentence2"),
}
"""Headers of train.tsv and dev.tsv, and of test.tsv, as GLUE's download has them. (MNLI's dev has five labels before
gold_label, which changes nothing.)"""
_TEXTS = ("sentence", "#1 String", "sentence1", "question1", "question")
_PAIRS = ("#2 String", "sentence2", "question2", "sentence")
_LABELS = ("label", "Quality", "score", "is_duplicate", "gold_label")


def text_of(random_: random.Random) -> str:
    """Words, and in one of four a quotation mark at the beginning that is never closed."""
    return random_.choice(('"', "", "", "")) + " ".join(f"w{random_.randrange(190)}" for _ in range(6))


def rows_of(task: GlueTask, count: int, seed: int) -> list[tuple[str, str, str]]:
    """(text, second text, label as GLUE writes it) of so many rows: labels take turns."""
    random_ = random.Random(f"{task.name} {seed}")
    names = [*dict.fromkeys(task.labels.values())] or [f"{number / 4:.3f}" for number in range(21)]
    return [(text_of(random_), text_of(random_), names[number % len(names)]) for number in range(count)]


def write_glue(folder: Path, names: tuple[str, ...] = tuple(TASKS), train: int = 24, held_out: int = 8) -> Path:
    """GLUE's folders with their files. Returns the folder."""
    for task in (TASKS[name] for name in names):
        (folder / task.folder).mkdir(parents=True)
        for seed, part in enumerate(task.parts):
            rows = rows_of(task, train if part == "train" else held_out, seed)
            _write(folder / task.folder / f"{part}.tsv", task, rows, labelled=not part.startswith("test"))
    return folder


def _write(path: Path, task: GlueTask, rows: list[tuple[str, str, str]], labelled: bool) -> None:
    header = HEADERS[task.name][0 if labelled else 1]
    columns = list(task.header) if header is None else header.split("|" if "|" in header else None)
    lines = [] if header is None else ["\t".join(columns)]
    text = next(name for name in (*_TEXTS[1:], _TEXTS[0]) if name in columns)
    for number, (first, second, label) in enumerate(rows):
        values = {name: "x" for name in columns} | {columns[0]: str(number), text: first}
        values |= {name: second for name in _PAIRS if name in columns and name != text}
        values |= {name: label for name in _LABELS if name in columns}
        if header is None:
            values |= {"source": "gj04", "annotation": ""}
        lines.append("\t".join(values[name] for name in columns))
    path.write_text(("\ufeff" if task.name == "mrpc" and labelled else "") + "\n".join(lines) + "\n", encoding="utf-8")
