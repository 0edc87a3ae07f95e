"""A data set as files that are mapped into memory, not read: how a run keeps its prepared splits."""

import contextlib
import hashlib
import json
import secrets
import shutil
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from xaiutils.datasets.image_dataset import ImageDataset
from xaiutils.files import reserve

_CHUNK = 64  # images at a time


def write_dataset(dataset: ImageDataset, folder: Path) -> ImageDataset:
    """Keep ``dataset`` in ``folder``, whole or not at all, and return the kept copy. Grey images take one channel."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    part.mkdir()
    try:
        grey = dataset.pixels.shape[-1] == 3 and dataset.pixels.strides[-1] == 0
        checks = {"pixels": _write(part / "pixels.npy", dataset.pixels[..., :1] if grey else dataset.pixels)}
        for name, array in _arrays(dataset).items():
            checks[name] = _write(part / f"{name}.npy", array)
        facts = {
            "class_names": dataset.class_names,
            "labels": dataset.labels.tolist(),
            "ids": dataset.ids,
            "patients": dataset.patients,
            "skipped": dataset.skipped,
            "name": dataset.name,
            "split": dataset.split,
            "available": dataset.available,
            "mirrors": dataset.mirrors,
            "notes": dataset.notes,
            "metadata": dataset.metadata.to_dict("list"),
            "evidence": None if dataset.evidence is None else dataset.evidence.tolist(),
            "label_evidence": None if dataset.label_evidence is None else dataset.label_evidence.tolist(),
            "value_name": dataset.value_name,
            "inputs": None if dataset.inputs is None else list(dataset.inputs),
            "channels": dataset.pixels.shape[-1],
            "files": None if dataset.files is None else dataset.files.to_dict("list"),
        }
        text = json.dumps(facts, default=lambda value: value.item())  # NumPy's numbers
        (part / "facts.json").write_text(text, encoding="utf-8")
        checks["facts"] = zlib.crc32(text.encode())
        (part / "checks.json").write_text(json.dumps(checks), encoding="utf-8")
        return _publish(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _arrays(dataset: ImageDataset) -> dict[str, np.ndarray]:
    """What is kept in files of its own beside the pixels, by the file's name."""
    named = {"masks": dataset.masks, "label_masks": dataset.label_masks, "values": dataset.values}
    inputs = {f"input_{i}": rows for i, rows in enumerate((dataset.inputs or {}).values())}
    return {name: array for name, array in named.items() if array is not None} | inputs


def _publish(part: Path, folder: Path) -> ImageDataset:
    """Move ``part`` to ``folder``, unless another process has put a whole copy there."""
    for _ in range(10):
        try:
            part.rename(folder)
        except OSError:  # it is there
            try:
                return read_dataset(folder)
            except (ValueError, OSError):  # damaged: out of the way with it
                with contextlib.suppress(OSError):
                    folder.rename(part.with_name(f"{part.name}.old"))
                shutil.rmtree(part.with_name(f"{part.name}.old"), ignore_errors=True)
        else:
            break
    return read_dataset(folder)


def read_dataset(folder: Path) -> ImageDataset:
    """The data set of `write_dataset`. Raises ValueError or OSError when a file is missing or damaged."""
    try:
        checks = json.loads((folder / "checks.json").read_text(encoding="utf-8"))
        text = (folder / "facts.json").read_text(encoding="utf-8")
        if zlib.crc32(text.encode()) != checks["facts"]:
            raise ValueError("facts.json is damaged")
        facts = json.loads(text)
        facts["skipped"] = [tuple(entry) for entry in facts["skipped"]]
        facts["metadata"] = pd.DataFrame(facts["metadata"], index=range(len(facts["ids"])))
        facts["files"] = None if facts["files"] is None else pd.DataFrame(facts["files"])
        pixels = _read(folder / "pixels.npy", checks["pixels"])
        arrays = {
            name: _read(folder / f"{name}.npy", checks[name]) for name in checks if name not in ("pixels", "facts")
        }
        if pixels.shape[-1] != (channels := facts.pop("channels", 3)):
            pixels = np.broadcast_to(pixels, (*pixels.shape[:3], channels))
        if facts.get("inputs") is not None:
            facts["inputs"] = {name: arrays.pop(f"input_{i}") for i, name in enumerate(facts["inputs"])}
        shape = (-1, len(facts["class_names"])) if np.ndim(facts["labels"]) == 2 else (-1,)
        labels = np.array(facts.pop("labels"), np.int64).reshape(shape)
        return ImageDataset(**{**facts, **arrays, "pixels": pixels, "labels": labels})
    except (KeyError, TypeError, EOFError) as error:
        raise ValueError(f"{folder} is damaged: {error!r}") from error


def _write(path: Path, array: np.ndarray) -> int:
    """Write an array of any size in pieces; returns its checksum."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
        )
        start = file.tell()
        reserve(file.fileno(), start + array.nbytes)
    kept = np.lib.format.open_memmap(path, "r+")
    check = 0
    for start in range(0, len(array), _CHUNK):
        piece = np.ascontiguousarray(array[start : start + _CHUNK])
        kept[start : start + _CHUNK] = piece
        check = zlib.crc32(piece.data, check)
    kept.flush()
    return check


def _read(path: Path, expected: int) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    check = 0
    for start in range(0, len(array), _CHUNK):
        check = zlib.crc32(np.ascontiguousarray(array[start : start + _CHUNK]).data, check)
    if check != expected:
        raise ValueError(f"{path} is damaged")
    return array


def code_of_data() -> str:
    """Changes when the code that prepares data does, so that a copy made by older code is not used."""
    package = Path(__file__).parents[1]
    beside = (package / name for name in ("images.py", "class_names.py", "file_limits.py"))
    sources = [*sorted((package / "datasets").rglob("*.py")), *beside]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
