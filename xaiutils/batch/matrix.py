"""The matrix of a batch, in YAML: what is run on what. Read here, and checked as a whole before anything starts."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from xaiutils.attribution import METHODS, resolve
from xaiutils.datasets import DATASETS
from xaiutils.file_limits import check_regular
from xaiutils.models import MODELS
from xaiutils.registry import is_integer, suggest
from xaiutils.text import one_line
from xaiutils.workbook.execute import literal
from xaiutils.workbook.own_models import OPTIONS, file_digest, is_file, own_model
from xaiutils.workbook.parameters import PARAMETERS, check, text_names
from xaiutils.workbook.run_all import NOTEBOOKS, dataset_problems, resolve_folder
from xaiutils.yaml_text import NumberLoader, load_yaml

AXES = ("dataset", "model", "recipe", "seed", "method")
GRAINS = ("method", "model")
_KEYS = ("name", "notebooks", "common", "datasets", "models", "recipes", "seeds", "methods", "exclude", "grain",
         "cell_hours")  # fmt: skip
_NOTEBOOK_KEYS = ("folder", "data", "train", "cells")
_DEFAULT_NOTEBOOKS = {
    "data": "01_data_preparation",
    "train": "02_train_models",
    # A gallery of all methods in each cell of a method would be the same picture many times.
    "cells": [{"name": "04_qualitative_comparison", "gallery_images": []}, "05_quantitative_comparison"],
}
_AXIS_PARAMETERS = {"dataset", "model", "models", "recipe", "seed", "method", "methods"}
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_OWN_FOLDERS = {"plan", "attempts", "failed", "report", "lock"}  # of every batch: a notebook's would be swept away
_NO_FOLDER = re.compile(r"^\.|[{}]")  # braces are patterns to Snakemake
_RUN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class MatrixError(ValueError):
    """A matrix that cannot be run; ``problems`` are all that was found, in words."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(dict.fromkeys(problems))
        super().__init__("the matrix cannot be run:\n- " + "\n- ".join(self.problems))


@dataclass(frozen=True)
class Entry:
    """One value of an axis: ``name`` in folders and tables, what it stands for, and parameters that go with it: of
    notebooks, or of the method."""

    name: str
    value: Any
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_name(self) -> str:
        """What notebooks call the model that it stands for."""
        return self.value["name"] if isinstance(self.value, Mapping) else self.value


@dataclass(frozen=True)
class Step:
    """A notebook of the matrix. ``kind`` is data, train or cell; ``declared`` are the names in its parameters cell;
    ``grain`` "method" runs it again for each method, "model" once for all methods. ``takes_trained``: left to itself it
    explains the models that were trained in its run."""

    kind: str
    path: Path
    declared: frozenset[str]
    grain: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    takes_trained: bool = False

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes by which this notebook is run again, as shown by the parameters that it declares."""
        if self.kind == "data":
            return ("dataset", "seed")
        if self.kind == "train":
            return ("dataset", "model", "recipe", "seed")
        if not self.declared & {"model", "models"}:
            return ("dataset", "seed")
        by_method = "method" in self.declared if "methods" not in self.declared else self.grain == "method"
        return AXES if by_method else AXES[:-1]


@dataclass(frozen=True)
class Matrix:
    """A matrix whose names, types and parameters are right. ``exclude``: by axis (or "notebook"), the names; an entry
    leaves out the cells that it fits in all that it names."""

    name: str
    steps: tuple[Step, ...]
    common: Mapping[str, Any]
    datasets: tuple[Entry, ...]
    models: tuple[Entry, ...]
    recipes: tuple[Entry, ...]
    seeds: tuple[int, ...]
    methods: tuple[Entry, ...]
    exclude: tuple[Mapping[str, tuple[Any, ...]], ...]
    cell_hours: float

    def axis(self, name: str) -> tuple[Entry, ...]:
        """The values of an axis of `AXES`."""
        if name == "seed":
            return tuple(Entry(str(seed), seed) for seed in self.seeds)
        lists = {"dataset": self.datasets, "model": self.models, "recipe": self.recipes, "method": self.methods}
        return lists[name]

    def data_dir(self, dataset: Entry) -> str:
        """The folder with the files of a data set, or "" for one that reads none; by default the notebooks' own."""
        if not DATASETS[dataset.value].reads_files:
            return ""
        given = {**self.common, **dataset.parameters}.get("data_dir")
        notebooks = self.steps[0].path.parent if self.steps else NOTEBOOKS
        return given or str((notebooks / PARAMETERS["data_dir"].default).resolve())

    def excluded(self, point: Mapping[str, Any]) -> bool:
        """Whether an exclusion names nothing but axes of ``point``, and fits it in all of them."""
        return any(all(axis in point and point[axis] in names for axis, names in e.items()) for e in self.exclude)


