"""Converted pictures kept on disk: a second start reads small PNGs in place of DICOM files."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pooch
from PIL import Image, PngImagePlugin

from xaiutils.files import replace_file


def cache_folder() -> Path:
    """Where converted pictures are: the environment variable ``XAI_CACHE``, or the user's cache folder; made if
    missing."""
    folder = Path(os.environ.get("XAI_CACHE") or pooch.os_cache("xaiutils"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def file_key(path: Path) -> tuple[str, int, int]:
    """Changes when the file is another one, or was written again."""
    facts = path.stat()
    return str(path.resolve()), facts.st_size, facts.st_mtime_ns


def cached_picture(
    key: Any, make: Callable[[], tuple[np.ndarray, np.ndarray | None, dict[str, Any]]]
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """``make()``, or what it gave for this key before: uint8 pixels (grey or colour), a bool mask or None, and facts.

    One PNG holds all of it: the mask is its alpha channel, the facts and a checksum are text. An entry that is
    damaged in any way, or was made by other code, is made again.
    """
    digest = hashlib.sha256(json.dumps([code_of_reading(), key], default=str).encode()).hexdigest()
    path = cache_folder() / "pictures" / digest[:2] / f"{digest[2:32]}.png"
    if path.exists():
        try:
            return _read(path)
        except Exception:  # damaged files raise nearly anything
            path.unlink(missing_ok=True)
    pixels, mask, facts = make()
    if facts.get("remarks", {}).get("evidence"):  # what cannot be read now may be readable the next time
        return pixels, mask, facts
    try:
        replace_file(path, lambda temporary: _write(temporary, pixels, mask, facts))
    except OSError as error:  # a full disk: the picture is fine, the next start is slower
        warnings.warn(f"converted pictures cannot be kept in {path.parent.parent}: {error}", stacklevel=2)
    return pixels, mask, facts


@cache
def code_of_reading() -> str:
    """Changes when the code that converts pictures does, or a library that it uses."""
    datasets = Path(__file__).parents[1]
    sources = [*sorted(datasets.rglob("*.py")), datasets.parent / "images.py"]
    libraries = [
        metadata.version(name) for name in ("pydicom", "pillow", "python-gdcm", "scikit-image", "scipy", "numpy")
    ]
    return hashlib.sha256(b"".join(p.read_bytes() for p in sources) + repr(libraries).encode()).hexdigest()


def _write(path: Path, pixels: np.ndarray, mask: np.ndarray | None, facts: dict[str, Any]) -> None:
    image = Image.fromarray(pixels)
    if mask is not None:
        image.putalpha(Image.fromarray(mask.astype(np.uint8) * 255))
    text = PngImagePlugin.PngInfo()
    text.add_text("facts", json.dumps(facts))
    text.add_text("checksum", _checksum(np.asarray(image), json.dumps(facts)))
    image.save(path, pnginfo=text, compress_level=3)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    with Image.open(path) as image:
        image.load()
        text: dict[Any, Any] = image.info  # a PNG's texts
        array, facts, mode = np.asarray(image), text["facts"], image.mode
        if text["checksum"] != _checksum(array, facts):
            raise ValueError(f"{path} is damaged")
    if mode in ("LA", "RGBA"):
        pixels = array[..., 0] if mode == "LA" else array[..., :3]
        return pixels, array[..., -1] > 0, json.loads(facts)
    return array, None, json.loads(facts)


def _checksum(array: np.ndarray, facts: str) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes() + facts.encode()).hexdigest()
