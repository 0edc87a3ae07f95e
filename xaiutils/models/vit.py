"""Vision Transformers whose attention probabilities can be read and differentiated (Dosovitskiy et al. 2021).

Plain, named Keras layers: ``scale`` (DINOv2: ``standardise``), ``patches``, ``tokens``, ``class_token``,
``positions``, then for every block ``block_00_norm1``, ``block_00_attention`` (returns tokens and probabilities),
``block_00_add1``, ``block_00_norm2``, ``block_00_mlp_in``, ``block_00_gelu``, ``block_00_mlp_out``,
``block_00_add2``, and at the end ``norm``. With LayerScale, ``block_00_scale1`` and ``block_00_scale2`` stand before
the additions. Tokens that are no patches come first: the class token, then the distillation token of DeiT
(``distillation_token``, which has a row of the position table) or the registers (``registers``, which have none).

Flax's ``gelu`` is the tanh approximation unless told otherwise, and Google's code does not tell it otherwise; so the
models with Google's weights use it. It differs from the exact function by less than 5e-4.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.models import scaling

layers, ops = keras.layers, keras.ops


@dataclass(frozen=True)
class ViTConfig:
    """Sizes and variants of a Vision Transformer.

    ``stem`` > 0 replaces the patch projection by that many stride-2 convolutions and a 1x1 projection (Xiao et al.
    2021, "Early convolutions help transformers see better"). ``gelu`` is "exact" or "tanh" (its approximation).
    ``layer_scale`` multiplies each branch by a learned vector before it is added (Touvron et al. 2021, "Going deeper
    with image transformers"). ``scaling`` is "symmetric", "standardised" or "chest_xray", see `scaling`. ``registers``:
    learned tokens behind the class token, which no head reads (Darcet et al. 2024, "Vision transformers need
    registers"). ``distilled``: a second class token, which the head reads too (Touvron et al. 2021, "Training
    data-efficient image transformers & distillation through attention"). ``rotary``: > 0 turns queries and keys by
    their patches' places in place of the position table, see `SelfAttention`.
    """

    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_ratio: int = 4
    stem: int = 0
    epsilon: float = 1e-6
    gelu: str = "exact"
    layer_scale: bool = False
    scaling: str = "symmetric"
    registers: int = 0
    distilled: bool = False
    rotary: float = 0.0

    @property
    def prefix(self) -> int:
        """How many tokens come before the patches."""
        return 1 + self.distilled + self.registers


def _google(patch_size: int, width: int, depth: int, heads: int) -> ViTConfig:
    return ViTConfig(patch_size, width, depth, heads, gelu="tanh")


def _deit(width: int, heads: int, distilled: bool = False) -> ViTConfig:
    return ViTConfig(16, width, 12, heads, scaling="standardised", distilled=distilled)


def _dinov2(width: int, depth: int, heads: int, registers: int = 0, scaling: str = "standardised") -> ViTConfig:
    return ViTConfig(14, width, depth, heads, layer_scale=True, scaling=scaling, registers=registers)


def _dinov3(width: int, depth: int, heads: int) -> ViTConfig:
    more: dict[str, Any] = {"epsilon": 1e-5, "layer_scale": True, "scaling": "standardised"}
    return ViTConfig(16, width, depth, heads, registers=4, rotary=100.0, **more)


CONFIGS = {
    # Small enough to be trained in the notebooks; no pretrained weights exist.
    "vit_mini16": ViTConfig(patch_size=16, width=96, depth=4, heads=4, mlp_ratio=2, stem=4),
    # The sizes of Dosovitskiy et al. and of Steiner et al. 2021; `augreg` reads their weights.
    "vit_ti16": _google(16, 192, 12, 3),
    "vit_s16": _google(16, 384, 12, 6),
    "vit_s32": _google(32, 384, 12, 6),
    "vit_b16": _google(16, 768, 12, 12),
    "vit_b32": _google(32, 768, 12, 12),
    "vit_l16": _google(16, 1024, 24, 16),
    # Files of others: `vit_state_dict` reads them. Touvron et al. 2021.
    "deit_ti16": _deit(192, 3),
    "deit_s16": _deit(384, 6),
    "deit_b16": _deit(768, 12),
    "deit_ti16_distilled": _deit(192, 3, distilled=True),
    "deit_s16_distilled": _deit(384, 6, distilled=True),
    "deit_b16_distilled": _deit(768, 12, distilled=True),
    # Oquab et al. 2023; Darcet et al. 2024.
    "dinov2_vits14": _dinov2(384, 12, 6),
    "dinov2_vitb14": _dinov2(768, 12, 12),
    "dinov2_vitl14": _dinov2(1024, 24, 16),
    "dinov2_vits14_reg": _dinov2(384, 12, 6, registers=4),
    "dinov2_vitb14_reg": _dinov2(768, 12, 12, registers=4),
    "dinov2_vitl14_reg": _dinov2(1024, 24, 16, registers=4),
    # Perez-Garcia et al. 2025: DINOv2, trained further on chest X-rays.
    "rad_dino": _dinov2(768, 12, 12, scaling="chest_xray"),
    # Simeoni et al. 2025; a period's base of 100, and four registers.
    "dinov3_vits16": _dinov3(384, 12, 6),
    "dinov3_vitb16": _dinov3(768, 12, 12),
    "dinov3_vitl16": _dinov3(1024, 24, 16),
}


def vit_backbone(config: ViTConfig, image_size: int) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Input tensor (images in [0, 255]) and token tensor ``(n, prefix + grid * grid, width)`` after the last norm.

    ``grid`` is ``image_size / patch_size``, ``prefix`` that of ``config``. Raises ValueError for an
    ``image_size`` that the patches do not divide.
    """
    if image_size % config.patch_size:
        raise ValueError(
            f"image_size={image_size} is not a multiple of the patch size {config.patch_size}; "
            f"use {max(1, round(image_size / config.patch_size)) * config.patch_size}."
        )
    inputs = keras.Input((image_size, image_size, 3), name="images")
    x = getattr(scaling, config.scaling)(inputs)
    for i in range(config.stem):
        filters = config.width // 2 ** (config.stem - 1 - i)
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False, name=f"stem_{i}_conv")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"stem_{i}_norm")(x)
        x = layers.Activation("relu", name=f"stem_{i}_relu")(x)
    step = config.patch_size // 2**config.stem
    x = layers.Conv2D(config.width, step, strides=step, name="patches")(x)
    x = layers.Reshape((-1, config.width), name="tokens")(x)
    if config.distilled:
        x = ClassToken(name="distillation_token")(x)
    x = ClassToken(name="class_token")(x)
    if not config.rotary:
        x = PositionEmbedding(name="positions")(x)
    if config.registers:
        x = Registers(config.registers, name="registers")(x)
    for i in range(config.depth):
        x = _block(x, config, f"block_{i:02d}")
    return inputs, layers.LayerNormalization(epsilon=config.epsilon, name="norm")(x)


