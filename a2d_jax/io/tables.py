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

PREDICTED = pa.schema(
    [
        *_IMAGE,
        ("label", pa.int64()),
        ("probability", pa.float32()),
        ("truth", pa.int64()),  # label of the set
        ("target", pa.int64()),
        *_PIXELS,
        *_ERROR,
    ]
)
"""What a job keeps of the predictions of a part; `truth` and `target` only where the set has labels and an attack a target."""
RESULTS = pa.schema(
    [
        *_IMAGE,
        ("label", pa.int64()),
        ("target", pa.int64()),
        *[(name, pa.int64()) for name in ("cost", "iterations", "forward_queries", "backward_queries")],
        *[(name, pa.bool_()) for name in ("success", "censored", "broken", "flat")],
        *[(name, pa.float32()) for name in ("distance", "crossing")],
        *_PIXELS,
        *_ERROR,
    ]
)
"""What a job keeps of an attack on a part: all that an attack returns, but for the images."""


def without(schema: Any, *names: str) -> Any:
    """A schema without some of its columns."""
    return pa.schema([field for field in schema if field.name not in names])


def crafted_schema(shape: tuple[int, int, int]) -> Any:
    """Columns of a part of crafted images, which `open_images` reads too."""
    x = pa.fixed_shape_tensor(pa.float32(), shape)
    numbers = [("success", pa.bool_()), ("iterations", pa.int64()), ("distance", pa.float32())]
    return pa.schema([*_IMAGE, ("x", x), ("y", pa.int64()), *numbers, ("target", pa.int64()), *_PIXELS, *_ERROR])


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

    with atomic(path, force) as temporary, temporary.open("wb") as file, pq.ParquetWriter(file, schema) as writer:

        def write(columns: Mapping[str, Any]) -> None:
            writer.write_table(table_of(columns, schema))

        yield write


def table_of(columns: Mapping[str, Any], schema: Any) -> Any:
    """Rows as a pyarrow table.

    Args:
      columns: one sequence or Arrow array per column, a masked array where some have no value. Rows with an `error` keep what identifies
        them, their results become null; images become NaN.
      schema: columns and types; other columns are left out.
    """
    kept = {"index", "fingerprint", "seed", *(field.name for field in schema if pa.types.is_string(field.type))}
    failed = np.asarray([error is not None for error in columns["error"]], bool)

    def array(field: Any) -> Any:
        if field.name in OPTIONAL and field.name not in columns:
            return pa.nulls(len(failed), field.type)
        values = columns[field.name]
        if isinstance(field.type, pa.FixedShapeTensorType):
            images = np.where(failed[:, None, None, None], np.nan, values).astype(np.float32)
            return pa.FixedShapeTensorArray.from_numpy_ndarray(images)
        if field.name in kept:
            return _kept(values, field.type)
        return pa.array(np.asarray(values), field.type, mask=failed | np.ma.getmaskarray(values))

    return pa.Table.from_arrays([array(field) for field in schema], schema=schema)


def columns_of(table: Any) -> dict[str, Any]:
    """The columns of a table that `table_of` made: numbers as NumPy arrays (0 or NaN for rows without a value), text as lists."""
    return {name: _values(table[name].combine_chunks()) for name in table.column_names}


def _values(column: Any) -> Any:
    if isinstance(column.type, pa.FixedShapeTensorType):
        return column.to_numpy_ndarray()
    if pa.types.is_string(column.type):
        return column.to_pylist()
    if pa.types.is_floating(column.type):
        return column.to_numpy(zero_copy_only=False)
    return column.fill_null(False if pa.types.is_boolean(column.type) else 0).to_numpy(zero_copy_only=False)


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
