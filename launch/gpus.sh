#!/usr/bin/env bash
# Train on the NVIDIA GPUs of this machine, one rank each: all of them (of CUDA_VISIBLE_DEVICES if set), or the first N.
#
# Usage:  bash launch/gpus.sh [N] [train.py options]
#   e.g.  bash launch/gpus.sh --config configs/quickstart_pretrain.yaml
#         bash launch/gpus.sh --count [N]        prints the number of ranks, for scripts
# To edit: nothing here; mixed precision is in configs/accelerate/{one_gpu,multi_gpu}.yaml.
set -euo pipefail
trap 'exit 75' INT TERM HUP USR1 # until something has been started
if [[ ${1:-} =~ ^(-h|--help)$ ]]; then exec sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"; fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
count=""
if [ "${1:-}" = --count ]; then
    count=1
    shift
fi
found=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)
if [ "$found" -gt 0 ] && [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    # As CUDA reads it: numbers and UUIDs up to the first that names no GPU, such as -1.
    found=$(awk -F ' *, *' -v all="$found" '{ for (i = 1; i <= NF; i++)
        if ($i ~ /^[0-9]+$/ ? $i < all : $i ~ /^(GPU|MIG)-/) n++; else break } END { print n + 0 }' <<<"$CUDA_VISIBLE_DEVICES")
fi
if [ "$found" -eq 0 ]; then
    echo "error: nvidia-smi -L shows no GPU on this machine that may be used; launch/cpu.sh trains on the CPU" >&2
    exit 2
fi

ranks=$found
if [[ ${1:-} =~ ^[1-9][0-9]*$ ]]; then
    ranks=$1
    shift
fi
if [ "$ranks" -gt "$found" ]; then
    echo "error: $ranks GPUs asked for, $found found" >&2
    exit 2
fi
if [ -n "$count" ]; then
    echo "$ranks"
    exit 0
fi

threads=$(($(nproc) / ranks))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
# Micro-batches differ in size: segments that can grow leave no holes in the GPU's memory that are too small for the next.
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
launch=(--config_file "$root/configs/accelerate/multi_gpu.yaml" --num_processes "$ranks")
if [ "$ranks" = 1 ]; then launch=(--config_file "$root/configs/accelerate/one_gpu.yaml"); fi
export WARMUP_COMMAND=${WARMUP_COMMAND:-bash $(printf %q "${BASH_SOURCE[0]}") $ranks} # for what train.py answers
exec bash "$root/launch/run.sh" "${launch[@]}" "$root/train.py" --launch.world_size "$ranks" --launch.device cuda "$@"
