"""What does a network look at in a whole class? Maps of classes and patients of real images, with their controls.

    python benchmarks/maps_of_classes.py --cache FOLDER     every part that is not there yet, then maps_of_classes.md
    python benchmarks/maps_of_classes.py --sets oxford_pets  of one data set, or of cbis_ddsm, which needs --cache
    python benchmarks/maps_of_classes.py --table            maps_of_classes.md alone

Mammograms: the official test masses of CBIS-DDSM by a network of `mammograms.py`, which has been trained in FOLDER, in
frames by landmarks that are found. Pets: those that the model of `attributions.py` has not learnt from, in frames by
the box of the animal. What is finished is kept in ``runs/maps_of_classes`` (in the folder ``XAI_RUNS``, if set).
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("XAI_PROGRESS", "off")

import numpy as np
import pandas as pd
from attributions import CELLS
from mammogram_measures import HEAT_MAP, MAPS, maps_of
from mammogram_networks import Trained, images_of
from methods import as_markdown
from scipy import ndimage

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.beyond_maps.triplet_maps import triplet_maps, triplet_weights
from xaiutils.datasets import ImageDataset
from xaiutils.datasets.reading.breast_region import box_of, breast_landmarks, segment_breast
from xaiutils.evaluation import control_maps, evaluate_all, summarise
from xaiutils.evaluation.studies import class_maps as study
from xaiutils.evaluation.studies.random_weights import forgotten
from xaiutils.files import replace_file, write_text
from xaiutils.registration import Registration, register
from xaiutils.statistics.bootstrap import draw_units, percentiles

HERE = Path(__file__).resolve().parent
RUNS = Path(os.environ.get("XAI_RUNS") or HERE.parent / "runs") / "maps_of_classes"
NETWORK = Trained("more copies, longer", "official", 0)
AS_THEY_ARE, RANDOM_MAPS = "as they are", "hirescam, random weights"
PIXELS, EVIDENCE, MAGNITUDE = "the pixels", "the evidence", ", magnitude"
SIGNED = ("hirescam", RANDOM_MAPS)
TARGET, CHUNK = 1, 40  # malignant or dog; images at a time
SHUFFLES, PLANTS, PERMUTATIONS, SPLITS, RESAMPLES = 40, 10, 199, 10, 500
FINAL_SPLITS = 100
PLANTED = 0.8  # standard deviations, a large effect (Cohen 1988), added within a disc of `DISC` cells
DISC = 3
SHARE = ("share", "low", "high")
TRIPLETS = 120  # training images
SETS = ("busi", "oxford_pets", "cbis_ddsm")


@dataclass(frozen=True)
class Cell:
    """Images of two classes, and the frames that their maps are brought into.

    ``pooled`` pixels a side make a cell of all maps; ``region`` is the breast or animal, bool like the masks;
    ``explained`` has the settings of each kind of map (`mammogram_measures.MAPS`); ``controls`` are the frames whose
    landmarks are another image's, with the frame that each is the control of.
    """

    ds: ImageDataset
    pooled: int
    region: np.ndarray
    frames: Mapping[str, Registration | None]
    controls: Mapping[str, str]
    explained: Mapping[str, Mapping[str, Any]]
    model: Callable[[], keras.Model]
    left_out: str

    def cells(self, stack: np.ndarray) -> np.ndarray:
        """Means of ``pooled`` by ``pooled`` pixels of ``(n, height, width)``, float32."""
        n, rows, columns = len(stack), *(side // self.pooled for side in stack.shape[1:])
        parts = stack.reshape(n, rows, self.pooled, columns, self.pooled)
        return parts.mean(axis=(2, 4), dtype=np.float32)

    def framed(self, frame: str, maps: np.ndarray) -> np.ndarray:
        warps = self.frames[frame]
        return maps if warps is None else warps.apply(maps)


def mammograms(cache: Path, data_dir: Path) -> Cell:
    ds = images_of(NETWORK, cache, data_dir, "test")
    kinds = pd.Series(ds.labels).groupby(np.array(ds.patients)).nunique()
    both, marked = np.isin(ds.patients, kinds.index[kinds > 1]), ds.masks.any(axis=(1, 2))
    ds, pooled = ds.select(marked & ~both), 16
    found, mirrored = breast_landmarks(ds.pixels)
    lesions = np.array([_box(_largest(mask)).mean(axis=0, keepdims=True) for mask in ds.masks])
    shape = [side // pooled for side in ds.masks.shape[1:]]
    to = {
        kind: {"shape": shape, "kind": kind, "mirrored": mirrored} for kind in ("translation", "similarity", "affine")
    }
    centre = to["translation"] | {"to": (np.array([shape]) - 1) / 2}
    frames = {
        AS_THEY_ARE: None,
        "breast, similarity": register(_scaled(found, pooled), **to["similarity"]),
        "breast, affine": register(_scaled(found, pooled), **to["affine"]),
        "lesion": register(_scaled(lesions, pooled), **centre),
        "another's lesion": register(_scaled(_of_others(lesions), pooled), **centre),
    }
    layer = {"layer": "evidence"}  # as the blur of 16 pixels chosen by mammograms.py on validation images
    explained = {"hirescam": layer, HEAT_MAP: {}, "vanilla_gradients, smoothed": {"blur": 16}, RANDOM_MAPS: layer}
    return Cell(
        ds,
        pooled,
        np.stack([segment_breast(image) for image in ds.pixels]),
        frames,
        {"another's lesion": "lesion"},
        explained,
        lambda: NETWORK.model(cache),
        f"{both.sum()} images of {(kinds > 1).sum()} patients who have both classes, {(~marked & ~both).sum()} without "
        "evidence",
    )


def pets(data_dir: Path) -> Cell:
    cell = next(cell for cell in CELLS if (cell.dataset, cell.model) == ("oxford_pets", "efficientnet_lite0"))
    ds = xai.load_dataset("oxford_pets", "all", cell.image_size, data_dir=data_dir / "oxford_pets")
    learnt, marked = np.isin(ds.ids, cell.load("train", data_dir).ids), ds.masks.any(axis=(1, 2))
    ds, pooled = ds.select(marked & ~learnt), 4
    boxes = np.array([_box(mask) for mask in ds.masks])
    corners = np.stack([boxes[:, 0], boxes[:, 1], np.stack([boxes[:, 0, 0], boxes[:, 1, 1]], axis=-1)], axis=1)
    shape = [side // pooled for side in ds.masks.shape[1:]]
    frames = {
        AS_THEY_ARE: None,
        "animal's box": register(_scaled(corners, pooled), shape, "affine"),
        "another's box": register(_scaled(_of_others(corners), pooled), shape, "affine"),
    }
    explained = {"hirescam": {}, "vanilla_gradients, smoothed": {"blur": 8}, RANDOM_MAPS: {}}
    left_out = f"{learnt.sum()} images of the training, {(~marked & ~learnt).sum()} without a mask"
    return Cell(
        ds,
        pooled,
        np.asarray(ds.masks),
        frames,
        {"another's box": "animal's box"},
        explained,
        lambda: cell.trained(data_dir),
        left_out,
    )


def _scaled(points: np.ndarray, pooled: int) -> np.ndarray:
    """Points in pixels as points in cells."""
    return (points + 0.5) / pooled - 0.5


def _box(mask: np.ndarray) -> np.ndarray:
    """The corners (row, column) of a mask's box, the first and the last pixel's."""
    top, bottom, left, right = box_of(mask)
    return np.array([(top, left), (bottom - 1, right - 1)], float)


def _largest(mask: np.ndarray) -> np.ndarray:
    parts, _ = ndimage.label(mask)
    return parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())


def _of_others(landmarks: np.ndarray) -> np.ndarray:
    return landmarks[np.random.default_rng(0).permutation(len(landmarks))]


# Maps, and what is measured of them -----------------------------------------------------------------------------------


def maps_in(cell: Cell, name: str, folder: Path) -> np.ndarray:
    """Maps of a kind in cells, float32; those of the trained networks are kept in ``folder``."""
    if name == PIXELS:
        return cell.cells(cell.ds.pixels.mean(axis=-1))
    if name == EVIDENCE:
        return cell.cells(cell.ds.masks)
    if name.endswith(MAGNITUDE):
        return np.abs(maps_in(cell, name.removesuffix(MAGNITUDE), folder))
    path = folder / f"{name}.npy"
    if not path.exists():
        model, parts = cell.model(), []
        for start in range(0, len(cell.ds), CHUNK):
            part = cell.ds.select(np.arange(start, min(start + CHUNK, len(cell.ds))))
            parts.append(cell.cells(maps_of(name, MAPS[name], model, part, cell.explained[name])))
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: np.save(temporary, np.concatenate(parts)))
    return np.load(path)


def of_frames(cell: Cell) -> pd.DataFrame:
    """How well each frame lays regions over each other, and how sharp the mean image is."""
    pixels, region = maps_in(cell, PIXELS, Path()), cell.cells(cell.region)
    rows = []
    for frame in cell.frames:
        inside = np.nan_to_num(cell.framed(frame, region)) >= 0.5
        mean = inside.mean(axis=0) >= 0.5
        dice = 2 * (inside & mean).sum(axis=(1, 2)) / (inside.sum(axis=(1, 2)) + mean.sum())
        row = {"frame": frame, "dice": dice.mean(), "dice_10": np.quantile(dice, 0.1)}
        moved = cell.framed(frame, pixels)
        for k, name in enumerate(cell.ds.class_names):
            made = study.composite(moved, cell.ds.labels == k, 100)
            row |= {name: made.sharpness, f"{name}, above": (made.controls >= made.sharpness).mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def of_kind(cell: Cell, name: str, folder: Path) -> pd.DataFrame:
    """A row for each frame: where two classes differ, with false and planted differences; what of the target's class
    map lies on the evidence; whether a class repeats; whether a patient does."""
    maps, evidence = maps_in(cell, name, folder), maps_in(cell, EVIDENCE, folder)
    rows = []
    for frame in cell.frames:
        moved = cell.framed(frame, maps)
        found = study.patient_maps(moved, cell.ds.labels, cell.ds.patients, "none" if name == EVIDENCE else "l1")
        own, other = found.of(TARGET), found.of(1 - TARGET)
        gap = study.difference(own, other)
        row = {"frame": frame, "n": gap.n[0], "others": gap.n[1], "cells": int(np.isfinite(gap.mean).sum())}
        row |= {"differ": int(gap.differs.sum()), "p": float(gap.p.min())}
        area = np.nan_to_num(cell.framed(cell.controls.get(frame, frame), evidence)).mean(axis=0)
        area = area >= np.quantile(
            area, 1 - evidence.mean()
        )  # as many cells as the evidence has, where it is most often
        row |= {"area": area.mean(), "differ_in_area": int(gap.differs[area].sum())}
        row |= false_and_planted(found, area)
        for label, part in (("own", own), ("other", other)):
            row |= dict(zip((f"share_{label}", f"low_{label}", f"high_{label}"), share_in(part, area), strict=True))
        rows.append(row | repeats(found) | same_patient(cell, moved))
        print(cell.ds.name, name, frame, flush=True)
    return pd.DataFrame(rows)


def false_and_planted(found: study.PatientMaps, area: np.ndarray) -> dict[str, float]:
    """With shuffled labels: the part of trials in which anything is outlined, and of a planted disc what is."""
    rng = np.random.default_rng(0)
    seen = np.isfinite(found.maps).all(axis=0)
    spread, wrong, planted = np.nanstd(found.maps, axis=0), [], []
    rows, columns = np.indices(area.shape)
    places = np.argwhere(seen & (spread > 0))
    for trial in range(SHUFFLES):
        labels = rng.permutation(found.labels)
        a, b = found.maps[labels == TARGET], found.maps[labels != TARGET]
        wrong.append(study.difference(a, b, n_permutations=500, seed=trial).differs.any())
        if trial < PLANTS:
            row, column = places[rng.integers(len(places))]
            disc = ((rows - row) ** 2 + (columns - column) ** 2 <= DISC**2) & (spread > 0)
            outlined = study.difference(a + PLANTED * spread * disc, b, n_permutations=500, seed=trial).differs
            planted.append(outlined[disc].mean())
    return {"false": float(np.mean(wrong)), "planted": float(np.mean(planted))}


def share_in(maps: np.ndarray, area: np.ndarray) -> tuple[float, float, float]:
    """What part of a class map's magnitude lies in the area, with a bootstrap of patients."""
    seen = np.isfinite(maps).reshape(len(maps), -1).astype(float)
    values = np.nan_to_num(maps).reshape(len(maps), -1)
    weights = np.concatenate([np.ones((1, len(maps))), draw_units(len(maps), RESAMPLES, 0)])
    means = np.abs(weights @ values) / np.maximum(weights @ seen, 1)
    shares = means[:, area.ravel()].sum(axis=1) / means.sum(axis=1)
    return float(shares[0]), *(float(end) for end in percentiles(shares[1:], 0.95))


