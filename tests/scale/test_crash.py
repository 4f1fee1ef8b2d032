"""Images that end the process, and the two processes of a command: real commands, real signals.

A decoder that crashes is made by `sitecustomize`, which Python imports in every process: Pillow dies on bytes that hold a mark.
"""

import io
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
            os.kill(os.getpid(), signal.SIGSEGV)
        return first(file, *rest, **more)
    Image.open = opened
"""
EVERYWHERE = """
class Late:
    def find_spec(name, *rest):
        if name == "a2d_jax.io.pixels":
            watch()

sys.meta_path.insert(0, Late)
"""
SLOW = """
import time
from a2d_jax.costs import measuring

first = measuring.logits_of
def slow(*arguments):
    with open("started", "a") as file:
        file.write(".")
    time.sleep(SECONDS)
    return first(*arguments)
measuring.logits_of = slow
"""
LISTENING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.SIG_DFL)"
A2D = [sys.executable, "-c", f"{LISTENING}\nimport sys\nfrom a2d_jax.cli import main\nsys.exit(main())"]
ENDED = "the process was ended by SIGSEGV"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a classifier, and a decoder that crashes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{ROOT}")
    (tmp_path / "site" / "sitecustomize.py").write_text(HOOK + EVERYWHERE)
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


def begun(parts: int, *arguments: str) -> subprocess.Popen[str]:
    """A command in a session of its own, when it has measured some parts."""
    Path("started").unlink(missing_ok=True)
    running = subprocess.Popen(
        command("--part", "8", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until = time.monotonic() + 300
    while running.poll() is None and time.monotonic() < until:
        if Path("started").exists() and Path("started").stat().st_size > parts:
            return running
        time.sleep(0.02)
    running.kill()
    raise AssertionError(running.communicate())


def ended(running: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, when the processes that have its streams are gone."""
    try:
        out, err = running.communicate(timeout=120)
    finally:
        running.kill()
    return running.returncode, out, err


@pytest.mark.slow
def test_an_image_that_kills(here):
    """One command ends with 3: rows with an error are exactly the bad ones, with their ids; others are those of the set without them."""
    bad = (37, 51)
    images = pictures(100, kill=(37,), corrupt=(51,))
    folder(images)
    folder([image for i, image in enumerate(images) if i not in bad], "good")
    done = run("--part", "32", "--restart", out="parts/")  # which begins anew once, not after each death
    assert done.returncode == 3, done.stderr
    assert done.stderr.count(ENDED) == 3
    assert done.stderr.splitlines()[-1] == "a2d: 2 rows failed and carry their error"
    found = rows("parts/predict")
    assert found["id"] == [f"{i:04}.png" for i in range(100)]
    assert found["index"] == list(range(100))
    assert [i for i, error in enumerate(found["error"]) if error is not None] == [37, 51]
    assert re.fullmatch(r"expected an image that can be decoded, got one that ended the process \(SIGSEGV\); .*", found["error"][37])
    assert "corrupt" in found["error"][51] or "no known image format" in found["error"][51]
    assert run("--part", "32", images="good", out="good.parquet").returncode == 0
    good = rows("good.parquet")
    for name in ("label", "probability"):
        assert [value for i, value in enumerate(found[name]) if i not in bad] == good[name]
    again = run("--part", "32", "--retry-failed", out="parts/")
    assert (again.returncode, again.stderr.count(ENDED)) == (3, 0)  # the part is read carefully at once
    assert rows("parts/predict") == found


@pytest.mark.slow
def test_other_sources_and_measurements(here):
    """The same for a table of encoded images with ids, in which the first one kills as the set is opened, for attacks, and for a decoder
    that only dies with the user's own module."""
    (here / "site" / "sitecustomize.py").unlink()
    (here / "tiny_net.py").write_text(FACTORY + HOOK + "\nwatch()\n")
    names = [f"picture {i}" for i in range(40)]
    pq.write_table(pa.table({"image": pictures(40, kill=(0,)), "id": names, "y": [i % 2 for i in range(40)]}), "set.parquet")
    done = run("--part", "16", "--attacks", "bim", images="set.parquet", out="costs/", job="cost")
    assert done.returncode == 3, done.stderr
    assert done.stderr.count(ENDED) == 3
    found = rows("costs/bim")
    assert found["id"] == names
    assert [i for i, error in enumerate(found["error"]) if error is not None] == [0]


