"""A folder of image files, and how its images get their labels.

Labels come from the first of these that applies; without one the set has none:

1. a file `labels.csv` in the folder: lines `file name,class number` without a heading, one for each image;
2. every image lies in a sub-folder whose name is a class number;
3. every sub-folder is called like a class of the classifier (`class_names`);
4. there are exactly as many sub-folders as classes: sorted by name they are the classes in their order, as in torchvision's
   `ImageFolder`. That is a guess, so it is told.

Names of files mean nothing: a number in front may be a class, a date or a counter.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from a2d_jax.errors import BadInput
from a2d_jax.io.encoded import Row, decoded, source_of_rows
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.source import ImageSource, Shape, names_digest

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
TABLE = "labels.csv"

Classes = Sequence[str] | int
"""Names of a classifier's classes in their order, or how many there are."""


class _Labels(NamedTuple):
    of: dict[Path, int] | None
    note: str | None = None


def open_folder(path: Path, shape: Shape | None, preprocessing: Preprocessing | None = None, classes: Classes | None = None) -> ImageSource:
    """Image files of the folder and of its sub-folders, sorted by name.

    Raises:
      BadInput: no image files, none that can be used, or a `labels.csv` that does not fit them.
    """
    files = [file for file in (*path.glob("*"), *path.glob("*/*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    files.sort(key=Path.as_posix)
    if not files:
        raise BadInput(f"expected image files ({', '.join(SUFFIXES)}) in {path}, got none there or one folder down; check the path")
    labels = _labels(path, files, classes)

    def row(file: Path) -> Row:
        try:
            image = decoded(file.read_bytes(), shape, preprocessing)
        except OSError as error:
            image = f"expected a readable file, got {error}; check its permissions"
        return Row(file.relative_to(path).as_posix(), image, labels.of[file] if labels.of else None)

    return source_of_rows(
        path,
        files,
        len(files),
        lambda begin, end: files[begin:end],
        row,
        lambda: names_digest(path, files),
        labels=labels.of is not None,
        shape=shape,
        preprocessing=preprocessing,
        note=labels.note,
    )


def _labels(path: Path, files: Sequence[Path], classes: Classes | None) -> _Labels:
    if (path / TABLE).is_file():
        return _Labels(_from_table(path, files))
    if any(file.parent == path for file in files):
        return _Labels(None)
    names = sorted({file.parent.name for file in files})
    known: Sequence[str] = () if classes is None or isinstance(classes, int) else classes
    note = None
    if all(name.isdecimal() for name in names):
        number = {name: int(name) for name in names}
    elif set(names) <= set(known):
        number = {name: known.index(name) for name in names}
    elif len(names) == (classes if isinstance(classes, int) else len(known)) and not set(names) & set(known):
        number = {name: i for i, name in enumerate(names)}
        note = f"took the {len(names)} folders of {path}, sorted by name, for the classes 0 ({names[0]}) to {len(names) - 1} ({names[-1]})"
    else:
        return _Labels(None)
    return _Labels({file: number[file.parent.name] for file in files}, note)


def _from_table(path: Path, files: Sequence[Path]) -> dict[Path, int]:
    table = path / TABLE
    found: dict[Path, int] = {}
    with table.open(newline="", encoding="utf-8") as lines:
        for line, cells in enumerate(csv.reader(lines), 1):
            if len(cells) != 2 or not cells[1].strip().isdecimal():
                raise BadInput(f"expected lines `file name,class number` in {table}, got {','.join(cells)!r} in line {line}; correct it")
            found[path / cells[0]] = int(cells[1])
    wrong = [*(f"{file.relative_to(path)} without a line" for file in files if file not in found)]
    wrong += [f"a line for {file.relative_to(path)}, which is no image there" for file in found.keys() - set(files)]
    if wrong:
        raise BadInput(f"expected a line for each image in {table}, got {wrong[0]} ({len(wrong)} such); correct it")
    return found