def repeats(found: study.PatientMaps) -> dict[str, float]:
    """How alike two halves of a class are, and two of different classes; and p of their difference, by permuting the
    labels of patients."""
    rng, n = np.random.default_rng(0), int(np.bincount(found.labels).min()) // 2
    seen = np.isfinite(found.maps).reshape(len(found.maps), -1).astype(float)
    values = np.nan_to_num(found.maps).reshape(len(found.maps), -1)

    def alike(labels: np.ndarray, n_splits: int) -> tuple[float, float]:
        halves = np.zeros((2, 3, n_splits, len(labels)))  # of the target, of the other class, of one and the other
        for k, (first, second) in enumerate(((TARGET, TARGET), (1 - TARGET, 1 - TARGET), (TARGET, 1 - TARGET))):
            for split in range(n_splits):
                one = rng.permutation(np.flatnonzero(labels == first))
                two = one[n:] if first == second else rng.permutation(np.flatnonzero(labels == second))
                halves[0, k, split, one[:n]] = halves[1, k, split, two[:n]] = 1
        known = halves @ seen
        means = (halves @ values / np.maximum(known, 1))[..., (known > 0).all(axis=(0, 1, 2))]
        means -= means.mean(axis=-1, keepdims=True)
        means /= np.maximum(np.linalg.norm(means, axis=-1, keepdims=True), 1e-12)
        same, other, across = (means[0] * means[1]).sum(axis=-1).mean(axis=-1)
        return (same + other) / 2, across

    gap = np.subtract(*alike(found.labels, SPLITS))
    drawn = [np.subtract(*alike(rng.permutation(found.labels), SPLITS)) for _ in range(PERMUTATIONS)]
    own, other = alike(found.labels, FINAL_SPLITS)
    p = (1 + np.sum(np.array(drawn) >= gap)) / (1 + PERMUTATIONS)
    return {"half": n, "same": own, "another": other, "needed": study.patients_needed(own, n), "p_repeats": float(p)}


