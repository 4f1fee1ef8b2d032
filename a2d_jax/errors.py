"""The one exception for user input that cannot be used, the form of its message, and the warning for unusual input."""


class BadInput(ValueError):
    """A file, value or name from the user cannot be used.

    The message is one line: what was expected, what came, what to do. The command line prints this line and exits with 1.
    """


class InputWarning(UserWarning):
    """The input can be used, but the caller should know something about it. Commands print this as a note on stderr."""


def require(holds: bool, what: str, got: object, remedy: str) -> None:
    """Refuse a bad setting with the project's message: what was expected, what came, what to do.

    Values that are not plain Python numbers or strings (tracers, arrays, pytree placeholders) reach dataclasses whenever JAX
    rebuilds them; callers check only plain values.

    Raises:
      BadInput: `holds` is false.
    """
    if not holds:
        raise BadInput(f"expected {what}, got {got!r}; {remedy}")
