"""labels.csv as people, shells and spreadsheets write it: plausible files are read, others give a one-line error."""

import os
import pathlib
import unicodedata

import numpy as np
import pytest

from a2d_jax.errors import BadInput
from a2d_jax.io.images import open_images
from tests.io.test_folder import write

TWO = "a.png,3\nb.png,4\n"


def labels(folder: pathlib.Path, table: bytes) -> list[int]:
    (folder / "labels.csv").write_bytes(table)
    source = open_images(folder)
    assert source.choices == []
    return np.concatenate([piece.label for piece in source.pieces()]).tolist()


@pytest.mark.parametrize(
    "table",
    [
        TWO.encode("utf-8-sig"),
        TWO.encode("utf-16"),  # with a byte order mark, of this machine's order
        b"\xfe\xff" + TWO.encode("utf-16-be"),
        TWO.encode("utf-32"),
        TWO.replace("\n", "\r\n").encode(),
        TWO.rstrip().encode(),
        (TWO + "\n \n,\n").encode(),  # lines that a spreadsheet has emptied
        TWO.replace(",", ";").encode(),
        TWO.replace(",", "\t").encode("utf-16"),
        b'"a.png","3"\n"b.png", 4 \n',
        b"./a.png,3\n.\\b.png,004\n",
        (TWO + "a.png,3\n").encode(),  # said twice, and the same
        (TWO + "labels.csv,0\n").encode(),  # a list of all files has the table too
    ],
)
def test_ways_to_write_it(table, tmp_path):
    """Marks, encodings, separators, quotes and empty lines change nothing."""
    write(tmp_path, "b.png", "a.png")
    assert labels(tmp_path, table) == [3, 4]


def test_a_comma_in_a_name(tmp_path):
    """A separator inside a name does not matter where another one, or quotes, part the line."""
    write(tmp_path, "a,b.png", "c;d.png")
    assert labels(tmp_path, b'a,b.png;1\n"c;d.png";2\n') == labels(tmp_path, b'"a,b.png",1\nc;d.png,2\n') == [1, 2]


def test_accents_in_either_form(tmp_path):
    """macOS stores e and its accent apart, most others together: the table may have either; where both are files, each is itself."""
    apart, together = (unicodedata.normalize(form, "cafe\u0301.png") for form in ("NFD", "NFC"))
    write(tmp_path, apart)
    assert labels(tmp_path, f"{together},3\n".encode()) == labels(tmp_path, f"{apart},3\n".encode()) == [3]
    write(tmp_path, together)
    assert labels(tmp_path, f"{together},3\n{apart},4\n".encode()) == [4, 3]  # the plain e comes first


def test_names_from_elsewhere(tmp_path):
    """Backslashes of Windows, whole paths and bytes that are no UTF-8 find their files."""
    write(tmp_path, "0/a.png", "b.png")
    assert labels(tmp_path, f"0\\a.png,1\n{tmp_path / 'b.png'},2\n".encode()) == [1, 2]
    os.rename(tmp_path / "b.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    assert labels(tmp_path, b"0/a.png,1\ncaf\xe9.png,2\n") == [1, 2]


def test_lines_for_what_is_left_out(tmp_path):
    """A table made from a list of all files has lines for leavings and second links, which are passed over."""
    write(tmp_path, "a.png", "._a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "labels.csv").write_text("a.png,3\n._a.png,3\nb.png,3\n")
    source = open_images(tmp_path)
    assert next(source.pieces()).label.tolist() == [3]
    assert len(source.choices) == 2


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("caf\xe9.png,3\nb.png,4\n".encode("cp1252"), "another encoding; save it as UTF-8"),
        (TWO.encode("utf-16-le"), "NUL bytes"),
        (TWO.encode("utf-16")[:-1], "damaged text"),
        (b"a.png,3\nb.png,\x004\n", "NUL bytes"),
        (b"a.png,3\nb.png,20240131120000123456\n", "got 20240131120000123456 in line 2"),
        (b"a.png,3\nb.png," + b"9" * 5000 + b"\n", "below 2^63"),
        (b"a.png,3\nb.png,9223372036854775808\n", "below 2^63"),
        (b"a.png,3\nb.png,-1\n", "'b.png,-1' in line 2"),
        (b"a.png,3\nb.png,4.0\n", "'b.png,4.0' in line 2"),
        (b"a.png,3\nb.png,nan\n", "'b.png,nan' in line 2"),
        (b"a.png,3\nb.png,\n", "in line 2"),
        (b"a.png,3\n\n\n,4\n", "',4' in line 4"),
        (b"file;class\na.png;3\nb.png;4\n", "without a heading"),
        (b"a.png 3\nb.png 4\n", "in line 1"),
        (b"a.png,3\nb.png,4\na.png,5\n", "got 3 and 5 (line 3) for a.png"),
        (b"a.png,3\nB.PNG,4\n", "b.png without a line (2 such)"),
        (b"a.png,3\nb.png,4\nc\xe9.png,5\n", "another encoding"),
        (b"", "a.png without a line (2 such)"),
        (b'a.png,3\n"b.png,4\n', "in line"),
        (b'"' + b"x" * 200_000 + b'",3\n', "no table"),
    ],
)
def test_refused(table, words, tmp_path):
    """What cannot be meant is refused in one line that names the table, the place and the remedy."""
    write(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_bytes(table)
    with pytest.raises(BadInput, match=r"^expected [^\n]*labels\.csv[^\n]*, got [^\n]*; [^\n]+$") as caught:
        open_images(tmp_path)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))
