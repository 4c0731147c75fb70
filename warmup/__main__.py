"""`python -m warmup plan`: print the plan at several world sizes and what the linter finds. Launches nothing.
`python -m warmup report`: what a run was, as a page.
`python -m warmup probe`: which rate and warmup a recipe trains best with, from short runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from warmup.errors import UserError
from warmup.plan_command import plan
from warmup.terminal import highlight

_TEMPLATE = (
    "error: train.py is a template and no part of the installed package: clone the repository, and there run "
    "bash launch/quickstart.sh, or accelerate launch train.py --help. The package has the plan (python -m warmup "
    "plan), the scheduler and the callbacks."
)


def main(argv: Sequence[str]) -> int:
    """Run the command. Returns its exit code: 0, 1 if the linter found an error, 2 for wrong arguments."""
    if argv and argv[0] in ("train", "predict"):
        print(_TEMPLATE, file=sys.stderr)
        return 2
    if not argv or argv[0] not in ("plan", "report", "probe"):
        print("usage: python -m warmup plan [--config FILE] [--world-sizes 1,2,8] [--json] ...", file=sys.stderr)
        print("       python -m warmup report RUN [RUN ...] [--over samples] [--png]", file=sys.stderr)
        print("       python -m warmup probe [--config FILE] [--budget STEPS] ...", file=sys.stderr)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    if argv[0] == "probe":
        return probe(argv[1:])
    try:
        return plan(argv[1:]) if argv[0] == "plan" else report(argv[1:])
    except UserError as error:
        print(highlight(f"error: {error}", sys.stderr), file=sys.stderr)
        return 2


def report(argv: Sequence[str]) -> int:
    """Write the report of runs. Needs libraries that the plan does not."""
    from warmup.report import command

    return command.main(argv)


def probe(argv: Sequence[str]) -> int:
    """Train short runs, on this rank. Needs all that training needs, once the arguments have been read."""
    from warmup.training.probe import command

    return command.main(argv)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if sys.argv[1:2] == ["probe"]:
        from warmup.training.distributed.exit_status import exit_now

        exit_now(code)  # ranks do not wait for each other in the interpreter's teardown
    raise SystemExit(code)
