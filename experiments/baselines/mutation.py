"""BL3: adversarial images change their label more often than benign ones when the network's weights are mutated.

A mutant is the network with a few weights changed at random by one of four operators. It is kept if it has at least 90 % of the network's
accuracy. The label change rate (LCR) of an image is the share of mutants whose label for it differs from a reference label. With `rho` the
ratio, and a neuron being an output of a kernel, the operators are:

    gf   Gaussian fuzzing       rho of all parameters are drawn anew from N(mean, sd) of their array
    nai  neuron activation      rho of all neurons: incoming weights and own bias change their sign
         inverse
    ws   weight shuffling       rho of all neurons: incoming weights are permuted within the neuron
    ns   neuron switch          in every kernel with 10 neurons or more: the incoming weights of rho of its neurons are permuted among
                                them, and the biases stay; at least one neuron, rounded up as long as rho of them is at most 2

Kernels are arrays with two or more axes in Flax's layout, `*window in out`: the outputs are the last axis. (PyTorch has them first, and
the operators know no other difference.) The bias of a kernel is the array `bias` of the same layer, which is what follows a weight in
PyTorch's order of parameters. A layer without one, such as a convolution before batch norm, has none to change. Means and variances of
batch norm are statistics and stay as they are; its scales and biases are parameters, which `gf` alone may change.

Mutants are not stored: each is drawn again from its seed whenever it is needed, on the host, and all run through one compiled program.

Source: Wang et al., "Adversarial sample detection for deep neural network through model mutation testing", arXiv:1812.05793; reference
behaviour its authors' `operator.py` and `mutated_testing.py`. Differs: other random numbers; ratios that leave the network as it is, or
that never keep a mutant, are refused; in PyTorch's order the scale of a batch norm follows a convolution without a bias, and the authors'
`nai` would change its sign too, so that the neuron's sign would stay (their networks have biases everywhere).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from a2d_jax import inputs
from a2d_jax.errors import BadInput, require
from a2d_jax.types import Classifier

Operator = Literal["gf", "nai", "ws", "ns"]
Seed = tuple[int, int]
"""Of the whole, and the number of the draw."""

KEPT = 0.9  # of the network's accuracy
TRIES = 100  # draws in a row that may be discarded
FEWEST = 10  # neurons of a kernel that `ns` touches
NUMBERS = 1 << 20  # in a batch of images
LARGEST = 256  # images in a batch


@dataclass(frozen=True)
class MutationTesting:
    """Detect adversarial images by their label change rate.

    Attributes:
      classifier: the network.
      operator: how weights are changed.
      ratio: share of the parameters or neurons that a mutant changes; 0.05 for MNIST and 0.005 for CIFAR-10 in the paper.
      count: number of mutants.
      seed: of the mutants.
    """

    classifier: Classifier
    operator: Operator = "nai"
    ratio: float = 0.05
    count: int = 500
    seed: int = 0

    def fit(self, benign: Float[Any, "n h w c"], adversarial: Float[Any, "m h w c"] | None = None) -> "Mutants":
        """Draw mutants. Their accuracy is taken on the benign images, with the network's own predictions as labels.

        Args:
          benign: images in [0, 1] that the network classifies correctly.
          adversarial: not looked at.

        Raises:
          BadInput: as `draw_mutants`.
        """
        label = predicted(self.classifier, benign)
        return draw_mutants(self.classifier, benign, label, operator=self.operator, ratio=self.ratio, count=self.count, seed=self.seed)


@dataclass(frozen=True)
class Mutants:
    """Mutants of a network that were kept: the fitted detector.

    Attributes:
      classifier: the network.
      operator: how its weights are changed.
      ratio: share of the parameters or neurons that a mutant changes.
      seeds: of the mutants, in the order in which they were drawn.
    """

    classifier: Classifier
    operator: Operator
    ratio: float
    seeds: tuple[Seed, ...]

    def __len__(self) -> int:
        return len(self.seeds)

    def __iter__(self) -> Iterator[Classifier]:
        """The mutants, one at a time."""
        weights = Weights.of(self.classifier)
        return (weights.mutant(self.operator, self.ratio, seed) for seed in self.seeds)

    def score(self, x: Float[Any, "n h w c"]) -> Float[np.ndarray, " n"]:
        """Label change rate against the network's own prediction.

        Raises:
          BadInput: as `changes`.
        """
        return self.changes(x).mean(1)

    def changes(self, x: Float[Any, "n h w c"], reference: Int[Any, " n"] | None = None) -> Bool[np.ndarray, "n mutants"]:
        """Which mutants give another label than the reference, for `sprt`; their mean is the label change rate.

        Args:
          x: images in [0, 1].
          reference: labels; default the network's own predictions. The authors take the true label for benign images, and for adversarial
            ones the class that the network gave.

        Raises:
          BadInput: no images, or images of another shape or type, outside [0, 1] or NaN; labels that are no classes, one for each image; or
            logits of the network that are not finite.
        """
        batches = _batches(self.classifier, x)
        own = predicted(self.classifier, x) if reference is None else _checked(self.classifier, x, reference)
        return np.stack([_labels(mutant, batches)[: len(own)] != own for mutant in self], axis=1)


def draw_mutants(
    classifier: Classifier,
    x: Float[Any, "n h w c"],
    label: Int[Any, " n"],
    *,
    operator: Operator = "nai",
    ratio: float = 0.05,
    count: int = 500,
    seed: int = 0,
) -> Mutants:
    """Draw mutants that keep the network's accuracy on a labelled set: round(accuracy, 2) >= round(0.9 * the network's, 2).

    The first mutants of a larger `count` are those of a smaller one.

    Args:
      classifier: the network.
      x: images in [0, 1]; the authors take the test set.
      label: their true classes.
      operator: how weights are changed.
      ratio: share of the parameters or neurons that a mutant changes.
      count: number of mutants.
      seed: of the mutants.

    Raises:
      BadInput: images or labels that do not fit the network; an unknown operator; a ratio outside (0, 1], one that changes nothing, or one
        at which 100 draws in a row lose too much accuracy.
    """
    require(operator in OPERATORS, f"an operator among {', '.join(OPERATORS)}", operator, "name one of them")
    require(0 < ratio <= 1, "a ratio above 0 and at most 1", ratio, "0.05 changes one neuron in twenty")
    require(count >= 1, "at least one mutant", count, "the authors use 500")
    batches, right = _batches(classifier, x), _checked(classifier, x, label)
    weights = Weights.of(classifier)
    weights.require_change(operator, ratio)
    own = _accuracy(classifier, batches, right)
    least = round(KEPT * own, 2)
    seeds: list[Seed] = []
    number, best, discarded = 0, 0.0, 0
    while len(seeds) < count:
        accuracy = _accuracy(weights.mutant(operator, ratio, (seed, number)), batches, right)
        if round(accuracy, 2) >= least:
            seeds.append((seed, number))
            best, discarded = 0.0, 0
        else:
            best, discarded = max(best, accuracy), discarded + 1
        number += 1
        if discarded == TRIES:
            raise BadInput(
                f"expected mutants with an accuracy of at least {least:.2f} on {len(right)} images, got at most {best:.2f} "
                f"in {TRIES} draws by {operator} with ratio {ratio}; choose a smaller ratio"
            )
    return Mutants(classifier, operator, ratio, tuple(seeds))


def predicted(classifier: Classifier, x: Float[Any, "n h w c"]) -> Int[np.ndarray, " n"]:
    """The network's own labels, by the program that runs its mutants.

    Raises:
      BadInput: images that do not fit the network, or logits that are not finite.
    """
    label = _labels(classifier, _batches(classifier, x))[: len(x)]
    if (label < 0).any():
        row = int(np.flatnonzero(label < 0)[0])
        raise BadInput(f"expected finite logits, got NaN or infinity for image {row}; check the classifier's weights")
    return label


@dataclass(frozen=True)
class Weights:
    """The arrays of a network, and what each of them is.

    Attributes:
      classifier: the network.
      arrays: all its arrays, in the order of JAX.
      parameters: numbers of the arrays that are trained.
      kernels: numbers of the parameters that have neurons.
      biases: number of a kernel's own bias, if it has one.
    """

    classifier: Classifier
    arrays: Sequence[np.ndarray]
    parameters: Sequence[int]
    kernels: Sequence[int]
    biases: Mapping[int, int]

    @classmethod
    def of(cls, classifier: Classifier) -> "Weights":
        """Read the weights of a network: of Flax NNX, of Flax Linen, or of a function, all of whose numbers count as parameters."""
        leaves, _ = jax.tree_util.tree_flatten_with_path(classifier.variables, is_leaf=lambda node: isinstance(node, nnx.Variable))
        values = jax.tree.leaves(classifier.variables)
        names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
        parameters = [i for i, (_, leaf) in enumerate(leaves) if _trained(names[i], leaf, values[i])]
        kernels = [i for i in parameters if values[i].ndim > 1]
        number = {names[i]: i for i in parameters}
        biases = {i: number[bias] for i in kernels if (bias := f"{names[i].rpartition('/')[0]}/bias".lstrip("/")) in number}
        return cls(
            classifier, [np.asarray(value) if i in parameters else value for i, value in enumerate(values)], parameters, kernels, biases
        )

    def mutant(self, operator: Operator, ratio: float, seed: Seed) -> Classifier:
        """The network with some weights changed."""
        changed = list(self.arrays)
        for i in self.parameters:
            changed[i] = self.arrays[i].copy()
        OPERATORS[operator](self, changed, ratio, np.random.default_rng(seed))
        for i in self.parameters:
            changed[i] = jnp.asarray(changed[i])
        variables = jax.tree.unflatten(jax.tree.structure(self.classifier.variables), changed)
        return Classifier(variables, self.classifier.apply)

    def neurons(self, ratio: float, random: np.random.Generator) -> Iterator[tuple[int, Int[np.ndarray, " chosen"]]]:
        """A share of the neurons of all kernels: each kernel with the numbers of its own."""
        yield from _split(self.kernels, [self.arrays[i].shape[-1] for i in self.kernels], ratio, random)

    def require_change(self, operator: Operator, ratio: float) -> None:
        """Refuse what would leave every mutant equal to the network."""
        if operator == "ns":
            of = [self.arrays[i].shape[-1] for i in self.kernels]
            changes = any(_switched(size, ratio) > 1 for size in of)
            what = f"two neurons of a kernel that has {FEWEST} or more (the largest has {max(of, default=0)})"
        else:
            total = sum(self.arrays[i].size if operator == "gf" else self.arrays[i].shape[-1] for i in self._of(operator))
            changes = _share(total, ratio) > 0
            what = f"one of {total} {'parameters' if operator == 'gf' else 'neurons'}"
        require(changes, f"a ratio at which {operator} changes at least {what}", ratio, "choose a larger ratio, or another operator")

    def _of(self, operator: Operator) -> Sequence[int]:
        return self.parameters if operator == "gf" else self.kernels


def _gaussian_fuzzing(weights: Weights, arrays: list[Any], ratio: float, random: np.random.Generator) -> None:
    for i, chosen in _split(weights.parameters, [weights.arrays[i].size for i in weights.parameters], ratio, random):
        values = weights.arrays[i].astype(np.float64)
        spread = values.std(ddof=1) if values.size > 1 else 0.0
        arrays[i].reshape(-1)[chosen] = random.normal(values.mean(), spread, len(chosen))


def _neuron_activation_inverse(weights: Weights, arrays: list[Any], ratio: float, random: np.random.Generator) -> None:
    for i, chosen in weights.neurons(ratio, random):
        arrays[i][..., chosen] *= -1
        if i in weights.biases:
            arrays[weights.biases[i]][chosen] *= -1


def _weight_shuffling(weights: Weights, arrays: list[Any], ratio: float, random: np.random.Generator) -> None:
    for i, chosen in weights.neurons(ratio, random):
        incoming = arrays[i].reshape(-1, arrays[i].shape[-1])
        incoming[:, chosen] = random.permuted(incoming[:, chosen], axis=0)


def _neuron_switch(weights: Weights, arrays: list[Any], ratio: float, random: np.random.Generator) -> None:
    for i in weights.kernels:
        chosen = random.choice(size := arrays[i].shape[-1], _switched(size, ratio), replace=False)
        arrays[i][..., chosen] = arrays[i][..., random.permutation(chosen)]


OPERATORS: Mapping[Operator, Callable[[Weights, list[Any], float, np.random.Generator], None]] = {
    "gf": _gaussian_fuzzing,
    "nai": _neuron_activation_inverse,
    "ws": _weight_shuffling,
    "ns": _neuron_switch,
}
"""Each changes copies of the arrays in place."""


def _trained(name: str, leaf: object, value: Array) -> bool:
    """Whether an array is a parameter, and not a statistic of batch norm or a random key."""
    if not (isinstance(value, Array | np.ndarray) and jnp.issubdtype(value.dtype, jnp.floating)):
        return False  # a plain number is a setting of a function
    return isinstance(leaf, nnx.Param) if isinstance(leaf, nnx.Variable) else not name.startswith("batch_stats/")


def _split(
    numbers: Sequence[int], sizes: Sequence[int], ratio: float, random: np.random.Generator
) -> Iterator[tuple[int, Int[np.ndarray, " chosen"]]]:
    """Choose a share of all entries together; each array that has some, with their places in it."""
    ends = np.cumsum(sizes)
    chosen = np.sort(random.choice(ends[-1], _share(int(ends[-1]), ratio), replace=False))
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    return ((i, part - (end - size)) for i, part, end, size in zip(numbers, parts, ends, sizes, strict=True) if len(part))


def _share(total: int, ratio: float) -> int:
    """Floor of `ratio * total`, where 0.29 of 100 is 29."""
    return math.floor(round(ratio * total, 9))


def _switched(size: int, ratio: float) -> int:
    """Neurons of a kernel that `ns` permutes; one alone stays where it is."""
    if size < FEWEST:
        return 0
    return _share(size, ratio) if ratio * size > 2 else math.ceil(round(ratio * size, 9))


def _batches(classifier: Classifier, x: Float[Any, "n h w c"]) -> list[Array]:
    """Images on the device, in batches of one size whatever their number, so that no label depends on the other images."""
    x = inputs.images(x)
    inputs.class_count(classifier, x.shape[1:], "the images", x.dtype)
    size = min(max(NUMBERS // math.prod(x.shape[1:]), 1), LARGEST)
    short = -len(x) % size
    padded = np.concatenate([x, np.zeros((short, *x.shape[1:]), x.dtype)])
    return [jnp.asarray(padded[begin : begin + size]) for begin in range(0, len(padded), size)]


def _checked(classifier: Classifier, x: Any, label: Any) -> Int[np.ndarray, " n"]:
    shape = np.shape(x)
    return inputs.labels(label, shape[0], inputs.class_count(classifier, shape[1:], "the images"))


def _labels(classifier: Classifier, batches: Sequence[Array]) -> Int[np.ndarray, " padded"]:
    """Classes of all batches; -1 where the logits are not finite."""
    return np.concatenate([np.asarray(label) for label in [_label(classifier, batch) for batch in batches]])


@jax.jit
def _label(classifier: Classifier, x: Float[Array, "n h w c"]) -> Int[Array, " n"]:
    logits = jax.vmap(classifier)(x)
    return jnp.where(jnp.isfinite(logits).all(1), logits.argmax(1), -1)


def _accuracy(classifier: Classifier, batches: Sequence[Array], label: Int[np.ndarray, " n"]) -> float:
    return float((_labels(classifier, batches)[: len(label)] == label).mean())
