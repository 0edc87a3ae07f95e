"""Class activation maps of gradients at many points: noisy copies (Smooth Grad-CAM++), a path (Integrated Grad-CAM)."""

import numpy as np

from xaiutils.attribution.baselines import BASELINE, baseline_images
from xaiutils.attribution.cam.gradient_cams import grad_cam_weights
from xaiutils.attribution.cam.weighted_sum import maps_of_weights, weighted_sum
from xaiutils.attribution.method import LAYER, SEED, Method
from xaiutils.backend import tf
from xaiutils.graph.network import Network
from xaiutils.graph.passes import activation, activations_and_gradients, batches, enlarge
from xaiutils.graph.paths import sent
from xaiutils.registry import Parameter


def smooth_grad_cam_plus_plus(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    layer: str,
    n_samples: int,
    noise: float,
    seed: int,
) -> np.ndarray:
    """relu(sum_k w_k A_k), the weights those of Grad-CAM++ with the first three powers of the gradient averaged over
    noisy copies (Omeiza et al. 2019, arXiv:1908.01224).

    w_k = sum_ij alpha relu(mean g), alpha = mean g^2 / (2 mean g^2 + sum_ab A_ab mean g^3), A of the image itself. The
    paper prints mean g as the numerator, which is not the second derivative that Grad-CAM++ has there. The noise is as
    in smoothgrad, a fraction of each image's range, and so are the defaults. (smoothgrad with
    ``base="grad_cam_plus_plus"`` is another map: the mean of the copies' maps.)
    """

    def weigh(few: np.ndarray, wanted: np.ndarray, path: str) -> tuple[np.ndarray, tf.Tensor]:
        run = activations_and_gradients(network, [path])
        A, shown = activation(network, path, few, batch_size), sent(few)
        sigma = np.float32(noise) * np.ptp(few, axis=(1, 2, 3), keepdims=True)
        moments = tf.zeros((3, *A.shape), tf.float64)
        for at in _filling(batch_size, len(few), n_samples):
            unit = (np.random.default_rng([seed, k]).standard_normal(few.shape[1:], np.float32) for k in at)
            ((_, g),) = run(tf.concat([shown + sigma * u for u in unit], axis=0), np.tile(wanted, len(at)))
            g = tf.cast(tf.reshape(g, (len(at), *A.shape)), tf.float64)
            moments += tf.stack([tf.reduce_sum(power, axis=0) for power in (g, g * g, g * g * g)])
        first, second, third = tf.unstack(moments / n_samples)
        below = 2 + A.sum(axis=(1, 2), keepdims=True) * tf.math.divide_no_nan(third, second)
        alpha = tf.where(second > 0, tf.math.divide_no_nan(tf.ones_like(below), below), 0.0)
        return A, tf.cast(tf.reduce_sum(alpha * tf.nn.relu(first), axis=(1, 2)), tf.float32)

    return maps_of_weights(network, images, targets, batch_size, network.cam_layers(layer), weigh, relu=True)


def integrated_grad_cam(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    *,
    layer: str,
    n_steps: int,
    baseline: str,
    difference: bool,
) -> np.ndarray:
    """Mean over the straight path from a baseline x' to x of relu(sum_k w_k (A_k - A'_k)), w_k the spatial mean of g_k
    at that point, A' the activation of x' (Sattarzadeh et al. 2021, arXiv:2102.07805).

    Points are the middles of ``n_steps`` equal parts. The authors' code has black, 50 steps from the black end on, and
    A in place of the difference: ``difference=False``.
    """
    total, (height, width) = np.zeros(images.shape[:3], np.float32), images.shape[1:3]
    for path in network.cam_layers(layer):
        run, place = activations_and_gradients(network, [path]), network.place(path)
        for batch in batches(len(images), batch_size, "Integrated Grad-CAM"):
            start, end = baseline_images(images[batch], baseline), sent(images[batch])
            lowest = activation(network, path, start, batch_size) if difference else np.zeros(1, np.float32)
            maps, way = 0.0, end - start
            for at in _filling(batch_size, len(end), n_steps):
                points = tf.concat([start + np.float32((k + 0.5) / n_steps) * way for k in at], axis=0)
                ((A, g),) = run(points, np.tile(targets[batch], len(at)))
                less = np.tile(lowest, (len(at), 1, 1, 1)) if difference else lowest
                found = weighted_sum(A - less, grad_cam_weights(A, g), relu=True)
                maps += tf.reduce_sum(tf.reshape(found, (len(at), len(end), *found.shape[1:])), axis=0)
            total[batch] += enlarge(maps / n_steps, height, width, place)
    return total


def _filling(batch_size: int, n: int, n_points: int) -> list[range]:
    """The points, as many of them at a time as fill a pass with ``n`` images each."""
    at_once = max(1, batch_size // n)
    return [range(k, min(k + at_once, n_points)) for k in range(0, n_points, at_once)]


SMOOTH_GRAD_CAM_PLUS_PLUS = Method(
    name="smooth_grad_cam_plus_plus",
    title="Smooth Grad-CAM++",
    family="cam",
    paper="Omeiza, Speakman, Cintas & Weldemariam 2019, arXiv:1908.01224",
    signed=False,
    cost="n_samples gradients, + 1 forward",
    compute=smooth_grad_cam_plus_plus,
    needs="layers",
    parameters=(
        LAYER,
        Parameter("n_samples", int, 25, "noisy copies; as smoothgrad", 1, 1000),
        Parameter("noise", float, 0.15, "sigma as a fraction of each image's range; as smoothgrad", 0.0, 1.0),
        SEED,
    ),
)
INTEGRATED_GRAD_CAM = Method(
    name="integrated_grad_cam",
    title="Integrated Grad-CAM",
    family="cam",
    paper="Sattarzadeh, Sudhakar, Plataniotis, Jang, Jeong & Kim 2021, arXiv:2102.07805",
    signed=False,
    cost="n_steps gradients, + 1 forward",
    compute=integrated_grad_cam,
    needs="layers",
    parameters=(
        LAYER,
        Parameter("n_steps", int, 20, "points on the path; the authors' code: 50", 1, 1000),
        BASELINE,
        Parameter("difference", bool, True, "less the baseline's activation; the authors' code: no"),
    ),
)
