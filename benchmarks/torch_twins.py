"""Our networks in PyTorch, with the same weights: timm's modules, filled from a Keras model.

Needs torch, torchvision and timm. A twin takes images ``(n, 3, height, width)`` in [0, 255] and gives logits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import timm
import torch

from xaiutils.backend import keras

layers = keras.layers


@dataclass(frozen=True)
class Twin:
    """``network`` with the modules that class activation maps read.

    ``last`` is read by default, and ``early`` (in Keras ``early_layer``, "" where there is none) by methods of a pass
    for each channel. ``grid`` makes a feature map of a transformer's tokens.
    """

    network: torch.nn.Module
    last: torch.nn.Module
    early: torch.nn.Module | None
    early_layer: str
    grid: Callable[[torch.Tensor], torch.Tensor] | None = None


class Front(torch.nn.Module):
    """Scaling of the pixels, as the Keras model does it: channels in ``order``, times ``factor``, plus ``shift``."""

    def __init__(self, order: list[int], factor: np.ndarray, shift: np.ndarray):
        super().__init__()
        self.order = order
        self.register_buffer("factor", torch.tensor(factor, dtype=torch.float32).reshape(1, 3, 1, 1))
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32).reshape(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images if self.order == [0, 1, 2] else images[:, self.order]
        return images * self.factor + self.shift


def randomise(model: keras.Model, images: np.ndarray, seed: int) -> None:
    """Draw what initialisers leave alike, so that an exchange of two layers would be seen; batch norms take the moments
    of ``images``, without which a deep network of random weights would hardly react to its image."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape, name = weight.shape, weight.path.rsplit("/", 1)[-1]
        if name == "gamma":
            weight.assign(rng.uniform(0.7, 1.3, shape))
        elif name in ("beta", "bias", "token"):
            weight.assign(rng.normal(0, 0.1, shape))
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        model(images, training=True)


def twin(model: keras.Model, name: str) -> Twin:
    """The twin of `build_model`'s network ``name``."""
    n = model.output_shape[-1]
    if name == "resnet50":
        net = timm.create_model("resnet50", num_classes=n)
        for stage in (net.layer2, net.layer3, net.layer4):  # Keras has the first version: the 1x1 takes the stride
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
        _fill_by_name(net, model)
        places = net.layer4[-1], net.maxpool, "pool1_pool", None
    elif name in ("efficientnet_b0", "efficientnet_lite0"):
        net = timm.create_model(f"tf_{name}", num_classes=n)
        _fill_in_order(net, model)
        places = net.bn2, net.bn1, "stem_relu" if name == "efficientnet_lite0" else "stem_activation", None
    elif name == "vit_b32":
        gelu = partial(torch.nn.GELU, approximate="tanh")
        net = timm.create_model("vit_base_patch32_224", num_classes=n, act_layer=gelu)
        _fill_vit(net, model)
        places = net.blocks[-1].norm1, None, "", _grid
    else:
        raise ValueError(f"no twin of {name}")
    for module in net.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # hooks of captum and pytorch-grad-cam do not bear it
    return Twin(torch.nn.Sequential(_front(model), net).eval(), *places)


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32))


def _grid(tokens: torch.Tensor) -> torch.Tensor:
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side)


