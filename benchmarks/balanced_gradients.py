"""Does LibraGrad point better, and how much does a map's score depend on the linear head and on the images?

    python benchmarks/balanced_gradients.py            every batch of images that is not there yet, then the page
    python benchmarks/balanced_gradients.py --table    balanced_gradients.md alone

DINOv2's ViT-S/14, frozen, on Oxford pets. Linear heads on its features are trained as notebook 02 trains one, each on a
bootstrap sample of the training images and from random weights of its own. All heads are units of one last layer, so
the way forward is made once for all of them. Each explains the true class of the same test images, by its logit, by
its logit less the other class', and before it was trained: a map that points as well then owes nothing to the head.
The data are the kit's, whose folder the environment variable ``XAI_KIT`` names, or ``--data_dir``; scores are kept in
``runs/balanced_gradients`` (in the folder ``XAI_RUNS``, if set).
"""

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("XAI_PROGRESS", "off")

import numpy as np
import pandas as pd
from attributions import CELLS
from rows import as_markdown

import xaiutils as xai
from xaiutils.attribution import METHODS
from xaiutils.attribution.cam.weighted_sum import combination
from xaiutils.attribution.libra import balanced_network
from xaiutils.backend import keras, tf
from xaiutils.beyond_maps.embedding import embeddings
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation import chance, control_maps, evaluate_all
from xaiutils.files import replace_file, write_text
from xaiutils.graph.network import Network
from xaiutils.graph.passes import enlarge, forward, reduce_channels
from xaiutils.graph.predict import cam_grid
from xaiutils.statistics.crossed import crossed_interval
from xaiutils.training.loop import Split, fit
from xaiutils.training.objectives import Classes
from xaiutils.training.recipes import MODERN
from xaiutils.training.state import State

HERE = Path(__file__).resolve().parent
RUNS = Path(os.environ.get("XAI_RUNS") or HERE.parent / "runs") / "balanced_gradients"
CELL = next(cell for cell in CELLS if cell.key == "oxford_pets_dinov2_vits14")
HEADS, IMAGES, BATCH = 10, 40, 4
KINDS = ("logit", "difference", "untrained")  # what of a head is explained
CAMS = ("grad_cam", "hirescam", "layer_cam")
DEPTHS = (1, 3, 5, 7, 9, 11)  # blocks whose tokens, as they enter the attention, a CAM reads; the last is its default
INPUTS = "gradients_x_inputs"
SCORES = ("pointing_game", "relevance_mass")
LEVELS = ("chance", "random", "centre", "edges", "intensity", "oracle")  # controls that are printed
NOTE = """
**What it shows.** LibraGrad does not make these maps point better. Of 38 differences balanced less plain (19 maps, two
scores) 31 intervals hold 0, one is a gain (Grad-CAM at block 5, relevance mass +0.09), six are losses, all of HiResCAM
and LayerCAM. What it repairs is the sum: shares that add up to the logit (`tests/attribution/test_libra.py`) need not
lie elsewhere.

**The head.** Grad-CAM of the last block is a matter of luck. Ten heads that answer about equally well have 0.20 to 0.93
in the pointing game; their standard deviation is 0.19, so one head's score says no more than +-0.4, however many
images. The mean over heads, 0.51, is near chance (0.43), and balanced gradients leave it there. It averages the
gradient over all tokens; HiResCAM and LayerCAM, which multiply token by token, have 0.94, and 0.85 to 0.97 with any of
the heads. Of all other maps the heads' own part of the variance in the pointing game is 6 % at most: what differs is
images, and images under one head. In relevance mass it is up to 0.27 at the last block, and 0.16 at most before it.

**Why.** A softmax decides by the difference of two logits. What both logits share is left from the random start: it is
never trained away, nearly as long as the difference, and a map of one logit shows it. A map of the *difference* differs
less from head to head (Grad-CAM 0.50 to 0.85, and 0.61 on average; relevance mass of HiResCAM 0.71 to 0.86 in place of
0.50 to 0.87). `xaiutils.explain` takes it as a target: `lambda z: z[:, 1] - z[:, 0]`.

**How little the head adds.** An *untrained* head, random weights on the same features, has 0.90 by HiResCAM and 0.92 by
LayerCAM of the last block; in the pointing game the gain by training is not told from 0 (plain; of balanced HiResCAM it
is 0.11, from 0.79), and in relevance mass it is 0.05 to 0.06. Both show where DINOv2 has its large features, and that
is the animal. No map here is shown to be better than a blob at the centre (0.94). So a good score proves little of the
classifier.
"""


