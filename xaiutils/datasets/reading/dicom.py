"""DICOM files to grey pixels: modality and VOI look-ups by PS3.3, each number of the header checked before it is used.

Compressed files are decoded by Pillow (JPEG, JPEG 2000), by pydicom itself (RLE), or by gdcm in a process of its own
(`decoder_process`), since damaged bytes may end the process that it runs in.
"""

import io
import stat
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.filereader import _read_file_meta_info
from pydicom.pixels import apply_modality_lut, apply_voi, pixel_array

from xaiutils import file_limits
from xaiutils.datasets.reading.cache import file_key
from xaiutils.datasets.reading.decoder_process import DECODER
from xaiutils.datasets.reading.image_files import Frame, apply_window, check_frames
from xaiutils.file_limits import check_pixels, check_regular, naming

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic"})
_PREAMBLE = 128
_JPEG = frozenset({pydicom.uid.JPEGBaseline8Bit, pydicom.uid.JPEGExtended12Bit})
_JPEG_2000 = frozenset({pydicom.uid.JPEG2000Lossless, pydicom.uid.JPEG2000})
_BY_GDCM = frozenset(
    {pydicom.uid.JPEGLossless, pydicom.uid.JPEGLosslessSV1, pydicom.uid.JPEGLSLossless, pydicom.uid.JPEGLSNearLossless}
)
# An enhanced file keeps these in functional groups.
_MACROS = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelMeasuresSequence": ("PixelSpacing",),
}


def is_dicom(path: Path) -> bool:
    """By its suffix, or by its content, whatever it is called: the mark after the preamble, or a data set without one.
    A file that is not there, or is not a regular file (which is never opened), is not DICOM."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        facts = path.stat()
        return stat.S_ISREG(facts.st_mode) and _is_dicom(str(path), facts.st_size, facts.st_mtime_ns)
    except (OSError, ValueError):  # ValueError: a NUL in the path
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
        _check_deflated(Path(path))
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
    """A file's header, kept for the next splits. Raises FileError for a file that is not DICOM or is damaged,
    FileNotFoundError or PermissionError when it cannot be opened."""
    with naming(path, "it has no readable DICOM header"):
        return _read_header(*file_key(path))


@lru_cache(maxsize=100_000)
def _read_header(path: str, size: int, written: int) -> Header:
    names = ["PatientID", "SeriesInstanceUID", "ViewPosition", "ImageLaterality", "Laterality", "Rows", "Columns"]
    ds = _parse(Path(path), stop_before_pixels=True, specific_tags=names)
    texts = [str(ds.get(name) or "").strip() for name in names[:5]]
    sides = [int(ds.get(name) or 0) for name in names[5:]]
    patient, series, view, own_side, study_side = texts
    return Header(patient, series, view, own_side or study_side, *sides)


@dataclass(frozen=True)
class CTSlice:
    """Where a slice of CT belongs: ``height`` is its position upward in the patient, in mm, None where the file does
    not say; ``agent`` the contrast medium that it names, "" where none."""

    patient: str
    series: str
    height: float | None
    agent: str


def read_ct_slice(path: Path) -> CTSlice | None:
    """A file's header as that of a slice of CT; None for another modality. Raises as `read_header`."""
    with naming(path, "it has no readable DICOM header"):
        return _read_ct_slice(*file_key(path))


@lru_cache(maxsize=400_000)  # LIDC-IDRI has 244,527 slices
def _read_ct_slice(path: str, size: int, written: int) -> CTSlice | None:
    names = ["PatientID", "SeriesInstanceUID", "ContrastBolusAgent", "Modality", "ImagePositionPatient"]
    ds = _parse(Path(path), stop_before_pixels=True, specific_tags=names)
    patient, series, agent, modality = (str(ds.get(name) or "").strip() for name in names[:4])
    position = _numbers(ds, "ImagePositionPatient")
    return CTSlice(patient, series, position[2] if len(position) == 3 else None, agent) if modality == "CT" else None


