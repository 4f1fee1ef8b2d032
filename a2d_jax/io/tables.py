"""Result files: tables of costs, predictions, scores and verdicts as parquet, crafted images as npz.

All are written piece by piece, so that a set may be larger than memory. They appear complete under their final name or not at all. The file
itself contains the settings, versions and hashes of the run, as JSON under the key `a2d`: in the metadata of a parquet table, or as a
member of an npz.
"""

import json
import zipfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from a2d_jax.io.files import atomic
from a2d_jax.measurements import Column

Meta = Mapping[str, Any]

_IMAGE = [("index", pa.int64()), ("id", pa.string())]
_PIXELS = [("fingerprint", pa.int64())]  # by which an image is known, wherever it lies; see `a2d_jax.costs.fingerprints`
_ERROR = [("error", pa.string())]  # null where all went well; else why the columns before it are null
PREDICTIONS = pa.schema([*_IMAGE, ("label", pa.int64()), ("probability", pa.float32()), *_ERROR])
COSTS = pa.schema(
    [
        *_IMAGE,
        ("attack", pa.string()),
        ("label", pa.int64()),
        ("cost", pa.int64()),
        ("iterations", pa.int64()),
        ("success", pa.bool_()),
        ("censored", pa.bool_()),
        ("forward_queries", pa.int64()),
        ("backward_queries", pa.int64()),
        ("distance", pa.float32()),
        ("preset", pa.string()),
        ("seed", pa.int64()),
        ("crossing", pa.float32()),  # null for an attack that has none
        ("target", pa.int64()),  # class to reach; null for an attack that leaves the label
        *_PIXELS,
        *_ERROR,
    ]
)

CLEVER = pa.schema(
    [
        *_IMAGE,
        ("target", pa.string()),
        ("label", pa.int64()),
        ("target_class", pa.int64()),
        ("score", pa.float64()),
        ("margin", pa.float64()),
        ("lipschitz", pa.float64()),
        ("largest", pa.float64()),
        ("shape", pa.float64()),
        ("p_value", pa.float64()),
        ("fitted", pa.bool_()),
        *_PIXELS,
        *_ERROR,
    ]
)
OPTIONAL = ("crossing", "target", "fingerprint")
"""Columns that may be left out, and are null then."""


def verdicts_schema(columns: Sequence[Column]) -> Any:
    """Columns of a table of verdicts, with the numbers behind each verdict."""
    read = [(name, pa.int64() if column.is_cost else pa.float64()) for name, column in zip(verdict_columns(columns), columns, strict=True)]
    return pa.schema([*_IMAGE, ("label", pa.int64()), ("score", pa.float64()), ("adversarial", pa.bool_()), *read, *_ERROR])


def verdict_columns(columns: Sequence[Column]) -> list[str]:
    """Column names of the numbers behind a verdict."""
    return [f"cost_{column.measurement}" if column.is_cost else str(column) for column in columns]


@contextmanager
def table_writer(path: str | Path, schema: Any, meta: Meta, force: bool = True) -> Generator[Callable[[Mapping[str, Any]], None]]:
    """Write a parquet table piece by piece.

    Args:
      path: the file, which appears when the block ends well.
      schema: columns and types (`COSTS`, `PREDICTIONS`, `CLEVER`, `verdicts_schema(...)`).
      meta: settings of the run, anything JSON can say.
      force: replace a file that is there when the block ends.

    Yields:
      `write(columns)`: append rows, given as one sequence or Arrow array per column (a masked array where some have no value); rows with
      an `error` keep `index`, `id` and what identifies them, their results become null.
    """
    schema = schema.with_metadata({"a2d": json.dumps(meta)})
    kept = {"index", "fingerprint", "seed", *(field.name for field in schema if pa.types.is_string(field.type))}

    with atomic(path, force) as temporary, temporary.open("wb") as file, pq.ParquetWriter(file, schema) as writer:

        def write(columns: Mapping[str, Any]) -> None:
            failed = np.asarray([error is not None for error in columns["error"]], bool)
            arrays = [
                pa.nulls(len(failed), field.type)
                if field.name in OPTIONAL and field.name not in columns
                else _kept(columns[field.name], field.type)
                if field.name in kept
                else pa.array(np.asarray(columns[field.name]), field.type, mask=failed | np.ma.getmaskarray(columns[field.name]))
                for field in schema
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

        yield write


def _kept(values: Any, kind: Any) -> Any:
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)


@contextmanager
def npz_writer(path: str | Path, count: int, shape: tuple[int, int, int], meta: Meta, force: bool = True) -> Generator[Callable[..., None]]:
    """Write crafted images piece by piece into an npz that `open_images` and `numpy.load` read.

    Members: `x` (float32, `n h w c`), `y` (int64), `success` (bool), `index` (int64), `error` (text, empty where all went well),
    `target` (int64, of a targeted attack), `a2d` (JSON). Rows with an error have NaN in `x`, so that whoever reads them next reports
    them too.

    Args:
      path: the file, which appears when the block ends well.
      count: number of images that will be written.
      shape: height, width, channels.
      meta: settings of the run.
      force: replace a file that is there when the block ends.

    Yields:
      `write(x=, y=, success=, index=, error=)`: append images.
    """
    rest: dict[str, list[NDArray[Any]]] = {}
    types = {"y": np.int64, "success": np.bool_, "index": np.int64, "error": np.str_, "target": np.int64}

    with atomic(path, force) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (count, *shape)})

            def write(x: NDArray[np.float32], error: Sequence[str | None], **columns: NDArray[Any]) -> None:
                failed = np.asarray([text is not None for text in error], bool)
                member.write(np.where(failed[:, None, None, None], np.nan, x).astype("<f4").tobytes())
                for name, values in {**columns, "error": [text or "" for text in error]}.items():
                    rest.setdefault(name, []).append(np.asarray(values, types[name]))

            yield write
        arrays = {name: np.concatenate(pieces) for name, pieces in rest.items()} | {"a2d": np.asarray(json.dumps(meta))}
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def stretched(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch each image to its own range (darkest pixel 0, brightest 1) and round it to 8 bits.

    SciPy's image writer, since removed, did this. So did Wang et al., arXiv:1812.05793, who wrote their crafted images with it (the paper's
    second environment). An image of a single value becomes black.

    Args:
      x: images `n h w c` of any range.

    Returns:
      Multiples of 1/255 in [0, 1].
    """
    low, high = x.min((1, 2, 3), keepdims=True), x.max((1, 2, 3), keepdims=True)
    share = (x - low) / np.where(high > low, high - low, 1)
    return np.floor(share * 255 + 0.5).astype(np.float32) / np.float32(255)
