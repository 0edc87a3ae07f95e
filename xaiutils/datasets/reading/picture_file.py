"""Picture files with their evidence, read at full size and laid out as a model sees them.

`read_picture_file` is the one way from a file of any kind (PNG, JPEG, TIFF, DICOM, ...) to pixels and mask: open it,
draw its evidence in the file's own pixels, turn, crop, scale to 8 bits and resize, each step for both alike.
"""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xaiutils.datasets.image_dataset import largest_extent
from xaiutils.datasets.listing import Picture
from xaiutils.datasets.reading import breast_region, dicom
from xaiutils.datasets.reading.cache import cached_picture, file_key
from xaiutils.datasets.reading.evidence import DrawnMask, Evidence, draw_all
from xaiutils.datasets.reading.frames import read_frame
from xaiutils.datasets.reading.image_files import FRAMES, check_window
from xaiutils.file_limits import explain, large_pictures, naming
from xaiutils.images import fit_image, fit_mask
from xaiutils.registry import check_choice, check_integer

REGIONS = ("whole", "breast", "roi")


@dataclass(frozen=True)
class Preparation:
    """How a picture is laid out.

    ``keep_aspect`` pads to a square with black instead of squeezing (as in the thesis). ``bit_depth``: bits that 16-bit
    grey files really use (12 for many detectors). ``region``: "whole", "breast" (the box around the breast) or "roi"
    (the box around the evidence, made square, with ``margin`` of its longer side added all around). ``align`` turns the
    picture so that the chest wall is on the left. ``percentiles`` (low, high) of the breast become black and white in
    pictures of more than 8 bits; empty means the whole range. ``black_background`` blackens what is not breast: labels,
    and the bright edges of films. ``mammogram`` says whether there is a breast to look for. ``window`` (centre, width):
    the grey values, in the files' own units (HU for CT), that become black and white, needed for floats and signed
    integers; empty: the window of a DICOM file, else all that its bits can hold. ``frames``: of a file with several
    pictures (pages, frames), "first" takes the first one, "refuse" none and names the file.
    """

    keep_aspect: bool = False
    bit_depth: int = 16
    region: str = "whole"
    margin: float = 0.25
    align: bool = False
    percentiles: tuple[float, ...] = ()
    black_background: bool = False
    mammogram: bool = False
    window: tuple[float, ...] = ()
    frames: str = "refuse"

    def __post_init__(self):
        for name in ("keep_aspect", "align", "black_background"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}={getattr(self, name)!r}; expected true or false.")
        check_choice("region", self.region, REGIONS)
        check_choice("frames", self.frames, FRAMES)
        check_integer("bit_depth", self.bit_depth, 8, 32)
        if isinstance(self.margin, bool) or not isinstance(self.margin, int | float) or not 0 <= self.margin <= 10:
            raise ValueError(f"margin={self.margin!r}; expected a number from 0 to 10 (0.25: a quarter on each side).")
        object.__setattr__(self, "percentiles", check_percentiles(self.percentiles))
        object.__setattr__(self, "window", check_window(self.window))


def check_percentiles(percentiles: Sequence[float]) -> tuple[float, ...]:
    """``percentiles`` as a tuple: empty, or two rising numbers in 0..100. Raises ValueError."""
    try:
        values = tuple(float(p) for p in percentiles)
    except (TypeError, ValueError):
        values = (1.0, 0.0)
    if values and not (len(values) == 2 and 0 <= values[0] < values[1] <= 100):
        raise ValueError(f"percentiles={percentiles!r}; expected two rising numbers from 0 to 100, or none.")
    return values


DEFAULT = Preparation()
FILE_OPTIONS = ("keep_aspect", "bit_depth", "window", "frames")  # of a user's own files
MAMMOGRAM = Preparation(True, 16, "breast", align=True, percentiles=(0.5, 99.5), mammogram=True)
MAMMOGRAM_OPTIONS = ("region", "margin", "keep_aspect", "align", "percentiles", "black_background")


