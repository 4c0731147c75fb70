#!/usr/bin/env bash
# All checks: ruff, formatting, types, shellcheck, then the tests without those marked slow (benchmarks are not run).
#
# Usage:  bash launch/test.sh [--all] [pytest options]        --all: the slow tests too
#   e.g.  bash launch/test.sh -x -k plan
#         bash launch/test.sh -n 0 --pdb        one process; by default two of them, which share the test files
# To edit: nothing; pytest's and ruff's settings are in pyproject.toml.
set -euo pipefail
if [[ ${1:-} =~ ^(-h|--help)$ ]]; then exec sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"; fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
select=(-m "not slow")
if [ "${1:-}" = --all ]; then
    select=()
    shift
fi

export WARMUP_EXTRAS=test
# shellcheck source=/dev/null
source launch/environment.sh

export HF_HUB_OFFLINE=1 # tests fetch nothing
failed=0
echo "== ruff check" && { ruff check . || failed=1; }
echo "== ruff format --check" && { ruff format --check . || failed=1; }
echo "== pyrefly" && { pyrefly check --output-format min-text || failed=1; }
echo "== shellcheck" && { shellcheck launch/*.sh && echo "All scripts pass." || failed=1; }
# A file is one process's, so that its fixtures are made once; in the order of the folders, so that the short files of
# tests/unit are left for the end.
select+=(--ignore=tests/benchmarks --ignore=tests/experiments -n 2 --dist loadfile --no-loadscope-reorder)
echo "== pytest" && { python -m pytest "${select[@]}" "$@" || failed=1; }
exit "$failed"
