"""Notes on a network and a set that look wrong but are not errors. They need no extra predictions.

Commands print these notes on stderr; the Python API warns with `InputWarning`. Outputs that are logarithms of probabilities get no note:
they differ from logits by one number for each image, which changes neither a class, a margin nor a cross entropy.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from a2d_jax.errors import InputWarning
from a2d_jax.types import AttackResult

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
    outside: list[int] = field(default_factory=list)  # labels that the classifier does not have
    _first: tuple[int, np.ndarray] | None = None  # fingerprint and logits of the first image
    _different: bool = False  # there are images with different pixels

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
        self._first = self._first or (int(fingerprint[finite][0]), some[0])
        self.alike &= bool((some == self._first[1]).all())
        self._different |= bool((fingerprint[finite] != self._first[0]).any())
        if truth is not None:
            self.labelled += len(some)
            for shift in self.fits:
                self.fits[shift] += int((truth[finite] + shift == label[finite]).sum())
            self.outside += truth[(truth < 0) | (truth >= self.classes)].tolist()

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
        if self.images and self.alike and self._different:
            told.append("the classifier gives different images the same output, so no attack can change it: check its weights")
        last = self.classes - 1
        if self.outside:
            told.append(f"{len(self.outside)} labels lie outside 0 to {last}, such as {self.outside[0]}: no class has this number")
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


def unmoved(name: str, result: AttackResult, good: Bool[np.ndarray, " n"]) -> list[str]:
    """A note on an attack that could not move some images: its gradient was 0, or it failed at its starting point."""
    still = np.asarray(result.flat) | (np.asarray(result.distance) == 0) & (np.asarray(result.forward_queries) > 1)
    count = int((still & ~np.asarray(result.success) & good).sum())
    if not count:
        return []
    return [
        f"{name} could not move {count} of {int(good.sum())} images: their gradient is zero, or no step helped; their cost is that "
        "of a failed attack and says nothing about the boundary; check that the classifier gives logits and that gradients flow through it"
    ]


def warn(notes: Sequence[str], stacklevel: int) -> None:
    """Issue notes as Python warnings; `stacklevel` as for `warnings.warn`, counted from the caller of this function."""
    for note in notes:
        warnings.warn(note, InputWarning, stacklevel=stacklevel + 1)
