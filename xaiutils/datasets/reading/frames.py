"""One way from a file of any kind to its pixels, for pictures and for masks alike."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xaiutils.datasets.reading import dicom
from xaiutils.datasets.reading.image_files import Frame, load_mask, read_picture


def read_frame(path: Path, bit_depth: int = 16, window: Sequence[float] = (), frames: str = "refuse") -> Frame:
    """A DICOM file or any common picture file; see `dicom.read_dicom` and `image_files.read_picture`."""
    if dicom.is_dicom(path):
        return dicom.read_dicom(path, window, frames)
    return read_picture(path, bit_depth, window, frames)


def read_mask_file(path: Path, values: Sequence[int] = ()) -> np.ndarray:
    """A mask as bool ``(height, width)``: where a stored value is one of ``values``, or any but 0."""
    if dicom.is_dicom(path):
        stored = dicom.read_stored(path)
        return np.isin(stored, list(values)) if len(values) else stored != 0
    return load_mask(path, values)
