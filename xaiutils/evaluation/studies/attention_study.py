"""Does attention help a classifier, and do its maps change? Five conditions, trained, compared and explained.

Four are those of Gonçalves & Cardoso 2021 (RECPAD): a network and the same with the head "mldam", each without and with
augmentation. That head adds attention, which has no weights, and layers behind it, which have most of the network's: so
"no_attention", which they have not, keeps the layers and takes the attention away.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from xaiutils import __version__
from xaiutils.attribution import own_readings
from xaiutils.backend import keras
from xaiutils.classification import Predictions
from xaiutils.classification.baselines import warn_untaught
from xaiutils.evaluation.map_similarity import similarity_table
from xaiutils.evaluation.studies.trainings import Splits, check_splits, digest, digest_of_data, digest_of_weights
from xaiutils.graph.network import Network
from xaiutils.models import build_model
from xaiutils.progress import progress
from xaiutils.registry import check_choice
from xaiutils.training import Recipe, train
from xaiutils.training.augmentation import AUGMENTATIONS
from xaiutils.training.predictions import predictions_of
from xaiutils.training.recipes import RECIPES

BY_VAL, BY_TRAIN = "val loss", "training loss"
AGREE_ON = ("backbone", "all")
Key = tuple[str, str, int]  # backbone, condition, seed


@dataclass(frozen=True)
class Condition:
    """``title`` for tables; ``attention`` of the head "mldam", or "" for the study's own head without it."""

    title: str
    attention: str
    augmented: bool


CONDITIONS = {
    "baseline": Condition("(a) baseline", "", False),
    "baseline_augmented": Condition("(b) baseline, augmented", "", True),
    "mldam": Condition("(c) MLDAM", "both", False),
    "mldam_augmented": Condition("(d) MLDAM, augmented", "both", True),
    "no_attention": Condition("(e) MLDAM's layers alone", "none", False),
}


@dataclass(frozen=True)
class Setting:
    """What all conditions share: ``model`` of `xaiutils.MODELS`, ``image_size``, ``weights`` as `build_model` takes
    them, ``variant`` and ``units`` of the head "mldam", and ``recipe``, whose augmentation the augmented ones get."""

    model: str
    image_size: int
    weights: str | None = None
    variant: str = "published"
    units: tuple[int, ...] = ()
    recipe: str | Recipe = "attention_study_frozen"
    epochs: int | None = None

    def build(self, condition: str, seed: int = 0) -> keras.Model:
        """The untrained network of a condition, of one sigmoid unit. The baseline's logits see the whole feature map,
        a ResNet's its mean, as in the study."""
        attention = CONDITIONS[condition].attention
        how: dict[str, Any] = {"head": "linear" if "resnet" in self.model else "flat"}
        if attention:
            options = {"variant": self.variant, "attention": attention, "units": self.units}
            how = {"head": "mldam", "head_options": options}
        return build_model(self.model, 2, self.image_size, self.weights, seed=seed, outputs="binary", **how)

    def last_map(self) -> str:
        """The layer of the backbone's last feature map, which all conditions have: there their CAMs can be compared. By
        default those of MLDAM are behind attention."""
        return Network.of(self.build("baseline")).cam_layer()

    def recipe_of(self, condition: str) -> Recipe:
        """The recipe, without its augmentation where the condition has none."""
        recipe = RECIPES[self.recipe] if isinstance(self.recipe, str) else self.recipe
        if CONDITIONS[condition].augmented:
            return recipe
        off: dict[str, Any] = {f.name: f.default for f in fields(Recipe) if f.name in (*AUGMENTATIONS, "copies")}
        return replace(recipe, **off)


@dataclass(frozen=True)
class Trained:
    """A network of a condition on a ``backbone`` of `xaiutils.MODELS`, with the weights of the least validation loss.

    ``answers`` are what it says of the test images, by the loss that chose the weights: `BY_VAL`, and where the recipe
    keeps them `BY_TRAIN`."""

    backbone: str
    condition: str
    seed: int
    model: keras.Model
    answers: Mapping[str, Predictions]

    @property
    def key(self) -> Key:
        return self.backbone, self.condition, self.seed


def train_conditions(
    setting: Setting, conditions: Iterable[str], splits: Splits, seeds: Iterable[int], folder: str | Path
) -> list[Trained]:
    """Train and test a network for each of ``conditions`` and ``seeds`` (of its start, order and augmentation).

    ``splits``: training, validation and test images of two classes. ``folder`` keeps the weights, and a later call
    that wants the same networks reads them. Raises KeyError for an unknown condition, ValueError for other data.
    """
    check_splits(splits)
    wanted = [(name, seed) for name in conditions for seed in seeds]
    data = digest_of_data(splits[:2])
    return [_trained(setting, *one, splits, Path(folder), data) for one in progress(wanted, title="conditions")]


