"""How well a model does on a data set, and an image of which it is sure."""

from typing import Any

import numpy as np

from xaiutils import class_names
from xaiutils.backend import keras
from xaiutils.classification import Predictions, Report, assess, mean_auc
from xaiutils.datasets import ImageDataset
from xaiutils.graph.predict import predict

__all__ = ["Report", "classification_report", "clear_example", "mean_auc", "predictions_of"]

_MAMMOGRAM_VIEWS = {"CC", "MLO"}


def classification_report(
    model: keras.Model,
    ds: ImageDataset,
    batch_size: int = 32,
    *,
    val_ds: ImageDataset | None = None,
    positive: str | int | None = None,
    combine: str = "max",
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    name: str = "",
) -> Report:
    """Evaluate ``model`` on ``ds``: per image and, where patients are known, per patient and breast.

    ``batch_size`` images go through ``model`` in one pass. ``val_ds``, if given, is where thresholds are chosen and the
    temperature is fitted; ``name`` defaults to the model's. ``positive``, ``combine``, ``n_resamples``, ``confidence``
    and ``seed`` are those of `xaiutils.classification.assess`, which says what is measured and how.

    Raises:
        ValueError: ``ds`` is empty, the model knows fewer classes than it, or answers NaN.
    """
    found = predictions_of(model, ds, batch_size)
    validation = None if val_ds is None else predictions_of(model, val_ds, batch_size)
    return assess(
        found,
        validation,
        positive,
        combine,
        n_resamples,
        confidence,
        seed,
        name or model.name,
        ds.split or "test",
    )


def predictions_of(model: keras.Model, ds: ImageDataset, batch_size: int = 32) -> Predictions:
    """What ``model`` says of the images of ``ds``, with their patients and breasts where these are known."""
    if len(ds) == 0:
        raise ValueError(f"the split {ds.split!r} is empty: there is nothing to report on.")
    probabilities = _predict_all(model, ds, batch_size, probabilities=True)
    return Predictions(ds.labels, probabilities, ds.class_names, groups_of(ds), ds.ids)


def groups_of(ds: ImageDataset) -> dict[str, list[str]]:
    """The patient of each image, and its breast ("side" where it is not a mammogram), where all of them are stated."""
    if ds.patients is None:
        return {}
    groups = {"patient": list(ds.patients)}
    sides = ds.metadata["side"].astype(str).str.strip() if "side" in ds.metadata else None
    if sides is not None and (sides.str.upper().str[:1].isin(["L", "R"])).all() and sides.nunique() > 1:
        views = set(ds.metadata["view"].astype(str)) if "view" in ds.metadata else set()
        name = "breast" if views & _MAMMOGRAM_VIEWS else "side"
        groups[name] = [f"{p} {s}" for p, s in zip(ds.patients, sides, strict=True)]
    return groups


def _predict_all(model: keras.Model, ds: ImageDataset, batch_size: int = 32, **options: Any) -> np.ndarray:
    """`predict` for a data set, without making all its images float32 at once."""
    return np.concatenate([predict(model, images, batch_size, **options) for images, _ in ds.batches(8 * batch_size)])


def clear_example(model: keras.Model, ds: ImageDataset, label: int | None = None, *, positive_class: str = "") -> int:
    """Position of the image of class ``label`` (-1: the last; None: the positive one, ``positive_class`` by name or see
    `xaiutils.class_names.positive_class`, of more than two the last) whose logit leads the others by most.

    Images with evidence come first where there are masks; without any image of that class, the first image.
    """
    if label is None:
        label = class_names.positive_class(ds.class_names, positive_class)[0]
    label = (-1 if label is None else label) % len(ds.class_names)
    members = np.flatnonzero(ds.labels == label)
    if ds.masks is not None and ds.masks[members].any():
        members = members[ds.masks[members].any(axis=(1, 2))]
    if len(members) == 0:
        return 0
    logits = _predict_all(model, ds.select(members))
    others = np.delete(logits, label, axis=1).max(axis=1)
    return int(members[(logits[:, label] - others).argmax()])
