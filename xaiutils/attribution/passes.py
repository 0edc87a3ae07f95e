"""The passes that all methods are made of: graph-compiled once for each model, batched, bounded in memory.

Images are float32 ``(n, height, width, 3)`` in [0, 255] and targets int32 ``(n,)`` throughout.
"""

from collections.abc import Callable, Iterator

import numpy as np

from xaiutils.attribution.network import ModelError, Network
from xaiutils.backend import tf
from xaiutils.progress import progress

_TARGETS = tf.TensorSpec([None], tf.int32)


def batches(n: int, batch_size: int, title: str) -> Iterator[slice]:
    """Consecutive slices of ``range(n)``, with progress."""
    starts = range(0, n, batch_size)
    return (slice(start, min(start + batch_size, n)) for start in progress(starts, title=title))


def logits(network: Network, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Logits ``(n, classes)`` float32."""
    forward = network.compiled("logits", lambda: tf.function(network.logits, input_signature=[network.image_spec]))
    return np.concatenate([forward(images[b]).numpy() for b in batches(len(images), batch_size, "predicting")])


def class_scores(network: Network, scores: tf.Tensor, targets: tf.Tensor, score: str) -> tf.Tensor:
    """The target's entry of each row of logits, as "logit" or as "probability"."""
    if score == "probability":
        scores = network.probabilities(scores)
    return tf.gather(scores, targets, axis=1, batch_dims=1)


def input_gradients(network: Network) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Function (images, targets) -> gradient of each target logit by its image, ``(n, height, width, 3)``."""

    def build():
        connected = []

        @tf.function(input_signature=[network.image_spec, _TARGETS])
        def gradients(images, targets):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(images)
                # Images do not mix, so the gradient of the sum holds each image's own gradient.
                total = tf.reduce_sum(class_scores(network, network.logits(images), targets, "logit"))
            found = tape.gradient(total, images)
            connected.append(found is not None)  # while it is traced
            return tf.zeros_like(images) if found is None else found

        def run(images, targets):
            found = gradients(images, targets)
            if not connected[-1]:
                raise ModelError("the model cuts the gradient to its input (does it cast to integers?); use occlusion.")
            return found.numpy()

        return run

    return network.compiled("input gradients", build)


def averaged_gradients(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    place: Callable[[np.ndarray, int], np.ndarray],
    batch_size: int,
    title: str,
) -> np.ndarray:
    """Weighted sum over points of the gradients at moved images, ``(n, height, width, 3)`` float32.

    ``place(members, point)`` returns the images ``members`` (indices) as they are at a point (a step of a path, a
    noisy copy). All (point, image) pairs form one stream that is cut into batches, so neither many points of one
    image nor one point of many images wastes a pass, and memory depends on ``batch_size`` alone.
    """
    gradients = input_gradients(network)
    total = np.zeros(images.shape, np.float64)
    points, members = np.divmod(np.arange(len(weights) * len(images)), len(images))
    for batch in batches(len(points), batch_size, title):
        point, member = points[batch], members[batch]
        first = [np.flatnonzero(point == p) for p in np.unique(point)]
        placed = np.concatenate([place(member[rows], int(point[rows[0]])) for rows in first])
        result = gradients(placed.astype(np.float32, copy=False), targets[member])
        for rows in first:  # within one point every image occurs at most once
            total[member[rows]] += weights[point[rows[0]]] * result[rows]
    return total.astype(np.float32)


def activation_and_gradient(
    network: Network, layer: str
) -> Callable[[np.ndarray, np.ndarray], tuple[tf.Tensor, tf.Tensor]]:
    """Function (images, targets) -> a layer's activation and the target logit's gradient by it.

    Both ``(n, rows, columns, channels)``; of a transformer's tokens, only the patch tokens.
    """

    def build():
        @tf.function(input_signature=[network.image_spec, _TARGETS])
        def run(images, targets):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                scores, (activation,) = network.forward(images, [layer], tape.watch)
                total = tf.reduce_sum(class_scores(network, scores, targets, "logit"))
            gradient = tape.gradient(total, activation)
            return tuple(tf.cast(network.to_grid(layer, x), tf.float32) for x in (activation, gradient))

        return run

    return network.compiled(("activation and gradient", layer, network.grid(layer)), build)


def activation(network: Network, layer: str, images: np.ndarray, batch_size: int) -> np.ndarray:
    """A layer's activation ``(n, rows, columns, channels)`` float32."""

    def build():
        @tf.function(input_signature=[network.image_spec])
        def run(batch):
            return tf.cast(network.to_grid(layer, network.forward(batch, [layer])[1][0]), tf.float32)

        return run

    run = network.compiled(("activation", layer, network.grid(layer)), build)
    return np.concatenate([run(images[b]).numpy() for b in batches(len(images), batch_size, "activations")])


def masked_scores(
    network: Network,
    images: np.ndarray,
    fills: np.ndarray,
    targets: np.ndarray,
    members: np.ndarray,
    masks: Callable[[slice], np.ndarray],
    batch_size: int,
    score: str = "logit",
    title: str = "masking",
) -> np.ndarray:
    """Score of image ``members[k]`` mixed with its fill by mask k: ``mask * image + (1 - mask) * fill``.

    ``masks(batch)`` makes the masks ``(batch, rows, columns)`` of a slice of k, of any resolution; smaller ones are
    enlarged bilinearly. ``fills`` is ``(n, height, width, 3)`` or broadcastable to it. Returns float32
    ``(len(members),)``.
    """
    height, width = images.shape[1:3]

    def build():
        image, any_size = network.image_spec, tf.TensorSpec([None, None, None], tf.float32)

        @tf.function(input_signature=[image, image, _TARGETS, any_size])
        def run(batch, fill, target, mask):
            mask = tf.image.resize(mask[..., None], tf.shape(batch)[1:3])
            scores = network.logits(fill + mask * (batch - fill))
            return class_scores(network, scores, target, score)

        return run

    run = network.compiled(("masked scores", score), build)
    fills = np.broadcast_to(fills, (len(images), height, width, 3))
    result = np.empty(len(members), np.float32)
    for batch in batches(len(members), batch_size, title):
        chosen = members[batch]
        mask = masks(batch).astype(np.float32, copy=False)
        result[batch] = run(images[chosen], fills[chosen].astype(np.float32), targets[chosen], mask).numpy()
    return result


def enlarge(maps: np.ndarray | tf.Tensor, height: int, width: int) -> np.ndarray:
    """Bilinear resize of ``(n, rows, columns)`` to ``(n, height, width)`` float32, half-pixel centres."""
    return tf.image.resize(tf.convert_to_tensor(maps, tf.float32)[..., None], (height, width))[..., 0].numpy()


def reduce_channels(gradients: np.ndarray, reduction: str) -> np.ndarray:
    """``(n, height, width, 3)`` to ``(n, height, width)``."""
    if reduction == "sum":
        return gradients.sum(axis=-1)
    absolute = np.abs(gradients)
    return absolute.max(axis=-1) if reduction == "max_abs" else absolute.sum(axis=-1)
