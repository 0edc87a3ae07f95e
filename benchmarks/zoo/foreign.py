"""Networks that nobody here wrote: of `keras.applications` and of the package zeromodels, with random weights.

keras.applications are as they come, at the smallest width that a family offers. zeromodels' graphs are made with few
and narrow blocks: each kind of block, of path and of head is in them, and a pass takes milliseconds. Every network is
given its own scaling of images in [0, 255] as a first layer, and ends in logits.
"""

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf

N_CLASSES = 4


@dataclass(frozen=True)
class Foreign:
    """A network's source and name, the function that makes it from its options, and the side of its images."""

    source: str
    name: str
    maker: str
    size: int = 32
    options: dict[str, Any] = field(default_factory=dict)

    def make(self) -> keras.Model:
        """Logits ``(n, N_CLASSES)`` of images ``(n, size, size, 3)`` in [0, 255], with random weights."""
        keras.utils.set_random_seed(0)
        core = self._core()
        inputs = keras.Input((self.size, self.size, 3))
        model = keras.Model(inputs, core(keras.layers.Rescaling(1 / 127.5, -1.0)(inputs)), name=self.name)
        draw_weights(model, 2**0.5 if self.maker.startswith("VGG1") else 1.0)  # no norm holds up its signals
        return model

    def _core(self) -> keras.Model:
        shape = (self.size, self.size, 3)
        if self.source == "keras.applications":
            given = {"input_shape": shape, "classes": N_CLASSES, "classifier_activation": None, "weights": None}
            return getattr(keras.applications, self.maker)(**given, **self.options)
        module = importlib.import_module(f"zeromodels.models.{self.name}")
        return getattr(module, self.maker)(image_size=self.size, num_classes=N_CLASSES, **self.options)


def _apps() -> list[Foreign]:
    families = {
        "MobileNet": (32, {"alpha": 0.25}),
        "MobileNetV2": (32, {"alpha": 0.35}),
        "MobileNetV3Small": (32, {"alpha": 0.75, "include_preprocessing": False}),
        "MobileNetV3Large": (32, {"alpha": 0.75, "include_preprocessing": False, "minimalistic": True}),
        "VGG16": (32, {}),
        "VGG19": (32, {}),
        "ResNet50": (32, {}),
        "ResNet50V2": (32, {}),
        "DenseNet121": (32, {}),
        "Xception": (71, {}),
        "InceptionV3": (75, {}),
        "InceptionResNetV2": (75, {}),
        "EfficientNetB0": (32, {}),
        "EfficientNetV2B0": (32, {"include_preprocessing": False}),
        "ConvNeXtTiny": (32, {"include_preprocessing": False}),
        "NASNetMobile": (32, {}),
    }
    return [Foreign("keras.applications", name, name, *given) for name, given in families.items()]


_VIT = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
_STAGES = {"depths": (1, 1, 1, 1)}
_SWIN = {"embed_dim": 12, "depths": (2, 1), "num_heads": (3, 6)}
_PVT = {**_STAGES, "hidden_sizes": (8, 16, 20, 32), "num_attention_heads": (1, 2, 5, 8), "mlp_ratios": (2, 2, 2, 2)}


