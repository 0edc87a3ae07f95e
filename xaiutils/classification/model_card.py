"""A model card (Mitchell et al. 2019, arXiv:1810.03993) written from what a run knows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.classification.report import Report
from xaiutils.datasets import DATASETS, ImageDataset
from xaiutils.graph.network import Network
from xaiutils.models.wrapped import WrappedModel
from xaiutils.statistics.formatting import p_value, plural
from xaiutils.templates import Markdown, markdown_table, render, three_decimals

_CHANNELS = {1: "one channel", 3: "three channels"}
_FROM = {
    "given": "as was given",
    "measured": "measured: of all scalings it fits labelled images best",
    "assumed": "assumed, since nothing was given",
}
_HEADS = {"softmax": "softmax", "sigmoid": "independent sigmoids", "binary": "one sigmoid unit"}


def model_card(
    report: Report,
    splits: Mapping[str, ImageDataset],
    *,
    architecture: str = "",
    paper: str = "",
    n_weights: int | None = None,
    own: WrappedModel | None = None,
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
        own: a user's own model, as `xaiutils.wrap` returns it: its file's name, channels, scaling and head are listed,
            and that it was trained elsewhere.
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
    entry = DATASETS.get(first.name)
    return render(
        "model_card.md.j2",
        report=report,
        architecture=architecture,
        paper=paper,
        n_weights=n_weights,
        own=None if own is None else _own(own),
        weights=weights,
        weights_licence=weights_licence,
        image_size=first.image_size,
        class_names=report.predictions.class_names,
        data_entry=entry,
        data_name=entry.title if entry else first.name,
        options=", ".join(f"{k}={v!r}" for k, v in (options or {}).items()),
        splits=markdown_table(_splits(splits)),
        recipe=_recipe(recipe),
        **_history_facts(history),
        environment=environment or {},
        results=[_results(one) for one in (report, *others)],
        comparison=None if comparison is None else markdown_table(_comparison(comparison)),
        **_unmeasured(report, splits),
    )


def kept_epoch(history: pd.DataFrame) -> int:
    """The epoch whose weights a model has: the row that the column ``kept`` marks (0: none yet), without such a column
    that of the lowest ``val_loss``."""
    if "kept" in history:
        marked = history["epoch"][history["kept"].astype(bool)]
        return int(marked.iloc[0]) if len(marked) else 0
    return int(history.attrs.get("kept_epoch") or history["epoch"][history["val_loss"].idxmin()])


def _own(model: WrappedModel) -> dict[str, Any]:
    """What is known of a user's own model; of its file the name alone, since folders may name people."""
    facts = model.facts
    given = "" if facts.head is None else f" (head={facts.head!r} was given)"
    by = "the model scales them itself" if facts.scaling == "model" else f"scaled by {facts.scaling!r} before the model"
    return {
        "source": Path(facts.source).name,
        "channels": _CHANNELS.get(facts.channels, f"{facts.channels} channels"),
        "scaling": f"{by} ({_FROM[facts.scaling_from]})",
        "head": _HEADS.get(Network.of(model).activation, "a score") + given,
        "outputs": ", ".join(facts.class_names or ()),
        "case_inputs": ", ".join(facts.case_inputs),
    }


def _splits(splits: Mapping[str, ImageDataset]) -> pd.DataFrame:
    names = next(iter(splits.values())).class_names
    rows = []
    for split, ds in splits.items():
        patients = "not known" if ds.patients is None else len(set(ds.patients))
        rows.append([split, len(ds), *ds.class_counts, patients])
    return pd.DataFrame(rows, columns=["split", "images", *names, "patients"])


def _recipe(recipe: Any) -> Markdown | None:
    fields = asdict(recipe) if is_dataclass(recipe) and not isinstance(recipe, type) else dict(recipe or {})
    table = pd.DataFrame({"recipe": list(fields), "value": [str(v) for v in fields.values()]})
    return markdown_table(table) if fields else None


def _history_facts(history: pd.DataFrame | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"history_missing": history is None}
    if history is None or history.empty:
        return facts | {"n_epochs": 0}
    # The whole call, with the features of a frozen backbone; a history from a file knows its epochs alone.
    seconds = history.attrs.get("seconds", history["seconds"].sum() if "seconds" in history else np.nan)
    return facts | {
        "n_epochs": len(history),
        "seconds": seconds if np.isfinite(seconds) else None,
        "kept_epoch": kept_epoch(history),
        "stages": history.groupby("stage", sort=False).size().to_dict() if "stage" in history else {},
    }


def _results(report: Report) -> dict[str, Any]:
    columns = ["ECE", "ECE if calibrated", "Brier", "uncertainty", "skill", "slope", "intercept"]
    return {
        "report": report,
        "units": plural(report.predictions.unit),
        "levels": [_level(one) for one in (report, *report.levels.values())],
        "classes": _with_names(report.classes, "class"),
        "calibration": _with_names(report.calibration[columns], "stated"),
        "temperature": f"{report.temperature:.3g}" if np.isfinite(report.temperature) else "",
    }


def _level(report: Report) -> dict[str, Any]:
    metrics, points, n = report.metrics, report.operating_points, len(report.predictions)
    shown = pd.DataFrame({"value": [_with_interval(row) for _, row in metrics.iterrows()]}, index=metrics.index)
    return {
        "title": f"{report.level} ({n:,} {plural(report.level, n)})",
        "metrics": _with_names(shown.assign(majority=metrics["majority"], random=metrics["random"]), "metric"),
        "confusion": _with_names(report.confusion, "true, in columns as named"),
        "operating_points": None if points is None else markdown_table(_points(points)),
    }


def _with_names(table: pd.DataFrame, name: str) -> Markdown:
    """The table with its index as first column, called ``name``."""
    names = pd.DataFrame({name: table.index})
    return markdown_table(pd.concat([names, table.reset_index(drop=True)], axis=1))


def _points(points: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame({"held": [f"{w} {t}" for w, t in zip(points["held"], points["target"], strict=True)]})
    shown["threshold"], shown["chosen on"] = points["threshold"], points["chosen on"]
    for name in ("sensitivity", "specificity", "PPV", "NPV"):
        parts = points[[name, f"{name} low", f"{name} high"]].set_axis(["value", "low", "high"], axis=1)
        shown[name] = [_with_interval(row) for _, row in parts.iterrows()]
    return shown.assign(**{name: points[name] for name in ("random sensitivity", "random specificity")})


def _comparison(comparison: pd.DataFrame) -> pd.DataFrame:
    shown = comparison.drop(columns=["unit", "n"], errors="ignore")
    for column in ("p", "p_holm"):
        shown[column] = [p_value(p).removeprefix("p ").removeprefix("= ") if p == p else "-" for p in shown[column]]
    return shown


def _unmeasured(report: Report, splits: Mapping[str, ImageDataset]) -> dict[str, Any]:
    test = splits.get(report.split, next(iter(splits.values())))
    missing = (("thresholds", report.optimistic), ("temperature", not np.isfinite(report.temperature)))
    recorded = [c for c in test.metadata.columns if 1 < test.metadata[c].astype(str).nunique() <= 12]
    return {
        "patients_known": test.patients is not None,
        "recorded": ", ".join(map(str, recorded)),
        "unvalidated": " and ".join(name for name, lacks in missing if lacks).capitalize(),
    }


def _with_interval(row: pd.Series) -> str:
    value, low, high = (three_decimals(row[name]) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]" if np.isfinite(row["low"]) else value
