"""SVM, tree and forest: our evaluation of the stored arrays against scikit-learn's own predictions."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from a2d_jax.detectors import SVM, Forest, Tree
from a2d_jax.errors import BadInput


def data(kind: str, attacks: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Benign and adversarial training costs and queries: continuous, or integers with heavy ties."""
    random = np.random.default_rng([n, attacks])
    scale = np.array([500, 500, 2000, 5000])[:attacks] / (1 if kind == "continuous" else 100)
    tables = [random.gamma(shape, 0.2, (rows, attacks)) * scale for shape, rows in ((3, n), (1.5, n), (2, 700))]
    benign, adversarial, queries = tables if kind == "continuous" else [table.astype(int) for table in tables]
    return benign, adversarial, queries


every_kind = pytest.mark.parametrize(("kind", "attacks"), [("continuous", 1), ("continuous", 4), ("integers", 1), ("integers", 4)])


@every_kind
def test_svm(kind: str, attacks: int):
    """The decision function is that of SVC with default settings, and so is the verdict off its surface."""
    benign, adversarial, queries = data(kind, attacks, 150)
    oracle = SVC().fit(np.concatenate([benign, adversarial]), np.repeat([0, 1], 150))
    fitted, decision = SVM().fit(benign, adversarial), oracle.decision_function(queries)
    np.testing.assert_allclose(fitted.score(queries), decision, atol=1e-9)
    clear = abs(decision) > 1e-9
    np.testing.assert_array_equal(fitted.predict(queries)[clear], oracle.predict(queries)[clear] == 1)


@every_kind
def test_tree(kind: str, attacks: int):
    """Leaf shares and verdicts are those of DecisionTreeClassifier, also at costs that lie exactly on a split."""
    benign, adversarial, queries = data(kind, attacks, 150)
    oracle = DecisionTreeClassifier(random_state=0).fit(np.concatenate([benign, adversarial]), np.repeat([0, 1], 150))
    split = oracle.tree_.threshold[oracle.tree_.feature >= 0].astype(np.float32).astype(float)
    on_split = np.stack([np.random.default_rng(0).choice(split, 300) for _ in range(attacks)], axis=1)
    fitted = Tree().fit(benign, adversarial)
    for rows in (queries, on_split, on_split + 1e-9):  # the last: scikit-learn reads rows as float32
        np.testing.assert_allclose(fitted.score(rows), oracle.predict_proba(rows)[:, 1], atol=1e-11)
        np.testing.assert_array_equal(fitted.predict(rows), oracle.predict(rows) == 1)


@every_kind
def test_forest(kind: str, attacks: int):
    """Mean shares are those of RandomForestClassifier, and verdicts wherever the trees do not tie."""
    benign, adversarial, queries = data(kind, attacks, 100)
    oracle = RandomForestClassifier(random_state=0).fit(np.concatenate([benign, adversarial]), np.repeat([0, 1], 100))
    fitted, share = Forest().fit(benign, adversarial), oracle.predict_proba(queries)[:, 1]
    np.testing.assert_allclose(fitted.score(queries), share, atol=1e-11)
    clear = abs(share - 0.5) > 1e-9
    np.testing.assert_array_equal(fitted.predict(queries)[clear], oracle.predict(queries)[clear] == 1)


@pytest.mark.parametrize("detector", [SVM(), Tree(), Forest(trees=3)])
def test_costs_without_spread(detector: SVM | Tree | Forest):
    """Equal costs everywhere teach nothing: an even score on the threshold, which is benign."""
    fitted = detector.fit(np.full(20, 501), np.full(20, 501))
    if not isinstance(detector, Forest):  # its resampled sets are uneven
        assert not fitted.predict([501]).any()
    assert np.isfinite(fitted.score([0, 501, 5001])).all()


@pytest.mark.parametrize("detector", [SVM(), Tree(), Forest()])
def test_needs_adversarial_costs(detector: SVM | Tree | Forest):
    """Without adversarial costs there is nothing to learn."""
    with pytest.raises(BadInput, match="adversarial costs beside the benign ones"):
        detector.fit(np.arange(100))
