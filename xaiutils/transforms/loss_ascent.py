"""Signed gradient steps up a model's loss: what the attacks share.

Only the sign of dL/dx is used, so it is taken of the argument of L that L rises with, which keeps it exact where a
sure model's L is 0 to rounding and its gradient vanishes: L = log(1 + exp(m)) with m = log(sum over the other classes
j of exp(z_j)) - z_target for a softmax over logits z, and m = -z_target for sigmoids, one or several.

No image depends on its batch mates, up to rounding: a gradient that is 0 to rounding may take the other sign in a batch
of another size, and several steps multiply that. The images are then equally strong, though not equal in every pixel.
"""

from collections.abc import Callable, Iterable

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.predict import prepare
from xaiutils.progress import progress


def _margins(network: Network, logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """The m of the module's text for each image, float32 ``(n,)``."""
    of_target = tf.gather(logits, targets, axis=1, batch_dims=1)
    if network.activation != "softmax":
        return -of_target
    is_target = tf.one_hot(targets, network.n_classes, on_value=True, off_value=False, dtype=tf.bool)
    others = tf.where(is_target, tf.constant(-np.inf, logits.dtype), logits)
    return tf.reduce_logsumexp(others, axis=1) - of_target


def _gradient_signs(network: Network) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Function (images, targets) -> sign of dL/dx in {-1, 0, 1}, float32 ``(n, height, width, C)``.

    Compiled once for each model, for batches of any size.
    """

    def build():
        connected = []

        @tf.function(input_signature=[network.image_spec, tf.TensorSpec([None], tf.int32)], autograph=False)
        def signs(images, targets):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(images)
                # Images do not mix, so the gradient of the sum holds each image's own gradient.
                total = tf.reduce_sum(_margins(network, network.logits(images), targets))
            found = tape.gradient(total, images)
            connected.append(found is not None)  # while it is traced
            return tf.zeros_like(images) if found is None else tf.sign(found)

        def run(images, targets):
            n = len(images)
            if n == 1:  # other kernels, which round otherwise, serve a batch of one: give it company
                images, targets = np.repeat(images, 2, axis=0), np.repeat(targets, 2)
            found = signs(images, targets).numpy()[:n]
            if not connected[-1]:
                raise ModelError("the model cuts the gradient to its input (does it cast to integers?): no attack.")
            if not np.isfinite(found).all():
                raise FloatingPointError("the gradient of the loss is NaN: the model's weights or logits overflow.")
            return found

        return run

    return network.compiled("signs of the loss' gradient", build)


def ascend_loss(
    model: keras.Model,
    images: np.ndarray,
    targets: int | Iterable[int] | None,
    batch_size: int,
    start: np.ndarray | float,
    epsilon: float,
    step: float,
    n_steps: int,
) -> np.ndarray:
    """``n_steps`` signed gradient steps of ``step`` grey levels from ``images + start``, each cut back to the ball."""
    network, images, classes = prepare(model, images, targets, batch_size)
    if network.activation == "score":
        raise ModelError("attacks raise the loss of a class, and the model gives a score in its own units: no attack.")
    signs = _gradient_signs(network)
    low, high = np.maximum(images - np.float32(epsilon), 0), np.minimum(images + np.float32(epsilon), 255)
    moved = np.clip(images + np.asarray(start, np.float32), low, high)
    passes = [(first, k) for first in range(0, len(images), batch_size) for k in range(n_steps)]
    for first, _ in progress(passes, title="attack"):
        rows = slice(first, first + batch_size)
        ahead = moved[rows] + np.float32(step) * signs(moved[rows], classes[rows])
        moved[rows] = np.clip(ahead, low[rows], high[rows])
    return moved
