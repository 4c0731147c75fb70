"""Small, ragged, learnable data for tests, and a cache of tokenised data of the test session's own."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from launching import Launched
    from transformers import BertTokenizerFast

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
# Where more threads than cores compute, those that wait for the others take most of the time, unless they sleep. Read
# when torch is imported, here and in the processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:  # as under nohup, which programs that tests start would inherit
        signal.signal(number, lambda *_: None)

WORDS = [
    first + second for first in ("ba", "do", "ki", "lu", "me", "no", "ri", "su") for second in ("ran", "tel", "mis")
]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    os.environ["WARMUP_CACHE"] = str(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"
    return folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of tokenised data of this test's own."""
    monkeypatch.setenv("WARMUP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Processes that are forked later must not inherit a pool of threads."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    if torch:
        torch.set_num_threads(1)
    yield
    if torch:
        torch.set_num_threads(before)


def make_tokenizer(size: int = 200) -> BertTokenizerFast:
    """Five special tokens, then w0, w1 and so on."""
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(size - 5))]
    return BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizerFast:
    return make_tokenizer()


def _sentence(random_: random.Random, label: int) -> str:
    """3 to 40 words, of which a class prefers its own half."""
    half = WORDS[: len(WORDS) // 2] if label else WORDS[len(WORDS) // 2 :]
    return " ".join(random_.choice(half if random_.random() < 0.6 else WORDS) for _ in range(random_.randint(3, 40)))


def write_csv(path: Path, rows: list[dict]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(train.csv, validation.csv): texts with the labels pos and neg."""
    random_ = random.Random(1)
    folder = tmp_path_factory.mktemp("labelled")
    rows = [{"text": _sentence(random_, number % 2), "label": ("neg", "pos")[number % 2]} for number in range(700)]
    return write_csv(folder / "train.csv", rows[:600]), write_csv(folder / "validation.csv", rows[600:])


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(train.csv, validation.csv): texts with the share of the words of one half, from 0 to 5, to two digits."""
    random_ = random.Random(3)
    folder = tmp_path_factory.mktemp("numbered")
    rows = []
    for _ in range(700):
        text = _sentence(random_, random_.randint(0, 1))
        words = text.split()
        share = sum(word in WORDS[: len(WORDS) // 2] for word in words) / len(words)
        rows.append({"text": text, "label": f"{5 * share:.2f}"})
    return write_csv(folder / "train.csv", rows[:600]), write_csv(folder / "validation.csv", rows[600:])


_SENTENCES = [
    "PER moved from LOC to LOC to work for ORG .",
    "The board of ORG chose PER as its head , a spokesman said in LOC on DATE .",
    "PER , who was born in LOC , met PER .",
    "Shares of ORG fell after PER left ORG for LOC .",
    "It rained in LOC on DATE .",
    "In LOC the prices rose , said PER of ORG .",
    "LOC : PER beat PER in DATE minutes .",
]
_FILLERS = {
    "PER": ["Anna", "Ben Okafor", "Carla Rossi", "Fatima", "Ivan Novak", "Julia van Dyk", "Mehmet", "Priya Kim"],
    "LOC": ["Paris", "New York", "Cape Town", "Lima", "Rio de Janeiro", "Oslo", "San Jose", "Kyoto"],
    "ORG": ["Acme", "Globex Union", "Orion Bank", "Umbra", "Bank of Lima", "Oslo Steel Works", "Kim and Sons"],
    "DATE": [str(number) for number in range(1, 32)],
}


def tagged_sentence(random_: random.Random) -> tuple[list[str], list[str]]:
    """Words and their tags: sentences as of the news, whose names and places share words with firms."""
    words, tags = [], []
    for part in random_.choice(_SENTENCES).split():
        filler = random_.choice(_FILLERS[part]).split() if part in _FILLERS else [part]
        words += filler
        entity = part in ("PER", "LOC", "ORG")
        tags += [f"B-{part}", *[f"I-{part}"] * (len(filler) - 1)] if entity else ["O"] * len(filler)
    return words, tags


def write_conll(path: Path, sentences: list[tuple[list[str], list[str]]]) -> Path:
    """As CoNLL 2003's files are: word, part of speech, chunk, tag."""
    text = "-DOCSTART- -X- -X- O\n\n"
    for words, tags in sentences:
        text += "".join(f"{word} X I-NP {tag}\n" for word, tag in zip(words, tags, strict=True)) + "\n"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(train.conll, validation.conll): sentences with the tags of persons, places and organisations."""
    random_ = random.Random(4)
    folder = tmp_path_factory.mktemp("tagged")
    rows = [tagged_sentence(random_) for _ in range(700)]
    return write_conll(folder / "train.conll", rows[:600]), write_conll(folder / "validation.conll", rows[600:])


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jsonl file of texts, some longer than a window."""
    random_ = random.Random(2)
    path = tmp_path_factory.mktemp("documents") / "documents.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for number in range(400):
            file.write(json.dumps({"text": _sentence(random_, number % 2)}) + "\n")
    return path


def asked_question(random_: random.Random) -> dict:
    """A context, a question, and the answer: the words after the one that is asked for. One in five has none."""
    key, other = random_.sample(("zab", "zul", "zim"), 2)
    answer = " ".join(random_.choices(WORDS, k=random_.randint(1, 4))).capitalize()
    sentences = [_sentence(random_, 0) + ".", f"{other} the {random_.choice(WORDS)}.", _sentence(random_, 1) + "."]
    answered = random_.random() < 0.8
    if answered:
        sentences.append(f"{key} the {answer}!")
    random_.shuffle(sentences)
    context = " ".join(sentences)
    place = context.index(f"{key} the {answer}!") + len(key) + 5 if answered else 0
    answers = [{"text": answer, "answer_start": place}] if answered else []
    return {"context": context, "question": f"what comes after {key}?", "answers": answers}


def write_squad(path: Path, rows: list[dict]) -> Path:
    """As SQuAD's files are: articles of paragraphs of questions."""
    articles = []
    for number, row in enumerate(rows):
        question = {name: row[name] for name in ("question", "answers")} | {"id": f"q{number}"}
        articles.append({"title": "t", "paragraphs": [{"context": row["context"], "qas": [question]}]})
    path.write_text(json.dumps({"version": "v2.0", "data": articles}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(train.json, validation.json): questions as in SQuAD's files, some of whose contexts are longer than a window."""
    random_ = random.Random(5)
    folder = tmp_path_factory.mktemp("asked")
    rows = [asked_question(random_) for _ in range(400)]
    return write_squad(folder / "train.json", rows[:340]), write_squad(folder / "validation.json", rows[340:])


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launched]:
    """Starts launch scripts in `tmp_path`."""
    from launching import Launched

    launched = Launched(tmp_path)
    yield launched
    launched.end()


DEFAULTS = ("--config", str(ROOT / "tests" / "defaults.yaml"))
"""Arguments of a run whose fields have their defaults, instead of what the recipe of its task says."""
TINY = (
    *("--model", "tiny", "--data.vocab_size", "200", "--log.every", "1", "--recipe.reference_batch_size", "32"),
    *DEFAULTS,
)


@pytest.fixture(scope="session")
def mlm(documents: Path) -> tuple[str, ...]:
    """Arguments of a masked-language-modelling run of 30 steps of 32."""
    return ("--task", "mlm", "--data.train_files", str(documents), "--data.max_length", "24", *TINY) + (
        "--recipe.duration", "30 steps", "--recipe.warmup", "10 steps", "--recipe.lr", "1e-3",
    )  # fmt: skip


@pytest.fixture(scope="session")
def clm(documents: Path) -> tuple[str, ...]:
    """Arguments of a causal-language-modelling run of 20 steps of 32, ragged."""
    return ("--task", "clm", "--data.train_files", str(documents), "--data.max_length", "24", *TINY) + (
        "--data.vocab_size", "300", "--recipe.duration", "20 steps", "--recipe.warmup", "5 steps",
        "--recipe.lr", "1e-3",
    )  # fmt: skip


@pytest.fixture(scope="session")
def classification(labelled: tuple[Path, Path]) -> tuple[str, ...]:
    """Arguments of a classification run of 30 steps of 32, ragged."""
    return ("--task", "classification", "--data.train_files", str(labelled[0]), *TINY) + (
        "--data.validation_files", str(labelled[1]), "--data.max_length", "64",
        "--recipe.duration", "30 steps", "--recipe.warmup", "10 steps", "--recipe.lr", "5e-4",
    )  # fmt: skip


@pytest.fixture(scope="session")
def multi_labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(train.csv, validation.csv): texts whose labels are the first syllables of more than a tenth of their words."""
    random_ = random.Random(5)
    folder = tmp_path_factory.mktemp("multi_labelled")
    rows = []
    for number in range(700):
        words = _sentence(random_, number % 2).split()
        starts = [word[:2] for word in words]
        labels = [start for start in sorted(set(starts)) if len(words) > 4 and starts.count(start) > 0.15 * len(words)]
        rows.append({"text": " ".join(words), "label": ",".join(labels)})
    return write_csv(folder / "train.csv", rows[:600]), write_csv(folder / "validation.csv", rows[600:])


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(train.jsonl, validation.jsonl): questions with 2 to 4 choices, of which the right one has words of one half."""
    random_ = random.Random(7)
    folder = tmp_path_factory.mktemp("questions")
    rows = []
    for _ in range(500):
        right, count = random_.randint(0, 3), random_.randint(2, 4)
        choices = [" ".join(_sentence(random_, 0).split()[:9]) for _ in range(count)]
        choices[right % count] = " ".join(_sentence(random_, 1).split()[:9])
        question = " ".join(random_.choices(WORDS, k=random_.randint(1, 12)))
        rows.append({"question": question, "choices": choices, "answer": right % count})
    for name, part in (("train", rows[:420]), ("validation", rows[420:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder / "train.jsonl", folder / "validation.jsonl"


@pytest.fixture(scope="session")
def multiple_choice(questions: tuple[Path, Path]) -> tuple[str, ...]:
    """Arguments of a multiple-choice run of 20 steps of 32 questions, ragged."""
    return ("--task", "multiple-choice", "--data.train_files", str(questions[0]), *TINY) + (
        "--data.validation_files", str(questions[1]), "--data.max_length", "32",
        "--recipe.duration", "20 steps", "--recipe.warmup", "5 steps", "--recipe.lr", "1e-3",
    )  # fmt: skip


@pytest.fixture(scope="session")
def multi_label(multi_labelled: tuple[Path, Path]) -> tuple[str, ...]:
    """Arguments of a multi-label run of 20 steps of 32, ragged."""
    return ("--task", "multi-label", "--data.train_files", str(multi_labelled[0]), *TINY) + (
        "--data.validation_files", str(multi_labelled[1]), "--data.max_length", "64",
        "--recipe.duration", "20 steps", "--recipe.warmup", "5 steps", "--recipe.lr", "1e-3",
    )  # fmt: skip


@pytest.fixture(scope="session")
def regression(numbered: tuple[Path, Path]) -> tuple[str, ...]:
    """Arguments of a regression of 30 steps of 32, ragged."""
    return ("--task", "regression", "--data.train_files", str(numbered[0]), *TINY) + (
        "--data.validation_files", str(numbered[1]), "--data.max_length", "64",
        "--recipe.duration", "30 steps", "--recipe.warmup", "10 steps", "--recipe.lr", "5e-4",
    )  # fmt: skip


@pytest.fixture(scope="session")
def token_classification(tagged: tuple[Path, Path]) -> tuple[str, ...]:
    """Arguments of a token classification of 30 steps of 32, with sentences that are cut into windows."""
    return ("--task", "token-classification", "--data.train_files", str(tagged[0]), *TINY) + (
        "--data.validation_files", str(tagged[1]), "--data.max_length", "16",
        "--recipe.duration", "30 steps", "--recipe.warmup", "10 steps", "--recipe.lr", "3e-3",
    )  # fmt: skip


@pytest.fixture(scope="session")
def question_answering(asked: tuple[Path, Path]) -> tuple[str, ...]:
    """Arguments of question answering, 20 steps of 32, with contexts that are cut into windows."""
    return ("--task", "question-answering", "--data.train_files", str(asked[0]), *TINY) + (
        "--data.validation_files", str(asked[1]), "--data.max_length", "64", "--data.doc_stride", "20",
        "--recipe.duration", "20 steps", "--recipe.warmup", "5 steps", "--recipe.lr", "3e-3",
    )  # fmt: skip
