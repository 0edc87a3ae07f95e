"""The logarithm of a probability that a graph computes from softmaxes and sigmoids, exact where it underflows.

A mean of softmaxes, label smoothing, 1 - p, a product of a coarse and a fine probability, ...: each operation on
probabilities p has its counterpart on log p and log (1 - p). What has none enters as the logarithm of its value.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from xaiutils.backend import keras
from xaiutils.graph.flat_graph import FlatGraph, Step

ops, layers = keras.ops, keras.layers
_TINY, _HALF_ULP = 1.2e-38, 2.0**-25  # the smallest normal float32; and what 1 - p cannot be told from 0 below
_MOVES = {
    "BroadcastTo",
    "Concatenate",
    "ExpandDims",
    "Flatten",
    "GetItem",
    "Moveaxis",
    "Permute",
    "Repeat",
    "RepeatVector",
    "Reshape",
    "Squeeze",
    "Stack",
    "Swapaxes",
    "Take",
    "Tile",
    "Transpose",
}
_KEEPS = {"ActivityRegularization", "Cast", "Copy", "Dropout", "Identity"}

# (log p, log (1 - p)); the latter None where it must be found from log p.
Logs = tuple[Any, Any | None]


class LogProbability:
    """Scores of a head of probabilities, from the values of ``leaves``: log p where the classes sum to one (kind
    "softmax"), the log-odds log p - log (1 - p) of independent ones ("sigmoid").

    ``shares(*values)`` has the same values and the derivatives that layer-wise relevance goes by: the normalisers of
    softmax and sigmoid are constants, so that of a mean each member's logit of a class takes the part of the class's
    relevance that it has in its probability; factors share alike.
    """

    def __init__(self, graph: FlatGraph, key: int, kind: str, activation_of: Callable[[Step], tuple[str | None, Any]]):
        self.kind = kind
        self._graph, self._activation_of = graph, activation_of
        self.leaves: list[int] = []
        self._logs = self._of(key) or self._value(key)
        # Only what is needed stays: the graph holds this operation, not the other way round.
        del self._graph, self._activation_of

    def use_value(self, graph: FlatGraph, key: int) -> "LogProbability":
        """The same of the output itself, as one value."""
        self.leaves = []
        self._logs = self._value(key)
        return self

    def __call__(self, *values: Any) -> Any:
        return self._score(values, share=False)

    def shares(self, *values: Any) -> Any:
        """See the class."""
        return self._score(values, share=True)

    def probabilities(self, *values: Any) -> Any:
        """p itself."""
        return ops.exp(self._evaluate(values, False)[0])

    def _evaluate(self, values: Sequence[Any], share: bool) -> Logs:
        wide = [x if keras.backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32") for x in values]
        return self._logs(dict(zip(self.leaves, wide, strict=True)), share)

    def _score(self, values: Sequence[Any], share: bool) -> Any:
        log_p, log_q = self._evaluate(values, share)
        if self.kind == "softmax":
            return log_p
        return log_p - (_complement(log_p) if log_q is None else log_q)

    # Each operation's logarithm -------------------------------------------------------------------------------------

    def _leaf(self, key: int) -> int:
        if key not in self.leaves:
            self.leaves.append(key)
        return key

    def _value(self, key: int) -> Callable[[dict[int, Any], bool], Logs]:
        self._leaf(key)

        def logs(values, share):
            p = values[key]
            log_p, log_q = ops.log(ops.maximum(p, _TINY)), ops.log(ops.maximum(1 - p, _HALF_ULP))
            return (p + ops.stop_gradient(log_p - p), ops.stop_gradient(log_q)) if share else (log_p, log_q)

        return logs

    def _of(self, key: int) -> Callable[[dict[int, Any], bool], Logs] | None:
        """How the logs of a tensor are found; None where the operation that makes it has no counterpart."""
        step = self._graph.producer(key)
        if step is None or len(step.outputs) != 1:
            return None
        activation, axis = self._activation_of(step)
        if activation == "softmax":
            return self._softmax(self._leaf(step.reads[0]), axis)
        if activation == "sigmoid":
            return self._sigmoid(self._leaf(step.reads[0]))
        name = type(step.operation).__name__
        if name in _KEEPS or activation == "linear":
            return self._of(step.reads[0])
        if name == "Exp":
            exponent = self._leaf(step.reads[0])
            return lambda values, share: (values[exponent], None)
        make = _COUNTERPARTS.get(name)
        if make is None and name not in _MOVES:
            return None
        before = len(self.leaves)
        children = {read: self._of(read) or self._value(read) for read in step.reads}
        found = _move(step, children) if name in _MOVES else make(step, children)
        if found is None:
            del self.leaves[before:]
        return found

    @staticmethod
    def _softmax(key: int, axis: Any) -> Callable[[dict[int, Any], bool], Logs]:
        def logs(values, share):
            z = values[key]
            z = z - ops.stop_gradient(ops.max(z, axis=axis, keepdims=True))  # digits of z that large ones would lose
            normaliser = ops.logsumexp(z, axis=axis, keepdims=True)
            return z - (ops.stop_gradient(normaliser) if share else normaliser), None

        return logs

    @staticmethod
    def _sigmoid(key: int) -> Callable[[dict[int, Any], bool], Logs]:
        def logs(values, share):
            z = values[key]
            if not share:
                return ops.log_sigmoid(z), ops.log_sigmoid(-z)
            normaliser = ops.stop_gradient(-ops.log_sigmoid(-z))
            return z - normaliser, -normaliser

        return logs


def _complement(log_p: Any) -> Any:
    """log (1 - p)."""
    return ops.log(ops.maximum(-ops.expm1(log_p), _HALF_ULP))


def _arguments(step: Step, children: dict[int, Callable]) -> tuple[list[Any], dict[str, Any]]:
    """An operation's arguments, tensors replaced by how their logs are found."""
    args, kwargs = step.arguments.convert(
        lambda x: children[step.inputs[id(x)]] if isinstance(x, keras.KerasTensor) else x
    )
    return keras.tree.flatten(list(args)), kwargs


