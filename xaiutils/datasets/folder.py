"""Images in folders named after their classes, with optional masks and split folders."""

import fnmatch
import glob
import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from xaiutils.datasets import dicom
from xaiutils.datasets.dicom import DICOM_SUFFIXES
from xaiutils.datasets.evidence import MaskFile
from xaiutils.datasets.listing import Listing, Record, unknown_patient
from xaiutils.datasets.picture_file import PictureFile, Preparation, read_picture_file
from xaiutils.images import IMAGE_SUFFIXES

PICTURE_SUFFIXES = IMAGE_SUFFIXES | DICOM_SUFFIXES
DEFAULT_MASKS = "{stem}_mask*"
_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def load(
    data_dir: Path,
    *,
    classes: tuple[str, ...] | list[str] = (),
    mask_pattern: str = DEFAULT_MASKS,
    mask_values: tuple[int, ...] | list[int] = (),
    keep_aspect: bool = False,
    bit_depth: int = 16,
    window: Sequence[float] = (),
    frames: str = "refuse",
) -> Listing:
    """``data_dir/CLASS/*`` or ``data_dir/SPLIT/CLASS/*``.

    ``classes`` keeps and orders some of the folders (default: all, sorted). ``mask_pattern`` names the mask files of an
    image, beside it or by a relative path, with ``{stem}`` for its name and ``*`` as a wildcard; several masks are
    merged; the default finds the ``X_mask.png``, ``X_mask_1.png`` of BUSI. ``mask_values`` are the grey values that
    mean evidence (empty: all but 0). ``keep_aspect`` pads to a square instead of squeezing. ``bit_depth``: bits that
    16-bit grey images really use (12 for many detectors). DICOM files are read too. ``window`` [centre, width]: the
    grey values, in the files' own units (HU for CT), that become black and white; it is needed for floats and signed
    integers, and goes before the window of a DICOM file. ``frames``: of files with several pictures (pages, frames),
    refuse reads none and names them, first takes the first one.
    """
    root, values = Path(data_dir), check_mask_values(mask_values)
    how = Preparation(keep_aspect=keep_aspect, bit_depth=bit_depth, window=tuple(window), frames=frames)
    children = sorted(p for p in list_folder(root) if p.is_dir() and not p.name.startswith("."))
    split_folders = {p: _SPLIT_FOLDERS[p.name.lower()] for p in children if p.name.lower() in _SPLIT_FOLDERS}
    roots = split_folders or {root: None}
    found = {
        folder.name: None
        for parent in roots
        for folder in list_folder(parent)
        if folder.is_dir() and not folder.name.startswith(".") and _image_files(folder)
    }
    names = list(classes) or sorted(found)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"no images of class {missing} in {root}; the folders with images are {sorted(found)}.")
    if len(names) < 2:
        raise ValueError(
            f"{root} has {len(names)} folders with images ({names}); a classifier needs at least 2, one for each class "
            f"({', '.join(sorted(PICTURE_SUFFIXES))})."
        )
    records = [
        record
        for parent, stated in roots.items()
        for label, name in enumerate(names)
        for record in _records(parent / name, label, stated, mask_pattern, values, how, root)
    ]
    _warn_of_masks(records, mask_pattern, root)
    records, notes = with_headers(records)
    return Listing(records, tuple(names), read_picture_file, origin=str(root), notes=notes)


def with_headers(records: list[Record]) -> tuple[list[Record], list[str]]:
    """Records with the patient, view and side that DICOM headers state, where nothing else does; and what was done.

    Where all files have one PatientID it is a placeholder, and nothing is known.
    """
    headers = {r.id: _header(r.source.path) for r in records if dicom.is_dicom(r.source.path)}
    patients = {h.patient for h in headers.values()} - {""}
    known = len(patients) > 1
    done = []
    for r in records:
        header = headers.get(r.id, dicom.Header())
        patient = r.patient or (header.patient if known else None)
        if (known and patient is None) or patient == "":
            patient = unknown_patient(r.id)
        facts = {"view": header.view, "side": header.side}
        done.append(replace(r, patient=patient, metadata={**{k: v for k, v in facts.items() if v}, **r.metadata}))
    notes = [f"{len(patients)} patients are told apart by the PatientID of DICOM headers."] if known else []
    if headers and not known:
        notes.append("The DICOM headers do not tell patients apart: images of one may be in several splits.")
    return done, notes


def _header(path: Path) -> dicom.Header:
    try:
        return dicom.read_header(path)
    except (ValueError, OSError):
        return dicom.Header()  # the file is named when its pixels are read


