"""The protocol of this package: classifiers, examples, attack states and results.

Everything here describes *one unbatched example*; drivers add the batch axis with `vmap`. All types are pytrees, so that
they pass through `jit`, `vmap`, `while_loop` and `shard_map`: numbers are leaves (a new value compiles nothing), choices that
change the program are static.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Key

AnyArray = Array | np.ndarray
Norm = Literal["l0", "l1", "l2", "linf", "rms"]
STATIC = {"static": True}
"""Metadata of a dataclass field that is part of the program, not an argument of it."""
LATER = {"later": True}
"""Metadata of a setting that an attack got after files with its settings were written. Files hold it only where it is not the default, so
that older files say the same."""


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["variables"], meta_fields=["apply"], drop_fields=["card"]
)  # what a checkpoint says is no part of the program
@dataclass(frozen=True)
class Classifier:
    """A function from one image to logits, with its weights beside it.

    Normalisation and evaluation mode live inside `apply`, so that attacks know only pixels. `apply` is static: pass the same
    (or an equal) callable again and nothing is compiled anew, whatever the weights. `a2d_jax.classifiers` builds one from a
    Flax NNX module, a Flax Linen module or a plain function.

    Attributes:
      variables: weights and statistics, any pytree of arrays.
      apply: `(variables, x) -> logits`; x `h w c`, float32 in [0, 1]; logits `k`.
      card: how it can be made again, and the facts of its checkpoint, see `a2d_jax.io.checkpoints`; empty if they are not known. It is lost
        when JAX flattens the classifier.
    """

    variables: Any
    apply: Callable[[Any, Array], Array] = field(metadata=STATIC)
    card: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, " k"]:
        return self.apply(self.variables, x)


class Example(NamedTuple):
    """The input of an attack; it never changes while the attack runs. Batches on the host may hold numpy arrays."""

    x: Float[Array, "h w c"]  # clean input, in [0, 1]
    label: Int[Array, ""]  # the class to leave (or to reach, for a targeted attack)
    key: Key[Array, ""]  # belongs to the example, never to its lane, batch or device
    predicted: Bool[Array, ""] | None = None  # `label` is what the classifier predicts of x; None: it is given, for every example
    start: Float[Array, "h w c"] | None = None  # first point of the attack, which projects it onto its ball around x; None: x itself

    @property
    def own(self) -> Bool[Array, ""]:
        """`predicted`, false where it is None."""
        return jnp.asarray(False if self.predicted is None else self.predicted, bool)


class Progress(NamedTuple):
    """The part of an attack's state that drivers read."""

    iterations: Int[Array, ""]  # updates applied
    success: Bool[Array, ""]  # the criterion holds at `x_adv`
    reached: Bool[Array, ""]  # the event whose cost is counted has happened; equals `success` for most attacks
    done: Bool[Array, ""]  # nothing will change any more
    forward: Int[Array, ""]  # forward queries the algorithm asked for
    backward: Int[Array, ""]  # backward queries the algorithm asked for
    fresh: Bool[Array, ""]  # the point is the input and the label is the classifier's own: nothing is misclassified
    crossing: Float[Array, ""]  # radius at which the class changes; before that, the radius walked; NaN for an attack that has none
    broken: Bool[Array, ""]  # logits or a gradient were not finite: the attack has ended, and its numbers say nothing
    flat: Bool[Array, ""]  # there were gradients, and every one of them was 0: the attack had no direction to go

    @classmethod
    def start(cls, example: Example, point: Array | None = None) -> "Progress":
        """Nothing done yet. The origin of the label decides whether the input itself can be a success, see `admit`.

        Args:
          example: one example.
          point: the point that is judged first; None is the input. Another point than the input can be a success without an update.
        """
        zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        fresh = example.own if point is None else example.own & jnp.all(point == example.x)
        return cls(zero, no, no, no, zero, zero, fresh, jnp.full((), jnp.nan, example.x.dtype), no, no)

    def admit(self, success: Array) -> Array:
        """`success`, but never for the input itself if its label is the classifier's own prediction.

        For an image that lies on the boundary to within rounding, the program that predicted the label and the program of the attack may
        give different classes. The label is then right: a success without an update would mean that the prediction contradicts itself.
        `judge` calls this by itself; an attack that uses a success elsewhere must call it first.
        """
        return success & ~self.fresh

    def query(self, *, forward: int | Array = 0, backward: int | Array = 0) -> "Progress":
        """Count model queries that decide nothing."""
        return self._replace(forward=self.forward + forward, backward=self.backward + backward)

    def judge(
        self,
        success: Array,
        max_steps: int | Array,
        *,
        reached: Array | None = None,
        forward: int | Array = 0,
        backward: int | Array = 0,
        give_up: Array | bool = False,
        goes_on: Array | bool = False,
        crossing: Array | None = None,
        slope: Array | None = None,
    ) -> "Progress":
        """Judge the current point: the one place that decides `done` and counts the update that follows.

        Args:
          success: the criterion holds at the current point, or at the one that is kept.
          max_steps: budget of updates; the point after the last one is still judged.
          reached: the event whose cost is counted has happened; default `success`.
          forward: forward queries of this evaluation.
          backward: backward queries of this evaluation.
          give_up: stop although budget is left (a dead end, or nothing left to try).
          goes_on: success alone does not stop the attack (it searches for a better one).
          crossing: radius at which the class changes, or the radius walked without a change, see `a2d_jax.attacks.path`.
          slope: slope of the gradient of this evaluation, see `a2d_jax.losses.slope_of`; None without a gradient. A slope that is not
            finite ends the attack as a failure.
        """
        broken = self.broken if slope is None else self.broken | ~jnp.isfinite(slope)
        success = self.admit(success) & ~broken
        done = (success & jnp.logical_not(goes_on)) | give_up | (self.iterations >= max_steps) | broken
        return Progress(
            iterations=jnp.where(done, self.iterations, self.iterations + 1),
            success=success,
            reached=success if reached is None else self.admit(reached) & ~broken,
            done=done,
            forward=self.forward + forward,
            backward=self.backward + backward,
            fresh=jnp.zeros_like(self.fresh),
            crossing=self.crossing if crossing is None else crossing,
            broken=broken,
            flat=self.flat if slope is None else (self.flat | (self.backward == 0)) & (slope == 0),
        )


