"""What every task must do. A new one is tested by being in the registry and having a fixture of its name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import squad_rules
import torch
from conftest import TINY
from pointing_task import registered, write_rows
from scipy import stats
from seqeval.metrics import f1_score as entity_f1_score
from sklearn import metrics as sklearn_metrics
from transformers import PreTrainedModel, pipeline

from warmup.config import Config
from warmup.config.tasks import TASKS, TEXT_FILES, lower_is_better
from warmup.training.data.batching.layout import lay_out
from warmup.training.data.batching.micro_batch import MicroBatch, Targets, to_device, zero_weight
from warmup.training.data.prepare import Prepared, prepare_data
from warmup.training.data.samples import IGNORE_INDEX
from warmup.training.models.build import build_model
from warmup.training.models.input_layout import InputLayout
from warmup.training.models.partial_forward import install_partial_forward
from warmup.training.reporting.export import export_model
from warmup.training.run.arguments import parse
from warmup.training.tasks import REGISTRY, Objective, Task, create_task
from warmup.training.tasks.task import evaluation_batch

CPU = torch.device("cpu")
SAMPLES = 24


@dataclass(frozen=True)
class Case:
    """A task with data and a model that has not been trained."""

    config: Config
    task: Task
    data: Prepared
    objective: Objective

    def model(self) -> PreTrainedModel:
        spec = replace(self.task.model_spec(self.config, self.data.labels), seed=1, dropout=0.0)
        return build_model(spec, self.data.tokenizer)[0].eval()

    def batch(self, indices: np.ndarray) -> MicroBatch:
        return evaluation_batch(self.objective, self.data.validation, indices)


@pytest.fixture(scope="module")
def pointing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """A task whose targets are groups of positions, which is registered for the tests of this file."""
    rows = write_rows(tmp_path_factory.mktemp("pointing") / "rows.jsonl", 600)
    with registered():
        yield "--task", "pointing", "--data.train_files", str(rows), "--data.max_length", "64", *TINY


@pytest.fixture(params=[*REGISTRY, "pointing"])
def case(request: pytest.FixtureRequest) -> Case:
    config, _ = parse(list(request.getfixturevalue(request.param.replace("-", "_"))))
    task = create_task(config)
    data = prepare_data(config, task)
    return Case(config, task, data, task.objective(data.tokenizer, data.labels, data.train))


def computed(model: PreTrainedModel, batch: MicroBatch, layout: InputLayout) -> tuple[torch.Tensor, Targets]:
    """Logits of a model and the targets that belong to them."""
    inputs, targets = to_device(lay_out(batch, layout), CPU)
    return model(**inputs).logits, targets


def layouts(case: Case) -> dict[str, tuple[PreTrainedModel, InputLayout]]:
    """The same model with inputs in every way: padded and whole as transformers has it, in rows, and in rows of the few
    shapes for which layers are compiled.
    """
    head = case.task.head
    ways = {"as transformers has it": (case.model(), InputLayout(head=head))}
    for packed in (False, True):
        for masked_only in (False, True):
            model = case.model()
            layout = install_partial_forward(model, head, packed, masked_only)
            ways[f"packed {packed}, masked only {masked_only}"] = model, layout
    if "speed.compile" in case.task.facts.fields:
        model, length = case.model(), case.config.data.max_length
        ways["few shapes"] = model, install_partial_forward(model, head, True, True, static_max_length=length)
    return ways


def test_registry_and_facts_name_the_same_tasks() -> None:
    assert [name for name in REGISTRY if name != "pointing"] == [name for name in TASKS if name != "pointing"]


def test_it_is_what_its_facts_say(case: Case) -> None:
    facts = TASKS[case.config.task]
    assert case.task.facts is facts and facts.metrics[0] == "loss" and lower_is_better(facts.name, "loss")
    assert {"ids", "length", *case.task.features} == set(case.data.validation.table.column_names)
    assert case.task.row_format.roles[0] == "text"
    assert ("label" in case.task.row_format.roles) == (facts.label is not None) == bool(case.data.labels)
    assert facts.label is None or not set(TEXT_FILES) & set(facts.file_kinds)  # which hold no labels


def test_a_batch_says_what_is_predicted_where(case: Case) -> None:
    batch = case.batch(np.arange(SAMPLES))
    assert batch.sample_count == SAMPLES and len(batch.positions_N) == len(batch.targets) == len(batch.sample_ids_N)
    assert batch.target_count > 0 and set(batch.sample_ids_N.tolist()) <= set(range(SAMPLES))
    assert batch.token_count == int(case.data.validation.lengths[:SAMPLES].sum())
    assert batch.inputs["attention_mask"].flatten()[batch.positions_N].all()
    nothing = zero_weight(batch)
    assert nothing.target_count == nothing.token_count == 0
    for counted in (batch, nothing):
        _, targets = to_device(counted, CPU)
        assert int(case.objective.target_counts(targets).sum()) == counted.target_count
    model, layout = case.model(), InputLayout(head=case.task.head)
    assert case.objective.training_loss_sum(*computed(model, nothing, layout)).item() == 0.0


def test_the_same_in_every_layout(case: Case) -> None:
    """Loss, gradient and results, packed or padded, with the last layer and the head at the read positions or all."""
    batch, found = case.batch(np.arange(SAMPLES)), {}
    for name, (model, layout) in layouts(case).items():
        loss = case.objective.training_loss_sum(*computed(model, batch, layout))
        gradient = torch.autograd.grad(loss, model.get_input_embeddings().weight)[0]
        found[name] = loss.detach(), gradient, case.objective.results(*computed(model, batch, layout)).detach()
    reference = found.pop("as transformers has it")
    for name, values in found.items():
        for ours, theirs in zip(values, reference, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4 * float(theirs.abs().max()), msg=name)


@pytest.mark.parametrize("pieces", [2, 5, SAMPLES])
def test_the_same_on_any_cut(case: Case, pieces: int) -> None:
    """The sums over micro-batches are those of one batch: loss, gradient, and the results of each sample."""
    model, objective = case.model(), case.objective
    layout = install_partial_forward(model, case.task.head, packed=True, masked_only=True)

    def total(parts: list[np.ndarray]) -> tuple[float, torch.Tensor, torch.Tensor]:
        model.zero_grad()
        loss_sum, results = 0.0, []
        for part in parts:
            logits, targets = computed(model, case.batch(part), layout)
            loss = objective.training_loss_sum(logits, targets)
            loss.backward()
            loss_sum += loss.item()
            results.append(objective.results(logits, targets).detach())
        return loss_sum, model.get_input_embeddings().weight.grad.clone(), torch.cat(results)

    whole, cut = total([np.arange(SAMPLES)]), total(np.array_split(np.arange(SAMPLES), pieces))
    assert cut[0] == pytest.approx(whole[0], rel=1e-5)
    torch.testing.assert_close(cut[1], whole[1], rtol=1e-4, atol=2e-5 * float(whole[1].abs().max()))
    torch.testing.assert_close(cut[2], whole[2], rtol=1e-4, atol=1e-5)


def test_metrics_are_those_of_other_libraries(case: Case) -> None:
    """Of transformers' padded forward pass over the held-out data, computed by numpy, scipy, scikit-learn, seqeval."""
    model, objective = case.model(), case.objective
    batch = case.batch(np.arange(len(case.data.validation)))
    with torch.no_grad():
        logits, targets = computed(model, batch, InputLayout(head=case.task.head))
    results = objective.combine(objective.results(logits, targets).double(), case.data.validation)
    ours = objective.metrics(float(objective.losses(logits, targets).sum()), results)
    assert ours["targets"] == batch.target_count  # by which a step divides its loss
    if case.config.task == "question-answering":
        (file,), data = case.config.data.validation_files, case.config.data
        theirs = squad_rules.evaluate(model, case.data.tokenizer, Path(file), data.max_length, data.doc_stride)
        assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-5)
        return
    values = targets.values.numpy()
    if values.ndim == 2 and values.dtype.kind == "i":  # whether a choice is right, and its number
        found = of_groups(logits[:, 0].double().numpy(), values[:, 0], targets.sample_ids_N.numpy())
        assert ours == pytest.approx(found, rel=1e-5)
        return
    kept = ~np.isnan(values) if values.dtype.kind == "f" else values != IGNORE_INDEX
    labels, rows = values[kept], logits.flatten(0, -2).double().numpy()[kept]
    if case.config.task == "pointing":
        assert ours == pytest.approx(of_groups(rows[:, 0], labels, targets.sample_ids_N.numpy()[kept]), rel=1e-5)
        return
    if values.ndim == 2:
        assert ours == pytest.approx(of_many_labels(logits.double().numpy(), values), rel=1e-5)
        return
    for name in case.task.facts.metrics:
        theirs = independent_metric(name, rows, labels, sequences(case, kept, targets))
        assert ours[name] == pytest.approx(theirs, rel=1e-5, abs=1e-6), name
    assert ours["targets"] == len(labels)


