"""The work on one network: images, runs of the attackers, numbers of what they made, each a step that is made once.

OUT/NAME/unbounded.npz               full costs of the benign images by which detectors are fitted: they say where BIM may stop
OUT/NAME/benign.npz                  numbers of benign images, by which detectors are fitted and false positives are checked
OUT/NAME/crafted.npz                 numbers of images crafted without a thought of the detector, from which K-NN learns
OUT/NAME/NORM/ATTACKER SETTING.npz   attacked images, whether they fool, their distance, and the numbers of those that do
OUT/NAME/NORM-DETECTOR.json          the audit
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from a2d_jax import costs, drivers, presets
from a2d_jax.adaptive import Audit, audit, operating_point
from a2d_jax.adaptive.audit import LEVELS
from a2d_jax.adaptive.starts import transplanted
from experiments.adaptive import attackers, measured
from experiments.adaptive.attackers import Known, Try
from experiments.adaptive.detectors import COST, Detector, detectors, threshold
from experiments.adaptive.measured import Numbers
from experiments.adaptive.subjects import Ball, Opened, Subject
from experiments.work import Work

HIGHEST = 0.1
"""The highest rate of false positives that is judged."""
EMPTY = ("bim", "newton", "newton_l2", "margin", "curvature", "noise", "agrees")


class Size(NamedTuple):
    """Numbers of images and updates.

    Attributes:
      time: about how long it takes.
      calibration: benign images by which detectors are fitted, and as many for the check of their rates.
      images: that are attacked.
      steps: updates of the attacks.
    """

    time: str
    calibration: int
    images: int
    steps: int


SIZES: Mapping[str, Size] = {
    "tiny": Size("a minute or two", 40, 12, 10),
    "small": Size("an hour of 2 cores", 60, 16, 16),
    "cpu": Size("three hours of 2 cores", 100, 40, 20),
    "full": Size("hours of an accelerator", 500, 500, 100),
}


@dataclass(frozen=True)
class Study:
    """One network, open."""

    work: Work
    name: str
    subject: Subject
    opened: Opened
    size: Size
    seed: int = 0
    lanes: int | None = None

    @property
    def preset(self) -> str:
        """Settings of the attacks."""
        return self.subject.network.preset

    def many(self, images: int) -> int:
        """Images that this network takes of a number of the size."""
        return max(round(images * self.subject.share), 4)

    @cached_property
    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Images to fit, images to check, images to attack, and the labels of the last."""
        x, label = self.opened.x, self.opened.label
        attacked = min(self.many(self.size.images), len(x) // 3)
        fitted = min(self.many(2 * self.size.calibration), (len(x) - attacked) // 2)
        order = np.random.default_rng(self.seed).permutation(len(x))
        mine, fit, check = np.split(order[: attacked + 2 * fitted], [attacked, attacked + fitted])
        return x[fit], x[check], x[mine], label[mine]

    def arrays(self, name: str, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, np.ndarray]:
        """Arrays of this network, computed unless they are there."""
        return self.work.arrays(f"{self.name}/{name}.npz", make)

    def numbers(self, x: np.ndarray) -> Numbers:
        """What detectors read of images."""
        return measured.numbers(self.opened, x, self.preset, self.bound, self.seed)

    @cached_property
    def bound(self) -> int:
        """Updates after which BIM stops: an image that costs more than the highest threshold is accepted anyway."""
        bim: Any = presets.make(self.preset, "defence", "bim")

        def make() -> dict[str, Any]:
            examples = costs.examples(self.opened.classifier, self.parts[0])
            return {"cost": drivers.attack(bim, self.opened.classifier, examples, lanes=self.lanes).cost}

        cost = np.sort(self.arrays("unbounded", make)["cost"])
        return min(int(cost[int(HIGHEST * (len(cost) + 1))]), int(bim.max_steps))

    @cached_property
    def benign(self) -> tuple[Numbers, Numbers]:
        """Numbers of the benign images: to fit, and to check."""
        found = self.arrays("benign", lambda: self.numbers(np.concatenate(self.parts[:2])))
        cut = len(self.parts[0])
        return {key: values[:cut] for key, values in found.items()}, {key: values[cut:] for key, values in found.items()}

    @cached_property
    def crafted(self) -> Numbers:
        """Numbers of images that FGSM and BIM made of benign ones, without a thought of the detector."""

        def make() -> Mapping[str, Any]:
            x, found = self.parts[1], []
            examples = costs.examples(self.opened.classifier, x)
            for attack in ("fgsm", "bim"):
                result = drivers.attack(presets.make(self.preset, "crafting", attack), self.opened.classifier, examples, lanes=self.lanes)
                found.append(np.asarray(result.x_adv)[np.asarray(result.success)])
            return self.numbers(np.concatenate(found))

        return self.arrays("crafted", make)

    @cached_property
    def detectors(self) -> Sequence[Detector]:
        """The detectors of this network."""
        bim: Any = presets.make(self.preset, "defence", "bim")
        return detectors(self.opened, self.benign[0], self.crafted, float(bim.step_size))

    @cached_property
    def known(self) -> Known:
        """What attackers know."""
        benign = self.benign[0]
        rules = {one.name: one for one in self.detectors}
        cost = rules[COST]
        points = [operating_point(cost.score(benign), level, radius=cost.radius) for level in LEVELS]
        tolls = sorted({point.rho for point in points if point.rho})
        return Known(threshold(-benign["newton"]), float(np.median(benign["margin"])), rules, self.subject.ranks, tolls)

    def chosen(self, norm: Ball) -> float:
        """The radius of the checks: that of the target, or the middle one."""
        budgets = self.subject.budgets[norm]
        return next((target.epsilon for target in self.subject.targets if target.norm == norm), budgets[len(budgets) // 2])

    def tries(self, norm: Ball, budgets: Sequence[float]) -> Sequence[Try]:
        """What attackers run at some radii."""
        most = self.chosen(norm) if self.subject.compared else None
        return list(attackers.tries(self.opened, self.known, norm, budgets, self.size.steps, most))

    def ran(self, norm: Ball, one: Try, first: int | None = None) -> Mapping[str, np.ndarray]:
        """What a run made: `fooled`, `distance`, and the numbers of every image, NaN where it does not fool.

        Args:
          norm: of the distance.
          one: the run.
          first: attack the first images only; the setting of the run must say so.
        """

        def make() -> Mapping[str, Any]:
            _, check, x, label = self.parts
            x, label = x[:first], label[:first]
            examples = costs.examples(one.classifier, x, label, seed=self.seed)
            if one.rank is not None:
                classes = costs.predictions(self.opened.classifier, check)[0]
                examples = transplanted(examples, check, classes, epsilon=one.epsilon, norm=norm, rank=one.rank)
            made = np.asarray(drivers.attack(one.attack, one.classifier, examples, lanes=self.lanes).x_adv)
            fooled = costs.predictions(self.opened.classifier, made)[0] != label
            return {"x": made, **self.judged(made, x, fooled, norm, one.judged)}

        setting = f" {one.setting}" if one.setting else ""
        return self.arrays(f"{norm}/{one.attacker}{setting}".replace(":", ","), make)

    def judged(self, made: np.ndarray, x: np.ndarray, fooled: np.ndarray, norm: Ball, judge: bool) -> Mapping[str, np.ndarray]:
        """Distances of attacked images, and their numbers if they are judged."""
        found: dict[str, np.ndarray] = {"fooled": fooled, "distance": measured.lengths(made - x, norm)}
        seen = fooled & judge
        numbers = self.numbers(made[seen]) if seen.any() else {}
        for key in (*EMPTY, *(["magnet"] if self.opened.autoencoders else [])):
            shape = (2,) if key == "magnet" else ()
            found[key] = np.full((len(x), *shape), np.nan)
            if seen.any():
                found[key][seen] = numbers[key]
        return found

    def runs(self, norm: Ball) -> Mapping[str, list[Mapping[str, np.ndarray]]]:
        """All runs of each attacker."""
        found: dict[str, list[Mapping[str, np.ndarray]]] = {}
        for one in self.tries(norm, self.subject.budgets[norm]):
            found.setdefault(one.attacker, []).append(self.ran(norm, one))
        return found

    def audited(self, norm: Ball, detector: Detector) -> Audit:
        """The audit of one detector against all attackers in one norm."""
        runs = self.runs(norm)
        most, count = max(map(len, runs.values())), len(self.parts[2])
        fooled = np.zeros((count, len(runs), most), bool)
        score, distance = np.zeros(fooled.shape), np.zeros(fooled.shape)
        for column, results in enumerate(runs.values()):
            for row, one in enumerate(results):
                fooled[:, column, row] = one["fooled"]
                score[:, column, row] = scores(detector, one)
                distance[:, column, row] = one["distance"]
        fit, check = self.benign
        made = audit(
            f"{self.name}, {detector.name}, {norm}",
            *(detector.score(fit), fooled, score, distance),
            attackers=list(runs),
            budgets=self.subject.budgets[norm],
            fresh=detector.score(check),
            radius=detector.radius,
        )
        path = Path(self.work.steps.folder / self.name / f"{norm}-{detector.name.replace(':', ',')}.json")
        made.write(path, force=True)
        return made


def scores(detector: Detector, made: Mapping[str, np.ndarray]) -> np.ndarray:
    """A detector's scores `n` of attacked images; infinite, the most suspicious, where the image does not fool or was not judged."""
    found, judged = np.full(len(made["fooled"]), np.inf), ~np.isnan(made["bim"])
    if judged.any():
        found[judged] = detector.score({key: values[judged] for key, values in made.items() if key not in ("x", "fooled")})
    return found


def won(study: Study, detector: Detector, made: Mapping[str, np.ndarray], level: float) -> np.ndarray:
    """Attacked images `n` that fool the classifier and that the detector accepts."""
    cut = operating_point(detector.score(study.benign[0]), level).threshold
    return made["fooled"] & (scores(detector, made) <= (np.inf if cut is None else cut))
