"""Maps with a sign beside maps without: read alike, or the comparison is one of signs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import xaiutils as xai
from xaiutils.attribution import titles_and_signs
from xaiutils.attribution.completeness import completeness_gap
from xaiutils.backend import keras
from xaiutils.beyond_maps.segmentation import segment_from_saliency
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation import chance, control_maps, evaluate_all, summarise
from xaiutils.evaluation.claims import claims
from xaiutils.evaluation.findings import in_words
from xaiutils.evaluation.ranking import agreement, disagreements, mean_ranks, rank
from xaiutils.evaluation.score_tables import of_reading
from xaiutils.evaluation.studies.label_randomisation import map_similarity
from xaiutils.evaluation.studies.randomisation import Stage, chance_similarity, stage_similarity
from xaiutils.map_reading import READINGS, read_maps
from xaiutils.statistics.regression import regress

PAIR = np.float32([[[-4, 1], [2, 3]]])  # the largest value by size is negative, and lies on the evidence
EVIDENCE = np.array([[[True, False], [False, False]]])

# By hand. The mask is the first pixel of [-4, 1, 2, 3], or of [0, 1, 2, 3], or of [4, 1, 2, 3]; mean + 1 SD of these is
# 3.19, 2.62 and 3.62.
BY_HAND = {
    "roc_auc": (0, 0, 1),
    "pointing_game": (0, 0, 1),
    "hit_rate": (0, 0, 1),
    "relevance_mass": (0, 0, 0.4),
    "relevance_rank": (0, 0, 1),
    "energy_pointing_game": (0, 0, 3 / 6),  # of [3, 0, 1, 2]
    "iou": (0, 0, 1),
    "intersection_over_sum": (0, 0, 0.5),
    "dice": (0, 0, 1),
    "best_dice": (2 / 5, 2 / 5, 1),
    "pixel_accuracy": (3 / 4, 2 / 4, 1),
    "average_precision": (1 / 4, 1 / 4, 1),
}


def data(masks: np.ndarray) -> ImageDataset:
    n, height, width = masks.shape
    return ImageDataset(
        pixels=np.full((n, height, width, 3), 90, np.uint8),
        labels=np.arange(n) % 2,
        class_names=["a", "b"],
        ids=[f"image {i}" for i in range(n)],
        masks=masks,
    )


def test_three_readings():
    expected = {"signed": [[-4, 1], [2, 3]], "positive": [[0, 1], [2, 3]], "magnitude": [[4, 1], [2, 3]]}
    for reading, values in expected.items():
        found = read_maps(PAIR, reading)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found[0], values)
    np.testing.assert_array_equal(read_maps(-PAIR, "magnitude"), read_maps(PAIR, "magnitude"))
    for wrong in ("absolute", "", None, 1):
        with pytest.raises(ValueError, match="reading=.*Known: signed, positive, magnitude"):
            read_maps(PAIR, wrong)


def test_every_localisation_metric_by_every_reading():
    located = [name for name, metric in xai.METRICS.items() if metric.needs == "masks"]
    assert set(located) == set(BY_HAND)
    table = evaluate_all(None, data(EVIDENCE), {"mine": PAIR}, located, reading=READINGS)
    found = table.pivot_table("value", "metric", "reading")
    for metric, expected in BY_HAND.items():
        np.testing.assert_allclose(found.loc[metric, list(READINGS)].to_numpy(float), expected, err_msg=metric)


def test_evaluate_never_ranks_a_map_by_having_a_sign():
    ds = data(EVIDENCE)
    assert xai.evaluate(None, ds, PAIR, ["roc_auc"])["value"].item() == 1  # was 0
    for method, expected in (("integrated_gradients", "magnitude"), ("hirescam", "positive"), ("rise", "signed")):
        row = xai.evaluate(None, ds, PAIR, ["roc_auc"], method=method).iloc[0]
        assert (row["reading"], row["value"]) == (expected, expected == "magnitude"), method
    asked = xai.evaluate(None, ds, PAIR, ["roc_auc"], method="hirescam", reading="magnitude")
    assert (asked["reading"].item(), asked["value"].item()) == ("magnitude", 1)
    read_before = {"method": "deep_lift", "method_parameters": {"reading": "magnitude"}}
    row = xai.evaluate(None, ds, np.abs(PAIR), ["roc_auc"], **read_before, reading="signed").iloc[0]
    assert (row["reading"], row["value"]) == ("magnitude", 1)  # no sign comes back
    with pytest.raises(KeyError, match="did you mean hirescam"):
        xai.evaluate(None, ds, PAIR, ["roc_auc"], method="hires_cam")
    with pytest.raises(ValueError, match="reading='abs' is unknown"):
        xai.evaluate(None, ds, PAIR, reading="abs")
    with pytest.raises(ValueError, match="reading is an empty list"):
        evaluate_all(None, ds, {"mine": PAIR}, reading=[])


def test_metrics_of_one_reading_say_so(linear, images):
    model, ds = linear[0], data(np.ones((2, *images.shape[1:3]), bool))
    ds = replace(ds, pixels=np.random.default_rng(1).integers(0, 255, ds.pixels.shape).astype(np.uint8))
    maps = {"mine": np.random.default_rng(0).normal(size=ds.pixels.shape[:3]).astype(np.float32)}
    metrics = ["sensitivity_n", "sparseness", "fidelity"]
    table = evaluate_all(model, ds, maps, metrics, 1, parameters={"sensitivity_n": {"n_samples": 20}}, reading=READINGS)
    said = table.groupby("metric", sort=False)["reading"].unique().map(list).to_dict()
    assert said == {"sensitivity_n": ["signed"], "sparseness": ["magnitude"], "fidelity": list(READINGS)}
    exact = xai.explain(model, ds.images, 1, "integrated_gradients", baseline="mean")
    options = {"sensitivity_n": {"n_samples": 20}}
    for reading in READINGS:  # a linear model's drops are the sums of the signed map, however it is asked for
        found = xai.evaluate(model, ds, exact, ["sensitivity_n"], 1, parameters=options, reading=reading)
        assert set(found["reading"]) == {"signed"}
        np.testing.assert_allclose(found["value"], 1, atol=1e-3)


def test_dark_evidence_is_found_by_magnitude():
    """A dark spot that speaks for the class: gradients x inputs are negative on all of it."""
    rng, masks = np.random.default_rng(0), np.zeros((4, 12, 12), bool)
    for i in range(4):
        masks[i, 2 + i : 5 + i, 3:7] = True
    grey = np.where(masks, 60, 120) + rng.integers(0, 20, masks.shape)
    ds = replace(data(masks), pixels=np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8))
    layers, inputs = keras.layers, keras.Input((12, 12, 3))
    dark = layers.Conv2D(1, 1, activation="relu", kernel_initializer="zeros", name="dark")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(dark)))
    model.get_layer("dark").set_weights([np.full((1, 1, 3, 1), -1 / 3, np.float32), np.float32([100])])
    model.layers[-1].set_weights([np.float32([[0, 1]]), np.zeros(2, np.float32)])
    maps = xai.explain(model, ds.images, 1, "gradients_x_inputs")
    assert maps[masks].max() < 0
    assert not maps[~masks].any()
    scores = {r: xai.evaluate(None, ds, maps, ["roc_auc"], reading=r)["value"].mean() for r in READINGS}
    assert scores == {"signed": 0, "positive": 0.5, "magnitude": 1}
    assert xai.evaluate(None, ds, maps, ["roc_auc"], method="gradients_x_inputs")["value"].mean() == 1
    deleted = {
        r: xai.evaluate(model, ds, maps, ["deletion_auc"], 1, parameters={"deletion_auc": {"n_steps": 12}}, reading=r)
        for r in READINGS
    }
    means = {r: table["value"].mean() for r, table in deleted.items()}
    assert means["magnitude"] < means["positive"] < means["signed"]


def test_controls_and_random_weights_are_read_as_the_methods_they_stand_beside():
    maps = {"hirescam": PAIR, "edges": np.abs(PAIR), "early": PAIR, "read": PAIR}
    how = {"early": {"method": "gradients_x_inputs"}, "read": {"method": "gradients_x_inputs", "reading": "positive"}}
    table = evaluate_all(None, data(EVIDENCE), maps, ["iou"], method_parameters=how)
    assert list(table["reading"]) == ["positive", "magnitude", "magnitude", "positive"]
    assert list(table["weights"]) == ["trained", "none", "trained", "trained"]
    random = evaluate_all(None, data(EVIDENCE), maps, ["iou"], method_parameters=how, weights="random")
    assert list(random["reading"]) == list(table["reading"])
    assert list(random["weights"]) == ["random", "none", "random", "random"]
    with pytest.raises(ValueError, match="expected 'trained' or 'random'"):
        evaluate_all(None, data(EVIDENCE), maps, ["iou"], weights="none")
    table = evaluate_all(None, data(EVIDENCE), maps, ["iou"], reading=("magnitude", "positive"))
    assert table.groupby("reading")["method"].nunique().to_dict() == {"magnitude": 4, "positive": 4}
    edges = table[table["method"] == "edges"]["value"]
    assert edges.nunique() == 1


def test_a_comparison_has_one_reading():
    rng = np.random.default_rng(0)
    masks = rng.random((8, 6, 6)) < 0.3
    sign = rng.choice([-1, 1], masks.shape)
    maps = {"deep_lift": (masks * sign).astype(np.float32), "grad_cam": rng.random(masks.shape).astype(np.float32)}
    ds = data(masks)
    both = ("magnitude", "positive")
    table = evaluate_all(None, ds, maps, ["roc_auc", "sparseness"], reading=both)
    table = pd.concat([table, chance(ds, ["roc_auc"], reading=both).assign(method="chance")])
    averaging = (
        rank,
        lambda t, _: claims(t),
        lambda t, _: mean_ranks(t),
        lambda t, _: summarise(t, ["method", "metric"]),
        lambda t, _: agreement(t),
        lambda t, _: regress(t.assign(p=0.5), ["p"]),
        lambda t, metric: disagreements(t, metric, "deep_lift", "grad_cam"),
        lambda t, metric: xai.plots.scatter_pair(t, metric, "deep_lift", "grad_cam"),
        lambda t, metric: xai.plots.against(t, metric, "value", ["deep_lift"]),
    )
    for compared in averaging:
        with pytest.raises(ValueError, match=r"several readings .magnitude, positive.*compare by one"):
            compared(table, "roc_auc")
    assert len(summarise(table, ["method", "metric", "reading"])) == 3 * 2 + 2
    dotted = xai.plots.scatter_pair(of_reading(table, "positive"), "roc_auc", "deep_lift", "grad_cam")
    assert dotted.axes[0].get_title() == "Pixel ROC AUC of 8 images"
    assert rank(of_reading(table[table["method"] != "chance"], "magnitude"), "roc_auc").ranks.index[0] == "deep_lift"
    page = in_words(table)
    for part in ("maps read by their magnitude", "maps read by their positive part"):
        assert page.count(part) == 1
    assert page.count("**Sparseness (Gini)** describes") == 1  # its reading is its own
    level = chance(ds, ["roc_auc"]).assign(method="chance")
    own = in_words(pd.concat([evaluate_all(None, ds, maps, ["roc_auc"]), level]))
    assert "Each method's maps are read as it declares: magnitude, positive." in own
    one = in_words(evaluate_all(None, ds, maps, ["roc_auc"], reading="positive"))
    assert "All maps are read by their positive part." in one


@pytest.mark.parametrize("method", ["gradients_x_inputs", "hirescam"])
def test_explain_reads_maps(models, images, method):
    raw = xai.explain(models["nested"], images, 1, method)
    assert raw.min() < 0
    for reading in READINGS:
        found = xai.explain(models["nested"], images, 1, method, reading=reading)
        np.testing.assert_array_equal(found, read_maps(raw, reading))
        together = xai.explain_all(models["nested"], images, 1, [method, "grad_cam"], reading=reading)[method]
        np.testing.assert_array_equal(together, found)
    names = {"a": {"method": method, "reading": "magnitude"}, "b": {"method": method}}
    found = xai.explain_all(models["nested"], images, 1, list(names), parameters=names, reading="positive")
    np.testing.assert_array_equal(found["a"], np.abs(raw))
    np.testing.assert_array_equal(found["b"], np.maximum(raw, 0))
    declared = xai.METHODS[method]
    assert declared.is_signed({})
    assert not declared.is_signed({"reading": "positive"})
    for wrong in ("abs", ["signed"], None):
        with pytest.raises(ValueError, match="unknown"):
            xai.explain(models["nested"], images, 1, method, reading=wrong)
        with pytest.raises(ValueError, match="unknown"):
            xai.explain_all(models["nested"], images, 1, [method], parameters={method: {"reading": wrong}})


def test_how_maps_are_drawn():
    titles, signed = titles_and_signs(["grad_cam", "mine"], {"mine": {"method": "grad_cam", "relu": False}})
    assert titles == {"grad_cam": "Grad-CAM", "mine": "mine"}
    assert signed == {"grad_cam": False, "mine": True}


def test_every_method_declares_its_reading():
    for name, method in xai.METHODS.items():
        assert method.own_reading({}) in READINGS, name
    own = {name: xai.METHODS[name].own_reading({}) for name in xai.METHODS if xai.METHODS[name].is_signed({})}
    assert {"gradients_x_inputs", "integrated_gradients", "deep_lift"} <= {m for m in own if own[m] == "magnitude"}
    assert {"hirescam", "occlusion", "relevance_cam"} <= {m for m in own if own[m] == "positive"}
    assert xai.METHODS["lrp"].own_reading({"rule": "epsilon"}) == "magnitude"  # gradients x inputs of a ReLU network
    assert xai.METHODS["hirescam"].own_reading({"reading": "magnitude"}) == "magnitude"


SHARED = ("gradients_x_inputs", "integrated_gradients", "integrated_gradients_bw", "expected_gradients", "deep_lift")


@pytest.mark.parametrize("method", [*SHARED, "lrp"])
def test_shares_are_reduced_over_channels(linear, images, method):
    """Of a linear model the share of a channel is w (x - x'), of all of these methods."""
    x, w = images[:2], linear[1][..., 1]
    start = {"integrated_gradients_bw": 127.5, "expected_gradients": 127.5}.get(method, 0)
    extra = {"lrp": {"rule": "epsilon"}}.get(method, {})
    if method == "expected_gradients":
        extra = {"background": np.full((1, 1, 1, 3), start, np.float32)}
    shares = w * (x - start)
    sums = {"sum": shares.sum(-1), "sum_abs": np.abs(shares).sum(-1), "max_abs": np.abs(shares).max(-1)}
    declared = xai.METHODS[method]
    for reduction, expected in sums.items():
        found = xai.explain(linear[0], x, 1, method, reduction=reduction, **extra)
        np.testing.assert_allclose(found, expected, atol=2e-4)
        assert declared.is_signed({"reduction": reduction}) == (reduction == "sum")
    np.testing.assert_allclose(xai.explain(linear[0], x, 1, method, **extra), sums["sum"], atol=2e-4)
    if declared.total is not None:
        with pytest.raises(ValueError, match="only the sum over channels adds up"):
            completeness_gap(linear[0], x, 1, method, reduction="sum_abs", **extra)


def test_bases_are_read_as_asked(models, images):
    model, x = models["nested"], images[:2]
    signed = xai.explain(model, x, 1, "gradients_x_inputs")
    assert signed.min() < 0
    given = {"base": "gradients_x_inputs"}
    for base in (given, {"base": "vanilla_gradients", "reduction": "sum"}):
        # One copy without noise is the base itself; two equal copies have no variance.
        plain = xai.explain(model, x, 1, "smoothgrad", n_samples=1, noise=0.0, base_reading="magnitude", **base)
        assert plain.min() >= 0
    one = {"n_samples": 1, "noise": 0.0, **given}
    for reading in READINGS:
        found = xai.explain(model, x, 1, "smoothgrad", base_reading=reading, **one)
        np.testing.assert_allclose(found, read_maps(signed, reading), rtol=1e-5, atol=1e-6)
        found = xai.explain(model, x, 1, "smoothgrad_squared", base_reading=reading, **one)
        np.testing.assert_allclose(found, read_maps(signed, reading) ** 2, rtol=1e-4, atol=1e-6)
        assert xai.METHODS["smoothgrad"].is_signed({"base_reading": reading, **given}) == (reading == "signed")
    noisy = {"n_samples": 4, **given}
    means = {r: xai.explain(model, x, 1, "smoothgrad", base_reading=r, **noisy) for r in READINGS}
    assert (means["magnitude"] >= means["positive"] - 1e-6).all()
    assert (means["positive"] >= means["signed"] - 1e-6).all()
    np.testing.assert_allclose(means["magnitude"], 2 * means["positive"] - means["signed"], atol=1e-5)
    assert xai.METHODS["smoothgrad"].own_reading({"base": "hirescam"}) == "positive"
    with pytest.raises(ValueError, match="base_reading: 'abs' is not allowed"):
        xai.explain(model, x, 1, "smoothgrad", base_reading="abs")


def test_xrai_ranks_regions_by_what_it_is_told(models, images):
    model, x = models["nested"], images[:1]
    base = {"base": "integrated_gradients"}
    by_size = xai.explain(model, x, 1, "xrai", **base, base_parameters={"reduction": "sum_abs"})  # was a TypeError
    assert by_size.min() >= 0
    read = xai.explain(model, x, 1, "xrai", **base, base_reading="magnitude")
    assert read.min() >= 0
    assert not np.array_equal(read, by_size)  # the channels' sizes, against the size of their sum
    declared = xai.METHODS["xrai"]
    assert declared.is_signed({})  # the paper's
    assert not declared.is_signed({"base_reading": "positive"})
    assert not declared.is_signed({**base, "base_parameters": {"reduction": "sum_abs"}})
    turned = xai.explain(model, x, 1, "xrai", base="gradients_x_inputs", base_reading="magnitude")
    assert turned.min() >= 0


def test_a_map_that_only_turned_its_sign_has_not_changed():
    maps = np.random.default_rng(0).normal(size=(2, 12, 12)).astype(np.float32)
    names = ["gradients_x_inputs", "hirescam", "mine"]
    stages = [Stage("none", 0, dict.fromkeys(names, maps), 1.0), Stage("last", 1, dict.fromkeys(names, -maps), 0.5)]
    how = {"mine": {"method": "gradients_x_inputs", "reading": "signed"}}
    table = stage_similarity(stages, ["a", "b"], ["spearman"], how)
    last = table[table["depth"] == 1].groupby("method")[["reading", "value"]].first()
    assert last.loc["gradients_x_inputs"].tolist() == ["magnitude", pytest.approx(1)]
    assert last.loc["hirescam", "reading"] == "positive"
    assert last.loc["hirescam", "value"] < 0
    assert last.loc["mine"].tolist() == ["signed", pytest.approx(-1)]
    pair = {name: np.stack([maps[0], -maps[0]]) for name in names}
    level = chance_similarity(pair, ["a", "b"], ["spearman"], parameters=how).set_index("method")["value"]
    assert level["gradients_x_inputs"] == pytest.approx(1)
    assert level["mine"] == pytest.approx(-1)


def test_a_batch_names_the_best_by_each_reading():
    from xaiutils.batch.report import best_methods, scores_as_text

    rng = np.random.default_rng(0)
    rows = [
        {"method": m, "image_id": f"i{i}", "metric": metric, "reading": reading, "value": mean + 0.01 * rng.normal()}
        for metric, known in (("iou", ("magnitude", "positive")), ("entropy", ("magnitude",)))
        for reading in known
        for m, mean in (("deep_lift", 0.9 if reading == "magnitude" else 0.1), ("hirescam", 0.5))
        for i in range(10)
    ]
    images = pd.DataFrame(rows).assign(dataset="phantom", model="cnn", recipe="modern", seed=0, notebook="05")
    by = ["dataset", "model", "recipe", "seed", "notebook", "method", "metric", "reading"]
    scores = summarise(images, by)
    best = best_methods(scores, images)
    found = best.set_index(["metric", "reading"])["best"].to_dict()
    assert found == {
        ("iou", "magnitude"): "deep_lift",
        ("iou", "positive"): "hirescam",
        ("entropy", "magnitude"): "hirescam",  # lower is better, and it is there once
    }
    assert set(best.loc[best["warning"] == "does not separate", "metric"]) == {"entropy"}
    shown = scores_as_text(scores).set_index("method")
    assert "entropy (does not separate), magnitude" in shown
    assert shown.loc["deep_lift", "iou, positive"].startswith("0.10 [")
    assert shown.loc["deep_lift", "iou, magnitude"].startswith("0.90 [")


def test_an_aggregate_reads_each_layers_map(models, images):
    model, x = models["nested"], images[:2]
    given = {"base": "hirescam", "scale_layers": "none", "fusion": "mean"}
    layer = xai.attribution.Network.of(model).cam_layer()
    raw = xai.explain(model, x, 1, "hirescam", layer=layer)
    assert raw.min() < 0
    for reading in READINGS:
        found = xai.explain(model, x, 1, "layer_aggregate", layers=[layer], base_reading=reading, **given)
        read = read_maps(raw, reading)
        low, high = (f(read, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
        np.testing.assert_allclose(found, (read - low) / (high - low), atol=1e-5)


def test_controls_have_no_sign():
    masks = np.zeros((2, 16, 16), bool)
    masks[:, 3:9, 4:8] = True
    ds = replace(data(masks), pixels=np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3)).astype(np.uint8))
    for name, maps in control_maps(ds).items():
        assert maps.min() >= 0, name


def test_an_outline_of_dark_evidence():
    """All of a map's large values are negative: read as they are, the square would be background."""
    image = np.full((32, 32, 3), 200, np.float32)
    image[8:16, 8:16] = 20
    image += np.random.default_rng(0).integers(0, 10, image.shape)
    saliency = np.zeros((32, 32), np.float32)
    saliency[8:16, 8:16] = -1
    expected = np.abs(saliency) > 0
    np.testing.assert_array_equal(segment_from_saliency(image, saliency, 0.9, method="gmm"), expected)
    assert not segment_from_saliency(image, saliency, 0.9, method="gmm", reading="positive").any()


def test_libraries_maps_are_read_and_reduced_too(linear, images):
    pytest.importorskip("tf_explain")
    x, shares = images[:2], images[:2] * linear[1][..., 1]
    given = {"method": "gradients_x_inputs", "library": "tf-explain"}
    found = xai.explain(linear[0], x, 1, **given, reading="magnitude")
    np.testing.assert_allclose(found, np.abs(shares.sum(-1)), atol=2e-4)
    found = xai.explain(linear[0], x, 1, **given, reduction="sum_abs")
    np.testing.assert_allclose(found, np.abs(shares).sum(-1), atol=2e-4)
    path = xai.explain(linear[0], x, 1, "integrated_gradients", "tf-explain", n_steps=3, reduction="sum_abs")
    assert path.min() >= 0


def test_maps_of_two_models_are_compared_by_their_own_reading(linear):
    """The same weights with the other sign: gradients x inputs turn, and name the same pixels."""
    model, w = linear
    other = keras.models.clone_model(model)
    other.set_weights([-v for v in model.get_weights()])
    rng = np.random.default_rng(0)
    ds = replace(
        data(np.ones((2, *w.shape[:2]), bool)), pixels=rng.integers(1, 255, (2, *w.shape[:3])).astype(np.uint8)
    )
    names = {"a": {"method": "gradients_x_inputs"}, "b": {"method": "gradients_x_inputs", "reading": "signed"}}
    table = map_similarity(model, {"turned": other}, ds, ["a", "b"], 1, ["spearman"], parameters=names)
    found = table.groupby("method")[["reading", "value"]].first()
    assert found.loc["a"].tolist() == ["magnitude", pytest.approx(1)]
    assert found.loc["b"].tolist() == ["signed", pytest.approx(-1)]


def test_maps_explained_anew_are_read_as_the_first(models, images):
    model, ds = models["nested"], data(np.ones((2, *images.shape[1:3]), bool))
    ds = replace(ds, pixels=images[:2].astype(np.uint8), class_names=("a", "b", "c"))
    maps = xai.explain(model, ds.images, 1, "gradients_x_inputs")
    same = {"transform_consistency": {"transform": "original"}}
    for reading in (None, *READINGS):
        found = xai.evaluate(
            model, ds, maps, list(same), 1, parameters=same, method="gradients_x_inputs", reading=reading
        )
        assert set(found["reading"]) == {reading or "magnitude"}
        np.testing.assert_allclose(found["value"], 1, atol=1e-6)
    noise = {"max_sensitivity": {"n_samples": 1, "noise": 0.0}}
    found = xai.evaluate(model, ds, maps, list(noise), 1, parameters=noise, method="gradients_x_inputs")
    assert set(found["reading"]) == {"signed"}
    np.testing.assert_allclose(found["value"], 0, atol=1e-6)
