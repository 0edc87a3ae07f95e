"""What the libraries' methods share: their declaration, one image at a time, and global state that is put back."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from xaiutils.backend import keras
from xaiutils.progress import progress


@dataclass(frozen=True)
class Adapter:
    """A method of a library: which of our parameters it takes, and where it leaves the published formula.

    ``compute(network, images, targets, **parameters)`` returns the library's raw values as maps ``(n, height, width)``,
    before the normalising, colouring and tiling that it does for display.
    """

    library: str
    method: str
    compute: Callable[..., np.ndarray]
    parameters: tuple[str, ...] = ()
    deviation: str = "none"


def each_image(images: np.ndarray, targets: np.ndarray, title: str) -> Iterator[tuple[np.ndarray, int]]:
    """One-image batches with their target: the libraries take one class at a time and do not bound their memory."""
    with warnings.catch_warnings():  # they pass [images] to models of one input, of which Keras warns each time
        warnings.filterwarnings("ignore", message="The structure of `inputs`")
        for image, target in progress(zip(images, targets, strict=True), total=len(images), title=title):
            yield image[None], int(target)


@contextmanager
def numpy_seed(seed: int) -> Iterator[None]:
    """The libraries draw from NumPy's global generator; its state is put back."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@contextmanager
def silent_predict() -> Iterator[None]:
    """Keras' predict draws a progress bar unless interactive logging is off; the setting is put back."""
    interactive = keras.config.is_interactive_logging_enabled()
    keras.config.disable_interactive_logging()
    try:
        yield
    finally:
        if interactive:
            keras.config.enable_interactive_logging()
