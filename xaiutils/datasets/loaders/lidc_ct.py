"""LIDC-IDRI, or any tree of chest CT in DICOM: one slice a patient, with or without contrast medium."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from xaiutils.datasets.entry import DatasetEntry
from xaiutils.datasets.inventory import LEFT_OUT, TABLE
from xaiutils.datasets.listing import Listing, Record
from xaiutils.datasets.phantom.ct import CLASS_NAMES, WINDOW
from xaiutils.datasets.reading.dicom import CTSlice, is_dicom, read_ct_slice
from xaiutils.datasets.reading.evidence import MaskFile
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation, read_picture_file
from xaiutils.datasets.reading.tables import check_columns, read_csv
from xaiutils.datasets.reading.tree import walk_files
from xaiutils.file_limits import explain
from xaiutils.progress import progress
from xaiutils.text import counted

_WORDS = {"0": 0, "no": 0, "false": 0, "1": 1, "yes": 1, "true": 1}
_Series = Sequence[tuple[Path, CTSlice]]


def load(
    data_dir: Path, preparation: Preparation, *, place: float = 0.5, contrast_table: str = "", masks: str = ""
) -> Listing:
    """Of each patient (PatientID) the CT series of most slices, and of it the slice at ``place`` of the way from its
    lowest to its highest one: 0.5, the middle of a scanned chest, lies within the lungs.

    With contrast are series whose ContrastBolusAgent (0018,0010) is filled; an empty or absent one counts as without,
    as in the poster, though it may only not have been written down. ``contrast_table``, a CSV file below ``data_dir``
    with the columns PatientID and contrast (0, 1, no, yes), says it instead; patients that it lacks are left out.
    ``masks`` is a folder below ``data_dir`` of masks ``PATIENT.png``, of the size of that slice.

    Raises FileNotFoundError where there is no CT slice, ValueError for a wrong option or cell, slices of one series
    that contradict each other or have no position, or patients of one class alone.
    """
    if isinstance(place, bool) or not isinstance(place, int | float) or not 0 <= place <= 1:
        raise ValueError(f"place={place!r}; expected a number from 0 (the lowest slice) to 1 (the highest).")
    files = list(walk_files(data_dir))
    patients, skipped = _series_of_patients(files)
    if not patients:
        raise FileNotFoundError(
            f"{data_dir} holds no CT slice in DICOM; LIDC-IDRI is at https://www.cancerimagingarchive.net (CC BY 3.0)."
        )
    kept: dict[Path, str] = {}
    stated: Mapping[str, int] | None = None
    if contrast_table:
        kept[path := data_dir / contrast_table] = TABLE
        stated = _read_table(path)
    records = []
    for patient, several in sorted(patients.items()):
        series = max(several.items(), key=lambda item: (len(item[1]), item[0]))[1]
        if stated is not None and patient not in stated:
            skipped.append((patient, f"{contrast_table} has no row of this patient"))
            continue
        label = _label(patient, series) if stated is None else stated[patient]
        path = _at(patient, series, place)
        mask = data_dir / masks / f"{patient}.png"
        evidence = (MaskFile(mask, ()),) if masks and mask.is_file() else ()
        facts = {"slices": len(series)}
        records.append(Record(patient, label, PictureFile(path, evidence, preparation), None, patient, facts))
    counts = Counter(r.label for r in records)
    if len(counts) < 2:
        held = ", ".join(f"{CLASS_NAMES[k]}: {counts[k]}" for k in (0, 1))
        raise ValueError(
            f"{data_dir}: patients of one class alone ({held}); a table of them (contrast_table) may help."
        )
    slices = {p: LEFT_OUT for several in patients.values() for series in several.values() for p, _ in series}
    source = contrast_table or "ContrastBolusAgent (0018,0010) of the headers; empty or absent counts as without"
    notes = [
        f"{counted(len(records), 'patient', 'patients')}, one slice each, at {place:g} of the series from below.",
        f"With contrast or without: by {source}.",
    ]
    return Listing(
        records, CLASS_NAMES, read_picture_file, str(data_dir), False, None, skipped, notes, data_dir, slices | kept
    )


LIDC_CT = DatasetEntry(
    "lidc_ct",
    "Chest CT with and without contrast (LIDC-IDRI)",
    load,
    licence="CC BY 3.0 (LIDC-IDRI)",
    citation="Armato et al. 2011, Medical Physics 38; the task: Marchadour et al. 2022",
    access="https://www.cancerimagingarchive.net/collection/lidc-idri/: give the folder of the DICOM tree",
    evidence="your masks of the blood, where there are any",
    caution="An absent ContrastBolusAgent need not mean that none was given.",
    preparation=Preparation(keep_aspect=True, window=WINDOW),
    preparation_options=("keep_aspect", "window"),
)


def _series_of_patients(
    files: Sequence[Path],
) -> tuple[dict[str, dict[str, list[tuple[Path, CTSlice]]]], list[tuple[str, str]]]:
    """Slices by patient and series, and the files that cannot be read or name no patient, with the reason."""
    found: dict[str, dict[str, list[tuple[Path, CTSlice]]]] = defaultdict(lambda: defaultdict(list))
    skipped = []
    for path in progress([p for p in files if is_dicom(p)], title="reading headers"):
        try:
            header = read_ct_slice(path)
        except (ValueError, OSError) as error:
            skipped.append((str(path), str(getattr(error, "reason", "") or explain(error))))
            continue
        if header is None:
            continue
        if header.patient:
            found[header.patient][header.series].append((path, header))
        else:
            skipped.append((str(path), "its header names no patient (PatientID)"))
    return found, skipped


def _label(patient: str, series: _Series) -> int:
    agents = {bool(header.agent) for _, header in series}
    if len(agents) > 1:
        raise ValueError(f"{patient}: some slices of a series name a ContrastBolusAgent and others none; give a table.")
    return int(agents.pop())


def _at(patient: str, series: _Series, place: float) -> Path:
    """The slice at ``place``, from the lowest (0) to the highest (1)."""
    lost = [path for path, header in series if header.height is None]
    if lost and len(series) > 1:
        raise ValueError(f"{patient}: {lost[0].name} has no ImagePositionPatient, so that its slices have no order.")
    order = sorted(series, key=lambda one: (one[1].height or 0.0, one[0]))
    return order[round(place * (len(order) - 1))][0]


def _read_table(path: Path) -> dict[str, int]:
    table = read_csv(path)
    check_columns(path, table, ("PatientID", "contrast"))
    found: dict[str, int] = {}
    for patient, text in zip(table["PatientID"], table["contrast"], strict=True):
        word = str(text).strip().lower()
        if word not in _WORDS:
            raise ValueError(f"{path}: contrast of {patient} is {text!r}; expected one of {', '.join(_WORDS)}.")
        if found.setdefault(str(patient).strip(), _WORDS[word]) != _WORDS[word]:
            raise ValueError(f"{path} says both with and without contrast of {patient}.")
    return found
