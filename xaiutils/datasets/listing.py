"""What a loader finds before any picture is read: a `Record` for each image, and how one is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xaiutils.datasets.image_dataset import strata
from xaiutils.text import counted


@dataclass(frozen=True)
class Record:
    """One image and what is known of it before it is read. ``source`` is what the listing's reader needs.

    ``labels``, of an image that may have several at once, is 1, 0 or -1 (unknown) for each of the listing's classes,
    and ``label`` then says nothing. ``value`` is a measured quantity, ``inputs`` what a model takes beside the image.
    All records of a listing have them, or none.
    """

    id: str
    label: int
    source: Any
    split: str | None = None
    patient: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[int, ...] | None = None
    value: float | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)


def labels_of(records: Sequence[Record]) -> np.ndarray:
    """Labels as `ImageDataset` has them: int64 ``(n,)``, or int8 ``(n, n_classes)``."""
    if records and records[0].labels is not None:
        return np.array([r.labels for r in records], np.int8)
    return np.array([r.label for r in records], np.int64)


def strata_of(records: Sequence[Record]) -> np.ndarray:
    """A class for each record, int64 ``(n,)``, that splits and limits keep in proportion: its label, of several the
    rarest (`strata`), and of images with a value and one class alone the fifth in which the value lies."""
    labels = strata(labels_of(records))
    if len(records) and records[0].value is not None and (labels == labels[0]).all():
        values = np.array([r.value for r in records], float)
        return np.searchsorted(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), values)
    return labels


UNKNOWN_PATIENT = "unknown ("


def unknown_patient(image_id: str) -> str:
    """Stands for the patient of an image of whom nothing is known, where others are: one of its own."""
    return f"{UNKNOWN_PATIENT}{image_id})"


@dataclass(frozen=True)
class Picture:
    """One image as it was read: uint8 ``(size, size)`` or ``(size, size, 3)``, a bool mask (empty: there is no
    evidence; None: where it is, is not known), and what was seen on the way.

    ``remarks`` are told for the whole set (`summarise_remarks`): ``evidence`` (why it cannot be right),
    ``outlines_clipped`` (number), ``clipped`` (number of pixels over the range), ``even`` (hardly any contrast),
    ``bits_exceeded``.

    Of images with several labels, ``label_masks`` bool ``(n_labels, size, size)`` is the evidence of each, and
    ``label_states`` one of `image_dataset.EVIDENCE` for each.
    """

    pixels: np.ndarray
    mask: np.ndarray | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    remarks: Mapping[str, Any] = field(default_factory=dict)
    label_masks: np.ndarray | None = None
    label_states: tuple[str, ...] | None = None


def summarise_remarks(remarks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What pictures' remarks (by image id) say of the whole set, in sentences that count and name, by remark."""
    notes = {}
    for key, words in (
        ("evidence", "evidence that cannot be read or cannot be right, so that it is not known"),
        ("outlines_clipped", "outlines that reach a little over the edge and are cut off there"),
        ("clipped", "values over the range of their bits (bit_depth), which are shown as white"),
        (
            "even",
            "more than 8 bits and use less than an eighth of the greys from black to white, so that little can be "
            "seen; give window=[centre, width], or bit_depth (12 for many detectors)",
        ),
        ("bits_exceeded", "values beyond the bits that their DICOM headers state; all that are allocated count"),
    ):
        found = {name: said[key] for name, said in remarks.items() if key in said}
        if found:
            first = [f"{name} ({said})" if isinstance(said, str) else name for name, said in list(found.items())[:3]]
            have = counted(len(found), "image has", "images have")
            notes[key] = f"{have} {words}: {'; '.join(first)}{' ...' if len(found) > 3 else '.'}"
    return notes


@dataclass(frozen=True)
class Listing:
    """All images that a loader knows of. ``read(source, image_size)`` returns a `Picture` or raises.

    ``available`` is given where
    the records are those of the split and limit that were asked for: it says out of how many. ``origin`` names the
    data in messages. ``root`` is the folder whose files are accounted for (`xaiutils.datasets.inventory`), ``files``
    what became of those that no record names, as a kind of that account. ``value_name`` says what the records'
    values are.
    """

    records: list[Record]
    class_names: tuple[str, ...]
    read: Callable[[Any, int], Picture]
    origin: str = ""
    mirrors: bool = True
    available: int | None = None
    skipped: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    root: Path | None = None
    files: Mapping[Path, str] = field(default_factory=dict)
    value_name: str = ""
