#!/usr/bin/env bash
# `accelerate launch` for train.py with an exit code that says how the run ended, and without the launcher's tracebacks.
#
# Usage:  bash launch/run.sh [accelerate launch options] train.py [train.py options]
#   e.g.  bash launch/run.sh --config_file configs/accelerate/cpu_2.yaml train.py --config configs/quickstart_pretrain.yaml
# Exit code:  0 done, 75 stopped by a signal (start it again to go on), 2 user error, 1 failed.
# To look first:  WARMUP_DRY_RUN=1 prints the command and starts nothing, here and in every script that ends here;
# --dry_run among train.py's options also prints the plan for as many ranks, what the data holds and the run directory.
# To debug:  add --traceback, or set WARMUP_TRACEBACK=1: the launcher's own output comes through untouched.
# Nothing to edit here. Paths are relative to where you are; the environment is the active one, else the repository's .venv.
set -euo pipefail
trap 'exit 75' INT TERM HUP USR1 # until something has been started
if [[ ${1:-} =~ ^(-h|--help)$ ]]; then exec sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"; fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/functions.sh
source "$root/launch/functions.sh"

# Signals go to the ranks: the launcher of one process would die without its rank, the launcher of several kills its
# ranks 30 s after a signal, finished or not. While there are no ranks yet, they go to the launcher. Ctrl-C stops as
# SIGTERM does; a second one ends the ranks at once.
launcher="" caught="" interrupted="" signalled=${signalled%% *} # a signal may have come meanwhile
# shellcheck disable=SC2329 # called by the traps
forward() {
    local ranks signal=$1
    signalled=$1 caught=1
    if [ -z "$launcher" ]; then return 0; fi
    if [ "$signal" = INT ]; then
        if [ -n "$interrupted" ] && [ $((SECONDS - interrupted)) -ge 2 ]; then
            kill -KILL "$launcher" 2>/dev/null || true
            return 0
        fi
        if [ -z "$interrupted" ]; then say "stopping after this step, with a checkpoint; Ctrl-C again ends it at once"; fi
        interrupted=${interrupted:-$SECONDS}
    fi
    if [ "$signal" != USR1 ]; then signal=TERM; fi
    ranks=$(cat "/proc/$launcher/task/"*/children 2>/dev/null) || true
    # shellcheck disable=SC2086 # a list of process ids
    if [ -n "$ranks" ]; then kill -s "$signal" $ranks 2>/dev/null || true; else kill "$launcher" 2>/dev/null || true; fi
}
for signal in TERM HUP INT USR1; do
    # shellcheck disable=SC2064 # expands now
    trap "forward $signal" "$signal"
done

