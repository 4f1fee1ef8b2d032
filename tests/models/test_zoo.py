"""Every network of `models/`: its import string, its size, and its logits and input gradients against PyTorch.

Gradients are compared in float64, on the same float32 weights. Among a million rectifiers and pools, some are so close to a tie that the
rounding of float32 decides them, and there a gradient jumps, in PyTorch too. Logits do not jump; they are compared in both precisions.
"""

import importlib
import json
import pathlib
import tempfile
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from a2d_jax import classifiers
from a2d_jax.io import checkpoints, convert
from a2d_jax.losses import cross_entropy, look
from models import madry, magnet

from . import drawn

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CHECKED = {  # by what they take, nearly all of it compilation
    "lenet_env1": (),
    "convnet12": (),
    "resnet18": (),
    "efficientnet_lite0": (),
    "googlenet_cifar10": (pytest.mark.slow,),
    "resnet50": (pytest.mark.slow,),
    "resnet34": (pytest.mark.release,),
    "resnet101": (pytest.mark.release,),
    "resnet152": (pytest.mark.release,),
    "cifar_resnet110": (pytest.mark.release,),
}
PARAMETERS = {  # as published (torchvision, the papers), else counted by hand from the paper
    "models.lenet:lenet5": 61_706,
    "models.lenet:lenet_env1": 1_218_634,
    "models.advertorch:advertorch_mnist": 648_226,
    "models.convnet:convnet12": 2_915_114,
    "models.substitute:substitute_mnist": 511_626,
    "models.googlenet:googlenet_cifar10": 6_166_250,
    "models.efficientnet:efficientnet_lite0": 4_652_008,
    "models.magnet:magnet_mnist": 312_202,
    "models.magnet:carlini_mnist": 312_202,
    "models.magnet:magnet_cifar10": 1_147_978,
    "models.magnet:autoencoder1": 310,
    "models.magnet:autoencoder2": 142,
    "models.madry:madry_mnist": 3_274_634,
    "models.madry:madry_cifar10": 45_901_914,
    "models.resnet:cifar_resnet20": 269_722,
    "models.projected:projected_resnet20": 272_474,
    "models.resnet:cifar_resnet32": 464_154,
    "models.resnet:cifar_resnet44": 658_586,
    "models.resnet:cifar_resnet56": 853_018,
    "models.resnet:cifar_resnet110": 1_727_962,
    "models.resnet:resnet18": 11_689_512,
    "models.resnet:resnet34": 21_797_672,
    "models.resnet:resnet50": 25_557_032,
    "models.resnet:resnet101": 44_549_160,
    "models.resnet:resnet152": 60_192_808,
}


def abstract(factory):
    """The network with shapes for weights."""
    module, name = factory.split(":")
    return nnx.eval_shape(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("factory", PARAMETERS)
def test_factories_and_sizes(factory):
    """Every import string works without arguments, gives logits of its own input shape, and has the published parameter count."""
    module = abstract(factory)
    assert sum(array.size for array in jax.tree.leaves(nnx.state(module, nnx.Param))) == PARAMETERS[factory]
    image = jax.ShapeDtypeStruct(module.input_shape, np.float32)
    logits = jax.eval_shape(lambda classifier, x: classifier(x), classifiers.from_nnx(module), image)
    autoencoder = "autoencoder" in factory
    assert logits.shape == (module.input_shape if autoencoder else (1000 if module.input_shape[0] == 224 else 10,))


def read(name):
    with np.load(GOLDEN / f"zoo_{name}.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.xdist_group(name), *marks]) for name, marks in CHECKED.items()])
def case(request):
    """What is pinned of a network, its drawn weights, and what our network gives."""
    return computed(request.param)


@cache
def computed(name):
    golden = read(name)
    arrays = drawn.weights(json.loads(str(golden["shapes"])), float(golden["gain"]))
    module = abstract(f"models.{golden['module']}:{name}")
    ready = arrays
    if hasattr(module, "keras_layers"):
        with tempfile.TemporaryDirectory() as folder:
            ready = convert.read_arrays(drawn.keras_file(arrays, pathlib.Path(folder) / "net.h5"))
    network = classifiers.from_nnx(convert.to_module(ready, module))

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiled in half the time, run once
    def ours(network, x, label):
        return jax.vmap(lambda x, label: look(network, lambda logits: cross_entropy(logits, label), x))(x, label)

    single = classifiers.predict(network, golden["x"])
    with jax.enable_x64(True):
        network, x = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), (network, golden["x"]))
        logits, gradient = ours(network, x, golden["second"])
    return name, golden, arrays, {"logits": logits, "gradient": gradient, "single": single}


