"""TCAV and network dissection on real images, where nobody knows the truth: what do their controls say?

    python benchmarks/concepts.py                 every part that is not there yet, then concepts.md
    python benchmarks/concepts.py --parts busi*   parts by key
    python benchmarks/concepts.py --table         concepts.md alone

The models are those of `attributions.py`: a frozen EfficientNet-Lite0 with a linear layer, on BUSI and on pets, which
it trains where they are not in ``runs/attributions``. Concepts are windows of images, cut by the masks of lesions and
animals and enlarged; random sets are windows from anywhere. The data are the kit's, whose folder ``XAI_KIT`` names, or
``--data_dir``; what is finished is kept in ``runs/concepts`` (in the folder ``XAI_RUNS``, if set).
"""

import argparse
import os
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path

os.environ.setdefault("XAI_PROGRESS", "off")

import cv2
import numpy as np
import pandas as pd
from attributions import CELLS, Cell
from methods import as_markdown

import xaiutils as xai
from xaiutils.attribution.cam.layer_aggregate import default_layers
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.studies.concepts import RANDOM
from xaiutils.evaluation.studies.dissection import UNITS, detectors
from xaiutils.files import replace_file, write_text
from xaiutils.graph.network import Network

HERE = Path(__file__).resolve().parent
RUNS = Path(os.environ.get("XAI_RUNS") or HERE.parent / "runs") / "concepts"
SHOWN, SETS = 24, 20  # windows of a concept and of each random set; random sets
DISSECTED, CONTROLS = 48, 3  # images; draws of each control
QUANTILES = (0.005, 0.1)  # the paper's, and one under which larger concepts can be met
PARTS = [(quantile, at) for at in (0, 1) for quantile in QUANTILES]  # of the last two layers of a resolution
WINDOW = {"busi": 40, "oxford_pets": 64}  # pixels of the 224
BY_KEY = {cell.key: cell for cell in CELLS if cell.model == "efficientnet_lite0" and cell.dataset in WINDOW}


def windows(
    ds: ImageDataset, fits: Callable[[np.ndarray, np.ndarray], bool], n: int, side: int, seed: int
) -> np.ndarray:
    """``n`` square windows of ``ds`` whose pixels and mask ``fits`` accepts, enlarged to the images' size; from each
    image by turns, so that few come from the same. ValueError where there are not so many."""
    rng, size = np.random.default_rng(seed), ds.image_size
    found: list[np.ndarray] = []
    for _ in range(40):
        for i in rng.permutation(len(ds)):
            top, left = rng.integers(0, size - side + 1, (12, 2)).T
            for y, x in zip(top, left, strict=True):
                part = np.s_[y : y + side, x : x + side]
                if fits(ds.pixels[i][part], ds.masks[i][part]):
                    enlarged = cv2.resize(np.ascontiguousarray(ds.pixels[i][part]), (size, size))
                    found.append(enlarged.astype(np.float32))
                    break
            if len(found) == n:
                return np.stack(found)
    raise ValueError(f"{len(found)} windows fit; {n} are needed.")


