"""Inner activations and passes with dropout: the logits come last for every network of the zoo, and weights are arguments."""

import inspect
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from a2d_jax.classifiers import from_function, from_nnx, predict
from a2d_jax.errors import BadInput
from a2d_jax.io.checkpoints import import_factory
from experiments.baselines.activations import activations_of, in_batches, inside, passes_of, stochastic
from models.convnet import convnet12
from models.lenet import lenet_digits, lenet_env1

FACTORIES = [  # one of each class
    *("models.lenet:lenet5", "models.lenet:lenet_digits", "models.lenet:lenet_env1", "models.convnet:convnet12"),
    *("models.advertorch:advertorch_mnist", "models.substitute:substitute_mnist", "models.magnet:magnet_mnist"),
    *("models.madry:madry_mnist", "models.madry:madry_cifar10", "models.googlenet:googlenet_cifar10"),
    *("models.projected:projected_resnet20", "models.resnet:cifar_resnet20", "models.resnet:resnet18"),
    "models.efficientnet:efficientnet_lite0",
]
FASTER = FACTORIES[:8]
"""Networks whose call takes another way than their activations; the call of the others returns the last activation."""


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_image_comes_first_and_the_logits_last(factory):
    """Protects what detectors read: for every network of the zoo the first activation is the image and the last has the shape of logits."""
    module = nnx.eval_shape(import_factory(factory))
    classifier, image = from_nnx(module), jax.ShapeDtypeStruct(module.input_shape, np.float32)
    named = jax.eval_shape(lambda activations, x: activations(x), activations_of(classifier), image)
    logits = jax.eval_shape(lambda classifier, x: classifier(x), classifier, image)
    *_, hidden, last = named
    assert next(iter(named)) == "input"
    assert (last, named["input"], named["logits"]) == ("logits", image, logits)
    assert named[hidden].ndim == 1  # a density is taken of the layer before the logits
    assert factory in FASTER or "self.activations(x)" in inspect.getsource(type(module).__call__)


@pytest.mark.parametrize("factory", FASTER)
def test_the_last_activation_is_the_logits(factory):
    """Protects the second description of a network: where the call takes a faster way, both give the same logits."""
    network = import_factory(factory)()
    classifier = from_nnx(network)
    x = np.random.default_rng(0).random((3, *network.input_shape), np.float32)
    np.testing.assert_allclose(inside(activations_of(classifier), x)["logits"], predict(classifier, x), rtol=1e-5, atol=1e-5)


def test_layers_of_the_first_environment():
    """Protects the number of features of the paper's networks: 12 and 25 layers of Keras, of which the softmax is left to the detector."""
    for factory, layers in ((lenet_env1, 12), (convnet12, 25)):
        activations, image = activations_of(from_nnx(factory())), jnp.zeros(factory().input_shape)
        assert len(jax.eval_shape(activations, image)) == 1 + layers - 1
    assert list(jax.eval_shape(activations_of(from_nnx(lenet_env1())), jnp.zeros((28, 28, 1)))) == [
        *("input", "conv1", "relu1", "conv2", "relu2", "pool2", "dropout1", "flatten", "fc1", "relu3", "dropout2", "logits")
    ]


def test_new_weights_compile_nothing():
    """Protects the cache: activations of a network with other weights are the same program, in the order of the layers."""
    compiled = []

    @jax.jit
    def run(activations, x):
        compiled.append(1)
        return activations(x)

    x = jnp.asarray(np.random.default_rng(0).random((8, 8, 1), np.float32))
    first, second = (activations_of(from_nnx(lenet_digits(nnx.Rngs(seed)))) for seed in (0, 1))
    one, other = run(first, x), run(second, x)
    assert len(compiled) == 1
    assert first.apply == second.apply
    assert isinstance(one, OrderedDict)
    assert list(one) == ["input", "conv1", "relu1", "conv2", "relu2", "pool2", "flatten", "fc1", "relu3", "logits"]
    assert not np.array_equal(one["logits"], other["logits"])