command -v accelerate >/dev/null || PATH="$root/.venv/bin:$PATH"
tmp=$(mktemp -d "${TMPDIR:-/tmp}/warmup.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

traceback=${WARMUP_TRACEBACK:-} config="" previous="" dry_run=""
for arg in "$@"; do
    if [ "$arg" = --traceback ]; then traceback=1; fi
    if [[ $arg =~ ^--dry[_-]run$ ]]; then dry_run=1; fi
    if [ "$previous" = --config_file ]; then config=$arg; fi
    previous=$arg
done

# The launcher of several processes does not tell its ranks of `use_cpu: true`: without this each would train alone.
if [ -f "$config" ] && grep -Eq '^use_cpu: *true' "$config"; then export ACCELERATE_USE_CPU=true; fi

if [ -z "${WARMUP_COMMAND:-}" ]; then # for what train.py answers: all that stands before its options
    printf -v WARMUP_COMMAND 'bash %q' "${BASH_SOURCE[0]}"
    for arg in "$@"; do
        printf -v WARMUP_COMMAND '%s %q' "$WARMUP_COMMAND" "$arg"
        if [[ $arg == *.py || $arg == probe ]]; then break; fi
    done
fi
export WARMUP_COMMAND

if [ -n "${WARMUP_DRY_RUN:-}$dry_run" ]; then
    command=""
    for name in ACCELERATE_USE_CPU DS_ACCELERATOR GLOO_SOCKET_IFNAME OMP_NUM_THREADS PYTORCH_CUDA_ALLOC_CONF; do
        if [ -n "${!name:-}" ]; then command+="$name=$(printf %q "${!name}") "; fi
    done
    printf -v words ' %q' "$@"
    echo "${command}accelerate launch$words"
    if [ -z "$dry_run" ]; then exit 0; fi
    while [[ $1 != *.py && $1 != -m ]]; do shift; done
    exec "$(command -v python || command -v python3)" "$@"
fi

if ! command -v accelerate >/dev/null; then
    say "error: accelerate is not installed here; make the environment, or activate yours: source $root/launch/environment.sh"
    exit 2
fi

# train.py: the first rank that ends writes here how it ended.
export WARMUP_STATUS_FILE="$tmp/status.json"

# The launcher's stderr goes to a log; ranks open WARMUP_STDERR to reach the user's: the terminal, or a pipe to it.
log=$tmp/launcher.log relay=""
unset WARMUP_STDERR
if [ "$traceback" = 1 ]; then
    log=""
elif [ -t 2 ] && WARMUP_STDERR=$(tty <&2); then
    export WARMUP_STDERR
else
    export WARMUP_STDERR="$tmp/stderr"
    mkfifo "$WARMUP_STDERR"
    # Where nobody reads it any more, it is still taken from the ranks. Standard input holds the pipe open between the two.
    (
        trap '' INT TERM HUP USR1
        unset WARMUP_STATUS_FILE # by which ranks that are left behind are found and killed
        exec <"$WARMUP_STDERR"
        cat >&2 2>/dev/null || cat >/dev/null
    ) &
    relay=$!
    exec {hold}>"$WARMUP_STDERR" # keeps cat reading while no rank has it open
fi

if [ -n "$signalled" ]; then
    say "stopped: by SIG$signalled before anything was started"
    exit 75
fi
set -m # its own process group: Ctrl-C reaches it through `forward` only
# A cluster may send SIGUSR1 to every process of a job; the launcher would die of it, before its ranks have saved.
if [ "$traceback" = 1 ]; then
    (trap '' USR1 && exec "${with_parent[@]}" accelerate launch "$@" </dev/null) &
else
    (trap '' USR1 && exec "${with_parent[@]}" accelerate launch "$@" </dev/null 2>"$log") &
fi
launcher=$!
set +m
if [ -n "$signalled" ]; then forward "$signalled"; fi # one that came while it was started

while caught=""; do # a signal ends `wait` early
    wait "$launcher" 2>/dev/null && code=0 || code=$?
    if [ -z "$caught" ]; then break; fi
done

# A launcher that was killed leaves its ranks behind, training on.
env -u WARMUP_STATUS_FILE grep -lsz "^WARMUP_STATUS_FILE=$tmp/" /proc/[0-9]*/environ | while read -r environment; do
    pid=${environment//[^0-9]/}
    if [ "$pid" != "$relay" ]; then kill -KILL "$pid" 2>/dev/null || true; fi
done || true

if [ -n "$relay" ]; then
    exec {hold}>&-
    for _ in {1..100}; do # ends at once, unless something the ranks started still holds the pipe
        kill -0 "$relay" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$relay" 2>/dev/null || true
    wait "$relay" 2>/dev/null || true
fi

outcome="" message=""
if [ -f "$WARMUP_STATUS_FILE" ]; then
    python=$(command -v python || command -v python3)
    { read -r outcome && IFS= read -r -d '' message; } < <("$python" - "$WARMUP_STATUS_FILE" <<'EOF'
import json, sys

status = json.load(open(sys.argv[1], encoding="utf-8"))
print(status["outcome"], status["message"], sep="\n")
EOF
    ) || true
    message=${message%$'\n'}
fi

# The rank that failed first, by the launcher's log. When a rank dies (-9: killed, often for want of memory) the launcher
# stops the others, and they report "stopped": unless a signal came to this script, that is a failure.
first_rank="" first_code=""
if [ "$traceback" != 1 ] && [ -z "$signalled" ]; then
    read -r first_rank first_code < <(awk '/^Root Cause/ { seen = 1 } seen && $1 == "rank" { rank = $3 }
        seen && $1 == "exitcode" { print rank, $3; exit }' "$log") || true
fi
if [ "$outcome" = stopped ] && [ "${first_code:-75}" != 75 ]; then
    outcome=failed message="rank $first_rank ended with exit code $first_code and the launcher stopped the others"
elif [ "$outcome" = failed ] && [[ $first_code == -* ]]; then
    message="$message (rank $first_rank was killed by signal ${first_code#-})"
fi
if [ "$outcome" = stopped ] && [ "$code" = 137 ] && [ -z "$signalled" ]; then # ranks stop when their launcher is gone
    outcome=failed message="the launcher was killed by signal 9"
elif [ "$outcome" = failed ] && [ -n "$signalled" ] && [[ $message == *"lost contact with another rank"* ]]; then
    outcome=stopped message="by SIG$signalled while the ranks were starting or saving" # one of them was gone first
fi

case $outcome in
done) # a rank may still have crashed after the first one was done
    if [ "$code" = 0 ] || [ -n "$signalled" ]; then exit 0; fi
    ;;
stopped)
    say "stopped: $message"
    exit 75
    ;;
"user error")
    say "error: $message"
    exit 2
    ;;
failed)
    say "error: $message"
    exit 1
    ;;
esac

if [ "$code" = 0 ]; then exit 0; fi # nothing to run, as for --help
if [ "$traceback" != 1 ]; then # what the ranks wrote comes before the launcher's own lines
    sed -E '/^[WE][0-9]{4} .*torch\/distributed\/elastic/,$d' "$log" >"$tmp/ranks.log"
    if [ -s "$tmp/ranks.log" ] || [ -n "$first_rank" ]; then log=$tmp/ranks.log; fi
    if [ -z "$signalled" ]; then tail -n 30 "$log" >&2 || true; fi
fi
if [ -n "$signalled" ]; then
    say "stopped: by SIG$signalled before train.py could say how it ended"
    exit 75
elif [ -n "$first_rank" ]; then
    say "error: rank $first_rank ended with exit code $first_code and did not say why (more with --traceback)"
else
    say "error: the launcher ended with code $code before train.py could say how it ended"
fi
exit 1
