"""The study of XRelevance-CAM (You 2022, MSc thesis, Imperial College London): seven class activation maps at four
layers of a network, alone and aggregated, scored by the overlap with evidence and by what hiding them takes from the
score.

Maps are made for the true class of images that the model is right on, and keep their sign. `xrelevance_claims` judges
the thesis' claims by these tables.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaiutils import __version__
from xaiutils.attribution import METHODS
from xaiutils.attribution.cam.layer_aggregate import default_layers, min_max
from xaiutils.attribution.cam.weighted_sum import combination, maps_by_layer
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.evaluate import evaluate
from xaiutils.evaluation.pooled import pooled_overlap
from xaiutils.evaluation.studies.dropout import thinned, with_dropout
from xaiutils.evaluation.studies.trainings import digest, digest_of_data, digest_of_weights
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.predict import predict, prepare
from xaiutils.models import build_model
from xaiutils.progress import progress
from xaiutils.training import RECIPES, train
from xaiutils.yaml_text import load_yaml

CAMS = ("grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hirescam", "layer_cam", "relevance_cam", "xrelevance_cam")
LAYERS = ("layer1", "layer2", "layer3", "layer4")
AGGREGATES = {"4+3": LAYERS[2:], "4+3+2": LAYERS[1:], "4+3+2+1": LAYERS}
COLUMNS = (*LAYERS, *AGGREGATES)
Maps = dict[tuple[str, str], np.ndarray]


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


def published() -> pd.DataFrame:
    """The cells of the thesis' tables 5.1 to 5.9: table, quantity ("iou" and "confidence_drop" in percent,
    "sensitivity", "conservation"), network, method, layer (of `COLUMNS`, or "average" of four layers), value, and flag:
    why a cell is a copy or cannot be right, "" for the others. Rows of table 5.1 with selective kernels are those of
    table 5.2."""
    text = (files("xaiutils.evaluation.studies") / "xrelevance_study.yml").read_text(encoding="utf-8")
    read = load_yaml(text)
    rows = [
        (name, table["quantity"], table["network"], method, layer, value)
        for name, table in read["tables"].items()
        for method, values in zip(read["order"], table["rows"], strict=False)
        for layer, value in zip(table["columns"], values, strict=True)
    ]
    found = pd.DataFrame(rows, columns=["table", "quantity", "network", "method", "layer", "value"]).assign(flag="")
    for cell in read["cells"]:
        which = found["table"].eq(cell["table"]) & found["layer"].isin(cell["columns"])
        which &= found["method"].isin(cell.get("methods", read["order"]))
        found.loc[which, "flag"] = cell["flag"]
    return found


def stage_layers(model: keras.Model) -> dict[str, str]:
    """Paths of the layers that stand for "layer1" to "layer4": the last of each of the four coarsest resolutions.
    ModelError for a model of fewer, or of tokens."""
    network = Network.of(model)
    found = default_layers(network)
    if len(found) < len(LAYERS) or len({network.field(path).grid for path in found}) < len(found):
        raise ModelError(f"the study needs feature maps of four resolutions; this model has {', '.join(found)}.")
    return dict(zip(LAYERS, found[-4:], strict=True))


def right_images(models: Iterable[keras.Model], ds: ImageDataset, n_images: int = 0, seed: int = 0) -> ImageDataset:
    """The images that all models are right on, at most ``n_images`` of them (0: all), drawn by ``seed``."""
    found = [predict(model, ds.images).argmax(axis=1) == ds.labels for model in models]
    few = ds.select(np.flatnonzero(np.all(found, axis=0)))
    return few.sample(n_images, seed) if 0 < n_images < len(few) else few


def layer_maps(
    model: keras.Model,
    images: np.ndarray,
    targets: np.ndarray,
    methods: Sequence[str] = CAMS,
    batch_size: int = 32,
) -> Maps:
    """Maps float32 ``(n, height, width)`` by (method, column of `COLUMNS`), signed, from one pass of gradients and one
    of relevance. Aggregates are means of layers' maps, each scaled to [0, 1], then min-max, as in the author's code:
    `layer_aggregate` with its defaults."""
    paths = stage_layers(model)
    network, images, targets = prepare(model, images, targets, batch_size)
    passes: dict[Any, list[str]] = {}
    for name in methods:
        passes.setdefault(METHODS[name].pass_for(_defaults(name)), []).append(name)
    made: Maps = {}
    for signals, names in passes.items():
        combines = [combination(METHODS[name], _defaults(name)) for name in names]
        given = network, images, targets, batch_size, list(paths.values()), signals, combines
        for layer, of_methods in zip(paths, maps_by_layer(*given), strict=True):
            made |= {(name, layer): found for name, found in zip(names, of_methods, strict=True)}
    for name in methods:
        scaled = {layer: min_max(made[name, layer]) for layer in LAYERS}
        for column, layers in AGGREGATES.items():
            made[name, column] = min_max(np.stack([scaled[layer] for layer in layers]).mean(axis=0))
    return {(name, column): made[name, column] for name in methods for column in COLUMNS}


def _defaults(method: str) -> dict[str, Any]:
    return {p.name: p.default for p in METHODS[method].parameters}


def map_scores(
    ds: ImageDataset, maps: Mapping[tuple[str, str], np.ndarray], model: keras.Model | None = None
) -> pd.DataFrame:
    """Scores of `layer_maps` of ``ds``, whose labels were explained: a row for each image, method, layer and metric.

    Columns: method, layer, image_id, patient_id (where patients are known), metric, value. Metrics: "iou" of pixels
    over mean + 1 standard deviation (NaN without evidence; not there without masks), and with a ``model`` "drop_soft"
    and "drop_hard": the confidence drop by the map's positive part, and by the pixels that count for the IoU.
    """
    tables, asked = [], {"drop_soft": "soft", "drop_hard": "hard"} if model is not None else {}
    for (method, layer), found in progress(maps.items(), title="scores"):
        facts = {"method": method, "layer": layer}
        if ds.masks is not None:
            tables.append(evaluate(None, ds, found, ["iou"], reading="signed").assign(**facts))
        for metric, mask in asked.items():
            given, names = {"confidence_drop": {"mask": mask}}, ["confidence_drop"]
            table = evaluate(model, ds, found, names, ds.labels, parameters=given, reading="signed")
            tables.append(table.assign(metric=metric, **facts))
    table = pd.DataFrame(pd.concat(tables, ignore_index=True))
    if ds.patients is not None:
        table["patient_id"] = table["image_id"].map(dict(zip(ds.ids, ds.patients, strict=True)))
    return table[[c for c in ("method", "layer", "image_id", "patient_id", "metric", "value") if c in table]]


def pooled_iou(ds: ImageDataset, maps: Mapping[tuple[str, str], np.ndarray], seed: int = 0) -> pd.DataFrame:
    """Pooled IoU of `layer_maps`, as the author's code has it: method, layer, mean, low, high, n."""
    table = pooled_overlap(ds, {f"{m} {c}": found for (m, c), found in maps.items()}, seed=seed)
    names = table.pop("method").str.split(" ", expand=True).set_axis(["method", "layer"], axis=1)
    return pd.concat([names, table], axis=1)