def _front(model: keras.Model) -> Front:
    """Found from what the first convolution reads of a black image and of three of one colour."""
    first = next(layer for layer in model.layers if isinstance(layer, layers.Conv2D))
    size = model.input_shape[1:]
    colours = np.broadcast_to(np.eye(4, 3, -1, dtype=np.float32)[:, None, None] * 255, (4, *size))
    seen = keras.Model(model.input, first.input)(colours).numpy()[:, size[0] // 2, size[1] // 2]
    slopes = (seen[1:] - seen[0]) / 255  # (channel of the image, channel that the network sees)
    order = [int(k) for k in np.abs(slopes).argmax(axis=0)]
    return Front(order, slopes[order, range(3)], seen[0])


def _arrays(layer: keras.Layer) -> dict[str, np.ndarray]:
    """A layer's weights as PyTorch names and lays them out."""
    found = [w.numpy() for w in layer.weights]
    if isinstance(layer, layers.BatchNormalization):
        return dict(zip(("weight", "bias", "running_mean", "running_var"), found, strict=True))
    if isinstance(layer, layers.DepthwiseConv2D):
        found[0] = found[0].transpose(2, 3, 0, 1)
    elif isinstance(layer, layers.Conv2D):
        found[0] = found[0].transpose(3, 2, 0, 1)
    elif isinstance(layer, layers.Dense):
        found[0] = found[0].T
    return dict(zip(("weight", "bias"), found, strict=False))


def _set(module: Any, arrays: dict[str, np.ndarray], epsilon: float | None = None) -> None:
    for name, array in arrays.items():
        tensor = getattr(module, name)
        if tensor is None or tuple(tensor.shape) != array.shape:
            raise ValueError(f"{name} of {module} does not take {array.shape}")
        with torch.no_grad():
            tensor.copy_(torch.tensor(array))
    if epsilon is not None:
        module.eps = epsilon


def _fill_in_order(net: torch.nn.Module, model: keras.Model) -> None:
    """Both define their layers in the order in which they are run."""
    kinds = layers.Conv2D, layers.DepthwiseConv2D, layers.BatchNormalization, layers.Dense
    ours = [layer for layer in model.layers if isinstance(layer, kinds)]
    wanted = torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Linear
    for layer, module in zip(ours, (m for m in net.modules() if isinstance(m, wanted)), strict=True):
        _set(module, _arrays(layer), getattr(layer, "epsilon", None))


def _fill_by_name(net: torch.nn.Module, model: keras.Model) -> None:
    """ResNet-50: Keras' convolutions have a bias, which goes into the mean of the batch norm behind."""
    biases: dict[str, np.ndarray] = {}
    for layer in model.layers:
        if not isinstance(layer, layers.Conv2D | layers.BatchNormalization):
            continue
        *block, number, kind = layer.name.split("_")
        if len(block) == 2:
            stage, part = (int(x.removeprefix(p)) for x, p in zip(block, ("conv", "block"), strict=True))
            of = net.get_submodule(f"layer{stage - 1}")[part - 1]
            pair = of.downsample if number == "0" else (getattr(of, f"conv{number}"), getattr(of, f"bn{number}"))
        else:
            pair, number = (net.conv1, net.bn1), ""
        arrays, key = _arrays(layer), "_".join([*block, number])
        if kind == "conv":
            biases[key] = arrays.pop("bias")
            _set(pair[0], arrays)
        else:
            arrays["running_mean"] = arrays["running_mean"] - biases[key]
            _set(pair[1], arrays, layer.epsilon)
    _set(net.fc, _arrays(model.get_layer("logits")))


def _fill_vit(net: torch.nn.Module, model: keras.Model) -> None:
    get = model.get_layer
    _set(net.patch_embed.proj, _arrays(get("patches")))
    with torch.no_grad():
        net.cls_token.copy_(torch.tensor(get("class_token").token.numpy()))
        net.pos_embed.copy_(torch.tensor(get("positions").positions.numpy()))
    for i, block in enumerate(net.blocks):
        name = f"block_{i:02d}"
        for norm in ("norm1", "norm2"):
            _set_norm(getattr(block, norm), get(f"{name}_{norm}"))
        attention = get(f"{name}_attention")
        parts = [_arrays(getattr(attention, part)) for part in ("query", "key", "value")]
        _set(block.attn.qkv, {key: np.concatenate([part[key] for part in parts]) for key in ("weight", "bias")})
        _set(block.attn.proj, _arrays(attention.out))
        _set(block.mlp.fc1, _arrays(get(f"{name}_mlp_in")))
        _set(block.mlp.fc2, _arrays(get(f"{name}_mlp_out")))
    _set_norm(net.norm, get("norm"))
    _set(net.head, _arrays(get("logits")))


def _set_norm(module: torch.nn.Module, layer: keras.Layer) -> None:
    _set(module, dict(zip(("weight", "bias"), (w.numpy() for w in layer.weights), strict=True)), layer.epsilon)
