"""What a batch needs before it starts: data that can be loaded, models that can be built, and space on the disk."""

import math
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from xaiutils.batch.matrix import Matrix
from xaiutils.batch.plan import Job, State
from xaiutils.datasets import DATASETS, load_dataset
from xaiutils.evaluation.answers import suited_methods
from xaiutils.models import build_model
from xaiutils.workbook.own_models import fitting_size, own_model
from xaiutils.workbook.parameters import PARAMETERS

_DOWNLOADED = {"mnist": (70_000, 60e6), "cats_vs_dogs": (25_000, 1.7e9), "oxford_pets": (7_390, 1.7e9)}  # images, bytes
_GENERATED = 2000  # images of the phantom and the digits, all splits
_WEIGHT_BYTES = 4.2  # float32, and Keras' description of the layers
_FEATURE_BYTES = 1280 * 4 * 10  # of a training image while the head of a frozen backbone is trained on ten copies
_NOTEBOOK_BYTES = 8e6  # figures, tables and the executed notebook of one job
_RESERVE_BYTES = 2e8  # left free


def missing_data(matrix: Matrix) -> list[str]:
    """Data sets that cannot be loaded, in words: one test image of each is read. Those that the notebooks download may
    be absent."""
    problems = []
    for entry in matrix.datasets:
        folder = Path(matrix.data_dir(entry))
        absent = entry.value in _DOWNLOADED and not (folder / entry.value).is_dir()
        if absent or not DATASETS[entry.value].reads_files:
            continue
        try:
            if not folder.is_dir():
                raise FileNotFoundError(f"there is no folder {folder}")
            options = {**matrix.common, **entry.parameters}.get("data_options", {})
            load_dataset(entry.value, "test", 32, 1, data_dir=folder, **options)
        except (OSError, ValueError, TypeError, KeyError) as error:
            how = f"How to get it: {DATASETS[entry.value].access}."
            problems.append(f"datasets/{entry.name}: {error}. {how}".replace("..", "."))
    return problems


def unfit_models(matrix: Matrix) -> list[str]:
    """Models that cannot be built, or a user's own that cannot be read, for the size of the images, in words."""
    problems = []
    for dataset in matrix.datasets:
        size = {**matrix.common, **dataset.parameters}.get("image_size", PARAMETERS["image_size"].default)
        for model in matrix.models:
            try:
                if isinstance(model.value, Mapping):
                    fitting_size([found for found in [own_model(model.value)] if found], size, size)
                else:
                    n_weights(model.value, size)
            except ValueError as error:
                problems.append(f"models/{model.name} with datasets/{dataset.name}: {error}")
    return problems


def unsuited(matrix: Matrix) -> dict[str, dict[str, str]]:
    """By own model, the methods that do not suit it, and why."""
    found = {}
    for model in (entry for entry in matrix.models if isinstance(entry.value, Mapping)):
        own = own_model(model.value)
        methods = {m.name: {"method": m.value} for m in matrix.methods}
        if own is not None and methods:
            found[model.name] = suited_methods(own.wrap(scaling="model"), list(methods), methods)[1]
    return {name: left_out for name, left_out in found.items() if left_out}


@cache
def n_weights(model: str, image_size: int) -> int:
    """The number of weights of a model. Raises ValueError where the image size does not suit it."""
    return build_model(model, image_size=image_size).count_params()


def estimate(job: Job, data: Job | None = None) -> float:
    """Bytes that a job leaves on the disk: an upper bound for usual notebooks, from its parameters and those of the job
    ``data`` that prepares its data."""
    p = {name: parameter.default for name, parameter in PARAMETERS.items()}
    p |= {**(data.parameters if data else {}), **job.parameters}
    pixels = p["image_size"] ** 2
    if job.kind == "cell":
        return _NOTEBOOK_BYTES + 2 * pixels * (len(p["methods"]) or 1) * max(p["n_images"], len(p["transforms"]))
    there, download = _DOWNLOADED.get(p["dataset"], (_images_below(job.reads), 0))
    if job.kind == "data":
        n = min(sum(p[f"n_{split}"] or math.inf for split in ("train", "val", "test")), there)
        return _NOTEBOOK_BYTES + 4 * pixels * n + (0 if Path(job.reads, p["dataset"]).exists() else download)
    trained = [model for model in p["models"] if isinstance(model, str)]  # of a user's own nothing is written
    weights = sum(n_weights(model, p["image_size"]) for model in trained)
    return _NOTEBOOK_BYTES + _WEIGHT_BYTES * weights + _FEATURE_BYTES * min(p["n_train"] or math.inf, there)


@cache
def _images_below(folder: str) -> int:
    return sum(path.is_file() for path in Path(folder).rglob("*")) if folder else _GENERATED


def disk_needed(plan: Sequence[Job], state: State) -> float:
    """Bytes that the jobs to be done will take. What is done again lies beside what it replaces until it is whole; of
    new cells, those of the same notebook that are done are the measure."""
    total = max((float(state.bytes[name]) for name in state.why if name in state.bytes), default=0.0)
    by_name = {job.name: job for job in plan}
    for job in plan:
        if job.name in state.why and job.name not in state.bytes:
            alike = [size for name, size in state.bytes.items() if name.split("/")[0] == job.name.split("/")[0]]
            total += sum(alike) / len(alike) if alike and job.kind == "cell" else estimate(job, by_name.get(job.data))
    return total


def full_disk(folder: Path, n_bytes: float) -> list[str]:
    """A sentence where the disk of ``folder`` has less space than ``n_bytes`` and a reserve."""
    free = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.is_dir())).free
    if n_bytes + _RESERVE_BYTES <= free:
        return []
    return [
        f"about {megabytes(n_bytes)} are needed below {folder}, and {megabytes(_RESERVE_BYTES)} to spare; "
        f"{megabytes(free)} are free. Free some, give another disk with --runs, or lower n_images, n_train or "
        "image_size."
    ]


def megabytes(n_bytes: float) -> str:
    """Bytes in words."""
    return f"{n_bytes / 1e6:,.0f} MB"