def read_dicom(path: Path, window: Sequence[float] = (), frames: str = "refuse") -> Frame:
    """The picture that the file means to show: bright is dense, whatever the photometric interpretation.

    Rescale slope and intercept or the modality LUT, then the first VOI LUT or window, where the file has them; then
    MONOCHROME1 is inverted. The result starts at 0: of the window, or else of the bits that are stored.

    Args:
        window: (centre, width) in the file's own units (HU for CT), in place of the file's VOI LUT or window.
        frames: of a file with several, "first" takes the first one and "refuse" none.

    Raises FileError: no pixels, several frames, colour that is not RGB or YBR, a transfer syntax that nothing here
    decodes, a truncated file, a header that contradicts itself or names an impossible slope, window or spacing.
    """
    with naming(path):
        ds = _parse(path)
        _lift_macros(ds)
        pixels = _decode(ds, path, frames)
        kind = str(ds.get("PhotometricInterpretation", "MONOCHROME2")).strip()
        spacing = _spacing(ds)
        if pixels.ndim == 3:
            return Frame(_eight_bit_colour(ds, pixels, kind, window), 255.0, spacing)
        if not kind.startswith("MONOCHROME"):
            raise ValueError(f"its colours are {kind}; MONOCHROME1, MONOCHROME2, RGB and YBR are read")
        grey, low, high, exceeded = _modality(ds, pixels)
        if window:
            shown, top = apply_window(grey, *window), 1.0
        elif ds.get("VOILUTSequence"):
            top = _lut_top(ds.VOILUTSequence)
            shown = apply_voi(grey.astype(np.int64), ds)
        elif stated := _window(ds):
            shown, top = _apply_stated(grey, *stated), 1.0
        else:
            shown, top = grey - low, max(high - low, 1e-30)
        shown = np.asarray(shown, np.float32)
        if kind == "MONOCHROME1":
            shown = np.float32(top) - shown
        return Frame(shown, float(top), spacing, bits_exceeded=exceeded and not window)


def read_stored(path: Path, frames: str = "refuse") -> np.ndarray:
    """The stored numbers of a grey file ``(height, width)``, such as a mask, without any look-up. Raises FileError."""
    with naming(path):
        pixels = _decode(_parse(path), path, frames)
        if pixels.ndim != 2:
            raise ValueError("it is in colour; a mask is grey")
        return pixels


def _parse(path: Path, **options) -> pydicom.Dataset:
    """The file's data set, after a look at what its deflated part would take."""
    check_regular(path)
    try:
        _check_deflated(Path(path))
        return pydicom.dcmread(path, force=_is_dicom(*file_key(Path(path))), **options)  # what has no preamble
    except InvalidDicomError as error:
        raise ValueError("not a DICOM file") from error
    except EOFError as error:
        raise ValueError("the file ends too early") from error


def _check_deflated(path: Path) -> None:
    """Raise ValueError where a deflated file unpacks to more than any picture that is read needs."""
    limit = 8 * file_limits.MAX_PIXELS
    with path.open("rb") as file:
        if file.read(_PREAMBLE + 4)[_PREAMBLE:] != b"DICM":
            file.seek(0)
        if _read_file_meta_info(file).get("TransferSyntaxUID") != pydicom.uid.DeflatedExplicitVRLittleEndian:
            return
        unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        # At its end zlib may keep what follows, such as the byte that makes the length even, as if it were unread.
        while not unpacker.eof and (piece := unpacker.unconsumed_tail or file.read(2**20)):
            size += len(unpacker.decompress(piece, 2**20))
            if size > limit:
                raise ValueError(f"unpacked it has more than {limit:,} bytes (8 for each of file_limits.MAX_PIXELS)")


