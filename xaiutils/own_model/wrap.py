"""`wrap`: any Keras image classifier as a model that takes images in [0, 255] and returns one output."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaiutils.backend import keras
from xaiutils.class_names import check_class_names, positive_class
from xaiutils.graph.flat_graph import FlatGraph, as_function
from xaiutils.graph.head import find_head
from xaiutils.models.wrapped import ModelFacts, WrappedModel
from xaiutils.own_model.case_inputs import EVERY_CASE, InputSpec, held_input, image_among, note_tables
from xaiutils.own_model.load import load
from xaiutils.own_model.measure_scaling import measure_scaling
from xaiutils.own_model.outputs import Output, chosen_output, output_names, with_head
from xaiutils.own_model.saved_model import SavedModelLayer
from xaiutils.own_model.scalings import Scaling, scale
from xaiutils.registry import check_integer

if TYPE_CHECKING:
    from xaiutils.datasets import ImageDataset

layers = keras.layers


@dataclass(frozen=True)
class _Options:
    """How a model is wrapped; see `wrap`."""

    scaling: Scaling | None = None
    class_names: list[str] | None = None
    positive_class: str | None = None
    output: Output | None = None
    inputs: Mapping[str, Any] | None = None
    head: str | None = None
    channels_first: bool | None = None
    image_size: int | tuple[int, ...] | None = None


def wrap(
    model: keras.Model | str | Path,
    scaling: Scaling | None = None,
    class_names: list[str] | None = None,
    positive_class: str | None = None,
    output: Output | None = None,
    inputs: Mapping[str, Any] | None = None,
    head: str | None = None,
    channels_first: bool | None = None,
    sample: "ImageDataset | None" = None,
    trusted: bool = False,
    architecture: str | Mapping[str, Any] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    image_size: int | tuple[int, ...] | None = None,
) -> WrappedModel:
    """Your own model as all calls of this package take it: a Keras model from images ``(n, height, width, channels)``
    in [0, 255] to one output ``(n, k)`` in float32. The model's weights are shared, and the model is left as it is.

    Args:
        model: a Keras model; or the path of a ``.keras`` or ``.h5`` file (of Keras 2 too), of a SavedModel folder, or
            of a ``.weights.h5`` file with ``architecture``. A model that is wrapped already is wrapped anew, with what
            is given here in place of what was.
        scaling: how the model was given its pixels in training. "model": in [0, 255], it scales them itself; "0-1":
            x / 255; "-1-1": x / 127.5 - 1; "imagenet": as torchvision and keras.applications' "torch" mode; "caffe":
            BGR less ImageNet's mean; "standardise": each image to mean 0 and deviation 1, as
            ``tf.image.per_image_standardization``; ``(mean, std)``, numbers or one for each channel, of images in
            [0, 1] as torchvision takes them, or of images in [0, 255] where one of them is above 1; or a function from
            a tensor of images in [0, 255] to scaled ones, of keras.ops or TensorFlow. None: measured on ``sample``;
            without one, "model" is assumed, which ``facts.notes`` says.
        class_names: names of the output's classes in its order; two for one sigmoid unit (its 0, then its 1); one for
            a score.
        positive_class: the one of them that is to be detected.
        output: of several outputs the one to take, by name or index; or a function of the outputs as the model returns
            them that makes ``(n, k)`` of them.
        inputs: where the model has further inputs, by their names a value to hold for all images, or "case" where every
            case brings its own row, which `predict`, `explain` and data sets then take as ``inputs=``.
        head: what the output is, where its last layer does not say so: "softmax", "sigmoid", "logits" (of a softmax, or
            of a sigmoid where it is one unit), "regression" (a score in its own units), "ordinal" (cumulative
            probabilities P(y > k), which become those of the classes).
        channels_first: whether the model takes ``(n, channels, height, width)``; None: by its input's shape. Images
            are given ``(n, height, width, channels)`` all the same.
        sample: labelled images, on which the scaling is measured where it is not given, and whose ``class_names`` are
            taken where none are given and the number fits, which ``facts.notes`` says.
        trusted: load code in the file (a Lambda layer), which could do anything on this machine.
        architecture: what a file of weights alone is of: a name of `build_model`, or its arguments.
        custom_objects: your own layers and functions that the file names.
        image_size: height and width, or ``(height, width[, channels])``, of a model that does not say so, such as a
            Sequential one that is not built.

    Raises:
        ValueError, TypeError, FileNotFoundError: something does not fit; the message says what to do.
    """
    given: dict[str, Any] = {
        "scaling": scaling, "class_names": class_names, "positive_class": positive_class, "output": output,
        "inputs": inputs, "head": head, "channels_first": channels_first, "image_size": image_size,
    }  # fmt: skip
    if isinstance(model, WrappedModel):
        again = model.with_options(**{name: value for name, value in given.items() if value is not None})
        return again if sample is None else _by_sample(again, sample, scaling is None)
    if isinstance(model, str | Path):
        core, source = load(model, trusted, architecture, custom_objects, class_names), str(model)
    elif isinstance(model, keras.layers.Layer):
        core, source = model, type(model).__name__
    else:
        raise TypeError(f"model is {type(model).__name__}; expected a Keras model, or the path of a file or folder.")
    wrapped = _assemble(core, source, _Options(**given))
    return wrapped if sample is None else _by_sample(wrapped, sample, scaling is None)


def _by_sample(wrapped: WrappedModel, sample: "ImageDataset", measured: bool) -> WrappedModel:
    """The model with what ``sample`` tells of it: its scaling, where it is to be ``measured``, and its classes, where
    they have no names and are as many. One unit is the probability of the positive class, where that is given."""
    model = _measured(wrapped, sample) if measured else wrapped
    facts, units = model.facts, model.output_shape[1]
    if facts.class_names is not None or facts.head == "regression" or len(sample.class_names) != max(units, 2):
        return model
    names = list(sample.class_names)
    if units == 1 and facts.positive_class in names:
        names.sort(key=facts.positive_class.__eq__)
    named = model.with_options(class_names=names)
    note = f"class_names= is not given: the outputs are taken to be {', '.join(names)}, as the sample has them."
    named.facts = replace(facts, class_names=named.facts.class_names, notes=(*facts.notes, note))
    return named


def _measured(wrapped: WrappedModel, sample: "ImageDataset") -> WrappedModel:
    """The model under the scaling that fits ``sample``; who reads maps of a model near chance is warned."""
    found = measure_scaling(lambda name: wrapped.with_options(scaling=name), sample)
    if found.near_chance:
        warnings.warn(" ".join(found.sentences), stacklevel=4)
    chosen = wrapped.with_options(scaling=found.chosen)
    chosen.facts = replace(chosen.facts, scaling_from="measured", notes=(*found.sentences, *chosen.facts.notes))
    return chosen


def _assemble(core: Any, source: str, options: _Options) -> WrappedModel:
    """The model of images around the user's own."""
    specs = _input_specs(core, options.image_size)
    if not isinstance(options.inputs or {}, Mapping):
        raise TypeError(f"inputs={options.inputs!r}; expected values by the names of inputs, {{name: value}}.")
    given = dict(options.inputs or {})
    spec = image_among(specs, given)
    shape, is_first = _image_shape(spec, options.channels_first)
    with _float32():
        images = keras.Input(shape, name="images")
        scaled, said = scale(images, "model" if options.scaling is None else options.scaling)
        x = layers.Permute((3, 1, 2), name="channels_first")(scaled) if is_first else scaled
        if isinstance(core, SavedModelLayer) and spec.dtype != "float32":  # Keras' own layers take floats all the same
            x = keras.ops.cast(x if keras.backend.is_float_dtype(spec.dtype) else keras.ops.round(x), spec.dtype)
        tensors = [x if s is spec else held_input(s, given[s.name], images) for s in specs]
        outputs = _call(core, specs, tensors)
        scores, output = chosen_output(outputs, output_names(as_function(core), outputs), options.output)
        scores = with_head(images, scores, options.head)
    names = _checked_names(options, scores.shape[1])
    facts = ModelFacts(
        source=source,
        scaling=said,
        scaling_from="assumed" if options.scaling is None else "given",
        class_names=names,
        positive_class=options.positive_class,
        head=options.head,
        output=output,
        channels=shape[-1],
        case_inputs=tuple(name for name, value in given.items() if isinstance(value, str) and value == EVERY_CASE),
    )
    wrapped = WrappedModel(images, scores, core=core, facts=facts, name=f"wrapped_{core.name}")
    note_tables(wrapped)
    pictures = [s.name for s in specs if s is not spec and len(s.shape) == 4]
    wrapped.facts = replace(facts, notes=(*_notes(wrapped, options), *_of_pictures(pictures)))

    def remake(**changes: Any) -> WrappedModel:
        return _assemble(core, source, replace(options, **changes))

    wrapped.remake = remake
    return wrapped


