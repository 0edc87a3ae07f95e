"""Regression of metrics on what is known of the images: cases whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from xaiutils.statistics.regression import regress


def made(n=60, seed=0, **columns):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"method": "m", "metric": "iou", "image_id": [f"i{k}" for k in range(n)]})
    return table.assign(a=rng.normal(size=n), b=rng.normal(size=n), **columns)


def test_a_line_is_found_exactly():
    table = made()
    table["value"] = 3 - 2 * table["a"]
    row = regress(table, ["a"]).iloc[0]
    assert row[["coefficient", "low", "high", "slope", "r2"]].tolist() == pytest.approx([-1, -1, -1, -2, 1])
    assert row[["method", "metric", "column", "n", "units"]].tolist() == ["m", "iou", "a", 60, 60]


def test_joint_regression_is_least_squares_of_standard_scores():
    table = made(seed=1)
    table["b"] += table["a"]  # correlated columns: apart they are not what they are together
    table["value"] = table["a"] + 0.5 * table["b"] + np.random.default_rng(2).normal(size=60)
    scores = (table[["a", "b", "value"]] - table[["a", "b", "value"]].mean()) / table[["a", "b", "value"]].std(ddof=0)
    expected, residual, *_ = np.linalg.lstsq(scores[["a", "b"]].to_numpy(), scores["value"].to_numpy(), rcond=None)
    joint = regress(table, ["a", "b"], joint=True)
    assert joint["coefficient"].tolist() == pytest.approx(expected.tolist())
    assert joint["r2"].tolist() == pytest.approx([1 - residual[0] / 60] * 2)
    apart = regress(table, ["a", "b"])
    assert apart["coefficient"].tolist() == pytest.approx(scores[["a", "b"]].corrwith(scores["value"]).tolist())
    assert apart["r2"].tolist() == pytest.approx((apart["coefficient"] ** 2).tolist())
    raw = np.polyfit(table["a"], table["value"], 1)[0]
    assert apart["slope"][0] == pytest.approx(raw)


def test_intervals_cover_what_they_should():
    """Of 60 normal pairs the standard error of a correlation r is (1 - r^2) / sqrt(n)."""
    table = made(400, seed=3)
    table["value"] = table["a"] + np.random.default_rng(4).normal(size=400)
    found = regress(table, ["a", "b"]).set_index("column")
    r = found.loc["a", "coefficient"]
    assert found.loc["a", "high"] - found.loc["a", "low"] == pytest.approx(2 * 1.96 * (1 - r**2) / 20, rel=0.2)
    assert found.loc["b", "low"] < 0 < found.loc["b", "high"]
    assert found.loc["a", "low"] > 0.5
    pd.testing.assert_frame_equal(regress(table, ["a", "b"]), regress(table, ["a", "b"]))


def test_images_of_a_patient_are_one_observation():
    table = made(20, seed=5)
    table["value"] = table["a"] + np.random.default_rng(6).normal(size=20)
    copies = pd.concat([table.assign(image_id=table["image_id"] + str(k)) for k in range(8)])
    copies["patient_id"] = [*range(20)] * 8
    once, many = regress(table, ["a"]).iloc[0], regress(copies, ["a"]).iloc[0]
    assert many["coefficient"] == pytest.approx(once["coefficient"])
    assert (many["n"], many["units"]) == (160, 20)
    assert [many["low"], many["high"]] == pytest.approx([once["low"], once["high"]])
    alone = regress(copies.drop(columns="patient_id"), ["a"]).iloc[0]
    assert alone["high"] - alone["low"] < 0.6 * (many["high"] - many["low"])


def test_what_does_not_vary_or_is_too_few_has_no_number():
    table = made(12, seed=7, c=0.1)
    table["value"] = table["a"]
    found = regress(table, ["c", "a"]).set_index("column")
    assert found.loc["c", ["coefficient", "low", "high", "slope", "r2"]].isna().all()
    assert found.loc["a", "coefficient"] == pytest.approx(1)
    assert regress(table[:3], ["a"])["coefficient"].isna().all()
    assert regress(table[:5], ["a", "b"], joint=True)["coefficient"].isna().all()
    holes = table.assign(a=table["a"].where(table.index > 3))
    assert regress(holes, ["a"])["n"].item() == 8
    with pytest.raises(ValueError, match="did you mean value"):
        regress(table, ["values"])


def test_regression_by_hand():
    """Of one column the coefficient is Pearson's r; the slope is in the units of both."""
    x, y = np.array([1.0, 2, 3, 4, 5, 6]), np.array([1.0, 3, 2, 5, 4, 6])
    rows = pd.DataFrame({"method": "m", "value": y, "size": x, "image_id": list("abcdef")})
    found = regress(rows, ["size"], "method", n_resamples=2000).iloc[0]
    r = np.corrcoef(x, y)[0, 1]
    assert found["coefficient"] == pytest.approx(r)
    assert found["r2"] == pytest.approx(r**2)
    assert found["slope"] == pytest.approx(r * y.std() / x.std())
    assert (found["n"], found["units"]) == (6, 6)
    drawn = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=2000)
    draws = [np.corrcoef(np.repeat(x, d), np.repeat(y, d))[0, 1] for d in drawn if (d > 0).sum() > 1]
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.01)
    pairs = rows.assign(patient_id=list("aabbcc"))
    assert np.isnan(regress(pairs, ["size"], "method")["coefficient"]).all()  # three patients, of at least four
    assert regress(pairs.assign(patient_id=list("aabbcd")), ["size"], "method")["units"].tolist() == [4]
