"""Which layers of a graph are attention: known by what they do, not by their names.

An attention layer takes tokens ``(n, tokens, width)`` and returns tokens, and it returns the probabilities by which it
mixed them ``(n, heads, tokens, tokens)`` as well (`xaiutils.models.vit.SelfAttention`), or can be asked for them with
``return_attention_scores=True`` (Keras' ``MultiHeadAttention``, ``GroupQueryAttention``, ``Attention``).
"""

import inspect

from xaiutils.backend import keras
from xaiutils.graph.flat_graph import FlatGraph, Step


def attention_steps(graph: FlatGraph) -> list[Step]:
    """The attention layers that the logits depend on, in order."""
    return [step for step in graph.steps_to_logits if is_attention(graph, step)]


def is_attention(graph: FlatGraph, step: Step) -> bool:
    shapes = [graph.shapes[key] for key in step.outputs]
    if len(shapes[0]) != 3 or not isinstance(step.operation, keras.Layer):
        return False
    if len(shapes) > 1:  # tokens (n, tokens, width), and probabilities (n, heads, tokens, tokens)
        return len(shapes[1]) in (3, 4) and shapes[1][-2:] == (shapes[0][1],) * 2
    return "return_attention_scores" in inspect.signature(step.operation.call).parameters
