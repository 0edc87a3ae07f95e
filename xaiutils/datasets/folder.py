"""Images in folders named after their classes, with optional masks and split folders."""

import glob
import re
import warnings
from pathlib import Path

from xaiutils.datasets.image_dataset import ImageDataset
from xaiutils.datasets.records import Record, choose_split, read_records
from xaiutils.images import IMAGE_SUFFIXES

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
    split: str,
    image_size: int,
    limit: int | None,
    seed: int,
    data_dir: Path,
    *,
    classes: tuple[str, ...] | list[str] = (),
    mask_pattern: str = DEFAULT_MASKS,
    mask_values: tuple[int, ...] | list[int] = (),
    keep_aspect: bool = False,
    bit_depth: int = 16,
) -> ImageDataset:
    """``data_dir/CLASS/*`` or ``data_dir/SPLIT/CLASS/*``.

    ``classes`` keeps and orders some of the folders (default: all, sorted). ``mask_pattern`` names the mask files of an
    image, beside it or by a relative path, with ``{stem}`` for its name and ``*`` as a wildcard; several masks are
    merged; the default finds the ``X_mask.png``, ``X_mask_1.png`` of BUSI. ``mask_values`` are the grey values that
    mean evidence (empty: all but 0). ``keep_aspect`` pads to a square instead of squeezing. ``bit_depth``: bits that
    16-bit grey images really use (12 for many detectors).
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir={str(data_dir)!r} is not a folder; give the folder that holds the classes.")
    children = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    split_folders = {p: _SPLIT_FOLDERS[p.name.lower()] for p in children if p.name.lower() in _SPLIT_FOLDERS}
    roots = split_folders or {root: None}
    found = {
        folder.name: None
        for parent in roots
        for folder in sorted(parent.iterdir())
        if folder.is_dir() and not folder.name.startswith(".") and _image_files(folder)
    }
    names = list(classes) or sorted(found)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"no images of class {missing} in {root}; the folders with images are {sorted(found)}.")
    if len(names) < 2:
        raise ValueError(
            f"{root} has {len(names)} folders with images ({names}); a classifier needs at least 2, one for each class "
            f"({', '.join(sorted(IMAGE_SUFFIXES))})."
        )
    records = [
        record
        for parent, stated in roots.items()
        for label, name in enumerate(names)
        for record in _records(parent / name, label, stated, mask_pattern, root)
    ]
    _warn_of_masks(records, mask_pattern, root)
    chosen = choose_split(records, split, seed)
    return read_records(chosen, names, image_size, limit, seed, mask_values, keep_aspect, bit_depth, str(root))


_MASK_WORDS = re.compile(r"[_-](mask|seg|segm|segmentation|label|gt|roi|annotation|trimap)[_-]?\d*$", re.IGNORECASE)


def _warn_of_masks(records: list[Record], mask_pattern: str, root: Path) -> None:
    """A mask that is taken for an image poisons a class; a pattern that finds nothing is most likely mistyped."""
    stems = {(r.path.parent, r.path.stem) for r in records}
    suspects = [
        r.path.name
        for r in records
        if (match := _MASK_WORDS.search(r.path.stem)) and (r.path.parent, r.path.stem[: match.start()]) in stems
    ]
    if suspects:
        warnings.warn(
            f"{len(suspects)} files of {root} look like masks but are read as images, such as {suspects[0]}; name them "
            f"by mask_pattern (now {mask_pattern!r}).",
            stacklevel=4,
        )
    elif mask_pattern not in ("", DEFAULT_MASKS) and not any(r.mask_paths for r in records):
        warnings.warn(f"mask_pattern={mask_pattern!r} finds no mask of any image of {root}.", stacklevel=4)


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def _records(folder: Path, label: int, split: str | None, mask_pattern: str, root: Path) -> list[Record]:
    files = _image_files(folder)
    masks = {path: find_masks(path, mask_pattern) for path in files}
    used_as_mask = {mask for found in masks.values() for mask in found}
    return [
        Record(path=p, label=label, id=p.relative_to(root).as_posix(), split=split, mask_paths=masks[p])
        for p in files
        if p not in used_as_mask
    ]


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
    matches = glob.glob(str(Path(glob.escape(str(image.parent))) / name))
    return tuple(sorted(p for p in map(Path, matches) if p.suffix.lower() in IMAGE_SUFFIXES and p != image))
