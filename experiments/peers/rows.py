"""The rows of the table: our attack with its settings, and the same attack in other libraries. A new comparison is a new row here."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from a2d_jax.attacks import (
    APGD,
    FMN,
    LBFGS,
    PGD,
    BIMSearch,
    Boundary,
    CarliniWagner,
    DeepFool,
    GradientSign,
    LocalSearch,
    bim_b,
    fgsm,
    jsma_pairs,
    pgd,
)
from a2d_jax.types import Attack
from experiments.peers.libraries import GOLDEN, Outcome, Peer, art, foolbox, foolbox_shortest, pinned, torchattacks
from experiments.peers.subject import Subject

FOOLBOX, TORCHATTACKS, ART = "Foolbox", "torchattacks", "ART"
SEEDS = 3  # of random attacks
LINF, L2 = "linf", "l2"


@dataclass(frozen=True)
class Row:
    """One attack beside its peers.

    Attributes:
      title: what is attacked with.
      attack: ours.
      peers: by library.
      minimal: it looks for the nearest image, so that its distance says something; others stay within a radius.
      seeds: runs of each, with another seed.
      note: on the budget.
      images: take these in place of the subject's own.
    """

    title: str
    attack: Attack
    peers: Mapping[str, Peer]
    minimal: bool = False
    seeds: int = 1
    note: str = ""
    images: Callable[[Subject], Subject] = lambda subject: subject

    @property
    def settings(self) -> str:
        """Numbers of our attack, which the peers take over."""
        kinds = (int, float, str)
        values = {f.name: getattr(self.attack, f.name) for f in fields(self.attack)}
        shown = [f"{name} {_short(value)}" for name, value in values.items() if type(value) in kinds]
        return ", ".join([*shown, self.note] if self.note else shown)


@dataclass(frozen=True)
class Scale:
    """How far and how long, for the images of a data set."""

    epsilon: float  # maximum norm
    step_size: float
    l2: float
    l2_step_size: float
    radii: np.ndarray  # for peers that only know a fixed radius
    cw_steps: int  # per constant
    fmn_linf_step: float  # L2 length of the first update of FMN in the maximum norm


SCALES = {
    "mnist": Scale(0.1, 0.01, 1.5, 0.1, np.arange(1, 101) / 200, 400, 10.0),
    "cifar10": Scale(1 / 255, 0.25 / 255, 0.15, 0.03, np.arange(1, 101) / 2550, 100, 1.0),
}


def rows(data: str) -> Iterator[Row]:
    """All rows for a data set."""
    s = SCALES[data]
    yield Row("FGSM", fgsm(s.epsilon), {FOOLBOX: foolbox(lambda a, ours: a.LinfFastGradientAttack(), _epsilon)})
    yield Row(
        "GradientSign",
        GradientSign(float(s.radii[-1]), 1000, 1020),
        {FOOLBOX: foolbox_shortest(lambda a, ours: a.LinfFastGradientAttack(), s.radii)},
        minimal=True,
        note=f"the peer: FGSM over {len(s.radii)} radii",
    )
    yield Row("BIM-b", bim_b(s.epsilon, s.step_size, 50), {FOOLBOX: foolbox(_pgd("LinfPGD", False), _epsilon)})
    yield Row(
        "BIM with search",
        BIMSearch(0.3 if data == "mnist" else 0.03, 0.05 if data == "mnist" else 0.005, 10, 400),
        {FOOLBOX: foolbox_shortest(lambda a, ours: a.LinfBasicIterativeAttack(rel_stepsize=1 / 6, steps=10, random_start=False), s.radii)},
        minimal=True,
        note=f"the peer: BIM over {len(s.radii)} radii",
    )
    yield Row(
        "PGD, one random start",
        pgd(s.epsilon, s.step_size, 20),
        {
            FOOLBOX: foolbox(_pgd("LinfPGD", True), _epsilon),
            TORCHATTACKS: torchattacks(lambda t, m, a, _: t.PGD(m, a.epsilon, a.step_size, _updates(a))),
        },
        seeds=SEEDS,
    )
    yield Row(
        "PGD, five random starts",
        pgd(s.epsilon, s.step_size, 20, restarts=5),
        {
            ART: art(
                lambda e, c, a: e.ProjectedGradientDescent(c, np.inf, a.epsilon, a.step_size, max_iter=20, num_random_init=5, verbose=False)
            )
        },
        seeds=SEEDS,
    )
    yield Row(
        "PGD, L2, no random start",
        PGD(s.l2, s.l2_step_size, 20, norm=L2),
        {
            FOOLBOX: foolbox(_pgd("L2PGD", False), _epsilon),
            TORCHATTACKS: torchattacks(lambda t, m, a, _: t.PGDL2(m, a.epsilon, a.step_size, a.max_steps, random_start=False)),
        },
    )
    if data == "mnist":
        # All pairs of 3072 scalars are more than a peer can hold.
        yield Row(
            "JSMA, pairs",
            jsma_pairs(targeted=True),
            {ART: art(lambda e, c, a: e.SaliencyMapMethod(c, 1.0, 77.5 / 784, batch_size=1, verbose=False), probabilities=True)},
            minimal=True,
        )
    for norm, name in ((L2, "L2DeepFoolAttack"), (LINF, "LinfDeepFoolAttack")):
        peers = {FOOLBOX: foolbox(lambda a, ours, name=name: getattr(a, name)(steps=ours.max_steps))}
        if norm == L2:
            peers[TORCHATTACKS] = torchattacks(lambda t, m, a, _: t.DeepFool(m, steps=a.max_steps, overshoot=a.overshoot))
        yield Row(f"DeepFool, {norm}", DeepFool(norm=norm), peers, minimal=True)
    for form in ("foolbox", "carlini"):
        yield Row(
            f"C&W, form of {form.capitalize()}",
            CarliniWagner(5 * s.cw_steps, s.cw_steps, first_constant=0.01, step_size=0.01, form=form),
            {FOOLBOX: foolbox(lambda a, ours: a.L2CarliniWagnerAttack(5, ours.steps_per_constant, ours.step_size, 0, ours.first_constant))},
            minimal=True,
        )
    yield Row(
        "C&W, one constant",
        CarliniWagner(s.cw_steps, s.cw_steps, constants=1, first_constant=1.0, step_size=0.01),
        {TORCHATTACKS: torchattacks(lambda t, m, a, _: t.CW(m, c=a.first_constant, steps=a.max_steps, lr=a.step_size))},
        minimal=True,
    )
    yield Row(
        "FMN, L2",
        FMN(),
        {FOOLBOX: foolbox(lambda a, ours: a.L2FMNAttack(steps=ours.max_steps))},
        minimal=True,
    )
    yield Row(
        "FMN, Linf",
        FMN(s.fmn_linf_step, norm=LINF),
        {FOOLBOX: foolbox(lambda a, ours: a.LInfFMNAttack(steps=ours.max_steps, max_stepsize=ours.step_size))},
        minimal=True,
    )
    for norm, kind, radius in ((LINF, "Linf", 1.4 * s.epsilon), (L2, "L2", 1.2 * s.l2)):
        for loss in ("ce", "dlr"):
            peer = torchattacks(
                lambda t, m, a, seed, kind=kind: t.APGD(m, norm=kind, eps=a.epsilon, steps=a.max_steps, seed=seed, loss=a.loss)
            )
            yield Row(f"APGD-{loss.upper()}, {norm}", APGD(radius, 50, norm=norm, loss=loss), {TORCHATTACKS: peer}, seeds=SEEDS)
    yield Row(
        "boundary",
        Boundary(mse_threshold=0.0, max_steps=100),
        {FOOLBOX: foolbox(lambda a, ours: a.BoundaryAttack(steps=20 * ours.max_steps, tensorboard=False))},
        minimal=True,
        seeds=SEEDS,
        note="about 20 queries an update; the peer: as many updates of one",
    )
    if data == "mnist":
        yield Row(
            "L-BFGS, whole search",
            LBFGS(),
            {"SciPy": pinned("lbfgs.npz", lambda file, _: Outcome(np.isfinite(file["closest"]), file["closest"]))},
            minimal=True,
            note="the peer in float64",
            images=_first_digits,
        )
        yield Row(
            "local search",
            LocalSearch(max_steps=40),
            {"a literal loop": pinned("local_search.npz", _local_search)},
            seeds=SEEDS,
            note="digits near the boundary",
            images=_near_digits,
        )


def _epsilon(attack: Any) -> float:
    return float(attack.epsilon)


def _updates(attack: Any) -> int:
    """Gradient steps of one run."""
    return attack.max_steps if attack.restart_every is None else attack.restart_every - 1  # less the jump to a random start


def _pgd(name: str, random_start: bool) -> Callable[[Any, Any], Any]:
    return lambda attacks, ours: getattr(attacks, name)(abs_stepsize=float(ours.step_size), steps=_updates(ours), random_start=random_start)


def _first_digits(subject: Subject) -> Subject:
    """The 24 digits of lbfgs.npz: the first of the test set, with the labels that the network gives them."""
    with np.load(GOLDEN / "gradient_attacks.npz", allow_pickle=False) as file:
        return subject.of(file["digits"])


def _near_digits(subject: Subject) -> Subject:
    with np.load(GOLDEN / "local_search.npz", allow_pickle=False) as file:
        return subject.of(file["digits"])


def _local_search(file: Any, seed: int) -> Outcome:
    success = file["rounds"][seed] <= 40
    return Outcome(success, np.where(success, file["rounds"][seed], np.inf))


def _short(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
