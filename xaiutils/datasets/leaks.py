"""A search for what makes a test score a memory test: one patient, or one picture, in two splits."""

import hashlib

import numpy as np

from xaiutils.datasets.image_dataset import ImageDataset


def find_leaks(splits: dict[str, ImageDataset]) -> list[dict[str, str]]:
    """Patients and identical pictures that occur in more than one split, or twice within one.

    Each finding is a dict with ``kind`` ("patient" or "same image"), ``what`` and ``where``. Identical means equal
    pixels after resizing; near-duplicates are not searched for. Images without a known patient are patients of their
    own.
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
    return [(_hash(image), image_id) for image, image_id in zip(dataset.pixels, dataset.ids, strict=True)]


def _hash(image: np.ndarray) -> str:
    """Of one channel where all are equal: the same picture must not differ by how its neighbours are stored."""
    first = np.ascontiguousarray(image[..., 0])
    grey = image.strides[-1] == 0 or ((image[..., 1] == first).all() and (image[..., 2] == first).all())
    return hashlib.sha256(first if grey else np.ascontiguousarray(image)).hexdigest()
