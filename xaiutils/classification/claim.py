"""The checklist CLAIM 2024 (Tejani et al. 2024, doi:10.1148/ryai.240300), filled in as far as a run knows it."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.classification.model_card import kept_epoch
from xaiutils.classification.report import Report
from xaiutils.datasets import DATASETS, ImageDataset
from xaiutils.statistics.formatting import plural
from xaiutils.templates import render

_BY_HAND = "complete by hand"
_HEADLINE = ("accuracy", "balanced accuracy", "AUC", "sensitivity", "specificity")


def claim_checklist(
    report: Report,
    splits: Mapping[str, ImageDataset],
    *,
    architecture: str = "",
    n_weights: int | None = None,
    weights: str = "",
    recipe: Any = None,
    history: pd.DataFrame | None = None,
    environment: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **others: Any,
) -> str:
    """Markdown: a row for each of the 44 items, with what the run knows of it, or that it is to be completed by hand.

    Args:
        report, splits: as `model_card` takes them.
        architecture, n_weights, weights, recipe, history, environment, options: as `model_card` takes them.
        others: what `model_card` takes besides; nothing is made of it.
    """
    first = next(iter(splits.values()))
    entry = DATASETS.get(first.name)
    fields = asdict(recipe) if is_dataclass(recipe) and not isinstance(recipe, type) else dict(recipe or {})
    test = splits.get(report.split, first)
    fill = partial(
        render,
        "claim.md.j2",
        report=report,
        units=plural(report.predictions.unit),
        architecture=architecture,
        n_weights=n_weights,
        weights=weights,
        recipe=", ".join(f"{name}={value}" for name, value in fields.items() if value not in (None, "")),
        monitor=fields.get("monitor", ""),
        kept=0 if history is None or history.empty else kept_epoch(history),
        environment=environment or {},
        options=", ".join(f"{k}={v!r}" for k, v in (options or {}).items()),
        splits=splits,
        len=len,
        entry=entry,
        data_name=entry.title if entry else first.name,
        class_names=report.predictions.class_names,
        image_size=first.image_size,
        n_skipped=len({one for d in splits.values() for one in d.skipped}),
        shares=", ".join(f"{name} {len(d)}" for name, d in splits.items()),
        disjoint=_disjoint(splits),
        headline=_headline(report.metrics),
        recorded=", ".join(map(str, test.metadata.columns)),
    )
    return fill(n_open=sum(_BY_HAND in line for line in fill(n_open=0).splitlines() if line.startswith("| ")))


def _disjoint(splits: Mapping[str, ImageDataset]) -> str:
    known = [set(d.patients) for d in splits.values() if d.patients is not None]
    if len(known) < len(splits):
        return "images; patients are not known, and images of one may be in several parts"
    shared = {who for i, a in enumerate(known) for b in known[i + 1 :] for who in a & b}
    return f"patients, but for {len(shared)} who are in several parts" if shared else "patients"


def _headline(metrics: pd.DataFrame) -> str:
    shown = []
    for name in (name for name in _HEADLINE if name in metrics.index):
        value, low, high = (float(metrics.loc[name, column]) for column in ("value", "low", "high"))
        if np.isfinite(value):
            shown.append(f"{name} {value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else ""))
    return ", ".join(shown)
