"""How well a classifier does: figures of merit against scikit-learn, brute force and the thesis' own confusions."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_predictions import THESIS, TWO, as_confusion, simulated
from sklearn import metrics

import xaiutils as xai
from xaiutils.classification import Predictions, assess, curves, mean_auc, results_table
from xaiutils.datasets import ImageDataset
from xaiutils.plots.classification import reliability
from xaiutils.statistics.delong import delong
from xaiutils.statistics.proportions import wilson
from xaiutils.training import classification_report
from xaiutils.training.predictions import groups_of

pytestmark = pytest.mark.filterwarnings("error")

SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", THESIS)
def test_the_thesis_numbers(name):
    confusion, accuracy, sensitivity, balanced, mcc = THESIS[name]
    report = assess(as_confusion(confusion), name=name)
    assert report.confusion.to_numpy().tolist() == confusion
    for metric, expected in (("accuracy", accuracy), ("sensitivity", sensitivity)):
        assert report.metrics.loc[metric, ["value", "low", "high"]].tolist() == pytest.approx(expected, abs=6e-4)
    assert report.summary["balanced accuracy"] == pytest.approx(balanced, abs=6e-4)
    assert report.summary["MCC"] == pytest.approx(mcc, abs=0.006)


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


def test_the_bootstrap_is_as_wide_as_delong():
    found = simulated(400, seed=3)
    row = assess(found, n_resamples=2000).metrics.loc["AUC"]
    auc, variance = delong(found.labels == 1, found.probabilities[None, :, 1])
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


def test_one_class_only():
    report = assess(Predictions([1, 1, 1], [[0.4, 0.6], [0.7, 0.3], [0.2, 0.8]], TWO))
    assert report.summary["accuracy"] == pytest.approx(2 / 3)
    assert report.summary[["AUC", "average precision", "specificity"]].isna().all()
    assert report.operating_points is None
    assert not report.beats_chance
    assert not report.beats_majority
    assert "All are 'malignant'" in report.verdict


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
    assert report.metrics.loc["sensitivity", "low"] == pytest.approx(wilson(10, 10, 0.95)[0])
    assert report.calibration["slope"].isna().all()


def test_constant_answers():
    report = assess(Predictions([0] * 30 + [1] * 10, np.tile([0.75, 0.25], (40, 1)), TWO))
    assert report.summary["AUC"] == 0.5
    assert report.summary["MCC"] == 0
    assert report.summary["average precision"] == 0.25
    assert report.calibration["ECE"].iloc[0] == 0
    assert not report.beats_majority


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


def test_the_legend_of_a_named_class_among_three():
    bars = reliability({"m": assess(simulated(60, 3), positive="b")}).axes[1]
    assert [t.get_text() for t in bars.get_legend().get_texts()] == ["right", "not right"]
    bars = reliability({"m": assess(simulated(60, names=TWO))}).axes[1]
    assert [t.get_text() for t in bars.get_legend().get_texts()] == ["'malignant'", "not 'malignant'"]
