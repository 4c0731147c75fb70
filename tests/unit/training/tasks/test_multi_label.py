"""Multi-label: how labels are read, the loss, the metrics, and thresholds that are chosen on held-out data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_rows import config, copy, jsonl, prepared, texts
from made_samples import collate, objective, samples, targets_of
from scipy.special import expit
from sklearn import metrics as sklearn_metrics
from transformers import BertTokenizerFast

from warmup.config import Config
from warmup.config.recipe import Recipe
from warmup.errors import UserError
from warmup.training.data.batching.micro_batch import Targets, zero_weight
from warmup.training.data.prepare import Prepared
from warmup.training.tasks import create_task, multi_label

LABELS = ("joy", "love", "fear")
OF_ROWS = [[0, 2], [], [1], [0, 1, 2], [0], [2]]


def rows(of_rows: list[list[int]] = OF_ROWS) -> Any:
    return samples([[2, 9, 3]] * len(of_rows), second_start=[3] * len(of_rows), label=of_rows)


def batch(tokenizer: BertTokenizerFast, recipe: Recipe | None = None) -> tuple[Any, Any]:
    """The objective, and a batch of all rows."""
    made = objective("multi-label", tokenizer, LABELS, rows(), recipe)
    return made, collate(made, rows(), range(len(OF_ROWS)))


def test_targets_are_indicators_at_the_first_token(tokenizer: BertTokenizerFast) -> None:
    _, made = batch(tokenizer)
    assert made.targets.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]]
    assert made.positions_N.tolist() == [0, 3, 6, 9, 12, 15] and made.target_count == 6  # an empty list is a target


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(
    ("weights", "numbers"),
    [((), [1, 1, 1]), (("love=3", "fear=0.5"), [1, 3, 0.5]), (("balanced",), [3 / 3, 4 / 2, 3 / 3])],
)
def test_the_loss_is_that_of_torch(
    weights: tuple[str, ...], numbers: list[float], smoothing: float, tokenizer: BertTokenizerFast
) -> None:
    """Its sum over rows of the mean over labels, as transformers' models have it; held out, neither weights nor
    smoothing count.
    """
    made, collated = batch(tokenizer, Recipe(class_weights=weights, label_smoothing=smoothing))
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    smoothed = collated.targets * (1 - smoothing) + smoothing / 2
    theirs = F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=torch.tensor(numbers))
    assert float(made.training_loss_sum(logits, targets_of(collated))) == pytest.approx(6 * float(theirs), rel=1e-6)
    plain = F.binary_cross_entropy_with_logits(logits, collated.targets)
    assert float(made.losses(logits, targets_of(collated)).mean()) == pytest.approx(float(plain), rel=1e-6)
    nothing = zero_weight(collated)
    assert made.training_loss_sum(logits, targets_of(nothing)).item() == 0.0


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [(), ("love=3",), ("balanced",)])
def test_a_new_head_begins_where_no_text_is_needed(
    weights: tuple[str, ...], smoothing: float, tokenizer: BertTokenizerFast
) -> None:
    """With its biases alone, the loss cannot be lowered by others."""
    recipe = Recipe(class_weights=weights, label_smoothing=smoothing)
    made, collated = batch(tokenizer, recipe)
    task = create_task(Config(task="multi-label", recipe=recipe))
    biases = torch.tensor(task.output_biases(LABELS, rows()), requires_grad=True)
    made.training_loss_sum(biases.expand(6, 3), targets_of(collated)).backward()
    assert biases.grad.abs().max() < 1e-6
    assert np.isfinite(task.output_biases((*LABELS, "never"), rows())).all()


def test_a_weight_of_a_label_that_does_not_exist(tokenizer: BertTokenizerFast) -> None:
    with pytest.raises(UserError, match="recipe.class_weights: no class 'hate' in the training data"):
        batch(tokenizer, Recipe(class_weights=("hate=2",)))


def random_results(count: int, labels: int, seed: int = 2) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Probabilities, of which some are equal, labels, and the results that they come from."""
    random = np.random.default_rng(seed)
    there = random.random((count, labels)) < np.linspace(0, 0.6, labels)
    logits = (2 * random.normal(size=(count, labels)) + 2 * there - 1).round(1)
    results = torch.from_numpy(np.concatenate([logits, there], 1).astype(np.float64))
    return expit(logits), there, results


