"""Which columns of a .conll file are read, and which of its lines are no words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_rows import config, prepared, row_format

from warmup.config import Config
from warmup.config.data import Data
from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data.readers import read_rows
from warmup.training.data.readers.columns import BadRow
from warmup.training.data.sources import resolve, resolve_part
from warmup.training.tasks import create_task

TASK = "token-classification"


def write(folder: Path, content: str, name: str = "a.conll") -> str:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return str(path)


def read(file: str, predict: bool = False, **data: Any) -> tuple[list[dict], list[str]]:
    bad: list[BadRow] = []
    expected = row_format(TASK, **data)
    if predict:
        sources, expected = resolve_part([file], "--predict", "test", TASKS[TASK]), expected.without("label")
    else:
        sources, _ = resolve([file], (), TASKS[TASK])
    rows = list(read_rows(sources, expected, bad, 100))
    return rows, [f"{row.number}: {row.reason}" for row in bad]


def refusal(file: str, **data: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(file, **data)
    return str(caught.value)


CONLL_U = """# sent_id = 1
# text = Don't go.
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVB\t_\t0\troot\t_\tSpaceAfter=No
2\tn't\tnot\tPART\tRB\t_\t1\tadvmod\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t1\txcomp\t_\tSpaceAfter=No
3.1\tthere\tthere\tADV\tRB\t_\t_\t_\t_\t_
4\t.\t.\tPUNCT\t.\t_\t1\tpunct\t_\t_

# sent_id = 2
1\tYes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_
"""


def test_conll_u(tmp_path: Path) -> None:
    file = write(tmp_path, CONLL_U)
    expected = [{"text": ["Do", "n't", "go", "."], "label": ["AUX", "PART", "VERB", "PUNCT"]},
                {"text": ["Yes"], "label": ["INTJ"]}]  # fmt: skip
    assert read(file) == (expected, [])
    assert read(file, predict=True)[0] == [{"text": row["text"]} for row in expected]
    assert [row["label"] for row in read(file, word_column=2, tag_column=5)[0]] == [["VB", "RB", "VB", "."], ["UH"]]
    assert read(file, word_column=3)[0][0]["text"] == ["do", "not", "go", "."]


def test_comments_are_no_words(tmp_path: Path) -> None:
    content = "# id 0001\tdomain=en\nAnna _ _ B-PER\nleft _ _ O\n\n# id 0002\tdomain=en\n# more\n# _ _ O\n# _ _ O\n"
    assert read(write(tmp_path, content)) == (
        [{"text": ["Anna", "left"], "label": ["B-PER", "O"]}, {"text": ["#", "#"], "label": ["O", "O"]}],
        [],
    )
    words = "#begin document (a); part 000\nAnna\n\n# a comment\n#\nleft\n"
    assert read(write(tmp_path, words), predict=True)[0] == [{"text": ["Anna"]}, {"text": ["#", "left"]}]
    tags = "# O\nno O\n\n#1 O\n"
    assert [row["text"] for row in read(write(tmp_path, tags))[0]] == [["#", "no"], ["#1"]]
    # Within a sentence, a line with # is a word or a bad line.
    assert read(write(tmp_path, "a O\n# b c\n\nd O\n"))[0] == [
        {"text": ["a", "#"], "label": ["O", "c"]}, {"text": ["d"], "label": ["O"]},
    ]  # fmt: skip


def test_comments_with_as_many_columns_as_words(tmp_path: Path) -> None:
    """GermEval's, which end with a tab, in a file whose first column counts; and one of words where lines have two."""
    source = "#\thttp://a.example/1\t[2010-07-04]\t\n"
    counted = write(tmp_path, f"{source}1\tRio\tB-LOC\tO\n2\t#\tO\tO\n\n{source}1\tist\tO\tO\n2\tda\tO\tO\n\n")
    expected = [{"text": ["Rio", "#"], "label": ["B-LOC", "O"]}, {"text": ["ist", "da"], "label": ["O", "O"]}]
    assert read(counted, word_column=2, tag_column=3) == (expected, [])
    assert read(counted, predict=True, word_column=2)[0] == [{"text": row["text"]} for row in expected]
    two = write(tmp_path, "# id 0001\tdomain=en\nAnna\tB-PER\n#\tO\n\n#\tO\nx\tO\n\n", "b.conll")
    assert read(two) == (
        [{"text": ["Anna", "#"], "label": ["B-PER", "O"]}, {"text": ["#", "x"], "label": ["O", "O"]}],
        [],
    )


