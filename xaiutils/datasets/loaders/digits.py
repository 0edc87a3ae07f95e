"""scikit-learn's 1,797 handwritten digits (UCI, 43 writers; the writers are not recorded), scaled up."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.image_dataset import largest_extent
from xaiutils.datasets.listing import Listing, Picture, Record

STROKE_LEVEL = 0.5  # of the full ink value: half coverage of a pixel counts as stroke


def load() -> Listing:
    """Masks are the strokes: ink over half of its range after bicubic up-sampling from 8 x 8."""
    digits = load_digits()
    records = [
        Record(f"digit_{i:04d}", int(label), source=image / 16.0)
        for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True))
    ]
    return Listing(records, tuple(map(str, range(10))), read_strokes, origin="digits", mirrors=False)


DIGITS = DatasetEntry(
    "digits",
    "Handwritten digits, 8 x 8",
    load,
    licence="CC BY 4.0",
    citation="Alpaydin & Kaynak 1998, UCI Machine Learning Repository",
    access="installed with scikit-learn",
    evidence="the stroke",
    caution="43 writers; who wrote which digit is not recorded.",
    reads_files=False,
)


def read_strokes(ink: np.ndarray, image_size: int) -> Picture:
    """Ink ``(height, width)`` in [0, 1] enlarged to a white stroke on black, with the stroke as its mask."""
    picture = Image.fromarray(ink.astype(np.float32))
    grey = np.clip(np.asarray(picture.resize((image_size, image_size), Image.Resampling.BICUBIC)), 0, 1)
    length = float(largest_extent(ink > STROKE_LEVEL).max() * image_size / len(ink))
    return Picture(np.rint(255 * grey).astype(np.uint8), grey > STROKE_LEVEL, {"lesion_pixels": length})
