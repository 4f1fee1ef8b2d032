"""JSMA without a given target: a line search along the gradient finds a target class, then scalars are moved towards it.

    search   clip(x + l g / rms(g)), g = grad CE(x, label), for growing lengths l: the class at the shortest misclassified point, or
             one drawn at random from all but the label if there is none
    move     from the input again, `jsma.JSMA` towards that class, until *any* other class than the label is predicted

Source: Foolbox 1.8 `saliency.py` without a target. Its search is both passes of its `gradient.py` (see `gradient_sign.py`). The released
A2D code makes the training data of its detectors in this way. As in the reference, no point of the search is the result. Differs: as in
`jsma.py`; a direction has unit length whatever the size of the gradient (the reference adds 1e-8 to this size).

Every point judged counts as an iteration, including the points of the search.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from a2d_jax import norms
from a2d_jax.attacks.gradient_sign import LineSearch
from a2d_jax.attacks.jsma import choose, moved
from a2d_jax.errors import require
from a2d_jax.losses import cross_entropy, misclassifies, prediction, view
from a2d_jax.types import STATIC, Classifier, Example, Norm, Progress


class JSMAUntargetedState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the point the next step will judge; the input during the search
    direction: Float[Array, "h w c"]  # of the search
    search: LineSearch
    reached: Int[Array, ""]  # class at the shortest hit of the search; -1 for none
    moves: Int[Array, "h w c"]  # signed number of moves of each scalar, in steps of theta
    changes: Int[Array, "h w c"]  # how often each scalar was moved, either way
    target: Int[Array, ""]  # class to move towards; -1 during the search
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class JSMAUntargeted:
    """Saliency map attack away from the label, towards the class that the gradient leads to.

    Attributes:
      theta: change of a scalar per update, pixel units.
      max_steps: largest number of points judged after the input, search and moves together.
      max_updates: largest number of moves.
      max_changes: largest number of moves of one scalar.
      lengths: lengths of the first pass of the search, equal parts of a root mean square of 1.
    """

    theta: float = field(default=0.1, metadata=STATIC)
    max_steps: int | Array = 3020
    max_updates: int | Array = 1999
    max_changes: int | Array = 7
    lengths: int | Array = 1000

    def __post_init__(self) -> None:
        require(self.theta > 0, "theta > 0", self.theta, "give the change per update in pixel units, such as 0.1")
        for name, value in (("max_steps", self.max_steps), ("max_updates", self.max_updates), ("max_changes", self.max_changes)):
            if isinstance(value, int):
                require(value >= 0, f"{name} >= 0", value, "give a number of updates")
        if isinstance(self.lengths, int):
            require(self.lengths >= 1, "lengths >= 1", self.lengths, "give the number of lengths of the first pass")

    @property
    def norm(self) -> Norm:
        """The number of scalars that differ."""
        return "l0"

    def init(self, example: Example) -> JSMAUntargetedState:
        none, nobody = jnp.zeros(example.x.shape, jnp.int32), jnp.full((), -1, jnp.int32)
        search = LineSearch.start(jnp.ones((), example.x.dtype))
        return JSMAUntargetedState(example.x, jnp.zeros_like(example.x), search, nobody, none, none, nobody, Progress.start(example))

    def step(self, classifier: Classifier, example: Example, state: JSMAUntargetedState) -> JSMAUntargetedState:
        at_input, searching = state.progress.iterations == 0, state.target < 0
        tried = jnp.clip(example.x + state.search.length(self.lengths) * state.direction, 0, 1)
        point = jnp.where(searching, tried, state.x_adv)
        logits, gradient, slope = view(classifier, lambda z: cross_entropy(z, jnp.where(searching, example.label, state.target)), point)
        wrong = state.progress.admit(misclassifies(logits, example.label))

        search, found = state.search.advance(wrong, self.lengths)
        reached = jnp.where(wrong & searching, prediction(logits), state.reached)
        named = jnp.where(reached < 0, _another(example, logits.shape[0]), reached)

        asked = at_input | ~searching  # for a gradient; the search looks without
        change = jnp.where(searching, 0, choose(state.x_adv, state.changes, gradient, self.max_changes))
        untouched = ~searching & example.own & ~jnp.any(state.changes > 0)  # the input again, whose label stands
        spent = jnp.sum(state.changes, dtype=jnp.int32) >= self.max_updates
        progress = state.progress.judge(
            wrong & asked & ~untouched,
            self.max_steps,
            forward=1,
            backward=asked.astype(jnp.int32),
            give_up=~searching & (spent | ~jnp.any(change != 0)),
            slope=jnp.where(asked, slope, 0),
        )
        change = jnp.where(progress.done, 0, change)
        moves = state.moves + change
        return JSMAUntargetedState(
            x_adv=jnp.where(change != 0, moved(example.x, moves, self.theta), state.x_adv),
            direction=jnp.where(at_input, norms.steepest(gradient, "rms"), state.direction),
            search=search,
            reached=reached,
            moves=moves,
            changes=state.changes + jnp.abs(change),
            target=jnp.where(searching & found, named, state.target),
            progress=progress,
        )

    def length(self) -> int:
        return int(self.max_steps) + 1


def _another(example: Example, classes: int) -> Int[Array, ""]:
    """A class drawn from all but the label."""
    other = jax.random.randint(example.key, (), 0, classes - 1, jnp.int32)
    return jnp.where(other >= example.label, other + 1, other)
