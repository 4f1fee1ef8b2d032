"""Files that PyTorch writes, read without PyTorch and without running anything that they name.

`torch.save` writes a pickle in which tensors point to storages: separate members of a ZIP archive or, before PyTorch 1.6, bytes after the
pickle. The classes and functions that a pickle names are never imported here. Functions that note shape, type and location replace those
that make tensors. `Thing` replaces every other class and keeps the data that the pickle puts into it. So the settings of a training script
do not stop the reading, and a whole pickled network (or TorchScript) becomes a tree of `Thing`s with tensors.

A pickle that names a function of the system (`os.system`) is refused, although nothing would run.
"""

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from a2d_jax.io.tensors import DTYPES, Tensor, strided

MAGIC = 0x1950A86A20F9469CFC6C
"""First object in a file of PyTorch before 1.6."""
SYSTEM = {
    "os",
    "posix",
    "nt",
    "subprocess",
    "sys",
    "shutil",
    "socket",
    "importlib",
    "runpy",
    "pty",
    "ctypes",
    "webbrowser",
    "multiprocessing",
}
CODE = {"eval", "exec", "compile", "open", "__import__", "input", "breakpoint"}
"""Of Python's own functions."""
STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "LongStorage": "int64",
    "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "UntypedStorage": "uint8",
}  # fmt: skip


class AsksForCode(ValueError):
    """A pickle names a function of the system."""


class Thing(dict[Any, Any]):
    """What stands for an object of a class that is not imported: its attributes and items, by name."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Mapping):
                self.update(part)

    def __call__(self, *_: object) -> "Thing":
        """What a function that is not imported would give."""
        return Thing()

    def append(self, _: object) -> None:
        """Lists of a class of their own keep nothing."""

    extend = append
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other


@dataclass(frozen=True)
class _Storage:
    dtype: np.dtype[Any] | None  # None for a kind that is not read
    count: int
    load: Callable[[], bytes]


class _Call:
    """A function that a pickle may call. It has no attributes that a pickle could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes a function")


