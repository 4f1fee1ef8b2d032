"""The bound on iterations: verdicts with costs cut off at the bound are the same, and no smaller bound would do."""

import numpy as np
import pytest

from a2d_jax.detectors import KNN, SVM, Conformal, Detector, Forest, Tree, Vote, ZScore
from a2d_jax.errors import BadInput

MAX_COST = 301
RANDOM = np.random.default_rng(0)
BENIGN = np.minimum(RANDOM.lognormal(4, 0.8, 400).astype(int) + 1, MAX_COST)
ADVERSARIAL = RANDOM.geometric(0.1, 400)
SINGLE: dict[str, Detector] = {
    "z-score": ZScore(),
    "z-score as released": ZScore(as_released=True),
    "vote of one": Vote(1),
    "k-nn": KNN(20),
    "svm": SVM(),
    "tree": Tree(),
    "forest": Forest(trees=20),
    "conformal": Conformal(),
}


@pytest.mark.parametrize("name", SINGLE)
def test_every_cost(name: str):
    """For every cost up to the largest, the verdict on min(cost, bound) is the verdict on the cost."""
    fitted = SINGLE[name].fit(BENIGN, ADVERSARIAL)
    (bound,) = fitted.bounds([MAX_COST])
    assert bound is not None
    assert 0 < bound < MAX_COST
    costs = np.arange(MAX_COST + 1)
    np.testing.assert_array_equal(fitted.predict(np.minimum(costs, bound)), fitted.predict(costs))
    if name != "conformal":  # there the smallest bound is that of the worst jitter
        assert fitted.predict([bound - 1]).all()


def test_z_score_bound_is_the_cost_threshold():
    """For the Z-score the bound is the paper's: the cost threshold, rounded up."""
    fitted = ZScore().fit(BENIGN)
    assert fitted.bounds([MAX_COST]) == (int(np.ceil(fitted.cost_threshold)),)


def test_verdicts_that_return():
    """A detector that flags two separate ranges of costs is bounded above the upper one."""
    fitted = KNN(5).fit(np.r_[np.full(10, 50), np.full(10, 200)], np.r_[np.full(10, 5), np.full(10, 120)])
    (bound,) = fitted.bounds([MAX_COST])
    assert not fitted.predict([60]).any()
    assert fitted.predict([120]).all()
    assert bound == 160  # half way between 120 and 200, where the vote is even


def test_no_bound():
    """None where the largest cost is itself suspicious, where columns are read jointly, or where a column is no integer cost."""
    assert KNN(5).fit(np.full(9, 10), np.full(9, 300)).bounds([MAX_COST]) == (None,)
    assert Conformal(two_sided=True).fit(np.random.default_rng(0).integers(1, 200, 400)).bounds([MAX_COST]) == (None,)
    assert KNN(5).fit(np.ones((9, 2)), np.ones((9, 2))).bounds([MAX_COST, MAX_COST]) == (None, None)
    assert ZScore().fit(BENIGN).bounds([None]) == (None,)
    vote = Vote().fit(np.stack([BENIGN, BENIGN], axis=1))
    assert vote.bounds([MAX_COST, None]) == (*ZScore().fit(BENIGN).bounds([MAX_COST]), None)


def test_never_flagged():
    """A detector that flags nothing is benign from the start: bound 0."""
    assert ZScore(h=-9).fit(np.arange(1, 200)).bounds([MAX_COST]) == (0,)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_vote_member_by_member(k: int):
    """Costs of three attacks cut off at their members' bounds leave the vote's verdicts as they are; scores may move, verdicts not."""
    benign = np.stack([BENIGN, BENIGN[::-1] * 2, np.roll(BENIGN, 7) + 3], axis=1)
    fitted = Vote(k).fit(benign)
    cut = fitted.bounds([MAX_COST, 2 * MAX_COST, MAX_COST + 3])
    queries = np.random.default_rng(1).integers(0, MAX_COST, (3000, 3)) // np.array([3, 2, 4])
    flagged = fitted.predict(queries)
    assert 0 < flagged.mean() < 1
    np.testing.assert_array_equal(fitted.predict(np.minimum(queries, np.array(cut, int))), flagged)


@pytest.mark.parametrize("per_class", [False, True])
def test_conformal_for_any_jitter(per_class: bool):
    """The bound holds for every jitter and predicted class: 40 draws of each cost, over classes with and without a map of their own."""
    labels = np.arange(400) % 3
    fitted = Conformal(per_class=per_class).fit(BENIGN * (1 + labels), labels=labels)
    (bound,) = fitted.bounds([MAX_COST * 3])
    assert bound is not None
    costs, classes = np.tile(np.arange(0, MAX_COST), 40), np.repeat(np.arange(40) % 5, MAX_COST)
    flagged = fitted.predict(costs, labels=classes)
    np.testing.assert_array_equal(fitted.predict(np.minimum(costs, bound), labels=classes), flagged)
    assert flagged.any()


def test_one_largest_cost_for_each_column():
    """Another number of largest costs than columns is refused, by a vote too."""
    with pytest.raises(BadInput, match=r"expected 1 largest cost\(s\), got 2"):
        ZScore().fit(BENIGN).bounds([1, 2])
    with pytest.raises(BadInput, match=r"expected 2 largest cost\(s\), got 1"):
        Vote().fit(np.stack([BENIGN, BENIGN], axis=1)).bounds([1])


@pytest.mark.parametrize("name", ["z-score", "z-score as released", "conformal"])
def test_radii_of_real_numbers(name: str):
    """From the radius on every real number up to the farthest has the verdict benign, and below it one has not."""
    scale = 1e-3
    fitted = SINGLE[name].fit(BENIGN * scale + np.random.default_rng(1).uniform(0, scale, 400))
    (radius,) = fitted.radii([1.0])
    assert radius is not None
    assert 0 < radius < 1
    draw = np.random.default_rng(2)
    beyond = np.r_[radius, np.nextafter(radius, 2), draw.uniform(radius, 1, 5000), radius + draw.uniform(0, 1e-6, 1000), 1.0]
    assert not fitted.predict(beyond).any()
    assert fitted.predict(np.linspace(radius * 0.9, radius * 0.999, 400)).any()
    assert fitted.radii([None]) == (None,)


def test_radii_of_other_detectors():
    """None where a verdict may turn anywhere, where large numbers are suspicious or columns are read jointly; a vote's are its members'."""
    real = np.random.default_rng(0).uniform(0.1, 0.4, 200)
    assert KNN(5).fit(real, real / 2).radii([1.0]) == (None,)
    assert Conformal(two_sided=True).fit(real).radii([1.0]) == (None,)
    assert Conformal().fit(np.stack([real, real], axis=1)).radii([1.0, 1.0]) == (None, None)
    vote = Vote().fit(np.stack([real, BENIGN[:200]], axis=1))
    assert vote.radii([1.0, None]) == (*ZScore().fit(real).radii([1.0]), None)
    assert ZScore(h=-9).fit(real).radii([1.0]) == (0.0,)
    with pytest.raises(BadInput, match="expected 1 largest"):
        ZScore().fit(real).radii([1.0, 2.0])
