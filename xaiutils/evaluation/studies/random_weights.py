"""A model with random weights, and its maps: what a method shows of a network that has learnt nothing."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from xaiutils.attribution import MapWarning, explain_all
from xaiutils.backend import keras, tf
from xaiutils.graph.case_inputs import case_rows, holding
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.passes import enlarge
from xaiutils.graph.predict import predict

_N_NOISE = 8  # images of noise that batch normalisation takes its statistics from
_NORMS = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)


def stages(model: keras.Model, n: int = 6, norms: bool = False) -> dict[str, list[keras.layers.Layer]]:
    """Layers with weights in at most ``n`` groups from the logits down to the image, by the name of the first layer
    in each. Raises ModelError where the graph has no such layer (a SavedModel).

    The last layer is a group of its own; the others are cut into groups of about as many layers each. ``norms``:
    batch and layer normalisation belong to the groups too (the XRelevance-CAM thesis leaves them out).
    """
    if n < 2:
        raise ValueError(f"n={n}; expected at least 2 groups of layers.")
    found = [step.operation for step in Network.of(model).steps if getattr(step.operation, "weights", None)]
    layers = [x for x in dict.fromkeys(found) if norms or not isinstance(x, _NORMS)][::-1]
    if not layers:
        raise ModelError("no layer with weights is known in the model, as of a SavedModel: none can be drawn anew.")
    parts = np.array_split(np.arange(1, len(layers)), min(n - 1, len(layers) - 1)) if len(layers) > 1 else []
    groups = [[layers[0]], *([layers[i] for i in part] for part in parts)]
    return {group[0].name: group for group in groups}


@contextmanager
def random_weights(layers: Iterable[keras.layers.Layer], seed: int) -> Iterator[None]:
    """Within it the layers have fresh weights; afterwards their own again, whatever happened.

    Weights are drawn by each layer's own initialisers, those of its sublayers too; a weight without one (a class
    token) is drawn from a normal distribution of its own mean and standard deviation.
    """
    layers = list(layers)
    variables = list({id(v): v for layer in layers for v in layer.weights}.values())
    before = [v.numpy() for v in variables]
    rng = np.random.default_rng(seed)
    owners = [owner for layer in layers for owner in [layer, *layer._flatten_layers(include_self=False)]]
    known = {
        id(v): _initialiser(owner, v)
        for owner in owners
        for v in owner._trainable_variables + owner._non_trainable_variables
    }
    try:
        for variable, value in zip(variables, before, strict=True):
            initialiser = known.get(id(variable))
            if initialiser is None:
                drawn = rng.normal(value.mean(), value.std(), value.shape)
            else:
                config = {**initialiser.get_config(), "seed": int(rng.integers(2**31))}
                takes_seed = "seed" in initialiser.get_config()
                fresh = type(initialiser).from_config(config) if takes_seed else initialiser
                drawn = keras.ops.convert_to_numpy(fresh(value.shape, value.dtype))
            variable.assign(drawn)
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def _initialiser(layer: keras.layers.Layer, variable: keras.Variable) -> keras.initializers.Initializer | None:
    """What the layer says of this weight: its kernel_initializer, bias_initializer, ..."""
    found = getattr(layer, f"{variable.name}_initializer", None)
    if variable.name == "kernel" and isinstance(layer, keras.layers.DepthwiseConv2D):
        found = layer.depthwise_initializer
    return found if isinstance(found, keras.initializers.Initializer) else None


def random_weight_maps(
    model: keras.Model,
    images: np.ndarray,
    methods: Iterable[str],
    targets: np.ndarray | int | None = None,
    batch_size: int = 32,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """The methods' maps of ``model`` with random weights (Adebayo et al. 2018, arXiv:1810.03292): what a method shows
    of any network of this architecture, and so of the image alone.

    Arguments and maps are those of `xaiutils.explain_all`; ``targets`` None is the class that the trained model
    predicts. Batch normalisation forgets its statistics too and takes those of smooth noise, drawn by ``seed``: with
    statistics that do not fit the weights the signal of a deep network fades, to logits that differ by 1e-13 on
    EfficientNet-Lite0. Afterwards the model has its own weights again.
    """
    if targets is None:
        targets = predict(model, images, batch_size, inputs=inputs).argmax(axis=1)
    rows = {name: np.resize(r, (_N_NOISE, *r.shape[1:])) for name, r in case_rows(model, inputs, len(images)).items()}
    with forgotten(model, seed, images.shape[1:3], rows), warnings.catch_warnings():
        warnings.simplefilter("ignore", MapWarning)  # a model that has learned nothing may have empty maps
        return explain_all(model, images, targets, methods, batch_size, parameters, inputs=inputs)


@contextmanager
def forgotten(
    model: keras.Model, seed: int, size: tuple[int, int], rows: Mapping[str, np.ndarray] | None = None
) -> Iterator[None]:
    """Within it all layers have `random_weights`, and batch normalisation the statistics of smooth noise of ``size``
    (height, width), with ``rows`` of other inputs; see `random_weight_maps`."""
    layers = [layer for group in stages(model, norms=True).values() for layer in group]
    network = Network.of(model)
    with random_weights(layers, seed):
        with holding(model, dict(rows or {})):
            _fit_norms(network, _smooth_noise(size, network.channels, seed))
        yield


def _smooth_noise(size: tuple[int, int], channels: int, seed: int) -> np.ndarray:
    """float32 ``(n, height, width, channels)`` in [0, 255]: 7 x 7 random colours, enlarged."""
    colours = np.random.default_rng(seed).uniform(0, 255, (channels * _N_NOISE, 7, 7))
    return enlarge(colours, *size).reshape(_N_NOISE, channels, *size).transpose(0, 2, 3, 1)


def _fit_norms(network: Network, images: np.ndarray) -> None:
    """Set the statistics of every batch normalisation, from the first on, to those of its input for ``images``."""

    def rule(step, inputs, compute):
        norm = step.operation
        if isinstance(norm, keras.layers.BatchNormalization):
            x = tf.cast(inputs[0], tf.float32)
            mean, variance = tf.nn.moments(x, [a for a in range(x.ndim) if a != norm.axis % x.ndim])
            norm.moving_mean.assign(mean)
            norm.moving_variance.assign(variance)
        return compute(inputs)

    network.forward(tf.constant(images), [], rule=rule)
