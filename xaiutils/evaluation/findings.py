"""The comparison of maps in plain words, each sentence made from the table and carrying its numbers.

What is called better or worse, and what is not told apart, is what `xaiutils.evaluation.claims` says.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from xaiutils.attribution import METHODS
from xaiutils.classification.verdict import many
from xaiutils.evaluation.claims import claims
from xaiutils.evaluation.metrics import METRICS
from xaiutils.evaluation.ranking import HITS, agreement, by_reading, compare, concordance, readings
from xaiutils.evaluation.studies.controls import ORACLES, RANDOM_WEIGHTS, is_control
from xaiutils.statistics.summaries import UNIT

_OWN = "its own map of a random-weight model"
_TITLES = {
    "chance": "chance",
    "random": "a random map",
    "centre": "a blob at the centre",
    "edges": "Sobel edges",
    "laplace": "Laplace edges",
    "intensity": "brightness",
}
_KINDS = {"masks": "To find {evidence}", "model": "To name what the model uses"}
_VERDICTS = ("better", "not told apart", "worse")
_BY = {"signed": "their signed values", "positive": "their positive part", "magnitude": "their magnitude"}


# The page ---------------------------------------------------------------------------------------------------------


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
    names what the masks show, and ``notes`` are sentences that are added at the end.
    """
    parts = table.groupby("model", sort=False) if "model" in table else [("the model", table)]
    page = [
        "# What the maps show",
        f"*Better* and *worse* are said only where a paired test says so after Holm's correction (alpha {alpha:g}) and "
        "the 95 % interval, in brackets, agrees.",
    ]
    for model, rows, how in _sections(parts):
        said = claims(rows, alpha, n_resamples, seed)
        page += [f"## {model}", " ".join(t for t in (_images(rows), how) if t)]
        page += [_in_short(said, kind, words.format(evidence=evidence)) for kind, words in _KINDS.items()]
        page += [_agreement(rows), _missing(rows)]
        page += [_metric_paragraph(rows, said[said["metric"] == m], m, alpha, seed) for m in said["metric"].unique()]
    return "\n\n".join(s for s in [*page, *notes] if s) + "\n"


def _sections(parts: Iterable[tuple[str, pd.DataFrame]]) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """(title, rows, how their maps were read) for each model and reading: methods are compared within one."""
    for model, table in parts:
        for reading, rows in by_reading(table):
            known = readings(rows)
            if reading:
                yield f"{model}, maps read by {_BY[reading]}", rows, ""
            elif len(known) > 1:
                yield model, rows, f"Each method's maps are read as it declares: {', '.join(known)}."
            else:
                yield model, rows, f"All maps are read by {_BY[known[0]]}." if known else ""


def _title(method: str) -> str:
    if method.endswith(RANDOM_WEIGHTS):
        return _OWN
    return METHODS[method].title if method in METHODS else _TITLES.get(method, method)


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _images(rows: pd.DataFrame) -> str:
    """How many images and patients, and on how many the model is right, for each kind of metric."""
    whose = {"masks": " for metrics against the evidence", "model": " for metrics that run the model"}
    kinds = rows["metric"].map(lambda m: METRICS[m].needs)
    parts = []
    for kind, words in whose.items() if kinds.isin(list(whose)).any() else {"maps": ""}.items():
        images = rows[kinds == kind].drop_duplicates("image_id")
        if len(images):
            text = f"{len(images)} {many('image', len(images))}"
            if UNIT in images and images[UNIT].nunique() < len(images):
                text += f" of {images[UNIT].nunique()} patients"
            right = f" (the model is right on {int(images['correct'].sum())})" if "correct" in images else ""
            parts.append(text + words + right)
    return "; ".join(parts) + "."


