"""Monte Carlo dropout (Gal & Ghahramani 2016, arXiv:1506.02142): how far maps, and their scores, move when parts of the
model are left out at random.

A pass is one thinned network: every dropout layer draws one mask, which all images share, and keeps it for as many
runs of the model as a map takes. So what is explained is a network, with all that its maps promise (integrated
gradients still sum to a difference of scores), and results depend neither on batch mates nor on the batch size. The
paper draws a mask for every image; over passes each image sees the same distribution.

The XRelevance-CAM thesis (You 2022, section 5.4) retrains with dropout of 0.1 after every block (`with_dropout`, then
`mc_dropout` of what was trained) and averages the scores of 10 passes. Dropout put into a network that was trained
without it (``after``) is a disturbance that the network never learnt to bear: it measures how much maps depend on
single units, and is no sample of a posterior.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.attribution import explain_all
from xaiutils.attribution.cam.layer_aggregate import default_layers
from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.evaluate import check_classes, evaluate_all
from xaiutils.graph.cam_layers import bottlenecks
from xaiutils.graph.flat_graph import as_function
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.predict import predict, prepare
from xaiutils.progress import progress

_SPATIAL = (keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D, keras.layers.SpatialDropout3D)


class DropoutAlwaysOn(keras.layers.Layer):
    """x * mask / (1 - rate), the mask 0 with probability ``rate``, the same for all images of a draw.

    ``shared``: axes along which the mask does not change, beside the images' own. ``number`` keeps the masks of
    several layers apart; ``draw`` is a variable that all layers of a model read.
    """

    def __init__(self, rate: float, shared: Sequence[int], number: int, draw: tf.Variable, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.shared, self.number, self.draw = rate, tuple(shared), number, draw

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """``x`` with the mask of the present draw."""
        sizes = tf.unstack(tf.shape(x))
        shape = [1 if axis == 0 or axis in self.shared else size for axis, size in enumerate(sizes)]
        drawn = tf.random.stateless_uniform(shape, tf.stack([self.draw, self.number]))
        scale = 1 / (1 - self.rate) if self.rate < 1 else 0.0
        return x * tf.cast(tf.where(drawn >= self.rate, scale, 0.0), x.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """That of the input."""
        return input_shape


@dataclass(frozen=True)
class ThinnedModel:
    """A model whose dropout layers, ``layers`` by name, are always on; its weights are those of the model that it was
    made from."""

    model: keras.Model
    layers: tuple[str, ...]
    draw: tf.Variable

    def thin(self, seed: int, number: int) -> keras.Model:
        """The model with the masks of a pass, until the next call."""
        self.draw.assign(int(np.random.default_rng([seed, number]).integers(2**31)))
        return self.model


def thinned(model: keras.Model, after: Iterable[str] = (), rate: float = 0.1) -> ThinnedModel:
    """A model with dropout on that shares the weights of ``model``, which stays as it is.

    Its own Dropout and SpatialDropout layers are on, at their own rates (those hidden inside other layers stay off);
    after each layer of ``after`` (paths; see `block_ends`) stands a new one of ``rate``, on single units, as in the
    thesis. Every other layer keeps its name and path.

    Raises:
        ModelError: the model has no dropout layer and none is asked for, or lacks a layer. ValueError: a rate outside
            [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate={rate!r}; expected a number from 0 to below 1.")
    draw = tf.Variable(0, trainable=False, dtype=tf.int32, name="draw")
    added: list[DropoutAlwaysOn] = []

    def new(rate: float, shared: Sequence[int], like: keras.layers.Layer, name: str) -> DropoutAlwaysOn:
        policy = getattr(like, "dtype_policy", None)
        added.append(DropoutAlwaysOn(rate, shared, len(added), draw, name=name, dtype=policy))
        return added[-1]

    def swap(layer):
        if isinstance(layer, keras.layers.Dropout) and layer.rate > 0:
            return new(layer.rate, _shared_axes(layer), layer, layer.name)
        return layer

    made = _rebuilt(model, swap, after, lambda layer: new(rate, (), layer, f"{layer.name}_dropped_{len(added)}"))
    if not added:
        raise ModelError(
            "the model has no dropout layer to switch on; name layers to put dropout after, such as "
            "after=block_ends(model), or train a model with dropout (head='thesis')."
        )
    return ThinnedModel(made, tuple(layer.name for layer in added), draw)


def with_dropout(model: keras.Model, rate: float = 0.1, after: Iterable[str] = ()) -> keras.Model:
    """A copy of the model, with its weights, that has a Dropout layer of ``rate`` after each layer of ``after`` (paths;
    by default `block_ends`), to be trained so. `thinned` and `mc_dropout` of it have them on.

    Raises:
        ModelError: the model lacks a layer. ValueError: a rate outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate={rate!r}; expected a number from 0 to below 1.")
    made = _rebuilt(
        model,
        lambda layer: type(layer).from_config(layer.get_config()),
        list(after) or block_ends(model),
        lambda layer: keras.layers.Dropout(rate, name=f"{layer.name}_dropout"),
    )
    made.set_weights(model.get_weights())
    return made


def _rebuilt(
    model: keras.Model,
    swap: Callable[[keras.layers.Layer], keras.layers.Layer],
    after: Iterable[str],
    new: Callable[[keras.layers.Layer], keras.layers.Layer],
) -> keras.Model:
    """The model of what ``swap`` gives for each layer, with what ``new`` makes of a layer of ``after`` behind it."""
    network = Network.of(model)
    chosen = {id(network.step(path).operation) for path in after}

    def clone(layer):
        inner = as_function(layer)
        found = swap(layer) if inner is None else rebuild(inner, layer.name)
        if id(layer) in chosen:
            chosen.add(id(found))
        return found

    def call(layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        if id(layer) not in chosen:
            return outputs
        first, *others = keras.tree.flatten(outputs)
        return keras.tree.pack_sequence_as(outputs, [new(layer)(first), *others])

    def rebuild(function, name: str) -> keras.Model:
        plain = keras.Model(function.inputs, function.outputs, name=name)  # not compiled, whatever its class was
        return keras.models.clone_model(plain, clone_function=clone, call_function=call)

    return rebuild(as_function(model), model.name)


def _shared_axes(layer: keras.layers.Dropout) -> tuple[int, ...]:
    """Axes along which a layer's mask does not change."""
    if isinstance(layer, _SPATIAL):
        rank = layer.input_spec.ndim
        first = 2 if getattr(layer, "data_format", "") == "channels_first" else 1
        return tuple(range(first, first + rank - 2))
    shape = getattr(layer, "noise_shape", None) or ()
    return tuple(axis for axis, size in enumerate(shape) if size == 1)


def block_ends(model: keras.Model) -> list[str]:
    """Paths of the layers that end a block: the sums of residual branches (not those within a block, which others go
    around), and where a model has none the last layer of each resolution."""
    network = Network.of(model)
    sums = [s for s in network.steps_to_logits if isinstance(s.operation, keras.layers.Add) and network.grid(s.path)]
    ends = bottlenecks(network)
    return [s.path for s in sums if s in ends] or [s.path for s in sums] or default_layers(network)


@dataclass(frozen=True)
class DropoutResult:
    """What `mc_dropout` found.

    ``mean``, ``std``: by method, float32 ``(n, height, width)``, over passes (standard deviation with n_passes - 1).
    ``scores``: a row for each pass, method, image and metric (pass, and the columns of `evaluate_all`),
    each method's maps read as it declares (`xaiutils.map_reading`).
    ``predictions``: a row for each pass and image (pass, image_id, target, p, logit): the target's probability and
    logit. ``layers``: names of the layers that dropped units.
    """

    mean: dict[str, np.ndarray]
    std: dict[str, np.ndarray]
    scores: pd.DataFrame
    predictions: pd.DataFrame
    layers: tuple[str, ...]


def mc_dropout(
    model: keras.Model,
    ds: ImageDataset,
    methods: Iterable[str],
    n_passes: int = 10,
    after: Iterable[str] = (),
    rate: float = 0.1,
    metrics: Iterable[str] = (),
    targets: int | Iterable[int] | None = None,
    batch_size: int = 32,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    metric_parameters: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> DropoutResult:
    """Maps, predictions and scores of maps over ``n_passes`` passes with dropout (see this module).

    Args:
        model, ds, batch_size: the classifier, the images, and how many of them are in one pass.
        methods, parameters: as `xaiutils.explain_all` takes them.
        n_passes: at least 2; the thesis: 10.
        after, rate: where dropout is put, and how much, beside the model's own; see `thinned`. The thesis: 0.1 after
            every block.
        metrics, metric_parameters: names in `xaiutils.METRICS` that every pass's maps are scored by, with the thinned
            model, and their parameters; none: no scores.
        targets: as for `xaiutils.explain`; None: the classes that the model predicts without dropout.
        seed: of the masks.

    Raises:
        ModelError, ValueError: as `thinned` and `xaiutils.explain_all`.
    """
    check_classes(model, ds)
    if n_passes < 2:
        raise ValueError(f"n_passes={n_passes}; a spread needs at least 2.")
    methods, metrics = list(methods), list(metrics)
    _, images, classes = prepare(model, ds.images, targets, batch_size)
    thin = thinned(model, after, rate)
    sums: dict[str, _Moments] = {}
    scores, predictions = [], []
    for number in progress(range(n_passes), title="dropout passes"):
        network = thin.thin(seed, number)
        maps = explain_all(network, images, classes, methods, batch_size, parameters)
        for name, found in maps.items():
            sums.setdefault(name, _Moments(found.shape)).add(found)
        predictions.append(_predictions(network, images, classes, ds.ids, batch_size, number))
        if metrics:
            table = evaluate_all(network, ds, maps, metrics, classes, batch_size, metric_parameters, parameters)
            table.insert(0, "pass", number)
            scores.append(table)
    empty = pd.DataFrame(columns=["pass", "method", "weights", "image_id", "metric", "reading", "value"])
    return DropoutResult(
        {name: found.mean.astype(np.float32) for name, found in sums.items()},
        {name: found.std().astype(np.float32) for name, found in sums.items()},
        pd.concat(scores, ignore_index=True) if scores else empty,
        pd.concat(predictions, ignore_index=True),
        thin.layers,
    )


def _predictions(
    network: keras.Model, images: np.ndarray, classes: np.ndarray, ids: list[str], batch_size: int, number: int
) -> pd.DataFrame:
    logits, rows = predict(network, images, batch_size), np.arange(len(images))
    inner = Network.of(network)
    p = logits if inner.activation == "score" else inner.probabilities(logits).numpy()
    facts = {"pass": number, "image_id": ids, "target": classes}
    return pd.DataFrame({**facts, "p": p[rows, classes], "logit": logits[rows, classes]})


class _Moments:
    """Mean and spread of a stream of arrays, in double precision (Welford's update)."""

    def __init__(self, shape: tuple[int, ...]):
        self.n, self.mean, self._squares = 0, np.zeros(shape), np.zeros(shape)

    def add(self, x: np.ndarray) -> None:
        self.n += 1
        step = x - self.mean
        self.mean += step / self.n
        self._squares += step * (x - self.mean)

    def std(self) -> np.ndarray:
        return np.sqrt(self._squares / (self.n - 1))


def score_spread(scores: pd.DataFrame) -> pd.DataFrame:
    """From the scores of `mc_dropout` to what dropout and what the choice of images adds to their spread.

    Returns a row for each method and metric: method, metric, mean, std_passes (standard deviation over passes of the
    mean over images), std_images (over images of the mean over passes), n (images with a value in every pass).
    """
    rows = []
    for (method, metric), group in scores.groupby(["method", "metric"], sort=False, observed=True):
        wide = group.pivot_table(values="value", index="image_id", columns="pass", dropna=False, sort=False).dropna()
        columns = (wide.to_numpy().mean() if len(wide) else np.nan, wide.mean().std(), wide.mean(axis=1).std())
        rows.append((method, metric, *columns, len(wide)))
    return pd.DataFrame(rows, columns=["method", "metric", "mean", "std_passes", "std_images", "n"])
