"""Images listed in a CSV file that names file, label, and optionally split, patient, mask or boxes."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from xaiutils.class_names import check_class_names
from xaiutils.datasets import inventory
from xaiutils.datasets.entry import entry_of_own_images
from xaiutils.datasets.listing import Listing, Record, unknown_patient
from xaiutils.datasets.loaders.folder import check_mask_values, find_masks, without_findings
from xaiutils.datasets.loaders.table_targets import Asked, Target, inputs_of, refuse_contradictions, values_of
from xaiutils.datasets.patients import (
    fill_unknown,
    folder_metadata,
    name_patients,
    suggest_patient_folders,
    with_headers,
)
from xaiutils.datasets.reading.evidence import Boxes, Evidence, MaskFile, NoFinding
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
    multi_label: bool = False,
    no_finding: str = "No Finding",
    label_columns: tuple[str, ...] | list[str] = (),
    uncertain: str = "ignore",
    blank: str = "ignore",
    value_column: str = "",
    input_columns: tuple[str, ...] | list[str] | dict[str, list[str]] = (),
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
    ``multi_label`` keeps all labels of each image; ``no_finding`` is what a cell without any says. ``label_columns``
    are columns of 1, 0, -1 or u, in place of ``label_column``, which make several labels too: ``uncertain`` (-1, u) is
    taken as "ignore" (unknown), "zeros" or "ones", ``blank`` as "ignore" or "zeros", and counted. Of several labels,
    ``{label}`` in ``mask_pattern`` names each one's mask. ``value_column`` holds a quantity to be predicted; without a
    ``label_column`` it is all. ``input_columns`` are what a model takes beside the image, each a number or category, or
    ``{input: [columns]}``; rows without it are refused.
    ``classes`` keeps and orders some classes. Rows of the same file are merged when their labels agree, else
    ValueError; rows without a label are named and skipped; a blank patient is unknown. The table may be an Excel
    file. Paths may be written on another machine (``\\`` for ``/``, other case, absolute: see
    `xaiutils.datasets.reading.tree.find_file`). Columns that are not named are kept as the images' metadata.
    """
    path = find_file(data_dir, table)
    rows = read_excel(path) if path.suffix.lower() in (".xls", ".xlsx") else read_csv(path)
    several = check_class_names(label_columns, "label_columns")
    if several or (value_column and label_column == "label" and label_column not in rows.columns):
        label_column = ""
    columns = _Columns(
        image_column, label_column, split_column, patient_column, mask_column, boxes_column, value_column
    )
    masks = _Masks(mask_pattern, check_mask_values(mask_values), preparation)
    further = _flat(input_columns)
    listed, unlisted = _with_needed_cells(columns.check(rows, path, [*several, *further]), columns, table)
    files = _rows_by_file(listed, columns, image_pattern, data_dir)
    asked = Asked(several, label_separator, multi_label, no_finding, one_vs_rest, check_class_names(classes))
    names, targets, notes = asked.read(files, label_column, value_column, (uncertain, blank), path)
    for file in targets:
        refuse_contradictions(files[file], (*columns.of_image, *several, *further), path, file)
    records = _records(files, targets, names, columns, masks, data_dir, path)
    records = _with_numbers(records, files, value_column, input_columns, several, path, notes)
    people = _People(split_column, patient_column, patient_from)
    records, advice = people.named(records, [] if asked.several else names, list(rows.columns), notes)
    for sentence in advice:
        warnings.warn(f"{path}: {sentence}", stacklevel=4)
    return Listing(
        records,
        tuple(names),
        read_picture_file,
        str(path),
        skipped=unlisted,
        notes=[*notes, *advice],
        root=data_dir,
        files={f: inventory.NOT_CHOSEN for f in files if f not in targets} | {path: inventory.TABLE},
        value_name=value_column,
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
    value: str

    @property
    def of_image(self) -> tuple[str, ...]:
        """Those in which all rows of an image must agree, whatever the labels are."""
        return self.split, self.patient, self.value

    def check(self, rows: pd.DataFrame, path: Path, further: Sequence[str]) -> pd.DataFrame:
        """``rows``; ValueError where one of the named columns, or of ``further``, is not there."""
        named = {column: f" ({name}_column)" for name, column in vars(self).items() if column}
        for column, option in (named | dict.fromkeys(further, "")).items():
            if column not in rows.columns:
                raise ValueError(f"{path} has no column {column!r}{option}; {suggest(column, list(rows.columns))}")
        return rows


@dataclass(frozen=True)
class _People:
    """Options that say whose an image is, and of which split."""

    split_column: str
    patient_column: str
    patient_from: int | str

    def named(
        self, records: list[Record], classes: list[str], columns: list[str], notes: list[str]
    ) -> tuple[list[Record], list[str]]:
        """The records with their patients, and of ``classes`` called healthy without evidence; and advice where the
        options name no patients. ``notes`` get what was done."""
        records, of_headers = with_headers(name_patients(records, self.patient_from))
        records, of_healthy = without_findings(fill_unknown(records), classes)
        notes += [*of_headers, *of_healthy]
        known = self.patient_column or self.patient_from
        advice = suggest_patient_folders(records, known != "")
        return records, advice + _forgotten(columns, self.split_column, known)


@dataclass(frozen=True)
class _Masks:
    """Where masks are, beside those that a column names, the grey values that are evidence, and how pictures are laid
    out."""

    pattern: str
    values: tuple[int, ...]
    preparation: Preparation


def _flat(columns: Sequence[str] | Mapping[str, Sequence[str]]) -> list[str]:
    """All columns of inputs."""
    if isinstance(columns, str):
        raise TypeError(f"input_columns={columns!r}; expected a list of columns, or {{input: [columns]}}.")
    parts = columns.values() if isinstance(columns, Mapping) else [columns]
    return [column for part in parts for column in ([part] if isinstance(part, str) else part)]


def _with_needed_cells(rows: pd.DataFrame, columns: _Columns, table: str) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """The rows that name picture, label and value where there are such columns, and why the others are left out."""
    unlisted: list[tuple[str, str]] = []
    if columns.label:
        rows = rows.assign(**{columns.label: rows[columns.label].str.strip()})
    for column in filter(None, (columns.label, columns.value, columns.image)):
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


def _records(
    files: dict[Path, list[dict[str, str]]],
    targets: dict[Path, Target],
    names: list[str],
    columns: _Columns,
    masks: _Masks,
    root: Path,
    table: Path,
) -> list[Record]:
    """The records of all pictures of which something is to be learnt."""
    found = [_record(files[f], f, target, names, columns, masks, root, table) for f, target in targets.items()]
    if len({r.id for r in found}) < len(found):  # one name in several folders: only the path distinguishes them
        found = [replace(r, id=_below(r.source.path, root)) for r in found]
    if masks.pattern and not any(r.source.all_evidence for r in found):
        warnings.warn(f"mask_pattern={masks.pattern!r} finds no mask of any image of {table}.", stacklevel=5)
    return found


def _record(
    group: list[dict[str, str]],
    file: Path,
    target: Target,
    names: list[str],
    columns: _Columns,
    masks: _Masks,
    root: Path,
    table: Path,
) -> Record:
    """The record of one picture from the rows that name it."""
    first = group[0]
    image = first[columns.image].strip()
    by_label: tuple[tuple[Evidence, ...], ...] = ()
    named = [find_file(root, m) for row in group for m in row.get(columns.mask, "").split(";") if m.strip()]
    if target.labels is not None and "{label}" in masks.pattern:
        by_label = tuple(
            _label_evidence(
                y,
                masks,
                _fill(masks.pattern, first, image=image, stem=file.stem, label=name, name="mask_pattern"),
                root,
            )
            for name, y in zip(names, target.labels, strict=True)
        )
    elif masks.pattern:
        pattern = _fill(masks.pattern, first, image=image, stem=file.stem, name="mask_pattern").replace("\\", "/")
        named += find_masks(root / "image", pattern)
    boxes = tuple(box for row in group for box in _boxes(row.get(columns.boxes, ""), table, image))
    evidence: list[Evidence] = [MaskFile(mask, masks.values) for mask in named]
    if boxes:
        evidence.append(Boxes(boxes))
    name = names[target.label] if target.labels is None else ""
    place = folder_metadata(Path(_below(file, root)).parts[:-1], name) if file.is_relative_to(root) else {}
    return Record(
        id=image,
        label=target.label,
        labels=target.labels,
        source=PictureFile(file, tuple(evidence), masks.preparation, by_label),
        split=_split_name(first[columns.split], table) if columns.split else None,
        patient=(first[columns.patient].strip() or unknown_patient(image)) if columns.patient else None,
        metadata={**place, **{k: v for k, v in first.items() if k not in (*vars(columns).values(), "_path")}},
    )


def _with_numbers(
    records: list[Record],
    files: dict[Path, list[dict[str, str]]],
    value_column: str,
    input_columns: Sequence[str] | Mapping[str, Sequence[str]],
    label_columns: list[str],
    path: Path,
    notes: list[str],
) -> list[Record]:
    """The records with their values and inputs, without their labels among the metadata; ``notes`` get those on
    categories."""
    chosen = {r.source.path: files[r.source.path] for r in records}
    values = values_of(chosen, value_column, path) if value_column else {}
    inputs, said = inputs_of(chosen, input_columns, path)
    notes += said
    return [
        replace(
            r,
            value=values.get(r.source.path),
            inputs=inputs[r.source.path],
            metadata={k: v for k, v in r.metadata.items() if k not in label_columns},
        )
        for r in records
    ]


def _label_evidence(y: int, masks: _Masks, pattern: str, root: Path) -> tuple[Evidence, ...]:
    """Of one label: its masks where it is present, nothing where it is absent; empty where that is not known."""
    if y == 0:
        return (NoFinding(),)
    return tuple(MaskFile(m, masks.values) for m in find_masks(root / "image", pattern.replace("\\", "/")) if y == 1)


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
