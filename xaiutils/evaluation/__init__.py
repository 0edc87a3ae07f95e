"""Evaluation: which map can be trusted? `evaluate` and its `METRICS`, control maps, and means with error bars."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from xaiutils.attribution import METHODS, explain, prepare
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset

# The order in which these declare their metrics is the order of METRICS.
# isort: off
from xaiutils.evaluation import localisation  # noqa: F401
from xaiutils.evaluation import faithfulness  # noqa: F401
from xaiutils.evaluation import confidence  # noqa: F401
from xaiutils.evaluation import correlation  # noqa: F401
from xaiutils.evaluation import road  # noqa: F401
from xaiutils.evaluation import robustness  # noqa: F401
from xaiutils.evaluation import complexity  # noqa: F401

# isort: on
from xaiutils.evaluation.controls import control_maps
from xaiutils.evaluation.metric import METRICS, Metric
from xaiutils.evaluation.statistics import summarise
from xaiutils.images import check_maps
from xaiutils.registry import check_parameters

__all__ = ["METRICS", "Metric", "chance", "control_maps", "evaluate", "evaluate_all", "summarise"]


def evaluate(
    model: keras.Model | None,
    ds: ImageDataset,
    maps: np.ndarray,
    metrics: Iterable[str] | None = None,
    targets: int | Iterable[int] | None = None,
    batch_size: int = 32,
    parameters: Mapping[str, Mapping] | None = None,
    method: str | None = None,
    method_parameters: Mapping | None = None,
) -> pd.DataFrame:
    """Score one map for each image of ``ds``.

    Args:
        model: the classifier that the maps explain; None is enough for metrics that need only masks.
        maps: finite float32 ``(n, height, width)`` from `xaiutils.explain`.
        metrics: names in `METRICS`; None: all that the data allow, but for those that explain changed images anew.
        targets: the classes that were explained, as given to `explain`; only metrics that run the model use them.
        parameters: a metric's parameters by its name.
        method, method_parameters: what made the maps, as `explain` takes it; only metrics that explain changed images
            anew use them.

    Returns:
        A row for each image and metric: image_id, metric, value (NaN where the metric has no meaning, such as an
        empty mask).

    Raises:
        UnknownNameError, TypeError, ValueError: a name, a parameter or an array is not as needed.
    """
    maps = check_maps(maps, ds.pixels.shape[:3])
    chosen = _chosen(metrics, parameters, ds, model is not None, method)
    prepared = None
    columns = []
    for name, values in chosen.items():
        metric = METRICS[name]
        if metric.needs == "maps":
            scores = metric.compute(maps, **values)
        elif metric.needs == "masks":
            scores = metric.compute(maps, ds.masks, **values)
        else:
            prepared = prepared or prepare(model, ds.images, targets, batch_size)
            network, images, classes = prepared
            if metric.needs == "model":
                scores = metric.compute(network, images, maps, classes, batch_size, **values)
            else:

                def again(images, classes):
                    return explain(model, images, classes, method, batch_size=batch_size, **(method_parameters or {}))

                scores = metric.compute(model, images, maps, classes, batch_size, again, **values)
        columns.append(pd.DataFrame({"image_id": ds.ids, "metric": name, "value": np.asarray(scores, np.float64)}))
    return pd.concat(columns, ignore_index=True)


def chance(ds: ImageDataset, metrics: Iterable[str], parameters: Mapping[str, Mapping] | None = None) -> pd.DataFrame:
    """What a map without knowledge is expected to score, for the metrics that know it; columns as `evaluate`."""
    chosen = _chosen(metrics, parameters, ds, has_model=True, method="any")
    tables = [
        pd.DataFrame({"image_id": ds.ids, "metric": name, "value": METRICS[name].chance(ds.masks, **values)})
        for name, values in chosen.items()
        if METRICS[name].chance is not None
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["image_id", "metric", "value"])


def _chosen(metrics, parameters, ds: ImageDataset, has_model: bool, method: str | None) -> dict[str, dict]:
    parameters = dict(parameters or {})
    has_method = has_model and method is not None
    available = {"maps": True, "masks": ds.masks is not None, "model": has_model, "method": has_method}
    lacking = {
        "masks": "masks; this data set has none",
        "model": "a model; None was given",
        "method": "the method that made the maps; give method= (and the model)",
    }
    anyway = [n for n, m in METRICS.items() if available[m.needs] and m.needs != "method"]
    names = anyway if metrics is None else list(metrics)
    for name in [*names, *parameters]:
        METRICS[name]  # an unknown name raises with its neighbours
    for name in names:
        if not available[METRICS[name].needs]:
            raise ValueError(f"metric {name!r} needs {lacking[METRICS[name].needs]}.")
    if not names:
        raise ValueError(
            "metrics is an empty list; give names of xaiutils.METRICS, or None for all that the data allow."
        )
    return {n: check_parameters(f"metric {n!r}", METRICS[n].parameters, parameters.get(n, {})) for n in names}


def evaluate_all(
    model: keras.Model | None,
    ds: ImageDataset,
    maps: Mapping[str, np.ndarray],
    metrics: Iterable[str] | None = None,
    targets: int | Iterable[int] | None = None,
    batch_size: int = 32,
    parameters: Mapping[str, Mapping] | None = None,
    method_parameters: Mapping[str, Mapping] | None = None,
) -> pd.DataFrame:
    """`evaluate` for the maps of several methods, with a column ``method``; a row for each image, method and metric.

    Names are those of `explain_all`, with its ``method_parameters``; maps under other names (controls) have no rows
    for the metrics that explain images anew.
    """
    tables = []
    for name, found in maps.items():
        given = dict((method_parameters or {}).get(name, {}))
        method = given.pop("method", name)
        known = method in METHODS
        wanted = metrics if known or metrics is None else [m for m in metrics if METRICS[m].needs != "method"]
        table = evaluate(model, ds, found, wanted, targets, batch_size, parameters, method if known else None, given)
        tables.append(table.assign(method=name))
    return pd.concat(tables, ignore_index=True)[["method", "image_id", "metric", "value"]]
