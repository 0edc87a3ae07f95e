"""Images listed in a CSV file that names file, label, and optionally split, patient, mask or boxes."""

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from xaiutils import file_limits
from xaiutils.datasets.evidence import Boxes, MaskFile
from xaiutils.datasets.folder import check_mask_values, find_masks, with_headers
from xaiutils.datasets.listing import Listing, Record, unknown_patient
from xaiutils.datasets.picture_file import PictureFile, Preparation, read_picture_file
from xaiutils.datasets.splits import SPLITS
from xaiutils.file_limits import FileError, naming, read_bytes
from xaiutils.registry import suggest

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+|nan|inf)", re.IGNORECASE)


def load(
    data_dir: Path,
    *,
    table: str = "index.csv",
    image_column: str = "image",
    label_column: str = "label",
    split_column: str = "",
    patient_column: str = "",
    mask_column: str = "",
    boxes_column: str = "",
    image_pattern: str = "{image}",
    mask_pattern: str = "",
    mask_values: tuple[int, ...] | list[int] = (),
    classes: tuple[str, ...] | list[str] = (),
    keep_aspect: bool = False,
    bit_depth: int = 16,
    window: Sequence[float] = (),
    frames: str = "refuse",
) -> Listing:
    """``data_dir/table`` with one row for each image; other paths are relative to ``data_dir``.

    ``image_column`` and ``label_column`` name the columns of the picture and its class, ``split_column`` and
    ``patient_column`` those of train, val or test and of the patient, where there are any. ``image_pattern`` and
    ``mask_pattern`` build paths from columns, such as ``images/{image}.jpg`` and ``trimaps/{image}.png``;
    ``mask_column`` holds mask paths (several separated by ``;``), ``mask_values`` the grey values that are evidence
    (empty: all but 0), ``boxes_column`` boxes as ``x,y,width,height`` in pixels of the file (several in a row).
    ``classes`` keeps and orders some classes. Rows of the same file are merged when their labels agree, else
    ValueError; rows without a label are named and skipped; a blank patient is unknown. ``keep_aspect``,
    ``bit_depth``, ``window`` and ``frames`` as for folders. Columns that are not named are kept as the images'
    metadata.
    """
    root, values = Path(data_dir), check_mask_values(mask_values)
    how = Preparation(keep_aspect=keep_aspect, bit_depth=bit_depth, window=tuple(window), frames=frames)
    path = root / table
    rows = read_csv(path)
    columns = {
        "image_column": image_column,
        "label_column": label_column,
        "split_column": split_column,
        "patient_column": patient_column,
        "mask_column": mask_column,
        "boxes_column": boxes_column,
    }
    for name, column in columns.items():
        if column and column not in rows.columns:
            raise ValueError(f"{path} has no column {column!r} ({name}); {suggest(column, list(rows.columns))}")
    rows[label_column] = rows[label_column].str.strip()
    blank = rows[label_column] == ""
    unlabelled = [(str(image), f"no {label_column!r} in {table}") for image in rows[image_column][blank]]
    rows = rows[~blank]
    found = sorted(rows[label_column].unique())
    names = [str(c) for c in classes] or found
    for name in names:
        if name not in found:
            raise ValueError(f"column {label_column!r} of {path} has no class {name!r}; {suggest(name, found)}")
    if len(names) < 2:
        raise ValueError(f"column {label_column!r} of {path} has one value ({names}); a classifier needs at least 2.")
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows[rows[label_column].isin(names)].to_dict("records"):
        name = _fill(image_pattern, row, name="image_pattern", image=row[image_column])
        groups.setdefault(str(root / name), []).append(row)
    several = rows[image_column].nunique() < len(groups)  # one name in several folders: the path tells them apart
    records = []
    for file, group in groups.items():
        first, file = group[0], Path(file)
        image = first[image_column]
        for column in filter(None, (label_column, split_column, patient_column)):
            values_of = sorted({row[column].strip() for row in group})
            if len(values_of) > 1:
                raise ValueError(
                    f"{path}: image {str(file)!r} has several {column!r}: {values_of}; keep one row, or one."
                )
        masks = [root / m.strip() for row in group for m in row.get(mask_column, "").split(";") if m.strip()]
        if mask_pattern:
            pattern = _fill(mask_pattern, first, image=image, stem=file.stem, name="mask_pattern")
            masks += find_masks(root / "image", pattern)
        boxes = tuple(box for row in group for box in _boxes(row.get(boxes_column, ""), path, image))
        evidence = [MaskFile(mask, values) for mask in masks] + ([Boxes(boxes)] if boxes else [])
        records.append(
            Record(
                id=file.relative_to(root).as_posix() if several and file.is_relative_to(root) else str(image),
                label=names.index(first[label_column]),
                source=PictureFile(file, tuple(evidence), how),
                split=_split_name(first[split_column], path) if split_column else None,
                patient=(first[patient_column].strip() or unknown_patient(image)) if patient_column else None,
                metadata={k: v for k, v in first.items() if k not in columns.values()},
            )
        )
    if mask_pattern and not any(r.source.evidence for r in records):
        warnings.warn(f"mask_pattern={mask_pattern!r} finds no mask of any image of {path}.", stacklevel=3)
    records, notes = with_headers(records)
    return Listing(records, tuple(names), read_picture_file, origin=str(path), skipped=unlabelled, notes=notes)


def read_csv(path: Path, **options) -> pd.DataFrame:
    """A CSV file as a table of texts, its separator found by itself, column names stripped.

    Raises FileNotFoundError, PermissionError, or FileError.
    """
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"{path} does not exist; data_dir must hold this table.")
    reading = {"sep": None, "engine": "python", **options}
    try:
        content = io.BytesIO(read_bytes(path, file_limits.MAX_TEXT_BYTES))
    except PermissionError:
        raise PermissionError(f"{path} may not be read; ask for permission.") from None
    with naming(path, "it cannot be read as a CSV table in UTF-8"):
        rows = pd.read_csv(content, dtype=str, keep_default_na=False, encoding="utf-8-sig", **reading)
        rows.columns = [str(c).strip() for c in rows.columns]
        twice = rows.columns[rows.columns.duplicated()]
        if len(twice):
            raise ValueError(f"two of its columns are called {twice[0]!r}")
        return rows.fillna("")


def _fill(pattern: str, row: dict[str, str], name: str, **extra: str) -> str:
    try:
        return pattern.format(**{**row, **extra})
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{name}={pattern!r} is not valid ({error}); it may use the columns {', '.join(map(str, row))}."
        ) from error


def _split_name(value: str, path: Path) -> str:
    aliases = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}
    name = aliases.get(value.strip().lower(), value.strip().lower())
    if name not in SPLITS:
        raise ValueError(f"{path}: split {value!r} is unknown; use {', '.join(SPLITS)}.")
    return name


def _boxes(cell: str, path: Path, image: str) -> list[tuple[float, ...]]:
    numbers = [float(n) for n in _NUMBER.findall(cell)]
    if len(numbers) % 4:
        raise FileError(path, f"its boxes {cell[:80]!r} of {image!r} are not groups of x, y, width, height")
    return [tuple(numbers[i : i + 4]) for i in range(0, len(numbers), 4)]