def same_patient(cell: Cell, moved: np.ndarray) -> dict[str, float]:
    """How alike (Pearson) maps of one patient are, less how alike they are to those of others of the class, mean over
    patients with several images, and its interval by a bootstrap of them."""
    if cell.ds.patients is None:
        return {}
    patients, labels = np.array(cell.ds.patients), cell.ds.labels
    flat = moved.reshape(len(moved), -1).astype(float)
    flat = np.nan_to_num(flat - np.nanmean(flat, axis=1, keepdims=True))
    norm = np.linalg.norm(flat, axis=1)
    alike = (flat @ flat.T) / np.maximum(norm[:, None] * norm, 1e-12)
    view = cell.ds.metadata["view"].to_numpy()
    gaps = []
    for patient in np.unique(patients):
        i, j = (np.flatnonzero((patients == patient) & (view == v)) for v in ("CC", "MLO"))
        if not (len(i) and len(j)):
            continue
        rest = np.flatnonzero((patients != patient) & (view == "MLO") & (labels == labels[i[0]]))
        gaps.append(alike[np.ix_(i, j)].mean() - alike[np.ix_(i, rest)].mean())
    drawn = draw_units(len(gaps), RESAMPLES, 0) @ np.array(gaps) / len(gaps)
    low, high = percentiles(drawn, 0.95)
    return {"patients": len(gaps), "patient": float(np.mean(gaps)), "patient_low": low, "patient_high": high}


