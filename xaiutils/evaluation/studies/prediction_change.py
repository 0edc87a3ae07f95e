"""Does the prediction move when the image is changed? A map that moves with it is right to."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.evaluate import check_classes
from xaiutils.graph.predict import predict
from xaiutils.transforms import TRANSFORMS


def prediction_change(
    model: keras.Model, ds: ImageDataset, transforms: Iterable[str], batch_size: int = 32, seed: int = 0
) -> pd.DataFrame:
    """How the prediction takes each change: a row for each transform (of `xaiutils.TRANSFORMS`) and image.

    Columns: transform, image_id, predicted (class before), after (class after), p_before and p_after (probability of
    the class predicted before).
    """
    check_classes(model, ds)
    before = predict(model, ds.images, batch_size, probabilities=True)
    classes, rows = before.argmax(axis=1), np.arange(len(ds))
    names = np.asarray(ds.class_names)
    tables = []
    for name in transforms:
        changed = TRANSFORMS[name].apply(ds.images, seed=seed, model=model, targets=classes, batch_size=batch_size)
        after = predict(model, changed, batch_size, probabilities=True)
        columns = {
            "transform": name,
            "image_id": ds.ids,
            "predicted": names[classes],
            "after": names[after.argmax(axis=1)],
            "p_before": before[rows, classes],
            "p_after": after[rows, classes],
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
