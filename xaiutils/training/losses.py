"""What training minimises, and what is done for rare classes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from xaiutils.backend import tf
from xaiutils.datasets.image_dataset import strata


def make_loss(recipe: Any, labels: np.ndarray, n_classes: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The recipe's loss: (int64 labels ``(n,)``, logits ``(n, n_classes)``) -> the mean over the batch.

    With probabilities p and the target q (1 for the label; with ``label_smoothing`` s, q (1 - s) + s / n_classes):

    - cross-entropy: - sum_c q_c log p_c;
    - binary cross-entropy: - 1 / n_classes sum_c (q_c log p_c + (1 - q_c) log(1 - p_c)), each class against the rest.
      Of two classes it is cross-entropy, to the digit: with one logit z_1 - z_0, their softmax is the sigmoid;
    - focal: - sum_c q_c (1 - p_c)^gamma log p_c (Lin et al. 2017, Focal loss for dense object detection,
      arXiv:1708.02002; its alpha is the class weight).

    ``balance="class_weights"`` multiplies each image's loss by its class' weight, see `class_weights`.
    """
    weights = tf.constant(class_weights(labels, n_classes), tf.float32) if recipe.balance == "class_weights" else None

    def each(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        if recipe.loss == "cross_entropy" and not recipe.label_smoothing:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        log_p = tf.nn.log_softmax(logits)
        target = tf.one_hot(y, n_classes) * (1 - recipe.label_smoothing) + recipe.label_smoothing / n_classes
        if recipe.loss == "binary_cross_entropy":
            return -tf.reduce_mean(target * log_p + (1 - target) * _log_of_rest(log_p), axis=1)
        if recipe.loss == "focal":
            # maximum: at p = 1 a gamma below 1 has no derivative.
            target *= tf.maximum(1 - tf.exp(log_p), 1e-7) ** recipe.focal_gamma
        return -tf.reduce_sum(target * log_p, axis=1)

    def loss(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        values = each(y, logits)
        return tf.reduce_mean(values if weights is None else values * tf.gather(weights, y))

    return loss


def make_label_loss(recipe: Any, labels: np.ndarray) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The loss of several labels in one image: (labels ``(n, k)`` of 1, 0 and -1, logits) -> the mean over the known.

    Binary cross-entropy of each label by itself, whether the recipe's loss is cross_entropy or binary_cross_entropy;
    with focal times (1 - p of what is true)^gamma. ``label_smoothing`` s: 1 and 0 become 1 - s / 2 and s / 2.
    ``balance="class_weights"``: of each label, images with it and images without it weigh the same in all.
    """
    weighted = recipe.balance == "class_weights"
    each = np.array([class_weights(y[y >= 0], 2) if (y >= 0).any() else [0, 0] for y in labels.T])
    weights = tf.constant(each if weighted else np.ones((labels.shape[1], 2)), tf.float32)  # absent, present

    def loss(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        known, present = tf.cast(y >= 0, tf.float32), tf.cast(y == 1, tf.float32)
        target = present * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
        values = tf.nn.sigmoid_cross_entropy_with_logits(target, logits)
        if recipe.loss == "focal":
            wrong = tf.sigmoid(logits * (1 - 2 * present))
            values *= tf.maximum(wrong, 1e-7) ** recipe.focal_gamma
        values *= known * (present * weights[:, 1] + (1 - present) * weights[:, 0])
        return tf.math.divide_no_nan(tf.reduce_sum(values), tf.reduce_sum(known))

    return loss


def squared_error(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean squared error of standardised values ``(n,)`` and logits ``(n, 1)``."""
    return tf.reduce_mean(tf.square(logits[:, 0] - y))


def _log_of_rest(log_p: tf.Tensor) -> tf.Tensor:
    """log(1 - p) of each class from log p ``(n, classes)``. Of the likeliest class, where 1 - p may be 0 in float32,
    from the other classes' probabilities."""
    likeliest = tf.one_hot(tf.argmax(log_p, axis=1), log_p.shape[1], on_value=True, off_value=False)
    of_others = tf.reduce_logsumexp(tf.where(likeliest, log_p.dtype.min, log_p), axis=1, keepdims=True)
    return tf.where(likeliest, of_others, tf.math.log1p(-tf.where(likeliest, 0.0, tf.exp(log_p))))


def class_weights(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Weight of each class: n / (present classes * images of the class), so that every class weighs the same in all
    and the mean over ``labels`` is 1. 0 for a class without images."""
    counts = np.bincount(labels, minlength=n_classes)
    present = counts > 0
    return np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 0.0)


def epoch_order(labels: np.ndarray, count: int, balanced: bool, rng: np.random.Generator) -> np.ndarray:
    """Positions of the ``count`` images of one epoch, in a random order; ``count`` is at most the number of images.

    ``balanced``: the classes take turns, so that any batch has as many of each as it can; images of a rare class come
    several times, but none comes again before all others of its class. Of labels ``(n, k)`` the classes are those of
    `strata`.
    """
    if not balanced:
        return rng.permutation(len(labels))[:count]
    labels = strata(labels)
    present = rng.permutation(np.unique(labels))
    turns = np.resize(present, count)
    order = np.empty(count, np.int64)
    for label in present:
        places, members = np.flatnonzero(turns == label), np.flatnonzero(labels == label)
        rounds = -(-len(places) // len(members))
        order[places] = np.concatenate([rng.permutation(members) for _ in range(rounds)])[: len(places)]
    return order
