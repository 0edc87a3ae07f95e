"""Figures as an HTML page embeds them: WebP pictures, read and made in threads (Pillow works outside Python's lock)."""

import base64
import hashlib
import io
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from xaiutils.workbook.picture import FIGURE_DPI

_WIDTHS = (1600, 1200, 900, 640, 400)  # those that take more than their share get the next one
_MOST_BYTES = 3_000_000  # of all pictures; in base64 a third more
_CSS_DPI = 96
_THREADS = min(4, os.cpu_count() or 1)  # each holds a figure at 300 dpi


@dataclass(frozen=True)
class PagePicture:
    """A figure's file: ``width`` and ``height`` in CSS pixels as on paper, so that its type has its own size;
    ``digest`` of its bytes; ``data``, its WebP."""

    path: Path
    width: int
    height: int
    digest: bytes
    data: bytes


def read_pictures(paths: Mapping[str, Path]) -> dict[str, Future[PagePicture]]:
    """The figures in the files ``paths``, which threads begin to read; a damaged one raises as its result is asked
    for."""
    pool = ThreadPoolExecutor(_THREADS)
    read = {name: pool.submit(_read, path) for name, path in paths.items()}
    pool.shutdown(wait=False)
    return read


def _read(path: Path) -> PagePicture:
    digest = hashlib.sha256(path.read_bytes()).digest()
    with Image.open(path) as picture:
        dpi = picture.info.get("dpi", (FIGURE_DPI["saved"],))[0]
        width, height = (max(1, round(pixels * _CSS_DPI / dpi)) for pixels in picture.size)
        return PagePicture(path, width, height, digest, _small(picture, _WIDTHS[0]))


def within_budget(pictures: Mapping[str, PagePicture]) -> dict[str, bytes]:
    """The WebP of each picture, all of them within 3 MB if the narrowest are: those that take more than their share
    are made narrower, step by step."""
    data = {name: picture.data for name, picture in pictures.items()}
    with ThreadPoolExecutor(_THREADS) as pool:
        for width in _WIDTHS[1:]:
            if sum(map(len, data.values())) <= _MOST_BYTES:
                break
            large = [name for name, found in data.items() if len(found) > _MOST_BYTES / len(data)]
            paths = [pictures[name].path for name in large]
            data.update(zip(large, pool.map(for_screen, paths, [width] * len(large)), strict=True))
    return data


def for_screen(path: Path, width: int = _WIDTHS[0]) -> bytes:
    """WebP of a figure, at most ``width`` pixels wide."""
    with Image.open(path) as picture:
        return _small(picture, width)


def as_url(webp: bytes) -> str:
    """A picture as a ``data:`` URL."""
    return f"data:image/webp;base64,{base64.b64encode(webp).decode('ascii')}"


def _small(picture: Image.Image, width: int) -> bytes:
    rgb = picture.convert("RGB")
    rgb.thumbnail((width, 10 * width))
    small = io.BytesIO()
    rgb.save(small, "webp", quality=82, method=2)
    return small.getvalue()
