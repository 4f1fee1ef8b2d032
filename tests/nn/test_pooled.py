"""Convolution with its pool as one product, against PyTorch and against the two layers one after the other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax

from a2d_jax import nn

LAYERS = [  # height, width, channels in, out, kernel, window, padding: LeNet-5's two, then odd sizes, leftovers, other windows
    (28, 28, 1, 6, (5, 5), 2, 2),
    (14, 14, 6, 16, (5, 5), 2, 0),
    (9, 12, 3, 4, (3, 3), 2, 0),
    (8, 7, 2, 5, (2, 3), 2, 1),
    (11, 10, 2, 3, (3, 3), 3, 0),
    (6, 6, 1, 2, (1, 1), 2, 0),
    (5, 6, 2, 7, (2, 2), 1, 3),
]


def drawn(rng, shape, whole):
    return rng.integers(-2, 3, shape).astype(np.float32) if whole else rng.standard_normal(shape, np.float32)


def torch_layer(x, kernel, bias, grad, window, padding):
    """Value and gradients to image, kernel and bias by PyTorch."""
    x, kernel = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True), torch.tensor(kernel.transpose(3, 2, 0, 1), requires_grad=True)
    bias = torch.tensor(bias, requires_grad=True)
    y = torch.nn.functional.max_pool2d(torch.nn.functional.conv2d(x, kernel, bias, padding=padding), window)
    y.backward(torch.tensor(grad.transpose(0, 3, 1, 2)))
    return [
        y.detach().numpy().transpose(0, 2, 3, 1),
        x.grad.numpy().transpose(0, 2, 3, 1),
        kernel.grad.numpy().transpose(2, 3, 1, 0),
        bias.grad.numpy(),
    ]


@pytest.mark.parametrize("whole", [False, True], ids=["floats", "whole numbers"])
@pytest.mark.parametrize(("h", "w", "c", "o", "kernel", "window", "padding"), LAYERS)
def test_equals_pytorch(h, w, c, o, kernel, window, padding, whole):
    """Value and all gradients are PyTorch's; with small whole numbers, where sums are exact and ties many, to the last bit."""
    rng = np.random.default_rng([h, o])
    x, weights, bias = drawn(rng, (3, h, w, c), whole), drawn(rng, (*kernel, c, o), whole), drawn(rng, (o,), whole)
    y, back = jax.vjp(jax.jit(partial(nn.conv_max_pool, window=window, padding=padding)), *map(jnp.asarray, (x, weights, bias)))
    grad = drawn(rng, y.shape, whole)
    ours, theirs = [y, *back(jnp.asarray(grad))], torch_layer(x, weights, bias, grad, window, padding)
    for mine, yours in zip(ours, theirs, strict=True):
        if whole:
            np.testing.assert_array_equal(mine, yours)
        else:
            np.testing.assert_allclose(mine, yours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lanes", [1, 2, 7, 16, 32, 33])
@pytest.mark.parametrize(("h", "w", "c", "o", "kernel", "window"), [layer[:-1] for layer in LAYERS])
def test_flat_images_give_ties(h, w, c, o, kernel, window, lanes):
    """Where an image is flat, the entries of a tile are equal to the last bit, in a loop too: the first takes the whole gradient.

    This decides the gradients on the background of a digit. Closed form, without padding, whose zeros are not flat: each tile adds the
    kernel at the tile's first place.
    """
    rng = np.random.default_rng(lanes)
    x = np.broadcast_to(rng.standard_normal((lanes, 1, 1, c), np.float32), (lanes, h, w, c))
    weights, bias = drawn(rng, (*kernel, c, o), whole=False), drawn(rng, (o,), whole=False)

    def loss(x):
        return jnp.sum(nn.conv_max_pool(x[None], jnp.asarray(weights), jnp.asarray(bias), window=window, padding=0))

    step = jax.vmap(jax.grad(loss))
    loop = jax.jit(lambda x: lax.fori_loop(0, 3, lambda i, grad: step(x + 0 * grad), jnp.zeros(x.shape)))
    expected = np.zeros((h, w, c))
    for i in range(0, h - kernel[0] + 2 - window, window):
        for j in range(0, w - kernel[1] + 2 - window, window):
            expected[i : i + kernel[0], j : j + kernel[1]] += weights.sum(-1)
    np.testing.assert_allclose(loop(jnp.asarray(x)), np.broadcast_to(expected, x.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_other_types(dtype):
    """bfloat16 and float64 stay what they are and agree with the two layers to their own precision."""
    with jax.enable_x64(dtype == jnp.float64):
        rng = np.random.default_rng(0)
        args = [jnp.asarray(drawn(rng, shape, whole=False), dtype) for shape in ((2, 9, 10, 3), (3, 3, 3, 4), (4,))]
        ours, back = jax.vjp(partial(nn.conv_max_pool, window=2, padding=1), *args)
        theirs, their_back = jax.vjp(two_layers, *args)
        gradients = list(zip([ours, *back(ours)], [theirs, *their_back(ours)], strict=True))
        assert {a.dtype for pair in gradients for a in pair} == {jnp.dtype(dtype)}
        for mine, yours in gradients[:2] if dtype == jnp.bfloat16 else gradients:  # sums over an image are noise in bfloat16
            close = np.isclose(
                np.asarray(mine, np.float64), np.asarray(yours, np.float64), *([0.1, 0.1] if dtype == jnp.bfloat16 else [1e-12] * 2)
            )
            assert close.mean() > (0.95 if dtype == jnp.bfloat16 else 0.9999)  # a rounded tie may move a gradient in bfloat16


def two_layers(x, kernel, bias):
    y = lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return nn.max_pool(y + bias[None, None, None], 2)


def test_second_derivatives():
    """The gradient of an input gradient is that of the two layers, by reverse over reverse and forward over reverse."""
    rng = np.random.default_rng(1)
    x, kernel, bias = (jnp.asarray(drawn(rng, shape, whole=False)) for shape in ((2, 8, 8, 2), (3, 3, 2, 4), (4,)))

    def gradient(layer):
        return jax.grad(lambda x: jnp.sum(jnp.tanh(layer(x, kernel, bias))))

    def second(layer):
        return jax.grad(lambda x: jnp.sum(gradient(layer)(x) ** 2))(x)

    ours = partial(nn.conv_max_pool, window=2, padding=1)
    np.testing.assert_allclose(second(ours), second(two_layers), rtol=1e-4, atol=1e-4)
    along = 2 * gradient(ours)(x)  # the gradient of |g|^2 is 2 H g: the same by forward over reverse
    np.testing.assert_allclose(jax.jvp(gradient(ours), (x,), (along,))[1], second(two_layers), rtol=1e-4, atol=1e-4)


def test_passes_nan_on():
    """A NaN reaches every output whose patch holds it, so that a broken model is seen."""
    x = jnp.zeros((1, 6, 6, 1)).at[0, 0, 0, 0].set(jnp.nan)
    y = nn.conv_max_pool(x, jnp.ones((3, 3, 1, 2)), jnp.zeros(2), window=2, padding=0)
    assert np.isnan(y[0, 0, 0]).all()
    assert np.isfinite(y[0, 1, 1]).all()


def test_in_a_loop_there_are_products_only():
    """Value and gradient compile to matrix products: no convolution routine and no scatter is left in the loop."""
    kernel, bias = jnp.ones((5, 5, 1, 6)), jnp.zeros(6)
    step = jax.vmap(jax.grad(lambda x: jnp.sum(jnp.tanh(nn.conv_max_pool(x[None], kernel, bias, window=2, padding=2)))))
    loop = jax.jit(lambda x: lax.fori_loop(0, 3, lambda i, x: x - step(x), x))
    text = loop.lower(jnp.ones((4, 28, 28, 1))).compile().as_text()
    assert " dot(" in text
    assert "convolution(" not in text
    assert "scatter(" not in text
