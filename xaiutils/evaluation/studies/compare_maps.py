"""The whole comparison of one model's maps: methods, controls, every metric, and what is known of each image.

Metrics against masks are measured on all images, or, where the data has no masks, on mosaics of them; metrics that run
the model on some, for they cost many passes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.attribution import explain_all
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset, balanced_indices
from xaiutils.evaluation.answers import answers, explain_suited, left_out_in_words, returns_score
from xaiutils.evaluation.evaluate import chance, check_classes, evaluate_all
from xaiutils.evaluation.metrics import METRICS
from xaiutils.evaluation.score_tables import CHANCE, NO_MODEL, RANDOM, TRAINED
from xaiutils.evaluation.studies.controls import control_maps
from xaiutils.evaluation.studies.mosaics import grid_mosaics
from xaiutils.evaluation.studies.random_weights import random_weight_maps
from xaiutils.graph.network import ModelError
from xaiutils.graph.predict import cam_grid, predict

Maps = dict[str, np.ndarray]
COLUMNS = ["method", "weights", "image_id", "metric", "reading", "value"]


@dataclass(frozen=True)
class Measured:
    """What `measure` found.

    ``scores``: a row for each method, control (and chance), image, metric and reading: method, weights (see
    `xaiutils.evaluation.score_tables`), image_id, metric, reading, value; and of the image patient_id (its own id where
    unknown), label (the class's name), correct (whether the model is right; not of a score) and p (the model's
    probability of the explained class, or its score). ``maps``: the methods' maps of the images, with their sign.
    ``shown``: the images that metrics with masks were measured on, which are mosaics where the data has no masks, and
    the images themselves where none can be made; ``shown_maps``: the methods' maps of these, with the controls that
    were needed. ``notes``: sentences on what is otherwise than asked.
    """

    scores: pd.DataFrame
    maps: Maps
    shown: ImageDataset
    shown_maps: Maps
    notes: list[str] = field(default_factory=list)


def measure(
    model: keras.Model,
    ds: ImageDataset,
    methods: Iterable[str],
    metrics: Iterable[str],
    pool: ImageDataset | None = None,
    n_faithfulness: int = 8,
    batch_size: int = 32,
    method_parameters: Mapping[str, Mapping[str, Any]] | None = None,
    metric_parameters: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    reading: str | Sequence[str] = ("magnitude", "positive"),
) -> Measured:
    """Explain ``ds`` by every method and score the maps beside those of `control_maps` and `random_weight_maps`.

    Args:
        model, ds: the classifier, and the images that it is explained on.
        methods, method_parameters: as `xaiutils.explain_all` takes them; those that do not suit the model are left
            out, and a note says why. An image is explained for the class that the
            model predicts, a mosaic for its own.
        metrics, metric_parameters: as `xaiutils.evaluate` takes them.
        pool: images that mosaics are made of where ``ds`` has no masks; None: ``ds``.
        n_faithfulness: images, balanced over the classes, for the metrics that run the model.
        batch_size: images in one pass.
        seed: of random maps, random weights, and the choice of images.
        reading: how maps are read, as `evaluate_all` takes it: by default all maps by their magnitude and by their
            positive part, to be compared within either. None of these ranks a method by having a sign.
    """
    ds.check_single_label("compare_maps")
    check_classes(model, ds)
    metrics, notes = _metrics_of(model, metrics)
    parameters = {m: p for m, p in (metric_parameters or {}).items() if m in metrics}
    targets = predict(model, ds.images, batch_size, inputs=ds.inputs).argmax(axis=1)
    given = {m: p for m, p in (method_parameters or {}).items() if m in (methods := list(methods))}
    maps, left_out = explain_suited(model, ds.images, targets, methods, batch_size, given, ds.inputs)
    notes += [f"Methods, {left_out_in_words(left_out)}."] if left_out else []
    own = {m: p for m, p in given.items() if m in maps}
    chosen = {needs: [m for m in metrics if METRICS[m].needs == needs] for needs in ("masks", "maps")}
    with_model = [m for m in metrics if METRICS[m].needs in ("model", "method")]
    explained = _Explained(model, list(maps), own, batch_size, seed)
    how = {"parameters": parameters, "method_parameters": own, "reading": reading}
    evidence, said = _evidence(model, ds, pool, batch_size, seed) if chosen["masks"] else (None, [])
    notes += said
    tables, facts = [], [_facts(model, ds, targets, batch_size)]
    # Without masks the images need no controls, except for the few that the model is run on.
    of_images = {TRAINED: maps} if ds.masks is None else explained.beside(ds, maps, targets)
    shown, of_shown = ds, of_images
    if evidence is not None and evidence is not ds:
        shown = evidence
        of_shown = explained.beside(shown, explained.maps(shown, shown.labels), shown.labels)
        facts.append(_facts(model, shown, shown.labels, batch_size))
    if evidence is not None:
        tables += _scored(None, shown, of_shown, chosen["masks"], **how)
        level = chance(shown, chosen["masks"], parameters, reading)
        tables.append(level.assign(method=CHANCE, weights=NO_MODEL))
    if chosen["maps"]:
        tables += _scored(None, ds, of_images, chosen["maps"], **how)
    if with_model:
        few = balanced_indices(ds.labels, n_faithfulness, seed)
        few_ds, few_maps = ds.select(few), {w: _select(some, few) for w, some in of_images.items()}
        if ds.masks is None:
            few_maps = explained.beside(few_ds, few_maps[TRAINED], targets[few])
        tables += _scored(model, few_ds, few_maps, with_model, targets=targets[few], batch_size=batch_size, **how)
    notes += [f"Controls, {left_out_in_words(explained.left_out)}."] if explained.left_out else []
    if not tables:
        raise ValueError(f"no metric could be measured. {' '.join(notes)}")
    scores = pd.concat(tables, ignore_index=True)[COLUMNS]
    scores = scores.sort_values("metric", key=lambda names: names.map(metrics.index), kind="stable")
    scores = scores.merge(pd.concat(facts, ignore_index=True), on="image_id", validate="many_to_one")
    return Measured(scores, maps, shown, {**of_shown[TRAINED], **of_shown.get(NO_MODEL, {})}, notes)


def _scored(
    model: keras.Model | None, ds: ImageDataset, by_weights: Mapping[str, Maps], metrics: list[str], **how: Any
) -> list[pd.DataFrame]:
    """`evaluate_all` of the maps of the trained model, of those of random weights, and of the controls."""
    return [
        evaluate_all(model, ds, maps, metrics, weights=RANDOM if weights == RANDOM else TRAINED, **how)
        for weights, maps in by_weights.items()
    ]


def _select(maps: Maps, chosen: np.ndarray) -> Maps:
    return {name: found[chosen] for name, found in maps.items()}


@dataclass(frozen=True)
class _Explained:
    """The maps of a comparison: one model, the same methods and seed throughout."""

    model: keras.Model
    methods: list[str]
    parameters: dict[str, Mapping[str, Any]]
    batch_size: int
    seed: int
    left_out: dict[str, str] = field(default_factory=dict)

    def maps(self, ds: ImageDataset, targets: np.ndarray) -> Maps:
        how = self.methods, self.batch_size, self.parameters
        return explain_all(self.model, ds.images, targets, *how, inputs=ds.inputs)

    def beside(self, ds: ImageDataset, maps: Maps, targets: np.ndarray) -> dict[str, Maps]:
        """The maps with those of random weights and the controls, by the weights that they explain."""
        how = self.methods, targets, self.batch_size, self.parameters, self.seed
        try:
            grid = cam_grid(self.model)
        except ModelError:  # it has no class activation maps that an oracle could be as coarse as
            grid = (7, 7)
        try:
            random = {RANDOM: random_weight_maps(self.model, ds.images, *how, inputs=ds.inputs)}
        except ModelError as error:  # its weights are not known
            random = {}
            self.left_out["random weights"] = str(error)
        return {TRAINED: maps, **random, NO_MODEL: control_maps(ds, self.seed, grid)}


def _evidence(
    model: keras.Model, ds: ImageDataset, pool: ImageDataset | None, batch_size: int, seed: int
) -> tuple[ImageDataset | None, list[str]]:
    """What metrics against masks are measured on, and notes on that."""
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
    p = answers(model, ds.images, batch_size, ds.inputs)
    facts = {
        "image_id": ds.ids,
        "patient_id": ds.patients or ds.ids,
        "label": np.asarray(ds.class_names)[ds.labels],
        "correct": p.argmax(axis=1) == ds.labels,
        "p": p[np.arange(len(ds)), targets],
    }
    if returns_score(model):
        del facts["correct"]  # a score is neither right nor wrong
    return pd.DataFrame(facts)


def _metrics_of(model: keras.Model, metrics: Iterable[str]) -> tuple[list[str], list[str]]:
    """The metrics that have a meaning for a model, and a note on those that have none."""
    asked = list(metrics)
    without = [name for name in asked if returns_score(model) and METRICS[name].of_probability]
    said = f"The model returns a score, not a probability: {', '.join(without)} have no meaning and are left out."
    return [name for name in asked if name not in without], [said] if without else []
