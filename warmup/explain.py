"""A plan as a table for a person to read. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator

from warmup.plan import Plan
from warmup.scaling import ADAPTIVE, beta_rules, extra_samples

Row = tuple[str, str, str]
"""Name, value, how it was computed."""


def explain_plan(plan: Plan) -> list[Row]:
    """The plan as rows of (name, value, how it was computed)."""
    rows = [
        ("global batch", f"{plan.global_batch_size} samples", _batch_split(plan)),
        (
            "reference batch",
            f"{plan.reference_batch_size} samples",
            f"scale k = global batch / reference batch = {plan.scale:.6g}",
        ),
        ("peak lr", f"{plan.peak_lr:.6g}", _peak_lr(plan)),
        ("warmup", f"{plan.warmup_steps} steps", _warmup(plan)),
        ("duration", f"{plan.total_steps} steps", _duration(plan)),
        ("decay", plan.decay, _decay(plan)),
        ("optimizer", plan.optimizer, _optimizer(plan)),
        *_scaled(plan),
        *_noise_cost(plan),
    ]
    if plan.batch_start_size is not None:
        rows.insert(1, ("batch warmup", f"{plan.batch_warmup_steps} steps", batch_warmup(plan)))
    return rows


def batch_warmup(plan: Plan) -> str:
    """How the batch grows: from where to where, what it costs, and where some of its sizes begin."""
    phases = list(plan.batch_schedule.phases())[1:]
    chosen = dict.fromkeys(phases[-(-number * len(phases) // 4) - 1] for number in range(1, 5)) if phases else ()
    sizes = ", ".join(f"{phase.size} from sample {phase.samples} on" for phase in chosen)
    more = plan.total_steps - -(-plan.duration_samples // plan.global_batch_size)
    return (
        f"from {plan.batch_start_size} to {plan.global_batch_size} over {_count(plan.batch_warmup_samples, 'sample')}, "
        f"{_count(more, 'step')} more than without" + (f"; {sizes}" if sizes else "") + "; the learning rate "
        f"{'follows its size' if plan.batch_warmup_lr == 'scale' else 'does not follow its size'}"
    )


def _decay(plan: Plan) -> str:
    if plan.decay == "constant":
        return ""
    last = f" over the last {plan.decay_length_samples} samples ({plan.cooldown})" if plan.decay == "wsd" else ""
    return f"to {plan.end_lr:.6g}{last}"


def optimizer_numbers(plan: Plan) -> dict[str, tuple[float, float]]:
    """The optimizer's numbers that rules can scale: (at the reference batch size, now), by name.

    Both are those of now in plans of versions that did not note the others.
    """
    before = plan.reference_betas or plan.betas
    return {
        "beta1": (before[0], plan.betas[0]),
        "beta2": (before[1], plan.betas[1]),
        "momentum": (_or_now(plan.reference_momentum, plan.momentum), plan.momentum),
        "alpha": (_or_now(plan.reference_alpha, plan.alpha), plan.alpha),
        "eps": (_or_now(plan.reference_eps, plan.eps), plan.eps),
        "weight decay": (_or_now(plan.reference_weight_decay, plan.weight_decay), plan.weight_decay),
    }


def _or_now(reference: float | None, now: float) -> float:
    return now if reference is None else reference


def _scaled(plan: Plan) -> Iterator[Row]:
    """A row for each of the optimizer's numbers that is another one at the reference batch size."""
    rules = {**beta_rules(plan.beta_scaling, plan.optimizer), "eps": "sde", "weight decay": plan.weight_decay_scaling}
    for name, (before, now) in optimizer_numbers(plan).items():
        if before != now:
            floor = f", not below {plan.beta_floor:g}" if rules[name] == "half-life" and plan.beta_floor else ""
            yield name, f"{now:.6g}", f"{before:.6g} at the reference batch ({rules[name]} scaling{floor})"


def _batch_split(plan: Plan) -> str:
    product = plan.world_size * plan.accumulation * plan.per_device_batch_size
    at_most = "at most " if plan.global_batch_size != product else ""
    return (
        f"{_count(plan.world_size, 'rank')} x {_count(plan.accumulation, 'micro-batch', 'es')} x "
        f"{at_most}{_count(plan.per_device_batch_size, 'sample')}"
    )


def _peak_lr(plan: Plan) -> str:
    known = {"linear": " x k", "sqrt": " x sqrt(k)", "none": "", "noise": _noise(plan)}
    factor = known.get(plan.scaling, f" x {plan.scaling}(k)")
    if plan.momentum_correction != 1:
        factor += f" x {plan.momentum_correction:.6g} for the momentum of {plan.momentum:.6g}"
    cap = f", capped from {plan.uncapped_lr:.6g} by max_lr" if plan.peak_lr != plan.uncapped_lr else ""
    name = "no" if plan.scaling == "none" else plan.scaling
    return f"lr {plan.lr:.6g}{factor} ({name} scaling){cap}"


def _noise(plan: Plan) -> str:
    gain = "k (B0 + N) / (B + N)"
    factor = f"sqrt({gain})" if plan.optimizer in ADAPTIVE else gain
    return f" x {factor} with N = {plan.noise_scale:g} samples" if plan.noise_scale is not None else ""


def _noise_cost(plan: Plan) -> Iterator[Row]:
    """What the batch costs, where the noise scale is known."""
    if plan.noise_scale is not None:
        cost = extra_samples(plan.noise_scale, plan.global_batch_size, plan.reference_batch_size)
        how = f"this batch is expected to need {cost:.3g} times the samples of the reference batch"
        yield "noise scale", f"{plan.noise_scale:.4g} samples", how


def _warmup(plan: Plan) -> str:
    if not plan.warmup_steps:
        return "no warmup"
    percent = 100 * plan.warmup_samples / plan.total_samples
    return (
        f"{plan.warmup_samples} samples, {percent:.3g}% of the run; {plan.ramp} from {plan.start_lr:.6g}; "
        f"the number of {plan.warmup_scaling} is the same at any batch size"
    )


def _duration(plan: Plan) -> str:
    parts = [_count(plan.total_samples, "sample")]
    if plan.num_samples:
        parts.append(_count(f"{plan.total_samples / plan.num_samples:.4g}", "epoch"))
    if plan.tokens_per_sample:
        parts.append(f"about {plan.total_samples * plan.tokens_per_sample:.4g} tokens")
    excess = plan.total_samples - plan.duration_samples
    past = f"; the last step runs {_count(excess, 'sample')} past the requested duration" if excess else ""
    return ", ".join(parts) + past


def _optimizer(plan: Plan) -> str:
    settings = {
        "sgd": f"momentum {plan.momentum:.6g}",
        "adafactor": "step sizes relative to the weights, at most 1 / sqrt(step)",
        "rmsprop": f"alpha {plan.alpha:.6g}, eps {plan.eps:.3g}, momentum {plan.momentum:.6g}",
    }
    adam = f"betas {plan.betas[0]:.6g}, {plan.betas[1]:.6g}, eps {plan.eps:.3g}"
    return f"{settings.get(plan.optimizer, adam)}, weight decay {plan.weight_decay:g}"


def _count(number: int | str, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}" + ("" if str(number) == "1" else plural)
