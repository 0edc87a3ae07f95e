"""The two parts of the panel that have a script of their own in the browser: drawing a box, choosing a thumbnail.

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
CSS = """
.xai-stale { opacity: 0.35; }
.xai-panel { overflow: visible; color: var(--jp-ui-font-color1, #111); }
.xai-panel .widget-label, .xai-panel label { color: var(--jp-ui-font-color1, #111); }
.xai-panel select { text-overflow: ellipsis; }
.xai-panel select, .xai-panel input, .xai-panel button { font-size: 13px; }
.xai-panel :focus-visible { outline: 2px solid #0072B2; outline-offset: 1px; }
.xai-column { flex: 1 1 205px; min-width: 200px; padding-top: 4px;
    border-top: 3px solid var(--jp-border-color2, #ccc); }
.xai-column .widget-inline-hbox, .xai-column .jupyter-widgets { min-width: 0; }
.xai-panel .widget-readout { box-shadow: none !important; }
.xai-cost { font-size: 11.5px; line-height: 15px; color: var(--jp-ui-font-color2, #555); white-space: normal; }
.xai-numbers { border-collapse: collapse; table-layout: fixed; font-size: 12.5px; width: 100%; }
.xai-numbers th, .xai-numbers td { padding: 1px 8px; text-align: left; line-height: 18px; font-weight: 400; }
.xai-numbers thead th { font-weight: 600; border-bottom: 1px solid var(--jp-border-color2, #ccc); }
.xai-numbers td { font-variant-numeric: tabular-nums; }
.xai-status { font-size: 13px; line-height: 18px; white-space: normal; }
.xai-status[data-state="error"] { color: #A33B00; font-weight: 600; }
.xai-card { width: 210px; }
"""


class RegionLayer(anywidget.AnyWidget):
    """A layer over a picture.

    ``frames``: (left, top, width, height) of the images in it, as fractions of the picture; ``box``: the box to show,
    (left, top, right, bottom) as fractions of an image, or empty; ``width`` of the panel and ``ratio`` of screen to
    page pixels, as the page reports them. ``drawn`` is called with each box that is drawn, empty for a click.
    """

    _esm = _HERE / "region.js"
    _css = """
    .xai-region { position: relative; margin: 0; overflow: hidden; z-index: 1; }
    .xai-region > div { position: absolute; cursor: crosshair; touch-action: none; }
    .xai-region > div > div { position: absolute; box-sizing: border-box; pointer-events: none;
        border: 2px solid #CC79A7; outline: 1px solid white; }
    """
    frames: traitlets.List = traitlets.List().tag(sync=True)
    box: traitlets.List = traitlets.List().tag(sync=True)
    width = traitlets.Int(0).tag(sync=True)
    ratio = traitlets.Float(1.0).tag(sync=True)

    def __init__(self, drawn: Callable[[list[float]], None], **values: Any):
        super().__init__(**values)
        self._drawn = drawn
        self.on_msg(lambda _widget, content, _buffers: self.receive(content))

    def receive(self, content: Mapping[str, Any]) -> None:
        """A message of the script."""
        self._drawn(content["box"])


class Thumbnails(anywidget.AnyWidget):
    """A row of small images.

    ``sheet``: JPEG with all of them side by side, each ``side`` pixels; ``cells``: a dictionary with image, label,
    detail, answer, title and mark for each; ``chosen``: position of the one to mark, or -1. ``picked`` is called with
    the ``image`` of the one that is chosen.
    """

    _esm = _HERE / "thumbnails.js"
    _css = """
    .xai-thumbnails { display: flex; flex-wrap: wrap; gap: 4px; padding: 2px; overflow: visible; }
    .xai-thumbnails button { border: 2px solid transparent; background: none; padding: 2px; cursor: pointer;
        display: flex; flex-direction: column; align-items: center; font: 11px/14px sans-serif; color: inherit; }
    .xai-thumbnails button:hover { background: var(--jp-layout-color2, #eee); }
    .xai-thumbnails button[aria-selected="true"] { border-color: #0072B2; background: var(--jp-layout-color2, #eee); }
    .xai-thumbnails button:focus-visible { outline: 2px solid #D55E00; }
    .xai-thumbnails [data-mark="wrong"] span:last-child { color: #A33B00; font-weight: 600; }
    """
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
