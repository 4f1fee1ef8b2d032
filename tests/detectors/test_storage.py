"""Storage: a detector that went through JSON judges as before; what does not fit is refused."""

import json

import jax
import numpy as np
import pytest

from a2d_jax.detectors import KNN, SVM, Conformal, Detector, Forest, Tree, Vote, ZScore, from_params, to_params
from a2d_jax.errors import BadInput

RANDOM = np.random.default_rng(0)
BENIGN, ADVERSARIAL, QUERIES = RANDOM.geometric(0.01, 200), RANDOM.geometric(0.05, 200), np.arange(0, 400)
DETECTORS: dict[str, Detector] = {
    "zscore": ZScore(),
    "zscore-as-released": ZScore(as_released=True),
    "vote-of-zscore": Vote(),
    "vote-of-zscore-as-released": Vote(1, ZScore(as_released=True)),
    "knn": KNN(20),
    "conformal": Conformal(two_sided=True, seed=3),
    "svm": SVM(),
    "trees": Tree(),
}


def tables(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One column, or two where the detector votes."""
    return (
        tuple(np.stack([t, t[::-1] + 1], axis=1) for t in (BENIGN, ADVERSARIAL, QUERIES))
        if "vote" in kind
        else (BENIGN, ADVERSARIAL, QUERIES)
    )


@pytest.mark.parametrize("kind", DETECTORS)
def test_round_trip(kind: str):
    """Through JSON text and back, kind, score and verdict are the same to the last bit."""
    benign, adversarial, queries = tables(kind)
    fitted = DETECTORS[kind].fit(benign, adversarial)
    stored, params = to_params(fitted)
    assert stored == kind
    text = json.dumps({name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in params.items()}, allow_nan=False)
    again = from_params(stored, json.loads(text))
    assert again.attacks == fitted.attacks
    np.testing.assert_array_equal(again.score(queries), fitted.score(queries))
    np.testing.assert_array_equal(again.predict(queries), fitted.predict(queries))


@pytest.mark.parametrize("kind", DETECTORS)
def test_fitted_is_a_pytree(kind: str):
    """A fitted detector survives being taken apart and put together by JAX."""
    benign, adversarial, queries = tables(kind)
    fitted = DETECTORS[kind].fit(benign, adversarial)
    leaves, structure = jax.tree.flatten(fitted)
    np.testing.assert_array_equal(jax.tree.unflatten(structure, leaves).score(queries), fitted.score(queries))


def test_forest_round_trip():
    """A forest keeps all its trees."""
    fitted = Forest(trees=7).fit(BENIGN, ADVERSARIAL)
    kind, params = to_params(fitted)
    assert params["split"].shape[0] == 7
    np.testing.assert_array_equal(from_params(kind, params).score(QUERIES), fitted.score(QUERIES))


def test_what_does_not_fit():
    """Unknown kinds and parameters that are missing, extra, uneven or no numbers are refused."""
    kind, params = to_params(ZScore().fit(BENIGN))
    with pytest.raises(BadInput, match=r"expected a detector among zscore, .*got 'oracle'"):
        from_params("oracle", params)
    with pytest.raises(BadInput, match="expected the parameters h, shift"):
        from_params(kind, {"h": 1.0})
    with pytest.raises(BadInput, match="numbers as parameter h"):
        from_params(kind, params | {"h": "low"})
    kind, params = to_params(Vote().fit(np.stack([BENIGN, BENIGN], axis=1)))
    with pytest.raises(BadInput, match="columns of different lengths"):
        from_params(kind, params | {"shift": [0.0]})
