"""Image sets in parquet, in one file or several: tensors, lists of numbers, or encoded images as in Hugging Face data sets."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.encoded import Row, source_of_rows
from a2d_jax.io.labels import LARGEST
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.pixels import Background, decoded
from a2d_jax.io.remote import Files
from a2d_jax.io.source import ImageSource, Shape, content_digest, image_shape, image_type, readable, text

BATCH = 64
"""Rows read at a time."""

BUFFER = 1 << 18
"""Bytes of a column read at a time. Without it, or with its own reading ahead, PyArrow takes a column of a row group at once."""

IMAGE, LABEL = ("x", "image", "img"), ("y", "label", "fine_label")
"""Names of the columns that are read, the likeliest first."""

Image = tuple[NDArray[Any] | str, tuple[str, ...]]
"""An image as an array or why there is none, and what was done to it."""


def open_parquet(
    place: Files,
    files: Sequence[Path],
    shape: Shape | None,
    preprocessing: Preprocessing | None = None,
    background: Background | None = None,
) -> ImageSource:
    """Tables with a column `x`, `image` or `img`; optional `y`, `label` or `fine_label` (of CIFAR-100), and `id`.

    Reading from a later position opens the file that holds it and begins at the row group that contains it. A column is streamed: of a row
    group of many photographs a few are in memory.

    Args:
      place: where the set is.
      files: the shards of the set in their order, with the same columns.
      shape: see `a2d_jax.io.images.open_images`, as for `preprocessing` and `background`.
    """
    path = place.path
    groups: list[tuple[int, int]] = []  # of each row group, its file and its number there
    sizes: list[int] = []
    rows: list[int] = []  # of each file
    schema: Any = None
    first = path  # the file of this schema
    for part, file in enumerate(files):
        with readable(file), place.head(file) as stream, pq.ParquetFile(stream) as opened:
            here = [opened.metadata.row_group(number).num_rows for number in range(opened.num_row_groups)]
            if not sum(sizes):  # an empty file may say nothing of its columns
                schema, first = opened.schema_arrow, file
            elif sum(here):
                _same(schema, opened.schema_arrow, first, file)
        groups += [(part, number) for number in range(len(here))]
        rows.append(sum(here))
        sizes += here
    ends, count = np.cumsum(sizes, dtype=np.int64), sum(sizes)
    if not count:
        raise BadInput(f"expected at least one image, got a table without rows in {path}; check the file")
    image_column = _column(schema, IMAGE)
    if image_column is None:
        raise BadInput(
            f"expected a column x, image or img, got the columns {', '.join(schema.names)} in {path}; rename the one with the images"
        )
    label_column = _column(schema, LABEL)
    if label_column and not pa.types.is_integer(schema.field(label_column).type):
        raise BadInput(
            f"expected labels as integers, got {schema.field(label_column).type} in column {label_column} of {path}; save class numbers"
        )
    columns = [name for name in (image_column, label_column, "id") if name in schema.names]
    image = _reader(schema, image_column, path, shape, partial(decoded, shape=shape, preprocessing=preprocessing, background=background))

    def values(begin: int, end: int) -> Iterator[tuple[str, int | None, Any]]:
        first, last = int(np.searchsorted(ends, begin, "right")), int(np.searchsorted(ends, end))
        at = int(ends[first - 1]) if first else 0
        for number, wanted in groupby(groups[first : last + 1], itemgetter(0)):
            with readable(files[number]), _opened(place.local(files[number])) as file:
                for batch in file.iter_batches(batch_size=BATCH, row_groups=[group for _, group in wanted], columns=columns):
                    here = range(max(begin, at), min(end, at + len(batch)))
                    batch, at = batch.slice(here.start - at, len(here)), at + len(batch)
                    ids = _names(batch.column("id")) if "id" in columns else here
                    labels: list[int | None] = batch.column(label_column).to_pylist() if label_column else [0] * len(batch)
                    yield from zip(map(str, ids), labels, batch.column(image_column), strict=True)

    def row(item: tuple[str, int | None, Any]) -> Row:
        name, label, value = item
        if label is None:
            return Row(name, 0, "expected a label, got none; fill it in")
        if label > LARGEST:
            return Row(name, 0, f"expected a class number below 2^63, got {label}; correct it")
        return Row(name, label if label_column else None, *image(value))

    source = source_of_rows(
        path,
        count,
        values,
        row,
        partial(content_digest, path) if path == files[0] else partial(_footers_digest, files),
        labels=label_column is not None,
        shape=shape,
        preprocessing=preprocessing,
        background=background,
        known=lambda item: (item[0], item[1] if label_column else None),
    )
    return replace(source, fetching=place.fetching(files, np.cumsum(rows, dtype=np.int64)))


@contextmanager
def _opened(path: Path) -> Generator[pq.ParquetFile]:
    """A parquet file; PyArrow takes names that are not UTF-8 as bytes only."""
    with pa.OSFile(os.fsencode(path)) as stream, pq.ParquetFile(stream, buffer_size=BUFFER, pre_buffer=False) as file:
        yield file


def _column(schema: Any, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in schema.names), None)


def _same(schema: Any, other: Any, path: Path, other_path: Path) -> None:
    """Refuse shards of one set whose columns are read in different ways."""
    facts, others = _facts(schema), _facts(other)
    for name in (*IMAGE, *LABEL, "id", "shape"):
        if facts.get(name) != others.get(name):
            raise BadInput(
                f"expected the same columns in all shards of a set, got {name} as {facts.get(name)} in {path} and as {others.get(name)} in "
                f"{other_path}; read them one by one"
            )


def _facts(schema: Any) -> dict[str, str]:
    """How each column is read."""
    found = {name: str(schema.field(name).type) for name in (*IMAGE, *LABEL) if name in schema.names}
    found |= {name: "struct with bytes" for name in found if _is_encoded(schema.field(name).type)}
    found |= {name: "integers" for name in found if pa.types.is_integer(schema.field(name).type)}
    found |= {"id": "names"} if "id" in schema.names else {}
    return found | {"shape": str((schema.metadata or {}).get(b"shape"))}


def _is_encoded(kind: Any) -> bool:
    """Whether values are structs with the bytes of a file, as Hugging Face keeps images."""
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _footers_digest(files: Sequence[Path]) -> str:
    """SHA-256 of the names, sizes and footers of files; a footer has the number of rows and the smallest and largest value of columns."""
    hashed = hashlib.sha256()
    for path in files:
        with readable(path), path.open("rb") as file:
            size = file.seek(-8, os.SEEK_END) + 8
            length = int.from_bytes(file.read(4), "little")
            file.seek(max(0, size - 8 - length))
            hashed.update(os.fsencode(path.name) + f" {size}\n".encode() + file.read())
    return hashed.hexdigest()


def _reader(schema: Any, column: str, path: Path, shape: Shape | None, decode: Callable[[bytes], Image]) -> Callable[[Any], Image]:
    """How a value of the image column becomes an array: encoded bytes are decoded, tensors and lists get their shape."""
    kind = schema.field(column).type
    if _is_encoded(kind):
        return lambda value: decode((value.as_py() or {}).get("bytes") or b"")
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return lambda value: decode(value.as_py() or b"")
    tensor = isinstance(kind, pa.FixedShapeTensorType)
    number = kind.value_type if tensor or isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType) else kind
    if number is kind or not (pa.types.is_integer(number) or pa.types.is_floating(number)):
        raise BadInput(
            f"expected tensors, flat lists of numbers or encoded images, got {kind} in column {column} of {path}; save one of these"
        )
    image_type(np.dtype(number.to_pandas_dtype()), path)
    dims = image_shape((1, *kind.shape), path) if tensor else _list_shape(schema, path) or shape
    if dims is None:
        raise BadInput(f"expected the shape of the images, got lists without `shape` in the metadata of {path}; add it as JSON [h, w, c]")
    size = math.prod(dims)

    def from_numbers(value: Any) -> Image:
        if not value.is_valid:
            return "expected an image, got none; fill it in", ()
        numbers = (value.value if tensor else value).values
        if len(numbers) != size or numbers.null_count:
            return f"expected {size} values ({text(dims)}), got {len(numbers) - numbers.null_count}; repair the row", ()
        return (value.to_numpy() if tensor else numbers.to_numpy()).reshape(dims), ()

    return from_numbers


def _names(column: Any) -> list[Any]:
    """Names, also those whose bytes are no UTF-8, which nothing checks in a table."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column.to_pylist()
    names = column.cast(pa.large_binary()).to_pylist()
    return [name if name is None else name.decode("utf-8", "backslashreplace") for name in names]


def _list_shape(schema: Any, path: Path) -> Shape | None:
    """Shape of flat images from the file's metadata: key `shape`, JSON `[h, w, c]` or `[h, w]`."""
    found = (schema.metadata or {}).get(b"shape")
    if found is None:
        return None
    try:
        return image_shape((1, *map(int, json.loads(found))), path)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"expected `shape` in the metadata of {path} as JSON [h, w, c], got {found.decode(errors='replace')}; correct it"
        ) from error
