"""Tables that passed through other tools: values that fit are cast, others are a row error or a one-line error, nothing is guessed."""

import contextlib
import datetime
import decimal
import json
import pathlib
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from a2d_jax.errors import BadInput
from a2d_jax.io.measurements import read_measurements

N = 6
COST = [30, 10, 50, 20, 60, 40]
PLAIN = {
    "index": pa.array(range(N)),
    "id": pa.array([f"{i}.png" for i in range(N)]),
    "attack": pa.array(["bim"] * N),
    "label": pa.array([3] * N),
    "cost": pa.array(COST),
    "censored": pa.array([False] * N),
}


def saved(path: pathlib.Path, meta: dict | None = None, **changes: pa.Array) -> pathlib.Path:
    """A table of one attack, with other columns."""
    table = pa.table({**PLAIN, **changes})
    pq.write_table(table if meta is None else table.replace_schema_metadata({"a2d": json.dumps(meta)}), path)
    return path


def refused(path: pathlib.Path, *words: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_measurements(path)
    text = str(caught.value)
    assert re.fullmatch(r"expected [^\n]*, got [^\n]*; [^\n]*", text), text
    assert all(word in text for word in (*words, str(path))), text


@pytest.mark.parametrize(
    "changes",
    [
        {"cost": pa.array(COST, kind)}
        for kind in (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.float32(), pa.float64())
    ]
    + [
        {"cost": pa.array(np.asarray(COST, np.float16))},
        {"cost": pa.array([decimal.Decimal(f"{c}.00") for c in COST])},
        {"cost": pa.array(COST).dictionary_encode()},
        {"index": pa.array(range(N), pa.float64()), "label": pa.array([3.0] * N)},
        {"index": pa.array(range(N), pa.int8()), "label": pa.array([3] * N, pa.uint8())},
        {"attack": pa.array(["bim"] * N).dictionary_encode()},
        {"attack": pa.array(["bim"] * N, pa.large_string())},
        {"attack": pa.array(["bim"] * N, pa.string_view())},
        {"id": pa.array([f"{i}.png" for i in range(N)], pa.large_binary())},
        {"censored": pa.array([0] * N, pa.uint8()), "success": pa.array([1.0] * N)},
        {"censored": pa.array([False] * N).dictionary_encode()},
        {"error": pa.nulls(N)},
        {"error": pa.array([""] * N)},
        {"error": pa.array([float("nan")] * N)},
        {"fingerprint": pa.nulls(N)},
        {"success": pa.nulls(N, pa.bool_()), "iterations": pa.nulls(N)},
        {"__index_level_0__": pa.array(range(N)), "anything": pa.array([[1]] * N)},
        {"preset": pa.array([datetime.datetime(2026, 1, 1)] * N)},
    ],
    ids=lambda changes: ", ".join(f"{name} {array.type}" for name, array in changes.items()),
)
def test_what_fits_is_cast(tmp_path, changes):
    """Protects round trips: other widths, whole floats, categories, long texts and 0/1 flags say the same as the table as written."""
    table = read_measurements(saved(tmp_path / "t.parquet", **changes))
    read = table.select(table.columns(["bim"]))[:, 0]
    assert read.dtype == np.int64
    np.testing.assert_array_equal(read, COST)
    np.testing.assert_array_equal(table.index, np.arange(N))
    np.testing.assert_array_equal(table.label, [3] * N)
    assert table.id == [f"{i}.png" for i in range(N)]
    assert table.success["bim"].all()
    assert not table.censored["bim"].any()
    assert not table.errors
    assert table.fingerprint is None


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (None, pa.int64(), "no cost"),
        (float("nan"), pa.float64(), "no cost"),
        (-3, pa.int64(), "got -3"),
        (50.5, pa.float64(), "got 50.5"),
        (float("inf"), pa.float64(), "got inf"),
        (-0.5, pa.float32(), "got -0.5"),
        (2**62, pa.int64(), f"got {2**62}"),
        (2**63 + 5, pa.uint64(), f"got {2**63 + 5}"),
        (1e300, pa.float64(), "got 1e+300"),
        (decimal.Decimal("50.50"), pa.decimal128(9, 2), "got 50"),
    ],
)
def test_a_cost_that_is_none_is_an_error_of_its_row(tmp_path, value, kind, said):
    """Protects verdicts: a cost that no attack can have is never a number; the other images are read."""
    cost = [decimal.Decimal(c) for c in COST] if pa.types.is_decimal(kind) else list(COST)
    table = read_measurements(saved(tmp_path / "t.parquet", cost=pa.array([*cost[:2], value, *cost[3:]], kind)))
    ((index, name, error),) = table.errors
    assert (index, name) == (2, "2.png")
    assert said in error
    read = table.select(table.columns(["bim"]))[:, 0]
    np.testing.assert_array_equal(read, COST[:2] + COST[3:])
    np.testing.assert_array_equal(table.index, [0, 1, 3, 4, 5])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": pa.array([3, 3, 0.5, 3, 3, 3])}, "as label, got 0.5"),
        ({"label": pa.array([3, 3, -7, 3, 3, 3])}, "as label, got -7"),
        ({"censored": pa.array([0, 0, 2, 0, 0, 0])}, "0 or 1 as censored, got 2"),
        ({"success": pa.array([True, True, None, True, True, True])}, "success as true or false, got none"),
        ({"iterations": pa.array([1, 1, -1, 1, 1, 1])}, "as iterations, got -1"),
        ({"distance": pa.array([0.1, 0.1, -0.1, 0.1, 0.1, 0.1])}, "as distance, got -0.1"),
        ({"crossing": pa.array([0.1, 0.1, float("inf"), 0.1, 0.1, 0.1])}, "as crossing, got inf"),
        ({"error": pa.array([None, "", "corrupt", None, None, None]), "cost": pa.array([1, 1, -1, 1, 1, 1])}, "corrupt"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else ", ".join(value),
)
def test_other_numbers_that_do_not_fit(tmp_path, changes, said):
    """Protects every column that is read: what no run can have written is an error of its row."""
    table = read_measurements(saved(tmp_path / "t.parquet", **changes))
    ((index, _, error),) = table.errors
    assert index == 2
    assert said in error


