"""Warnings about maps that are finite and of the right shape, and still not what a reader takes them for."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from xaiutils.attribution.method import Method
from xaiutils.graph.network import Network

# The fraction of the promised sum that may be missing. Rules are exact up to rounding; quadratures err, and where they
# err by more, more steps are needed. What holds in expectation alone is not checked.
TOLERANCE = 0.1
TOLERANCES: dict[str, float | None] = {"deep_lift": 0.02, "expected_gradients": None}
_IMAGES = 2  # that are checked


class MapWarning(UserWarning):
    """A map that is 0 everywhere, or that does not sum to what its method promises."""


def warn_if_incomplete(
    network: Network,
    method: Method,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    params: Mapping[str, Any],
    maps: np.ndarray,
) -> None:
    """Warn (MapWarning) if maps do not sum to the method's `Method.total`; checked at the first call for each network
    and method.

    The miss is abs(sum - total), as a fraction of abs(total) or, where that is small, of a twentieth of the map's
    absolute sum.
    """
    tolerance = TOLERANCES.get(method.name, TOLERANCE)
    of_each_image = any(isinstance(value, np.ndarray) and value.ndim == 4 for value in params.values())
    if method.total is None or tolerance is None or of_each_image:
        return
    checked = network.compiled("methods checked for completeness", set)
    if method.name in checked:
        return
    checked.add(method.name)
    few, maps = slice(0, _IMAGES), maps[:_IMAGES].astype(np.float64)
    total = np.asarray(method.total(network, images[few], targets[few], batch_size, **params), np.float64)
    miss = np.abs(maps.sum(axis=(1, 2)) - total)
    fraction = miss / np.maximum(np.maximum(np.abs(total), np.abs(maps).sum(axis=(1, 2)) / 20), 1e-6)
    if fraction.max() > tolerance:
        worst = int(fraction.argmax())
        cure = "a layer does not fit its rules" if method.name == "deep_lift" else "take more n_steps"
        warnings.warn(
            f"{method.name}: a map that must sum to {total[worst]:.4g} sums to {maps[worst].sum():.4g}; {cure}.",
            MapWarning,
            stacklevel=3,
        )


def warn_if_empty(name: str, method: Method | None, maps: np.ndarray) -> None:
    """Warn (MapWarning) of maps ``(n, height, width)`` that are 0 everywhere, with the likely reason."""
    empty = np.flatnonzero(~maps.any(axis=(1, 2)))
    if not empty.size:
        return
    why = "The score does not depend on what the method reads: a saturated or dead layer, or weights of 0."
    if method is not None and method.family == "cam" and not method.signed:
        why = (
            "Its ReLU removed all values, where the layer has evidence against the class alone, or the score does not "
            "depend on the layer; hirescam and relu=False keep negative evidence."
        )
    shown = ", ".join(map(str, empty[:10])) + (", ..." if empty.size > 10 else "")
    warnings.warn(
        f"{name}: the maps of {empty.size} of {len(maps)} images are 0 everywhere (images {shown}). {why}",
        MapWarning,
        stacklevel=4,
    )