@pytest.mark.slow
def test_crashes_that_are_nobodys_fault(here):
    """A fault before the work is passed on as it is; one that comes back without an image to blame ends the command after four times."""
    folder(pictures(8))
    (here / "tiny_net.py").write_text(FACTORY + "\nimport os, signal\nos.kill(os.getpid(), signal.SIGABRT)\n")
    done = run()
    assert (done.returncode, done.stdout) == (134, "")
    assert re.fullmatch(r"a2d: error: expected the process to end by itself, got its end by SIGABRT\n", done.stderr)
    crash = (
        "\nfrom a2d_jax.costs import measuring\ndef logits_of(*a): os.kill(os.getpid(), signal.SIGBUS)\nmeasuring.logits_of = logits_of\n"
    )
    (here / "tiny_net.py").write_text(FACTORY + "\nimport os, signal\n" + crash)
    done = run()
    assert done.returncode == 128 + signal.SIGBUS
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == [
        " the process was ended by SIGBUS, as when a decoder crashes; it goes on over what is missing"
    ] * 3 + [" error"]


@pytest.mark.slow
def test_signals_reach_both_processes_once(here):
    """SIGTERM to the process that the user started, Ctrl-C in its terminal (the group gets it), SIGINT to it alone: one line, the code of
    the signal, finished parts stay. The same command goes on, and its table is that of a command that nobody interrupted."""
    (here / "tiny_net.py").write_text(FACTORY + SLOW.replace("SECONDS", "0.5"))
    folder(pictures(80))
    for number, send in ((signal.SIGTERM, os.kill), (signal.SIGINT, os.killpg), (signal.SIGINT, os.kill)):
        running = begun(2)
        send(running.pid, number)
        code, out, err = ended(running)
        assert (code, out) == (128 + number, "")
        assert re.fullmatch(r"a2d: interrupted[^\n]*; finished parts are in [^\n]*; the same command goes on\n", err), err
    assert len(list(Path("out.parquet.run/predict").iterdir())) >= 6
    assert not list(Path("out.parquet.run/.a2d/reading").iterdir())
    (here / "tiny_net.py").write_text(FACTORY)
    assert run("--part", "8").returncode == 0
    assert run(out="whole.parquet").returncode == 0
    assert rows() == rows("whole.parquet")


@pytest.mark.slow
def test_a_process_that_is_killed_takes_the_other_one_along(here):
    """`kill -9` of the process that the user started ends the work. After three of them on the same part nothing is in quarantine."""
    (here / "tiny_net.py").write_text(FACTORY + SLOW.replace("SECONDS", "60"))
    folder(pictures(16))
    for deaths in (1, 2, 3):
        running = begun(0)
        running.kill()
        begin = time.monotonic()
        assert ended(running) == (-signal.SIGKILL, "", "")  # both streams are closed: nobody has them any more
        assert time.monotonic() - begin < 30
        assert len(list(Path("out.parquet.run/.a2d/reading").glob("part-000000-*"))) == deaths
    (here / "tiny_net.py").write_text(FACTORY + SLOW.replace("SECONDS", "0"))
    done = run("--part", "8")
    assert (done.returncode, done.stderr) == (0, "")
    assert rows()["error"] == [None] * 16


def test_small_commands_and_help_run_alone(here):
    """Only commands that work in parts have a second process."""
    code = "import os, sys\nfrom a2d_jax import supervision\nos.fork = lambda: sys.exit('forked')\n"
    for arguments, forks in (["info"], False), (["cost", "--help"], False), (["fit"], False), (["--json", "cost", "--out", "x"], True):
        line = f"{code}sys.argv[1:] = {arguments}\nprint(supervision.supervised('a2d'))"
        done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == (("", "forked\n") if forks else ("None\n", ""))
