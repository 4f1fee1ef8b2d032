"""Indicators of attack failure: signs that an attack failed because it was weak, not because the defence is strong.

Every indicator reads plain arrays, or functions of a batch of images, of any attack and any detector, and returns a `Finding`: a number,
the largest one that is still harmless, whether the indicator fires, and a sentence. "Success" is always that of the whole defence: the
image is misclassified *and* accepted. A silent indicator proves nothing; one that fires says that a low success rate is no evidence yet.

Source: Pintor et al., "Indicators of Attack Failure", arXiv:2106.09947; reference code pralab/IndicatorsOfAttackFailure,
`indicators.py`: the six indicators by their names. The window of 10 steps, the movement of .05 and the 100 draws are those of the code.
Carlini et al., "On Evaluating Adversarial Robustness", arXiv:1902.06705, for `twice_the_steps`. Differs: an indicator judges a whole set
of images; incomplete optimisation looks only at images on which the attack failed, because an attack that has succeeded needs no more
steps; unstable predictions are drawn in a ball of radius 1e-3, not 4/255, so that an ordinary network is stable; the shares allowed, and
`swept`, are ours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from a2d_jax import drivers, inputs
from a2d_jax.errors import BadInput, require
from a2d_jax.imports import one_line
from a2d_jax.types import Attack, AttackResult, Classifier, Example

WINDOW = 10
"""Last steps in which an attack must no longer move."""
MOVEMENT = 0.05
"""Share of the whole rise of the objective that counts as movement."""
DRAWS = 100
"""Random points around each image."""
RADIUS = 1e-3
"""Largest change of a pixel by a random point."""
STABLE = 0.1
"""Relative change of a loss that is still stable."""
FEW = 0.05
"""Share of images on which an indicator of a share may hold before it fires, where one image must not decide."""


@dataclass(frozen=True)
class Finding:
    """What a check says.

    Attributes:
      name: of the check.
      number: what was measured; None if there was nothing to measure.
      threshold: the check fires if the number is above it.
      fires: a reviewer must not accept the evaluation as it is.
      sentence: the same in plain words.
    """

    name: str
    number: float | None
    threshold: float
    fires: bool
    sentence: str


def found(name: str, number: float | None, threshold: float, holds: str, fails: str) -> Finding:
    """A finding, with one of two sentences: the first if it is silent, the second if it fires."""
    fires = number is not None and not number <= threshold
    return Finding(name, number, float(threshold), fires, fails if fires else holds)


def unavailable_gradients(gradient: Callable[[Float[np.ndarray, "n h w c"]], ArrayLike], x: ArrayLike) -> Finding:
    """Images on which the attack has no gradient: it is zero, it is not finite, or there is none.

    Args:
      gradient: gradients `n h w c` of the attack's own loss. An exception that it raises counts as no gradient on every image.
      x: images `n h w c`.
    """
    name, images = "unavailable gradients", inputs.images(x)
    try:
        slopes = np.asarray(gradient(images))
    except Exception as error:  # whatever interrupts the graph
        return found(name, 1.0, 0.0, "", f"The loss has no gradient: {one_line(error)}.")
    if slopes.shape[:1] != images.shape[:1]:
        raise BadInput(f"expected {len(images)} gradients, one for each image, got shape {slopes.shape}; give them in the order of x")
    flat = slopes.reshape(len(images), -1)
    missing = ~np.isfinite(flat).all(axis=1) | ~np.any(flat, axis=1)
    return found(
        name,
        float(missing.mean()),
        0.0,
        "Every image has a finite gradient that is not zero.",
        f"The gradient is zero or not finite on {missing.sum()} of {len(images)} images: the attack does not know where to go.",
    )


def unstable_predictions(
    loss: Callable[[Float[np.ndarray, "n h w c"]], ArrayLike], x: ArrayLike, *, radius: float = RADIUS, draws: int = DRAWS, seed: int = 0
) -> Finding:
    """Mean relative change of the attack's loss at random points near each image: shattered gradients lead nowhere.

    Args:
      loss: losses `n`, such as margins. A loss that is nearly 0 on most images, such as the cross entropy, changes by much of itself on any
        network.
      x: images `n h w c`.
      radius: largest change of a pixel.
      draws: random points around each image.
      seed: of the random points.
    """
    require(radius > 0, "radius > 0", radius, "give the largest change of a pixel, such as 1e-3")
    require(draws >= 1, "draws >= 1", draws, "give the random points around each image")
    images, random = inputs.images(x), np.random.default_rng(seed)
    before = _numbers(loss(images), len(images), "losses")
    changes: list[float] = []
    for _ in range(draws):
        near = np.clip(images + random.uniform(-radius, radius, images.shape).astype(images.dtype), 0, 1)
        change = np.abs(_numbers(loss(near), len(images), "losses") - before)
        changes.append(float(np.minimum(change / np.where(before == 0, 1, np.abs(before)), 1).mean()))
    number = float(np.mean(changes))
    return found(
        "unstable predictions",
        number,
        STABLE,
        f"The loss changes by {number:.1%} of itself when pixels change by at most {radius:g}.",
        f"The loss changes by {number:.1%} of itself when pixels change by at most {radius:g}: its gradient says nothing about the way.",
    )


def silent_success(path: ArrayLike, returned: ArrayLike) -> Finding:
    """Images on which the attack passed a success and returned a failure.

    Args:
      path: `n steps`, whether each point that the attack visited is a success; see `watch`.
      returned: `n`, whether the returned image is one.
    """
    end = _flags(returned, None, "returned images")
    passed = _flags(path, len(end), "points of the path", axes=2).any(axis=1)
    lost = passed & ~end
    return found(
        "silent success",
        float(lost.mean()),
        0.0,
        "The attack returned a success wherever it passed one.",
        f"The attack passed a success on {lost.sum()} of {len(end)} images and returned a failure: keep the best point.",
    )


def incomplete_optimisation(objective: ArrayLike, success: ArrayLike) -> Finding:
    """Failures on which the attack still moved at its end: its best objective rose in the last steps.

    Args:
      objective: `n steps`, what the attack raises, at each point that it visited.
      success: `n`, whether the attack succeeded; only its failures are looked at.
    """
    name, ends = "incomplete optimisation", _flags(success, None, "successes")
    values = inputs.array(objective, "the objective")
    if values.ndim != 2 or len(values) != len(ends) or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise BadInput(
            f"expected a finite objective for each of {len(ends)} images and each step, got {values.dtype} of shape {values.shape}; "
            "give n rows of steps"
        )
    if ends.all():
        return found(name, None, FEW, "The attack failed on no image.", "")
    best = np.maximum.accumulate(values[~ends].astype(np.float64), axis=1)
    rise = best[:, -1] - best[:, 0]
    late = best[:, -1] - best[:, max(best.shape[1] - WINDOW, 0)]
    moving = (late > MOVEMENT * rise) & (rise > 0)
    return found(
        name,
        float(moving.mean()),
        FEW,
        f"The objective had settled on {(~moving).sum()} of {len(moving)} failures.",
        f"The objective still rose in the last {WINDOW} steps on {moving.sum()} of {len(moving)} failures: give the attack more steps.",
    )


def transfer_failure(surrogate: ArrayLike, defence: ArrayLike) -> Finding:
    """Successes against the model that the attack saw which are none against the defence itself.

    Args:
      surrogate: `n`, successes against what the attack differentiated, such as a guarded classifier with a smooth cost.
      defence: `n`, successes of the same images against the real classifier and detector.
    """
    name, seen = "transfer failure", _flags(surrogate, None, "successes against the surrogate")
    real = _flags(defence, len(seen), "successes against the defence")
    if not seen.any():
        return found(name, None, FEW, "The attack did not succeed against its surrogate: nothing could transfer.", "")
    lost = seen & ~real
    return found(
        name,
        float(lost.sum() / seen.sum()),
        FEW,
        f"{real[seen].sum()} of {seen.sum()} successes against the surrogate are successes against the defence.",
        f"{lost.sum()} of {seen.sum()} successes against the surrogate fail against the defence: the surrogate is not what is defended.",
    )


def unconstrained_attack_failure(success: ArrayLike) -> Finding:
    """Images on which the attack fails without a bound: whoever may paint any image can paint one of another class.

    Args:
      success: `n`, successes of the same attack with every pixel free: epsilon 1 in Linf, sqrt(h w c) in L2.
    """
    lost = ~_flags(success, None, "successes without a bound")
    return found(
        "unconstrained attack failure",
        float(lost.mean()),
        0.0,
        "The attack succeeds on every image when it may change every pixel at will.",
        f"The attack fails on {lost.sum()} of {len(lost)} images although it may change every pixel at will: its failures prove nothing.",
    )


def twice_the_steps(once: ArrayLike, twice: ArrayLike) -> Finding:
    """Success gained by twice the steps, beyond two standard errors of the paired difference: the attack was cut short.

    Args:
      once: `n`, successes as evaluated.
      twice: `n`, successes on the same images with twice the steps.
    """
    first = _flags(once, None, "successes")
    second = _flags(twice, len(first), "successes with twice the steps")
    gain, allowed = gained(second, first)
    return found(
        "twice the steps",
        gain,
        allowed,
        f"Twice the steps change the success rate from {first.mean():.1%} to {second.mean():.1%}.",
        f"Twice the steps raise the success rate from {first.mean():.1%} to {second.mean():.1%}: the attack was cut short.",
    )


def swept(successes: Mapping[str, ArrayLike], used: str) -> Finding:
    """Success that another value of a setting, such as the gain of a guarded classifier, adds beyond two standard errors.

    Args:
      successes: `n` for each value that was tried, on the same images.
      used: the value that was evaluated.
    """
    require(used in successes, f"one of {', '.join(successes)}", used, "name the value that was evaluated")
    mine = _flags(successes[used], None, f"successes at {used}")
    tried = {value: _flags(hits, len(mine), f"successes at {value}") for value, hits in successes.items()}
    best = max(tried, key=lambda value: tried[value].mean())
    gain, allowed = gained(tried[best], mine)
    return found(
        "swept setting",
        gain,
        allowed,
        f"No other value is better than {used}, with a success rate of {mine.mean():.1%}, by more than chance.",
        f"The value {best} has a success rate of {tried[best].mean():.1%}, and {used} one of {mine.mean():.1%}: sweep it, keep the best.",
    )


def watch(
    attack: Attack, classifier: Classifier, examples: Example, observe: Callable[[Classifier, Array], Any]
) -> tuple[AttackResult, Any]:
    """Run an attack of the library and look at every point that it visits.

    Args:
      attack: any attack.
      classifier: one image to logits.
      examples: a batch.
      observe: `(classifier, x) -> pytree`, traceable, for one point.

    Returns:
      The results, and what was observed, as NumPy arrays with leading axes `n steps`.
    """
    given = inputs.examples(classifier, examples)

    def one(classifier: Classifier, example: Example) -> tuple[AttackResult, Any]:
        return drivers.unroll(attack, classifier, example, observe=lambda _, state, __: observe(classifier, state.x_adv))

    watched = jax.jit(jax.vmap(one, (None, 0)))(classifier, jax.tree.map(jnp.asarray, given))
    return jax.tree.map(np.asarray, watched)


def gained(more: Bool[np.ndarray, " n"], less: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """Mean difference of paired flags, and two of its standard errors."""
    difference = more.astype(np.float64) - less
    return float(difference.mean()), float(2 * difference.std() / np.sqrt(len(difference)))


def _flags(values: ArrayLike, count: int | None, what: str, axes: int = 1) -> Bool[np.ndarray, " n"]:
    read = inputs.array(values, what)
    if read.dtype != np.bool_ or read.ndim != axes or read.size == 0 or (count is not None and len(read) != count):
        raise BadInput(
            f"expected {what} as true or false for each of {'at least one' if count is None else count} image(s), "
            f"got {read.dtype} of shape {read.shape}; give flags in the order of the images"
        )
    return read


def _numbers(values: ArrayLike, count: int, what: str) -> Float[np.ndarray, " n"]:
    read = inputs.array(values, what)
    if read.shape != (count,) or not np.isfinite(read).all():
        raise BadInput(f"expected finite {what}, one for each of {count} images, got shape {read.shape}; give one number for each image")
    return read.astype(np.float64)
