"""The contract of all detectors: one table, one line per detector, including two detectors of a user's module."""

import dataclasses
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from a2d_jax.detectors import KNN, SVM, Conformal, Forest, Tree, Vote, ZScore, by_name, from_params, maker, to_params
from a2d_jax.errors import BadInput


class Row(NamedTuple):
    """A detector and what the tests must know of it."""

    detector: Any
    columns: int
    falls: bool = True  # a score never rises with a number: low ones are suspicious, high ones never


ROWS = {
    "zscore": Row(ZScore(), 1),
    "zscore as released": Row(ZScore(as_released=True), 1),
    "vote": Row(Vote(), 3),
    "vote of one, as released": Row(Vote(1, ZScore(as_released=True)), 1),
    "knn": Row(KNN(20), 1, falls=False),
    "knn, jointly": Row(KNN(20), 2, falls=False),
    "svm": Row(SVM(), 1, falls=False),
    "svm, jointly": Row(SVM(), 2, falls=False),
    "tree": Row(Tree(), 1, falls=False),
    "tree, jointly": Row(Tree(), 2, falls=False),
    "forest": Row(Forest(trees=20), 1, falls=False),
    "forest, jointly": Row(Forest(trees=20), 2, falls=False),
    "conformal": Row(Conformal(), 1),
    "conformal, jointly": Row(Conformal(), 2),
    "conformal, per class": Row(Conformal(0.2, per_class=True, seed=3), 1),
    "conformal, two-sided": Row(Conformal(0.2, two_sided=True), 2, falls=False),
}

MODULE = "detectors_of_a_user"
SOURCE = '''
"""Detectors of a user: one of plain NumPy, one with the methods that detectors of a2d_jax have in common."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from a2d_jax.detectors.base import Fitted, read_table


@dataclass(frozen=True)
class Mean:
    name: ClassVar[str] = "mean"
    needs_adversarial: ClassVar[bool] = False
    single_column: ClassVar[bool] = False
    level: float = 0.1

    def fit(self, benign, adversarial=None, *, labels=None):
        scale = np.median(read_table(benign, role="benign costs"), axis=0)
        return FittedMean(scale, float(np.quantile((-benign / scale).mean(axis=1), 1 - self.level)))


@dataclass(frozen=True)
class FittedMean:
    scale: np.ndarray
    threshold: float

    @property
    def columns(self):
        return len(self.scale)

    def score(self, x, *, labels=None, index=None):
        return (-read_table(x, self.columns) / self.scale).mean(axis=1)

    def predict(self, x, *, labels=None, index=None):
        return self.score(x) > self.threshold

    def bounds(self, max_costs):
        return (None,) * self.columns


@dataclass(frozen=True)
class Lowest:
    name: ClassVar[str] = "lowest"
    needs_adversarial: ClassVar[bool] = True
    single_column: ClassVar[bool] = True

    def fit(self, benign, adversarial=None, *, labels=None):
        if adversarial is None:
            raise ValueError("expected adversarial costs")
        read_table(benign, 1, role="benign costs")
        return FittedLowest(-float(np.median(adversarial)))


@dataclass(frozen=True)
class FittedLowest(Fitted):
    threshold: float
    columns: int = 1

    def score(self, x, *, labels=None, index=None):
        return -read_table(x, 1)[:, 0]
'''
USERS = {"a user's": ("Mean", 2), "a user's, with our methods": ("Lowest", 1)}

MAX_COST = 301
RANDOM = np.random.default_rng(0)
BENIGN = np.minimum(RANDOM.lognormal(4, 0.8, (300, 3)).astype(int) + 1, MAX_COST)
ADVERSARIAL = RANDOM.geometric(0.1, (280, 3))
LABELS = RANDOM.integers(0, 3, 300)
X = RANDOM.integers(0, MAX_COST + 1, (700, 3)) // RANDOM.integers(1, 9, (700, 1))
GIVEN = {"labels": RANDOM.integers(0, 4, 700), "index": RANDOM.integers(0, 2**63, 700)}


