"""Convolution of `a2d_jax.nn` against lax's autodiff and against PyTorch."""

import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from a2d_jax import nn

NHWC = ("NHWC", "HWIO", "NHWC")
STRIDES = ((1, 1), (2, 1), (3, 2))
PADDINGS = ("SAME", "VALID", ((2, 1), (0, 3)))
KERNELS = (((1, 1), 1, 1), ((1, 1), 2, 4), ((2, 3), 1, 1), ((2, 3), 2, 4), ((1, 2), 1, 4))  # dilation, groups, channels
# Every stride with every padding, the kernels taking turns; then unit strides with few and many channels.
GRID = [(s, p, *k) for (s, p), k in zip(itertools.product(STRIDES, PADDINGS), itertools.cycle(KERNELS), strict=False)]
GRID += [((1, 1), p, (1, 1), 1, channels) for p in PADDINGS for channels in (1, 3, nn.FEW_CHANNELS + 1)]


def normal(*shape, dtype=np.float32, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), dtype)


def arrays(shape, channels, groups, window=(3, 2), dtype=np.float32):
    return normal(3, *shape, channels, dtype=dtype), normal(*window, channels // groups, 6, dtype=dtype)


def pullback(conv, x, kernel, **settings):
    """Value, input gradient and kernel gradient of one convolution, for a random gradient of its output."""
    conv = partial(conv, dimension_numbers=NHWC, **settings)
    grad = normal(*jax.eval_shape(conv, x, kernel).shape, dtype=x.dtype)

    @jax.jit
    def both(x, kernel, grad):
        y, back = jax.vjp(conv, x, kernel)
        return y, *back(grad)

    return both(x, kernel, grad)


def assert_close(ours, theirs, tolerance=1e-5):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), ours, theirs)


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups", "channels"), GRID)
def test_gradients_equal_autodiff(stride, padding, dilation, groups, channels):
    """Value, input gradient and kernel gradient are those of lax over strides, paddings, dilations and groups."""
    x, kernel = arrays((9, 11), channels, groups)
    settings = {"window_strides": stride, "padding": padding, "rhs_dilation": dilation, "feature_group_count": groups}
    assert_close(pullback(nn.conv_general_dilated, x, kernel, **settings), pullback(lax.conv_general_dilated, x, kernel, **settings))


@pytest.mark.parametrize(
    ("shape", "window", "padding"),
    [
        ((9, 11), (1, 1), "SAME"),
        ((8, 8), (5, 5), ((2, 2), (2, 2))),
        ((7, 10), (3, 3), ((3, 4), (5, 3))),
        ((7, 10), (3, 3), ((-1, 0), (1, -2))),
    ],
)
@pytest.mark.parametrize(("channels", "stride"), [(3, 1), (nn.FEW_CHANNELS + 1, 1), (3, 2)])
def test_unusual_paddings(shape, window, padding, channels, stride):
    """Padding wider than the window, negative padding and 1 x 1 windows give lax's gradients."""
    x, kernel = arrays(shape, channels, 1, window=window)
    settings = {"window_strides": (stride, stride), "padding": padding}
    assert_close(pullback(nn.conv_general_dilated, x, kernel, **settings), pullback(lax.conv_general_dilated, x, kernel, **settings))


