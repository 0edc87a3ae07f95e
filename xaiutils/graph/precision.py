"""Which precision a pass computes in, on GPUs that multiply float32 with fewer digits (TF32) unless told otherwise."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from xaiutils.backend import tf

PRECISIONS = ("half", "tf32", "float32")
_lock = threading.Lock()
_exact = {"blocks": 0, "before": False}  # how many blocks are open, in all threads, and what held before the first


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Within the block, "float32" computes in float32's full precision; the others as TensorFlow is set, which on GPUs
    of compute capability 8 or more is TF32 for matrix products and convolutions, and float32 elsewhere.

    TensorFlow's switch is one for the process. It is put back when the last of the blocks ends that need it off, so a
    block of another thread computes more precisely than it asked for, and none less.
    """
    if precision != "float32":
        yield
        return
    with _lock:
        if not _exact["blocks"]:
            _exact["before"] = tf.config.experimental.tensor_float_32_execution_enabled()
            tf.config.experimental.enable_tensor_float_32_execution(False)
        _exact["blocks"] += 1
    try:
        yield
    finally:
        with _lock:
            _exact["blocks"] -= 1
            if not _exact["blocks"]:
                tf.config.experimental.enable_tensor_float_32_execution(_exact["before"])
