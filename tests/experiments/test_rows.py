"""The whole experiment on tables of millions of rows, in a small size."""

import json

import pyarrow.parquet as pq

from experiments import rows


def test_in_small(tmp_path, capsys):
    """Protects the command: its tables are folders that the commands read, and each command leaves a row of the table."""
    settings = rows.Settings(tmp_path, images=3000, files=8, detectors=("conformal",), commands=("fit", "detect"))
    rows.main(settings)
    printed = capsys.readouterr().out
    assert "| detect conformal |" in printed
    found = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["command"] for row in found] == ["fit conformal", "detect conformal"]
    assert all(row["mib"] > 10 and row["seconds"] > 0 for row in found)
    verdicts = pq.read_table(tmp_path / "conformal.parquet")
    assert len(verdicts) == 3000
    assert verdicts["error"].null_count == 2997
