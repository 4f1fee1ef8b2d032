"""DeepFool: linearise the classifier at the current point, step to its nearest boundary, and repeat until the class changes.

For each other class k among the 10 with the largest logits of the input, f_k = z_label - z_k and w_k = grad f_k give the
distance f_k / ||w_k|| of its boundary (dual norm: L2 for L2, L1 for Linf). The nearest one is approached along

    L2     r = f_k / ||w_k||_2^2 * w_k
    Linf   r = f_k / ||w_k||_1 * sign(w_k)

and a little beyond. Two forms differ in how far beyond:

    form         update                                                        `overshoot`
    `original`   x_adv <- clip(x - (1 + overshoot) sum of all r),              0.02
                 each r made longer by 1e-4
    `foolbox`    x_adv <- clip(x_adv - (1 + overshoot) r),                     0.05
                 classes that tie with the label left out

If pixels lie on the bounds, clipping removes part of every step. The form `foolbox` then closes a fixed share of the gap per step and
crosses the boundary only by rounding: a tie of logits may send it to another class, further away. The form `original` comes closer with
every step and crosses the boundary; prefer it unless you need the behaviour of Foolbox 1.8.

Source: Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool: a simple and accurate method to fool deep neural networks",
arXiv:1511.04599; reference behaviour Foolbox 1.8 `deepfool.py` (`foolbox`) and Foolbox 3.3 `deepfool.py` (`original`). Differs
from the A2D paper's second environment, which attacks normalised images without bounds: here x is in [0, 1], clipped.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from a2d_jax import norms
from a2d_jax.errors import require
from a2d_jax.losses import misclassifies, slope_of
from a2d_jax.types import STATIC, Classifier, Example, Norm, Progress

TINY = 1e-8  # added to lengths that are divided by
EXTRA = 1e-4  # added by `original` to the distance of every step, pixel units


class DeepFoolState(NamedTuple):
    """State of one example."""

    x_adv: Float[Array, "h w c"]  # the point the next step will judge
    total: Float[Array, "h w c"]  # sum of all steps, without overshoot and clipping
    classes: Int[Array, " candidates"]  # the classes in view, best first; -1 until the first look
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeepFool:
    """Untargeted DeepFool in L2 or Linf.

    Attributes:
      overshoot: how far beyond the boundary, as a share of the way to it.
      max_steps: largest number of updates; `max_steps + 1` points are judged.
      candidates: number of classes considered, the label among them. Each evaluation costs one backward query per class.
      norm: `l2` or `linf`.
      form: `original` or `foolbox`, see the module.
    """

    overshoot: float | Array = 0.02
    max_steps: int | Array = 50
    candidates: int = field(default=10, metadata=STATIC)
    norm: Norm = field(default="l2", metadata=STATIC)
    form: Literal["original", "foolbox"] = field(default="original", metadata=STATIC)

    def __post_init__(self) -> None:
        if isinstance(self.overshoot, int | float):
            require(self.overshoot >= 0, "overshoot >= 0", self.overshoot, "give a share of the step, such as 0.02")
        if isinstance(self.max_steps, int):
            require(self.max_steps >= 0, "max_steps >= 0", self.max_steps, "give the number of updates")
        require(self.candidates >= 2, "candidates >= 2", self.candidates, "give the number of classes to compare, the label among them")
        require(self.norm in ("l2", "linf"), "a norm among l2, linf", self.norm, "pass one of them")
        require(self.form in ("original", "foolbox"), "a form among original, foolbox", self.form, "pass one of them")

    def init(self, example: Example) -> DeepFoolState:
        unknown = jnp.full(self.candidates, -1, jnp.int32)
        return DeepFoolState(example.x, jnp.zeros_like(example.x), unknown, Progress.start(example))

    def step(self, classifier: Classifier, example: Example, state: DeepFoolState) -> DeepFoolState:
        logits, backward = jax.vjp(classifier, state.x_adv)
        count = min(self.candidates, logits.shape[-1])
        classes = jnp.where(state.classes[:count] < 0, jax.lax.top_k(logits, count)[1], state.classes[:count])
        one_hot = classes[:, None] == jnp.arange(logits.shape[-1], dtype=jnp.int32)[None]
        rows = jax.vmap(lambda cotangent: backward(cotangent)[0])(one_hot.astype(logits.dtype))
        slope, rows = slope_of(logits, rows), jnp.where(jnp.isfinite(rows), rows, 0)
        values = jnp.sum(jnp.where(one_hot, logits[None], 0), axis=1)

        move = self._towards_nearest(values, rows, classes == example.label, state.progress.fresh)
        success = misclassifies(logits, example.label)
        progress = state.progress.judge(success, self.max_steps, forward=1, backward=count, give_up=~jnp.any(move), slope=slope)
        total = state.total + move
        start, way = (example.x, total) if self.form == "original" else (state.x_adv, move)
        moved = jnp.clip(start + (1 + self.overshoot) * way, 0, 1)
        return DeepFoolState(
            x_adv=jnp.where(progress.done, state.x_adv, moved),
            total=total,
            classes=state.classes.at[:count].set(classes),
            progress=progress,
        )

    def length(self) -> int:
        return int(self.max_steps) + 1

    def _towards_nearest(
        self, values: Float[Array, " k"], rows: Float[Array, "k h w c"], own: Array, leads: Array
    ) -> Float[Array, "h w c"]:
        """The step, before overshoot, to the nearest boundary between the label and another class; zero if there is none.

        Args:
          values: logits of the classes in view.
          rows: their gradients.
          own: which of them is the label.
          leads: the label leads by definition: a gap that rounding has turned around is none, and no distance is below EXTRA.
        """
        gaps = jnp.sum(jnp.where(own, values, 0)) - values
        gaps = jnp.where(leads, jnp.maximum(gaps, 0), gaps)
        normals = jnp.sum(jnp.where(own[:, None, None, None], rows, 0), axis=0)[None] - rows
        lengths = jax.vmap(lambda w: norms.norm(w, "l2" if self.norm == "l2" else "l1"))(normals)
        distances = jnp.abs(gaps) / (lengths + TINY)
        distances = jnp.where(leads, jnp.maximum(distances, EXTRA), distances)  # beyond rounding, so that the attack moves
        eligible = ~own & jnp.isfinite(distances)
        if self.form == "foolbox":
            eligible &= (gaps > 0) | leads
        nearest = jnp.arange(len(values)) == jnp.argmin(jnp.where(eligible, distances, jnp.inf))
        nearest &= eligible
        distance, length = (jnp.sum(jnp.where(nearest, all_of, 0)) for all_of in (distances, lengths))
        normal = jnp.sum(jnp.where(nearest[:, None, None, None], normals, 0), axis=0)
        direction = normal / (length + TINY) if self.norm == "l2" else jnp.sign(normal)
        return -(distance + EXTRA if self.form == "original" else distance) * direction
