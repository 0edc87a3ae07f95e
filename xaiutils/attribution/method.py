"""What a method declares: `METHODS` feeds `explain`, the panel, the notebooks' parameters, the docs and the tests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xaiutils.attribution.libraries import sources
from xaiutils.registry import Parameter, Registry


@dataclass(frozen=True)
class Method:
    """One attribution method.

    ``compute(network, images, targets, batch_size, **parameters)`` returns float32 maps ``(n, height, width)`` from
    checked float32 images and int32 targets ``(n,)``. A method that reads one activation and its gradient gives
    ``combine(activation, gradient)`` (both ``(n, rows, columns, channels)``) instead, so that such methods share
    their pass. ``cost`` is in model passes for one image.

    ``signed``: whether values have a sign at the default parameters; `is_signed` tells it of given ones, by
    ``signed_by(parameters)`` where they decide.

    ``total(network, images, targets, batch_size, **parameters)``, where a method has it, returns what its map must sum
    to, ``(n,)``: completeness, which `xaiutils.attribution.axioms` checks.
    """

    name: str
    title: str
    family: str
    paper: str
    signed: bool
    cost: str
    compute: Callable[..., np.ndarray]
    parameters: tuple[Parameter, ...] = ()
    suits: tuple[str, ...] = ("cnn", "vit")
    combine: Callable[[Any, Any], Any] | None = None
    total: Callable[..., np.ndarray] | None = None
    signed_by: Callable[[Mapping[str, Any]], bool] | None = None

    def is_signed(self, parameters: Mapping[str, Any]) -> bool:
        """Whether maps made with these parameters (defaults where not given) have values of both signs."""
        given = {p.name: p.default for p in self.parameters} | dict(parameters)
        if self.signed_by is not None:
            return self.signed_by(given)
        return self.signed or given.get("reduction") == "sum"

    @property
    def libraries(self) -> tuple[str, ...]:
        """The sources that `explain` offers for this method, our own first."""
        return sources(self.name)


METHODS: Registry[Method] = Registry("method")

# Parameters that mean the same wherever they occur.
SEED = Parameter("seed", int, 0, "seed of the random draws", low=0)
LAYER = Parameter("layer", str, "", "layer whose activation is read; empty: the last feature map or token grid")
REDUCTION = Parameter(
    "reduction",
    str,
    "max_abs",
    "how the three colour channels become one: largest or summed absolute value, or the signed sum",
    choices=("max_abs", "sum_abs", "sum"),
)
