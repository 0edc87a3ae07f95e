"""Images in folders named after their classes, with optional masks, patients and split folders."""

import fnmatch
import glob
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xaiutils.class_names import check_class_names, says_healthy
from xaiutils.datasets import inventory
from xaiutils.datasets.entry import entry_of_own_images
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.patients import (
    doubt_class_folders,
    fill_unknown,
    folder_metadata,
    name_patients,
    suggest_patient_folders,
    with_headers,
)
from xaiutils.datasets.reading.evidence import MaskFile, NoFinding
from xaiutils.datasets.reading.mask_folders import (
    IMAGE_FOLDER,
    MASK_BEGINNING,
    MASK_ENDING,
    MASK_FOLDER,
    Sorted,
    sort_pictures,
)
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation, read_picture_file
from xaiutils.datasets.reading.tree import PICTURE_SUFFIXES, is_hidden, is_picture, list_folder, walk_files
from xaiutils.datasets.splits import split_called
from xaiutils.registry import is_integer

DEFAULT_MASKS = "{stem}_mask*"


def load(
    data_dir: Path,
    preparation: Preparation,
    *,
    classes: tuple[str, ...] | list[str] = (),
    mask_pattern: str = DEFAULT_MASKS,
    mask_values: tuple[int, ...] | list[int] = (),
    patient_from: int | str = "",
) -> Listing:
    """``data_dir/CLASS/*``, ``SPLIT/CLASS/*`` or ``CLASS/SPLIT/*``; ``images/CLASS`` beside ``labels`` or ``masks``.

    ``classes`` keeps and orders some of the folders (default: all, sorted). ``mask_pattern`` names the mask files of an
    image, beside it or by a relative path, with ``{stem}`` for its name and ``*`` as a wildcard; several masks are
    merged; the default finds the ``X_mask.png``, ``X_mask_1.png`` of BUSI, and the masks of folders called so, beside
    the classes or in them, by the names of the images. ``mask_values`` are the grey values that mean evidence (empty:
    all but 0). ``patient_from`` finds the patient: 1 is the first folder below the class, any other text a regular
    expression on the path below ``data_dir``, whose group is the patient. DICOM files are read too, whatever they are
    called. Where others have masks, images of a class called normal or healthy have no evidence.
    """
    chosen = check_class_names(classes)
    masks = _Masks(mask_pattern.replace("\\", "/"), check_mask_values(mask_values))
    list_folder(data_dir)  # a clear error for the top folder
    parents = _parents(data_dir)
    pictures = [p for p in walk_files(data_dir) if is_picture(p)]
    found = sort_pictures(pictures, data_dir, list(parents), chosen, join=masks.by_default)
    masks = replace(masks, sorted=found.masks)
    by_class = _by_class(found, parents)
    names = chosen or sorted({name for _, name in by_class})
    _check_names(names, by_class, found, data_dir)
    records = [
        record
        for parent, stated in parents.items()
        for label, name in enumerate(names)
        for record in _records(
            by_class.get((parent, name), []),
            Record("", label, PictureFile(parent, (), preparation), stated),
            parent / name,
            data_dir,
            masks,
        )
    ]
    _warn_of_masks(records, masks.pattern, data_dir)
    records, notes = with_headers(name_patients(records, patient_from))
    records = fill_unknown(records)
    said = [*found.warnings, *suggest_patient_folders(records, patient_from != "")]
    said += doubt_class_folders(records, names, data_dir)
    for sentence in said:
        warnings.warn(f"{data_dir}: {sentence}", stacklevel=4)
    left = {p: inventory.NOT_CHOSEN for (_, name), files in by_class.items() if name not in names for p in files}
    left |= dict.fromkeys(found.lone, inventory.LONE_MASK if masks.by_default else inventory.LEFT_OUT)
    records, more = without_findings(records, names)
    return Listing(
        records, tuple(names), read_picture_file, str(data_dir), notes=[*notes, *more, *said], root=data_dir, files=left
    )


FOLDER = entry_of_own_images("folder", "Your images in class folders", load)


@dataclass(frozen=True)
class _Masks:
    """Where the masks of an image are: by ``pattern``, or ``sorted`` from folders of masks; and what is evidence."""

    pattern: str
    values: tuple[int, ...]
    sorted: Mapping[Path, tuple[Path, ...]] = field(default_factory=dict)

    @property
    def by_default(self) -> bool:
        return self.pattern == DEFAULT_MASKS


def _parents(root: Path) -> dict[Path, str | None]:
    """Folders that hold the folders of classes, with the split that they state."""
    here = _within_images(root)
    splits = {p: split for p in _folders(here) if (split := split_called(p.name))}
    return {_within_images(p): split for p, split in splits.items()} or {here: None}


