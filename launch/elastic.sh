#!/usr/bin/env bash
# Train on this machine through failures: when a rank dies or hangs, all are started again, by a fresh launcher, from the
# newest checkpoint. The next attempt has as many ranks again; each further one without a new checkpoint has one fewer.
#
# Usage:  bash launch/elastic.sh cpu|gpus [MIN:]MAX [train.py options]        MIN ranks at least (default 1), MAX at most
#   e.g.  bash launch/elastic.sh cpu 1:4 --config configs/quickstart_pretrain.yaml --run_dir runs/mine
# Writes: --run_dir, by default runs/elastic-<UTC time>. What is in it already is gone on with.
# Exit code:  that of launch/run.sh; 1 after too many attempts in a row without a new checkpoint.
# To edit: nothing; WARMUP_RESTARTS is how many are too many (default: MAX - MIN + 3).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
where=${1:-} size=${2:-}
if ! [[ $where =~ ^(cpu|gpus)$ && $size =~ ^([1-9][0-9]*:)?[1-9][0-9]*$ ]]; then
    echo "error: give the place and the number of ranks first: bash launch/elastic.sh cpu 1:4 [train.py options]" >&2
    exit 2
fi
shift 2
max=${size#*:} min=1
if [[ $size == *:* ]]; then min=${size%:*}; fi
if [ "$min" -gt "$max" ]; then
    echo "error: $size: the least number of ranks is more than the most" >&2
    exit 2
fi

run_dir="" previous=""
for arg in "$@"; do
    case $arg in
    --resume | --resume=*)
        echo "error: --resume: launch/elastic.sh goes on from the newest checkpoint of --run_dir by itself" >&2
        exit 2
        ;;
    --run[_-]dir=*) run_dir=${arg#*=} ;;
    esac
    if [[ $previous == --run[_-]dir ]]; then run_dir=$arg; fi
    previous=$arg
done
if [ -z "$run_dir" ]; then
    run_dir=runs/elastic-$(date -u +%Y%m%dT%H%M%SZ)
    set -- "$@" --run_dir "$run_dir"
fi

newest() { # of one run, or of the run of each seed
    { find "$run_dir" -maxdepth 3 -path '*/checkpoints/step-*' -prune -printf '%T@ %p\n' 2>/dev/null || true; } |
        sort -n | tail -n 1 | cut -d ' ' -f 2-
}

# A signal is for the attempt that runs, and there is none after it. (Ctrl-C reaches the attempt by itself.)
attempt="" signalled=""
# shellcheck disable=SC2329 # called by the traps
pass_on() {
    signalled=1
    if [ -n "$attempt" ]; then kill -s "$1" "$attempt" 2>/dev/null || true; fi
}
trap 'pass_on TERM' TERM HUP
trap 'pass_on USR1' USR1
trap 'signalled=1' INT

limit=${WARMUP_RESTARTS:-$((max - min + 3))}
fruitless=0 # attempts in a row without a new checkpoint
while true; do
    ranks=$((max - (fruitless > 1 ? fruitless - 1 : 0)))
    if [ "$where" = gpus ]; then
        found=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)
        if [ "$found" -gt 0 ] && [ "$ranks" -gt "$found" ]; then ranks=$found; fi
    fi
    if [ "$ranks" -lt "$min" ]; then ranks=$min; fi

    before=$(newest)
    bash "$root/launch/$where.sh" "$ranks" --resume auto "$@" &
    attempt=$!
    code=130
    while kill -0 "$attempt" 2>/dev/null; do # a signal ends `wait` early
        wait "$attempt" && code=0 || code=$?
    done
    attempt=""
    if [ "$code" != 1 ] || [ -n "$signalled" ]; then exit "$code"; fi

    if [ "$(newest)" != "$before" ]; then fruitless=0; fi
    fruitless=$((fruitless + 1))
    if [ "$fruitless" -gt "$limit" ]; then
        echo "error: gave up after $fruitless attempts without a new checkpoint; the newest is ${before:-none}" >&2
        exit 1
    fi
    pause=$((fruitless > 6 ? 60 : 2 ** (fruitless - 1)))
    newest=$(newest)
    echo "elastic: $ranks ranks failed; starting again in $pause s from ${newest:-the start}" >&2
    sleep "$pause" &
    wait $! || true
    if [ -n "$signalled" ]; then
        echo "stopped: between two attempts; go on with the same command" >&2
        exit 75
    fi
done
