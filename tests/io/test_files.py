"""Outputs are refused before the work and appear complete after it."""

import os

import pytest

from a2d_jax.errors import BadInput
from a2d_jax.io.files import atomic, refuse_existing


def test_refusals(tmp_path):
    """An existing file is refused unless forced; a folder and a missing parent always."""
    path = tmp_path / "a"
    refuse_existing(path, force=False)
    path.write_text("old")
    with pytest.raises(BadInput, match="pass force=True"):
        refuse_existing(path, force=False)
    refuse_existing(path, force=True)
    with pytest.raises(BadInput, match="a file name"):
        refuse_existing(tmp_path, force=True)
    with pytest.raises(BadInput, match="create it first"):
        refuse_existing(tmp_path / "missing" / "a", force=True)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_old_file_alone(error, tmp_path):
    """An error or an interrupt half-way leaves the old content and no other file."""
    path = tmp_path / "a"
    path.write_text("old")

    def interrupted() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_success_replaces(tmp_path):
    """At the end the new content is there under the final name, with ordinary permissions, and nothing else."""
    path = tmp_path / "a"
    path.write_text("old")
    with atomic(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a"]
    (tmp_path / "b").write_text("")
    assert path.stat().st_mode == (tmp_path / "b").stat().st_mode
