"""The metrics themselves tested: does a metric prefer the evidence to maps that are known to be worse?

`graded_maps` makes maps of known quality, `measure` scores them, `card` says for each metric how well it tells them
apart. Such a card is known of every metric (`xaiutils.evaluation.metrics.separation`).
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.evaluate import evaluate
from xaiutils.evaluation.metrics import METRICS
from xaiutils.evaluation.studies.controls import control_maps
from xaiutils.graph.predict import predict
from xaiutils.progress import progress

EVIDENCE = "evidence"
NOISE = tuple(f"noise {size:g}" for size in (0.25, 0.5, 1, 2, 4))  # standard deviations, where the evidence is 1
KIN = ("coarsened", "shifted 8 px", "blurred")  # the evidence, but for its outline
IMPOSTORS = ("shifted 32 px", "another's", "random", "blurred random", "edges", "intensity")


def graded_maps(ds: ImageDataset, seed: int = 0) -> dict[str, np.ndarray]:
    """Maps of known quality, float32 ``(n, height, width)`` by name, of images with masks.

    `EVIDENCE` is the mask. `KIN`: its mean over a grid of 7 x 7, itself moved 8 pixels across (round the edge), and
    under a Gaussian of a 24th of the height. `NOISE`: with Gaussian noise added. `IMPOSTORS`: moved 32 pixels; the mask
    of the image whose mask has least in common with it; uniform noise, also under a Gaussian of a 12th of the height;
    Sobel's edges; brightness. ``seed``: of the noise. ValueError for an empty mask, a single image, or images of less
    than 48 pixels across, in which moved maps come back round the edge.
    """
    if ds.masks is None or not ds.masks.any(axis=(1, 2)).all():
        raise ValueError("maps of known quality need images that all have a mask that is not empty.")
    if len(ds) < 2 or ds.masks.shape[2] < 48:
        raise ValueError(f"{len(ds)} images, {ds.masks.shape[2]} pixels across; expected at least 2, of 48 or more.")
    evidence, height = ds.masks.astype(np.float32), ds.masks.shape[1]
    rng, controls = np.random.default_rng(seed), control_maps(ds, seed)
    flat = evidence.reshape(len(ds), -1)
    shared = flat @ flat.T + np.eye(len(ds)) * flat.shape[1]
    sigma = height / 24
    smooth = ndimage.gaussian_filter(rng.random(evidence.shape), (0, 2 * sigma, 2 * sigma))
    noise = rng.standard_normal(evidence.shape)
    return {
        EVIDENCE: evidence,
        "coarsened": controls["oracle"],
        "shifted 8 px": np.roll(evidence, 8, axis=2),
        "blurred": ndimage.gaussian_filter(evidence, (0, sigma, sigma)),
        **{name: (evidence + float(name.split()[1]) * noise).astype(np.float32) for name in NOISE},
        "shifted 32 px": np.roll(evidence, 32, axis=2),
        "another's": evidence[shared.argmin(axis=1)],
        "random": controls["random"],
        "blurred random": (smooth - smooth.min()).astype(np.float32),
        "edges": controls["edges"],
        "intensity": controls["intensity"],
    }


def measure(
    model: keras.Model,
    ds: ImageDataset,
    metrics: Iterable[str] | None = None,
    maps: Mapping[str, np.ndarray] | None = None,
    batch_size: int = 32,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """The scores of maps of known quality.

    Args:
        model: a classifier that is known to use the evidence (`xaiutils.evidence_use`): where it does not, metrics that
            run it are right not to prefer the evidence. Its labels are explained.
        ds: images with masks, best those that it answers rightly.
        metrics: None: all but those that explain changed images, which judge methods and no maps.
        maps: None: `graded_maps`; others hold `EVIDENCE` too.
        parameters: of metrics, by name. A metric's ``seed`` is ``seed``.

    Returns:
        A row for each metric, map and image: metric, map, image_id, value, passes (CPU seconds over those of one
        prediction of the image).
    """
    names = [n for n, m in METRICS.items() if m.needs != "method"] if metrics is None else list(metrics)
    maps = graded_maps(ds, seed) if maps is None else maps
    if EVIDENCE not in maps or not names:
        raise ValueError(f"metrics={names}, maps of {list(maps)}; expected a metric, and {EVIDENCE!r} among the maps.")
    predict(model, ds.images, batch_size)
    start = time.process_time()
    predict(model, ds.images, batch_size)
    one, tables = time.process_time() - start, []
    for metric in progress(names, title="metrics"):
        seeded = {"seed": seed} if any(p.name == "seed" for p in METRICS[metric].parameters) else {}
        given = {metric: {**seeded, **(parameters or {}).get(metric, {})}}
        for name, values in maps.items():
            start = time.process_time()
            found = evaluate(model, ds, values, [metric], ds.labels, batch_size, given, reading="signed")
            passes = (time.process_time() - start) / one
            tables.append(found[["image_id", "value"]].assign(metric=metric, map=name, passes=passes))
    return pd.concat(tables, ignore_index=True)[["metric", "map", "image_id", "value", "passes"]]


def card(table: pd.DataFrame) -> pd.DataFrame:
    """What `measure` found, a row for each metric.

    Args:
        table: of `measure`; with a column seed where it was repeated.

    Returns:
        metric; a column for each map but the evidence, the AUC with which the metric tells the evidence from it on the
        same image (the part of images on which the evidence scores better, ties half: 1 always, 0.5 no difference, 0
        never; images without a value left out); worst (the least of the impostors') and impostor (which, "" for none);
        monotony (the mean over images of Spearman's correlation of the value with how little noise was added, 1 for a
        metric that follows all steps); spread (standard deviation of worst over seeds, NaN for one); passes (median
        over maps).
    """
    rows = []
    for metric, of_metric in table.groupby("metric", sort=False):
        sign = 1 if METRICS[metric].higher_is_better else -1
        by_seed = [
            _aucs(part, sign) for _, part in (of_metric.groupby("seed") if "seed" in of_metric else [(0, of_metric)])
        ]
        aucs = pd.DataFrame(by_seed).mean()
        of_impostors = aucs.reindex(IMPOSTORS)
        worsts = [one.reindex(IMPOSTORS).min() for one in by_seed]
        steps = of_metric[of_metric["map"].isin(NOISE)].pivot_table(
            values="value", index="image_id", columns="map", dropna=False
        )
        steps = (sign * steps.reindex(columns=list(NOISE)).dropna()).to_numpy()
        fewer = -np.arange(len(NOISE))  # ever more noise
        follows = [stats.spearmanr(fewer, row).statistic if np.ptp(row) > 0 else 0.0 for row in steps]
        rows.append(
            {
                "metric": metric,
                **aucs,
                "worst": of_impostors.min(),
                "impostor": of_impostors.idxmin() if of_impostors.notna().any() else "",
                "monotony": float(np.mean(follows)) if follows else np.nan,
                "spread": float(np.std(worsts, ddof=1)) if len(worsts) > 1 else np.nan,
                "passes": float(of_metric.groupby("map")["passes"].first().median()),
            }
        )
    return pd.DataFrame(rows)


def _aucs(table: pd.DataFrame, sign: int) -> pd.Series:
    """For each map but the evidence the part of images on which the evidence scores better, ties half."""
    wide = sign * table.pivot_table(values="value", index="image_id", columns="map", dropna=False, sort=False)
    found = {}
    for name in wide.columns.drop(EVIDENCE):
        a, b = wide[[EVIDENCE, name]].dropna().to_numpy().T
        ties = np.isclose(a, b, rtol=1e-9, atol=1e-12)
        found[name] = float(np.mean(np.where(ties, 0.5, a > b))) if len(a) else np.nan
    return pd.Series(found)