ROUTES = {  # every routine for CPUs: height, width, channels in, out, window, stride, padding, groups
    "pointwise": (5, 6, 4, 7, 1, 1, 0, 1),
    "pointwise, stride": (7, 8, 4, 7, 1, 2, 0, 1),
    "depthwise": (7, 8, 5, 5, 3, 1, 1, 5),
    "depthwise, stride": (9, 8, 5, 5, 3, 2, 1, 5),
    "depthwise, wide stride": (11, 10, 3, 3, 5, 3, 2, 3),
    "depthwise, stride beyond the window": (9, 9, 3, 3, 2, 3, 0, 3),
    "few channels, folded by 16": (6, 64, 3, 4, 3, 1, 1, 1),
    "few outputs, folded by 4": (5, 19, 9, 8, 3, 1, 1, 1),
    "few outputs, folded, stride": (9, 31, 9, 8, 3, 2, 2, 1),
    "phases": (12, 13, 9, 40, 3, 2, 1, 1),
    "phases, stride beyond the window": (10, 11, 9, 40, 2, 3, 1, 1),
    "convolution": (8, 9, 9, 40, 3, 1, 1, 1),
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_routine_is_the_convolution(route):
    """Each routine gives lax's value and gradients to the precision of float64, whichever kind of layer it is made for."""
    h, w, inputs, outputs, window, stride, padding, groups = ROUTES[route]
    with jax.enable_x64(True):
        x = normal(2, h, w, inputs, dtype=np.float64)
        kernel = normal(window, window, inputs // groups, outputs, dtype=np.float64)
        settings = {"window_strides": (stride,) * 2, "padding": ((padding,) * 2,) * 2, "feature_group_count": groups}
        assert_close(
            pullback(nn.conv_general_dilated, x, kernel, **settings), pullback(lax.conv_general_dilated, x, kernel, **settings), 1e-12
        )


@pytest.mark.parametrize("route", ["depthwise, stride", "few channels, folded by 16", "phases"])
def test_accelerators_run_lax_itself(route):
    """Compiled for another platform than CPU, value and input gradient are lax's own operations: nothing here can slow them."""
    h, w, inputs, outputs, window, stride, padding, groups = ROUTES[route]
    x, kernel = normal(2, h, w, inputs), normal(window, window, inputs // groups, outputs)
    settings = {"window_strides": (stride,) * 2, "padding": ((padding,) * 2,) * 2, "feature_group_count": groups}

    def operations(conv, platform):
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.tanh(conv(x, kernel, dimension_numbers=NHWC, **settings)))))
        text = gradient.trace(x).lower(lowering_platforms=(platform,)).as_text()
        return sorted(re.findall(r"stablehlo\.(convolution|dot_general|concatenate|pad|slice|transpose|reverse)", text))

    assert operations(nn.conv_general_dilated, "cuda") == operations(lax.conv_general_dilated, "cuda")
    assert operations(nn.conv_general_dilated, "cpu") != operations(lax.conv_general_dilated, "cpu")


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [(1, 2, 1, 1), (2, 1, 1, 2), (1, 0, 2, 2), (3, 2, 2, 1)])
def test_gradients_equal_pytorch(stride, padding, dilation, groups, torch):
    """Value and both gradients are those of torch.nn.functional.conv2d."""
    x, kernel = arrays((11, 13), 4, groups, window=(3, 3))
    settings = {
        "window_strides": (stride, stride),
        "padding": ((padding, padding),) * 2,
        "rhs_dilation": (dilation, dilation),
        "feature_group_count": groups,
    }
    y, dx, dkernel = pullback(nn.conv_general_dilated, x, kernel, **settings)
    grad = normal(*y.shape)
    x_torch = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2), requires_grad=True)
    kernel_torch = torch.tensor(np.asarray(kernel).transpose(3, 2, 0, 1), requires_grad=True)
    y_torch = torch.nn.functional.conv2d(x_torch, kernel_torch, stride=stride, padding=padding, dilation=dilation, groups=groups)
    y_torch.backward(torch.tensor(np.asarray(grad).transpose(0, 3, 1, 2)))
    assert_close(y, y_torch.detach().numpy().transpose(0, 2, 3, 1), 1e-4)
    assert_close(dx, x_torch.grad.numpy().transpose(0, 2, 3, 1), 1e-4)
    assert_close(dkernel, kernel_torch.grad.numpy().transpose(2, 3, 1, 0), 1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
@pytest.mark.parametrize("channels", [3, nn.FEW_CHANNELS + 1])
def test_other_types(dtype, channels):
    """bfloat16 and float64 stay what they are and agree with lax to their own precision."""
    with jax.enable_x64(dtype == jnp.float64):
        x, kernel = arrays((8, 9), channels, 1, dtype=dtype)
        settings = {"window_strides": (1, 1), "padding": "SAME"}
        ours = pullback(nn.conv_general_dilated, x, kernel, **settings)
        theirs = pullback(lax.conv_general_dilated, x, kernel, **settings)
        tolerance = 0.05 if dtype == jnp.bfloat16 else 1e-12
        assert {a.dtype for a in ours} == {jnp.dtype(dtype)}
        assert_close(*jax.tree.map(lambda a: np.asarray(a, np.float64), (ours, theirs)), tolerance)


@pytest.mark.parametrize(
    ("shape", "kernel", "settings"),
    [
        ((2, 3, 8, 9), (5, 3, 3, 3), {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
        ((2, 8, 9, 3), (3, 3, 3, 4), {"dimension_numbers": NHWC, "lhs_dilation": (2, 2)}),
        ((4, 8, 9, 3), (3, 3, 3, 4), {"dimension_numbers": NHWC, "batch_group_count": 2}),
        ((2, 8, 9, 3), (3, 3, 3, 4), {"dimension_numbers": NHWC, "preferred_element_type": jnp.float32}),
        ((2, 12, 3), (3, 3, 4), {"dimension_numbers": ("NWC", "WIO", "NWC")}),
        ((2, 5, 6, 7, 3), (2, 2, 2, 3, 4), {"dimension_numbers": ("NDHWC", "DHWIO", "NDHWC")}),
    ],
)
def test_same_as_lax_everywhere(shape, kernel, settings):
    """What the explicit gradient does not cover, and other numbers of axes, still give lax's values and gradients."""
    dtype = jnp.bfloat16 if "preferred_element_type" in settings else jnp.float32
    x, kernel = normal(*shape, dtype=dtype), normal(*kernel, dtype=dtype)

    def total(conv, x, kernel):
        return jnp.sum(jnp.sin(conv(x, kernel, (1,) * (x.ndim - 2), [(1, 1)] * (x.ndim - 2), **settings)))

    both = jax.jit(jax.value_and_grad(total, (1, 2)), static_argnums=0)
    ours, theirs = both(nn.conv_general_dilated, x, kernel), both(lax.conv_general_dilated, x, kernel)
    assert_close(ours, theirs)


@pytest.mark.parametrize(("channels", "stride"), [(3, 1), (nn.FEW_CHANNELS + 1, 1), (nn.FEW_CHANNELS + 1, 2)])
def test_second_derivatives(channels, stride):
    """The gradient of an input gradient, to input and kernel, is that of lax (adversarial training, adaptive attacks)."""
    with jax.enable_x64(True):
        x, kernel = arrays((6, 7), channels, 1, dtype=np.float64)

        def loss(x, conv, kernel):
            return jnp.sum(jnp.tanh(conv(x, kernel, (stride, stride), "SAME", dimension_numbers=NHWC)))

        def sharpness(conv, x, kernel):
            return jnp.sum(jax.grad(loss)(x, conv, kernel) ** 2)

        second = jax.jit(jax.grad(sharpness, (1, 2)), static_argnums=0)
        assert_close(second(nn.conv_general_dilated, x, kernel), second(lax.conv_general_dilated, x, kernel), 1e-10)

        @partial(jax.jit, static_argnums=0)
        def curvature(conv, x):
            return jax.jvp(lambda x: jax.grad(loss)(x, conv, kernel), (x,), (jnp.ones_like(x),))[1]

        assert_close(curvature(nn.conv_general_dilated, x), curvature(lax.conv_general_dilated, x), 1e-10)


def loop(conv, window_strides=(1, 1)):
    """Ten gradient steps on the input inside a jitted `while_loop`, one image per lane."""

    def loss(x, kernel):
        return jnp.sum(jnp.tanh(conv(x[None], kernel, window_strides, "SAME", dimension_numbers=NHWC)))

    def run(x, kernel):
        step = jax.vmap(jax.grad(loss), (0, None))
        return lax.while_loop(lambda s: s[0] < 10, lambda s: (s[0] + 1, s[1] - 0.01 * step(s[1], kernel)), (0, x))[1]

    return jax.jit(run)


def layouts(compiled):
    return sorted(re.findall(r"dim_labels=(\S+?)[,\s]", compiled.as_text()))


@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_in_a_loop_the_kernel_layout_stays_ordinary(stride):
    """In a compiled loop the gradient is one ordinary batched convolution, where autodiff leaves a transposed kernel there."""
    x, kernel = arrays((8, 8), nn.FEW_CHANNELS + 1, 1, window=(3, 3))
    ours, theirs = (loop(conv, stride).lower(x, kernel).compile() for conv in (nn.conv_general_dilated, lax.conv_general_dilated))
    assert layouts(theirs) == ["b01f_01io->b01f", "b01f_01oi->b01f"]  # forward, and what the explicit gradient avoids
    assert layouts(ours) == ["b01f_01io->b01f"] * 2  # each once for all lanes; the unused kernel gradient is gone
    assert_close(ours(x, kernel), theirs(x, kernel))


@pytest.mark.parametrize("channels", [1, 3])
def test_few_channels_need_no_backward_convolution(channels):
    """The input gradient of a layer of few input channels is a matrix product: only the forward convolution is left."""
    x, kernel = arrays((8, 8), channels, 1, window=(5, 5))
    ours = loop(nn.conv_general_dilated).lower(x, kernel).compile()
    assert layouts(ours) == ["b01f_01io->b01f"]
    assert_close(ours(x, kernel), loop(lax.conv_general_dilated)(x, kernel))


def test_gradients_of_several_logits_on_each_device():
    """Several gradients of each image, on each device its own: `shard_map` and lax's gradient of a depthwise kernel do not go together."""
    x, kernel = arrays((9, 11), 6, 6)
    grads = normal(2, 3, 1, 4, 5, 6)

    def gradients(conv):
        settings = {"window_strides": (2, 2), "padding": "VALID", "feature_group_count": 6, "dimension_numbers": NHWC}

        def several(x, grads):
            back = jax.vjp(lambda x: conv(x, kernel, **settings), x[None])[1]
            return jax.vmap(lambda grad: back(grad)[0])(grads)

        return jax.vmap(several)

    mesh, along = jax.sharding.Mesh(jax.devices()[:2], ("device",)), jax.P("device")
    ours = jax.shard_map(gradients(nn.conv_general_dilated), mesh=mesh, in_specs=along, out_specs=along)
    assert_close(jax.jit(ours)(x[:2], grads), gradients(lax.conv_general_dilated)(x[:2], grads))


def test_flax_layers_take_it():
    """nnx.Conv gives the same values, input gradients and weight gradients with it as without."""
    x = normal(2, 9, 9, 3)
    found = []
    for conv in (nn.conv_general_dilated, lax.conv_general_dilated):
        layer = nnx.Conv(3, 5, (3, 3), strides=2, padding=1, conv_general_dilated=conv, rngs=nnx.Rngs(0))
        graphdef, state = nnx.split(layer)
        found.append(jax.value_and_grad(lambda s, x, g=graphdef: jnp.sum(nnx.merge(g, s)(x) ** 2), (0, 1))(state, x))
    assert_close(*found)
