"""Tables: PyArrow, NumPy and our own readers find the same values that were written; other files are refused."""

import json
import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from a2d_jax.errors import BadInput
from a2d_jax.io.images import open_images
from a2d_jax.io.measurements import read_measurements
from a2d_jax.io.tables import COSTS, npz_writer, stretched, table_writer, verdicts_schema
from a2d_jax.measurements import Column

CONTRACT = ["index", "id", "attack", "label", "cost", "iterations", "success", "censored"]
CONTRACT += ["forward_queries", "backward_queries", "distance", "preset", "seed"]
OPTIONAL = ["crossing", "target", "fingerprint"]  # null where nothing is to be said


def cost_rows(index: list[int], attacks: list[str], failed: tuple[int, ...] = ()) -> dict[str, list]:
    """Rows of images under attacks; the cost of image i under attack number j is 100 j + i."""
    rows = [(i, j) for i in index for j in range(len(attacks))]
    cost = [100 * j + i for i, j in rows]
    n = len(rows)
    return {
        "index": [i for i, _ in rows],
        "id": [f"image {i}" for i, _ in rows],
        "attack": [attacks[j] for _, j in rows],
        "label": [i % 3 for i, _ in rows],
        "cost": cost,
        "iterations": cost,
        "success": [True] * n,
        "censored": [c > 102 for c in cost],
        "forward_queries": cost,
        "backward_queries": cost,
        "distance": [0.5] * n,
        "preset": ["mnist"] * n,
        "seed": [7] * n,
        "error": ["corrupt" if i in failed else None for i, _ in rows],
    }


def test_costs_survive_the_round_trip(tmp_path):
    """Costs written in two parts come back wide, with the attacks in the order of the settings and failed images left out."""
    path = tmp_path / "costs.parquet"
    meta = {"attacks": {"jsma": {"max_steps": 900}, "bim": {}}, "seed": 7}
    with table_writer(path, COSTS, meta) as write:
        write(cost_rows([0, 1], ["bim", "jsma"]))
        write(cost_rows([2, 5], ["bim", "jsma"], failed=(2,)))
    table = read_measurements(path)
    assert table.names == ("jsma", "bim")
    both = table.columns(["jsma", "bim"])
    np.testing.assert_array_equal(table.select(both), [[100, 0], [101, 1], [105, 5]])
    np.testing.assert_array_equal(table.censored["jsma"], [False, False, True])
    np.testing.assert_array_equal(table.censored["bim"], [False, False, False])
    np.testing.assert_array_equal(table.index, [0, 1, 5])
    np.testing.assert_array_equal(table.label, [0, 1, 2])
    assert table.id == ["image 0", "image 1", "image 5"]
    assert table.errors == [(2, "image 2", "corrupt")]
    assert table.meta == meta
    np.testing.assert_array_equal(table.select(both[1:]), [[0], [1], [5]])
    with pytest.raises(BadInput, match="dba"):
        table.columns(["bim", "dba"])


def test_file_keeps_the_contract(tmp_path):
    """PyArrow finds the fixed columns in their order, nulls in failed rows, and the settings as JSON in the file's metadata."""
    path = tmp_path / "costs.parquet"
    with table_writer(path, COSTS, {"seed": 7}) as write:
        write(cost_rows([0, 1], ["bim"], failed=(1,)))
    table = pq.read_table(path)
    assert table.column_names == [*CONTRACT, *OPTIONAL, "error"]
    good, failed = table.to_pylist()
    assert None not in [good[name] for name in CONTRACT]
    assert {name for name, value in failed.items() if value is not None} == {"index", "id", "attack", "preset", "seed", "error"}
    assert json.loads(table.schema.metadata[b"a2d"]) == {"seed": 7}