def of_triplets(data_dir: Path, dataset: str) -> pd.DataFrame:
    """Share of the maps by triplets (Chen et al. 2020) that lies on the evidence, beside a class's own and controls."""
    cell = next(cell for cell in CELLS if (cell.dataset, cell.model) == (dataset, "efficientnet_lite0"))
    model, train, ds = cell.trained(data_dir), cell.load("train", data_dir), cell.images(data_dir)
    few = train.sample(TRIPLETS)
    known = triplet_weights(model, few.images, few.labels)
    shuffled = known._replace(weights=known.weights[np.random.default_rng(0).permutation(len(known.weights))])
    maps = {"triplets": triplet_maps(model, ds.images, known)[0]}
    maps["triplets, shuffled weights"] = triplet_maps(model, ds.images, shuffled)[0]
    maps["hirescam"] = xai.explain(model, ds.images, ds.labels, "hirescam")
    with forgotten(model, 0, ds.pixels.shape[1:3]):
        fresh = triplet_weights(model, few.images, few.labels)
        maps["triplets, random weights"] = triplet_maps(model, ds.images, fresh)[0]
    maps |= {name: made for name, made in control_maps(ds).items() if name in ("centre", "random")}
    scored = evaluate_all(None, ds, maps, ["relevance_mass", "pointing_game"], reading="positive")
    scored["kind"] = scored["metric"] + "|" + scored["method"]
    return summarise(scored, "kind").assign(dataset=dataset)


