"""A datasheet (Gebru et al. 2021, CACM 64) of what was found in the splits; its prose: templates/datasheet.md.j2."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.datasets.catalogue import DATASETS
from xaiutils.datasets.image_dataset import ImageDataset
from xaiutils.datasets.leaks import find_leaks
from xaiutils.templates import markdown_table, render

_COUNTED = ("view", "side", "density", "abnormality", "tag")  # metadata whose values are counted


def datasheet(
    splits: Mapping[str, ImageDataset],
    options: Mapping[str, object] | None = None,
    leaks: Sequence[Mapping[str, str]] | None = None,
) -> str:
    """Markdown: what the data are, where from, how they were prepared, what they are fit for, and what is not known.

    ``options`` are the loader's options that were given; ``leaks`` those of `find_leaks`, which are searched for where
    they are not given.
    """
    first = next(iter(splits.values()))
    entry = DATASETS.get(first.name)
    found = find_leaks(dict(splits)) if leaks is None else leaks
    chosen = {**(entry.options if entry else {}), **(options or {})}
    return render(
        "datasheet.md.j2",
        first=first,
        entry=entry,
        title=entry.title if entry else first.name or "Data set",
        splits=markdown_table(split_counts(splits)),
        recorded=[*_targets(splits), *_recorded(splits)],
        evidence=_evidence_length(splits),
        patients_known=_patients_known(splits),
        leaks={kind: sum(leak["kind"] == kind for leak in found) for kind in ("patient", "folder", "same image")},
        n_skipped=len({entry for d in splits.values() for entry in d.skipped}),
        notes=list(dict.fromkeys(note for d in splits.values() for note in d.notes)),
        options=", ".join(f"{k}={v!r}" for k, v in chosen.items()),
        pixel_size_known="mm_per_pixel" in first.metadata,
    )


def _patients_known(splits: Mapping[str, ImageDataset]) -> bool:
    return all(d.patients is not None for d in splits.values())


def split_counts(splits: Mapping[str, ImageDataset]) -> pd.DataFrame:
    """A row for each split: split, images, of (how many there are), a column for each class, patients where they are
    known, and "with evidence": images with a mask that is not empty, "-" without masks."""
    names, known, rows = next(iter(splits.values())).class_names, _patients_known(splits), []
    for split, d in splits.items():
        evidence = "-" if d.masks is None else int(d.masks.any(axis=(1, 2)).sum())
        patients = [] if d.patients is None or not known else [len(set(d.patients))]
        rows.append([split, len(d), d.available, *d.class_counts, *patients, evidence])
    columns = ["split", "images", "of", *names, *(["patients"] if known else []), "with evidence"]
    return pd.DataFrame(rows, columns=columns)


def _targets(splits: Mapping[str, ImageDataset]) -> list[str]:
    """Lines on several labels, measured values and further inputs, where there are any."""
    first, lines = next(iter(splits.values())), []
    if first.multi_label:
        labels = np.concatenate([d.labels for d in splits.values()])
        unknown = [f"{name} {n}" for name, n in zip(first.class_names, (labels == -1).sum(axis=0), strict=True) if n]
        together = (labels == 1).sum(axis=1)
        said = f"none of them {(together == 0).sum()} times, two or more {(together > 1).sum()} times"
        lines.append(f"Labels: several in one image, {said}. Unknown: {', '.join(unknown) or 'none'}.")
    known = [d.values for d in splits.values() if d.values is not None]
    if known:
        low, middle, high = np.quantile(np.concatenate(known), [0, 0.5, 1])
        lines.append(f"Values: {first.value_name or 'not named'}, {low:.4g} to {high:.4g}, median {middle:.4g}.")
    if first.inputs:
        lines.append(f"Inputs beside the image: {', '.join(first.inputs)}.")
    return lines


def _recorded(splits: Mapping[str, ImageDataset]) -> list[str]:
    """How often each value of `_COUNTED` occurs, a line for each that is recorded."""
    lines = []
    for name in _COUNTED:
        values = [str(v) for d in splits.values() if name in d.metadata for v in d.metadata[name]]
        if values:
            found, counts = np.unique(values, return_counts=True)
            said = ", ".join(f"{v or 'not stated'} {n}" for v, n in zip(found, counts, strict=True))
            lines.append(f"{name.capitalize()}: {said}.")
    return lines


def _evidence_length(splits: Mapping[str, ImageDataset]) -> dict[str, Any] | None:
    known = [d.metadata["lesion_pixels"].dropna() for d in splits.values() if "lesion_pixels" in d.metadata]
    sizes = np.concatenate(known) if known else np.empty(0)
    if not len(sizes):
        return None
    return dict(zip(("low", "median", "high"), np.percentile(sizes, [5, 50, 95]), strict=True))
