"""Readers take any bytes: random, cut off, changed, or joined from two files. They give a result or a `BadInput`.

They never raise another exception, hang, or run code from the bytes. The examples are the same every time;
`FUZZ=2000 python -m pytest tests/test_fuzz.py` tries 2000 new ones for each reader.
"""

import gzip
import io
import json
import os
import pickle
import shutil
import signal
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from a2d_jax.detectors import ZScore
from a2d_jax.errors import BadInput
from a2d_jax.io import hdf5 as hdf5_files
from a2d_jax.io import tables
from a2d_jax.io.checkpoints import load, make_module, save
from a2d_jax.io.cifar import open_cifar_python
from a2d_jax.io.convert import read_arrays
from a2d_jax.io.detectors import StoredDetector, read_detector, write_detector
from a2d_jax.io.images import open_images
from a2d_jax.io.measurements import read_measurements

EXAMPLES = int(os.environ.get("FUZZ", "0"))
LIMIT = 20
"""Seconds that a reader may take for a file of some hundred bytes."""


class Hang(BaseException):
    """A reader did not end."""


@contextmanager
def limited() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries about what they read
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


# Files that are right.


def written(name: str, write: Callable[[Path], object]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, name))
        return Path(folder, name).read_bytes()


def encoded(form: str, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)).convert(mode).save(stream, form)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


X = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)


def parquet(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def pictures() -> list[bytes]:
    return [
        parquet(pa.table({"image": [encoded("PNG"), encoded("JPEG")], "label": [0, 1]})),
        parquet(pa.table({"x": pa.array(X.reshape(3, -1).tolist(), pa.list_(pa.uint8()))}).replace_schema_metadata({"shape": "[4, 4, 1]"})),
    ]


def tars() -> list[bytes]:
    members = {"0.png": encoded("PNG"), "0.cls": b"3", "1.jpg": encoded("JPEG"), "1.json": b'{"label": 4}'}
    found: list[bytes] = []
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form) as file:
            for name, data in members.items():
                member = tarfile.TarInfo("é" * 60 + name)  # a name that takes a header of its own
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
        found.append(stream.getvalue())
    return found


def costs(path: Path) -> None:
    n = 4
    columns = {"index": range(n), "id": [str(i) for i in range(n)], "attack": ["bim"] * n, "label": [0] * n, "cost": [3, 4, 5, 501]}
    columns |= {"iterations": [3, 4, 5, 500], "success": [True] * 3 + [False], "censored": [False] * 3 + [True]}
    columns |= {"forward_queries": [4] * n, "backward_queries": [4] * n, "distance": [0.1] * n, "preset": ["mnist"] * n, "seed": [0] * n}
    with tables.table_writer(path, tables.COSTS, {"attacks": {"bim": {"max_steps": 500}}, "norms": {"bim": "linf"}}) as write:
        write({name: list(values) for name, values in columns.items()} | {"error": [None] * n})


def clever(path: Path) -> None:
    n = 3
    columns = {name: [0.5] * n for name in ("score", "margin", "lipschitz", "largest", "shape", "p_value")}
    columns |= {"index": list(range(n)), "id": ["a", "b", "c"], "target": ["target-2"] * n, "label": [0] * n, "target_class": [1] * n}
    with tables.table_writer(path, tables.CLEVER, {"clever": {}, "targets": ["target-2"]}) as write:
        write(columns | {"fitted": [True] * n, "error": [None] * n})


def detector(path: Path) -> None:
    fitted = ZScore().fit(np.arange(20.0)[:, None])
    write_detector(path, StoredDetector(fitted, ("bim",), {"costs": {"attacks": {"bim": {"max_steps": 500}}}}))


