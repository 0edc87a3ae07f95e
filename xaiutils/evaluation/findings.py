"""The comparison of maps in words: the facts, which templates (``findings.md.j2``, ``short.md.j2``, ...) put into
sentences.

What is called better or worse, and what is undecided, is what `xaiutils.evaluation.claims` says.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from xaiutils.attribution import METHODS
from xaiutils.evaluation.claims import RANDOM_WEIGHTS, claims
from xaiutils.evaluation.metrics import METRICS
from xaiutils.evaluation.ranking import HITS, agreement, compare, concordance
from xaiutils.evaluation.score_tables import (
    CHANCE,
    RANDOM,
    UNDECIDED,
    by_reading,
    of_kind,
    of_methods,
    of_random_weights,
    readings,
    without_random_weights,
)
from xaiutils.statistics.paired_tests import fewest_units
from xaiutils.statistics.summaries import UNIT
from xaiutils.templates import Markdown, render

_TITLES = {
    CHANCE: "chance",
    "random": "a random map",
    "centre": "a blob at the centre",
    "edges": "Sobel edges",
    "laplace": "Laplace edges",
    "intensity": "brightness",
    RANDOM_WEIGHTS: "its own map of a random-weight model",
}
_READ_BY = {"signed": "their signed values", "positive": "their positive part", "magnitude": "their magnitude"}
_N_COMPARED = 200  # resamples of the comparison of all pairs, of which no interval is shown

Facts = dict[str, Any]


def in_words(
    table: pd.DataFrame,
    evidence: str = "the known evidence",
    notes: Iterable[str] = (),
    alpha: float = 0.05,
    n_resamples: int = 1000,
    seed: int = 0,
) -> str:
    """A page in Markdown on the methods of ``table``, with a section for each value of its column ``model``, if any,
    and each reading of the maps, if it has several.

    ``table`` is as for `claims`; a bool column ``correct`` says whether the model is right on the image. ``evidence``
    names what the masks show, and ``notes`` are sentences in Markdown that are added at the end.
    """
    models = table.groupby("model", sort=False) if "model" in table else [("the model", table)]
    sections = [
        {"title": title, "read_by": read_by, **_section(rows, alpha, n_resamples, seed)}
        for title, rows, read_by in _sections(models)
    ]
    notes = [Markdown(note) for note in notes]
    page = render("findings.md.j2", alpha=f"{alpha:g}", evidence=evidence, sections=sections, notes=notes)
    return re.sub(r"\n{3,}", "\n\n", page).rstrip("\n") + "\n"


def in_short(table: pd.DataFrame, kind: str, alpha: float = 0.05, n_resamples: int = 1000, seed: int = 0) -> str:
    """A line in Markdown for each model of ``table`` (with a column ``model``; maps of one reading): which methods are
    better than chance, and than every control, by the metrics of ``kind``: "masks" (they find the evidence) or "model"
    (they name what the model uses). What is better is said as in `claims`, whose table and options these are."""
    found = {}
    for model, rows in table.groupby("model", sort=False):
        rows = of_kind(rows, kind)
        found[model] = _in_short(claims(rows, alpha, n_resamples, seed), kind) if len(rows) else None
    return render("short.md.j2", found=found).strip()


def agreement_in_short(ranks: Mapping[str, pd.DataFrame]) -> str:
    """A line in Markdown for each model: Kendall's tau of the two orders of its methods that `ranking.two_orders`
    found, with its p."""
    found = {}
    for model, table in ranks.items():
        known = table.dropna()
        tau, p = stats.kendalltau(known["masks"], known["model"]) if len(known) > 2 else (np.nan, np.nan)
        found[model] = {"n": len(known), "tau": _number(tau), "p": f"{p:.2g}", "shown": p < 0.05, "known": p == p}
    return render("agree.md.j2", found=found).strip()


def _sections(models: Iterable[tuple[str, pd.DataFrame]]) -> Iterator[tuple[str, pd.DataFrame, Facts]]:
    """(title, rows, how their maps were read) for each model and reading: methods are compared within one."""
    for model, table in models:
        for reading, rows in by_reading(table):
            known = readings(rows)
            if reading:
                yield f"{model}, maps read by {_READ_BY[reading]}", rows, {"own": [], "all": ""}
            elif len(known) > 1:
                yield model, rows, {"own": known, "all": ""}
            else:
                yield model, rows, {"own": [], "all": _READ_BY[known[0]] if known else ""}


def _section(rows: pd.DataFrame, alpha: float, n_resamples: int, seed: int) -> Facts:
    said = claims(rows, alpha, n_resamples, seed)
    return {
        "images": _images(rows),
        "in_short": {kind: _in_short(said, kind) for kind in ("masks", "model")},
        "agreement": _agreement(rows),
        "missing": _missing(rows),
        "metrics": [_metric(rows, said[said["metric"] == m], m, alpha, seed) for m in said["metric"].unique()],
    }


def _title(method: str) -> str:
    return METHODS[method].title if method in METHODS else _TITLES.get(method, method)


def _titles(methods: Iterable[str]) -> list[str]:
    return [_title(m) for m in methods]


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _interval(row: Any) -> str:
    interval = f" [{_number(row.low)}, {_number(row.high)}]" if np.isfinite(row.low) else ""
    return _number(row.mean) + interval


# Of all metrics ---------------------------------------------------------------------------------------------------


def _images(rows: pd.DataFrame) -> list[Facts]:
    """How many images and patients, and on how many the model is right, for each kind of metric."""
    needs = rows["metric"].map(lambda m: METRICS[m].needs)
    kinds = [k for k in ("masks", "model") if (needs == k).any()] or ["maps"]
    found = []
    for kind in kinds:
        images = rows[needs == kind].drop_duplicates("image_id")
        patients = images[UNIT].nunique() if UNIT in images else len(images)
        right = int(images["correct"].sum()) if "correct" in images else None
        found.append({"kind": kind, "n": len(images), "patients": patients, "right": right})
    return found


def _control_columns(said: pd.DataFrame) -> list[tuple[tuple, tuple, tuple]]:
    return list(zip(said["better_than"], said["beaten_by"], said["undecided_against"], strict=True))


def _in_short(said: pd.DataFrame, kind: str) -> Facts | None:
    """Each method's count of metrics by which it is better than chance, and better than all controls."""
    chosen = of_kind(said[said["level_of"].ne("")], kind)
    if chosen.empty:
        return None
    total = chosen["metric"].nunique()
    counts = chosen["verdict"].eq("better").groupby(chosen["method"], sort=False).sum()
    some = counts[(counts > 0) & (counts < total)]
    tested = chosen[np.array([bool(b + w + u) for b, w, u in _control_columns(chosen)], bool)]
    ahead = tested[np.array([not w and not u for _, w, u in _control_columns(tested)], bool)]
    metrics = ahead.groupby("method", sort=False)["metric"].agg(list)
    return {
        "n_metrics": total,
        "levels": _titles(dict.fromkeys(chosen["level_of"])),
        "by_all": _titles(counts[counts == total].index),
        "by_some": [(_title(m), n) for m, n in some.items()],
        "by_none": _titles(counts[counts == 0].index),
        "tested": not tested.empty,
        "ahead": [(_title(m), [METRICS[name].label for name in by]) for m, by in metrics.items()],
    }


