"""What the page's notebook shows: the panel for a run, or words where it cannot be shown."""

import json
import os
from collections.abc import Iterator
from urllib.parse import parse_qs

import ipywidgets as widgets

from xaiutils.text import html
from xaiutils.widgets.app.launch import PARAMETERS_VARIABLE, RUN_VARIABLE, given_run, read_run
from xaiutils.widgets.explorer import Explorer
from xaiutils.widgets.view_settings import View
from xaiutils.workbook.run_all import runs_folder


def stages() -> Iterator[widgets.Widget | None]:
    """The panel for the run that the environment names, in stages whose names the page's template shows while they
    last: None after each, the panel at last."""
    name, given = os.environ.get(RUN_VARIABLE, "default"), os.environ.get(PARAMETERS_VARIABLE, "")
    try:
        run = given_run(json.loads(given), name, runs_folder()) if given else read_run(name, runs_folder())
        parameters = run.parameters
        datasets = {f"{parameters['dataset']}, {split}": ds for split, ds in run.splits("test", "val").items()}
        yield None
        models = run.models() if given else {model: run.model(model) for model in run.trained}
        yield None
        explorer = Explorer(models, datasets, folder=run.folder, context={"run": dict(parameters)})
        _come_back(explorer)
    except (OSError, ValueError) as error:
        yield widgets.HTML(f'<p role="alert" style="font-size:15px">{html(error)}</p>')
        return
    label = f", label {run.label}" if run.label else ""
    title = f"Attribution explorer: run {name}{label}"
    yield widgets.VBox([widgets.HTML(f'<h1 style="font-size:20px;margin:4px 0">{html(title)}</h1>'), explorer.panel])


def _come_back(explorer: Explorer) -> None:
    """Show the view that the page's address names, where it was loaded again or kept as a bookmark."""
    for text in parse_qs(os.environ.get("QUERY_STRING", "")).get("view", [])[-1:]:
        try:
            explorer.view = View.from_text(text)
        except (KeyError, TypeError, ValueError) as error:
            explorer.status_line.say("error", f"error: the address names a view that cannot be shown: {error}")
