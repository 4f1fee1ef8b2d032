"""Convolution, pool and ReLU on planes, against PyTorch and against the same layers one after the other."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from a2d_jax import nn
from a2d_jax.nn import planes

STACKS = [  # height, width, channels in, channels out, kernel, window, paddings: LeNet-5, then odd sizes, leftovers, other windows
    (28, 28, 1, (6, 16), (5, 5), 2, (2, 0)),
    (14, 14, 6, (16,), (5, 5), 2, (0,)),
    (9, 12, 3, (4,), (3, 3), 2, (0,)),
    (8, 7, 2, (5,), (2, 3), 2, (1,)),
    (11, 10, 2, (3,), (3, 3), 3, (0,)),
    (6, 6, 1, (2,), (1, 1), 2, (0,)),
    (5, 6, 2, (7,), (2, 2), 1, (3,)),
    (13, 15, 2, (3, 4), (3, 2), 2, (1, 1)),  # a plane without its last row, beside zeros
    (14, 13, 2, (3, 4), (3, 3), 3, (0, 2)),
    (15, 14, 1, (3, 4, 5), (3, 2), 2, (1, 1, 1)),
]
SHAPES = ("h", "w", "c", "outs", "kernel", "window", "paddings")


def drawn(rng, shape, whole):
    return rng.integers(-2, 3, shape).astype(np.float32) if whole else rng.standard_normal(shape, np.float32)


def weights(rng, c, outs, kernel, whole):
    return [(drawn(rng, (*kernel, a, b), whole), drawn(rng, (b,), whole)) for a, b in zip((c, *outs), outs, strict=False)]


def torch_stack(torch, x, layers, window, paddings, grad):
    """Value and gradients to the image and to all kernels and biases by PyTorch."""
    image = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    arrays = [[torch.tensor(k.transpose(3, 2, 0, 1), requires_grad=True), torch.tensor(b, requires_grad=True)] for k, b in layers]
    y = image
    for (kernel, bias), padding in zip(arrays, paddings, strict=True):
        y = torch.relu(torch.nn.functional.max_pool2d(torch.nn.functional.conv2d(y, kernel, bias, padding=padding), window))
    y.backward(torch.tensor(grad.transpose(0, 3, 1, 2)))
    last = [(kernel.grad.numpy().transpose(2, 3, 1, 0), bias.grad.numpy()) for kernel, bias in arrays]
    return y.detach().numpy().transpose(0, 2, 3, 1), image.grad.numpy().transpose(0, 2, 3, 1), last


@pytest.mark.parametrize("whole", [False, True], ids=["floats", "whole numbers"])
@pytest.mark.parametrize(SHAPES, STACKS)
def test_equals_pytorch(h, w, c, outs, kernel, window, paddings, whole, torch):
    """Value and all gradients are PyTorch's; with small whole numbers, where sums are exact and ties many, to the last bit."""
    rng = np.random.default_rng([h, outs[0]])
    x, layers = drawn(rng, (3, h, w, c), whole), weights(rng, c, outs, kernel, whole)
    layer = jax.jit(partial(nn.conv_pool_relu, window=window, paddings=paddings))
    y, back = jax.vjp(layer, jnp.asarray(x), jax.tree.map(jnp.asarray, layers))
    grad = drawn(rng, y.shape, whole)
    ours, theirs = (y, *back(jnp.asarray(grad))), torch_stack(torch, x, layers, window, paddings, grad)
    for mine, yours in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if whole:
            np.testing.assert_array_equal(mine, yours)
        else:
            np.testing.assert_allclose(mine, yours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lanes", [1, 2, 7, 16, 32, 33])
@pytest.mark.parametrize(SHAPES, STACKS[:7])
def test_flat_images_give_ties(h, w, c, outs, kernel, window, paddings, lanes):
    """Where an image is flat, the entries of a tile are equal to the last bit, in a loop too: the first takes the whole gradient.

    This decides the gradients on the background of a digit. Closed form, of the first layer without padding, whose zeros are not flat:
    each tile adds the kernel at the tile's first place. A large bias opens the ReLU.
    """
    rng = np.random.default_rng(lanes)
    x = np.broadcast_to(rng.standard_normal((lanes, 1, 1, c), np.float32), (lanes, h, w, c))
    matrix, bias = drawn(rng, (*kernel, c, outs[0]), whole=False), jnp.full(outs[0], 100.0)

    def loss(x):
        return jnp.sum(nn.conv_pool_relu(x[None], [(jnp.asarray(matrix), bias)], window=window, paddings=(0,)))

    step = jax.vmap(jax.grad(loss))
    loop = jax.jit(lambda x: lax.fori_loop(0, 3, lambda i, grad: step(x + 0 * grad), jnp.zeros(x.shape)))
    expected = np.zeros((h, w, c))
    for i in range(0, h - kernel[0] + 2 - window, window):
        for j in range(0, w - kernel[1] + 2 - window, window):
            expected[i : i + kernel[0], j : j + kernel[1]] += matrix.sum(-1)
    np.testing.assert_allclose(loop(jnp.asarray(x)), np.broadcast_to(expected, x.shape), rtol=1e-4, atol=1e-4)


CORES = """
import jax, jax.numpy as jnp, numpy as np
from a2d_jax.nn import planes
rng = np.random.default_rng(0)
matrix = planes._matrix(jnp.asarray(rng.standard_normal((5, 5, 6, 16), np.float32)), 2)
flat = np.repeat(rng.uniform(size=6), 36).astype(np.float32)[:, None]  # the second layer of LeNet-5 above images of one colour
product = jax.jit(planes._product_with_ties)
for count in range(75, 500, 50):
    places = np.asarray(product(matrix, jnp.asarray(np.broadcast_to(flat, (216, count))))).reshape(4, 16, count)
    assert (places == places[0]).all(), f"{count} columns"
"""


@pytest.mark.parametrize("cores", [4, 64])
def test_ties_on_many_cores(cores):
    """Ties do not depend on the number of cores, nor on that of images: XLA shares out the terms of a product on four threads or more."""
    subprocess.run([sys.executable, "-c", CORES], check=True, env=os.environ | {"NPROC": str(cores)}, cwd=Path(__file__).parents[2])


def stack(seed=0, dtype=jnp.float32, images=3):
    """Images, layers, and the two ways through these."""
    rng = np.random.default_rng(seed)
    x, layers = drawn(rng, (images, 7, 9, 2), whole=False), weights(rng, 2, (3, 4), (3, 2), whole=False)
    x, layers = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (x, layers))
    ways = [
        lambda x, layers: nn.conv_pool_relu(x, layers, window=2, paddings=(1, 1)),
        lambda x, layers: planes.one_by_one(x, tuple(planes.Weights(*layer, jnp.zeros(())) for layer in layers), 2, (1, 1)),
    ]
    return x, layers, ways


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_other_types(dtype):
    """bfloat16 and float64 stay what they are and agree with the layers one by one to their own precision."""
    with jax.enable_x64(dtype == jnp.float64):
        x, layers, (ours, theirs) = stack(dtype=dtype)
        (mine, back), (yours, their_back) = jax.vjp(ours, x, layers), jax.vjp(theirs, x, layers)
        found, expected = (jax.tree.leaves(pull(yours)) for pull in (back, their_back))
        pairs = [(mine, yours), *zip(found, expected, strict=True)]
        assert {a.dtype for pair in pairs for a in pair} == {jnp.dtype(dtype)}
        for a, b in pairs[:2] if dtype == jnp.bfloat16 else pairs:  # sums over an image are noise in bfloat16
            close = np.isclose(
                np.asarray(a, np.float64), np.asarray(b, np.float64), *([0.1, 0.1] if dtype == jnp.bfloat16 else [1e-12] * 2)
            )
            assert close.mean() > (0.95 if dtype == jnp.bfloat16 else 0.9999)  # a rounded tie may move a gradient in bfloat16


