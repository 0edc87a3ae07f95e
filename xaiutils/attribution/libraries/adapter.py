"""The thesis' libraries, tf-explain and tf-keras-vis, and others, behind `xaiutils.attribution.explain`.

They follow layers by name in flat functional models, so they are given a flat copy of the model that ends in its
logits, with a transformer's patch tokens laid out as a feature map. Their raw values are returned, before the
normalising, colouring and tiling that they do for display.
"""

import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.passes import enlarge, reduce_channels
from xaiutils.progress import progress

_GRID = "xai_grid"
# Keras layers that change nothing in inference, but are active where a library calls the model without saying so.
_AUGMENTATION = frozenset(
    name for name in dir(keras.layers) if name.startswith("Random") and name not in ("RandomCrop",)
) | {"AugMix", "AutoContrast", "CutMix", "MixUp", "RandAugment"}


@dataclass(frozen=True)
class Adapter:
    """A method of a library: which of our parameters it takes, and where it leaves the published formula."""

    compute: Callable[..., np.ndarray]
    parameters: tuple[str, ...]
    deviation: str


ADAPTERS: dict[tuple[str, str], Adapter] = {}


def _adapter(library: str, method: str, parameters: tuple[str, ...] = (), deviation: str = "none"):
    def register(compute):
        ADAPTERS[library, method] = Adapter(compute, parameters, deviation)
        return compute

    return register


def sources(method: str) -> tuple[str, ...]:
    """All installed libraries that compute ``method``, our own first."""
    return ("xaiutils", *(library for library, name in ADAPTERS if name == method and _is_installed(library)))


@functools.cache
def _is_installed(library: str) -> bool:
    return importlib.util.find_spec(library.replace("-", "_")) is not None


# The flat copy ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FlatCopy:
    """Flat functional models from images to logits and to probabilities, and the name of their CAM layer."""

    logits: keras.Model
    probabilities: keras.Model
    cam_layer: str
    pairs: tuple[tuple[keras.Layer, keras.Layer], ...]


def flat_copy(network: Network, layer: str = "") -> FlatCopy:
    """The copy for a CAM layer, kept with the network; its weights are brought up to date at each call."""
    path = _cam_layer_or_none(network, layer)
    copy = network.compiled(("flat copy", path), lambda: _build_copy(network, path))
    for original, clone in copy.pairs:
        clone.set_weights(original.get_weights())
        if hasattr(clone, "finalize_state"):  # a Normalization layer reads its statistics from its weights here only
            clone.finalize_state()
    size = [n or 96 for n in network.image_size]
    noise = np.random.default_rng(0).uniform(0, 255, (1, *size, 3)).astype(np.float32)
    expected, found = network.logits(tf.constant(noise)).numpy(), copy.logits(noise, training=False).numpy()
    if not np.allclose(found, expected, rtol=1e-2, atol=1e-3 + 1e-3 * np.abs(expected).max()):
        raise ModelError("the copy of the model that a library needs does not give its logits; use library='xaiutils'.")
    return copy


def _cam_copy(network: Network, layer: str) -> FlatCopy:
    path = network.cam_layer(layer)  # raises where the model has no such layer
    field = network.field(path)
    if not field.stretched.covers(field.grid, network.size_traced) or not field.is_plain:
        raise ModelError(
            f"libraries stretch the map of a layer over the whole image and read it as rows, columns, channels; layer "
            f"{path!r} lies elsewhere or is stored otherwise. Use library='xaiutils'."
        )
    return flat_copy(network, path)


def _cam_layer_or_none(network: Network, layer: str) -> str | None:
    try:
        return network.cam_layer(layer)
    except ModelError:
        if layer:
            raise
        return None


def _build_copy(network: Network, path: str | None) -> FlatCopy:
    inputs = keras.Input((*network.image_size, 3))
    tensors, clones, name = {network.input_key: inputs}, {}, ""
    for step in network.steps:
        if not network.leads_to_logits(step):
            continue
        operation = step.operation
        if isinstance(operation, keras.Layer):
            operation = clones.get(id(operation)) or _clone(operation, step.path, network.is_head(step))
            clones[id(step.operation)] = operation
        if type(operation).__name__ in _AUGMENTATION:
            outputs = [tensors[key] for key in step.reads]
        else:
            outputs = step.call(operation, tensors)
        if step.path == path:
            name = operation.name
            if len(outputs[0].shape) == 3:
                outputs[0], name = _through_grid(outputs[0], *network.grid(path)), _GRID
        tensors.update(zip(step.outputs, outputs, strict=True))
    logits = tensors[network.logits_key]
    if network.activation == "binary":
        logits = keras.layers.Concatenate()([keras.layers.Rescaling(-1.0)(logits), logits])
    pairs = {
        id(s.operation): (s.operation, clones[id(s.operation)]) for s in network.steps if id(s.operation) in clones
    }
    # (-z, z) of one unit: (1 - p, p). Times 1, since Keras' cross-entropy looks through a sigmoid to its logits.
    softmax = network.activation == "softmax"
    probabilities = keras.layers.Softmax()(logits) if softmax else 1.0 * keras.ops.sigmoid(logits)
    return FlatCopy(keras.Model(inputs, logits), keras.Model(inputs, probabilities), name, tuple(pairs.values()))


