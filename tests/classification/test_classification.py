"""How well a classifier does: figures of merit against scikit-learn, brute force and the thesis' own confusions."""

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn import linear_model, metrics

import xaiutils as xai
from xaiutils.classification import Predictions, assess, compare_models, curves, mean_auc, results_table
from xaiutils.classification import calibration as cal
from xaiutils.classification import compare_models as cmp
from xaiutils.classification.scores import confusion_counts
from xaiutils.datasets import ImageDataset
from xaiutils.plots.classification import reliability
from xaiutils.statistics import bootstrap
from xaiutils.training import classification_report
from xaiutils.training.predictions import groups_of

pytestmark = pytest.mark.filterwarnings("error")
TWO = ("benign", "malignant")
SEEDS = st.integers(0, 2**32 - 1)


def as_confusion(confusion, names=TWO, sure=0.9, **more):
    """Predictions with this confusion matrix, every answer given with the same probability."""
    k, labels, p = len(names), [], []
    for i, j in product(range(k), range(k)):
        labels += [i] * confusion[i][j]
        p += [np.where(np.arange(k) == j, sure, (1 - sure) / (k - 1))] * confusion[i][j]
    return Predictions(np.array(labels), np.array(p), names, **more)


def simulated(n, k=2, skill=1.0, seed=0, names=None, **more):
    """Labels by even chance, and softmax probabilities of noisy scores: calibrated for skill 1 and two classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += skill
    return Predictions(labels, special.softmax(logits, axis=1), names or tuple("abcdefghij"[:k]), **more)


def scored(seed, n=40, levels=8):
    """Labels of both kinds and scores with ties."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    positive[:2] = [True, False]
    return positive, rng.integers(0, levels, n) / levels


# The thesis --------------------------------------------------------------------------------------------------------


# accuracy, sensitivity: value, low, high as they follow from the thesis' tables; balanced accuracy; MCC
THESIS = {
    "INbreast ViT": ([[62, 0], [25, 1]], (0.716, 0.614, 0.800), (0.038, 0.007, 0.189), 0.519, 0.17),
    "INbreast EfficientNet": ([[57, 5], [23, 3]], (0.682, 0.579, 0.770), (0.115, 0.040, 0.290), 0.517, 0.055),
    "CBIS ViT": ([[361, 25], [236, 29]], (0.599, 0.561, 0.636), (0.109, 0.077, 0.153), 0.522, 0.08),
    "CBIS EfficientNet": ([[298, 88], [138, 127]], (0.653, 0.615, 0.688), (0.479, 0.420, 0.539), 0.626, 0.26),
}


@pytest.mark.parametrize("name", THESIS)
def test_the_thesis_numbers(name):
    confusion, accuracy, sensitivity, balanced, mcc = THESIS[name]
    report = assess(as_confusion(confusion), name=name)
    assert report.confusion.to_numpy().tolist() == confusion
    for metric, expected in (("accuracy", accuracy), ("sensitivity", sensitivity)):
        assert report.metrics.loc[metric, ["value", "low", "high"]].tolist() == pytest.approx(expected, abs=6e-4)
    assert report.summary["balanced accuracy"] == pytest.approx(balanced, abs=6e-4)
    assert report.summary["MCC"] == pytest.approx(mcc, abs=0.006)


def test_a_vit_that_finds_one_cancer_of_26_is_not_praised_for_72_percent():
    report = assess(as_confusion(THESIS["INbreast ViT"][0]), name="ViT")
    assert report.summary["accuracy"] == pytest.approx(63 / 88)
    assert not report.beats_majority
    assert not report.beats_chance
    assert "It does no better than the majority class" in report.verdict
    assert "It misses 25 of 26 images that are 'malignant'" in report.verdict
    assert "It errs towards missing 'malignant': it says 'malignant' of 1.1 %, and 29.5 % are." in report.verdict
    assert report.classes.loc["macro average", ["precision", "recall", "F1"]].round(2).tolist() == [0.86, 0.52, 0.45]
    assert report.table["model"].tolist() == ["ViT", "always 'benign'", "random, by class frequency"]


def test_the_thesis_other_models():
    below = assess(as_confusion(THESIS["INbreast EfficientNet"][0]))
    assert "that is worse than always saying 'benign', which is right on 62" in below.verdict
    assert not assess(as_confusion(THESIS["CBIS ViT"][0])).beats_majority  # 390 right against 386
    better = assess(as_confusion(THESIS["CBIS EfficientNet"][0]))
    assert better.beats_majority
    assert better.beats_chance
    assert "That is better than always saying 'benign'" in better.verdict


def test_skill_that_accuracy_hides_is_told():
    """Nine of ten cancers found, at the price of false alarms: less accurate than saying 'benign', yet no guesswork."""
    report = assess(as_confusion([[700, 200], [10, 90]]))
    assert report.summary["accuracy"] < report.summary["majority accuracy"]
    assert report.beats_chance
    assert not report.beats_majority
    assert "By accuracy it does no better than the majority class" in report.verdict
    assert "so that it does tell them apart" in report.verdict
    assert (
        "It errs towards false alarms of 'malignant': it says 'malignant' of 29.0 %, and 10.0 % are." in report.verdict
    )
    even = assess(as_confusion([[68, 11], [13, 24]]))
    assert "it says so about as often as it is so" in even.verdict