@pytest.mark.slow
def test_maps_over_everything():
    """Under `vmap`, over images, gradients and weights, each alone and together and twice, the gradients are those of single calls."""
    x, layers, (ours, _) = stack(images=4)
    grads = jnp.asarray(drawn(np.random.default_rng(2), (5, *ours(x, layers).shape), whole=False))
    other = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), layers)

    @jax.jit
    def gradient(x, layers, grad):
        return jax.vjp(ours, x, layers)[1](grad)[0]

    one = jnp.stack([gradient(x, layers, grad) for grad in grads])  # k n
    checks = {
        "gradients": (jax.vmap(gradient, (None, None, 0))(x, layers, grads), one),
        "images": (jax.vmap(gradient, (0, None, 0))(x[:, None], layers, grads[0][:, None])[:, 0], one[0]),
        "images, then gradients": (
            jax.vmap(jax.vmap(gradient, (None, None, 0)), (0, None, 1))(x[:, None], layers, grads[:, :, None])[:, :, 0],
            jnp.swapaxes(one, 0, 1),
        ),
        "gradients, then images": (
            jax.vmap(jax.vmap(gradient, (0, None, 0)), (None, None, 0))(x[:, None], layers, grads[:, :, None])[:, :, 0],
            one,
        ),
        "weights": (jax.vmap(gradient, (None, 0, None))(x, other, grads[0])[0], one[0]),
        "everything": (jax.vmap(gradient)(jnp.stack([x, x]), other, grads[:2])[0], one[0]),
        "images of one gradient": (jax.vmap(gradient, (0, None, None))(jnp.stack([x, x]), layers, grads[0])[1], one[0]),
    }
    for name, (found, expected) in checks.items():
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(jax.vmap(lambda x: ours(x[None], layers)[0])(x), ours(x, layers), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(ours, (None, 0))(x, other)[0], ours(x, layers), rtol=1e-5, atol=1e-5)


