"""A notebook's start and its results: parameters checked, seeds set, and a run folder that keeps what was found.

``runs/<run_name>/`` holds ``data/`` (prepared splits), ``models/<name>/``, ``figures/``, ``tables/``, ``maps/`` and
``record/<notebook>.json`` (parameters, versions, hardware, times, and what the notebook saved, in order).
"""

import hashlib
import io
import json
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.image import _ImageBase
from PIL import Image

from xaiutils.backend import keras, tf
from xaiutils.datasets import DATASETS, ImageDataset, load_dataset
from xaiutils.datasets.prepared_splits import read_dataset, write_dataset
from xaiutils.datasets.reading.tree import fingerprint
from xaiutils.files import replace_file, write_text
from xaiutils.progress import progress
from xaiutils.workbook import parameters as _parameters

__all__ = ["Picture", "Run", "environment", "progress", "start"]

_VERSIONED = ("xaiutils", "tensorflow", "keras", "numpy", "tf-explain", "tf-keras-vis", "scikit-learn", "scikit-image")
_FIGURE_DPI = {"saved": 160, "shown": 72}
# Parameters whose default is each notebook's own, or that decide where files are and not what is in them.
_NOTEBOOKS_OWN = {"methods", "method_parameters", "transforms", "model", "run_name", "runs_dir", "data_dir"}
_PNG_LIMIT = 120_000  # bytes: pictures over it are shown as JPEG, so that notebooks stay small


def start(notebook: str, namespace: Mapping[str, Any]) -> "Run":
    """Begin a notebook: check its parameters, seed everything, open its run folder.

    Args:
        notebook: the notebook's name, such as "02_train_models".
        namespace: ``globals()``. Every parameter of `xaiutils.workbook.parameters` found there is checked. At the
            first start in a kernel any other variable is taken for a mistyped parameter and refused: papermill itself
            sets a variable that the notebook never reads, and goes on.

    Raises:
        ValueError: lists everything that is wrong, with what is allowed.
    """
    given = {k: v for k, v in namespace.items() if k in _parameters.PARAMETERS}
    if not any(isinstance(v, Run) for v in namespace.values()):
        given |= {k: v for k, v in namespace.items() if _looks_like_parameter(k, v)}
    checked = _parameters.check(given)
    keras.utils.set_random_seed(checked.get("seed", 0))
    pd.set_option("display.html.use_mathjax", False)  # dollars in names of the data are no mathematics
    warnings.showwarning = _print_warning
    return Run(notebook, checked)


