#!/usr/bin/env bash
# The GLUE benchmark: fine-tunes a model on its tasks with several seeds, and prints a table of the held-out scores. Each
# GPU of this machine takes one task at a time; where there is none, they run one after the other on CPU ranks.
#
# Usage:  bash launch/glue.sh FOLDER|hub --model M [--seeds 1,2,3] [--tasks cola,sst2,...] [--run_dir DIR] [--ranks N]
#             [train.py options, for all runs]
#   e.g.  bash launch/glue.sh glue_data --model google-bert/bert-base-uncased --tasks rte,mrpc --recipe.lr 3e-5
# FOLDER holds GLUE's own folders: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI; hub is nyu-mll/glue.
# Writes: run_dir (default: runs/glue-MODEL): glue.md with the table, glue.json with its numbers, submission/ with the
# test predictions of each task's best seed for GLUE's server, and a sweep of seeds for each task. The same command
# goes on with what is not done yet.
# Exit code:  that of launch/run.sh; 1 if any of the runs failed: the others are done all the same.
# To edit: configs/finetune_glue.yaml. --ranks is the number of CPU ranks (2).
set -euo pipefail
trap 'exit 75' INT TERM HUP USR1 # until something has been started
if [[ ${1:-} =~ ^(-h|--help)$ ]]; then exec sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"; fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/functions.sh
source "$root/launch/functions.sh"
command -v accelerate >/dev/null || PATH="$root/.venv/bin:$PATH"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
run_to_end "$(command -v python || command -v python3)" -m warmup.training.glue "$@"
exit "$code"
