"""Do a rare class' maps get worse, or do answers get less sure? Networks trained on more and more uneven classes.

Two sweeps, so that imbalance is not taken for a lack of images: the total is held (the rare class shrinks), or the rare
class is (the rest grows). Both meet in the least share, where they have the same images. Maps of the rare class' test
images are compared image by image with those of the network of the same seed that was trained on even classes: of all
images, of those where both networks are as sure, and with the change of the logit's margin as the mediator.
Intervals hold what other images and what other training seeds would change.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from xaiutils import __version__
from xaiutils.attribution import explain_all
from xaiutils.backend import keras
from xaiutils.classification.calibration import expected_calibration_error
from xaiutils.datasets import ImageDataset
from xaiutils.datasets.image_dataset import stratified_order
from xaiutils.evaluation.evaluate import evaluate_all
from xaiutils.evaluation.map_similarity import spearman
from xaiutils.evaluation.studies.painting import paint_over
from xaiutils.evaluation.studies.random_weights import random_weight_maps
from xaiutils.evaluation.studies.trainings import Splits, check_splits, digest, digest_of_data, digest_of_weights
from xaiutils.files import replace_file
from xaiutils.graph.predict import predict
from xaiutils.map_reading import read_maps
from xaiutils.progress import progress
from xaiutils.registry import check_choice, suggest
from xaiutils.statistics.crossed import crossed_interval
from xaiutils.training import Recipe, train

HOLDS = ("total", "minority")
EVEN = 0.5
REMEDIES: dict[str, dict[str, Any]] = {
    "none": {},
    "class_weights": {"balance": "class_weights"},
    "balanced_batches": {"balance": "balanced_batches"},
    "focal": {"loss": "focal"},
}
PLANTED = "evidence removed"  # no remedy: even classes, the rare one's evidence painted over in training
# Even batches, no augmentation; the weights of the lowest training loss, so that no even validation set is a remedy.
RECIPE = Recipe(
    "imbalance", frozen=False, learning_rate=0.003, weight_decay=0.0, epochs=30, patience=30, monitor="loss", warmup=0.0
)
_CELL = ["hold", "share", "remedy", "seed"]
_SCORE = ["image_id", "metric", "value"]
_SUMMARY = ["mean", "low", "high", "least", "greatest", "n", "seeds", "missing"]
_GROUP = ("hold", "remedy", "share", "metric")


@dataclass(frozen=True)
class Cell:
    """One network: what was ``hold`` in its training set, the ``share`` of the rare class, the ``remedy``, the seed."""

    hold: str
    share: float
    remedy: str
    seed: int


def counts(hold: str, share: float, total: int, least: float) -> tuple[int, int]:
    """How many images of the rare class and of the rest a training set has: of ``total`` images, or with as many of the
    rare class as the ``least`` share of ``total`` is."""
    check_choice("hold", hold, HOLDS)
    if not 0 < least <= share <= EVEN:
        raise ValueError(f"share={share}, least={least}; expected 0 < least <= share <= {EVEN}.")
    few = round((share if hold == "total" else least) * total)
    return few, total - few if hold == "total" else round(few * (1 - share) / share)


def uneven(ds: ImageDataset, rare: int, n_rare: int, n_rest: int, seed: int = 0) -> ImageDataset:
    """A training set of so many images of the class ``rare`` and of all others (in their proportions). With the same
    seed, a smaller draw is part of a larger one. Raises ValueError where ``ds`` has too few."""
    ds.check_single_label("an uneven training set")
    own, rest = (np.flatnonzero((ds.labels == rare) == which) for which in (True, False))
    if min(n_rare, n_rest) < 1 or n_rare > len(own) or n_rest > len(rest):
        raise ValueError(f"{n_rare} and {n_rest} images are wanted, of {len(own)} of the class and {len(rest)} others.")
    drawn = (part[stratified_order(ds.labels[part], seed)[:n]] for part, n in ((own, n_rare), (rest, n_rest)))
    return ds.select(np.sort(np.concatenate(list(drawn))))


def of_classes(ds: ImageDataset, names: Sequence[str]) -> ImageDataset:
    """The images of these classes, numbered in the order of ``names``: another choice of classes."""
    ds.check_single_label("a choice of classes")
    names = list(names)
    for name in names:
        if name not in ds.class_names:
            raise ValueError(f"the set has no class {name!r}; {suggest(name, list(ds.class_names))}")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"the classes {names} are chosen; expected two or more, each once.")
    numbers = np.array([names.index(name) if name in names else -1 for name in ds.class_names])[ds.labels]
    kept = np.flatnonzero(numbers >= 0)
    fresh = replace(ds, labels=np.maximum(numbers, 0), class_names=tuple(names))
    return replace(fresh.select(kept), available=len(kept))


def without_evidence(ds: ImageDataset, rare: int) -> ImageDataset:
    """The set with the masked evidence of the class ``rare`` painted over: the effect that is planted."""
    if ds.masks is None:
        raise ValueError("the set has no masks, so its evidence cannot be painted over.")
    pixels = np.array(ds.pixels)
    for i in np.flatnonzero((ds.labels == rare) & ds.masks.any(axis=(1, 2))):
        pixels[i] = np.rint(paint_over(pixels[i].astype(np.float32), ds.masks[i]))
    return replace(ds, pixels=pixels, masks=None, evidence=None)


@dataclass(frozen=True)
class Sweep:
    """``images``: a row for each network, test image of the rare class and metric: hold, share, remedy, seed, image_id,
    right, p (of its class), margin (its logit less the largest other), metric, value. ``classes``: a row for each
    network and class: sensitivity, ece. ``random``: a row for each network, image and metric: what maps of the network
    with random weights score, and as the metric "likeness" how alike (Spearman) they are to its own. ``maps``: float32
    ``(n, height, width)`` of the rare class' test images."""

    images: pd.DataFrame
    classes: pd.DataFrame
    random: pd.DataFrame
    maps: dict[Cell, np.ndarray]


