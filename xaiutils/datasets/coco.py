"""Pictures with a COCO annotation file (Lin et al. 2014): classes and evidence from its annotations."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from skimage.draw import polygon

from xaiutils.datasets.folder import walk_files
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.picture_file import (
    Boxes,
    Evidence,
    NoFinding,
    PictureFile,
    Preparation,
    fit_to,
    read_picture_file,
)
from xaiutils.registry import suggest


def load(
    data_dir: Path,
    *,
    annotations: str = "",
    classes: Sequence[str] = (),
    background: str = "",
    patient_key: str = "",
    split_key: str = "",
    keep_aspect: bool = False,
    bit_depth: int = 16,
) -> Listing:
    """The COCO file ``annotations`` below ``data_dir`` (default: the only .json there), pictures by ``file_name``.

    An image's class is the category of its annotations; images with several categories are left out and counted.
    ``classes`` keeps and orders some categories. ``background`` names the class of images without annotations (such
    as "normal"); without it they are left out. ``patient_key`` and ``split_key`` name entries of the images, where
    the file has them. ``keep_aspect`` and ``bit_depth`` as for folders. Evidence is the union of polygons and
    uncompressed run lengths, else of the boxes.
    """
    root = Path(data_dir)
    path = _annotation_file(root, annotations)
    images, found, categories = _read(path)
    unknown = [c for c in classes if c not in categories.values()]
    if unknown:
        raise ValueError(f"{path} has no category {unknown[0]!r}; {suggest(unknown[0], list(categories.values()))}")
    names = [n for n in (classes or dict.fromkeys(categories.values())) if n != background]
    class_names = ([background] if background else []) + names
    if len(class_names) < 2:
        raise ValueError(f"{path} has one category ({names}); name the class of unmarked images with background=...")
    for option, key in (("patient_key", patient_key), ("split_key", split_key)):
        keys = sorted({k for image in images for k in image})
        if key and key not in keys:
            raise ValueError(f"{path}: no image has the entry {key!r} ({option}); {suggest(key, keys)}")
    places: dict[str, list[Path]] = defaultdict(list)
    for p in walk_files(root):
        places[p.name].append(p)
    how = Preparation(keep_aspect=keep_aspect, bit_depth=bit_depth)
    records, skipped, several = [], [], 0
    for image in images:
        marks = [a for a in found[image["id"]] if categories[a["category_id"]] in names]
        kinds = {categories[a["category_id"]] for a in marks}
        if len(kinds) > 1:
            several += 1
            continue
        if not kinds and (not background or found[image["id"]]):
            continue
        name = str(image["file_name"])
        picture = _find(root, path, name, places)
        if picture is None:
            skipped.append((name, "no picture of it"))
            continue
        records.append(
            Record(
                id=name,
                label=class_names.index(kinds.pop()) if kinds else 0,
                source=PictureFile(picture, tuple(_evidence(a, image) for a in marks) or (NoFinding(),), how),
                split=str(image[split_key]) if split_key in image else None,
                patient=str(image[patient_key]) if patient_key in image else None,
            )
        )
    if not records:
        raise ValueError(f"{path}: no image with one of {class_names} has a picture below {root}.")
    notes = [f"{several} images have annotations of several classes and are left out."] if several else []
    return Listing(records, tuple(class_names), read_picture_file, str(path), skipped=skipped, notes=notes)


def boxes_by_file(paths: Sequence[Path]) -> dict[str, dict[str, tuple[tuple[float, ...], ...]]]:
    """Boxes (x, y, width, height) by the stem of the COCO file and the name of the picture's file."""
    boxes: dict[str, dict[str, tuple[tuple[float, ...], ...]]] = {}
    for path in paths:
        images, found, _ = _read(path)
        named = {
            Path(str(i["file_name"])).name: tuple(tuple(map(float, a["bbox"])) for a in found[i["id"]]) for i in images
        }
        boxes[path.stem] = {name: marks for name, marks in named.items() if marks}
    return boxes


