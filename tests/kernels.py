"""Which kernels a server has."""

import psutil


def kernels_of(pid: int) -> int:
    """How many kernels the process started that live."""
    alive = [child for child in psutil.Process(pid).children() if child.status() != psutil.STATUS_ZOMBIE]
    return sum("ipykernel" in " ".join(child.cmdline()) for child in alive)