def _within_images(folder: Path) -> Path:
    """The folder called images where the others beside it are called like masks; else ``folder``."""
    children = _folders(folder)
    called = [p for p in children if IMAGE_FOLDER.fullmatch(p.name)]
    others = [p for p in children if p not in called]
    fits = len(called) == 1 and others and all(MASK_FOLDER.fullmatch(p.name) for p in others)
    return called[0] if fits and len(_folders(called[0])) > 1 else folder


def _folders(folder: Path) -> list[Path]:
    return [p for p in list_folder(folder) if p.is_dir() and not is_hidden(p.name)]


def _by_class(found: Sorted, parents: dict[Path, str | None]) -> dict[tuple[Path, str], list[Path]]:
    """Images by the folder that holds the class, and the class."""
    classes: dict[tuple[Path, str], list[Path]] = {}
    for path in found.images:
        for parent in parents:
            if path.is_relative_to(parent) and len(below := path.relative_to(parent).parts) > 1:
                classes.setdefault((parent, below[0]), []).append(path)
    return classes


def _check_names(names: Sequence[str], by_class: Mapping[tuple[Path, str], Any], found: Sorted, root: Path) -> None:
    there = sorted({name for _, name in by_class})
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(f"no images of class {missing} in {root}; the folders with images are {there}.")
    if len(names) < 2:
        holds = [f"{p.name}/" if p.is_dir() else p.name for p in list_folder(root)]
        held = f"{', '.join(holds[:8])}{', ...' if len(holds) > 8 else ''}" or "nothing"
        raise ValueError(
            f"{root} has {len(names)} folders with images ({', '.join(names) or 'none'}); a classifier needs at least "
            f"2, one for each class ({', '.join(sorted(PICTURE_SUFFIXES))}, or DICOM of any name). It holds {held}. "
            + " ".join(found.warnings)
        )


def without_findings(records: list[Record], names: Sequence[str]) -> tuple[list[Record], list[str]]:
    """Where some images have masks, those without one of a class called normal or healthy have no evidence; and what
    was done."""
    healthy = [i for i, name in enumerate(names) if says_healthy(name)]
    if not healthy or not any(r.source.evidence for r in records):
        return records, []
    bare = {r.id for r in records if r.label in healthy and not r.source.evidence}
    done = [replace(r, source=replace(r.source, evidence=(NoFinding(),))) if r.id in bare else r for r in records]
    which = ", ".join(repr(names[i]) for i in healthy)
    note = f"{len(bare)} images of {which} without a mask are taken to have no evidence, by the class's name."
    return done, [note] if bare else []


def check_mask_values(values: int | Sequence[int]) -> tuple[int, ...]:
    """Grey values as a tuple. Raises TypeError."""
    values = (values,) if isinstance(values, int) else tuple(values)
    if not all(map(is_integer, values)):
        raise TypeError(f"mask_values={values!r}; expected grey values, such as [1, 3].")
    return values


def _warn_of_masks(records: list[Record], mask_pattern: str, root: Path) -> None:
    """A mask that is taken for an image poisons a class; a pattern that finds nothing is most likely mistyped."""
    paths = [r.source.path for r in records]
    stems = {(p.parent, p.stem) for p in paths}
    suspects = [
        p.name
        for p in paths
        for bare in {MASK_ENDING.sub("", p.stem), MASK_BEGINNING.sub("", p.stem)} - {p.stem}
        if (p.parent, bare) in stems
    ]
    if suspects:
        warnings.warn(
            f"{len(suspects)} files of {root} look like masks but are read as images, such as {suspects[0]}; name them "
            f"by mask_pattern (now {mask_pattern!r}).",
            stacklevel=5,
        )
    elif mask_pattern not in ("", DEFAULT_MASKS) and not any(r.source.evidence for r in records):
        warnings.warn(f"mask_pattern={mask_pattern!r} finds no mask of any image of {root}.", stacklevel=5)


def _records(files: list[Path], template: Record, folder: Path, root: Path, find: "_Masks") -> list[Record]:
    """Records of the images of one class ``folder``, which state what ``template`` does; masks beside them are not
    images."""
    masks = _masks_of_all(files, find.pattern)
    used_as_mask = {mask for named in masks.values() for mask in named}
    records = []
    for path in files:
        if path in used_as_mask:
            continue
        evidence = tuple(MaskFile(m, find.values) for m in dict.fromkeys([*masks[path], *find.sorted.get(path, ())]))
        parts = path.relative_to(folder).parts[:-1]
        records.append(
            replace(
                template,
                id=path.relative_to(root).as_posix(),
                source=replace(template.source, path=path, evidence=evidence),
                split=template.split or next(filter(None, map(split_called, parts)), None),
                metadata=folder_metadata(parts),
            )
        )
    return records


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
    return tuple(sorted(p for p in map(Path, matches) if is_picture(p) and p != image))
