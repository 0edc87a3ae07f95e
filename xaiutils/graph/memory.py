"""How many images a pass takes: as many as memory is free for, and half of them where it was not enough."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from xaiutils.backend import tf
from xaiutils.graph.network import Network
from xaiutils.registry import check_integer

AUTO = "auto"
MOST = {"CPU": 32, "GPU": 256}  # images in a pass; more gains nothing
# Of a gradient's pass over the float32 outputs of all layers. Measured at 16 images of 224 pixels on a CPU: 0.1 and 0.2
# of EfficientNet-B0 and Lite0, whose outputs are mostly fused or let go early, 1.2 of ViT-B/32.
_OVERHEAD = 1.5
Found = TypeVar("Found")


def chosen_batch_size(network: Network, batch_size: int | str) -> int:
    """``batch_size`` as a number of images. "auto": as many as half of the free memory holds of a gradient's pass, at
    most 32 on a CPU and 256 on a GPU, and no more than were found to fit. ValueError unless it is that or a positive
    integer; TypeError of another type."""
    if batch_size != AUTO:
        return check_integer("batch_size", batch_size, 1)
    device = "GPU" if tf.config.get_visible_devices("GPU") else "CPU"
    fit = int(free_memory(device) / 2 / pass_bytes(network))
    most = min(MOST[device], _known(network).get("fits", MOST[device]), max(fit, 1))
    return 2 ** int(math.log2(most))


def pass_bytes(network: Network) -> int:
    """Estimated bytes that the gradient of one image takes."""
    return int(_OVERHEAD * 4 * sum(math.prod(n or 1 for n in shape) for shape in network.shapes.values()))


def free_memory(device: str) -> int:
    """Bytes that are free on the "CPU", as far as its container allows, or on the first "GPU"."""
    if device == "GPU":
        from tensorflow.python.client import device_lib  # no public call tells how large a GPU is

        limits = [d.memory_limit for d in device_lib.list_local_devices() if d.device_type == "GPU"]
        return limits[0] - tf.config.experimental.get_memory_info("GPU:0")["current"]
    free, group = psutil.virtual_memory().available, Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free


def fitting(network: Network, batch_size: int, compute: Callable[[int], Found]) -> Found:
    """``compute(batch_size)``; where memory runs out, of half as many images, and so on. What fits is said in a warning
    and remembered for "auto". MemoryError where one image is too many."""
    size = batch_size
    while True:
        try:
            found = compute(size)
            break
        except tf.errors.ResourceExhaustedError as error:
            if size == 1:
                raise MemoryError(f"one image in a pass is too much for the memory: {str(error)[:200]}") from error
            size //= 2
    if size < batch_size:
        _known(network)["fits"] = size
        warnings.warn(f"memory ran out at batch_size={batch_size}; batch_size={size} fits.", stacklevel=2)
    return found


def _known(network: Network) -> dict[str, int]:
    return network.compiled("batch size", dict)
