"""Which attribution methods find the evidence in real images, and does that agree with what the model uses?

    python benchmarks/attributions.py                       every cell that has not been run yet, then attributions.md
    python benchmarks/attributions.py --cells busi_*        cells by key
    python benchmarks/attributions.py --cheap               without the methods of `EXPENSIVE`; another run adds them
    python benchmarks/attributions.py --table               attributions.md alone

A cell is a data set and a model: a frozen backbone with a linear head, trained as notebook 02 does. Test images with
evidence (lesion masks, lesion boxes, the animal) are explained for the class that the model predicts. Beside the
methods stand maps that know nothing of the model, and methods on the model with random weights. Every map is scored
twice, read by its magnitude and by its positive part, so that no method is ahead for having a sign. Before the maps
comes the gate, on all test images: does the model use the evidence at all (`xaiutils.evidence_use`)? The data are the
kit's, whose folder the environment variable ``XAI_KIT`` names, or ``--data_dir``. Scores of each finished method are
kept in ``runs/attributions`` (in the folder ``XAI_RUNS``, if set), so a run can be cut and goes on where it was.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

os.environ.setdefault("XAI_PROGRESS", "off")

import numpy as np
import pandas as pd
from methods import as_markdown

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset, balanced_indices
from xaiutils.evaluation import chance, control_maps, evaluate_all, summarise
from xaiutils.evaluation.claims import claims
from xaiutils.evaluation.findings import in_words
from xaiutils.evaluation.score_tables import NO_MODEL, ORACLES, RANDOM, TRAINED, of_reading
from xaiutils.evaluation.studies.evidence_use import EvidenceUse
from xaiutils.evaluation.studies.evidence_use_tables import use_in_words
from xaiutils.evaluation.studies.random_weights import random_weight_maps
from xaiutils.files import replace_file, write_text
from xaiutils.graph.predict import cam_grid

HERE = Path(__file__).resolve().parent
RUNS = Path(os.environ.get("XAI_RUNS") or HERE.parent / "runs") / "attributions"
FOLDERS = {name: name for name in ("busi", "cbis_ddsm", "oxford_pets", "mnist")}
DINOV2 = "dinov2_vits14_saliency_fp16.npz"
EVIDENCE = {"busi": "the drawn lesion", "cbis_ddsm": "the box of the lesion", "oxford_pets": "the animal"}
LOCATED = ("pointing_game", "iou", "relevance_mass", "relevance_rank", "roc_auc")
FAITHFUL = ("insertion_auc", "deletion_auc")
STEPS = 20  # of the insertion and deletion curves
_NAMES = {"magnitude": "magnitude", "positive": "positive part"}
READINGS = tuple(_NAMES)
SCORES = "scores_by_reading"  # folder of a cell; another name whenever older scores must not be mixed with new ones
GATE, GATE_TABLES = "evidence_use", ("groups", "merit", "images")  # folder of a cell, and its files
# Cheap settings of the methods that repeat, which the pages state; the others have their defaults.
PARAMETERS: dict[str, dict[str, int]] = {
    "smoothgrad": {"n_samples": 10},
    "smoothgrad_squared": {"n_samples": 10},
    "integrated_gradients": {"n_steps": 20},
    "guided_ig": {"n_steps": 20},
    "blur_ig": {"n_steps": 20},
    "idgi": {"n_steps": 20},
    "smooth_grad_cam_plus_plus": {"n_samples": 10},
    "integrated_grad_cam": {"n_steps": 10},
    "ss_cam": {"max_channels": 32, "n_samples": 5},
    "is_cam": {"max_channels": 32, "n_steps": 5},
    "shapley": {"n_segments": 16, "n_samples": 10},
    "kernel_shap": {"n_segments": 16, "n_coalitions": 160},
    "sobol": {"cells": 7, "n_samples": 8},
    "hsic": {"cells": 7, "n_masks": 300},
}
NOTES = """
`centre` is a Gaussian at the image's centre: on BUSI and on pets whoever points there does well, for that is where the
lesion and the animal usually are. Compare every column with its rows of random weights: a model that has learned
nothing sets the level there. The oracle is the evidence on the model's own grid of fields, 7 x 7 for EfficientNet-Lite0
at 224 pixels, 10 x 10 at 320, and 16 x 16 for DINOv2's ViT-S/14. An empty field: the method is not made for that model,
or was not run on it. IDGI of 20 steps fails by its steps: in 15 of 16 pets its maximum is pixel (2, 2), where the
gradient of the nearly black images at the path's beginning is largest; with 100 steps it points at the animal in 15 of
these 16. A head trained on another processor is the same up to rounding, not to the bit. Of CBIS-DDSM a third of the
rows is of a second such head: every answer of the two is the same, and LayerCAM, measured of both, points alike in all
images and differs by up to .03 in an image's insertion AUC.
"""
_BOTH = (
    "vanilla_gradients",
    "gradients_x_inputs",
    "smoothgrad",
    "smoothgrad_squared",
    "integrated_gradients",
    "guided_ig",
    "blur_ig",
    "idgi",
    "deep_lift",
    "full_grad",
    "lrp",
    "occlusion",
    "grad_cam",
    "grad_cam_plus_plus",
    "xgrad_cam",
    "hirescam",
    "layer_cam",
    "shapley_cam",
    "finer_cam",
    "refine_cam",
    "eigen_cam",
    "eigengrad_cam",
    "smooth_grad_cam_plus_plus",
    "integrated_grad_cam",
)
_CNN = (
    "ablation_cam",
    "relevance_cam",
    "xrelevance_cam",
    "guided_grad_cam",
    "crp",
    "clrp",
    "sglrp",
    "guided_backprop",
    "deconvolution",
    "layer_aggregate",
)
_VIT = ("raw_attention", "attention_rollout", "transformer_attribution", "legrad")
EXPENSIVE = ("shapley", "kernel_shap", "sobol", "hsic", "ss_cam", "is_cam")  # hundreds of forwards an image
FEW = 24  # images that these are measured on
FEW_NOTES = f"""
## Methods of hundreds of forwards

