"""Programs for TPUs and NVIDIA cards, made on a CPU: every attack and every network of this project can be lowered for them.

Lowering is not compiling: only a card shows the result of its compiler (docs/accelerators.md).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from a2d_jax import classifiers
from a2d_jax.attacks import bim
from a2d_jax.drivers.lanes import advance_lanes, empty_lanes
from a2d_jax.drivers.loops import advance, finish
from a2d_jax.drivers.queue import Queue
from a2d_jax.io.checkpoints import import_factory
from a2d_jax.nn import conv_general_dilated, max_pool
from a2d_jax.types import Classifier, Example
from tests.nets import batch
from tests.test_contract import every_attack

PLATFORMS = ("tpu", "cuda")
NETWORKS = (
    "models.lenet:lenet5",
    "models.googlenet:googlenet_cifar10",
    "models.resnet:cifar_resnet20",
    "models.efficientnet:efficientnet_lite0",
)


def logits(weights, x):
    """One convolution and one pool of ours, whose routines are chosen by platform."""
    x = conv_general_dilated(x[None], weights["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return (max_pool(jax.nn.relu(x), 2).reshape(1, -1) @ weights["dense"])[0]


@pytest.fixture(scope="module")
def net():
    first, second = jax.random.split(jax.random.key(0))
    return Classifier({"kernel": jax.random.normal(first, (3, 3, 1, 4)), "dense": jax.random.normal(second, (64, 5))}, logits)


@pytest.fixture(scope="module")
def examples(net):
    return batch(net, np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype(np.float32))


def lowered(function, *arguments):
    """The program for both platforms, in which nothing is in float64."""
    program = export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert program.platforms == PLATFORMS
    assert "f64" not in program.mlir_module()
    return program


def two_steps(attack, classifier, examples):
    def one(example):
        state = attack.init(example)
        for _ in range(2):
            state = advance(attack, classifier, example, state)
        return finish(attack, example, state)

    return jax.vmap(one)(examples)


@every_attack
def test_every_attack_is_lowered(case, net, examples):
    """Protects accelerators: start, steps and result of an attack use no operation that a TPU or an NVIDIA card lacks, and no float64."""
    lowered(two_steps, case.attack, net, examples)


def test_the_loop_of_stream_is_lowered(net, examples):
    """Protects the same for the compiled loop: lanes, queue, refills, results."""
    attack = bim(0.2, 0.01, 20)
    waiting = examples._replace(predicted=np.ones(4, bool))
    queue = Queue(np.arange(4, dtype=np.int32), waiting, np.array([4], np.int32))

    def loop(attack, classifier, queue, taken, floor, trips):
        lanes = empty_lanes(attack, queue, width=2)
        return advance_lanes(attack, classifier, lanes, queue, taken, floor, trips, keep_x_adv=False)

    lowered(loop, attack, net, queue, np.zeros(1, np.int32), np.int32(0), np.int32(9))


@pytest.mark.slow
@pytest.mark.parametrize("factory", NETWORKS)
def test_every_kind_of_network_is_lowered(factory):
    """Protects the same for the routines of layers: planes, pools of windows that overlap, strides, channels apart."""
    module = nnx.eval_shape(import_factory(factory))
    classifier = classifiers.from_nnx(module)
    like = jax.ShapeDtypeStruct((2, *module.input_shape), jnp.float32)
    scalars = [jax.ShapeDtypeStruct((2,), dtype) for dtype in (jnp.int32, bool)]
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    lowered(two_steps, bim(0.1, 0.01, 5), classifier, Example(like, scalars[0], keys, scalars[1]))
