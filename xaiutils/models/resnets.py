"""ResNet-50 (He et al. 2016), ResNeXt-50 32x4d (Xie et al. 2017) and SK-ResNeXt-50 32x4d (Li et al. 2019), as
torchvision and timm have them.

Layers have the names of the modules there ("layer3.5.conv2"), so that a state dict fits by name, and the last layer of
a stage is called as the stage: "layer1" to "layer4". Padding is PyTorch's, alike on both sides.

`keras.applications.ResNet50` is another network than torchvision's: a stage's first stride is in the block's 1 x 1
convolution, not in the 3 x 3, its convolutions have biases, and it takes centred BGR. It is "resnet50" of
`build_model`; torchvision's is "resnet50_torch".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xaiutils.backend import keras
from xaiutils.models.grouped_convolution import GroupedConv2D
from xaiutils.models.npz_checkpoint import assign, check_arrays
from xaiutils.models.scaling import standardised
from xaiutils.models.torch_checkpoint import read_state_dict

layers = keras.layers

_MODULES = re.compile(r"(conv1|bn1|layer\d+)(\.|$)")


@dataclass(frozen=True)
class ResNet:
    """A network of bottleneck blocks.

    Attributes:
        paper: where it is from.
        groups, group_width: of a block's 3 x 3 convolution: planes * group_width / 64 channels in each group.
        selective: two such convolutions, of dilation 1 and 2, and a softmax that chooses between them for each channel.
        depths: number of blocks of each stage.
        planes: of each stage; its output has four times as many channels.
        stem: channels of the first convolution.
    """

    paper: str
    groups: int = 1
    group_width: int = 64
    selective: bool = False
    depths: tuple[int, ...] = (3, 4, 6, 3)
    planes: tuple[int, ...] = (64, 128, 256, 512)
    stem: int = 64


_MINI: dict[str, Any] = {"depths": (1, 1, 1, 1), "planes": (8, 16, 32, 64), "stem": 16}
RESNETS = {
    "resnet50_torch": ResNet("He et al. 2016, Deep residual learning for image recognition, arXiv:1512.03385"),
    "resnext50_32x4d": ResNet(
        "Xie et al. 2017, Aggregated residual transformations for deep neural networks, arXiv:1611.05431", 32, 4
    ),
    "skresnext50_32x4d": ResNet("Li et al. 2019, Selective kernel networks, arXiv:1903.06586", 32, 4, True),
    # The same blocks, one a stage, for notebooks that train them on a CPU; no pretrained weights exist.
    "resnet_mini": ResNet("a small one of He et al. 2016, arXiv:1512.03385", **_MINI),
    "resnext_mini": ResNet("a small one of Xie et al. 2017, arXiv:1611.05431", 4, 32, **_MINI),
    "skresnext_mini": ResNet("a small one of Li et al. 2019, arXiv:1903.06586", 4, 32, True, **_MINI),
}


def resnet_backbone(network: ResNet, size: tuple[int, int]) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Input tensor (images in [0, 255]) and feature map ``(n, height / 32, width / 32, 4 * planes[-1])``."""
    inputs = keras.Input((*size, 3), name="images")
    x = _conv_norm(standardised(inputs), network.stem, 7, "conv1", "bn1", strides=2)
    x = layers.ZeroPadding2D(1, name="maxpool.pad")(layers.ReLU(name="relu")(x))  # nothing is below 0
    x = layers.MaxPooling2D(3, 2, name="maxpool")(x)
    for stage, (depth, planes) in enumerate(zip(network.depths, network.planes, strict=True), 1):
        for number in range(depth):
            name = f"layer{stage}.{number}"
            strides = 2 if stage > 1 and number == 0 else 1
            last = f"layer{stage}" if number == depth - 1 else f"{name}.act"
            x = layers.ReLU(name=last)(_block(network, x, planes, strides, name))
    return inputs, x


