"""`benchmarks/thesis.py`: what it measures on small maps by hand, as the metric has it, and what its page says."""

import numpy as np
import pandas as pd
import pytest
import thesis
import thesis_page
from thesis_page import PAIR, VARIANTS

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset

HALVES = np.zeros((8, 8, 3), np.float32)
HALVES[:, 4:] = 200


def photographs(n: int = 3, side: int = 32) -> ImageDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)
    return ImageDataset(pixels, np.arange(n) % 2, ("a", "b"), [f"image {i}" for i in range(n)])


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, activation="gelu"), keras.layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((32, 32, 3)), *layers, keras.layers.Dense(2)])


def test_in_the_dark():
    dark = (HALVES[..., 0] == 0).astype(np.float32)
    assert thesis.in_the_dark(dark, HALVES) == 1
    assert thesis.in_the_dark(-dark, HALVES) == 0
    one = np.zeros((8, 8), np.float32)
    one[0, 0] = 1  # of 32 dark pixels one is above all bright ones, the others tie
    assert thesis.in_the_dark(one, HALVES) == pytest.approx((1 + 31 * 0.5) / 32)
    assert np.isnan(thesis.in_the_dark(np.ones((8, 8)), HALVES))
    assert np.isnan(thesis.in_the_dark(dark, np.zeros_like(HALVES)))


def test_in_corners():
    assert thesis.in_corners(np.ones((8, 12))) == pytest.approx(0.25)
    corner, middle = np.zeros((2, 8, 8))
    corner[7, 1], middle[3, 4] = 2, 2
    assert (thesis.in_corners(corner), thesis.in_corners(middle)) == (1, 0)
    assert np.isnan(thesis.in_corners(np.zeros((8, 8))))


def test_images_are_taken_from_all_classes_in_turn():
    assert thesis.in_turns(np.array([0, 0, 1, 1, 1, 2])).tolist() == [5, 2, 0, 3, 1, 4]


@pytest.mark.parametrize("method", ["vanilla_gradients", "gradients_x_inputs"])
def test_maps_are_compared_as_the_metric_does(model, method):
    one = photographs().take(1)
    images = thesis.variants(one.images, seed=0)
    maps = xai.explain(model, images, [1] * 7, method)
    table = thesis.of_maps(method, maps, images, 0).set_index(["measure", "transform"])["value"]
    for reading, name in (("magnitude", "spearman"), ("signed", "spearman_signed")):
        if name not in table.index:
            assert method == "vanilla_gradients"
            continue
        for transform in VARIANTS:
            options = {"transform_consistency": {"transform": transform}}
            how = {"parameters": options, "method": method, "reading": reading}
            known = xai.evaluate(model, one, maps[:1], ["transform_consistency"], 1, **how)["value"].item()
            assert table[name, transform] == pytest.approx(known, abs=1e-3), transform


def test_a_map_that_turns_with_its_image_stays_and_one_that_does_not_moves():
    images = thesis.variants(photographs().take(1).images, seed=0)
    maps = images.mean(axis=-1)
    value = thesis.of_maps("any", maps, images, 0).set_index(["measure", "transform"])["value"]
    assert value["spearman", "rotate_180"] == pytest.approx(1)
    assert value["ssim", "rotate_180"] == pytest.approx(1)
    still = np.repeat(maps[:1], 7, axis=0)
    value = thesis.of_maps("any", still, images, 0).set_index(["measure", "transform"])["value"]
    assert value["spearman", "log"] == pytest.approx(1)
    assert abs(value["spearman", "rotate_180"]) < 0.2


def test_a_later_run_adds_images_and_keeps_what_is_there(tmp_path):
    ds, asked = photographs(), []

    def make(images, i):
        asked.append(i)
        return images.mean(axis=-1)

    thesis.measure(tmp_path, "edges", ds.take(2), make)
    thesis.measure(tmp_path, "edges", ds, make)
    thesis.measure(tmp_path, "edges", ds, make)
    assert asked == [0, 1, 2]
    n, rows, maps = thesis._measured(tmp_path, "edges")
    assert (n, len(maps)) == (3, 3)
    assert np.array_equal(maps[2], ds.images[2].mean(axis=-1))
    pairs = rows[rows["transform"] == PAIR]
    assert pairs["image_id"].nunique() == 3  # the three pairs of three images, measured again when the third came
    assert not rows.duplicated(["transform", "measure", "image_id"]).any()


