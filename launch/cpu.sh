#!/usr/bin/env bash
# Train with N ranks on this machine's CPU (gloo); N=1 is one plain process. No GPU is used, even where there is one.
#
# Usage:  bash launch/cpu.sh N [train.py options]
#   e.g.  bash launch/cpu.sh 2 --config configs/quickstart_pretrain.yaml
# To edit: nothing; GLOO_SOCKET_IFNAME is taken from the environment if set. Ranks share the cores that they may use.
set -euo pipefail
trap 'exit 75' INT TERM HUP USR1 # until something has been started
if [[ ${1:-} =~ ^(-h|--help)$ ]]; then exec sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"; fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ranks=${1:-}
if ! [[ $ranks =~ ^[1-9][0-9]*$ ]]; then
    echo "error: give the number of ranks first: bash launch/cpu.sh 2 [train.py options]" >&2
    exit 2
fi
shift

threads=$(($(nproc) / ranks))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
# Memory that a step frees is kept for the next one. Without this, glibc gives large blocks back to the system each time.
# (A threshold for large blocks would do as well, but older versions take none above 32 MB.)
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-1073741824}
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0}
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo} # all ranks are on this machine
launch=(--config_file "$root/configs/accelerate/cpu_2.yaml" --num_processes "$ranks")
if [ "$ranks" = 1 ]; then launch+=(--cpu); fi
export WARMUP_COMMAND=${WARMUP_COMMAND:-bash $(printf %q "${BASH_SOURCE[0]}") $ranks} # for what train.py answers
exec bash "$root/launch/run.sh" "${launch[@]}" "$root/train.py" --launch.world_size "$ranks" --launch.device cpu "$@"
