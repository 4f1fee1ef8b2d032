"""K-NN: the votes of scikit-learn without ties, and with ties a rule that does not depend on the order."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from a2d_jax.detectors import KNN
from a2d_jax.errors import BadInput


@pytest.mark.parametrize(("attacks", "k"), [(1, 1), (1, 100), (4, 7), (4, 100)])
def test_scikit_learn(attacks: int, k: int):
    """Without ties the share of votes and the verdict are scikit-learn's, for one attack and for unscaled vectors."""
    random = np.random.default_rng(k)
    scale = np.array([500, 500, 2000, 5000])[:attacks]
    benign, adversarial = random.gamma(3, 0.1, (300, attacks)) * scale, random.gamma(1, 0.1, (200, attacks)) * scale
    queries = random.gamma(2, 0.1, (600, attacks)) * scale
    oracle = KNeighborsClassifier(k).fit(np.concatenate([benign, adversarial]), np.repeat([0, 1], [300, 200]))
    fitted = KNN(k).fit(benign, adversarial)
    np.testing.assert_allclose(fitted.score(queries), oracle.predict_proba(queries)[:, 1], atol=1e-12)
    np.testing.assert_array_equal(fitted.predict(queries), oracle.predict(queries) == 1)


def by_hand(benign: np.ndarray, adversarial: np.ndarray, query: np.ndarray, k: int) -> Fraction:
    """The rule in exact arithmetic: full votes within the k-th distance, equal parts of the rest at it."""
    distance = [(int(((row - query) ** 2).sum()), suspicious) for rows, suspicious in ((benign, 0), (adversarial, 1)) for row in rows]
    farthest = sorted(distance)[k - 1][0]
    nearer = [suspicious for d, suspicious in distance if d < farthest]
    level = [suspicious for d, suspicious in distance if d == farthest]
    return (sum(nearer) + Fraction((k - len(nearer)) * sum(level), len(level))) / k


@pytest.mark.parametrize("attacks", [1, 2])
def test_ties_share_votes(attacks: int):
    """On integers with massive ties the share equals the rule in exact fractions, and exactly half is benign."""
    random = np.random.default_rng(3)
    benign, adversarial = random.integers(1, 8, (60, attacks)), random.integers(0, 6, (60, attacks))
    queries, k = random.integers(0, 9, (80, attacks)), 20
    fitted = KNN(k).fit(benign, adversarial)
    expected = [by_hand(benign, adversarial, query, k) for query in queries]
    np.testing.assert_allclose(fitted.score(queries), [float(share) for share in expected], atol=1e-15)
    np.testing.assert_array_equal(fitted.predict(queries), [share > Fraction(1, 2) for share in expected])


def test_half_is_benign():
    """50:50 is benign, with and without ties."""
    assert not KNN(2).fit([1], [3]).predict([2, 0]).any()
    assert not KNN(3).fit([2, 2, 2], [2, 2, 2]).predict([2, 5]).any()


def test_order_of_training_rows():
    """Shuffling the training set changes no score, however many rows tie."""
    random = np.random.default_rng(4)
    benign, adversarial, queries = random.integers(0, 6, 200), random.integers(0, 4, 200), np.arange(8)
    shuffled = KNN(30).fit(random.permutation(benign), random.permutation(adversarial))
    np.testing.assert_array_equal(KNN(30).fit(benign, adversarial).score(queries), shuffled.score(queries))


def test_large_costs_are_exact():
    """Squared distances of DBA-sized costs, which float32 would round, still tie exactly."""
    benign, adversarial = np.array([[5001, 1]]), np.array([[1, 5001]])
    assert KNN(1).fit(benign, adversarial).score([[2501, 2501], [2501, 2500], [2500, 2501]]).tolist() == [0.5, 0, 1]


def test_what_cannot_be_fitted():
    """No adversarial costs, too few rows and unequal numbers of attacks are refused."""
    with pytest.raises(BadInput, match="adversarial costs beside the benign ones, got none"):
        KNN().fit(np.ones(200))
    with pytest.raises(BadInput, match="at least k = 100 training rows, got 99"):
        KNN().fit(np.ones(50), np.ones(49))
    with pytest.raises(BadInput, match="adversarial costs of 2 column"):
        KNN(1).fit(np.ones((5, 2)), np.ones((5, 3)))
    with pytest.raises(ValueError, match="k of at least 1"):
        KNN(0)


@pytest.mark.parametrize("k", [1, 20, 3000])
def test_many_rows_that_repeat(k: int):
    """Protects large tables: rows that repeat are looked at once, with their number, and vote as all of them would."""
    random = np.random.default_rng(5)
    benign, adversarial, queries = random.integers(3, 12, (2000, 2)), random.integers(0, 9, (1500, 2)), random.integers(0, 14, (40, 2))
    expected = [float(by_hand(benign, adversarial, query, k)) for query in queries]
    np.testing.assert_allclose(KNN(k).fit(benign, adversarial).score(queries), expected, atol=1e-15)
