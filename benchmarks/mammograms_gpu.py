"""The networks of `mammograms.py`, trained on a GPU by Keras on JAX: the same recipes, images and folds in minutes.

    KERAS_BACKEND=jax python benchmarks/mammograms_gpu.py --cache FOLDER --choices boxes --folds official 0 1 2 3 4

Each choice's networks are trained one after the other, by steps that are compiled once; several calls may share a GPU.
A network's measures on the images that its fold leaves out are written beside it, `found.json`; those of the official
split are kept, `model.keras`. ``python benchmarks/mammograms.py --take FOLDER`` puts what lies there into
`mammograms.json`, and the networks into its own cache.

What is not as in `xaiutils.train`: JAX's random numbers, convolutions in TF32, warped pixels in whole grey values, and
from the pixels eight changed copies of each image, made once, where `train` makes new ones in each epoch.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("XAI_PROGRESS", "off")

import cv2
import numpy as np
from mammogram_networks import CHOICES, FOLDS, FROZEN, Choice, Trained, hits, images_at, left_out, prepare, scores
from scipy.special import log_softmax

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.files import replace_file, write_text
from xaiutils.training.augmentation import affine_matrices, draw
from xaiutils.training.losses import epoch_order
from xaiutils.training.optimisation import make_optimizer, make_schedule
from xaiutils.training.place_features import MAPS, entry_of, tail_of, trained_copy
from xaiutils.training.places import (
    LESION,
    OTHER,
    STRIDE,
    attention_loss,
    crop_start,
    evidence_grid,
    what_loss,
    where_loss,
    with_background,
)
from xaiutils.training.recipe import Recipe, in_every_stage
from xaiutils.training.recipes import change_recipe

FROM_PIXELS = 8  # copies of an image, where the lower layers train too
BATCH = 32  # images whose features are made at once


# Changed copies of the images ---------------------------------------------------------------------------------------


def changed(pixels: np.ndarray, mask: np.ndarray, recipe: Recipe, copies: int, seeds: Sequence[int]) -> tuple:
    """Copies uint8 ``(copies, height, width)`` of a grey image and their grids of evidence."""
    rng = np.random.default_rng(seeds)
    matrices = affine_matrices(pixels.shape, **draw(copies, recipe, rng))
    flips = rng.random(copies) < 0.5 if recipe.flip_vertical else np.zeros(copies, bool)
    images, grids = [], []
    for matrix, flip in zip(matrices, flips, strict=True):
        swapped = matrix[[1, 0, 2]][:, [1, 0, 2]][:2]  # OpenCV counts (column, row)
        image, area = (_warped(x, swapped)[:: -1 if flip else 1] for x in (pixels, mask * np.uint8(255)))
        images.append(image)
        grids.append(evidence_grid(area > 127, image, tuple(np.floor_divide(image.shape, STRIDE))))
    return np.stack(images), np.stack(grids)


def _warped(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, image.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _changed_of(folder: str, recipe: Recipe, copies: int, seed: int, i: int) -> tuple:
    pixels, masks = (np.load(f"{folder}/{name}.npy", mmap_mode="r")[i] for name in ("pixels", "masks"))
    return changed(np.ascontiguousarray(pixels), np.ascontiguousarray(masks), recipe, copies, [seed, i])


# Training -------------------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """One recipe's part of a network, and its compiled step."""

    recipe: Recipe
    part: keras.Model  # of the whole network, to read and write weights
    copy: keras.Model
    kept: keras.Model
    optimizer: Any
    step: Callable


def make_stage(model: keras.Model, recipe: Recipe) -> Stage:
    import jax
    from jax import numpy as jnp

    copy, kept = trained_copy(model, recipe)
    optimizer = make_optimizer(recipe, 1.0)  # the rate is given at each step
    optimizer.build(copy.trainable_variables)
    side, maps = recipe.crop // STRIDE, bool(recipe.where or recipe.what)

    def loss_of(trained, others, x, grids, labels):
        found, others = copy.stateless_call(trained, others, x, training=True)
        logits, *rest = found if maps else [found]
        logits = logits[0] if isinstance(logits, list) else logits
        value = 0.0
        if maps:
            where, what, attention = rest
            value = recipe.where * where_loss(where[..., 0], grids)
            value += recipe.what * what_loss(what, grids, labels, recipe.label_smoothing)
            if recipe.crop:
                return value, others
            value += recipe.where * attention_loss(attention[..., 0], grids)
        wanted = jax.nn.one_hot(labels, 2) * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
        return value - jnp.mean(jnp.sum(wanted * jax.nn.log_softmax(logits), axis=-1)), others

    @partial(jax.jit, donate_argnums=(0,))
    def step(state, x, grids, labels, batch, rate):
        trained, others, moments, averages, number = state
        image, number_of_copy, starts = batch
        if recipe.crop:
            scale = x.shape[2] // grids.shape[2]

            def cut(i, c, start):
                corner = (i, c, start[0] * scale, start[1] * scale, 0)
                of_x = jax.lax.dynamic_slice(x, corner, (1, 1, side * scale, side * scale, x.shape[4]))
                of_grid = jax.lax.dynamic_slice(grids, (i, c, start[0], start[1]), (1, 1, side, side))
                return of_x[0, 0], of_grid[0, 0]

            x, grids = jax.vmap(cut)(image, number_of_copy, starts)
        else:
            x, grids = x[image, number_of_copy], grids[image, number_of_copy]
        x = x.astype(jnp.float32)
        x = jnp.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x
        (value, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained, others, x, grids, labels[image])
        moments = [*moments[:1], rate, *moments[2:]]
        trained, moments = optimizer.stateless_apply(moments, gradients, trained)
        d = jnp.minimum(recipe.average, (1 + number) / (10 + number))
        averages = [d * a + (1 - d) * v for a, v in zip(averages, trained, strict=True)]
        return (trained, others, moments, averages, number + 1), value

    return Stage(recipe, tail_of(model, recipe), copy, kept, optimizer, step)


