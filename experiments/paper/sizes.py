"""How large the experiments are: one size for a test of seconds, others for hours."""

from collections.abc import Mapping
from dataclasses import dataclass

from a2d_jax.robustness import Clever

OTHERS = "others"


@dataclass(frozen=True)
class Size:
    """Numbers of images and repetitions.

    Attributes:
      time: about how long all items take, and where.
      images: benign images, and images of each set, by network.
      learning: images of the training set that detectors learn from, benign and of each set, at most.
      slow: images crafted by an attack of hundreds of queries an image, by network; 0 leaves these sets out.
      slowest: images under DBA, which needs up to a hundred thousand queries for each, by network; 0 leaves it out.
      timed: images of each set that are attacked alone, to time one image.
      clever: images of each set with CLEVER scores.
      score: settings of CLEVER.
      mutants: of mutation testing, by network.
      training: training images that baselines learn from, by network; 0 where there are none.
      pairs: pairs of an image and a target under C&W with confidence, by network. Figure 9 shows the second for `cifar-standard`.
      confidence_steps: updates of that C&W for each of its constants.
      rounds: of the substitute.
    """

    time: str
    images: Mapping[str, int]
    learning: int
    slow: Mapping[str, int]
    slowest: Mapping[str, int]
    timed: int
    clever: int
    score: Clever
    mutants: Mapping[str, int]
    training: Mapping[str, int]
    pairs: Mapping[str, int]
    confidence_steps: int
    rounds: int

    def of(self, numbers: Mapping[str, int], network: str) -> int:
        """The number of a network."""
        return numbers.get(network, numbers[OTHERS])


SIZES: Mapping[str, Size] = {
    "tiny": Size(
        time="two minutes of 2 cores",
        images={OTHERS: 40},
        learning=40,
        slow={OTHERS: 20},
        slowest={OTHERS: 20},
        timed=2,
        clever=4,
        score=Clever(batches=10, samples=16),
        mutants={OTHERS: 20},
        training={OTHERS: 600},
        pairs={OTHERS: 10},
        confidence_steps=600,
        rounds=2,
    ),
    "small": Size(
        time="an hour of 2 cores",
        images={"lenet5": 300, "lenet-env1": 200, "lite0": 40, OTHERS: 80},
        learning=100,
        slow={"lenet5": 60, "lenet-env1": 30, "lite0": 0, OTHERS: 20},
        slowest={"lenet5": 30, "lenet-env1": 20, OTHERS: 0},
        timed=5,
        clever=5,
        score=Clever(batches=20, samples=32),
        mutants={"lenet5": 100, "digits": 100, OTHERS: 20},
        training={"lite0": 0, OTHERS: 5000},
        pairs={"carlini": 20, "convnet-env1": 4, "cifar-standard": 2, OTHERS: 6},
        confidence_steps=1000,
        rounds=4,
    ),
    "cpu": Size(
        time="a night of 2 cores",
        images={"lenet5": 1000, "lenet-env1": 1000, "lite0": 111, OTHERS: 200},
        learning=200,
        slow={"lite0": 20, OTHERS: 200},
        slowest={"lenet5": 200, "lenet-env1": 200, "lite0": 0, OTHERS: 20},
        timed=20,
        clever=20,
        score=Clever(batches=50, samples=64),
        mutants={"lenet5": 500, "digits": 500, OTHERS: 100},
        training={"lite0": 0, OTHERS: 60000},
        pairs={"carlini": 90, "cifar-adversarial": 90, "cifar-standard": 2, OTHERS: 30},
        confidence_steps=1000,
        rounds=6,
    ),
    "full": Size(
        time="hours of an accelerator",
        images={OTHERS: 1000},
        learning=1000,
        slow={OTHERS: 1000},
        slowest={OTHERS: 1000},
        timed=100,
        clever=100,
        score=Clever(),
        mutants={OTHERS: 500},
        training={OTHERS: 60000},
        pairs={"cifar-standard": 2, OTHERS: 90},
        confidence_steps=10000,
        rounds=6,
    ),
}
