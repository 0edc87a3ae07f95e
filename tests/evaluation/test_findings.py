"""The page in words: what it claims follows the data, and carries the numbers."""

import re

import numpy as np
import pandas as pd
import pytest

from xaiutils.evaluation.claims import RANDOM_WEIGHTS, claims
from xaiutils.evaluation.findings import agreement_in_short, in_short, in_words, slopes_in_words
from xaiutils.evaluation.ranking import rank, two_orders
from xaiutils.evaluation.score_tables import of_methods, without_random_weights
from xaiutils.statistics.paired_tests import paired_test
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


LEVELS = {"grad_cam": 0.8, "vanilla_gradients": 0.1, "random": 0.1, "edges": 0.4}
WEIGHTS = {"grad_cam": "trained", "vanilla_gradients": "trained"}


def with_random_weights(table, level=0.2):
    """``weights`` of all rows, and grad_cam's maps of random weights."""
    table = table.assign(weights=table["method"].map(WEIGHTS).fillna("none"))
    other = scored({"grad_cam": level}, table["metric"].iloc[0], seed=9).assign(weights="random")
    return pd.concat([table, other], ignore_index=True)


def words(page):
    """The page with its sentences on one line."""
    return " ".join(page.split())


@pytest.fixture(scope="module")
def table():
    located = with_random_weights(with_chance(scored(LEVELS, "relevance_mass")))
    drop = with_random_weights(scored({m: 1 - v for m, v in LEVELS.items()}, "deletion_auc", seed=1), 0.8)
    sparse = with_random_weights(scored(LEVELS, "sparseness", seed=2))
    return pd.concat([located, drop, sparse], ignore_index=True)


@pytest.mark.parametrize(("beyond", "verdict"), [(1e-7, "better"), (-1e-7, "undecided")])
def test_a_verdict_turns_where_the_interval_of_a_thousand_resamples_leaves_zero(beyond, verdict):
    differences = np.random.default_rng(0).exponential(0.1, N)
    ids = [f"i{k:02d}" for k in range(N)]
    low = paired_test(differences, np.array(ids), 1000, 0).low
    rows = {"metric": "relevance_mass", "image_id": ids}
    table = pd.concat(
        [
            pd.DataFrame({"method": "grad_cam", "value": 0.5 + differences - low + beyond, **rows}),
            pd.DataFrame({"method": "random", "value": 0.5, **rows}),
        ]
    )
    assert claims(table, alpha=0.99)["verdict"].tolist() == [verdict]


def test_claims(table):
    found = claims(table).set_index(["metric", "method"])
    cam, gradients = (found.loc[("relevance_mass", m)] for m in ("grad_cam", "vanilla_gradients"))
    assert (cam["verdict"], gradients["verdict"]) == ("better", "undecided")
    assert (cam["level_of"], cam["level"]) == ("chance", pytest.approx(CHANCE))
    assert cam["better_than"] == ("random", "edges", RANDOM_WEIGHTS)
    assert cam["beaten_by"] == cam["undecided_against"] == ()
    assert gradients["beaten_by"] == ("edges",)
    assert gradients["undecided_against"] == ("random",)  # it has no map of random weights here
    lower = found.loc[("deletion_auc", "grad_cam")]
    assert (lower["verdict"], lower["level_of"]) == ("better", "random")
    assert lower["better_than"] == cam["better_than"]
    assert found.loc[("deletion_auc", "vanilla_gradients"), "beaten_by"] == ("edges",)
    plain = found.loc[("sparseness", "grad_cam")]
    assert (plain["level_of"], plain["verdict"], plain["better_than"]) == ("", "", ())


def test_maps_of_random_weights_are_not_averaged_with_those_of_the_trained_model(table):
    mass = table[table["metric"] == "relevance_mass"]
    assert claims(table)["n"].eq(N).all()
    with pytest.raises(ValueError, match="of several weights"):
        rank(mass, "relevance_mass")
    assert set(of_methods(mass)["method"]) == {"grad_cam", "vanilla_gradients"}
    without = mass.drop(columns="weights")
    assert set(of_methods(without)["method"]) == {"grad_cam", "vanilla_gradients"}
    assert rank(without_random_weights(mass), "relevance_mass").ranks.index[0] == "grad_cam"


