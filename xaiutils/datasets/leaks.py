"""A search for what makes a test score a memory test: one patient, or one picture, in two splits."""

import hashlib

import numpy as np

from xaiutils.datasets.image_dataset import ImageDataset


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
    pixels = dataset.pixels[..., :1] if dataset.pixels.strides[-1] == 0 else dataset.pixels  # grey: one channel will do
    return [
        (hashlib.sha256(np.ascontiguousarray(image)).hexdigest(), image_id)
        for image, image_id in zip(pixels, dataset.ids, strict=True)
    ]