def _in_short(said: pd.DataFrame, kind: str, words: str) -> str:
    """Each method's count of metrics by which it is better than chance, and better than all controls."""
    chosen = said[said["metric"].map(lambda m: METRICS[m].needs == kind) & said["level_of"].ne("")]
    if chosen.empty:
        return ""
    total = chosen["metric"].nunique()
    levels = " or ".join(_title(name) for name in dict.fromkeys(chosen["level_of"]))
    counts = chosen["verdict"].eq("better").groupby(chosen["method"], sort=False).sum()
    groups = {
        "by all": counts[counts == total].index,
        "by some": counts[(counts > 0) & (counts < total)].index,
        "by none": counts[counts == 0].index,
    }
    parts = [
        f"{name}: " + ", ".join(f"{_title(m)} ({counts[m]})" if name == "by some" else _title(m) for m in methods)
        for name, methods in groups.items()
        if len(methods)
    ]
    metrics = many("metric", total)
    text = f"**{words}** ({total} {metrics}), better than {levels} {'; '.join(parts)}."
    tested = chosen[[bool(b + w + t) for b, w, t in _control_columns(chosen)]]
    if tested.empty:
        return text
    ahead = tested[[not w and not t for _, w, t in _control_columns(tested)]]
    if ahead.empty:
        return text + (
            f" No method is shown to be better than all controls by any of the {total} {metrics}: nothing here proves "
            "that the maps show more than the image alone, or a model that has learned nothing."
        )
    lists = ahead.groupby("method", sort=False)["metric"].agg(list)
    named = [f"{_title(m)} by {len(by)} ({', '.join(METRICS[name].title for name in by)})" for m, by in lists.items()]
    return text + f" Better than every control: {'; '.join(named)}."


def _control_columns(said: pd.DataFrame) -> list[tuple[tuple, tuple, tuple]]:
    return list(zip(said["better_than"], said["beaten_by"], said["not_told_apart_from"], strict=True))


def _metric_paragraph(rows: pd.DataFrame, said: pd.DataFrame, name: str, alpha: float, seed: int) -> str:
    metric = METRICS[name]
    said = said.sort_values("mean", ascending=not metric.higher_is_better, kind="stable")
    said = said[said["mean"].notna()]
    if said.empty:
        return f"**{metric.title}**: 0 images have a value."
    if metric.needs == "maps":
        ordered = list(said.itertuples())
        first, last = ordered[0], ordered[-1]
        return (
            f"**{metric.title}** describes the map, not whether it is right: from {_value(first)} "
            f"({_title(first.method)}) to {_value(last)} ({_title(last.method)})."
        )
    means = rows[rows["metric"] == name].groupby("method", sort=False)["value"].mean().dropna()
    text = [f"**{metric.title}** ({metric.direction})."]
    blind, why = _power(rows, said, name, alpha)
    level = max(said["level_of"])  # "" for a method without a value to compare
    if level:
        text.append(_verdicts(said, level))
    if "control" not in blind:
        text.append(_beaten(said, means, metric.higher_is_better))
    text.append(_oracle(means))
    if "pairs" not in blind:
        text.append(_told_apart(rows, said, name, alpha, seed))
    return " ".join(t for t in [*text, why] if t)


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _value(row) -> str:
    interval = f" [{_number(row.low)}, {_number(row.high)}]" if np.isfinite(row.low) else ""
    return _number(row.mean) + interval


def _verdicts(said: pd.DataFrame, level: str) -> str:
    starts = {"better": "Better than", "not told apart": "Not told apart from", "worse": "Worse than"}
    parts = []
    for verdict in _VERDICTS:
        chosen = said[said["verdict"] == verdict]
        name = f"{_title(level)} ({_number(said['level'].median())})" if not parts else "it"
        if len(chosen):
            who = ", ".join(f"{_title(r.method)} {_value(r)}" for r in chosen.itertuples())
            parts.append(f"{starts[verdict]} {name}: {who}.")
        elif verdict == "better":
            parts.append(f"No method is shown to be better than {name}.")
    return " ".join(parts)


