"""Explanation by examples: which training images does a model treat most like this one?

COLE, contributions oriented local explanations (Kenny & Keane 2019, Twin-systems to explain artificial neural networks
using case-based reasoning, IJCAI, doi:10.24963/ijcai.2019/376): neighbours are sought not among features f but among
what these contribute to the answer. Here c_j = f_j dS_k / df_j, S_k the logit of the class that the model predicts;
before a linear layer that is f_j w_jk, the Hadamard product, which the authors found best in 2021 (C-HP; Knowledge-
Based Systems 233, doi:10.1016/j.knosys.2021.107530). Distances are Euclidean.

As every image contributes to its own answer, images of one answer lie together by the formula: that neighbours share
the answer proves nothing, and that they share the label proves about as much as the model's accuracy. So the plain
features stand beside it, and the same contributions with the weights of other features.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.graph.layers.table import has_learned_weights
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.passes import TARGETS, batches, class_scores, forward
from xaiutils.graph.predict import prepare
from xaiutils.graph.targets import Targets
from xaiutils.graph.tiers import tiered
from xaiutils.registry import check_choice, check_integer
from xaiutils.statistics.summaries import summarise

WEIGHTINGS = ("contributions", "query", "none", "shuffled")


class NearestExamples(NamedTuple):
    """Of each image its nearest examples, the nearest first: their ``positions`` int64 ``(n, k)`` in the set,
    ``distances`` float32 ``(n, k)``, and ``labels`` int64 ``(n, k)``; and the images' own ``targets`` int32 ``(n,)``,
    the predicted classes unless others were asked for."""

    positions: np.ndarray
    distances: np.ndarray
    labels: np.ndarray
    targets: np.ndarray


def nearest_examples(
    model: keras.Model,
    images: np.ndarray,
    examples: ImageDataset,
    targets: Targets = None,
    k: int = 3,
    weighting: str = "contributions",
    layer: str = "",
    patients: list[str] | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> NearestExamples:
    """The ``k`` examples nearest to each image (see this module).

    Args:
        model: as `xaiutils.explain` takes.
        images: float32 ``(n, height, width, C)`` in [0, 255].
        examples: labelled images, such as those that the model was trained on.
        targets: classes of ``images``; None: the predicted ones. Of examples it is always the predicted class.
        k: neighbours of each image; the authors' code: 3.
        weighting: "contributions": COLE. "query": among features, the square of each one's difference weighted by the
            size of its contribution to the image's target, as a part of all (a local weighting, for which the
            examples' answers do not count). "none": among plain features, the control. "shuffled": COLE with the
            gradients' entries in another order, the same for all images and classes: a control that knows the answers
            and not which feature matters.
        layer: whose output is compared, its mean over places where it is a feature map or tokens of patches; the
            gradient is then by moving all places alike. Empty: what the last layer with weights reads.
        patients: of ``images``; examples of an image's own patient are left out for it.
        batch_size: images in one pass.
        seed: of "shuffled".

    Raises:
        ValueError: examples with several labels, fewer than ``k`` of other patients, or another weighting.
        ModelError: the layer has no features.
    """
    how = (targets, k, layer, patients, batch_size, seed)
    return nearest_by_weighting(model, images, examples, (weighting,), *how)[weighting]


def nearest_by_weighting(
    model: keras.Model,
    images: np.ndarray,
    examples: ImageDataset,
    weightings: Sequence[str] = WEIGHTINGS,
    targets: Targets = None,
    k: int = 3,
    layer: str = "",
    patients: list[str] | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, NearestExamples]:
    """What `nearest_examples` finds by each of several weightings, which share the passes through the model.

    Args:
        model, images, examples: as there.
        weightings: of its ``weighting``; all by default.
        targets: as there.
        k: as there.
        layer: as there.
        patients: as there.
        batch_size: images in one pass.
        seed: of "shuffled".
    """
    for weighting in weightings:
        check_choice("weighting", weighting, WEIGHTINGS)
    examples.check_single_label("nearest_examples")
    check_integer("k", k, 1, len(examples), ", of the examples")
    network, images, classes = prepare(model, images, targets, batch_size)
    if patients is not None and (examples.patients is None or len(patients) != len(images)):
        raise ValueError("patients= takes one for each image, and examples whose patients are known.")
    path = layer_of_features(network, layer)
    of_images = features_and_gradients(network, images, classes, path, batch_size)
    _, shown, answers = prepare(model, examples.images, None, batch_size)
    of_examples = features_and_gradients(network, shown, answers, path, batch_size)
    own = np.zeros((len(images), len(examples)), bool)
    if patients is not None:
        own = np.asarray(patients)[:, None] == np.asarray(examples.patients)[None]
    if (short := (~own).sum(axis=1) < k).any():
        raise ValueError(f"fewer than k={k} examples of other patients for image {np.flatnonzero(short)[0]}.")
    found = {}
    for weighting in weightings:
        squares = np.where(own, np.inf, _squares(*of_images, *of_examples, weighting, seed))
        positions = np.argsort(squares, axis=1, kind="stable")[:, :k]
        distances = np.sqrt(np.take_along_axis(squares, positions, axis=1)).astype(np.float32)
        found[weighting] = NearestExamples(positions, distances, examples.labels[positions], classes)
    return found


def _squares(
    features: np.ndarray, gradients: np.ndarray, known: np.ndarray, known_gradients: np.ndarray, how: str, seed: int
) -> np.ndarray:
    """Squared distances of images (n, d) from examples (m, d), ``(n, m)``."""
    if how == "shuffled":
        order = np.random.default_rng(seed).permutation(features.shape[1])
        gradients, known_gradients = gradients[:, order], known_gradients[:, order]
    weights = np.ones_like(features)
    if how == "query":
        weights = np.abs(features * gradients)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    elif how != "none":
        features, known = features * gradients, known * known_gradients
    return np.stack([np.square(known - f) @ w for f, w in zip(features, weights, strict=True)])


def shared_classes(
    found: Mapping[str, NearestExamples], ds: ImageDataset, examples: ImageDataset, seed: int = 0
) -> pd.DataFrame:
    """How often neighbours have the class of the image, of what `nearest_examples` found by several weightings.

    Args:
        found: by a name for the table. With "none" among them, the others are compared with it, image by image.
        ds: the images, with their labels, in the order in which they were given.
        examples: as they were given.
        seed: of the bootstrap.

    Returns:
        A row for each weighting and for each class that is meant, ``of`` "label" (the image's own) and "target" (the
        explained class, as a rule the answer): ``mean`` over images of the part of neighbours whose label it is, with
        its 95 % interval ``low`` to ``high`` over patients, or images; ``chance``, the same of examples drawn at
        random; ``gain`` over "none", ``gain_low``, ``gain_high``; ``n`` images.
    """
    units = {"patient_id": ds.patients} if ds.patients is not None else {}
    parts = np.bincount(examples.labels, minlength=len(examples.class_names)) / len(examples)
    rows, chances = [], {}
    for name, one in found.items():
        if len(one.labels) != len(ds):
            raise ValueError(f"{name!r} has neighbours of {len(one.labels)} images; ds has {len(ds)}.")
        for of, classes in {"label": ds.labels, "target": one.targets}.items():
            share = (one.labels == np.asarray(classes)[:, None]).mean(axis=1)
            rows.append(pd.DataFrame({"weighting": name, "of": of, "image_id": ds.ids, "value": share, **units}))
            chances[name, of] = parts[classes].mean()
    values = pd.concat(rows, ignore_index=True)
    table = summarise(values, ["weighting", "of"], seed=seed).drop(columns="missing")
    table["chance"] = [chances[key] for key in zip(table["weighting"], table["of"], strict=True)]
    if "none" not in found:
        return table
    keys = ["of", "image_id"]
    plain = values[values["weighting"] == "none"][[*keys, "value"]]
    others = values[values["weighting"] != "none"].merge(plain, on=keys, suffixes=("", "_none"))
    others = others.assign(value=others["value"] - others["value_none"])
    gains = summarise(others, ["weighting", "of"], seed=seed) if len(others) else table.iloc[:0].assign(missing=0)
    gains = gains.rename(columns={"mean": "gain", "low": "gain_low", "high": "gain_high"})
    return table.merge(
        gains.drop(columns=["n", "missing", "chance"], errors="ignore"), on=["weighting", "of"], how="left"
    )


def layer_of_features(network: Network, layer: str = "") -> str:
    """Path of the layer whose features are compared; empty: of what the last layer with weights reads."""
    if layer:
        step = network.step(layer)
    else:
        learned = [s for s in network.steps_to_logits if has_learned_weights(s.operation)]
        made = network.producers(learned[-1])[0] if learned else None
        if made is None:
            raise ModelError("no layer with weights reads features in this model; give layer=.")
        step = made
    if len(network.shapes[step.outputs[0]]) != 2:
        network.field(step.path)  # refuses by name what is neither features nor a map
    return step.path


def features_and_gradients(
    network: Network, images: np.ndarray, targets: np.ndarray, path: str, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features of a layer, the mean over places where it has a map, and the gradient of each target's logit by them,
    both float64 ``(n, d)``."""
    run = _passes(network, path)
    parts = [run(images[b], targets[b]) for b in batches(len(images), batch_size, "features")]
    features, gradients = (np.concatenate([x.numpy() for x in part]) for part in zip(*parts, strict=True))
    return features.astype(np.float64), gradients.astype(np.float64)


def _passes(network: Network, path: str) -> Callable[[np.ndarray, np.ndarray], tuple[tf.Tensor, tf.Tensor]]:
    has_places = len(network.shapes[network.step(path).outputs[0]]) != 2

    def build():
        def run(images, targets):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                scores, (features,) = forward(network, images, [path], tape.watch)
                total = tf.reduce_sum(class_scores(network, scores, targets, "logit"))
            gradients = tape.gradient(total, features, unconnected_gradients="zero")
            if has_places:
                features = tf.reduce_mean(network.to_grid(path, features), axis=(1, 2))
                gradients = tf.reduce_sum(network.to_grid(path, gradients), axis=(1, 2))
            return tf.cast(features, tf.float32), tf.cast(gradients, tf.float32)

        return tiered(network, run, [network.image_spec, TARGETS])

    return network.compiled(("features and gradients", path), build)
