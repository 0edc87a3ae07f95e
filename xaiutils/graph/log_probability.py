"""The logarithm of a probability that a graph computes from softmaxes and sigmoids, exact where it underflows.

A mean of softmaxes, label smoothing, 1 - p, a product of a coarse and a fine probability, ...: each operation on
probabilities p has its counterpart on log p and log (1 - p). What has none enters as the logarithm of its value.
"""

from collections.abc import Sequence
from typing import Any

from xaiutils.backend import keras
from xaiutils.graph.flat_graph import FlatGraph
from xaiutils.graph.layers.activations import activation_of
from xaiutils.graph.layers.log_counterparts import HALF_ULP, FindLogs, Logs, complement
from xaiutils.graph.layers.table import layer_type

ops = keras.ops
_TINY = 1.2e-38  # the smallest normal float32


class LogProbability:
    """Scores of a head of probabilities, from the values of ``leaves``: log p where the classes sum to one (kind
    "softmax"), the log-odds log p - log (1 - p) of independent ones ("sigmoid").

    ``shares(*values)`` has the same values and the derivatives that layer-wise relevance goes by: the normalisers of
    softmax and sigmoid are constants, so that of a mean each member's logit of a class takes the part of the class's
    relevance that it has in its probability; factors share alike.
    """

    def __init__(self, graph: FlatGraph, key: int, kind: str):
        self.kind = kind
        self.leaves: list[int] = []
        self._logs = self._of(graph, key) or self._value(key)  # the graph holds this operation, not the other way round

    def use_value(self, key: int) -> "LogProbability":
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
        return log_p - (complement(log_p) if log_q is None else log_q)

    # Each operation's logarithm -------------------------------------------------------------------------------------

    def _leaf(self, key: int) -> int:
        if key not in self.leaves:
            self.leaves.append(key)
        return key

    def _value(self, key: int) -> FindLogs:
        self._leaf(key)

        def logs(values, share):
            p = values[key]
            log_p, log_q = ops.log(ops.maximum(p, _TINY)), ops.log(ops.maximum(1 - p, HALF_ULP))
            return (p + ops.stop_gradient(log_p - p), ops.stop_gradient(log_q)) if share else (log_p, log_q)

        return logs

    def _of(self, graph: FlatGraph, key: int) -> FindLogs | None:
        """How the logs of a tensor are found; None where the operation that makes it has no counterpart."""
        step = graph.producer(key)
        if step is None or len(step.outputs) != 1:
            return None
        activation, axis = activation_of(graph, step)
        if activation == "softmax":
            return self._softmax(self._leaf(step.reads[0]), axis)
        if activation == "sigmoid":
            return self._sigmoid(self._leaf(step.reads[0]))
        known = layer_type(step.operation)
        if known.identity or activation == "linear":
            return self._of(graph, step.reads[0])
        if type(step.operation).__name__ == "Exp":
            exponent = self._leaf(step.reads[0])
            return lambda values, share: (values[exponent], None)
        if known.log is None:
            return None
        before = len(self.leaves)
        children = {read: self._of(graph, read) or self._value(read) for read in step.reads}
        found = known.log(step, children)
        if found is None:
            del self.leaves[before:]
        return found

    @staticmethod
    def _softmax(key: int, axis: Any) -> FindLogs:
        def logs(values, share):
            z = values[key]
            z = z - ops.stop_gradient(ops.max(z, axis=axis, keepdims=True))  # digits of z that large ones would lose
            normaliser = ops.logsumexp(z, axis=axis, keepdims=True)
            return z - (ops.stop_gradient(normaliser) if share else normaliser), None

        return logs

    @staticmethod
    def _sigmoid(key: int) -> FindLogs:
        def logs(values, share):
            z = values[key]
            if not share:
                return ops.log_sigmoid(z), ops.log_sigmoid(-z)
            normaliser = ops.stop_gradient(-ops.log_sigmoid(-z))
            return z - normaliser, -normaliser

        return logs
