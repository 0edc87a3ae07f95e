"""One job of a batch, in a process of its own: ``python -m xaiutils.batch.job FOLDER NAME``, started by Snakemake.

It runs in a folder of its own below ``attempts``, which is moved to its place once the marker with the checksums of all
files is in it. So a folder in its place is whole, and what was there before stays until then. What a failed job leaves
goes to ``failed``, with the notebook and the log.
"""

import contextlib
import errno
import json
import os
import platform
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xaiutils.batch.marker import DONE, LockedError, checksums, damage, lock, product, read_facts, read_marker
from xaiutils.files import write_text
from xaiutils.workbook.execute import NotebookError, execute

_LARGE = ("data", "models", "maps")  # not kept of a failed job


def run_job(batch: Path, name: str) -> bool:
    """Run one job of the plan, unless its inputs came out as before; whether it is done now."""
    spec = json.loads((batch / "plan" / f"{name}.json").read_text(encoding="utf-8"))
    failed = batch / "failed" / name
    if read_facts(failed / "failed.json").get("again") is False:
        return False  # Snakemake tries again whatever fails; a cell that raised would raise again
    markers = {other: read_marker(batch / other) for other in (spec["data"], spec["train"]) if other}
    inputs = {other: marker["product"] for other, marker in markers.items() if marker}
    if missing := [other for other in markers if other not in inputs]:
        print(f"{name}: not run, since {missing[0]} is not done", flush=True)
        return False
    before = read_marker(batch / name)
    if spec["recheck"] and before and before["key"]["inputs"] == inputs and not damage(batch / name, before):
        print(f"{name}: made from the same data and model; kept", flush=True)
        return True
    attempt = batch / "attempts" / secrets.token_hex(6)
    folder = attempt / Path(name).name
    with lock(attempt / "lock", f"{attempt}"):
        try:
            marker = _compute(spec, batch, folder, inputs)
            _move(folder, batch / name)
        except Exception as error:  # whatever it is, the batch goes on, and its summary tells
            _keep_failure(error, folder, failed, batch / "plan" / f"{name}.log")
            print(f"{name}: failed: {_first_line(error)}", flush=True)
            return False
        finally:
            shutil.rmtree(attempt, ignore_errors=True)
    shutil.rmtree(failed, ignore_errors=True)
    print(f"{name}: {marker['seconds']:.0f} s", flush=True)
    return True


def _compute(spec: Mapping[str, Any], batch: Path, folder: Path, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Execute the notebook in ``folder``, and write and return the marker."""
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    environment = {
        "XAI_PROGRESS": "log",
        "XAI_RUNS": str(folder.parent),
        "XAI_BATCH_DATA": str(batch / spec["data"] / "data") if spec["data"] else "",
        "XAI_BATCH_MODELS": str(batch / spec["train"] / "models") if spec["train"] else "",
        **dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), str(spec["threads"])),
    }
    write_text(folder / "parameters.json", json.dumps(spec["parameters"], indent=1))
    with gpus_taken(spec["gpus"], spec["gpu"]) as visible:
        limit = int(3600 * spec["cell_hours"])
        execute(Path(spec["notebook"]), spec["parameters"], folder, environment | visible, limit)
    for cache in folder.glob("models/*/features"):  # what a frozen backbone computed, for its training only
        shutil.rmtree(cache)
    files_read = {}
    if spec["kind"] == "data" and spec["reads"]:  # afterwards: it may have been downloaded
        from xaiutils.datasets.reading.tree import fingerprint

        files_read = {spec["reads"]: fingerprint(Path(spec["reads"]))}
    marker = {
        "key": {"parameters": spec["parameters"], **spec["versions"], "inputs": {**inputs, **files_read}},
        **{name: spec[name] for name in ("name", "kind", "point")},
        "product": product(folder),
        "started": started,
        "seconds": round(time.monotonic() - clock, 2),
        "peak_mb": _peak_mb(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "gpus": visible.get("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "")),
        "files": checksums(folder),
    }
    write_text(folder / DONE, json.dumps(marker, indent=1))
    return marker


def _move(folder: Path, place: Path) -> None:
    """Put a whole folder in its place; what was there goes."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        place.rename(folder.parent / "old")
    folder.rename(place)


@contextlib.contextmanager
def gpus_taken(gpus: int | None, needed: int) -> Iterator[dict[str, str]]:
    """Take ``needed`` of this machine's first ``gpus`` GPUs (of those in CUDA_VISIBLE_DEVICES, where that is set), and
    yield the variables by which the kernel sees no others; none for ``gpus`` None, where a cluster's scheduler chooses.

    Snakemake counts GPUs and starts no more jobs than there are, but names none. The locks are the machine's, so two
    batches do not meet on a GPU either.
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
            for device in (d for d in devices if d not in taken):
                path = Path(tempfile.gettempdir()) / f"xai-gpu-{user}-{device}.lock"
                with contextlib.suppress(LockedError):
                    stack.enter_context(lock(path, f"GPU {device}"))
                    taken.append(device)
                    break
            else:
                time.sleep(0.5)
        yield {"CUDA_VISIBLE_DEVICES": ",".join(taken) or "-1"}


def _peak_mb() -> int:
    """The largest memory that a process below this one has had: the kernel's."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // (1 if sys.platform == "linux" else 1024) // 1024


def _keep_failure(error: Exception, folder: Path, place: Path, kernel_log: Path) -> None:
    """Move what a failed job left, without its large files, and write what went wrong; on a full disk as far as it
    goes. ``again``: whether another try may help, as where a kernel died; not after a cell's error or on a full disk.
    """
    with contextlib.suppress(OSError):
        for name in _LARGE:  # first, so that there is space for the rest
            shutil.rmtree(folder / name, ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(place)
    name, reason = getattr(error, "name", type(error).__name__), getattr(error, "reason", str(error))
    cause = error.__cause__ or error
    disk_is_full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    facts = {
        "error": f"{name}: {reason}",
        "message": str(error).replace(str(folder), str(place)),
        "log": str(next(place.glob("log/*.log"), kernel_log)),
        "again": isinstance(error, NotebookError) and error.broke_off and not disk_is_full,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with contextlib.suppress(OSError):
        write_text(place / "failed.json", json.dumps(facts, indent=1))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def end_with_parent() -> None:
    """End this process within a second of its parent's end, however that ends: a ``kill -9`` of the batch must not
    leave jobs at work, and Snakemake ends none then. The job's kernel watches its parent in the same way."""
    parent = os.getppid()

    def poll() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=poll, daemon=True, name="end with parent").start()


def main(arguments: Sequence[str] | None = None) -> int:
    """The process of one job; returns its exit status."""
    end_with_parent()
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # at once; its attempt is swept up, its kernel follows it
    batch, name = (sys.argv[1:] if arguments is None else arguments)[:2]
    if not run_job(Path(batch).resolve(), name):
        return 1
    (Path(batch) / "plan" / f"{name}.finished").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
