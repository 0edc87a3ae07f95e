"""Evaluation: which map can be trusted? `evaluate` and its `METRICS`, control maps, and means with error bars."""

import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from xaiutils.attribution import METHODS, MapWarning, explain
from xaiutils.attribution.method import own_reading
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.graph.predict import prepare

# The order in which these declare their metrics is the order of METRICS.
# isort: off
from xaiutils.evaluation.metrics import localisation  # noqa: F401
from xaiutils.evaluation.metrics import faithfulness  # noqa: F401
from xaiutils.evaluation.metrics import confidence  # noqa: F401
from xaiutils.evaluation.metrics import sensitivity_n  # noqa: F401
from xaiutils.evaluation.metrics import road  # noqa: F401
from xaiutils.evaluation.metrics import robustness  # noqa: F401
from xaiutils.evaluation.metrics import complexity  # noqa: F401

# isort: on
from xaiutils.evaluation.metrics.metric import METRICS, Metric, check_classes
from xaiutils.evaluation.studies.controls import RANDOM_WEIGHTS, control_maps
from xaiutils.images import check_maps
from xaiutils.map_reading import check_reading, read_maps
from xaiutils.progress import progress
from xaiutils.registry import check_parameters
from xaiutils.statistics.summaries import summarise

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
    reading: str | None = None,
) -> pd.DataFrame:
    """Score one map for each image of ``ds``.

    Args:
        model: the classifier that the maps explain; None is enough for metrics that need only masks.
        maps: finite float32 ``(n, height, width)`` from `xaiutils.explain`.
        metrics: names in `METRICS`; None: all that the data allow, but for those that explain changed images anew.
        targets: the classes that were explained, as given to `explain`; only metrics that run the model use them.
        parameters: a metric's parameters by its name.
        method, method_parameters: what made the maps, as `explain` takes it: for the reading, and for metrics that
            explain changed images anew.
        reading: how the maps are read before they are scored: "signed", "positive" or "magnitude", see
            `xaiutils.map_reading.read_maps`. None: as the method declares (`Method.own_reading`), or by magnitude where
            no method is given. As they are, maps of gradients and their products would be ranked by their sign, which
            is negative on dark evidence, and compared with maps that cannot be negative.

    Returns:
        A row for each image and metric: image_id, metric, reading (a metric that is defined for one reading alone has
        that), value (NaN where the metric has no meaning, such as an empty mask).

    Raises:
        UnknownNameError, TypeError, ValueError: a name, a parameter or an array is not as needed.
    """
    raw = check_maps(maps, ds.pixels.shape[:3])
    if method is not None:
        METHODS[method]  # an unknown name raises with its neighbours
    reading = own_reading(method, method_parameters) if reading is None else check_reading(reading)
    made = (method_parameters or {}).get("reading", "signed")  # of maps that were read before, no sign comes back
    chosen = _chosen(metrics, parameters, ds, model is not None, method)
    check_classes(model, ds)
    prepared = None
    columns = []
    for name, values in progress(list(chosen.items()), title="metrics"):
        metric = METRICS[name]
        read = metric.reading or reading
        maps = read_maps(raw, read)
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

                def again(images, classes, read=read):
                    options = dict(method_parameters or {})
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", MapWarning)  # said of the maps themselves
                        found = explain(model, images, classes, method, batch_size=batch_size, **options)
                    return read_maps(found, read)

                scores = metric.compute(model, images, maps, classes, batch_size, again, **values)
        said = made if read == "signed" else read
        found = {"image_id": ds.ids, "metric": name, "reading": said, "value": np.asarray(scores, np.float64)}
        columns.append(pd.DataFrame(found))
    return pd.concat(columns, ignore_index=True)


def chance(
    ds: ImageDataset,
    metrics: Iterable[str],
    parameters: Mapping[str, Mapping] | None = None,
    reading: str | Iterable[str] = "magnitude",
) -> pd.DataFrame:
    """What a map without knowledge is expected to score, for the metrics that know it; columns as `evaluate`.

    It is the same by every reading: ``reading`` is that, or are those, of the rows that it stands beside.
    """
    chosen = _chosen(metrics, parameters, ds, has_model=True, method="any")
    tables = [
        pd.DataFrame(
            {"image_id": ds.ids, "metric": name, "reading": read, "value": METRICS[name].chance(ds.masks, **values)}
        )
        for read in _readings(reading)
        for name, values in chosen.items()
        if METRICS[name].chance is not None
    ]
    columns = ["image_id", "metric", "reading", "value"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns).astype({"value": float})


def _readings(reading: str | Iterable[str] | None) -> list[str | None]:
    """Each reading once; None stands for the method's own."""
    asked = [reading] if reading is None or isinstance(reading, str) else list(dict.fromkeys(reading))
    if not asked:
        raise ValueError("reading is an empty list; give one of its values, or None.")
    return [r if r is None else check_reading(r) for r in asked]


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
    reading: str | Iterable[str] | None = None,
) -> pd.DataFrame:
    """`evaluate` for the maps of several methods, with a column ``method``; a row for each image, method and metric.

    Names are those of `explain_all`, with its ``method_parameters``; maps under other names (controls) have no rows
    for the metrics that explain images anew. ``reading``: as `evaluate` takes it, the same for all maps; or several,
    with a row for each, so that all methods can be compared by either. None: each method's own, where maps of random
    weights have that of their method.
    """
    if not maps:
        raise ValueError("maps is empty; give the maps of at least one method by its name.")
    tables = []
    for name, found in maps.items():
        given = dict((method_parameters or {}).get(name.removesuffix(RANDOM_WEIGHTS), {}))
        method = given.pop("method", name.removesuffix(RANDOM_WEIGHTS))
        known = method in METHODS
        anew = known and not name.endswith(RANDOM_WEIGHTS)  # of the model itself
        wanted = metrics if anew or metrics is None else [m for m in metrics if METRICS[m].needs != "method"]
        names = list(_chosen(wanted, parameters, ds, model is not None, method if anew else None))
        options = targets, batch_size, parameters, method if anew else None, given
        readings = [own_reading(method, given) if read is None else read for read in _readings(reading)]
        first, *others = dict.fromkeys(readings)
        table = evaluate(model, ds, found, names, *options, first)
        tables.append(table.assign(method=name))
        names = [n for n in names if not METRICS[n].reading]
        same = [n for n in names if METRICS[n].needs != "method"] if np.min(found) >= 0 else []
        differ = [n for n in names if n not in same]
        for read in others:
            tables.append(table[table["metric"].isin(same)].assign(method=name, reading=read))
            if differ:
                tables.append(evaluate(model, ds, found, differ, *options, read).assign(method=name))
    return pd.concat(tables, ignore_index=True)[["method", "image_id", "metric", "reading", "value"]]
