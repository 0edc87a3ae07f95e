"""The panel as a page of its own: ``python -m xaiutils.widgets.app`` serves it with voila, on this machine alone.

``app/server.py`` lets in who has the token of the printed address. A page's kernel ends when the page is left, and soon
after where the page could not tell (a crashed browser).
"""

import argparse
import html
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from xaiutils.widgets.panel import Explorer
from xaiutils.workbook import Run
from xaiutils.workbook.pipeline import NOTEBOOKS, ROOT, runs_folder

APP = ROOT / "app"
PORT = 8866
_RECORD = "02_train_models"
_NAME, _RUNS = "XAI_APP_RUN", "XAI_RUNS"  # environment variables that tell the page's kernel which run to show
_TOKEN = "XAI_APP_TOKEN"  # and the server what to ask for
_IDLE_SECONDS = 120  # that the kernel of a page that is gone is kept


class RunMissingError(FileNotFoundError):
    """There is no such run, or nothing was trained in it; the message says how to make it."""


def trained_runs(runs: Path) -> list[str]:
    """Names of the runs that have a trained model."""
    return sorted({path.parents[2].name for path in runs.glob("*/models/*/model.keras")})


def read_run(name: str, runs: Path) -> Run:
    """A run by its name, with the parameters that its models were trained with. Raises RunMissingError in words."""
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


def show() -> widgets.Widget:
    """The panel for the run that the environment names; words where it cannot be shown. For the page's notebook."""
    name, runs = os.environ.get(_NAME, "default"), runs_folder()
    try:
        run = read_run(name, runs)
        parameters = run.parameters
        datasets = {f"{parameters['dataset']}, {split}": run.dataset(split) for split in ("test", "val")}
        models = {name: run.model(name) for name in run.trained}
        explorer = Explorer(models, datasets, folder=run.folder, context={"run": dict(parameters)})
    except (OSError, ValueError) as error:
        return widgets.HTML(f'<p role="alert" style="font-size:15px">{html.escape(str(error))}</p>')
    title = widgets.HTML(f'<h1 style="font-size:20px;margin:4px 0">Attribution explorer: run {html.escape(name)}</h1>')
    return widgets.VBox([title, explorer.panel])


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
        str(APP / "server.py"),
        str(APP / "explorer.ipynb"),
        *(f"--{k}={v}" for k, v in options.items()),
    ]


def environment(name: str, runs: Path, token: str = "") -> dict[str, Any]:
    """The environment of that command. ``token``: what the page asks for; empty: a new one, drawn by chance."""
    paths = [str(APP), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    # No bars of progress while the page is made: voila shows what is left of them.
    own = {_NAME: name, _RUNS: str(runs), "XAI_PROGRESS": "off", "JUPYTER_PATH": os.pathsep.join(paths)}
    return {**os.environ, **own, **({_TOKEN: token} if token else {})}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns only when the page cannot be served."""
    parser = argparse.ArgumentParser(prog="python -m xaiutils.widgets.app", description=__doc__)
    parser.add_argument("--run", default="default", metavar="NAME", help="the run to show")
    parser.add_argument("--runs", type=Path, default=runs_folder(), metavar="FOLDER", help="folder of all runs")
    parser.add_argument("--port", type=int, default=PORT)
    own = f"what the page asks for; default: drawn anew at each start. {_TOKEN} in the environment shows it to nobody"
    parser.add_argument("--token", default="", help=own)
    parser.add_argument("--no-browser", action="store_true", help="open no browser window")
    options = parser.parse_args(arguments)
    runs = options.runs.resolve()
    try:
        read_run(options.run, runs)
    except RunMissingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"the explorer of run {options.run!r}; Ctrl+C ends it", flush=True)  # the server tells the address
    argv = command(options.port, not options.no_browser)
    return os.execve(argv[0], argv, environment(options.run, runs, options.token))


if __name__ == "__main__":
    sys.exit(main())
