"""Common to all tests: strict JAX settings, several CPU devices, and the data beside the checkout."""

import ctypes
import gc
import importlib.metadata
import importlib.util
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")  # before JAX starts: sharding is tested on virtual devices
os.environ["JAX_COMPILATION_CACHE_DIR"] = ""  # tests compile for themselves, commands that they run too
# A person who waits gets programs that compile in a fifth of the time. With XLA_FLAGS= (empty) the tests run what users run: .ci/run.
# Releases of jaxlib after 0.10 do not know the second flag, and end the process for it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * importlib.metadata.version("jaxlib").startswith("0.10."),
)

import jax
import pytest
from filelock import FileLock

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

MAPS, MEMORY = pathlib.Path("/proc/self/maps"), pathlib.Path("/proc/self/statm")
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"
NUMBERS = (
    "attacks/",
    "drivers/",
    "models/",
    "nn/",
    "test_boundary_images.py",
    "test_compiled.py",
    "test_contract.py",
    "test_costs.py",
    "test_official.py",
)
"""Tests whose numbers a compiler can change: continuous integration compiles for them as for users."""
GROWTH = 400e6  # bytes of compiled programs and their sources that a process may gather

kept = 0  # bytes that the process held after it last let programs go


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups, pytest the other mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests: those of a file run in one process, which has their fixtures and programs, unless they name another group."""
    for item in items:
        file = item.nodeid.split("::")[0]
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(file))
        if file.removeprefix("tests/").startswith(NUMBERS):
            item.add_marker(pytest.mark.numbers)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to run without the groups: every process would make the fixtures and programs of every file."""
    grouped = getattr(session.config.option, "loadgroup", False)  # set by pytest-xdist in its processes
    if grouped and not all("@" in item.nodeid for item in session.items):
        raise pytest.UsageError(
            "expected pytest-xdist to name the group of every test, got names without; install the versions of constraints.txt"
        )


def pytest_runtest_setup() -> None:
    """Let compiled programs go before the process holds gigabytes, or runs out of memory maps.

    Linux gives a process 65,530 maps (vm.max_map_count). XLA takes about a dozen for each program on a CPU,
    and its compiler ends the process with a segmentation fault when there are none left.
    """
    global kept
    if not MEMORY.exists():
        return
    kept = kept or resident()
    if resident() > kept + GROWTH or MAPS.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        kept = resident()


def resident() -> int:
    return int(MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


NEED_TORCH = (
    "experiments/test_accelerator.py",
    "experiments/test_speed.py",
    "io/test_convert.py",
    "io/test_convert_checks.py",
    "io/test_torch_files.py",
    "models/test_efficientnet.py",
    "models/test_lenet.py",
    "models/test_train.py",
    "models/test_zoo.py",
)
collect_ignore = [] if importlib.util.find_spec("torch") else list(NEED_TORCH)
"""The pass with the newest JAX (.ci/newest) has no PyTorch: these files, and tests that take the fixture `torch`, are left out of it."""


@pytest.fixture(scope="session")
def torch():
    """PyTorch, where it is installed."""
    return pytest.importorskip("torch")


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder with real checkpoints, golden costs and specifications beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no folder `shared` beside the checkout: checks against the full reference data need it")
    return SHARED


def fetched(shared: pathlib.Path, name: str, folder: str) -> pathlib.Path:
    """Folder of a public data set under A2D_DATA, brought there by the script of the shared data if it is missing."""
    root = pathlib.Path(os.environ.get("A2D_DATA", pathlib.Path.home() / ".cache" / "a2d-data"))
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):  # tests run in several processes
        subprocess.run([sys.executable, shared / "data" / "fetch.py", name], check=True, stdout=subprocess.DEVNULL)
    return root / folder


@pytest.fixture(scope="session")
def mnist(shared) -> pathlib.Path:
    """Folder of the MNIST files in IDX format."""
    return fetched(shared, "mnist", "mnist")


@pytest.fixture(scope="session")
def cifar10(shared) -> pathlib.Path:
    """Folder of the CIFAR-10 files in binary format."""
    return fetched(shared, "cifar10", "cifar-10-batches-bin")


@pytest.fixture(scope="module")
def s3_server():
    """A server of S3 on the loopback interface."""
    import s3fs
    from moto.server import ThreadedMotoServer

    s3fs.S3FileSystem.clear_instance_cache()  # they know the server of another file of tests
    started = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    started.start()
    yield "http://{}:{}".format(*started.get_host_and_port())
    started.stop()


@pytest.fixture
def s3_settings(s3_server, monkeypatch, tmp_path):
    """Settings of AWS and a cache that are those of the test alone."""
    found = {"AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (found | {"XDG_CACHE_HOME": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def promoting():
    """Optax's Adam raises a float to an integer power, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield
