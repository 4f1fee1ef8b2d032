"""How the protocol crafts a set: a job of the command line, FGSM that leaves the bounds, or a substitute network."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from a2d_jax import costs, drivers, jobs
from a2d_jax.attacks import fgsm
from a2d_jax.io.tables import stretched
from experiments import substitute
from experiments.paper.networks import DIGITS, Subject
from experiments.paper.settings import SUBSTITUTE, Crafting

if TYPE_CHECKING:
    from experiments.paper.study import Study

LEAST_RATE = 0.02
"""Share of successes that is expected at least, to know how many images the next try needs."""


class Crafted(NamedTuple):
    """A set of adversarial images.

    Attributes:
      x: `n h w c` in [0, 1].
      label: true classes.
      success: they fool the network.
      index: position in the pool; -1 if it is not known.
      tried: images that were attacked for them.
    """

    x: np.ndarray
    label: np.ndarray
    success: np.ndarray
    index: np.ndarray
    tried: int


def craft(study: "Study", subject: Subject, how: Crafting, split: str, name: str) -> Crafted:
    """Craft a set from the pool of a split.

    If only successes belong to it, further images of the pool are tried until there are enough.

    Args:
      study: the protocol.
      subject: the network that is fooled.
      how: the settings.
      split: of the images.
      name: of the files of the tries, without their number.
    """
    if how.attack == SUBSTITUTE:
        return _transferred(study, subject, name)
    with np.load(study.pool(subject, split), allow_pickle=False) as file:
        x, label = file["x"], file["y"]
    wanted, tries = study.images(subject), list[Crafted]()
    begin, many = 0, wanted
    while begin < len(x) and many > 0:
        end = min(begin + many, len(x))
        one = _attack(study, subject, how, x[begin:end], label[begin:end], f"{name}.{len(tries)}")
        tries.append(one._replace(index=one.index + begin))
        have, begin = sum(len(one.x) for one in tries), end
        many = int(np.ceil(1.1 * (wanted - have) / max(have / begin, LEAST_RATE))) if how.successes else 0
    first, *_ = tries
    joined = (np.concatenate([one[field] for one in tries])[:wanted] for field in range(len(first) - 1))
    return Crafted(*joined, tried=begin)


def _attack(study: "Study", subject: Subject, how: Crafting, x: np.ndarray, label: np.ndarray, name: str) -> Crafted:
    """Attack some images of the pool; their index counts from the first of them."""
    found = _widened(study, subject, how, x, label) if how.border else _job(study, subject, how, x, label, name)
    kept = found.success if how.successes else np.ones(len(found.x), bool)
    return Crafted(*(column[kept] for column in found[:-1]), tried=len(x))


def _job(study: "Study", subject: Subject, how: Crafting, x: np.ndarray, label: np.ndarray, name: str) -> Crafted:
    images = study.folder / f"{name}.originals.npz"
    np.savez(images, x=x, y=label)
    targeted = f"{how.attack}:targeted=true" if how.target else how.attack
    given = {"images": images, "attack": targeted, "target": how.target, "stretch": how.stretch}
    more = {"preset": subject.facts.preset, "seed": study.seed, "lanes": study.lanes}
    made = study.work.once(f"{name}.attacked.npz", jobs.AttackSpec, **study.network(subject), **given, **more)
    with np.load(made, allow_pickle=False) as file:
        return Crafted(file["x"], label, file["success"], np.arange(len(x)), len(x))


def _widened(study: "Study", subject: Subject, how: Crafting, x: np.ndarray, label: np.ndarray) -> Crafted:
    """FGSM whose pixels may leave [0, 1], as the second environment stored it: stretched to 8 bits."""
    classifier, border = study.classifier(subject), how.border
    wide: Any = costs.examples(classifier, (x + border) / (1 + 2 * border), label)
    result = drivers.attack(fgsm(border / (1 + 2 * border)), substitute.widened(classifier, border), wide, lanes=study.lanes)
    made = stretched(np.asarray(result.x_adv))
    return Crafted(made, label, costs.predictions(classifier, made)[0] != label, np.arange(len(x)), len(x))


def _transferred(study: "Study", subject: Subject, name: str) -> Crafted:
    """Images that fool a substitute and the network (BB); the network answers with labels alone."""
    settings = substitute.Settings(
        **study.network(subject),
        data=subject.facts.data,
        out=study.folder / f"{name}.substitute",
        substitute="models.lenet:lenet_digits" if subject.network == DIGITS else "models.substitute:substitute_mnist",
        rounds=study.size.rounds,
        images=study.images(subject),
        seed=study.seed,
    )
    told = substitute.main(settings, study.console)
    with np.load(settings.out / substitute.RESULT, allow_pickle=False) as file:
        return Crafted(file["x"], file["y"], file["success"], file["index"], told["attacked"])
