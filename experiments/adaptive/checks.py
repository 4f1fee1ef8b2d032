"""Whether the attack of an audit is any good: indicators of attack failure, the unbounded check, twice the steps, the binarisation test."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from a2d_jax import adaptive, costs, drivers
from a2d_jax.adaptive import Finding
from a2d_jax.adaptive.attackers import ATTACKERS
from a2d_jax.classifiers import predict_by
from a2d_jax.losses import look, margin
from a2d_jax.types import Classifier
from experiments.adaptive.attackers import GAINS, GUARDED, MARGIN, TRANSPLANT, Try, at
from experiments.adaptive.detectors import COST, LEVEL
from experiments.adaptive.measured import BATCH, leads
from experiments.adaptive.study import Study, won
from experiments.adaptive.subjects import Ball

FEW = 12
"""Images on which the binarisation test is run: each is an attack of its own."""


def findings(study: Study, norm: Ball, epsilon: float) -> Sequence[Finding]:
    """All checks of the attackers of one norm, at one radius, against the detector of BIM's cost."""
    runs = {(one.attacker, one.setting): one for one in study.tries(norm, study.subject.budgets[norm])}
    ascent = runs[MARGIN, at(epsilon)]
    classifier, (_, _, x, label) = study.opened.classifier, study.parts
    examples = costs.examples(classifier, x, label, seed=study.seed)

    @jax.jit
    def gradient(classifier: Classifier, x: Any, label: Any) -> Any:
        return jax.vmap(lambda x, label: look(classifier, lambda z: margin(z, label), x)[1])(x, label)

    result, trace = adaptive.watch(ascent.attack, classifier, examples, lambda classifier, x: classifier(x))
    rise = -leads(trace, label[:, None])
    double: Any = replace(ascent.attack, max_steps=2 * int(ascent.attack.max_steps))  # pyright: ignore[reportCallIssue, reportArgumentType]
    longer = ascent._replace(attack=double, setting=at(epsilon, "twice"))
    gains = {str(gain): _won(study, norm, runs[GUARDED, at(epsilon, f"gain {gain:g}")]) for gain in GAINS}
    used = max(gains, key=lambda gain: gains[gain].mean())
    guard = runs[GUARDED, at(epsilon, f"gain {float(used):g}")]
    return [
        adaptive.unavailable_gradients(lambda x: np.asarray(gradient(classifier, x, label)), x),
        adaptive.unstable_predictions(lambda x: leads(_logits(classifier, x), label), x, draws=20),
        adaptive.silent_success(rise > 0, np.asarray(result.success)),
        adaptive.incomplete_optimisation(rise, np.asarray(result.success)),
        adaptive.unconstrained_attack_failure(_free(study, norm)),
        adaptive.twice_the_steps(_won(study, norm, ascent), _won(study, norm, longer)),
        adaptive.swept(gains, used),
        _renamed(adaptive.transfer_failure(_against_guard(study, norm, guard), gains[used]), GUARDED),
        _binarised(study, norm, epsilon),
    ]


def _logits(classifier: Classifier, x: np.ndarray) -> np.ndarray:
    """Logits `n k` in float64."""
    return predict_by(classifier, x, BATCH).astype(np.float64)


def _won(study: Study, norm: Ball, one: Try) -> np.ndarray:
    """Images that a run wins against the detector of BIM's cost."""
    detector = next(found for found in study.detectors if found.name == COST)
    return won(study, detector, study.ran(norm, one), LEVEL)


def _free(study: Study, norm: Ball) -> np.ndarray:
    """Images won with every pixel free, by the best of ascent and transplant."""
    epsilon = 1.0 if norm == "linf" else float(np.sqrt(np.prod(study.opened.x.shape[1:])))
    chosen = [one for one in study.tries(norm, (epsilon,)) if one.attacker in (MARGIN, TRANSPLANT)]
    return np.any([_won(study, norm, one) for one in chosen], axis=0)


def _against_guard(study: Study, norm: Ball, one: Try) -> np.ndarray:
    """Images that a run wins against the guarded classifier that it saw."""
    label = study.parts[3]
    logits = _logits(one.classifier, study.ran(norm, one)["x"])
    said = logits.argmax(1)
    return (said != label) & (said != logits.shape[1] - 1)


def _binarised(study: Study, norm: Ball, epsilon: float) -> Finding:
    """The test on the network without a detector, with margin ascent."""

    def attack(binary: Classifier, x: np.ndarray, label: np.ndarray) -> np.ndarray:
        ascent = ATTACKERS["margin"](norm, epsilon, study.size.steps)
        return np.asarray(drivers.attack(ascent, binary, costs.examples(binary, x, label), driver="run").x_adv)

    return adaptive.binarisation(study.opened.classifier, study.parts[2][:FEW], attack, epsilon, norm=norm)


def _renamed(finding: Finding, of: str) -> Finding:
    return replace(finding, name=f"{finding.name} ({of})")
