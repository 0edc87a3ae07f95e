"""The whole comparison of one model's maps: methods, controls, every metric, and what is known of each image.

Metrics against masks are measured on all images, or, where the data has no masks, on mosaics of them; metrics that run
the model on some, for they cost many passes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from xaiutils.attribution import explain_all
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset, balanced_indices
from xaiutils.evaluation.evaluate import chance, check_classes, evaluate_all
from xaiutils.evaluation.metrics import METRICS
from xaiutils.evaluation.studies.controls import control_maps, random_weight_maps
from xaiutils.evaluation.studies.planted_evidence import grid_mosaics
from xaiutils.graph.network import ModelError
from xaiutils.graph.predict import cam_grid, predict


@dataclass(frozen=True)
class Measured:
    """What `measure` found.

    ``scores``: a row for each method, control (and chance), image, metric and reading: method, image_id, metric,
    reading, value; and of the image patient_id (its own id where unknown), label (the class's name), correct (whether
    the model is right) and p (the model's probability of the explained class). ``maps``: the methods' maps of the
    images, with their sign. ``shown``: the images that metrics with masks were measured on, which are mosaics where the
    data has no masks, and the images themselves where none can be made; ``shown_maps``: the maps of these, with the
    controls that were needed. ``notes``: sentences on what is otherwise than asked.
    """

    scores: pd.DataFrame
    maps: dict[str, np.ndarray]
    shown: ImageDataset
    shown_maps: dict[str, np.ndarray]
    notes: list[str] = field(default_factory=list)


def measure(
    model: keras.Model,
    ds: ImageDataset,
    methods: Iterable[str],
    metrics: Iterable[str],
    pool: ImageDataset | None = None,
    n_faithfulness: int = 8,
    batch_size: int = 32,
    method_parameters: Mapping[str, Mapping] | None = None,
    metric_parameters: Mapping[str, Mapping] | None = None,
    seed: int = 0,
    reading: str | Sequence[str] = ("magnitude", "positive"),
) -> Measured:
    """Explain ``ds`` by every method and score the maps beside those of `control_maps` and `random_weight_maps`.

    Args:
        methods, method_parameters: as `xaiutils.explain_all` takes them. An image is explained for the class that the
            model predicts, a mosaic for its own.
        metrics, metric_parameters: as `xaiutils.evaluate` takes them.
        pool: images that mosaics are made of where ``ds`` has no masks; None: ``ds``.
        n_faithfulness: images, balanced over the classes, for the metrics that run the model.
        seed: of random maps, random weights, and the choice of images.
        reading: how maps are read, as `evaluate_all` takes it: by default all maps by their magnitude and by their
            positive part, to be compared within either. None of these ranks a method by having a sign.
    """
    check_classes(model, ds)
    methods, metrics = list(methods), list(metrics)
    chosen = {
        kind: [m for m in metrics if METRICS[m].needs in kind.split()] for kind in ("masks", "maps", "model method")
    }
    parameters = {m: p for m, p in (metric_parameters or {}).items() if m in metrics}
    own_parameters = {m: p for m, p in (method_parameters or {}).items() if m in methods}
    how = {"parameters": parameters, "method_parameters": own_parameters, "reading": reading}
    ask = _Asked(model, methods, own_parameters, batch_size, seed)
    targets = predict(model, ds.images, batch_size).argmax(axis=1)
    maps = ask.explained(ds, targets, controls=False)
    evidence, notes = _evidence(model, ds, pool, batch_size, seed) if chosen["masks"] else (None, [])
    tables, facts = [], [_facts(model, ds, targets, batch_size)]
    # Without masks the images need no controls, but for the few that the model is run on.
    everything = maps if ds.masks is None else ask.with_controls(ds, maps, targets)
    shown, shown_maps = ds, everything
    if evidence is not None and evidence is not ds:
        shown, shown_maps = evidence, ask.explained(evidence, evidence.labels)
        facts.append(_facts(model, evidence, evidence.labels, batch_size))
    if evidence is not None:
        tables.append(evaluate_all(None, evidence, shown_maps, chosen["masks"], **how))
        tables.append(chance(evidence, chosen["masks"], parameters, reading).assign(method="chance"))
    if chosen["maps"]:
        tables.append(evaluate_all(None, ds, everything, chosen["maps"], **how))
    if chosen["model method"]:
        few = balanced_indices(ds.labels, n_faithfulness, seed)
        few_ds, few_maps = ds.select(few), {name: found[few] for name, found in everything.items()}
        if ds.masks is None:
            few_maps = ask.with_controls(few_ds, few_maps, targets[few])
        options = chosen["model method"], targets[few], batch_size
        tables.append(evaluate_all(model, few_ds, few_maps, *options, **how))
    if not tables:
        raise ValueError(f"no metric could be measured. {' '.join(notes)}")
    scores = pd.concat(tables, ignore_index=True)[["method", "image_id", "metric", "reading", "value"]]
    scores = scores.sort_values("metric", key=lambda names: names.map(metrics.index), kind="stable")
    scores = scores.merge(pd.concat(facts, ignore_index=True), on="image_id", validate="many_to_one")
    return Measured(scores, maps, shown, shown_maps, notes)


@dataclass(frozen=True)
class _Asked:
    model: keras.Model
    methods: list[str]
    parameters: dict[str, Mapping]
    batch_size: int
    seed: int

    def explained(self, ds: ImageDataset, targets: np.ndarray, controls: bool = True) -> dict[str, np.ndarray]:
        maps = explain_all(self.model, ds.images, targets, self.methods, self.batch_size, self.parameters)
        return self.with_controls(ds, maps, targets) if controls else maps

    def with_controls(self, ds: ImageDataset, maps: Mapping[str, np.ndarray], targets: np.ndarray) -> dict:
        """The maps, those of random weights, and those that know nothing of any model."""
        forgotten = random_weight_maps(
            self.model, ds.images, self.methods, targets, self.batch_size, self.parameters, self.seed
        )
        try:
            grid = cam_grid(self.model)
        except ModelError:  # it has no class activation maps that an oracle could be as coarse as
            grid = (7, 7)
        return {**maps, **forgotten, **control_maps(ds, self.seed, grid)}


def _evidence(model, ds, pool, batch_size, seed) -> tuple[ImageDataset | None, list[str]]:
    """What metrics against masks are measured on, and what is to be said of it."""
    if ds.masks is not None:
        return ds, []
    try:
        mosaics = grid_mosaics(model, ds if pool is None else pool, len(ds), batch_size=batch_size, seed=seed)
    except ValueError as error:
        return None, [f"The data has no masks, and metrics against masks are left out: {error}"]
    return mosaics, [
        f"The data has no masks: metrics against masks are those of {mosaics.notes[0]}. What speaks against a "
        "class may be the cells of the others: read the positive part of maps that have a sign."
    ]


def _facts(model: keras.Model, ds: ImageDataset, targets: np.ndarray, batch_size: int) -> pd.DataFrame:
    p = predict(model, ds.images, batch_size, probabilities=True)
    return pd.DataFrame(
        {
            "image_id": ds.ids,
            "patient_id": ds.patients or ds.ids,
            "label": np.asarray(ds.class_names)[ds.labels],
            "correct": p.argmax(axis=1) == ds.labels,
            "p": p[np.arange(len(ds)), targets],
        }
    )