class Subject(NamedTuple):
    """A row of the table, fitted, with rows to judge."""

    detector: Any
    fitted: Any
    columns: int
    falls: bool
    x: np.ndarray
    plugins: tuple[str, ...]

    def judge(self, rows: Any = slice(None), x: np.ndarray | None = None) -> np.ndarray:
        """Scores of some rows, of the numbers given instead of their own."""
        return self.fitted.score(self.x[rows] if x is None else x, **{name: given[rows] for name, given in GIVEN.items()})


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of a module that can be imported, as one of a user can."""
    folder = tmp_path_factory.mktemp("user")
    (folder / f"{MODULE}.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    yield folder / f"{MODULE}.py"
    sys.path.remove(str(folder))
    sys.modules.pop(MODULE, None)


@pytest.fixture(scope="module", params=[*ROWS, *USERS])
def subject(request: pytest.FixtureRequest, module: Path) -> Subject:
    if request.param in USERS:
        name, columns = USERS[request.param]
        row, plugins = Row(getattr(__import__(MODULE), name)(), columns), (MODULE,)
    else:
        row, plugins = ROWS[request.param], ()
    some = slice(0, row.columns)
    fitted = row.detector.fit(BENIGN[:, some], ADVERSARIAL[:, some], labels=LABELS)
    return Subject(row.detector, fitted, row.columns, row.falls, X[:, some], plugins)


def test_every_detector_has_a_row():
    """Protects the table and the command line: every detector is found in its file, under the name it gives itself, and is tried here."""
    assert by_name() == {row.detector.name: type(row.detector) for row in sorted(ROWS.values(), key=lambda row: row.detector.name)}


@pytest.mark.parametrize("name", by_name())
def test_made_from_settings(name: str):
    """Protects commands: without settings a detector is its default, and every setting has a default that is a single value."""
    make = maker(by_name()[name])
    assert make() == by_name()[name]()
    assert all(isinstance(setting.default, bool | int | float | str) for setting in inspect.signature(make).parameters.values())


def test_fit_changes_nothing(subject: Subject):
    """Protects settings and fitted detectors: fitting again gives another object and leaves both as they were."""
    settings, some, score = dataclasses.replace(subject.detector), slice(0, subject.columns), subject.judge()
    again = subject.detector.fit(BENIGN[:, some] * 2, ADVERSARIAL[:, some], labels=LABELS)
    assert again is not subject.fitted
    assert subject.detector == settings
    np.testing.assert_array_equal(subject.judge(), score)


def test_what_it_says_it_reads(subject: Subject):
    """Protects callers that ask the class: it needs adversarial rows, or one column alone, exactly if it says so."""
    some = slice(0, subject.columns)
    if subject.detector.needs_adversarial:
        with pytest.raises(ValueError, match="expected adversarial costs"):
            subject.detector.fit(BENIGN[:, some], labels=LABELS)
    else:
        subject.detector.fit(BENIGN[:, some], labels=LABELS)
    if subject.detector.single_column:
        with pytest.raises(BadInput, match="column"):
            subject.detector.fit(BENIGN[:, :2], ADVERSARIAL[:, :2], labels=LABELS)
    else:
        assert subject.detector.fit(BENIGN[:, :2], ADVERSARIAL[:, :2], labels=LABELS).columns == 2


def test_scores_and_verdicts(subject: Subject):
    """Protects the verdict: it is score > threshold; scores are float64, one for each row, the same for whole numbers of any type."""
    score = subject.judge()
    assert subject.fitted.columns == subject.columns
    assert score.shape == (len(X),)
    assert score.dtype == np.float64
    flagged = subject.fitted.predict(subject.x, **GIVEN)
    assert flagged.dtype == bool
    np.testing.assert_array_equal(flagged, score > subject.fitted.threshold)
    assert 0 < flagged.mean() < 1
    np.testing.assert_array_equal(subject.judge(x=subject.x.astype(np.float32)), score)
    if subject.columns == 1:
        np.testing.assert_array_equal(subject.judge(x=subject.x[:, 0]), score)
    nothing = np.zeros(0, int)
    assert subject.fitted.predict(np.zeros((0, subject.columns), int), labels=nothing, index=nothing).shape == (0,)


def test_score_rises_with_suspicion(subject: Subject):
    """Protects the direction: adversarial rows score higher, and with low numbers suspicious none scores less for being lower."""
    some, given = slice(0, subject.columns), {name: values[:280] for name, values in GIVEN.items()}
    scores = [subject.fitted.score(rows[:280, some], **given) for rows in (BENIGN, ADVERSARIAL)]
    assert scores[1].mean() > scores[0].mean()
    if subject.falls:
        lower = np.maximum(subject.x - np.random.default_rng(1).integers(0, 30, subject.x.shape), 0)
        assert (subject.judge(x=lower) >= subject.judge()).all()


def test_row_stands_alone(subject: Subject):
    """Protects jobs in parts: a row's score does not depend, in any bit, on the rows judged with it, their order or their number."""
    score = subject.judge()
    order = np.random.default_rng(2).permutation(len(X))
    np.testing.assert_array_equal(subject.judge(order), score[order])
    np.testing.assert_array_equal(np.concatenate([subject.judge(slice(0, 300)), subject.judge(slice(300, None))]), score)
    np.testing.assert_array_equal(subject.judge(slice(5, 6)), score[5:6])


