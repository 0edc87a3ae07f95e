"""The panel: the controls of a `View`, its picture and numbers, and what is kept of it."""

import html
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.thresholds import THRESHOLD
from xaiutils.files import replace_file
from xaiutils.graph.network import Network
from xaiutils.graph.predict import predict
from xaiutils.transforms import TRANSFORMS
from xaiutils.widgets.board import Board, Finding
from xaiutils.widgets.columns import MapColumn
from xaiutils.widgets.controls import ParameterBox, labelled
from xaiutils.widgets.drawing import PRINT_DPI, SCREEN_WIDTH, Drawing, draw_deletion, draw_scene, small_jpeg
from xaiutils.widgets.front import CSS, STALE, RegionLayer
from xaiutils.widgets.numbers import numbers_table
from xaiutils.widgets.picker import Picker
from xaiutils.widgets.scene import Scene, Studio
from xaiutils.widgets.view import MOST_MAPS, PALETTES, READ_AS, SCALES, STYLES, MethodChoice, View, clip_box, read_box
from xaiutils.widgets.worker import Progress, Worker

_LIVE: list["Explorer"] = []  # the panel on show: running its cell again closes it instead of leaving two
_KINDS = {"scene": "computing", "save": "saving", "deletion": "deletion curves", "answers": "asking the model"}
_CARDS = 6


