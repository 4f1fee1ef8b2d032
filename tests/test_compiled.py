"""The compiled programs of a command are kept for the next command."""

import os
import subprocess
import sys

import numpy as np
import pytest


@pytest.mark.slow
def test_compiled_programs_are_kept_where_the_user_says(tmp_path):
    """A command writes compiled programs under the user's cache folder, or under the named one, or nowhere; results are the same."""
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((3, 28, 28, 1), np.float32))
    arguments = ["cost", "--classifier", "models.lenet:lenet5", "--images", str(tmp_path / "x.npz"), "--attacks", "bim", "--max-steps", "3"]
    plain = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    told = {}
    for name, settings in {
        "default": {"XDG_CACHE_HOME": str(tmp_path / "home")},
        "again": {"XDG_CACHE_HOME": str(tmp_path / "home")},
        "off": {"XDG_CACHE_HOME": str(tmp_path / "none"), "JAX_COMPILATION_CACHE_DIR": ""},
    }.items():
        out = [str(tmp_path / f"{name}.parquet"), "--json"]
        command = [sys.executable, "-m", "a2d_jax.cli", *arguments, "--out", *out]
        done = subprocess.run(command, env=plain | settings, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        told[name] = done.stdout.replace(name, "")
    assert list((tmp_path / "home" / "a2d-jax" / "compiled").glob("jit*"))
    assert not (tmp_path / "none").exists()
    assert told["default"] == told["again"] == told["off"]
