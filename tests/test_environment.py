"""The environment of a command: streams that are closed or full, signals, a user without a home, missing hardware, full disks."""

import contextlib
import io
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from a2d_jax import console, process
from a2d_jax.cli import main
from a2d_jax.errors import BadInput
from a2d_jax.io import tables
from tests.test_cli import FACTORY, near_boundary

ROOT = Path(__file__).resolve().parents[1]
# A suite that runs in the background or under nohup makes its children ignore these signals.
LISTENING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.SIG_DFL)"
A2D = [sys.executable, "-c", f"{LISTENING}\nimport sys\nfrom a2d_jax.cli import main\nsys.exit(main())"]
PREDICT = ["predict", "--classifier", "tiny_net:net", "--images", "x.npz", "--out"]
FULL = Path("/dev/full")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a classifier and images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "tiny_net.py").write_text(FACTORY)
    np.savez("x.npz", x=near_boundary(4, 1, 0))
    return tmp_path


def python(code: str, **how) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **how)


def shell(line: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which `"$@"` is a2d."""
    command = ["bash", "-c", line, "bash", *A2D, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | environment)


def left() -> list[str]:
    """Temporary files of ours."""
    return [name for name in os.listdir() if name.startswith(".a2d-")]


# Standard streams.


def test_a_reader_that_goes_away(here):
    """`| head` is no failure, of help and of a result: the code is 0, and nothing is said on stderr."""
    done = shell('"$@" cost --help | head -1; echo ${PIPESTATUS[0]}')
    assert done.stdout.splitlines()[1:] == ["0"]
    assert done.stderr == ""
    code = "from a2d_jax.console import *\nsys.exit(run('a2d', lambda: tell(Done({str(i): 'x' * 1000 for i in range(1000)}), 'a2d')))"
    done = subprocess.run(["bash", "-c", '"$@" | true; echo ${PIPESTATUS[0]}', "bash", sys.executable, "-c", code], capture_output=True)
    assert (done.stdout, done.stderr) == (b"0\n", b"")


@pytest.mark.skipif(not FULL.exists(), reason="there is no device that is always full")
def test_full_streams(here):
    """A full stdout is one line on stderr: no failure if the command has written its file, else 1. A full stderr is nothing at all."""
    done = shell('"$@" >/dev/full', *PREDICT, "p.parquet")
    assert done.returncode == 0
    assert re.fullmatch(r"a2d: expected room [^\n]+ No space left on device[^\n]+\n", done.stderr)
    assert pq.read_table("p.parquet").num_rows == 4
    done = shell('"$@" --help >/dev/full')
    assert done.returncode == 1
    assert re.fullmatch(r"a2d: expected room [^\n]+\n", done.stderr)
    done = shell('"$@" fly 2>/dev/full')
    assert (done.returncode, done.stdout) == (2, "")


def test_closed_streams(here):
    """With all three streams closed the files of a command are whole: none of them takes the place of a stream."""
    code = "import os, sys; [os.write(n, b'stray') for n in (1, 2)]; print('stray')"
    inner = f"def work():\n with atomic('f') as temporary: {code}; temporary.write_text('x')\nraise SystemExit(run('a2d', work))"
    inner = f"from a2d_jax.console import run\nfrom a2d_jax.io.files import atomic\n{inner}"
    done = subprocess.run(["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", inner], check=False)
    assert done.returncode == 0
    assert Path("f").read_text() == "x"


def test_streams_without_the_characters(monkeypatch):
    """What an encoding lacks is escaped, also bytes of a file name that are no text; what a stream cannot take is dropped."""
    raw = io.BytesIO()
    stream = process.Stream(io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    print("café", os.fsdecode(b"\xe9"), file=stream)
    assert raw.getvalue() == b"caf\\xe9 \\udce9\n"
    assert stream.lost is None


# Where there is little to stand on.


def test_a_user_without_anything(here):
    """No HOME, an unknown user, no locale, a narrow terminal, a TMPDIR that is not there: the command works and says nothing of it."""
    code = "import pwd, sys\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\nfrom a2d_jax.cli import main\nsys.exit(main())"
    poor = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")}
    poor |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "1", "TMPDIR": "/nonexistent", "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-c", code, *PREDICT, "é.parquet"], capture_output=True, text=True, timeout=200, env=poor)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("out: \\xe9.parquet\n")
    assert pq.read_table("é.parquet").num_rows == 4


def test_help_on_a_narrow_terminal(here):
    """Help ends on a terminal of one column."""
    assert "--max-steps" in shell('"$@" cost --help', COLUMNS="1").stdout


def test_a_working_directory_that_is_gone(here, capsys, monkeypatch):
    """A relative output has no place then: one line, with the code 1. An absolute one has."""
    monkeypatch.syspath_prepend(here)
    (here / "gone").mkdir()
    os.chdir("gone")
    (here / "gone").rmdir()
    try:
        assert main([*PREDICT, "p.parquet"]) == 1
        assert re.fullmatch(r"a2d: error: expected a place for the output [^\n]+\n", capsys.readouterr().err)
        assert main(["predict", "--classifier", "tiny_net:net", "--images", str(here / "x.npz"), "--out", str(here / "p.parquet")]) == 0
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [("JAX_PLATFORMS", "nonsense", "expected hardware for JAX_PLATFORMS=nonsense"), ("JAX_ENABLE_X64", "maybe", "JAX_ENABLE_X64")],
)
def test_wrong_settings_of_jax(here, variable, value, words):
    """Hardware that is not there, or a value that JAX does not know, is said as such, not as trouble with the network."""
    done = shell('"$@"', *PREDICT, "p.parquet", **{variable: value})
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"a2d: error: expected [^\n]+\n", done.stderr)
    assert words in done.stderr


# Signals.

IMPORTING = """
class Slow:
    def find_spec(name, *rest):
        if name == "jax":
            open("started", "w").close()
            time.sleep(60)
sys.meta_path.insert(0, Slow)
from a2d_jax.cli import main
sys.exit(main(["info"]))
"""
WORKING = """
from a2d_jax.console import run
from a2d_jax.io.files import atomic
def work():
    with atomic("out") as temporary:
        temporary.write_text("half")
        open("started", "w").close()
        time.sleep(60)
sys.exit(run("a2d", work))
"""
IN_C = """
import hashlib
from a2d_jax import process
from a2d_jax.console import run
from a2d_jax.io.files import atomic
process.GRACE = float(os.environ["GRACE"])
def work():
    with atomic("out") as temporary:
        open("started", "w").close()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)  # Python hears nothing meanwhile
