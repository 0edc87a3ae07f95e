"""Time the metrics that run the model against the forward passes that they must make, and against other libraries.

    python benchmarks/metrics.py                        16 images, 8 methods, 50 steps; about 10 minutes on two cores
    python benchmarks/metrics.py --images 4 --methods 2

The model is EfficientNet-Lite0 with ImageNet weights at 224 pixels, the maps are smoothed noise: what a metric costs
does not depend on them. Floor: the forward passes that the metric must make, times the cost of one graph-compiled pass
at the best batch size. xplique and Quantus are measured where they are installed, on the same images, maps and steps.
The table goes to ``benchmarks/metrics.md``.
"""

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("XAI_PROGRESS", "off")

import numpy as np
import pandas as pd
from methods import Passes, as_markdown
from scipy import ndimage

import xaiutils as xai
from xaiutils.evaluation import evaluate
from xaiutils.evaluation.metrics.information_curve import FRACTIONS
from xaiutils.files import write_text

HERE = Path(__file__).resolve().parent
FILL, N_SETS, SEGMENTS, GROUPS = "mean", 100, 100, 10  # the last three by default


def forwards(metric: str, steps: int) -> int:
    """Forward passes for one map; those of the unchanged image that a metric needs are counted."""
    counts = {
        "insertion_auc": steps + 1,
        "deletion_auc": steps + 1,
        "sensitivity_n": N_SETS + 1,
        "infidelity": N_SETS + 1,
        "irof": SEGMENTS + 1,  # as many as are asked for; the segmentation may find a few less or more
        "saco": GROUPS + 1,
        "sic_auc": len(FRACTIONS) + 2,
        "aic_auc": len(FRACTIONS) + 2,
        "fidelity_area": 11,
        "road_morf": 9,
        "road_lerf": 9,
        "road": 18,
    }
    return counts.get(metric, 2)


def parameters_of(metric: str, steps: int) -> dict:
    """The same fill everywhere, so that libraries can be given it."""
    if metric in ("insertion_auc", "deletion_auc"):
        return {"n_steps": steps, "fill": FILL}
    if metric == "sic_auc":
        return {"lowest": 0.0}  # the head is random: hardly any image has the probability that is asked for
    return {"n_samples": N_SETS} if metric == "sensitivity_n" else {}


def xplique_call(metric: str, model, images: np.ndarray, one_hot: np.ndarray, steps: int) -> Callable | None:
    """A call (maps) of xplique for insertion or deletion, where it is installed."""
    try:
        from xplique.metrics import Deletion, Insertion
    except ImportError:
        return None
    kind = {"insertion_auc": Insertion, "deletion_auc": Deletion}.get(metric)
    if kind is None:
        return None
    baseline = images.mean(axis=(0, 1, 2)).mean()
    found = kind(model, images, one_hot, batch_size=32, steps=steps, baseline_mode=float(baseline))
    return lambda maps: found.evaluate(maps)


def quantus_call(metric: str, model, images: np.ndarray, targets: np.ndarray, steps: int) -> Callable | None:
    """A call (maps) of the metric of Quantus that asks the same, where it is installed and has one."""
    try:
        import quantus
    except ImportError:
        return None
    common = {"normalise": False, "disable_warnings": True}
    values, pixels = images[0].size, images[0, ..., 0].size
    if metric == "deletion_auc":  # it flips values of single channels, and wants a divisor of the number of pixels
        divisors = [n for n in range(1, pixels + 1) if pixels % n == 0]
        each = min(divisors, key=lambda n: abs(values / n - steps))
        found = quantus.PixelFlipping(each, perturb_baseline="mean", **common)
    elif metric == "sensitivity_n":
        found = quantus.FaithfulnessCorrelation(nr_runs=N_SETS, subset_size=values // 10, **common)
    else:  # its ROAD (0.6.0) fails on one map for three channels
        return None
    given = {"channel_first": False, "softmax": True, "model_predict_kwargs": {"batch_size": 32}}
    data = {"model": model, "x_batch": images, "y_batch": targets, "batch_size": 32}
    return lambda maps: found(a_batch=maps.transpose(0, 3, 1, 2), **data, **given)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--methods", type=int, default=8, help="how many sets of maps")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--metrics", nargs="+", default=None, help="names; default: all that run the model")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = xai.build_model("efficientnet_lite0", 2)
    ds = xai.load_dataset("phantom", "test", 224, options.images)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((options.methods, *ds.pixels.shape[:3]))
    maps = ndimage.gaussian_filter(noise, (0, 0, 8, 8)).astype(np.float32)
    targets = xai.predict(model, ds.images).argmax(axis=1).astype(np.int32)  # what AIC begins at
    one_hot = np.eye(2, dtype=np.float32)[targets]
    passes = Passes(model, ds.images[:8], 5)
    cost = passes.costs["forward"]
    rows = []
    for metric in options.metrics or [name for name, m in xai.METRICS.items() if m.needs == "model"]:
        parameters = {metric: parameters_of(metric, options.steps)}

        def ours(n: int, metric=metric, parameters=parameters):
            for found in maps[:n]:
                evaluate(model, ds, found, [metric], targets, parameters=parameters, reading="signed")

        ours(1)  # compiles
        count = forwards(metric, options.steps)
        needed = {"forward": count}, len(ds) * options.methods
        before = passes.now(*needed)["forward"]
        took = seconds(lambda ours=ours: ours(options.methods))
        each = (before + passes.now(*needed)["forward"]) / 2
        floor = each * count * len(ds) * options.methods
        row = {"metric": metric, "forwards a map": count, "floor, s": floor, "ours, s": took}
        row["x floor"] = row["ours, s"] / floor
        peers = {
            "xplique": xplique_call(metric, model, ds.images, one_hot, options.steps),
            "Quantus": quantus_call(metric, model, ds.images, targets, options.steps),
        }
        for library, theirs in peers.items():
            if theirs is not None:
                theirs(maps[0][..., None])
                took = seconds(lambda theirs=theirs: [theirs(found[..., None]) for found in maps])
                row[f"{library}, x ours"] = took / row["ours, s"]
        rows.append(row)
        print(row, flush=True)
    text = [
        "# Metrics: seconds, and ratios to the forward passes that they must make",
        f"{options.images} images, {options.methods} methods, {options.steps} steps, EfficientNet-Lite0, 224 x 224 "
        f"pixels, {platform.machine()}, {os.cpu_count()} cores; one forward pass: {1000 * cost:.2f} ms an image.",
        as_markdown(pd.DataFrame(rows)),
    ]
    write_text(HERE / "metrics.md", "\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
