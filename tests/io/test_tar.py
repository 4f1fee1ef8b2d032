"""WebDataset shards: members become images with labels and ids, any of them at once; damage is told, and nothing is extracted."""

import gzip
import io
import json
import pathlib
import tarfile
import time

import numpy as np
import pytest

from a2d_jax.errors import BadInput
from a2d_jax.io.images import open_images
from a2d_jax.io.source import ImageSource
from tests.io.test_images import BYTES, FLOATS, LABELS, N, encoded

Members = list[tuple[str, bytes]]


def write_tar(path: pathlib.Path, members: Members, form: int = tarfile.PAX_FORMAT) -> pathlib.Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w", format=form) as file:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def samples(rows: range = range(N), suffix: str = "png") -> Members:
    """The images BYTES with their labels, as WebDataset's writer orders them."""
    return [
        member
        for i in rows
        for member in ((f"{i:04d}.cls", str(LABELS[i]).encode()), (f"{i:04d}.{suffix}", encoded(BYTES[i], suffix.upper())))
    ]


def read(source: ImageSource) -> tuple[list[str], list[int] | None, list[str | None]]:
    (piece,) = source.pieces()
    for x, error, wanted in zip(piece.x, piece.error, FLOATS[: len(piece.x)], strict=True):
        np.testing.assert_array_equal(x, wanted if error is None else 0 * wanted)
    return piece.id, None if piece.label is None else piece.label.tolist(), piece.error


