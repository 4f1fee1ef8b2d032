"""Sets by URL: every kind gives what it gives on this machine, bytes are fetched once, and the cache stays below its limit."""

import errno
import json
import os
import pathlib
import sys
from dataclasses import replace

import fsspec
import numpy as np
import pytest

from a2d_jax.errors import BadInput
from a2d_jax.io.images import open_images, reopen
from a2d_jax.io.remote import Cache
from a2d_jax.io.urls import url_of
from tests.io.test_cifar import IMAGES, write_binary
from tests.io.test_cifar import LABELS as CIFAR_LABELS
from tests.io.test_images import BYTES, N, encoded, write
from tests.io.test_many_files import pictures, write_parquet, write_shards
from tests.io.test_sources import cut, equal, whole
from tests.io.test_tar import samples, write_tar


def class_folders(folder: pathlib.Path) -> pathlib.Path:
    path, _ = write("class folders", folder)
    (path / ".DS_Store").write_bytes(b"x")
    (path / "__MACOSX").mkdir()
    (path / "__MACOSX" / "a.png").write_bytes(b"x")
    (path / "0" / "deeper").mkdir()
    (path / "0" / "deeper" / "a.png").write_bytes(b"x")
    return path


def labelled_folder(folder: pathlib.Path) -> pathlib.Path:
    path, _ = write("folder", folder)
    (path / "002.png").write_bytes(b"no image")
    (path / "labels.csv").write_text("".join(f"{i:03d}.png,{i + 3}\n" for i in range(N)))
    return path


def tar_shards(folder: pathlib.Path) -> pathlib.Path:
    (folder / "set").mkdir()
    for number, rows in enumerate((range(3), range(3, N))):
        write_tar(folder / "set" / f"{number}.tar", samples(rows))
    return folder / "set"


def parquet_shards(folder: pathlib.Path) -> pathlib.Path:
    write_parquet(folder / "set" / "data" / "test-0.parquet", pictures(slice(1)))
    return write_shards(folder / "set" / "data") / "train-*.parquet"


