"""Images listed in a CSV file that names file, label, and optionally split, patient, mask or boxes."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from xaiutils.class_names import check_class_names
from xaiutils.datasets import inventory
from xaiutils.datasets.entry import entry_of_own_images
from xaiutils.datasets.listing import Listing, Record, unknown_patient
from xaiutils.datasets.loaders.folder import check_mask_values, find_masks, without_findings
from xaiutils.datasets.patients import (
    fill_unknown,
    folder_metadata,
    name_patients,
    suggest_patient_folders,
    with_headers,
)
from xaiutils.datasets.reading.evidence import Boxes, Evidence, MaskFile
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation, read_picture_file
from xaiutils.datasets.reading.tables import read_csv, read_excel
from xaiutils.datasets.reading.tree import find_file
from xaiutils.datasets.splits import SPLITS, split_called
from xaiutils.file_limits import FileError
from xaiutils.registry import suggest

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+|nan|inf)", re.IGNORECASE)


def load(
    data_dir: Path,
    preparation: Preparation,
    *,
    table: str = "index.csv",
    image_column: str = "image",
    label_column: str = "label",
    split_column: str = "",
    patient_column: str = "",
    patient_from: int | str = "",
    label_separator: str = "",
    one_vs_rest: str = "",
    mask_column: str = "",
    boxes_column: str = "",
    image_pattern: str = "{image}",
    mask_pattern: str = "",
    mask_values: tuple[int, ...] | list[int] = (),
    classes: tuple[str, ...] | list[str] = (),
) -> Listing:
    """``data_dir/table`` with one row for each image; other paths are relative to ``data_dir``.

    ``preparation``: how pictures are laid out. ``image_column`` and ``label_column`` name the columns of the
    picture and its class, ``split_column`` and ``patient_column`` those of train, val or test and of the patient,
    where there are any. ``image_pattern`` and ``mask_pattern`` build paths from columns, such as
    ``images/{image}.jpg`` and ``trimaps/{image}.png``; ``mask_column`` holds mask paths (several separated by
    ``;``), ``mask_values`` the grey values that are evidence (empty: all but 0), ``boxes_column`` boxes as
    ``x,y,width,height`` in pixels of the file (several in a row). ``patient_from`` finds the patient in the
    picture's path, as for folders (1: the first folder). ``label_separator`` splits a cell into several labels ("|"
    in "Atelectasis|Effusion"); images with several of the classes are left out and counted, since one class is
    learnt per image; ``one_vs_rest`` names a label, and makes of all images those with it and those without.
    ``classes`` keeps and orders some classes. Rows of the same file are merged when their labels agree, else
    ValueError; rows without a label are named and skipped; a blank patient is unknown. The table may be an Excel
    file. Paths may be written on another machine (``\\`` for ``/``, other case, absolute: see
    `xaiutils.datasets.reading.tree.find_file`). Columns that are not named are kept as the images' metadata.
    """
    path = find_file(data_dir, table)
    columns = _Columns(image_column, label_column, split_column, patient_column, mask_column, boxes_column)
    masks = _Masks(mask_pattern, check_mask_values(mask_values))
    rows = columns.check(read_excel(path) if path.suffix.lower() in (".xls", ".xlsx") else read_csv(path), path)
    listed, unlisted = _with_image_and_label(rows, columns, table)
    files = _rows_by_file(listed, columns, image_pattern, data_dir)
    labels = {file: _labels(group, label_column, label_separator, path, file) for file, group in files.items()}
    names, chosen, notes = _choose(labels, check_class_names(classes), one_vs_rest, label_column, path)
    for file in chosen:
        _refuse_contradictions(files[file], (split_column, patient_column), path, file)
    records = [
        _record(files[file], file, label, names[label], columns, masks, data_dir, path)
        for file, label in chosen.items()
    ]
    if listed[image_column].nunique() < len(chosen):  # one name in several folders: only the path distinguishes them
        records = [replace(r, id=_below(r.source.path, data_dir)) for r in records]
    records = [replace(r, source=replace(r.source, preparation=preparation)) for r in records]
    if mask_pattern and not any(r.source.evidence for r in records):
        warnings.warn(f"mask_pattern={mask_pattern!r} finds no mask of any image of {path}.", stacklevel=4)
    records, of_headers = with_headers(name_patients(records, patient_from))
    records, of_healthy = without_findings(fill_unknown(records), names)
    advice = suggest_patient_folders(records, patient_from != "" or patient_column != "")
    advice += _forgotten(rows.columns, split_column, patient_column or patient_from)
    for sentence in advice:
        warnings.warn(f"{path}: {sentence}", stacklevel=4)
    return Listing(
        records,
        tuple(names),
        read_picture_file,
        str(path),
        skipped=unlisted,
        notes=[*notes, *of_headers, *of_healthy, *advice],
        root=data_dir,
        files={f: inventory.NOT_CHOSEN for f in files if f not in chosen} | {path: inventory.TABLE},
    )


TABLE = entry_of_own_images("table", "Your images listed in a table", load)


@dataclass(frozen=True)
class _Columns:
    """The names of the columns that mean something; empty where there is none."""

    image: str
    label: str
    split: str
    patient: str
    mask: str
    boxes: str

    def check(self, rows: pd.DataFrame, path: Path) -> pd.DataFrame:
        """``rows``; ValueError where one of the named columns is not there."""
        for name, column in vars(self).items():
            if column and column not in rows.columns:
                raise ValueError(
                    f"{path} has no column {column!r} ({name}_column); {suggest(column, list(rows.columns))}"
                )
        return rows


@dataclass(frozen=True)
class _Masks:
    """Where masks are, beside those that a column names, and the grey values that are evidence."""

    pattern: str
    values: tuple[int, ...]


def _with_image_and_label(
    rows: pd.DataFrame, columns: _Columns, table: str
) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """The rows that name both, labels stripped, and why the others are left out."""
    rows, unlisted = rows.assign(**{columns.label: rows[columns.label].str.strip()}), []
    for column in (columns.label, columns.image):
        blank = rows[column].str.strip() == ""
        unlisted += [(str(image) or "a row", f"no {column!r} in {table}") for image in rows[columns.image][blank]]
        rows = rows[~blank]
    return rows, unlisted


def _rows_by_file(rows: pd.DataFrame, columns: _Columns, pattern: str, root: Path) -> dict[Path, list[dict[str, str]]]:
    """Rows by the picture that they name; each with its path as it is written, under ``_path``."""
    files: dict[Path, list[dict[str, str]]] = {}
    for row in rows.to_dict("records"):
        row["_path"] = _fill(pattern, row, name="image_pattern", image=row[columns.image].strip())
        files.setdefault(find_file(root, row["_path"]), []).append(row)
    return files


def _record(
    group: list[dict[str, str]],
    file: Path,
    label: int,
    class_name: str,
    columns: _Columns,
    masks: _Masks,
    root: Path,
    table: Path,
) -> Record:
    """The record of one picture from the rows that name it."""
    first = group[0]
    image = first[columns.image].strip()
    named = [find_file(root, m) for row in group for m in row.get(columns.mask, "").split(";") if m.strip()]
    if masks.pattern:
        pattern = _fill(masks.pattern, first, image=image, stem=file.stem, name="mask_pattern").replace("\\", "/")
        named += find_masks(root / "image", pattern)
    boxes = tuple(box for row in group for box in _boxes(row.get(columns.boxes, ""), table, image))
    evidence: list[Evidence] = [MaskFile(mask, masks.values) for mask in named]
    if boxes:
        evidence.append(Boxes(boxes))
    place = folder_metadata(Path(_below(file, root)).parts[:-1], class_name) if file.is_relative_to(root) else {}
    return Record(
        id=image,
        label=label,
        source=PictureFile(file, tuple(evidence)),
        split=_split_name(first[columns.split], table) if columns.split else None,
        patient=(first[columns.patient].strip() or unknown_patient(image)) if columns.patient else None,
        metadata={**place, **{k: v for k, v in first.items() if k not in (*vars(columns).values(), "_path")}},
    )


def _below(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def _forgotten(columns: Sequence[str], split_column: str, patient: int | str) -> list[str]:
    """Sentences on columns that are called like splits or patients where the options name none."""
    said = []
    for option, given, words in (
        ("split_column", split_column, r"(data_?)?(split|set|partition|subset|fold)"),
        ("patient_column", patient, r"(patient|subject|person)s?([ _-]?(id|no|nr|number|name))?"),
    ):
        found = [] if given else [c for c in columns if re.fullmatch(words, c, re.IGNORECASE)]
        if found:
            said.append(f"The column {found[0]!r} is not used as such; {option}={found[0]!r} says what it is.")
    return said


def _labels(group: list[dict[str, str]], column: str, separator: str, path: Path, file: Path) -> list[str]:
    """The labels of one file, in the rows' order; several only where a separator was given."""
    written = sorted({str(Path(*re.split(r"[\\/]+", row["_path"].strip()))).casefold() for row in group})
    if len(written) > 1:
        raise ValueError(f"{path}: {written[:3]} are one file, {str(file)!r}; correct the paths, or set image_pattern.")
    if separator:
        found = (part.strip() for row in group for part in row[column].split(separator))
        return list(dict.fromkeys(part for part in found if part))
    _refuse_contradictions(group, (column,), path, file)
    return [group[0][column]]


