"""Reports of several labels at once, and of measured values: figures against scikit-learn's and by hand."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import (
    average_precision_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from xaiutils.classification import (
    LabelPredictions,
    Predictions,
    ValuePredictions,
    assess,
    assess_labels,
    assess_values,
)
from xaiutils.classification.curves import youden_threshold
from xaiutils.plots import auc_forest, label_roc_curves, predicted_values

NAMES = ("sure", "fair", "noise")


def made(n=160, seed=0, unknown=10, **more):
    """Labels, of which some are unknown, and scores of falling quality."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (n, 3))
    scores = 1 / (1 + np.exp(-(2 * labels - 1 + rng.normal(0, [0.6, 1.5, 60], (n, 3)))))
    labels[:unknown, 1] = -1
    return LabelPredictions(labels, scores, NAMES, **more)


@pytest.fixture(scope="module")
def report():
    return assess_labels(made(), made(seed=1))


def test_each_label_is_judged_where_it_is_known(report):
    found = made()
    table = report.table
    for c, name in enumerate(NAMES):
        known = found.labels[:, c] >= 0
        y, p = found.labels[known, c], found.probabilities[known, c]
        assert table.loc[name, "AUC"] == pytest.approx(roc_auc_score(y, p))
        assert table.loc[name, "average precision"] == pytest.approx(average_precision_score(y, p))
        assert table.loc[name, "AUC low"] < table.loc[name, "AUC"] < table.loc[name, "AUC high"]
        assert table.loc[name, ["positive", "negative", "unknown"]].tolist() == [y.sum(), (1 - y).sum(), (~known).sum()]
        alone = assess(Predictions(y, np.stack([1 - p, p], axis=1), ("no", "yes")), positive=1)
        for end in ("low", "high"):
            assert table.loc[name, f"AUC {end}"] == alone.metrics.loc["AUC", end]
    assert "2 of them are told better than by chance. The lowest is that of 'noise'" in report.verdict


def test_averages_are_over_labels_and_over_all_pairs(report):
    found = made()
    known = found.labels >= 0
    each = [roc_auc_score(found.labels[k, c], found.probabilities[k, c]) for c, k in enumerate(known.T)]
    assert report.averages.loc["macro average", "AUC"] == pytest.approx(np.mean(each))
    y, p = found.labels[known], found.probabilities[known]
    assert report.averages.loc["micro average", "AUC"] == pytest.approx(roc_auc_score(y, p))
    assert report.averages.loc["micro average", "average precision"] == pytest.approx(average_precision_score(y, p))
    assert (report.averages["AUC low"] < report.averages["AUC"]).all()
    assert (report.averages["AUC"] < report.averages["AUC high"]).all()
    assert report.averages["labels"].tolist() == [3, 3]


def test_thresholds_are_those_of_the_validation_images(report):
    tuned, found = made(seed=1), made()
    for c, name in enumerate(NAMES):
        known = tuned.labels[:, c] >= 0
        threshold = youden_threshold(tuned.labels[known, c] == 1, tuned.probabilities[known, c])
        row = report.table.loc[name]
        assert (row["threshold"], row["chosen on"]) == (threshold, "validation")
        called = found.probabilities[:, c] >= threshold
        assert row["sensitivity"] == called[found.labels[:, c] == 1].mean()
        assert row["specificity"] == (~called)[found.labels[:, c] == 0].mean()
        assert row["sensitivity low"] < row["sensitivity"] <= row["sensitivity high"]
    alone = assess_labels(made())
    assert (alone.table["chosen on"] == "these images (optimistic)").all()
    assert "sensitivity and specificity are optimistic" in alone.verdict


def test_youdens_threshold_by_hand():
    positive = np.array([True, True, False, True, False, False])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.2, 0.1])
    assert youden_threshold(positive, scores) == 0.6  # sensitivity 1, specificity 2/3; at 0.8: 2/3 and 1, and lower
    assert youden_threshold(positive, 1 - scores) == np.inf


