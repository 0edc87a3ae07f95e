"""A scene as a picture: the image with its probabilities, each map with its colour scale, drawn by `xaiutils.plots`.

Sizes are in pixels of 1/100 inch, whatever the resolution: the same picture is drawn for the screen and for print.
"""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from scipy.ndimage import label

from xaiutils.evaluation.thresholds import binary_map
from xaiutils.plots import COLOURS, display_range, draw_map
from xaiutils.plots.maps import draw_image, is_even, probability_bars
from xaiutils.plots.style import outline, tidy
from xaiutils.text import drawn
from xaiutils.transforms import TRANSFORMS
from xaiutils.widgets.scene import RANDOM_ORDER, ComputedMap, DeletionCurves, Scene
from xaiutils.widgets.view_settings import GREYS, PALETTES, READ_AS

SCREEN_WIDTH, PRINT_DPI = 1000, 300
_SIDES = (120, 640)  # the width of an image, at least and at most
PRINT_HEIGHT = 360.0  # of an image, at most
_GAP, _MARGIN, _ABOVE, _BELOW = 18, 8, 44, 66  # between images, at the edges, for the titles, for what lies below
_SCREEN_PIXELS = 640  # larger images are thinned out for the screen
_BARS, _BAR = 3, 19  # classes whose probability is shown, and the height of each
_FRAGMENTS = 60  # found areas of more pieces are shaded instead of outlined
Place = tuple[float, float, float, float]  # left, top, width, height from the figure's top left


@dataclass(frozen=True)
class Drawing:
    """A figure, and where its images lie: (left, top, width, height) as fractions of the figure, from its top left."""

    figure: Figure
    frames: tuple[Place, ...] = ()

    def png(self, dpi: float = 100) -> bytes:
        """The picture; ``dpi`` dots an inch."""
        file = io.BytesIO()
        self.figure.savefig(file, format="png", dpi=dpi, pil_kwargs={"compress_level": 2})
        return file.getvalue()

    @property
    def width(self) -> float:
        """The width of the picture on a page, in pixels."""
        return self.figure.get_figwidth() * 100


def draw_scene(scene: Scene, width: int = SCREEN_WIDTH, full: bool = True, highest: float = PRINT_HEIGHT) -> Drawing:
    """The picture of a scene: the image with its probabilities, and each map with its colour scale.

    Args:
        width: of the whole in pixels of 1/100 inch.
        full: draw all pixels of large images; without it every k-th, for the screen.
        highest: the height of an image at most, in the same pixels.
    """
    columns = 1 + len(scene.maps)
    left, top, right, bottom = scene.view.zoom or (0, 0, *scene.image.shape[1::-1])
    rows, cols = bottom - top, right - left
    among = (width - 2 * _MARGIN - _GAP * (columns - 1)) / columns
    side = float(np.clip(min(among, highest * cols / rows), *_SIDES))
    height = side * rows / cols
    size = 2 * _MARGIN + columns * side + _GAP * (columns - 1), _ABOVE + height + _BELOW
    figure = Figure(figsize=(size[0] / 100, size[1] / 100))
    step = 1 if full else -(-max(rows, cols) // _SCREEN_PIXELS)
    places = [(_MARGIN + k * (side + _GAP), float(_ABOVE), side, height) for k in range(columns)]
    below = _ABOVE + height + 10

    axes = _add_axes(figure, places[0])
    draw_image(axes, _windowed(scene)[::step, ::step])
    _draw_marks(axes, scene, scene.mask, scene.grid, step)
    if scene.mm_along is not None:
        _draw_scale_bar(axes, cols * scene.mm_along)
    title = f"image {scene.view.image}: {scene.truth}"
    _draw_titles(axes, side, title, TRANSFORMS[scene.view.transform].title)
    _draw_probabilities(figure, scene, (places[0][0], below, side, _BAR * min(_BARS, len(scene.class_names))))
    for place, found, (limits, signed) in zip(places[1:], scene.maps, _colour_scales(scene), strict=True):
        axes = _add_axes(figure, place)
        _draw_titles(axes, side, found.choice.title, _explained(scene, found))
        if found.values is None:
            _draw_error(axes, found.error, side)
            continue
        shown = _draw_map(axes, scene, found.values[::step, ::step], limits, signed, step)
        _draw_found(axes, scene, found, signed, step)
        _draw_marks(axes, scene, found.answer.mask, found.answer.grid, step)
        scale = _add_axes(figure, (place[0] + 0.08 * side, below, 0.84 * side, 9))
        _draw_colour_scale(scale, shown, found, limits is not None, signed)
    whole = np.array([*size, *size])
    return Drawing(figure, tuple(tuple(np.divide(place, whole).tolist()) for place in places))


def _add_axes(figure: Figure, place: Place) -> Axes:
    width, height = figure.get_size_inches() * 100
    left, top, wide, high = place
    return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))