def _agreement(rows: pd.DataFrame) -> Facts | None:
    judged = of_kind(of_methods(rows), "masks", "model", "method")
    tau, w = agreement(judged), concordance(judged)
    if not np.isfinite(w):
        return None
    pairs = tau.where(np.triu(np.ones(tau.shape, bool), 1)).stack().dropna()
    ends = [(METRICS[a].label, METRICS[b].label, _number(tau.loc[a, b])) for a, b in (pairs.idxmax(), pairs.idxmin())]
    counts = {"metrics": len(tau), "methods": judged["method"].nunique(), "pairs": len(pairs)}
    return {**counts, "w": _number(w), "most": ends[0], "least": ends[1]}


def _missing(rows: pd.DataFrame) -> Facts:
    """How many values are missing: of images that have none by any map, and of single maps."""
    chosen = rows[rows["method"] != CHANCE]
    named = chosen["method"]
    if "weights" in chosen:
        named = named.where(chosen["weights"] != RANDOM, named + " of random weights")
    chosen = chosen.assign(named=named)
    lacking = chosen[chosen["value"].isna()]
    metrics = []
    for metric, found in lacking.groupby("metric", sort=False):
        maps = chosen.loc[chosen["metric"] == metric, "named"].nunique()
        counts = found.groupby("image_id")["named"].nunique()
        without_any = counts.index[counts == maps]
        by_map = found.loc[~found["image_id"].isin(without_any), "named"].value_counts()
        metrics.append(
            {
                "title": METRICS[metric].title,
                "images": len(without_any),
                "needs_masks": METRICS[metric].needs == "masks",
                "maps": int(by_map.sum()),
                "most": list(by_map[:3].items()),
                "others": max(0, len(by_map) - 3),
            }
        )
    return {"n": len(lacking), "of": len(chosen), "metrics": metrics}


