"""A Keras classifier as attribution sees it: one flat graph, its logits, and any layer's activation."""

import copy
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.graph import cam_layers, place_tracing, places
from xaiutils.graph.flat_graph import FlatGraph, ModelError, Rule, Step, as_function
from xaiutils.graph.head import find_head
from xaiutils.graph.own_calls import traced
from xaiutils.graph.trace_dependencies import TraceDependencies
from xaiutils.models.wrapped import facts_of

__all__ = ["ModelError", "Network", "Rule", "Step"]


class Network(FlatGraph):
    """The flat graph of a classifier with one image input and one output of class scores.

    Attributes: ``image_size`` (height, width; None where the model takes any), ``channels``, ``n_classes``, and
    ``activation``: "softmax", "sigmoid" (one independent probability for each class), "binary" (one unit, read as two
    classes with the scores -z and z) or "score" (a number in its own units, which is no class: a regression's output,
    or a function of another head's logits; a positive value in a map raises it).
    """

    _known: ClassVar["weakref.WeakKeyDictionary[keras.Model, Network]"] = weakref.WeakKeyDictionary()

    def __init__(self, model: keras.Model):
        function = as_function(model) or traced(model)
        if function is None:
            raise ModelError(
                f"{type(model).__name__} has never been called, so the size of its images is not known: call it once "
                "on a batch of images, model(images[:1])."
            )
        _check_inputs(function)
        if len(function.outputs) != 1 or len(function.outputs[0].shape) != 2:
            raise ModelError(_output_error(function))
        super().__init__(function)
        self._own_layers = _own_layers(model)
        self._is_retraced |= as_function(model) is None
        if self._own_layers:  # its graph was made for this network, and goes
            self._function = lambda: None
        self.image_size = self.size_traced
        units = self.shapes[self.output_key][-1]
        facts = facts_of(model)
        head = find_head(self, self.output_key, None if facts is None else facts.head)
        self._without_activation, self.logits_key = head.without_activation, head.logits
        self._head_key = self.logits_key
        if head.log is not None:
            self.logits_key = self.append("log_probability", head.log, head.leaves, self.shapes[head.logits])
        if head.choice is not None:
            self.logits_key = self.repeat(head.choice, head.logits, self.shapes[self.output_key])
        self.activation = "binary" if units == 1 and head.activation != "score" else head.activation
        self.n_classes = 2 if units is None or self.activation == "binary" else units
        watched = [*(step.operation for step in self.steps), *self._own_layers]
        self._dependencies = TraceDependencies({id(operation): operation for operation in watched}.values())
        height, width = self.image_size
        if height is not None and width is not None:
            self.trace_shapes((height, width))
        self._check_logits(model)
        self._dependencies.settle()

    @classmethod
    def of(cls, model: keras.Model) -> "Network":
        """The network of ``model``, made once for each model and forgotten with it; made again where layers came or
        went, here or in a nested model, or changed in what compiled passes keep of them."""
        if not isinstance(model, keras.Model):
            raise ModelError(
                f"expected a Keras model, got {type(model).__name__}; a file or another object: xai.wrap(model)."
            )
        network = cls._known.get(model)
        changed = network is None or not network.same_graph(model) or network._own_layers != _own_layers(model)
        if network is None or changed or network._dependencies.changed():
            network = cls._known[model] = cls(model)
        return network

    def with_score(self, name: str, operation: Callable[[Any], Any]) -> "Network":
        """The same network with one more step, ``operation(the graph's own logits) -> (n, 1)``, whose result is its
        score."""
        twin = copy.copy(self)
        twin.steps, twin.shapes, twin._producer = list(self.steps), dict(self.shapes), dict(self._producer)
        twin._cache, twin._ancestors, twin._calls = {}, None, self._calls.copy()
        twin.logits_key = twin.append(name, operation, [self.logits_key], (None, 1))
        twin.activation, twin.n_classes = "score", 1
        return twin

    def with_rule(self, rule: Rule) -> "Network":
        """The same network, of which ``rule`` computes every step, whatever pass runs."""
        twin = copy.copy(self)
        twin._cache, twin._own_rule = {}, rule
        return twin

    def _check_logits(self, model: keras.Model) -> None:
        """One look at real numbers: what was found must give what the model gives. The shapes are from then on those
        of the tensors that it made, for a layer may declare others: at rest keras.layers.RandomCrop crops nothing.

        Where every graph is Keras' own, its steps are the model, which need not be called beside them: one pass of the
        network gives both the output and the logits.
        """
        size = [n or 96 for n in self.image_size]
        noise = tf.constant(np.random.default_rng(0).uniform(0, 255, (1, *size, self.channels)).astype(np.float32))
        shapes: dict[int, tuple[int | None, ...]] = {}
        at_head: dict[int, Any] = {}  # the result with its activation, where that is fused

        def watched(step: Step, inputs: list[Any], compute: Callable[[list[Any]], list[Any]]) -> list[Any]:
            made = compute(inputs)
            shapes.update({key: (None, *y.shape[1:]) for key, y in zip(step.outputs, made, strict=True)})
            if self.is_head(step) and not self._is_retraced:
                (at_head[self._head_key],) = step.call(step.operation, dict(zip(step.reads, inputs, strict=True)))
            return made

        found, output = self.run({self.input_key: noise}, [self.logits_key, self.output_key], rule=watched)
        logits = self.two_sided(found)
        if self._is_retraced:
            (output,) = keras.tree.flatten(model(noise, training=False))
        elif at_head:
            (output,) = self.run(at_head, [self.output_key])
        expected = keras.ops.convert_to_numpy(output).astype(np.float64)
        if None not in self.image_size:
            self.correct_shapes(shapes)
        probabilities = (logits if self.activation == "score" else self.probabilities(logits)).numpy()
        if expected.shape[1] == 1 and self.activation == "binary":
            logits, probabilities = logits[:, 1:], probabilities[:, 1:]
        if not np.isfinite(expected).all():
            return  # the caller's own weights; explain says so
        answers = (probabilities, logits.numpy(), tf.nn.log_softmax(logits).numpy())
        if not any(np.allclose(found, expected, rtol=2e-2, atol=2e-3) for found in answers):
            raise ModelError(
                "the logits that were found do not give the model's output; give a model that ends in a Dense layer of "
                "logits, then keras.layers.Softmax or Activation."
            )

    # What attribution asks -----------------------------------------------------------------------------------------

    def logits(self, images: Any) -> Any:
        """Logits ``(n, n_classes)`` as float32; a one-unit model gives (-z, z)."""
        return self.forward(images, [])[0]

    def forward(
        self,
        images: Any,
        layers: Iterable[str | tuple[str, int]],
        watch: Callable[[Any], None] | None = None,
        rule: Rule | None = None,
    ) -> tuple[Any, list[Any]]:
        """Logits and the outputs of ``layers`` for a tensor of images, on whatever tape is recording.

        A layer is a path, or a path and the number of the output where a layer has several (the attention
        probabilities are the output 1 of `xaiutils.models.vit.SelfAttention`). See `Rule` for ``rule``.
        """
        named = [(layer, 0) if isinstance(layer, str) else layer for layer in layers]
        wanted = [self.step(path).outputs[number] for path, number in named]
        logits, *outputs = self.run({self.input_key: images}, [self.logits_key, *wanted], watch, rule)
        return self.two_sided(logits), outputs

    def from_layer(self, path: str, activation: Any, rule: Rule | None = None) -> Any:
        """Logits when ``path`` outputs ``activation``; only the layers after it run."""
        return self.two_sided(self.run({self.step(path).outputs[0]: activation}, [self.logits_key], rule=rule)[0])

    def cut(self, path: str) -> tuple[int, ...]:
        """Keys of the tensors that the layers after ``path`` read: its own output first, then those that lead around
        it (a transformer's residual stream)."""
        made, around = self._made_from(path)
        return self.step(path).outputs[0], *sorted(around - made)

    def batch_factor_after(self, path: str) -> int:
        """How many times more images the layers after ``path`` may be given at once than the whole network, by the
        largest tensors of both; at least 1."""
        made, around = self._made_from(path)
        sizes = {key: math.prod(n or 1 for n in shape) for key, shape in self.shapes.items()}
        return max(1, max(sizes.values()) // max(sizes[key] for key in made | around))

    def _made_from(self, path: str) -> tuple[set[int], set[int]]:
        """Keys of a layer's output with all tensors before the logits that are made from it, and of what they read."""
        made, read = {self.step(path).outputs[0]}, set()
        for step in self.steps:  # in the order of computation
            inputs = set(step.reads)
            if inputs & made and self.leads_to_logits(step):
                made.update(step.outputs)
                read |= inputs
        return made, read

    def up_to_cut(self, images: Any, keys: Sequence[int]) -> tuple[Any, list[Any]]:
        """Logits, and the tensors of a `cut`."""
        logits, *tensors = self.run({self.input_key: images}, [self.logits_key, *keys])
        return self.two_sided(logits), tensors

    def from_cut(self, keys: tuple[int, ...], tensors: Iterable[Any]) -> Any:
        """Logits that follow from the tensors of a `cut`; only the layers after it run."""
        return self.two_sided(self.run(dict(zip(keys, tensors, strict=True)), [self.logits_key])[0])

    def two_sided(self, logits: Any) -> Any:
        """What the graph's logits are handed on as: float32, and (-z, z) of one unit."""
        logits = tf.cast(logits, tf.float32)
        return tf.concat([-logits, logits], axis=-1) if self.activation == "binary" else logits

    def probabilities(self, logits: Any) -> Any:
        """Probabilities ``(n, n_classes)`` of logits as `logits` returns them; ModelError of a score."""
        self.check_probabilities()
        return tf.nn.softmax(logits) if self.activation == "softmax" else tf.nn.sigmoid(logits)

    def check_probabilities(
        self, instead: str = "use the score itself (score='logit', weighting='softmax', probabilities=False)"
    ) -> None:
        """ModelError where the logits are no logits but a score, with what to do ``instead``."""
        if self.activation == "score":
            raise ModelError(
                "a score in its own units (a regression's output, or targets= given as a function) has no probability, "
                f"which was asked for; {instead}."
            )

    @property
    def n_units(self) -> int:
        """Columns of the graph's own logits."""
        return self.shapes[self.logits_key][-1] or self.n_classes

    @property
    def image_spec(self) -> tf.TensorSpec:
        """Any number of images: one trace serves every batch size, so nothing retraces or is padded."""
        return tf.TensorSpec([None, *self.image_size, self.channels], tf.float32)

    # Layers --------------------------------------------------------------------------------------------------------

    def layer_names(self) -> list[str]:
        """The paths that an error suggests: those of layers with a map."""
        return self.spatial_layers()

    def spatial_layers(self) -> list[str]:
        """Paths of the layers whose output is a map of the image, channels at each place or tokens of patches, that
        the logits depend on, in order."""
        return place_tracing.spatial_layers(self)

    def field_of(self, step: Step) -> places.Field | None:
        """Where the output of a layer lies in the image and how it is stored; None where it is no map of the image."""
        return place_tracing.field_of(self, step)

    def field(self, path: str) -> places.Field:
        """The `field_of` of a layer; ModelError where it has none."""
        return place_tracing.field_at(self, path)

    def grid(self, path: str) -> tuple[int, int] | None:
        """(rows, columns) of a layer's output: of its feature map, or of its patch tokens; None where it has none."""
        found = self.field_of(self.step(path))
        return None if found is None else found.grid

    def place(self, path: str) -> places.Place:
        """Where the grid of a layer lies in the image."""
        return self.field(path).place

    def to_grid(self, path: str, activation: Any) -> Any:
        """A layer's output as ``(n, rows, columns, channels)``, rows from the image's top and columns from its left;
        class and register tokens are dropped."""
        return self.field(path).to_grid(activation)

    def cam_layers(self, name: str = "") -> list[str]:
        """Paths of the layers that a CAM reads; see `xaiutils.graph.cam_layers`."""
        return cam_layers.cam_layers(self, name)

    def cam_layer(self, name: str = "") -> str:
        """The path of the one layer that a CAM reads; ModelError where the score takes several ways."""
        paths = self.cam_layers(name)
        if len(paths) > 1:
            raise ModelError(f"the score goes through several layers, {', '.join(paths)}; give layer=, one of them.")
        return paths[0]


def _own_layers(model: keras.Model) -> list[Any]:
    """The layers of a model with a call of its own; none of a functional one, whose graph names them."""
    return [] if as_function(model) is not None else model._flatten_layers(include_self=False)


def _check_inputs(function: Any) -> None:
    shapes = [tuple(t.shape) for t in function.inputs]
    if len(shapes) != 1 and any(len(shape) == 4 for shape in shapes):
        named = ", ".join(f"{tensor.name} {tuple(tensor.shape)}" for tensor in function.inputs)
        raise ModelError(
            f"the model takes the inputs {named}; hold all but the image's at given values, or at each case's own row: "
            "xai.wrap(model, inputs={name: value, ...})."
        )
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ModelError(f"the model takes inputs {shapes}; expected one image input (n, height, width, C).")
    _, first, _, last = shapes[0]
    if first in (1, 3) and (last is None or last > 4):
        raise ModelError(
            f"the model takes images {shapes[0]}, channels first; images are (n, height, width, C) here: "
            "xai.wrap(model, channels_first=True)."
        )


def _output_error(function: Any) -> str:
    found = [f"{n} {tuple(t.shape)}" for n, t in zip(function.output_names, function.outputs, strict=True)]
    said = f"the model returns {', '.join(found)}; expected one output (n, classes)."
    if len(found) == 1:
        return said
    return f"{said} Choose one of them: xai.wrap(model, output={function.output_names[0]!r})."
