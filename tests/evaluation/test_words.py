"""The page in words: what it claims follows the data, and every sentence carries its number."""

import re

import numpy as np
import pandas as pd
import pytest

from xaiutils.evaluation.claims import claims
from xaiutils.evaluation.findings import in_words, slopes_in_words
from xaiutils.statistics.regression import regress

N = 40
CHANCE = 0.1


def scored(levels, metric, n=N, seed=0, hits=False):
    """Rows of a metric: methods by name with their mean value, or the part of hits."""
    rng = np.random.default_rng(seed)
    tables = []
    for method, level in levels.items():
        values = np.clip(level + rng.normal(0, 0.05, n), 0, 1)
        if hits:
            values = (np.arange(n) < round(level * n)).astype(float)
        ids = [f"i{k}" for k in range(n)]
        tables.append(pd.DataFrame({"method": method, "image_id": ids, "metric": metric, "value": values}))
    return pd.concat(tables, ignore_index=True)


def with_chance(table, level=CHANCE):
    rows = table[table["method"] == table["method"].iloc[0]].assign(method="chance", value=level)
    return pd.concat([table, rows], ignore_index=True)


LEVELS = {"grad_cam": 0.8, "vanilla_gradients": 0.1, "random": 0.1, "edges": 0.4, "grad_cam, random weights": 0.2}


@pytest.fixture(scope="module")
def table():
    located = with_chance(scored(LEVELS, "relevance_mass"))
    drop = scored({m: 1 - v for m, v in LEVELS.items()}, "deletion_auc", seed=1)
    return pd.concat([located, drop, scored(LEVELS, "sparseness", seed=2)], ignore_index=True)


def test_claims(table):
    found = claims(table).set_index(["metric", "method"])
    cam, gradients = (found.loc[("relevance_mass", m)] for m in ("grad_cam", "vanilla_gradients"))
    assert (cam["verdict"], gradients["verdict"]) == ("better", "not told apart")
    assert (cam["level_of"], cam["level"]) == ("chance", pytest.approx(CHANCE))
    assert cam["better_than"] == ("random", "edges", "grad_cam, random weights")
    assert cam["beaten_by"] == cam["not_told_apart_from"] == ()
    assert gradients["beaten_by"] == ("edges",)
    assert gradients["not_told_apart_from"] == ("random",)  # it has no map of random weights here
    lower = found.loc[("deletion_auc", "grad_cam")]
    assert (lower["verdict"], lower["level_of"]) == ("better", "random")
    assert lower["better_than"] == cam["better_than"]
    assert found.loc[("deletion_auc", "vanilla_gradients"), "beaten_by"] == ("edges",)
    plain = found.loc[("sparseness", "grad_cam")]
    assert (plain["level_of"], plain["verdict"], plain["better_than"]) == ("", "", ())


def test_a_page(table):
    page = in_words(table.assign(model="a CNN", correct=True), evidence="the lesions")
    mean = table.query("metric == 'relevance_mass' and method == 'grad_cam'")["value"].mean()
    assert "## a CNN" in page
    assert "40 images for metrics against the evidence (the model is right on 40); 40 images for metrics that" in page
    assert (
        "**To find the lesions** (1 metric), better than chance by all: Grad-CAM; by none: Vanilla gradients." in page
    )
    assert f"Better than chance (0.10): Grad-CAM {mean:.2f} [" in page
    assert "Not told apart from it: Vanilla gradients 0.1" in page
    assert "The controls have: Sobel edges 0.39, a random map 0.1" in page
    assert "Better than all of these 2 and than its own map of random weights: Grad-CAM." in page
    assert "Beaten by Sobel edges: Vanilla gradients." in page
    assert "Pairs of methods told apart: 1 of 1; Grad-CAM is better than all others." in page
    assert "**Sparseness (Gini)** describes the map, not whether it is right: from 0.8" in page
    assert "None of the 600 values is missing." in page
    assert "Better than every control: Grad-CAM by 1 (Relevance mass)." in page


def test_every_sentence_has_its_number(table):
    page = in_words(pd.concat([table, scored(LEVELS, "insertion_auc", seed=5)]), evidence="the lesions")
    body = "\n\n".join(part for part in page.split("\n\n")[2:] if not part.startswith("#"))
    body = re.sub(r"\((higher|lower) is better\)\.", "", body.replace("**Do the metrics agree?** ", ""))
    for sentence in re.split(r"(?<=[a-z)\]])\.\s", body):
        assert re.search(r"\d", sentence) or not sentence.strip(), sentence


def test_the_words_follow_the_data(table):
    before = in_words(table)
    swapped = table.assign(method=table["method"].replace(
        {"grad_cam": "vanilla_gradients", "vanilla_gradients": "grad_cam"}))  # fmt: skip
    after = in_words(swapped)
    assert "Better than chance (0.10): Grad-CAM" in before
    assert "Better than chance (0.10): Vanilla gradients" in after
    assert "Better than chance (0.10): Grad-CAM" not in after


