"""From a matrix to jobs: which there are, which are still to be done and why, and how they ended."""

import hashlib
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import nbformat

from xaiutils.batch.marker import DONE, KEY, damage, read_facts, read_marker
from xaiutils.batch.matrix import Entry, Matrix, Step
from xaiutils.datasets.reading.tree import fingerprint
from xaiutils.files import write_text

PACKAGE = Path(__file__).resolve().parents[1]
# What decides the results of each kind of notebook, from the package: a change makes them be computed again. Plots are
# among those of cells only: a finer curve is no reason to train again.
_DATA_CODE = ("datasets", "images.py", "class_names.py", "file_limits.py", "workbook")
_TRAIN_CODE = (*_DATA_CODE, "backend.py", "models", "training", "graph", "classification", "statistics")
_MAP_CODE = ("map_reading.py", "own_model", "attribution", "evaluation", "transforms", "plots", "beyond_maps")
_CELL_CODE = (*_TRAIN_CODE, *_MAP_CODE)
CODE = {"data": _DATA_CODE, "train": _TRAIN_CODE, "cell": _CELL_CODE}
_AXES = {"data": ("dataset", "seed"), "train": ("dataset", "model", "recipe", "seed")}
_REASONS = {
    "notebook": "the notebook has changed",
    "code": "the code of the package has changed",
    "inputs": "the data or the model that it is made from have changed",
}


@dataclass(frozen=True)
class Job:
    """One notebook with one set of parameters. ``name`` is its folder below the batch's: ``NOTEBOOK/LABELS``.

    ``point``: the labels by axis. ``data``, ``train``: the jobs that prepare its data and train its model, or "".
    ``reads``: the folder with the files of its data set, or "". ``versions``: digests of its notebook and its code.
    """

    name: str
    kind: str
    notebook: str
    point: Mapping[str, Any]
    parameters: Mapping[str, Any]
    data: str
    train: str
    reads: str
    versions: Mapping[str, str]

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
    """What is to be done: ``why`` by job, in words; jobs that are done are not in it. ``waiting``: jobs that may turn
    out to be done once those before them are. ``seconds`` and ``bytes``: of all that were done once, by job."""

    why: Mapping[str, str]
    waiting: frozenset[str]
    seconds: Mapping[str, float] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a job ended. ``status`` is done, failed or not run; ``error`` and ``log`` say why it is not done; ``marker``
    is the marker of a done one."""

    job: Job
    status: str
    error: str = ""
    log: str = ""
    marker: Mapping[str, Any] = field(default_factory=dict)


# Which jobs there are -------------------------------------------------------------------------------------------------


def jobs(matrix: Matrix) -> list[Job]:
    """All jobs, each after those that it needs."""
    found: dict[str, Job] = {}
    names = {step.kind: step.name for step in matrix.steps if step.kind != "cell"}
    for step in sorted(matrix.steps, key=lambda s: ("data", "train", "cell").index(s.kind)):
        for values in itertools.product(*(matrix.axis(name) for name in step.axes)):
            chosen = dict(zip(step.axes, values, strict=True))
            point = {axis: entry.value if axis == "seed" else entry.name for axis, entry in chosen.items()}
            methods = _methods(matrix, step, chosen, point)
            if methods is None:
                continue
            earlier = ("data", "train")[: ("data", "train", "cell").index(step.kind)]
            needs = {
                kind: f"{names[kind]}/{label({axis: point[axis] for axis in _AXES[kind]})}"
                for kind in earlier
                if kind in names and set(_AXES[kind]) <= set(point)
            }
            if not set(needs.values()) <= set(found):  # its model is left out
                continue
            parameters = _parameters(matrix, step, chosen, methods)
            versions = {"notebook": notebook_digest(step.path), "code": code_version(step.kind)}
            job = Job(
                f"{step.name}/{label(point)}", step.kind, str(step.path), point, parameters, needs.get("data", ""),
                needs.get("train", ""), matrix.data_dir(chosen["dataset"]), versions,
            )  # fmt: skip
            found[job.name] = job
    return list(found.values())


def label(point: Mapping[str, Any]) -> str:
    """The folder's name of a point: ``phantom.vit_mini16.auto.s0.grad_cam``."""
    return ".".join(f"s{value}" if axis == "seed" else str(value) for axis, value in point.items())


def _methods(
    matrix: Matrix, step: Step, chosen: Mapping[str, Entry], point: Mapping[str, Any]
) -> Sequence[Entry] | None:
    """The methods of a notebook at a point; None where the matrix leaves the point out."""
    here = {**point, "notebook": step.name}
    methods = [chosen["method"]] if "method" in chosen else matrix.methods
    methods = [m for m in methods if not matrix.excluded({**here, "method": m.name})]
    takes_methods = bool(step.declared & {"method", "methods"}) and step.kind == "cell"
    return None if matrix.excluded(here) or (takes_methods and not methods) else methods


