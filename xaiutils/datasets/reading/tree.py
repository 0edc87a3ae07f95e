"""The files below a folder: what there is, what may be a picture, and which of them a text of another machine names."""

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from xaiutils.datasets.reading import dicom
from xaiutils.datasets.reading.dicom import DICOM_SUFFIXES
from xaiutils.images import IMAGE_SUFFIXES

PICTURE_SUFFIXES = IMAGE_SUFFIXES | DICOM_SUFFIXES
_SYSTEMS_OWN = frozenset(
    {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "ehthumbs.db",
     "desktop.ini"}
)  # fmt: skip
_DRIVE = re.compile(r"^[A-Za-z]:$")


def is_hidden(name: str) -> bool:
    """A name of a file or folder that people do not see: dotfiles, and what operating systems keep for themselves."""
    return name.startswith(".") or name.lower() in _SYSTEMS_OWN


def list_folder(folder: Path) -> list[Path]:
    """What a folder holds, sorted. Raises FileNotFoundError, NotADirectoryError or PermissionError that says what to
    do."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        raise FileNotFoundError(f"data_dir={str(folder)!r} does not exist; give the folder of the images.") from None
    except NotADirectoryError:
        raise NotADirectoryError(f"data_dir={str(folder)!r} is a file; give the folder of the images.") from None
    except PermissionError:
        raise PermissionError(f"{str(folder)!r} may not be read; ask its owner for permission.") from None


def walk_files(root: Path) -> Iterator[Path]:
    """All files below ``root``, sorted folder by folder; links to folders are followed once, so a loop ends.

    What is hidden is left out. Raises PermissionError that names a folder that may not be read.
    """
    list_folder(root)  # a clear error for the top folder
    visited = set()
    for parent, folders, files in os.walk(root, followlinks=True, onerror=_refuse):
        here = Path(parent).stat()
        if (here.st_dev, here.st_ino) in visited:
            folders.clear()
            continue
        visited.add((here.st_dev, here.st_ino))
        folders[:] = sorted(f for f in folders if not is_hidden(f))
        yield from (Path(parent, name) for name in sorted(files) if not is_hidden(name))


def _refuse(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise PermissionError(f"{error.filename!r} may not be read; ask its owner for permission.") from error
    raise error


def fingerprint(root: Path) -> str:
    """A text that changes when a file below ``root`` is added, removed, moved or written."""
    digest = hashlib.sha256()
    for path in walk_files(root) if root.is_dir() else ():
        try:
            facts = path.stat()
        except OSError:
            continue
        digest.update(f"{path.relative_to(root)}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()


def is_picture(path: Path) -> bool:
    """A file that is meant to be a picture: by its suffix, or as DICOM by its content. Pipes and devices are not."""
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        return dicom.is_dicom(path)
    try:
        kind = path.stat().st_mode
    except OSError:
        return True  # a link that leads nowhere: named when it is read
    return stat.S_ISREG(kind)


def find_file(root: Path, written: str) -> Path:
    """The file that ``written`` names, a path as a table or another machine has it, below ``root``.

    Tried in this order: as it stands; with ``\\`` for ``/``; of an absolute path the longest end that exists (its
    folders may be of another machine); each of these with names that differ only in case or in how accents are
    composed, where one name fits. Where nothing does, the path as it would be below ``root``.
    """
    text = written.strip().strip("\"'")
    literal = root / text
    if _exists(literal):
        return literal
    parts = [p for p in re.split(r"[\\/]+", text) if p not in ("", ".")]
    absolute = text[:1] in ("/", "\\") or (bool(parts) and bool(_DRIVE.match(parts[0])))
    ends = [parts[k:] for k in range(len(parts))] if absolute else [parts]
    for look in (lambda end: root.joinpath(*end), lambda end: _by_any_case(root, end)):
        for end in filter(None, ends):
            found = look(end)
            if found is not None and _exists(found):
                return found
    return literal if absolute else root.joinpath(*parts)


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False


def _by_any_case(root: Path, parts: list[str]) -> Path | None:
    here = root
    for part in parts:
        if part == "..":
            here = here.parent
            continue
        try:
            names = _names(str(here), here.stat().st_mtime_ns).get(_folded(part), [])
        except (OSError, ValueError):
            return None
        if part in names:
            names = [part]
        if len(names) != 1:
            return None
        here = here / names[0]
    return here


@lru_cache(maxsize=1000)
def _names(folder: str, changed: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in os.listdir(folder):  # noqa: PTH208
        found.setdefault(_folded(name), []).append(name)
    return found


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).casefold()
