"""The view marker: bright letters such as RCC or LMLO beside the breast, as the technician places them in lead."""

import numpy as np

BRIGHTNESS = 0.9
_HEIGHT = 0.07  # of the field, the box of the letters
_CELL = 0.0105  # of the field, a column of the bitmaps below
_GLYPHS = {
    "R": "110 101 110 101 101",
    "L": "100 100 100 100 111",
    "C": "111 100 100 100 111",
    "M": "10001 11011 10101 10001 10001",
    "O": "111 101 101 101 111",
}


def draw_marker(rng: np.random.Generator, size: int, side: str, view: str) -> tuple[np.ndarray, np.ndarray]:
    """Letters and their box, both bool ``(size, size)``, in the upper corner away from the chest wall.

    No breast reaches that corner: the widest ends at 0.72 of the field, the letters begin at 0.79.
    """
    top, left = rng.uniform(0.02, 0.06), rng.uniform(0.79, 0.81)
    bitmap = _bitmap(side + view)
    extent = _CELL * bitmap.shape[1]
    if side == "R":
        left = 1 - left - extent
    box = np.zeros((size, size), bool)
    first_row, first_column = round(top * size), round(left * size)
    height, width = max(round(_HEIGHT * size), 1), max(round(extent * size), 1)
    place = slice(first_row, first_row + height), slice(first_column, first_column + width)
    box[place] = True
    letters = np.zeros_like(box)
    letters[place] = _enlarged(bitmap, height, width)
    return letters, box


def _bitmap(text):
    """Five rows of pixels, a blank column between letters."""
    blank = np.zeros((5, 1), bool)
    columns = []
    for letter in text:
        columns += [np.array([[c == "1" for c in row] for row in _GLYPHS[letter].split()]), blank]
    return np.concatenate(columns[:-1], axis=1)


def _enlarged(bitmap, height, width):
    rows = np.arange(height) * bitmap.shape[0] // height
    columns = np.arange(width) * bitmap.shape[1] // width
    return bitmap[rows][:, columns]
