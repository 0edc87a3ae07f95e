"""What `mammograms.py` measures of a trained network: the official test, the gate, detection, and maps."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mammogram_networks import CLASSES, Trained, has_maps, heat_map_hits, images_of, logits_of
from scipy import ndimage
from scipy.special import softmax

import xaiutils as xai
from xaiutils.attribution.method import METHODS
from xaiutils.backend import keras
from xaiutils.classification import Predictions
from xaiutils.classification.curves import PositiveRanks
from xaiutils.datasets import ImageDataset, balanced_indices
from xaiutils.evaluation import control_maps, evaluate_all, summarise
from xaiutils.evaluation.detection import detect, froc, heat_maps, where_and_what_maps
from xaiutils.evaluation.score_tables import ORACLES, RANDOM
from xaiutils.evaluation.studies.evidence_use import RIGHT, VERSIONS
from xaiutils.evaluation.studies.random_weights import random_weight_maps
from xaiutils.files import replace_file
from xaiutils.graph.passes import enlarge
from xaiutils.graph.predict import cam_grid
from xaiutils.statistics.bootstrap import replicates
from xaiutils.statistics.delong import auc_interval
from xaiutils.training.predictions import groups_of

LEAST = 5  # images of each class, under which a stratum is left out
TARGET = CLASSES.index("malignant")
READINGS = ("magnitude", "positive")
LOCATED = {"pointing_game": "points", "roc_auc": "pixel AUC"}
CHUNK = 8  # images whose maps are in memory at a time

# The official test ----------------------------------------------------------------------------------------------------


def probabilities_of(network: Trained, cache: Path, data_dir: Path) -> np.ndarray:
    """Of the test images, ``(n, 2)``; their logits are computed once and kept beside the model."""
    path = network.folder(cache) / "logits_test.npy"
    if not path.exists():
        logits = logits_of(network.model(cache), images_of(network, cache, data_dir, "test"))
        replace_file(path, lambda temporary: np.save(temporary, logits))
    return softmax(np.load(path), axis=1)


def of_test(networks: Sequence[Trained], cache: Path, data_dir: Path) -> dict[str, Any]:
    """AUCs of the mean probability of networks on the official test images; of one network with a heat map also how
    often that points at the lesion."""
    ds = images_of(networks[0], cache, data_dir, "test")
    p = np.mean([probabilities_of(network, cache, data_dir) for network in networks], axis=0)
    found: dict[str, Any] = {"AUC": aucs(p, ds)}
    if len(networks) == 1 and has_maps(model := networks[0].model(cache)):
        hits = heat_map_hits(model, ds).astype(float)
        found["points"] = rates(hits, ds, p)
    return found


def aucs(p: np.ndarray, ds: ImageDataset) -> dict[str, list[float]]:
    """[AUC, low, high, units, malignant units] by image, breast and patient, and in every stratum of the images that
    has `LEAST` of both classes; intervals by the bootstrap of patients."""
    images = Predictions(ds.labels, p, CLASSES, groups_of(ds), ds.ids)
    found = {"image": auc(images)}
    found |= {level: auc(images.per(level, combine="mean")) for level in ("breast", "patient")}
    for name, rows in strata(ds).items():
        if min(np.bincount(ds.labels[rows], minlength=2)) >= LEAST:
            few = ds.select(np.flatnonzero(rows))
            found[name] = auc(Predictions(few.labels, p[rows], CLASSES, groups_of(few), few.ids))
    return found


def auc(found: Predictions) -> list[float]:
    positive, scores = found.labels == TARGET, found.probabilities[:, TARGET]
    value = PositiveRanks.of(positive, scores, np.ones((len(found), 1), np.int32)).auc()[0]
    drawn = [PositiveRanks.of(positive, scores, w).auc() for w in replicates(found.units, 1000, 0)]
    units = (len(np.unique(found.units[side])) for side in (positive, ~positive))
    low, high = auc_interval(value, np.concatenate(drawn), *units, 0.95)
    return [*rounded((value, low, high)), len(found), int(positive.sum())]


def strata(ds: ImageDataset) -> dict[str, np.ndarray]:
    """Parts of the images, bool ``(n,)``: the malignant against each kind of benign, and by kind, size and density."""
    facts, malignant = ds.metadata, ds.labels == TARGET
    without = (facts["pathology"] == "BENIGN_WITHOUT_CALLBACK").to_numpy()
    found = {"against benign without callback": malignant | without, "against other benign": ~without}
    area = pd.qcut(pd.Series(ds.masks.mean(axis=(1, 2))).rank(method="first"), 3, labels=["small", "middle", "large"])
    columns = {"shape": facts["mass_shape"], "density": facts["density"], "view": facts["view"], "size": area}
    for name, column in columns.items():
        values = column.astype(str).to_numpy()
        found |= {f"{name} {value}": values == value for value in sorted(set(values) - {"", "N/A"})}
    return found


def rates(values: np.ndarray, ds: ImageDataset, p: np.ndarray) -> dict[str, list[float]]:
    """[mean, low, high, n, chance] of values of images, of all, of the malignant, and of those called malignant;
    chance: what a random place hits, the evidence's part of the image."""
    malignant = ds.labels == TARGET
    groups = {"all": np.ones(len(ds), bool), "malignant": malignant}
    groups["malignant called malignant"] = malignant & (p[:, TARGET] > 0.5)
    table = pd.DataFrame({"image_id": ds.ids, "patient_id": ds.patients, "value": values})
    found = {}
    for name, rows in groups.items():
        if rows.any():
            row = summarise(table[rows].assign(group=name), "group").iloc[0]
            found[name] = [*rounded(row[["mean", "low", "high"]]), int(row["n"]), *rounded([ds.masks[rows].mean()])]
    return found


