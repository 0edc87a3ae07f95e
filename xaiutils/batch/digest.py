"""What files hold, as digests: of models their weights and configuration, without the time at which they were saved and
without the memory addresses by which Keras tells shared objects apart."""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

_MODELS = (".keras", ".h5", ".npz")


def sha256(path: Path) -> str:
    """Of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def product(folder: Path) -> str:
    """What later jobs take from a job: the prepared data by their checksums, models by their weights and layers."""
    found = {path.parent.name.partition("-")[0]: path for path in folder.glob("data/*/checks.json")}
    models = (path for path in folder.glob("models/*/*") if path.suffix in _MODELS)
    found |= {path.relative_to(folder).as_posix(): path for path in models}
    text = json.dumps([(name, content(path)) for name, path in sorted(found.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def content(path: Path) -> str:
    """What a file holds: of ``.keras``, ``.h5`` and ``.npz`` the arrays and the configuration, of others the bytes, and
    of one that is damaged."""
    try:
        if zipfile.is_zipfile(path):
            return _of_archive(path)
        return _of_hdf5(path) if path.suffix == ".h5" else sha256(path)
    except (OSError, ValueError, KeyError, RuntimeError, RecursionError, zipfile.BadZipFile, NotImplementedError):
        return sha256(path)


def _of_archive(path: Path) -> str:
    parts = []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name == "metadata.json":  # the version of Keras, and when it was saved
                continue
            held = archive.read(name)
            if name.endswith(".h5"):
                parts.append((name, _of_hdf5(io.BytesIO(held))))
            elif name == "config.json":
                parts.append((name, json.dumps(_without_addresses(json.loads(held), {}), sort_keys=True)))
            else:
                parts.append((name, hashlib.sha256(held).hexdigest()))
    return json.dumps(parts)


def _without_addresses(value: Any, seen: dict[Any, int]) -> Any:
    """The same with shared objects numbered in the order in which they appear: which are shared is part of a model."""
    if isinstance(value, list):
        return [_without_addresses(item, seen) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: seen.setdefault(item, len(seen)) if key == "shared_object_id" else _without_addresses(item, seen)
        for key, item in sorted(value.items())
    }


def _of_hdf5(file: Path | io.BytesIO) -> str:
    """Groups, arrays and attributes by their names; a file also has times and a layout of its own."""
    import h5py

    digest = hashlib.sha256()

    def add(name: str, item: Any) -> None:
        attributes = sorted((key, repr(value)) for key, value in item.attrs.items())
        digest.update(f"{name}\0{attributes}\0".encode())
        if isinstance(item, h5py.Dataset):
            array = item[()]
            digest.update(f"{getattr(array, 'dtype', type(array))}\0{getattr(array, 'shape', ())}\0".encode())
            digest.update(array.tobytes() if hasattr(array, "tobytes") else repr(array).encode())

    with h5py.File(file, "r") as opened:
        add("", opened)
        names: list[str] = []
        opened.visit(names.append)
        for name in sorted(names):
            add(name, opened[name])
    return digest.hexdigest()
