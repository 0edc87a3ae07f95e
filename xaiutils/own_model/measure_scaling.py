"""Which reading of the pixels a model was trained with: measured on some images, best on labelled ones.

The reading under which the labels are likeliest, after one temperature for all logits: where a trained MobileNetV2
was read in six ways on 64 images of 145, that chose the true one in 91 % of draws, accuracy in 80 %, the likelihood
of the probabilities as they are in 45 % (an overconfident model loses by it). Of a score: the smallest mean error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import log_expit, log_softmax
from scipy.stats import norm

from xaiutils.backend import keras, tf
from xaiutils.datasets.image_dataset import ImageDataset, strata, stratified_indices
from xaiutils.graph.network import Network
from xaiutils.graph.predict import predict
from xaiutils.images import check_images
from xaiutils.models.wrapped import facts_of
from xaiutils.own_model.scalings import SCALINGS
from xaiutils.statistics.delong import auc_influence
from xaiutils.statistics.formatting import percent
from xaiutils.statistics.paired_tests import wilcoxon_signed_rank
from xaiutils.statistics.proportions import better_than_guessing, wilson

IMAGES = 64  # more tell more; these take seconds under six readings
CONFIDENCE, TOLD_APART = 0.95, 0.05
_TEMPERATURES = np.logspace(-2, 2, 41)
_FOR_THREE_CHANNELS = ("imagenet", "caffe")


@dataclass(frozen=True)
class ScalingMeasurement:
    """What `measure_scaling` found.

    Attributes:
        table: a row for each reading, the best first: ``figure`` ("accuracy", "macro AUC", "correlation", or, without
            labels, "fit") with ``value``, ``low``, ``high`` (95 %) and ``n`` images; ``auc`` of two classes (mean over
            more, or NaN); ``merit``, by which it was chosen (mean log-likelihood of the labels after one temperature;
            less the mean absolute error of a score); ``p`` of a paired test of its merit against that of the first.
        chosen: the first row's reading.
        clear: whether every other reading can be told apart from it (p below 0.05).
        near_chance: whether no reading does better than chance on these images.
        sentences: what a user should read, in words.
    """

    table: pd.DataFrame
    chosen: str
    clear: bool
    near_chance: bool
    sentences: tuple[str, ...]


def measure_scaling(
    core_wrap: Callable[[str], keras.Model],
    sample: ImageDataset | np.ndarray,
    names: Sequence[str] | None = None,
    n_images: int = IMAGES,
    seed: int = 0,
) -> ScalingMeasurement:
    """Compare the readings ``names`` of the pixels on up to ``n_images`` images of ``sample``.

    Args:
        core_wrap: makes the model for a reading, one that takes images in [0, 255] (`xaiutils.wrap` with ``scaling``).
        sample: a data set with labels (of one class, several labels, or ``values`` of a score), of which as many
            images of each class are drawn as there can be; or images alone ``(n, h, w, channels)`` in [0, 255].
        names: of `xaiutils.own_model.scalings.SCALINGS`; None: all that fit the channels.
        n_images, seed: how many images are drawn, and the draw.

    Raises ValueError where there is no image, or what `xaiutils.predict` raises.
    """
    if not isinstance(sample, ImageDataset | np.ndarray):
        raise TypeError(f"sample is {type(sample).__name__}; expected an ImageDataset, or images (n, h, w, channels).")
    if len(sample) == 0:
        raise ValueError("sample is empty: there is nothing to measure the scaling on.")
    ds, drawn = None, sample
    if isinstance(sample, ImageDataset):
        drawn = ds = sample.select(stratified_indices(strata(sample.labels), n_images, seed))
    first = core_wrap("model")
    network = Network.of(first)
    images = check_images(
        drawn.images if isinstance(drawn, ImageDataset) else drawn[:n_images], channels=network.channels
    )
    if names is None:
        names = [n for n in SCALINGS if network.channels == 3 or n not in _FOR_THREE_CHANNELS]
    models = {name: first if name == "model" else core_wrap(name) for name in names}
    truth, why = _truth(first, network, ds)
    if truth is None:
        return _without_labels(models, images, why)
    rows = None if ds is None else ds.inputs
    logits = {name: predict(model, images, inputs=rows) for name, model in models.items()}
    readings = {name: _reading(z, truth, network.activation) for name, z in logits.items()}
    misfits = {name: batch_norm_misfit(model, images) for name, model in models.items()}
    return _with_labels(readings, misfits, truth)


@dataclass(frozen=True)
class _Reading:
    """How one reading does: a figure with its interval, and the merit of each image ``(n,)``."""

    figure: str
    value: float
    low: float
    high: float
    auc: float
    merits: np.ndarray
    beats_chance: bool


# Labelled ------------------------------------------------------------------------------------------------------------


def _truth(model: keras.Model, network: Network, ds: ImageDataset | None) -> tuple[np.ndarray | None, str]:
    """Labels in the order of the model's classes, or the values of a score; else None, and why."""
    if ds is None:
        return None, "the sample has no labels"
    if network.activation == "score":
        return ds.values, "the model gives a score, and the sample has no values"
    order, why = class_order(model, network.n_classes, ds)
    if order is None:
        return None, why
    if ds.multi_label:
        if network.activation != "sigmoid":
            return None, "the images have several labels at once, and the model gives one class"
        return ds.labels[:, np.argsort(order)].astype(np.int64), ""
    return np.asarray(order)[ds.labels], ""