def torch_file(zipped: bool) -> bytes:
    torch = pytest.importorskip("torch")
    stream = io.BytesIO()
    weights = {"fc.weight": torch.ones(2, 16), "fc.bias": torch.zeros(2)}
    torch.save({"state_dict": weights, "epoch": 3}, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def safetensors() -> bytes:
    pytest.importorskip("safetensors")
    from safetensors import numpy as numbers

    return numbers.save({"fc.weight": np.ones((2, 16), np.float32), "fc.bias": np.zeros(2, np.float32)})


def hdf5(keras: bool) -> bytes:
    h5py = pytest.importorskip("h5py")
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        group = file.create_group("model_weights/dense/dense" if keras else "layers/dense/vars")
        for name, array in (("kernel:0" if keras else "0", np.ones((16, 2), "f")), ("bias:0" if keras else "1", np.zeros(2, "f"))):
            group[name] = array
        if keras:
            file["model_weights"].attrs["layer_names"] = [b"dense"]
            file["model_weights/dense"].attrs["weight_names"] = [b"dense/kernel:0", b"dense/bias:0"]
    return stream.getvalue()


def archive() -> bytes:
    stream = io.BytesIO()
    layers = [{"class_name": "Dense", "config": {"name": "dense"}}]
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {"layers": layers}}))
        file.writestr("model.weights.h5", hdf5(keras=False))
    return stream.getvalue()


# Files that are wrong.


def changed(random: np.random.Generator, valid: list[bytes]) -> bytes:
    """One of the files, or two, with something done to it."""
    one, other = (valid[random.integers(len(valid))] for _ in range(2))
    match random.integers(8):
        case 0:
            return random.bytes(random.integers(200))
        case 1:
            return one[: random.integers(len(one) + 1)]
        case 2 | 3:
            return flipped(random, one)
        case 4:
            return one[: random.integers(len(one) + 1)] + other[random.integers(len(other) + 1) :]
        case 5:
            begin = random.integers(len(one) + 1)
            return one[:begin] + random.bytes(random.integers(1, 9)) + one[begin + random.integers(9) :]
        case _:
            return inside(random, one)


def flipped(random: np.random.Generator, data: bytes) -> bytes:
    """Some bytes are others, as often as not of the kind that counts and lengths are made of."""
    array = np.frombuffer(data, np.uint8).copy()
    for _ in range(random.integers(1, 6) if len(array) else 0):
        array[random.integers(len(array))] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.integers(256)])
    return array.tobytes()


def inside(random: np.random.Generator, data: bytes) -> bytes:
    """The same a floor deeper, where checksums do not protect: in a member of an archive, in a value of JSON."""
    with suppress(ValueError):
        return json.dumps(other_json(random, json.loads(data))).encode()
    stream = io.BytesIO()
    try:
        with warnings.catch_warnings(), zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
            warnings.simplefilter("ignore")  # of names that come twice
            chosen = random.integers(len(old.namelist()))
            for number, name in enumerate(old.namelist()):
                content = old.read(name)
                new.writestr(name, changed(random, [content]) if number == chosen else content)
    except zipfile.BadZipFile:
        return flipped(random, data)
    return stream.getvalue()


