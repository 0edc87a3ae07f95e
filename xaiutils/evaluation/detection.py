"""Two-stage reading of a network with the head "where_and_what": what it finds, how often it is right, and each find
looked at by itself.

`detect` takes peaks of the network's own heat map as finds; `froc` says how many lesions are found at how many false
finds an image; `read_crops` has a classifier look at each find alone, and pastes its maps back into the image.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.feature import peak_local_max

from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.statistics.bootstrap import percentile_interval, replicates

SIDES = ("top", "left", "bottom", "right")
RATES = (0.25, 0.5, 1.0, 2.0, 4.0)  # false finds an image


def where_and_what_maps(model: keras.Model, images: np.ndarray, batch_size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """The maps of the head "where_and_what" as logits: where ``(n, rows, columns)`` and what ``(n, rows, columns,
    classes)``, float32, of images ``(n, height, width, channels)`` in [0, 255].

    ValueError for a model without that head.
    """
    if {"where", "what"} - {layer.name for layer in model.layers}:
        raise ValueError("the model has no maps of where and what; build_model(head='where_and_what') makes one.")
    part = keras.Model(model.inputs, [model.get_layer(name).output for name in ("where", "what")])
    run = tf.function(lambda x: part(x, training=False), autograph=False)
    starts = range(0, len(images), batch_size)
    found = [[y.numpy() for y in run(tf.cast(images[i : i + batch_size], tf.float32))] for i in starts]
    where, what = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return where[..., 0], what


def heat_maps(where: np.ndarray, what: np.ndarray, target: int) -> np.ndarray:
    """log P(evidence here) up to a constant, plus log P(it speaks for ``target``): l + log softmax(m)_target, float32
    ``(n, rows, columns)``, from `where_and_what_maps`."""
    return where + np.asarray(tf.nn.log_softmax(what))[..., target]


def detect(
    model: keras.Model,
    images: np.ndarray,
    target: int = 1,
    n: int = 10,
    overlap: float = 0.2,
    batch_size: int = 8,
) -> pd.DataFrame:
    """The ``n`` highest peaks of each image's heat map (`heat_maps`) that are left after non-maximum suppression.

    A find's box is around the connected places about its peak where sigmoid(l) is at least half of what it is there. Of
    two boxes that share more than ``overlap`` of their union, or where one's middle lies in the other, the lower goes.

    Returns:
        A row for each find, the highest of an image first: image (its number), score (of the heat map at the peak),
        probability (of ``target`` by the maps of what, there), row, column (of the peak) and top, left, bottom, right
        (of its box, the last two exclusive), in pixels.
    """
    where, what = where_and_what_maps(model, images, batch_size)
    heat, p = heat_maps(where, what, target), np.asarray(tf.nn.softmax(what))[..., target]
    step = np.divide(images.shape[1:3], where.shape[1:])
    rows = []
    for i, of_image in enumerate(heat):
        peaks = np.argwhere(of_image == ndimage.maximum_filter(of_image, 3, mode="nearest"))
        kept: list[np.ndarray] = []
        for row, column in sorted(peaks.tolist(), key=lambda place: -of_image[tuple(place)]):
            box = _box_about(where[i], row, column)
            if len(kept) == n or any(_same(box, other, overlap) for other in kept):
                continue
            kept.append(box)
            middle, corners = (np.array([row, column]) + 0.5) * step, box * step[[0, 1, 0, 1]]
            rows.append([i, of_image[row, column], p[i, row, column], *middle, *corners])
    found = pd.DataFrame(rows, columns=["image", "score", "probability", "row", "column", *SIDES])
    return found.astype(dict.fromkeys(("image", "row", "column", *SIDES), int))


def _box_about(where: np.ndarray, row: int, column: int) -> np.ndarray:
    """First and past the last row and column, (top, left, bottom, right), of the places that belong to a peak."""
    p = 1 / (1 + np.exp(-where.astype(float)))
    parts, _ = ndimage.label(p >= p[row, column] / 2)
    down, across = ndimage.find_objects((parts == parts[row, column]).astype(int))[0]
    return np.array([down.start, across.start, down.stop, across.stop])


def _same(a: np.ndarray, b: np.ndarray, overlap: float) -> bool:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.maximum(high - low, 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
    middles = [(box[:2] + box[2:] - 1) / 2 for box in (a, b)]
    inside = any(((box[:2] <= m) & (m < box[2:])).all() for box, m in zip((b, a), middles, strict=True))
    return bool(inside or shared > overlap * union)


def peaks_of(maps: np.ndarray, n: int = 10, distance: int = 8) -> pd.DataFrame:
    """The ``n`` highest local maxima of each map ``(images, height, width)`` as finds for `froc`, which asks how many
    lesions they hit: any method's maps, of any model.

    Two maxima are at least ``distance`` pixels apart. A constant map has none. `froc` lays one threshold over all
    images, so maps whose unit is each image's own (CAMs) are to be brought to one before, by their norm for instance.

    Returns:
        A row for each find, the highest of an image first: image (its number), score (the map there), row, column.
    """
    rows = []
    for i, one in enumerate(maps):
        peaks = peak_local_max(one.astype(float), distance, num_peaks=n, exclude_border=False)
        rows += [(i, one[row, column], row, column) for row, column in peaks]
    return pd.DataFrame(rows, columns=["image", "score", "row", "column"])


def froc(
    found: pd.DataFrame,
    ds: ImageDataset,
    rates: tuple[float, ...] = RATES,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Free-response ROC (Bunch et al. 1978, doi:10.1117/12.955926): the fraction of lesions found where there are at
    most so many false finds an image.

    Args:
        found: of `detect` or `peaks_of`, for the images of ``ds``. A find is of a lesion, a connected piece of its
            image's mask, where its peak lies in the lesion's bounding box; else it is false. Finds beyond the first of
            a lesion count for nothing.
        ds: images of known evidence (others, "unknown", are left out); those without any count for the false finds.
        rates: false finds an image, each above 0.
        n_resamples, confidence, seed: of percentile intervals by the bootstrap of patients, else of images.

    Returns:
        For each rate a row: rate, sensitivity (of lesions), low, high (NaN where the bootstrap has no interval),
        threshold (finds with a larger score count), lesions and images (their numbers).

    ValueError where no image has evidence.
    """
    if ds.masks is None or ds.evidence is None or not (ds.evidence == "known").any():
        raise ValueError("the data set has no evidence (masks or boxes) that could be found.")
    known = np.flatnonzero(ds.evidence != "unknown")
    names = ds.ids if ds.patients is None else ds.patients
    units = np.unique([names[i] for i in known], return_inverse=True)[1]
    lesions, false = [], []  # (position among the known images, score)
    for position, i in enumerate(known):
        finds = found[found["image"] == i]
        points, scores = finds[["row", "column"]].to_numpy(), finds["score"].to_numpy()
        wrong = np.ones(len(finds), bool)
        for down, across in ndimage.find_objects(ndimage.label(ds.masks[i])[0]):
            inside = (points >= [down.start, across.start]).all(axis=1) & (points < [down.stop, across.stop]).all(
                axis=1
            )
            lesions.append((position, scores[inside].max(initial=-np.inf)))
            wrong &= ~inside
        false += [(position, score) for score in scores[wrong]]
    hits, misses = (np.array(sorted(x, key=lambda pair: -pair[1]), float).reshape(-1, 2) for x in (lesions, false))
    everyone = np.ones((len(known), 1))
    sensitivity, threshold = (x[:, 0] for x in _at_rates(hits, misses, everyone, rates))
    drawn = np.concatenate(
        [_at_rates(hits, misses, w, rates)[0] for w in replicates(units, n_resamples, seed, len(hits) + len(misses))],
        axis=1,
    )
    low, high = np.array([percentile_interval(samples, confidence) for samples in drawn]).T
    columns = {"rate": rates, "sensitivity": sensitivity, "low": low, "high": high, "threshold": threshold}
    return pd.DataFrame(columns | {"lesions": len(hits), "images": len(known)})


