"""Folders as a large job leaves them: one subfolder for each measurement, with many parts. They are read as one table of the same rows."""

import json
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a2d_jax.errors import BadInput
from a2d_jax.io.measurements import Measurements, read_measurements
from a2d_jax.io.tables import COSTS

ATTACKS = ("bim", "jsma")
META = {
    "attacks": {name: {"max_steps": 500} for name in ATTACKS},
    "norms": dict.fromkeys(ATTACKS, "linf"),
    "shape": [2, 2, 1],
    "weights_sha256": "a" * 64,
    "images": "digits",
    "count": 20,
}


def rows(attack: str, count: int = 20, failed: tuple[int, ...] = (3, 11)) -> pa.Table:
    """Costs of an attack on images, some of which could not be read; crossings only of bim."""
    n = np.arange(count)
    bad = np.isin(n, failed)
    drawn = np.random.default_rng(len(attack)).integers(1, 501, count)
    columns = {
        "index": n,
        "id": [f"{i}.png" for i in n],
        "attack": [attack] * count,
        "label": pa.array(n % 3, mask=bad),
        **{name: pa.array(drawn, mask=bad) for name in ("cost", "iterations", "forward_queries", "backward_queries")},
        "success": pa.array(drawn < 400, mask=bad),
        "censored": pa.array(drawn >= 400, mask=bad),
        "distance": pa.array(drawn / 700, pa.float32(), mask=bad),
        "preset": ["mnist"] * count,
        "seed": [0] * count,
        "crossing": pa.array(drawn / 600, pa.float32(), mask=bad) if attack == "bim" else pa.nulls(count, pa.float32()),
        "target": pa.nulls(count, pa.int64()),
        "fingerprint": 2**61 + 7 * n,
        "error": pa.array(["corrupt"] * count, mask=~bad),
    }
    return pa.table(columns, schema=COSTS)


def own(attack: str) -> dict:
    """What the parts of one attack say of their run: its settings alone."""
    return META | {name: {attack: META[name][attack]} for name in ("attacks", "norms")}


def write(table: pa.Table, path: Path, meta: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"a2d": json.dumps(meta)}), path)


def parted(folder: Path, cuts: dict[str, list[int]], tables: dict[str, pa.Table]) -> None:
    """Each attack in a subfolder of its own, cut before these rows."""
    for attack, table in tables.items():
        borders = [0, *cuts[attack], len(table)]
        for number, (start, end) in enumerate(pairwise(borders)):
            write(table.slice(start, end - start), folder / attack / f"part-{number:06}.parquet", own(attack))


