"""One job of a batch, in a process of its own: ``python -m xaiutils.batch.job FOLDER NAME`` (the engines call it).

It runs in a folder of its own below ``attempts`` and moves that to its place once the marker with the checksums of all
files is in it. What fails goes to ``failed``, with the notebook and the log.
"""

import contextlib
import errno
import json
import os
import platform
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xaiutils.batch.digest import product
from xaiutils.batch.store import DONE, PERHAPS, LockedError, checksums, damage, lock, read_marker, utc_now
from xaiutils.batch.watch import end_with_parent
from xaiutils.files import write_text
from xaiutils.workbook.execute import NotebookError, execute

FAILURE = "failed.json"
_LARGE = ("data", "models", "maps")  # not kept of a failed job


def run_job(batch: Path, name: str) -> bool:
    """Run one job of the plan, unless what was done before holds after all; whether it is done now.

    A kernel that died, or did not start, is tried once more; a cell that raised is not, since it would again.
    """
    spec = json.loads((batch / "plan" / f"{name}.json").read_text(encoding="utf-8"))
    place = batch / name
    before = {other: read_marker(batch / other) for other in (spec["data"], spec["train"]) if other}
    if missing := [other for other, marker in before.items() if marker is None]:
        print(f"{name}: not run, since {missing[0]} is not done", flush=True)
        return False
    inputs = {other: marker["product"] for other, marker in before.items()}
    if _holds(place, inputs):
        (place / PERHAPS).replace(place / DONE)
        print(f"{name}: made from the same data and model; kept", flush=True)
        return True
    attempt = batch / "attempts" / secrets.token_hex(6)
    folder = attempt / place.name
    with lock(attempt / "lock", f"{attempt}"):
        try:
            seconds = _compute(spec, batch, folder, inputs)
        except Exception as error:  # whatever it is, the batch goes on, and its summary tells
            _keep_failure(error, folder, batch / "failed" / name)
            print(f"{name}: failed: {_first_line(error)}", flush=True)
            return False
        finally:
            shutil.rmtree(attempt, ignore_errors=True)
    shutil.rmtree(batch / "failed" / name, ignore_errors=True)
    print(f"{name}: {seconds:.0f} s", flush=True)
    return True


def _holds(place: Path, inputs: Mapping[str, str]) -> bool:
    marker = read_marker(place, PERHAPS)
    return marker is not None and marker["inputs"] == inputs and not damage(place, marker)


