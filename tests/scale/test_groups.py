"""Sets in a store: each byte crosses the network once, whatever is measured, also where the set is larger than the cache."""

import collections
import io
import json
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from a2d_jax import console, costs, jobs, presets, specs
from a2d_jax.costs import Cut
from a2d_jax.costs.groups import grouped
from a2d_jax.errors import BadInput
from a2d_jax.io.here import Fetching
from a2d_jax.io.images import open_images
from a2d_jax.io.remote import Cache
from tests.io.test_many_files import write_parquet
from tests.io.test_remote import memory, put  # noqa: F401 (a fixture)
from tests.io.test_tar import write_tar
from tests.nets import convnet
from tests.scale.test_large import NET, content, equal

COUNT = 48


def files_of(folder, kind):
    """A set of some files: its path, and how many bytes they have."""
    (folder / "set").mkdir()
    data: list[bytes] = []
    for image in np.random.default_rng(0).integers(0, 255, (COUNT, 8, 8), np.uint8):
        Image.fromarray(image).save(packed := io.BytesIO(), "PNG")
        data.append(packed.getvalue())
    for number in range(0, COUNT, 1 if kind == "folder" else 6):
        here, file = range(number, number + 6), folder / "set" / f"{number:02}"
        if kind == "folder":
            file.with_suffix(".png").write_bytes(data[number])
        elif kind == "tar":
            write_tar(file.with_suffix(".tar"), [(f"{i:02}.png", data[i]) for i in here])
        else:
            write_parquet(file.with_suffix(".parquet"), pa.table({"image": [{"bytes": data[i], "path": None} for i in here]}))
    return folder / "set", sum(file.stat().st_size for file in (folder / "set").iterdir())


@pytest.fixture
def fetched(memory, monkeypatch):  # noqa: F811
    """How often each file of the store was fetched."""
    counted, get = collections.Counter(), type(memory).get_file
    monkeypatch.setattr(
        type(memory), "get_file", lambda self, there, here, **more: counted.update([there]) or get(self, there, here, **more)
    )
    return counted


@pytest.fixture(params=["folder", "parquet", "tar"])
def there(request, tmp_path, memory, monkeypatch):  # noqa: F811
    """A set on this machine, its URL, and a cache that holds about a third of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    path, size = files_of(tmp_path / "here", request.param)
    monkeypatch.setenv("A2D_CACHE_GB", repr(0.35 * size / 1e9))
    return path, put(memory, path), request.param


def job(kind, out, images, **more):
    if kind == "clever":
        return jobs.CleverSpec(out=out, classifier=NET, images=images, part=4, targets="target-2,untargeted", batches=3, samples=4, **more)
    return jobs.CostSpec(out=out, classifier=NET, images=images, part=4, attacks="bim:max_steps=6,lsa:max_steps=6", **more)


@pytest.mark.parametrize("kind", ["cost", "clever"])
def test_every_file_is_fetched_once(there, fetched, kind, capsys):
    """Protects the network: two attacks, or two targets, on a set three times as large as the cache fetch it once."""
    path, url, files = there
    with console.progress(as_json=True) as report:
        jobs.run(job(kind, "there.parquet", url), report)
    jobs.run(job(kind, "here.parquet", str(path)), console.silent)
    equal(content("there.parquet"), content("here.parquet"))
    most = 2 if files == "tar" else 1  # where images begin in a tar is known when it was read
    assert len(fetched) == (COUNT if files == "folder" else COUNT // 6)
    assert set(fetched.values()) <= {1, most}
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    stages = {line["what"]: (line["done"], line["total"]) for line in lines}
    assert stages["predict"] == (COUNT, COUNT)
    assert all(done == total for done, total in stages.values())


def test_shares_and_python(there, fetched, monkeypatch):
    """Protects the network for job arrays, where a process goes on, and for callers in Python."""
    path, url, files = there
    for k in (1, 2):
        jobs.run(job("cost", "there.parquet", url, share=f"{k}/2"), console.silent)
    jobs.run(job("cost", "here.parquet", str(path)), console.silent)
    equal(content("there.parquet"), content("here.parquet"))
    twice = {"folder": 1, "parquet": 2, "tar": 8 + 2}[files]  # the first image, what both shares need, and where images begin in a tar
    assert sum(fetched.values()) <= len(fetched) * (2 if files == "tar" else 1) + twice
    fetched.clear()
    size = sum(file.stat().st_size for file in path.iterdir())
    attacks = specs.attacks("bim:max_steps=6,lsa:max_steps=6", presets.named("mnist").defence)
    monkeypatch.setattr(sys.modules["a2d_jax.costs.measured"], "PART", 4)
    source = open_images(url, cache=Cache(path.parent / "other", size // 3))
    found = costs.measure(convnet(), source, attacks)
    wanted = costs.measure(convnet(), open_images(path), attacks)
    for name in attacks:
        np.testing.assert_array_equal(found.results[name].cost, wanted.results[name].cost)
    assert set(fetched.values()) <= {1, 2 if files == "tar" else 1}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_groups(data):
    """Protects the disk: groups are all parts in order, and the files of a group fit into the room unless it is one part."""
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    counts = data.draw(st.lists(st.integers(0, 7), min_size=len(sizes), max_size=len(sizes)).filter(sum))
    cut = Cut(sum(counts), data.draw(st.integers(1, 9)))
    parts = sorted(data.draw(st.sets(st.sampled_from(cut.parts), min_size=1)))
    room = data.draw(st.integers(1, 40))
    ends = np.cumsum(counts)
    groups = grouped(parts, cut, Fetching(ends, np.asarray(sizes), room))
    assert [part for group in groups for part in group] == parts
    of_image = np.repeat(np.arange(len(sizes)), counts)
    for group, following in zip(groups, [*groups[1:], []], strict=True):
        files = {int(file) for part in group for file in of_image[slice(*cut.span(part))]}
        assert len(group) == 1 or sum(sizes[file] for file in files) <= room
        more = files | {int(file) for part in following[:1] for file in of_image[slice(*cut.span(part))]}
        assert not following or sum(sizes[file] for file in range(min(more), max(more) + 1)) > room


@pytest.mark.parametrize("given_", ["x", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_none(memory, monkeypatch, given_):  # noqa: F811
    """Protects the disk: a limit of the cache that cannot be is refused in one line."""
    memory.pipe("/bucket/a.npz", b"x")
    monkeypatch.setenv("A2D_CACHE_GB", given_)
    with pytest.raises(BadInput, match=r"^expected a number of gigabytes above 0 in A2D_CACHE_GB, got .*; "):
        open_images("memory://bucket/a.npz")


def test_a_cache_that_is_too_small(there, capsys):
    """Protects the network bill: where a cache cannot hold the files of a part, a note says what to do."""
    _, url, _ = there
    for limit, said in ((1e-7, True), (1.0, False)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("A2D_CACHE_GB", repr(limit))
            jobs.run(job("cost", f"{limit}.parquet", url), console.silent)
        assert ("set A2D_CACHE_GB to more" in capsys.readouterr().err) == said
