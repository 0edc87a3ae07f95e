"""A score that the caller makes of a model's outputs, as the last step of its graph."""

import inspect
import weakref
from collections.abc import Callable
from typing import Any

from xaiutils.backend import keras


class Score:
    """The step of a network that makes a score ``(n, 1)`` of logits ``(n, n_classes)``: the caller's function.

    It is one operation, whatever the function does inside. Methods on gradients differentiate it. Relevance enters its
    logits z as z * ds/dz, which is each logit's own part of a sum of logits, and DeepLIFT goes by its mean derivative
    on the straight path from the baseline's logits, which is complete. The function is not kept alive.
    """

    def __init__(self, function: Callable[[Any], Any], two_sided: Callable[[Any], Any]):
        self._function = weakref.ref(function) if is_weak(function) else lambda: function
        self._two_sided = two_sided

    def __call__(self, z: Any) -> Any:
        function = self._function()
        if function is None:
            raise ReferenceError("the function of targets= is gone")
        return keras.ops.reshape(keras.ops.cast(function(self._two_sided(z)), "float32"), (-1, 1))


def is_weak(function: Any) -> bool:
    """Whether a weak reference to a function lives as long as the function does."""
    try:
        weakref.ref(function)
        hash(function)
    except TypeError:
        return False
    return not inspect.ismethod(function)  # which is made anew each time that it is looked up
