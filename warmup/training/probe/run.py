"""The probe: trials of a recipe in small, through the code that trains it, and what came of them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from jsonargparse import Namespace
from tqdm import tqdm

from warmup.config import Config
from warmup.config.run import Log
from warmup.duration import DataSize, Duration
from warmup.errors import UserError
from warmup.plan import Plan
from warmup.terminal import is_terminal
from warmup.training.checkpoints.run_directory import is_occupied
from warmup.training.distributed import collectives
from warmup.training.distributed.exit_status import Stopped
from warmup.training.probe import unfinished
from warmup.training.probe.halving import Candidate, Result, least_budget, recommend, search
from warmup.training.probe.results import Probe, text, write
from warmup.training.run import setup
from warmup.training.run.arguments import default_options
from warmup.training.run.seed_sweep import free_memory
from warmup.training.run.setup import Launched, RunSpec
from warmup.training.run.trial import run_trial

RATES = (0.25, 0.5, 1, 2, 4, 8)
"""The default rates, relative to the recipe's."""
WARMUPS = (Fraction(1, 4), Fraction(4))
"""The default warmups besides the recipe's own, relative to it."""
WITHOUT_WARMUP = (Fraction(2, 100), Fraction(10, 100))
"""The default warmups besides none, as shares of the run, for a recipe without one."""
LONGEST_WARMUP = Fraction(1, 2)
"""The longest default warmup, as a share of the run."""
BUDGET = 4
"""The default budget in runs of the recipe: the trials of the last rung are then about a third as long as the run."""


def run_probe(config: Config, options: Namespace) -> tuple[str, str]:
    """Try, compare, and write what came of it. Starts the ranks.

    Returns:
        (outcome, message), as `exit_status.guard` takes them.

    Raises:
        UserError: the recipe, the data or an option cannot be used. Nothing is written then.
        Stopped: a rank was asked to stop. The trials that were made are kept.
    """
    config = replace(config, run_dir=None, log=Log())
    launched = setup.start(config, default_options())
    collectives.on_main(launched.accelerator, lambda: check_output(options.output))
    spec = setup.plan_run(config, launched)
    spec.data.train.close()
    plan, own = spec.plan, Candidate(config.recipe.lr, config.recipe.warmup)
    candidates = make_candidates(own, plan, options.rates, options.warmups)
    budget = options.budget or BUDGET * plan.total_steps
    if budget < (least := least_budget(len(candidates), options.repeats)):
        raise UserError(
            f"--budget: {budget} steps are too few for {len(candidates)} pairs and {options.repeats} repeats of the "
            f"last; give {least} or more, or fewer --rates, --warmups or --repeats"
        )
    seeds = range(config.seed, config.seed + options.repeats)
    for candidate in candidates:  # each can be planned
        setup.check_recipe(shortened(config, plan, candidate, plan.total_steps, config.seed), launched.world_size)

    def claim() -> None:
        unfinished.claim(options.output)
        check_output(options.output)  # again: another probe may have written it meanwhile

    collectives.on_main(launched.accelerator, claim)
    trials = Trials(spec, launched, budget, options.output)
    with trials.bar:
        results = list(search(candidates, own, seeds, budget, plan.total_steps, trials.try_one))
    probe = Probe(config, plan, own, results, recommend(results, own), budget)

    def finish() -> None:
        write(probe, options.output)
        unfinished.remove(options.output)

    collectives.on_main(launched.accelerator, finish)
    if launched.accelerator.is_main_process:
        print(text(probe, options.output), flush=True)
    collectives.barrier()
    return "done", f"{len(results)} trials"


def check_output(folder: Path) -> None:
    if is_occupied(folder):
        raise UserError(f"--output: {folder} is occupied; give another one, or remove it")


def make_candidates(
    own: Candidate, plan: Plan, rates: Sequence[float] | None, warmups: Sequence[str] | None
) -> list[Candidate]:
    """Every rate with every warmup, the recipe's own among them.

    Args:
        own: the recipe's own pair.
        plan: of the recipe.
        rates: to try; None for multiples of the recipe's.
        warmups: to try; None for multiples of the recipe's.

    Raises:
        UserError: a warmup is longer than the run.
    """
    lrs = sorted({own.lr, *(rates or (own.lr * factor for factor in RATES))})
    length = share(own.warmup, plan, "recipe.warmup")
    if not warmups:
        others = [length * factor for factor in WARMUPS] if length else list(WITHOUT_WARMUP)
        warmups = [percentage(other) for other in others if other <= LONGEST_WARMUP]
    shares = {warmup: share(warmup, plan, "--warmups") for warmup in (own.warmup, *warmups)}
    for warmup, of_run in shares.items():
        if of_run >= 1:
            raise UserError(f"--warmups: {warmup} is not shorter than the run of {plan.total_steps} steps")
    same = [warmup for warmup in shares if warmup != own.warmup and shares[warmup] == length]
    return [
        Candidate(lr, warmup) for warmup in sorted(shares, key=shares.__getitem__) for lr in lrs if warmup not in same
    ]


