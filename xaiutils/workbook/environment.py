"""On what a notebook ran: versions, hardware and the state of the code, for the record of a run."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_VERSIONED = ("xaiutils", "tensorflow", "keras", "numpy", "tf-explain", "tf-keras-vis", "scikit-learn", "scikit-image")


def environment() -> dict[str, Any]:
    """Versions, hardware and git commit of this process, for the record of a run."""
    from xaiutils.backend import tf  # a batch starts many processes that need none

    devices = tf.config.list_physical_devices("GPU")
    gpus = [tf.config.experimental.get_device_details(d).get("device_name", d.name) for d in devices]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "gpus": gpus,
        "versions": {name: _version(name) for name in _VERSIONED},
        "git_commit": _git_commit(),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git_commit() -> str | None:
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():  # installed as a package: an enclosing repository would not be ours
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--match="]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
