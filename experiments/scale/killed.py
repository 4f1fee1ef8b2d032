"""Kill a job at random moments with SIGKILL, give the same command again, and count what was lost and what was done twice.

    python -m experiments.scale.killed --classifier models.lenet:lenet5 --checkpoint lenet5 --images t10k-images-idx3-ubyte

One `a2d cost` runs to its end. Then the same job is killed `--kills` times, at moments drawn evenly over all of its work. At the end its
table is compared with that of the job that was left alone. An image that an attack had finished when the process was killed, and that was
not in a finished part, is done twice; so is the work on the images in the lanes, of which half is counted.

`--out s3://bucket/killed` does the same in a store; `--server` starts a server of S3 on this machine for it (moto, of the extra `test`).

Run time: about twice that of the job, and ten seconds for each kill.
Expected (LeNet-5, 10,000 digits, bim and jsma, 20 kills, 2 cores): see docs/scale.md.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import tyro

from a2d_jax.console import run
from a2d_jax.costs.measuring import ALL
from a2d_jax.costs.units import PREDICT
from a2d_jax.errors import BadInput
from a2d_jax.io.parts import JOB, RECORDS, Cut, measurement_folder, read_job, units
from a2d_jax.io.store import store_of
from a2d_jax.io.urls import as_path

WORKER = """
import sys
from a2d_jax.jobs.starting import start_jax
start_jax()
from a2d_jax import console, jobs
said = lambda what, done, total: print("at", what, done, flush=True)
spec = jobs.CostSpec(classifier=sys.argv[1], checkpoint=sys.argv[2] or None, images=sys.argv[3], attacks=sys.argv[4], out=sys.argv[5],
    limit=int(sys.argv[6]) or None, part=int(sys.argv[7]) or None)
print("done", console.json.dumps(jobs.cost(spec, said).summary), flush=True)
"""


@dataclass
class Args:
    """Kill a job at random moments."""

    classifier: str
    """Import string `module:factory`."""
    images: Path
    """Images, as for `a2d cost`."""
    checkpoint: Path | None = None
    """Orbax folder with the weights."""
    attacks: str = "bim,jsma"
    """Attacks, as for `a2d cost`."""
    kills: int = 20
    """How often the job is killed."""
    limit: int = 0
    """Number of images; 0 for all."""
    part: int = 0
    """Images of a part; 0 for the default."""
    seed: int = 0
    """Seed of the moments."""
    out: Path = Path("killed")
    """Folder for the tables, or its URL. It is replaced."""
    server: bool = False
    """Start a server of S3 on this machine, in a process of its own, with the bucket of `out`."""


def main(args: Args) -> dict[str, object]:
    """Run the job alone and killed, print and return what was lost."""
    args.out = as_path(args.out)
    with s3_server(args.out.parts[1]) if args.server else nullcontext():
        return killed(args)


def killed(args: Args) -> dict[str, object]:
    """The same, with a store that is there."""
    store = store_of(args.out)
    if store.is_dir(args.out):
        store.remove_folder(args.out, args.out / "none")
    store.make(args.out)
    start(args, "warm.parquet", 64).communicate()  # programs are compiled once, for both
    begin = time.perf_counter()
    alone = json.loads(start(args, "alone.parquet").communicate()[0].rsplit("done ", 1)[1])
    seconds = time.perf_counter() - begin
    images, names = alone["images"], [row["attack"] for row in alone["costs"]]
    moments = random.Random(args.seed)
    lost: list[float] = []
    for target in sorted(moments.uniform(0, images * (len(names) + 1)) for _ in range(args.kills)):
        before = committed(args, names)
        process = start(args, "killed.parquet")
        assert process.stdout is not None
        done: dict[str, int] = {}
        for line in process.stdout:
            what, _, count = line.removeprefix("at ").strip().rpartition(" ")
            done[what] = int(count)
            if done.get(ALL, 0) + sum(before.values()) >= target:
                time.sleep(moments.uniform(0, 0.5))  # between two lines
                break
        process.kill()
        done |= {what: int(count) for what, count in re.findall(r"at (.+) (\d+)\n", process.communicate()[0])}
        if process.returncode != -signal.SIGKILL:
            raise BadInput(f"expected the job to be killed {args.kills} times, got its end after {len(lost)}; take more images")
        after = committed(args, names)
        twice = sum(done[name] - (after[name] - before[name]) for name in names if name in done)
        in_lanes = 32 * (os.cpu_count() or 1) / 2 if any(after[name] < images for name in names if name in done) else 0
        lost.append(twice + in_lanes)
        print(f"kill {len(lost)}: {after}, done again {twice} images and half of the lanes", flush=True)
    start(args, "killed.parquet").communicate()
    with store.local(args.out / "alone.parquet") as one, store.local(args.out / "killed.parquet") as other:
        one, other = pq.read_table(one), pq.read_table(other)
    found: dict[str, object] = {
        "images": images,
        "attacks": args.attacks,
        "kills": len(lost),
        "rows": len(other),
        "rows lost": len(one) - len(other),
        "rows twice": len(other) - len({*zip(other["index"].to_pylist(), other["attack"].to_pylist(), strict=True)}),
        "equal to the table of the job alone": one.equals(other),
        "done again, of all work": sum(lost) / (images * len(names)),
        "done again by one kill, mean": sum(lost) / len(lost) / (images * len(names)),
        "done again by one kill, most": max(lost) / (images * len(names)),
        "seconds alone": seconds,
    }
    print(json.dumps(found, indent=1))
    return found


def start(args: Args, name: str, limit: int = 0) -> "subprocess.Popen[str]":
    """A process that does the job and tells each step of its progress."""
    words = [args.classifier, args.checkpoint or "", args.images, args.attacks, args.out / name, limit or args.limit, args.part]
    return subprocess.Popen([sys.executable, "-c", WORKER, *map(str, words)], stdout=subprocess.PIPE, text=True)


def committed(args: Args, names: list[str]) -> dict[str, int]:
    """Images in finished parts, by measurement."""
    folder = args.out / "killed.parquet.run"
    if not store_of(folder).is_file(folder / RECORDS / JOB):
        return dict.fromkeys([PREDICT, *names], 0)
    job = read_job(folder)
    cut = Cut(job["count"], job["size"])
    return {name: cut.length(units(measurement_folder(folder, name, kept))) for name, kept in job["measurements"].items()}


@contextmanager
def s3_server(bucket: str) -> Generator[None]:
    """A server of S3 on the loopback interface with an empty bucket, which processes of this one find by their environment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    os.environ |= {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                with suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), timeout=1):
                    break
                time.sleep(0.1)
            request = urllib.request.Request(f"{url}/{bucket}", method="PUT")
            urllib.request.urlopen(request, timeout=60).close()
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(run("experiments.scale.killed", lambda: main(tyro.cli(Args))))
