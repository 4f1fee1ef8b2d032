"""Run folders and tables by URL: whatever ends a job or its store, the same command goes on and the table is that of this machine."""

import errno
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import fsspec
import numpy as np
import pytest

from a2d_jax import jobs
from a2d_jax.errors import BadInput
from a2d_jax.io import asking, store
from a2d_jax.io.measurements import read_measurements
from a2d_jax.io.parts import JOB, RECORDS
from a2d_jax.io.urls import Url, as_path
from a2d_jax.jobs import large
from a2d_jax.jobs.spec import Folder
from a2d_jax.scale.runs import Run
from tests.held import held
from tests.scale.test_large import JOBS, NET, Killed, content, cost, detect, equal, here, kill_after, spec  # noqa: F401 (fixtures)


@pytest.fixture(params=["memory", "s3"])
def bucket(request, s3_settings, monkeypatch):
    """The URL of an empty bucket."""
    monkeypatch.setattr(asking, "WAITS", (0.01, 0.02))
    system = fsspec.filesystem(request.param)
    if request.param == "s3":
        system.mkdir("bucket")
    yield f"{request.param}://bucket"
    system.rm("bucket" if request.param == "s3" else "/", recursive=True)
    if request.param == "memory":
        system.pseudo_dirs[:] = [""]


def everything(url: str) -> list[str]:
    """Names of all files in a bucket."""
    system, root = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    return sorted(name.lstrip("/").removeprefix("bucket/") for name in system.find(root))


def fetched(url: str) -> str:
    """A file of a bucket, brought here."""
    system, root = fsspec.core.url_to_fs(url)
    system.get_file(root, f"fetched-{pathlib.Path(root).name}")
    return f"fetched-{pathlib.Path(root).name}"


@pytest.mark.parametrize("name", JOBS)
def test_the_same_command_goes_on(bucket, here, name, kill_after):  # noqa: F811
    """Protects hours of work: killed again and again, a job in a store loses what was in flight, and nothing else is left there."""
    do, made = JOBS[name]
    ending = ".npz" if name == "attack" else ".parquet"
    do(made(f"alone{ending}"))
    done = None
    while done is None:
        kill_after(4)
        before = len(kill_after.committed)
        try:
            done = do(made(f"{bucket}/to/killed{ending}"))
        except Killed:
            assert len(kill_after.committed) == before + 4
            assert f"to/killed{ending}.run/{RECORDS}/{JOB}" in everything(bucket)
            assert f"to/killed{ending}" not in everything(bucket)
    assert done.failed == 1
    assert done.summary["out"] == f"{bucket}/to/killed{ending}"
    assert len(kill_after.committed) == len(set(kill_after.committed))
    assert everything(bucket) == [f"to/killed{ending}"]
    equal(content(fetched(f"{bucket}/to/killed{ending}")), content(f"alone{ending}"))


def test_a_folder_is_a_table(bucket, here):  # noqa: F811
    """Protects those who read the folder: every command that takes a table takes it by URL, with the numbers of the one file."""
    one, other = jobs.cost(cost("c.parquet")), jobs.cost(cost(f"{bucket}/c/"))
    assert other.summary["costs"] == one.summary["costs"]
    assert not [name for name in everything(bucket) if not name.startswith(("c/bim/part-", "c/lsa/part-", f"c/{RECORDS}/"))]
    folder, file = read_measurements(f"{bucket}/c"), read_measurements("c.parquet")
    assert folder.ids == file.ids
    for name in file.names:
        for number, values in file.numbers[name].items():
            np.testing.assert_array_equal(folder.numbers[name][number], values)
    assert [index for index, _, _ in folder.errors] == [5]
    jobs.cost(cost(f"{bucket}/again.parquet"))
    np.testing.assert_array_equal(read_measurements(f"{bucket}/again.parquet").numbers["bim"]["cost"], file.numbers["bim"]["cost"])
    assert jobs.cost(cost(f"{bucket}/c")).summary["costs"] == one.summary["costs"]  # complete: nothing is done again
    jobs.fit(jobs.FitSpec(out=f"{bucket}/d.json", benign=f"{bucket}/c", adversarial=(f"{bucket}/again.parquet",), detector="vote", k=1))
    jobs.detect(jobs.DetectSpec(out=f"{bucket}/v.parquet", detector=f"{bucket}/d.json", costs=f"{bucket}/c/"))
    jobs.fit(jobs.FitSpec(out="d.json", benign="c.parquet", detector="vote", k=1))
    jobs.detect(jobs.DetectSpec(out="v.parquet", detector="d.json", costs="c.parquet"))
    equal(content(fetched(f"{bucket}/v.parquet")), content("v.parquet"))
    jobs.detect(spec(jobs.DetectSpec, "i/", detector=f"{bucket}/d.json"))
    assert jobs.evaluate(jobs.EvaluateSpec(benign=f"{bucket}/c/", adversarial=(f"{bucket}/c/",))).summary["benign"] == f"{bucket}/c"
    jobs.shift(jobs.ShiftSpec(benign=f"{bucket}/c", new=f"{bucket}/again.parquet"))
    for path in (f"{bucket}/nothing", f"{bucket}/nothing.parquet"):
        with pytest.raises(BadInput, match=f"got {path}, which is not a file; check the path"):
            read_measurements(path)
        with pytest.raises(BadInput, match=f"got {path}, which does not exist"):
            jobs.detect(jobs.DetectSpec(out="w.parquet", detector=path, costs="c.parquet"))