sys.exit(run("a2d", work))
"""


def signalled(code: str, *numbers: int, **environment: str) -> tuple[int, str, str]:
    """Send signals to a process when it has begun: its exit code, stdout and stderr."""
    command = [sys.executable, "-c", f"{LISTENING}\nimport os, sys, time\n{code}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment, start_new_session=True
    ) as running:
        deadline = time.monotonic() + 60
        while not os.path.exists("started") and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        for number in numbers:
            time.sleep(0.3)
            running.send_signal(number)
        try:
            out, err = running.communicate(timeout=30)
        finally:
            running.kill()
    return running.returncode, out, err


@pytest.mark.parametrize(
    ("code", "numbers", "grace"),
    [
        (IMPORTING, [signal.SIGINT], 60),
        (IMPORTING, [signal.SIGTERM], 60),
        (WORKING, [signal.SIGINT], 60),
        (WORKING, [signal.SIGTERM], 60),
        (WORKING, [signal.SIGHUP], 60),
        (IN_C, [signal.SIGINT, signal.SIGINT], 60),
        (IN_C, [signal.SIGTERM], 0.2),
    ],
)
def test_signals(here, code, numbers, grace):
    """At any moment a signal ends a command in one line, with 128 + its number and without files.

    Two do at once, also where Python hears nothing, and one does after a while.
    """
    returned, out, err = signalled(code, *numbers, GRACE=str(grace))
    assert returned == 128 + numbers[0]
    assert out == ""
    assert re.fullmatch(r"a2d: interrupted[^\n]*; no output was written\n", err)
    assert not left()
    assert not os.path.exists("out")


def test_a_signal_that_is_ignored_stays_so(here):
    """`nohup` and jobs in the background keep their deaf ear."""
    code = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + WORKING.replace("time.sleep(60)", "time.sleep(1)")
    assert signalled(code, signal.SIGHUP) == (0, "", "")


def test_handlers_come_back(here):
    """A command inside a program leaves its signals, streams and hooks as they were."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)], sys.stdout, sys.excepthook
    with pytest.raises(ZeroDivisionError):
        console.run("a2d", lambda: 1 / 0)
    assert console.run("a2d", lambda: 3) == 3
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)], sys.stdout, sys.excepthook
    assert after == before


def test_an_output_that_was_finished_is_told(here, capsys):
    """Ctrl-C after the output stands there does not say that there is none."""

    def work() -> None:
        with tables.table_writer("t.parquet", tables.PREDICTIONS, {}):
            pass
        raise KeyboardInterrupt

    assert console.run("a2d", work) == 130
    assert re.fullmatch(r"a2d: interrupted; [^\n]*t\.parquet is complete\n", capsys.readouterr().err)


