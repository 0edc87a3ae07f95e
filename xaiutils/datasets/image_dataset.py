"""The in-memory data set that every notebook works on."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from xaiutils import text
from xaiutils.images import as_rgb
from xaiutils.registry import suggest

EVIDENCE = ("known", "empty", "unknown")


@dataclass(frozen=True, repr=False)
class ImageDataset:
    """Images with labels, and where known the masks of their evidence.

    ``pixels`` is uint8 (or float32) ``(n, height, width, channels)`` in [0, 255]; ``labels`` int64 ``(n,)``, or of
    images with several labels at once (`multi_label`) int8 ``(n, n_classes)`` of 1 (present), 0 (absent) and -1
    (unknown); ``masks`` bool ``(n, height, width)`` or None; ``evidence`` says of each image what its mask is worth,
    as one of `EVIDENCE`, or is None where nothing is known of any: "known" (the mask marks it, unless it was lost in
    resizing), "empty" (it is known that there is none), "unknown" (nobody said; its mask is empty, and metrics
    against masks are NaN); ``ids`` and ``patients`` are lists of strings (``patients`` None where unknown);
    ``skipped`` names files that could not be read, with the reason; ``files`` counts every file below the data folder
    by what became of it (None where no folder was read), see `xaiutils.datasets.inventory`; ``available`` counts the
    images of the split before a limit took some of them. ``mirrors`` says whether a mirrored image keeps its class (a
    digit does not). ``metadata`` is a table with a row for each image: whatever the data says of it (view, density,
    ...), possibly without columns. ``notes`` are sentences on the whole: what was left out, and by which rule.

    ``label_masks`` bool ``(n, n_classes, height, width)`` or None marks each label's evidence, and ``label_evidence``
    ``(n, n_classes)`` says what each of these masks is worth; ``masks`` and ``evidence`` are then those of any label
    unless given. `of_label` is the set of two classes that one label makes. ``values`` float64 ``(n,)`` or None is a
    measured quantity, for regression, and ``value_name`` what it is called. ``inputs`` holds what a model with several
    inputs takes beside the image: arrays ``(n, ...)`` by the input's name.

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
    label_masks: np.ndarray | None = None
    label_evidence: np.ndarray | None = None
    values: np.ndarray | None = None
    value_name: str = ""
    inputs: dict[str, np.ndarray] | None = None

    def __post_init__(self):
        n = len(self.pixels)
        _check_pixels(self.pixels)
        object.__setattr__(self, "available", self.available or n)
        object.__setattr__(self, "class_names", tuple(map(str, self.class_names)))
        object.__setattr__(self, "labels", _checked_labels(self.labels, self.class_names))
        if self.label_masks is not None or self.label_evidence is not None:
            self._set_label_evidence()
        if self.values is not None:
            object.__setattr__(self, "values", np.asarray(self.values, np.float64))
        if self.inputs is not None:
            object.__setattr__(self, "inputs", {str(k): np.asarray(v) for k, v in self.inputs.items()})
        table = pd.DataFrame(index=range(n)) if self.metadata is None else self.metadata.reset_index(drop=True)
        object.__setattr__(self, "metadata", table)
        if self.evidence is not None or self.masks is not None:
            object.__setattr__(self, "evidence", _states(self.evidence, self.masks))
        rows = {name: getattr(self, name) for name in _ROWS} | {f"inputs[{k!r}]": v for k, v in _items(self.inputs)}
        for name, value in rows.items():
            if value is not None and len(value) != n:
                raise ValueError(f"{name} has {len(value)} entries for {n} images.")
        if self.masks is not None and self.masks.shape != self.pixels.shape[:3]:
            raise ValueError(f"masks has shape {self.masks.shape}; expected {self.pixels.shape[:3]}.")
        if self.values is not None and not (self.values.ndim == 1 and np.isfinite(self.values).all()):
            raise ValueError(f"values must be finite numbers (n,), got {self.values.shape}, or with NaN among them.")

    def _set_label_evidence(self) -> None:
        """Check the evidence of labels, and fill in what follows from it."""
        if not self.multi_label:
            raise ValueError("label_masks and label_evidence are for labels (n, n_classes); give masks and evidence.")
        shape, masks = self.labels.shape, self.label_masks
        expected = (*shape, *self.pixels.shape[1:3])
        if masks is not None and (masks.dtype != bool or masks.shape != expected):
            raise ValueError(f"label_masks must be bool {expected}, got {masks.dtype} {masks.shape}.")
        states = self.label_evidence
        if states is None and masks is not None:
            marked = np.array([m.any(axis=(1, 2)) for m in masks], bool).reshape(shape)
            states = np.where(marked, "known", np.where(self.labels == 0, "empty", "unknown"))
        states = _checked_states(states)
        if states.shape != shape:
            raise ValueError(f"label_evidence has shape {states.shape}; expected {shape}.")
        object.__setattr__(self, "label_evidence", states)
        if self.masks is None and masks is not None:
            object.__setattr__(self, "masks", masks.any(axis=1))
        if self.evidence is None and self.masks is not None:
            known, unknown = (states == "known").any(axis=1), (states == "unknown").any(axis=1)
            object.__setattr__(self, "evidence", np.where(known, "known", np.where(unknown, "unknown", "empty")))

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels at once: ``labels`` is then ``(n, n_classes)``."""
        return self.labels.ndim == 2

    @property
    def class_counts(self) -> np.ndarray:
        """How many images have each class (or label), int64 ``(n_classes,)``."""
        if self.multi_label:
            return (self.labels == 1).sum(axis=0)
        return np.bincount(self.labels, minlength=len(self.class_names))

    def members(self, class_index: int) -> np.ndarray:
        """Which images have a class (or label), bool ``(n,)``."""
        return self.labels[:, class_index] == 1 if self.multi_label else self.labels == class_index

    def label_texts(self) -> list[str]:
        """What each image is, for titles and tables: its class, or of several labels those that it has."""
        if not self.multi_label:
            return [self.class_names[label] for label in self.labels]
        present = ([name for name, y in zip(self.class_names, row, strict=True) if y == 1] for row in self.labels)
        return [" + ".join(names) or "none" for names in present]

    def check_single_label(self, what: str) -> None:
        """Raise ValueError, naming ``what`` cannot be done and the way out, where images have several labels."""
        if self.multi_label:
            raise ValueError(
                f"{what} needs one class for each image; this set's images have several labels at once. Take one of "
                f"them: of_label(name), with a name among {', '.join(self.class_names)}."
            )

    @property
    def images(self) -> np.ndarray:
        """All images as float32 ``(n, height, width, channels)`` in [0, 255]: a new, larger array."""
        return self.pixels.astype(np.float32)

    @property
    def image_size(self) -> int:
        return self.pixels.shape[1]

    def pixel_size(self, i: int) -> tuple[float, float] | None:
        """The size of a pixel of image ``i`` in mm, (down, along), as the metadata say: ``mm_down`` and ``mm_along``,
        which differ where an image was squeezed, else ``mm_per_pixel``. None where it is not known."""
        facts = self.metadata.iloc[i]
        down, along = (float(facts.get(name, facts.get("mm_per_pixel", 0))) for name in ("mm_down", "mm_along"))
        return (down, along) if down > 0 and along > 0 else None

    def __len__(self) -> int:
        return len(self.pixels)

    def facts(self) -> dict[str, str]:
        """What there is, in words, by name: what a notebook shows of the set."""
        classes = [f"{name} {n}" for name, n in zip(self.class_names, self.class_counts, strict=True)]
        if self.multi_label:
            unknown = (self.labels == -1).sum(axis=0)
            classes = [f"{said} ({n} unknown)" if n else said for said, n in zip(classes, unknown, strict=True)]
        more = [f"and {len(classes) - 12} more"] if len(classes) > 12 else []
        states = "none" if self.evidence is None else ", ".join(f"{s} {(self.evidence == s).sum()}" for s in EVIDENCE)
        channels = self.pixels.shape[-1]
        facts = {
            "data set": self.name or "not named",
            "split": self.split or "not named",
            "images": f"{len(self)} of {self.available}" if self.available != len(self) else str(len(self)),
            "size": f"{self.pixels.shape[1]} x {self.pixels.shape[2]} pixels"
            + (f", {channels} channel{'s' if channels > 1 else ''}" if channels != 3 else ""),
            "labels" if self.multi_label else "classes": ", ".join(classes[:12] + more),
            "patients": "not known" if self.patients is None else str(len(set(self.patients))),
            "evidence": states,
            "skipped": str(len(self.skipped)),
        }
        if self.values is not None and len(self):
            low, middle, high = np.quantile(self.values, [0, 0.5, 1])
            facts["values"] = f"{self.value_name or 'not named'} {low:.4g} to {high:.4g}, median {middle:.4g}"
        if self.inputs:
            facts["inputs"] = ", ".join(self.inputs)
        return facts

    def __repr__(self) -> str:
        return f"ImageDataset({'; '.join(f'{name}: {text.one_line(said)}' for name, said in self.facts().items())})"

    def _repr_html_(self) -> str:
        rows = (f"<tr><th>{name}</th><td>{text.html(said)}</td></tr>" for name, said in self.facts().items())
        few = self.sample(6)  # some kB, however many images there are
        shown = map(_thumbnail, few.pixels, few.label_texts())
        return f'<table class="tex2jax_ignore">{"".join(rows)}</table>{"".join(shown)}'

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
            label_masks=None if self.label_masks is None else self.label_masks[indices],
            label_evidence=None if self.label_evidence is None else self.label_evidence[indices],
            values=None if self.values is None else self.values[indices],
            inputs=None if self.inputs is None else {name: rows[indices] for name, rows in self.inputs.items()},
        )

    def of_label(self, name: str) -> "ImageDataset":
        """The set of two classes, "no NAME" and "NAME", that one of several labels makes, with that label's masks and
        evidence. Images of which the label is unknown are left out, and a note counts them.

        Raises ValueError where the images have one class each, or for a name that is no label.
        """
        if not self.multi_label:
            raise ValueError(f"of_label({name!r}) is for images with several labels; these have one class each.")
        if name not in self.class_names:
            raise ValueError(f"the set has no label {name!r}; {suggest(name, list(self.class_names))}")
        column = self.class_names.index(name)
        of_known = self.select(self.labels[:, column] >= 0)
        lost, notes = len(self) - len(of_known), list(self.notes)
        if lost:
            notes.append(f"{lost} of {len(self)} images are left out: whether they show {name!r} is unknown.")
        masks, states = of_known.label_masks, of_known.label_evidence
        return replace(
            of_known,
            labels=of_known.labels[:, column],
            class_names=(f"no {name}", name),
            masks=None if masks is None else masks[:, column],
            evidence=None if states is None else states[:, column],
            label_masks=None,
            label_evidence=None,
            metadata=of_known.metadata.drop(columns="lesion_pixels", errors="ignore"),
            notes=notes,
        )

    def corner(self, height: int, width: int) -> "ImageDataset":
        """The upper left part of all images and masks, in pixels: mammograms that were squeezed into squares, without
        the empty side away from the chest wall."""
        part = np.s_[..., :height, :width]
        return replace(
            self,
            pixels=self.pixels[:, :height, :width],
            masks=None if self.masks is None else self.masks[part],
            label_masks=None if self.label_masks is None else self.label_masks[part],
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
        """Yield (float32 images, ``labels``); the last batch may be smaller."""
        order = np.random.default_rng(seed).permutation(len(self)) if shuffle else np.arange(len(self))
        for start in range(0, len(self), batch_size):
            chosen = order[start : start + batch_size]
            yield self.pixels[chosen].astype(np.float32), self.labels[chosen]


_ROWS = ("labels", "ids", "masks", "patients", "metadata", "evidence", "values")


def _items(inputs: dict[str, np.ndarray] | None) -> Any:
    return (inputs or {}).items()


def _thumbnail(pixels: np.ndarray, label: str) -> str:
    """An image of at most 64 pixels with its label below, as HTML."""
    picture, data, said = Image.fromarray(as_rgb(pixels).astype(np.uint8)), io.BytesIO(), text.html(label)
    picture.thumbnail((64, 64))
    picture.save(data, "jpeg")
    source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    style = "display: inline-block; width: 72px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap"
    return (
        f'<div class="tex2jax_ignore" style="{style}"><img alt="{said}" title="{said}" src="{source}"><br>{said}</div>'
    )


def _check_pixels(pixels: np.ndarray) -> None:
    """Raise ValueError unless they are 8 bit, or floats of the same range."""
    if pixels.dtype not in (np.uint8, np.float32) or pixels.ndim != 4 or pixels.shape[-1] < 1:
        raise ValueError(
            f"pixels must be uint8 or float32 (n, height, width, channels), got {pixels.dtype} {pixels.shape}."
        )
    if pixels.dtype == np.float32 and pixels.size:
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 255):  # true for NaN too
            raise ValueError(f"float32 pixels must lie in [0, 255], got {low:g} to {high:g}; scale them to it.")


def _checked_labels(labels: Any, names: tuple[str, ...]) -> np.ndarray:
    """int64 ``(n,)`` positions in ``names``, or int8 ``(n, n_classes)`` of 0, 1 and -1."""
    found = np.asarray(labels)
    if found.ndim != 2:
        found = np.asarray(found, np.int64)
        if found.ndim != 1 or (len(found) and not (found.min() >= 0 and found.max() < len(names))):
            raise ValueError(f"labels must lie in 0..{len(names) - 1}.")
        return found
    if found.shape[1] != len(names) or not np.isin(found, (-1, 0, 1)).all():
        raise ValueError(
            f"labels of images with several each must be (n, {len(names)}) of 1 (present), 0 (absent) or -1 (unknown), "
            f"got {found.shape}."
        )
    return found.astype(np.int8)


def _states(given: Any, masks: np.ndarray | None) -> np.ndarray:
    """The state of each image's evidence as an array of texts. Without one, an image whose mask is empty has none."""
    if given is None:
        given = ["known" if mask.any() else "empty" for mask in ([] if masks is None else masks)]
    return _checked_states(given)