class _Loader(NumberLoader):
    """YAML in which a key that is given twice is an error."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if not isinstance(key, str | int | float | None):
            raise yaml.constructor.ConstructorError(None, None, "a key that is no text or number", node.start_mark)
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_matrix(path: str | Path) -> tuple[Matrix, list[str]]:
    """A matrix of what is right in the file, and in words everything that is not: keys, names, types, parameters.

    A matrix with problems is not to be run; it serves to look for the problems of data and disk too, so that all can be
    reported at once (`xaiutils.batch.preflight`). Raises MatrixError where the file is no matrix at all.
    """
    path = Path(path)
    try:
        check_regular(path)
        content = load_yaml(path.read_text(encoding="utf-8"), _Loader, text_names())
    except (OSError, ValueError) as error:
        raise MatrixError([f"{path} cannot be read: {error}"]) from error
    if not isinstance(content, dict):
        raise MatrixError([f"{path} must hold 'name: value' lines; known names are {', '.join(_KEYS)}."])
    return _Reader(content, path).read()


class _Reader:
    """Collects problems while it reads, so that all of them can be reported."""

    def __init__(self, content: Mapping[str, Any], path: Path):
        self.content, self.path = content, path
        self.problems: list[str] = []

    def read(self) -> tuple[Matrix, list[str]]:
        self.known("unknown key", self.content, _KEYS)
        name = self.content.get("name", self.path.stem)
        if not isinstance(name, str) or not _RUN.fullmatch(name):
            self.problems.append(f"name={name!r} is not a folder name; use letters, digits, ., - and _.")
            name = "matrix"
        steps = self.steps()
        common = self.parameters("common", self.of_kind("common", dict, {}))
        datasets = self.entries("datasets", "dataset", DATASETS)
        models = self.entries("models", "model", MODELS)  # or files of the user's own
        recipes = self.entries("recipes", "recipe", PARAMETERS["recipe"].choices, ["auto"])
        needs_methods = any(step.declared & {"method", "methods"} for step in steps)
        methods = self.methods() if needs_methods or "methods" in self.content else ()
        seeds = self.seeds()
        hours = self.content.get("cell_hours", 24)
        if isinstance(hours, bool) or not isinstance(hours, int | float) or not hours > 0:
            self.problems.append(f"cell_hours={hours!r} is not a number above 0.")
        matrix = Matrix(name, steps, common, datasets, models, recipes, seeds, methods, (), hours)
        names: dict[str, list[Any]] = {axis: [entry.name for entry in matrix.axis(axis)] for axis in AXES}
        names |= {"seed": list(seeds), "notebook": [step.name for step in steps]}
        matrix = replace(matrix, exclude=self.exclusions(names))
        self.problems += _mismatches(matrix) if steps else []
        return matrix, list(dict.fromkeys(self.problems))

    def known(self, what: str, given: Iterable[Any], allowed: Collection[Any]) -> None:
        self.problems += [
            f"{what} {key!r}; {suggest(key, list(map(str, allowed)))}" for key in given if key not in allowed
        ]

    def of_kind(self, key: str, kind: type, default: Any) -> Any:
        value = self.content.get(key)
        if value is None:  # also what YAML makes of a key without a value
            return default
        if isinstance(value, kind):
            return value
        self.problems.append(f"{key} is {value!r}; expected {'a list' if kind is list else 'name: value lines'}.")
        return default

    def seeds(self) -> tuple[int, ...]:
        seeds = self.of_kind("seeds", list, [0])
        whole = [s for s in seeds if is_integer(s) and 0 <= s < 2**32]
        wrong = [s for s in seeds if not any(s is known for known in whole)]
        self.problems += [f"seeds: {seed!r} is not an integer from 0 to 2**32 - 1." for seed in wrong]
        if len(set(map(str, seeds))) < len(seeds) or not seeds:
            self.problems.append("seeds must name at least one seed, and none twice.")
        return tuple(whole)

    def steps(self) -> tuple[Step, ...]:
        given = {**_DEFAULT_NOTEBOOKS, **self.of_kind("notebooks", dict, {})}
        self.known("notebooks: unknown key", given, _NOTEBOOK_KEYS)
        folder = self.path.parent / str(given["folder"]) if "folder" in given else NOTEBOOKS
        cells = given["cells"] if isinstance(given["cells"], list) else [given["cells"]]
        kinds = [("data", given["data"]), ("train", given["train"]), *(("cell", cell) for cell in cells)]
        found = [self.step(kind, value, folder) for kind, value in kinds if value is not None or kind == "cell"]
        steps = tuple(step for step in found if step is not None)
        if len({step.name for step in steps}) < len(steps):
            self.problems.append("notebooks: one of them is named twice.")
        for step in steps:
            if given["data"] is None and step.path.parent == NOTEBOOKS and "dataset" not in step.declared:
                self.problems.append(f"notebooks: data is null, but {step.name} takes its data from that stage.")
            if given["train"] is None and step.takes_trained:
                self.problems.append(f"notebooks: train is null, but {step.name} explains the models of that stage.")
        return steps

    def step(self, kind: str, value: Any, folder: Path) -> Step | None:
        import papermill

        where = f"notebooks/{'cells' if kind == 'cell' else kind}"
        entry = self.entry(where, value)
        if entry is None:
            return None
        path = (folder / f"{entry.name.removesuffix('.ipynb')}.ipynb").resolve()
        if not path.is_file():
            known = sorted(p.stem for p in folder.glob("*.ipynb"))
            self.problems.append(f"{where}: there is no {path}; {suggest(entry.name, known)}")
            return None
        if path.stem.casefold() in _OWN_FOLDERS or _NO_FOLDER.search(path.stem) or one_line(path.stem) != path.stem:
            self.problems.append(
                f"{where}: {path.stem!r} cannot be a folder of the batch; give the notebook a plain name."
            )
            return None
        own = dict(entry.parameters)
        grain = own.pop("grain", self.content.get("grain", "method"))
        if grain not in GRAINS:
            self.problems.append(f"grain={grain!r} is unknown; {suggest(grain, list(GRAINS))}")
        own = self.parameters(f"{where}/{entry.name}", own)
        found = papermill.inspect_notebook(literal(path))
        trained = any(found[name]["default"] in ("[]", '""') for name in ("model", "models") if name in found)
        return Step(kind, path, frozenset(found), grain, own, trained)

    def entry(self, where: str, value: Any, key: str = "") -> Entry | None:
        """A name alone, or a mapping with a name; ``key``: what says in the mapping what the name stands for."""
        if isinstance(value, str):
            return Entry(value, value)
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            self.problems.append(f"{where}: {value!r} is neither a name nor a mapping with a 'name'.")
            return None
        rest = {k: v for k, v in value.items() if k not in ("name", key)}
        return Entry(value["name"], value.get(key, value["name"]) if key else value["name"], rest)

    def own_model(self, value: Any) -> Entry | None:
        """A model of the user's own, whose value is the mapping that notebooks take, with the digest of its file: a
        changed file is another model. None for one that is not as it should be."""
        given = dict(value) if isinstance(value, Mapping) else {}
        rest = {name: given.pop(name) for name in list(given) if name in PARAMETERS and name not in OPTIONS}
        try:
            own = own_model(given or value)
        except ValueError as error:
            self.problems.append(str(error))
            return None
        if own is None:
            return None
        return Entry(own.name, own.entry | {"digest": file_digest(own.path)}, rest)

    def entries(self, key: str, axis: str, known: Iterable[str], default: Sequence[Any] = ()) -> tuple[Entry, ...]:
        """The entries of an axis whose values are in ``known``."""
        found = []
        for value in self.of_kind(key, list, list(default)):
            of_file = axis == "model" and is_file(value)
            entry = self.own_model(value) if of_file else self.entry(key, value, axis)
            if entry is None:
                continue
            if not _LABEL.fullmatch(entry.name):
                self.problems.append(f"{key}: {entry.name!r} is not a label; use letters, digits, - and _.")
            if not isinstance(entry.value, Mapping) and (not isinstance(entry.value, str) or entry.value not in known):
                self.problems.append(f"{key}: {entry.value!r} is no {axis}; {suggest(entry.value, list(known))}")
                continue
            own = entry.parameters if axis == "method" else self.parameters(f"{key}/{entry.name}", entry.parameters)
            found.append(Entry(entry.name, entry.value, own))
        twice = [name for name, count in Counter(entry.name for entry in found).items() if count > 1]
        self.problems += [f"{key}: {name!r} is given twice; give one of them another 'name'." for name in twice]
        if not found and not (self.content.get(key) or default):
            self.problems.append(f"{key} must name at least one.")
        return tuple(found)

    def methods(self) -> tuple[Entry, ...]:
        entries = self.entries("methods", "method", METHODS)
        for entry in entries:
            try:
                resolve([entry.name], {entry.name: {**entry.parameters, "method": entry.value}})
            except (KeyError, TypeError, ValueError) as error:
                self.problems.append(f"methods/{entry.name}: {error}")
        return entries

    def parameters(self, where: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The checked notebook parameters; what is wrong with them goes to the problems."""
        checked: dict[str, Any] = {}
        for name, value in given.items():
            if name in _AXIS_PARAMETERS:
                self.problems.append(f"{where}: {name} is an axis of the matrix; it has a list of its own.")
                continue
            if name in ("run_name", "runs_dir"):
                self.problems.append(f"{where}: {name} is set by the batch; give --runs for another place.")
                continue
            try:
                checked |= check({name: value})
                if name == "data_dir":
                    checked[name] = resolve_folder(checked[name])
            except ValueError as error:
                text = str(error)
                self.problems += [f"{where}: {line}" for line in text.split("\n- ")[1:] or [text]]
        return checked

    def exclusions(self, names: Mapping[str, Sequence[Any]]) -> tuple[Mapping[str, tuple[Any, ...]], ...]:
        """``names``: all names, by axis."""
        found = []
        for given in self.of_kind("exclude", list, []):
            if not isinstance(given, dict) or not given:
                self.problems.append(f"exclude: {given!r} is not of the form {{dataset: ..., method: ...}}.")
                continue
            self.known("exclude: unknown axis", given, names)
            entry = {a: tuple(v) if isinstance(v, list) else (v,) for a, v in given.items() if a in names}
            for axis, excluded in entry.items():
                self.known(f"exclude: no {axis} is named", excluded, names[axis])
            if len(entry) == len(given):  # with an axis left out it would fit what it was not meant for
                found.append(entry)
        return tuple(found)


