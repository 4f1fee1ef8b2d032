"""Image sets in tar files as WebDataset keeps them: members `KEY.jpg` with `KEY.cls` or `KEY.json`, in one file or several.

A key is the name of a member up to the first dot after the last slash. It is the id of the image. `KEY.cls` has the class number as text;
`KEY.json` has it under `label` or `class`. Members that are no files, stray files of systems, and members of other kinds are left out, with
a note for what a user may miss.

Opening walks once over the headers and keeps where each image begins. So any image is read with one seek. A file packed by gzip is read
from its start alone. Nothing is extracted.
"""

import hashlib
import json
import os
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from a2d_jax.errors import BadInput
from a2d_jax.io.arrays import Stream, exactly, packed, packed_with_gzip, uncompressed
from a2d_jax.io.encoded import Row, source_of_rows
from a2d_jax.io.folder import SUFFIXES
from a2d_jax.io.labels import LARGEST
from a2d_jax.io.listing import is_stray, plain
from a2d_jax.io.photographs import Preprocessing
from a2d_jax.io.pixels import Background, decoded
from a2d_jax.io.remote import Files
from a2d_jax.io.source import ImageSource, Shape, content_digest, readable, unreadable

LABEL_BYTES = 1 << 20
"""Size of a member with a label at most."""

END = 512
"""Bytes of a block; a block of zeros ends an archive."""


@dataclass(frozen=True)
class _Index:
    """The images of a set in their order, some tens of bytes for each beside its key."""

    keys: list[str] = field(default_factory=list[str])
    begins: "array[int]" = field(default_factory=lambda: array("q"))  # byte in its file
    sizes: "array[int]" = field(default_factory=lambda: array("q"))  # bytes
    labels: "array[int]" = field(default_factory=lambda: array("q"))  # -1: none
    errors: dict[int, str] = field(default_factory=dict[int, str])  # by place, of labels
    ends: list[int] = field(default_factory=lambda: [0])  # of each file, the number of images up to its end
    left_out: dict[str, list[str]] = field(default_factory=dict[str, list[str]])  # by kind


def open_tar(
    place: Files,
    files: Sequence[Path],
    shape: Shape | None,
    preprocessing: Preprocessing | None = None,
    background: Background | None = None,
) -> ImageSource:
    """The images of tar files, in the order of the files and of their members.

    Args:
      place: where the set is.
      files: the shards of the set in their order.
      shape: see `a2d_jax.io.images.open_images`, as for `preprocessing` and `background`.

    Raises:
      BadInput: a file that is damaged or breaks off, two images of one key in one file, or no images.
    """
    path, index = place.path, _Index()
    packs: list[Path] = []
    for file in files:
        _add(index, here := place.local(file))
        packs += [file] if packed(here) else []
    count = len(index.keys)
    if not count:
        raise BadInput(f"expected members that end like images ({', '.join(SUFFIXES)}), got none in {path}; check the file")
    labels = bool(index.errors) or max(index.labels) >= 0

    def items(begin: int, end: int) -> Iterator[tuple[int, bytes]]:
        for file, (first, last) in zip(files, pairwise(index.ends), strict=True):
            here = range(max(first, begin), min(last, end))
            if here:
                with readable(file), uncompressed(place.local(file)) as stream:
                    for number in here:
                        stream.seek(index.begins[number])
                        yield number, exactly(stream, index.sizes[number])

    def row(item: tuple[int, bytes]) -> Row:
        number, data = item
        name, label = plain(index.keys[number]), index.labels[number]
        if labels and label < 0:
            return Row(name, 0, index.errors.get(number, "expected a label, got none; fill it in"))
        return Row(name, label if labels else None, *decoded(data, shape, preprocessing, background))

    source = source_of_rows(
        path,
        count,
        items,
        row,
        partial(content_digest, path) if path == files[0] else partial(_digest, index),
        labels=labels,
        shape=shape,
        preprocessing=preprocessing,
        background=background,
        choices=[f"left out {kind}: {len(names)}, first {plain(names[0])}" for kind, names in index.left_out.items()],
        sequential=packed_with_gzip(packs[0]) if packs else None,
    )
    return replace(source, fetching=place.fetching(files, np.asarray(index.ends[1:], np.int64)))


