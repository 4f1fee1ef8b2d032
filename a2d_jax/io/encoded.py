"""Image sets that are decoded one image at a time: folders of image files, and parquet."""

import io
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from a2d_jax.errors import BadInput
from a2d_jax.io.source import Block, ImageSource, Shape, content_digest, image_shape, image_type, names_digest, text, unreadable

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")


class Row(NamedTuple):
    """One image as a reader found it: an array of any allowed type, or why there is none."""

    id: str
    image: NDArray[Any] | str
    label: int | None


def _collected(rows: Iterable[Row], size: int, shape: Shape) -> Iterator[Block]:
    """Rows gathered into blocks; an image of another shape or type becomes an error."""
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield _block(batch, shape)
            batch = []
    if batch:
        yield _block(batch, shape)


def _block(rows: list[Row], shape: Shape) -> Block:
    images = [row.image for row in rows]
    error = [image if isinstance(image, str) else _shape_error(image.shape, shape) for image in images]
    good = [image for image, wrong in zip(images, error, strict=True) if wrong is None and not isinstance(image, str)]
    x = np.zeros((len(rows), *shape), good[0].dtype if good else np.uint8)
    for place, image in zip((i for i, wrong in enumerate(error) if wrong is None), good, strict=True):
        x[place] = image
    labels = [row.label for row in rows]
    label = None if None in labels else np.asarray(labels, np.int64)
    return Block(x, label, [row.id for row in rows], error)


def _shape_error(got: tuple[int, ...], shape: Shape) -> str | None:
    return None if got == shape else f"expected an image of {text(shape)} (h x w x c), got {text(got)}; resize it"


def _decoded(data: bytes, shape: Shape | None) -> NDArray[np.uint8] | str:
    """The pixels of an encoded image, grey or RGB as `shape` asks (else as the image is), or what is wrong with it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                return f"expected 8 bits per channel, got an image of mode {image.mode}; convert it to 8 bits"
            own = 1 if image.mode in ("1", "L", "LA") else 3
            channels = shape[2] if shape and shape[2] in (1, 3) else own
            size = (image.height, image.width, channels)
            if shape and (wrong := _shape_error(size, shape)):
                return wrong  # told by the header: an image that is far too large is never decoded
            return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(size)
    except UnidentifiedImageError:
        return "expected an image, got a file of no known image format; save it again"
    except Exception as error:  # whatever a decoder raises on damaged bytes concerns this image alone
        return f"expected a readable image, got a corrupt or truncated one ({error or type(error).__name__}); save it again"


def _first_good(rows: Iterable[Row], path: Path, shape: Shape | None) -> Shape:
    """The shape of the first image that can be used; none at all is an error of the whole set."""
    first: str | None = None
    count = 0
    for row in rows:
        if not isinstance(row.image, str):
            return image_shape((1, *row.image.shape), path)
        first = first or f"{row.id}: {row.image}"
        count += 1
    wanted = f" of {text(shape)} (h x w x c)" if shape else ""
    raise BadInput(f"expected images{wanted} in {path}, got {count} of which none can be used; the first is {first}")


def _image_files(folder: Path) -> list[Path]:
    files = [*folder.glob("*"), *folder.glob("*/*")]
    return sorted((file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()), key=Path.as_posix)


def open_folder(path: Path, shape: Shape | None) -> ImageSource:
    """Image files of the folder and of its sub-folders, sorted by name.

    Sub-folders named by integers are labels. Other names are not: which class a name means only the classifier's author knows.
    """
    files = _image_files(path)
    if not files:
        raise BadInput(f"expected image files ({', '.join(SUFFIXES)}) in {path}, got none there or one folder down; check the path")
    labels = all(file.parent != path and file.parent.name.isdecimal() for file in files)

    def row(file: Path) -> Row:
        try:
            image = _decoded(file.read_bytes(), shape)
        except OSError as error:
            image = f"expected a readable file, got {error}; check its permissions"
        return Row(file.relative_to(path).as_posix(), image, int(file.parent.name) if labels else None)

    wanted = _first_good(map(row, files), path, shape)  # `row` keeps to `shape`: where none was asked, nothing is converted
    return ImageSource(
        path,
        files,
        len(files),
        wanted,
        labels,
        lambda size: _collected(_ahead(row, files), size, wanted),
        lambda: names_digest(path, files),
    )


def _ahead(function: Callable[[Path], Row], items: Iterable[Path], depth: int = 64) -> Iterator[Row]:
    """`map` on a few threads, in order, at most `depth` results ahead of the reader."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        waiting: deque[Future[Row]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def open_parquet(path: Path, shape: Shape | None) -> ImageSource:
    """A table with a column of tensors, of lists, or of encoded images (as Hugging Face data sets have them)."""
    with pq.ParquetFile(path) as file:
        schema, count = file.schema_arrow, file.metadata.num_rows
    if not count:
        raise BadInput(f"expected at least one image, got a table without rows in {path}; check the file")
    image_column = next((name for name in ("x", "image", "img") if name in schema.names), None)
    if image_column is None:
        raise BadInput(
            f"expected a column x, image or img, got the columns {', '.join(schema.names)} in {path}; rename the one with the images"
        )
    label_column = next((name for name in ("y", "label") if name in schema.names), None)
    if label_column and not pa.types.is_integer(schema.field(label_column).type):
        raise BadInput(
            f"expected labels as integers, got {schema.field(label_column).type} in column {label_column} of {path}; save class numbers"
        )
    columns = [name for name in (image_column, label_column, "id") if name in schema.names]
    image = _parquet_image(schema, image_column, path, shape)

    def rows() -> Iterator[Row]:
        number = 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=256, columns=columns):
                    ids = batch.column("id").to_pylist() if "id" in columns else range(number, number + len(batch))
                    labels: list[int | None] = batch.column(label_column).to_pylist() if label_column else [0] * len(batch)
                    for name, label, value in zip(ids, labels, batch.column(image_column), strict=True):
                        found = image(value) if label is not None else "expected a label, got none; fill it in"
                        yield Row(str(name), found, (label or 0) if label_column else None)
                    number += len(batch)
        except (OSError, pa.ArrowException) as error:
            raise unreadable(path, error) from error

    wanted = _first_good(rows(), path, shape)
    return ImageSource(
        path,
        (path,),
        count,
        wanted,
        label_column is not None,
        lambda size: _collected(rows(), size, wanted),
        lambda: content_digest(path),
    )


def _parquet_image(schema: Any, column: str, path: Path, shape: Shape | None) -> Callable[[Any], NDArray[Any] | str]:
    """How a value of the image column becomes an array: encoded bytes are decoded, tensors and lists get their shape."""
    kind = schema.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return lambda value: _decoded((value.as_py() or {}).get("bytes") or b"", shape)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return lambda value: _decoded(value.as_py() or b"", shape)
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

    def from_numbers(value: Any) -> NDArray[Any] | str:
        if not value.is_valid:
            return "expected an image, got none; fill it in"
        numbers = (value.value if tensor else value).values
        if len(numbers) != size or numbers.null_count:
            return f"expected {size} values ({text(dims)}), got {len(numbers) - numbers.null_count}; repair the row"
        return (value.to_numpy() if tensor else numbers.to_numpy()).reshape(dims)

    return from_numbers


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
