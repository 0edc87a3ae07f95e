"""Tables that a run saved as CSV, read back as what they were: text stays text, numbers become numbers.

pandas' own guess makes 7 of the id "0007", and nothing of a class called "NA", "None" or "nan".
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

# Columns that hold names, which may look like numbers; "p of the original's class" holds none.
_NAMES = re.compile(
    r"^(?!p of )(.*[ _])?(ids?|image|patient|case|class|classes|label|name|model|method|metric|dataset|file|split)$",
    re.IGNORECASE,
)
_EXACT = 2**53  # larger integers are none of float64


def read_saved_table(path: str | Path) -> pd.DataFrame:
    """A table of `Run.save_table`: columns of text (str), or of numbers (int64, or float64 with NaN for empty cells).

    A column holds numbers where every cell is empty or a number as pandas writes it, and its name is not one of names
    (id, image, patient, class, model, ...); one that is empty throughout is float64. Raises ValueError that names the
    file where it is no table.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, OSError, MemoryError) as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"{Path(path).name} cannot be read as a table: {error}") from error
    for place, name in enumerate(table.columns):
        cells = table.iloc[:, place]
        if (cells == "").all() or (not _NAMES.search(str(name)) and cells.map(_is_number).all()):
            table.isetitem(place, _numbers(cells))
    return table


def _is_number(cell: str) -> bool:
    if cell in ("", "inf", "-inf"):
        return True
    try:
        value = float(cell)
    except (ValueError, OverflowError):
        return False
    return np.isfinite(value) and (cell == repr(value) or (abs(value) < _EXACT and cell == str(round(value))))


def _numbers(cells: pd.Series) -> pd.Series:
    whole = (cells != "").all() and cells.str.fullmatch(r"-?\d+").all()
    return cells.astype(np.int64) if whole else cells.replace("", "nan").astype(np.float64)
