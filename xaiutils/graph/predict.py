"""Predictions of a Keras classifier, and the checks of images, targets and batch size that all calls share."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.graph.case_inputs import Rows, case_rows, groups, holding
from xaiutils.graph.memory import AUTO, chosen_batch_size, fitting
from xaiutils.graph.network import Network
from xaiutils.graph.passes import logits
from xaiutils.graph.targets import Targets, chosen_network, class_targets
from xaiutils.images import check_images
from xaiutils.registry import check_integer


def predict(
    model: keras.Model,
    images: np.ndarray,
    batch_size: int | str = "auto",
    probabilities: bool = False,
    inputs: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Logits, or probabilities, of any Keras image classifier, float32 ``(n, classes)``; the scores of a regression.

    Takes what `xaiutils.attribution.explain` takes; a one-unit sigmoid z gives the two logits (-z, z) and probabilities
    (1 - p, p). A score has no probabilities (ModelError).
    """
    network = Network.of(model)
    batch_size = chosen_batch_size(network, batch_size)
    images = check_images(images, _fixed_size(network), network.channels)
    found = _logits(model, network, images, batch_size, case_rows(model, inputs, len(images)))
    return network.probabilities(found).numpy() if probabilities else found


@dataclass(frozen=True)
class Prepared:
    """What is explained: ``images`` and ``targets`` of ``network``, with each case's ``rows`` of other inputs."""

    model: keras.Model
    network: Network
    images: np.ndarray
    targets: np.ndarray
    rows: Rows
    batch_size: int

    def groups(self) -> Iterator[np.ndarray]:
        """The indices of cases of equal rows, which the model holds until the next are asked for."""
        for members, rows in groups(self.rows, len(self.images)):
            with holding(self.model, rows):
                yield members


def prepared(
    model: keras.Model,
    images: np.ndarray,
    targets: Targets,
    batch_size: int | str,
    inputs: Mapping[str, Any] | None = None,
) -> Prepared:
    """The arguments of `xaiutils.attribution.explain`, checked. ``targets`` may be a function of the logits."""
    network = chosen_network(model, targets)
    if batch_size != AUTO:
        check_batch_size(batch_size)
    images = check_images(images, _fixed_size(network), network.channels)
    network.trace_shapes(images.shape[1:3])
    batch_size = chosen_batch_size(network, batch_size)
    rows = case_rows(model, inputs, len(images))
    if targets is None:
        classes = _logits(model, network, images, batch_size, rows).argmax(axis=1).astype(np.int32)
    else:
        classes = class_targets(model, network, targets, len(images))
    return Prepared(model, network, images, classes, rows, batch_size)


def prepare(
    model: keras.Model,
    images: np.ndarray,
    targets: Targets,
    batch_size: int,
    inputs: Mapping[str, Any] | None = None,
) -> tuple[Network, np.ndarray, np.ndarray]:
    """`prepared` for callers that go on with class indices: the network, float32 images, int32 targets ``(n,)``.

    ``inputs`` counts for the predicted classes alone: whoever runs the network holds each case's row
    (`xaiutils.graph.case_inputs`). A function as ``targets`` is refused.
    """
    if callable(targets):
        raise TypeError("targets= is a function, which this call does not take: xai.explain and xai.explain_all do.")
    found = prepared(model, images, targets, check_batch_size(batch_size), inputs)
    return found.network, found.images, found.targets


def _logits(model: keras.Model, network: Network, images: np.ndarray, batch_size: int, rows: Rows) -> np.ndarray:
    """Logits of images with each case's row."""
    if not rows:
        return fitting(network, batch_size, lambda size: logits(network, images, size))
    found = []
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        with holding(model, {name: array[batch] for name, array in rows.items()}):
            found.append(logits(network, images[batch], batch_size))
    return np.concatenate(found)


def cam_grid(model: keras.Model, layer: str = "") -> tuple[int, int]:
    """Rows and columns of the grid that class activation maps of ``model`` are made on, before they are enlarged."""
    network = Network.of(model)
    return network.field(network.cam_layer(layer)).grid


def check_batch_size(batch_size: int | str) -> int:
    """``batch_size`` as an int; ValueError unless it is a positive integer."""
    return check_integer("batch_size", batch_size, 1)


def _fixed_size(network: Network) -> tuple[int, int] | None:
    height, width = network.image_size
    return None if height is None or width is None else (height, width)
