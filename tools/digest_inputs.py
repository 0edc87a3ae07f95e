"""What `behaviour_digest` is run on: small models, images, predictions and files, all drawn from seeds."""

import functools
import importlib
import json
import re
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image

import xaiutils as xai

tf.config.experimental.enable_op_determinism()
SIZE, CLASSES = 48, 3
# Parameters that make methods and metrics cheap, and others than the defaults where there are no choices to take.
CHEAP = {"n_samples": 4, "n_steps": 4, "n_masks": 24, "n_training": 300, "patch_size": 12, "max_channels": 4}
CHEAP |= {"percentages": [20, 60]}
OTHER = {"noise": 0.3, "epsilon": 0.05, "gamma": 0.5, "alpha": 3.0, "kernel_width": 0.5, "p1": 0.3, "cells": 4}
OTHER |= {"stride": 8, "patch_width": 6, "discard_ratio": 0.5, "tolerance": 4, "level": 0.3, "area": 0.25, "padding": 1}
OTHER |= {"base": "grad_cam", "baseline_image": [30.0, 60, 90], "seed": 5, "n_segments": 9}
OTHER |= {"background": np.random.default_rng(5).uniform(0, 255, (2, SIZE, SIZE, 3))}
OTHER |= {"segments": np.add.outer(np.arange(SIZE) // 16 * 3, np.arange(SIZE) // 16)}


def find(name: str):
    """A function or class of the package by its name, wherever it is defined; that of evaluation first."""
    package = Path(xai.__file__).parent
    for file in sorted(package.rglob("*.py"), key=lambda file: ("evaluation" not in file.parts, file)):
        if re.search(rf"^(def|class) {name}\b", file.read_text(encoding="utf-8"), re.MULTILINE):
            parts = [p for p in file.relative_to(package.parent).with_suffix("").parts if p != "__init__"]
            return getattr(importlib.import_module(".".join(parts)), name)
    raise LookupError(f"{name} is nowhere in the package.")


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
    return xai.load_dataset("phantom", split, image_size=SIZE, limit=n, task="presence", difficulty="easy")


def variants(declared: tuple, lists: bool = True) -> dict[str, dict]:
    """Cheap parameters, and the same with another value of each parameter in turn."""
    cheap = {p.name: CHEAP[p.name] for p in declared if p.name in CHEAP}
    found = {"default": cheap}
    for p in declared:
        if p.kind is list:
            continue
        values = [c for c in p.choices if c != p.default] or ([not p.default] if p.kind is bool else [])
        values = values or ([OTHER[p.name]] if p.name in OTHER else [])
        found |= {
            p.name if p.kind is np.ndarray else f"{p.name}={v}": {**cheap, p.name: v}
            for v in (values if lists else values[:1])
        }
    return found


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


def predictions(n: int, names: tuple[str, ...], seed: int, skill: float = 1.0, per_patient: int = 1):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(names)
    logits = rng.normal(size=(n, len(names))) + skill * np.eye(len(names))[labels]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    groups = {"patient": [f"p{i // per_patient}" for i in range(n)]} if per_patient > 1 else {}
    return xai.classification.Predictions(labels, p, names, groups, [f"i{i}" for i in range(n)])