def test_a_good_ranking_behind_bad_answers_is_told():
    """Probabilities that never reach 0.5, but are in order."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    p = 0.2 + 0.1 * labels + rng.normal(0, 0.05, 200)
    report = assess(Predictions(labels, np.stack([1 - p, p], axis=1), TWO))
    assert not report.beats_chance
    assert "It gives one answer to every image: 'benign'." in report.sentences
    assert "its probabilities are too timid" in report.verdict
    assert "its answers show no skill: another threshold may" in report.verdict
    assert report.summary["AUC"] > 0.85


# Against scikit-learn -----------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(SEEDS, st.integers(2, 5))
def test_figures_of_merit_agree_with_scikit_learn(seed, k):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 40))
    labels = np.append(np.arange(k), rng.integers(0, k, n - k))
    p = rng.integers(1, 6, (n, k)).astype(float)
    p /= p.sum(axis=1, keepdims=True)
    found = Predictions(labels, p, tuple("abcde"[:k]))
    report = assess(found)
    said, s = p.argmax(axis=1), report.summary
    assert s["accuracy"] == pytest.approx(metrics.accuracy_score(labels, said))
    assert s["balanced accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, said))
    assert s["macro F1"] == pytest.approx(metrics.f1_score(labels, said, average="macro", zero_division=0))
    assert s["MCC"] == pytest.approx(metrics.matthews_corrcoef(labels, said))
    assert s["kappa"] == pytest.approx(metrics.cohen_kappa_score(labels, said))
    of_classes = metrics.precision_recall_fscore_support(labels, said, zero_division=0)
    np.testing.assert_allclose(report.classes.iloc[:k].to_numpy().T, of_classes)
    weighted = metrics.precision_recall_fscore_support(labels, said, average="weighted", zero_division=0)
    np.testing.assert_allclose(report.classes.loc["weighted average"].iloc[:3].astype(float), weighted[:3])
    np.testing.assert_array_equal(report.confusion, metrics.confusion_matrix(labels, said))
    areas = [metrics.roc_auc_score(labels == c, p[:, c]) for c in range(k)]
    np.testing.assert_allclose(report.class_intervals["AUC"], areas)
    precisions = [metrics.average_precision_score(labels == c, p[:, c]) for c in range(k)]
    np.testing.assert_allclose(report.class_intervals["average precision"], precisions)
    assert s["AUC"] == pytest.approx(areas[-1] if k == 2 else np.mean(areas))
    assert mean_auc(labels, p) == pytest.approx(np.mean(areas))
    squares = ((p - np.eye(k)[labels]) ** 2).sum(axis=1).mean()
    assert s["Brier"] == pytest.approx(squares / 2 if k == 2 else squares)


@given(SEEDS)
def test_curves_agree_with_scikit_learn(seed):
    positive, scores = scored(seed)
    table = curves.threshold_table(positive, scores)
    fpr, tpr, thresholds = metrics.roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(1 - table["specificity"], fpr, atol=1e-12)
    np.testing.assert_allclose(table["sensitivity"], tpr)
    np.testing.assert_array_equal(table["threshold"], thresholds)
    precision, _, _ = metrics.precision_recall_curve(positive, scores)
    np.testing.assert_allclose(table["precision"], precision[::-1])


# Curves and replicates -----------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(SEEDS)
def test_weights_are_repetitions(seed):
    """A replicate's area is that of the drawn images, and so are its confusion counts and operating points."""
    positive, scores = scored(seed)
    units = np.random.default_rng(seed).integers(0, 9, len(scores))
    units = np.unique(units, return_inverse=True)[1]
    weights = np.concatenate(list(bootstrap.replicates(units, 6, 0)), axis=1)
    assert weights.shape == (len(scores), 6)
    ranks = curves.PositiveRanks.of(positive, scores, weights)
    auc, precision = ranks.auc(), ranks.average_precision()
    sensitivity, specificity = ranks.sensitivity_at(0.7), ranks.specificity_at(0.6)
    counts = confusion_counts(positive.astype(int), (scores > 0.5).astype(int), 2, weights)
    for b in range(6):
        assert all(len(set(weights[units == u, b])) == 1 for u in range(units.max() + 1))
        drawn = np.repeat(np.arange(len(scores)), weights[:, b])
        y, x = positive[drawn], scores[drawn]
        np.testing.assert_array_equal(counts[:, :2, b], metrics.confusion_matrix(y, x > 0.5, labels=[False, True]))
        if 0 < y.sum() < len(y):
            assert auc[b] == pytest.approx(metrics.roc_auc_score(y, x))
            assert precision[b] == pytest.approx(metrics.average_precision_score(y, x))
            table = curves.threshold_table(y, x)
            assert sensitivity[b] == pytest.approx(table["sensitivity"][table["specificity"] >= 0.7 - 1e-9].max())
            assert specificity[b] == pytest.approx(table["specificity"][table["sensitivity"] >= 0.6 - 1e-9].max())
        else:
            assert np.isnan(auc[b])


@given(SEEDS)
def test_reversed_scores_have_the_rest_of_the_area(seed):
    positive, scores = scored(seed)
    once = np.ones((len(scores), 1), np.int32)
    there, back = (curves.PositiveRanks.of(positive, s, once).auc()[0] for s in (scores, -scores))
    assert there + back == pytest.approx(1)


