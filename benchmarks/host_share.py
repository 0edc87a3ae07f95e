"""How much of a path method's time the host takes: neither within a compiled step nor waiting for its result.

    python benchmarks/host_share.py                  writes benchmarks/host_share.md; two minutes on two cores
    python benchmarks/host_share.py --models efficientnet_b0 --images 1 8 32 --out other.md

Times are of all repeats of `xaiutils.explain` after a warm-up: what else runs on the machine takes
from both. ``steps`` counts the compiled calls, ``waits`` the results that were fetched.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("XAI_PROGRESS", "off")

import numpy as np
from methods import as_markdown
from pandas import DataFrame

import xaiutils as xai
from xaiutils.attribution import Network
from xaiutils.backend import keras, tf
from xaiutils.files import write_text

METHODS = {
    "integrated_gradients": {"n_steps": 20},
    "expected_gradients": {"n_samples": 20},
    "smoothgrad": {"n_samples": 25},
    "vargrad": {"n_samples": 25},
}
AIM = 0.05


class Clock:
    """Seconds in calls that it wraps, not counted twice where they are nested."""

    def __init__(self):
        self.seconds, self.calls, self._within = 0.0, 0, False

    def wrap(self, function: Callable) -> Callable:
        def run(*args, **kwargs):
            if self._within:
                return function(*args, **kwargs)
            start, self._within, self.calls = time.perf_counter(), True, self.calls + 1
            try:
                return function(*args, **kwargs)
            finally:
                self._within = False
                self.seconds += time.perf_counter() - start

        return run


@contextmanager
def watched(steps: Clock, waits: Clock):
    """Within the block, the clocks see what networks compiled, and what is fetched from the device."""
    tensor, compiled = tf.__internal__.EagerTensor, Network.compiled
    fetch = tensor.numpy

    def clocked(network: Network, key: object, build: Callable) -> object:
        found = compiled(network, key, build)
        return steps.wrap(found) if callable(found) else found

    Network.compiled, tensor.numpy = clocked, waits.wrap(fetch)
    try:
        yield
    finally:
        Network.compiled, tensor.numpy = compiled, fetch


def row(model: keras.Model, images: np.ndarray, method: str, repeats: int) -> dict[str, object]:
    """Seconds of a call, and what part of them was the host's, over all repeats."""

    def call() -> None:
        xai.explain(model, images, 0, method, **METHODS[method])

    call()
    steps, waits = Clock(), Clock()
    with watched(steps, waits):
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        wall = time.perf_counter() - start
    host = 100 * (1 - (steps.seconds + waits.seconds) / wall)
    return {
        "seconds": wall / repeats, "host %": host, "steps": steps.calls // repeats, "waits": waits.calls // repeats
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", default=["efficientnet_lite0"])
    parser.add_argument("--images", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in options.models:
        model = xai.build_model(name, 2, weights=None)
        size = Network.of(model).image_size[0]
        images = xai.load_dataset("phantom", "test", size, max(options.images)).images
        for n in options.images:
            for method in METHODS:
                rows.append({"model": name, "images": n, "method": method})
                rows[-1] |= row(model, images[:n], method, options.repeats)
                print(rows[-1], flush=True)
    worst = max(r["host %"] for r in rows)
    said = (
        f"The host's share of wall time, on {os.cpu_count()} cores and {len(tf.config.get_visible_devices('GPU'))} "
        f"GPUs; the aim, under {100 * AIM:.0f} %, is {'met' if worst < 100 * AIM else 'missed'}: at most {worst:.1f} %."
    )
    table = as_markdown(DataFrame(rows))
    write_text(options.out, f"# Path and noise methods: what the host takes\n\n{said}\n\n{table}\n")


if __name__ == "__main__":
    main()
