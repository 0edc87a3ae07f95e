"""Attribution: which pixels made this classifier give this class this score? `explain` and its `METHODS`.

A file for each method, named as its paper; `cam` and `relevance` hold the methods that are families, `libraries` the
same methods from other packages. `method` says what a method declares, `methods` lists them all, and `explain` calls
them. They stand on `xaiutils.graph`: a model's graph, logits and layers, and its compiled, batched passes.
"""

from xaiutils.attribution.explain import (
    Explained,
    explain,
    explain_all,
    own_readings,
    predict_and_explain,
    resolve,
    titles_and_signs,
)
from xaiutils.attribution.map_warnings import MapWarning
from xaiutils.attribution.method import Method
from xaiutils.attribution.methods import METHODS
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.predict import cam_grid, predict, prepare

__all__ = [
    "METHODS",
    "Explained",
    "MapWarning",
    "Method",
    "ModelError",
    "Network",
    "cam_grid",
    "explain",
    "explain_all",
    "own_readings",
    "predict",
    "predict_and_explain",
    "prepare",
    "resolve",
    "titles_and_signs",
]
