"""Training by recipe: `train`, and the classification report of what it made."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.files import replace_file
from xaiutils.progress import progress
from xaiutils.training.augmentation import augment
from xaiutils.training.loop import Checkpoint, Split, fit
from xaiutils.training.recipes import RECIPES, Recipe, change_recipe, read_recipe, recipe_differences
from xaiutils.training.report import Report, classification_report, clear_example
from xaiutils.training.state import fingerprint
from xaiutils.training.toy import toy_optimisers

__all__ = [
    "RECIPES",
    "Recipe",
    "Report",
    "classification_report",
    "clear_example",
    "default_recipe",
    "read_recipe",
    "recipe_differences",
    "toy_optimisers",
    "train",
]
_FORMATS = (".keras", ".weights.h5")
_STATE = "training_state.npz"


def train(
    model: keras.Model,
    train_ds: ImageDataset,
    val_ds: ImageDataset,
    recipe: str | Recipe = "modern",
    epochs: int | None = None,
    run_dir: str | Path | None = None,
    seed: int = 0,
    *,
    resume: bool = False,
    save_every: int | None = None,
    formats: Iterable[str] = (".keras",),
    **changes: Any,
) -> pd.DataFrame:
    """Train ``model`` in place and return its history.

    Args:
        model: as `xaiutils.build_model` makes it, ending in layers ``logits`` and ``probabilities``; a frozen recipe
            and one with dropout, freeze_norm or last_layers also need its layer ``features``.
        train_ds, val_ds: data of the model's image size; the weights of the epoch that is best by the recipe's
            ``monitor`` are kept, so ``val_ds`` must not be the test split.
        recipe: a name in `RECIPES` or a `Recipe` (see `read_recipe` for YAML); ``epochs`` and ``changes`` (its
            fields) overlay it. Mirroring is left out where ``train_ds.mirrors`` is False.
        run_dir: if given, writes ``model.keras`` and ``history.csv`` there, and while it trains
            ``training_state.npz``, which is removed at the end.
        seed: of shuffling, augmentation, mixup and the recipe's dropout.
        resume: go on from the state in ``run_dir``, where a cut run left one; without a state begin anew. The
            model must be built as then. Weights and history (but for ``seconds``) become those of a run that was not
            cut, to the last bit on the same machine.
        save_every: epochs between two states, at least 1; None: a state at the end of an epoch whenever the last is
            ten seconds old, so that short runs, where writing would take longer than training, write none.
        formats: of the model in ``run_dir``: ".keras" (all of it), ".weights.h5" (weights, for `build_model`).

    Returns:
        One row an epoch: epoch (from 1), loss, accuracy, val_loss, val_accuracy, val_auc (where it is watched),
        learning_rate, seconds. Training loss and accuracy are means over the epoch while the weights move;
        validation is measured after it. ``loss`` is what the recipe minimises, ``val_loss`` always plain
        cross-entropy. ``attrs["kept_epoch"]`` is the epoch whose weights the model has now.

    Raises:
        TypeError, ValueError: a recipe field, a data set or the model is not as needed, or the state in ``run_dir``
        is of another run. FloatingPointError: the loss became NaN.
    """
    recipe = change_recipe(recipe, changes if epochs is None else changes | {"epochs": epochs})
    _check_data(model, train_ds, val_ds, recipe)
    formats = _check_output(run_dir, resume, save_every, formats)
    if not train_ds.mirrors:
        recipe = _without_mirroring(recipe)
    keras.utils.set_random_seed(seed)
    dropout = _dropout(model, recipe)
    if recipe.frozen:
        extract, head = _split_at_features(model)
        body, inputs = None, _features(extract, train_ds, val_ds, recipe, seed)
    else:
        split = dropout or recipe.freeze_norm or recipe.last_layers
        body, head = _split_at_features(model) if split else (None, _to_logits(model))
        inputs = train_ds.pixels, val_ds.pixels
    train_split, val_split = Split(inputs[0], train_ds.labels), Split(inputs[1], val_ds.labels)
    folder = None if run_dir is None else Path(run_dir)
    checkpoint = None
    if folder is not None:
        checkpoint = Checkpoint(folder / _STATE, save_every, resume, fingerprint(recipe, seed, (train_ds, val_ds)))
    history = fit(body, head, train_split, val_split, replace(recipe, dropout=dropout), seed, checkpoint)
    if folder is not None:
        for suffix in formats:
            _save(model, folder / f"model{suffix}")
        replace_file(folder / "history.csv", lambda path: history.to_csv(path, index=False))
        (folder / _STATE).unlink(missing_ok=True)
    return history


def _check_data(model: keras.Model, train_ds: ImageDataset, val_ds: ImageDataset, recipe: Recipe) -> None:
    size, classes = model.input_shape[1:3], model.output_shape[-1]
    for name, ds in (("train_ds", train_ds), ("val_ds", val_ds)):
        if len(ds) == 0:
            raise ValueError(f"{name} is empty.")
        if ds.pixels.shape[1:3] != size:
            raise ValueError(f"{name} has images of {ds.pixels.shape[1:3]} pixels; the model takes {size}.")
        if len(ds.class_names) != classes:
            raise ValueError(f"{name} has {len(ds.class_names)} classes; the model {classes}. Build it with n_classes.")
    if train_ds.class_names != val_ds.class_names:
        raise ValueError(f"the classes are {train_ds.class_names} in train_ds and {val_ds.class_names} in val_ds.")
    shared = set(train_ds.ids) & set(val_ds.ids)
    if shared:
        raise ValueError(f"{len(shared)} images are in both train_ds and val_ds, such as {min(shared)!r}.")
    if recipe.monitor == "val_auc" and len(np.unique(val_ds.labels)) < 2:
        raise ValueError("monitor='val_auc' needs two classes in val_ds; it has images of one alone.")


def _check_output(run_dir: Any, resume: bool, save_every: int | None, formats: Iterable[str]) -> tuple[str, ...]:
    formats = (formats,) if isinstance(formats, str) else tuple(formats)
    if unknown := [f for f in formats if f not in _FORMATS]:
        raise ValueError(f"formats has {unknown[0]!r}; known: {', '.join(_FORMATS)}.")
    if save_every is not None and (isinstance(save_every, bool) or not isinstance(save_every, int) or save_every < 1):
        raise ValueError(f"save_every={save_every!r}; expected a number of epochs, at least 1, or None.")
    if resume and run_dir is None:
        raise ValueError("resume=True needs run_dir, where the cut run left its state.")
    return formats


def _without_mirroring(recipe: Recipe) -> Recipe:
    plain = replace(recipe, copies=max(recipe.copies, 1), flip=False, flip_horizontal=False)
    # Copies that nothing changes would all be the same.
    return replace(plain, copies=recipe.copies if plain.augments else 0)


def _dropout(model: keras.Model, recipe: Recipe) -> float:
    """The rate that training has to add on the features: 0 where the head has Dropout layers, which must agree."""
    names = [layer.name for layer in model.layers]
    after = model.layers[names.index("features") :] if "features" in names else []
    rates = {layer.rate for layer in after if isinstance(layer, keras.layers.Dropout)}
    if recipe.dropout and rates and rates != {recipe.dropout}:
        raise ValueError(
            f"dropout={recipe.dropout}, but the model's head has Dropout layers of {sorted(rates)}; "
            "give dropout=0 to leave them as they are."
        )
    return 0.0 if rates else recipe.dropout


def _to_logits(model: keras.Model) -> keras.Model:
    return keras.Model(model.inputs, model.get_layer("logits").output)


def _save(model: keras.Model, path: Path) -> None:
    """`replace_file` for a model; Keras wants the whole of ".weights.h5" at the end, the temporary name has ".h5"."""

    def write(temporary: Path) -> None:
        if not path.name.endswith(".weights.h5"):
            model.save(temporary)
            return
        whole = temporary.with_suffix(".weights.h5")
        try:
            model.save_weights(whole)
            whole.replace(temporary)
        finally:
            whole.unlink(missing_ok=True)

    replace_file(path, write)


def _split_at_features(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Models from images to features and from features to logits, sharing the layers of ``model``."""
    try:
        features = model.get_layer("features").output
    except ValueError:
        raise ValueError(
            "a frozen recipe, dropout and fine-tuning need a layer named 'features', as build_model makes it."
        ) from None
    return keras.Model(model.inputs, features), keras.Model(features, model.get_layer("logits").output)


