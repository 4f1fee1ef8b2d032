"""The two loops over one example: `run` stops when the example is done, `unroll` has a static length and is differentiable.

Both only call the attack's `step`; map them over examples with `jax.vmap`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from a2d_jax import norms
from a2d_jax.errors import BadInput
from a2d_jax.losses import View, margin, view
from a2d_jax.types import Attack, AttackResult, Classifier, Example

MIN_WIDTH = 2  # rows of a batch at least: XLA:CPU sums a single row in another order, and a count may then differ by 1


def run(attack: Attack, classifier: Classifier, example: Example) -> AttackResult:
    """Attack one example until it is done.

    Under `vmap` the loop runs until the slowest example is done, and JAX freezes the others.
    """
    return finish(attack, example, last_state(attack, classifier, example))


def last_state(attack: Attack, classifier: Classifier, example: Example) -> Any:
    """The attack's own state when the example is done."""
    return jax.lax.while_loop(
        lambda state: ~state.progress.done,
        lambda state: attack.step(classifier, example, state),
        enter(attack, example),
    )


def unroll(
    attack: Attack,
    classifier: Classifier,
    example: Example,
    *,
    length: int | None = None,
    observe: Callable[[Example, Any, View], Any] | None = None,
) -> tuple[AttackResult, Any]:
    """Attack one example for a fixed number of steps; differentiable in x, weights and settings.

    It always makes all steps. The integer cost has no gradient: build a smooth substitute from the trace, for instance
    `sum(sigmoid(margin / temperature))`. The `linf` direction is a sign, and its derivative is zero: for a gradient through
    the path use `rms` or `l2`.

    The trace stands still once the example is done. An attack that goes on after its first success, such as `PGD(early_stop=False)`, has a
    trace that goes on too.

    Args:
      attack: any attack; its `max_steps` must be a Python number unless `length` is given.
      classifier: one image to logits.
      example: one example.
      length: steps to make; default the attack's own bound, after which every example is done.
      observe: `(example, state, seen) -> pytree`, called for every step; default the logit margin of the label at the point judged.
        `seen` is the `View` of the step itself, if the attack offers `look` and `move` as `PGD` and `Newton` do: the model is then
        evaluated once. For other attacks it is another evaluation at `state.x_adv`, with the gradient of the margin.

    Returns:
      The result, and the trace: the values of `observe`, with a leading axis of `length`.
    """

    def body(state: Any, _: None) -> tuple[Any, Any]:
        parts: Any = attack
        if hasattr(attack, "look") and hasattr(attack, "move"):
            seen = parts.look(classifier, example, state)
            stepped = parts.move(example, state, seen)
        else:
            seen = view(classifier, lambda z: margin(z, example.label), state.x_adv)
            stepped = attack.step(classifier, example, state)
        return unless_done(state, stepped), (observe or label_margin)(example, state, seen)

    steps = attack.length() if length is None else length
    state, trace = jax.lax.scan(jax.checkpoint(body), enter(attack, example), length=steps)
    return finish(attack, example, state), trace


def label_margin(example: Example, _: Any, seen: View) -> Array:
    """Logit of the label minus the largest other logit at the current point; negative where an untargeted attack has succeeded."""
    return margin(seen.logits, example.label)


def enter(attack: Attack, example: Example) -> Any:
    """The first state of an example.

    Raises:
      BadInput: the example has a starting point, and the attack does not read it.
    """
    if example.start is not None and not getattr(attack, "takes_start", False):
        raise BadInput(
            f"expected an attack that takes a starting point, such as PGD, APGD or Boundary, got {type(attack).__name__}; "
            "leave start out of the examples"
        )
    return attack.init(example)


def advance(attack: Attack, classifier: Classifier, example: Example, state: Any) -> Any:
    """One step, or none if the example is done."""
    return unless_done(state, attack.step(classifier, example, state))


def unless_done(state: Any, stepped: Any) -> Any:
    """The state after a step, or before it if the example was done."""
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