class State(Protocol):
    """The part of an attack's state that drivers need; every attack adds its own fields."""

    @property
    def x_adv(self) -> Array: ...
    @property
    def progress(self) -> Progress: ...


class Attack(Protocol):
    """An attack is a frozen pytree dataclass with a start and a step, for one unbatched example.

    One step is *look, judge, move*: evaluate the current point (the only model call), decide, move unless done. `init` never
    calls the model. After `done`, drivers keep the state as it is and ignore what `step` returns (it must stay finite).

    An attack that reads `Example.start` says so by an attribute `takes_start`; drivers refuse such examples for the others. An attack may
    also offer its step in two halves, `look(classifier, example, state) -> View` and `move(example, state, view) -> State`, so that
    `unroll` can observe what the step saw.
    """

    @property
    def norm(self) -> Norm: ...
    @property
    def max_steps(self) -> int | Array: ...
    def init(self, example: Example) -> Any: ...
    def step(self, classifier: Classifier, example: Example, state: Any) -> Any: ...
    def length(self) -> int:
        """Steps after which every example is done (an upper bound; a Python number, for loops of static length)."""
        ...


def can_be_shortened(attack: Any) -> bool:
    """Whether a smaller `max_steps` gives the same path and only ends earlier, so that a detector's bound may stop the attack.

    An attack with a path or a count that depends on its budget says so by an attribute `scheduled`.
    """
    return not getattr(attack, "scheduled", False) and "max_steps" in {one.name for one in fields(attack)}


class AttackResult(NamedTuple):
    """The result of every attack and driver; same leading axes as the input."""

    x_adv: Float[Array, "*n h w c"] | None  # in bounds, never NaN; the judged adversarial point, else the last; None if not kept
    success: Bool[Array, "*n"]  # the criterion holds at `x_adv`
    censored: Bool[Array, "*n"]  # the budget ended before the event whose cost is counted
    iterations: Int[Array, "*n"]  # updates applied
    cost: Int[Array, "*n"]  # iterations, or `max_steps + 1` where censored: a late success never ties with a failure
    forward_queries: Int[Array, "*n"]  # what the algorithm asked for, not what masked lanes burned
    backward_queries: Int[Array, "*n"]  # likewise; a K-class Jacobian is 1 forward, K backward
    distance: Float[Array, "*n"]  # of x_adv from x, in the attack's own norm, computed by the driver
    crossing: Float[Array, "*n"]  # radius, in that norm, at which the class changes; of a failure, the radius walked; NaN: has none
    broken: Bool[Array, "*n"]  # logits or a gradient were not finite: a failure whose numbers say nothing
    flat: Bool[Array, "*n"]  # every gradient was 0: the attack had no direction to go
