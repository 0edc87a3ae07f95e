"""A tree of DICOM files to a tree of PNG files: ``python -m xaiutils.datasets.to_png SOURCE TARGET [--bits 16]``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from xaiutils.datasets.reading.dicom import DICOM_SUFFIXES, is_dicom, read_dicom
from xaiutils.datasets.reading.image_files import FRAMES, check_window
from xaiutils.datasets.reading.tree import walk_files
from xaiutils.file_limits import explain, large_pictures
from xaiutils.files import csv_text, replace_file, write_text
from xaiutils.progress import progress
from xaiutils.registry import check_choice


def to_png(
    source: str | Path, target: str | Path, bits: int = 8, window: Sequence[float] = (), frames: str = "refuse"
) -> pd.DataFrame:
    """Write each DICOM file below ``source`` as a PNG file in the same folder below ``target``.

    Pixels are what the file means to show (`read_dicom`: look-up tables, window, MONOCHROME1), black 0 and white 255,
    or 65535 with ``bits`` 16; colour has 8 bits. All else of the header is lost: names, dates, identifiers; but folders
    and file names stay, and may hold some, as pixels may. Size and scale go into ``target/index.csv``.

    Args:
        source, target: folders; the second is made, and may not lie in the first.
        bits: 8 or 16.
        window: (centre, width) in the files' own units, in place of each file's own.
        frames: of a file with several, "first" takes the first one and "refuse" none.

    Returns:
        What ``index.csv`` has, a row for each DICOM file: source, file (empty where it failed), height, width,
        mm_down and mm_along (empty where not known), and problem.

    Raises:
        ValueError, FileNotFoundError: an argument is not as needed, or there is no DICOM file.
    """
    source, target = Path(source), Path(target)
    if bits not in (8, 16):
        raise ValueError(f"bits={bits!r}; expected 8 or 16.")
    check_choice("frames", frames, FRAMES)
    window = check_window(window)
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"target={str(target)!r} lies in {str(source)!r}; give a folder beside it.")
    paths = [path for path in walk_files(source) if is_dicom(path)]
    if not paths:
        raise FileNotFoundError(f"{source} holds no DICOM file.")
    written: set[Path] = set()
    rows: list[dict[str, object]] = []
    for path in progress(paths, title="writing PNG files"):
        place = path.relative_to(source)
        named = place.with_suffix(".png") if path.suffix.lower() in DICOM_SUFFIXES else Path(f"{place}.png")
        row: dict[str, object] = {"source": place.as_posix(), "file": named.as_posix(), "problem": ""}
        try:
            if named in written:
                raise ValueError(f"another file is called {named.name} already")
            row |= _convert(path, target / named, bits, window, frames)
            written.add(named)
        except (ValueError, OSError) as error:
            row |= {"file": "", "problem": str(getattr(error, "reason", "") or explain(error))}
        rows.append(row)
    columns = ["source", "file", "height", "width", "mm_down", "mm_along", "problem"]
    table = pd.DataFrame(rows).reindex(columns=columns).astype(object).fillna("")
    write_text(target / "index.csv", csv_text(table))
    return table


def _convert(path: Path, target: Path, bits: int, window: Sequence[float], frames: str) -> dict[str, object]:
    with large_pictures():
        frame = read_dicom(path, window, frames)
    pixels = frame.pixels
    if pixels.ndim == 2:
        kind = np.uint8 if bits == 8 else np.uint16
        pixels = np.rint(np.clip(pixels / frame.top, 0, 1) * np.iinfo(kind).max).astype(kind)
    replace_file(target, lambda temporary: Image.fromarray(pixels).save(temporary))
    facts: dict[str, object] = {"height": pixels.shape[0], "width": pixels.shape[1]}
    return facts | dict(zip(("mm_down", "mm_along"), frame.spacing_mm or (), strict=False))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns 1 where a file could not be converted, and names it on stderr."""
    parser = argparse.ArgumentParser("python -m xaiutils.datasets.to_png", description="DICOM files to PNG files.")
    parser.add_argument("source", help="folder of DICOM files")
    parser.add_argument("target", help="folder of the PNG files and index.csv")
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8, help="of a grey value (default 8)")
    parser.add_argument("--window", type=float, nargs=2, default=(), metavar=("CENTRE", "WIDTH"), help="of grey values")
    parser.add_argument("--frames", choices=FRAMES, default="refuse", help="of a file with several pictures")
    given = parser.parse_args(arguments)
    try:
        table = to_png(**vars(given))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    failed = table[table["problem"] != ""]
    for name, problem in zip(failed["source"], failed["problem"], strict=True):
        print(f"{name}: {problem}", file=sys.stderr)
    print(f"{len(table) - len(failed)} of {len(table)} files written to {given.target}")
    return int(len(failed) > 0)


if __name__ == "__main__":
    sys.exit(main())