# Of one metric ----------------------------------------------------------------------------------------------------


def _metric(rows: pd.DataFrame, said: pd.DataFrame, name: str, alpha: float, seed: int, pairs: bool = True) -> Facts:
    metric = METRICS[name]
    facts: Facts = {"title": metric.title, "direction": metric.direction, "of_the_map": metric.needs == "maps"}
    facts |= {"controls": None, "power": None}
    said = said.sort_values("mean", ascending=not metric.higher_is_better, kind="stable")
    said = said[said["mean"].notna()]
    facts["methods"] = [(_title(row.method), _interval(row)) for row in said.itertuples()]
    if said.empty or metric.needs == "maps":
        return facts
    rows = rows[rows["metric"] == name]
    means = without_random_weights(rows).groupby("method", sort=False)["value"].mean().dropna()
    blind, facts["power"] = _power(rows, said, name, alpha)
    level = max(said["level_of"])  # "" for a method without a value to compare
    facts["level"] = (_title(level), _number(said["level"].median())) if level else None
    for verdict in ("better", UNDECIDED, "worse"):
        chosen = said[said["verdict"] == verdict]
        facts[verdict] = [(_title(row.method), _interval(row)) for row in chosen.itertuples()]
    facts["controls"] = None if "control" in blind else _controls(rows, said, means, metric.higher_is_better)
    known = (("oracle", "as coarse as the maps"), ("oracle_full", "pixel by pixel"))
    facts["oracles"] = [(_number(means[o]), words) for o, words in known if o in means]
    facts["pairs"] = None if not pairs or "pairs" in blind else _pairs_of_methods(rows, said, name, alpha, seed)
    return facts


def _controls(rows: pd.DataFrame, said: pd.DataFrame, means: pd.Series, higher_is_better: bool) -> Facts | None:
    """What each method has against the controls; methods with the same controls together."""
    tested = [r for r in said.itertuples() if r.better_than or r.beaten_by or r.undecided_against]
    if not tested:
        return None
    forgotten = of_random_weights(rows).groupby("method", sort=False)["value"].mean().dropna()
    shared = means[[m for m in means.index if m in _TITLES and m != CHANCE]]
    shared = shared.sort_values(ascending=not higher_is_better)

    def grouped(pairs: list[tuple[str, tuple[str, ...]]]) -> list[tuple[list[str], list[str]]]:
        groups: dict[tuple[str, ...], list[str]] = {}
        for method, controls in pairs:
            own = f" ({_number(forgotten[method])})" if RANDOM_WEIGHTS in controls else ""
            groups.setdefault(controls, []).append(_title(method) + own)
        return [(_titles(controls), methods) for controls, methods in groups.items()]

    return {
        "means": [(_title(m), _number(value)) for m, value in shared.items()],
        "with_own": len(forgotten) > 0,
        "ahead": [_title(r.method) for r in tested if not r.beaten_by and not r.undecided_against],
        "beaten": grouped([(r.method, r.beaten_by) for r in tested if r.beaten_by]),
        UNDECIDED: grouped(
            [(r.method, r.undecided_against) for r in tested if r.undecided_against and not r.beaten_by]
        ),
    }


