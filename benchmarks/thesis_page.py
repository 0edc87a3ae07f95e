"""The pages of `thesis.py`, from the rows that it measured: method, transform, image_id, patient_id, measure, value."""

import pandas as pd
from methods import THESIS
from rows import as_markdown

from xaiutils.evaluation import summarise
from xaiutils.statistics.proportions import wilson
from xaiutils.statistics.summaries import as_text

VARIANTS = ("log", "gaussian_noise", "speckle_noise", "black_rectangle", "affine", "rotate_180")
CONTROLS = ("random", "centre", "edges")
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

Settings are the thesis' (SmoothGrad of 5 samples, integrated gradients of 20 steps) except three. Occlusion hides
squares of 28 pixels (32 of 320), two of the transformer's patches, not 15. Score-CAM looks through the 128 channels
that vary most. And changes whose strength the thesis leaves open have this package's: noise of a tenth of the range,
speckle x (1 + 0.3 n), a black rectangle of .15 to .35 of the sides, 10 degrees, a factor of .9 and 8 degrees of shear.
"""
NOTES = """
"""


def page(rows: pd.DataFrame, facts: dict[str, dict], missing: list[str]) -> str:
    """The page of all cells; ``facts`` of each by its key: test, right, pixels, drawn. ``missing``: cells that were
    not measured by every method."""
    cells = list(facts)
    parts = [
        "# The thesis' eight grids, and whether maps stay",
        INTRODUCTION.strip(),
        "## The networks",
        as_markdown(_networks(rows, facts)),
        f"**Not measured yet**: {', '.join(missing)}." if missing else "",
        *_grids([key for key in cells if facts[key]["drawn"]]),
        "## Do maps stay?",
        "The map of the changed image, for the class of the image as it is, is brought back and compared with the map "
        "of the image as it is: 1, it stayed. Both are read by their magnitude; pixels that a change pushed out of the "
        "picture are left out. Means over the six changes, with 95 % intervals over images (of CBIS-DDSM over "
        "patients). Controls: `random`, noise anew for each copy; `centre`, a Gaussian at the centre whatever the "
        "image; `edges`, Sobel of the changed image. These know no model: **to stay is no sign of being right**.",
        "Spearman's rank correlation of the pixels:",
        as_markdown(overview(rows, "spearman", cells)),
        "SSIM of the maps, each scaled to [0, 1]:",
        as_markdown(overview(rows, "ssim", cells)),
        *_missing(rows),
        "Each cell by itself: " + ", ".join(f"[{key}](thesis/{key}.md)" for key in cells) + ".",
        "## By change",
        "Means over the four data sets. *Another image*: pairs of different images, what a method's maps have in "
        "common whatever they show. A map that stays no better than that did not stay.",
    ]
    for model, of_model in rows.groupby("model", sort=False):
        for measure, name in (("spearman", "Spearman"), ("ssim", "SSIM")):
            parts += [f"### {model}, {name}", as_markdown(by_change(of_model, measure))]
    parts += [
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
        NOTES.strip(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


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
    return _with_n(as_text(summary, "method", "cell")[cells], summary)


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
    return rows[(rows["measure"] == measure) & rows["transform"].isin(VARIANTS)]


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
        cell = rows[(rows["cell"] == key) & rows["transform"].isin(VARIANTS)]
        n = cell[cell["method"].isin(THESIS)].groupby("method")["image_id"].nunique()
        answer = f"{100 * of['right'] / of['test']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        explained = f"{n.max()} (integrated gradients, occlusion, Score-CAM: {n.min()})"
        found.append((key, of["pixels"], of["test"], answer, explained))
    columns = ["cell", "pixels", "test images", "accuracy, % (Wilson, over images)", "images explained"]
    return pd.DataFrame(found, columns=columns)


def _answers(rows: pd.DataFrame) -> pd.DataFrame:
    chosen = rows[rows["method"] == "answers"]
    means = chosen.pivot_table("value", ["cell", "transform"], "measure", sort=False)
    text = [f"{a:.2f}, {b:.2f}" for a, b in means[["class_kept", "p_moved"]].to_numpy()]
    table = means.assign(text=text).reset_index().pivot_table("text", "cell", "transform", aggfunc="first", sort=False)
    return table[list(VARIANTS)].assign(images=chosen.groupby("cell")["image_id"].nunique()).reset_index()


def _grids(cells: list[str]) -> list[str]:
    parts = ["## The grids"]
    for key in cells:
        dataset = next((name for name in GRIDS if key.startswith(name)), None)
        if dataset:
            alt = f"{GRIDS[dataset]} and six changed copies under eight attribution methods, {key}"
            parts.append(f"![{alt}](../docs/thesis/{key}.webp)")
    of = " and ".join(GRIDS.values())
    return [
        *parts,
        f"Above: {of}, the first of the last class among the test images, not chosen; the figures are under the same "
        "licences. Each map has its own scale of colours: compare where they lie, not how strong they are. Patients' "
        "images are not published: their four grids are drawn beside the run (`runs/thesis`), and only numbers of them "
        "stand here.",
    ]