def _annotation_file(root: Path, name: str) -> Path:
    if name:
        if not (root / name).is_file():
            raise FileNotFoundError(f"{root / name} does not exist; give the COCO file by annotations=...")
        return root / name
    found = [p for p in walk_files(root) if p.suffix.lower() == ".json"]
    if len(found) != 1:
        names = ", ".join(p.relative_to(root).as_posix() for p in found[:5]) or "none"
        raise FileNotFoundError(f"{root} holds {len(found)} .json files ({names}); name one with annotations=...")
    return found[0]


def _read(path: Path) -> tuple[list[dict], dict[Any, list[dict]], dict[Any, str]]:
    """Images, annotations by image id, and category names by id. Raises ValueError that says what is wrong."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        images, categories = content["images"], {c["id"]: str(c["name"]) for c in content["categories"]}
        found: dict[Any, list[dict]] = defaultdict(list)
        for annotation in content["annotations"]:
            if annotation["category_id"] not in categories:
                raise ValueError(f"annotation {annotation.get('id')} has an unknown category_id")
            if not isinstance(annotation.get("segmentation"), list) and not _is_run_lengths(annotation):
                annotation["bbox"][3]
            found[annotation["image_id"]].append(annotation)
        for image in images:
            image["id"], image["file_name"]
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise ValueError(f"{path} is not a COCO file (images, annotations, categories): {error!r}") from error
    return images, found, categories


def _find(root: Path, path: Path, name: str, places: dict[str, list[Path]]) -> Path | None:
    """The picture by its stated path, else the only one of that name."""
    for folder in (root, path.parent, root / "images"):
        candidate = (folder / name).resolve()
        if candidate.is_file() and candidate.is_relative_to(root.resolve()):
            return candidate
    found = places.get(Path(name).name, [])
    return found[0] if len(found) == 1 else None


def _is_run_lengths(annotation: dict) -> bool:
    outline = annotation.get("segmentation")
    return isinstance(outline, dict) and isinstance(outline.get("counts"), list) and len(outline.get("size", ())) == 2


def _evidence(annotation: dict, image: dict) -> Evidence:
    outline = annotation.get("segmentation")
    frame = (int(image["height"]), int(image["width"])) if image.get("height") and image.get("width") else None
    if isinstance(outline, list) and outline:
        return Polygons(tuple(tuple(map(float, p)) for p in outline), frame=frame)
    if _is_run_lengths(annotation):
        return RunLengths(tuple(map(int, outline["counts"])), tuple(map(int, outline["size"])))
    return Boxes((tuple(map(float, annotation["bbox"])),), frame=frame)


@dataclass(frozen=True)
class Polygons:
    """Outlines (x1, y1, x2, y2, ...) in pixels of a ``frame`` (height, width); without it, of the file."""

    polygons: tuple[tuple[float, ...], ...]
    files: tuple[Path, ...] = ()
    frame: tuple[int, int] | None = None

    def draw(self, shape: tuple[int, int]) -> np.ndarray:
        mask = np.zeros(self.frame or shape, bool)
        for outline in self.polygons:
            points = np.array(outline[: len(outline) // 2 * 2]).reshape(-1, 2)
            mask[polygon(points[:, 1], points[:, 0], mask.shape)] = True
        return fit_to(mask, shape)


@dataclass(frozen=True)
class RunLengths:
    """COCO's uncompressed run lengths: by turns of 0 and 1, column by column. ``size`` is (height, width)."""

    counts: tuple[int, ...]
    size: tuple[int, int]
    files: tuple[Path, ...] = ()

    def draw(self, shape: tuple[int, int]) -> np.ndarray:
        if sum(self.counts) != self.size[0] * self.size[1]:
            raise ValueError(f"its run lengths do not fill {self.size[0]} x {self.size[1]} pixels")
        values = np.arange(len(self.counts)) % 2 == 1
        return fit_to(np.repeat(values, self.counts).reshape(self.size[::-1]).T, shape)
