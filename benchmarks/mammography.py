"""Whole mammograms by way of their lesions: rows of `results.py` for the masses of CBIS-DDSM.

A whole image is too large, and its lesion too small, for a network that is trained on images alone. So (Shen et al.
2019, Deep learning to improve breast cancer detection on screening mammography, Scientific Reports 9:12495):

1. patches around lesions and elsewhere in the breast train a network of three classes: background, benign, malignant;
2. convolutional as it is, it runs over the whole image: a grid of places, each with the three classes' logits;
3. optionally, the places that it takes for lesions in training images, and are none, join the patches, and it is
   trained on;
4. the most malignant place is the image's score, and a logistic regression on the validation images makes a probability
   of it. The training images are of no use there: the network knows their lesions.

The layers up to stride 8 keep ImageNet's weights, so that what they make of the patches is computed once.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.special import log_softmax, logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict

import xaiutils as xai
from xaiutils.backend import keras, tf
from xaiutils.classification import Predictions
from xaiutils.datasets import ImageDataset
from xaiutils.datasets.reading.breast_region import segment_breast
from xaiutils.files import replace_file, write_text
from xaiutils.training.augmentation import augment
from xaiutils.training.predictions import groups_of
from xaiutils.training.recipes import change_recipe

# Of the kit's images. Chest walls lie at the left; beyond WIDTH is the middle of 4 of 1175 training lesions.
SIZE, WIDTH = 800, 608
PATCH = 112  # pixels; the median lesion's box is like a square of 63
CLASSES = ("background", "benign", "malignant")
ENTRY = "block_04_add"  # the last layer of stride 8
CELLS = 4  # a patch is as wide as so many places of stride 32
AUGMENTED = {"flip": True, "rotation": 20, "zoom": 0.15, "shift": 0.05}
RECIPE = {
    "learning_rate": 1e-3, "weight_decay": 0.02, "warmup": 0.1, "label_smoothing": 0.1, "monitor": "val_auc",
    "epochs": 8, "patience": 8,
}  # fmt: skip
AGAIN = {"learning_rate": 3e-4, "epochs": 4}
COPIES = 5
TrainTail = Callable[..., pd.DataFrame]  # `results.train_tail`


def whole_images(split: str, data_dir: Path) -> ImageDataset:
    return xai.load_dataset(
        "cbis_ddsm", split, SIZE, data_dir=data_dir, region="whole", keep_aspect=False, black_background=True
    )


def patches(ds: ImageDataset, per_lesion: int, per_image: float, seed: int) -> ImageDataset:
    """``per_lesion`` patches about each lesion, the first in its middle, and on average ``per_image`` elsewhere.

    A lesion has the class of its image.
    """
    rng = np.random.default_rng(seed)
    found = []
    for i in range(len(ds)):
        pixels, mask, name = ds.pixels[i], ds.masks[i], ds.ids[i]
        for k, box in enumerate(ndimage.find_objects(ndimage.label(mask)[0])):
            extent = np.array([side.stop - side.start for side in box])
            middle = np.array([side.start for side in box]) + extent / 2
            for j in range(per_lesion):
                moved = middle + (j > 0) * rng.uniform(-1, 1, 2) * np.maximum(12, 0.2 * extent)
                found.append((_patch_at(pixels, moved), 1 + ds.labels[i], f"{name} lesion {k} {j}", ds.patients[i]))
        near = ndimage.binary_dilation(mask[::8, ::8], iterations=PATCH // 16).repeat(8, 0).repeat(8, 1)
        free = np.argwhere(segment_breast(pixels) & ~near)
        for j in range(int(per_image) + int(rng.random() < per_image % 1) if len(free) else 0):
            place = free[rng.integers(len(free))]
            found.append((_patch_at(pixels, place), 0, f"{name} background {j}", ds.patients[i]))
    pixels, labels, ids, patients = map(list, zip(*found, strict=True))
    return ImageDataset(np.stack(pixels), labels, CLASSES, ids, patients=patients, name="patches", split=ds.split)


def _patch_at(pixels: np.ndarray, middle: np.ndarray) -> np.ndarray:
    top, left = np.clip(np.asarray(middle - PATCH // 2, int), 0, SIZE - PATCH)
    return pixels[top : top + PATCH, left : left + PATCH]


def trained_on_patches(
    folder: Path, cache: Path, train_tail: TrainTail, mined: bool
) -> tuple[keras.Model, dict[str, float]]:
    """EfficientNet-Lite0 of the three classes, its layers after `ENTRY` trained on patches, and from how many images in
    how many CPU seconds; both kept in ``cache``.

    With ``mined`` the training goes on with what the network took for lesions in the training images.
    """
    name = "patches_mined" if mined else "patches"
    path, note = cache / f"{name}.weights.h5", cache / f"{name}.json"
    if path.exists():
        return xai.build_model("efficientnet_lite0", len(CLASSES), PATCH, path), json.loads(note.read_text())
    before, cost = None, {"seconds": 0.0}
    if mined:
        before, cost = trained_on_patches(folder, cache, train_tail, mined=False)
    start = time.process_time()
    model = before or xai.build_model("efficientnet_lite0", len(CLASSES), PATCH, "imagenet")
    images = whole_images("train", folder)
    train = patches(images, per_lesion=3, per_image=1.5, seed=0)
    val = patches(whole_images("val", folder), per_lesion=2, per_image=1.5, seed=1)
    inputs, labels = early_features(model, train, cache, COPIES), train.labels
    if mined:
        more = false_lesions(grids(model, images, False, cache / "cbis_train_grid.npy"), images, per_image=2)
        inputs = np.concatenate([inputs, early_features(model, more, cache, COPIES)], axis=1)
        labels = np.concatenate([labels, more.labels])
    entry = model.get_layer(ENTRY).output
    tail = keras.Model(entry, model.get_layer("logits").output)
    recipe = change_recipe("modern", {**RECIPE, **(AGAIN if mined else {}), "copies": COPIES})
    val_inputs = early_features(model, val, cache)
    print(train_tail(tail, inputs, labels, val_inputs, val.labels, recipe).to_string(), flush=True)
    cost = {"images": len(images), "seconds": cost["seconds"] + time.process_time() - start}
    write_text(note, json.dumps(cost))
    whole = path.with_name(f"unfinished_{path.name}")  # Keras wants the suffix
    model.save_weights(whole)
    whole.replace(path)
    return model, cost


def early_features(model: keras.Model, ds: ImageDataset, cache: Path, copies: int = 0) -> np.ndarray:
    """What layers up to `ENTRY` make of patches: float16 ``(n, ...)``, or ``(copies, n, ...)`` of which all but the
    first are augmented; kept in ``cache``."""
    path = cache / f"{ds.name}_{ds.split}.npy"
    if path.exists():
        return np.load(path)
    body = keras.Model(model.inputs, model.get_layer(ENTRY).output)
    rng, recipe = np.random.default_rng(0), change_recipe("finetune", AUGMENTED)
    forward = tf.function(lambda x: body(x, training=False))

    def features(changed: bool) -> np.ndarray:
        batches = (augment(x, recipe, rng) if changed else x for x, _ in ds.batches(64))
        return np.concatenate([forward(x).numpy().astype(np.float16) for x in batches])

    found = np.stack([features(changed=c > 0) for c in range(copies)]) if copies else features(changed=False)
    replace_file(path, lambda temporary: np.save(temporary, found))
    return found


def false_lesions(logits: np.ndarray, ds: ImageDataset, per_image: int) -> ImageDataset:
    """Patches of class background: of each image the ``per_image`` places, apart from each other and from its lesions,
    that a network took most for a lesion."""
    found = []
    lesion = logsumexp(logits[..., 1:], axis=-1) - logits[..., 0]
    for i in range(len(ds)):
        taken, places = ds.masks[i], []
        for flat in np.argsort(-lesion[i], axis=None):
            place = np.array(np.unravel_index(flat, lesion[i].shape))
            middle = 32 * place + 32 * CELLS // 2
            apart = all(np.abs(place - other).max() >= CELLS // 2 for other in places)
            if apart and not _patch_at(taken, middle).any():
                places.append(place)
                found.append((_patch_at(ds.pixels[i], middle), f"{ds.ids[i]} taken for a lesion {len(places)}", i))
            if len(places) == per_image:
                break
    pixels, ids, of = map(list, zip(*found, strict=True))
    patients = [ds.patients[i] for i in of]
    zeros = np.zeros(len(ids), np.int64)
    return ImageDataset(np.stack(pixels), zeros, CLASSES, ids, patients=patients, name="false_lesions", split=ds.split)


def grids(model: keras.Model, ds: ImageDataset, mirror: bool, path: Path) -> np.ndarray:
    """Logits float32 ``(n, rows, columns, 3)`` of a patch about each place of stride 32; kept in ``path``."""
    if path.exists():
        return np.load(path)
    backbone = keras.Model(model.inputs, model.get_layer("top_relu").output)
    inputs = keras.Input((SIZE, WIDTH, 3))
    backbone_of_whole = keras.models.clone_model(backbone, input_tensors=[inputs])
    backbone_of_whole.set_weights(backbone.get_weights())
    kernel, bias = model.get_layer("logits").get_weights()

    @tf.function
    def forward(x):
        logits = backbone_of_whole(x, training=False) @ kernel + bias
        return tf.nn.avg_pool2d(logits, CELLS, 1, "VALID")

    found = []
    for x, _ in ds.batches(4):
        x = x[:, :, :WIDTH]
        found.append(forward(x[:, :, ::-1] if mirror else x).numpy())
    replace_file(path, lambda temporary: np.save(temporary, np.concatenate(found)))
    return np.load(path)


def malignancy(logits: np.ndarray) -> np.ndarray:
    """``(n,)``: the largest log-probability of "malignant" in each grid."""
    return log_softmax(logits, axis=-1)[..., 2].max(axis=(1, 2))


def predict_by_patches(
    folder: Path, cache: Path, train_tail: TrainTail, mined: bool
) -> tuple[int, float, Predictions, Predictions]:
    """Number of training images, CPU seconds of training, predictions of the validation and test images.

    The score of an image is its malignancy and its mirrored twin's, in the mean. The probabilities of the validation
    images come from folds of patients that the logistic regression had not seen.
    """
    model, cost = trained_on_patches(folder, cache, train_tail, mined)
    found, scores = {}, {}
    for split in ("val", "test"):
        found[split] = ds = whole_images(split, folder)
        name = f"cbis_{split}_grid{'_mined' * mined}"
        twins = [grids(model, ds, m, cache / f"{name}{'_mirrored' * m}.npy") for m in (False, True)]
        scores[split] = np.mean([malignancy(twin) for twin in twins], axis=0)[:, None]
    val, head = found["val"], LogisticRegression()
    folds = {"groups": val.patients, "cv": GroupKFold(10), "method": "predict_proba"}
    probabilities = {"val": cross_val_predict(head, scores["val"], val.labels, **folds)}
    probabilities["test"] = head.fit(scores["val"], val.labels).predict_proba(scores["test"])
    val_found, test_found = (
        Predictions(ds.labels, probabilities[split], ds.class_names, groups_of(ds), ds.ids)
        for split, ds in found.items()
    )
    return cost["images"], cost["seconds"], val_found, test_found
