"""Random commands `python -m warmup plan`: each must end in plans or in one line of error, never in a traceback.

Usage:  python tests/fuzz_plans.py [--count 10000] [--seed 0]

Most values are those of real recipes, some are far beyond them, and some are no values at all.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import math
import random
import shlex
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import Any

import warmup.plan_command as command
from warmup import __main__ as package

# --- Functions of a user's, good and bad, for the fields that take module:function ---


def half(*args: Any) -> float:
    return 0.5 * float(args[0])


def exits(*args: Any) -> None:
    raise SystemExit(0)


def raises(*args: Any) -> float:
    raise KeyError("a message\nof two lines")


def leaves(*args: Any) -> float:
    raise GeneratorExit


def fails_on_the_way(start: float, peak: float, fraction: Any, *more: Any) -> float:
    if 0.3 < fraction < 0.7:
        raise RuntimeError("only in the middle")
    return peak


def nonsense(*args: Any) -> Any:
    return [None, "1e-4", b"1", math.nan, -math.inf, -1.0, 1j, [], {}, 10**400, object()][
        int(float(args[0]) * 1e6) % 11
    ]


FUNCTIONS = (
    "fuzz_plans:half", "fuzz_plans:exits", "fuzz_plans:raises", "fuzz_plans:leaves", "fuzz_plans:fails_on_the_way",
    "fuzz_plans:nonsense", "fuzz_plans:FUNCTIONS", "fuzz_plans:missing", "sys:exit", "math:sqrt", "no_such_module:f",
    ":f", "fuzz_plans:", ".relative:f", "builtins:str",
)  # fmt: skip

# --- Random commands ---

NUMBERS = (1, 2, 3, 7, 37, 100, 1000, 10_000, 123_457, 1_000_000, 0.5, 2.5)
WILD_NUMBERS = ("0", "1e18", "3e99", "1e-99", "9" * 40, "9" * 400, "9" * 5000, "0.000001", "0." + "0" * 400 + "1")
RATES = ("1e-5", "1e-4", "6.25e-4", "1e-3", "0.1", "3")
LOW_RATES = ("0", "1e-9", "1e-7", "1e-6")
WILD_RATES = ("0", "1e-320", "5e-324", "1e-300", "1e300", "1.7e308", "inf", "nan", "-1", "reference")
FACTORS = ("0.1", "0.5", "0.9", "0.97", "1", "2", "10")
WILD_FACTORS = ("1e-300", "1e300", "1e-17", "0.9999999999999999", "0", "nan", "1e400")
BETAS = ("0", "0.8", "0.9", "0.98", "0.999", "0.9999")
WILD_BETAS = ("0.9999999999999999", "1e-300", "1", "-0.1", "nan")
COUNTS = (1, 2, 3, 7, 8, 32, 81, 256, 4096)
WILD_COUNTS = (0, -1, 2**31, 2**53, 2**63, 10**18, 10**400, "9" * 5000, "1e3", "many")
RAMPS = ("linear", "exponential", "cosine", "constant", "polynomial")
DECAYS = (
    "constant", "linear", "cosine", "polynomial", "step", "multistep", "exponential", "inverse_sqrt", "1-sqrt", "wsd",
)  # fmt: skip
COOLDOWNS = ("linear", "cosine", "1-sqrt")


class Draw(random.Random):
    """Random values of the fields of a recipe."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.wild = self.choice((0.0, 0.0, 0.02, 0.1))
        """The share of values that are far beyond those of real recipes, or none at all; in half of the commands 0."""

    def pick(self, usual: tuple, wild: tuple, share: float = 1.0) -> str:
        return str(self.choice(wild if self.random() < share * self.wild else usual))

    def rate(self) -> str:
        return self.pick(RATES, WILD_RATES)

    def low_rate(self) -> str:
        return self.pick(LOW_RATES, WILD_RATES)

    def beta(self) -> str:
        return self.pick(BETAS, WILD_BETAS)

    def count(self) -> str:
        return self.pick(COUNTS, WILD_COUNTS)

    def length(self) -> str:
        number = self.pick(NUMBERS, WILD_NUMBERS)
        multiplier = self.pick(("", "", "", "k", "M"), ("B", "G"))
        if self.random() < 0.3:
            return f"{self.pick((1, 6, 10, 37.5, 100), WILD_NUMBERS)}%"
        unit = self.pick(("steps", "steps", "samples", "epochs", "tokens"), ("miles", "step", ""), 0.5)
        return f"{number}{multiplier} {unit}"

    def function(self, names: tuple[str, ...]) -> str:
        return self.pick(names, FUNCTIONS, 3.0)