def test_metrics_and_scores_are_those_of_scikit_learn() -> None:
    probabilities, there, results = random_results(200, 5)
    thresholds = torch.tensor([0.51, 0.3, 0.7, 0.51, 0.9], dtype=torch.float64)
    preds = probabilities >= thresholds.numpy()
    ours = multi_label.label_metrics(30.0, results, thresholds)
    assert ours == pytest.approx(
        {
            "loss": 0.15,
            "micro_f1": sklearn_metrics.f1_score(there, preds, average="micro"),
            "macro_f1": sklearn_metrics.f1_score(there, preds, average="macro", zero_division=0),
            "subset_accuracy": sklearn_metrics.accuracy_score(there, preds),
            "targets": 200,
        }
    )
    names = tuple("abcde")
    theirs = sklearn_metrics.precision_recall_fscore_support(there, preds, zero_division=0)
    found = multi_label.label_breakdown(results, thresholds, names)
    assert found.kind == "label"
    for name, *numbers in zip(names, *theirs, strict=True):
        assert list(found.per_class[name].values()) == pytest.approx(numbers)


def test_tuned_thresholds_have_the_largest_f1_that_there_is() -> None:
    probabilities, there, results = random_results(60, 6)
    thresholds = multi_label.tune_thresholds(results)
    assert not there[:, 0].any() and thresholds[0] == 0.5
    for label in range(1, 6):
        cuts = [0, *np.unique(probabilities[:, label]) + 1e-6]
        f1 = [sklearn_metrics.f1_score(there[:, label], probabilities[:, label] >= cut) for cut in cuts]
        ours = sklearn_metrics.f1_score(there[:, label], probabilities[:, label] >= float(thresholds[label]))
        assert ours == pytest.approx(max(f1))
    before = multi_label.label_metrics(1.0, results, torch.full((6,), 0.5))
    after = multi_label.label_metrics(1.0, results, thresholds)
    assert after["macro_f1"] > before["macro_f1"]


@pytest.mark.parametrize(("value", "labels"), [
    (["joy", "love"], ["joy", "love"]), ([], []), ("", []), ("  ", []), ("joy", ["joy"]),
    ("joy| love ", ["joy", "love"]), ('["a|b", "joy"]', ["a|b", "joy"]), ("joy|joy", ["joy"]),
    ([1, 2.0], ["1", "2"]), (3, ["3"]), ("['a|b', \"it's\"]", ["a|b", "it's"]), ("[]", []),
])  # fmt: skip
def test_labels_of_a_row(value: Any, labels: list[str]) -> None:
    assert multi_label.parse_labels(value, "'label'", "|", ()) == labels


@pytest.mark.parametrize(("value", "message"), [
    (None, "'label' is missing"), ("joy||love", "label 2 of 'label' is blank"), ({"joy": 1}, "'label' is not a list"),
    ([["joy"]], "label 1 of 'label' is neither a string nor a whole number"), ([0.5], "neither a string nor a whole"),
    ("[joy", None), ("[joy]", "'label' looks like a JSON list and is not valid JSON"),
])  # fmt: skip
def test_labels_that_cannot_be_used(value: Any, message: str | None) -> None:
    if message is None:
        assert multi_label.parse_labels(value, "'label'", "|", ()) == [value]
        return
    with pytest.raises(ValueError, match=message):
        multi_label.parse_labels(value, "'label'", "|", ())


def test_numbers_and_names_of_a_file() -> None:
    assert multi_label.parse_labels("2,joy,0", "'label'", ",", LABELS) == ["fear", "joy"]
    for wrong in ("3", "-1", "hate"):
        message = f"'label' holds '{wrong}', which is none of the 3 names of data.label_names"
        with pytest.raises(ValueError, match=message):
            multi_label.parse_labels(wrong, "'label'", ",", LABELS)


def test_a_number_that_is_also_a_name() -> None:
    stars = ("1", "2", "3")
    assert multi_label.parse_labels("0,3", "'label'", ",", stars) == ["1", "3"]
    for unclear in ("1", "2"):  # the second and third name, or itself
        with pytest.raises(ValueError, match=f"'label' holds '{unclear}', which could be a name or a number"):
            multi_label.parse_labels(unclear, "'label'", ",", stars)


def test_logits_that_are_no_number_predict_nothing() -> None:
    targets = Targets(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.arange(2), 2)
    results = multi_label.logits_and_labels(torch.tensor([[float("nan"), float("nan")], [3.0, -3.0]]), targets)
    assert results[:, 2:].tolist() == targets.values.tolist()
    metrics = multi_label.label_metrics(0.0, results, torch.full((2,), 0.5))
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0) / 2) and metrics["subset_accuracy"] == 0.5


def test_indicator_columns() -> None:
    assert multi_label.parse_indicators({"a": "1", "b": 0, "c": True, "d": 1.0, "e": "False", "f": "0.0"}) == [*"acd"]
    for wrong in ("2", "", None, "yes", 0.5, -1):
        with pytest.raises(ValueError, match=r"'b' holds .*, which is neither 0 nor 1"):
            multi_label.parse_indicators({"a": 1, "b": wrong})


