"""VinDr-CXR (Nguyen et al. 2022): chest radiographs as DICOM; boxes of findings by three radiologists each (train), and
by a consensus of five (test)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.inventory import TABLE
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.loaders.chexpert import check_labels
from xaiutils.datasets.reading import dicom
from xaiutils.datasets.reading.evidence import Boxes, DrawnMask, Evidence, NoFinding, Unreadable, check_frame
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation
from xaiutils.datasets.reading.tables import check_columns, find_tables, listing_of_tables, read_csv
from xaiutils.datasets.reading.tree import is_picture, walk_files
from xaiutils.registry import check_integer
from xaiutils.text import counted

_NONE = "No finding"
_BOXES = {"train": ("annotations_train.csv", "train.csv"), "test": ("annotations_test.csv",)}
_LABELS = {split: (f"image_labels_{split}.csv",) for split in _BOXES}
_SIZES = {split: (f"{split}_meta.csv",) for split in _BOXES}
_CORNERS = ["x_min", "y_min", "x_max", "y_max"]
_KEYS = ("image_id", "rad_id")
_OTHER_NAMES = {"Other disease": "Other diseases"}  # in the table of the test set
_CONSENSUS = "consensus"  # the reader of tables that name none
_ACCESS = (
    "VinDr-CXR is given by PhysioNet to credentialed users (https://physionet.org/content/vindr-cxr/1.0.0/): put its "
    "folders train, test and annotations there. The training part is also that of Kaggle's VinBigData Chest X-ray "
    "Abnormalities Detection (train.csv and train)"
)


def load(
    data_dir: Path,
    preparation: Preparation,
    *,
    labels: Sequence[str] = (),
    agreement: int = 2,
    diagnoses: bool = False,
) -> Listing:
    """``annotations_train.csv`` and ``annotations_test.csv`` (of Kaggle ``train.csv``) with pictures by image_id.

    A label is present where at least ``agreement`` of the radiologists who read the image marked it (2 of 3; where
    fewer read it, all of them), and its evidence is what the boxes of so many cover; where these boxes do not meet, or
    a minority marked it, the evidence is unknown. ``diagnoses`` adds the labels without boxes of
    ``image_labels_train.csv`` (Pneumonia, Tuberculosis, ...), whose evidence is unknown where they are present.
    ``labels``: some of those in the tables; empty: all.

    The official split; a tenth of train validates. Patients are not recorded. Boxes are in pixels of the DICOM files:
    for pictures of another kind the table train_meta.csv (image_id, dim0, dim1) must say the files' height and width.
    """
    check_integer("agreement", agreement, 1)
    files = list(walk_files(data_dir))
    tables, sizes = find_tables(files, _BOXES), find_tables(files, _SIZES)
    of_labels = find_tables(files, _LABELS) if diagnoses else {}
    absent = [_BOXES["train"][0]] if not tables else [_LABELS[s][0] for s in tables if diagnoses and s not in of_labels]
    if absent:
        raise FileNotFoundError(f"{data_dir} lacks {absent[0]}. {_ACCESS}.")
    readings, boxed, diagnosed = _readings(tables, of_labels)
    chosen = check_labels(labels, [*boxed, *diagnosed])
    frames = _frames(sizes)
    pictures = {p.stem: p for p in files if is_picture(p)}
    records, skipped, disputed = [], [], 0
    for (split, name), reading in readings.items():
        if name not in pictures:
            skipped.append((name, "no picture of it"))
            continue
        need = min(agreement, len(reading.readers))
        votes = {label: len(reading.marked[label]) for label in chosen}
        path, values = pictures[name], tuple(int(votes[label] >= need) for label in chosen)
        frame = None if dicom.is_dicom(path) else frames.get(name, (0, 0))
        evidence = tuple(reading.evidence(x, need, frame) if x in boxed or not votes[x] else () for x in chosen)
        disputed += sum(0 < votes[label] < need for label in chosen)
        metadata = {"readers": len(reading.readers)}
        source = PictureFile(path, (), preparation, evidence)
        records.append(Record(name, 0, source, split, None, metadata, values))
    notes = ["Patients are not recorded: images of one patient may be in several splits."]
    notes.append(f"A label is present where {agreement} of an image's radiologists (all, where fewer read it) say so.")
    if disputed:
        notes.append(f"{counted(disputed, 'label', 'labels')} marked by fewer: absent, with unknown evidence.")
    return listing_of_tables(
        data_dir,
        records,
        chosen,
        skipped,
        {p: TABLE for named in (tables, sizes, of_labels) for p in named.values()},
        notes,
    )


VINDR_CXR = DatasetEntry(
    "vindr_cxr",
    "VinDr-CXR",
    load,
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    citation="Nguyen et al. 2022, VinDr-CXR, Scientific Data 9",
    access="PhysioNet, to credentialed users: train, test and annotations into data_dir",
    evidence="boxes on which radiologists agree",
    caution="Patients are not recorded; readers of the training set differ.",
    preparation=Preparation(keep_aspect=True),
    preparation_options=("keep_aspect", "window"),
)


@dataclass(frozen=True)
class AgreedBoxes:
    """The pixels that the boxes (x, y, width, height) of at least ``least`` of several readers cover."""

    by_reader: tuple[tuple[tuple[float, ...], ...], ...]
    least: int
    frame: tuple[int, int] | None = None
    files: tuple[Path, ...] = ()

    def draw(self, shape: tuple[int, int]) -> DrawnMask:
        drawn = [Boxes(boxes, frame=self.frame).draw(shape) for boxes in self.by_reader]
        mask = np.sum([one.mask for one in drawn], axis=0) >= self.least
        if not mask.any():
            raise ValueError(f"the boxes of {self.least} of its readers do not meet")
        return DrawnMask(mask, sum(one.clipped for one in drawn))


@dataclass
class _Reading:
    """Who read an image, and the boxes of each label by reader; None among them for one that is no four numbers."""

    readers: set[str] = field(default_factory=set)
    marked: dict[str, dict[str, list[tuple[float, ...] | None]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def evidence(self, label: str, need: int, frame: tuple[int, int] | None) -> tuple[Evidence, ...]:
        by_reader = self.marked[label]
        if not by_reader:
            return (NoFinding(),)
        if len(by_reader) < need:
            return ()
        if frame == (0, 0):
            return (Unreadable("its boxes are in pixels of the DICOM file, whose size no train_meta.csv says"),)
        boxes = [tuple(box for box in several if box is not None) for several in by_reader.values()]
        if sum(map(len, boxes)) < sum(map(len, by_reader.values())):
            return (Unreadable("its box is no four numbers"),)
        return (AgreedBoxes(tuple(boxes), need, frame),)


def _readings(
    tables: Mapping[str, Path], of_labels: Mapping[str, Path]
) -> tuple[dict[tuple[str, str], _Reading], list[str], list[str]]:
    """Readings by split and image, the labels with boxes and, of ``of_labels``, those without."""
    readings: dict[tuple[str, str], _Reading] = defaultdict(_Reading)
    boxed: set[str] = set()
    for split, path in tables.items():
        rows = read_csv(path, ",")
        check_columns(path, rows, ["image_id", "class_name", *_CORNERS])
        for row in rows.to_dict("records"):
            reading, reader = readings[split, row["image_id"]], row.get("rad_id", _CONSENSUS)
            reading.readers.add(reader)
            if row["class_name"] != _NONE:
                boxed.add(row["class_name"])
                reading.marked[row["class_name"]][reader].append(_box(row))
    diagnosed: set[str] = set()
    for split, path in of_labels.items():
        rows = read_csv(path, ",").rename(columns=_OTHER_NAMES)
        check_columns(path, rows, ["image_id"])
        names = [c for c in rows.columns if c not in (*_KEYS, _NONE, *boxed)]
        diagnosed |= set(names)
        numbers = rows[names].apply(pd.to_numeric, errors="coerce").to_numpy()
        readers = rows.get("rad_id", pd.Series(_CONSENSUS, rows.index))
        for image, reader, said in zip(rows["image_id"], readers, numbers, strict=True):
            reading = readings[split, image]
            reading.readers.add(reader)
            for name in (n for n, value in zip(names, said, strict=True) if value == 1):
                reading.marked[name][reader].append(None)
    return dict(readings), sorted(boxed), sorted(diagnosed)


def _box(row: Mapping[str, str]) -> tuple[float, ...] | None:
    try:
        x, y, right, low = (float(row[c]) for c in _CORNERS)
    except ValueError:
        return None
    return x, y, right - x, low - y


def _frames(tables: Mapping[str, Path]) -> dict[str, tuple[int, int]]:
    """Height and width of the DICOM files by image."""
    frames = {}
    for path in tables.values():
        rows = read_csv(path, ",")
        check_columns(path, rows, ["image_id", "dim0", "dim1"])
        for image, height, width in zip(rows["image_id"], rows["dim0"], rows["dim1"], strict=True):
            try:
                frames[image] = check_frame(float(height), float(width))
            except ValueError as error:
                raise ValueError(f"{path}: of {image}, {error}") from None
    return frames