def test_classes_and_numbers_are_taken(subject: Subject):
    """Protects callers: every detector takes labels and index; those that read neither score the same whatever is given."""
    if type(subject.detector) is Conformal:
        other = subject.fitted.score(subject.x, labels=GIVEN["labels"], index=GIVEN["index"] ^ 1)
        assert (other != subject.judge()).any()
    else:
        np.testing.assert_array_equal(subject.fitted.score(subject.x), subject.judge())


def test_bounds_keep_every_verdict(subject: Subject):
    """Protects the saving: numbers cut off at the bounds have the verdicts of the whole ones."""
    bounds = subject.fitted.bounds([MAX_COST] * subject.columns)
    assert len(bounds) == subject.columns
    cut = np.minimum(subject.x, [MAX_COST if bound is None else bound for bound in bounds])
    np.testing.assert_array_equal(subject.fitted.predict(cut, **GIVEN), subject.fitted.predict(subject.x, **GIVEN))
    assert subject.fitted.bounds([None] * subject.columns) == (None,) * subject.columns


def test_same_through_json(subject: Subject):
    """Protects stored detectors: through JSON text and back, kind, score and verdict are the same to the last bit."""
    kind, params = to_params(subject.fitted)
    text = json.dumps({name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in params.items()}, allow_nan=False)
    again = from_params(kind, json.loads(text), subject.plugins)
    assert to_params(again)[0] == kind
    assert again.columns == subject.columns
    np.testing.assert_array_equal(again.score(subject.x, **GIVEN), subject.judge())
    np.testing.assert_array_equal(again.predict(subject.x, **GIVEN), subject.fitted.predict(subject.x, **GIVEN))


def test_file_imports_nothing(subject: Subject):
    """Protects against code in files: our kinds name no module, and a user's module is imported only if the user names it again."""
    kind, params = to_params(subject.fitted)
    assert kind.startswith(f"{MODULE}:") if subject.plugins else ":" not in kind
    if not subject.plugins:
        return
    was = sys.modules.pop(MODULE)
    try:
        for plugins in ((), ("json",)):
            with pytest.raises(
                BadInput,
                match=rf"expected {MODULE} to be named as a plugin, since .* needs .*, got .*; a file never imports code by itself",
            ):
                from_params(kind, params, plugins)
        assert MODULE not in sys.modules
        again = from_params(kind, params, [MODULE])
        assert MODULE in sys.modules
        np.testing.assert_array_equal(again.score(subject.x, **GIVEN), subject.judge())
    finally:
        sys.modules[MODULE] = was


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Mean", "expected .*:Mean to be the dataclass of a fitted detector, got"),
        ("Nothing", "got the name 'Nothing', which it does not have"),
        *((name, f"made in .*, got .*:{name} in .*, which is neither") for name in ("np.linalg", "dataclass", "np.ndarray", "Fitted")),
    ],
)
def test_file_chooses_among_fitted_detectors_alone(name: str, told: str, module: Path):
    """Protects against files that name something else of a trusted module: what it imported, its settings, what it does not have."""
    with pytest.raises(BadInput, match=told):
        from_params(f"{MODULE}:{name}", {"level": 0.1}, [MODULE])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1.0, np.nan], "finite .*costs, got .nan.* in row 1"),
        ([np.inf, 1.0], "finite .*costs, got .inf.* in row 0"),
        (["1", "2"], "costs as numbers"),
        (np.ones((2, 2, 2)), "shape .images, columns., got .2, 2, 2."),
        (3.0, "shape .images, columns., got .."),
        (np.ones((2, 5)), "costs of [123] column.s., got 5; give the columns"),
    ],
)
def test_bad_numbers(subject: Subject, x: Any, message: str):
    """Protects users: what is no finite table of the detector's columns is refused in one line."""
    x = np.tile(np.asarray(x)[:, None], subject.columns) if isinstance(x, list) else x
    with pytest.raises(BadInput, match=message) as error:
        subject.fitted.predict(x, labels=[0, 0], index=[0, 1])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ROWS)
def test_fitted_is_a_pytree(name: str):
    """Protects jitted callers: a fitted detector survives being taken apart and put together by JAX."""
    row, some = ROWS[name], slice(0, ROWS[name].columns)
    fitted = row.detector.fit(BENIGN[:, some], ADVERSARIAL[:, some], labels=LABELS)
    leaves, structure = jax.tree.flatten(fitted)
    np.testing.assert_array_equal(jax.tree.unflatten(structure, leaves).score(X[:, some], **GIVEN), fitted.score(X[:, some], **GIVEN))
