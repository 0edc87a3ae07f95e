"""Changes of the image under which maps are compared, and the way back for the maps: `TRANSFORMS`.

Random draws depend on ``seed`` and the image's size alone: every image of a call gets the same rectangle or noise
field, whatever its batch. Results stay in [0, 255].
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from skimage.transform import AffineTransform, warp

from xaiutils.images import check_images
from xaiutils.registry import Parameter, Registry, check_parameters


@dataclass(frozen=True)
class Transform:
    """A named change of an image. ``geometric`` ones move pixels, so masks and maps move with them."""

    name: str
    title: str
    help: str
    change: Callable[..., np.ndarray]
    parameters: tuple[Parameter, ...] = ()
    geometric: bool = False
    back: Callable[..., np.ndarray] | None = None

    def apply(self, images: np.ndarray, seed: int = 0, **parameters) -> np.ndarray:
        """Changed images, float32 ``(n, height, width, 3)`` in [0, 255]. Raises on unknown or bad ``parameters``."""
        chosen = check_parameters(f"transform {self.name!r}", self.parameters, parameters)
        images = check_images(images)
        changed = self.change(images, np.random.default_rng(seed), **chosen)
        return np.clip(changed, 0, 255).astype(np.float32)

    def apply_to_masks(self, masks: np.ndarray, **parameters) -> np.ndarray:
        """Masks bool ``(n, height, width)`` moved as `apply` moves the images."""
        if not self.geometric:
            return np.asarray(masks, bool)
        chosen = check_parameters(f"transform {self.name!r}", self.parameters, parameters)
        moved = self.change(np.asarray(masks, np.float32)[..., None], np.random.default_rng(0), **chosen)
        return moved[..., 0] > 0.5

    def invert(self, maps: np.ndarray, **parameters) -> np.ndarray:
        """Maps ``(n, height, width)`` of changed images in the frame of the originals, float32.

        Photometric changes leave maps where they are. What a geometric change pushed out of the picture is 0.
        """
        chosen = check_parameters(f"transform {self.name!r}", self.parameters, parameters)
        maps = np.asarray(maps, np.float32)
        return maps if self.back is None else self.back(maps[..., None], **chosen)[..., 0].astype(np.float32)


TRANSFORMS: Registry[Transform] = Registry("transform")


def _log(images, rng):
    """s = c log(1 + r) with c = 255 / log(1 + max) for each image: dark tones expand, bright ones are compressed."""
    top = images.max(axis=(1, 2, 3), keepdims=True)
    return 255 / np.log1p(np.maximum(top, 1)) * np.log1p(images)


def _gaussian_noise(images, rng, noise):
    return images + 255 * noise * rng.standard_normal(images.shape[1:], np.float32)


def _speckle_noise(images, rng, noise):
    return images * (1 + noise * rng.standard_normal(images.shape[1:], np.float32))


def _black_rectangle(images, rng, min_side, max_side):
    height, width = images.shape[1:3]
    low, high = min(min_side, max_side), max(min_side, max_side)
    rows, columns = (max(1, round(side * rng.uniform(low, high))) for side in (height, width))
    top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    changed = images.copy()
    changed[:, top : top + rows, left : left + columns] = 0
    return changed


def _affine_matrix(height, width, rotation, scale, shear, shift) -> AffineTransform:
    """From the original's to the changed image's coordinates (x, y), about the centre of the image."""
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    move = AffineTransform(
        scale=(scale, scale),
        rotation=np.deg2rad(rotation),
        shear=np.deg2rad(shear),
        translation=(shift * width, shift * height),
    )
    return AffineTransform(translation=-centre) + move + AffineTransform(translation=centre)


def _warp(images: np.ndarray, inverse_map: AffineTransform) -> np.ndarray:
    return np.stack(
        [warp(image, inverse_map, order=1, mode="constant", cval=0, preserve_range=True) for image in images]
    )


def _affine(images, rng, **parameters):
    return _warp(images, _affine_matrix(*images.shape[1:3], **parameters).inverse)


def _affine_back(maps, **parameters):
    return _warp(maps, _affine_matrix(*maps.shape[1:3], **parameters))


def _rotate_180(images, rng=None):
    return images[:, ::-1, ::-1]


TRANSFORMS.add(Transform("original", "Original", "the image as it is", lambda images, rng: images))
TRANSFORMS.add(Transform("log", "Log transform", "s = c log(1 + r): dark tones expand", _log))
TRANSFORMS.add(
    Transform(
        "gaussian_noise",
        "Gaussian noise",
        "x + N(0, sigma); the thesis leaves sigma's scale open",
        _gaussian_noise,
        (Parameter("noise", float, 0.1, "sigma as a fraction of 255", 0.0, 1.0),),
    )
)
TRANSFORMS.add(
    Transform(
        "speckle_noise",
        "Speckle noise",
        "x + x N(0, sigma)",
        _speckle_noise,
        (Parameter("noise", float, 0.3, "sigma of the factor", 0.0, 2.0),),
    )
)
TRANSFORMS.add(
    Transform(
        "black_rectangle",
        "Black rectangle",
        "a black rectangle of random size and place",
        _black_rectangle,
        (
            Parameter("min_side", float, 0.15, "shortest side as a fraction of the image's", 0.0, 1.0),
            Parameter("max_side", float, 0.35, "longest side as a fraction of the image's", 0.0, 1.0),
        ),
    )
)
TRANSFORMS.add(
    Transform(
        "affine",
        "Affine warp",
        "rotation, scaling, shear and shift about the centre; empty corners are black",
        _affine,
        (
            Parameter("rotation", float, 10.0, "degrees, clockwise", -180.0, 180.0),
            Parameter("scale", float, 0.9, "factor", 0.2, 5.0),
            Parameter("shear", float, 8.0, "degrees", -60.0, 60.0),
            Parameter("shift", float, 0.03, "fraction of the width and the height", -1.0, 1.0),
        ),
        geometric=True,
        back=_affine_back,
    )
)
TRANSFORMS.add(
    Transform("rotate_180", "Rotation by 180°", "turned upside down", _rotate_180, geometric=True, back=_rotate_180)
)
