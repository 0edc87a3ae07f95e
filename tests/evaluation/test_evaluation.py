"""Metrics: one contract, then constructions whose value is known exactly."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation import chance, control_maps, evaluate_all, summarise
from xaiutils.evaluation.metrics import metric as metric_module
from xaiutils.evaluation.metrics.insertion_deletion import perturbation_curve
from xaiutils.evaluation.metrics.metric import Case, Metric
from xaiutils.evaluation.studies import compare_maps
from xaiutils.evaluation.studies.dropout import mc_dropout
from xaiutils.evaluation.studies.mosaics import grid_mosaics
from xaiutils.evaluation.studies.prediction_change import prediction_change
from xaiutils.evaluation.thresholds import binary_map, tune_level
from xaiutils.registry import Parameter

SIZE = 32
LOCATED = [n for n, m in xai.METRICS.items() if m.needs == "masks"]
FAITHFUL = ["insertion_auc", "deletion_auc"]
QUICK = {"insertion_auc": {"n_steps": 5}, "deletion_auc": {"n_steps": 5}, "sensitivity_n": {"n_samples": 8}}
QUICK |= {"max_sensitivity": {"n_samples": 2}, "infidelity": {"n_samples": 8}, "irof": {"n_segments": 8}}
QUICK |= {name: {"fractions": [0.1, 0.5], "lowest": 0.0} for name in ("sic_auc", "aic_auc")}
QUICK |= {name: {"percentages": [20, 60]} for name in ("road_morf", "road_lerf", "road")}
OPEN = {
    "transform_consistency": (-1, 1),
    "max_sensitivity": (0, 5),
    "confidence_drop": (-5, 1),
    "fidelity": (-1, 1),
    "fidelity_area": (-1, 1),
    "pixel_perturbation": (0, 5),
    "sensitivity_n": (-1, 1),
    "road": (-0.5, 0.5),
    "saco": (-1, 1),
    "infidelity": (0, 5),
    "irof": (-5, 1),
    "random_logit": (-1, 1),
    "fragments": (1, SIZE**2 / 4),
}
# Not every image has an information curve, nor every class a map.
OFTEN_UNDEFINED = ("sic_auc", "aic_auc", "random_logit")
# All sets of pixels have the same sum in a constant map, it has no order, and nothing stands out.
NOT_OF_CONSTANT = ("sensitivity_n", "transform_consistency", "saco", "fragments", *OFTEN_UNDEFINED)


def data(masks, pixels=None, names=("a", "b", "c")):
    masks = np.asarray(masks, bool)
    n, height, width = masks.shape
    pixels = np.full((n, height, width, 3), 100, np.uint8) if pixels is None else pixels
    return ImageDataset(pixels, [0] * n, names, [f"i{k}" for k in range(n)], masks)


def score(metric, maps, masks, **parameters):
    table = xai.evaluate(None, data(masks), maps, [metric], parameters={metric: parameters}, reading="signed")
    return table["value"].to_numpy()


@pytest.fixture(scope="module")
def square():
    """A mask of 8 x 8 pixels in 32 x 32: one sixteenth."""
    mask = np.zeros((1, SIZE, SIZE), bool)
    mask[0, 8:16, 16:24] = True
    return mask


# Contract ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", xai.METRICS)
def test_contract(models, images, name):
    rng = np.random.default_rng(0)
    masks = rng.random((5, SIZE, SIZE)) > 0.8
    masks[2] = False
    ds = data(masks, images.astype(np.uint8))
    maps = rng.normal(size=masks.shape).astype(np.float32)
    quick = {name: QUICK.get(name, {})}
    how = {"parameters": quick, "method": "grad_cam"}
    tables = [xai.evaluate(models["nested"], ds, maps, [name], 1, b, **how) for b in (1, 3, 32)]
    assert list(tables[0]) == ["image_id", "metric", "reading", "value"]
    assert set(tables[0]["reading"]) == {xai.METRICS[name].reading or "positive"}  # as grad_cam declares
    assert tables[0]["image_id"].tolist() == ds.ids
    for other in tables[1:]:
        np.testing.assert_allclose(other["value"], tables[0]["value"], atol=1e-5)
    values = tables[0]["value"].to_numpy()
    low, high = OPEN.get(name, (0, np.log(SIZE**2) if name == "entropy" else 1))
    if name in OFTEN_UNDEFINED:
        values = values[np.isfinite(values)]
        assert ((values >= low) & (values <= high)).all()
    else:
        assert np.isnan(values[2]) == (name in LOCATED)
        assert np.isfinite(np.delete(values, 2)).all()
        assert ((np.delete(values, 2) >= low) & (np.delete(values, 2) <= high)).all()
    constant = xai.evaluate(models["nested"], ds, np.ones_like(maps), [name], 1, **how)["value"]
    assert np.isfinite(np.delete(constant.to_numpy(), 2)).all() or name in NOT_OF_CONSTANT
    metric = xai.METRICS[name]
    assert metric.direction.split(";")[0] in ("higher is better", "lower is better")
    with pytest.raises(ValueError, match=r"maps \[0, 1, 2, 3, 4\] hold NaN"):
        xai.evaluate(models["nested"], ds, maps * np.nan, [name], method="grad_cam")
    with pytest.raises(TypeError, match="no_such"):
        xai.evaluate(models["nested"], ds, maps, [name], method="grad_cam", parameters={name: {"no_such": 1}})


def test_evaluate_refuses_in_words(models, images):
    ds = data(np.ones((5, SIZE, SIZE)), images.astype(np.uint8))
    maps = np.zeros((5, SIZE, SIZE), np.float32)
    with pytest.raises(KeyError, match="did you mean iou"):
        xai.evaluate(None, ds, maps, ["iuo"])
    with pytest.raises(ValueError, match="one map for each image"):
        xai.evaluate(None, ds, maps[:2])
    with pytest.raises(ValueError, match="'insertion_auc' needs a model"):
        xai.evaluate(None, ds, maps, ["insertion_auc"])
    without = ImageDataset(ds.pixels, ds.labels, ds.class_names, ds.ids)
    with pytest.raises(ValueError, match="'iou' needs masks"):
        xai.evaluate(models["vit"], without, maps, ["iou"])
    with pytest.raises(ValueError, match="metrics is an empty list"):
        xai.evaluate(None, ds, maps, [])
    anywhere = {n for n, m in xai.METRICS.items() if m.needs == "maps"}
    assert set(xai.evaluate(None, without, maps)["metric"]) == anywhere
    assert set(xai.evaluate(None, ds, maps)["metric"]) == {*LOCATED, *anywhere}
    with pytest.raises(TypeError, match="'grad_cam' has no parameter 'no_such'"):
        xai.evaluate(None, ds, maps, ["iou"], method="grad_cam", method_parameters={"no_such": 1})
    with pytest.raises(ValueError, match="without method"):
        xai.evaluate(None, ds, maps, ["iou"], method_parameters={"layer": ""})
    with pytest.raises(KeyError, match="did you mean grad_cam"):
        xai.evaluation.evaluate_all(None, ds, {"gradcam": maps}, ["iou"], method_parameters={"gradcam": {"layer": ""}})


def test_a_new_metric_is_a_function_and_a_declaration(models, images):
    """Of what a case has, the toy takes the map, the mask, the targets and a parameter."""

    def lit(case, *, level):
        return np.array([level * m[k].sum() * t for m, k, t in zip(case.maps, case.masks, case.targets, strict=True)])

    xai.METRICS.add(Metric("lit", "Lit", "model", True, "-", lit, (Parameter("level", float, 2.0, "a factor"),)))
    try:
        ds, maps = data(images[..., 0] > 128, images.astype(np.uint8)), np.ones((5, SIZE, SIZE), np.float32)
        found = xai.evaluate(models["nested"], ds, maps, ["lit"], 1)["value"]
        assert found.tolist() == (2.0 * ds.masks.sum(axis=(1, 2))).tolist()
        assert "lit" in set(
            xai.evaluate(models["nested"], ds, maps, None, 1, parameters={"lit": {"level": 1}})["metric"]
        )
    finally:
        xai.METRICS.remove("lit")


# Localisation -----------------------------------------------------------------------------------------------------


def test_the_mask_itself_is_perfect_and_its_negative_the_worst(square):
    perfect = square.astype(np.float32)
    best = {"intersection_over_sum": 0.5}
    # The best Dice is that of the whole image; the pixels of the mask, tied, come last;
    # and mean + 1 SD is more than 1, so nothing is found.
    least = {"best_dice": 2 * 64 / (1024 + 64), "average_precision": 1 / 16, "pixel_accuracy": 15 / 16}
    for metric in LOCATED:
        assert score(metric, perfect, square) == pytest.approx(best.get(metric, 1), abs=0.03), metric
        worst = score(metric, 1 - perfect, square)
        assert worst == pytest.approx(least.get(metric, 0), abs=1e-9), metric


def test_a_constant_map_scores_chance(square):
    constant = np.full((1, SIZE, SIZE), 3.0)
    assert score("pointing_game", constant, square) == pytest.approx(1 / 16)
    assert score("relevance_mass", constant, square) == pytest.approx(1 / 16)
    assert score("roc_auc", constant, square) == pytest.approx(0.5)
    assert score("iou", constant, square) == 0
    levels = chance(data(square), LOCATED).set_index("metric")["value"]
    known = (
        "pointing_game",
        "hit_rate",
        "relevance_mass",
        "relevance_rank",
        "energy_pointing_game",
        "average_precision",
    )
    assert levels.to_dict() == {**dict.fromkeys(known, 1 / 16), "roc_auc": 0.5}
    for metric in ("relevance_mass", "energy_pointing_game", "average_precision"):
        assert score(metric, constant, square) == pytest.approx(1 / 16), metric


def test_iou_of_shifted_squares(square):
    shifted = np.roll(square, 4, axis=2).astype(np.float32)
    assert score("iou", shifted, square) == pytest.approx(32 / 96)
    assert score("iou", shifted, square, threshold="top_area", area=1 / 16) == pytest.approx(32 / 96)
    assert score("iou", np.ones((1, SIZE, SIZE)), square, threshold="top_area", area=1.0) == pytest.approx(1 / 16)


def test_binary_map_rules():
    ramp = np.arange(100.0).reshape(10, 10)
    assert binary_map(ramp, "mean_std").sum() == (ramp > ramp.mean() + ramp.std()).sum() == 21
    assert binary_map(ramp, "top_area", area=0.25).sum() == 25
    assert binary_map(ramp, "top_area", area=0.25).ravel()[75:].all()
    tied = binary_map(np.zeros((4, 4)), "top_area", area=0.25)
    assert tied.ravel()[:4].all()
    assert tied.sum() == 4


def test_thresholded_scores_of_shifted_squares(square):
    """32 of 64 pixels in common: by hand."""
    shifted = np.roll(square, 4, axis=2).astype(np.float32)
    assert score("dice", shifted, square) == pytest.approx(64 / 128)
    assert score("intersection_over_sum", shifted, square) == pytest.approx(32 / 128)
    assert score("pixel_accuracy", shifted, square) == pytest.approx(1 - 64 / 1024)
    assert score("relevance_rank", shifted, square) == pytest.approx(0.5)


@given(st.integers(0, 2**31))
def test_relations_between_the_overlaps(seed):
    rng = np.random.default_rng(seed)
    maps, masks = rng.normal(size=(1, 12, 12)), rng.random((1, 12, 12)) > 0.7
    masks[0, 0, 0] = True
    for threshold in ("mean_std", "otsu", "fixed", "top_area"):
        iou, part, dice = (score(m, maps, masks, threshold=threshold) for m in ("iou", "intersection_over_sum", "dice"))
        assert part == pytest.approx(iou / (1 + iou))
        assert dice == pytest.approx(2 * part)
    by_hand = [score("dice", maps, masks, threshold="top_area", area=k / 100)[0] for k in range(1, 101)]
    assert score("best_dice", maps, masks) == pytest.approx(max(by_hand))


def test_a_level_is_tuned_on_other_images(square):
    """The lesion has the value 1 in a surrounding of 0.5 in an image of 0: levels of 0.5 and more find it alone."""
    maps = square.astype(np.float32)
    maps[0, 4:20, 12:28] += 0.5
    maps = np.minimum(maps, 1)
    assert tune_level(maps, square) == pytest.approx(0.5)
    assert score("iou", maps, square, threshold="fixed", level=0.5) == 1
    assert score("iou", maps, square, threshold="fixed", level=0.4) == pytest.approx(64 / 256)
    with pytest.raises(ValueError, match="cannot be tuned"):
        tune_level(maps, np.zeros_like(square))


def test_pointing_game_tolerance_and_ties(square):
    point = np.zeros((1, SIZE, SIZE), np.float32)
    point[0, 10, 12] = 1  # four pixels left of the mask
    assert score("pointing_game", point, square, tolerance=3) == 0
    assert score("pointing_game", point, square, tolerance=4) == 1
    point[0, 10, 20] = 1  # a second, equal maximum inside
    assert score("pointing_game", point, square) == 0.5


def test_relevance_mass_counts_positive_values_only(square):
    signed = np.where(square, 2.0, -1.0)
    assert score("relevance_mass", signed, square) == 1
    assert np.isnan(score("relevance_mass", -np.ones((1, SIZE, SIZE)), square))


@given(st.integers(0, 2**31), st.floats(0.1, 10), st.floats(-5, 5))
def test_ranking_metrics_ignore_scale_and_offset(seed, scale, offset):
    rng = np.random.default_rng(seed)
    maps, masks = rng.normal(size=(1, 12, 12)), rng.random((1, 12, 12)) > 0.7
    masks[0, 0, 0], masks[0, 0, 1] = True, False
    unscaled = [m for m in LOCATED if m != "relevance_mass"]
    for metric in unscaled:
        assert score(metric, maps, masks) == pytest.approx(score(metric, scale * maps + offset, masks), abs=1e-4)


def test_a_mask_that_fills_the_image_has_no_auc():
    full = np.ones((1, SIZE, SIZE), bool)
    assert np.isnan(score("roc_auc", np.random.default_rng(0).random((1, SIZE, SIZE)), full))
    assert score("pointing_game", np.zeros((1, SIZE, SIZE)), full) == 1


# Faithfulness -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counting():
    """p(class 1) is the part of white pixels in the left half: a two-class model whose probabilities are linear in
    it."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Cropping2D(((0, 0), (0, SIZE // 2)))(inputs)
    p = keras.ops.clip(keras.ops.mean(x, axis=(1, 2, 3)) / 255, 1e-6, 1 - 1e-6)[:, None]
    logits = keras.ops.log(keras.ops.concatenate([1 - p, p], axis=1))
    return keras.Model(inputs, keras.layers.Softmax()(logits))


