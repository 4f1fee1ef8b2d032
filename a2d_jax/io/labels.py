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
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

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


def read_labels(folder: Path, files: Sequence[Path], left_out: Collection[Path] = ()) -> dict[Path, int]:
    """The class number of every image.

    Args:
      folder: folder of `labels.csv`; names in it are relative to this folder.
      files: the images.
      left_out: files that are not counted as images; their lines are skipped.

    Raises:
      BadInput: no readable text, a line of another form, an image without a line or with two classes, or a line without an image.
    """
    table = folder / TABLE
    by_name = {_relative(file, folder): file for file in files}
    by_form = {unicodedata.normalize("NFC", name): file for name, file in by_name.items()}
    passed_over = {unicodedata.normalize("NFC", _relative(file, folder)) for file in left_out} | {TABLE}
    found: dict[Path, int] = {}
    unknown: list[str] = []
    for line, name, number in _lines(table):
        file = next((known[one] for one in _forms(name, folder) for known in (by_name, by_form) if one in known), None)
        if file is None:
            unknown += [] if passed_over & {*_forms(name, folder)} else [name]
        elif found.setdefault(file, number) != number:
            raise BadInput(
                f"expected one class for each image in {table}, got {found[file]} and {number} (line {line}) for {plain(name)}; correct it"
            )
    missing = [file for file in files if file not in found]
    if any(_foreign(name) for name in unknown):
        raise BadInput(f"expected UTF-8 or UTF-16 in {table}, got another encoding; save it as UTF-8")
    wrong = [f"{plain(_relative(file, folder))} without a line" for file in missing]
    wrong += [f"a line for {plain(name)}, which is no image there" for name in unknown]
    if wrong:
        raise BadInput(f"expected a line for each image in {table}, got {wrong[0]} ({len(wrong)} such); correct it")
    return found


def _relative(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


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


def _lines(table: Path) -> list[tuple[int, str, int]]:
    """Number of the line, name and class."""
    where = f"expected lines `file name,class number` without a heading in {table}"
    text = _text(table)
    try:
        parted = (_rows(text, mark) for mark in MARKS)
        rows = next((rows for rows in parted if rows and _fits(rows[0][1])), None) or _rows(text, MARKS[0])
    except csv.Error as error:
        raise BadInput(f"{where}, got text that is no table ({error}); correct it") from error
    found: list[tuple[int, str, int]] = []
    for line, cells in rows:
        if not _fits(cells):
            raise BadInput(f"{where}, got {plain(','.join(cells))[:80]!r} in line {line}; correct it")
        number = cells[1].strip().lstrip("0") or "0"
        if len(number) > 19 or int(number) > LARGEST:
            raise BadInput(f"expected class numbers below 2^63 in {table}, got {number[:80]} in line {line}; correct it")
        found.append((line, cells[0], int(number)))
    return found


def _fits(cells: Sequence[str]) -> bool:
    return len(cells) == 2 and cells[0] != "" and cells[1].strip().isdecimal()


def _rows(text: str, mark: str) -> list[tuple[int, list[str]]]:
    """Number and cells of each line that has any, parted by this mark."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]


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