def test_verdicts_carry_the_costs(tmp_path):
    """A table of verdicts has a column of costs for each attack."""
    path = tmp_path / "verdicts.parquet"
    with table_writer(path, verdicts_schema([Column("bim", "cost")]), {}) as write:
        write({"index": [3], "id": ["a"], "label": [1], "score": [0.25], "adversarial": [True], "cost_bim": [12], "error": [None]})
    row = {"index": 3, "id": "a", "label": 1, "score": 0.25, "adversarial": True, "cost_bim": 12, "error": None}
    assert pq.read_table(path).to_pylist() == [row]


def test_interrupt_leaves_no_table(tmp_path):
    """Ctrl-C between two parts leaves nothing behind."""

    def interrupted() -> None:
        with table_writer(tmp_path / "costs.parquet", COSTS, {}) as write:
            write(cost_rows([0], ["bim"]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(KeyboardInterrupt), npz_writer(tmp_path / "adv.npz", 2, (2, 2, 1), {}):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def refused(path, *words: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_measurements(path)
    text = str(caught.value)
    assert re.match(r"expected [^\n]*, got [^\n]*; [^\n]*$", text)
    assert all(word in text for word in (*words, str(path)))


def test_refused_tables(tmp_path):
    """What is no table of costs is refused with what is missing; holes and duplicates are named."""
    path = tmp_path / "a.parquet"
    refused(path, "not a file")
    path.write_bytes(b"text")
    refused(path, "damaged")
    pq.write_table(pa.table({"index": [1], "cost": [2]}), path)
    refused(path, "id, attack, label, censored")
    rows = cost_rows([0, 1], ["bim", "dba"])
    for change, words in [
        (lambda values: values[:-1], ["0 of dba", "image 1"]),
        (lambda values: [*values, values[0]], ["2 of bim", "image 0"]),
        (lambda values: values[:0], ["without rows"]),
    ]:
        with table_writer(path, COSTS, {}) as write:
            write({name: change(values) for name, values in rows.items()})
        refused(path, *words)
    with table_writer(path, COSTS, {}) as write:
        write(cost_rows([0, 1], ["bim"], failed=(0, 1)))
    refused(path, "all 2 images")


def test_crafted_images(tmp_path):
    """NumPy reads the npz without pickle; our reader finds the images again and reports the failed row as a row error."""
    path = tmp_path / "adv.npz"
    x = np.random.default_rng(0).random((5, 3, 2, 1), np.float32)
    error = [None, "corrupt", None, None, None]
    with npz_writer(path, 5, (3, 2, 1), {"seed": 3}) as write:
        for part in (slice(0, 3), slice(3, 5)):
            n = np.arange(5)[part]
            write(x=x[part], y=n, success=n > 1, index=n, error=error[part])
    with np.load(path, allow_pickle=False) as arrays:
        good = np.asarray([0, 2, 3, 4])
        np.testing.assert_array_equal(arrays["x"][good], x[good])
        assert np.isnan(arrays["x"][1]).all()
        np.testing.assert_array_equal(arrays["y"], np.arange(5))
        np.testing.assert_array_equal(arrays["success"], np.arange(5) > 1)
        assert arrays["error"].tolist() == ["", "corrupt", "", "", ""]
        assert json.loads(str(arrays["a2d"])) == {"seed": 3}
    pieces = list(open_images(path).pieces(5))
    assert [e is None for e in pieces[0].error] == [True, False, True, True, True]
    np.testing.assert_array_equal(pieces[0].label, np.arange(5))


def test_stretched_images_are_those_of_an_8_bit_writer():
    """Protects the stored form: darkest pixel 0, brightest 1, steps of 1/255, rounded as NumPy rounds; one value alone is black."""
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 3)).astype(np.float32)
    x[4] = 0.3
    stored = stretched(x)
    for image, found in zip(x[:4].astype(np.float64), stored[:4], strict=True):
        expected = np.interp(image, [image.min(), image.max()], [0, 255]).round()
        np.testing.assert_array_equal(np.round(found * 255), expected)
    assert stored.dtype == np.float32
    assert stored[:4].min() == 0
    assert stored[:4].max() == 1
    assert (stored[4] == 0).all()
    np.testing.assert_array_equal(stretched(stored), stored)
