"""Are nearest examples of the same class, and does it help to weigh features by what they contribute?

    python benchmarks/nearest_examples.py     measures what is not there yet, and writes nearest_examples.md

Test images of BUSI and of pets find their nearest training images by the features of a frozen EfficientNet-Lite0
with a linear layer (the models of `attributions.py`), weighted in four ways. The data are the kit's, whose folder the
environment variable ``XAI_KIT`` names, or ``--data_dir``.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("XAI_PROGRESS", "off")

import pandas as pd
from attributions import CELLS, RUNS, Cell
from methods import as_markdown

import xaiutils as xai
from xaiutils.beyond_maps.nearest_examples import WEIGHTINGS, NearestExamples, nearest_by_weighting, shared_classes
from xaiutils.files import replace_file, write_text

HERE = Path(__file__).resolve().parent
NEIGHBOURS = (1, 3, 10)
OF = {"label": "the image's label", "target": "the model's answer"}


def measure(cell: Cell, data_dir: Path) -> pd.DataFrame:
    """Shares by number of neighbours, weighting and class; kept."""
    path = RUNS.parent / "nearest_examples" / f"{cell.key}.parquet"
    if path.exists():
        return pd.read_parquet(path)
    model, (train, test) = cell.trained(data_dir), (cell.load(split, data_dir) for split in ("train", "test"))
    accuracy, tables = float((xai.predict(model, test.images).argmax(axis=1) == test.labels).mean()), []
    most = nearest_by_weighting(model, test.images, train, WEIGHTINGS, k=max(NEIGHBOURS))
    for k in NEIGHBOURS:
        found = {w: NearestExamples(*(x[:, :k] for x in one[:3]), one.targets) for w, one in most.items()}
        facts = {"dataset": cell.dataset, "k": k, "examples": len(train), "accuracy": accuracy}
        tables.append(shared_classes(found, test, train).assign(**facts))
    table = pd.concat(tables, ignore_index=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda temporary: table.to_parquet(temporary, index=False))
    return table


def section(name: str, table: pd.DataFrame) -> list[str]:
    """A data set's tables."""
    first = table.iloc[0]
    parts = [
        f"## {name}",
        f"{first['n']} test images, {first['examples']} training images; the model is right on "
        f"{first['accuracy']:.0%} of the test images.",
    ]
    for of, said in OF.items():
        rows = table[table["of"] == of]
        shown = pd.DataFrame({"neighbours": rows["k"], "weighting": rows["weighting"]})
        shown["share"] = [f"{m:.2f} [{a:.2f}, {b:.2f}]" for m, a, b in rows[["mean", "low", "high"]].to_numpy()]
        shown["chance"] = rows["chance"].map("{:.2f}".format)
        gains = rows[["gain", "gain_low", "gain_high"]].to_numpy(float)
        shown["over plain features"] = ["" if m != m else f"{m:+.2f} [{a:+.2f}, {b:+.2f}]" for m, a, b in gains]
        parts += [f"Neighbours whose label is {said}:", as_markdown(shown)]
    return parts


READING = """
**What it shows.** On BUSI no weighting finds more neighbours of the image's own label than plain features do, by one or
three neighbours; by ten, contributions gain 0.07 [0.02, 0.12], and with the weights of the wrong features 0.06 [0.01,
0.10]. So the gain is not owed to knowing which feature matters: every contribution carries the sign of its image's own
answer, and images of one answer lie together. Weights of the image alone (*query*) gain nothing. Neighbours agree with
the *answer* far more often (0.92 to 0.97), which the formula sees to; that is no evidence that the answer is right.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data_dir", type=Path, default=os.environ.get("XAI_KIT"), help="default: XAI_KIT")
    parser.add_argument("--datasets", nargs="*", default=["busi", "oxford_pets"])
    options = parser.parse_args()
    if options.data_dir is None:
        parser.error("where are the data? Set XAI_KIT or give --data_dir")
    cells = [c for c in CELLS if c.model == "efficientnet_lite0" and c.dataset in options.datasets]
    tables = {cell.dataset: measure(cell, Path(options.data_dir)) for cell in cells}
    text = [
        "# Are nearest examples of the same class?",
        "Test images and their nearest training images among the 1280 features that the last layer of "
        "EfficientNet-Lite0 reads, by `python benchmarks/nearest_examples.py`. *contributions*: COLE (Kenny & Keane "
        "2019), features times the gradient of each image's own answer; *query*: features weighted by the image's "
        "contributions; *none*: plain features; *shuffled*: COLE with the weights of other features. Means over "
        "images with 95 % intervals; the gain is taken image by image.",
        *([READING.strip()] if READING else []),
        *(x for name, part in tables.items() for x in section(name, part)),
    ]
    write_text(HERE / "nearest_examples.md", "\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
