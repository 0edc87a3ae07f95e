"""Does a map stay where it was when the image changes in a way that should not matter?

These metrics explain changed images anew, so they need to know the method: ``explain(images, targets)`` returns its
maps.
"""

import numpy as np
import pandas as pd

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.map_similarity import SIMILARITIES
from xaiutils.evaluation.metrics.metric import METRICS, Metric, check_classes
from xaiutils.graph.predict import predict
from xaiutils.progress import progress
from xaiutils.registry import Parameter
from xaiutils.transforms import TRANSFORMS


def transform_consistency(
    model, images, maps, targets, batch_size, explain, *, transform: str, transform_parameters, similarity: str, seed
) -> np.ndarray:
    """Similarity of the map of the changed image, brought back, with the map of the image; 1: it stayed.

    Both explain the class of the unchanged image. Pixels that the change pushes out of the picture are not compared.
    """
    change = TRANSFORMS[transform]
    changed = change.apply(
        images, seed=seed, model=model, targets=targets, batch_size=batch_size, **transform_parameters
    )
    back = change.invert(explain(changed, targets), **transform_parameters)
    seen = change.invert(np.ones(maps.shape, np.float32), **transform_parameters) > 0.99
    return SIMILARITIES[similarity](maps, back, seen)


def max_sensitivity(
    model, images, maps, targets, batch_size, explain, *, n_samples: int, noise: float, seed: int
) -> np.ndarray:
    """Largest change of the map, norm(map' - map) / norm(map), among noisy copies of the image (Yeh et al. 2019).

    Noise is uniform in plus or minus ``noise`` times the image's range, the same field for all images; copies are
    clipped to [0, 255]. NaN for a map of zeros.
    """
    reach = noise * np.ptp(images, axis=(1, 2, 3), keepdims=True)
    norm = np.linalg.norm(maps.reshape(len(maps), -1).astype(np.float64), axis=1)
    worst = np.zeros(len(images))
    for sample in progress(range(n_samples), title="max-sensitivity"):
        field = np.random.default_rng([seed, sample]).uniform(-1, 1, images.shape[1:])
        moved = explain(np.clip(images + reach * field, 0, 255).astype(np.float32), targets) - maps
        worst = np.maximum(worst, np.linalg.norm(moved.reshape(len(maps), -1).astype(np.float64), axis=1))
    return np.divide(worst, norm, out=np.full(len(images), np.nan), where=norm > 0)


def prediction_change(
    model: keras.Model, ds: ImageDataset, transforms: list[str], batch_size: int = 32, seed: int = 0
) -> pd.DataFrame:
    """How the prediction takes each change: a row for each transform and image.

    Columns: transform, image_id, predicted (class before), after (class after), p_before and p_after (probability of
    the class predicted before). A map that moves with a prediction that moves is right to.
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


METRICS.add(
    Metric(
        "transform_consistency",
        "Consistency under a transform",
        "method",
        True,
        "the thesis' question (UNED 2021) as a number; Adebayo et al. 2018 for the similarities",
        transform_consistency,
        (
            Parameter("transform", str, "rotate_180", "the change", choices=tuple(TRANSFORMS)),
            Parameter("transform_parameters", dict, {}, "parameters of the transform"),
            Parameter("similarity", str, "spearman", "how maps are compared", choices=tuple(SIMILARITIES)),
            Parameter("seed", int, 0, "seed of what the transform draws", 0),
        ),
    )
)
METRICS.add(
    Metric(
        "max_sensitivity",
        "Max-sensitivity",
        "method",
        False,
        "Yeh et al. 2019, On the (in)fidelity and sensitivity of explanations, arXiv:1901.09392",
        max_sensitivity,
        (
            Parameter("n_samples", int, 10, "noisy copies", 1, 1000),
            Parameter("noise", float, 0.02, "reach of the noise as a fraction of each image's range", 0.0, 1.0),
            Parameter("seed", int, 0, "seed of the noise", 0),
        ),
        reading="signed",  # the distance of two maps as they are
    )
)