def concepts_of(cell: Cell, data_dir: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The concepts of a data set, and windows from anywhere, all from images that are not explained."""
    side = WINDOW[cell.dataset]
    ds = xai.load_dataset(cell.dataset, "all", cell.image_size, data_dir=data_dir / cell.dataset)
    ds = ds.select(~np.isin(ds.ids, cell.load("test", data_dir).ids))
    of = {name: ds.select(ds.members(k)) for k, name in enumerate(ds.class_names)}
    rules: dict[str, tuple[ImageDataset, Callable[[np.ndarray, np.ndarray], bool]]] = {}
    if cell.dataset == "busi":
        marked = {name: part.select(part.masks.any(axis=(1, 2))) for name, part in of.items()}
        dark = np.median([p[m].mean() for p, m in zip(ds.pixels, ds.masks, strict=True) if m.any()])
        for name in ("benign", "malignant"):
            rules[f"inside a {name} lesion"] = marked[name], lambda pixels, mask: mask.mean() >= 0.9
            rules[f"edge of a {name} lesion"] = marked[name], lambda pixels, mask: 0.35 <= mask.mean() <= 0.65
        rules["dark, no lesion"] = ds, lambda pixels, mask: not mask.any() and pixels.mean() < dark
        rules["bright, no lesion"] = ds, lambda pixels, mask: not mask.any() and pixels.mean() > 110
    else:
        for name in ("cat", "dog"):
            rules[f"coat of a {name}"] = of[name], lambda pixels, mask: mask.mean() >= 0.95
            rules[f"background of a {name}"] = of[name], lambda pixels, mask: not mask.any()
    found = {name: windows(part, fits, SHOWN, side, 0) for name, (part, fits) in rules.items()}
    if cell.dataset == "oxford_pets":  # of no photograph: what do scores say of a concept that cannot matter?
        busi = xai.load_dataset("busi", "train", cell.image_size, data_dir=data_dir / "busi")
        found["ultrasound"] = windows(busi, lambda pixels, mask: True, SHOWN, side, 0)
    return found, windows(ds, lambda pixels, mask: True, SHOWN * SETS, side, 1)


def layers_of(model: keras.Model, n: int) -> list[str]:
    return default_layers(Network.of(model))[-n:]


def run_tcav(cell: Cell, data_dir: Path) -> None:
    path = RUNS / f"{cell.key}_tcav.parquet"
    if path.exists():
        return
    model, (concepts, random) = cell.trained(data_dir), concepts_of(cell, data_dir)
    test = cell.load("test", data_dir)
    how = {"layers": layers_of(model, 2), "n_random": SETS, "pooling": "mean"}
    table = xai.tcav(model, test, concepts, random, **how).table
    counts = dict(zip(test.class_names, test.class_counts, strict=True))
    _write(table.assign(images=table["class"].map(counts)), path)
    print(path.stem, flush=True)


def run_dissection(cell: Cell, data_dir: Path) -> None:
    for quantile, at in PARTS:
        path = RUNS / f"{cell.key}_dissection_{quantile}_{at}.parquet"
        if path.exists():
            continue
        model = cell.trained(data_dir)
        ds = xai.load_dataset(cell.dataset, "all", cell.image_size, data_dir=data_dir / cell.dataset)
        ds = ds.select(ds.masks.any(axis=(1, 2))).sample(DISSECTED)
        what = {"busi": "{} lesion", "oxford_pets": "{}"}[cell.dataset]
        masks: Mapping[str, np.ndarray] = {
            what.format(name): ds.masks & ds.members(k)[:, None, None]
            for k, name in enumerate(ds.class_names)
            if ds.members(k).any()
        } | {"background": ~ds.masks}
        table = xai.dissect(model, ds, masks, layers_of(model, 2)[at : at + 1], quantile, n_controls=CONTROLS)
        covered = {name: float(mask.mean()) for name, mask in masks.items()}
        _write(table.assign(covered=table["concept"].map(covered), images=len(ds)), path)
        print(path.stem, flush=True)


# The page -------------------------------------------------------------------------------------------------------------

NOTE_TCAV = """
*Score*: the share of the class's images whose logit grows towards the concept, mean over the random sets and the middle
95 % of theirs. *p*: the paper's t-test against scores of random sets, *p, sets*: ours, which takes each random set for
a concept and asks whether this one is another draw (both after Holm over the table); *significant*: both under 0.05.
*False alarms*: the part of random sets that the paper's test calls significant by themselves. *Shift*: logits to first
order on the way from random windows to the concept; of the random sets their root mean square. *Accuracy* of the planes
on windows held out.
"""
NOTE_UNITS = """
*Covered*: the concept's part of all pixels. *Detectors*: units whose IoU with the concept is the largest of all
concepts and over 0.04. *Best*: the largest IoU of any unit; *ceiling*: the largest there could be; *by chance*: that of
a unit whose places have nothing to do with the concept, q c / (q + c - q c) for the quantile q and the part c covered.
Controls: the same layer in three rotated bases, and the network with three draws of random weights (least to most).
"""


def tcav_section(cell: Cell) -> list[str]:
    path = RUNS / f"{cell.key}_tcav.parquet"
    if not path.exists():
        return []
    table = pd.read_parquet(path)
    shown = pd.DataFrame(
        {
            "layer": table["layer"],
            "class": [f"{c}, {n} images" for c, n in zip(table["class"], table["images"], strict=True)],
            "concept": table["concept"],
            "score": [f"{s:.2f} [{a:.2f}, {b:.2f}]" for s, a, b in table[["score", "low", "high"]].to_numpy()],
            "accuracy": table["accuracy"].map("{:.2f}".format),
            "p": table["p_holm"].map(_p),
            "shift": table["shift"].map("{:.2f}".format),
            "p, sets": table["p_sets_holm"].map(_p),
            "significant": np.where(table["significant"], "yes", ""),
            "false alarms": table["false_alarms"].map(lambda x: "" if np.isnan(x) else f"{x:.2f}"),
        }
    )
    return [
        f"### {cell.dataset}",
        f"{SHOWN} windows of {WINDOW[cell.dataset]} pixels show each concept, as many are in each of the {SETS} random "
        f"sets (*{RANDOM}*).",
        as_markdown(shown),
    ]


def dissection_section(cell: Cell) -> list[str]:
    rows = []
    for quantile, at in PARTS:
        path = RUNS / f"{cell.key}_dissection_{quantile}_{at}.parquet"
        if not path.exists():
            continue
        table = pd.read_parquet(path)
        n_images, covered = int(table["images"].iloc[0]), table.groupby("concept")["covered"].first()
        for (layer, concept), part in detectors(table).groupby(["layer", "concept"], sort=False):
            by = part.set_index("basis")
            c, line = covered[concept], {"quantile": quantile, "layer": layer, "concept": concept}
            line |= {"covered": f"{c:.3f}", "units": by.loc[UNITS, "units"]}
            line |= {"detectors": int(by.loc[UNITS, "mean"])}
            others = [b for b in by.index if b != UNITS]
            line |= {f"detectors, {b}": f"{by.loc[b, 'low']:.0f} to {by.loc[b, 'high']:.0f}" for b in others}
            line |= {"best": f"{by.loc[UNITS, 'best']:.3f}"}
            line |= {f"best, {b}": f"{by.loc[b, 'best']:.3f}" for b in others}
            line |= {"by chance": f"{quantile * c / (quantile + c - quantile * c):.3f}"}
            line |= {"ceiling": f"{by.loc[UNITS, 'ceiling']:.3f}"}
            rows.append(line)
    if not rows:
        return []
    return [f"### {cell.dataset}, {n_images} images with masks", as_markdown(pd.DataFrame(rows))]


def page(reading: str) -> str:
    """concepts.md; ``reading`` is what stands between title and tables."""
    scores = [x for cell in BY_KEY.values() for x in tcav_section(cell)]
    units = [x for cell in BY_KEY.values() for x in dissection_section(cell)]
    return "\n\n".join(
        [
            "# Do networks think in concepts? On real images",
            "TCAV (Kim et al. 2018) and network dissection (Bau et al. 2017) of EfficientNet-Lite0, frozen but for its "
            "last layer, by `python benchmarks/concepts.py`. What the models really use is not known here; where it "
            "is known, on phantoms, stands in [the study](../notebooks/studies/concepts.ipynb).",
            *([reading.strip()] if reading else []),
            "## TCAV",
            NOTE_TCAV.strip(),
            *scores,
            *(["## Network dissection", NOTE_UNITS.strip(), *units] if units else []),
        ]
    )


def _p(value: float) -> str:
    return "" if np.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _write(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda temporary: table.to_parquet(temporary, index=False))


READING = """
**What it shows.** By both tests one concept of six counts on BUSI: at block 11, windows from inside malignant lesions
speak for *malignant* (score 0.79, shift 0.12 logits, of random sets 0.03; p = 0.027 against sets). The paper's test
alone names 8 of the 24 rows below, and calls 30 to 40 % of random sets significant too. At the top layer, behind which
the model is linear, all images of a class have the same gradient: each plane scores 0 or 1, and random sets spread over
all of that. There *dark, no lesion* has the score 1.00 for malignant with p = 0.002, and against sets it is another
draw of them (p = 1.00). Planes are right on 56 to 74 % of windows held out, having learnt from 16 of each set: with so
few, so small windows little can be told, and that most concepts do not count is no evidence that they do not matter.

**Pets.** At the top, the coat of a dog speaks for *dog* (1.00, shift 1.07 logits) and against *cat* (0.00, -0.98), that
of a cat against *dog*, and by both tests; so does the background of dogs against *cat*, at half the shift. At block 11
no concept of photographs passes both. But *ultrasound*, which no photograph holds, does: it speaks against *cat* (0.19,
p < 0.001). A plane that parts ultrasound from photographs with 0.98 is a direction that no image takes, and both tests
ask only whether it differs from random sets, not whether it occurs: name no concept that the images do not have.

**Units.** On BUSI, at the paper's quantile, single units do stand for lesions: 118 of the 1,280 at the top detect one,
in rotated bases 47 to 64, with random weights none; at block 11 33 of 672, rotated 4 to 6, random none. So the share of
it that is due to the units, and not to any direction, is about a half at the top and more before it. Which lesion it is
says little: *benign* and *malignant* are masks of different images, and a unit for lesions falls to one of them. On
pets the paper's quantile finds nothing and cannot: no IoU with what covers a fifth of the pixels exceeds 0.055 at the
top. With the quantile 0.1 it can, but then counts stop telling, on both sets: rotated bases have about as many
detectors, and random weights often; on pets 0.04 is below chance (0.07 to 0.09). There the largest IoU tells: a unit of
block 11 has 0.34 with dogs, the best direction of the rotated bases 0.17, of random weights 0.14; at the top 0.38, 0.34
and 0.14. Of other images of the same sets nothing is said: there is no interval over the 48.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--parts", nargs="*", default=["*"], help="patterns of DATASET_tcav, DATASET_dissection")
    parser.add_argument("--data_dir", type=Path, default=os.environ.get("XAI_KIT"), help="default: XAI_KIT")
    parser.add_argument("--table", action="store_true", help="only write concepts.md")
    options = parser.parse_args()
    if not options.table:
        if options.data_dir is None:
            parser.error("where are the data? Set XAI_KIT or give --data_dir")
        for name, run in {"tcav": run_tcav, "dissection": run_dissection}.items():
            for cell in BY_KEY.values():
                if any(fnmatch(f"{cell.dataset}_{name}", pattern) for pattern in options.parts):
                    run(cell, Path(options.data_dir))
    write_text(HERE / "concepts.md", page(READING) + "\n")


if __name__ == "__main__":
    main()
