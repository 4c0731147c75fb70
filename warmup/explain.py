"""A plan in words, for a person to read. Standard library only."""

from __future__ import annotations

from warmup.plan import Plan


def explain_plan(plan: Plan) -> list[tuple[str, str, str]]:
    """Rows (name, value, how it came about) for a person to read."""
    k, size = f"{plan.scale:.6g}", plan.global_batch_size
    cap = f", capped from {plan.uncapped_lr:.6g} by max_lr" if plan.peak_lr != plan.uncapped_lr else ""
    cut = f"{plan.world_size} ranks x {plan.accumulation} micro-batches x {plan.per_device_batch_size}"
    beyond = plan.total_samples - plan.duration_samples
    share = 100 * plan.warmup_samples / plan.total_samples
    kept = "the same samples" if plan.warmup_scaling == "samples" else "the same steps"
    epochs = f", {plan.total_samples / plan.num_samples:.4g} epochs" if plan.num_samples else ""
    if plan.tokens_per_sample:
        epochs += f", about {plan.total_samples * plan.tokens_per_sample:.4g} tokens"
    if size != plan.world_size * plan.accumulation * plan.per_device_batch_size:
        cut += " at most"
    rows = [
        ("global batch", f"{size} samples", cut),
        ("reference batch", f"{plan.reference_batch_size} samples", f"scale k = {k}"),
        ("peak lr", f"{plan.peak_lr:.6g}", f"{plan.lr:.6g} by the rule {plan.scaling}{cap}"),
        ("warmup", f"{plan.warmup_steps} steps", _warmup_in_words(plan, kept, share)),
        (
            "duration",
            f"{plan.total_steps} steps",
            f"{plan.total_samples} samples{epochs}; {beyond} beyond duration",
        ),
        ("decay", plan.decay, f"to {plan.end_lr:.6g}" if plan.decay != "constant" else ""),
        ("optimizer", plan.optimizer, _optimizer_in_words(plan)),
    ]
    return rows


def _warmup_in_words(plan: Plan, kept: str, share: float) -> str:
    words = f"{plan.warmup_samples} samples, {share:.3g}% of the run; {kept} at any batch"
    return f"{words}; {plan.ramp} from {plan.start_lr:.6g}" if plan.warmup_steps else "none"


def _optimizer_in_words(plan: Plan) -> str:
    words = {
        "sgd": f"momentum {plan.momentum:.6g}",
        "adafactor": "steps relative to the weights' size, at most 1 / sqrt(step)",
        "rmsprop": f"alpha {plan.alpha:.6g}, eps {plan.eps:.3g}, momentum {plan.momentum:.6g}",
    }
    adam = f"betas {plan.betas[0]:.6g}, {plan.betas[1]:.6g}, eps {plan.eps:.3g}"
    return f"{words.get(plan.optimizer, adam)}, weight decay {plan.weight_decay:g}"