def _zero() -> list[Foreign]:
    families: dict[str, tuple[str, int, dict[str, Any]]] = {
        "vit": ("ViTImageClassify", 32, _VIT),
        "deit": ("DeiTImageClassify", 32, {**_VIT, "use_distillation": True}),
        "flexivit": ("FlexiViTImageClassify", 32, _VIT),
        "cait": ("CaiTImageClassify", 32, _VIT),
        "beit": (
            "BeitImageClassify",
            32,
            {
                "hidden_size": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 3,
                "intermediate_size": 48,
                "patch_size": 8,
            },
        ),
        "clip": (
            "CLIPImageClassify",
            32,
            {"vision_num_layers": 2, "vision_hidden_dim": 64, "vision_patch_size": 8, "vision_mlp_ratio": 2.0},
        ),
        "metaclip2": (
            "MetaClip2ImageClassify",
            32,
            {"vision_num_layers": 2, "vision_hidden_dim": 64, "vision_patch_size": 8, "vision_mlp_ratio": 2.0},
        ),
        "siglip": (
            "SigLIPImageClassify",
            32,
            {
                "patch_size": 8,
                "vision_hidden_dim": 24,
                "vision_num_layers": 2,
                "vision_num_heads": 3,
                "vision_mlp_dim": 48,
            },
        ),
        "swin": (
            "SwinImageClassify",
            56,
            {"pretrain_size": 56, "embed_dim": 12, "depths": (2, 1), "num_heads": (3, 6)},
        ),
        "swinv2": (
            "SwinV2ImageClassify",
            64,
            {"pretrain_size": 64, "window_size": 8, **_SWIN},
        ),
        "convnext": ("ConvNeXtImageClassify", 32, {**_STAGES, "projection_dim": (8, 12, 16, 24)}),
        "convnextv2": ("ConvNeXtV2ImageClassify", 32, {**_STAGES, "projection_dim": (8, 12, 16, 24)}),
        "maxvit": (
            "MaxViTImageClassify",
            64,
            {"stem_width": 8, "depths": (1, 1), "embed_dim": (8, 16), "num_heads": (2, 4), "window_size": 4},
        ),
        "convmixer": ("ConvMixerImageClassify", 32, {"embed_dim": 16, "depth": 2, "kernel_size": 3, "patch_size": 4}),
        "mlp_mixer": ("MLPMixerImageClassify", 32, {"patch_size": 8, "embed_dim": 24, "depths": 2}),
        "resmlp": ("ResMLPImageClassify", 32, {"patch_size": 8, "embed_dim": 24, "depth": 2}),
        "poolformer": ("PoolFormerImageClassify", 32, {**_STAGES, "embed_dim": (8, 12, 16, 24)}),
        "efficientformer": (
            "EfficientFormerImageClassify",
            64,
            {**_STAGES, "embed_dim": (8, 12, 16, 24)},
        ),
        "levit": (
            "LevitImageClassify",
            64,
            {"hidden_sizes": (16, 24, 32), "num_attention_heads": (2, 2, 2), "depths": (1, 1, 1), "key_dim": (8, 8, 8)},
        ),
        "mit": ("MiTImageClassify", 64, {**_STAGES, "embed_dim": (8, 16, 40, 64)}),
        "pvt": (
            "PvtImageClassify",
            64,
            {
                **_STAGES,
                "hidden_sizes": (8, 16, 20, 32),
                "num_attention_heads": (1, 2, 5, 8),
                "mlp_ratios": (2, 2, 2, 2),
            },
        ),
        "pvt_v2": (
            "PvtV2ImageClassify",
            64,
            {
                **_STAGES,
                "hidden_sizes": (8, 16, 20, 32),
                "num_attention_heads": (1, 2, 5, 8),
                "mlp_ratios": (2, 2, 2, 2),
            },
        ),
        "pit": (
            "PiTImageClassify",
            32,
            {"patch_size": 8, "stride": 4, "embed_dim": (12, 24, 48), "depth": (1, 1, 1), "heads": (2, 2, 4)},
        ),
        "nextvit": ("NextViTImageClassify", 64, {"depths": (1, 1, 5, 1), "stem_chs": (8, 8, 8)}),
        "mobilevit": (
            "MobileViTImageClassify",
            64,
            {
                "initial_dims": 8,
                "head_dims": 32,
                "block_dims": (8, 12, 16, 20, 24),
                "attention_dims": (None, None, 16, 24, 32),
            },
        ),
        "mobilevitv2": ("MobileViTV2ImageClassify", 64, {"multiplier": 0.5}),
        "inception_next": ("InceptionNextImageClassify", 32, {**_STAGES, "num_filters": (16, 24, 32, 40)}),
        "densenet": ("DenseNetImageClassify", 32, {"depths": (2, 2, 2, 2), "growth_rate": 8, "initial_filter": 16}),
        "efficientnet": ("EfficientNetImageClassify", 32, {"width_coefficient": 0.25, "depth_coefficient": 0.3}),
        "efficientnet_lite": ("EfficientNetLiteImageClassify", 32, {"depth_coefficient": 0.3}),
        "efficientnetv2": (
            "EfficientNetV2ImageClassify",
            32,
            {"width_coefficient": 0.25, "depth_coefficient": 0.2, "head_filters": 64},
        ),
        "inceptionv4": ("InceptionV4ImageClassify", 75, {}),
        "mobilenetv2": ("MobileNetV2ImageClassify", 32, {"width_multiplier": 0.25}),
        "mobilenetv3": ("MobileNetV3ImageClassify", 32, {"config": "small", "width_multiplier": 0.5}),
        "mobilenetv4": ("MobileNetV4ImageClassify", 32, {"config": "conv_small"}),
        "regnet": (
            "RegNetImageClassify",
            32,
            {**_STAGES, "embedding_size": 8, "hidden_sizes": (16, 16, 32, 32), "groups_width": 8},
        ),
        "res2net": ("Res2NetImageClassify", 32, {"depth": (1, 1, 1, 1), "base_width": 8}),
        "resnet": ("ResNetImageClassify", 32, {**_STAGES, "filters": (8, 16, 24, 32), "groups": 1, "width_factor": 1}),
        "resnetv2": ("ResNetV2ImageClassify", 32, {**_STAGES, "filters": (128, 128, 128, 128), "stem_width": 32}),
        "resnext": ("ResNeXtImageClassify", 32, {**_STAGES, "filters": (16, 16, 32, 32), "groups": 4}),
        "senet": ("SENetImageClassify", 32, {**_STAGES, "filters": (16, 16, 32, 32), "groups": 4}),
        "vgg": ("VGGImageClassify", 56, {"num_filters": [8, "M", 16, "M", 24, "M"], "batch_norm": True}),
        "xception": ("XceptionImageClassify", 71, {}),
    }
    return [Foreign("zeromodels", name, *given) for name, given in families.items()]


