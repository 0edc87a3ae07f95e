"""Tables of several labels, of measured values and of further inputs of a model."""

import numpy as np
import pytest
from PIL import Image

import xaiutils as xai
from xaiutils.datasets import datasheet
from xaiutils.plots import class_balance, image_grid


def table(root, head, rows, n=None, split="all", **options):
    """A table with pictures ``0.png``, ... of which row i says ``rows[i]``."""
    for i in range(len(rows)):
        Image.fromarray(np.full((20, 20), 6 * i + 5, np.uint8)).save(root / f"{i}.png")
    lines = [f"image,{head}", *(f"{i}.png,{row}" for i, row in enumerate(rows))]
    (root / "index.csv").write_text("\n".join(lines))
    return xai.load_dataset("table", split, image_size=16, data_dir=root, **options)


def mask(root, name, rows=slice(4, 12)):
    pixels = np.zeros((20, 20), np.uint8)
    pixels[rows, 4:12] = 255
    (root / "masks").mkdir(exist_ok=True)
    Image.fromarray(pixels).save(root / "masks" / f"{name}.png")


CELLS = ["Mass|Effusion", "No Finding", "Effusion", "no finding", "Mass", "Edema|Mass"]


def test_all_labels_of_a_cell_are_kept(tmp_path):
    ds = table(tmp_path, "label", CELLS, label_separator="|", multi_label=True)
    assert ds.class_names == ("Edema", "Effusion", "Mass")
    assert ds.labels.tolist() == [[0, 1, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1]]
    assert "2 images have 'No Finding', that is none of the labels." in ds.notes
    some = table(tmp_path, "label", CELLS, label_separator="|", multi_label=True, classes=["Mass", "Edema"])
    assert some.labels.tolist() == [[1, 0], [0, 0], [0, 0], [0, 0], [1, 0], [1, 1]]
    with pytest.warns(UserWarning, match="multi_label=true keeps all labels"):
        table(tmp_path, "label", CELLS, label_separator="|", classes=["Mass", "Effusion"])