def test_a_page(table):
    page = in_words(table.assign(model="a CNN", correct=True), evidence="the lesions")
    mean = table.query("metric == 'relevance_mass' and method == 'grad_cam' and weights == 'trained'")["value"].mean()
    assert page.startswith("# What the maps show\n\n")
    assert "\n\n## a CNN\n\n" in page
    assert page.count("\n\n**") == 5, "two aims, three metrics"
    said = words(page)
    assert said.count("40 images") == 2
    assert said.count("the model is right on 40") == 2
    assert "To find the lesions** (1 metric)" in said
    assert "by all: Grad-CAM; by none: Vanilla gradients." in said
    assert f"Better than chance (0.10): Grad-CAM {mean:.2f} [" in said
    assert re.search(r"No difference .*: Vanilla gradients 0\.1", said)
    assert "Sobel edges 0.39, a random map 0.1" in said
    assert "Better than all of these 2 and than its own map of random weights: Grad-CAM." in said
    assert "Beaten by Sobel edges: Vanilla gradients." in said
    assert "1 of 1; Grad-CAM is better than all others." in said
    assert "**Sparseness (Gini)** describes the map, not whether it is right: from 0.8" in said
    assert "None of the 600 values is missing." in said
    assert "Better than every control: Grad-CAM by 1 (Relevance mass)." in said


def test_the_words_follow_the_data(table):
    names = {"grad_cam": "vanilla_gradients", "vanilla_gradients": "grad_cam"}
    before, after = words(in_words(table)), words(in_words(table.assign(method=table["method"].replace(names))))
    assert "Better than chance (0.10): Grad-CAM" in before
    assert "Better than chance (0.10): Vanilla gradients" in after
    assert "Better than chance (0.10): Grad-CAM" not in after


def test_when_nothing_holds():
    same = dict.fromkeys(["grad_cam", "vanilla_gradients", "score_cam", "random", "edges"], 0.3)
    said = words(in_words(with_chance(scored(same, "relevance_mass", seed=3), 0.3)))
    assert "No method is shown to be better than chance (0.30)." in said
    assert "by none: Grad-CAM, Vanilla gradients, Score-CAM." in said
    assert "No method is shown to be better than all controls by any of the 1 metric" in said
    assert "Better than all of these 2: none." in said  # no maps of random weights here
    assert "from a random map and Sobel edges: Score-CAM, Grad-CAM, Vanilla gradients." in said
    assert "0 of 3." in said


def test_worse_than_chance_is_said():
    said = words(in_words(with_chance(scored({"grad_cam": 0.02, "random": 0.3}, "relevance_mass"), 0.3)))
    assert "No method is shown to be better than chance (0.30). Worse than it: Grad-CAM 0.0" in said
    assert "Beaten by a random map: Grad-CAM." in said


def test_hits_with_few_images_and_without_the_power_to_tell():
    few = with_chance(scored({"grad_cam": 0.75, "random": 0.0}, "pointing_game", n=4, hits=True), 0.02)
    said = words(in_words(few))
    assert "Better than chance (0.02): Grad-CAM 0.75" in said  # 3 of 4 at a chance of 0.02: p is 6e-5
    assert "With 4 images the least p of the test is 0.12; corrected for 1 pairs of a method and a control" in said
    eight = words(in_words(scored({**LEVELS, "score_cam": 0.9, "cam": 0.8}, "insertion_auc", n=8)))
    assert "With 8 images the least p of the test is 0.0078; corrected for" in eight
    assert "corrected for 6 pairs of methods" not in eight  # 6 x 0.0078 is 0.047
    assert "pairs of a method and a control" in eight


