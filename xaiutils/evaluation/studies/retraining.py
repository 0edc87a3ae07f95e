"""Checks that train models anew: are the pixels that a method names those that a model learns from?

`remove_and_retrain` is ROAR and KAR (Hooker et al. 2019, arXiv:1806.10758); `label_models` and `map_similarity` are the
data randomisation test (Adebayo et al. 2018, arXiv:1810.03292). Both train many models; with a folder, what was
finished is kept there, and a run that was cut goes on with the rest.
"""

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaiutils import __version__
from xaiutils.attribution import explain_all, own_readings, resolve
from xaiutils.backend import keras
from xaiutils.classification import mean_auc
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.map_similarity import SIMILARITIES
from xaiutils.evaluation.score_tables import CONTROLS, ORACLES
from xaiutils.evaluation.studies.controls import control_maps
from xaiutils.evaluation.thresholds import pixel_ranks
from xaiutils.files import write_text
from xaiutils.graph.predict import predict
from xaiutils.progress import progress
from xaiutils.registry import suggest
from xaiutils.training import Recipe, train
from xaiutils.training.predictions import predictions_of
from xaiutils.training.recipes import change_recipe, in_every_stage

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
RANKINGS = tuple(name for name in CONTROLS if name not in ORACLES)
MODES = ("remove", "keep", "shape")
EXPLAINED = ("predicted", "label")
UNCHANGED = "unchanged"  # the method of rows on models that were trained on the images as they are
PERMUTED, ANOTHER = "permuted labels", "another start"
_BLOCK = 64  # images whose maps are in memory at a time

Build = Callable[[int], keras.Model]
Splits = Sequence[ImageDataset]


# Remove and retrain -----------------------------------------------------------------------------------------------


def remove_and_retrain(
    model: keras.Model,
    build: Build,
    splits: Splits,
    methods: Iterable[str] = ("grad_cam",),
    fractions: Sequence[float] = FRACTIONS,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    folder: str | Path | None = None,
    *,
    mode: str = "remove",
    controls: Iterable[str] = ("random",),
    explained: str = "predicted",
    parameters: Mapping[str, Mapping] | None = None,
    recipe: str | Recipe = "modern",
    epochs: int | None = None,
    batch_size: int = 32,
    **changes: Any,
) -> pd.DataFrame:
    """ROAR, remove and retrain: how well can a model still be trained when the pixels that a method ranks highest are
    gone from every image, of training, validation and test?

    In each image the pixels of the highest values in ``model``'s map, read as the method declares
    (`Method.own_reading`, or a ``reading`` among its parameters; ties by position), show the mean colour of the
    training images, rounded to whole grey levels. The further the accuracy falls, and further than with random pixels,
    the better the method found what the class can be learnt from. That is a statement on the data as much as on
    ``model``: where evidence is redundant, a new model learns from what the old one did not use. And the shape of what
    was removed may itself tell the class (Rong et al. 2022, arXiv:2202.00449): ``mode="shape"`` measures it. Blurring a
    map can improve its rank (Song et al. 2023, arXiv:2304.13836).

    Args:
        model: the trained classifier whose maps rank the pixels.
        build: ``build(seed)`` returns the untrained model that every training of that seed starts from.
        splits: training, validation and test images; the changed ones of all three are in memory at once.
        methods: as `xaiutils.explain_all` takes them, with their ``parameters``.
        fractions: parts of the pixels that are replaced, between 0 and 1, in rising order; the default is the paper's.
        seeds: a model is trained from each, for every method and fraction; the paper trains five.
        folder: each finished model leaves a small file here, and is not trained again by a call with the same images,
            weights, parameters, recipe and version of this package. None: nothing is kept.
        mode: "remove" is ROAR. "keep" is KAR, keep and retrain: the fraction is that of the pixels that stay, and the
            others are replaced; a good method keeps the accuracy high. "shape" (our addition) removes as ROAR does and
            makes the other pixels white: how far the accuracy is above chance is what the shape alone gives away.
        controls: rankings that know nothing of the model, of `RANKINGS`; the paper has ``random`` and edges.
        explained: the class of the maps: "predicted" by ``model``, as in the paper's code, or the "label" (which puts
            test labels into test images, by what is removed).
        recipe, epochs, changes: of the training, see `xaiutils.train`; changes are fields of the recipe.
        batch_size: of the passes without training.

    Returns:
        One row a trained model: mode, method (`UNCHANGED` first, which is the same in all modes), fraction (of
        `UNCHANGED` 0, or 1 in "keep"), seed, accuracy and auc on the test split (the AUC of each class against the
        rest, averaged), kept_epoch, seconds (of training and test).

    Raises:
        UnknownNameError, TypeError, ValueError: a name or an argument is not as needed.
    """
    chosen, controls = resolve(methods, parameters), list(controls)
    fractions, seeds = [float(f) for f in fractions], [int(s) for s in seeds]
    _check(list(chosen), controls, fractions, seeds, mode, explained, splits)
    recipe = change_recipe(recipe, changes)
    starts, ranker = _Starts(build), _Ranker(model, splits, fractions, mode, explained, batch_size)
    shared = [__version__, _of_splits(splits), recipe.to_yaml(), epochs]
    tasks = [(UNCHANGED, float(mode == "keep")), *((name, f) for name in [*chosen, *controls] for f in fractions)]
    rows = []
    for name, fraction in progress(tasks, title=f"{mode} and retrain"):
        given = {**(parameters or {}).get(name, {})} if name in chosen else None
        about = name
        if given is not None:
            method, values = chosen[name]
            given["reading"] = method.own_reading(given)
            about = [method.name, values, given["reading"], explained, _of_weights(model)]
        cells = [_Cell(mode, name, fraction, seed, _digest(shared, about, starts.digest(seed))) for seed in seeds]
        found = {cell: cell.read(folder) for cell in cells}
        missing = [cell for cell in cells if found[cell] is None]
        changed = ranker.changed(name, fraction, given) if missing and name != UNCHANGED else splits
        with tempfile.TemporaryDirectory(prefix="xai-") as work:  # where the seeds share a frozen backbone's features
            for cell in missing:
                network = starts.model(cell.seed)
                found[cell] = _train_and_test(network, changed, recipe, epochs, cell.seed, work, batch_size)
                cell.write(folder, found[cell])
        rows += [{**cell.columns, **found[cell]} for cell in cells]
    return pd.DataFrame(rows)


