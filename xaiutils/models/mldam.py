"""The head "mldam": multi-level dual attention, over the places and over the channels of three feature maps.

Mishra, Mandal & Puhan 2019 (IEEE Signal Processing Letters 26(12)); Gonçalves & Cardoso 2021 (RECPAD), "the study", put
it on VGG-16, ResNet-50 and DenseNet-121. Q, K and V ``(n, N, C)`` are a shallow, a middle and the last feature map, all
averaged to the grid of the last one, of N places, their channels repeated up to its C. Attention has no weights:

    position = V + P V,  P = softmax(Q K^T) over each row, N x N;    channel = V + V (V^T V)
    features = the mean of norm(relu(position)) and norm(relu(channel))

Behind them stand layers of 512 and 512 units, each with dropout. In the study's code one softmax goes over all N^2
entries of (Q K^T)^T, so that what a place reads of the others is a small part of V, or goes to few places; norm is a
batch norm; and the units are C and C / 2. There the shallow and middle maps of DenseNet also came behind another
pooling of its stem; here all three are of one network.

Nothing is scaled. On 24 images of BUSI and the features of ImageNet's EfficientNet-Lite0, before training, Q K^T has a
deviation of 550: each row of P takes a single place, and the study's softmax one of all 2,401 pairs, so that the norm
of P V is .05 of V's where the published one's is 1.0. V (V^T V) is 10^4 times V, too large for half precision.
"""

from collections.abc import Sequence
from typing import Any

from xaiutils.backend import keras
from xaiutils.models.where_and_what import tensor_of_stride
from xaiutils.registry import check_choice, check_integer

layers, ops = keras.layers, keras.ops

VARIANTS = ("published", "study")
ATTENTIONS = ("both", "position", "channel", "none")
DROPOUT = 0.25
# The study's layers where they are not the last sum or joint of a stride: the poolings, and a norm without its ReLU.
_TAPS = {
    "vgg16": ("block3_pool", "block4_pool", "block5_pool"),
    "densenet121": ("conv3_block12_concat", "conv4_block24_concat", "bn"),
}


@keras.saving.register_keras_serializable("xaiutils")
class PlaceProduct(keras.layers.Layer):
    """A B of ``(n, N, M)`` and ``(n, M, C)``; with ``transposed`` A B^T of ``(n, N, C)`` and ``(n, M, C)``."""

    def __init__(self, transposed: bool = False, **options: Any):
        super().__init__(**options)
        self.transposed = transposed

    def call(self, pair: Any) -> Any:
        a, b = pair
        return ops.matmul(a, ops.swapaxes(b, 1, 2) if self.transposed else b)

    def compute_output_shape(self, input_shape: Any) -> tuple[int, ...]:
        a, b = input_shape
        return (*a[:2], b[1 if self.transposed else 2])

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"transposed": self.transposed}


@keras.saving.register_keras_serializable("xaiutils")
class RepeatChannels(keras.layers.Layer):
    """The last axis again and again until it has ``channels``; the last copy is cut where it does not fit."""

    def __init__(self, channels: int, **options: Any):
        super().__init__(**options)
        self.channels = channels

    def call(self, x: Any) -> Any:
        return ops.take(x, ops.arange(self.channels) % x.shape[-1], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*input_shape[:-1], self.channels)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"channels": self.channels}


def mldam_taps(name: str, inputs: Any, top: Any, taps: Sequence[str] = ()) -> list[Any]:
    """The shallow, the middle and the last feature map of the network ``name`` from ``inputs`` to ``top``: those of the
    layers ``taps``, by default the study's, or of another network the last of strides 8 and 16, and ``top``.

    ValueError where there are no such layers.
    """
    network = keras.Model(inputs, top)
    chosen = tuple(taps) or _TAPS.get(name)
    if chosen is None:
        return [tensor_of_stride(network, 8), tensor_of_stride(network, 16), top]
    known = [layer.name for layer in network.layers if len(layer.output.shape) == 4]
    if isinstance(taps, str) or len(chosen) != 3 or not set(chosen) <= set(known):
        raise ValueError(f"taps={taps!r}; expected three of {name}'s layers: {', '.join(known)}.")
    return [network.get_layer(tap).output for tap in chosen]


