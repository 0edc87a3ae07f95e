# ruff: noqa: B023, E402 (each function is run at once; threads and seeds are set before TensorFlow is imported)
"""What the package gives, as a record: written before code is moved, and compared after it.

    python tools/behaviour_digest.py --write before.json
    python tools/behaviour_digest.py --compare before.json [--only maps/cnn]

Everything is computed on one thread, from seeds, with small models of random weights. An array is recorded as its
digest, mean, standard deviation and up to 64 of its values, a table as one array for each column of numbers and the
rest as text, a text as itself, and what raises as its error. Where XAI_KIT names the kit of real data, its sets are
loaded too. Only public names are used, for modules may move: what `xaiutils.__all__` does not lead to is looked for by
its name in the whole package.
"""

import argparse
import dataclasses
import functools
import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

FOLDER = Path(tempfile.mkdtemp(prefix="xai-digest-"))
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[_name] = "1"
os.environ.update(CUDA_VISIBLE_DEVICES="-1", XAI_PROGRESS="off", XAI_CACHE=str(FOLDER / "cache"))
os.environ.update(TF_DETERMINISTIC_OPS="1", TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="tensorflow", PYTHONHASHSEED="0")
os.environ.pop("XAI_RUNS", None)
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image

import xaiutils as xai

tf.config.experimental.enable_op_determinism()
SIZE, CLASSES = 48, 3
KIT = os.environ.get("XAI_KIT", "")
# Parameters that make methods and metrics cheap, and others than the defaults where there are no choices to take.
CHEAP = {"n_samples": 4, "n_steps": 4, "n_masks": 24, "n_training": 300, "patch_size": 12, "max_channels": 4}
CHEAP |= {"percentages": [20, 60]}
OTHER = {"noise": 0.3, "epsilon": 0.05, "gamma": 0.5, "alpha": 3.0, "kernel_width": 0.5, "p1": 0.3, "cells": 4}
OTHER |= {"stride": 8, "patch_width": 6, "discard_ratio": 0.5, "tolerance": 4, "level": 0.3, "area": 0.25, "padding": 1}
OTHER |= {"base": "grad_cam", "baseline_image": [30.0, 60, 90], "seed": 5, "n_segments": 9}