def _parameters(matrix: Matrix, step: Step, chosen: Mapping[str, Entry], methods: Sequence[Entry]) -> dict[str, Any]:
    """The notebook's parameters: the common ones, overlaid with those of the notebook and of each axis' entry."""
    values = {**matrix.common, **step.parameters}
    for axis in ("dataset", "model", "recipe"):
        if axis in chosen:
            values |= {**chosen[axis].parameters, axis: chosen[axis].value}
    if not matrix.data_dir(chosen["dataset"]):
        values.pop("data_dir", None)
    if "model" in chosen:
        values |= {"models": [chosen["model"].value], "model": chosen["model"].model_name}
    values["seed"] = chosen["seed"].value
    if methods:
        own = {}
        for m in methods:
            given = {**matrix.common.get("method_parameters", {}).get(m.name, {}), **m.parameters}
            own[m.name] = given | ({"method": m.value} if m.value != m.name else {})
        own = {name: given for name, given in own.items() if given}
        values |= {"methods": [m.name for m in methods], "method": methods[0].value}
        if "methods" not in step.declared and methods[0].name in own:  # such a notebook knows methods, not labels
            own = {methods[0].value: {k: v for k, v in own[methods[0].name].items() if k != "method"}}
        values.pop("method_parameters", None)
        if own:
            values["method_parameters"] = own
    values["run_name"] = label({axis: e.value if axis == "seed" else e.name for axis, e in chosen.items()})
    return {name: value for name, value in values.items() if name in step.declared}


@cache
def notebook_digest(path: Path) -> str:
    """Of the code cells only: other words or outputs change no result."""
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


# What is to be done ---------------------------------------------------------------------------------------------------


def survey(folder: Path, plan: Sequence[Job], quick: bool = False, any_code: bool = False) -> State:
    """Look at every job's folder: which are done, and what is wrong with the others.

    ``quick`` compares the sizes of files and not their checksums; ``any_code`` takes results that other versions of the
    notebooks or of the package computed.
    """
    why: dict[str, str] = {}
    products: dict[str, str] = {}
    waiting, seconds, sizes = set(), {}, {}
    fingerprints = cache(lambda folder: fingerprint(Path(folder)))
    for job in plan:
        place = folder / job.name
        marker = read_marker(place)
        if marker is None:
            why[job.name] = "the marker is damaged" if (place / DONE).exists() else "new"
            continue
        seconds[job.name], sizes[job.name] = marker["seconds"], sum(size for size, _ in marker["files"].values())
        stale = any(name in why for name in job.after)
        inputs = marker["key"]["inputs"] if stale else {name: products[name] for name in job.after}
        if job.kind == "data" and job.reads:
            inputs = {job.reads: fingerprints(job.reads)}
        key = {"parameters": json.loads(json.dumps(dict(job.parameters))), **job.versions, "inputs": inputs}
        reason = _difference(marker["key"], key, any_code) or damage(place, marker, quick)
        if not reason and stale:
            reason = "what it was made from is made again first"
            waiting.add(job.name)
        if reason:
            why[job.name] = reason
        products[job.name] = marker["product"]
    return State(why, frozenset(waiting), seconds, sizes)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], any_code: bool) -> str:
    """In which part two keys differ first, in words, or ""."""
    for part in KEY:
        if before[part] == now[part] or (any_code and part in ("notebook", "code")):
            continue
        if part == "parameters":
            names = {**before[part], **now[part]}
            return f"other parameters: {', '.join(n for n in names if before[part].get(n) != now[part].get(n))}"
        return _REASONS[part]
    return ""


def write_plan(folder: Path, plan: Sequence[Job], state: State, settings: Mapping[str, Any], gpus: int) -> None:
    """Write ``folder/plan``: what Snakemake and the jobs read of all that is to be done.

    ``settings``: ``threads`` and ``cell_hours`` of a job, and ``gpus`` among which it chooses (None: a cluster's
    scheduler does). ``gpus``: how many there are for all jobs.
    """
    shutil.rmtree(folder / "plan", ignore_errors=True)
    to_do = [job for job in plan if job.name in state.why]
    for job in to_do:
        spec = {**asdict(job), "gpu": job.gpus(gpus), "recheck": job.name in state.waiting, **settings}
        path = folder / "plan" / f"{job.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(spec), encoding="utf-8")
    after = {job.name: [name for name in job.after if name in state.why] for job in to_do}
    facts = {
        "kinds": {kind: sorted({Path(j.notebook).stem for j in plan if j.kind == kind}) for kind in CODE},
        "jobs": {job.name: {"after": after[job.name], "gpu": job.gpus(gpus)} for job in to_do},
        "threads": settings["threads"],
    }
    write_text(folder / "plan" / "plan.json", json.dumps(facts))


def outcomes(folder: Path, plan: Sequence[Job], state: State) -> list[Outcome]:
    """How each job ended, in the order of the plan; ``state``: as it is now."""
    found = []
    for job in plan:
        failed = folder / "failed" / job.name
        facts = read_facts(failed / "failed.json")
        missing = [name for name in job.after if name in state.why]
        if job.name not in state.why:
            found.append(Outcome(job, "done", marker=read_marker(folder / job.name) or {}))
        elif facts:
            found.append(Outcome(job, "failed", str(facts.get("error", "")), str(facts.get("log", ""))))
        elif failed.exists():
            found.append(Outcome(job, "failed", "its error could not be written; was the disk full?", str(failed)))
        else:
            error = f"{missing[0]} is not done" if missing else "its process was ended, or was never started"
            found.append(Outcome(job, "not run", error))
    return found
