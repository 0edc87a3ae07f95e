"""CSV and Excel files as tables of texts: nothing is guessed of numbers, dates or blanks."""

import codecs
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from xaiutils import file_limits
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.reading.decoder_process import DECODER
from xaiutils.datasets.reading.picture_file import read_picture_file
from xaiutils.file_limits import check_regular, naming, read_bytes
from xaiutils.registry import suggest
from xaiutils.text import counted

_EXCEL_BYTES = 2**26


def read_csv(path: Path, separator: str = "") -> pd.DataFrame:
    """A CSV file as a table of texts, column names stripped; without ``separator`` that of ``,`` ``;`` ``|`` and tab
    which the first line has most often, else a blank. UTF-8, or UTF-16 with its mark.

    Raises FileNotFoundError, PermissionError, or FileError.
    """
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"{path} does not exist; data_dir must hold this table.")
    try:
        content = read_bytes(path, file_limits.MAX_TEXT_BYTES)
    except PermissionError:
        raise PermissionError(f"{path} may not be read; ask for permission.") from None
    with naming(path, "it cannot be read as a CSV table; save it as CSV in UTF-8"):
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if wide else "utf-8-sig")
        first = next(iter(text[:100_000].strip().splitlines()), "")
        found = max(",;|\t", key=first.count)
        separator = separator or (found if found in first or " " not in first else " ")
        # Without pandas' header, which renames columns of one name, and shifts all where rows are longer than it.
        rows = pd.read_csv(io.StringIO(text), sep=separator, header=None, dtype=str, keep_default_na=False).fillna("")
        return _table(rows.iloc[0].tolist(), rows.iloc[1:].to_numpy())


def read_excel(path: Path) -> pd.DataFrame:
    """The first sheet of an Excel file as a table of texts; its first row names the columns. Raises FileError.

    In a process of its own: the size that a damaged file claims for its sheet can end the one that believes it.
    """
    check_regular(path, _EXCEL_BYTES)
    with naming(path, "it cannot be read as an Excel table"):
        rows = json.loads(DECODER.ask("sheet", path)[1])
        if not rows:
            raise ValueError("its first sheet is empty")
        return _table(list(map(_text, rows[0])), [[_text(cell) for cell in row] for row in rows[1:]])


def find_tables(files: Iterable[Path], names: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """Of ``files`` those that are called by one of the ``names`` of a kind (gzipped or not, in any case), by that kind:
    of several the first name, and of that the file nearest to the top. Kinds without a file are left out."""
    known: dict[str, Path] = {}
    for path in sorted(files, key=lambda p: (len(p.parts), p)):
        known.setdefault(path.name.lower().removesuffix(".gz"), path)
    found = {kind: [known[n.lower()] for n in several if n.lower() in known] for kind, several in names.items()}
    return {kind: paths[0] for kind, paths in found.items() if paths}


def check_columns(path: Path, table: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise ValueError that names the nearest column, where the ``table`` of ``path`` lacks one."""
    for column in columns:
        if column not in table.columns:
            raise ValueError(f"{path} has no column {column!r}; {suggest(column, list(table.columns))}")


def _text(value: object) -> str:
    """A cell as text; Excel keeps file numbers and dates as floats, and blanks as NaN."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _table(names: Sequence[str], rows: Sequence) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=[name.strip() or f"unnamed {i}" for i, name in enumerate(names)])
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise ValueError(f"two of its columns are called {twice[0]!r}")
    return table


def listing_of_tables(
    data_dir: Path,
    records: list[Record],
    class_names: tuple[str, ...],
    skipped: Sequence[tuple[str, str]],
    files: Mapping[Path, str],
    notes: Sequence[str] = (),
) -> Listing:
    """What tables in ``data_dir`` list: ``records``, and a note of those without a picture there (``skipped``, with the
    reason). ``files`` are those that no record names. Raises FileNotFoundError where there is no record."""
    if not records:
        none = f"none of {len(skipped)} images in the tables of {data_dir} has a picture below it."
        raise FileNotFoundError(none if skipped else f"the options leave no image of the tables of {data_dir}.")
    without = [f"{counted(len(skipped), 'image', 'images')} in the tables without a picture below {data_dir}."]
    return Listing(
        records,
        class_names,
        read_picture_file,
        str(data_dir),
        skipped=skipped,
        notes=[*notes, *(without if skipped else ())],
        root=data_dir,
        files=files,
    )
