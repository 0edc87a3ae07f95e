"""DICOM files to grey pixels, through pydicom's modality and VOI look-ups.

Compressed files (JPEG, lossless JPEG, JPEG-LS, JPEG 2000, RLE) are decoded by python-gdcm, Pillow or pydicom itself.
"""

import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from xaiutils.datasets.cache import file_key

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic"})
_PREAMBLE = 128


@dataclass(frozen=True)
class Frame:
    """Pixels of a file: uint8 ``(height, width[, 3])``, or float32 ``(height, width)`` from 0 to ``top``.

    ``spacing_mm`` is the size of a pixel (down, along) on the detector, None where unknown.
    """

    pixels: np.ndarray
    top: float
    spacing_mm: tuple[float, float] | None = None


def is_dicom(path: Path) -> bool:
    """By its suffix, or by its content, whatever it is called: the mark after the preamble, or a data set without one.
    A file that is not there, or is no regular file (which is never opened), is none."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        facts = path.stat()
        return stat.S_ISREG(facts.st_mode) and _is_dicom(str(path), facts.st_size, facts.st_mtime_ns)
    except OSError:
        return False


@lru_cache(maxsize=100_000)
def _is_dicom(path: str, size: int, written: int) -> bool:
    with open(path, "rb") as file:  # noqa: PTH123
        start = file.read(_PREAMBLE + 4)
    if start[_PREAMBLE:] == b"DICM":
        return True
    # A data set without preamble begins with an element of group 2 or 8, little endian.
    if start[:2] not in (b"\x02\0", b"\x08\0") or len(start) < 12 or start[3] != 0:
        return False
    try:
        found = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID", "Rows"])
        return "SOPClassUID" in found and "Rows" in found
    except Exception:  # not DICOM: pydicom raises many kinds
        return False


@dataclass(frozen=True)
class Header:
    """What is needed of a file before its pixels are; texts are empty and numbers 0 where the file does not say."""

    patient: str = ""
    series: str = ""
    view: str = ""
    side: str = ""
    height: int = 0
    width: int = 0


def read_header(path: Path) -> Header:
    """A file's header, kept for the next splits. Raises ValueError for a file that is not DICOM or is damaged, OSError
    when it cannot be read."""
    return _read_header(*file_key(path))


@lru_cache(maxsize=100_000)
def _read_header(path: str, size: int, written: int) -> Header:
    names = ["PatientID", "SeriesInstanceUID", "ViewPosition", "ImageLaterality", "Laterality", "Rows", "Columns"]
    try:
        force = _is_dicom(path, size, written)  # a data set without preamble
        ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=names, force=force)
        texts = [str(ds.get(name) or "").strip() for name in names[:5]]
        sides = [int(ds.get(name) or 0) for name in names[5:]]
    except OSError:
        raise
    except Exception as error:  # pydicom raises many kinds for a damaged header
        raise ValueError(f"{Path(path).name} has no readable DICOM header: {error}") from error
    patient, series, view, own_side, study_side = texts
    return Header(patient, series, view, own_side or study_side, *sides)


def read_dicom(path: Path) -> Frame:
    """The picture that the file means to show: bright is dense, whatever the photometric interpretation.

    Rescale slope and intercept or the modality LUT, then the first VOI LUT or window, where the file has them; then
    MONOCHROME1 is inverted. The result starts at 0: of the window, or else of the bits that are stored.

    Raises ValueError: no pixels, several frames, colour that is not RGB or YBR, a transfer syntax that nothing here
    decodes, a truncated file. OSError: it cannot be read.
    """
    path = Path(path)
    try:
        ds = pydicom.dcmread(path, force=_is_dicom(*file_key(path)))  # by force only what has no preamble
    except InvalidDicomError as error:
        raise ValueError("not a DICOM file") from error
    except EOFError as error:
        raise ValueError("the file ends too early") from error
    pixels = _decode(ds)
    kind = str(ds.get("PhotometricInterpretation", "MONOCHROME2")).strip()
    if pixels.ndim == 3 and pixels.shape[-1] == 3 and kind.startswith(("RGB", "YBR")):
        scale = 255 / (2.0 ** int(ds.get("BitsStored", 8)) - 1)
        return Frame(np.rint(np.clip(pixels * scale, 0, 255)).astype(np.uint8), 255.0, _spacing(ds))
    if not kind.startswith("MONOCHROME"):
        raise ValueError(f"its colours are {kind}; MONOCHROME1, MONOCHROME2, RGB and YBR are read")
    if pixels.ndim != 2:
        raise ValueError(f"it holds {pixels.shape[0]} frames; only single pictures are read")
    shown = apply_modality_lut(pixels, ds)
    low, high = _stored_range(ds, shown)
    if ds.get("VOILUTSequence"):
        low, high = 0.0, 2.0 ** int(ds.VOILUTSequence[0].LUTDescriptor[2]) - 1
    if ds.get("VOILUTSequence") or _has_window(ds):
        shown = apply_voi_lut(shown, ds)
    shown = np.asarray(shown, np.float32) - np.float32(low)
    top = max(high - low, 1.0)
    if kind == "MONOCHROME1":
        shown = top - shown
    return Frame(shown, top, _spacing(ds))


def _decode(ds: pydicom.Dataset) -> np.ndarray:
    if "PixelData" not in ds:
        raise ValueError("it has no pixel data")
    missing = [t for t in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel") if t not in ds]
    if missing:
        raise ValueError(f"its header lacks {', '.join(missing)}")
    if not getattr(ds.file_meta, "TransferSyntaxUID", None):
        implicit = ds.original_encoding[0] is not False
        syntaxes = pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian
        ds.file_meta.TransferSyntaxUID = syntaxes[implicit]
    try:
        return ds.pixel_array
    except Exception as error:  # the decoders raise nearly anything on damaged data
        name = ds.file_meta.TransferSyntaxUID.name
        raise ValueError(f"its pixels ({name}) cannot be decoded: {str(error).splitlines()[0]}") from error


def _has_window(ds: pydicom.Dataset) -> bool:
    """Whether there is a window that means something: sloppy exports write a width of 0."""
    try:
        widths = [float(w) for w in np.atleast_1d(ds.get("WindowWidth"))]
        centres = [float(c) for c in np.atleast_1d(ds.get("WindowCenter"))]
    except (TypeError, ValueError):
        return False
    return bool(centres and widths) and widths[0] >= 1


def _stored_range(ds: pydicom.Dataset, grey: np.ndarray) -> tuple[float, float]:
    """What the stored bits can hold, after the modality's rescaling. A MATLAB or JPEG export may state too few bits."""
    bits = int(ds.get("BitsStored", ds.BitsAllocated))
    slope, intercept = float(ds.get("RescaleSlope", 1) or 1), float(ds.get("RescaleIntercept", 0) or 0)
    start = -(2 ** (bits - 1)) if int(ds.get("PixelRepresentation", 0)) else 0
    ends = sorted(slope * value + intercept for value in (start, start + 2**bits - 1))
    return min(ends[0], float(grey.min())), max(ends[1], float(grey.max()))


def _spacing(ds: pydicom.Dataset) -> tuple[float, float] | None:
    """Pixel size: PixelSpacing (calibrated) where the file has it, else ImagerPixelSpacing (on the detector)."""
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        value = ds.get(name)
        try:
            down, along = (float(v) for v in value)
        except (TypeError, ValueError):
            continue
        if down > 0 and along > 0:
            return down, along
    return None
