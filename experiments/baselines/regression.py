"""Logistic regression on a few scaled features of images, with the strength of its penalty chosen by cross validation."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from threadpoolctl import threadpool_limits  # scikit-learn requires it

from a2d_jax.errors import require

FOLDS = 5
STRENGTHS = np.logspace(-4, 4, 10)


@dataclass(frozen=True, eq=False)
class Regression:
    """A fitted regression.

    Attributes:
      scaler: fitted scaling of the features.
      model: fitted regression on scaled features.
    """

    scaler: StandardScaler | MinMaxScaler
    model: LogisticRegression

    def score(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Log odds of rows. A row's does not depend on the others, as it would in the last bit of a matrix product."""
        return (self.scaler.transform(features) * self.model.coef_).sum(1) + self.model.intercept_[0]


class Features(Protocol):
    """A detector that makes a row of features of each image."""

    def features(self, x: Float[Any, "n h w c"]) -> Float[np.ndarray, "n d"]:
        """Features of images.

        Raises:
          BadInput: no images, or images of another shape or type, outside [0, 1] or NaN.
        """
        ...


@dataclass(frozen=True, eq=False)
class FittedRegression:
    """A detector whose features a regression reads: the fitted form of BL1 and BL2.

    Attributes:
      detector: makes the features.
      regression: reads them.
    """

    detector: Features
    regression: Regression

    def score(self, x: Float[Any, "n h w c"]) -> Float[np.ndarray, " n"]:
        """Log odds that each image is adversarial.

        Raises:
          BadInput: as `features`.
        """
        return self.regression.score(self.detector.features(x))


def regression(scaler: StandardScaler | MinMaxScaler, negative: Float[np.ndarray, "n d"], positive: Float[np.ndarray, "m d"]) -> Regression:
    """Fit a regression to rows: what scikit-learn's `LogisticRegressionCV` finds with its defaults.

    The search is written out because the arguments and attributes of that class change from release to release.

    Args:
      scaler: fitted scaling.
      negative: features of images that are not adversarial.
      positive: features of adversarial images.

    Raises:
      BadInput: fewer rows of a kind than folds.
    """
    fewest = min(len(negative), len(positive))
    require(fewest >= FOLDS, f"at least {FOLDS} benign and adversarial images to fit a logistic regression", fewest, "give more images")
    search = GridSearchCV(LogisticRegression(max_iter=10_000), {"C": STRENGTHS}, cv=FOLDS)
    rows, which = np.concatenate([negative, positive]), np.arange(len(negative) + len(positive)) >= len(negative)
    with threadpool_limits(1):  # products so small are slower on several threads, eight times so on a busy machine
        return Regression(scaler, search.fit(scaler.transform(rows), which).best_estimator_)
