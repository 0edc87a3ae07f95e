"""Do networks that learnt other parts of the data explain alike? MeGe and ReCo over five folds of BUSI.

    python benchmarks/stability.py            every fold and method that is not there yet, then stability.md
    python benchmarks/stability.py --table    stability.md alone

EfficientNet-Lite0 with ImageNet's weights, frozen, and a logistic regression on its features as the last layer; each
model learns four of five parts of the images that are not of the test, and the fifth chooses the penalty. All explain
the labels of the same test images. Beside the methods stand maps that cannot tell what a model learnt. The data are the
kit's, whose folder the environment variable ``XAI_KIT`` names, or ``--data_dir``; maps' distances are kept in
``runs/stability`` (in the folder ``XAI_RUNS``, if set).
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("XAI_PROGRESS", "off")

import numpy as np
import pandas as pd
from methods import as_markdown
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

import xaiutils as xai
from xaiutils.beyond_maps.embedding import embeddings
from xaiutils.evaluation.studies.random_weights import forgotten
from xaiutils.evaluation.studies.stability import mege, pair_distances, reco
from xaiutils.files import replace_file, write_text
from xaiutils.images import as_rgb
from xaiutils.map_reading import read_maps
from xaiutils.statistics.bootstrap import draw_units

HERE = Path(__file__).resolve().parent
RUNS = Path(os.environ.get("XAI_RUNS") or HERE.parent / "runs") / "stability"
SIDE, FOLDS, IMAGES, RESAMPLES = 224, 5, 40, 500
POOLED = 4  # pixels a side that are averaged before maps are compared
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regression
METHODS = (
    "vanilla_gradients",
    "gradients_x_inputs",
    "lrp",
    "full_grad",
    "guided_grad_cam",
    "grad_cam",
    "grad_cam_plus_plus",
    "refine_cam",
    "xrelevance_cam",
)
OF_CONTROLS = ("grad_cam", "gradients_x_inputs")
PERMUTED, FRESH = "permuted labels", "random weights"
NOTE = """
**What it shows.** Every method that sees the model has a high MeGe (0.90 to 1.00), for the five models share all but
the last layer; so has *gradients x inputs* on networks that learnt nothing (0.90) or shuffled labels (0.92), and
brightness (1.00). What tells is ReCo beside its controls: Grad-CAM 0.58 [0.40, 0.85], guided Grad-CAM 0.64 [0.44, 0.91]
and LRP 0.55 [0.33, 0.79] are well over the 0.1 of shuffled pairs, their maps move where the answers part, and Grad-CAM
loses it with permuted labels (0.12) and random weights (0.08). Grad-CAM++, RefineCAM, FullGrad, XRelevance-CAM and
plain gradients do not tell: the first two draw the same map whatever the last layer learnt (distance 0.00 to two
digits). One wrong answer in a pair is rare (40 of 340), hence the wide intervals.

**How to read it.** A distance is 1 less Spearman's correlation of two models' maps of one image, each read by its
magnitude and averaged over 4 x 4 pixels. MeGe, 1 / (1 + mean distance where both models are right), is 0.5 for maps
that have nothing to do with each other and 1 for the same map. ReCo is the best TPR + TNR - 1 of a threshold that
tells, by the distance, pairs of right answers from pairs of a right and a wrong one; 0: it does not tell. As the best
of all thresholds it is above 0 by chance too: *ReCo, permuted* is its mean where the kinds of pairs are shuffled among
all pairs. Intervals: 500 bootstrap samples of images. They say nothing of other folds; BUSI names no patients.

