"""MIMIC-CXR-JPG (Johnson et al. 2019): chest radiographs with labels drawn from their reports by CheXpert."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.inventory import TABLE
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation
from xaiutils.datasets.reading.tables import check_columns, listing_of_tables, read_csv
from xaiutils.datasets.reading.tree import walk_files
from xaiutils.registry import check_choice

_KEYS = ("subject_id", "study_id")
_COLUMNS = {
    "chexpert": _KEYS,
    "split": (*_KEYS, "dicom_id", "split"),
    "metadata": (*_KEYS, "dicom_id", "ViewPosition"),
}
_FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax",
)  # fmt: skip
_SPLITS = {"train": "train", "validate": "val", "test": "test"}


def load(data_dir: Path, preparation: Preparation, *, views: tuple[str, ...] | list[str] = ("PA", "AP")) -> Listing:
    """The official split. normal: "No Finding" is 1; abnormal: one of the twelve findings is 1 (support devices alone
    are neither, uncertain ones neither).

    ``views``: the ViewPosition entries that are used (default: frontal).
    """
    for view in views:
        check_choice("views", view, ("PA", "AP", "LATERAL", "LL"))
    files = list(walk_files(data_dir))
    tables = _tables(files, data_dir)
    rows, unlabelled = _joined(tables)
    rows = rows[rows["ViewPosition"].isin(list(views)) & rows["split"].isin(list(_SPLITS))]
    pictures = {p.stem: p for p in files if p.suffix.lower() == ".jpg"}
    records: list[Record] = []
    missing: list[tuple[str, str]] = []
    unclear = 0
    for row in rows.to_dict("records"):
        abnormal = any(_is_one(row.get(name, "")) for name in _FINDINGS)
        if not abnormal and not _is_one(row.get("No Finding", "")):
            unclear += 1
        elif row["dicom_id"] not in pictures:
            missing.append((row["dicom_id"], "no picture of it"))
        else:
            records.append(
                Record(
                    id=row["dicom_id"],
                    label=int(abnormal),
                    source=PictureFile(pictures[row["dicom_id"]], (), preparation),
                    split=_SPLITS[row["split"]],
                    patient=row["subject_id"],
                    metadata={"view": row["ViewPosition"], "study": row["study_id"]},
                )
            )
    notes = [f"{unclear} images have neither a finding nor 'No Finding' and are left out."] if unclear else []
    if unlabelled:
        notes.append(f"{unlabelled} images of the metadata table have no split or no labels and are left out.")
    return listing_of_tables(
        data_dir, records, ("normal", "abnormal"), missing, dict.fromkeys(tables.values(), TABLE), notes
    )


MIMIC_CXR = DatasetEntry(
    "mimic_cxr",
    "MIMIC-CXR-JPG",
    load,
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    citation="Johnson et al. 2019, MIMIC-CXR-JPG, arXiv:1901.07042",
    access="PhysioNet, to credentialed users: tables and 'files' into data_dir",
    evidence="none",
    caution="Labels are drawn from reports by a program.",
    preparation=Preparation(keep_aspect=True),
    preparation_options=("keep_aspect",),
)


def _tables(files: list[Path], root: Path) -> dict[str, Path]:
    """The three tables by kind. Raises FileNotFoundError that says where they come from."""
    found = {
        kind: p
        for kind in _COLUMNS
        for p in files[::-1]
        if p.name.startswith("mimic-cxr-2") and f"-{kind}.csv" in p.name
    }
    absent = [f"mimic-cxr-2.0.0-{kind}.csv.gz" for kind in _COLUMNS if kind not in found]
    if absent:
        raise FileNotFoundError(
            f"{root} lacks {', '.join(absent)}. MIMIC-CXR-JPG is given by PhysioNet to credentialed users "
            "(https://physionet.org/content/mimic-cxr-jpg/: an account, the CITI course, a signed agreement): put its "
            f"tables and the folder 'files' into {root}."
        )
    return found


def _joined(tables: Mapping[str, Path]) -> tuple[pd.DataFrame, int]:
    """One row for each image that has a split and labels, and the number of those that have none."""
    read = {kind: read_csv(path, ",") for kind, path in tables.items()}
    for kind, columns in _COLUMNS.items():
        check_columns(tables[kind], read[kind], columns)
    rows = read["metadata"].merge(read["split"], on=["dicom_id", "study_id", "subject_id"])
    rows = rows.merge(read["chexpert"], on=["study_id", "subject_id"])
    return rows, len(read["metadata"]) - len(rows)


def _is_one(text: str) -> bool:
    try:
        return float(text) == 1
    except ValueError:
        return False
