"""`describe`: what was understood of a model, in words, before any map is made of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from xaiutils import text
from xaiutils.attribution.methods import METHODS
from xaiutils.attribution.suitability import suits
from xaiutils.backend import keras
from xaiutils.datasets.image_dataset import ImageDataset
from xaiutils.graph.cam_layers import ancestors
from xaiutils.graph.flat_graph import ModelError, Step
from xaiutils.graph.layers.activations import activation_of
from xaiutils.graph.layers.attention import attention_steps
from xaiutils.graph.layers.table import has_learned_weights
from xaiutils.graph.network import Network
from xaiutils.models.wrapped import ModelFacts, WrappedModel, facts_of
from xaiutils.own_model.measure_scaling import measure_scaling
from xaiutils.own_model.wrap import wrap

layers = keras.layers
_SCALES = (layers.Rescaling, layers.Normalization)
_SCALING_STEPS = ("TrueDivide", "Divide", "Multiply", "Subtract", "Add", "Lambda")
_FROM = {"given": "given", "measured": "measured on the sample", "assumed": "assumed, since none was given"}


@dataclass(frozen=True)
class Description:
    """What was understood of a model; shown as text, and in notebooks as a table.

    Attributes:
        said: what there is to say by its heading: "model", "images", "scaling", "head", "score", "classes", "kind",
            "CAM layer", ...
        cam_layers: the layers that a CAM reads unless ``layer=`` names another; empty where there are none.
        candidates: layers with a map of the image, and its grid (rows, columns): the last one of each grid, in order.
        methods: all methods; "" where it suits, else why not and what instead.
        notes: sentences that a user should read first.
    """

    said: dict[str, str]
    cam_layers: tuple[str, ...] = ()
    candidates: dict[str, tuple[int, int]] = field(default_factory=dict)
    methods: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def suitable(self) -> list[str]:
        """Names of the methods that suit."""
        return [name for name, reason in self.methods.items() if not reason]

    def _reasons(self) -> dict[str, list[str]]:
        """Methods that do not suit, by the reason."""
        found: dict[str, list[str]] = {}
        for name, reason in self.methods.items():
            if reason:
                found.setdefault(reason, []).append(name)
        return found

    def __repr__(self) -> str:
        width = max(map(len, self.said))
        lines = [f"{name:{width}}  {text.one_line(said)}" for name, said in self.said.items()]
        lines += [f"{'methods':{width}}  {len(self.suitable)} suit: {', '.join(self.suitable)}"]
        lines += [f"{'':{width}}  not {', '.join(names)}: {reason}" for reason, names in self._reasons().items()]
        return "\n".join([*lines, *(f"Note: {text.one_line(note)}" for note in self.notes)])

    def _repr_markdown_(self) -> str:
        rows = [f"| {name} | {text.markdown(said)} |" for name, said in self.said.items()]
        notes = [f"**{text.markdown(note)}**" for note in self.notes]
        suit = f"{len(self.suitable)} methods suit: {', '.join(text.markdown(name) for name in self.suitable)}."
        others = [
            f"- not {', '.join(text.markdown(name) for name in names)}: {text.markdown(reason)}"
            for reason, names in self._reasons().items()
        ]
        return "\n\n".join([*notes, "\n".join(["| | |", "| --- | --- |", *rows]), suit, "\n".join(others)])


def describe(model: keras.Model, sample: ImageDataset | None = None) -> Description:
    """What was understood of a model: its input and scaling, what its scores are, its classes, the layers that class
    activation maps read, and which methods suit.

    Args:
        model: a Keras model, best from `xaiutils.wrap`.
        sample: labelled images in [0, 255]: how well the model does on them is said first, and whether pixels scaled
            in another way do better (`xaiutils.own_model.measure_scaling`).

    Raises ModelError where the model cannot be explained, with the way out.
    """
    network, facts = Network.of(model), facts_of(model)
    candidates = _candidates(network)
    cam, no_cam = _cam_layers(network)
    said = {
        "model": _model(model, network, facts),
        "images": _images(network),
        **({"other inputs": _other_inputs(model)} if isinstance(model, WrappedModel) and model.held_inputs else {}),
        "scaling": _scaling(network, facts),
        **_head(network, facts),
        "classes": _classes(network, facts),
        "kind": _kind(network),
        "CAM layer": no_cam or " and ".join(_layer(network, path) for path in cam),
        "other layers": "; ".join(_layer(network, p) for p in candidates if p not in cam) or "none with a map",
    }
    methods = {name: suits(network, name) for name in METHODS}
    notes = (*_measured(model, facts, sample), *(facts.notes if facts is not None else ()))
    return Description(said, tuple(cam), candidates, methods, notes)


def _model(model: keras.Model, network: Network, facts: ModelFacts | None) -> str:
    source = type(model).__name__ if facts is None else facts.source
    parts = [p for s in network.steps if isinstance(s.operation, keras.Layer) for p in s.operation._flatten_layers()]
    words = " and ".join(sorted({str(p.compute_dtype) for p in parts if p.weights})) or "float32"
    output = "" if facts is None else f", output {facts.output!r}"
    count = model.count_params()
    return f"{source}{output}; {f'{count:,} weights' if count else 'weights not known'}, computed in {words}"


def _images(network: Network) -> str:
    height, width = network.image_size
    size = "any size" if height is None and width is None else f"{height or 'any'} x {width or 'any'} pixels"
    channels = {1: "one channel (grey)", 3: "3 channels (RGB)"}.get(network.channels, f"{network.channels} channels")
    return f"{size}, {channels}, in [0, 255]"


def _other_inputs(model: WrappedModel) -> str:
    cases = model.facts.case_inputs
    return "; ".join(
        f"{name} {layer.row_shape}: "
        + ("every case brings its own row" if name in cases else f"held at {np.array2string(layer.rows[0])}")
        for name, layer in model.held_inputs.items()
    )


def _scaling(network: Network, facts: ModelFacts | None) -> str:
    own = [_layer_of_scaling(step) for step in scaling_steps(network, facts)]
    inside = f"layers of the model that scale: {', '.join(own)}" if own else "no layer of the model scales"
    if facts is None:
        return f"by the model itself, from [0, 255]; {inside} (a bare Keras model: see xai.wrap)"
    return f"{facts.scaling} ({_FROM.get(facts.scaling_from, facts.scaling_from)}); {inside}"


def _layer_of_scaling(step: Step) -> str:
    return f"{step.path} ({type(step.operation).__name__})"


def scaling_steps(network: Network, facts: ModelFacts | None = None) -> list[Step]:
    """What scales the image in the user's own model before it meets any weights, in order."""
    found: list[Step] = []
    key = network.input_key
    while True:
        readers = [step for step in network.steps_to_logits if key in step.reads]
        is_scaling = len(readers) == 1 and isinstance(readers[0].operation, _SCALES)
        if len(readers) != 1 or (getattr(readers[0].operation, "weights", None) and not is_scaling):
            return found
        if facts is None or "/" in readers[0].path:  # of a wrapped model, its own layers lie within it
            found += readers if is_scaling or type(readers[0].operation).__name__ in _SCALING_STEPS else []
        key = readers[0].outputs[0]
    return found