@contextmanager
def _float32() -> Iterator[None]:
    """What `wrap` adds computes in float32, whatever the policy is that the user has set for layers to come."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def _input_specs(core: Any, image_size: int | tuple[int, ...] | None) -> list[InputSpec]:
    """What a model takes, in the order of its flat inputs."""
    if isinstance(core, SavedModelLayer):
        return [InputSpec(n, _sized(s.shape, image_size), s.dtype.name) for n, s in sorted(core.specs.items())]
    function = as_function(core)
    if function is None and not getattr(core, "inputs", None):
        return [InputSpec("images", _built_shape(core, image_size), "float32")]
    function = core if function is None else function
    keys = sorted(function.input) if isinstance(function.input, Mapping) else None
    names = keys if keys and len(keys) == len(function.inputs) else [t.name for t in function.inputs]
    return [
        InputSpec(name, _sized(t.shape, image_size) if len(t.shape) == 4 else tuple(t.shape), str(t.dtype))
        for name, t in zip(names, function.inputs, strict=True)
    ]


def _sized(shape: Any, image_size: int | tuple[int, ...] | None) -> tuple[int | None, ...]:
    """A shape with its open sizes filled in, where ``image_size`` says them."""
    known = tuple(shape)
    if image_size is None or len(known) != 4:
        return known
    size = _size(image_size)
    if any(a is not None and a != b for a, b in zip(known[1:], size, strict=False)):
        raise ValueError(f"image_size={image_size}, but the model takes {known[1:]}; leave it out.")
    return (None, *(b if a is None else a for a, b in zip(known[1:], [*size, known[3]][:3], strict=True)))


def _size(image_size: int | tuple[int, ...]) -> tuple[int, ...]:
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) not in (2, 3):
        raise ValueError(f"image_size={image_size!r}; expected a number, (height, width) or (height, width, channels).")
    return tuple(check_integer("image_size", n, 1) for n in size)


def _built_shape(core: Any, image_size: int | tuple[int, ...] | None) -> tuple[int | None, ...]:
    """The input's shape of a model that is no graph: as it was built, or as the caller says."""
    built = list((getattr(core, "_build_shapes_dict", None) or {}).values())
    if image_size is not None:
        size = _size(image_size)
        return (None, *size, 3) if len(size) == 2 else (None, *size)
    if len(built) == 1 and isinstance(built[0], tuple | list) and len(built[0]) == 4:
        return (None, *built[0][1:])
    raise ValueError(
        f"the {type(core).__name__} model {core.name!r} does not say what it takes: give image_size=(height, width, "
        "channels), or rebuild a model of several inputs as keras.Model(inputs, outputs)."
    )


