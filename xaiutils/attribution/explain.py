"""The calls: `explain` one method's maps, `predict_and_explain` them beside the predictions, `explain_all` the maps of
several methods, `resolve` what their names stand for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xaiutils.attribution.cam.weighted_sum import combination, maps_of_one_pass
from xaiutils.attribution.libraries import ADAPTERS
from xaiutils.attribution.map_warnings import warn_if_empty, warn_if_incomplete
from xaiutils.attribution.method import Method, of_members, own_reading
from xaiutils.attribution.methods import METHODS
from xaiutils.backend import keras
from xaiutils.graph.memory import fitting
from xaiutils.graph.network import Network
from xaiutils.graph.precision import computing_in
from xaiutils.graph.predict import Prepared, predict, prepared
from xaiutils.graph.targets import Targets
from xaiutils.map_reading import check_reading, read_maps
from xaiutils.models.wrapped import facts_of
from xaiutils.registry import check_parameters, suggest


def explain(
    model: keras.Model,
    images: np.ndarray,
    targets: Targets = None,
    method: str = "grad_cam",
    library: str = "xaiutils",
    batch_size: int | str = "auto",
    reading: str = "signed",
    inputs: Mapping[str, Any] | None = None,
    **params: Any,
) -> np.ndarray:
    """Attribution maps of images.

    Args:
        model: a Keras classifier, flat or nested, of one output, with a softmax, a sigmoid or no last activation; its
            logits are found. A one-unit sigmoid is read as two classes. Any other output of probabilities (a mean of
            members, ...) is explained by log p, or log p - log (1 - p) of independent ones. A model of other inputs,
            scaling or head, or in a file: `xaiutils.wrap`.
        images: ``(n, height, width, C)`` in [0, 255], of the size and channels that the model takes; grey images
            of one channel are repeated for three, and of three equal ones become one.
        targets: class index or name for all images, one for each, or None for each image's predicted class. Or a
            function of the logits, as `xaiutils.predict` returns them, that gives a score for each image, ``(n,)``:
            this score is explained, ``lambda z: z[:, 2] - z[:, 0]``. Made of keras.ops or TensorFlow functions.
        method: a name in `METHODS`, which declares ``params``, their defaults and ranges.
        library: "xaiutils", or a library that computes the method too (see ``METHODS[method].libraries``). Libraries
            are given the logits and return raw values; `xaiutils.attribution.libraries.ADAPTERS` says where
            they deviate from the published formula.
        batch_size: images in one pass; memory depends on it, results do not. "auto": as many as memory is free for, at
            most 32 on a CPU and 256 on a GPU. Where memory runs out, half as many are tried, and a warning says it.
        reading: "signed", the values as they are; "positive", max(map, 0); or "magnitude", abs(map). By which of them
            a method is compared with others, `Method.own_reading` says.
        inputs: rows ``(n, ...)`` of the inputs of which each case brings its own, by their names.

    Returns:
        Maps, finite float32 ``(n, height, width)``, unnormalised, by default signed where the method is.

    Raises:
        UnknownNameError, TypeError, ValueError: a name, an argument or a parameter is not valid. ModelError (a
        ValueError): the model cannot be explained, or lacks the layer.
    """
    declared = METHODS[method]
    check_reading(reading)
    cases = prepared(model, images, targets, batch_size, inputs)
    network = cases.network
    if library not in declared.libraries:
        raise ValueError(f"{method} is not available from {library!r}; {suggest(library, list(declared.libraries))}")
    adapter = None if library == "xaiutils" else ADAPTERS[library, method]
    taken = tuple(p for p in declared.parameters if adapter is None or p.name in adapter.parameters)
    what = f"method {method!r}" + (f" of {library}" if adapter else "")
    chosen = _of_score(network, params, check_parameters(what, taken, params))

    def compute(members: np.ndarray) -> dict[str, np.ndarray]:
        few, wanted, given = (
            cases.images[members],
            cases.targets[members],
            of_members(chosen, members, len(cases.images)),
        )
        if adapter is not None:
            return {method: adapter.compute(network, few, wanted, **given)}
        return {method: _checked_maps(network, declared, few, wanted, cases.batch_size, given)}

    return read_maps(_finite(_of_groups(cases, compute)[method], method, cases.images), reading)


class Explained(NamedTuple):
    """What a model says of images, and why: for each the name of a class (list of n), its probability (float32
    ``(n,)``) and its map (float32 ``(n, height, width)``, as `explain` returns it)."""

    classes: list[str]
    probabilities: np.ndarray
    maps: np.ndarray


def predict_and_explain(
    model: keras.Model,
    images: np.ndarray,
    targets: int | str | Iterable[int] | Iterable[str] | None = None,
    method: str = "grad_cam",
    class_names: Sequence[str] | None = None,
    batch_size: int | str = "auto",
    inputs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Explained:
    """Class, probability and map in one call: ``classes, probabilities, maps = predict_and_explain(model, images)``.

    Args:
        model, method, batch_size, inputs, options: as `explain` takes them; options are its others, and the method's.
        images: as `explain` takes them, or one, ``(height, width, C)``, which is answered as a batch of one.
        targets: the classes that are named and explained, by index or name; None: of each image the predicted one.
        class_names: of all outputs in order; None: the model's own (`xaiutils.wrap`), else "class 0", "class 1", ...

    Raises:
        As `explain`; TypeError for a function as ``targets`` and ModelError for a score, which have no probability.
    """
    if callable(targets):
        raise TypeError("targets= is a function, whose score has no probability: take xai.explain.")
    images = np.asarray(images)
    if class_names is not None and targets is not None and (asked := np.array(targets)).dtype.kind in "UO":
        known = {name: i for i, name in enumerate(class_names)}
        if unknown := [name for name in asked.ravel().tolist() if name not in known]:
            raise ValueError(f"targets={unknown[0]!r} is none of class_names; {suggest(unknown[0], list(known))}")
        targets = np.array([known[name] for name in asked.ravel().tolist()]).reshape(asked.shape)
    cases = prepared(model, images[None] if images.ndim == 3 else images, targets, batch_size, inputs)
    n, facts = cases.network.n_classes, facts_of(model)
    own = facts.class_names if facts else None
    names = list(map(str, (own or (f"class {i}" for i in range(n))) if class_names is None else class_names))
    if len(names) != n:
        raise ValueError(f"class_names has {len(names)} names; the model has {n} classes.")
    probabilities = predict(model, cases.images, batch_size, probabilities=True, inputs=inputs)
    maps = explain(model, cases.images, cases.targets, method, batch_size=batch_size, inputs=inputs, **options)
    of_class = np.take_along_axis(probabilities, cases.targets[:, None], axis=1)[:, 0]
    return Explained([names[i] for i in cases.targets], of_class, maps)


def _of_groups(cases: Prepared, compute: Callable[[np.ndarray], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The maps ``compute(members)`` of all cases, by method; those of equal rows of other inputs together."""
    if not cases.rows:
        return compute(np.arange(len(cases.images)))
    maps: dict[str, np.ndarray] = {}
    for members in cases.groups():
        for name, found in compute(members).items():
            maps.setdefault(name, np.empty(cases.images.shape[:3], np.float32))[members] = found
    return maps