class NumPyArray(Thing):
    """An array of NumPy; becomes a `Tensor` once the pickle is read."""

    tensor: Tensor | None = None

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, columns_first, data = state
            self.fill(data, dtype, shape, "F" if columns_first else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> "NumPyArray":
        """Take the values, if they are plain numbers."""
        kind = dtype.get("kind") if isinstance(dtype, Thing) else None
        if isinstance(data, bytes | bytearray | str) and isinstance(kind, str) and re.fullmatch(r"[fiu][1248]|b1", kind):
            kept = data.encode("latin1") if isinstance(data, str) else data
            array = np.frombuffer(kept, np.dtype(kind)).reshape(shape, order="F" if order == "F" else "C")
            self.tensor = Tensor(array.shape, array.dtype, lambda: array)
        return self


def read_torch(path: Path) -> Any:
    """The contents of a file: mappings, lists and plain values as they are, `Tensor` for tensors and arrays, `Thing` for anything else.

    Raises:
      AsksForCode: the file names a function of the system.
      Exception: the file is damaged or of another kind; the type of the exception depends on the damage.
    """
    if zipfile.is_zipfile(path):
        return _read_archive(path)
    with path.open("rb") as file:
        return _read_stream(file, path)


def _read_archive(source: Path | BinaryIO) -> Any:
    with zipfile.ZipFile(source) as archive:
        (name,) = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
        folder = name.removesuffix("data.pkl")
        order = archive.read(f"{folder}byteorder").decode() if f"{folder}byteorder" in archive.namelist() else "little"
        content = archive.read(name)

    def storage(kind: str, key: str, count: int) -> _Storage:
        def load() -> bytes:
            with zipfile.ZipFile(source) as archive:
                return archive.read(f"{folder}data/{key}")

        return _Storage(_ordered(kind, order), count, load)

    return _Unpickler(io.BytesIO(content), storage).load()


def _read_stream(file: BinaryIO, path: Path | None) -> Any:
    """A pickle, or several with storages behind them."""
    places: dict[str, int] = {}
    little = ["little"]
    sizes: dict[str, int] = {}

    def storage(kind: str, key: str, count: int) -> _Storage:
        dtype = _ordered(kind, little[0])
        sizes[key] = count * (dtype.itemsize if dtype is not None else 1)

        def load() -> bytes:
            with path.open("rb") if path is not None else _again(file) as again:
                again.seek(places[key])
                return again.read(sizes[key])

        return _Storage(dtype, count, load)

    first = _Unpickler(file, storage).load()
    if first != MAGIC:
        return first
    _Unpickler(file, storage).load()  # version of the format
    system = _Unpickler(file, storage).load()
    little[0] = "little" if not isinstance(system, Mapping) or system.get("little_endian", True) else "big"
    found = _Unpickler(file, storage).load()
    for key in _Unpickler(file, storage).load():
        file.read(8)  # number of elements, which the pickle has told
        places[str(key)] = file.tell()
        file.seek(sizes.get(str(key), 0), io.SEEK_CUR)
    return found


def _again(file: BinaryIO) -> BinaryIO:
    """The bytes of an open file once more."""
    file.seek(0)
    return io.BytesIO(file.read())


def _ordered(kind: str, order: str) -> np.dtype[Any] | None:
    dtype = DTYPES.get(kind)
    return dtype.newbyteorder(">") if dtype is not None and order == "big" and dtype.isbuiltin else dtype


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, storage: Callable[[str, str, int], _Storage]) -> None:
        super().__init__(file, encoding="latin1")
        self.storage = storage
        self.things: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Stands for everything that a pickle names: nothing is imported."""
        if module.partition(".")[0] in SYSTEM or (module in ("builtins", "__builtin__") and name in CODE):
            raise AsksForCode(f"{module}.{name}")
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if name in _CALLS and module.partition(".")[0] in ("torch", "numpy", "copyreg", "copy_reg"):
            return _Call(_CALLS[name])
        if (module, name) == ("_codecs", "encode"):  # how old pickles hold bytes
            return _Call(lambda text, *_: str(text).encode("latin1"))
        if module == "torch" and name in DTYPES:
            return name
        if module.startswith("torch") and name.endswith("Storage"):
            return STORAGES.get(name, name)
        if module.startswith("torch") and name.startswith("_rebuild_"):
            kind = name.removeprefix("_rebuild_").removesuffix("_tensor")
            return _Call(lambda *_: Tensor((), None, bytes, f"tensor of the kind {kind}"))  # type: ignore[arg-type]
        return self.things.setdefault((module, name), type(name.rpartition(".")[2], (Thing,), {"__module__": module}))

    def persistent_load(self, pid: Any) -> Any:
        """A storage; or, in old files, an object beside its source code."""
        if pid[0] == "module":
            return pid[1]
        _, kind, key, _, count, *view = pid
        kind = kind if isinstance(kind, str) else ""
        whole = self.storage(kind, str(key), int(count))
        if view and view[0]:  # old files know storages that are part of another
            _, offset, count = view[0]
            size = whole.dtype.itemsize if whole.dtype is not None else 1
            return _Storage(whole.dtype, count, lambda: whole.load()[offset * size : (offset + count) * size])
        return whole


def _tensor(storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return _described(storage, storage.dtype, offset, size, stride)


def _tensor_v3(storage: _Storage, offset: int, size: Any, stride: Any, grad: bool, hooks: Any, dtype: str, *_: Any) -> Tensor:
    return _described(storage, DTYPES.get(dtype), offset, size, stride)


def _described(storage: _Storage, dtype: np.dtype[Any] | None, offset: int, size: Any, stride: Any) -> Tensor:
    shape, stride = tuple(map(int, size)), tuple(map(int, stride))
    if dtype is None:
        return Tensor(shape, None, bytes, "tensor of a type that is not read")  # type: ignore[arg-type]
    return Tensor(shape, dtype, lambda: strided(storage.load(), dtype, int(offset), shape, stride))


def _made(make: Any, *args: Any) -> Any:
    """What copyreg's functions do: call the class, here a `Thing`."""
    return make() if isinstance(make, type) and issubclass(make, Thing) else Thing()


def _from_type(function: Any, kind: Any, args: Any, *_: Any) -> Any:
    return function(*args) if isinstance(function, _Call) else Thing()


def _storage_of(data: bytes) -> Any:
    """A storage that a plain pickle holds as a whole file of PyTorch."""
    archive = zipfile.is_zipfile(io.BytesIO(data))
    return _read_archive(io.BytesIO(data)) if archive else _read_stream(io.BytesIO(data), None)


def _dtype(kind: object = "", *_: Any) -> Thing:
    thing = Thing()
    thing["kind"] = kind
    return thing


_CALLS: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _tensor_v3,
    "_rebuild_parameter": lambda tensor, *_: tensor,
    "_rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "_rebuild_from_type_v2": _from_type,
    "_load_from_bytes": _storage_of,
    "_reconstructor": _made,
    "__newobj__": _made,
    "__newobj_ex__": _made,
    "_reconstruct": lambda *_: NumPyArray(),
    "_frombuffer": lambda data, dtype, shape, order: NumPyArray().fill(data, dtype, shape, order),
    "dtype": _dtype,
}
