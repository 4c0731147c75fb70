#!/usr/bin/env bash
# Train on several machines: start this on each of them, within 10 minutes, with its own --rank and all else alike.
#
# Usage:  bash launch/machines.sh --machines M --rank R --main HOST:PORT [--cpu N | --gpus N] [--] [train.py options]
#   e.g.  bash launch/machines.sh --machines 2 --rank 0 --main node0:29500 --config configs/pretrain_mlm.yaml
#         bash launch/machines.sh --machines 2 --rank 1 --main node0:29500 --config configs/pretrain_mlm.yaml
#   --rank   this machine's number, from 0; HOST is a name or address of machine 0, PORT any that is free there
#   --gpus   ranks on each machine, one per GPU (default: all that are found); --cpu: so many ranks over gloo instead
# The run directory must be on a file system that all machines share; data and $WARMUP_CACHE may be on local disks.
# The same, bare (for CPU ranks with cpu_2.yaml and ACCELERATE_USE_CPU=true, or torchrun as it is):
#   accelerate launch --config_file configs/accelerate/multi_gpu.yaml --num_machines M --machine_rank R --same_network \
#       --main_process_ip HOST --main_process_port PORT --num_processes (M x N) train.py [train.py options]
#   torchrun --nnodes M --node-rank R --nproc-per-node N --master-addr HOST --master-port PORT train.py [...]
# To edit: nothing. Where a machine's host name is its loopback address, or it has several networks, set
# GLOO_SOCKET_IFNAME (CPU ranks) or NCCL_SOCKET_IFNAME (GPUs) to the interface that reaches the others, such as eth0.
set -euo pipefail
trap 'exit 75' INT TERM HUP USR1 # until something has been started
if [[ ${1:-} =~ ^(-h|--help)$ ]]; then exec sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"; fi

refuse() {
    echo "error: $1" >&2
    exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
machines="" rank="" main="" place="" ranks="" typed=("$@")
while [ $# -gt 0 ]; do
    case $1 in
    --machines | --rank | --main | --cpu | --gpus)
        [ $# -gt 1 ] || refuse "$1: a value is missing"
        ;;&
    --machines) machines=$2 ;;
    --rank) rank=$2 ;;
    --main) main=$2 ;;
    --cpu | --gpus)
        [ -z "$place" ] || refuse "--cpu and --gpus: give one, once"
        place=${1#--} ranks=$2
        ;;
    --)
        shift
        break
        ;;
    *) break ;;
    esac
    shift 2
done

number='^(0|[1-9][0-9]*)$'
[[ $machines =~ $number && $machines != 0 ]] || refuse "--machines: '$machines' is not a number of machines, such as 2"
[[ $rank =~ $number ]] && [ "$rank" -lt "$machines" ] ||
    refuse "--rank: '$rank' is not this machine's number, from 0 to $((machines - 1))"
[[ $main =~ ^[^:]+:[1-9][0-9]*$ ]] || refuse "--main: '$main' is not HOST:PORT of machine 0, such as node0:29500"
[[ ${ranks:-1} =~ $number && ${ranks:-1} != 0 ]] || refuse "--$place: '$ranks' is not a number of ranks, 1 or above"

printf -v WARMUP_COMMAND ' %q' "${BASH_SOURCE[0]}" "${typed[@]:0:${#typed[@]}-$#}"
export WARMUP_COMMAND="bash$WARMUP_COMMAND" # for what train.py answers
# One machine needs no meeting point.
if [ "$machines" = 1 ]; then exec bash "$root/launch/${place:-gpus}.sh" ${ranks:+"$ranks"} "$@"; fi

config=$root/configs/accelerate/cpu_2.yaml device=cpu
if [ "$place" != cpu ]; then
    config=$root/configs/accelerate/multi_gpu.yaml device=cuda
    ranks=$(bash "$root/launch/gpus.sh" --count ${ranks:+"$ranks"})
fi

threads=$(($(nproc) / ranks))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
exec bash "$root/launch/run.sh" --config_file "$config" --num_machines "$machines" --machine_rank "$rank" --same_network \
    --main_process_ip "${main%:*}" --main_process_port "${main##*:}" --num_processes "$((machines * ranks))" \
    "$root/train.py" --launch.world_size "$((machines * ranks))" --launch.device "$device" "$@"
