"""Does a class depend on a concept? Testing with concept activation vectors (TCAV; Kim et al. 2018, arXiv:1711.11279).

A concept is what example images show. A linear classifier tells their activations at a layer from those of other
images; the unit normal v of its plane, to the side of the concept, is the concept activation vector (CAV). S = grad z_k
. v says how the logit z_k of an image grows as its activation moves along v, and TCAV's score is the share of images of
class k with S > 0. As a plane divides any two sets, each concept is told from many sets of random images, and its
scores are compared with those of random sets told from each other.

The paper's t-test takes the partners for a sample, though all its CAVs share the one set that shows the concept: so it
calls many a random set significant too, and `Tcav.table` counts how many. A second test, ours, therefore treats every
random set as a concept, told from all the others, and asks whether the concept is another draw of these. It compares
the mean S times the distance of the two sets along v: how many logits the class gains, to first order, on the way from
random images to the concept. The score knows the sign of S alone, and in layers near the logits all images share it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.linear_model import LogisticRegression

from xaiutils.attribution.cam.layer_aggregate import default_layers
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.evaluate import check_classes
from xaiutils.graph.network import Network
from xaiutils.graph.passes import activation, activations_and_gradients, batches
from xaiutils.graph.predict import prepare
from xaiutils.progress import progress
from xaiutils.registry import check_choice, check_integer, suggest
from xaiutils.statistics.multiple_comparisons import holm

RANDOM = "random sets"
_POOLED = {
    "none": lambda x: x.reshape(len(x), -1),
    "mean": lambda x: x.mean(axis=(1, 2)),
    "max": lambda x: x.max(axis=(1, 2)),
}
POOLING = tuple(_POOLED)
_ALPHA = 0.05
_FEWEST = 6  # images of a set, a third of them held out
_IMAGES = ImageDataset | np.ndarray


class Cav(NamedTuple):
    """A plane between two sets: ``vector``, its unit normal to the side of the first, float64 ``(d,)``, zeros where
    nothing tells them apart; a point x lies on that side where ``x @ vector > offset``."""

    vector: np.ndarray
    offset: float


@dataclass(frozen=True)
class Tcav:
    """What `tcav` found.

    ``table``: a row for each layer, class and concept, and one of `RANDOM`, the control. ``score``: TCAV's score, mean
    over the partners, and ``low`` to ``high`` the middle 95 % of theirs; ``accuracy`` of its planes on images held out;
    ``p``, ``p_holm``: the paper's t-test of the scores against those of random sets, two-sided, and corrected over the
    table. ``shift``, in logits: mean S times the distance, of `RANDOM` the root mean square of the sets' own;
    ``p_sets``, ``p_sets_holm``: t-test of it as another draw of these. ``significant``: both corrected p are under
    0.05. ``false_alarms``, of `RANDOM`: the share of random sets of which the paper's test says p < 0.05.

    ``runs``: a row for each layer, class, concept and partner: score, accuracy. ``cosines``: a row for each layer and
    pair: the mean cosine of their CAVs, each from another partner; with itself, how much a CAV owes to its partner.
    """

    table: pd.DataFrame
    runs: pd.DataFrame
    cosines: pd.DataFrame


def tcav(
    model: keras.Model,
    ds: ImageDataset,
    concepts: Mapping[str, _IMAGES],
    random: _IMAGES | None = None,
    layers: Sequence[str] = (),
    classes: Sequence[str] = (),
    n_random: int = 30,
    pooling: str = "none",
    C: float = 1.0,
    batch_size: int = 32,
    seed: int = 0,
) -> Tcav:
    """TCAV of each layer, class and concept, with random CAVs (see this module).

    Args:
        model: as `xaiutils.explain` takes.
        ds: images whose classes are explained, of one class each, as the model has them.
        concepts: images that show each concept, by name, such as `concept_sets` finds.
        random: images that the random sets are drawn from; None: those of ``ds``. They should be like the concepts'
            images in all but the concept: whatever else differs becomes part of the CAV.
        layers: paths of feature maps or tokens (of patches; a class token is left out); empty: the last layer of each
            resolution, or what enters the attention of each block of a transformer.
        classes: names of ``ds``; empty: all.
        n_random: random sets, at least 5; the paper takes up to 500. They have no image in common, and all sets are as
            large as the smallest concept or as the images of ``random`` allow.
        pooling: "none": a CAV has an entry for each place and channel, as in the paper; "mean", "max": for each
            channel, of the mean or the largest value over places, and S is the gradient by moving all places alike,
            which moves both so: for concepts that may lie anywhere, of which the mean of a small one shows little, and
            for large layers (8 bytes for each entry and pair of random sets are held).
        C: inverse strength of the logistic regression's L2 penalty, of activations with a root mean square of 1.
        batch_size: images in one pass.
        seed: of which images are in a set, and which third of it is held out.

    Raises:
        ValueError: classes that are not the model's or the data's, too few images, or a number out of range.
        ModelError: a layer has no map.
    """
    check_classes(model, ds)
    check_integer("n_random", n_random, 5)
    unknown = [name for name in classes if name not in ds.class_names]
    if unknown:
        raise ValueError(f"the data have no class {unknown[0]!r}; {suggest(unknown[0], list(ds.class_names))}")
    if bare := [name for name in classes if not ds.members(ds.class_names.index(name)).any()]:
        raise ValueError(f"ds has no image of class {bare[0]!r} to explain; leave it out of classes, or add some.")
    if not len(ds) or not C > 0:
        raise ValueError(f"{len(ds)} images, C={C}; expected images to explain, and a number above 0.")
    sets = _drawn(concepts, ds if random is None else random, n_random, np.random.default_rng(seed))
    network = Network.of(model)
    paths = list(dict.fromkeys([network.cam_layer(layer) for layer in layers] or default_layers(network)))
    chosen = [(k, name) for k, name in enumerate(ds.class_names) if ds.members(k).any() and name in (classes or [name])]
    of_class = {name: (ds.select(ds.members(k)).images, k) for k, name in chosen}
    gradients = {name: layer_gradients(model, *one, paths, pooling, batch_size) for name, one in of_class.items()}
    runs, tables, cosines = [], [], []
    for i, path in enumerate(progress(paths, title="concepts")):
        found = [layer_activations(model, images, path, pooling, batch_size) for images in sets.values()]
        planes = _planes(found[:-1], found[-1].reshape(n_random, -1, found[-1].shape[-1]), C)
        cosines.append(_cosines(list(concepts), planes).assign(layer=path))
        for name, by_layer in gradients.items():
            one_runs, table = _scores(list(concepts), planes, by_layer[i])
            runs.append(one_runs.assign(layer=path, **{"class": name}))
            tables.append(table.assign(layer=path, **{"class": name}))
    return Tcav(_judged(pd.concat(tables)), _ordered(pd.concat(runs)), _ordered(pd.concat(cosines)))


def concept_sets(ds: ImageDataset) -> dict[str, ImageDataset]:
    """The images of each class, by its name: of folders named after concepts, and one of random images, or of
    `xaiutils.datasets.phantom.concept_images`. Of images with several labels, those that show that one alone."""
    if not ds.multi_label:
        return {name: ds.select(ds.members(k)) for k, name in enumerate(ds.class_names)}
    alone = (ds.labels == 1).sum(axis=1) == 1
    return {name: ds.select(alone & ds.members(k)) for k, name in enumerate(ds.class_names)}


def layer_activations(
    model: keras.Model, images: np.ndarray, layer: str, pooling: str = "none", batch_size: int = 32
) -> np.ndarray:
    """A layer's activations as `tcav` tells sets apart by, float32 ``(n, d)``: rows, columns and channels in one."""
    check_choice("pooling", pooling, POOLING)
    network, images, _ = prepare(model, images, 0, batch_size)
    return _POOLED[pooling](activation(network, network.cam_layer(layer), images, batch_size))


