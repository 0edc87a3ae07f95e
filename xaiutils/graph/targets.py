"""What is explained of a model's outputs: a class by its index or name, or any score that a function makes of them."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from xaiutils.backend import keras, tf
from xaiutils.graph.flat_graph import ModelError
from xaiutils.graph.network import Network
from xaiutils.graph.score import Score, is_weak
from xaiutils.models.wrapped import facts_of
from xaiutils.registry import suggest

# What `xaiutils.explain` takes: class indices or names, None, or a function of the logits.
Targets = int | str | Iterable[int] | Iterable[str] | Callable[[Any], Any] | None


def chosen_network(model: keras.Model, targets: Any) -> Network:
    """The network whose logits are explained: the model's, or where ``targets`` is a function, one whose only logit
    is its score; kept as long as both the model and the function live."""
    network = Network.of(model)
    if not _is_function(targets):
        return network
    known = network.compiled("scores", weakref.WeakKeyDictionary)
    if not is_weak(targets):
        return _with_score(network, targets)
    if targets not in known:
        known[targets] = _with_score(network, targets)
    return known[targets]


def class_targets(model: keras.Model, network: Network, targets: Any, n: int) -> np.ndarray:
    """``targets`` as int32 class indices ``(n,)``; ValueError where they are none of the model's."""
    if _is_function(targets):
        return np.zeros(n, np.int32)
    classes = np.asarray(targets)
    if classes.dtype.kind in "UO" and classes.ndim < 2:
        classes = np.asarray([_index(model, network, name) for name in classes.ravel().tolist()]).reshape(classes.shape)
    if classes.dtype.kind not in "ui" or classes.ndim > 1 or classes.shape not in ((), (n,)):
        raise ValueError(
            f"targets={targets!r}; expected a class index or name, one for each of {n} images, None, or a function of "
            "the outputs that gives a score for each image."
        )
    if classes.size and (classes.min() < 0 or classes.max() >= network.n_classes):
        raise ValueError(
            f"targets reach from {classes.min()} to {classes.max()}; the model has {network.n_classes} classes."
        )
    return np.broadcast_to(classes, n).astype(np.int32)


def target_classes(model: keras.Model, labels: np.ndarray) -> np.ndarray:
    """What to explain of labelled images, int32 ``(n,)``: the labels, or of a score in its own units, 0."""
    if Network.of(model).activation == "score":
        return np.zeros(len(labels), np.int32)
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(
            f"labels have the shape {labels.shape}, several for each image; choose one of them, with ds.of_label(name)."
        )
    return labels.astype(np.int32)


def _is_function(targets: Any) -> bool:
    return callable(targets) and not isinstance(targets, np.ndarray | type)


def _index(model: keras.Model, network: Network, name: Any) -> int:
    if not isinstance(name, str):
        raise ValueError(f"targets={name!r}; expected a class index or name.")
    facts = facts_of(model)
    names = None if facts is None else facts.class_names
    if names is None:
        raise ValueError(
            f"targets={name!r}: the names of this model's classes are not known; give "
            f"xai.wrap(model, class_names=[...]), or an index from 0 to {network.n_classes - 1}."
        )
    if name not in names:
        raise ValueError(f"targets={name!r} is not a class of this model; {suggest(name, list(names))}")
    return names.index(name)


def _with_score(network: Network, function: Callable[[Any], Any]) -> Network:
    score = Score(function, network.two_sided)
    _check(score, network)
    return network.with_score("score", score)


def _check(score: Score, network: Network) -> None:
    """ModelError unless the function gives each image a score of its own, which depends on the outputs."""
    z = tf.constant(np.random.default_rng(0).normal(size=(6, network.n_units)).astype(np.float32))
    try:
        with tf.GradientTape() as tape:
            tape.watch(z)
            s = score(z)
        slope, alone = tape.gradient(s, z), score(z[:1])
        part = tf.function(score, autograph=False)(z[2:5])  # as many images are run
    except Exception as error:  # whatever the caller's function raises
        raise ModelError(
            f"targets= is a function that fails on outputs {tuple(z.shape)} ({type(error).__name__}: {error}); make it "
            "of keras.ops or TensorFlow functions: outputs (n, classes) -> (n,)."
        ) from error
    if tuple(s.shape) != (6, 1):
        raise ModelError(f"targets= gives {int(np.prod(s.shape))} numbers for 6 images; expected one for each, (n,).")
    both, own = np.concatenate([part, alone]), np.concatenate([s[2:5], s[:1]])
    if not np.allclose(both, own, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise ModelError("targets= gives an image another score in another batch; each image's must be its own.")
    if slope is None or not np.nan_to_num(slope.numpy()).any():
        raise ModelError(
            "targets= gives a score whose gradient by the outputs is 0: it does not depend on them, or goes through "
            "NumPy, a comparison or an argmax. Make it of differentiable functions."
        )