def _check(methods, controls, fractions, seeds, mode, explained, splits) -> None:
    if len(splits) != 3:
        raise ValueError(f"splits has {len(splits)} data sets; expected three: training, validation and test.")
    for name in controls:
        if name not in RANKINGS:
            raise ValueError(f"controls: {name!r} is unknown; {suggest(name, list(RANKINGS))}")
    names = [UNCHANGED, *methods, *controls]
    if len(set(names)) < len(names) or not methods + controls:
        raise ValueError(f"methods={methods} and controls={controls}: expected different names, and at least one.")
    rising = sorted(set(fractions)) == fractions and all(0 < f < 1 for f in fractions)
    if not rising or not 0 < len(fractions) < 256:
        raise ValueError(f"fractions={fractions}; expected up to 255 numbers between 0 and 1 in rising order.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={seeds}; expected at least one, and each once.")
    for name, value, known in (("mode", mode, MODES), ("explained", explained, EXPLAINED)):
        if value not in known:
            raise ValueError(f"{name}={value!r} is unknown; {suggest(value, list(known))}")


class _Ranker:
    """The splits with a fraction of the pixels replaced, by the maps of one method or control at a time."""

    def __init__(self, model: keras.Model, splits: Splits, fractions, mode: str, explained: str, batch_size: int):
        self._model, self._splits, self._fractions = model, splits, fractions
        self._mode, self._explained, self._batch_size = mode, explained, batch_size
        self._fill = splits[0].pixels.mean(axis=(0, 1, 2)).round().astype(np.uint8)
        self._name, self._levels = "", []

    def changed(self, name: str, fraction: float, given: Mapping[str, Any] | None) -> list[ImageDataset]:
        """``given``: the method's parameters, or None for a control."""
        if name != self._name:
            self._levels = [self._levels_of(ds, name, given, number) for number, ds in enumerate(self._splits)]
            self._name = name
        last, results = self._fractions.index(fraction), []
        for ds, levels in zip(self._splits, self._levels, strict=True):
            replaced = levels > last if self._mode == "keep" else levels <= last
            others = np.uint8(255) if self._mode == "shape" else ds.pixels
            results.append(replace(ds, pixels=np.where(replaced[..., None], self._fill, others)))
        return results

    def _levels_of(self, ds: ImageDataset, name: str, given: Mapping[str, Any] | None, number: int) -> np.ndarray:
        """The first of the fractions, by its number, that a pixel is in; uint8 ``(n, height, width)``."""
        counts = np.rint(np.array(self._fractions) * ds.pixels[0, ..., 0].size)
        levels = np.empty(ds.pixels.shape[:3], np.uint8)
        for start in progress(range(0, len(ds), _BLOCK), title=f"maps of {name}"):
            part = ds.select(np.arange(start, min(start + _BLOCK, len(ds))))
            if given is None:
                seed = int(np.random.default_rng([number, start]).integers(2**31))
                maps = control_maps(replace(part, masks=None), seed)[name]
            else:
                targets = part.labels if self._explained == "label" else None
                maps = explain_all(self._model, part.images, targets, [name], self._batch_size, {name: given})[name]
            levels[start : start + len(part)] = np.searchsorted(counts, pixel_ranks(maps), side="right")
        return levels


