"""The head of ordered classes (BI-RADS, grades of a tumour): one score, and a threshold between every two classes.

The proportional odds model (McCullagh 1980, J. R. Stat. Soc. B 42) on the features of a network: P(y > k) =
sigmoid(s - t_k), with t_0 < t_1 < ... All classes share the score s, layer ``grade``, so a mistake by two grades costs
more than one by one.
"""

from typing import Any

import numpy as np

from xaiutils.backend import keras

layers, ops = keras.layers, keras.ops


@keras.saving.register_keras_serializable("xaiutils")
class CumulativeLogits(keras.layers.Layer):
    """A score ``(n, 1)`` to the logarithms of the probabilities of ``units`` classes ``(n, units)``, at least 2.

    Their softmax is those probabilities, so that whatever takes logits takes these. At the start all classes are
    equally probable where the score is 0. Raises ValueError for fewer than two classes.
    """

    def __init__(self, units: int, **options: Any):
        super().__init__(**options)
        if units < 2:
            raise ValueError(f"units={units}: ordered classes have a threshold between them, so there are two or more.")
        self.units = units

    def build(self, input_shape: tuple[int, ...]) -> None:
        shares = np.arange(1, self.units) / self.units
        start = np.log(shares / (1 - shares))
        steps = np.log(np.expm1(np.diff(start)))  # whose softplus are the distances
        self.first = self.add_weight(name="first", shape=(1,), initializer=keras.initializers.Constant(start[0]))
        self.steps = self.add_weight(
            name="steps", shape=(self.units - 2,), initializer=lambda *_, **__: ops.convert_to_tensor(steps, "float32")
        )

    @property
    def thresholds(self) -> Any:
        """t, rising ``(units - 1,)``."""
        return ops.concatenate([self.first, self.first + ops.cumsum(ops.softplus(self.steps))])

    def call(self, score: Any) -> Any:
        below = self.thresholds - score  # P(y <= k) = sigmoid(below)
        certain = ops.zeros_like(score)  # log 1
        # log(sigmoid(b) - sigmoid(a)) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b)), exact at both ends
        between = ops.log(-ops.expm1(-ops.softplus(self.steps)))
        upper = ops.concatenate([ops.log_sigmoid(below), certain], axis=1)
        lower = ops.concatenate([certain, ops.log_sigmoid(-below)], axis=1)
        return upper + lower + ops.concatenate([ops.zeros(1), between, ops.zeros(1)])

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return input_shape[0], self.units

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"units": self.units}


def ordinal_logits(features: Any, n_classes: int) -> Any:
    """Layers ``grade`` and ``logits`` on features ``(n, channels)``."""
    return CumulativeLogits(n_classes, name="logits")(layers.Dense(1, use_bias=False, name="grade")(features))