@dataclass(frozen=True)
class PictureFile:
    """A file, where its evidence is, and how it is to be laid out.

    ``label_evidence`` is that of each label, in the order of the labels (empty: not known), where images have several
    labels at once; without ``evidence`` all of it together is the image's.
    """

    path: Path
    evidence: tuple[Evidence, ...] = ()
    preparation: Preparation = DEFAULT
    label_evidence: tuple[tuple[Evidence, ...], ...] = ()

    @property
    def all_evidence(self) -> tuple[Evidence, ...]:
        """The image's and its labels'."""
        return (*self.evidence, *(one for of_label in self.label_evidence for one in of_label))


def read_picture_file(source: PictureFile, image_size: int) -> Picture:
    """Read, lay out and resize one picture; DICOM files and mammograms are converted once and kept (`cache`).

    The picture's metadata: ``height`` and ``width`` of the file, ``mm_down`` and ``mm_along`` of a prepared pixel and
    their mean ``mm_per_pixel`` where the file says it, and of the evidence ``lesion_pixels`` (the longer side of the
    largest connected part, in prepared pixels, before rounding), ``lesion_mm``, and ``lesion_lost`` (too small, or cut
    off: nothing is left). Evidence that cannot be read or cannot be right leaves the mask None, that is not known, and
    says why in ``remarks``.

    Raises FileError (truncated, not an image, ...), FileNotFoundError or PermissionError.
    """
    how = source.preparation
    with naming(source.path), large_pictures():
        if not (how.mammogram or dicom.is_dicom(source.path)):
            return _picture(*_prepare(source, image_size))
        files = [file_key(source.path), *(_key_or_none(f) for e in source.all_evidence for f in e.files)]
        key = [image_size, astuple(how), files, [repr(e) for e in source.evidence], repr(source.label_evidence)]
        return _picture(*cached_picture(key, lambda: _prepare(source, image_size)))


def _picture(pixels: np.ndarray, mask: np.ndarray | None, facts: dict[str, Any]) -> Picture:
    plain = {k: v for k, v in facts.items() if k not in ("remarks", "label_masks", "label_states")}
    states = facts.get("label_states")
    if states is None:
        return Picture(pixels, mask, plain, facts.get("remarks", {}))
    shape = (len(states), *pixels.shape[:2])
    bits = np.frombuffer(zlib.decompress(base64.b64decode(facts["label_masks"])), np.uint8)
    masks = np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
    return Picture(pixels, mask, plain, facts.get("remarks", {}), masks, tuple(states))


def _packed(masks: np.ndarray) -> str:
    """Bool masks as a text, for the cache, whose PNG has room for one mask."""
    return base64.b64encode(zlib.compress(np.packbits(masks).tobytes())).decode()


def _key_or_none(path: Path) -> tuple[str, int, int] | None:
    """Of a file of evidence; what is wrong with it is said when it is drawn."""
    try:
        return file_key(path)
    except (OSError, ValueError):
        return None


