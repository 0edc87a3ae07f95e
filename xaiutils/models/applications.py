"""The convolutional networks of ``keras.applications``: scaling in the graph, ImageNet's weights, files of theirs.

Keras puts the scaling of EfficientNetV2 and ConvNeXt into their graphs; here it stands before them, as of the others.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np

from xaiutils.backend import keras
from xaiutils.models import convnext, scaling

layers = keras.layers


@dataclass(frozen=True)
class Application:
    """One network: its class in ``keras.applications``, the module of its ``preprocess_input``, the same scaling as
    layers, and that by ImageNet's mean and deviation, as torchvision's weights take their images. ``scales_itself``:
    the class does it too, unless told not to. ``graph``: our own of the same network, from scaled images to the last
    feature map, in place of the class's; ``neck``: what stands between its pooling and the classes."""

    class_name: str
    module: ModuleType
    scale: Callable[[keras.KerasTensor], keras.KerasTensor]
    paper: str
    standardise: Callable[[keras.KerasTensor], keras.KerasTensor] = scaling.standardised
    scales_itself: bool = False
    graph: Callable[[keras.KerasTensor], keras.KerasTensor] | None = None
    neck: Callable[[keras.KerasTensor], keras.KerasTensor] | None = None


_TAN = "Tan & Le 2019, EfficientNet: rethinking model scaling, arXiv:1905.11946"


def _efficientnet_scale(images: keras.KerasTensor) -> keras.KerasTensor:
    """Standardisation, explicit: Keras adds a part of its own only when it loads ImageNet's weights itself, so that
    graphs with and without them would differ. Its Rescaling(1/255) and its unadapted (identity) Normalization follow.
    """
    return scaling.standardised(images, factor=255.0)


APPLICATIONS = {
    f"efficientnet_b{i}": Application(
        f"EfficientNetB{i}", keras.applications.efficientnet, _efficientnet_scale, _TAN, _efficientnet_scale
    )
    for i in range(8)
} | {
    "resnet50": Application(
        "ResNet50",
        keras.applications.resnet50,
        scaling.centred_bgr,
        "He et al. 2016, Deep residual learning for image recognition, arXiv:1512.03385",
    ),
    "vgg16": Application(
        "VGG16",
        keras.applications.vgg16,
        scaling.centred_bgr,
        "Simonyan & Zisserman 2015, Very deep convolutional networks, arXiv:1409.1556",
    ),
    "densenet121": Application(
        "DenseNet121",
        keras.applications.densenet,
        scaling.standardised,
        "Huang et al. 2017, Densely connected convolutional networks, arXiv:1608.06993",
    ),
    "mobilenet_v2": Application(
        "MobileNetV2",
        keras.applications.mobilenet_v2,
        scaling.symmetric,
        "Sandler et al. 2018, MobileNetV2: inverted residuals, arXiv:1801.04381",
    ),
}
APPLICATIONS |= {
    f"efficientnet_v2_{size}": Application(
        f"EfficientNetV2{size.upper()}",
        keras.applications.efficientnet_v2,
        scaling.standardised if size.startswith("b") else scaling.symmetric_128,
        "Tan & Le 2021, EfficientNetV2: smaller models and faster training, arXiv:2104.00298",
        scales_itself=True,
    )
    for size in ("b0", "b1", "b2", "b3", "s", "m", "l")
} | {
    name: Application(
        {"xlarge": "ConvNeXtXLarge"}.get(name.split("_")[1], f"ConvNeXt{name.split('_')[1].capitalize()}"),
        keras.applications.convnext,
        scaling.standardised,
        "Liu et al. 2022, A ConvNet for the 2020s, arXiv:2201.03545",
        scales_itself=True,
        graph=partial(convnext.convnext, depths=depths, widths=widths),
        neck=convnext.convnext_neck,
    )
    for name, (depths, widths) in convnext.CONVNEXTS.items()
}


