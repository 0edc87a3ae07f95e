"""Does a map find each finding as well as a radiologist? The protocol of CheXlocalize (Saporta et al. 2022, Nature
Machine Intelligence 4), for any set whose images have several labels with a mask for each.

Each label is explained on its positive images; a map becomes a segmentation by a threshold; mean IoU and hit rate stand
beside those of a second reader. `xaiutils.evaluation.studies.chexlocalize_tables` has the intervals and regressions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from xaiutils.attribution import explain_all
from xaiutils.attribution.explain import own_readings
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.datasets.loaders.chexlocalize import POINTS
from xaiutils.evaluation.metrics.localisation import hit_rate
from xaiutils.evaluation.score_tables import NO_MODEL, RANDOM, TRAINED, is_control
from xaiutils.evaluation.studies.random_weights import random_weight_maps
from xaiutils.evaluation.thresholds import binary_map, tune_level
from xaiutils.models.wrapped import facts_of
from xaiutils.registry import check_choice
from xaiutils.statistics.summaries import UNIT
from xaiutils.text import counted

SLICES = ("true_positive", "positive", "full")
LEVELS = tuple(k / 10 for k in range(2, 9))  # 0.2 to 0.8: those that their code tries
CUTOFFS = tuple(k / 10 for k in range(9))  # of the probability, 0 to 0.8
HUMAN = "human"  # the method of the rows of a second reader
_EIGHT = np.ones((3, 3), bool)

Maps = Mapping[str, Mapping[str, np.ndarray]]  # by label and method


def finding_cases(ds: ImageDataset, label: str, on: str = "true_positive") -> ImageDataset:
    """The images on which ``label`` is judged, as a set of two classes ("no LABEL", "LABEL") with its masks.

    ``on`` is one of `SLICES`: "true_positive" and "positive" take those whose mask is known and marks something,
    "full" those without the finding too (its absence known). A positive image that nobody marked, or whose mask was
    lost in resizing, is in none; a note counts them. Raises ValueError where the set has no masks of labels.
    """
    return masked_cases(ds, label, on)[0]


def masked_cases(ds: ImageDataset, label: str, on: str = "true_positive") -> tuple[ImageDataset, np.ndarray]:
    """`finding_cases`, and their masks bool ``(n, height, width)``."""
    check_choice("on", on, SLICES)
    cases = ds.of_label(label) if ds.multi_label else ds
    if not ds.multi_label or cases.masks is None:
        raise ValueError("the protocol needs a set with several labels and a mask for each (label_masks).")
    positive, marked = cases.labels == 1, (cases.evidence == "known") & cases.masks.any(axis=(1, 2))
    kept = np.flatnonzero(marked | (cases.evidence == "empty") if on == "full" else marked & positive)
    unmarked = int(positive.sum() - positive[kept].sum())
    note = (
        [f"{counted(unmarked, 'image')} with {label!r} left out: no mask, or none left after resizing."]
        if unmarked
        else []
    )
    return replace(cases.select(kept), notes=[*cases.notes, *note]), cases.masks[kept]


def label_wise_maps(
    model: keras.Model,
    ds: ImageDataset,
    methods: Iterable[str],
    labels: Sequence[str] | None = None,
    on: str = "true_positive",
    weights: str = TRAINED,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> dict[str, dict[str, np.ndarray]]:
    """Maps of each label on its `finding_cases`: ``{label: {method: float32 (n, height, width)}}``, each method's by
    the reading that it declares.

    ``labels``: some of those of ``ds`` (default: all). A wrapped model that knows its class names has an output of each
    name, and may have more; any other answers with the labels of ``ds`` in their order. ``weights``: "random" for the
    model with random weights (`random_weight_maps`). ``options`` are ``batch_size`` and, of random weights, ``seed``.
    A label without any case has maps ``(0, height, width)``. Raises ValueError where the model's outputs are not the
    labels.
    """
    labels = list(ds.class_names if labels is None else labels)
    outputs = _outputs(model, ds, labels)
    check_choice("weights", weights, (TRAINED, RANDOM))
    methods = list(methods)
    found: dict[str, dict[str, np.ndarray]] = {}
    for label in labels:
        cases = finding_cases(ds, label, on)
        if not len(cases):
            found[label] = {name: np.zeros(cases.pixels.shape[:3], np.float32) for name in methods}
            continue
        how = {"parameters": own_readings(methods, parameters), **options}
        explain = random_weight_maps if weights == RANDOM else partial(explain_all, inputs=cases.inputs)
        targets = np.full(len(cases), outputs.index(label))
        found[label] = explain(model, cases.images, methods=methods, targets=targets, **how)
    return found


def _outputs(model: keras.Model, ds: ImageDataset, labels: Sequence[str]) -> tuple[str, ...]:
    """The names of the model's outputs; ValueError where they are not the labels."""
    facts = facts_of(model)
    names = ds.class_names if facts is None or facts.class_names is None else facts.class_names
    if model.output_shape[-1] != len(names) or not set(labels) <= set(names):
        raise ValueError(
            f"the model answers with {model.output_shape[-1]} labels ({', '.join(names)}) and the data have "
            f"{', '.join(labels)}: give the model's by xaiutils.wrap(model, class_names=[...])."
        )
    return names


