"""The whole comparison of one model, and the controls that it adds."""

import numpy as np
import pytest
from conftest import make_flat, make_vit
from test_planted_evidence import channel_model, colours

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.score_tables import CONTROLS, is_control
from xaiutils.evaluation.studies.compare_maps import measure
from xaiutils.evaluation.studies.controls import control_maps
from xaiutils.evaluation.studies.random_weights import random_weight_maps, random_weights
from xaiutils.graph.network import ModelError
from xaiutils.own_model.wrap import wrap

METHODS = ["vanilla_gradients", "coarse"]
HOW = {"coarse": {"method": "occlusion", "patch_size": 16}}


@pytest.fixture(scope="module")
def ds(images):
    masks = images[..., 0] > 128
    masks[4] = False
    return ImageDataset(images.astype(np.uint8), [0, 1, 2, 0, 1], ("a", "b", "c"), list("vwxyz"), masks)


def test_laplace_and_the_full_oracle(ds):
    maps = control_maps(ds, seed=1)
    assert tuple(maps) == CONTROLS
    np.testing.assert_array_equal(maps["oracle_full"], ds.masks)
    assert np.isnan(xai.evaluate(None, ds, maps["oracle_full"], ["relevance_mass"])["value"][4])
    ramp = np.zeros((1, 32, 32, 3), np.uint8)
    ramp[0] = 4 * np.arange(32)[None, :, None]
    edge = ramp.copy()
    edge[0, :, 16:] += 40
    found = [control_maps(ImageDataset(p, [0], ("a",), ["r"]))["laplace"][0, 5:27, 5:27] for p in (ramp, edge)]
    assert found[0].max() < 1e-4  # a ramp has no second derivative
    assert set(np.flatnonzero(found[1].max(axis=0) > 1) + 5) == {15, 16}
    assert all(map(is_control, [*CONTROLS, "chance"]))
    assert not is_control("grad_cam")


@pytest.mark.parametrize("make", [make_flat, make_vit])
def test_maps_of_random_weights(images, make):
    model = make()
    before = [v.numpy() for v in model.variables]
    trained = xai.explain_all(model, images, None, METHODS, parameters=HOW)
    maps = random_weight_maps(model, images, METHODS, parameters=HOW, seed=1)
    assert list(maps) == METHODS
    for name, found in trained.items():
        forgotten = maps[name]
        assert np.isfinite(forgotten).all()
        assert np.ptp(forgotten, axis=(1, 2)).min() > 0
        assert not np.allclose(forgotten / np.abs(forgotten).max(), found / np.abs(found).max(), atol=0.05)
    for was, now in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(was, now.numpy())
    again = random_weight_maps(model, images[2:4], METHODS, xai.predict(model, images).argmax(1)[2:4], 1, HOW, seed=1)
    for name, found in again.items():
        np.testing.assert_allclose(found, maps[name][2:4], atol=1e-5)


def test_without_known_weights_the_controls_of_random_weights_are_left_out_and_named(ds, tmp_path):
    """Of a SavedModel: what can be measured is, and no study stops in an IndexError."""
    make_flat().export(str(tmp_path / "saved"), verbose=False)
    model = wrap(tmp_path / "saved", scaling="model")
    with pytest.raises(ModelError, match="no layer with weights is known"):
        random_weight_maps(model, ds.images, METHODS, parameters=HOW)
    found = measure(model, ds, [*METHODS, "grad_cam"], ["relevance_mass"], method_parameters=HOW)
    assert set(found.maps) == set(METHODS)
    assert set(found.scores["weights"]) == {"trained", "none"}
    assert any("random weights (no layer with weights is known" in note for note in found.notes)


