"""What a view shows, computed: images, probabilities, maps, and the numbers read from them.

Every piece is kept, by all that it depends on, so that a view that differs in its drawing alone computes nothing.
"""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from xaiutils.attribution import METHODS, explain
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation import METRICS
from xaiutils.evaluation.map_similarity import spearman
from xaiutils.evaluation.metrics.insertion_deletion import perturbation_curve
from xaiutils.evaluation.metrics.metric import Case
from xaiutils.graph.network import Network
from xaiutils.graph.predict import cam_grid, predict, prepare
from xaiutils.map_reading import read_maps
from xaiutils.registry import check_parameters, suggest
from xaiutils.transforms import TRANSFORMS
from xaiutils.widgets.view import Box, MethodChoice, View, check_box

_KEPT_BYTES = 256e6
DELETION_STEPS = 20


@dataclass(frozen=True)
class Map:
    """One computed map: values ``(height, width)`` float32 as they were read, or None and the ``error`` in words.

    ``signed``: whether they have a sign; ``reading``: how they were read, empty where the method gives no sign.
    """

    choice: MethodChoice
    signed: bool
    values: np.ndarray | None
    error: str = ""
    seconds: float = 0.0  # that its computing took
    key: Hashable = field(default=None, repr=False)
    reading: str = ""


@dataclass(frozen=True)
class Scene:
    """All that a view shows. Images are float32 ``(height, width, 3)`` in [0, 255], probabilities ``(classes,)``."""

    view: View
    image_id: str
    label: int
    class_names: tuple[str, ...]
    original: np.ndarray
    image: np.ndarray  # the transformed one
    mask: np.ndarray | None
    before: np.ndarray  # probabilities of the original
    probabilities: np.ndarray  # of the transformed image
    target: int
    maps: tuple[Map, ...]
    grid: tuple[int, int] | None  # rows and columns of the fields that the model sees
    numbers: pd.DataFrame  # see `measure`

    @property
    def explains(self) -> str:
        """The class that is explained. Under a transform the model may answer otherwise than for the original, whose
        predicted class it is unless one was chosen."""
        name = self.class_names[self.target]
        if self.view.target >= 0 or self.view.transform == "original":
            return name
        return f"{name}, predicted for the original"


@dataclass(frozen=True)
class Deletion:
    """The target's probability while pixels are replaced, the highest first: `curves` ``(steps + 1,)`` by name."""

    fractions: np.ndarray
    curves: dict[str, np.ndarray]

    @property
    def areas(self) -> dict[str, float]:
        """Area under each curve; lower means that the map names what the score rests on."""
        return {
            name: float(np.trapezoid(curve.astype(np.float64), self.fractions)) for name, curve in self.curves.items()
        }


class _Kept:
    """The newest results, up to a number of bytes."""

    def __init__(self, limit: float = _KEPT_BYTES):
        self._limit, self._size = limit, 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def find(self, key: Hashable) -> Any | None:
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        found = self.find(key)
        if found is not None:
            return found
        made = make()  # not under the lock: it may take minutes
        size = made.nbytes if isinstance(made, np.ndarray) else getattr(getattr(made, "values", None), "nbytes", 100)
        with self._lock:
            if key not in self._entries:
                self._entries[key] = made, size
                self._size += size
            while self._size > self._limit and len(self._entries) > 1:
                self._size -= self._entries.popitem(last=False)[1][1]
        return made