def rounded(values: Any) -> list[float]:
    """To four digits; None for NaN, which JSON has not."""
    return [None if np.isnan(v) else round(float(v), 4) for v in values]


# The gate, and detection ----------------------------------------------------------------------------------------------


def gate(model: keras.Model, ds: ImageDataset) -> dict[str, Any]:
    """What `xaiutils.evidence_use` says: verdict, sentence, notes, the groups of images called right with their share,
    and the AUC with all evidence, or healthy places, gone."""
    use = xai.evidence_use(model, ds, batch_size=8)
    groups = use.groups[use.groups["by"].isin(("all", RIGHT))]
    merit = use.merit[use.merit["quantity"] == "AUC"]
    return {
        "verdict": use.verdict,
        "sentence": use.sentence,
        "notes": use.notes,
        "images": len(ds),
        "groups": {
            row.group: {
                "score": rounded([row.score])[0],
                "control": rounded([row.control])[0],
                "difference": rounded((row.difference, row.low, row.high)),
                "share": rounded((row.share, row.share_low, row.share_high)),
                "n": int(row.n_paired),
            }
            for row in groups.itertuples()
        },
        "AUC": {
            row.version: {
                "before, after": rounded((row.before, row.after)),
                "loss": rounded((row.loss, row.low, row.high)),
            }
            for row in merit.itertuples()
            if row.version in VERSIONS
        },
    }


def detection(model: keras.Model, ds: ImageDataset) -> list[dict[str, float]]:
    """The rows of `froc`."""
    table = froc(detect(model, ds.pixels), ds)
    return [dict(zip(row, rounded(row.values()), strict=True)) for row in table.to_dict("records")]


# Maps -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Map:
    """A kind of map. ``chosen``: what is chosen on validation images; of these "layer" keeps those that it has, and
    "blur" is the deviation in pixels of a Gaussian over the finished map. ``weights``: "random" for those of the
    same network with random weights."""

    method: str
    fixed: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    weights: str = "trained"


_LAYERS = {"layer": ("evidence", "neck", "top_relu", "block_10_add")}
_NOISE = {"noise": (0.01, 0.02, 0.05, 0.1)}
HEAT_MAP = "heat map of the head"
CONTROL_MAPS = ("random", "centre", "edges", "laplace", "intensity")
_CAMS = ("grad_cam", "hirescam", "layer_cam", "xgrad_cam", "grad_cam_plus_plus")
_PLAIN = ("gradients_x_inputs", "guided_backprop", "deep_lift", "lrp", "full_grad")
# The cheapest first. What takes hundreds of passes (RISE, LIME, Score-CAM, prediction difference, ...) is left out.
MAPS: dict[str, Map] = {
    HEAT_MAP: Map(""),
    **{name: Map("", weights="none") for name in CONTROL_MAPS},
    **{name: Map(name, {}, _LAYERS) for name in _CAMS},
    "vanilla_gradients": Map("vanilla_gradients"),
    "vanilla_gradients, smoothed": Map("vanilla_gradients", {}, {"blur": (2, 4, 8, 16)}),
    **{
        f"{name}, random weights": Map(name, {}, chosen, RANDOM)
        for name, chosen in (("hirescam", _LAYERS), ("grad_cam", _LAYERS), ("vanilla_gradients", {}))
    },
    **{name: Map(name) for name in _PLAIN},
    "relevance_cam": Map("relevance_cam", {}, {"layer": ("neck", "top_relu", "block_10_add")}),
    "guided_grad_cam": Map("guided_grad_cam", {}, _LAYERS),
    "smoothgrad": Map("smoothgrad", {"n_samples": 10}, _NOISE),
    "smoothgrad_squared": Map("smoothgrad_squared", {"n_samples": 10}, _NOISE),
    "integrated_gradients": Map("integrated_gradients", {"n_steps": 20}),
    "occlusion": Map("occlusion", {"patch_size": 96, "stride": 48}),
}


def settings_of(name: str, model: keras.Model, val_ds: ImageDataset) -> dict[str, Any]:
    """The settings of a kind of map: those of its ``chosen`` whose maps, by their magnitude, point most often at the
    lesion of ``val_ds``, of equal ones the first."""
    kind, settings = MAPS[name], dict(MAPS[name].fixed)
    names = {layer.name for layer in model.layers}
    for option, values in kind.chosen.items():
        values = [v for v in values if option != "layer" or v in names]
        points = {}
        for value in values:
            trained = Map(kind.method)
            parts = [maps_of(name, trained, model, part, settings | {option: value}) for part in in_chunks(val_ds)]
            scored = evaluate_all(None, val_ds, {name: np.concatenate(parts)}, ["pointing_game"], reading="magnitude")
            points[value] = scored["value"].mean()
        settings[option] = max(points, key=points.__getitem__)
    return settings


