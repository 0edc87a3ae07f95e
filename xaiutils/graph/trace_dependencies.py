"""What the compiled passes of a model depend on beside its weights' values, and whether any of it has changed.

A trace keeps what layers were when it was made: activation functions, strides, epsilons, precision, variables, layers
inside layers, the statistics of a Normalization, a Lambda's function and what that function closes over. All of it
lies in the attributes of the layers; `TraceDependencies` remembers them, and compares in about a microsecond for each
layer. What no trace reads (``trainable``, names, losses, initialisers, momentum, ...) may change.
"""

import functools
import types
import weakref
from collections.abc import Collection, Iterable, Iterator
from operator import is_
from typing import Any

import numpy as np

from xaiutils.backend import keras

_BOOKKEEPING = {
    *("_allow_non_tensor_positional_args", "_auto_config", "_build_shapes_dict", "_call_context_args", "_called"),
    *("_call_has_context_arg", "_call_has_mask_arg", "_call_has_training_arg", "_call_signature", "_compile_config"),
    *("_compile_loss", "_compile_metrics", "_convert_input_args", "_inbound_nodes", "_input_spec", "_jit_compile"),
    *("_layers", "_lock", "_loss_ids", "_losses", "_losses_override", "_loss_tracker", "_metrics"),
    *("_non_trainable_variables", "_obj_type", "_outbound_nodes", "_parent_path", "_path", "_remat_mode"),
    *("_run_eagerly", "_saved_model_arg_spec", "_saved_model_inputs_spec", "_seed_generators"),
    *("_supports_masking", "_tracked", "_tracker", "_trainable", "_trainable_variables", "build", "built"),
    *("call_signature_parameters", "compiled", "history", "loss", "momentum", "name", "optimizer"),
    *("predict_function", "quantize", "seed", "seed_generator", "steps_per_execution", "stop_training"),
    *("supports_jit", "test_function", "train_function"),
}
_LEARNING_ONLY = ("_initializer", "_regularizer", "_constraint", "regularizer")
_SCALARS = (bool, int, float, complex, str, bytes, type(None), np.generic)
_SMALL = 4096  # bytes of an array whose content is compared, not its identity alone
# What running the layers changes, by the identity of its holder: the holder, and the keys that move; None for all.
_Moving = dict[int, tuple[Any, Collection[Any] | None]]
_LIBRARIES = ("keras", "tensorflow", "numpy", "builtins")


class TraceDependencies:
    """Remembers what ``operations`` (layers and Keras' operations) are; `changed` tells whether they still are."""

    def __init__(self, operations: Iterable[Any]):
        self._operations = list(operations)
        self._moving: _Moving = {}
        self._seen: list[tuple[Any, tuple[Any, ...]]] = []
        self._remember()

    def changed(self) -> bool:
        """Whether anything that a trace depends on is another now."""
        if self._settings == _settings() and all(map(_is_same, self._seen)):
            return False
        if self._facts() != self._known:
            return True
        self._remember()  # an equal value in place of another, or bookkeeping
        return False

    def settle(self) -> None:
        """Compare no longer what running the layers has changed by itself, a counter or a record of calls."""
        for (holder, _), before in zip(self._seen, self._known[1:], strict=True):
            now, before = list(_facts_of(holder, {})), dict(before)
            moved = {k for k, fact in now if k not in before or before[k] != fact}
            if moved or len(now) != len(before):
                self._moving[id(holder)] = holder, None if isinstance(holder, list | set | np.ndarray) else moved
        if self._moving:
            self._remember()
        else:  # bookkeeping alone may have changed
            self._seen = [(holder, tuple(_values(holder))) for holder, _ in self._seen]

    def _remember(self) -> None:
        self._settings = _settings()
        self._seen = [(holder, tuple(_values(holder))) for holder in self._holders()]
        self._known: list[Any] = self._facts()

    def _holders(self) -> list[Any]:
        """Everything that can change in place: attributes, containers, closures, small arrays."""
        found: dict[int, Any] = {}
        for operation in self._operations:
            _collect(operation, found, self._moving)
        return list(found.values())

    def _facts(self) -> list[Any]:
        return [_settings(), *(list(_facts_of(holder, self._moving)) for holder in self._holders())]


def _settings() -> tuple[Any, ...]:
    return keras.config.floatx(), keras.config.image_data_format(), keras.config.epsilon()


