"""The networks of `mammograms.py`: what is compared, on which images and folds, and how each is trained."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.classification import Predictions
from xaiutils.classification.curves import mean_auc
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.detection import heat_maps, where_and_what_maps
from xaiutils.files import replace_file
from xaiutils.models import load_model
from xaiutils.training.predictions import groups_of

CLASSES = ("benign", "malignant")
FACTS = ["side", "view", "density", "assessment", "pathology", "abnormality", "mass_shape"]


@dataclass(frozen=True)
class View:
    """How images are read, and the folder of the cache that they are kept in."""

    folder: str
    height: int
    width: int
    options: dict[str, Any] = field(default_factory=dict)


WHOLE = View("", 800, 608, {"region": "whole", "keep_aspect": False, "black_background": True})
BREAST = View("breast_320", 320, 320)


@dataclass(frozen=True)
class Choice:
    """What is compared: arguments of `train` and of `build_model`."""

    training: dict[str, Any]
    head: dict[str, Any] = field(default_factory=lambda: {"head": "where_and_what"})
    view: View = WHOLE


def _pooled(pooling: str, recipe: str) -> Choice:
    return Choice({"recipe": recipe}, {"head": "where_and_what", "head_options": {"pooling": pooling}})


FROZEN = "frozen at 320 px"  # the network of the whole breast in results.md, with its linear head
CHOICES = {
    "boxes": Choice({"recipe": "where_and_what"}),
    "no stage of crops": Choice({"recipe": "where_and_what_images", "epochs": 8, "learning_rate": 5e-4}),
    "labels alone": Choice({"recipe": "where_and_what_labels"}),
    "top k": _pooled("top_k", "where_and_what"),
    "mean": _pooled("mean", "where_and_what"),
    "labels alone, mean": _pooled("mean", "where_and_what_labels"),
    "from the pixels": Choice({"recipe": "where_and_what", "frozen_lower": False}),
    "more copies": Choice({"recipe": "where_and_what", "copies": 16}),
    "more copies, longer": Choice({"recipe": "where_and_what_long"}),
    FROZEN: Choice({"recipe": "modern"}, {}, BREAST),
}
FOLDS = ("official", *"01234")


class Trained(NamedTuple):
    """A network by its choice, fold and seed; `str` is its name in the results."""

    choice: str
    fold: str
    seed: int

    def __str__(self) -> str:
        return " | ".join(map(str, self))

    @classmethod
    def of(cls, name: str) -> "Trained":
        """From its name. ValueError for one that is none."""
        choice, fold, seed = ([part.strip() for part in name.split("|")] + ["", ""])[:3]
        if choice not in CHOICES or fold not in FOLDS or not seed.isdigit():
            raise ValueError(
                f"{name!r} is no network; write 'choice | fold | seed', with one of: {', '.join(CHOICES)}."
            )
        return cls(choice, fold, int(seed))

    @property
    def view(self) -> View:
        return CHOICES[self.choice].view

    def folder(self, cache: Path) -> Path:
        name = f"{self.choice} {self.fold} {self.seed}".replace(", ", " ").replace(" ", "_")
        return cache / name

    def model(self, cache: Path) -> keras.Model:
        """FileNotFoundError where it has not been trained."""
        path = self.folder(cache) / "model.keras"
        if not path.exists():
            raise FileNotFoundError(f"{self} has not been trained in {cache}; do that first, without a step.")
        return load_model(path)


# Images ---------------------------------------------------------------------------------------------------------------


def prepare(cache: Path, data_dir: Path, view: View = WHOLE, test: bool = False) -> tuple[Path, pd.DataFrame]:
    """Write images and masks into the cache, once, those of training and validation or those of the test; their folder
    and table."""
    folder = cache / view.folder / ("test" if test else "")
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "images.csv"
    if not table.exists():
        size = max(view.height, view.width)
        parts = [
            xai.load_dataset("cbis_ddsm", split, size, data_dir=data_dir / "cbis_ddsm", **view.options).corner(
                view.height, view.width
            )
            for split in (("test",) if test else ("train", "val"))
        ]
        for name in ("pixels", "masks"):
            rows = [np.asarray(getattr(ds, name)).reshape(len(ds), view.height, view.width, -1)[..., 0] for ds in parts]
            replace_file(folder / f"{name}.npy", lambda path, rows=rows: np.save(path, np.concatenate(rows)))
        frames = [
            ds.metadata.assign(id=ds.ids, patient=ds.patients, label=ds.labels, evidence=ds.evidence, split=ds.split)
            for ds in parts
        ]
        replace_file(table, lambda path: pd.concat(frames).to_csv(path, index=False))
    return folder, pd.read_csv(table, keep_default_na=False)


def images_at(folder: Path, table: pd.DataFrame, rows: np.ndarray, split: str) -> ImageDataset:
    pixels, masks = (np.load(folder / f"{name}.npy", mmap_mode="r")[rows] for name in ("pixels", "masks"))
    chosen = table.iloc[rows]
    return ImageDataset(
        np.broadcast_to(pixels[..., None], (*pixels.shape, 3)),
        chosen["label"].to_numpy(),
        CLASSES,
        list(chosen["id"]),
        masks=masks,
        patients=list(chosen["patient"]),
        evidence=chosen["evidence"].to_numpy(),
        metadata=chosen[FACTS],
        name="cbis_ddsm",
        split=split,
    )


def left_out(table: pd.DataFrame, fold: str) -> np.ndarray:
    """Which images a fold leaves out of training, bool ``(n,)``: a fifth of the patients, or the loader's own."""
    if fold == "official":
        return (table["split"] == "val").to_numpy()
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(table, table["label"], table["patient"])
    found = np.zeros(len(table), bool)
    found[list(folds)[int(fold)][1]] = True
    return found


