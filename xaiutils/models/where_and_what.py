"""The head "where_and_what": one map says where the evidence lies, others what it speaks for, class by class.

A classifier that averages its last feature map may take its answer from anywhere. This head reads features of stride 16
(a "neck" of two scales) with two small convolutions: ``where`` l ``(n, rows, columns, 1)`` and ``what`` m ``(n, rows,
columns, classes)``. With the attention a = softmax(sharpness * l) over all places,

    logits = W sum_p a_p m_p + b,

W the identity and b zero at the start. All of the score goes through layer ``evidence``, a_p m_p, so a class activation
map of it is the model's own account. Near relatives: GMIC (Shen et al. 2021, arXiv:2002.07613), attention pooling of
instances (Ilse, Tomczak & Welling 2018, arXiv:1802.04712).
"""

from typing import Any

from xaiutils.backend import keras
from xaiutils.registry import check_choice

layers, ops = keras.layers, keras.ops

POOLINGS = ("attention", "top_k", "mean")
TOP_FRACTION = 0.02  # of all places, that "top_k" keeps; GMIC chooses among 0.02 to 0.2
CHANNELS = 128  # of the neck
DROPOUT = 0.2  # of its channels, while it trains
STRIDE = 16  # pixels between two places of the maps
LOWER_STRIDE = 8  # of the layers that a recipe with frozen_lower leaves as they are


@keras.saving.register_keras_serializable("xaiutils")
class SumPlaces(keras.layers.Layer):
    """The sum over rows and columns: ``(n, rows, columns, channels)`` to ``(n, channels)``."""

    def call(self, x: Any) -> Any:
        return ops.sum(x, axis=(1, 2))

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return input_shape[0], input_shape[-1]


@keras.saving.register_keras_serializable("xaiutils")
class KeepLargest(keras.layers.Layer):
    """Leaves the largest ``fraction`` (in (0, 1]; at least one) of the places of each map ``(n, rows, columns, 1)`` and
    puts -1e9 into all others, which a softmax then leaves out."""

    def __init__(self, fraction: float = TOP_FRACTION, **options: Any):
        super().__init__(**options)
        self.fraction = fraction

    def call(self, x: Any) -> Any:
        flat = ops.sort(ops.reshape(x, (ops.shape(x)[0], -1)), axis=1)
        count = ops.shape(flat)[1]
        kept = ops.maximum(ops.cast(self.fraction * ops.cast(count, "float32"), "int32"), 1)
        least = ops.take(flat, count - kept, axis=1)[:, None, None, None]
        return ops.where(x >= least, x, -1e9)

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"fraction": self.fraction}


def where_and_what(inputs: Any, top: Any, n_classes: int, pooling: str = "attention") -> Any:
    """``features`` ``(n, classes)``, what is summed over the places, from the backbone's image input and its last
    feature map, of stride 32.

    ``pooling``: "attention" as above; "top_k" the same over the `TOP_FRACTION` of the places where l is largest;
    "mean": sharpness is 0 and stays so, which makes it the mean over all places, and ``where`` is for the eye alone.
    """
    check_choice("pooling", pooling, POOLINGS)
    fine = tensor_of_stride(keras.Model(inputs, top), STRIDE)
    coarse = layers.UpSampling2D(2, name="neck_up")(layers.Conv2D(CHANNELS, 1, name="neck_coarse")(top))
    # Copied, then smoothed: near to bilinear, which Keras does at fixed sizes alone, and training sees crops.
    coarse = layers.AveragePooling2D(3, 1, "same", name="neck_smooth")(coarse)
    fine = layers.Conv2D(CHANNELS, 1, name="neck_fine")(fine)
    rows, columns = (min(a, b) for a, b in zip(fine.shape[1:3], coarse.shape[1:3], strict=True))
    x = layers.Add(name="neck_add")([_cropped(fine, rows, columns), _cropped(coarse, rows, columns)])
    x = layers.SpatialDropout2D(DROPOUT, name="neck_dropout")(layers.ReLU(6.0, name="neck")(x))
    where = _small_convolution(1, "where")(x)
    what = _small_convolution(n_classes, "what")(x)
    sharp = layers.Conv2D(
        1,
        1,
        use_bias=False,
        kernel_initializer="zeros" if pooling == "mean" else "ones",
        trainable=pooling != "mean",
        name="sharpness",
    )(where)
    if pooling == "top_k":
        sharp = KeepLargest(name="keep_largest")(sharp)
    attention = layers.Softmax(axis=[1, 2], name="attention")(sharp)
    return SumPlaces(name="features")(layers.Multiply(name="evidence")([attention, what]))


def start_as_sum(model: keras.Model) -> None:
    """Make the logits what was summed: W the identity, b zero."""
    layer = model.get_layer("logits")
    layer.set_weights([ops.convert_to_numpy(ops.eye(layer.units)), 0 * layer.get_weights()[1]])


def tensor_of_stride(model: keras.Model, stride: int) -> Any:
    """The last tensor of a backbone with so many pixels between two places: the last sum or joint of branches, with the
    activation right after it, or where a network has none, the last activation.

    ValueError where there is none.
    """
    size = model.inputs[0].shape[1:3]

    def fits(layer: Any) -> bool:
        shape = layer.output.shape
        return len(shape) == 4 and all(
            n // stride <= s <= -(-n // stride) for n, s in zip(size, shape[1:3], strict=True)
        )

    found = [layer for layer in model.layers if fits(layer)]
    merges = [x for x in found if isinstance(x, layers.Add | layers.Concatenate)]
    merges = merges or [x for x in found if isinstance(x, layers.Conv2D | layers.Activation | layers.ReLU)]
    if not merges:
        raise ValueError(f"{model.name} of {size} pixels has no feature map of stride {stride}.")
    last = merges[-1].output
    for layer in model.layers:
        if isinstance(layer, layers.Activation | layers.ReLU) and layer.input is last:
            return layer.output
    return last


def _small_convolution(units: int, name: str) -> keras.layers.Layer:
    start = keras.initializers.RandomNormal(stddev=0.01)
    return layers.Conv2D(units, 3, padding="same", kernel_initializer=start, name=name)


def _cropped(x: Any, rows: int, columns: int) -> Any:
    """Without the last rows and columns that the other scale has not, where the image's size is odd to the strides."""
    beyond = x.shape[1] - rows, x.shape[2] - columns
    return layers.Cropping2D(((0, beyond[0]), (0, beyond[1])))(x) if any(beyond) else x
