"""The parts of the panel that have a script of their own in the browser: what is done on a picture, choosing a method,
choosing a thumbnail.

Their scripts lie beside this file and travel inside the notebook's messages: nothing is fetched from anywhere. Where
they cannot run, the typed box and the image's number do the same.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets

_HERE = Path(__file__).parent

STALE = "xai-stale"  # the class of a picture that does not belong to the controls
CSS = (_HERE / "panel.css").read_text(encoding="utf-8")


class MethodPicker(anywidget.AnyWidget):
    """A field to choose a method in: what is typed filters the list, which is grouped by family and has the formula,
    the cost and the pitfalls of the method under the pointer beside it.

    ``value``: the chosen name, or empty for none; ``label`` of the field; ``optional``: whether none may be chosen;
    ``methods``: a dictionary with name, title, family and about (HTML) for each; ``unsuited``: names of those that do
    not suit the model, which are shown pale and cannot be chosen, with the reason.
    """

    _esm = _HERE / "methods.js"
    value = traitlets.Unicode("").tag(sync=True)
    label = traitlets.Unicode("").tag(sync=True)
    optional = traitlets.Bool(False).tag(sync=True)
    methods: traitlets.List = traitlets.List().tag(sync=True)
    unsuited: traitlets.Dict = traitlets.Dict().tag(sync=True)


class PictureLayer(anywidget.AnyWidget):
    """A layer over a picture, for what is done with the pointer: a box is drawn, or all images are moved, or their grey
    levels changed, as ``mode`` says; with Ctrl the wheel zooms into all images.

    ``frames``: (left, top, width, height) of the images in it, as fractions of the picture; ``box``: the box to show,
    (left, top, right, bottom) as fractions of what an image shows, or empty; ``zoom``: the part of an image that is
    shown, as fractions of it; ``window``: grey levels; ``width`` of the picture's place, ``height`` of the window and
    ``ratio`` of screen to page pixels, and whether the page is ``dark``, as the page reports them; ``view``: JSON that
    a page of its own writes into its address. ``told`` is called with each message of the script: a box (empty for a
    click), a zoom, a window, or steps to undo.
    """

    _esm = _HERE / "picture.js"
    mode = traitlets.Unicode("region").tag(sync=True)
    frames: traitlets.List = traitlets.List().tag(sync=True)
    box: traitlets.List = traitlets.List().tag(sync=True)
    zoom: traitlets.List = traitlets.List([0, 0, 1, 1]).tag(sync=True)
    window: traitlets.List = traitlets.List([0, 255]).tag(sync=True)
    width = traitlets.Int(0).tag(sync=True)
    height = traitlets.Int(0).tag(sync=True)
    ratio = traitlets.Float(1.0).tag(sync=True)
    dark = traitlets.Bool(False).tag(sync=True)
    view = traitlets.Unicode("").tag(sync=True)

    def __init__(self, told: Callable[[Mapping[str, Any]], None], **values: Any):
        super().__init__(**values)
        self.on_msg(lambda _widget, content, _buffers: told(content))
        self.receive = told  # a message of the script


class Thumbnails(anywidget.AnyWidget):
    """A row of small images.

    ``sheet``: JPEG with all of them side by side, each ``side`` pixels; ``cells``: a dictionary with image, label,
    detail, answer, title and mark for each; ``chosen``: position of the one to mark, or -1. ``picked`` is called with
    the ``image`` of the one that is chosen.
    """

    _esm = _HERE / "thumbnails.js"
    sheet = traitlets.Bytes(b"").tag(sync=True)
    side = traitlets.Int(64).tag(sync=True)
    cells: traitlets.List = traitlets.List().tag(sync=True)
    chosen = traitlets.Int(-1).tag(sync=True)

    def __init__(self, picked: Callable[[int], None], **values: Any):
        super().__init__(**values)
        self._picked = picked
        self.on_msg(lambda _widget, content, _buffers: self.receive(content))

    def receive(self, content: Mapping[str, Any]) -> None:
        """A message of the script."""
        self._picked(content["image"])
