"""From a list of files to an `ImageDataset`: splits, limits, and reading that names what it could not read."""

import hashlib
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

from xaiutils.datasets.image_dataset import ImageDataset, stratified_indices
from xaiutils.images import boxes_to_mask, read_image, read_mask, resize_mask
from xaiutils.progress import progress

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Record:
    """One image file and what is known of it. ``boxes`` are (x, y, width, height) in pixels of the file."""

    path: Path
    label: int
    id: str
    split: str | None = None
    patient: str | None = None
    mask_paths: tuple[Path, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()


def split_indices(labels: np.ndarray, groups: Sequence[str], split: str, seed: int = 0) -> np.ndarray:
    """Indices of ``split`` when nobody has split the data: 70 % train, 10 % val, 20 % test.

    Stratified by label; entries of one group (a patient) stay together. The same seed gives the same split.
    """
    n_folds = min(10, len(set(groups)), int(np.bincount(labels).max()))
    if n_folds < 3:
        raise ValueError(
            f"{len(labels)} images of {len(set(groups))} patients are too few to be split into train, val and test; "
            "put them into split folders, or state the split in a column."
        )
    fold = np.empty(len(labels), int)
    with warnings.catch_warnings():  # a class with fewer members than folds is allowed: it cannot reach every fold
        warnings.simplefilter("ignore", UserWarning)
        folds = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
        for number, (_, members) in enumerate(folds.split(np.zeros(len(labels)), labels, groups)):
            fold[members] = number
    n_test, n_val = max(1, round(0.2 * n_folds)), max(1, round(0.1 * n_folds))
    first_test = n_folds - n_test
    bounds = {"train": (0, first_test - n_val), "val": (first_test - n_val, first_test), "test": (first_test, n_folds)}
    low, high = bounds[split]
    return np.flatnonzero((fold >= low) & (fold < high))


def choose_split(records: list[Record], split: str, seed: int) -> list[Record]:
    """The records of one split: the stated one where the data states it, else a seeded one.

    Data that states train and test but no val gets a val of a tenth of train, by patient where known.
    """
    if split == "all":
        return records
    stated = {r.split for r in records} - {None}
    labels = np.array([r.label for r in records])
    groups = [r.patient or r.id for r in records]
    if not stated:
        return [records[i] for i in split_indices(labels, groups, split, seed)]
    if split in stated and not (split == "train" and "val" not in stated):
        return [r for r in records if r.split == split]
    if split == "test" or "train" not in stated:
        raise ValueError(
            f"the data states the splits {sorted(stated)}, and no {split!r}: add it, or name no split at all, so that "
            "train, val and test are drawn by seed."
        )
    train = np.flatnonzero([r.split == "train" for r in records])
    inner = split_indices(labels[train], [groups[i] for i in train], "val", seed)
    is_val = np.isin(np.arange(len(train)), inner)
    return [records[i] for i in train[is_val if split == "val" else ~is_val]]


def read_records(
    records: list[Record],
    class_names: Sequence[str],
    image_size: int,
    limit: int | None,
    seed: int,
    mask_values: Sequence[int] | int = (),
    keep_aspect: bool = False,
    bit_depth: int = 16,
    origin: str = "",
    already_skipped: Sequence[tuple[str, str]] = (),
) -> ImageDataset:
    """Read ``records`` (a stratified ``limit`` of them), skipping and naming unreadable files.

    Raises ValueError when nothing could be read.
    """
    values = [mask_values] if isinstance(mask_values, int) else list(mask_values)
    if not all(isinstance(v, int) for v in values):
        raise TypeError(f"mask_values={mask_values!r}; expected grey values, such as [1, 3].")
    available = len(records)
    if limit is not None:
        chosen = stratified_indices(np.array([r.label for r in records]), limit, seed)
        records = [records[i] for i in chosen]
    with_masks = any(r.mask_paths or r.boxes for r in records)

    def read(record: Record) -> tuple[np.ndarray, np.ndarray] | Exception:
        try:
            pixels = read_image(record.path, image_size, keep_aspect, bit_depth)
            return pixels, _evidence(record, image_size, values, keep_aspect)
        except Exception as error:  # Pillow raises many kinds on a broken file: SyntaxError, OSError, ...
            return error

    with ThreadPoolExecutor(4) as pool:
        results = list(progress(pool.map(read, records), total=len(records), title="reading images"))
    good = [i for i, result in enumerate(results) if not isinstance(result, Exception)]
    unread = [
        (str(records[i].path), f"{type(error).__name__}: {error}")
        for i, error in enumerate(results)
        if isinstance(error, Exception)
    ]
    skipped = [*already_skipped, *unread]
    if unread:
        first = "; ".join(f"{Path(path).name} ({reason})" for path, reason in unread[:3])
        warnings.warn(f"{len(unread)} of {len(records)} files could not be read: {first}", stacklevel=3)
    if not good:
        raise ValueError(f"none of {len(records)} image files of {origin} could be read; first: {skipped[:1]}")
    patients = [records[i].patient for i in good]
    return ImageDataset(
        pixels=np.stack([results[i][0] for i in good]),
        labels=np.array([records[i].label for i in good]),
        class_names=tuple(class_names),
        ids=[records[i].id for i in good],
        masks=np.stack([results[i][1] for i in good]) if with_masks else None,
        patients=None if None in patients else patients,
        skipped=skipped,
        available=available,
    )


def _evidence(record: Record, image_size: int, values: Sequence[int], keep_aspect: bool) -> np.ndarray:
    mask = np.zeros((image_size, image_size), bool)
    for path in record.mask_paths:
        try:
            mask |= read_mask(path, image_size, values, keep_aspect)
        except Exception as error:
            raise ValueError(f"its mask {path.name}: {error}") from error
    if record.boxes:
        with Image.open(record.path) as image:
            width, height = image.size
        mask |= resize_mask(boxes_to_mask(record.boxes, height, width), image_size, keep_aspect)
    return mask


def find_leaks(splits: dict[str, ImageDataset]) -> list[dict[str, str]]:
    """Patients and identical pictures that occur in more than one split, or twice within one.

    Each finding is a dict with ``kind`` ("patient" or "same image"), ``what`` and ``where``. Identical means equal
    pixels after resizing; near-duplicates are not searched for.
    """
    findings = []
    for kind, key in (("patient", _patients), ("same image", _hashes)):
        places: dict[str, list[tuple[str, str]]] = {}
        for split, dataset in splits.items():
            for value, image_id in key(dataset):
                places.setdefault(value, []).append((split, image_id))
        for value, found in places.items():
            several = len({split for split, _ in found}) > 1
            if several or (kind == "same image" and len(found) > 1):
                what = value if kind == "patient" else " = ".join(image_id for _, image_id in found)
                findings.append({"kind": kind, "what": what, "where": ", ".join(split for split, _ in found)})
    return findings


def _patients(dataset: ImageDataset) -> list[tuple[str, str]]:
    return list(zip(dataset.patients or [], dataset.ids, strict=False))


def _hashes(dataset: ImageDataset) -> list[tuple[str, str]]:
    return [
        (hashlib.sha256(image.tobytes()).hexdigest(), image_id)
        for image, image_id in zip(dataset.pixels, dataset.ids, strict=True)
    ]
