"""Sets of many files: folders of shards, patterns, folders with very many files."""

import itertools
import os
import pathlib
import re
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from a2d_jax.errors import BadInput
from a2d_jax.io.images import open_images, reopen
from a2d_jax.io.source import ImageSource
from tests.io.test_images import BYTES, FLOATS, LABELS, N, encoded
from tests.io.test_tar import samples, write_tar


def pictures(rows: slice = slice(None)) -> pa.Table:
    """Encoded images as Hugging Face keeps them."""
    table = pa.table({"image": [{"bytes": encoded(x), "path": None} for x in BYTES], "label": pa.array(LABELS)})
    return table.slice(*rows.indices(N)[:1], len(BYTES[rows]))


def crafted(rows: slice, failed: tuple[int, ...] = ()) -> pa.Table:
    """Attacked images as a job keeps them in files."""
    x = FLOATS[rows].copy()
    x[list(failed)] = np.nan
    n = len(x)
    return pa.table(
        {
            "x": pa.FixedShapeTensorArray.from_numpy_ndarray(x) if n else pa.array([], pa.fixed_shape_tensor(pa.float32(), x.shape[1:])),
            "y": pa.array(LABELS[rows]),
            "success": pa.array([True] * n),
            "index": pa.array(range(N)[rows]),
            "error": pa.array(["bad" if i in failed else "" for i in range(n)]),
        }
    )


def write_parquet(path: pathlib.Path, table: pa.Table, rows: int = 3) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)
    return path


def write_shards(folder: pathlib.Path, split: str = "train", under: str = "") -> pathlib.Path:
    """Four shards, one of them empty."""
    for number, rows in enumerate((slice(0, 2), slice(2, 2), slice(2, 6), slice(6, N))):
        write_parquet(folder / under / f"{split}-{number:05d}-of-00004.parquet", pictures(rows))
    return folder


def read(source: ImageSource) -> tuple[np.ndarray, list[str], list[int] | None, list[str | None]]:
    (piece,) = source.pieces()
    return piece.x, piece.id, None if piece.label is None else piece.label.tolist(), piece.error


def refused(path: pathlib.Path, *words: str) -> None:
    with pytest.raises(BadInput, match=r"^expected .*, got .*; ") as caught:
        open_images(path)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("under", ["", "data"])
def test_shards_of_a_folder(under, tmp_path):
    """Shards in the folder, or one level down, are one set in the order of their names; ids are places in the set."""
    source = open_images(write_shards(tmp_path, under=under))
    x, ids, label, error = read(source)
    np.testing.assert_array_equal(x, FLOATS)
    assert (ids, label, error) == ([str(i) for i in range(N)], LABELS.tolist(), [None] * N)
    assert source.notes == []
    (tmp_path / "README.md").write_text("About the set.")
    (tmp_path / "more.csv").write_text("1,2")
    assert open_images(tmp_path).notes == ["left out files that are no shards of the set: 1, first more.csv"]


def test_types_that_are_read_alike(tmp_path):
    """Shards may differ in what does not matter: a path or none, the width of labels, nothing known of an empty one."""
    images = [{"bytes": encoded(x), "path": "a.png"} for x in BYTES]
    named = pa.table({"image": images, "label": pa.array(LABELS, pa.int16()), "more": LABELS})
    for number, table in enumerate((pa.table({"image": pa.nulls(0), "label": pa.nulls(0)}), pictures(), named)):
        write_parquet(tmp_path / f"{number}.parquet", table)
    x, _, label, error = read(open_images(tmp_path))
    np.testing.assert_array_equal(x, np.concatenate([FLOATS, FLOATS]))
    assert (label, error) == ([*LABELS, *LABELS], [None] * 2 * N)