def dropout_scores(
    model: keras.Model, ds: ImageDataset, n_passes: int = 10, methods: Sequence[str] = CAMS, seed: int = 0
) -> pd.DataFrame:
    """IoU as `map_scores` has it, each image's mean over ``n_passes`` with the model's dropout on, as in the thesis'
    table 5.5: for a model trained so (`xaiutils.evaluation.studies.dropout.with_dropout`)."""
    thin, tables = thinned(model), []
    for number in progress(range(n_passes), title="dropout passes"):
        maps = layer_maps(thin.thin(seed, number), ds.images, ds.labels, methods)
        tables += [
            evaluate(None, ds, found, ["iou"], reading="signed").assign(method=method, layer=layer)
            for (method, layer), found in maps.items()
        ]
    keys = ["method", "layer", "image_id", "metric"]
    return pd.concat(tables).groupby(keys, sort=False, as_index=False)["value"].mean()


def as_cells(table: pd.DataFrame, value: str = "mean") -> pd.DataFrame:
    """A table of cells, a row for each method and a column for each layer, in the thesis' order."""
    wide = table.pivot_table(value, "method", "layer", aggfunc="first", sort=False)
    columns = [c for c in (*COLUMNS, "average") if c in wide]
    return wide.loc[[m for m in CAMS if m in wide.index], columns]
