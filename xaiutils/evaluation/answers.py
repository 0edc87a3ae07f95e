"""What a model answers, whatever its head: probabilities, or a score in its own units."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.graph.network import Network
from xaiutils.graph.predict import predict
from xaiutils.models.wrapped import facts_of


def returns_score(model: keras.Model | None) -> bool:
    """Whether a model returns a score in its own units (a regression), and no probabilities."""
    return facts_of(model) is not None and Network.of(model).activation == "score"


def answers(
    model: keras.Model, images: np.ndarray, batch_size: int = 32, inputs: Mapping[str, Any] | None = None
) -> np.ndarray:
    """Probabilities ``(n, classes)``, or the score ``(n, 1)`` of a model that returns one; `xaiutils.predict` takes the
    arguments."""
    rows = {"inputs": inputs} if inputs else {}
    return predict(model, images, batch_size, probabilities=not returns_score(model), **rows)
