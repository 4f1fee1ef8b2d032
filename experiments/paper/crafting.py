"""How the protocol crafts a set: a job of the command line, an attack without bounds on pixels, or a substitute network."""

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from a2d_jax import costs, drivers, jobs, presets, specs
from a2d_jax.inputs import class_count
from a2d_jax.io.tables import stretched
from a2d_jax.losses import look
from a2d_jax.types import Classifier
from experiments import archives, substitute
from experiments.paper.networks import DIGITS, Subject
from experiments.paper.settings import SUBSTITUTE, Crafting

if TYPE_CHECKING:
    from experiments.paper.sets import Sets

LEAST_RATE = 0.02
"""Share of successes that is expected at least, to know how many images the next try needs."""


WIDE = 1.0
"""How far pixels may leave [0, 1] in an attack without bounds: none moves one so far."""


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


def craft(sets: "Sets", subject: Subject, how: Crafting, wanted: int, split: str, name: str) -> Crafted:
    """Craft a set from the pool of a split.

    If only successes belong to it, further images of the pool are tried until there are enough.

    Args:
      sets: the networks and images of the run.
      subject: the network that is fooled.
      how: the settings.
      wanted: images, at most.
      split: of the images.
      name: of the files of the tries, without their number.
    """
    if how.attack == SUBSTITUTE:
        return _transferred(sets, subject, wanted, name)
    pool = archives.read(sets.pool(subject, split))
    x, label = pool["x"], pool["y"]
    tries: list[Crafted] = []
    begin, many = 0, wanted
    while begin < len(x) and many > 0:
        end = min(begin + many, len(x))
        one = _attack(sets, subject, how, x[begin:end], label[begin:end], f"{name}.{len(tries)}")
        tries.append(one._replace(index=one.index + begin))
        have, begin = sum(len(one.x) for one in tries), end
        many = int(np.ceil(1.1 * (wanted - have) / max(have / begin, LEAST_RATE))) if how.successes else 0
    first, *_ = tries
    joined = (np.concatenate([one[field] for one in tries])[:wanted] for field in range(len(first) - 1))
    return Crafted(*joined, tried=begin)


def _attack(sets: "Sets", subject: Subject, how: Crafting, x: np.ndarray, label: np.ndarray, name: str) -> Crafted:
    """Attack some images of the pool; their index counts from the first of them."""
    found = _unbounded(sets, subject, how, x, label) if how.unbounded else _job(sets, subject, how, x, label, name)
    kept = found.success if how.successes else np.ones(len(found.x), bool)
    return Crafted(*(column[kept] for column in found[:-1]), tried=len(x))


def _job(sets: "Sets", subject: Subject, how: Crafting, x: np.ndarray, label: np.ndarray, name: str) -> Crafted:
    images = sets.folder / f"{name}.originals.npz"
    archives.write(images, x=x, y=label)
    targeted = f"{how.attack}:targeted=true" if how.target else how.attack
    given = {"images": images, "attack": targeted, "target": how.target, "stretch": how.stretch}
    more = {"preset": subject.facts.preset, "seed": sets.seed, "lanes": sets.lanes}
    made = sets.work.once(f"{name}.attacked.npz", jobs.AttackSpec, **sets.network(subject), **given, **more)
    found = archives.read(made)
    return Crafted(found["x"], label, found["success"], np.arange(len(x)), len(x))


def _unbounded(sets: "Sets", subject: Subject, how: Crafting, x: np.ndarray, label: np.ndarray) -> Crafted:
    """Attack without bounds on pixels and stretch the result, as the second environment did."""
    classifier = sets.classifier(subject)
    (attack,) = specs.attacks(how.attack, presets.named(subject.facts.preset).crafting).values()
    if how.attack.partition(":")[0] == "fgsm":
        x_adv, reached = _away(classifier, x, label, attack.epsilon), np.ones(len(x), bool)
    else:
        goal = others(classifier, x, label, sets.seed) if how.target else label
        wide: Any = costs.examples(classifier, (x + WIDE) / (1 + 2 * WIDE), goal, index=np.arange(len(x)), seed=sets.seed)
        result = drivers.attack(in_wide(attack, bool(how.target)), substitute.widened(classifier, WIDE), wide, lanes=sets.lanes)
        x_adv, reached = np.asarray(result.x_adv), np.asarray(result.success)
    made = stretched(np.asarray(x_adv))
    return Crafted(made, label, reached & (costs.predictions(classifier, made)[0] != label), np.arange(len(x)), len(x))


def in_wide(attack: Any, targeted: bool) -> Any:
    """The same attack on images in which 0 and 1 stand for pixels of -`WIDE` and 1 + `WIDE`."""
    scale = 1 + 2 * WIDE
    own = {one.name: np.asarray(getattr(attack, one.name)) for one in fields(attack) if one.name in ("theta", "mean", "std")}
    moved = {name: tuple(((value + WIDE * (name == "mean")) / scale).ravel().tolist()) for name, value in own.items()}
    moved = {name: value if len(value) > 1 else value[0] for name, value in moved.items()}
    return replace(attack, **moved, **({"targeted": True} if targeted else {}))


def others(classifier: Classifier, x: np.ndarray, label: np.ndarray, seed: int) -> np.ndarray:
    """For each image a class other than its own, each as likely."""
    classes = class_count(classifier, x.shape[1:], "the images")
    return (label + np.random.default_rng(seed).integers(1, classes, len(label))) % classes


@jax.jit
def _away(classifier: Classifier, x: Array, label: Array, epsilon: float) -> Array:
    _, gradient = jax.vmap(lambda x, label: look(classifier, lambda logits: logits[label], x))(x, label)
    return x - epsilon * jnp.sign(gradient)


def _transferred(sets: "Sets", subject: Subject, wanted: int, name: str) -> Crafted:
    """Images that fool a substitute and the network (BB); the network answers with labels alone."""
    out = sets.folder / f"{name}.substitute"
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = substitute.Settings(
        **sets.network(subject),
        data=subject.facts.data,
        out=out,
        substitute="models.lenet:lenet_digits" if subject.network == DIGITS else "models.substitute:substitute_mnist",
        rounds=sets.size.rounds,
        images=wanted,
        seed=sets.seed,
    )
    told = substitute.main(settings, sets.console)
    found = archives.read(out / substitute.RESULT)
    unknown = np.full(len(found["x"]), -1)  # its index is a place among all images of the data set, which are not the pool
    return Crafted(found["x"], found["y"], found["success"], unknown, told["attacked"])
