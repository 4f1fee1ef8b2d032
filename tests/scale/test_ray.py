"""Ray as an engine: the same tables as the local engine, whatever dies in between; a cluster of two nodes on this machine."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from a2d_jax import jobs
from a2d_jax.cli import main
from a2d_jax.errors import BadInput
from a2d_jax.scale import ray_engine
from a2d_jax.scale.engines import engine
from a2d_jax.scale.ray_engine import Machine, Pool, RayEngine

pytest.importorskip("ray", reason="Ray is not installed here: pip install 'a2d-jax[ray]'")

pytestmark = pytest.mark.xdist_group("ray")  # one process: one cluster at a time

ROOT = pathlib.Path(__file__).parents[2]
COUNT, PART = 320, 16
NET = """
import os, pathlib
import jax
import jax.numpy as jnp
import numpy as np
from a2d_jax.types import Classifier

def net():
    rng = np.random.default_rng(0)
    return Classifier((rng.normal(size=(3, 3, 1, 4)).astype(np.float32) / 2, rng.normal(size=(256, 10)).astype(np.float32) / 3), logits)

def logits(weights, x):
    kernel, dense = weights
    x = jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(x).reshape(-1) @ dense

def drawn():
    "Other weights in every process."
    return Classifier(np.random.default_rng(os.getpid()).normal(size=(64, 10)).astype(np.float32), lambda weights, x: x.ravel() @ weights)

def deadly():
    "Ends every process but that of the command."
    if os.getppid() != int(os.environ["DRIVER"]):
        with open("deaths.txt", "a") as file:
            file.write("x")
        os._exit(1)
    return net()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a network, images and a fitted detector, and what all processes there have in their environment."""
    folder = tmp_path_factory.mktemp("ray")
    (folder / "net.py").write_text(NET)
    rng = np.random.default_rng(1)
    blurred = np.cumsum(rng.normal(size=(COUNT, 8, 8, 1)), axis=1)
    x = (blurred - blurred.min()) / (blurred.max() - blurred.min())
    np.savez(folder / "x.npz", x=x.astype(np.float32), y=rng.integers(0, 10, COUNT))
    return folder


@pytest.fixture(scope="module")
def environment(folder):
    found = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "PYTHONPATH": str(ROOT)}
    return found | {"DRIVER": str(os.getpid())}


@pytest.fixture(scope="module")
def local(folder, environment):
    """Files that the local engine wrote, by job; they are made when a test asks for them."""
    made: dict[str, pathlib.Path] = {}

    def make(job: str) -> pathlib.Path:
        if job not in made:
            made[job] = folder / f"local-{job}{'.npz' if job == 'attack' else '.parquet'}"
            done(folder, environment, *JOBS[job], "--out", made[job])
        return made[job]

    detector = folder / "detector.json"
    done(folder, environment, "fit", "--benign", make("cost"), "--detector", "zscore", "--attack", "bim", "--out", detector)
    return make


class Cluster:
    """A cluster in a process of its own, which ends with the tests whatever happens."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, str(pathlib.Path(__file__).with_name("ray_cluster.py")), "2"]
        quiet = {"stderr": subprocess.DEVNULL, "env": environment | {"RAY_USAGE_STATS_ENABLED": "0"}}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **quiet)
        self.address = self.process.stdout.readline().strip()

    def tell(self, what: str) -> None:
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "ok\n"


@pytest.fixture(scope="module")
def cluster(environment):
    cluster = Cluster(environment)
    with cluster.process:
        yield cluster
        cluster.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            cluster.process.wait(20)
        cluster.process.kill()


IMAGES = ("--classifier", "net:net", "--images", "x.npz")
JOBS = {
    "predict": ("predict", *IMAGES, "--part", PART),
    "cost": ("cost", *IMAGES, "--attacks", "bim,jsma", "--part", PART),
    "attack": ("attack", *IMAGES, "--attack", "bim", "--part", PART),
    "clever": ("clever", *IMAGES, "--limit", 48, "--targets", "untargeted,least-likely", "--batches", 5, "--samples", 8),
    "detect": ("detect", *IMAGES, "--detector", "detector.json", "--part", PART),
}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "a2d_jax", "--json", *map(str, arguments)]


def done(folder, environment, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A command that ended, within two minutes and with this code."""
    ended = subprocess.run(command(*arguments), cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert ended.returncode == code, ended.stderr
    return ended


def units(out: pathlib.Path) -> dict[str, int]:
    """The finished units of a job that writes `out`, and when each was written."""
    return {str(path.relative_to(out.parent)): path.stat().st_mtime_ns for path in out.parent.glob(f"{out.name}.run/**/part-*.parquet")}


def wait_for(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def equal(ours: pathlib.Path, theirs: pathlib.Path) -> None:
    """The same rows to the bit, in the same order."""
    if ours.suffix == ".npz":
        with np.load(ours) as one, np.load(theirs) as other:
            for name in set(one.files) - {"a2d"}:
                np.testing.assert_array_equal(one[name], other[name])
    else:
        assert pq.read_table(ours).equals(pq.read_table(theirs))


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_every_job_gives_the_same_on_a_cluster(job, folder, environment, local, cluster):
    """Protects results: two machines that do groups of parts write the same table to the bit, and stdout has the same summary."""
    out = folder / f"ray-{job}{local(job).suffix}"
    ended = done(folder, environment, *JOBS[job], "--out", out, "--engine", "ray", "--address", cluster.address)
    equal(out, local(job))
    assert json.loads(ended.stdout)["failed"] == 0
    assert ended.stderr == ""


@pytest.mark.slow
def test_a_cluster_of_this_machine_starts_and_ends_with_the_command(folder, environment, local):
    """Protects the simplest use: without an address a cluster lives as long as the command, and two actors share the machine."""
    out = folder / "alone.parquet"
    ended = done(folder, environment, *JOBS["cost"], "--out", out, "--engine", "ray", "--actors", 2)
    equal(out, local("cost"))
    assert ended.stderr == ""
    wait_for(lambda: not children())  # a busy machine takes its time to end them


@pytest.mark.slow
def test_a_node_dies_and_then_the_command(folder, environment, local, cluster):
    """Protects finished work: a node is killed, then the driver; the same command ends the job, and no unit that was done is done again."""
    out = folder / "killed.parquet"
    job = (*JOBS["cost"], "--out", out, "--engine", "ray", "--address", cluster.address)
    cluster.tell("add")
    with subprocess.Popen(command(*job), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        wait_for(lambda: len(units(out)) >= 6 or driver.poll() is not None)
        cluster.tell("kill")
        before = len(units(out))
        wait_for(lambda: len(units(out)) >= before + 3 or driver.poll() is not None)
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
    there = units(out)
    assert 9 <= len(there) < 3 * COUNT // PART
    with subprocess.Popen(command(*job), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        wait_for(lambda: len(units(out)) > len(there) or driver.poll() is not None)
        after = units(out)  # actors of the first command may have ended a unit after it
        told, errors = driver.communicate(timeout=400)
    assert driver.returncode == 0, errors
    assert all(after.get(name, there[name]) == there[name] for name in there)
    assert json.loads(told)["images"] == COUNT
    equal(out, local("cost"))
    assert not out.with_name("killed.parquet.run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_and_its_processes(number, folder, environment):
    """Protects people who stop: seconds later nothing runs, finished parts are kept, and one line says so."""
    out = folder / f"{number}.parquet"
    job = (*JOBS["cost"], "--out", out, "--engine", "ray")
    with subprocess.Popen(command(*job), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        wait_for(lambda: len(units(out)) >= 1 or driver.poll() is not None)
        begin = time.monotonic()
        driver.send_signal(number)
        told, errors = driver.communicate(timeout=90)
    assert driver.returncode == 128 + number
    assert time.monotonic() - begin < 40
    assert told == ""
    assert errors.startswith("a2d: interrupted")
    assert "the same command goes on" in errors
    assert errors.count("\n") == 1
    assert len(units(out)) >= 1
    wait_for(lambda: not children())  # a busy machine takes its time to end them


@pytest.mark.slow
def test_bad_input_that_an_actor_finds(folder, environment, cluster):
    """Protects people who erred: what only an actor can see is one line and code 1, as at home, and is not tried again."""
    job = ("cost", "--classifier", "net:drawn", "--images", "x.npz", "--attacks", "bim", "--out", "no.parquet")
    ended = done(folder, environment, *job, "--engine", "ray", "--address", cluster.address, code=1)
    assert ended.stderr.startswith("a2d: error: expected the job that")
    assert "weights_sha256" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (folder / "no.parquet.run").exists()


@pytest.mark.slow
def test_actors_that_always_die_are_not_started_for_ever(folder, environment, cluster):
    """Protects machines: a process that dies whenever it opens the job is tried a bounded number of times, and the user hears of each."""
    twice = "import sys; from a2d_jax.scale import ray_engine; ray_engine.ATTEMPTS = 2; from a2d_jax.cli import main; sys.exit(main())"
    job = ["cost", "--classifier", "net:deadly", "--images", "x.npz", "--attacks", "bim", "--limit", "16", "--out", "dead.parquet"]
    arguments = [sys.executable, "-c", twice, *job, "--engine", "ray", "--address", cluster.address]
    ended = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 1
    first, second = ended.stderr.splitlines()
    assert first.startswith("a2d: Ray failed (ActorDiedError")
    assert second.startswith("a2d: error: expected the machines to finish the job, got ActorDiedError")
    assert len((folder / "deaths.txt").read_text()) == 2 * (1 + ray_engine.RETRIES)


def children() -> list[str]:
    """Processes of Ray that belong to no cluster of a test: those whose parent has ended, or that a command has left behind."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if "MapWorker" in line and "defunct" not in line]


@pytest.mark.parametrize(
    ("asked", "machines", "expected"),
    [
        (RayEngine(), [Machine(16, 0)] * 3, Pool(3, 9, 0, None)),
        (RayEngine(), [Machine(1, 0)], Pool(1, 1, 0, None)),
        (RayEngine(), [Machine(0, 0), Machine(8, 4), Machine(8, 4)], Pool(8, 1, 1, 2)),
        (RayEngine(gpus=0.5), [Machine(8, 2)], Pool(4, 1, 0.5, 2)),
        (RayEngine(gpus=0), [Machine(8, 2)], Pool(1, 5, 0, None)),
        (RayEngine(actors=4), [Machine(8, 0)] * 2, Pool(4, 3, 0, 4)),
        (RayEngine(actors=100), [Machine(8, 0)], Pool(8, 1, 0, 1)),
        (RayEngine(actors=2, cpus=4), [Machine(8, 0)], Pool(2, 4, 0, 4)),
    ],
)
def test_actors_fit_the_machines(asked, machines, expected):
    """Protects the cluster: an actor for each machine or GPU by default, never more than fit, and each computes on its own cores."""
    assert asked.pool(machines) == expected


def test_machines_that_cannot_do_it_are_refused():
    """Protects against waiting for ever: an actor that fits nowhere is refused before the work."""
    with pytest.raises(BadInput, match="expected a machine with 1 CPUs and 2 GPUs for an actor, got at most 8 and 1; lower"):
        RayEngine(gpus=2).pool([Machine(8, 1)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "spark"}, "expected an engine among local, ray, got spark"),
        ({"name": "local", "actors": 2}, "expected --engine ray for --actors, got the engine local"),
        ({"name": "local", "address": "auto", "gpus": 1}, "for --address, --actor-gpus, got the engine local"),
        ({"name": "ray", "actors": 0}, "expected --actors of at least 1, got 0"),
        ({"name": "ray", "gpus": -1}, "expected --actor-gpus of at least 0, got -1"),
        ({"name": "ray", "address": "foo"}, "expected an address such as auto or HOST:PORT, got foo"),
    ],
)
def test_settings_of_engines(settings, message):
    """Protects people who mistype: settings without meaning are refused before the work."""
    with pytest.raises(BadInput, match=message):
        engine(**settings)


def test_without_ray(monkeypatch):
    """Protects people without the extra: one line says how to get it."""
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'a2d-jax\[ray\]'"):
        engine("ray")


def test_nobody_at_the_address(capsys, folder, monkeypatch):
    """Protects against waiting: an address where no cluster answers is refused in one line."""
    monkeypatch.chdir(folder)
    arguments = [*map(str, JOBS["predict"]), "--out", "p.parquet", "--engine", "ray", "--address", "127.0.0.1:9"]
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("a2d: error: expected a Ray cluster at 127.0.0.1:9, got ConnectionRefusedError")


def test_a_spec_travels_as_json():
    """Protects jobs elsewhere: a spec that went through JSON is the same spec."""
    spec = jobs.CostSpec(classifier="net:net", images="x", out="out", attacks="bim", plugin=("one", "two"), engine="ray", actor_gpus=0.5)
    assert jobs.spec_of(jobs.name_of(spec), json.loads(json.dumps(spec.as_json()))) == spec
