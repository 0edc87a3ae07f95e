"""The command line of ``python -m xaiutils.widgets.app``: it finds the run and becomes the server."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xaiutils.workbook import Run
from xaiutils.workbook.run_all import NOTEBOOKS, runs_folder

FOLDER = Path(__file__).resolve().parent  # of the server, the notebook and the page's template
PORT = 8866
_RECORD = "02_train_models"
# Environment variables: which run the page's kernel shows, and what the server asks for.
RUN_VARIABLE, RUNS_VARIABLE, TOKEN_VARIABLE = "XAI_APP_RUN", "XAI_RUNS", "XAI_APP_TOKEN"
_IDLE_SECONDS = 120  # that the kernel of a page that is gone is kept


class RunMissingError(FileNotFoundError):
    """There is no such run, or nothing was trained in it; the message says how to make it."""


def trained_runs(runs: Path) -> list[str]:
    """Names of the runs that have a trained model."""
    return sorted({path.parents[2].name for path in runs.glob("*/models/*/model.keras")})


def read_run(name: str, runs: Path) -> Run:
    """A run by its name, with the parameters that its models were trained with. Raises RunMissingError."""
    record = runs / name / "record" / f"{_RECORD}.json"
    if name not in trained_runs(runs) or not record.exists():
        known = trained_runs(runs)
        there = f" Runs that can be shown: {', '.join(known)}." if known else ""
        make = "make run" if name == "default" else f"make run NAME={name}"
        raise RunMissingError(f"There is no run {name!r} with trained models in {runs}; '{make}' makes it.{there}")
    parameters = json.loads(record.read_text(encoding="utf-8"))["parameters"]
    data_dir = (NOTEBOOKS / parameters["data_dir"]).resolve()  # written from where the notebooks run
    given = parameters | {"run_name": name, "runs_dir": str(runs), "data_dir": str(data_dir)}
    return Run("explorer", given, writes=False)


def command(port: int, browser: bool, idle_seconds: int = _IDLE_SECONDS) -> list[str]:
    """The command that serves the page. ``idle_seconds``: that a kernel lives on to which no page is connected."""
    options = {
        "port": port,
        "Voila.ip": "127.0.0.1",
        "Voila.open_browser": browser,
        "VoilaConfiguration.template": "panel",  # voila's own page fetches an icon font from elsewhere
        "VoilaConfiguration.strip_sources": True,
        "VoilaExecutor.timeout": 600,
        "MappingKernelManager.cull_idle_timeout": idle_seconds,
        "MappingKernelManager.cull_interval": max(1, idle_seconds // 4),
    }
    return [
        sys.executable,
        str(FOLDER / "server.py"),
        str(FOLDER / "explorer.ipynb"),
        *(f"--{k}={v}" for k, v in options.items()),
    ]


def environment(name: str, runs: Path, token: str = "") -> dict[str, Any]:
    """The environment of that command. ``token``: what the page asks for; empty: a new one, drawn at random."""
    paths = [str(FOLDER), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    # No bars of progress while the page is made: voila shows what is left of them.
    own = {RUN_VARIABLE: name, RUNS_VARIABLE: str(runs), "XAI_PROGRESS": "off", "JUPYTER_PATH": os.pathsep.join(paths)}
    return {**os.environ, **own, **({TOKEN_VARIABLE: token} if token else {})}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns only when the page cannot be served."""
    description = "The attribution explorer as a page of its own, served by voila on this machine alone."
    parser = argparse.ArgumentParser(prog="python -m xaiutils.widgets.app", description=description)
    parser.add_argument("--run", default="default", metavar="NAME", help="the run to show")
    parser.add_argument("--runs", type=Path, default=runs_folder(), metavar="FOLDER", help="folder of all runs")
    parser.add_argument("--port", type=int, default=PORT)
    own = f"what the page asks for; default: drawn at random. {TOKEN_VARIABLE} in the environment shows it to nobody"
    parser.add_argument("--token", default="", help=own)
    parser.add_argument("--no-browser", action="store_true", help="open no browser window")
    options = parser.parse_args(arguments)
    runs = options.runs.resolve()
    try:
        read_run(options.run, runs)
    except RunMissingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"the explorer of run {options.run!r}; Ctrl+C ends it", flush=True)  # the server prints the address
    argv = command(options.port, not options.no_browser)
    return os.execve(argv[0], argv, environment(options.run, runs, options.token))