def train_stage(
    stage: Stage, x: Any, grids: Any, labels: np.ndarray, rows: np.ndarray, rng: np.random.Generator
) -> list:
    """Train from the weights that the whole network has, on the images ``rows``, and give it those of the best epoch;
    the losses of the epochs."""
    import jax
    from jax import numpy as jnp

    recipe = stage.recipe
    stage.kept.set_weights(stage.part.get_weights())
    start = [v.value for v in stage.copy.trainable_variables]
    moments = [jnp.zeros_like(v.value) for v in stage.optimizer.variables]
    state = (
        [jnp.array(v) for v in start],
        [jnp.array(v.value) for v in stage.copy.non_trainable_variables],
        moments,
        [jnp.array(v) for v in start],
        jnp.float32(0),
    )
    n_crops = len(with_background(labels[rows], recipe))
    steps = n_crops // recipe.batch_size
    total = steps * recipe.epochs
    rates = jax.vmap(make_schedule(recipe, total))(jnp.arange(total))
    on_host, on_device = np.asarray(grids), jnp.asarray(labels)
    side, losses, best = recipe.crop // STRIDE, [], None
    for epoch in range(recipe.epochs):
        order = epoch_order(np.zeros(n_crops), steps * recipe.batch_size, False, rng)
        elsewhere = order >= len(rows)
        images = rows[np.where(elsewhere, rng.integers(len(rows), size=len(order)), order % len(rows))]
        copies = rng.integers(grids.shape[1], size=len(order))
        starts = np.zeros((len(order), 2), int)
        if recipe.crop:
            wanted = np.where(elsewhere, OTHER, LESION)
            starts = np.stack(
                [crop_start(on_host[i, c], side, k, rng) for i, c, k in zip(images, copies, wanted, strict=True)]
            )
        values = []
        for k in range(steps):
            now = slice(k * recipe.batch_size, (k + 1) * recipe.batch_size)
            batch = (images[now], copies[now], starts[now])
            state, value = stage.step(state, x, grids, on_device, batch, rates[epoch * steps + k])
            values.append(value)
        losses.append(float(jnp.mean(jnp.stack(values))))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is not finite in epoch {epoch + 1}.")
        if losses[-1] == min(losses):
            best = [np.asarray(v) for v in state[3]]
    for variable, value in zip(stage.copy.trainable_variables, best, strict=True):
        variable.assign(value)
    stage.part.set_weights(stage.kept.get_weights())
    return losses


# The networks of a choice --------------------------------------------------------------------------------------------


def run_choice(name: str, folds: Sequence[str], seeds: Sequence[int], cache: Path, data_dir: Path, pool: Any) -> None:
    """Train and measure the networks of a choice that are not there."""
    import jax

    choice = CHOICES[name]
    folder, table = prepare(cache, data_dir)
    labels = table["label"].to_numpy()
    recipes = stages_of(choice)
    size = (choice.view.height, choice.view.width)
    model = xai.build_model("efficientnet_lite0", 2, size, "imagenet", seed=0, **choice.head)
    stages, forward = [make_stage(model, r) for r in recipes], _forward(model)
    for seed in seeds:
        wanted = [n for n in (Trained(name, f, seed) for f in folds) if not (n.folder(cache) / "found.json").exists()]
        if not wanted:
            continue
        fresh = xai.build_model("efficientnet_lite0", 2, size, "imagenet", seed=seed, **choice.head).get_weights()
        start = time.monotonic()
        x, grids = _inputs(model, recipes[0], folder, len(table), seed, pool)
        print(f"{name} {seed}: copies and features in {time.monotonic() - start:.0f} s", flush=True)
        for network in wanted:
            start = time.monotonic()
            out, rng = left_out(table, network.fold), np.random.default_rng(seed)
            model.set_weights(fresh)
            losses = [train_stage(s, x, grids, labels, np.flatnonzero(~out), rng) for s in stages]
            seconds = time.monotonic() - start
            val_ds = images_at(folder, table, np.flatnonzero(out), "val")
            found, logits = measured(forward, model, val_ds)
            target = network.folder(cache)
            target.mkdir(exist_ok=True)
            if network.fold == "official":
                replace_file(target / "model.keras", model.save)
            replace_file(target / "logits.npy", lambda path, logits=logits: np.save(path, logits))
            found |= {"train images": int((~out).sum()), "seconds": round(seconds, 1)}
            found |= {"device": f"{jax.devices()[0].device_kind}, Keras on JAX"}
            write_text(target / "found.json", json.dumps({"network": str(network), "found": found, "losses": losses}))
            print(network, json.dumps(found), [round(v, 3) for one in losses for v in one], flush=True)


