"""The stages of a recipe that train by places: the part of the network that trains, and what it is given.

With ``frozen_lower`` the layers up to stride 8 stay as they are. What they make of an image, or of ``copies`` changed
versions of it, is computed once: float16, in a file for each image that is mapped, not read, so that a set of any size
takes little memory, a cut computation goes on where it was, and folds of the same images share what there is.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.files import replace_file
from xaiutils.models.where_and_what import LOWER_STRIDE, tensor_of_stride
from xaiutils.progress import progress
from xaiutils.training import augmentation
from xaiutils.training.augmentation import AUGMENTATIONS
from xaiutils.training.features import leaves, model_digest
from xaiutils.training.loop import Split
from xaiutils.training.objectives import Classes, Objective
from xaiutils.training.places import PlaceSplit, WhereAndWhat, changed_together, grids_of, with_background
from xaiutils.training.recipe import Recipe

MAPS = ("where", "what", "attention")  # layers of the head


def check_places(model: keras.Model, train_ds: ImageDataset, stages: Sequence[Recipe], objective: Objective) -> None:
    """Raise ValueError for a model or data that a stage by places cannot train."""
    for stage in stages:
        if stage.where or stage.what:
            _check_maps(model, train_ds, stage, objective)


def _check_maps(model: keras.Model, train_ds: ImageDataset, recipe: Recipe, objective: Objective) -> None:
    if {layer.name for layer in model.layers}.isdisjoint(MAPS):
        raise ValueError(f"recipe {recipe.name} is for build_model(head='where_and_what'); the model has no such maps.")
    if type(objective) is not Classes:
        raise ValueError(
            f"recipe {recipe.name} is for one class for each image; of several labels take one: of_label(name)."
        )
    if train_ds.masks is None or train_ds.evidence is None or not (train_ds.evidence == "known").any():
        raise ValueError(
            f"recipe {recipe.name} needs evidence (masks or boxes), and {train_ds.name or 'train_ds'} has none; "
            "'where_and_what_labels' does without."
        )
    if recipe.crop and (any(n % 32 for n in model.input_shape[1:3]) or min(model.input_shape[1:3]) < recipe.crop):
        raise ValueError(
            f"crop={recipe.crop} needs images whose sides are multiples of 32 and at least as long, got "
            f"{model.input_shape[1:3]}; give another crop, or 'where_and_what_images'."
        )


def tail_of(model: keras.Model, recipe: Recipe) -> keras.Model:
    """From what stays as it is to the logits: the part of ``model`` whose weights a stage by places may change."""
    return keras.Model(entry_of(model, recipe), model.get_layer("logits").output)


def entry_of(model: keras.Model, recipe: Recipe) -> Any:
    """The tensor of ``model`` that a stage by places starts from: its images, or what the frozen lower layers make."""
    if not recipe.frozen_lower:
        return model.inputs[0]
    return tensor_of_stride(keras.Model(model.inputs, model.get_layer("logits").output), LOWER_STRIDE)


def trained_copy(model: keras.Model, recipe: Recipe) -> tuple[keras.Model, keras.Model]:
    """A copy of `tail_of` for inputs of any size, whose outputs are the logits and, where the recipe asks something of
    them, `MAPS`; and the same copy up to the logits alone. ``freeze_norm`` holds its batch norm."""
    part, entry = tail_of(model, recipe), entry_of(model, recipe)
    maps = MAPS if recipe.where or recipe.what else ()
    whole = keras.Model(entry, [model.get_layer(name).output for name in ("logits", *maps)])
    free = keras.Input((None, None, entry.shape[-1]) if recipe.crop else entry.shape[1:])
    copy = keras.models.clone_model(whole, input_tensors=free)
    if recipe.freeze_norm:
        for layer in copy.layers:
            layer.trainable = layer.trainable and not isinstance(layer, keras.layers.BatchNormalization)
    kept = keras.Model(copy.inputs, copy.outputs[0])
    kept.set_weights(part.get_weights())
    return copy, kept


@dataclass(frozen=True)
class OfImages:
    """The first copy of each image's features, stacked when a slice of them is read."""

    arrays: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.stack([array[0] for array in self.arrays[rows]])


