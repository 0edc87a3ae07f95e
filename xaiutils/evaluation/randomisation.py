"""Sanity checks by random weights (Adebayo et al. 2018, arXiv:1810.03292): a map that stays when the model forgets does
not explain the model.

It is a necessary check that cannot rank methods: maps keep the scale of activations, and noise differs from anything
(Binder et al. 2023, arXiv:2211.12486).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pandas as pd

from xaiutils.attribution import Network, explain_all, predict, resolve
from xaiutils.backend import keras
from xaiutils.evaluation.similarity import SIMILARITIES
from xaiutils.progress import progress
from xaiutils.registry import suggest

MODES = ("cascading", "independent")
_NORMS = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)


def stages(model: keras.Model, n: int = 6, norms: bool = False) -> dict[str, list[keras.layers.Layer]]:
    """Layers with weights in at most ``n`` groups from the logits down to the image, by the name of the first layer
    in each.

    The last layer is a group of its own; the others are cut into groups of about as many layers each. ``norms``:
    batch and layer normalisation belong to the groups too (the XRelevance-CAM thesis leaves them out).
    """
    if n < 2:
        raise ValueError(f"n={n}; expected at least 2 groups of layers.")
    found = [step.operation for step in Network.of(model).steps if getattr(step.operation, "weights", None)]
    layers = [x for x in dict.fromkeys(found) if norms or not isinstance(x, _NORMS)][::-1]
    parts = np.array_split(np.arange(1, len(layers)), min(n - 1, len(layers) - 1)) if len(layers) > 1 else []
    groups = [[layers[0]], *([layers[i] for i in part] for part in parts)]
    return {group[0].name: group for group in groups}


@contextmanager
def random_weights(layers: Iterable[keras.layers.Layer], seed: int) -> Iterator[None]:
    """Within it the layers have fresh weights; afterwards their own again, whatever happened.

    Weights are drawn by each layer's own initialisers, those of its sublayers too; a weight without one (a class
    token) is drawn from a normal distribution of its own mean and standard deviation.
    """
    layers = list(layers)
    variables = list({id(v): v for layer in layers for v in layer.weights}.values())
    before = [v.numpy() for v in variables]
    rng = np.random.default_rng(seed)
    owners = [owner for layer in layers for owner in [layer, *layer._flatten_layers(include_self=False)]]
    known = {
        id(v): _initialiser(owner, v)
        for owner in owners
        for v in owner._trainable_variables + owner._non_trainable_variables
    }
    try:
        for variable, value in zip(variables, before, strict=True):
            initialiser = known.get(id(variable))
            if initialiser is None:
                drawn = rng.normal(value.mean(), value.std(), value.shape)
            else:
                config = {**initialiser.get_config(), "seed": int(rng.integers(2**31))}
                takes_seed = "seed" in initialiser.get_config()
                fresh = type(initialiser).from_config(config) if takes_seed else initialiser
                drawn = keras.ops.convert_to_numpy(fresh(value.shape, value.dtype))
            variable.assign(drawn)
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def _initialiser(layer: keras.layers.Layer, variable: keras.Variable) -> keras.initializers.Initializer | None:
    """What the layer says of this weight: its kernel_initializer, bias_initializer, ..."""
    found = getattr(layer, f"{variable.name}_initializer", None)
    if variable.name == "kernel" and isinstance(layer, keras.layers.DepthwiseConv2D):
        found = layer.depthwise_initializer
    return found if isinstance(found, keras.initializers.Initializer) else None


def randomisation_test(
    model: keras.Model,
    images: np.ndarray,
    image_ids: list[str],
    methods: Iterable[str],
    targets: np.ndarray | int | None = None,
    mode: str = "cascading",
    n_stages: int = 6,
    norms: bool = False,
    similarities: Iterable[str] = ("spearman", "ssim"),
    batch_size: int = 32,
    parameters: Mapping[str, Mapping] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Similarity of each method's maps before and after groups of layers lost their weights.

    ``mode`` is "cascading" (from the logits down, each group in addition to those before it) or "independent" (one
    group at a time). The explained class stays the one of the trained model. Maps are compared as they are, signed
    where the method is. The model is changed in place and has its own weights again at the end.

    Returns a row for each method, stage, image and similarity: method, stage (the group's first layer; "none": the
    trained model, 1 by definition), depth (0 for none, counted from the logits), image_id, similarity, value (NaN for
    a constant map), p (mean probability of the explained class, to see how far the model has forgotten).
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}; {suggest(mode, list(MODES))}")
    measures = {name: SIMILARITIES[name] for name in similarities}
    methods, parameters = list(methods), dict(parameters or {})
    resolve(methods, parameters)
    if targets is None:
        targets = predict(model, images, batch_size).argmax(axis=1)
    targets = np.broadcast_to(np.asarray(targets), len(images))
    trained = explain_all(model, images, targets, methods, batch_size, parameters)
    groups = stages(model, n_stages, norms)
    names = list(groups)
    rows = [_rows(model, images, image_ids, targets, batch_size, trained, trained, measures, "none", 0)]
    for depth in progress(range(1, len(names) + 1), title=f"{mode} randomisation"):
        chosen = names[:depth] if mode == "cascading" else [names[depth - 1]]
        with random_weights([layer for name in chosen for layer in groups[name]], seed):
            maps = explain_all(model, images, targets, methods, batch_size, parameters)
            stage = names[depth - 1]
            rows.append(_rows(model, images, image_ids, targets, batch_size, trained, maps, measures, stage, depth))
    return pd.concat(rows, ignore_index=True)


def _rows(model, images, image_ids, targets, batch_size, trained, maps, measures, stage: str, depth: int):
    p = predict(model, images, batch_size, probabilities=True)[np.arange(len(images)), targets].mean()
    tables = [
        pd.DataFrame(
            {
                "method": method,
                "stage": stage,
                "depth": depth,
                "image_id": image_ids,
                "similarity": name,
                "value": measure(trained[method], maps[method]),
                "p": p,
            }
        )
        for method in maps
        for name, measure in measures.items()
    ]
    return pd.concat(tables, ignore_index=True)