def _block(x: Any, config: ViTConfig, name: str) -> Any:
    y = layers.LayerNormalization(epsilon=config.epsilon, name=f"{name}_norm1")(x)
    y, _ = SelfAttention(config.heads, config.rotary, config.prefix, name=f"{name}_attention")(y)
    y = LayerScale(name=f"{name}_scale1")(y) if config.layer_scale else y
    x = layers.Add(name=f"{name}_add1")([x, y])
    y = layers.LayerNormalization(epsilon=config.epsilon, name=f"{name}_norm2")(x)
    y = layers.Dense(config.width * config.mlp_ratio, name=f"{name}_mlp_in")(y)
    y = layers.Activation({"exact": "gelu", "tanh": gelu_tanh}[config.gelu], name=f"{name}_gelu")(y)
    y = layers.Dense(config.width, name=f"{name}_mlp_out")(y)
    y = LayerScale(name=f"{name}_scale2")(y) if config.layer_scale else y
    return layers.Add(name=f"{name}_add2")([x, y])


@keras.saving.register_keras_serializable("xaiutils")
def gelu_tanh(x: Any) -> Any:
    """GELU by its tanh approximation (Hendrycks & Gimpel 2016)."""
    return keras.activations.gelu(x, approximate=True)


@keras.saving.register_keras_serializable("xaiutils")
class LayerScale(keras.layers.Layer):
    """Multiplies every token's (or place's) values by one learned vector ``(width,)``, at first of ``start``."""

    def __init__(self, start: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.start = start

    def build(self, input_shape: tuple[int, ...]) -> None:
        first = keras.initializers.Constant(self.start)
        self.factors = self.add_weight(shape=(input_shape[-1],), initializer=first, name="factors")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "start": self.start}

    def call(self, x: Any) -> Any:
        return x * self.factors

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return input_shape


@keras.saving.register_keras_serializable("xaiutils")
class ClassToken(keras.layers.Layer):
    """Prepends one learned token: ``(n, tokens, width)`` to ``(n, 1 + tokens, width)``."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        self.token = self.add_weight(shape=(1, 1, input_shape[-1]), initializer="zeros", name="token")

    def call(self, x: Any) -> Any:
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], axis=1)

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (input_shape[0], input_shape[1] + 1, input_shape[2])


@keras.saving.register_keras_serializable("xaiutils")
class Registers(keras.layers.Layer):
    """Puts learned tokens behind the first one: ``(n, tokens, width)`` to ``(n, tokens + number, width)``."""

    def __init__(self, number: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.number = number

    def build(self, input_shape: tuple[int, ...]) -> None:
        normal = keras.initializers.TruncatedNormal(stddev=0.02)
        self.tokens = self.add_weight(shape=(1, self.number, input_shape[-1]), initializer=normal, name="tokens")

    def call(self, x: Any) -> Any:
        tokens = ops.broadcast_to(self.tokens, (ops.shape(x)[0], self.number, x.shape[-1]))
        return ops.concatenate([x[:, :1], tokens, x[:, 1:]], axis=1)

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (input_shape[0], input_shape[1] + self.number, input_shape[2])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "number": self.number}


@keras.saving.register_keras_serializable("xaiutils")
class PositionEmbedding(keras.layers.Layer):
    """Adds one learned vector to every token."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        normal = keras.initializers.TruncatedNormal(stddev=0.02)
        self.positions = self.add_weight(shape=(1, *input_shape[1:]), initializer=normal, name="positions")

    def call(self, x: Any) -> Any:
        return x + self.positions