def share(length: str, plan: Plan, flag: str) -> Fraction:
    """A length of the recipe as a share of its duration, both at the reference batch.

    Args:
        length: as a recipe has it.
        plan: of the recipe.
        flag: the field of the length, for errors.
    """
    tokens = None if plan.tokens_per_sample is None else Fraction(plan.tokens_per_sample)
    duration = Fraction(plan.duration_samples)
    size = DataSize(plan.num_samples, tokens)
    return Duration.parse(length, flag).samples(plan.reference_batch_size, size, duration, flag) / duration


def percentage(of_run: Fraction) -> str:
    """A share of the run as a length of a recipe."""
    return f"{float(100 * of_run):.6g}%"


def shortened(config: Config, plan: Plan, candidate: Candidate, steps: int, seed: int) -> Config:
    """The beginning of a run in small: the candidate's warmup, as long a share of it, and then the peak without decay.

    So is the warmup of the batch. A decay would be over in a trial long before it is in the run, and let rates look
    good that are too high for it.

    Args:
        config: of the recipe.
        plan: of the recipe.
        candidate: to try.
        steps: of the run.
        seed: of the run.
    """
    growth, batch = 0, config.batch
    if batch.start_size is not None:
        growth = max(1, plan.batch_warmup_samples * steps // plan.total_steps)
        batch = replace(batch, warmup=f"{growth} samples")
    schedule = replace(plan.batch_schedule, warmup_samples=growth)
    short = replace(
        config.recipe,
        lr=candidate.lr,
        warmup=percentage(share(candidate.warmup, plan, "recipe.warmup")),
        duration=f"{schedule.position(steps)} samples",
        decay="constant",
        end_lr=0.0,
    )
    return replace(config, seed=seed, recipe=short, batch=batch)


class Trials:
    """Makes the trials of a probe, and shows how far it is. Each is noted, so that it need not be made again."""

    def __init__(self, spec: RunSpec, launched: Launched, budget: int, output: Path):
        self._config, self._plan, self._launched, self._output = spec.config, spec.plan, launched, output
        accelerator = launched.accelerator
        self._key = unfinished.key(spec, launched)
        self._made = collectives.on_main(accelerator, lambda: unfinished.read(output, self._key))
        self._scaler_state = accelerator.scaler.state_dict() if accelerator.scaler else None
        self._shows = accelerator.is_main_process
        self.bar = tqdm(
            total=budget, desc="probing", unit="step", leave=False, dynamic_ncols=True,
            disable=not (self._shows and is_terminal(sys.stderr)),
        )  # fmt: skip

    def try_one(self, candidate: Candidate, rung: int, seed: int, steps: int) -> Result:
        """A trial of a candidate, or what it showed when it was made before. A collective call."""
        asked = (candidate, rung, seed, steps)
        for made in self._made:
            if (made.candidate, made.rung, made.seed, made.steps) == asked:
                self.bar.update(made.tried)
                self._show(made, " (made before)")
                return made
        result = self._make(*asked)
        self._made.append(result)
        collectives.on_main(self._launched.accelerator, lambda: unfinished.write(self._output, self._key, self._made))
        self._show(result)
        return result

    def _make(self, candidate: Candidate, rung: int, seed: int, steps: int) -> Result:
        config = shortened(self._config, self._plan, candidate, steps, seed)
        try:
            trial = run_trial(config, self._launched, on_step=self.bar.update)
        except Stopped:
            raise Stopped(
                f"after {len(self._made)} trials; the same command with --output {shlex.quote(str(self._output))} "
                "makes the others"
            ) from None
        free_memory(self._launched.accelerator, self._scaler_state)
        return Result(candidate, rung, seed, steps, trial.steps, trial.loss, trial.diverged)

    def _show(self, made: Result, note: str = "") -> None:
        if self._shows:
            found = f"diverged at {made.diverged}" if made.diverged else f"held-out loss {made.loss:.4g}"
            line = (
                f"rung {made.rung + 1}, {made.steps} steps, seed {made.seed}: lr {made.candidate.lr:g}, "
                f"warmup {made.candidate.warmup}: {found}{note}"
            )
            tqdm.write(line, file=sys.stderr)
            sys.stderr.flush()