def test_patients_are_drawn_whole():
    twice = made(80)
    pairs = {"patient": np.repeat(np.arange(80), 2)}
    doubled = LabelPredictions(np.repeat(twice.labels, 2, 0), np.repeat(twice.probabilities, 2, 0), NAMES, pairs)
    images = LabelPredictions(doubled.labels, doubled.probabilities, NAMES)
    by_patient, by_image = assess_labels(doubled), assess_labels(images)
    width = lambda r: (r.averages["AUC high"] - r.averages["AUC low"]).to_numpy()  # noqa: E731
    assert (width(by_patient) > 1.2 * width(by_image)).all()
    assert by_patient.reports["fair"].levels["patient"].level == "patient"


def test_labels_without_both_kinds_are_named_and_left_out():
    found = made(40)
    labels = found.labels.copy()
    labels[:, 0], labels[:, 2] = 0, -1
    report = assess_labels(LabelPredictions(labels, found.probabilities, NAMES))
    assert report.table["AUC"].isna().tolist() == [True, False, True]
    assert report.averages.loc["macro average", "labels"] == 1
    assert report.averages.loc["macro average", "AUC"] == pytest.approx(report.table.loc["fair", "AUC"])
    assert "All images are 'no sure': 'sure' has no AUC." in report.notes
    assert "'noise' is known of no image." in report.notes
    nothing = assess_labels(LabelPredictions(np.zeros((4, 3), int), found.probabilities[:4], NAMES))
    assert nothing.verdict.startswith("No label is present in some images")
    auc_forest({"a": report}), label_roc_curves({"a": report})