def stages_of(choice: Choice) -> list[Recipe]:
    """The recipes that a choice trains by, as `train` reads its arguments."""
    changes = {name: value for name, value in choice.training.items() if name != "recipe"}
    everywhere = {name: changes[name] for name in ("epochs", "frozen_lower", "copies") if name in changes}
    return in_every_stage(change_recipe(choice.training["recipe"], changes), **everywhere).stages


def _inputs(model: keras.Model, recipe: Recipe, folder: Path, n: int, seed: int, pool: Any) -> tuple[Any, Any]:
    """What the trained layers see of each image: features float16 or pixels uint8 ``(n, copies, rows, columns,
    channels)``; and the grids int8."""
    import jax
    from jax import numpy as jnp

    copies = recipe.copies if recipe.frozen_lower else FROM_PIXELS
    make = partial(_changed_of, str(folder), recipe, copies, seed)
    lower = None
    if recipe.frozen_lower:
        lower = jax.jit(partial(keras.Model(model.inputs, entry_of(model, recipe)), training=False))
    found, grids = [], []
    for image, grid in pool.map(make, range(n), chunksize=8):
        grids.append(grid)
        if lower is None:
            found.append(image[..., None])
        else:
            x = jnp.repeat(jnp.asarray(image, jnp.float32)[..., None], 3, axis=-1)
            found.append(lower(x).astype(jnp.float16))
    return jnp.stack(found) if lower is not None else jnp.asarray(np.stack(found)), jnp.asarray(np.stack(grids))


def _forward(model: keras.Model) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Logits and maps of grey images uint8, by the weights that the model has when it is called."""
    import jax
    from jax import numpy as jnp

    part = keras.Model(model.inputs, [model.get_layer(n).output for n in ("logits", *MAPS[:2])])

    @jax.jit
    def run(trained, others, grey):
        x = jnp.repeat(grey.astype(jnp.float32)[..., None], 3, axis=-1)
        return part.stateless_call(trained, others, x, training=False)[0]

    def forward(grey: np.ndarray) -> list[np.ndarray]:
        weights = [v.value for v in part.trainable_variables], [v.value for v in part.non_trainable_variables]
        padded = np.concatenate([grey, np.zeros((-len(grey) % BATCH, *grey.shape[1:]), grey.dtype)])
        parts = [run(*weights, padded[i : i + BATCH]) for i in range(0, len(padded), BATCH)]
        return [np.concatenate([np.asarray(p[k]) for p in parts])[: len(grey)] for k in range(3)]

    return forward


def measured(forward: Callable, model: keras.Model, ds: ImageDataset) -> tuple[dict[str, float], np.ndarray]:
    """As `mammogram_networks.measure`."""
    grey = np.ascontiguousarray(ds.pixels[..., 0])
    logits, where, what = forward(grey)
    logits = np.mean([logits, forward(grey[:, ::-1])[0]], axis=0)
    heat = where[..., 0] + log_softmax(what, axis=-1)[..., 1]
    return scores(ds, logits, hits(heat, ds)), logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="a folder for the images and the networks")
    parser.add_argument("--data_dir", type=Path, default=os.environ.get("XAI_KIT"), help="default: XAI_KIT")
    parser.add_argument("--choices", nargs="+", default=["boxes"], choices=[c for c in CHOICES if c != FROZEN])
    parser.add_argument("--folds", nargs="+", default=list(FOLDS), choices=FOLDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that change images")
    args = parser.parse_args()
    if keras.backend.backend() != "jax":
        parser.error("set the environment variable KERAS_BACKEND=jax")
    with ProcessPoolExecutor(args.workers, get_context("fork")) as pool:
        list(pool.map(abs, range(args.workers)))  # forked before JAX has threads
        for name in args.choices:
            run_choice(name, args.folds, args.seeds, args.cache, args.data_dir, pool)


if __name__ == "__main__":
    main()