def test_the_replicates_do_not_depend_on_the_block(monkeypatch):
    units = np.arange(50) // 2
    whole = np.concatenate(list(bootstrap.replicates(units, 30, 1)), axis=1)
    monkeypatch.setattr(bootstrap, "_CELLS", 350)
    blocks = list(bootstrap.replicates(units, 30, 1))
    assert len(blocks) == 5
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)


def test_the_bootstrap_is_as_wide_as_delong():
    found = simulated(400, seed=3)
    row = assess(found, n_resamples=2000).metrics.loc["AUC"]
    auc, variance = cmp.delong(found.labels == 1, found.probabilities[None, :, 1])
    assert row["value"] == pytest.approx(auc[0])
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * np.sqrt(variance[0, 0]), rel=0.08)


def test_copies_of_an_image_are_no_news_where_patients_are_known():
    """Four copies of each image: with patients the intervals stay, without they would shrink to half."""
    once = simulated(100, seed=1)
    copies = np.repeat(np.arange(100), 4)
    many = (once.labels[copies], once.probabilities[copies], once.class_names)
    widths = {}
    for name, found in {
        "once": once,
        "patients": Predictions(*many, {"patient": copies}),
        "images": Predictions(*many),
    }.items():
        report = assess(found)
        ends = report.metrics.loc[["accuracy", "AUC", "balanced accuracy", "sensitivity"]]
        widths[name] = (ends["high"] - ends["low"]).to_numpy()
        assert report.n_units == (400 if name == "images" else 100)
    np.testing.assert_allclose(widths["patients"], widths["once"], rtol=0.12)
    np.testing.assert_allclose(widths["images"], widths["once"] / 2, rtol=0.12)


def test_intervals_where_a_bootstrap_would_claim_certainty():
    assert bootstrap.wilson(1, 26, 0.95) == pytest.approx((0.0068, 0.1889), abs=1e-4)
    same = np.ones(1000)
    assert np.isnan(bootstrap.percentile_interval(same, 0.95)).all()
    low, high = bootstrap.auc_interval(1.0, same, 5, 8, 0.95)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 5)), 1)
    few = np.where(np.arange(1000) < 870, np.linspace(0, 1, 1000), np.nan)  # two images of a class: 13 % have none
    assert np.isnan(bootstrap.percentile_interval(few, 0.95)).all()
    hits, units = np.ones(12, bool), np.arange(12) // 4
    assert bootstrap.proportion_interval(hits, units, same, 0.95) == bootstrap.wilson(3, 3, 0.95)


def guessed(k, n, seed=None):
    """``n`` images of each of ``k`` classes, and answers by chance or, without a seed, always the first class."""
    labels = np.repeat(np.arange(k), n)
    said = np.zeros(k * n, int) if seed is None else np.random.default_rng(seed).integers(0, k, k * n)
    return labels, said == labels, np.arange(k * n)


@pytest.mark.parametrize(("k", "n"), [(2, 20), (10, 20), (37, 5), (37, 20)])
def test_guessing_among_many_classes_is_guessing(k, n):
    labels, constant, units = guessed(k, n)
    low, high = bootstrap.balanced_accuracy_interval(labels, constant, units, 0.95)
    assert low < 1 / k < high
    assert not bootstrap.better_than_guessing(labels, constant, units, 0.95)
    right, outside = 0, 0
    for seed in range(100):
        found = guessed(k, n, seed)
        low, high = bootstrap.balanced_accuracy_interval(*found, 0.95)
        assert low <= found[1].mean() <= high
        outside += not low <= 1 / k <= high
        right += bootstrap.better_than_guessing(*found, 0.95, n_draws=1000)
    assert outside <= 11  # 5 expected
    assert right <= 7  # 2.5
    assert bootstrap.better_than_guessing(labels, np.arange(k * n) % 3 > 0, units, 0.95)