def _trained(setting: Setting, condition: str, seed: int, splits: Splits, folder: Path, data: str) -> Trained:
    model, recipe = setting.build(condition, seed), setting.recipe_of(condition)
    key = digest(__version__, data, recipe.to_yaml(), setting.epochs, seed, digest_of_weights(model), setting.variant)
    place = folder / setting.model / condition  # of all seeds, which share the features of a frozen backbone
    kept = {BY_VAL: place / f"seed{seed}-{key}.keras"}
    if recipe.also_keep:
        kept[BY_TRAIN] = place / f"seed{seed}-{key}-by_loss.keras"
    if not all(path.exists() for path in kept.values()):
        train(model, splits[0], splits[1], recipe, setting.epochs, place, seed)
        for name, path in zip(("model.keras", f"model_by_{recipe.also_keep}.keras"), kept.values(), strict=False):
            (place / name).replace(path)
    answers = {}
    for loss in reversed(kept):
        model.load_weights(kept[loss])
        answers[loss] = predictions_of(model, splits[2])
    return Trained(setting.model, condition, seed, model, answers)


def _facts(one: Trained, loss: str) -> dict[str, Any]:
    title = CONDITIONS[one.condition].title
    return {"backbone": one.backbone, "condition": title, "weights": loss, "seed": one.seed}


def _by_image(found: Predictions, value: np.ndarray) -> pd.DataFrame:
    patients = {"patient_id": found.groups["patient"]} if "patient" in found.groups else {}
    return pd.DataFrame({**patients, "image_id": found.ids, "value": value})


def hits(trained: Iterable[Trained]) -> pd.DataFrame:
    """Whether each answer is right: backbone, condition (its title), weights, seed, image_id, value (0 or 1), and
    patient_id where patients are known. `xaiutils.evaluation.summarise` makes of it means with intervals over images.
    """
    tables = [
        _by_image(found, (found.predicted == found.labels).astype(float)).assign(**_facts(one, loss))
        for one in trained
        for loss, found in one.answers.items()
    ]
    return pd.concat(tables, ignore_index=True)


def scores(trained: Iterable[Trained]) -> pd.DataFrame:
    """The study's figures of each network: backbone, condition (its title), weights, seed, n, accuracy, precision,
    recall, F1 (of the positive class, see `Predictions.positive`)."""
    rows = []
    for one in trained:
        for loss, found in one.answers.items():
            positive = found.positive()
            how = {"pos_label": positive, "average": "binary", "zero_division": 0}
            precision, recall, f1, _ = precision_recall_fscore_support(found.labels, found.predicted, **how)
            right = {"n": len(found), "accuracy": float((found.predicted == found.labels).mean())}
            rows.append({**_facts(one, loss), **right, "precision": precision, "recall": recall, "F1": f1})
    return pd.DataFrame(rows)


def agreed(trained: Iterable[Trained], agree_on: str = "backbone") -> dict[str, np.ndarray]:
    """Positions of the test images that networks are right on, int64, by backbone: all networks of that backbone (the
    study's code), or with "all" those of every backbone (its text). Warns of networks that have not learnt
    (`warn_untaught`)."""
    check_choice("agree_on", agree_on, AGREE_ON)
    right: dict[str, list[np.ndarray]] = {}
    hits, found = {}, None
    for one in trained:
        found = one.answers[BY_VAL]
        name = f"{one.backbone}, {CONDITIONS[one.condition].title}, seed {one.seed}"
        hits[name] = found.predicted == found.labels
        right.setdefault(one.backbone, []).append(np.flatnonzero(hits[name]))
    if found is not None:  # all of the same test images
        warn_untaught(hits, found.labels, found.units)
    every = [positions for of_one in right.values() for positions in of_one]
    return {name: reduce(np.intersect1d, every if agree_on == "all" else of_one) for name, of_one in right.items()}


def _pairs(keys: Iterable[Key]) -> Iterator[tuple[Key, Key, dict[str, str]]]:
    """Pairs on one backbone that differ in the condition or in the seed, not in both, and their facts for a table."""
    for one, other in combinations(keys, 2):
        same = [a == b for a, b in zip(one, other, strict=True)]
        if same[0] and same[1] != same[2]:
            letters = [CONDITIONS[name].title[1] for name in (one[1], other[1])]
            pair = f"{letters[0]}, {'other seed' if same[1] else letters[1]}"
            yield one, other, {"backbone": one[0], "pair": pair}


