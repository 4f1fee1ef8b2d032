"""The one exception for input of the user that cannot be used."""


class BadInput(ValueError):
    """A file, value or name given by the user cannot be used.

    Its text is one line: what was expected, what came, what to do. The command line prints that line and exits with 1.
    """
