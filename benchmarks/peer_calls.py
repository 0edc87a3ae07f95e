"""How the other libraries are asked for the methods that they have in common with ours.

Each function takes a `Case`, a method's name and its parameters, and returns a call without arguments that gives maps
``(n, height, width)``. It returns None where the library has no such method, and raises `Unfit` where it has one that
does not do the same on this network.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

import xaiutils as xai
from xaiutils.attribution import Network
from xaiutils.attribution.libraries import ADAPTERS
from xaiutils.attribution.libraries.tf_keras_vis import cam_of_library
from xaiutils.backend import keras, tf

GREY = 127.5
BATCH = 32  # images in one pass, for all
Call = Callable[[], Any]


class Unfit(Exception):
    """Why a library does not do the same on a network."""


@dataclass
class Case:
    """A model, the images, and the same network in PyTorch (None: not installed)."""

    model: keras.Model
    images: np.ndarray
    twin: Any
    network: Network = field(init=False)
    logits: keras.Model = field(init=False)

    def __post_init__(self) -> None:
        self.network = Network.of(self.model)
        self.logits = keras.Model(self.model.input, self.model.get_layer("logits").output)

    @property
    def relu_only(self) -> bool:
        """Whether every activation is a plain ReLU, as the rules of guided gradients and of captum's DeepLIFT ask."""
        return self.model.name == "resnet50"

    @property
    def tokens(self) -> bool:
        return self.twin is not None and self.twin.grid is not None

    @property
    def noise(self) -> float:
        """Sigma in pixels' units that ours has on average: 0.15 of an image's range."""
        return 0.15 * float(np.ptp(self.images, axis=(1, 2, 3)).mean())


