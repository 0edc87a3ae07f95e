"""What a loader finds before any picture is read: a `Record` for each image, and how one is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Record:
    """One image and what is known of it before it is read. ``source`` is what the listing's reader needs."""

    id: str
    label: int
    source: Any
    split: str | None = None
    patient: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


UNKNOWN_PATIENT = "unknown ("


def unknown_patient(image_id: str) -> str:
    """Stands for the patient of an image of whom nothing is known, where others are: one of its own."""
    return f"{UNKNOWN_PATIENT}{image_id})"


@dataclass(frozen=True)
class Picture:
    """One image as it was read: uint8 ``(size, size)`` or ``(size, size, 3)``, a bool mask (empty: there is no
    evidence; None: where it is, is not known), and what was seen on the way."""

    pixels: np.ndarray
    mask: np.ndarray | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """All images that a loader knows of. ``read(source, image_size)`` returns a `Picture` or raises.

    ``available`` is given where
    the records are those of the split and limit that were asked for: it says out of how many. ``origin`` names the
    data in messages.
    """

    records: list[Record]
    class_names: tuple[str, ...]
    read: Callable[[Any, int], Picture]
    origin: str = ""
    mirrors: bool = True
    available: int | None = None
    skipped: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
