"""What studies that train many models share: the score of a trained model, and digests of what a result depends on."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.classification import mean_auc
from xaiutils.datasets import ImageDataset
from xaiutils.training.predictions import predictions_of

Build = Callable[[int], keras.Model]
Splits = Sequence[ImageDataset]
_BLOCK = 64  # images whose pixels are read at a time


def check_splits(splits: Splits) -> None:
    """Raise ValueError unless there are three data sets of one class for each image."""
    if len(splits) != 3:
        raise ValueError(f"splits has {len(splits)} data sets; expected three: training, validation and test.")
    for ds in splits:
        ds.check_single_label("training anew")


def scores_on(model: keras.Model, ds: ImageDataset, batch_size: int) -> dict[str, float]:
    """Accuracy, and the mean AUC of each class against the rest."""
    found = predictions_of(model, ds, batch_size)
    accuracy = float((found.predicted == ds.labels).mean())
    return {"accuracy": accuracy, "auc": mean_auc(ds.labels, found.probabilities)}


def digest(*parts: Any) -> str:
    """16 hexadecimal digits of plain values, arrays, and whatever else has a ``repr``."""

    def plain(value: Any) -> str:
        return hashlib.sha256(value.tobytes()).hexdigest() if isinstance(value, np.ndarray) else repr(value)

    text = json.dumps(parts, default=plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_data(splits: Iterable[ImageDataset]) -> str:
    """Of the pixels, labels and mirroring of data sets."""
    found = hashlib.sha256()
    for ds in splits:
        found.update(f"{ds.pixels.shape} {ds.labels.tolist()} {ds.mirrors}".encode())
        for start in range(0, len(ds), _BLOCK):  # pixels may be a view of a file larger than memory
            found.update(ds.pixels[start : start + _BLOCK].tobytes())
    return found.hexdigest()


def digest_of_weights(model: keras.Model) -> str:
    """Of a model's kinds of layers and their weights."""
    found = hashlib.sha256(" ".join(type(layer).__name__ for layer in model.layers).encode())
    for weight in model.get_weights():
        found.update(weight.tobytes())
    return found.hexdigest()
