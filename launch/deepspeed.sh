#!/usr/bin/env bash
# Train under DeepSpeed's ZeRO on the GPUs of this machine, one rank each: all of them or the first N; or on N CPU ranks.
#
# Usage:  bash launch/deepspeed.sh STAGE [N | --cpu N] [train.py options]        STAGE: 1, 2 or 3
#   e.g.  bash launch/deepspeed.sh 2 --config configs/pretrain_mlm.yaml --data.train_files corpus.txt
#         bash launch/deepspeed.sh 3 --cpu 2 --config configs/quickstart_pretrain.yaml
# Needs DeepSpeed: pip install -c constraints.txt -e ".[deepspeed]"
# To edit: nothing here; offloading and mixed precision are in configs/accelerate/deepspeed_zero{1,2,3}{,_cpu}.yaml.
set -euo pipefail
trap 'exit 75' INT TERM HUP USR1 # until something has been started
if [[ ${1:-} =~ ^(-h|--help)$ ]]; then exec sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"; fi

refuse() {
    echo "error: $1" >&2
    exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
stage=${1:-}
[[ $stage =~ ^[123]$ ]] || refuse "give the stage first, 1, 2 or 3: bash launch/deepspeed.sh 2 [N | --cpu N] [train.py options]"
shift

number='^[1-9][0-9]*$'
if [ "${1:-}" = --cpu ]; then
    [[ ${2:-} =~ $number ]] || refuse "--cpu: '${2:-}' is not a number of ranks, such as 2"
    ranks=$2 device=cpu config=$root/configs/accelerate/deepspeed_zero${stage}_cpu.yaml
    shift 2
    # GPUs are hidden: Accelerate would take them.
    export DS_ACCELERATOR=cpu CUDA_VISIBLE_DEVICES="" GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo}
else
    asked=""
    if [[ ${1:-} =~ $number ]]; then
        asked=$1
        shift
    fi
    ranks=$(bash "$root/launch/gpus.sh" --count ${asked:+"$asked"})
    device=cuda config=$root/configs/accelerate/deepspeed_zero${stage}.yaml
fi

threads=$(($(nproc) / ranks))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
if [ "$device" = cpu ]; then words="$stage --cpu $ranks"; else words="$stage $ranks"; fi
export WARMUP_COMMAND=${WARMUP_COMMAND:-bash $(printf %q "${BASH_SOURCE[0]}") $words} # for what train.py answers
exec bash "$root/launch/run.sh" --config_file "$config" --num_processes "$ranks" \
    "$root/train.py" --launch.world_size "$ranks" --launch.device "$device" "$@"
