"""Batch normalisation in inference, and its folding into the linear layer before it.

y = gamma (K x + b - mean) / sqrt(var + epsilon) + beta is one linear operation, with the kernel scale K and the bias
scale (b - mean) + beta, scale = gamma / sqrt(var + epsilon). Both are made from the variables when a pass runs, so new
weights count at once, and nothing is copied.
"""

from collections.abc import Callable, Set
from dataclasses import replace
from typing import Any

from xaiutils.backend import keras, tf
from xaiutils.graph.flat_graph import FlatGraph, Rule, Step
from xaiutils.graph.layers.activations import applied_activation
from xaiutils.graph.layers.linear import Linear
from xaiutils.graph.layers.table import LINEAR, linear_parts
from xaiutils.models.grouped_convolution import GroupedConv2D


def with_batch_norm(part: Linear, norm: Any) -> Linear:
    """A linear operation and the batch norm after it as one linear operation."""
    scale = tf.math.rsqrt(tf.cast(norm.moving_variance, tf.float32) + norm.epsilon)
    scale = scale if norm.gamma is None else scale * tf.cast(norm.gamma, tf.float32)
    shift = -tf.cast(norm.moving_mean, tf.float32)
    shift = shift if part.bias is None else shift + part.bias
    bias = shift * scale if norm.beta is None else shift * scale + tf.cast(norm.beta, tf.float32)
    return replace(part, kernel=part.scaled_kernel(scale), bias=bias)


def convolution_with_norm(convolution: Any, norm: Any, x: Any) -> tuple[Any, Any]:
    """The output of both, and the bias ``(channels,)`` that it has in all."""
    parts = linear_parts(convolution)
    if parts is None:
        raise TypeError(f"{type(convolution).__name__} is no linear layer that a norm can be folded into.")
    part = with_batch_norm(parts[0](), norm)
    return part(tf.cast(x, tf.float32)), part.bias


def folding(graph: FlatGraph, rule: Rule | None = None, wanted: Set[Step] = frozenset()) -> Rule | None:
    """The rule that folds each batch norm into the convolution before it, unless that is ``wanted`` itself.

    The other steps follow ``rule``, if there is one; without anything to fold it is ``rule``.
    """
    norms = foldable_norms(graph, wanted)
    folded = set(norms.values())
    if not norms:
        return rule

    def folded_rule(step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        if step in norms:
            return [convolution_with_norm(step.operation, norms[step].operation, inputs[0])[0]]
        if step in folded:
            return inputs
        return compute(inputs) if rule is None else rule(step, inputs, compute)

    return folded_rule


def foldable_norms(graph: FlatGraph, wanted: Set[Step] = frozenset()) -> dict[Step, Step]:
    """The batch normalisation after each convolution whose result nothing else reads, nor is wanted itself."""
    readers: dict[int, list[Step]] = {}
    for step in graph.steps:
        for key in step.reads:
            readers.setdefault(key, []).append(step)
    norms = {}
    for step in graph.steps:
        after = readers.get(step.outputs[0], [])
        if (
            len(after) == 1
            and step not in wanted
            and _is_plain_convolution(step.operation)
            and _is_plain_norm(after[0].operation)
        ):
            norms[step] = after[0]
    return norms


def _is_plain_convolution(layer: Any) -> bool:
    return (
        type(layer) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, GroupedConv2D)
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
        and layer.compute_dtype == "float32"
        and getattr(layer, "quantization_mode", None) is None
    )


def _is_plain_norm(layer: Any) -> bool:
    return type(layer) is keras.layers.BatchNormalization and layer.axis in (-1, 3) and layer.compute_dtype == "float32"


def folded_source(graph: FlatGraph, known: dict[Step, str], step: Step) -> Step | None:
    """The linear layer that a batch norm can be folded into: the one right before it, without activation."""
    (producer,) = graph.producers(step)
    parts = None if producer is None or known.get(producer) != LINEAR else linear_parts(producer.operation)
    if producer is None or parts is None or applied_activation(graph, producer) is not None:
        return None
    axis, rank = step.operation.axis, len(graph.shapes[step.outputs[0]])
    foldable = axis in (-1, rank - 1) and parts[-1]().spread is not None
    return producer if foldable and not graph.is_head(producer) else None
