"""Completeness: what maps sum to, beside what they must sum to, and the warning where they do not."""

import warnings

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.attribution import MapWarning
from xaiutils.attribution.completeness import completeness_table
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset


@pytest.fixture(scope="module")
def ds(images):
    return ImageDataset(images.astype(np.uint8), [0] * 5, ("a", "b", "c"), [f"i{k}" for k in range(5)])


def test_what_maps_sum_to(models, ds):
    table = completeness_table(models["flat softmax"], ds, targets=1, n_steps=(2, 50))
    steps = {m: part["n_steps"].dropna().unique().tolist() for m, part in table.groupby("method", sort=False)}
    assert steps == {"integrated_gradients": [2, 50], "expected_gradients": [], "deep_lift": [], "full_grad": []}
    assert (table.groupby(["method", "n_steps"], dropna=False)["image_id"].nunique() == 5).all()
    S = xai.predict(models["flat softmax"], ds.images)[:, 1]
    full = table[table["method"] == "full_grad"]
    np.testing.assert_allclose(full["total"], S, rtol=1e-5)
    assert full["relative_gap"].max() < 1e-4
    gaps = table[table["method"] == "integrated_gradients"].groupby("n_steps")["gap"].apply(lambda g: g.abs().max())
    assert gaps[50] < 0.2 * gaps[2]
    assert gaps[50] < 0.01
    np.testing.assert_allclose(table["gap"], table["sum"] - table["total"], atol=1e-6)


def test_completeness_of_named_methods(linear, ds):
    model, _ = linear
    given = {"ig": {"method": "integrated_gradients", "n_steps": 3}}
    table = completeness_table(model, ds, ["ig"], 0, parameters=given)
    assert table["method"].unique().tolist() == ["ig"]
    assert table["n_steps"].unique().tolist() == [3]
    assert table["relative_gap"].max() < 1e-4  # the gradient is the same on the whole path
    with pytest.raises(ValueError, match="need not sum to anything"):
        completeness_table(model, ds, ["vanilla_gradients"], 0)


@pytest.mark.parametrize("order", [1, -1])
def test_the_warning_of_a_miss_names_the_worst_image(order):
    """F(x) = exp(6 x) by one step, at the middle: x exp(3 x) 6 instead of exp(6 x) - 1; worse for white."""
    inputs, mean = keras.Input((4, 4, 3)), keras.initializers.Constant(1 / 3)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, kernel_initializer=mean)(keras.ops.exp(6 * x)))
    images = np.stack([np.full((4, 4, 3), level, np.float32) for level in (102, 255)])[::order]
    wrong, right = 6 * np.exp(3), np.exp(6) - 1
    with pytest.warns(MapWarning, match=f"must sum to {right:.4g} sums to {wrong:.4g};"):
        xai.explain(model, images, 0, "integrated_gradients", n_steps=1, baseline="black")


def test_a_miss_of_completeness_is_warned_of_once(linear, images, monkeypatch):
    """Two steps of a strongly curved function miss a large part; a linear model misses nothing."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.ops.exp(12 * x)))
    with pytest.warns(MapWarning, match=r"integrated_gradients: a map that must sum to .* take more n_steps"):
        xai.explain(model, images, 1, "integrated_gradients", n_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MapWarning)
        xai.explain(model, images, 1, "integrated_gradients", n_steps=1)  # once
        xai.explain(linear[0], images, 1, "integrated_gradients", n_steps=1)
        xai.explain(linear[0], images, 1, "deep_lift")
        xai.explain(model, images, 1, "deep_lift")
