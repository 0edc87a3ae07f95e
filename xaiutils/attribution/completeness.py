"""Axioms of attribution as numbers: does a map sum to what its method promises?"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.attribution.explain import explain
from xaiutils.attribution.methods import METHODS
from xaiutils.backend import keras
from xaiutils.graph.predict import prepare
from xaiutils.images import check_maps
from xaiutils.registry import check_parameters


def completeness_gap(
    model: keras.Model,
    images: np.ndarray,
    targets: int | Iterable[int] | None = None,
    method: str = "integrated_gradients",
    maps: np.ndarray | None = None,
    batch_size: int = 32,
    **params: Any,
) -> pd.DataFrame:
    """How far maps are from completeness, for methods that declare a total (`xaiutils.attribution.Method.total`).

    Args:
        model, images, targets, method, batch_size, params: as given to `xaiutils.explain`.
        maps: what `xaiutils.explain` returned for them, float32 ``(n, height, width)``; None: computed here.

    Returns:
        A row for each image: ``target``; ``sum`` of the map; ``total``, what it must sum to, in logits; ``gap``, their
        difference; ``relative_gap``, abs(gap / total), infinite where only the total is 0. The gap is the quadrature's
        error for integrated gradients; for methods that draw at random the total holds in expectation.

    Raises:
        ValueError: the method promises no total. Otherwise as `xaiutils.explain`.
    """
    declared = METHODS[method]
    if declared.total is None:
        known = [name for name, m in METHODS.items() if m.total is not None]
        raise ValueError(f"maps of {method!r} need not sum to anything; choose one of {', '.join(known)}.")
    chosen = check_parameters(f"method {method!r}", declared.parameters, params)
    if chosen.get("reduction", "sum") != "sum":
        raise ValueError(f"reduction={chosen['reduction']!r}: only the sum over channels adds up to the score.")
    network, images, classes = prepare(model, images, targets, batch_size)
    if maps is None:
        maps = explain(model, images, classes, method, batch_size=batch_size, **params)
    sums = check_maps(maps, images.shape[:3]).sum(axis=(1, 2), dtype=np.float64)
    total = np.asarray(declared.total(network, images, classes, batch_size, **chosen), np.float64)
    return gap_table(classes, sums, total)


def gap_table(targets: np.ndarray, sums: np.ndarray, total: np.ndarray) -> pd.DataFrame:
    """The table of `completeness_gap`, from float64 ``sums`` of maps and their ``total`` ``(n,)``."""
    gap = sums - total
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(gap == 0, 0.0, np.abs(gap / total))
    return pd.DataFrame({"target": targets, "sum": sums, "total": total, "gap": gap, "relative_gap": relative})
