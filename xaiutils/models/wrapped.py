"""A user's model as `xaiutils.wrap` hands it on: a Keras model of images in [0, 255], and what is known of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf


@dataclass(frozen=True)
class ModelFacts:
    """What `xaiutils.wrap` was told of a model, or found out.

    Attributes:
        source: the file, or the type of the model object.
        scaling: how images in [0, 255] are scaled before they enter ``core``: a name of `xaiutils.wrap`, or in words.
        scaling_from: "given", "measured" on a sample, or "assumed".
        class_names: of the output's classes (of one sigmoid unit: of both sides, 0 and 1); of a score, its one name;
            None where they were not given.
        positive_class: the one of them that is to be detected, or None.
        head: what the output is, where the user said so: "softmax", "sigmoid", "logits", "regression" or "ordinal"
            (whose output here are the probabilities of its classes); None: read from the graph.
        output: the name of the output of ``core`` that is taken.
        channels: of the images.
        case_inputs: names of the inputs of which every case brings its own row.
        notes: sentences that a user should read.
    """

    source: str
    scaling: str
    scaling_from: str
    class_names: tuple[str, ...] | None
    positive_class: str | None
    head: str | None
    output: str
    channels: int
    case_inputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class WrappedModel(keras.Model):
    """A functional Keras model from images ``(n, height, width, channels)`` in [0, 255] to one output ``(n, k)``.

    Scaling, the user's own model ``core`` (whose weights it shares), and the chosen output are layers of it. Made by
    `xaiutils.wrap`; ``facts`` says what is known of it.
    """

    def __init__(self, inputs: Any, outputs: Any, core: Any, facts: ModelFacts, **kwargs: Any):
        super().__init__(inputs, outputs, **kwargs)
        self._core = core
        self.facts = facts
        self.remake: Callable[..., WrappedModel] | None = None  # set by `xaiutils.wrap`

    def with_options(self, **changes: Any) -> "WrappedModel":
        """The same model, weights shared, with other options of `xaiutils.wrap`: ``with_options(scaling="0-1")``."""
        if self.remake is None:
            raise ValueError(f"{self.name} was not made by xaiutils.wrap; wrap its core anew.")
        return self.remake(**changes)

    def save(self, filepath: Any, **kwargs: Any) -> None:
        """Write it as a plain Keras model of images in [0, 255], which needs no wrapping any more; `facts` stay behind.

        Raises ValueError where it holds further inputs, whose values no file of Keras keeps.
        """
        if self.held_inputs:
            raise ValueError(f"{self.name} holds values of {', '.join(self.held_inputs)}, which a file does not keep; "
                             "save its core, and wrap that again.")  # fmt: skip
        keras.Model(self.inputs[0], self.outputs[0], name=self.name).save(filepath, **kwargs)

    @property
    def core(self) -> Any:
        """The user's model, or the layer that holds it."""
        return self._core

    @property
    def held_inputs(self) -> dict[str, "HeldInput"]:
        """The layers that hold the values of inputs other than the image, by the names of those inputs."""
        return {layer.input_name: layer for layer in self.layers if isinstance(layer, HeldInput)}


def facts_of(model: Any) -> ModelFacts | None:
    """What is known of a model from `xaiutils.wrap`; None for any other."""
    return model.facts if isinstance(model, WrappedModel) else None


class HeldInput(keras.layers.Layer):
    """An input of a model that is no image, held while images are changed: rows ``(1 or n, ...)``.

    Called with the images, it returns a row for each: the held rows, or the one row for all. Zeros are held until
    `hold` is called.

    Args:
        input_name: of the input in the user's model.
        shape: of one row, () for a number.
        dtype: of the rows.
    """

    def __init__(self, input_name: str, shape: tuple[int, ...], dtype: str, **kwargs: Any):
        super().__init__(trainable=False, dtype="float32", autocast=False, **kwargs)
        self.input_name, self.row_shape, self.row_dtype = input_name, tuple(shape), dtype
        # The number of rows is open, so that passes that are compiled already read the new ones. A variable of
        # TensorFlow's own: it is no weight, and must not be drawn anew with the weights.
        start = np.zeros((1, *self.row_shape), dtype)
        self._rows = tf.Variable(start, trainable=False, shape=(None, *self.row_shape), dtype=dtype)

    def hold(self, rows: Any) -> None:
        """Hold rows ``(1 or n, ...)``, in the order of the images to come."""
        self._rows.assign(tf.cast(rows, self.row_dtype))

    @property
    def rows(self) -> np.ndarray:
        """The rows that are held."""
        return self._rows.numpy()

    def call(self, images: Any) -> Any:
        rows = self._rows.value()
        return tf.broadcast_to(rows, tf.concat([tf.shape(images)[:1], tf.shape(rows)[1:]], axis=0))

    def compute_output_spec(self, images: Any) -> keras.KerasTensor:
        return keras.KerasTensor((images.shape[0], *self.row_shape), dtype=self.row_dtype)
