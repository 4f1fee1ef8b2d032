"""The files of a folder: stray files do not count, every real file counts once, names may be any bytes."""

import os

import numpy as np
import pytest

from a2d_jax.errors import BadInput
from a2d_jax.io.images import open_images
from a2d_jax.io.listing import is_stray, listing, plain
from tests.io.test_folder import write
from tests.io.test_images import BYTES, FLOATS, encoded

LEAVINGS = [
    *(".DS_Store", "._a.png", ".ipynb_checkpoints", "__MACOSX", ".hidden.png", ".AppleDouble", ".Trash-1000", ".nfs000000001", "Icon\r"),
    *("Thumbs.db", "thumbs.db", "ehthumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information", "lost+found", "LOST.DIR"),
    *("@eaDir", "#recycle", "@Recycle", "a.png@SynoResource", "a.png:Zone.Identifier", ".stversions", ".dropbox.cache", ".git"),
    *("a.png.part", "a.png.crdownload", "a.tmp", ".~lock.a.png#", "~$a.png", "a.png~", "~syncthing~a.png.tmp", "__pycache__"),
    *(
        "a.sync-conflict-20240131-120000-ABCDEFG.png",
        "a (Ann's conflicted copy 2024-01-31).png",
        "a (conflicted copy 2024-01-31 120000).png",
    ),
]
IMAGES = [
    "a.png",
    "0",
    "trash",
    "thumbs.png",
    "a (1).png",
    "lost.png",
    "a.b.png",
    "copy.png",
    "desktop.png",
    "tmp",
    "a~1.png",
    "$a.png",
    "#1.png",
]


@pytest.mark.parametrize("name", LEAVINGS)
def test_leavings(name, tmp_path):
    """What systems, notebooks, archives, network drives and synchronisation leave is no image, no class and no part of a set's digest."""
    write(tmp_path, "0/a.png", "1/b.png")
    clean = open_images(tmp_path).digest()
    for folder in (tmp_path, tmp_path / "0"):
        if "." in name.strip("._"):
            (folder / name).write_bytes(encoded(BYTES[2]))
        else:
            (folder / name).mkdir()
            (folder / name / "a.png").write_bytes(encoded(BYTES[2]))
    source = open_images(tmp_path)
    (piece,) = source.pieces()
    assert (piece.id, piece.label.tolist(), piece.error) == (["0/a.png", "1/b.png"], [0, 1], [None, None])
    assert source.digest() == clean
    first = min(name, f"0/{name}")
    told = f"left out files that end like images but were left behind by systems or tools: 2, first {first}"
    assert source.notes == [told] * name.endswith(".png")


@pytest.mark.parametrize("name", IMAGES)
def test_names_of_users(name):
    """Ordinary names are nobody's leavings."""
    assert not is_stray(name)


def test_leavings_make_no_class(tmp_path):
    """Nine folders and a notebook's are nine classes, not ten: no label is made up, and that is told."""
    write(tmp_path, *(f"c{i}/a.png" for i in range(3)), ".ipynb_checkpoints/a-checkpoint.png")
    source = open_images(tmp_path, classes=4)
    assert (len(source), source.labels) == (3, False)
    assert source.notes == [
        f"took no labels from the 3 folders of {tmp_path}: their names, such as c0, are not class numbers, and the classifier has 4 classes"
    ]


def test_what_is_left_out_is_told(tmp_path):
    """Other files, and folders too deep to be entered, are told once with their number; a table of labels is neither."""
    write(tmp_path, "a.png", "b.heic", "c.txt", "0/d.png", "0/more/e.png")
    (tmp_path / "labels.csv").write_text("a.png,0\n0/d.png,1\n")
    os.mkfifo(tmp_path / "f.png")  # reading it would wait for ever
    first, second = open_images(tmp_path).notes
    assert first == "left out folders two levels down, where no images are looked for: 1, first 0/more"
    assert second.startswith("left out files that do not end like images (.bmp, ")
    assert second.endswith("): 3, first b.heic")


