"""The check of costs that every detector shares."""

import numpy as np
import pytest

from a2d_jax.detectors import KNN, SVM, Conformal, Detector, Tree, Vote, ZScore
from a2d_jax.errors import BadInput

RANDOM = np.random.default_rng(0)
BENIGN, ADVERSARIAL = RANDOM.geometric(0.01, 200), RANDOM.geometric(0.1, 200)
every_detector = pytest.mark.parametrize(
    "detector", [ZScore(), ZScore(as_released=True), Vote(1), KNN(), Conformal(), SVM(), Tree()], ids=repr
)


@every_detector
@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ([1.0, np.nan], "finite .*costs, got .nan. in row 1"),
        ([np.inf, 1.0], "finite .*costs, got .inf. in row 0"),
        (["1", "2"], "costs as numbers"),
        (np.ones((2, 2, 2)), "shape .images, attacks., got .2, 2, 2."),
        (3.0, "shape .images, attacks., got .."),
        (np.ones((5, 2)), "costs of 1 attack.s., got 2"),
    ],
)
def test_bad_costs(detector: Detector, costs: object, message: str):
    """Every fitted detector refuses what is no table of costs of its attacks, in one line."""
    with pytest.raises(BadInput, match=message) as error:
        detector.fit(BENIGN, ADVERSARIAL).predict(costs)
    assert "\n" not in str(error.value)


@every_detector
def test_contract(detector: Detector):
    """Scores rise with suspicion, verdicts are scores above the threshold, a 1-D array is one attack, and no rows are no verdicts."""
    fitted = detector.fit(BENIGN, ADVERSARIAL)
    score = fitted.score(BENIGN)
    assert score.shape == BENIGN.shape
    assert score.dtype == np.float64
    assert fitted.attacks == 1
    assert fitted.score(ADVERSARIAL).mean() > score.mean()
    np.testing.assert_array_equal(fitted.predict(BENIGN), score > fitted.threshold)
    np.testing.assert_array_equal(fitted.score(BENIGN[:, None].astype(np.float32)), score)
    assert fitted.predict(np.zeros((0, 1), int)).shape == (0,)
