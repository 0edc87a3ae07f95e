"""The panel: the controls of a `View`, its picture and numbers, pinned views and saved figures."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.files import replace_file
from xaiutils.graph.network import Network
from xaiutils.graph.tiers import compile_used
from xaiutils.widgets.background_worker import Progress, Worker
from xaiutils.widgets.browser_widgets import CSS, STALE, RegionLayer
from xaiutils.widgets.compute_scene import SceneComputer
from xaiutils.widgets.image_picker import ImagePicker
from xaiutils.widgets.numbers_table import numbers_table
from xaiutils.widgets.parameter_controls import labelled
from xaiutils.widgets.pinned_views import Board, Finding, PinnedCards, claim_name, close_all
from xaiutils.widgets.scene import Scene
from xaiutils.widgets.scene_drawing import PRINT_DPI, SCREEN_WIDTH, Drawing, draw_deletion, draw_scene
from xaiutils.widgets.status_line import StatusLine
from xaiutils.widgets.view_controls import ViewControls
from xaiutils.widgets.view_settings import View

_KINDS = {"scene": "computing", "save": "saving", "deletion": "deletion curves", "answers": "asking the model"}
_WIDEST = 1900  # pixels of a picture
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
        self.board = None if self.folder is None else Board(self.folder / "findings", context)
        self.is_stale = False  # whether picture and numbers do not belong to the controls
        self._drawing = threading.RLock()
        self._asked: View | None = None
        self._curves: tuple[tuple, dict[int, float]] | None = None  # of which maps, and the areas below them
        self._layers: dict[Network, tuple[str, ...]] = {}
        self.worker = Worker(tuple(_KINDS), self._busy, self._progress, self._failed, self._idle)
        self.controls = ViewControls(self.computer, self._control_changed, self._guarded, defaults)
        self.picker = ImagePicker(self._image_picked, self._ask_answers, self._guarded)
        self.status_line = StatusLine()
        self.region = RegionLayer(self._guarded(self.controls.set_region))
        self.cards = PinnedCards(self._show_view, self._guarded)
        self.panel = self._layout()
        view = view or self.computer.first_view(defaults)
        view = self._checked(view)
        self._show_controls(view)
        self._draw(self.view)  # the first picture is there when the cell ends
        self._idle()
        self._show_cards()
        _on_show.append(self)

    def _layout(self) -> widgets.VBox:
        """All parts below each other."""
        filling = {"width": "100%", "margin": "0", "grid_area": "one"}
        self.picture = widgets.Image(format="png", layout=widgets.Layout(**filling))
        self.region.layout = widgets.Layout(height="100%", **filling)
        one_place = {"grid_template_areas": '"one"', "grid_template_columns": "100%"}
        layout = widgets.Layout(max_width="100%", overflow="hidden", **one_place)
        self.stage = widgets.GridBox([self.picture, self.region], layout=layout)
        self.numbers = widgets.HTML(layout=widgets.Layout(max_width="100%"))
        self.curve_picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", display="none"))
        wrap = widgets.Layout(flex_flow="row wrap", align_items="center")
        self.clear = self._button("Clear region", "no region", lambda: self.controls.set_region([]), "100px")
        curves = "how fast the probability falls as pixels are replaced"
        self.curves = self._button("Deletion curves", curves, self._ask_curves, "132px")
        note = labelled("note", "goes with the view that is pinned", "300px", "initial")
        self.note = widgets.Text(placeholder="what you see here", **note)
        self.pin_button = self._button("Pin", "keep this view in the run's folder", self._ask_pin, "60px")
        self.save_button = self._button("Save for print", "PNG of 300 dpi and PDF", self._ask_save, "110px")
        if self.folder is None:
            self.pin_button.disabled = self.save_button.disabled = self.note.disabled = True
            self.pin_button.tooltip = self.save_button.tooltip = "this panel was made without a run's folder"
        self.status_line.stop.on_click(self._guarded(lambda _: self._stop()))
        self.region.observe(self._guarded(lambda _: self._ask()), names=["width", "ratio"])
        panel = widgets.VBox(
            [
                widgets.HTML(f"<style>{CSS}</style>", layout=widgets.Layout(height="0", margin="0")),
                self.picker.box,
                self.stage,
                self.numbers,
                self.status_line.box,
                self.controls.columns,
                self.controls.look,
                widgets.HBox([self.controls.widgets["region"], self.clear, self.curves], layout=wrap),
                self.curve_picture,
                widgets.HBox([self.note, self.pin_button, self.save_button], layout=wrap),
                self.cards.box,
            ]
        )
        panel.add_class("xai-panel")
        return panel

    def _button(self, text: str, tooltip: str, handler: Callable[[], None], width: str) -> widgets.Button:
        made = widgets.Button(description=text, tooltip=tooltip, layout=widgets.Layout(width=width))
        made.on_click(self._guarded(lambda _: handler()))
        return made

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
            self._set_stale(False)
        self.status_line.rest()
        self.status_line.say("stopped", "stopped; picture and controls are of the last finished view")

    def _set_stale(self, stale: bool) -> None:
        """Picture and numbers that do not belong to the controls are pale, and cannot be kept."""
        self.is_stale = stale
        for shown in (self.stage, self.numbers):
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
        drawing = draw_scene(scene, min(self.region.width or SCREEN_WIDTH, _WIDEST), full=False)
        png = drawing.png(100 * self.region.ratio)
        network = Network.of(self.computer.model(view))
        if network not in self._layers:
            self._layers[network] = tuple(network.spatial_layers())
        with self._drawing:  # not between a stop and the controls that it brings back
            self.worker.check()
            self._show(scene, drawing, png, self._layers[network])
            self.status_line.say(*done_text(scene, time.monotonic() - start))
        compile_used(network)  # while the picture is looked at

    def _show(self, scene: Scene, drawing: Drawing, png: bytes, layers: tuple[str, ...]) -> None:
        last = getattr(self, "scene", scene)
        self.scene = scene
        if scene.view.model == last.view.model and scene.key[0] != last.key[0]:
            self._show_images()  # the model was trained further: its known answers are of before
        self.picture.value = png
        self.stage.layout.width = self.numbers.layout.width = drawing.css_width  # a column of numbers below each image
        self.region.frames = [list(frame) for frame in drawing.frames]
        rows, columns = scene.image.shape[:2]
        box = scene.view.region
        self.region.box = [] if box is None else np.divide(box, (columns, rows, columns, rows)).tolist()
        self.controls.offer(scene.view, layers)
        if self._curves is not None and self._curves[0] != _map_keys(scene):
            self._curves = None
            self.curve_picture.layout.display = "none"
        self._show_numbers()
        self._set_stale(False)
        self.picker.show_image(scene.view.image)

    def _show_numbers(self) -> None:
        self.numbers.value = numbers_table(self.scene, {} if self._curves is None else self._curves[1])

    def _ask_curves(self) -> None:
        self.worker.request("deletion", self._draw_curves)

    def _draw_curves(self) -> None:
        """Compute one curve, then ask for the next: a picture that is wanted goes between; draw them in the end."""
        scene = self.scene
        if self.computer.compute_curve(scene):
            self._ask_curves()
            return
        deletion = self.computer.deletion_curves(scene)
        titles = [found.choice.title for found in scene.maps]
        drawing = draw_deletion(deletion, titles, scene.class_names[scene.target], is_score=scene.is_score)
        self.worker.check()
        self._curves = _map_keys(scene), deletion.areas
        self.curve_picture.value = drawing.png(100 * self.region.ratio)
        self.curve_picture.layout.width = drawing.css_width
        self.curve_picture.layout.display = ""
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

    def pin(self, name: str = "", note: str = "") -> Finding:
        """Keep the drawn view in ``findings/`` of the run's folder, under ``name`` or the next free number.

        Raises ValueError where the panel was made without a folder, the name is none of a file, or the picture is not
        of the controls.
        """
        if self.board is None:
            raise ValueError("the panel was made without folder=, so nothing can be kept.")
        finding = self.board.pin(self._drawn(), self.computer, name, note)
        self._show_cards()
        return finding

    def _ask_pin(self) -> None:
        note = self.note.value

        def work() -> None:
            finding = self.pin(note=note)
            self.note.value = ""
            self.status_line.say("done", f"done: pinned as {finding.name} in {finding.record.parent}")

        self.worker.request("save", work)

    def _show_cards(self) -> None:
        if self.board is not None:
            self.cards.show(self.board.findings())

    def save(self) -> list[Path]:
        """Write the drawn view to ``figures/`` of the run's folder as PNG of 300 dpi and as PDF; returns the paths."""
        if self.folder is None:
            raise ValueError("the panel was made without folder=, so nothing can be saved.")
        figure = draw_scene(self._drawn()).figure
        figures = self.folder / "figures"
        stem = claim_name(figures, "explorer")
        return [
            replace_file(figures / f"{stem}.{kind}", lambda temporary: figure.savefig(temporary, dpi=PRINT_DPI))
            for kind in ("png", "pdf")
        ]

    def _ask_save(self) -> None:
        def work() -> None:
            paths = self.save()
            self.status_line.say("done", f"done: saved {' and '.join(p.name for p in paths)} in {paths[0].parent}")

        self.worker.request("save", work)


def done_text(scene: Scene, seconds: float | None = None) -> tuple[str, str]:
    """State and text of the status when a scene is drawn; ``seconds`` that it took."""
    errors = [f"map {i} ({found.choice.title}): {found.error}" for i, found in enumerate(scene.maps, 1) if found.error]
    if errors:
        return "error", "error in " + "; ".join(errors)
    view = scene.view
    names = ", ".join(found.choice.method for found in scene.maps)
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
