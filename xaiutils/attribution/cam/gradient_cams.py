"""Class activation maps whose weights come from an activation A and its gradient g = dS/dA, S the target's logit.

See `weighted_sum` for what they share. With the channels of A pooled by their mean into one linear layer, CAM, Grad-CAM
without its ReLU, HiResCAM and XGrad-CAM are the same map up to the factor rows * columns. ``balanced`` takes the
gradient of `xaiutils.attribution.libra` in place of g.
"""

from collections.abc import Callable

from xaiutils.attribution.cam.weighted_sum import cam_of_weights, relu_option
from xaiutils.attribution.libra import BALANCED, gradients_by_balance
from xaiutils.attribution.method import Method
from xaiutils.backend import tf
from xaiutils.registry import Parameter


def grad_cam_weights(A: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
    """relu(sum_k w_k A_k), w_k the spatial mean of g_k (Selvaraju et al. 2017, arXiv:1610.02391, eq. 1 and 2).

    ``relu=False`` leaves the ReLU out and gives a signed map.
    """
    return tf.reduce_mean(g, axis=(1, 2), keepdims=True)


def grad_cam_plus_plus_weights(A: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
    """relu(sum_k w_k A_k), w_k = sum_ij alpha_ij relu(g_ij) (Chattopadhay et al. 2018, arXiv:1710.11063).

    With Y = exp(S) the second and third derivatives of eq. 19 reduce to alpha = g^2 / (2 g^2 + sum_ab A_ab g^3), 0
    where g = 0; g^2 cancels, and the common factor exp(S) of all weights is left out.
    """
    sizes = 2 + tf.reduce_sum(A, axis=(1, 2), keepdims=True) * g
    return tf.reduce_sum(tf.math.divide_no_nan(tf.nn.relu(g), sizes), axis=(1, 2), keepdims=True)


def xgrad_cam_weights(A: tf.Tensor, g: tf.Tensor, epsilon: float = 1e-6) -> tf.Tensor:
    """relu(sum_k w_k A_k), w_k = sum_ij A_k g_k / sum_ij A_k (Fu et al. 2020, arXiv:2008.02312).

    Conservation: without the ReLU each channel's part of the map sums to sum_ij A_k g_k. After SiLU or LayerNorm the
    sum of A_k can be negative or near 0, so ``epsilon`` (the authors' value) is added with that sum's sign, +1 at 0;
    a channel whose sum is small beside its values gets a large weight all the same. ``relu=False`` gives a signed map.
    """
    total = tf.reduce_sum(A, axis=(1, 2), keepdims=True)
    stable = total + epsilon * tf.where(total < 0, -1.0, 1.0)
    return tf.math.divide_no_nan(tf.reduce_sum(A * g, axis=(1, 2), keepdims=True), stable)


def hirescam_weights(A: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
    """sum_k g_k * A_k, element by element, signed (Draelos & Carin 2020, arXiv:2011.08891).

    Where only linear layers follow, the map sums to the logit less its bias. ``relu=True`` sets negative values to 0,
    as some libraries do.
    """
    return g


def layer_cam_weights(A: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
    """relu(sum_k relu(g_k) * A_k), element by element (Jiang et al. 2021, LayerCAM, IEEE TIP 30).

    It suits early layers too; `xaiutils.attribution.cam.layer_aggregate` with ``fusion="max"`` is the paper's fusion.
    """
    return tf.nn.relu(g)


def _balanceable(
    name: str,
    title: str,
    weights: Callable[..., tf.Tensor],
    paper: str,
    options: tuple[Parameter, ...] = (),
    signed: bool = False,
) -> Method:
    return cam_of_weights(name, title, weights, paper, (*options, BALANCED), signed, signals_by=gradients_by_balance)


GRAD_CAM = _balanceable(
    "grad_cam", "Grad-CAM", grad_cam_weights, "Selvaraju et al. 2017, arXiv:1610.02391", (relu_option(True),)
)
GRAD_CAM_PLUS_PLUS = _balanceable(
    "grad_cam_plus_plus",
    "Grad-CAM++",
    grad_cam_plus_plus_weights,
    "Chattopadhay, Sarkar, Howlader & Balasubramanian 2018, arXiv:1710.11063",
)
XGRAD_CAM = _balanceable(
    "xgrad_cam",
    "XGrad-CAM",
    xgrad_cam_weights,
    "Fu, Hu, Dong, Guo, Gao & Li 2020, arXiv:2008.02312",
    (Parameter("epsilon", float, 1e-6, "added to each channel's sum, with its sign", 0.0, 1.0), relu_option(True)),
)
HIRESCAM = _balanceable(
    "hirescam",
    "HiResCAM",
    hirescam_weights,
    "Draelos & Carin 2020, arXiv:2011.08891",
    (relu_option(False),),
    signed=True,
)
LAYER_CAM = _balanceable(
    "layer_cam",
    "LayerCAM",
    layer_cam_weights,
    "Jiang, Zhang, Hou, Cheng & Wei 2021, IEEE Transactions on Image Processing 30",
)
