"""What a map must be, whatever the network: checked against values that Keras and an eager tape give, by hand.

Nothing here uses the package's own passes but for what it checks, and for where a layer's grid lies in the image.
"""

import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.attribution.full_grad import full_grad_terms
from xaiutils.backend import keras, tf
from xaiutils.graph.layers.attention import attention_steps
from xaiutils.graph.passes import enlarge
from xaiutils.graph.predict import prepare

# Cheap settings: a pass or a few for each method.
QUICK: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 3},
    "integrated_gradients_bw": {"n_steps": 2},
    "expected_gradients": {"n_samples": 4},
    "smoothgrad": {"n_samples": 3},
    "smoothgrad_squared": {"n_samples": 3},
    "vargrad": {"n_samples": 3},
    "occlusion": {"patch_size": 16},
    "rise": {"n_masks": 24, "cells": 4},
    "lime": {"n_samples": 24, "segmentation": "slic"},
    "prediction_difference": {"patch_size": 20, "padding": 1, "n_samples": 1, "n_training": 400},
    "score_cam": {"max_channels": 12},
    "faster_score_cam": {"max_channels": 4},
    "smooth_grad_cam_plus_plus": {"n_samples": 2},
    "integrated_grad_cam": {"n_steps": 2},
    "ss_cam": {"max_channels": 4, "n_samples": 2},
    "is_cam": {"max_channels": 4, "n_steps": 2},
    "guided_ig": {"n_steps": 4},
    "blur_ig": {"n_steps": 4, "max_sigma": 4.0},
    "idgi": {"n_steps": 2},
    "shapley": {"n_segments": 40, "n_samples": 2},
    "kernel_shap": {"n_segments": 20, "n_coalitions": 60},
    "sobol": {"cells": 3, "n_samples": 4},
    "hsic": {"cells": 3, "n_masks": 24},
    "xrai": {"base_parameters": {"n_steps": 2}, "algorithm": "fast"},
}
# For the blob: what hides it must be darker than what the network sees, and there is something to average over.
BLOB: dict[str, dict[str, Any]] = {
    **QUICK,
    "occlusion": {"patch_size": 6},
    "rise": {"n_masks": 400, "cells": 6, "score": "logit"},
    "lime": {"n_samples": 200, "segmentation": "slic", "score": "logit", "fill": "black"},
    "shapley": {"n_segments": 60, "n_samples": 10, "fill": "black"},
    "kernel_shap": {"n_segments": 60, "n_coalitions": 600, "fill": "black"},
    "sobol": {"cells": 6, "n_samples": 16, "fill": "black"},
    "hsic": {"cells": 6, "n_masks": 300, "fill": "black"},
    "xrai": {"base": "integrated_gradients", "base_parameters": {"n_steps": 4}, "algorithm": "fast"},
    "expected_gradients": {"n_samples": 16},
    "score_cam": {},
    "faster_score_cam": {},
}
# Attention maps show where a layer looks, whatever the score takes from there; deconvolution's pattern is that of the
# kernels, wherever the evidence is (Adebayo et al. 2018); a variance of gradients is 0 where the score is linear; a
# path from white begins with all of the ground lit; the squared gradients by which IDGI shares out are those of the
# kernels there; and prediction difference asks for what the surround does not foretell.
NOT_AT_THE_BLOB = ("deconvolution", "vargrad", "idgi", "integrated_gradients_bw", "prediction_difference")
# What is rounded more: quotients and differences of sums are ten times as far off between batches, and so is all that
# goes through many layers, where a ReLU whose input is nothing but rounding may open on one side.
WELL_CONDITIONED = ("vanilla_gradients", "gradients_x_inputs", "integrated_gradients", "integrated_gradients_bw")
WELL_CONDITIONED += ("expected_gradients", "smoothgrad", "full_grad", "cam", "grad_cam", "hirescam", "layer_cam")
# In a network of more steps, what needs several further passes is not checked: a shift, and all values by hand but the
# cheap ones; and an image alone is compared with itself among others once for each kind of pass.
LARGE = 50
ONE_OF_EACH_PASS = ("vanilla_gradients", "guided_backprop", "deep_lift", "occlusion", "grad_cam", "full_grad", "lrp")
CHEAP_BY_HAND = ("vanilla_gradients", "gradients_x_inputs", "grad_cam", "hirescam", "layer_cam", "cam")
PACKAGE = Path(xai.__file__).resolve().parent
# The largest error, as a fraction of the largest absolute value: of a value by hand, between batches, of a shift, and
# of a sum; and in pixels, of a peak. In half precision two orders of summation differ by more than that, so values by
# hand are compared loosely.
TOLERANCE = {
    "float32": {"by hand": 2e-3, "batch": 1e-5, "shift": 2e-3, "sum": 2e-2, "blob": 5.0},
    "mixed_bfloat16": {"by hand": 0.25, "batch": 1e-5, "shift": np.inf, "sum": 0.1, "blob": 5.0},
}