def test_missing_values_are_counted_with_their_reason(table):
    holed = table.copy()
    mass = holed["metric"] == "relevance_mass"
    trained = holed["weights"] == "trained"
    holed.loc[mass & (holed["image_id"] == "i3"), "value"] = np.nan
    chosen = mass & trained & holed["image_id"].isin(["i4", "i5"]) & (holed["method"] == "grad_cam")
    holed.loc[chosen, "value"] = np.nan
    said = words(in_words(holed))
    assert "7 of 600 values are missing" in said
    assert "no map has a value on 1 image (" in said
    assert "single maps without a value: 2 (" in said
    assert said.count("grad_cam 2)") == 1


def test_patients_and_models_and_notes(table):
    by_patient = table.assign(patient_id=table["image_id"].str[-1])
    both = pd.concat([by_patient.assign(model="a"), by_patient.assign(model="b")])
    page = in_words(both, notes=["**A note** with 1 number."])
    assert page.count("40 images of 10 patients") == 4
    assert page.index("## a") < page.index("## b")
    assert page.endswith("\n\n**A note** with 1 number.\n")


def test_agreement_of_metrics_in_words():
    order = {"grad_cam": 0.9, "vanilla_gradients": 0.5, "score_cam": 0.1}
    alike = [scored(order, m, seed=k) for k, m in enumerate(["iou", "dice"])]
    against = scored({m: 1 - v for m, v in order.items()}, "roc_auc", seed=7)
    assert "2 metrics order 3 methods with a Kendall's W of 1.00" in in_words(pd.concat(alike))
    said = words(in_words(pd.concat([*alike, against])))
    assert "3 metrics order 3 methods with a Kendall's W of 0.11" in said
    assert "IoU and Dice (1.00); least: IoU and Pixel ROC AUC (-1.00)." in said
    assert "Kendall" not in in_words(scored({"grad_cam": 0.9, "random": 0.1}, "iou"))


def test_three_answers_in_short(table):
    both = pd.concat([table.assign(model="a"), table.assign(model="b", value=0.5)])
    evidence, other = in_short(both, "masks").splitlines()
    start = "- **a**: better than chance by the metric: Grad-CAM; better than every control, too: Grad-CAM by "
    assert evidence == start + "Relevance mass."
    assert other.endswith(": none; better than every control, too: none.")
    assert "better than a random map by the metric: Grad-CAM" in in_short(both, "model")
    more = pd.concat([table, with_random_weights(scored({"grad_cam": 0.1, "random": 0.1}, "iou"))]).assign(model="a")
    assert "by all 2 metrics: none; by some: Grad-CAM (1); better than every" in in_short(more, "masks")
    assert in_short(table.assign(model="a"), "method") == "- **a**: no metric of this kind has a value."


def test_two_orders_and_whether_they_agree():
    levels = {"a": 0.9, "b": 0.7, "c": 0.5, "d": 0.3, "e": 0.1}
    masks, drop = scored(levels, "iou"), scored(levels, "deletion_auc", seed=1)  # low is good: the order is reversed
    orders = two_orders(pd.concat([masks, drop, scored({"f": 0.5}, "iou").assign(value=np.nan)]))
    assert orders.loc["a"].round().tolist() == [1, 5]
    assert orders.loc["e"].round().tolist() == [5, 1]
    said = agreement_in_short({"one": orders, "other": orders[:2]}).splitlines()
    assert "of 5 methods have a Kendall's tau of -1.00 (1: the same, -1: reversed; p = 0.017): they are rel" in said[0]
    assert said[1] == "- **other**: 2 methods have both ranks, too few for an answer."


def test_slopes_in_words():
    table = pd.concat([scored({"grad_cam": 0.5}, "iou"), scored({"score_cam": 0.5}, "iou", seed=1)])
    table["log_area"] = np.tile(np.linspace(-2, -1, N), 2)
    rising = table["method"] == "grad_cam"
    table.loc[rising, "value"] += 0.3 * table.loc[rising, "log_area"]
    said = slopes_in_words(regress(table, ["log_area"]))
    assert said.startswith("IoU goes with log_area for 1 of 2 methods (")
    assert "Grad-CAM +0.9" in said
    flat = slopes_in_words(regress(table[~rising], ["log_area"]))
    assert flat == "IoU goes with log_area for 0 of 1 methods."