def random_command(draw: Draw) -> list[str]:
    """The arguments of one command: about half of all fields of a recipe, and where it is to run."""
    fields = {
        "recipe.optimizer": lambda: draw.choice(("adamw", "adam", "rmsprop", "sgd", "lamb", "adafactor")),
        "recipe.lr": draw.rate,
        "recipe.scaling": lambda: draw.function(("linear", "sqrt", "none", "auto", "noise")),
        "recipe.max_lr": draw.rate,
        "recipe.warmup": draw.length,
        "recipe.warmup_scaling": lambda: draw.choice(("samples", "steps")),
        "recipe.ramp": lambda: draw.function(RAMPS),
        "recipe.ramp_power": lambda: draw.pick(FACTORS, WILD_FACTORS),
        "recipe.start_lr": draw.low_rate,
        "recipe.decay": lambda: draw.function(DECAYS),
        "recipe.end_lr": draw.low_rate,
        "recipe.decay_cycles": draw.count,
        "recipe.decay_gamma": lambda: draw.pick(FACTORS, WILD_FACTORS),
        "recipe.decay_power": lambda: draw.pick(FACTORS, WILD_FACTORS),
        "recipe.cooldown": lambda: draw.choice(COOLDOWNS),
        "recipe.decay_length": draw.length,
        "recipe.eps": draw.rate,
        "recipe.momentum": draw.beta,
        "recipe.alpha": draw.beta,
        "recipe.beta_scaling": lambda: draw.choice(
            ("none", "sde", "half-life", "none,half-life", "sde,", "half-life,sde")
        ),
        "recipe.beta_floor": draw.beta,
        "recipe.weight_decay_scaling": lambda: draw.choice(("none", "timescale")),
        "recipe.noise_scale": draw.length,
        "recipe.scaled": lambda: draw.choice(("lr", "all")),
        "batch.accumulation": draw.count,
        "batch.global_size": draw.count,
        "batch.warmup_lr": lambda: draw.choice(("scale", "keep")),
        "launch.world_size": draw.count,
    }
    rare = {
        "recipe.optimizer", "recipe.momentum", "recipe.alpha", "recipe.eps", "recipe.max_lr", "recipe.end_lr",
        "recipe.start_lr", "batch.accumulation", "batch.global_size", "launch.world_size", "recipe.beta_scaling",
        "recipe.beta_floor", "recipe.weight_decay_scaling", "recipe.noise_scale", "recipe.scaled",
    }  # fmt: skip
    duration = f"{draw.pick(NUMBERS, WILD_NUMBERS)}k {draw.pick(('steps', 'samples', 'epochs', 'tokens'), ('%', ''))}"
    argv = [f"--recipe.duration={duration}", f"--batch.per_device={draw.count()}"]
    if draw.random() < 0.8:
        argv += [f"--num-samples={draw.pick((1000, 37, 2**20), WILD_COUNTS)}"]
        argv += [f"--tokens-per-sample={draw.pick((1, 62.5, 512), ('1e300', '0.5', 'nan', 'inf', '0'))}"]
    argv += [f"--{name}={value()}" for name, value in fields.items() if draw.random() < (0.2 if name in rare else 0.5)]
    if draw.random() < 0.95:
        argv.append(f"--recipe.reference_batch_size={draw.count()}")
    if draw.random() < 0.3:
        argv += [f"--batch.warmup={draw.length()}", f"--batch.start_size={draw.pick((1, 1, 2, 7, 32), WILD_COUNTS)}"]
    if draw.random() < 0.3:
        argv += ["--recipe.betas", draw.beta(), draw.beta()]
    if draw.random() < 0.3:
        argv += ["--recipe.decay_milestones", *(draw.length() for _ in range(draw.randint(1, 3)))]
    if draw.random() < 0.8:
        argv += ["--world-sizes", *(draw.count() for _ in range(draw.randint(1, 3)))]
    if draw.random() < 0.2:
        argv.append(f"--every={draw.pick((1, 7, 100), WILD_COUNTS, 3.0)}")
    if draw.random() < 0.7:
        argv.append("--json")
    return argv


# --- What must hold of each ---


