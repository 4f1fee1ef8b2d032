"""The job of a part and its results: a JSON line for each result, and a table made from all lines so far."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from a2d_jax.io.files import atomic

LINES, TABLE = "results.jsonl", "results.md"


@dataclass(frozen=True)
class Job:
    """One part's work."""

    part: str
    out: str  # folder
    until: float  # seconds since the epoch: when the part must have ended
    tiny: bool  # on a CPU: sizes that show that it works
    checkpoint: str | None = None  # weights of ResNet-20
    golden: str | None = None  # images by kind, to compare ResNet-20's costs on

    def left(self) -> float:
        """Seconds."""
        return self.until - time.time()

    def fits(self, what: str, seconds: float) -> bool:
        """Whether something that takes so long can be done in time; says so where it cannot."""
        if self.left() >= seconds:
            return True
        self.tell(what, f"left out: {seconds:.0f} s needed, {max(self.left(), 0):.0f} s left", skipped=True)
        return False

    def tell(self, what: str, said: str, **numbers: Any) -> None:
        """A result: what it is about, what a reader is told, and the numbers behind that."""
        folder = Path(self.out)
        line = {"part": self.part, "what": what, "said": said, "numbers": numbers}
        with (folder / LINES).open("a") as file:
            file.write(json.dumps(line) + "\n")
        with atomic(folder / TABLE) as whole:
            whole.write_text(table([json.loads(text) for text in (folder / LINES).read_text().splitlines()]))
        print(f"{self.part}: {what}: {said}", flush=True)

    def text(self) -> str:
        """As an argument of a process."""
        return json.dumps(asdict(self))


def table(lines: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    rows = [f"| {line['part']} | {line['what']} | {line['said']} |".replace("\n", " ") for line in lines]
    return "\n".join(["| part | what | result |", "|---|---|---|", *rows]) + "\n"
