"""A folder of image files, and how its images get their labels.

Images are in the folder itself and one level down (`a2d_jax.io.listing`: stray files of systems and tools do not count, real files count
once). Labels come from the first of these rules that applies. If none applies, the set has no labels; a note says so if there are
sub-folders:

1. a file `labels.csv` in the folder: lines `file name,class number` without a heading, one for each image (`a2d_jax.io.labels`);
2. every image is in a sub-folder named by a class number;
3. every sub-folder has the name of a class of the classifier (`class_names`);
4. the number of sub-folders equals the number of classes, counted with or without empty sub-folders: sorted by name they are the classes in
   their order, as in torchvision's `ImageFolder`. This is a guess, so a note says it.

File names have no meaning: a number at the beginning may be a class, a date or a counter.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.encoded import Row, source_of_rows
from a2d_jax.io.labels import LARGEST, TABLE, read_labels
from a2d_jax.io.listing import Listing, plain
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.pixels import Background, decoded
from a2d_jax.io.remote import Files
from a2d_jax.io.source import ImageSource, Shape, names_digest

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")

Classes = Sequence[str] | int
"""Names of a classifier's classes in their order, or how many there are."""


class _Labels(NamedTuple):
    of: NDArray[np.int64] | None  # of each image
    note: str | None = None


def open_folder(
    files: Files,
    found: Listing,
    shape: Shape | None,
    preprocessing: Preprocessing | None = None,
    classes: Classes | None = None,
    background: Background | None = None,
) -> ImageSource:
    """Image files of the folder and of its sub-folders, sorted by name.

    Args:
      files: the folder.
      found: what lies in it, one level down.
      shape: see `a2d_jax.io.images.open_images`, as for `preprocessing`, `classes` and `background`.

    Raises:
      BadInput: no image files, no usable image, or a `labels.csv` that does not fit the images.
    """
    path, names = files.path, images_of(found)
    if not names:
        raise BadInput(f"expected image files ({', '.join(SUFFIXES)}) in {path}, got none there or one folder down; check the path")
    if TABLE in found.files:
        files.local(path / TABLE)
    labels = _labels(path, names, classes, found)

    def known(place: int) -> tuple[str, int | None]:
        return plain(names[place]), None if labels.of is None else int(labels.of[place])

    def row(place: int) -> Row:
        file = path / names[place]
        name, label = known(place)
        try:
            data = files.read(file)
        except OSError as error:
            trouble = f"a link to {plain(str(file.readlink()))}, which is not there" if file.is_symlink() else str(error)
            return Row(name, label, f"expected a readable file, got {plain(trouble)}; bring it back")
        return Row(name, label, *decoded(data, shape, preprocessing, background))

    source = source_of_rows(
        path,
        len(names),
        range,
        row,
        lambda: names_digest(path, names),
        labels=labels.of is not None,
        shape=shape,
        preprocessing=preprocessing,
        background=background,
        choices=[*([] if labels.note is None else [labels.note]), *_left_out(found)],
        known=known,
    )
    return replace(source, fetching=files.fetching(names, np.arange(1, len(names) + 1)))


def images_of(found: Listing) -> list[str]:
    """Names of image files, links that lead nowhere included."""
    return sorted(name for names in (found.files, found.dangling) for name in names if _is_image(name))


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _left_out(found: Listing) -> list[str]:
    """What a user may miss among the images."""
    other = [name for name in found.files if not _is_image(name) and name != TABLE]
    kinds = {
        "files that end like images but were left behind by systems or tools": [name for name in found.strays if _is_image(name)],
        "links to images or folders that count already": found.again,
        "links that lead nowhere": [name for name in found.dangling if not _is_image(name)],
        "folders two levels down, where no images are looked for": found.deeper,
        f"files that do not end like images ({', '.join(SUFFIXES)})": [*other, *found.others],
    }
    return [f"left out {kind}: {len(names)}, first {plain(names[0])}" for kind, names in kinds.items() if names]


def _labels(path: Path, images: Sequence[str], classes: Classes | None, found: Listing) -> _Labels:
    if (path / TABLE).is_file():
        return _Labels(read_labels(path, images, [*found.strays, *found.again]))
    here = next((name for name in images if "/" not in name), None)
    names = sorted({_above(name) for name in images} - {""})
    if not names:
        return _Labels(None)
    if here is not None:
        return _Labels(None, f"took no labels from the folders of {path}: images lie beside them, first {plain(here)}")
    known = [] if classes is None or isinstance(classes, int) else [normalize("NFC", name) for name in classes]
    count = classes if isinstance(classes, int) else len(known)
    called = {name: normalize("NFC", name) for name in names}  # macOS keeps accents apart
    # also those without images, which are classes in torchvision too
    every = found.folders if len(found.folders) == count else names
    note = None
    if all(name.isdecimal() for name in names):
        number = {name: _number(name, path) for name in names}
    elif set(called.values()) <= set(known):
        number = {name: known.index(called[name]) for name in names}
    elif len(every) == count and not set(called.values()) & set(known):
        number = {name: i for i, name in enumerate(every)}
        note = plain(f"took the {count} folders of {path}, sorted by name, for the classes 0 ({every[0]}) to {count - 1} ({every[-1]})")
    else:
        why = _why_not([*called.values()], known, count)
        return _Labels(None, plain(f"took no labels from the {len(names)} folders of {path}: {why}"))
    return _Labels(np.fromiter((number[_above(name)] for name in images), np.int64, len(images)), note)


def _above(name: str) -> str:
    return name.rpartition("/")[0]


def _number(name: str, path: Path) -> int:
    digits = name.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) > LARGEST:
        raise BadInput(f"expected folders of {path} to be named by class numbers below 2^63, got {name[:80]}; rename it")
    return int(digits)


def _why_not(names: Sequence[str], known: Sequence[str], count: int) -> str:
    for kind, fits in (("a class number", str.isdecimal), ("a class of the classifier", known.__contains__)):
        odd = [name for name in names if not fits(name)]
        if len(odd) < len(names):
            return f"{odd[0]} is not {kind}, but other names are"
    classes = f"the classifier has {count} classes" if count else "the classifier does not say what its classes are"
    return f"their names, such as {names[0]}, are not class numbers, and {classes}"