def test_crafted_images_in_files(tmp_path):
    """Attacked images in several files are one set; rows with NaN are errors, as in an npz."""
    for number, rows in enumerate((slice(0, 4), slice(4, N))):
        write_parquet(tmp_path / f"part-{number:06d}.parquet", crafted(rows, (1,) if number else ()))
    (tmp_path / "job.json").write_text("{}")
    source = open_images(tmp_path)
    x, _, label, error = read(source)
    assert (label, source.notes) == (LABELS.tolist(), [])
    assert [e is None for e in error] == [i != 5 for i in range(N)]
    assert "NaN" in error[5]
    np.testing.assert_array_equal(np.delete(x, 5, 0), np.delete(FLOATS, 5, 0))
    before = source.digest()
    write_parquet(tmp_path / "part-000001.parquet", crafted(slice(3, N - 1)))
    assert open_images(tmp_path).digest() != before


def test_one_split_at_a_time(tmp_path):
    """Training and test images are never joined in silence; a pattern names one of them, and is described and opened again."""
    write_shards(tmp_path / "data")
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", pictures(slice(3, 5)))
    refused(tmp_path / "data", "of one split", "test and train", f"such as {tmp_path}/data/test-*.parquet")
    refused(tmp_path, "of one split", f"such as {tmp_path}/data/test-*.parquet")
    for name, count in (("train-*.parquet", N), ("test-*.parquet", 2), ("t??t-*", 2), ("train-0000[02]-of-*.parquet", 6)):
        source = open_images(tmp_path / "data" / name)
        assert (len(source), source.path) == (count, tmp_path / "data" / name)
        assert reopen(source.description).digest() == source.digest()
    np.testing.assert_array_equal(read(open_images(tmp_path / "data" / "test-*.parquet"))[0], FLOATS[3:5])
    write_parquet(tmp_path / "sets" / "train" / "0.parquet", pictures())
    write_parquet(tmp_path / "sets" / "val" / "0.parquet", pictures())
    refused(tmp_path / "sets", "of one split", "train and validation")
    assert len(open_images(write_parquet(tmp_path / "train-and-test.parquet", pictures()))) == N


def test_words_that_are_no_splits(tmp_path):
    """Other names are joined, whatever they are; so are names that all say the same split."""
    for name in ("a", "b", "devices", "latest"):
        write_parquet(tmp_path / "any" / f"{name}.parquet", pictures())
        write_parquet(tmp_path / "same" / f"test_{name}.parquet", pictures())
    assert len(open_images(tmp_path / "any")) == len(open_images(tmp_path / "same")) == 4 * N


def test_refused_patterns(tmp_path):
    """A pattern that matches nothing, or files of other kinds, is refused."""
    (tmp_path / "a.png").write_bytes(encoded(BYTES[0]))
    refused(tmp_path / "*.parquet", "does not exist")
    refused(tmp_path / "no" / "*.parquet", "does not exist")
    refused(tmp_path / "*.png", "a.png", "give the folder")


def test_files_that_do_not_fit_together(tmp_path):
    """Shards of two kinds, or of other columns, types or shapes, are refused with both names."""
    write_parquet(tmp_path / "a" / "0.parquet", pictures())
    write_tar(tmp_path / "a" / "1.tar", samples())
    refused(tmp_path / "a", ".parquet and .tar")
    others = {
        "label": pictures().drop_columns("label"),
        "image": pa.table({"x": [[1.0]], "label": [1]}),
        "x": crafted(slice(None)),
    }
    for name, table in others.items():
        write_parquet(tmp_path / name / "0.parquet", pictures())
        write_parquet(tmp_path / name / "1.parquet", table)
        refused(tmp_path / name, "same columns", "0.parquet", "1.parquet")
    for number, shape in enumerate(("[4, 5, 3]", "[5, 4, 3]")):
        table = pa.table({"x": list(FLOATS.reshape(N, -1))}).replace_schema_metadata({"shape": shape})
        write_parquet(tmp_path / "shape" / f"{number}.parquet", table)
    refused(tmp_path / "shape", "shape", "0.parquet", "1.parquet")
    write_parquet(tmp_path / "bad" / "0.parquet", pictures())
    (tmp_path / "bad" / "1.parquet").write_bytes((tmp_path / "bad" / "0.parquet").read_bytes()[:-5])
    refused(tmp_path / "bad", "1.parquet")


