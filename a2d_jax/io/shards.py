"""Sets in several files: the shards of a folder, or those that a pattern names, as one set in the order of their names.

Shards are parquet files, tar files, or the records of TensorFlow Datasets. Shards of two splits, such as train and test, are never joined.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from a2d_jax.errors import BadInput
from a2d_jax.io.here import Here
from a2d_jax.io.listing import Listing, plain
from a2d_jax.io.parquet import open_parquet
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.pixels import Background
from a2d_jax.io.prepared import open_prepared_folder
from a2d_jax.io.remote import Files
from a2d_jax.io.source import ImageSource, Shape
from a2d_jax.io.tar import open_tar

PARQUET, TAR = (".parquet",), (".tar", ".tar.gz", ".tgz")
RECORDS = re.compile(r"(?P<set>.+)-(?P<split>\w+)\.(?:tfrecord|array_record)-\d{5,}-of-\d{5,}")
"""Names of TensorFlow Datasets."""

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Words for splits in the names of shards."""

ABOUT = (".json", ".md", ".txt")
"""Endings of files that say something about the shards beside them."""


def shards_of(names: Sequence[str]) -> list[str]:
    """Those of these names that can be shards of a set."""
    return sorted(name for name in names if name.lower().endswith((*PARQUET, *TAR)) or RECORDS.fullmatch(name))


def open_shards(
    files: Files,
    folder: Path,
    names: Sequence[str],
    shape: Shape | None,
    preprocessing: Preprocessing | None = None,
    background: Background | None = None,
) -> ImageSource:
    """One set from several files of one kind.

    Args:
      files: what the user gave: a file, the folder, or a pattern.
      folder: the folder.
      names: names of the shards, sorted, relative to the folder.
      shape: see `a2d_jax.io.images.open_images`, as for `preprocessing` and `background`.

    Raises:
      BadInput: shards of several kinds or of several splits, and what the readers refuse.
    """
    _alike(files.path, folder, {_kind(name): name for name in reversed(names)}, "kind")
    _alike(files.path, folder, {split: name for name in reversed(names) if (split := _split(name))}, "split")
    if record := RECORDS.fullmatch(names[0]):
        if not isinstance(files, Here):
            raise BadInput(f"expected sets of TensorFlow Datasets on this machine, got {files.url}; copy the folder")
        return open_prepared_folder(folder, record["split"], shape, preprocessing, background, names)
    opened = open_parquet if names[0].lower().endswith(PARQUET) else open_tar
    return opened(files, [folder / name for name in names], shape, preprocessing, background)


def _alike(path: Path, folder: Path, first: dict[str, str], what: str) -> None:
    """Refuse shards that differ in something; `first` has a name for each value of it."""
    if len(first) > 1:
        values = sorted(first)
        pattern = _pattern(folder, first[values[0]])
        raise BadInput(f"expected shards of one {what} in {path}, got {' and '.join(values)}; name those you want, such as {pattern}")


def left_out(found: Listing, shards: Sequence[str]) -> list[str]:
    """What a user may miss among the shards of a folder."""
    taken = {*shards}
    kinds = {
        "links to files or folders that count already": found.again,
        "links that lead nowhere": found.dangling,
        "folders two levels down, where no shards are looked for": found.deeper,
        "files that are no shards of the set": [name for name in found.files if name not in taken and not name.lower().endswith(ABOUT)],
    }
    return [f"left out {kind}: {len(names)}, first {plain(names[0])}" for kind, names in kinds.items() if names]


def _kind(name: str) -> str:
    return next((kinds[0] for kinds in (PARQUET, TAR) if name.lower().endswith(kinds)), "records of TensorFlow Datasets")


def _split(name: str) -> str | None:
    """The split that a name tells, if it is one."""
    if record := RECORDS.fullmatch(name):
        return record["split"]
    found = {SPLITS[word] for word in re.split("[^a-z]+", name.lower()) if word in SPLITS}
    return found.pop() if len(found) == 1 else None


def _pattern(folder: Path, name: str) -> str:
    """How to name the shards that are called like one of them."""
    above, _, own = name.rpartition("/")
    return plain(str(folder / above / re.sub(r"\d[\w-]*", "*", own, count=1)))