def class_order(model: keras.Model, n_classes: int, ds: ImageDataset) -> tuple[list[int] | None, str]:
    """Which of the model's classes each class of ``ds`` is, by the names that the model was given, else by the order
    (one unit is the probability of its positive class, where that was given); None where they do not fit, and why."""
    facts = facts_of(model)
    names = None if facts is None else facts.class_names
    if n_classes != len(ds.class_names):
        return None, f"the model has {n_classes} classes and the sample {len(ds.class_names)}"
    if names is None:
        if facts is not None and model.output_shape[-1] == 1 and facts.positive_class in ds.class_names:
            return [int(name == facts.positive_class) for name in ds.class_names], ""
        return list(range(n_classes)), ""
    if set(names) != set(ds.class_names):
        return None, f"the model's classes are {', '.join(names)}, and the sample's {', '.join(ds.class_names)}"
    return [names.index(name) for name in ds.class_names], ""


def _reading(logits: np.ndarray, truth: np.ndarray, activation: str) -> _Reading:
    logits = logits.astype(np.float64)
    if activation == "score":
        return _of_score(logits[:, 0], truth)
    if truth.ndim == 2:
        return _of_labels(logits, truth)
    z = logits[:, 1:] * np.array([[-0.5, 0.5]]) if activation == "binary" else logits  # softmax of (-z/2, z/2)
    right = z.argmax(axis=1) == truth
    low, high = wilson(right.sum(), len(right), CONFIDENCE)
    of_classes = slice(1, None) if z.shape[1] == 2 else slice(None)  # of two, one AUC says all
    aucs = _aucs(np.eye(z.shape[1], dtype=int)[truth][:, of_classes], log_softmax(z, axis=1)[:, of_classes])
    merits = _at_best_temperature(lambda t: log_softmax(z / t, axis=1)[np.arange(len(z)), truth])
    better = len(set(truth)) > 1 and better_than_guessing(truth, right, np.arange(len(right)), CONFIDENCE)
    auc_better = bool(aucs) and _auc_low(aucs) > 0.5
    return _Reading("accuracy", right.mean(), low, high, _mean_auc(aucs), merits, better or auc_better)


def _of_labels(logits: np.ndarray, truth: np.ndarray) -> _Reading:
    known = truth >= 0
    sides = np.where(truth == 1, 1.0, -1.0)
    counts = np.maximum(known.sum(axis=1), 1)
    merits = _at_best_temperature(lambda t: (log_expit(sides * logits / t) * known).sum(axis=1) / counts)
    aucs = _aucs(truth, logits)
    value, low = _mean_auc(aucs), _auc_low(aucs)
    high = min(1.0, 2 * value - low)
    return _Reading("macro AUC", value, max(0.0, low), high, value, merits, bool(aucs) and low > 0.5)


def _of_score(scores: np.ndarray, values: np.ndarray) -> _Reading:
    spread = min(np.std(scores), np.std(values)) > 0 and len(scores) > 3
    r = float(np.corrcoef(scores, values)[0, 1]) if spread else np.nan
    width = norm.ppf((1 + CONFIDENCE) / 2) / np.sqrt(max(len(scores) - 3, 1))
    with np.errstate(divide="ignore"):
        low, high = np.tanh(np.arctanh(r) - width), np.tanh(np.arctanh(r) + width)  # Fisher's z
    return _Reading("correlation", r, low, high, np.nan, -np.abs(scores - values), bool(low > 0))


def _at_best_temperature(likelihoods: Callable[[float], np.ndarray]) -> np.ndarray:
    return max((likelihoods(t) for t in _TEMPERATURES), key=np.mean)


