"""What `train` refuses, and what it warns of."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.registry import check_integer
from xaiutils.training.objectives import Objective, objective_of
from xaiutils.training.recipe import Recipe

FORMATS = (".keras", ".weights.h5")
_MOVES, _UNEVEN = 0.05, 0.5  # of attention, see `attention_warnings`


def check_data(model: keras.Model, train_ds: ImageDataset, val_ds: ImageDataset) -> Objective:
    """What the model is trained for; ValueError for data that do not fit it, or each other."""
    objective = objective_of(model, train_ds)
    size, channels = model.input_shape[1:3], model.input_shape[-1]
    for name, ds in (("train_ds", train_ds), ("val_ds", val_ds)):
        if len(ds) == 0:
            raise ValueError(f"{name} is empty.")
        if ds.pixels.shape[1:3] != size:
            raise ValueError(f"{name} has images of {ds.pixels.shape[1:3]} pixels; the model takes {size}.")
        if ds.pixels.shape[-1] != channels:
            raise ValueError(f"{name} has images of {ds.pixels.shape[-1]} channels; the model takes {channels}.")
        objective.check(name, ds, model.output_shape[-1])
    if train_ds.class_names != val_ds.class_names:
        raise ValueError(f"the classes are {train_ds.class_names} in train_ds and {val_ds.class_names} in val_ds.")
    shared = set(train_ds.ids) & set(val_ds.ids)
    if shared:
        raise ValueError(f"{len(shared)} images are in both train_ds and val_ds, such as {min(shared)!r}.")
    return objective


def shared_patients(train_ds: ImageDataset, val_ds: ImageDataset) -> list[str]:
    """A sentence on patients of whom there are images in both data sets; none where patients are not known."""
    shared = set(train_ds.patients or ()) & set(val_ds.patients or ())
    if not shared:
        return []
    who = f"{len(shared)} patient{'s have' if len(shared) > 1 else ' has'} images"
    return [f"{who} in both train_ds and val_ds, such as {min(shared)!r}: what is measured on val_ds is too good."]


def check_devices(devices: int, stages: Iterable[Recipe], n_images: int) -> None:
    """Raises ValueError for a stage whose batches are too small for so many devices."""
    for stage in stages:
        if stage.frozen or stage.by_places:  # which train on one device in any case
            continue
        if stage.average and devices > 1:
            raise ValueError(f"average={stage.average} (recipe {stage.name}) is for one device; give average=0.")
        batch_size = min(stage.batch_size, n_images)
        if batch_size < devices:
            raise ValueError(
                f"devices: {devices} of them cannot share a batch of {batch_size} (recipe {stage.name}, {n_images} "
                "training images); raise batch_size, or name fewer devices."
            )


def check_output(run_dir: Any, resume: bool, save_every: int | None, formats: Iterable[str]) -> tuple[str, ...]:
    """The formats as a tuple. Raises ValueError."""
    formats = (formats,) if isinstance(formats, str) else tuple(formats)
    if unknown := [f for f in formats if f not in FORMATS]:
        raise ValueError(f"formats has {unknown[0]!r}; known: {', '.join(FORMATS)}.")
    if save_every is not None:
        check_integer("save_every", save_every, 1, note=" (epochs), or None")
    if resume and run_dir is None:
        raise ValueError("resume=True needs run_dir, where the cut run left its state.")
    return formats


def head_dropout(model: keras.Model, recipe: Recipe) -> float:
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


def recipe_warnings(recipe: Recipe, steps: int) -> list[str]:
    """Sentences on a recipe that can hardly learn in so many steps; none for one that can.

    With SGD a clip bounds the length of a variable's step by L = rate * clip / (1 - momentum). A new layer's weights
    are about 1 long or longer, which has to change for the layer to learn. So there is a warning where all steps
    together are shorter than 1 and L is below 1e-4, or where the decay takes more than L off a variable of length 1.
    Adam and its kin divide by the gradient's own size, and a clip does not hold them back.
    """
    if recipe.optimizer != "sgdw" or not recipe.clip or recipe.momentum >= 1:
        return []
    longest = recipe.learning_rate * recipe.clip / (1 - recipe.momentum)
    decay = recipe.weight_decay * (recipe.learning_rate if recipe.decay_by_rate else 1)
    slow, shrinks = longest < 1e-4 and steps * longest < 1, longest < decay
    if not (slow or shrinks):
        return []
    text = (
        f"recipe {recipe.name} can hardly learn: clip={recipe.clip:g} keeps each step of a variable to a length of "
        f"{longest:.2g}, all {steps:,} steps together to {steps * longest:.2g}"
    )
    if shrinks:
        text += f", while the decay shrinks whatever is longer than {longest / decay:.2g}"
    return [f"{text}. Raise clip or learning_rate."]


def check_norms(model: keras.Model, stages: Iterable[Recipe]) -> None:
    """ValueError for a stage that leaves the batch norm of the head "mldam", which begins without statistics, as it is
    before it has seen any data."""
    stage = next(iter(stages))
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization) and x.name.startswith("mldam")]
    new = [x.name for x in norms if not np.any(x.moving_mean)]
    if new and (stage.frozen or stage.freeze_norm):
        raise ValueError(
            f"recipe {stage.name} leaves batch norm as it is, and {new[0]!r} has seen no data yet; take "
            "head_options={'variant': 'published'}, or a recipe with frozen=False and freeze_norm=False first."
        )


def input_warnings(model: keras.Model, images: np.ndarray) -> list[str]:
    """Sentences on images that a model does not seem to be made for, judged by a few of them, float32 ``(n, height,
    width, 3)``: their range, and what arrives at the first layer with weights."""
    found = []
    if images.max() <= 1:
        if images.any():
            found.append("the images range over [0, 1]; models take [0, 255]. Multiply by 255.")
        return found
    if np.ptp(images) < 25.5 or (values := _first_layer_input(model, images)) is None:
        return found
    low, high = float(np.min(values)), float(np.max(values))
    if low >= 0 and high > 10:
        found.append(
            f"the first layer with weights gets values from {low:.3g} to {high:.3g}: the model does not scale its "
            "input. Put a Rescaling layer before it."
        )
    elif high - low < 0.05:
        found.append(
            f"the first layer with weights gets values from {low:.3g} to {high:.3g}: the model seems to scale its "
            "input twice. Models take images in [0, 255]."
        )
    return found


def attention_warnings(model: keras.Model, images: np.ndarray) -> list[str]:
    """A sentence on a trained head "where_and_what" whose attention has settled on some few places that are the same in
    all ``images`` ``(n, height, width, channels)``, so that it does not look at what they show: of the attention less
    than `_MOVES` is elsewhere than in their mean, and that is further than `_UNEVEN` from an even one (both as total
    variation, 0 to 1). None for models without that head, for fewer than two images, and for an even attention."""
    if not {"where", "attention"} <= {layer.name for layer in model.layers} or len(images) < 2:
        return []
    part = keras.Model(model.inputs, model.get_layer("attention").output)
    attention = np.stack([part([x[None].astype(np.float32)], training=False).numpy().ravel() for x in images])
    mean = attention.mean(axis=0)
    moves, uneven = (0.5 * np.abs(x).sum(axis=-1).mean() for x in (attention - mean, mean - 1 / mean.size))
    if moves >= _MOVES or uneven < _UNEVEN:
        return []
    return [
        f"the attention lies on the same places in all of {len(images)} images of val_ds ({mean.max():.0%} of it on "
        "one): the head does not look at what they show. Train with masks or boxes (recipe 'where_and_what'), or build "
        "it with head_options={'pooling': 'mean'}."
    ]


def _first_layer_input(model: keras.Model, images: Any) -> Any:
    """What the first layer with weights gets; None where that is not known, or where it normalises by itself."""
    for layer in model.layers:
        if not layer.weights or isinstance(layer, keras.layers.Normalization):
            continue
        if isinstance(layer, keras.layers.BatchNormalization | keras.layers.LayerNormalization):
            return None
        try:
            values = keras.Model(model.inputs, layer.input)([images], training=False)
        except (AttributeError, ValueError):  # a layer used several times, or with several inputs
            return None
        if not isinstance(layer, keras.Model):
            return values.numpy() if isinstance(values, tf.Tensor) else None
        return _first_layer_input(layer, values)
    return None
