"""The in-memory data set that every notebook works on."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from xaiutils import text

EVIDENCE = ("known", "empty", "unknown")


@dataclass(frozen=True, repr=False)
class ImageDataset:
    """Images with labels, and where known the masks of their evidence.

    ``pixels`` is uint8 ``(n, height, width, 3)`` in [0, 255]; ``labels`` int64 ``(n,)``; ``masks`` bool
    ``(n, height, width)`` or None; ``evidence`` says of each image what its mask is worth, as one of `EVIDENCE`, or is
    None where nothing is known of any: "known" (the mask marks it, unless it was lost in resizing), "empty" (it is
    known that there is none), "unknown" (nobody said; its mask is empty, and metrics against masks are NaN); ``ids``
    and ``patients`` are lists of strings (``patients`` None where unknown); ``skipped`` names files that could not be
    read, with the reason; ``files`` counts every file below the data folder by what became of it (None where no
    folder was read), see `xaiutils.datasets.inventory`;
    ``available`` counts the images of the split before a limit took some of them. ``mirrors`` says whether a mirrored
    image keeps its class (a digit does not). ``metadata`` is a table with a row for each image: whatever the data
    says of it (view, density, ...), possibly without columns. ``notes`` are sentences on the whole: what was left
    out, and by which rule.

    Arrays of a large set may live on disk (`numpy.memmap`), and a grey image may be one channel seen three times:
    index them, do not write into them. `batches` reads a batch at a time.
    """

    pixels: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: list[str]
    masks: np.ndarray | None = None
    patients: list[str] | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    name: str = ""
    split: str = ""
    available: int = 0
    mirrors: bool = True
    metadata: pd.DataFrame = None  # type: ignore[assignment]  # without any it becomes a table without columns
    notes: list[str] = field(default_factory=list)
    evidence: np.ndarray | None = None
    files: pd.DataFrame | None = None

    def __post_init__(self):
        n = len(self.pixels)
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4 or self.pixels.shape[-1] != 3:
            raise ValueError(
                f"pixels must be uint8 (n, height, width, 3), got {self.pixels.dtype} {self.pixels.shape}."
            )
        object.__setattr__(self, "available", self.available or n)
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int64))
        object.__setattr__(self, "class_names", tuple(map(str, self.class_names)))
        table = pd.DataFrame(index=range(n)) if self.metadata is None else self.metadata.reset_index(drop=True)
        object.__setattr__(self, "metadata", table)
        if self.evidence is not None or self.masks is not None:
            object.__setattr__(self, "evidence", _states(self.evidence, self.masks))
        for name in ("labels", "ids", "masks", "patients", "metadata", "evidence"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise ValueError(f"{name} has {len(value)} entries for {n} images.")
        if self.masks is not None and self.masks.shape != self.pixels.shape[:3]:
            raise ValueError(f"masks has shape {self.masks.shape}; expected {self.pixels.shape[:3]}.")
        if n and not (self.labels.min() >= 0 and self.labels.max() < len(self.class_names)):
            raise ValueError(f"labels must lie in 0..{len(self.class_names) - 1}.")

    @property
    def images(self) -> np.ndarray:
        """All images as float32 ``(n, height, width, 3)`` in [0, 255]: a new array, four times the stored size."""
        return self.pixels.astype(np.float32)

    @property
    def image_size(self) -> int:
        return self.pixels.shape[1]

    def __len__(self) -> int:
        return len(self.pixels)

    def facts(self) -> dict[str, str]:
        """What there is, in words, by name: what a notebook shows of the set."""
        counts = np.bincount(self.labels, minlength=len(self.class_names)) if len(self) else [0] * len(self.class_names)
        classes = [f"{name} {n}" for name, n in zip(self.class_names, counts, strict=True)]
        more = [f"and {len(classes) - 12} more"] if len(classes) > 12 else []
        states = "none" if self.evidence is None else ", ".join(f"{s} {(self.evidence == s).sum()}" for s in EVIDENCE)
        return {
            "data set": self.name or "not named",
            "split": self.split or "not named",
            "images": f"{len(self)} of {self.available}" if self.available != len(self) else str(len(self)),
            "size": f"{self.pixels.shape[1]} x {self.pixels.shape[2]} pixels",
            "classes": ", ".join(classes[:12] + more),
            "patients": "not known" if self.patients is None else str(len(set(self.patients))),
            "evidence": states,
            "skipped": str(len(self.skipped)),
        }

    def __repr__(self) -> str:
        return f"ImageDataset({'; '.join(f'{name}: {text.one_line(said)}' for name, said in self.facts().items())})"

    def _repr_html_(self) -> str:
        rows = (f"<tr><th>{name}</th><td>{text.html(said)}</td></tr>" for name, said in self.facts().items())
        return f'<table class="tex2jax_ignore">{"".join(rows)}</table>'

    def select(self, indices: Any) -> "ImageDataset":
        """The images at ``indices`` (integers or a bool mask), in that order."""
        indices = np.asarray(indices)
        if indices.dtype == bool:
            indices = np.flatnonzero(indices)
        indices = indices.astype(np.int64)
        return replace(
            self,
            pixels=self.pixels[indices],
            labels=self.labels[indices],
            ids=[self.ids[i] for i in indices],
            masks=None if self.masks is None else self.masks[indices],
            patients=None if self.patients is None else [self.patients[i] for i in indices],
            evidence=None if self.evidence is None else self.evidence[indices],
            metadata=self.metadata.iloc[indices],
        )

    def take(self, n: int) -> "ImageDataset":
        """The first ``n`` images."""
        return self.select(np.arange(min(n, len(self))))

    def sample(self, n: int, seed: int = 0) -> "ImageDataset":
        """``n`` images with the classes as evenly represented as they can be, in their stored order."""
        return self.select(balanced_indices(self.labels, n, seed))

    def lesion_lengths(self) -> np.ndarray:
        """The longer side of each image's largest connected piece of evidence, in pixels of the prepared image;
        float64 ``(n,)``, NaN without evidence. As the reader measured it at full size, else from the masks."""
        if "lesion_pixels" in self.metadata:
            return self.metadata["lesion_pixels"].to_numpy(float)
        if self.masks is None:
            return np.full(len(self), np.nan)
        return np.array([largest_extent(m).max() if m.any() else np.nan for m in self.masks], float)

    def batches(
        self, batch_size: int = 32, shuffle: bool = False, seed: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (float32 images, int64 labels); the last batch may be smaller."""
        order = np.random.default_rng(seed).permutation(len(self)) if shuffle else np.arange(len(self))
        for start in range(0, len(self), batch_size):
            chosen = order[start : start + batch_size]
            yield self.pixels[chosen].astype(np.float32), self.labels[chosen]


