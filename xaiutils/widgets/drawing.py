"""A scene as a picture: the image, its maps, probabilities and colour scales, laid out by hand, which is fast.

Sizes are in pixels of 1/100 inch, whatever the resolution: the same picture is drawn for the screen and for print.
"""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from contourpy import contour_generator
from matplotlib import colormaps
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from xaiutils.evaluation.thresholds import binary_map
from xaiutils.plots import COLOURS, OUTLINE, display_range
from xaiutils.plots.maps import is_even
from xaiutils.plots.style import tidy
from xaiutils.text import drawn
from xaiutils.transforms import TRANSFORMS
from xaiutils.widgets.scene import Deletion, Map, Scene
from xaiutils.widgets.view import PALETTES, READ_AS

SCREEN_WIDTH, PRINT_DPI = 1000, 300
_SIDES = (120, 360)  # the width of an image, at least and at most
_GAP, _MARGIN, _TITLES, _SCALES = 18, 8, 44, 66
_SCREEN_PIXELS = 640  # larger images are thinned out for the screen
_BARS, _BAR = 3, 19  # classes whose probability is shown, and the height of each
_FRAGMENTS = 60  # found areas of more pieces are shaded instead of outlined
_REGION = COLOURS[3]
Place = tuple[float, float, float, float]  # left, top, width, height in pixels, from the figure's top left


@dataclass(frozen=True)
class Drawing:
    """A figure, and where its images lie: (left, top, width, height) as parts of the figure, from its top left."""

    figure: Figure
    frames: tuple[Place, ...]

    def png(self, dpi: float = 100) -> bytes:
        """The picture; ``dpi`` dots an inch."""
        file = io.BytesIO()
        self.figure.savefig(file, format="png", dpi=dpi, pil_kwargs={"compress_level": 2})
        return file.getvalue()


