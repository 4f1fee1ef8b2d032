"""CLEVER: an estimate of the smallest distance from an input to another class, from the steepest slope around the input.

For the predicted class c and another class j, the margin G(x) = f_c(x) - f_j(x) is positive at the input x0. If no slope within
radius R exceeds L, no point within min(G(x0) / L, R) has class j. L is extrapolated in two steps. First the largest dual norm of the
gradient of G is found among N_s points drawn uniformly from the ball, N_b times. Then a reverse Weibull distribution is fitted to these
N_b maxima (`a2d_jax.robustness.weibull`); its end point is L. The score is an estimate, not a bound.

Source: Weng et al., "Evaluating the Robustness of Neural Networks: An Extreme Value Theory Approach", arXiv:1801.10578; their
code IBM/CLEVER-Robustness-Score; ART 1.20 `metrics.py`. As in both, points are clipped to the bounds of the images. As in the
authors' code, f are logits and every maximum has points of its own (ART draws from one pool). As in ART, the points fill the ball evenly
and the score is at most R. `weibull.py` describes the fit.

If the fit has no meaning (all maxima equal, as for a linear classifier, or a fit that the Kolmogorov-Smirnov test rejects), L is
the largest maximum. If all gradients are 0, the score is R.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Int, Key

from a2d_jax import inputs, norms
from a2d_jax.classifiers import predict_by
from a2d_jax.errors import BadInput, require
from a2d_jax.robustness import weibull
from a2d_jax.types import Classifier, Example

BallNorm = Literal["l2", "linf"]
TARGETS = ("untargeted", "target-2", "target-5", "least-likely")
LANES, LANES_ELSEWHERE = {"cpu": 32}, 1024
_AT_ONCE = 4  # maxima per device and call: so long must an interrupt wait
_PREDICTED = 4  # images at a time: few, because their maxima take all the time
_AXIS = "maxima"


@dataclass(frozen=True)
class Clever:
    """Settings of the score; the defaults are those of the authors' code, with the radius that fits the A2D paper's tables.

    Attributes:
      radius: R, radius of the ball in the units of `norm`; no score is larger.
      batches: N_b, number of maxima for the fit.
      samples: N_s, number of points for each maximum.
      norm: norm of the distance, `l2` or `linf`.
    """

    radius: float = 5.0
    batches: int = 500
    samples: int = 1024
    norm: BallNorm = "l2"

    def __post_init__(self) -> None:
        require(math.isfinite(self.radius) and self.radius > 0, "a radius above 0", self.radius, "give it in the units of the norm")
        require(self.batches >= 2, "at least 2 batches", self.batches, "a distribution is fitted to their maxima")
        require(self.samples >= 1, "at least 1 sample", self.samples, "give the points of a batch")
        require(self.norm in ("l2", "linf"), "a norm among l2, linf", self.norm, "pass one of them")


class CleverScores(NamedTuple):
    """Scores of every image and target, as NumPy arrays; NaN where logits or gradients are not finite."""

    score: Float[np.ndarray, "n targets"]  # min(margin / lipschitz, radius)
    target: Int[np.ndarray, "n targets"]  # the class j; for `untargeted` the one of lowest score
    margin: Float[np.ndarray, "n targets"]  # G(x0), in logits
    lipschitz: Float[np.ndarray, "n targets"]  # L, the estimated largest slope
    largest: Float[np.ndarray, "n targets"]  # the largest slope seen
    shape: Float[np.ndarray, "n targets"]  # of the fitted distribution
    p_value: Float[np.ndarray, "n targets"]  # of the Kolmogorov-Smirnov test of the fit
    fitted: Bool[np.ndarray, "n targets"]  # False: `lipschitz` is the largest slope seen


def clever_scores(
    classifier: Classifier,
    examples: Example,
    targets: Sequence[str] = ("target-2",),
    settings: Clever | None = None,
    *,
    lanes: int | None = None,
    devices: Sequence[Any] | None = None,
    report: Callable[[int], None] | None = None,
) -> CleverScores:
    """CLEVER scores of a batch.

    All devices work on one image at a time and share its maxima. Points derive from the example's key, the number of the maximum and the
    number of the point: except for the rounding of sums, scores do not depend on lanes, devices or other images. Targets share points and
    forward passes, but each class costs a gradient. `untargeted` is the lowest score over all other classes.

    Args:
      classifier: one image to logits.
      examples: x `n h w c` in [0, 1], label `n` (the class c, usually the predicted one), key `n`; see `a2d_jax.costs.examples`.
      targets: `untargeted`, `target-r` (the class with the r-th largest logit; the label counts as the first) or `least-likely`.
      settings: default `Clever()`.
      lanes: number of points that each device works on at the same time; default 32 on a CPU, 1024 elsewhere.
      devices: default all local devices.
      report: told how many of the `n * batches` maxima are done.

    Raises:
      BadInput: an unknown target, or one that needs more classes; `lanes` below 1; or examples that `a2d_jax.inputs.examples` refuses.
    """
    settings = settings or Clever()
    devices = jax.local_devices() if devices is None else list(devices)
    lanes = LANES.get(devices[0].platform, LANES_ELSEWHERE) if lanes is None else lanes
    require(lanes >= 1, "lanes >= 1", lanes, "give the number of points that each device works on at once")
    examples = inputs.examples(classifier, examples)
    logits, label = predict_by(classifier, np.asarray(examples.x), _PREDICTED), np.asarray(examples.label)
    ranks = [ranks_of(target, logits.shape[1]) for target in targets]
    needed = sorted({rank for some in ranks for rank in some})
    rest = np.where(np.arange(logits.shape[1]) == label[:, None], np.inf, logits)
    classes = np.argsort(-rest, axis=1, kind="stable")[:, needed]  # the label comes first

    mesh = Mesh(np.array(devices), (_AXIS,))
    program = _program(mesh, settings.samples, min(lanes, settings.samples), settings.norm)
    classifier = jax.device_put(classifier, NamedSharding(mesh, PartitionSpec()))  # weights of a checkpoint lie on one device
    maxima = np.zeros((len(label), len(needed), settings.batches))
    for i in range(len(label)):
        example = jax.device_put(jax.tree.map(lambda leaf, i=i: leaf[i], examples), NamedSharding(mesh, PartitionSpec()))
        for part, slopes in _parts(program, classifier, example, classes[i], settings, len(devices)):
            maxima[i, :, part] = slopes
            if report:
                report(i * settings.batches + part.stop)
    fit = weibull.fit(maxima)

    margin = np.take_along_axis(logits, label[:, None], 1) - np.take_along_axis(logits, classes, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(fit.location == 0, np.inf, np.maximum(margin, 0) / fit.location)
    columns = CleverScores(
        np.minimum(distance, settings.radius), classes, margin, fit.location, maxima.max(-1), fit.shape, fit.p_value, fit.fitted
    )
    lowest = []
    for some in ranks:
        mine = [needed.index(rank) for rank in some]
        lowest.append(np.asarray(mine)[np.argmin(columns.score[:, mine], axis=1)])  # NaN counts as the lowest
    return CleverScores(*(np.take_along_axis(column, np.stack(lowest, axis=1), 1) for column in columns))


def mean_interval(scores: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Mean over examples and half the width of its 90 % confidence interval, 1.645 standard errors (NaN for a single example)."""
    if len(scores) < 2:
        return float(np.mean(scores)), math.nan
    return float(np.mean(scores)), float(1.6448536 * np.std(scores, ddof=1) / np.sqrt(len(scores)))


