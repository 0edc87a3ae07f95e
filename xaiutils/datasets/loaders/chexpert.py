"""CheXpert (Irvin et al. 2019): chest radiographs with fourteen labels, drawn from their reports by a program; those of
the validation and test sets by radiologists."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.inventory import LEFT_OUT, TABLE
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.reading.evidence import Evidence
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation
from xaiutils.datasets.reading.tables import check_columns, find_tables, listing_of_tables, read_csv
from xaiutils.datasets.reading.tree import is_picture, walk_files
from xaiutils.registry import check_choice
from xaiutils.text import counted

LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
TABLES = {
    "train": ("train.csv",),
    "val": ("valid.csv", "val_labels.csv"),
    "test": ("test.csv", "test_labels.csv"),
}
RULES = {"ignore": -1, "zeros": 0, "ones": 1}
VIEWS = ("frontal", "lateral", "AP", "PA", "all")
_ACCESS = (
    "CheXpert is given by Stanford AIMI after registration (https://stanfordaimi.azurewebsites.net, CheXpert): put "
    "train.csv and valid.csv, with the folders train and valid, there, of the full set or of CheXpert-v1.0-small"
)


def load(
    data_dir: Path,
    preparation: Preparation,
    *,
    uncertain: str = "ignore",
    blank: str = "zeros",
    views: str = "frontal",
    labels: Sequence[str] = (),
) -> Listing:
    """``train.csv`` and ``valid.csv`` with pictures by their path, ``train/patient00001/study1/view1_frontal.jpg``.

    ``uncertain``: what -1 of the tables means, as in the paper: "ignore" (unknown), "zeros" (absent), "ones" (present).
    ``blank``: a finding that the report does not mention: "zeros" as in the paper, or "ignore". ``views``: "frontal",
    "lateral", "AP", "PA" or "all". ``labels``: some of the fourteen, in that order; empty: all.

    The patient is that of the path. valid.csv is the validation set where there is a table of the test set (test.csv
    or test_labels.csv); else it is the test set, and a tenth of the training patients validates.
    """
    chosen = check_labels(labels, LABELS)
    files = list(walk_files(data_dir))
    tables = find_tables(files, TABLES)
    if not {"train", "val"} & set(tables):
        raise FileNotFoundError(f"{data_dir} lacks train.csv and valid.csv. {_ACCESS}.")
    notes = []
    if "test" not in tables and "val" in tables and "train" in tables:
        tables = {"train": tables["train"], "test": tables["val"]}
        notes.append("The official validation set is the test set here, since there is no table of the test set.")
    rows = read_rows(tables, chosen, uncertain, blank)
    records, skipped, left = list_records(rows, chosen, find_pictures(files), preparation, views)
    if left:
        notes.append(f"{counted(len(left), 'image is', 'images are')} of other views than {views!r} and left out.")
    notes.append(f"Uncertain labels: {uncertain}; labels that a report does not mention: {blank}.")
    return listing_of_tables(
        data_dir, records, chosen, skipped, dict.fromkeys(tables.values(), TABLE) | dict.fromkeys(left, LEFT_OUT), notes
    )


CHEXPERT = DatasetEntry(
    "chexpert",
    "CheXpert",
    load,
    licence="Stanford University Dataset Research Use Agreement",
    citation="Irvin et al. 2019, CheXpert, AAAI, arXiv:1901.07031",
    access="Stanford AIMI, after registration: train.csv, valid.csv and their folders into data_dir",
    evidence="none; chexlocalize has that of the validation and test sets",
    caution="Training labels are drawn from reports by a program; what a report does not mention counts as absent.",
    preparation=Preparation(keep_aspect=True),
    preparation_options=("keep_aspect",),
)


def check_labels(labels: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """``labels``, each once, or all that are ``known``. Raises ValueError with the nearest names."""
    if isinstance(labels, str):
        raise TypeError(f"labels={labels!r}; expected a list of names.")
    for label in labels:
        check_choice("labels", label, known)
    return tuple(dict.fromkeys(labels)) or tuple(known)


def find_pictures(files: Iterable[Path]) -> dict[str, Path]:
    """Pictures by the last three parts of their path, as "patient00001_study1_view1_frontal"."""
    return {_name(p.parts): p for p in files if is_picture(p) and len(p.parts) >= 3}


def _name(parts: Sequence[str]) -> str:
    return "_".join([*parts[-3:-1], Path(parts[-1]).stem])


def read_rows(tables: Mapping[str, Path], labels: Sequence[str], uncertain: str, blank: str) -> pd.DataFrame:
    """The rows of the tables by split, with the columns id, patient, split, table and ``labels`` (1, 0, -1).

    Raises ValueError for a rule that is unknown, a column that is missing, and a label that is no 1, 0, -1 or blank.
    """
    check_choice("uncertain", uncertain, RULES)
    check_choice("blank", blank, [r for r in RULES if r != "ones"])
    meaning = {1.0: 1, 0.0: 0, -1.0: RULES[uncertain]}
    found = []
    for split, path in tables.items():
        rows = read_csv(path, ",")
        check_columns(path, rows, ["Path", *labels])
        for label in labels:
            texts = rows[label].str.strip()
            numbers = pd.to_numeric(texts.where(texts != ""), errors="coerce")
            wrong = texts[(texts != "") & ~numbers.isin(list(meaning))]
            if len(wrong):
                where = rows["Path"][wrong.index[0]]
                raise ValueError(f"{path}: {label} of {where} is {wrong.iloc[0]!r}, not 1, 0, -1 or blank.")
            rows[label] = numbers.map(meaning).fillna(RULES[blank]).astype(int)
        parts = rows["Path"].str.strip().str.split("/")
        found.append(rows.assign(id=parts.map(_name), patient=parts.str[-3], split=split, table=path.name))
    return pd.concat(found, ignore_index=True)


def list_records(
    rows: pd.DataFrame,
    labels: Sequence[str],
    pictures: Mapping[str, Path],
    preparation: Preparation,
    views: str = "all",
    evidence: Mapping[str, tuple[tuple[Evidence, ...], ...]] = MappingProxyType({}),
    metadata: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> tuple[list[Record], list[tuple[str, str]], list[Path]]:
    """A record for each row with a picture, the rows without, and the pictures of other ``views``.

    ``evidence`` of each label, and further ``metadata``, by the image's id.
    """
    check_choice("views", views, VIEWS)
    records, skipped, left = [], [], []
    for row in rows.to_dict("records"):
        name, side, direction = row["id"], row["id"].rpartition("_")[2].lower(), row.get("AP/PA", "").strip()
        if name not in pictures:
            skipped.append((name, "no picture of it"))
        elif views != "all" and views not in (side, direction):
            left.append(pictures[name])
        else:
            source = PictureFile(pictures[name], (), preparation, evidence.get(name, ()))
            known = {"view": direction or side, "sex": row.get("Sex"), "age": row.get("Age")}
            facts = {k: v for k, v in known.items() if v is not None} | dict(metadata.get(name, {}))
            values = tuple(int(row[label]) for label in labels)
            records.append(Record(name, 0, source, row["split"], row["patient"], facts, values))
    return records, skipped, left
