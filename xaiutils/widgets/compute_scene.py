"""Computing a view. Results are kept by all that they depend on, so that a change of the drawing alone runs no model.

What they depend on is what is in the images and the weights, not their names: a model that was trained further, or
another data set under an old name, is computed again.
"""

import time
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from xaiutils.attribution import METHODS, explain
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.answers import answers, returns_score, suited_methods
from xaiutils.evaluation.evaluate import check_order
from xaiutils.evaluation.map_similarity import spearman
from xaiutils.evaluation.metrics.insertion_deletion import perturbation_curve
from xaiutils.evaluation.metrics.metric import Case
from xaiutils.graph.case_inputs import case_rows, holding
from xaiutils.graph.network import Network
from xaiutils.graph.predict import cam_grid, prepare
from xaiutils.map_reading import read_maps
from xaiutils.models.wrapped import facts_of
from xaiutils.registry import suggest
from xaiutils.transforms import TRANSFORMS
from xaiutils.widgets.numbers_table import measure
from xaiutils.widgets.result_cache import ResultCache, array_checksum, weights_checksum
from xaiutils.widgets.scene import RANDOM_ORDER, Answer, ComputedMap, DeletionCurves, Scene, answer_text, truths
from xaiutils.widgets.scene_request import Request, parameters_text, target_of
from xaiutils.widgets.view_settings import MethodChoice, View, check_box

DELETION_STEPS = 20
_FIRST_METHODS = ("grad_cam", "vanilla_gradients", "occlusion")