def assert_equal(ours, theirs):
    size = {name: np.abs(theirs[name]).max() for name in ("logits", "gradient")}
    np.testing.assert_allclose(ours["logits"], theirs["logits"], atol=1e-6 * size["logits"], rtol=0)
    np.testing.assert_allclose(ours["gradient"], theirs["gradient"], atol=1e-6 * size["gradient"], rtol=0)
    np.testing.assert_allclose(ours["single"], theirs["logits"], atol=1e-4 * size["logits"], rtol=0)


def test_equal_to_pinned_values(case):
    """Logits and input gradients are those that PyTorch gave, and Keras for its two networks, to 1e-6 of their size; needs neither."""
    name, golden, _, ours = case
    assert_equal(ours, golden)
    if name in ("lenet_env1", "convnet12"):
        keras = read("keras")
        assert_equal(ours, {value: keras[f"{name}_{value}"] for value in ("logits", "gradient")})


def test_equal_to_pytorch(case):
    """Logits and input gradients are those of PyTorch as installed, to 1e-6 of their size (logits in float32 to 1e-4)."""
    pytest.importorskip("torch", reason="the live comparison needs PyTorch; the pinned one does not")
    from . import zoo_torch

    name, golden, arrays, ours = case
    assert_equal(ours, zoo_torch.logits_and_gradient(zoo_torch.REFERENCES[name].make(), arrays, golden["x"]))


@pytest.mark.parametrize("factory", ["models.googlenet:googlenet_cifar10", "models.resnet:resnet18", "models.convnet:convnet12"])
def test_checkpoints_give_back_every_array(factory, tmp_path):
    """A network of the zoo, members of lists and Sequentials included, comes back from its Orbax checkpoint array by array."""
    generator = np.random.default_rng(0)
    module = jax.tree.map(
        lambda a: jnp.asarray(generator.random(a.shape, np.float32)), nnx.state(abstract(factory), (nnx.Param, nnx.BatchStat))
    )
    whole = nnx.clone(abstract(factory))
    nnx.update(whole, module)
    checkpoints.save(whole, tmp_path / "net", factory=factory)
    loaded = checkpoints.load(factory, tmp_path / "net").classifier
    theirs, ours = (jax.tree.leaves(c.variables) for c in (loaded, classifiers.from_nnx(whole)))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_madry_standardises_images():
    """Every image gets mean 0 and deviation 1 of its own on the scale of bytes; a flat one stays finite, its gradient too."""
    x = np.random.default_rng(0).random((3, 32, 32, 3), np.float32)
    x[0] *= 0.01
    flat = (x - x.mean((1, 2, 3), keepdims=True)) / x.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(madry.standardise(255 * x), flat, atol=1e-3)
    gradient = jax.grad(lambda x: jnp.sum(madry.standardise(x) ** 2))(jnp.full((1, 4, 4, 1), 0.5))
    assert np.isfinite(gradient).all()


def test_autoencoders_give_images():
    """MagNet's autoencoders give images of the input's shape in [0, 1]; half the size in between loses nothing of the shape."""
    x = drawn.images(28, 1, 2)
    for make in (magnet.autoencoder1, magnet.autoencoder2):
        y = np.asarray(make()(x))
        assert y.shape == x.shape
        assert y.min() >= 0
        assert y.max() <= 1
