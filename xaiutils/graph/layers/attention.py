"""Attention layers: which steps of a graph they are, and what they are made of.

An attention layer is known by what it does, not by its name: it takes tokens ``(n, tokens, width)`` and returns tokens,
and it returns the probabilities by which it mixed them ``(n, heads, tokens, tokens)`` as well
(`xaiutils.models.vit.SelfAttention`), or can be asked for them with ``return_attention_scores=True`` (Keras'
``MultiHeadAttention``, ``GroupQueryAttention``, ``Attention``).
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xaiutils.backend import keras, tf
from xaiutils.graph.flat_graph import FlatGraph, Step
from xaiutils.graph.layers.linear import Linear, dense


def attention_steps(graph: FlatGraph) -> list[Step]:
    """The attention layers that the logits depend on, in order."""
    return [step for step in graph.steps_to_logits if is_attention(graph, step)]


def is_attention(graph: FlatGraph, step: Step) -> bool:
    """Whether a step is an attention layer; see this module."""
    shapes = [graph.shapes[key] for key in step.outputs]
    if len(shapes[0]) != 3 or not isinstance(step.operation, keras.Layer):
        return False
    if len(shapes) > 1:  # tokens (n, tokens, width), and probabilities (n, heads, tokens, tokens)
        return len(shapes[1]) in (3, 4) and shapes[1][-2:] == (shapes[0][1],) * 2
    return "return_attention_scores" in inspect.signature(step.operation.call).parameters


@dataclass(frozen=True)
class Heads:
    """What a multi-head attention layer joins: tokens ``(n, tokens, width)``, the projections of query, key and value
    to ``(n, tokens, heads * size)``, and that of the heads' results to tokens. ``turn`` is what is done to queries and
    keys ``(n, heads, tokens, size)`` before they are multiplied, a linear function without weights, if anything."""

    query: Any
    key: Any
    value: Any
    projections: tuple[Linear, Linear, Linear]
    out: Linear
    number: int
    returns_probabilities: bool
    turn: Callable[[Any], Any] | None = None


def self_attention(step: Step, inputs: Sequence[Any]) -> Heads:
    """`xaiutils.models.vit.SelfAttention`."""
    layer, (x,) = step.operation, inputs
    query, key, value, out = (dense(part)[0]() for part in (layer.query, layer.key, layer.value, layer.out))
    turn = layer.turned if layer.rotary else None
    return Heads(x, x, x, (query, key, value), out, layer.heads, True, turn)


def multi_head_attention(step: Step, inputs: Sequence[Any]) -> Heads | None:
    """``keras.layers.MultiHeadAttention``; None for one with masks, gates or several attention axes."""
    layer, given = step.operation, iter(inputs)
    args, kwargs = step.arguments.convert(lambda x: next(given) if isinstance(x, keras.KerasTensor) else x)
    names = ("query", "value", "key", "query_mask", "value_mask", "key_mask", "attention_mask")
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    masked = any(named.get(name) is not None for name in names[3:]) or named.get("use_causal_mask")
    unusual = getattr(layer, "_use_gate", False) or getattr(layer, "_sliding_window", None) is not None
    if masked or unusual or tuple(layer._attention_axes) != (1,) or len(layer._query_dense.kernel.shape) != 3:
        return None
    inwards = (layer._query_dense, layer._key_dense, layer._value_dense)
    query, key, value = (_flat_projection(part, outwards=False) for part in inwards)
    out = _flat_projection(layer._output_dense, outwards=True)
    keys = named["value"] if named.get("key") is None else named["key"]
    scores = bool(named.get("return_attention_scores"))
    return Heads(named["query"], keys, named["value"], (query, key, value), out, layer.num_heads, scores)


def _flat_projection(part: Any, outwards: bool) -> Linear:
    """A projection of MultiHeadAttention, (width, heads, size) or outwards (heads, size, width), as a Dense layer."""
    kernel = tf.cast(part.kernel, tf.float32)
    kernel = tf.reshape(kernel, (-1, kernel.shape[-1]) if outwards else (kernel.shape[0], -1))
    bias = None if part.bias is None else tf.reshape(tf.cast(part.bias, tf.float32), (-1,))
    return Linear(keras.ops.matmul, kernel, bias, lambda scale: scale, sums=True)
