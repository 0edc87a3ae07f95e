"""What a model's flat graph is made of, and the error for models that cannot be explained."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xaiutils.backend import keras

Functional = keras.src.models.Functional  # Keras does not export the class, only the factory keras.Model


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
        if isinstance(operation, keras.Layer) and "training" in inspect.signature(operation.call).parameters:
            kwargs = {**kwargs, "training": False}
        return args, kwargs

    @property
    def reads(self) -> list[int]:
        """Keys of the tensors that the operation reads, in order."""
        return [self.inputs[id(t)] for t in self.arguments.keras_tensors]


# How a step is computed when a method changes it: (step, inputs, compute) -> outputs, where ``compute(inputs)`` is what
# the step does by itself. It is called for every step, and may return ``compute(inputs)``.
Rule = Callable[[Step, list[Any], Callable[[list[Any]], list[Any]]], list[Any]]


def as_function(operation: Any) -> Any | None:
    """The functional graph of a model or nested model; None for a layer (or a model with a call of its own)."""
    if isinstance(operation, keras.Sequential):
        return operation._functional
    if isinstance(operation, Functional) and type(operation).call is Functional.call:
        return operation
    return None