def test_images_come_before_shards(tmp_path):
    """A folder with images is a folder of images, whatever else is in it, and what is left out is told."""
    (tmp_path / "a.png").write_bytes(encoded(BYTES[0]))
    write_parquet(tmp_path / "0.parquet", pictures())
    source = open_images(tmp_path)
    assert (len(source), "first 0.parquet" in source.notes[0]) == (1, True)


def test_only_the_shard_that_is_read_is_opened(tmp_path, monkeypatch):
    """Row counts are kept: rows from one shard open this shard alone."""
    for number in range(5):
        write_parquet(tmp_path / f"{number}.parquet", pictures())
    source = open_images(tmp_path)
    opened: list[str] = []
    whole = pa.OSFile

    def spied(name, *rest):
        opened.append(os.path.basename(os.fsdecode(name)))
        return whole(name, *rest)

    monkeypatch.setattr(pa, "OSFile", spied)
    np.testing.assert_array_equal(source.rows(2 * N + 1, 2 * N + 3).x, FLOATS[1:3])
    assert opened == ["2.parquet"]


def test_large_row_groups_are_streamed(tmp_path):
    """Of a row group of 40 MB of encoded images, a small part is in memory at a time."""
    data = encoded(BYTES[0])
    rows = [data + bytes(50_000) for _ in range(800)]  # bytes behind the end of a PNG mean nothing
    table = pa.table({"image": rows})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=800, write_batch_size=8, use_dictionary=False, compression="none")
    source = open_images(tmp_path / "a.parquet")
    everything = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(everything)
    pa.set_memory_pool(counted)
    try:
        assert sum(len(piece.x) for piece in source.pieces(8)) == 800
    finally:
        pa.set_memory_pool(everything)
    assert 1e6 < counted.max_memory() < 15e6


def test_a_file_takes_little_memory(tmp_path):
    """A folder of many files costs some hundred bytes for each: a million files fit. No file is looked at before it is needed."""
    count = 4000
    for number in range(count):
        (tmp_path / "n01440764").mkdir(exist_ok=True)
        (tmp_path / "n01440764" / f"n01440764_{number:05d}.JPEG").touch()
    (tmp_path / "n01440764" / "n01440764_00000.JPEG").write_bytes(encoded(BYTES[0], "JPEG"))
    open_images(tmp_path, classes=["n01440764"])  # loads what is loaded once
    tracemalloc.start()
    source = open_images(tmp_path, classes=["n01440764"])
    now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(source), source.labels) == (count, True)
    assert now / count < 110
    assert most / count < 150


def test_listing_looks_at_no_file(tmp_path, monkeypatch):
    """The folder tells what is a file: opening asks the system about no single file but the one that is decoded."""
    for i in range(N):
        (tmp_path / f"{i}.png").write_bytes(encoded(BYTES[i]))
    asked: list[str] = []
    for name in ("stat", "lstat"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, *rest, real=real, **more: asked.append(str(path)) or real(path, *rest, **more))
    source = open_images(tmp_path)
    assert not [path for path in asked if path.endswith(".png")]
    asked.clear()
    source.digest()
    assert sorted(re.findall(r"\d\.png", " ".join(asked))) == [f"{i}.png" for i in range(N)]


def test_names_sort_as_text(tmp_path):
    """Images, and shards, are in the order of their names as text: the order does not depend on the file system."""
    names = ["b/0.png", "a-1/0.png", "a/0.png", "a.png", "a/00.png", "B.png"]
    for name, x in zip(names, itertools.cycle(BYTES)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(x))
    assert read(open_images(tmp_path))[1] == sorted(names)
