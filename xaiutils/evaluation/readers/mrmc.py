"""Several readers, several cases: whether arms differ for readers and cases beyond those of the study.

Obuchowski & Rockette 1995 (Communications in Statistics 24) with covariances by the jackknife and Hillis' degrees of
freedom (2007, Statistics in Medicine 26): with these it is the test of Dorfman, Berbaum & Metz 1992 (Hillis et al.
2005). Every reader has read every case in every arm. No well-kept package in Python has it.

Of 400 simulated studies (5 readers, 40 images, 4 arms of one AUC, .80) F was significant at .05 in 4.5 % and an arm's
interval held its AUC in 94 %; of 150 with arms at .76 and .92, in 92 to 95 %, and that of their difference in 94 %.
Near an AUC of 1 an arm's interval is too short: it knows nothing of that end.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from xaiutils.evaluation.readers.design import arms_of
from xaiutils.registry import check_choice
from xaiutils.statistics.multiple_comparisons import holm


@dataclass(frozen=True)
class Readers:
    """What `mrmc` finds.

    ``merits`` ``(arms, readers)``; ``arms``: arm, mean over the readers with interval; ``pairs``: a, b, difference (b -
    a), low, high, p, p_holm (over the pairs). ``f``, ``df``, ``p``: of all arms alike. ``parts``: mean square of arm by
    reader and the variance and three covariances that the cases make (variance, same reader, same arm, neither).
    """

    merits: pd.DataFrame
    arms: pd.DataFrame
    pairs: pd.DataFrame
    f: float
    df: float
    p: float
    parts: dict[str, float]
    n_images: int

    def power(self, difference: float, n_readers: int, n_images: int, alpha: float = 0.05) -> float:
        """The probability that a study like this one finds a ``difference`` of two arms, for another number of readers
        and of images in the same mix (Hillis, Obuchowski & Berbaum 2011, Academic Radiology 18)."""
        v, scale = self.parts, self.n_images / n_images
        across = max(v["same_arm"] - v["neither"], 0.0)
        by_reader = max(v["arm_by_reader"] - v["variance"] + v["same_reader"] + v["same_arm"] - v["neither"], 0.0)
        within = by_reader + scale * (v["variance"] - v["same_reader"] - across)
        error = within + scale * n_readers * across
        df = error**2 / (within**2 / (n_readers - 1))
        critical = stats.f.isf(alpha, 1, df)
        # Not ncf.sf, which is wrong where there is no difference.
        return float(1 - stats.ncf.cdf(critical, 1, df, n_readers * difference**2 / 2 / error))


def mrmc(table: pd.DataFrame, merit: str = "auc", confidence: float = 0.95) -> Readers:
    """Compare arms by ``merit``: "auc" of ``score`` for ``positive``, or "accuracy", the mean of ``correct``.

    ``table`` has a row for each reading, with arm, reader, image and these columns, as of
    `xaiutils.evaluation.readers.reading.judged`; repeats are left out. Raises ValueError unless two or more readers
    read all images in two or more arms.
    """
    check_choice("merit", merit, ("auc", "accuracy"))
    table = table[~table["repeat"]] if "repeat" in table else table
    column = "score" if merit == "auc" else "correct"
    wide = table.pivot(index="image", columns=["arm", "reader"], values=column).astype(float)
    arms, readers = arms_of(table), sorted(set(table["reader"]))
    if len(arms) < 2 or len(readers) < 2 or len(wide) < 4:
        raise ValueError(f"{len(arms)} arms, {len(readers)} readers, {len(wide)} images; expected 2, 2 and 4 or more.")
    wide = wide.reindex(columns=pd.MultiIndex.from_product([arms, readers]))
    if wide.isna().any().any():
        raise ValueError(
            f"{int(wide.isna().sum().sum())} readings are missing: every reader must read every image in every arm."
        )
    values = wide.to_numpy().T
    if merit == "auc":
        positive = table.groupby("image")["positive"].first().loc[wide.index].to_numpy(bool)
        full, without = _auc_without_each(values, positive)
    else:
        full = values.mean(axis=1)
        without = (values.sum(axis=1, keepdims=True) - values) / (values.shape[1] - 1)
    return compare(pd.DataFrame(full.reshape(len(arms), -1), arms, readers), without, confidence)


def compare(merits: pd.DataFrame, without: np.ndarray, confidence: float = 0.95) -> Readers:
    """`mrmc` of any merit: ``merits`` ``(arms, readers)`` of all cases, and ``without`` ``(arms * readers, n)``, the
    same without each case, arms first."""
    theta, n = merits.to_numpy(float), without.shape[1]
    t, r = theta.shape
    deviation = without - without.mean(axis=1, keepdims=True)
    covariance = ((n - 1) / n * deviation @ deviation.T).reshape(t, r, t, r)
    same_arm, same_reader = np.eye(t, dtype=bool)[:, None, :, None], np.eye(r, dtype=bool)[None, :, None, :]
    cells = {
        "variance": same_arm & same_reader,
        "same_reader": ~same_arm & same_reader,
        "same_arm": same_arm & ~same_reader,
        "neither": ~same_arm & ~same_reader,
    }
    parts = {name: float(covariance[np.broadcast_to(which, covariance.shape)].mean()) for name, which in cells.items()}
    means = theta.mean(axis=1)
    rest = theta - means[:, None] - theta.mean(axis=0) + theta.mean()
    parts["arm_by_reader"] = float((rest**2).sum() / ((t - 1) * (r - 1)))
    error = parts["arm_by_reader"] + r * max(parts["same_arm"] - parts["neither"], 0.0)
    df = error**2 / (parts["arm_by_reader"] ** 2 / ((t - 1) * (r - 1))) if parts["arm_by_reader"] else np.inf
    f = float(r * ((means - means.mean()) ** 2).sum() / (t - 1) / error) if error else np.nan
    half = stats.t.isf((1 - confidence) / 2, df) * np.sqrt(2 * error / r)
    pairs = [(merits.index[a], merits.index[b], means[b] - means[a]) for a, b in combinations(range(t), 2)]
    table = pd.DataFrame(pairs, columns=["a", "b", "difference"])
    table["low"], table["high"] = table["difference"] - half, table["difference"] + half
    table["p"] = 2 * stats.t.sf(np.abs(table["difference"]) / np.sqrt(2 * error / r), df)
    table["p_holm"] = holm(table["p"].to_numpy())
    rows = [(arm, *_one_arm(theta[i], covariance[i, :, i, :], confidence)) for i, arm in enumerate(merits.index)]
    by_arm = pd.DataFrame(rows, columns=["arm", "mean", "low", "high"])
    return Readers(merits, by_arm, table, f, float(df), float(stats.f.sf(f, t - 1, df)), parts, n)


def _one_arm(theta: np.ndarray, covariance: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """Mean and interval of one arm from its own readings (Hillis 2014, Statistics in Medicine 33)."""
    r = len(theta)
    spread = theta.var(ddof=1)
    error = spread + r * max(float(covariance[~np.eye(r, dtype=bool)].mean()), 0.0)
    df = error**2 / (spread**2 / (r - 1)) if spread else np.inf
    half = stats.t.isf((1 - confidence) / 2, df) * np.sqrt(error / r)
    return float(theta.mean()), float(theta.mean() - half), float(theta.mean() + half)


def _auc_without_each(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUCs ``(k,)`` of scores ``(k, n)``, and those without each image, ``(k, n)``."""
    m, n = int(positive.sum()), int((~positive).sum())
    if m < 2 or n < 2:
        raise ValueError(f"{m} positive images and {n} others; an AUC without any of them needs two of each.")
    above = (scores[:, positive, None] > scores[:, None, ~positive]) + 0.5 * (
        scores[:, positive, None] == scores[:, None, ~positive]
    )
    total, without = above.sum(axis=(1, 2)), np.empty(scores.shape)
    without[:, positive] = (total[:, None] - above.sum(axis=2)) / ((m - 1) * n)
    without[:, ~positive] = (total[:, None] - above.sum(axis=1)) / (m * (n - 1))
    return total / (m * n), without
