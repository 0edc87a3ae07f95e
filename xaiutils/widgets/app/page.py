"""What the page's notebook shows: the panel for a run, or words where it cannot be shown."""

import os

import ipywidgets as widgets

from xaiutils.text import html
from xaiutils.widgets.app.launch import RUN_VARIABLE, read_run
from xaiutils.widgets.explorer import Explorer
from xaiutils.workbook.run_all import runs_folder


def show() -> widgets.Widget:
    """The panel for the run that the environment names."""
    name = os.environ.get(RUN_VARIABLE, "default")
    try:
        run = read_run(name, runs_folder())
        parameters = run.parameters
        datasets = {f"{parameters['dataset']}, {split}": run.dataset(split) for split in ("test", "val")}
        models = {model: run.model(model) for model in run.trained}
        explorer = Explorer(models, datasets, folder=run.folder, context={"run": dict(parameters)})
    except (OSError, ValueError) as error:
        return widgets.HTML(f'<p role="alert" style="font-size:15px">{html(error)}</p>')
    title = widgets.HTML(f'<h1 style="font-size:20px;margin:4px 0">Attribution explorer: run {html(name)}</h1>')
    return widgets.VBox([title, explorer.panel])
