"""The pages of `thesis.py`, from the rows that it measured: method, transform, image_id, patient_id, measure, value."""

import numpy as np
import pandas as pd
from methods import THESIS
from rows import as_markdown

from xaiutils.evaluation import summarise
from xaiutils.statistics.proportions import wilson
from xaiutils.statistics.summaries import as_text

VARIANTS = ("log", "gaussian_noise", "speckle_noise", "black_rectangle", "affine", "rotate_180")
CONTROLS = ("random", "centre", "edges")
LEAST = 5  # images of a cell without which a method has no value
PAIR = "another image"  # the transform of the rows of two different images
ROWS = (*THESIS, *CONTROLS)
GRIDS = {
    "mnist": "a digit of MNIST (LeCun et al. 1998, CC BY-SA 3.0)",
    "oxford_pets": "a photograph of Oxford-IIIT Pets (Parkhi et al. 2012, CC BY-SA 4.0)",
}
INTRODUCTION = """
The master's thesis ([document 1](../docs/documents.md#1-thesis-on-mammography-uned-2021)) shows 4 data sets x 2 models
as grids: 8 methods, an image and 6 changed copies of it. Here they are on real images, with the networks that are at
hand (`python benchmarks/thesis.py`): EfficientNet-Lite0 in place of B5, DINOv2's ViT-S/14 (trained on for saliency) in
place of ViT-B/32, both frozen with a linear head; Oxford pets in place of Cats & Dogs, BUSI ultrasound in place of
INbreast, of CBIS-DDSM the masses. [matrices/thesis.yml](../matrices/thesis.yml) is the study with the thesis' own.

Settings are the thesis' (SmoothGrad of 5 samples, integrated gradients of 20 steps) except four. SmoothGrad's noise is
.15 of the range, for the thesis' .5 has no unit. Occlusion hides squares of 28 pixels (32 of 320), two of the
transformer's patches, not 15. Score-CAM looks through the 128 channels that vary most. And changes whose strength the
thesis leaves open have this package's: noise of a tenth of the range, speckle x (1 + 0.3 n), a black rectangle of .15
to .35 of the sides, 10 degrees, a factor of .9 and 8 degrees of shear.
"""
NOTES = """
What is seen by EfficientNet-Lite0. On the digit Grad-CAM++ and Score-CAM stay through all changes, and so does a
Gaussian at the centre; they stay even where the answer is lost (rectangle, p = .20; upside down, .08), so that they do
not show what went wrong. Grad-CAM moves there, as it may, but under speckle noise too, where p is still .93. On the
dog, whose class is never in doubt, all three stay, and occlusion stays least. Gradients x inputs and integrated
gradients have nothing in black areas, by their factor x; with their sign they are blue and red side by side, for and
against the class in neighbouring pixels.
"""
FOUND = """
What the four data sets say of EfficientNet-Lite0. Grad-CAM++ and Score-CAM stay most (.81 to .98), and theirs are also
the maps of *different images* that have most in common (.73, .74): much of what stays is their shape. Beyond that level
integrated gradients and gradients x inputs gain most (.72 and .68 beside .40 and .38), for one of their factors is the
image itself; edges, which know no model, do the same (.81 beside .29). Plain gradients under noise stay no more than
two images' maps resemble each other (.34 beside .36), occlusion hardly more (.28 beside .20). Noise of a tenth of the
range moves most maps further than turning the image upside down does; on pets the CAMs move further upside down.

Of the transformer (6 to 16 images a set, five of the eight methods) Grad-CAM++ stays least (.18 to .35), which in
EfficientNet-Lite0 stays most; Grad-CAM stays .53 to .75, and gradients x inputs as in the other network. So whether a
method's maps stay is no property of the method: nobody should carry a ranking from one architecture to another.
"""