def test_the_interval_of_balanced_accuracy_holds_the_value():
    labels, _, units = guessed(10, 20)
    perfect = np.ones(200, bool)
    low, high = bootstrap.balanced_accuracy_interval(labels, perfect, units, 0.95)
    assert (low, high) == (pytest.approx(1 - (1 - bootstrap.wilson(20, 20, 0.95)[0]) / np.sqrt(10)), 1)
    # Ten patients of two images each are ten trials of each class.
    pairs = bootstrap.balanced_accuracy_interval(labels, perfect, units // 2, 0.95)
    assert pairs[0] == pytest.approx(1 - (1 - bootstrap.wilson(10, 10, 0.95)[0]) / np.sqrt(10))
    found = Predictions(labels, np.full((200, 10), 0.1), tuple("abcdefghij"))
    report = assess(found)
    assert not report.beats_chance
    assert report.metrics.loc["balanced accuracy", "low"] < 0.1
    assert "that is not told apart from the 0.10 of guessing" in report.verdict
    assert "it gives every image the same probability, which ranks nothing" in report.verdict


def test_average_precision_of_random_scores():
    positive = np.arange(8) < 3
    orders = [[i in places for i in range(8)] for places in combinations(range(8), 3)]
    expected = np.mean([metrics.average_precision_score(order, -np.arange(8)) for order in orders])
    assert curves.random_average_precision(3, 8) == pytest.approx(expected)
    assert expected > 0.45  # the prevalence is 0.375
    assert curves.random_average_precision(5, 5) == pytest.approx(1)
    row = assess(Predictions(positive.astype(int), np.full((8, 2), 0.5), TWO)).metrics.loc["average precision"]
    assert row[["majority", "random"]].tolist() == [0.375, expected]


# Operating points and net benefit -------------------------------------------------------------------------------------


def test_thresholds_come_from_the_validation_images():
    validation, test = simulated(500, seed=1), simulated(500, seed=2)
    report = assess(test, validation)
    points = report.operating_points.set_index("held")
    assert set(points["chosen on"]) == {"validation"}
    for what, target in curves.SCREENING.items():
        threshold = points.loc[what, "threshold"]
        table = curves.threshold_table(validation.labels == 1, validation.probabilities[:, 1])
        assert table.set_index("threshold").loc[threshold, what] >= target
        called = test.probabilities[:, 1] >= threshold
        assert points.loc[what, "sensitivity"] == pytest.approx(called[test.labels == 1].mean())
        assert points.loc[what, "specificity"] == pytest.approx((~called)[test.labels == 0].mean())
        assert points.loc[what, "PPV"] == pytest.approx((test.labels == 1)[called].mean())
        assert points.loc[what, "sensitivity low"] < points.loc[what, "sensitivity"]
    assert "optimistic" not in report.verdict
    alone = assess(test)
    assert "optimistic" in alone.verdict
    held = alone.operating_points.set_index("held")
    assert held.loc["specificity", "specificity"] >= 0.889
    assert held.loc["sensitivity", "sensitivity"] >= 0.869
    one_class = Predictions(np.zeros(9, int), validation.probabilities[:9], validation.class_names)
    report = assess(test, one_class)
    assert "optimistic" in report.operating_points["chosen on"][0]
    assert "The validation images are of one class" in report.verdict


def test_positive_class_is_explicit():
    found = simulated(60, seed=4, names=TWO)
    last, first = assess(found), assess(found, positive="benign")
    assert (last.positive, first.positive) == (1, 0)
    assert first.summary["sensitivity"] == last.summary["specificity"]
    assert first.summary["AUC"] == pytest.approx(last.summary["AUC"])
    with pytest.raises(ValueError, match="positive='cat' is no class; the classes are benign, malignant"):
        assess(found, positive="cat")
    of_three = simulated(60, 3)
    assert assess(of_three).operating_points is None
    assert assess(of_three).decision is None
    named = assess(of_three, positive="b")
    assert named.summary["AUC"] == pytest.approx(
        metrics.roc_auc_score(of_three.labels == 1, of_three.probabilities[:, 1])
    )
    assert len(named.operating_points) == 2


def test_net_benefit():
    positive, scores = np.array([True, True, False, False, False]), np.array([0.9, 0.3, 0.6, 0.2, 0.1])
    curve = curves.decision_curve(positive, scores, np.array([0.25, 0.5]))
    assert curve["model"].tolist() == pytest.approx([2 / 5 - 1 / 5 / 3, 1 / 5 - 1 / 5])
    assert curve["treat all"].tolist() == pytest.approx([2 / 5 - 3 / 5 / 3, 2 / 5 - 3 / 5])
    assert (curves.decision_curve(positive, positive.astype(float))["model"] == 0.4).all()


# Calibration ----------------------------------------------------------------------------------------------------------


def test_true_probabilities_are_called_calibrated():
    rng = np.random.default_rng(0)
    p = rng.beta(0.7, 1.2, 20_000)
    y = rng.random(20_000) < p
    row = cal.calibration_row(y, p)
    assert row["ECE"] < 0.012
    assert row["ECE"] == pytest.approx(row["ECE if calibrated"], abs=0.006)
    assert row["slope"] == pytest.approx(1, abs=0.05)
    assert row["intercept"] == pytest.approx(0, abs=0.06)
    too_sure = special.expit(2 * special.logit(p) + 1)
    row = cal.calibration_row(y, too_sure)
    assert row["ECE"] > 0.1
    assert row["slope"] == pytest.approx(0.5, abs=0.03)
    assert row["intercept"] == pytest.approx(-0.5, abs=0.06)
    slopes = [cal.calibration_line(rng.random(500) < q, q) for q in rng.beta(0.7, 1.2, (300, 500))]
    spread = np.std([line["slope"] for line in slopes])
    assert np.mean([line["slope error"] for line in slopes]) == pytest.approx(spread, rel=0.15)
    table = cal.reliability_table(y, p)
    assert table["n"].tolist() == [2000] * 10
    assert ((table["low"] < table["probability"]) & (table["probability"] < table["high"])).sum() >= 8


@given(SEEDS)
def test_the_parts_of_the_brier_score_add_up(seed):
    y, p = scored(seed, levels=25)
    parts = cal.brier_decomposition(y, p)
    assert parts["Brier"] == pytest.approx(metrics.brier_score_loss(y, p))
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within bins"]
    assert total == pytest.approx(parts["Brier"])
    coarse = cal.brier_decomposition(y, np.round(p * 4) / 4, n_bins=1000)  # a bin a value: nothing within
    assert coarse["within bins"] == pytest.approx(0, abs=1e-12)


@settings(max_examples=20)
@given(SEEDS)
def test_calibration_line_is_a_logistic_regression(seed):
    y, p = scored(seed, n=80, levels=20)
    p = 0.02 + 0.95 * p
    x = special.logit(p)[:, None]
    found = cal.calibration_line(y, p)
    if x[y].min() < x[~y].max() and x[~y].min() < x[y].max():
        model = linear_model.LogisticRegression(C=1e10, tol=1e-10, max_iter=1000).fit(x, y)
        assert found["slope"] == pytest.approx(model.coef_[0, 0], abs=1e-3)
        assert found["intercept"] == pytest.approx(model.intercept_[0], abs=1e-3)
    assert special.expit(special.logit(p) + found["intercept at slope 1"]).mean() == pytest.approx(y.mean(), abs=1e-6)


def test_calibration_without_a_line():
    y = np.array([False, False, True, True])
    for p in (np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.1, 0.5, 0.5, 0.9]), np.full(4, 0.3), np.array([1, 1, 0, 0])):
        found = cal.calibration_line(y, p)
        assert np.isnan([found["slope"], found["intercept"]]).all()
        assert np.isfinite(found["intercept at slope 1"])
    assert np.isnan(list(cal.calibration_line(np.ones(3, bool), np.array([0.1, 0.2, 0.3])).values())).all()
    assert cal.expected_calibration_error(y, np.full(4, 0.5)) == 0  # equal probabilities share a bin


