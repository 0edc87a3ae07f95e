"""Pictures with a COCO annotation file (Lin et al. 2014): classes and evidence from its annotations."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from xaiutils import file_limits
from xaiutils.class_names import check_class_names
from xaiutils.datasets import inventory
from xaiutils.datasets.entry import entry_of_own_images
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.patients import fill_unknown, folder_metadata, name_patients, suggest_patient_folders
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
    preparation: Preparation,
    *,
    annotations: str = "",
    classes: Sequence[str] = (),
    background: str = "",
    patient_key: str = "",
    patient_from: int | str = "",
    split_key: str = "",
) -> Listing:
    """The COCO file ``annotations`` below ``data_dir`` (default: the only .json there), pictures by ``file_name``.

    An image's class is the category of its annotations; images with several categories are left out and counted.
    ``classes`` keeps and orders some categories. ``background`` names the class of images without annotations (such
    as "normal"); without it they are left out. ``patient_key`` and ``split_key`` name entries of the images, where
    the file has them; ``patient_from`` finds the patient in ``file_name`` instead, as for folders. Evidence is the
    union of polygons and run lengths (crowds too), else of the boxes; where one of them cannot be right, the evidence
    of its image is not known, and named.
    """
    path = annotation_file(data_dir, annotations)
    images, found, categories = read_annotations(path)
    names = _class_names(path, categories, check_class_names(classes), background)
    _check_keys(path, images, patient_key=patient_key, split_key=split_key)
    marked = [name for name in names if name != background]
    find = _PictureFinder(data_dir, path)
    records: list[Record] = []
    skipped: list[tuple[str, str]] = []
    several: dict[Path | str, str] = {}
    bare: dict[Path, str] = {}
    for image in images:
        marks = [a for a in found[image["id"]] if categories[a["category_id"]] in marked]
        kinds = sorted({categories[a["category_id"]] for a in marks})
        name = str(image["file_name"])
        picture = find(name)
        if len(kinds) > 1:
            several[picture or image["id"]] = inventory.LEFT_OUT
        elif not kinds and (not background or found[image["id"]]):
            if picture:
                bare[picture] = inventory.NOT_CHOSEN if found[image["id"]] else inventory.LEFT_OUT
        elif picture is None:
            skipped.append((name, "no picture of it"))
        else:
            evidence = tuple(evidence_of(a, image) for a in marks) or (NoFinding(),)
            label = names.index(kinds[0]) if kinds else 0
            split = str(image[split_key]) if split_key in image else None
            patient = str(image[patient_key]) if patient_key in image else None
            place = folder_metadata(PurePosixPath(name.replace("\\", "/")).parts[:-1], names[label])
            source = PictureFile(picture, evidence, preparation)
            records.append(Record(name, label, source, split and (split_called(split) or split), patient, place))
    if not records:
        raise ValueError(f"{path}: no image with one of {names} has a picture below {data_dir}.")
    notes = [f"{len(several)} images have annotations of several classes and are left out."] if several else []
    if n := list(bare.values()).count(inventory.LEFT_OUT):
        notes.append(f"{n} images have no annotations and are left out; background=NAME makes a class of them.")
    records = fill_unknown(name_patients(records, patient_from))
    notes += suggest_patient_folders(records, patient_from != "" or patient_key != "")
    files = {p: kind for p, kind in several.items() if isinstance(p, Path)} | bare | {path: inventory.TABLE}
    return Listing(
        records,
        tuple(names),
        read_picture_file,
        str(path),
        skipped=skipped,
        notes=notes,
        root=data_dir,
        files=files,
    )


COCO = entry_of_own_images("coco", "Your images with COCO annotations", load)


def _class_names(path: Path, categories: Mapping[Any, str], classes: list[str], background: str) -> list[str]:
    """The names of the classes, ``background`` first where it is given. Raises ValueError."""
    known = list(dict.fromkeys(categories.values()))
    unknown = [c for c in classes if c not in known]
    if unknown:
        raise ValueError(f"{path} has no category {unknown[0]!r}; {suggest(unknown[0], known)}")
    marked = [n for n in classes or known if n != background]
    names = ([background] if background else []) + marked
    if len(names) < 2:
        raise ValueError(f"{path} has one category ({marked}); name the class of unmarked images with background=...")
    return names


def _check_keys(path: Path, images: Sequence[Mapping[str, Any]], **options: str) -> None:
    """Raise ValueError where an option names an entry that no image has."""
    keys = sorted({k for image in images for k in image})
    for option, key in options.items():
        if key and key not in keys:
            raise ValueError(f"{path}: no image has the entry {key!r} ({option}); {suggest(key, keys)}")


def boxes_by_file(paths: Sequence[Path]) -> dict[str, dict[str, tuple[tuple[float, ...], ...]]]:
    """Boxes (x, y, width, height) by the stem of the COCO file and the name of the picture's file."""
    boxes: dict[str, dict[str, tuple[tuple[float, ...], ...]]] = {}
    for path in paths:
        images, found, _ = read_annotations(path)
        with naming(path, "its boxes cannot be read"):
            named = {
                Path(str(i["file_name"])).name: tuple(tuple(map(float, a["bbox"])) for a in found[i["id"]])
                for i in images
            }
        boxes[path.stem] = {name: marks for name, marks in named.items() if marks}
    return boxes


def annotation_file(root: Path, name: str) -> Path:
    """The file that ``name`` says, or the only .json below ``root``. Raises FileNotFoundError."""
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


def read_annotations(path: Path) -> tuple[list[dict], dict[Any, list[dict]], dict[Any, str]]:
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
            found.get(image["id"])  # a TypeError for what cannot be a key
            _name(image, "file_name")
    return images, found, categories


def _name(entry: dict, key: str) -> str:
    name = entry[key]
    if isinstance(name, dict | list) or name is None or "\0" in str(name):
        raise ValueError(f"{key} {str(name)[:40]!r} is not a name")
    return str(name)


class _PictureFinder:
    """Finds a picture by its stated path, else as the only one of that name."""

    def __init__(self, root: Path, annotations: Path):
        self._root, self._folders = root.resolve(), (root, annotations.parent, root / "images")
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in walk_files(root):
            self._by_name[path.name.casefold()].append(path)

    def __call__(self, name: str) -> Path | None:
        for folder in self._folders:
            candidate = find_file(folder, name).resolve()
            if candidate.is_file() and candidate.is_relative_to(self._root):
                return candidate
        found = self._by_name.get(re.split(r"[\\/]", name.strip())[-1].casefold(), [])
        return found[0] if len(found) == 1 else None


def evidence_of(annotation: dict, image: dict) -> Evidence:
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


def _whole(number: Any) -> int:
    if not is_integer(number):
        raise ValueError(f"the run length {str(number)[:40]} is not a whole number")
    return number
