"""Results out and back in: tables of costs, predictions, scores and verdicts as parquet, crafted images as npz.

All are written piece by piece, so that a set may be larger than memory, and appear whole under their final name or not at all.
Settings, versions and hashes of the run travel in the file itself, as JSON under the key `a2d`: in the metadata of a parquet
table, as a member of an npz.
"""

import json
import zipfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.files import atomic

Meta = Mapping[str, Any]

_IMAGE = [("index", pa.int64()), ("id", pa.string())]
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
        *_ERROR,
    ]
)

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
        *_ERROR,
    ]
)


def verdicts_schema(attacks: Sequence[str]) -> Any:
    """Columns of a table of verdicts, with the costs that each verdict rests on."""
    costs = [(f"cost_{name}", pa.int64()) for name in attacks]
    return pa.schema([*_IMAGE, ("label", pa.int64()), ("score", pa.float64()), ("adversarial", pa.bool_()), *costs, *_ERROR])


@contextmanager
def table_writer(path: str | Path, schema: Any, meta: Meta) -> Generator[Callable[[Mapping[str, Any]], None]]:
    """Write a parquet table piece by piece.

    Args:
      path: the file, which appears when the block ends well.
      schema: columns and types (`COSTS`, `PREDICTIONS`, `CLEVER`, `verdicts_schema(...)`).
      meta: settings of the run, anything JSON can say.

    Yields:
      `write(columns)`: append rows, given as one sequence per column; rows with an `error` keep `index`, `id` and what
      identifies them, their results become null.
    """
    schema = schema.with_metadata({"a2d": json.dumps(meta)})
    kept = {"index", "id", "attack", "target", "preset", "seed", "error"}

    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:

        def write(columns: Mapping[str, Any]) -> None:
            failed = np.asarray([error is not None for error in columns["error"]], bool)
            arrays = [
                pa.array(columns[field.name], field.type)
                if field.name in kept
                else pa.array(np.asarray(columns[field.name]), field.type, mask=failed)
                for field in schema
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

        yield write


@dataclass(frozen=True)
class CostTable:
    """Costs of images under several attacks, one row per image; images with an error are left out.

    Attributes:
      path: the file it was read from.
      attacks: names of the columns of `costs`.
      index: place of each image in its set.
      id: name of each image.
      label: the class that was attacked.
      costs: `n attacks`.
      censored: `n attacks`; the budget ended before the attack did.
      errors: index, id and error of the images left out.
      meta: settings of the run; empty if the table was not written by this project.
    """

    path: Path
    attacks: tuple[str, ...]
    index: NDArray[np.int64]
    id: list[str]
    label: NDArray[np.int64]
    costs: NDArray[np.int64]
    censored: NDArray[np.bool_]
    errors: list[tuple[int, str, str]]
    meta: Meta

    def select(self, attacks: Sequence[str]) -> NDArray[np.int64]:
        """The columns of these attacks, in this order.

        Raises:
          BadInput: the table lacks one of them.
        """
        if not set(attacks) <= set(self.attacks):
            have = ", ".join(self.attacks)
            raise BadInput(f"expected costs of {', '.join(attacks)}, got {have} in {self.path}; run `a2d cost` with all of them")
        return self.costs[:, [self.attacks.index(name) for name in attacks]]


def read_costs(path: str | Path) -> CostTable:
    """Read a long table of costs and turn it wide.

    Raises:
      BadInput: no such file, no table of costs, no good image, or an image with an attack missing or given twice.
    """
    path = Path(path)
    columns = ["index", "id", "attack", "label", "cost", "censored"]
    table = _read(path, columns, "costs")
    if not len(table):
        raise BadInput(f"expected a table of costs, got one without rows in {path}; run `a2d cost` on some images")
    texts = table["error"].to_pylist() if "error" in table.column_names else [None] * len(table)
    bad = table["cost"].is_null().to_numpy() | np.asarray([text is not None for text in texts])
    meta = _meta(table.schema.metadata)
    names = tuple(table["attack"].unique().to_pylist())
    ordered = tuple(meta.get("attacks", ()))
    names = ordered if set(ordered) == set(names) else names
    attack = np.asarray([names.index(name) for name in table["attack"].to_pylist()])
    index, first, row = np.unique(table["index"].to_numpy(), return_index=True, return_inverse=True)
    times = np.zeros((len(index), len(names)), np.int64)
    np.add.at(times, (row, attack), 1)
    if (times != 1).any():
        image, column = np.argwhere(times != 1)[0]
        found = f"{times[image, column]} of {names[column]} for image {index[image]}"
        raise BadInput(f"expected one cost per image and attack, got {found} in {path}; run `a2d cost` again")

    def wide(name: str, kind: type[np.generic]) -> NDArray[Any]:
        values = np.zeros(times.shape, kind)
        values[row, attack] = pc.fill_null(table[name], False if kind is np.bool_ else 0).to_numpy()
        return values

    good = np.ones(len(index), bool)
    good[row[bad]] = False
    ids, reasons = table["id"].take(first).to_pylist(), {row[i]: texts[i] for i in np.flatnonzero(bad)}
    if not good.any():
        raise BadInput(f"expected costs of at least one image, got errors in all {len(index)} images of {path}; see its column error")
    return CostTable(
        path=path,
        attacks=names,
        index=index[good],
        id=[ids[i] for i in np.flatnonzero(good)],
        label=pc.fill_null(table["label"].take(first[good]), -1).to_numpy(),
        costs=wide("cost", np.int64)[good],
        censored=wide("censored", np.bool_)[good],
        errors=[(int(index[i]), ids[i], reasons[i] or "no cost") for i in np.flatnonzero(~good)],
        meta=meta,
    )


def _read(path: Path, columns: Sequence[str], what: str) -> Any:
    if not path.is_file():
        raise BadInput(f"expected a parquet table of {what}, got {path}, which is no file; check the path")
    try:
        schema = pq.read_schema(path)
        missing = [name for name in columns if name not in schema.names]
        if missing:
            raise BadInput(
                f"expected a table of {what}, got one without the columns {', '.join(missing)} in {path}; give a table of `a2d cost`"
            )
        return pq.read_table(path, columns=[*columns, *(["error"] if "error" in schema.names else [])])
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"expected a parquet table of {what}, got {path}, which is damaged or of another kind; write it again") from error


