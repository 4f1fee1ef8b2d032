"""The file `labels.csv` of a folder of images: the class of each image, as people, shells and spreadsheets write it.

A line is `file name,class number`, without a heading; the separator is a comma, a semicolon or a tab. The text is UTF-8, with or without a
byte order mark, or UTF-16 with a byte order mark. Names are compared as they are, then with accents in one Unicode form. A backslash may
replace a slash.
"""

import codecs
import csv
import io
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from a2d_jax.errors import BadInput
from a2d_jax.io.listing import plain

TABLE = "labels.csv"

ENCODINGS = {  # by byte order mark; that of UTF-32 first: its head is that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
MARKS = ",;\t"
"""What parts a line, commas first."""

LARGEST = 2**63 - 1


def read_labels(folder: Path, images: Sequence[str], left_out: Sequence[str] = ()) -> NDArray[np.int64]:
    """The class number of every image.

    Args:
      folder: folder of `labels.csv`; names in it are relative to this folder.
      images: names of the images, relative to the folder.
      left_out: files that are not counted as images; their lines are skipped.

    Raises:
      BadInput: no readable text, a line of another form, an image without a line or with two classes, or a line without an image.
    """
    table = folder / TABLE
    by_name = {name: place for place, name in enumerate(images)}
    by_form = {unicodedata.normalize("NFC", name): place for name, place in by_name.items()}
    passed_over = {*(unicodedata.normalize("NFC", name) for name in left_out), TABLE}
    found = np.full(len(images), -1, np.int64)
    unknown: list[str] = []
    for line, name, number in _lines(table):
        place = next((known[one] for one in _forms(name, folder) for known in (by_name, by_form) if one in known), None)
        if place is None:
            unknown += [] if passed_over & {*_forms(name, folder)} else [name]
        elif found[place] not in (-1, number):
            raise BadInput(
                f"expected one class for each image in {table}, got {found[place]} and {number} (line {line}) for {plain(name)}; correct it"
            )
        else:
            found[place] = number
    if any(_foreign(name) for name in unknown):
        raise BadInput(f"expected UTF-8 or UTF-16 in {table}, got another encoding; save it as UTF-8")
    wrong = [f"{plain(images[place])} without a line" for place in np.flatnonzero(found < 0).tolist()]
    wrong += [f"a line for {plain(name)}, which is no image there" for name in unknown]
    if wrong:
        raise BadInput(f"expected a line for each image in {table}, got {wrong[0]} ({len(wrong)} such); correct it")
    return found


def _forms(name: str, folder: Path) -> Iterator[str]:
    """Ways to read a name, the likeliest first."""
    yield name
    for spelled in (name, name.replace("\\", "/")):
        form = os.path.normpath(unicodedata.normalize("NFC", spelled))
        yield form
        if os.path.isabs(form):
            yield os.path.relpath(form, folder.absolute())


def _foreign(name: str) -> bool:
    """Whether a name has bytes that are no UTF-8."""
    return any("\udc80" <= letter <= "\udcff" for letter in name)


def _lines(table: Path) -> Iterator[tuple[int, str, int]]:
    """Number of the line, name and class."""
    where = f"expected lines `file name,class number` without a heading in {table}"
    text = _text(table)
    try:
        heads = {mark: next(_rows(text, mark), None) for mark in MARKS}
        mark = next((mark for mark, head in heads.items() if head and _fits(head[1])), MARKS[0])
        for line, cells in _rows(text, mark):
            if not _fits(cells):
                raise BadInput(f"{where}, got {plain(','.join(cells))[:80]!r} in line {line}; correct it")
            number = cells[1].strip().lstrip("0") or "0"
            if len(number) > 19 or int(number) > LARGEST:
                raise BadInput(f"expected class numbers below 2^63 in {table}, got {number[:80]} in line {line}; correct it")
            yield line, cells[0], int(number)
    except csv.Error as error:
        raise BadInput(f"{where}, got text that is no table ({error}); correct it") from error


def _fits(cells: Sequence[str]) -> bool:
    return len(cells) == 2 and cells[0] != "" and cells[1].strip().isdecimal()


def _rows(text: str, mark: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that has any, parted by this mark."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    return ((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))


def _text(table: Path) -> str:
    """Bytes that are no UTF-8 stay as Python keeps them in names, so that they equal those of a file's name."""
    try:
        data = table.read_bytes()
        encoding = next((name for mark, name in ENCODINGS.items() if data.startswith(mark)), "utf-8")
        text = data.decode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "strict")
    except OSError as error:
        raise BadInput(f"expected a readable {table}, got {error.strerror}; check its permissions") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"expected UTF-8 or UTF-16 in {table}, got damaged text ({error.reason}); save it as UTF-8") from error
    if "\0" in text:
        raise BadInput(f"expected text in {table}, got NUL bytes, as of UTF-16 without a byte order mark; save it as UTF-8")
    return text