class SceneComputer:
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
        self._results = ResultCache()
        self._unsuited: dict[Network, dict[str, str]] = {}
        self._answers: dict[tuple[str, str], tuple[Hashable, ImageDataset, list[np.ndarray]]] = {}

    def dataset(self, view: View) -> ImageDataset:
        """The view's data set. Raises ValueError for an unknown name."""
        if view.dataset == "":
            return next(iter(self.datasets.values()))
        if view.dataset not in self.datasets:
            raise ValueError(f"no data set {view.dataset!r}; {suggest(view.dataset, list(self.datasets))}")
        return self.datasets[view.dataset]

    def model(self, view: View) -> keras.Model:
        """The view's model. Raises ValueError for an unknown name, or one that has other classes than the data."""
        if view.model not in self.models:
            raise ValueError(f"no model {view.model!r}; {suggest(view.model, list(self.models))}")
        model, names = self.models[view.model], self.dataset(view).class_names
        if self.is_score(view.model):
            return model
        if Network.of(model).n_classes != len(names):
            raise ValueError(
                f"{view.model} knows {Network.of(model).n_classes} classes, the data set has {len(names)}: "
                f"{', '.join(names[:6])}. Choose another model or data set."
            )
        check_order(model, names)
        return model

    def is_score(self, model: str) -> bool:
        """Whether a model returns a score in its own units, and no probabilities."""
        return returns_score(self.models[model])

    def unsuited(self, model: str) -> dict[str, str]:
        """Methods that do not suit a model, and why."""
        network = Network.of(self.models[model])
        if network not in self._unsuited:
            self._unsuited[network] = suited_methods(self.models[model], METHODS)[1]
        return self._unsuited[network]

    def class_names(self, view: View) -> tuple[str, ...]:
        """What the outputs of the view's model are called: the data's classes, or the score's name."""
        ds = self.dataset(view)
        if not self.is_score(view.model):
            return ds.class_names
        facts = facts_of(self.models[view.model])
        return (facts.class_names if facts is not None else None) or (ds.value_name or "score",)

    def first_view(self, defaults: Mapping[str, Mapping[str, Any]]) -> View:
        """The first image on the first model, by the first of some methods that suits it; ``defaults``: parameters by
        method's name."""
        model = next(iter(self.models))
        unsuited = self.unsuited(model)
        method = next((name for name in _FIRST_METHODS if name not in unsuited), _FIRST_METHODS[0])
        return View(model, 0, maps=(MethodChoice(method, defaults.get(method, {})),))

    def check(self, view: View) -> View:
        """The view with all its parameters.

        Raises UnknownNameError, TypeError or ValueError for a view that these models and data sets do not have.
        """
        view = view.check()
        ds = self.dataset(view)
        self.model(view)
        if not 0 <= view.image < len(ds):
            raise ValueError(f"image {view.image}: the data set has the images 0 to {len(ds) - 1}.")
        n_classes = len(self.class_names(view))
        if not -1 <= view.target < n_classes:
            raise ValueError(f"target {view.target}: the classes are 0 to {n_classes - 1}, or -1.")
        for choice in view.maps:
            self.model(replace(view, model=choice.model or view.model))
            n_own = len(self.class_names(replace(view, model=choice.model or view.model)))
            if choice.target is not None and choice.target >= n_own:
                raise ValueError(f"target {choice.target} of a map: the classes are 0 to {n_own - 1}, or -1.")
        rows, columns = ds.pixels.shape[1:3]
        region = None if view.region is None else check_box(view.region, rows, columns)
        zoom = None if view.zoom is None else check_box(view.zoom, rows, columns, "zoom")
        return replace(view, region=region, zoom=zoom)

    def _request(self, view: View) -> Request:
        view = self.check(view)
        model, transform = self.model(view), TRANSFORMS[view.transform]
        original = self.dataset(view).pixels[view.image : view.image + 1].astype(np.float32)
        rows = case_rows(model, _rows_at(self.dataset(view), slice(view.image, view.image + 1)), 1)
        model_key, original_key = _model_key(model), (original.shape, array_checksum(original, *rows.values()))
        parameters = parameters_text(view.transform_parameters)
        made_by = model_key if transform.needs_model else None
        image_key = original_key, view.transform, parameters, view.seed, made_by
        return Request(view, model, original, rows, model_key, original_key, image_key)

    def _own(self, request: Request, choice: MethodChoice) -> Request:
        """The same on the model of one of its maps; the image stays, even one that was turned against the view's."""
        if choice.model in ("", request.view.model):
            return request
        model = self.models[choice.model]
        at = request.view.image
        rows = case_rows(model, _rows_at(self.dataset(request.view), slice(at, at + 1)), 1)
        return replace(request, model=model, rows=rows, model_key=_model_key(model))

    def _key(self, request: Request) -> tuple[Hashable, ...]:
        others = (self._own(request, choice).model_key for choice in request.view.maps)
        return request.model_key, request.image_key, *others

    def _asked_of(self, request: Request, choice: MethodChoice, target: int) -> int:
        """The class of one of the maps, where the view explains ``target``: a score and classes have none in common."""
        if choice.target is not None:
            return choice.target
        view = request.view
        return target if self.is_score(choice.model or view.model) == self.is_score(view.model) else -1

    def check_current(self, scene: Scene) -> None:
        """Raises ValueError where a model or the image is no longer what a scene was computed from."""
        if self._key(self._request(scene.view)) != scene.key:
            raise ValueError("the model or the data changed since the picture was drawn; change a control to draw it.")

    def is_computed(self, view: View) -> bool:
        """Whether `scene` would run no model: all results of a valid view are there."""
        try:
            request = self._request(view)
        except (KeyError, TypeError, ValueError):
            return False
        if (target := self._known_target(request, view.target)) is None:
            return False
        for choice in request.view.maps:
            own = self._own(request, choice)
            found = self._known_target(own, self._asked_of(request, choice, target))
            if found is None or own.map_key(choice, found) not in self._results:
                return False
        return True

    def _known_target(self, request: Request, chosen: int) -> int | None:
        """The class that is explained; None where the model has not answered yet."""
        before, after = (self._results.find(key) for key in request.answer_keys)
        return None if before is None or after is None else target_of(chosen, before)

    # A scene --------------------------------------------------------------------------------------------------------

    def scene(self, view: View, strict: bool = True) -> Scene:
        """Compute a view.

        Raises what `check` and `xaiutils.explain` raise. With ``strict=False`` a method that fails leaves its error
        message in its `ComputedMap`, beside the maps of the others.
        """
        request = self._request(view)
        view, ds = request.view, self.dataset(view)
        with holding(request.model, dict(request.rows)):
            image = self._image(request)
        before, after = self._probabilities(request, image)
        answer = self._answer(request, image, view.target)
        maps = []
        for choice in view.maps:
            own = self._own(request, choice)
            target = self._asked_of(request, choice, answer.target)
            with holding(own.model, dict(own.rows)):
                maps.append(self._map(own, choice, image, self._answer(own, image, target, choice.model), strict))
        return Scene(
            view=view,
            image_id=ds.ids[view.image],
            truth=truths(ds.select([view.image]))[0],
            class_names=self.class_names(view),
            original=request.original[0],
            image=image[0],
            mask=answer.mask,
            grid=answer.grid,
            before=before,
            probabilities=after,
            target=answer.target,
            maps=tuple(maps),
            numbers=measure(maps, view, self.correlation),
            key=self._key(request),
            is_score=self.is_score(view.model),
            mm_along=_mm_along(ds, view),
        )

    def _answer(self, request: Request, image: np.ndarray, chosen: int, model: str = "") -> Answer:
        """What is explained of a model, by default the view's."""
        view, ds = request.view, self.dataset(request.view)
        name = model or view.model
        before, after = self._probabilities(request, image)
        target = target_of(chosen, before)
        masks, mask = ds.masks, None
        if ds.multi_label and ds.label_masks is not None:
            masks = ds.label_masks[:, target]
        if masks is not None:
            one = np.asarray(masks[view.image : view.image + 1])
            mask = TRANSFORMS[view.transform].apply_to_masks(one, **view.transform_parameters)[0]
        names = self.class_names(replace(view, model=name))
        text = answer_text(after[target], self.is_score(name))
        grid = _grid_of(request.model) if view.show_grid else None
        return Answer(name, target, names[target], text, mask, grid)

    def _image(self, request: Request) -> np.ndarray:
        """The transformed image, float32 ``(1, height, width, C)``."""
        view = request.view
        # An attack turns the model from its own answer, whichever class is explained.
        given = {"seed": view.seed, "model": request.model, "batch_size": self.batch_size, **view.transform_parameters}
        apply = TRANSFORMS[view.transform].apply
        return self._results.get(("image", request.image_key), lambda: apply(request.original, **given))

    def _probabilities(self, request: Request, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The model's probabilities of the original and of the transformed image."""

        def make(pixels: np.ndarray, transform: str) -> np.ndarray:
            with holding(request.model, dict(request.rows)):
                found = answers(request.model, pixels)[0]
            if not np.isfinite(found).all():
                name = next(name for name, model in self.models.items() if model is request.model)
                what = f"image {request.view.image} ({transform})"
                raise ValueError(f"{name} answers {what} with values that are NaN or infinite.")
            return found

        first, second = request.answer_keys
        before = self._results.get(first, lambda: make(request.original, "original"))
        return before, self._results.get(second, lambda: make(image, request.view.transform))

    def _map(
        self, request: Request, choice: MethodChoice, image: np.ndarray, answer: Answer, strict: bool
    ) -> ComputedMap:
        """The map as the view reads it."""
        key, target = request.map_key(choice, answer.target), answer.target
        signed = METHODS[choice.method].is_signed(choice.parameters)

        def make() -> tuple[np.ndarray, float]:
            start = time.monotonic()
            size = self.batch_size
            found = explain(request.model, image, target, choice.method, choice.library, size, **choice.parameters)
            if wrong := int((~np.isfinite(found)).sum()):
                raise ValueError(f"{wrong} of the map's {found.size} values are no numbers (NaN or infinite).")
            return found[0], time.monotonic() - start

        try:
            values, seconds = self._results.get(key, make)
        except Exception as error:
            if strict:
                raise
            return ComputedMap(choice, answer, signed, None, str(error) or type(error).__name__)
        if not signed:
            return ComputedMap(choice, answer, signed, values, seconds=seconds, key=key)
        reading = request.view.reading_of(choice)
        read = read_maps(values, reading)
        return ComputedMap(choice, answer, reading == "signed", read, "", seconds, (key, reading), reading)

    def correlation(self, a: ComputedMap, b: ComputedMap) -> float:
        """Spearman's rank correlation of two maps that have values."""
        key = ("correlation", frozenset((a.key, b.key)))
        return self._results.get(key, lambda: float(spearman(a.known_values[None], b.known_values[None])[0]))

    # Deletion curves ------------------------------------------------------------------------------------------------

    def compute_curve(self, scene: Scene) -> bool:
        """Compute one of the curves of `deletion_curves` that is not there yet; False where all are."""
        for values, key, of in self._rankings(scene).values():
            if key not in self._results:
                self._curve(scene, values, key, of)
                return True
        return False

    def deletion_curves(self, scene: Scene) -> DeletionCurves:
        """Deletion curves of the maps of a scene, and of pixels in a random order.

        `xaiutils.evaluation.metrics.insertion_deletion.perturbation_curve` in 20 steps to the image's mean colour.
        """
        found = {k: self._curve(scene, *ranking) for k, ranking in self._rankings(scene).items()}
        return DeletionCurves(found[RANDOM_ORDER][0], {k: curve for k, (_, curve) in found.items()})

    def _rankings(self, scene: Scene) -> dict[int, tuple[np.ndarray, Hashable, tuple[MethodChoice, int]]]:
        """By the curve's number: what orders the pixels, the key of that curve, and whose class it is of. Raises as
        `check_current`."""
        self.check_current(scene)
        known: dict[int, tuple[np.ndarray, Hashable, tuple[MethodChoice, int]]] = {
            k: (m.values, ("curve", m.key), (m.choice, m.answer.target))
            for k, m in enumerate(scene.maps, 1)
            if m.values is not None
        }
        noise = np.random.default_rng(0).random(scene.image.shape[:2], np.float32)
        plain = MethodChoice(scene.maps[0].choice.method), scene.target
        return {**known, RANDOM_ORDER: (noise, ("curve", scene.key[:2], scene.target, "random order"), plain)}

    def _curve(self, scene: Scene, values: np.ndarray, key: Hashable, of: tuple[MethodChoice, int]) -> np.ndarray:
        """Fractions and probabilities, float64 ``(2, steps + 1)``."""

        def make() -> np.ndarray:
            size, (choice, target) = self.batch_size, of
            own = self._own(self._request(scene.view), choice)
            model, rows = own.model, own.rows
            _, images, targets = prepare(model, scene.image[None], target, size, rows)
            case = Case(values[None], model=model, images=images, targets=targets, batch_size=size)
            with holding(model, dict(rows)):
                fractions, curve = perturbation_curve(case, n_steps=DELETION_STEPS, fill="mean", insert=False)
            return np.stack([fractions, curve[0]]).astype(np.float64)

        return self._results.get(key, make)

    # Answers to all images ------------------------------------------------------------------------------------------

    def answers(self, model: str, dataset: str) -> np.ndarray | None:
        """Probabilities float32 ``(n, classes)`` of all images, once `compute_answers` has run over all of them."""
        parts = self._answers_so_far(model, dataset)
        done = sum(map(len, parts))
        return np.concatenate(parts) if done and done == len(self.datasets[dataset]) else None

    def compute_answers(self, model: str, dataset: str) -> int:
        """Have the model answer the next batch of images; returns how many it has answered."""
        parts, ds = self._answers_so_far(model, dataset), self.datasets[dataset]
        done = sum(map(len, parts))
        batch = slice(done, done + self.batch_size)
        images = ds.pixels[batch].astype(np.float32)
        if len(images):
            parts.append(answers(self.models[model], images, self.batch_size, _rows_at(ds, batch)))
        return done + len(images)

    def _answers_so_far(self, model: str, dataset: str) -> list[np.ndarray]:
        key, ds = _model_key(self.models[model]), self.datasets[dataset]
        known = self._answers.get((model, dataset))
        if known is None or known[0] != key or known[1] is not ds:
            known = self._answers[model, dataset] = key, ds, []
        return known[2]


def _rows_at(ds: ImageDataset, at: slice) -> dict[str, np.ndarray] | None:
    """Some images' rows of further inputs; None where the data have none."""
    return {name: rows[at] for name, rows in ds.inputs.items()} if ds.inputs else None


def _mm_along(ds: ImageDataset, view: View) -> float | None:
    """The width of a pixel in mm; None where it is not known, or the transform changes it."""
    found = None if TRANSFORMS[view.transform].geometric else ds.pixel_size(view.image)
    return found[1] if found else None


def _model_key(model: keras.Model) -> tuple[Hashable, int]:
    return Network.of(model), weights_checksum(model)


def _grid_of(model: keras.Model) -> tuple[int, int] | None:
    try:
        return cam_grid(model)
    except ValueError:  # a model without a field that could be drawn
        return None
