"""What a batch needs of the world before it starts: the data, models that can be built, and room on the disk."""

import math
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from xaiutils.batch.matrix import Matrix
from xaiutils.batch.plan import Job, State
from xaiutils.workbook.parameters import PARAMETERS

_MODEL_BYTES = 4.2  # a weight: float32, and Keras' description of the layers
_FEATURES = 1280 * 4 * 10  # a training image while a frozen backbone's head is trained: features of ten copies
_NOTEBOOK = 4_000_000  # figures, tables and the executed notebook of one job
_FULL = {"mnist": 70_000, "cats_vs_dogs": 25_000, "oxford_pets": 7_390}  # images, where they are not there to count
_DOWNLOAD = {"mnist": 60e6, "cats_vs_dogs": 1.7e9, "oxford_pets": 1.7e9}  # bytes, the archive and what is in it
_RESERVE = 200_000_000  # left free


def missing_data(matrix: Matrix) -> list[str]:
    """Data sets that cannot be loaded, tried on one test image each; those that are downloaded may be absent."""
    from xaiutils.datasets import DATASETS, load_dataset

    problems = []
    for entry in matrix.datasets:
        if not DATASETS[entry.value].reads_files:
            continue
        given = {**matrix.common, **entry.parameters}
        folder = Path(matrix.data_dir(entry))
        if entry.value in _FULL and not (folder / entry.value).is_dir():
            continue  # will be downloaded, or is found below the folder when it is read
        try:
            if not folder.is_dir():
                raise FileNotFoundError(f"there is no folder {folder}")
            load_dataset(entry.value, "test", 32, 1, data_dir=folder, **given.get("data_options", {}))
        except (OSError, ValueError, TypeError, KeyError) as error:
            how = f"How to get it: {DATASETS[entry.value].access}."
            problems.append(f"datasets/{entry.name}: {error}. {how}".replace("..", "."))
    return problems


def unfit_models(matrix: Matrix) -> list[str]:
    """Models that cannot be built for the size of the images."""
    problems = []
    for model in matrix.models:
        for dataset in matrix.datasets:
            given = {**matrix.common, **dataset.parameters}
            size = given.get("image_size", PARAMETERS["image_size"].default)
            try:
                weights_of(model.value, size)
            except ValueError as error:
                problems.append(f"models/{model.name} with datasets/{dataset.name}: {error}")
    return problems


@cache
def weights_of(model: str, image_size: int) -> int:
    """The number of weights of a model. Raises ValueError where the image size does not suit it."""
    from xaiutils.models import build_model

    return build_model(model, image_size=image_size).count_params()


def estimate(job: Job) -> float:
    """Bytes that a job leaves on the disk, from its parameters: an upper bound for usual notebooks."""
    p = {name: parameter.default for name, parameter in PARAMETERS.items()} | dict(job.parameters)
    pixels = p["image_size"] ** 2
    if job.kind == "data":
        n = sum(p[f"n_{split}"] or math.inf for split in ("train", "val", "test"))
        images = min(n, _images_below(job.reads, job.parameters.get("dataset", "")))
        download = _DOWNLOAD.get(job.parameters.get("dataset", ""), 0)
        return images * pixels * 4 + _NOTEBOOK + (download if job.reads and not Path(job.reads).exists() else 0)
    if job.kind == "train":
        n = min(p["n_train"] or math.inf, _images_below(job.reads, job.parameters.get("dataset", "")))
        return sum(weights_of(m, p["image_size"]) for m in p["models"]) * _MODEL_BYTES + n * _FEATURES + _NOTEBOOK
    methods = len(p["methods"]) or 1
    return methods * pixels * 2 * max(p["n_images"], len(p["transforms"])) + _NOTEBOOK


@cache
def _images_below(folder: str, dataset: str) -> float:
    if dataset in _FULL:
        return _FULL[dataset]
    if not folder or not Path(folder).is_dir():
        return 2000  # the phantom's and the digits' splits
    return sum(1 for path in Path(folder).rglob("*") if path.is_file())


def needed(plan: Sequence[Job], state: State) -> float:
    """Bytes that the jobs to be done will take. Where jobs of the same notebook are done, theirs is the measure; what
    is done anew lies beside what it replaces until it is whole."""
    total = max((state.bytes[name] for name in state.why if name in state.bytes), default=0.0)
    known: dict[str, list[int]] = {}
    for name, size in state.bytes.items():
        known.setdefault(name.split("/")[0], []).append(size)
    for job in plan:
        if job.name in state.why and job.name not in state.bytes:
            sizes = known.get(job.name.split("/")[0])
            total += sum(sizes) / len(sizes) if sizes and job.kind == "cell" else estimate(job)
    return total


def too_little_disk(folder: Path, bytes_needed: float) -> list[str]:
    """A sentence where the disk of ``folder`` has not so much room, and some to spare."""
    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    if bytes_needed + _RESERVE <= free:
        return []
    return [
        f"about {in_words(bytes_needed)} are needed below {folder}, and {in_words(_RESERVE)} to spare; "
        f"{in_words(free)} are free. Free some, give another disk with --runs, or lower n_images, n_train or "
        "image_size."
    ]


def in_words(n_bytes: float) -> str:
    """Bytes as people say them."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"