def _colour_scales(scene: Scene) -> list[tuple[Normalize | None, bool]]:
    """Limits, and whether the colours are those of signed maps, for each map. Limits are None where there are no
    values, or all are one and the same: no range of colours stands for it. Under one scale all maps are signed if one
    is."""
    known = [(m.values, m.signed) for m in scene.maps if m.values is not None]
    if scene.view.scale == "shared" and known:
        signed = any(one for _, one in known)
        common = _limits(np.stack([values for values, _ in known]), signed)
        return [(None if m.values is None else common, signed) for m in scene.maps]
    return [(None if m.values is None else _limits(m.values, m.signed), m.signed) for m in scene.maps]


def _limits(values: np.ndarray, signed: bool) -> Normalize | None:
    return None if is_even(values) else display_range(values, signed)


def _explained(scene: Scene, found: ComputedMap) -> str:
    """Whose map it is, for the line below its title."""
    own = found.answer
    if own.model != scene.view.model:
        return f"for {own.name}, {own.text}, on {own.model}"
    name = scene.explains if own.target == scene.target else own.name
    return f"for {name}, {own.text}"


def _windowed(scene: Scene) -> np.ndarray:
    """The image with the chosen grey levels as black and white."""
    black, white = scene.view.window
    if (black, white) == GREYS:
        return scene.image
    return np.clip((scene.image - black) * (255 / (white - black)), 0, 255)


def _draw_scale_bar(axes: Axes, width: float) -> None:
    """A bar of 1, 2 or 5 times a power of ten millimetres, at most a third of the picture, which is ``width`` mm."""
    tens = 10.0 ** np.floor(np.log10(width / 3))
    length = max(k * tens for k in (1, 2, 5) if k * tens <= width / 3)
    stroke = [withStroke(linewidth=3.5, foreground="black")]
    place: dict[str, Any] = {"transform": axes.transAxes, "color": "white", "path_effects": stroke}
    axes.plot([0.04, 0.04 + length / width], [0.04, 0.04], linewidth=2, solid_capstyle="butt", clip_on=False, **place)
    axes.text(0.04, 0.06, f"{length:g} mm", fontsize=8.5, va="bottom", **place)


def for_dark_page(figure: Figure) -> None:
    """Make a figure fit a dark page: no ground of its own, and light letters in place of grey and black ones."""
    figure.set_facecolor("none")
    for axes in figure.axes:
        if axes.get_facecolor()[:3] == to_rgb("#EEEEEE"):
            axes.set_facecolor("#3A3A3A")
        elif axes.get_xlabel() and axes.lines:
            axes.set_facecolor("none")
            axes.spines[:].set_color("#BBBBBB")
            axes.tick_params(color="#BBBBBB")
    for text in figure.findobj(Text):
        red, green, blue = to_rgb(text.get_color())
        if red == green == blue < 0.5:
            text.set_color(str(0.9 - 0.6 * red))


def _short(text: str, most: float) -> str:
    """A text that is not longer than its place allows."""
    return text if len(text) <= most else f"{text[: int(most) - 1]}…"


def _draw_titles(axes: Axes, side: float, title: str, subtitle: str) -> None:
    rows = ((title, "black", 11.0, 8.2, 5, 17), (subtitle, "#444444", 9.0, 6.2, 4, 4))
    for text, colour, largest, wide, most, points in rows:
        words, size = drawn(_short(text, side / most)), min(largest, largest * side / (wide * len(text)))
        place = axes.annotate(words, (0.5, 1), (0, points), "axes fraction", "offset points", color=colour, ha="center")
        place.set_fontsize(size)


def _draw_map(
    axes: Axes, scene: Scene, values: np.ndarray, limits: Normalize | None, signed: bool, step: int
) -> ScalarMappable:
    view = scene.view
    return draw_map(
        axes,
        _windowed(scene)[::step, ::step],
        values,
        signed,
        opacity=view.opacity,
        limits=limits,
        style=view.style,
        colours=PALETTES[view.palette][signed],
    )


def _draw_found(axes: Axes, scene: Scene, found: ComputedMap, signed: bool, step: int) -> None:
    """The border of the pixels over the threshold; many small pieces are shaded."""
    if not scene.view.show_found or found.values is None:
        return
    pixels = binary_map(found.values, **scene.view.threshold_parameters)[::step, ::step]
    if label(pixels)[1] > _FRAGMENTS:
        shade = np.zeros((*pixels.shape, 4), np.uint8)
        shade[pixels] = (0, 0, 0, 150) if signed else (255, 255, 255, 170)
        axes.imshow(shade)
    elif pixels.any() and not pixels.all():
        lines = axes.contour(pixels, [0.5], colors="black", linewidths=1.0, linestyles="dashed")
        lines.set_path_effects([withStroke(linewidth=2.4, foreground="white")])


