"""The command that makes the table of models/README.md."""

from models import table


def test_the_table_is_replaced(tmp_path, monkeypatch):
    """Only the lines between the marks change, twice the same; without data no accuracy is claimed, and the given one stands."""
    out = tmp_path / "README.md"
    out.write_text(f"before\n{table.BEGIN}old\n{table.END}after\n")
    monkeypatch.setattr(table, "ROWS", table.ROWS[:1])
    for _ in range(2):
        table.main(table.Args(tmp_path, tmp_path, out=out))
        head, _, rest = out.read_text().partition(table.BEGIN)
        inside, _, tail = rest.partition(table.END)
        assert (head, tail) == ("before\n", "after\n")
        assert inside.splitlines()[2:] == ["| `models.lenet:lenet5` | 61,706 | lenet5_mnist.pkl | MNIST |  |  | 98.29 |"]


def test_the_readme_has_measured_all_rows():
    """Every network of the table stands in models/README.md with a measured accuracy, the published one where there is one."""
    lines = table.README.read_text().partition(table.BEGIN)[2].partition(table.END)[0].splitlines()[2:]
    assert len(lines) == len(table.ROWS)
    for line, row in zip(lines, table.ROWS, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == f"`{row.factory}`"
        assert float(cells[5]) > 85
        assert cells[6] in ("", cells[5])