def labels_of(data: Prepared) -> list[list[str]]:
    return [[data.labels[index] for index in row] for row in data.train.table["label"].to_pylist()]


@pytest.mark.usefixtures("own_cache")
def test_all_ways_of_writing_labels_give_the_same_samples(tmp_path: Path) -> None:
    of_rows = [[LABELS[index] for index in OF_ROWS[number % 6]] for number in range(60)]
    texts_ = texts(60)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(LABELS) + "\n")
    lists = jsonl(tmp_path / "a.jsonl", [{"text": t, "labels": r} for t, r in zip(texts_, of_rows, strict=True)])
    parted = tmp_path / "b.tsv"
    parted.write_text("text\tlabel\n" + "".join(f"{t}\t{';'.join(r)}\n" for t, r in zip(texts_, of_rows, strict=True)))
    numbers = tmp_path / "c.csv"
    lines = [
        f'{t},"{",".join(str(LABELS.index(label)) for label in r)}"\n' for t, r in zip(texts_, of_rows, strict=True)
    ]
    numbers.write_text("text,label\n" + "".join(lines))
    columns = tmp_path / "d.csv"
    lines = [f"{t},{','.join(str(int(name in r)) for name in LABELS)}\n" for t, r in zip(texts_, of_rows, strict=True)]
    columns.write_text("text,Joy,love,FEAR\n" + "".join(lines))  # labels are spelled as they were asked for
    found = [
        prepared(config(str(file), task="multi-label", **options))
        for file, options in (
            (lists, {}),
            (parted, {"label_separator": ";"}),
            (numbers, {"label_names": str(names)}),
            (columns, {"label_columns": LABELS}),
        )
    ]
    assert [data.labels for data in found] == [tuple(sorted(LABELS))] * 2 + [LABELS] * 2
    assert len({data.key for data in found}) == 4
    for data in found[1:]:
        assert [set(row) for row in labels_of(data)] == [set(row) for row in labels_of(found[0])]
    names.write_text("\n".join([*LABELS, "hate"]))
    multi_label.read_names.cache_clear()
    data = prepared(config(str(numbers), task="multi-label", label_names=str(names)))
    assert data.labels == (*LABELS, "hate") and data.notes["labels never seen"] == "'hate'"
    assert data.key not in {other.key for other in found}


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(("labels", "options", "message"), [
    ([[]] * 9, {}, "data.train_files: no row has a label"),
    (["joy"] * 9, {"label_names": "no/file.txt"}, "data.label_names: no/file.txt cannot be read: No such file"),
    ([1, 7] * 9, {"label_names": "names.txt"}, "9 bad rows so far.* is none of the 3 names of data.label_names"),
    ([2, 3] * 9, {"label_columns": ("label",)}, r"bad rows so far.*'label' holds '2', which is neither 0 nor 1"),
    ([0, 1] * 9, {"label_columns": ("love",)}, "no column 'love'; name one with --data.label_columns"),
])  # fmt: skip
def test_data_that_is_refused(
    labels: list, options: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    multi_label.read_names.cache_clear()
    Path("names.txt").write_text("\n".join(LABELS))
    file = jsonl(
        tmp_path / "a.jsonl", [{"text": t, "label": r} for t, r in zip(texts(len(labels)), labels, strict=True)]
    )
    with pytest.raises(UserError, match=message):
        prepared(config(file, task="multi-label", validation_files=(copy(file),), max_bad_rows=8, **options))


def test_an_outcome_names_labels_and_the_likeliest() -> None:
    assert multi_label.label_outcome([-2.2, 2.6, -0.4, 1, 0, 1], LABELS) == {
        "label": "joy, fear",
        "prediction": "love 0.93, fear 0.40, joy 0.10",
    }
    assert multi_label.label_outcome([-2.2, 2.6, -0.4, 0, 0, 0], LABELS)["label"] == "none"


@pytest.mark.parametrize("thresholds", [{}, {"thresholds": {"joy": 0.8, "love": 0.1, "fear": 0.4}}])
def test_a_record_has_the_labels_above_their_thresholds(thresholds: dict, tokenizer: BertTokenizerFast) -> None:
    predictor = create_task(Config(task="multi-label")).predictor(tokenizer, LABELS, thresholds)
    record = predictor.to_record(np.array([[0.7, 0.2, 0.4]]), [])
    assert record["labels"] == (["love", "fear"] if thresholds else ["joy"])
    assert json.loads(json.dumps(record["scores"])) == {"joy": 0.7, "love": 0.2, "fear": 0.4}
