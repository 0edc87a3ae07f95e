"""Remove and retrain (ROAR), keep and retrain (KAR): are the pixels that a method names those that a model learns from?

Hooker et al. 2019, arXiv:1806.10758. Many models are trained; with a folder, what was finished is kept there, and a
run that was cut goes on with the rest.
"""

import functools
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaiutils import __version__
from xaiutils.attribution import explain_all, resolve
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
    own = {name: dict((parameters or {}).get(name, {})) for name in chosen}
    readings = {name: method.own_reading(own[name]) for name, (method, _) in chosen.items()}
    starts, of_model = _StartingModels(build), digest_of_weights(model)
    shared = [__version__, digest_of_data(splits), recipe.to_yaml(), epochs]
    fill = splits[0].pixels.mean(axis=(0, 1, 2)).round().astype(np.uint8)

    def maps(name: str, part: ImageDataset, seed: int) -> np.ndarray:
        if name in controls:
            return control_maps(replace(part, masks=None), seed)[name]
        targets = part.labels if explained == "label" else None
        given = {name: {**own[name], "reading": readings[name]}}
        return explain_all(model, part.images, targets, [name], batch_size, given)[name]

    @functools.lru_cache(maxsize=1)  # of one method at a time
    def levels(name: str) -> list[np.ndarray]:
        return [_levels(functools.partial(maps, name), ds, k, fractions, name) for k, ds in enumerate(splits)]

    def changed(name: str, fraction: float) -> Splits:
        if name == UNCHANGED:
            return splits
        last = fractions.index(fraction)
        return [_replaced(ds, found, last, mode, fill) for ds, found in zip(splits, levels(name), strict=True)]

    def about(name: str) -> Any:
        """What a result depends on, beside what all share."""
        return [chosen[name][0].name, chosen[name][1], readings[name], explained, of_model] if name in chosen else name

    rows = []
    tasks = [(UNCHANGED, float(mode == "keep")), *((name, f) for name in [*chosen, *controls] for f in fractions)]
    for name, fraction in progress(tasks, title=f"{mode} and retrain"):
        images: Splits | None = None
        with tempfile.TemporaryDirectory(prefix="xai-") as work:  # where the seeds share a frozen backbone's features
            for seed in seeds:
                columns = {"mode": mode, "method": name, "fraction": fraction, "seed": seed}
                kept = _file(folder, columns, digest(shared, about(name), starts.digest(seed)))
                if kept is None or not kept.exists():
                    images = images or changed(name, fraction)
                    result = _train_and_test(starts.model(seed), images, recipe, epochs, seed, work, batch_size)
                    if kept is not None:
                        write_text(kept, json.dumps({**columns, "result": result}, indent=1))
                else:
                    result = json.loads(kept.read_text(encoding="utf-8"))["result"]
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


def _levels(
    maps: Callable[[ImageDataset, int], np.ndarray], ds: ImageDataset, number: int, fractions: list[float], name: str
) -> np.ndarray:
    """The first of the fractions, by its number, that each pixel is in; uint8 ``(n, height, width)``.

    ``maps(part, seed)`` are those that rank the pixels; ``number`` is that of the data set, for seeds of its own.
    """
    counts = np.rint(np.array(fractions) * ds.pixels[0, ..., 0].size)
    levels = np.empty(ds.pixels.shape[:3], np.uint8)
    for start in progress(range(0, len(ds), _BLOCK), title=f"maps of {name}"):
        part = ds.select(np.arange(start, min(start + _BLOCK, len(ds))))
        seed = int(np.random.default_rng([number, start]).integers(2**31))
        levels[start : start + len(part)] = np.searchsorted(counts, pixel_ranks(maps(part, seed)), side="right")
    return levels


def _replaced(ds: ImageDataset, levels: np.ndarray, last: int, mode: str, fill: np.ndarray) -> ImageDataset:
    """The images with the pixels up to the ``last`` fraction replaced, or those beyond it."""
    replaced = levels > last if mode == "keep" else levels <= last
    others = np.uint8(255) if mode == "shape" else ds.pixels
    return replace(ds, pixels=np.where(replaced[..., None], fill, others))


def _train_and_test(
    model: keras.Model,
    splits: Splits,
    recipe: Recipe,
    epochs: int | None,
    seed: int,
    work: str,
    batch_size: int,
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
