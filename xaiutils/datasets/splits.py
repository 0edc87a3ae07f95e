"""Which image is for training, validation or test: as the data states it, or drawn by seed, patient by patient."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from xaiutils.datasets.image_dataset import stratified_order
from xaiutils.datasets.listing import Record, strata_of

SPLITS = ("train", "val", "test")
_ALIASES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


class NoSplitError(ValueError):
    """The data state their splits, and not the one that is asked for."""


def split_called(text: str) -> str | None:
    """The split that a folder or a cell of this text means, None where it names no split."""
    name = text.strip().lower()
    name = _ALIASES.get(name, name)
    return name if name in SPLITS else None


def split_indices(labels: np.ndarray, groups: Sequence[str], split: str, seed: int = 0) -> np.ndarray:
    """Indices of ``split`` when nobody has split the data: 70 % train, 10 % val, 20 % test.

    Stratified by label; entries of one group (a patient) stay together. The same seed gives the same split. Raises
    ValueError where there are too few.
    """
    n_groups = len(set(groups))
    if n_groups < 3:
        raise ValueError(
            f"{len(labels)} images of {n_groups} patients are too few to be split into train, val and test; "
            "put them into split folders, or state the split in a column."
        )
    part = _parts(labels, seed) if n_groups == len(groups) else _grouped_parts(labels, groups, seed)
    return np.flatnonzero(part == split)


def _parts(labels: np.ndarray, seed: int) -> np.ndarray:
    """The split of each entry, classes in proportion."""
    order = stratified_order(labels, seed)
    n_test, n_val = max(1, round(0.2 * len(labels))), max(1, round(0.1 * len(labels)))
    part = np.full(len(labels), "train", dtype="<U5")
    part[order[:n_test]] = "test"
    part[order[n_test : n_test + n_val]] = "val"
    return part


def _grouped_parts(labels: np.ndarray, groups: Sequence[str], seed: int) -> np.ndarray:
    """The split of each entry, groups whole and classes nearly in proportion."""
    if np.bincount(labels).max() < 3:  # too rare to be kept in proportion: all are one class
        labels = np.zeros_like(labels)
    n_folds = max(3, min(10, len(set(groups)), int(np.bincount(labels).max())))
    part = np.full(len(labels), "train", dtype="<U5")
    n_test, n_val = max(1, round(0.2 * n_folds)), max(1, round(0.1 * n_folds))
    with warnings.catch_warnings():  # a class with fewer members than folds is allowed: it cannot reach every fold
        warnings.simplefilter("ignore", UserWarning)
        folds = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
        for number, (_, members) in enumerate(folds.split(np.zeros(len(labels)), labels, groups)):
            if number < n_test + n_val:
                part[members] = "test" if number < n_test else "val"
    return part


def choose_split(records: list[Record], split: str, seed: int) -> list[Record]:
    """The records of one split: the stated one where the data states it, else a seeded one.

    Data that states train and test but no val gets a val of a tenth of train, by patient where known.
    """
    if split == "all":
        return records
    stated = {r.split for r in records if r.split is not None}
    labels = strata_of(records)
    groups = [r.patient or r.id for r in records]
    if not stated:
        return [records[i] for i in split_indices(labels, groups, split, seed)]
    if split in stated and not (split == "train" and "val" not in stated):
        return [r for r in records if r.split == split]
    if split == "test" or "train" not in stated:
        raise NoSplitError(
            f"the data states the splits {sorted(stated)}, and no {split!r}: add it, or name no split at all, so that "
            "train, val and test are drawn by seed."
        )
    train = np.flatnonzero([r.split == "train" for r in records])
    inner = split_indices(labels[train], [groups[i] for i in train], "val", seed)
    is_val = np.isin(np.arange(len(train)), inner)
    return [records[i] for i in train[is_val if split == "val" else ~is_val]]
