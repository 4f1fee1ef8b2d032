"""The stopwatch of the reader: it counts waiting times and nothing else."""

import time
from dataclasses import replace

import numpy as np

from a2d_jax.io.source import in_memory
from experiments.speed import waiting

SOURCE = in_memory("grey", np.full((6, 8, 8, 1), 0.5, np.float32), np.zeros(6, np.int64))


def slow(begin, end, size):
    for block in SOURCE.blocks(begin, end, size):
        time.sleep(0.1)
        yield block


def test_waits():
    """A slow source makes an idle reader wait for every piece; a busy reader waits for the first only, and reads the same."""
    watch = waiting.watched(replace(SOURCE, blocks=slow))
    pieces = list(watch.pieces(2))
    assert [len(piece.x) for piece in pieces] == [2, 2, 2]
    assert len(watch.waits) == 4
    assert min(watch.waits[:3]) > 0.05
    busy = waiting.watched(replace(SOURCE, blocks=slow))
    for _ in busy.pieces(2):
        time.sleep(0.3)
    assert busy.waits[0] > 0.05
    assert sum(busy.waits[1:]) < 0.1  # 0.2 if nothing were read ahead


def test_report(tmp_path, capsys):
    """The command reports shares of the whole, for any classifier and images."""
    np.savez(tmp_path / "x.npz", x=np.zeros((300, 8, 8, 1), np.uint8))
    found = waiting.main(waiting.Args("models.lenet:lenet_digits", tmp_path / "x.npz"))
    assert (found["images"], found["pieces"]) == (300, 2)
    waited = found["waited, first piece"] + found["waited, others"]
    assert 0 < found["share waited"] == waited / found["seconds"] < 1
    assert '"share waited"' in capsys.readouterr().out
