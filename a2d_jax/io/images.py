"""Open image sets: a folder of image files or of shards, `.npz`, `.npy`, IDX, CIFAR, parquet or tar. The path decides the kind.

Opening reads as little as possible. `ImageSource.pieces` reads from front to back, one piece ahead, and holds at most two pieces in memory,
so that a set may be larger than memory; `ImageSource.rows` reads from any position. `reopen` opens a set from its description, which is
plain data, for instance on another machine. A bad image (corrupt, of another size, NaN, outside [0, 1]) gives a row with an error; a bad
file raises `BadInput` before any work is done. Nothing is unpickled, and nothing is resized unless the classifier says how.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from a2d_jax.errors import BadInput
from a2d_jax.io import datasets, probe
from a2d_jax.io.arrays import open_idx, open_npy, open_npz
from a2d_jax.io.cifar import PICKLE, open_cifar, open_cifar_python
from a2d_jax.io.folder import Classes, images_of, open_folder
from a2d_jax.io.here import Here
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.pixels import Background
from a2d_jax.io.remote import Cache, Files, is_pattern, open_remote
from a2d_jax.io.shards import left_out, open_shards, shards_of
from a2d_jax.io.source import Block, Description, ImageSource, Piece, Shape, check_shape, readable
from a2d_jax.io.urls import Url, as_path

__all__ = ["Description", "ImageSource", "Piece", "Shape", "open_images", "reopen"]

FORMS = "a folder of image files or of shards, .npz, .npy, IDX, CIFAR-10 or CIFAR-100, .parquet or .tar"


def open_images(
    path: str | Path,
    shape: Shape | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    classes: Classes | None = None,
    background: str | None = None,
    cache: Cache | None = None,
) -> ImageSource:
    """Open a set of images; `path` decides the kind.

    Args:
      path: a folder of image files (also one level of sub-folders; `a2d_jax.io.folder` says what their labels are), `.npz` (key `x`,
        optional `y`), `.npy`, IDX (optionally `.gz`; its labels file is found by name), CIFAR-10 or CIFAR-100 (binary or a pickled
        batch), parquet (column `x` of fixed-shape tensors, or of lists with `shape` in the file's metadata; or column `image` or `img`
        of encoded images; optional `y`, `label` or `fine_label`, and `id`), or tar (`a2d_jax.io.tar`). A folder of parquet files, of tar
        files or of the records of TensorFlow Datasets is one set; so is what a pattern names: `folder/train-*.parquet`. uint8, or
        floating point in [0, 1]; `n h w c`, or `n h w` for one channel. All but TensorFlow Datasets also by URL: `s3://bucket/set`,
        `gs://bucket/x.npz`.
      shape: height, width, channels that the classifier expects; encoded images are converted between grey and RGB to fit it.
      preprocessing: how encoded images of another size get this shape; without it they are errors.
      classes: names of the classifier's classes in order, or their number; they identify sub-folders.
      background: colour behind transparent pixels of encoded images: a grey value from 0 (black) to 255 (white), a colour name or #rrggbb.
        Without it an image with transparent pixels is an error.
      cache: where files of a set by URL are kept; default 20 GB in the folder of the program's own data.

    Raises:
      BadInput: no such colour, no such path, no usable image, or a file of another kind, type or shape.
    """
    given = as_path(path)
    files = open_remote(str(given), cache) if isinstance(given, Url) else Here(Path(given))
    path = files.path
    if isinstance(files, Here) and not path.exists() and not (is_pattern(path.name) and _matching(files)):
        raise BadInput(f"expected images ({FORMS}), got {path}, which does not exist; check the path")
    origin = {
        "path": str(path.absolute()) if isinstance(files, Here) else files.url,
        "shape": shape and list(shape),
        "preprocessing": preprocessing and asdict(preprocessing),
        "classes": classes if classes is None or isinstance(classes, int) else list(classes),
        "background": background,
    }
    with readable(path), probe.opening(origin) as found:
        source = _open(files, shape, preprocessing, classes, None if background is None else Background(background))
    if not source.count:
        raise BadInput(f"expected at least one image, got none in {path}; check the file")
    check_shape(source, shape)
    return replace(source, origin=found)


def reopen(description: Description | None) -> ImageSource:
    """Open a set from `ImageSource.description`: the same images in the same order, a limit included.

    `ImageSource.digest` tells whether they are the same bytes.

    Raises:
      BadInput: not a description, the set is missing, or it has fewer images than described.
    """
    if description is None:
        raise BadInput("expected the description of a set on disk, got None, as of a set in memory; save its images with numpy.savez")
    try:
        count = int(description["count"])
        shape = None if description["shape"] is None else _shape(description["shape"])
        preprocessing = None if description["preprocessing"] is None else Preprocessing(**description["preprocessing"])
        background = description.get("background")  # older descriptions have none
        if "data" in description:
            folder = None if description["folder"] is None else Path(description["folder"])
            opened = partial(datasets.load, description["data"], description["split"], folder=folder)
        else:
            opened = partial(open_images, description["path"], classes=description["classes"])
    except (KeyError, TypeError) as error:
        raise BadInput(f"expected the description of a set, got {description!r}; take it from the source again") from error
    with probe.looking_from(description):
        source = opened(shape=shape, preprocessing=preprocessing, background=background)
    if count > len(source):
        raise BadInput(f"expected at least {count} images in {source.path}, as described, got {len(source)}; restore the missing ones")
    return replace(source, count=count)


def _shape(values: Iterable[int]) -> Shape:
    h, w, c = map(int, values)
    return h, w, c


def _open(
    files: Files, shape: Shape | None, preprocessing: Preprocessing | None, classes: Classes | None, background: Background | None
) -> ImageSource:
    found = files.listing(depth=1)
    if found is None:
        return _open_file(files, shape, preprocessing, background)
    path = files.path
    if is_pattern(path.name) and not path.is_dir():
        named = _matching(files)
        if len(shards_of(named)) < len(named):
            raise BadInput(f"expected a pattern of .parquet or .tar files, got {path}, which matches {named[0]}; give the folder")
        source = open_shards(files, path.parent, named, shape, preprocessing, background)
    elif shards := [] if images_of(found) else shards_of(found.files):
        source = open_shards(files, path, shards, shape, preprocessing, background)
        source = replace(source, choices=[*left_out(found, shards), *source.choices])
    else:
        source = open_folder(files, found, shape, preprocessing, classes, background)
    return source if isinstance(files, Here) else replace(source, digest=lambda: files.digest, url=files.url)


def _matching(files: Files) -> list[str]:
    """Names of the files that a pattern means."""
    if isinstance(files, Here) and not files.path.parent.is_dir():
        return []
    found = files.listing(depth=0)
    return [] if found is None else [name for name in found.files if fnmatchcase(name, files.path.name)]


def _open_file(files: Files, shape: Shape | None, preprocessing: Preprocessing | None, background: Background | None) -> ImageSource:
    path = files.path
    if name := shards_of([path.name]):
        source = open_shards(files, path.parent, name, shape, preprocessing, background)
    else:
        for file in (path, *([] if isinstance(files, Here) else files.beside)):
            files.local(file)
        source = _open_array(path)
    if isinstance(files, Here):
        return source

    def blocks(begin: int, end: int, size: int) -> Iterator[Block]:
        files.local(path)  # which may have gone from the cache
        return source.blocks(begin, end, size)

    def digest() -> str:
        files.local(path)
        return source.digest()

    return replace(source, blocks=blocks, digest=digest, url=files.url)


def _open_array(path: Path) -> ImageSource:
    match path.suffix.lower():
        case ".npz":
            return open_npz(path)
        case ".npy":
            return open_npy(path)
        case ".bin":
            return open_cifar(path)
        case _:
            with path.open("rb") as file:
                start = file.read(2)
            if start in (b"\0\0", b"\x1f\x8b"):  # IDX, or gzip, of IDX as the reader will see
                return open_idx(path)
            if start[:1] == PICKLE:
                return open_cifar_python(path)
            raise BadInput(f"expected images ({FORMS}), got {path}, which is none of these; convert it first")
