"""Names of classes: which of two is looked for, which are no texts, and what a report says of it."""

import numpy as np
import pytest

from xaiutils.class_names import check_class_names, doubtful_names, positive_class, says_disease, says_healthy
from xaiutils.classification import Predictions, assess, compare_models, model_card
from xaiutils.datasets import ImageDataset


@pytest.mark.parametrize(
    ("ill", "well"),
    [
        ("malignant", "benign"), ("Bösartig", "Gutartig"), ("abnormal", "normal"), ("ABNORMAL", "zz_normal"),
        ("malignant", "non-malignant"), ("cancer", "not_cancer"), ("tumor", "notumor"), ("tumour", "no tumour"),
        ("positive", "negative"), ("sick", "well"), ("PNEUMONIA", "x-ray normal"), ("lesion", "without lesion"),
        ("maligno", "benigno"), ("pathological", "unremarkable"), ("disease", "healthy"), ("krank", "gesund"),
        ("cancer", "cancer-free"), ("covid positive", "covid negative"), ("a", "normal"), ("not normal", "normal"),
        ("mass", "nothing"), ("MalignantMass", "NonMalignantMass"), ("effusion", "other"),
        ("malignant", "benign without callback"), ("ill", "well"), ("AD", "CN"), ("true", "false"), ("yes", "no"),
        ("Tumor", "Tumorfrei"), ("cancer", "cancerfree"),
        ("case", "control"), ("Ill", "Well"),
    ],
)  # fmt: skip
def test_names_say_which_class_is_looked_for(ill, well):
    for names in ((ill, well), (well, ill)):
        index, said = positive_class(names)
        assert names[index] == ill
        assert f"'{ill}'" in said
        assert "positive_class=" in said


def test_where_no_name_tells_it_is_the_last():
    for names in (("cat", "dog"), ("malignant", "lesion"), ("normal", "benign"), ("0", "1"), ("left", "right")):
        index, said = positive_class(names)
        assert index == 1
        assert f"'{names[1]}', the last one, since no name tells; positive_class= names another" in said
    assert positive_class(("a", "b", "malignant")) == (None, "")
    assert positive_class(("malignant", "benign"), "benign") == (1, "The positive class is 'benign', as given.")
    assert positive_class(("a", "b", "c"), "a")[0] == 0
    with pytest.raises(ValueError, match="positive_class='maligant' is not one of the classes 'malignant', 'benign'"):
        positive_class(("malignant", "benign"), "maligant")


def test_words_of_health():
    assert [says_disease(n) for n in ("sinus", "massive", "cat", "normal cancer", "1")] == [None] * 5
    assert [says_healthy(n) for n in ("normal", "No Finding", "healthy", "no lesion")] == [True] * 4
    assert [says_healthy(n) for n in ("benign", "not cancer", "negative", "abnormal", "not normal", "x")] == [False] * 6


def test_names_are_texts():
    assert check_class_names(["no", 1, "1.0"]) == ["no", "1", "1.0"]
    for wrong in ([False], [None], [1.0]):
        with pytest.raises(TypeError, match="names are written in quotes"):
            check_class_names(wrong)
    with pytest.raises(TypeError, match="is one text"):
        check_class_names("benign")
    with pytest.raises(ValueError, match="names a class twice"):
        check_class_names(["a", "a"])


def test_doubtful_names():
    names = ["a", "A ", "b;c", "d/e", "f, g", "h|i", "-/-", "1", "1.0"]
    said = doubtful_names(names, [9, 9, 9, 9, 9, 9, 9, 9, 4])
    assert said[0].startswith("5 classes look like several labels in one, such as 'b;c'")
    assert said[1].startswith("1 class has fewer than 5 images: '1.0' (4)")
    assert "'a' and 'A ' differ only" in said[2]
    assert "'1' and '1.0' differ only" in said[3]
    assert doubtful_names(["benign", "malignant"], [5, 5]) == []


def test_the_report_takes_disease_and_says_so():
    """Of Bösartig and Gutartig the last by the alphabet is the benign one; its sensitivity is not what is meant."""
    labels = np.array([0] * 10 + [1] * 30)
    ill = np.array([0.9] * 8 + [0.2] * 2 + [0.7] * 3 + [0.1] * 27, np.float32)
    found = Predictions(labels, np.stack([ill, 1 - ill], axis=1), ("Bösartig", "Gutartig"))
    report = assess(found, name="m")
    assert report.positive == 0
    assert report.metrics.loc["sensitivity", "value"] == pytest.approx(0.8)
    assert report.metrics.loc["specificity", "value"] == pytest.approx(0.9)
    assert (
        "The positive class is 'Bösartig', whose name speaks of disease; positive_class= names another."
        in report.verdict
    )
    other = assess(found, positive="Gutartig")
    assert other.metrics.loc["sensitivity", "value"] == pytest.approx(0.9)
    assert "The positive class is 'Gutartig', as given." in other.verdict
    ds = ImageDataset(np.zeros((40, 8, 8, 3), np.uint8), labels, found.class_names, [str(i) for i in range(40)])
    assert "The positive class is 'Bösartig'" in model_card(report, {"test": ds})
    table = compare_models({"a": found, "b": Predictions(labels, np.full((40, 2), 0.5, np.float32), found.class_names)})
    auc = table[table["quantity"] == "AUC"].iloc[0]
    assert auc["value_a"] == pytest.approx(report.metrics.loc["AUC", "value"])