class Explorer:
    """The panel. Show it with ``display(explorer.panel)`` or as a cell's last value.

    Args:
        models: Keras classifiers by name.
        datasets: images of the models' size; several by name.
        view: what to show first; by default Grad-CAM of the first image on the first model.
        folder: the run's folder: findings go to ``findings/`` in it, pictures for print to ``figures/``; None: nothing
            can be kept.
        batch_size: images in one pass.
        method_parameters: parameters by method's name, which take the place of the declared defaults.
        context: more facts for the records of findings, such as the run's parameters.

    `view` may be read and set, `scene` is the last one drawn. ``status`` is a line of text that begins with "done",
    "computing", "stopped" or "error"; ``wait()`` blocks until the panel is idle.
    """

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
        while _LIVE:
            _LIVE.pop().close()
        if isinstance(datasets, ImageDataset):
            datasets = {", ".join(filter(None, (datasets.name, datasets.split))) or "images": datasets}
        self.studio = Studio(models, datasets, batch_size)
        self.folder = None if folder is None else Path(folder)
        self.board = None if folder is None else Board(self.folder / "findings", context)
        self._defaults = dict(method_parameters or {})
        self._answers: dict[tuple[str, str], list[np.ndarray]] = {}
        self._layers: dict[str, tuple[str, ...]] = {}
        self._quiet = False
        self._drawing = threading.RLock()
        self._status = ("done", "")
        self.scene: Scene | None = None
        self._curves: tuple[tuple, dict[str, float]] | None = None  # of which maps, and their areas
        first = next(iter(models))
        view = view or View(first, 0, maps=(MethodChoice("grad_cam", self._defaults.get("grad_cam", {})),))
        self.worker = Worker(tuple(_KINDS), self._busy, self._progress, self._failed, self._idle)
        self._build()
        self.view = view
        _LIVE.append(self)

    # Layout ---------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        guarded = self._guarded

        def choose(name: str, options: Mapping[str, str], help: str = "", **sizes: str) -> widgets.Dropdown:
            return widgets.Dropdown(
                options=[(text, key) for key, text in options.items()], **labelled(name, help, **sizes)
            )

        def slide(name: str, value: float, help: str) -> widgets.FloatSlider:
            return widgets.FloatSlider(value=value, min=0, max=1, step=0.01, **labelled(name, help, **small))

        def tick(name: str, help: str) -> widgets.Checkbox:
            box = widgets.Checkbox(description=name, tooltip=help, indent=False)
            box.layout = widgets.Layout(width="auto", margin="2px 14px 2px 2px")
            return box

        small = {"width": "200px", "label_width": "initial"}
        datasets, models = ({name: name for name in names} for names in (self.studio.datasets, self.studio.models))
        transforms = {name: entry.title for name, entry in TRANSFORMS.items()}
        threshold, level, area = THRESHOLD
        self.controls: dict[str, widgets.Widget] = {
            "dataset": choose("data set", datasets),
            "model": choose("model", models),
            "image": widgets.BoundedIntText(min=0, max=0, **labelled("image", "position in the data set")),
            "target": choose(
                "class", {}, "what is explained; predicted is what the model says of the untransformed image"
            ),
            "transform": choose("transform", transforms, "change of the image before it is explained"),
            "seed": widgets.BoundedIntText(min=0, max=10**6, **labelled("seed", "of the transform's random draws")),
            "style": choose("show", STYLES, "how the maps are drawn", **small),
            "palette": choose("colours", {name: name for name in PALETTES}, "all safe for any colour vision", **small),
            "reading": choose("read maps", READ_AS, "what is drawn, outlined, measured and deleted of a sign", **small),
            "scale": choose("scale", SCALES, "maps of different methods share no unit", **small),
            "opacity": slide("opacity", 0.8, "of the overlay"),
            "threshold": choose("threshold", {name: name for name in threshold.choices}, threshold.help, **small),
            "level": slide("level", level.default, level.help),
            "area": slide("area", area.default, area.help),
            "show_mask": tick("outline the evidence", "the border of the known mask"),
            "show_found": tick("outline what is found", "the pixels over the threshold, which IoU counts"),
            "show_grid": tick("grid of patches", "the fields that the model sees: patches, or the last feature map"),
            "region": widgets.Text(
                placeholder="left, top, right, bottom",
                continuous_update=False,
                **labelled("region", "in pixels; or draw it on an image; a click clears it", "260px", "initial"),
            ),
        }
        c = self.controls
        self.transform_parameters = ParameterBox(guarded(lambda _: self._ask()))
        self.columns = [MapColumn(k + 1, self._ask, guarded, self._defaults) for k in range(MOST_MAPS)]
        self.picker = Picker(lambda image: self._set("image", image), self._ask_answers, guarded)

        self.picture = widgets.Image(format="png", layout=widgets.Layout(width="100%", margin="0", grid_area="one"))
        over = widgets.Layout(width="100%", height="100%", margin="0", grid_area="one")
        self.region = RegionLayer(guarded(self._box_drawn), layout=over)
        self.stage = widgets.GridBox(
            [self.picture, self.region],
            layout=widgets.Layout(
                grid_template_areas='"one"', grid_template_columns="100%", max_width="100%", overflow="hidden"
            ),
        )
        self.stop = widgets.Button(
            description="Stop", disabled=True, tooltip="stop computing", layout=widgets.Layout(width="70px")
        )
        self._bar = widgets.FloatProgress(min=0, max=1, layout=widgets.Layout(width="160px", visibility="hidden"))
        self._status_line = widgets.HTML(layout=widgets.Layout(flex="1 1 auto"))
        self._numbers = widgets.HTML(layout=widgets.Layout(max_width="100%"))
        self._curve_picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", display="none"))

        wrap = widgets.Layout(flex_flow="row wrap", align_items="center")
        first = [c[name] for name in ("dataset", "model", "image", "target", "transform")]
        source = widgets.VBox([*first, self.transform_parameters.box, c["seed"]])
        source.add_class("xai-column")
        across = widgets.Layout(flex_flow="row wrap", align_items="flex-start", grid_gap="10px")
        columns = widgets.HBox([source, *(column.box for column in self.columns)], layout=across)
        names = ("style", "opacity", "palette", "reading", "scale", "threshold", "level", "area")
        look = widgets.HBox([*(c[name] for name in names)], layout=wrap)
        outlines = widgets.HBox([c["show_mask"], c["show_found"], c["show_grid"]], layout=wrap)

        def button(text: str, tooltip: str, handler: Callable[[], None], width: str) -> widgets.Button:
            made = widgets.Button(description=text, tooltip=tooltip, layout=widgets.Layout(width=width))
            made.on_click(guarded(lambda _: handler()))
            return made

        self.clear = button("Clear region", "no region", lambda: self._set("region", ""), "100px")
        self.curves = button(
            "Deletion curves", "how fast the probability falls as pixels go", self._ask_curves, "132px"
        )
        note = labelled("note", "goes with the view that is pinned", "300px", "initial")
        self.note = widgets.Text(placeholder="what you see here", **note)
        self.pin_button = button("Pin", "keep this view in the run's folder", self._ask_pin, "60px")
        self.save_button = button("Save for print", "PNG of 300 dpi and PDF", self._ask_save, "110px")
        for made in (self.pin_button, self.save_button, self.note):
            made.disabled = self.folder is None
        if self.folder is None:
            self.pin_button.tooltip = self.save_button.tooltip = "this panel was made without a run's folder"
        doing = widgets.HBox([c["region"], self.clear, self.curves], layout=wrap)
        keeping = widgets.HBox([self.note, self.pin_button, self.save_button], layout=wrap)
        self._cards = widgets.HBox(layout=widgets.Layout(flex_flow="row wrap", grid_gap="8px"))
        status = widgets.HBox([self.stop, self._status_line, self._bar], layout=widgets.Layout(align_items="center"))
        self.panel = widgets.VBox(
            [
                widgets.HTML(f"<style>{CSS}</style>", layout=widgets.Layout(height="0", margin="0")),
                self.picker.box,
                self.stage,
                self._numbers,
                status,
                columns,
                look,
                outlines,
                doing,
                self._curve_picture,
                keeping,
                self._cards,
            ]
        )
        self.panel.add_class("xai-panel")
        self.stop.on_click(guarded(lambda _: self._stop()))
        handlers = {
            "dataset": self._dataset_changed,
            "model": self._model_changed,
            "transform": self._transform_changed,
        }
        for name, widget in c.items():
            widget.observe(guarded(handlers.get(name, lambda _: self._ask())), names="value")
        self.region.observe(guarded(lambda _: self._ask()), names=["width", "ratio"])
        self._show_cards()

    # Controls -------------------------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """What the controls ask for now. Raises ValueError for texts that cannot be read."""
        c = self.controls
        values = {name: widget.value for name, widget in c.items() if name != "region"}
        rows, columns = self.studio.datasets[c["dataset"].value].pixels.shape[1:3]
        return View(
            **values,
            transform_parameters=self.transform_parameters.values(),
            maps=tuple(choice for column in self.columns if (choice := column.choice) is not None),
            region=read_box(c["region"].value, rows, columns),
        )

    @view.setter
    def view(self, view: View) -> None:
        """Set all controls; the picture follows. Raises as `Studio.check`, for a model that the panel has not, say."""
        view, ds, _ = self.studio.check(replace(view, dataset=view.dataset or next(iter(self.studio.datasets))))
        self._set_controls(view, ds)
        if self.scene is None:
            self._draw(self.view)  # the first picture is there when the cell ends
            self._idle()
        else:
            self._ask()

    def _set_controls(self, view: View, ds: ImageDataset) -> None:
        """Show a checked view in the controls, and ask for nothing."""
        c = self.controls
        with self._hushed():
            self._offer(ds)
            for name, widget in c.items():
                if name != "region":
                    widget.value = getattr(view, name)
            c["region"].value = "" if view.region is None else ", ".join(map(str, view.region))
            self.transform_parameters.show(TRANSFORMS[view.transform].parameters, view.transform_parameters)
            choices = [*view.maps, *[None] * MOST_MAPS][:MOST_MAPS]
            for column, choice in zip(self.columns, choices, strict=True):
                column.set(choice)
        self.picker.show(ds, self._known_answers(), view.image)

    def _set_view(self, view: View) -> None:
        self.view = view

    @contextmanager
    def _hushed(self) -> Iterator[None]:
        """Within the block, changes of controls ask for nothing."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _set(self, name: str, value: Any) -> None:
        self.controls[name].value = value

    def _offer(self, ds: ImageDataset) -> None:
        """The images and classes of a data set."""
        c = self.controls
        c["image"].max = len(ds) - 1
        classes = [
            ("predicted class (of the original)", -1),
            *((str(name), i) for i, name in enumerate(ds.class_names)),
        ]
        if tuple(c["target"].options) != tuple(classes):
            c["target"].options = classes
            c["target"].value = -1

    def _dataset_changed(self, _change: Any) -> None:
        if self._quiet:
            return
        ds = self.studio.datasets[self.controls["dataset"].value]
        with self._hushed():
            self._offer(ds)
            self.controls["region"].value = ""
        self.picker.show(ds, self._known_answers(), self.controls["image"].value)
        self._ask()

    def _model_changed(self, _change: Any) -> None:
        if self._quiet:
            return
        ds = self.studio.datasets[self.controls["dataset"].value]
        self.picker.show(ds, self._known_answers(), self.controls["image"].value)
        self._ask()

    def _transform_changed(self, change: Mapping[str, Any]) -> None:
        if not self._quiet:
            self.transform_parameters.show(TRANSFORMS[change["new"]].parameters, {})
            self._ask()

    def _box_drawn(self, parts: list[float]) -> None:
        rows, columns = self.studio.datasets[self.controls["dataset"].value].pixels.shape[1:3]
        box = clip_box(tuple(np.multiply(parts, (columns, rows, columns, rows))), rows, columns) if parts else None
        self.controls["region"].value = "" if box is None else ", ".join(map(str, box))

    # Work -----------------------------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        return self._status[1]

    def wait(self, timeout: float = 120) -> None:
        """Block until nothing is left to do. Raises TimeoutError."""
        self.worker.wait(timeout)

    def close(self) -> None:
        """Remove the panel and stop its work."""
        self.worker.stop()
        _close(self.panel)

    def _say(self, state: str, text: str) -> None:
        self._status = (state, text)
        self._status_line.value = (
            f'<div class="xai-status" role="status" aria-live="polite" data-state="{state}">{html.escape(text)}</div>'
        )

    def _ask(self) -> None:
        """Have the present view drawn."""
        if self._quiet:
            return
        view = self.view
        self._asked = view
        self.worker.request("scene", lambda: self._draw(view))

    def _busy(self, kind: str) -> None:
        if kind == "scene" and self.studio.is_computed(self._asked):
            return  # the new picture comes at once
        if kind == "scene":
            self._set_stale(True)
        self.stop.disabled = False
        if self._status[0] != "computing":
            self._say("computing", f"{_KINDS[kind]} ...")

    def _progress(self, kind: str, progress: Progress) -> None:
        self._bar.layout.visibility = "visible"
        self._bar.value = progress.done / progress.total
        left = "" if progress.remaining is None else f", about {max(progress.remaining, 1):.0f} s left"
        self._say("computing", f"{_KINDS[kind]}: {progress.done} of {progress.total} steps{left}")

    def _failed(self, kind: str, error: Exception) -> None:
        self._say("error", f"error: {error or type(error).__name__}")

    def _idle(self) -> None:
        self.stop.disabled = True
        self._bar.layout.visibility = "hidden"
        self._bar.value = 0
        if self._status[0] == "computing" and self.scene is not None:  # something else than a picture ended
            self._say(*self._done_text(self.scene, None))

    def _stop(self) -> None:
        """Stop all work, and bring back the controls of the picture that is there."""
        with self._drawing:
            self.worker.stop()
            view = self.scene.view
            self._set_controls(view, self.studio.dataset(view))
            self._set_stale(False)
        self.stop.disabled = True
        self._bar.layout.visibility = "hidden"
        self._say("stopped", "stopped; picture and controls are of the last finished view")

    def _set_stale(self, stale: bool) -> None:
        """Whether picture and numbers do not belong to the controls: then they are pale, and cannot be kept."""
        for shown in (self.stage, self._numbers):
            (shown.add_class if stale else shown.remove_class)(STALE)

    def _drawn(self) -> Scene:
        """The scene on show. Raises ValueError where the controls ask for another one, which could not be drawn."""
        if STALE in self.stage._dom_classes:
            raise ValueError("the controls ask for another view than the picture shows; nothing was kept.")
        return self.scene

    def _guarded(self, handler: Callable[[Any], None]) -> Callable[[Any], None]:
        """Errors in callbacks go to a log that nobody reads; show them in the panel."""

        def guarded(argument: Any) -> None:
            try:
                handler(argument)
            except Exception as error:
                self.worker.stop("scene")
                self._set_stale(self._is_stale())
                self._say("error", f"error: {error or type(error).__name__}")

        return guarded

    def _is_stale(self) -> bool:
        try:
            return self.studio.check(self.view)[0] != self.scene.view
        except (KeyError, TypeError, ValueError):
            return True

    # Jobs of the worker ---------------------------------------------------------------------------------------------

    def _draw(self, view: View) -> None:
        start = time.monotonic()
        scene = self.studio.scene(view, strict=False)
        drawing = draw_scene(scene, min(self.region.width or SCREEN_WIDTH, 1900), full=False)
        png = drawing.png(100 * self.region.ratio)
        if view.model not in self._layers:
            network = Network.of(self.studio.model(view))
            self._layers[view.model] = tuple(network.spatial_layers())
        with self._drawing:  # not between a stop and the controls that it brings back
            self.worker.check()
            self._show(scene, drawing, png, time.monotonic() - start)

    def _show(self, scene: Scene, drawing: Drawing, png: bytes, seconds: float) -> None:
        view, (rows, columns) = scene.view, scene.image.shape[:2]
        self.scene = scene
        self.picture.value = png
        width = f"{drawing.figure.get_figwidth() * 100:.0f}px"
        self.stage.layout.width = self._numbers.layout.width = width  # a column of numbers below each image
        self.region.frames = [list(frame) for frame in drawing.frames]
        box = view.region
        self.region.box = [] if box is None else np.divide(box, (columns, rows, columns, rows)).tolist()
        self.controls["level"].layout.display = "" if view.threshold == "fixed" else "none"
        self.controls["area"].layout.display = "" if view.threshold == "top_area" else "none"
        self.controls["opacity"].disabled = view.style != "overlay"
        for column in self.columns:
            column.offer_layers(self._layers[view.model])
        if self._curves is not None and self._curves[0] != _keys(scene):
            self._curves = None
            self._curve_picture.layout.display = "none"
        self._show_numbers()
        self._set_stale(False)
        self.picker.show_image(view.image)
        self._say(*self._done_text(scene, seconds))

    def _done_text(self, scene: Scene, seconds: float | None) -> tuple[str, str]:
        errors = [
            f"map {i} ({found.choice.title}): {found.error}" for i, found in enumerate(scene.maps, 1) if found.error
        ]
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

    def _show_numbers(self) -> None:
        areas = {} if self._curves is None else self._curves[1]
        self._numbers.value = numbers_table(self.scene, areas)

    def _ask_curves(self) -> None:
        self.worker.request("deletion", self._draw_curves)

    def _draw_curves(self) -> None:
        """Compute one curve, then ask for the next: a picture that is wanted goes between; draw them in the end."""
        scene = self.scene
        if self.studio.compute_curve(scene):
            self._ask_curves()
            return
        deletion = self.studio.deletion(scene)
        drawing = draw_deletion(deletion, scene.class_names[scene.target], 760)
        self.worker.check()
        self._curves = _keys(scene), deletion.areas
        self._curve_picture.value = drawing.png(100 * self.region.ratio)
        self._curve_picture.layout.width = f"{drawing.figure.get_figwidth() * 100:.0f}px"
        self._curve_picture.layout.display = ""
        self._show_numbers()

    def _known_answers(self) -> np.ndarray | None:
        key = (self.controls["model"].value, self.controls["dataset"].value)
        parts = self._answers.get(key, [])
        done = sum(map(len, parts))
        return np.concatenate(parts) if done and done == len(self.studio.datasets[key[1]]) else None

    def _ask_answers(self) -> None:
        self.worker.request("answers", self._answer)

    def _answer(self) -> None:
        """Find out what the filter of images lacks, a batch at a time: a picture that is wanted goes between."""
        key = (self.controls["model"].value, self.controls["dataset"].value)
        ds, model = self.studio.datasets[key[1]], self.studio.models[key[0]]
        parts = self._answers.setdefault(key, [])
        done, size = sum(map(len, parts)), self.studio.batch_size
        if self.picker.lacks == "sizes":
            self.picker.measure()
        if self.picker.lacks == "answers" and done < len(ds):
            images = ds.pixels[done : done + size].astype(np.float32)
            parts.append(predict(model, images, size, probabilities=True))
            self._progress("answers", Progress(done + len(images), len(ds), None))
            self._ask_answers()
        else:
            self.picker.show(ds, self._known_answers(), self.controls["image"].value)

    # Findings -------------------------------------------------------------------------------------------------------

    def pin(self, name: str = "", note: str = "") -> Finding:
        """Keep the drawn view in ``findings/`` of the run's folder, under ``name`` or the next free number.

        Raises ValueError where the panel was made without a folder, the name is none of a file, or the picture is not
        of the controls.
        """
        if self.board is None:
            raise ValueError("the panel was made without folder=, so nothing can be kept.")
        finding = self.board.pin(self._drawn(), self.studio, name, note)
        self._show_cards()
        return finding

    def _ask_pin(self) -> None:
        note = self.note.value

        def work() -> None:
            finding = self.pin(note=note)
            self.note.value = ""
            self._say("done", f"done: pinned as {finding.name} in {self.board.folder}")

        self.worker.request("save", work)

    def save(self) -> list[Path]:
        """Write the drawn view to ``figures/`` of the run's folder as PNG of 300 dpi and as PDF; returns the paths."""
        if self.folder is None:
            raise ValueError("the panel was made without folder=, so nothing can be saved.")
        figures = self.folder / "figures"
        stem = next(s for k in range(1, 10**6) if not (figures / f"{(s := f'explorer_{k:03d}')}.png").exists())
        figure = draw_scene(self._drawn()).figure
        options = {"png": {"dpi": PRINT_DPI}, "pdf": {"dpi": PRINT_DPI}}
        return [
            replace_file(figures / f"{stem}.{kind}", lambda temporary, given=given: figure.savefig(temporary, **given))
            for kind, given in options.items()
        ]

    def _ask_save(self) -> None:
        def work() -> None:
            paths = self.save()
            self._say("done", f"done: saved {' and '.join(p.name for p in paths)} in {paths[0].parent}")

        self.worker.request("save", work)

    def _show_cards(self) -> None:
        """The newest findings, each with a button that shows it in the panel."""
        if self.board is None:
            return
        old = self._cards.children
        self._cards.children = tuple(self._card(finding) for finding in self.board.findings()[: -_CARDS - 1 : -1])
        for card in old:
            _close(card)

    def _card(self, finding: Finding) -> widgets.Widget:
        picture = widgets.Image(value=small_jpeg(finding.picture, 2 * 210), format="jpeg", width=210)
        text = html.escape(finding.facts["note"] or finding.view.maps[0].title)
        label = widgets.HTML(f'<div class="xai-cost"><b>{html.escape(finding.name)}</b> {text}</div>')
        again = widgets.Button(description="Show again", tooltip=f"set the panel to {finding.name}")
        again.on_click(self._guarded(lambda _: self._set_view(finding.view)))
        card = widgets.VBox([picture, label, again])
        card.add_class("xai-card")
        return card


def _keys(scene: Scene) -> tuple:
    return tuple(found.key for found in scene.maps)


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _close(widget: widgets.Widget) -> None:
    """Close a widget and all in it: an open one lives as long as the kernel."""
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()