def _prepare(source: PictureFile, image_size: int) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    how = source.preparation
    frame = read_frame(source.path, how.bit_depth, how.window, how.frames)
    pixels, spacing = frame.pixels, frame.spacing_mm
    shape = pixels.shape[:2]
    mask, remarks = _evidence(source.evidence, how, shape)
    labels = [_evidence(of_label, how, shape) for of_label in source.label_evidence]
    remarks = {k: v for _, said in labels for k, v in said.items()} | remarks
    drawn = [m for m, _ in labels if m is not None]
    if not source.evidence and drawn:
        mask = np.any(drawn, axis=0)
    remarks |= {k: v for k, v in {"clipped": frame.clipped, "bits_exceeded": frame.bits_exceeded}.items() if v}
    facts: dict[str, Any] = {"height": shape[0], "width": shape[1], "remarks": remarks}
    marked = mask is not None and bool(mask.any())
    breast = breast_region.segment_breast(pixels) if how.mammogram else None
    turned = how.align and breast is not None and breast_region.lies_right(breast)
    if how.align and breast is not None:
        facts["turned"] = turned
        if turned:
            pixels, breast = pixels[:, ::-1], breast[:, ::-1]
            mask = None if mask is None else mask[:, ::-1]
    eight_bit = _to_8_bit(pixels, frame.top, breast, how.percentiles)
    if pixels.dtype != np.uint8 and np.ptp(eight_bit) < 32:
        remarks["even"] = True
    if how.black_background and breast is not None and breast.any():
        eight_bit = np.where(breast if eight_bit.ndim == 2 else breast[..., None], eight_bit, 0).astype(np.uint8)
    box = _region(how, mask, breast, shape)
    eight_bit = breast_region.cut(eight_bit, box)
    mask = None if mask is None else breast_region.cut(mask, box)
    facts |= _scale_facts(mask, eight_bit.shape[:2], spacing, image_size, how.keep_aspect)
    centre = 0.0 if how.align and how.region != "roi" else 0.5  # the chest wall at the very edge
    fitted = None if mask is None else fit_mask(mask, image_size, how.keep_aspect, centre)
    if mask is not None:
        facts["lesion_lost"] = bool(marked and fitted is not None and not fitted.any())
    if labels:
        placed = np.zeros((len(labels), image_size, image_size), bool)
        for i, (one, _) in enumerate(labels):
            if one is not None and one.any():
                whole = breast_region.cut(one[:, ::-1] if turned else one, box)
                placed[i] = fit_mask(whole, image_size, how.keep_aspect, centre)
        facts["label_masks"] = _packed(placed)
        facts["label_states"] = ["unknown" if m is None else "known" if m.any() else "empty" for m, _ in labels]
    return fit_image(eight_bit, image_size, how.keep_aspect, centre), fitted, facts


def _evidence(
    evidence: tuple[Evidence, ...], how: Preparation, shape: tuple[int, int]
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """The mask, None where it is not known, and remarks on it."""
    if not evidence:
        return None, {}
    try:
        drawn: DrawnMask = draw_all(evidence, shape)
    except (ValueError, OSError, MemoryError) as error:
        if how.region == "roi":
            raise
        return None, {"evidence": explain(error)}
    return drawn.mask, {"outlines_clipped": drawn.clipped} if drawn.clipped else {}


def _to_8_bit(pixels: np.ndarray, top: float, breast: np.ndarray | None, percentiles: tuple[float, ...]) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    low, high = 0.0, top
    if percentiles and breast is not None and breast.any():
        low, high = np.percentile(pixels[breast], percentiles)
    scaled = (pixels - np.float32(low)) * np.float32(255 / max(high - low, 1e-6))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _region(how: Preparation, mask, breast, shape) -> tuple[int, int, int, int]:
    """(top, bottom, left, right); may reach over the edges, where `breast_region.cut` fills in black."""
    if how.region == "roi":
        if mask is None or not mask.any():
            raise ValueError("region='roi' needs evidence to crop to, and this image has none; use region='whole'.")
        return breast_region.square_around(mask, how.margin)
    if how.region == "breast" and breast is not None and breast.any():
        return breast_region.box_of(breast)  # never by the lesion: where it lies would shape the picture
    return 0, shape[0], 0, shape[1]


def _scale_facts(mask, shape, spacing, image_size, keep_aspect) -> dict[str, Any]:
    """Sizes in prepared pixels and in millimetres, down the rows and along the columns."""
    sides = (max(shape), max(shape)) if keep_aspect else shape
    scale = np.array([image_size / sides[0], image_size / sides[1]])
    facts: dict[str, Any] = {}
    if spacing is not None:
        down, along = np.array(spacing) / scale
        facts["mm_per_pixel"] = round(float((down + along) / 2), 4)
        facts |= {"mm_down": round(float(down), 4), "mm_along": round(float(along), 4)}
    if mask is not None and mask.any():
        extent = largest_extent(mask)
        facts["lesion_pixels"] = round(float(np.max(extent * scale)), 2)
        if spacing is not None:
            facts["lesion_mm"] = round(float(np.max(extent * np.array(spacing))), 2)
    return facts