def test_another_word_for_none(tmp_path):
    ds = table(tmp_path, "label", ["a;b", "normal", "b"], label_separator=";", multi_label=True, no_finding="Normal")
    assert ds.labels.tolist() == [[1, 1], [0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("uncertain", "blank", "labels"),
    [
        ("ignore", "ignore", [[1, -1], [0, 1], [-1, 0], [-1, -1]]),
        ("zeros", "ignore", [[1, 0], [0, 1], [-1, 0], [0, -1]]),
        ("ones", "zeros", [[1, 1], [0, 1], [0, 0], [1, 0]]),
    ],
)
def test_uncertain_and_blank_columns_follow_a_rule_that_is_counted(tmp_path, uncertain, blank, labels):
    rows = ["1.0,-1", "0,1", ",0.0", "u,"]
    ds = table(tmp_path, "A,B", rows, label_columns=["A", "B"], uncertain=uncertain, blank=blank)
    assert ds.labels.tolist() == labels
    word = {"ignore": "unknown", "zeros": "absent", "ones": "present"}
    assert f"2 labels are uncertain (A 1, B 1) and taken as {word[uncertain]}." in ds.notes
    assert f"2 labels are blank (A 1, B 1) and taken as {word[blank]}." in ds.notes
    assert not {"A", "B"} & set(ds.metadata)


def test_each_label_has_its_mask_by_name(tmp_path):
    for name in ("0.png_A", "2.png_B"):
        mask(tmp_path, name)
    rows = ["1,0", "0,0", "1,1", "-1,0"]
    ds = table(tmp_path, "A,B", rows, label_columns=["A", "B"], mask_pattern="masks/{image}_{label}.png")
    assert ds.label_evidence.tolist() == [["known", "empty"], ["empty"] * 2, ["unknown", "known"], ["unknown", "empty"]]
    assert ds.label_masks.any(axis=(2, 3)).tolist() == [[True, False], [False] * 2, [False, True], [False] * 2]
    assert ds.evidence.tolist() == ["known", "empty", "known", "empty"]
    files = ds.files.set_index("kind")["files"]
    assert files["mask"] == 2
    sheet = datasheet({"test": ds})
    assert "Labels: several in one image" in sheet
    assert len(class_balance({"test": ds}).axes) == 1
    assert [a.get_title() for a in image_grid(ds).axes[:4]] == ["A", "none", "A + B", "none"]


def test_a_measured_quantity_needs_no_classes(tmp_path):
    ds = table(tmp_path, "age", ["61.5", "70", "", "44", "52"], value_column="age")
    assert ds.values.tolist() == [61.5, 70, 44, 52]
    assert (ds.class_names, ds.value_name) == (("age",), "age")
    assert ds.labels.tolist() == [0] * 4
    assert ds.skipped == [("2.png", "no 'age' in index.csv")]
    assert "Values: age" in datasheet({"test": ds})
    both = table(tmp_path, "age,label", ["61.5,a", "70,b", "1,a", "44,b", "52,a"], value_column="age")
    assert both.class_names == ("a", "b")
    assert len(both.values) == 5


def test_values_are_split_in_proportion(tmp_path):
    rows = [str(i) for i in range(40)]
    splits = [table(tmp_path, "age", rows, split=split, value_column="age") for split in ("train", "val", "test")]
    assert sorted(np.concatenate([d.values for d in splits]).tolist()) == list(range(40))
    assert splits[2].values.min() < 10
    assert splits[2].values.max() > 29


def test_further_inputs_are_numbers_and_codes(tmp_path):
    rows = ["a,61.5,f", "b,70,m", "a,44,f"]
    ds = table(tmp_path, "label,age,sex", rows, input_columns=["age", "sex"])
    assert ds.inputs["age"].tolist() == [[61.5], [70], [44]]
    assert ds.inputs["sex"].tolist() == [[0], [1], [0]]
    assert "The texts of 'sex' are given as numbers: f 0, m 1." in ds.notes
    one = table(tmp_path, "label,age,sex", rows, input_columns={"clinical": ["sex", "age"]})
    assert one.inputs["clinical"].tolist() == [[0, 61.5], [1, 70], [0, 44]]
    assert one.inputs["clinical"].dtype == np.float32


@pytest.mark.parametrize(
    ("head", "rows", "options", "said"),
    [
        ("A,B", ["1,2", "0,1"], {"label_columns": ["A", "B"]}, "'B' of 0.png is '2'; expected 1, 0, -1 or u"),
        ("A,B", ["1,1"], {"label_columns": ["A", "C"]}, "no column 'C'"),
        ("A,B", ["1,1"], {"label_columns": ["A", "B"], "uncertain": "half"}, "uncertain='half'"),
        ("A,B", ["1,1"], {"label_columns": ["A", "B"], "blank": "ones"}, "blank='ones'"),
        ("A,B", ["1,1"], {"label_columns": ["A", "B"], "classes": ["A"]}, "leave classes and label_separator out"),
        ("label", CELLS, {"multi_label": True}, "multi_label needs label_separator"),
        ("label", CELLS, {"multi_label": True, "label_separator": "|", "one_vs_rest": "Mass"}, "makes two classes"),
        ("label", CELLS, {"multi_label": True, "label_separator": "|", "classes": ["Mess"]}, "did you mean Mass"),
        ("label", ["Mass|No Finding"], {"multi_label": True, "label_separator": "|"}, "correct its cell"),
        ("label", ["No Finding"], {"multi_label": True, "label_separator": "|"}, "names no label beside"),
        ("age", ["61", "old"], {"value_column": "age"}, "'age' of 1.png is 'old'; expected a number"),
        ("age", ["61", "1e400"], {"value_column": "age"}, "expected a number"),
        ("label,age", ["a,1", "b,", "a,"], {"input_columns": ["age"]},
         "2 images have no 'age', which the model takes: 1.png, 2.png"),
        ("label,age", ["a,1", "b,2"], {"input_columns": ["ages"]}, "did you mean age"),
    ],
)  # fmt: skip
def test_what_a_table_cannot_mean_is_refused_by_name(tmp_path, head, rows, options, said):
    with pytest.raises(ValueError, match=said):
        table(tmp_path, head, rows, **options)


def test_a_text_for_the_input_columns_is_refused(tmp_path):
    with pytest.raises(TypeError, match="expected a list of columns"):
        table(tmp_path, "label,age", ["a,1", "b,2"], input_columns="age")


def test_rows_of_one_picture_must_agree(tmp_path):
    table(tmp_path, "A,B", ["1,1", "0,1"], label_columns=["A", "B"])
    (tmp_path / "index.csv").write_text("image,A,B\n0.png,1,1\n0.png,0,1\n1.png,0,0\n")
    with pytest.raises(ValueError, match="has several 'A'"):
        xai.load_dataset("table", "all", image_size=16, data_dir=tmp_path, label_columns=["A", "B"])