def test_deletion_and_insertion_of_a_linear_probability(counting):
    """White image, black fill. Best order: the left half first. p falls from 1 to 0 over the first half: AUC 1/4."""
    white = data(np.ones((1, SIZE, SIZE)), np.full((1, SIZE, SIZE, 3), 255, np.uint8), names=("a", "b"))
    best = np.zeros((1, SIZE, SIZE), np.float32)
    best[:, :, : SIZE // 2] = 1
    black = {m: {"n_steps": 64, "fill": "black"} for m in FAITHFUL}
    found = xai.evaluate(counting, white, best, FAITHFUL, 1, parameters=black).set_index("metric")["value"]
    assert found["deletion_auc"] == pytest.approx(0.25, abs=1e-3)
    assert found["insertion_auc"] == pytest.approx(0.75, abs=1e-3)
    worst = xai.evaluate(counting, white, -best, FAITHFUL, 1, parameters=black, reading="signed")
    worst = worst.set_index("metric")["value"]
    assert worst["deletion_auc"] == pytest.approx(0.75, abs=1e-3)
    assert worst["insertion_auc"] == pytest.approx(0.25, abs=1e-3)


def test_curves_start_and_end_at_the_image_and_the_fill(models, images):
    p = xai.predict(models["flat softmax"], images, probabilities=True)[:, 2]
    black = xai.predict(models["flat softmax"], 0 * images, probabilities=True)[:, 2]
    of_model = {"model": models["flat softmax"], "images": images, "targets": np.full(5, 2, np.int32)}
    case = Case(images[..., 0], **of_model, batch_size=7)
    for insert, ends in ((False, (p, black)), (True, (black, p))):
        x, curve = perturbation_curve(case, n_steps=6, fill="black", insert=insert)
        np.testing.assert_allclose(curve[:, [0, -1]].T, ends, atol=1e-5)
        assert x[0] == 0
        assert x[-1] == 1
        assert curve.shape == (5, 7)


def test_what_no_map_changes_is_computed_once(counting, monkeypatch):
    """Three maps by three metrics: logits of the images once, and of each fill once; the values are those of one by
    one."""
    passed: list[int] = []
    of_images = metric_module.logits

    def counted(network, images, batch_size):
        passed.append(len(images))
        return of_images(network, images, batch_size)

    monkeypatch.setattr(metric_module, "logits", counted)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
    ds = data(np.ones((4, SIZE, SIZE)), pixels, names=("a", "b"))
    maps = {name: rng.random((4, SIZE, SIZE)).astype(np.float32) for name in "uvw"}
    metrics = [*FAITHFUL, "confidence_drop"]
    together = evaluate_all(counting, ds, maps, metrics, 1)
    assert passed == [4, 4, 4]
    alone = pd.concat([xai.evaluate(counting, ds, found, metrics, 1) for found in maps.values()])
    np.testing.assert_allclose(together["value"], alone["value"], atol=1e-6)  # float32, in passes of other sizes


def test_confidence_of_a_linear_probability(counting):
    """White image: p = 1. A map of half the left half keeps, or hides, half of the score."""
    white = data(np.ones((1, SIZE, SIZE)), np.full((1, SIZE, SIZE, 3), 255, np.uint8), names=("a", "b"))
    quarter = np.zeros((1, SIZE, SIZE), np.float32)
    quarter[:, :, : SIZE // 4] = 7.0
    quarter[:, :, SIZE // 2 :] = -1.0
    chosen = ["average_drop", "average_increase", "average_gain", "confidence_drop", "fidelity", "pixel_perturbation"]
    black = {m: {"fill": "black"} | ({"area": 0.25} if m in chosen[4:] else {}) for m in chosen}
    found = xai.evaluate(counting, white, quarter, chosen, 1, parameters=black, reading="signed")
    found = found.set_index("metric")["value"]
    for metric in ("average_drop", "confidence_drop", "fidelity"):
        assert found[metric] == pytest.approx(0.5, abs=1e-4), metric
    assert found["pixel_perturbation"] == pytest.approx(0, abs=1e-4)  # the bottom quarter lies in the right half
    assert found["average_increase"] == 0
    grey = data(np.ones((1, SIZE, SIZE)), np.full((1, SIZE, SIZE, 3), 51, np.uint8), names=("a", "b"))
    white_fill = {m: {"fill": "white"} for m in chosen[:3]}
    found = xai.evaluate(counting, grey, quarter, chosen[:3], 1, parameters=white_fill).set_index("metric")["value"]
    assert found["average_gain"] == pytest.approx(0.5, abs=1e-4)  # p from 0.2 to 0.6
    assert found["average_increase"] == 1
    assert found["average_drop"] == 0
    ramp = np.where(quarter > 0, np.linspace(0.5, 1, SIZE, dtype=np.float32)[:, None], 0)
    hard = {"confidence_drop": {"fill": "black", "mask": "hard"}}
    found = xai.evaluate(counting, white, ramp, ["confidence_drop"], 1, parameters=hard, reading="signed")
    rows = (np.linspace(0.5, 1, SIZE) > ramp.mean() + ramp.std()).mean()  # of the quarter that the mask has, wholly
    assert found["value"].iloc[0] == pytest.approx(rows / 2, abs=1e-4)


def test_sensitivity_n_of_the_true_contributions():
    """A linear logit: the drop of a set is the sum of its pixels' contributions, a correlation of 1."""
    rng = np.random.default_rng(4)
    inputs = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    kernel = rng.normal(size=(SIZE * SIZE * 3, 2)).astype(np.float32) / 100
    model.layers[-1].set_weights([kernel, np.zeros(2)])
    pixels = rng.integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    ds = data(np.ones((2, SIZE, SIZE)), pixels, names=("a", "b"))
    maps = (pixels * kernel[:, 1].reshape(SIZE, SIZE, 3)).sum(-1)
    options = {"sensitivity_n": {"fill": "black", "n_samples": 30, "seed": 2}}
    for sign in (1, -1):
        found = xai.evaluate(model, ds, sign * maps, ["sensitivity_n"], 1, parameters=options)["value"]
        np.testing.assert_allclose(found, sign, atol=1e-4)
    noise = rng.normal(size=maps.shape)
    assert np.abs(xai.evaluate(model, ds, noise, ["sensitivity_n"], 1, parameters=options)["value"]).max() < 0.6


# Complexity -------------------------------------------------------------------------------------------------------


def test_complexity_of_one_pixel_and_of_all():
    maps = np.zeros((4, 10, 10), np.float32)
    maps[0, 3, 4] = -2.0
    maps[1] = 5.0
    maps[2, 0, :5] = [1, 1, 1, 1, 0.05]
    table = xai.evaluate(None, data(np.ones((4, 10, 10))), maps, ["sparseness", "entropy", "effective_complexity"])
    found = table.pivot(index="image_id", columns="metric", values="value").to_numpy()  # columns in their order
    np.testing.assert_allclose(found[0], [0.01, 0, 0.99], atol=1e-9)
    np.testing.assert_allclose(found[1], [1, np.log(100), 0], atol=1e-9)
    assert found[2, 0] == pytest.approx(0.04)
    assert np.isnan(found[3]).all()


# Controls and statistics ------------------------------------------------------------------------------------------


def test_control_maps(square):
    ds = data(np.concatenate([square, np.zeros_like(square)]))
    maps = control_maps(ds, seed=1, grid=(4, 4))
    assert set(maps) == {"random", "centre", "edges", "laplace", "intensity", "oracle", "oracle_full"}
    assert all(m.shape == (2, SIZE, SIZE) and np.isfinite(m).all() for m in maps.values())
    assert maps["centre"][0].argmax() in (15 * SIZE + 15, 15 * SIZE + 16, 16 * SIZE + 15, 16 * SIZE + 16)
    assert score("relevance_mass", control_maps(data(square), grid=(SIZE, SIZE))["oracle"], square) == pytest.approx(1)
    coarse = control_maps(data(square), grid=(4, 4))["oracle"]
    assert np.unravel_index(coarse[0].argmax(), (SIZE, SIZE)) in ((11, 19), (11, 20), (12, 19), (12, 20))  # its middle
    assert "oracle" not in control_maps(ImageDataset(ds.pixels, ds.labels, ds.class_names, ds.ids))


def test_control_oracle_of_uneven_fields():
    full = data(np.ones((1, 30, 30)))
    np.testing.assert_allclose(control_maps(full, grid=(7, 4))["oracle"], 1, atol=1e-6)


def test_evaluate_all(square):
    table = evaluate_all(None, data(square), {"good": square.astype(float), "bad": 1.0 - square}, ["iou"])
    assert list(table) == ["method", "weights", "image_id", "metric", "reading", "value"]
    assert set(table["weights"]) == {"none"}, "maps of no method"
    assert table.set_index("method")["value"].to_dict() == {"good": 1.0, "bad": 0.0}


def test_a_table_summarises_itself(square):
    masks = np.repeat(square, 8, axis=0)
    ds = dataclasses.replace(data(masks), patients=list("aaaabbbb"))
    maps = masks * np.linspace(0.1, 1, 8)[:, None, None] + np.linspace(0, 0.5, 8)[:, None, None]
    table = evaluate_all(None, ds, {"good": maps, "bad": 1 - maps}, ["relevance_mass", "iou"])
    assert table.summary().equals(summarise(table, ["method", "weights", "metric", "reading"]))
    assert list(xai.evaluate(None, ds, maps, ["iou"]).summary()) == [
        "metric",
        "reading",
        "mean",
        "low",
        "high",
        "n",
        "missing",
    ]
    models = [*"mn"] * (len(table) // 2)
    assert table.assign(model=models).summary()["model"].tolist() == [*"mn"] * 4, "models are not averaged"
    by_patient = table.assign(patient_id=[*"aaaabbbb"] * 4).summary()
    assert table.summary(ds).equals(by_patient)
    assert not by_patient.equals(table.summary())
    with pytest.raises(ValueError, match="ds does not have 8 of the table's rows"):
        table[table["metric"] == "iou"].summary(ds.take(4))
    with pytest.raises(ValueError, match="no scores of images to summarise"):
        table[["method", "value"]].summary()


def test_a_model_of_other_classes_is_refused():
    ds = xai.load_dataset("phantom", limit=4, image_size=32)
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    with pytest.raises(ValueError, match=r"answers with 3 classes and the data have 2 \(benign, malignant\)"):
        xai.evaluate(model, ds, np.ones((4, 32, 32), np.float32), ["iou"])
    for use in (
        lambda: compare_maps.measure(model, ds, ["vanilla_gradients"], ["iou"]),
        lambda: grid_mosaics(model, ds, 2),
        lambda: prediction_change(model, ds, ["blur"]),
        lambda: mc_dropout(model, ds, ["vanilla_gradients"]),
    ):
        with pytest.raises(ValueError, match="they do not belong together"):
            use()
    with pytest.raises(ValueError, match="maps is empty"):
        evaluate_all(model, ds, {})
    assert chance(ds, ["iou"])["value"].dtype == float, "joined to other values it would make them objects"
    unknown = dataclasses.replace(ds, masks=np.zeros_like(ds.masks), evidence=["unknown"] * 4)
    table = xai.evaluate(None, unknown, np.ones((4, 32, 32), np.float32), ["iou", "roc_auc", "pointing_game"])
    assert table["value"].isna().all()
