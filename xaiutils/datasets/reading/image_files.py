"""Picture and mask files (PNG, JPEG, TIFF, ...) to pixels, whose values mean the same in every file of a set.

8-bit files are taken as they are. 16-bit grey files are scaled by their full range or by the bits that the detector
fills. Floats, signed integers and 32-bit integers have no range of their own: they need a window.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from xaiutils.file_limits import check_pixels, check_regular, naming

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP")  # others can run programs, or hang
FRAMES = ("refuse", "first")
_SUBFILE, _BITS, _WHITE_IS, _SAMPLE = 254, 258, 262, 339  # TIFF tags
_SMALLER_OR_MASK = 1 | 4  # in NewSubfileType: a reduced copy, or a transparency mask


@dataclass(frozen=True)
class Frame:
    """Pixels of a file: uint8 ``(height, width[, 3])``, or float32 ``(height, width)`` from 0 to ``top``.

    ``spacing_mm`` is the size of a pixel (down, along) on the detector, None where unknown. ``clipped`` counts pixels
    over ``top``. ``bits_exceeded``: the file has values beyond the bits that its header states.
    """

    pixels: np.ndarray
    top: float
    spacing_mm: tuple[float, float] | None = None
    clipped: int = 0
    bits_exceeded: bool = False


def check_window(window: Sequence[float]) -> tuple[float, ...]:
    """``window`` as a tuple: empty, or (centre, width) in the files' own values. Raises ValueError."""
    try:
        values = tuple(float(v) for v in window)
    except (TypeError, ValueError):
        values = (np.nan,)
    if values and not (len(values) == 2 and np.isfinite(values).all() and values[1] > 0):
        raise ValueError(f"window={window!r}; expected [centre, width], the width positive, such as [40, 400], or [].")
    return values


def apply_window(grey: np.ndarray, centre: float, width: float) -> np.ndarray:
    """0 at ``centre - width / 2`` and below, 1 at ``centre + width / 2`` and above, a straight line between
    (LINEAR_EXACT of DICOM PS3.3 C.11.2.1.3.2). Of width 0: 1 above the centre."""
    if width == 0:
        return (grey > centre).astype(np.float32)
    return np.clip((np.asarray(grey, np.float64) - centre) / width + 0.5, 0, 1).astype(np.float32)


def check_frames(n: int, frames: str) -> None:
    """Raise ValueError for a file of several pictures, unless its first one is wanted (``frames="first"``)."""
    if n > 1 and frames != "first":
        raise ValueError(
            f"it holds {n} pictures (frames or pages); one is read. Part them into files, or take the first of each by "
            "frames='first'"
        )


@contextmanager
def open_image(path: str | Path, frames: str = "refuse") -> Iterator[Image.Image]:
    """An opened picture file whose kind, size and number of pictures are checked before anything is decoded.

    Raises FileError, from the body too; FileNotFoundError or PermissionError when it cannot be opened.
    """
    check_regular(path)
    with naming(path):
        try:
            image = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise ValueError(
                f"{str(error).split(',')[0]}; make it smaller, or raise xaiutils.file_limits.MAX_PIXELS and "
                "PIL.Image.MAX_IMAGE_PIXELS"
            ) from error
        with image:
            check_pixels(image.height, image.width)
            check_frames(_pictures_in(image), frames)
            yield image


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """Of a TIFF file; none of others."""
    return getattr(image, "tag_v2", {})


def _pictures_in(image: Image.Image) -> int:
    """Of a TIFF file, smaller copies of the same picture do not count."""
    n = getattr(image, "n_frames", 1)
    if n == 1 or image.format != "TIFF":
        return n
    own = 0
    for i in range(min(n, 1000)):
        image.seek(i)
        own += i == 0 or not int(_tags(image).get(_SUBFILE, 0)) & _SMALLER_OR_MASK
    image.seek(0)
    return own


