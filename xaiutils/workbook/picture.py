"""Figures as notebooks show them, small enough to commit."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.image import AxesImage, BboxImage, FigureImage
from PIL import Image

from xaiutils.files import replace_file
from xaiutils.plots.columns import fit_columns

FIGURE_DPI = {"saved": 300, "shown": 110}
_PAD = 0.02  # inches around a figure
_PNG_LIMIT = 120_000  # bytes: pictures over it are shown as JPEG, so that notebooks stay small


class Picture:
    """A figure, or its PNG file at the resolution that is saved, as a notebook shows it: a small PNG, or a JPEG where
    the PNG would be large."""

    def __init__(self, figure: Figure | Path) -> None:
        if isinstance(figure, Path):  # made smaller: to draw it again would take ten times as long
            with Image.open(figure) as saved:
                shown = [max(1, round(side * FIGURE_DPI["shown"] / FIGURE_DPI["saved"])) for side in saved.size]
                picture = saved.convert("RGB").resize((shown[0], shown[1]), Image.Resampling.LANCZOS)
        else:
            buffer = io.BytesIO()
            fit_columns(figure)
            figure.savefig(buffer, format="png", dpi=FIGURE_DPI["shown"], bbox_inches="tight", pad_inches=_PAD)
            picture = Image.open(buffer).convert("RGB")
        self.width, self.height = picture.size
        small, photo = io.BytesIO(), io.BytesIO()
        picture.quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
        picture.save(photo, "jpeg", quality=80)
        png = small.tell() < _PNG_LIMIT
        self._data = {"image/png": small.getvalue()} if png else {"image/jpeg": photo.getvalue()}

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {**self._data, "text/plain": f"<Picture {self.width} x {self.height}>"}


def print_figure(figure: Figure, path: Path, columns: int = 0) -> None:
    """Write a figure at the width of a journal's columns (`xaiutils.plots.columns.fit_columns`): ``path``, a PNG of 300
    dpi, and beside it a PDF, vectors with their fonts inside."""
    dpi = figure.get_dpi()
    figure.set_dpi(FIGURE_DPI["saved"])  # letters are laid out as wide as they are printed
    fit_columns(figure, columns)
    figure.set_layout_engine("none")  # it is laid out: not again for each file
    box = figure.get_tightbbox().padded(_PAD)
    for file in (path, path.with_suffix(".pdf")):
        with rc_context({"pdf.fonttype": 42}):
            replace_file(file, lambda part: figure.savefig(part, dpi=FIGURE_DPI["saved"], bbox_inches=box))
    figure.set_dpi(dpi)


def figure_of(
    save: Callable[[Figure, str, str], Picture],
    draw: Callable[[Any], Figure],
    found: Mapping[str, Any],
    name: str,
    caption: str,
    none: str = "no classifier among the models",
) -> Picture | str:
    """What ``save``, a `Run.save_figure`, returns of ``draw(found)``; ``none`` where nothing is found."""
    return save(draw(found), name, caption) if found else none


def shows_images(figure: Figure) -> bool:
    """Whether an image of at least 32 x 32 pixels is in the figure: it may be a patient's (`xaiutils.batch.pack`)."""
    images = [a for a in figure.findobj() if isinstance(a, AxesImage | BboxImage | FigureImage)]
    sizes = [array.shape[:2] for image in images if (array := image.get_array()) is not None]
    return any(min(size) >= 32 for size in sizes)