def _checked_states(given: Any) -> np.ndarray:
    states = np.array(given, dtype=str)
    if not np.isin(states, EVIDENCE).all():
        unknown = sorted(set(states.ravel().tolist()) - set(EVIDENCE))
        raise ValueError(f"evidence must be of {', '.join(EVIDENCE)}, got {unknown}.")
    return states


def largest_extent(mask: np.ndarray) -> np.ndarray:
    """Height and width of the box around the largest connected part of a bool mask that is not empty."""
    parts, _ = ndimage.label(mask)
    largest = int(np.bincount(parts.ravel())[1:].argmax()) + 1
    rows, columns = ndimage.find_objects(parts, largest)[largest - 1]
    return np.array([rows.stop - rows.start, columns.stop - columns.start])


def strata(labels: np.ndarray) -> np.ndarray:
    """One class for each entry, int64 ``(n,)``, for draws by class: labels ``(n,)`` as they are; of ``(n, n_classes)``
    the rarest of those that an entry has, and ``n_classes`` for an entry without any."""
    if labels.ndim == 1:
        return labels
    present = labels == 1
    rarest_first = np.argsort(present.sum(axis=0), kind="stable")
    ordered = present[:, rarest_first]
    return np.where(present.any(axis=1), rarest_first[ordered.argmax(axis=1)], labels.shape[1])


def balanced_indices(labels: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Sorted indices of ``n`` entries, drawn by turns from the classes (`strata` of labels ``(n, n_classes)``)."""
    if n >= len(labels):
        return np.arange(len(labels))
    labels = strata(labels)
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
