"""Folders of masks beside the images or their classes, told by name and by content, and joined to images by name."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from xaiutils.datasets.reading import dicom
from xaiutils.datasets.reading.image_files import open_image

_WORD = (
    "masks?|maske|masken|masques?|m[aá]scaras?|labels?|annotations?|segmentations?|segmentierung(?:en)?|segs?|segm|gt|"
    "ground[ _-]?truths?|rois?|trimaps?|contours?|outlines?"
)
MASK_FOLDER = re.compile(rf"(?:(?:lesion|tumou?r|binary|roi|image|img)s?[ _-]?)?(?:{_WORD})", re.IGNORECASE)
IMAGE_FOLDER = re.compile(r"images?|imgs?|pictures?|photos?|bilder|im[aá]genes|scans?", re.IGNORECASE)
MASK_ENDING = re.compile(rf"[ _-](?:{_WORD})[ _-]?\d*$", re.IGNORECASE)
MASK_BEGINNING = re.compile(rf"^(?:{_WORD})[ _-]", re.IGNORECASE)
_SAMPLE, _SIDE, _FEW_VALUES = 5, 128, 16
_MOST_PIXELS = 100_000_000  # larger files are not opened just to be sampled


@dataclass(frozen=True)
class Sorted:
    """Pictures of a tree: ``images``, ``masks`` by their image, ``lone`` masks that no image has, or several have;
    ``warnings`` are sentences."""

    images: list[Path]
    masks: dict[Path, tuple[Path, ...]]
    lone: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def sort_pictures(
    pictures: Sequence[Path], root: Path, parents: Sequence[Path], classes: Sequence[str] = (), join: bool = True
) -> Sorted:
    """Part the pictures below ``root`` into images and the masks of folders that hold nothing else.

    A folder of masks is one that is called so (`MASK_FOLDER`, or ``X_mask`` beside a folder ``X``), at any depth, and
    holds pictures of few grey values; or one of any name beside the classes that holds such pictures, where others hold
    images of the same names. One that is called so and holds pictures of many grey values is left out where others hold
    images of the same names, else it stays; each is told. ``parents`` hold the folders of classes; ``classes`` are
    names of folders that are not masks, whatever they look like. Without ``join`` masks are separated and not joined.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    mask_like = _called_like_masks({folder for p in pictures for folder in p.parents}, classes)
    for picture in pictures:
        by_folder[_topmost(picture, root, parents, mask_like)].append(picture)
    stems = {folder: {_base(p.stem) for p in held} for folder, held in by_folder.items()}
    often = Counter(stem for found in stems.values() for stem in found)
    mask_folders, unjoinable, said = [], set(), []
    for folder, held in by_folder.items():
        if folder in parents or folder == root or folder.name in classes:
            continue
        shares = sum(often[stem] > 1 for stem in stems[folder]) >= len(stems[folder]) / 2
        called, name = folder in mask_like, folder.relative_to(root).as_posix()
        if not called and not shares:
            continue
        few = few_values(held)
        if few:
            mask_folders.append(folder)
        elif called and shares:
            mask_folders.append(folder)
            unjoinable.update(held)
            said.append(
                f"the folder {name!r} is called like masks and holds {len(held)} pictures of many grey values with "
                "the names of images: they are left out; if it is a class, name it in classes=[...]."
            )
        elif called:
            said.append(
                f"the folder {name!r} is called like masks, but its pictures have many grey values and names of their "
                "own: they are read as images; name the classes by classes=[...] if they are masks."
            )
    if all(f in mask_folders or f == root for f in by_folder):  # drawings in black and white, say
        mask_folders = [f for f in mask_folders if f in mask_like]
        mask_folders = [] if len(mask_folders) == len(by_folder) else mask_folders
    masks = [p for folder in mask_folders for p in by_folder[folder]]
    images = sorted(set(pictures) - set(masks))
    if not join:
        return Sorted(images, {}, masks, said)
    folder_of = {p: folder for folder in mask_folders for p in by_folder[folder] if p not in unjoinable}
    joined, lone = _join(images, folder_of, root, mask_like)
    if lone:
        said.append(
            f"{len(lone)} of {len(masks)} masks, such as {lone[0].relative_to(root).as_posix()!r}, have the name of no "
            "image or of several: they are not used. Name them like their images, or give mask_pattern."
        )
    return Sorted(images, joined, [*lone, *(p for p in masks if p in unjoinable)], said)


