"""The thesis' eight grids on real images, and how far the maps of its eight methods stay when the image changes.

    python benchmarks/thesis.py                              what has not been measured yet, then thesis.md and figures
    python benchmarks/thesis.py --cells mnist_* --images 4   cells by key, images of each; --dear: of the dear methods
    python benchmarks/thesis.py --page                       thesis.md and the figures alone

A cell is a data set and a model: the frozen networks of `attributions`, and the same two on MNIST. Each image is
explained as it is and in the thesis' six variants, all seven for the class predicted on the image as it is. The maps
are brought back and compared by the metric ``transform_consistency``, read by their magnitude. Beside the methods
stand maps that know no model, and pairs of different images. The data are the kit's, whose folder the environment
variable ``XAI_KIT`` names, or ``--data_dir``. What is measured is kept after every image in ``runs/thesis`` (in the
folder ``XAI_RUNS``, if set), with the maps of each cell's first image: ``--images 20`` after ``--images 10`` measures
ten more. The grids of patients' images are drawn in that folder alone.
"""

import argparse
import io
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

os.environ.setdefault("XAI_PROGRESS", "off")

import attributions
import numpy as np
import pandas as pd
from attributions import Cell
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from methods import THESIS
from PIL import Image
from skimage.filters import threshold_otsu
from sklearn.metrics import roc_auc_score
from thesis_page import CONTROLS, VARIANTS, cell_page, page, with_enough

import xaiutils as xai
from xaiutils.attribution import MapWarning
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation import control_maps
from xaiutils.evaluation.metrics.metric import Case
from xaiutils.evaluation.studies.randomisation import chance_similarity
from xaiutils.files import replace_file, write_text
from xaiutils.map_reading import read_maps
from xaiutils.plots.style import MAP_COLOURS

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs" / "thesis"
RUNS = Path(os.environ.get("XAI_RUNS") or HERE.parent / "runs") / "thesis"
SHOWN = ("mnist", "oxford_pets")  # CC BY-SA: grids in docs/; of patients' images there are numbers alone
DEAR = ("integrated_gradients", "occlusion", "score_cam")
SIGNED = "signed_gradients"  # the gradient summed over channels, for its sign; of the image as it is
SIMILARITIES = ("spearman", "ssim")
PAIRS = 20  # of different images
MOST = 24  # images of a cell that can be asked for
_MNIST = Cell("mnist", "efficientnet_lite0", "imagenet", 224, MOST, 28, limit=1000)
_OTHERS = sorted(attributions.CELLS, key=lambda c: ("oxford_pets", "busi", "cbis_ddsm").index(c.dataset))
CELLS = [_MNIST, replace(_MNIST, model="dinov2_vits14", weights=attributions.DINOV2, limit=400), *_OTHERS]


def parameters_of(cell: Cell, method: str) -> dict:
    """The thesis' settings; larger windows of occlusion, whole patches of the transformer's, and Score-CAM through the
    128 channels that vary most."""
    own = {"occlusion": {"patch_size": cell.patch_size}, "score_cam": {"max_channels": 128}}
    return own.get(method, THESIS[method][1])


def run(cell: Cell, data_dir: Path, n_images: int, n_dear: int) -> None:
    """Measure what is missing of a cell, cheap methods first."""
    folder = RUNS / cell.key
    names = sorted(THESIS, key=lambda name: name in DEAR)
    wanted = {name: n_dear if name in DEAR else n_images for name in ("answers", *CONTROLS, SIGNED, *names)}
    missing = {name: n for name, n in wanted.items() if _measured(folder, name)[0] < n}
    if not missing:
        return
    model, ds = cell.trained(data_dir), replace(cell, most=MOST).images(data_dir)
    ds = ds.select(in_turns(ds.labels))
    targets = xai.predict(model, ds.images).argmax(axis=1)
    if not (folder / "facts.json").exists():
        test = cell.load("test", data_dir)
        right = int((xai.predict(model, test.images).argmax(axis=1) == test.labels).sum())
        write_text(folder / "facts.json", json.dumps({"test": len(test), "right": right, "classes": test.class_names}))
    for name, n in missing.items():
        measure(folder, name, ds.take(min(n, len(ds))), maker(cell, model, name, targets))