# The page -------------------------------------------------------------------------------------------------------------


def kept(path: Path, make: Callable[[], pd.DataFrame]) -> None:
    if not path.exists():
        table = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: table.to_parquet(temporary, index=False))
        print(path.stem, flush=True)


def measure(cell: Cell, kinds: Sequence[str]) -> None:
    folder = RUNS / cell.ds.name
    facts = {
        "images": len(cell.ds),
        "pooled": cell.pooled,
        "left_out": cell.left_out,
        "cells": " x ".join(map(str, cell.cells(cell.ds.masks[:1]).shape[1:])),
    }
    kept(folder / "frames.parquet", lambda: of_frames(cell).assign(**facts))
    for name in (EVIDENCE, PIXELS, *cell.explained, *(name + MAGNITUDE for name in SIGNED)):
        if name in kinds:
            kept(folder / f"{name}.parquet", lambda name=name: of_kind(cell, name, folder))


NOTE = """
Maps are of {target}, in cells of {pooled} by {pooled} pixels; each is divided by its mean magnitude, then a patient's
are averaged. Frames: *as they are* (mammograms with the chest wall on the left); {frames}. *Outlined*: cells where
the class maps differ by the max-T permutation test at 5 % for all cells together, and how many of them lie in the
*area* (as many cells as the evidence covers on average, where it lies most often). *False*: of {shuffles} trials with
shuffled labels those that outline anything (0.05 expected); *planted*: the part that is outlined of a disc of radius
{disc} cells to which {planted} standard deviations were added under shuffled labels, mean of {plants}. *On the area*:
the part of the magnitude of each class's map there, with a bootstrap of patients. *the evidence* and *the pixels*
are no maps: with them the test is asked whether the classes' evidence lies elsewhere and whether the images differ.
"""
NOTE_HALVES = """
*Same*: the correlation of the maps of two halves of a class, {splits} splits, mean of both classes; *another*: of
halves of different classes. *p*: of their difference, by {permutations} permutations of the labels. *Needed*:
patients of a class for .90, by Spearman & Brown, where that says anything. *Patient*: correlation of a patient's CC
map with the MLO map, less that with the MLO maps of the class's other patients, with a bootstrap of patients.
"""
KINDS = (EVIDENCE, PIXELS, *(kind for name in MAPS for kind in (name, name + MAGNITUDE)))
FRAMES = {
    "cbis_ddsm": "*breast*: by nipple and both ends at the chest wall, as found; *lesion*: moved so that lesions "
    "coincide; *another's lesion*, its control: by the lesion of another image",
    "oxford_pets": "*animal's box*: stretched so that the animals' boxes coincide; *another's box*, its control",
}
TITLES = {"cbis_ddsm": "Masses of CBIS-DDSM", "oxford_pets": "Oxford pets", "busi": "BUSI"}