class Studio:
    """Computes views of some models and data sets, and remembers what it computed.

    Args:
        models: Keras classifiers by name.
        datasets: by name; every model must know their classes and take their images.
        batch_size: images in one pass.
    """

    def __init__(self, models: Mapping[str, keras.Model], datasets: Mapping[str, ImageDataset], batch_size: int = 32):
        if not models or not datasets:
            raise ValueError("give at least one model and one data set.")
        self.models, self.datasets, self.batch_size = dict(models), dict(datasets), batch_size
        self._kept = _Kept()

    def dataset(self, view: View) -> ImageDataset:
        """The view's data set. Raises ValueError for an unknown name."""
        if view.dataset == "":
            return next(iter(self.datasets.values()))
        if view.dataset not in self.datasets:
            raise ValueError(f"no data set {view.dataset!r}; {suggest(view.dataset, list(self.datasets))}")
        return self.datasets[view.dataset]

    def check(self, view: View) -> tuple[View, ImageDataset, keras.Model]:
        """The view with all its parameters, its data set and its model.

        Raises UnknownNameError, TypeError or ValueError for a view that cannot be.
        """
        view = view.check()
        ds, model = self.dataset(view), self.model(view)
        if not 0 <= view.image < len(ds):
            raise ValueError(f"image {view.image}: the data set has the images 0 to {len(ds) - 1}.")
        if not -1 <= view.target < len(ds.class_names):
            raise ValueError(f"target {view.target}: the classes are 0 to {len(ds.class_names) - 1}, or -1.")
        if view.region is not None:
            view = replace(view, region=check_box(view.region, *ds.pixels.shape[1:3]))
        return view, ds, model

    def model(self, view: View) -> keras.Model:
        """The view's model. Raises ValueError for an unknown name, or one that has other classes than the data."""
        if view.model not in self.models:
            raise ValueError(f"no model {view.model!r}; {suggest(view.model, list(self.models))}")
        model, names = self.models[view.model], self.dataset(view).class_names
        if Network.of(model).n_classes != len(names):
            raise ValueError(
                f"{view.model} knows {Network.of(model).n_classes} classes, the data set has {len(names)}: "
                f"{', '.join(names[:6])}. Choose another model or data set."
            )
        return model

    # Pieces ---------------------------------------------------------------------------------------------------------

    def _keys(self, view: View) -> tuple[Hashable, Hashable]:
        """Of the transformed image, and of what the model makes of it."""
        transform = TRANSFORMS[view.transform]
        made_by = view.model if transform.needs_model else ""
        parameters = _text(view.transform_parameters)
        image = (view.dataset, view.image, view.transform, parameters, view.seed, made_by)
        return image, (view.model, *image)

    def _map_key(self, view: View, choice: MethodChoice, target: int) -> Hashable:
        return ("map", *self._keys(view)[1], target, choice.method, choice.library, _text(choice.parameters))

    def is_computed(self, view: View) -> bool:
        """Whether `scene` would run no model: all pieces of a valid view are there."""
        try:
            view = view.check()
        except (KeyError, TypeError, ValueError):
            return False
        before = self._kept.find(_before_key(view))
        if before is None or ("after", self._keys(view)[1]) not in self._kept:
            return False
        target = self._target(view, before)
        return all(self._map_key(view, choice, target) in self._kept for choice in view.maps)

    def _target(self, view: View, before: np.ndarray) -> int:
        return int(before.argmax()) if view.target < 0 else view.target

    def original(self, view: View) -> np.ndarray:
        """float32 ``(1, height, width, 3)``."""
        return self.dataset(view).pixels[view.image : view.image + 1].astype(np.float32)

    def _image(self, view: View) -> np.ndarray:
        def make():
            # An attack turns the model from its own answer, whichever class is explained.
            return TRANSFORMS[view.transform].apply(
                self.original(view),
                seed=view.seed,
                model=self.model(view),
                batch_size=self.batch_size,
                **view.transform_parameters,
            )

        return self._kept.get(("image", self._keys(view)[0]), make)

    def _probabilities(self, view: View, images: Callable[[View], np.ndarray], key: Hashable) -> np.ndarray:
        def make() -> np.ndarray:
            found = predict(self.model(view), images(view), probabilities=True)[0]
            if not np.isfinite(found).all():
                what = f"image {view.image} ({view.transform})"
                raise ValueError(f"{view.model} answers {what} with values that are NaN or infinite.")
            return found

        return self._kept.get(key, make)

    def _map(self, view: View, choice: MethodChoice, target: int) -> Map:
        key = self._map_key(view, choice, target)

        def make() -> Map:
            start = time.monotonic()
            image, model = self._image(view), self.model(view)
            found = explain(model, image, target, choice.method, choice.library, self.batch_size, **choice.parameters)
            if wrong := int((~np.isfinite(found)).sum()):
                raise ValueError(f"{wrong} of the map's {found.size} values are no numbers (NaN or infinite).")
            signed = METHODS[choice.method].is_signed(choice.parameters)
            return Map(choice, signed, found[0], seconds=time.monotonic() - start, key=key)

        return self._kept.get(key, make)

    # The whole ------------------------------------------------------------------------------------------------------

    def scene(self, view: View, strict: bool = True) -> Scene:
        """Compute a view.

        Raises what `check` and `xaiutils.explain` raise. With ``strict=False`` a method that fails leaves its error, in
        words, in its `Map`, beside those that do not.
        """
        view, ds, model = self.check(view)
        transform = TRANSFORMS[view.transform]
        original = self.original(view)
        before = self._probabilities(view, self.original, _before_key(view))
        target = self._target(view, before)
        image = self._image(view)
        after = self._probabilities(view, self._image, ("after", self._keys(view)[1]))
        mask = None
        if ds.masks is not None:
            one = np.asarray(ds.masks[view.image : view.image + 1])
            mask = transform.apply_to_masks(one, **view.transform_parameters)[0]
        maps = []
        for choice in view.maps:
            try:
                maps.append(_read(self._map(view, choice, target), view.reading_of(choice)))
            except Exception as error:
                if strict:
                    raise
                signed = METHODS[choice.method].is_signed(choice.parameters)
                maps.append(Map(choice, signed, None, str(error) or type(error).__name__))
        maps = tuple(maps)
        return Scene(
            view,
            ds.ids[view.image],
            int(ds.labels[view.image]),
            ds.class_names,
            original[0],
            image[0],
            mask,
            before,
            after,
            target,
            maps,
            _grid_of(model) if view.show_grid else None,
            measure(maps, mask, view, self.correlation),
        )

    def correlation(self, a: Map, b: Map) -> float:
        """Spearman's rank correlation of two maps."""
        key = ("correlation", frozenset((a.key, b.key)))
        return self._kept.get(key, lambda: float(spearman(a.values[None], b.values[None])[0]))

    def compute_curve(self, scene: Scene) -> bool:
        """Compute one of the curves of `deletion` that is not there yet; False where all are."""
        for values, key in self._rankings(scene).values():
            if key not in self._kept:
                self._curve(scene, values, key)
                return True
        return False

    def deletion(self, scene: Scene) -> Deletion:
        """Deletion curves of the maps of a scene, and of pixels in a random order, which know nothing.

        `xaiutils.evaluation.metrics.insertion_deletion.perturbation_curve` in 20 steps to the image's mean colour.
        """
        found = {name: self._curve(scene, *ranking) for name, ranking in self._rankings(scene).items()}
        fractions = next(iter(found.values()))[0]
        return Deletion(fractions, {name: curve for name, (_, curve) in found.items()})

    def _rankings(self, scene: Scene) -> dict[str, tuple[np.ndarray, Hashable]]:
        """What orders the pixels, by the curve's name, and the key of that curve."""
        known = {
            f"map {i}: {found.choice.title}": (found.values, ("curve", found.key))
            for i, found in enumerate(scene.maps, 1)
            if found.values is not None
        }
        noise = np.random.default_rng(0).random(scene.image.shape[:2], np.float32)
        return {**known, "random order": (noise, ("curve", *self._keys(scene.view)[1], scene.target))}

    def _curve(self, scene: Scene, values: np.ndarray, key: Hashable) -> np.ndarray:
        """Fractions and probabilities, ``(2, steps + 1)``."""

        def make() -> np.ndarray:
            model = self.model(scene.view)
            _, images, targets = prepare(model, scene.image[None], scene.target, self.batch_size)
            case = Case(values[None], None, model, images, targets, self.batch_size)
            fractions, curve = perturbation_curve(case, n_steps=DELETION_STEPS, fill="mean", insert=False)
            return np.stack([fractions, curve[0]])

        return self._kept.get(key, make)


