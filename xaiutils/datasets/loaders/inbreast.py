"""INbreast (Moreira et al. 2012): digital mammograms as DICOM, a table of BI-RADS, and contours drawn by experts."""

import plistlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from skimage.draw import disk
from sklearn.model_selection import train_test_split

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.inventory import TABLE
from xaiutils.datasets.listing import Listing, Record, unknown_patient
from xaiutils.datasets.reading import dicom
from xaiutils.datasets.reading.evidence import DrawnMask, Evidence, NoFinding, check_outline, fill_outline
from xaiutils.datasets.reading.picture_file import (
    MAMMOGRAM,
    MAMMOGRAM_OPTIONS,
    PictureFile,
    Preparation,
    read_picture_file,
)
from xaiutils.datasets.reading.tables import read_csv, read_excel
from xaiutils.datasets.reading.tree import is_picture, walk_files
from xaiutils.file_limits import check_regular, naming
from xaiutils.registry import check_choice, check_integer, suggest

CLASSES = {"binary": ("benign", "malignant"), "birads": tuple(f"BI-RADS {i}" for i in range(1, 7))}
FINDINGS = ("Mass", "Calcification", "Cluster", "Distortion", "Asimmetry", "Spiculated Region", "UNNAMED", "")
_FILE = re.compile(r"^(\d{8})(?:_([0-9a-f]+)_MG_([LR])_([A-Z]+)_ANON)?", re.IGNORECASE)
_TABLES = ("inbreast.xls", "inbreast.xlsx", "inbreast.csv")
_TEST_PATIENTS, _PATIENTS = 25, 115  # the thesis: 90 patients for training, 25 for testing
_XML_BYTES = 2**26  # the real ones have at most 3 MB
_POINT_RADIUS = 3  # pixels of 0.07 mm: a contour of one or two points is a single calcification


def load(
    data_dir: Path,
    preparation: Preparation,
    seed: int,
    *,
    task: str = "binary",
    malignant_from: int = 4,
    findings: Sequence[str] = (),
) -> Listing:
    """Patients are divided by seed, 90 to 25 as in the thesis (in that proportion where some are missing); val is a
    tenth of train.

    ``task``: binary, or birads with six classes (4a, 4b and 4c are one). ``malignant_from``: the lowest BI-RADS that
    counts as malignant; 4 is the thesis' threshold and gives 100 of 410 images. BI-RADS is a radiologist's suspicion,
    not a biopsy. ``findings``: the contours that are evidence, such as [Mass, Cluster]; empty: all. ``region`` roi
    crops to all findings of an image together, and leaves out images without any.
    """
    check_choice("task", task, CLASSES)
    check_integer("malignant_from", malignant_from, 2, 6, ", a BI-RADS")
    for name in findings:
        check_choice("findings", name, FINDINGS)
    files = list(walk_files(data_dir))
    pictures = _pictures(files)
    if not pictures:
        raise FileNotFoundError(
            f"{data_dir} holds no INbreast pictures (names like 20586908_6c613a14b80a8591_MG_R_CC_ANON.dcm). INbreast "
            "is given on request by its authors (Breast Research Group, INESC Porto; Moreira et al. 2012, Academic "
            "Radiology 19): put AllDICOMs, AllXML and INbreast.xls or INbreast.csv there."
        )
    table = read_table(files, data_dir)
    contours = {m[1]: p for p in files if _is_contours(p, data_dir) and (m := _FILE.match(p.name))}
    listed = {number: path for number, path in pictures.items() if number in table.index}
    skipped = [(str(path), "not in the table") for number, path in pictures.items() if number not in listed]
    unmarked = []
    if preparation.region == "roi":
        unmarked = [number for number in listed if not _has_finding(contours.get(number), findings)]
    records = [
        Record(
            id=number,
            label=int(row["birads"] - 1 if task == "birads" else row["birads"] >= malignant_from),
            source=PictureFile(path, _evidence(number, row, contours, findings), preparation),
            patient=_patient(path, row),
            metadata={k: row[k] for k in ("side", "view", "density", "bi-rads")} | {"findings": row["findings"]},
        )
        for number, path in listed.items()
        if number not in unmarked
        for row in [table.loc[number]]
    ]
    if not records:
        raise ValueError(f"no picture of {data_dir} is in its table, or none has the contours that region='roi' needs.")
    absent = [n for n in table.index if n not in pictures]
    skipped += [(n, "no picture of it") for n in absent]
    notes = [f"{len(absent)} of {len(table)} images in the table have no picture below {data_dir}."] if absent else []
    if unmarked:
        notes.append(f"{len(unmarked)} images have no contour to crop to (region='roi') and are left out.")
    return Listing(
        _with_splits(records, seed),
        CLASSES[task],
        read_picture_file,
        str(data_dir),
        skipped=skipped,
        notes=notes,
        root=data_dir,
        files={p: TABLE for p in files if p.name.lower() in _TABLES},
    )


