"""Whole mammograms by a network that looks where the lesions are: choices compared by cross-validation.

``python benchmarks/mammograms.py --cache FOLDER`` reads the masses of CBIS-DDSM from ``XAI_KIT`` at 800 x 608 pixels,
trains the head "where_and_what" on EfficientNet-Lite0 for each choice, fold and seed, measures it on the images left
out, and writes each result into `mammograms.json` as it comes. Cut, it goes on where it was. The official test images
are not read. Folds keep a patient's images together; "official" is the loader's own tenth of the training patients.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold

import xaiutils as xai
from xaiutils.classification import Predictions
from xaiutils.classification.curves import mean_auc
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.detection import heat_maps, where_and_what_maps
from xaiutils.files import replace_file, write_text
from xaiutils.training.predictions import groups_of

RESULTS = Path(__file__).with_suffix(".json")
HEIGHT, WIDTH = 800, 608
CLASSES = ("benign", "malignant")
# What is compared: arguments of `train`, and of `build_model` in "model".
CHOICES: dict[str, dict[str, Any]] = {
    "boxes": {"recipe": "where_and_what"},
    "no stage of crops": {"recipe": "where_and_what_images", "epochs": 8, "learning_rate": 5e-4},
    "labels alone": {"recipe": "where_and_what_labels"},
    "top k": {"recipe": "where_and_what", "model": {"pooling": "top_k"}},
    "mean": {"recipe": "where_and_what", "model": {"pooling": "mean"}},
    "labels alone, mean": {"recipe": "where_and_what_labels", "model": {"pooling": "mean"}},
    "from the pixels": {"recipe": "where_and_what", "frozen_lower": False},
}


def prepare(cache: Path) -> pd.DataFrame:
    """Write the training and validation images and masks into the cache, once; their table."""
    table = cache / "images.csv"
    if not table.exists():
        parts = [
            xai.load_dataset(
                "cbis_ddsm", split, HEIGHT, data_dir=Path(os.environ["XAI_KIT"]) / "cbis_ddsm", region="whole",
                keep_aspect=False, black_background=True,
            ).corner(HEIGHT, WIDTH)
            for split in ("train", "val")
        ]  # fmt: skip
        for name in ("pixels", "masks"):
            rows = [np.asarray(getattr(ds, name)).reshape(len(ds), HEIGHT, WIDTH, -1)[..., 0] for ds in parts]
            replace_file(cache / f"{name}.npy", lambda path, rows=rows: np.save(path, np.concatenate(rows)))
        frames = [
            ds.metadata.assign(id=ds.ids, patient=ds.patients, label=ds.labels, evidence=ds.evidence, split=ds.split)
            for ds in parts
        ]
        replace_file(table, lambda path: pd.concat(frames).to_csv(path, index=False))
    return pd.read_csv(table)


def images_at(cache: Path, table: pd.DataFrame, rows: np.ndarray, split: str) -> ImageDataset:
    pixels, masks = (np.load(cache / f"{name}.npy", mmap_mode="r")[rows] for name in ("pixels", "masks"))
    chosen = table.iloc[rows]
    return ImageDataset(
        np.broadcast_to(pixels[..., None], (*pixels.shape, 3)),
        chosen["label"].to_numpy(),
        CLASSES,
        list(chosen["id"]),
        masks=masks,
        patients=list(chosen["patient"]),
        evidence=chosen["evidence"].to_numpy(),
        metadata=chosen[["side", "view", "density", "assessment", "pathology"]],
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


def measure(model: Any, ds: ImageDataset) -> tuple[dict[str, float], np.ndarray]:
    """AUCs by image and breast, of an image and its up-down mirrored twin in the mean, and how often the heat map
    points at the evidence; and the logits ``(n, 2)``."""
    pixels = np.ascontiguousarray(ds.pixels)
    logits = np.mean([xai.predict(model, x, 8) for x in (pixels, pixels[:, ::-1])], axis=0)
    p, malignant = softmax(logits, axis=1), ds.labels == 1
    breasts = Predictions(ds.labels, p, CLASSES, groups_of(ds)).per("breast", combine="mean")
    heat = heat_maps(*where_and_what_maps(model, pixels), target=1)
    step = np.divide(ds.masks.shape[1:], heat.shape[1:])
    peaks = np.array([(np.add(np.unravel_index(h.argmax(), h.shape), 0.5) * step).astype(int) for h in heat])
    hit = ds.masks[np.arange(len(ds)), peaks[:, 0], peaks[:, 1]]
    return {
        "auc": mean_auc(ds.labels, p),
        "auc by breast": mean_auc(breasts.labels, breasts.probabilities),
        "points": hit.mean(),
        "points, malignant": hit[malignant].mean(),
        "points, malignant called malignant": hit[malignant & (p[:, 1] > 0.5)].mean(),
        "images": len(ds),
    }, logits


def run(choice: str, fold: str, seed: int, cache: Path) -> dict[str, Any]:
    table = prepare(cache)
    out = left_out(table, fold)
    train_ds, val_ds = (images_at(cache, table, np.flatnonzero(r), s) for r, s in ((~out, "train"), (out, "val")))
    options = dict(CHOICES[choice])
    head = {"head": "where_and_what", "seed": seed, **options.pop("model", {})}
    model = xai.build_model("efficientnet_lite0", 2, (HEIGHT, WIDTH), "imagenet", **head)
    folder = cache / f"{choice} {fold} {seed}".replace(", ", " ").replace(" ", "_")
    (cache / "lower_features").mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)
    if not (folder / "lower_features").exists():  # all folds and choices share them
        (folder / "lower_features").symlink_to((cache / "lower_features").resolve())
    start, cpu = time.monotonic(), time.process_time()
    if (folder / "model.keras").exists():
        model = xai.load_model(folder / "model.keras")
    else:
        history = xai.train(model, train_ds, val_ds, run_dir=folder, seed=seed, resume=True, **options)
        print(history.round(4).to_string(), flush=True)
    found, logits = measure(model, val_ds)
    replace_file(folder / "logits.npy", lambda path: np.save(path, logits))
    found |= {"train images": len(train_ds), "seconds": time.monotonic() - start, "cpu": time.process_time() - cpu}
    return {name: round(float(value), 4) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="a folder for about 9 GB")
    parser.add_argument("--choices", nargs="+", default=["boxes"], choices=CHOICES)
    parser.add_argument("--folds", nargs="+", default=["official"], choices=["official", *"01234"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    for choice, fold, seed in ((c, f, s) for s in args.seeds for f in args.folds for c in args.choices):
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        name = f"{choice} | {fold} | {seed}"
        if name not in results:
            results[name] = run(choice, fold, seed, args.cache)
            write_text(RESULTS, json.dumps(results, indent=1) + "\n")
        print(name, results[name], flush=True)


if __name__ == "__main__":
    main()
