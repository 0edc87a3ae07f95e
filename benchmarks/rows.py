"""Rows of measurements in a CSV file, and tables of them in Markdown."""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


class Rows:
    """The rows of the CSV file, dataclasses ``kind`` with a ``key`` and what is ``said`` of them; each new one is
    appended at once."""

    def __init__(self, path: Path, kind: Any, fresh: bool = False):
        self.path, self.rows, self._names = path, {}, list(kind.__dataclass_fields__)
        if fresh:
            path.unlink(missing_ok=True)
        if path.exists():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                if reader.fieldnames != self._names:
                    raise SystemExit(f"{path} has other columns, from an older benchmark; run with --fresh.")
                whole = [line for line in reader if all(line[n] is not None for n in self._names)]
            for line in whole:
                row = kind(*(kind.__annotations__[n](line[n]) for n in self._names))
                self.rows[row.key] = row
        # Written anew: a line that was cut off is dropped, so that the next one does not continue it.
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._names)
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows.values())

    def add(self, row: Any) -> None:
        self.rows[row.key] = row
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._names).writerow(asdict(row))
        print(*row.key, row.note or row.said, flush=True)


def as_markdown(table: pd.DataFrame) -> str:
    def cell(value: object) -> str:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.3g}"
        return str(value)

    head = [list(table.columns), ["---"] * table.shape[1]]
    body = [[cell(v) for v in row] for row in table.astype(object).to_numpy()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in head + body)
