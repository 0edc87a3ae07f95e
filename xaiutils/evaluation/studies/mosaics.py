"""The grid pointing game, where nobody has drawn masks: mosaics of images of several classes.

A mosaic is an image whose mask are the cells of its target class, so that every metric of localisation takes it. A map
can only be asked to find what the model uses: the cells show images that the model knows.
"""

import numpy as np
import pandas as pd
from PIL import Image

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.answers import returns_score
from xaiutils.evaluation.evaluate import check_classes
from xaiutils.graph.network import Network
from xaiutils.graph.passes import batches
from xaiutils.graph.predict import predict
from xaiutils.models.wrapped import facts_of

CELLS = ("shrunk", "full")


def grid_mosaics(
    model: keras.Model,
    ds: ImageDataset,
    n: int = 24,
    k: int = 2,
    cells: str = "shrunk",
    target_cells: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> ImageDataset:
    """Mosaics of ``k`` x ``k`` images of different classes, of which a map of the target class should find its own: the
    grid pointing game (Boehle et al. 2021, arXiv:2104.00032; Rao et al. 2022, arXiv:2205.10435).

    Only images that the model classifies correctly take part, those with the highest probability first, and each at
    most once, so that mosaics are independent of each other. The target classes take turns. Explain the mosaics for
    their ``labels``, not for the predicted class; relevance_mass is then the papers' localisation score.

    Args:
        model, ds: the classifier, and the images that mosaics are made of.
        n: mosaics at most; fewer where the images do not suffice.
        cells: "shrunk": a mosaic has the size of one image, for models of a fixed size, and a cell 1/k of its height
            and width; whether an image is classified correctly is then asked of its copy at that resolution, enlarged
            again. "full": cells as large as the images, for models that take any size.
        target_cells: cells of the target class; None: an equal share, k * k // (classes), at least one. The papers
            show every class once, which two classes cannot fill.
        batch_size: images in one pass.
        seed: of the places of the cells.

    Returns:
        ``labels``: target classes; ``masks``: their cells; ``metadata``: ``cells`` (ids of the images in reading
        order, with " | " between them) and ``confidence`` (the lowest probability among them). Without patients: a
        mosaic mixes several.

    Raises:
        ValueError: the parameters make no mosaic, or too few images are classified correctly for a single one.
    """
    _check_mosaics(model, ds, n, k, cells)
    height, width = ds.pixels.shape[1:3]
    factor = k if cells == "full" else 1
    rows, columns = (np.rint(np.linspace(0, factor * side, k + 1)).astype(int) for side in (height, width))
    cell = (rows[1], columns[1])
    probabilities = _probabilities(model, ds, batch_size, None if cells == "full" else cell)
    queues = _candidates(probabilities, ds.labels)
    share = max(1, k * k // max(len(queues), 1)) if target_cells is None else target_cells
    chosen = _draw(queues, share, k * k, n) if 1 <= share < k * k else []
    if not chosen:
        counts = {name: len(queues.get(c, ())) for c, name in enumerate(ds.class_names)}
        raise ValueError(
            f"not one mosaic of {k} x {k} cells, {share} of them of the target class, can be made of the images that "
            f"the model classifies correctly ({counts}); give more images, or another k or target_cells."
        )
    pixels = np.zeros((len(chosen), rows[-1], columns[-1], 3), np.uint8)
    masks, members = np.zeros(pixels.shape[:3], bool), []
    for j, (_, found) in enumerate(chosen):
        places = np.random.default_rng([seed, j]).permutation(k * k)
        for index, place in zip(found, places, strict=True):
            row, column = divmod(int(place), k)
            field = np.s_[j, rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
            pixels[field] = _resized(ds.pixels[index], *masks[field].shape)
            masks[field] = index in found[:share]
        members.append([found[i] for i in np.argsort(places)])
    confidence = [min(probabilities[i, ds.labels[i]] for i in found) for found in members]
    names = [" | ".join(ds.ids[i] for i in found) for found in members]
    return ImageDataset(
        pixels,
        np.array([target for target, _ in chosen]),
        ds.class_names,
        [f"mosaic_{j:04d}" for j in range(len(chosen))],
        masks,
        name=f"{ds.name} mosaics",
        split=ds.split,
        mirrors=ds.mirrors,
        metadata=pd.DataFrame({"cells": names, "confidence": confidence}),
        notes=[f"{len(chosen)} mosaics of {k} x {k} images, {share} of each of the target class; cells: {cells}"],
    )


def _check_mosaics(model, ds, n, k, cells) -> None:
    if cells not in CELLS:
        raise ValueError(f"cells={cells!r}; choose one of {', '.join(CELLS)}.")
    ds.check_single_label("grid_mosaics")
    check_classes(model, ds)
    if returns_score(model):
        raise ValueError("mosaics are of images of different classes, and this model returns a score.")
    if (facts := facts_of(model)) is not None and facts.case_inputs:
        raise ValueError(f"a mosaic of several cases has no row of {', '.join(facts.case_inputs)} of its own.")
    height, width = ds.pixels.shape[1:3]
    if k < 2 or n < 1 or (cells == "shrunk" and min(height, width) < 8 * k):
        raise ValueError(
            f"n={n}, k={k} on images of {height} x {width}: expected at least one mosaic of at least 2 x 2 cells, "
            "each of at least 8 pixels a side."
        )
    size = Network.of(model).image_size
    if cells == "full" and size not in ((None, None), (k * height, k * width)):
        raise ValueError(f"cells='full' makes mosaics of {k * height} x {k * width}; the model takes {size} alone.")


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """``(height, width, channels)``; what falls into a smaller pixel is averaged."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        parts = [Image.fromarray(one).resize((int(width), int(height)), Image.Resampling.BILINEAR)
                 for one in np.ascontiguousarray(pixels.transpose(2, 0, 1))]  # fmt: skip
        return np.stack([np.asarray(part) for part in parts], axis=-1)
    return np.asarray(Image.fromarray(pixels).resize((int(width), int(height)), Image.Resampling.BILINEAR))


def _probabilities(model, ds, batch_size, cell: tuple[int, int] | None) -> np.ndarray:
    """The model's probabilities of the images, or of what is left of them at the resolution ``cell``."""
    found = []
    for batch in batches(len(ds), batch_size, "images for mosaics"):
        pixels = ds.pixels[batch]
        if cell is not None:
            pixels = np.stack([_resized(_resized(p, *cell), *p.shape[:2]) for p in pixels])
        found.append(predict(model, pixels.astype(np.float32), batch_size, probabilities=True))
    return np.concatenate(found)


def _candidates(probabilities: np.ndarray, labels: np.ndarray) -> dict[int, list[int]]:
    """By class, the images that are classified correctly, the most probable last."""
    right = probabilities.argmax(axis=1) == labels
    own = probabilities[np.arange(len(labels)), labels]
    queues = {int(c): np.flatnonzero(right & (labels == c)) for c in np.unique(labels)}
    ordered = {c: members[np.argsort(-own[members], kind="stable")][::-1].tolist() for c, members in queues.items()}
    return {c: members for c, members in ordered.items() if members}


def _draw(queues: dict[int, list[int]], share: int, size: int, n: int) -> list[tuple[int, list[int]]]:
    """(target, images) of each mosaic, the target's ``share`` of images first; images are taken from ``queues``."""
    made: list[tuple[int, list[int]]] = []
    turns = dict.fromkeys(queues, 0)
    while len(made) < n:
        left = sum(map(len, queues.values()))
        able = [c for c in queues if len(queues[c]) >= share and left - len(queues[c]) >= size - share]
        if not able:
            break
        target = min(able, key=lambda c: turns[c])
        turns[target] += 1
        members = [queues[target].pop() for _ in range(share)]
        used = dict.fromkeys(queues, 0)
        for _ in range(size - share):
            others = [c for c in queues if c != target and queues[c]]
            other = min(others, key=lambda c: (used[c], -len(queues[c])))
            used[other] += 1
            members.append(queues[other].pop())
        made.append((target, members))
    return made