def _decode(ds: pydicom.Dataset, path: Path, frames: str) -> np.ndarray:
    """Pixels ``(height, width[, 3])`` as stored, after checks of all that decides how much is allocated."""
    if "PixelData" not in ds:
        floats = [n for n in ("FloatPixelData", "DoubleFloatPixelData") if n in ds]
        raise ValueError(f"its pixels are {floats[0]}, which is not read" if floats else "it has no pixel data")
    missing = [t for t in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel") if t not in ds]
    if missing:
        raise ValueError(f"its header lacks {', '.join(missing)}")
    n = _whole(ds, "NumberOfFrames", 1) or 1
    check_frames(n, frames)
    rows, columns = _whole(ds, "Rows"), _whole(ds, "Columns")
    _check_layout(ds)
    check_pixels(rows, columns)
    if not getattr(ds.file_meta, "TransferSyntaxUID", None):
        implicit = ds.original_encoding[0] is not False
        syntaxes = pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian
        ds.file_meta.TransferSyntaxUID = syntaxes[implicit]
    syntax = ds.file_meta.TransferSyntaxUID
    try:
        return _pixels(ds, path, syntax, n, (rows, columns))
    except Exception as error:  # the decoders raise nearly anything on damaged data
        raise ValueError(f"its pixels ({syntax.name}) cannot be decoded: {file_limits.explain(error)}") from error


def _check_layout(ds: pydicom.Dataset) -> None:
    """Raise ValueError where what the header says of a pixel contradicts itself."""
    samples, allocated, signed = (
        _whole(ds, name, 0) for name in ("SamplesPerPixel", "BitsAllocated", "PixelRepresentation")
    )
    stored, kind = _whole(ds, "BitsStored", allocated), str(ds.get("PhotometricInterpretation", "MONOCHROME2")).strip()
    wrong = None
    if allocated not in (1, 8, 16, 32):
        wrong = f"BitsAllocated {allocated}; 1, 8, 16 or 32 is possible"
    elif not 1 <= stored <= allocated:
        wrong = f"BitsStored {stored} of BitsAllocated {allocated}"
    elif signed not in (0, 1) or (signed and samples == 3):
        wrong = f"PixelRepresentation {signed} of {samples} samples"
    elif samples not in (1, 3) or (samples == 3) != kind.startswith(("RGB", "YBR", "HSV")):
        wrong = f"SamplesPerPixel {samples} and PhotometricInterpretation {kind[:40]}"
    if wrong:
        raise ValueError(f"its header says {wrong}")


def _pixels(ds: pydicom.Dataset, path: Path, syntax: str, n: int, size: tuple[int, int]) -> np.ndarray:
    if syntax in _BY_GDCM:
        return _by_gdcm(path)
    if syntax in _JPEG | _JPEG_2000:
        with Image.open(
            io.BytesIO(get_frame(ds.PixelData, 0, number_of_frames=n)), formats=("JPEG", "JPEG2000")
        ) as image:
            if (image.height, image.width) != size:
                raise ValueError(
                    f"they have {image.height} x {image.width} pixels, the header says {size[0]} x {size[1]}"
                )
        try:
            return pixel_array(ds, index=0, decoding_plugin="pillow")
        except (ValueError, NotImplementedError, RuntimeError):
            if syntax in _JPEG:
                raise
            return _by_gdcm(path)  # more than 8 bits in colour
    # The bits above those that are stored hold an overlay, the sign, or what sloppy exports write there: values.
    overlaid = any((group, 0x0102) in ds and ds[group, 0x0102].value for group in range(0x6000, 0x6020, 2))
    signed = bool(_whole(ds, "PixelRepresentation", 0))
    return pixel_array(ds, index=0, correct_unused_bits=overlaid or signed)


def _by_gdcm(path: Path) -> np.ndarray:
    head, data = DECODER.ask("dicom", path)
    return np.frombuffer(data, head["dtype"]).reshape(head["shape"])


def _whole(ds: pydicom.Dataset, name: str, missing: int | None = None) -> int:
    value = ds.get(name, missing)
    try:
        return int(missing if value is None else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"its header says {name} {str(value)[:40]!r}") from None


def _numbers(ds: pydicom.Dataset, name: str) -> list[float]:
    """The header's numbers of this name; empty where it has none. Raises ValueError for what is not a finite number."""
    value = ds.get(name)
    if value is None or value == "":
        return []
    try:
        numbers = [float(v) for v in np.atleast_1d(value)]
    except (TypeError, ValueError):
        numbers = [np.nan]
    if not np.isfinite(numbers).all():
        raise ValueError(f"its header says {name} {str(value)[:40]}")
    return numbers


def _lift_macros(ds: pydicom.Dataset) -> None:
    """Bring what an enhanced file says of its first frame to where other files say it."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (ds.get(groups) or [])[:1]:
            for macro, names in _MACROS.items():
                for item in (group.get(macro) or [])[:1]:
                    for name in names:
                        if name in item and name not in ds:
                            setattr(ds, name, item[name].value)


def _eight_bit_colour(ds: pydicom.Dataset, pixels: np.ndarray, kind: str, window: Sequence[float]) -> np.ndarray:
    if not kind.startswith(("RGB", "YBR")):
        raise ValueError(f"its colours are {kind}; MONOCHROME1, MONOCHROME2, RGB and YBR are read")
    if window:
        raise ValueError("it is in colour, and a window is for grey values")
    scale = 255 / (2.0 ** _whole(ds, "BitsStored", 8) - 1)
    return np.rint(np.clip(pixels * scale, 0, 255)).astype(np.uint8)


def _modality(ds: pydicom.Dataset, pixels: np.ndarray) -> tuple[np.ndarray, float, float, bool]:
    """Values in the modality's unit (float64), the lowest and highest that the bits can mean, and whether the file has
    values beyond the bits it states (then those that are allocated count)."""
    if ds.get("ModalityLUTSequence"):
        top = _lut_top(ds.ModalityLUTSequence)
        return apply_modality_lut(pixels, ds).astype(np.float64), 0.0, top, False
    slope = (_numbers(ds, "RescaleSlope") or [1.0])[0]
    intercept = (_numbers(ds, "RescaleIntercept") or [0.0])[0]
    if slope == 0:
        raise ValueError("its header says RescaleSlope 0: all values would be one")
    signed, exceeded = _whole(ds, "PixelRepresentation", 0), False
    for name in ("BitsStored", "BitsAllocated"):
        bits = _whole(ds, name, _whole(ds, "BitsAllocated"))
        start = -(2 ** (bits - 1)) if signed else 0
        if pixels.min() >= start and pixels.max() < start + 2**bits:
            break
        exceeded = True
    low, high = sorted(slope * value + intercept for value in (start, start + 2**bits - 1))
    largest = max(abs(low), abs(high))
    if not largest < 1e30 or np.spacing(largest) * 2**bits > abs(high - low) * 2:
        raise ValueError(f"its header says RescaleSlope {slope:g} and RescaleIntercept {intercept:g}")
    return pixels * slope + intercept, low, high, exceeded


def _lut_top(luts: Sequence[pydicom.Dataset]) -> float:
    """The highest value of the first look-up table. Raises ValueError where the table says it has no 8 to 16 bits."""
    descriptor = [int(v) for v in luts[0].LUTDescriptor]
    if len(descriptor) != 3 or not 8 <= descriptor[2] <= 16:
        raise ValueError(f"its header says LUTDescriptor {descriptor}; the third number is 8 to 16 bits")
    return 2.0 ** descriptor[2] - 1


def _window(ds: pydicom.Dataset) -> tuple[float, float, str] | None:
    """The file's first window (centre, width, function), None where it has none or a blank one of width 0."""
    centres, widths = _numbers(ds, "WindowCenter"), _numbers(ds, "WindowWidth")
    if not widths or widths[0] == 0:
        return None
    function = str(ds.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ValueError(
            f"its header says VOILUTFunction {function[:40]!r}; LINEAR, LINEAR_EXACT or SIGMOID is possible"
        )
    if not centres or widths[0] < 0 or (function == "LINEAR" and widths[0] < 1):
        raise ValueError(
            f"its header says WindowCenter {centres[0] if centres else '(none)'}, WindowWidth {widths[0]:g} and "
            f"VOILUTFunction {function}, which is no window; give your own by window=[centre, width]"
        )
    return centres[0], widths[0], function


def _apply_stated(grey: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """From black 0 to white 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3). Not by pydicom, which turns over for a negative
    slope."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (grey - centre) / width, -700, 700)))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return apply_window(grey, centre, width)


def _spacing(ds: pydicom.Dataset) -> tuple[float, float] | None:
    """Pixel size: PixelSpacing (calibrated) where the file has it, else ImagerPixelSpacing (on the detector). Zeros
    are placeholders."""
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        values = _numbers(ds, name)
        if not any(values):
            continue
        if len(values) != 2 or min(values) <= 0:
            raise ValueError(f"its header says {name} {values}; two lengths in mm are possible")
        return values[0], values[1]
    return None
