"""The panel: the controls of a `View`, its picture and numbers, pinned views and saved figures."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.graph.network import Network
from xaiutils.graph.tiers import compile_used
from xaiutils.widgets.background_worker import Progress, Worker
from xaiutils.widgets.browser_widgets import STALE, PictureLayer
from xaiutils.widgets.compute_scene import SceneComputer
from xaiutils.widgets.image_picker import ImagePicker
from xaiutils.widgets.keep_controls import KeepControls
from xaiutils.widgets.numbers_table import numbers_table
from xaiutils.widgets.panel_parts import PanelParts
from xaiutils.widgets.pinned_views import Board, Finding, close_all
from xaiutils.widgets.scene import Scene
from xaiutils.widgets.scene_drawing import (
    PRINT_HEIGHT,
    SCREEN_WIDTH,
    Drawing,
    draw_deletion,
    draw_scene,
    for_dark_page,
)
from xaiutils.widgets.status_line import StatusLine
from xaiutils.widgets.view_controls import ViewControls
from xaiutils.widgets.view_history import ViewHistory
from xaiutils.widgets.view_settings import View

_KINDS = {"scene": "computing", "save": "saving", "deletion": "deletion curves", "answers": "asking the model"}
_WIDEST = 3000  # pixels of a picture
_OF_WINDOW = 0.4  # the height of an image at most, so that its controls stay in sight
_on_show: list["Explorer"] = []  # running a panel's cell again closes it instead of leaving two


class Explorer:
    """The panel. Show it with ``display(explorer.panel)`` or as a cell's last value.

    Args:
        models: Keras classifiers by name.
        datasets: images of the models' size; several by name.
        view: what to show first; by default Grad-CAM (where it suits) of the first image on the first model.
        folder: the run's folder: findings go to ``findings/`` in it, pictures for print to ``figures/``; None: nothing
            can be kept.
        batch_size: images in one pass.
        method_parameters: parameters by method's name, which take the place of the declared defaults.
        context: more facts for the records of findings, such as the run's parameters.

    `view` may be read and set, `scene` is the last one drawn. ``status`` is a line of text that begins with "done",
    "computing", "stopped" or "error"; ``wait()`` blocks until the panel is idle.
    """

    scene: Scene

    def __init__(
        self,
        models: Mapping[str, keras.Model],
        datasets: ImageDataset | Mapping[str, ImageDataset],
        view: View | None = None,
        folder: str | Path | None = None,
        batch_size: int = 32,
        method_parameters: Mapping[str, Mapping[str, Any]] | None = None,
        context: Mapping[str, Any] | None = None,
    ):
        while _on_show:
            _on_show.pop().close()
        if isinstance(datasets, ImageDataset):
            datasets = {", ".join(filter(None, (datasets.name, datasets.split))) or "images": datasets}
        defaults = dict(method_parameters or {})
        self.computer = SceneComputer(models, datasets, batch_size)
        self.folder = None if folder is None else Path(folder)
        self.is_stale = False  # whether picture and numbers do not belong to the controls
        self._drawing = threading.RLock()
        self._asked: View | None = None
        self._curves: tuple[tuple, dict[int, float]] | None = None  # of which maps, and the areas below them
        self._layers: dict[Network, tuple[str, ...]] = {}
        self.history = ViewHistory()
        self.worker = Worker(tuple(_KINDS), self._busy, self._progress, self._failed, self._idle)
        self.controls = ViewControls(self.computer, self._control_changed, self._guarded, defaults)
        self.picker = ImagePicker(self._image_picked, self._ask_answers, self._guarded)
        self.status_line = StatusLine()
        self.layer = PictureLayer(self._guarded(self._told))
        self.keep = KeepControls(
            self.folder, context, self.computer, self._drawn, self._ask_keep, self._show_view, self._guarded
        )
        actions = {
            "clear": lambda: self.controls.set_region([]),
            "curves": self._ask_curves,
            "undo": lambda: self._go(-1),
            "redo": lambda: self._go(1),
            "whole": lambda: self.controls.set_zoom([0, 0, 1, 1]),
        }
        self.parts = PanelParts(self.layer, actions, self._guarded)
        self.status_line.stop.on_click(self._guarded(lambda _: self._stop()))
        self.layer.observe(self._guarded(lambda _: self._ask()), names=["width", "height", "ratio", "dark"])
        self.panel = self.parts.arrange(self.controls, self.picker, self.keep, self.status_line)
        view = view or self.computer.first_view(defaults)
        view = self._checked(view)
        self._show_controls(view)
        self._draw(self.view)  # the first picture is there when the cell ends
        self._idle()
        _on_show.append(self)

    def close(self) -> None:
        """Remove the panel and stop its work."""
        self.worker.stop()
        close_all(self.panel)

    # Controls -------------------------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """What the controls ask for now. Raises ValueError for texts that cannot be read."""
        return self.controls.read()

    @view.setter
    def view(self, view: View) -> None:
        """Set all controls; the picture follows. Raises as `SceneComputer.check`, for an unknown model, say."""
        self._show_controls(self._checked(view))
        self._ask()

    def _checked(self, view: View) -> View:
        return self.computer.check(replace(view, dataset=view.dataset or next(iter(self.computer.datasets))))

    def _show_view(self, view: View) -> None:
        self.view = view

    def _show_controls(self, view: View) -> None:
        """Show a checked view in the controls, and ask for nothing."""
        self.controls.show(view)
        self._show_images()

    def _show_images(self) -> None:
        """Offer the images of the chosen data set, with what the chosen model is known to answer."""
        values = self.controls.widgets
        answers = self.computer.answers(values["model"].value, values["dataset"].value)
        is_score = self.computer.is_score(values["model"].value)
        self.picker.show(self.controls.dataset, answers, values["image"].value, is_score)

    def _control_changed(self, name: str) -> None:
        if name in ("dataset", "model"):
            self._show_images()
        self._ask()

    def _image_picked(self, image: int) -> None:
        self.controls.widgets["image"].value = image

    def _told(self, said: Mapping[str, Any]) -> None:
        """What was done on the picture."""
        if "box" in said:
            self.controls.set_region(said["box"])
        elif "zoom" in said:
            self.controls.set_zoom(said["zoom"])
        elif "window" in said:
            self.controls.widgets["window"].value = tuple(said["window"])
        elif self.history.can(said["undo"]):
            self._go(said["undo"])

    def _go(self, by: int) -> None:
        """Undo or redo so many changes."""
        self.view = self.history.go(by)

    # State ----------------------------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """What the panel does, or did last."""
        return self.status_line.text

    def wait(self, timeout: float = 120) -> None:
        """Block until nothing is left to do. Raises TimeoutError."""
        self.worker.wait(timeout)

    def _ask(self) -> None:
        """Have the present view drawn."""
        view = self._asked = self.view
        self.worker.request("scene", lambda: self._draw(view))

    def _busy(self, kind: str) -> None:
        if kind == "scene" and self._asked is not None:
            if self.computer.is_computed(self._asked):
                return  # the new picture comes at once
            self._set_stale(True)
        self.status_line.busy(_KINDS[kind])

    def _progress(self, kind: str, progress: Progress) -> None:
        self.status_line.progress(_KINDS[kind], progress)

    def _failed(self, _kind: str, error: Exception) -> None:
        self.status_line.say("error", f"error: {error or type(error).__name__}")

    def _idle(self) -> None:
        self.status_line.rest()
        if self.status_line.state == "computing":  # something else than a picture ended
            self.status_line.say(*done_text(self.scene))

    def _stop(self) -> None:
        """Stop all work, and bring back the controls of the picture that is there."""
        with self._drawing:
            self.worker.stop()
            self._show_controls(self.scene.view)
            self._keep_view()
            self._set_stale(False)
        self.status_line.rest()
        self.status_line.say("stopped", "stopped; picture and controls are of the last finished view")

    def _set_stale(self, stale: bool) -> None:
        """Picture and numbers that do not belong to the controls are pale, and cannot be kept."""
        self.is_stale = stale
        for shown in (self.parts.stage, self.parts.numbers):
            (shown.add_class if stale else shown.remove_class)(STALE)

    def _drawn(self) -> Scene:
        """The scene on show. Raises ValueError where the controls ask for another one, which could not be drawn."""
        if self.is_stale:
            raise ValueError("the controls ask for another view than the picture shows; nothing was kept.")
        return self.scene

    def _guarded(self, handler: Callable[[Any], None]) -> Callable[[Any], None]:
        """Errors in callbacks go to a log that nobody reads; show them in the panel."""

        def guarded(argument: Any) -> None:
            try:
                handler(argument)
            except Exception as error:
                self.worker.stop("scene")
                self._set_stale(not self._controls_agree())
                self._failed("", error)

        return guarded

    def _controls_agree(self) -> bool:
        try:
            return self.computer.check(self.view) == self.scene.view
        except (KeyError, TypeError, ValueError):
            return False

    # Jobs of the worker ---------------------------------------------------------------------------------------------

    def _draw(self, view: View) -> None:
        start = time.monotonic()
        scene = self.computer.scene(view, strict=False)
        highest = _OF_WINDOW * self.layer.height or PRINT_HEIGHT
        drawing = draw_scene(scene, min(self.layer.width or SCREEN_WIDTH, _WIDEST), full=False, highest=highest)
        png = self._png(drawing)
        networks = {m: Network.of(self.computer.models[m]) for m in (view.model, *(c.model for c in view.maps)) if m}
        for network in networks.values():
            if network not in self._layers:
                self._layers[network] = tuple(network.spatial_layers())
        with self._drawing:  # not between a stop and the controls that it brings back
            self.worker.check()
            same = self.status_line.state == "done" and scene.view == getattr(self, "scene", scene).view
            self._show(scene, drawing, png, {model: self._layers[network] for model, network in networks.items()})
            if not (same and self.status_line.text):  # drawn anew for another width: "pinned as ..." is to be read
                self.status_line.say(*done_text(scene, time.monotonic() - start))
        for network in networks.values():
            compile_used(network)  # while the picture is looked at

    def _png(self, drawing: Drawing) -> bytes:
        """A picture as sharp as the screen, and for the theme of the page."""
        if self.layer.dark:
            for_dark_page(drawing.figure)
        return drawing.png(100 * self.layer.ratio)

    def _keep_view(self) -> None:
        """The view that is drawn can be come back to: by undo and redo, and on a page of its own by its address."""
        view = self.scene.view
        self.history.add(view)
        self.parts.buttons["undo"].disabled, self.parts.buttons["redo"].disabled = (
            not self.history.can(-1),
            not self.history.can(1),
        )
        try:
            self.layer.view = view.to_text()
        except TypeError:  # of a parameter that is an array, given in Python
            self.layer.view = ""

    def _show(self, scene: Scene, drawing: Drawing, png: bytes, layers: Mapping[str, tuple[str, ...]]) -> None:
        last = getattr(self, "scene", scene)
        self.scene = scene
        if scene.view.model == last.view.model and scene.key[0] != last.key[0]:
            self._show_images()  # the model was trained further: its known answers are of before
        self.parts.picture.value = png
        self.parts.fit(drawing.width, self.layer.width)
        rows, columns = scene.image.shape[:2]
        whole = np.array((0, 0, columns, rows))
        part, box = np.array(scene.view.zoom or whole), scene.view.region
        with self.layer.hold_sync():
            self.layer.frames = [list(frame) for frame in drawing.frames]
            self.layer.zoom = (part / np.tile(whole[2:], 2)).tolist()
            self.layer.window = list(scene.view.window)
            size = np.tile(part[2:] - part[:2], 2)
            self.layer.box = [] if box is None else ((np.array(box) - np.tile(part[:2], 2)) / size).tolist()
        self.parts.buttons["whole"].disabled = scene.view.zoom is None
        self._keep_view()
        self.controls.offer(scene.view, layers)
        if self._curves is not None and self._curves[0] != _map_keys(scene):
            self._curves = None
            self.parts.curve_picture.layout.display = "none"
        self._show_numbers()
        self._set_stale(False)
        self.picker.show_image(scene.view.image)

    def _show_numbers(self) -> None:
        self.parts.numbers.value = numbers_table(self.scene, {} if self._curves is None else self._curves[1])

    def _ask_curves(self) -> None:
        self.worker.request("deletion", self._draw_curves)

    def _draw_curves(self) -> None:
        """Compute one curve, then ask for the next: a picture that is wanted goes between; draw them in the end."""
        scene = self.scene
        if self.computer.compute_curve(scene):
            self._ask_curves()
            return
        deletion = self.computer.deletion_curves(scene)
        titles = [found.choice.title + scene.own(found) for found in scene.maps]
        target = "the class of each map" if any(map(scene.own, scene.maps)) else scene.class_names[scene.target]
        is_score = any(self.computer.is_score(found.answer.model) for found in scene.maps)
        drawing = draw_deletion(deletion, titles, target, is_score=is_score)
        self.worker.check()
        self._curves = _map_keys(scene), deletion.areas
        self.parts.curve_picture.value = self._png(drawing)
        self.parts.curve_picture.layout.width = f"{drawing.width:.0f}px"
        self.parts.curve_picture.layout.display = ""
        self._show_numbers()

    def _ask_answers(self) -> None:
        self.worker.request("answers", self._find_answers)

    def _find_answers(self) -> None:
        """Find out what the filter of images lacks, a batch at a time: a picture that is wanted goes between."""
        values = self.controls.widgets
        model, dataset = values["model"].value, values["dataset"].value
        if self.picker.lacks == "sizes":
            self.picker.measure()
        n = len(self.computer.datasets[dataset])
        if self.picker.lacks == "answers" and self.computer.answers(model, dataset) is None:
            self._progress("answers", Progress(self.computer.compute_answers(model, dataset), n, None))
            self._ask_answers()
        else:
            self._show_images()

    # What is kept ---------------------------------------------------------------------------------------------------

    @property
    def board(self) -> Board | None:
        """The findings of the run."""
        return self.keep.board

    def pin(self, name: str = "", note: str = "") -> Finding:
        """Keep the drawn view in ``findings/`` of the run's folder, under ``name`` or the next free number.

        Raises ValueError where the panel was made without a folder, the name is none of a file, or the picture is not
        of the controls.
        """
        return self.keep.pin(name, note)

    def save(self) -> list[Path]:
        """Write the drawn view to ``figures/`` of the run's folder as PNG of 300 dpi and as PDF; returns the paths."""
        return self.keep.save()

    def _ask_keep(self, keep: Callable[[], str]) -> None:
        self.worker.request("save", lambda: self.status_line.say("done", f"done: {keep()}"))


def done_text(scene: Scene, seconds: float | None = None) -> tuple[str, str]:
    """State and text of the status when a scene is drawn; ``seconds`` that it took."""
    errors = [f"map {i} ({found.choice.title}): {found.error}" for i, found in enumerate(scene.maps, 1) if found.error]
    if errors:
        return "error", "error in " + "; ".join(errors)
    view = scene.view
    names = ", ".join(found.choice.method + scene.own(found) for found in scene.maps)
    took = "" if seconds is None else f" in {_duration(seconds)}"
    what = f"{names} of image {view.image} on {view.model}, {view.transform} ({scene.image_id})"
    if scene.explains != scene.class_names[scene.target]:
        what += f"; explained is {scene.explains}"
        now = int(scene.probabilities.argmax())
        what += f" (now predicted: {scene.class_names[now]})" if now != scene.target else ""
    return "done", f"done{took}: {what}"


def _map_keys(scene: Scene) -> tuple:
    return tuple(found.key for found in scene.maps)


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