class _Canvas:
    """A figure of one bare pair of axes, in pixels from the top left: making axes costs more than what is in them."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 100, height / 100))
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()
        self.axes.set_autoscale_on(False)

    def image(self, place: Place, pixels: np.ndarray) -> None:
        left, top, width, height = place
        self.axes.imshow(pixels, extent=(left, left + width, top + height, top), aspect="auto")

    def text(self, x: float, y: float, text: str, size: float, **style) -> None:
        self.axes.text(x, y, drawn(text), fontsize=size, **{"ha": "center", "va": "center", **style})

    def rectangle(self, place: Place, **style) -> Rectangle:
        left, top, width, height = place
        return self.axes.add_patch(Rectangle((left, top), width, height, **style))

    def lines(self, place: Place, lines: Sequence[np.ndarray], shape: tuple[int, int], halo: str = "", **style) -> None:
        """Lines in coordinates (column, row) of an image of ``shape`` that fills ``place``."""
        left, top, width, height = place
        scale = np.array([width / shape[1], height / shape[0]])
        found = LineCollection([(line + 0.5) * scale + (left, top) for line in lines], **style)
        if halo:
            found.set_path_effects([withStroke(linewidth=found.get_linewidth()[0] + 1.4, foreground=halo)])
        self.axes.add_collection(found, autolim=False)


def _contours(field: np.ndarray, level: float) -> list[np.ndarray]:
    return contour_generator(z=np.asarray(field, np.float32)).lines(level)


def draw_scene(scene: Scene, width: int = SCREEN_WIDTH, full: bool = True) -> Drawing:
    """The picture of a scene: the image with its probabilities, and each map with its colour scale.

    Args:
        width: of the whole in pixels of 1/100 inch; images are at most 360 wide.
        full: draw all pixels of large images; without it every k-th, for the screen.
    """
    columns = 1 + len(scene.maps)
    side = float(np.clip((width - 2 * _MARGIN - _GAP * (columns - 1)) / columns, *_SIDES))
    rows, cols = scene.image.shape[:2]
    height = side * rows / cols
    canvas = _Canvas(2 * _MARGIN + columns * side + _GAP * (columns - 1), _TITLES + height + _SCALES)
    step = 1 if full else -(-max(rows, cols) // _SCREEN_PIXELS)
    limits, signed = _limits(scene), _signed(scene)
    p = scene.probabilities[scene.target]
    explained = f"for {scene.explains}, p = {p:.2f}"
    places = [(_MARGIN + k * (side + _GAP), _TITLES, side, height) for k in range(columns)]
    for k, place in enumerate(places):
        left, below = place[0], _TITLES + height
        if k == 0:
            title = f"image {scene.view.image}: {scene.class_names[scene.label]}"
            subtitle = TRANSFORMS[scene.view.transform].title
            canvas.image(place, np.clip(scene.image[::step, ::step], 0, 255).astype(np.uint8))
            _draw_probabilities(canvas, scene, left, below + 10, side)
        else:
            found = scene.maps[k - 1]
            title, subtitle = found.choice.title, explained
            if found.values is None:
                _draw_error(canvas, place, found.error)
            else:
                _draw_attribution(canvas, place, scene, found, limits[k - 1], signed[k - 1], step)
                scale = (left + 0.08 * side, below + 10, 0.84 * side, 9)
                _draw_scale(canvas, scale, limits[k - 1], _colours(scene, signed[k - 1]), signed[k - 1], found)
        if k == 0 or scene.maps[k - 1].values is not None:
            _draw_marks(canvas, place, scene, step)
        canvas.text(left + side / 2, 15, _short(title, side / 5), min(11.0, 11.0 * side / (8.2 * len(title))))
        size = min(9.0, 9.0 * side / (6.2 * len(subtitle)))
        canvas.text(left + side / 2, 34, _short(subtitle, side / 4), size, color="#444444")
    whole = np.array([canvas.width, canvas.height, canvas.width, canvas.height])
    return Drawing(canvas.figure, tuple(tuple(map(float, np.divide(place, whole))) for place in places))


def _limits(scene: Scene) -> list[Normalize | None]:
    """None where there are no values, or all are one and the same: no range of colours stands for them."""
    known = [found.values for found in scene.maps if found.values is not None]
    if scene.view.scale == "shared" and known:
        common = _range(np.stack(known), any(f.signed for f in scene.maps if f.values is not None))
        return [None if f.values is None else common for f in scene.maps]
    return [None if f.values is None else _range(f.values, f.signed) for f in scene.maps]


def _range(values: np.ndarray, signed: bool) -> Normalize | None:
    return None if is_even(values) else display_range(values, signed)


def _short(text: str, most: float) -> str:
    """A text that is not longer than its place allows."""
    return text if len(text) <= most else f"{text[: int(most) - 1]}…"


def _signed(scene: Scene) -> list[bool]:
    """Which maps have the colours of signed ones: under one scale all or none."""
    if scene.view.scale == "shared":
        return [any(f.signed for f in scene.maps if f.values is not None)] * len(scene.maps)
    return [found.signed for found in scene.maps]


def _colours(scene: Scene, signed: bool) -> str:
    return PALETTES[scene.view.palette][signed]


def overlay(
    image: np.ndarray, values: np.ndarray, limits: Normalize, colours: str, signed: bool, opacity: float
) -> np.ndarray:
    """A map laid over its image as `xaiutils.plots.draw_map` does it: uint8 ``(height, width, 3)``.

    The image is grey, so that colour means attribution only, and light under a signed map, whose colours meet in white.
    Weak attribution is nearly transparent.
    """
    grey = image.mean(axis=-1, keepdims=True) / 255
    if signed:
        grey = (grey * 255 + 1000) / 1255
    parts = np.clip(limits(values), 0, 1).data
    strength = np.abs(parts - 0.5) * 2 if signed else parts
    alpha = (opacity * (0.25 + 0.75 * np.sqrt(strength)))[..., None]
    return np.rint(255 * (alpha * colormaps[colours](parts)[..., :3] + (1 - alpha) * grey)).astype(np.uint8)


def _draw_attribution(
    canvas: _Canvas, place: Place, scene: Scene, found: Map, limits: Normalize | None, signed: bool, step: int
) -> None:
    view, values, image = scene.view, found.values[::step, ::step], scene.image[::step, ::step]
    colours = _colours(scene, signed)
    if limits is None:
        canvas.image(place, np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1).astype(np.uint8))
    elif view.style == "overlay":
        canvas.image(place, overlay(image, values, limits, colours, signed, view.opacity))
    elif view.style == "alone":
        canvas.image(place, (255 * colormaps[colours](np.clip(limits(values), 0, 1))[..., :3]).astype(np.uint8))
    else:
        canvas.image(place, np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1).astype(np.uint8))
        for part in (0.1, 0.3, 0.7, 0.9) if signed else (0.25, 0.5, 0.75):
            lines = _contours(values, limits.vmin + part * (limits.vmax - limits.vmin))
            halo = "black" if signed else "white"
            canvas.lines(place, lines, values.shape, halo, colors=[colormaps[colours](part)], linewidths=1.3)
    if is_even(found.values):
        words = f"all {float(found.values.flat[0]):.3g}"
        canvas.text(place[0] + place[2] / 2, place[1] + place[3] / 2, words, 10, color=COLOURS[1])
    if view.show_found:
        pixels = binary_map(found.values, **view.threshold_parameters)[::step, ::step]
        lines = _contours(pixels, 0.5)
        if len(lines) <= _FRAGMENTS:
            canvas.lines(place, lines, pixels.shape, "white", colors="black", linewidths=1.0, linestyles="dashed")
        else:
            shade = np.zeros((*pixels.shape, 4), np.uint8)
            shade[pixels] = (0, 0, 0, 150) if signed else (255, 255, 255, 170)
            canvas.image(place, shade)


def _draw_marks(canvas: _Canvas, place: Place, scene: Scene, step: int) -> None:
    """The border of the known evidence, the grid, the region."""
    view, shape = scene.view, scene.image.shape[:2]
    if view.show_mask and scene.mask is not None:
        mask = scene.mask[::step, ::step]
        canvas.lines(place, _contours(mask, 0.5), mask.shape, colors=OUTLINE, linewidths=0.9)
    left, top, width, height = place
    if scene.grid is not None:
        ys = top + height * np.arange(1, scene.grid[0]) / scene.grid[0]
        xs = left + width * np.arange(1, scene.grid[1]) / scene.grid[1]
        canvas.axes.hlines(ys, left, left + width, colors="white", linewidth=0.5, alpha=0.7)
        canvas.axes.vlines(xs, top, top + height, colors="white", linewidth=0.5, alpha=0.7)
    if view.region is not None:
        corners = np.array(view.region) * np.tile([width / shape[1], height / shape[0]], 2)
        box = (left + corners[0], top + corners[1], corners[2] - corners[0], corners[3] - corners[1])
        frame = canvas.rectangle(box, fill=False, edgecolor=_REGION, linewidth=1.4)
        frame.set_path_effects([withStroke(linewidth=2.6, foreground="white")])


def _draw_error(canvas: _Canvas, place: Place, text: str) -> None:
    canvas.rectangle(place, facecolor="#F5F5F5", edgecolor=COLOURS[1], linewidth=1.0)
    words = "\n".join(textwrap.wrap(text, max(16, int(place[2] / 6.8)))[:14])
    canvas.text(place[0] + place[2] / 2, place[1] + place[3] / 2, words, 8.5, color="#8A3C00")


def _draw_scale(
    canvas: _Canvas, place: Place, limits: Normalize | None, colours: str, signed: bool, found: Map
) -> None:
    left, top, width, height = place
    if limits is None:
        canvas.text(left + width / 2, top + 5, f"every value is {float(found.values.flat[0]):.3g}:", 8.5)
        canvas.text(left + width / 2, top + 21, "no colour scale", 8.5)
        return
    ramp = colormaps[colours](np.linspace(0, 1, 256))[None, :, :3]
    canvas.image(place, (255 * ramp).astype(np.uint8))
    canvas.rectangle(place, fill=False, edgecolor="black", linewidth=0.5)
    low, high = float(limits.vmin), float(limits.vmax)
    low = 0.0 if abs(low) < 1e-3 * abs(high) else low
    right, ticks, words = left + width, top + height + 9, top + height + 25
    canvas.text(left, ticks, f"{low:.2g}", 8.5, ha="left")
    canvas.text(right, ticks, f"{high:.2g}", 8.5, ha="right")
    if signed:
        canvas.text(left + width / 2, ticks, "0", 8.5)
        canvas.text(left, words, "against", 8.5, ha="left")
        canvas.text(right, words, "for", 8.5, ha="right")
    else:
        how = READ_AS.get(found.reading, "raw")
        canvas.text(left + width / 2, words, f"attribution ({how})", 8.5)


def _draw_probabilities(canvas: _Canvas, scene: Scene, left: float, top: float, width: float) -> None:
    """Bars of the most probable classes and of the target; grey: of the original image, where it was changed."""
    changed = scene.view.transform != "original"
    order = np.argsort(-scene.probabilities, kind="stable")[:_BARS]
    if scene.target not in order:
        order[-1] = scene.target
    names, values = min(0.4 * width, 92), 84 if changed else 36
    start, full = left + names, max(width - names - values, 20)
    for k, i in enumerate(order):
        y, after, before = top + k * _BAR, scene.probabilities[i], scene.before[i]
        name = _short(scene.class_names[i], max(4, int(names / 7.5)))
        weight = "bold" if i == scene.target else "normal"
        canvas.text(start - 5, y + 7, name, 9, ha="right", fontweight=weight)
        canvas.rectangle((start, y, full, 14), facecolor="#EEEEEE")
        if changed:
            canvas.rectangle((start, y, full * before, 6), facecolor="#999999")
        canvas.rectangle((start, y + 7 * changed, full * after, 14 - 7 * changed), facecolor=COLOURS[0])
        text = f"{before:.2f} → {after:.2f}" if changed else f"{after:.2f}"
        canvas.text(start + full + 6, y + 7, text, 9, ha="left")


def draw_deletion(deletion: Deletion, target: str, width: int = 560) -> Drawing:
    """Deletion curves: the lower the area under a curve, the more its map names what the score rests on."""
    figure = Figure(figsize=(width / 100, 2.6), layout="constrained")
    axes = figure.subplots()
    for k, (name, curve) in enumerate(deletion.curves.items()):
        last = k == len(deletion.curves) - 1
        style = {"color": "#777777", "linestyle": "dotted"} if last else {"color": COLOURS[k], "marker": "os^"[k]}
        label = f"{drawn(name)}, area {deletion.areas[name]:.2f}"
        axes.plot(deletion.fractions, curve, label=label, linewidth=1.5, markersize=3.5, **style)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_xlabel("part of the pixels replaced, highest first", fontsize=9)
    axes.set_ylabel(f"probability of {drawn(target)}", fontsize=9)
    axes.tick_params(labelsize=8.5)
    axes.legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    tidy(axes)
    return Drawing(figure, ())


def contact_sheet(pixels: Sequence[np.ndarray], side: int) -> bytes:
    """uint8 images beside each other, each fitted into ``side`` x ``side`` pixels, as one JPEG."""
    sheet = Image.new("RGB", (side * max(len(pixels), 1), side), "black")
    for k, image in enumerate(pixels):
        small = Image.fromarray(np.ascontiguousarray(image))
        small.thumbnail((side, side))
        sheet.paste(small, (k * side + (side - small.width) // 2, (side - small.height) // 2))
    file = io.BytesIO()
    sheet.save(file, "jpeg", quality=85)
    return file.getvalue()


def small_jpeg(path: Path, width: int) -> bytes:
    """A picture file at most ``width`` pixels wide, as JPEG; empty where the file is missing."""
    if not path.exists():
        return b""
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((width, width))
    file = io.BytesIO()
    small.save(file, "jpeg", quality=88)
    return file.getvalue()