KINDS = {
    **{
        kind: lambda folder, kind=kind: write(kind, folder)[0]
        for kind in ("npz", "npy", "idx", "idx gz", "parquet image", "parquet tensor")
    },
    "folder": labelled_folder,
    "class folders": class_folders,
    "cifar": lambda folder: write_binary(folder / "test_batch.bin", IMAGES, CIFAR_LABELS),
    "tar": lambda folder: write_tar(folder / "a.tar", samples()),
    "tar gz": lambda folder: write_tar(folder / "a.tar.gz", samples()),
    "tar shards": tar_shards,
    "parquet shards": lambda folder: write_shards(folder / "set"),
    "parquet shards by pattern": parquet_shards,
}


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """A store in memory, which is emptied, and the cache of the program in the folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    yield store
    store.rm("/", recursive=True)
    store.pseudo_dirs[:] = [""]


def put(store, path: pathlib.Path) -> str:
    """Upload the folder in which a set lies; the URL of the set."""
    for file in path.parent.rglob("*"):
        if file.is_file():
            store.pipe(f"/bucket/{file.relative_to(path.parent).as_posix()}", file.read_bytes())
    return f"memory://bucket/{path.name}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_as_on_this_machine(kind, tmp_path, memory):
    """Images, ids, labels, errors, notes, rows, ranges and limits are those of the files; a description opens the set again."""
    (tmp_path / "here").mkdir()
    path = KINDS[kind](tmp_path / "here")
    url = put(memory, path)
    source, wanted = open_images(url), open_images(path)
    everything, n = whole(wanted), len(wanted)
    for _ in range(2):
        equal(whole(source), everything)
    assert (source.shape, source.labels, source.random_access) == (wanted.shape, wanted.labels, wanted.random_access)
    assert source.notes == [note.replace(str(path), str(source.path)) for note in wanted.notes]
    assert source.url == url
    if source.random_access:
        for begin, end in ((n - 1, n), (2, 5), (0, n), (3, 3)):
            equal(source.rows(begin, end), cut(everything, begin, end))
    assert [place for piece in source.spans([(1, 3), (3, 4), (n - 1, n)], 2) for place in piece.index] == [1, 2, 3, n - 1]
    again = reopen(json.loads(json.dumps(replace(source, count=2).description)))
    equal(whole(again), cut(everything, 0, 2))
    assert again.digest() == source.digest()
    assert open_images(pathlib.Path(url)).digest() == source.digest()  # a path keeps one slash of two


def test_each_file_is_fetched_once(tmp_path, memory, monkeypatch):
    """However often and in whatever order images are read, here or in another process, the bytes of a file cross the network once."""
    (tmp_path / "here").mkdir()
    url = put(memory, write_shards(tmp_path / "here" / "set"))
    fetched: list[str] = []
    get = type(memory).get_file
    monkeypatch.setattr(type(memory), "get_file", lambda self, there, here, **more: fetched.append(there) or get(self, there, here, **more))
    source = open_images(url)
    assert fetched == ["/bucket/set/train-00000-of-00004.parquet"]  # for the shape of its first image
    source.rows(3, 4)
    assert fetched[1:] == ["/bucket/set/train-00002-of-00004.parquet"]
    for _ in range(2):
        whole(source)
        whole(open_images(url))
    assert sorted(fetched) == [f"/bucket/set/train-0000{i}-of-00004.parquet" for i in range(4)]


def test_the_cache_is_bounded(tmp_path, memory):
    """Of a set larger than the cache all images are read, and the files together never take more than the limit; the oldest go first."""
    (tmp_path / "here").mkdir()
    path = class_folders(tmp_path / "here")
    url = put(memory, path)
    size = len(encoded(BYTES[0]))
    cache = Cache(tmp_path / "small", 3 * size)
    source = open_images(url, cache=cache)
    for _ in range(2):
        equal(whole(source), whole(open_images(path)))
    files = [file for file in cache.folder.rglob("*") if file.is_file()]
    assert 0 < sum(file.stat().st_size for file in files) <= cache.limit
    cache = Cache(tmp_path / "other", 3 * size)
    source = open_images(url, cache=cache)
    for place in (0, 1, 2, 0, 3):
        source.rows(place, place + 1)
        for number, file in enumerate(sorted(cache.folder.rglob("*.png"))):  # a clock of the file system may be coarse
            stat = file.stat()
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns - 10**9 + number))
    kept = [file.parent.name for file in cache.folder.rglob("*.png")]
    assert "3" in kept
    assert "1" not in kept


def test_arrays_come_back(tmp_path, memory):
    """A file that has gone from the cache is fetched again when it is read, and for its digest."""
    (tmp_path / "here").mkdir()
    path = write("npz", tmp_path / "here")[0]
    source = open_images(put(memory, path))
    for read in (lambda: equal(whole(source), whole(open_images(path))), lambda: source.rows(0, 1), source.digest):
        source.path.unlink()
        read()
    assert source.digest() == open_images(path).digest()


def test_a_changed_set_is_another(tmp_path, memory):
    """What was fetched of the set before is not taken for the new one, even if names and sizes are the same."""
    (tmp_path / "here").mkdir()
    path = labelled_folder(tmp_path / "here")
    url = put(memory, path)
    before = open_images(url)
    whole(before)
    (path / "000.png").write_bytes((path / "001.png").read_bytes())
    put(memory, path)
    after = open_images(url)
    assert after.digest() != before.digest()
    equal(whole(after), whole(open_images(path)))


def refused(url: str, *words: str) -> None:
    with pytest.raises(BadInput, match=r"^expected .*, got.*; ") as caught:
        open_images(url)
    for word in words:
        assert word in str(caught.value)


def test_refused_urls(tmp_path, memory, monkeypatch):
    """No such set, an unknown kind of store, a missing package and prepared sets are told in one line."""
    refused("memory://bucket/nothing", "memory://bucket/nothing", "check the URL")
    refused("memory://bucket/*.parquet", "check the URL")
    refused("nosuch://bucket/x", "nosuch://bucket/x")
    memory.pipe("/bucket/set/mnist-train.tfrecord-00000-of-00001", b"")
    refused("memory://bucket/set", "copy the folder")
    memory.pipe("/bucket/a.npz", b"no archive")
    refused("memory://bucket/a.npz", "damaged")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    refused("s3://bucket/x", 'pip install "a2d-jax[remote]"')


def test_a_store_that_fails_is_no_bad_image(tmp_path, memory):
    """An image that the store does not give stops the reading: it is no error of a row, which would be final."""
    (tmp_path / "here").mkdir()
    path = labelled_folder(tmp_path / "here")
    source = open_images(put(memory, path))
    memory.rm("/bucket/set/004.png")
    with pytest.raises(BadInput, match=r"^expected to read .*004\.png, got.*; check the URL, the network"):
        whole(source)


def test_a_full_disk_is_told(tmp_path, memory, monkeypatch):
    """Where there is no room for the cache, one line says so, and nothing is left behind."""
    (tmp_path / "here").mkdir()
    url = put(memory, write("npz", tmp_path / "here")[0])

    def full(self, there, here, **more):
        pathlib.Path(here).write_bytes(b"a part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(memory), "get_file", full)
    refused(url, "free some space", os.strerror(errno.ENOSPC))
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_what_is_a_url():
    """Paths of this machine are none."""
    assert url_of("s3://b/x") == url_of(pathlib.Path("s3://b/x")) == "s3://b/x"
    assert [url_of(path) for path in ("a/b", "/a/b", "c:/a", "a:b", "http", "")] == [None] * 6


@pytest.fixture
def s3(s3_settings):
    """Its store with an empty bucket."""
    store = fsspec.filesystem("s3")
    store.mkdir("bucket")
    yield store
    store.rm("bucket", recursive=True)


@pytest.mark.parametrize("kind", ["npz", "folder", "class folders", "parquet shards by pattern", "tar shards"])
def test_s3(kind, tmp_path, s3):
    """A server of S3 gives the same sets."""
    (tmp_path / "here").mkdir()
    path = KINDS[kind](tmp_path / "here")
    url = put(s3, path).replace("memory://", "s3://")
    source, wanted = open_images(url), open_images(path)
    equal(whole(source), whole(wanted))
    equal(source.rows(2, 5), wanted.rows(2, 5))
    assert source.notes == [note.replace(str(path), str(source.path)) for note in wanted.notes]
    assert reopen(source.description).digest() == source.digest()


def test_a_changed_set_in_s3(tmp_path, s3):
    """A file of the same size and other bytes makes another set, also in the same process."""
    for number in range(2):
        np.save(tmp_path / "x.npy", BYTES + np.uint8(number))
        s3.pipe("bucket/x.npy", (tmp_path / "x.npy").read_bytes())
        equal(whole(open_images("s3://bucket/x.npy")), whole(open_images(tmp_path / "x.npy")))


def test_s3_that_is_not_there(s3):
    """A bucket or a key that is missing is told in one line."""
    refused("s3://no-such-bucket/x.npz", "s3://no-such-bucket/x.npz")
    refused("s3://bucket/x.npz", "check the URL")