def test_status_and_shares(bucket, here):  # noqa: F811
    """Protects job arrays: shares need no folder in common but that of the store; others see how far they are."""
    out = f"{bucket}/c.parquet"
    assert "other shares are not" in jobs.cost(cost(out, share="1/2")).notes[-1]
    with pytest.raises(BadInput, match="whose seed is 0, got 1"):
        jobs.cost(cost(out, seed=1))
    found = jobs.status(jobs.StatusSpec(run=out)).summary
    assert (found["run"], found["result"], found["units missing"]) == (f"{out}.run", out, 3 * 3)
    assert [row["parts done"] for row in found["measurements"]] == [3, 3, 3]
    assert jobs.status(jobs.StatusSpec(run=f"{out}.run")).summary == found
    jobs.cost(cost(out, share="2/2"))
    assert everything(bucket) == ["c.parquet"]
    with pytest.raises(BadInput, match="complete; its parts are gone"):
        jobs.status(jobs.StatusSpec(run=out))
    with pytest.raises(BadInput, match="where none does"):
        jobs.status(jobs.StatusSpec(run=f"{bucket}/nothing"))
    assert jobs.cost(cost(out, seed=1, force=True, restart=True)).failed == 1


def test_unfinished_folders(bucket, here, kill_after):  # noqa: F811
    """Protects the numbers: a folder that is not complete is no table, a foreign folder is left alone, `--restart` begins anew."""
    kill_after(9)
    with pytest.raises(Killed):
        jobs.cost(cost(f"{bucket}/c/"))
    kill_after(-1)
    with pytest.raises(BadInput, match="give the same command again"):
        read_measurements(f"{bucket}/c")
    assert jobs.cost(cost(f"{bucket}/c/", restart=True, seed=1)).failed == 1
    fsspec.core.url_to_fs(bucket)[0].pipe_file("bucket/mine/x", b"x")
    for restart in (False, True):
        with pytest.raises(BadInput, match="holds other files"):
            jobs.cost(cost(f"{bucket}/mine/", restart=restart))
    fsspec.core.url_to_fs(bucket)[0].pipe_file(f"bucket/bad/{RECORDS}/{JOB}", b"[]")
    with pytest.raises(BadInput, match="--restart"):
        jobs.cost(cost(f"{bucket}/bad/"))


def test_lists_are_those_of_now(bucket, here):  # noqa: F811
    """Protects shares: what another process has written or removed is seen at once, though libraries keep lists."""
    folder = as_path(f"{bucket}/c/bim")
    others = type(fsspec.core.url_to_fs(bucket)[0])(skip_instance_cache=True)
    for _ in range(2):
        others.pipe_file("bucket/c/bim/part-000000.parquet", b"x")
        assert store.OBJECTS.names(folder) == ["part-000000.parquet"]
        assert store.OBJECTS.is_file(folder / "part-000000.parquet")
        assert store.OBJECTS.is_dir(folder)
        others.rm_file("bucket/c/bim/part-000000.parquet")
        assert not store.OBJECTS.is_file(folder / "part-000000.parquet")
        assert store.OBJECTS.names(folder) == []


