"""Storage: files of earlier versions are read, detectors that could not be read again are not written, bad parameters are refused."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from a2d_jax.detectors import KNN, Conformal, FittedVote, Forest, Vote, ZScore, from_params, to_params
from a2d_jax.errors import BadInput

RANDOM = np.random.default_rng(0)
BENIGN, ADVERSARIAL, QUERIES = RANDOM.geometric(0.01, 200), RANDOM.geometric(0.05, 200), np.arange(0, 400)
STORED = json.loads((Path(__file__).parents[1] / "golden" / "detectors_stored.json").read_text())
"""Every kind as the version before decision 0041 stored it, and the scores that it gave."""


@pytest.mark.parametrize("stored", STORED, ids=lambda stored: stored["kind"])
def test_earlier_versions(stored):
    """Every kind that an earlier version wrote is read and scores as it did there, jitter of conformal detectors included."""
    fitted = from_params(stored["kind"], stored["params"])
    assert fitted.columns == stored["columns"]
    given = {name: stored[name] for name in ("labels", "index") if name in stored}
    np.testing.assert_allclose(fitted.score(stored["x"], **given), stored["score"], rtol=1e-12, atol=1e-12)
    assert to_params(fitted)[0] == stored["kind"]


def test_forest_keeps_its_trees():
    """A forest keeps all its trees."""
    fitted = Forest(trees=7).fit(BENIGN, ADVERSARIAL)
    kind, params = to_params(fitted)
    assert params["split"].shape[0] == 7
    np.testing.assert_array_equal(from_params(kind, params).score(QUERIES), fitted.score(QUERIES))


@dataclass(frozen=True)
class Named:
    """No fitted detector that can be stored: text is no number."""

    name: str = "text"


def test_what_could_not_be_read_again():
    """A class that cannot be imported, a parameter that is no number and members of two kinds are refused when written."""

    @dataclass(frozen=True)
    class Local:
        threshold: float = 0.0

    with pytest.raises(BadInput, match=r"whose class can be imported, got .*<locals>.Local.; move"):
        to_params(Local())  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="numbers as parameter name"):
        to_params(Named())  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="a dataclass"):
        to_params(np.random.default_rng(0))  # pyright: ignore[reportArgumentType]
    members = ZScore().fit(BENIGN), ZScore(as_released=True).fit(BENIGN)
    with pytest.raises(BadInput, match="members of one kind, got 'zscore, zscore-as-released'"):
        to_params(FittedVote(members, 1))


def test_what_does_not_fit():
    """Unknown kinds and parameters that are missing, extra, uneven or no numbers are refused."""
    kind, params = to_params(ZScore().fit(BENIGN))
    for unknown in ("oracle", "vote-of-oracle", "zscore-of-knn"):
        with pytest.raises(BadInput, match=r"expected a detector among .*zscore, .*got '(zscore-of-knn|oracle)'"):
            from_params(unknown, params | {"k": 1} | {name: [value] for name, value in params.items()})
    with pytest.raises(BadInput, match="expected the parameters h, shift"):
        from_params(kind, {"h": 1.0})
    with pytest.raises(BadInput, match="numbers as parameter h"):
        from_params(kind, params | {"h": "low"})
    kind, params = to_params(Vote().fit(np.stack([BENIGN, BENIGN], axis=1)))
    for change in ({"shift": [0.0]}, {"shift": 0.0}):
        with pytest.raises(BadInput, match="columns of different lengths"):
            from_params(kind, params | change)
    with pytest.raises(BadInput, match="expected k and one value"):
        from_params(kind, {name: value for name, value in params.items() if name != "k"})


@pytest.mark.parametrize("detector", [Conformal(0.01, two_sided=True, per_class=True), KNN(50)], ids=["conformal", "knn"])
def test_rows_that_repeat_are_stored_once(detector):
    """Protects files of large tables: many rows of few values take little room, and the detector read again judges as before."""
    random = np.random.default_rng(1)
    benign, adversarial, labels = random.integers(1, 9, (80_000, 2)), random.integers(0, 7, (30_000, 2)), random.integers(0, 3, 80_000)
    benign = np.concatenate([benign, benign[:40_000]])
    fitted = detector.fit(benign, adversarial, labels=np.concatenate([labels, labels[:40_000]]))
    kind, params = to_params(fitted)
    assert len(params["costs"]) < 200
    again = from_params(kind, json.loads(json.dumps({name: np.asarray(value).tolist() for name, value in params.items()})))
    known = {"labels": random.integers(0, 4, 50), "index": np.arange(50)}
    queries = random.integers(0, 10, (50, 2))
    np.testing.assert_array_equal(again.score(queries, **known), fitted.score(queries, **known))
    for count in ([], -np.ones(len(params["costs"]), int), np.full(len(params["costs"]), 2**60), np.full(len(params["costs"]), 1.5)):
        with pytest.raises(BadInput, match="parameter count"):
            from_params(kind, params | {"count": count})
