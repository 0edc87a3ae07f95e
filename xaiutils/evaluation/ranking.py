"""Is one method better than another, or do the images just differ? Paired tests, ranks, and agreement of metrics.

Tables are those of `xaiutils.evaluation.evaluate_all`: a value for each method, image and metric, by one reading of
each method's maps (`of_reading` picks it from a table of several). All methods of a comparison saw the same images, and
only images for which every one of them has a value are compared. Demsar 2006 (Statistical comparisons of classifiers
over multiple data sets, JMLR 7) describes the tests.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from xaiutils.evaluation.metrics import METRICS
from xaiutils.evaluation.score_tables import CHANCE, UNDECIDED, by_image, of_kind
from xaiutils.registry import suggest
from xaiutils.statistics.multiple_comparisons import holm, nemenyi_critical_difference
from xaiutils.statistics.paired_tests import friedman, hits_against_chance, paired_test
from xaiutils.statistics.summaries import UNIT, check_one_reading, summarise

HITS = ("pointing_game", "hit_rate")  # of a point: its chance is the probability of a hit


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of methods over images (1 is best), and whether they differ at all.

    ``ranks``: mean rank by method, best first; ``p``: of Friedman's test that all methods rank alike; ``critical``:
    Nemenyi's critical difference at ``alpha``, by which the mean ranks of two methods must differ; ``n``: units
    compared (patients where known, else images).
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
        """The largest sets of methods, neighbours in rank, that the test does not distinguish."""
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
    statistic, p = friedman(each)
    return Ranking(metric, ranks, statistic, p, nemenyi_critical_difference(k, n, alpha), alpha, n)


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
    (units) and verdict: the better one's name where p_holm < ``alpha``, else "undecided".
    """
    wide, units = _paired(table, metric, by_unit=False)
    if reference is not None and reference not in wide:
        raise ValueError(f"method {reference!r} is not in the table; {suggest(reference, list(wide))}")
    pairs = list(combinations(wide.columns, 2))
    if reference is not None:
        pairs = [(reference, other) for other in wide.columns if other != reference]
    sign = 1 if METRICS[metric].higher_is_better else -1
    found = paired_tests([(a, b, wide[a] - wide[b]) for a, b in pairs], units, n_resamples, seed)
    ahead = np.where(sign * found["effect"] > 0, found["a"], found["b"])
    found["verdict"] = np.where(found["p_holm"] < alpha, ahead, UNDECIDED)
    return found


def paired_tests(
    pairs: Iterable[tuple[str, str, pd.Series]], units: np.ndarray, n_resamples: int, seed: int
) -> pd.DataFrame:
    """A row, as of `compare` but without verdict, for each (a, b, their differences on the images ``(n,)``) with two
    differences at least; ``units`` ``(n,)`` are the images'."""
    rows = []
    for a, b, differences in pairs:
        known = np.isfinite(differences.to_numpy())
        if known.sum() >= 2:
            rows.append((a, b, *paired_test(differences.to_numpy()[known], units[known], n_resamples, seed)))
    found = pd.DataFrame(rows, columns=["a", "b", "difference", "low", "high", "effect", "p", "n"])
    found.insert(7, "p_holm", holm(found["p"].to_numpy(float)))
    return found


def decide(found: pd.DataFrame, metric: str, above: pd.Series, below: pd.Series, alpha: float) -> np.ndarray:
    """For each row of ``found`` "better" or "worse" where its p_holm is below ``alpha`` and its value is surely
    ``above``, or ``below``, what it is compared with; else "undecided"."""
    names = ["better", "worse"] if METRICS[metric].higher_is_better else ["worse", "better"]
    return np.where(found["p_holm"] < alpha, np.select([above, below], names, UNDECIDED), UNDECIDED)


def against_chance(table: pd.DataFrame, metric: str, alpha: float = 0.05, seed: int = 0) -> pd.DataFrame:
    """Each method against what an uninformed map is expected to score on the same images: the rows of
    `xaiutils.evaluation.chance`, in ``table`` under the method "chance".

    Hits (`HITS`) are tested exactly: their number, under chance, is a sum of independent draws with a probability of
    each image's own. The fraction of tied maxima that hits counts to the disadvantage of any claim. Where patients have
    several images, patients with a hit are counted, with a chance that holds however their images depend on each
    other. Other metrics are tested as in `compare`.

    Returns a row a method: method, mean with its interval low, high (as `summarise` has it), level (mean chance on
    these images), p, p_holm (Holm's correction over the rows), n (images with a value of both) and verdict: "better"
    or "worse" where p_holm < ``alpha`` and the interval lies on that side of the level, else "undecided". Raises
    ValueError where the table has no chance of this metric.
    """
    wide, units = by_image(table, metric)
    if CHANCE not in wide:
        raise ValueError(f"{metric}: the table has no rows of the method 'chance'; see xaiutils.evaluation.chance.")
    rows = []
    for method in wide.columns.drop(CHANCE):
        known = wide[[method, CHANCE]].notna().all(axis=1).to_numpy()
        pair, whose = wide[known], units[known]
        values, level = pair[method].to_numpy(), pair[CHANCE].to_numpy()
        if len(values) < 2:
            continue
        exact = metric in HITS
        p = hits_against_chance(values, level, whose) if exact else paired_test(values - level, whose, 0, seed).p
        mean = summarise(pd.DataFrame({"all": "", "value": values, UNIT: whose}), "all", seed=seed).iloc[0]
        rows.append((method, mean["mean"], mean["low"], mean["high"], level.mean(), p, len(values)))
    found = pd.DataFrame(rows, columns=["method", "mean", "low", "high", "level", "p", "n"])
    found.insert(6, "p_holm", holm(found["p"].to_numpy()))
    above, below = found["low"] > found["level"], found["high"] < found["level"]
    return found.assign(verdict=decide(found, metric, above, below, alpha))