INBREAST = DatasetEntry(
    "inbreast",
    "INbreast",
    load,
    licence="research use, on request",
    citation="Moreira, Amaral, Domingues, Cardoso, Cardoso & Cardoso 2012, Academic Radiology 19",
    access="on request from the authors: AllDICOMs, AllXML, INbreast.xls or .csv into data_dir",
    evidence="outlines drawn by experts",
    caution="Labels are BI-RADS, a suspicion; only 56 cases have a biopsy. 115 patients: intervals are wide.",
    preparation=MAMMOGRAM,
    preparation_options=MAMMOGRAM_OPTIONS,
)


def _evidence(
    number: str, row: pd.Series, contours: Mapping[str, Path], findings: Sequence[str]
) -> tuple[Evidence, ...]:
    """The contours of an image; where others have some, none for one that is known to have no finding."""
    if number in contours:
        return (ContourFile(contours[number], tuple(findings)),)
    if contours and not row["findings"] and (row["birads"] == 1 or row["findings_stated"]):
        return (NoFinding(),)
    return ()  # not known


def _patient(path: Path, row: pd.Series) -> str | None:
    match = _FILE.match(path.name)
    return ((match and match[2]) or row["patient"]).lower() or None


def _pictures(files: list[Path]) -> dict[str, Path]:
    """Pictures by their number; a DICOM file goes before an exported copy."""
    found: dict[str, Path] = {}
    for path in files:
        match = _FILE.match(path.name)
        if not match or not is_picture(path) or path.stem.lower().endswith("mask"):
            continue
        if match[1] not in found or (dicom.is_dicom(path) and not dicom.is_dicom(found[match[1]])):
            found[match[1]] = path
    return found


def _is_contours(path: Path, root: Path) -> bool:
    """Pectoral muscles have files of the same names in a folder of their own."""
    return path.suffix.lower() == ".xml" and "pectoral" not in path.relative_to(root).as_posix().lower()


def _has_finding(path: Path | None, findings: Sequence[str]) -> bool:
    if path is None:
        return False
    try:
        return any(c.points and (not findings or c.name in findings) for c in read_contours(path))
    except (ValueError, OSError):
        return True  # the file is named when it is drawn


def _with_splits(records: list[Record], seed: int) -> list[Record]:
    """State train and test by patient, stratified by each patient's highest class (where each has two patients)."""
    worst: dict[str, int] = {}
    for r in records:
        worst[_who(r)] = max(worst.get(_who(r), 0), r.label)
    patients = sorted(worst)  # not in the folders' order
    labels = [worst[p] for p in patients]
    n_test = max(1, round(len(patients) * _TEST_PATIENTS / _PATIENTS))
    if len(patients) - n_test < 2:
        raise ValueError(f"{len(patients)} patients are too few to be divided into train and test.")
    counts = np.bincount(labels)
    stratify = labels if counts[counts > 0].min() >= 2 and n_test >= np.count_nonzero(counts) else None
    _, test = train_test_split(patients, test_size=n_test, random_state=seed, stratify=stratify)
    chosen = set(test)
    return [replace(r, split="test" if _who(r) in chosen else "train") for r in records]


def _who(record: Record) -> str:
    return record.patient or unknown_patient(record.id)


# The table ----------------------------------------------------------------------------------------------------------


