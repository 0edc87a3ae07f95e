"""What is to be computed for a view on one of its models, and the keys of the results."""

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.widgets.result_cache import array_checksum
from xaiutils.widgets.view_settings import MethodChoice, View


@dataclass(frozen=True)
class Request:
    """A checked view on one of its models, with what the results depend on."""

    view: View
    model: keras.Model
    original: np.ndarray  # float32 (1, height, width, C)
    rows: Mapping[str, np.ndarray]  # of further inputs of the model
    model_key: tuple[Hashable, int]
    original_key: Hashable
    image_key: Hashable  # of the transformed image

    @property
    def key(self) -> tuple[Hashable, Hashable]:
        """Of the model, and of the transformed image."""
        return self.model_key, self.image_key

    @property
    def answer_keys(self) -> tuple[Hashable, Hashable]:
        """Of the model's probabilities of the original and of the transformed image."""
        return ("probabilities", self.model_key, self.original_key), ("probabilities", *self.key)

    def map_key(self, choice: MethodChoice, target: int) -> Hashable:
        """Of a raw map."""
        return "map", self.key, target, choice.method, choice.library, parameters_text(choice.parameters)


def target_of(chosen: int, before: np.ndarray) -> int:
    """The class that is explained; ``before``: probabilities of the original."""
    return int(before.argmax()) if chosen < 0 else chosen


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """Parameters as a text that differs where they do."""
    return json.dumps(parameters, sort_keys=True, default=lambda a: [str(a.dtype), a.shape, array_checksum(a)])