def _meta(metadata: Mapping[bytes, bytes] | None) -> Meta:
    try:
        found = json.loads((metadata or {}).get(b"a2d", b"{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def npz_writer(path: str | Path, count: int, shape: tuple[int, int, int], meta: Meta) -> Generator[Callable[..., None]]:
    """Write crafted images piece by piece into an npz that `open_images` and `numpy.load` read.

    Members: `x` (float32, `n h w c`), `y` (int64), `success` (bool), `index` (int64), `error` (text, empty where all went well),
    `a2d` (JSON). Rows with an error have NaN in `x`, so that whoever reads them next reports them too.

    Args:
      path: the file, which appears when the block ends well.
      count: number of images that will be written.
      shape: height, width, channels.
      meta: settings of the run.

    Yields:
      `write(x=, y=, success=, index=, error=)`: append images.
    """
    rest: dict[str, list[NDArray[Any]]] = {"y": [], "success": [], "index": [], "error": []}
    types = {"y": np.int64, "success": np.bool_, "index": np.int64, "error": np.str_}

    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (count, *shape)})

            def write(x: NDArray[np.float32], error: Sequence[str | None], **columns: NDArray[Any]) -> None:
                failed = np.asarray([text is not None for text in error], bool)
                member.write(np.where(failed[:, None, None, None], np.nan, x).astype("<f4").tobytes())
                for name, values in {**columns, "error": [text or "" for text in error]}.items():
                    rest[name].append(np.asarray(values, types[name]))

            yield write
        arrays = {name: np.concatenate(pieces) for name, pieces in rest.items()} | {"a2d": np.asarray(json.dumps(meta))}
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def stretched(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images as they come back from an 8-bit file of a writer that stretches each to its own range: darkest pixel 0, brightest 1.

    SciPy's image writer, since removed, did so, and with it the crafted images of Wang et al., arXiv:1812.05793, the paper's second
    environment. An image of a single value becomes black.

    Args:
      x: images `n h w c` of any range.

    Returns:
      Multiples of 1/255 in [0, 1].
    """
    low, high = x.min((1, 2, 3), keepdims=True), x.max((1, 2, 3), keepdims=True)
    share = (x - low) / np.where(high > low, high - low, 1)
    return np.floor(share * 255 + 0.5).astype(np.float32) / np.float32(255)
