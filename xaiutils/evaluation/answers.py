"""What a model answers, whatever its head and further inputs, and the maps of those methods that suit it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from xaiutils.attribution import explain_all, resolve
from xaiutils.attribution.suitability import suits
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.graph.case_inputs import case_rows, groups, holding
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.predict import predict
from xaiutils.models.wrapped import facts_of
from xaiutils.transforms import TRANSFORMS


def returns_score(model: keras.Model | None) -> bool:
    """Whether a model returns a score in its own units (a regression), and no probabilities."""
    return facts_of(model) is not None and Network.of(model).activation == "score"


def answers(
    model: keras.Model, images: np.ndarray, batch_size: int = 32, inputs: Mapping[str, Any] | None = None
) -> np.ndarray:
    """Probabilities ``(n, classes)``, or the score ``(n, 1)`` of a model that returns one; `xaiutils.predict` takes the
    arguments."""
    return predict(model, images, batch_size, probabilities=not returns_score(model), inputs=inputs)


def by_rows(model: keras.Model | None, ds: ImageDataset) -> Iterator[np.ndarray]:
    """The indices of cases of equal rows of further inputs, for what knows only images: the model holds their row until
    the next are asked for. All indices at once where a model has no such inputs."""
    rows = {} if model is None else case_rows(model, ds.inputs, len(ds))
    for members, row in groups(rows, len(ds)):
        with holding(model, row):
            yield members


def suited_methods(
    model: keras.Model, methods: Iterable[str], parameters: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[list[str], dict[str, str]]:
    """Of ``methods``, as `xaiutils.explain_all` takes them, those that suit a model; and why the others do not."""
    network = Network.of(model)
    reasons = {name: suits(network, method.name) for name, (method, _) in resolve(methods, parameters).items()}
    return [n for n, why in reasons.items() if not why], {n: why for n, why in reasons.items() if why}


def explain_suited(
    model: keras.Model,
    images: np.ndarray,
    targets: Any,
    methods: Iterable[str],
    batch_size: int = 32,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """`xaiutils.explain_all` of the methods that suit the model, and why the others do not, by their names.

    Raises ModelError where none suits.
    """
    suited, left_out = suited_methods(model, methods, parameters)
    given = {name: p for name, p in (parameters or {}).items() if name in suited}
    try:
        maps = explain_all(model, images, targets, suited, batch_size, given, inputs=inputs)
    except ModelError:  # what no rule foresaw: each by itself
        maps = {}
        for name in suited:
            own = {name: given[name]} if name in given else {}
            try:
                maps |= explain_all(model, images, targets, [name], batch_size, own, inputs=inputs)
            except ModelError as error:
                left_out[name] = str(error)
    if not maps:
        raise ModelError(f"no method suits this model: {left_out_in_words(left_out)}")
    return maps, left_out


def suited_transforms(
    models: Iterable[keras.Model], transforms: Iterable[str], images: np.ndarray
) -> tuple[list[str], dict[str, str]]:
    """Of ``transforms``, those that can be made against all models, tried on ``images``, and why the others cannot: an
    attack needs classes and gradients."""
    left_out, names = {}, list(transforms)
    for name in (name for name in names if TRANSFORMS[name].needs_model):
        try:
            for model in models:
                TRANSFORMS[name].apply(images, model=model)
        except ModelError as error:
            left_out[name] = str(error)
    return [name for name in names if name not in left_out], left_out


def where_suited(what: str, compute: Callable[[], Any]) -> Any:
    """What ``compute`` returns; None where it does not suit the model, and a printed sentence says ``what`` is left out
    and why."""
    try:
        return compute()
    except ModelError as error:
        print(f"{what} left out: {error}")
        return None


def left_out_in_words(left_out: Mapping[str, str]) -> str:
    """Which methods were left out, and why; "" where none was."""
    if not left_out:
        return ""
    return f"{len(left_out)} left out: " + "; ".join(f"{name} ({why.rstrip('.')})" for name, why in left_out.items())