{", ".join(EXPENSIVE[:-1])} and {EXPENSIVE[-1]} were measured on {FEW} of the images. Here are all methods on these
alone, so that they can be compared; with so few images hardly any difference is decided.
"""
METHODS = {"cnn": (*_BOTH, *_CNN, *EXPENSIVE), "vit": (*_BOTH, *_VIT, *EXPENSIVE)}
ON_RANDOM_WEIGHTS = ("vanilla_gradients", "gradients_x_inputs", "grad_cam")


@dataclass(frozen=True)
class Cell:
    """A data set and a model. ``most``: test images at most, as evenly of all classes as they can be. ``limit``: images
    of each split at most."""

    dataset: str
    model: str
    weights: str
    image_size: int
    most: int
    patch_size: int  # of occlusion: an eighth of the image or so
    limit: int | None = None

    @property
    def key(self) -> str:
        return f"{self.dataset}_{self.model}"

    def load(self, split: str, data_dir: Path) -> ImageDataset:
        folder = data_dir / FOLDERS[self.dataset]
        return xai.load_dataset(self.dataset, split, self.image_size, self.limit, data_dir=folder)

    def trained(self, data_dir: Path) -> keras.Model:
        """The model; trained at the first call."""
        path = RUNS / self.key / "model.keras"
        if not path.exists():
            train, val = self.load("train", data_dir), self.load("val", data_dir)
            weights = self.weights if self.weights == "imagenet" else data_dir / "weights" / self.weights
            model = xai.build_model(self.model, len(train.class_names), self.image_size, weights)
            xai.train(model, train, val, "modern", run_dir=path.parent)
        return keras.models.load_model(path)

    def images(self, data_dir: Path) -> ImageDataset:
        test = self.load("test", data_dir)
        with_evidence = test.select(test.masks.any(axis=(1, 2)))
        return with_evidence.sample(self.most)


CELLS = [
    Cell("busi", "efficientnet_lite0", "imagenet", 224, 100, 28),
    Cell("oxford_pets", "efficientnet_lite0", "imagenet", 224, 68, 28),
    Cell("cbis_ddsm", "efficientnet_lite0", "imagenet", 320, 100, 32),
    Cell("busi", "dinov2_vits14", DINOV2, 224, 100, 28),
    Cell("oxford_pets", "dinov2_vits14", DINOV2, 224, 68, 28),
    Cell("cbis_ddsm", "dinov2_vits14", DINOV2, 224, 24, 28),
]


def run(cell: Cell, data_dir: Path, n_faithful: int, methods: list[str]) -> None:
    """Score the methods and every control of a cell that have not been scored yet, each into a file of its own."""
    folder = RUNS / cell.key / SCORES
    model, ds = cell.trained(data_dir), cell.images(data_dir)
    gate(cell, model, data_dir)
    logits = xai.predict(model, ds.images)
    targets = logits.argmax(axis=1)
    facts = pd.DataFrame(
        {
            "image_id": ds.ids,
            "patient_id": ds.patients or ds.ids,
            "correct": targets == ds.labels,
            "area": ds.masks.mean(axis=(1, 2)),
        }
    )
    few = balanced_indices(ds.labels, n_faithful)
    _keep_facts(facts, folder / "facts.parquet")
    level = chance(ds, LOCATED, reading=READINGS).assign(method="chance", weights=NO_MODEL)
    _write(level, folder / "chance.parquet")
    family = xai.MODELS[cell.model].family
    for method in (m for m in METHODS[family] if m in methods):
        parameters = {"occlusion": {"patch_size": cell.patch_size}}.get(method, PARAMETERS.get(method, {}))
        rows = balanced_indices(ds.labels, FEW) if method in EXPENSIVE else np.arange(len(ds))
        made = partial(xai.explain, model, ds.images[rows], targets[rows], method, **parameters)
        _score(folder, method, made, model, ds.select(rows), targets[rows], np.flatnonzero(np.isin(rows, few)))
    for method in ON_RANDOM_WEIGHTS:
        made = partial(random_weight_maps, model, ds.images, [method], targets)
        _score(folder, method, lambda made=made, method=method: made()[method], model, ds, targets, few, RANDOM)
    for name, maps in control_maps(ds, 0, cam_grid(model)).items():
        _score(folder, name, lambda maps=maps: maps, model, ds, targets, few)


def _keep_facts(facts: pd.DataFrame, path: Path) -> None:
    """Write them, unless scores are kept beside them: these must be of a model with the same answers."""
    if not path.exists():
        _write(facts, path)
    elif not facts.equals(pd.read_parquet(path)):
        raise SystemExit(f"the model answers otherwise than the one whose scores are in {path.parent}; give XAI_RUNS.")


def gate(cell: Cell, model: keras.Model, data_dir: Path) -> None:
    """Whether the model uses the evidence of the test images, kept for `gate_of`."""
    folder = RUNS / cell.key / GATE
    if (folder / "said.json").exists():
        return
    found = xai.evidence_use(model, cell.load("test", data_dir))
    for name in GATE_TABLES:
        _write(getattr(found, name), folder / f"{name}.parquet")
    said = {name: getattr(found, name) for name in ("verdict", "sentence", "notes")}
    write_text(folder / "said.json", json.dumps(said, indent=1))
    print(cell.key, found.sentence, flush=True)


def gate_of(cell: Cell) -> EvidenceUse | None:
    """What `gate` kept; None where it was not run."""
    folder = RUNS / cell.key / GATE
    if not (folder / "said.json").exists():
        return None
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in GATE_TABLES}
    return EvidenceUse(**json.loads((folder / "said.json").read_text(encoding="utf-8")), **tables)


def _score(
    folder: Path,
    name: str,
    make: Callable[[], np.ndarray],
    model: keras.Model,
    ds: ImageDataset,
    targets: np.ndarray,
    few: np.ndarray,
    weights: str = TRAINED,
) -> None:
    path = folder / f"{_labelled(name, weights)}.parquet"
    if path.exists():
        return
    start = time.process_time()
    maps = make()
    seconds = (time.process_time() - start) / len(ds)
    parameters = {metric: {"n_steps": STEPS} for metric in FAITHFUL}
    options = {"parameters": parameters, "reading": READINGS, "weights": weights}
    parts = [
        evaluate_all(None, ds, {name: maps}, LOCATED, reading=READINGS, weights=weights),
        evaluate_all(model, ds.select(few), {name: maps[few]}, FAITHFUL, targets[few], **options),
    ]
    table = pd.concat(parts, ignore_index=True).assign(
        seconds=seconds if set(parts[0]["weights"]) == {TRAINED} else np.nan
    )
    _write(table, path)
    means = table.groupby(["metric", "reading"], sort=False)["value"].mean().round(3)
    said = [f"{metric} {' / '.join(map(str, values))}" for metric, values in means.groupby("metric", sort=False)]
    print(folder.parent.name, _labelled(name, weights), f"{seconds:.2f} CPU s a map;", ", ".join(said), flush=True)


def _labelled(method: str, weights: str) -> str:
    """What maps are called in files and tables."""
    return f"{method}, random weights" if weights == RANDOM else method


def _with_labels(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every map under a name of its own, those of random weights too."""
    names = [_labelled(m, w) for m, w in zip(table["method"], table["weights"], strict=True)]
    return table.assign(method=names).drop(columns="weights")