def check_mask_values(values: int | Sequence[int]) -> tuple[int, ...]:
    """Grey values as a tuple. Raises TypeError."""
    values = (values,) if isinstance(values, int) else tuple(values)
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise TypeError(f"mask_values={values!r}; expected grey values, such as [1, 3].")
    return values


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

    Hidden folders are left out. Raises PermissionError that names a folder that may not be read.
    """
    list_folder(root)  # a clear error for the top folder
    visited = set()
    for parent, folders, files in os.walk(root, followlinks=True, onerror=_refuse):
        here = Path(parent).stat()
        if (here.st_dev, here.st_ino) in visited:
            folders.clear()
            continue
        visited.add((here.st_dev, here.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(parent, name) for name in sorted(files))


def fingerprint(root: Path) -> str:
    """A text that changes when a file below ``root`` is added, removed, moved or written."""
    digest = hashlib.sha256()
    for path in walk_files(root) if root.is_dir() else ():
        try:
            facts = path.stat()
        except OSError:
            continue
        digest.update(f"{path.relative_to(root)}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


_MASK_WORDS = re.compile(r"[_-](mask|seg|segm|segmentation|label|gt|roi|annotation|trimap)[_-]?\d*$", re.IGNORECASE)


def _refuse(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise PermissionError(f"{error.filename!r} may not be read; ask its owner for permission.") from error
    raise error


def _warn_of_masks(records: list[Record], mask_pattern: str, root: Path) -> None:
    """A mask that is taken for an image poisons a class; a pattern that finds nothing is most likely mistyped."""
    paths = [r.source.path for r in records]
    stems = {(p.parent, p.stem) for p in paths}
    suspects = [
        p.name for p in paths if (match := _MASK_WORDS.search(p.stem)) and (p.parent, p.stem[: match.start()]) in stems
    ]
    if suspects:
        warnings.warn(
            f"{len(suspects)} files of {root} look like masks but are read as images, such as {suspects[0]}; name them "
            f"by mask_pattern (now {mask_pattern!r}).",
            stacklevel=4,
        )
    elif mask_pattern not in ("", DEFAULT_MASKS) and not any(r.source.evidence for r in records):
        warnings.warn(f"mask_pattern={mask_pattern!r} finds no mask of any image of {root}.", stacklevel=4)


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in walk_files(folder) if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith("."))


def _records(folder: Path, label: int, split: str | None, pattern: str, values, how, root: Path) -> list[Record]:
    files = _image_files(folder)
    masks = _masks_of_all(files, pattern)
    used_as_mask = {mask for found in masks.values() for mask in found}
    return [
        Record(
            id=p.relative_to(root).as_posix(),
            label=label,
            source=PictureFile(p, tuple(MaskFile(m, values) for m in masks[p]), how),
            split=split,
        )
        for p in files
        if p not in used_as_mask
    ]


def _masks_of_all(files: list[Path], pattern: str) -> dict[Path, tuple[Path, ...]]:
    """Masks by image; where the pattern is the image's name and an ending, by one pass over the files."""
    ending = pattern.removeprefix("{stem}")
    if not pattern.startswith("{stem}") or "{" in ending or "/" in ending:
        return {path: find_masks(path, pattern) for path in files}
    images: dict[tuple[Path, str], list[Path]] = {}
    for path in files:
        images.setdefault((path.parent, path.stem), []).append(path)
    found: dict[Path, list[Path]] = {path: [] for path in files}
    for path in files:
        for length in range(1, len(path.name)):
            named = images.get((path.parent, path.name[:length]), [])
            if named and fnmatch.fnmatchcase(path.name[length:], ending):
                for image in named:
                    if image != path:
                        found[image].append(path)
    return {path: tuple(masks) for path, masks in found.items()}


def find_masks(image: Path, pattern: str, **fields: str) -> tuple[Path, ...]:
    """Files that ``pattern`` names for ``image``; relative patterns start at the image's folder."""
    if not pattern:
        return ()
    try:
        name = pattern.format(stem=glob.escape(image.stem), **{k: glob.escape(v) for k, v in fields.items()})
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"mask_pattern={pattern!r} is not valid ({error}); use {{stem}} for the image's name, "
            f"e.g. '{{stem}}_mask.png'."
        ) from error
    if not glob.has_magic(pattern):  # a plain name: no need to search
        plain = image.parent / pattern.format(stem=image.stem, **fields)
        return (plain,) if plain.is_file() and plain != image else ()
    matches = glob.glob(str(Path(glob.escape(str(image.parent))) / name))
    return tuple(sorted(p for p in map(Path, matches) if p.suffix.lower() in IMAGE_SUFFIXES and p != image))
