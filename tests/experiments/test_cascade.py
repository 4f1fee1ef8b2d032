"""The cascade before Newton, on random scores with known results."""

import numpy as np
import pytest

from a2d_jax.errors import BadInput
from experiments.cascade import CASCADES, MARGIN, ONE, Settings, cascade, main


def scores(noise: float) -> dict[str, np.ndarray]:
    """Raw scores in which the margin and one gradient are the crossing, up to noise; Newton takes four updates."""
    generator = np.random.default_rng(1)

    def rows(crossing: np.ndarray) -> np.ndarray:
        column = {index: crossing * np.exp(noise * generator.standard_normal(len(crossing))) for index in (ONE, MARGIN)}
        return np.column_stack([crossing, crossing, crossing, column[ONE], column[MARGIN], np.full(len(crossing), 4), crossing])

    return {"benign": rows(generator.uniform(1, 2, 400)), "near": rows(generator.uniform(0, 0.1, 50)), "far": rows(np.full(50, 3.0))}


@pytest.mark.parametrize(("stages", "fewest"), [((MARGIN, ONE), 0), ((ONE,), 1)])
def test_a_perfect_stage_settles_all_that_newton_does_not_flag(stages, fewest):
    """Protects the counts: no catch is lost, 95 % of benign images are settled, the rest costs Newton's four gradients."""
    found = cascade(scores(0), stages)
    assert found.caught == {"near": (1, 1), "far": (0, 0)}
    assert found.settled == pytest.approx(0.95, abs=0.01)
    assert found.alone == 4
    assert found.gradients == pytest.approx(fewest * found.settled + 4 * (1 - found.settled))


def test_a_useless_stage_settles_nothing_or_loses():
    """Protects honesty: a margin that says little lets crafted images pass, and the table shows it."""
    found = cascade(scores(3), (MARGIN,))
    assert found.settled < 0.3 or found.caught["near"][0] < found.caught["near"][1]


def test_table(tmp_path):
    """Protects the command: a row for each network and cascade; a folder without scores is refused."""
    with pytest.raises(BadInput, match=r"experiments\.newton first"):
        main(Settings(tmp_path))
    np.savez(tmp_path / "Net.npz", **scores(0.1))
    assert main(Settings(tmp_path)).count("| Net |") == len(CASCADES)