*Brightness* is the image itself: the same for all models, it has the best MeGe there is and no ReCo. So MeGe alone
rewards what does not look at the model, and is to be read beside *random weights*, the same method on networks that
learnt nothing, and *permuted labels*, on models whose linear layer learnt shuffled labels of the same images.
"""


def heads(features: np.ndarray, labels: np.ndarray) -> list[list[np.ndarray]]:
    """Weights of the last layer for each fold, of logits (-z / 2, z / 2)."""
    found = []
    for train, val in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(features, labels):
        fits = [LogisticRegression(C=C, max_iter=2000).fit(features[train], labels[train]) for C in PENALTIES]
        best = max(fits, key=lambda fit: roc_auc_score(labels[val], fit.decision_function(features[val])))
        w, b = best.coef_[0] / 2, float(best.intercept_[0]) / 2
        found.append([np.stack([-w, w], axis=1).astype(np.float32), np.array([-b, b], np.float32)])
    return found


def measure(data_dir: Path) -> None:
    """Distances of the maps of all pairs of models, a file for each kind of map that is not there yet."""
    everything = xai.load_dataset("busi", "all", SIDE, data_dir=data_dir / "busi")
    test = xai.load_dataset("busi", "test", SIDE, data_dir=data_dir / "busi")
    rest = everything.select(~np.isin(everything.ids, test.ids))
    ds = test.select(test.masks.any(axis=(1, 2))).sample(IMAGES)
    model = xai.build_model("efficientnet_lite0", 2, SIDE, "imagenet", seed=0)
    features, last = embeddings(model, rest.images), model.get_layer("logits")
    own = heads(features, rest.labels)
    shuffled = heads(features, np.random.default_rng(0).permutation(rest.labels))
    names, right = [f"fold {i}" for i in range(FOLDS)], {}
    for name, weights in zip(names, own, strict=True):
        last.set_weights(weights)
        right[name] = xai.predict(model, ds.images).argmax(axis=1) == ds.labels
    _write(pd.DataFrame(right).assign(image_id=ds.ids), RUNS / "right.parquet")
    grey = as_rgb(ds.images).mean(axis=-1)

    def keep(name: str, make: Callable[[int], np.ndarray]) -> None:
        path = RUNS / "distances" / f"{name}.parquet"
        if not path.exists():
            maps = {fold: _pooled(read_maps(make(i), "magnitude")) for i, fold in enumerate(names)}
            _write(pair_distances(maps, right), path)
            print(name, flush=True)

    def explained(weights: list[list[np.ndarray]], method: str) -> Callable[[int], np.ndarray]:
        def make(i: int) -> np.ndarray:
            last.set_weights(weights[i])
            return xai.explain(model, ds.images, ds.labels, method)

        return make

    def untrained(method: str) -> Callable[[int], np.ndarray]:
        def make(i: int) -> np.ndarray:
            with forgotten(model, i, (SIDE, SIDE)):
                return xai.explain(model, ds.images, ds.labels, method)

        return make

    keep("random", lambda i: np.random.default_rng(i).normal(size=grey.shape).astype(np.float32))
    keep("brightness", lambda i: grey)
    for method in OF_CONTROLS:
        keep(method, explained(own, method))
        keep(f"{method}, {PERMUTED}", explained(shuffled, method))
        keep(f"{method}, {FRESH}", untrained(method))
    for method in METHODS:
        keep(method, explained(own, method))


def _pooled(maps: np.ndarray) -> np.ndarray:
    """Means of POOLED x POOLED pixels."""
    n, height, width = maps.shape
    return maps.reshape(n, height // POOLED, POOLED, width // POOLED, POOLED).mean(axis=(2, 4))


def row_of(name: str, distances: pd.DataFrame, n_images: int) -> dict[str, object]:
    """A line of the table."""
    rows = [np.flatnonzero(distances["image"] == i) for i in range(n_images)]
    samples = []
    for weights in draw_units(n_images, RESAMPLES, 0):
        drawn = distances.iloc[np.concatenate([np.tile(r, w) for r, w in zip(rows, weights, strict=True)]).astype(int)]
        samples.append((mege(drawn), reco(drawn)))
    ends = np.nanquantile(np.array(samples, float), [0.025, 0.975], axis=0) if name != "brightness" else np.ones((2, 2))
    rng = np.random.default_rng(0)
    chance = [reco(distances.assign(agree=rng.permutation(distances["agree"]))) for _ in range(100)]
    near, far = (distances.loc[distances["agree"] == kind, "distance"].mean() for kind in (True, False))
    return {
        "map": name,
        "MeGe": _with_ends(mege(distances), *ends[:, 0]),
        "ReCo": _with_ends(reco(distances), *ends[:, 1]) if distances["distance"].max() > 1e-9 else "",
        "ReCo, permuted": f"{np.mean(chance):.2f}" if distances["distance"].max() > 1e-9 else "",
        "distance, both right": f"{near:.2f}",
        "distance, one wrong": f"{far:.2f}",
    }


def _with_ends(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def page() -> str:
    """stability.md"""
    right = pd.read_parquet(RUNS / "right.parquet").drop(columns="image_id")
    order = [*METHODS, *(f"{m}, {kind}" for m in OF_CONTROLS for kind in (PERMUTED, FRESH)), "random", "brightness"]
    known = {name: RUNS / "distances" / f"{name}.parquet" for name in order}
    tables = {name: pd.read_parquet(path) for name, path in known.items() if path.exists()}
    one = next(iter(tables.values()))
    lines = [row_of(name, table, len(right)) for name, table in tables.items()]
    return "\n\n".join(
        [
            "# Do networks that learnt other parts of the data explain alike?",
            f"MeGe and ReCo (Fel et al. 2022, arXiv:2009.04521) of {FOLDS} models of BUSI, EfficientNet-Lite0 frozen "
            "but for its last layer, a logistic regression, by `python benchmarks/stability.py`. Each learnt four of "
            f"five parts of the images that are not of the test; all explain the labels of the same {len(right)} test "
            "images with a lesion, "
            f"{SIDE} pixels. They are right on {', '.join(str(int(n)) for n in right.sum())} of them. "
            f"{int(one['agree'].sum())} pairs of models and images are both right, {int((~one['agree']).sum())} one "
            "right and one wrong.",
            as_markdown(pd.DataFrame(lines)),
            NOTE.strip(),
        ]
    )


def _write(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda temporary: table.to_parquet(temporary, index=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data_dir", type=Path, default=os.environ.get("XAI_KIT"), help="default: XAI_KIT")
    parser.add_argument("--table", action="store_true", help="only write stability.md")
    options = parser.parse_args()
    if not options.table:
        if options.data_dir is None:
            parser.error("where are the data? Set XAI_KIT or give --data_dir")
        measure(Path(options.data_dir))
    write_text(HERE / "stability.md", page() + "\n")


if __name__ == "__main__":
    main()
