"""Checks of what state.json of a checkpoint says: each value has its type and range before anything is done with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from warmup.elastic import LRSchedule
from warmup.noise_scale import NoiseScale
from warmup.plan import Plan, Topology

POSITION_FIELDS = ("step", "samples", "consumed_samples", "tokens")
_LARGEST = 2**53  # up to which JSON readers agree on whole numbers
_PLAN_TYPES = get_type_hints(Plan)


def check_state(state: Mapping[str, Any]) -> None:
    """Raise ValueError, which names the field, unless a state is of the form that `RunState.state` returns.

    The learning rate schedule is checked by `check_lr_schedule`, once it is read.
    """
    _check(state, "clock", _is_position, "has a step, samples, consumed_samples and tokens, whole numbers from 0 up")
    clock = state["clock"]
    if not clock["step"] <= clock["samples"] <= clock["consumed_samples"]:
        raise ValueError("clock should have step <= samples <= consumed_samples")
    _check(state, "config", lambda value: isinstance(value, dict), "is an object")
    _check(state, "data", lambda value: isinstance(value, str), "is a text")
    _check(state, "world_size", lambda value: _is_count(value) and value > 0, "is a whole number from 1 up")
    for name in ("evaluations", "stream", "scaler", "noise_scale"):
        if name in state:
            _check(state, name, lambda value: isinstance(value, dict), "is an object")
    _check_evaluations(state.get("evaluations", {}))
    for name, value in state.get("stream", {}).items():
        if not _is_count(value):
            raise ValueError(f"stream.{_short(name)} is {_short(value)} and should be a whole number from 0 up")
    if "noise_scale" in state:
        try:
            NoiseScale.from_state_dict(state["noise_scale"])
        except ValueError as error:
            raise ValueError(f"noise_scale.{error}") from error


def _check_evaluations(evaluations: Mapping[str, Any]) -> None:
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "metrics": (_are_metrics, "has a number per metric"),
        "best_metrics": (_are_metrics, "has a number per metric"),
        "details": (_are_objects, "has an object per name"),
        "best_details": (_are_objects, "has an object per name"),
        "evaluated": (lambda value: value == {} or _is_position(value), "is {} or a position as clock"),
        "best_step": (lambda value: value is None or _is_count(value), "is null or a whole number from 0 up"),
        "without_improvement": (_is_count, "is a whole number from 0 up"),
        "pending": (lambda value: isinstance(value, bool), "is true or false"),
    }
    for name, (is_valid, expected) in checks.items():
        if name in evaluations:
            _check(evaluations, name, is_valid, expected, "evaluations.")
    if bool(evaluations.get("best_metrics")) != (evaluations.get("best_step") is not None):
        raise ValueError("evaluations should have both of best_step and best_metrics, or neither")


def check_lr_schedule(lr_schedule: LRSchedule) -> None:
    """Raise ValueError, which names the field, unless all numbers of a schedule and its plans can be followed."""
    for schedule in _with_earlier(lr_schedule):
        for name in ("global_batch_size", "since", "rewarm_samples"):
            _check(vars(schedule), name, _is_count, "is a whole number from 0 up")
        plan = vars(schedule.plan)
        for name, hint in _PLAN_TYPES.items():
            _check(plan, name, lambda value, hint=hint: _is_of_type(value, hint), f"is of type {_name(hint)}", "plan.")
        for name in ("reference_batch_size", "total_samples", "duration_samples"):
            _check(plan, name, lambda value: value > 0, "is 1 or above", "plan.")
        split = (schedule.plan.world_size, schedule.plan.per_device_batch_size, schedule.plan.accumulation)
        Topology(*split, schedule.plan.global_batch_size, batch_start_size=schedule.plan.batch_start_size)


def _with_earlier(lr_schedule: LRSchedule | None) -> list[LRSchedule]:
    """A schedule and all before it, the newest first. Raises ValueError if one is something else."""
    found: list[LRSchedule] = []
    while lr_schedule is not None:
        if not isinstance(lr_schedule, LRSchedule):
            raise ValueError(f"before is {_short(lr_schedule)} and should be null or a schedule")
        found.append(lr_schedule)
        lr_schedule = lr_schedule.before
    return found


def _check(
    fields: Mapping[str, Any], name: str, is_valid: Callable[[Any], bool], expected: str, prefix: str = ""
) -> None:
    """Raise ValueError unless a field is there and valid.

    Args:
        fields: holds the field.
        name: its name.
        is_valid: tells whether a value can be used.
        expected: what a valid value is or has, as "is a text".
        prefix: what the name begins with in the message.
    """
    if name not in fields:
        raise ValueError(f"{prefix}{name} is missing")
    if not is_valid(fields[name]):
        verb, _, rest = expected.partition(" ")
        should = {"is": "be", "has": "have"}[verb]
        raise ValueError(f"{prefix}{name} is {_short(fields[name])} and should {should} {rest}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _is_position(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_count(value.get(name)) for name in POSITION_FIELDS)


def _are_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(type(number) in (int, float) for number in value.values())


def _are_objects(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(part, dict) for part in value.values())


def _is_of_type(value: Any, hint: Any) -> bool:
    """Whether a value is of a type of Plan: whole numbers from 0 up, finite or not other numbers, texts, tuples."""
    if get_origin(hint) is UnionType:
        return any(_is_of_type(value, part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        if not isinstance(value, tuple) or (Ellipsis not in parts and len(value) != len(parts)):
            return False
        return all(_is_of_type(item, parts[0]) for item in value)
    if hint is int:
        return _is_count(value)
    if hint is float:
        return type(value) in (int, float)
    return isinstance(value, hint)


def _name(hint: Any) -> str:
    if hint is NoneType:
        return "null"
    return str(hint) if get_args(hint) else hint.__name__


def one_line(error: Exception) -> str:
    """The text of an error in one line, short, in characters that every terminal takes."""
    text = str(error)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _short(value: Any) -> str:
    """A value in one short line."""
    try:
        text = ascii(value)
    except RecursionError:
        text = "nested too deeply"
    return text if len(text) <= 60 else f"{text[:60]}..."