@pytest.mark.parametrize("first", [0, 1])
def test_a_first_column_that_counts(first: int, tmp_path: Path) -> None:
    sentences = [["Anna", "left"], ["So", "did", "I"]]
    content = "\n".join(
        "".join(f"{number} {word} O\n" for number, word in enumerate(words, first)) for words in sentences
    )
    file = write(tmp_path, content)
    assert refusal(file) == (
        f"{file}: the first of its 3 columns counts the words; say which has the words: --data.word_column 2, and "
        f"which the tags: --data.tag_column 3 (a line is '{first} Anna O')"
    )
    assert [row["text"] for row in read(file, word_column=2)[0]] == sentences


def test_numbers_may_be_words(tmp_path: Path) -> None:
    assert read(write(tmp_path, "1 O\n2 O\n\n7 O\nup O\n"))[0][0]["text"] == ["1", "2"]
    assert read(write(tmp_path, "1\n2\n"), predict=True)[0] == [{"text": ["1", "2"]}]


def test_a_first_column_that_is_always_the_same(tmp_path: Path) -> None:
    file = write(tmp_path, "".join(f"bc/cnn/00 w{number} O\n" for number in range(20)))
    assert "the first of its 3 columns is always the same; say which has the words" in refusal(file)
    assert read(file, word_column=2)[0][0]["text"][:2] == ["w0", "w1"]


def test_columns_by_number(tmp_path: Path) -> None:
    file = write(tmp_path, "-DOCSTART- -X- -X- O\n\na NNP I-NP B-PER\nb VB O O\n\nc NN\n\nd NN O O\n")
    assert [row["label"] for row in read(file)[0]] == [["B-PER", "O"], ["NN"], ["O"]]
    rows, bad = read(file, tag_column=3)
    assert [row["label"] for row in rows] == [["I-NP", "O"], ["O"]]
    assert bad == ["6: 2 columns, and column 3 is to be read"]
    for wrong in ({"word_column": 0}, {"tag_column": -1}):
        with pytest.raises(UserError, match="1 or above"):
            Data(**wrong)
    with pytest.raises(UserError, match="data.tag_column: is for the task token-classification"):
        Config(task="mlm", data=Data(tag_column=2))


@pytest.mark.parametrize("blank", ["\u3000", "\u00a0", "\u2003"])
def test_blanks_of_other_scripts_are_tokens(blank: str, tmp_path: Path) -> None:
    expected = [{"text": ["a", blank, "b"], "label": ["O", "O", "B-X"]}]
    for parted in " \t":
        content = f"a{parted}O\n{blank}{parted}O\nb{parted}B-X\n"
        assert read(write(tmp_path, content)) == (expected, [])
    row = {"tokens": expected[0]["text"], "tags": expected[0]["label"]}
    assert read(write(tmp_path, json.dumps(row) + "\n", "a.jsonl")) == (expected, [])
    assert read(write(tmp_path, f"tokens,tags\na {blank} b,O O B-X\n", "a.csv")) == (expected, [])
    assert read(write(tmp_path, f"a {blank} b\n", "a.txt"), predict=True)[0] == [{"text": ["a", blank, "b"]}]


def test_what_is_guessed_is_said_and_changes_the_key(tmp_path: Path, own_cache: Path) -> None:
    plain = "".join(f"w{number} B-X\nand O\n\n" for number in range(20))

    def made(content: str, name: str, **data: Any) -> Any:
        return prepared(config(write(tmp_path, content, name), task=TASK, **data))

    first = made(plain, "a.conll")
    assert first.key == made(plain, "b.conll", word_column=None).key and "columns" not in first.notes
    assert made(plain, "c.conll", word_column=1).key != first.key
    counted = made((CONLL_U + "\n") * 10, "d.conll")
    assert counted.notes["columns"].startswith("words in column 2 and tags in column 4, as in CoNLL-U")
    assert create_task(config(task=TASK)).notes(first.labels) == {}
    assert create_task(config(task=TASK)).notes(counted.labels) == {
        "f1": "the mean over the tags, not of entities: 'AUX' is not like B-PER, I-PER or O"
    }
