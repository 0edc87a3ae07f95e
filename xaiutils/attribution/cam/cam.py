"""CAM, the first class activation map: the weights of the linear layer that reads the pooled channels."""

from typing import Any

import numpy as np

from xaiutils.attribution.cam.weighted_sum import maps_of_weights
from xaiutils.attribution.method import LAYER, Method
from xaiutils.backend import keras, tf
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.passes import activation
from xaiutils.graph.place_tracing import why_no_field
from xaiutils.graph.score import Score

_POOLINGS = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalAveragePooling1D)
_BETWEEN = (keras.layers.Dropout, keras.layers.Identity, keras.layers.Flatten)  # of the pooling and the logits


def cam(network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, layer: str) -> np.ndarray:
    """sum_k w_k A_k, w the linear layer's weights of the target, without bias (Zhou et al. 2016, arXiv:1512.04150).

    For models whose last feature map, or last tokens, go through global average pooling into one linear layer of
    logits; ``layer`` may name that map and nothing else. The mean of the map, before it is enlarged, is the logit less
    its bias (of tokens: where no class token is pooled with them). Other models raise ModelError.
    """
    path, dense = _pooled_head(network, layer)
    kernel = keras.ops.convert_to_numpy(dense.kernel).astype(np.float32)
    score = network.steps_to_logits[-1].operation
    if isinstance(score, Score):
        kernel = kernel @ _coefficients(score, kernel.shape[1])
    kernel = np.concatenate([-kernel, kernel], axis=1) if network.activation == "binary" else kernel

    def weigh(images: np.ndarray, targets: np.ndarray, path: str) -> tuple[tf.Tensor, tf.Tensor]:
        return activation(network, path, images, batch_size), kernel.T[targets]

    return maps_of_weights(network, images, targets, batch_size, [path], weigh, relu=False)


def _coefficients(score: Score, n_units: int) -> np.ndarray:
    """Of a linear score of the logits, its coefficients ``(n_units, 1)``; ModelError of any other."""
    z = tf.constant(np.random.default_rng(0).normal(size=(8, n_units)).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(z)
        s = score(z)
    slope = tape.gradient(s, z).numpy()
    if not np.allclose(slope, slope[:1], rtol=1e-4, atol=1e-6):
        raise ModelError("CAM has weights for sums of logits alone, and targets= is another function; use grad_cam.")
    return slope[:1].T


def _pooled_head(network: Network, layer: str) -> tuple[str, keras.layers.Dense]:
    """Path of the pooled layer, and the linear layer that follows."""
    dense = next(step for step in reversed(network.steps_to_logits) if not isinstance(step.operation, Score))
    pooling = network.producers(dense)[0]
    while pooling is not None and type(pooling.operation) in _BETWEEN:
        (pooling,) = network.producers(pooling)
    pooled, axes, field = None, set[int](), None
    if type(dense.operation) is keras.layers.Dense and pooling is not None:
        axes = _averaged(pooling.operation, len(network.shapes[pooling.reads[0]]))
        pooled = network.producers(pooling)[0]
        field = None if pooled is None else network.field_of(pooled)
    linear = network.is_head(dense) or getattr(dense.operation, "activation", None) is keras.activations.linear
    over_places = field is None or axes == {1 + a for a in range(len(field.shape)) if a != field.channels}
    if pooled is None or not axes or not over_places or not linear:
        raise ModelError(
            "CAM is made for models whose layers end in global average pooling and one Dense layer, and this one's do "
            "not; use grad_cam, its generalisation to any head, or hirescam."
        )
    if field is None:
        places = " x ".join(map(str, network.sizes(pooled.outputs)[0][:-1]))
        lost = why_no_field(network, pooled) or f"it is {places}, too small for these images or mixed over places"
        raise ModelError(
            f"CAM reads what is pooled last, the output of {pooled.path!r}, which is no map of the image: {lost}. Use "
            "grad_cam, which reads an earlier layer."
        )
    if layer and network.cam_layer(layer) != pooled.path:
        raise ModelError(
            f"CAM has no map of layer {layer!r}, only of {pooled.path!r}, the one that is pooled; use grad_cam or "
            "hirescam for other layers."
        )
    return pooled.path, dense.operation


def _averaged(operation: Any, rank: int) -> set[int]:
    """The axes over which a layer of global average pooling, or keras.ops.mean, takes the mean; none of others."""
    if type(operation) in _POOLINGS:
        first = int(operation.data_format == "channels_first")
        return set(range(1 + first, rank - 1 + first))
    if type(operation).__name__ == "Mean" and not isinstance(operation, keras.Layer) and operation.axis is not None:
        return set() if operation.keepdims else {int(axis) % rank for axis in np.atleast_1d(operation.axis)}
    return set()


CAM = Method(
    name="cam",
    title="CAM",
    family="cam",
    paper="Zhou, Khosla, Lapedriza, Oliva & Torralba 2016, arXiv:1512.04150",
    signed=True,
    cost="1 forward",
    compute=cam,
    needs="layers",
    check=lambda network: _pooled_head(network, ""),
    parameters=(LAYER,),
    suits=("cnn",),  # and transformers that pool their tokens; those of `xaiutils.models` read the class token
)
