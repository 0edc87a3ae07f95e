"""The study of XRelevance-CAM (You 2022, MSc thesis, Imperial College London): seven class activation maps at four
layers of a network, alone and aggregated, scored by the overlap with evidence and by what hiding them takes from the
score.

Maps are made for the true class of images that the model is right on, and keep their sign. `xrelevance_networks` trains
and compares networks, `xrelevance_transfer` tells pretrained ones from others, and `xrelevance_claims` judges the
thesis' claims by these tables.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.attribution import METHODS
from xaiutils.attribution.cam.layer_aggregate import default_layers, min_max
from xaiutils.attribution.cam.weighted_sum import combination, maps_by_layer
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.evaluate import evaluate
from xaiutils.evaluation.pooled import pooled_overlap
from xaiutils.evaluation.studies.cam_axioms import cam_axioms
from xaiutils.evaluation.studies.dropout import thinned
from xaiutils.evaluation.studies.randomisation import MODES, chance_similarity, randomised_maps, stage_similarity
from xaiutils.graph.network import ModelError, Network
from xaiutils.graph.predict import predict, prepare
from xaiutils.progress import progress
from xaiutils.yaml_text import load_yaml

CAMS = ("grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hirescam", "layer_cam", "relevance_cam", "xrelevance_cam")
LAYERS = ("layer1", "layer2", "layer3", "layer4")
AGGREGATES = {"4+3": LAYERS[2:], "4+3+2": LAYERS[1:], "4+3+2+1": LAYERS}
COLUMNS = (*LAYERS, *AGGREGATES)
AXIOMS = {"sensitivity": "5.8", "conservation": "5.9"}  # the thesis' tables
Maps = dict[tuple[str, str], np.ndarray]


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


def told(*tables: str, column: str = "value") -> pd.DataFrame:
    """Cells (`as_cells`) of one table of the thesis, or of several that complete each other, without its averages.
    ``column``: "value", or "flag", True for cells that are copies or cannot be right."""
    found = published()
    found = found[found["table"].isin(tables) & (found["layer"] != "average")]
    return as_cells(found.assign(flag=found["flag"] != "").drop_duplicates(["method", "layer"]), column)


def stage_layers(model: keras.Model) -> dict[str, str]:
    """Paths of the layers that stand for "layer1" to "layer4": the last of each of the four coarsest resolutions.
    ModelError for a model of fewer, or of tokens."""
    network = Network.of(model)
    found = default_layers(network)
    if len(found) < len(LAYERS) or len({network.field(path).grid for path in found}) < len(found):
        raise ModelError(f"the study needs feature maps of four resolutions; this model has {', '.join(found)}.")
    return dict(zip(LAYERS, found[-4:], strict=True))


def right_images(models: Iterable[keras.Model], ds: ImageDataset, n_images: int = 0, seed: int = 0) -> ImageDataset:
    """The images that all models are right on, at most ``n_images`` of them (0: all), drawn by ``seed``.

    Raises ValueError where ``ds`` has evidence and none of them shows any, as of networks that call everything normal.
    """
    found = [predict(model, ds.images).argmax(axis=1) == ds.labels for model in models]
    few = ds.select(np.flatnonzero(np.all(found, axis=0)))
    few = few.sample(n_images, seed) if 0 < n_images < len(few) else few
    if ds.masks is not None and ds.masks.any() and (few.masks is None or not few.masks.any()):
        classes = ", ".join(dict.fromkeys(few.label_texts())) or "none"
        raise ValueError(
            f"of {len(ds)} images all networks are right on {len(few)} (classes: {classes}), and none of these shows "
            "evidence that maps could overlap with: train for longer (epochs, n_train), or take more images (n_test)."
        )
    return few


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
    table = _with_patients(pd.concat(tables, ignore_index=True), ds)
    return table[[c for c in ("method", "layer", "image_id", "patient_id", "metric", "value") if c in table]]


def _with_patients(table: pd.DataFrame, ds: ImageDataset) -> pd.DataFrame:
    """The table with the column patient_id, where patients are known."""
    if ds.patients is None:
        return table
    return table.assign(patient_id=table["image_id"].map(dict(zip(ds.ids, ds.patients, strict=True))))


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
    return _with_patients(pd.concat(tables).groupby(keys, sort=False, as_index=False)["value"].mean(), ds)


def cell_means(table: pd.DataFrame) -> pd.DataFrame:
    """Means of `map_scores` over the images with evidence: method, layer, and a column for each metric."""
    known = table.loc[(table["metric"] == "iou") & table["value"].notna(), "image_id"].unique()
    rows = table[table["image_id"].isin(known)]
    return rows.pivot_table("value", ["method", "layer"], "metric", sort=False).reset_index()


def axiom_errors(model: keras.Model, ds: ImageDataset, max_channels: int = 0, seed: int = 0) -> pd.DataFrame:
    """`cam_axioms` of the seven methods at the four layers, for the labels of ``ds``; ``layer`` is one of `LAYERS`."""
    names = {path: name for name, path in stage_layers(model).items()}
    table = cam_axioms(model, ds, CAMS, list(names), ds.labels, max_channels=max_channels, seed=seed)
    return _with_patients(table.assign(layer=table["layer"].map(names)), ds)


def axiom_cells(table: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """Tables for `xaiutils.plots.cell_tables`, for each axiom the thesis' and the medians of `axiom_errors`; and those
    of the thesis' cells that cannot be right."""
    medians = table.groupby(["axiom", "method", "layer"], sort=False)["value"].median().reset_index()
    shown, flagged = {}, {}
    for axiom, number in AXIOMS.items():
        shown[f"{axiom}, thesis, {number}"] = told(number)
        flagged[f"{axiom}, thesis, {number}"] = told(number, column="flag")
        shown[f"{axiom}, ours, medians"] = as_cells(medians[medians["axiom"] == axiom], "value")
    return shown, flagged


def randomised(
    model: keras.Model,
    ds: ImageDataset,
    methods: Sequence[str] = ("xrelevance_cam", "grad_cam"),
    layer: str = "layer3",
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`randomisation_test` of both modes, with a column ``mode``, and `chance_similarity`, of maps of one layer (the
    thesis: layer 3) by Spearman's correlation; of convolutions and the last layer alone, in six groups."""
    parameters = {name: {"layer": stage_layers(model)[layer]} for name in methods}
    tables: list[pd.DataFrame] = []
    known: list[Any] = []
    for mode in MODES:
        how = (model, ds.images, methods, ds.labels, mode, 6)
        found = list(randomised_maps(*how, parameters=parameters, seed=seed, known=known))
        known = found[:2]
        tables.append(stage_similarity(found, ds.ids, ["spearman"], parameters).assign(mode=mode))
    given = known[0].maps, ds.ids, ["spearman"]
    chance = chance_similarity(*given, patients=ds.patients, seed=seed, parameters=parameters)
    return _with_patients(pd.concat(tables, ignore_index=True), ds), chance


def as_cells(table: pd.DataFrame, value: str = "mean") -> pd.DataFrame:
    """A table of cells, a row for each method and a column for each layer, in the thesis' order."""
    wide = table.pivot_table(value, "method", "layer", aggfunc="first", sort=False)
    columns = [c for c in (*COLUMNS, "average") if c in wide]
    return wide.loc[[m for m in CAMS if m in wide.index], columns]
