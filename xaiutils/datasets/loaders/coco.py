"""Pictures with a COCO annotation file (Lin et al. 2014): classes and evidence from its annotations."""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from xaiutils import file_limits
from xaiutils.class_names import check_class_names
from xaiutils.datasets import inventory
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.patients import between, fill_unknown, name_patients, offer
from xaiutils.datasets.reading.evidence import (
    Boxes,
    Evidence,
    NoFinding,
    Polygons,
    RunLengths,
    Unreadable,
    check_frame,
    unpack_run_lengths,
)
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation, read_picture_file
from xaiutils.datasets.reading.tree import find_file, walk_files
from xaiutils.datasets.splits import split_called
from xaiutils.file_limits import check_regular, explain, naming
from xaiutils.registry import is_integer, suggest


def load(
    data_dir: Path,
    *,
    annotations: str = "",
    classes: Sequence[str] = (),
    background: str = "",
    patient_key: str = "",
    patient_from: int | str = "",
    split_key: str = "",
    keep_aspect: bool = False,
    bit_depth: int = 16,
    window: Sequence[float] = (),
    frames: str = "refuse",
) -> Listing:
    """The COCO file ``annotations`` below ``data_dir`` (default: the only .json there), pictures by ``file_name``.

    An image's class is the category of its annotations; images with several categories are left out and counted.
    ``classes`` keeps and orders some categories. ``background`` names the class of images without annotations (such
    as "normal"); without it they are left out. ``patient_key`` and ``split_key`` name entries of the images, where
    the file has them; ``patient_from`` finds the patient in ``file_name`` instead, as for folders. ``keep_aspect``,
    ``bit_depth``, ``window`` and ``frames`` as for folders. Evidence is the union of polygons and run lengths (crowds
    too), else of the boxes; where one of them cannot be right, the evidence of its image is not known, and named.
    """
    root = Path(data_dir)
    path = _annotation_file(root, annotations)
    images, found, categories = _read(path)
    classes = check_class_names(classes)
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
        places[p.name.casefold()].append(p)
    how = Preparation(keep_aspect=keep_aspect, bit_depth=bit_depth, window=tuple(window), frames=frames)
    records, skipped, left, bare = [], [], {}, {}
    for image in images:
        marks = [a for a in found[image["id"]] if categories[a["category_id"]] in names]
        kinds = {categories[a["category_id"]] for a in marks}
        if len(kinds) > 1:
            several = _find(root, path, str(image["file_name"]), places)
            left[several or image["id"]] = inventory.LEFT_OUT
            continue
        if not kinds and (not background or found[image["id"]]):
            if picture := _find(root, path, str(image["file_name"]), places):
                bare[picture] = inventory.NOT_CHOSEN if found[image["id"]] else inventory.LEFT_OUT
            continue
        name = str(image["file_name"])
        picture = _find(root, path, name, places)
        if picture is None:
            skipped.append((name, "no picture of it"))
            continue
        label = class_names.index(kinds.pop()) if kinds else 0
        records.append(
            Record(
                id=name,
                label=label,
                source=PictureFile(picture, tuple(_evidence(a, image) for a in marks) or (NoFinding(),), how),
                split=split_called(str(image[split_key])) or str(image[split_key]) if split_key in image else None,
                patient=str(image[patient_key]) if patient_key in image else None,
                metadata=between(PurePosixPath(name.replace("\\", "/")).parts[:-1], class_names[label]),
            )
        )
    if not records:
        raise ValueError(f"{path}: no image with one of {class_names} has a picture below {root}.")
    notes = [f"{len(left)} images have annotations of several classes and are left out."] if left else []
    if n := list(bare.values()).count(inventory.LEFT_OUT):
        notes.append(f"{n} images have no annotations and are left out; background=NAME makes a class of them.")
    records = fill_unknown(name_patients(records, patient_from))
    notes += offer(records, patient_from != "" or patient_key != "")
    files = {p: kind for p, kind in left.items() if isinstance(p, Path)} | bare | {path: inventory.TABLE}
    return Listing(
        records, tuple(class_names), read_picture_file, str(path), skipped=skipped, notes=notes, root=root, files=files
    )


