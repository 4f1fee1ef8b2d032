"""Attacks as state machines for one example: `init`, then `step` until done. One file per family."""

from a2d_jax.attacks.boundary import Boundary
from a2d_jax.attacks.carlini_wagner import CarliniWagner
from a2d_jax.attacks.deepfool import DeepFool
from a2d_jax.attacks.jsma import JSMA
from a2d_jax.attacks.pgd import PGD, bim, bim2, fgsm, l2_fgsm

__all__ = ["JSMA", "PGD", "Boundary", "CarliniWagner", "DeepFool", "bim", "bim2", "fgsm", "l2_fgsm"]
