"""What the page's notebook shows: the panel for a run, or words where it cannot be shown."""

import json
import os

import ipywidgets as widgets

from xaiutils.text import html
from xaiutils.widgets.app.launch import PARAMETERS_VARIABLE, RUN_VARIABLE, given_run, read_run
from xaiutils.widgets.explorer import Explorer
from xaiutils.workbook.run_all import runs_folder


def show() -> widgets.Widget:
    """The panel for the run that the environment names."""
    name, given = os.environ.get(RUN_VARIABLE, "default"), os.environ.get(PARAMETERS_VARIABLE, "")
    try:
        run = given_run(json.loads(given), name, runs_folder()) if given else read_run(name, runs_folder())
        parameters = run.parameters
        datasets = {f"{parameters['dataset']}, {split}": run.dataset(split) for split in ("test", "val")}
        models = run.models() if given else {model: run.model(model) for model in run.trained}
        explorer = Explorer(models, datasets, folder=run.folder, context={"run": dict(parameters)})
    except (OSError, ValueError) as error:
        return widgets.HTML(f'<p role="alert" style="font-size:15px">{html(error)}</p>')
    label = f", label {run.label}" if run.label else ""
    title = f"Attribution explorer: run {name}{label}"
    return widgets.VBox([widgets.HTML(f'<h1 style="font-size:20px;margin:4px 0">{html(title)}</h1>'), explorer.panel])
