"""A model card (Mitchell et al. 2019, arXiv:1810.03993) written from what a run knows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.classification.assess import Report
from xaiutils.classification.verdict import many, p_value
from xaiutils.datasets import DATASETS, ImageDataset
from xaiutils.text import markdown

_BY_HAND = "not stated; complete by hand"


def model_card(
    report: Report,
    splits: Mapping[str, ImageDataset],
    *,
    architecture: str = "",
    paper: str = "",
    n_weights: int | None = None,
    weights: str = "",
    weights_licence: str = "",
    recipe: Any = None,
    history: pd.DataFrame | None = None,
    environment: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    others: Sequence[Report] = (),
    comparison: pd.DataFrame | None = None,
) -> str:
    """Markdown: what the model is, what it was made of, how well it does, what it is for and what nobody measured.

    Args:
        report: of the test split.
        splits: the data by split ("train", "val", "test"), for counts, licence and citation.
        architecture, paper: name of the architecture, and where it was published.
        n_weights: how many numbers the model has.
        weights, weights_licence: where its weights came from before training ("random": nowhere), and their licence.
        recipe: a dataclass or mapping; every field is listed.
        history: as `xaiutils.train` returns it.
        environment: as `xaiutils.workbook.environment` returns it.
        options: of the data set's loader, and the like.
        others: reports on the same model, such as one on another split.
        comparison: with other models, as `compare_models` returns it.

    What is not given is said to be not stated.
    """
    first = next(iter(splits.values()))
    parts = [f"# Model card: {markdown(report.name)}", "", *_quote(report), "", "## Model", ""]
    parts += _bullets(_model(report, first, architecture, paper, n_weights, weights, weights_licence))
    parts += ["## Intended use and limits", "", *_bullets(_use(report, first))]
    parts += ["## Data", "", *_data(splits, options or {})]
    parts += ["## Training", "", *_training(recipe, history, environment)]
    for one in (report, *others):
        parts += _results(one)
    if comparison is not None:
        shown = comparison.drop(columns=["unit", "n"], errors="ignore")
        for column in ("p", "p_holm"):
            shown[column] = [p_value(p).removeprefix("p ").removeprefix("= ") if p == p else "-" for p in shown[column]]
        parts += ["## Against other models, on the same images", "", *_table(shown, index=False), ""]
    parts += ["## Not measured", "", *_bullets(_unmeasured(report, splits, history))]
    return "\n".join(parts).rstrip() + "\n"


def kept_epoch(history: pd.DataFrame) -> int:
    """The epoch whose weights a model has: the row that the column ``kept`` marks (0: none yet), without such a column
    that of the lowest ``val_loss``."""
    if "kept" in history:
        marked = history["epoch"][history["kept"].astype(bool)]
        return int(marked.iloc[0]) if len(marked) else 0
    return int(history.attrs.get("kept_epoch") or history["epoch"][history["val_loss"].idxmin()])


def _quote(report: Report) -> list[str]:
    verdict = [f"> {markdown(sentence)}" for sentence in report.sentences]
    return [line for sentence in verdict for line in (sentence, ">")][:-1]


def _model(report, first, architecture, paper, n_weights, weights, licence) -> list[str]:
    side = first.image_size
    names = ", ".join(report.predictions.class_names)
    lines = [
        f"Architecture: {architecture or _BY_HAND}" + (f" ({paper})" if paper else "") + ".",
        f"Input: {side} x {side} pixels in three channels, values 0 to 255; it scales them itself.",
        f"Output: probabilities of {len(report.predictions.class_names)} classes: {names}.",
    ]
    if n_weights is not None:
        lines.append(f"Weights: {n_weights:,}.")
    start = f"Start: {weights or _BY_HAND}."
    lines.append(start if weights == "random" else f"{start} Licence of these weights: {licence or _BY_HAND}.")
    return lines


def _use(report: Report, first: ImageDataset) -> list[str]:
    entry = DATASETS.get(first.name)
    lines = [
        "For research and teaching: to study how attribution methods explain a classifier.",
        "Not a medical device. Not for decisions about patients, alone or beside a reader.",
        "Other scanners, sites, populations and tasks than those of the data below: nothing is known of them.",
    ]
    if entry is not None:
        lines.append(f"Of the data: {entry.caution}")
    if not report.beats_majority and not report.beats_chance:
        lines.append("It does not beat the majority class: maps of it explain answers that carry no proven skill.")
    return lines


def _data(splits: Mapping[str, ImageDataset], options: Mapping[str, Any]) -> list[str]:
    first = next(iter(splits.values()))
    entry = DATASETS.get(first.name)
    lines = [f"Data set: {entry.title if entry else first.name or _BY_HAND}."]
    if entry:
        lines += [f"Citation: {entry.citation}.", f"Licence: {entry.licence}."]
    if options:
        lines.append("Options: " + ", ".join(f"{k}={v!r}" for k, v in options.items()) + ".")
    rows = {}
    for split, ds in splits.items():
        counts = np.bincount(ds.labels, minlength=len(first.class_names))
        patients = "not known" if ds.patients is None else len(set(ds.patients))
        rows[split] = {"images": len(ds), **dict(zip(first.class_names, counts, strict=True)), "patients": patients}
    return [*_bullets(lines), *_table(pd.DataFrame.from_dict(rows, "index").rename_axis("split")), ""]


def _training(recipe: Any, history: pd.DataFrame | None, environment: Mapping[str, Any] | None) -> list[str]:
    lines = []
    if history is None or history.empty:
        lines.append(f"History: {_BY_HAND}.")
    else:
        # The whole call, with the features of a frozen backbone; a history from a file knows its epochs alone.
        known = "seconds" in history
        total = history.attrs.get("seconds", history["seconds"].sum() if known else np.nan)
        n, seconds = len(history), f" in {total:.0f} s" if np.isfinite(total) else ""
        lines.append(f"{n} {many('epoch', n)}{seconds}; the weights of epoch {kept_epoch(history)} were kept.")
        if "stage" in history and history["stage"].nunique() > 1:
            found = history.groupby("stage", sort=False).size()
            lines.append("Stages: " + ", ".join(f"{stage} {n} {many('epoch', n)}" for stage, n in found.items()) + ".")
    if environment:
        hardware = ", ".join(environment.get("gpus") or []) or f"CPU, {environment.get('cores', '?')} cores"
        versions = ", ".join(f"{k} {v}" for k, v in environment.get("versions", {}).items())
        lines.append(f"Hardware: {hardware} ({environment.get('platform', 'platform not stated')}).")
        lines.append(f"Software: Python {environment.get('python', '?')}, {versions}.")
        lines.append(f"Code: commit {environment.get('git_commit') or 'not known'}.")
    else:
        lines.append(f"Hardware and software: {_BY_HAND}.")
    fields = asdict(recipe) if is_dataclass(recipe) else dict(recipe or {})
    if not fields:
        return _bullets([*lines, f"Recipe: {_BY_HAND}."])
    table = pd.DataFrame({"value": {k: str(v) for k, v in fields.items()}}).rename_axis("recipe")
    return [*_bullets(lines), *_table(table), ""]


def _results(report: Report) -> list[str]:
    reports = {report.level: report, **report.levels}
    unit = report.predictions.unit
    parts = [f"## Results: {report.split} split", ""]
    parts += [
        f"Intervals hold {100 * report.confidence:.0f} % and count {many(unit)} as independent units "
        f"({report.n_units:,} of them; {report.n_resamples:,} bootstrap replicates). 'majority' always names the "
        "largest class; 'random' guesses with the classes' frequencies.",
        "",
    ]
    for level, one in reports.items():
        table = pd.DataFrame({"value": [_with_interval(r) for _, r in one.metrics.iterrows()]}, index=one.metrics.index)
        table["majority"], table["random"] = (one.metrics[c].map(_number) for c in ("majority", "random"))
        n = len(one.predictions)
        parts += [f"### Per {level} ({n:,} {many(level, n)})", "", *_table(table.rename_axis("metric")), ""]
        parts += [*_table(one.confusion.rename_axis("true, in columns as named")), ""]
        if one.operating_points is not None:
            parts += ["Operating points:", "", *_table(_points(one.operating_points), index=False), ""]
    parts += ["### By class", "", *_table(report.classes.rename_axis("class")), ""]
    columns = ["ECE", "ECE if calibrated", "Brier", "uncertainty", "skill", "slope", "intercept"]
    parts += ["### Calibration", "", *_table(report.calibration[columns].rename_axis("stated")), ""]
    if np.isfinite(report.temperature):
        parts += [f"Temperature fitted on the validation images: {report.temperature:.3g} (over 1: too sure).", ""]
    for level, one in report.levels.items():
        parts += [f"In words, per {level}: {markdown(one.verdict)}", ""]
    return parts


def _points(points: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame({"held": [f"{w} {t}" for w, t in zip(points["held"], points["target"], strict=True)]})
    shown["threshold"] = points["threshold"].map(_number)
    shown["chosen on"] = points["chosen on"]
    for name in ("sensitivity", "specificity", "PPV", "NPV"):
        parts = points[[name, f"{name} low", f"{name} high"]].set_axis(["value", "low", "high"], axis=1)
        shown[name] = [_with_interval(row) for _, row in parts.iterrows()]
    shown["random sensitivity"] = points["random sensitivity"].map(_number)
    shown["random specificity"] = points["random specificity"].map(_number)
    return shown


def _unmeasured(report: Report, splits: Mapping[str, ImageDataset], history: pd.DataFrame | None) -> list[str]:
    test = splits.get(report.split, next(iter(splits.values())))
    lines = ["Any other data set.", "The spread over training seeds: one run."]
    if test.patients is None:
        lines.append("Results per patient: patients are not known, and images of one may be in several splits.")
    said = [c for c in test.metadata.columns if 1 < test.metadata[c].astype(str).nunique() <= 12]
    more = f" ({', '.join(map(str, said))} are recorded, and no results are given by them)" if said else ""
    lines.append(f"Subgroups: age, sex, origin, device and the like{more}.")
    lines.append("Robustness to noise, other scanners and attacks; what it does with images of none of its classes.")
    points = report.operating_points
    judged = points is not None and points["chosen on"].ne("validation").any()
    unfitted = not np.isfinite(report.temperature)
    missing = [name for name, lacks in (("Thresholds", judged), ("Temperature", unfitted)) if lacks]
    if missing:
        lines.append(f"{' and '.join(missing).capitalize()} on validation images.")
    if report.positive is None:
        lines.append("Operating points and net benefit: no class was named as the positive one.")
    if history is None:
        lines.append("The course of training.")
    return lines


def _bullets(lines: Sequence[str]) -> list[str]:
    return [*(f"- {markdown(line)}" for line in lines), ""]


def _table(table: pd.DataFrame, index: bool = True) -> list[str]:
    if index:
        table = table.rename_axis(table.index.name or " ").reset_index()
    head = [_cell(c) for c in table.columns]
    rows = [[_cell(v) for v in row] for row in table.itertuples(index=False, name=None)]
    return ["| " + " | ".join(r) + " |" for r in (head, ["---"] * len(head), *rows)]


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        value = _number(value)
    return markdown(value)


def _number(value: float) -> str:
    if isinstance(value, str):
        return value
    return "-" if not np.isfinite(value) else f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def _with_interval(row: pd.Series) -> str:
    text = _number(row["value"])
    return f"{text} [{_number(row['low'])}, {_number(row['high'])}]" if np.isfinite(row["low"]) else text
