"""INbreast (Moreira et al. 2012): digital mammograms as DICOM, a table of BI-RADS, and contours drawn by experts."""

import plistlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from skimage.draw import disk
from sklearn.model_selection import train_test_split

from xaiutils.datasets.inventory import TABLE
from xaiutils.datasets.listing import Listing, Record, unknown_patient
from xaiutils.datasets.loaders.table import read_csv, read_excel
from xaiutils.datasets.reading import dicom
from xaiutils.datasets.reading.evidence import Drawn, NoFinding, check_outline, fill_outline
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation, read_picture_file
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
    seed: int,
    *,
    task: str = "binary",
    malignant_from: int = 4,
    findings: Sequence[str] = (),
    region: str = "breast",
    margin: float = 0.25,
    keep_aspect: bool = True,
    align: bool = True,
    percentiles: Sequence[float] = (0.5, 99.5),
    black_background: bool = False,
) -> Listing:
    """Patients are parted by seed, 90 to 25 as in the thesis (in that proportion where some are missing); val is a
    tenth of train.

    ``task``: binary, or birads with six classes (4a, 4b and 4c are one). ``malignant_from``: the lowest BI-RADS that
    counts as malignant; 4 is the thesis' threshold and gives 100 of 410 images. BI-RADS is a radiologist's suspicion,
    not a biopsy. ``findings``: the contours that are evidence, such as [Mass, Cluster]; empty: all. The other options
    are those of `xaiutils.datasets.loaders.cbis_ddsm.load`; region roi crops to all findings of an image together, and
    leaves out images without any.
    """
    check_choice("task", task, CLASSES)
    check_integer("malignant_from", malignant_from, 2, 6, ", a BI-RADS")
    for name in findings:
        check_choice("findings", name, FINDINGS)
    how = Preparation(keep_aspect, 16, region, margin, align, percentiles, black_background, mammogram=True)
    root = Path(data_dir)
    files = list(walk_files(root))
    pictures = _pictures(files)
    if not pictures:
        raise FileNotFoundError(
            f"{root} holds no INbreast pictures (names like 20586908_6c613a14b80a8591_MG_R_CC_ANON.dcm). INbreast is "
            "given on request by its authors (Breast Research Group, INESC Porto; Moreira et al. 2012, Academic "
            "Radiology 19): put AllDICOMs, AllXML and INbreast.xls or INbreast.csv there."
        )
    table = _read_table(files, root)
    contours = {m[1]: p for p in files if _is_contours(p, root) and (m := _FILE.match(p.name))}
    records, skipped, unmarked = [], [], 0
    for number, path in pictures.items():
        if number not in table.index:
            skipped.append((str(path), "not in the table"))
            continue
        row = table.loc[number]
        if region == "roi" and not _has_finding(contours.get(number), findings):
            unmarked += 1
            continue
        label = row["birads"] - 1 if task == "birads" else int(row["birads"] >= malignant_from)
        evidence: tuple = ()  # not known
        if number in contours:
            evidence = (ContourFile(contours[number], tuple(findings)),)
        elif contours and not row["findings"] and (row["birads"] == 1 or row["findings_stated"]):
            evidence = (NoFinding(),)
        patient = (_FILE.match(path.name)[2] or row["patient"]).lower() or None
        records.append(
            Record(
                id=number,
                label=int(label),
                source=PictureFile(path, evidence, how),
                patient=patient,
                metadata={k: row[k] for k in ("side", "view", "density", "bi-rads")} | {"findings": row["findings"]},
            )
        )
    if not records:
        raise ValueError(f"no picture of {root} is in its table, or none has the contours that region='roi' needs.")
    absent = [n for n in table.index if n not in pictures]
    skipped += [(n, "no picture of it") for n in absent]
    notes = [f"{len(absent)} of {len(table)} images in the table have no picture below {root}."] if absent else []
    if unmarked:
        notes.append(f"{unmarked} images have no contour to crop to (region='roi') and are left out.")
    return Listing(
        _part(records, seed),
        CLASSES[task],
        read_picture_file,
        str(root),
        skipped=skipped,
        notes=notes,
        root=root,
        files={p: TABLE for p in files if p.name.lower() in _TABLES},
    )


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


def _part(records: list[Record], seed: int) -> list[Record]:
    """State train and test by patient, stratified by each patient's highest class (where each has two patients)."""
    worst: dict[str, int] = {}
    for r in records:
        worst[_who(r)] = max(worst.get(_who(r), 0), r.label)
    patients = sorted(worst)  # not as the folders happen to be walked
    labels = [worst[p] for p in patients]
    n_test = max(1, round(len(patients) * _TEST_PATIENTS / _PATIENTS))
    if len(patients) - n_test < 2:
        raise ValueError(f"{len(patients)} patients are too few to be parted into train and test.")
    counts = np.bincount(labels)
    stratify = labels if counts[counts > 0].min() >= 2 and n_test >= np.count_nonzero(counts) else None
    _, test = train_test_split(patients, test_size=n_test, random_state=seed, stratify=stratify)
    chosen = set(test)
    return [replace(r, split="test" if _who(r) in chosen else "train") for r in records]


def _who(record: Record) -> str:
    return record.patient or unknown_patient(record.id)


# The table ----------------------------------------------------------------------------------------------------------


def _read_table(files: list[Path], root: Path) -> pd.DataFrame:
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

    Raises FileError for a file that is no plist, has none of the layouts, or a point that is not two numbers.
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
        raise ValueError(f"the name or the points ({key}) of a region are none")
    return Contour(name.strip(), tuple(map(_point, texts)))


def _point(text: object) -> tuple[float, float]:
    try:
        x, y = map(float, text.strip(" (){}[]").split(",")) if isinstance(text, str) else ()
    except ValueError:
        raise ValueError(f"the point {str(text)[:60]!r} is not (x, y)") from None
    if not (np.isfinite(x) and np.isfinite(y)):
        raise ValueError(f"the point {text!r} is not finite")
    return x, y


def draw_contours(contours: Sequence[Contour], shape: tuple[int, int]) -> np.ndarray:
    """Bool mask ``shape`` (height, width): inside of the outlines; a dot for one or two points."""
    return _draw(contours, shape).mask


def _draw(contours: Sequence[Contour], shape: tuple[int, int]) -> Drawn:
    mask, clipped = np.zeros(shape, bool), 0
    for contour in contours:
        points, cut = check_outline(np.array(contour.points, float).reshape(-1, 2), shape)
        clipped += cut
        if len(points) >= 3 and np.ptp(points, axis=0).max() > _POINT_RADIUS:
            fill_outline(mask, points)
        else:
            for x, y in points:
                mask[disk((y, x), _POINT_RADIUS, shape=shape)] = True
    return Drawn(mask, clipped)


@dataclass(frozen=True)
class ContourFile:
    """The contours of an XML file as evidence; of the given names, or all."""

    path: Path
    names: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def draw(self, shape: tuple[int, int]) -> Drawn:
        chosen = [c for c in read_contours(self.path) if not self.names or c.name in self.names]
        try:
            return _draw(chosen, shape)
        except ValueError as error:
            raise ValueError(
                f"{self.path.name}: {error}; contours are in pixels of the DICOM file: give that, or an export of its "
                "size"
            ) from error
