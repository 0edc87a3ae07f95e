"""The metrics themselves, tested on phantoms: `python benchmarks/metric_card.py` measures what is missing and writes
`metric_card.md` and the card that the package knows.

A network is trained on phantoms, and `xaiutils.evidence_use` says whether it uses the evidence. Then every metric
scores maps of known quality (`xaiutils.evaluation.studies.metric_card`), and maps of methods as they are and blurred.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

import xaiutils as xai
from xaiutils.evaluation.metrics.separation import LEAST
from xaiutils.evaluation.studies import metric_card
from xaiutils.files import write_text
from xaiutils.map_reading import read_maps
from xaiutils.statistics.summaries import summarise

HERE = Path(__file__).resolve().parent
CARD = HERE.parent / "xaiutils" / "evaluation" / "metrics" / "metric_card.csv"
BLURRED = ("vanilla_gradients", "integrated_gradients", "occlusion", "grad_cam")
DRAWN = ("random", "blurred random")
RAN = ["insertion_auc", "deletion_auc", "road", "irof", "saco", "infidelity", "sic_auc", "confidence_drop", "fidelity"]


def trained(folder: Path, side: int):
    """EfficientNet-Lite0 on phantoms, and the test images that it answers rightly."""
    splits = {s: xai.load_dataset("phantom", s, side, n) for s, n in (("train", 400), ("val", 80), ("test", 120))}
    model = xai.build_model("efficientnet_lite0", 2, side, "imagenet", seed=0)
    if not (folder / "model.keras").exists():
        xai.train(model, splits["train"], splits["val"], "modern", run_dir=folder, seed=0)
    model = xai.backend.keras.models.load_model(folder / "model.keras")
    test = splits["test"]
    right = xai.predict(model, test.images).argmax(1) == test.labels
    return model, test, test.select(np.flatnonzero(right))


def blurred(model, ds, seed: int) -> pd.DataFrame:
    """What a Gaussian of a 24th of the height does to the scores of methods' maps: after - before, for each image."""
    maps = xai.explain_all(model, ds.images, ds.labels, BLURRED, parameters={"occlusion": {"patch_size": 16}})
    sharp = {name: read_maps(found, "magnitude") for name, found in maps.items()}
    sigma = ds.pixels.shape[1] / 24
    soft = {name: ndimage.gaussian_filter(found, (0, sigma, sigma)) for name, found in sharp.items()}
    tables = [metric_card.measure(model, ds, RAN, found, seed=seed) for found in (sharp, soft)]
    before, after = (table.set_index(["metric", "map", "image_id"])["value"] for table in tables)
    return (after - before).rename("value").reset_index().rename(columns={"map": "method"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/metric_card"), help="where finished parts are kept")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    folder = options.folder / f"{options.side}"
    model, test, right = trained(folder, options.side)
    few = right.sample(options.images, 0)
    use = folder / "use.json"
    if not use.exists():
        write_text(use, json.dumps({"said": xai.evidence_use(model, test).sentence, "right": len(right)}))
    tables = []
    for seed in range(options.seeds):
        for metric, declared in xai.METRICS.items():
            if declared.needs == "method":
                continue
            kept = folder / f"{metric}-{options.images}-{seed}.csv"
            if not kept.exists():
                maps = metric_card.graded_maps(few, seed)
                seeded = any(p.name == "seed" for p in declared.parameters)
                if seed and declared.needs == "model" and not seeded:  # costly, and other maps would score as before
                    maps = {name: maps[name] for name in (metric_card.EVIDENCE, *metric_card.NOISE, *DRAWN)}
                write_text(kept, metric_card.measure(model, few, [metric], maps, seed=seed).to_csv(index=False))
            tables.append(pd.read_csv(kept).assign(seed=seed))
    kept = folder / f"blurred-{options.images}.csv"
    if not kept.exists():
        write_text(kept, blurred(model, few, 0).to_csv(index=False))
    measured = pd.concat(tables, ignore_index=True)
    first = measured[measured["seed"] == 0]
    for seed in range(1, options.seeds):  # what the seed does not change
        keys = measured.loc[measured["seed"] == seed, ["metric", "map"]].drop_duplicates()
        others = first.merge(keys, how="left", indicator=True).query("_merge == 'left_only'").drop(columns="_merge")
        measured = pd.concat([measured, others.assign(seed=seed)], ignore_index=True)
    card = metric_card.card(measured)
    write_text(CARD, card.round(4).to_csv(index=False))
    facts = {"images": len(few), "side": options.side, "seeds": options.seeds, **json.loads(use.read_text())}
    write_text(HERE / "metric_card.md", page(card, pd.read_csv(kept), facts))


def page(card: pd.DataFrame, blur: pd.DataFrame, facts: dict) -> str:
    shown = card.sort_values("worst", ascending=False)
    shown["metric"] = [xai.METRICS[m].title for m in shown["metric"]]
    separates = shown["worst"] >= LEAST
    shown.insert(1, "separates", np.where(separates, "yes", "**no**: " + shown["impostor"]))
    columns = ["metric", "separates", "worst", *metric_card.IMPOSTORS, *metric_card.KIN, "monotony", "spread", "passes"]
    shown = shown[columns].assign(passes=shown["passes"].round().astype(int))
    change = summarise(blur, ["metric", "method"])
    change["said"] = [f"{r.mean:+.3f} [{r.low:+.3f}, {r.high:+.3f}]" for r in change.itertuples()]
    wide = change.pivot(index="metric", columns="method", values="said").reindex(RAN)[list(BLURRED)]
    wide.index = [f"{xai.METRICS[m].title} ({xai.METRICS[m].direction})" for m in wide.index]
    return f"""# Can a metric tell the evidence from an impostor?

{facts["images"]} phantoms of {facts["side"]} pixels that EfficientNet-Lite0 (ImageNet's weights, last layer trained)
answers rightly, {facts["seeds"]} seeds, by `python benchmarks/metric_card.py`. {facts["said"]}

AUC with which each metric, at its defaults and on maps as they are, tells the evidence (the mask) from a map that is
known to be worse, on the same image: the part of images on which the evidence scores better, ties half. *Separates*: at
least {LEAST:.2f} against each of the six impostors ({", ".join(metric_card.IMPOSTORS)}); *worst*: the least of these.
Kin of the evidence are told too ({", ".join(metric_card.KIN)}), but decide nothing: a metric may forgive an outline.
*Monotony*: does the value fall with each of five steps of noise (1: always)? *Spread*: standard deviation of *worst*
over seeds. *Passes*: CPU time of one map over that of one prediction.

{shown.round(2).to_markdown(index=False)}

Metrics that explain changed images judge methods, not maps, and are not here.

**How to read it.** Metrics against the mask know the evidence by definition; that they are at 1 says only that the
maps are what they are called. Metrics of the map alone prefer what is small and compact, wherever it lies. Metrics that
run the model are asked more than they can answer: the mask has no order within the lesion and none outside, where its
pixels go in reading order, and holes all over an image shake this network more than a lost lesion. So they tell a
lesion from the same form elsewhere, some of them, and not from noise or edges. A rank by such a metric is no proof of
who finds the evidence.

## Is blur rewarded?

Change of the score when methods' maps (by magnitude) are blurred by a Gaussian of a 24th of the height, which adds no
knowledge: means [95 % intervals] over the images. Song et al. 2023 (arXiv:2304.13836) show that ROAR
and ROAD reward it.

{wide.rename_axis("metric").reset_index().to_markdown(index=False)}
"""


if __name__ == "__main__":
    main()