def _mismatches(matrix: Matrix) -> list[str]:
    """Parameters that nobody takes, data sets without the options asked of them, methods that a model does not suit."""
    problems = []
    everywhere = frozenset().union(*(step.declared for step in matrix.steps))
    of_data = frozenset().union(*(step.declared for step in matrix.steps if step.kind == "data"))
    taken = [("common", matrix.common, everywhere)]
    taken += [(f"notebooks/{step.name}", step.parameters, step.declared) for step in matrix.steps]
    for key, entries in (("datasets", matrix.datasets), ("models", matrix.models), ("recipes", matrix.recipes)):
        taken += [(f"{key}/{entry.name}", entry.parameters, everywhere) for entry in entries]
    for where, parameters, declared in taken:
        for name in parameters:
            if name not in declared:
                who = "this notebook does not take" if where.startswith("notebooks/") else "no notebook here takes"
                problems.append(f"{where}: {who} the parameter {name!r}; {suggest(name, sorted(declared))}")
            elif name in of_data and not where.startswith(("common", "datasets/")):
                problems.append(
                    f"{where}: {name} is one of the data, which are prepared once for all models; give it in common, "
                    "or in an entry of datasets."
                )
    for entry in matrix.datasets:
        facts = {**matrix.common, **entry.parameters, "dataset": entry.value}
        if "data_dir" in matrix.common and not DATASETS[entry.value].reads_files:
            facts.pop("data_dir")  # meant for the other data sets
        problems += [f"datasets/{entry.name}: {problem}" for problem in dataset_problems(facts)]
    return problems + [text for model in matrix.models if (text := _unsuited(matrix, model))]


def _unsuited(matrix: Matrix, model: Entry) -> str:
    """Which methods cannot explain a model for which the matrix asks for them, in words, or ""."""
    if isinstance(model.value, Mapping):
        return ""  # a model of the user's own: notebooks leave out what does not suit it, and say so
    family = MODELS[model.value].family
    cells = [step.name for step in matrix.steps if step.kind == "cell" and step.declared & {"method", "methods"}]
    points = [
        {"dataset": dataset.name, "model": model.name, "recipe": recipe.name, "seed": seed, "notebook": cell}
        for dataset in matrix.datasets
        for recipe in matrix.recipes
        for seed in matrix.seeds
        for cell in cells
    ]
    unsuited = ", ".join(
        entry.name
        for entry in matrix.methods
        if family not in METHODS[entry.value].suits
        and not all(matrix.excluded({**point, "method": entry.name}) for point in points)
    )
    if not unsuited:
        return ""
    exclusion = f"{{model: {model.name}, method: [{unsuited}]}}"
    return f"methods: {unsuited} cannot explain {model.name}, a {family}; add to exclude: {exclusion}"
