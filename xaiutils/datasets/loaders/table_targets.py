"""What a table's rows say beside one class: several labels, a measured quantity, and further inputs of a model."""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xaiutils.registry import check_choice, suggest
from xaiutils.text import counted

Rows = Mapping[Path, Sequence[Mapping[str, str]]]  # by the picture that they name
# What an uncertain label is taken for (Irvin et al. 2019, arXiv:1901.07031: U-Ignore, U-Zeros, U-Ones); -1 is unknown.
UNCERTAIN = {"ignore": -1, "zeros": 0, "ones": 1}
BLANK = {"ignore": -1, "zeros": 0}
_WORDS = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "y", "+"), "present"),
    **dict.fromkeys(("0", "0.0", "false", "no", "n", "-"), "absent"),
    **dict.fromkeys(("-1", "-1.0", "u", "uncertain", "?"), "uncertain"),
    **dict.fromkeys(("", "nan", "na"), "blank"),
}


def labels_of_columns(
    rows: Rows, columns: Sequence[str], uncertain: str, blank: str, table: Path
) -> tuple[dict[Path, tuple[int, ...]], list[str]]:
    """Labels of each picture from a column for each label, and notes that count what is uncertain and blank.

    Raises ValueError for a cell that is neither 1, 0, -1 (or u) nor blank.
    """
    means = {"present": 1, "absent": 0, "uncertain": UNCERTAIN[uncertain], "blank": BLANK[blank]}
    found, counts = {}, {"uncertain": dict.fromkeys(columns, 0), "blank": dict.fromkeys(columns, 0)}
    for file, group in rows.items():
        said = []
        for column in columns:
            cell = group[0][column].strip()
            word = _WORDS.get(cell.lower())
            if word is None:
                raise ValueError(
                    f"{table}: {column!r} of {file.name} is {cell!r}; expected 1, 0, -1 or u (uncertain), or blank."
                )
            if word in counts:
                counts[word][column] += 1
            said.append(means[word])
        found[file] = tuple(said)
    notes = []
    for word, rule in (("uncertain", uncertain), ("blank", blank)):
        if total := sum(counts[word].values()):
            which = ", ".join(f"{name} {n}" for name, n in counts[word].items() if n)
            verb = {"ignore": "unknown", "zeros": "absent", "ones": "present"}[rule]
            notes.append(f"{counted(total, 'label is', 'labels are')} {word} ({which}) and taken as {verb}.")
    return found, notes


def labels_of_cells(
    labels: Mapping[Path, Sequence[str]], classes: Sequence[str], no_finding: str, table: Path
) -> tuple[list[str], dict[Path, tuple[int, ...]], list[str]]:
    """Names of the labels, those of each picture from the names in its cell, and notes.

    ``no_finding`` is the name that says that there is none. Raises ValueError where a name of ``classes`` does not
    occur, where ``no_finding`` stands beside another, or where there is no label.
    """
    nothing = no_finding.casefold()
    found = sorted({name for of_file in labels.values() for name in of_file if name.casefold() != nothing})
    for name in classes:
        if name not in found:
            raise ValueError(f"{table} has no label {name!r}; {suggest(name, found)}")
    names = list(classes) or found
    if not names:
        raise ValueError(f"{table} names no label beside {no_finding!r}.")
    both = next((f for f, of in labels.items() if len(of) > 1 and nothing in map(str.casefold, of)), None)
    if both is not None:
        raise ValueError(f"{table}: {both.name} has {no_finding!r} and {', '.join(labels[both])}; correct its cell.")
    none = sum(nothing in map(str.casefold, of) for of in labels.values())
    notes = [f"{counted(none, 'image has', 'images have')} {no_finding!r}, that is none of the labels."] if none else []
    return names, {file: tuple(int(name in of_file) for name in names) for file, of_file in labels.items()}, notes


def values_of(rows: Rows, column: str, table: Path) -> dict[Path, float]:
    """The number in ``column`` of each picture. Raises ValueError where it is none."""
    found = {}
    for file, group in rows.items():
        cell = group[0][column].strip()
        number = _number(cell)
        if number is None:
            raise ValueError(f"{table}: {column!r} of {file.name} is {cell!r}; expected a number.")
        found[file] = number
    return found