def test_batches_of_one_size():
    """Protects the host loop: any number of images, each with its own row, and one program for all of them."""
    x = np.random.default_rng(0).random((70, 8, 8, 1), np.float32)
    sizes = set()

    def function(x, y):
        sizes.add(len(x))
        return {"sum": x.sum((1, 2, 3)), "other": y}

    for n in (1, 32, 33, 70):
        made = in_batches(function, x[:n], np.arange(n))
        np.testing.assert_array_equal(made["sum"], x[:n].sum((1, 2, 3)))
        np.testing.assert_array_equal(made["other"], np.arange(n))
    assert len(sizes) == 1


def test_inside_equals_one_image_at_a_time():
    """Protects the batches: activations of many images are those of each."""
    activations = activations_of(from_nnx(lenet_digits()))
    x = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
    many = inside(activations, x)
    for row, image in enumerate(x):
        for name, array in activations(image).items():
            np.testing.assert_allclose(many[name][row], array, rtol=1e-5, atol=1e-6)


class Dropping(nnx.Module):
    """Two dropout layers, one used twice, between identities, and a batch norm that must stay in evaluation."""

    input_shape = (2, 4, 1)

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(1, rngs=rngs)
        self.first = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Dropout(0.25, rngs=rngs)

    def __call__(self, x):
        x = self.norm(x).reshape(len(x), -1)
        return jnp.concatenate([self.first(x), self.first(x), self.second(x)], axis=-1)


def keys(n):
    return np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), n)))


def test_passes_are_those_of_dropout():
    """Protects the uncertainty: each use of a dropout layer draws its own mask at its rate, and what it keeps is divided by that."""
    passes = passes_of(from_nnx(Dropping(nnx.Rngs(0))))
    x = np.ones((3, 2, 4, 1), np.float32)
    logits = np.asarray(stochastic(passes, x, keys(3), 400))
    first, again, second = np.split(logits / np.float32(1 / np.sqrt(1 + 1e-5)), 3, axis=-1)
    for kept, rate in ((first, 0.5), (again, 0.5), (second, 0.25)):
        np.testing.assert_allclose(np.unique(kept.round(4)), [0, round(1 / (1 - rate), 4)], atol=1e-4)
        np.testing.assert_allclose((kept > 0).mean(), 1 - rate, atol=4 * np.sqrt(rate * (1 - rate) / kept.size))
    assert not np.array_equal(first, again)
    assert not np.array_equal(logits[0], logits[1])  # images with other keys
    assert not np.array_equal(logits[:, 0], logits[:, 1])


def test_passes_do_not_depend_on_the_batch():
    """Protects scores: the passes of an image are the same in any batch, and the first ones the same for any number of passes."""
    passes = passes_of(from_nnx(lenet_env1()))
    x, key = np.random.default_rng(0).random((3, 28, 28, 1), np.float32), keys(3)
    logits = stochastic(passes, x, key, 4)
    np.testing.assert_allclose(stochastic(passes, x[::-1], key[::-1], 4)[::-1], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stochastic(passes, x[1:2], key[1:2], 2), logits[1:2, :2], rtol=1e-4, atol=1e-5)


def test_evaluation_is_the_mean_without_dropout():
    """Protects the classifier: with dropout of rate 0 every pass gives its logits, and without dropout there are no passes."""
    network = lenet_env1()
    classifier = from_nnx(network)
    network.dropout.rate = 0.0
    x = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    logits = stochastic(passes_of(from_nnx(network)), x, keys(2), 2)
    np.testing.assert_allclose(logits[:, 1], jax.vmap(classifier)(x), rtol=1e-5, atol=1e-5)
    assert passes_of(from_nnx(lenet_digits())) is None


class Switched(nnx.Module):
    """A network whose call switches dropout by an argument."""

    def __init__(self, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, train=False):
        return self.dropout(x, deterministic=not train).reshape(len(x), -1)


def test_what_cannot_be_looked_into_is_refused():
    """Protects users: a function, a module that names no layers, and dropout that the call switches off are refused in one line."""
    function = from_function(lambda variables, x: x.reshape(len(x), -1), ())
    for make in (activations_of, passes_of):
        with pytest.raises(BadInput, match="a classifier of a Flax NNX module"):
            make(function)
    with pytest.raises(BadInput, match=r"a method activations\(x\) .*, got Dropping without it"):
        activations_of(from_nnx(Dropping(nnx.Rngs(0))))
    with pytest.raises(BadInput, match="got Switched with the argument train in its call"):
        passes_of(from_nnx(Switched(nnx.Rngs(0))))