def _image_shape(spec: InputSpec, channels_first: bool | None) -> tuple[tuple[int | None, int | None, int], bool]:
    """(height, width, channels) of the images, and whether the model takes the channels first."""
    _, a, b, c = spec.shape
    few = [n is not None and n <= 4 for n in (a, c)]
    if channels_first is None and few[0] == few[1] and a != c and b not in (a, c):
        raise ValueError(f"the model takes {spec.shape}: say by channels_first= whether the channels stand first.")
    is_first = channels_first
    if is_first is None:
        is_first = few[0] and not few[1] if few[0] != few[1] else a != c and b == c
    height, width, channels = (b, c, a) if is_first else (a, b, c)
    if channels is None:
        raise ValueError(f"the model takes {spec.shape}: give the channels by image_size=(height, width, channels).")
    return (height, width, channels), bool(is_first)


def _call(core: Any, specs: list[InputSpec], tensors: list[Any]) -> Any:
    """The model on its inputs, in the structure that it was made with."""
    if isinstance(core, SavedModelLayer):
        return core({spec.name: tensor for spec, tensor in zip(specs, tensors, strict=True)})
    function = as_function(core)
    try:
        return core(tensors[0] if function is None else keras.tree.pack_sequence_as(function.input, tensors))
    except Exception as error:  # whatever a user's model raises
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        raise ValueError(f"{type(core).__name__} {core.name!r} cannot be called on {shapes}: {error}") from error


