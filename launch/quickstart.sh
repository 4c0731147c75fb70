#!/usr/bin/env bash
# The whole path in minutes: pretrain a tiny BERT, fine-tune it, fine-tune the same model from scratch, and compare.
# Uses all GPUs of this machine, or 2 CPU ranks where there is none.
#
# Usage:  bash launch/quickstart.sh [train.py options, for all three runs]
# Writes: runs/quickstart-<UTC time>/{pretrain,finetune,from_scratch}, from where you are.
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
import sys
from pathlib import Path

out, seconds = Path(sys.argv[1]), int(sys.argv[2])
runs = {name: json.loads((out / name / "result.json").read_text())["metrics"] for name in ("pretrain", "finetune", "from_scratch")}
print("On held-out data:")
print(f"  masked-LM loss {runs['pretrain']['loss']:.3f}, perplexity {runs['pretrain']['perplexity']:.1f}")
print(f"  accuracy with pretraining    {runs['finetune']['accuracy']:.3f}")
print(f"  accuracy without pretraining {runs['from_scratch']['accuracy']:.3f}")
print(f"To predict:  bash {sys.argv[3]}/launch/cpu.sh 1 --predict FILE --model {out / 'finetune'}")
print(f"Wall time: {seconds // 60} min {seconds % 60} s\nWritten:")
for name in runs:
    for file in ("config.yaml", "plan.json", "metrics.jsonl", "result.json", "model"):
        if (out / name / file).exists():
            print(f"  {out / name / file}")
EOF
)
printf '\n%s\n' "$summary" 2>/dev/null || true
