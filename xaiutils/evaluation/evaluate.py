"""Maps to tables of scores: `evaluate` for the maps of one method, `evaluate_all` for several, and `chance`."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.attribution import METHODS, MapWarning, explain, resolve
from xaiutils.attribution.method import own_reading
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.answers import by_rows, returns_score
from xaiutils.evaluation.metrics import METRICS
from xaiutils.evaluation.metrics.metric import Case
from xaiutils.evaluation.score_tables import NO_MODEL, RANDOM, TRAINED, ScoreTable
from xaiutils.graph.predict import prepare
from xaiutils.images import check_maps
from xaiutils.map_reading import check_reading, read_maps
from xaiutils.models.wrapped import facts_of
from xaiutils.progress import progress
from xaiutils.registry import check_parameters


def evaluate(
    model: keras.Model | None,
    ds: ImageDataset,
    maps: np.ndarray,
    metrics: Iterable[str] | None = None,
    targets: int | Iterable[int] | None = None,
    batch_size: int = 32,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    method: str | None = None,
    method_parameters: Mapping[str, Any] | None = None,
    reading: str | None = None,
    known: dict[tuple[int, ...], dict[str, np.ndarray]] | None = None,
) -> ScoreTable:
    """Score one map for each image of ``ds``.

    Args:
        model: the classifier that the maps explain; None is enough for metrics that need only masks.
        maps: finite float32 ``(n, height, width)`` from `xaiutils.explain`.
        metrics: names in `METRICS`; None: all that the data allow, except those that explain changed images.
        targets: the classes that were explained, as given to `explain`; only metrics that run the model use them. A
            model that takes rows of further inputs of every case finds them in ``ds.inputs``.
        batch_size: images in one pass of the model.
        parameters: a metric's parameters by its name.
        method, method_parameters: what made the maps, as `explain` takes it: for the reading, and for metrics that
            explain changed images.
        reading: how the maps are read before they are scored: "signed", "positive" or "magnitude", see
            `xaiutils.map_reading.read_maps`. None: as the method declares (`Method.own_reading`), or by magnitude where
            no method is given. As they are, maps of gradients and their products would be ranked by their sign, which
            is negative on dark evidence, and compared with maps that cannot be negative.
        known: what earlier calls with the same model, data and batch_size found of the images themselves, such as their
            logits; what is missing is added. `evaluate_all` shares one among its maps.

    Returns:
        A row for each image and metric: image_id, metric, reading (a metric that is defined for one reading alone has
        that), value (NaN where the metric has no meaning, such as an empty mask). Its ``summary()`` has the means with
        95 % intervals.

    Raises:
        UnknownNameError, TypeError, ValueError: a name, a parameter or an array is not as needed.
    """
    raw = check_maps(maps, ds.pixels.shape[:3])
    method_parameters = dict(method_parameters or {})
    if method is not None:
        resolve([method], {method: method_parameters})  # an unknown name raises with its neighbours
    elif method_parameters:
        raise ValueError(f"method_parameters={method_parameters!r} without method; give the method that they are of.")
    reading = own_reading(method, method_parameters) if reading is None else check_reading(reading)
    made = method_parameters.get("reading", "signed")  # of maps that were read before, no sign comes back
    check_classes(model, ds)
    chosen = _chosen(metrics, parameters, ds, model is not None, method, returns_score(model))
    readings = {name: METRICS[name].reading or reading for name in chosen}
    runs_model = any(METRICS[name].needs in ("model", "method") for name in chosen)
    scores = {name: np.empty(len(ds)) for name in chosen}
    for members in by_rows(model if runs_model else None, ds):
        few = ds if len(members) == len(ds) else ds.select(members)
        shared = {} if known is None else known.setdefault(tuple(members), {})
        case = Case(raw[members], model=model, batch_size=batch_size, known=shared)
        if few.masks is not None:
            case = replace(case, masks=few.masks)
        if runs_model:
            some = targets if targets is None or np.asarray(targets).ndim == 0 else np.asarray(targets)[members]
            _, images, classes = prepare(model, few.images, some, batch_size)
            case = replace(case, images=images, targets=classes)
        for name, values in progress(list(chosen.items()), title="metrics"):
            metric, read = METRICS[name], readings[name]
            if metric.needs == "method" and method is not None:
                case = replace(case, explain=_method_again(case, method, method_parameters, read))
            scores[name][members] = metric.compute(replace(case, maps=read_maps(raw[members], read)), **values)
    read_as = {name: made if read == "signed" else read for name, read in readings.items()}
    columns = [
        {"image_id": ds.ids, "metric": name, "reading": read_as[name], "value": found} for name, found in scores.items()
    ]
    return ScoreTable(pd.concat([pd.DataFrame(column) for column in columns], ignore_index=True))


def _method_again(case: Case, method: str, parameters: Mapping[str, Any], reading: str) -> Callable[..., np.ndarray]:
    """The maps of changed images, for the targets of ``case`` or others, by the method that made its maps."""

    def explain_again(images: np.ndarray, targets: np.ndarray | None = None) -> np.ndarray:
        targets = case.targets if targets is None else targets
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MapWarning)  # said of the maps themselves
            found = explain(case.model, images, targets, method, batch_size=case.batch_size, **parameters)
        return read_maps(found, reading)

    return explain_again


def chance(
    ds: ImageDataset,
    metrics: Iterable[str],
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    reading: str | Iterable[str] = "magnitude",
) -> pd.DataFrame:
    """What an uninformed map is expected to score, for the metrics that know it; columns as `evaluate`.

    It is the same by every reading: ``reading`` is that, or are those, of the rows that it stands beside.
    """
    chosen = _chosen(metrics, parameters, ds, has_model=True, method="any")
    tables = [
        pd.DataFrame({"image_id": ds.ids, "metric": name, "reading": read, "value": level(ds.masks, **values)})
        for read in _readings(reading)
        for name, values in chosen.items()
        if (level := METRICS[name].chance) is not None
    ]
    columns = ["image_id", "metric", "reading", "value"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns).astype({"value": float})


def _readings(reading: str | Iterable[str] | None) -> list[str | None]:
    """Each reading once; None stands for the method's own."""
    asked = [reading] if reading is None or isinstance(reading, str) else list(dict.fromkeys(reading))
    if not asked:
        raise ValueError("reading is an empty list; give one of its values, or None.")
    return [r if r is None else check_reading(r) for r in asked]


