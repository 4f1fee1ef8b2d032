"""Max pooling of `a2d_jax.nn` against PyTorch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from a2d_jax import nn


@pytest.mark.parametrize(("shape", "window"), [((2, 8, 8, 3), 2), ((2, 7, 9, 4), 2), ((1, 9, 11, 2), 3), ((3, 5, 5, 1), 5)])
def test_max_pool_equals_pytorch(shape, window, torch):
    """Values are PyTorch's, and so are gradients where many entries tie: the first maximum in row-major order takes all."""
    x = np.random.default_rng(0).integers(0, 3, shape).astype(np.float32)
    y, back = jax.vjp(lambda x: nn.max_pool(x, window), x)
    grad = np.arange(1, y.size + 1, dtype=np.float32).reshape(y.shape)
    x_torch = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    y_torch = torch.nn.functional.max_pool2d(x_torch, window)
    y_torch.backward(torch.tensor(grad.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(y, y_torch.detach().numpy().transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(back(grad)[0], x_torch.grad.numpy().transpose(0, 2, 3, 1))


def test_max_pool_passes_nan_on(torch):
    """A NaN anywhere in a tile reaches the output, as in PyTorch, so that a broken model is seen."""
    x = jnp.zeros((1, 2, 8, 1)).at[0, (0, 0, 1, 1), (0, 3, 4, 7), 0].set(jnp.nan)
    assert np.isnan(nn.max_pool(x, 2)).all()
    assert torch.isnan(torch.nn.functional.max_pool2d(torch.tensor(np.asarray(x).transpose(0, 3, 1, 2)), 2)).all()


@pytest.mark.parametrize(
    ("shape", "window", "stride", "padding"), [((2, 9, 11, 3), 3, 2, 1), ((2, 8, 8, 4), 3, 1, 1), ((1, 7, 6, 2), 2, 3, 0)]
)
def test_sliding_max_pool_equals_pytorch(shape, window, stride, padding, torch):
    """Overlapping and gapped pools have PyTorch's values and gradients, with many ties, negative entries and odd sizes."""
    x = np.random.default_rng(0).integers(-2, 1, shape).astype(np.float32)
    y, back = jax.vjp(partial(nn.sliding_max_pool, window=window, stride=stride, padding=padding), x)
    grad = np.arange(1, y.size + 1, dtype=np.float32).reshape(y.shape)  # sums of integers are exact in any order
    x_torch = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    y_torch = torch.nn.functional.max_pool2d(x_torch, window, stride, padding)
    y_torch.backward(torch.tensor(grad.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(y, y_torch.detach().numpy().transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(back(grad)[0], x_torch.grad.numpy().transpose(0, 2, 3, 1))


def test_sliding_max_pool_passes_nan_on(torch):
    """A NaN reaches every square that holds it, as in PyTorch, wherever in the square it lies."""
    x = np.random.default_rng(0).standard_normal((1, 9, 9, 1)).astype(np.float32)
    x[0, 4, 4] = np.nan
    expected = torch.nn.functional.max_pool2d(torch.tensor(x.transpose(0, 3, 1, 2)), 3, 1, 1).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(nn.sliding_max_pool(x, 3, stride=1, padding=1), expected)