def ranks_of(target: str, classes: int) -> list[int]:
    """Ranks of the classes that a target means, in the order of decreasing logits; the label has rank 0.

    Raises:
      BadInput: an unknown target, or one that needs more classes.
    """
    if target == "untargeted":
        return list(range(1, classes))
    if target == "least-likely":
        return [classes - 1]
    rank = target.removeprefix("target-")
    if rank == target or not rank.isdecimal() or int(rank) < 2:
        raise BadInput(f"expected a target among untargeted, target-2, target-3, ..., least-likely, got {target!r}; pass one of them")
    if int(rank) > classes:
        raise BadInput(f"expected a target among {classes} classes, got {target}; the last is target-{classes}")
    return [int(rank) - 1]


def _parts(
    program: Callable[..., Array], classifier: Classifier, example: Example, classes: np.ndarray, settings: Clever, devices: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Maxima of one image as they are found: which, and their values for each class. One part is computed while another is read."""
    size = min(_AT_ONCE, -(-settings.batches // devices)) * devices
    running: list[tuple[slice, Array]] = []
    for begin in range(0, settings.batches, size):
        part = slice(begin, min(begin + size, settings.batches))
        numbers = np.arange(begin, begin + size, dtype=np.uint32)
        running.append((part, program(classifier, example, classes.astype(np.int32), np.float32(settings.radius), numbers)))
        if len(running) == 2:
            yield _fetched(*running.pop(0))
    yield from (_fetched(*one) for one in running)


def _fetched(part: slice, slopes: Array) -> tuple[slice, np.ndarray]:
    return part, np.asarray(slopes)[: part.stop - part.start].T


@functools.lru_cache
def _program(mesh: Mesh, samples: int, lanes: int, norm: BallNorm) -> Callable[..., Array]:
    """The jitted search for maxima; each device finds those of its own numbers."""

    def device(
        classifier: Classifier, example: Example, classes: Int[Array, " targets"], radius: Array, numbers: Int[Array, " m"]
    ) -> Float[Array, "m targets"]:
        def largest(number: Array) -> Array:
            key = jax.random.fold_in(example.key, number)

            def some(most: Array, places: Int[Array, " lanes"]) -> tuple[Array, None]:
                keys = jax.vmap(functools.partial(jax.random.fold_in, key))(places)
                points = jax.vmap(lambda key: point_in_ball(key, example.x.size, radius, norm))(keys)
                points = jnp.clip(example.x[None] + points.reshape(-1, *example.x.shape), 0, 1)
                # The barrier: XLA would draw the points anew for every use of them.
                found = _slopes(classifier, jax.lax.optimization_barrier(points), example.label, classes, norm)
                return jnp.maximum(most, jnp.max(jnp.where((places < samples)[None], found, 0), axis=1)), None

            places = jnp.arange(-(-samples // lanes) * lanes, dtype=jnp.uint32).reshape(-1, lanes)
            return jax.lax.scan(some, jnp.zeros(classes.shape, example.x.dtype), places)[0]

        return jax.lax.map(largest, numbers)

    own, same = PartitionSpec(_AXIS), PartitionSpec()
    return jax.jit(jax.shard_map(device, mesh=mesh, in_specs=(same, same, same, same, own), out_specs=own, check_vma=False))


def _slopes(
    classifier: Classifier, points: Float[Array, "lanes h w c"], label: Array, classes: Int[Array, " targets"], norm: BallNorm
) -> Float[Array, "targets lanes"]:
    """Dual norm of the gradient of each margin at each point; one forward pass for all."""
    dual = "l2" if norm == "l2" else "l1"
    logits, pull = jax.vjp(jax.vmap(classifier), points)

    def one(target: Array) -> Array:
        places = jnp.arange(logits.shape[1], dtype=jnp.int32)
        margin = (places == label).astype(logits.dtype) - (places == target).astype(logits.dtype)
        (gradient,) = pull(jnp.broadcast_to(margin[None], logits.shape))
        return jax.vmap(length)(jax.lax.optimization_barrier(gradient))

    def length(gradient: Array) -> Array:
        return jnp.where(jnp.isfinite(gradient).all(), norms.norm(gradient, dual), jnp.nan)

    return jax.lax.map(one, classes)


def point_in_ball(key: Key[Array, ""], size: int, radius: Array | float, norm: BallNorm) -> Float[Array, " size"]:
    """A point drawn uniformly from the ball of the norm around 0."""
    if norm == "linf":
        return jax.random.uniform(key, (size,), minval=-radius, maxval=radius)
    first, second = jax.random.split(key)
    direction = jax.random.normal(first, (size,))
    return direction * (radius * jax.random.uniform(second) ** (1 / size) / jnp.sqrt(jnp.sum(direction**2)))
