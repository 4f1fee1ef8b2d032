"""Attacks as state machines for one example: `init`, then `step` until done. Each file has one family."""

from a2d_jax.attacks.apgd import APGD
from a2d_jax.attacks.bim_search import BIMSearch
from a2d_jax.attacks.boundary import Boundary
from a2d_jax.attacks.carlini_wagner import CarliniWagner
from a2d_jax.attacks.cw_margin import CWMargin
from a2d_jax.attacks.deepfool import DeepFool
from a2d_jax.attacks.fmn import FMN
from a2d_jax.attacks.gradient_sign import GradientSign
from a2d_jax.attacks.jsma import JSMA
from a2d_jax.attacks.jsma_once import JSMAOnce, jsma_pairs, jsma_single
from a2d_jax.attacks.jsma_untargeted import JSMAUntargeted
from a2d_jax.attacks.lbfgs import LBFGS
from a2d_jax.attacks.local_search import LocalSearch
from a2d_jax.attacks.newton import Newton
from a2d_jax.attacks.pgd import PGD, bim, bim2, bim_b, fgsm, l2_fgsm, pgd

__all__ = [
    "APGD",
    "FMN",
    "JSMA",
    "LBFGS",
    "PGD",
    "BIMSearch",
    "Boundary",
    "CWMargin",
    "CarliniWagner",
    "DeepFool",
    "GradientSign",
    "JSMAOnce",
    "JSMAUntargeted",
    "LocalSearch",
    "Newton",
    "bim",
    "bim2",
    "bim_b",
    "fgsm",
    "jsma_pairs",
    "jsma_single",
    "l2_fgsm",
    "pgd",
]
