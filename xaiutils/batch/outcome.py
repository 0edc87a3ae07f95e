"""How the jobs of a batch ended."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xaiutils.batch.job import FAILURE
from xaiutils.batch.plan import Job
from xaiutils.batch.store import DONE, read_facts, read_marker
from xaiutils.files import inside

# The tables that the report reads, and their columns that must hold numbers, where the table is of that kind.
TABLES = {
    "classification.csv": ({"model", "n", "accuracy"}, ("n", "accuracy")),
    "metrics.csv": ({"model", "method", "metric"}, ("value",)),
    "metrics_summary.csv": ({"model", "method", "metric"}, ("mean", "low", "high", "n")),
    "grid_predictions.csv": ({"transform", "p of the original's class"}, ("p of the original's class",)),
}


@dataclass(frozen=True)
class Outcome:
    """``status`` is done, damaged (done, but the report cannot read what it needs), failed or not run; ``error`` and
    ``log`` say why it is not done, ``marker`` what was done."""

    job: Job
    status: str
    error: str = ""
    log: str = ""
    marker: Mapping[str, Any] = field(default_factory=dict)


def outcomes(folder: Path, plan: Sequence[Job]) -> list[Outcome]:
    """One for each job, in the order of the plan."""
    return [_outcome(folder, job) for job in plan]


def _outcome(folder: Path, job: Job) -> Outcome:
    if marker := read_marker(folder / job.name):
        damage = _damage(folder / job.name)
        return Outcome(job, "damaged" if damage else "done", damage, marker=marker)
    failure = read_facts(folder / "failed" / job.name / FAILURE)
    if not failure:
        missing = [name for name in job.after if not (folder / name / DONE).exists()]
        if missing:
            return Outcome(job, "not run", f"{missing[0]} is not done")
        kept = folder / "failed" / job.name
        if kept.exists():
            return Outcome(job, "failed", "its error could not be written down: was the disk full?", str(kept))
        return Outcome(job, "not run", "its process was ended, or was never started")
    return Outcome(job, "failed", str(failure.get("error", "")), str(failure.get("log", "")))


def _damage(place: Path) -> str:
    """What of a finished job's tables and maps the report could not read; empty where there is nothing."""
    from pandas.api.types import is_numeric_dtype

    from xaiutils.workbook import read_maps
    from xaiutils.workbook.saved_tables import read_saved_table

    grids = [path.relative_to(place).as_posix() for path in sorted(place.glob("maps/grid_*.npz"))[:1]]
    for name in (*(f"tables/{name}" for name in TABLES), *grids):
        path = inside(place, name)
        if path is None or not path.is_file():
            continue
        try:
            if name in grids:
                read_maps(path)
                continue
            table, (kind, numbers) = read_saved_table(path), TABLES[path.name]
            wrong = [c for c in numbers if c not in table or not is_numeric_dtype(table[c])]
            if wrong and kind <= set(table):
                raise ValueError(f"no numbers in {', '.join(wrong)}")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            return f"{name} is damaged: {error}; remove the job's folder, and it is done anew."
    return ""
