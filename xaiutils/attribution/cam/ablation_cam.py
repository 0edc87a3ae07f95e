"""Ablation-CAM: a channel's weight is what the score loses without that channel."""

from collections.abc import Callable

import numpy as np

from xaiutils.attribution.cam.weighted_sum import maps_of_weights
from xaiutils.attribution.method import LAYER, Method
from xaiutils.backend import tf
from xaiutils.graph.network import Network
from xaiutils.graph.passes import batches, class_scores
from xaiutils.graph.tiers import tiered
from xaiutils.registry import Parameter


def ablation_cam(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, layer: str, relative: bool
) -> np.ndarray:
    """relu(sum_k w_k A_k), w_k = S - S_k, S_k the logit with channel k set to 0 (Desai & Ramaswamy 2020, WACV).

    Only the layers after ``layer`` run again. Of tokens, the channel is set to 0 in the patch tokens.
    ``relative=True`` divides by S, as published: the same map up to its scale where S > 0, and all weights reversed in
    sign where S is negative (a constant added to all logits can do that), so it is not the default.
    """

    def weigh(images: np.ndarray, targets: np.ndarray, path: str) -> tuple[tf.Tensor, tf.Tensor]:
        scores, A, drops = channel_drops(network, images, targets, batch_size, path)
        return A, tf.math.divide_no_nan(drops, scores[:, None]) if relative else drops

    layers = network.cam_layers(layer)
    return maps_of_weights(network, images, targets, batch_size, layers, weigh, relu=True)


def channel_drops(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    path: str,
    channels: np.ndarray | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The target's logits S ``(n,)``, the activation A of layer ``path``, and S - S_k ``(n, k)`` for each of
    ``channels`` (by default all), S_k the logit with that channel set to 0.

    S is taken anew with each batch of channels: from another batch it would be rounded otherwise, all drops would be
    off by the same amount, and a map, their sum over hundreds of channels, by hundreds of it.
    """
    start, ablate = ablation(network, path)
    copies = batch_size * network.batch_factor_after(path)
    scores, A, *state = start(images, tf.constant(targets))
    channels = np.arange(A.shape[-1], dtype=np.int32) if channels is None else channels
    found = []
    for member, target in enumerate(targets):
        one = [tensor[member : member + 1] for tensor in state]
        for batch in batches(len(channels), copies, "removing channels"):
            found.append(ablate(target, channels[batch], *one))
    return scores, A, tf.reshape(tf.concat(found, axis=0), (len(targets), len(channels)))


def ablation(network: Network, path: str) -> tuple[Callable, Callable]:
    """Functions that run a model up to a layer, and from there with one channel set to 0.

    ``start(images, targets)`` returns the target's logits, the layer's ``A``, and what the layers after ``path`` read:
    the layer's raw output and the tensors that lead around it (a transformer's residual stream).
    ``ablate(target, channels, *state)`` returns what one image's logit loses without each of ``channels``; ``state`` is
    of this image alone, so that no copy of it is made except the changed one.
    """
    keys, field = network.cut(path), network.field(path)

    def build():
        def start(images, targets):
            scores, state = network.up_to_cut(images, keys)
            scores = class_scores(network, scores, targets, "logit")
            return scores, tf.cast(network.to_grid(path, state[0]), tf.float32), *state

        @tf.function(reduce_retracing=True, autograph=False)
        def ablate(target, channels, whole, *others):
            depth = field.shape[field.channels]
            channels = tf.concat([[-1], channels], axis=0)  # none is off in the first copy
            off = tf.one_hot(channels, depth, on_value=True, off_value=False, dtype=tf.bool)
            off = tf.reshape(off, [-1, *(depth if a == field.channels else 1 for a in range(len(field.shape)))])
            without = tf.where(off & field.mask, tf.zeros([], whole.dtype), whole)
            copies = [tf.repeat(tensor, tf.shape(channels)[0], axis=0) for tensor in others]
            scores = network.from_cut(keys, [without, *copies])[:, target]
            return scores[0] - scores[1:]

        return tiered(network, start, [network.image_spec, tf.TensorSpec([None], tf.int32)]), ablate

    return network.compiled(("ablation", path, field.stored), build)


ABLATION_CAM = Method(
    name="ablation_cam",
    title="Ablation-CAM",
    family="cam",
    paper="Desai & Ramaswamy 2020, Ablation-CAM, WACV",
    signed=False,
    cost="1 forward, + 1 of the layers after it for each channel",
    compute=ablation_cam,
    needs="layers",
    shift_invariant_by=lambda parameters: not parameters["relative"],
    parameters=(
        LAYER,
        Parameter(
            "relative",
            bool,
            False,
            "divide by the target's logit: published, but its sign flips where that is negative",
        ),
    ),
)