def page() -> str:
    parts = [
        "# What does a network look at in a whole class? On real images",
        "Maps of classes by `python benchmarks/maps_of_classes.py`; where the truth is known, on phantoms, stands in "
        "[the study](../notebooks/studies/maps_of_classes.ipynb).",
        READING.strip(),
    ]
    for name, classes in (("cbis_ddsm", ("benign", "malignant")), ("oxford_pets", ("cat", "dog"))):
        if (RUNS / name / "frames.parquet").exists():
            parts += section(name, classes)
    return "\n\n".join([*parts, *triplets_section()]) + "\n"


def section(name: str, classes: tuple[str, str]) -> list[str]:
    folder, sharp = RUNS / name, {}
    frames = pd.read_parquet(folder / "frames.parquet")
    for k in classes:
        sharp[f"sharpness, {k}"] = [f"{x:.2f} ({_p(p)})" for x, p in frames[[k, f"{k}, above"]].to_numpy()]
    dice = [f"{mean:.2f} ({low:.2f})" for mean, low in frames[["dice", "dice_10"]].to_numpy()]
    laid = pd.DataFrame({"frame": frames["frame"], "Dice with the mean": dice} | sharp)
    kinds = {kind: folder / f"{kind}.parquet" for kind in KINDS}
    rows = pd.concat([pd.read_parquet(path).assign(map=kind) for kind, path in kinds.items() if path.exists()])
    shares = {
        f"on the area, {k}": [
            f"{x:.3f} [{a:.3f}, {b:.3f}]" for x, a, b in rows[[f"{c}_{who}" for c in SHARE]].to_numpy()
        ]
        for k, who in ((classes[1], "own"), (classes[0], "other"))
    }
    differ = rows[["map", "frame"]].assign(
        outlined=[f"{n} of {m} ({_p(p)})" for n, m, p in rows[["differ", "cells", "p"]].itertuples(index=False)],
        **{"in the area": rows["differ_in_area"], "area": rows["area"].map("{:.3f}".format)},
        false=rows["false"].map("{:.2f}".format),
        planted=rows["planted"].map("{:.2f}".format),
        **shares,
    )
    needed = [f"{x:.0f}" if np.isfinite(x) and p <= 0.05 else "" for x, p in rows[["needed", "p_repeats"]].to_numpy()]
    again = rows[["map", "frame"]].assign(
        same=rows["same"].map("{:.2f}".format),
        another=rows["another"].map("{:.2f}".format),
        p=rows["p_repeats"].map(_p),
        needed=needed,
    )
    first = rows.iloc[0]
    if "patient" in rows:
        spans = rows[["patient", "patient_low", "patient_high"]].to_numpy()
        again[f"patient, {first['patients']:.0f}"] = [f"{x:.3f} [{a:.3f}, {b:.3f}]" for x, a, b in spans]
    facts = {"target": f'"{classes[1]}"', "pooled": frames["pooled"].iloc[0], "frames": FRAMES[name]}
    note = NOTE.format(**facts, shuffles=SHUFFLES, disc=DISC, planted=PLANTED, plants=PLANTS)
    return [
        f"## {TITLES[name]}",
        f"{frames['images'].iloc[0]} images of {first['n']} patients ({classes[1]}) and {first['others']} "
        f"({classes[0]}), {frames['cells'].iloc[0]} cells; left out: {frames['left_out'].iloc[0]}. {note.strip()}",
        "### Where the classes differ",
        as_markdown(differ),
        f"### Whether a class repeats, {first['half']:.0f} patients in each half",
        NOTE_HALVES.format(splits=FINAL_SPLITS, permutations=PERMUTATIONS).strip(),
        as_markdown(again),
        "### Whether the frames fit",
        "*Dice*: of each breast or animal with the mean one, mean of the images and (their tenth percentile). "
        "*Sharpness* of a class's mean image, and p: the part of 100 random sets of as many images that are "
        "at least as sharp.",
        as_markdown(laid),
    ]