def answers_of_pairs(trained: Iterable[Trained]) -> pd.DataFrame:
    """How the answers of two networks differ: of two conditions with one seed, and of one condition with two seeds.

    Returns a row for each pair and image: backbone, pair ("a, c", or "a, other seed"), seeds ("0, 1"), image_id,
    patient_id where known, and value: 1 where the second alone is right, -1 where the first is, else 0. Its mean is the
    second's accuracy less the first's; the mean of its size is the share of images that are answered differently.
    """
    found = {one.key: one.answers[BY_VAL] for one in trained}
    right = {key: (said.predicted == said.labels).astype(float) for key, said in found.items()}
    tables = [
        _by_image(found[one], right[other] - right[one]).assign(**facts, seeds=f"{one[2]}, {other[2]}")
        for one, other, facts in _pairs(found)
    ]
    return pd.concat(tables, ignore_index=True)


def attention_use(model: keras.Model, images: np.ndarray) -> pd.DataFrame:
    """What a network's head "mldam" does with position attention: a row for each image.

    ``entropy`` of the probabilities as a share of the largest possible one, 1 where all places are read alike: of each
    place's row, their mean, or in the study's code of the one softmax over all pairs. ``pairs``: exp of the entropy, so
    many places are read by one (study: so many pairs in all). ``added``: the norm of what is read over that of V.
    """
    outputs = [model.get_layer(f"mldam_{name}").output for name in ("attention", "read", "value")]
    P, read, value = keras.Model(model.inputs, outputs).predict(images, verbose=0)
    axis = model.get_layer("mldam_attention").axis
    of_rows = isinstance(axis, int)
    spread = (P if of_rows else P.reshape(len(P), 1, -1)).astype(np.float64)
    entropy = -(spread * np.log(np.maximum(spread, 1e-300))).sum(axis=-1)
    norms = [np.linalg.norm(x.reshape(len(x), -1), axis=1) for x in (read, value)]
    facts = {"entropy": (entropy / np.log(spread.shape[-1])).mean(axis=1), "pairs": np.exp(entropy).mean(axis=1)}
    return pd.DataFrame(facts | {"added": norms[0] / norms[1]})


def similarity_of_pairs(
    maps: Mapping[Key, Mapping[str, np.ndarray]],
    ids: Mapping[str, Sequence[str]],
    similarities: Sequence[str] = ("spearman", "ssim"),
) -> pd.DataFrame:
    """How alike maps of the same images are: of two conditions with one seed, and of one condition with two seeds.

    ``maps`` by `Trained.key` and method, of the images ``ids`` of each backbone; methods that only one of a pair has
    are left out. Returns a row for each pair, method, similarity and image: backbone, pair ("a, c", or "a, other
    seed"), method, similarity, reading, image_id, value.
    """
    tables = []
    for one, other, facts in _pairs(maps):
        methods = [m for m in maps[one] if m in maps[other]]
        readings = {name: given["reading"] for name, given in own_readings(methods).items()}
        before, after = ({m: maps[key][m] for m in methods} for key in (one, other))
        named = {**facts, "image_id": list(ids[one[0]])}
        tables.append(similarity_table(before, after, similarities, readings, **named))
    return pd.concat(tables, ignore_index=True)


def published_accuracies() -> pd.DataFrame:
    """Accuracies of the study's tables 1 (CBIS-DDSM, n = 591) and 2 (MIMIC-CXR, n = 1,072), from which n was recovered:
    data, n, backbone, weights, and a column for each of its four conditions (NaN: an empty cell)."""
    rows = []
    for (data, n, backbone), both in _PUBLISHED.items():
        for loss, values in zip((BY_TRAIN, BY_VAL), both, strict=True):
            rows.append((data, n, backbone, loss, *values))
    titles = [c.title for c in list(CONDITIONS.values())[:4]]
    return pd.DataFrame(rows, columns=["data", "n", "backbone", "weights", *titles])


_CBIS, _MIMIC = ("CBIS-DDSM", 591), ("MIMIC-CXR", 1072)
_PUBLISHED = {
    (*_CBIS, "DenseNet-121"): ((0.6650, 0.6142, 0.6210, 0.5871), (0.6108, 0.5584, 0.6396, 0.6125)),
    (*_CBIS, "ResNet-50"): ((0.6514, 0.6396, np.nan, 0.5973), (0.5956, 0.6176, 0.5939, 0.5854)),
    (*_CBIS, "VGG-16"): ((0.6650, 0.6074, 0.5939, 0.5854), (0.6244, 0.6514, 0.6210, 0.6041)),
    (*_MIMIC, "DenseNet-121"): ((0.8451, 0.8312, 0.8349, 0.8386), (0.8629, 0.8498, 0.8535, 0.8666)),
    (*_MIMIC, "ResNet-50"): ((0.8340, 0.8424, 0.8470, 0.8386), (0.8535, 0.8694, 0.8563, 0.8414)),
    (*_MIMIC, "VGG-16"): ((0.8507, 0.8330, 0.8293, 0.8461), (0.8629, 0.8731, 0.8535, 0.8647)),
}
