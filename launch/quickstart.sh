#!/usr/bin/env bash
# The whole path in minutes: pretrain a tiny BERT, fine-tune it, fine-tune the same model from scratch, and compare.
# Uses all GPUs of this machine, or 2 CPU ranks where there is none.
#
# Usage:  bash launch/quickstart.sh [train.py options, for all three runs]
# Writes: runs/quickstart-<UTC time>/{pretrain,finetune,from_scratch} and a report.html, from where you are.
# To edit: configs/quickstart_pretrain.yaml and configs/quickstart_finetune.yaml.
set -euo pipefail
trap 'exit 75' INT TERM HUP USR1 # until something has been started
if [[ ${1:-} =~ ^(-h|--help)$ ]]; then exec sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"; fi

given=()
for arg in "$@"; do # a dry run prints the three commands: the second one needs the model of the first
    if [[ $arg =~ ^--dry[_-]run$ ]]; then export WARMUP_DRY_RUN=1; else given+=("$arg"); fi
done
set -- "${given[@]}"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/functions.sh
source "$root/launch/functions.sh"
# shellcheck source=/dev/null
if [ -z "${WARMUP_DRY_RUN:-}" ]; then source "$root/launch/environment.sh"; fi

out=runs/quickstart-$(date -u +%Y%m%dT%H%M%SZ)
train=(bash "$root/launch/cpu.sh" 2)
if bash "$root/launch/gpus.sh" --count >/dev/null 2>&1; then train=(bash "$root/launch/gpus.sh"); fi

# part TITLE [train.py options]
part() {
    echo "== $1" 2>/dev/null || true
    run_to_end "${train[@]}" "${@:2}"
    if [ "$code" -gt 128 ]; then code=1; fi
    if [ "$code" != 0 ]; then exit "$code"; fi
}

SECONDS=0
part "1/3 pretrain" --config "$root/configs/quickstart_pretrain.yaml" --run_dir "$out/pretrain" "$@"
part "2/3 fine-tune the pretrained model" --config "$root/configs/quickstart_finetune.yaml" --model "$out/pretrain/model" \
    --run_dir "$out/finetune" "$@"
part "3/3 fine-tune from scratch, for comparison" --config "$root/configs/quickstart_finetune.yaml" --model tiny \
    --data.tokenizer "$out/pretrain/model" --run_dir "$out/from_scratch" "$@"
if [ -n "${WARMUP_DRY_RUN:-}" ]; then exit 0; fi

summary=$(python - "$out" "$SECONDS" "$root" <<'EOF'
import json
import math
import sys
from pathlib import Path

out, seconds = Path(sys.argv[1]), int(sys.argv[2])


def interval(share, count):
    """The 95% interval of a share of so many samples (Wilson 1927)."""
    z = 1.96
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return f"{center - half:.3f} to {center + half:.3f}"


rows = [("run", "held out", "loss", "perplexity", "accuracy", "95% interval", "seconds")]
for name in ("pretrain", "finetune", "from_scratch"):
    result = json.loads((out / name / "result.json").read_text())
    metrics, count = result["metrics"], int(result["metrics"]["targets"])
    accuracy, perplexity, around = metrics["accuracy"], "", interval(metrics["accuracy"], count)
    if "perplexity" in metrics:  # tokens of one text depend on each other, so that no interval is known
        perplexity, around = f"{metrics['perplexity']:.1f}", ""
    seconds_of_run = f"{result['wall_seconds']:.0f}"
    rows.append((name, str(count), f"{metrics['loss']:.3f}", perplexity, f"{accuracy:.3f}", around, seconds_of_run))
widths = [max(map(len, column)) for column in zip(*rows)]
for row in rows:
    print("  ".join(cell.ljust(width) if cell is row[0] else cell.rjust(width) for cell, width in zip(row, widths)))
print("(held out: masked tokens of pretrain, docstrings of the others)")
print(f"To predict:  bash {sys.argv[3]}/launch/cpu.sh 1 --predict FILE --model {out / 'finetune'}")
print(f"Wall time: {seconds // 60} min {seconds % 60} s")
EOF
)
report=$(python -m warmup report "$out/finetune" "$out/from_scratch" --output "$out/report.html") || report="no report"
summary+=$'\n'"With and without pretraining: $report"
summary+=$'\n'"Each run by itself: $out/{pretrain,finetune,from_scratch}/report.html"
printf '\n%s\n' "$summary" 2>/dev/null || true