def layer_gradients(
    model: keras.Model,
    images: np.ndarray,
    target: int,
    layers: Sequence[str],
    pooling: str = "none",
    batch_size: int = 32,
) -> list[np.ndarray]:
    """Gradient of the target's logit by the activations of each layer, float32 ``(n, d)`` as `layer_activations`. With
    "mean" and "max" by moving all places alike, which is the sum over places."""
    check_choice("pooling", pooling, POOLING)
    network, images, targets = prepare(model, images, target, batch_size)
    run = activations_and_gradients(network, [network.cam_layer(layer) for layer in layers])
    parts: list[list[np.ndarray]] = [[] for _ in layers]
    for b in batches(len(images), batch_size, "gradients"):
        for part, (_, g) in zip(parts, run(images[b], targets[b]), strict=True):
            part.append(_POOLED["none"](g.numpy()) if pooling == "none" else g.numpy().sum(axis=(1, 2)))
    return [np.concatenate(part) for part in parts]


def fit_cav(shown: np.ndarray, others: np.ndarray, C: float = 1.0) -> Cav:
    """The plane of a logistic regression between activations ``(n, d)`` of images that show the concept and of others.

    The L2 penalty weighs 1 / ``C``, where the activations, less their mean, have a root mean square of 1 over all.
    """
    x = np.concatenate([shown, others]).astype(np.float64)
    mean = x.mean(axis=0)
    scale = float(np.sqrt(np.square(x - mean).mean()))
    if scale == 0:
        return Cav(np.zeros(x.shape[1]), 0.0)
    fit = LogisticRegression(C=C, max_iter=1000).fit((x - mean) / scale, np.arange(len(x)) < len(shown))
    w, length = fit.coef_[0], float(np.linalg.norm(fit.coef_[0]))
    if length == 0:
        return Cav(np.zeros(x.shape[1]), 0.0)
    return Cav(w / length, float(w @ mean - scale * fit.intercept_[0]) / length)