def table_of(values: dict[str, list[float]]) -> pd.DataFrame:
    """Rows of some images under each change: a method's value of the first, of the second, ..."""
    rows = []
    for method, of_images in values.items():
        n = range(len(of_images))
        rows += [(method, t, f"i{i}", "spearman", v) for t in VARIANTS for i, v in enumerate(of_images)]
        rows += [(method, t, f"i{i}", "ssim", 0.5) for t in VARIANTS for i in n]
        rows += [(method, PAIR, "i0 and i1", m, 0.25) for m in ("spearman", "ssim")]
        rows += [(method, "original", f"i{i}", m, 0.5) for i in n for m in ("dark", "corners")]
        rows += [(method, "original", "i0", "dark_signed", 0.7)]
    for measure in ("class_kept", "p_moved"):
        rows += [("answers", t, f"i{i}", measure, float(i)) for i in range(2) for t in VARIANTS]
    table = pd.DataFrame(rows, columns=["method", "transform", "image_id", "measure", "value"])
    return table.assign(patient_id=table["image_id"], cell="mnist_net", dataset="mnist", model="net")


def test_tables():
    rows = table_of({"grad_cam": [0.2, 0.6], "vanilla_gradients": [np.nan, 0.3], "centre": [1.0, 1.0]})
    found = thesis_page.overview(rows, "spearman", ["mnist_net"]).set_index("method")
    assert list(found.index) == ["vanilla_gradients", "grad_cam", "centre"]
    assert found["mnist_net"].to_dict() == {
        "vanilla_gradients": "0.30",
        "grad_cam": "0.40 [0.20, 0.60]",
        "centre": "1.00 [1.00, 1.00]",
    }
    assert found["images"].to_dict() == {"vanilla_gradients": "1", "grad_cam": "2", "centre": "2"}
    assert thesis_page.by_change(rows, "spearman").set_index("method")[PAIR]["grad_cam"] == "0.25"
    assert thesis_page.of_the_shown(rows, ["mnist_net"])["mnist_net"].tolist()[1:] == [0.2, 1.0]
    assert thesis_page.images_of(rows, "mnist_net") == 0  # methods without any


def test_a_cell_of_few_images_has_no_tables_and_is_named():
    facts = {"mnist_net": {"test": 100, "right": 96, "pixels": 224, "drawn": True}}
    for n, enough in ((2, False), (thesis_page.LEAST, True)):
        rows = table_of({name: [np.nan, *np.linspace(0.1, 0.9, n - 1)] for name in thesis_page.ROWS})
        text = thesis_page.page(rows, facts, ["mnist_net", "busi_net"])
        assert f"| mnist_net | 224 | 100 | 96.0 [90.2, 98.4] | {n} (" in text
        assert "(../docs/thesis/mnist_net.webp)" in text
        assert f"images or more: {'' if enough else 'mnist_net; '}busi_net." in text
        assert ("vanilla_gradients of mnist_net 6" in text) == enough  # comparisons without a value are told
        assert ("| mnist_net | 0.50, 0.50 |" in text) == enough
    assert thesis_page.cell_page(rows, "mnist_net").count("\n## ") == 2


def test_a_method_of_few_images_has_no_value_and_is_named():
    facts = {"mnist_net": {"test": 100, "right": 96, "pixels": 224, "drawn": True}}
    n = {name: 3 if name in ("occlusion", "score_cam") else thesis_page.LEAST for name in thesis_page.ROWS}
    rows = table_of({name: np.linspace(0.1, 0.9, k) for name, k in n.items()})
    text = thesis_page.page(rows, facts, ["mnist_net"])
    assert "**Not yet measured** of 5 images or more: occlusion, score_cam of mnist_net." in text
    tables = text.partition("## Do maps stay?")[2]
    assert "| grad_cam | 0.50" in tables
    assert "| score_cam |" not in tables
