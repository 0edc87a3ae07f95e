"""CBIS-DDSM: scanned film mammograms with verified pathology (Lee et al. 2017, TCIA), in the layouts it is found in.

The four official description tables say what there is; pictures are joined to them by what their paths hold, and by the
DICOM header where a path says nothing: the series UIDs of the TCIA tree and of Kaggle's JPEG export, subject names such
as ``Mass-Training_P_00001_LEFT_CC_1``, or short names such as ``00001_LEFT_CC.jpg`` beside COCO boxes.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.inventory import TABLE
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.loaders.cbis_ddsm_tables import (
    DETAILS,
    IMAGE_KEY,
    SERIES_UID,
    TABLE_NAME,
    agree_on_classes,
    read_tables,
    separate_patients,
)
from xaiutils.datasets.loaders.coco import boxes_by_file
from xaiutils.datasets.reading import dicom
from xaiutils.datasets.reading.evidence import Boxes, DrawnMask, Evidence, fit_to
from xaiutils.datasets.reading.frames import read_frame
from xaiutils.datasets.reading.picture_file import (
    MAMMOGRAM,
    MAMMOGRAM_OPTIONS,
    PictureFile,
    Preparation,
    read_picture_file,
)
from xaiutils.datasets.reading.tree import is_picture, walk_files
from xaiutils.progress import progress
from xaiutils.registry import check_choice, suggest

KINDS = {"mass": ("mass",), "calcification": ("calc",), "both": ("mass", "calc")}
CLASSES = {
    "binary": ("benign", "malignant"),
    "pathology": ("benign without callback", "benign", "malignant"),
}
OVERLAP = ("drop_train", "drop_test", "drop", "keep")
MIXED = ("worst", "drop")
_SUBJECT = re.compile(r"(Mass|Calc)[-_](Training|Test)_P_(\d{5})_(LEFT|RIGHT)_(CC|MLO)(?:_(\d+)(?!\d))?", re.IGNORECASE)
_SHORT = re.compile(r"^(?:P_)?(\d{5})_(LEFT|RIGHT)_(CC|MLO)$", re.IGNORECASE)
_SPLIT = {"training": "train", "test": "test"}


def load(
    data_dir: Path,
    preparation: Preparation,
    *,
    abnormality: str = "mass",
    task: str = "binary",
    overlapping_patients: str = "drop_train",
    mixed_images: str = "worst",
) -> Listing:
    """The official split into train and test; val is a tenth of train, by patient.

    ``abnormality``: mass (default: at 224 pixels a microcalcification is smaller than a pixel), calcification or both.
    ``task``: binary, where benign without callback is benign, or pathology, which keeps all three.
    ``overlapping_patients``: 31 patients are in train with masses and in test with calcifications, or the other way
    round; drop_train (default) leaves their training images out, drop_test, drop (both) or keep. ``mixed_images``: an
    image with findings of several classes gets the worst one (default), or is dropped. With ``region`` roi there is one
    crop for each finding. ``keep_aspect=False`` squeezes, as in the thesis.
    """
    check_choice("abnormality", abnormality, KINDS)
    check_choice("task", task, CLASSES)
    check_choice("overlapping_patients", overlapping_patients, OVERLAP)
    check_choice("mixed_images", mixed_images, MIXED)
    crops = preparation.region == "roi"
    files = list(walk_files(data_dir))
    findings = read_tables(files, KINDS[abnormality], data_dir)
    findings["class"] = findings["pathology"].map(lambda p: _class_of(p, task))
    pictures = PictureFinder(files, data_dir)
    findings, said = separate_patients(findings, overlapping_patients)
    examples, notes, contrary = _findings_of_examples(findings, crops, mixed_images)
    records: list[Record] = []
    missing: list[tuple[str, str]] = []
    for example in examples:
        record = _record(example, pictures, preparation)
        if isinstance(record, Record):
            records.append(record)
        else:
            missing.append(record)
    if not records:
        raise FileNotFoundError(
            f"none of the {len(examples)} images in the tables of {data_dir} has a picture below it; put the TCIA "
            "tree, Kaggle's jpeg folder, or pictures named like 00001_LEFT_CC.jpg there."
        )
    if missing:
        one, lack = ("findings", "no picture or no mask of their own") if crops else ("images", "no picture")
        notes.append(f"{len(missing)} of {len(examples)} {one} in the tables have {lack} below {data_dir}.")
    undrawn = sum(r.metadata["findings"] - r.metadata["findings_drawn"] for r in records)
    if undrawn:
        notes.append(f"{undrawn} findings have no mask or box: the evidence of their images is not known, or in part.")
    return Listing(
        records,
        CLASSES[task],
        read_picture_file,
        str(data_dir),
        skipped=missing,
        notes=[*notes, *said, *contrary, *_twice(records)],
        root=data_dir,
        files={p: TABLE for p in files if TABLE_NAME.fullmatch(p.name) or p.name.endswith(".coco.json")},
    )


CBIS_DDSM = DatasetEntry(
    "cbis_ddsm",
    "CBIS-DDSM",
    load,
    licence="CC BY 3.0",
    citation="Lee, Gimenez, Hoogi, Miyake, Gorovoy & Rubin 2017, Scientific Data 4",
    access="TCIA, https://www.cancerimagingarchive.net/collection/cbis-ddsm/ (163 GB DICOM and four CSV files), "
    "Kaggle's JPEG export, or JPEGs with COCO boxes",
    evidence="the findings' outlines, or their boxes",
    caution="Scanned film. Every image has a finding: there is no normal one. 31 patients are in both splits when "
    "masses and calcifications are pooled.",
    preparation=MAMMOGRAM,
    preparation_options=MAMMOGRAM_OPTIONS,
)


def _findings_of_examples(
    findings: pd.DataFrame, crops: bool, mixed_images: str
) -> tuple[list[pd.DataFrame], list[str], list[str]]:
    """The findings of each image, or with ``crops`` each finding with its place among those of its image; and what was
    done with images and views of several classes."""
    if crops:
        examples = [
            g.iloc[[i]].assign(place=i, of=len(g), alike=g["class"].nunique() == 1)
            for _, g in findings.groupby(IMAGE_KEY, sort=False)
            for i in range(len(g))
        ]
        return examples, [], []
    notes = []
    if mixed := int((findings.groupby(IMAGE_KEY)["class"].nunique() > 1).sum()):
        what = "left out" if mixed_images == "drop" else "given the worst one"
        notes.append(f"{mixed} images have findings of several classes; they are {what} (mixed_images).")
    findings, contrary = agree_on_classes(findings, mixed_images)
    examples = [g for _, g in findings.groupby(IMAGE_KEY, sort=False)]
    if mixed_images == "drop":
        examples = [g for g in examples if g["class"].nunique() == 1]
    return examples, notes, contrary


def _class_of(pathology: str, task: str) -> int:
    order = {"BENIGN_WITHOUT_CALLBACK": 0, "BENIGN": 1, "MALIGNANT": 2}
    if pathology not in order:
        raise ValueError(f"the pathology {pathology!r} is unknown; {suggest(pathology, list(order))}")
    return order[pathology] if task == "pathology" else int(pathology == "MALIGNANT")


def _twice(records: Iterable[Record]) -> list[str]:
    """A view with masses and calcifications is in the set twice, as two pictures."""
    views = defaultdict(set)
    for r in records:
        views[r.patient, r.metadata["side"], r.metadata["view"]].add(r.metadata["abnormality"])
    twice = sum(len(kinds) > 1 for kinds in views.values())
    return [f"{twice} views are in the set twice, as an image of masses and of calcifications."] if twice else []


# Pictures -----------------------------------------------------------------------------------------------------------


class PictureFinder:
    """Finds the pictures of an image or a finding by series UID, by subject name, or by short name."""

    def __init__(self, files: list[Path], root: Path):
        self.by_uid: dict[str, list[Path]] = defaultdict(list)
        self.by_subject: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        self.by_short: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        self.boxes = boxes_by_file([p for p in files if p.name.endswith(".coco.json")])
        pictures = [p for p in files if is_picture(p)]
        silent = [p for p in pictures if not self._note(p, p.relative_to(root).as_posix())]
        for path in progress([p for p in silent if dicom.is_dicom(p)], title="reading DICOM headers"):
            try:
                header = dicom.read_header(path)
            except (ValueError, OSError):
                continue  # not of this set, or broken: then its image is named as missing
            self._note(path, f"{header.patient}/{header.series}/")

    def _note(self, path: Path, text: str) -> bool:
        uids, subject = SERIES_UID.findall(text), list(_SUBJECT.finditer(text))
        for uid in uids:
            self.by_uid[uid].append(path)
        if subject:
            self.by_subject[_subject_key(subject[-1])].append(path)
        short = _SHORT.match(path.stem)
        if short:
            self.by_short[tuple(g.upper() for g in short.groups())].append(path)
        return bool(uids or subject or short)

    def full(self, rows: pd.DataFrame) -> Path | None:
        """The mammogram that these findings of one image lie on."""
        first = rows.iloc[0]
        key = (first["kind"], first["split"], first["patient"].removeprefix("P_"), first["side"], first["view"])
        found = [p for uid in rows["image uids"] if uid for p in self.by_uid.get(uid, [])]
        found = found or [p for p in self.by_subject.get((*key, ""), []) if not _named_mask(p)]
        if not found:
            named = self.by_short.get(key[2:], [])
            # Folders such as mass_train part the kinds and splits; without them the name has to do.
            in_its_folder = [
                p for p in named if first["kind"] in p.parent.name.lower() and first["split"] in p.parent.name.lower()
            ]
            found = in_its_folder or [p for p in named if not re.search("mass|calc|train|test", p.parent.name.lower())]
        return found[0] if found else None

    def evidence(self, rows: pd.DataFrame, full: Path) -> tuple[Evidence, ...]:
        """Masks of the findings, else boxes of the picture."""
        drawn: list[Evidence] = []
        for _, row in rows.iterrows():
            found = [p for uid in sorted(row["roi uids"]) for p in self.by_uid.get(uid, [])]
            key = (row["kind"], row["split"], row["patient"].removeprefix("P_"), row["side"], row["view"])
            found = found or self.by_subject.get((*key, str(row["number"])), [])
            found = found or [p for p in self.by_subject.get((*key, ""), []) if _named_mask(p)]
            if found:
                drawn.append(RegionMask(tuple(dict.fromkeys(found))))
        if not drawn and (boxes := self._boxes_of(full)):
            if "place" not in rows:
                drawn.append(Boxes(boxes))
            elif len(boxes) == rows.iloc[0]["of"] and rows.iloc[0]["alike"]:  # a box does not say whose it is
                drawn.append(Boxes((boxes[rows.iloc[0]["place"]],)))
        return tuple(dict.fromkeys(drawn))

    def _boxes_of(self, full: Path) -> tuple[tuple[float, ...], ...]:
        """Boxes by file name; of several COCO files that name it, of the one that is called like its folder."""
        found = {stem: boxes for stem, files in self.boxes.items() if (boxes := files.get(full.name))}
        own = [boxes for stem, boxes in found.items() if stem.startswith(full.parent.name)]
        return own[0] if own else next(iter(found.values()), ()) if len(found) == 1 else ()


def _subject_key(match: re.Match) -> tuple[str, ...]:
    kind, split, patient, side, view, number = match.groups()
    return kind.lower(), _SPLIT[split.lower()], patient, side.upper(), view.upper(), number or ""


def _named_mask(path: Path) -> bool:
    return path.stem.upper().endswith("MASK")


def _record(rows: pd.DataFrame, pictures: PictureFinder, how: Preparation) -> Record | tuple[str, str]:
    """The record of an image or a finding, or (id, reason) where there is no picture."""
    worst = rows.loc[rows["class"].astype(int).idxmax()]
    image_id = f"{worst['kind']}_{worst['split']}/{worst['patient']}_{worst['side']}_{worst['view']}"
    if how.region == "roi":
        image_id += f"_{worst['number']}"
    full = pictures.full(rows)
    if full is None:
        return image_id, "no picture of it"
    evidence = pictures.evidence(rows, full)
    if how.region == "roi" and not evidence:
        return image_id, "no mask to crop to, or boxes of several classes that do not say whose they are"
    details = {name.replace(" ", "_"): worst[name] for name in DETAILS if worst[name]}
    return Record(
        id=image_id,
        label=int(worst["class"]),
        source=PictureFile(full, evidence, how),
        split=worst["split"],
        patient=worst["patient"],
        metadata={
            "side": worst["side"],
            "view": worst["view"],
            "density": worst["density"],
            "abnormality": {"mass": "mass", "calc": "calcification"}[worst["kind"]],
            "findings": len(rows),
            "findings_drawn": min(len(rows), sum(len(e.boxes) if isinstance(e, Boxes) else 1 for e in evidence)),
            "pathology": worst["pathology"],
            "assessment": worst["assessment"],
            "subtlety": worst["subtlety"],
            **details,
        },
    )


@dataclass(frozen=True)
class RegionMask:
    """A finding's mask among files of which others are crops of the picture.

    The official paths name mask and crop the wrong way round in part, so the content tells: a mask has the picture's
    size and two values.
    """

    files: tuple[Path, ...]

    def draw(self, shape: tuple[int, int]) -> DrawnMask:
        problems = []
        sizes = {path: _size(path) for path in self.files}
        for path in sorted(self.files, key=lambda p: sizes[p] != tuple(shape)):
            try:
                mask = _two_values(path)
                if mask is not None:
                    return DrawnMask(fit_to(mask, shape))
            except (ValueError, OSError) as error:
                problems.append(f"{path.name}: {error}")
        names = ", ".join(p.name for p in self.files)
        raise ValueError(f"none of {names} is a mask of its finding (two values) {'; '.join(problems)}".strip())


def _size(path: Path) -> tuple[int, int] | None:
    """(height, width) of a DICOM file from its header; others are told by their values alone."""
    if not dicom.is_dicom(path):
        return None
    try:
        header = dicom.read_header(path)
        return header.height, header.width
    except (ValueError, OSError):
        return None


def _two_values(path: Path) -> np.ndarray | None:
    """The mask, or None for a picture with grey tones. A JPEG blurs a mask's border a little."""
    pixels = read_frame(path).pixels
    grey = pixels[..., 0] if pixels.ndim == 3 else pixels
    low, high = float(grey.min()), float(grey.max())
    if high == low:
        return grey > 0 if high == 0 else None
    level = (grey - low) / (high - low)
    return level > 0.5 if np.mean((level > 0.1) & (level < 0.9)) < 0.01 else None