def test_temperature_is_found_again():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 1, (20_000, 4))
    truth = special.softmax(logits, axis=1)
    labels = (truth.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    stated = special.softmax(2 * logits, axis=1)
    temperature = cal.fit_temperature(labels, stated)
    assert temperature == pytest.approx(2, rel=0.03)
    np.testing.assert_allclose(cal.apply_temperature(stated, 2.0), truth, atol=1e-5)
    report = assess(simulated(600, seed=1, skill=2), simulated(600, seed=2, skill=2))
    before, after = report.calibration["ECE"].iloc[:2]
    assert report.calibration.index[1].endswith(f"temperature {report.temperature:.3g}")
    assert after < before


# Patients and breasts ------------------------------------------------------------------------------------------------


def test_per_patient_and_per_breast():
    p = np.array([0.9, 0.2, 0.1, 0.4, 0.3, 0.2])
    found = Predictions(
        [1, 0, 0, 0, 1, 1],
        np.stack([1 - p, p], axis=1),
        TWO,
        {"patient": list("aaabcc"), "breast": ["aL", "aL", "aR", "bL", "cL", "cL"]},
    )
    patients, breasts = found.per("patient"), found.per("breast")
    assert patients.labels.tolist() == [1, 0, 1]
    assert patients.probabilities[:, 1].tolist() == [0.9, 0.4, 0.3]
    assert breasts.labels.tolist() == [1, 0, 0, 1]
    assert found.per("patient", combine="mean").probabilities[:, 1] == pytest.approx([0.4, 0.4, 0.25])
    assert found.per("patient", positive="benign").labels.tolist() == [0, 0, 1]
    assert (breasts.unit, breasts.units.tolist(), breasts.level) == ("patient", [0, 0, 1, 2], "breast")
    report = assess(found)
    assert list(report.levels) == ["patient", "breast"]
    assert report.levels["patient"].summary["n"] == 3
    assert report.levels["patient"].summary["AUC"] == 0.5
    assert "of 3 patients" in report.levels["patient"].verdict
    assert report.levels["breast"].predictions.unit == "patient"
    alone = Predictions([0, 1], [[0.8, 0.2], [0.3, 0.7]], TWO, {"patient": ["a", "b"]})
    assert assess(alone).levels == {}
    assert "Each patient has one image" in assess(alone).verdict


def test_patients_of_many_classes():
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    same = Predictions([0, 0, 2], p, tuple("abc"), {"patient": ["x", "x", "y"]}).per("patient")
    np.testing.assert_allclose(same.probabilities, [[0.4, 0.4, 0.2], [0.1, 0.1, 0.8]])
    mixed = assess(Predictions([0, 1, 2], p, tuple("abc"), {"patient": ["x", "x", "y"]}))
    assert mixed.levels == {}
    assert "images of one patient are of several classes" in mixed.verdict


def test_results_of_all_models_stand_over_the_baselines():
    groups = {"patient": np.arange(60) // 3}
    reports = {f"m{i}": assess(simulated(60, seed=1, skill=i / 2, names=TWO, groups=groups), name="x") for i in (1, 2)}
    table = results_table(reports)
    largest = TWO[np.bincount(reports["m1"].predictions.labels).argmax()]
    assert table["model"].tolist()[:4] == ["m1", "m2", f"always '{largest}'", "random, by class frequency"]
    assert table["level"].tolist() == ["image"] * 4 + ["patient"] * 4
    assert table["n"].tolist() == [60] * 4 + [20] * 4
    row = reports["m2"].metrics.loc["AUC"]
    assert table.loc[1, ["AUC", "AUC low", "AUC high"]].tolist() == row[["value", "low", "high"]].tolist()
    assert table.loc[2, "AUC"] == 0.5
    text = results_table(reports, as_text=True)
    assert text.loc[1, "AUC"] == f"{row['value']:.2f} [{row['low']:.2f} to {row['high']:.2f}]"
    assert text.loc[2, "AUC"] == "0.50"


@pytest.mark.parametrize(
    ("skill", "scale", "n", "said"),
    [
        (0.0, 3.0, 80, "its probabilities are too extreme, or carry no information"),
        (-2.0, 1.0, 80, "its probabilities point the wrong way"),
        (1.0, 3.0, 800, "its probabilities are too extreme."),
    ],
)
def test_slopes_in_words(skill, scale, n, said):
    found = simulated(n, skill=skill, seed=2)
    sharper = special.softmax(scale * np.log(found.probabilities), axis=1)
    report = assess(Predictions(found.labels, sharper, TWO))
    assert said in report.verdict, report.verdict


def test_plurals():
    one = assess(Predictions([0, 0, 1], [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], TWO))
    assert "There is only 1 image of 'malignant'" in one.verdict
    for missing, said in ((6, "or 1 more class:"), (7, "or 2 more classes:")):
        p = np.eye(missing + 2)[[0, 1, 0]]
        assert said in assess(Predictions([0, 1, 0], p, tuple("abcdefghi"[: missing + 2]))).verdict


def test_the_legend_of_a_named_class_among_three():
    bars = reliability({"m": assess(simulated(60, 3), positive="b")}).axes[1]
    assert [t.get_text() for t in bars.get_legend().get_texts()] == ["right", "not right"]
    bars = reliability({"m": assess(simulated(60, names=TWO))}).axes[1]
    assert [t.get_text() for t in bars.get_legend().get_texts()] == ["'malignant'", "not 'malignant'"]


# Degenerate cases ----------------------------------------------------------------------------------------------------


def test_one_class_only():
    report = assess(Predictions([1, 1, 1], [[0.4, 0.6], [0.7, 0.3], [0.2, 0.8]], TWO))
    assert report.summary["accuracy"] == pytest.approx(2 / 3)
    assert report.summary[["AUC", "average precision", "specificity"]].isna().all()
    assert report.operating_points is None
    assert not report.beats_chance
    assert not report.beats_majority
    assert "All are 'malignant'" in report.verdict
    assert "this says nothing of its skill" in report.verdict


def test_one_image():
    report = assess(Predictions([0], [[0.9, 0.1]], TWO))
    assert report.summary["accuracy"] == 1
    assert report.metrics.loc["accuracy", "low"] == pytest.approx(0.2065, abs=1e-4)
    assert not report.beats_chance


def test_perfect_separation():
    labels = np.arange(20) % 2
    report = assess(Predictions(labels, np.stack([1 - labels, labels], axis=1), TWO))
    row = report.metrics.loc["AUC"]
    assert (row["value"], row["low"], row["high"]) == (1, pytest.approx(0.025 ** (1 / 10)), 1)
    assert report.beats_chance
    assert report.beats_majority
    assert report.metrics.loc["sensitivity", "low"] == pytest.approx(bootstrap.wilson(10, 10, 0.95)[0])
    assert "every image is ranked right; the interval is what" in report.verdict
    three = assess(Predictions(np.arange(9) % 3, np.eye(3)[np.arange(9) % 3], tuple("abc")))
    assert "every image is ranked right; it has no interval." in three.verdict
    assert report.calibration["slope"].isna().all()


def test_constant_answers():
    report = assess(Predictions([0] * 30 + [1] * 10, np.tile([0.75, 0.25], (40, 1)), TWO))
    assert report.summary["AUC"] == 0.5
    assert report.summary["MCC"] == 0
    assert report.summary["average precision"] == 0.25
    assert report.calibration["ECE"].iloc[0] == 0
    assert not report.beats_majority
    assert "It gives one answer to every image: 'benign'." in report.sentences
    assert "no more than always saying 'benign'" in report.verdict
    assert "AUC 0.50: it gives every image the same probability, which ranks nothing." in report.verdict


def test_a_class_without_images_and_one_never_named():
    p = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.5, 0.3, 0.2]])
    report = assess(Predictions([0, 0, 1, 1], p, tuple("abc")))
    assert "No image is 'c': means are over the other classes." in report.notes
    assert report.summary["balanced accuracy"] == 0.5
    assert report.metrics.loc["balanced accuracy", "random"] == 0.5
    assert not report.beats_chance
    assert np.isnan(report.class_intervals.loc["c", "AUC"])
    three = assess(simulated(50, 3))
    assert three.metrics["value"].notna().all()


