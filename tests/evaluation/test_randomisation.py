"""Random weights: what they do to maps, and that the model comes out of it as it was."""

import numpy as np
import pandas as pd
import pytest
from conftest import make_flat, make_vit
from scipy import stats

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.evaluation.map_similarity import spearman
from xaiutils.evaluation.studies.random_weights import random_weights, stages
from xaiutils.evaluation.studies.randomisation import (
    chance_similarity,
    entropy_rise,
    randomisation_test,
    randomised_maps,
    verdicts,
)


@pytest.mark.parametrize("make", [make_flat, make_vit])
def test_stages_go_from_the_logits_down_and_miss_nothing(make):
    model = make()
    for n in (2, 3, 100):
        groups = stages(model, n, norms=True)
        assert len(groups) <= n
        found = [layer for group in groups.values() for layer in group]
        assert found[0].name in ("classes", "logits")
        assert set(found) == {layer for layer in model.layers if layer.weights}
        assert len(found) == len(set(found))
    assert not any("norm" in layer.name for group in stages(model).values() for layer in group)
    with pytest.raises(ValueError, match="at least 2"):
        stages(model, 1)


def test_weights_are_drawn_and_come_back():
    model = xai.build_model("mobilenet_v2", 2, 32, None)
    keras.utils.set_random_seed(0)
    before = [v.numpy() for v in model.variables]
    layers = [layer for layer in model.layers if layer.weights]
    with pytest.raises(RuntimeError, match="in the middle"), random_weights(layers, 0):
        drawn = [v.numpy() for v in model.variables]
        kernels = [i for i, v in enumerate(model.variables) if v.name == "kernel"]
        assert all(not np.allclose(before[i], drawn[i]) for i in kernels)
        # By the layers' own initialisers: of the same spread as weights that were never trained.
        ratios = [drawn[i].std() / before[i].std() for i in kernels if before[i].size > 1000]
        assert np.median(ratios) == pytest.approx(1, abs=0.1)
        assert all((v.numpy() >= 0).all() for v in model.variables if v.name == "moving_variance")
        raise RuntimeError("in the middle")
    for was, now in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(was, now.numpy())
    with random_weights(layers, 0):
        again = [v.numpy() for v in model.variables]
    for one, other in zip(drawn, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_maps_change_with_the_weights_and_edges_would_not(images, mode):
    model = make_flat()
    before = xai.explain(model, images, 0, "vanilla_gradients")
    ids = [f"i{k}" for k in range(5)]
    methods = ["vanilla_gradients", "coarse"]
    parameters = {"coarse": {"method": "occlusion", "patch_size": 16}}
    table = randomisation_test(model, images, ids, methods, 0, mode, n_stages=3, parameters=parameters, seed=1)
    assert table["stage"].unique().tolist() == ["none", "classes", "conv2", "conv1"]
    assert set(table["method"]) == set(methods)
    means = table.groupby(["depth", "similarity"])["value"].mean().unstack()
    np.testing.assert_allclose(means.loc[0], 1)
    assert (means.loc[1:] < 0.95).all().all()
    assert table.groupby("depth")["p"].first().nunique() == 4
    np.testing.assert_array_equal(xai.explain(model, images, 0, "vanilla_gradients"), before)
    with pytest.raises(ValueError, match="did you mean cascading"):
        randomisation_test(model, images, ids, methods, 0, "cascade")
    with pytest.raises(KeyError, match="Unknown method"):
        randomisation_test(model, images, ids, ["gradcam"])


def test_maps_to_look_at_are_those_compared(images):
    model = make_flat()
    table = randomisation_test(model, images, list("abcde"), ["grad_cam"], 0, n_stages=3, similarities=["spearman"])
    before = xai.predict(model, images)
    shown = []
    for stage in randomised_maps(model, images[:2], ["grad_cam"], 0, n_stages=3):
        np.testing.assert_array_equal(xai.predict(model, images), before)
        shown.append(stage)
    assert [(s.name, s.depth) for s in shown] == [("none", 0), ("classes", 1), ("conv2", 2), ("conv1", 3)]
    for stage in shown:
        expected = table[(table["stage"] == stage.name) & table["image_id"].isin(["a", "b"])]["value"]
        similar = spearman(shown[0].maps["grad_cam"], stage.maps["grad_cam"])
        np.testing.assert_allclose(similar, expected, atol=1e-4)
    again = list(randomised_maps(model, images[:2], ["grad_cam"], 0, "independent", 3, known=shown[:2]))
    assert again[0] is shown[0]
    assert again[1] is shown[1]
    assert [(s.name, s.depth) for s in again] == [(s.name, s.depth) for s in shown]


def test_chance_is_the_similarity_of_other_images():
    maps = np.random.default_rng(0).normal(size=(6, 24, 24))
    maps[5] = 1
    ids = [f"i{k}" for k in range(6)]
    as_they_are = {"m": {"method": "lime", "reading": "signed"}}
    table = chance_similarity({"m": maps}, ids, ["spearman"], parameters=as_they_are)
    assert len(table) == 15
    assert (table["image_a"] != table["image_b"]).all()
    assert table["value"].isna().sum() == 5  # a constant map has no order
    row = table[(table["image_a"] == "i1") & (table["image_b"] == "i3")]["value"].item()
    assert row == pytest.approx(stats.spearmanr(maps[1].ravel(), maps[3].ravel()).statistic)
    few = chance_similarity({"m": maps, "n": -maps}, ids, ["spearman", "ssim"], n_pairs=4, seed=1)
    assert len(few) == 16
    assert few.groupby(["method", "similarity"])["image_a"].apply(tuple).nunique() == 1
    apart = chance_similarity({"m": maps}, ids, ["spearman"], patients=list("ppqqqq"))
    assert set(zip(apart["image_a"], apart["image_b"], strict=True)) == {(a, b) for a in ids[:2] for b in ids[2:]}
    for patients in (None, ["p"]):
        with pytest.raises(ValueError, match="two images of different patients"):
            chance_similarity({"m": maps[:1]}, ["a"], patients=patients)


def similarity_table(values, **columns):
    ids = [f"i{k}" for k in range(len(values))]
    known = {"method": "m", "stage": "conv", "depth": 1, "image_id": ids, "similarity": "ssim", "value": values}
    return pd.DataFrame({**known, **columns})


def test_verdicts():
    rng = np.random.default_rng(0)
    ids = [f"i{k}" for k in range(12)]
    first, second = np.triu_indices(12, k=1)
    pairs = pd.DataFrame({"image_a": np.array(ids)[first], "image_b": np.array(ids)[second]})
    chance = pairs.assign(method="m", similarity="ssim", value=rng.normal(0.5, 0.02, len(pairs)))
    for level, expected in ((0.3, "passes"), (0.54, "undecided"), (0.7, "fails")):
        table = similarity_table(level + np.linspace(-0.1, 0.1, 12))
        (row,) = verdicts(table, chance).to_dict("records")
        assert row["verdict"] == expected
        assert row["mean"] == pytest.approx(level)
        at_chance = chance["value"].mean()
        assert row["left"] == pytest.approx((level - at_chance) / (1 - at_chance))
        assert row["low"] < row["left"] < row["high"]
        assert row["n"] == 12
        assert row["below"] == (level < at_chance)
        assert verdicts(table, chance, margin=0.8).iloc[0]["verdict"] == "passes"
    # Twelve images of two patients are two units: the interval is that of two.
    lopsided = similarity_table(np.repeat([0.3, 0.65], 6))
    narrow = verdicts(lopsided, chance).iloc[0]
    wide = verdicts(lopsided.assign(patient_id=np.repeat(["p", "q"], 6)), chance).iloc[0]
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"])
    table = pd.concat([similarity_table(np.full(12, 1.0), depth=0), similarity_table([np.nan] * 11 + [0.1])])
    (row,) = verdicts(table.assign(mode="cascading"), chance).to_dict("records")
    assert (row["mode"], row["n"], row["missing"], row["verdict"]) == ("cascading", 1, 11, "undecided")
    # Two images make one pair, and all draws that hold it are the same: an interval without width would be no evidence.
    two = verdicts(similarity_table([0.30, 0.31]), chance[chance["image_b"] == "i1"]).iloc[0]
    assert np.isnan([two["low"], two["high"]]).all()
    assert (two["n"], two["verdict"]) == (2, "undecided")


def test_entropy_rise():
    ramp = np.arange(400.0).reshape(1, 20, 20)
    halves = (ramp > 199).astype(float)
    np.testing.assert_allclose(entropy_rise(halves, ramp, n_bins=100), np.log(100) / np.log(2) - 1)
    np.testing.assert_allclose(entropy_rise(ramp, 3 * ramp - 7), 0, atol=1e-9)
    assert np.isnan(entropy_rise(np.ones_like(ramp), ramp)).all()


def test_figures(images):
    table = pd.concat(
        similarity_table([0.9, 0.4, 0.3], depth=[0, 1, 2], stage=["none", "top", "stem"], mode=mode, method=method)
        for mode in ("cascading", "independent")
        for method in ("grad_cam", "mine", "other")
    )
    summary = table.rename(columns={"value": "mean"}).assign(low=0.1, high=0.95)
    figure = xai.plots.randomisation_curves(summary, {"grad_cam": 0.4}, {"grad_cam": "Grad-CAM"}, "SSIM", columns=2)
    drawn = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in drawn] == ["Grad-CAM", "mine", "other"]
    assert [len(axes.lines) for axes in drawn] == [3, 2, 2]
    maps = {stage: dict.fromkeys(("a", "b"), images[0, ..., 0]) for stage in ("none", "top", "stem")}
    grid = xai.plots.randomisation_grid(images[0], maps, {"a": True, "b": False}, {})
    assert len(grid.axes) == 6
    assert grid.axes[0].get_title() == "trained"
    values = pd.DataFrame([[0.5, np.nan], [-0.2, 1.0]], index=["a", "b"], columns=["log", "rotate_180"])
    heat = xai.plots.consistency_matrix(values, pd.Series({"rotate_180": 0.3, "log": 0.0}), {}, "Spearman")
    texts = [t.get_text() for axes in heat.axes for t in axes.texts]
    assert texts == ["0.00", "0.30", "0.50", "none", "-0.20", "1.00"]
    one = {"a": images[0, ..., 0], "b": np.zeros((32, 32))}
    figure = xai.plots.dropout_maps(images[0], one, one, one, {"a": True, "b": False}, {})
    assert len(figure.axes) == 6
    assert "the mean is 0" in figure.axes[5].get_title()
