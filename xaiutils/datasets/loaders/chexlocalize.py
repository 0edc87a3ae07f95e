"""CheXlocalize (Saporta et al. 2022): the validation and test sets of CheXpert with the evidence of ten labels, drawn
by radiologists, and with what other radiologists drew for comparison (the human benchmark)."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xaiutils import file_limits
from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.inventory import TABLE
from xaiutils.datasets.listing import Listing
from xaiutils.datasets.loaders.chexpert import TABLES, check_labels, find_pictures, list_records, read_rows
from xaiutils.datasets.reading.evidence import (
    Evidence,
    NoFinding,
    Polygons,
    RunLengths,
    Unreadable,
    check_frame,
    unpack_run_lengths,
)
from xaiutils.datasets.reading.picture_file import Preparation
from xaiutils.datasets.reading.tables import find_tables, listing_of_tables
from xaiutils.datasets.reading.tree import walk_files
from xaiutils.file_limits import check_regular, explain, naming
from xaiutils.registry import check_choice
from xaiutils.text import counted

LABELS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Lung Opacity", "Edema", "Consolidation",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Support Devices",
)  # fmt: skip
OUTLINES = "outlines of "  # with a label: a column of the metadata, how many outlines were drawn of it
POINTS = "points of "  # and the reader's most representative points: "x y; x y" in parts of the prepared image
_OTHER_NAMES = {"Lung Opacity": "Airspace Opacity"}  # in the annotation files
_READERS = {"ground_truth": "gt", "human": "hb"}
_FORMS = {"run_lengths": "segmentations", "outlines": "annotations"}
_ACCESS = (
    "CheXlocalize is given by Stanford AIMI after registration "
    "(https://stanfordaimi.azurewebsites.net/datasets/23c56a0d-15de-405b-87c8-99c30138950c): put its folders CheXpert "
    "(val, test, val_labels.csv, test_labels.csv) and CheXlocalize (gt_annotations_val.json, ...) there"
)


def load(
    data_dir: Path,
    preparation: Preparation,
    *,
    reader: str = "ground_truth",
    annotations: str = "run_lengths",
    labels: Sequence[str] = (),
    uncertain: str = "ignore",
) -> Listing:
    """Pictures and labels of CheXpert's validation (val) and test set, and the evidence of each label.

    ``annotations``: "run_lengths" of ``gt_segmentations_val.json``, or "outlines" of ``gt_annotations_val.json``; the
    other where a file is missing. ``reader``: "human" takes the human benchmark's (``hb_...``, of the test set alone)
    in place of the ground truth, with the most representative points of ``hb_salient_pt_test.json`` in the metadata.
    ``labels``: some of the ten; empty: all. ``uncertain``: as for CheXpert.

    A label that is absent and of which nothing is drawn has empty evidence; one that is present and was not drawn has
    unknown evidence, as has one that is absent and was drawn. There is no training set: bring a model.
    """
    check_choice("reader", reader, _READERS)
    check_choice("annotations", annotations, _FORMS)
    chosen = check_labels(labels, LABELS)
    files = list(walk_files(data_dir))
    prefix, forms = _READERS[reader], [_FORMS[annotations], *_FORMS.values()]
    drawn = find_tables(files, {s: [f"{prefix}_{form}_{s}.json" for form in forms] for s in ("val", "test")})
    counted_in = find_tables(files, {s: [f"{prefix}_annotations_{s}.json"] for s in drawn})
    points = find_tables(files, {"test": ["hb_salient_pt_test.json"]}) if reader == "human" else {}
    tables = {split: path for split, path in find_tables(files, TABLES).items() if split in drawn}
    if not tables:
        raise FileNotFoundError(
            f"{data_dir} has no split with both labels (val_labels.csv) and annotations ({prefix}_*.json). {_ACCESS}."
        )
    rows = read_rows(tables, chosen, uncertain, "zeros")
    evidence: dict[str, tuple[tuple[Evidence, ...], ...]] = {}
    facts: dict[str, dict[str, Any]] = {}
    odd: Counter[str] = Counter()
    for split in tables:
        marks, outlines, said = (_read(named[split]) if split in named else {} for named in (drawn, counted_in, points))
        with naming(drawn[split], f"its entries, or those of the files beside it ({prefix}_...), cannot be read"):
            for row in rows[rows["split"] == split].to_dict("records"):
                name = row["id"]
                entry = marks.get(name, {})
                evidence[name] = tuple(_of_label(entry, label, int(row[label]), reader, odd) for label in chosen)
                facts[name] = _counts(outlines.get(name), chosen) | _points(said.get(name), entry, chosen, preparation)
    records, skipped, _ = list_records(rows, chosen, find_pictures(files), preparation, "all", evidence, facts)
    notes = [f"{counted(n, 'label', 'labels')} {what}: its evidence is not known." for what, n in odd.items() if n]
    return listing_of_tables(
        data_dir,
        records,
        chosen,
        skipped,
        {p: TABLE for named in (tables, drawn, counted_in, points) for p in named.values()},
        notes,
    )


CHEXLOCALIZE = DatasetEntry(
    "chexlocalize",
    "CheXlocalize",
    load,
    licence="Stanford University Dataset Research Use Agreement",
    citation="Saporta et al. 2022, Nature Machine Intelligence 4",
    access="Stanford AIMI, after registration: its folders CheXpert and CheXlocalize into data_dir",
    evidence="ten findings, outlined by radiologists; a second reading of the test set (reader=human)",
    caution="Validation and test images alone; some labels have few images (Lung Lesion).",
    preparation=Preparation(keep_aspect=True),
    preparation_options=("keep_aspect",),
)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """An annotation file by image and label. Raises FileError."""
    with naming(path, "it is no annotation file of CheXlocalize ({image: {finding: ...}})"):
        check_regular(path, file_limits.MAX_TEXT_BYTES)
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
            raise ValueError("its entries are no images")
    return content


def _found(entry: Mapping[str, Any], label: str) -> Any:
    return entry.get(_OTHER_NAMES.get(label, label), entry.get(label))


def _of_label(entry: Mapping[str, Any], label: str, value: int, reader: str, odd: Counter[str]) -> tuple[Evidence, ...]:
    """The evidence of a label that is ``value`` (1, 0, -1), from its image's ``entry``; what is odd is counted."""
    marks = _marks(_found(entry, label), entry)
    if reader == "human":
        return marks or (NoFinding(),)  # that this reader drew nothing is the finding
    if value == 1:
        odd["present, and nothing is drawn"] += not marks
        return marks
    odd["absent or uncertain, and drawn"] += bool(marks)
    return () if marks or value < 0 else (NoFinding(),)