def _checked_names(options: _Options, units: int) -> tuple[str, ...] | None:
    if options.class_names is None:
        return None  # and positive_class is checked where the names come from the data
    names = check_class_names(options.class_names, "class_names")
    is_score = options.head == "regression"
    expected = 1 if is_score else max(units, 2)
    if len(names) != expected and not (len(names) == 1 and units == 1 and callable(options.output)):
        one = "; of one sigmoid unit give both, [what 0 means, what 1 means]" if units == 1 and not is_score else ""
        raise ValueError(f"class_names has {len(names)} names, and the output is of {expected} classes{one}.")
    if options.positive_class is not None:
        positive_class(names, options.positive_class)
    return tuple(names)


def _of_pictures(names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    return (f"its input {' and '.join(names)} has the shape of an image, and is held as it is given: scaling= is for "
            "the explained image alone, so scale it as in training.",)  # fmt: skip


def _notes(wrapped: WrappedModel, options: _Options) -> tuple[str, ...]:
    """What a user should know of the scaling: that it was assumed, or that the model scales too; and of a head that was
    assumed."""
    return (*_of_scaling(wrapped, options.scaling), *_of_head(wrapped, options.head))


def _of_head(wrapped: WrappedModel, head: str | None) -> tuple[str, ...]:
    if head is not None or wrapped.output_shape[-1] != 1:
        return ()
    graph = FlatGraph(wrapped)
    if not find_head(graph, graph.output_key).bare:
        return ()
    return ("its one unit has no sigmoid: it is taken for the logit of one. Give head='regression' if it is a measured "
            "quantity.",)  # fmt: skip


def _of_scaling(wrapped: WrappedModel, scaling: Scaling | None) -> tuple[str, ...]:
    own = _own_scaling(wrapped)
    if scaling is None:
        found = f"its layer {own} does so" if own else "no Rescaling or Normalization stands first in it"
        return (f"scaling= is not given: the model is taken to scale pixels in [0, 255] itself ({found}).",)
    if own and scaling != "model":
        return (
            f"the model scales its input itself ({own}), after the scaling that is given: twice, unless you meant it.",
        )
    return ()


def _own_scaling(wrapped: WrappedModel) -> str:
    """The path of a layer within the user's own model that scales the image before anything else; "" without one."""
    graph = FlatGraph(wrapped)
    key, inside = graph.input_key, f"{wrapped.core.name}/"
    while True:
        readers = [step for step in graph.steps if key in step.reads]
        if len(readers) != 1 or getattr(readers[0].operation, "weights", None):
            is_norm = len(readers) == 1 and isinstance(readers[0].operation, layers.Normalization)
            return readers[0].path if is_norm else ""
        step = readers[0]
        scales = isinstance(step.operation, layers.Rescaling | layers.Normalization)
        if scales and step.path.startswith(inside):
            return step.path
        key = step.outputs[0]