def test_failed_rows_and_damage(bucket, here):  # noqa: F811
    """Protects each row: a unit that is damaged is named, parts with an error are done again."""
    jobs.cost(cost(f"{bucket}/c/"))
    before = fsspec.core.url_to_fs(bucket)[0].info("bucket/c/bim/part-000001.parquet")
    assert jobs.cost(cost(f"{bucket}/c/", retry_failed=True)).failed == 1
    assert fsspec.core.url_to_fs(bucket)[0].info("bucket/c/bim/part-000001.parquet") != before
    system = fsspec.core.url_to_fs(bucket)[0]
    system.pipe_file("bucket/c/bim/part-000000.parquet", system.cat_file("bucket/c/bim/part-000000.parquet")[:-10])
    for read in (lambda: jobs.cost(cost(f"{bucket}/c/")), lambda: read_measurements(f"{bucket}/c")):
        with pytest.raises(BadInput, match=rf"{bucket}/c/bim/part-000000.parquet, which is damaged"):
            read()


@pytest.mark.parametrize("when", ["before the file", "at its end", "after it"])
def test_two_processes_finish(bucket, here, when, monkeypatch):  # noqa: F811
    """Protects shares that end together: there are no locks in a store, and both end well with one file."""
    written, first = large.table_writer, []

    def meet(path, *more):
        if not first:
            first.append(True)
            if when == "before the file":
                jobs.cost(cost(f"{bucket}/c.parquet"))
        return written(path, *more)

    monkeypatch.setattr(large, "table_writer", meet)
    if when == "at its end":
        put = type(store.OBJECTS).put

        def late(self, here, path, *, new):
            if path.name == "c.parquet" and len(first) == 1:
                first.append(True)
                jobs.cost(cost(f"{bucket}/c.parquet", share="1/1"))
            put(self, here, path, new=new)

        monkeypatch.setattr(type(store.OBJECTS), "put", late)
    if when == "after it":
        end = Run.remove
        monkeypatch.setattr(Run, "remove", lambda self: [end(self) for _ in range(2 if isinstance(self.folder, Url) else 1)])
    done = jobs.cost(cost(f"{bucket}/c.parquet"))
    assert when == "after it" or done.notes == [f"another process has written {bucket}/c.parquet"]
    assert everything(bucket) == ["c.parquet"]
    jobs.cost(cost("c.parquet"))
    equal(content(fetched(f"{bucket}/c.parquet")), content("c.parquet"))


def test_a_file_that_appears(bucket, here, monkeypatch):  # noqa: F811
    """Protects other people's files: what has appeared under the name of the result stays, and the result has another name."""
    system = fsspec.core.url_to_fs(bucket)[0]
    jobs.cost(cost("c.parquet"))
    written = large.table_writer
    monkeypatch.setattr(large, "table_writer", lambda *given: (system.pipe_file("bucket/c.parquet", b"mine"), written(*given))[1])
    with pytest.raises(BadInput, match=rf"to be free when the work ended, .* the result is in {bucket}/a2d-\w+.parquet"):
        jobs.cost(cost(f"{bucket}/c.parquet"))
    assert system.cat_file("bucket/c.parquet") == b"mine"
    (kept,) = [name for name in everything(bucket) if name.startswith("a2d-")]
    equal(content(fetched(f"{bucket}/{kept}")), content("c.parquet"))


def failing(monkeypatch, system, times, error):
    """A store that fails at some puts."""
    kind, left = type(system), [times]
    method = "_put_file" if hasattr(kind, "_put_file") else "put_file"
    right = getattr(kind, method)

    def fails(self, *given, **more):
        if left[0]:
            left[0] -= 1
            raise error
        return right(self, *given, **more)

    async def fails_later(self, *given, **more):
        return await fails(self, *given, **more)

    monkeypatch.setattr(kind, method, fails_later if method.startswith("_") else fails)
    kind.clear_instance_cache()  # instances have taken the right one over
    return left


