"""A classifier's head: which tensor holds its logits, and what turns them into the output. Read from the graph.

A softmax or sigmoid that stands last, alone or fused into a Dense layer, is taken off: its input are the logits. Any
other output of probabilities (a mean of members, smoothed labels, a layer with a softmax inside) is explained by its
logarithm: log p where the classes sum to one, log-odds where they are independent. Whether an output is a probability
is a property of the operations, not of the weights that they happen to have: it is tried with inputs of every size
and, in layers of the user's own, with other weights. Everything else is taken for logits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.graph.flat_graph import FlatGraph, ModelError, Step
from xaiutils.graph.layers.activations import TRIALS, activation_of, function_kind, trial_logits
from xaiutils.graph.layers.table import BATCH_NORM, LINEAR, layer_type
from xaiutils.graph.log_probability import LogProbability

layers, ops = keras.layers, keras.ops
_LARGEST = 100_000  # numbers in a tensor that is still part of a head


@dataclass(frozen=True)
class Head:
    """Where the logits are, by the key of their tensor, and what makes probabilities of them: "softmax", "sigmoid", or
    nothing of a "score".

    ``without_activation`` computes the logits where the activation is fused into the layer. ``log`` computes them from
    the tensors ``leaves`` where the head is explained by the logarithm of its probability; ``logits`` is then the
    output's key. ``bare``: nothing makes probabilities, so "softmax" is assumed. ``choice``: the step that takes some
    units of the sigmoid's, and so of its logits.
    """

    logits: int
    activation: str
    without_activation: Callable[[Any], Any] | None = None
    log: LogProbability | None = None
    leaves: tuple[int, ...] = ()
    bare: bool = False
    choice: Step | None = None


def find_head(graph: FlatGraph, output: int, told: str | None = None) -> Head:
    """The head of the graph's tensor ``output``, ``(n, classes)``.

    ``told`` is what the user says of it, where it cannot be read: "regression" (the outputs are scores), "logits" (of a
    softmax, or of one unit), "softmax" or "sigmoid" (what makes probabilities of the output's logits, or made them).
    """
    if told == "regression":
        return Head(output, "score")
    if told == "logits":
        _check_logits(graph, output)
        return Head(output, "softmax")
    head = _read(graph, output)
    if told not in ("softmax", "sigmoid") or told == head.activation:
        return head
    if head.bare:
        return replace(head, activation=told)
    raise ModelError(f"head={told!r} was given, but the model ends in a {head.activation}; give head=None.")


def _check_logits(graph: FlatGraph, output: int) -> None:
    """ModelError where a softmax or sigmoid stands last in the graph: another would be taken of its probabilities."""
    try:
        head = _read(graph, output)
    except ModelError:  # an end that cannot be read is what the user says
        return
    if not head.bare and head.log is None:
        raise ModelError(f"head='logits' was given, but the model ends in a {head.activation}; give head=None.")


def _read(graph: FlatGraph, output: int) -> Head:
    units, key = graph.shapes[output][-1], output
    step = graph.producer(key)
    while step is not None and _changes_nothing(graph, step):
        key = step.reads[0]
        step = graph.producer(key)
    if step is None:
        raise ModelError("the model has no layer that computes class scores.")
    activation, axis = activation_of(graph, step)
    if activation in ("softmax", "log_softmax", "sigmoid") and axis == -1:
        return Head(step.reads[0], _checked(activation, units))
    if _is_plain_dense(step.operation):
        name = function_kind(step.operation.activation, units)
        if name == "linear":
            return Head(key, "softmax", bare=True)
        if name is not None:
            return Head(key, _checked(name, units), _WithoutActivation(step.operation))
    if _takes_units(graph, step):
        head = _read(graph, step.reads[0])
        if head.activation == "sigmoid" and head.log is None and head.choice is None:
            return replace(head, choice=step)
    return _tried(graph, step, key)


def _takes_units(graph: FlatGraph, step: Step) -> bool:
    """Whether a step keeps some columns of rows ``(n, classes)``: ``outputs[:, i:j]``."""
    shapes = [graph.shapes[key] for key in (*step.reads, *step.outputs)]
    return type(step.operation).__name__ == "GetItem" and [len(shape) for shape in shapes] == [2, 2]


def _changes_nothing(graph: FlatGraph, step: Step) -> bool:
    if type(step.operation).__name__ in ("Flatten", "Reshape", "Squeeze"):
        return len(step.reads) == 1 and graph.shapes[step.reads[0]] == graph.shapes[step.outputs[0]]
    return layer_type(step.operation).identity or activation_of(graph, step)[0] == "linear"


def _checked(activation: str, units: int | None) -> str:
    kind = "sigmoid" if activation == "sigmoid" else "softmax"
    if kind == "softmax" and units == 1:
        raise ModelError(
            "the model ends in the softmax of one unit, which is 1 whatever the image; use a sigmoid, or two units."
        )
    return kind


class _WithoutActivation:
    """A Dense layer's result before its fused activation, from the same weights and in its own precision."""

    def __init__(self, layer: Any):
        self.layer = layer

    def __call__(self, x: Any) -> Any:
        layer = self.layer
        if layer.quantization_mode is not None:
            with _linear(layer):
                return layer(x)
        dtype = layer.compute_dtype
        y = ops.matmul(ops.cast(x, dtype), ops.cast(layer.kernel, dtype))
        return y if layer.bias is None else y + ops.cast(layer.bias, dtype)


@contextmanager
def _linear(layer: Any) -> Iterator[None]:
    activation, layer.activation = layer.activation, keras.activations.linear
    try:
        yield
    finally:
        layer.activation = activation


def _is_plain_dense(operation: Any) -> bool:
    return isinstance(operation, layers.Dense) and type(operation).call is layers.Dense.call


# Heads that are not one activation ------------------------------------------------------------------------------------


def _tried(graph: FlatGraph, step: Step, key: int) -> Head:
    """The head of an output that no known activation makes."""
    leaves: dict[int, str] = {}
    _find_leaves(graph, key, leaves)
    only_probabilities = "number" not in leaves.values()
    try:
        values, kind = _what_is_output(graph, step, key, leaves)
    except Exception as error:  # whatever a user's layer raises
        raise ModelError(
            f"what the model returns is not known, since its end ({step.path!r}, {type(step.operation).__name__}) "
            f"cannot be run by itself ({error}); give a model that ends in a Dense layer of logits, then "
            "keras.layers.Softmax or Activation."
        ) from error
    if kind is None:
        if only_probabilities:
            raise ModelError(
                f"the model ends in {step.path!r} ({type(step.operation).__name__}), which makes numbers out of "
                "probabilities that are no probabilities themselves: they do not sum to one, or leave [0, 1]. Divide "
                "them by their sum, or give a model that returns logits."
            )
        return Head(key, "softmax", bare=True)
    log = LogProbability(graph, key, kind)
    if not _agrees(graph, log, values, key):
        log.use_value(key)
    return Head(key, kind, log=log, leaves=tuple(log.leaves))


def _agrees(graph: FlatGraph, log: LogProbability, values: dict[int, Any], key: int) -> bool:
    """Whether the logarithm is that of the output, on the values that were tried."""
    inner = [leaf for leaf in log.leaves if leaf not in values]
    try:
        *found, output = graph.run(values, [*inner, key])
        given = {**values, **dict(zip(inner, found, strict=True))}
        mine = log.probabilities(*(given[leaf] for leaf in log.leaves))
    except Exception:  # whatever a user's layer raises
        return False
    return np.allclose(mine, tf.cast(output, tf.float32), rtol=1e-3, atol=1e-5)


def _what_is_output(
    graph: FlatGraph, step: Step, key: int, leaves: dict[int, str]
) -> tuple[dict[int, Any], str | None]:
    """Values of the leaves to try, and what the output is for all of them: "softmax" where it sums to one, "sigmoid"
    where it lies in [0, 1], else None."""
    if set(leaves) == {key}:  # a layer's own output
        own = leaves[key]
        return {key: tf.constant(_sample(own, _shape(graph, key)))}, None if own == "number" else own
    values = {leaf: tf.constant(_sample(origin, _shape(graph, leaf))) for leaf, origin in leaves.items()}
    # Each leaf in another order too: the largest of equal members is a distribution, that of others is not.
    mixed = {leaf: tf.constant(np.roll(x.numpy(), i, axis=0)) for i, (leaf, x) in enumerate(values.items())}
    equal, other = (np.asarray(tf.cast(graph.run(xs, [key])[0], tf.float64)) for xs in (values, mixed))
    other = other[np.isfinite(other).all(axis=-1)]  # members that are sure of different classes have no product
    return values, probability_kind(np.concatenate([equal, other]))


def probability_kind(values: np.ndarray) -> str | None:
    """ "softmax", "sigmoid" or None for outputs ``(n, classes)`` of inputs of every size."""
    if not np.isfinite(values).all() or values.min() < -1e-6 or values.max() > 1 + 1e-3:
        return None
    if values.shape[-1] > 1 and np.abs(values.sum(axis=-1) - 1).max() < 1e-3:
        return "softmax"
    return "sigmoid" if values.max() <= 1 + 1e-6 and (values > 0).any() and (values < 1).any() else None


def _shape(graph: FlatGraph, key: int) -> list[int]:
    return [n or 4 for n in graph.shapes[key][1:]]


def _sample(origin: str, shape: list[int]) -> np.ndarray:
    z = trial_logits(shape)
    if origin in ("number", "logit"):
        return z
    z = z.astype(np.float64)
    if origin == "sigmoid":
        return (1 / (1 + np.exp(-z))).astype(np.float32)
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    return (p / p.sum(axis=-1, keepdims=True)).astype(np.float32)


def _find_leaves(graph: FlatGraph, key: int, leaves: dict[int, str]) -> None:
    """The tensors that a head begins with, and what they hold: any "number", the "logit" of a softmax or sigmoid that
    goes into nothing else, or, where a layer makes it, the probability of a "softmax" or "sigmoid"."""
    if leaves.get(key, "logit") != "logit":
        return
    step = graph.producer(key)
    if step is None or int(np.prod(_shape(graph, key))) > _LARGEST:
        leaves[key] = "number"
        return
    activation, _ = activation_of(graph, step)
    if activation in ("softmax", "sigmoid"):
        leaves.setdefault(step.reads[0], "logit")
        return
    if activation == "log_softmax":
        leaves[step.reads[0]] = "number"
        return
    if layer_type(step.operation).kind in (LINEAR, BATCH_NORM) and not _fused(step):
        leaves[key] = "number"
        return
    if getattr(step.operation, "weights", None) or step.reads == [graph.input_key]:
        leaves[key] = _of_layer(graph, step, key)
        return
    for read in step.reads:
        _find_leaves(graph, read, leaves)


def _fused(step: Step) -> bool:
    return function_kind(getattr(step.operation, "activation", None), 4) != "linear"


def _of_layer(graph: FlatGraph, step: Step, key: int) -> str:
    """What a layer returns, whatever its weights: "softmax", "sigmoid" or "number"."""
    number = step.outputs.index(key)
    few = 4 if max(int(np.prod(_shape(graph, k))) for k in step.reads) > _LARGEST // 10 else TRIALS
    rows = np.linspace(0, TRIALS - 1, few).astype(int)
    inputs = {k: tf.constant(trial_logits(_shape(graph, k))[rows]) for k in step.reads}
    if graph.input_key in inputs:  # a whole network: small images hardly move its scores, which may lie in [0, 1]
        inputs = {k: tf.concat([x, 255 * x, 1e5 * x], axis=0) for k, x in inputs.items()}
    kinds = []
    for seed in (None, 0, 1):
        outputs = _with_other_weights(step, inputs, seed)
        kinds.append(probability_kind(np.asarray(tf.cast(outputs[number], tf.float64))))
    return kinds[0] if kinds[0] is not None and len(set(kinds)) == 1 else "number"


def _with_other_weights(step: Step, inputs: dict[int, Any], seed: int | None) -> list[Any]:
    """A layer's outputs with random weights, which leaves the layer as it is; with its own where ``seed`` is None, or
    where it cannot be called without them."""
    layer = step.operation
    if seed is None or not isinstance(layer, keras.Layer) or not layer.variables:
        return step.call(layer, inputs)
    rng = np.random.default_rng(seed)

    def drawn(variable):
        if not keras.backend.is_float_dtype(variable.dtype):
            return variable.value
        values = rng.normal(size=variable.shape)
        return ops.cast(np.abs(values) + 0.1 if "variance" in variable.path else values, variable.dtype)

    args, kwargs = step.call_arguments(inputs)
    given = [drawn(v) for v in layer.trainable_variables], [drawn(v) for v in layer.non_trainable_variables]
    outputs, _ = layer.stateless_call(*given, *args, **kwargs)
    return keras.tree.flatten(outputs)
