"""Comparisons of methods: published and hand-made cases, and what must not be claimed."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xaiutils.evaluation.comparison import agreement, compare, rank
from xaiutils.evaluation.statistics import bootstrap_means, summarise


def table(values, methods, metric="iou", patients=None):
    """A long table of values ``(images, methods)``."""
    values = np.asarray(values, float)
    rows = [
        {"method": m, "image_id": f"i{i}", "metric": metric, "value": values[i, k]}
        | ({} if patients is None else {"patient_id": patients[i]})
        for i in range(len(values))
        for k, m in enumerate(methods)
    ]
    return pd.DataFrame(rows)


def test_ranking_of_a_clear_order():
    """Always a > b > c: mean ranks 1, 2, 3; Friedman's statistic is n (k - 1), its largest value."""
    found = rank(table([[0.9, 0.5, 0.1]] * 12 + [[0.8, 0.4, 0.2]] * 8, "cab"), "iou")
    assert found.ranks.to_dict() == {"c": 1, "a": 2, "b": 3}
    assert found.statistic == pytest.approx(40)
    assert found.p == pytest.approx(np.exp(-20))  # chi-square of 2 degrees of freedom
    # Demsar 2006, table 5: q of three methods at 0.05 is 2.343.
    assert found.critical == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 20)), abs=1e-3)
    assert found.groups == []
    assert found.n == 20


def test_lower_is_better_where_the_metric_says_so():
    found = rank(table([[0.9, 0.5], [0.8, 0.4]], "ab", "deletion_auc"), "deletion_auc")
    assert found.ranks.index.tolist() == ["b", "a"]
    assert found.p == pytest.approx(0.5)  # the sign test of 2 of 2


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (5, 2.728), (10, 3.164)])
def test_critical_difference_of_demsars_table(k, q):
    rng = np.random.default_rng(0)
    found = rank(table(rng.random((30, k)), [f"m{i}" for i in range(k)]), "iou")
    assert found.critical == pytest.approx(q * np.sqrt(k * (k + 1) / (6 * 30)), abs=2e-3)


def test_groups_that_are_not_told_apart():
    rng = np.random.default_rng(1)
    base = rng.random((60, 1))
    noisy = base + rng.normal(0, 0.05, (60, 4)) + np.array([0, 0, 0.5, 0.5])
    found = rank(table(noisy, "abcd"), "iou")
    assert sorted(map(sorted, found.groups)) == [["a", "b"], ["c", "d"]]
    equal = rank(table(np.ones((5, 3)), "abc"), "iou")
    assert equal.p == 1
    assert equal.groups == [["a", "b", "c"]]


def test_compare_with_scipy_and_holm():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(40, 3)) + np.array([0, 1, 0.02])
    found = compare(table(values, "abc"), "iou").set_index(["a", "b"])
    assert found.index.tolist() == [("a", "b"), ("a", "c"), ("b", "c")]
    for (a, b), row in found.iterrows():
        x, y = values[:, "abc".index(a)], values[:, "abc".index(b)]
        assert row["p"] == pytest.approx(stats.wilcoxon(x, y).pvalue)
        assert row["difference"] == pytest.approx((x - y).mean())
        assert row["low"] < row["difference"] < row["high"]
        width = 2 * 1.96 * (x - y).std() / np.sqrt(40)
        assert row["high"] - row["low"] == pytest.approx(width, rel=0.15)
    assert found["verdict"].tolist() == ["b", "not told apart", "b"]
    only = compare(table(values, "abc"), "iou", reference="c")
    assert only[["a", "b"]].to_numpy().tolist() == [["c", "a"], ["c", "b"]]
    with pytest.raises(ValueError, match="method 'd' is not in the table"):
        compare(table(values, "abc"), "iou", reference="d")


def test_patients_are_units():
    """Twenty copies of three patients prove no more than the three."""
    values = np.repeat([[0.9, 0.1], [0.8, 0.3], [0.6, 0.4]], 20, axis=0)
    patients = np.repeat(["p0", "p1", "p2"], 20)
    assert compare(table(values, "ab"), "iou")["verdict"].item() == "a"
    by_patient = compare(table(values, "ab", patients=patients), "iou").iloc[0]
    assert by_patient["verdict"] == "not told apart"
    assert by_patient["n"] == 3
    assert by_patient["p"] == pytest.approx(0.25)  # the least that three signs allow
    assert rank(table(values, "ab", patients=patients), "iou").n == 3
    images = summarise(table(values, "ab"), "method").set_index("method").loc["a"]
    cluster = summarise(table(values, "ab", patients=patients), "method").set_index("method").loc["a"]
    assert cluster["mean"] == pytest.approx(images["mean"])
    assert cluster["high"] - cluster["low"] > 3 * (images["high"] - images["low"])


def test_images_without_a_value_are_left_out_of_all_methods():
    values = np.array([[0.9, 0.1], [np.nan, 0.9], [0.8, 0.2], [0.7, 0.1]])
    assert compare(table(values, "ab"), "iou")["n"].item() == 3
    with pytest.raises(ValueError, match="on 0 images in common"):
        compare(table([[np.nan, 1], [1, np.nan]], "ab"), "iou")
    with pytest.raises(KeyError, match="did you mean iou"):
        rank(table(values, "ab"), "iuo")


def test_agreement_of_metrics():
    """Deletion is better when lower, so it agrees with an IoU that orders the methods the other way."""
    parts = [
        table([[1, 2, 3, 4]], "abcd", "iou"),
        table([[0.9, 0.7, 0.5, 0.2]], "abcd", "deletion_auc"),
        table([[4, 3, 2, 1]], "abcd", "roc_auc"),
        table([[1, 1, 1, 1]], "abcd", "dice"),
    ]
    tau = agreement(pd.concat(parts))
    assert tau.loc["iou", "deletion_auc"] == pytest.approx(1)
    assert tau.loc["roc_auc", "iou"] == pytest.approx(-1)
    assert np.isnan(tau.loc["dice", "iou"])
    assert tau.loc["dice", "dice"] == 1


def test_bootstrap_draws_whole_units():
    values = np.array([[1.0], [1.0], [4.0]])
    found = np.unique(bootstrap_means(values, np.array(["p", "p", "q"]), 200, 0).round(6))
    assert found.tolist() == [1.0, 2.0, 4.0]