def other_json(random: np.random.Generator, value: Any) -> Any:
    """One value somewhere in it is another."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        name = list(value)[random.integers(len(value))]
        if random.random() < 0.1:
            return {key: one for key, one in value.items() if key != name}
        return value | {name: other_json(random, value[name])}
    if isinstance(value, list) and value and random.random() < 0.7:
        at = random.integers(len(value))
        return [*value[:at], other_json(random, value[at]), *value[at + 1 :]]
    others = [None, True, -1, 0, 2**70, 1e308, float("nan"), "", "inf", "x" * 50, [], [[]], [1, [2]], {}, {"x": 1}, [None], "os:system"]
    return others[random.integers(len(others))]


def hunted(examples: int) -> Callable[[Callable[[int], None]], Callable[[], None]]:
    """Call a check with many seeds, the same ones every time unless the environment says how many new ones."""
    how = settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # a smaller seed makes no simpler file
        suppress_health_check=list(HealthCheck),
    )
    return lambda check: how(given(seed=st.integers(0, 2**63))(check))


# Readers.


def images(path: Path) -> None:
    for shape in (None, (4, 4, 1)):
        with suppress(BadInput):
            list(open_images(path, shape).pieces())


def in_folder(name: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        Image.fromarray(X[0, :, :, 0]).save(path.with_name("right.png"))
        images(path.parent)

    return read


class Reader(NamedTuple):
    """What reads a file of this name, and files that are right."""

    name: str
    read: Callable[[Path], object]
    valid: Callable[[], list[bytes]]
    examples: int = 60


READERS = {
    "png in a folder": Reader("a.png", in_folder("a.png"), lambda: [encoded("PNG"), encoded("PNG", "RGBA"), encoded("PNG", "P")]),
    "jpeg in a folder": Reader("a.jpg", in_folder("a.jpg"), lambda: [encoded("JPEG"), encoded("JPEG", "RGB"), encoded("PNG")]),
    "labels of a folder": Reader(
        "labels.csv", in_folder("labels.csv"), lambda: [b"right.png,3\n", b"file,label\nright.png,3\n", "é.png;1\n".encode("utf-16")]
    ),
    "npz": Reader("x.npz", images, lambda: [npz(x=X, y=np.arange(3)), npz(x=(X / 255).astype("f4"))]),
    "npy": Reader("x.npy", images, lambda: [npy(X), npy(X.astype("f8") / 255), npy(X[:, :, :, 0])]),
    "idx": Reader("x-images-idx3-ubyte", images, lambda: [b"\0\0\x08\x03\0\0\0\3\0\0\0\4\0\0\0\4" + X.tobytes()]),
    "cifar": Reader("data_batch_1.bin", images, lambda: [bytes([3]) + bytes(3072), bytes([3]) + bytes(3072) + bytes([1]) + bytes(3072)]),
    "cifar 100": Reader("train.bin", images, lambda: [bytes([3, 9]) + bytes(3072), (bytes([3, 99]) + bytes(3072)) * 2]),
    "parquet of images": Reader("x.parquet", images, pictures),
    "tar": Reader("x.tar", images, tars),
    "tar packed by gzip": Reader("x.tar", images, lambda: [gzip.compress(data) for data in tars()], 30),
    "costs": Reader("c.parquet", read_measurements, lambda: [written("c", costs), written("c", clever)]),
    "detector": Reader("d.json", read_detector, lambda: [written("d", detector)], 200),
    "torch": Reader("w.pt", read_arrays, lambda: [torch_file(zipped=True), torch_file(zipped=False)], 100),
    "safetensors": Reader("w.safetensors", read_arrays, lambda: [safetensors()]),
    "keras": Reader("w.keras", read_arrays, lambda: [archive()], 15),  # each in a process of its own
    "hdf5": Reader("w.h5", read_arrays, lambda: [hdf5(keras=True), hdf5(keras=False)], 15),
}


@cache
def valid(name: str) -> list[bytes]:
    return READERS[name].valid()


@pytest.mark.parametrize("name", READERS)
def test_files_that_are_right_are_read(name, tmp_path):
    """The files that the others are made from are read, or the test would show little."""
    reader = READERS[name]
    for data in valid(name)[: 1 if name == "labels of a folder" else None]:
        (tmp_path / reader.name).write_bytes(data)
        Image.fromarray(X[0, :, :, 0]).save(tmp_path / "right.png")
        if reader.read in (read_measurements, read_detector, read_arrays):
            reader.read(tmp_path / reader.name)
        else:
            assert list(open_images(tmp_path if "folder" in name else tmp_path / reader.name).pieces())


@pytest.mark.parametrize("name", READERS)
def test_any_bytes(name):
    """A result or a `BadInput`, in bounded time."""
    reader, right = READERS[name], valid(name)

    @hunted(reader.examples)
    def check(seed: int) -> None:
        with tempfile.TemporaryDirectory() as folder, limited():
            path = Path(folder, reader.name)
            path.write_bytes(changed(np.random.default_rng(seed), right))
            with suppress(BadInput):
                reader.read(path)

    check()


def test_hdf5_that_never_ends(tmp_path, monkeypatch):
    """A file on which the library of HDF5 loops for ever, or crashes, is damaged, and what it does is done in another process."""
    monkeypatch.setattr(hdf5_files, "PATIENCE", 3.0)
    (tmp_path / "w.h5").write_bytes(hdf5(keras=True))
    for trial, words in (("while True: pass", "never ends"), ("import os; os.abort()", "crashes")):
        monkeypatch.setattr(hdf5_files, "TRIAL", trial)
        with pytest.raises(BadInput, match=words):
            read_arrays(tmp_path / "w.h5")


def test_any_columns():
    """Tables whose columns are of any type, missing or empty, and whose metadata say anything, are read or refused."""
    right = [pq.read_table(io.BytesIO(data)) for data in valid("costs")]

    @hunted(150)
    def check(seed: int) -> None:
        random = np.random.default_rng(seed)
        table = right[random.integers(len(right))]
        for _ in range(random.integers(1, 4)):
            at = int(random.integers(table.num_columns))
            if random.random() < 0.15:
                table = table.remove_column(at)
            else:
                values = SOME[random.integers(len(SOME))]
                column = pa.array([values[random.integers(len(values))] for _ in range(table.num_rows)], from_pandas=False)
                table = table.set_column(at, table.schema.field(at).name, column)
        if random.random() < 0.5:
            meta = other_json(random, json.loads(table.schema.metadata[b"a2d"]))
            table = table.replace_schema_metadata({"a2d": json.dumps(meta)})
        with tempfile.TemporaryDirectory() as folder, limited():
            pq.write_table(table.slice(0, random.integers(table.num_rows + 1)), Path(folder, "c.parquet"))
            with suppress(BadInput):
                read_measurements(Path(folder, "c.parquet"))

    check()


SOME: list[list[Any]] = [
    [None],
    [1, None],
    [-1, 2**63 - 1, -(2**63)],
    [0.5, float("nan"), float("inf"), 3.0, None],
    ["3", "x", "", "\0", None],
    [b"\xff", b""],
    [True, False, None],
    [[1], [], None],
    [{"a": 1}],
]
"""Values that a column may hold instead of its own."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax leaves event loops behind when it fails
def test_any_checkpoint_folder(tmp_path, monkeypatch):
    """A folder of Orbax in which one file is missing or changed is loaded or refused."""
    (tmp_path / "fuzz_net.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    right = tmp_path / "right"
    save(make_module("fuzz_net:net"), right, factory="fuzz_net:net")
    files = sorted(path.relative_to(right) for path in right.rglob("*") if path.is_file())
    load("fuzz_net:net", right)

    @hunted(40)
    def check(seed: int) -> None:
        random = np.random.default_rng(seed)
        with tempfile.TemporaryDirectory() as folder, limited():
            copy = Path(shutil.copytree(right, Path(folder, "copy")))
            if random.random() < 0.3:
                (copy / "classifier.json").unlink()
            file = copy / files[random.integers(len(files))]
            if random.random() < 0.2 and file.exists():
                file.unlink()
            else:
                file.write_bytes(changed(random, [(right / name).read_bytes() for name in (file.relative_to(copy), files[0])]))
            with suppress(BadInput):
                load("fuzz_net:net", copy)

    check()


NETWORK = """
from flax import nnx

class Net(nnx.Module):
    input_shape = (4, 4, 1)

    def __init__(self):
        self.fc = nnx.Linear(16, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.fc(x.reshape(len(x), 16))

def net():
    return Net()
"""


class Payload:
    """What unpickles to an open file, which is made by it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_no_pickle_runs(tmp_path):
    """A pickle that would make a file makes none, wherever a reader may meet it; the first one shows that it would."""
    made = tmp_path / "made"
    pickled = pickle.dumps({"data": Payload(made), "labels": Payload(made)})
    [file.close() for file in pickle.loads(pickled).values()]
    assert made.exists()
    made.unlink()
    objects = np.array([Payload(made)], object)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_file(zipped=True))) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    files: dict[str, tuple[bytes, Callable[[Path], object]]] = {
        "x.npy": (npy(objects), images),
        "x.npz": (npz(x=objects), images),
        "xy.npz": (npz(x=X, y=objects), images),
        "data_batch_1": (pickled, open_cifar_python),
        "w.pt": (stream.getvalue(), read_arrays),
        "w.pth": (pickled, read_arrays),
        "w.pkl": (pickled, read_arrays),
        "w.bin": (pickled, read_arrays),
        "w.safetensors": (pickled, read_arrays),
        "w.keras": (pickled, read_arrays),
        "d.json": (pickled, read_detector),
        "legacy.pt": (torch_file(zipped=False) + pickled, read_arrays),
        "c.parquet": (pickled, read_measurements),
    }
    for name, (data, read) in files.items():
        (tmp_path / name).write_bytes(data)
        with suppress(BadInput):
            read(tmp_path / name)
        assert not made.exists(), name
