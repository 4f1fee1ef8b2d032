"""What every test shares: strict JAX settings, several CPU devices, and the data that lies beside the checkout."""

import importlib.util
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")  # before JAX starts: sharding is tested on virtual devices
os.environ["JAX_COMPILATION_CACHE_DIR"] = ""  # tests compile for themselves, commands that they run too

import jax
import pytest
from filelock import FileLock

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

MAPS = pathlib.Path("/proc/self/maps")
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


def pytest_runtest_setup() -> None:
    """Let compiled programs go before the process runs out of memory maps.

    Linux gives a process 65,530 maps (vm.max_map_count). XLA takes about a dozen for each program on a CPU,
    and its compiler ends the process with a segmentation fault when there are none left: the suite in two processes
    comes that far.
    """
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


NEED_TORCH = (
    "experiments/test_accelerator.py",
    "experiments/test_speed.py",
    "io/test_convert.py",
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
