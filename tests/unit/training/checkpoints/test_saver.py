"""Saving: when and what, while the training goes on; and the optimizer restored to the bit."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.optim import Optimizer
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizerFast,
    PreTrainedModel,
)

from warmup.clock import StepClock
from warmup.config.recipe import Recipe
from warmup.config.run import Checkpoint
from warmup.errors import UserError
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.training.checkpoints import format as checkpoint_format
from warmup.training.checkpoints import saver as saver_module
from warmup.training.checkpoints.restore import restore_engine
from warmup.training.checkpoints.saver import Saver, last_good, time
from warmup.training.engines.ddp import DDPEngine
from warmup.training.engines.optimizers import build_optimizer
from warmup.training.models import build as model_build

OPTIMIZERS = [
    ("adamw", {}),
    ("adam", {}),
    ("sgd", {"momentum": 0.0}),
    ("sgd", {"momentum": 0.9}),
    ("rmsprop", {"momentum": 0.0}),
    ("rmsprop", {"momentum": 0.9}),
    ("lamb", {}),
    ("adafactor", {}),
]


def small(tokenizer: BertTokenizerFast, name: str = "tiny", task: str = "mlm") -> PreTrainedModel:
    kind = {"mlm": AutoModelForMaskedLM, "classification": AutoModelForSequenceClassification}[task]
    labels = ("a", "b") if task == "classification" else ()
    spec = model_build.ModelSpec(
        name, kind, max_length=32, seed=0, dropout=0.0, labels=labels, problem_type="single_label_classification"
    )
    return model_build.build_model(spec, tokenizer)[0]


def optimizer_of(model: PreTrainedModel, name: str = "adamw", **recipe: object) -> Optimizer:
    given = Recipe(name, 1e-2, 8, duration="100 steps", **recipe)
    return build_optimizer(model, make_plan(given, Topology(1, 8)))


def train(model: PreTrainedModel, optimizer_: Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids_BT = torch.randint(5, 200, (4, 8), generator=generator)
        labels = ids_BT if model.config.architectures is None or "LM" in type(model).__name__ else ids_BT[:, 0] % 2
        model(input_ids=ids_BT, labels=labels).loss.backward()
        optimizer_.step()
        optimizer_.zero_grad()


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)


def state_of(optimizer_: Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer_.state_dict()["state"]
    return {
        f"{number}/{what}": value.clone()
        for number, values in state.items()
        for what, value in values.items()
        if value is not None
    }


def clock_at(step: int, batch: int = 32, num_samples: int | None = 1000) -> StepClock:
    made = StepClock(batch, num_samples)
    for _ in range(step):
        made.advance(tokens=10)
    return made


def engine_of(model: PreTrainedModel, optimizer_: Optimizer) -> DDPEngine:
    """Of one process; on the device meta, for which nothing is special."""
    accelerator = SimpleNamespace(
        num_processes=1, device=torch.device("meta"), prepare=lambda *parts: parts, scaler=None
    )
    return DDPEngine(
        accelerator, model, optimizer_, make_plan(Recipe(duration="1 steps", scaling="none"), Topology(1, 8))
    )


def saver_of(run: Path, every: str | None = None, main: bool = True, **given: object) -> Saver:
    accelerator = SimpleNamespace(is_main_process=main, device=torch.device("cpu"))
    fields = dict(engine=None, tokenizer=None, duration_samples=1000)
    return Saver(run=run, accelerator=accelerator, settings=Checkpoint(every, keep=2), **(fields | given))


@pytest.fixture
def saver(tokenizer: BertTokenizerFast, tmp_path: Path) -> Saver:
    """Of a model that was trained for three steps."""
    model = small(tokenizer)
    trained = optimizer_of(model)
    train(model, trained, 3)
    return saver_of(tmp_path, engine=engine_of(model, trained), tokenizer=tokenizer)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing is written until it is set."""
    release, write = threading.Event(), checkpoint_format.write

    def late(target: Path, fill: Callable[[Path], None]) -> None:
        assert release.wait(30)
        write(target, fill)

    monkeypatch.setattr(checkpoint_format, "write", late)
    yield release
    release.set()


def saved(saver: Saver, step: int = 3, state: dict | None = None) -> Path:
    saver.save(clock_at(step), {} if state is None else state, lambda: None)
    saver.wait()
    saver.raise_failure()
    return checkpoint_format.checkpoint_path(saver.run, step)


# When


def due_at(saver: Saver, clock: StepClock, steps: int, skipped: tuple[int, ...] = ()) -> list[tuple[int, int]]:
    """(step, consumed samples) of the checkpoints of a run that checks after each applied step whether one is due."""
    made = []
    for turn in range(steps):
        clock.advance(applied=turn not in skipped)
        if turn not in skipped and saver.is_due(clock):
            saver.record_saved(clock)
            made.append((clock.step, clock.consumed_samples))
    return made


@pytest.mark.parametrize(("every", "size"), [
    ("3 steps", 96), ("1 step", 32), ("0.1 epochs", 100), ("1 epochs", 1000), ("100 samples", 100), ("32 samples", 32),
    ("1 samples", 1), ("10%", 80), ("2.5%", 20), ("33 samples", 33), ("0.0001%", Fraction(8, 10_000)),
])  # fmt: skip
def test_due_at_the_first_step_past_each_multiple(tmp_path: Path, every: str, size: int | Fraction) -> None:
    """In a run of 800 samples, a set of 1000, in steps of 32."""
    made = due_at(saver_of(tmp_path, every, duration_samples=800), clock_at(0), 100)
    expected = [(step, 32 * step) for step in range(1, 101) if 32 * step // size > 32 * (step - 1) // size]
    assert made == expected and expected


@pytest.mark.parametrize("every", [None, "15 minutes"])
def test_never_due_by_its_counters(tmp_path: Path, every: str | None) -> None:
    assert due_at(saver_of(tmp_path, every), clock_at(0), 100) == []


def test_due_by_tokens_of_applied_steps(tmp_path: Path) -> None:
    """Of 10 tokens each; a saver that goes on from a checkpoint counts from it."""
    saver, clock, made = saver_of(tmp_path, "25 tokens"), clock_at(0), []
    for _ in range(10):
        clock.advance(tokens=10)
        if saver.is_due(clock):
            saver.record_saved(clock)
            made.append(clock.step)
    assert made == [3, 5, 8, 10]
    again = saver_of(tmp_path, "25 tokens")
    again.record_saved(clock_at(3))
    assert not again.is_due(clock_at(4)) and again.is_due(clock_at(5))


def test_a_skipped_step_counts_by_its_samples_and_not_as_a_step(tmp_path: Path) -> None:
    by_steps = due_at(saver_of(tmp_path, "3 steps"), clock_at(0), 9, skipped=(2, 3))
    assert by_steps == [(3, 160), (6, 256)]
    by_samples = due_at(saver_of(tmp_path, "100 samples"), clock_at(0), 9, skipped=(3, 4))
    assert by_samples == [(4, 192), (5, 224)]  # 128 was passed in a skipped step: made up for after the next


def test_one_in_between_changes_no_multiple(tmp_path: Path) -> None:
    """As of the best evaluation, or as a run goes on from."""
    for every, expected in (("3 steps", [6, 9]), ("100 samples", [7, 10])):
        saver, clock = saver_of(tmp_path, every), clock_at(4)
        saver.record_saved(clock)
        assert saver.saved_step == 4 and not saver.is_due(clock)
        assert [step for step, _ in due_at(saver, clock, 6)] == expected


def test_a_jump_over_several_multiples_is_one_checkpoint(tmp_path: Path) -> None:
    saver, clock = saver_of(tmp_path, "10 samples"), clock_at(3)
    assert saver.is_due(clock)
    saver.record_saved(clock)
    assert not saver.is_due(clock)


def test_requested_by_the_time_of_rank_0_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    savers = {main: saver_of(tmp_path, "2 minutes", main) for main in (True, False)}
    counted = saver_of(tmp_path, "1 steps")
    for saver in (*savers.values(), counted):
        saver._saved_time = now
    for seconds, expected in ((0, False), (119.9, False), (120, True), (500, True)):
        now = 1000.0 + seconds
        assert [savers[True].save_requested(), savers[False].save_requested(), counted.save_requested()] == [
            expected,
            False,
            False,
        ]
    savers[True].record_saved(clock_at(3))
    assert not savers[True].save_requested()
    now += 120
    assert savers[True].save_requested()


# What


@pytest.mark.parametrize(("name", "recipe"), OPTIMIZERS, ids=lambda value: str(value))
def test_model_and_optimizer_come_back_to_the_bit_and_go_on_alike(
    tokenizer: BertTokenizerFast, tmp_path: Path, name: str, recipe: dict
) -> None:
    model = small(tokenizer)
    original = optimizer_of(model, name, **recipe)
    train(model, original, 3)
    folder = saved(saver_of(tmp_path, engine=engine_of(model, original), tokenizer=tokenizer))
    checkpoint_format.verify(folder)

    again = small(tokenizer, str(folder))
    restored = optimizer_of(again, name, **recipe)
    restore_engine(engine_of(again, restored), folder)
    assert equal(weights(model), weights(again)) and equal(state_of(original), state_of(restored))
    assert bool(state_of(original)) == (recipe.get("momentum") != 0 or name == "rmsprop")
    for its, theirs in zip(restored.param_groups, original.param_groups, strict=True):
        same = its.keys() - {"params", "step"}  # a count that LAMB does not use
        assert {key: its[key] for key in same} == {key: theirs[key] for key in same}

    before = weights(again)
    for trained, its in ((model, original), (again, restored)):
        train(trained, its, 2, seed=1)
    assert equal(weights(model), weights(again)) and equal(state_of(original), state_of(restored))
    assert not equal(before, weights(again))


def test_state_that_was_not_restored_makes_a_difference(tokenizer: BertTokenizerFast, saver: Saver) -> None:
    """So the test above sees it."""
    again = small(tokenizer, str(saved(saver)))
    train(again, optimizer_of(again), 1, seed=1)
    train(saver.engine.unwrapped_model, saver.engine.optimizer, 1, seed=1)
    assert not equal(weights(saver.engine.unwrapped_model), weights(again))


def test_the_weights_are_what_from_pretrained_wants(tokenizer: BertTokenizerFast, saver: Saver) -> None:
    folder = saved(saver)
    loaded, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert equal(weights(saver.engine.unwrapped_model), weights(loaded))
    decoder, words = loaded.get_output_embeddings(), loaded.get_input_embeddings()
    assert decoder.weight is words.weight  # tied again


def test_weights_that_share_memory_are_stored_once(saver: Saver) -> None:
    folder = saved(saver)
    stored = load_file(folder / checkpoint_format.MODEL)
    kept = {name for name, _ in saver.engine.unwrapped_model.named_parameters()}
    assert (
        stored.keys() == kept and len(saver.engine.unwrapped_model.state_dict()) == len(kept) + 2
    )  # decoder weight and bias
    numbers = sum(parameter.numel() for parameter in saver.engine.unwrapped_model.parameters())
    assert (folder / checkpoint_format.MODEL).stat().st_size < 4 * numbers + 10_000
    assert {name.rpartition("/")[0] for name in load_file(folder / checkpoint_format.OPTIMIZER)} == kept


def test_the_tokenizer_is_there_too(tokenizer: BertTokenizerFast, saver: Saver) -> None:
    loaded = AutoTokenizer.from_pretrained(saved(saver))
    assert loaded.get_vocab() == tokenizer.get_vocab() and loaded.model_max_length == 512
    assert loaded("w1 w2 w99")["input_ids"] == tokenizer("w1 w2 w99")["input_ids"]


def test_the_state_is_json_as_it_was_when_asked(saver: Saver, held: threading.Event) -> None:
    state = {"clock": clock_at(3).state_dict(), "loss": 1 / 3, "best": None, "label": "é"}
    expected = json.loads(json.dumps(state))
    saver.save(clock_at(3), state, lambda: None)
    state["clock"]["step"] = 999
    held.set()
    saver.wait()
    assert checkpoint_format.read_state(checkpoint_format.checkpoint_path(saver.run, 3)) == expected


def test_the_copy_is_a_copy(saver: Saver, held: threading.Event) -> None:
    """Training goes on while the thread writes."""
    model_before, state_before = weights(saver.engine.unwrapped_model), state_of(saver.engine.optimizer)
    waited = saver.save(clock_at(3), {}, lambda: None)
    assert 0 < waited < 5 and not checkpoint_format.list_checkpoints(saver.run)  # the disk was not waited for
    train(saver.engine.unwrapped_model, saver.engine.optimizer, 2, seed=1)
    assert not equal(model_before, weights(saver.engine.unwrapped_model))
    held.set()
    saver.wait()
    folder = checkpoint_format.checkpoint_path(saver.run, 3)
    stored = load_file(folder / checkpoint_format.MODEL)
    assert all(torch.equal(stored[name], model_before[name]) for name in stored)
    again = small(saver.tokenizer, str(folder))
    restored = optimizer_of(again)
    restore_engine(engine_of(again, restored), folder)
    assert equal(state_of(restored), state_before)


def test_the_next_one_waits_for_the_one_before(saver: Saver, held: threading.Event) -> None:
    """Whose buffers it uses again; on the way it says that it is alive."""
    saver.save(clock_at(3), {}, lambda: None)
    first = weights(saver.engine.unwrapped_model)
    train(saver.engine.unwrapped_model, saver.engine.optimizer, 1, seed=1)
    second = weights(saver.engine.unwrapped_model)
    ticks = itertools.count(1)
    saver.save(clock_at(4), {}, lambda: (next(ticks), held.set()))
    assert next(ticks) > 1
    saver.wait()
    for step, expected in ((3, first), (4, second)):
        folder = checkpoint_format.checkpoint_path(saver.run, step)
        checkpoint_format.verify(folder)
        stored = load_file(folder / checkpoint_format.MODEL)
        assert all(torch.equal(stored[name], expected[name]) for name in stored)
    assert saver.saved_step == 4


def test_waiting_may_have_a_limit(saver: Saver, held: threading.Event) -> None:
    saver.wait()  # for nothing
    saver.save(clock_at(3), {}, lambda: None)
    saver.wait(limit=0)
    assert checkpoint_format.list_checkpoints(saver.run) == []
    held.set()
    saver.wait()
    assert len(checkpoint_format.list_checkpoints(saver.run)) == 1


def test_other_ranks_write_nothing(saver: Saver, tmp_path: Path) -> None:
    saver = saver_of(tmp_path, "3 steps", main=False, engine=saver.engine)
    assert saver.save(clock_at(3), {}, lambda: None) < 1
    saver.wait()
    assert saver.saved_step == 3 and not saver.is_due(clock_at(3)) and list(tmp_path.iterdir()) == []
    assert not saver.failed()


def test_older_ones_are_removed_but_for_the_best(saver: Saver) -> None:
    """3 is the best, then 6; 5 is kept, and with it the best checkpoint up to it."""
    expected = {3: [3], 4: [4, 3], 5: [5, 4, 3], 6: [6, 5, 3], 7: [7, 6]}
    for step, best in ((3, 3), (4, 3), (5, 3), (6, 6), (7, 6)):
        saved(saver, step, {"evaluations": {"best_step": best}})
        assert [
            checkpoint_format.step_of(folder) for folder in checkpoint_format.list_checkpoints(saver.run)
        ] == expected[step]


# Errors


def test_a_write_that_fails_is_kept_until_it_is_asked_for(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    good = saved(saver)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saver_module, "save_file", full)
    assert not saver.failed()
    saver.save(clock_at(4), {}, lambda: None)
    saver.wait()
    assert saver.failed()
    with pytest.raises(UserError) as caught:
        saver.raise_failure()
    assert str(caught.value) == (
        f"checkpoint: {saver.run}/checkpoints cannot be written: No space left on device; the last good checkpoint is "
        f"{good}"
    )
    assert checkpoint_format.newest_valid(saver.run) == (good, [])


@pytest.mark.parametrize(("error", "words"), [
    (SafetensorError("I/O error"), "cannot be written, is there space left? (I/O error)"),
    (ValueError("something else"), "something else"),
])  # fmt: skip
def test_other_errors_are_said_as_they_are(
    saver: Saver, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(saver_module, "save_file", fail)
    saver.save(clock_at(3), {}, lambda: None)
    saver.wait()
    with pytest.raises(UserError) as caught:
        saver.raise_failure()
    folder = f"{saver.run}/checkpoints"
    assert str(caught.value) == f"checkpoint: {folder} cannot be written: {words}; there is no checkpoint yet"


def test_a_file_in_the_way(saver: Saver) -> None:
    (saver.run / "checkpoints").write_text("")
    saver.save(clock_at(3), {}, lambda: None)
    saver.wait()
    with pytest.raises(UserError, match=r"cannot be written: (File exists|Not a directory); there is no checkpoint"):
        saver.raise_failure()


def test_without_a_failure_nothing_is_refused(saver: Saver) -> None:
    saver.raise_failure()
    saved(saver)
    assert not saver.failed()


# Another model


def test_the_state_of_another_model_is_refused(tokenizer: BertTokenizerFast, saver: Saver) -> None:
    file = saved(saver) / checkpoint_format.OPTIMIZER
    other = small(tokenizer, task="classification")
    with pytest.raises(UserError) as caught:
        restore_engine(engine_of(other, optimizer_of(other)), file.parent)
    text, _, unknown = str(caught.value).rpartition(" ")
    assert text == f"{file} does not fit the model: only one of them has"
    ours, theirs = ({name for name, _ in model.named_parameters()} for model in (saver.engine.unwrapped_model, other))
    assert unknown in ours ^ theirs


def test_frozen_weights_have_no_state_and_need_none(tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    model = small(tokenizer)
    model.bert.embeddings.requires_grad_(False)
    trained = optimizer_of(model)
    train(model, trained, 2)
    folder = saved(saver_of(tmp_path, engine=engine_of(model, trained), tokenizer=tokenizer))
    again = small(tokenizer, str(folder))
    again.bert.embeddings.requires_grad_(False)
    restored = optimizer_of(again)
    restore_engine(engine_of(again, restored), folder)
    assert equal(state_of(trained), state_of(restored))


@pytest.mark.parametrize(("name", "recipe"), [("adamw", {}), ("sgd", {"momentum": 0.9})])
def test_a_weight_that_never_had_a_gradient(
    tokenizer: BertTokenizerFast, tmp_path: Path, name: str, recipe: dict
) -> None:
    """As one that the task does not use: the optimizer has no state for it, before and after."""
    model = small(tokenizer)
    unused = torch.nn.Parameter(torch.ones(3))
    model.cls.register_parameter("unused", unused)
    trained = optimizer_of(model, name, **recipe)
    train(model, trained, 2)
    assert unused not in trained.state or not any(trained.state[unused].values())
    folder = saved(saver_of(tmp_path, engine=engine_of(model, trained), tokenizer=tokenizer))
    restored = optimizer_of(model, name, **recipe)
    restore_engine(engine_of(model, restored), folder)
    assert equal(state_of(trained), state_of(restored))


def test_a_restored_state_is_its_own(saver: Saver) -> None:
    """Not a view of the file, which the next checkpoints remove."""
    folder = saved(saver)
    again = small(saver.tokenizer, str(folder))
    restored = optimizer_of(again)
    restore_engine(engine_of(again, restored), folder)
    for values in restored.state.values():
        for tensor in values.values():  # in memory of its own, and as aligned as that of a run that went through
            assert tensor.untyped_storage().nbytes() == tensor.nbytes and tensor.data_ptr() % 16 == 0
    before = (folder / checkpoint_format.OPTIMIZER).read_bytes()
    train(again, restored, 1)
    assert (folder / checkpoint_format.OPTIMIZER).read_bytes() == before
    (folder / checkpoint_format.OPTIMIZER).write_bytes(bytes(len(before)))
    train(again, restored, 1)
    assert all(torch.isfinite(tensor).all() for tensor in state_of(restored).values())


# In words


def test_what_there_is_to_go_on_from(saver: Saver) -> None:
    assert last_good(saver.run) == "there is no checkpoint yet"
    first, second = saved(saver, 3), saved(saver, 4)
    assert last_good(saver.run) == f"the last good checkpoint is {second}"
    (second / checkpoint_format.STATE).unlink()
    assert last_good(saver.run) == f"the last good checkpoint is {first}"