@dataclass(frozen=True)
class _Planes:
    """CAVs of sets told from each random set, ``vectors`` (sets, partners, d): concepts first, then the random sets,
    whose part is minus itself transposed; with the ``accuracies`` (sets, partners) of their planes, and the
    ``distances`` of the means of both sets along them."""

    vectors: np.ndarray
    accuracies: np.ndarray
    distances: np.ndarray


def _drawn(
    concepts: Mapping[str, _IMAGES], random: _IMAGES, n_random: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Images of each concept, equally many, and last those of all random sets, one set after the other."""
    if not concepts or RANDOM in concepts:
        raise ValueError(f"concepts: {list(concepts)}; expected images by name, none of them {RANDOM!r}.")
    pools = {**concepts, RANDOM: random}
    sizes = {name: len(found) // (n_random if name == RANDOM else 1) for name, found in pools.items()}
    least = min(sizes, key=lambda name: sizes[name])
    m = sizes[least]
    if m < _FEWEST:
        raise ValueError(
            f"{least!r} has {len(pools[least])} images; expected {_FEWEST} of each concept, and {n_random} times as "
            f"many random ones ({n_random * _FEWEST}), or a smaller n_random."
        )
    drawn = {}
    for name, found in pools.items():
        few = rng.permutation(len(found))[: m * (n_random if name == RANDOM else 1)]
        drawn[name] = found.select(few).images if isinstance(found, ImageDataset) else np.asarray(found)[few]
    return drawn


def _planes(shown: list[np.ndarray], random: np.ndarray, C: float) -> _Planes:
    """``shown``: each concept's activations (m, d); ``random``: (sets, m, d). The last third of each is held out."""
    n, m, d = random.shape
    kept, first, sets = m - m // 3, len(shown), [*shown, *random]
    vectors, accuracies, distances = (
        np.zeros((len(sets), n, d)),
        np.full((len(sets), n), np.nan),
        np.zeros((len(sets), n)),
    )
    for j, other in enumerate(random):
        for i, one in enumerate(sets[: first + j]):
            found = fit_cav(one[:kept], other[:kept], C)
            right = [one[kept:] @ found.vector > found.offset, other[kept:] @ found.vector <= found.offset]
            vectors[i, j], accuracies[i, j] = found.vector, np.mean(right)
            distances[i, j] = (one.mean(axis=0) - other.mean(axis=0)) @ found.vector
            if i >= first:  # the same plane from the other side
                seen = first + j, i - first
                vectors[seen], accuracies[seen], distances[seen] = -found.vector, accuracies[i, j], distances[i, j]
    return _Planes(vectors, accuracies, distances)


def _scores(names: list[str], planes: _Planes, gradients: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of `Tcav.runs` and `Tcav.table` at one layer, from the gradients (n, d) of a class's images."""
    first, n = len(names), planes.vectors.shape[1]
    S = planes.vectors @ gradients.T  # (sets, partners, images)
    shares, shifts = (S > 0).mean(axis=2), (S.mean(axis=2) * planes.distances).sum(axis=1)
    shifts = shifts / np.r_[np.full(first, n), np.full(n, n - 1)]  # a random set is not its own partner
    # Were a shift the set's own x less its partners' mean x, then those of random sets would be n / (n - 1) times x
    # less the mean of all x; and a concept's has the variance of x and of that mean.
    error = np.sqrt(np.square(shifts[first:]).sum() / (n - 1) * (1 + 1 / n)) * (n - 1) / n
    sets, partners = np.arange(n), (np.arange(n) + 1) % n
    control = shares[first + sets, partners]
    scored = dict(zip(names, zip(shares, planes.accuracies, strict=False), strict=False))
    scored[RANDOM] = (control, planes.accuracies[first + sets, partners])
    alarms = [_t_test(np.delete(shares[first + i], i), np.delete(control, [i, i - 1])) < _ALPHA for i in range(n)]
    rows = []
    for name, shift in zip(names, shifts, strict=False):
        p_sets = 2 * float(stats.t.sf(abs(shift) / error, n - 1)) if error > 0 else float(shift == 0)
        rows.append({"concept": name, "p": _t_test(scored[name][0], control), "shift": shift, "p_sets": p_sets})
    size = float(np.sqrt(np.square(shifts[first:]).mean()))
    rows.append({"concept": RANDOM, "shift": size, "false_alarms": float(np.mean(alarms))})
    for row in rows:
        values, accuracies = scored[str(row["concept"])]
        low, high = np.quantile(values, [0.025, 0.975])
        row |= {"score": values.mean(), "low": low, "high": high, "accuracy": accuracies.mean()}
    tables = [pd.DataFrame({"concept": c, "partner": sets, "score": s, "accuracy": a}) for c, (s, a) in scored.items()]
    return pd.concat(tables), pd.DataFrame(rows)


def _t_test(one: np.ndarray, other: np.ndarray) -> float:
    """Student's t-test of two samples, two-sided, as in the authors' code; of two that do not vary 1, or 0."""
    if np.ptp(one) == 0 and np.ptp(other) == 0:
        return float(one[0] == other[0])
    given = ((found.mean(), found.std(ddof=1), len(found)) for found in (one, other))
    return float(stats.ttest_ind_from_stats(*(x for part in given for x in part)).pvalue)  # no warning of one constant


def _cosines(names: list[str], planes: _Planes) -> pd.DataFrame:
    """Rows of `Tcav.cosines` at one layer."""
    n = planes.vectors.shape[1]
    sets = np.arange(n)
    # No two CAVs of a pair share a partner.
    known = {name: (found, np.roll(found, 2, axis=0)) for name, found in zip(names, planes.vectors, strict=False)}
    between = planes.vectors[len(names) :]
    known[RANDOM] = between[sets, sets - 1], between[sets, sets - 2]
    rows = []
    for i, one in enumerate(known):
        for other in list(known)[i:]:
            cosine = float((known[one][0] * known[other][1]).sum(axis=1).mean())
            rows.append({"concept": one, "other": other, "cosine": cosine})
    return pd.DataFrame(rows)


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    """With corrected p and verdict."""
    corrected = {"p_holm": holm(table["p"].to_numpy()), "p_sets_holm": holm(table["p_sets"].to_numpy())}
    table = table.assign(**corrected, significant=np.maximum(*corrected.values()) < _ALPHA)
    names = ["layer", "class", "concept", "score", "low", "high", "accuracy", "p", "p_holm", "shift", "p_sets"]
    return table[[*names, "p_sets_holm", "significant", "false_alarms"]].reset_index(drop=True)


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """With layer and class as the first columns."""
    first = [name for name in ("layer", "class") if name in table]
    return table[[*first, *table.columns.difference(first, sort=False)]].reset_index(drop=True)
