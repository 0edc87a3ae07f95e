"""The class model, or activation maximisation: an image of a large logit of a class, found by gradient ascent.

Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034, section 2.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from xaiutils.attribution.baselines import reference_images
from xaiutils.backend import keras, tf
from xaiutils.graph.network import Network
from xaiutils.graph.passes import class_scores
from xaiutils.progress import progress
from xaiutils.registry import check_integer

STARTS = ("mean", "zero", "noise")
_UNIT = 127.5  # grey levels: the image is mean + _UNIT * u


class ClassModel(NamedTuple):
    """``image`` float32 ``(height, width, C)`` in [0, 255]; ``history`` float32 ``(n_steps + 1,)``, the target's logit
    at the start and after each step (of the image as it is shifted at that step, where there is jitter; the last one
    is of ``image`` itself)."""

    image: np.ndarray
    history: np.ndarray


def class_model(
    model: keras.Model,
    target: int,
    n_steps: int = 200,
    learning_rate: float = 0.02,
    l2: float = 1e-4,
    total_variation: float = 0.0,
    blur: float = 0.0,
    jitter: int = 0,
    start: str = "mean",
    mean: np.ndarray | tuple[float, ...] | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> ClassModel:
    """An image I of large S(I) - l2 * sum(u^2), S the target's logit and I = mean + 127.5 u.

    The paper's objective, in units in which a usual image lies in [-1, 1]; its ascent is not specified there. Here each
    step goes along the gradient, ``learning_rate`` long in root mean square of u, the length falling linearly to 0, and
    I is cut to [0, 255].

    This objective alone raises the logit of today's networks by fine textures in which an eye sees little. On
    EfficientNet-Lite0 learning_rate=0.2, blur=0.5, jitter=16 gave pictures with recognisable parts, of lower logits.

    Args:
        model: as `xaiutils.explain` takes.
        target: class index.
        n_steps: steps of the ascent.
        learning_rate: root mean square change of u in the first step (0.02: 2.55 grey levels).
        l2: the paper's lambda.
        total_variation: weight of the subtracted sum of abs(u_p - u_q) over neighbours p, q (an addition, after
            Mahendran & Vedaldi 2015, arXiv:1412.0035): fewer edges.
        blur: standard deviation in pixels of a Gaussian blur of u after each step but the last (an addition, after
            Yosinski et al. 2015, arXiv:1506.06579): no high frequencies.
        jitter: the image is rolled by up to this many pixels each way before each step, and back after it (an addition,
            after Mordvintsev et al. 2015, Inceptionism): no pattern that is tied to strides.
        start: "mean" (the paper), "zero" (a black image) or "noise" (the mean and unit noise of 10 grey levels).
        mean: a colour (C,) or an image (height, width, C), the mean of the training images; None: mid-grey
            (127.5).
        image_size: height and width for a model that takes any size.
        seed: of the noise and the jitter.

    Raises:
        ModelError: the model cannot be explained. ValueError: an argument is not valid, or the gradient is 0 at the
        start. FloatingPointError: it is not finite.
    """
    network = Network.of(model)
    check_integer("target", target, 0, network.n_classes - 1, ", the index of a class")
    _check(n_steps, learning_rate, jitter, start, l2=l2, total_variation=total_variation, blur=blur)
    shape = (*_size(network, image_size), network.channels)
    grey = np.full(network.channels, 127.5)
    average = reference_images("mean", np.asarray(grey if mean is None else mean, np.float32), shape)
    centre = np.broadcast_to(average, (1, *shape)).astype(np.float32)
    network.trace_shapes(shape[:2])
    rng = np.random.default_rng(seed)
    low, high = (0 - centre) / _UNIT, (255 - centre) / _UNIT
    u = low.copy() if start == "zero" else np.zeros_like(centre)
    if start == "noise":
        u = np.clip(rng.normal(0, 10 / _UNIT, centre.shape), low, high).astype(np.float32)
    ascend = _ascent(network)
    classes = np.array([target], np.int32)
    history = np.empty(n_steps + 1, np.float32)
    for step in progress(range(n_steps), title="class model"):
        shift = tuple(rng.integers(-jitter, jitter + 1, 2)) if jitter else (0, 0)
        moved, place = (np.roll(x, shift, axis=(1, 2)) for x in (u, centre))
        score, gradient = ascend(moved, place, classes, np.float32(l2), np.float32(total_variation))
        history[step] = score.numpy()
        gradient = np.roll(gradient.numpy(), (-shift[0], -shift[1]), axis=(1, 2))
        size = np.sqrt(np.mean(np.square(gradient, dtype=np.float64)))
        if not np.isfinite(size):
            raise FloatingPointError("the gradient is NaN or infinite; the model's weights or logits are not finite.")
        if step == 0 and size == 0:
            raise ValueError(f"the gradient is 0 at start={start!r}: give start='noise' or another mean.")
        if size > 0:
            u = u + np.float32(learning_rate * (1 - step / n_steps) / size) * gradient
        if blur and step < n_steps - 1:
            u = ndimage.gaussian_filter(u, (0, blur, blur, 0))
        u = np.clip(u, low, high)
    history[-1] = ascend(u, centre, classes, np.float32(0), np.float32(0))[0].numpy()
    return ClassModel(np.clip(centre + _UNIT * u, 0, 255)[0], history)


def _ascent(network: Network) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """Function (u, mean, targets, l2, total variation) -> the logit, and the objective's gradient by u."""

    def build():
        images, weight = network.image_spec, tf.TensorSpec([], tf.float32)

        @tf.function(input_signature=[images, images, tf.TensorSpec([None], tf.int32), weight, weight], autograph=False)
        def run(u, mean, targets, l2, total_variation):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(u)
                score = tf.reduce_sum(class_scores(network, network.logits(mean + _UNIT * u), targets, "logit"))
                roughness = tf.reduce_sum(tf.image.total_variation(u))
                objective = score - l2 * tf.reduce_sum(u * u) - total_variation * roughness
            return score, tape.gradient(objective, u)

        return run

    return network.compiled("class model", build)


def _check(n_steps, learning_rate, jitter, start, **penalties) -> None:
    check_integer("n_steps", n_steps, 1)
    check_integer("jitter", jitter, 0)
    if not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate={learning_rate!r}; expected a positive number.")
    for name, value in penalties.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name}={value!r}; expected a number of at least 0.")
    if start not in STARTS:
        raise ValueError(f"start={start!r}; expected one of {', '.join(STARTS)}.")


def _size(network: Network, image_size: int | None) -> tuple[int, int]:
    height, width = network.image_size
    if height is None or width is None:
        side = check_integer("image_size", image_size, 1, note=", since the model takes any size")
        return side, side
    if image_size is not None and (height, width) != (image_size, image_size):
        raise ValueError(f"image_size={image_size!r}; the model takes {network.image_size} alone.")
    return height, width