def _he() -> keras.initializers.Initializer:
    """PyTorch's for these networks. A new one for each layer: its seed is drawn when it is made, and an initializer
    gives the same numbers to all layers of one shape that it serves."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def _conv_norm(x: Any, filters: int, kernel: int, conv: str, norm: str, strides: int = 1, **options: Any) -> Any:
    """A convolution without bias, padded by half its extent, and a batch norm."""
    if kernel > 1 and strides > 1:  # where "same" would pad one side more than the other
        x = layers.ZeroPadding2D(options.get("dilation_rate", 1) * (kernel // 2), name=f"{conv}.pad")(x)
    padding = "same" if strides == 1 else "valid"
    make = GroupedConv2D if options.get("groups", 1) > 1 else layers.Conv2D
    convolution = make(
        filters, kernel, strides, padding=padding, use_bias=False, kernel_initializer=_he(), name=conv, **options
    )
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=norm)(convolution(x))


def _block(network: ResNet, x: Any, planes: int, strides: int, name: str) -> Any:
    """A bottleneck's sum, before its ReLU."""
    width, out = planes * network.group_width // 64 * network.groups, 4 * planes
    names = [
        (f"{name}.conv{i}.conv", f"{name}.conv{i}.bn") if network.selective else (f"{name}.conv{i}", f"{name}.bn{i}")
        for i in (1, 2, 3)
    ]
    y = layers.ReLU(name=f"{name}.act1")(_conv_norm(x, width, 1, *names[0]))
    if network.selective:
        y = _selective_kernel(y, width, strides, network.groups, f"{name}.conv2")
    else:
        y = layers.ReLU(name=f"{name}.act2")(_conv_norm(y, width, 3, *names[1], strides, groups=network.groups))
    y = _conv_norm(y, out, 1, *names[2])
    if strides > 1 or x.shape[-1] != out:
        x = _conv_norm(x, out, 1, f"{name}.downsample.0", f"{name}.downsample.1", strides)
    return layers.Add(name=f"{name}.add")([y, x])


def _selective_kernel(x: Any, width: int, strides: int, groups: int, name: str) -> Any:
    """sum_p a_p U_p of two paths U, (a_1, a_2) = softmax over paths of what the mean of U_1 + U_2 over places gives."""
    paths = []
    for i in (0, 1):
        path = f"{name}.paths.{i}"
        y = _conv_norm(x, width, 3, f"{path}.conv", f"{path}.bn", strides, dilation_rate=i + 1, groups=groups)
        paths.append(layers.ReLU(name=f"{path}.act")(y))
    attn = f"{name}.attn"
    y = layers.GlobalAveragePooling2D(keepdims=True, name=f"{attn}.mean")(layers.Add(name=f"{attn}.sum")(paths))
    reduced = max(32, (width // 16 + 16) // 32 * 32)  # a sixteenth, to a multiple of 32: 32, 32, 32 and 64
    y = layers.ReLU(name=f"{attn}.act")(_conv_norm(y, reduced, 1, f"{attn}.fc_reduce", f"{attn}.bn"))
    y = layers.Conv2D(2 * width, 1, use_bias=False, kernel_initializer=_he(), name=f"{attn}.fc_select")(y)
    gates = layers.Softmax(axis=1, name=attn)(layers.Reshape((2, width), name=f"{attn}.paths")(y))
    chosen = []
    for i, path in enumerate(paths):
        gate = layers.Cropping1D((i, 1 - i), name=f"{attn}.{i}")(gates)
        gate = layers.Reshape((1, 1, width), name=f"{attn}.{i}.gate")(gate)
        chosen.append(layers.Multiply(name=f"{name}.{i}")([path, gate]))
    return layers.Add(name=name)(chosen)


def load_resnet(model: keras.Model, path: Path, with_head: bool = False) -> None:
    """Copy torchvision's or timm's weights into ``model``: a ``.pth`` or ``.safetensors`` file of the state dict.

    Its classes are copied too where ``model`` has a linear head of as many, and must be there if ``with_head``.
    ValueError for weights of another network."""
    arrays = {k: v for k, v in read_state_dict(path).items() if not k.endswith(".num_batches_tracked")}
    logits, shape = model.get_layer("logits"), getattr(arrays.get("fc.weight"), "shape", ())
    pooled = isinstance(model.get_layer("features"), layers.GlobalAveragePooling2D)
    with_head |= pooled and logits.input is model.get_layer("features").output and shape[::-1] == logits.kernel.shape
    expected = list(layout(model, with_head))
    shapes = {name: shape for name, _, shape in expected}
    hint = "Give the file of the same network of torchvision (resnet50, resnext50_32x4d) or timm."
    check_arrays(arrays, shapes, f"the weights in {path} and {model.name}", ("fc.weight", "fc.bias"), hint)
    values = {}
    for name, variable, _ in expected:
        array = arrays[name]  # PyTorch stores (out, in / groups, height, width)
        values[variable] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    assign(model, values)


def layout(model: keras.Model, with_head: bool = True) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """What the file holds for a model's backbone, and its classes: array's name, path of our variable, its shape in the
    file."""
    parts = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
    parts |= {"bias": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    for layer in model.layers:
        is_head = layer.name == "logits"
        if _MODULES.match(layer.name) or (is_head and with_head):
            for variable in layer.weights:
                shape = tuple(variable.shape)
                theirs = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
                part = parts[variable.path.split("/")[-1]]
                yield f"{'fc' if is_head else layer.name}.{part}", variable.path, theirs