def _aucs(truth: np.ndarray, scores: np.ndarray) -> list[tuple[float, float]]:
    """The AUC of each class or label that occurs and is missing somewhere, and its standard error (DeLong)."""
    found = []
    for y, s in zip(truth.T, scores.T, strict=True):
        positive, known = y == 1, y >= 0
        if positive[known].any() and not positive[known].all():
            auc, influence = auc_influence(positive[known], s[known])
            found.append((auc, float(np.sqrt((influence**2).sum()))))
    return found


def _mean_auc(aucs: list[tuple[float, float]]) -> float:
    return float(np.mean([a for a, _ in aucs])) if aucs else np.nan


def _auc_low(aucs: list[tuple[float, float]]) -> float:
    """The lower end of the mean's interval, the errors of classes taken as if they went together (the widest)."""
    return _mean_auc(aucs) - norm.ppf((1 + CONFIDENCE) / 2) * float(np.mean([e for _, e in aucs])) if aucs else np.nan


def _with_labels(readings: dict[str, _Reading], misfits: dict[str, float], truth: np.ndarray) -> ScalingMeasurement:
    chance = not any(r.beats_chance for r in readings.values())
    table, alike = _table(readings, misfits, len(truth), chance)
    chosen, best = str(table.index[0]), readings[table.index[0]]
    said = [f"Scaling {chosen!r} fits best on {len(truth)} labelled images: {_in_words(best)}"]
    if chance:
        said = [
            f"Under no reading of its pixels does the model do better than chance on {len(truth)} labelled images "
            f"({chosen!r}: {_in_words(best)}). Before maps are read: are the classes in the model's order "
            "(class_names), the images laid out as in training (crop, size, contrast), and of that kind?"
        ]
    elif len(table) > 1:
        said[0] += f"; next comes {table.index[1]!r}, {_in_words(readings[table.index[1]])}."
    if alike:
        said.append(_alike_in_words(chosen, alike, table))
    said += _swapped_in_words(readings, truth)
    return ScalingMeasurement(table, chosen, not alike, chance, tuple(said))


def _in_words(reading: _Reading) -> str:
    if reading.figure == "accuracy":
        return f"accuracy {percent(reading.value)} [{100 * reading.low:.0f} to {100 * reading.high:.0f} %]"
    said = f"{reading.figure} {reading.value:.2f} [{reading.low:.2f} to {reading.high:.2f}]"
    return said if reading.figure != "correlation" else f"{said}, mean error {-reading.merits.mean():.3g}"


def _table(
    readings: dict[str, _Reading], misfits: dict[str, float], n: int, chance: bool
) -> tuple[pd.DataFrame, list[str]]:
    """The rows, the chosen first, and the readings that the labels do not tell from the best (all, where none beats
    chance). Between these the fit to the first batch normalisation decides; of equal ones, the order of `SCALINGS`."""

    def p_against(best: str, other: str) -> float:
        return wilcoxon_signed_rank(np.round(readings[best].merits - readings[other].merits, 9))[0]

    merits = {name: round(float(r.merits.mean()), 9) for name, r in readings.items()}
    order = sorted(readings, key=lambda name: -merits[name] if np.isfinite(merits[name]) else np.inf)
    alike = [order[0], *(name for name in order[1:] if chance or p_against(order[0], name) >= TOLD_APART)]
    chosen = min(alike, key=lambda name: misfits[name]) if np.isfinite(list(misfits.values())).all() else order[0]
    rows = [
        {
            "scaling": name,
            "figure": (r := readings[name]).figure,
            "value": r.value,
            "low": r.low,
            "high": r.high,
            "n": n,
            "auc": r.auc,
            "merit": merits[name],
            "p": np.nan if name == chosen else p_against(chosen, name),
            "misfit": misfits[name],
        }
        for name in [chosen, *(name for name in order if name != chosen)]
    ]
    return pd.DataFrame(rows).set_index("scaling"), [name for name in alike if name != chosen]


def _alike_in_words(chosen: str, alike: list[str], table: pd.DataFrame) -> str:
    same = [
        name for name in alike if table.loc[name, "p"] == 1 and table.loc[name, "merit"] == table.loc[chosen, "merit"]
    ]
    if same == alike:
        return f"{', '.join(map(repr, [chosen, *same]))} give the same answers: it does not matter which is taken."
    said = f"The labels do not tell it from {', '.join(map(repr, alike))}"
    misfits = table["misfit"]
    if np.isfinite(misfits).all():
        said += (
            f"; the mean and variance that its first batch normalisation keeps from training speak for {chosen!r} "
            f"(misfit {misfits[chosen]:.2g}, next {misfits[alike].min():.2g})"
        )
    return f"{said}. Give scaling= as the model was trained, or a larger sample, to be sure."