def in_turns(labels: np.ndarray) -> np.ndarray:
    """The order in which images are taken: one of each class in turn, the last class first, so that the first ones of
    any number are of all classes."""
    rank = pd.Series(labels).groupby(labels).cumcount()
    return np.lexsort((-labels, rank))


def variants(image: np.ndarray, seed: int) -> np.ndarray:
    """The image ``(1, height, width, C)`` and its six changed copies, float32 ``(7, height, width, C)``."""
    return np.concatenate([image, *(xai.TRANSFORMS[name].apply(image, seed) for name in VARIANTS)])


def maker(cell: Cell, model: keras.Model, name: str, targets: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    """What makes the maps ``(7, height, width)`` of image number ``i`` and its variants."""
    if name in CONTROLS:
        return lambda images, i: control_maps(ImageDataset(images, [0] * 7, ("any",), [""] * 7), seed=i)[name]
    if name == SIGNED:
        return lambda images, i: xai.explain(
            model, images[:1], targets[[i]], "vanilla_gradients", reduction="sum"
        ).repeat(7, 0)
    if name == "answers":
        return lambda images, i: xai.predict(model, images, probabilities=True)
    return lambda images, i: xai.explain(model, images, targets[[i] * 7], name, **parameters_of(cell, name))


def measure(folder: Path, name: str, ds: ImageDataset, make: Callable[[np.ndarray, int], np.ndarray]) -> None:
    """Add the images that have not been measured to the rows of a method, and keep its maps of the images themselves;
    of the first image those of the variants too."""
    done, rows, kept = _measured(folder, name)
    start = time.process_time()
    for i in range(done, len(ds)):
        images = variants(ds.pixels[[i]].astype(np.float32), seed=i)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MapWarning)  # a map of zeros has no similarity and is counted as missing
            found = make(images, i)
        if i == 0:
            _save(folder / f"{name}_first.npy", found)
            _save(folder / "first.npy", images)
        score = of_answers if name == "answers" else of_original if name == SIGNED else of_maps
        owner = ds.ids[i] if ds.patients is None else ds.patients[i]
        table = score(name, found, images, i).assign(method=name, image_id=ds.ids[i], patient_id=owner)
        rows, kept = pd.concat([rows, table]), [*kept, found[0]]
        _save(folder / f"{name}.npy", np.stack(kept))
        if name in (*THESIS, *CONTROLS) and i == len(ds) - 1:
            rows = pd.concat([rows[rows["transform"] != "another image"], of_pairs(name, np.stack(kept), ds)])
        replace_file(folder / f"{name}.parquet", lambda path, table=rows: table.to_parquet(path, index=False))
    each = (time.process_time() - start) / max(1, len(ds) - done)
    mean = rows[rows["measure"] == "spearman"]["value"].mean()
    print(folder.name, name, f"{len(ds)} images, {each:.1f} CPU s each, spearman {mean:.2f}", flush=True)


def of_maps(name: str, maps: np.ndarray, images: np.ndarray, seed: int) -> pd.DataFrame:
    """How like the map of the image those of its variants are, brought back; and what `of_original` tells."""
    metric, rows = xai.METRICS["transform_consistency"], []
    readings = {"": "magnitude", "_signed": "signed"} if maps.min() < 0 else {"": "magnitude"}
    for suffix, reading in readings.items():
        first, *changed = read_maps(maps, reading)[:, None]
        for transform, known in zip(VARIANTS, changed, strict=True):
            case = Case(first, images=images[:1], targets=np.zeros(1, np.int32), explain=lambda _, known=known: known)
            how = {"transform": transform, "transform_parameters": {}, "seed": seed}
            rows += [
                (transform, similarity + suffix, metric.compute(case, similarity=similarity, **how)[0])
                for similarity in SIMILARITIES[: 1 if suffix else 2]
            ]
    table = pd.DataFrame(rows, columns=["transform", "measure", "value"])
    return pd.concat([table, of_original(name, maps, images, seed)])