def test_costs_above_the_budget(tmp_path):
    """Protects bounds: where the budget is recorded, a failure costs one more than it, and nothing costs more than that."""
    meta = {"attacks": {"bim": {"max_steps": 59}}}
    assert not read_measurements(saved(tmp_path / "t.parquet", meta)).errors
    ((index, _, error),) = read_measurements(saved(tmp_path / "t.parquet", {"attacks": {"bim": {"max_steps": 58}}})).errors
    assert (index, error) == (4, "expected a cost of bim of at most 59, got 60")


def test_unknown_labels(tmp_path):
    """Protects tables without labels: null and -1 are labels that nobody knows, and costs are read all the same."""
    for label in (pa.nulls(N, pa.int64()), pa.array([-1] * N), pa.array([float("nan")] * N)):
        table = read_measurements(saved(tmp_path / "t.parquet", label=label))
        np.testing.assert_array_equal(table.label, [-1] * N)


def test_numbers_that_some_images_lack(tmp_path):
    """Protects detectors: a number that is null for some images is never read as 0; costs of the same table are read."""
    holes = pa.array([1, 2, None, 4, 5, 6])
    lengths = pa.array([0.1, 0.2, float("nan"), 0.4, 0.5, 0.6])
    table = read_measurements(saved(tmp_path / "t.parquet", iterations=holes, distance=lengths, crossing=lengths))
    np.testing.assert_array_equal(table.select(table.columns(["bim"]))[:, 0], COST)
    for number in ("iterations", "distance", "crossing"):
        with pytest.raises(BadInput, match=rf"bim.{number} of every image, got 1 without it in .*, the first is 2.png"):
            table.select(table.columns([f"bim.{number}"]))


def test_lengths_of_failures_are_not_needed(tmp_path):
    """Protects honest distances: where an attack failed, the farthest is read, also where the tool before left no number."""
    meta = {"norms": {"bim": "linf"}, "shape": [2, 2, 1]}
    success = pa.array([True, True, False, True, True, True])
    lengths = pa.array([0.1, 0.2, None, 0.4, 0.5, 0.6])
    table = read_measurements(saved(tmp_path / "t.parquet", meta, success=success, distance=lengths, crossing=lengths))
    for number in ("distance", "crossing"):
        np.testing.assert_allclose(table.select(table.columns([f"bim.{number}"]))[:, 0], [0.1, 0.2, 1, 0.4, 0.5, 0.6])


def test_fingerprints_that_were_rounded(tmp_path):
    """Protects jitter: fingerprints that became floats are rounded and name no image any more; whole ones are kept to the last bit."""
    prints = [2**62 + i for i in range(N)]
    exact = read_measurements(saved(tmp_path / "t.parquet", fingerprint=pa.array(prints, pa.uint64())))
    np.testing.assert_array_equal(exact.key, prints)
    rounded = read_measurements(saved(tmp_path / "t.parquet", fingerprint=pa.array(np.asarray(prints, float))))
    np.testing.assert_array_equal(rounded.key, np.arange(N))


