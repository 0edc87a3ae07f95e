"""How the jobs of a batch ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xaiutils.batch.job import FAILURE
from xaiutils.batch.plan import Job
from xaiutils.batch.store import DONE, read_facts, read_marker


@dataclass(frozen=True)
class Outcome:
    """``status`` is done, failed or not run; ``error`` and ``log`` say why it is not done, ``marker`` what was done."""

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
        return Outcome(job, "done", marker=marker)
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
