"""The `a2d` command: arguments in, exit code out (`a2d_jax.console` says which).

It listens to signals first and loads what it needs then, so that Ctrl-C ends it in one line from its first moments.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; wrong usage exits with 2 by itself.

    Args:
      arguments: default those of the process, which is then the command's own and ends at once after a signal.
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
