"""What the verdict claims of a classifier, and what it must not: the facts, and that the text holds them."""

import numpy as np
import pytest
from scipy import special
from simulated_predictions import THESIS, TWO, as_confusion, simulated

from xaiutils.classification import Predictions, assess
from xaiutils.classification.verdict import verdict_facts

pytestmark = pytest.mark.filterwarnings("error")


def test_a_vit_that_finds_one_cancer_of_26_is_not_praised_for_72_percent():
    report = assess(as_confusion(THESIS["INbreast ViT"][0]), name="ViT")
    assert not report.beats_majority
    assert not report.beats_chance
    facts = verdict_facts(report)
    assert (facts["n_right"], facts["majority"]["n"], facts["majority"]["beaten"]) == (63, 62, False)
    positive = facts["positive"]
    assert (positive["name"], positive["misses"], positive["n"], positive["alarms"]) == ("malignant", 25, 26, 0)
    assert not positive["balanced"]
    assert (positive["said"], positive["truly"]) == ("1.1 %", "29.5 %")
    assert facts["rare"] == {"name": "malignant", "n": 26}
    for said in ("ViT", "63 of 88", "71.6 %", "no better than the majority", "25 of 26", "towards missing", "1.1 %"):
        assert said in report.verdict, said
    assert "That is better" not in report.verdict


def test_the_thesis_other_models():
    below = verdict_facts(assess(as_confusion(THESIS["INbreast EfficientNet"][0])))
    assert (below["n_right"], below["majority"]["n"], below["majority"]["beaten"]) == (60, 62, False)
    within = assess(as_confusion(THESIS["CBIS ViT"][0]))
    assert (verdict_facts(within)["n_right"], verdict_facts(within)["majority"]["n"]) == (390, 386)
    assert not within.beats_majority
    better = assess(as_confusion(THESIS["CBIS EfficientNet"][0]))
    assert better.beats_majority
    assert better.beats_chance
    assert "better than always saying 'benign'" in better.verdict


def test_skill_that_accuracy_hides_is_told():
    """Nine of ten cancers found, at the price of false alarms: less accurate than saying 'benign', yet no guesswork."""
    report = assess(as_confusion([[700, 200], [10, 90]]))
    assert report.summary["accuracy"] < report.summary["majority accuracy"]
    assert report.beats_chance
    assert not report.beats_majority
    positive = verdict_facts(report)["positive"]
    assert positive["alarms"] > positive["misses"]
    assert not positive["balanced"]
    for said in (
        "By accuracy it does no better",
        "does distinguish",
        "false alarms of 'malignant'",
        "29.0 %",
        "10.0 %",
    ):
        assert said in report.verdict, said
    assert verdict_facts(assess(as_confusion([[68, 11], [13, 24]])))["positive"]["balanced"]


def test_a_good_ranking_with_bad_answers_is_told():
    """Probabilities that never reach 0.5, but are in order."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    p = 0.2 + 0.1 * labels + rng.normal(0, 0.05, 200)
    report = assess(Predictions(labels, np.stack([1 - p, p], axis=1), TWO))
    facts = verdict_facts(report)
    assert not report.beats_chance
    assert facts["only_answer"] == "benign"
    assert facts["ranking"] == "better"
    assert facts["calibration"]["slope_kind"] == "timid"
    assert "another threshold" in report.verdict
    assert report.summary["AUC"] > 0.85


@pytest.mark.parametrize(
    ("skill", "scale", "n", "kind"),
    [(0.0, 3.0, 80, "extreme or empty"), (-2.0, 1.0, 80, "reversed"), (1.0, 3.0, 800, "extreme"), (1.0, 1.0, 80, "")],
)
def test_slopes(skill, scale, n, kind):
    found = simulated(n, skill=skill, seed=2)
    sharper = special.softmax(scale * np.log(found.probabilities), axis=1)
    assert verdict_facts(assess(Predictions(found.labels, sharper, TWO)))["calibration"]["slope_kind"] == kind


def test_rankings():
    found = simulated(80, skill=2.0, seed=2)
    p = found.probabilities
    constant = np.full((80, 2), 0.5)
    for probabilities, said in (
        (p, "better"),
        (1 - p, "reversed"),
        (constant, "constant"),
        (np.eye(2)[found.labels], "perfect"),
    ):
        assert verdict_facts(assess(Predictions(found.labels, probabilities, TWO)))["ranking"] == said
    three = assess(Predictions(np.arange(9) % 3, np.eye(3)[np.arange(9) % 3], tuple("abc")))
    assert verdict_facts(three)["ranking"] == "perfect, no interval"
    assert verdict_facts(three)["worst"]["n_right"] == 3
    assert "makes no error" in three.verdict
    assert verdict_facts(assess(simulated(60, skill=0.0, seed=3)))["ranking"] == "chance"


def test_classes_that_are_rare_missing_or_never_named():
    one = assess(Predictions([0, 0, 1], [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], TWO))
    assert verdict_facts(one)["rare"] == {"name": "malignant", "n": 1}
    assert "1 image of 'malignant'" in one.verdict
    for missing, said in ((6, "or 1 more class:"), (7, "or 2 more classes:")):
        p = np.eye(missing + 2)[[0, 1, 0]]
        assert said in assess(Predictions([0, 1, 0], p, tuple("abcdefghi"[: missing + 2]))).verdict
    never = verdict_facts(assess(Predictions([0, 1, 2], np.eye(3)[[0, 1, 1]], tuple("abc"))))
    assert (never["never_named"], never["only_answer"]) == (["c"], "")
    assert never["worst"] == {"name": "c", "n_right": 0, "n": 1, "called": "b", "n_called": 1}


def test_one_answer_is_told_where_there_are_several_truths():
    p = np.tile([0.9, 0.1], (6, 1))
    assert verdict_facts(assess(Predictions([0, 0, 0, 1, 1, 1], p, ("a", "b"))))["only_answer"] == "a"
    assert verdict_facts(assess(Predictions([0] * 6, p, ("a", "b"))))["only_answer"] == ""


def test_each_sentence_is_one_line_whatever_the_names_hold():
    names = ("line\nend", "tab\tand \r return")
    report = assess(Predictions(*[getattr(simulated(40), k) for k in ("labels", "probabilities")], names), name="a\nb")
    assert "a b is right on" in report.sentences[0]
    assert not any("\n" in s or "\r" in s for s in report.sentences)
    assert all(s.endswith((".", "?")) for s in report.sentences)