def test_a_model_with_more_classes_than_the_data():
    p = np.array([[0.7, 0.2, 0.1, 0], [0.1, 0.2, 0.6, 0.1], [0.2, 0.7, 0.1, 0], [0.1, 0.2, 0, 0.7]])
    report = assess(Predictions([0, 0, 1, 1], p, TWO))
    assert report.confusion.columns.tolist() == [*TWO, "(other classes)"]
    assert report.confusion.to_numpy().tolist() == [[1, 0, 1], [0, 1, 1]]
    assert report.confusion.to_numpy().sum() == 4
    assert report.summary["accuracy"] == 0.5
    assert "knows 2 more classes than the data: 2 of 4 answers name one and count as wrong" in report.verdict


@pytest.mark.parametrize(
    ("labels", "probabilities", "match"),
    [
        ([0, 1], [[0.5, 0.5], [np.nan, 0.5]], "1 of 2 images are NaN"),
        ([0, 1], [[2.0, -1.0], [0.5, 0.5]], "give probabilities, not logits"),
        ([0, 1], [[0.5], [0.2]], "knows fewer classes than the data"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], r"integers in 0\.\.1"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], r"labels must be \(n,\)"),
        ([], np.zeros((0, 2)), "there are no images"),
    ],
)
def test_bad_predictions(labels, probabilities, match):
    with pytest.raises(ValueError, match=match):
        Predictions(labels, probabilities, TWO)


