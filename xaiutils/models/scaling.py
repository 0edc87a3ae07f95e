"""The scaling that each family of networks was trained with, as named layers that take images in [0, 255].

They equal the ``preprocess_input`` functions of ``keras.applications`` ("tf", "torch" and "caffe" there), and stand
inside the models, so that every model takes the same images.
"""

from xaiutils.backend import keras

layers = keras.layers

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images, RGB in [0, 1]
_MEAN_BGR = (103.939, 116.779, 123.68)  # of the same images in [0, 255], as Caffe's models had it


def symmetric(images: keras.KerasTensor) -> keras.KerasTensor:
    """To [-1, 1]: ``x / 127.5 - 1``. For MobileNetV2 and Google's Vision Transformers."""
    return layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(images)


def standardised(images: keras.KerasTensor, factor: float = 1.0) -> keras.KerasTensor:
    """To zero mean and unit deviation over ImageNet: ``factor * (x / 255 - mean) / deviation``. For DenseNet and
    DINOv2; with factor 255 for Keras' EfficientNet, whose own first layer divides by 255."""
    scale = [factor / (255 * d) for d in _DEVIATION]
    offset = [-factor * m / d for m, d in zip(_MEAN, _DEVIATION, strict=True)]
    return layers.Rescaling(scale, offset, name="standardise")(images)


def centred_bgr(images: keras.KerasTensor) -> keras.KerasTensor:
    """Channels in the order blue, green, red, less ImageNet's mean; not divided. For VGG and ResNet."""
    x = ReverseChannels(name="to_bgr")(images)
    return layers.Rescaling(1.0, offset=[-m for m in _MEAN_BGR], name="subtract_mean")(x)


@keras.saving.register_keras_serializable("xaiutils")
class ReverseChannels(layers.Layer):
    """RGB to BGR: the last axis in reverse order; the shape stays."""

    def call(self, x):
        return x[..., ::-1]

    def compute_output_shape(self, input_shape):
        return input_shape