def application_backbone(
    application: Application, size: tuple[int, int], standardise: bool = False
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Input tensor (images in [0, 255]) and the last feature map ``(n, rows, columns, channels)``; ``standardise``: by
    ImageNet's mean and deviation."""
    inputs = keras.Input((*size, 3), name="images")
    scaled = (application.standardise if standardise else application.scale)(inputs)
    if application.graph is not None:
        return inputs, application.graph(scaled)
    network = getattr(keras.applications, application.class_name)
    options: dict[str, Any] = {"include_preprocessing": False} if application.scales_itself else {}
    return inputs, network(include_top=False, weights=None, input_tensor=scaled, **options).output


def vgg16_head(features: keras.KerasTensor) -> keras.KerasTensor:
    """What VGG16 puts between its feature map and ImageNet's classes: flattened, and two layers of 4096 units."""
    x = layers.Flatten(name="features")(features)
    for name in ("fc1", "fc2"):
        x = layers.Dense(4096, activation="relu", name=name)(x)
    return x


def load_imagenet(application: Application, model: keras.Model, with_head: bool) -> None:
    """Copy ImageNet's weights (Keras downloads them at the first use), and check that the features are the same."""
    size = model.input_shape[1:3]
    source = _source(application, size, "imagenet", with_head)
    _copy(application, source, model)
    if with_head and size != source.input_shape[1:3]:
        return
    noise = np.random.default_rng(0).uniform(0, 255, (1, *size, 3)).astype(np.float32)
    top = model.output
    if not with_head and application.graph is not None:
        top = model.get_layer("layer4").output
        source = keras.Model(source.input, convnext.last_norm(source).input)
    elif not with_head:  # a head may read the features before their last activation
        names = {layer.name for layer in model.layers}
        last = next(layer.name for layer in reversed(source.layers) if layer.name in names)
        top, source = model.get_layer(last).output, keras.Model(source.input, source.get_layer(last).output)
    ours = keras.Model(model.input, top)(noise)
    theirs = source(application.module.preprocess_input(noise.copy()))
    if not np.allclose(ours, theirs, rtol=1e-2, atol=1e-3 * float(np.abs(theirs).max())):
        raise RuntimeError(f"{model.name}: the copied ImageNet weights do not give Keras' own output.")


def load_application_file(application: Application, model: keras.Model, path: Path, with_head: bool) -> None:
    """Copy the weights of a file that ``keras.applications`` reads (``..._notop.h5``; with ``with_head`` one that has
    ImageNet's classes). Raises ValueError for a file of another network, or of a whole classifier where only its
    backbone would be read."""
    own = sum(isinstance(x, layers.Dense) for x in model.layers if x.name.startswith("stage"))  # ConvNeXt's blocks
    if not with_head and _number_of_dense(path) > own:
        raise ValueError("the file holds a whole classifier")
    _copy(application, _source(application, model.input_shape[1:3], str(path), with_head), model)


def _number_of_dense(path: Path) -> int:
    """How many Dense layers a Keras 3 file (``.weights.h5``) has. Keras names groups by the layers' classes, and would
    leave the ones that a backbone does not ask for unread."""
    with h5py.File(path) as file:
        return sum(bool(re.fullmatch(r"dense(_\d+)?", name)) for name in file.get("layers", ()))


def _source(application: Application, size: tuple[int, int], weights: str, with_head: bool) -> keras.Model:
    """Keras' own model. Its classifiers are built for their own image size, its backbones for ours."""
    shape = {} if with_head else {"input_shape": (*size, 3)}
    return getattr(keras.applications, application.class_name)(include_top=with_head, weights=weights, **shape)


def _copy(application: Application, source: keras.Model, model: keras.Model) -> None:
    """The weights of equally named layers; those of the classes go to ``logits``. Normalization layers hold constants
    that our scaling has instead."""
    if application.graph is not None:
        convnext.copy_convnext(source, model)
        return
    for layer in source.layers:
        if layer.weights and not isinstance(layer, layers.Normalization):
            name = "logits" if layer.name == "predictions" else layer.name
            model.get_layer(name).set_weights(layer.get_weights())