def _swapped_in_words(readings: dict[str, _Reading], truth: np.ndarray) -> list[str]:
    """Whether a reading ranks two classes clearly the wrong way round."""
    if truth.ndim == 2 or len(set(truth)) != 2:
        return []
    low = {name: r.auc for name, r in readings.items() if r.auc + 1.96 * _null_error(truth) < 0.5}
    best = min(low, key=lambda name: low[name], default=None)
    if best is None or max(r.auc for r in readings.values()) >= 1 - low[best]:
        return []
    return [
        f"Under {best!r} the AUC is {low[best]:.2f}, which would be {1 - low[best]:.2f} if the two classes were "
        "swapped: are the class names in the model's order (class_names)?"
    ]


def _null_error(positive: np.ndarray) -> float:
    """The standard deviation of the AUC of scores that say nothing."""
    m = (positive == positive.max()).sum()
    return float(np.sqrt((len(positive) + 1) / (12 * m * (len(positive) - m))))


# Without labels ------------------------------------------------------------------------------------------------------


def _without_labels(models: dict[str, keras.Model], images: np.ndarray, why: str) -> ScalingMeasurement:
    """By the first batch normalisation, which remembers the pixels of training; else by the answers."""
    misfits = {name: batch_norm_misfit(model, images) for name, model in models.items()}
    if all(np.isfinite(list(misfits.values()))):
        merits, figure = {name: -m for name, m in misfits.items()}, "batch norm misfit"
        how = "by the mean and variance that its first batch normalisation keeps from training"
    else:
        merits, figure = {name: information(model, images) for name, model in models.items()}, "information"
        how = "its answers differ most between the images while it is sure of them, which is weak evidence"
    order = sorted(merits, key=lambda name: -merits[name])
    columns = {"figure": figure, "value": [abs(merits[n]) for n in order], "low": np.nan, "high": np.nan}
    columns |= {"n": len(images), "auc": np.nan, "merit": [merits[n] for n in order], "p": np.nan}
    columns |= {"misfit": [misfits[n] for n in order]}
    table = pd.DataFrame(columns, index=pd.Index(order, name="scaling"))
    ranks = ", ".join(f"{name!r} {abs(merits[name]):.3g}" for name in order[:3])
    said = (
        f"Scaling {order[0]!r} fits best on {len(images)} images without labels ({why}): {how} ({figure}: {ranks}).",
        "Give scaling= as the model was trained, or a sample with labels, to be sure.",
    )
    return ScalingMeasurement(table, order[0], False, False, said)


def batch_norm_misfit(model: keras.Model, images: np.ndarray) -> float:
    """How far what enters the first BatchNormalization is from what it saw in training: the median over channels of
    the Kullback-Leibler divergence of normal distributions. NaN where the model has none."""
    network = Network.of(model)
    steps = (s for s in network.steps_to_logits if isinstance(s.operation, keras.layers.BatchNormalization))
    step = next(steps, None)
    if step is None:
        return np.nan
    layer = step.operation
    x = tf.cast(network.inputs_at(step, tf.constant(images, tf.float32))[0], tf.float32)
    axes = [a for a in range(len(x.shape)) if a != layer.axis % len(x.shape)]
    mean, variance = (m.numpy().astype(np.float64) for m in tf.nn.moments(x, axes))
    kept, spread = (np.asarray(v, np.float64) + e for v, e in ((layer.moving_mean, 0), (layer.moving_variance, 1e-6)))
    variance = variance + 1e-6
    return float(np.median(np.log(spread / variance) + (variance + (mean - kept) ** 2) / spread - 1) / 2)


def information(model: keras.Model, images: np.ndarray) -> float:
    """What the answers say of the images, in nats: the entropy of the mean answer less the mean entropy of answers.
    Near 0 where all images get the same answer, or every answer is unsure; of a score, the deviation over its mean."""
    activation = Network.of(model).activation
    p = predict(model, images, probabilities=activation != "score").astype(np.float64)
    if activation == "score":
        return float(p.std() / max(abs(p.mean()), 1e-9))
    sides = p[..., None] if activation == "softmax" else np.stack([p, 1 - p], axis=-1)

    def entropy(q: np.ndarray) -> np.ndarray:
        return -(q * np.log(np.clip(q, 1e-12, 1))).sum(axis=-1).sum(axis=-1)

    return float(entropy(sides.mean(axis=0)) - entropy(sides).mean())