def page(rows: pd.DataFrame, facts: dict[str, dict], all_cells: list[str]) -> str:
    """The page of all cells; ``facts`` of each that was begun, by its key: test, right, pixels, and whether its grid is
    drawn. Tables are of methods that have `LEAST` images of a cell; those that have fewer are named."""
    told, few = with_enough(rows)
    cells = [key for key in facts if key in set(told.loc[told["method"].isin(THESIS), "cell"])]
    partly = [f"{', '.join(few[key])} of {key}" for key in cells if key in few]
    drawn = [key for key, known in facts.items() if known["drawn"]]
    missing = [key for key in all_cells if key not in cells]
    parts = [
        "# The thesis' eight grids, and whether maps stay",
        INTRODUCTION.strip(),
        "## The networks",
        as_markdown(_networks(rows, facts)),
        *_grids(drawn),
        as_markdown(of_the_shown(rows, drawn)),
        NOTES.strip(),
        "## Do maps stay?",
        "The map of the changed image, for the class of the image as it is, is brought back and compared with the map "
        "of the image as it is: 1, it stayed. Both are read by their magnitude; pixels that a change pushed out of the "
        "picture are left out. Controls: `random`, noise anew for each copy; `centre`, a Gaussian at the centre "
        "whatever the image; `edges`, Sobel of the changed image. These know no model: **to stay is no sign of being "
        "right**.",
        f"**Not yet measured** of {LEAST} images or more: {'; '.join([*missing, *partly])}."
        if missing or partly
        else "",
        FOUND.strip() if len(cells) >= 4 else "",
        *(_tables(told[told["cell"].isin(cells)], cells) if cells else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tables(rows: pd.DataFrame, cells: list[str]) -> list[str]:
    """What was measured on several images, with intervals."""
    parts = [
        "Means over the six changes, with 95 % intervals over images (of CBIS-DDSM over patients). Spearman's rank "
        "correlation of the pixels:",
        as_markdown(overview(rows, "spearman", cells)),
        "SSIM of the maps, each scaled to [0, 1]:",
        as_markdown(overview(rows, "ssim", cells)),
        *_missing(rows),
        "Each cell by itself: " + ", ".join(f"[{key}](thesis/{key}.md)" for key in cells) + ".",
        "## By change",
        "Means over the data sets above. *Another image*: pairs of different images, what a method's maps have in "
        "common whatever they show. A map that stays no better than that did not stay.",
    ]
    for model, of_model in rows.groupby("model", sort=False):
        for measure, name in (("spearman", "Spearman"), ("ssim", "SSIM")):
            parts += [f"### {model}, {name}", as_markdown(by_change(of_model, measure))]
    return [
        *parts,
        "## What the models answer",
        "Fraction of images whose class stays, and mean change of the probability of the class. Where it falls, a map "
        "may move.",
        as_markdown(_answers(rows)),
        "## Dark areas",
        "The probability that a pixel darker than Otsu's threshold has a larger magnitude than a brighter one, in maps "
        "of images as they are: .5, no matter how bright; above, the map prefers the dark.",
        as_markdown(of_originals(rows, "dark", cells)),
        "The same with the sign: above .5, dark pixels speak for the class more than bright ones. `signed_gradients` "
        "is the gradient summed over channels.",
        as_markdown(of_originals(rows, "dark_signed", cells)),
        "## Corners",
        "The share of a map's magnitude in the four squares in the image's corners that make a quarter of its area: "
        ".25, no matter where.",
        as_markdown(of_originals(rows, "corners", cells)),
    ]


def with_enough(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The rows without those of methods and controls that have fewer than `LEAST` images of a cell, and which these
    are, by cell."""
    of_maps = rows[rows["method"].isin(ROWS) & (rows["transform"] != PAIR)]
    n = of_maps.groupby(["cell", "method"], sort=False)["image_id"].nunique()
    few: dict[str, list[str]] = {}
    for cell, method in n.index[n < LEAST]:
        few.setdefault(cell, []).append(method)
    left_out = [method in few.get(cell, ()) for cell, method in zip(rows["cell"], rows["method"], strict=True)]
    return rows[~np.array(left_out, bool)], few


def images_of(rows: pd.DataFrame, key: str) -> int:
    """How many images of a cell every method of the thesis has."""
    cell = rows[(rows["cell"] == key) & rows["transform"].isin(VARIANTS)]
    return int(cell.groupby("method")["image_id"].nunique().reindex(list(THESIS), fill_value=0).min())


def of_the_shown(rows: pd.DataFrame, cells: list[str]) -> pd.DataFrame:
    """Spearman, mean over the six changes, of the first image of each cell, which is that of its grid."""
    chosen = _consistency(rows, "spearman")
    first = chosen.groupby("cell")["image_id"].first()
    chosen = chosen[chosen["image_id"] == chosen["cell"].map(first)]
    means = chosen.groupby(["method", "cell"])["value"].mean().unstack("cell")[cells]
    return means.reindex([name for name in ROWS if name in means.index]).round(2).add(0.0).reset_index()


def cell_page(rows: pd.DataFrame, key: str) -> str:
    """The two tables of a cell, and its signed maps compared with their sign."""
    parts = [f"# {key}", "See [the page of all cells](../thesis.md) for what is compared, and how to read it."]
    for measure, name in (
        ("spearman", "Spearman, by magnitude"),
        ("ssim", "SSIM, by magnitude"),
        ("spearman_signed", "Spearman with the sign, of maps that have one"),
    ):
        if (rows["measure"] == measure).any():
            parts += [f"## {name}", as_markdown(by_change(rows, measure))]
    return "\n\n".join(parts) + "\n"


def overview(rows: pd.DataFrame, measure: str, cells: list[str]) -> pd.DataFrame:
    """Means over the six changes: a row for each method and control, a column for each cell, and how many images."""
    chosen = _consistency(rows, measure)
    summary = summarise(chosen.drop(columns="measure"), ["method", "cell"])
    return _with_n(as_text(summary, "method", "cell").reindex(columns=cells).fillna(""), summary)


def by_change(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Means of each change: a row for each method and control, a column for each change and for pairs of images."""
    chosen = _consistency(rows, measure)
    summary = summarise(chosen.drop(columns="measure"), ["method", "transform"])
    table = as_text(summary, "method", "transform")[list(VARIANTS)]
    pairs = rows[(rows["measure"] == measure) & (rows["transform"] == PAIR)].groupby("method")["value"].mean()
    table[PAIR] = [f"{pairs[m]:.2f}" if m in pairs else "" for m in table.index]
    return _with_n(table, summary)


def of_originals(rows: pd.DataFrame, measure: str, cells: list[str]) -> pd.DataFrame:
    """Means of what was measured on maps of images as they are, where any has a value."""
    chosen = rows[(rows["measure"] == measure) & rows["value"].notna()]
    summary = summarise(chosen.drop(columns="measure"), ["method", "cell"])
    table = as_text(summary, "method", "cell").reindex(columns=cells).fillna("")
    return _with_n(table, summary)


def _consistency(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The rows of a similarity under the six changes; 1 just missed, since values of 1 alone would have the interval of
    a proportion."""
    chosen = rows[(rows["measure"] == measure) & rows["transform"].isin(VARIANTS)]
    return chosen.assign(value=chosen["value"].clip(upper=1 - 1e-9))


def _with_n(table: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """The table in the order of the methods, with the smallest and the largest number of images of a row."""
    n = summary.groupby("method")["n"].agg(["min", "max"])
    order = [name for name in (*ROWS, "signed_gradients") if name in table.index]
    table = table.loc[order]
    spans = [f"{a}" if a == b else f"{a} to {b}" for a, b in n.loc[order].to_numpy()]
    return table.assign(images=spans).rename_axis("method").reset_index()


def _missing(rows: pd.DataFrame) -> list[str]:
    """Which comparisons have no value, for a map was the same everywhere."""
    lost = rows[(rows["measure"] == "spearman") & rows["transform"].isin(VARIANTS) & rows["value"].isna()]
    counts = lost.groupby(["cell", "method"], sort=False).size()
    said = [f"{method} of {cell} {n}" for (cell, method), n in counts.items()]
    return [f"Comparisons without a value, since a map was the same everywhere: {', '.join(said)}."] if said else []


def _networks(rows: pd.DataFrame, facts: dict[str, dict]) -> pd.DataFrame:
    found = []
    for key, of in facts.items():
        low, high = wilson(of["right"], of["test"], 0.95)
        cell = rows[(rows["cell"] == key) & rows["transform"].isin(VARIANTS) & rows["method"].isin(THESIS)]
        most, least = cell.groupby("method")["image_id"].nunique().max(), images_of(rows, key)
        answer = f"{100 * of['right'] / of['test']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        explained = f"{most} (integrated gradients, occlusion, Score-CAM: {least})"
        found.append((key, of["pixels"], of["test"], answer, explained))
    columns = ["cell", "pixels", "test images", "accuracy, % (Wilson, over images)", "images explained"]
    return pd.DataFrame(found, columns=columns)


def _answers(rows: pd.DataFrame) -> pd.DataFrame:
    chosen = rows[rows["method"] == "answers"]
    means = chosen.pivot_table("value", ["cell", "transform"], "measure", sort=False)
    text = [f"{a:.2f}, {b:.2f}" for a, b in means[["class_kept", "p_moved"]].to_numpy()]
    table = means.assign(text=text).reset_index().pivot_table("text", "cell", "transform", aggfunc="first", sort=False)
    return table[list(VARIANTS)].assign(images=chosen.groupby("cell")["image_id"].nunique()).reset_index()


def _grids(drawn: list[str]) -> list[str]:
    parts = ["## The grids"]
    shown = [(key, text) for key in drawn for name, text in GRIDS.items() if key.startswith(name)]
    for key, text in shown:
        alt = f"{text} and six changed copies under eight attribution methods, {key}"
        parts.append(f"![{alt}](../docs/thesis/{key}.webp)")
    of = " and ".join(dict.fromkeys(text for _, text in shown))
    return [
        *parts,
        f"Above: {of}, the first of the last class among the test images, not chosen; the figures are under the same "
        "licences. Each map has its own scale of colours: compare where they lie, not how strong they are. p is the "
        "probability of the class that the image as it is was given. Patients' images are not published: their four "
        "grids are drawn beside the run (`runs/thesis`).",
        "How far the maps stay in these grids: Spearman's correlation with the map of the image as it is (see below), "
        "the mean over its six changes. **Of one image each, without an interval: a description of the figure, no "
        "finding.**",
    ]
