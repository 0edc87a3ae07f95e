"""What may be said of methods by a table of scores: better than chance, and than maps that do not know the model?

A method is called better than chance, or than a control, only where a paired test over images (over patients where
they are known) says so after Holm's correction, and the 95 % interval agrees.
"""

import numpy as np
import pandas as pd

from xaiutils.evaluation.metrics import METRICS
from xaiutils.evaluation.ranking import against_chance, decide, paired_tests
from xaiutils.evaluation.score_tables import (
    CHANCE,
    CONTROLS,
    ORACLES,
    UNDECIDED,
    by_image,
    of_methods,
    of_random_weights,
    without_random_weights,
)
from xaiutils.statistics.summaries import check_one_reading, summarise

RANDOM_WEIGHTS = "random weights"  # the control that is the method's own map of the model with random weights


def claims(table: pd.DataFrame, alpha: float = 0.05, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """What may be said of each method by each metric, of one model.

    ``table`` is of `evaluate_all`, with the controls of `control_maps`, the maps of `random_weight_maps` and the rows
    of `chance` where there are any; of one reading of each method's maps (see `score_tables.of_reading`). Two maps are
    compared on the images that have a value of both.

    Returns a row for each metric and method: metric, method, mean, low, high, n (images), missing; level_of ("chance",
    where it is known, else "random", else "") and level, its mean; p_holm and verdict ("better", "worse" or
    "undecided") against it, corrected over the methods; better_than, beaten_by and undecided_against: tuples of
    controls (`RANDOM_WEIGHTS` is the method's own map of random weights), corrected over all pairs of a method and a
    control. Metrics that need the map alone have no level and no controls: there is nothing that they show to be right.
    """
    found = []
    check_one_reading(table, by=["weights"] if "weights" in table else [])
    for metric in dict.fromkeys(table["metric"]):
        rows = table[table["metric"] == metric]
        own = of_methods(rows)
        summary = summarise(own, "method", seed=seed)
        pairs = [] if METRICS[metric].needs == "maps" else _pairs(rows)
        level = _against_level(rows, metric, alpha, n_resamples, seed)
        controls = _against_controls(rows, metric, pairs, alpha, n_resamples, seed)
        found.append(summary.merge(level, on="method").merge(controls, on="method").assign(metric=metric))
    return pd.concat(found, ignore_index=True)


def _pairs(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Each method with each control."""
    controls = [m for m in dict.fromkeys(rows["method"]) if m in CONTROLS and m not in ORACLES]
    return [(m, c) for m in dict.fromkeys(of_methods(rows)["method"]) for c in [*controls, RANDOM_WEIGHTS]]


def _against_level(rows: pd.DataFrame, metric: str, alpha: float, n_resamples: int, seed: int) -> pd.DataFrame:
    columns = ["method", "level_of", "level", "p_holm", "verdict"]
    methods = list(dict.fromkeys(of_methods(rows)["method"]))
    found = pd.DataFrame({"method": methods, "level_of": "", "level": np.nan, "p_holm": np.nan, "verdict": ""})
    if METRICS[metric].needs == "maps":
        return found
    rows = without_random_weights(rows)
    known = rows[rows["value"].notna()]
    if (known["method"] == CHANCE).any():
        tested = against_chance(rows[rows["method"].isin([*methods, CHANCE])], metric, alpha, seed)
        tested = tested.assign(level_of=CHANCE)[columns]
    elif (known["method"] == "random").any():
        pairs = _tested(rows, metric, [(m, "random") for m in methods], alpha, n_resamples, seed)
        level = known.loc[known["method"] == "random", "value"].mean()
        tested = pairs.rename(columns={"a": "method"}).assign(level_of="random", level=level)[columns]
    else:
        return found
    rest = found[~found["method"].isin(tested["method"])]  # a method without values
    return pd.concat([tested, rest.astype(tested.dtypes)]) if len(rest) else tested


def _against_controls(
    rows: pd.DataFrame, metric: str, pairs: list[tuple[str, str]], alpha: float, n_resamples: int, seed: int
) -> pd.DataFrame:
    tested = _tested(rows, metric, pairs, alpha, n_resamples, seed)
    methods = list(dict.fromkeys(of_methods(rows)["method"]))
    names = {"better": "better_than", "worse": "beaten_by", UNDECIDED: "undecided_against"}
    found = {
        name: [tuple(tested.loc[(tested["a"] == m) & (tested["verdict"] == verdict), "b"]) for m in methods]
        for verdict, name in names.items()
    }
    return pd.DataFrame({"method": methods, **found})


def _tested(
    rows: pd.DataFrame, metric: str, pairs: list[tuple[str, str]], alpha: float, n_resamples: int, seed: int
) -> pd.DataFrame:
    """a, b, p_holm and verdict on a, for each pair with values on two images at least."""
    wide, units = by_image(without_random_weights(rows), metric)
    random = of_random_weights(rows)
    forgotten = by_image(random, metric)[0].reindex(wide.index) if len(random) else pd.DataFrame()
    others = [forgotten.get(a) if b == RANDOM_WEIGHTS else wide.get(b) for a, b in pairs]
    known = zip(pairs, others, strict=True)
    differences = [(a, b, wide[a] - other) for (a, b), other in known if a in wide and other is not None]
    table = paired_tests(differences, units, n_resamples, seed)
    above, below = (table["low"] > 0) & (table["effect"] > 0), (table["high"] < 0) & (table["effect"] < 0)
    return table.assign(verdict=decide(table, metric, above, below, alpha))
