"""Relevance as Chefer, Gur & Wolf 2021 propagate it through a transformer (CVPR, arXiv:2012.09838)."""

from collections.abc import Callable
from typing import Any

from xaiutils.attribution.backward_rules import relay
from xaiutils.attribution.relevance.linear_rules import Settings, stabilised
from xaiutils.attribution.relevance.propagation import Propagation, passed
from xaiutils.backend import keras, tf
from xaiutils.graph.layers.linear import back
from xaiutils.graph.network import Network, Step


class TransformerPropagation(Propagation):
    """`Propagation` by the paper's rules, where they are not those of LRP here:

    - linear layers share relevance by positive contributions x_i w_ij, whatever the sign of x_i (eq. 6); biases take
      none;
    - LayerNorm and softmax pass relevance unchanged, as activations do;
    - a sum of several tensors u gives each R^u = u R / sum, times sign(sum R^u) sum R / sum_v abs(sum R^v), the sums
      over all tokens and values of an image (eq. 9). A matrix product's two factors receive the same sum, so that eq. 9
      gives each of them half.
    """

    starts_with_numbers = True

    def __init__(self, network: Network, known: dict[Step, str], images: Any):
        super().__init__(network, known, images, "z_plus", "", Settings(bias=False))

    def _softmax(self, s: Any, axis: Any = -1) -> Any:
        return passed(s, keras.ops.softmax(s, axis=axis))

    def _layer_norm(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        return [passed(inputs[0], compute(inputs)[0])]

    def _affine(self, step: Step, inputs: list[Any], compute: Callable) -> list[Any]:
        if len(inputs) < 2:
            return super()._affine(step, inputs, compute)
        (y,) = compute(inputs)

        def function(*xs):
            return compute(list(xs))[0]

        def backward(R):
            signals = back(function, inputs, R / stabilised(y))
            shares = [x * signal for x, signal in zip(inputs, signals, strict=True)]
            sums = [_total(share) for share in shares]
            scale = tf.math.divide_no_nan(_total(R), tf.add_n([tf.abs(s) for s in sums]))
            return [share * tf.sign(s) * scale for share, s in zip(shares, sums, strict=True)]

        return relay(inputs, [y], backward)


def _total(x: Any) -> Any:
    """The sum of each image, in a shape that multiplies x."""
    return tf.reduce_sum(x, axis=range(1, len(x.shape)), keepdims=True)
