"""Robustness metrics and similarities: cases whose value is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation import evaluate_all
from xaiutils.evaluation.map_similarity import SIMILARITIES, hog_correlation, spearman, ssim, top_intersection
from xaiutils.evaluation.studies.prediction_change import prediction_change


@pytest.fixture(scope="module")
def ds(images):
    return ImageDataset(images.astype(np.uint8), [0] * 5, ("a", "b", "c"), [f"i{k}" for k in range(5)])


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 48, 48)), rng.normal(size=(3, 48, 48))


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities(pair, name):
    one, other = pair
    similarity = SIMILARITIES[name]
    np.testing.assert_allclose(similarity(one, one), 1, atol=1e-9)
    np.testing.assert_allclose(similarity(one, 3 * one + 7), 1, atol=1e-6)
    assert np.abs(similarity(one, other)).max() < 0.3
    np.testing.assert_allclose(similarity(one, other), similarity(other, one), atol=1e-9)
    assert np.isnan(similarity(np.ones_like(one), other)).all()
    with pytest.raises(ValueError, match="two stacks"):
        similarity(one, other[:2])


def test_similarities_by_hand():
    ramp = np.arange(400.0).reshape(1, 20, 20)
    assert spearman(ramp, np.exp(ramp / 50)) == pytest.approx(1)
    assert spearman(ramp, -ramp) == pytest.approx(-1)
    assert top_intersection(ramp, -ramp, area=0.25) == 0
    assert top_intersection(ramp, np.roll(ramp, -1, axis=1), area=0.1) == pytest.approx(0.5)
    assert ssim(ramp, -ramp) < 0
    assert hog_correlation(ramp, np.swapaxes(ramp, 1, 2)) < 0.9


def test_only_valid_pixels_are_compared(pair):
    one, other = pair
    valid = np.zeros(one.shape, bool)
    valid[:, :24] = True
    mixed = np.where(valid, one, other)
    for name in ("spearman", "ssim", "top_intersection"):
        inside = SIMILARITIES[name](one, mixed, valid)
        assert (inside > 0.9).all(), name
        assert (SIMILARITIES[name](one, mixed) < inside).all(), name
    assert np.isnan(spearman(one, other, np.zeros(one.shape, bool))).all()


@pytest.fixture(scope="module")
def summing():
    """Logits that add up grey values, whatever their place: (0, mean)."""
    inputs = keras.Input((32, 32, 3))
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 64)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False)(mean))
    model.layers[-1].set_weights([np.array([[0, 1], [0, 1], [0, 1]], np.float32)])
    return model


def of_model(ds: ImageDataset, model: keras.Model) -> ImageDataset:
    """The same images, of as many classes as the model knows."""
    return replace(ds, class_names=ds.class_names[: model.output_shape[-1]])


def consistency(model, ds, method="gradients_x_inputs", **options):
    ds = of_model(ds, model)
    maps = xai.explain(model, ds.images, 1, method)
    table = xai.evaluate(
        model,
        ds,
        maps,
        ["transform_consistency"],
        1,
        parameters={"transform_consistency": options},
        method=method,
    )
    return table["value"].to_numpy()


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_maps_that_turn_with_the_image_are_consistent(ds, summing, similarity):
    np.testing.assert_allclose(consistency(summing, ds, similarity=similarity), 1, atol=1e-6)


def test_maps_that_stay_when_the_image_turns_are_not(ds, models):
    """A map that reads one half of the image whatever is there: turned back, it lies on the other half."""
    left = keras.layers.Cropping2D(((0, 0), (0, 16)))
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(left(inputs))))
    kernel = np.array([[0, 1], [0, 1], [0, 1]], np.float32)
    model.layers[-1].set_weights([kernel, np.zeros(2)])
    assert consistency(model, ds, similarity="top_intersection").max() < 0.3
    assert consistency(model, ds, transform="original", similarity="top_intersection").min() == 1
    some = consistency(models["nested"], ds, "grad_cam", transform="affine", similarity="spearman")
    assert np.isfinite(some).any()


def test_max_sensitivity_of_linear_maps(ds, summing):
    """Gradients x inputs of a linear model moves by the noise itself; plain gradients do not move."""
    options = {"max_sensitivity": {"n_samples": 3, "noise": 0.05}}

    def worst(method):
        maps = xai.explain(summing, ds.images, 1, method)
        return xai.evaluate(
            summing, of_model(ds, summing), maps, ["max_sensitivity"], 1, parameters=options, method=method
        )["value"]

    np.testing.assert_allclose(worst("vanilla_gradients"), 0, atol=1e-9)
    moved = worst("gradients_x_inputs")
    ceiling = 0.05 * 255 * 3 * 32 / np.linalg.norm(ds.images.sum(-1), axis=(1, 2))
    assert (moved > 0.1 * ceiling).all()
    assert (moved < ceiling).all()


def test_metrics_of_the_method_need_to_know_it(ds, models):
    maps = xai.explain(models["nested"], ds.images, 1, "grad_cam")
    with pytest.raises(ValueError, match="'max_sensitivity' needs the method that made the maps"):
        xai.evaluate(models["nested"], ds, maps, ["max_sensitivity"])
    assert "max_sensitivity" not in set(xai.evaluate(models["nested"], ds, maps, method="grad_cam")["metric"])
    options = {"max_sensitivity": {"n_samples": 2}}
    given = {"early": {"method": "grad_cam", "layer": "conv1"}}
    many = xai.explain_all(models["flat softmax"], ds.images, 1, ["grad_cam", "early"], parameters=given)
    table = evaluate_all(
        models["flat softmax"],
        ds,
        {**many, "random": np.random.default_rng(0).random(maps.shape)},
        ["max_sensitivity", "sparseness"],
        1,
        parameters=options,
        method_parameters=given,
    )
    counts = table.groupby(["method", "metric"])["value"].count().unstack()
    assert counts["sparseness"].to_dict() == {"grad_cam": 5, "early": 5, "random": 5}
    assert counts["max_sensitivity"].dropna().to_dict() == {"grad_cam": 5, "early": 5}


def test_prediction_change(ds, models):
    table = prediction_change(models["nested"], ds, ["original", "rotate_180"])
    same = table[table["transform"] == "original"]
    assert (same["predicted"] == same["after"]).all()
    np.testing.assert_allclose(same["p_before"], same["p_after"], atol=1e-6)
    turned = xai.predict(models["nested"], ds.images[:, ::-1, ::-1], probabilities=True)
    classes = xai.predict(models["nested"], ds.images).argmax(1)
    found = table[table["transform"] == "rotate_180"]["p_after"]
    np.testing.assert_allclose(found, turned[np.arange(5), classes], atol=1e-5)
    assert isinstance(table, pd.DataFrame)
