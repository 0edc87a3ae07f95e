"""Do maps give an attack away? How far a map moves from that of a reference, under an attack and under noise of exactly
its size (a wish of Rodriguez Sampayo 2021; the form is ours)."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import median_filter

from xaiutils.attribution import explain_all, own_readings
from xaiutils.backend import keras
from xaiutils.classification.curves import PositiveRanks
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.answers import answers
from xaiutils.evaluation.evaluate import check_classes
from xaiutils.evaluation.map_similarity import SIMILARITIES
from xaiutils.registry import check_choice
from xaiutils.statistics.bootstrap import percentile_interval, replicates
from xaiutils.transforms import TRANSFORMS

REFERENCES = ("original", "smoothed")
ANSWER = "answer"  # the control, which needs no map


def attack_scores(
    model: keras.Model,
    ds: ImageDataset,
    methods: Iterable[str],
    attack: str = "pgd",
    reference: str = "original",
    similarity: str = "spearman",
    batch_size: int = 32,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    **strength: Any,
) -> pd.DataFrame:
    """How suspicious each image looks, attacked and with noise: 1 - similarity of its map and that of a reference, both
    for the class that the model names in the image as it is shown.

    Args:
        model, ds: the classifier and its images.
        methods, parameters: as `xaiutils.explain_all` takes them; maps are read as each declares.
        attack: "pgd" or "fgsm", of ``strength`` as the transform takes it, such as ``epsilon``. The noise is what the
            attack adds to the image, its places shuffled: of the same size by every norm.
        reference: "original", the image before either, asks whether maps tell both apart, and is what nobody has to
            whom an attacked image is shown; "smoothed", the image shown after a median of 3 x 3 pixels, is a detector.
        similarity: of maps, a name in `xaiutils.evaluation.map_similarity.SIMILARITIES`.
        seed: of the attack and of the shuffling.

    Returns:
        A row for each method, version and image: method, attacked (bool), image_id, patient (the image, where patients
        are not known), turned (the model names another class than for the original), score (NaN where a map is
        constant). Method "answer" is the control: by how much the probabilities differ (half the sum of absolute
        differences), without any map.
    """
    check_classes(model, ds)
    check_choice("attack", attack, ("pgd", "fgsm"))
    check_choice("reference", reference, REFERENCES)
    methods, before = list(methods), answers(model, ds.images, batch_size)
    given, classes = own_readings(methods, parameters), before.argmax(axis=1)
    how = {"model": model, "targets": classes, "batch_size": batch_size, "seed": seed}
    attacked = TRANSFORMS[attack].apply(ds.images, **how, **strength)
    added, rng = attacked - ds.images, np.random.default_rng(seed)
    noise = np.stack([rng.permutation(a.reshape(-1, a.shape[-1])).reshape(a.shape) for a in added])
    columns = {"image_id": ds.ids, "patient": ds.ids if ds.patients is None else ds.patients}
    tables = []
    for is_attack, shown in ((True, attacked), (False, np.clip(ds.images + noise, 0, 255))):
        told = answers(model, shown, batch_size)
        named = told.argmax(axis=1)
        known = ds.images if reference == "original" else median_filter(shown, (1, 3, 3, 1))
        moved = (
            np.abs(told - (before if reference == "original" else answers(model, known, batch_size))).sum(axis=1) / 2
        )
        maps, others = (explain_all(model, x, named, methods, batch_size, given) for x in (shown, known))
        scores = {ANSWER: moved} | {m: 1 - SIMILARITIES[similarity](maps[m], others[m]) for m in methods}
        for method, score in scores.items():
            row = {"method": method, "attacked": is_attack, **columns, "turned": named != classes, "score": score}
            tables.append(pd.DataFrame(row))
    return pd.concat(tables, ignore_index=True)


def detection(table: pd.DataFrame, n_resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """How well the scores of `attack_scores` tell attacks from noise.

    Returns method, auc (.5: not at all), low, high (a percentile bootstrap of patients, each with all versions of their
    images), n (images) and missing (images left out, since a map is constant).
    """
    rows = []
    for method, found in table.groupby("method", sort=False):
        lost = found.loc[found["score"].isna(), "image_id"].unique()
        kept = found[~found["image_id"].isin(lost)]
        if kept.empty:
            rows.append({"method": method, "auc": np.nan, "low": np.nan, "high": np.nan, "n": 0, "missing": len(lost)})
            continue
        attacked, score = kept["attacked"].to_numpy(bool), kept["score"].to_numpy(float)
        units = pd.factorize(kept["patient"])[0]
        drawn = [PositiveRanks.of(attacked, score, w).auc() for w in replicates(units, n_resamples, seed)]
        low, high = percentile_interval(np.concatenate(drawn), confidence)
        value = PositiveRanks.of(attacked, score, np.ones((len(score), 1), np.int32)).auc()[0]
        n = kept["image_id"].nunique()
        rows.append({"method": method, "auc": value, "low": low, "high": high, "n": n, "missing": len(lost)})
    return pd.DataFrame(rows)