def test_when_nothing_holds():
    same = dict.fromkeys(["grad_cam", "vanilla_gradients", "score_cam", "random", "edges"], 0.3)
    page = in_words(with_chance(scored(same, "relevance_mass", seed=3), 0.3))
    assert "No method is shown to be better than chance (0.30)." in page
    assert "(1 metric), better than chance by none: Grad-CAM, Vanilla gradients, Score-CAM." in page
    assert "No method is shown to be better than all controls by any of the 1 metric" in page
    assert "Better than all of these 2: none." in page  # no maps of random weights here
    assert "Not told apart from a random map and Sobel edges: Score-CAM, Grad-CAM, Vanilla gradients." in page
    assert "Pairs of methods told apart: 0 of 3." in page


def test_worse_than_chance_is_said():
    page = in_words(with_chance(scored({"grad_cam": 0.02, "random": 0.3}, "relevance_mass"), 0.3))
    assert "No method is shown to be better than chance (0.30). Worse than it: Grad-CAM 0.0" in page
    assert "Beaten by a random map: Grad-CAM." in page


def test_hits_with_few_images_and_without_the_power_to_tell():
    few = with_chance(scored({"grad_cam": 0.75, "random": 0.0}, "pointing_game", n=4, hits=True), 0.02)
    page = in_words(few)
    assert "Better than chance (0.02): Grad-CAM 0.75" in page  # 3 of 4 at a chance of 0.02: p is 6e-5
    assert "With 4 images the least p of the test is 0.12; corrected for 1 pairs of a method and a control" in page
    eight = in_words(scored({**LEVELS, "score_cam": 0.9, "cam": 0.8}, "insertion_auc", n=8))
    assert "With 8 images the least p of the test is 0.0078; corrected for" in eight
    assert "corrected for 6 pairs of methods" not in eight  # 6 x 0.0078 is 0.047
    assert "pairs of a method and a control" in eight


def test_missing_values_are_counted_with_their_reason(table):
    holed = table.copy()
    mass = holed["metric"] == "relevance_mass"
    holed.loc[mass & (holed["image_id"] == "i3"), "value"] = np.nan
    holed.loc[mass & holed["image_id"].isin(["i4", "i5"]) & (holed["method"] == "grad_cam"), "value"] = np.nan
    page = in_words(holed)
    assert "7 of 600 values are missing and left out: by Relevance mass, no map has a value on 1 image " in page
    assert "and single maps without a value: 2 (no positive value, or nothing that varies: grad_cam 2)." in page


def test_patients_and_models_and_notes(table):
    by_patient = table.assign(patient_id=table["image_id"].str[-1])
    both = pd.concat([by_patient.assign(model="a"), by_patient.assign(model="b")])
    page = in_words(both, notes=["A note with 1 number."])
    assert page.count("40 images of 10 patients for metrics against the evidence; 40 images of 10 patients for") == 2
    assert page.index("## a") < page.index("## b")
    assert page.endswith("A note with 1 number.\n")


def test_agreement_of_metrics_in_words():
    order = {"grad_cam": 0.9, "vanilla_gradients": 0.5, "score_cam": 0.1}
    alike = [scored(order, m, seed=k) for k, m in enumerate(["iou", "dice"])]
    against = scored({m: 1 - v for m, v in order.items()}, "roc_auc", seed=7)
    assert "2 metrics order 3 methods with a Kendall's W of 1.00" in in_words(pd.concat(alike))
    page = in_words(pd.concat([*alike, against]))
    assert "3 metrics order 3 methods with a Kendall's W of 0.11" in page
    assert "Most alike by Kendall's tau: IoU and Dice (1.00); least: IoU and Pixel ROC AUC (-1.00)." in page
    assert "Kendall" not in in_words(scored({"grad_cam": 0.9, "random": 0.1}, "iou"))


def test_slopes_in_words():
    table = pd.concat([scored({"grad_cam": 0.5}, "iou"), scored({"score_cam": 0.5}, "iou", seed=1)])
    table["log_area"] = np.tile(np.linspace(-2, -1, N), 2)
    rising = table["method"] == "grad_cam"
    table.loc[rising, "value"] += 0.3 * table.loc[rising, "log_area"]
    said = slopes_in_words(regress(table, ["log_area"]))
    assert said.startswith(
        "IoU goes with log_area for 1 of 2 methods (standardised slope, uncorrected 95 % interval: Grad-CAM +0.9"
    )
    flat = slopes_in_words(regress(table[~rising], ["log_area"]))
    assert flat == "IoU goes with log_area for 0 of 1 methods."
