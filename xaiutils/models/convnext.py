"""ConvNeXt (Liu et al. 2022, A ConvNet for the 2020s, arXiv:2201.03545), with the weights of ``keras.applications``.

The same network as Keras', written as one flat graph of named layers: ``stem_conv``, ``stem_norm``, for every block
``stage1_block1_depthwise``, ``_norm``, ``_in``, ``_gelu``, ``_out``, ``_scale`` and ``_add``, between stages
``stage2_down_norm`` and ``stage2_down_conv``. The last sum of a stage is called as the stage: ``layer1`` to ``layer4``,
of strides 4, 8, 16 and 32, and the last of them is what class activation maps read. Behind the pooling stands a
LayerNorm, ``features``.

Keras' own has a convolution in as many groups as channels, whose gradient XLA makes on a CPU (see
`grouped_convolution`); `DepthwiseConv2D` computes the same with a fast one.
"""

from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.models.vit import LayerScale

layers = keras.layers

CONVNEXTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # blocks and channels of each stage
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext_large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "convnext_xlarge": ((3, 3, 27, 3), (256, 512, 1024, 2048)),
}


def _normal() -> keras.initializers.Initializer:
    """Section A.1's. A new one for each layer: one for all would give layers of one shape the same kernels, and other
    ones in every process whatever the seed."""
    return keras.initializers.TruncatedNormal(stddev=0.02)


def convnext(x: Any, depths: tuple[int, ...], widths: tuple[int, ...]) -> Any:
    """The last feature map, of stride 32, of standardised images."""
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
        if stage == 1:
            x = layers.Conv2D(width, 4, 4, kernel_initializer=_normal(), name="stem_conv")(x)
            x = layers.LayerNormalization(epsilon=1e-6, name="stem_norm")(x)
        else:
            x = layers.LayerNormalization(epsilon=1e-6, name=f"stage{stage}_down_norm")(x)
            x = layers.Conv2D(width, 2, 2, kernel_initializer=_normal(), name=f"stage{stage}_down_conv")(x)
        for number in range(1, depth + 1):
            x = _block(x, width, f"stage{stage}_block{number}", f"layer{stage}" if number == depth else "")
    return x


def _block(x: Any, width: int, name: str, last: str) -> Any:
    y = layers.DepthwiseConv2D(7, padding="same", depthwise_initializer=_normal(), name=f"{name}_depthwise")(x)
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm")(y)
    y = layers.Dense(4 * width, kernel_initializer=_normal(), name=f"{name}_in")(y)
    y = layers.Activation("gelu", name=f"{name}_gelu")(y)
    y = layers.Dense(width, kernel_initializer=_normal(), name=f"{name}_out")(y)
    y = LayerScale(1e-6, name=f"{name}_scale")(y)
    return layers.Add(name=last or f"{name}_add")([x, y])


def convnext_neck(pooled: Any) -> Any:
    """``features``: the LayerNorm between the pooling and the classes."""
    return layers.LayerNormalization(epsilon=1e-6, name="features")(pooled)


def copy_convnext(source: keras.Model, model: keras.Model) -> None:
    """Weights of ``keras.applications``' network; its last LayerNorm where ours has one, its classes where it has."""
    theirs = {layer.name.removeprefix(f"{source.name}_"): layer for layer in source.layers}
    parts = {"depthwise_conv": "depthwise", "layernorm": "norm", "pointwise_conv_1": "in"}
    parts |= {"pointwise_conv_2": "out", "layer_scale": "scale"}

    def put(name: str, weights: list[np.ndarray]) -> None:
        model.get_layer(name).set_weights(weights)

    def blocks(name: str) -> list[int]:
        return [int(part) for part in name.split("_")[1:4:2]]  # stage_0_block_2

    for name, layer in theirs.items():
        weights = layer.get_weights()
        if name == "stem":
            put("stem_conv", weights[:2])
            put("stem_norm", weights[2:])
        elif name.startswith("downsampling_block_"):
            stage = int(name.rsplit("_", 1)[1]) + 2
            put(f"stage{stage}_down_norm", weights[:2])
            put(f"stage{stage}_down_conv", weights[2:])
        elif name.startswith("stage_") and weights:
            stage, block = blocks(name)
            part = parts[name.split("_", 4)[4]]
            if part == "depthwise":
                weights[0] = weights[0].transpose(0, 1, 3, 2)
            put(f"stage{stage + 1}_block{block + 1}_{part}", weights)
        elif name == "head_dense":
            put("logits", weights)
    norm, ours = last_norm(source), model.get_layer("features")
    if isinstance(ours, layers.LayerNormalization):
        ours.set_weights(norm.get_weights())


def last_norm(source: keras.Model) -> keras.layers.Layer:
    """The last LayerNorm of ``keras.applications``' network: behind its pooling, or without one behind its map."""
    return [layer for layer in source.layers if isinstance(layer, layers.LayerNormalization)][-1]