def of_groups(scores_N: np.ndarray, right_N: np.ndarray, samples_N: np.ndarray) -> dict[str, float]:
    losses, hits = [], []
    for sample in np.unique(samples_N):
        scores, right = scores_N[samples_N == sample], int(right_N[samples_N == sample].argmax())
        losses.append(np.log(np.exp(scores).sum()) - scores[right])
        hits.append(scores.argmax() == right)
    return {"loss": float(np.mean(losses)), "accuracy": float(np.mean(hits)), "targets": len(losses)}


def of_many_labels(logits_NC: np.ndarray, labels_NC: np.ndarray) -> dict[str, float]:
    probabilities_NC = 1 / (1 + np.exp(-logits_NC))
    preds_NC = probabilities_NC >= 0.5
    losses = [
        sklearn_metrics.log_loss(labels, probabilities, labels=[0, 1])
        for labels, probabilities in zip(labels_NC.T, probabilities_NC.T, strict=True)
    ]
    return {
        "loss": float(np.mean(losses)),
        "micro_f1": sklearn_metrics.f1_score(labels_NC, preds_NC, average="micro"),
        "macro_f1": sklearn_metrics.f1_score(labels_NC, preds_NC, average="macro"),
        "subset_accuracy": sklearn_metrics.accuracy_score(labels_NC, preds_NC),
        "targets": len(labels_NC),
    }


