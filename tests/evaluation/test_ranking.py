"""Comparisons of methods: published and hand-made cases, and what must not be claimed."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xaiutils.evaluation.ranking import against_chance, agreement, compare, concordance, disagreements, mean_ranks, rank
from xaiutils.statistics.summaries import summarise


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
    assert found["verdict"].tolist() == ["b", "undecided", "b"]
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
    assert by_patient["verdict"] == "undecided"
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


# Chance -----------------------------------------------------------------------------------------------------------


def test_hits_against_equal_chances_are_a_binomial_test():
    values = np.zeros((30, 2))
    values[:5, 0], values[:, 1] = 1, 0.05
    row = against_chance(table(values, ["m", "chance"], "pointing_game"), "pointing_game").iloc[0]
    assert row["p"] == pytest.approx(2 * stats.binom.sf(4, 30, 0.05))
    wilson = stats.binomtest(5, 30).proportion_ci(method="wilson")
    assert row[["mean", "low", "high", "level"]].tolist() == pytest.approx([5 / 30, wilson.low, wilson.high, 0.05])
    assert (row["verdict"], row["n"]) == ("better", 30)


def test_hits_against_chances_of_their_own():
    """Two images of chance 0.5 and 0.1: both hit with 0.05, so p is 0.1 on two sides."""
    values = np.array([[1, 0.5], [1, 0.1]])
    assert against_chance(table(values, ["m", "chance"], "hit_rate"), "hit_rate")["p"].item() == pytest.approx(0.1)


def test_no_hit_is_not_worse_than_a_small_chance():
    values = np.column_stack([np.zeros(24), np.full(24, 0.02)])
    row = against_chance(table(values, ["m", "chance"], "pointing_game"), "pointing_game").iloc[0]
    assert row["verdict"] == "undecided"
    assert row["p"] == 1
    many = np.column_stack([np.zeros(400), np.full(400, 0.3)])
    row = against_chance(table(many, ["m", "chance"], "pointing_game"), "pointing_game").iloc[0]
    assert row["verdict"] == "worse"


def test_hits_of_one_patient_are_no_proof():
    values = np.zeros((40, 2))
    values[:8, 0], values[:, 1] = 1, 0.05
    patients = [f"p{k // 8}" for k in range(40)]
    alone = against_chance(table(values, ["m", "chance"], "pointing_game"), "pointing_game").iloc[0]
    clustered = table(values, ["m", "chance"], "pointing_game", patients)
    assert alone["verdict"] == "better"
    assert against_chance(clustered, "pointing_game")["verdict"].item() == "undecided"


def test_rare_hits_of_many_patients_are_found():
    """10 of 100 images of 50 patients, where chance gives one: a t-test over patients would not see it after Holm."""
    values = np.zeros((100, 2))
    values[:20:2, 0], values[:, 1] = 1, 0.011
    patients = [f"p{k // 2}" for k in range(100)]
    row = against_chance(table(values, ["m", "chance"], "pointing_game", patients), "pointing_game").iloc[0]
    assert row["p"] == pytest.approx(2 * stats.binom.sf(9, 50, 0.022))
    assert row["verdict"] == "better"


def test_other_metrics_against_chance_and_holm():
    rng = np.random.default_rng(0)
    names = ["good", *(f"m{k}" for k in range(5)), "chance"]
    values = 0.5 + rng.normal(0, 0.1, (40, 7))
    values[:, 0] += 0.1
    values[:, -1] = 0.5
    found = against_chance(table(values, names, "roc_auc"), "roc_auc").set_index("method")
    assert found["verdict"].to_dict() == {"good": "better", **dict.fromkeys(names[1:-1], "undecided")}
    assert found.loc["good", "p"] == pytest.approx(stats.wilcoxon(values[:, 0] - 0.5).pvalue)
    assert found.loc["good", "p_holm"] == pytest.approx(6 * found.loc["good", "p"])
    with pytest.raises(ValueError, match="no rows of the method 'chance'"):
        against_chance(table(values[:, :3], names[:3], "roc_auc"), "roc_auc")


# Ranks, judges, single images -------------------------------------------------------------------------------------


def test_mean_ranks_of_two_metrics():
    one = table([[3, 2, 1], [3, 1, 2]], "abc", "iou")
    two = table([[0.1, 0.2, 0.3]] * 2, "abc", "deletion_auc")
    alone = table([[1.0]] * 2, "a", "dice")  # one method has no rank
    found = mean_ranks(pd.concat([one, two, alone]))
    assert found.columns.tolist() == ["iou", "deletion_auc"]
    assert found["iou"].to_dict() == {"a": 1, "b": 2.5, "c": 2.5}
    assert found["deletion_auc"].to_dict() == {"a": 1, "b": 2, "c": 3}


def test_concordance_of_judges():
    def judged(*orders):
        metrics = ("iou", "dice", "roc_auc", "best_dice")
        return concordance(pd.concat([table([o], "abcd", m) for o, m in zip(orders, metrics, strict=False)]))

    assert judged([1, 2, 3, 4], [10, 20, 30, 40], [1, 4, 9, 16]) == pytest.approx(1)
    assert judged([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(0)
    assert np.isnan(judged([1, 2, 3, 4]))
    assert np.isnan(judged([1, 1, 1, 1], [1, 1, 1, 1]))
    orders = [[1, 3, 2, 4], [2, 2, 5, 7], [1, 2, 2, 2]]
    friedman = stats.friedmanchisquare(*np.array(orders).T).statistic  # corrected for ties too
    assert judged(*orders) == pytest.approx(friedman / (3 * 3))
    lower = pd.concat([table([[1, 2, 3]], "abc", "iou"), table([[0.9, 0.8, 0.7]], "abc", "deletion_auc")])
    assert concordance(lower) == pytest.approx(1)


def test_the_largest_disagreements_come_first():
    values = [[0.5, 0.4], [0.1, 0.9], [np.nan, 1], [0.8, 0.2], [0.3, 0.3]]
    found = disagreements(table(values, "ab"), "iou", "a", "b", n=3)
    assert found["image_id"].tolist() == ["i1", "i3", "i0"]
    assert found["difference"].tolist() == pytest.approx([-0.8, 0.6, 0.1])
    assert found.loc[0, ["a", "b"]].tolist() == [0.1, 0.9]
    with pytest.raises(ValueError, match="method 'c' is not in the table"):
        disagreements(table(values, "ab"), "iou", "a", "c")


# Parts of the images, and words for the eye -----------------------------------------------------------------------