class Record:
    """Entries by key; only keys that start with ``only`` are computed, or lead to one that does."""

    def __init__(self, only: str):
        self.only, self.entries, self.seconds = only, {}, {}

    def wants(self, key: str) -> bool:
        return key.startswith(self.only) or self.only.startswith(key + "/")

    def run(self, key: str, compute: Callable[[], object]) -> None:
        """What ``compute`` returns, under ``key``, or the error that it raises."""
        if not self.wants(key):
            return
        start = time.perf_counter()
        try:
            self.add(key, compute())
        except Exception as error:
            self.add(key, f"error: {type(error).__name__}: {error}")
        self.seconds[key] = time.perf_counter() - start

    def add(self, key: str, value: object) -> None:
        if isinstance(value, pd.Series):
            value = value.to_frame(str(value.name))
        if isinstance(value, pd.DataFrame):
            flat = value.reset_index() if value.index.nlevels > 1 or value.index.dtype == object else value
            numbers = [c for c in flat.columns if flat[c].dtype.kind in "iufb"]
            for column in numbers:
                self.add(f"{key}[{column}]", flat[column].to_numpy())
            others = flat.drop(columns=numbers).to_csv(index=False)
            self.add(key, f"columns: {list(map(str, flat.columns))}, {len(flat)} rows\n{others}")
        elif isinstance(value, Mapping):
            for name, part in value.items():
                self.add(f"{key}/{name}", part)
            self.add(key + "/keys", ", ".join(map(str, value)))
        elif dataclasses.is_dataclass(value):
            self.add(key, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
        elif isinstance(value, np.ndarray | tf.Tensor | float | np.generic):
            array = np.asarray(value)
            self._put(key, str(array.tolist()) if array.dtype.kind in "OUS" else _array(array))
        else:
            text = value if isinstance(value, str) else repr(value)
            for folder, name in ((str(FOLDER), "<folder>"), (KIT, "<kit>")):
                text = text.replace(folder, name) if folder else text
            self._put(key, re.sub(r" at 0x[0-9a-f]+", "", text))

    def _put(self, key: str, entry: object) -> None:
        if key.startswith(self.only):
            self.entries[key] = entry


def _array(array: np.ndarray) -> dict:
    """dtype, shape and values as a digest, and what lets a deviation be told; 0 and -0 are the same."""
    array = np.ascontiguousarray(array + array.dtype.type(0) if array.dtype.kind == "f" else array)
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()
    values = array.astype(np.float64).ravel()
    known = values[np.isfinite(values)]
    mean, std = (float(known.mean()), float(known.std())) if known.size else (None, None)
    picked = values[np.unique(np.linspace(0, values.size - 1, min(64, values.size)).astype(int))] if values.size else []
    sample = [float(v) if np.isfinite(v) else None for v in picked]
    kind, shape = str(array.dtype), list(array.shape)
    return {"digest": digest, "mean": mean, "std": std, "shape": shape, "dtype": kind, "sample": sample}


def find(name: str):
    """A function or class of the package by its name, wherever it is defined; that of evaluation first."""
    package = Path(xai.__file__).parent
    for file in sorted(package.rglob("*.py"), key=lambda file: ("evaluation" not in file.parts, file)):
        if re.search(rf"^(def|class) {name}\b", file.read_text(encoding="utf-8"), re.MULTILINE):
            parts = [p for p in file.relative_to(package.parent).with_suffix("").parts if p != "__init__"]
            return getattr(importlib.import_module(".".join(parts)), name)
    raise LookupError(f"{name} is nowhere in the package.")


# What is explained ------------------------------------------------------------------------------------------------


@functools.cache
def images() -> np.ndarray:
    """Three smooth random images."""
    coarse = np.random.default_rng(7).uniform(0, 255, (3, 9, 9, 3))
    smooth = tf.image.resize(coarse, (SIZE, SIZE), method="bicubic")
    return np.clip(smooth, 0, 255).astype(np.float32)


@functools.cache
def model(kind: str) -> keras.Model:
    """A CNN with batch norm, a skip and a depthwise layer, all weights drawn, biases and statistics too; or the ViT.

    "cnn" ends in a softmax of three classes, "pair" of two, of which the phantoms are half and half; "sigmoid" has one
    unit and a nested backbone.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    layers = keras.layers
    if kind == "vit":
        made = xai.build_model("vit_mini16", n_classes=CLASSES, image_size=SIZE)
    else:
        inputs = keras.Input((SIZE, SIZE, 3))
        x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(inputs)
        x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="conv1")(x)
        x = layers.ReLU(name="relu1")(layers.BatchNormalization(name="norm1")(x))
        y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
        y = layers.Conv2D(8, 1, activation="relu", name="conv2")(layers.BatchNormalization(name="norm2")(y))
        x = layers.MaxPooling2D(name="max")(layers.Add(name="add")([x, y]))
        x = layers.Conv2D(10, 3, padding="same", activation="relu", name="conv3")(x)
        if kind == "sigmoid":
            body, inputs = keras.Model(inputs, x, name="backbone"), keras.Input((SIZE, SIZE, 3))
            x = body(inputs)
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        units, last = (1, "sigmoid") if kind == "sigmoid" else (2 if kind == "pair" else CLASSES, "softmax")
        made = keras.Model(inputs, layers.Dense(units, activation=last, name="classes")(x))
    rng = np.random.default_rng(11)
    for weight in made.weights:
        drawn = np.asarray(weight) + rng.normal(0, 0.1, weight.shape)
        weight.assign(np.abs(drawn) if "variance" in weight.path else drawn)
    if kind == "pair":
        logits = xai.predict(made, phantom(12).images)
        made.layers[-1].bias.assign_add([np.median(logits[:, 1] - logits[:, 0]), 0])
    return made


@functools.cache
def phantom(n: int, split: str = "test") -> xai.ImageDataset:
    return xai.load_dataset("phantom", split, image_size=SIZE, limit=n, task="presence")


def variants(declared: tuple, lists: bool = True) -> dict[str, dict]:
    """Cheap parameters, and the same with another value of each parameter in turn."""
    cheap = {p.name: CHEAP[p.name] for p in declared if p.name in CHEAP}
    found = {"default": cheap}
    for p in declared:
        if p.kind is list:
            continue
        values = [c for c in p.choices if c != p.default] or ([not p.default] if p.kind is bool else [])
        values = values or ([OTHER[p.name]] if p.name in OTHER else [])
        found |= {f"{p.name}={v}": {**cheap, p.name: v} for v in (values if lists else values[:1])}
    return found


# The parts --------------------------------------------------------------------------------------------------------


def registries(record: Record) -> None:
    def declared(p) -> str:
        return f"{p.name}: {p.kind.__name__} = {p.default!r}, {p.low} to {p.high}, {p.choices}"

    def entry(e) -> str:
        fields = {f.name: getattr(e, f.name) for f in dataclasses.fields(e) if f.name not in ("help", "parameters")}
        lines = [f"{name}: {value!r}" for name, value in fields.items() if not callable(value)]
        lines += [f"options: {dict(e.options)!r}"] if hasattr(e, "options") else []
        lines += [f"libraries: {e.libraries}"] if hasattr(e, "libraries") else []
        lines += [f"by default {e.own_reading({})}, signed: {e.is_signed({})}"] if hasattr(e, "own_reading") else []
        return "\n".join(lines + [declared(p) for p in getattr(e, "parameters", ())])

    for name in ("METHODS", "METRICS", "TRANSFORMS", "DATASETS", "MODELS", "RECIPES"):
        registry = getattr(xai, name)
        record.run(f"registries/{name}", lambda r=registry: ", ".join(r))
        for key, value in registry.items():
            record.run(f"registries/{name}/{key}", lambda v=value: entry(v))
    record.run("registries/public", lambda: ", ".join(sorted(xai.__all__)))
    for module in sorted(xai.__all__):
        names = getattr(getattr(xai, module), "__all__", None)
        if names is not None:
            record.run(f"registries/public/{module}", lambda n=names: ", ".join(sorted(n)))


def transforms(record: Record) -> None:
    maps = images().mean(axis=-1)
    for name, transform in xai.TRANSFORMS.items():
        for which, given in variants(transform.parameters).items():
            key, changes = f"transforms/{name}/{which}", {"seed": 4, "model": model("cnn")}
            record.run(f"{key}/apply", lambda: transform.apply(images(), **changes, **given))
            record.run(f"{key}/invert", lambda: transform.invert(maps, **given))
            record.run(f"{key}/masks", lambda: transform.apply_to_masks(maps > 128, **given))
            record.run(f"{key}/hidden", lambda: transform.hidden(images(), seed=4, **given))
        record.run(
            f"transforms/{name}/snr", lambda: xai.signal_to_noise(images(), transform.apply(images(), **changes))
        )


def maps(record: Record) -> None:
    for kind in ("cnn", "vit", "sigmoid"):
        record.run(f"maps/{kind}/logits", lambda: xai.predict(model(kind), images()))
        record.run(f"maps/{kind}/probabilities", lambda: xai.predict(model(kind), images(), probabilities=True))
        explain = functools.partial(xai.explain, model(kind), images())
        cheap_all = {}
        for name, method in xai.METHODS.items():
            if ("vit" if kind == "vit" else "cnn") not in method.suits:
                continue
            found = variants(method.parameters, lists=kind == "cnn")
            if kind == "vit" and "cnn" in method.suits:  # relevance through a transformer takes seconds
                found = {"default": found["default"]}
            cheap_all[name] = found["default"]
            if any(p.name == "layer" for p in method.parameters) and kind == "cnn":
                found["layer=conv2"] = {**found["default"], "layer": "conv2"}
            for which, given in found.items() if kind != "sigmoid" else [("default", found["default"])]:
                record.run(f"maps/{kind}/{name}/{which}", lambda: explain(method=name, **given))
            if kind == "cnn":
                given = found["default"]
                read = {"reading": "positive", "targets": [0, 1, 2], "batch_size": 2}
                record.run(f"maps/cnn/{name}/positive", lambda: explain(method=name, **read, **given))
                for library in method.libraries[1:]:
                    record.run(f"maps/cnn/{name}/{library}", lambda: explain(method=name, library=library, **given))
        options = {"methods": cheap_all, "parameters": cheap_all, "reading": "magnitude"}
        record.run(f"maps/{kind}/explain_all", lambda: xai.explain_all(model(kind), images(), **options))


def metrics(record: Record) -> None:
    network, ds = model("pair"), phantom(4)
    for method in ("grad_cam", "gradients_x_inputs"):
        found = xai.explain(network, ds.images, method=method)
        for name, metric in xai.METRICS.items():
            given = variants(metric.parameters)
            if method != "grad_cam":
                given = {"default": given["default"]}
            for which, values in given.items():
                options = {"metrics": [name], "method": method, "parameters": {name: values}}
                score = functools.partial(xai.evaluate, network, ds, found, **options)
                record.run(f"metrics/{method}/{name}/{which}", lambda: score()["value"])
            record.run(f"metrics/{method}/{name}/positive", lambda: score(reading="positive")["value"])
    known = [name for name, metric in xai.METRICS.items() if metric.chance is not None]
    record.run("metrics/chance", lambda: xai.evaluation.chance(ds, known))
    record.run("metrics/controls", lambda: xai.evaluation.control_maps(ds, seed=2))


def evaluation(record: Record) -> None:
    network, ds = model("pair"), phantom(12)
    methods, judged = ["vanilla_gradients", "gradients_x_inputs", "grad_cam"], ["roc_auc", "pointing_game", "iou"]

    @functools.cache
    def measured():
        options = {"n_faithfulness": 4, "metric_parameters": {"deletion_auc": {"n_steps": 4}}}
        return find("measure")(network, ds, methods, [*judged, "relevance_mass", "deletion_auc", "entropy"], **options)

    @functools.cache
    def one():
        return find("of_reading")(measured().scores, "magnitude")

    def own():
        return one()[~one()["method"].map(find("is_control"))]

    def fits():
        shape = find("evidence_shape")(ds)
        rows = own()[own()["metric"] == "iou"].merge(shape, on="image_id")
        return find("regress")(rows, ["log_area", "elongation", "p"], n_resamples=200)

    run = functools.partial(record.run)
    run("evaluation/measure", measured)
    run("evaluation/summarise", lambda: xai.evaluation.summarise(one(), ["method", "metric"], n_resamples=200))
    run("evaluation/claims", lambda: find("claims")(one(), n_resamples=200))
    run("evaluation/words", lambda: find("in_words")(measured().scores, n_resamples=200))
    for name in ("mean_ranks", "agreement", "concordance"):
        run(f"evaluation/{name}", lambda: find(name)(own()))
    run("evaluation/rank", lambda: find("rank")(own(), "roc_auc"))
    run("evaluation/compare", lambda: find("compare")(own(), "roc_auc", n_resamples=200))
    run("evaluation/against_chance", lambda: find("against_chance")(one(), "pointing_game"))
    run("evaluation/disagreements", lambda: find("disagreements")(one(), "iou", *methods[:2]))
    run("evaluation/evidence_shape", lambda: find("evidence_shape")(ds))
    run("evaluation/regress", fits)
    run("evaluation/slopes", lambda: find("slopes_in_words")(fits()))
    maps = {m: xai.explain(network, ds.images, method=m) for m in methods}
    run("evaluation/evaluate_all", lambda: xai.evaluation.evaluate_all(network, ds, maps, judged, reading="positive"))
    few, chosen = ds.take(4), ["vanilla_gradients", "grad_cam"]
    chance = functools.partial(find("chance_similarity"), {m: maps[m][:4] for m in chosen}, few.ids, n_pairs=5)
    run("evaluation/chance_similarity", chance)
    for mode in ("cascading", "independent"):
        test = functools.partial(find("randomisation_test"), network, few.images, few.ids, chosen, mode=mode)
        run(f"evaluation/randomisation/{mode}", lambda: test(n_stages=3, norms=mode == "cascading"))
        run(f"evaluation/verdicts/{mode}", lambda: find("verdicts")(test(n_stages=2), chance(), n_resamples=100))
    run("evaluation/random_weights", lambda: find("random_weight_maps")(network, few.images, chosen))
    drop = functools.partial(find("mc_dropout"), network, few, ["grad_cam"], n_passes=3, metrics=["roc_auc"])
    run("evaluation/mc_dropout", lambda: drop(after=["conv2"]))
    run("evaluation/cam_axioms", lambda: find("cam_axioms")(network, few))
    run("evaluation/completeness", lambda: find("completeness_table")(network, few, n_steps=(3, 6)))
    run("evaluation/prediction_change", lambda: find("prediction_change")(network, few, list(xai.TRANSFORMS)))
    found = dataclasses.replace(ds, labels=xai.predict(network, ds.images).argmax(axis=1))
    run("evaluation/mosaics", lambda: find("grid_mosaics")(network, found, n=2))
    for place in ("top_right", "random"):
        run(f"evaluation/plant/{place}", lambda: find("plant")(few, find("Mark")(place=place, height=0.2)))
    planted = functools.cache(lambda: find("confound")(ds, 1))
    use = functools.cache(lambda: find("mark_use")(network, ds, planted()))
    run("evaluation/confound", planted)
    run("evaluation/mark_use", use)
    run("evaluation/mark_found", lambda: find("mark_found")(planted(), maps, use()))
    segment, saliency = xai.segmentation.segment_from_saliency, maps["vanilla_gradients"][0]
    for method in ("graph_cut", "gmm"):
        run(f"evaluation/segmentation/{method}", lambda: segment(ds.images[0], saliency, method=method))
    options = {"n_steps": 5, "blur": 0.5, "jitter": 2, "total_variation": 0.01}
    run("evaluation/class_model", lambda: xai.class_model.class_model(network, 1, **options))


def write_pictures(folder: Path) -> None:
    """Two classes of pictures with masks of some, by patients: as folders, as a table and as a COCO file."""
    rng, rows, coco = np.random.default_rng(9), [], {"images": [], "annotations": [], "categories": []}
    coco["categories"] = [{"id": 1, "name": "benign"}, {"id": 2, "name": "malignant"}]
    for i in range(24):
        label, name = ("benign", "malignant")[i % 2], f"p{i // 3:02d}_{i:02d}"
        path = folder / label / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40 + i % 3), dtype=np.uint8)).save(path)
        mask = np.zeros((30, 40 + i % 3), np.uint8)
        mask[5:15, i % 20 : i % 20 + 9] = 255
        if i % 3:
            Image.fromarray(mask).save(path.with_name(f"{name}_mask.png"))
        box = [i % 20, 5, 9, 10]
        where = {"image": f"{label}/{name}.png", "label": label, "patient": f"p{i // 3}", "age": 40 + i}
        rows.append({**where, "boxes": ",".join(map(str, box)) if i % 3 else ""})
        coco["images"].append({"id": i, "file_name": where["image"], "width": mask.shape[1], "height": 30})
        coco["annotations"].append({"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": box, "area": 90})
    pd.DataFrame(rows).to_csv(folder / "index.csv", index=False)
    (folder / "boxes.json").write_text(json.dumps(coco))


def datasets(record: Record) -> None:
    def load(key: str, name: str, splits: tuple[str, ...], **options) -> None:
        @functools.cache
        def found(split: str):
            return xai.load_dataset(name, split, **{"image_size": 32, "limit": 4, **options})

        def sheet() -> str:
            return xai.datasets.datasheet({s: found(s) for s in splits})

        for split in splits:
            record.run(f"datasets/{key}/{split}", lambda: found(split))
            record.run(f"datasets/{key}/{split}/facts", lambda: found(split).facts())
            record.run(f"datasets/{key}/{split}/lengths", lambda: found(split).lesion_lengths())
        record.run(f"datasets/{key}/sheet", sheet)
        record.run(f"datasets/{key}/leaks", lambda: xai.datasets.find_leaks({s: found(s) for s in splits}))

    parts = ("train", "val", "test")
    for task in ("presence", "margin", "calcifications", "five"):
        for difficulty in ("easy", "hard"):
            load(f"phantom/{task}/{difficulty}", "phantom", ("test",), task=task, difficulty=difficulty, limit=5)
    for tags in ("iid", "neutral", "flipped"):
        load(f"phantom/shortcut/{tags}", "phantom", ("test",), task="shortcut", tags=tags)
    load("digits", "digits", parts)
    pictures = FOLDER / "pictures"
    write_pictures(pictures)
    common = {"data_dir": pictures, "limit": None, "patient_from": r"(p\d+)_"}
    load("folder", "folder", parts, **common)
    load("folder/aspect", "folder", ("all",), **{**common, "keep_aspect": True, "limit": 6})
    given = {**common, "patient_from": "", "patient_column": "patient", "boxes_column": "boxes"}
    load("table", "table", parts, **given)
    load("table/one", "table", ("all",), **{**given, "boxes_column": "", "mask_pattern": "{image}"})
    load("coco", "coco", parts, **common)
    labels = np.arange(20) ** 2 % 3
    record.run("datasets/balanced", lambda: xai.datasets.balanced_indices(labels, 7, seed=1))
    if KIT:
        folders = {"busi": "busi", "oxford_pets": "oxford_pets", "mnist": "mnist", "cats_vs_dogs": "cats_dogs"}
        for name, folder in (folders | {"cbis_ddsm": "cbis_ddsm"}).items():
            load(f"kit/{name}", name, ("val", "test"), data_dir=Path(KIT) / folder)


def predictions(n: int, names: tuple[str, ...], seed: int, skill: float = 1.0, per_patient: int = 1):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(names)
    logits = rng.normal(size=(n, len(names))) + skill * np.eye(len(names))[labels]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    groups = {"patient": [f"p{i // per_patient}" for i in range(n)]} if per_patient > 1 else {}
    return xai.classification.Predictions(labels, p, names, groups, [f"i{i}" for i in range(n)])


def classification(record: Record) -> None:
    two, three = ("benign", "malignant"), ("a", "b", "c")
    cases = {"patients": (two, 2), "binary": (two, 1), "three": (three, 1)}
    c = xai.classification
    for name, (names, per) in cases.items():
        found, other = predictions(90, names, 1, per_patient=per), predictions(90, names, 2, 0.3, per)
        report = functools.cache(
            lambda p=found, v=names, k=per, **given: c.assess(p, predictions(60, v, 3, per_patient=k), **given)
        )
        record.run(f"classification/{name}/report", report)
        for part in ("table", "summary", "event", "sentences", "verdict", "baseline_names"):
            record.run(f"classification/{name}/{part}", lambda: _called(getattr(report(), part)))
        record.run(f"classification/{name}/alone", lambda: c.assess(found, confidence=0.9, seed=4))
        table = functools.partial(c.results_table)
        record.run(f"classification/{name}/results", lambda: table({"a": report(), "b": c.assess(other)}))
        record.run(f"classification/{name}/text", lambda: table({"a": report(), "b": c.assess(other)}, as_text=True))
        three_models = {"a": found, "b": other, "c": predictions(90, names, 5, 2.0, per)}
        compared = functools.cache(lambda t=three_models: c.compare_models(t))
        record.run(f"classification/{name}/compare", compared)
        record.run(f"classification/{name}/mean_auc", lambda: c.mean_auc(found.labels, found.probabilities))
        history = pd.DataFrame({"epoch": [1, 2, 3], "val_loss": [3.0, 1, 2], "seconds": [1.0, 2, 3]})
        card = {"recipe": xai.RECIPES["modern"], "history": history, "comparison": compared(), "options": {"task": 1}}
        environment = {"cores": 2, "gpus": [], "python": "3", "versions": {"keras": "3"}, "git_commit": "abc"}
        splits = {"train": phantom(8, "train"), "test": phantom(4)}
        write = functools.partial(c.model_card, **card, n_weights=9, weights="ImageNet", environment=environment)
        record.run(f"classification/{name}/card", lambda: write(report(), splits))
        record.run(f"classification/{name}/plain", lambda: c.model_card(report(), {"test": splits["test"]}))


def _called(value: object) -> object:
    return value() if callable(value) else value


def training(record: Record) -> None:
    for name in ("efficientnet_lite0", "mobilenet_v2", "vit_mini16"):
        built = functools.cache(lambda n=name: xai.build_model(n, n_classes=CLASSES, image_size=SIZE, seed=2))
        record.run(f"training/models/{name}/weights", lambda: f"{built().count_params()} {len(built().weights)}")
        record.run(f"training/models/{name}/logits", lambda: xai.predict(built(), images()))

    def history(recipe: str) -> pd.DataFrame:
        keras.backend.clear_session()
        small = xai.build_model("vit_mini16", image_size=SIZE, seed=2)
        table = xai.train(small, phantom(16, "train"), phantom(8, "val"), recipe, epochs=2, batch_size=8, seed=1)
        return table[[c for c in table if "second" not in str(c)]]

    for recipe in ("modern", "scratch", "thesis"):
        record.run(f"training/history/{recipe}", lambda: history(recipe))
    report = xai.training.classification_report
    record.run("training/report", lambda: report(model("sigmoid"), phantom(12), name="m").metrics)


PARTS = (registries, transforms, maps, metrics, evaluation, datasets, classification, training)


def compute(only: str, timings: bool) -> dict[str, object]:
    record = Record(only)
    for part in PARTS:
        if record.wants(part.__name__) or part.__name__.startswith(only):
            start = time.perf_counter()
            part(record)
            print(f"{part.__name__}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if timings:
        for key, seconds in sorted(record.seconds.items(), key=lambda item: -item[1])[:25]:
            print(f"{seconds:7.2f} s {key}", file=sys.stderr)
    return dict(sorted(record.entries.items()))


def difference(old: object, new: object) -> str:
    """In a line, how an entry changed."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if not (isinstance(old, str) and isinstance(new, str)):
            return f"was {str(old)[:200]!r}, is {str(new)[:200]!r}"
        at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        return f"text from character {at}: {old[max(at - 30, 0) : at + 60]!r} -> {new[max(at - 30, 0) : at + 60]!r}"
    if (old["shape"], old["dtype"]) != (new["shape"], new["dtype"]):
        return f"{old['dtype']} {old['shape']} -> {new['dtype']} {new['shape']}"
    pairs = [p for p in zip(old["sample"], new["sample"], strict=True) if None not in p]
    scale = max((abs(a) for a, _ in pairs), default=0) or 1
    largest = max((abs(a - b) for a, b in pairs), default=0) / scale
    lost = sum((a is None) != (b is None) for a, b in zip(old["sample"], new["sample"], strict=True))
    nan = f", {lost} sampled values NaN in one" if lost else ""
    return f"mean {old['mean']} -> {new['mean']}, largest sampled deviation {largest:.2g} of the largest value{nan}"


def compare(old: dict[str, object], new: dict[str, object]) -> int:
    """Print what differs; return how many keys do."""
    differ = [k for k in new if k in old and old[k] != new[k]]
    missing, added = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    for key in differ:
        print(f"differs  {key}: {difference(old[key], new[key])}")
    for title, keys in (("missing", missing), ("new", added)):
        for key in keys:
            print(f"{title:8} {key}")
    print(f"{len(new)} keys: {len(differ)} differ, {len(missing)} missing, {len(added)} new")
    return len(differ) + len(missing) + len(added)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="FILE", help="write the record")
    what.add_argument("--compare", type=Path, metavar="FILE", help="compare with a record; 1 where anything differs")
    parser.add_argument(
        "--only", default="", metavar="PREFIX", help="keys that start so, such as maps or metrics/grad_"
    )
    parser.add_argument("--timings", action="store_true", help="say what took longest")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    try:
        found = compute(arguments.only, arguments.timings)
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    if arguments.write:
        arguments.write.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(f"{len(found)} keys in {arguments.write}")
        return 0
    old = json.loads(arguments.compare.read_text(encoding="utf-8"))
    return int(compare({k: v for k, v in old.items() if k.startswith(arguments.only)}, found) > 0)


if __name__ == "__main__":
    sys.exit(main())
