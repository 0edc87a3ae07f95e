"""What each step of a graph does: by its type where that is known, otherwise by trying it on numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.graph.flat_graph import FlatGraph, Step
from xaiutils.graph.layers.activations import activation_of, applied_activation, is_elementwise, keeps_scale, rectifier
from xaiutils.graph.layers.norms import Norm
from xaiutils.graph.layers.table import (
    ACTIVATION,
    AFFINE,
    ATTENTION,
    HELD,
    LARGEST,
    LAYER_NORM,
    LINEAR,
    LOG_PROBABILITY,
    MATMUL,
    MAX_POOL,
    PRODUCT,
    SCORE,
    SELECT,
    SMALLEST,
    SOFTMAX,
    layer_type,
    linear_parts,
    no_rule,
)
from xaiutils.graph.layers.trials import input_shapes, outputs_for, tried_kind
from xaiutils.graph.log_probability import LogProbability
from xaiutils.graph.score import Score


def kind_of(graph: FlatGraph, step: Step) -> str | None:
    """What a step does, one of the kinds in `xaiutils.graph.layers.table`; None where that is not known."""
    return _kind_and_detail(graph, step)[0]


def norm_of(graph: FlatGraph, step: Step) -> Norm:
    """The parts of a LAYER_NORM step."""
    known = layer_type(step.operation).norm
    return known(step.operation, graph.input_shapes(step)[0]) if known else _kind_and_detail(graph, step)[1]


def softmax_axis(graph: FlatGraph, step: Step) -> Any:
    """The axis of a SOFTMAX step."""
    detail = _kind_and_detail(graph, step)[1]
    return activation_of(graph, step)[1] if detail is None else detail


def kinds(graph: FlatGraph, method: str) -> dict[Step, str]:
    """The kind of every step that leads to the logits; ModelError for one that ``method`` has no rule for."""
    found: dict[Step, str] = {}
    with graph.in_float32():
        for step in graph.steps_to_logits:
            kind = kind_of(graph, step)
            if kind is None:
                raise no_rule(method, step)
            found[step] = kind
    return found


def _kind_and_detail(graph: FlatGraph, step: Step) -> tuple[str | None, Any]:
    """A step's kind, and what a trial found out beside it; see `tried_kind`."""
    found = graph.compiled("kinds of steps", dict)
    if step not in found:
        kind = _known_kind(graph, step)
        if kind is None and not getattr(step.operation, "weights", None):
            found[step] = tried_kind(graph, step)
        else:
            found[step] = kind, None
    return found[step]


def _known_kind(graph: FlatGraph, step: Step) -> str | None:
    operation, several = step.operation, len(step.reads) > 1
    if step in held_steps(graph):
        return HELD
    if isinstance(operation, LogProbability):
        return LOG_PROBABILITY
    if isinstance(operation, Score):
        return SCORE
    kind = layer_type(operation).kind
    kind = kind(operation) if callable(kind) else kind
    if kind == LINEAR:
        return kind if linear_parts(operation) is not None else None
    if not several and activation_of(graph, step)[0] == "softmax":
        return SOFTMAX
    if kind == ACTIVATION:
        function = applied_activation(graph, step)
        if function is None:
            return SELECT
        return ACTIVATION if is_elementwise(function, graph.shapes[step.outputs[0]][1:]) else None
    if (kind == LAYER_NORM and several) or (kind in (PRODUCT, MATMUL) and not several):
        return None
    return kind


def held_steps(graph: FlatGraph) -> set[Step]:
    """The steps that other inputs than the image lead to, and nothing else: constants, while the image is changed."""

    def find() -> set[Step]:
        held: set[Step] = set()
        for step in graph.steps:  # in the order of computation
            is_input = layer_type(step.operation).kind == HELD
            if is_input or (step.reads and all(producer in held for producer in graph.producers(step))):
                held.add(step)
        return held

    return graph.compiled("held steps", find)


def only_adds(step: Step) -> bool:
    """Whether a step adds or averages tensors, with weights that are not negative, and no constant."""
    several = isinstance(step.operation, keras.Layer) or len(step.reads) > 1
    return layer_type(step.operation).adds and several


def is_homogeneous(graph: FlatGraph, step: Step) -> bool:
    """Whether a step without weights is known to have F(c x) = c F(x) for c > 0, so that F(x) = J x, J its derivative
    (Euler): it adds no constant and bends at 0 alone, as ReLU, pooling, sums and moves of values do."""
    found = graph.compiled("homogeneous steps", dict)
    if step not in found:
        found[step] = not getattr(step.operation, "weights", None) and _is_homogeneous(graph, step)
    return found[step]


def _is_homogeneous(graph: FlatGraph, step: Step) -> bool:
    kind = kind_of(graph, step)
    if only_adds(step) or (kind == SELECT and layer_type(step.operation).pads != "values"):
        return True
    if kind in (AFFINE, SELECT):
        zeros = [np.zeros((1, *shape)) for shape in input_shapes(graph, step)]
        try:
            return not any(y.any() for y in outputs_for(step, zeros))
        except (TypeError, ValueError, tf.errors.OpError):  # its rows are no images: windows of them, say
            return False
    function, shape = applied_activation(graph, step), graph.shapes[step.outputs[0]][1:]
    if kind == ACTIVATION and function is not None:
        return keeps_scale(function, shape)
    return kind in (MAX_POOL, LARGEST, SMALLEST)


def is_learned_before(graph: FlatGraph, known: Mapping[Step, str | None], step: Step | None) -> bool:
    """Whether a learned layer stands between the image and a step: what comes before it prepares the pixels."""
    found = graph.compiled("learned before", dict)
    if step is not None and step not in found:
        found[step] = any(
            producer is not None and (_is_learned(known, producer) or is_learned_before(graph, known, producer))
            for producer in graph.producers(step)
        )
    return step is not None and found[step]


def _is_learned(known: Mapping[Step, str | None], step: Step) -> bool:
    weights = bool(getattr(step.operation, "weights", None))
    return known.get(step) in (LINEAR, ATTENTION) or (weights and known.get(step) in (LAYER_NORM, None))


def is_gate(graph: FlatGraph, known: dict[Step, str], step: Step, number: int) -> bool:
    """Whether an input of a product only scales the other: it is held, or smaller, or comes out of a sigmoid or
    softmax."""
    held = [producer in held_steps(graph) for producer in graph.producers(step)]
    if any(held) and not all(held):
        return held[number]
    shapes = graph.input_shapes(step)
    sizes = [int(np.prod([n or 1 for n in shape[1:]])) for shape in shapes]
    if min(sizes) < max(sizes):
        return sizes[number] < max(sizes)
    bounded = [is_bounded(graph, known, producer) for producer in graph.producers(step)]
    return bounded[number] and not all(bounded)


def is_bounded(graph: FlatGraph, known: dict[Step, str], step: Step | None) -> bool:
    """Whether a step's values come out of a softmax, a sigmoid, or whatever else has bounds on both sides."""
    while step is not None and known[step] == SELECT and len(graph.producers(step)) == 1:
        (step,) = graph.producers(step)
    if step is None or known[step] not in (LINEAR, ACTIVATION, SOFTMAX):
        return False
    if known[step] == SOFTMAX:
        return True
    function, shape = applied_activation(graph, step), graph.shapes[step.outputs[0]][1:]
    if function is None:
        return False
    return not is_elementwise(function, shape) or not rectifier(function, shape)
