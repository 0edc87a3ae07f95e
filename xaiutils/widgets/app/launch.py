"""The command line of ``python -m xaiutils.widgets.app``: it finds the run and becomes the server."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xaiutils.workbook import Run
from xaiutils.workbook.assignments import read_arguments
from xaiutils.workbook.own_models import KEPT, kept_names
from xaiutils.workbook.parameters import PARAMETERS
from xaiutils.workbook.run import SETTLED
from xaiutils.workbook.run_all import NOTEBOOKS, check_data, notebooks, prepare, runs_folder

FOLDER = Path(__file__).resolve().parent  # of the server, the notebook and the page's template
PORT = 8866
_RECORD = "02_train_models"
# Environment variables: which run the page's kernel shows, and what the server asks for.
RUN_VARIABLE, RUNS_VARIABLE, TOKEN_VARIABLE = "XAI_APP_RUN", "XAI_RUNS", "XAI_APP_TOKEN"
PARAMETERS_VARIABLE = "XAI_APP_PARAMETERS"  # of a page on given data and models, as JSON; empty: those of the run
OWN_RUN = "app"  # the run of such a page, where no other is named
_KEPT = ("model.keras", KEPT)
_IDLE_SECONDS = 120  # that the kernel of a page that is gone is kept


class RunMissingError(FileNotFoundError):
    """There is no such run, or nothing was trained in it; the message says how to make it."""


def trained_runs(runs: Path) -> list[str]:
    """Names of the runs that have a model, trained in them or a user's own."""
    return sorted({path.parents[2].name for kept in _KEPT for path in runs.glob(f"*/models/*/{kept}")})


def read_run(name: str, runs: Path) -> Run:
    """A run by its name, with the parameters that its models were trained with. Raises RunMissingError."""
    records = [runs / name / "record" / f"{notebook}.json" for notebook in (_RECORD, "explorer")]
    record = next((path for path in records if path.exists()), None)
    if name not in trained_runs(runs) or record is None:
        known = trained_runs(runs)
        there = f" Runs that can be shown: {', '.join(known)}." if known else ""
        make = "make run" if name == "default" else f"make run NAME={name}"
        raise RunMissingError(f"There is no run {name!r} with trained models in {runs}; '{make}' makes it.{there}")
    parameters = json.loads(record.read_text(encoding="utf-8"))["parameters"]
    data_dir = (NOTEBOOKS / parameters["data_dir"]).resolve()  # written from where the notebooks run
    given = parameters | {"run_name": name, "runs_dir": str(runs), "data_dir": str(data_dir)}
    return Run("explorer", given, writes=False)


def given_parameters(values: Mapping[str, Any], name: str, runs: Path) -> dict[str, Any]:
    """Parameters of a page that needs no training: images (of ``dataset``, or else those of the run ``name``) and
    models (a user's own, or else those of that run), checked before anything starts. Raises ValueError."""
    settled = runs / name / "data" / "settled.json"
    known = json.loads(settled.read_text(encoding="utf-8")) if "dataset" not in values and settled.exists() else {}
    if "dataset" not in values and not known:
        raise ValueError(f"the images are not given: name DATASET and DATA_DIR, or a run with data (no {settled}).")
    shared = prepare({**known, **values}, notebooks()[:2], kept_names(runs / name / "models"))
    defaults = {key: PARAMETERS[key].default for key in SETTLED} | {"data_dir": str((NOTEBOOKS / "../data").resolve())}
    found = defaults | {k: v for step in shared.values() for k, v in step.items()}
    check_data(found)
    return found


def given_run(parameters: Mapping[str, Any], name: str, runs: Path) -> Run:
    """The run of `given_parameters`: what is prepared for it is kept. Raises ValueError where it has no model."""
    run = Run("explorer", {"models": [], **parameters, "run_name": name, "runs_dir": str(runs)})
    if not run.parameters["models"]:
        raise ValueError(f"no model is given, and run {name!r} has none: name one by MODEL=path/mine.keras.")
    return run


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


def environment(name: str, runs: Path, token: str = "", parameters: str = "") -> dict[str, Any]:
    """The environment of that command. ``token``: what the page asks for; empty: a new one, drawn at random.
    ``parameters``: those of `given_parameters` as JSON."""
    paths = [str(FOLDER), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    # No bars of progress while the page is made: voila shows what is left of them.
    own = {RUN_VARIABLE: name, RUNS_VARIABLE: str(runs), "XAI_PROGRESS": "off", "JUPYTER_PATH": os.pathsep.join(paths)}
    own[PARAMETERS_VARIABLE] = parameters
    return {**os.environ, **own, **({TOKEN_VARIABLE: token} if token else {})}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns only when the page cannot be served."""
    description = "The attribution explorer as a page of its own, served by voila on this machine alone."
    parser = argparse.ArgumentParser(prog="python -m xaiutils.widgets.app", description=description)
    what = "images and models without a training run: dataset=folder data_dir=... models=path/mine.keras"
    parser.add_argument("assignments", nargs="*", metavar="name=value", help=what)
    parser.add_argument("--parameters", type=Path, metavar="FILE.yml", help="these as YAML")
    parser.add_argument(
        "--run", metavar="NAME", help=f"the run to show: default, or {OWN_RUN} for images that are given"
    )
    parser.add_argument("--runs", type=Path, default=runs_folder(), metavar="FOLDER", help="folder of all runs")
    parser.add_argument("--port", type=int, default=PORT)
    own = f"what the page asks for; default: drawn at random. {TOKEN_VARIABLE} in the environment shows it to nobody"
    parser.add_argument("--token", default="", help=own)
    parser.add_argument("--no-browser", action="store_true", help="open no browser window")
    options = parser.parse_args(arguments)
    runs = options.runs.resolve()
    try:
        values = read_arguments(options.assignments, options.parameters)
        name = values.pop("run_name", options.run) or (OWN_RUN if "dataset" in values else "default")
        if values:
            given_run(parameters := given_parameters(values, name, runs), name, runs)
        else:
            parameters = {}
            read_run(name, runs)
    except (RunMissingError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"the explorer of run {name!r}; Ctrl+C ends it", flush=True)  # the server prints the address
    argv = command(options.port, not options.no_browser)
    page = environment(name, runs, options.token, json.dumps(parameters) if parameters else "")
    return os.execve(argv[0], argv, page)
