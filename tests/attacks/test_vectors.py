"""Counts of the released attack code in float64 on a network defined by formulas (28 inputs, 112 counts)."""

import csv

import jax
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import JSMA, bim, bim2
from tests.nets import batch, formula_input, formula_net

# s, offset, label, target-2, then official counts: BIM (0.3, 6e-4), BIM2 (0.1, 2e-4), BIM (0.03, 6e-5), JSMA.
VECTORS = np.load("tests/golden/vectors.npy")
ATTACKS = {
    "bim": (bim(), 1),
    "bim2": (bim2(), 1),
    "bim_small": (bim(0.03, 6e-5), 1),
    "jsma": (JSMA(), 0),
}


@pytest.mark.parametrize(("column", "name"), list(enumerate(ATTACKS, start=4)))
def test_counts_in_float64(column, name):
    """Protects exactness: every BIM, BIM2 and JSMA count of the reference, caps and the JSMA dead end included."""
    attack, offset = ATTACKS[name]
    with jax.enable_x64(True):
        net = formula_net()
        x = np.stack([formula_input(int(row[0]), row[1]) for row in VECTORS])
        examples = batch(net, x)
        np.testing.assert_array_equal(examples.label, VECTORS[:, 2])
        result = drivers.attack(attack, net, examples)
    np.testing.assert_array_equal(result.cost - offset, VECTORS[:, column])


def test_float32_counts_are_close():
    """Protects single precision: at most a few counts move, by a few updates, as in an independent float32 re-implementation."""
    net = formula_net(np.float32)
    x = np.stack([formula_input(int(row[0]), row[1]) for row in VECTORS]).astype(np.float32)
    gaps = []
    for column, (attack, offset) in enumerate(ATTACKS.values(), start=4):
        gaps.append(drivers.attack(attack, net, batch(net, x)).cost - offset - VECTORS[:, column])
    assert np.count_nonzero(gaps) <= 3
    assert np.abs(gaps).max() <= 3


def test_pinned_vectors_are_the_published_ones(shared):
    """Protects the pinned copy: it holds what the specification's file says."""
    with open(shared / "spec" / "testvectors_small_net.csv") as file:
        rows = list(csv.reader(file))[1:]
    published = np.array([[float(row[c]) for c in (0, 1, 2, 3, 5, 6, 7, 8)] for row in rows])
    np.testing.assert_array_equal(VECTORS, published)
