"""Changes of the image under which maps are compared, and the way back for the maps: `TRANSFORMS`.

Images are float32 ``(n, height, width, 3)`` in [0, 255] before and after; values that a change pushes out of this
range are clipped, and only JPEG rounds to whole grey levels, as the models take any. What is drawn depends on ``seed``
and the image's size alone: every image of a call gets the same noise field, whatever its batch. Grey images (equal
channels) stay grey, but for attacks.
"""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.transform import AffineTransform, warp

from xaiutils.images import check_images
from xaiutils.registry import Parameter, Registry, check_parameters


@dataclass(frozen=True)
class Transform:
    """A named change of an image. ``geometric`` ones move pixels, so masks and maps move with them.

    ``change(images, rng, **parameters)`` makes the change; with ``needs_model`` it takes ``model``, ``targets`` and
    ``batch_size`` too. ``back(maps, **parameters)`` undoes a geometric change, and ``replaces(images, rng,
    **parameters)`` marks what a local change paints over, bool ``(n, height, width)``.
    """

    name: str
    title: str
    help: str
    change: Callable[..., np.ndarray]
    parameters: tuple[Parameter, ...] = ()
    paper: str = ""
    geometric: bool = False
    back: Callable[..., np.ndarray] | None = None
    replaces: Callable[..., np.ndarray] | None = None
    needs_model: bool = False

    def apply(
        self,
        images: np.ndarray,
        seed: int = 0,
        model: Any = None,
        targets: int | Iterable[int] | None = None,
        batch_size: int = 32,
        **parameters,
    ) -> np.ndarray:
        """Changed images, float32 ``(n, height, width, 3)`` in [0, 255].

        ``model`` (a Keras classifier), ``targets`` (class indices, None for each image's predicted class) and
        ``batch_size`` matter where ``needs_model`` says so, and are ignored elsewhere. Raises TypeError or ValueError
        on unknown or bad ``parameters``, on images that are not such a batch, and on a missing model.
        """
        chosen = self._check(parameters)
        images = check_images(images)
        if self.needs_model:
            if model is None:
                raise ValueError(
                    f"transform {self.name!r} is made against a model; give it: "
                    f"TRANSFORMS[{self.name!r}].apply(images, model=...)."
                )
            chosen |= {"model": model, "targets": targets, "batch_size": batch_size}
        changed = self.change(images, np.random.default_rng(seed), **chosen)
        return np.clip(changed, 0, 255).astype(np.float32)

    def apply_to_masks(self, masks: np.ndarray, **parameters) -> np.ndarray:
        """Masks bool ``(n, height, width)`` moved as `apply` moves the images.

        Evidence that a rectangle covers stays marked: `hidden` says what is covered.
        """
        chosen = self._check(parameters)
        masks = _stack("masks", masks, bool)
        if not self.geometric:
            return masks
        moved = self.change(masks[..., None].astype(np.float32), np.random.default_rng(0), **chosen)
        return moved[..., 0] > 0.5

    def hidden(self, images: np.ndarray, seed: int = 0, **parameters) -> np.ndarray:
        """Pixels of the changed images that show nothing of the original: the black rectangle, a warp's empty corners.

        Bool ``(n, height, width)``, for the ``images``, ``seed`` and ``parameters`` that `apply` was given.
        """
        chosen = self._check(parameters)
        images = check_images(images)
        if self.geometric:
            return ~self.apply_to_masks(np.ones(images.shape[:3], bool), **chosen)
        if self.replaces is None:
            return np.zeros(images.shape[:3], bool)
        return self.replaces(images, np.random.default_rng(seed), **chosen)

    def invert(self, maps: np.ndarray, **parameters) -> np.ndarray:
        """Maps ``(n, height, width)`` of changed images in the frame of the originals, float32.

        Photometric changes leave maps where they are. What a geometric change pushed out of the picture is 0.
        """
        chosen = self._check(parameters)
        maps = _stack("maps", maps, np.float32)
        return maps if self.back is None else self.back(maps[..., None], **chosen)[..., 0].astype(np.float32)

    def _check(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return check_parameters(f"transform {self.name!r}", self.parameters, parameters)


def _stack(what: str, arrays: np.ndarray, dtype: type) -> np.ndarray:
    arrays = np.asarray(arrays, dtype)
    if arrays.ndim != 3:
        raise ValueError(f"{what} has shape {arrays.shape}; expected (n, height, width), one for each image.")
    return arrays


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


TRANSFORMS: Registry[Transform] = Registry("transform")


# Grey values --------------------------------------------------------------------------------------------------------


def _log(images, rng):
    """s = c log(1 + r), c = 255 / log(1 + max) for each image: 0 stays 0 and the brightest value becomes 255.

    Dark tones are spread and bright ones compressed (the thesis has it the other way round, and leaves c open).
    """
    top = images.max(axis=(1, 2, 3), keepdims=True)
    return 255 / np.log1p(np.maximum(top, 1)) * np.log1p(images)


def _brightness_contrast(images, rng, brightness, contrast):
    """y = m + contrast (x - m) + 255 brightness, m the image's mean over pixels and channels.

    About the mean, as Pillow and torchvision have it, the two do not mix: contrast keeps the mean, brightness moves
    it. Where nothing is clipped, the same change with 1 / contrast and -brightness undoes it.
    """
    mean = images.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    return mean + contrast * (images - mean) + 255 * brightness


def _blur(images, rng, sigma):
    """Convolution with a Gaussian, cut off at 4 standard deviations; the picture is mirrored at its edges.

    sigma is a fraction of the width, so that the same detail is lost at any image size. Mirroring keeps the mean.
    """
    pixels = sigma * images.shape[2]
    return ndimage.gaussian_filter(images, (0, pixels, pixels, 0), mode="reflect")


def _jpeg(images, rng, quality):
    """Rounded to whole grey levels, saved and read again by Pillow as JPEG with colours at half resolution (4:2:0)."""
    return np.stack([_through_jpeg(image, quality) for image in np.rint(images).astype(np.uint8)])


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file), np.float32)


