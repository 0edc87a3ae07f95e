"""Files that are whole or absent: written beside their place, then moved there."""

import csv
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def replace_file(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """Let ``write`` make a file under a temporary name in the folder of ``path`` (made if missing), then rename it.

    A reader, or a run that is killed, sees the old file or the new one, never a part. The temporary name keeps the
    suffix, since writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` as UTF-8 with its own line ends, whole or not at all."""
    return replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline=""))


def csv_text(table: "pd.DataFrame", index: bool = False) -> str:
    """``table`` as CSV that is read back row by row, whatever its texts hold; write it with `write_text`.

    pandas leaves a carriage return bare, and takes it for the end of the row when it reads: then all texts are quoted.
    """
    text = table.to_csv(index=index, lineterminator="\n")
    return table.to_csv(index=index, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC) if "\r" in text else text


def inside(folder: Path, name: str | Path) -> Path | None:
    """The path of ``name`` in ``folder``; None where it leads out of it, by ``..``, as an absolute path or by a link.

    What a record names may be written by anybody: a report must not show the rest of the disk.
    """
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder.resolve()) else None
    except (OSError, ValueError, RuntimeError):  # a NUL, a loop of links
        return None


def reserve(descriptor: int, n_bytes: int) -> None:
    """Take ``n_bytes`` of disk for an open file. Raises OSError when there are not so many.

    A mapped file that finds no room while it is written kills the process without a word.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, n_bytes)
    else:
        os.ftruncate(descriptor, n_bytes)
