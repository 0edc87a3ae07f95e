"""Class activation maps along the first principal direction of a layer: Eigen-CAM and EigenGrad-CAM.

The places of a layer are rows of a matrix ``(rows columns, channels)``, and the map is its product with the first right
singular vector. The sign of that vector is arbitrary; it is turned so that the value of largest size is positive
(Chung & Ying 2025, Seg-Eigen-CAM, doi:10.3390/app15137562, eq. 13), and negative values become 0.
"""

from collections.abc import Sequence

import numpy as np

from xaiutils.attribution.cam.weighted_sum import maps_of_one_pass
from xaiutils.attribution.method import LAYER, Method, Signals
from xaiutils.backend import tf
from xaiutils.graph.network import Network
from xaiutils.graph.passes import activation, activations_and_gradients
from xaiutils.registry import Parameter


def first_component(A: tf.Tensor, centred: bool) -> tf.Tensor:
    """The part of A ``(n, rows, columns, channels)`` along its first principal direction, ``(n, rows, columns)``, with
    the sign that makes the value of largest size positive; ``centred``: each channel's mean is subtracted first."""
    shape = tf.shape(A)
    places = tf.cast(tf.reshape(A, (shape[0], -1, A.shape[-1])), tf.float64)
    if centred:
        places -= tf.reduce_mean(places, axis=1, keepdims=True)

    # The one direction, from the smaller of the two products of the matrix with itself: an SVD takes ten times as long.
    def by_places() -> tf.Tensor:
        values, vectors = tf.linalg.eigh(tf.matmul(places, places, transpose_b=True))
        return tf.sqrt(tf.nn.relu(values[:, -1:])) * vectors[..., -1]

    def by_channels() -> tf.Tensor:
        vectors = tf.linalg.eigh(tf.matmul(places, places, transpose_a=True))[1]
        return tf.linalg.matvec(places, vectors[..., -1])

    along = tf.cast(tf.cond(tf.shape(places)[1] < A.shape[-1], by_places, by_channels), A.dtype)
    low, high = (f(along, axis=1, keepdims=True) for f in (tf.reduce_min, tf.reduce_max))
    return tf.reshape(tf.where(-low > high, -along, along), shape[:3])


def eigen_cam(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, layer: str, centred: bool
) -> np.ndarray:
    """relu(A v), v the first right singular vector of the activation A, one row for each place (Muhammad & Yeasin 2020,
    arXiv:2008.00299).

    It asks neither for the class nor for the layers behind: what varies most in the layer. ``centred=True`` subtracts
    each channel's mean before, as pytorch-grad-cam does. The sign, which papers and packages leave to chance, is
    that of Seg-Eigen-CAM: the value of largest size is positive.
    """

    def activations(network: Network, layers: Sequence[str]) -> Signals:
        return lambda few, _: [(activation(network, path, few, batch_size), None) for path in layers]

    def combine(A: tf.Tensor, _: None) -> tf.Tensor:
        return tf.nn.relu(first_component(tf.convert_to_tensor(A), centred))

    layers = network.cam_layers(layer)
    return maps_of_one_pass(network, images, targets, batch_size, layers, activations, [combine])[0]


def eigengrad_cam(
    network: Network, images: np.ndarray, targets: np.ndarray, batch_size: int, *, layer: str, centred: bool
) -> np.ndarray:
    """relu((A g) v), v the first right singular vector of the activation times its gradient, A g, element by element
    (pytorch-grad-cam, which has no paper for it).

    Eigen-CAM of what speaks for or against the class. ``centred``, as in pytorch-grad-cam, subtracts each channel's
    mean before. The sign is that of Seg-Eigen-CAM: the value of largest size is positive, whether it speaks for the
    class or against it.
    """

    def combine(A: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(first_component(A * g, centred))

    layers = network.cam_layers(layer)
    return maps_of_one_pass(network, images, targets, batch_size, layers, activations_and_gradients, [combine])[0]


def _centred(default: bool) -> Parameter:
    return Parameter("centred", bool, default, "subtract each channel's mean over the places first")


EIGEN_CAM = Method(
    name="eigen_cam",
    title="Eigen-CAM",
    family="cam",
    paper="Muhammad & Yeasin 2020, arXiv:2008.00299; sign: Chung & Ying 2025, doi:10.3390/app15137562",
    signed=False,
    cost="1 forward",
    compute=eigen_cam,
    needs="layers",
    parameters=(LAYER, _centred(False)),
)
EIGENGRAD_CAM = Method(
    name="eigengrad_cam",
    title="EigenGrad-CAM",
    family="cam",
    paper="Gildenblat and others 2021, github.com/jacobgil/pytorch-grad-cam; sign: Chung & Ying 2025, "
    "doi:10.3390/app15137562",
    signed=False,
    cost="1 gradient",
    compute=eigengrad_cam,
    needs="layers",
    parameters=(LAYER, _centred(True)),
)
