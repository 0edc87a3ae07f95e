"""VinDr-Mammo (Nguyen et al. 2023): 5,000 screening exams of four views as DICOM, BI-RADS of breasts, boxes of
findings."""

import ast
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.inventory import TABLE
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.loaders.chexpert import check_labels
from xaiutils.datasets.reading.evidence import Boxes, Evidence, NoFinding, Unreadable, check_frame
from xaiutils.datasets.reading.picture_file import (
    MAMMOGRAM,
    MAMMOGRAM_OPTIONS,
    PictureFile,
    Preparation,
)
from xaiutils.datasets.reading.tables import check_columns, find_tables, listing_of_tables, read_csv
from xaiutils.datasets.reading.tree import is_picture, walk_files
from xaiutils.datasets.splits import split_called
from xaiutils.file_limits import explain
from xaiutils.registry import check_choice, check_integer

LABELS = (
    "Mass", "Suspicious Calcification", "Asymmetry", "Focal Asymmetry", "Global Asymmetry", "Architectural Distortion",
    "Suspicious Lymph Node", "Skin Thickening", "Skin Retraction", "Nipple Retraction",
)  # fmt: skip
_NONE = "No Finding"
_TASKS = ("findings", "suspicious")
_TABLES = {"breasts": ("breast-level_annotations.csv",), "findings": ("finding_annotations.csv",)}
_KEYS = ["study_id", "image_id", "laterality", "view_position", "breast_birads", "breast_density", "split"]
_CORNERS = ["xmin", "ymin", "xmax", "ymax"]
_ACCESS = (
    "VinDr-Mammo is given by PhysioNet to registered users who sign its agreement "
    "(https://physionet.org/content/vindr-mammo/1.0.0/): put breast-level_annotations.csv, finding_annotations.csv and "
    "the folder images there"
)


def load(
    data_dir: Path,
    preparation: Preparation,
    *,
    task: str = "findings",
    labels: Sequence[str] = (),
    suspicious_from: int = 4,
) -> Listing:
    """``images/<study_id>/<image_id>.dicom`` (or a picture of that name and size), with the official split; a tenth of
    train validates. A study is one patient's exam.

    ``task``: "findings", several labels at once, those of the boxes (``labels``: some of the ten; empty: all); or
    "suspicious": two classes by the BI-RADS of the breast, suspicious from ``suspicious_from`` (4: BI-RADS 4 and 5,
    for which a biopsy is advised; 3 is probably benign). BI-RADS is a radiologist's suspicion, not a biopsy.

    Evidence: the boxes. Findings of BI-RADS 2 were not drawn. An image with the row "No Finding" and no box has empty
    evidence for each label; a suspicious breast without a box has unknown evidence.
    """
    check_choice("task", task, _TASKS)
    check_integer("suspicious_from", suspicious_from, 2, 5, ", a BI-RADS")
    chosen = check_labels(labels, LABELS)
    files = list(walk_files(data_dir))
    tables = find_tables(files, _TABLES)
    absent = [names[0] for kind, names in _TABLES.items() if kind not in tables]
    if absent:
        raise FileNotFoundError(f"{data_dir} lacks {', '.join(absent)}. {_ACCESS}.")
    rows = read_csv(tables["breasts"], ",")
    check_columns(tables["breasts"], rows, [*_KEYS, "height", "width"])
    found = _findings(tables["findings"])
    pictures = {p.stem: p for p in files if is_picture(p)}
    records, skipped = [], []
    for row in rows.to_dict("records"):
        name = row["image_id"]
        if name not in pictures:
            skipped.append((name, "no picture of it"))
            continue
        boxes, stated = found.get(name, {}), name in found
        frame = (row["height"], row["width"])
        grade = _grade(row["breast_birads"], name, tables["breasts"])
        if task == "findings":
            values = tuple(int(label in boxes) for label in chosen)
            evidence = tuple(_evidence({x: boxes[x]} if x in boxes else {}, frame, stated) for x in chosen)
            source, label = PictureFile(pictures[name], (), preparation, evidence), 0
        else:
            label, values = int(grade >= suspicious_from), None
            whole = _evidence(boxes, frame, stated and not label)
            source = PictureFile(pictures[name], whole, preparation)
        metadata = {"side": row["laterality"], "view": row["view_position"], "density": row["breast_density"]}
        metadata |= {"bi-rads": row["breast_birads"], "findings": ", ".join(boxes)}
        split = split_called(row["split"]) or row["split"]
        records.append(Record(name, label, source, split, row["study_id"], metadata, values))
    notes = []
    if task == "suspicious":
        notes.append(f"Suspicious is BI-RADS {suspicious_from} and higher of the breast, not proven by biopsy.")
    return listing_of_tables(
        data_dir,
        records,
        chosen if task == "findings" else ("not suspicious", "suspicious"),
        skipped,
        dict.fromkeys(tables.values(), TABLE),
        notes,
    )


VINDR_MAMMO = DatasetEntry(
    "vindr_mammo",
    "VinDr-Mammo",
    load,
    licence="PhysioNet Restricted Health Data Use Agreement 1.5.0",
    citation="Nguyen et al. 2023, VinDr-Mammo, Scientific Data 10",
    access="PhysioNet, after an agreement: both tables and the folder images into data_dir",
    evidence="boxes of findings, drawn by radiologists",
    caution="Labels are BI-RADS and findings, not biopsies; benign findings (BI-RADS 2) were not drawn.",
    preparation=MAMMOGRAM,
    preparation_options=MAMMOGRAM_OPTIONS,
)


def _findings(path: Path) -> dict[str, dict[str, list[Mapping[str, str]]]]:
    """The rows of each image's findings by label; an image with "No Finding" alone has none. Raises ValueError."""
    rows = read_csv(path, ",")
    check_columns(path, rows, ["image_id", "finding_categories", *_CORNERS])
    found: dict[str, dict[str, list[Mapping[str, str]]]] = {}
    for row in rows.to_dict("records"):
        of_image = found.setdefault(row["image_id"], defaultdict(list))
        try:
            categories = ast.literal_eval(row["finding_categories"])
        except (ValueError, SyntaxError):
            categories = None
        if not isinstance(categories, list) or not all(isinstance(c, str) for c in categories):
            raise ValueError(f"{path}: {row['image_id']} has the findings {row['finding_categories'][:60]!r}, no list.")
        for category in categories:
            if category != _NONE:
                check_choice(f"{path}: finding", category, LABELS)
                of_image[category].append(row)
    return found


def _evidence(
    boxes: Mapping[str, list[Mapping[str, str]]], frame: tuple[Any, Any], empty: bool
) -> tuple[Evidence, ...]:
    """Boxes of the given labels together; without one, nothing to mark where ``empty``, else not known."""
    rows = [row for several in boxes.values() for row in several]
    if not rows:
        return (NoFinding(),) if empty else ()
    try:
        corners = [tuple(float(row[c]) for c in _CORNERS) for row in rows]
        size = check_frame(*(float(side) for side in frame))
    except ValueError as error:
        return (Unreadable(f"its box: {explain(error)}"),)
    return (Boxes(tuple((x, y, right - x, low - y) for x, y, right, low in corners), frame=size),)


def _grade(text: str, name: str, path: Path) -> int:
    digits = text.removeprefix("BI-RADS").strip()
    if not digits.isdecimal():
        raise ValueError(f"{path}: {name} has {text!r}, no BI-RADS from 1 to 5.")
    return int(digits)
