"""The axioms of class activation maps: models for which they hold exactly, and what each method adds up to."""

import numpy as np
import pytest
from conftest import SIZE

import xaiutils as xai
from xaiutils.attribution import METHODS, ModelError, Network
from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.studies.cam_axioms import (
    CAM_METHODS,
    DEFAULT_METHODS,
    cam_axioms,
    channel_sums,
)
from xaiutils.graph.passes import activation, enlarge

GRADIENT_METHODS = ("grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hirescam", "layer_cam")
N_CLASSES = 3


@pytest.fixture(scope="module")
def ds(images):
    return ImageDataset(images.astype(np.uint8), [0] * 5, ("a", "b", "c"), [f"i{k}" for k in range(5)])


def linear_head(bias):
    """Mean pooling and one linear layer: the logits are linear in the layer "features"."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(7, 3, strides=4, activation="relu", name="features")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    head = keras.layers.Dense(N_CLASSES, use_bias=bias, name="head")
    model = keras.Model(inputs, keras.layers.Softmax()(head(x)))
    if bias:
        head.bias.assign([0.3, -0.2, 0.1])
    return model


def errors(table, axiom):
    return table[table["axiom"] == axiom].pivot_table(values="value", index="image_id", columns="method", sort=False)


def test_a_linear_head_without_bias_satisfies_both_axioms(ds):
    table = cam_axioms(linear_head(bias=False), ds, CAM_METHODS, ["features"], targets=1)
    assert list(table.columns) == ["method", "layer", "image_id", "axiom", "value"]
    assert len(table) == len(CAM_METHODS) * 5 * 2
    for axiom in ("sensitivity", "conservation"):
        found = errors(table, axiom)
        assert (found[["grad_cam", "xgrad_cam", "hirescam"]] < 1e-4).all().all()
        # Ablation-CAM's weights are the drops themselves, not the drops by the sum of the channel.
        assert (found[["grad_cam_plus_plus", "layer_cam", "relevance_cam", "ablation_cam"]] > 0.1).all().all()
    assert (errors(table, "conservation")["xrelevance_cam"] < 1e-4).all()
    assert (errors(table, "sensitivity")["xrelevance_cam"] > 0.1).all()  # z+ knows no negative weights


def test_a_bias_is_what_conservation_misses(ds):
    model = linear_head(bias=True)
    table = cam_axioms(model, ds, ["grad_cam", "hirescam"], ["features"], targets=1)
    S = xai.predict(model, ds.images)[:, 1]
    np.testing.assert_allclose(errors(table, "conservation")["grad_cam"], 0.2 / np.abs(S), rtol=1e-3)
    assert (errors(table, "sensitivity") < 1e-3).all().all()


def test_the_score_that_relevance_starts_with(ds):
    """A map that sums to S_t / N misses S_t by (N - 1) / N."""
    model = linear_head(bias=False)
    methods = ["xrelevance_cam", "hirescam"]
    found = errors(cam_axioms(model, ds, methods, ["features"], 1, score="logit"), "conservation")
    np.testing.assert_allclose(found["xrelevance_cam"], 1 - 1 / N_CLASSES, rtol=1e-4)
    assert (found["hirescam"] < 1e-4).all()


@pytest.mark.parametrize("layer", ["conv1", "norm", "conv2"])
def test_against_the_formulas_written_out(models, ds, layer):
    model, target = models["flat softmax"], 2
    table = cam_axioms(model, ds, GRADIENT_METHODS, [layer], target)
    body = keras.Model(model.input, model.get_layer(layer).output)
    x = after = keras.Input(model.get_layer(layer).output.shape[1:])
    names = [x.name for x in model.layers]
    for name in names[names.index(layer) + 1 : names.index("classes") + 1]:
        after = model.get_layer(name)(after)
    rest = keras.Model(x, after)
    A = body(ds.images)
    with tf.GradientTape() as tape:
        tape.watch(A)
        S = rest(A, training=False)[:, target]
        total = tf.reduce_sum(S)
    g, A, S = tape.gradient(total, A).numpy(), A.numpy(), S.numpy()
    for i in range(5):
        drops, M = [], {m: [] for m in GRADIENT_METHODS}
        for k in range(A.shape[-1]):
            without = A[i : i + 1].copy()
            without[..., k] = 0
            drops.append(S[i] - rest(without, training=False).numpy()[0, target])
            a, d = A[i, ..., k].astype(np.float64), g[i, ..., k].astype(np.float64)
            M["grad_cam"].append(d.mean() * a.sum())
            M["hirescam"].append((d * a).sum())
            M["xgrad_cam"].append((d * a).sum())  # all sums of A here are far from 0, or exactly 0
            M["layer_cam"].append((np.maximum(d, 0) * a).sum())
            alpha = np.divide(d**2, 2 * d**2 + a.sum() * d**3, out=np.zeros_like(d), where=d != 0)
            M["grad_cam_plus_plus"].append((alpha * np.maximum(d, 0)).sum() * a.sum())
        drops = np.array(drops)
        for m, sums in M.items():
            rows = table[(table["method"] == m) & (table["image_id"] == f"i{i}")].set_index("axiom")["value"]
            expected = np.abs(drops - sums).sum() / np.abs(drops).sum()
            assert rows["sensitivity"] == pytest.approx(expected, rel=1e-3, abs=1e-4), m
            assert rows["conservation"] == pytest.approx(abs(S[i] - sum(sums)) / abs(S[i]), rel=1e-3, abs=1e-4), m


def test_channel_sums_are_those_of_the_methods(models, ds):
    """Where a map is a weighted sum of channels, its weights are the channel sums over the channels' own sums."""
    model = models["flat softmax"]
    network, targets = Network.of(model), np.ones(5, np.int32)
    A = activation(network, "norm", ds.images, 5)
    weighted = ("grad_cam", "grad_cam_plus_plus", "xgrad_cam", "score_cam")
    sums = channel_sums(network, "norm", ds.images, targets, [METHODS[m] for m in weighted], 32, np.zeros(0))
    total = A.sum(axis=(1, 2))
    for method in weighted:
        weights = np.divide(sums[method], total, out=np.zeros_like(sums[method]), where=total != 0)
        maps = np.maximum(np.einsum("nk,nrck->nrc", weights, A), 0)
        found = xai.explain(model, ds.images, targets, method, layer="norm")
        np.testing.assert_allclose(enlarge(maps, SIZE, SIZE), found, atol=2e-4 * np.abs(found).max(), err_msg=method)


