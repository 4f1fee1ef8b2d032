"""Labels of a folder of images: from a table, from class numbers, from class names, or from sorted names with a note."""

import pathlib
import re
import unicodedata

import numpy as np
import pytest

from a2d_jax.errors import BadInput
from a2d_jax.io.images import open_images
from tests.io.test_images import BYTES, encoded


def write(folder: pathlib.Path, *names: str) -> pathlib.Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(BYTES[i]))
    return folder


def labels(folder: pathlib.Path, classes=None) -> tuple[list[int] | None, str | None]:
    source = open_images(folder, classes=classes)
    pieces = list(source.pieces(2))
    assert source.labels == (pieces[0].label is not None)
    assert len(source.choices) <= 1
    return np.concatenate([piece.label for piece in pieces]).tolist() if source.labels else None, next(iter(source.choices), None)


def lost(folder: pathlib.Path, classes=None) -> str:
    found, note = labels(folder, classes)
    assert found is None
    assert f"took no labels from the folders of {folder}: " in re.sub(r"the \d+ folders", "the folders", note)
    return note.partition(": ")[2]


def test_numbers(tmp_path):
    """Sub-folders named by numbers are class numbers, in numerical value, whatever the classes are called."""
    write(tmp_path, "0/a.png", "10/a.png", "2/a.png", "2/b.png")
    assert labels(tmp_path) == labels(tmp_path, ["x", "y", "z"]) == labels(tmp_path, 3) == ([0, 10, 2, 2], None)


def test_names_of_classes(tmp_path):
    """Sub-folders called like classes are these classes, also if some are missing; a name that is no class leaves no labels."""
    write(tmp_path, "cat/a.png", "ant/a.png", "ant/b.png")
    assert labels(tmp_path, ["dog", "cat", "ant"]) == ([2, 2, 1], None)
    assert labels(tmp_path, ["cat", "ant"]) == ([1, 1, 0], None)  # not in the order of names
    write(tmp_path, "eel/a.png")
    assert lost(tmp_path, ["dog", "cat", "ant"]) == "eel is not a class of the classifier, but other names are"


def test_sorted_names(tmp_path):
    """As many folders as classes are the classes in the order of names, as torchvision's ImageFolder has it, and a note says so."""
    write(tmp_path, "n03/a.png", "n01/a.png", "n20/a.png")
    for classes in (3, ["tench", "goldfish", "shark"]):
        found, note = labels(tmp_path, classes)
        assert found == [0, 1, 2]
        assert "3 folders" in note
        assert "n01" in note
        assert "n20" in note
    assert lost(tmp_path, 4) == "their names, such as n01, are not class numbers, and the classifier has 4 classes"
    assert lost(tmp_path) == "their names, such as n01, are not class numbers, and the classifier does not say what its classes are"
    write(tmp_path, "7/a.png")
    assert lost(tmp_path, 3) == "n01 is not a class number, but other names are"


def test_empty_folders(tmp_path):
    """A class whose images are missing is still a class: those after it do not move up; a folder beside the classes is none."""
    write(tmp_path, "n01/a.png", "n20/a.png")
    (tmp_path / "n03").mkdir()
    found, note = labels(tmp_path, 3)
    assert found == [0, 2]
    assert "3 folders" in note
    found, note = labels(tmp_path, 2)
    assert found == [0, 1]
    assert "2 folders" in note


def test_accents_in_either_form(tmp_path):
    """A folder is called like a class also where its accents are kept apart, as macOS does."""
    write(tmp_path, unicodedata.normalize("NFD", "caf\u00e9/a.png"), "ant/a.png")
    assert labels(tmp_path, ["caf\u00e9", "ant"]) == ([1, 0], None)
    assert labels(tmp_path, [unicodedata.normalize("NFD", "caf\u00e9"), "ant"]) == ([1, 0], None)


def test_names_of_files_mean_nothing(tmp_path):
    """A number in front of a file name is no label, nor are images beside sub-folders labelled."""
    write(tmp_path, "0003_n01.png", "0004_n02.png")
    assert labels(tmp_path, 2) == (None, None)
    write(tmp_path, "7/a.png")
    assert lost(tmp_path, 2) == "images lie beside them, first 0003_n01.png"


def test_huge_numbers(tmp_path):
    """A folder named by a number that no class has, such as a time, is refused in one line; zeros in front do not count."""
    write(tmp_path, "20240131120000123456/a.png")
    with pytest.raises(BadInput, match=r"^expected folders of .* below 2\^63, got 20240131120000123456; "):
        open_images(tmp_path)
    (tmp_path / "20240131120000123456").rename(tmp_path / f"{9:030d}")
    assert labels(tmp_path) == ([9], None)


def test_table(tmp_path):
    """labels.csv gives every image its class, before anything that folders may say."""
    write(tmp_path, "0003_a.png", "1/b,c.png")
    (tmp_path / "labels.csv").write_text('"1/b,c.png",9\n0003_a.png,3\n')
    assert labels(tmp_path) == ([3, 9], None)


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ("a.png,1\n", "b.png without a line"),
        ("a.png,1\nb.png,2\nc.png,3\n", "c.png, which is no image"),
        ("file,label\na.png,1\nb.png,2\n", "line 1"),
        ("a.png,1\nb.png,-2\n", "line 2"),
        ("a.png,1\nb.png\n", "line 2"),
    ],
)
def test_refused_tables(lines, word, tmp_path):
    """A table with a heading, a missing or foreign image or no class number is refused with the place."""
    write(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_text(lines)
    with pytest.raises(BadInput, match=r"expected .*, got .*; ") as caught:
        open_images(tmp_path)
    assert word in str(caught.value)
    assert "labels.csv" in str(caught.value)
