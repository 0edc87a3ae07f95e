"""What all class activation maps share: the map is a weighted sum of a layer's channels, and the method is its weights.

A is a layer's activation ``(n, rows, columns, channels)`` (of a transformer the patch tokens on their grid), and its
signal, of the same shape, is what one backward pass brings to the layer: the gradient g = dS/dA of the target's logit
S, or the relevance R. A method that needs no more is a function ``weights(A, signal, **options)``, which gives one
weight for each channel, ``(n, 1, 1, channels)``, or for each element of A, and a declaration by `cam_of_weights`. Such
methods share their pass. Methods whose weights need further passes of the model use `maps_of_weights`.

Maps are enlarged bilinearly, to where the layer's grid lies in the image (`xaiutils.graph.places`). Where the whole
score goes through several layers together, their maps are added (`xaiutils.graph.cam_layers`).
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from xaiutils.attribution.method import LAYER, Method, SignalPass
from xaiutils.backend import tf
from xaiutils.graph.network import Network
from xaiutils.graph.passes import activations_and_gradients, batches, enlarge
from xaiutils.registry import Parameter

Combine = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # (A, signal) -> maps (n, rows, columns)
# (images, targets, path of the layer) -> its A, and the weights (n, channels)
Weigh = Callable[[np.ndarray, np.ndarray, str], tuple[tf.Tensor, tf.Tensor]]


def weighted_sum(A: tf.Tensor, weights: tf.Tensor, relu: bool = False) -> tf.Tensor:
    """sum_k w_k A_k ``(n, rows, columns)`` of weights that broadcast to A; with ``relu``, negative values become 0."""
    if weights.shape[1:3] == (1, 1):  # of channels: one pass over A in place of two
        maps = tf.einsum("nijk,nk->nij", A, weights[:, 0, 0])
    else:
        maps = tf.reduce_sum(weights * A, axis=-1)
    return tf.nn.relu(maps) if relu else maps


# Weights from an activation and its signal ------------------------------------------------------------------------


def cam_of_weights(
    name: str,
    title: str,
    weights: Callable[..., tf.Tensor],
    paper: str,
    options: tuple[Parameter, ...] = (),
    signed: bool = False,
    family: str = "cam",
    cost: str = "1 gradient",
    signals: SignalPass = activations_and_gradients,
    signals_by: Callable[[Mapping[str, Any]], SignalPass] | None = None,
    check: Callable[[Network], object] | None = None,
) -> Method:
    """Declare the class activation map of ``weights(A, signal, **options)``, whose docstring is the method's.

    ``options`` are the parameters of ``weights``, and `relu_option` where negative values may be kept or cut at choice;
    without it they are cut unless the method is ``signed``. ``signals`` makes the pass, or ``signals_by(parameters)``
    where options choose it, ``name``, ``title``, ``paper``,
    ``family``, ``cost`` and ``check`` are as in `Method`.
    """

    def compute(
        network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, **parameters: Any
    ) -> np.ndarray:
        combine, layers = combination(method, parameters), network.cam_layers(parameters["layer"])
        chosen = signals_by(parameters) if signals_by else signals
        return maps_of_one_pass(network, images, targets, batch_size, layers, chosen, [combine])[0]

    compute.__doc__ = weights.__doc__
    has_relu = any(option.name == "relu" for option in options)
    method = Method(
        name=name,
        title=title,
        family=family,
        paper=paper,
        signed=signed,
        cost=cost,
        compute=compute,
        needs="layers",
        check=check,
        parameters=(LAYER, *options),
        weights=weights,
        signals=signals,
        signals_by=signals_by,
        signed_by=(lambda parameters: not parameters["relu"]) if has_relu else None,
    )
    return method


def relu_option(default: bool) -> Parameter:
    """The parameter ``relu`` of a method that has the choice."""
    return Parameter("relu", bool, default, "set negative values to 0; False gives a signed map")


def combination(method: Method, parameters: Mapping[str, Any]) -> Combine:
    """Function (A, signal) -> maps ``(n, rows, columns)`` of a method that has `Method.weights`."""
    weights = method.weights
    if weights is None:
        raise TypeError(f"{method.name} is not declared by weights of an activation and its signal.")
    options = {name: value for name, value in parameters.items() if name not in ("layer", "relu", "gates", "balanced")}
    relu = parameters.get("relu", not method.signed)
    return lambda A, signal: weighted_sum(A, weights(A, signal, **options), relu)


def maps_of_one_pass(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    layers: Sequence[str],
    signals: SignalPass,
    combines: Sequence[Combine],
) -> np.ndarray:
    """Maps ``(methods, n, height, width)`` of several methods, each the sum of those of ``layers``."""
    return functools.reduce(np.add, maps_by_layer(network, images, targets, batch_size, layers, signals, combines))


def maps_by_layer(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    layers: Sequence[str],
    signals: SignalPass,
    combines: Sequence[Combine],
) -> Iterator[np.ndarray]:
    """Maps ``(methods, n, height, width)`` of each layer in turn, from one pass over each batch for all of them."""
    (height, width), run = images.shape[1:3], signals(network, layers)
    parts = [
        [[combine(A, signal) for combine in combines] for A, signal in run(images[batch], targets[batch])]
        for batch in batches(len(images), batch_size, "class activation maps")
    ]
    for layer, *of_layer in zip(layers, *parts, strict=True):  # one layer's maps at a time are as large as the images
        of_methods = (tf.concat(of_batches, axis=0) for of_batches in zip(*of_layer, strict=True))
        place = network.place(layer)
        yield np.stack([enlarge(maps, height, width, place) for maps in of_methods])


# Weights from further passes --------------------------------------------------------------------------------------


def maps_of_weights(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    layers: Sequence[str],
    weigh: Weigh,
    relu: bool,
) -> np.ndarray:
    """Maps ``(n, height, width)`` by ``weigh``, which is given ``batch_size`` images at a time, so that no more
    activations are held at once; the sum of those of ``layers``."""
    total = np.zeros(images.shape[:3], np.float32)
    height, width = images.shape[1:3]
    for layer in layers:
        place = network.place(layer)
        for start in range(0, len(images), batch_size):
            batch = slice(start, start + batch_size)
            A, weights = weigh(images[batch], targets[batch], layer)
            total[batch] += enlarge(weighted_sum(A, weights[:, None, None], relu), height, width, place)
    return total
