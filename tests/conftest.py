"""What every test shares: strict JAX settings, several CPU devices, and the data that lies beside the checkout."""

import os
import pathlib

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")  # before JAX starts: sharding is tested on virtual devices

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder with real checkpoints, golden costs and specifications beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no folder `shared` beside the checkout: checks against the full reference data need it")
    return SHARED
