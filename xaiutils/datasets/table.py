"""Images listed in a CSV file that names file, label, and optionally split, patient, mask or boxes."""

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd

from xaiutils.datasets.folder import find_masks
from xaiutils.datasets.image_dataset import ImageDataset
from xaiutils.datasets.records import SPLITS, Record, choose_split, read_records
from xaiutils.registry import suggest

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


def load(
    split: str,
    image_size: int,
    limit: int | None,
    seed: int,
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
) -> ImageDataset:
    """``data_dir/table`` with one row for each image; other paths are relative to ``data_dir``.

    ``image_pattern`` and ``mask_pattern`` build paths from columns, such as ``images/{image}.jpg`` and
    ``trimaps/{image}.png``; ``mask_column`` holds mask paths (several separated by ``;``), ``boxes_column`` boxes as
    ``x,y,width,height`` in pixels of the file (several in a row). Rows of the same file are merged when their labels
    agree, else ValueError; rows without a label are named and skipped; a blank patient is unknown. ``keep_aspect``
    and ``bit_depth`` as for folders.
    """
    root = Path(data_dir)
    path = root / table
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; data_dir must hold the table (parameter 'table').")
    try:
        rows = pd.read_csv(path, dtype=str, sep=None, engine="python", keep_default_na=False, encoding="utf-8-sig")
    except (csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a CSV table in UTF-8: {error}") from error
    rows.columns = [str(c).strip() for c in rows.columns]
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
    blank = rows[label_column].str.strip() == ""
    unlabelled = [(str(image), f"no {label_column!r} in {table}") for image in rows[image_column][blank]]
    rows = rows[~blank]
    names = list(classes) or sorted(rows[label_column].unique())
    if len(names) < 2:
        raise ValueError(f"column {label_column!r} of {path} has one value ({names}); a classifier needs at least 2.")
    rows = rows[rows[label_column].isin(names)]
    files = [
        str(root / _fill(image_pattern, row, name="image_pattern", image=row[image_column]))
        for _, row in rows.iterrows()
    ]
    several = rows[image_column].nunique() < len(set(files))  # one name in several folders: the path tells them apart
    records = []
    for file, group in rows.groupby(np.array(files, dtype=object), sort=False):
        labels = group[label_column].unique()
        if len(labels) > 1:
            raise ValueError(f"{path}: image {file!r} has the labels {sorted(labels)}; keep one row, or one label.")
        first = group.iloc[0]
        image, file = first[image_column], Path(file)
        masks = [root / m.strip() for cell in group.get(mask_column, []) for m in cell.split(";") if m.strip()]
        if mask_pattern:
            masks += find_masks(
                root / "image", _fill(mask_pattern, first, image=image, stem=file.stem, name="mask_pattern")
            )
        records.append(
            Record(
                path=file,
                label=names.index(labels[0]),
                id=file.relative_to(root).as_posix() if several else str(image),
                split=_split_name(first[split_column], path) if split_column else None,
                patient=(first[patient_column].strip() or f"unknown ({image})") if patient_column else None,
                mask_paths=tuple(masks),
                boxes=tuple(box for cell in group.get(boxes_column, []) for box in _boxes(cell, path, image)),
            )
        )
    chosen = choose_split(records, split, seed)
    return read_records(
        chosen, names, image_size, limit, seed, mask_values, keep_aspect, bit_depth, str(path), unlabelled
    )


def _fill(pattern: str, row: pd.Series, name: str, **extra: str) -> str:
    try:
        return pattern.format(**{**row.to_dict(), **extra})
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{name}={pattern!r} is not valid ({error}); it may use the columns {', '.join(map(str, row.index))}."
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
        raise ValueError(f"{path}: boxes {cell!r} of {image!r} are not groups of x, y, width, height.")
    return [tuple(numbers[i : i + 4]) for i in range(0, len(numbers), 4)]