def _print_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Warnings belong to what a notebook tells: among its output, without the place in our code that gave them."""
    print(f"Note: {message}")


_NOT_PARAMETERS = {"In", "Out", "exit", "quit", "get_ipython", "open", "papermill"}


def _looks_like_parameter(name: str, value: Any) -> bool:
    plain = isinstance(value, bool | int | float | str | list | tuple | dict) or value is None
    return plain and not name.startswith("_") and name not in _NOT_PARAMETERS


def environment() -> dict[str, Any]:
    """Versions, hardware and git commit of this process, for the record of a run."""
    gpus = [tf.config.experimental.get_device_details(d).get("device_name", d.name) for d in _gpus()]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "gpus": gpus,
        "versions": {name: _version(name) for name in _VERSIONED},
        "git_commit": _git_commit(),
    }


def _gpus() -> list:
    return tf.config.list_physical_devices("GPU")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git_commit() -> str | None:
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():  # installed as a package: an enclosing repository would not be ours
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--match="]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


class Picture:
    """A figure as a notebook shows it: a small PNG, or a JPEG where the PNG would be large."""

    def __init__(self, figure: Figure):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_FIGURE_DPI["shown"], bbox_inches="tight")
        picture = Image.open(buffer).convert("RGB")
        self.width, self.height = picture.size
        small, photo = io.BytesIO(), io.BytesIO()
        picture.quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
        picture.save(photo, "jpeg", quality=88)
        png = small.tell() < _PNG_LIMIT
        self._data = {"image/png": small.getvalue()} if png else {"image/jpeg": photo.getvalue()}

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {**self._data, "text/plain": f"<Picture {self.width} x {self.height}>"}


class Run:
    """One notebook's view of a run folder. ``parameters`` are the checked ones; ``folder`` is the run's folder."""

    def __init__(self, notebook: str, parameters: Mapping[str, Any]):
        self.notebook, self.parameters = notebook, dict(parameters)
        root = os.environ.get("XAI_RUNS") or parameters.get("runs_dir", "../runs")
        self.folder = Path(root).resolve() / parameters.get("run_name", "default")
        # In a batch, notebooks with folders of their own share what was prepared and trained for all of them.
        self._data = Path(os.environ.get("XAI_BATCH_DATA") or self.folder / "data")
        self._models = Path(os.environ.get("XAI_BATCH_MODELS") or self.folder / "models")
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self._items: list[dict[str, Any]] = []
        try:
            self._write_record(finished=False)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise type(error)(
                error.errno,
                f"results cannot be written to {self.folder} ({error.strerror}); give another folder by runs_dir, or "
                "by the environment variable XAI_RUNS",
            ) from error

    def __repr__(self) -> str:
        e = environment()
        versions = ", ".join(f"{n} {v}" for n, v in e["versions"].items() if n in ("tensorflow", "keras", "numpy"))
        device = ", ".join(e["gpus"]) or f"CPU, {e['cores']} cores"
        return f"{self.notebook}: run {self.folder.name!r} on {device} ({versions})"

    # Data -----------------------------------------------------------------------------------------------------------

    def dataset(self, split: str) -> ImageDataset:
        """A split of this run's data set, prepared once and kept in the run folder.

        The copy is used as long as the parameters and the files of the data set are the same; a damaged one is made
        anew.
        """
        p = self.parameters
        options = {
            "name": p["dataset"],
            "split": split,
            "image_size": p["image_size"],
            "limit": p[f"n_{split}"] or None,
            "seed": p["seed"],
            "data_dir": str(Path(p["data_dir"]).resolve()),
            **p["data_options"],
        }
        folder = self._data_folder(options)
        if folder.is_dir():
            try:
                return read_dataset(folder)
            except (ValueError, OSError):
                pass  # damaged: made anew below
        dataset = load_dataset(**options)
        if any("[Errno" in text for text in [*(reason for _, reason in dataset.skipped), *dataset.notes]):
            return dataset  # a drive that was away, a permission that was missing: the next start tries again
        return write_dataset(dataset, self._data_folder(options))  # whose name a download may have changed

    def _data_folder(self, options: Mapping[str, Any]) -> Path:
        key = {
            **options,
            "code": _code_of_data(),
            "files": fingerprint(Path(options["data_dir"])) if DATASETS[options["name"]].reads_files else "",
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        return self._data / f"{options['split']}-{digest}"

    # Models ---------------------------------------------------------------------------------------------------------

    def model_folder(self, name: str) -> Path:
        return self._models / name

    def stamp_model(self, name: str) -> None:
        """Note beside a trained model what data it was trained on; `model` refuses it for other data."""
        write_text(self.model_folder(name) / "data.json", json.dumps(self._data_facts(), indent=1))

    def _data_facts(self) -> dict[str, Any]:
        """All that decides which images there are and which of them are for training."""
        p = self.parameters
        facts = {key: p[key] for key in ("dataset", "data_options", "image_size", "seed")}
        if DATASETS[p["dataset"]].reads_files:
            facts["data_dir"] = str(Path(p["data_dir"]).resolve())
        return facts

    def model(self, name: str) -> keras.Model:
        """The model that notebook 02 trained in this run.

        Raises FileNotFoundError that says how to make it, and ValueError when it was trained on other data: its
        training images could then be among the test images, or its classes others.
        """
        path = self.model_folder(name) / "model.keras"
        if not path.exists():
            trained = sorted(p.parent.name for p in self._models.glob("*/model.keras"))
            raise FileNotFoundError(
                f"run {self.folder.name!r} has no trained {name!r} (it has: {', '.join(trained) or 'none'}). Run "
                f"02_train_models first with run_name={self.folder.name!r} and {name!r} in its models."
            )
        stamp = self.model_folder(name) / "data.json"
        before = json.loads(stamp.read_text(encoding="utf-8")) if stamp.exists() else {}
        now = self._data_facts()
        differ = [f"{k}={before.get(k)!r} (now {now[k]!r})" for k in now if before.get(k) != now[k]]
        if differ:
            raise ValueError(
                f"{name!r} of run {self.folder.name!r} was trained with {', '.join(differ)}. Use the same parameters, "
                "or train under another run_name."
            )
        import xaiutils.models  # noqa: F401  (registers the layers that the file names)

        return keras.models.load_model(path)

    # Results --------------------------------------------------------------------------------------------------------

    def save_figure(self, figure: Figure, name: str, caption: str) -> Picture:
        """Write ``figures/<name>.png`` and return a picture for the notebook to show. ``caption`` goes to the
        report."""
        path = self.folder / "figures" / f"{name}.png"
        replace_file(path, lambda temporary: figure.savefig(temporary, dpi=_FIGURE_DPI["saved"], bbox_inches="tight"))
        self._add("figure", path, caption, pictures=_shows_pictures(figure))
        return Picture(figure)

    def save_table(self, table: pd.DataFrame, name: str, caption: str, index: bool = False) -> pd.DataFrame:
        """Write ``tables/<name>.csv`` and return the table. Long tables are written as Parquet too. ValueError for a
        table without columns, which no reader of CSV takes."""
        if len(table.columns) == 0:
            raise ValueError(f"table {name!r} has no columns: there is nothing to write.")
        path = self.folder / "tables" / f"{name}.csv"
        replace_file(path, lambda temporary: table.to_csv(temporary, index=index))
        if len(table) > 100:
            replace_file(path.with_suffix(".parquet"), lambda temporary: table.to_parquet(temporary, index=index))
        self._add("table", path, caption)
        return table

    def save_text(self, text: str, name: str, caption: str) -> Path:
        """Write ``<name>.md``; returns its path."""
        path = write_text(self.folder / f"{name}.md", text)
        self._add("text", path, caption)
        return path

    def save_maps(
        self, name: str, maps: Mapping[str, np.ndarray], ids: list[str], images: np.ndarray | None = None
    ) -> Path:
        """Write ``maps/<name>.npz``: float16 maps ``(n, height, width)`` by name, and the images' ``ids``.

        float16 keeps 3 digits and has a small range, so each map is stored divided by its largest absolute value,
        which is kept beside it as ``<name>_scale`` (n,). `load_maps` puts them together. ``images`` ``(n, height,
        width, 3)`` in [0, 255], if given, are kept as uint8: the report of a batch draws maps of several runs over
        them, side by side.
        """
        arrays: dict[str, np.ndarray] = {"ids": np.array(ids)}
        if images is not None:
            arrays["images"] = np.clip(images, 0, 255).astype(np.uint8)
        for key, value in maps.items():
            scale = np.abs(value).max(axis=(1, 2))
            arrays[key] = (value / np.where(scale > 0, scale, 1)[:, None, None]).astype(np.float16)
            arrays[f"{key}_scale"] = scale.astype(np.float32)
        path = self.folder / "maps" / f"{name}.npz"
        replace_file(path, lambda temporary: np.savez_compressed(temporary, **arrays))
        self._add("maps", path, f"maps of {', '.join(maps)}")
        return path

    def load_maps(self, name: str) -> dict[str, np.ndarray]:
        """The maps of `save_maps` as float32, their ``ids``, and the ``images`` where they were kept."""
        return read_maps(self.folder / "maps" / f"{name}.npz")

    def expected(self, what: str, value: float, known: float, tolerance: float) -> str:
        """A line for a cell whose output is compared: what ``value`` is beside the ``known`` one of the default walk.

        Within ``tolerance`` of it the line is the same on every machine; outside (or NaN) it is another. Data or models
        made with other parameters have no known value: the line gives theirs.
        """
        ours = {k: v for k, v in self.parameters.items() if k not in _NOTEBOOKS_OWN}
        if any(v != _parameters.PARAMETERS[k].default for k, v in ours.items()):
            return f"{what}: {value:.4g}"
        if abs(value - known) <= tolerance:
            return f"{what}: {known:g} +- {tolerance:g}, as expected"
        return f"{what}: {value:.4g}, not the expected {known:g} +- {tolerance:g}"

    def finish(self) -> str:
        """Close the notebook's record; returns a line that says what was written where."""
        self._write_record(finished=True)
        kinds = [item["kind"] for item in self._items]
        words = {"figure": "figures", "table": "tables", "maps": "files of maps", "text": "texts"}
        counts = ", ".join(f"{words[kind]}: {kinds.count(kind)}" for kind in dict.fromkeys(kinds))
        return f"{self.notebook}: {counts or 'nothing'}; written to runs/{self.folder.name}"

    def _add(self, kind: str, path: Path, caption: str, **facts: Any) -> None:
        file = path.relative_to(self.folder).as_posix()
        self._items = [item for item in self._items if item["file"] != file]
        self._items.append({"kind": kind, "file": file, "caption": caption, **facts})
        self._write_record(finished=False)

    def _write_record(self, finished: bool) -> None:
        record = {
            "notebook": self.notebook,
            "parameters": self.parameters,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 2),
            "finished": finished,
            "items": self._items,
            "environment": environment(),
        }
        write_text(self.folder / "record" / f"{self.notebook}.json", json.dumps(record, indent=1))


def read_maps(path: Path) -> dict[str, np.ndarray]:
    """A file of `Run.save_maps`: float32 maps by name, ``ids``, and uint8 ``images`` where they were kept."""
    with np.load(path, allow_pickle=False) as stored:
        found = {
            key: stored[key].astype(np.float32) * stored[f"{key}_scale"][:, None, None]
            for key in stored.files
            if f"{key}_scale" in stored.files
        }
        return {key: stored[key] for key in ("ids", "images") if key in stored.files} | found


def _shows_pictures(figure: Figure) -> bool:
    """Whether an image of at least 32 x 32 pixels is in the figure: it may be a patient's (`xaiutils.batch.pack`)."""
    sizes = [np.shape(image.get_array())[:2] for image in figure.findobj(_ImageBase) if image.get_array() is not None]
    return any(min(size) >= 32 for size in sizes)


def _code_of_data() -> str:
    """Changes when the code that prepares data does, so that a copy made by older code is not used."""
    package = Path(__file__).parents[1]
    sources = sorted([*(package / "datasets").rglob("*.py"), package / "images.py", Path(__file__)])
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