def refused(path: pathlib.Path, *words: str) -> None:
    with pytest.raises(BadInput, match=r"^expected .*, got .*; ") as caught:
        open_images(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_samples(form, suffix, tmp_path):
    """Images, class numbers and keys come back in the order of the members, in every form of tar, WebP as decoded by Pillow."""
    source = open_images(write_tar(tmp_path / "a.tar", samples(suffix=suffix), form))
    (piece,) = source.pieces()
    assert (piece.id, piece.label.tolist(), piece.error) == ([f"{i:04d}" for i in range(N)], LABELS.tolist(), [None] * N)
    if suffix == "png":
        np.testing.assert_array_equal(piece.x, FLOATS)
    assert source.notes == []


def test_keys(tmp_path):
    """A key ends at the first dot after the last slash; long names, names of any bytes and letters of any case are names."""
    names = ["a.b/0.png", "./x/1.PNG", "é/2.Png", f"{'long' * 60}/{'name' * 30}.png", "\udcff.png"]
    members = [(name, encoded(x)) for name, x in zip(names, BYTES, strict=False)]
    members += [
        ("x/1.CLS", b" 12\n"),
        ("a.b/0.cls", b"7"),
        ("é/2.json", b'{"label": 3}'),
        (names[3][:-3] + "cls", b"0"),
        ("\udcff.cls", b"1"),
    ]
    source = open_images(write_tar(tmp_path / "a.tar", members))
    assert read(source) == (["a.b/0", "x/1", "é/2", names[3][:-4], "\\xff"], [7, 12, 3, 0, 1], [None] * 5)


@pytest.mark.parametrize(
    ("name", "data", "label"),
    [
        ("0.json", b'{"label": 4, "caption": "a cat"}', 4),
        ("0.json", b'{"class": 4}', 4),
        ("0.json", b'{"label": "cat", "class": 4}', 4),
        ("0.cls", b"0004", 4),
        ("0.cls", str(2**63 - 1).encode(), 2**63 - 1),
        ("0.json", b'{"label": "cat"}', "'cat'"),
        ("0.json", b'{"label": true}', "True"),
        ("0.json", b'{"label": -1}', "-1"),
        ("0.json", b'{"label": 1e400}', "inf"),
        ("0.json", b"[" * 100_000, "no JSON"),
        ("0.json", b'{"label": ' + b"9" * 5000 + b"}", "no JSON"),
        ("0.cls", b"cat", "'cat'"),
        ("0.cls", b"\xff", "�"),
        ("0.cls", b"", "''"),
        ("0.cls", str(2**63).encode(), str(2**63)),
        ("0.txt", b"5", "expected a label, got none; fill it in"),
        ("0.json", b'{"caption": "a cat"}', "expected a label, got none; fill it in"),
        ("0.json", b"[1]", "expected a label, got none; fill it in"),
    ],
)
def test_labels(name, data, label, tmp_path):
    """A class number is taken; what is none, or is missing while others are there, is an error of its row."""
    members = [("0.png", encoded(BYTES[0])), (name, data), ("1.png", encoded(BYTES[1])), ("1.cls", b"2")]
    ids, labels, error = read(open_images(write_tar(tmp_path / "a.tar", members)))
    assert (ids, labels[1], error[1]) == (["0", "1"], 2, None)
    if isinstance(label, int):
        assert (labels[0], error[0]) == (label, None)
    else:
        assert label in error[0]


def test_text_comes_before_json(tmp_path):
    """Where both are there, the class number as text counts, whichever comes first."""
    label = [("0.cls", b"1"), ("0.json", b'{"label": 2}')]
    for order in (label, label[::-1]):
        assert read(open_images(write_tar(tmp_path / "a.tar", [("0.png", encoded(BYTES[0])), *order])))[1] == [1]


def test_images_alone(tmp_path):
    """Images without any labels are a set without labels; a bad image is an error of its row."""
    members = [(name, data) for name, data in samples() if name.endswith("png")]
    members[2] = (members[2][0], b"no image")
    source = open_images(write_tar(tmp_path / "a.tar", members))
    ids, labels, error = read(source)
    assert (len(ids), labels, source.labels) == (N, None, False)
    assert [e is None for e in error] == [i != 2 for i in range(N)]


def test_what_is_left_out_is_told(tmp_path):
    """Folders, links, devices, stray files, other members and labels without an image are skipped, and all but folders are told."""
    path = write_tar(
        tmp_path / "a.tar", [("._0.png", b"x"), ("__MACOSX/0.png", b"x"), ("0.png", encoded(BYTES[0])), ("0.txt", b""), ("9.cls", b"1")]
    )
    with tarfile.open(path, "a") as file:
        for name, kind in [("d", tarfile.DIRTYPE), ("1.png", tarfile.SYMTYPE), ("2.png", tarfile.LNKTYPE), ("3.png", tarfile.FIFOTYPE)]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "0.png"
            file.addfile(member)
    source = open_images(path)
    assert read(source)[0] == ["0"]
    strays, other, links, labels = sorted(source.notes, key=lambda note: "._" not in note)
    assert strays == "left out files that end like images but were left behind by systems or tools: 2, first ._0.png"
    assert "do not end like images" in other
    assert other.endswith("1, first 0.txt")
    assert links == "left out members that are links or no files: 3, first 1.png"
    assert labels == "left out labels without an image: 1, first 9.cls"


def test_several_shards(tmp_path):
    """Shards of a folder are one set in the order of their names, whatever their number of images; the digest sees a changed label."""
    for number, rows in enumerate((range(2), range(2, 2), range(2, 6), range(6, N))):
        write_tar(tmp_path / f"set-{number:06d}.tar", samples(rows))
    source = open_images(tmp_path)
    assert read(source) == ([f"{i:04d}" for i in range(N)], LABELS.tolist(), [None] * N)
    np.testing.assert_array_equal(source.rows(5, N).x, FLOATS[5:])
    before = source.digest()
    assert open_images(tmp_path).digest() == before
    write_tar(tmp_path / "set-000000.tar", [("0000.cls", b"9"), *samples(range(2))[1:]])
    assert open_images(tmp_path).digest() != before


def test_packed_shards(tmp_path):
    """A shard packed by gzip is read from its start, with or without a name that says so; rows tell to unpack it."""
    path = write_tar(tmp_path / "a.tar.gz", samples())
    (tmp_path / "b.tar").write_bytes(path.read_bytes())
    (tmp_path / "c.tgz").write_bytes(path.read_bytes())
    for name in ("a.tar.gz", "b.tar", "c.tgz"):
        source = open_images(tmp_path / name)
        assert read(source) == ([f"{i:04d}" for i in range(N)], LABELS.tolist(), [None] * N)
        assert [piece.id for piece in source.spans([(1, 2), (5, 7)])] == [["0001"], ["0005", "0006"]]
        with pytest.raises(BadInput, match="gunzip"):
            source.rows(0, 1)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()))[:-9])
    refused(path)


