"""Do single units stand for concepts? Network dissection (Bau et al. 2017, CVPR, arXiv:1704.05796).

Of each unit (channel) k of a layer, T_k is the value that its activation exceeds at 0.5 % of the places of all images.
Its map is enlarged bilinearly to the image, and the pixels over T_k are compared with the mask of each concept: IoU is
the pixels in both over the pixels in either, each summed over all images. A unit is a detector of the concept with the
largest IoU if that is over 0.04.

Whether units mean more than any direction does is told by the same layer in a rotated basis, and whether they learnt it
by the network with random weights. Note the ceiling: 0.5 % of the pixels cannot cover a concept that takes 20 % of
them, and no IoU with that exceeds 0.025.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from xaiutils.attribution.cam.layer_aggregate import default_layers
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.studies.random_weights import forgotten
from xaiutils.graph.network import Network
from xaiutils.graph.passes import activation, batches, enlarge
from xaiutils.graph.places import Place
from xaiutils.graph.predict import prepare
from xaiutils.registry import check_integer

UNITS, ROTATED, RANDOM_WEIGHTS = "units", "rotated", "random weights"
_AT_ONCE = 32  # units whose enlarged maps are in memory


def dissect(
    model: keras.Model,
    ds: ImageDataset,
    concepts: Mapping[str, np.ndarray] | None = None,
    layers: Sequence[str] = (),
    quantile: float = 0.005,
    least: float = 0.04,
    n_controls: int = 5,
    batch_size: int = 32,
    seed: int = 0,
) -> pd.DataFrame:
    """Network dissection of layers, with its controls (see this module).

    Args:
        model: as `xaiutils.explain` takes.
        ds: images whose concepts are marked.
        concepts: masks bool ``(n, height, width)`` by name; None: the masks of the labels of ``ds``, or its one mask as
            "evidence", of the images where they are known.
        layers: paths of feature maps or tokens of patches; empty: the last layer of each resolution, or what enters the
            attention of each block of a transformer.
        quantile: share of the places over a unit's threshold.
        least: a detector's IoU is larger.
        n_controls: rotations (random orthogonal matrices of a layer's channels, Haar), and draws of random weights.
        batch_size: images in one pass.
        seed: of rotations and weights.

    Returns:
        A row for each basis ("units", "rotated", "random weights"), draw, layer, unit and concept: threshold, iou,
        ceiling (the largest IoU that so many pixels over the threshold could have), detector (whether the unit is one
        of this concept). All activations of a layer are held at once, ``(n, rows, columns, channels)`` float32.

    Raises:
        ValueError: no masks, masks of another shape, no pixel marked, or a number out of range. ModelError: a layer has
        no map.
    """
    check_integer("n_controls", n_controls, 0)
    if not (0 < quantile < 1 and 0 <= least < 1):
        raise ValueError(f"quantile={quantile!r}, least={least!r}; expected fractions, quantile over 0.")
    ds, known = _known(ds, concepts)
    network, images, _ = prepare(model, ds.images, 0, batch_size)
    paths = list(dict.fromkeys([network.cam_layer(layer) for layer in layers] or default_layers(network)))
    masks = np.stack(list(known.values()), axis=-1)
    tables = []
    for basis, draw, path, found in _bases(network, model, images, paths, n_controls, batch_size, seed):
        thresholds = top_quantile(found.reshape(-1, found.shape[-1]), quantile)
        shared, over, marked = _pixels(found, thresholds, masks, network.place(path))
        iou = shared / np.maximum(over[:, None] + marked - shared, 1)
        ceiling = np.minimum(over[:, None], marked) / np.maximum(np.maximum(over[:, None], marked), 1)
        detector = (iou > least) & (np.arange(len(known)) == iou.argmax(axis=1)[:, None])
        facts = {"basis": basis, "draw": draw, "layer": path, "unit": np.repeat(np.arange(len(iou)), len(known))}
        facts |= {"concept": list(known) * len(iou), "threshold": np.repeat(thresholds, len(known))}
        tables.append(
            pd.DataFrame(facts | {"iou": iou.ravel(), "ceiling": ceiling.ravel(), "detector": detector.ravel()})
        )
    return pd.concat(tables, ignore_index=True)


def detectors(table: pd.DataFrame) -> pd.DataFrame:
    """How many units of each layer detect each concept, of the table of `dissect`: layer, concept, basis, mean, low,
    high (of the draws, least and most), units, best (the largest IoU), ceiling (the largest possible one)."""
    by = ["layer", "concept", "basis"]
    counts = (
        table.groupby([*by, "draw"], sort=False)["detector"].sum().groupby(by, sort=False).agg(["mean", "min", "max"])
    )
    rest = table.groupby(by, sort=False).agg(units=("unit", "nunique"), best=("iou", "max"), ceiling=("ceiling", "max"))
    return counts.rename(columns={"min": "low", "max": "high"}).join(rest).reset_index()


def top_quantile(values: np.ndarray, quantile: float) -> np.ndarray:
    """Of each column of ``values`` ``(n, units)`` the least entry that no more than ``quantile`` of the n exceed."""
    at = len(values) - 1 - int(np.floor(quantile * len(values) + 1e-9))
    return np.partition(values, at, axis=0)[at]


def _known(
    ds: ImageDataset, concepts: Mapping[str, np.ndarray] | None
) -> tuple[ImageDataset, Mapping[str, np.ndarray]]:
    """The images and their masks by concept."""
    if concepts is None and ds.label_masks is not None:
        ds = ds.select((np.asarray(ds.label_evidence) != "unknown").all(axis=1))
        assert ds.label_masks is not None
        concepts = {name: ds.label_masks[:, k] for k, name in enumerate(ds.class_names)}
    elif concepts is None and ds.masks is not None:
        ds = ds.select(np.asarray(ds.evidence) != "unknown")
        concepts = {"evidence": np.asarray(ds.masks)}
    if not concepts:
        raise ValueError("there are no masks of concepts: give concepts={name: masks}, or a data set with masks.")
    for name, found in concepts.items():
        if np.shape(found) != ds.pixels.shape[:3] or np.asarray(found).dtype != bool:
            raise ValueError(f"concepts[{name!r}] is {np.shape(found)}; expected bool {ds.pixels.shape[:3]}.")
        if not np.any(found):
            raise ValueError(f"concepts[{name!r}] marks no pixel of any image.")
    return ds, concepts


def _bases(
    network: Network,
    model: keras.Model,
    images: np.ndarray,
    paths: Sequence[str],
    n_controls: int,
    batch_size: int,
    seed: int,
) -> Iterator[tuple[str, int, str, np.ndarray]]:
    """Basis, draw, layer and activations ``(n, rows, columns, channels)``."""
    for path in paths:
        found = activation(network, path, images, batch_size)
        yield UNITS, 0, path, found
        rng = np.random.default_rng(seed)
        for draw in range(n_controls):
            yield ROTATED, draw, path, found @ _rotation(found.shape[-1], rng)
    for draw in range(n_controls):
        with forgotten(model, seed + draw, images.shape[1:3]):
            fresh = [activation(network, path, images, batch_size) for path in paths]
        yield from ((RANDOM_WEIGHTS, draw, *pair) for pair in zip(paths, fresh, strict=True))


def _rotation(n: int, rng: np.random.Generator) -> np.ndarray:
    """An orthogonal matrix, all equally likely (Mezzadri 2007, Notices of the AMS 54), float32."""
    q, r = np.linalg.qr(rng.normal(size=(n, n)))
    return (q * np.sign(np.diag(r))).astype(np.float32)


def _pixels(
    found: np.ndarray, thresholds: np.ndarray, masks: np.ndarray, place: Place
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels over the threshold and in the mask (units, concepts), over it (units), and in the mask (concepts)."""
    n, height, width, n_concepts = masks.shape
    units = found.shape[-1]
    sums = np.zeros((units, n_concepts + 1))  # the last column: over the threshold, anywhere
    for i in batches(n, 1, "comparing"):
        pixels = np.ones((height * width, n_concepts + 1), np.float32)
        pixels[:, :-1] = masks[i].reshape(-1, n_concepts)
        for start in range(0, units, _AT_ONCE):
            block = slice(start, start + _AT_ONCE)
            maps = enlarge(found[i][0, ..., block].transpose(2, 0, 1), height, width, place)
            on = maps.reshape(-1, height * width) > thresholds[block, None]
            sums[block] += on.astype(np.float32) @ pixels  # float32 holds sums of up to 2^24 ones exactly
    return sums[:, :-1], sums[:, -1], masks.sum(axis=(0, 1, 2)).astype(float)
