"""A folder of tables is one table: other images, other attacks, or both. Tables that do not fit are refused with a remedy."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from a2d_jax.errors import BadInput
from a2d_jax.io.measurements import Measurements, read_measurements

META = {"weights_sha256": "a" * 64, "attacks": {"bim": {"max_steps": 500}, "jsma": {"max_steps": 500}}, "images": "x", "count": 9}


def part(path, ids, cost, attack="bim", index=None, prints=None, meta=META, error=None):
    """A file with one attack on some images."""
    n = len(ids)
    columns = {
        "index": range(n) if index is None else index,
        "id": ids,
        "attack": [attack] * n,
        "label": [1] * n,
        "cost": cost,
        "censored": [False] * n,
        "error": [None] * n if error is None else error,
    }
    if prints is not None:
        columns["fingerprint"] = prints
    known = {**meta, "attacks": {attack: meta["attacks"][attack]}} if "attacks" in meta else meta
    pq.write_table(pa.table(columns).replace_schema_metadata({"a2d": json.dumps(known)} if meta else None), path)


def costs(table: Measurements, *names: str) -> list[list[int]]:
    return table.select(table.columns(names)).tolist()


def test_parts_that_count_on(tmp_path):
    """Protects places: parts with indices of their own keep them, whatever else lies in the folder."""
    part(tmp_path / "b.parquet", ["c", "d"], [3, 4], index=[2, 3])
    part(tmp_path / "a.parquet", ["a", "b"], [1, 2])
    (tmp_path / "._a.parquet").write_bytes(b"\0")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "more.parquet").mkdir()
    table = read_measurements(tmp_path)
    assert (table.index.tolist(), table.id, costs(table, "bim")) == ([0, 1, 2, 3], ["a", "b", "c", "d"], [[1], [2], [3], [4]])
    assert table.meeting.notes == []
    assert table.meta["weights_sha256"] == "a" * 64
    assert [one["file"] for one in table.meta["parts"]] == ["a.parquet", "b.parquet"]
    assert "images" not in table.meta


def test_parts_that_each_count_from_0(tmp_path):
    """Protects images: the same index with other names or other pixels is another image; all are numbered anew, with a note."""
    part(tmp_path / "a.parquet", ["0", "1"], [1, 2], prints=[10, 11])
    part(tmp_path / "b.parquet", ["0", "1"], [3, 4], prints=[12, 13])
    table = read_measurements(tmp_path)
    assert (table.index.tolist(), costs(table, "bim")) == ([0, 1, 2, 3], [[1], [2], [3], [4]])
    assert table.fingerprint is not None
    assert table.key.tolist() == [10, 11, 12, 13]
    (note,) = table.meeting.notes
    assert "were renumbered" in note


def test_parts_of_other_attacks(tmp_path):
    """Protects columns: the same images under another attack are further columns, with the settings of both."""
    part(tmp_path / "a.parquet", ["0", "1"], [1, 2], prints=[10, 11])
    part(tmp_path / "b.parquet", ["1", "0"], [4, 3], attack="jsma", index=[1, 0], prints=[11, 10])
    table = read_measurements(tmp_path)
    assert costs(table, "bim", "jsma") == [[1, 3], [2, 4]]
    assert set(table.meta["attacks"]) == {"bim", "jsma"}


def test_images_and_attacks_at_once(tmp_path):
    """Protects both ways together: two sets that count from 0, each measured by two attacks in files of their own."""
    for number, (ids, prints) in enumerate([(["0", "1"], [10, 11]), (["0", "1"], [12, 13])]):
        for attack in ("bim", "jsma"):
            part(tmp_path / f"{number}-{attack}.parquet", ids, [number, number + 5], attack=attack, prints=prints)
    assert costs(read_measurements(tmp_path), "bim", "jsma") == [[0, 0], [5, 5], [1, 1], [6, 6]]


def test_failed_images_of_parts(tmp_path):
    """Protects errors: images that could not be read, all alike, stay as many as there were."""
    for name, prints in (("a", [10, 99]), ("b", [12, 99])):
        part(tmp_path / f"{name}.parquet", ["0", "1"], [1, None], prints=prints, error=[None, "corrupt"])
    table = read_measurements(tmp_path)
    assert len(table.index) == 2
    assert [(name, error) for _, name, error in table.errors] == [("1", "corrupt")] * 2
    assert len({*table.index.tolist(), *(index for index, _, _ in table.errors)}) == 4


def test_the_same_image_twice(tmp_path):
    """Protects against counting twice: the same images in two files, or twice in one, are refused with what to do."""
    part(tmp_path / "a.parquet", ["0", "1"], [1, 2])
    part(tmp_path / "b.parquet", ["0", "1"], [1, 2])
    with pytest.raises(BadInput, match=r"got 2 of bim for image 0 \(0\).*put their files into a folder.*give the folder"):
        read_measurements(tmp_path)
    pq.write_table(pa.concat_tables([pq.read_table(tmp_path / "a.parquet")] * 2), tmp_path / "b.parquet")
    with pytest.raises(BadInput, match=r"got 2 of bim for image 0 \(0\) in .*b.parquet; leave out the rows given twice; to merge tables"):
        read_measurements(tmp_path / "b.parquet")
    with pytest.raises(BadInput, match=r"^(?!.*run `a2d cost` again)"):
        read_measurements(tmp_path / "b.parquet")


def test_an_attack_that_only_some_images_have(tmp_path):
    """Protects tables from holes: an attack measured on one part alone is refused."""
    part(tmp_path / "a.parquet", ["a", "b"], [1, 2])
    part(tmp_path / "b.parquet", ["c"], [3], index=[2], attack="jsma")
    with pytest.raises(BadInput, match=r"got 0 of jsma for image 0 \(a\).*measure every attack on every image"):
        read_measurements(tmp_path)


def test_parts_of_other_origins(tmp_path):
    """Protects against mixtures inside a folder: refused unless asked for, and then recorded; a part without a record is told."""
    part(tmp_path / "a.parquet", ["a"], [1])
    part(tmp_path / "b.parquet", ["b"], [2], index=[1], meta={**META, "weights_sha256": "b" * 64})
    with pytest.raises(BadInput, match=r"weights aaaaaaaaaaaa.*mixed_origins=True"):
        read_measurements(tmp_path)
    mixed = read_measurements(tmp_path, mixed_origins=True)
    assert set(mixed.meta["mixed_origins"]) == {"weights_sha256"}
    part(tmp_path / "b.parquet", ["b"], [2], index=[1], meta={})
    (note,) = read_measurements(tmp_path).meeting.notes
    assert "b.parquet does not record" in note


def test_folders_without_tables(tmp_path):
    """Protects users: a folder without parquet files, or with tables of two kinds, is refused."""
    with pytest.raises(BadInput, match="a folder without any"):
        read_measurements(tmp_path)
    part(tmp_path / "a.parquet", ["a"], [1])
    scores = {"index": [0], "id": ["a"], "target": ["target-2"], "label": [1], "score": [0.5]}
    pq.write_table(pa.table(scores), tmp_path / "b.parquet")
    with pytest.raises(BadInput, match="files of one kind"):
        read_measurements(tmp_path)
    np.testing.assert_array_equal(read_measurements(tmp_path / "b.parquet").numbers["clever:target-2"]["score"], [0.5])
