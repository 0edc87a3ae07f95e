"""TensorFlow and Keras, imported once and quietly; every module takes them from here.

TensorFlow writes start-up lines to the file descriptor of stderr before any log level is read. In a notebook they
appear in a cell's output, and nbval takes them for a difference. They are shown when the import fails.
"""

import gc
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # else the first kernel takes all memory of the GPU
os.environ.setdefault("KERAS_BACKEND", "tensorflow")


@contextmanager
def _stderr_held() -> Iterator[None]:
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without Python's search for cycles, which goes through the import's half a million objects again and again and
    takes a quarter of its time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


if "tensorflow" in sys.modules:
    import keras
    import tensorflow as tf
else:
    with _stderr_held(), _no_collection():
        import keras
        import tensorflow as tf

        tf.config.list_physical_devices("GPU")  # looks for drivers, and says so, at the first call

# Every model has traces of its own of the same functions, which TensorFlow takes for an oversight.
logging.getLogger("tensorflow").addFilter(lambda record: "triggered tf.function retracing" not in record.getMessage())

__all__ = ["keras", "tf"]