def test_a_deep_network_of_random_weights_still_answers(images):
    """With statistics that do not fit the weights the signal of twenty layers would fade, and maps with it."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((32, 32, 3))
    for k in range(20):
        x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"conv{k}")(x)
        x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization(name=f"norm{k}")(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    with random_weights([layer for layer in model.layers if layer.weights], 1):
        faded = xai.explain(model, images, 0, "gradients_x_inputs")
    maps = random_weight_maps(model, images, ["gradients_x_inputs"], 0, seed=1)["gradients_x_inputs"]
    assert (np.abs(maps).max(axis=(1, 2)) > 100 * np.abs(faded).max(axis=(1, 2))).all()
    assert (model.get_layer("norm0").moving_mean.numpy() == 0).all()


def test_measure_with_masks(models, ds):
    metrics = ["iou", "pointing_game", "fidelity", "sparseness"]
    found = measure(models["nested"], ds, METHODS, metrics, None, 2, 3, HOW, {"fidelity": {"area": 0.2}}, seed=1)
    rows = found.scores.groupby(["metric", "method", "weights"]).size()
    maps = {*((m, w) for m in METHODS for w in ("trained", "random")), *((c, "none") for c in CONTROLS)}
    assert set(rows["iou"].index) == maps
    assert set(rows["pointing_game"].index) == {*maps, ("chance", "none")}
    assert rows["iou"].eq(2 * 5).all()  # by magnitude and by positive part
    assert rows["fidelity"].eq(2 * 2).all()
    assert rows["sparseness"].eq(5).all()  # its own reading
    assert found.scores.groupby("metric")["reading"].unique().map(set).to_dict() == {
        **{metric: {"magnitude", "positive"} for metric in metrics[:3]},
        "sparseness": {"magnitude"},
    }
    assert set(rows["fidelity"].index) == set(rows["sparseness"].index) == maps
    assert found.shown is ds
    assert set(found.shown_maps) == {*METHODS, *CONTROLS}
    assert found.notes == []
    p = xai.predict(models["nested"], ds.images, probabilities=True)
    one = found.scores[found.scores["image_id"] == "w"].iloc[0]
    assert one[["patient_id", "label"]].tolist() == ["w", "b"]
    assert one["correct"] == (p[1].argmax() == 1)
    assert one["p"] == pytest.approx(p[1].max(), abs=1e-5)
    for reading in ("magnitude", "positive"):
        direct = xai.evaluate(None, ds, found.maps["coarse"], ["iou"], reading=reading)["value"]
        chosen = "metric == 'iou' and method == 'coarse' and weights == 'trained' and reading == @reading"
        again = found.scores.query(chosen)["value"]
        np.testing.assert_array_equal(again, direct)


def test_measure_without_masks_makes_mosaics():
    ds, model = colours(24), channel_model()
    how = {"coarse": {"method": "occlusion", "patch_size": 8, "fill": "black"}}
    found = measure(model, ds.take(6), METHODS, ["iou", "roc_auc", "sparseness"], ds, 4, method_parameters=how)
    mosaics = found.shown
    assert mosaics.ids == [f"mosaic_{k:04d}" for k in range(6)]
    assert "6 mosaics of 2 x 2" in found.notes[0]
    located = found.scores[found.scores["metric"] == "roc_auc"]
    assert set(located["image_id"]) == set(mosaics.ids)
    means = located[located["weights"] != "random"].groupby("method")["value"].mean()
    assert means["coarse"] == means["oracle_full"] == 1  # each window shows a cell alone
    assert means["chance"] == 0.5
    assert set(found.scores.loc[found.scores["metric"] == "sparseness", "image_id"]) == set(ds.take(6).ids)
    assert found.scores["p"].notna().all()


def test_measure_without_masks_and_without_mosaics(models, images):
    ds = ImageDataset(images.astype(np.uint8), [0] * 5, ("a", "b", "c"), list("vwxyz"))
    found = measure(models["nested"], ds, METHODS, ["iou", "fidelity"], None, 2, method_parameters=HOW)
    assert found.shown is ds
    assert found.scores["metric"].unique().tolist() == ["fidelity"]
    assert "are left out: not one mosaic" in found.notes[0]
    with pytest.raises(ValueError, match="no metric could be measured"):
        measure(models["nested"], ds, METHODS, ["iou"], None, 2, method_parameters=HOW)
