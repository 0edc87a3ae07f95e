"""Where relevance starts: at the logits.

The backward pass is linear in the relevance that enters there, so a contrast of two starts is one pass. A head of one
sigmoid unit with the logit z is read as a softmax over the logits z and a constant 0: the unit takes the relevance
S = z for class 1 and S = -z for class 0, or the seed's number with that sign, and the two classes' maps are each
other's negative. Units of independent sigmoids are read so too, each for itself.
"""

from collections.abc import Callable
from typing import Any

from xaiutils.backend import tf
from xaiutils.graph.network import Network

Seed = Callable[[Network, Any, Any], Any]  # (network, logits, targets) -> relevance of the logits (n, classes)


def at_logits(network: Network, targets: Any, at_target: Any, elsewhere: Any) -> Any:
    """Relevance ``at_target`` (n,) of the target's logit and ``elsewhere`` (n,) or (n, classes) of the others'.

    Of two logits (-z, z) that are one unit, all relevance is put on z, with the sign of the target's logit.
    """
    target = tf.one_hot(targets, network.n_classes)
    if network.activation == "binary":
        sign = 2.0 * tf.cast(targets, tf.float32) - 1.0
        return tf.one_hot(tf.ones_like(targets), 2) * (sign * at_target)[:, None]
    if network.activation in ("sigmoid", "score"):
        return target * at_target[:, None]
    elsewhere = elsewhere if len(elsewhere.shape) == 2 else elsewhere[:, None]
    return target * at_target[:, None] + (1 - target) * elsewhere


def target_scores(network: Network, logits: Any, targets: Any) -> Any:
    """S of each image, ``(n,)``; of one unit, z: `at_logits` gives it its sign."""
    if network.activation == "binary":
        return logits[:, 1]
    return tf.gather(logits, targets, axis=1, batch_dims=1)
