"""Maps that do not depend on the trained model, and the evidence itself: what every table of metrics is read beside."""

import warnings
from collections.abc import Iterable, Mapping

import numpy as np
from skimage.filters import laplace, sobel

from xaiutils.attribution import MapWarning, explain_all
from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.studies.randomisation import random_weights, stages
from xaiutils.graph.network import Network
from xaiutils.graph.passes import enlarge
from xaiutils.graph.predict import predict

_N_NOISE = 8  # images of noise that batch normalisation takes its statistics from


def control_maps(ds: ImageDataset, seed: int = 0, grid: tuple[int, int] = (7, 7)) -> dict[str, np.ndarray]:
    """Maps float32 ``(n, height, width)`` by name, those of `xaiutils.evaluation.score_tables.CONTROLS`.

    ``random``: uniform noise, each image its own. ``centre``: a Gaussian at the image's centre, sigma a quarter of its
    height. ``edges``: Sobel magnitude. ``laplace``: absolute value of the Laplacian of 3 x 3 pixels. ``intensity``:
    brightness. Only with masks, ``oracle``: the mask averaged over ``grid`` (rows, columns) and enlarged, the evidence
    as coarse as the map, not the optimum of every metric; and ``oracle_full``: the mask itself.
    """
    n, height, width = ds.pixels.shape[:3]
    grey = ds.pixels.mean(axis=-1, dtype=np.float32)
    rows, columns = np.mgrid[0:height, 0:width]
    distance = ((rows - (height - 1) / 2) / height) ** 2 + ((columns - (width - 1) / 2) / height) ** 2
    noise = [np.random.default_rng([seed, i]).random((height, width), np.float32) for i in range(n)]
    maps = {
        "random": np.stack(noise),
        "centre": np.broadcast_to(np.exp(-distance / (2 * 0.25**2)).astype(np.float32), (n, height, width)),
        "edges": np.stack([sobel(image).astype(np.float32) for image in grey]),
        "laplace": np.stack([np.abs(laplace(image, ksize=3)).astype(np.float32) for image in grey]),
        "intensity": grey,
    }
    if ds.masks is not None:
        maps["oracle"] = enlarge(_averaged(ds.masks, grid), height, width)
        maps["oracle_full"] = ds.masks.astype(np.float32)
    return maps


def _averaged(masks: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Mean of the masks over a grid of fields that differ by at most a pixel in size."""
    for axis, fields in zip((1, 2), grid, strict=True):
        fields = min(fields, masks.shape[axis])
        edges = np.rint(np.linspace(0, masks.shape[axis], fields + 1)).astype(int)
        sums = np.add.reduceat(masks.astype(np.float32), edges[:-1], axis=axis)
        sizes = np.diff(edges).reshape([-1 if a == axis else 1 for a in range(3)])
        masks = sums / sizes
    return masks


def random_weight_maps(
    model: keras.Model,
    images: np.ndarray,
    methods: Iterable[str],
    targets: np.ndarray | int | None = None,
    batch_size: int = 32,
    parameters: Mapping[str, Mapping] | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The methods' maps of ``model`` with random weights (Adebayo et al. 2018, arXiv:1810.03292): what a method shows
    of any network of this architecture, and so of the image alone.

    Arguments and maps are those of `xaiutils.explain_all`; ``targets`` None is the class that the trained model
    predicts. Batch normalisation forgets its statistics too and takes those of smooth noise, drawn by ``seed``: with
    statistics that do not fit the weights the signal of a deep network fades, to logits that differ by 1e-13 on
    EfficientNet-Lite0. Afterwards the model has its own weights again.
    """
    if targets is None:
        targets = predict(model, images, batch_size).argmax(axis=1)
    layers = [layer for group in stages(model, norms=True).values() for layer in group]
    with random_weights(layers, seed):
        _fit_norms(Network.of(model), _smooth_noise(images.shape[1:3], seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MapWarning)  # a model that has learned nothing may have empty maps
            return explain_all(model, images, targets, methods, batch_size, parameters)


def _smooth_noise(size: tuple[int, int], seed: int) -> np.ndarray:
    """float32 ``(n, height, width, 3)`` in [0, 255]: 7 x 7 random colours, enlarged."""
    colours = np.random.default_rng(seed).uniform(0, 255, (3 * _N_NOISE, 7, 7))
    return enlarge(colours, *size).reshape(_N_NOISE, 3, *size).transpose(0, 2, 3, 1)


def _fit_norms(network: Network, pictures: np.ndarray) -> None:
    """Set the statistics of every batch normalisation, from the first on, to those of its input for ``pictures``."""

    def rule(step, inputs, compute):
        norm = step.operation
        if isinstance(norm, keras.layers.BatchNormalization):
            x = tf.cast(inputs[0], tf.float32)
            mean, variance = tf.nn.moments(x, [a for a in range(x.ndim) if a != norm.axis % x.ndim])
            norm.moving_mean.assign(mean)
            norm.moving_variance.assign(variance)
        return compute(inputs)

    network.forward(tf.constant(pictures), [], rule=rule)