def _positive(number: Any) -> float | None:
    """A constant factor, addend or exponent, if it is one positive number."""
    try:
        value = float(keras.ops.convert_to_numpy(number))
    except (TypeError, ValueError):
        return None
    return value if value > 0 else None


def _terms(step: Step, children: dict[int, Callable], without: float | None = None) -> list[Callable] | None:
    """The arguments, positive constants among them as logs too, and not the constant ``without``; None where one is
    neither."""
    found = []
    for argument in _arguments(step, children)[0]:
        if callable(argument):
            found.append(argument)
            continue
        if isinstance(argument, int | float) and argument == without:
            continue
        constant = _positive(argument)
        if constant is None:
            return None
        found.append(lambda values, share, c=constant: (ops.log(ops.cast(c, "float32")), None))
    return found


def _sum(step: Step, children: dict[int, Callable]) -> Callable | None:
    terms = _terms(step, children, without=0)
    if terms is None:
        return None
    return lambda values, share: (_log_add([term(values, share)[0] for term in terms]), None)


def _log_add(logs: list[Any]) -> Any:
    total = logs[0]
    for log in logs[1:]:
        total = ops.logaddexp(total, log)
    return total


def _average(step: Step, children: dict[int, Callable]) -> Callable | None:
    terms = _terms(step, children)
    if terms is None:
        return None

    def logs(values, share):
        pairs = [term(values, share) for term in terms]
        shift = ops.log(ops.cast(len(pairs), "float32"))
        log_q = None if any(q is None for _, q in pairs) else _log_add([q for _, q in pairs]) - shift
        return _log_add([p for p, _ in pairs]) - shift, log_q

    return logs


def _product(step: Step, children: dict[int, Callable]) -> Callable | None:
    terms = _terms(step, children)
    if terms is None:
        return None
    factors = sum(callable(argument) for argument in _arguments(step, children)[0])

    def logs(values, share):
        parts = [term(values, share)[0] for term in terms]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return (total / factors + ops.stop_gradient(total - total / factors) if share else total), None

    return logs