@keras.saving.register_keras_serializable("xaiutils")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention written out, because attribution reads its probabilities and their gradients.

    Returns tokens ``(n, tokens, width)`` and the softmax probabilities ``(n, heads, tokens, tokens)`` from which the
    tokens were computed (rows: queries, columns: keys).

    ``rotary`` > 0 turns each head's queries and keys of patches by their places, as DINOv3 does (Simeoni et al. 2025,
    arXiv:2508.10104): the first ``prefix`` tokens stay, the others are a square grid, row by row, with centres (y, x)
    in [-1, 1]. Of D values, i and i + D / 2 are a pair that is turned by 2 pi c / rotary^(4 k / D); the pairs
    i = 0 ... D / 4 - 1 have c = y and k = i, the next D / 4 have c = x and k = i - D / 4. Its keys have no bias.
    """

    def __init__(self, heads: int, rotary: float = 0.0, prefix: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.heads, self.rotary, self.prefix = heads, rotary, prefix

    def build(self, input_shape: tuple[int, ...]) -> None:
        width = input_shape[-1]
        for part in ("query", "key", "value", "out"):
            dense = layers.Dense(width, use_bias=part != "key" or not self.rotary, name=part)
            dense.build(input_shape)
            setattr(self, part, dense)
        if self.rotary:
            self._turns = turns(input_shape[1], self.prefix, width // self.heads, self.rotary)

    def turned(self, x: Any) -> Any:
        """Queries or keys ``(n, heads, tokens, size)`` turned by the places of their tokens."""
        cosines, sines = (ops.cast(t, x.dtype) for t in self._turns)
        half = x.shape[-1] // 2
        return x * cosines + ops.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sines

    def call(self, x: Any) -> Any:
        def split(y):  # (n, tokens, width) -> (n, heads, tokens, width / heads)
            y = ops.reshape(y, (-1, y.shape[1], self.heads, y.shape[2] // self.heads))
            return ops.transpose(y, (0, 2, 1, 3))

        query, key, value = (split(dense(x)) for dense in (self.query, self.key, self.value))
        if self.rotary:
            query, key = self.turned(query), self.turned(key)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * query.shape[-1] ** -0.5
        probabilities = ops.softmax(scores, axis=-1)
        mixed = ops.transpose(ops.matmul(probabilities, value), (0, 2, 1, 3))
        return self.out(ops.reshape(mixed, (-1, x.shape[1], x.shape[2]))), probabilities

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        n, tokens, _ = input_shape
        return input_shape, (n, self.heads, tokens, tokens)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads, "rotary": self.rotary, "prefix": self.prefix}


def turns(tokens: int, prefix: int, size: int, base: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine ``(tokens, size)`` of what `SelfAttention` turns each value of a head by; 1 and 0 for the first
    ``prefix`` tokens. ValueError for other patches than those of a square, or a size that 4 does not divide."""
    grid = math.isqrt(tokens - prefix)
    if grid * grid != tokens - prefix or size % 4:
        raise ValueError(f"{tokens - prefix} patches and heads of {size}; expected a square, and a multiple of 4.")
    centres = (np.arange(grid) + 0.5) / grid * 2 - 1
    places = np.stack(np.meshgrid(centres, centres, indexing="ij"), -1).reshape(-1, 2, 1)
    angles = 2 * np.pi * places / periods(size, base)
    angles = np.tile(angles.reshape(grid * grid, size // 2), 2)
    angles = np.concatenate([np.zeros((prefix, size)), angles])
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def periods(size: int, base: float) -> np.ndarray:
    """The ``size / 4`` periods of `SelfAttention`'s turns, in halves of an image: base^(4 k / size)."""
    return base ** (4 * np.arange(size // 4) / size)


@keras.saving.register_keras_serializable("xaiutils")
class TakeClassToken(keras.layers.Layer):
    """The first token: ``(n, tokens, width)`` to ``(n, width)``; of ``number`` tokens one vector, ``(n, number *
    width)``."""

    def __init__(self, number: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.number = number

    def call(self, x: Any) -> Any:
        return x[:, 0] if self.number == 1 else ops.reshape(x[:, : self.number], (-1, self.number * x.shape[-1]))

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (input_shape[0], self.number * input_shape[2])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "number": self.number}
