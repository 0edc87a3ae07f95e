"""The parts of the panel that show something, its buttons, and how all of it is arranged."""

from collections.abc import Callable, Mapping
from functools import partial

import ipywidgets as widgets
import traitlets

from xaiutils.widgets.browser_widgets import CSS, PictureLayer
from xaiutils.widgets.image_picker import ImagePicker
from xaiutils.widgets.keep_controls import KeepControls
from xaiutils.widgets.parameter_controls import Guard, options
from xaiutils.widgets.status_line import StatusLine
from xaiutils.widgets.view_controls import ViewControls

_BUTTONS = {
    "undo": ("Undo", "the view before this one (Ctrl+Z)"),
    "redo": ("Redo", "the view after this one (Ctrl+Shift+Z)"),
    "whole": ("Whole image", "zoom out; Ctrl with the wheel zooms in, Shift with the pointer moves"),
    "clear": ("Clear", "no region"),
    "curves": ("Deletion curves", "how fast the probability falls as pixels are replaced"),
}
_BESIDE = 430  # pixels that the numbers need beside the picture
_MODES = {"region": "region", "move": "move", "window": "grey levels"}
_MODE_TOOLTIPS = [
    "draw a box on an image; a click clears it",
    "pull all images; the wheel zooms",
    "up and down for brightness, left and right for contrast; the model sees the image as it is",
]


class PanelParts:
    """The picture with its ``layer``, the numbers, the deletion curves, and the ``buttons`` by name.

    ``actions``: what the buttons do, by name; ``guard`` wraps the handlers of events.
    """

    def __init__(self, layer: PictureLayer, actions: Mapping[str, Callable[[], None]], guard: Guard):
        filling = {"width": "100%", "margin": "0", "grid_area": "one"}
        self.picture = widgets.Image(format="png", layout=widgets.Layout(**filling))
        layer.layout = widgets.Layout(height="100%", **filling)
        one_place = {"grid_template_areas": '"one"', "grid_template_columns": "100%"}
        layout = widgets.Layout(max_width="100%", overflow="hidden", **one_place)
        self.stage = widgets.GridBox([self.picture, layer], layout=layout)
        self.numbers = widgets.HTML(layout=widgets.Layout(max_width="100%"))
        self.curve_picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", display="none"))
        self.results = _box(widgets.VBox, "xai-results", self.numbers, self.curve_picture)
        self.buttons: dict[str, widgets.Button] = {}
        for name, (text, tooltip) in _BUTTONS.items():
            made = widgets.Button(description=text, tooltip=tooltip, layout=widgets.Layout(width="auto"))
            made.on_click(guard(partial(_press, actions[name])))
            self.buttons[name] = made
        self._mode = widgets.ToggleButtons(options=options(_MODES), tooltips=_MODE_TOOLTIPS)
        traitlets.link((self._mode, "value"), (layer, "mode"))

    def fit(self, drawn: float, place: int) -> None:
        """Give the picture its width, of ``place`` pixels there are, and the numbers a place: beside it where there is
        room, else below it, a column below each image."""
        beside = place - drawn >= _BESIDE
        (self.results.add_class if beside else self.results.remove_class)("xai-beside")
        self.stage.layout.width = f"{drawn:.0f}px"
        self.numbers.layout.width = "100%" if beside else self.stage.layout.width

    def arrange(
        self, controls: ViewControls, picker: ImagePicker, keep: KeepControls, status: StatusLine
    ) -> widgets.VBox:
        """The panel: a rail with what is explained, beside it the picture, the controls of its maps, the numbers."""
        buttons = self.buttons
        controls.source.add_class("xai-source")
        controls.columns.add_class("xai-columns")
        rail = _box(widgets.VBox, "xai-rail", controls.source, picker.box, keep.row)
        tools = (buttons["undo"], buttons["redo"], self._mode, buttons["whole"])
        region = (controls.widgets["region"], buttons["clear"], buttons["curves"])
        main = _box(
            widgets.VBox,
            "xai-main",
            _box(widgets.HBox, "xai-bar", *tools, *region),
            status.box,
            _box(widgets.HBox, "xai-view", self.stage, controls.columns, self.results),
            keep.cards.box,
        )
        style = widgets.HTML(f"<style>{CSS}</style>", layout=widgets.Layout(height="0", margin="0"))
        return _box(widgets.VBox, "xai-panel", style, _box(widgets.HBox, "xai-body", rail, main))


def _press(action: Callable[[], None], _button: widgets.Button) -> None:
    action()


def _box(kind: type[widgets.Box], name: str, *children: widgets.Widget) -> widgets.Box:
    """A box that the panel's style sheet knows by name."""
    made = kind(children)
    made.add_class(name)
    return made
