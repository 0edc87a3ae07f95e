"""Images listed in a CSV file that names file, label, and optionally split, patient, mask or boxes."""

import codecs
import io
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from xaiutils import file_limits
from xaiutils.class_names import check_class_names
from xaiutils.datasets import inventory
from xaiutils.datasets.listing import Listing, Record, unknown_patient
from xaiutils.datasets.loaders.folder import check_mask_values, find_masks, with_headers, without_findings
from xaiutils.datasets.patients import between, fill_unknown, name_patients, offer
from xaiutils.datasets.reading.decoder_process import DECODER
from xaiutils.datasets.reading.evidence import Boxes, MaskFile
from xaiutils.datasets.reading.picture_file import PictureFile, Preparation, read_picture_file
from xaiutils.datasets.reading.tree import find_file
from xaiutils.datasets.splits import SPLITS, split_called
from xaiutils.file_limits import FileError, check_regular, naming, read_bytes
from xaiutils.registry import suggest

_EXCEL_BYTES = 2**26
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+|nan|inf)", re.IGNORECASE)


def load(
    data_dir: Path,
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
    ``patient_from`` finds the patient in the picture's path, as for folders (1: the first folder). ``label_separator``
    parts a cell into several labels ("|" in "Atelectasis|Effusion"); images with several of the classes are left out
    and counted, since one class is learnt per image; ``one_vs_rest`` names a label, and makes of all images those with
    it and those without. ``classes`` keeps and orders some classes. Rows of the same file are merged when their labels
    agree, else ValueError; rows without a label are named and skipped; a blank patient is unknown. The table may be an
    Excel file. Paths may be written on another machine (``\\`` for ``/``, other case, absolute: see
    `xaiutils.datasets.reading.tree.find_file`). ``keep_aspect``, ``bit_depth``, ``window`` and ``frames`` as for
    folders.
    Columns that are not named are kept as the images' metadata.
    """
    root, values = Path(data_dir), check_mask_values(mask_values)
    how = Preparation(keep_aspect=keep_aspect, bit_depth=bit_depth, window=tuple(window), frames=frames)
    path = find_file(root, table)
    rows = read_excel(path) if path.suffix.lower() in (".xls", ".xlsx") else read_csv(path)
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
    unlisted = []
    for column in (label_column, image_column):
        blank = rows[column].str.strip() == ""
        unlisted += [(str(image) or "a row", f"no {column!r} in {table}") for image in rows[image_column][blank]]
        rows = rows[~blank]
    labels: dict[Path, list[str]] = {}
    files: dict[Path, list[dict[str, str]]] = {}
    for row in rows.to_dict("records"):
        row["_path"] = _fill(image_pattern, row, name="image_pattern", image=row[image_column].strip())
        files.setdefault(find_file(root, row["_path"]), []).append(row)
    for file, group in files.items():
        labels[file] = _labels(group, label_column, label_separator, path, file)
    names, chosen, notes = _choose(labels, check_class_names(classes), one_vs_rest, label_separator, label_column, path)
    several = rows[image_column].nunique() < len(chosen)  # one name in several folders: the path tells them apart
    records = []
    for file, label in chosen.items():
        group, first = files[file], files[file][0]
        image = first[image_column].strip()
        _refuse_contradictions(group, (split_column, patient_column), path, file)
        masks = [find_file(root, m) for row in group for m in row.get(mask_column, "").split(";") if m.strip()]
        if mask_pattern:
            pattern = _fill(mask_pattern, first, image=image, stem=file.stem, name="mask_pattern").replace("\\", "/")
            masks += find_masks(root / "image", pattern)
        boxes = tuple(box for row in group for box in _boxes(row.get(boxes_column, ""), path, image))
        evidence = [MaskFile(mask, values) for mask in masks] + ([Boxes(boxes)] if boxes else [])
        below = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
        place = between(Path(below).parts[:-1], names[label]) if file.is_relative_to(root) else {}
        records.append(
            Record(
                id=below if several else image,
                label=label,
                source=PictureFile(file, tuple(evidence), how),
                split=_split_name(first[split_column], path) if split_column else None,
                patient=(first[patient_column].strip() or unknown_patient(image)) if patient_column else None,
                metadata={**place, **{k: v for k, v in first.items() if k not in (*columns.values(), "_path")}},
            )
        )
    if mask_pattern and not any(r.source.evidence for r in records):
        warnings.warn(f"mask_pattern={mask_pattern!r} finds no mask of any image of {path}.", stacklevel=3)
    records, said = with_headers(name_patients(records, patient_from))
    records, more = without_findings(fill_unknown(records), names)
    known = {f: inventory.NOT_CHOSEN for f in files if f not in chosen} | {path: inventory.TABLE}
    offered = offer(records, patient_from != "" or patient_column != "")
    offered += _forgotten(rows.columns, split_column, patient_column or patient_from)
    for sentence in offered:
        warnings.warn(f"{path}: {sentence}", stacklevel=3)
    notes = [*notes, *said, *more, *offered]
    return Listing(
        records, tuple(names), read_picture_file, str(path), skipped=unlisted, notes=notes, root=root, files=known
    )


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
    labels: dict[Path, list[str]], classes: list[str], one_vs_rest: str, separator: str, column: str, path: Path
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
        warnings.warn(notes[0], stacklevel=4)
    return names, {file: names.index(of_file[0]) for file, of_file in own.items() if len(of_file) == 1}, notes


def read_csv(path: Path, separator: str = "") -> pd.DataFrame:
    """A CSV file as a table of texts, column names stripped; without ``separator`` that of ``,`` ``;`` ``|`` and tab
    which the first line has most often, else a blank. UTF-8, or UTF-16 with its mark.

    Raises FileNotFoundError, PermissionError, or FileError.
    """
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"{path} does not exist; data_dir must hold this table.")
    try:
        content = read_bytes(path, file_limits.MAX_TEXT_BYTES)
    except PermissionError:
        raise PermissionError(f"{path} may not be read; ask for permission.") from None
    with naming(path, "it cannot be read as a CSV table; save it as CSV in UTF-8"):
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if wide else "utf-8-sig")
        first = next(iter(text[:100_000].strip().splitlines()), "")
        found = max(",;|\t", key=first.count)
        separator = separator or (found if found in first or " " not in first else " ")
        # Without pandas' header, which renames columns of one name, and shifts all where rows are longer than it.
        rows = pd.read_csv(io.StringIO(text), sep=separator, header=None, dtype=str, keep_default_na=False).fillna("")
        return _table(rows.iloc[0].tolist(), rows.iloc[1:].to_numpy())


def read_excel(path: Path) -> pd.DataFrame:
    """The first sheet of an Excel file as a table of texts; its first row names the columns. Raises FileError.

    In a process of its own: the size that a damaged file claims for its sheet can end the one that believes it.
    """
    check_regular(path, _EXCEL_BYTES)
    with naming(path, "it cannot be read as an Excel table"):
        rows = json.loads(DECODER.ask("sheet", path)[1])
        if not rows:
            raise ValueError("its first sheet is empty")
        return _table(list(map(_text, rows[0])), [[_text(cell) for cell in row] for row in rows[1:]])


def _text(value: object) -> str:
    """A cell as text; Excel keeps file numbers and dates as floats, and blanks as NaN."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _table(names: Sequence[str], rows: Sequence) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=[name.strip() or f"unnamed {i}" for i, name in enumerate(names)])
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise ValueError(f"two of its columns are called {twice[0]!r}")
    return table


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
