"""Does the prediction move when the image is changed? A map that moves with it is right to."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.answers import answers, by_rows, returns_score
from xaiutils.evaluation.evaluate import check_classes
from xaiutils.transforms import TRANSFORMS


def prediction_change(
    model: keras.Model, ds: ImageDataset, transforms: Iterable[str], batch_size: int = 32, seed: int = 0
) -> pd.DataFrame:
    """How the prediction takes each change: a row for each transform (of `xaiutils.TRANSFORMS`) and image.

    Columns: transform, image_id, predicted (class before), after (class after), p_before and p_after (probability of
    the class predicted before; of a model that returns a score, the scores).
    """
    check_classes(model, ds)
    before = answers(model, ds.images, batch_size, ds.inputs)
    classes, rows = before.argmax(axis=1), np.arange(len(ds))
    names = np.asarray(["the score"] if returns_score(model) else ds.class_names)
    tables = []
    for name in transforms:
        changed = np.empty(ds.pixels.shape, np.float32)
        for few in by_rows(model, ds):
            how = {"model": model, "targets": classes[few], "batch_size": batch_size, "seed": seed}
            changed[few] = TRANSFORMS[name].apply(ds.images[few], **how)
        after = answers(model, changed, batch_size, ds.inputs)
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