def test_a_put_that_fails(bucket, here, monkeypatch):  # noqa: F811
    """Protects hours of work: one failure is made good at once; a store that stays away ends the job by one line, and it goes on later."""
    system = fsspec.core.url_to_fs(bucket)[0]
    with monkeypatch.context() as patched:
        left = failing(patched, system, 2, OSError(errno.EIO, "the server is busy"))
        assert jobs.cost(cost(f"{bucket}/c.parquet")).failed == 1
        assert left == [0]
    type(system).clear_instance_cache()
    for times, error, why in ((99, OSError(errno.EIO, "the server is busy"), "the server is busy"), (1, PermissionError("no"), "no")):
        with monkeypatch.context() as patched:
            commit, units = Run.commit, []

            def counted(self, *unit, commit=commit, units=units, patched=patched, times=times, error=error):
                commit(self, *unit)
                units.append(unit)
                if len(units) == 8:
                    failing(patched, system, times, error)

            patched.setattr(Run, "commit", counted)
            with pytest.raises(BadInput, match=rf"expected to write {bucket}/k.parquet.run/\S*, got: .*{why}; .* run it again"):
                jobs.cost(cost(f"{bucket}/k.parquet"))
            assert len(units) == 8
        type(system).clear_instance_cache()
    assert jobs.status(jobs.StatusSpec(run=f"{bucket}/k.parquet")).summary["units missing"] == 18 - 16
    jobs.cost(cost(f"{bucket}/k.parquet"))
    equal(content(fetched(f"{bucket}/k.parquet")), content(fetched(f"{bucket}/c.parquet")))


def test_refused_outputs(bucket, here):  # noqa: F811
    """Protects the user: what cannot be is told in one line before the work."""
    system = fsspec.core.url_to_fs(bucket)[0]
    system.pipe_file("bucket/c.parquet", b"x")
    system.pipe_file("bucket/folder/x", b"x")
    for out, more, words in (
        (f"{bucket}/c.parquet", {}, "which exists; choose another name or pass --force"),
        (f"{bucket}/folder", {}, "got the folder"),
        (f"{bucket}/c.parquet", {"images": f"{bucket}/c.parquet", "force": True}, "which would replace it"),
        ("ftp://host/c.parquet", {}, "a store in which a file appears whole"),
        ("ftp://host/c/", {}, "a store in which a file appears whole"),
        ("nosuch://host/c.parquet", {}, "a store in which a file appears whole"),
    ):
        with pytest.raises(BadInput, match=words):
            jobs.cost(cost(out, **more))
    with pytest.raises(BadInput, match="expected a folder of this machine for the output"):
        jobs.convert(jobs.ConvertSpec(source="x", classifier="tests.nets:convnet", out=f"{bucket}/ck"))
    assert everything(bucket) == ["c.parquet", "folder/x"]


@pytest.fixture
def dumb():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("trouble", ["no bucket", "no credentials", "no server", "no answer"])
def test_stores_that_are_not_there(here, s3_settings, trouble, monkeypatch, dumb):  # noqa: F811
    """Protects the user's time: for sets, tables and outputs one line says what is wrong, in seconds, and nothing is done before."""
    monkeypatch.setattr(asking, "WAITS", (0.01,))
    monkeypatch.setattr(asking, "PATIENCE", 3.0)
    fsspec.filesystem("s3").clear_instance_cache()
    if trouble == "no credentials":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, "nothing")
    elif trouble != "no bucket":
        with socket.create_server(("127.0.0.1", 0)) as free:
            nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", nobody if trouble == "no server" else dumb)
    words = {"no bucket": "no-such-bucket", "no credentials": "credentials", "no server": "onnect", "no answer": "no answer in 3 s"}[
        trouble
    ]
    for do in (
        lambda: jobs.cost(cost("s3://no-such-bucket/c.parquet")),
        lambda: jobs.cost(cost("s3://no-such-bucket/c/")),
        lambda: jobs.cost(cost("c.parquet", images="s3://no-such-bucket/x.npz")),
        lambda: jobs.status(jobs.StatusSpec(run="s3://no-such-bucket/c/")),
        lambda: read_measurements("s3://no-such-bucket/c/"),
    ):
        begin = time.monotonic()
        with pytest.raises(BadInput, match=r"^expected .*s3://no-such-bucket/.*; ") as caught:
            do()
        assert words in str(caught.value)
        assert time.monotonic() - begin < 60
    fsspec.filesystem("s3").clear_instance_cache()


