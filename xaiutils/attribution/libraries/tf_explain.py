"""Methods of tf-explain, one of the thesis' two libraries. It is imported when it is called."""

import numpy as np

from xaiutils.attribution.libraries.adapter import Adapter, each_image, numpy_seed, silent_predict
from xaiutils.attribution.libraries.flat_copy import cam_copy, flat_copy
from xaiutils.graph.network import Network
from xaiutils.graph.passes import enlarge, reduce_channels

_LIBRARY = "tf-explain"


def vanilla_gradients(network: Network, images: np.ndarray, targets: np.ndarray, *, reduction: str) -> np.ndarray:
    from tf_explain.core.vanilla_gradients import VanillaGradients

    model = flat_copy(network).logits
    found = [VanillaGradients.compute_gradients(x, model, t) for x, t in each_image(images, targets, _LIBRARY)]
    return reduce_channels(np.concatenate(found), reduction)


def gradients_x_inputs(network: Network, images: np.ndarray, targets: np.ndarray, *, reduction: str) -> np.ndarray:
    from tf_explain.core.gradients_inputs import GradientsInputs

    model = flat_copy(network).logits
    found = [GradientsInputs.compute_gradients(x, model, t) for x, t in each_image(images, targets, _LIBRARY)]
    return reduce_channels(np.concatenate(found), reduction)


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
    from tf_explain.core.smoothgrad import SmoothGrad

    model, found = flat_copy(network).probabilities, []
    with numpy_seed(seed):
        for x, t in each_image(images, targets, _LIBRARY):
            noisy = SmoothGrad.generate_noisy_images(x, n_samples, noise * float(np.ptp(x))).astype(np.float32)
            found.append(SmoothGrad.get_averaged_gradients(noisy, model, t, n_samples))
    return reduce_channels(np.concatenate(found), reduction)


def integrated_gradients(
    network: Network, images: np.ndarray, targets: np.ndarray, *, n_steps: int, reduction: str
) -> np.ndarray:
    from tf_explain.core.integrated_gradients import IntegratedGradients

    if n_steps < 2:
        raise ValueError("n_steps=1: tf-explain divides by n_steps - 1; give at least 2.")
    model, found = flat_copy(network).logits, []
    for x, t in each_image(images, targets, _LIBRARY):
        path = IntegratedGradients.generate_interpolations(x, n_steps).astype(np.float32)
        found.append(IntegratedGradients.get_integrated_gradients(path, model, t, n_steps))
    return reduce_channels(np.concatenate(found), reduction)


def occlusion(network: Network, images: np.ndarray, targets: np.ndarray, *, patch_size: int) -> np.ndarray:
    from tf_explain.core.occlusion_sensitivity import OcclusionSensitivity

    model, explainer = flat_copy(network).probabilities, OcclusionSensitivity(batch_size=32)
    with silent_predict():
        return np.stack(
            [
                explainer.get_sensitivity_map(model, x[0], t, patch_size)
                for x, t in each_image(images, targets, _LIBRARY)
            ]
        )


def grad_cam(network: Network, images: np.ndarray, targets: np.ndarray, *, layer: str) -> np.ndarray:
    from tf_explain.core.grad_cam import GradCAM

    copy, maps = cam_copy(network, layer), []
    for x, t in each_image(images, targets, _LIBRARY):
        A, g = GradCAM.get_gradients_and_filters(copy.logits, x, copy.cam_layer, t, use_guided_grads=False)
        maps.append(np.maximum(GradCAM.generate_ponderated_output(A, g)[0].numpy(), 0))
    return enlarge(np.stack(maps), *images.shape[1:3])


ADAPTERS = (
    Adapter(_LIBRARY, "vanilla_gradients", vanilla_gradients, ("reduction",)),
    Adapter(_LIBRARY, "gradients_x_inputs", gradients_x_inputs, ("reduction",)),
    Adapter(
        _LIBRARY,
        "smoothgrad",
        smoothgrad,
        ("n_samples", "noise", "reduction", "seed"),
        "differentiates the cross-entropy -log p of the target, not its logit; its own noise is absolute, so it is "
        "given noise times the image's range",
    ),
    Adapter(
        _LIBRARY,
        "integrated_gradients",
        integrated_gradients,
        ("n_steps", "reduction"),
        "the mean gradient on the path from black, without the factor (x - x'), so not complete; end points have full "
        "weight; by default the signed sum over channels is returned, the library shows its absolute value",
    ),
    Adapter(
        _LIBRARY,
        "occlusion",
        occlusion,
        ("patch_size",),
        "draws 1 - p(occluded), so p(image) is missing and all values are positive; windows side by side, grey 127.5; "
        "window values are interpolated bilinearly to the image, and to a grid of ceil(size / patch) that a last, cut "
        "window stretches",
    ),
    Adapter(
        _LIBRARY,
        "grad_cam",
        grad_cam,
        ("layer",),
        "its default multiplies the gradient by [A > 0][g > 0] (guided); called here without, as published; its "
        "missing ReLU is applied, and our bilinear resize",
    ),
)