# Heads ----------------------------------------------------------------------------------------------------------------


def trained_heads(model: keras.Model, data_dir: Path) -> dict[str, np.ndarray]:
    """Weights ``(heads, features, 2)`` and biases ``(heads, 2)`` before and after training, and each head's accuracy on
    the validation images; made at the first call."""
    path = RUNS / "heads.npz"
    if not path.exists():
        train, val = (CELL.load(split, data_dir) for split in ("train", "val"))
        of_train, of_val = (embeddings(model, ds.images) for ds in (train, val))
        rows = [_trained_head(of_train, train.labels, of_val, val.labels, seed) for seed in range(HEADS)]
        found = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: np.savez(temporary, **found))
    with np.load(path) as found:
        return dict(found)


def _trained_head(
    x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(seed).integers(len(y), size=len(y))
    glorot = keras.initializers.GlorotUniform(seed)
    features = keras.Input(x.shape[1:])
    head = keras.Model(features, keras.layers.Dense(2, kernel_initializer=glorot)(features))
    start, state = head.get_weights(), State()
    fit(None, head, head, Split(x[drawn], y[drawn]), Split(x_val, y_val), MODERN, seed, state, Classes(), auc=True)
    best = state.kept[MODERN.monitor]
    row = state.rows[best.epoch - 1]
    return {
        "weights": best.weights[0],
        "biases": best.weights[1],
        "start": start[0],
        "accuracy": np.array(row["val_accuracy"]),
        "epochs": np.array(best.epoch),
    }


def with_all_heads(model: keras.Model, heads: dict[str, np.ndarray]) -> None:
    """The last layer's unit ``column_of(kind, head, c)`` is what of a head is explained for class c."""
    last = model.get_layer("logits")
    weights, biases = (np.zeros_like(w) for w in last.get_weights())
    for head, (w, b, start) in enumerate(zip(heads["weights"], heads["biases"], heads["start"], strict=True)):
        of_kinds = {"logit": (w, b), "difference": (w - w[:, ::-1], b - b[::-1]), "untrained": (start, 0 * b)}
        for kind, (kernel, bias) in of_kinds.items():
            units = [column_of(kind, head, c) for c in range(2)]
            weights[:, units], biases[units] = kernel, bias
    last.set_weights([weights, biases])


def column_of(kind: str, head: int, target: int) -> int:
    return (KINDS.index(kind) * HEADS + head) * 2 + target


# Maps -----------------------------------------------------------------------------------------------------------------

Maps = dict[tuple[str, int], np.ndarray]  # of each method and block (-1: the image)


def maps_of_heads(
    network: Network, images: np.ndarray, targets: np.ndarray, layers: list[str]
) -> Iterator[tuple[str, int, Maps]]:
    """Maps ``(n, height, width)`` of each kind and head, by one way forward and a way back for each: those of
    `xaiutils.explain`."""
    (height, width), x = images.shape[1:3], tf.constant(images)
    keys = [(kind, head) for kind in KINDS for head in range(HEADS)]
    combines = {name: combination(METHODS[name], {}) for name in CAMS}
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(x)
        logits, activations = forward(network, x, layers, tape.watch)
        columns = [np.array([column_of(*key, target) for target in targets]) for key in keys]
        scores = [tf.reduce_sum(tf.gather(logits, column, axis=1, batch_dims=1)) for column in columns]
    for key, score in zip(keys, scores, strict=True):
        of_images, *gradients = tape.gradient(score, [x, *activations])
        maps = {(INPUTS, -1): reduce_channels(images * of_images.numpy(), "sum")}
        for block, layer, A, g in zip(DEPTHS, layers, activations, gradients, strict=True):
            A, g = (network.to_grid(layer, tokens) for tokens in (A, g))
            for name, combine in combines.items():
                maps[name, block] = enlarge(combine(A, g), height, width, network.place(layer))
        yield *key, maps


def check(model: keras.Model, images: np.ndarray, targets: np.ndarray, layers: list[str], balanced: bool) -> None:
    """That the maps of the first image and head are those of `xaiutils.explain`."""
    network = balanced_network(Network(model)) if balanced else Network(model)
    kind, head, maps = next(maps_of_heads(network, images[:1], targets[:1], layers))
    for (name, block), found in maps.items():
        layer = {} if block == -1 else {"layer": layers[DEPTHS.index(block)]}
        column = column_of(kind, head, targets[0])
        known = xai.explain(model, images[:1], column, name, balanced=balanced, **layer)
        if not np.allclose(found, known, atol=1e-4 * np.abs(known).max()):
            raise SystemExit(f"{name} at block {block}, balanced={balanced}: not the map of xaiutils.explain.")


def measure(data_dir: Path) -> None:
    """Scores of every batch of images, plain and balanced, a file for each that is not there yet."""
    weights = data_dir / "weights" / CELL.weights
    model = xai.build_model(CELL.model, 2 * HEADS * len(KINDS), CELL.image_size, weights, seed=0)
    with_all_heads(model, trained_heads(model, data_dir))
    ds = CELL.images(data_dir).sample(IMAGES)
    network, layers = Network(model), [f"block_{block:02d}_norm1" for block in DEPTHS]
    if network.cam_layers("") != layers[-1:]:
        raise SystemExit(f"CAMs read {network.cam_layers('')} by default, not {layers[-1]}.")
    _write(_controls(ds, model), RUNS / "controls.parquet")
    logits = xai.predict(model, ds.images)
    columns = [[column_of("logit", head, c) for c in range(2)] for head in range(HEADS)]
    right = np.stack([logits[:, c].argmax(axis=1) == ds.labels for c in columns], axis=1)
    _write(pd.DataFrame(right).assign(image_id=ds.ids).rename(columns=str), RUNS / "right.parquet")
    for balanced in (False, True):
        todo = {start: RUNS / "scores" / f"{balanced}_{start:02d}.parquet" for start in range(0, len(ds), BATCH)}
        todo = {start: path for start, path in todo.items() if not path.exists()}
        if todo:
            check(model, ds.images, ds.labels, layers, balanced)
        chosen = balanced_network(network) if balanced else network
        for start, path in todo.items():
            part = ds.select(np.arange(start, min(start + BATCH, len(ds))))
            found = maps_of_heads(chosen, part.images, part.labels, layers)
            rows = [_scored(part, maps).assign(kind=kind, head=head) for kind, head, maps in found]
            _write(pd.concat(rows, ignore_index=True).assign(balanced=balanced), path)
            print(path.stem, flush=True)


def _scored(ds: ImageDataset, maps: Maps) -> pd.DataFrame:
    parts = [evaluate_all(None, ds, {name: found}, SCORES).assign(block=block) for (name, block), found in maps.items()]
    return pd.concat(parts, ignore_index=True)[["method", "block", "image_id", "metric", "value"]]


def _controls(ds: ImageDataset, model: keras.Model) -> pd.DataFrame:
    controls = control_maps(ds, 0, cam_grid(model))
    rows = [evaluate_all(None, ds, controls, SCORES), chance(ds, SCORES).assign(method="chance")]
    return pd.concat(rows, ignore_index=True)[["method", "image_id", "metric", "value"]]


def _write(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda temporary: table.to_parquet(temporary, index=False))


# The page -------------------------------------------------------------------------------------------------------------


def with_chance(scores: pd.DataFrame, controls: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """The scores, with that of an uninformed map where a map is 0 everywhere and has none; and the number of such maps
    by method."""
    chance = controls[controls["method"] == "chance"].set_index(["metric", "image_id"])["value"]
    lacking = scores["value"].isna()
    known = chance.loc[list(zip(scores["metric"], scores["image_id"], strict=True))].to_numpy()
    return scores.assign(value=scores["value"].where(~lacking, known)), scores[lacking].groupby("method").size()


def grid(scores: pd.DataFrame, metric: str, kind: str, balanced: bool, method: str, block: int) -> np.ndarray:
    """Values ``(heads, images)`` of one kind of map."""
    chosen = (scores["metric"] == metric) & (scores["kind"] == kind) & (scores["balanced"] == balanced)
    rows = scores[chosen & (scores["method"] == method) & (scores["block"] == block)]
    return rows.pivot(index="head", columns="image_id", values="value").to_numpy()


def _crossed(values: np.ndarray, statistic: Callable[[np.ndarray], float] = np.mean) -> tuple[float, float, float]:
    """A statistic of values ``(heads, images)`` and its interval over heads and images."""
    heads, images = np.indices(values.shape).reshape(2, -1)

    def of_weights(weights: np.ndarray) -> np.ndarray:
        kept = [w.reshape(values.shape) > 0 for w in weights]  # whole rows and columns are left out
        return np.array([[statistic(values[np.ix_(k.any(axis=1), k.any(axis=0))])] for k in kept])

    found, low, high = crossed_interval(of_weights, heads, images)
    return float(found[0]), float(low[0]), float(high[0])


def variances(values: np.ndarray) -> tuple[float, float, float]:
    """What of the variance of values ``(heads, images)`` is of heads, of images, and of neither alone: the components
    of the crossed random model, each estimated without bias, so one that is near 0 can be below it."""
    heads, images = values.shape
    of_heads, of_images = values.mean(axis=1), values.mean(axis=0)
    rest = values - of_heads[:, None] - of_images + values.mean()
    rest = (rest**2).sum() / ((heads - 1) * (images - 1))
    return of_heads.var(ddof=1) - rest / images, of_images.var(ddof=1) - rest / heads, rest


def share_of_heads(values: np.ndarray) -> float:
    """The heads' part of the three variances; 0 where nothing varies."""
    parts = variances(values)
    return parts[0] / total if (total := sum(parts)) > 1e-12 else 0.0


def _rows() -> list[tuple[str, int]]:
    return [*((name, block) for name in CAMS for block in reversed(DEPTHS)), (INPUTS, -1)]


def _named(method: str, block: int) -> dict[str, str]:
    return {"map": method, "block": "" if block == -1 else str(block)}


def balance_table(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Plain and balanced, by the trained heads' logit."""
    lines = []
    for method, block in _rows():
        plain, balanced = (grid(scores, metric, "logit", b, method, block) for b in (False, True))
        line = _named(method, block)
        for name, values in (("plain", plain), ("balanced", balanced)):
            line |= {name: _with_ends(*_crossed(values)), f"heads, {name}": _range(values)}
        lines.append(line | {"balanced - plain": _with_ends(*_crossed(balanced - plain))})
    return pd.DataFrame(lines)


def kinds_table(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What is explained: the logit, its difference to the other one, or an untrained head's."""
    lines = []
    for method, block in _rows():
        line = _named(method, block)
        for balanced in (False, True):
            of_kinds = {kind: grid(scores, metric, kind, balanced, method, block) for kind in KINDS}
            name = "balanced" if balanced else "plain"
            line |= {
                f"{kind}, {name}": f"{v.mean():.2f} ({_range(v)})" for kind, v in of_kinds.items() if kind != "logit"
            }
            line[f"logit - untrained, {name}"] = _with_ends(*_crossed(of_kinds["logit"] - of_kinds["untrained"]))
        lines.append(line)
    return pd.DataFrame(lines)


def variance_table(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Standard deviations over heads and images of the logit's maps, and the heads' part of the variance."""
    lines = []
    for method, block in _rows():
        line = _named(method, block)
        for balanced in (False, True):
            values = grid(scores, metric, "logit", balanced, method, block)
            deviations = " / ".join(f"{np.sqrt(max(part, 0)):.2f}" for part in variances(values))
            share, low, high = np.clip(_crossed(values, share_of_heads), 0, 1)
            name = "balanced" if balanced else "plain"
            line |= {f"heads / images / both, {name}": deviations, f"heads' part, {name}": _with_ends(share, low, high)}
        lines.append(line)
    return pd.DataFrame(lines)


def _range(values: np.ndarray) -> str:
    """The least and the largest mean of a head."""
    of_heads = values.mean(axis=1)
    return f"{of_heads.min():.2f} to {of_heads.max():.2f}"


def _with_ends(value: float, low: float, high: float) -> str:
    return f"{value:.2f}" if np.isnan(low) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def page() -> str:
    """balanced_gradients.md"""
    scores = pd.concat([pd.read_parquet(path) for path in sorted((RUNS / "scores").glob("*.parquet"))])
    whole = scores.groupby("image_id")["balanced"].nunique() == 2  # images of a batch that has both so far
    scores = scores[scores["image_id"].isin(whole.index[whole])]
    controls = pd.read_parquet(RUNS / "controls.parquet")
    controls = controls[controls["image_id"].isin(scores["image_id"])]
    scores, empty = with_chance(scores, controls)
    levels = controls.pivot_table("value", "method", "metric", sort=False).round(2)
    with np.load(RUNS / "heads.npz") as heads:
        accuracy, epochs, weights = heads["accuracy"], heads["epochs"], heads["weights"]
    differences, shared = weights[..., 0] - weights[..., 1], weights.sum(axis=-1)
    lengths = [np.linalg.norm(w, axis=1).mean() for w in (differences, shared)]
    alike = np.corrcoef(differences)[np.triu_indices(HEADS, 1)].mean()
    right = pd.read_parquet(RUNS / "right.parquet").set_index("image_id").loc[scores["image_id"].unique()]
    about = (
        f"{HEADS} linear heads on DINOv2's ViT-S/14 (frozen), Oxford pets, {CELL.image_size} pixels; "
        f"{len(right)} test images with the animal's outline, by `python benchmarks/balanced_gradients.py`. Each head "
        "was trained by the recipe `modern` on a bootstrap sample of the training images, from random weights of its "
        f"own; its accuracy is {accuracy.min():.2f} to {accuracy.max():.2f} on the validation images, after "
        f"{epochs.min()} to {epochs.max()} epochs, and {right.mean().min():.2f} to {right.mean().max():.2f} on these "
        "test images. The weights of two logits' difference are "
        f"{lengths[0]:.1f} long, those of their sum {lengths[1]:.1f}; two heads' differences correlate by {alike:.2f}. "
        "Intervals are over heads and images (`xaiutils.statistics.crossed`), of each line alone. "
        f"{empty.sum()} of {len(scores) // len(SCORES)} maps are 0 everywhere and count as uninformed."
    )
    parts = []
    for metric in SCORES:
        title = xai.METRICS[metric].title
        level = ", ".join(f"{name} {value:.2f}" for name, value in levels[metric].items() if name in LEVELS)
        parts += [
            f"## {title}: plain and balanced",
            f"The logit of the true class. Maps that know nothing of the model: {level}.",
            as_markdown(balance_table(scores, metric)),
            f"## {title}: what the head has to do with it",
            "In brackets: the least and the largest mean of a head.",
            as_markdown(kinds_table(scores, metric)),
            f"## {title}: heads or images?",
            as_markdown(variance_table(scores, metric)),
        ]
    return (
        "\n\n".join(
            [
                "# LibraGrad, heads and images",
                about,
                NOTE.strip(),
                *parts,
            ]
        )
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data_dir", type=Path, default=os.environ.get("XAI_KIT"), help="default: XAI_KIT")
    parser.add_argument("--table", action="store_true", help="only write balanced_gradients.md")
    options = parser.parse_args()
    if not options.table:
        if options.data_dir is None:
            parser.error("where are the data? Set XAI_KIT or give --data_dir")
        measure(Path(options.data_dir))
    write_text(HERE / "balanced_gradients.md", page())


if __name__ == "__main__":
    main()
