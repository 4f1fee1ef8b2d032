"""Read data sets that TensorFlow Datasets prepared on this machine earlier, as TFRecord or array_record, without TensorFlow.

Nothing is downloaded: only an existing folder is opened. The encoded images in the records are decoded like those of a folder. The decoder
of TensorFlow Datasets is not used, because it depends on the other packages installed.

Reading needs no TensorFlow. Preparing a set needs none either if its builder provides encoded images (measured with
tensorflow-datasets 4.9.10). Preparing MNIST or CIFAR-10 needs TensorFlow: their builders provide pixels, which TensorFlow packs as PNG.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from a2d_jax.errors import BadInput
from a2d_jax.io.encoded import Row, source_of_rows
from a2d_jax.io.files import home_folder
from a2d_jax.io.listing import listing
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.pixels import Background, decoded
from a2d_jax.io.source import ImageSource, Shape, names_digest
from a2d_jax.io.tfrecord import places, records

BATCH = 64
"""Records read at a time."""


def prepared_folder(name: str) -> Path:
    """The folder of TensorFlow Datasets for a data set: below `TFDS_DATA_DIR`, or `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or (home_folder() or Path("~")) / "tensorflow_datasets") / name


def open_prepared(
    name: str,
    split: str,
    shape: Shape | None = None,
    preprocessing: Preprocessing | None = None,
    background: Background | None = None,
) -> ImageSource | None:
    """The newest prepared version of a data set of labelled images; None if there is none.

    Args:
      name: name in TensorFlow Datasets: mnist, cifar10, imagenet2012, ...
      split: split in TensorFlow Datasets: train, test, validation, ...
      shape: height, width, channels that the classifier expects.
      preprocessing: how images of another size get this shape.
      background: colour behind transparent pixels.

    Raises:
      BadInput: another split, another file format, or no labelled images.
    """
    home = prepared_folder(name)
    found = listing(home, depth=1).folders if home.is_dir() else []
    versions = [home / version for version in found if (home / version / "dataset_info.json").is_file()]
    if not versions:
        return None
    folder = max(versions, key=lambda path: [int(number) if number.isdecimal() else -1 for number in path.name.split(".")])

    return open_prepared_folder(folder, split, shape, preprocessing, background)


def open_prepared_folder(
    folder: Path,
    split: str,
    shape: Shape | None = None,
    preprocessing: Preprocessing | None = None,
    background: Background | None = None,
    files: Sequence[str] | None = None,
) -> ImageSource:
    """One split of the labelled images in a folder of TensorFlow Datasets.

    Args:
      folder: the folder of one version, with `dataset_info.json`.
      split: see `open_prepared`, as for `shape`, `preprocessing` and `background`.
      files: names of the files that were asked for, which must be those of the split; None takes these.

    Raises:
      BadInput: another split, missing or damaged files, another file format, or no labelled images.
    """
    import tensorflow_datasets as tfds  # here: it takes half a second, which few commands should pay

    try:
        builder: Any = tfds.builder_from_directory(folder)
    except Exception as error:  # of many kinds, whatever the damage leads to
        raise BadInput(f"expected a data set of TensorFlow Datasets, got {folder}, which cannot be read; prepare it again") from error
    if split not in builder.info.splits:
        raise BadInput(f"expected a split among {', '.join(builder.info.splits)}, got {split!r} of {folder}; prepare the set again")
    features = dict(builder.info.features)
    if not (isinstance(features.get("image"), tfds.features.Image) and isinstance(features.get("label"), tfds.features.ClassLabel)):
        raise BadInput(f"expected labelled images (features image and label), got {', '.join(features)} in {folder}; take another set")
    form = str(builder.info.file_format.value)
    if form not in ("tfrecord", "array_record"):
        remedy = f"tfds build {folder.parent.name} --file_format=array_record"
        raise BadInput(f"expected records of the format tfrecord or array_record, got {form} in {folder}; run: {remedy}")
    names = [Path(file).name for file in builder.info.splits[split].filepaths]
    missing = [name for name in names if not (folder / name).is_file() or (files is not None and name not in files)]
    if missing:
        raise BadInput(f"expected all {len(names)} files of {split} in {folder}, got no {missing[0]}; name them all, or prepare it again")
    raw = {"image": tfds.decode.SkipDecoding()}
    if form == "tfrecord":
        count, items = _of_records([folder / name for name in names])
        parsed = partial(builder.info.features.deserialize_example_np, decoders=raw)
        if count != builder.info.splits[split].num_examples:
            wanted = builder.info.splits[split].num_examples
            raise BadInput(f"expected {wanted} images of {split} in {folder}, got {count}; prepare the set again")
    else:
        source = builder.as_data_source(split=split, decoders=raw)
        count, items, parsed = len(source), partial(_of_source, source), _as_it_is

    def row(item: tuple[int, Any]) -> Row:
        number, data = item
        try:
            record = parsed(data)
            label, image, file_name = int(record["label"]), record["image"], record.get("file_name")
        except Exception as error:  # of many kinds, whatever the record lacks
            raise BadInput(f"expected records as features.json says, got others in {folder}, image {number}; prepare it again") from error
        name = file_name.decode("utf-8", "backslashreplace") if isinstance(file_name, bytes) else str(number)
        return Row(name, label, *decoded(image, shape, preprocessing, background))

    return source_of_rows(
        folder,
        count,
        items,
        row,
        lambda: names_digest(folder, ["dataset_info.json", *names]),
        labels=True,
        shape=shape,
        preprocessing=preprocessing,
        background=background,
    )


Items = Callable[[int, int], Iterator[tuple[int, Any]]]
"""The numbered records from place `begin` to `end - 1`."""


def _of_source(source: Any, begin: int, end: int) -> Iterator[tuple[int, Any]]:
    for start in range(begin, end, BATCH):
        yield from enumerate(source.__getitems__(range(start, min(start + BATCH, end))), start)


def _of_records(files: Sequence[Path]) -> tuple[int, Items]:
    where = [places(file) for file in files]
    starts = [0, *accumulate(len(one.begins) for one in where)]

    def items(begin: int, end: int) -> Iterator[tuple[int, bytes]]:
        for file, one, first, last in zip(files, where, starts, starts[1:], strict=False):
            here = range(max(begin, first), min(end, last))
            if here:
                yield from enumerate(records(file, one, here.start - first, here.stop - first), here.start)

    return starts[-1], items


def _as_it_is(record: Any) -> Any:
    return record
