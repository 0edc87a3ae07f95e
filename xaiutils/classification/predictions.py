"""What a classifier said of a set of images: checked once, and combined per patient or breast."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from xaiutils.class_names import positive_class

COMBINE = ("max", "mean")


@dataclass(frozen=True)
class Predictions:
    """Labels and probabilities of images, and whose images they are.

    Attributes:
        labels: int64 ``(n,)``, positions in ``class_names``.
        probabilities: float ``(n, columns)``; each row sums to 1. A model may know more classes than the data
            have: columns beyond ``class_names`` are those others.
        class_names: names by label, at least two.
        groups: for each coarser level, such as "patient" or "breast", the group of each image. ``groups["patient"]``,
            where given, is the unit that is drawn in a bootstrap: images of one patient are not independent.
        ids: names of the images, where known.
        level: what a row is; `per` makes others than "image".

    Raises:
        ValueError: shapes disagree, or the probabilities are none (NaN, below 0, above 1, not summing to 1).
    """

    labels: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    groups: Mapping[str, Sequence[str] | np.ndarray] = field(default_factory=dict)
    ids: Sequence[str] | None = None
    level: str = "image"

    def __post_init__(self) -> None:
        labels, p = np.asarray(self.labels), np.asarray(self.probabilities)
        names = tuple(map(str, self.class_names))
        if p.dtype.kind != "f":
            p = p.astype(float)
        if labels.ndim != 1 or p.ndim != 2 or len(labels) != len(p):
            raise ValueError(f"labels must be (n,) and probabilities (n, classes), got {labels.shape} and {p.shape}.")
        if len(labels) == 0:
            raise ValueError("there are no images: nothing can be said of the classifier.")
        if len(set(names)) != len(names) or len(names) < 2:
            raise ValueError(f"class_names must be two or more different names, got {names}.")
        if p.shape[1] < len(names):
            raise ValueError(
                f"probabilities has {p.shape[1]} columns for {len(names)} classes ({', '.join(names)}): the model "
                "knows fewer classes than the data. Build it with n_classes, or give both columns of a sigmoid."
            )
        if not np.all(labels == labels.astype(np.int64)) or labels.min() < 0 or labels.max() >= len(names):
            raise ValueError(f"labels must be integers in 0..{len(names) - 1}.")
        if bad := int((~np.isfinite(p)).any(axis=1).sum()):
            raise ValueError(
                f"the probabilities of {bad} of {len(p)} images are NaN or infinite: this model's answers cannot be "
                "scored. Look for a diverged training, or for broken images."
            )
        if p.min() < -1e-6 or p.max() > 1 + 1e-6 or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
            raise ValueError(
                "probabilities must lie in [0, 1] and each row must sum to 1: give probabilities, not logits; several "
                "classes at once in one image are not supported."
            )
        for name, members in {**self.groups, "ids": labels if self.ids is None else self.ids}.items():
            if len(members) != len(labels):
                raise ValueError(f"{name} has {len(members)} entries for {len(labels)} images.")
        object.__setattr__(self, "labels", labels.astype(np.int64))
        object.__setattr__(self, "probabilities", p)
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "groups", {k: np.asarray(v).astype(str) for k, v in self.groups.items()})

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable column, int64 ``(n,)``; others than the data's classes are ``len(class_names)``."""
        return np.minimum(self.probabilities.argmax(axis=1), len(self.class_names))

    @property
    def unit(self) -> str:
        """What is drawn in a bootstrap: "patient" where patients are known, else what a row is."""
        return "patient" if "patient" in self.groups else self.level

    @property
    def units(self) -> np.ndarray:
        """The number of each image's unit, int64 ``(n,)``, from 0 without gaps."""
        if "patient" not in self.groups:
            return np.arange(len(self))
        return pd.factorize(self.groups["patient"])[0].astype(np.int64)

    def positive(self, positive: str | int | None = None) -> int | None:
        """The number of the positive class: as given (name or number), else of two the one whose name speaks of
        disease, or the last (`xaiutils.class_names.positive_class`); None of more."""
        k = len(self.class_names)
        if positive is None or positive == "":
            return positive_class(self.class_names)[0]
        if isinstance(positive, str):
            if positive not in self.class_names:
                raise ValueError(f"positive={positive!r} is no class; the classes are {', '.join(self.class_names)}.")
            return self.class_names.index(positive)
        if isinstance(positive, bool) or not -k <= positive < k:
            raise ValueError(f"positive={positive!r}; expected a class name or a number in 0..{k - 1}.")
        return int(positive) % k

    def per(self, level: str, positive: str | int | None = None, combine: str = "max") -> "Predictions":
        """One prediction for each group of ``level``.

        Of two classes a group is positive if one of its images is, and its probability is the largest (``combine``
        "max", as a reader recalls a patient for one suspicious view) or the mean of its images'. Of more classes the
        probability is always the mean.

        Raises ValueError: unknown ``level`` or ``combine``; images of several classes in a group, of more than two.
        """
        if level not in self.groups:
            raise ValueError(f"level={level!r} is unknown; known: {', '.join(self.groups) or 'none'}.")
        if combine not in COMBINE:
            raise ValueError(f"combine={combine!r}; choose one of {', '.join(COMBINE)}.")
        group, names = pd.factorize(np.asarray(self.groups[level]))
        sums = np.zeros((len(names), self.probabilities.shape[1]))
        np.add.at(sums, group, self.probabilities)
        probabilities = sums / np.bincount(group)[:, None]
        p = self.positive(positive)
        if p is not None and len(self.class_names) == self.probabilities.shape[1] == 2:
            score = np.zeros(len(names)) if combine == "max" else probabilities[:, p].copy()
            if combine == "max":
                np.maximum.at(score, group, self.probabilities[:, p])
            labels = np.where(np.bincount(group, self.labels == p) > 0, p, 1 - p)
            probabilities[:, p], probabilities[:, 1 - p] = score, 1 - score
        else:
            labels = np.zeros(len(names), np.int64)
            np.maximum.at(labels, group, self.labels)
            if (labels[group] != self.labels).any():
                raise ValueError(f"images of one {level} are of several classes: it has no class of its own.")
        first = np.unique(group, return_index=True)[1]
        kept = {
            k: np.asarray(v)[first]
            for k, v in self.groups.items()
            if len(set(zip(group, v, strict=True))) == len(names)
        }
        return Predictions(labels, probabilities, self.class_names, kept, list(names), level)