def _beaten(said: pd.DataFrame, means: pd.Series, higher_is_better: bool) -> str:
    """What each method has against the controls; methods with the same controls together."""
    tested = [r for r in said.itertuples() if r.better_than or r.beaten_by or r.not_told_apart_from]
    if not tested:
        return ""
    shared = means[[m for m in means.index if m in _TITLES and m != "chance"]]
    shared = shared.sort_values(ascending=not higher_is_better)
    text = f"The controls have: {', '.join(f'{_title(m)} {_number(value)}' for m, value in shared.items())}. "
    ahead = [_title(r.method) for r in tested if not r.beaten_by and not r.not_told_apart_from]
    own = " and than its own map of random weights" if any(m.endswith(RANDOM_WEIGHTS) for m in means.index) else ""
    text += f"Better than all of these {len(shared)}{own}: {', '.join(ahead) or 'none'}."
    beaten = _by_controls([(r.method, r.beaten_by) for r in tested if r.beaten_by], means)
    level = [(r.method, r.not_told_apart_from) for r in tested if r.not_told_apart_from and not r.beaten_by]
    text += f" Beaten by {beaten}." if beaten else ""
    return text + (f" Not told apart from {_by_controls(level, means)}." if level else "")


def _by_controls(pairs: list[tuple[str, tuple[str, ...]]], means: pd.Series) -> str:
    """ "brightness: Grad-CAM, Score-CAM; ..." of (method, its controls)."""
    groups: dict[str, list[str]] = {}
    for method, controls in pairs:
        own = [c for c in controls if c.endswith(RANDOM_WEIGHTS)]
        names = [_title(c) for c in controls if c not in own] + [_OWN for _ in own]
        said = _title(method) + (f" ({_number(means[own[0]])})" if own else "")
        groups.setdefault(_listed(names), []).append(said)
    return "; ".join(f"{names}: {', '.join(methods)}" for names, methods in groups.items())


def _oracle(means: pd.Series) -> str:
    names = {"oracle": "as coarse as the maps", "oracle_full": "pixel by pixel"}
    known = [f"{_number(means[o])} {names[o]}" for o in ORACLES if o in means]
    return f"The evidence itself, taken for a map, has {_listed(known)}." if known else ""


def _told_apart(rows: pd.DataFrame, said: pd.DataFrame, metric: str, alpha: float, seed: int) -> str:
    try:
        pairs = compare(rows[rows["method"].isin(said["method"])], metric, alpha=alpha, n_resamples=200, seed=seed)
    except ValueError:  # fewer than two methods, or two images that all have a value on
        return ""
    apart = pairs[pairs["verdict"] != "not told apart"]
    best = said["method"].iloc[0]
    with_best = pairs[(pairs["a"] == best) | (pairs["b"] == best)]
    level = with_best[with_best["verdict"] == "not told apart"]
    text = f"Pairs of methods told apart: {len(apart)} of {len(pairs)}"
    if len(apart) == 0:
        return text + "."
    others = [b if a == best else a for a, b in zip(level["a"], level["b"], strict=True)]
    if not others:
        return text + f"; {_title(best)} is better than all others."
    return (
        text + f"; {_title(best)}, the best by its mean, is not told apart from {_listed([_title(m) for m in others])}."
    )


