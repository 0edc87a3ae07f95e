"""How relevance goes back through one linear operation z_j = sum_i x_i w_ij + b_j.

Every rule takes the operation, its input x, its result z, the relevance R of z and the `Settings`, and returns the
relevance of x. ``(v)+`` is max(v, 0) and ``(v)-`` is min(v, 0). Denominators are kept from 0 by `stabilised`. With
``settings.bias`` the bias stands in the denominators, so it takes its share of relevance, which is then gone; without,
relevance is shared among inputs alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xaiutils.backend import tf
from xaiutils.graph.layers.linear import Linear, with_bias

TINY = 1e-9  # the stabiliser of all rules but epsilon


@dataclass(frozen=True)
class Settings:
    """The rules' parameters; ``nonnegative`` says of one operation that its input has no negative values, and
    ``bounds`` gives the smallest and largest values that its input can have, pixels being in [0, 255]. ``gates`` says
    what the smaller factor of a product is: a "constant", or "relevance" goes back through it, half of it."""

    epsilon: float = 1e-6
    gamma: float = 0.25
    alpha: float = 2.0
    bias: bool = True
    gates: str = "constant"
    nonnegative: bool = False
    bounds: Callable[[Any], tuple[Any, Any]] | None = None


def stabilised(z: Any, epsilon: float = TINY) -> Any:
    """z moved away from 0 by epsilon, with the sign of 0 taken as +1."""
    return z + tf.where(z >= 0, epsilon, -epsilon)


def epsilon(part: Linear, x: Any, z: Any, R: Any, settings: Settings) -> Any:
    """R_i = sum_j x_i w_ij / (z_j + epsilon sign(z_j)) R_j (Bach et al. 2015, doi:10.1371/journal.pone.0130140)."""
    if not settings.bias and part.bias is not None:
        z = part.apply(x, part.kernel)
    return x * part.back(x, part.kernel, tf.math.divide_no_nan(R, stabilised(z, settings.epsilon)))


def z_plus(part: Linear, x: Any, z: Any, R: Any, settings: Settings) -> Any:
    """R_i = sum_j (x_i w_ij)+ / (sum_k (x_k w_kj)+ + (b_j)+) R_j (Montavon et al. 2017, arXiv:1512.02479): the
    alpha-beta rule with alpha 1 and beta 0. For inputs of any sign."""
    return _spread(part, x, R / _total_of_sign(part, x, 1, settings), 1, settings)


def alpha_beta(part: Linear, x: Any, z: Any, R: Any, settings: Settings) -> Any:
    """R_i = sum_j [alpha (x_i w_ij)+ / z_j+ - beta (x_i w_ij)- / z_j-] R_j, beta = alpha - 1 (Bach et al. 2015).

    z_j+ and z_j- are the sums of positive and negative contributions, each with the bias where it has that sign.
    """
    found = settings.alpha * z_plus(part, x, z, R, settings)
    if settings.alpha == 1:
        return found
    negative = _total_of_sign(part, x, -1, settings)
    return found - (settings.alpha - 1) * _spread(part, x, R / negative, -1, settings)


def gamma(part: Linear, x: Any, z: Any, R: Any, settings: Settings) -> Any:
    """R_i = sum_j (c_ij + gamma (c_ij)+) / sum_k (c_kj + gamma (c_kj)+) R_j, c_ij = x_i w_ij (Montavon et al. 2019,
    doi:10.1007/978-3-030-28954-6_10).

    The sum over k holds the bias. Where z_j < 0, (c)- takes the place of (c)+, so that the rule also holds for
    results that no ReLU has cut.
    """
    plain = part.apply(x, part.kernel)
    positive = _sum_of_sign(part, x, 1, settings)
    positive, negative = (
        positive + _bias_of_sign(part, 1, settings),
        plain - positive + _bias_of_sign(part, -1, settings),
    )
    total = z if settings.bias else plain
    up = tf.cast(total >= 0, x.dtype)
    s = R / stabilised(total + settings.gamma * (up * positive + (1 - up) * negative))
    favoured = _spread(part, x, s * up, 1, settings) + _spread(part, x, s * (1 - up), -1, settings)
    return x * part.back(x, part.kernel, s) + settings.gamma * favoured


def flat(part: Linear, x: Any, z: Any, R: Any, settings: Settings) -> Any:
    """R_i = sum_j 1 / n_j R_j, n_j the number of inputs of j (Lapuschkin et al. 2017, ICCV Workshops)."""
    ones, kernel = tf.ones_like(x), tf.ones_like(part.kernel)
    return part.back(x, kernel, R / part.apply(ones, kernel))


def w2(part: Linear, x: Any, z: Any, R: Any, settings: Settings) -> Any:
    """R_i = sum_j w_ij^2 / sum_k w_kj^2 R_j (Montavon et al. 2017, arXiv:1512.02479)."""
    kernel = tf.square(part.kernel)
    return part.back(x, kernel, R / stabilised(part.apply(tf.ones_like(x), kernel)))


def z_box(part: Linear, x: Any, z: Any, R: Any, settings: Settings) -> Any:
    """R_i = sum_j (x_i w_ij - l_i (w_ij)+ - h_i (w_ij)-) / sum_k (the same) R_j, for inputs in [l, h] (Montavon et al.
    2017, arXiv:1512.02479). The bias has no part in it."""
    if settings.bounds is None:
        raise ValueError("the rule z_box needs Settings.bounds, the range of the layer's inputs.")
    low, high = settings.bounds(x)
    positive, negative = _of_sign(part.kernel, 1), _of_sign(part.kernel, -1)
    total = part.apply(x, part.kernel) - part.apply(low, positive) - part.apply(high, negative)
    s = R / stabilised(total)
    return x * part.back(x, part.kernel, s) - low * part.back(x, positive, s) - high * part.back(x, negative, s)


RULES: dict[str, Callable[[Linear, Any, Any, Any, Settings], Any]] = {
    "epsilon": epsilon,
    "z_plus": z_plus,
    "alpha_beta": alpha_beta,
    "gamma": gamma,
    "flat": flat,
    "w2": w2,
    "z_box": z_box,
}


def _of_sign(v: Any, sign: int) -> Any:
    return tf.nn.relu(v) if sign > 0 else -tf.nn.relu(-v)


def _sum_of_sign(part: Linear, x: Any, sign: int, settings: Settings) -> Any:
    """sum_i of the contributions x_i w_ij that have the sign."""
    same, opposite = _of_sign(part.kernel, sign), _of_sign(part.kernel, -sign)
    if settings.nonnegative:
        return part.apply(x, same)
    up, down = _of_sign(x, 1), _of_sign(x, -1)
    if part.sums:  # one operation on twice the channels is faster than two and their sum
        return part.apply(tf.concat([up, down], -1), tf.concat([same, opposite], -2))
    return part.apply(up, same) + part.apply(down, opposite)


def _bias_of_sign(part: Linear, sign: int, settings: Settings) -> Any:
    return _of_sign(part.bias, sign) if settings.bias and part.bias is not None else 0.0


def _total_of_sign(part: Linear, x: Any, sign: int, settings: Settings) -> Any:
    """The contributions and bias that have the sign, summed and kept from 0 by `TINY` of that sign."""
    total = _sum_of_sign(part, x, sign, settings)
    if settings.bias and part.bias is not None:
        return with_bias(total, _of_sign(part.bias, sign) + sign * TINY)
    return total + sign * TINY


def _spread(part: Linear, x: Any, s: Any, sign: int, settings: Settings) -> Any:
    """sum_j of the contributions x_i w_ij that have the sign, times s_j."""
    same, opposite = _of_sign(part.kernel, sign), _of_sign(part.kernel, -sign)
    if settings.nonnegative:
        return x * part.back(x, same, s)
    if part.sums:
        at_up, at_down = tf.split(part.back(tf.concat([x, x], -1), tf.concat([same, opposite], -2), s), 2, axis=-1)
    else:
        at_up, at_down = part.back(x, same, s), part.back(x, opposite, s)
    return x * tf.where(x >= 0, at_up, at_down)
