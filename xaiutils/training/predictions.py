"""How well a model does on a data set, and an image of which it is sure."""

from typing import Any

import numpy as np

from xaiutils import class_names
from xaiutils.backend import keras
from xaiutils.classification import (
    LabelPredictions,
    LabelReport,
    Predictions,
    Report,
    ValuePredictions,
    ValueReport,
    assess,
    assess_labels,
    assess_values,
    mean_auc,
)
from xaiutils.datasets import ImageDataset
from xaiutils.graph.predict import predict

__all__ = [
    "Report",
    "classification_report",
    "clear_example",
    "mean_auc",
    "multi_label_report",
    "predictions_of",
    "regression_report",
]

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

    Of images with several labels each, see `multi_label_report`; of a measured quantity, `regression_report`.

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
    _check_images(ds)
    ds.check_single_label("classification_report (of several labels: multi_label_report)")
    probabilities = _predict_all(model, ds, batch_size, probabilities=True)
    return Predictions(ds.labels, probabilities, ds.class_names, groups_of(ds), ds.ids)


def multi_label_report(
    model: keras.Model,
    ds: ImageDataset,
    batch_size: int = 32,
    *,
    val_ds: ImageDataset | None = None,
    combine: str = "max",
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    name: str = "",
) -> LabelReport:
    """Evaluate ``model``, of a sigmoid for each label, on ``ds``, whose images may have several: label by label.

    ``val_ds``, if given, is where thresholds are chosen. ``model``, ``batch_size`` and ``name`` are as of
    `classification_report`; ``combine``, ``n_resamples``, ``confidence`` and ``seed`` are those of
    `xaiutils.classification.assess_labels`, which says what is measured and how.

    Raises:
        ValueError: ``ds`` is empty or has one class for each image, or the model has not one output for each label.
    """
    found, validation = (None if d is None else _label_predictions(model, d, batch_size) for d in (ds, val_ds))
    if found is None:
        raise ValueError("there is no data set to report on.")
    options = (combine, n_resamples, confidence, seed, name or model.name, ds.split or "test")
    return assess_labels(found, validation, *options)


def _label_predictions(model: keras.Model, ds: ImageDataset, batch_size: int) -> LabelPredictions:
    _check_images(ds)
    if not ds.multi_label:
        raise ValueError("multi_label_report is for images with several labels; these have one class each.")
    found = _predict_all(model, ds, batch_size, probabilities=True)
    if len(ds.class_names) == 1 and found.shape[1] == 2:  # of one unit both sides
        found = found[:, 1:]
    if found.shape[1] != len(ds.class_names):
        raise ValueError(f"the model has {found.shape[1]} outputs for {len(ds.class_names)} labels.")
    return LabelPredictions(ds.labels, found, ds.class_names, groups_of(ds), ds.ids)


def regression_report(
    model: keras.Model,
    ds: ImageDataset,
    batch_size: int = 32,
    *,
    train_ds: ImageDataset | None = None,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    name: str = "",
) -> ValueReport:
    """Evaluate ``model``, whose one output is a quantity in its own units, on the ``values`` of ``ds``.

    ``train_ds``: of which the baseline says the mean of the values (None: that of ``ds`` itself). The other arguments
    are those of `classification_report` and of `xaiutils.classification.assess_values`, which says what is measured.

    Raises:
        ValueError: ``ds`` is empty or has no values, or the model has several outputs.
    """
    _check_images(ds)
    if ds.values is None or (train_ds is not None and train_ds.values is None):
        raise ValueError("regression_report needs the measured values of the images (ImageDataset.values).")
    found = ValuePredictions(ds.values, _values_said(model, ds, batch_size), groups_of(ds), ds.ids)
    constant = None if train_ds is None or train_ds.values is None else float(train_ds.values.mean())
    options = (n_resamples, confidence, seed, name or model.name, ds.split or "test", ds.value_name)
    return assess_values(found, constant, *options)


def _values_said(model: keras.Model, ds: ImageDataset, batch_size: int) -> np.ndarray:
    """The model's one output for each image, as it is, float64 ``(n,)``."""
    if ds.inputs:
        found = _predict_all(model, ds, batch_size)
    else:
        found = np.concatenate([np.asarray(model(x, training=False)) for x, _ in ds.batches(batch_size)])
    if found.reshape(len(ds), -1).shape[1] != 1:
        raise ValueError(f"the model returns {found.shape[1:]} numbers for an image; a quantity is one.")
    return found.reshape(len(ds)).astype(float)


def _check_images(ds: ImageDataset) -> None:
    if len(ds) == 0:
        raise ValueError(f"the split {ds.split!r} is empty: there is nothing to report on.")


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
    size, found = 8 * batch_size, []
    for start in range(0, len(ds), size):
        rows = slice(start, start + size)
        if ds.inputs:
            options = {**options, "inputs": {name: values[rows] for name, values in ds.inputs.items()}}
        found.append(predict(model, ds.pixels[rows].astype(np.float32), batch_size, **options))
    return np.concatenate(found)


def clear_example(model: keras.Model, ds: ImageDataset, label: int | None = None, *, positive_class: str = "") -> int:
    """Position of the image of class ``label`` (-1: the last; None: the positive one, ``positive_class`` by name or see
    `xaiutils.class_names.positive_class`, of more than two the last) whose logit leads the others by most.

    Images with evidence come first where there are masks; without any image of that class, the first image. Of a model
    of one score, the image with the highest.
    """
    ds.check_single_label("clear_example")
    if label is None:
        label = class_names.positive_class(ds.class_names, positive_class)[0]
    label = (-1 if label is None else label) % len(ds.class_names)
    members = np.flatnonzero(ds.labels == label)
    if ds.masks is not None and ds.masks[members].any():
        members = members[ds.masks[members].any(axis=(1, 2))]
    if len(members) == 0:
        return 0
    logits = _predict_all(model, ds.select(members))
    if logits.shape[1] == 1:  # a score
        return int(members[logits[:, 0].argmax()])
    others = np.delete(logits, label, axis=1).max(axis=1)
    return int(members[(logits[:, label] - others).argmax()])
