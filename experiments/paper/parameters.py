"""How the sets of an environment are crafted (Tables 5 and 6): the settings file beside the paper's text."""

from collections.abc import Sequence

from experiments.pages.blocks import Row, Table
from experiments.paper.study import Study


def parameters(study: Study, roles: Sequence[str], title: str) -> Table:
    """A row for each set of the networks that are there."""
    rows = [
        Row((subject.title, name), (how.published, how.text))
        for subject in (study.subjects[role] for role in roles if role in study.subjects)
        for name, how in study.sets(subject).items()
    ]
    return Table(title, ("network", "set"), ("the paper", "here"), rows)