def _write(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda temporary: table.to_parquet(temporary, index=False))


def scores_of(cell: Cell) -> pd.DataFrame | None:
    """All scores of a cell, with what is known of each image; None where it was not run to its end, the controls."""
    folder = RUNS / cell.key / SCORES
    if not (folder / "oracle_full.parquet").exists():
        return None
    order = [*METHODS[xai.MODELS[cell.model].family], *(_labelled(m, RANDOM) for m in ON_RANDOM_WEIGHTS)]
    files = {p.stem: p for p in folder.glob("*.parquet") if p.stem != "facts"}
    tables = [
        pd.read_parquet(files[name])
        for name in sorted(files, key=lambda n: (n not in order, order.index(n) if n in order else n))
    ]
    return pd.concat(tables).merge(pd.read_parquet(folder / "facts.parquet"), on="image_id", how="left")


# The report -----------------------------------------------------------------------------------------------------------


def few_images(scores: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    """The expensive methods that have fewer images than the others, and the scores of all methods on these images."""
    located = scores[scores["metric"] == LOCATED[0]]
    counts = located.groupby("method")["image_id"].nunique()
    methods = [m for m in EXPENSIVE if counts.get(m, 0) and counts[m] < scores["image_id"].nunique()]
    shared = located[located["method"].isin(methods)]
    kept = [image for image, rows in shared.groupby("image_id") if rows["method"].nunique() == len(methods)]
    return methods, scores[scores["image_id"].isin(kept)]


def page_of(cell: Cell, scores: pd.DataFrame) -> str:
    """The table of a cell, and what may be said of it."""
    expensive, on_few = few_images(scores)
    everything, scores = scores, scores[~scores["method"].isin(expensive)]
    split = _with_labels(scores[scores["metric"] == LOCATED[0]]).assign(
        answer=lambda t: t["correct"].map({True: "right", False: "wrong"}) + ", " + t["reading"]
    )
    split = split.pivot_table("value", "method", "answer", sort=False).reset_index()
    n_right = int(scores.drop_duplicates("image_id")["correct"].sum())
    n_faithful = scores[scores["metric"].isin(FAITHFUL)]["image_id"].nunique()
    return "\n\n".join(
        [
            f"# {cell.dataset}, {cell.model}",
            *_gate_section(cell),
            "## Where the maps point",
            f"{scores['image_id'].nunique()} test images with {EVIDENCE[cell.dataset]}, {cell.image_size} pixels; the "
            f"model is right on {n_right}. Insertion and deletion: {n_faithful} images, {STEPS} steps. "
            "Means with 95 % intervals, of every map read by its magnitude (mag) and by its positive part (pos); "
            "*signed* are the methods whose maps have a sign, for all others both are the same.",
            "Settings other than defaults: "
            + "; ".join(
                f"{method} {', '.join(f'{k}={v}' for k, v in chosen.items())}"
                for method, chosen in ({"occlusion": {"patch_size": cell.patch_size}} | PARAMETERS).items()
                if method in set(everything["method"])
            )
            + ".",
            as_markdown(_by_reading(scores, LOCATED)),
            as_markdown(_by_reading(everything, FAITHFUL).drop(columns="CPU s a map")),
            *_few_section(expensive, on_few),
            f"## {xai.METRICS[LOCATED[0]].title} where the model is right, and where it is wrong",
            as_markdown(split),
            in_words(scores.assign(model=cell.model), EVIDENCE[cell.dataset])
            .replace("# What the maps show", "## In words", 1)
            .replace("## " + cell.model, "", 1),
        ]
    )


def _few_section(expensive: list[str], on_few: pd.DataFrame) -> list[str]:
    """Where the maps of methods that were measured on few images point, beside all others on the same images."""
    if not expensive:
        return []
    return [
        f"## On {on_few['image_id'].nunique()} of these images",
        f"{', '.join(expensive)} take hundreds of forwards for a map. All methods on the images that these have:",
        as_markdown(_by_reading(on_few, LOCATED)),
    ]


def _gate_section(cell: Cell) -> list[str]:
    """The verdict that stands above the maps, and its tables."""
    use = gate_of(cell)
    if use is None:
        return []
    groups = _with_ends(use.groups, "difference", "low", "high", 2)
    groups = _with_ends(groups, "share", "share_low", "share_high", 2)
    return [
        f"## Does the model use {EVIDENCE[cell.dataset]}?",
        " ".join([use.sentence, *use.notes]),
        "Medians over test images: of the log-odds of the predicted class (score), of what it loses when all evidence "
        "is painted over (evidence) or a healthy place of the same form (control), of what the evidence takes beyond "
        "that (difference), and this beside all that speaks for the class (share).",
        as_markdown(groups.drop(columns=["patients", "evidence_low", "evidence_high"]).round(2)),
        as_markdown(_with_ends(use.merit, "loss", "low", "high", 3).round(3)),
    ]


def _with_ends(table: pd.DataFrame, name: str, low: str, high: str, digits: int) -> pd.DataFrame:
    """The table with a value and its interval in one column."""
    rows = table[[name, low, high]].to_numpy(float)
    written = [f"{v:.{digits}f} [{a:.{digits}f}, {b:.{digits}f}]" for v, a, b in rows]
    return table.assign(**{name: written}).drop(columns=[low, high])


def _by_reading(scores: pd.DataFrame, metrics: tuple[str, ...]) -> pd.DataFrame:
    """Means and intervals of each method, both readings side by side, and its cost where it was measured."""
    chosen = _with_labels(scores[scores["metric"].isin(metrics)])
    summary = summarise(chosen, ["method", "metric", "reading"])
    shown = [
        "" if np.isnan(m) else f"{m:.3f}" if np.isnan(low) else f"{m:.3f} [{low:.2f}, {high:.2f}]"
        for m, low, high in summary[["mean", "low", "high"]].to_numpy()
    ]
    columns = ["metric", "reading"]
    table = summary.assign(shown=shown).pivot_table("shown", "method", columns, aggfunc="first", sort=False).fillna("")
    table = table[[(m, r) for m in metrics for r in READINGS if (m, r) in table]]
    table.columns = [f"{xai.METRICS[name].label}, {reading[:3]}" for name, reading in table.columns]
    signed = table.index.map(
        lambda m: "signed" if (known := xai.METHODS.get(m)) and known.is_signed(PARAMETERS.get(m, {})) else ""
    )
    table.insert(0, "map", signed)
    seconds = chosen.groupby("method", sort=False)["seconds"].mean()
    table["CPU s a map"] = seconds.map(lambda s: f"{s:.2f}" if s == s else "")
    return table.reset_index()


def overview(found: dict[str, pd.DataFrame]) -> str:
    """The pointing game of every method in every cell, by either reading."""
    parts = {key: few_images(scores) for key, scores in found.items()}
    on_all = {key: scores[~scores["method"].isin(parts[key][0])] for key, scores in found.items()}
    on_few = {key: rows for key, (expensive, rows) in parts.items() if expensive}
    tables = [
        f"## Maps read by their {_NAMES[reading]}\n\n{as_markdown(_pointing(on_all, reading))}" for reading in READINGS
    ]
    if on_few:
        tables.append(FEW_NOTES.strip())
        tables += [
            f"### Few images, maps read by their {_NAMES[reading]}\n\n{as_markdown(_pointing(on_few, reading))}"
            for reading in READINGS
        ]
    links = ", ".join(f"[{key}](attributions/{key}.md)" for key in found)
    uses = {cell.key: use for cell in CELLS if cell.key in found and (use := gate_of(cell)) is not None}
    return (
        "\n\n".join(
            [
                "# Who finds the evidence in real images?",
                "A map can only be asked to find what its model uses. So before any map the evidence of all test "
                "images is painted over, and beside it a healthy place of the same form (`xai.evidence_use`):",
                use_in_words(uses),
                "## The maps",
                "Part of the images in which the maximum of the map lies in the evidence (the pointing game), for "
                "the class that the model predicts. `+`: better than chance by an exact test with Holm's "
                "correction, and by its 95 % interval. `*`: better than every control too (random, centre, edges, "
                "Laplace, brightness; of three methods also their maps of random weights). Methods are compared within "
                "one reading of the maps, by their magnitude or by their positive part; without either, those whose "
                "maps have a sign would be ranked by it. All metrics, intervals, and the sentences that follow from "
                f"them: {links}.",
                *_not_measured_again(found),
                *tables,
                NOTES.strip(),
                _without_row(found),
            ]
        )
        + "\n"
    )


def _without_row(found: dict[str, pd.DataFrame]) -> str:
    """The methods that no cell has."""
    measured = set().union(*(scores["method"] for scores in found.values()))
    return f"Not measured: {', '.join(f'`{m}`' for m in xai.METHODS if m not in measured)}."


def _not_measured_again(found: dict[str, pd.DataFrame]) -> list[str]:
    """What is said of pages that an earlier version of this script has left."""
    old = [c.key for c in CELLS if c.key not in found and (HERE / "attributions" / f"{c.key}.md").exists()]
    if not old:
        return []
    links = ", ".join(f"[{key}](attributions/{key}.md)" for key in old)
    return [
        f"**Not measured again** since maps have a declared reading: {links}. There signed maps are ranked by their "
        "sign, and Relevance-CAM, XRelevance-CAM and LeGrad had other defaults."
    ]


def _pointing(found: dict[str, pd.DataFrame], reading: str) -> pd.DataFrame:
    """Its mean for every method (rows) and cell (columns), with the marks of what may be said of it."""
    columns, methods = {}, set()
    for key, scores in found.items():
        rows = of_reading(scores, reading)
        rows = rows[rows["metric"] == LOCATED[0]]
        said = claims(rows, n_resamples=1000).set_index("method")
        means = _with_labels(rows).groupby("method", sort=False)["value"].mean()
        methods.update(said.index)
        columns[f"{key}, {rows['image_id'].nunique()} images"] = {
            name: _marked(value, said.loc[name] if name in said.index else None) for name, value in means.items()
        }
    table = pd.DataFrame(columns).fillna("")
    order = sorted(table.index, key=lambda n: (n not in methods, n in ORACLES))
    return table.loc[order].rename_axis("method").reset_index()


def _marked(value: float, said: pd.Series | None) -> str:
    text = f"{value:.2f}"
    if said is None or said["verdict"] != "better":
        return text
    return text + ("\\*" if not said["beaten_by"] and not said["undecided_against"] else "+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--cells", nargs="*", default=["*"], help="keys or patterns: " + ", ".join(c.key for c in CELLS)
    )
    parser.add_argument("--data_dir", type=Path, default=os.environ.get("XAI_KIT"), help="default: XAI_KIT")
    parser.add_argument("--faithful", type=int, default=16, help="images for insertion and deletion")
    known = list(dict.fromkeys(m for of_family in METHODS.values() for m in of_family))
    parser.add_argument("--methods", nargs="*", default=known, choices=known, metavar="METHOD", help="default: all")
    parser.add_argument("--cheap", action="store_true", help="without " + ", ".join(EXPENSIVE))
    parser.add_argument("--table", action="store_true", help="only write attributions.md")
    options = parser.parse_args()
    if not options.table:
        if options.data_dir is None:
            parser.error("where are the data? Set XAI_KIT or give --data_dir")
        for cell in CELLS:
            if any(fnmatch(cell.key, pattern) for pattern in options.cells):
                chosen = [m for m in options.methods if not (options.cheap and m in EXPENSIVE)]
                run(cell, Path(options.data_dir), options.faithful, chosen)
                keras.backend.clear_session()
    found = {cell.key: scores for cell in CELLS if (scores := scores_of(cell)) is not None}
    (HERE / "attributions").mkdir(exist_ok=True)
    for cell in CELLS:
        if cell.key in found:
            write_text(HERE / "attributions" / f"{cell.key}.md", page_of(cell, found[cell.key]))
    write_text(HERE / "attributions.md", overview(found))


if __name__ == "__main__":
    main()
