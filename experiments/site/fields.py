"""Fields of a class as one table: what its docstring or a comment behind a field (`x: Array  # clean input`) says of them.

An extension of griffe, which reads the sources for mkdocstrings.
"""

import re

from griffe import Attribute, Class, Docstring, Extension, Visitor

COMMENT = re.compile(r"  # (.*)$")
OF_ATTACKS = {"init", "step", "look", "move", "length", "norm", "scheduled"}  # the protocol describes them


class Fields(Extension):
    """Moves the fields of every class into the text of the class, and hides what every attack has."""

    def on_class_members(self, *, cls: Class, agent: Visitor, **_: object) -> None:
        fields = [one for one in cls.members.values() if isinstance(one, Attribute) and "property" not in one.labels and not one.docstring]
        fields = [one for one in fields if not one.name.startswith("_")]
        hidden = OF_ATTACKS if cls.path.startswith("a2d_jax.attacks.") else set()
        for one in [*fields, *(cls.members[name] for name in hidden & cls.members.keys())]:
            one.public = False  # no entry of its own
        text = cls.docstring.value if cls.docstring else ""
        if not fields or not text or "Attributes:\n" in text:
            return
        lines = agent.code.splitlines()
        comments = {one.name: COMMENT.search(lines[one.endlineno - 1]) for one in fields if one.endlineno}
        if any(comments.values()) or "NamedTuple" in map(str, cls.bases):  # a dataclass shows its fields as arguments
            rows = "".join(f"\n  {name}: {found[1] if found else '-'}" for name, found in comments.items())
            how = {"parser": agent.docstring_parser, "parser_options": agent.docstring_options}
            cls.docstring = Docstring(f"{text}\n\nAttributes:{rows}", lineno=cls.lineno, parent=cls, **how)
