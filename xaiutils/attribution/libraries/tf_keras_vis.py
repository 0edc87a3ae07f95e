"""Methods of tf-keras-vis, one of the thesis' two libraries. It is imported when it is called."""

from typing import Any

import numpy as np

from xaiutils.attribution.libraries.adapter import Adapter, each_image, numpy_seed, silent_predict
from xaiutils.attribution.libraries.flat_copy import cam_copy, flat_copy
from xaiutils.backend import keras
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.passes import enlarge, reduce_channels

_LIBRARY = "tf-keras-vis"


def vanilla_gradients(network: Network, images: np.ndarray, targets: np.ndarray, *, reduction: str) -> np.ndarray:
    return reduce_channels(_saliency(network, images, targets), reduction)


def smoothgrad(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    *,
    n_samples: int,
    noise: float,
    reduction: str,
    seed: int,
) -> np.ndarray:
    with numpy_seed(seed):
        gradients = _saliency(network, images, targets, smooth_samples=n_samples, smooth_noise=noise)
    return reduce_channels(gradients, reduction)


def _saliency(network: Network, images: np.ndarray, targets: np.ndarray, **options: Any) -> np.ndarray:
    from tf_keras_vis.saliency import Saliency
    from tf_keras_vis.utils.scores import CategoricalScore

    explainer = Saliency(flat_copy(network).logits, clone=False)
    options = {"keepdims": True, "gradient_modifier": None, "normalize_map": False, **options}
    found = [explainer(CategoricalScore([t]), x, **options) for x, t in each_image(images, targets, _LIBRARY)]
    return np.concatenate([np.asarray(g) for g in found])


def grad_cam(network: Network, images: np.ndarray, targets: np.ndarray, *, layer: str) -> np.ndarray:
    from tf_keras_vis.gradcam import Gradcam

    return cam_of_library(Gradcam, network, images, targets, layer)


def grad_cam_plus_plus(network: Network, images: np.ndarray, targets: np.ndarray, *, layer: str) -> np.ndarray:
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus

    return cam_of_library(GradcamPlusPlus, network, images, targets, layer)


def score_cam(
    network: Network, images: np.ndarray, targets: np.ndarray, *, layer: str, max_channels: int
) -> np.ndarray:
    from tf_keras_vis.scorecam import Scorecam

    if network.activation in ("sigmoid", "score"):
        raise ModelError("tf-keras-vis' Score-CAM puts a softmax over the classes, which this model does not have.")
    scale = 0.5 if network.activation == "binary" else 1.0  # softmax(-z/2, z/2) = (1 - p, p)
    with silent_predict():
        return cam_of_library(Scorecam, network, images, targets, layer, scale, max_N=max_channels or None)


def cam_of_library(
    explainer_class: type,
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    layer: str,
    scale: float = 1.0,
    **options: Any,
) -> np.ndarray:
    """Maps ``(n, height, width)`` of one of the library's classes for class activation maps, of logits times
    ``scale``; ``options`` go to each of its calls."""
    from tf_keras_vis.utils.scores import CategoricalScore

    copy = cam_copy(network, layer)
    scores = copy.logits if scale == 1 else keras.Model(copy.logits.inputs, scale * copy.logits.output)
    explainer = explainer_class(scores, clone=False)
    options |= {"penultimate_layer": copy.cam_layer, "seek_penultimate_conv_layer": False}
    options |= {"expand_cam": False, "normalize_cam": False}
    maps = [explainer(CategoricalScore([t]), x, **options) for x, t in each_image(images, targets, _LIBRARY)]
    return enlarge(np.concatenate([np.asarray(m) for m in maps]), *images.shape[1:3])


ADAPTERS = (
    Adapter(_LIBRARY, "vanilla_gradients", vanilla_gradients, ("reduction",)),
    Adapter(
        _LIBRARY,
        "smoothgrad",
        smoothgrad,
        ("n_samples", "noise", "reduction", "seed"),
        "its default averages absolute gradients; called here without that modifier, which gives the published mean",
    ),
    Adapter(_LIBRARY, "grad_cam", grad_cam, ("layer",), "none; our bilinear resize in place of SciPy's zoom"),
    Adapter(
        _LIBRARY,
        "grad_cam_plus_plus",
        grad_cam_plus_plus,
        ("layer",),
        "divides alpha by its signed sum over the map, which can turn weights negative, and scales them by exp(S), "
        "which overflows for logits above 88",
    ),
    Adapter(
        _LIBRARY,
        "score_cam",
        score_cam,
        ("layer", "max_channels"),
        "weights are the softmax probability of the masked image without the black image's; it applies the softmax "
        "itself, so it is given logits (given probabilities, as in the thesis, it would apply it twice); masks are "
        "enlarged by SciPy's zoom",
    ),
)