def _compute(spec: Mapping[str, Any], batch: Path, folder: Path, inputs: Mapping[str, str]) -> float:
    started, clock = utc_now(), time.monotonic()
    settings = spec["settings"]
    environment = {"XAI_PROGRESS": "log", "XAI_RUNS": str(folder.parent), **_shared(spec, batch)}
    threads = str(settings["threads"])
    environment |= dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), threads)
    with _gpus(settings["gpus"], spec["gpu"]) as visible:
        environment |= visible
        for left in range(settings["retries"], -1, -1):
            shutil.rmtree(folder, ignore_errors=True)
            write_text(folder / "parameters.json", json.dumps(spec["parameters"], indent=1))
            try:
                limit = int(3600 * settings["cell_hours"])
                with _stderr_in(folder / "log" / "kernel.log"):
                    execute(Path(spec["notebook"]), spec["parameters"], folder, environment, limit)
                break
            except NotebookError as error:
                if not left or not error.broke_off or _disk_is_full(error):
                    raise
                print(f"{spec['name']}: {_first_line(error)}; once more", flush=True)
    for cache in folder.glob("models/*/features"):  # what a frozen backbone computed: of use to its training alone
        shutil.rmtree(cache)
    marker = {
        **{key: spec[key] for key in ("name", "kind", "point", "parameters", "notebook_digest", "code")},
        "inputs": dict(inputs),
        "product": product(folder),
        "data_files": _files_read(spec),
        "started": started,
        "seconds": round(time.monotonic() - clock, 2),
        "peak_mb": _peak_mb(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "gpus": environment.get("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "")),
        "files": checksums(folder),
    }
    write_text(folder / DONE, json.dumps(marker, indent=1))
    _move(folder, batch / spec["name"])
    return marker["seconds"]


def _shared(spec: Mapping[str, Any], batch: Path) -> dict[str, str]:
    """Where the notebook finds what was prepared and trained for it."""
    return {
        "XAI_BATCH_DATA": str(batch / spec["data"] / "data") if spec["data"] else "",
        "XAI_BATCH_MODELS": str(batch / spec["train"] / "models") if spec["train"] else "",
    }


def _move(folder: Path, place: Path) -> None:
    """Put a whole folder in its place; what was there goes."""
    place.parent.mkdir(parents=True, exist_ok=True)
    old = folder.parent / "old"
    with contextlib.suppress(FileNotFoundError):
        place.rename(old)
    folder.rename(place)


@contextlib.contextmanager
def _stderr_in(path: Path) -> Iterator[None]:
    """What this process and the kernel itself write to stderr goes to a file; the cells' output has a log already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with path.open("wb") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextlib.contextmanager
def _gpus(gpus: int | None, needed: int) -> Iterator[dict[str, str]]:
    """Take ``needed`` of this machine's first ``gpus`` GPUs (of those in CUDA_VISIBLE_DEVICES, where that is set), and
    let the kernel see no others.

    None: nobody chooses here; a cluster's scheduler does. The locks are the machine's, so that two batches do not meet
    on a GPU; an engine starts no more jobs than there are GPUs, so that no two jobs wait for each other.
    """
    if gpus is None:
        yield {}
        return
    here = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d not in ("", "-1")]
    devices = (here or [str(i) for i in range(gpus)])[:gpus]
    user = os.getuid() if hasattr(os, "getuid") else ""
    taken: list[str] = []
    with contextlib.ExitStack() as stack:
        while len(taken) < min(needed, len(devices)):
            free = next((d for d in devices if d not in taken and _take(stack, user, d)), None)
            time.sleep(0.5) if free is None else taken.append(free)
        yield {"CUDA_VISIBLE_DEVICES": ",".join(taken) or "-1"}


def _take(stack: contextlib.ExitStack, user: int | str, device: str) -> bool:
    path = Path(tempfile.gettempdir()) / f"xai-gpu-{user}-{device}.lock"
    try:
        stack.enter_context(lock(path, f"GPU {device}"))
    except LockedError:
        return False
    return True


def _files_read(spec: Mapping[str, Any]) -> str:
    if spec["kind"] != "data" or not spec["reads"]:
        return ""
    from xaiutils.datasets.reading.tree import fingerprint

    return fingerprint(Path(spec["reads"]))


def _disk_is_full(error: BaseException) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


def _peak_mb() -> int:
    """The largest memory that a process below this one has had: the kernel's."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // (1 if sys.platform == "linux" else 1024) // 1024


def _keep_failure(error: Exception, folder: Path, place: Path) -> None:
    """Move what a failed job left, but for its large files, and write what went wrong. On a full disk as far as it
    goes."""
    with contextlib.suppress(OSError):
        for name in _LARGE:  # first, so that there is room for the rest
            shutil.rmtree(folder / name, ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(place)
    name, reason = getattr(error, "name", type(error).__name__), getattr(error, "reason", str(error))
    log = next(iter(sorted(place.glob("log/*.log"), key=lambda path: path.name == "kernel.log")), None)  # cells first
    facts = {
        "error": f"{name}: {reason}",
        "message": str(error).replace(str(folder), str(place)),
        "log": str(log or ""),
        "at": utc_now(),
    }
    with contextlib.suppress(OSError):
        write_text(place / FAILURE, json.dumps(facts, indent=1))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def main(arguments: Sequence[str] | None = None) -> int:
    end_with_parent()
    batch, name = (sys.argv[1:] if arguments is None else arguments)[:2]
    try:
        return 0 if run_job(Path(batch).resolve(), name) else 1
    except KeyboardInterrupt:  # its attempt is gone already; the batch says why
        return 130


if __name__ == "__main__":
    sys.exit(main())
