"""Notebooks: run them, keep their outputs, and turn them into pages.

    python -m experiments.site.notebooks

It runs every notebook of docs/tutorials in a kernel of its own and writes the outputs into it; the tests check that these still come out.
Run time: about a minute.
"""

import base64
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def run(path: Path) -> Any:
    """The notebook with the outputs that it gives now, run in an empty folder.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    from nbclient import NotebookClient  # the site is built without it
    from traitlets.config import Config

    notebook = nbformat.read(path, 4)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    try:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as sockets:
            config = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})  # no port is opened
            NotebookClient(notebook, config=config, timeout=600, resources={"metadata": {"path": folder}}).execute()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    for cell in notebook.cells:  # what changes from run to run says nothing
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                output.pop("execution_count", None)
                if output.output_type == "execute_result":
                    output.execution_count = None
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


def texts(cell: Any) -> str:
    """What a cell prints and shows as text."""
    shown = (output for output in cell.outputs if "image/png" not in output.get("data", {}))
    parts = [output.text if output.output_type == "stream" else output.data.get("text/plain", "") for output in shown]
    return COLOURS.sub("", "".join(parts)).strip("\n")


def as_markdown(path: Path) -> tuple[str, Mapping[str, bytes]]:
    """A notebook as a page, and its figures by file name."""
    parts: list[str] = []
    figures: dict[str, bytes] = {}
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        if text := texts(cell):
            parts.append(f"```text\n{text}\n```")
        for output in cell.outputs:
            if picture := output.get("data", {}).get("image/png"):
                name = f"{path.stem}_{len(figures) + 1}.png"
                figures[name] = base64.b64decode(picture)
                parts.append(f"![What the lines above draw]({name}){{ .figure }}")
    parts.append(f"This page is the notebook `docs/tutorials/{path.name}` of the checkout.")
    return "\n\n".join(parts) + "\n", figures


def main() -> None:
    """Run all notebooks and write their outputs into them."""
    for path in sorted(TUTORIALS.glob("*.ipynb")):
        nbformat.write(run(path), path)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