# Noise and occlusion ------------------------------------------------------------------------------------------------


def _unit_noise(images, rng):
    """N(0, 1) for each pixel and channel; for each pixel of a grey image, which has no colour noise."""
    noise = rng.standard_normal(images.shape[1:], np.float32)
    grey = (images == images[..., :1]).all(axis=(1, 2, 3))
    return np.where(grey[:, None, None, None], noise[..., :1], noise)


def _gaussian_noise(images, rng, noise):
    """x + 255 noise n, n ~ N(0, 1) as `_unit_noise` draws it.

    The thesis adds N(0, 1) and does not say on which scale: on 0..255 that is noise = 1/255, a single grey level,
    which nobody sees; on 0..1 it is noise = 1, which destroys the image.
    """
    return images + 255 * noise * _unit_noise(images, rng)


def _speckle_noise(images, rng, noise, mean):
    """x (mean + noise n), n ~ N(0, 1) as `_unit_noise` draws it.

    mean = 1 is speckle as it is commonly defined, x + noise x n. The thesis multiplies by a standard normal, which is
    mean = 0 with noise = 1: half of the factors are negative, so half of the values become black.
    """
    return images * (mean + noise * _unit_noise(images, rng))


def _rectangles(images, rng, min_side, max_side):
    """Bool ``(n, height, width)``: a rectangle for each image, of one drawn size.

    The sides are uniform in [min_side, max_side] of the image's. The centre lies off the image's centre of brightness
    (the mean position, weighted by grey value) by up to a sixth of the height and of the width, uniformly: near the
    middle of a photograph, and on the breast in a mammogram, at whichever side it is. In the dark beside it a black
    rectangle would change nothing. Long rectangles are pushed inside.
    """
    low, high = min(min_side, max_side), max(min_side, max_side)
    weights = images.sum(axis=-1, dtype=np.float64) + 1e-9  # a black image has its centre in the middle
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    masks = np.ones(images.shape[:3], bool)
    for axis in (1, 2):
        side = images.shape[axis]
        length = max(1, round(side * rng.uniform(low, high)))
        offset = side * rng.uniform(-1 / 6, 1 / 6)
        positions = np.arange(side)
        centres = weights.sum(axis=3 - axis) @ (positions + 0.5)
        starts = np.clip(np.rint(centres + offset - length / 2), 0, side - length)[:, None]
        inside = (positions >= starts) & (positions < starts + length)
        masks &= np.expand_dims(inside, 3 - axis)
    return masks


def _black_rectangle(images, rng, **parameters):
    """One rectangle of random size and place set to 0; see `_rectangles` for how it is drawn."""
    return np.where(_rectangles(images, rng, **parameters)[..., None], np.float32(0), images)


# Geometry -----------------------------------------------------------------------------------------------------------


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
    """p -> A (p - centre) + centre + t for pixel positions p, read bilinearly; corners that come up empty are black.

    A turns, scales and shears, and t shifts right and down. The thesis names a matrix and a translation, no numbers.
    """
    return _warp(images, _affine_matrix(*images.shape[1:3], **parameters).inverse)


def _affine_back(maps, **parameters):
    return _warp(maps, _affine_matrix(*maps.shape[1:3], **parameters))


def _rotate_180(images, rng=None):
    """Rows and columns reversed: exact, and its own inverse."""
    return images[:, ::-1, ::-1]


# Declarations: the thesis' six changes beside the original, then those that it asks for -----------------------------

