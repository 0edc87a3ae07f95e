"""Where readers look, beside where maps point: tables of fixations, their density, and the scores of saliency research.

A table of fixations has a row for each: ``image_id`` and ``reader`` (texts), ``x`` and ``y`` (pixels from the left and
the upper edge of the image), ``start_ms`` and ``duration_ms``. Scores take a map float ``(height, width)``, larger
where it points, and fixations in its pixels; they are NaN where they have no meaning.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from xaiutils.evaluation.thresholds import top_pixels
from xaiutils.registry import check_choice

COLUMNS = ("image_id", "reader", "x", "y", "start_ms", "duration_ms")
LAYOUTS = {
    "plain": COLUMNS,
    "reflacx": ("timestamp_start_fixation", "timestamp_end_fixation", "x_position", "y_position"),
    "egd_cxr": ("DICOM_ID", "X_ORIGINAL", "Y_ORIGINAL", "FPOGS", "FPOGD"),
}
_EPSILON = 2.220446049250313e-16  # as in the code of the MIT benchmark


def read_fixations(path: str | Path, layout: str = "", image_id: str = "", reader: str = "") -> pd.DataFrame:
    """A CSV file of fixations as a table of `COLUMNS`; raises ValueError that names what is wrong. Ids stay as they are
    written ("0007", "NA").

    Args:
        layout: one of `LAYOUTS`, whose columns the file must have; empty: the first that fits. "plain" is `COLUMNS`;
            "reflacx" is ``fixations.csv`` in a folder of REFLACX (seconds; one reading a file: give ``image_id`` and
            ``reader``, else they are the folder's name); "egd_cxr" is that of EGD-CXR (seconds; one reader).
        image_id, reader: of all rows, where the file does not say.
    """
    path = Path(path)
    raw = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    fits = [name for name, columns in LAYOUTS.items() if set(columns) <= set(raw.columns)]
    if layout:
        check_choice("layout", layout, tuple(LAYOUTS))
    layout = layout or (fits[0] if fits else "")
    if layout not in fits:
        needed = {layout: LAYOUTS[layout]} if layout else LAYOUTS
        raise ValueError(f"{path.name} has the columns {', '.join(raw.columns)}; expected those of {needed}.")
    numbers = [name for name in LAYOUTS[layout] if name not in ("image_id", "reader", "DICOM_ID")]
    raw[numbers] = raw[numbers].apply(pd.to_numeric, errors="coerce")  # what is no number is refused with its row
    if layout == "plain":
        table = raw[list(COLUMNS)]
    elif layout == "reflacx":
        start, end, x, y = (raw[name] for name in LAYOUTS[layout])
        table = pd.DataFrame({"x": x, "y": y, "start_ms": 1000 * start, "duration_ms": 1000 * (end - start)})
        table["image_id"], table["reader"] = image_id or path.parent.name, reader or path.parent.name
    else:
        image, x, y, start, duration = (raw[name] for name in LAYOUTS[layout])
        table = pd.DataFrame({"image_id": image, "x": x, "y": y, "start_ms": 1000 * start})
        table["reader"], table["duration_ms"] = reader or "reader", 1000 * duration
    return check_fixations(table[list(COLUMNS)])


def check_fixations(table: pd.DataFrame) -> pd.DataFrame:
    """The table, if it has `COLUMNS`, ids and numbers everywhere and durations above 0; else ValueError."""
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ValueError(f"the table of fixations lacks the columns {', '.join(missing)}; it has {', '.join(table)}.")
    numbers = table[list(COLUMNS[2:])].apply(pd.to_numeric, errors="coerce")
    wrong = ~np.isfinite(numbers.astype(float)).all(axis=1) | (numbers["duration_ms"] <= 0)
    if wrong.any():
        raise ValueError(
            f"{wrong.sum()} fixations have no finite x, y, start_ms and duration_ms > 0, the first in row "
            f"{table.index[wrong][0]}: {dict(table[wrong].iloc[0])}."
        )
    nameless = (table[list(COLUMNS[:2])].astype(str) == "").any(axis=1)
    if nameless.any():
        raise ValueError(
            f"{nameless.sum()} fixations have no image_id or no reader, the first in row {table.index[nameless][0]}."
        )
    return table


def to_map(fixations: pd.DataFrame, image_size: tuple[int, int], map_size: tuple[int, int]) -> pd.DataFrame:
    """Fixations in the pixels of an image of ``image_size`` (height, width), in those of a map of it. Those outside
    the image, where a reader looks at the screen's rim, are left out, and a warning says how many."""
    (height, width), (rows, columns) = image_size, map_size
    x, y = fixations["x"] * columns / width, fixations["y"] * rows / height
    inside = (x >= 0) & (y >= 0) & (x < columns) & (y < rows)
    if not inside.all():
        warnings.warn(f"{(~inside).sum()} of {len(inside)} fixations lie outside the image: left out", stacklevel=2)
    return fixations.assign(x=x, y=y)[inside]


def density(fixations: pd.DataFrame, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """How long each pixel of ``shape`` was looked at: durations at the fixated pixels, blurred; float64, sum 1.

    ``sigma``, in pixels of the map, is one degree of visual angle in the custom of the field (Le Meur & Baccino 2013):
    the viewing distance and the screen say how many pixels that is, REFLACX in its angular_resolution columns. All
    zeros without fixations.
    """
    if not sigma > 0:
        raise ValueError(f"sigma={sigma}; expected the pixels of a degree of visual angle, above 0.")
    counts = _counts(fixations, shape, fixations["duration_ms"].to_numpy(float))
    blurred = ndimage.gaussian_filter(counts, sigma, mode="constant")
    return blurred / blurred.sum() if blurred.sum() > 0 else blurred


def nss(attribution: np.ndarray, fixations: pd.DataFrame) -> float:
    """Normalised scanpath saliency: the mean over fixations of the map in standard deviations (of all its pixels)
    above its mean. 0 is chance (Peters et al. 2005)."""
    spread = attribution.std()
    if not len(fixations) or spread == 0:
        return np.nan
    return float(((_at(attribution, fixations) - attribution.mean()) / spread).mean())


def auc_judd(attribution: np.ndarray, fixations: pd.DataFrame) -> float:
    """Area under the curve of fixated pixels found against other pixels taken, with the map's values at the fixated
    pixels as thresholds (Judd et al. 2009). Each pixel counts once; ties are not broken at random. 0.5 is chance, but
    a bright centre scores above it (see `shuffled_auc`), and so do few fixations, between whose thresholds the curve
    is straight: a single one scores 0.5 at the least."""
    fixated = _counts(fixations, attribution.shape, np.ones(len(fixations))) > 0
    if not fixated.any() or fixated.all():
        return np.nan
    thresholds = np.unique(attribution[fixated])[::-1]
    found = [(attribution[fixated] >= t).mean() for t in thresholds]
    taken = [(attribution[~fixated] >= t).mean() for t in thresholds]
    return float(np.trapezoid([0, *found, 1], [0, *taken, 1]))


def shuffled_auc(attribution: np.ndarray, fixations: pd.DataFrame, others: pd.DataFrame) -> float:
    """AUC of the map at the fixations of this image against the map at those of ``others``, other images' (Zhang et
    al. 2008): readers' liking of the centre is in both, and so 0.5 is chance for a map of the centre too. All others
    are used, none drawn at random."""
    if not len(fixations) or not len(others):
        return np.nan
    here, there = _at(attribution, fixations), _at(attribution, others)
    return float(stats.mannwhitneyu(here, there).statistic / (len(here) * len(there)))


def correlation(attribution: np.ndarray, looked: np.ndarray) -> float:
    """CC: Pearson's correlation of the map and a density."""
    if np.ptp(attribution) == 0 or np.ptp(looked) == 0:
        return np.nan
    return float(np.corrcoef(attribution.ravel(), looked.ravel())[0, 1])


def similarity(attribution: np.ndarray, looked: np.ndarray) -> float:
    """SIM: the mass that the map and a density have in common, each with sum 1 (the map's negative values as 0)."""
    p, q = _as_density(attribution), _as_density(looked)
    return float(np.minimum(p, q).sum()) if p.any() and q.any() else np.nan


def divergence(attribution: np.ndarray, looked: np.ndarray) -> float:
    """KL: sum of q log(e + q / (p + e)) of the density q and the map p, e = 2.2e-16: the formula of the MIT benchmark
    (Bylinskii et al. 2019), how badly the map foretells the gaze; 0 is best. A pixel that was looked at and has 0 in
    the map costs up to 36 q, so maps with zeros are far above blurred ones."""
    p, q = _as_density(attribution), _as_density(looked)
    return float((q * np.log(_EPSILON + q / (p + _EPSILON))).sum()) if p.any() and q.any() else np.nan


def top_iou(attribution: np.ndarray, looked: np.ndarray, area: float = 0.1) -> float:
    """IoU of the top ``area`` of the map and of a density, ties by position; ``area / (2 - area)`` is chance."""
    if not 0 < area < 1 or np.ptp(attribution) == 0 or np.ptp(looked) == 0:
        return np.nan
    a, b = (top_pixels(m, max(1, round(area * m.size))) for m in (attribution, looked))
    return float((a & b).sum() / (a | b).sum())


# By name: scores of a map and a density, of which higher is better for all but "kl".
OF_DENSITY: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "cc": correlation,
    "sim": similarity,
    "kl": divergence,
    "iou": top_iou,
}


def gaze_scores(
    maps: Mapping[str, np.ndarray], ids: Sequence[str], fixations: pd.DataFrame, sigma: float
) -> pd.DataFrame:
    """Each score of each map: a row for method, image_id and metric (nss, auc_judd, shuffled_auc, cc, sim, kl, iou).

    Args:
        maps: by name, float ``(n, height, width)``, read as they are to be scored (`xaiutils.map_reading`).
        ids: of the ``n`` images, as in the table.
        fixations: in pixels of the maps (`to_map`), of all readers.
        sigma: of `density`, in pixels.

    Raises ValueError where maps and ids are not equally many, or no fixation is of any of the images.
    """
    shapes = {name: np.shape(values) for name, values in maps.items()}
    if len({*shapes.values()}) != 1 or {len(values) for values in maps.values()} != {len(ids)}:
        raise ValueError(f"maps have the shapes {shapes}; expected one shape, ({len(ids)}, height, width) as ids.")
    known = check_fixations(fixations)["image_id"]
    if not known.isin(ids).any():
        raise ValueError(f"no fixation is of these images ({list(ids)[:3]}); the table has {list(known.unique()[:3])}.")
    shape = next(iter(shapes.values()))[1:]
    return _scores(maps, ids, to_map(fixations, shape, shape), sigma)


def _scores(maps: Mapping[str, np.ndarray], ids: Sequence[str], inside: pd.DataFrame, sigma: float) -> pd.DataFrame:
    """Rows of `gaze_scores`; NaN for images that nobody looked at."""
    shape, rows = next(iter(maps.values())).shape[1:], []
    for i, image in enumerate(ids):
        own = inside[inside["image_id"] == image]
        others, looked = inside[inside["image_id"] != image], density(own, shape, sigma)
        for method, values in maps.items():
            m = np.asarray(values[i], np.float64)
            found = {"nss": nss(m, own), "auc_judd": auc_judd(m, own), "shuffled_auc": shuffled_auc(m, own, others)}
            found |= {name: score(m, looked) for name, score in OF_DENSITY.items()}
            rows += [(method, image, name, value) for name, value in found.items()]
    return pd.DataFrame(rows, columns=["method", "image_id", "metric", "value"])


def split_half(
    fixations: pd.DataFrame, shape: tuple[int, int], sigma: float, n_splits: int = 10, seed: int = 0
) -> pd.DataFrame:
    """The ceiling: what one half of the readers' density scores against the other half's gaze, as `gaze_scores` has
    it (method "other readers"), means of ``n_splits`` random halves. Of half the readers, so a map may pass it.

    Raises ValueError for fewer than two readers.
    """
    readers = np.unique(fixations["reader"])
    if len(readers) < 2:
        raise ValueError(f"one half of the readers against the other needs two; the table has {list(readers)}.")
    rng, tables = np.random.default_rng(seed), []
    inside = to_map(check_fixations(fixations), shape, shape)
    ids = list(dict.fromkeys(fixations["image_id"]))
    for _ in range(n_splits):
        half = set(rng.permutation(readers)[: len(readers) // 2])
        first, rest = inside[inside["reader"].isin(half)], inside[~inside["reader"].isin(half)]
        maps = np.stack([density(first[first["image_id"] == image], shape, sigma) for image in ids])
        tables.append(_scores({"other readers": maps}, ids, rest, sigma))
    by = ["method", "image_id", "metric"]
    return pd.concat(tables).groupby(by, sort=False)["value"].mean().reset_index()


def simulate_fixations(
    masks: np.ndarray,
    ids: Sequence[str],
    n_readers: int = 6,
    n_fixations: int = 12,
    to_evidence: float = 0.5,
    seed: int = 0,
) -> pd.DataFrame:
    """Fixations of readers who look at the evidence with the probability ``to_evidence`` and else near the centre
    (Gaussian, a quarter of the height), with an error of a fiftieth of the height and durations of 0.1 to 0.6 s.

    ``masks`` is bool ``(n, height, width)``; where one is empty all looks are near the centre. A stand-in for an eye
    tracker, whose rule is known: not a model of human gaze.
    """
    rng, (n, height, width) = np.random.default_rng(seed), masks.shape
    tables = []
    for i in range(n):
        places = np.argwhere(masks[i])
        for reader in range(n_readers):
            at = rng.normal((height / 2, width / 2), height / 4, (n_fixations, 2))
            if len(places):
                hits = rng.random(n_fixations) < to_evidence
                at[hits] = places[rng.integers(len(places), size=hits.sum())] + 0.5
            at = np.clip(at + rng.normal(0, height / 50, at.shape), 0, (height - 0.01, width - 0.01))
            duration = rng.uniform(100, 600, n_fixations)
            facts = {"image_id": ids[i], "reader": f"R{reader + 1}", "x": at[:, 1], "y": at[:, 0]}
            tables.append(pd.DataFrame(facts | {"start_ms": np.cumsum(duration) - duration, "duration_ms": duration}))
    return pd.concat(tables, ignore_index=True)


def _pixels(fixations: pd.DataFrame, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    y, x = (np.floor(fixations[name].to_numpy(float)).astype(int) for name in ("y", "x"))
    outside = (y < 0) | (x < 0) | (y >= shape[0]) | (x >= shape[1])
    if outside.any():
        raise ValueError(f"{outside.sum()} fixations lie outside the map of {shape} pixels; to_map leaves them out.")
    return y, x


def _at(attribution: np.ndarray, fixations: pd.DataFrame) -> np.ndarray:
    return attribution[_pixels(fixations, attribution.shape)]


def _counts(fixations: pd.DataFrame, shape: tuple[int, ...], weights: np.ndarray) -> np.ndarray:
    counts = np.zeros(shape)
    np.add.at(counts, _pixels(fixations, shape), weights)
    return counts


def _as_density(values: np.ndarray) -> np.ndarray:
    values = np.maximum(np.asarray(values, np.float64), 0)
    return values / values.sum() if values.sum() > 0 else values