def triplets_section() -> list[str]:
    tables = [pd.read_parquet(path) for path in sorted(RUNS.glob("triplets_*.parquet"))]
    if not tables:
        return []
    table = pd.concat(tables)
    table[["metric", "map"]] = table["kind"].str.split("|", expand=True).to_numpy()
    table["value"] = [f"{x:.3f} [{a:.3f}, {b:.3f}]" for x, a, b in table[["mean", "low", "high"]].to_numpy()]
    table["set"] = [f"{TITLES[name]}, {n} images" for name, n in zip(table["dataset"], table["n"], strict=True)]
    wide = table.pivot(index=["set", "map"], columns="metric", values="value").reset_index()
    wide.columns = [str(column).replace("_", " ") for column in wide.columns]
    return [
        "## Similarity maps",
        f"Maps by the triplets of {TRIPLETS} training images (Chen et al. 2020), which know no class of the new image; "
        "*shuffled weights*: those of other training images; *random weights*: a network that learnt nothing. Share of "
        "the map in the evidence, and whether its largest value lies there; 95 % intervals over images.",
        as_markdown(wide),
    ]


def _p(value: float) -> str:
    return f"p = {value:.3f}" if value >= 0.001 else "p < 0.001"


READING = """
**What it shows.** Of the mammograms' network, in the lesion's frame .60 [.49, .66] of the malignant class map lies on
the 1.2 % of the area where lesions are (benign .41 [.29, .49]); by the lesion of another image .03, with random
weights .02. It looks at the lesion. In frames of the breast it is .07 [.03, .09], and the lesions themselves have no
more there: they lie anywhere, so a class map in such a frame can say nothing, however the breasts are laid.

**Where classes differ is mostly what was answered.** Signed maps of one class turn over with the answer. In the
lesion's frame 34 cells differ, 21 of them in the lesion's area, and the benign map is the malignant one turned over
(correlation -.89). But by another's lesion 4 cells differ too, and on pets 2,630 to 2,896 of 3,136 cells in every
frame, another animal's box included: this is no difference of place. By magnitude no cell differs in the lesion's
frame (p = .115) and halves of different classes are as alike as of the same (.97 both): the network looks at the same
place in both classes. A large planted effect was found in .99 to 1.00 of its cells there, so that it was not for want
of patients; on pets .2 to .7, where there might be more.

**Reliability alone deceives.** In frames of the breast the network with random weights has the more reliable class
maps (magnitude .92 to .95, trained .34 to .43), and another class's are as alike. Registration by found landmarks
lays breasts better over each other (Dice .87, .90, .92) and makes maps a little more alike, of both classes alike. CC
and MLO maps of a patient are more alike than of different patients by .02 [.00, .04] as they are, and with random
weights by .06 [.05, .08]: that is the breast. In the lesion's frame it is .18 [.11, .24], random weights .09 [.07,
.11].

**The images differ by themselves.** In the affine frame the pixels of the classes differ in 43 cells, and the mean
benign breast is sharper than all of 100 random sets: a class map there might follow the breasts' size or density.

**Similarity maps** (pets) have .63 [.57, .69] of their sum on the animal, noise .44 [.40, .48], a network with random
weights .47 [.42, .51], a map of the centre .61 [.57, .66]: more than chance, not more than the centre.

**Not measured:** a second network or seed; the heat map of the network's head and gradients on mammograms; similarity
maps of ultrasound. The nipple was looked at in 32 images as found: one was on a bright edge of the film. No image of
CBIS-DDSM is healthy, so benign lesions are the controls.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--maps", nargs="+", default=KINDS, choices=KINDS, metavar="MAP", help="kinds of maps")
    parser.add_argument("--cache", type=Path, help="the folder of mammograms.py, for cbis_ddsm")
    parser.add_argument("--data_dir", type=Path, default=os.environ.get("XAI_KIT"), help="default: XAI_KIT")
    parser.add_argument("--table", action="store_true", help="only write maps_of_classes.md")
    args = parser.parse_args()
    if not args.table:
        if args.data_dir is None or ("cbis_ddsm" in args.sets and args.cache is None):
            parser.error("give --data_dir or XAI_KIT, and for cbis_ddsm --cache")
        data_dir = Path(args.data_dir)
        for name in args.sets:
            if name in ("busi", "oxford_pets"):
                kept(RUNS / f"triplets_{name}.parquet", lambda name=name: of_triplets(data_dir, name))
            if name != "busi":
                cell = mammograms(args.cache, data_dir) if name == "cbis_ddsm" else pets(data_dir)
                measure(cell, args.maps)
    write_text(HERE / "maps_of_classes.md", page())


if __name__ == "__main__":
    main()