def _clone(layer: keras.Layer, path: str, without_activation: bool) -> keras.Layer:
    try:
        config = {**layer.get_config(), "name": path.replace("/", "__").replace("#", "_")}
        if without_activation:
            config["activation"] = "linear"
        return type(layer).from_config(config)
    except Exception as error:  # whatever a user's layer raises
        if not layer.weights:  # a Lambda, say: it can serve in both models
            return layer
        raise ModelError(f"layer {path!r} ({type(layer).__name__}) cannot be copied for a library: {error}") from error


def _through_grid(tokens, rows: int, columns: int):
    """The same tokens, their patches passing through a feature map named ``xai_grid``."""
    leading, width = tokens.shape[1] - rows * columns, tokens.shape[2]
    patches = keras.layers.Cropping1D((leading, 0))(tokens) if leading else tokens
    grid = keras.layers.Reshape((rows, columns, width), name=_GRID)(patches)
    patches = keras.layers.Reshape((rows * columns, width))(grid)
    if not leading:
        return patches
    return keras.layers.Concatenate(axis=1)([keras.layers.Cropping1D((0, rows * columns))(tokens), patches])


def _each(images: np.ndarray, targets: np.ndarray, title: str) -> Iterator[tuple[np.ndarray, int]]:
    """One-image batches with their target: the libraries take one class at a time and do not bound their memory."""
    with warnings.catch_warnings():  # they pass [images] to models of one input, of which Keras warns each time
        warnings.filterwarnings("ignore", message="The structure of `inputs`")
        for image, target in progress(zip(images, targets, strict=True), total=len(images), title=title):
            yield image[None], int(target)


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """The libraries draw from NumPy's global generator; its state is put back."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


# tf-explain -------------------------------------------------------------------------------------------------------


@_adapter("tf-explain", "vanilla_gradients", ("reduction",))
def _(network, images, targets, *, reduction):
    from tf_explain.core.vanilla_gradients import VanillaGradients

    copy = flat_copy(network).logits
    gradients = [
        VanillaGradients.compute_gradients(x, copy, t).numpy() for x, t in _each(images, targets, "tf-explain")
    ]
    return reduce_channels(np.concatenate(gradients), reduction)


@_adapter("tf-explain", "gradients_x_inputs", ("reduction",))
def _(network, images, targets, *, reduction):
    from tf_explain.core.gradients_inputs import GradientsInputs

    copy = flat_copy(network).logits
    products = [GradientsInputs.compute_gradients(x, copy, t).numpy() for x, t in _each(images, targets, "tf-explain")]
    return reduce_channels(np.concatenate(products), reduction)


@_adapter(
    "tf-explain",
    "smoothgrad",
    ("n_samples", "noise", "reduction", "seed"),
    "differentiates the cross-entropy -log p of the target, not its logit; its own noise is absolute, so it is given "
    "noise times the image's range",
)
def _(network, images, targets, *, n_samples, noise, reduction, seed):
    from tf_explain.core.smoothgrad import SmoothGrad

    probabilities = flat_copy(network).probabilities
    gradients = []
    with _numpy_seed(seed):
        for x, t in _each(images, targets, "tf-explain"):
            noisy = SmoothGrad.generate_noisy_images(x, n_samples, noise * float(np.ptp(x))).astype(np.float32)
            gradients.append(SmoothGrad.get_averaged_gradients(noisy, probabilities, t, n_samples).numpy())
    return reduce_channels(np.concatenate(gradients), reduction)


@_adapter(
    "tf-explain",
    "integrated_gradients",
    ("n_steps", "reduction"),
    "the mean gradient on the path from black, without the factor (x - x'), so not complete; end points have full "
    "weight; by default the signed sum over channels is returned, the library shows its absolute value",
)
def _(network, images, targets, *, n_steps, reduction):
    from tf_explain.core.integrated_gradients import IntegratedGradients

    if n_steps < 2:
        raise ValueError("n_steps=1: tf-explain divides by n_steps - 1; give at least 2.")
    copy = flat_copy(network).logits
    gradients = []
    for x, t in _each(images, targets, "tf-explain"):
        path = IntegratedGradients.generate_interpolations(x, n_steps).astype(np.float32)
        gradients.append(IntegratedGradients.get_integrated_gradients(path, copy, t, n_steps).numpy())
    return reduce_channels(np.concatenate(gradients), reduction)


@_adapter(
    "tf-explain",
    "occlusion",
    ("patch_size",),
    "draws 1 - p(occluded), so p(image) is missing and all values are positive; windows side by side, grey 127.5; "
    "window values are interpolated bilinearly to the image, and to a grid of ceil(size / patch) that a last, cut "
    "window stretches",
)
def _(network, images, targets, *, patch_size):
    from tf_explain.core.occlusion_sensitivity import OcclusionSensitivity

    probabilities = flat_copy(network).probabilities
    explainer = OcclusionSensitivity(batch_size=32)
    with _silent_predict():
        maps = [
            explainer.get_sensitivity_map(probabilities, x[0], t, patch_size)
            for x, t in _each(images, targets, "tf-explain")
        ]
    return np.stack(maps)


@_adapter(
    "tf-explain",
    "grad_cam",
    ("layer",),
    "its default multiplies the gradient by [A > 0][g > 0] (guided); called here without, as published; its missing "
    "ReLU is applied, and our bilinear resize",
)
def _(network, images, targets, *, layer):
    from tf_explain.core.grad_cam import GradCAM

    copy = _cam_copy(network, layer)
    maps = []
    for x, t in _each(images, targets, "tf-explain"):
        A, g = GradCAM.get_gradients_and_filters(copy.logits, x, copy.cam_layer, t, use_guided_grads=False)
        maps.append(np.maximum(GradCAM.generate_ponderated_output(A, g)[0].numpy(), 0))
    return enlarge(np.stack(maps), *images.shape[1:3])


# tf-keras-vis -----------------------------------------------------------------------------------------------------


def _score(target: int):
    from tf_keras_vis.utils.scores import CategoricalScore

    return CategoricalScore([target])


@_adapter(
    "tf-keras-vis",
    "vanilla_gradients",
    ("reduction",),
)
def _(network, images, targets, *, reduction):
    return reduce_channels(_saliency(network, images, targets), reduction)


@_adapter(
    "tf-keras-vis",
    "smoothgrad",
    ("n_samples", "noise", "reduction", "seed"),
    "its default averages absolute gradients; called here without that modifier, which gives the published mean",
)
def _(network, images, targets, *, n_samples, noise, reduction, seed):
    with _numpy_seed(seed):
        gradients = _saliency(network, images, targets, smooth_samples=n_samples, smooth_noise=noise)
    return reduce_channels(gradients, reduction)


def _saliency(network, images, targets, **options) -> np.ndarray:
    from tf_keras_vis.saliency import Saliency

    explainer = Saliency(flat_copy(network).logits, clone=False)
    found = [
        explainer(_score(t), x, keepdims=True, gradient_modifier=None, normalize_map=False, **options)
        for x, t in _each(images, targets, "tf-keras-vis")
    ]
    return np.concatenate([np.asarray(g) for g in found])


def _keras_vis_cam(explainer_class, network, images, targets, layer, scale=1.0, **options) -> np.ndarray:
    copy = _cam_copy(network, layer)
    scores = copy.logits if scale == 1 else keras.Model(copy.logits.inputs, scale * copy.logits.output)
    explainer = explainer_class(scores, clone=False)
    maps = [
        explainer(
            _score(t),
            x,
            penultimate_layer=copy.cam_layer,
            seek_penultimate_conv_layer=False,
            expand_cam=False,
            normalize_cam=False,
            **options,
        )
        for x, t in _each(images, targets, "tf-keras-vis")
    ]
    return enlarge(np.concatenate([np.asarray(m) for m in maps]), *images.shape[1:3])


@_adapter("tf-keras-vis", "grad_cam", ("layer",), "none; our bilinear resize in place of SciPy's zoom")
def _(network, images, targets, *, layer):
    from tf_keras_vis.gradcam import Gradcam

    return _keras_vis_cam(Gradcam, network, images, targets, layer)


@_adapter(
    "tf-keras-vis",
    "grad_cam_plus_plus",
    ("layer",),
    "divides alpha by its signed sum over the map, which can turn weights negative, and scales them by exp(S), which "
    "overflows for logits above 88",
)
def _(network, images, targets, *, layer):
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus

    return _keras_vis_cam(GradcamPlusPlus, network, images, targets, layer)


@_adapter(
    "tf-keras-vis",
    "score_cam",
    ("layer", "max_channels"),
    "weights are the softmax probability of the masked image without the black image's; it applies the softmax "
    "itself, so it is given logits (given probabilities, as in the thesis, it would apply it twice); masks are "
    "enlarged by SciPy's zoom",
)
def _(network, images, targets, *, layer, max_channels):
    from tf_keras_vis.scorecam import Scorecam

    if network.activation == "sigmoid":
        raise ModelError("tf-keras-vis' Score-CAM puts a softmax over the classes, which this model does not have.")
    scale = 0.5 if network.activation == "binary" else 1.0  # softmax(-z/2, z/2) = (1 - p, p)
    with _silent_predict():
        return _keras_vis_cam(Scorecam, network, images, targets, layer, scale, max_N=max_channels or None)


@_adapter(
    "lime",
    "lime",
    ("n_samples", "segmentation", "n_segments", "segments", "kernel_width", "seed"),
    "its own random draws; probability, alpha 1 and superpixel means are fixed",
)
def _(network, images, targets, **chosen):
    from xaiutils.attribution.lime import lime_of_package

    return lime_of_package(network, images, targets, **chosen)


@contextmanager
def _silent_predict() -> Iterator[None]:
    """Keras' predict draws a progress bar unless interactive logging is off; the setting is put back."""
    interactive = keras.config.is_interactive_logging_enabled()
    keras.config.disable_interactive_logging()
    try:
        yield
    finally:
        if interactive:
            keras.config.enable_interactive_logging()
