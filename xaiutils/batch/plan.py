"""From a matrix to jobs, and which of them are still to be done, and why."""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import nbformat

from xaiutils.batch.matrix import Matrix, Step
from xaiutils.batch.store import DONE, PERHAPS, LockedError, damage, lock, read_marker
from xaiutils.datasets.reading.tree import fingerprint
from xaiutils.files import write_text

PACKAGE = Path(__file__).resolve().parents[1]
# What decides the results of each kind of notebook, from the package: a change makes them be computed anew. Plots are
# among those of cells alone: a finer curve is no reason to train again.
_DATA_CODE = ("datasets", "images.py", "workbook")
_TRAIN_CODE = (*_DATA_CODE, "backend.py", "models", "training", "classification")
_CELL_CODE = (*_TRAIN_CODE, "statistics", "graph", "attribution", "evaluation", "transforms", "plots", "beyond_maps")
CODE = {"data": _DATA_CODE, "train": _TRAIN_CODE, "cell": _CELL_CODE}


@dataclass(frozen=True)
class Job:
    """One notebook with one set of parameters. ``name`` is its folder below the batch's: ``NOTEBOOK/LABELS``.

    ``point``: the labels by axis. ``data``, ``train``: the jobs that prepare its data and train its model, or "".
    ``reads``: the folder with the files of its data set, or "". ``notebook_digest``, ``code``: versions of what runs.
    """

    name: str
    kind: str
    notebook: str
    point: Mapping[str, Any]
    parameters: Mapping[str, Any]
    data: str
    train: str
    reads: str
    notebook_digest: str
    code: str

    @property
    def after(self) -> tuple[str, ...]:
        """The jobs that must be done before."""
        return tuple(name for name in (self.data, self.train) if name)

    def gpus(self, gpus: int) -> int:
        """How many of ``gpus`` it needs: none to prepare data, all for training with ``devices: all``, else one."""
        if self.kind == "data" or not gpus:
            return 0
        return gpus if self.parameters.get("devices") == "all" else 1


@dataclass(frozen=True)
class State:
    """What is to be done: ``why`` by the job's name, in words; jobs that are done are not in it. ``waiting``: jobs that
    are to be looked at again once those that they come after are done. ``seconds`` and ``bytes``: of the done ones."""

    why: Mapping[str, str]
    waiting: frozenset[str]
    seconds: Mapping[str, float] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)


def jobs(matrix: Matrix) -> list[Job]:
    """All jobs, each behind those that it comes after."""
    axes = {
        "dataset": matrix.datasets,
        "model": matrix.models,
        "recipe": matrix.recipes,
        "seed": matrix.seeds,
        "method": matrix.methods,
    }
    found: dict[str, Job] = {}
    by_kind = {step.kind: step for step in matrix.steps if step.kind != "cell"}
    for step in sorted(matrix.steps, key=lambda s: ("data", "train", "cell").index(s.kind)):
        names = step.axes
        for values in itertools.product(*(axes[name] for name in names)):
            chosen = dict(zip(names, values, strict=True))
            point = {axis: value if axis == "seed" else value.name for axis, value in chosen.items()}
            methods = [chosen["method"]] if "method" in chosen else matrix.methods
            here = {**point, "notebook": step.name}
            methods = [m for m in methods if not matrix.excluded({**here, "method": m.name})]
            takes_methods = bool(step.declared & {"method", "methods"}) and step.kind == "cell"
            if matrix.excluded(here) or (takes_methods and not methods):
                continue
            data = _needed(step, "data", ("dataset", "seed"), point, by_kind)
            train = _needed(step, "train", ("dataset", "model", "recipe", "seed"), point, by_kind)
            if any(name and name not in found for name in (data, train)):  # its model is left out
                continue
            job = Job(
                f"{step.name}/{label(point)}",
                step.kind,
                str(step.path),
                point,
                _parameters(matrix, step, chosen, methods),
                data,
                train,
                matrix.data_dir(chosen["dataset"]),
                notebook_digest(step.path),
                code_version(step.kind),
            )
            found[job.name] = job
    return list(found.values())


def label(point: Mapping[str, Any]) -> str:
    """The folder's name of a point: ``phantom.vit_mini16.auto.s0.grad_cam``."""
    return ".".join(f"s{value}" if axis == "seed" else str(value) for axis, value in point.items())


def _needed(step: Step, kind: str, axes: Sequence[str], point: Mapping[str, Any], by_kind: Mapping[str, Step]) -> str:
    """The name of the job of a kind whose results a notebook takes at a point, or ""."""
    order = ("data", "train", "cell")
    if kind not in by_kind or order.index(step.kind) <= order.index(kind) or not all(axis in point for axis in axes):
        return ""
    return f"{by_kind[kind].name}/{label({axis: point[axis] for axis in axes})}"


