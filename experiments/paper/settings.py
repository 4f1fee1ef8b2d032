"""How the sets of adversarial images are crafted: `settings.toml` as data."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

SUBSTITUTE = "substitute"
"""The attack that `experiments.substitute` makes: it never sees the network."""


@dataclass(frozen=True)
class Crafting:
    """How one set is crafted.

    Attributes:
      attack: as the command line takes it.
      published: the paper's text; empty for a stand-in.
      target: class that a targeted attack tries to reach.
      stretch: each image is stretched to its own range and rounded to 8 bits.
      successes: only images that fool the network belong to the set.
      unbounded: pixels may leave [0, 1] before the image is stretched; FGSM lowers the logit of the label.
      extra: the set is in neither table; a figure needs it.
    """

    attack: str
    published: str = ""
    target: str | None = None
    stretch: bool = False
    successes: bool = False
    unbounded: bool = False
    extra: bool = False

    @property
    def text(self) -> str:
        """The attack with its target, as the command line takes it."""
        targeted = f":targeted=true, target {self.target}" if self.target else ""
        kind = ", without bounds" if self.unbounded else ""
        return f"{self.attack}{targeted}{kind}{', stretched to 8 bits' if self.stretch else ''}"


def craftings() -> Mapping[str, Mapping[str, Crafting]]:
    """All sets, by environment with data, such as `env1-mnist`, and name."""
    content = tomllib.loads(files("experiments.paper").joinpath("settings.toml").read_text(encoding="utf-8"))
    return {where: {name: Crafting(**one) for name, one in sets.items()} for where, sets in content.items()}
