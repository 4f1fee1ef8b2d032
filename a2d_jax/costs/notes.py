"""Notes on a network and a set that look wrong but are not errors. They need no extra predictions.

Commands print these notes on stderr; the Python API warns with `InputWarning`. Outputs that are logarithms of probabilities get no note:
they differ from logits by one number for each image, which changes neither a class, a margin nor a cross entropy.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from a2d_jax.errors import InputWarning

SUM = 5e-3  # probabilities add up to 1 within this, also in bfloat16
FEW = 10  # labels at least from which something is concluded
MOST, SELDOM = 0.5, 0.2  # labels are shifted if so many fit after the shift, and no more than so many before


@dataclass
class Seen:
    """Facts about the predictions of a set so far."""

    classes: int = 0
    images: int = 0
    probabilities: bool = True  # all outputs lie in [0, 1] and add up to 1
    alike: bool = True  # all outputs are the same
    labelled: int = 0
    fits: dict[int, int] = field(default_factory=lambda: {0: 0, -1: 0, 1: 0})  # labels that are predicted once so much is added to them
    outside: int = 0  # labels that the classifier does not have
    outsider: int | None = None  # the first of them
    first: tuple[int, list[float]] | None = None  # fingerprint and logits of the first image
    different: bool = False  # there are images with different pixels

    def add(
        self,
        logits: Float[np.ndarray, "n k"],
        label: Int[np.ndarray, " n"],
        truth: Int[np.ndarray, " n"] | None,
        fingerprint: Int[np.ndarray, " n"],
    ) -> None:
        """Take note of some images: their outputs, predicted classes, labels if there are any, and fingerprints."""
        finite = label >= 0
        if not finite.any():
            return
        some = logits[finite]
        self.classes, self.images = logits.shape[1], self.images + len(some)
        sums = np.abs(some.sum(1) - 1) <= SUM
        self.probabilities &= bool(((some >= 0) & (some <= 1)).all() and sums.all())
        self.first = self.first or (int(fingerprint[finite][0]), [float(one) for one in some[0]])
        self.alike &= bool((some == np.asarray(self.first[1], some.dtype)).all())
        self.different |= bool((fingerprint[finite] != self.first[0]).any())
        if truth is not None:
            self.labelled += len(some)
            for shift in self.fits:
                self.fits[shift] += int((truth[finite] + shift == label[finite]).sum())
            outside = truth[(truth < 0) | (truth >= self.classes)].tolist()
            self.outside += len(outside)
            self.outsider = next(iter(outside), None) if self.outsider is None else self.outsider

    def merge(self, other: "Seen") -> None:
        """Take note of the images of another part."""
        if not other.images:
            return
        mine, theirs = self.first or other.first, other.first
        self.classes, self.images = other.classes, self.images + other.images
        self.probabilities &= other.probabilities
        self.alike &= other.alike and mine is not None and theirs is not None and mine[1] == theirs[1]
        self.different |= other.different or (mine is not None and theirs is not None and mine[0] != theirs[0])
        self.first = mine
        self.labelled += other.labelled
        self.fits = {shift: count + other.fits[shift] for shift, count in self.fits.items()}
        self.outside += other.outside
        self.outsider = other.outsider if self.outsider is None else self.outsider

    def as_json(self) -> dict[str, Any]:
        """The facts as JSON can say them."""
        return asdict(self)

    @classmethod
    def of_json(cls, facts: Mapping[str, Any]) -> "Seen":
        """The facts that `as_json` gave."""
        first = facts["first"] and (int(facts["first"][0]), list(facts["first"][1]))
        read: dict[str, Any] = {**facts, "fits": {int(shift): count for shift, count in facts["fits"].items()}, "first": first}
        return cls(**read)

    @property
    def wrong(self) -> int | None:
        """Images whose label is not predicted; None without labels."""
        return self.labelled - self.fits[0] if self.labelled else None

    def notes(self) -> list[str]:
        """What there is to say, a line each."""
        told: list[str] = []
        if self.images and self.probabilities:
            told.append(
                "the outputs of the classifier lie in [0, 1] and add up to 1, as probabilities do: attacks and costs need logits, "
                "so leave out the softmax at its end"
            )
        if self.images and self.alike and self.different:
            told.append("the classifier gives different images the same output, so no attack can change it: check its weights")
        last = self.classes - 1
        if self.outside:
            told.append(f"{self.outside} labels lie outside 0 to {last}, such as {self.outsider}: no class has this number")
        shifted = [shift for shift in (-1, 1) if self.fits[shift] >= MOST * self.labelled > 0 and self.fits[0] <= SELDOM * self.labelled]
        if self.labelled >= FEW and shifted:
            (shift, *_) = shifted
            wrong, change = ("count from 1 instead of 0", "1 is subtracted") if shift < 0 else ("be too low by 1", "1 is added")
            counts = f"{self.fits[0]} of {self.labelled} equal the predicted class, but {self.fits[shift]} do if {change}"
            told.append(f"labels seem to {wrong}: {counts}; correct them")
        elif self.labelled >= FEW and not self.fits[0]:
            told.append(
                f"none of {self.labelled} labels equals the predicted class: unless the images are adversarial, check the order of the "
                "classes, the preprocessing and the weights"
            )
        return told


def still(columns: Mapping[str, Any], good: Bool[np.ndarray, " n"]) -> int:
    """Number of images that an attack could not move: its gradient was 0, or it failed at its starting point."""
    stayed = np.asarray(columns["flat"]) | (np.asarray(columns["distance"]) == 0) & (np.asarray(columns["forward_queries"]) > 1)
    return int((stayed & ~np.asarray(columns["success"]) & good).sum())


def unmoved(name: str, count: int, good: int) -> list[str]:
    """A note on an attack that could not move `count` of `good` images."""
    if not count:
        return []
    return [
        f"{name} could not move {count} of {good} images: their gradient is zero, or no step helped; their cost is that "
        "of a failed attack and says nothing about the boundary; check that the classifier gives logits and that gradients flow through it"
    ]


def warn(notes: Sequence[str], stacklevel: int) -> None:
    """Issue notes as Python warnings; `stacklevel` as for `warnings.warn`, counted from the caller of this function."""
    for note in notes:
        warnings.warn(note, InputWarning, stacklevel=stacklevel + 1)