def _at_rates(
    hits: np.ndarray, misses: np.ndarray, weights: np.ndarray, rates: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Sensitivity and threshold ``(rates, replicates)`` for weights of images ``(n, replicates)``. ``hits`` and
    ``misses`` are rows of an image's number and a score, the highest first."""
    of_hits, of_misses = (weights[x[:, 0].astype(int)] for x in (hits, misses))
    total, beyond = of_misses.cumsum(axis=0), np.append(misses[:, 1], -np.inf)
    found = []
    for rate in rates:
        allowed = (total <= rate * weights.sum(axis=0)).sum(axis=0)  # so many false finds; the next is one too many
        threshold = beyond[allowed]
        with np.errstate(invalid="ignore"):
            share = (of_hits * (hits[:, 1:] > threshold)).sum(axis=0) / of_hits.sum(axis=0)
        found.append((share, threshold))
    sensitivity, thresholds = zip(*found, strict=True)
    return np.stack(sensitivity), np.stack(thresholds)


def crops_of(images: np.ndarray, found: pd.DataFrame, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The second stage's images: about the middle of each find's box a square of ``side`` pixels, moved into the image
    where it would leave it; ``(finds, side, side, channels)``, and their first rows and columns ``(finds, 2)``.

    ValueError for a side longer than the images.
    """
    size = np.array(images.shape[1:3])
    if side > size.min():
        raise ValueError(f"side={side}; the images are only {size[0]} x {size[1]} pixels.")
    corners = found[list(SIDES)].to_numpy()
    starts = np.clip((corners[:, :2] + corners[:, 2:] - side) // 2, 0, size - side)
    places = zip(found["image"], starts, strict=True)
    crops = [images[i, top : top + side, left : left + side] for i, (top, left) in places]
    return np.array(crops).reshape(len(found), side, side, images.shape[-1]), starts


def paste(maps: np.ndarray, starts: np.ndarray, found: pd.DataFrame, shape: tuple[int, int, int]) -> np.ndarray:
    """Maps of crops ``(finds, side, side)`` back in their images: float32 ``shape`` (n, height, width), 0 where no crop
    lies; where several do, the value that is largest in magnitude."""
    pasted, side = np.zeros(shape, np.float32), maps.shape[1]
    for i, (top, left), of_crop in zip(found["image"], starts, maps, strict=True):
        part = pasted[i, top : top + side, left : left + side]
        np.copyto(part, of_crop, where=np.abs(of_crop) > np.abs(part))
    return pasted


def read_crops(
    classify: Callable[[np.ndarray], np.ndarray],
    explain: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    found: pd.DataFrame,
    side: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The second stage: what a classifier says of each find, seen alone, and its maps pasted into the images.

    ``classify`` and ``explain`` take crops float32 ``(finds, side, side, channels)`` and give scores ``(finds, ...)``
    and maps ``(finds, side, side)``: of a Keras classifier of that image size, ``lambda x: xai.predict(model, x)`` and
    ``lambda x: xai.explain(model, x, 1, "hirescam")``. Returns the scores, and maps float32 ``(n, height, width)``.
    """
    crops, starts = crops_of(images, found, side)
    crops = crops.astype(np.float32)
    return classify(crops), paste(explain(crops), starts, found, (len(images), *images.shape[1:3]))
