"""Converted pictures kept on disk: a second start reads small PNGs in place of DICOM files."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pooch
from PIL import Image, PngImagePlugin

from xaiutils.files import replace_file

VERSION = 1  # raise it when a conversion changes: entries of older code are then not used


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
    damaged in any way is made anew.
    """
    digest = hashlib.sha256(json.dumps([VERSION, key], default=str).encode()).hexdigest()
    path = cache_folder() / "pictures" / digest[:2] / f"{digest[2:32]}.png"
    if path.exists():
        try:
            return _read(path)
        except Exception:  # damaged files raise nearly anything
            path.unlink(missing_ok=True)
    pixels, mask, facts = make()
    replace_file(path, lambda temporary: _write(temporary, pixels, mask, facts))
    return pixels, mask, facts


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
        array, facts, mode = np.asarray(image), image.text["facts"], image.mode
        if image.text["checksum"] != _checksum(array, facts):
            raise ValueError(f"{path} is damaged")
    if mode in ("LA", "RGBA"):
        pixels = array[..., 0] if mode == "LA" else array[..., :3]
        return pixels, array[..., -1] > 0, json.loads(facts)
    return array, None, json.loads(facts)


def _checksum(array: np.ndarray, facts: str) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes() + facts.encode()).hexdigest()