def _add(index: _Index, path: Path) -> None:
    """The images of one file, in the order of its members."""
    place_of: dict[str, int] = {}
    label_of: dict[str, tuple[str, int | str]] = {}  # the kind of member and the class, or what is wrong with it
    with readable(path):
        for member, stream in _members(path):
            name = member.name.removeprefix("./")
            folder, _, own = name.rpartition("/")
            key, _, kind = own.partition(".")
            key, kind = f"{folder}/{key}" if folder else key, kind.lower()
            if not member.isfile():
                if not member.isdir():
                    index.left_out.setdefault("members that are links or no files", []).append(name)
            elif any(map(is_stray, name.split("/"))):
                if f".{kind.rpartition('.')[2]}" in SUFFIXES:
                    index.left_out.setdefault("files that end like images but were left behind by systems or tools", []).append(name)
            elif f".{kind}" in SUFFIXES:
                if place_of.setdefault(key, len(index.keys)) != len(index.keys):
                    raise BadInput(f"expected one image for each key in {path}, got a second one, {plain(name)}; give it a name of its own")
                index.keys.append(key)
                index.begins.append(member.offset_data)
                index.sizes.append(member.size)
                index.labels.append(-1)
            elif kind in ("cls", "json"):
                if label_of.get(key, ("json", 0))[0] == "json":  # the class number as text comes before JSON
                    label = _label(kind, exactly(stream, min(member.size, LABEL_BYTES)))
                    if label is not None:
                        label_of[key] = kind, label
            else:
                index.left_out.setdefault(f"members that do not end like images ({', '.join(SUFFIXES)}) or labels", []).append(name)
    for key, (kind, label) in label_of.items():
        place = place_of.get(key)
        if place is None:
            index.left_out.setdefault("labels without an image", []).append(f"{key}.{kind}")
        elif isinstance(label, int):
            index.labels[place] = label
        else:
            index.errors[place] = f"expected a class number in {plain(key)}.{kind}, got {label}; correct it"
    index.ends.append(len(index.keys))


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, Stream]]:
    """All members, with the stream at the first byte of their content; damage and a missing end are errors."""
    with uncompressed(path) as stream:
        try:
            archive: Any = tarfile.TarFile(fileobj=stream, encoding="utf-8", errors="surrogateescape")
            before = -1
            while (member := archive.next()) is not None:
                if member.issparse() or not before < member.offset < archive.offset:
                    raise unreadable(path, EOFError(f"a sparse or impossible member at byte {member.offset}"))
                before = member.offset
                archive.members.clear()  # it would keep them all
                stream.seek(member.offset_data)
                yield member, stream
        except (BadInput, OSError, EOFError):
            raise
        except Exception as error:  # of many kinds, whatever the damage leads to
            raise unreadable(path, error) from error
        stream.seek(archive.offset)
        if exactly(stream, END).strip(b"\0"):  # where the library finds no header it stops without a word
            raise unreadable(path, EOFError(f"no header at byte {archive.offset}"))
        while block := stream.read(1 << 20):
            if block.strip(b"\0"):
                raise unreadable(path, EOFError("more behind its end, as of joined archives"))


def _label(kind: str, data: bytes) -> int | str | None:
    """The class in a member, what is wrong with it, or None where a JSON has none."""
    found: Any = data.decode(errors="replace").strip()
    if kind == "json":
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError):
            return "text that is no JSON"
        present = [parsed[name] for name in ("label", "class") if name in parsed] if isinstance(parsed, dict) else []
        if not present:
            return None
        found = next((one for one in present if type(one) is int), present[0])
    elif found.isdecimal() and len(found) <= 19:
        found = int(found)
    return found if type(found) is int and 0 <= found <= LARGEST else repr(found)[:80]


def _digest(index: _Index) -> str:
    """SHA-256 of keys, sizes and labels only: hashing a million photographs would take as long as reading them."""
    hashed = hashlib.sha256()
    for facts in zip(index.keys, index.sizes, index.labels, strict=True):
        hashed.update(os.fsencode("{} {} {}\n".format(*facts)))
    return hashed.hexdigest()
