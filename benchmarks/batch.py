"""What a batch costs beside the work itself: planning, scheduling and starting notebooks, and how disk grows.

    python benchmarks/batch.py            all parts, then batch.md (about ten minutes of one core)
    python benchmarks/batch.py --run 20   how many empty notebooks are executed

Thousands of cells are planned, and scheduled with a command that only writes the mark of a finished job; executing as
many notebooks would measure Jupyter a thousand times. Seconds are CPU seconds of all processes together unless "wall"
stands there.
"""

import argparse
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from unittest import mock

import nbformat
import snakemake
import yaml

from xaiutils.batch import __main__ as command
from xaiutils.batch import plan, preflight
from xaiutils.batch.marker import DONE
from xaiutils.batch.matrix import read_matrix
from xaiutils.files import write_text

HERE = Path(__file__).resolve().parent
PARAMETERS = 'dataset: str = "phantom"\nseed: int = 0\nrun_name: str = ""\nmodels: list = []\nmethods: list = []'
SETTINGS = {"threads": 1, "gpus": 0, "cell_hours": 1}


def study(folder: Path, n: int) -> Path:
    """A matrix of ``n`` cells that run an empty notebook: 10 methods, and as many seeds as it takes."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = nbformat.v4.new_code_cell(PARAMETERS)
    cell.metadata["tags"] = ["parameters"]
    notebook.cells.append(cell)
    nbformat.write(notebook, folder / "empty.ipynb")
    content = {
        "name": f"n{n}",
        "notebooks": {"folder": ".", "data": None, "train": None, "cells": ["empty"]},
        "datasets": ["phantom"],
        "models": ["vit_mini16"],
        "seeds": list(range(n // 10)),
        "methods": [{"name": f"m{i}", "method": "grad_cam"} for i in range(10)],
    }
    path = folder / f"n{n}.yml"
    path.write_text(yaml.safe_dump(content))
    return path


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of this process and its children, and wall seconds, that ``work`` takes."""

    def used() -> float:
        return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    before, clock = used(), time.monotonic()
    work()
    return used() - before, time.monotonic() - clock


def planned(folder: Path, n: int) -> float:
    """Seconds of reading the matrix, making the jobs, looking at what is done and writing the plan."""

    def work() -> None:
        matrix, problems = read_matrix(study(folder, n))
        if problems:
            raise ValueError(problems)
        jobs = plan.jobs(matrix)
        plan.write_plan(folder / matrix.name, jobs, plan.survey(folder / matrix.name, jobs), SETTINGS, 0)

    return measured(work)[0]


def scheduled(folder: Path, n: int, *options: str) -> float:
    """Snakemake's seconds for ``n`` planned jobs whose command only writes the mark of a finished job."""
    planned(folder, n)
    text = Path(command.__file__).with_name("Snakefile").read_text()
    line = next(line for line in text.splitlines() if line.startswith("COMMAND ="))
    snakefile = folder / "Snakefile"
    snakefile.write_text(text.replace(line, 'COMMAND = "touch {output}"'))
    with mock.patch.object(command, "__file__", str(snakefile)):
        work = lambda: command.run_snakemake(folder / f"n{n}" / "plan", 2, 0, 0, None, options)  # noqa: E731
        seconds, _ = measured(lambda: quiet(work))
    if len(list((folder / f"n{n}").rglob("*.finished"))) != n:
        raise RuntimeError("Snakemake did not finish all jobs")
    return seconds


def quiet(work: Callable[[], object]) -> None:
    """Run it with its output, and that of what it starts, put away."""
    with Path(os.devnull).open("w") as null:
        saved = os.dup(1), os.dup(2)
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
        try:
            work()
        finally:
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)


def disk() -> list[str]:
    """The estimate for the thesis' matrix by notebook, where the data sets lie as its comment says."""
    matrix, _ = read_matrix(HERE.parent / "matrices" / "thesis.yml")
    rows: dict[str, tuple[int, float]] = {}
    jobs = {job.name: job for job in plan.jobs(matrix)}
    for job in jobs.values():
        name = job.name.split("/")[0]
        count, size = rows.get(name, (0, 0.0))
        rows[name] = count + 1, size + preflight.estimate(job, jobs.get(job.data))
    lines = ["| notebook | jobs | disk at most |", "| --- | --- | --- |"]
    return lines + [f"| {name} | {count} | {preflight.megabytes(size)} |" for name, (count, size) in rows.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--run", type=int, default=20, help="empty notebooks that are executed, a multiple of 10")
    n_run = parser.parse_args().run
    lines = [
        f"# What a batch costs beside the work\n\nWritten by `python benchmarks/batch.py` on {date.today()}: "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, Snakemake {snakemake.__version__}, load "
        f"{os.getloadavg()[0]:.1f} at the beginning. Empty notebooks; CPU seconds of all processes together.\n",
        "| cells | planned by us | scheduled by Snakemake | ms a cell | with its default scheduler |",
        "| --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory(prefix="xai-bench-") as name:
        folder = Path(name)
        for n in (10, 100, 1000, 3000):
            ours, theirs, default = planned(folder, n), scheduled(folder, n), scheduled(folder, n, "--scheduler", "ilp")
            lines.append(f"| {n} | {ours:.2f} s | {theirs:.1f} s | {1000 * theirs / n:.0f} | {default:.1f} s |")
        lines += ["", "| cores | notebooks | CPU s a notebook | wall s a notebook |", "| --- | --- | --- | --- |"]
        for cores in (1, 2):
            planned(folder, n_run)
            cpu, wall = measured(
                lambda cores=cores: quiet(lambda: command.run_snakemake(folder / f"n{n_run}" / "plan", cores, 0, 0))
            )
            lines.append(f"| {cores} | {n_run} | {cpu / n_run:.1f} | {wall / n_run:.1f} |")
        place = next((folder / f"n{n_run}").rglob(DONE)).parent
        size = sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
    lines.append(
        f"\nAn empty cell leaves {size / 1000:.0f} kB: the executed notebook, parameters, logs and the marker."
    )
    lines.append(
        "\nDisk by the estimate that `--dry-run` checks against (an upper bound), for `matrices/thesis.yml`.\n"
    )
    write_text(HERE / "batch.md", "\n".join([*lines, *disk(), ""]))
    print(f"written: {HERE / 'batch.md'}")


if __name__ == "__main__":
    sys.exit(main())
