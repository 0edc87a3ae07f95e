"""A notebook's run: its folder, which keeps the data, the models and what was found.

``runs/<run_name>/`` holds ``data/`` (prepared splits), ``models/<name>/``, ``figures/``, ``tables/``, ``maps/`` and
``record/<notebook>.json`` (parameters, versions, hardware, times, and what the notebook saved, in order).
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xaiutils.backend import keras
from xaiutils.datasets import DATASETS, ImageDataset, load_dataset
from xaiutils.datasets.prepared_splits import code_of_data, read_dataset, write_dataset
from xaiutils.datasets.reading.tree import fingerprint
from xaiutils.datasets.splits import SPLITS, NoSplitError
from xaiutils.files import csv_text, replace_file, write_text
from xaiutils.graph.case_inputs import case_rows, holding
from xaiutils.models import VALUE_LAYER, load_model
from xaiutils.models.wrapped import WrappedModel
from xaiutils.own_model.label_view import of_label
from xaiutils.own_model.wrap import wrap
from xaiutils.workbook.environment import environment
from xaiutils.workbook.map_files import read_maps, write_maps
from xaiutils.workbook.own_models import KEPT, OwnModel, by_name, read_kept, write_kept
from xaiutils.workbook.parameters import OWN_DEFAULTS, PARAMETERS
from xaiutils.workbook.picture import Picture, print_figure, shows_images
from xaiutils.workbook.take_own import again, outdated, sample_of, take, unchanged

# What notebook 01 settles for all later notebooks of a run.
SETTLED = ("dataset", "data_dir", "data_options", "image_size", "n_train", "n_val", "n_test", "seed", "positive_class",
           "label")  # fmt: skip
# Parameters whose default is each notebook's own, that decide where files are and not what is in them, or how many more
# numbers there are, which leaves each as it is.
_NOTEBOOKS_OWN = {"methods", "method_parameters", "transforms", "model", "models", "run_name", "runs_dir", "data_dir",
                  "fractions", "n_seeds", "n_faithfulness", "faithfulness_steps", "axiom_channels", "n_passes",
                  "more", "metrics", "gallery_images"}  # fmt: skip
_TAKES = "02_train_models"  # the notebook that takes a user's own models into a run, again each time


class Run:
    """One notebook's view of a run folder.

    ``folder`` is the run's folder. ``parameters`` are the notebook's checked ones, and what it does not say itself as
    the run has it: the data set as notebook 01 settled it (`SETTLED`); for ``models`` or ``model`` left empty, those
    of notebook 02; of a user's own models the names. A notebook that has the parameter ``dataset`` settles the data for
    those after it; before it any other one is refused by FileNotFoundError, and leaves no folder. ``given``: the names
    of what the notebook says itself. With ``writes=False`` the run is read, and nothing of it is changed.
    """

    def __init__(self, notebook: str, parameters: Mapping[str, Any], writes: bool = True) -> None:
        self.notebook, self._writes = notebook, writes
        given, self._own = by_name(parameters)
        self.given = frozenset(given)
        self._wrapped: dict[str, WrappedModel] = {}
        self._held = ExitStack()
        self.folder, self._models = folders(parameters)
        self._data = Path(os.environ.get("XAI_BATCH_DATA") or self.folder / "data")
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self._items: list[dict[str, Any]] = []
        self.parameters = given if "dataset" in given else {**self._settled(), **given}
        if writes:
            self._data_parameters()
        if given.get("models") == []:
            self.parameters["models"] = self.trained
        if given.get("model") == "":
            self.parameters["model"] = next(iter(self.parameters.get("models") or self.trained), "")
        try:
            if writes and "dataset" in given:
                settled = {name: given[name] for name in SETTLED if name in given}
                write_text(self._data / "settled.json", json.dumps(settled, indent=1))
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

    def _settled(self) -> dict[str, Any]:
        path = self._data / "settled.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); run 01_data_preparation again.") from error

    # Data -----------------------------------------------------------------------------------------------------------

    def dataset(self, split: str, every_label: bool = False) -> ImageDataset:
        """A split of this run's data set, prepared once and kept in the run folder.

        The copy is used as long as the parameters and the files of the data set are the same; a damaged one is
        made again. Of a set of several labels it is the view of `label`, with ``every_label`` the whole.
        """
        ds = self._dataset(split)
        return ds if every_label or not ds.multi_label else ds.of_label(self.label)

    def splits(self, *names: str, every_label: bool = False) -> dict[str, ImageDataset]:
        """The splits ``names`` (train, val and test, unless given), each as `dataset` has it. Of data that state test
        images and none for training or validation, which do for a model of the user's own, those are left out."""
        found = {}
        for split in names or SPLITS:
            try:
                found[split] = self.dataset(split, every_label)
            except NoSplitError:
                if split == "test":
                    raise
        return found

    @cached_property
    def label(self) -> str:
        """Of a set of several labels the one that is explained: the parameter ``label``, else ``positive_class``, else
        the label of most positive test cases; empty for a set of classes."""
        ds = self._dataset("test")
        if not ds.multi_label:
            return ""
        p = self._data_parameters()
        chosen = p.get("label") or p.get("positive_class")
        return chosen or ds.class_names[int((ds.labels == 1).sum(axis=0).argmax())]

    def _dataset(self, split: str) -> ImageDataset:
        p = self._data_parameters()
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
                pass  # damaged: made again below
        dataset = load_dataset(**options)
        if any("[Errno" in text for text in [*(reason for _, reason in dataset.skipped), *dataset.notes]):
            return dataset  # a drive that was away, a permission that was missing: the next start tries again
        return write_dataset(dataset, self._data_folder(options))  # whose name a download may have changed

    def _data_parameters(self) -> dict[str, Any]:
        if "dataset" not in self.parameters:
            raise FileNotFoundError(
                f"run {self.folder.name!r} has no data set yet. Run 01_data_preparation first with "
                f"run_name={self.folder.name!r}."
            )
        return self.parameters

    def _data_folder(self, options: Mapping[str, Any]) -> Path:
        key = {
            **options,
            "code": code_of_data(),
            "files": fingerprint(Path(options["data_dir"])) if DATASETS[options["name"]].reads_files else "",
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        return self._data / f"{options['split']}-{digest}"

    # Models ---------------------------------------------------------------------------------------------------------

    def model_folder(self, name: str) -> Path:
        return self._models / name

    def stamp_model(self, name: str) -> None:
        """Note beside a trained model what data it was trained on; `model` refuses it for other data."""
        facts = self._data_facts() | {"trained": datetime.now(UTC).isoformat()}
        write_text(self.model_folder(name) / "data.json", json.dumps(facts, indent=1))

    @property
    def trained(self) -> list[str]:
        """Names of the models of this run, trained in it or a user's own, in the order in which they came to it."""
        found = {path.parent for kept in ("model.keras", KEPT) for path in self._models.glob(f"*/{kept}")}
        return [folder.name for folder in sorted(found, key=lambda f: (_stamp(f).get("trained", ""), f.name))]

    @property
    def own(self) -> list[str]:
        """Of the models that the parameters name, those that are a user's own."""
        return [name for name in self.parameters.get("models", []) if self._is_own(name)]

    def _is_own(self, name: str) -> bool:
        return name in self._own or (self.model_folder(name) / KEPT).exists()

    def models(self, *names: str, every_label: bool = False) -> dict[str, keras.Model]:
        """Models of this run by name: ``names``, then those of the parameter ``models``; each as `model` has it."""
        asked = dict.fromkeys([*names, *self.parameters.get("models", [])])
        return {name: self.model(name, every_label) for name in asked}

    def _data_facts(self) -> dict[str, Any]:
        """All that decides which images there are and which of them are for training."""
        p = self._data_parameters()
        facts = {key: p[key] for key in ("dataset", "data_options", "image_size", "seed")}
        if DATASETS[p["dataset"]].reads_files:
            facts["data_dir"] = str(Path(p["data_dir"]).resolve())
        return facts

    def model(self, name: str, every_label: bool = False) -> keras.Model:
        """The model that notebook 02 trained in this run, or a user's own, wrapped as `xaiutils.wrap` does it.

        Of data with several labels, the model as one of `label` alone, unless ``every_label``. Raises
        FileNotFoundError that says how to make it, and ValueError when it was trained on other data (its training
        images could then be among the test images, or its classes others), or when the own model's file has changed.
        """
        model = self._own_model(name) if self._is_own(name) else self._trained_model(name)
        if every_label or not self.label:
            return model
        if not isinstance(model, WrappedModel):
            model = wrap(model, scaling="model", class_names=list(self._dataset("test").class_names))
        return of_label(model, self.label)

    def _own_model(self, name: str) -> WrappedModel:
        if name not in self._wrapped:
            kept, asked = read_kept(self.model_folder(name)), self._own.get(name)
            evaluated = (self.folder / "record" / f"{_TAKES}.json").exists()
            if kept is None or (asked and (self.notebook == _TAKES or (not evaluated and outdated(kept, asked)))):
                self._wrapped[name] = self._take_own(self._own[name])
            else:
                own = unchanged(kept, asked, self.folder.name)
                positive = self._data_parameters().get("positive_class", "")
                self._wrapped[name] = again(kept, own, self._dataset("test"), positive)
        return self._wrapped[name]

    def _take_own(self, own: OwnModel) -> WrappedModel:
        """Wrap a model for the data of this run, say what was found, and keep it."""
        sample = sample_of(self.splits(every_label=True))
        taken = take(own, sample, self._data_parameters().get("positive_class", ""))
        print(*taken.sentences, sep="\n")
        if self._writes:
            write_kept(self.model_folder(own.name), taken.kept, notes=taken.sentences)
            self.save_table(taken.readings, f"scaling_{own.name}", " ".join(taken.sentences[1:]))
        return taken.model

    def hold_row(self, model: keras.Model, ds: ImageDataset) -> ImageDataset:
        """``ds`` without further inputs, for what knows only images: a model that takes a row of every case holds, from
        now on, that of the first case for all."""
        rows = case_rows(model, ds.inputs, len(ds))
        if rows:
            self._held.enter_context(holding(model, {name: found[:1] for name, found in rows.items()}))
            print(f"{', '.join(rows)}: held at the row of {ds.ids[0]} for all images of this notebook.")
        return replace(ds, inputs=None)

    def _trained_model(self, name: str) -> keras.Model:
        path = self.model_folder(name) / "model.keras"
        if not path.exists():
            raise FileNotFoundError(
                f"run {self.folder.name!r} has no trained {name!r} (it has: {', '.join(self.trained) or 'none'}). Run "
                f"02_train_models first with run_name={self.folder.name!r} and {name!r} in its models."
            )
        before, now = _stamp(self.model_folder(name)), self._data_facts()
        differ = [f"{k}={before.get(k)!r} (now {now[k]!r})" for k in now if before.get(k) != now[k]]
        if differ:
            raise ValueError(
                f"{name!r} of run {self.folder.name!r} was trained with {', '.join(differ)}. Use the same parameters, "
                "or train under another run_name."
            )
        model = load_model(path)
        if model.layers[-1].name != VALUE_LAYER:
            return model
        name = self._dataset("test").value_name or "value"
        return wrap(model, scaling="model", head="regression", class_names=[name])

    # Results --------------------------------------------------------------------------------------------------------

    def save_figure(self, figure: Figure, name: str, caption: str, columns: int = 0) -> Picture:
        """Write ``figures/<name>.png`` (300 dpi) and ``.pdf``, ``columns`` (1 or 2; 0: as it is drawn) of a journal
        wide (`xaiutils.plots.columns.fit_columns`), and return a picture for the notebook to show. ``caption`` goes to
        the report."""
        path = self.folder / "figures" / f"{name}.png"
        print_figure(figure, path, columns)
        self._add("figure", path, caption, pictures=shows_images(figure))
        return Picture(path)

    def save_table(self, table: pd.DataFrame, name: str, caption: str, index: bool = False) -> pd.DataFrame:
        """Write ``tables/<name>.csv`` and return the table. Long tables are written as Parquet too. ValueError for a
        table without columns, which no reader of CSV takes."""
        if len(table.columns) == 0:
            raise ValueError(f"table {name!r} has no columns: there is nothing to write.")
        path = self.folder / "tables" / f"{name}.csv"
        write_text(path, csv_text(table, index))
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
        self, name: str, maps: Mapping[str, np.ndarray], ids: Sequence[str], images: np.ndarray | None = None
    ) -> Path:
        """Write ``maps/<name>.npz``: maps ``(n, height, width)`` by name, the images' ``ids``, and ``images``, if
        given: the report of a batch draws maps of several runs over them. See `xaiutils.workbook.map_files`."""
        path = write_maps(self.folder / "maps" / f"{name}.npz", maps, ids, images)
        self._add("maps", path, f"maps of {', '.join(maps)}")
        return path

    def load_maps(self, name: str) -> dict[str, np.ndarray]:
        """The maps of `save_maps` as float32, their ``ids``, and the ``images`` where they were kept."""
        return read_maps(self.folder / "maps" / f"{name}.npz")

    def expected(self, what: str, value: float, known: float, tolerance: float) -> str:
        """A line for a cell whose output is compared: what ``value`` is beside the ``known`` one of the default run.

        Within ``tolerance`` of it the line is the same on every machine; outside (or NaN) it is another. Data or models
        made with other parameters have no known value: the line gives theirs.
        """
        ours = {k: v for k, v in self.parameters.items() if k not in _NOTEBOOKS_OWN}
        known_as = {**{k: PARAMETERS[k].default for k in ours}, **OWN_DEFAULTS.get(self.notebook, {})}
        if any(v != known_as[k] for k, v in ours.items()):
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
        if not self._writes:
            return
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


def _stamp(folder: Path) -> dict[str, Any]:
    """What `Run.stamp_model` noted in a model's folder, or what is kept of an own one."""
    path = next((path for name in ("data.json", KEPT) if (path := folder / name).exists()), None)
    return {} if path is None else json.loads(path.read_text(encoding="utf-8"))


def folders(parameters: Mapping[str, Any]) -> tuple[Path, Path]:
    """The run's folder, and that of its models: in a batch, notebooks with folders of their own share what was prepared
    and trained for all of them."""
    root = os.environ.get("XAI_RUNS") or parameters.get("runs_dir", "../runs")
    folder = Path(str(root)).resolve() / str(parameters.get("run_name", "default"))
    return folder, Path(os.environ.get("XAI_BATCH_MODELS") or folder / "models")
