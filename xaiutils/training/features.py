"""The features of a frozen backbone: computed once, and kept on disk between calls."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.files import replace_file
from xaiutils.progress import progress
from xaiutils.training.augmentation import AUGMENTATIONS, augment
from xaiutils.training.recipe import Recipe

CACHE_BYTES = 2 * 2**30  # of one cache folder
BATCH_SIZE = 32  # images in one pass of the backbone, whatever the batches that the head trains on


def split_at_features(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Models from images to features and from features to logits, sharing the layers of ``model``."""
    try:
        features = model.get_layer("features").output
    except ValueError:
        raise ValueError(
            "a frozen recipe, dropout and fine-tuning need a layer named 'features', as build_model makes it."
        ) from None
    return keras.Model(model.inputs, features), keras.Model(features, model.get_layer("logits").output)


def backbone_features(
    extract: keras.Model,
    train_ds: ImageDataset,
    val_ds: ImageDataset,
    recipe: Recipe,
    seed: int,
    folder: Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Features, float32, of the training images, ``(n, features)`` or, of ``copies`` augmented versions, ``(copies, n,
    features)``, and of the validation images. With ``fresh``, of which features cannot be kept, the first are the
    training images themselves.

    The backbone is in inference mode: batch norm by its stored statistics, no dropout. The augmentation has a
    generator of its own, so that a resumed run makes the same copies.

    With ``folder`` they are kept there and read again where everything that they depend on is the same: the layers,
    their weights, the pixels, the augmentation and its seed, and the code of this package's models. The folder holds at
    most `CACHE_BYTES`, those used last; features that are larger are not kept. It may be deleted at any time.
    """
    images = tf.TensorSpec([None, *train_ds.pixels.shape[1:]], tf.float32)
    run = tf.function(
        lambda x: tf.cast(extract(x, training=False), tf.float32), input_signature=[images], autograph=False
    )

    def features(ds: ImageDataset, copies: int, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        found = np.empty((copies, len(ds), *extract.output_shape[1:]), np.float32)
        for copy in range(copies):
            batches = progress(ds.batches(BATCH_SIZE), -(-len(ds) // BATCH_SIZE), f"features of {ds.split}")
            for i, (x, _) in enumerate(batches):
                found[copy, i * BATCH_SIZE : (i + 1) * BATCH_SIZE] = run(tf.constant(change(x))).numpy()
        return found

    def of_images(ds: ImageDataset) -> np.ndarray:
        return features(ds, 1, lambda x: x)[0]

    def of_copies() -> np.ndarray:
        rng = np.random.default_rng([seed, 1])
        return features(train_ds, recipe.copies, lambda x: augment(x, recipe, rng))

    def train_features() -> np.ndarray:
        return train_ds.pixels if recipe.fresh else of_copies() if recipe.copies else of_images(train_ds)

    backbone = None if folder is None else model_digest(extract)
    if folder is None or backbone is None:
        return train_features(), of_images(val_ds)
    plain = [backbone, tf.__version__, code_of_features()]
    ranges = {name: asdict(recipe)[name] for name in ("copies", *AUGMENTATIONS)} | {"seed": seed}
    if recipe.fresh:
        found = train_features()
    else:
        found = _cached(folder, [*plain, ranges] if recipe.copies else plain, train_ds, train_features)
    return found, _cached(folder, plain, val_ds, lambda: of_images(val_ds))


def _cached(folder: Path, about: list, ds: ImageDataset, compute: Callable[[], np.ndarray]) -> np.ndarray:
    digest = hashlib.sha256(json.dumps([about, ds.pixels.shape]).encode())
    for start in range(0, len(ds), 256):  # pixels may be a view of a file larger than memory
        digest.update(np.ascontiguousarray(ds.pixels[start : start + 256]).data)
    path = folder / f"{digest.hexdigest()[:32]}.npy"
    try:
        found = np.load(path, allow_pickle=False)
        os.utime(path)
    except (OSError, ValueError, EOFError):  # none, or a broken one
        found = compute()
        if found.nbytes <= CACHE_BYTES:
            replace_file(path, lambda temporary: np.save(temporary, found))
            _prune(folder)
    return found


def _prune(folder: Path) -> None:
    """Delete the files whose last use is longest ago, until the rest fits."""
    total = 0
    stats = {path: path.stat() for path in folder.glob("*.npy")}
    for path in sorted(stats, key=lambda p: -stats[p].st_mtime_ns):
        total += stats[path].st_size
        if total > CACHE_BYTES:
            path.unlink(missing_ok=True)


@lru_cache
def code_of_features() -> str:
    """Changes when the code does that makes features: this package's layers and augmentation."""
    here = Path(__file__)
    sources = [*sorted((here.parents[1] / "models").rglob("*.py")), here.with_name("augmentation.py"), here]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def model_digest(model: keras.Model) -> str | None:
    """A digest of the layers, how they are wired, and their weights, whatever the layers' names; None for a model that
    does not say what it is."""
    digest = hashlib.sha256()
    try:
        config = model.get_config()
    except NotImplementedError:
        return None
    numbers = {name: f"layer {i}" for i, name in enumerate(dict.fromkeys(_names(config)))}
    digest.update(json.dumps(_replaced(config, numbers), default=repr, sort_keys=True).encode())
    for layer in leaves(model):
        digest.update(f"{type(layer).__name__} {layer.dtype_policy.name}".encode())
        for weight in layer.weights:
            digest.update(np.ascontiguousarray(weight).data)
    return digest.hexdigest()


def _names(config: Any) -> Iterator[str]:
    """The names of a model and its layers in its configuration, in reading order."""
    if isinstance(config, Mapping):
        if isinstance(name := config.get("name"), str):
            yield name
        for value in config.values():
            yield from _names(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _names(value)


def _replaced(config: Any, texts: Mapping[str, str]) -> Any:
    """A configuration in which some texts are replaced."""
    if isinstance(config, Mapping):
        return {key: _replaced(value, texts) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [_replaced(value, texts) for value in config]
    return texts.get(config, config) if isinstance(config, str) else config


def leaves(model: keras.Model | None) -> list[keras.layers.Layer]:
    """Layers from input to output, those of nested models in their place."""
    layers = [] if model is None else model.layers
    return [leaf for layer in layers for leaf in (leaves(layer) if isinstance(layer, keras.Model) else [layer])]