def _chosen(
    metrics: Iterable[str] | None,
    parameters: Mapping[str, Mapping[str, Any]] | None,
    ds: ImageDataset,
    has_model: bool,
    method: str | None,
    of_score: bool = False,
) -> dict[str, dict[str, Any]]:
    """The metrics with all their parameters, if the data, the model (``of_score``: it returns a score in its own units,
    not probabilities) and the method allow them."""
    parameters = dict(parameters or {})
    has_method = has_model and method is not None
    available = {"maps": True, "masks": ds.masks is not None, "model": has_model, "method": has_method}
    lacking = {
        "masks": "masks; this data set has none",
        "model": "a model; None was given",
        "method": "the method that made the maps; give method= (and the model)",
    }
    possible = {n: m for n, m in METRICS.items() if not (of_score and m.of_probability)}
    anyway = [n for n, m in possible.items() if available[m.needs] and m.needs != "method"]
    names = anyway if metrics is None else list(metrics)
    for name in [*names, *parameters]:
        METRICS[name]  # an unknown name raises with its neighbours
    for name in names:
        if not available[METRICS[name].needs]:
            raise ValueError(f"metric {name!r} needs {lacking[METRICS[name].needs]}.")
        if name not in possible:
            others = ", ".join(n for n, m in possible.items() if m.needs == "model")
            raise ValueError(
                f"metric {name!r} is a fraction of a probability or compares classes, and this model returns a score "
                f"in its own units; leave it out, or take one of {others}."
            )
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
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    method_parameters: Mapping[str, Mapping[str, Any]] | None = None,
    reading: str | Iterable[str] | None = None,
    weights: str = TRAINED,
) -> ScoreTable:
    """`evaluate` for the maps of several methods: a row for each image, method and metric.

    Args:
        model, ds, metrics, targets, batch_size, parameters: as `evaluate` takes them.
        maps, method_parameters: as `explain_all` gives and takes them, by name. Maps under names that are of no method
            (controls) have no rows for the metrics that explain changed images.
        reading: as `evaluate` takes it, the same for all maps; or several, with a row for each, so that all methods can
            be compared by either. None: each method's own.
        weights: "trained", or "random" for maps of the model with random weights (`random_weight_maps`), which have no
            rows for the metrics that explain changed images either.

    Returns:
        The columns of `evaluate` after method and weights, which is "none" for maps that are of no method.
    """
    if not maps:
        raise ValueError("maps is empty; give the maps of at least one method by its name.")
    if weights not in (TRAINED, RANDOM):
        raise ValueError(f"weights={weights!r}; expected {TRAINED!r} or {RANDOM!r}, as of the model that is explained.")
    asked, metrics, tables = _readings(reading), None if metrics is None else list(metrics), []
    of_score = returns_score(model)
    of_images: dict[tuple[int, ...], dict[str, np.ndarray]] = {}
    for name, found in progress(maps.items(), title="maps"):
        given = dict((method_parameters or {}).get(name, {}))
        method = given.pop("method", name)
        known = method in METHODS
        if given and not known:
            METHODS[method]  # raises with the nearest names
        again = known and weights == TRAINED
        wanted = metrics if again or metrics is None else [m for m in metrics if METRICS[m].needs != "method"]
        names = list(_chosen(wanted, parameters, ds, model is not None, method if again else None, of_score))
        how: dict[str, Any] = {"targets": targets, "batch_size": batch_size, "parameters": parameters}
        how["known"] = of_images
        how |= {"method": method, "method_parameters": given} if known else {}
        readings = dict.fromkeys(own_reading(method, given) if read is None else read for read in asked)
        table = _by_readings(model, ds, found, names, how, list(readings))
        tables.append(table.assign(method=name, weights=weights if known else NO_MODEL))
    found = pd.concat(tables, ignore_index=True)
    return ScoreTable(found[["method", "weights", "image_id", "metric", "reading", "value"]])


