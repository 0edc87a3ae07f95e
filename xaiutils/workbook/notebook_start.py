"""The first call of a notebook: its parameters are checked, all is seeded, and its run folder is opened."""

import warnings
from collections.abc import Mapping
from typing import Any

import pandas as pd

from xaiutils.backend import keras
from xaiutils.workbook.own_models import kept_names
from xaiutils.workbook.parameters import PARAMETERS, check, check_needed
from xaiutils.workbook.run import Run, folders


def start(notebook: str, namespace: Mapping[str, Any]) -> Run:
    """Begin a notebook: check its parameters, seed everything, open its run folder.

    Args:
        notebook: the notebook's name, such as "02_train_models".
        namespace: ``globals()``. Every parameter of `xaiutils.workbook.parameters` found there is checked. At the
            first start in a kernel any other variable is taken for a mistyped parameter and refused: papermill itself
            sets a variable that the notebook never reads, and goes on. At a later one the variables that the notebook
            has made since are no parameters: only what the first took, and what differs from what the run had then.

    Raises:
        ValueError: lists everything that is wrong, with what is allowed.
        FileNotFoundError: notebook 01 has not settled the data of this run.
    """
    given = {k: v for k, v in namespace.items() if k in PARAMETERS}
    earlier = next((v for v in namespace.values() if isinstance(v, Run)), None)
    if earlier is None:
        given |= {k: v for k, v in namespace.items() if _looks_like_parameter(k, v)}
    else:
        had = earlier.parameters
        given = {
            k: v
            for k, v in given.items()
            if k in earlier.given or (k in had and _looks_like_parameter(k, v) and v != had[k])
        }
    checked = check(given, kept_names(folders(given)[1]))
    check_needed(notebook, checked)
    run = Run(notebook, checked)
    keras.utils.set_random_seed(run.parameters.get("seed", 0))
    pd.set_option("display.html.use_mathjax", False)  # dollars in names of the data are no mathematics
    warnings.showwarning = _print_warning
    return run


def _print_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Warnings belong to what a notebook tells: among its output, without the place in our code that gave them."""
    print(f"Note: {message}")


_NOT_PARAMETERS = {"In", "Out", "exit", "quit", "get_ipython", "open", "papermill"}


def _looks_like_parameter(name: str, value: Any) -> bool:
    plain = isinstance(value, bool | int | float | str | list | tuple | dict) or value is None
    return plain and not name.startswith("_") and name not in _NOT_PARAMETERS
