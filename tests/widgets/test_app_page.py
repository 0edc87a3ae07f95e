"""The page of ``make app`` while it loads, and where it cannot be shown."""

import json
import re

from xaiutils.widgets.app import launch
from xaiutils.widgets.app.page import stages


def test_each_cell_of_the_page_has_a_name_that_is_shown_while_it_runs():
    cells = json.loads((launch.FOLDER / "explorer.ipynb").read_text())["cells"]
    template = (launch.FOLDER / "voila" / "templates" / "panel" / "index.html.j2").read_text()
    names = json.loads(re.search(r"const stages = (\[.*\]);", template).group(1))
    assert len(names) == len(cells) == 4
    assert "loading_text" in template, "voila's element"


def test_a_page_that_cannot_be_shown_says_why_once(tmp_path, monkeypatch):
    monkeypatch.setenv(launch.RUN_VARIABLE, "mine")
    monkeypatch.setenv(launch.RUNS_VARIABLE, str(tmp_path))
    monkeypatch.delenv(launch.PARAMETERS_VARIABLE, raising=False)
    first, *later = [*stages()]
    assert "There is no run &#x27;mine&#x27;" in first.value
    assert later == []
