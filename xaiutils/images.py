"""The image contract: float32 ``(n, height, width, C)``, C channels, with values in [0, 255].

Masks are bool ``(n, height, width)``, attribution maps float32 ``(n, height, width)``.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"})


def check_images(images: object, size: tuple[int, int] | None = None, channels: int | None = None) -> np.ndarray:
    """Return ``images`` as a float32 batch ``(n, height, width, C)`` in [0, 255], or raise ValueError.

    ``size`` is the (height, width) that a model needs, ``channels`` the number of channels; None accepts any. Grey
    images are handed on as they are needed: one channel is repeated for three, and three equal ones become one.
    """
    array = np.asarray(images)
    if array.dtype == object or array.dtype.kind not in "uifb":
        raise ValueError(f"images must be one numeric array (n, height, width, C), got dtype {array.dtype}.")
    if array.ndim == 3 and array.shape[-1] == 3:
        raise ValueError(f"images has shape {array.shape}: one image; pass images[None] to make a batch of it.")
    if array.ndim != 4 or not array.shape[-1]:
        raise ValueError(
            f"images has shape {array.shape}; expected (n, height, width, {channels or 'channels'}). Grey images "
            "have one channel: images[..., None]."
        )
    if array.shape[0] == 0:
        raise ValueError("images is empty: there is nothing to explain.")
    if size is not None and array.shape[1:3] != tuple(size):
        raise ValueError(
            f"images are {array.shape[1]} x {array.shape[2]} pixels but the model takes {size[0]} x {size[1]}; "
            "load the data set with that image_size."
        )
    array = array.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2, 3)))
    if bad.size:
        raise ValueError(f"images {bad[:10].tolist()} hold NaN or infinite values.")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 255:
        raise ValueError(_scaled_outside(f"[{low:g}, {high:g}]", '"-1-1", "imagenet", "caffe" or "standardise"'))
    if 0 < high <= 1 and np.any((array > 0) & (array < 1)):
        raise ValueError(_scaled_outside("[0, 1]", '"0-1"'))
    return _with_channels(array, channels)


def _scaled_outside(found: str, scaling: str) -> str:
    return (
        f"images range over {found}; expected raw pixels in [0, 255]. A model that was trained on scaled ones is told "
        f"so once, model = xai.wrap(model, scaling=...) with {scaling}, and takes raw pixels from then on."
    )


def _with_channels(images: np.ndarray, channels: int | None) -> np.ndarray:
    """Images of the ``channels`` that a model takes, if they have them or are grey."""
    given = images.shape[-1]
    if channels in (None, given):
        return images
    if channels == 3 and given == 1:
        return np.repeat(images, 3, axis=-1)
    if channels != 1 or given != 3:
        raise ValueError(f"images have {given} channels, shape {images.shape}; the model takes {channels}.")
    coloured = np.flatnonzero((images != images[..., :1]).any(axis=(1, 2, 3)))
    if coloured.size:
        raise ValueError(
            f"the model takes grey images of one channel; images {coloured[:10].tolist()} have colours. Convert them "
            "as the model's training images were."
        )
    return np.ascontiguousarray(images[..., :1])


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Images ``(..., channels)`` as they are shown, ``(..., 3)``: three channels as they are, any other number as grey,
    the mean of the channels."""
    if images.shape[-1] == 3:
        return images
    grey = images if images.shape[-1] == 1 else images.mean(axis=-1, keepdims=True).astype(images.dtype)
    return np.repeat(grey, 3, axis=-1)


def check_maps(maps: object, shape: tuple[int, ...]) -> np.ndarray:
    """Return ``maps`` as finite float32 of ``shape`` (n, height, width), or raise ValueError."""
    array = np.asarray(maps, dtype=np.float32)
    if array.shape != tuple(shape):
        raise ValueError(f"maps has shape {array.shape}; expected {tuple(shape)}, one map for each image.")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2)))
    if bad.size:
        raise ValueError(f"maps {bad[:10].tolist()} hold NaN or infinite values; no metric has a meaning for them.")
    return array


def fit_image(pixels: np.ndarray, image_size: int, keep_aspect: bool = False, centre: float = 0.5) -> np.ndarray:
    """uint8 ``(height, width[, 3])`` resized to ``(image_size, image_size[, 3])``, averaging what falls into a pixel.

    ``keep_aspect`` pads with black to a square; otherwise the image is squeezed, as in the thesis. ``centre``: where a
    narrow image lies in the square, from 0 (at the left edge) to 1.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if keep_aspect:
        side = (image_size, image_size)
        return np.asarray(ImageOps.pad(image, side, Image.Resampling.BILINEAR, color=0, centering=(centre, 0.5)))
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.BILINEAR))


def fit_mask(mask: np.ndarray, image_size: int, keep_aspect: bool = False, centre: float = 0.5) -> np.ndarray:
    """Nearest-neighbour resize of a bool ``(height, width)`` mask, laid out as `fit_image` lays its image."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    if keep_aspect:
        side = (image_size, image_size)
        image = ImageOps.pad(image, side, Image.Resampling.NEAREST, color=0, centering=(centre, 0.5))
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.NEAREST)) > 0


def boxes_to_mask(boxes: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Union of boxes (x, y, width, height; pixels, y downwards) as bool ``(height, width)``."""
    mask = np.zeros((height, width), bool)
    for x, y, w, h in boxes:
        if x + w <= 0 or y + h <= 0 or x >= width or y >= height:
            continue  # wholly outside
        top, left = max(0, int(np.floor(y))), max(0, int(np.floor(x)))
        mask[top : max(top + 1, int(np.ceil(y + h))), left : max(left + 1, int(np.ceil(x + w)))] = True
    return mask