def boxes_by_file(paths: Sequence[Path]) -> dict[str, dict[str, tuple[tuple[float, ...], ...]]]:
    """Boxes (x, y, width, height) by the stem of the COCO file and the name of the picture's file."""
    boxes: dict[str, dict[str, tuple[tuple[float, ...], ...]]] = {}
    for path in paths:
        images, found, _ = _read(path)
        with naming(path, "its boxes cannot be read"):
            named = {
                Path(str(i["file_name"])).name: tuple(tuple(map(float, a["bbox"])) for a in found[i["id"]])
                for i in images
            }
        boxes[path.stem] = {name: marks for name, marks in named.items() if marks}
    return boxes


def _annotation_file(root: Path, name: str) -> Path:
    if name:
        path = find_file(root, name)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; give the COCO file by annotations=...")
        return path
    found = [p for p in walk_files(root) if p.suffix.lower() == ".json"]
    if len(found) != 1:
        names = ", ".join(p.relative_to(root).as_posix() for p in found[:5]) or "none"
        raise FileNotFoundError(f"{root} holds {len(found)} .json files ({names}); name one with annotations=...")
    return found[0]


def _read(path: Path) -> tuple[list[dict], dict[Any, list[dict]], dict[Any, str]]:
    """Images, annotations by image id, and category names by id. Raises FileError that says what is wrong."""
    with naming(path, "it is not a COCO file (images, annotations, categories)"):
        check_regular(path, file_limits.MAX_TEXT_BYTES)
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        images, categories = content["images"], {c["id"]: _name(c, "name") for c in content["categories"]}
        found: dict[Any, list[dict]] = defaultdict(list)
        for annotation in content["annotations"]:
            if annotation["category_id"] not in categories:
                raise ValueError(f"annotation {annotation.get('id')} has an unknown category_id")
            found[annotation["image_id"]].append(annotation)
        for image in images:
            found.get(image["id"])  # a TypeError for what is no key
            _name(image, "file_name")
    return images, found, categories


def _name(entry: dict, key: str) -> str:
    name = entry[key]
    if isinstance(name, dict | list) or name is None or "\0" in str(name):
        raise ValueError(f"{key} {str(name)[:40]!r} is no name")
    return str(name)


def _find(root: Path, path: Path, name: str, places: dict[str, list[Path]]) -> Path | None:
    """The picture by its stated path, else the only one of that name."""
    for folder in (root, path.parent, root / "images"):
        candidate = find_file(folder, name).resolve()
        if candidate.is_file() and candidate.is_relative_to(root.resolve()):
            return candidate
    found = places.get(re.split(r"[\\/]", name.strip())[-1].casefold(), [])
    return found[0] if len(found) == 1 else None


def _evidence(annotation: dict, image: dict) -> Evidence:
    """Outlines or run lengths, else the box; never the box in place of an outline that is broken."""
    outline = annotation.get("segmentation")
    try:
        frame = check_frame(image["height"], image["width"]) if "height" in image and "width" in image else None
        if isinstance(outline, list) and outline:
            return Polygons(tuple(tuple(map(float, p)) for p in outline), frame=frame)
        if outline:
            counts = outline["counts"]
            counts = unpack_run_lengths(counts) if isinstance(counts, str) else tuple(map(_whole, counts))
            return RunLengths(counts, check_frame(*outline["size"]), frame=frame)
        return Boxes((tuple(map(float, annotation["bbox"])),), frame=frame)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        return Unreadable(f"its annotation {str(annotation.get('id'))[:40]}: {explain(error)}")


def _whole(number: object) -> int:
    if not is_integer(number):
        raise ValueError(f"the run length {str(number)[:40]} is no whole number")
    return number
