"""Execute the committed notebooks in place with their default parameters, and save them clean (``make notebooks``);
with names (``python tools/refresh_notebooks.py 03_attribution_explorer``) those alone.

Check cells compare numbers with known ones (`Run.expected`). Where a number has left its tolerance the notebook is
saved all the same, and the command fails at the end and names it. Look for the reason; if the new number is right, run
``python tools/refresh_notebooks.py --accept``, which writes it into the cell and executes the notebook again.

Kept: outputs, figures and execution counts, which nbval compares. Dropped: widget state and timing metadata, which
change with every run, and references to widgets that live only in a kernel.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill

from xaiutils.workbook.execute import private_kernel
from xaiutils.workbook.run_all import notebooks, studies

OUTSIDE = re.compile(r"^(?P<what>.+): (?P<now>\S+), not the expected (?P<known>\S+) \+- ", re.MULTILINE)
WIDGET = "application/vnd.jupyter.widget-view+json"


def clean(notebook: nbformat.NotebookNode) -> None:
    """Remove what changes from run to run."""
    for key in ("widgets", "papermill"):
        notebook.metadata.pop(key, None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.NotebookNode({"tags": tags} if tags else {})
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
            output.pop("metadata", None) if output.output_type == "stream" else None


def refresh(path: Path) -> None:
    """Execute one notebook and write it back, whole or not at all."""
    with tempfile.TemporaryDirectory(prefix="xai-") as folder:
        part = Path(folder, path.name)
        papermill.execute_notebook(
            str(path),
            str(part),
            cwd=str(path.parent),
            kernel_name="python3",
            progress_bar=False,
            config=private_kernel(folder),
        )
        notebook = nbformat.read(part, as_version=4)
    clean(notebook)
    nbformat.validate(notebook)
    temporary = path.with_suffix(".part")
    nbformat.write(notebook, temporary)
    temporary.replace(path)


def unexpected(path: Path, accept: bool) -> list[str]:
    """Lines of check cells that name a number outside its tolerance; ``accept`` puts it into the cell's source."""
    notebook, lines = nbformat.read(path, as_version=4), []
    for cell in notebook.cells:
        text = "".join(o.get("text", "") for o in cell.get("outputs", []))
        for found in OUTSIDE.finditer(text):
            lines.append(f"{path.name}: {text[found.start() :].splitlines()[0]}")
            start = cell.source.index(found["known"], cell.source.index(f'"{found["what"]}"'))
            if accept:
                cell.source = cell.source[:start] + found["now"] + cell.source[start + len(found["known"]) :]
    if accept:
        nbformat.write(notebook, path)
    return lines


if __name__ == "__main__":
    os.environ["XAI_PROGRESS"] = "off"
    accept, left = "--accept" in sys.argv[1:], []
    paths = {path.stem: path for path in notebooks(on_request=True)} | studies()
    for name in [name for name in sys.argv[1:] if name != "--accept"] or paths:
        path = paths[name]
        print(path.name, flush=True)
        refresh(path)
        found = unexpected(path, accept)
        if found and accept:
            print("accepted:", *found, sep="\n  ", flush=True)
            refresh(path)
            found = unexpected(path, accept=False)
        left += found
        size = path.stat().st_size
        print(f"  {size / 1e3:.0f} kB", flush=True)
        if size > 1e6:
            sys.exit(f"{path.name} is over 1 MB; show smaller figures")
    if left:
        sys.exit("\n".join(["outside their tolerance (right? then --accept):", *left]))
