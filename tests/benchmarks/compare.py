"""How fast training is, against what users would run instead. Writes a table, a JSON file and a plot.

    python tests/benchmarks/compare.py --sst2 sst2_train.csv --text wikitext2.txt

Works: `sst2`, fine-tuning a 6-layer, 384-wide BERT; `mlm`, masked language modelling with it, sequences of 128; `tiny`,
the same with 2 layers, 128 wide; `base`, the same with bert-base's 12 layers, 768 wide, for a GPU. Vocabulary 30522.
Contenders, with the same model, weights, samples, global batch, precision and threads:

    ours            train.py as it is
    trainer         transformers' Trainer as shipped (it has a fused AdamW)
    trainer-best    ... with sampling by length, and on a GPU with two processes that make batches
    plain           a loop on Accelerate with dynamic padding, dense head and PyTorch's default AdamW

and, if --contenders names them,

    ours-without-X  ours without packing, the masked_only last layer and head, the fused optimizer, batches prepared
                    ahead, the word embedding's gradient by rows, or the settings of malloc in launch/cpu.sh

First all train the same few steps, without dropout and clipping, on samples that are masked already, and the losses
are compared (not trainer-best's, which but for its order is the Trainer). Then they take turns of a few seconds each,
in processes of their own; shown are the medians over turns. Beside other work on the same cores, the ratio of processor
times says more than that of the times on the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # the other check would keep forked processes from the GPU
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import contenders  # noqa: E402
import torch  # noqa: E402
import works  # noqa: E402
from turns import Contender, Turns  # noqa: E402
from works import CHECKED, Work  # noqa: E402

from warmup.training.reporting import hardware  # noqa: E402

WORKS = {  # task, layers, width, samples per device, steps of a turn
    "sst2": ("classification", 6, 384, 16, 25),
    "mlm": ("mlm", 6, 384, 16, 3),
    "tiny": ("mlm", 2, 128, 16, 6),
    "base": ("mlm", 12, 768, 64, 20),
}
ON_CPU = ("sst2", "mlm", "tiny")
BEST = {"train_sampling_strategy": "group_by_length"}
if torch.cuda.is_available():
    BEST["dataloader_num_workers"] = 2
PARTS = ("packing", "masked_only", "fused", "ahead", "rows", "malloc")
CONTENDERS: dict[str, Callable[[Work, Turns, bool], None]] = {
    "ours": contenders.ours,
    "trainer": contenders.trainer,
    "trainer-best": partial(contenders.trainer, **BEST),
    "plain": contenders.plain_loop,
}
ABLATIONS = {f"ours-without-{part}": partial(contenders.ours, without=part) for part in PARTS}


def compare_losses(work: Work, names: list[str]) -> dict[str, list[float]]:
    """The losses of the first steps of each, which must be the same training.

    Trainer 5.23 multiplies BERT's loss and gradients by the number of ranks (and by the accumulation, which is 1 here);
    its losses are divided by it. AdamW does not mind, its clipping does.
    """
    exact = work.precision == "no" and not torch.cuda.is_available()
    allowed = 1e-4 if exact else 1e-3  # bf16 has 8 bits; on a GPU, train.py multiplies fp32 in TF32
    losses = {}
    for name in names:
        contender = Contender.start(name, (CONTENDERS | ABLATIONS)[name], work, given=True)
        factor = work.ranks if name.startswith("trainer") else 1
        losses[name] = [loss / factor for loss in contender.turn(CHECKED).losses]
        contender.end()
        apart = max(abs(loss / right - 1) for loss, right in zip(losses[name], losses[names[0]], strict=True))
        print(f"  first {CHECKED} losses of {name}: {apart:.1e} from those of {names[0]}", flush=True)
        if apart > allowed:
            raise SystemExit(f"{name} trains something else: {losses}")
    return losses


def take_turns(work: Work, names: list[str], turns: int, steps: int) -> dict[str, dict[str, list[float]]]:
    """Samples per second, and seconds of processors per sample, of each turn of each."""
    contenders = [Contender.start(name, (CONTENDERS | ABLATIONS)[name], work, given=False) for name in names]
    for contender in contenders:
        contender.turn(2)  # warms up
    samples = steps * work.per_device * work.ranks
    rates: dict[str, list[float]] = {name: [] for name in names}
    costs: dict[str, list[float]] = {name: [] for name in names}
    for number in range(turns):
        for contender in contenders:
            turn = contender.turn(steps)
            rates[contender.name].append(samples / turn.seconds)
            costs[contender.name].append(turn.processor_seconds / samples)
        print(f"  turn {number + 1}: " + ", ".join(f"{name} {rates[name][-1]:.1f}" for name in names), flush=True)
    for contender in contenders:
        contender.end()
    return {"samples_per_second": rates, "processor_seconds_per_sample": costs}


def table(results: dict[str, dict]) -> str:
    """Markdown: samples per second, how many times as fast ours is, and how many times its processor time others take:
    medians over turns, with the extremes.
    """
    lines = ["| work | contender | samples/s | ours is faster by | processor time |", "|---|---|---|---|---|"]
    for work, result in results.items():
        all_rates, all_costs = result["samples_per_second"], result["processor_seconds_per_sample"]
        for name, rates in all_rates.items():
            faster = ratio(all_rates["ours"], rates)
            costlier = ratio(all_costs[name], all_costs["ours"])
            lines.append(f"| {work} | {name} | {statistics.median(rates):.1f} | {faster} | {costlier} |")
    return "\n".join(lines)


def ratio(numerators: list[float], denominators: list[float]) -> str:
    """The median over turns, with the extremes."""
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def plot(results: dict[str, dict], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(results), 3.6), layout="constrained")
    for axes, (work, result) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        rates = result["samples_per_second"]
        axes.boxplot(list(rates.values())[::-1], tick_labels=list(rates)[::-1], orientation="horizontal", whis=(0, 100))
        axes.set(title=work, xlabel="samples per second", xlim=(0, None))
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(ON_CPU))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS | ABLATIONS, default=list(CONTENDERS))
    parser.add_argument("--sst2", type=Path, help="csv with columns sentence and label (for sst2)")
    parser.add_argument("--text", type=Path, help="plain text (for mlm and tiny)")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--out", type=Path, default=Path("benchmark"))
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.works:
            *shape, steps = WORKS[name]
            text = options.sst2 if name == "sst2" else options.text
            if text is None:
                parser.error(f"{name} needs --{'sst2' if name == 'sst2' else 'text'}")
            work = works.build(Path(folder) / name, *shape, options.ranks, options.precision, text)
            print(name, flush=True)
            losses = compare_losses(work, [name for name in options.contenders if name != "trainer-best"])
            measured = take_turns(work, options.contenders, options.turns, steps)
            results[name] = {"losses": losses, "steps_per_turn": steps, **measured}
    options.out.mkdir(parents=True, exist_ok=True)
    conditions = {
        "ranks": options.ranks,
        "cores": os.cpu_count(),
        "processor": hardware.processor(),
        "instructions": hardware.instructions(),
        "precision": options.precision,
        "torch": torch.__version__,
    }
    (options.out / "compare.json").write_text(json.dumps({"conditions": conditions, "works": results}, indent=1) + "\n")
    (options.out / "compare.md").write_text(table(results) + "\n")
    plot(results, options.out / "compare.png")
    print(table(results))


if __name__ == "__main__":
    main()
