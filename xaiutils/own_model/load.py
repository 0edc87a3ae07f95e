"""A model from its file: what the file is, by its content, and the model in it. Nothing in a file is run unasked."""

import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from xaiutils.backend import keras
from xaiutils.models import build_model
from xaiutils.own_model import keras2
from xaiutils.own_model.saved_model import SavedModelLayer
from xaiutils.registry import suggest

_OTHERS = {
    ".pt": "PyTorch", ".pth": "PyTorch", ".ckpt": "PyTorch", ".onnx": "ONNX", ".tflite": "TensorFlow Lite",
    ".safetensors": "safetensors", ".pkl": "pickle", ".pickle": "pickle", ".joblib": "pickle", ".npz": "NumPy",
    ".pb": "a frozen graph of TensorFlow", ".json": "JSON",
}  # fmt: skip
_CONVERT = "convert it to a Keras model or a SavedModel; docs/your_model.md says how"


def load(
    path: str | Path,
    trusted: bool = False,
    architecture: str | Mapping[str, Any] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    class_names: list[str] | None = None,
) -> keras.layers.Layer:
    """The model in a file or folder, not compiled: a ``keras.Model``, or the layer that a SavedModel is.

    ``.keras`` and ``.h5`` of Keras 3 and Keras 2, SavedModel folders, and weights (``.weights.h5``) with the
    ``architecture`` that they are of. See `xaiutils.wrap` for the arguments. Raises FileNotFoundError where nothing
    is, and ValueError, which says why and what to do, for what is no model, is damaged, or would run code of its own.
    """
    path = Path(path).expanduser()
    if not path.exists():
        there = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        near = f"; {suggest(path.name, there[:20])}" if there else f": there is no folder {path.parent}."
        raise FileNotFoundError(f"there is no {path}{near}")
    kind = _kind(path)
    if kind == "weights":
        return _of_weights(path, architecture, class_names)
    if architecture is not None:
        raise ValueError(f"{path} holds a whole model; architecture= is for files of weights alone: leave it out.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of optimizers, deprecated arguments and structures of inputs
            return _read(path, kind, trusted, dict(custom_objects or {}))
    except Exception as error:  # Keras', h5py's and TensorFlow's, of every kind
        raise ValueError(_said(path, error, trusted)) from error


def _read(path: Path, kind: str, trusted: bool, custom_objects: dict[str, Any]) -> keras.layers.Layer:
    if kind == "SavedModel":
        return SavedModelLayer(str(path), trusted=trusted, name=re.sub(r"\W", "_", path.name) or "saved_model")
    if kind == "Keras 2 h5":
        return keras2.load_h5(path, custom_objects, not trusted)
    if kind == "Keras 2 zip":
        return keras2.load_zip(path, custom_objects, not trusted)
    return keras.models.load_model(path, custom_objects=custom_objects, compile=False, safe_mode=not trusted)


def _kind(path: Path) -> str:
    """What a file or folder is, by its content. Raises ValueError where it is no model that can be read."""
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "SavedModel"
        if (path / "config.json").is_file() and (path / "model.weights.h5").is_file():
            return "Keras"
        raise ValueError(f"the folder {path} holds no model (no saved_model.pb, no config.json); give a model's file.")
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"PK"):
        return _kind_of_zip(path)
    if start == b"\x89HDF\r\n\x1a\n":
        return _kind_of_hdf5(path)
    if path.suffix.lower() in _OTHERS or start.startswith(b"\x80"):
        kind = _OTHERS.get(path.suffix.lower(), "pickle")
        raise ValueError(f"{path} is a file of {kind}, which is not read here; {_CONVERT}.")
    if path.suffix.lower() in (".keras", ".h5", ".hdf5"):
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is damaged or incomplete: it does not begin as a {path.suffix} file "
            "does. Copy it again."
        )
    raise ValueError(
        f"{path} is no model: give a .keras or .h5 file, a SavedModel folder, or a .weights.h5 file and architecture=."
    )


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in names else {}
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path} is damaged or incomplete ({error}); copy it again.") from error
    if any(name.endswith("data.pkl") for name in names):
        raise ValueError(f"{path} is a file of PyTorch, and a pickle: it is not opened; {_CONVERT}.")
    if "config.json" not in names:
        what = "of weights of an unpacked form" if "model.weights.h5" in names else "and no model of Keras"
        raise ValueError(f"{path} is an archive {what}; give the file that model.save('name.keras') writes.")
    if path.suffix != ".keras":
        raise ValueError(f"{path} is a model of Keras under another name; call it {path.stem}.keras.")
    return "Keras 2 zip" if keras2.is_keras2(metadata.get("keras_version")) else "Keras"


def _kind_of_hdf5(path: Path) -> str:
    try:
        with h5py.File(path) as file:
            if "model_config" not in file.attrs:
                return "weights"
            old = keras2.is_keras2(file.attrs.get("keras_version"))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or incomplete ({error}); copy it again.") from error
    if path.suffix not in (".h5", ".hdf5"):
        raise ValueError(f"{path} is a model of Keras under another name; call it {path.stem}.h5.")
    return "Keras 2 h5" if old else "Keras"


def _of_weights(path: Path, architecture: str | Mapping[str, Any] | None, class_names: list[str] | None) -> keras.Model:
    """The `build_model` that ``architecture`` names, with the weights of a file."""
    if architecture is None:
        raise ValueError(
            f"{path} holds weights and no model. Give architecture=, a name of build_model or its arguments (such as "
            "{'name': 'efficientnet_lite0', 'n_classes': 2, 'image_size': 224}); or build your own model, call "
            "model.load_weights(path), and wrap the model."
        )
    options: dict[str, Any] = {"name": architecture} if isinstance(architecture, str) else dict(architecture)
    if class_names is not None:
        options.setdefault("n_classes", len(class_names))
    if "name" not in options or "weights" in options:
        raise ValueError(
            f"architecture={architecture!r}; expected build_model's arguments with a 'name', and without weights."
        )
    try:
        return build_model(**options, weights=path)
    except TypeError as error:
        raise ValueError(f"architecture={architecture!r}: {error}") from error


def _said(path: Path, error: Exception, trusted: bool) -> str:
    """Why a file could not be read, and what to do."""
    text = " ".join(str(error).split())
    if "safe_mode=False" in text or "trusted=True" in text:
        what = "a SavedModel in it" if "TFSMLayer" in text else "a Lambda layer" if "ambda" in text else "code"
        if "trusted=True" in text:
            return text
        return (
            f"{path} holds {what}: code that would run on this machine when the model is loaded. Give trusted=True if "
            "you know who made the file."
        )
    unknown = re.search(r"(?:Could not locate (?:class|function)|Unknown [\w ]+?:?) '([\w>.]+)'", text)
    if unknown:
        name = unknown.group(1).split(">")[-1]
        return (
            f"{path} names {name}, which is code of its author's and not in the file. Give it as custom_objects="
            f"{{{name!r}: {name}}}, or load the model where {name} is defined, and wrap the model; for "
            "the notebooks, which do not import it, docs/your_model.md saves the functional model of its call."
        )
    lambdas = " Code of a Lambda layer loads in the Python version alone that wrote it." if trusted else ""
    return f"{path} cannot be read by Keras {keras.__version__}: {type(error).__name__}: {text[:400]}{lambdas}"
