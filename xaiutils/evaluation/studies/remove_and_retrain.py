"""Remove and retrain (ROAR), keep and retrain (KAR): are the pixels that a method names those that a model learns from?

Hooker et al. 2019, arXiv:1806.10758. Many models are trained; with a folder, what was finished is kept there, and a
run that was cut goes on with the rest.
"""

import functools
import json
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaiutils import __version__
from xaiutils.attribution import explain_all, own_readings, resolve
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.score_tables import CONTROLS, ORACLES
from xaiutils.evaluation.studies.controls import control_maps
from xaiutils.evaluation.studies.trainings import (
    Build,
    Splits,
    check_splits,
    digest,
    digest_of_data,
    digest_of_weights,
    scores_on,
)
from xaiutils.evaluation.thresholds import pixel_ranks
from xaiutils.files import write_text
from xaiutils.progress import progress
from xaiutils.registry import suggest
from xaiutils.training import Recipe, train
from xaiutils.training.recipes import change_recipe

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
RANKINGS = tuple(name for name in CONTROLS if name not in ORACLES)
MODES = ("remove", "keep", "shape")
EXPLAINED = ("predicted", "label")
UNCHANGED = "unchanged"  # the method of rows on models that were trained on the images as they are
_BLOCK = 64  # images whose maps are in memory at a time


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
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
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
        controls: uninformed rankings, of `RANKINGS`; the paper has ``random`` and edges.
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
    given = own_readings(chosen, parameters)
    changed = _ChangedImages(model, splits, given, fractions, mode, explained, batch_size)
    starts, of_model = _StartingModels(build), digest_of_weights(model)
    shared = [__version__, digest_of_data(splits), recipe.to_yaml(), epochs]
    about: dict[str, Any] = {name: name for name in [UNCHANGED, *controls]}
    for name, (method, values) in chosen.items():
        about[name] = [method.name, values, given[name]["reading"], explained, of_model]
    rows = []
    tasks = [(UNCHANGED, float(mode == "keep")), *((name, f) for name in [*chosen, *controls] for f in fractions)]
    for name, fraction in progress(tasks, title=f"{mode} and retrain"):
        with tempfile.TemporaryDirectory(prefix="xai-") as work:  # where the seeds share a frozen backbone's features
            for seed in seeds:
                columns = {"mode": mode, "method": name, "fraction": fraction, "seed": seed}
                kept = _file(folder, columns, digest(shared, about[name], starts.digest(seed)))
                if kept is not None and kept.exists():
                    result = json.loads(kept.read_text(encoding="utf-8"))["result"]
                else:
                    images = splits if name == UNCHANGED else changed.splits_of(name, fraction)
                    result = _train_and_test(starts.model(seed), images, recipe, epochs, seed, work, batch_size)
                    if kept is not None:
                        write_text(kept, json.dumps({**columns, "result": result}, indent=1))
                rows.append({**columns, **result})
    return pd.DataFrame(rows)


def _check(
    methods: list[str],
    controls: list[str],
    fractions: list[float],
    seeds: list[int],
    mode: str,
    explained: str,
    splits: Splits,
) -> None:
    check_splits(splits)
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


class _ChangedImages:
    """The splits with a fraction of the pixels replaced, by the maps of one method or control at a time."""

    def __init__(
        self,
        model: keras.Model,
        splits: Splits,
        methods: Mapping[str, Mapping[str, Any]],
        fractions: list[float],
        mode: str,
        explained: str,
        batch_size: int,
    ):
        self._model, self._splits, self._methods, self._fractions = model, splits, methods, fractions
        self._mode, self._explained, self._batch_size = mode, explained, batch_size
        self._fill = splits[0].pixels.mean(axis=(0, 1, 2)).round().astype(np.uint8)
        self.splits_of = functools.lru_cache(maxsize=1)(self._splits_of)
        self._levels = functools.lru_cache(maxsize=1)(self._levels_of)

    def _splits_of(self, name: str, fraction: float) -> Splits:
        last, results = self._fractions.index(fraction), []
        for ds, levels in zip(self._splits, self._levels(name), strict=True):
            replaced = levels > last if self._mode == "keep" else levels <= last
            others = np.uint8(255) if self._mode == "shape" else ds.pixels
            results.append(replace(ds, pixels=np.where(replaced[..., None], self._fill, others)))
        return results

    def _levels_of(self, name: str) -> list[np.ndarray]:
        """For each split the number of the first fraction that a pixel is in; uint8 ``(n, height, width)``."""
        found = []
        for number, ds in enumerate(self._splits):
            counts = np.rint(np.array(self._fractions) * ds.pixels[0, ..., 0].size)
            levels = np.empty(ds.pixels.shape[:3], np.uint8)
            for start in progress(range(0, len(ds), _BLOCK), title=f"maps of {name}"):
                part = ds.select(np.arange(start, min(start + _BLOCK, len(ds))))
                seed = int(np.random.default_rng([number, start]).integers(2**31))
                ranks = pixel_ranks(self._maps(name, part, seed))
                levels[start : start + len(part)] = np.searchsorted(counts, ranks, side="right")
            found.append(levels)
        return found

    def _maps(self, name: str, ds: ImageDataset, seed: int) -> np.ndarray:
        if name not in self._methods:
            return control_maps(replace(ds, masks=None), seed)[name]
        targets, given = ds.labels if self._explained == "label" else None, {name: self._methods[name]}
        return explain_all(self._model, ds.images, targets, [name], self._batch_size, given)[name]


def _train_and_test(
    model: keras.Model, splits: Splits, recipe: Recipe, epochs: int | None, seed: int, work: str, batch_size: int
) -> dict[str, Any]:
    begun = time.monotonic()
    history = train(model, splits[0], splits[1], recipe, epochs, work, seed, formats=())
    scores = scores_on(model, splits[2], batch_size)
    return {**scores, "kept_epoch": int(history.attrs["kept_epoch"]), "seconds": round(time.monotonic() - begun, 2)}


def _file(folder: str | Path | None, columns: Mapping[str, Any], depends_on: str) -> Path | None:
    """Where a model's result is kept: that it is there says that it is finished."""
    if folder is None:
        return None
    name = re.sub(r"[^\w.]+", "_", columns["method"])
    what = UNCHANGED if name == UNCHANGED else f"{columns['mode']}-{name}-{columns['fraction']:g}"
    return Path(folder) / f"{what}-{columns['seed']}-{depends_on}.json"


class _StartingModels:
    """The models that trainings start from: built once for each seed, and given back the weights of their start."""

    def __init__(self, build: Build):
        self._build = build
        self._known: dict[int, tuple[keras.Model, list[np.ndarray], str]] = {}

    def _of(self, seed: int) -> tuple[keras.Model, list[np.ndarray], str]:
        if seed not in self._known:
            model = self._build(seed)
            self._known[seed] = model, [v.numpy() for v in model.variables], digest_of_weights(model)
        return self._known[seed]

    def model(self, seed: int) -> keras.Model:
        model, values, _ = self._of(seed)
        for variable, value in zip(model.variables, values, strict=True):  # with the states of dropout's generators
            variable.assign(value)
        return model

    def digest(self, seed: int) -> str:
        return self._of(seed)[2]
