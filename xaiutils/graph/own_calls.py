"""Models with a `call` of their own, as graphs: what they call is found by calling them once with symbols.

Where `call` uses layers and keras.ops alone, it gives a functional graph, which is then checked against the model's
own numbers. Any other model (tf functions, NumPy, a loop over values) stays one opaque step: gradients and changes of
the image go through it, and what needs its layers is refused.
"""

import inspect
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf

_SIDE = 32  # of the image on which numbers are compared, where the model leaves its size open


class OpaqueModel(keras.Operation):
    """A model as one operation, whose inside is not known. It does not keep the model alive."""

    def __init__(self, model: keras.Model):
        super().__init__(name=model.name)
        self._model = weakref.ref(model)

    @property
    def weights(self) -> list[Any]:
        """The model's weights."""
        model = self._model()
        return [] if model is None else model.weights

    def call(self, x: Any) -> Any:
        model = self._model()
        if model is None:
            raise ReferenceError("the model is gone")
        return model(x, training=False)

    def compute_output_spec(self, x: Any) -> Any:
        return keras.src.backend.compute_output_spec(self.call, x)


def traced(model: keras.Model) -> Any | None:
    """The graph of a model that is not functional, from one image input; None where the shape of its images is not
    known, since it has never been called."""
    given = getattr(model, "inputs", None)
    shape = given[0].shape if given else next(iter((getattr(model, "_build_shapes_dict", None) or {}).values()), None)
    if not isinstance(shape, list | tuple) or not all(n is None or isinstance(n, int) for n in shape):
        return None
    image = keras.Input(batch_shape=(None, *shape[1:]))
    found = retraced(model, (image,), {})
    return found if found is not None else keras.Function(image, OpaqueModel(model)(image))


def retraced(model: keras.Model, args: Sequence[Any], kwargs: dict[str, Any]) -> Any | None:
    """The functional graph of what ``model.call(*args, **kwargs)`` does, from new inputs in the place of the symbolic
    ones, in the order of ``keras.tree.flatten``; None where there is none, or where its numbers are not the model's."""
    new: dict[int, Any] = {}

    def renewed(x: Any) -> Any:
        if not isinstance(x, keras.KerasTensor):
            return x
        return new.setdefault(id(x), keras.Input(batch_shape=x.shape, dtype=x.dtype))

    args, kwargs = keras.tree.map_structure(renewed, (tuple(args), dict(kwargs)))
    if "training" in inspect.signature(model.call).parameters:
        kwargs["training"] = False
    with _as_it_was(model):
        try:
            function = keras.Function(list(new.values()), model.call(*args, **kwargs))
        except Exception:  # whatever a user's call raises on symbols
            return None
    return function if _same_numbers(function, model, args, kwargs, list(new.values())) else None


@contextmanager
def _as_it_was(model: keras.Model) -> Iterator[None]:
    """Within the block layers may be called with symbols; afterwards they have forgotten it."""
    records = [
        (record, len(record))
        for layer in model._flatten_layers()
        for record in (layer._inbound_nodes, layer._outbound_nodes)
    ]
    try:
        yield
    finally:
        for record, length in records:
            del record[length:]


def _same_numbers(function: Any, model: keras.Model, args: Any, kwargs: dict[str, Any], inputs: Sequence[Any]) -> bool:
    rng = np.random.default_rng(0)
    drawn = {id(x): tf.cast(rng.uniform(0, 2, [2, *(n or _SIDE for n in x.shape[1:])]), x.dtype) for x in inputs}
    given = keras.tree.map_structure(lambda x: drawn.get(id(x), x), (args, kwargs))
    try:
        expected = keras.tree.flatten(model(*given[0], **given[1]))
        found = keras.tree.flatten(function(list(drawn.values())))
    except Exception:  # whatever a user's call raises
        return False
    pairs = [
        (tf.cast(a, tf.float32).numpy(), tf.cast(b, tf.float32).numpy()) for a, b in zip(found, expected, strict=False)
    ]
    return len(found) == len(expected) and all(
        a.shape == b.shape and np.allclose(a, b, rtol=2e-2, atol=1e-3 + 1e-2 * np.abs(b).max()) for a, b in pairs
    )
