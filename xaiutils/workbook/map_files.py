"""Attribution maps in files: compact, without pickle, with the images that they explain."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xaiutils.files import replace_file


def write_maps(
    path: Path, maps: Mapping[str, np.ndarray], ids: Sequence[str], images: np.ndarray | None = None
) -> Path:
    """Write float32 maps ``(n, height, width)`` by name, the images' ``ids``, and the ``images`` ``(n, height, width,
    3)`` in [0, 255] as uint8.

    Maps are kept as float16, which has 3 digits and a small range: each is divided by its largest absolute value, which
    is kept beside it as ``<name>_scale`` (n,). `read_maps` puts them together.
    """
    arrays: dict[str, Any] = {"ids": np.array(ids)}
    if images is not None:
        arrays["images"] = np.clip(images, 0, 255).astype(np.uint8)
    for name, values in maps.items():
        scale = np.abs(values).max(axis=(1, 2))
        arrays[name] = (values / np.where(scale > 0, scale, 1)[:, None, None]).astype(np.float16)
        arrays[f"{name}_scale"] = scale.astype(np.float32)
    return replace_file(path, lambda temporary: np.savez_compressed(temporary, **arrays))


def read_maps(path: Path) -> dict[str, np.ndarray]:
    """A file of `write_maps`: float32 maps by name, ``ids``, and uint8 ``images`` where they were kept."""
    with np.load(path, allow_pickle=False) as stored:
        found = {
            name: stored[name].astype(np.float32) * stored[f"{name}_scale"][:, None, None]
            for name in stored.files
            if f"{name}_scale" in stored.files
        }
        return {name: stored[name] for name in ("ids", "images") if name in stored.files} | found