NESTED = pa.array([[1]] * N)
DATES = pa.array([datetime.datetime(2026, 1, 1)] * N)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cost": pa.array([str(c) for c in COST])}, ["whole numbers in the column cost", "got string"]),
        ({"cost": pa.array([True] * N)}, ["cost", "bool"]),
        ({"cost": DATES}, ["cost", "timestamp"]),
        ({"cost": NESTED}, ["cost", "list"]),
        ({"cost": pa.array([{"a": 1}] * N)}, ["cost", "struct"]),
        ({"cost": pa.nulls(N)}, ["errors in all 6", "no cost"]),
        ({"cost": pa.array([-1] * N)}, ["errors in all 6", "got -1"]),
        ({"label": pa.array(["cat"] * N)}, ["label", "string"]),
        ({"label": pa.array(["cat"] * N).dictionary_encode()}, ["label", "string"]),
        ({"censored": pa.array(["True"] * N)}, ["true and false", "censored"]),
        ({"attack": pa.array([None] * N, pa.string())}, ["name of an attack in every row", "row 0"]),
        ({"attack": pa.array([*["bim"] * 5, ""])}, ["name of an attack in every row", "row 5"]),
        ({"attack": pa.array([1] * N)}, ["texts in the column attack"]),
        ({"attack": NESTED}, ["texts in the column attack"]),
        ({"id": NESTED}, ["texts in the column id"]),
        ({"id": DATES}, ["texts in the column id", "timestamp"]),
        ({"error": pa.array([1] * N)}, ["texts in the column error"]),
        ({"index": pa.array([None, *range(1, N)])}, ["index in every row", "none in row 0"]),
        ({"index": pa.array([float("nan"), *map(float, range(1, N))])}, ["index in every row"]),
        ({"index": pa.array([0.5, *map(float, range(1, N))])}, ["index in every row", "another value"]),
        ({"index": pa.array([-1, *range(1, N)])}, ["index in every row", "another value"]),
        ({"index": pa.array([str(i) for i in range(N)])}, ["index", "string"]),
        ({"index": DATES}, ["index", "timestamp"]),
        ({"distance": pa.array(["far"] * N)}, ["numbers in the column distance"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else ", ".join(f"{name} {array.type}" for name, array in value.items()),
)
def test_what_is_of_another_kind_is_refused(tmp_path, changes, words):
    """Protects users: a column that is no numbers, no flags or no texts is one line that names it, and a row without a place is another."""
    refused(saved(tmp_path / "t.parquet", **changes), *words)


def test_ids_of_any_kind(tmp_path):
    """Protects names: texts, numbers and bytes are shown as text, and an image without one is called by its index."""
    for ids, shown in [
        (pa.array(range(10, 10 + N)), "12"),
        (pa.array(np.arange(10.0, 10 + N)), "12"),
        (pa.array(["a", "b", None, "d", "e", "f"]), "2"),
        (pa.array([b"a", b"b", b"\xff.png", b"d", b"e", b"f"]), "\\xff.png"),
        (pa.nulls(N), "2"),
        (pa.array([True] * N), "True"),
    ]:
        assert read_measurements(saved(tmp_path / "t.parquet", id=ids)).id[2] == shown


def test_columns_given_twice_or_not_at_all(tmp_path):
    """Protects against the wrong one of two columns, and against half a table."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_arrays([*PLAIN.values(), PLAIN["cost"]], names=[*PLAIN, "cost"]), path)
    refused(path, "each column once", "cost")
    pq.write_table(pa.table({name: array for name, array in PLAIN.items() if name not in ("index", "censored")}), path)
    refused(path, "without the columns index, censored")
    pq.write_table(pa.table(PLAIN).slice(0, 0), path)
    refused(path, "without rows")


def test_other_formats(tmp_path):
    """Protects users: CSV, JSON and Feather instead of parquet are called by their names; damaged files are read or refused."""
    table = pa.table(PLAIN)
    pyarrow.csv.write_csv(table, tmp_path / "t.csv")
    refused(tmp_path / "t.csv", "CSV", "to_parquet")
    pyarrow.feather.write_feather(table, tmp_path / "t.feather")
    refused(tmp_path / "t.feather", "Feather")
    (tmp_path / "t.json").write_text(json.dumps(table.to_pylist()))
    refused(tmp_path / "t.json", "JSON")
    whole = saved(tmp_path / "t.parquet").read_bytes()
    random = np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(whole)
        for place in random.integers(4, len(whole), 8):
            damaged[place] = random.integers(256)
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(damaged if number % 3 else damaged[: random.integers(len(whole))])
        with contextlib.suppress(BadInput):
            read_measurements(path)


@pytest.mark.parametrize(
    "meta",
    [
        {"attacks": {"bim": 3}},
        {"attacks": [1]},
        {"norms": {"bim": ["linf"]}},
        {"norms": 2},
        {"shape": 7},
        {"shape": [4, "x", 1]},
        {"clever": [1]},
        {"photographs": "yes"},
    ],
)
def test_settings_of_another_form(tmp_path, meta):
    """Protects readers of the metadata: settings that no run writes are refused in one line."""
    refused(saved(tmp_path / "t.parquet", meta), "settings of the run")


@pytest.mark.parametrize("meta", [b"no json", b"[1]", b"\xff", b"[" * 5000])
def test_metadata_that_is_no_json(tmp_path, meta):
    """Protects tables of other tools: what is no record of a run is no record, and the costs are read."""
    pq.write_table(pa.table(PLAIN).replace_schema_metadata({b"a2d": meta}), tmp_path / "t.parquet")
    assert read_measurements(tmp_path / "t.parquet").meta == {}


KINDS = [
    pa.array([None, 0, 2**62, -1, 5, 2]),
    pa.array([None, 0, 2**64 - 1, 1, 5, 2], pa.uint64()),
    pa.array([None, 0.5, float("nan"), float("-inf"), 1e300, 2.0]),
    pa.array(np.asarray([0.5, np.nan, -np.inf, 6e4, 1, 2], np.float16)),
    pa.array([None, "", "bim", "12", "\u00e9", "x"]),
    pa.array([None, "", "bim", "12", "\u00e9", "x"], pa.string_view()),
    pa.array([None, b"", b"bim", b"\xff", b"\0", b"x"]),
    pa.array([None, b"", b"bim", b"\xff", b"\0", b"x"], pa.binary_view()),
    pa.array([b"abc"] * N, pa.binary(3)),
    pa.array([None, True, False, True, True, True]),
    pa.nulls(N),
    pa.array([None, 2**62, 0, 1, 2, 3], pa.timestamp("ns")),
    pa.array([None, 2**62, 0, 1, 2, 3], pa.timestamp("us", "UTC")),
    pa.array([None, 2**62, 0, 1, 2, 3], pa.duration("s")),
    pa.array([None, 2**30, 0, 1, 2, 3], pa.date32()),
    pa.array([None, 2**62, 0, 1, 2, 3], pa.time64("us")),
    pa.array([decimal.Decimal("1.5"), None, *map(decimal.Decimal, ("1e30", "-1", "0", "7"))], pa.decimal128(38, 5)),
    pa.array([decimal.Decimal("1.5"), None, *map(decimal.Decimal, ("1e30", "-1", "0", "7"))], pa.decimal256(50, 2)),
    pa.array([[1], None, [], [2], [3], [4]]),
    pa.array([[1]] * N, pa.list_(pa.int64(), 1)),
    pa.array([{"a": 1}] * N),
    pa.array([[("a", 1)]] * N, pa.map_(pa.string(), pa.int64())),
    pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int64(), [1]), pa.array([[1]] * N, pa.list_(pa.int64(), 1))),
    pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1, 2, None, 1, 0], pa.int8())),
    pa.array([None, 1, 2, 2, 0, -1]).dictionary_encode(),
    pa.array([None, "bim", "bim", "", "a", "b"]).dictionary_encode(),
]


@pytest.mark.parametrize("column", [*PLAIN, "success", "error", "fingerprint", "distance", "crossing", "iterations", "target", "score"])
def test_any_column_of_any_kind(tmp_path, column):
    """Protects the command line: whatever kind a column has, a table is read or refused in one line, and its numbers likewise."""
    for array in KINDS:
        path = saved(tmp_path / "t.parquet", **{column: array})
        try:
            table = read_measurements(path)
        except BadInput as error:
            said = str(error)
        else:
            said = "; ".join(error for _, _, error in table.errors)
            for name, numbers in table.numbers.items():
                for number in numbers:
                    with contextlib.suppress(BadInput):
                        assert np.isfinite(table.select(table.columns([f"{name}.{number}"]))).all()
        assert "\n" not in said