def mean_ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Mean rank over images (1 is best) of each method (rows) by each metric (columns) of ``table``; NaN where a
    metric has no value of the method. A metric that cannot be compared (see `rank`) is left out. Raises ValueError
    where maps are there by several readings."""
    check_one_reading(table)
    columns = {}
    for metric in dict.fromkeys(table["metric"]):
        try:
            columns[metric] = rank(table, metric).ranks
        except ValueError:
            continue
    methods = [m for m in dict.fromkeys(table["method"]) if any(m in ranks for ranks in columns.values())]
    return pd.DataFrame(columns, index=pd.Index(methods, name="method"))


def two_orders(table: pd.DataFrame) -> pd.DataFrame:
    """Each method's mean rank by the metrics against masks ("masks": who finds the evidence) and by those that run the
    model ("model": who names what it uses), 1 is best; NaN for a kind without values."""
    kinds = {kind: of_kind(table, kind) for kind in ("masks", "model")}
    return pd.DataFrame({kind: mean_ranks(rows).mean(axis=1) for kind, rows in kinds.items()}, dtype=float)


def disagreements(table: pd.DataFrame, metric: str, a: str, b: str, n: int = 6) -> pd.DataFrame:
    """The ``n`` images on which two methods differ most by a metric: what to look at.

    Returns a row an image, the largest difference first: image_id, a and b (the methods' values), difference (a - b).
    """
    wide, _ = by_image(table, metric)
    for name in (a, b):
        if name not in wide:
            raise ValueError(f"method {name!r} is not in the table; {suggest(name, list(wide))}")
    pair = wide[[a, b]].dropna()
    found = pd.DataFrame(
        {"image_id": pair.index.get_level_values("image_id"), "a": pair[a].to_numpy(), "b": pair[b].to_numpy()}
    )
    found["difference"] = found["a"] - found["b"]
    return found.loc[found["difference"].abs().nlargest(n).index].reset_index(drop=True)


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau-b between the orders in which the metrics of ``table`` put its methods, by their means.

    1: two metrics rank the methods alike (each in its own direction), -1: the other way round. NaN where all methods
    are equal by a metric, or fewer than three methods have values of both.
    """
    tau = _oriented_means(table).corr("kendall", min_periods=3)
    return tau.rename_axis(index=None, columns=None)


def concordance(table: pd.DataFrame) -> float:
    """Kendall's W of the metrics of ``table`` as judges of its methods, by their means: 1 where all metrics have one
    order, 0 where they have nothing in common. Ties are corrected for.

    NaN with fewer than two metrics, or three methods that have a value of each. Kendall & Babington Smith 1939,
    Annals of Mathematical Statistics 10.
    """
    oriented = _oriented_means(table).dropna()
    k, m = oriented.shape
    if m < 2 or k < 3:
        return np.nan
    with np.errstate(invalid="ignore"):  # metrics for which all methods are equal
        statistic = stats.friedmanchisquare(*oriented.to_numpy()).statistic
    return float(statistic / (m * (k - 1)))


def _oriented_means(table: pd.DataFrame) -> pd.DataFrame:
    """Mean of each method (rows) by each metric (columns), turned so that more is better."""
    check_one_reading(table)
    means = table.pivot_table(values="value", index="method", columns="metric", sort=False, observed=True)
    return means * [1 if METRICS[m].higher_is_better else -1 for m in means.columns]


def _paired(table: pd.DataFrame, metric: str, by_unit: bool) -> tuple[pd.DataFrame, np.ndarray]:
    """`by_image` of the images that have a value for all methods, or the means of their units; and each row's unit."""
    wide, _ = by_image(table, metric)
    wide = wide.dropna()
    if by_unit:
        wide = wide.groupby(level=0, sort=False).mean()
    if wide.shape[1] < 2 or len(wide) < 2:
        raise ValueError(
            f"{metric}: {wide.shape[1]} methods have values, on {len(wide)} images in common; "
            "a comparison needs two of each."
        )
    return wide, wide.index.get_level_values(0).to_numpy()
