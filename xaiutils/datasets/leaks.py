"""A search for what makes a test score a memory test: one patient, or one picture, in two splits."""

import hashlib

import numpy as np
import pandas as pd

from xaiutils.datasets.image_dataset import ImageDataset
from xaiutils.datasets.patients import FOLDER


def find_leaks(splits: dict[str, ImageDataset]) -> list[dict[str, str]]:
    """Patients and identical pictures that occur in more than one split, or twice within one.

    Each finding is a dict with ``kind`` ("patient", "folder" or "same image"), ``what`` and ``where``. Identical means
    equal pixels after resizing; near-duplicates are not searched for. Images without a known patient are patients of
    their own. Where no patients are known, a folder below its class with images in several splits is told: it may be a
    patient's.
    """
    findings = []
    folders = {place for d in splits.values() for place in d.metadata.get(FOLDER, pd.Series(dtype=str)).dropna()}
    for kind, key in (("patient", _patients), ("folder", _folders), ("same image", _hashes)):
        if kind == "folder" and len(folders) == 1:  # of all images
            continue
        places: dict[str, list[tuple[str, str]]] = {}
        for split, dataset in splits.items():
            for value, image_id in key(dataset):
                places.setdefault(value, []).append((split, image_id))
        for value, found in places.items():
            several = len({split for split, _ in found}) > 1
            if several or (kind == "same image" and len(found) > 1):
                what = value if kind != "same image" else " = ".join(image_id for _, image_id in found)
                findings.append({"kind": kind, "what": what, "where": ", ".join(split for split, _ in found)})
    return findings


def _patients(dataset: ImageDataset) -> list[tuple[str, str]]:
    return list(zip(dataset.patients or [], dataset.ids, strict=False))


def _folders(dataset: ImageDataset) -> list[tuple[str, str]]:
    if dataset.patients is not None or FOLDER not in dataset.metadata:
        return []
    rows = zip(dataset.label_texts(), dataset.metadata[FOLDER], dataset.ids, strict=True)
    return [(f"{label}/{place}", image) for label, place, image in rows if isinstance(place, str)]


def _hashes(dataset: ImageDataset) -> list[tuple[str, str]]:
    return [(picture_hash(image), image_id) for image, image_id in zip(dataset.pixels, dataset.ids, strict=True)]


def picture_hash(image: np.ndarray) -> str:
    """Of pixels ``(height, width, channels)``, of one channel where all are equal: the same picture must not differ by
    how its neighbours are stored."""
    first = np.ascontiguousarray(image[..., 0])
    one = image.shape[-1] == 1 or image.strides[-1] == 0
    grey = one or all((image[..., c] == first).all() for c in range(1, image.shape[-1]))
    return hashlib.sha256((first if grey else np.ascontiguousarray(image)).data).hexdigest()
