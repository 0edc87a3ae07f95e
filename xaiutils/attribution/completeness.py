"""One look, at a model's first map of a method, at whether the map sums to what the method promises."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from xaiutils.attribution.method import Method
from xaiutils.attribution.network import Network

# The part of the promised sum that may be missing. Rules are exact up to rounding; quadratures err, and where they err
# by more, more steps are needed. What holds in expectation alone is not looked at.
TOLERANCE = 0.1
TOLERANCES: dict[str, float | None] = {"deep_lift": 0.02, "expected_gradients": None}
_IMAGES = 2


def warn_once_of_a_miss(
    network: Network,
    method: Method,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    params: Mapping[str, Any],
    maps: np.ndarray,
) -> None:
    """Warn (RuntimeWarning) if maps miss the method's `Method.total`; for each network and method the first time.

    The miss is abs(sum - total), as a part of abs(total) or, where that is small, of a twentieth of the map's absolute
    sum. Two images are looked at.
    """
    tolerance = TOLERANCES.get(method.name, TOLERANCE)
    of_each_image = any(isinstance(value, np.ndarray) and value.ndim == 4 for value in params.values())
    if method.total is None or tolerance is None or of_each_image:
        return
    known = network.compiled("methods whose sums were looked at", set)
    if method.name in known:
        return
    known.add(method.name)
    few, maps = slice(0, _IMAGES), maps[:_IMAGES].astype(np.float64)
    total = np.asarray(method.total(network, images[few], targets[few], batch_size, **params), np.float64)
    miss = np.abs(maps.sum(axis=(1, 2)) - total)
    part = miss / np.maximum(np.maximum(np.abs(total), np.abs(maps).sum(axis=(1, 2)) / 20), 1e-6)
    if part.max() > tolerance:
        worst = int(part.argmax())
        warnings.warn(
            f"{method.name} promises maps that sum to {total[worst]:.4g}, and the first ones of this model sum to "
            f"{maps[worst].sum():.4g}: {100 * part[worst]:.0f} % are missing. Integrated gradients need more n_steps; "
            "of DeepLIFT it shows a layer that its rules do not fit.",
            RuntimeWarning,
            stacklevel=3,
        )
