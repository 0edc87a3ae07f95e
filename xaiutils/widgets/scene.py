"""What a view shows, as data: images, probabilities, maps, and the numbers read from them."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from xaiutils.datasets import ImageDataset
from xaiutils.widgets.view_settings import MethodChoice, View


def truths(ds: ImageDataset) -> list[str]:
    """What the data say of each image, for titles: the measured value where there is one, else its class or labels."""
    if ds.values is None:
        return ds.label_texts()
    return [f"{ds.value_name} {value:.4g}".strip() for value in ds.values]


@dataclass(frozen=True)
class Answer:
    """What is explained of a model: ``target``, the position of the class, ``name``, what it is called, and ``text``,
    what the model says of it on the image that is shown, in words; ``model``: its name. ``mask``: the known evidence of
    that class, bool ``(height, width)``, or None; ``grid``: rows and columns of the fields that the model sees, where
    they are wanted."""

    model: str
    target: int
    name: str
    text: str
    mask: np.ndarray | None = None
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class ComputedMap:
    """A map as it was read, float32 ``(height, width)``, or None and the ``error`` message.

    ``signed``: whether its values have a sign; ``reading``: how they were read, empty where the method gives no sign;
    ``seconds`` that computing it took; ``key``: what it depends on; ``answer``: whose map it is.
    """

    choice: MethodChoice
    answer: Answer
    signed: bool
    values: np.ndarray | None
    error: str = ""
    seconds: float = 0.0
    key: Hashable = field(default=None, repr=False)
    reading: str = ""

    @property
    def known_values(self) -> np.ndarray:
        """The values. Raises ValueError with the error of a map that has none."""
        if self.values is None:
            raise ValueError(self.error)
        return self.values


@dataclass(frozen=True)
class Scene:
    """All that a view shows. Images are float32 ``(height, width, C)`` in [0, 255], probabilities ``(classes,)``; of a
    model that returns a score in its own units (``is_score``) they are that score ``(1,)``, and ``class_names`` its
    name. ``truth`` is what the data say of the image, in words."""

    view: View
    image_id: str
    truth: str
    class_names: tuple[str, ...]
    original: np.ndarray
    image: np.ndarray  # the transformed one
    mask: np.ndarray | None
    before: np.ndarray  # probabilities of the original
    probabilities: np.ndarray  # of the transformed image
    target: int
    maps: tuple[ComputedMap, ...]
    grid: tuple[int, int] | None  # rows and columns of the fields that the model sees
    numbers: pd.DataFrame  # see `xaiutils.widgets.numbers_table.measure`
    key: tuple[Hashable, ...] = field(repr=False)  # of the models, and of the transformed image
    is_score: bool = False
    mm_along: float | None = None  # the width of a pixel; None where it is not known

    @property
    def explains(self) -> str:
        """The class that is explained. Under a transform the model may answer otherwise than for the original, whose
        predicted class it is unless one was chosen."""
        name = self.class_names[self.target]
        if self.is_score or self.view.target >= 0 or self.view.transform == "original":
            return name
        return f"{name}, predicted for the original"

    @property
    def answer(self) -> str:
        """What the model says of the explained class, for a title."""
        return answer_text(self.probabilities[self.target], self.is_score)

    def own(self, found: ComputedMap) -> str:
        """The model and the class of one of the maps, where they are not those of the view: " (vit, malignant)"."""
        own = [found.answer.model] if found.answer.model != self.view.model else []
        own += [found.answer.name] if found.answer.target != self.target else []
        return f" ({', '.join(own)})" if own else ""


def answer_text(value: float, is_score: bool) -> str:
    """A model's score or probability in words."""
    return f"{value:.4g}" if is_score else f"p = {value:.2f}"


RANDOM_ORDER = 0  # the number of the curve of pixels in a random order, an uninformed control


@dataclass(frozen=True)
class DeletionCurves:
    """The target's probability while pixels are replaced, the highest first.

    ``curves``: float64 ``(steps + 1,)`` by the map's number, from 1, and `RANDOM_ORDER`; ``fractions`` of the pixels
    that are replaced at each step.
    """

    fractions: np.ndarray
    curves: dict[int, np.ndarray]

    @property
    def areas(self) -> dict[int, float]:
        """Area under each curve; lower means that the map names what the score rests on."""
        return {k: float(np.trapezoid(curve, self.fractions)) for k, curve in self.curves.items()}
