"""A small model of the kind that users bring, and images for it."""

from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.models.mldam import mldam
from xaiutils.models.where_and_what import start_as_sum, where_and_what

layers = keras.layers
PIXELS = np.random.default_rng(5).integers(0, 256, (3, 16, 16, 3)).astype(np.float32)


def classifier(
    shape: tuple[int | None, ...] = (16, 16, 3), units: int = 3, last: str | None = "softmax", **conv: Any
) -> keras.Model:
    """A convolution, pooling and a Dense layer, with weights of their own."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(shape)
    x = layers.Conv2D(4, 3, activation="relu", name="conv", **conv)(inputs)
    x = layers.GlobalAveragePooling2D(data_format=conv.get("data_format"))(x)
    return keras.Model(inputs, layers.Dense(units, activation=last, name="classes")(x), name="mine")


def where_and_what_network(
    size: tuple[int, int] = (64, 96), pooling: str = "attention", seed: int = 0, norm: bool = True
) -> keras.Model:
    """The head "where_and_what" on five convolutions of stride 2."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((*size, 3))
    x = layers.Rescaling(1 / 128, offset=-1.0 if norm else 0.0)(inputs)
    for filters in (8, 8, 8, 16, 16):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x) if norm else x)
    logits = layers.Dense(2, name="logits")(where_and_what(inputs, x, 2, pooling))
    model = keras.Model(inputs, layers.Softmax(name="probabilities")(logits))
    start_as_sum(model)
    return model


def mldam_network(variant: str = "published", attention: str = "both", units: int = 1) -> keras.Model:
    """The head "mldam" on five convolutions of stride 2, images of 64 x 96 pixels; one sigmoid unit, or a softmax."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64, 96, 3))
    maps = [layers.Rescaling(1 / 128, offset=-1.0)(inputs)]
    for filters in (8, 8, 4, 8, 16):
        maps.append(layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(maps[-1]))
    x = mldam(*maps[-3:], variant=variant, attention=attention, units=(16, 8))
    logits = layers.Dense(units, name="logits")(x)
    return keras.Model(inputs, layers.Activation("softmax" if units > 1 else "sigmoid", name="probabilities")(logits))


def discs(n: int, seed: int, size: tuple[int, int] = (64, 96), radius: int = 9) -> ImageDataset:
    """Bright discs on noise, chequered where the image is "malignant", striped where it is "benign", with their masks;
    every other image is either."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 2
    rows, columns = np.indices(size)
    pixels, masks = rng.integers(40, 100, (n, *size, 3), np.uint8), np.zeros((n, *size), bool)
    for image, mask, label in zip(pixels, masks, labels, strict=True):
        middle = [rng.integers(radius, side - radius) for side in size]
        mask[:] = np.hypot(rows - middle[0], columns - middle[1]) < radius
        image[mask] = (130 + 100 * ((rows // 2 + label * (columns // 2)) % 2))[mask, None]
    names = [f"{seed} {i}" for i in range(n)]
    return ImageDataset(pixels, labels, ("benign", "malignant"), names, masks=masks, patients=names)
