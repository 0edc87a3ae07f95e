"""A small model of the kind that users bring, and images for it."""

from typing import Any

import numpy as np

from xaiutils.backend import keras

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