def _power(rows: pd.DataFrame, said: pd.DataFrame, metric: str, alpha: float) -> tuple[set[str], str]:
    """What so few images cannot tell ("methods", "control", "pairs"), and a sentence on it: Wilcoxon's test gives n of
    them a p of 2 / 2^n at least."""
    known = rows[(rows["metric"] == metric) & rows["value"].notna()]
    unit = UNIT if UNIT in rows else "image_id"
    n, k = known[unit].nunique(), len(said)
    exact = metric in HITS and (said["level_of"] == "chance").any()
    with_control = int(sum(len(b) + len(w) + len(t) for b, w, t in _control_columns(said)))
    families = {
        "methods": (k if said["level_of"].ne("").any() and not exact else 0, "{} methods"),
        "control": (with_control, "{} pairs of a method and a control"),
        "pairs": (k * (k - 1) // 2, "{} pairs of methods"),
    }
    least = 2.0 / 2**n
    blind = {name: text.format(size) for name, (size, text) in families.items() if size and least * size >= alpha}
    if not blind:
        return set(), ""
    what = "patients" if UNIT in rows and n < known["image_id"].nunique() else "images"
    tests = _listed(list(blind.values()))
    return set(blind), (
        f"With {n} {what} the least p of the test is {least:.2g}; corrected for {tests} it is not below {alpha:g}: "
        "nothing can be told of them."
    )


def _agreement(rows: pd.DataFrame) -> str:
    of_method = ~rows["method"].map(is_control)
    chosen = rows[of_method & rows["metric"].map(lambda m: METRICS[m].needs != "maps")]
    tau, w = agreement(chosen), concordance(chosen)
    if not np.isfinite(w):
        return ""
    pairs = tau.where(np.triu(np.ones(tau.shape, bool), 1)).stack().dropna()
    judged = f"{len(tau)} metrics order {chosen['method'].nunique()} methods"
    scale = "1: one order, 0: nothing in common"
    text = f"**Do the metrics agree?** {judged} with a Kendall's W of {w:.2f} ({scale})"
    found = (pairs.idxmax(), pairs.idxmin())
    ends = [f"{METRICS[a].title} and {METRICS[b].title} ({tau.loc[a, b]:.2f})" for a, b in found]
    if len(pairs) == 1:
        return f"{text}; Kendall's tau of {ends[0]}."
    return f"{text}. Most alike by Kendall's tau: {ends[0]}; least: {ends[1]}."


def _missing(rows: pd.DataFrame) -> str:
    """How many values are missing: of images that have none by any map, and of single maps."""
    chosen = rows[rows["method"] != "chance"]
    lacking = chosen[chosen["value"].isna()]
    if lacking.empty:
        return f"None of the {len(chosen)} values is missing."
    parts = []
    for metric, found in lacking.groupby("metric", sort=False):
        maps = chosen.loc[chosen["metric"] == metric, "method"].nunique()
        counts = found.groupby("image_id")["method"].nunique()
        of_images, of_maps = counts[counts == maps], found[~found["image_id"].isin(counts.index[counts == maps])]
        said = []
        if len(of_images):
            why = (
                "nothing is marked, or all is"
                if METRICS[metric].needs == "masks"
                else "the metric has no meaning there"
            )
            said.append(f"no map has a value on {len(of_images)} {many('image', len(of_images))} ({why})")
        if len(of_maps):
            by_map = of_maps["method"].str.replace(RANDOM_WEIGHTS, " of random weights").value_counts()
            names = ", ".join(f"{name} {n}" for name, n in by_map[:3].items())
            more = f" and {len(by_map) - 3} others" if len(by_map) > 3 else ""
            why = f"no positive value, or nothing that varies: {names}{more}"
            said.append(f"single maps without a value: {len(of_maps)} ({why})")
        parts.append(f"by {METRICS[metric].title}, {' and '.join(said)}")
    return f"{len(lacking)} of {len(chosen)} values are missing and left out: {'; '.join(parts)}."


def slopes_in_words(fits: pd.DataFrame) -> str:
    """The table of `xaiutils.statistics.regression.regress` in a sentence for each metric and column."""
    said = []
    for (metric, column), rows in fits.groupby(["metric", "column"], sort=False):
        known = rows[rows["low"].notna()]
        moved = known[(known["low"] > 0) | (known["high"] < 0)]
        listed = [f"{_title(r.method)} {r.coefficient:+.2f} [{r.low:.2f}, {r.high:.2f}]" for r in moved.itertuples()]
        said.append(
            f"{METRICS[metric].title} goes with {column} for {len(moved)} of {len(known)} methods"
            + (f" (standardised slope, uncorrected 95 % interval: {', '.join(listed)})." if listed else ".")
        )
    return " ".join(said)
