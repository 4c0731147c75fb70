#!/usr/bin/env bash
# Train on this machine through failures: when a rank dies or hangs, all are started again, by a fresh launcher, from the
# newest checkpoint. The next attempt has as many ranks again; each further one without a new checkpoint has one fewer.
#
# Usage:  bash launch/elastic.sh cpu|gpus [MIN:]MAX [train.py options]        MIN ranks at least (default 1), MAX at most
#   e.g.  bash launch/elastic.sh cpu 1:4 --config configs/quickstart_pretrain.yaml --run_dir runs/mine
# Writes: run_dir, of the options or a YAML file, by default runs/elastic-<UTC time>. It continues what is in it already.
# Exit code:  that of launch/run.sh; 1 after too many attempts in a row without a new checkpoint.
# To edit: nothing; WARMUP_RESTARTS is how many are too many (default: MAX - MIN + 3).
set -euo pipefail
trap 'exit 75' INT TERM HUP USR1 # until something has been started
if [[ ${1:-} =~ ^(-h|--help)$ ]]; then exec sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"; fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
where=${1:-} size=${2:-}
if ! [[ $where =~ ^(cpu|gpus)$ && $size =~ ^([1-9][0-9]*:)?[1-9][0-9]*$ ]]; then
    echo "error: give the place and the number of ranks first: bash launch/elastic.sh cpu 1:4 [train.py options]" >&2
    exit 2
fi
shift 2
printf -v WARMUP_COMMAND 'bash %q %s %s' "${BASH_SOURCE[0]}" "$where" "$size" # for what train.py answers
export WARMUP_COMMAND
max=${size#*:} min=1
if [[ $size == *:* ]]; then min=${size%:*}; fi
if [ "$min" -gt "$max" ]; then
    echo "error: $size: the least number of ranks is more than the most" >&2
    exit 2
fi

for arg in "$@"; do
    if [[ $arg == --resume || $arg == --resume=* ]]; then
        echo "error: --resume: launch/elastic.sh continues from the newest checkpoint of run_dir by itself" >&2
        exit 2
    fi
done

# shellcheck source=launch/functions.sh
source "$root/launch/functions.sh"
# Options that train.py refuses: the first attempt says why, and writes nothing.
run_dir=$(requested_run_dir "$@") || exec bash "$root/launch/$where.sh" "$max" "$@"
if [ -z "$run_dir" ]; then
    run_dir=runs/elastic-$(date -u +%Y%m%dT%H%M%SZ)
    set -- "$@" --run_dir "$run_dir"
fi

newest() { # of one run, or of the run of each seed
    { find "$run_dir" -maxdepth 3 -path '*/checkpoints/step-*' -prune -printf '%T@ %p\n' 2>/dev/null || true; } |
        sort -n | tail -n 1 | cut -d ' ' -f 2-
}

limit=${WARMUP_RESTARTS:-$((max - min + 3))}
fruitless=0 # attempts in a row without a new checkpoint
while true; do
    ranks=$((max - (fruitless > 1 ? fruitless - 1 : 0)))
    if [ "$where" = gpus ]; then
        found=$(bash "$root/launch/gpus.sh" --count 2>/dev/null || echo 0) # where there is none, gpus.sh says so
        if [ "$found" -gt 0 ] && [ "$ranks" -gt "$found" ]; then ranks=$found; fi
    fi
    if [ "$ranks" -lt "$min" ]; then ranks=$min; fi

    before=$(newest)
    run_to_end bash "$root/launch/$where.sh" "$ranks" --resume auto "$@"
    if [ "$code" -gt 128 ]; then # its ranks may still be saving
        say "error: the attempt was killed by signal $((code - 128)); start the same command again"
        exit 1
    fi
    if [ "$code" != 1 ] || [ -n "$signalled" ]; then exit "$code"; fi

    if [ "$(newest)" != "$before" ]; then fruitless=0; fi
    fruitless=$((fruitless + 1))
    if [ "$fruitless" -gt "$limit" ]; then
        say "error: gave up after $fruitless attempts without a new checkpoint; the newest is ${before:-none}"
        exit 1
    fi
    pause=$((fruitless > 6 ? 60 : 2 ** (fruitless - 1)))
    newest=$(newest)
    say "elastic: $ranks ranks failed; starting again in $pause s from ${newest:-the start}"
    run_to_end sleep "$pause"
    if [ -n "$signalled" ]; then
        say "stopped: between two attempts; go on with the same command"
        exit 75
    fi
done
