"""A Keras model as one flat list of operations, which runs on tensors from and to any point.

Nested models (a backbone used as a layer) are opened by following their graphs; nothing is cloned, no layer is called
symbolically, and the user's model is left as it was. A gradient tape sees every activation.
"""

import functools
import inspect
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from xaiutils.backend import keras, tf
from xaiutils.graph.own_calls import OpaqueModel, retraced
from xaiutils.registry import suggest

Functional = keras.src.models.Functional  # Keras does not export the class, only the factory keras.Model
Shape = tuple[int | None, ...]


class ModelError(ValueError):
    """The model is not one that can be explained; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of the flat graph. ``inputs`` maps the identities of its symbolic arguments to tensor keys."""

    path: str
    operation: Any
    arguments: Any
    inputs: dict[int, int]
    outputs: tuple[int, ...]

    def call(self, operation: Any, values: dict[int, Any]) -> list[Any]:
        """The outputs of ``operation`` on this step's arguments, in inference mode.

        Augmentation layers are active unless told otherwise, and Keras records that as if the user had said so; like
        ``model(x, training=False)``, this tells every layer.
        """
        args, kwargs = self.call_arguments(values)
        return keras.tree.flatten(operation(*args, **kwargs))

    def call_arguments(self, values: dict[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What `call` hands over: the arguments with tensors in place of symbols, and ``training=False``."""
        args, kwargs = self.arguments.convert(
            lambda x: values[self.inputs[id(x)]] if isinstance(x, keras.KerasTensor) else x
        )
        operation = self.operation
        if isinstance(operation, keras.Layer) and _takes_training(operation.call):
            kwargs = {**kwargs, "training": False}
        return args, kwargs

    @functools.cached_property
    def reads(self) -> list[int]:
        """Keys of the tensors that the operation reads, in order."""
        return [self.inputs[id(t)] for t in self.arguments.keras_tensors]


# How a step is computed when a method changes it: (step, inputs, compute) -> outputs, where ``compute(inputs)`` is what
# the step does by itself. It is called for every step, and may return ``compute(inputs)``.
Rule = Callable[[Step, list[Any], Callable[[list[Any]], list[Any]]], list[Any]]


class FlatGraph:
    """The operations of a functional model with one input and one output, in the order of computation.

    Tensors are known by numbers, their keys: ``shapes`` has each tensor's shape, the batch first; ``input_key`` is the
    image's and ``output_key`` the model's output. ``logits_key`` is the output's too, until a `Network` knows better.
    """

    def __init__(self, function: Any):
        self.steps: list[Step] = []
        self._calls: Counter[str] = Counter()  # of each layer, by its path
        self.shapes: dict[int, Shape] = {}
        self._nested: list[tuple[Any, Any]] = []  # nested models, and their graphs
        self._function: Callable[[], Any] = weakref.ref(
            function
        )  # whoever keeps the graph must not keep the model alive
        self._cache: dict[Any, Any] = {}
        self._own_rule: Rule | None = None  # by which every step is computed
        self._is_retraced = False  # whether a graph in it was found by calling a model with a call of its own
        self._ancestors: tuple[int, frozenset[Step]] | None = None
        self.input_key = self._new_key(function.inputs[0].shape)
        (self.output_key,) = self._flatten(function, [self.input_key], "")
        self.logits_key = self.output_key
        self._without_activation: Callable[[Any], Any] | None = None  # a head with a fused softmax or sigmoid,
        self._head_key = self.output_key  # and its tensor
        self._producer = {key: step for step in self.steps for key in step.outputs}
        self._traced_size: tuple[int, int] | None = None

    def _new_key(self, shape: Sequence[int | None]) -> int:
        key = len(self.shapes)
        self.shapes[key] = tuple(shape)
        return key

    def _flatten(self, function: Any, input_keys: list[int], prefix: str) -> list[int]:
        keys = {id(t): key for t, key in zip(function.inputs, input_keys, strict=True)}
        for depth in sorted(function._nodes_by_depth, reverse=True):
            for node in function._nodes_by_depth[depth]:
                if node.is_input or any(id(t) not in keys for t in node.input_tensors):
                    continue
                inner = as_function(node.operation)
                if inner is not None:
                    self._nested.append((node.operation, inner))
                elif isinstance(node.operation, keras.Model):  # with a call of its own
                    inner = retraced(node.operation, node.arguments.args, node.arguments.kwargs)
                    self._is_retraced = True
                if inner is None:
                    outputs = [self._new_key(t.shape) for t in node.outputs]
                    path = self._unique(prefix + node.operation.name)
                    self.steps.append(Step(path, node.operation, node.arguments, keys, tuple(outputs)))
                else:
                    given = [keys[id(t)] for t in node.input_tensors]
                    inputs = given if len(given) == len(inner.inputs) else list(dict.fromkeys(given))
                    outputs = self._flatten(inner, inputs, f"{prefix}{node.operation.name}/")
                keys.update({id(t): key for t, key in zip(node.outputs, outputs, strict=True)})
        return [keys[id(t)] for t in function.outputs]

    def _unique(self, path: str) -> str:
        """A layer that is called several times has a path for each call: "act", "act#2", ..."""
        path = path.split("#")[0]
        self._calls[path] += 1
        return f"{path}#{self._calls[path]}" if self._calls[path] > 1 else path

    def append(self, name: str, operation: Callable[..., Any], reads: Sequence[int], shape: Shape) -> int:
        """Add a step that calls ``operation`` on the tensors ``reads``; the key of its one output."""
        symbols = [keras.KerasTensor(self.shapes[key]) for key in reads]
        arguments = type(self.steps[-1].arguments)(*symbols)
        inputs = {id(symbol): key for symbol, key in zip(symbols, reads, strict=True)}
        return self._add(Step(self._unique(name), operation, arguments, inputs, (self._new_key(shape),)))

    def repeat(self, step: Step, read: int, shape: Shape) -> int:
        """Add a step of one input once more, on the tensor ``read`` in its place; the key of its one output."""
        inputs = {id(tensor): read for tensor in step.arguments.keras_tensors}
        outputs = (self._new_key(shape),)
        return self._add(Step(self._unique(step.path), step.operation, step.arguments, inputs, outputs))

    def _add(self, step: Step) -> int:
        self.steps.append(step)
        self._producer[step.outputs[0]] = step
        return step.outputs[0]

    def same_graph(self, model: keras.Model) -> bool:
        """Whether the model's layers, and those of its nested models, are still connected as they were."""
        nested = all(as_function(inner) is function for inner, function in self._nested)
        return nested and as_function(model) is self._function()

    # Looking up ----------------------------------------------------------------------------------------------------

    def step(self, path: str) -> Step:
        """The step of a layer, by its path or by its bare name where that is unique."""
        found = [s for s in self.steps if s.path == path] or [s for s in self.steps if s.path.split("/")[-1] == path]
        if len(found) != 1:
            what = "is not in the model" if not found else f"is in it {len(found)} times; give its path"
            raise ModelError(f"layer {path!r} {what}; {suggest(path, self.layer_names()[-30:])}")
        return found[0]

    def layer_names(self) -> list[str]:
        """The paths that an error suggests."""
        return [step.path for step in self.steps_to_logits]

    def producer(self, key: int) -> Step | None:
        """The step that makes a tensor; None for the image."""
        return self._producer.get(key)

    def producers(self, step: Step) -> list[Step | None]:
        """The steps that make the inputs of ``step``, in order; None for the image."""
        return [self._producer.get(key) for key in step.reads]

    def input_shapes(self, step: Step) -> list[Shape]:
        """Shapes of the inputs of ``step``, the batch first."""
        return [self.shapes[key] for key in step.reads]

    def sizes(self, keys: Sequence[int]) -> list[tuple[int, ...]]:
        """Shapes of tensors without the batch; 1 for a size that the model leaves open (see `trace_shapes`)."""
        return [tuple(n or 1 for n in self.shapes[key][1:]) for key in keys]

    @property
    def steps_to_logits(self) -> list[Step]:
        """The steps that the logits depend on, in order."""
        return [step for step in self.steps if self.leads_to_logits(step)]

    def leads_to_logits(self, step: Step) -> bool:
        """Whether the logits depend on a step."""
        if self._ancestors is None or self._ancestors[0] != self.logits_key:
            self._ancestors = self.logits_key, frozenset(self._needed([self.logits_key], ()))
        return step in self._ancestors[1]

    def is_head(self, step: Step) -> bool:
        """Whether a softmax or sigmoid is fused into this step, which computes the logits without it."""
        return self._without_activation is not None and self._head_key in step.outputs

    @property
    def is_opaque(self) -> bool:
        """Whether a model with a call of its own, of which nothing is known inside, is among the steps."""
        return any(isinstance(step.operation, OpaqueModel) for step in self.steps)

    @property
    def size_traced(self) -> tuple[int | None, int | None]:
        """(height, width) of the images that shapes are those of."""
        height, width = self.shapes[self.input_key][1:3]
        return height, width

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.shapes[self.input_key][3] or 3

    def compiled(self, key: Any, build: Callable[[], Any]) -> Any:
        """What is stored under ``key``, such as a graph-compiled function; ``build`` makes it at the first call."""
        if key not in self._cache:
            self._cache[key] = build()
        return self._cache[key]

    # Running -------------------------------------------------------------------------------------------------------

    def run(
        self,
        values: dict[int, Any],
        wanted: Sequence[int],
        watch: Callable[[Any], None] | None = None,
        rule: Rule | None = None,
    ) -> list[Any]:
        """Compute ``wanted`` tensors from the given ones, running only the steps that they need.

        ``watch`` is called with each wanted tensor as it is made: a tape's watch, where the image may be cut off.
        ``rule`` computes each step in its own way.
        """
        needed = self._needed([k for k in wanted if k not in values], values)
        given, values = set(values), dict(values)
        if self.input_key not in given and any(self.input_key in step.reads for step in needed):
            raise ModelError("the logits do not follow from this layer alone: other paths lead around it.")
        for step in self.steps:
            if step in needed:
                inputs, compute = [values[k] for k in step.reads], functools.partial(self.compute, step)
                outputs = compute(inputs) if rule is None else rule(step, inputs, compute)
                values.update({k: v for k, v in zip(step.outputs, outputs, strict=True) if k not in given})
                if watch is not None:
                    for key in wanted:
                        if key in step.outputs:
                            watch(values[key])
        return [values[k] for k in wanted]

    def _needed(self, keys: list[int], given: Any) -> set[Step]:
        """The steps that make ``keys`` from the tensors ``given`` and the image."""
        needed: set[Step] = set()
        while keys:
            step = self._producer.get(keys.pop())
            if step is not None and step not in needed:
                needed.add(step)
                keys += [k for k in step.reads if k not in given]
        return needed

    def compute(self, step: Step, inputs: Sequence[Any]) -> list[Any]:
        """The outputs of a step by itself; of the last one, the logits."""
        if self._own_rule is not None:
            return self._own_rule(step, list(inputs), functools.partial(self._as_layer, step))
        return self._as_layer(step, inputs)

    @property
    def has_own_rule(self) -> bool:
        """Whether steps are computed by a rule, not as their layers do: going back, a step is then what the rule makes
        of it."""
        return self._own_rule is not None

    def _as_layer(self, step: Step, inputs: Sequence[Any]) -> list[Any]:
        if self._without_activation is not None and self.is_head(step):
            return [self._without_activation(inputs[0])]
        return step.call(step.operation, dict(zip(step.reads, inputs, strict=True)))

    def inputs_at(self, step: Step, images: Any) -> list[Any]:
        """The inputs of ``step`` for a tensor of images; only what leads to it runs."""
        return self.run({self.input_key: images}, step.reads)

    def trace_shapes(self, size: tuple[int, int]) -> None:
        """Fill in the shapes that the model leaves open (a backbone made for any size) for images of this size."""
        is_open = any(None in shape[1:] for shape in self.shapes.values())
        if self._traced_size == tuple(size) or not (is_open or self._traced_size):
            return
        keys = [k for step in self.steps for k in step.outputs]
        values = self.run({self.input_key: tf.zeros((1, *size, self.channels))}, keys)
        self.shapes.update({k: (None, *v.shape[1:]) for k, v in zip(keys, values, strict=True)})
        self.shapes[self.input_key] = (None, *size, self.channels)
        self._traced_size = (size[0], size[1])

    def correct_shapes(self, made: dict[int, Shape]) -> None:
        """Take the shapes of tensors that were made in place of the declared ones, where they differ."""
        wrong = {key: shape for key, shape in made.items() if shape[1:] != self.shapes[key][1:]}
        if wrong:
            self.shapes.update(wrong)
            self._cache.clear()

    @property
    def is_half(self) -> bool:
        """Whether a layer computes in half precision, which `in_float32` may change for all threads."""
        return bool(self._half())

    def _half(self) -> list[keras.Layer]:
        parts = [p for s in self.steps if isinstance(s.operation, keras.Layer) for p in s.operation._flatten_layers()]
        return [part for part in parts if part.compute_dtype in ("float16", "bfloat16")]

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Within the block, layers that compute in half precision, from float32 variables or none, are traced in
        float32, for passes that take them apart. Layers whose variables have another precision compute in that."""
        half = [part for part in self._half() if part.variable_dtype == "float32" or not part.variables]
        before = [(part, part.dtype_policy) for part in half]
        try:
            for part, _ in before:
                part.dtype_policy = "float32"
            yield
        finally:
            for part, policy in before:
                part.dtype_policy = policy


def _takes_training(call: Callable[..., Any]) -> bool:
    return _has_training(getattr(call, "__func__", call))


@functools.lru_cache(1000)
def _has_training(function: Callable[..., Any]) -> bool:
    return "training" in inspect.signature(function).parameters


def as_function(operation: Any) -> Any | None:
    """The functional graph of a model or nested model; None for a layer (or a model with a call of its own)."""
    for kind in (keras.Sequential, Functional):
        if isinstance(operation, kind):  # a subclass may have another call, and so may an instance
            own = getattr(operation.call, "__func__", None) is not kind.call
            return None if own else operation._functional if kind is keras.Sequential else operation
    return None