def same(one: Measurements, other: Measurements) -> None:
    """All fields but the path and what each file says of its set."""
    assert (one.names, one.id, one.errors, one.meeting) == (other.names, other.id, other.errors, other.meeting)
    for name in ("index", "fingerprint", "label", "key"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in one.names:
        assert set(one.numbers[name]) == set(other.numbers[name])
        for number, values in one.numbers[name].items():
            np.testing.assert_array_equal(values, other.numbers[name][number])
        np.testing.assert_array_equal(one.success[name], other.success[name])
        np.testing.assert_array_equal(one.censored[name], other.censored[name])
    for name in ("attacks", "norms", "shape", "weights_sha256"):
        assert one.meta[name] == other.meta[name]


def test_a_folder_reads_as_the_one_file(tmp_path):
    """Protects the layout: attacks in subfolders, cut in other places, say in every field what one file of the same rows says."""
    tables = {name: rows(name) for name in ATTACKS}
    write(pa.concat_tables(tables.values()), tmp_path / "whole.parquet", META)
    parted(tmp_path / "costs", {"bim": [3, 4, 12], "jsma": [7]}, tables)
    whole, folder = read_measurements(tmp_path / "whole.parquet"), read_measurements(tmp_path / "costs")
    same(folder, whole)
    assert list(folder.meta["attacks"]) == list(ATTACKS)
    assert [(index, error) for index, _, error in folder.errors] == [(3, "corrupt"), (11, "corrupt")]
    assert [(one["file"], one["images"]) for one in folder.meta["parts"]] == [("bim", "digits"), ("jsma", "digits")]
    assert not folder.meeting.notes
    columns = ["bim", "jsma", "bim.crossing", "jsma.distance"]
    np.testing.assert_array_equal(folder.select(folder.columns(columns)), whole.select(whole.columns(columns)))


def test_a_part_of_errors_alone(tmp_path):
    """Protects types: a part in which every image is broken leaves the costs of the others whole numbers."""
    tables = {name: rows(name, failed=(0, 1, 2, 3)) for name in ATTACKS}
    parted(tmp_path / "costs", {"bim": [4], "jsma": [4]}, tables)
    table = read_measurements(tmp_path / "costs")
    assert table.select(table.columns(ATTACKS)).dtype == np.int64
    assert len(table.errors) == 4


def test_hidden_names_are_no_parts(tmp_path):
    """Protects tables from a job's own records: names that begin with a dot or an underscore are not looked at, on either level."""
    parted(tmp_path, {name: [9] for name in ATTACKS}, {name: rows(name) for name in ATTACKS})
    expected = read_measurements(tmp_path)
    for name in (".a2d/part.parquet", "_temporary/part.parquet", "bim/.part-000001.parquet", "bim/_part.parquet", "_part.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half written")
    same(read_measurements(tmp_path), expected)


def test_an_unfinished_job(tmp_path):
    """Protects users: a folder whose job lacks a part is refused, and the remedy is the same command; no other folder is told so."""
    parted(tmp_path / "costs", {name: [9] for name in ATTACKS}, {name: rows(name) for name in ATTACKS})
    (tmp_path / "costs/jsma/part-000001.parquet").unlink()
    with pytest.raises(BadInput, match="measure every attack on every image"):
        read_measurements(tmp_path / "costs")
    (tmp_path / "costs/.a2d").mkdir()
    (tmp_path / "costs/.a2d/job.json").write_text(
        json.dumps({"identity": {}, "count": 20, "size": 10, "measurements": {"predict": False, **dict.fromkeys(ATTACKS, True)}})
    )
    with pytest.raises(BadInput, match=r"finished job in .*units missing: 1.*same command again"):
        read_measurements(tmp_path / "costs")
    for part in (tmp_path / "costs").glob("*/*.parquet"):
        part.unlink()
    with pytest.raises(BadInput, match=r"units missing: 4"):
        read_measurements(tmp_path / "costs")


def test_records_of_many_parts(tmp_path):
    """Protects long jobs: what thousands of parts say alike is compared once, and parts that say nothing make one note."""
    table = rows("bim", 40, ())
    for number in range(40):
        write(table.slice(number, 1), tmp_path / "bim" / f"part-{number:06}.parquet", own("bim") if number < 30 else {})
    (note,) = read_measurements(tmp_path).meeting.notes
    assert "part-000030.parquet and 9 more files do not record how its costs" in note
    write(table.slice(7, 1), tmp_path / "bim" / "part-000007.parquet", own("bim") | {"precision": "bfloat16"})
    write(table.slice(8, 1), tmp_path / "bim" / "part-000008.parquet", own("bim") | {"precision": "float32"})
    with pytest.raises(BadInput, match=r"in bfloat16 as in .*part-000007.parquet, got float32 in .*part-000008"):
        read_measurements(tmp_path)


def test_memory_for_each_row(tmp_path):
    """Protects machines: a row takes at most 250 bytes while its table is read, in files of their own or not."""
    count = 50_000
    tables = {name: rows(name, count, ()) for name in ATTACKS}
    parted(tmp_path / "costs", {name: list(range(1000, count, 1000)) for name in ATTACKS}, tables)
    read_measurements(tmp_path / "costs")
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        table = read_measurements(tmp_path / "costs")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (peak + pa.total_allocated_bytes() - before) / (2 * count) < 250
    assert len(table.index) == count


def slowly(parts: list[list[tuple]]) -> tuple[bool, dict[tuple, dict[str, object]]]:
    """The rule, row by row: whether images are numbered anew, and by image, in its first place, the cost or error under each attack."""
    seen: dict[tuple, int] = {}
    images: dict[tuple, dict[str, object]] = {}
    for index, name, pixels, attack, cost in (row for part in parts for row in part):
        mention = 0
        if cost is None:
            mention = seen.get((index, name, pixels, attack), 0)
            seen[index, name, pixels, attack] = mention + 1
        images.setdefault((index, name, pixels, mention), {}).setdefault(attack, []).append(cost)
    return len(images) > len({index for index, *_ in images}), images


ROW = st.tuples(
    st.integers(0, 2), st.sampled_from("ab"), st.integers(5, 6), st.sampled_from(ATTACKS), st.one_of(st.integers(0, 9), st.none())
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(ROW, min_size=1, max_size=6), min_size=1, max_size=3))
def test_any_rows_by_the_rule(tmp_path_factory, parts):
    """Protects the fast reader: for any few rows it numbers, refuses and reads as the rule that goes row by row."""
    folder = tmp_path_factory.mktemp("any")
    for number, part in enumerate(parts):
        index, name, pixels, attack, cost = map(list, zip(*part, strict=True))
        columns = {"index": index, "id": name, "fingerprint": pixels, "attack": attack, "cost": pa.array(cost, pa.int64())}
        n = len(part)
        pq.write_table(pa.table(columns | {"label": [1] * n, "censored": [False] * n}), folder / f"{number}.parquet")
    renumbered, images = slowly(parts)
    good = {image: costs for image, costs in images.items() if all(None not in given for given in costs.values())}
    names = {attack for part in parts for _, _, _, attack, _ in part}
    if not good or any(len(costs.get(name, [])) != 1 for costs in good.values() for name in names):
        with pytest.raises(BadInput):
            read_measurements(folder)
        return
    table = read_measurements(folder)
    order = list(images) if renumbered else sorted(images)
    place = {image: number if renumbered else image[0] for number, image in enumerate(order)}
    kept = [image for image in order if image in good]
    assert any("renumbered" in note for note in table.meeting.notes) == renumbered
    assert table.index.tolist() == [place[image] for image in kept]
    assert table.id == [image[1] for image in kept]
    assert table.key.tolist() == [image[2] for image in kept]
    for name in names:
        assert table.numbers[name]["cost"].tolist() == [good[image][name][0] for image in kept]
    assert [(index, name) for index, name, _ in table.errors] == [(place[image], image[1]) for image in order if image not in good]
