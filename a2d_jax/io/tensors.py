"""Named tensors of a file, read on demand: shapes first, values later.

Types that NumPy lacks (bfloat16, the float8 types) have the names here that PyTorch and safetensors use.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from a2d_jax.errors import BadInput
from a2d_jax.imports import one_line

Arrays = dict[str, np.ndarray]

_NARROW = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
_PLAIN = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool", "complex64")
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(name) for name in _PLAIN} | {
    name: np.dtype(getattr(ml_dtypes, name)) for name in _NARROW if hasattr(ml_dtypes, name)
}
"""By PyTorch's names."""
SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32",
    "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor in a file.

    Attributes:
      shape: of the tensor.
      dtype: of its values; None for a kind that is not read.
      load: reads its values.
      kind: what it is, for an error.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    load: Callable[[], np.ndarray] = field(repr=False)
    kind: str = "tensor"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The values; float16 and narrower become float32, which holds them all exactly.

        Raises:
          BadInput: the file ends before them, or is damaged.
        """
        try:
            array = self.load()
            narrow = array.dtype.itemsize < 4 and is_float(array.dtype)
        except Exception as error:  # whatever the damage leads to
            raise BadInput(
                f"expected a whole tensor of shape {self.shape} in the file, got a damaged one ({one_line(error)}); fetch it again"
            ) from error
        return array.astype(dtype or np.float32) if narrow or dtype is not None else array


def is_float(dtype: Any) -> bool:
    """Whether a type is of real floating point, those that NumPy lacks included."""
    return np.issubdtype(dtype, np.floating) or dtype in [DTYPES.get(name) for name in _NARROW]


def strided(data: bytes | memoryview, dtype: np.dtype[Any], offset: int, shape: Sequence[int], stride: Sequence[int]) -> np.ndarray:
    """An array over some bytes, as PyTorch describes it: offset and strides count elements.

    Raises:
      ValueError: it does not lie within the bytes.
    """
    flat = np.frombuffer(data, f"u{dtype.itemsize}")  # NumPy's strides know plain types alone
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if 0 in shape:
        return np.zeros(shape, dtype)
    if offset < 0 or min([0, *shape, *stride]) < 0 or last >= len(flat):
        raise ValueError("a tensor that reaches beyond its storage")
    steps = [step * flat.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(flat[offset:], tuple(shape), steps, writeable=False).view(dtype)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file: the length of a header, the header in JSON, and the bytes of all tensors.

    Raises:
      ValueError: damaged.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if 8 + length > size:
            raise ValueError("it ends before its header does")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    header.pop("__metadata__", None)
    return {name: _safe(path, 8 + length, size, name, about) for name, about in header.items()}


def _safe(path: Path, start: int, size: int, name: str, about: Mapping[str, Any]) -> Tensor:
    shape, (begin, end) = tuple(map(int, about["shape"])), map(int, about["data_offsets"])
    dtype = DTYPES.get(SAFETENSORS.get(about["dtype"], ""))
    if dtype is None:
        return Tensor(shape, None, bytes, f"tensor of the type {about['dtype']}")  # type: ignore[arg-type]
    if not 0 <= begin <= end <= size - start or min((0, *shape)) < 0 or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} does not lie within it")

    def load() -> np.ndarray:
        with path.open("rb") as file:
            file.seek(start + begin)
            return np.frombuffer(file.read(end - begin), dtype).reshape(shape)

    return Tensor(shape, dtype, load)


def shards(index: Path) -> list[Path]:
    """The files that an index of a sharded checkpoint (`*.index.json`) names, all beside it.

    Raises:
      BadInput: no such index, or a file is missing.
    """
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        names = sorted({name for name in named if isinstance(name, str) and name == Path(name).name})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"expected an index with a weight_map (names of tensors and files), got none in {index}; fetch it again") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing or not names:
        raise BadInput(
            f"expected all files that {index} names beside it, got a folder without {', '.join(missing) or 'any'}; fetch them too"
        )
    return [index.parent / name for name in names]