def read_table(files: list[Path], root: Path) -> pd.DataFrame:
    """Rows by file number: birads (1 to 6), bi-rads as written, side, view, density, patient, findings."""
    named = {p.name.lower(): p for p in files}
    path = next((named[n] for n in _TABLES if n in named), None)
    if path is None:
        raise FileNotFoundError(f"{root} lacks INbreast.xls or INbreast.csv, which hold the BI-RADS.")
    rows = read_csv(path, ";") if path.suffix.lower() == ".csv" else read_excel(path)
    rows.columns = [" ".join(str(c).split()).lower() for c in rows.columns]
    lacking = [c for c in ("file name", "bi-rads", "laterality", "view", "acr") if c not in rows.columns]
    if lacking:
        raise ValueError(
            f"{path} has no column {', '.join(map(repr, lacking))}; it has {', '.join(rows.columns)}. "
            f"{suggest(lacking[0], list(rows.columns))}"
        )
    rows = rows[rows["file name"].str.fullmatch(r"\d{8}")].set_index("file name")
    grades = rows["bi-rads"].str.extract(r"^\s*([1-6])", expand=False)
    if grades.isna().any():
        raise ValueError(f"{path}: image {grades.index[grades.isna()][0]} has no BI-RADS from 1 to 6.")
    marks = [c for c in ("mass", "micros", "distortion", "asymmetry") if c in rows.columns]
    found = [", ".join(c for c in marks if str(row[c]).strip()) for _, row in rows.iterrows()]
    patient = rows.get("patient id", pd.Series("", rows.index)).replace("removed", "")
    table = pd.DataFrame(
        {
            "birads": grades.astype(int),
            "bi-rads": rows["bi-rads"].str.strip(),
            "side": rows["laterality"].str.strip(),
            "view": rows["view"].str.strip(),
            "density": rows["acr"].str.strip(),
            "patient": patient,
            "findings": found,
            "findings_stated": bool(marks),
        }
    )
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise ValueError(f"{path} has the image {twice[0]} in more than one row; keep one.")
    return table


# Contours -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contour:
    """A named outline; ``points`` are (x, y) in pixels of the picture, y downwards."""

    name: str
    points: tuple[tuple[float, float], ...]


def read_contours(path: Path) -> list[Contour]:
    """Contours of a plist file in either of INbreast's layouts: ``Images/ROIs/Point_px`` or ``ROIPoints``.

    Raises FileError for a file that is not a plist, has none of the layouts, or a point that is not two numbers.
    """
    check_regular(path, _XML_BYTES)
    with naming(path, "it is not a plist of contours"), Path(path).open("rb") as file:
        root = plistlib.load(file, fmt=plistlib.FMT_XML)  # a binary one can hold one array a billion times
        if isinstance(root, dict) and isinstance(root.get("ROIPoints"), list):
            return [_contour(root, "ROIPoints")]
        images = root.get("Images") if isinstance(root, dict) else None
        if not isinstance(images, list) or not all(isinstance(i, dict) for i in images):
            raise ValueError("it holds neither Images nor ROIPoints: no contours of INbreast")
        regions = [roi for image in images for roi in image.get("ROIs") or []]
        return [_contour(roi, "Point_px") for roi in regions]


def _contour(region: dict, key: str) -> Contour:
    name, texts = region.get("Name", ""), region.get(key) or []
    if not isinstance(name, str) or not isinstance(texts, list):
        raise ValueError(f"the name or the points ({key}) of a region cannot be read")
    return Contour(name.strip(), tuple(map(_point, texts)))


def _point(text: object) -> tuple[float, float]:
    try:
        if not isinstance(text, str):
            raise ValueError(text)
        x, y = map(float, text.strip(" (){}[]").split(","))
    except ValueError:
        raise ValueError(f"the point {str(text)[:60]!r} is not (x, y)") from None
    if not (np.isfinite(x) and np.isfinite(y)):
        raise ValueError(f"the point {text!r} is not finite")
    return x, y


def draw_contours(contours: Sequence[Contour], shape: tuple[int, int]) -> DrawnMask:
    """The inside of the outlines on a picture of ``shape`` (height, width); a dot for one or two points."""
    mask, clipped = np.zeros(shape, bool), 0
    for contour in contours:
        points, cut = check_outline(np.array(contour.points, float).reshape(-1, 2), shape)
        clipped += cut
        if len(points) >= 3 and np.ptp(points, axis=0).max() > _POINT_RADIUS:
            fill_outline(mask, points)
        else:
            for x, y in points:
                mask[disk((y, x), _POINT_RADIUS, shape=shape)] = True
    return DrawnMask(mask, clipped)


@dataclass(frozen=True)
class ContourFile:
    """The contours of an XML file as evidence; of the given names, or all."""

    path: Path
    names: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def draw(self, shape: tuple[int, int]) -> DrawnMask:
        chosen = [c for c in read_contours(self.path) if not self.names or c.name in self.names]
        try:
            return draw_contours(chosen, shape)
        except ValueError as error:
            raise ValueError(
                f"{self.path.name}: {error}; contours are in pixels of the DICOM file: give that, or an export of its "
                "size"
            ) from error
