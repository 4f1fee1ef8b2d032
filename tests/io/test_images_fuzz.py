"""Any bytes under any name give images, errors of rows or `BadInput`: never another exception, never a hang, never code run."""

import contextlib
import pathlib
import shutil
import tempfile
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from a2d_jax.errors import BadInput
from a2d_jax.io.images import open_images
from a2d_jax.io.pixels import Background, decoded
from tests.io.test_images import KINDS, write
from tests.io.test_pixels import RGB, TRANSPARENT, encoded, sixteen, two

QUICK = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = ["x.npz", "x.npy", "x.parquet", "x.bin", "x-images-idx3-ubyte", "x.gz", "x", "set/0/a.png", "set/labels.csv"]
SEEDS = [
    *TRANSPARENT.values(),
    sixteen(6, np.dstack([RGB, RGB[..., 0]])),
    *(encoded(RGB, form) for form in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM")),
    *(two(form) for form in ("PNG", "GIF", "TIFF", "WEBP", "MPO")),
]
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6)


def changed(data: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """The bytes with some of them exchanged, and without the last ones."""
    new = bytearray(data)
    for place, value in changes if new else ():
        new[place % len(new)] = value
    return bytes(new[: len(new) - cut % (len(new) + 1)])


def read(path: pathlib.Path) -> None:
    """All that a command does with a set before it computes."""
    with contextlib.suppress(BadInput):
        source = open_images(path)
        if len(source) * np.prod(source.shape) > 1e7:
            return
        for piece in source.pieces():
            assert ((piece.x >= 0) & (piece.x <= 1)).all()
            "".join([*piece.id, *filter(None, piece.error)]).encode()
        "".join(source.notes).encode()
        source.digest()


@pytest.mark.parametrize("name", NAMES)
@QUICK
@given(data=st.binary(max_size=300))
def test_any_bytes(name, data):
    """Arbitrary bytes under every name that a reader knows."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if name.startswith("set/"):
            (pathlib.Path(folder) / "set" / "b.png").write_bytes(SEEDS[-1])
        read(pathlib.Path(folder) / name.split("/")[0])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "folder" not in kind])
@QUICK
@given(changes=CHANGES, cut=st.sampled_from([0, 0, 0, 1, 7, 100]))
def test_damaged_files(kind, changes, cut, tmp_path):
    """A good file with some bytes exchanged, or broken off."""
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    path, _ = write(kind, tmp_path)
    path.write_bytes(changed(path.read_bytes(), changes, cut))
    read(path)


@pytest.mark.parametrize("seed", range(len(SEEDS)))
@QUICK
@given(changes=CHANGES, cut=st.sampled_from([0, 0, 0, 1, 50]))
def test_damaged_images(seed, changes, cut):
    """A good image with some bytes exchanged, or broken off: pixels of the wanted shape, or a line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as the command line has it
        pixels, done = decoded(changed(SEEDS[seed], changes, cut), (6, 6, 3), None, Background("white"))
    assert "\n" not in (pixels if isinstance(pixels, str) else "".join(done))
    if not isinstance(pixels, str):
        assert (pixels.shape, pixels.dtype) == ((6, 6, 3), np.uint8)


@QUICK
@given(
    text=st.text(alphabet=st.sampled_from("ab.png,;\t\"'\\/ 0129-\n\r\0é\ufeff"), max_size=60),
    encoding=st.sampled_from(["utf-8", "utf-16", "latin-1"]),
)
def test_any_labels(text, encoding):
    """Texts that look like tables of labels."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.png", "b.png"):
            (pathlib.Path(folder) / name).write_bytes(SEEDS[-1])
        (pathlib.Path(folder) / "labels.csv").write_bytes(text.encode(encoding, "ignore"))
        read(pathlib.Path(folder))
