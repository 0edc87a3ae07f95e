"""The scaling that each family of networks was trained with, as named layers that take images in [0, 255].

They equal the ``preprocess_input`` functions of ``keras.applications`` ("tf", "torch" and "caffe" there), and stand
inside the models, so that every model takes the same images.
"""

from typing import Any

from xaiutils.backend import keras

layers, ops = keras.layers, keras.ops

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images, RGB in [0, 1]
_MEAN_BGR = (103.939, 116.779, 123.68)  # of the same images in [0, 255], as Caffe's models had it


def symmetric(images: keras.KerasTensor) -> keras.KerasTensor:
    """To [-1, 1]: ``x / 127.5 - 1``. For MobileNetV2 and Google's Vision Transformers."""
    return layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(images)


def symmetric_128(images: keras.KerasTensor) -> keras.KerasTensor:
    """To [-1, 0.99]: ``x / 128 - 1``. For EfficientNetV2-S, M and L."""
    return layers.Rescaling(1 / 128, offset=-1.0, name="scale")(images)


def standardised(images: keras.KerasTensor, factor: float = 1.0) -> keras.KerasTensor:
    """To zero mean and unit deviation over ImageNet: ``factor * (x / 255 - mean) / deviation``. For DenseNet and
    DINOv2; with factor 255 for Keras' EfficientNet, whose own first layer divides by 255."""
    scale = [factor / (255 * d) for d in _DEVIATION]
    offset = [-factor * m / d for m, d in zip(_MEAN, _DEVIATION, strict=True)]
    return layers.Rescaling(scale, offset, name="standardise")(images)


def chest_xray(images: keras.KerasTensor) -> keras.KerasTensor:
    """To zero mean and unit deviation over the chest X-rays of RAD-DINO, alike for all channels: ``(x / 255 - 0.5307) /
    0.2583``."""
    return layers.Rescaling(1 / (255 * 0.2583), -0.5307 / 0.2583, name="standardise")(images)


def centred_bgr(images: keras.KerasTensor) -> keras.KerasTensor:
    """Channels in the order blue, green, red, less ImageNet's mean; not divided. For VGG and ResNet."""
    x = ReverseChannels(name="to_bgr")(images)
    return layers.Rescaling(1.0, offset=[-m for m in _MEAN_BGR], name="subtract_mean")(x)


@keras.saving.register_keras_serializable("xaiutils")
class ReverseChannels(keras.layers.Layer):
    """RGB to BGR: the last axis in reverse order; the shape stays."""

    def call(self, x: Any) -> Any:
        return x[..., ::-1]

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return input_shape


@keras.saving.register_keras_serializable("xaiutils")
class ZNorm(keras.layers.Layer):
    """Gives each channel of each image the mean and the deviation over ImageNet: images in [0, 255] to images of about
    that range, which a network's own scaling follows.

    With the mean m and the deviation s of the image's channel, (x - m) / s is its z-score; 255 times ImageNet's
    deviation and mean put it into pixels again. A network that standardises by these numbers (`standardised`) so gets
    the z-scores themselves, and any other gets them in the unit that its weights were trained for. A deviation below
    one grey value counts as one: a channel without contrast becomes flat, not noise.
    """

    def call(self, x: Any) -> Any:
        mean = ops.mean(x, axis=(1, 2), keepdims=True)
        centred = x - mean
        # sqrt has no derivative at 0: the maximum stands inside.
        deviation = ops.sqrt(ops.maximum(ops.mean(ops.square(centred), axis=(1, 2), keepdims=True), 1.0))
        return centred / deviation * (255 * ops.array(_DEVIATION, x.dtype)) + 255 * ops.array(_MEAN, x.dtype)

    def compute_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return input_shape


def with_z_norm(model: keras.Model) -> keras.Model:
    """The same flat model and weights, with `ZNorm` as layer ``z_norm`` right after its input."""

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else None
        if isinstance(first, keras.KerasTensor) and isinstance(first._keras_history.operation, layers.InputLayer):
            args = (ZNorm(name="z_norm")(first), *args[1:])
        return layer(*args, **kwargs)

    changed = keras.models.clone_model(model, call_function=call)
    changed.set_weights(model.get_weights())
    return changed
