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
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from a2d_jax.errors import BadInput
from a2d_jax.io.encoded import Row, source_of_rows
from a2d_jax.io.labels import LARGEST, TABLE, read_labels
from a2d_jax.io.listing import Listing, listing, plain
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.pixels import Background, decoded
from a2d_jax.io.source import ImageSource, Shape, names_digest

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")

Classes = Sequence[str] | int
"""Names of a classifier's classes in their order, or how many there are."""


class _Labels(NamedTuple):
    of: dict[Path, int] | None
    note: str | None = None


def open_folder(
    path: Path,
    shape: Shape | None,
    preprocessing: Preprocessing | None = None,
    classes: Classes | None = None,
    background: Background | None = None,
) -> ImageSource:
    """Image files of the folder and of its sub-folders, sorted by name.

    Raises:
      BadInput: no image files, no usable image, a `labels.csv` that does not fit the images, or a folder that cannot be read.
    """
    found = listing(path, depth=1)
    files = sorted([file for file in (*found.files, *found.dangling) if _is_image(file)], key=Path.as_posix)
    if not files:
        raise BadInput(f"expected image files ({', '.join(SUFFIXES)}) in {path}, got none there or one folder down; check the path")
    labels = _labels(path, files, classes, found)

    def known(file: Path) -> tuple[str, int | None]:
        return plain(file.relative_to(path).as_posix()), labels.of[file] if labels.of else None

    def row(file: Path) -> Row:
        name, label = known(file)
        try:
            data = file.read_bytes()
        except OSError as error:
            trouble = f"a link to {plain(str(file.readlink()))}, which is not there" if file.is_symlink() else str(error)
            return Row(name, label, f"expected a readable file, got {plain(trouble)}; bring it back")
        return Row(name, label, *decoded(data, shape, preprocessing, background))

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
        background=background,
        choices=[*([] if labels.note is None else [labels.note]), *_left_out(path, found)],
        known=known,
    )


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _left_out(path: Path, found: Listing) -> list[str]:
    """What a user may miss among the images."""
    other = [file for file in found.files if not _is_image(file) and file != path / TABLE]
    kinds = {
        "files that end like images but were left behind by systems or tools": [file for file in found.strays if _is_image(file)],
        "links to images or folders that count already": found.again,
        "links that lead nowhere": [link for link in found.dangling if not _is_image(link)],
        "folders two levels down, where no images are looked for": found.deeper,
        f"files that do not end like images ({', '.join(SUFFIXES)})": [*other, *found.others],
    }
    return [f"left out {kind}: {len(paths)}, first {_name(paths[0], path)}" for kind, paths in kinds.items() if paths]


def _name(file: Path, folder: Path) -> str:
    return plain(file.relative_to(folder).as_posix())


def _labels(path: Path, files: Sequence[Path], classes: Classes | None, found: Listing) -> _Labels:
    if (path / TABLE).is_file():
        return _Labels(read_labels(path, files, [*found.strays, *found.again]))
    here = [file for file in files if file.parent == path]
    if len(here) == len(files):
        return _Labels(None)
    names = sorted({file.parent.name for file in files if file.parent != path})
    if here:
        return _Labels(None, f"took no labels from the folders of {path}: images lie beside them, first {_name(here[0], path)}")
    known = [] if classes is None or isinstance(classes, int) else [normalize("NFC", name) for name in classes]
    count = classes if isinstance(classes, int) else len(known)
    called = {name: normalize("NFC", name) for name in names}  # macOS keeps accents apart
    every = sorted({folder.name for folder in found.folders})  # also those without images, which are classes in torchvision too
    every = every if len(every) == count else names
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
    return _Labels({file: number[file.parent.name] for file in files}, note)


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
