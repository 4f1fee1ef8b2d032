"""The `a2d` command: arguments in, exit code out. `a2d_jax.console` lists the exit codes.

It handles signals first and loads its libraries afterwards, so that Ctrl-C ends it with one line from the first moment.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Wrong usage exits with 2.

    Args:
      arguments: default the arguments of the process. In that case a signal ends the process at once, and the work may be done in a
        second process (`a2d_jax.supervision`).
    """
    try:
        from a2d_jax import console, process, supervision

        code = supervision.supervised("a2d") if arguments is None else None
        if code is not None:
            return code
    except KeyboardInterrupt:
        print("a2d: interrupted; no output was written", file=sys.stderr)
        return 130

    def work() -> int:
        from a2d_jax.command import command

        return command(arguments)

    code = console.run("a2d", work)
    supervision.ended()
    if arguments is None and code > 128:
        process.leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
