"""Changes of the image under which maps are compared, and the way back for the maps.

Images are float32 ``(n, height, width, C)`` in [0, 255] before and after; values that a change pushes out of this
range are clipped, and only JPEG rounds to whole grey levels, as the models take any. What is drawn depends on ``seed``
and the image's size alone: every image of a call gets the same noise field, whatever its batch. Grey images (equal
channels) stay grey.
"""

import io

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.transform import AffineTransform, warp

from xaiutils.registry import Parameter
from xaiutils.transforms.transform import Transform

_CORRUPTIONS = "Hendrycks & Dietterich 2019, arXiv:1903.12261"

ORIGINAL = Transform("original", "Original", "the image as it is", lambda images, rng: images)


# Grey values --------------------------------------------------------------------------------------------------------


def _log(images, rng):
    """s = c log(1 + r), c = 255 / log(1 + max) for each image: 0 stays 0 and the brightest value becomes 255.

    Dark tones are spread and bright ones compressed (the thesis has it the other way round, and leaves c open).
    """
    top = images.max(axis=(1, 2, 3), keepdims=True)
    return 255 / np.log1p(np.maximum(top, 1)) * np.log1p(images)


LOG = Transform(
    "log",
    "Log transform",
    "s = c log(1 + r), c = 255 / log(1 + max): dark tones are spread, bright ones compressed",
    _log,
    paper="Gonzalez & Woods, Digital Image Processing, section 3.2",
)


def _brightness_contrast(images, rng, brightness, contrast):
    """y = m + contrast (x - m) + 255 brightness, m the image's mean over pixels and channels.

    About the mean, as Pillow and torchvision have it, the two do not mix: contrast keeps the mean, brightness moves
    it. Where nothing is clipped, the same change with 1 / contrast and -brightness undoes it.
    """
    mean = images.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    return mean + contrast * (images - mean) + 255 * brightness


BRIGHTNESS_CONTRAST = Transform(
    "brightness_contrast",
    "Brightness, contrast",
    "m + contrast (x - m) + 255 brightness, m the image's mean",
    _brightness_contrast,
    (
        Parameter("brightness", float, 0.15, "what is added, as a fraction of 255", -0.5, 0.5),
        Parameter("contrast", float, 0.7, "factor of the distance to the image's mean", 0.0, 2.0),
    ),
    paper=_CORRUPTIONS,
)


def _blur(images, rng, sigma):
    """Convolution with a Gaussian, cut off at 4 standard deviations; the picture is mirrored at its edges.

    sigma is a fraction of the width, so that the same detail is lost at any image size. Mirroring keeps the mean.
    """
    pixels = sigma * images.shape[2]
    return ndimage.gaussian_filter(images, (0, pixels, pixels, 0), mode="reflect")


BLUR = Transform(
    "blur",
    "Gaussian blur",
    "convolution with a Gaussian, mirrored at the edges",
    _blur,
    (Parameter("sigma", float, 0.01, "standard deviation as a fraction of the image's width", 0.0, 0.1),),
    paper=_CORRUPTIONS,
)


def _jpeg(images, rng, quality):
    """Rounded to whole grey levels, saved and read again by Pillow as JPEG with colours at half resolution (4:2:0);
    each channel as a grey picture where there are not three."""
    return np.stack([_through_jpeg(image, quality) for image in np.rint(images).astype(np.uint8)])


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    if image.ndim == 3 and image.shape[-1] != 3:
        return np.stack([_through_jpeg(channel, quality) for channel in np.moveaxis(image, -1, 0)], axis=-1)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file), np.float32)


JPEG = Transform(
    "jpeg",
    "JPEG",
    "saved as JPEG and read again, colours at half resolution",
    _jpeg,
    (Parameter("quality", int, 25, "Pillow's quality, 95 is nearly lossless", 1, 95),),
    paper=_CORRUPTIONS,
)


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


GAUSSIAN_NOISE = Transform(
    "gaussian_noise",
    "Gaussian noise",
    "x + N(0, sigma); the thesis leaves sigma's scale open: one grey level is 1/255",
    _gaussian_noise,
    (Parameter("noise", float, 0.1, "sigma as a fraction of 255", 0.0, 1.0),),
    paper=_CORRUPTIONS,
)


def _speckle_noise(images, rng, noise, mean):
    """x (mean + noise n), n ~ N(0, 1) as `_unit_noise` draws it.

    mean = 1 is speckle as it is commonly defined, x + noise x n. The thesis multiplies by a standard normal, which is
    mean = 0 with noise = 1: half of the factors are negative, so half of the values become black.
    """
    return images * (mean + noise * _unit_noise(images, rng))


SPECKLE_NOISE = Transform(
    "speckle_noise",
    "Speckle noise",
    "x N(mean, sigma): mean 1 is x + x N(0, sigma); the thesis' x N(0, 1) is mean 0, noise 1",
    _speckle_noise,
    (
        Parameter("noise", float, 0.3, "sigma of the factor", 0.0, 2.0),
        Parameter("mean", float, 1.0, "mean of the factor: 1 as is common, 0 in the thesis' words", 0.0, 1.0),
    ),
    paper=_CORRUPTIONS,
)


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


BLACK_RECTANGLE = Transform(
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
)


# Geometry -----------------------------------------------------------------------------------------------------------


def affine_matrix(
    height: int, width: int, rotation: float, scale: float, shear: float, shift: float
) -> AffineTransform:
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
    return _warp(images, affine_matrix(*images.shape[1:3], **parameters).inverse)


def _affine_back(maps, **parameters):
    return _warp(maps, affine_matrix(*maps.shape[1:3], **parameters))


AFFINE = Transform(
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
)


def _rotate_180(images, rng=None):
    """Rows and columns reversed: exact, and its own inverse."""
    return images[:, ::-1, ::-1]


ROTATE_180 = Transform(
    "rotate_180", "Rotation by 180°", "turned upside down", _rotate_180, geometric=True, back=_rotate_180
)