def _refuse_contradictions(group: list[dict[str, str]], columns: Sequence[str], path: Path, file: Path) -> None:
    for column in filter(None, columns):
        values = sorted({row[column].strip() for row in group})
        if len(values) > 1:
            raise ValueError(f"{path}: image {str(file)!r} has several {column!r}: {values}; keep one row, or one.")


def _choose(
    labels: dict[Path, list[str]], classes: list[str], one_vs_rest: str, column: str, path: Path
) -> tuple[list[str], dict[Path, int], list[str]]:
    """Class names, the class of each file that has exactly one, and notes on those that have several."""
    found = sorted({label for of_file in labels.values() for label in of_file})
    if one_vs_rest:
        if one_vs_rest not in found:
            raise ValueError(f"column {column!r} of {path} has no class {one_vs_rest!r}; {suggest(one_vs_rest, found)}")
        if classes:
            raise ValueError("one_vs_rest makes two classes of all labels: leave classes out.")
        chosen = {file: int(one_vs_rest in of_file) for file, of_file in labels.items()}
        return [f"not {one_vs_rest}", one_vs_rest], chosen, [f"Images without {one_vs_rest!r} are 'not {one_vs_rest}'."]
    names = classes or found
    for name in names:
        if name not in found:
            raise ValueError(f"column {column!r} of {path} has no class {name!r}; {suggest(name, found)}")
    if len(names) < 2:
        raise ValueError(f"column {column!r} of {path} has one value ({names}); a classifier needs at least 2.")
    own = {file: [label for label in of_file if label in names] for file, of_file in labels.items()}
    several = [file for file, of_file in own.items() if len(of_file) > 1]
    notes = []
    if several:
        notes.append(
            f"{len(several)} of {len(own)} images have several of the classes, such as {several[0].name} "
            f"({', '.join(own[several[0]])}): a classifier of one class per image cannot be taught them, and they are "
            "left out; one_vs_rest=LABEL keeps all images, as with and without that label."
        )
        warnings.warn(notes[0], stacklevel=5)
    return names, {file: names.index(of_file[0]) for file, of_file in own.items() if len(of_file) == 1}, notes


def _fill(pattern: str, row: dict[str, str], name: str, **extra: str) -> str:
    try:
        return pattern.format(**{**row, **extra})
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{name}={pattern!r} is not valid ({error}); it may use the columns {', '.join(map(str, row))}."
        ) from error


def _split_name(value: str, path: Path) -> str:
    name = split_called(value)
    if name is None:
        raise ValueError(f"{path}: split {value!r} is unknown; use {', '.join(SPLITS)}.")
    return name


def _boxes(cell: str, path: Path, image: str) -> list[tuple[float, ...]]:
    numbers = [float(n) for n in _NUMBER.findall(cell)]
    if len(numbers) % 4 or re.search(r"[^\W_]", _NUMBER.sub(" ", cell)):
        raise FileError(path, f"its boxes {cell[:80]!r} of {image!r} are not groups of x, y, width, height")
    return [tuple(numbers[i : i + 4]) for i in range(0, len(numbers), 4)]