def few_values(pictures: Sequence[Path]) -> bool:
    """Whether a sample of pictures has few grey values each, as masks and label maps have and photographs have not. A
    JPEG blurs the border of a mask a little."""
    step = max(1, len(pictures) // _SAMPLE)
    looked = [found for path in pictures[::step][:_SAMPLE] if (found := _has_few(path)) is not None]
    return bool(looked) and all(looked)


def _has_few(path: Path) -> bool | None:
    try:
        grey = _thumbnail(path)
    except Exception:  # damaged files raise nearly anything; they are named when they are read
        return None
    if grey is None:
        return None
    if len(np.unique(grey)) <= _FEW_VALUES:
        return True
    low, high = float(grey.min()), float(grey.max())
    level = (grey - low) / (high - low)
    return bool(np.mean((level > 0.1) & (level < 0.9)) < 0.02)


def _thumbnail(path: Path) -> np.ndarray | None:
    """Some of the pixels (none is a mixture of others), float ``(height, width)``."""
    if dicom.is_dicom(path):
        grey = dicom.read_stored(path)
        return grey[:: max(1, grey.shape[0] // _SIDE), :: max(1, grey.shape[1] // _SIDE)].astype(float)
    if not path.is_file():
        return None
    with open_image(path, frames="first") as image:
        if image.width * image.height > _MOST_PIXELS:
            return None
        size = min(image.width, _SIDE), min(image.height, _SIDE)
        array = np.asarray(image.resize(size, Image.Resampling.NEAREST), float)
    return array if array.ndim == 2 else array[..., :3] @ np.array([1.0, 3.0, 7.0])[: array.shape[-1]]


def _called_like_masks(folders: set[Path], classes: Sequence[str]) -> dict[Path, tuple[str, ...]]:
    """The folders that are called like masks, with the name of the folder beside them whose masks they hold by their
    name (``X_mask``: X), if there is one. Those named in ``classes`` are not."""
    beside = {(folder.parent, folder.name.casefold()) for folder in folders}
    found: dict[Path, tuple[str, ...]] = {}
    for folder in folders:
        own = MASK_ENDING.sub("", folder.name).casefold()
        if folder.name in classes:
            continue
        if MASK_FOLDER.fullmatch(folder.name):
            found[folder] = ()
        elif own != folder.name.casefold() and (folder.parent, own) in beside:
            found[folder] = (own,)
    return found


def _topmost(picture: Path, root: Path, parents: Sequence[Path], mask_like: Collection[Path]) -> Path:
    """The folder that a picture is sorted by: the highest that is called like masks, else that beside the classes."""
    here, beside = root, root
    for part in picture.relative_to(root).parts[:-1]:
        beside = here / part if here in parents else beside
        here = here / part
        if here in mask_like:
            return here
    return beside


def _join(
    images: Sequence[Path], masks: Mapping[Path, Path], root: Path, mask_like: Mapping[Path, tuple[str, ...]]
) -> tuple[dict[Path, tuple[Path, ...]], list[Path]]:
    """Masks (given with the folder of masks that each is in) by image, and those that have none: of images with a
    mask's name the one in the same folders (but those called images or masks), else the only one whose folders hold the
    mask's."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_stem[image.stem.casefold()].append(image)
    found, lone = defaultdict(list), []
    for mask, folder in masks.items():
        place = _context(folder, root) + mask_like.get(folder, ()) + _context(mask, folder)
        named = next((by_stem[s] for s in _bases(mask.stem) if s in by_stem), [])
        fits = [i for i in named if _context(i, root) == place]
        fits = fits or [i for i in named if set(place) <= set(_context(i, root))]
        if len(fits) == 1:
            found[fits[0]].append(mask)
        else:
            lone.append(mask)
    return {image: tuple(held) for image, held in found.items()}, lone


def _context(path: Path, root: Path) -> tuple[str, ...]:
    parts = path.relative_to(root).parts[:-1]
    return tuple(p.casefold() for p in parts if not MASK_FOLDER.fullmatch(p) and not IMAGE_FOLDER.fullmatch(p))


def _bases(stem: str) -> list[str]:
    """What the image of a mask may be called, the most exact first."""
    return [s.casefold() for s in (stem, MASK_ENDING.sub("", stem), MASK_BEGINNING.sub("", stem))]


def _base(stem: str) -> str:
    return MASK_BEGINNING.sub("", MASK_ENDING.sub("", stem)).casefold()
