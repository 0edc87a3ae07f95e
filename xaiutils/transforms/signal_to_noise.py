"""How far a changed image is from its original, in decibels."""

import numpy as np

from xaiutils.images import check_images


def signal_to_noise(images: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Signal-to-noise ratio of each changed image in decibels, float64 ``(n,)``.

    10 log10(sum of x^2 / sum of (y - x)^2) over all pixels and channels of the original x and the changed y, on the
    scale 0..255. No mean is subtracted: the signal is the grey values themselves, so a change of brightness counts as
    noise. +inf for identical images, -inf for a changed black image. After a geometric change it measures nothing but
    how far the content has moved.
    """
    images = check_images(images)
    changed = np.asarray(changed, np.float32)
    if changed.shape != images.shape:
        raise ValueError(f"changed has shape {changed.shape}, images {images.shape}: expected a pair for each image.")
    ratios = np.empty(len(images))
    for i, (x, y) in enumerate(zip(images, changed, strict=True)):
        signal, noise = np.sum(np.square(x, dtype=np.float64)), np.sum(np.square(y - x, dtype=np.float64))
        with np.errstate(divide="ignore"):
            ratios[i] = 10 * (np.log10(signal) - np.log10(noise)) if noise else np.inf
    return ratios
