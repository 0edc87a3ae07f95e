"""Vision Transformers whose attention probabilities can be read and differentiated (Dosovitskiy et al. 2021).

Plain, named Keras layers: ``scale`` (DINOv2: ``standardise``), ``patches``, ``tokens``, ``class_token``,
``positions``, then for every block ``block_00_norm1``, ``block_00_attention`` (returns tokens and probabilities),
``block_00_add1``, ``block_00_norm2``, ``block_00_mlp_in``, ``block_00_gelu``, ``block_00_mlp_out``,
``block_00_add2``, and at the end ``norm``. With LayerScale, ``block_00_scale1`` and ``block_00_scale2`` stand before
the additions.

Flax's ``gelu`` is the tanh approximation unless told otherwise, and Google's code does not tell it otherwise; so the
models with Google's weights use it. It differs from the exact function by less than 5e-4.
"""

from dataclasses import dataclass
from typing import Any

from xaiutils.backend import keras
from xaiutils.models import scaling

layers, ops = keras.layers, keras.ops


@dataclass(frozen=True)
class ViTConfig:
    """Sizes and variants of a Vision Transformer.

    ``stem`` > 0 replaces the patch projection by that many stride-2 convolutions and a 1x1 projection (Xiao et al.
    2021, "Early convolutions help transformers see better"). ``gelu`` is "exact" or "tanh" (its approximation).
    ``layer_scale`` multiplies each branch by a learned vector before it is added (Touvron et al. 2021, "Going deeper
    with image transformers"). ``scaling`` is "symmetric" or "standardised", see `scaling`.
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


def _google(patch_size: int, width: int, depth: int, heads: int) -> ViTConfig:
    return ViTConfig(patch_size, width, depth, heads, gelu="tanh")


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
    # Oquab et al. 2023; `dinov2` reads its weights.
    "dinov2_vits14": ViTConfig(14, 384, 12, 6, layer_scale=True, scaling="standardised"),
}


def vit_backbone(config: ViTConfig, image_size: int) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Input tensor (images in [0, 255]) and token tensor ``(n, 1 + grid * grid, width)`` after the last norm.

    ``grid`` is ``image_size / patch_size``. Raises ValueError for an ``image_size`` that the patches do not divide.
    """
    if image_size % config.patch_size:
        raise ValueError(
            f"image_size={image_size} is not a multiple of the patch size {config.patch_size}; "
            f"use {max(1, round(image_size / config.patch_size)) * config.patch_size}."
        )
    inputs = keras.Input((image_size, image_size, 3), name="images")
    x = {"symmetric": scaling.symmetric, "standardised": scaling.standardised}[config.scaling](inputs)
    for i in range(config.stem):
        filters = config.width // 2 ** (config.stem - 1 - i)
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False, name=f"stem_{i}_conv")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"stem_{i}_norm")(x)
        x = layers.Activation("relu", name=f"stem_{i}_relu")(x)
    step = config.patch_size // 2**config.stem
    x = layers.Conv2D(config.width, step, strides=step, name="patches")(x)
    x = layers.Reshape((-1, config.width), name="tokens")(x)
    x = ClassToken(name="class_token")(x)
    x = PositionEmbedding(name="positions")(x)
    for i in range(config.depth):
        x = _block(x, config, f"block_{i:02d}")
    return inputs, layers.LayerNormalization(epsilon=config.epsilon, name="norm")(x)


def _block(x: Any, config: ViTConfig, name: str) -> Any:
    y = layers.LayerNormalization(epsilon=config.epsilon, name=f"{name}_norm1")(x)
    y, _ = SelfAttention(config.heads, name=f"{name}_attention")(y)
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
    """Multiplies every token's values by one learned vector ``(width,)``."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        self.factors = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="factors")

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
    """

    def __init__(self, heads: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, input_shape: tuple[int, ...]) -> None:
        width = input_shape[-1]
        for part in ("query", "key", "value", "out"):
            dense = layers.Dense(width, name=part)
            dense.build(input_shape)
            setattr(self, part, dense)

    def call(self, x: Any) -> Any:
        def split(y):  # (n, tokens, width) -> (n, heads, tokens, width / heads)
            y = ops.reshape(y, (-1, y.shape[1], self.heads, y.shape[2] // self.heads))
            return ops.transpose(y, (0, 2, 1, 3))

        query, key, value = (split(dense(x)) for dense in (self.query, self.key, self.value))
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * query.shape[-1] ** -0.5
        probabilities = ops.softmax(scores, axis=-1)
        mixed = ops.transpose(ops.matmul(probabilities, value), (0, 2, 1, 3))
        return self.out(ops.reshape(mixed, (-1, x.shape[1], x.shape[2]))), probabilities

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        n, tokens, _ = input_shape
        return input_shape, (n, self.heads, tokens, tokens)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads}


@keras.saving.register_keras_serializable("xaiutils")
class TakeClassToken(keras.layers.Layer):
    """The first token: ``(n, tokens, width)`` to ``(n, width)``."""

    def call(self, x: Any) -> Any:
        return x[:, 0]

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (input_shape[0], input_shape[2])
