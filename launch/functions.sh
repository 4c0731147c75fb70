# shellcheck shell=bash
# What the scripts that start others share: signals, output that nobody reads, and the run directory of a command.
#
# Usage:  source launch/functions.sh        (sourced, not run)
# To edit: nothing.

trap '' PIPE # a reader that has gone, such as `| head`, must not end a training

# say TEXT: on stderr, if it can still be written to.
say() {
    echo "$1" >&2 2>/dev/null || true
}

# Signals to this script are passed on to the command that runs; their names are collected in $signalled.
signalled="" running=""
# shellcheck disable=SC2329 # called by the traps
pass_on() {
    signalled+="$2 " caught=1
    if [ -n "$running" ]; then kill -s "$1" "$running" 2>/dev/null || true; fi
}
trap 'pass_on TERM TERM' TERM
trap 'pass_on TERM HUP' HUP
trap 'pass_on INT INT' INT
trap 'pass_on USR1 USR1' USR1

# Put in front of a command that is started: it gets SIGTERM when its parent dies, even of SIGKILL. Without setpriv
# (util-linux 2.33), it runs on.
with_parent=()
# shellcheck disable=SC2034 # launch/run.sh reads it too
if setpriv --pdeathsig TERM true 2>/dev/null; then with_parent=(setpriv --pdeathsig TERM); fi

# run_to_end COMMAND [ARGUMENTS]: run it and wait for it. Its exit code is in $code: 75 if a signal came before it could
# say how it ended. After a signal nothing is started any more.
# shellcheck disable=SC2034 # code is read by the scripts that source this file
run_to_end() {
    local caught signal
    code=75
    if [ -n "$signalled" ]; then return 0; fi
    # In a process group of its own, Ctrl-C reaches it once, through pass_on. In the group of this script it would ignore
    # Ctrl-C, as everything does that a script without job control starts with &.
    set -m
    "${with_parent[@]}" "$@" </dev/null &
    running=$!
    set +m
    for signal in $signalled; do # one that came while it was started
        kill -s "${signal/HUP/TERM}" "$running" 2>/dev/null || true
    done
    while caught=""; do # a signal ends `wait` early
        wait "$running" 2>/dev/null && code=0 || code=$?
        if [ -z "$caught" ]; then break; fi
    done
    running=""
    if [ "$code" -gt 128 ] && [ -n "$signalled" ]; then code=75; fi
}

# requested_run_dir [train.py options]: print the run directory that they or their YAML files name; nothing if none does.
# Fails where train.py would refuse the options.
requested_run_dir() {
    local root
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    command -v accelerate >/dev/null || local PATH="$root/.venv/bin:$PATH"
    PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" "$(command -v python || command -v python3)" -c '
import sys
from warmup.training.run import arguments

print(arguments.parse(sys.argv[1:])[0].run_dir or "")' "$@" 2>/dev/null
}