def _head(network: Network, facts: ModelFacts | None) -> dict[str, str]:
    """What the output is, and what number of it is explained."""
    told = "" if facts is None or facts.head is None else f" (head={facts.head!r} was given)"
    n = network.n_classes
    last = network.producer(network.logits_key)
    if network.activation == "score":
        return {"head": f"a score{told}", "score": "the output in its own units: positive values in a map raise it"}
    if last is not None and last.path.startswith("log_probability"):
        one = network.activation == "softmax"
        what = f"probabilities of {n} classes, which sum to one" if one else f"{n} independent probabilities"
        score = "log p" if one else "log p - log (1 - p)"
        return {"head": f"{what}; not made by one activation{told}", "score": f"{score} of the class"}
    logits = _ends_in_logits(network, last)
    if network.activation == "binary":
        head = "one unit of logits" if logits else "one sigmoid unit"
        return {"head": f"{head}{told}", "score": "z, the log-odds of class 1, and -z of class 0"}
    if network.activation == "sigmoid":
        return {"head": f"{n} independent sigmoids{told}", "score": "the log-odds of the label (before its sigmoid)"}
    if logits:
        return {"head": f"{n} logits, read as those of a softmax{told}", "score": "the logit of the class"}
    return {"head": f"softmax over {n} classes{told}", "score": "the logit of the class (before the softmax)"}


def _ends_in_logits(network: Network, last: Step | None) -> bool:
    """Whether no activation stands after the logits, in the graph or fused into the last layer."""
    if last is None or network.is_head(last):
        return False
    after = {network.logits_key}
    for step in network.steps:
        if after & set(step.reads):
            after.update(step.outputs)
            if activation_of(network, step)[0] in ("softmax", "log_softmax", "sigmoid"):
                return False
    return True


def _classes(network: Network, facts: ModelFacts | None) -> str:
    names = None if facts is None else facts.class_names
    if network.activation == "score":
        return f"none: {names[0] if names else 'one score'}"
    if names is None:
        return f"{network.n_classes}, not named: give class_names to xai.wrap"
    said = ", ".join(f"{i} {name}" for i, name in enumerate(names[:12])) + (", ..." if len(names) > 12 else "")
    positive = facts.positive_class if facts is not None else None
    return f"{said}; to be detected: {positive}" if positive else said


def _kind(network: Network) -> str:
    attention = len(attention_steps(network))
    convolutions = sum("Conv" in type(step.operation).__name__ for step in network.steps_to_logits)
    if not attention and not convolutions:
        return "neither convolutions nor attention layers are known in it"
    parts = [text.counted(convolutions, "convolution")] if convolutions else []
    parts += [text.counted(attention, "attention layer")] if attention else []
    return f"{'transformer' if attention else 'convolutional network'}: {', '.join(parts)}"


def _candidates(network: Network) -> dict[str, tuple[int, int]]:
    """Layers that have learned something, or follow one, and have a map: the last one of each grid."""
    before = ancestors(network)
    found: dict[str, tuple[int, int]] = {}
    for path in network.spatial_layers():
        step, grid = network.step(path), network.grid(path)
        learned = any(has_learned_weights(s.operation) for s in (step, *before[step]))
        if grid is not None and learned and not isinstance(step.operation, layers.ZeroPadding2D):
            found = {p: g for p, g in found.items() if g != grid} | {path: grid}
    return found


def _cam_layers(network: Network) -> tuple[list[str], str]:
    try:
        return network.cam_layers(), ""
    except ModelError as error:
        return [], f"none: {error}"


def _layer(network: Network, path: str) -> str:
    grid = network.grid(path)
    return path if grid is None else f"{path} ({grid[0]} x {grid[1]})"


def _measured(model: keras.Model, facts: ModelFacts | None, sample: ImageDataset | None) -> Iterator[str]:
    if sample is None or (facts is not None and facts.scaling_from == "measured"):
        return
    found = measure_scaling(lambda name: wrap(model, scaling=name), sample)
    yield from found.sentences
