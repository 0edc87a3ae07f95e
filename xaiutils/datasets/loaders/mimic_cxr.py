"""MIMIC-CXR-JPG (Johnson et al. 2019): chest radiographs with labels drawn from their reports by CheXpert."""

from pathlib import Path

from xaiutils.datasets.inventory import TABLE
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.loaders.table import read_csv
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation, read_picture_file
from xaiutils.datasets.reading.tree import walk_files
from xaiutils.registry import check_choice, suggest

_TABLES = ("chexpert", "split", "metadata")
_FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax",
)  # fmt: skip
_SPLITS = {"train": "train", "validate": "val", "test": "test"}


def load(data_dir: Path, *, views: tuple[str, ...] | list[str] = ("PA", "AP"), keep_aspect: bool = True) -> Listing:
    """The official split. normal: "No Finding" is 1; abnormal: one of the twelve findings is 1 (support devices alone
    are neither, uncertain ones neither).

    ``views``: the ViewPosition entries that are used (default: frontal). ``keep_aspect`` pads to a square.
    """
    for view in views:
        check_choice("views", view, ("PA", "AP", "LATERAL", "LL"))
    root = Path(data_dir)
    files = list(walk_files(root))
    tables = {
        kind: next((p for p in files if p.name.startswith("mimic-cxr-2") and f"-{kind}.csv" in p.name), None)
        for kind in _TABLES
    }
    absent = [f"mimic-cxr-2.0.0-{kind}.csv.gz" for kind, path in tables.items() if path is None]
    if absent:
        raise FileNotFoundError(
            f"{root} lacks {', '.join(absent)}. MIMIC-CXR-JPG is given by PhysioNet to credentialed users "
            "(https://physionet.org/content/mimic-cxr-jpg/: an account, the CITI course, a signed agreement): put its "
            f"tables and the folder 'files' into {root}."
        )
    read = {kind: read_csv(path, ",") for kind, path in tables.items()}
    keys = ["subject_id", "study_id"]
    needed = {"chexpert": keys, "split": [*keys, "dicom_id", "split"], "metadata": [*keys, "dicom_id", "ViewPosition"]}
    for kind, columns in needed.items():
        for column in columns:
            if column not in read[kind].columns:
                raise ValueError(
                    f"{tables[kind]} has no column {column!r}; {suggest(column, list(read[kind].columns))}"
                )
    rows = read["metadata"].merge(read["split"], on=["dicom_id", "study_id", "subject_id"])
    rows = rows.merge(read["chexpert"], on=["study_id", "subject_id"])
    unlabelled = len(read["metadata"]) - len(rows)
    rows = rows[rows["ViewPosition"].isin(list(views)) & rows["split"].isin(list(_SPLITS))]
    pictures = {p.stem: p for p in files if p.suffix.lower() == ".jpg"}
    how, records, missing, unclear = Preparation(keep_aspect=keep_aspect), [], [], 0
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
                    source=PictureFile(pictures[row["dicom_id"]], (), how),
                    split=_SPLITS[row["split"]],
                    patient=row["subject_id"],
                    metadata={"view": row["ViewPosition"], "study": row["study_id"]},
                )
            )
    if not records:
        raise FileNotFoundError(f"none of {len(rows)} images in the tables of {root} has a picture below it.")
    notes = [f"{unclear} images have neither a finding nor 'No Finding' and are left out."] if unclear else []
    if unlabelled:
        notes.append(f"{unlabelled} images of the metadata table have no split or no labels and are left out.")
    if missing:
        notes.append(f"{len(missing)} images in the tables have no picture below {root}.")
    return Listing(
        records,
        ("normal", "abnormal"),
        read_picture_file,
        str(root),
        skipped=missing,
        notes=notes,
        root=root,
        files=dict.fromkeys(filter(None, tables.values()), TABLE),
    )


def _is_one(text: str) -> bool:
    try:
        return float(text) == 1
    except ValueError:
        return False
