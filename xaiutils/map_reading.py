"""How the values of a map are read where maps are ranked, thresholded, compared or drawn.

Some methods give a sign, some cannot: a comparison of both is one of signs unless all maps are read alike.
"""

import numpy as np

from xaiutils.registry import check_choice

READINGS = ("signed", "positive", "magnitude")


def read_maps(maps: np.ndarray, reading: str) -> np.ndarray:
    """Maps of any shape, read as ``reading`` says.

    - "signed": as they are; the largest value is the strongest evidence for the class, the smallest against it.
    - "positive": max(map, 0), what speaks for the class.
    - "magnitude": abs(map), what matters to the score, whichever way.

    For maps without negative values all three are the same. Raises ValueError for any other reading.
    """
    check_reading(reading)
    if reading == "signed":
        return maps
    return np.maximum(maps, 0) if reading == "positive" else np.abs(maps)


def check_reading(reading: object, name: str = "reading") -> str:
    """``reading``, one of `READINGS`; else ValueError."""
    check_choice(name, reading, READINGS)
    return str(reading)
