"""A user's own models among those of a run: what the parameters say of them, and what the run keeps of them.

``models/<name>/own.json`` holds the path of the file and its digest, the options by which `xaiutils.own_model` reads
it, and when it was taken into the run. Light on purpose: the models themselves are loaded on demand.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaiutils.files import write_text
from xaiutils.registry import UnknownNameError, suggest

if TYPE_CHECKING:
    from xaiutils.models.wrapped import WrappedModel

# What `xaiutils.own_model.wrap` takes that can be written in YAML.
OPTIONS = ("scaling", "class_names", "positive_class", "output", "inputs", "head", "channels_first", "trusted",
           "architecture")  # fmt: skip
_KEYS = ("path", "name", "digest", *OPTIONS)
_SUFFIXES = (".keras", ".h5", ".hdf5")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
KEPT = "own.json"


@dataclass(frozen=True)
class OwnModel:
    """A model that a user brings: its ``name`` in the run, the absolute ``path`` of its file or folder, and the options
    of `OPTIONS` that were given. ``digest``: what the file must be, as a batch noted it; empty: whatever it is."""

    name: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def entry(self) -> dict[str, Any]:
        """As an entry of the parameter ``models``."""
        digest = {"digest": self.digest} if self.digest else {}
        return {"name": self.name, "path": self.path, **self.options, **digest}

    def wrap(self, **changes: Any) -> "WrappedModel":
        """The model as the whole package takes it, with ``changes`` of its options. Raises ValueError that names it."""
        from xaiutils.own_model.wrap import wrap

        options = {**self.options, **changes}
        if isinstance(options.get("scaling"), list):
            options["scaling"] = tuple(options["scaling"])
        try:
            return wrap(self.path, **options)
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"{self.name} ({self.path}): {error}") from error


def own_model(entry: Any, options: Mapping[str, Any] | None = None) -> OwnModel | None:
    """What an entry of ``models`` says of a file; None for the name of a model of this package or of the run.

    A path is taken from the current folder. ``options`` are those of ``model_options``, which the entry's own overlay.
    Raises ValueError for a mapping that is not as it should be, and for a path where nothing is.
    """
    from xaiutils.models import MODELS

    if isinstance(entry, str) and not is_file(entry):
        return None
    entry = {"path": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), str):
        raise ValueError(f"models: {entry!r} is neither a name, nor a path, nor a mapping with a 'path'.")
    if not entry["path"].strip():
        raise ValueError(f"models: the path of {dict(entry)} is empty; give that of a model's file.")
    for key in entry:
        if key not in _KEYS:
            raise ValueError(f"models: unknown option {key!r} of {entry['path']}; {suggest(key, list(_KEYS))}")
    path = Path(entry["path"]).expanduser()
    if not path.exists():
        raise ValueError(f"models: there is no {entry['path']} (looked for in {path.absolute().parent}).")
    chosen = {**(options or {}), **{k: v for k, v in entry.items() if k in OPTIONS}}
    if isinstance(names := chosen.get("class_names"), str):
        chosen["class_names"] = [part.strip() for part in names.split(",")]
    name = entry.get("name") or _name_of(path)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"models: name={name!r} is not a folder name; use letters, digits, - and _.")
    if name in MODELS:
        raise ValueError(f"models: name={name!r} is that of a model of this package; give another.")
    return OwnModel(name, str(path.resolve()), chosen, entry.get("digest", ""))


def is_file(entry: Any) -> bool:
    """Whether an entry of ``models`` stands for a file: a mapping with a path, or a text that looks like one."""
    from xaiutils.models import MODELS

    if not isinstance(entry, str):
        return isinstance(entry, Mapping) and "path" in entry
    text = entry
    if text in MODELS:
        return False
    return text.lower().endswith(_SUFFIXES) or "/" in text or "\\" in text or (Path(text) / "saved_model.pb").is_file()


def _name_of(path: Path) -> str:
    """The name of a file without what folders cannot be called; another one where a model of the package has it."""
    from xaiutils.models import MODELS

    stem = path.name.removesuffix(".weights.h5") if path.name.endswith(".weights.h5") else path.stem
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("-") or "own"
    return f"{name}_own" if name in MODELS else name


def by_name(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, OwnModel]]:
    """Parameters in which ``models`` and ``model`` are names, and the own models by these names.

    ``model_options`` goes into the own models. Raises ValueError as `own_model` does.
    """
    given = dict(values)
    options = given.pop("model_options", {})
    own: dict[str, OwnModel] = {}
    unknown = [key for key in options if key not in OPTIONS]
    if unknown:
        raise ValueError(f"model_options: unknown option {unknown[0]!r}; {suggest(unknown[0], list(OPTIONS))}")
    for key in ("models", "model"):
        entries = given.get(key) or []
        names = []
        for entry in [entries] if isinstance(entries, str | Mapping) else entries:
            found = own_model(entry, options)
            names.append(entry if found is None else found.name)
            if found is not None:
                if (other := own.setdefault(found.name, found)).path != found.path:
                    raise ValueError(f"{key}: {other.path} and {found.path} are both called {found.name!r}; "
                                     "give one of them another 'name'.")  # fmt: skip
                own[found.name] = found
        if names:
            given[key] = names if key == "models" else names[0]
    if options and not own:
        raise ValueError("model_options is given, but no model of your own; name its file in models.")
    return given, own


def check_names(names: Sequence[Any], known: Collection[str]) -> None:
    """Raise where an entry of ``models`` names no model: of this package, of a file, or ``known`` in the run."""
    from xaiutils.models import MODELS

    found = [entry if (own := own_model(entry)) is None else own.name for entry in names]
    if len(set(found)) < len(found):
        raise ValueError(f"models names one of its entries twice: {found}; give one of them another 'name'.")
    for entry in names:
        if own_model(entry) is None and entry not in known:
            try:
                MODELS[entry]
            except UnknownNameError as error:
                raise ValueError(f"{error} Or give the path of a file of your own.") from error


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names."""
    path, digest = Path(path), hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(f"{file.relative_to(path)}\0".encode() if path.is_dir() else b"")
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class Kept:
    """What a run keeps of an own model: ``own`` with all options by which it was read, the digest of its file among
    them, and ``asked``, those that the user gave."""

    own: OwnModel
    asked: Mapping[str, Any]


