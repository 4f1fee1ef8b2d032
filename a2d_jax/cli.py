"""The `a2d` command: arguments in, exit code out. `a2d_jax.console` lists the exit codes.

It handles signals first and loads its libraries afterwards, so that Ctrl-C ends it with one line from the first moment.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Wrong usage exits with 2.

    Args:
      arguments: default the arguments of the process. In that case a signal ends the process at once.
    """
    try:
        from a2d_jax import console, process
    except KeyboardInterrupt:
        print("a2d: interrupted; no output was written", file=sys.stderr)
        return 130

    def work() -> int:
        from a2d_jax.command import command

        return command(arguments)

    code = console.run("a2d", work)
    if arguments is None and code > 128:
        process.leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