def test_damage_is_told(tmp_path):
    """Wherever an archive breaks off or a header is damaged, it is refused: the library would stop without a word."""
    path = write_tar(tmp_path / "a.tar", samples())
    data = path.read_bytes()
    headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    assert len(headers) == 2 * N
    for end in (
        *headers[1:],
        headers[3] + 100,
        headers[3] + 512,
        headers[-1] + 512,
        headers[-1] + 1024,
        len(data.rstrip(b"\0")),
        0,
        1,
        511,
    ):
        path.write_bytes(data[:end])
        refused(path)
    for at in headers:
        for byte in (0, 100, 124, 130, 148, 156):
            path.write_bytes(data[: at + byte] + bytes([data[at + byte] ^ 1]) + data[at + byte + 1 :])
            refused(path)
    path.write_bytes(data + data)
    refused(path, "joined")
    path.write_bytes(data + bytes(100_000))
    assert len(open_images(path)) == N


def test_impossible_sizes(tmp_path):
    """A member of a negative size would lead back to itself for ever; it is refused at once."""
    path = write_tar(tmp_path / "a.tar", samples())
    data = bytearray(path.read_bytes())
    for size in (-512, -1024, -(2**40), 2**60):
        header = data[1024:1536]
        header[124:136] = bytes([0xFF if size < 0 else 0x80]) + size.to_bytes(11, "big", signed=True)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        path.write_bytes(data[:1024] + header + data[1536:])
        begin = time.monotonic()
        refused(path)
        assert time.monotonic() - begin < 5


def test_two_images_of_one_key(tmp_path):
    """Two images of one key, or a member that was added again, are refused: which one was meant is not known."""
    for again in ("0000.jpg", "0000.png"):
        refused(write_tar(tmp_path / "a.tar", [*samples(), (again, encoded(BYTES[1]))]), again)


def test_no_images(tmp_path):
    """An archive without images, and one that is no archive, are refused."""
    refused(write_tar(tmp_path / "a.tar", [("a.txt", b"")]), ".webp")
    refused(write_tar(tmp_path / "a.tar", []), ".webp")
    for data in (b"no archive" * 1000, gzip.compress(b"no archive" * 1000)):
        (tmp_path / "a.tar").write_bytes(data)
        refused(tmp_path / "a.tar")


def test_nothing_is_extracted(tmp_path):
    """Names that lead out of the folder are names, and no file appears."""
    path = write_tar(
        tmp_path / "a.tar", [("../../0.png", encoded(BYTES[0])), ("/tmp/0.png", encoded(BYTES[1])), ("a.png", encoded(BYTES[2]))]
    )
    source = open_images(path)
    list(source.pieces())
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


def test_a_shard_that_shrinks_is_told(tmp_path):
    """A file that lost its end after it was opened is an error of the file, not a picture of zeros."""
    path = write_tar(tmp_path / "a.tar", samples())
    source = open_images(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadInput, match="fewer bytes"):
        list(source.pieces())


def test_json_of_the_writer(tmp_path):
    """JSON as WebDataset's writer encodes it."""
    members = [("k.jpg", encoded(BYTES[0], "JPEG")), ("k.json", json.dumps({"label": 5, "text": "é"}).encode())]
    (piece,) = open_images(write_tar(tmp_path / "a.tar", members)).pieces()
    assert (piece.id, piece.label.tolist()) == (["k"], [5])