def read_kept(folder: Path) -> Kept | None:
    """What a model's folder holds of an own model; None where it is none. Raises ValueError for a damaged record."""
    path = folder / KEPT
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Kept(OwnModel(folder.name, kept["path"], kept["options"], kept["digest"]), kept["asked"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); run 02_train_models again.") from error


def write_kept(folder: Path, kept: Kept, **facts: Any) -> None:
    """Write it, with the time and further ``facts``."""
    own, now = kept.own, datetime.now(UTC).isoformat()
    record = {"path": own.path, "digest": own.digest, "options": own.options, "asked": kept.asked, "trained": now}
    write_text(folder / KEPT, json.dumps(record | facts, indent=1, default=str))


def kept_names(models: Path) -> list[str]:
    """Names of the own models in a run's folder of models."""
    return [path.parent.name for path in models.glob(f"*/{KEPT}")]


def fitting_size(own: Sequence[OwnModel], given: int | None, default: int) -> int:
    """The size of images that all own models take: ``given``, or where None the models' own, or ``default`` where they
    take any. Raises ValueError where there is none, or where a model cannot be read."""
    sizes: dict[str, tuple[int, int]] = {}
    for model in own:
        height, width = model.wrap(**_unmeasured(model)).input_shape[1:3]
        if height is not None and width is not None:
            sizes[model.name] = height, width
    said = ", ".join(f"{name} takes {h} x {w} pixels" for name, (h, w) in sizes.items())
    wanted = {(given, given)} if given is not None else set(sizes.values()) or {(default, default)}
    height, width = next(iter(wanted))
    if height != width:
        raise ValueError(f"{said}; the workbook prepares square images: give a model of square ones.")
    if any(size != (height, width) for size in sizes.values()):
        if given is not None and len(set(sizes.values())) == 1:
            only = next(iter(sizes.values()))[0]
            raise ValueError(f"image_size={given}, but {said}. Give image_size={only}, or leave it out.")
        raise ValueError(f"{said}: no image_size suits all of them. Run them one by one, under different run_name.")
    return height


def _unmeasured(model: OwnModel) -> dict[str, Any]:
    """Options that spare a measurement where only the model's shape is asked for."""
    return {} if "scaling" in model.options else {"scaling": "model"}


def changed_file(own: OwnModel) -> str:
    """A sentence where the file of a model is no longer what it was, or ""."""
    if not Path(own.path).exists():
        return f"{own.path}, the file of {own.name}, is no longer there."
    if own.digest and file_digest(own.path) != own.digest:
        return f"{own.path}, the file of {own.name}, is not the one that notebook 02 evaluated."
    return ""
