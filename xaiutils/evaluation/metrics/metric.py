"""What a metric is given, a `Case`, and what it declares, a `Metric`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xaiutils.attribution.baselines import fill_images
from xaiutils.backend import keras
from xaiutils.evaluation.metrics.separation import fails_on, with_warning
from xaiutils.graph.network import Network
from xaiutils.graph.passes import class_scores, logits, masked_scores
from xaiutils.registry import Parameter


def _nothing() -> np.ndarray:
    return np.empty(0)


def _cannot_explain(images: np.ndarray, targets: np.ndarray | None = None) -> np.ndarray:
    raise TypeError("this case has no explain: the method that made its maps is not known.")


@dataclass(frozen=True)
class Case:
    """The maps that are scored, and what is known of their images; a metric finds in it what it ``needs``.

    ``maps``: float32 ``(n, height, width)``, read as the caller of `evaluate` asks (`xaiutils.map_reading`).
    ``masks``: bool of the same shape. ``model``: the classifier, ``images``: float32 ``(n, height, width, channels)``
    in [0, 255], and ``targets``: int32 ``(n,)``, the classes that were explained. ``explain``: the method, read alike:
    it returns the maps of changed images, as many, for the same targets or for others. ``batch_size``: images in one
    pass. What no metric of a case needs may be left out. ``known`` keeps what does not depend on the maps, and which
    several metrics and the maps of several methods ask for: logits of the images, their fills, and logits of these. A
    case of other images or another model has a dict of its own.
    """

    maps: np.ndarray
    masks: np.ndarray = field(default_factory=_nothing)
    model: keras.Model | None = None
    images: np.ndarray = field(default_factory=_nothing)
    targets: np.ndarray = field(default_factory=_nothing)
    batch_size: int = 32
    explain: Callable[..., np.ndarray] = _cannot_explain
    known: dict[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> Network:
        """The model as its graph."""
        return Network.of(self.model)

    def scores(self, score: str) -> np.ndarray:
        """The target's ``score`` ("probability" or "logit") of each image, float64 ``(n,)``; of a model that returns a
        score, that."""
        found = class_scores(self.network, self.logits(), self.targets, self._score(score))
        return found.numpy().astype(np.float64)

    def logits(self) -> np.ndarray:
        """Of the images, float32 ``(n, classes)``."""
        return self._once("logits", lambda: logits(self.network, self.images, self.batch_size))

    def fills(self, fill: str) -> np.ndarray:
        """What hidden parts of the images show (`xaiutils.attribution.baselines.FILLS`), of or broadcastable to the
        images' shape."""
        return self._once(f"fill {fill}", lambda: fill_images(self.images, fill))

    def filled_scores(self, fill: str, score: str) -> np.ndarray:
        """The target's ``score`` of images of which nothing but ``fill`` is left, float64 ``(n,)``."""

        def of_fills() -> np.ndarray:
            images = np.broadcast_to(self.fills(fill), self.images.shape).astype(np.float32)
            return logits(self.network, images, self.batch_size)

        filled = self._once(f"logits of {fill}", of_fills)
        return class_scores(self.network, filled, self.targets, self._score(score)).numpy().astype(np.float64)

    def _once(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        if name not in self.known:
            self.known[name] = compute()
        return self.known[name]

    def masked_scores(
        self, members: np.ndarray, kept: Callable[[slice], np.ndarray], fill: str, score: str, title: str
    ) -> np.ndarray:
        """The target's ``score`` of images of which parts show ``fill`` (`xaiutils.attribution.baselines.FILLS`),
        float64 ``(len(members),)``.

        ``members`` numbers the image of each, and ``kept`` gives for a slice of them how much of each pixel stays,
        float32 ``(b, height, width)`` in [0, 1]. ``title`` is that of the progress bar.
        """
        how = self.batch_size, self._score(score), title
        found = masked_scores(self.network, self.images, self.fills(fill), self.targets, members, kept, *how)
        return found.astype(np.float64)

    def _score(self, asked: str) -> str:
        return "logit" if self.network.activation == "score" else asked


@dataclass(frozen=True)
class Metric:
    """One score of a map, the better the higher, or the lower.

    ``needs`` is "maps" (nothing else), "masks", "model" (with images and targets) or "method" (these, and ``explain``).
    ``compute(case, **parameters)`` returns one float for each image, NaN where the metric has no meaning.
    ``chance(masks, **parameters)`` is the expected value of an uninformed map, where it is known. ``reading`` is for a
    metric that is defined for one reading of maps alone: it is then always given that one. ``of_probability``: it is a
    fraction of a probability, and has no meaning for a model whose output is a score in its own units.
    """

    name: str
    title: str
    needs: str
    higher_is_better: bool
    paper: str
    compute: Callable[..., np.ndarray]
    parameters: tuple[Parameter, ...] = ()
    chance: Callable[..., np.ndarray] | None = None
    reading: str = ""
    of_probability: bool = False

    @property
    def direction(self) -> str:
        """In words, for tables and figures; with a warning where the metric is known not to tell the evidence from maps
        that only look like it (`xaiutils.evaluation.metrics.separation`)."""
        better = "higher is better" if self.higher_is_better else "lower is better"
        return f"{better}; does not separate" if fails_on(self.name) else better

    @property
    def label(self) -> str:
        """The title where no direction stands beside it, with the same warning."""
        return with_warning(self.title, self.name)