@dataclass
class Blob:
    """An image ``(1, h, w, C)`` with one bright blob at (row, column), and weights that see nothing else."""

    image: np.ndarray
    at: tuple[float, float]
    weights: list[np.ndarray]


@dataclass
class Subject:
    """A network under test: ``model``, what `xaiutils.explain` takes, and ``logits``, Keras' own way from images
    ``(n, h, w, C)`` to its logits ``(n, classes)``, for values by hand."""

    model: keras.Model
    logits: Callable[[tf.Tensor], tf.Tensor]
    images: np.ndarray
    targets: np.ndarray
    precision: str = "float32"
    core: keras.Model | None = None  # the model whose layers a CAM reads, and what it is given
    before_core: Callable[[tf.Tensor], tf.Tensor] = field(default=lambda x: x)
    blob: Blob | None = None
    compiled: bool = False  # whether passes are compiled, as users run them, or run eagerly

    @cached_property
    def network(self) -> Network:
        return Network.of(self.model)

    @cached_property
    def is_large(self) -> bool:
        """Whether only the cheap checks are made."""
        return len(self.network.steps) > LARGE

    def explain(self, method: str, images: np.ndarray | None = None, which: slice = slice(None), **more: Any):
        """Maps of a method at its cheap settings."""
        given = {**QUICK.get(method, {}), **more}
        images = self.images if images is None else images
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return xai.explain(self.model, images[which], self.targets[which], method, **given)

    # By hand -------------------------------------------------------------------------------------------------------

    def scores(self, images: np.ndarray) -> np.ndarray:
        """The target's logit of each image, ``(n,)``; of several copies of the images, one after the other."""
        return self._score(tf.constant(images)).numpy()

    @cached_property
    def score_size(self) -> float:
        """The largest absolute score of the images, at least 1."""
        return max(1.0, float(np.abs(self.scores(self.images)).max()))

    def _score(self, x: tf.Tensor) -> tf.Tensor:
        targets = np.tile(self.targets, len(x) // len(self.targets))
        return tf.gather(tf.cast(self.logits(x), tf.float32), targets, axis=1, batch_dims=1)

    def gradient(self, images: np.ndarray) -> np.ndarray:
        """The gradient of each target's logit by its image."""
        x = tf.constant(images)
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = self._score(x)
        return tape.gradient(score, x).numpy()

    @cached_property
    def image_gradient(self) -> np.ndarray:
        return self.gradient(self.images)

    @cached_property
    def own_noise(self) -> float:
        """How far Keras' own gradient of an image alone lies from that among others."""
        alone = Subject(self.model, self.logits, self.images[1:2], self.targets[1:2])
        return relative(alone.image_gradient[0], self.image_gradient[1])

    @cached_property
    def own_rounding(self) -> float:
        """How far rounding moves Keras' own gradient in float32: the larger of its distance from that of the same
        network in float64 (where the logits are the model's output or what its last layer reads), and of its change
        when each pixel is changed in its last bit. Large where ReLUs are on the edge."""
        signs = np.random.default_rng(0).choice([-1.0, 1.0], self.images.shape)
        nudged = (self.images * (1 + 2e-7 * signs)).astype(np.float32)
        return max(self._to_float64(), relative(self.gradient(nudged), self.image_gradient))

    def _to_float64(self) -> float:
        last, logits = self.model.layers[-1], self.logits(tf.constant(self.images))
        ends = [self.model.output] if isinstance(last, keras.Model) else [self.model.output, last.input]
        for whole in (keras.Model(self.model.inputs, end) for end in ends):
            found = whole(tf.constant(self.images), training=False)
            if found.shape == logits.shape and np.allclose(found, logits, rtol=1e-3, atol=1e-3 * self.score_size):
                break
        else:
            return 0.0
        exact = keras.models.clone_model(whole, clone_function=_in_float64, recursive=True)
        exact.set_weights(whole.get_weights())
        reference = Subject(exact, lambda x: exact(x, training=False), self.images, self.targets)
        return relative(self.image_gradient, reference.image_gradient)

    @cached_property
    def cam_signals(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Each layer that CAMs read by default, its activation and the target's gradient by it, on its grid."""
        return [(path, *self._signal(path)) for path in self.network.cam_layers("")]

    def _signal(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        core, x = self.core or self.model, self.before_core(tf.constant(self.images))
        *nested, name = path.split("/")
        if [core.name] == nested:
            nested = []
        if nested or name not in {layer.name for layer in core.layers}:
            raise NotByHandError(path)
        probe = keras.Model(core.inputs, [core.get_layer(name).output, core.outputs[0]])
        with tf.GradientTape() as tape:
            tape.watch(x)
            activation, output = probe(x, training=False)
            output = tf.cast(output, tf.float32)
            output = tf.concat([-output, output], axis=1) if output.shape[1] == 1 else output
            score = tf.gather(output, self.targets, axis=1, batch_dims=1)
        pair = activation, tape.gradient(score, activation)
        return tuple(tf.cast(self.network.to_grid(path, value), tf.float32).numpy() for value in pair)


class NotByHandError(Exception):
    """A value that is not computed by hand for this network."""


# Values by hand -------------------------------------------------------------------------------------------------------


def _along_path(s: Subject, start: float, n: int) -> np.ndarray:
    baseline = np.full_like(s.images, start)
    points = [baseline + np.float32((k + 0.5) / n) * (s.images - baseline) for k in range(n)]
    return ((s.images - baseline) * np.mean([s.gradient(x) for x in points], axis=0)).sum(axis=-1)


def _occlusion(s: Subject) -> np.ndarray:
    side = QUICK["occlusion"]["patch_size"]
    found, count, whole = np.zeros(s.images.shape[:3]), np.zeros(s.images.shape[1:3]), s.scores(s.images)
    height, width = s.images.shape[1:3]
    corners = [(y, x) for y in range(0, height, side) for x in range(0, width, side)]
    hidden = np.repeat(s.images[None], len(corners), axis=0)
    for k, (y, x) in enumerate(corners):
        hidden[k, :, y : y + side, x : x + side] = 127.5
    left = s.scores(hidden.reshape(-1, *s.images.shape[1:])).reshape(len(corners), -1)
    for k, (y, x) in enumerate(corners):
        found[:, y : y + side, x : x + side] += (whole - left[k])[:, None, None]
        count[y : y + side, x : x + side] += 1
    return found / count


def _cam(combine: Callable[[np.ndarray, np.ndarray], np.ndarray], relu: bool) -> Callable[[Subject], np.ndarray]:
    def by_hand(s: Subject) -> np.ndarray:
        total = np.zeros(s.images.shape[:3])
        for path, activation, gradient in s.cam_signals:
            small = combine(activation.astype(np.float64), gradient.astype(np.float64))
            small = np.maximum(small, 0) if relu else small
            total += enlarge(small.astype(np.float32), *s.images.shape[1:3], s.network.place(path))
        return total

    return by_hand


def _grad_cam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    return (a * g.mean(axis=(1, 2), keepdims=True)).sum(axis=-1)


def _grad_cam_plus_plus(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    below = 2 * g**2 + a.sum(axis=(1, 2), keepdims=True) * g**3
    alpha = np.divide(g**2, below, out=np.zeros_like(g), where=(below != 0) & (g != 0))
    return (a * (alpha * np.maximum(g, 0)).sum(axis=(1, 2), keepdims=True)).sum(axis=-1)


def _xgrad_cam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    total = a.sum(axis=(1, 2), keepdims=True)
    total = total + np.where(total < 0, -1e-6, 1e-6)
    return (a * (a * g).sum(axis=(1, 2), keepdims=True) / total).sum(axis=-1)


def _pooled_cam(s: Subject) -> np.ndarray:
    """CAM by its relation to HiResCAM, where the pooled map goes into one linear layer. Of a transformer HiResCAM reads
    other tokens."""
    if attention_steps(s.network):
        raise NotByHandError("cam")
    ((_, activation, _),) = s.cam_signals
    return _BY_HAND["hirescam"](s) * np.prod(activation.shape[1:3])


_BY_HAND: dict[str, Callable[[Subject], np.ndarray]] = {
    "vanilla_gradients": lambda s: np.abs(s.image_gradient).max(axis=-1),
    "gradients_x_inputs": lambda s: (s.images * s.image_gradient).sum(axis=-1),
    "integrated_gradients": lambda s: _along_path(s, 0, 3),
    "integrated_gradients_bw": lambda s: (_along_path(s, 0, 2) + _along_path(s, 255, 2)) / 2,
    "occlusion": _occlusion,
    "grad_cam": _cam(_grad_cam, True),
    "grad_cam_plus_plus": _cam(_grad_cam_plus_plus, True),
    "xgrad_cam": _cam(_xgrad_cam, True),
    "hirescam": _cam(lambda a, g: (a * g).sum(axis=-1), False),
    "layer_cam": _cam(lambda a, g: (a * np.maximum(g, 0)).sum(axis=-1), True),
    "cam": _pooled_cam,
}
# Without noise, methods that average over noise are their base.
_WITHOUT_NOISE: dict[str, Callable[[Subject], np.ndarray]] = {
    "smoothgrad": _BY_HAND["vanilla_gradients"],
    "smoothgrad_squared": lambda s: _BY_HAND["vanilla_gradients"](s) ** 2,
}


# The contract ---------------------------------------------------------------------------------------------------------


@dataclass
class Cell:
    """What became of a method on a network: "passed" by the named checks, "refused" or "failed" with the reason, and
    the largest error of each check."""

    outcome: str
    reason: str = ""
    errors: dict[str, float] = field(default_factory=dict)


def check(subject: Subject, method: str) -> Cell:
    """Run a method on a network, and all checks that apply to it."""
    with nullcontext() if subject.compiled else mock.patch.object(tf, "function", _eagerly):
        return _checked(subject, method)


def _eagerly(function: Any = None, *, input_signature: Any = None, **options: Any) -> Any:
    """In place of `tf.function`: the function as it is, on tensors."""
    if function is None:
        return lambda given: _eagerly(given, input_signature=input_signature, **options)

    def run(*args: Any) -> Any:
        if input_signature is None:
            return function(*args)
        return function(*(tf.convert_to_tensor(x, spec.dtype) for x, spec in zip(args, input_signature, strict=True)))

    return run


def _checked(subject: Subject, method: str) -> Cell:
    try:
        maps = subject.explain(method)
    except Exception as error:  # whatever comes is a finding
        return named(error)
    errors: dict[str, float] = {}
    try:
        problem = _problem(subject, method, maps, errors)
    except Exception as error:
        cell = named(error)
        return Cell("failed", f"refused only at a second call: {cell.reason}", errors)
    return Cell("failed", problem, errors) if problem else Cell("passed", "", errors)


def named(error: Exception) -> Cell:
    """A refusal, if the package itself says what is wrong; any other error is a failure."""
    origin = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    text = " ".join(str(error).split())
    if isinstance(error, ModelError | ValueError) and origin.is_relative_to(PACKAGE):
        return Cell("refused", text)
    return Cell("failed", f"{type(error).__name__}: {text[:300]}")


def _problem(s: Subject, method: str, maps: np.ndarray, errors: dict[str, float]) -> str:
    """Run the checks; their errors go into ``errors``, and what is wrong comes back in words."""
    if maps.dtype != np.float32 or maps.shape != s.images.shape[:3] or not np.isfinite(maps).all():
        return f"maps are {maps.dtype} {maps.shape}, finite: {np.isfinite(maps).all()}"
    if not xai.METHODS[method].signed and maps.min() < 0:
        return f"a map without sign has the value {maps.min():.3g}"
    errors["finite"] = 0.0
    if method in ONE_OF_EACH_PASS or not s.is_large:
        alone = s.explain(method, which=slice(1, 2))
        # Scores are rounded at 1e-7 of their size, whatever small difference of them is drawn.
        errors["batch"] = relative(alone[0], maps[1], 0 if method in WELL_CONDITIONED else 1e-2 * s.score_size)
    _check_by_hand(s, method, maps, errors)
    _check_shift(s, method, maps, errors)
    _check_sum(s, method, maps, errors)
    _check_blob(s, method, errors)
    limits = dict(TOLERANCE[s.precision])
    limits["batch"] *= (1 if method in WELL_CONDITIONED else 10) * (10 if s.is_large else 1)
    limits["by hand"] *= 5 if s.is_large else 1
    if errors.get("batch", 0) > limits["batch"]:  # no method is more alike between batches than the network itself
        limits["batch"] = max(limits["batch"], 3 * s.own_noise)
        if errors["batch"] > limits["batch"] and s.precision == "float32":
            limits["batch"] = max(limits["batch"], (3 if method in WELL_CONDITIONED else 30) * s.own_rounding)
    if (
        errors.get("by hand", 0) > limits["by hand"] and s.precision == "float32"
    ):  # nor nearer to Keras than it to float64
        limits["by hand"] = max(limits["by hand"], 3 * s.own_rounding)
    missed = [f"{name}: off by {e:.2g}" for name, e in errors.items() if not e <= limits.get(name, 0)]
    return "; ".join(missed)


def _check_by_hand(s: Subject, method: str, maps: np.ndarray, errors: dict[str, float]) -> None:
    if s.is_large and method not in CHEAP_BY_HAND:
        return
    try:
        if method in _BY_HAND:
            errors["by hand"] = relative(maps, _BY_HAND[method](s))
        elif method in _WITHOUT_NOISE:
            errors["by hand"] = relative(s.explain(method, noise=0.0), _WITHOUT_NOISE[method](s))
    except NotByHandError:
        pass


def _check_shift(s: Subject, method: str, maps: np.ndarray, errors: dict[str, float]) -> None:
    head = s.network.steps_to_logits[-1].operation
    declared = xai.METHODS[method].is_shift_invariant(QUICK.get(method, {}))
    plain = isinstance(head, keras.layers.Dense) and head.use_bias and s.network.activation == "softmax"
    if not declared or not plain or s.precision != "float32" or s.is_large:
        return
    before = np.asarray(head.bias)
    head.bias.assign(before + 5)
    try:
        errors["shift"] = relative(s.explain(method), maps)
    finally:
        head.bias.assign(before)


def _check_sum(s: Subject, method: str, maps: np.ndarray, errors: dict[str, float]) -> None:
    if method not in ("deep_lift", "full_grad"):
        return  # others hold in expectation, or in the limit of many steps
    network, images, targets = prepare(s.model, s.images, s.targets, 8)
    if method == "deep_lift":
        sums, total = maps.sum(axis=(1, 2), dtype=np.float64), s.scores(images) - s.scores(np.zeros_like(images))
        size = np.abs(maps).sum(axis=(1, 2))
    else:
        if s.is_large:
            return  # another trace of the most expensive pass
        total, terms = full_grad_terms(network, images, targets, 8)
        stacked = np.stack(list(terms.values())).astype(np.float64)
        sums, size = stacked.sum(axis=0), np.abs(stacked).sum(axis=0)
        total = s.scores(images)
    errors["sum"] = float((np.abs(sums - total) / np.maximum(np.abs(total), size / 20)).max())


def _check_blob(s: Subject, method: str, errors: dict[str, float]) -> None:
    """How far a map's peak lies from the blob, in pixels beyond what its grid may blur."""
    if s.blob is None or xai.METHODS[method].family == "attention" or method in NOT_AT_THE_BLOB:
        return
    before = s.model.get_weights()
    s.model.set_weights(s.blob.weights)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (found,) = np.abs(xai.explain(s.model, s.blob.image, 1, method, **BLOB.get(method, {})))
    finally:
        s.model.set_weights(before)
    peak = np.argwhere(found >= found.max() * (1 - 1e-3)).mean(axis=0)
    errors["blob"] = float(np.abs(peak - s.blob.at).max())


def _in_float64(layer: keras.Layer) -> keras.Layer:
    return type(layer).from_config({**layer.get_config(), "dtype": "float64"})


def relative(found: np.ndarray, expected: np.ndarray, least: float = 0.0) -> float:
    """The largest difference, as a fraction of the largest absolute value or of ``least``; 0 where both are 0."""
    scale = max(np.abs(expected).max(), least, 1e-30)
    return float(np.abs(found - expected).max() / scale)
