"""What is known of each type of layer, once, for all methods: `LAYER_TYPES`.

A layer that every method must know is one entry here. What has no entry is tried on numbers
(`xaiutils.graph.layers.trials`), or refused by name where it has weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras.src.applications import convnext

from xaiutils.backend import keras
from xaiutils.graph.flat_graph import ModelError, Step
from xaiutils.graph.layers import attention, linear, log_counterparts, norms
from xaiutils.models.grouped_convolution import GroupedConv2D
from xaiutils.models.mldam import PlaceProduct, RepeatChannels
from xaiutils.models.scaling import ReverseChannels
from xaiutils.models.vit import ClassToken, LayerScale, PositionEmbedding, Registers, SelfAttention, TakeClassToken
from xaiutils.models.where_and_what import SumPlaces
from xaiutils.models.wrapped import HeldInput

layers = keras.layers

# Kinds: what a layer computes in inference.
LINEAR = "linear"  # a learned linear layer, with or without a fused activation
BATCH_NORM = "batch norm"
LAYER_NORM = "layer norm"  # and its kin: see `LayerType.norm`
ATTENTION = "attention"
ACTIVATION = "activation"  # elementwise
SOFTMAX = "softmax"
MAX_POOL = "max pooling"
LARGEST = "largest"  # of several tensors
SMALLEST = "smallest"  # of several tensors, or of one tensor's values
SELECT = "select"  # copies, moves or leaves out values
AFFINE = "affine"  # any other linear function of its inputs, plus a constant
PRODUCT = "product"
MATMUL = "matmul"  # or any other function that is linear in each of two tensors
LOG_PROBABILITY = "log probability"  # the step that makes scores of a head of probabilities
SCORE = "score"  # the step that makes the caller's score of the logits
HELD = "held"  # what other inputs than the image lead to, which are held while images are changed

# Places: where in the image the outputs lie.
SAME = "same"  # each value where it was
MERGED = "merged"  # of several inputs, element by element
JOINED = "joined"  # of several inputs, one beside the other on an axis
CHANNELS = "channels"  # all values of the last axis are mixed
MIXED = "mixed"  # all places are mixed
PADDED = "padded"  # rows and columns go on into a border


@dataclass(frozen=True)
class LayerType:
    """What is known of a type of layer or operation.

    Attributes:
        kind: what it computes, one of the kinds above; a function of the layer where its options decide; None where
            that is not known, so that methods with rules refuse it, or try it on numbers where it has no weights.
        places: where its outputs lie, one of the places above; "" where its window tells, or a trial.
        parts: takes a LINEAR layer apart; see `xaiutils.graph.layers.linear`.
        norm: takes a LAYER_NORM apart; see `xaiutils.graph.layers.norms`.
        heads: takes ATTENTION apart; see `xaiutils.graph.layers.attention`.
        dense: a LINEAR layer without a window: composites of relevance rules treat it as Dense.
        identity: gives back its input in inference.
        adds: adds or averages its inputs, with weights that are not negative.
        prepares: scales the image: what weights it has are statistics of the data, not learned.
        pads: "zeros" or "values", where a SELECT adds elements of its own.
        log: its counterpart on the logarithms of probabilities; see `xaiutils.graph.layers.log_counterparts`.
        augments: changes nothing in inference, if it is called with ``training=False``.
        opaque: runs code or graphs of its own, in which anything may be hidden.
    """

    kind: str | Callable[[Any], str] | None = None
    places: str = ""
    parts: Callable[[Any], linear.Parts | None] | None = field(default=None, kw_only=True)
    norm: Callable[[Any, Sequence[int | None]], norms.Norm] | None = field(default=None, kw_only=True)
    heads: Callable[[Step, Sequence[Any]], attention.Heads | None] | None = field(default=None, kw_only=True)
    dense: bool = field(default=False, kw_only=True)
    identity: bool = field(default=False, kw_only=True)
    adds: bool = field(default=False, kw_only=True)
    prepares: bool = field(default=False, kw_only=True)
    pads: str = field(default="", kw_only=True)
    log: log_counterparts.Counterpart | None = field(default=None, kw_only=True)
    augments: bool = field(default=False, kw_only=True)
    opaque: bool = field(default=False, kw_only=True)


def _several(names: str, known: LayerType) -> dict[type | str, LayerType]:
    """One entry for each layer of Keras of these names, and one for the operation (``keras.ops``) of the same name."""
    found: dict[type | str, LayerType] = dict.fromkeys(names.split(), known)
    return found | {getattr(layers, name): known for name in names.split() if hasattr(layers, name)}


_MOVES = LayerType(SELECT, log=log_counterparts.moved)
_CUTS = LayerType(SELECT)
_IDENTITY = LayerType(SELECT, SAME, identity=True)
_CONVOLUTION = LayerType(LINEAR, parts=linear.convolution)
_RESIZES = LayerType(lambda layer: SELECT if layer.interpolation == "nearest" else AFFINE)
_AUGMENTS = LayerType(augments=True)
_OPAQUE = LayerType(opaque=True)

# By class, with its subclasses that compute as it does; the operations of keras.ops by their name.
LAYER_TYPES: dict[type | str, LayerType] = {
    # Learned linear layers
    layers.Dense: LayerType(LINEAR, CHANNELS, parts=linear.dense, dense=True),
    layers.EinsumDense: LayerType(LINEAR, parts=linear.einsum_dense, dense=True),
    layers.Conv1D: _CONVOLUTION,
    layers.Conv2D: _CONVOLUTION,
    GroupedConv2D: _CONVOLUTION,
    layers.DepthwiseConv2D: LayerType(LINEAR, parts=linear.depthwise_convolution),
    layers.SeparableConv2D: LayerType(LINEAR, parts=linear.separable_convolution),
    layers.Conv2DTranspose: LayerType(LINEAR, parts=linear.transposed_convolution),
    # Normalisation
    layers.BatchNormalization: LayerType(BATCH_NORM, SAME),
    layers.LayerNormalization: LayerType(LAYER_NORM, SAME, norm=norms.layer_norm),
    layers.RMSNormalization: LayerType(LAYER_NORM, SAME, norm=norms.rms_norm),
    layers.GroupNormalization: LayerType(LAYER_NORM, SAME, norm=norms.group_norm),
    layers.UnitNormalization: LayerType(LAYER_NORM, SAME, norm=norms.unit_norm),
    layers.SpectralNormalization: LayerType(None, SAME),
    # Attention
    SelfAttention: LayerType(ATTENTION, heads=attention.self_attention),
    layers.MultiHeadAttention: LayerType(ATTENTION, heads=attention.multi_head_attention),
    # Activations
    layers.Activation: LayerType(ACTIVATION, SAME),
    layers.ReLU: LayerType(ACTIVATION, SAME),
    layers.LeakyReLU: LayerType(ACTIVATION, SAME),
    layers.PReLU: LayerType(ACTIVATION, SAME),
    layers.ELU: LayerType(ACTIVATION, SAME),
    layers.Softmax: LayerType(SOFTMAX, SAME),
    # The image's scaling, and what else multiplies by constants or adds them
    layers.Rescaling: LayerType(AFFINE, SAME, prepares=True, log=log_counterparts.rescaling),
    layers.Normalization: LayerType(AFFINE, SAME, prepares=True),
    LayerScale: LayerType(AFFINE),
    convnext.LayerScale: LayerType(AFFINE),  # of keras.applications, which exports no layers
    PositionEmbedding: LayerType(AFFINE),
    # Pooling
    **_several("AveragePooling1D AveragePooling2D AveragePooling3D", LayerType(AFFINE, adds=True)),
    **_several(
        "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D",
        LayerType(AFFINE, MIXED, adds=True, log=log_counterparts.over_axes),
    ),
    SumPlaces: LayerType(AFFINE, MIXED, adds=True),
    **_several("MaxPooling1D MaxPooling2D MaxPooling3D MaxPool Max", LayerType(MAX_POOL)),
    **_several("GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D", LayerType(MAX_POOL, MIXED)),
    # Several tensors
    **_several("Add", LayerType(AFFINE, MERGED, adds=True, log=log_counterparts.total)),
    **_several("Average", LayerType(AFFINE, MERGED, adds=True, log=log_counterparts.average)),
    **_several("Subtract", LayerType(AFFINE, MERGED, log=log_counterparts.difference)),
    **_several("Multiply", LayerType(PRODUCT, MERGED, log=log_counterparts.product)),
    **_several("Divide TrueDivide", LayerType(None, MERGED, log=log_counterparts.quotient)),
    **_several("Maximum", LayerType(LARGEST, MERGED)),
    **_several("Minimum", LayerType(SMALLEST, MERGED)),
    **_several("Where", LayerType(None, MERGED)),
    **_several("Concatenate", LayerType(SELECT, JOINED, log=log_counterparts.moved)),
    **_several("Matmul", LayerType(MATMUL)),
    PlaceProduct: LayerType(MATMUL, MIXED),
    # Values that move, are repeated or left out
    **_several(
        """BroadcastTo ExpandDims Flatten GetItem Moveaxis Permute Repeat RepeatVector Reshape Squeeze Stack Swapaxes
        Take Tile Transpose""",
        _MOVES,
    ),
    **_several("Cropping1D Cropping2D Cropping3D Flip Roll Split UpSampling1D UpSampling3D", _CUTS),
    layers.UpSampling2D: _RESIZES,
    ReverseChannels: _CUTS,
    RepeatChannels: _MOVES,
    TakeClassToken: _CUTS,
    **_several("ZeroPadding1D ZeroPadding3D", LayerType(SELECT, pads="zeros")),
    layers.ZeroPadding2D: LayerType(SELECT, PADDED, pads="zeros"),
    **_several("Pad", LayerType(SELECT, pads="values")),
    ClassToken: LayerType(SELECT, pads="values"),
    Registers: LayerType(SELECT, pads="values"),
    **_several("Min", LayerType(SMALLEST)),
    HeldInput: LayerType(HELD, MIXED),
    # Nothing, in inference
    **_several(
        """ActivityRegularization AlphaDropout Cast Copy Dropout GaussianDropout GaussianNoise Identity SpatialDropout1D
        SpatialDropout2D SpatialDropout3D""",
        _IDENTITY,
    ),
    **_several("AugMix CutMix MixUp RandAugment", _AUGMENTS),
    **_several(" ".join(name for name in dir(layers) if name.startswith("Random") and name != "RandomCrop"), _AUGMENTS),
    # Known to the logarithm of a probability alone
    **_several("Mean Sum", LayerType(log=log_counterparts.over_axes)),
    **_several("Power", LayerType(log=log_counterparts.power)),
    # What may hide anything
    **dict.fromkeys((keras.Model, layers.Lambda, layers.TFSMLayer, layers.JaxLayer, layers.FlaxLayer), _OPAQUE),
}
_NOTHING = LayerType()
# Methods of a layer that a subclass may have of its own and still compute the same.
_HARMLESS = {"build", "get_config", "from_config", "compute_output_shape", "compute_output_spec", "kernel"}


def layer_type(operation: Any) -> LayerType:
    """The entry of an operation; an empty one where it has none, or overrides what its Keras class computes."""
    for known in type(operation).__mro__:
        if known in LAYER_TYPES:
            entry = LAYER_TYPES[known]
            return entry if entry.opaque or _computes_as(type(operation), known) else _NOTHING
    is_op = not isinstance(operation, keras.Layer) and type(operation).__module__.startswith("keras.src.")
    return LAYER_TYPES.get(type(operation).__name__, _NOTHING) if is_op else _NOTHING


def _computes_as(kind: type, known: type) -> bool:
    overridden = {name for one in kind.__mro__[: kind.__mro__.index(known)] for name in vars(one) if name in dir(known)}
    return all(name in _HARMLESS or (name.startswith("__") and name != "__call__") for name in overridden)


def linear_parts(operation: Any) -> linear.Parts | None:
    """The linear operations that a layer does one after the other (makers, because weights are read when a pass runs);
    None for a layer that is not a learned linear one, or one that is quantised (it rounds its input too)."""
    parts = layer_type(operation).parts
    plain = getattr(operation, "data_format", "channels_last") == "channels_last"
    return parts(operation) if parts and plain and getattr(operation, "quantization_mode", None) is None else None


def has_learned_weights(operation: Any) -> bool:
    """Whether an operation holds weights that are learned; the statistics in a Normalization are not."""
    return bool(getattr(operation, "weights", None)) and not layer_type(operation).prepares


def no_rule(method: str, step: Step, why: str = "") -> ModelError:
    """The error for a step that a method cannot pass."""
    kind = type(step.operation).__name__
    if getattr(step.operation, "data_format", None) == "channels_first":
        instead = "Its channels come first: make it with data_format='channels_last', which has the same weights"
    elif getattr(step.operation, "quantization_mode", None):
        instead = f"Its weights are {step.operation.quantization_mode}: take the model from before it was quantised"
    else:
        instead = _INSTEAD.get(
            kind,
            "Rebuild it from known layers (Dense, Conv, BatchNormalization, Activation, "
            "pooling, Add, Multiply, MultiHeadAttention, ...)",
        )
    return ModelError(
        f"{method} has no rule for {step.path!r} ({kind}){why}. {instead}, or use a method on gradients, such as "
        "integrated_gradients."
    )


_INSTEAD = {
    "TFSMLayer": "A SavedModel shows none of its layers: load the Keras model that it was exported from",
    "CumulativeLogits": "Grades are thresholds on one score: explain that instead, by xaiutils.wrap(keras.Model("
    "model.inputs, model.get_layer('grade').output), head='regression')",
    "OrdinalProbabilities": "Classes of an ordinal head are differences of probabilities: explain one threshold "
    "instead, by xaiutils.wrap(model, output=lambda y: y[:, k : k + 1]) without head=",
}
