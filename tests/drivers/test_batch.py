"""`attack`, the one call for a batch."""

import jax
import numpy as np
import pytest

from a2d_jax import costs, drivers
from a2d_jax.attacks import bim
from tests.nets import convnet


@pytest.mark.parametrize("driver", ["stream", "run", "unroll"])
def test_weights_and_images_that_lie_on_one_device(driver):
    """Protects users of checkpoints: arrays that lie on one device are attacked on all, with the same results as from the host."""
    net = convnet()
    examples = costs.examples(net, np.random.default_rng(0).random((6, 8, 8, 1), np.float32))
    attack, last = bim(0.2, 0.01, 10), jax.devices()[-1]
    free = drivers.attack(attack, net, examples, driver=driver)
    lying = drivers.attack(attack, *jax.device_put((net, examples), last), driver=driver)
    assert len(jax.devices()) > 1
    np.testing.assert_array_equal(lying.cost, free.cost)
    np.testing.assert_array_equal(lying.x_adv, free.x_adv)
