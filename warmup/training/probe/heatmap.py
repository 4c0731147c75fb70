"""The trials of a probe as a picture: rates from left to right, warmups from bottom to top."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from warmup.report.theme import light, style, to_png
from warmup.training.probe.halving import Candidate, Recommendation, Result


def heatmap(results: Sequence[Result], own: Candidate, recommendation: Recommendation) -> bytes:
    """A PNG. The colours are the losses of the first rung, which tried all pairs for equally many steps."""
    lrs = sorted({result.candidate.lr for result in results})
    warmups = list(dict.fromkeys(result.candidate.warmup for result in results))
    first = {result.candidate: result for result in results if result.rung == 0}
    losses = [[_or_nan(first[Candidate(lr, warmup)].loss) for lr in lrs] for warmup in warmups]
    with style():
        figure = Figure(figsize=(1.8 + 1.15 * len(lrs), 1.9 + 0.8 * len(warmups)), layout="constrained")
        axes = figure.subplots()
        if any(loss == loss for row in losses for loss in row):
            image = axes.imshow(losses, cmap="viridis_r", origin="lower", aspect="auto")
            figure.colorbar(image, ax=axes, label=f"held-out loss after {results[0].steps} steps")
        axes.set_facecolor(light("grid"))
        axes.set_xticks(range(len(lrs)), [f"{lr:g}" for lr in lrs])
        axes.set_yticks(range(len(warmups)), warmups)
        axes.set_xlim(-0.5, len(lrs) - 0.5)
        axes.set_ylim(-0.5, len(warmups) - 0.5)
        axes.set_xlabel("recipe.lr")
        axes.set_ylabel("recipe.warmup")
        for row, warmup in enumerate(warmups):
            for column, lr in enumerate(lrs):
                of_pair = [result for result in results if result.candidate == Candidate(lr, warmup)]
                axes.text(column, row, _label(of_pair), ha="center", va="center", fontsize=9, bbox=_BOX)
        chosen = recommendation.chosen.candidate if recommendation.chosen else None
        for pair, colour, inset in ((own, "ink", 0.02), (chosen, "red", 0.06)):
            if pair:
                corner = (lrs.index(pair.lr) - 0.5 + inset, warmups.index(pair.warmup) - 0.5 + inset)
                size = 1 - 2 * inset
                axes.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=light(colour), linewidth=2.5))
        axes.set_title("red: recommended, black: the recipe's own; below: after the last rung", loc="left", fontsize=9)
    return to_png(figure)


_BOX = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}


def _or_nan(loss: float) -> float:
    return loss if loss < math.inf else math.nan


def _label(results: Sequence[Result]) -> str:
    """The loss of the first rung, and below it the mean of the longest rung that the pair came to."""
    last = max(result.rung for result in results)
    means = []
    for rung in sorted({0, last}):
        losses = [result.loss for result in results if result.rung == rung]
        mean = sum(losses) / len(losses)
        means.append(f"{mean:.3f}" if mean < math.inf else "diverged")
    return "\n".join(means)