def captum(case: Case, method: str, parameters: dict) -> Call | None:
    if case.twin is None:
        return None
    import torch
    from captum import attr
    from captum._utils.models.linear_model import SkLearnRidge
    from torch_twins import channels_first

    net, x, n = case.twin.network, channels_first(case.images), len(case.images)
    samples = parameters.get("n_samples")

    def summed(explainer: Any, **options: Any) -> Call:
        return lambda: explainer.attribute(x, target=0, **options).sum(1).detach().numpy()

    def noisy(kind: str) -> Call:
        tunnel = attr.NoiseTunnel(attr.Saliency(net))
        return summed(tunnel, nt_type=kind, nt_samples=samples, stdevs=case.noise, abs=False)

    def relu(explainer: Any) -> Call:
        if not case.relu_only:
            raise Unfit("its rules know only plain ReLUs")
        return summed(explainer(net))

    def grad_cam() -> Call:
        if case.tokens:
            raise Unfit("it averages over the axes behind the second, which are not a transformer's tokens")
        explainer = attr.LayerGradCam(net, case.twin.last)

        def call() -> np.ndarray:
            maps = explainer.attribute(x, target=0, relu_attributions=True)
            maps = attr.LayerAttribution.interpolate(maps, x.shape[2:], "bilinear")
            return maps[:, 0].detach().numpy()

        return call

    def occlusion() -> Call:
        window = (3, parameters["patch_size"], parameters["patch_size"])
        options = {"sliding_window_shapes": window, "strides": window, "baselines": GREY}
        return summed(attr.Occlusion(net), perturbations_per_eval=max(1, BATCH // n), **options)

    def lime() -> Call | None:
        if "fill" not in parameters:
            return None
        segments = torch.tensor(parameters["segments"])[None, None]
        # The authors' kernel and regression: captum's own Lasso sets all coefficients of a small logit to 0.
        explainer = attr.Lime(net, interpretable_model=SkLearnRidge(alpha=1.0), similarity_func=_lime_kernel)
        options = {"n_samples": samples, "baselines": GREY, "feature_mask": segments, "perturbations_per_eval": BATCH}
        return lambda: np.concatenate(
            [explainer.attribute(one, target=0, **options).mean(1).detach().numpy() for one in x.split(1)]
        )

    def vanilla() -> Call:
        explainer = attr.Saliency(net)
        return lambda: explainer.attribute(x, target=0).amax(1).numpy()

    greys = torch.linspace(0, 255, 16).reshape(-1, 1, 1, 1).expand(16, *x.shape[1:])
    path = {"n_steps": parameters.get("n_steps"), "method": "riemann_trapezoid", "internal_batch_size": BATCH}
    known: dict[str, Callable[[], Call | None]] = {
        "vanilla_gradients": vanilla,
        "gradients_x_inputs": lambda: summed(attr.InputXGradient(net)),
        "integrated_gradients": lambda: summed(attr.IntegratedGradients(net), **path),
        "expected_gradients": lambda: summed(attr.GradientShap(net), baselines=greys, n_samples=samples),
        "smoothgrad": lambda: noisy("smoothgrad"),
        "smoothgrad_squared": lambda: noisy("smoothgrad_sq"),
        "vargrad": lambda: noisy("vargrad"),
        "guided_backprop": lambda: relu(attr.GuidedBackprop),
        "deconvolution": lambda: relu(attr.Deconvolution),
        "deep_lift": lambda: relu(attr.DeepLift),
        "occlusion": occlusion,
        "grad_cam": grad_cam,
        "lime": lime,
    }
    return known[method]() if method in known else None


def _lime_kernel(image: Any, changed: Any, shown: Any, **_: Any) -> float:
    """The weight of a sample by the squares that it shows, as ours and the authors' package have it."""
    distance = 1 - float(shown.float().mean()) ** 0.5
    return float(np.sqrt(np.exp(-((distance / 0.25) ** 2))))


def pytorch_grad_cam(case: Case, method: str, parameters: dict) -> Call | None:
    if case.twin is None:
        return None
    import pytorch_grad_cam as library
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torch_twins import channels_first

    names = {
        "grad_cam": "GradCAM",
        "grad_cam_plus_plus": "GradCAMPlusPlus",
        "xgrad_cam": "XGradCAM",
        "hirescam": "HiResCAM",
        "layer_cam": "LayerCAM",
        "score_cam": "ScoreCAM",
        "ablation_cam": "AblationCAM",
        "full_grad": "FullGrad",
        "guided_backprop": "GuidedBackpropReLUModel",
    }
    if method not in names or parameters.get("weighting") == "authors":
        return None
    twin, x, explainer = case.twin, channels_first(case.images), getattr(library, names[method])
    if method == "guided_backprop":
        if not case.relu_only:
            raise Unfit("its rules know only plain ReLUs")
        guided = explainer(copy.deepcopy(twin.network))  # it exchanges the network's modules
        return lambda: np.stack([guided(one.clone(), 0).sum(-1) for one in x.split(1)])
    if method == "full_grad" and not case.relu_only:
        raise Unfit("it takes the biases of torch.nn.BatchNorm2d and Conv2d alone, which are not all of this network's")
    targets = [ClassifierOutputTarget(0)] * len(x)
    place = [] if method == "full_grad" else [twin.early if "layer" in parameters else twin.last]
    cam = explainer(twin.network, place, reshape_transform=twin.grid)
    cam.batch_size = BATCH
    return lambda: cam(x.clone(), targets)


def xplique(case: Case, method: str, parameters: dict) -> Call | None:
    if find_spec("xplique") is None:
        return None
    from xplique import attributions

    samples, patch = parameters.get("n_samples"), parameters.get("patch_size")
    noisy = {"nb_samples": samples, "noise": case.noise, "reducer": "sum"}
    windows = {"patch_size": patch, "patch_stride": patch, "occlusion_value": GREY}
    known: dict[str, tuple[str, dict]] = {
        "vanilla_gradients": ("Saliency", {"reducer": "max"}),
        "gradients_x_inputs": ("GradientInput", {"reducer": "sum"}),
        "integrated_gradients": ("IntegratedGradients", {"steps": parameters.get("n_steps"), "reducer": "sum"}),
        "smoothgrad": ("SmoothGrad", noisy),
        "smoothgrad_squared": ("SquareGrad", noisy),
        "vargrad": ("VarGrad", noisy),
        "guided_backprop": ("GuidedBackprop", {"reducer": "sum"}),
        "deconvolution": ("DeconvNet", {"reducer": "sum"}),
        "grad_cam": ("GradCAM", {"conv_layer": case.network.cam_layer()}),
        "grad_cam_plus_plus": ("GradCAMPP", {"conv_layer": case.network.cam_layer()}),
        "occlusion": ("Occlusion", windows),
        "rise": ("Rise", {"nb_samples": parameters.get("n_masks"), "mask_value": GREY}),
        "lime": ("Lime", {"nb_samples": samples, "ref_value": np.full(3, GREY, np.float32)}),
    }
    if method not in known:
        return None
    if method in ("guided_backprop", "deconvolution") and not case.relu_only:
        raise Unfit("its rules know only ReLUs")
    if method in ("grad_cam", "grad_cam_plus_plus") and case.tokens:
        raise Unfit("it reads feature maps (n, rows, columns, channels), not tokens")
    name, options = known[method]
    if method == "lime" and "fill" not in parameters:
        return None
    if method == "lime":
        segments = tf.constant(parameters["segments"], tf.int32)
        options["map_to_interpret_space"] = lambda image: segments
    model = case.logits
    if "conv_layer" in options:  # it exchanges the layer's call, whereupon ours would look at the network anew
        model = keras.models.clone_model(model)
        model.set_weights(case.logits.get_weights())
    explainer = getattr(attributions, name)(model, batch_size=BATCH, **options)
    one_hot = np.eye(case.logits.output_shape[-1], dtype=np.float32)[np.zeros(len(case.images), int)]
    return lambda: np.asarray(explainer(case.images, one_hot)).reshape(case.images.shape[:3])


def of_adapter(library: str) -> Callable[[Case, str, dict], Call | None]:
    """tf-explain, tf-keras-vis and lime, by the adapters of `xaiutils.explain`."""

    def calls(case: Case, method: str, parameters: dict) -> Call | None:
        if library == "tf-keras-vis" and method == "layer_cam":
            return lambda: _layer_cam(case)
        if library not in xai.METHODS[method].libraries or parameters.get("weighting") == "softmax":
            return None
        if library == "lime" and "fill" in parameters:  # it hides by mean colours
            return None
        own = {k: v for k, v in parameters.items() if k in ADAPTERS[library, method].parameters}
        return lambda: xai.explain(case.model, case.images, 0, method, library, **own)

    return calls


def _layer_cam(case: Case) -> np.ndarray:
    from tf_keras_vis.layercam import Layercam

    targets = np.zeros(len(case.images), np.int32)
    return cam_of_library(Layercam, case.network, case.images, targets, "")


def saliency(case: Case, method: str, parameters: dict) -> Call | None:
    """PAIR's package has no code for models of its own; it is given a compiled function."""
    import saliency.core as library

    if method == "occlusion":
        raise Unfit("it moves its window by one pixel, one pass at a time")
    if method == "grad_cam" and case.tokens:
        raise Unfit("it reads feature maps (n, rows, columns, channels), not tokens")
    kinds = ("vanilla_gradients", "integrated_gradients", "smoothgrad", "smoothgrad_squared", "grad_cam", "xrai")
    if method not in kinds:
        return None
    answer = _gradients(case) if method != "grad_cam" else _cam_gradients(case)
    steps, samples = parameters.get("n_steps"), parameters.get("n_samples")
    if method == "xrai":
        settings = library.XRAIParameters(steps=parameters["base_parameters"]["n_steps"])
        options: dict[str, Any] = {"extra_parameters": settings, "batch_size": BATCH}
        return lambda: np.stack([library.XRAI().GetMask(x, answer, None, **options) for x in _never_seen(case.images)])
    if method == "grad_cam":
        return lambda: np.stack([library.GradCam().GetMask(x, answer, None, three_dims=False) for x in case.images])
    if method == "integrated_gradients":
        explainer, options = library.IntegratedGradients(), {"x_steps": steps, "batch_size": BATCH}
        return lambda: np.stack([explainer.GetMask(x, answer, None, **options).sum(-1) for x in case.images])
    plain = library.GradientSaliency()
    if method == "vanilla_gradients":
        return lambda: np.stack([np.abs(plain.GetMask(x, answer)).max(-1) for x in case.images])
    options = {"nsamples": samples, "magnitude": method == "smoothgrad_squared"}
    return lambda: np.stack([plain.GetSmoothedMask(x, answer, None, **options).sum(-1) for x in case.images])


def _gradients(case: Case) -> Callable:
    import saliency.core as library

    @tf.function(input_signature=[tf.TensorSpec([None, *case.images.shape[1:]])])
    def gradients(x):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            score = case.logits(x)[:, 0]
        return tape.gradient(score, x)

    def answer(x: Any, call_model_args: Any = None, expected_keys: Any = None) -> dict:
        return {library.INPUT_OUTPUT_GRADIENTS: gradients(np.asarray(x, np.float32)).numpy()}

    return answer


def _cam_gradients(case: Case) -> Callable:
    import saliency.core as library

    layer = case.model.get_layer(case.network.cam_layer()).output
    until, behind = keras.Model(case.model.input, layer), keras.Model(layer, case.logits.output)

    @tf.function(input_signature=[tf.TensorSpec([None, *case.images.shape[1:]])])
    def gradients(x):
        A = until(x)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(A)
            score = behind(A)[:, 0]
        return A, tape.gradient(score, A)

    def answer(x: Any, call_model_args: Any = None, expected_keys: Any = None) -> dict:
        A, g = gradients(np.asarray(x, np.float32))
        return {library.CONVOLUTION_LAYER_VALUES: A.numpy(), library.CONVOLUTION_OUTPUT_GRADIENTS: g.numpy()}

    return answer


def ours(case: Case, method: str, parameters: dict) -> Call:
    if method == "xrai":
        return lambda: xai.explain(case.model, _never_seen(case.images), 0, method, **parameters)
    return lambda: xai.explain(case.model, case.images, 0, method, **parameters)


def _never_seen(images: np.ndarray) -> np.ndarray:
    """A little darker each time, so that no segmentation can be remembered."""
    return images * np.float32(np.random.default_rng().uniform(0.995, 1))


LIBRARIES: dict[str, Callable[[Case, str, dict], Call | None]] = {
    "captum": captum,
    "pytorch-grad-cam": pytorch_grad_cam,
    "xplique": xplique,
    "saliency": saliency,
    "tf-explain": of_adapter("tf-explain"),
    "tf-keras-vis": of_adapter("tf-keras-vis"),
    "lime": of_adapter("lime"),
}