def _parameters(matrix: Matrix, step: Step, chosen: Mapping[str, Any], methods: Sequence[Any]) -> dict[str, Any]:
    """The notebook's parameters: the common ones, overlaid with those of the notebook and of each axis' entry."""
    values = {**matrix.common, **step.parameters}
    for axis in ("dataset", "model", "recipe"):
        if axis in chosen:
            values |= {**chosen[axis].parameters, axis: chosen[axis].value}
    if not matrix.data_dir(chosen["dataset"]):
        values.pop("data_dir", None)
    if "model" in chosen:
        values["models"] = [chosen["model"].value]
    values["seed"] = chosen["seed"]
    if methods:
        own = {}
        for m in methods:
            given = {**matrix.common.get("method_parameters", {}).get(m.name, {}), **m.parameters}
            alias = {"method": m.value} if m.value != m.name else {}
            if given or alias:
                own[m.name] = {**given, **alias}
        values["methods"] = [m.name for m in methods]
        values["method"] = methods[0].value
        if "methods" not in step.declared and methods[0].name in own:  # such a notebook knows methods, not labels
            own = {methods[0].value: {k: v for k, v in own[methods[0].name].items() if k != "method"}}
        values.pop("method_parameters", None)
        if own:
            values["method_parameters"] = own
    values["run_name"] = label({axis: v if axis == "seed" else v.name for axis, v in chosen.items()})
    return {name: value for name, value in values.items() if name in step.declared}


@cache
def notebook_digest(path: Path) -> str:
    """Of the code cells alone: other words or outputs change no result."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


@cache
def code_version(kind: str) -> str:
    """Of the sources of the package that decide the results of a kind of notebook (`CODE`)."""
    digest = hashlib.sha256()
    for name in CODE[kind]:
        path = PACKAGE / name
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{source.relative_to(PACKAGE)}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def survey(folder: Path, plan: Sequence[Job], quick: bool = False, any_code: bool = False) -> State:
    """Look at every job's folder: which are done, and what is wrong with the others.

    ``quick`` compares the sizes of files and not their checksums; ``any_code`` takes results that other versions of the
    notebooks or of the package computed.
    """
    why, waiting, seconds, sizes = {}, set(), {}, {}
    products: dict[str, str] = {}
    files_now = cache(lambda reads: fingerprint(Path(reads)))
    for job in plan:
        place = folder / job.name
        marker = read_marker(place) or read_marker(place, PERHAPS)
        reason = _why_not(job, place, marker, products, files_now, quick, any_code)
        if not reason and any(name in why for name in job.after):
            reason = "what it was made from is to be made anew"
            waiting.add(job.name)
        if reason:
            why[job.name] = reason
        else:
            products[job.name] = marker["product"]
        if marker:
            seconds[job.name] = marker["seconds"]
            sizes[job.name] = sum(size for size, _ in marker["files"].values())
    return State(why, frozenset(waiting), seconds, sizes)


def _why_not(job, place, marker, products, files_now, quick, any_code) -> str:
    if marker is None:
        return "the marker is damaged" if (place / DONE).exists() else "new"
    if marker["parameters"] != json.loads(json.dumps(dict(job.parameters))):
        before, now = marker["parameters"], job.parameters
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        return f"other parameters: {', '.join(names)}"
    if not any_code and marker["notebook_digest"] != job.notebook_digest:
        return "the notebook has changed"
    if not any_code and marker["code"] != job.code:
        return "the code of the package has changed"
    if job.kind == "data" and job.reads and marker["data_files"] != files_now(job.reads):
        return f"files below {job.reads} have changed"
    if any(name in products and marker["inputs"].get(name) != products[name] for name in job.after):
        return "made from other data, or by another model"
    if list(marker["inputs"]) != list(job.after):
        return "made from other data, or by another model"
    return damage(place, marker, quick)


def write_plan(folder: Path, plan: Sequence[Job], state: State, settings: Mapping[str, Any], gpus: int) -> None:
    """Write what the jobs read, and take the markers away from what is to be done, so that no engine skips it.

    ``settings``: threads, retries and cell_hours of a job, and gpus, among which it chooses (None: it does not choose).
    ``gpus``: how many there are for all jobs.
    """
    spool = folder / "plan"
    shutil.rmtree(spool, ignore_errors=True)
    for job in plan:
        place = folder / job.name
        if job.name in state.why:
            if job.name not in state.waiting:
                _remove(place / DONE)
                _remove(place / PERHAPS)
            elif (place / DONE).exists():
                (place / DONE).replace(place / PERHAPS)
            spool_file = spool / f"{job.name}.json"
            spool_file.parent.mkdir(parents=True, exist_ok=True)
            spec = {**asdict(job), "gpu": job.gpus(gpus), "settings": dict(settings)}
            spool_file.write_text(json.dumps(spec), encoding="utf-8")
        elif (place / PERHAPS).exists() and not (place / DONE).exists():  # a batch was cut; it holds after all
            (place / PERHAPS).replace(place / DONE)
    to_do = [job for job in plan if job.name in state.why]
    facts = {
        "kinds": {kind: sorted({Path(j.notebook).stem for j in plan if j.kind == kind}) for kind in CODE},
        "jobs": {j.name: {"after": list(j.after), "gpu": j.gpus(gpus)} for j in to_do},
        "threads": settings["threads"],
    }
    write_text(spool / "plan.json", json.dumps(facts))


def _remove(path: Path) -> None:
    """Take away what is there, whatever it is."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def sweep(folder: Path) -> None:
    """Remove what killed jobs left, and the failures of the last batch. A job that is still at work holds a lock."""
    for attempt in (folder / "attempts").glob("*"):
        try:
            with lock(attempt / "lock", str(attempt)):
                shutil.rmtree(attempt, ignore_errors=True)
        except LockedError:
            continue
    shutil.rmtree(folder / "failed", ignore_errors=True)
    shutil.rmtree(folder / ".snakemake" / "incomplete", ignore_errors=True)  # the markers alone say what is done


def cores_here() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