def _is_same(seen: tuple[Any, tuple[Any, ...]]) -> bool:
    holder, values = seen
    if type(holder) is dict:
        return len(holder) == len(values) and all(map(is_, holder.values(), values))
    if isinstance(holder, np.ndarray):
        return holder.tobytes() == values[0]
    now = tuple(_values(holder))
    return len(now) == len(values) and all(map(is_, now, values))


def _values(holder: Any) -> Iterator[Any]:
    """What a holder holds."""
    if isinstance(holder, dict):
        yield from holder.values()
    elif isinstance(holder, np.ndarray):
        yield holder.tobytes()
    elif isinstance(holder, types.FunctionType):
        yield from _function_values(holder)
    elif hasattr(type(holder), "__slots__") and not isinstance(holder, list | set):
        yield from (getattr(holder, n, None) for n in _slots(type(holder)))
    else:
        yield from holder


def _slots(kind: type) -> list[str]:
    slots = [vars(k).get("__slots__", ()) for k in kind.__mro__]
    names = [n for s in slots for n in ((s,) if isinstance(s, str) else s)]
    return [n for n in names if n not in ("__dict__", "__weakref__")]


def _names(code: types.CodeType) -> Iterator[str]:
    """The names of globals that a function and the functions made within it read."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names(inner)


def _function_values(function: types.FunctionType) -> Iterator[Any]:
    """What a function computes with: its code, defaults, closure, and the globals that it names."""
    yield function.__code__
    yield function.__defaults__
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # empty
            yield None
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if isinstance(value, keras.Model):  # which must be forgotten when its owner forgets it
            yield weakref.ref(value)
        elif not isinstance(value, types.ModuleType):
            yield value


def _facts_of(holder: Any, moving: _Moving) -> Iterator[tuple[Any, Any]]:
    _, ignored = moving.get(id(holder), (None, ()))
    for key, value in _items(holder):
        if key not in (ignored or ()):
            yield key, _fact(value)


def _items(holder: Any) -> Iterator[tuple[Any, Any]]:
    """What a holder holds and a trace may read, by a key or a number."""
    if isinstance(holder, dict):
        yield from ((key, value) for key, value in holder.items() if _counts(key))
    else:
        yield from enumerate(_values(holder))


@functools.cache
def _counts(name: Any) -> bool:
    return not (
        isinstance(name, str) and (name in _BOOKKEEPING or name.endswith(_LEARNING_ONLY) or name.startswith("_self_"))
    )


def _fact(value: Any) -> Any:
    """A value by what it is worth, where it can be compared, otherwise by identity."""
    if isinstance(value, _SCALARS):
        return type(value).__name__, repr(value)
    if isinstance(value, tuple | list):
        return [_fact(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _fact(v) for k, v in value.items()}
    if isinstance(value, keras.DTypePolicy):
        return value.name
    if isinstance(value, np.ndarray) and value.nbytes <= _SMALL:
        return value.shape, str(value.dtype), value.tobytes()
    return _Identity(value)


class _Identity:
    """Equal to nothing but the same object, which it keeps."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


def _collect(value: Any, found: dict[int, Any], moving: _Moving, depth: int = 0) -> None:
    """Add all that ``value`` holds and that can change in place."""
    if isinstance(value, _SCALARS) or depth > 6:
        return
    if isinstance(value, functools.partial):
        value = (value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        owner = value.__self__
        value = (value.__func__, None if isinstance(owner, keras.Operation) else owner)
    if isinstance(value, tuple):
        for inner in value:
            _collect(inner, found, moving, depth + 1)
        return
    holder = _holder(value)
    if holder is None or id(holder) in found:
        return
    _, ignored = moving.get(id(holder), (None, ()))
    if ignored is None:
        return
    found[id(holder)] = holder
    if isinstance(holder, np.ndarray):
        return
    for inner in [value for key, value in _items(holder) if key not in ignored]:
        _collect(inner, found, moving, depth + 1)


def _holder(value: Any) -> Any | None:
    """The object whose content is compared; None where identity is all that can be."""
    if isinstance(value, np.ndarray):
        return value if value.nbytes <= _SMALL else None
    if isinstance(value, list | dict | set):
        return value
    if isinstance(value, types.FunctionType):
        return None if value.__module__ and value.__module__.split(".")[0] in _LIBRARIES else value
    known = type(value).__module__.split(".")[0] in _LIBRARIES
    layer = isinstance(value, keras.Operation)
    if (known and not layer) or isinstance(value, type | types.ModuleType):
        return None
    slots = hasattr(type(value), "__slots__") and not hasattr(value, "__dict__")
    return value if slots else getattr(value, "__dict__", None)