def of_original(name: str, maps: np.ndarray, images: np.ndarray, seed: int) -> pd.DataFrame:
    """Where the map of the image itself lies: in the dark, with its sign and without, and in the corners."""
    values = {
        "dark": in_the_dark(np.abs(maps[0]), images[0]),
        "dark_signed": in_the_dark(maps[0], images[0]) if maps[0].min() < 0 else np.nan,
        "corners": in_corners(np.abs(maps[0])),
    }
    return pd.DataFrame({"transform": "original", "measure": list(values), "value": list(values.values())})


def in_the_dark(attribution: np.ndarray, image: np.ndarray) -> float:
    """The probability that a pixel darker than Otsu's threshold has a higher value than a brighter one, ties half (the
    ROC AUC of darkness); NaN for a map of one value."""
    grey = image.mean(axis=-1)
    dark = grey <= threshold_otsu(grey)
    if np.ptp(attribution) == 0 or dark.all() or not dark.any():
        return np.nan
    return float(roc_auc_score(dark.ravel(), attribution.ravel()))


def in_corners(attribution: np.ndarray) -> float:
    """The share of a map without negative values in the four squares of a quarter of the image's side in its corners,
    a quarter of its area; NaN for a map of zeros."""
    total = attribution.sum(dtype=float)
    y, x = (side // 4 for side in attribution.shape)
    corners = sum(attribution[a, b].sum(dtype=float) for a in (np.s_[:y], np.s_[-y:]) for b in (np.s_[:x], np.s_[-x:]))
    return float(corners / total) if total > 0 else np.nan


def of_answers(name: str, p: np.ndarray, images: np.ndarray, seed: int) -> pd.DataFrame:
    """Whether the class stays that the model predicts, and how far its probability moves; ``p`` ``(7, classes)``."""
    target = p[0].argmax()
    kept, moved = p[1:].argmax(axis=1) == target, np.abs(p[1:, target] - p[0, target])
    tables = {"class_kept": kept.astype(float), "p_moved": moved.astype(float)}
    return pd.concat([pd.DataFrame({"transform": VARIANTS, "measure": m, "value": v}) for m, v in tables.items()])


def of_pairs(name: str, maps: np.ndarray, ds: ImageDataset) -> pd.DataFrame:
    """How alike a method's maps of different images (of different patients) are."""
    few, how = ds.take(len(maps)), {"n_pairs": PAIRS, "parameters": {name: {"reading": "magnitude"}}}
    if len(set(few.patients or few.ids)) < 2:
        return pd.DataFrame()
    found = chance_similarity({name: maps}, few.ids, SIMILARITIES, patients=few.patients, **how)
    pair = found["image_a"] + " and " + found["image_b"]
    columns = {"transform": "another image", "measure": found["similarity"], "value": found["value"]}
    return pd.DataFrame({**columns, "method": name, "image_id": pair, "patient_id": pair})


def _measured(folder: Path, name: str) -> tuple[int, pd.DataFrame, list[np.ndarray]]:
    """How many images of a method are done, their rows, and the maps of the images themselves."""
    path = folder / f"{name}.parquet"
    if not path.exists():
        return 0, pd.DataFrame(), []
    rows = pd.read_parquet(path)
    n = rows[rows["transform"] != "another image"]["image_id"].nunique()
    return n, rows, list(np.load(folder / f"{name}.npy")[:n])


def _save(path: Path, array: np.ndarray) -> None:
    replace_file(path, lambda temporary: np.save(temporary, array))


# Figures and pages ------------------------------------------------------------------------------------------------


def grid(cell: Cell) -> Figure | None:
    """The grid of the cell's first image; None where a method is missing."""
    folder = RUNS / cell.key
    if not all((folder / f"{name}_first.npy").exists() for name in ("answers", *THESIS)):
        return None
    images, p = np.load(folder / "first.npy"), np.load(folder / "answers_first.npy")
    maps = {name: np.load(folder / f"{name}_first.npy") for name in THESIS}
    parameters = {name: parameters_of(cell, name) for name in THESIS}
    titles, signed = xai.attribution.titles_and_signs(THESIS, parameters)
    names, target = json.loads((folder / "facts.json").read_text())["classes"], p[0].argmax()
    rows = [f"{xai.TRANSFORMS[t].title}\np = {x[target]:.2f}" for t, x in zip(("original", *VARIANTS), p, strict=True)]
    title = f"{cell.dataset}, {cell.model}: attribution for {names[target]!r}"
    titles = {name: text.replace(" ", "\n", 1) for name, text in titles.items()}  # nine columns leave them no room
    figure = xai.plots.attribution_grid(images, maps, signed, rows, titles, title=title)
    figure.set_figheight(figure.get_figheight() + 0.7)
    said = {
        True: "against the class ... for it; both ends: the map's 99th percentile",
        False: "the map's least value ... its 99th percentile",
    }
    panels = np.array(figure.axes, object)
    for is_signed, label in said.items():
        half = list(panels.reshape(len(rows), -1)[-1, 1:][:: 1 if is_signed else -1][:4])
        scale = ScalarMappable(Normalize(-1 if is_signed else 0, 1), MAP_COLOURS[is_signed])
        bar = figure.colorbar(scale, ax=half, location="bottom", aspect=30, pad=0.05)
        bar.set_ticks([-1, 0, 1] if is_signed else [0, 1], labels=["-", "0", "+"] if is_signed else ["low", "high"])
        bar.ax.tick_params(labelsize=8)
        bar.set_label(label, fontsize=8)
    return figure


def draw(cell: Cell) -> bool:
    """Save the grid, in ``docs/thesis`` where its image may be shown, else beside the run; whether every method was
    there for it."""
    figure = grid(cell)
    if figure is None:
        return False
    png = io.BytesIO()
    figure.savefig(png, dpi=130, bbox_inches="tight")
    path = (DOCS if cell.dataset in SHOWN else RUNS) / f"{cell.key}.webp"
    replace_file(path, lambda temporary: Image.open(png).convert("RGB").save(temporary, "webp", quality=80, method=6))
    return True


def scores() -> pd.DataFrame:
    """All rows that were measured, with the cell, its data set and its model; ids made unique."""
    tables = []
    for cell in CELLS:
        for path in sorted((RUNS / cell.key).glob("*.parquet")):
            table = pd.read_parquet(path)
            ids = {c: cell.dataset + " " + table[c].astype(str) for c in ("image_id", "patient_id")}
            tables.append(table.assign(cell=cell.key, dataset=cell.dataset, model=cell.model, **ids))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["cell", "method"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--cells", nargs="*", default=["*"], help="keys or patterns, in this order: " + ", ".join(c.key for c in CELLS)
    )
    parser.add_argument("--images", type=int, default=16, help="test images of each cell")
    parser.add_argument("--dear", type=int, default=5, help="of them, for " + ", ".join(DEAR))
    parser.add_argument("--data_dir", type=Path, default=os.environ.get("XAI_KIT"), help="default: XAI_KIT")
    parser.add_argument("--page", action="store_true", help="only write thesis.md and draw the grids")
    options = parser.parse_args()
    if max(options.images, options.dear) > MOST:
        parser.error(f"at most {MOST} images of each cell")
    if not options.page:
        if options.data_dir is None:
            parser.error("where are the data? Set XAI_KIT or give --data_dir")
        for cell in dict.fromkeys(c for pattern in options.cells for c in CELLS if fnmatch(c.key, pattern)):
            run(cell, Path(options.data_dir), options.images, options.dear)
            keras.backend.clear_session()
    found, facts = scores(), {}
    for cell in CELLS:
        of_cell = found[found["cell"] == cell.key]
        if set(THESIS) <= set(of_cell["method"]):
            known = json.loads((RUNS / cell.key / "facts.json").read_text())
            facts[cell.key] = known | {"pixels": cell.image_size, "drawn": draw(cell)}
            told, _ = with_enough(of_cell)
            if told["method"].isin(THESIS).any():
                write_text(HERE / "thesis" / f"{cell.key}.md", cell_page(told, cell.key))
    if not facts:
        parser.error("no cell has been measured by every method: run without --page first")
    write_text(HERE / "thesis.md", page(found[found["cell"].isin(facts)], facts, [c.key for c in CELLS]))


if __name__ == "__main__":
    main()