def _by_readings(
    model: keras.Model | None,
    ds: ImageDataset,
    maps: np.ndarray,
    names: list[str],
    how: Mapping[str, Any],
    readings: list[str],
) -> pd.DataFrame:
    """`evaluate` of the same maps by several readings; what these cannot change is computed once."""
    first, *others = readings
    tables = [evaluate(model, ds, maps, names, reading=first, **how)]
    free = [n for n in names if not METRICS[n].reading]
    same = [n for n in free if METRICS[n].needs != "method"] if np.min(maps) >= 0 else []
    differ = [n for n in free if n not in same]
    for read in others:
        tables.append(tables[0][tables[0]["metric"].isin(same)].assign(reading=read))
        if differ:
            tables.append(evaluate(model, ds, maps, differ, reading=read, **how))
    return pd.concat(tables, ignore_index=True)


def check_classes(model: keras.Model | None, ds: ImageDataset) -> None:
    """Raise ValueError where the model answers with another number of classes than the data have: labels would name the
    wrong outputs. One output stands for two classes; a score has none, and goes with any data. ValueError too for data
    with several labels: a map is scored against the evidence of one."""
    ds.check_single_label("to score maps")
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[-1] is None or returns_score(model):
        return
    outputs = max(2, shape[-1])
    if outputs != len(ds.class_names):
        raise ValueError(
            f"the model answers with {outputs} classes and the data have {len(ds.class_names)} "
            f"({', '.join(ds.class_names[:5])}): they do not belong together. Load the data that the model learnt."
        )
    check_order(model, ds.class_names)


def check_order(model: keras.Model | None, names: Sequence[str]) -> None:
    """Raise ValueError where the model's own class names (`xaiutils.wrap`) are not the data's, in their order, or where
    one unit is the probability of the positive class, and the data have that first."""
    facts = facts_of(model)
    positive = None if facts is None or facts.class_names is not None else facts.positive_class
    if positive == names[0] and getattr(model, "output_shape", (0,))[-1] == 1:
        raise ValueError(
            f"the model's one unit is the probability of {names[0]!r} (positive_class), which the data have first: "
            "labels would name the wrong side. xaiutils.own_model.class_order.in_order_of(model, ds.class_names) "
            "orders them."
        )
    if facts is not None and facts.class_names is not None and facts.class_names != tuple(names):
        raise ValueError(
            f"the model's classes are {', '.join(facts.class_names)} and the data's {', '.join(names)}: labels would "
            "name the wrong outputs. xaiutils.own_model.class_order.in_order_of(model, ds.class_names) orders them."
        )
