"""A datasheet (Gebru et al. 2021, CACM 64) written from what was found in the splits."""

from collections.abc import Mapping, Sequence

import numpy as np

from xaiutils.datasets.catalogue import DATASETS
from xaiutils.datasets.image_dataset import ImageDataset
from xaiutils.datasets.leaks import find_leaks
from xaiutils.text import markdown


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
    title = entry.title if entry else first.name or "Data set"
    parts = [f"# Datasheet: {markdown(title)}", "", "## Composition", "", _table(splits), ""]
    found = find_leaks(dict(splits)) if leaks is None else leaks
    parts += [f"- {markdown(line)}" for line in _composition(splits, found)]
    parts += ["", "## Preparation", ""] + [f"- {markdown(line)}" for line in _preparation(splits, entry, options or {})]
    parts += ["", "## Origin, licence, use", ""]
    if entry:
        parts += [f"- Origin: {entry.citation}.", f"- Licence: {entry.licence}.", f"- Access: {entry.access}."]
        parts += [f"- Caution: {entry.caution}"]
    parts += ["- Fit for: research on classifiers and on their explanations. Not fit for: decisions about patients."]
    parts += ["", "## Not known here", ""] + [f"- {line}" for line in _unknown(splits)]
    return "\n".join(parts) + "\n"


def _table(splits: Mapping[str, ImageDataset]) -> str:
    names = next(iter(splits.values())).class_names
    known = all(d.patients is not None for d in splits.values())
    head = ["split", "images", "of", *names, *(["patients"] if known else []), "with evidence"]
    rows = ["| " + " | ".join(map(markdown, head)) + " |", "|" + " --- |" * len(head)]
    for split, d in splits.items():
        counts = np.bincount(d.labels, minlength=len(names))
        evidence = "-" if d.masks is None else int(d.masks.any(axis=(1, 2)).sum())
        patients = [len(set(d.patients))] if known else []
        rows.append("| " + " | ".join(map(markdown, [split, len(d), d.available, *counts, *patients, evidence])) + " |")
    return "\n".join(rows)


def _composition(splits: Mapping[str, ImageDataset], leaks: Sequence[Mapping[str, str]]) -> list[str]:
    lines = []
    for name in ("view", "side", "density", "abnormality", "tag"):
        values = [str(v) for d in splits.values() if name in d.metadata for v in d.metadata[name]]
        if values:
            found, counts = np.unique(values, return_counts=True)
            said = ", ".join(f"{v or 'not stated'} {n}" for v, n in zip(found, counts, strict=True))
            lines.append(f"{name.capitalize()}: {said}.")
    sizes = np.concatenate(
        [d.metadata["lesion_pixels"].dropna() for d in splits.values() if "lesion_pixels" in d.metadata] or [[]]
    )
    if len(sizes):
        side = next(iter(splits.values())).image_size
        lines.append(
            f"Evidence: median {np.median(sizes):.0f} pixels long at {side} pixels "
            f"(5 to 95 %: {np.percentile(sizes, 5):.0f} to {np.percentile(sizes, 95):.0f})."
        )
    kinds = {k: sum(leak["kind"] == k for leak in leaks) for k in ("patient", "folder", "same image")}
    known = all(d.patients is not None for d in splits.values())
    patients = f"{kinds['patient']} patients in several splits" if known else "patients are not known, so not checked"
    if kinds["folder"]:
        patients += f" ({kinds['folder']} folders have images in several splits: are they patients?)"
    lines.append(f"Leaks: {patients}; {kinds['same image']} pictures more than once.")
    skipped = {entry for d in splits.values() for entry in d.skipped}
    lines.append(f"Left out because they could not be read or found: {len(skipped)}.")
    return lines + list(dict.fromkeys(note for d in splits.values() for note in d.notes))


def _preparation(splits, entry, options) -> list[str]:
    first = next(iter(splits.values()))
    lines = [f"{first.image_size} x {first.image_size} pixels, 8 bits; grey pictures repeated over three channels."]
    if entry:
        chosen = {**entry.options, **options}
        said = ", ".join(f"{k}={v!r}" for k, v in chosen.items())
        lines.append(f"Options: {said}." if said else "The data set has no options.")
        lines.append(f"Evidence: {entry.evidence}.")
    return lines


def _unknown(splits: Mapping[str, ImageDataset]) -> list[str]:
    first = next(iter(splits.values()))
    lines = []
    if first.patients is None and not (first.name in DATASETS and DATASETS[first.name].generated):
        lines.append("Patients or writers: images of one may be in several splits.")
    if first.masks is None:
        lines.append("Where the evidence is: there are no masks.")
    if "mm_per_pixel" not in first.metadata:
        lines.append("The size of a pixel in millimetres.")
    return [
        *lines,
        "Age, sex, origin and device of the people, unless named above: bias by them cannot be checked.",
        "Motivation: who made the set, for what, and who paid. Complete by hand.",
        "Collection: when, where, by which machines, with whose consent. Complete by hand.",
        "Labelling: who labelled, how sure they were, how often two readers agreed. Complete by hand.",
        "Maintenance: who corrects errors, and which version this is. Complete by hand.",
    ]
