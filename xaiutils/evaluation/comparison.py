"""Is one method better than another, or do the images just differ? Paired tests, ranks, and agreement of metrics.

Tables are those of `xaiutils.evaluation.evaluate_all`: a value for each method, image and metric. All methods of a
comparison saw the same images, and only images for which every one of them has a value are compared. Demsar 2006
(Statistical comparisons of classifiers over multiple data sets, JMLR 7) describes the tests.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from xaiutils.classification.comparison import holm
from xaiutils.evaluation.metric import METRICS
from xaiutils.evaluation.statistics import UNIT, bootstrap_means
from xaiutils.registry import suggest


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of methods over images (1 is best), and whether they differ at all.

    ``ranks``: mean rank by method, best first; ``p``: of Friedman's test that all methods rank alike; ``critical``:
    Nemenyi's critical difference at ``alpha``, two methods whose mean ranks differ by less are not told apart; ``n``:
    units compared (patients where known, else images).
    """

    metric: str
    ranks: pd.Series
    statistic: float
    p: float
    critical: float
    alpha: float
    n: int

    @property
    def groups(self) -> list[list[str]]:
        """The largest sets of methods, neighbours in rank, that are not told apart."""
        names, values = list(self.ranks.index), self.ranks.to_numpy()
        ends = [int(np.searchsorted(values, start + self.critical, side="right")) for start in values]
        kept = [(i, end) for i, end in enumerate(ends) if end - i > 1 and (i == 0 or end > ends[i - 1])]
        return [names[i:end] for i, end in kept]


def rank(table: pd.DataFrame, metric: str, alpha: float = 0.05) -> Ranking:
    """Friedman's test over the methods of ``table``, with Nemenyi's critical difference.

    Raises ValueError where fewer than two methods, or than two units with a value for all methods, are left.
    """
    wide, _ = _paired(table, metric, by_unit=True)
    sign = -1 if METRICS[metric].higher_is_better else 1
    n, k = wide.shape
    each = stats.rankdata(sign * wide.to_numpy(), axis=1)
    ranks = pd.Series(each.mean(axis=0), index=wide.columns, name="mean rank").sort_values(kind="stable")
    if (each == each[:, :1]).all():
        statistic, p = 0.0, 1.0  # nothing differs on any image
    elif k == 2:  # Friedman's test wants three; of two it is the sign test
        better = int((each[:, 0] < each[:, 1]).sum())
        decided = int((each[:, 0] != each[:, 1]).sum())
        statistic, p = float(better), float(stats.binomtest(better, decided).pvalue)
    else:
        found = stats.friedmanchisquare(*each.T)
        statistic, p = float(found.statistic), float(found.pvalue)
    q = stats.studentized_range.ppf(1 - alpha, k, np.inf) / np.sqrt(2)
    return Ranking(metric, ranks, statistic, p, float(q * np.sqrt(k * (k + 1) / (6 * n))), alpha, n)


def compare(
    table: pd.DataFrame,
    metric: str,
    reference: str | None = None,
    alpha: float = 0.05,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every pair of methods, or ``reference`` with every other one, image by image.

    Returns a row a pair: a, b, difference (mean of a - b) with its bootstrap interval low, high (95 %, patients drawn
    where known), effect (rank-biserial correlation of the differences, 1: a larger on every unit), p (Wilcoxon's
    signed-rank test over units; ties by the normal approximation), p_holm (Holm's correction over the rows), n
    (units) and verdict: the better one's name where p_holm < ``alpha``, else "not told apart".
    """
    wide, units = _paired(table, metric, by_unit=False)
    if reference is not None and reference not in wide:
        raise ValueError(f"method {reference!r} is not in the table; {suggest(reference, list(wide))}")
    pairs = list(combinations(wide.columns, 2))
    if reference is not None:
        pairs = [(reference, other) for other in wide.columns if other != reference]
    sign = 1 if METRICS[metric].higher_is_better else -1
    rows = []
    for a, b in pairs:
        images = (wide[a] - wide[b]).to_numpy()
        low, high = np.quantile(bootstrap_means(images[:, None], units, n_resamples, seed), [0.025, 0.975])
        by_unit = pd.Series(images).groupby(units).mean().to_numpy()
        p, effect = _signed_rank(by_unit)
        rows.append((a, b, images.mean(), low, high, effect, p, len(by_unit)))
    found = pd.DataFrame(rows, columns=["a", "b", "difference", "low", "high", "effect", "p", "n"])
    found.insert(7, "p_holm", holm(found["p"].to_numpy()))
    ahead = np.where(sign * found["effect"] > 0, found["a"], found["b"])
    found["verdict"] = np.where(found["p_holm"] < alpha, ahead, "not told apart")
    return found


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau-b between the orders in which the metrics of ``table`` put its methods, by their means.

    1: two metrics rank the methods alike (each in its own direction), -1: the other way round. NaN where a metric
    holds all methods for equal, or fewer than three methods have values of both.
    """
    means = table.pivot_table(values="value", index="method", columns="metric", sort=False, observed=True)
    names = list(means.columns)
    oriented = means * [1 if METRICS[m].higher_is_better else -1 for m in names]
    tau = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    for a, b in combinations(names, 2):
        both = oriented[[a, b]].dropna()
        found = stats.kendalltau(both[a], both[b]).statistic if len(both) >= 3 else np.nan
        tau.loc[a, b] = tau.loc[b, a] = found
    return tau


def _signed_rank(differences: np.ndarray) -> tuple[float, float]:
    """p of Wilcoxon's test, and the rank-biserial correlation; no difference at all is p = 1."""
    moved = differences[differences != 0]
    if len(moved) == 0:
        return 1.0, 0.0
    ranks = stats.rankdata(np.abs(moved))
    effect = float((ranks * np.sign(moved)).sum() / ranks.sum())
    exact = len(moved) <= 50 and len(np.unique(np.abs(moved))) == len(moved)
    found = stats.wilcoxon(moved, method="exact" if exact else "asymptotic", correction=not exact)
    return float(found.pvalue), effect


def _paired(table: pd.DataFrame, metric: str, by_unit: bool) -> tuple[pd.DataFrame, np.ndarray]:
    """Values of a metric with a row an image (or unit) and a column a method, and each row's unit."""
    METRICS[metric]  # an unknown name raises with its neighbours
    rows = table[table["metric"] == metric]
    keys = [UNIT, "image_id"] if UNIT in table else ["image_id"]
    wide = rows.pivot_table(values="value", index=keys, columns="method", sort=False, observed=True, dropna=False)
    wide = wide.dropna(axis=1, how="all").dropna()
    if by_unit:
        wide = wide.groupby(level=0, sort=False).mean()
    if wide.shape[1] < 2 or len(wide) < 2:
        raise ValueError(
            f"{metric}: {wide.shape[1]} methods have values, on {len(wide)} images in common; "
            "a comparison needs two of each."
        )
    return wide, wide.index.get_level_values(0).to_numpy()
