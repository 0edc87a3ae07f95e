"""Completeness: does a map sum to what its method promises?"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.attribution.explain import explain, resolve
from xaiutils.attribution.full_grad import full_grad_terms
from xaiutils.attribution.method import of_members
from xaiutils.attribution.methods import METHODS
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.graph.predict import prepare, prepared
from xaiutils.graph.targets import Targets
from xaiutils.images import check_maps
from xaiutils.registry import check_parameters


def completeness_gap(
    model: keras.Model,
    images: np.ndarray,
    targets: Targets = None,
    method: str = "integrated_gradients",
    maps: np.ndarray | None = None,
    batch_size: int = 32,
    inputs: Mapping[str, Any] | None = None,
    **params: Any,
) -> pd.DataFrame:
    """How far maps are from completeness, for methods that declare a total (`xaiutils.attribution.Method.total`).

    Args:
        model, images, targets, method, batch_size, inputs, params: as given to `xaiutils.explain`.
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
    cases = prepared(model, images, targets, batch_size, inputs)
    images, classes = cases.images, cases.targets
    if maps is None:
        wanted = targets if callable(targets) else classes
        maps = explain(model, images, wanted, method, batch_size=batch_size, inputs=inputs, **params)
    sums = check_maps(maps, images.shape[:3]).sum(axis=(1, 2), dtype=np.float64)
    total = np.empty(len(images))
    for members in cases.groups():
        own = of_members(chosen, members, len(images))
        total[members] = declared.total(cases.network, images[members], classes[members], batch_size, **own)
    return _gaps(classes, sums, total)


def completeness_table(
    model: keras.Model,
    ds: ImageDataset,
    methods: Sequence[str] = ("integrated_gradients", "expected_gradients", "deep_lift", "full_grad"),
    targets: int | Iterable[int] | None = None,
    n_steps: Sequence[int] = (5, 20, 80),
    batch_size: int = 32,
    parameters: Mapping[str, Mapping] | None = None,
) -> pd.DataFrame:
    """What maps sum to, beside what they must sum to.

    Integrated gradients and DeepLIFT: S(x) - S(baseline); expected gradients: S(x) less the mean S of the references
    that were drawn, in expectation. FullGrad: its terms (not its map, which is of absolute values) sum to S(x).

    Args:
        methods: those with `xaiutils.attribution.Method.total`, and "full_grad"; names as `xaiutils.explain_all` takes
            them.
        n_steps: methods with a parameter n_steps are run with each of these, unless ``parameters`` sets it.

    Returns:
        A row for each method, number of steps and image: method, n_steps (missing where the method has none),
        image_id, target, sum, total, gap (sum - total) and relative_gap, abs(gap / total), as
        `completeness_gap` defines them.

    Raises:
        ValueError: a method promises no total. ModelError: it does not take this model.
    """
    tables = []
    for name, (method, chosen) in resolve(methods, parameters).items():
        given = {k: v for k, v in (parameters or {}).get(name, {}).items() if k != "method"}
        takes_steps = "n_steps" in chosen
        steps = [None] if not takes_steps else [given["n_steps"]] if "n_steps" in given else list(n_steps)
        for n in steps:
            if method.name == "full_grad":
                table = _full_grad_gap(model, ds, targets, batch_size)
            else:
                options = {**given, "n_steps": n} if takes_steps else given
                table = completeness_gap(model, ds.images, targets, method.name, None, batch_size, **options)
            table.insert(0, "image_id", ds.ids)
            table.insert(0, "n_steps", pd.array([n] * len(ds), dtype="Int64"))
            table.insert(0, "method", name)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _full_grad_gap(
    model: keras.Model, ds: ImageDataset, targets: int | Iterable[int] | None, batch_size: int
) -> pd.DataFrame:
    network, images, classes = prepare(model, ds.images, targets, batch_size)
    scores, terms = full_grad_terms(network, images, classes, batch_size)
    return _gaps(classes, np.stack(list(terms.values())).sum(axis=0, dtype=np.float64), scores.astype(np.float64))


def _gaps(targets: np.ndarray, sums: np.ndarray, total: np.ndarray) -> pd.DataFrame:
    """The table of `completeness_gap`, from float64 ``sums`` of maps and their ``total`` ``(n,)``."""
    gap = sums - total
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(gap == 0, 0.0, np.abs(gap / total))
    return pd.DataFrame({"target": targets, "sum": sums, "total": total, "gap": gap, "relative_gap": relative})