def test_bad_arguments():
    found = simulated(20)
    with pytest.raises(ValueError, match="n_resamples=100; at least 1000"):
        assess(found, n_resamples=100)
    with pytest.raises(ValueError, match=r"confidence=95; expected a number between 0 and 1"):
        assess(found, confidence=95)
    with pytest.raises(ValueError, match="combine='median'; choose one of max, mean"):
        assess(found, combine="median")
    with pytest.raises(ValueError, match="patient has 1 entries for 20 images"):
        Predictions(found.labels, found.probabilities, found.class_names, {"patient": ["a"]})
    with pytest.raises(ValueError, match="validation has the classes"):
        assess(found, simulated(20, names=TWO))
    with pytest.raises(ValueError, match="level='breast' is unknown; known: none"):
        found.per("breast")


# From a model --------------------------------------------------------------------------------------------------------


def pictures(images, **more):
    return ImageDataset(images.astype(np.uint8), [0, 1, 2, 0, 1], tuple("abc"), list("vwxyz"), **more)


def test_report_of_a_model(models, images):
    model = models["flat softmax"]
    ds = pictures(images, split="test", patients=list("ppqrs"))
    report = classification_report(model, ds, val_ds=pictures(images), name="flat", positive="c")
    np.testing.assert_allclose(report.probabilities, xai.predict(model, ds.images, probabilities=True), atol=1e-6)
    assert (report.name, report.split, report.predictions.unit) == ("flat", "test", "patient")
    assert report.predictions.ids == ds.ids
    assert report.operating_points["chosen on"].tolist() == ["validation"] * 2
    assert np.isfinite(report.temperature) != ("The validation images fix no temperature" in report.verdict)
    with pytest.raises(ValueError, match="is empty: there is nothing to report on"):
        classification_report(model, ds.take(0))
    narrow = ImageDataset(ds.pixels, ds.labels, tuple("abcd"), ds.ids)
    with pytest.raises(ValueError, match="3 columns for 4 classes"):
        classification_report(model, narrow)


def test_patients_and_breasts_of_a_data_set(images):
    patients, sides = list("ppppq"), ["L", "L", "R", "R", "L"]
    views = pd.DataFrame({"side": sides, "view": ["CC", "MLO", "CC", "MLO", "CC"]})
    ds = pictures(images, patients=patients, metadata=views)
    assert groups_of(ds) == {"patient": patients, "breast": ["p L", "p L", "p R", "p R", "q L"]}
    assert list(groups_of(pictures(images, patients=patients, metadata=views[["side"]]))) == ["patient", "side"]
    unknown = views.assign(side=["L", "", "R", "R", "L"])
    assert list(groups_of(pictures(images, patients=patients, metadata=unknown))) == ["patient"]
    assert groups_of(pictures(images, metadata=views)) == {}


# Comparison ----------------------------------------------------------------------------------------------------------


def naive_delong(positive, scores):
    """DeLong's covariance from the definition: every pair of a positive and a negative."""
    v10, v01 = [], []
    for s in scores:
        a, b = s[positive][:, None], s[~positive][None, :]
        order = (a > b) + 0.5 * (a == b)
        v10.append(order.mean(axis=1))
        v01.append(order.mean(axis=0))
    return np.mean(v10, axis=1), np.cov(v10) / positive.sum() + np.cov(v01) / (~positive).sum()


@given(SEEDS)
def test_delong_by_midranks_is_delong_by_pairs(seed):
    positive, first = scored(seed)
    positive[:4] = [True, True, False, False]
    rng = np.random.default_rng(seed)
    scores = np.stack([first, np.round(first + rng.normal(0, 0.3, len(first)), 1), rng.random(len(first))])
    auc, covariance = cmp.delong(positive, scores)
    expected, expected_covariance = naive_delong(positive, scores)
    np.testing.assert_allclose(auc, expected)
    np.testing.assert_allclose(covariance, expected_covariance, atol=1e-12)
    # A patient with twice the same image is worth one image.
    twice = np.repeat(np.arange(len(first)), 2)
    clustered = cmp.delong(positive[twice], scores[:, twice], twice)[1]
    np.testing.assert_allclose(clustered, covariance, atol=1e-12)


