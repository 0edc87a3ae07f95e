"""Means with intervals, of tables of values."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xaiutils.statistics.summaries import as_text, summarise, summarise_parts


def test_summarise():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"method": ["a"] * 200 + ["b"] * 3 + ["c"], "value": [*rng.normal(5, 2, 200), 1, np.nan, 3, 7]}
    )
    found = summarise(table, ["method"]).set_index("method")
    assert found.index.tolist() == ["a", "b", "c"]
    standard_error = table["value"][:200].std() / np.sqrt(200)
    assert found.loc["a", "mean"] == pytest.approx(table["value"][:200].mean())
    assert found.loc["a", "high"] - found.loc["a", "mean"] == pytest.approx(1.96 * standard_error, rel=0.15)
    assert found.loc["b", ["mean", "n", "missing"]].tolist() == [2, 2, 1]
    assert np.isnan(found.loc["c", "low"])
    pd.testing.assert_frame_equal(summarise(table, ["method"]), summarise(table, ["method"]))
    hits = summarise(pd.DataFrame({"method": "m", "value": [0.0] * 24}), ["method"]).iloc[0]
    assert (hits["mean"], hits["low"]) == (0, pytest.approx(0, abs=1e-12))
    assert hits["high"] == pytest.approx(0.138, abs=1e-3)  # Wilson's upper end of 0 of 24
    repeated = pd.DataFrame({"image_id": list("abcd") * 10, "method": "m", "value": [0.1, 0.4, 0.5, 1.0] * 10})
    assert summarise(repeated, "method").iloc[0].to_dict() == summarise(repeated[:4], ["method"]).iloc[0].to_dict()
    empty = summarise(table.assign(value=np.nan), ["method"])
    assert empty["mean"].isna().all()
    assert empty["missing"].tolist() == [200, 3, 1]


@pytest.mark.parametrize(
    ("confidence", "ends"), [(0.95, (0.2, 1.4)), (0.9, (0.4, 1.4)), (0.98, (0.2, 1.6)), (0.5, (0.6, 1.0))]
)
def test_the_bootstrap_takes_the_quantiles_that_it_names(confidence, ends):
    """Of ten images four have the value 2: ten times the mean is twice a binomial count of 10 draws at 0.4."""
    by_law = stats.binom.ppf([(1 - confidence) / 2, (1 + confidence) / 2], 10, 0.4) / 5
    assert by_law.tolist() == pytest.approx(list(ends))
    found = summarise(pd.DataFrame({"m": "a", "value": [2.0] * 4 + [0] * 6}), "m", 20_000, confidence).iloc[0]
    assert (found["low"], found["high"]) == pytest.approx(ends)


def test_all_and_correct_beside_each_other():
    found = pd.DataFrame(
        {"method": list("ababab"), "image_id": ["i0", "i0", "i1", "i1", "i2", "i2"], "metric": "iou",
         "value": [1.0, 0.0, 0.5, 0.2, 0.0, 0.1]}
    )  # fmt: skip
    found["correct"] = found["image_id"] != "i2"
    found["label"] = np.where(found["image_id"] == "i0", "benign", "malignant")
    parts = summarise_parts(found, ["method", "metric"]).set_index(["part", "method"])
    assert parts["mean"].xs("a", level="method").to_dict() == {
        "all": 0.5,
        "correct": 0.75,
        "not correct": 0.0,
        "benign": 1.0,
        "malignant": 0.25,
    }
    assert parts["n"].xs("b", level="method").tolist() == [3, 2, 1, 1, 2]


def test_summaries_as_text():
    summary = pd.DataFrame(
        {"method": ["a", "b", "a"], "metric": ["iou", "iou", "dice"], "mean": [0.5, 0.25, np.nan],
         "low": [0.4, np.nan, np.nan], "high": [0.6, np.nan, np.nan]}
    )  # fmt: skip
    found = as_text(summary, "method", "metric")
    assert found.loc["a"].to_dict() == {"iou": "0.50 [0.40, 0.60]", "dice": ""}
    assert found.loc["b"].to_dict() == {"iou": "0.25", "dice": ""}


def test_hits_of_no_patient_are_no_certainty():
    """0 of 24 images of 8 patients: Wilson's interval of 0 of 8, where all replicates of a bootstrap are 0."""
    table = pd.DataFrame({"method": "m", "value": 0.0, "patient_id": [f"p{k // 3}" for k in range(24)]})
    found = summarise(table, "method").iloc[0]
    wilson = stats.binomtest(0, 8).proportion_ci(method="wilson")
    assert (found["mean"], found["high"]) == (0, pytest.approx(wilson.high))
