"""A disk that fills up in the middle of a large job: one line, finished parts stay, and the same command ends it after room is made."""

import re
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest

from a2d_jax.cli import main


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 kB, and what makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", place], check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system needs rights that this user does not have")
    try:
        yield place, lambda: subprocess.run(["mount", "-o", "remount,size=50m", place], check=True)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk(small_disk, tmp_path, capsys):
    """Protects finished work: no unit is half there, the message says what to do, and nothing is measured twice."""
    disk, enlarge = small_disk
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((400, 8, 8, 1), np.float32))

    def cost(out):
        given = ["--classifier", "tests.nets:convnet", "--images", tmp_path / "x.npz", "--attacks", "bim:max_steps=5", "--part", 8]
        return main([*map(str, ["cost", *given, "--out", out])])

    assert cost(disk / "c.parquet") == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"a2d: error: expected room for the output [^\n]+ free some space, or choose another place\n", said)
    units = {path: path.stat().st_mtime_ns for path in disk.rglob("part-*.parquet")}
    assert 20 < len(units) < 100
    for path in units:
        assert len(pq.read_table(path)) == 8
    enlarge()
    assert cost(disk / "c.parquet") == 0
    assert cost(tmp_path / "alone.parquet") == 0
    assert pq.read_table(disk / "c.parquet").equals(pq.read_table(tmp_path / "alone.parquet"))
    assert not list(disk.rglob("*.tmp"))