def _of_score(network: Network, given: Mapping[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """A method's parameters; of a score, which has no probability, those that need none where nothing was said."""
    if network.activation != "score":
        return chosen
    instead = {"score": "logit", "weighting": "softmax"}
    return {name: instead.get(name, value) if name not in given else value for name, value in chosen.items()}


def explain_all(
    model: keras.Model,
    images: np.ndarray,
    targets: Targets = None,
    methods: Iterable[str] = ("grad_cam",),
    batch_size: int | str = "auto",
    parameters: Mapping[str, Mapping] | None = None,
    reading: str = "signed",
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Maps of several methods by name; methods that read the same activation and gradient share their pass.

    ``parameters`` gives a method's parameters by its name, as `explain` takes them, ``reading`` among them. A name of
    the caller's own stands for a method with parameters of its own if they say which: ``methods=["grad_cam", "early"]``
    with ``parameters={"early": {"method": "grad_cam", "layer": "block3a_add"}}``. Returns as `explain` does.
    """
    check_reading(reading)
    chosen = resolve(methods, parameters)
    readings = {name: (parameters or {}).get(name, {}).get("reading", reading) for name in chosen}
    cases = prepared(model, images, targets, batch_size, inputs)

    def compute(members: np.ndarray) -> dict[str, np.ndarray]:
        given = {}
        for name, (method, own) in chosen.items():
            own = _of_score(cases.network, (parameters or {}).get(name, {}), own)
            given[name] = method, of_members(own, members, len(cases.images))
        few, wanted = cases.images[members], cases.targets[members]
        return _maps_of_all(cases.network, few, wanted, cases.batch_size, given)

    maps = _of_groups(cases, compute)
    return {name: read_maps(_finite(maps[name], name, cases.images), readings[name]) for name in chosen}


def _maps_of_all(
    network: Network,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    chosen: Mapping[str, tuple[Method, dict[str, Any]]],
) -> dict[str, np.ndarray]:
    """The maps of several methods, of cases of equal rows."""
    maps: dict[str, np.ndarray] = {}
    shared: dict[tuple, list[str]] = {}
    for name, (method, given) in chosen.items():
        if method.weights is None:
            maps[name] = _checked_maps(network, method, images, targets, batch_size, given)
        else:
            shared.setdefault((method.pass_for(given), *network.cam_layers(given["layer"])), []).append(name)
    for (signals, *layers), names in shared.items():
        combines = [combination(*chosen[name]) for name in names]
        precise = "float32" if any(chosen[name][0].own_precision == "float32" for name in names) else "tf32"

        def of_pass(size: int, how: tuple = (layers, signals, combines)) -> np.ndarray:
            return maps_of_one_pass(network, images, targets, size, *how)

        with computing_in(precise):
            found = fitting(network, batch_size, of_pass)
        maps.update(zip(names, found, strict=True))
    return maps


def _checked_maps(
    network: Network,
    method: Method,
    images: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    given: Mapping[str, Any],
) -> np.ndarray:
    """A method's maps, of as many images at once as memory holds."""
    maps, fits = fitting(network, batch_size, lambda size: (method.maps(network, images, targets, size, **given), size))
    warn_if_incomplete(network, method, images, targets, fits, given, maps)
    return maps


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


def titles_and_signs(
    methods: Iterable[str], parameters: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[dict[str, str], dict[str, bool]]:
    """How maps of ``methods``, as `explain_all` takes them, are drawn: each one's title (a name of the caller's own
    stays), and whether its values have a sign."""
    known, given = resolve(methods, parameters), parameters or {}
    titles = {name: method.title if name == method.name else name for name, (method, _) in known.items()}
    return titles, {name: method.is_signed(given.get(name, {})) for name, (method, _) in known.items()}


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
