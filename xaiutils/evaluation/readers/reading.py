"""What answers say beside the arms' merit: trust at the right time, agreement with oneself and others, regions."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from skimage.draw import polygon2mask
from sklearn.metrics import cohen_kappa_score

from xaiutils.evaluation.readers.design import arms_of
from xaiutils.evaluation.thresholds import top_pixels
from xaiutils.statistics.bootstrap import draw_units, percentile_interval
from xaiutils.statistics.summaries import summarise


def judged(answers: pd.DataFrame, truth: pd.DataFrame, positive: str) -> pd.DataFrame:
    """Answers (`xaiutils.evaluation.readers.answers.Answers.table`) beside the truth.

    ``truth`` has image (id), label and predicted (class names); ``positive`` is the class to detect. Adds positive,
    correct, model_correct and follows (the reader says what the model says), bool, and score: the confidence, below 0
    for another diagnosis than ``positive``.
    """
    unknown = sorted(set(answers["image"]) - set(truth["image"]))
    if unknown or positive not in set(truth["label"]):
        raise ValueError(f"truth knows nothing of the images {unknown[:5]}, or no image is {positive!r}.")
    table = answers.merge(truth[["image", "label", "predicted"]], on="image")
    sign = np.where(table["diagnosis"] == positive, 1, -1)
    return table.assign(
        positive=table["label"] == positive,
        correct=table["diagnosis"] == table["label"],
        model_correct=table["predicted"] == table["label"],
        follows=table["diagnosis"] == table["predicted"],
        score=sign * table["confidence"],
    )


def trust_calibration(table: pd.DataFrame, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How often readers say what the model says, where it is right and where it is wrong.

    Trust is calibrated where the difference is large; a reader who follows blindly has 1, 1 and 0. The arm with the
    image alone, whose readers have not seen the prediction, is the yardstick: it agrees by being right.

    Returns a row for each arm and model ("right", "wrong", "difference"): mean with 95 % interval over images
    (bootstrap; the readers are those of the study), and n, the readings. ``table`` is that of `judged`; repeats are
    left out.
    """
    rows, table = [], table[~table["repeat"]]
    number = pd.Series({image: k for k, image in enumerate(table["image"].unique())})
    draws = draw_units(len(number), n_resamples, seed)
    for arm in arms_of(table):
        group = table[table["arm"] == arm]
        samples, means, counts = [], [], []
        for right in (True, False):
            part = group[group["model_correct"] == right]
            unit = part["image"].map(number)
            sums, size = (np.bincount(unit, w, len(number)) for w in (part["follows"].astype(float), None))
            with np.errstate(invalid="ignore"):
                samples.append((draws @ sums) / (draws @ size))
            means.append(float(part["follows"].mean()) if len(part) else np.nan)
            counts.append(len(part))
        found = zip(
            ("right", "wrong", "difference"),
            [*means, means[0] - means[1]],
            [*samples, samples[0] - samples[1]],
            [*counts, sum(counts)],
            strict=True,
        )
        rows += [(arm, name, mean, *percentile_interval(sample, 0.95), n) for name, mean, sample, n in found]
    return pd.DataFrame(rows, columns=["arm", "model", "mean", "low", "high", "n"])


def kappas(table: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """Cohen's kappa with quadratic weights (for two classes, without): of each reader with themselves on repeated
    readings, and of every two readers in the same arm.

    Returns item ("diagnosis", the classes in their order, or "agreement", 1 to 5), kind ("intra", "inter"), arm ("" for
    intra), a, b (readers), kappa (NaN where there is no variation) and n, the pairs of answers.
    """
    rank = table["diagnosis"].map({name: k for k, name in enumerate(class_names)})
    items = {"diagnosis": rank, "agreement": table["agreement"]}
    rows = []
    for item, values in items.items():
        known = table.assign(value=values)[values.notna()]
        first, again = known[~known["repeat"]], known[known["repeat"]]
        for reader, part in again.groupby("reader"):
            own = part.merge(first, on=["reader", "image", "arm"])
            rows.append((item, "intra", "", reader, reader, *_kappa(own["value_x"], own["value_y"])))
        for arm in arms_of(first):
            wide = first[first["arm"] == arm].pivot(index="image", columns="reader", values="value")
            for a, b in combinations(wide.columns, 2):
                both = wide[[a, b]].dropna()
                rows.append((item, "inter", arm, a, b, *_kappa(both[a], both[b])))
    return pd.DataFrame(rows, columns=["item", "kind", "arm", "a", "b", "kappa", "n"])


def region_overlap(table: pd.DataFrame, ids: Sequence[str], maps: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """IoU of what readers drew with as many of each map's highest pixels: a row for each reading and map.

    ``maps``, by name, are float ``(n, height, width)`` of the images ``ids``, as they are to be read. Readings that
    drew nothing are left out. Returns method (the map's name), image_id, patient_id (the image: the unit of
    `xaiutils.statistics.summaries.summarise`), reader and value.
    """
    place, shape, rows = {image: k for k, image in enumerate(ids)}, next(iter(maps.values())).shape[1:], []
    drawn = table[table["region"].map(lambda region: bool(region)) & ~table["repeat"]]
    for image, reader, region in drawn[["image", "reader", "region"]].itertuples(index=False):
        mask = region_mask(region, shape)
        if mask.any():
            for name, values in maps.items():
                found = top_pixels(values[place[image]], int(mask.sum()))
                rows.append((name, image, image, reader, (found & mask).sum() / (found | mask).sum()))
    return pd.DataFrame(rows, columns=["method", "image_id", "patient_id", "reader", "value"])


def region_mask(region: Sequence[Sequence[Sequence[float]]], shape: tuple[int, int]) -> np.ndarray:
    """The pixels inside polygons of (x, y) in [0, 1]: bool ``shape``."""
    mask = np.zeros(shape, bool)
    for points in region:
        mask |= polygon2mask(shape, np.array(points)[:, ::-1] * shape - 0.5)
    return mask


def agreement_by_map(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The rating "the map marks what I would mark" (1 to 5) of true and of sham maps: `summarise` by map."""
    rated = table[table["agreement"].notna() & ~table["repeat"]]
    values = rated.assign(value=rated["agreement"], patient_id=rated["image"])
    return summarise(values[["map", "value", "patient_id"]], "map", seed=seed)


def _kappa(a: pd.Series, b: pd.Series) -> tuple[float, int]:
    if len(a) < 2 or len(set(a) | set(b)) < 2:
        return np.nan, len(a)
    return float(cohen_kappa_score(a.astype(int), b.astype(int), weights="quadratic")), len(a)
