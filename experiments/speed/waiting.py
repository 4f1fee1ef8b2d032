"""Measure how long the device waits for images.

    python -m experiments.speed.waiting --classifier models.efficientnet:efficientnet_lite0 --checkpoint lite0 --images photographs/

It predicts the classes of all images, as every command does first, and times each wait for the next piece. A first pass compiles and is
not counted. Prediction is the worst case: an attack spends hundreds of times as long on an image that is read once.

The wait for the first piece, which cannot be hidden, and the waits for the others are reported separately. "Read alone" is the time of the
same reading without any computation: the wait without reading ahead.

Expected (2026-11-22, EfficientNet-Lite0, 250 sample photographs, one busy CPU core): 1.7 to 3.0 % waited, 0.1 % after the first piece.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import tyro

from a2d_jax.console import run
from a2d_jax.costs import Cut, Memory, planned, predict
from a2d_jax.io.source import ImageSource, Piece
from a2d_jax.jobs.images import open_both


@dataclass
class Args:
    """Measure how long the device waits for images."""

    classifier: str
    """Import string `module:factory`."""
    images: Path
    """Images to read, as for `a2d predict`."""
    checkpoint: Path | None = None
    """Orbax folder with the weights; they do not change the time."""


@dataclass(frozen=True)
class Watched(ImageSource):
    """A source that notes the seconds its reader waits for each piece, the end included."""

    waits: list[float] = field(default_factory=list)

    def spans(self, spans: Sequence[tuple[int, int]], size: int | None = None) -> Iterator[Piece]:
        pieces = super().spans(spans, size)
        while True:
            begin = time.perf_counter()
            piece = next(pieces, None)
            self.waits.append(time.perf_counter() - begin)
            if piece is None:
                return
            yield piece


def watched(source: ImageSource) -> Watched:
    """The same source, watched."""
    return Watched(**{one.name: getattr(source, one.name) for one in fields(ImageSource)})


def main(args: Args) -> dict[str, float]:
    """Measure, print and return seconds and shares."""
    classifier, source = open_both(args.classifier, args.checkpoint, args.images, None, "float32")

    def seconds(source: ImageSource) -> float:
        begin = time.perf_counter()
        predict(planned(classifier, source, {}), Memory(Cut(len(source), len(source))))
        return time.perf_counter() - begin

    seconds(source)
    watch = watched(source)
    total = seconds(watch)
    begin = time.perf_counter()
    for _ in source.pieces():
        pass
    found = {
        "images": len(source),
        "pieces": len(watch.waits) - 1,
        "seconds": total,
        "waited, first piece": watch.waits[0],
        "waited, others": sum(watch.waits[1:]),
        "share waited": sum(watch.waits) / total,
        "share waited after the first piece": sum(watch.waits[1:]) / (total - watch.waits[0]),
        "read alone": time.perf_counter() - begin,
    }
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    sys.exit(run("experiments.speed.waiting", lambda: main(tyro.cli(Args))))
