"""Weights in NumPy's ``.npz``: read without pickle, checked against what a model expects, copied into its variables."""

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from xaiutils.backend import keras


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of the file by name. Raises ValueError for a file that is damaged or holds pickled objects."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (ValueError, EOFError, KeyError, AttributeError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable .npz checkpoint ({error}); download it again.") from error


def check_arrays(
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    title: str,
    optional: Iterable[str] = (),
    hint: str = "",
) -> None:
    """Raise ValueError unless ``arrays`` are exactly the ``expected`` names and shapes, and all numbers are finite.

    Args:
        title: what the message calls the file and the model.
        optional: names that may be there too, in any shape.
        hint: what to do instead, at the message's end.
    """
    problems = {
        "missing": sorted(set(expected) - set(arrays)),
        "unexpected": sorted(set(arrays) - set(expected) - set(optional)),
        "of another shape": [
            f"{name} {arrays[name].shape} in place of {shape}"
            for name, shape in expected.items()
            if name in arrays and arrays[name].shape != tuple(shape)
        ],
    }
    if not any(problems.values()):
        problems["not finite numbers"] = [
            name for name in expected if arrays[name].dtype.kind != "f" or not np.isfinite(arrays[name]).all()
        ]
    found = "; ".join(f"{kind}: {_few(names)}" for kind, names in problems.items() if names)
    if found:
        raise ValueError(f"{title} do not fit: {found}.{f' {hint}' if hint else ''}")


def _few(names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def assign(model: keras.Model, values: Mapping[str, np.ndarray]) -> None:
    """Copy arrays into the model's variables of these paths ("block_00_norm1/gamma"), reshaped where only the split
    of the axes differs (attention heads)."""
    variables = {variable.path: variable for variable in model.variables}
    for path, value in values.items():
        variables[path].assign(np.asarray(value, np.float32).reshape(variables[path].shape))