def inputs_of(
    rows: Rows, columns: Sequence[str] | Mapping[str, Sequence[str]], table: Path
) -> tuple[dict[Path, dict[str, list[float]]], list[str]]:
    """What a model takes beside each picture, by the input's name, and notes on categories.

    A list of columns makes an input of one number of each; a mapping names inputs of several columns. Columns of
    numbers are taken as they are, others as the place of their text in the sorted list of texts. Raises ValueError that
    names the pictures where a cell is blank.
    """
    wanted = columns if isinstance(columns, Mapping) else {name: [name] for name in columns}
    wanted = {name: [of] if isinstance(of, str) else list(of) for name, of in wanted.items()}
    codes, notes = {}, []
    for column in dict.fromkeys(c for of in wanted.values() for c in of):
        cells = {file: group[0][column].strip() for file, group in rows.items()}
        blank = [file.name for file, cell in cells.items() if _WORDS.get(cell.lower()) == "blank"]
        if blank:
            raise ValueError(
                f"{table}: {counted(len(blank), 'image has', 'images have')} no {column!r}, which the model takes: "
                f"{', '.join(blank[:5])}{', ...' if len(blank) > 5 else ''}. Fill the cells in, or leave the rows out."
            )
        numbers = {file: _number(cell) for file, cell in cells.items()}
        if None in numbers.values():
            texts = sorted(set(cells.values()))
            numbers = {file: float(texts.index(cell)) for file, cell in cells.items()}
            coded = ", ".join(f"{text} {i}" for i, text in enumerate(texts[:12]))
            notes.append(f"The texts of {column!r} are given as numbers: {coded}{', ...' if len(texts) > 12 else ''}.")
        codes[column] = numbers
    return {
        file: {name: [float(codes[c][file] or 0) for c in of] for name, of in wanted.items()} for file in rows
    }, notes


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) and np.isfinite(np.float32(number)) else None


@dataclass(frozen=True)
class Target:
    """What is to be learnt of one picture: its class, or the labels of it."""

    label: int
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Asked:
    """Options that say what the labels are."""

    columns: list[str]
    separator: str
    multi_label: bool
    no_finding: str
    one_vs_rest: str
    classes: list[str]

    def __post_init__(self) -> None:
        if self.several and self.one_vs_rest:
            raise ValueError("one_vs_rest makes two classes; leave it out where images keep several labels.")
        if self.columns and (self.classes or self.separator):
            raise ValueError("label_columns say which labels there are: leave classes and label_separator out.")
        if self.multi_label and not (self.columns or self.separator):
            raise ValueError("multi_label needs label_separator, such as '|', or label_columns.")

    @property
    def several(self) -> bool:
        """Whether an image may have several labels."""
        return self.multi_label or bool(self.columns)

    def read(
        self, files: Rows, label_column: str, value_column: str, rules: tuple[str, str], path: Path
    ) -> tuple[list[str], dict[Path, Target], list[str]]:
        """Names of the classes, what is learnt of each picture that has one of them, and notes. ``rules`` are those for
        uncertain and for blank labels; an empty ``label_column`` leaves the values alone."""
        check_choice("uncertain", rules[0], UNCERTAIN)
        check_choice("blank", rules[1], BLANK)
        if self.columns:
            found, notes = labels_of_columns(files, self.columns, *rules, path)
            return self.columns, {file: Target(0, labels) for file, labels in found.items()}, notes
        if not label_column:
            return [value_column], {file: Target(0) for file in files}, []
        cells = {file: _labels(group, label_column, self.separator, path, file) for file, group in files.items()}
        if self.multi_label:
            names, found, notes = labels_of_cells(cells, self.classes, self.no_finding, path)
            return names, {file: Target(0, labels) for file, labels in found.items()}, notes
        names, chosen, notes = _choose(cells, self.classes, self.one_vs_rest, label_column, path)
        return names, {file: Target(label) for file, label in chosen.items()}, notes


def _labels(group: Sequence[Mapping[str, str]], column: str, separator: str, path: Path, file: Path) -> list[str]:
    """The labels of one file, in the rows' order; several only where a separator was given."""
    written = sorted({str(Path(*re.split(r"[\\/]+", row["_path"].strip()))).casefold() for row in group})
    if len(written) > 1:
        raise ValueError(f"{path}: {written[:3]} are one file, {str(file)!r}; correct the paths, or set image_pattern.")
    if separator:
        found = (part.strip() for row in group for part in row[column].split(separator))
        return list(dict.fromkeys(part for part in found if part))
    refuse_contradictions(group, (column,), path, file)
    return [group[0][column]]


def refuse_contradictions(group: Sequence[Mapping[str, str]], columns: Sequence[str], path: Path, file: Path) -> None:
    """Raise ValueError where rows of one picture differ in one of ``columns`` (empty names are none)."""
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
            "left out; one_vs_rest=LABEL keeps all images, as with and without that label; "
            "multi_label=true keeps all labels."
        )
        warnings.warn(notes[0], stacklevel=6)
    return names, {file: names.index(of_file[0]) for file, of_file in own.items() if len(of_file) == 1}, notes
