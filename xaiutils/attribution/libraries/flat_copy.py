"""A flat functional copy of a model, as the libraries need it.

They follow layers by name in flat functional models, so they are given a flat copy of the model that ends in its
logits, with a transformer's patch tokens laid out as a feature map.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.graph.layers.table import layer_type
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.score import Score

_GRID = "xai_grid"


@dataclass(frozen=True)
class FlatCopy:
    """Flat functional models from images to logits and to probabilities, and the name of their CAM layer."""

    logits: keras.Model
    given_probabilities: keras.Model | None
    cam_layer: str
    pairs: tuple[tuple[keras.Layer, keras.Layer], ...]

    @property
    def probabilities(self) -> keras.Model:
        """The model of probabilities; ModelError of a score."""
        if self.given_probabilities is None:
            raise ModelError("the library's method differentiates a probability, which a score has not.")
        return self.given_probabilities


def flat_copy(network: Network, path: str | None = None) -> FlatCopy:
    """The copy, kept with the network; its weights are brought up to date at each call. ``path`` names the CAM layer.

    Raises ModelError where the copy does not give the model's logits.
    """
    copy = network.compiled(("flat copy", path), lambda: _build_copy(network, path))
    for original, clone in copy.pairs:
        clone.set_weights(original.get_weights())
        if hasattr(clone, "finalize_state"):  # a Normalization layer reads its statistics from its weights here only
            clone.finalize_state()
    size = [n or 96 for n in network.image_size]
    noise = np.random.default_rng(0).uniform(0, 255, (1, *size, network.channels)).astype(np.float32)
    expected, found = network.logits(tf.constant(noise)).numpy(), copy.logits(noise, training=False).numpy()
    if not np.allclose(found, expected, rtol=1e-2, atol=1e-3 + 1e-3 * np.abs(expected).max()):
        raise ModelError("the copy of the model that a library needs does not give its logits; use library='xaiutils'.")
    return copy


def cam_copy(network: Network, layer: str) -> FlatCopy:
    """`flat_copy` for the CAM layer ``layer``, or the default one; ModelError where the libraries would misread it."""
    path = network.cam_layer(layer)  # raises where the model has no such layer
    field = network.field(path)
    height, width = (n or 0 for n in network.size_traced)
    if not field.stretched.covers(field.grid, (height, width)) or not field.is_plain:
        raise ModelError(
            f"libraries stretch the map of a layer over the whole image and read it as rows, columns, channels; layer "
            f"{path!r} lies elsewhere or is stored otherwise. Use library='xaiutils'."
        )
    return flat_copy(network, path)


def _build_copy(network: Network, path: str | None) -> FlatCopy:
    inputs = keras.Input((*network.image_size, network.channels))
    clones: dict[int, Any] = {}
    tensors, name = {network.input_key: inputs}, ""
    for step in network.steps_to_logits:
        operation = step.operation
        if isinstance(operation, keras.Layer):
            operation = clones.get(id(operation)) or _clone(operation, step.path, network.is_head(step))
            clones[id(step.operation)] = operation
        elif isinstance(operation, Score):
            operation = keras.layers.Lambda(operation, output_shape=(1,))
        if layer_type(operation).augments:  # active where a library calls the model without saying so
            outputs = [tensors[key] for key in step.reads]
        else:
            outputs = step.call(operation, tensors)
        if step.path == path:
            name = operation.name
            if len(outputs[0].shape) == 3:
                outputs[0], name = _through_grid(outputs[0], *network.field(path).grid), _GRID
        tensors.update(zip(step.outputs, outputs, strict=True))
    logits = tensors[network.logits_key]
    if network.activation == "binary":
        logits = keras.layers.Concatenate()([keras.layers.Rescaling(-1.0)(logits), logits])
    layers = {id(step.operation): step.operation for step in network.steps_to_logits}
    pairs = tuple((layers[number], clone) for number, clone in clones.items())
    # (-z, z) of one unit: (1 - p, p). Times 1, since Keras' cross-entropy looks through a sigmoid to its logits.
    softmax = network.activation == "softmax"
    probabilities = keras.layers.Softmax()(logits) if softmax else 1.0 * keras.ops.sigmoid(logits)
    of_probabilities = None if network.activation == "score" else keras.Model(inputs, probabilities)
    return FlatCopy(keras.Model(inputs, logits), of_probabilities, name, pairs)


def _clone(layer: keras.Layer, path: str, without_activation: bool) -> keras.Layer:
    try:
        config = {**layer.get_config(), "name": path.replace("/", "__").replace("#", "_")}
        if without_activation:
            config["activation"] = "linear"
        return type(layer).from_config(config)
    except Exception as error:  # whatever a user's layer raises
        if not layer.weights:  # a Lambda, say: it can serve in both models
            return layer
        raise ModelError(f"layer {path!r} ({type(layer).__name__}) cannot be copied for a library: {error}") from error


def _through_grid(tokens, rows: int, columns: int):
    """The same tokens, their patches passing through a feature map named ``xai_grid``."""
    leading, width = tokens.shape[1] - rows * columns, tokens.shape[2]
    patches = keras.layers.Cropping1D((leading, 0))(tokens) if leading else tokens
    grid = keras.layers.Reshape((rows, columns, width), name=_GRID)(patches)
    patches = keras.layers.Reshape((rows * columns, width))(grid)
    if not leading:
        return patches
    return keras.layers.Concatenate(axis=1)([keras.layers.Cropping1D((0, rows * columns))(tokens), patches])
