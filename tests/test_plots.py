"""Figures: what they show, checked by numbers; and that pyplot's global state is left alone."""

import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from xaiutils import plots
from xaiutils.datasets import ImageDataset, phantom


@pytest.fixture(scope="module")
def ds(images):
    return ImageDataset(images.astype(np.uint8), [0, 1, 1, 0, 1], ("a", "b"), list("vwxyz"), images[..., 0] > 100)


def drawn(figure):
    figure.savefig("/dev/null", format="png")
    return figure


def test_display_range():
    signed = plots.display_range(np.array([-1.0, 4.0]), True)
    assert signed.vmin == -signed.vmax
    ramp = np.linspace(0, 1, 1001)
    limits = plots.display_range(ramp, False)
    assert (limits.vmin, limits.vmax) == (0, pytest.approx(0.99))
    for constant in (0.0, 3.0):
        for kind in (True, False):
            limits = plots.display_range(np.full((4, 4), constant), kind)
            assert limits.vmin < limits.vmax
    spike = np.zeros(10_000)
    spike[5] = 1
    assert plots.display_range(spike, True).vmax == 1
    assert plots.display_range(spike, False).vmax == 1


def test_class_balance_and_grid(ds):
    figure = drawn(plots.class_balance({"train": ds, "test": ds.take(2)}))
    assert [bar.get_height() for bar in figure.axes[0].patches] == [2, 3, 1, 1]
    figure = drawn(plots.image_grid(ds, columns=3))
    assert [a.get_title() for a in figure.axes][:5] == ["a", "b", "b", "a", "b"]


def test_training_curves_mark_the_kept_epoch():
    history = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "loss": [3, 2, 1.0],
            "val_loss": [2, 1, 4.0],
            "accuracy": [0, 0.5, 1],
            "val_accuracy": [0, 1, 0.5],
        }
    )
    figure = drawn(plots.training_curves({"m": history}))
    dot = figure.axes[0].lines[2]
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (2, 1)


def test_confusion_counts_are_written():
    confusion = pd.DataFrame([[5, 1], [0, 2]], index=["a", "b"], columns=["a", "b"])
    figure = drawn(plots.confusion_matrices({"m": confusion, "n": confusion}))
    assert [t.get_text() for t in figure.axes[0].texts] == ["5", "1", "0", "2"]


def test_explanation_and_grid(ds, images):
    maps = images[..., 0] - 100
    figure = drawn(plots.explanation(images[0], maps[0], True, "t", np.array([0.2, 0.8]), ["a", "b"], ds.masks[0]))
    assert figure.axes[1].get_title() == "t"
    rows = ["original", "other"]
    figure = plots.attribution_grid(
        images[:2], {"m": maps[:2]}, {"m": True}, rows, {"m": "Method"}, ds.masks[:2], "title"
    )
    drawn(figure)
    assert figure.axes[0].get_ylabel() == "original"
    assert figure.axes[1].get_title() == "Method"


def test_forest_shows_means_chance_and_gaps():
    summary = pd.DataFrame(
        {"method": ["g", "random"] * 2, "metric": ["iou"] * 4, "model": ["m", "m", "n", "n"],
         "mean": [0.5, 0.1, np.nan, 0.2],
         "low": [0.4, 0.0, np.nan, 0.1], "high": [0.6, 0.2, np.nan, 0.3]}
    )  # fmt: skip
    figure = drawn(plots.forest(summary, {"iou": "IoU"}, {"iou": 0.15}, ["random"]))
    axes = figure.axes[0]
    marks = [
        line.get_xdata()
        for line in axes.lines
        if line.get_marker() not in ("None", None) and len(line.get_xdata()) == 1
    ]
    assert sorted(float(m[0]) for m in marks) == [0.1, 0.2, 0.5]
    assert any(list(line.get_xdata()) == [0.15, 0.15] for line in axes.lines)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["g", "random"]


def test_pyplot_is_not_used(ds):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plots.class_balance({"train": ds})
    plots.image_grid(ds)
    assert plt.get_fignums() == before


def test_composition_shows_what_varies(ds):
    views = pd.DataFrame({"view": ["CC", "MLO", "MLO", "CC", None], "side": "L"})
    figure = plots.composition({"train": dataclasses.replace(ds, metadata=views), "test": ds})
    by_split, by_class = figure.axes
    assert by_split.get_title() == "view"  # one side alone says nothing
    assert [t.get_text() for t in by_split.get_xticklabels()] == ["CC", "MLO", "not stated"]
    assert [bar.get_height() for bar in by_split.patches] == pytest.approx([0.4, 0.4, 0.2])
    assert [bar.get_height() for bar in by_class.patches] == pytest.approx([1, 0, 0, 0, 2 / 3, 1 / 3])
    assert plots.composition({"train": ds}) is None


def test_many_classes_stay_readable(ds):
    names = tuple(f"a breed with a long name {i}" for i in range(37))
    many = dataclasses.replace(ds, class_names=names)
    figure = drawn(plots.class_balance({"train": many, "test": many}))
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == list(names)
    boxes = [t.get_window_extent() for t in axes.get_yticklabels()]
    assert all(not one.overlaps(other) for one, other in pairwise(boxes))
    assert [line.get_label() for line in plots.intensities(many).axes[0].get_lines()] == ["all classes"]


def test_intensities_are_parts_of_the_pixels(ds):
    lines = plots.intensities(ds).axes[0].get_lines()
    assert [line.get_label() for line in lines] == list(ds.class_names)
    for line in lines:
        assert line.get_ydata().sum() == pytest.approx(1)


def test_lengths_of_the_evidence():
    figure = plots.lesion_lengths({"a": np.array([4.0, 8.0, 30.0, np.nan]), "b": np.array([2.0])}, 224)
    axes = figure.axes[0]
    assert axes.get_xlabel().startswith("length in pixels of 224")
    assert [line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == "--"] == [8, 2]
    many = {str(i): np.array([4.0, 5.0]) for i in range(10)}
    assert len(plots.lesion_lengths(many, 224).axes[0].get_legend().get_texts()) == 1
    assert plots.lesion_lengths({"a": np.array([7.0])}, 224) is not None  # one mask, or all alike
    assert plots.lesion_lengths({}, 224) is None
    assert plots.lesion_lengths({"a": np.array([np.nan])}, 224) is None


def test_patches_and_twins(ds):
    grid = plots.patch_grid(ds.take(1), (8,))
    n = ds.image_size // 8
    assert f"{n} x {n} = {n * n} patches of 8" in grid.axes[0].get_title()
    assert sum(len(line.get_xdata()) == 2 for line in grid.axes[0].get_lines()) == 2 * (n + 1)
    one = phantom.generate(1, 32)
    figure = plots.twins([one], [phantom.counterfactual(one)], ("benign", "malignant"))
    assert [a.get_title() for a in figure.axes[:2]] == ["malignant", "benign"]
    np.testing.assert_array_equal(figure.axes[2].get_images()[0].get_array(), one.evidence)
