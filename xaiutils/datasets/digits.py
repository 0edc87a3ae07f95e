"""scikit-learn's 1,797 handwritten digits (UCI, 43 writers; the writers are not recorded), scaled up."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from xaiutils.datasets.image_dataset import stratified_indices
from xaiutils.datasets.records import split_indices

STROKE_LEVEL = 0.5  # of the full ink value: half coverage of a pixel counts as stroke


def load(split: str, image_size: int, seed: int, limit: int | None) -> dict:
    """Arrays of one split; masks are the strokes, ink over half of its range after bicubic up-sampling from 8 x 8."""
    digits = load_digits()
    ids = [f"digit_{i:04d}" for i in range(len(digits.target))]
    chosen = np.arange(len(ids)) if split == "all" else split_indices(digits.target, ids, split, seed)
    available = len(chosen)
    if limit is not None:
        chosen = chosen[stratified_indices(digits.target[chosen], limit, seed)]
    grey = np.stack([_enlarge(digits.images[i] / 16.0, image_size) for i in chosen])
    return {
        "pixels": np.repeat(np.rint(255 * grey).astype(np.uint8)[..., None], 3, axis=-1),
        "labels": digits.target[chosen],
        "masks": grey > STROKE_LEVEL,
        "ids": [ids[i] for i in chosen],
        "available": available,
        "mirrors": False,
        "class_names": tuple(map(str, range(10))),
    }


def _enlarge(image: np.ndarray, size: int) -> np.ndarray:
    picture = Image.fromarray(image.astype(np.float32))
    return np.clip(np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)), 0, 1)
