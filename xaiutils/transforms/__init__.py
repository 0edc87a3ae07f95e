"""Changes of images under which maps are compared, and attacks on a model: `TRANSFORMS`.

A new one is a `Transform` beside the function that makes the change, and its place in this list, which is in reading
order: the thesis' six changes after the original, then those that it asks for.
"""

from xaiutils.registry import Registry
from xaiutils.transforms.attacks import FGSM, PGD
from xaiutils.transforms.image_changes import (
    AFFINE,
    BLACK_RECTANGLE,
    BLUR,
    BRIGHTNESS_CONTRAST,
    GAUSSIAN_NOISE,
    JPEG,
    LOG,
    ORIGINAL,
    ROTATE_180,
    SPECKLE_NOISE,
)
from xaiutils.transforms.signal_to_noise import signal_to_noise
from xaiutils.transforms.transform import Transform

__all__ = ["TRANSFORMS", "Transform", "signal_to_noise"]

TRANSFORMS: Registry[Transform] = Registry(
    "transform",
    [
        ORIGINAL,
        LOG,
        GAUSSIAN_NOISE,
        SPECKLE_NOISE,
        BLACK_RECTANGLE,
        AFFINE,
        ROTATE_180,
        BRIGHTNESS_CONTRAST,
        BLUR,
        JPEG,
        FGSM,
        PGD,
    ],
)
