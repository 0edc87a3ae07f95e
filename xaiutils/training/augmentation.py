"""Random changes of training images, in batches: rotation, shift, shear, zoom, mirroring and contrast.

Ranges, order and edges are those of Keras' ImageDataGenerator, which the thesis used: out of the picture lies the
nearest pixel of its edge (or black, as torchvision's RandomAffine has it), and values between pixels are interpolated
linearly.
"""

from typing import Any

import numpy as np

from xaiutils.backend import tf

# Fields of a recipe.
AUGMENTATIONS = (
    *("flip", "flip_horizontal", "flip_vertical"),
    *("rotation", "shift", "shift_across", "shear", "zoom", "zoom_alike", "black", "contrast"),
)


def augment(images: np.ndarray, recipe: Any, rng: np.random.Generator) -> np.ndarray:
    """Changed images, float32 ``(n, height, width, channels)``; each image is changed in a way of its own.

    ``recipe`` gives `AUGMENTATIONS`; of mirroring, and of all the others together, nothing is drawn from ``rng`` where
    it is off.
    """
    if recipe.rotation or recipe.shift or recipe.shift_across or recipe.shear or recipe.zoom:
        matrices = affine_matrices(images.shape[1:3], **draw(len(images), recipe, rng))
        images = warp(images, matrices, black=recipe.black)
    if recipe.flip:
        images = mirrored(images, rng, axes=(1, 2))
    elif axes := tuple(axis for axis, on in ((1, recipe.flip_vertical), (2, recipe.flip_horizontal)) if on):
        images = mirrored(images, rng, axes)
    if recipe.contrast:
        factors = rng.uniform(1 - recipe.contrast, 1 + recipe.contrast, (len(images), 1, 1, 1)).astype(np.float32)
        means = images.mean(axis=(1, 2, 3), keepdims=True)
        images = np.clip(means + factors * (images - means), 0, 255)
    return images


def draw(n: int, recipe: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random arguments of `affine_matrices` within the recipe's ranges, even distributions."""
    shift = np.array([recipe.shift, recipe.shift_across or recipe.shift])
    drawn = {
        "rotation": rng.uniform(-recipe.rotation, recipe.rotation, n),
        "shift": rng.uniform(-shift, shift, (n, 2)),
        "shear": rng.uniform(-recipe.shear, recipe.shear, n),
        "zoom": rng.uniform(1 - recipe.zoom, 1 + recipe.zoom, (n, 2)),
    }
    if recipe.zoom_alike:
        drawn["zoom"][:, 1] = drawn["zoom"][:, 0]
    return drawn


def affine_matrices(
    size: tuple[int, int], rotation: np.ndarray, shift: np.ndarray, shear: np.ndarray, zoom: np.ndarray
) -> np.ndarray:
    """Matrices ``(n, 3, 3)`` from the (row, column, 1) of a changed image to those of its original.

    Args:
        size: height and width in pixels. The centre of the picture is the centre of rotation, shear and zoom.
        rotation: degrees ``(n,)``, clockwise as seen.
        shift: fractions of height and width ``(n, 2)``; positive ones move the content up and to the left.
        shear: degrees ``(n,)``.
        zoom: of height and width ``(n, 2)``; over 1 the content becomes smaller.
    """
    n, (height, width) = len(rotation), size
    angle, slant = np.deg2rad(rotation), np.deg2rad(shear)
    turned, moved, sheared, zoomed, centred = (np.tile(np.eye(3), (n, 1, 1)) for _ in range(5))
    turned[:, 0, 0] = turned[:, 1, 1] = np.cos(angle)
    turned[:, 1, 0] = np.sin(angle)
    turned[:, 0, 1] = -turned[:, 1, 0]
    moved[:, :2, 2] = shift * (height, width)
    sheared[:, 0, 1] = -np.sin(slant)
    sheared[:, 1, 1] = np.cos(slant)
    zoomed[:, 0, 0], zoomed[:, 1, 1] = zoom.T
    centred[:, :2, 2] = (height - 1) / 2, (width - 1) / 2
    return centred @ turned @ moved @ sheared @ zoomed @ np.linalg.inv(centred)


def warp(images: np.ndarray, matrices: np.ndarray, interpolation: str = "BILINEAR", black: bool = False) -> np.ndarray:
    """Images, or masks with ``interpolation="NEAREST"``, ``(n, height, width, channels)`` moved by `affine_matrices`.
    Beyond the edge lies its nearest pixel, or 0 where ``black``.

    One operation for the batch, on a GPU where there is one.
    """
    swapped = matrices[:, [1, 0, 2]][:, :, [1, 0, 2]]  # the operation counts (column, row)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.constant(images),
        transforms=tf.constant(swapped.reshape(-1, 9)[:, :8], tf.float32),
        output_shape=images.shape[1:3],
        fill_value=0.0,
        interpolation=interpolation,
        fill_mode="CONSTANT" if black else "NEAREST",
    ).numpy()


def mirrored(images: np.ndarray, rng: np.random.Generator, axes: tuple[int, ...] = (1, 2)) -> np.ndarray:
    """``images`` with each of them mirrored, or not, along each axis (1: up-down, 2: left-right), in place."""
    for axis in axes:
        chosen = rng.random(len(images)) < 0.5
        images[chosen] = np.flip(images[chosen], axis=axis)
    return images
