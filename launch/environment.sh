# shellcheck shell=bash
# The Python environment of every other script: made and filled the first time, reused at once afterwards.
#
# Usage:  source launch/environment.sh        (sourced, not run)
#         WARMUP_EXTRAS=test source launch/environment.sh        (extras of setup.cfg: test, deepspeed, track)
# It uses the virtual environment that is active, else .venv in the repository root, made with ${WARMUP_PYTHON:-python3}.
# On a machine without a GPU it takes PyTorch's CPU build, which saves a download of several GB, where
# https://download.pytorch.org/whl/cpu answers within two seconds and PIP_EXTRA_INDEX_URL is not set.
# To edit: nothing.

# The index of the wheels that suit this machine; nothing where pip's own is to be used alone.
_warmup_index() {
    local index=https://download.pytorch.org/whl/cpu
    if [ -n "${PIP_EXTRA_INDEX_URL+set}" ] || nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then return 0; fi
    if timeout 2 python -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)' "$index/torch/" \
        >/dev/null 2>&1; then echo "$index"; fi
}

# Says so where the NVIDIA driver is older than PyTorch's default build needs, which would see no GPU.
_warmup_check_driver() {
    local driver
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 || true)
    if [ -z "${PIP_EXTRA_INDEX_URL+set}" ] && [[ $driver =~ ^([0-9]+)\. ]] && [ "${BASH_REMATCH[1]}" -lt 580 ]; then
        echo "warning: PyTorch's default build, for CUDA 13, needs the driver 580 or a newer one, and this machine has" \
            "$driver; for a build for CUDA 12.6, set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cu126" >&2
    fi
}

_warmup_environment() {
    local root python extras=${WARMUP_EXTRAS:-} stamp hash log index
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    python=${WARMUP_PYTHON:-python3}
    if [ -n "${VIRTUAL_ENV:-}" ]; then python=$VIRTUAL_ENV/bin/python; fi
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        echo "error: $python is not a Python >= 3.10; name one with WARMUP_PYTHON=/path/to/python3.10" >&2
        return 1
    fi

    if [ -z "${VIRTUAL_ENV:-}" ]; then
        if [ ! -f "$root/.venv/bin/activate" ] && ! "$python" -m venv "$root/.venv" >&2; then
            echo "error: cannot make a virtual environment in $root/.venv (on Debian and Ubuntu: install python3-venv)" >&2
            return 1
        fi
        # shellcheck source=/dev/null
        source "$root/.venv/bin/activate"
    fi

    stamp=$VIRTUAL_ENV/.warmup-installed${extras:+-$extras}
    hash=$(cat "$root/setup.cfg" "$root/constraints.txt" - <<<"$root $extras" | python -c \
        'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
    if [ "$(cat "$stamp" 2>/dev/null)" = "$hash" ]; then return 0; fi

    echo "installing the dependencies into $VIRTUAL_ENV (a few minutes the first time) ..." >&2
    _warmup_check_driver
    log=$(mktemp "${TMPDIR:-/tmp}/warmup-pip.XXXXXX")
    index=$(_warmup_index)
    if [ -n "$index" ]; then echo "no GPU: PyTorch's CPU build, from $index" >&2; fi
    if ! ${index:+env "PIP_EXTRA_INDEX_URL=$index"} python -m pip install -c "$root/constraints.txt" -e "$root${extras:+[$extras]}" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "error: pip could not install the dependencies; its whole output is in $log" >&2
        return 1
    fi
    rm -f "$log"
    echo "$hash" >"$stamp"
}

_warmup_environment