def _quotient(step: Step, children: dict[int, Callable]) -> Callable | None:
    terms = _terms(step, children)
    if terms is None:
        return None

    def logs(values, share):
        above, below = (term(values, share)[0] for term in terms)
        return above - (ops.stop_gradient(below) if share else below), None

    return logs


def _power(step: Step, children: dict[int, Callable]) -> Callable | None:
    base, exponent = _arguments(step, children)[0]
    exponent = None if callable(exponent) else _positive(exponent)
    if exponent is None or not callable(base):
        return None

    def logs(values, share):
        log_p = base(values, share)[0]
        powered = exponent * log_p
        return (log_p + ops.stop_gradient(powered - log_p) if share else powered), None

    return logs


def _swapped(child: Callable) -> Callable:
    """1 - p."""

    def logs(values, share):
        log_p, log_q = child(values, share)
        return (_complement(log_p) if log_q is None else log_q), log_p

    return logs


def _difference(step: Step, children: dict[int, Callable]) -> Callable | None:
    first, second = _arguments(step, children)[0]
    return _swapped(second) if not callable(first) and _positive(first) == 1 and callable(second) else None


def _rescaling(step: Step, children: dict[int, Callable]) -> Callable | None:
    (child,) = children.values()
    scale, offset = (keras.ops.convert_to_numpy(v) for v in (step.operation.scale, step.operation.offset))
    if scale.ndim or offset.ndim:
        return None
    scale, offset = float(scale), float(offset)
    if (scale, offset) == (-1.0, 1.0):
        return _swapped(child)
    if scale <= 0 or offset < 0:
        return None

    def logs(values, share):
        log_p, log_q = child(values, share)
        rest = 1 - offset - scale  # 1 - (s p + o) = s (1 - p) + (1 - o - s)
        below = None if log_q is None or rest < -1e-6 else _scaled(log_q, scale, max(rest, 0.0), share)
        return _scaled(log_p, scale, offset, share), below

    return logs


def _scaled(log_p: Any, scale: float, offset: float, share: bool) -> Any:
    """log (scale p + offset); an offset of a millionth is rounding. Smoothing takes no share of relevance."""
    scaled = log_p + math.log(scale)
    if offset <= 1e-6:
        return scaled
    total = ops.logaddexp(scaled, ops.log(ops.cast(offset, "float32")))
    return log_p + ops.stop_gradient(total - log_p) if share else total


def _over_axes(step: Step, children: dict[int, Callable]) -> Callable | None:
    (child,) = children.values()
    operation, name = step.operation, type(step.operation).__name__
    pooled = {"GlobalAveragePooling1D": (1,), "GlobalAveragePooling2D": (1, 2)}.get(name)
    if pooled and getattr(operation, "data_format", "channels_last") != "channels_last":
        return None
    axis = pooled or operation.axis
    mean = pooled is not None or name == "Mean"

    def logs(values, share):
        log_p, log_q = child(values, share)

        def reduced(log):
            total = ops.logsumexp(log, axis=axis, keepdims=operation.keepdims)
            if not mean:
                return total
            ones = ops.sum(ops.ones_like(log), axis=axis, keepdims=operation.keepdims)
            return total - ops.log(ones)

        return reduced(log_p), reduced(log_q) if mean and log_q is not None else None

    return logs


def _move(step: Step, children: dict[int, Callable]) -> Callable:
    def logs(values, share):
        found = {key: child(values, share) for key, child in children.items()}

        def moved(number):
            given = {key: pair[number] for key, pair in found.items()}
            return None if any(x is None for x in given.values()) else step.call(step.operation, given)[0]

        return moved(0), moved(1)

    return logs


_COUNTERPARTS = {
    "Add": _sum,
    "Average": _average,
    "Divide": _quotient,
    "GlobalAveragePooling1D": _over_axes,
    "GlobalAveragePooling2D": _over_axes,
    "Mean": _over_axes,
    "Multiply": _product,
    "Power": _power,
    "Rescaling": _rescaling,
    "Subtract": _difference,
    "Sum": _over_axes,
    "TrueDivide": _quotient,
}
