"""Operations on probabilities p, done on log p and log (1 - p): exact where p underflows.

Each function takes a step and how the logs of its inputs are found, and returns how those of its output are: a function
(values of the leaves, share) -> (log p, log (1 - p)), the latter None where it must be found from log p. It is None for
a step that has no counterpart, such as the product with a negative number. ``share``: with the derivatives that
layer-wise relevance goes by (see `xaiutils.graph.log_probability.LogProbability`).
"""

import math
from collections.abc import Callable
from typing import Any

from xaiutils.backend import keras
from xaiutils.graph.flat_graph import Step

ops = keras.ops
HALF_ULP = 2.0**-25  # what 1 - p cannot be distinguished from 0 below

Logs = tuple[Any, Any | None]
FindLogs = Callable[[dict[int, Any], bool], Logs]


def complement(log_p: Any) -> Any:
    """log (1 - p)."""
    return ops.log(ops.maximum(-ops.expm1(log_p), HALF_ULP))


def _arguments(step: Step, children: dict[int, FindLogs]) -> tuple[list[Any], dict[str, Any]]:
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


def _terms(step: Step, children: dict[int, FindLogs], without: float | None = None) -> list[FindLogs] | None:
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


def total(step: Step, children: dict[int, FindLogs]) -> FindLogs | None:
    terms = _terms(step, children, without=0)
    if terms is None:
        return None
    return lambda values, share: (_log_add([term(values, share)[0] for term in terms]), None)


def _log_add(logs: list[Any]) -> Any:
    total = logs[0]
    for log in logs[1:]:
        total = ops.logaddexp(total, log)
    return total


def average(step: Step, children: dict[int, FindLogs]) -> FindLogs | None:
    terms = _terms(step, children)
    if terms is None:
        return None

    def logs(values, share):
        pairs = [term(values, share) for term in terms]
        shift = ops.log(ops.cast(len(pairs), "float32"))
        log_q = None if any(q is None for _, q in pairs) else _log_add([q for _, q in pairs]) - shift
        return _log_add([p for p, _ in pairs]) - shift, log_q

    return logs


def product(step: Step, children: dict[int, FindLogs]) -> FindLogs | None:
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


def quotient(step: Step, children: dict[int, FindLogs]) -> FindLogs | None:
    terms = _terms(step, children)
    if terms is None:
        return None

    def logs(values, share):
        above, below = (term(values, share)[0] for term in terms)
        return above - (ops.stop_gradient(below) if share else below), None

    return logs


def power(step: Step, children: dict[int, FindLogs]) -> FindLogs | None:
    base, exponent = _arguments(step, children)[0]
    exponent = None if callable(exponent) else _positive(exponent)
    if exponent is None or not callable(base):
        return None

    def logs(values, share):
        log_p = base(values, share)[0]
        powered = exponent * log_p
        return (log_p + ops.stop_gradient(powered - log_p) if share else powered), None

    return logs


def _swapped(child: FindLogs) -> FindLogs:
    """1 - p."""

    def logs(values, share):
        log_p, log_q = child(values, share)
        return (complement(log_p) if log_q is None else log_q), log_p

    return logs


def difference(step: Step, children: dict[int, FindLogs]) -> FindLogs | None:
    first, second = _arguments(step, children)[0]
    return _swapped(second) if not callable(first) and _positive(first) == 1 and callable(second) else None


def rescaling(step: Step, children: dict[int, FindLogs]) -> FindLogs | None:
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


def over_axes(step: Step, children: dict[int, FindLogs]) -> FindLogs | None:
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


def moved(step: Step, children: dict[int, FindLogs]) -> FindLogs:
    def logs(values, share):
        found = {key: child(values, share) for key, child in children.items()}

        def one(number):
            given = {key: pair[number] for key, pair in found.items()}
            return None if any(x is None for x in given.values()) else step.call(step.operation, given)[0]

        return one(0), one(1)

    return logs