_CORRUPTIONS = "Hendrycks & Dietterich 2019, arXiv:1903.12261"


_EPSILON = Parameter("epsilon", float, 4.0, "largest change of a value, in grey levels of 255", 0.0, 50.0)


def _attacked(name: str, images, rng, **given):
    from xaiutils.transforms import attacks

    return getattr(attacks, name)(images, rng, **given)


for _declared in (
    Transform("original", "Original", "the image as it is", lambda images, rng: images),
    Transform(
        "log",
        "Log transform",
        "s = c log(1 + r), c = 255 / log(1 + max): dark tones are spread, bright ones compressed",
        _log,
        paper="Gonzalez & Woods, Digital Image Processing, section 3.2",
    ),
    Transform(
        "gaussian_noise",
        "Gaussian noise",
        "x + N(0, sigma); the thesis leaves sigma's scale open: one grey level is 1/255",
        _gaussian_noise,
        (Parameter("noise", float, 0.1, "sigma as a fraction of 255", 0.0, 1.0),),
        paper=_CORRUPTIONS,
    ),
    Transform(
        "speckle_noise",
        "Speckle noise",
        "x N(mean, sigma): mean 1 is x + x N(0, sigma); the thesis' x N(0, 1) is mean 0, noise 1",
        _speckle_noise,
        (
            Parameter("noise", float, 0.3, "sigma of the factor", 0.0, 2.0),
            Parameter("mean", float, 1.0, "mean of the factor: 1 as is common, 0 in the thesis' words", 0.0, 1.0),
        ),
        paper=_CORRUPTIONS,
    ),
    Transform(
        "black_rectangle",
        "Black rectangle",
        "a black rectangle of random size, up to a sixth of the image off its centre of brightness",
        _black_rectangle,
        (
            Parameter("min_side", float, 0.15, "shortest side as a fraction of the image's", 0.0, 1.0),
            Parameter("max_side", float, 0.35, "longest side as a fraction of the image's", 0.0, 1.0),
        ),
        paper="DeVries & Taylor 2017, arXiv:1708.04552",
        replaces=_rectangles,
    ),
    Transform(
        "affine",
        "Affine warp",
        "rotation, scaling, shear and shift about the centre; empty corners are black",
        _affine,
        (
            Parameter("rotation", float, 10.0, "degrees, clockwise", -180.0, 180.0),
            Parameter("scale", float, 0.9, "factor", 0.2, 5.0),
            Parameter("shear", float, 8.0, "degrees", -60.0, 60.0),
            Parameter("shift", float, 0.03, "right and down, as a fraction of the width and the height", -1.0, 1.0),
        ),
        geometric=True,
        back=_affine_back,
    ),
    Transform("rotate_180", "Rotation by 180°", "turned upside down", _rotate_180, geometric=True, back=_rotate_180),
    Transform(
        "brightness_contrast",
        "Brightness, contrast",
        "m + contrast (x - m) + 255 brightness, m the image's mean",
        _brightness_contrast,
        (
            Parameter("brightness", float, 0.15, "what is added, as a fraction of 255", -0.5, 0.5),
            Parameter("contrast", float, 0.7, "factor of the distance to the image's mean", 0.0, 2.0),
        ),
        paper=_CORRUPTIONS,
    ),
    Transform(
        "blur",
        "Gaussian blur",
        "convolution with a Gaussian, mirrored at the edges",
        _blur,
        (Parameter("sigma", float, 0.01, "standard deviation as a fraction of the image's width", 0.0, 0.1),),
        paper=_CORRUPTIONS,
    ),
    Transform(
        "jpeg",
        "JPEG",
        "saved as JPEG and read again, colours at half resolution",
        _jpeg,
        (Parameter("quality", int, 25, "Pillow's quality, 95 is nearly lossless", 1, 95),),
        paper=_CORRUPTIONS,
    ),
    Transform(
        "fgsm",
        "FGSM attack",
        "x + epsilon sign(dL/dx), L the cross-entropy of the predicted class",
        partial(_attacked, "fgsm"),
        (_EPSILON,),
        paper="Goodfellow et al. 2015, arXiv:1412.6572",
        needs_model=True,
    ),
    Transform(
        "pgd",
        "PGD attack",
        "repeated signed gradient steps from a random start, within epsilon of the image",
        partial(_attacked, "pgd"),
        (
            _EPSILON,
            Parameter("n_steps", int, 10, "gradient steps", 1, 1000),
            Parameter("step_size", float, 0.25, "length of a step as a fraction of epsilon", 0.0, 1.0),
        ),
        paper="Madry et al. 2018, arXiv:1706.06083",
        needs_model=True,
    ),
):
    TRANSFORMS.add(_declared)