def _states(given: Any, masks: np.ndarray | None) -> np.ndarray:
    """The state of each image's evidence as an array of texts. Without one, an image whose mask is empty has none."""
    if given is None:
        given = ["known" if mask.any() else "empty" for mask in ([] if masks is None else masks)]
    states = np.array(given, dtype=str)
    if not np.isin(states, EVIDENCE).all():
        raise ValueError(
            f"evidence must be of {', '.join(EVIDENCE)}, got {sorted(set(states.tolist()) - set(EVIDENCE))}."
        )
    return states


def largest_extent(mask: np.ndarray) -> np.ndarray:
    """Height and width of the box around the largest connected part of a bool mask that is not empty."""
    parts, _ = ndimage.label(mask)
    largest = int(np.bincount(parts.ravel())[1:].argmax()) + 1
    rows, columns = ndimage.find_objects(parts, largest)[largest - 1]
    return np.array([rows.stop - rows.start, columns.stop - columns.start])


def balanced_indices(labels: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Sorted indices of ``n`` entries, drawn by turns from the classes."""
    if n >= len(labels):
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    turns = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turns[rng.permutation(members)] = np.arange(len(members))
    return np.sort(np.lexsort((rng.random(len(labels)), turns))[:n])


def stratified_indices(labels: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Sorted indices of ``n`` entries that keep the class proportions."""
    return np.sort(stratified_order(labels, seed)[:n]) if n < len(labels) else np.arange(len(labels))


def stratified_order(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """A random order of all entries, of which every beginning keeps the class proportions."""
    rng = np.random.default_rng(seed)
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((rng.random(len(labels)), rank))
