"""Dropout while maps are made: what a pass is, that the model stays as it was, and moments that are known."""

import numpy as np
import pandas as pd
import pytest
from conftest import SIZE, make_flat, make_nested, make_sequential, make_vit

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.attribution.completeness import completeness_gap
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.studies.dropout import block_ends, mc_dropout, score_spread, thinned, with_dropout

RATE = 0.4


@pytest.fixture(scope="module")
def ds(images):
    masks = np.zeros((5, SIZE, SIZE), bool)
    masks[:, :8, :8] = True
    return ImageDataset(images.astype(np.uint8), [0] * 5, ("a", "b", "c"), [f"i{k}" for k in range(5)], masks)


def with_own(dropout, seed=2):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(6, 3, strides=2, activation="relu", name="conv")(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(dropout(x))
    return keras.Model(inputs, keras.layers.Softmax()(keras.layers.Dense(3, name="classes")(x)))


def activation(model, name, images):
    return Network.of(model).forward(images, [name])[1][0].numpy()


@pytest.mark.parametrize("make", [make_flat, make_nested, make_sequential, make_vit])
def test_the_model_stays_as_it_was(make, images):
    model = make()
    before, config = xai.predict(model, images), model.get_config()
    paths = block_ends(model)
    assert paths
    thin = thinned(model, paths, RATE)
    assert len(thin.layers) == len(paths)
    assert {id(v) for v in thin.model.variables} == {id(v) for v in model.variables}
    dropped = xai.predict(thin.thin(0, 0), images)
    assert np.abs(dropped - before).max() > 1e-3
    np.testing.assert_array_equal(xai.predict(model, images), before)
    assert model.get_config() == config
    assert not any(layer.name.endswith("_dropped_0") for layer in model.layers)
    np.testing.assert_allclose(xai.predict(thinned(model, paths, 0.0).thin(0, 0), images), before, atol=1e-5)
    for path in Network.of(model).spatial_layers():  # every layer is found by its old path
        assert Network.of(thin.model).step(path).path == path


def residual():
    """Two blocks, each with a sum inside a branch."""
    x = inputs = keras.Input((SIZE, SIZE, 3))
    for name in "ab":
        x = keras.layers.Conv2D(4, 3, strides=2, name=f"{name}_conv")(x)
        y = keras.layers.Conv2D(4, 3, padding="same")(x)
        y = keras.layers.Add(name=f"{name}_inner")([y, keras.layers.ReLU()(y)])
        x = keras.layers.Add(name=f"{name}_end")([x, y])
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(inputs, keras.layers.Softmax()(keras.layers.Dense(3, name="logits")(x)))


def test_dropout_after_blocks_is_trained_and_then_left_on(images):
    model = residual()
    assert block_ends(model) == ["a_end", "b_end"]
    trained = with_dropout(model, RATE)
    assert [layer.name for layer in trained.layers if isinstance(layer, keras.layers.Dropout)] == [
        "a_end_dropout",
        "b_end_dropout",
    ]
    assert trained.get_layer("logits").output.shape == (None, 3)
    assert {id(v) for v in model.variables}.isdisjoint(id(v) for v in trained.variables)
    np.testing.assert_array_equal(trained(images), model(images))  # at rest
    assert np.abs(trained(images, training=True) - model(images)).max() > 1e-3
    thin = thinned(trained)
    assert thin.layers == ("a_end_dropout", "b_end_dropout")
    assert (activation(thin.thin(0, 0), "a_end_dropout", images) == 0).mean() == pytest.approx(RATE, abs=0.05)
    with pytest.raises(ValueError, match="rate=1.5"):
        with_dropout(model, 1.5)


def test_a_pass_is_one_network(images):
    model = with_own(keras.layers.Dropout(RATE, name="drop"))
    thin = thinned(model)
    first = xai.predict(thin.thin(0, 0), images)
    assert np.abs(xai.predict(thin.thin(0, 1), images) - first).max() > 1e-3
    assert np.abs(xai.predict(thin.thin(1, 0), images) - first).max() > 1e-3
    np.testing.assert_array_equal(xai.predict(thin.thin(0, 0), images), first)
    np.testing.assert_allclose(xai.predict(thin.model, images, batch_size=2), first, atol=1e-6)
    kept = activation(thin.model, "drop", images) != 0
    alive = activation(model, "conv", images) != 0
    mask = kept.any(axis=0)
    np.testing.assert_array_equal(kept, alive & mask)  # one mask for all images
    assert mask[alive.any(axis=0)].mean() == pytest.approx(1 - RATE, abs=0.05)
    gap = completeness_gap(thin.model, images, 0, "integrated_gradients", n_steps=200)
    assert gap["gap"].abs().max() < 1e-3


@pytest.mark.parametrize(
    ("dropout", "axes"),
    [
        (keras.layers.SpatialDropout2D(RATE, name="drop"), (1, 2)),
        (keras.layers.Dropout(RATE, noise_shape=(None, 1, 1, None), name="drop"), (1, 2)),
        (keras.layers.Dropout(RATE, noise_shape=(None, 1, 1, 1), name="drop"), (1, 2, 3)),
    ],
)
def test_masks_have_the_shape_of_the_layer(images, dropout, axes):
    thin = thinned(with_own(dropout))
    fates = set()
    for number in range(12):
        x = activation(thin.thin(0, number), "conv", images)
        y = activation(thin.model, "drop", images)
        live, dead = y > 0, (y == 0) & (x > 0)
        np.testing.assert_allclose(y[live], x[live] / (1 - RATE), rtol=1e-5)
        live, dead = (which.any(axis=(0, *axes)) for which in (live, dead))
        assert not (live & dead).any()  # all units that share a mask have one fate
        fates |= {*live.ravel().tolist()}
    assert fates == {True, False}


def test_moments_of_a_linear_head(images):
    """Logits sum_i w_i f_i m_i / (1 - p) have the mean of the plain logits and the variance sum (w f)^2 p / (1 - p)."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.AveragePooling2D(4)(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Dropout(RATE)(keras.layers.Flatten(name="features")(x))
    model = keras.Model(inputs, keras.layers.Dense(3, use_bias=False)(x))
    W = model.layers[-1].kernel.numpy()
    f = keras.Model(inputs, model.get_layer("features").output)(images).numpy()
    thin = thinned(model)
    logits = np.stack([xai.predict(thin.thin(5, number), images) for number in range(400)])
    std = np.sqrt((f**2) @ (W**2) * RATE / (1 - RATE))
    np.testing.assert_allclose(logits.std(axis=0, ddof=1), std, rtol=0.15)
    assert (np.abs(logits.mean(axis=0) - f @ W) < 4 * std / 20).all()


def test_mean_and_spread_of_maps_and_scores(ds):
    model = make_flat()
    methods, given = ["vanilla_gradients", "early"], {"early": {"method": "grad_cam", "layer": "conv1"}}
    options = {"after": ["conv1"], "rate": 0.2, "parameters": given, "targets": 1, "seed": 3}
    metrics = ["relevance_mass", "average_drop"]
    found = mc_dropout(model, ds, methods, n_passes=4, metrics=metrics, **options)
    thin = thinned(model, ["conv1"], 0.2)
    assert found.layers == thin.layers
    each = [xai.explain_all(thin.thin(3, k), ds.images, 1, methods, parameters=given) for k in range(4)]
    for m in methods:
        stack = np.stack([maps[m] for maps in each])
        np.testing.assert_allclose(found.mean[m], stack.mean(axis=0), rtol=1e-4, atol=1e-6 * np.abs(stack).max())
        np.testing.assert_allclose(found.std[m], stack.std(axis=0, ddof=1), rtol=1e-3, atol=1e-6 * np.abs(stack).max())
        assert found.mean[m].dtype == found.std[m].dtype == np.float32
        assert found.std[m].max() > 0
    assert list(found.scores.columns) == ["pass", "method", "weights", "image_id", "metric", "reading", "value"]
    assert len(found.scores) == 4 * 2 * 5 * 2
    last = xai.evaluate(thin.thin(3, 2), ds, each[2]["early"], metrics, 1, reading="positive")
    rows = found.scores[(found.scores["pass"] == 2) & (found.scores["method"] == "early")]
    np.testing.assert_allclose(rows["value"], last["value"], rtol=1e-4, atol=1e-6)
    p = found.predictions
    assert len(p) == 20
    assert p.groupby("image_id")["logit"].std().min() > 0
    small = mc_dropout(model, ds, methods, n_passes=4, batch_size=2, **options)
    for m in methods:
        np.testing.assert_allclose(small.mean[m], found.mean[m], rtol=1e-3, atol=1e-5 * np.abs(found.mean[m]).max())
    assert small.scores.empty


def test_explained_is_what_the_whole_model_predicts(ds):
    model = make_flat()
    found = mc_dropout(model, ds, ["grad_cam"], n_passes=3, after=["conv1"], rate=0.8)
    expected = xai.predict(model, ds.images).argmax(axis=1)
    for _, part in found.predictions.groupby("pass"):
        np.testing.assert_array_equal(part["target"], expected)


@pytest.mark.parametrize("method", ["lrp", "relevance_cam", "deep_lift", "full_grad", "occlusion"])
def test_other_methods_pass_it(images, method):
    thin = thinned(make_flat(), ["conv2"], 0.3)
    maps = xai.explain(thin.thin(0, 0), images, 1, method)
    assert np.abs(maps).max() > 0


def test_refusals(ds):
    model = make_flat()
    with pytest.raises(ModelError, match="no dropout layer to switch on"):
        mc_dropout(model, ds, ["grad_cam"])
    with pytest.raises(ValueError, match="n_passes=1"):
        mc_dropout(model, ds, ["grad_cam"], n_passes=1, after=["conv1"])
    with pytest.raises(ValueError, match="rate=1"):
        thinned(model, ["conv1"], 1.0)
    with pytest.raises(ModelError, match="did you mean conv1"):
        thinned(model, ["conv_1"])


def test_score_spread_by_hand():
    values = {("a", 0): 1.0, ("b", 0): 3.0, ("a", 1): 2.0, ("b", 1): 6.0, ("c", 0): np.nan, ("c", 1): 5.0}
    rows = [("m", "x", image, number, value) for (image, number), value in values.items()]
    table = score_spread(pd.DataFrame(rows, columns=["method", "metric", "image_id", "pass", "value"]))
    (row,) = table.to_dict("records")
    assert row["n"] == 2
    assert row["mean"] == 3
    assert row["std_passes"] == pytest.approx(np.std([2, 4], ddof=1))
    assert row["std_images"] == pytest.approx(np.std([1.5, 4.5], ddof=1))