def test_links_count_once(tmp_path):
    """A link to the folder itself, to a folder above, to a file or folder that is there, a loop: each real file counts once, as itself."""
    tree = tmp_path / "up" / "tree"
    write(tree, "1/b.png", "2/a.png")
    (tree / "0").symlink_to("1")  # comes before what it leads to
    (tree / "1" / "a.png").symlink_to("b.png")
    (tree / "3").symlink_to(".")
    (tree / "4").symlink_to(tmp_path)
    (tree / "2" / "z.png").symlink_to(tree / "1" / "a.png")
    (tree / "loop").symlink_to("loop")
    source = open_images(tree)
    (piece,) = source.pieces()
    assert (piece.id, piece.label.tolist()) == (["1/b.png", "2/a.png"], [1, 2])
    assert source.notes == [
        "left out links to images or folders that count already: 5, first 0",
        "left out links that lead nowhere: 1, first loop",
    ]
    assert open_images(tree / "3").digest() == source.digest()


def test_links_to_elsewhere(tmp_path):
    """Sets made of links, as caches of downloads have them, are read; two links to one file outside are one image."""
    write(tmp_path / "blobs", "x.png", "y.png")
    tree = write(tmp_path / "tree", "0/c.png")
    for name, blob in (("0/a.png", "x"), ("0/b.png", "x"), ("1", None), ("2", None)):
        (tree / name).symlink_to(tmp_path / "blobs" / f"{blob}.png" if blob else tmp_path / "blobs")
    (piece,) = open_images(tree).pieces()
    assert (piece.id, piece.label.tolist()) == (["0/c.png", "1/x.png", "1/y.png"], [0, 1, 1])
    (tree / "1").unlink()
    (tree / "2").unlink()
    source = open_images(tree)
    assert next(source.pieces()).id == ["0/a.png", "0/c.png"]
    assert source.notes == ["left out links to images or folders that count already: 1, first 0/b.png"]


def test_links_that_lead_nowhere(tmp_path):
    """An image behind a broken link is an error of its row; a folder behind one is told."""
    write(tmp_path, "0/b.png")
    (tmp_path / "0" / "a.png").symlink_to("gone.png")
    (tmp_path / "1").symlink_to(tmp_path / "gone")
    source = open_images(tmp_path)
    (piece,) = source.pieces()
    assert piece.id == ["0/a.png", "0/b.png"]
    assert piece.error == ["expected a readable file, got a link to gone.png, which is not there; bring it back", None]
    assert source.notes == ["left out links that lead nowhere: 1, first 1"]
    assert len(source.digest()) == 64


def test_names_of_any_bytes(tmp_path):
    """A name that is not UTF-8 is an ordinary name: its id is escaped, the digest tells it from others, folders may have such names."""
    write(tmp_path, "a.png", "b.png", "0/c.png")
    before = open_images(tmp_path).digest()
    os.rename(tmp_path / "b.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    os.rename(tmp_path / "0", os.fsencode(tmp_path) + b"/\xff")
    os.symlink(b"g\xe9ne.png", os.fsencode(tmp_path) + b"/z.png")
    source = open_images(tmp_path)
    (piece,) = source.pieces()
    assert piece.id == ["a.png", "caf\\xe9.png", "z.png", "\\xff/c.png"]
    assert "g\\xe9ne.png" in piece.error[2]
    np.testing.assert_array_equal(piece.x[[0, 1, 3]], FLOATS[:3])
    assert source.digest() != before
    for text in (*piece.id, *source.notes, *filter(None, piece.error)):
        text.encode()
    assert plain("été.png") == "été.png"


def test_what_cannot_be_listed(tmp_path):
    """No folder, no list, in one line."""
    with pytest.raises(BadInput, match=r"^expected a folder that can be read, got .*; check its permissions$"):
        listing(tmp_path / "missing")


def test_deep_lists(tmp_path):
    """Depth says how far down; every list is sorted by name."""
    write(tmp_path, "b.png", "a.png", "x/c.png", "x/y/d.png")

    assert listing(tmp_path).files == ["a.png", "b.png"]
    assert listing(tmp_path).deeper == ["x"]
    assert listing(tmp_path, depth=2).files == ["a.png", "b.png", "x/c.png", "x/y/d.png"]
    assert listing(tmp_path, depth=2).folders == ["x", "x/y"]