def _features(
    extract: keras.Model, train_ds: ImageDataset, val_ds: ImageDataset, recipe: Recipe, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features of the training images, ``(n, features)`` or, of ``copies`` augmented versions, ``(copies, n,
    features)``, and of the validation images.

    The backbone is in inference mode: batch norm by its stored statistics, no dropout. The augmentation has a
    generator of its own, so that a resumed run makes the same copies.
    """
    images = tf.TensorSpec([None, *train_ds.pixels.shape[1:]], tf.float32)
    run = tf.function(lambda x: extract(x, training=False), input_signature=[images])

    def features(ds: ImageDataset, change: Callable[[np.ndarray], np.ndarray] = lambda x: x) -> np.ndarray:
        steps = -(-len(ds) // recipe.batch_size)
        batches = progress(ds.batches(recipe.batch_size), steps, f"features of {ds.split}")
        return np.concatenate([run(tf.constant(change(x))).numpy() for x, _ in batches])

    rng = np.random.default_rng([seed, 1])
    if recipe.copies:
        found = np.stack([features(train_ds, lambda x: augment(x, recipe, rng)) for _ in range(recipe.copies)])
    else:
        found = features(train_ds)
    return found, features(val_ds)


def default_recipe(weights: str | None) -> str:
    """The recipe that suits a model's start: "modern" on pretrained weights, else "scratch"."""
    return "modern" if weights else "scratch"
