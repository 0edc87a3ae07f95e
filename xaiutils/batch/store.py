"""What makes a finished job trustworthy: its marker with checksums, written last; and locks that die with their owner.

A job runs in ``attempts/<token>/<name>`` and is moved to its place when its marker ``done.json`` is in it. So a folder
in its place is whole, or it is not there; what a kill leaves lies in ``attempts``, and is swept away by the next batch.
"""

import json
import math
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xaiutils.batch.digest import sha256
from xaiutils.files import inside

try:
    import fcntl
except ImportError:  # Windows has none: two batches on one folder are then not kept apart
    fcntl = None

DONE = "done.json"
_KINDS = {"parameters": dict, "notebook_digest": str, "code": str, "inputs": dict, "product": str, "data_files": str,
          "seconds": int | float, "files": dict}  # fmt: skip
_MOST_BYTES = 100_000_000  # of a marker: a million files
PERHAPS = "perhaps.json"  # a marker that holds if what the job was made from turns out the same once it is made anew


class LockedError(RuntimeError):
    """Another process holds the lock; the message says which."""


def read_marker(folder: Path, name: str = DONE) -> dict[str, Any] | None:
    """The marker of a job's folder; None where there is none, or one that cannot be read or is not as it should be."""
    marker = read_facts(folder / name)
    if any(not isinstance(marker.get(key), kind) for key, kind in _KINDS.items()) or isinstance(
        marker["seconds"], bool
    ):
        return None
    whole = math.isfinite(marker["seconds"]) and all(map(_is_file_entry, marker["files"].items()))
    return marker if whole and all(isinstance(v, str) for v in marker["inputs"].values()) else None


def _is_file_entry(entry: tuple[str, Any]) -> bool:
    name, facts = entry
    inner = not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name
    return inner and isinstance(facts, list) and list(map(type, facts)) == [int, str]


def read_facts(path: Path) -> dict[str, Any]:
    """A file of ``name: value`` in JSON; empty where it cannot be read or is none."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:  # a pipe would never end
            return {}
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def checksums(folder: Path) -> dict[str, list]:
    """Size in bytes and SHA-256 of every file below ``folder``, but for markers; by path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (DONE, PERHAPS):
            found[path.relative_to(folder).as_posix()] = [path.stat().st_size, sha256(path)]
    return found


def damage(folder: Path, marker: Mapping[str, Any], quick: bool = False) -> str:
    """The first file that is not as the marker says, in words, or "". ``quick`` compares sizes alone."""
    for name, (size, digest) in marker["files"].items():
        path = folder / name
        if not path.is_file() or inside(folder, name) is None:
            return f"{name} is missing"
        if path.stat().st_size != size or not (quick or sha256(path) == digest):
            return f"{name} is damaged"
    return ""


@contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path``, in which stands who does.

    The operating system gives it back when its owner ends, however it ends, so no lock outlives a kill. Raises
    LockedError where another process holds it; ``what`` says in the message what is locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise LockedError(f"{what} is in use by {file.read().strip() or 'another process'}.") from None
        file.truncate(0)
        now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n")
        file.flush()
        yield


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
