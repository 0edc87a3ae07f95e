"""Two-stage reading of a network with the head "where_and_what": what it finds, how often it is right, and each find
looked at by itself.

`detect` takes peaks of the network's own heat map as finds; `froc` says how many lesions are found at how many false
finds an image; `read_crops` has a classifier look at each find alone, and pastes its maps back into the image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from xaiutils.attribution import explain
from xaiutils.backend import keras, tf
from xaiutils.graph.predict import predict
from xaiutils.statistics.bootstrap import percentile_interval, replicates

RATES = (0.25, 0.5, 1.0, 2.0, 4.0)  # false finds an image


def where_and_what_maps(model: keras.Model, images: np.ndarray, batch_size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """The maps of the head "where_and_what" as logits: where ``(n, rows, columns)`` and what ``(n, rows, columns,
    classes)``, float32, of images ``(n, height, width, channels)`` in [0, 255].

    ValueError for a model without that head.
    """
    if {"where", "what"} - {layer.name for layer in model.layers}:
        raise ValueError("the model has no maps of where and what; build_model(head='where_and_what') makes one.")
    part = keras.Model(model.inputs, [model.get_layer(name).output for name in ("where", "what")])
    run = tf.function(lambda x: part(x, training=False), autograph=False)
    starts = range(0, len(images), batch_size)
    found = [[y.numpy() for y in run(tf.cast(images[i : i + batch_size], tf.float32))] for i in starts]
    where, what = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return where[..., 0], what


def heat_maps(where: np.ndarray, what: np.ndarray, target: int) -> np.ndarray:
    """log P(evidence here) up to a constant, plus log P(it speaks for ``target``): l + log softmax(m)_target, float32
    ``(n, rows, columns)``, from `where_and_what_maps`."""
    return where + np.asarray(tf.nn.log_softmax(what))[..., target]


def detect(
    model: keras.Model,
    images: np.ndarray,
    target: int = 1,
    n: int = 10,
    overlap: float = 0.2,
    batch_size: int = 8,
) -> pd.DataFrame:
    """The ``n`` highest peaks of each image's heat map (`heat_maps`) that are left after non-maximum suppression.

    A find's box is around the connected places about its peak where sigmoid(l) is at least half of what it is there. Of
    two boxes that share more than ``overlap`` of their union, or where one's middle lies in the other, the lower goes.

    Returns:
        A row for each find, the highest of an image first: image (its number), score (of the heat map at the peak),
        probability (of ``target`` by the maps of what, there), row, column (of the peak) and top, left, bottom, right
        (of its box, the last two exclusive), in pixels.
    """
    where, what = where_and_what_maps(model, images, batch_size)
    heat, p = heat_maps(where, what, target), np.asarray(tf.nn.softmax(what))[..., target]
    step = np.divide(images.shape[1:3], where.shape[1:])
    rows = []
    for i, of_image in enumerate(heat):
        peaks = np.argwhere(of_image == ndimage.maximum_filter(of_image, 3, mode="nearest"))
        kept: list[np.ndarray] = []
        for row, column in sorted(peaks.tolist(), key=lambda place: -of_image[tuple(place)]):
            box = _box_about(where[i], row, column)
            if len(kept) == n or any(_same(box, other, overlap) for other in kept):
                continue
            kept.append(box)
            middle, corners = (np.array([row, column]) + 0.5) * step, box * step[[0, 1, 0, 1]]
            rows.append([i, of_image[row, column], p[i, row, column], *middle, *corners])
    found = pd.DataFrame(rows, columns=["image", "score", "probability", "row", "column", *SIDES])
    return found.astype({name: int for name in ("image", "row", "column", *SIDES)})


SIDES = ("top", "left", "bottom", "right")


def _box_about(where: np.ndarray, row: int, column: int) -> np.ndarray:
    """First and past the last row and column, (top, left, bottom, right), of the places that belong to a peak."""
    p = 1 / (1 + np.exp(-where.astype(float)))
    parts, _ = ndimage.label(p >= p[row, column] / 2)
    down, across = ndimage.find_objects(parts == parts[row, column])[0]
    return np.array([down.start, across.start, down.stop, across.stop])


def _same(a: np.ndarray, b: np.ndarray, overlap: float) -> bool:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.maximum(high - low, 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
    inside = [
        bool((box[:2] <= (c[:2] + c[2:] - 1) / 2).all() and ((c[:2] + c[2:] - 1) / 2 < box[2:]).all())
        for box, c in ((a, b), (b, a))
    ]
    return bool(shared > overlap * union or any(inside))
