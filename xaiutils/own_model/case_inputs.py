"""Inputs of a model: which one is the image, and what the others hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.graph.flat_graph import FlatGraph
from xaiutils.models.wrapped import HeldInput, WrappedModel
from xaiutils.registry import suggest

EVERY_CASE = "case"
_TABLES = {keras.layers.Embedding: "input_dim", keras.layers.CategoryEncoding: "num_tokens"}
_SAME_NUMBERS = ("Cast", "ExpandDims", "Flatten", "Identity", "Reshape", "Squeeze")  # operations of Keras


@dataclass(frozen=True)
class InputSpec:
    """An input of a model: its name, its shape with the batch, and its dtype."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def image_among(specs: list[InputSpec], given: Mapping[str, Any]) -> InputSpec:
    """The input that is the image: the one of four dimensions, or of several the one that ``inputs=`` leaves over.

    Raises ValueError where it cannot be told, where a name is unknown, and for an input that nothing is said of.
    """
    names = [spec.name for spec in specs]
    for name in given:
        if name not in names:
            raise ValueError(f"inputs: the model has no input {name!r}; {suggest(name, names)}")
    said = ", ".join(f"{s.name} {s.shape}" for s in specs)
    left = [spec for spec in specs if spec.name not in given]
    images = [spec for spec in left if len(spec.shape) == 4]
    if len(images) != 1:
        found = "none" if not images else "several"
        raise ValueError(
            f"the model takes {said}: {found} of them can be the image (n, height, width, channels). Give the others "
            "by inputs={name: value}."
        )
    others = [spec.name for spec in left if spec is not images[0]]
    if others:
        raise ValueError(
            f"the model takes {said}: the image is {images[0].name}. Give inputs={{{others[0]!r}: value}} to hold "
            f"{' and '.join(others)} at a value, or {EVERY_CASE!r} in place of it where every case brings its own."
        )
    return images[0]


def held_input(spec: InputSpec, value: Any, images: keras.KerasTensor) -> keras.KerasTensor:
    """An input that is no image, as a layer beside the images which holds ``value``, or each case's own row where that
    is "case". Raises ValueError where the value is not of the input's shape and dtype."""
    shape = spec.shape[1:]
    for_each = isinstance(value, str) and value == EVERY_CASE
    if spec.dtype == "string":
        raise ValueError(f"the input {spec.name!r} takes texts; only numbers can be held.")
    if None in shape:
        if for_each:
            raise ValueError(
                f"the input {spec.name!r} has rows of an open shape {shape}; only a held value can be given."
            )
        shape = np.shape(value)
    layer = HeldInput(spec.name, tuple(n or 1 for n in shape), spec.dtype, name=f"input_{spec.name}")
    if not for_each:
        layer.hold(check_rows(spec, value, 1))
    return layer(images)


def note_tables(model: WrappedModel) -> None:
    """Note beside each input that is no image where the model looks its numbers up, and check what is held there.
    Raises ValueError where that is no entry."""
    graph = FlatGraph(model)
    for held in model.held_inputs.values():
        keys = {key for step in graph.steps if step.operation is held for key in step.outputs}
        tables = []
        for step in graph.steps:
            if not keys.isdisjoint(step.reads):
                size = next((getattr(step.operation, name, None) for kind, name in _TABLES.items()
                             if isinstance(step.operation, kind)), None)  # fmt: skip
                tables += [] if size is None else [(size, step.path)]
                keys.update(step.outputs if type(step.operation).__name__ in _SAME_NUMBERS else ())
        held.table = min(tables, default=None)
        held.check_table(held.rows)


def check_rows(spec: InputSpec, value: Any, n: int) -> np.ndarray:
    """Rows ``(n, ...)`` of an input as its dtype. For one row, the batch may be left out.

    Raises ValueError where the shape is another, or numbers are missing, no numbers, or no integers where the input
    takes such.
    """
    row = spec.shape[1:]
    array = np.asarray(value)
    if array.dtype.kind not in "uifb":
        raise ValueError(f"inputs: {spec.name}={value!r} is no number or array of numbers, and not {EVERY_CASE!r}.")
    if n == 1 and array.ndim <= len(row) and (array.ndim == len(row) or array.size == 1):
        fixed = tuple(1 if m is None else m for m in row)
        array = array[None] if array.ndim == len(row) else array.reshape(1, *(1 for _ in fixed))
    same = len(array.shape) == 1 + len(row) and all(a == b for a, b in zip(array.shape[1:], row, strict=True) if b)
    if len(array) != n or not same:
        raise ValueError(
            f"inputs: {spec.name} has shape {np.shape(value)}; the model takes rows of {row}, and {n} are needed."
        )
    if not np.isfinite(array).all():
        raise ValueError(f"inputs: {spec.name} holds NaN or infinite values.")
    if keras.backend.is_int_dtype(spec.dtype) and (array != np.round(array)).any():
        raise ValueError(f"inputs: {spec.name} takes integers ({spec.dtype}), and {value!r} holds others.")
    return array.astype(spec.dtype)
