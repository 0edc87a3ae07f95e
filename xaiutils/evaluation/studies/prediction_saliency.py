"""Prediction-saliency correlation (Zhang et al. 2024, doi:10.1148/ryai.220221): do maps move when the answer moves, and
stay when it stays?"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.attribution import explain_all, own_readings
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.answers import answers
from xaiutils.evaluation.evaluate import check_classes
from xaiutils.evaluation.map_similarity import SIMILARITIES
from xaiutils.progress import progress
from xaiutils.registry import check_choice
from xaiutils.statistics.bootstrap import percentile_interval, replicates
from xaiutils.transforms import TRANSFORMS

CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("fgsm", {"epsilon": size}) for size in (0.5, 1.0, 2.0, 4.0)),
    *(("pgd", {"epsilon": size}) for size in (0.5, 1.0, 2.0, 4.0)),
    *(("gaussian_noise", {"noise": size}) for size in (0.01, 0.02)),
)


def prediction_saliency(
    model: keras.Model,
    ds: ImageDataset,
    methods: Iterable[str],
    changes: Iterable[tuple[str, Mapping[str, Any]]] = CHANGES,
    similarity: str = "ssim",
    batch_size: int = 32,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """How far the answer and the map of each image move when it is changed a little.

    Args:
        model, ds: the classifier and its images.
        methods, parameters: as `xaiutils.explain_all` takes them; maps are read as each declares.
        changes: transforms (`xaiutils.TRANSFORMS`) that keep places, with their parameters: attacks on the answer,
            which move it with the least change of the image, and noise of that size, which should leave it.
        similarity: of maps (`xaiutils.evaluation.map_similarity.SIMILARITIES`); the paper: SSIM.

    Returns:
        A row for each method, change and image: method, change, image_id, answer (absolute change of the probability of
        the class that is explained, the one predicted for the whole image, or of a score) and map (1 - similarity; NaN
        where a map is constant).

    Raises ValueError for an unknown similarity, no methods, no changes, or a change that moves pixels.
    """
    check_classes(model, ds)
    check_choice("similarity", similarity, SIMILARITIES)
    methods, changes, rows = list(methods), list(changes), np.arange(len(ds))
    moving = [name for name, _ in changes if TRANSFORMS[name].geometric]
    if not methods or not changes or moving:
        asked = f"methods={methods}, changes={[name for name, _ in changes]}"
        raise ValueError(f"{asked}; expected at least one of each, and changes that move no pixels ({moving} do).")
    given = own_readings(methods, parameters)

    before = answers(model, ds.images, batch_size)
    classes = before.argmax(axis=1)
    maps, tables = explain_all(model, ds.images, classes, methods, batch_size, given), []
    for name, values in progress(changes, title="changes"):
        how = {"model": model, "targets": classes, "batch_size": batch_size, "seed": seed}
        changed = TRANSFORMS[name].apply(ds.images, **how, **values)
        moved = np.abs(answers(model, changed, batch_size) - before)[rows, classes]
        said = " ".join([name, *(f"{key}={value}" for key, value in values.items())])
        for method, other in explain_all(model, changed, classes, methods, batch_size, given).items():
            apart = 1 - SIMILARITIES[similarity](maps[method], other)
            columns = {"method": method, "change": said, "image_id": ds.ids, "answer": moved, "map": apart}
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def correlations(table: pd.DataFrame, n_resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """The prediction-saliency correlation of each method: Pearson's, over all pairs of an image and its changed copy.

    Returns method, value, low, high (a percentile bootstrap of images, each with all its copies) and n (pairs; those
    with a constant map are left out; a method without any has NaN).
    """
    rows = []
    for method, pairs in table.groupby("method", sort=False):
        found = pairs.dropna(subset="map")
        if found.empty:
            rows.append({"method": method, "value": np.nan, "low": np.nan, "high": np.nan, "n": 0})
            continue
        x, y = found["answer"].to_numpy(float), found["map"].to_numpy(float)
        units = np.unique(found["image_id"], return_inverse=True)[1]
        drawn = [_weighted(x, y, w) for w in replicates(units, n_resamples, seed)]
        low, high = percentile_interval(np.concatenate(drawn), confidence)
        value = _weighted(x, y, np.ones((len(x), 1)))[0]
        rows.append({"method": method, "value": value, "low": low, "high": high, "n": len(x)})
    return pd.DataFrame(rows)


def _weighted(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson correlation for each column of weights ``(n, k)``; NaN where one side is constant."""
    total = weights.sum(axis=0)
    a, b = (v[:, None] - (v @ weights) / total for v in (x, y))
    shared, *squares = ((weights * p).sum(axis=0) for p in (a * b, a * a, b * b))
    norm = np.sqrt(squares[0] * squares[1])
    return np.divide(shared, norm, out=np.full(len(norm), np.nan), where=norm > 1e-15)