def foreign() -> dict[str, Foreign]:
    """All of them, by their names; those of zeromodels where it is installed (the extra ``bench``)."""
    found = _apps() + (_zero() if importlib.util.find_spec("zeromodels") else [])
    return {f"{one.source}: {one.name}": one for one in found}


def planned() -> list[str]:
    """The names of all, whether zeromodels is installed or not."""
    return [f"{one.source}: {one.name}" for one in _apps() + _zero()]


def draw_weights(model: keras.Model, gain: float = 1.0) -> None:
    """Weights under which no part is without effect: scales in [0.5, 1.5], biases and embeddings that are not 0,
    kernels of Keras' size times ``gain``, and for batch norms the statistics of such images, so that signals neither
    die out nor explode."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if not keras.backend.is_float_dtype(variable.dtype) or "seed" in variable.path:
            continue
        value, name = keras.ops.convert_to_numpy(variable.value).astype(np.float32), variable.path.rsplit("/", 1)[-1]
        if "moving" in name or "variance" in name:
            continue
        flat = value.size == max(value.shape, default=1) or not value.any() or np.ptp(value) == 0
        if flat and ("gamma" in name or "scale" in name or (value.any() and np.ptp(value) == 0)):
            variable.assign(rng.uniform(0.5, 1.5, value.shape))
        elif flat:
            variable.assign(value + rng.normal(0, 0.1, value.shape))
        elif gain != 1:
            variable.assign(value * gain)
    layers = keras.layers
    kinds = ((layers.BatchNormalization, "momentum"), (layers.Dropout, "rate"))
    held = [(layer, name) for layer in model._flatten_layers() for kind, name in kinds if isinstance(layer, kind)]
    before = [getattr(layer, name) for layer, name in held]
    for layer, name in held:
        setattr(layer, name, 0.0)
    seen = images(48, *model.input_shape[2:])
    seen[16:32, : seen.shape[1] // 2], seen[24:40, :, : seen.shape[2] // 2] = 127.5, 0  # with parts hidden
    model(tf.constant(seen), training=bool(held))
    for (layer, name), value in zip(held, before, strict=True):
        setattr(layer, name, value)
    _spread(model)


def _spread(model: keras.Model) -> None:
    """Scale the last kernel so that logits of different images differ by about 1, as a trained model's do."""
    core = model.layers[-1] if isinstance(model.layers[-1], keras.Model) else model
    last = [layer for layer in core.layers if getattr(layer, "kernel", None) is not None][-1]
    logits = np.asarray(model(tf.constant(images(8, *model.input_shape[2:])), training=False), np.float32)
    last.kernel.assign(np.asarray(last.kernel) / max(float(logits.std(axis=0).mean()), 1e-6))


def images(n: int, size: int, channels: int = 3) -> np.ndarray:
    """Smooth random images ``(n, size, size, channels)`` in [0, 255], of 4 x 4 pixels each."""
    coarse = np.random.default_rng(7).uniform(0, 255, (n, size // 4 + 1, size // 4 + 1, channels))
    return np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)[:, :size, :size].astype(np.float32)
