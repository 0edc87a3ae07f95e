"""The study of XRelevance-CAM over several networks: trained, from several seeds and with dropout, and compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from xaiutils import __version__
from xaiutils.backend import keras
from xaiutils.classification.baselines import warn_untaught
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.studies.dropout import with_dropout
from xaiutils.evaluation.studies.trainings import digest, digest_of_data, digest_of_weights
from xaiutils.evaluation.studies.xrelevance_study import LAYERS, Maps, as_cells, dropout_scores, map_scores, told
from xaiutils.graph.predict import predict
from xaiutils.models import build_model
from xaiutils.statistics.summaries import summarise
from xaiutils.training import RECIPES, train

DROPOUT = "dropout"
TABLES = ("5.2", "5.1", "5.4")  # the thesis' tables of a first, second and third network
DROPOUT_TABLE = "5.5"


@dataclass(frozen=True)
class Training:
    """What the study's networks share: ``image_size``, ``recipe``, ``epochs`` (None: the recipe's), and ``folder``,
    which keeps their weights: a later call that wants the same network reads them."""

    image_size: int
    recipe: str
    epochs: int | None
    folder: Path

    def network(
        self, name: str, splits: Sequence[ImageDataset], seed: int = 0, weights: str | None = None, dropout: float = 0.0
    ) -> keras.Model:
        """The model ``name`` of `xaiutils.MODELS`, trained on ``splits`` (training and validation) from ``weights`` as
        `build_model` takes them. ``dropout``: rate of a dropout layer behind each block, as `with_dropout` puts it."""
        model = build_model(name, len(splits[0].class_names), self.image_size, weights, seed=seed)
        model = with_dropout(model, dropout) if dropout else model
        recipe = RECIPES[self.recipe].to_yaml()
        key = digest(__version__, digest_of_data(splits[:2]), recipe, self.epochs, seed, digest_of_weights(model))
        path = self.folder / f"{name}-{key}.weights.h5"
        if path.exists():
            model.load_weights(path)
        else:
            train(model, splits[0], splits[1], self.recipe, self.epochs, None, seed)
            self.folder.mkdir(parents=True, exist_ok=True)
            model.save_weights(path)
        return model


@dataclass(frozen=True)
class Networks:
    """``names``: in the thesis' order, selective kernels first, then the same without, then another; ``trained`` by
    name and seed; ``dropped``, the first with dropout behind each block."""

    names: tuple[str, ...]
    trained: Mapping[tuple[str, int], keras.Model]
    dropped: keras.Model

    @property
    def first(self) -> keras.Model:
        """The one whose maps the study looks at."""
        return next(iter(self.trained.values()))

    @property
    def titled(self) -> dict[str, keras.Model]:
        """All of them, by what a table calls them."""
        return {f"{name}, seed {s}": m for (name, s), m in self.trained.items()} | {"with dropout": self.dropped}

    def accuracy(self, test: ImageDataset, seed: int = 0) -> pd.DataFrame:
        """`summarise` of the share of right answers, a row for each network; patients are drawn where they are
        known. Warns of networks that have not learnt (`warn_untaught`)."""
        rows = pd.DataFrame({"image_id": test.ids})
        if test.patients is not None:
            rows["patient_id"] = list(test.patients)
        hits = {name: predict(model, test.images).argmax(axis=1) == test.labels for name, model in self.titled.items()}
        warn_untaught(hits, test.labels, None if test.patients is None else np.asarray(test.patients))
        tables = [rows.assign(network=name, value=found.astype(float)) for name, found in hits.items()]
        return summarise(pd.concat(tables, ignore_index=True), "network", seed=seed)


def train_networks(
    training: Training,
    names: Sequence[str],
    splits: Sequence[ImageDataset],
    seeds: Sequence[int] = (0,),
    weight_files: Mapping[str, str] = MappingProxyType({}),
    dropout: float = 0.1,
) -> Networks:
    """One to three networks of `xaiutils.MODELS`: the first two from all ``seeds``, for one pair says nothing about
    what tells them apart, the third from the first seed; and the first with ``dropout`` (the thesis: 0.1).
    ``weight_files``: the weights that each starts from, as `build_model` takes them."""
    if not 1 <= len(names) <= len(TABLES):
        raise ValueError(f"models={list(names)}; the study compares one to {len(TABLES)} networks.")
    wanted = [(name, seed) for name in names[:2] for seed in seeds] + [(name, seeds[0]) for name in names[2:]]
    trained = {key: training.network(key[0], splits, key[1], weight_files.get(key[0])) for key in wanted}
    dropped = training.network(names[0], splits, seeds[0], weight_files.get(names[0]), dropout)
    return Networks(tuple(names), trained, dropped)


def scores_by_network(
    networks: Networks, ds: ImageDataset, maps: Mapping[tuple[str, int], Maps], n_passes: int = 10, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """IoU by the network's name, as `map_scores` has it with a column ``seed`` of the training, and last by `DROPOUT`
    the mean of ``n_passes``. ``maps``: `layer_maps` of ``ds`` by name and seed."""
    found = {
        name: pd.concat([map_scores(ds, maps[key]).assign(seed=key[1]) for key in maps if key[0] == name])
        for name in networks.names
    }
    return found | {DROPOUT: dropout_scores(networks.dropped, ds, n_passes, seed=seed)}


def cells_by_network(by: Mapping[str, pd.DataFrame], seed: int = 0) -> dict[str, pd.DataFrame]:
    """Tables for `xaiutils.plots.cell_tables`, in percent: for each of `scores_by_network` the thesis' and ours."""
    shown, numbers = {}, iter(TABLES)
    for name, table in by.items():
        number = DROPOUT_TABLE if name == DROPOUT else next(numbers)
        shown[f"IoU (%), thesis, {number}"] = told(number)
        shown[f"ours, {name}"] = 100 * as_cells(summarise(table, ["method", "layer"], seed=seed))
    return shown


def means_by_seed(by: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean IoU of all methods at the four layers, a row for each seed of the training, a column for each network."""
    rows = {name: table[table["layer"].isin(LAYERS)] for name, table in by.items() if "seed" in table}
    return pd.DataFrame({name: table.groupby("seed")["value"].mean() for name, table in rows.items()})