def images_of(network: Trained, cache: Path, data_dir: Path, split: str) -> ImageDataset:
    """ "train" or "val", the images left out, of the network's fold; or the official "test"."""
    folder, table = prepare(cache, data_dir, network.view, split == "test")
    if split == "test":
        return images_at(folder, table, np.arange(len(table)), split)
    out = left_out(table, network.fold)
    return images_at(folder, table, np.flatnonzero(out if split == "val" else ~out), split)


# Training, and what is measured of the images left out ----------------------------------------------------------------


def logits_of(model: keras.Model, ds: ImageDataset) -> np.ndarray:
    """Logits ``(n, 2)``, the mean of an image and its up-down mirrored twin."""
    pixels = np.ascontiguousarray(ds.pixels)
    return np.mean([xai.predict(model, x, 8) for x in (pixels, pixels[:, ::-1])], axis=0)


def has_maps(model: keras.Model) -> bool:
    return "where" in {layer.name for layer in model.layers}


def heat_map_hits(model: keras.Model, ds: ImageDataset) -> np.ndarray:
    """Whether the middle of the heat map's highest place lies in the evidence, bool ``(n,)``."""
    return hits(heat_maps(*where_and_what_maps(model, ds.pixels), target=1), ds)


def hits(heat: np.ndarray, ds: ImageDataset) -> np.ndarray:
    """The same of heat maps ``(n, rows, columns)``."""
    step = np.divide(ds.masks.shape[1:], heat.shape[1:])
    peaks = np.array([(np.add(np.unravel_index(h.argmax(), h.shape), 0.5) * step).astype(int) for h in heat])
    return ds.masks[np.arange(len(ds)), peaks[:, 0], peaks[:, 1]]


def measure(model: keras.Model, ds: ImageDataset) -> tuple[dict[str, float], np.ndarray]:
    """AUCs by image and breast, and how often the heat map, where there is one, points at the evidence; and the logits
    ``(n, 2)``."""
    logits = logits_of(model, ds)
    return scores(ds, logits, heat_map_hits(model, ds) if has_maps(model) else None), logits


def scores(ds: ImageDataset, logits: np.ndarray, hit: np.ndarray | None) -> dict[str, float]:
    """What `measure` gives, of logits ``(n, 2)`` and the heat maps' hits ``(n,)``, None where there are no maps."""
    p, malignant = softmax(logits, axis=1), ds.labels == 1
    breasts = Predictions(ds.labels, p, CLASSES, groups_of(ds)).per("breast", combine="mean")
    found = {"auc": mean_auc(ds.labels, p), "auc by breast": mean_auc(breasts.labels, breasts.probabilities)}
    if hit is not None:
        found |= {
            "points": hit.mean(),
            "points, malignant": hit[malignant].mean(),
        }
        if (called := malignant & (p[:, 1] > 0.5)).any():
            found["points, malignant called malignant"] = hit[called].mean()
    return {name: round(float(value), 4) for name, value in (found | {"images": len(ds)}).items()}


def run(network: Trained, cache: Path, data_dir: Path) -> dict[str, float]:
    """Train a network, unless it is there, and measure it on the images that its fold leaves out."""
    choice, folder = CHOICES[network.choice], network.folder(cache)
    train_ds, val_ds = (images_of(network, cache, data_dir, split) for split in ("train", "val"))
    (cache / "lower_features").mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)
    if not (folder / "lower_features").exists():  # all folds and choices share them
        (folder / "lower_features").symlink_to((cache / "lower_features").resolve())
    start, cpu = time.monotonic(), time.process_time()
    if (folder / "model.keras").exists():
        model = network.model(cache)
    else:
        size = (network.view.height, network.view.width)
        model = xai.build_model("efficientnet_lite0", 2, size, "imagenet", seed=network.seed, **choice.head)
        history = xai.train(
            model, train_ds, val_ds, run_dir=folder, seed=network.seed, resume=True, **choice.training
        )  # fmt: skip
        print(history.round(4).to_string(), flush=True)
    found, logits = measure(model, val_ds)
    replace_file(folder / "logits.npy", lambda path: np.save(path, logits))
    took = {"seconds": time.monotonic() - start, "cpu": time.process_time() - cpu}
    return found | {"train images": len(train_ds)} | {name: round(value, 4) for name, value in took.items()}
