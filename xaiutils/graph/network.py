"""A Keras classifier as attribution sees it: one flat graph, its logits, and any layer's activation.

Nested models (a backbone used as a layer) are opened by walking their graphs; nothing is cloned, no layer is called
symbolically, and the user's model is left as it was. The graph runs on tensors, so a gradient tape sees every
activation, and it can start at an inner layer.
"""

import functools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.graph import cam_layers, places
from xaiutils.graph.changes import Watch
from xaiutils.graph.head import Head, find_head
from xaiutils.graph.steps import ModelError, Rule, Step, as_function
from xaiutils.registry import suggest


class Network:
    """The flat graph of a classifier with one image input and one output of class scores.

    Attributes: ``image_size`` (height, width; None where the model takes any), ``n_classes``, and ``activation``:
    "softmax", "sigmoid" (one independent probability for each class) or "binary" (one unit, read as two classes with
    the scores -z and z).
    """

    _known: ClassVar["weakref.WeakKeyDictionary[keras.Model, Network]"] = weakref.WeakKeyDictionary()

    def __init__(self, model: keras.Model):
        function = as_function(model)
        if function is None:
            raise ModelError(
                f"{type(model).__name__} is not a functional or built Sequential Keras model, so its layers cannot be "
                "followed. Rebuild it as keras.Model(inputs, outputs), or call a Sequential on an image once."
            )
        if len(function.inputs) != 1 or len(function.inputs[0].shape) != 4 or function.inputs[0].shape[-1] != 3:
            shapes = [tuple(t.shape) for t in function.inputs]
            raise ModelError(f"the model takes inputs {shapes}; expected one image input (n, height, width, 3).")
        if len(function.outputs) != 1 or len(function.outputs[0].shape) != 2:
            raise ModelError(_output_error(function))
        self.steps: list[Step] = []
        self._nested: list[tuple[Any, Any]] = []  # nested models, and their graphs
        self._function = weakref.ref(function)  # the cache must not keep the model alive
        self.shapes: dict[int, tuple[int | None, ...]] = {}
        self._compiled: dict[Any, Callable] = {}
        self._input = self._new_key(function.inputs[0])
        self.image_size: tuple[int | None, int | None] = tuple(function.inputs[0].shape[1:3])
        (output,) = self._flatten(function, [self._input], "")
        self._producer = {key: step for step in self.steps for key in step.outputs}
        self._head, self._logits = None, output
        head = find_head(self, output)
        self._head, self._logits, self.activation = head.without_activation, head.logits, head.activation
        if head.log is not None:
            self._logits = self._append_log(head)
        self._watch = Watch({id(step.operation): step.operation for step in self.steps}.values())
        units = self.shapes[output][-1]
        if units == 1:
            self.activation = "binary"
        self.n_classes = 2 if self.activation == "binary" else units
        self._traced_size: tuple[int, int] | None = None
        self._layouts: dict[int, places.Layout | str] = {}  # of the images' size; see `field_of`
        self._fields: dict[Step, places.Field | str] = {}
        if None not in self.image_size:
            self.trace_shapes(self.image_size)
        self._check_logits(model)
        self._watch.settle()

    @classmethod
    def of(cls, model: keras.Model) -> "Network":
        """The network of ``model``, made once for each model and forgotten with it."""
        if not isinstance(model, keras.Model):
            raise ModelError(f"expected a Keras model, got {type(model).__name__}.")
        network = cls._known.get(model)
        if network is None or network._is_stale(model):
            network = cls._known[model] = cls(model)
        return network

    def _is_stale(self, model: keras.Model) -> bool:
        """Whether layers came or went, here or in a nested model, or changed in what compiled passes keep of them."""
        graphs = all(as_function(nested) is function for nested, function in self._nested)
        return as_function(model) is not self._function() or not graphs or self._watch.changed()

    # The graph -----------------------------------------------------------------------------------------------------

    def _new_key(self, tensor: Any) -> int:
        key = len(self.shapes)
        self.shapes[key] = tuple(tensor.shape)
        return key

    def _flatten(self, function: Any, input_keys: list[int], prefix: str) -> list[int]:
        keys = {id(t): key for t, key in zip(function.inputs, input_keys, strict=True)}
        for depth in sorted(function._nodes_by_depth, reverse=True):
            for node in function._nodes_by_depth[depth]:
                if node.is_input or any(id(t) not in keys for t in node.input_tensors):
                    continue
                inner = as_function(node.operation)
                if inner is None:
                    outputs = [self._new_key(t) for t in node.outputs]
                    path = self._unique(prefix + node.operation.name)
                    self.steps.append(Step(path, node.operation, node.arguments, keys, tuple(outputs)))
                else:
                    self._nested.append((node.operation, inner))
                    inputs = [keys[id(t)] for t in node.input_tensors]
                    outputs = self._flatten(inner, inputs, f"{prefix}{node.operation.name}/")
                keys.update({id(t): key for t, key in zip(node.outputs, outputs, strict=True)})
        return [keys[id(t)] for t in function.outputs]

    def _unique(self, path: str) -> str:
        """A layer that is called several times has a path for each call: "act", "act#2", ..."""
        taken = sum(step.path.split("#")[0] == path for step in self.steps)
        return f"{path}#{taken + 1}" if taken else path

    def _append_log(self, head: Head) -> int:
        """A step that makes the logits out of the tensors that the log of the probability is computed from."""
        key = len(self.shapes)
        self.shapes[key] = self.shapes[head.logits]
        symbols = [keras.KerasTensor(self.shapes[leaf]) for leaf in head.leaves]
        arguments = type(self.steps[-1].arguments)(*symbols)
        inputs = {id(symbol): leaf for symbol, leaf in zip(symbols, head.leaves, strict=True)}
        step = Step(self._unique("log_probability"), head.log, arguments, inputs, (key,))
        self.steps.append(step)
        self._producer[key] = step
        return key

    def _check_logits(self, model: keras.Model) -> None:
        """One look at real numbers: what was found must give what the model gives."""
        size = [n or 96 for n in self.image_size]
        noise = tf.constant(np.random.default_rng(0).uniform(0, 255, (2, *size, 3)).astype(np.float32))
        (output,) = keras.tree.flatten(model(noise, training=False))
        expected = keras.ops.convert_to_numpy(output).astype(np.float64)
        logits = self.logits(noise)
        probabilities = self.probabilities(logits).numpy()
        if expected.shape[1] == 1:
            logits, probabilities = logits[:, 1:], probabilities[:, 1:]
        if not np.isfinite(expected).all():
            return  # the caller's own weights; explain says so
        answers = (probabilities, logits.numpy(), tf.nn.log_softmax(logits).numpy())
        if not any(np.allclose(found, expected, rtol=2e-2, atol=2e-3) for found in answers):
            raise ModelError(
                "the logits that were found do not give the model's output; give a model that ends in a Dense layer of "
                "logits, then keras.layers.Softmax or Activation."
            )

    def trace_shapes(self, size: tuple[int, int]) -> None:
        """Fill in the shapes that the model leaves open (a backbone made for any size) for images of this size."""
        is_open = any(None in shape[1:] for shape in self.shapes.values())
        if self._traced_size == tuple(size) or not (is_open or self._traced_size):
            return
        values = self._run({self._input: tf.zeros((1, *size, 3))}, [k for step in self.steps for k in step.outputs])
        keys = [k for step in self.steps for k in step.outputs]
        self.shapes.update({k: (None, *v.shape[1:]) for k, v in zip(keys, values, strict=True)})
        self.shapes[self._input] = (None, *size, 3)
        self._traced_size = tuple(size)
        self._layouts, self._fields = {}, {}

    def _inputs_of(self, step: Step) -> list[int]:
        return step.reads

    def _run(
        self, values: dict[int, Any], wanted: list[int], watch: Callable | None = None, rule: Rule | None = None
    ) -> list[Any]:
        """Compute ``wanted`` tensors from the given ones, running only the steps that they need.

        ``watch`` is called with each wanted tensor as it is made: a tape's watch, where the image may be cut off.
        ``rule`` computes each step in its own way.
        """
        needed, open_keys = set(), [k for k in wanted if k not in values]
        while open_keys:
            step = self._producer.get(open_keys.pop())
            if step is not None and step not in needed:
                needed.add(step)
                open_keys += [k for k in self._inputs_of(step) if k not in values]
        given, values = set(values), dict(values)
        if self._input not in given and any(self._input in self._inputs_of(step) for step in needed):
            raise ModelError("the logits do not follow from this layer alone: other paths lead around it.")
        for step in self.steps:
            if step in needed:
                inputs, compute = [values[k] for k in self._inputs_of(step)], functools.partial(self._compute, step)
                outputs = compute(inputs) if rule is None else rule(step, inputs, compute)
                values.update({k: v for k, v in zip(step.outputs, outputs, strict=True) if k not in given})
                for key in step.outputs if watch else ():
                    if key in wanted:
                        watch(values[key])
        return [values[k] for k in wanted]

    def _compute(self, step: Step, inputs: list[Any]) -> list[Any]:
        """The outputs of a step; of the last one, the logits."""
        if self.is_head(step):
            return [self._head(inputs[0])]
        return step.call(step.operation, dict(zip(self._inputs_of(step), inputs, strict=True)))

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
        wanted = [self._key(*((layer,) if isinstance(layer, str) else layer)) for layer in layers]
        logits, *outputs = self._run({self._input: images}, [self._logits, *wanted], watch, rule)
        return self._two_sided(logits), outputs

    def from_layer(self, path: str, activation: Any, rule: Rule | None = None) -> Any:
        """Logits when ``path`` outputs ``activation``; only the layers behind it run."""
        return self._two_sided(self._run({self._key(path): activation}, [self._logits], rule=rule)[0])

    def cut(self, path: str) -> tuple[int, ...]:
        """Keys of the tensors that the layers behind ``path`` read: its own output first, then those that lead around
        it (a transformer's residual stream)."""
        made, around = self._made_from(path)
        return self._key(path), *sorted(around - made)

    def lightness_behind(self, path: str) -> int:
        """How many times more images the layers behind ``path`` may be given at once than the whole network, by the
        largest tensors of both; at least 1."""
        made, around = self._made_from(path)
        sizes = {key: math.prod(n or 1 for n in shape) for key, shape in self.shapes.items()}
        return max(1, max(sizes.values()) // max(sizes[key] for key in made | around))

    def _made_from(self, path: str) -> tuple[set[int], set[int]]:
        """Keys of a layer's output with all tensors before the logits that are made from it, and of what they read."""
        made, read = {self._key(path)}, set()
        for step in self.steps:  # in the order of computation
            inputs = set(self._inputs_of(step))
            if inputs & made and self._before_logits(step):
                made.update(step.outputs)
                read |= inputs
        return made, read

    def up_to_cut(self, images: Any, keys: tuple[int, ...]) -> tuple[Any, list[Any]]:
        """Logits, and the tensors of a `cut`."""
        logits, *tensors = self._run({self._input: images}, [self._logits, *keys])
        return self._two_sided(logits), tensors

    def from_cut(self, keys: tuple[int, ...], tensors: Iterable[Any]) -> Any:
        """Logits that follow from the tensors of a `cut`; only the layers behind it run."""
        return self._two_sided(self._run(dict(zip(keys, tensors, strict=True)), [self._logits])[0])

    def _two_sided(self, logits: Any) -> Any:
        logits = tf.cast(logits, tf.float32)
        return tf.concat([-logits, logits], axis=-1) if self.activation == "binary" else logits

    # What modified passes ask ---------------------------------------------------------------------------------------

    @property
    def steps_to_logits(self) -> list[Step]:
        """The steps that the logits depend on, in order."""
        return [step for step in self.steps if self._before_logits(step)]

    def step(self, path: str) -> Step:
        """The step of a layer, by its path or by its bare name where that is unique."""
        return self._step(path)

    def producers(self, step: Step) -> list[Step | None]:
        """The steps that make the inputs of ``step``, in order; None for the image."""
        return [self._producer.get(key) for key in self._inputs_of(step)]

    def input_shapes(self, step: Step) -> list[tuple[int | None, ...]]:
        """Shapes of the inputs of ``step``, the batch first."""
        return [self.shapes[key] for key in self._inputs_of(step)]

    def inputs_at(self, step: Step, images: Any) -> list[Any]:
        """The inputs of ``step`` for a tensor of images; only what leads to it runs."""
        return self._run({self._input: images}, self._inputs_of(step))

    def is_head(self, step: Step) -> bool:
        """Whether a softmax or sigmoid is fused into this step, which computes the logits without it."""
        return self._head is not None and self._logits in step.outputs

    def probabilities(self, logits: Any) -> Any:
        """Probabilities ``(n, n_classes)`` of logits as `logits` returns them."""
        return tf.nn.softmax(logits) if self.activation == "softmax" else tf.nn.sigmoid(logits)

    def compiled(self, key: Any, build: Callable[[], Callable]) -> Callable:
        """The graph-compiled function stored under ``key``; ``build`` makes it at the first call."""
        if key not in self._compiled:
            self._compiled[key] = build()
        return self._compiled[key]

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Within the block, layers that compute in half precision, from float32 variables or none, are traced in
        float32, for passes that take them apart. Layers whose variables have another precision compute in that."""
        parts = [p for s in self.steps if isinstance(s.operation, keras.Layer) for p in s.operation._flatten_layers()]
        half = [part for part in parts if part.compute_dtype in ("float16", "bfloat16")]
        before = [(part, part.dtype_policy) for part in half if part.variable_dtype == "float32" or not part.variables]
        try:
            for part, _ in before:
                part.dtype_policy = "float32"
            yield
        finally:
            for part, policy in before:
                part.dtype_policy = policy

    @property
    def image_spec(self) -> tf.TensorSpec:
        """Any number of images: one trace serves every batch size, so nothing retraces or is padded."""
        return tf.TensorSpec([None, *self.image_size, 3], tf.float32)

    # Layers --------------------------------------------------------------------------------------------------------

    def spatial_layers(self) -> list[str]:
        """Paths of the layers whose output is a map of the image, channels at each place or tokens of patches, that
        the logits depend on, in order."""
        return [step.path for step in self.steps_to_logits if self.field_of(step) is not None]

    def _before_logits(self, step: Step) -> bool:
        if not hasattr(self, "_ancestors"):
            self._ancestors: set[Step] = set()
            open_keys = [self._logits]
            while open_keys:
                producer = self._producer.get(open_keys.pop())
                if producer is not None and producer not in self._ancestors:
                    self._ancestors.add(producer)
                    open_keys += self._inputs_of(producer)
        return step in self._ancestors

    def _step(self, path: str) -> Step:
        """The step of a layer given by its path, or by its bare name where that is unique."""
        found = [s for s in self.steps if s.path == path] or [s for s in self.steps if s.path.split("/")[-1] == path]
        if len(found) != 1:
            what = "is not in the model" if not found else f"is in it {len(found)} times; give its path"
            raise ModelError(f"layer {path!r} {what}; {suggest(path, self.spatial_layers()[-30:])}")
        return found[0]

    def _key(self, path: str, output: int = 0) -> int:
        return self._step(path).outputs[output]

    def field_of(self, step: Step) -> places.Field | None:
        """Where the output of a layer lies in the image and how it is stored; None where it is no map of the image."""
        if step not in self._fields:
            if not self._layouts and None not in self.shapes[self._input][1:]:
                with tf.init_scope():  # now, though a function may be in the making
                    self._layouts = places.follow(self)
            layout = self._layouts.get(step.outputs[0], "")
            is_map = isinstance(layout, places.Layout)
            self._fields[step] = places.field(layout, self.shapes[step.outputs[0]]) if is_map else layout
        found = self._fields[step]
        return found if isinstance(found, places.Field) else None

    def why_no_field(self, step: Step) -> str:
        """What took the places of a layer's output away; "" where nothing did but a pooling, or where it has them."""
        found = None if self.field_of(step) else self._fields[step]
        return found or ""

    @property
    def size_traced(self) -> tuple[int | None, int | None]:
        """(height, width) of the images that shapes and places are those of."""
        return tuple(self.shapes[self._input][1:3])

    def field(self, path: str) -> places.Field:
        """The `field_of` of a layer that has one."""
        return self.field_of(self._step(path))

    def grid(self, path: str) -> tuple[int, int] | None:
        """(rows, columns) of a layer's output: of its feature map, or of its patch tokens; None where it has none."""
        found = self.field_of(self._step(path))
        return found and found.grid

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


def _output_error(function: Any) -> str:
    found = [f"{n} {tuple(t.shape)}" for n, t in zip(function.output_names, function.outputs, strict=True)]
    said = f"the model returns {', '.join(found)}; expected one output (n, classes)."
    if len(found) == 1:
        return said
    return f"{said} Give a model of one of them: keras.Model(model.inputs, model.outputs[i])."