def test_leftovers_of_a_killed_process(here):
    """The next process that writes the same output removes what a killed one left, and nothing of one that lives or of another output."""
    begun = (
        "import sys, time\nfrom a2d_jax.io.files import atomic\nwith atomic(sys.argv[1]): open(sys.argv[2], 'w').close(); time.sleep(60)"
    )
    running = [subprocess.Popen([sys.executable, "-c", begun, *names]) for names in [("out", "1"), ("out", "2"), ("other", "3")]]
    try:
        while not all(os.path.exists(name) for name in "123"):
            time.sleep(0.02)
        for one in (running[0], running[2]):
            one.kill()
            one.wait()
        (here / ".a2d-notes.tmp").write_text("mine")
        assert len(left()) == 4
        assert python("from a2d_jax.io.files import atomic\nwith atomic('out') as t: t.write_text('x')").returncode == 0
        assert len(left()) == 3
        assert running[1].poll() is None
    finally:
        for one in running:
            one.kill()
            one.wait()


# Room and rivals.


@contextlib.contextmanager
def room(size: int):
    """Files that grow no larger than this, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room(here):
    """A disk that fills up while a table or images are written is one sentence; the old output stays, and nothing else."""
    Path("t.parquet").write_text("old")
    Path("a.npz").write_text("old")
    rows = np.arange(200_000)

    def table() -> None:
        with tables.table_writer("t.parquet", tables.PREDICTIONS, {}) as write, room(10_000):
            random = np.random.default_rng(0).random(len(rows))
            write({"index": rows, "id": [str(row) for row in rows], "label": rows, "probability": random, "error": [None] * len(rows)})

    def images() -> None:
        with tables.npz_writer("a.npz", 1000, (9, 9, 1), {}) as write, room(10_000):
            n = np.arange(1000)
            write(x=np.zeros((1000, 9, 9, 1), np.float32), y=n, success=n > 0, index=n, error=[None] * 1000)

    for write, name in ((table, "t.parquet"), (images, "a.npz")):
        with pytest.raises(BadInput, match=f"expected room for the output .*{name}, got: File too large"):
            write()
        assert Path(name).read_text() == "old"
    assert not left()


def test_an_output_that_appears_meanwhile(here, capsys):
    """It is not replaced without --force: what was found is kept under a name that is told. With --force it is replaced."""
    with open("tiny_net.py", "a") as file:
        file.write("\ndef rival():\n    open('p.parquet', 'w').write('precious')\n    return net()\n")
    sys.modules.pop("tiny_net", None)
    command = ["predict", "--classifier", "tiny_net:rival", "--images", "x.npz", "--out", "p.parquet"]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (kept,) = re.fullmatch(
        r"a2d: error: expected [^\n]+ to be free when the work ended, [^\n]+ the result is in (\S+\.parquet)\n", err
    ).groups()
    assert Path("p.parquet").read_text() == "precious"
    assert pq.read_table(kept).num_rows == 4
    assert main([*command, "--force"]) == 0
    assert pq.read_table("p.parquet").num_rows == 4
    sys.modules.pop("tiny_net", None)
    assert not left()


def test_outputs_that_cannot_be(here, capsys):
    """An input, a device, a pipe, a loop of links, a name that is too long, a folder that is missing: one line each, before the work."""
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    os.symlink("nowhere/x", "dangling")
    os.symlink("x.npz", "linked")
    for out in [
        "x.npz",
        "linked",
        "pipe",
        "/dev/null",
        "/dev/stdout",
        "loop",
        "dangling",
        "a" * 256,
        "é" * 128,
        "no/x",
        "x.npz/x",
        "",
        ".",
    ]:
        assert main([*PREDICT[:2], "tiny_net:not_called", *PREDICT[3:], out, "--force"]) == 1, out
        said, err = capsys.readouterr()
        assert said == ""
        assert re.fullmatch(r"a2d: error: expected [^\n]+\n", err), out
        assert "not_called" not in err
    assert np.load("x.npz")["x"].shape == (4, 4, 4, 1)
    assert Path("pipe").is_fifo()


def test_long_and_linked_names(here):
    """A name of 255 bytes is written like any other; a link stays, and the output appears where it points."""
    (here / "elsewhere").mkdir()
    os.symlink("elsewhere/p.parquet", "link")
    for out in ("a" * 247 + ".parquet", "é" * 127, os.fsdecode(b"caf\xe9.parquet"), "link"):
        assert main([*PREDICT, out]) == 0
        assert pq.read_table(io.BytesIO(Path(out).read_bytes())).num_rows == 4
    assert Path("link").is_symlink()
    assert not Path("elsewhere/p.parquet").is_symlink()
    assert not left()