def sweep(
    build: Callable[[int], keras.Model],
    splits: Splits,
    rare: int,
    cells: Iterable[Cell],
    total: int,
    method: str = "hirescam",
    recipe: Recipe = RECIPE,
    metrics: Sequence[str] = ("relevance_mass", "roc_auc"),
    reading: str = "positive",
    folder: str | Path | None = None,
) -> Sweep:
    """Train and measure a network for each of ``cells``.

    Args:
        build: a new network from its seed.
        splits: images to draw training sets from; a few for validation, which decide nothing with `RECIPE`; and test
            images, which stay the same.
        rare: the class that gets rare; its test images are explained for it, by ``method``.
        recipe: its epochs are those of ``total`` images: a smaller set is seen more often, in as many steps, so that
            few images are not taken for little training.
        cells: see `grid`; with `PLANTED` for a remedy, evidence is removed.
        total: images of a training set whose total is held.
        metrics, reading: how maps are scored, against masks.
        folder: where what was measured of each network is kept, and read again by whoever asks for the same: a sweep
            that was cut goes on.
    """
    check_splits(splits)
    cells, (pool, val, test) = list(cells), splits
    least, few = min(cell.share for cell in cells), test.select(test.labels == rare)
    known: dict[Any, Any] = {}
    rows: list[list[pd.DataFrame]] = [[], [], []]
    maps: dict[Cell, np.ndarray] = {}
    evidence = [ds.masks for ds in splits]
    about = digest(
        __version__, digest_of_data(splits), evidence, test.ids, rare, total, method, recipe, metrics, reading
    )
    for cell in progress(cells, title="networks"):
        n = counts(cell.hold, cell.share, total, least)
        key = (n, cell.remedy, cell.seed)
        if key not in known:  # where both sweeps have the same images
            model = build(cell.seed)
            path = None if folder is None else Path(folder) / f"{digest(about, key, digest_of_weights(model))}.npz"
            known[key] = _read(path) if path is not None and path.exists() else None
        if known[key] is None:
            data, remedy = uneven(pool, rare, *n, cell.seed), REMEDIES.get(cell.remedy, {})
            data = without_evidence(data, rare) if cell.remedy == PLANTED else data
            steps = recipe.epochs * max(1, total // recipe.batch_size)
            epochs = -(-steps // max(1, len(data) // recipe.batch_size))
            train(model, data, val, replace(recipe, epochs=epochs, patience=epochs), seed=cell.seed, **remedy)
            found = explain_all(model, few.images, rare, [method])
            blank = random_weight_maps(model, few.images, [method], rare, seed=cell.seed)
            scores, of_blank = (evaluate_all(None, few, m, metrics, reading=reading)[_SCORE] for m in (found, blank))
            alike = spearman(*(read_maps(m[method], reading) for m in (found, blank)))
            alike = pd.DataFrame({"image_id": few.ids, "metric": "likeness", "value": alike})
            answers, of_classes = _answers(model, test, rare)
            tables = scores.merge(answers, on="image_id"), of_classes, pd.concat([of_blank, alike])
            known[key] = *tables, found[method]
            _write(path, *known[key])
        facts = {name: getattr(cell, name) for name in _CELL}
        for own, table in zip(rows, known[key][:3], strict=True):
            own.append(table.assign(**facts))
        maps[cell] = known[key][3]
    images, classes, random = (pd.concat(own, ignore_index=True) for own in rows)
    return Sweep(images, classes, random, maps)


def _write(path: Path | None, *parts: pd.DataFrame | np.ndarray) -> None:
    """Tables, and the maps as the last, into one file."""
    if path is not None:
        columns = {f"{i}.{c}": t[c].to_numpy() for i, t in enumerate(parts[:-1]) for c in t}
        plain: dict[str, Any] = {name: x if x.dtype.kind in "fib" else np.array(x, str) for name, x in columns.items()}
        replace_file(path, lambda file: np.savez_compressed(file, maps=parts[-1], **plain))


def _read(path: Path) -> tuple[Any, ...]:
    with np.load(path) as kept:
        tables: list[dict[str, Any]] = [{}, {}, {}]
        for name in kept.files:
            if name != "maps":
                number, column = name.split(".", 1)
                tables[int(number)][column] = kept[name]
        return *map(pd.DataFrame, tables), kept["maps"]


def grid(
    shares: Sequence[float],
    remedies: Iterable[str],
    seeds: Iterable[int],
    planted: bool = True,
    everywhere: bool = True,
) -> list[Cell]:
    """All cells of both sweeps, and for each seed the one with the planted effect. Without ``everywhere``, remedies are
    tried only where the total is held and the rare class is rarest.

    Raises ValueError for a remedy that is not known, and where even classes without remedy, which all others are
    compared with, are missing."""
    names, seeds = list(remedies), list(seeds)
    if unknown := set(names) - set(REMEDIES):
        raise ValueError(f"remedies {sorted(unknown)} are not known; choose from {', '.join(REMEDIES)}.")
    if EVEN not in shares or "none" not in names:
        raise ValueError(f"shares {list(shares)}, remedies {names}: {EVEN} and 'none' must be among them.")
    cells = [
        Cell(hold, share, name, seed)
        for hold in HOLDS
        for share in shares
        for name in names
        for seed in seeds
        if everywhere or name == "none" or (hold == "total" and share == min(shares))
    ]
    return cells + [Cell("total", EVEN, PLANTED, seed) for seed in seeds if planted]


def _answers(model: keras.Model, test: ImageDataset, rare: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is known of the rare class' images, and of each class."""
    logits = predict(model, test.images).astype(np.float64)
    p, own = softmax(logits, axis=1), np.arange(logits.shape[1]) == test.labels[:, None]
    margin = logits[own] - np.where(own, -np.inf, logits).max(axis=1)
    facts = {"image_id": test.ids, "right": margin > 0, "p": p[own], "margin": margin}
    if test.patients is not None:
        facts["patient_id"] = test.patients
    said = [
        (name, float((margin > 0)[own[:, k]].mean()), expected_calibration_error(own[:, k], p[:, k]))
        for k, name in enumerate(test.class_names)
    ]
    return pd.DataFrame(facts)[test.labels == rare], pd.DataFrame(said, columns=["class", "sensitivity", "ece"])


def against(
    images: pd.DataFrame, reference: pd.DataFrame, on: Sequence[str] = ("hold", "seed"), caliper: float | None = None
) -> pd.DataFrame:
    """Each image's value less that by another network, the one of ``reference`` that has the same ``on``.

    ``images``, ``reference``: as in `Sweep`. ``caliper``: only images whose probabilities, of their class by either
    network, are no farther apart. Returns the rows that have both, with ``value`` the difference, and ``d_margin`` that
    of the margins. Raises ValueError where several networks of ``reference`` would do.
    """
    keys = [*on, "image_id", "metric"]
    if reference.duplicated(keys).any():
        raise ValueError(f"reference has several networks of the same {', '.join(on)}; give one for each.")
    both = images.merge(reference[[*keys, "value", "margin", "p"]], on=keys, suffixes=("", "_other"))
    if caliper is not None:
        both = both[(both["p"] - both["p_other"]).abs() <= caliper]
    changed = both.assign(value=both["value"] - both["value_other"], d_margin=both["margin"] - both["margin_other"])
    return changed.drop(columns=["value_other", "margin_other", "p_other"])


def against_even(images: pd.DataFrame, caliper: float | None = None) -> pd.DataFrame:
    """`against` the network of even classes of the same sweep and seed, without remedy."""
    even = (images["share"] == EVEN) & (images["remedy"] == "none")
    return against(images[~even], images[even], caliper=caliper)


def summarise_seeds(table: pd.DataFrame, by: Sequence[str] = _GROUP) -> pd.DataFrame:
    """Means with intervals over images, or patients, and over training seeds (`crossed_interval`).

    ``table``: as ``images`` of `Sweep`, or changes of `against`. Returns a row for each group: ``by``, mean, low, high,
    least and greatest (means of single seeds), n (images, or patients), seeds, missing (values that are NaN, left out).
    """
    rows = []
    for key, group in table.groupby(list(by), sort=False):
        known = group.dropna(subset=["value"])
        value, single = known["value"].to_numpy(float), known.groupby("seed")["value"].mean()
        found: tuple[float, ...] = (np.nan,) * 3
        if len(known):
            ends = crossed_interval(_means_of(value), _units(known), known["seed"])
            found = tuple(float(x[0]) for x in ends)
        n = len(set(_units(known)))
        rows.append((*key, *found, single.min(), single.max(), n, len(single), len(group) - len(known)))
    return pd.DataFrame(rows, columns=[*by, *_SUMMARY])


def mediation(images: pd.DataFrame, by: Sequence[str] = _GROUP) -> pd.DataFrame:
    """How much of the maps' change goes with that of the logit's margin.

    Differences of `against_even` are regressed on those of margins: the ``direct`` effect is what is left where the
    margin is the same, the ``mediated`` one slope times mean change. They sum to the ``total``. Margins that changed at
    random flatten the slope, which makes the direct effect larger: what is mediated is a lower bound. Nor is it a proof
    of cause, for whatever changes both looks like this.

    Returns a row for each group and effect: ``by``, effect, mean, low, high (over images, or patients, and training
    seeds), n (images, or patients).
    """
    rows = []
    for key, group in against_even(images).dropna(subset=["value"]).groupby(list(by), sort=False):
        units, d, m = _units(group), group["value"].to_numpy(), group["d_margin"].to_numpy()

        def effects(weights: np.ndarray, d: np.ndarray = d, m: np.ndarray = m) -> np.ndarray:
            total, change = _mean(weights, d), _mean(weights, m)
            spread = _mean(weights, m**2) - change**2
            with np.errstate(divide="ignore", invalid="ignore"):
                slope = np.where(spread > 1e-12, (_mean(weights, d * m) - total * change) / spread, 0.0)
            return np.stack([total, total - slope * change, slope * change], axis=1)

        found = crossed_interval(effects, units, group["seed"])
        names = ("total", "direct", "mediated")
        rows += [(*key, name, *values, len(set(units))) for name, *values in zip(names, *found, strict=True)]
    return pd.DataFrame(rows, columns=[*by, "effect", "mean", "low", "high", "n"])


def _units(table: pd.DataFrame) -> np.ndarray:
    return table["patient_id" if "patient_id" in table else "image_id"].to_numpy()


def judge(summary: pd.DataFrame) -> pd.DataFrame:
    """Changes that were summarised, with a column verdict: "lower" or "higher" where the interval leaves out 0, else
    "undecided"."""
    said = np.select([summary["high"] < 0, summary["low"] > 0], ["lower", "higher"], "undecided")
    return summary.assign(verdict=said)


def _means_of(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda weights: _mean(weights, values)[:, None]


def _mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    return weights @ values / weights.sum(axis=1)


def likeness(maps: dict[Cell, np.ndarray], ids: Sequence[str], reading: str = "positive") -> pd.DataFrame:
    """How alike (Spearman) each network's maps are to those of even classes without remedy: of the same seed, and as
    the yardstick ("other seed") those of the even network by the next seed.

    Returns a row for each network and image: hold, share, remedy, seed, image_id, value.
    """
    seeds = sorted({cell.seed for cell in maps})
    tables = []
    for cell, found in maps.items():
        even = Cell(cell.hold, EVEN, "none", cell.seed)
        remedy, other = cell.remedy, even
        if cell == even:
            other = replace(even, seed=seeds[(seeds.index(cell.seed) + 1) % len(seeds)])
            remedy = "other seed"
        if other in maps and other != cell:
            value = spearman(read_maps(found, reading), read_maps(maps[other], reading))
            facts = {"hold": cell.hold, "share": cell.share, "remedy": remedy, "seed": cell.seed}
            tables.append(pd.DataFrame({**facts, "image_id": list(ids), "value": value}))
    return pd.concat(tables, ignore_index=True)