def _train_and_test(model, splits, recipe, epochs, seed, work, batch_size) -> dict[str, Any]:
    begun = time.monotonic()
    history = train(model, splits[0], splits[1], recipe, epochs, work, seed, formats=())
    scores = _scores(model, splits[2], batch_size)
    return {**scores, "kept_epoch": int(history.attrs["kept_epoch"]), "seconds": round(time.monotonic() - begun, 2)}


def _scores(model: keras.Model, ds: ImageDataset, batch_size: int) -> dict[str, float]:
    found = predictions_of(model, ds, batch_size)
    accuracy = float((found.predicted == ds.labels).mean())
    return {"accuracy": accuracy, "auc": mean_auc(ds.labels, found.probabilities)}


@dataclass(frozen=True)
class _Cell:
    """One model that is trained, and the file of its result: there, it is finished."""

    mode: str
    method: str
    fraction: float
    seed: int
    digest: str

    @property
    def columns(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "digest"}

    def _path(self, folder: str | Path) -> Path:
        name = re.sub(r"[^\w.]+", "_", self.method)
        what = UNCHANGED if self.method == UNCHANGED else f"{self.mode}-{name}-{self.fraction:g}"
        return Path(folder) / f"{what}-{self.seed}-{self.digest}.json"

    def read(self, folder: str | Path | None) -> dict[str, Any] | None:
        if folder is None or not self._path(folder).exists():
            return None
        return json.loads(self._path(folder).read_text(encoding="utf-8"))["result"]

    def write(self, folder: str | Path | None, result: dict[str, Any]) -> None:
        if folder is not None:
            write_text(self._path(folder), json.dumps({**self.columns, "result": result}, indent=1))


class _Starts:
    """The models that trainings start from: built once for each seed, and given back the weights of their start."""

    def __init__(self, build: Build):
        self._build = build
        self._known: dict[int, tuple[keras.Model, list[np.ndarray], str]] = {}

    def _of(self, seed: int) -> tuple[keras.Model, list[np.ndarray], str]:
        if seed not in self._known:
            model = self._build(seed)
            self._known[seed] = model, [v.numpy() for v in model.variables], _of_weights(model)
        return self._known[seed]

    def model(self, seed: int) -> keras.Model:
        model, values, _ = self._of(seed)
        for variable, value in zip(model.variables, values, strict=True):  # with the states of dropout's generators
            variable.assign(value)
        return model

    def digest(self, seed: int) -> str:
        return self._of(seed)[2]


# Labels at random ------------------------------------------------------------------------------------------------


def label_models(
    build: Build,
    splits: Splits,
    folder: str | Path | None = None,
    *,
    seed: int = 0,
    fit: Mapping[str, Any] | None = None,
    recipe: str | Recipe = "modern",
    epochs: int | None = None,
    batch_size: int = 32,
    **changes: Any,
) -> tuple[dict[str, keras.Model], pd.DataFrame]:
    """Two models to compare a trained one with: `PERMUTED`, from the same start but trained on permuted labels until it
    fits them, and `ANOTHER`, trained on the true labels from another start.

    A map of the first should differ from the trained model's by far more than a map of the second: else it shows the
    image, not what was learnt. The second is our addition, for without it there is no telling how alike is alike.

    Args:
        build: as in `remove_and_retrain`; ``build(seed)`` is the start of `PERMUTED`, ``build(seed + 1)`` of `ANOTHER`.
        splits: training, validation and test images.
        folder: where the models' weights are kept; a later call that wants the same models reads them.
        seed: of the starts, the order of training images, and the permutation.
        fit: further fields of the recipe for the permuted labels, which take longer to fit: more epochs, a higher
            learning rate. Its last stage keeps the epoch of the lowest training loss, and none stops early.
        recipe, epochs, changes: of the training, see `xaiutils.train`; changes are fields of the recipe.
        batch_size: of the passes without training.

    Returns:
        The models by name, and a table: model, train_accuracy (on the labels it was trained on; the test holds only
        where that of `PERMUTED` is high), accuracy and auc on the test split.

    Raises:
        TypeError, ValueError: an argument is not as needed.
    """
    if len(splits) != 3:
        raise ValueError(f"splits has {len(splits)} data sets; expected three: training, validation and test.")
    train_ds, val_ds, test_ds = splits
    recipe = change_recipe(recipe, changes)
    fitting = change_recipe(recipe, fit or {})
    if epochs is not None and "epochs" not in (fit or {}):
        fitting = in_every_stage(fitting, epochs=epochs)
    patience = max(stage.epochs for stage in fitting.stages)
    fitting = in_every_stage(fitting, monitor="loss", also_keep="", patience=patience)
    labels = np.random.default_rng(seed).permutation(train_ds.labels)
    permuted = replace(train_ds, labels=labels)
    wanted = {PERMUTED: (seed, permuted, fitting, None), ANOTHER: (seed + 1, train_ds, recipe, epochs)}
    models, rows = {}, []
    for name, (start, labelled, how, length) in progress(wanted.items(), title="models of other labels"):
        models[name] = _trained(build(start), labelled, val_ds, how, length, start, folder, name)
        of_train = _scores(models[name], labelled, batch_size)["accuracy"]
        rows.append({"model": name, "train_accuracy": of_train, **_scores(models[name], test_ds, batch_size)})
    return models, pd.DataFrame(rows)