def _marks(drawn: Any, entry: Mapping[str, Any]) -> tuple[Evidence, ...]:
    """Run lengths {"size", "counts"}, or outlines [[[x, y], ...], ...]; empty where nothing is drawn."""
    try:
        if isinstance(drawn, dict):
            counts = unpack_run_lengths(drawn["counts"])
            return (RunLengths(counts, check_frame(*drawn["size"])),) if len(counts) > 1 else ()
        if drawn:
            outlines = tuple(tuple(float(v) for point in outline for v in point) for outline in drawn)
            return (Polygons(outlines, frame=check_frame(*entry["img_size"])),)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return (Unreadable(f"its annotation: {explain(error)}"),)
    return ()


def _counts(entry: Mapping[str, Any] | None, labels: Sequence[str]) -> dict[str, int]:
    """How many outlines were drawn of each label, where the file of outlines has the image."""
    return {} if entry is None else {f"{OUTLINES}{label}": len(_found(entry, label) or ()) for label in labels}


def _points(
    said: Mapping[str, Any] | None, entry: Mapping[str, Any], labels: Sequence[str], how: Preparation
) -> dict[str, str]:
    """The reader's points of each label, in parts of the image as ``how`` lays it out; ``entry`` says its size."""
    sizes = (
        [entry["img_size"]]
        if "img_size" in entry
        else [m["size"] for m in entry.values() if isinstance(m, dict) and "size" in m]
    )
    size = next(iter(sizes), None)
    if not said or size is None:
        return {}
    height, width = check_frame(*size)
    side = max(height, width)
    down, across = (side, side) if how.keep_aspect else (height, width)
    left, top = (across - width) / 2, (down - height) / 2
    return {
        f"{POINTS}{label}": "; ".join(f"{(x + left) / across:.6f} {(y + top) / down:.6f}" for x, y in points)
        for label in labels
        if (points := _found(said, label))
    }
