"""The calls: `explain` one method's maps, `explain_all` the maps of several, `resolve` what their names stand for."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from xaiutils.attribution.cam.weighted_sum import combination, maps_of_one_pass
from xaiutils.attribution.libraries import ADAPTERS
from xaiutils.attribution.map_warnings import warn_if_empty, warn_if_incomplete
from xaiutils.attribution.method import Method, own_reading
from xaiutils.attribution.methods import METHODS
from xaiutils.backend import keras
from xaiutils.graph.predict import prepare
from xaiutils.map_reading import check_reading, read_maps
from xaiutils.registry import check_parameters, suggest


def explain(
    model: keras.Model,
    images: np.ndarray,
    targets: int | Iterable[int] | None = None,
    method: str = "grad_cam",
    library: str = "xaiutils",
    batch_size: int = 32,
    reading: str = "signed",
    **params: Any,
) -> np.ndarray:
    """Attribution maps of images.

    Args:
        model: a functional or Sequential Keras classifier, flat or nested, of one output, with a softmax, a sigmoid or
            no last activation; its logits are found. A one-unit sigmoid is read as two classes. Any other output of
            probabilities (a mean of members, ...) is explained by log p, or log p - log (1 - p) of independent ones.
        images: ``(n, height, width, C)`` in [0, 255], of the size and channels that the model takes; grey images
            of one channel are repeated for three, and of three equal ones become one.
        targets: class index for all images, one for each, or None for each image's predicted class.
        method: a name in `METHODS`, which declares ``params``, their defaults and ranges.
        library: "xaiutils", or a library that computes the method too (see ``METHODS[method].libraries``). Libraries
            are given the logits and return raw values; `xaiutils.attribution.libraries.ADAPTERS` says where
            they deviate from the published formula.
        batch_size: images in one pass; memory depends on it, results do not.
        reading: "signed", the values as they are; "positive", max(map, 0); or "magnitude", abs(map). By which of them
            a method is compared with others, `Method.own_reading` says.

    Returns:
        Maps, finite float32 ``(n, height, width)``, unnormalised, by default signed where the method is.

    Raises:
        UnknownNameError, TypeError, ValueError: a name, an argument or a parameter is not valid. ModelError (a
        ValueError): the model cannot be explained, or lacks the layer.
    """
    declared = METHODS[method]
    check_reading(reading)
    network, images, targets = prepare(model, images, targets, batch_size)
    if library == "xaiutils":
        chosen = check_parameters(f"method {method!r}", declared.parameters, params)
        maps = declared.compute(network, images, targets, batch_size, **chosen)
        warn_if_incomplete(network, declared, images, targets, batch_size, chosen, maps)
    elif library in declared.libraries:
        adapter = ADAPTERS[library, method]
        taken = tuple(p for p in declared.parameters if p.name in adapter.parameters)
        chosen = check_parameters(f"method {method!r} of {library}", taken, params)
        maps = adapter.compute(network, images, targets, **chosen)
    else:
        raise ValueError(f"{method} is not available from {library!r}; {suggest(library, list(declared.libraries))}")
    return read_maps(_finite(maps, method, images), reading)


def explain_all(
    model: keras.Model,
    images: np.ndarray,
    targets: int | Iterable[int] | None = None,
    methods: Iterable[str] = ("grad_cam",),
    batch_size: int = 32,
    parameters: Mapping[str, Mapping] | None = None,
    reading: str = "signed",
) -> dict[str, np.ndarray]:
    """Maps of several methods by name; methods that read the same activation and gradient share their pass.

    ``parameters`` gives a method's parameters by its name, as `explain` takes them, ``reading`` among them. A name of
    the caller's own stands for a method with parameters of its own if they say which: ``methods=["grad_cam", "early"]``
    with ``parameters={"early": {"method": "grad_cam", "layer": "block3a_add"}}``. Returns as `explain` does.
    """
    check_reading(reading)
    chosen = resolve(methods, parameters)
    readings = {name: (parameters or {}).get(name, {}).get("reading", reading) for name in chosen}
    network, images, targets = prepare(model, images, targets, batch_size)
    maps: dict[str, np.ndarray] = {}
    shared: dict[tuple, list[str]] = {}
    for name, (method, given) in chosen.items():
        if method.weights is None:
            maps[name] = method.compute(network, images, targets, batch_size, **given)
            warn_if_incomplete(network, method, images, targets, batch_size, given, maps[name])
        else:
            shared.setdefault((method.signals, *network.cam_layers(given["layer"])), []).append(name)
    for (signals, *layers), names in shared.items():
        combines = [combination(*chosen[name]) for name in names]
        found = maps_of_one_pass(network, images, targets, batch_size, layers, signals, combines)
        maps.update(zip(names, found, strict=True))
    return {name: read_maps(_finite(maps[name], name, images), readings[name]) for name in chosen}


def resolve(
    methods: Iterable[str], parameters: Mapping[str, Mapping] | None = None
) -> dict[str, tuple[Method, dict[str, Any]]]:
    """What each name stands for, as `explain_all` takes them: a method, and all its parameters (not the reading).

    Raises UnknownNameError, TypeError, ValueError as `explain` does, for ``parameters`` of methods not named too.
    """
    parameters, found = dict(parameters or {}), {}
    for name in dict.fromkeys([*methods, *parameters]):
        given = parameters.get(name, {})
        if not isinstance(given, Mapping):
            raise TypeError(f"parameters[{name!r}]={given!r}; expected the method's parameters by name.")
        method = METHODS[given.get("method", name)]
        check_reading(given.get("reading", "signed"), f"parameters[{name!r}]: reading")
        own = _without(_without(given, "method"), "reading")
        found[name] = method, check_parameters(f"method {name!r}", method.parameters, own)
    return {name: found[name] for name in methods}


def own_readings(methods: Iterable[str], parameters: Mapping[str, Mapping] | None = None) -> dict[str, dict[str, Any]]:
    """``parameters`` of `explain_all` with the reading of each method by which its maps are compared: the one that it
    declares (`Method.own_reading`), where ``parameters`` do not say another."""
    given = {name: dict((parameters or {}).get(name, {})) for name in methods}
    return {name: {**own, "reading": own_reading(own.get("method", name), own)} for name, own in given.items()}


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k != name}


def _finite(maps: np.ndarray, method: str, images: np.ndarray) -> np.ndarray:
    maps = np.asarray(maps, np.float32)
    bad = np.flatnonzero(~np.isfinite(maps).all(axis=(1, 2)))
    if bad.size:
        raise FloatingPointError(
            f"{method} gave NaN or infinite values for images {bad[:10].tolist()}; the model's weights or its logits "
            "for these images are not finite, or overflow."
        )
    assert maps.shape == images.shape[:3]
    warn_if_empty(method, METHODS.get(method), maps)
    return maps