def test_one_job_is_begun_once(bucket, here):  # noqa: F811
    """Protects shares that begin together: the first description of the job stays."""
    path = as_path(f"{bucket}/c/{RECORDS}/{JOB}")
    threads = [threading.Thread(target=store.OBJECTS.create, args=(path, f"{number}".encode())) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = fsspec.core.url_to_fs(bucket)[0].cat_file(f"bucket/c/{RECORDS}/{JOB}")
    store.OBJECTS.create(path, b"late")
    assert fsspec.core.url_to_fs(bucket)[0].cat_file(f"bucket/c/{RECORDS}/{JOB}") == first


def test_urls_as_paths(tmp_path, monkeypatch):
    """Protects what people read: a path in a store is written as its URL, and a spec comes back from JSON as it was."""
    monkeypatch.chdir(tmp_path)
    for text in ("s3://b/x/c.parquet", pathlib.Path("s3://b/x/c.parquet")):
        path = as_path(text)
        assert isinstance(path, Url)
        assert str(path) == "s3://b/x/c.parquet"
        assert [str(one) for one in (path.parent, path.with_name("d"), path / "e")] == ["s3://b/x", "s3://b/x/d", "s3://b/x/c.parquet/e"]
        assert path.suffix == ".parquet"
    assert not isinstance(as_path("c:/x"), Url)
    assert as_path("file:///tmp/x") == pathlib.Path("/tmp/x")
    os.mkdir("s3:")
    assert not isinstance(as_path("s3:/x"), Url)
    os.rmdir("s3:")
    made = cost("s3://b/c/", images=pathlib.Path("s3://b/set"))
    assert isinstance(made.out, Folder)
    assert made.as_json()["out"] == "s3://b/c/"
    assert made.as_json()["images"] == "s3://b/set"
    again = jobs.CostSpec.of_json(made.as_json())
    assert again.as_json() == made.as_json()
    assert isinstance(again.out, Folder)


@pytest.mark.slow
def test_kill_9_in_a_store(here, s3_settings, tmp_path):  # noqa: F811
    """Protects a real job: killed with -9 at some moments, it loses and doubles no row, and does little twice, with set and run in S3."""
    system = fsspec.filesystem("s3")
    system.mkdir("killed")
    np.savez("x.npz", x=np.random.default_rng(0).random((120, 8, 8, 1), np.float32))
    system.put_file("x.npz", "killed/x.npz")
    given = ["--classifier", NET, "--images", "s3://killed/x.npz", "--attacks", "bim", "--max-steps", "1000", "--epsilon", "0.001"]
    root = pathlib.Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    options = ["cost", *given, "--part", "4", "--out"]
    subprocess.run([*held(), *options, "s3://killed/alone.parquet"], check=True, env=environment, capture_output=True, timeout=400)
    done = 0
    for _ in range(3):
        with subprocess.Popen([*held(8), *options, "s3://killed/k.parquet"], env=environment, stdout=subprocess.DEVNULL) as running:
            deadline = time.monotonic() + 240
            while time.monotonic() < deadline and running.poll() is None and units(Url("s3://killed/k.parquet.run/bim")) <= done:
                time.sleep(0.05)
            running.kill()
        found = units(Url("s3://killed/k.parquet.run/bim"))
        assert found > done
        done = found
    ended = subprocess.run([*held(), *options, "s3://killed/k.parquet"], env=environment, capture_output=True, text=True, timeout=400)
    assert (ended.returncode, ended.stderr) == (0, "")
    system.invalidate_cache()
    assert sorted(system.ls("killed")) == ["killed/alone.parquet", "killed/k.parquet", "killed/x.npz"]
    equal(content(fetched("s3://killed/k.parquet")), content(fetched("s3://killed/alone.parquet")))
    system.rm("killed", recursive=True)


def units(folder: pathlib.Path) -> int:
    return len(store.OBJECTS.names(folder))


def test_commands(here, s3_settings):  # noqa: F811
    """Protects scripts: exit codes, one line without a traceback, and URLs written as such, also after a signal."""
    command = [sys.executable, "-m", "a2d_jax", "predict", "--classifier", NET, "--images", "x.npz", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2])}
    ended = subprocess.run([*command, "s3://no-such-bucket/p.parquet"], env=environment, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert "s3://no-such-bucket/p.parquet" in line
    fsspec.filesystem("s3").mkdir("command")
    ended = subprocess.run([*command, "s3://command/p/"], env=environment, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 3
    assert "s3://command/p" in ended.stdout
    fsspec.filesystem("s3").rm("command", recursive=True)