def _draw_marks(axes: Axes, scene: Scene, mask: np.ndarray | None, grid: tuple[int, int] | None, step: int) -> None:
    """The border of the known evidence, the grid, the region; only the part that is zoomed to stays in sight."""
    view, (rows, cols) = scene.view, scene.image.shape[:2]
    if view.show_mask and mask is not None:
        outline(axes, mask[::step, ::step], 0.9)
    if grid is not None:
        style = {"color": "white", "linewidth": 0.5, "alpha": 0.7}
        for n, draw in zip(grid, (axes.axhline, axes.axvline), strict=True):
            length = (rows if draw == axes.axhline else cols) / step
            for k in range(1, n):
                draw(length * k / n - 0.5, **style)
    if view.region is not None:
        left, top, right, bottom = np.array(view.region) / step
        box = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=COLOURS[3])
        box.set(linewidth=1.4, path_effects=[withStroke(linewidth=2.6, foreground="white")])
        axes.add_patch(box)
    if view.zoom is not None:
        left, top, right, bottom = np.array(view.zoom) / step - 0.5
        axes.set(xlim=(left, right), ylim=(bottom, top))


def _draw_error(axes: Axes, text: str, side: float) -> None:
    axes.set(xticks=[], yticks=[], facecolor="#F5F5F5")
    axes.spines[:].set_color(COLOURS[1])
    words = drawn("\n".join(textwrap.wrap(text, max(16, int(side / 6.8)))[:14]))
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=8.5, color="#8A3C00")


def _draw_colour_scale(axes: Axes, shown: ScalarMappable, found: ComputedMap, has_range: bool, signed: bool) -> None:
    if not has_range:
        axes.set_axis_off()
        words = f"every value is {float(found.known_values.flat[0]):.3g}:\nno colour scale"
        axes.text(0.5, 1, words, transform=axes.transAxes, ha="center", va="top", fontsize=8.5)
        return
    bar = axes.figure.colorbar(shown, cax=axes, orientation="horizontal")
    low, high = shown.get_clim()
    low_text = "0" if abs(low) < 1e-3 * abs(high) else f"{low:.2g}"
    if signed:
        bar.set_ticks([low, 0, high], labels=[f"{low_text}\nagainst", "0", f"{high:.2g}\nfor"])
    else:
        bar.set_ticks([low, high], labels=[low_text, f"{high:.2g}"])
        axes.set_xlabel(f"attribution ({READ_AS.get(found.reading, 'raw')})", fontsize=8.5, labelpad=1)
    axes.tick_params(length=0, pad=2, labelsize=8.5)
    first, *_, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")


def _draw_probabilities(figure: Figure, scene: Scene, place: Place) -> None:
    """Bars of the most probable classes and of the target; grey: of the original image, where it was changed. A score
    is written."""
    changed = scene.view.transform != "original"
    left, top, width, height = place
    if scene.is_score:
        axes = _add_axes(figure, place)
        axes.set_axis_off()
        old = f"{scene.before[0]:.4g} → " if changed else ""
        axes.text(0.5, 0.5, drawn(f"{scene.explains}: {old}{scene.answer}"), ha="center", va="center", fontsize=10)
        return
    names, values = min(0.4 * width, 92), 84 if changed else 36
    axes = _add_axes(figure, (left + names, top, max(width - names - values, 20), height))
    shown = [_short(name, max(4, int(names / 7.5))) for name in scene.class_names]
    before = scene.before if changed else None
    probability_bars(axes, scene.probabilities, shown, _BARS, before, scene.target)
    axes.set(xticks=[], facecolor="#EEEEEE")
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)


def draw_deletion(
    deletion: DeletionCurves, titles: Sequence[str], target: str, width: int = 760, is_score: bool = False
) -> Drawing:
    """Deletion curves: the lower the area under a curve, the more its map names what the score rests on."""
    figure = Figure(figsize=(width / 100, 2.6), layout="constrained")
    axes = figure.subplots()
    for k, curve in deletion.curves.items():
        (line,) = axes.plot(deletion.fractions, curve, linewidth=1.5, markersize=3.5)
        if k == RANDOM_ORDER:
            name = "random order"
            line.set(color="#777777", linestyle="dotted")
        else:
            name = f"map {k}: {titles[k - 1]}"
            line.set(color=COLOURS[k - 1], marker="os^"[k - 1])
        line.set_label(f"{drawn(name)}, area {deletion.areas[k]:.2f}")
    axes.set(xlim=(0, 1), **({} if is_score else {"ylim": (0, 1.02)}))
    axes.set_xlabel("fraction of pixels replaced, highest first", fontsize=9)
    axes.set_ylabel(drawn(target) if is_score else f"probability of {drawn(target)}", fontsize=9)
    axes.tick_params(labelsize=8.5)
    axes.legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    tidy(axes)
    return Drawing(figure)