def _read(raw: Map, reading: str) -> Map:
    """The map as it is drawn and measured."""
    if not raw.signed:
        return raw
    values = read_maps(raw.values, reading)
    return replace(raw, values=values, signed=reading == "signed", key=(raw.key, reading), reading=reading)


def _before_key(view: View) -> Hashable:
    return "before", view.model, view.dataset, view.image


def _grid_of(model: keras.Model) -> tuple[int, int] | None:
    try:
        return cam_grid(model)
    except ValueError:  # a model without a field that could be drawn
        return None


def _text(parameters: Mapping[str, Any]) -> str:
    return json.dumps(parameters, sort_keys=True, default=_array_text)


def _array_text(value: Any) -> Any:
    return [str(value.dtype), value.shape, hash(value.tobytes())]


def box_mask(box: Box, shape: tuple[int, int]) -> np.ndarray:
    """Bool ``shape``, True inside left, top, right, bottom."""
    left, top, right, bottom = box
    inside = np.zeros(shape, bool)
    inside[top:bottom, left:right] = True
    return inside


def measure(
    maps: tuple[Map, ...],
    mask: np.ndarray | None,
    view: View,
    correlation: Callable[[Map, Map], float],
) -> pd.DataFrame:
    """What the maps, as they were read, have in the evidence and in the region: a row for each map and quantity.

    Columns: map (1, 2, 3), method, quantity, value, chance (what a map without knowledge is expected to have, NaN where
    that is not known). Quantities: with a mask that is not empty, the metrics iou (at the view's threshold),
    pointing_game and relevance_mass; with a region, region_positive, the part of the map's positive sum that falls into
    it, and region_negative, that of the negative sum; correlation_k, Spearman's with map k.
    """
    rows: list[tuple[int, str, str, float, float]] = []
    for i, found in enumerate(maps, 1):
        if found.values is None:
            continue
        values = found.values[None]

        def add(quantity: str, value: float, chance: float = np.nan, i: int = i, found: Map = found) -> None:
            rows.append((i, found.choice.method, quantity, float(value), float(chance)))

        if mask is not None and mask.any():
            for name, given in (("iou", view.threshold_parameters), ("pointing_game", {}), ("relevance_mass", {})):
                metric = METRICS[name]
                parameters = check_parameters(f"metric {name!r}", metric.parameters, given)
                chance = np.nan if metric.chance is None else metric.chance(mask[None], **parameters)[0]
                add(name, metric.compute(Case(values, mask[None]), **parameters)[0], chance)
        if view.region is not None:
            inside = box_mask(view.region, found.values.shape)
            share = METRICS["relevance_mass"].compute
            if inside.any():
                add("region_positive", share(Case(values, inside[None]))[0], inside.mean())
                if found.signed:
                    add("region_negative", share(Case(-values, inside[None]))[0], inside.mean())
        for k, other in enumerate(maps, 1):
            if k != i and other.values is not None:
                add(f"correlation_{k}", correlation(found, other))
    return pd.DataFrame(rows, columns=["map", "method", "quantity", "value", "chance"])
