"""Operations on probabilities p, done on log p and log (1 - p): exact where p underflows.

Each counterpart takes a step and how the logs of its inputs are found, and returns how those of its output are: a
function (values of the leaves, share) -> (log p, log (1 - p)), the latter None where it must be found from log p. It is
None for a step that has no counterpart, such as the product with a negative number. ``share``: with the derivatives
that layer-wise relevance goes by (see `xaiutils.graph.log_probability.LogProbability`).
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

from xaiutils.backend import keras
from xaiutils.graph.flat_graph import Step

ops = keras.ops
HALF_ULP = 2.0**-25  # what 1 - p cannot be distinguished from 0 below

Logs = tuple[Any, Any | None]
FindLogs = Callable[[dict[int, Any], bool], Logs]
Counterpart = Callable[[Step, dict[int, FindLogs]], FindLogs | None]


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


def _of_terms(combine: Callable[[list[Logs], bool, int], Logs], without: float | None = None) -> Counterpart:
    """A counterpart that combines the logs of an operation's arguments: (logs of each, share, number of tensors)."""

    def counterpart(step: Step, children: dict[int, FindLogs]) -> FindLogs | None:
        terms = _terms(step, children, without)
        if terms is None:
            return None
        return lambda values, share: combine([term(values, share) for term in terms], share, len(step.reads))

    return counterpart


def _average(terms: list[Logs], share: bool, n_tensors: int) -> Logs:
    shift = ops.log(ops.cast(len(terms), "float32"))
    log_p, log_q = _log_sum([p for p, _ in terms]), [q for _, q in terms]
    return log_p - shift, None if any(q is None for q in log_q) else _log_sum(log_q) - shift


def _product(terms: list[Logs], share: bool, n_tensors: int) -> Logs:
    log_p = functools.reduce(operator.add, [p for p, _ in terms])
    return (log_p / n_tensors + ops.stop_gradient(log_p - log_p / n_tensors) if share else log_p), None


def _quotient(terms: list[Logs], share: bool, n_tensors: int) -> Logs:
    (above, _), (below, _) = terms
    return above - (ops.stop_gradient(below) if share else below), None


def _log_sum(logs: list[Any]) -> Any:
    return functools.reduce(ops.logaddexp, logs)


total = _of_terms(lambda terms, share, n_tensors: (_log_sum([p for p, _ in terms]), None), without=0)
average = _of_terms(_average)
product = _of_terms(_product)
quotient = _of_terms(_quotient)


def power(step: Step, children: dict[int, FindLogs]) -> FindLogs | None:
    """p ** c of a positive constant c."""
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
    """1 - p."""
    first, second = _arguments(step, children)[0]
    return _swapped(second) if not callable(first) and _positive(first) == 1 and callable(second) else None


def rescaling(step: Step, children: dict[int, FindLogs]) -> FindLogs | None:
    """scale p + offset: smoothed labels, or 1 - p."""
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
    """Sums and means over axes."""
    (child,) = children.values()
    operation, name = step.operation, type(step.operation).__name__
    pooled = tuple(range(1, 1 + int(name[-2]))) if name.startswith("GlobalAveragePooling") else None
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
    """Values that are moved, repeated or left out."""

    def logs(values, share):
        found = {key: child(values, share) for key, child in children.items()}

        def one(number):
            given = {key: pair[number] for key, pair in found.items()}
            return None if any(x is None for x in given.values()) else step.call(step.operation, given)[0]

        return one(0), one(1)

    return logs