def read_picture(path: str | Path, bit_depth: int = 16, window: Sequence[float] = (), frames: str = "refuse") -> Frame:
    """Any common image file: uint8 ``(height, width, 3)``, or for grey of more than 8 bits float32 from 0 to ``top``.

    EXIF orientation is applied, transparency is laid over black. ``window`` (centre, width) says which grey values
    become black and white; it is needed for floats, signed and 32-bit integers. Otherwise 16-bit grey runs to
    2**``bit_depth`` - 1, and what lies above is counted. Raises FileError (truncated, not an image, too large, several
    pictures, no window).
    """
    with open_image(path, frames) as image:
        image.load()
        kind = _kind(image)
        if not kind and not window:
            ImageOps.exif_transpose(image, in_place=True)
            return Frame(np.asarray(to_rgb(image)), 255.0)
        if image.mode not in ("L", "1", "F") and not image.mode.startswith("I"):
            raise ValueError("it is in colour, and a window is for grey values")
        grey = _values(image)
        if not np.isfinite(grey).all():
            raise ValueError("it holds values that are not finite (NaN)")
        if window:
            return Frame(apply_window(grey, *window), 1.0)
        if kind != "uint16" and not (kind == "uint32" and bit_depth > 16):
            low, high = float(grey.min()), float(grey.max())
            centre, width = (0.5, 1) if low >= 0 and high <= 1 else ((low + high) / 2, high - low or 1)
            raise ValueError(
                f"its values are {kind}, here from {low:g} to {high:g}, and which of them are black and white is not "
                f"known; say so for all files by window=[centre, width], such as [{centre:g}, {width:g}]"
            )
        top = 2.0**bit_depth - 1  # never from the image's own maximum: brightness must compare between images
        return Frame(np.minimum(grey, top).astype(np.float32), top, clipped=int((grey > top).sum()))


def _kind(image: Image.Image) -> str:
    """The type of grey values that are more than 8 unsigned bits; empty for all others."""
    tags = _tags(image)
    bits, sample = int((tags.get(_BITS) or (8,))[0]), int((tags.get(_SAMPLE) or (1,))[0])
    if image.mode == "F":
        return "float32"
    if image.format == "TIFF" and (image.mode.startswith("I") or sample == 2):
        return f"{'int' if sample == 2 else 'uint'}{bits if bits == 32 or bits <= 8 else 16}"
    return "uint16" if image.mode.startswith("I") else ""


def _values(image: Image.Image) -> np.ndarray:
    """Grey values ``(height, width)`` as the file means them, upright."""
    kind = _kind(image)
    array = np.asarray(ImageOps.exif_transpose(image))
    if kind == "int8":  # Pillow shows the bytes
        array = array.astype(np.uint8).view(np.int8)
    elif kind == "uint32":
        array = array.astype(np.int64) & 0xFFFFFFFF
    if image.format == "TIFF" and kind and _tags(image).get(_WHITE_IS, 1) == 0:  # Pillow turns 8 bits over, not more
        if kind != "uint16":
            raise ValueError(f"it is a TIFF file of {kind} in which 0 is white, which is not read")
        array = 65535 - array.astype(np.int64)
    return array


def to_rgb(image: Image.Image) -> Image.Image:
    """Any 8-bit Pillow mode to RGB."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        black = Image.new("RGB", rgba.size)
        black.paste(rgba, mask=rgba.getchannel("A"))
        return black
    return image if image.mode == "RGB" else image.convert("RGB")


def load_mask(path: str | Path, values: Sequence[int] = (), frames: str = "refuse") -> np.ndarray:
    """A mask file as bool ``(height, width)``.

    ``values`` are the grey values that mean evidence (a trimap's animal is 1); empty: every value but 0, in a JPEG
    every value over 127, and never what is transparent. Raises FileError.
    """
    with open_image(path, frames) as image:
        image.load()
        found, lossy = ImageOps.exif_transpose(image), image.format in ("JPEG", "MPO")
        if len(values):  # a palette image holds class numbers: its indices are the values
            grey = found if found.mode in ("P", "L", "1", "I", "F", "I;16") else found.convert("L")
            return np.isin(np.asarray(grey), list(values))
        if found.mode == "F" or found.mode.startswith("I"):
            array = np.asarray(found)
            if not np.isfinite(array).all():
                raise ValueError("it holds values that are not finite (NaN)")
            return array != 0
        if found.mode in ("RGBA", "LA", "PA") or "transparency" in found.info:
            rgba = np.asarray(found.convert("RGBA"))
            return (rgba[..., :3] > 0).any(axis=-1) & (rgba[..., 3] > 0)
        array = np.asarray(found.convert("L"))
    return array > (127 if lossy else 0)