def sequences(case: Case, kept: np.ndarray, targets: Targets) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the classes, and the sample of each target."""
    return case.data.labels, targets.sample_ids_N.numpy()[kept]


def independent_metric(name: str, logits_NC: np.ndarray, labels_N: np.ndarray, of_samples: Any) -> float:
    classes, samples_N = of_samples
    best_N = logits_NC.argmax(1)
    if name in ("loss", "perplexity") and labels_N.dtype.kind != "f":
        normalised = logits_NC - np.log(np.exp(logits_NC).sum(1, keepdims=True))
        loss = -normalised[np.arange(len(labels_N)), labels_N].mean()
        return float(loss if name == "loss" else np.exp(loss))
    if name in ("loss", "mse"):
        return float(np.square(logits_NC[:, 0] - labels_N).mean())
    if name in ("pearson", "spearman"):
        return float(getattr(stats, f"{name}r")(logits_NC[:, 0], labels_N).statistic)
    if name == "accuracy":
        return float((best_N == labels_N).mean())
    if name == "matthews":
        return sklearn_metrics.matthews_corrcoef(labels_N, best_N)
    assert name == "f1"
    if all(label == "O" or label[1:2] == "-" for label in classes):
        names = np.array(classes)
        tags = [
            [names[ids[samples_N == sample]].tolist() for sample in np.unique(samples_N)] for ids in (labels_N, best_N)
        ]
        return entity_f1_score(*tags)
    return sklearn_metrics.f1_score(labels_N, best_N, average="binary" if len(classes) == 2 else "macro")


def test_its_export_loads_in_its_pipeline(case: Case, tmp_path: Path) -> None:
    folder = export_model(tmp_path, case.model(), case.data.tokenizer, "card", None)
    facts = case.task.facts
    if facts.pipeline is None:
        assert case.task.auto_class.from_pretrained(folder)
        return
    made = pipeline(facts.pipeline, model=str(folder), tokenizer=str(folder))
    mask = case.data.tokenizer.mask_token if facts.pipeline == "fill-mask" else ""
    assert made(f"baran dotel {mask}".strip())


def test_predictions_come_from_the_same_logits(case: Case) -> None:
    """A row's record is made of what `postprocess` keeps at the positions that `tokenize` marks."""
    if case.task.facts.no_prediction:
        with pytest.raises(ValueError, match="--predict: "):
            case.task.predictor(case.data.tokenizer, case.data.labels, {})
        return
    predictor = case.task.predictor(case.data.tokenizer, case.data.labels, {})
    assert "label" not in predictor.row_format.roles
    mask = f" {case.data.tokenizer.mask_token}" if case.task.facts.label is None else ""
    row = {"text": _line(predictor, f"baran dotel{mask}"), "choices": ["lumis", "kimis"], "pair": "kimis"}
    parsed = predictor.row_format.assign(text="text", choice="choices", pair="pair").parse(row)
    batch = {role: [value] for role, value in parsed.items()}
    columns = predictor.tokenize(batch)
    assert {"ids", "length", "token_targets", "truncated", *predictor.features} == set(columns)
    targets = np.array(columns["token_targets"][0]) > 0
    logits = torch.randn(int(targets.sum()), max(len(case.data.labels), 1) if mask == "" else len(case.data.tokenizer))
    values = predictor.postprocess(logits).numpy()
    assert values.shape == (int(targets.sum()), predictor.width)
    record = predictor.to_record(values, [{name: column[0] for name, column in columns.items()}])
    assert record and set(predictor.csv_columns) <= record.keys()


def _line(predictor: Any, text: str) -> Any:
    (from_line,) = (column.from_line for column in predictor.row_format.columns if column.role == "text")
    return from_line(text)


def test_random_parts_depend_on_seed_epoch_and_sample_alone(case: Case) -> None:
    indices, epochs = np.array([3, 11, 5]), np.array([0, 2, 1])
    together = case.objective.collate(case.data.train, indices, epochs, 7)
    sequences_N = together.positions_N // together.input_ids.shape[1]
    for number in range(3):
        alone = case.objective.collate(case.data.train, indices[[number]], epochs[[number]], 7)
        length = alone.input_ids.shape[1]
        own = sequences_N[together.sample_ids_N == number].unique()
        assert torch.equal(together.input_ids[own, :length], alone.input_ids)
        assert torch.equal(together.targets[together.sample_ids_N == number], alone.targets)
