"""NIH ChestX-ray14 (Wang et al. 2017): chest radiographs with fourteen labels, drawn from their reports by a program,
and boxes of eight of them on 880 images."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from xaiutils import file_limits
from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.inventory import LEFT_OUT, TABLE
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.loaders.chexpert import check_labels
from xaiutils.datasets.reading.evidence import Boxes, Evidence, NoFinding, Unreadable
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation
from xaiutils.datasets.reading.tables import check_columns, find_tables, listing_of_tables, read_csv
from xaiutils.datasets.reading.tree import is_picture, walk_files
from xaiutils.file_limits import read_bytes
from xaiutils.registry import check_choice
from xaiutils.text import counted

LABELS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
_NONE = "No Finding"
_IN_BOXES = {"Infiltrate": "Infiltration"}  # as the table of boxes calls it
_FRAME = (1024, 1024)  # of the boxes, and of the published pictures
_TABLES = {
    "labels": ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"),
    "boxes": ("BBox_List_2017.csv",),
    "train": ("train_val_list.txt",),
    "test": ("test_list.txt",),
}
_SIDES = ["Bbox [x", "y", "w", "h]"]
_ACCESS = (
    "NIH ChestX-ray14 is free (https://nihcc.app.box.com/v/ChestXray-NIHCC, or Kaggle nih-chest-xrays/data): put "
    "Data_Entry_2017.csv, BBox_List_2017.csv, train_val_list.txt, test_list.txt and the unpacked pictures there"
)


def load(data_dir: Path, preparation: Preparation, *, labels: Sequence[str] = (), views: str = "all") -> Listing:
    """``Data_Entry_2017.csv`` with pictures by name, in ``images_001/images`` and so on, or in one folder.

    train_val_list.txt and test_list.txt are the official split by patient; a tenth of train validates. ``labels``:
    some of the fourteen; empty: all. ``views``: "PA", "AP" or "all".

    Evidence: a label with boxes is known; a present label without a box is unknown, as nearly all are; an absent label
    has empty evidence, unless there is a box of it: then it is unknown, and counted.
    """
    check_choice("views", views, ("all", "PA", "AP"))
    chosen = check_labels(labels, LABELS)
    files = list(walk_files(data_dir))
    tables = find_tables(files, _TABLES)
    if "labels" not in tables:
        raise FileNotFoundError(f"{data_dir} lacks Data_Entry_2017.csv. {_ACCESS}.")
    if ("train" in tables) != ("test" in tables):
        raise FileNotFoundError(f"{data_dir} has one of train_val_list.txt and test_list.txt. {_ACCESS}.")
    rows = read_csv(tables["labels"], ",")
    check_columns(tables["labels"], rows, ["Image Index", "Finding Labels", "Patient ID", "View Position"])
    lists = {
        split: read_bytes(path, file_limits.MAX_TEXT_BYTES)
        for split, path in tables.items()
        if split in ("train", "test")
    }
    split_of = {name: split for split, text in lists.items() for name in text.decode(errors="replace").split()}
    boxes = _boxes(tables.get("boxes"))
    pictures = {p.name: p for p in files if is_picture(p)}
    records, skipped, left = [], [], {}
    odd: Counter[str] = Counter()
    for row in rows.to_dict("records"):
        name, present = row["Image Index"], [x.strip() for x in row["Finding Labels"].split("|")]
        unknown = set(present) - {*LABELS, _NONE}
        if unknown:
            raise ValueError(f"{tables['labels']}: {name} has the label {min(unknown)!r}, none of the fourteen.")
        if name not in pictures:
            skipped.append((name, "no picture of it"))
        elif views != "all" and row["View Position"] != views:
            left[pictures[name]] = LEFT_OUT
        else:
            evidence = tuple(_of_label(boxes[name].get(label, []), label in present, odd) for label in chosen)
            source = PictureFile(pictures[name], (), preparation, evidence)
            metadata = {"view": row["View Position"], "boxed": bool(boxes[name])}
            values = tuple(int(label in present) for label in chosen)
            records.append(Record(name, 0, source, split_of.get(name), row["Patient ID"], metadata, values))
    notes = [f"{counted(n, 'box', 'boxes')} {what}" for what, n in odd.items()]
    if left:
        notes.append(f"{counted(len(left), 'image is', 'images are')} of other views than {views!r} and left out.")
    return listing_of_tables(data_dir, records, chosen, skipped, dict.fromkeys(tables.values(), TABLE) | left, notes)


NIH_CXR14 = DatasetEntry(
    "nih_cxr14",
    "NIH ChestX-ray14",
    load,
    licence="free, with acknowledgement of the NIH Clinical Center",
    citation="Wang et al. 2017, ChestX-ray8, CVPR, arXiv:1705.02315",
    access="https://nihcc.app.box.com/v/ChestXray-NIHCC: tables and unpacked pictures into data_dir",
    evidence="boxes of eight findings on 880 images; of all other positive images it is unknown",
    caution="Labels are drawn from reports by a program; many are wrong (Oakden-Rayner 2019).",
    preparation=Preparation(keep_aspect=True),
    preparation_options=("keep_aspect",),
)


def _boxes(path: Path | None) -> dict[str, dict[str, list[tuple[float, ...] | None]]]:
    """Boxes (x, y, width, height) by image and label; None for one that is no four numbers. Raises ValueError for an
    unknown label."""
    found: dict[str, dict[str, list[tuple[float, ...] | None]]] = defaultdict(lambda: defaultdict(list))
    if path is None:
        return found
    rows = read_csv(path, ",")
    check_columns(path, rows, ["Image Index", "Finding Label", *_SIDES])
    for row in rows.to_dict("records"):
        label = _IN_BOXES.get(row["Finding Label"], row["Finding Label"])
        check_choice(f"{path}: label", label, LABELS)
        try:
            box = tuple(float(row[side]) for side in _SIDES)
        except ValueError:
            box = None
        found[row["Image Index"]][label].append(box)
    return found


def _of_label(boxes: list[tuple[float, ...] | None], present: bool, odd: Counter[str]) -> tuple[Evidence, ...]:
    if not boxes:
        return () if present else (NoFinding(),)
    if not present:
        odd["of labels that the table of labels says are absent: the evidence is not known."] += len(boxes)
        return ()
    whole = tuple(box for box in boxes if box is not None)
    if len(whole) < len(boxes):
        return (Unreadable("its box is no four numbers"),)
    return (Boxes(whole, frame=_FRAME),)