def splits_by_places(
    model: keras.Model,
    objective: Objective,
    train_ds: ImageDataset,
    val_ds: ImageDataset,
    recipe: Recipe,
    seed: int,
    folder: Path | None,
) -> tuple[Split, Split, Objective]:
    """Training and validation data of a stage by places, and what it is trained for: of labels alone ``objective``."""
    maps = bool(recipe.where or recipe.what)
    shape = model.get_layer("where").output.shape[1:3] if maps else (0, 0)
    objective = WhereAndWhat() if maps else objective
    y, val_y = with_background(objective.targets(train_ds), recipe), objective.targets(val_ds)
    if not recipe.frozen_lower:
        train = PlaceSplit(train_ds.pixels, y, shape, masks=train_ds.masks, states=train_ds.evidence)
        return train, Split(val_ds.pixels, val_y), objective
    lower = keras.Model(model.inputs, entry_of(model, recipe))
    x, grids = lower_features(lower, train_ds, recipe, seed, shape, folder)
    val_x, _ = lower_features(lower, val_ds, None, seed, (0, 0), folder)
    return PlaceSplit(x, y, shape, grids), Split(OfImages(val_x), val_y), objective


def lower_features(
    lower: keras.Model,
    ds: ImageDataset,
    recipe: Recipe | None,
    seed: int,
    shape: tuple[int, int],
    folder: Path | None,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Of each image the features float16 ``(copies, rows, columns, channels)``, changed where the recipe has
    ``copies``; and the grids of evidence int8 ``(n, copies, *shape)``, with ``shape`` (0, 0) empty.

    In ``folder`` they are kept, by all that they depend on; without one they are in memory. Nothing there is deleted: a
    mammogram of 800 x 608 pixels takes 0.6 MB for each copy.
    """
    copies = recipe.copies if recipe is not None else 0
    ranges = {name: getattr(recipe, name) for name in ("copies", *AUGMENTATIONS)} | {"seed": seed} if copies else {}
    about = json.dumps([model_digest(lower), tf.__version__, _code_of(lower), ranges]).encode()
    spec = tf.TensorSpec([None, *ds.pixels.shape[1:]], tf.float32)
    run = tf.function(lambda x: tf.cast(lower(x, training=False), tf.float16), input_signature=[spec], autograph=False)
    features, grids = [], np.empty((len(ds), max(copies, 1), *shape), np.int8)
    for i in progress(range(len(ds)), title=f"lower features of {ds.split}"):
        pixels = np.ascontiguousarray(ds.pixels[i])
        mask = np.zeros(pixels.shape[:2], bool) if ds.masks is None else np.ascontiguousarray(ds.masks[i])
        state = "unknown" if ds.evidence is None else str(ds.evidence[i])
        digest = hashlib.sha256(about + pixels.tobytes())
        change = partial(_changed, pixels, mask, recipe, [seed, int.from_bytes(digest.digest()[:8])])
        features.append(_kept(folder, digest, partial(_features_of, run, change)))
        if all(shape):
            digest.update(json.dumps([state, shape]).encode() + mask.tobytes())
            grids[i] = _kept(folder, digest, partial(_grids_of, state, shape, change))
    return features, grids


def _code_of(lower: keras.Model) -> str:
    """Changes when the code of augmentation does, or of layers that are not Keras' own; not with any other line, since
    the features of a large set take hours."""
    modules = {type(layer).__module__ for layer in leaves(lower)} | {augmentation.__name__}
    files = [sys.modules[name].__file__ for name in sorted(modules) if not name.startswith("keras.")]
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files if file)).hexdigest()


def _changed(
    pixels: np.ndarray, mask: np.ndarray, recipe: Recipe | None, seeds: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The copies of an image and its mask; of no ``copies`` itself alone."""
    if recipe is None or not recipe.copies:
        return pixels[None].astype(np.float32), mask[None]
    pixels, mask = (np.repeat(x[None], recipe.copies, axis=0) for x in (pixels, mask))
    return changed_together(pixels, mask, recipe, np.random.default_rng(seeds))


def _features_of(run: Callable, change: Callable) -> np.ndarray:
    return run(change()[0]).numpy()


def _grids_of(state: str, shape: tuple[int, int], change: Callable) -> np.ndarray:
    pixels, masks = change()
    return grids_of(pixels, masks, np.full(len(pixels), state), shape)


def _kept(folder: Path | None, digest: Any, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """An array of a file named by ``digest``, mapped; computed where there is none."""
    if folder is None:
        return compute()
    path = folder / f"{digest.hexdigest()[:32]}.npy"
    if not path.exists():
        found = compute()
        replace_file(path, lambda temporary: np.save(temporary, found))
    return np.load(path, mmap_mode="r")
