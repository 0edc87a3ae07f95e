"""Weights in NumPy's ``.npz``: read without pickle, checked against what a model expects, copied into its variables."""

import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from xaiutils.backend import keras
from xaiutils.file_limits import check_zip, naming


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of the file by name. Raises FileError for a file that is damaged, or holds pickled objects or more
    than it has room for."""
    check_zip(path)
    with naming(path, "it is not a readable .npz checkpoint; download it again"):
        with zipfile.ZipFile(path) as packed:
            for member in packed.infolist():
                _check_member(packed, member)
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}


def _check_member(packed: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raise ValueError where an array says another size than its bytes have: NumPy would allocate that."""
    formats = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with packed.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in formats:
            raise ValueError(f"{member.filename} is of the unknown version {version}")
        shape, _, dtype = formats[version](file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or size != member.file_size - file.tell():
            raise ValueError(
                f"{member.filename} says {shape} of {dtype} and has {member.file_size - file.tell()} bytes"
            )


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


def side_of(table: np.ndarray, prefix: int = 1) -> int:
    """The side of the square grid that a position table ``(1, prefix + side * side, width)`` is made for; 1 for an
    array of another shape, which `check_arrays` then names."""
    return max(math.isqrt(max(table.shape[1] - prefix, 0)), 1) if table.ndim == 3 else 1


def resized_positions(
    table: np.ndarray, grid: int, enlarge: Callable[[np.ndarray, int], np.ndarray], prefix: int = 1
) -> np.ndarray:
    """A position table ``(1, prefix + n * n, width)`` for ``grid * grid`` patches; the class token's row is kept.

    ``enlarge`` takes the patches float32 ``(n, n, width)`` and ``grid``, and gives those of the new grid.
    """
    old = math.isqrt(table.shape[1] - prefix)
    if grid == old:
        return table
    patches = enlarge(table[0, prefix:].reshape(old, old, -1).astype(np.float32), grid)
    return np.concatenate([table[:, :prefix].astype(np.float32), patches.reshape(1, grid * grid, -1)], axis=1)
