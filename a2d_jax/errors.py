"""The one exception for input of the user that cannot be used, and the one sentence that it says."""


class BadInput(ValueError):
    """A file, value or name given by the user cannot be used.

    Its text is one line: what was expected, what came, what to do. The command line prints that line and exits with 1.
    """


def require(holds: bool, what: str, got: object, remedy: str) -> None:
    """Refuse a bad setting in the project's words: what was expected, what came, what to do.

    Values that are not plain Python numbers or strings (tracers, arrays, pytree placeholders) reach dataclasses whenever JAX
    rebuilds them; callers check only plain values.

    Raises:
      BadInput: `holds` is false.
    """
    if not holds:
        raise BadInput(f"expected {what}, got {got!r}; {remedy}")
