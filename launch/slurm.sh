#!/usr/bin/env bash
#SBATCH --job-name=bert
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# Train on SLURM nodes, one launcher each, for as many time limits as it takes: 120 s before the limit the ranks save and
# stop, the job is queued again, and goes on from there. A job whose node is lost is queued again by SLURM itself.
#
# Usage:  sbatch [sbatch options] launch/slurm.sh [--cpu N | --gpus N] [train.py options]        from the repository root
#   e.g.  sbatch --nodes 4 launch/slurm.sh --config configs/pretrain_mlm.yaml --data.train_files corpus.txt
# Writes: run_dir, of the options or a YAML file, by default runs/slurm-<job id>, on a file system that all nodes share.
# The output goes to slurm-<id>.out.
# Exit code:  that of launch/run.sh on the nodes, the highest of them. After 1 (a rank died) submit it again with the
# same --run_dir; after 2 there is something to mend first.
# To edit: the #SBATCH lines above, for your cluster. WARMUP_RESTARTS is how often it is queued again (default: 100).
set -euo pipefail
if [[ ${1:-} =~ ^(-h|--help)$ ]]; then exec sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"; fi

for arg in "$@"; do
    if [[ $arg =~ ^--dry[_-]run$ ]]; then export WARMUP_DRY_RUN=1; fi
done
root=${SLURM_SUBMIT_DIR:-$PWD} # SLURM runs a copy of this file that lies elsewhere
if [ ! -f "$root/launch/machines.sh" ]; then
    echo "error: $root is not the repository; go there first: sbatch launch/slurm.sh" >&2
    exit 2
fi
id=${SLURM_JOB_ID:-0} nodes=${SLURM_JOB_NUM_NODES:-} hosts=()
if [ "$id" != 0 ]; then
    mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
elif [ -z "${WARMUP_DRY_RUN:-}" ]; then
    echo "error: this is no SLURM job; submit it: sbatch launch/slurm.sh (or use launch/machines.sh)" >&2
    exit 2
fi
nodes=${nodes:-$(sed -n 's/^#SBATCH --nodes=//p' "${BASH_SOURCE[0]}")}

# shellcheck source=launch/functions.sh
source "$root/launch/functions.sh"
options=("$@") # of train.py: without those of launch/machines.sh
while [[ ${options[0]:-} =~ ^--(cpu|gpus)$ ]]; do options=("${options[@]:2}"); done
if [ "${options[0]:-}" = -- ]; then options=("${options[@]:1}"); fi
# Options that train.py refuses are left alone: the ranks say why.
if run_dir=$(requested_run_dir "${options[@]}") && [ -z "$run_dir" ]; then set -- "$@" --run_dir "runs/slurm-$id"; fi
# The ranks end by themselves where one is lost: killed by srun, they could not say why.
step=(srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=0)
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then step+=(--cpus-per-task="$SLURM_CPUS_PER_TASK"); fi
# shellcheck disable=SC2016 # the number of the node is known there
step+=(bash -c 'exec bash "$0" --rank "$SLURM_NODEID" "$@"' "$root/launch/machines.sh" --machines "$nodes"
    --main "${hosts[0]:-FIRST_NODE}:$((10000 + id % 20000))" "$@" --resume auto)
if [ -n "${WARMUP_DRY_RUN:-}" ]; then
    printf -v words '%q ' "${step[@]}"
    echo "${words% }"
    exit 0
fi

run_to_end "${step[@]}"
if [ "$code" -gt 128 ]; then code=1; fi
cancelled="" # by scancel or preemption: not to be queued again by us
if [[ $signalled =~ TERM|INT|HUP ]]; then cancelled=1; fi

if [ "$code" = 75 ] && [ -z "$cancelled" ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "${WARMUP_RESTARTS:-100}" ]; then
        echo "error: not queued again after $SLURM_RESTART_COUNT times; go on with the same --run_dir" >&2
    elif ! scontrol requeue "$id"; then
        echo "error: SLURM did not queue the job again; go on with the same --run_dir" >&2
    fi
fi
exit "$code"
