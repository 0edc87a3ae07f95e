"""What training minimises, and what is done for rare classes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from xaiutils.backend import tf


def make_loss(recipe: Any, labels: np.ndarray, n_classes: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The recipe's loss: (int64 labels ``(n,)``, logits ``(n, n_classes)``) -> the mean over the batch.

    With probabilities p and the target q (1 for the label; with ``label_smoothing`` s, q (1 - s) + s / n_classes):

    - cross-entropy: - sum_c q_c log p_c;
    - focal: - sum_c q_c (1 - p_c)^gamma log p_c (Lin et al. 2017, Focal loss for dense object detection,
      arXiv:1708.02002; its alpha is the class weight).

    ``balance="class_weights"`` multiplies each image's loss by its class' weight, see `class_weights`.
    """
    weights = tf.constant(class_weights(labels, n_classes), tf.float32) if recipe.balance == "class_weights" else None

    def loss(y: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        if recipe.loss == "cross_entropy" and not recipe.label_smoothing:
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        else:
            log_p = tf.nn.log_softmax(logits)
            target = tf.one_hot(y, n_classes) * (1 - recipe.label_smoothing) + recipe.label_smoothing / n_classes
            if recipe.loss == "focal":
                # maximum: at p = 1 a gamma below 1 has no derivative.
                target *= tf.maximum(1 - tf.exp(log_p), 1e-7) ** recipe.focal_gamma
            each = -tf.reduce_sum(target * log_p, axis=1)
        return tf.reduce_mean(each if weights is None else each * tf.gather(weights, y))

    return loss


def class_weights(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Weight of each class: n / (present classes * images of the class), so that every class weighs the same in all
    and the mean over ``labels`` is 1. 0 for a class without images."""
    counts = np.bincount(labels, minlength=n_classes)
    present = counts > 0
    return np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 0.0)


def epoch_order(labels: np.ndarray, count: int, balanced: bool, rng: np.random.Generator) -> np.ndarray:
    """Positions of the ``count`` images of one epoch, in a random order; ``count`` is at most the number of images.

    ``balanced``: the classes take turns, so that any batch has as many of each as it can; images of a rare class come
    several times, but none comes again before all others of its class.
    """
    if not balanced:
        return rng.permutation(len(labels))[:count]
    present = rng.permutation(np.unique(labels))
    turns = np.resize(present, count)
    order = np.empty(count, np.int64)
    for label in present:
        places, members = np.flatnonzero(turns == label), np.flatnonzero(labels == label)
        rounds = -(-len(places) // len(members))
        order[places] = np.concatenate([rng.permutation(members) for _ in range(rounds)])[: len(places)]
    return order
