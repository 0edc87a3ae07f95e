"""F-Fidelity (Zheng et al. 2025, ICLR, arXiv:2410.02970): do the pixels that a map names matter to a model that was
fine-tuned to bear random holes?

One model, fine-tuned on images of which up to a fraction beta of the pixels are missing, judges all methods. It is
never shown more holes than it learnt from, and which of a map's pixels go is drawn, so that neither a strange image nor
the shape of what was removed can decide, as they can in deletion and in ROAR.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaiutils import __version__
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.answers import returns_score
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
from xaiutils.graph.network import ModelError
from xaiutils.graph.passes import batches, logits
from xaiutils.graph.predict import prepare
from xaiutils.images import check_maps
from xaiutils.training import Recipe, train
from xaiutils.training.recipes import change_recipe

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)


def with_holes(ds: ImageDataset, beta: float, copies: int = 1, seed: int = 0) -> ImageDataset:
    """``copies`` of each image in which each pixel shows ``fill_colour`` with a probability that is drawn for the copy,
    uniform in [0, ``beta``]."""
    if not 0 <= beta <= 1 or copies < 1:
        raise ValueError(f"beta={beta}, copies={copies}; expected a number from 0 to 1, and at least one copy.")
    rng, fill = np.random.default_rng(seed), fill_colour(ds)
    chosen = np.tile(np.arange(len(ds)), copies)
    changed = replace(ds.select(chosen), ids=[f"{ds.ids[i]} {k}" for k, i in enumerate(chosen)])
    pixels = np.empty((len(chosen), *ds.pixels.shape[1:]), ds.pixels.dtype)
    for k, i in enumerate(chosen):
        holes = rng.random(ds.pixels.shape[1:3]) < rng.uniform(0, beta)
        pixels[k] = np.where(holes[..., None], fill, ds.pixels[i])
    return replace(changed, pixels=pixels)


def fill_colour(ds: ImageDataset) -> np.ndarray:
    """The mean colour of images, in whole grey levels: uint8 ``(channels,)``."""
    return ds.pixels.mean(axis=(0, 1, 2)).round().astype(np.uint8)


def fine_tuned_on_holes(
    model: keras.Model,
    build: Build,
    splits: Splits,
    folder: str | Path | None = None,
    *,
    beta: float = 0.1,
    copies: int = 3,
    seed: int = 0,
    recipe: str | Recipe = "modern",
    epochs: int | None = None,
    batch_size: int = 32,
    **changes: Any,
) -> tuple[keras.Model, pd.DataFrame]:
    """``model``, trained further on images with holes, and the accuracy of both.

    Args:
        model: the classifier whose maps are judged; it stays as it is.
        build: ``build(seed)`` returns a model of the same layers, which takes its weights.
        splits: training, validation and test images.
        folder: where the fine-tuned weights are kept; a later call that wants the same model reads them.
        beta: the largest fraction of missing pixels; the paper: 0.1.
        copies: of each training image, with other holes each.
        recipe, epochs, changes: of the training, see `xaiutils.train`; changes are fields of the recipe.

    Returns:
        The model, and a table: model ("explained", "fine-tuned"), images ("as they are", "with holes"), accuracy and
        auc on the test split. Where the fine-tuned model is not better on holes, it judges no better than the first.
    """
    check_splits(splits)
    recipe = change_recipe(recipe, changes)
    judge = build(seed)
    judge.set_weights(model.get_weights())
    depends_on = [__version__, digest_of_data(splits), recipe.to_yaml(), epochs, beta, copies, seed]
    name = f"judge-{digest(depends_on, digest_of_weights(model))}.weights.h5"
    kept = None if folder is None else Path(folder) / name
    if kept is not None and kept.exists():
        judge.load_weights(kept)
    else:
        learnt, checked = with_holes(splits[0], beta, copies, seed), with_holes(splits[1], beta, 1, seed + 1)
        train(judge, learnt, checked, recipe, epochs, None, seed, formats=())
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_name(f"part-{name}")  # Keras knows the format by the end of the name
            judge.save_weights(part)
            part.replace(kept)
    shown = {"as they are": splits[2], "with holes": with_holes(splits[2], beta, 1, seed + 2)}
    rows = [
        {"model": which, "images": how, **scores_on(one, ds, batch_size)}
        for which, one in (("explained", model), ("fine-tuned", judge))
        for how, ds in shown.items()
    ]
    return judge, pd.DataFrame(rows)


def f_fidelity(
    judge: keras.Model,
    ds: ImageDataset,
    maps: Mapping[str, np.ndarray],
    targets: int | Iterable[int],
    fill: np.ndarray,
    fractions: Sequence[float] = FRACTIONS,
    *,
    alpha: float = 0.5,
    beta: float = 0.1,
    n_samples: int = 50,
    batch_size: int = 32,
    seed: int = 0,
) -> pd.DataFrame:
    """How often the fine-tuned model loses its answer when pixels that a map names go, and when others do.

    The map names the ``fraction`` of the pixels with its highest values (ties by position). Each of them goes with the
    probability ``alpha``, or less, so that no more than ``beta`` of the image is expected to go (eq. 9 and 10); the
    rest stays. A good map has a large ``plus`` and a small ``minus`` at the fractions that the evidence has.

    Args:
        judge: of `fine_tuned_on_holes`, with its ``beta``.
        ds: the images.
        maps: by method, float32 ``(n, height, width)``, read as they are to be judged (`xaiutils.map_reading`).
        targets: the classes that were explained, one or ``(n,)``.
        fill: what missing pixels show, ``(channels,)``: `fill_colour` of the training images.
        n_samples: draws; the paper: 50. They are the same for all images, methods and fractions.

    Returns:
        A row for each method, fraction and image: plus (1 where the image is answered with its target, less the part of
        draws without named pixels that are) and minus (that of draws without pixels of the rest).

    Raises ValueError for values out of range, ModelError for a judge that returns a score.
    """
    check_fractions(fractions)
    if not maps or n_samples < 1 or not (0 < alpha <= 1 and 0 < beta <= 1):
        asked = f"{len(maps)} methods, n_samples={n_samples}, alpha={alpha}, beta={beta}"
        raise ValueError(f"{asked}; expected at least one method and one sample, alpha and beta above 0, at most 1.")
    if returns_score(judge):
        raise ModelError("F-Fidelity counts lost answers, and a model that returns a score has none to lose.")
    network, images, classes = prepare(judge, ds.images, targets, batch_size)
    (n, height, width), colour = images.shape[:3], np.asarray(fill, np.float32)
    samples, members = np.divmod(np.arange(n * n_samples), n)
    draws = np.stack([np.random.default_rng([seed, k]).random((height, width)) for k in range(n_samples)])

    def kept_without(those: np.ndarray, chance: float) -> np.ndarray:
        """The part of draws in which each image is still answered with its target, ``(n,)``."""
        kept = np.zeros(n)
        for batch in batches(n * n_samples, batch_size, "F-Fidelity"):
            gone = (draws[samples[batch]] < chance) & those[members[batch]]
            found = logits(network, np.where(gone[..., None], colour, images[members[batch]]), batch_size)
            np.add.at(kept, members[batch], found.argmax(axis=1) == classes[members[batch]])
        return kept / n_samples

    whole = logits(network, images, batch_size).argmax(axis=1) == classes
    tables = []
    for method, given in maps.items():
        ranks = pixel_ranks(check_maps(given, (n, height, width)))
        for fraction in fractions:
            named = ranks < round(fraction * height * width)
            plus = whole - kept_without(named, min(alpha, beta / fraction))
            minus = whole - kept_without(~named, min(alpha, beta / (1 - fraction)))
            columns = {"method": method, "fraction": fraction, "image_id": ds.ids, "plus": plus, "minus": minus}
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def check_fractions(fractions: Sequence[float]) -> None:
    """ValueError unless there are fractions, each between 0 and 1."""
    if not len(fractions) or not all(0 < f < 1 for f in fractions):
        raise ValueError(f"fractions={list(fractions)}; expected numbers between 0 and 1, at least one.")
