"""The two loops over one example: `run` stops when the example is done, `unroll` has a static length and is differentiable.

Both only call the attack's `step`; map them over examples with `jax.vmap`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from a2d_jax import norms
from a2d_jax.losses import margin
from a2d_jax.types import Attack, AttackResult, Classifier, Example

MIN_WIDTH = 2  # rows of a batch at least: XLA:CPU sums a single row in another order, and a count may then differ by 1


def run(attack: Attack, classifier: Classifier, example: Example) -> AttackResult:
    """Attack one example until it is done.

    Under `vmap` the loop runs until the slowest example is done, and JAX freezes the others.
    """
    state = jax.lax.while_loop(
        lambda state: ~state.progress.done,
        lambda state: attack.step(classifier, example, state),
        attack.init(example),
    )
    return finish(attack, example, state)


def unroll(
    attack: Attack,
    classifier: Classifier,
    example: Example,
    *,
    length: int | None = None,
    observe: Callable[[Classifier, Example, Any], Any] | None = None,
) -> tuple[AttackResult, Any]:
    """Attack one example for a fixed number of steps; differentiable in x, weights and settings.

    It always makes all steps. The integer cost has no gradient: build a smooth substitute from the trace, for instance
    `sum(sigmoid(margin / temperature))`. The `linf` direction is a sign, and its derivative is zero: for a gradient through
    the path use `rms` or `l2`.

    Args:
      attack: any attack; its `max_steps` must be a Python number unless `length` is given.
      classifier: one image to logits.
      example: one example.
      length: steps to make; default the attack's own bound, after which every example is done.
      observe: `(classifier, example, state) -> pytree`, called before every step; default the logit margin of the label at x_adv.

    Returns:
      The result, and the trace: the values of `observe`, with a leading axis of `length`.
    """

    def body(state: Any, _: None) -> tuple[Any, Any]:
        seen = (observe or label_margin)(classifier, example, state)
        return advance(attack, classifier, example, state), seen

    steps = attack.length() if length is None else length
    state, trace = jax.lax.scan(jax.checkpoint(body), attack.init(example), length=steps)
    return finish(attack, example, state), trace


def label_margin(classifier: Classifier, example: Example, state: Any) -> Array:
    """Logit of the label minus the largest other logit at the current point; negative once the attack has succeeded."""
    return margin(classifier(state.x_adv), example.label)


def advance(attack: Attack, classifier: Classifier, example: Example, state: Any) -> Any:
    """One step, or none if the example is done."""
    stepped = attack.step(classifier, example, state)
    return jax.tree.map(lambda old, new: jnp.where(state.progress.done, old, new), state, stepped)


def finish(attack: Attack, example: Example, state: Any) -> AttackResult:
    """The result of a state: cost and distance are computed here, never reported by the attack itself."""
    progress = state.progress
    budget = jnp.asarray(attack.max_steps, jnp.int32)
    return AttackResult(
        x_adv=state.x_adv,
        success=progress.success,
        censored=~progress.reached,
        iterations=progress.iterations,
        cost=jnp.where(progress.reached, progress.iterations, budget + 1),
        forward_queries=progress.forward,
        backward_queries=progress.backward,
        distance=norms.norm(state.x_adv - example.x, attack.norm),
        crossing=progress.crossing,
        broken=progress.broken,
        flat=progress.flat,
    )
