"""Inputs beside the image of which every case brings its own row: age, sex, view, ...

Methods treat images one by one and change them many times, while a model holds one row for all images of a pass
(`xaiutils.models.wrapped.HeldInput`). So cases of equal rows are taken together, their row is held, and each group is
computed by itself: a case alone gets the map that it gets among others.
"""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.models.wrapped import WrappedModel, facts_of
from xaiutils.registry import suggest

Rows = dict[str, np.ndarray]  # by the input's name, (n, ...)
_HELD: "weakref.WeakSet[keras.Model]" = weakref.WeakSet()  # models whose rows a caller holds


def case_rows(model: keras.Model, inputs: Mapping[str, Any] | None, n: int) -> Rows:
    """The rows of n cases, ``(n, ...)`` for each input that the model was wrapped with as "case"; empty where it has
    none, or where `holding` holds them. What ``inputs`` has beside these is not looked at.

    Raises ValueError where rows are missing, or of a wrong shape.
    """
    facts = facts_of(model)
    if facts is None or not facts.case_inputs or (inputs is None and model in _HELD):
        return {}
    if inputs is not None and not isinstance(inputs, Mapping):
        raise TypeError(f"inputs is {type(inputs).__name__}; expected rows by the names of inputs, {{name: rows}}.")
    found: Rows = {}
    for name in facts.case_inputs:
        if inputs is None or name not in inputs:
            given = "" if inputs is None else f" {suggest(name, list(inputs))}"
            raise ValueError(
                f"the model takes a row of {name!r} for each case, which is missing: give inputs={{{name!r}: rows}}, "
                f"rows ({n}, ...).{given}"
            )
        held = model.held_inputs[name]
        found[name] = _checked(name, inputs[name], (n, *held.row_shape))
        if keras.backend.is_int_dtype(held.row_dtype) and (found[name] != np.round(found[name])).any():
            raise ValueError(f"inputs[{name!r}]: the model takes integers ({held.row_dtype}), and some are none.")
        held.check_table(found[name])
    return found


def _checked(name: str, rows: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    array = np.asarray(rows)
    if array.ndim == 1 and shape[1:] == (1,):
        array = array[:, None]
    if array.dtype.kind not in "uifb" or len(array.shape) != len(shape) or len(array) != shape[0]:
        raise ValueError(
            f"inputs[{name!r}] is {array.dtype} {array.shape}; expected numbers {shape}, a row for each case."
        )
    if any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        raise ValueError(f"inputs[{name!r}] has the shape {array.shape}; expected {shape}, a row for each case.")
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if bad.size:
        raise ValueError(f"inputs[{name!r}]: the rows of the cases {bad[:10].tolist()} hold NaN or infinite values.")
    return array


def groups(rows: Rows, n: int) -> Iterator[tuple[np.ndarray, Rows]]:
    """The indices of the cases of equal rows, with that row, ``(1, ...)`` of each input; all n cases without rows."""
    if not rows:
        yield np.arange(n), {}
        return
    flat = np.concatenate([array.reshape(n, -1).astype(np.float64) for array in rows.values()], axis=1)
    _, first, group = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    for number, at in enumerate(first):
        yield np.flatnonzero(group.ravel() == number), {name: array[at : at + 1] for name, array in rows.items()}


@contextmanager
def holding(model: keras.Model, rows: Rows) -> Iterator[None]:
    """Within the block the model holds these rows, ``(1, ...)`` or one for each image of the next pass; calls without
    ``inputs=`` then take them."""
    if not rows:
        yield
        return
    assert isinstance(model, WrappedModel)
    layers = {name: model.held_inputs[name] for name in rows}
    before = {name: layer.rows for name, layer in layers.items()}
    was_held = model in _HELD
    try:
        for name, layer in layers.items():
            layer.hold(rows[name])
        _HELD.add(model)
        yield
    finally:
        for name, layer in layers.items():
            layer.hold(before[name])
        if not was_held:
            _HELD.discard(model)
