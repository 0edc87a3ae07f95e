"""``done.json``, the marker of a finished job: what the job was made from, and a checksum of every file that it left.

The marker decides what is computed again; Snakemake's rerun triggers do not. They compare times and what Snakemake
noted itself, so they miss a table that was damaged afterwards, take a copied folder for changed, and know nothing of a
model that was trained again and came out the same.
"""

import hashlib
import json
import math
import os
import re
import socket
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from xaiutils.files import inside

try:
    import fcntl
except ImportError:  # Windows: two batches in one folder do not notice each other
    fcntl = None  # type: ignore[assignment]

DONE = "done.json"
KEY = ("parameters", "notebook", "code", "inputs")
_MAX_BYTES = 100_000_000  # of a marker: a million files


class LockedError(RuntimeError):
    """Another process holds the lock; the message says which."""


def read_facts(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where the file cannot be read or holds something else."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:  # a pipe would never end
            return {}
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def read_marker(folder: Path) -> dict[str, Any] | None:
    """The marker of a job's folder; None where there is none, or one that cannot be read or is malformed.

    Its ``key`` holds what decides the results (`KEY`): the notebook's parameters, digests of the notebook and of the
    package's code, and digests of the data and models that went in. ``product`` is the digest of what later jobs take,
    ``files`` maps each file to its size in bytes and its SHA-256, ``seconds`` is how long the job took.
    """
    marker = read_facts(folder / DONE)
    key, files, seconds = marker.get("key"), marker.get("files"), marker.get("seconds")
    if not isinstance(key, dict) or not isinstance(files, dict) or not isinstance(marker.get("product"), str):
        return None
    kinds = zip(KEY, (dict, str, str, dict), strict=True)
    if not all(isinstance(key.get(part), kind) for part, kind in kinds) or not all(map(_is_file, files.items())):
        return None
    timed = isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds)
    return marker if timed else None


def _is_file(entry: tuple[str, Any]) -> bool:
    name, facts = entry
    within = not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name
    return within and isinstance(facts, list) and list(map(type, facts)) == [int, str]


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path) -> dict[str, list[Any]]:
    """Size in bytes and SHA-256 of every file below ``folder`` except the marker, by path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != DONE)
    return {path.relative_to(folder).as_posix(): [path.stat().st_size, sha256(path)] for path in files}


def damage(folder: Path, marker: Mapping[str, Any], quick: bool = False) -> str:
    """The first file that is not as the marker says, in words, or "". ``quick`` compares sizes only."""
    for name, (size, digest) in marker["files"].items():
        path = folder / name
        if not path.is_file() or inside(folder, name) is None:
            return f"{name} is missing"
        if path.stat().st_size != size or not (quick or sha256(path) == digest):
            return f"{name} is damaged"
    return ""


def product(folder: Path) -> str:
    """Digest of what later jobs take from a job: the prepared data by their checksums, models by what they hold."""
    found = {path.parent.name.partition("-")[0]: sha256(path) for path in folder.glob("data/*/checks.json")}
    found |= {path.name: sha256(path) for path in folder.glob("data/settled.json")}  # what later notebooks read of it
    found |= {f"models/{path.parent.name}": model_digest(path) for path in folder.glob("models/*/model.keras")}
    for path in folder.glob("models/*/own.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        found[f"models/{path.parent.name}/own"] = json.dumps({k: v for k, v in facts.items() if k != "trained"})
    return hashlib.sha256(json.dumps(sorted(found.items())).encode()).hexdigest()


def model_digest(path: Path) -> str:
    """Digest of a ``.keras`` file's weights and configuration; of its bytes where it is no such archive.

    The time of saving is left out, and so are the memory addresses by which Keras marks objects that layers share: they
    are numbered in order of appearance, since which objects are shared is part of the model.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            held = {name: archive.read(name) for name in sorted(archive.namelist()) if name != "metadata.json"}
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, NotImplementedError):
        return sha256(path)
    seen: dict[bytes, bytes] = {}

    def number(found: re.Match[bytes]) -> bytes:
        return found[1] + seen.setdefault(found[2], b"%d" % len(seen))

    if "config.json" in held:
        held["config.json"] = re.sub(rb'("shared_object_id":\s*)(\d+)', number, held["config.json"])
    return hashlib.sha256(
        json.dumps([(n, hashlib.sha256(b).hexdigest()) for n, b in held.items()]).encode()
    ).hexdigest()


@contextmanager
def lock(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file ``path``, which names its holder; ``what`` says in messages what is locked.

    Where another process holds it, raises LockedError, or says so and waits.

    The operating system releases it when its holder ends, however that ends. Snakemake's own lock is a file that stays
    after a ``kill -9``, and the same command would then be refused until somebody unlocks the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                error = LockedError(f"{what} is in use by {file.read().strip() or 'another process'}.")
                if not wait:
                    raise error from None
                print(f"waiting: {error}", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n")
        file.flush()
        yield