# From maps to segmentations ---------------------------------------------------------------------------------------


def segment(attribution: np.ndarray, level: float | None = None) -> np.ndarray:
    """The pixels of one map ``(height, width)`` that count as the finding, bool.

    ``level``: those over so much of the way from the smallest to the largest value, as tuned by `tune_levels`. None,
    the default of the authors' code: those over Otsu's threshold of the map in 256 greys, with holes filled and single
    pixels dropped. A constant map finds nothing.
    """
    if level is not None:
        return binary_map(attribution, "fixed", level)
    low, high = attribution.min(), attribution.max()
    if low == high:
        return np.zeros(attribution.shape, bool)
    greys = (255 * ((attribution - low) / (high - low))).astype(np.uint8)
    found = ndimage.binary_fill_holes(binary_map(greys, "otsu"))
    pieces, _ = ndimage.label(found, _EIGHT)
    return found & (np.bincount(pieces.ravel())[pieces] > 1)


def tune_levels(ds: ImageDataset, maps: Maps) -> dict[str, dict[str, float]]:
    """The level of `LEVELS` with the highest mean IoU, by label and method, from maps of validation images ``ds``.

    The lowest of equals. A label that no validation image has is left out: `localisation_scores` takes Otsu's
    threshold for it.
    """
    levels: dict[str, dict[str, float]] = {}
    for label, by_method in maps.items():
        _, masks = masked_cases(ds, label)
        if len(masks):
            levels[label] = {method: tune_level(found, masks, LEVELS) for method, found in by_method.items()}
    return levels


