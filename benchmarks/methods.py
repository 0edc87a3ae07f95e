"""Time every attribution method against the thesis' libraries and against the passes that it must make.

    make bench                       (or: python benchmarks/methods.py --quick)

Writes ``benchmarks/methods.csv`` and ``benchmarks/methods.md``: medians in seconds after a warm-up, the ratio of
each library to ours, and of ours to its floor, the number of forward passes or gradients it needs times the cost of one
graph-compiled pass in batches of 32. All in one process and one run, so the ratios hold where the absolute times do
not.
"""

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import xaiutils as xai
from xaiutils.attribution import Network, passes
from xaiutils.attribution.perturbation import window_starts
from xaiutils.files import replace_file, write_text

HERE = Path(__file__).parent
THESIS = {"smoothgrad": {"n_samples": 5}, "integrated_gradients": {"n_steps": 20}, "occlusion": {"patch_size": 15}}


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    call()  # traces, allocates
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def pass_costs(model, images: np.ndarray, repeats: int) -> dict[str, float]:
    """Seconds an image of a forward pass and of an input gradient, in batches of 32."""
    network, batch = Network.of(model), np.resize(images, (32, *images.shape[1:]))
    gradients, targets = passes.input_gradients(network), np.zeros(32, np.int32)
    return {
        "forward": median_seconds(lambda: passes.logits(network, batch, 32), repeats) / 32,
        "gradient": median_seconds(lambda: gradients(batch, targets), repeats) / 32,
    }


def floor(method: str, model, size: int, costs: dict[str, float], n: int) -> float:
    """Seconds that the passes of a method alone take for ``n`` images."""
    windows = len(window_starts(size, 15, 15)) ** 2
    network = Network.of(model)
    channels = network.forward(np.zeros((1, size, size, 3), np.float32), [network.cam_layer()])[1][0].shape[-1]
    counts = {
        "smoothgrad": (0, 5),
        "integrated_gradients": (0, 20),
        "occlusion": (windows + 1, 0),
        "score_cam": (channels + 1, 0),
    }
    forwards, gradients = counts.get(method, (0, 1))
    return n * (forwards * costs["forward"] + gradients * costs["gradient"])


def run(models: list[str], counts: list[int], repeats: int) -> pd.DataFrame:
    images = xai.load_dataset("phantom", split="test", limit=max(counts)).images
    rows = []
    for name in models:
        model = xai.build_model(name, 2)
        costs = pass_costs(model, images, repeats)
        print(name, {k: f"{1000 * v:.1f} ms" for k, v in costs.items()}, flush=True)
        for n in counts:
            for method, declared in xai.METHODS.items():
                ours = np.nan
                for library in declared.libraries:
                    if method == "score_cam" and n > 1:
                        continue  # minutes, at the same cost an image

                    def call(method=method, library=library, n=n, model=model):
                        xai.explain(model, images[:n], 0, method, library, **THESIS.get(method, {}))

                    try:
                        seconds = median_seconds(call, 1 if method in ("score_cam", "occlusion") else repeats)
                    except FloatingPointError:  # Grad-CAM++ of tf-keras-vis overflows for large logits
                        seconds = np.nan
                    ours = seconds if library == "xaiutils" else ours
                    least = floor(method, model, images.shape[1], costs, n)
                    row = {"model": name, "images": n, "method": method, "library": library, "seconds": seconds}
                    rows.append({**row, "times ours": seconds / ours, "times floor": seconds / least})
                    print(*(f"{v:.3g}" if isinstance(v, float) else v for v in rows[-1].values()), flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="one model, one image")
    options = parser.parse_args()
    os.environ["XAI_PROGRESS"] = "off"
    warnings.simplefilter("ignore")
    models = ["efficientnet_lite0", "vit_mini16"]
    table = run(models[:1], [1], 1) if options.quick else run(models, [1, 8], 3)
    if options.quick:
        return
    replace_file(HERE / "methods.csv", lambda path: table.to_csv(path, index=False, float_format="%.4g"))
    head = (
        f"Medians on {platform.machine()}, {os.cpu_count()} cores, no GPU, 224 x 224 pixels, random weights, warm. "
        "SmoothGrad 5 samples, integrated gradients 20 steps, occlusion 15 pixels, Score-CAM all channels.\n\n"
    )
    cells = [
        table.columns,
        ["---"] * table.shape[1],
        *table.map(lambda v: f"{v:.3g}" if isinstance(v, float) else v).to_numpy(),
    ]
    shown = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in cells)
    write_text(
        HERE / "methods.md", "# Attribution: seconds, and ratios to the peers and the floor\n\n" + head + shown + "\n"
    )


if __name__ == "__main__":
    main()
