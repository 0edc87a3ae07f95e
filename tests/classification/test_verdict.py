"""What the verdict claims of a classifier, and what it must not."""

import numpy as np
import pytest
from scipy import special
from simulated_predictions import THESIS, TWO, as_confusion, simulated

from xaiutils.classification import Predictions, assess

pytestmark = pytest.mark.filterwarnings("error")


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
    assert "it does distinguish them" in report.verdict
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


def test_one_answer_is_told_where_there_are_several_truths():
    p = np.tile([0.9, 0.1], (6, 1))
    told = "It gives one answer to every image"
    assert told in str(assess(Predictions([0, 0, 0, 1, 1, 1], p, ("a", "b"))).verdict)
    assert told not in str(assess(Predictions([0] * 6, p, ("a", "b"))).verdict)
