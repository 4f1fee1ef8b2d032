"""A command in a process of its own that a test can surely interrupt: it waits when it has finished some units of an attack."""

import sys

_CODE = """
import signal, sys, time
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
import a2d_jax.cli
from a2d_jax.scale.runs import Run
commit, left = Run.commit, {most}
def commit_or_wait(run, measurement, *args):
    global left
    commit(run, measurement, *args)
    left -= measurement != "predict"
    if not left:
        time.sleep(300)
Run.commit = commit_or_wait
sys.exit(a2d_jax.cli.main())
"""


def held(most: int = -1) -> list[str]:
    """The `a2d` command, without its arguments. It listens to signals though the test's own process may ignore them.

    Args:
      most: units of attacks after which it waits, so that a busy machine that is slow to interrupt it does not find it at its end. The
        default is never.
    """
    return [sys.executable, "-c", _CODE.format(most=most)]
