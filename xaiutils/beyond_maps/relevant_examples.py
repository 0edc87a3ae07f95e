"""Examples of what a channel stands for: the images of a set in which it has the most relevance.

Relevance maximisation (Achtibat et al. 2023, doi:10.1038/s42256-023-00711-8, arXiv:2206.03208): images are ranked by
the relevance of the channel for their class, not by its activation, so they show what the model uses it for. The map
of each is that of concept relevance propagation (`crp`), and its box is what the map reaches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from xaiutils.attribution.relevance.crp import CRP, channel_relevance, check_channels
from xaiutils.backend import keras
from xaiutils.graph.predict import prepare
from xaiutils.graph.targets import Targets
from xaiutils.registry import check_choice, check_integer, check_parameters

OVER_PLACES = ("sum", "max")
_SMOOTHING = 3.2  # pixels: the authors' Gaussian of 19 x 19


@dataclass(frozen=True)
class RelevantExamples:
    """The most relevant images of one channel, the first first: ``positions`` ``(k,)`` in the set, ``relevance``
    float32 ``(k,)``, ``maps`` float32 ``(k, height, width)`` by `crp`, and ``boxes`` ``(k, 4)``, the first row, the row
    after the last, and so the columns."""

    channel: int
    positions: np.ndarray
    relevance: np.ndarray
    maps: np.ndarray
    boxes: np.ndarray

    def crops(self, images: np.ndarray) -> list[np.ndarray]:
        """Each example's box, cut out of the set's ``images``."""
        found = zip(self.positions, self.boxes, strict=True)
        return [images[i][top:bottom, left:right] for i, (top, bottom, left, right) in found]


def relevant_examples(
    model: keras.Model,
    images: np.ndarray,
    channels: Sequence[int],
    targets: Targets = None,
    layer: str = "",
    n_examples: int = 8,
    over_places: str = "sum",
    crop: float = 0.1,
    batch_size: int = 32,
    **rules: Any,
) -> list[RelevantExamples]:
    """The ``n_examples`` images in which each of ``channels`` has the most relevance for the target's logit.

    Args:
        model, images, targets, batch_size: as `xaiutils.explain` takes them; targets None: each image's predicted
            class.
        channels: numbers of channels of ``layer``.
        layer: path of a layer; empty: the last feature map or token grid.
        n_examples: of each channel; all images where there are fewer.
        over_places: the channel's relevance over the layer's places, its "sum" (the authors' default) or its largest
            value, "max".
        crop: the box holds where the map, smoothed, is over this part of its largest value (the authors': 0.1); the
            whole image where it is nowhere positive.
        rules: other parameters of `crp`: rule, first, epsilon, gamma, alpha, bias, gates.

    Relevance is not normalised from image to image: sure predictions come first. Raises as `xaiutils.explain` does.
    """
    check_choice("over_places", over_places, OVER_PLACES)
    check_integer("n_examples", n_examples, 1)
    if not 0 <= crop < 1:
        raise ValueError(f"crop={crop!r}; expected a part of the largest value, from 0 to below 1.")
    taken = tuple(p for p in CRP.parameters if p.name not in ("channels", "reduction"))
    own = check_parameters("relevant_examples", taken, {"layer": layer, **rules})
    network, prepared, wanted = prepare(model, images, targets, batch_size)
    path = network.cam_layer(own.pop("layer"))
    check_channels(network, path, channels)
    relevance = channel_relevance(network, prepared, wanted, batch_size, path, over_places, **own)
    found = []
    for channel in channels:
        asked = {**own, "layer": path, "channels": [channel], "reduction": "sum"}
        positions = np.argsort(-relevance[:, channel], kind="stable")[:n_examples]
        maps = CRP.maps(network, prepared[positions], wanted[positions], batch_size, **asked)
        boxes = np.stack([_box(map_, crop) for map_ in maps])
        found.append(RelevantExamples(int(channel), positions, relevance[positions, channel], maps, boxes))
    return found


def _box(map_: np.ndarray, crop: float) -> np.ndarray:
    smooth = ndimage.gaussian_filter(map_, _SMOOTHING)
    if smooth.max() <= 0:
        return np.array([0, map_.shape[0], 0, map_.shape[1]])
    rows, columns = np.nonzero(smooth > crop * smooth.max())
    return np.array([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1])