def test_second_derivatives():
    """The gradient of an input gradient is that of the layers one by one, by reverse over reverse and forward over reverse, mapped too."""
    x, layers, ways = stack(seed=1)
    x = x[:2]

    def gradient(way):
        return jax.jit(jax.grad(lambda x: jnp.sum(jnp.tanh(way(x, layers) / 10))))

    def second(way):
        return jax.jit(jax.grad(lambda x: jnp.sum(gradient(way)(x) ** 2)))

    ours, theirs = ways
    np.testing.assert_allclose(second(ours)(x), second(theirs)(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jax.vmap(second(ours))(x[:, None])[:, 0], second(theirs)(x), rtol=1e-4, atol=1e-4)
    along = 2 * gradient(ours)(x)  # the gradient of |g|^2 is 2 H g: the same by forward over reverse
    np.testing.assert_allclose(jax.jvp(gradient(ours), (x,), (along,))[1], second(theirs)(x), rtol=1e-4, atol=1e-4)


def test_passes_nan_on():
    """A NaN reaches every output whose patch holds it, so that a broken model is seen."""
    x = jnp.zeros((1, 6, 6, 1)).at[0, 0, 0, 0].set(jnp.nan)
    y = nn.conv_pool_relu(x, [(jnp.ones((3, 3, 1, 2)), jnp.zeros(2))], window=2, paddings=(0,))
    assert np.isnan(y[0, 0, 0]).all()
    assert np.isfinite(y[0, 1, 1]).all()


def test_wants_a_padding_for_each_layer():
    """A stack whose paddings are not as many as its layers is refused, with what was expected and what came."""
    with pytest.raises(ValueError, match="padding for each of 1 layers, got 2"):
        nn.conv_pool_relu(jnp.zeros((1, 6, 6, 1)), [(jnp.ones((3, 3, 1, 2)), jnp.zeros(2))], window=2, paddings=(0, 0))


@pytest.mark.parametrize(("images", "products"), [(32, 6), (4, 9)])
def test_a_step_is_two_products_a_layer_and_a_spread(images, products):
    """In a loop, value and gradient of a layer are three matrix products: the value is not computed twice, and nothing is a convolution.

    Of four images one product is of middling size and comes in four pieces.
    """
    layers = [(jnp.ones((5, 5, 1, 6)), jnp.zeros(6)), (jnp.ones((5, 5, 6, 16)), jnp.zeros(16))]
    step = jax.vmap(jax.grad(lambda x: jnp.sum(jnp.tanh(nn.conv_pool_relu(x[None], layers, window=2, paddings=(2, 0))))))
    text = jax.jit(lambda x: lax.fori_loop(0, 3, lambda i, x: x - step(x), x)).lower(jnp.ones((images, 28, 28, 1))).compile().as_text()
    assert text.count(" dot(") == products
    assert "convolution(" not in text
    assert "scatter(" not in text
