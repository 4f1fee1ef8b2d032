"""k of n: the verdict is the count of the members' verdicts, and the score ranks in the same way."""

import numpy as np
import pytest

from a2d_jax.detectors import Vote, ZScore
from a2d_jax.errors import BadInput


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_counts_voices(k: int, as_released: bool):
    """Benign iff at least k of the four single detectors say benign, whichever rule they follow."""
    random = np.random.default_rng(0)
    scale = np.array([500, 500, 2000, 5000])
    benign, queries = (random.lognormal(0, 0.7, (n, 4)) * scale * factor + 1 for n, factor in ((400, 0.1), (1000, 0.05)))
    member = ZScore(as_released=as_released)
    fitted = Vote(k, member).fit(benign)
    voices = np.sum([~member.fit(benign[:, i]).predict(queries[:, i]) for i in range(4)], axis=0)
    np.testing.assert_array_equal(fitted.predict(queries), voices < k)
    assert 0 < fitted.predict(queries).mean() < 1 or as_released


def test_one_member_is_the_z_score():
    """A vote of one is the Z-score itself, its score moved by the threshold."""
    costs = np.random.default_rng(1).geometric(0.02, 500)
    single, vote = ZScore().fit(costs), Vote(1).fit(costs)
    np.testing.assert_array_equal(vote.predict(np.arange(500)), single.predict(np.arange(500)))
    np.testing.assert_allclose(vote.score(np.arange(500)), single.score(np.arange(500)) + single.h)


def test_flat_settings():
    """Protects commands: the settings of the members are given beside k."""
    assert Vote.with_settings() == Vote()
    assert Vote.with_settings(3, h=-2.0, normality=0.1, as_released=True) == Vote(3, ZScore(-2.0, 0.1, as_released=True))


def test_what_cannot_be_fitted():
    """Fewer attacks than voices asked for, and what a member refuses."""
    with pytest.raises(BadInput, match="at least k = 2 columns, got 1"):
        Vote().fit(np.arange(100))
    with pytest.raises(BadInput, match="costs that differ"):
        Vote().fit(np.stack([np.arange(100), np.ones(100)], axis=1))
    with pytest.raises(ValueError, match="k of at least 1"):
        Vote(0)
