"""Fields of a class as one table: what its docstring or a comment behind a field (`x: Array  # clean input`) says of them.

An extension of griffe, which reads the sources for mkdocstrings.
"""

import re

from griffe import Attribute, Class, Docstring, Extension, Visitor

COMMENT = re.compile(r"  # (.*)$")


class Fields(Extension):
    """Moves the fields of every class into the text of the class."""

    def on_class_members(self, *, cls: Class, agent: Visitor, **_: object) -> None:
        fields = [one for one in cls.members.values() if isinstance(one, Attribute) and "property" not in one.labels and not one.docstring]
        fields = [one for one in fields if not one.name.startswith("_")]
        for one in fields:
            one.public = False  # no entry of its own
        text = cls.docstring.value if cls.docstring else ""
        if fields and "Attributes:\n" not in text:
            lines = agent.code.splitlines()
            said = {one.name: COMMENT.search(lines[one.endlineno - 1]) for one in fields if one.endlineno}
            table = "".join(f"\n  {name}: {found[1] if found else ''}" for name, found in said.items())
            cls.docstring = Docstring(f"{text}\n\nAttributes:{table}", lineno=cls.lineno, parent=cls)