def tune_cutoffs(ds: ImageDataset, maps: Maps, probabilities: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """The cutoff of the probability with the highest mean IoU on the full slice of validation images ``ds``, by label
    and method: under it, a map's segmentation is empty.

    ``maps`` and ``probabilities`` ``{label: (n,)}`` are of ``finding_cases(ds, label, "full")``; segmentations are
    Otsu's, as in the authors' code.
    """
    cutoffs: dict[str, dict[str, float]] = {}
    for label, by_method in maps.items():
        (_, masks), sure = masked_cases(ds, label, "full"), np.asarray(probabilities[label])
        for method, found in by_method.items():
            pieces = np.stack([segment(one) for one in found])
            scores = [np.nanmean(_ious(pieces & (sure > c)[:, None, None], masks, "full")) for c in CUTOFFS]
            # Their code rounds to three digits before it looks for the highest.
            cutoffs.setdefault(label, {})[method] = CUTOFFS[int(np.argmax(np.round(scores, 3)))]
    return cutoffs


# Scores -----------------------------------------------------------------------------------------------------------


def localisation_scores(
    ds: ImageDataset,
    maps: Maps,
    levels: Mapping[str, Mapping[str, float]] | None = None,
    on: str = "true_positive",
    weights: str = TRAINED,
    probabilities: Mapping[str, np.ndarray] | None = None,
    cutoffs: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """IoU and hit of each map: columns method, weights, label, image_id, (patient_id,) metric, value.

    ``maps`` are of ``finding_cases(ds, label, on)``, from `label_wise_maps` or controls of the same shape. ``levels``
    come from `tune_levels`; without one, Otsu's threshold. ``on``: in "true_positive" the IoU is NaN where a map finds
    nothing; in "positive" 0; in "full" images without the finding count 0 where something is found, and NaN where
    nothing is. ``probabilities`` ``{label: (n,)}`` and ``cutoffs`` (`tune_cutoffs`) make segmentations empty where the
    model is not sure of the label. The hit ("hit_rate") is 1 where the map's first maximum lies in the mask; it knows
    neither threshold nor cutoff, and is NaN without a mask.
    """
    if (probabilities is None) != (cutoffs is None):
        raise ValueError("probabilities and cutoffs belong together; give both or neither.")
    tables = []
    for label, by_method in maps.items():
        cases, masks = masked_cases(ds, label, on)
        for method, found in by_method.items():
            if found.shape != masks.shape:
                raise ValueError(
                    f"maps of {label!r}, {method!r} have shape {found.shape}; expected {masks.shape}, a map for "
                    f"each image of finding_cases(ds, {label!r}, {on!r})."
                )
            level = (levels or {}).get(label, {}).get(method)
            pieces = np.array([segment(one, level) for one in found], bool).reshape(found.shape)
            if probabilities is not None and cutoffs is not None:
                pieces &= (np.asarray(probabilities[label]) >= cutoffs[label][method])[:, None, None]
            hits = [hit_rate(one, mask) if mask.any() else np.nan for one, mask in zip(found, masks, strict=True)]
            kind = NO_MODEL if is_control(method) else weights
            tables.append(_rows(cases, method, kind, label, {"iou": _ious(pieces, masks, on), "hit_rate": hits}))
    return pd.concat(tables, ignore_index=True)


def human_scores(
    ds: ImageDataset,
    human: ImageDataset,
    points: Mapping[str, Mapping[str, Sequence[Sequence[float]]]] | None = None,
    labels: Sequence[str] | None = None,
    on: str = "true_positive",
) -> pd.DataFrame:
    """The rows of a second reader, method "human", as `localisation_scores` has them for maps.

    ``human``: images by the same ids with the reader's ``label_masks``; an image that is not in it was left unmarked.
    ``points``: ``{label: {image id: [(x, y), ...]}}``, the most representative points in pixels of these images: a hit
    is one of them in the mask, and an image without a point is a miss. None: those in the metadata of ``human``
    ("points of LABEL", as the loader of CheXlocalize gives them); where there are none, there are no hits. Raises
    ValueError where the sizes differ.
    """
    if human.label_masks is None or human.pixels.shape[1:3] != ds.pixels.shape[1:3]:
        raise ValueError("the human benchmark needs label_masks, of the same image size as the data's.")
    points = _points(human) if points is None else points
    drawn_by_id = dict(zip(human.ids, human.label_masks, strict=True))
    tables = []
    for label in ds.class_names if labels is None else labels:
        (cases, masks), column = masked_cases(ds, label, on), human.class_names.index(label)
        drawn = np.zeros_like(masks)
        for i, image_id in enumerate(cases.ids):
            if image_id in drawn_by_id:
                drawn[i] = drawn_by_id[image_id][column]
        scores: dict[str, Any] = {"iou": _ious(drawn, masks, on)}
        if points:
            said = [points.get(label, {}).get(image_id, ()) for image_id in cases.ids]
            scores["hit_rate"] = [_any_inside(p, m) if m.any() else np.nan for p, m in zip(said, masks, strict=True)]
        tables.append(_rows(cases, HUMAN, NO_MODEL, label, scores))
    return pd.concat(tables, ignore_index=True)


def simulated_reader(ds: ImageDataset, shift: float = 0.03, seed: int = 0) -> ImageDataset:
    """``ds`` as a second reader might have marked it: each mask is moved by a normal draw of ``shift`` times the
    image's side, and grown or shrunk by up to two pixels; the point is the one deepest in what is left. A stand-in
    where there is no second reading; nobody read.
    """
    if ds.label_masks is None:
        raise ValueError("this set has no label_masks that a reader could be simulated from.")
    rng = np.random.default_rng(seed)
    drawn: np.ndarray = np.zeros(ds.label_masks.shape, bool)
    points = np.full(drawn.shape[:2], "", dtype=object)
    for i, k in np.ndindex(*drawn.shape[:2]):
        offset, grown = rng.normal(0, shift * ds.image_size, 2), int(rng.integers(-2, 3))
        if not ds.label_masks[i, k].any():
            continue
        moved = ndimage.shift(ds.label_masks[i, k].astype(np.uint8), np.rint(offset), order=0) > 0
        change = ndimage.binary_dilation if grown > 0 else ndimage.binary_erosion
        changed = change(moved, _EIGHT, abs(grown)) if grown else moved
        drawn[i, k] = changed if changed.any() else moved
        depth = ndimage.distance_transform_edt(np.pad(drawn[i, k], 1))[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        points[i, k] = f"{(x + 0.5) / depth.shape[1]} {(y + 0.5) / depth.shape[0]}" if drawn[i, k].any() else ""
    columns = {f"{POINTS}{label}": points[:, k] for k, label in enumerate(ds.class_names)}
    marked = np.asarray(drawn.any(axis=1))
    return replace(ds, label_masks=drawn, masks=marked, metadata=ds.metadata.assign(**columns))


def _ious(found: np.ndarray, masks: np.ndarray, on: str) -> np.ndarray:
    """IoU of each pair, NaN where the slice leaves it out."""
    union, both = (found | masks).sum(axis=(1, 2)), (found & masks).sum(axis=(1, 2))
    counts = union > 0
    if on == "true_positive":
        counts = found.any(axis=(1, 2)) & masks.any(axis=(1, 2))
    return np.where(counts, both / np.maximum(union, 1), np.nan)


def _rows(cases: ImageDataset, method: str, weights: str, label: str, scores: Mapping[str, Any]) -> pd.DataFrame:
    who = {} if cases.patients is None else {UNIT: cases.patients}
    facts = {"method": method, "weights": weights, "label": label, "image_id": cases.ids, **who}
    tables = [pd.DataFrame({**facts, "metric": name, "value": np.asarray(v, float)}) for name, v in scores.items()]
    return pd.concat(tables, ignore_index=True)


def _points(human: ImageDataset) -> dict[str, dict[str, list[tuple[float, ...]]]]:
    """The points that the metadata hold, in pixels; none where no label has the column."""
    sides = np.array(human.pixels.shape[2:0:-1])
    found: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    for label in human.class_names:
        for image_id, text in zip(human.ids, human.metadata.get(f"{POINTS}{label}", ()), strict=False):
            if isinstance(text, str) and text:
                pairs = [np.array(point.split(), float) * sides for point in text.split(";")]
                found.setdefault(label, {})[image_id] = [tuple(pair) for pair in pairs]
    return found


def _any_inside(points: Sequence[Sequence[float]], mask: np.ndarray) -> float:
    height, width = mask.shape
    inside = (mask[int(y), int(x)] for x, y in points if 0 <= x < width and 0 <= y < height)
    return float(any(inside))
