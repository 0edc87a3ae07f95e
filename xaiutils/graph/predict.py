"""Predictions of a Keras classifier, and the checks of images, targets and batch size that all calls share."""

from collections.abc import Iterable

import numpy as np

from xaiutils.backend import keras
from xaiutils.graph.network import Network
from xaiutils.graph.passes import logits
from xaiutils.images import check_images
from xaiutils.registry import check_integer


def predict(model: keras.Model, images: np.ndarray, batch_size: int = 32, probabilities: bool = False) -> np.ndarray:
    """Logits, or probabilities, of any Keras image classifier, float32 ``(n, classes)``.

    Takes what `xaiutils.attribution.explain` takes; a one-unit sigmoid z gives the two logits (-z, z) and probabilities
    (1 - p, p).
    """
    network = Network.of(model)
    found = logits(network, check_images(images, _fixed_size(network), network.channels), check_batch_size(batch_size))
    return network.probabilities(found).numpy() if probabilities else found


def prepare(
    model: keras.Model, images: np.ndarray, targets: int | Iterable[int] | None, batch_size: int
) -> tuple[Network, np.ndarray, np.ndarray]:
    """The arguments of `xaiutils.attribution.explain`, checked: the network, float32 images, int32 targets ``(n,)``."""
    network = Network.of(model)
    check_batch_size(batch_size)
    images = check_images(images, _fixed_size(network), network.channels)
    network.trace_shapes(images.shape[1:3])
    if targets is None:
        return network, images, logits(network, images, batch_size).argmax(axis=1).astype(np.int32)
    classes = np.asarray(targets)
    if classes.dtype.kind not in "ui" or classes.ndim > 1 or classes.shape not in ((), (len(images),)):
        raise ValueError(f"targets={targets!r}; expected a class index, one for each of {len(images)} images, or None.")
    if classes.size and (classes.min() < 0 or classes.max() >= network.n_classes):
        raise ValueError(
            f"targets reach from {classes.min()} to {classes.max()}; the model has {network.n_classes} classes."
        )
    return network, images, np.broadcast_to(classes, len(images)).astype(np.int32)


def cam_grid(model: keras.Model, layer: str = "") -> tuple[int, int]:
    """Rows and columns of the grid that class activation maps of ``model`` are made on, before they are enlarged."""
    network = Network.of(model)
    return network.field(network.cam_layer(layer)).grid


def check_batch_size(batch_size: int) -> int:
    """``batch_size`` as an int; ValueError unless it is a positive integer."""
    return check_integer("batch_size", batch_size, 1)


def _fixed_size(network: Network) -> tuple[int, int] | None:
    height, width = network.image_size
    return None if height is None or width is None else (height, width)