def in_chunks(ds: ImageDataset) -> list[ImageDataset]:
    return [ds.select(np.arange(i, min(i + CHUNK, len(ds)))) for i in range(0, len(ds), CHUNK)]


def maps_of(name: str, kind: Map, model: keras.Model, ds: ImageDataset, settings: Mapping[str, Any]) -> np.ndarray:
    """Maps of "malignant", float32 ``(n, height, width)``."""
    if name == HEAT_MAP:
        heat = heat_maps(*where_and_what_maps(model, ds.pixels), TARGET)
        return enlarge(np.exp(heat - heat.max(axis=(1, 2), keepdims=True)), *ds.pixels.shape[1:3])
    if kind.weights == "none":
        return control_maps(ds, grid=cam_grid(model))[name]
    given = {option: value for option, value in settings.items() if option != "blur"}
    if kind.weights == RANDOM:
        found = random_weight_maps(model, ds.images, [kind.method], TARGET, CHUNK, {kind.method: given})[kind.method]
    else:
        found = xai.explain(model, ds.images, TARGET, kind.method, batch_size=CHUNK, **given)
    blur = settings.get("blur", 0)
    return ndimage.gaussian_filter(found, (0, blur, blur)) if blur else found


def scores_of(
    name: str, model: keras.Model, ds: ImageDataset, val_ds: ImageDataset, folder: Path
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Of each image how well a kind of map finds its lesion, by either reading: the columns of `evaluate_all`; and the
    settings, and the CPU seconds of a map. The scores of some images at a time, and the settings, which maps of random
    weights share with those of the trained network, are kept in ``folder``."""
    parts = folder / name.replace(", ", " ").replace(" ", "_")
    parts.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.removesuffix(', random weights')}.json"
    if not path.exists():
        settings = settings_of(name, model, val_ds)
        replace_file(path, lambda temporary: pd.Series(settings, dtype=object).to_json(temporary))
    settings = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in pd.read_json(
        path, typ="series", dtype=False).items()}  # fmt: skip
    tables = []
    for part in in_chunks(ds):
        kept = parts / f"{part.ids[0].replace('/', ' ')} {len(part)}.parquet"
        if not kept.exists():
            start = time.process_time()
            maps = maps_of(name, MAPS[name], model, part, settings)
            seconds = (time.process_time() - start) / len(part)
            table = evaluate_all(None, part, {name: maps}, list(LOCATED), reading=READINGS).assign(cpu=seconds)
            replace_file(kept, lambda temporary, table=table: table.to_parquet(temporary))
        tables.append(pd.read_parquet(kept))
    table = pd.concat(tables, ignore_index=True)
    return table, {"settings": settings, "CPU s a map": rounded([table["cpu"].mean()])[0]}


def maps_found(table: pd.DataFrame, ds: ImageDataset, p: np.ndarray) -> dict[str, Any]:
    """For each reading `rates` of pointing and of pixel AUC."""
    order = {image: i for i, image in enumerate(ds.ids)}
    found: dict[str, Any] = {}
    for (reading, metric), rows in table.groupby(["reading", "metric"], sort=False):
        values = rows.set_index("image_id")["value"].sort_index(key=lambda ids: ids.map(order)).to_numpy(float)
        found.setdefault(reading, {})[LOCATED[metric]] = rates(values, ds, p)
    return found


def add_hits(path: Path, name: str, table: pd.DataFrame, ds: ImageDataset, p: np.ndarray) -> None:
    """Write a kind of map's values of each image into a table that intervals can be computed from again."""
    facts = pd.DataFrame({"image_id": ds.ids, "patient": ds.patients, "label": ds.labels, "p": p[:, TARGET].round(4)})
    kept = pd.read_csv(path) if path.exists() else facts
    if list(kept["image_id"]) != ds.ids:
        kept = facts
    wide = table.pivot(index="image_id", columns=["metric", "reading"], values="value").loc[ds.ids]
    wide.columns = [f"{name} | {metric} | {reading}" for metric, reading in wide.columns]
    kept = kept.drop(columns=[c for c in wide.columns if c in kept]).join(wide.round(4), on="image_id")
    path.parent.mkdir(exist_ok=True)
    replace_file(path, lambda temporary: kept.to_csv(temporary, index=False))


def refusal(make: Callable[[], Any]) -> tuple[Any, str]:
    """What is made, or why it was refused."""
    try:
        return make(), ""
    except ValueError as error:
        return None, str(error)


def some(ds: ImageDataset, n: int) -> ImageDataset:
    """``n`` images, of both classes alike; all where n is 0."""
    return ds.select(balanced_indices(ds.labels, n)) if n else ds


assert set(CONTROL_MAPS).isdisjoint(ORACLES)
assert all(kind.method in METHODS for kind in MAPS.values() if kind.method)
