"""What a batch costs beside the work itself: planning, scheduling and starting notebooks, and how disk grows.

    python benchmarks/batch.py            all parts, then batch.md (about ten minutes of one core)
    python benchmarks/batch.py --run 20   how many empty notebooks are executed by each engine

Thousands of cells are planned, and scheduled with a command that only writes the marker; executing as many notebooks
would measure Jupyter a thousand times. Seconds are CPU seconds of all processes together unless "wall" stands there.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from unittest import mock

import nbformat
import yaml

from xaiutils.batch import engine, plan, room
from xaiutils.batch.matrix import Matrix, read_matrix
from xaiutils.batch.store import DONE
from xaiutils.files import write_text

HERE = Path(__file__).resolve().parent
PARAMETERS = 'dataset: str = "phantom"\nseed: int = 0\nrun_name: str = ""\nmodels: list = []\nmethods: list = []'
SETTINGS = {"threads": 1, "gpus": 0, "retries": 0, "cell_hours": 1}


def study(folder: Path, n: int) -> Matrix:
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
    matrix, problems = read_matrix(path)
    if problems:
        raise ValueError(problems)
    return matrix


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of this process and its children, and wall seconds, that ``work`` takes."""

    def used() -> float:
        return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    before, clock = used(), time.monotonic()
    work()
    return used() - before, time.monotonic() - clock


def planned(folder: Path, n: int) -> tuple[list[plan.Job], float]:
    """The jobs, and the seconds of making, surveying and writing them."""
    found = []

    def work() -> None:
        matrix = study(folder, n)
        found.extend(plan.jobs(matrix))
        plan.write_plan(folder / matrix.name, found, plan.survey(folder / matrix.name, found), SETTINGS, 0)

    return found, measured(work)[0]


def scheduled(folder: Path, n: int, *options: str) -> float:
    """Snakemake's seconds for ``n`` jobs whose command only writes the marker."""
    for marker in (folder / f"n{n}").rglob(DONE):
        marker.unlink()
    text = Path(engine.__file__).with_name("Snakefile").read_text()
    line = next(line for line in text.splitlines() if line.startswith("COMMAND ="))
    snakefile = folder / "Snakefile"
    snakefile.write_text(text.replace(line, 'COMMAND = "touch {output}"'))
    with mock.patch.object(engine, "__file__", str(snakefile)):
        seconds, _ = measured(lambda: quiet(engine.run_snakemake, folder / f"n{n}", 2, 0, None, options))
    if len(list((folder / f"n{n}").rglob(DONE))) != n:
        raise RuntimeError("Snakemake did not finish all jobs")
    return seconds


def executed(folder: Path, n: int, kind: str, cores: int) -> tuple[float, float]:
    """CPU and wall seconds of ``n`` empty notebooks."""
    shutil.rmtree(folder / f"n{n}", ignore_errors=True)
    jobs, _ = planned(folder, n)
    state = plan.survey(folder / f"n{n}", jobs)
    if kind == "plain":
        return measured(lambda: quiet(engine.run_plain, folder / f"n{n}", jobs, state))
    return measured(lambda: quiet(engine.run_snakemake, folder / f"n{n}", cores, 0, None))


def quiet(work: Callable, *arguments) -> None:
    """Run it with its output, and that of what it starts, put away."""
    with Path(os.devnull).open("w") as null:
        saved = os.dup(1), os.dup(2)
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
        try:
            work(*arguments)
        finally:
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)


def disk() -> list[str]:
    """The estimate for the thesis' matrix, and for a hundred times its cells (recipes, seeds, data sets stay as they
    are prepared: 10 recipes or seeds, and 10 times the methods)."""
    matrix, _ = read_matrix(HERE.parent / "matrices" / "thesis.yml")
    images = {"cbis_ddsm": 3103, "inbreast": 410}
    rows: dict[str, tuple[int, float]] = {}
    with mock.patch.object(room, "_FULL", {**room._FULL, **images}), mock.patch.object(room, "_DOWNLOAD", {}):
        room._images_below.cache_clear()
        for job in plan.jobs(matrix):
            name = job.name.split("/")[0]
            count, size = rows.get(name, (0, 0.0))
            rows[name] = count + 1, size + room.estimate(job)
    lines = ["| notebook | jobs | disk at most | jobs, 100 times | disk at most |", "| --- | --- | --- | --- | --- |"]
    factors = {"01_data_preparation": 10, "02_train_models": 10, "04_qualitative_comparison": 10}
    for name, (count, size) in rows.items():
        factor = factors.get(name, 100)
        times = size * factor * (10 if name.startswith("04") else 1)  # ten times the methods in each
        lines.append(f"| {name} | {count} | {room.in_words(size)} | {count * factor} | {room.in_words(times)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", type=int, default=20, help="empty notebooks that are executed, a multiple of 10")
    n_run = parser.parse_args().run
    lines = []
    with tempfile.TemporaryDirectory(prefix="xai-bench-") as name:
        folder = Path(name)
        lines += [
            "| cells | planned by us | scheduled by Snakemake | ms a cell | with its default scheduler |",
            "| --- | --- | --- | --- | --- |",
        ]
        planned(folder, 10)  # imports TensorFlow, to know the methods: some seconds, once
        for n in (100, 1000, 3000):
            _, ours = planned(folder, n)
            theirs, default = scheduled(folder, n), scheduled(folder, n, "--scheduler", "ilp")
            lines.append(f"| {n} | {ours:.2f} s | {theirs:.1f} s | {1000 * theirs / n:.0f} | {default:.1f} s |")
            print(lines[-1], flush=True)
        lines += ["", "| engine | notebooks | CPU s a notebook | wall s a notebook |", "| --- | --- | --- | --- |"]
        for kind, cores in (("plain", 1), ("snakemake", 1), ("snakemake", 2)):
            cpu, wall = executed(folder, n_run, kind, cores)
            said = "plain" if kind == "plain" else f"Snakemake, --cores {cores}"
            lines.append(f"| {said} | {n_run} | {cpu / n_run:.1f} | {wall / n_run:.1f} |")
            print(lines[-1], flush=True)
        marker = next((folder / f"n{n_run}").rglob(DONE))
        size = sum(p.stat().st_size for p in marker.parent.rglob("*") if p.is_file())
    import snakemake

    head = [
        "# What a batch costs beside the work",
        "",
        f"Written by `python benchmarks/batch.py` on {date.today()}: {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, Snakemake {snakemake.__version__}, load {os.getloadavg()[0]:.1f} at the end. "
        "Empty notebooks; CPU seconds of all processes together, which other programs on the machine change little.",
        "",
    ]
    tail = [
        "",
        f"An empty cell leaves {size / 1000:.0f} kB: the executed notebook, parameters, logs and the marker.",
        "",
        "Disk by the estimate that `--dry-run` checks against (an upper bound), for `matrices/thesis.yml` with all "
        "images, and for 100 times its cells: 10 seeds with 10 times the methods each.",
        "",
        *disk(),
        "",
    ]
    write_text(HERE / "batch.md", "\n".join([*head, *lines, *tail]))
    print(json.dumps({"written": str(HERE / "batch.md")}))


if __name__ == "__main__":
    sys.exit(main())