def run(argv: list[str]) -> tuple[int, str, str]:
    """The command's exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = package.main(["plan", *argv])
        except SystemExit as exited:
            raise AssertionError(f"it exits with {exited.code!r} from within") from exited
    return code, out.getvalue(), err.getvalue()


def check(argv: list[str]) -> str:
    """Run a command. Returns how it ended; raises what it raises, or AssertionError if its answer is wrong."""
    code, out, err = run(argv)
    if code == 2:
        assert out == "", f"printed {out[:200]!r} before its error"
        assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), f"not one line: {err!r}"
        assert len(err) < 600, f"a line of {len(err)} characters: {err[:600]}"
        return "refused"
    assert (code in (0, 1), err) == (True, ""), f"exit code {code}, {err!r}"
    if "--json" not in argv:
        lines = out.splitlines()
        table = [line.split() for line in lines if not line.startswith(("error [", "warning ["))]
        assert table[0][:2] == ["ranks", "batch"] and not {"nan", "inf"} & {cell for row in table for cell in row}, out
        assert any(line.startswith("error [") for line in lines) == bool(code)
        assert max(map(len, lines)) < 900, f"a line of {max(map(len, lines))} characters"
        return ("planned", "finding")[code]
    plans = json.loads(out, parse_constant=_not_json)["plans"]
    assert any(finding["level"] == "error" for plan in plans for finding in plan["findings"]) == bool(code)
    for plan in plans:
        _check_plan(plan)
    return ("planned", "finding")[code]


def _not_json(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def _check_plan(plan: dict[str, Any]) -> None:
    """What must hold of a plan: its lengths agree, and each rate is between its least and its greatest."""
    if plan["peak_lr"] is None:
        assert plan["lr"] == [] and plan["findings"][0]["level"] == "error"
        return
    size, start = plan["global_batch_size"], plan["batch_sizes"][0]["size"]
    assert plan["warmup_samples"] == _position(plan, plan["warmup_steps"])
    assert plan["total_samples"] == _position(plan, plan["total_steps"]) >= plan["duration_samples"] > 0
    assert _position(plan, plan["total_steps"] - 1) < plan["duration_samples"]
    assert start == (plan["batch_start_size"] or size) or not plan["batch_warmup_samples"]
    assert all(0 <= beta < 1 for beta in (*plan["betas"], plan["momentum"], plan["alpha"]))
    assert 0 < plan["peak_lr"] < math.inf and 0 < plan["eps"] < math.inf and 0 < plan["scale"] < math.inf
    steps, rates = zip(*plan["lr"], strict=True)
    assert steps[0] == 0 and steps[-1] == plan["total_steps"] - 1 and list(steps) == sorted(set(steps))
    assert all(0 <= rate < math.inf for rate in rates)
    if ":" not in plan["ramp"] + plan["decay"] + plan["scaling"] * (start < size) and plan["decay_gamma"] <= 1:
        most = max(plan["peak_lr"], plan["start_lr"]) * (1 + 1e-12)
        least = min(plan["peak_lr"], plan["end_lr"], plan["start_lr"] if plan["warmup_steps"] else math.inf)
        least *= start / size if plan["scaling"] != "none" else 1
        assert all(least * (1 - 1e-12) <= rate <= most for rate in rates), (least, most, rates)


def _position(plan: dict[str, Any], step: int) -> int:
    """Samples of the steps before a step."""
    phase = [phase for phase in plan["batch_sizes"] if phase["step"] <= step][-1]
    return phase["samples"] + (step - phase["step"]) * phase["size"]


def fuzz(count: int, seed: int = 0) -> Iterator[tuple[list[str], str, str]]:
    """Run random commands. Yields each one's arguments, how it ended, and its traceback or ""."""
    parser = command._parser
    command._parser = functools.cache(parser)  # it takes most of the time, and is the same for all
    try:
        for index in range(count):
            argv = random_command(Draw(seed * 1_000_003 + index))
            try:
                yield argv, check(argv), ""
            except KeyboardInterrupt:
                raise
            except BaseException:  # a user's function may raise anything
                yield argv, "failed", traceback.format_exc()
    finally:
        command._parser = parser


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--count", type=int, default=10_000, help="commands to run (default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="other seeds give other commands")
    options = arguments.parse_args()
    ends: Counter[str] = Counter()
    for argv, end, error in fuzz(options.count, options.seed):
        ends[end] += 1
        if error:
            short = [token if len(token) < 100 else token[:60] + "..." for token in argv]
            print(f"python -m warmup plan {shlex.join(short)}\n{error}", file=sys.stderr)
    print(f"{options.count} commands: " + ", ".join(f"{number} {end}" for end, number in sorted(ends.items())))
    return int(ends["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