def mldam(
    shallow: Any,
    middle: Any,
    last: Any,
    variant: str = "published",
    attention: str = "both",
    units: Sequence[int] = (),
) -> Any:
    """What the logits are made of ``(n, units)``, from three feature maps ``(n, rows, columns, channels)``.

    Layer ``mldam_attention`` ``(n, N, N)`` is P: row i has the weights by which place i reads the others, places
    counted row by row. Layer ``mldam`` is the mean of both branches as a map, ``features`` the same, flat.

    Args:
        variant: "published", or "study" as its code has it; see this module.
        attention: "both", "position" or "channel" alone, or "none", which leaves out P V and V (V^T V) and nothing
            else: the network then has the same weights, and what differs is attention.
        units: of the two layers before the logits; empty: those of the variant.

    Raises:
        ValueError: an unknown choice, or maps whose sizes are no multiples of the last one's.
    """
    check_choice("variant", variant, VARIANTS)
    check_choice("attention", attention, ATTENTIONS)
    rows, columns, channels = last.shape[1:]
    units = tuple(units) or ((512, 512) if variant == "published" else (channels, channels // 2))
    if len(units) != 2:
        raise ValueError(f"units={units!r}; expected two numbers, of the layers before the logits.")
    value = _tokens(last, last, "value")
    position = channel = value
    if attention in ("both", "position"):
        pair = [_tokens(shallow, last, "query"), _tokens(middle, last, "key")]
        scores = PlaceProduct(transposed=True, name="mldam_scores")(pair if variant == "published" else pair[::-1])
        read = layers.Softmax(axis=-1 if variant == "published" else [1, 2], name="mldam_attention")(scores)
        position = layers.Add(name="mldam_position")([value, PlaceProduct(name="mldam_read")([read, value])])
    if attention in ("both", "channel"):
        # V (V^T V) as (V V^T) V, which is the same and, of N places and C channels, takes N / C of the time.
        alike = PlaceProduct(transposed=True, name="mldam_alike")([value, value])
        channel = layers.Add(name="mldam_channel")([value, PlaceProduct(name="mldam_mixed")([alike, value])])
    branches = [_normed(x, variant, name) for x, name in ((position, "position"), (channel, "channel"))]
    mean = layers.Average(name="mldam_mean")(branches)
    x = layers.Flatten(name="features")(layers.Reshape((rows, columns, channels), name="mldam")(mean))
    for number, width in enumerate(units, 1):
        check_integer("units", width, 1)
        x = layers.Dense(width, activation="relu", name=f"mldam_dense_{number}")(x)
        x = layers.Dropout(DROPOUT, name=f"mldam_dropout_{number}")(x)
    return x


def _tokens(x: Any, last: Any, name: str) -> Any:
    """A feature map as ``(n, N, C)`` of the last one's grid and channels."""
    (rows, columns, channels), own = last.shape[1:], x.shape[1:]
    if own[0] % rows or own[1] % columns or own[0] // rows != own[1] // columns or own[2] > channels:
        raise ValueError(
            f"a feature map {tuple(own)} cannot be averaged to the last one's {rows} x {columns} places, or has more "
            f"than its {channels} channels; take images whose sides are multiples of 32, or other taps."
        )
    if own[0] > rows:
        x = layers.AveragePooling2D(own[0] // rows, name=f"mldam_{name}_pool")(x)
    if own[2] < channels:
        x = RepeatChannels(channels, name=f"mldam_{name}_channels")(x)
    return layers.Reshape((rows * columns, channels), name=f"mldam_{name}")(x)


def _normed(x: Any, variant: str, name: str) -> Any:
    """norm(relu(x)). The published norm adds its 1e-6 to the deviation, not to the variance."""
    x = layers.ReLU(name=f"mldam_{name}_relu")(x)
    if variant == "study":
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-6, name=f"mldam_{name}_norm")(x)
    return layers.LayerNormalization(epsilon=1e-6, name=f"mldam_{name}_norm")(x)
