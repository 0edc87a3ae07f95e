"""Multi-head attention written out, for methods that have a rule for each of its parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xaiutils.backend import tf
from xaiutils.graph.flat_graph import Step
from xaiutils.graph.layers.linear import Linear
from xaiutils.graph.layers.table import layer_type, no_rule


@dataclass(frozen=True)
class AttentionParts:
    """How a method computes what attention is made of. Values are what the method carries: a tensor, or several."""

    linear: Callable[[Any, Linear], Any]
    matmul: Callable[[Any, Any], Any]
    softmax: Callable[[Any], Any]
    scale: Callable[[float, Any], Any]
    move: Callable[[Callable[[Any], Any], Any], Any]  # applies a function that only moves values
    turn: Callable[[Callable[[Any], Any], Any], Any]  # applies a linear function without weights


def attention(step: Step, inputs: Sequence[Any], parts: AttentionParts, method: str) -> list[Any]:
    """The tokens of an ATTENTION step, and its probabilities if the layer returns them.

    ModelError in the name of ``method`` for a layer that cannot be taken apart.
    """
    take_apart = layer_type(step.operation).heads
    heads = None if take_apart is None else take_apart(step, inputs)
    if heads is None:
        raise no_rule(method, step, " with masks, gates or several attention axes")

    def split(x: Any) -> Any:  # (n, tokens, heads * size) -> (n, heads, tokens, size)
        return tf.transpose(tf.reshape(x, (-1, x.shape[1], heads.number, x.shape[2] // heads.number)), (0, 2, 1, 3))

    def turn(x: Any) -> Any:
        return tf.transpose(x, (0, 1, 3, 2))

    def merge(x: Any) -> Any:
        return tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (-1, x.shape[2], x.shape[1] * x.shape[3]))

    size = heads.projections[0].kernel.shape[-1] // heads.number
    query, key, value = (
        parts.move(split, parts.linear(x, projection))
        for x, projection in zip((heads.query, heads.key, heads.value), heads.projections, strict=True)
    )
    if heads.turn is not None:
        query, key = parts.turn(heads.turn, query), parts.turn(heads.turn, key)
    scores = parts.scale(size**-0.5, parts.matmul(query, parts.move(turn, key)))
    probabilities = parts.softmax(scores)
    tokens = parts.linear(parts.move(merge, parts.matmul(probabilities, value)), heads.out)
    return [tokens, probabilities] if heads.returns_probabilities else [tokens]