def _pairs_of_methods(rows: pd.DataFrame, said: pd.DataFrame, metric: str, alpha: float, seed: int) -> Facts | None:
    own = of_methods(rows)
    own = own[own["method"].isin(said["method"])]
    try:
        pairs = compare(own, metric, alpha=alpha, n_resamples=_N_COMPARED, seed=seed)
    except ValueError:  # fewer than two methods, or two images that all have a value on
        return None
    best = said["method"].iloc[0]
    level = pairs[(pairs["verdict"] == UNDECIDED) & ((pairs["a"] == best) | (pairs["b"] == best))]
    others = [b if a == best else a for a, b in zip(level["a"], level["b"], strict=True)]
    decided = int((pairs["verdict"] != UNDECIDED).sum())
    return {"decided": decided, "n": len(pairs), "best": _title(best), "others": _titles(others)}


def _power(rows: pd.DataFrame, said: pd.DataFrame, metric: str, alpha: float) -> tuple[set[str], Facts | None]:
    """What so few images cannot decide ("methods", "control", "pairs"), and why: Wilcoxon's test gives n of
    them a p of 2 / 2^n at least."""
    known = rows[rows["value"].notna()]
    n, k = known[UNIT if UNIT in rows else "image_id"].nunique(), len(said)
    exact = metric in HITS and (said["level_of"] == CHANCE).any()
    with_control = sum(len(b) + len(w) + len(u) for b, w, u in _control_columns(said))
    tests = {
        "methods": k if said["level_of"].ne("").any() and not exact else 0,
        "control": with_control,
        "pairs": k * (k - 1) // 2,
    }
    blind = {name: size for name, size in tests.items() if size and n < fewest_units(size, alpha)}
    unit = "patients" if UNIT in rows and n < known["image_id"].nunique() else "images"
    return set(blind), {"n": n, "unit": unit, "least": f"{2.0 / 2**n:.2g}", "tests": blind} if blind else None


def slopes_in_words(fits: pd.DataFrame) -> str:
    """The table of `xaiutils.statistics.regression.regress` in a sentence for each metric and column."""
    facts = []
    for (metric, column), rows in fits.groupby(["metric", "column"], sort=False):
        known = rows[rows["low"].notna()]
        moved = known[(known["low"] > 0) | (known["high"] < 0)]
        slopes = [(_title(r.method), f"{r.coefficient:+.2f} [{r.low:.2f}, {r.high:.2f}]") for r in moved.itertuples()]
        facts.append({"title": METRICS[metric].label, "column": column, "n": len(known), "slopes": slopes})
    return " ".join(render("slopes.md.j2", fits=facts).split())


def headline(table: pd.DataFrame, alpha: float = 0.05, n_resamples: int = 1000, seed: int = 0) -> Facts:
    """What a first page says of one model: the facts.

    ``table`` is as for `in_words`, of one model; of several readings of the maps the first is taken. ``reading``: how
    maps were read; ``images`` and ``in_short`` by kind of metric ("masks", "model"); ``metrics``: of each metric that
    tells right from wrong its title and needs, the best method with its interval, the best control and its mean, the
    methods better than every control, and why nothing can be said, if so.
    """
    reading, rows = by_reading(table)[0]
    rows = rows[rows["metric"].map(lambda m: METRICS[m].needs != "maps")]
    said = claims(rows, alpha, n_resamples, seed)
    found = [
        (m, _metric(rows, said[said["metric"] == m], m, alpha, seed, pairs=False)) for m in said["metric"].unique()
    ]
    metrics = [
        {
            "title": METRICS[name].label,
            "needs": METRICS[name].needs,
            "best": facts["methods"][0],
            "control": facts["controls"]["means"][0] if facts["controls"] and facts["controls"]["means"] else None,
            "ahead": facts["controls"]["ahead"] if facts["controls"] else [],
            "power": facts["power"],
        }
        for name, facts in found
        if facts["methods"]
    ]
    known = readings(rows)
    return {
        "reading": _READ_BY.get(reading or (known[0] if len(known) == 1 else ""), "what each method declares"),
        "images": {part["kind"]: part for part in _images(rows)},
        "in_short": {kind: _in_short(said, kind) for kind in ("masks", "model")},
        "metrics": metrics,
    }