def _trained(model, train_ds, val_ds, recipe, epochs, seed, folder, name) -> keras.Model:
    if folder is None:
        train(model, train_ds, val_ds, recipe, epochs, seed=seed)
        return model
    digest = _digest(__version__, _of_splits((train_ds, val_ds)), recipe.to_yaml(), epochs, seed, _of_weights(model))
    kept = Path(folder) / f"{name.replace(' ', '_')}-{digest}"
    weights = kept / "model.weights.h5"
    if weights.exists():
        model.load_weights(weights)
    else:
        train(model, train_ds, val_ds, recipe, epochs, kept, seed, resume=True, formats=(".weights.h5",))
    return model


def map_similarity(
    model: keras.Model,
    others: Mapping[str, keras.Model],
    ds: ImageDataset,
    methods: Iterable[str],
    targets: int | Iterable[int] | None = None,
    similarities: Iterable[str] = ("spearman", "ssim", "hog"),
    batch_size: int = 32,
    parameters: Mapping[str, Mapping] | None = None,
) -> pd.DataFrame:
    """How alike the maps of ``model`` and of each other model are, image by image, for the same class.

    Maps are read as their method declares (`Method.own_reading`, or a ``reading`` among its ``parameters``).
    ``targets`` None: the class that ``model`` predicts.
    ``others`` by name, such as `label_models` returns; ``similarities`` of `xaiutils.evaluation.map_similarity`;
    ``methods`` and ``parameters`` as `xaiutils.explain_all` takes them.

    Returns a row for each method, model, image and similarity: method, model, image_id, reading, similarity, value (NaN
    where a map is constant), p (what the other model says of the class).
    """
    measures = {name: SIMILARITIES[name] for name in similarities}
    methods, images = list(methods), ds.images
    if targets is None:
        targets = predict(model, images, batch_size).argmax(axis=1)
    targets = np.broadcast_to(np.asarray(targets), len(images))
    parameters = own_readings(methods, parameters)
    maps = explain_all(model, images, targets, methods, batch_size, parameters)
    tables = []
    for name, other in others.items():
        p = predict(other, images, batch_size, probabilities=True)[np.arange(len(images)), targets]
        for method, found in explain_all(other, images, targets, methods, batch_size, parameters).items():
            columns = {"method": method, "model": name, "image_id": ds.ids, "reading": parameters[method]["reading"]}
            tables += [
                pd.DataFrame({**columns, "similarity": s, "value": measure(maps[method], found), "p": p})
                for s, measure in measures.items()
            ]
    return pd.concat(tables, ignore_index=True)


# What a result depends on -------------------------------------------------------------------------------------------


def _digest(*parts: Any) -> str:
    def plain(value: Any) -> str:
        return hashlib.blake2b(value.tobytes()).hexdigest() if isinstance(value, np.ndarray) else repr(value)

    text = json.dumps(parts, default=plain, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _of_splits(splits: Iterable[ImageDataset]) -> str:
    digest = hashlib.blake2b()
    for ds in splits:
        digest.update(f"{ds.pixels.shape} {ds.labels.tolist()} {ds.mirrors}".encode())
        for start in range(0, len(ds), _BLOCK):  # pixels may be a view of a file larger than memory
            digest.update(np.ascontiguousarray(ds.pixels[start : start + _BLOCK]))
    return digest.hexdigest()


def _of_weights(model: keras.Model) -> str:
    digest = hashlib.blake2b(" ".join(type(layer).__name__ for layer in model.layers).encode())
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight))
    return digest.hexdigest()