def test_patients_with_both_classes_by_simulation():
    """Obuchowski's variance is that of the AUC over new samples of patients, of whom most images are of one class and
    share a shift; that of images alone is too small by half."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 4)
    aucs, variances, naive = [], [], []
    for _ in range(300):
        positive = rng.random(240) < np.where(rng.random(60) < 0.5, 0.9, 0.1)[patients]
        scores = rng.normal(size=240) + positive + 1.5 * rng.normal(size=60)[patients]
        auc, variance = cmp.delong(positive, scores[None], patients)
        aucs.append(auc[0])
        variances.append(variance[0, 0])
        naive.append(cmp.delong(positive, scores[None])[1][0, 0])
    assert np.mean(variances) == pytest.approx(np.var(aucs), rel=0.15)
    assert np.mean(naive) < 0.6 * np.var(aucs)


def test_macro_auc_covariance_is_delongs_for_two_classes():
    found = simulated(300, seed=1)
    both = np.stack([found.probabilities, simulated(300, seed=1, skill=0.3).probabilities])
    auc, covariance = cmp.macro_auc_covariance(found.labels, both)
    expected, expected_covariance = cmp.delong(found.labels == 1, both[:, :, 1])
    np.testing.assert_allclose(auc, expected)
    np.testing.assert_allclose(covariance, expected_covariance, rtol=0.01)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (12, 3), (40, 10), (30, 30)])
def test_mcnemar(b, c):
    right_a = np.array([True] * b + [False] * c + [True] * 7)
    right_b = np.array([False] * b + [True] * c + [True] * 7)
    found = cmp.mcnemar(right_a, right_b)
    exact = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    mid_p = exact - stats.binom.pmf(b, b + c, 0.5) if b != c else 1.0
    assert (found["only_a"], found["only_b"]) == (b, c)
    assert found["p"] == pytest.approx(exact if b + c < 25 else mid_p)
    assert found["test"] == ("McNemar, exact" if b + c < 25 else "McNemar, mid-p")


def test_sign_flips_of_patients_are_exact():
    rng = np.random.default_rng(1)
    units = np.repeat(np.arange(8), 4)
    right = rng.random((2, 32)) < [[0.8], [0.5]]
    found = cmp.mcnemar(*right, units)
    d = np.bincount(units, right[0].astype(float) - right[1])
    sums = [abs(np.dot(signs, d)) for signs in product((-1, 1), repeat=8)]
    assert found["p"] == pytest.approx(np.mean(np.array(sums) >= abs(d.sum()) - 1e-9))
    assert found["test"] == "sign flips of patients, exact"


def test_accuracy_differences_of_images_are_never_certain():
    """Bonett & Price by hand: 12 and 3 discordant of 100, and none of 50."""
    a, b = np.arange(100) < 92, (np.arange(100) >= 12) & (np.arange(100) < 95)
    low, high = cmp._accuracy_gap(a, b, np.arange(100), 1.959964)
    assert ((a & ~b).sum(), (b & ~a).sum()) == (12, 3)
    half = 1.959964 * np.sqrt((17 / 102 - (9 / 102) ** 2) / 102)
    assert (low, high) == pytest.approx((9 / 102 - half, 9 / 102 + half))
    same = compare_models({"a": simulated(50), "b": simulated(50)}).set_index("quantity")
    assert same.loc["accuracy", "low"] == -same.loc["accuracy", "high"] < -0.02
    assert same.loc["AUC", ["low", "high"]].isna().all()


def test_cochran_and_holm():
    rng = np.random.default_rng(0)
    right = rng.random((2, 200)) < [[0.8], [0.7]]
    b, c = (right[0] & ~right[1]).sum(), (~right[0] & right[1]).sum()
    q, p = cmp.cochran_q(right)
    assert q == pytest.approx((b - c) ** 2 / (b + c))  # of two models it is McNemar's without correction
    assert p == pytest.approx(stats.chi2.sf(q, 1))
    assert np.isnan(cmp.cochran_q(np.ones((3, 5), bool))).all()
    np.testing.assert_allclose(cmp.holm([0.01, 0.04, 0.03, np.nan]), [0.03, 0.06, 0.06, np.nan])
    assert cmp.holm([0.6, 0.5]).tolist() == [1, 1]


def test_compare_models():
    patients = {"patient": np.arange(400) // 2}
    models = {f"m{i}": simulated(400, skill=s, seed=5, groups=patients) for i, s in enumerate((2.0, 1.9, 0.3))}
    table = compare_models(models)
    assert table["quantity"].tolist() == ["AUC"] * 3 + ["accuracy"] * 4
    assert table["test"].iloc[-1] == "Cochran's Q, images as units"
    assert table["p"].iloc[-1] < 1e-6
    assert set(table["unit"].iloc[:-1]) == {"patient"}
    assert (table["n"].iloc[:-1] == 200).all()
    pair = table.set_index(["a", "b", "quantity"])
    assert pair.loc[("m0", "m2", "AUC"), "p_holm"] < 1e-6
    far = pair.loc[("m0", "m2", "accuracy")]
    assert far["low"] < far["difference"] < far["high"]
    assert far["difference"] == pytest.approx(far["value_a"] - far["value_b"])
    assert (table["p_holm"].iloc[:-1] >= table["p"].iloc[:-1]).all()
    same = compare_models({"a": models["m0"], "b": models["m0"]})
    assert same["p"].tolist() == [1, 1]
    assert same["difference"].tolist() == [0, 0]
    assert same[["low", "high"]].isna().all(axis=None)  # no difference on any unit is not certainty
    assert isinstance(compare_models({"a": simulated(90, 3), "b": simulated(90, 3, skill=3)}), pd.DataFrame)
    with pytest.raises(ValueError, match="'b' and 'a' were not given the same images"):
        compare_models({"a": simulated(30, seed=0), "b": simulated(30, seed=1)})
    with pytest.raises(ValueError, match="two or more models"):
        compare_models({"a": models["m0"]})
