"""The one exception for input of the user that cannot be used, the one sentence that it says, and the warning for input that is odd."""


class BadInput(ValueError):
    """A file, value or name given by the user cannot be used.

    Its text is one line: what was expected, what came, what to do. The command line prints that line and exits with 1.
    """


class InputWarning(UserWarning):
    """Something about the input that the caller should know, although it can be used: what commands tell as notes on stderr."""


def require(holds: bool, what: str, got: object, remedy: str) -> None:
    """Refuse a bad setting in the project's words: what was expected, what came, what to do.

    Values that are not plain Python numbers or strings (tracers, arrays, pytree placeholders) reach dataclasses whenever JAX
    rebuilds them; callers check only plain values.

    Raises:
      BadInput: `holds` is false.
    """
    if not holds:
        raise BadInput(f"expected {what}, got {got!r}; {remedy}")
