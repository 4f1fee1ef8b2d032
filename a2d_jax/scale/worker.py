"""What an actor of Ray runs: it opens a job once and does one group of parts after the other.

Importing this file does not load JAX: the job that the actor opens sets what JAX reads first.
"""

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from a2d_jax.errors import BadInput

REFUSED, BROKEN = "refused", "broken"
"""How a group ended: bad input, explained in one line; or an error of the program, with its traceback."""


class Worker:
    """Does groups of parts. Errors are values here: what an actor raises reaches the driver only after Ray has retried it.

    Args:
      elsewhere: opens the job and returns a function that does parts.
    """

    def __init__(self, elsewhere: Callable[[], Callable[[Sequence[int]], None]]) -> None:
        self._open = elsewhere
        self._do: Callable[[Sequence[int]], None] | None = None

    def __call__(self, group: Mapping[str, Any]) -> dict[str, list[str]]:
        """Do a group: its row has the numbers of the parts as JSON, and the answer how it ended."""
        try:
            self._do = self._do or self._open()
            self._do(json.loads(str(group["parts"][0])))
        except (BadInput, OSError) as error:
            return {"end": [REFUSED], "kind": [type(error).__name__], "why": [str(error)]}
        except Exception as error:
            return {"end": [BROKEN], "kind": [type(error).__name__], "why": ["".join(traceback.format_exception(error))]}
        return {"end": ["done"], "kind": [""], "why": [""]}
