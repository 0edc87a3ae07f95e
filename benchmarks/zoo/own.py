"""Backbones of `xaiutils.models` that files of others are read into, small: the same blocks, few and narrow.

What their graphs compute is tested against the libraries of the files (tests/models); here every method goes over them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.models import vit
from xaiutils.models.applications import APPLICATIONS, application_backbone
from xaiutils.models.convnext import convnext, convnext_neck
from xaiutils.models.scaling import standardised
from zoo.checks import Subject
from zoo.foreign import N_CLASSES, draw_weights, images

SIZE = 32
_TINY: dict[str, Any] = {
    "patch_size": 8,
    "width": 24,
    "depth": 2,
    "heads": 3,
    "mlp_ratio": 2,
    "scaling": "standardised",
}
_VITS = {
    "deit": vit.ViTConfig(**_TINY),
    "deit, distilled": vit.ViTConfig(**_TINY, distilled=True),
    "dinov2": vit.ViTConfig(**_TINY, layer_scale=True),
    "dinov2, registers": vit.ViTConfig(**_TINY, layer_scale=True, registers=4),
    "rad_dino": vit.ViTConfig(**{**_TINY, "scaling": "chest_xray"}, layer_scale=True),
    "dinov3": vit.ViTConfig(**_TINY, layer_scale=True, registers=4, rotary=100.0, epsilon=1e-5),
}


def own() -> dict[str, Callable[[str], Subject]]:
    """Each network's maker, which takes the precision."""
    makers = {name: lambda config=config: _of_vit(config) for name, config in _VITS.items()}
    return {
        f"xaiutils: {name}": lambda precision, make=make: _subject(make, precision)
        for name, make in {**makers, "convnext": _of_convnext, "efficientnet_v2_b0": _of_efficientnet}.items()
    }


def _of_vit(config: vit.ViTConfig) -> tuple[Any, Any]:
    inputs, tokens = vit.vit_backbone(config, SIZE)
    return inputs, vit.TakeClassToken(1 + config.distilled, name="features")(tokens)


def _of_convnext() -> tuple[Any, Any]:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = convnext(standardised(inputs), (1, 2, 1, 1), (8, 12, 16, 24))
    return inputs, convnext_neck(keras.layers.GlobalAveragePooling2D(name="pooled")(x))


def _of_efficientnet() -> tuple[Any, Any]:
    inputs, x = application_backbone(APPLICATIONS["efficientnet_v2_b0"], (SIZE, SIZE))
    return inputs, keras.layers.GlobalAveragePooling2D(name="features")(x)


def _subject(make: Callable[[], tuple[Any, Any]], precision: str) -> Subject:
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(precision)
    try:
        inputs, features = make()
        by_hand = keras.Model(inputs, keras.layers.Dense(N_CLASSES, name="logits")(features))
    finally:
        keras.config.set_dtype_policy("float32")
    draw_weights(by_hand)
    model = keras.Model(by_hand.inputs, keras.layers.Softmax(dtype="float32")(by_hand.output))
    targets = np.array([1, 2])
    return Subject(model, lambda x: by_hand(x, training=False), images(2, SIZE), targets, precision, core=by_hand)
