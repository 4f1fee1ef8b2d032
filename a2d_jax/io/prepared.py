"""Read data sets that TensorFlow Datasets prepared on this machine earlier, as array_record, without TensorFlow.

Nothing is downloaded: only an existing folder is opened. The encoded images in the records are decoded like those of a folder. The decoder
of TensorFlow Datasets is not used, because it depends on the other packages installed.

Reading needs no TensorFlow. Preparing a set needs none either if its builder provides encoded images (measured with
tensorflow-datasets 4.9.10). Preparing MNIST or CIFAR-10 needs TensorFlow: their builders provide pixels, which TensorFlow packs as PNG.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from a2d_jax.errors import BadInput
from a2d_jax.io.encoded import Row, source_of_rows
from a2d_jax.io.files import home_folder
from a2d_jax.io.listing import listing
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.pixels import Background, decoded
from a2d_jax.io.source import ImageSource, Shape, names_digest

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
    versions = [version for version in found if (version / "dataset_info.json").is_file()]
    if not versions:
        return None
    folder = max(versions, key=lambda path: [int(number) if number.isdecimal() else -1 for number in path.name.split(".")])

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
    if "array_record" not in str(builder.info.file_format.value):
        raise BadInput(
            f"expected records of the format array_record, got {builder.info.file_format.value} in {folder}; "
            f"run: tfds build {name} --file_format=array_record"
        )
    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})

    def records(begin: int, end: int) -> Iterator[tuple[int, Any]]:
        for start in range(begin, end, BATCH):
            yield from enumerate(source.__getitems__(range(start, min(start + BATCH, end))), start)

    def row(item: tuple[int, Any]) -> Row:
        number, record = item
        file_name = record.get("file_name")
        name = file_name.decode("utf-8", "backslashreplace") if isinstance(file_name, bytes) else str(number)
        return Row(name, int(record["label"]), *decoded(record["image"], shape, preprocessing, background))

    files = [Path(file) for file in builder.info.splits[split].filepaths]
    return source_of_rows(
        folder,
        files,
        len(source),
        records,
        row,
        lambda: names_digest(folder, [folder / "dataset_info.json", *files]),
        labels=True,
        shape=shape,
        preprocessing=preprocessing,
        background=background,
    )