@pytest.mark.parametrize("name", ["nested", "one-unit sigmoid", "vit"])
def test_every_model_and_batch_size(models, ds, name):
    layers = [] if name != "vit" else [Network.of(models[name]).cam_layer()]
    methods = DEFAULT_METHODS if name != "vit" else ("xgrad_cam", "hirescam", "xrelevance_cam")
    table = cam_axioms(models[name], ds, methods, layers)
    assert table["layer"].nunique() == (1 if layers else 2)
    assert np.isfinite(table["value"]).all()
    twin = table[table["method"].isin(["xgrad_cam", "hirescam"])]
    one, other = (part["value"].to_numpy() for _, part in twin.groupby("method"))
    if name != "vit":  # whose channels may sum to nearly 0, where epsilon counts
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    again = cam_axioms(models[name], ds, methods, layers, batch_size=2)
    np.testing.assert_allclose(again["value"], table["value"], rtol=2e-3, atol=1e-4)


def test_a_sample_of_the_channels(models, ds):
    model = models["flat softmax"]
    whole = cam_axioms(model, ds, ["hirescam"], ["conv1"], 0)
    np.testing.assert_array_equal(
        cam_axioms(model, ds, ["hirescam"], ["conv1"], 0, max_channels=99)["value"], whole["value"]
    )
    few = cam_axioms(model, ds, ["hirescam"], ["conv1"], 0, max_channels=3)
    same = few["axiom"] == "conservation"
    np.testing.assert_array_equal(few[same]["value"], whole[same]["value"])
    assert (few[~same]["value"].to_numpy() != whole[~same]["value"].to_numpy()).any()
    np.testing.assert_array_equal(
        cam_axioms(model, ds, ["hirescam"], ["conv1"], 0, max_channels=3)["value"], few["value"]
    )


def test_wrong_arguments(models, ds):
    model = models["flat softmax"]
    with pytest.raises(ValueError, match="did you mean grad_cam"):
        cam_axioms(model, ds, ["gradcam"])
    with pytest.raises(ValueError, match="methods"):
        cam_axioms(model, ds, [])
    with pytest.raises(ValueError, match="did you mean logit"):
        cam_axioms(model, ds, score="logits")
    with pytest.raises(ValueError, match="ablation_cam, which needs all"):
        cam_axioms(model, ds, ["ablation_cam"], max_channels=2)
    with pytest.raises(ModelError, match="no map"):
        cam_axioms(model, ds, layers=["pool"])