def of_quality(*kinds, n=40, groups=None):
    """A label that is "right" of all images, "wrong" of all, or has "one" probability."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (n, len(kinds)))
    right = np.where(labels == 1, 0.8, 0.2) + rng.uniform(-0.1, 0.1, labels.shape)
    columns = {"right": right, "wrong": 1 - right, "one": np.full(labels.shape, 0.5)}
    scores = np.stack([columns[kind][:, c] for c, kind in enumerate(kinds)], axis=1)
    return assess_labels(LabelPredictions(labels, scores, NAMES, groups or {}))


def test_a_mean_of_aucs_of_1_and_0_is_as_uncertain_as_they_are():
    report = of_quality("right", "right", "wrong")
    macro, each = report.averages.loc["macro average"], report.table
    assert macro["AUC"] == pytest.approx(2 / 3)
    assert macro["AUC low"] == pytest.approx(2 / 3 - 2 / 3 * (1 - each["AUC low"][:2].min()))
    assert macro["AUC high"] == pytest.approx(2 / 3 + each["AUC high"]["noise"] / 3)
    assert np.isnan(macro["average precision low"])
    assert any("macro average of average precision has no interval" in note for note in report.notes)
    whole = of_quality("right", "right", "right")
    assert whole.averages.loc["macro average", "AUC low"] == pytest.approx(whole.table["AUC low"].min())
    patients = of_quality("right", "right", "wrong", groups={"patient": np.arange(40) // 2})
    assert patients.averages.loc["macro average", "AUC low"] < macro["AUC low"]


def test_labels_that_are_told_the_wrong_way_round_or_not_at_all_are_named():
    report = of_quality("right", "one", "wrong")
    assert "'noise' is told the wrong way round (AUC 0.00 [0.00 to" in report.verdict
    assert "'fair' has one probability for all images" in report.verdict
    assert np.isnan(report.averages.loc["macro average", "AUC low"])
    assert any("of AUC" in note and "that of 'fair' has none" in note for note in report.notes)


@pytest.mark.parametrize(
    ("labels", "p", "said"),
    [
        (np.zeros((2, 3)), np.full((2, 3), [0.2, 0.3, 0.5]), "sum to one"),
        (np.zeros((2, 3)), np.full((2, 3), np.nan), r"lie in \[0, 1\]"),
        (np.zeros((2, 3)), np.full((2, 3), 1.5), r"lie in \[0, 1\]"),
        (np.full((2, 3), 2), np.full((2, 3), 0.5), "must be 1"),
        (np.zeros((2, 2)), np.full((2, 2), 0.7), r"must both be \(n, 3\)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), r"must both be \(n, 3\)"),
    ],
)
def test_predictions_of_labels_that_are_none_are_refused(labels, p, said):
    with pytest.raises(ValueError, match=said):
        LabelPredictions(labels, p, NAMES)


def test_figures_show_every_label(report):
    forest, curves = auc_forest({"one": report, "two": report}), label_roc_curves({"one": report})
    shown = [t.get_text() for t in forest.axes[0].get_yticklabels()]
    assert [s.split(" (")[0] for s in shown] == [*NAMES, "macro average", "micro average"]
    legend = [t.get_text() for t in curves.axes[0].get_legend().get_texts()]
    assert [s.split(":")[0] for s in legend] == list(NAMES)
    assert report.as_text().loc["macro average", "AUC"].count("to") == 1


# Measured values ----------------------------------------------------------------------------------------------------


def measured(n=120, seed=0, noise=5.0, **more):
    rng = np.random.default_rng(seed)
    y = rng.normal(60, 12, n)
    return ValuePredictions(y, y + rng.normal(2, noise, n), **more)


def test_errors_are_those_of_scikit_learn_and_better_than_the_mean():
    found = measured()
    report = assess_values(found, constant=58, value_name="age")
    y, p, m = found.values, found.predicted, report.metrics
    for name, value in {
        "MAE": mean_absolute_error(y, p),
        "RMSE": root_mean_squared_error(y, p),
        "R2": r2_score(y, p),
        "Spearman": spearmanr(y, p).statistic,
    }.items():
        assert m.loc[name, "value"] == pytest.approx(value)
        assert m.loc[name, "low"] < value < m.loc[name, "high"]
    assert m.loc["MAE", "mean"] == pytest.approx(np.abs(y - 58).mean())
    assert m.loc["R2", "mean"] == pytest.approx(r2_score(y, np.full(len(y), 58.0)))
    assert np.isnan(m.loc["Spearman", "mean"])
    assert report.beats_mean
    assert "mean absolute error of age" in report.verdict
    assert "too much" in report.verdict
    assert "the mean of the training images" in report.verdict


def test_agreement_is_bland_and_altmans():
    report = assess_values(measured())
    d = measured().predicted - measured().values
    limits = [d.mean(), d.mean() - 1.96 * d.std(ddof=1), d.mean() + 1.96 * d.std(ddof=1)]
    np.testing.assert_allclose(report.agreement["value"], limits)
    assert (report.agreement["low"] < report.agreement["value"]).all()


def test_a_model_without_skill_is_not_said_to_beat_the_mean():
    found = measured()
    shuffled = ValuePredictions(found.values, np.random.default_rng(3).permutation(found.predicted))
    assert not assess_values(shuffled).beats_mean
    constant = assess_values(ValuePredictions(found.values, np.full(len(found.values), 60.0)))
    assert not constant.beats_mean
    assert np.isnan(constant.metrics.loc["Spearman", "value"])


def test_values_of_a_patient_are_drawn_together():
    one = measured(60)
    twice = [np.repeat(a, 2) for a in (one.values, one.predicted)]
    together = assess_values(ValuePredictions(*twice, {"patient": np.repeat(np.arange(60), 2)}))
    width = lambda r: r.metrics.loc["MAE", "high"] - r.metrics.loc["MAE", "low"]  # noqa: E731
    assert width(together) > 1.2 * width(assess_values(ValuePredictions(*twice)))
    assert together.metrics.loc["MAE", "value"] == pytest.approx(assess_values(one).metrics.loc["MAE", "value"])


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="1 of 2 predicted are NaN"):
        ValuePredictions([1, 2], [1, np.nan])
    with pytest.raises(ValueError, match=r"must both be \(n,\)"):
        ValuePredictions([1, 2], [[1], [2]])
    with pytest.raises(ValueError, match="at least 1000"):
        assess_values(measured(), n_resamples=10)
    few = assess_values(measured(2))
    assert np.isnan(few.metrics["low"]).all()
    assert not few.beats_mean


def test_values_are_drawn_against_each_other():
    figure = predicted_values({"a": assess_values(measured(), value_name="$age"), "b": assess_values(measured(seed=1))})
    assert len(figure.axes) == 4
    assert "age" in figure.axes[0].get_xlabel()
