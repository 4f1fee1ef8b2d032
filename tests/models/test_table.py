"""The command that makes the table of models/README.md."""

import numpy as np
import pytest
from PIL import Image

from a2d_jax.errors import BadInput
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


@pytest.mark.parametrize("name", ["cat.png", "cat_7.png", "-1_cat.png", "1000_cat.png", "²_cat.png"])
def test_photographs_without_a_class_are_refused(tmp_path, name):
    """A photograph whose name begins with no class is named in the error, and none is read with a wrong class."""
    for one in ("7_cat.png", name):
        Image.fromarray(np.full((300, 260, 3), 90, np.uint8)).save(tmp_path / one)
    with pytest.raises(BadInput, match=f"class from 0 to 999, got {name}"):
        table.photographs(tmp_path)


def test_photographs_that_cannot_be_read_are_refused(tmp_path):
    """A damaged photograph is named in the error; its row is not taken for an image."""
    Image.fromarray(np.full((300, 260, 3), 90, np.uint8)).save(tmp_path / "7_cat.png")
    x, label = table.photographs(tmp_path)
    assert (x.shape, label.tolist()) == ((1, 224, 224, 3), [7])
    (tmp_path / "8_dog.jpg").write_bytes(b"damaged")
    with pytest.raises(BadInput, match=r"got 8_dog.jpg"):
        table.photographs(tmp_path)
