"""Class activation maps: weighted sums of a layer's channels.

A is a layer's activation ``(n, rows, columns, channels)`` (of a transformer the patch tokens on their grid) and
g = dS/dA the gradient of the target's logit S. Maps are enlarged bilinearly, to where the layer's grid lies in the
image (`xaiutils.graph.places`). Where the whole score goes through several layers together, their maps are
added (`xaiutils.graph.cam_layers`).

Methods that need no more than A and g are functions ``combine(A, g, **options)`` to maps ``(n, rows, columns)``; they
share one pass (`from_one_pass`). With the channels of A pooled by their mean into one linear layer, CAM, Grad-CAM
without its ReLU, HiResCAM and XGrad-CAM are the same map up to the factor rows * columns.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xaiutils.attribution.method import LAYER, Method
from xaiutils.backend import keras, tf
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.passes import (
    activation,
    activation_and_gradient,
    batches,
    class_scores,
    enlarge,
    forward,
    logits,
    masked_scores,
)
from xaiutils.registry import Parameter

# From the activation and its gradient -----------------------------------------------------------------------------


def grad_cam(A: tf.Tensor, g: tf.Tensor, relu: bool = True) -> tf.Tensor:
    """relu(sum_k w_k A_k), w_k the spatial mean of g_k (Selvaraju et al. 2017, arXiv:1610.02391, eq. 1 and 2).

    ``relu=False`` leaves the ReLU out and gives a signed map.
    """
    weights = tf.reduce_mean(g, axis=(1, 2), keepdims=True)
    return _rectified(tf.reduce_sum(weights * A, axis=-1), relu)


def _rectified(maps: tf.Tensor, relu: bool) -> tf.Tensor:
    return tf.nn.relu(maps) if relu else maps


def grad_cam_plus_plus(A: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
    """relu(sum_k w_k A_k), w_k = sum_ij alpha_ij relu(g_ij) (Chattopadhay et al. 2018, arXiv:1710.11063).

    With Y = exp(S) the second and third derivatives of eq. 19 reduce to alpha = g^2 / (2 g^2 + sum_ab A_ab g^3), 0
    where g = 0; g^2 cancels, and the common factor exp(S) of all weights is left out.
    """
    alpha = tf.math.divide_no_nan(1.0, 2 + tf.reduce_sum(A, axis=(1, 2), keepdims=True) * g)
    weights = tf.reduce_sum(tf.where(g != 0, alpha, 0.0) * tf.nn.relu(g), axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * A, axis=-1))


def xgrad_cam(A: tf.Tensor, g: tf.Tensor, epsilon: float = 1e-6, relu: bool = True) -> tf.Tensor:
    """relu(sum_k w_k A_k), w_k = sum_ij A_k g_k / sum_ij A_k (Fu et al. 2020, arXiv:2008.02312).

    Conservation: without the ReLU each channel's part of the map sums to sum_ij A_k g_k. After SiLU or LayerNorm the
    sum of A_k can be negative or near 0, so ``epsilon`` (the authors' value) is added with that sum's sign, +1 at 0;
    a channel whose sum is small beside its values gets a large weight all the same. ``relu=False`` gives a signed map.
    """
    total = tf.reduce_sum(A, axis=(1, 2), keepdims=True)
    stable = total + epsilon * tf.where(total < 0, -1.0, 1.0)
    weights = tf.math.divide_no_nan(tf.reduce_sum(A * g, axis=(1, 2), keepdims=True), stable)
    return _rectified(tf.reduce_sum(weights * A, axis=-1), relu)


def hirescam(A: tf.Tensor, g: tf.Tensor, relu: bool = False) -> tf.Tensor:
    """sum_k g_k * A_k, element by element, signed (Draelos & Carin 2020, arXiv:2011.08891).

    Where only linear layers follow, the map sums to the logit less its bias. ``relu=True`` sets negative values to 0,
    as some libraries do.
    """
    return _rectified(tf.reduce_sum(g * A, axis=-1), relu)


def layer_cam(A: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
    """relu(sum_k relu(g_k) * A_k), element by element (Jiang et al. 2021, LayerCAM, IEEE TIP 30).

    It suits early layers too; `xaiutils.attribution.cam.layer_aggregate` with ``fusion="max"`` is the paper's fusion.
    """
    return tf.nn.relu(tf.reduce_sum(tf.nn.relu(g) * A, axis=-1))


def from_one_pass(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    combines: Sequence[Callable],
    layers: Sequence[str] = (),
) -> list[np.ndarray]:
    """Maps of several methods, each the sum of those of ``layers`` (by default those that a CAM reads), from one
    forward and backward pass over each batch and layer."""
    height, width = images.shape[1:3]
    maps = np.zeros((len(combines), *images.shape[:3]), np.float32)
    for layer in layers or network.cam_layers():
        run, place = activation_and_gradient(network, layer), network.place(layer)
        for batch in batches(len(images), batch_size, "class activation maps"):
            A, g = run(images[batch], targets[batch])
            for found, combine in zip(maps, combines, strict=True):
                found[batch] += enlarge(combine(A, g), height, width, place)
    return list(maps)


# From the head's weights ------------------------------------------------------------------------------------------

_BETWEEN = ("Dropout", "Identity", "Flatten")  # layers that may stand between the pooling and the logits
_POOLINGS = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalAveragePooling1D)


def cam(network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, layer: str) -> np.ndarray:
    """sum_k w_k A_k, w the linear layer's weights of the target, without bias (Zhou et al. 2016, arXiv:1512.04150).

    For models whose last feature map, or last tokens, go through global average pooling into one linear layer of
    logits; ``layer`` may name that map and nothing else. The mean of the map, before it is enlarged, is the logit less
    its bias (of tokens: where no class token is pooled with them). Other models raise ModelError.
    """
    path, dense = _pooled_head(network, layer)
    kernel = keras.ops.convert_to_numpy(dense.kernel).astype(np.float32)
    kernel = np.concatenate([-kernel, kernel], axis=1) if network.activation == "binary" else kernel

    def build():
        @tf.function(input_signature=[network.image_spec, tf.TensorSpec([None, None], tf.float32)], autograph=False)
        def run(batch, weights):
            A = tf.cast(network.to_grid(path, forward(network, batch, [path])[1][0]), tf.float32)
            return tf.einsum("nrck,nk->nrc", A, weights)

        return run

    run = network.compiled(("cam", path, network.field(path).stored), build)
    height, width = images.shape[1:3]
    maps = [run(images[b], kernel.T[targets[b]]) for b in batches(len(images), batch_size, "class activation maps")]
    return np.concatenate([enlarge(found, height, width, network.place(path)) for found in maps])


def _pooled_head(network: Network, layer: str) -> tuple[str, keras.layers.Dense]:
    """Path of the pooled layer, and the linear layer that follows."""
    dense = network.producer(network.logits_key)
    (pooling,) = network.producers(dense)
    while pooling is not None and type(pooling.operation).__name__ in _BETWEEN:
        (pooling,) = network.producers(pooling)
    pooled = None
    if type(dense.operation) is keras.layers.Dense and pooling is not None and type(pooling.operation) in _POOLINGS:
        (pooled,) = network.producers(pooling)
    linear = network.is_head(dense) or getattr(dense.operation, "activation", None) is keras.activations.linear
    if pooled is None or network.field_of(pooled) is None or not linear:
        raise ModelError(
            "CAM is made for models that end in global average pooling and one linear layer, which this one does not; "
            "use grad_cam, its generalisation to any head, or hirescam."
        )
    if layer and network.cam_layer(layer) != pooled.path:
        raise ModelError(
            f"CAM has no map of layer {layer!r}, only of {pooled.path!r}, the one that is pooled; use grad_cam or "
            "hirescam for other layers."
        )
    return pooled.path, dense.operation


# From the scores of changed inputs --------------------------------------------------------------------------------


def score_cam(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    layer: str,
    max_channels: int,
    weighting: str,
) -> np.ndarray:
    """relu(sum_k w_k A_k), w_k from the score of the image under channel k (Wang et al. 2020, arXiv:1910.01279).

    H_k is channel k enlarged to the image and scaled to [0, 1]; a flat channel gets no weight. With p the target's
    probability, S its logit and 0 the black image, ``weighting`` is

    - "softmax" (Score-CAM's default): Algorithm 1 as printed, the softmax over channels of S(x * H_k) - S(0). Where
      logits differ by much it leaves nearly all weight to a few channels; the subtraction changes nothing;
    - "authors" (Faster Score-CAM's default, as its source): the authors' code, w_k = p(x * H_k), no softmax over
      channels and no baseline. All channels count, by far more alike;
    - "probability": w_k = p(x * H_k) - p(0), the increase of confidence that the paper defines, which can be negative.

    ``max_channels`` > 0 keeps each image's channels of largest spatial standard deviation (Faster Score-CAM).
    """
    paths = network.cam_layers(layer)
    options = {"max_channels": max_channels, "weighting": weighting}
    return sum(_score_cam_of(network, images, targets, batch_size, path, **options) for path in paths)


def _score_cam_of(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    path: str,
    max_channels: int,
    weighting: str,
) -> np.ndarray:
    maps = []
    for chunk in _chunks(len(images), batch_size):  # so that the activations of few images are held at once
        A = activation(network, path, images[chunk], batch_size)
        kept = min(max_channels or A.shape[-1], A.shape[-1])
        chosen = np.argsort(-A.std(axis=(1, 2)), axis=1, kind="stable")[:, :kept]
        A = np.take_along_axis(A, chosen[:, None, None], axis=3)
        weights = score_cam_weights(network, images[chunk], targets[chunk], A, batch_size, weighting, path)
        maps.append(np.maximum(np.einsum("nk,nrck->nrc", weights, A), 0))
    return enlarge(np.concatenate(maps), *images.shape[1:3], network.place(path))


def score_cam_weights(
    network: Network, images: np.ndarray, targets: np.ndarray, A: np.ndarray, batch_size: int, weighting: str, path: str
) -> np.ndarray:
    """Weights ``(n, channels)`` of the channels of ``A``, the activation of layer ``path``; see `score_cam`."""
    score = "logit" if weighting == "softmax" else "probability"
    weights = scores_under_channels(network, images, targets, A, batch_size, score, path)
    if weighting == "probability":
        weights = weights - black_scores(network, images, targets, score)[:, None]
    if weighting == "softmax":
        weights = np.exp(weights - weights.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
    return np.where(np.ptp(A, axis=(1, 2)) == 0, 0, weights)


def _chunks(n: int, batch_size: int) -> list[slice]:
    return [slice(start, start + batch_size) for start in range(0, n, batch_size)]


def scores_under_channels(
    network: Network, images: np.ndarray, targets: np.ndarray, A: np.ndarray, batch_size: int, score: str, path: str
) -> np.ndarray:
    """Score of every image under every channel of its ``A``, the activation of layer ``path``, ``(n, channels)``
    float32."""
    members, channels = np.divmod(np.arange(A.shape[0] * A.shape[-1]), A.shape[-1])

    def masks(batch: slice) -> np.ndarray:
        return A[members[batch], :, :, channels[batch]]

    black = np.zeros((1, 1, 1, 1), np.float32)
    how = {"score": score, "title": "Score-CAM", "scale": True, "place": network.place(path)}
    masked = masked_scores(network, images, black, targets, members, masks, batch_size, **how)
    return masked.reshape(len(images), -1)


def black_scores(network: Network, images: np.ndarray, targets: np.ndarray, score: str) -> np.ndarray:
    black = logits(network, np.zeros_like(images[:1]), 1)
    if score == "probability":
        black = network.probabilities(black).numpy()
    return black[0, targets]


def ablation_cam(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, layer: str, relative: bool
) -> np.ndarray:
    """relu(sum_k w_k A_k), w_k = S - S_k, S_k the logit with channel k set to 0 (Desai & Ramaswamy 2020, WACV).

    Only the layers behind ``layer`` run again. Of tokens, the channel is set to 0 in the patch tokens.
    ``relative=True`` divides by S, as published: the same map but for its scale where S > 0, and all weights turned
    around where S is negative (a constant added to all logits can do that), so it is not the default.
    """
    paths = network.cam_layers(layer)
    return sum(_ablation_cam_of(network, images, targets, batch_size, path, relative) for path in paths)


def _ablation_cam_of(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, path: str, relative: bool
) -> np.ndarray:
    start, ablate = ablation(network, path)
    copies = batch_size * network.batch_factor_after(path)
    maps = []
    for chunk in _chunks(len(images), batch_size):
        scores, A, *state = start(images[chunk], tf.constant(targets[chunk]))
        n, channels = A.shape[0], A.shape[-1]
        found = []
        for member, target in enumerate(targets[chunk]):
            one = [tensor[member : member + 1] for tensor in state]
            for batch in batches(channels, copies, "Ablation-CAM"):
                found.append(ablate(target, np.arange(batch.start, batch.stop, dtype=np.int32), *one))
        weights = scores[:, None] - tf.reshape(tf.concat(found, axis=0), (n, channels))
        weights = tf.math.divide_no_nan(weights, scores[:, None]) if relative else weights
        maps.append(tf.nn.relu(tf.einsum("nk,nrck->nrc", weights, A)).numpy())
    return enlarge(np.concatenate(maps), *images.shape[1:3], network.place(path))


def ablation(network: Network, path: str) -> tuple[Callable, Callable]:
    """Functions that run a model up to a layer, and from there with one channel set to 0.

    ``start(images, targets)`` returns the target's logits, the layer's ``A``, and what the layers behind ``path`` read:
    the layer's raw output and the tensors that lead around it (a transformer's residual stream).
    ``ablate(target, channels, *state)`` returns one image's logits without each of ``channels``; ``state`` is of this
    image alone, so that no copy of it is made but the changed one.
    """
    keys, field = network.cut(path), network.field(path)

    def build():
        @tf.function(input_signature=[network.image_spec, tf.TensorSpec([None], tf.int32)], autograph=False)
        def start(images, targets):
            scores, state = network.up_to_cut(images, keys)
            scores = class_scores(network, scores, targets, "logit")
            return scores, tf.cast(network.to_grid(path, state[0]), tf.float32), *state

        @tf.function(reduce_retracing=True, autograph=False)
        def ablate(target, channels, whole, *others):
            depth = field.shape[field.channels]
            off = tf.one_hot(channels, depth, on_value=True, off_value=False, dtype=tf.bool)
            off = tf.reshape(off, [-1, *(depth if a == field.channels else 1 for a in range(len(field.shape)))])
            without = tf.where(off & field.mask, tf.zeros([], whole.dtype), whole)
            copies = [tf.repeat(tensor, tf.shape(channels)[0], axis=0) for tensor in others]
            return network.from_cut(keys, [without, *copies])[:, target]

        return start, ablate

    return network.compiled(("ablation", path, field.stored), build)


# Declarations -----------------------------------------------------------------------------------------------------


def _without_relu(parameters: Mapping[str, Any]) -> bool:
    return not parameters["relu"]


def _gradient_cam(
    name: str, title: str, paper: str, combine: Callable, options: tuple[Parameter, ...] = (), signed: bool = False
) -> Method:
    def compute(network, images, targets, batch_size, *, layer: str, **options) -> np.ndarray:
        combine_so, paths = functools.partial(combine, **options), network.cam_layers(layer)
        return from_one_pass(network, images, targets, batch_size, [combine_so], paths)[0]

    compute.__doc__ = combine.__doc__
    return Method(
        name=name,
        title=title,
        family="cam",
        paper=paper,
        signed=signed,
        cost="1 gradient",
        compute=compute,
        parameters=(LAYER, *options),
        combine=combine,
        signed_by=_without_relu if any(p.name == "relu" for p in options) else None,
    )


def _relu(default: bool) -> Parameter:
    return Parameter("relu", bool, default, "set negative values to 0; False gives a signed map")


CAM = Method(
    name="cam",
    title="CAM",
    family="cam",
    paper="Zhou, Khosla, Lapedriza, Oliva & Torralba 2016, arXiv:1512.04150",
    signed=True,
    cost="1 forward",
    compute=cam,
    parameters=(LAYER,),
    suits=("cnn",),  # and transformers that pool their tokens; those of `xaiutils.models` read the class token
)

GRAD_CAM = _gradient_cam("grad_cam", "Grad-CAM", "Selvaraju et al. 2017, arXiv:1610.02391", grad_cam, (_relu(True),))
GRAD_CAM_PLUS_PLUS = _gradient_cam(
    "grad_cam_plus_plus",
    "Grad-CAM++",
    "Chattopadhay, Sarkar, Howlader & Balasubramanian 2018, arXiv:1710.11063",
    grad_cam_plus_plus,
)
XGRAD_CAM = _gradient_cam(
    "xgrad_cam",
    "XGrad-CAM",
    "Fu, Hu, Dong, Guo, Gao & Li 2020, arXiv:2008.02312",
    xgrad_cam,
    (Parameter("epsilon", float, 1e-6, "added to each channel's sum, with its sign", 0.0, 1.0), _relu(True)),
)
HIRESCAM = _gradient_cam(
    "hirescam", "HiResCAM", "Draelos & Carin 2020, arXiv:2011.08891", hirescam, (_relu(False),), signed=True
)
LAYER_CAM = _gradient_cam(
    "layer_cam",
    "LayerCAM",
    "Jiang, Zhang, Hou, Cheng & Wei 2021, IEEE Transactions on Image Processing 30",
    layer_cam,
)


def _score_cam(name: str, title: str, paper: str, cost: str, max_channels: Parameter, weighting: str) -> Method:
    weights = Parameter(
        "weighting",
        str,
        weighting,
        "the paper's softmax of logits over channels, its authors' code's probability, or the gain in probability over "
        "black",
        choices=("softmax", "authors", "probability"),
    )
    return Method(
        name=name,
        title=title,
        family="cam",
        paper=paper,
        signed=False,
        cost=cost,
        compute=score_cam,
        parameters=(LAYER, max_channels, weights),
    )


SCORE_CAM = _score_cam(
    "score_cam",
    "Score-CAM",
    "Wang et al. 2020, arXiv:1910.01279",
    "1 forward for each channel, + 1",
    Parameter(
        "max_channels", int, 0, "channels scored for each image, those that vary most; 0: all", low=0, high=100_000
    ),
    "softmax",
)
FASTER_SCORE_CAM = _score_cam(
    "faster_score_cam",
    "Faster Score-CAM",
    "github.com/tabayashi0117/Score-CAM, after Wang et al. 2020, arXiv:1910.01279",
    "max_channels forwards, + 1",
    Parameter("max_channels", int, 10, "channels scored for each image, those that vary most", low=1, high=100_000),
    "authors",
)
ABLATION_CAM = Method(
    name="ablation_cam",
    title="Ablation-CAM",
    family="cam",
    paper="Desai & Ramaswamy 2020, Ablation-CAM, WACV",
    signed=False,
    cost="1 forward, + 1 of the layers behind it for each channel",
    compute=ablation_cam,
    shift_invariant_by=lambda parameters: not parameters["relative"],
    parameters=(
        LAYER,
        Parameter(
            "relative", bool, False, "divide by the target's logit: published, but turned over where it is negative"
        ),
    ),
)
