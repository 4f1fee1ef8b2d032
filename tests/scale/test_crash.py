"""Images that end the process, and the two processes of a command: real commands, real signals.

A decoder that crashes is made by `sitecustomize`, which Python imports in every process: Pillow dies on bytes that hold a mark.
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.test_cli import FACTORY, near_boundary

ROOT = Path(__file__).resolve().parents[2]
MARK = "this one kills"
HOOK = f"""
import os, signal, sys

def watch():
    from PIL import Image
    first = Image.open
    def opened(file, *rest, **more):
        if {MARK.encode()!r} in file.getvalue():
            os.kill(os.getpid(), signal.{{number}})
        return first(file, *rest, **more)
    Image.open = opened

"""
EVERYWHERE = "class Late:\n    def find_spec(name, *rest):\n        if name == 'a2d_jax.io.pixels':\n            watch()\nsys.meta_path.insert(0, Late)\n"
LISTENING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.SIG_DFL)"
A2D = [sys.executable, "-c", f"{LISTENING}\nimport sys\nfrom a2d_jax.cli import main\nsys.exit(main())"]
SLOW = "\nimport time\nfrom a2d_jax.costs import measuring\nfirst = measuring.logits_of\ndef slow(*a):\n    open('started', 'a').write('.')\n    time.sleep(float(__import__('os').environ.get('SLOW', 0)))\n    return first(*a)\nmeasuring.logits_of = slow\n"
ENDED = "the process was ended by SIGSEGV"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a classifier, and a decoder that crashes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{ROOT}")
    (tmp_path / "site" / "sitecustomize.py").write_text(HOOK.format(number="SIGSEGV") + EVERYWHERE)
    (tmp_path / "tiny_net.py").write_text(FACTORY)
    return tmp_path


def encoded(pixels: np.ndarray, kills: bool = False) -> bytes:
    file, info = io.BytesIO(), PngInfo()
    info.add_text("note", MARK if kills else "fine")
    Image.fromarray(pixels).save(file, "png", pnginfo=info)
    return file.getvalue()


def pictures(count: int, kill: tuple[int, ...] = (), corrupt: tuple[int, ...] = ()) -> list[bytes]:
    """Encoded images; some of them end the process, some cannot be read."""
    x = (near_boundary(count, 1, 0)[..., 0] * 255).astype(np.uint8)
    return [b"\x89PNG\r\n\x1a\nbroken" if i in corrupt else encoded(x[i], i in kill) for i in range(count)]


def folder(images: list[bytes], name: str = "set") -> None:
    Path(name).mkdir()
    for i, image in enumerate(images):
        Path(name, f"{i:04}.png").write_bytes(image)


def command(*arguments: str, images: str = "set", out: str = "out.parquet", job: str = "predict", net: str = "tiny_net:net") -> list[str]:
    return [*A2D, job, "--classifier", net, "--images", images, "--out", out, *arguments]


def run(*arguments: str, **how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments, **how), capture_output=True, text=True, timeout=300, check=False)


def rows(path: str = "out.parquet") -> dict[str, list]:
    return pq.read_table(path).to_pydict()


def alive(line: str) -> list[int]:
    """Processes that run a command line which contains a text."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        try:
            if line.encode() in (one / "cmdline").read_bytes() and (one / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                found.append(int(one.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_an_image_that_kills(here):
    """One command ends with 3: rows with an error are exactly the bad ones, with their ids; others are those of the set without them."""
    bad = (37, 51)
    images = pictures(100, kill=(37,), corrupt=(51,))
    folder(images)
    folder([image for i, image in enumerate(images) if i not in bad], "good")
    done = run("--part", "32")
    assert done.returncode == 3, done.stderr
    assert done.stderr.count(ENDED) == 3
    assert done.stderr.splitlines()[-1] == "a2d: 2 rows failed and carry their error"
    found = rows()
    assert found["id"] == [f"{i:04}.png" for i in range(100)]
    assert found["index"] == list(range(100))
    assert [i for i, error in enumerate(found["error"]) if error is not None] == [37, 51]
    assert re.fullmatch(r"expected an image that can be decoded, got one that ended the process \(SIGSEGV\); .*", found["error"][37])
    assert "corrupt" in found["error"][51] or "no known image format" in found["error"][51]
    assert run("--part", "32", images="good", out="good.parquet").returncode == 0
    good = rows("good.parquet")
    for name in ("label", "probability"):
        assert [value for i, value in enumerate(found[name]) if i not in bad] == good[name]
    assert not Path("out.parquet.run").exists()
