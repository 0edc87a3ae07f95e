"""TCAV and network dissection: known networks, Captum's values, and the proofs on phantoms."""

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset, phantom
from xaiutils.evaluation.studies.concepts import (
    RANDOM,
    concept_sets,
    fit_cav,
    layer_activations,
    layer_gradients,
)
from xaiutils.evaluation.studies.dissection import detectors, top_quantile
from xaiutils.graph.network import Network

SIDE = 4
GOLDEN = ((0.0, -0.0718881), (1.0, 0.0494849), (0.9166667, 0.0513694))
GOLDEN_LENGTH, GOLDEN_AT = 0.8725917, [1, 2, 5, 41, 77, 100]
GOLDEN_CAV = [0.2502017, 0.3836346, 0.2207408, 0.009433, -0.0074882, 0.0136803]


def linear_network(weights):
    """Logits that are ``weights`` (channels, classes) times the mean of each channel of the image."""
    channels, classes = np.shape(weights)
    inputs = keras.Input((SIDE, SIDE, channels))
    copied = keras.layers.Conv2D(channels, 1, use_bias=False, name="copy")
    x = keras.layers.GlobalAveragePooling2D()(copied(inputs))
    logits = keras.layers.Dense(classes, use_bias=False)
    model = keras.Model(inputs, logits(x))
    copied.set_weights([np.eye(channels)[None, None]])
    logits.set_weights([np.asarray(weights)])
    return model


def noise(n, channels, seed):
    return np.random.default_rng(seed).normal(100, 10, (n, SIDE, SIDE, channels)).astype(np.float32)


def raised(images, channel):
    images = images.copy()
    images[..., channel] += 60
    return images


def data(images, classes=2):
    labels = np.arange(len(images)) % classes
    return ImageDataset(images, labels, tuple("abcde"[:classes]), [str(i) for i in range(len(images))])


def test_of_a_linear_network_S_is_its_weight():
    weights = np.array([[2.0, -1.0, 0.0], [0.0, 3.0, 0.5]])
    model, ds = linear_network(weights), data(noise(12, 2, 0), 3)
    for k in range(3):
        (pooled,) = layer_gradients(model, ds.images, k, ["copy"], "mean")
        np.testing.assert_allclose(pooled, np.tile(weights[:, k], (12, 1)), atol=1e-6)
        (flat,) = layer_gradients(model, ds.images, k, ["copy"])
        np.testing.assert_allclose(
            flat.reshape(12, -1, 2), np.tile(weights[:, k] / SIDE**2, (12, SIDE**2, 1)), atol=1e-6
        )
    np.testing.assert_array_equal(layer_activations(model, ds.images, "copy"), ds.images.reshape(12, -1))
    concepts = {"first": raised(noise(12, 2, 1), 0), "second": raised(noise(12, 2, 2), 1), "nothing": noise(12, 2, 3)}
    found = xai.tcav(model, ds, concepts, noise(12 * 20, 2, 4), ["copy"], n_random=20, pooling="mean")
    table = found.table.set_index(["class", "concept"])
    assert table.loc[("a", "first"), ["score", "low", "accuracy"]].tolist() == [1, 1, 1]
    assert table.loc[("b", "second"), "score"] == 1
    assert table.loc[("b", "first"), "score"] == 0  # its weight is negative
    significant = table.index[table["significant"]].tolist()
    assert significant == [("a", "first"), ("b", "first"), ("b", "second"), ("c", "second")]
    shifts = {("a", "first"): 120, ("b", "first"): -60, ("b", "second"): 180, ("c", "second"): 30}  # weights times 60
    assert table["shift"][list(shifts)].tolist() == pytest.approx(list(shifts.values()), rel=0.05)
    random = table.xs(RANDOM, level="concept")
    assert (abs(random["accuracy"] - 0.5) < 0.2).all()
    assert (random["false_alarms"] > 0.3).all()  # of the paper's test, which should be 0.05
    cosines = found.cosines.set_index(["concept", "other"])["cosine"]
    assert cosines["first", "first"] > 0.95
    assert abs(cosines["first", "second"]) < 0.3


def test_a_plane_between_two_points_by_hand():
    """Its normal is along their difference and it lies in their middle; nothing to tell apart gives no direction."""
    found = fit_cav(np.array([[3.0, 4.0]]), np.array([[0.0, 0.0]]))
    np.testing.assert_allclose(found.vector, [0.6, 0.8], atol=1e-6)
    assert found.offset == pytest.approx(2.5, abs=1e-4)
    assert not fit_cav(np.ones((3, 2)), np.ones((3, 2))).vector.any()


def test_captum_finds_the_same():
    """captum 0.9.0, its TCAV with the gradient alone and this logistic regression: scores of three classes, mean of S
    times the length of its CAV, and entries of the CAV."""
    rng = np.random.default_rng(20260)
    weights = [rng.normal(0, 0.5, (3, 3, 1, 4)), rng.normal(0, 0.3, 4)]
    weights += [rng.normal(0, 0.4, (3, 3, 4, 5)), rng.normal(0, 0.3, 5)]
    weights += [rng.normal(0, 1, (5, 3)), rng.normal(0, 0.3, 3)]
    x, shown, others = (rng.uniform(0, 255, (n, 6, 6, 1)) for n in (24, 8, 8))
    shown[:, 1:3, 1:4] = 240
    inputs = keras.Input((6, 6, 1))
    h = keras.layers.Rescaling(1 / 64)(inputs)
    h = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(h)
    h = keras.layers.Conv2D(5, 3, padding="same", activation="relu")(h)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(h)))
    model.set_weights(weights)
    cav = fit_cav(*(layer_activations(model, images, "first") for images in (shown, others))).vector
    np.testing.assert_allclose(cav[GOLDEN_AT], GOLDEN_CAV, atol=2e-4)
    for k, (score, magnitude) in enumerate(GOLDEN):
        S = layer_gradients(model, x, k, ["first"])[0] @ cav
        assert (S > 0).mean() == pytest.approx(score, abs=1e-6)
        assert S.mean() * GOLDEN_LENGTH == pytest.approx(magnitude, rel=2e-3)


def tagged(seeds, tags):
    """Phantoms with or without a mass, and with a view marker where ``tags``."""
    made = [phantom.generate(s, 48, "presence", "easy", tag=bool(tag)) for s, tag in zip(seeds, tags, strict=True)]
    pixels = np.stack([np.rint(255 * p.image).astype(np.uint8) for p in made])[..., None]
    return ImageDataset(pixels, [p.label for p in made], ("normal", "mass"), [str(s) for s in seeds])


def test_a_model_that_learnt_the_tag_scores_it_and_an_honest_one_does_not():
    """Trained on the same breasts: the tag goes with the mass in 95 %, or each breast is seen with it and without."""
    seeds, labels = phantom.image_seeds("train", 300), np.arange(300) % 2
    learnt = tagged(seeds, np.where(np.random.default_rng(0).random(300) < 0.95, labels, 1 - labels))
    with_and_without = [tagged(seeds, tags) for tags in (labels, 1 - labels)]
    test = tagged(phantom.image_seeds("test", 40), np.arange(40) // 2 % 2)
    concepts = concept_sets(phantom.concept_images(20, 300, 48, "easy"))
    given = {name: concepts[name] for name in ("tag", "dense tissue")}

    def of_tag(images, epochs):
        keras.utils.set_random_seed(1)
        x = inputs = keras.Input((48, 48, 1))
        x = keras.layers.Rescaling(1 / 64)(x)
        for filters, size in ((16, 5), (24, 3), (32, 3)):
            x = keras.layers.Conv2D(filters, size, strides=2, padding="same", activation="relu")(x)
        last = x
        x = keras.layers.GlobalMaxPooling2D()(x)
        model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
        model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
        model.fit(images, np.resize(labels, len(images)), 32, epochs, verbose=0)
        layer = last._keras_history.operation.name
        how = {"layers": [layer], "classes": ["mass"], "n_random": 15, "pooling": "max"}
        return xai.tcav(model, test, given, concepts["none"], **how).table.set_index("concept").loc["tag"]

    shortcut = of_tag(learnt.images, 20)
    honest = of_tag(np.concatenate([ds.images for ds in with_and_without]), 14)
    assert shortcut["score"] == 1
    assert shortcut["significant"]
    assert not honest["significant"]
    assert abs(honest["shift"]) < shortcut["shift"] / 5


def test_tokens_of_a_transformer_and_one_unit():
    """The unit's z and -z: the shift of one class is minus that of the other, here of the same images."""
    model = xai.build_model("vit_mini16", 2, 32, None, outputs="binary")
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    ds = ImageDataset(images, np.arange(40) % 2, ("a", "b"), list(map(str, range(40))))
    layer = Network.of(model).cam_layer()
    for_a, for_b = (layer_gradients(model, images, k, [layer], "mean")[0] for k in (0, 1))
    np.testing.assert_allclose(for_a, -for_b)
    found = xai.tcav(model, ds, {"some": images[:8]}, layers=[layer], n_random=5, pooling="mean")
    assert found.table[["class", "concept"]].to_numpy().tolist() == [[k, c] for k in "ab" for c in ("some", RANDOM)]
    masks = {"left": np.tile(np.arange(32) < 8, (40, 32, 1))}
    dissected = xai.dissect(model, ds, masks, [layer], n_controls=1)
    assert set(dissected["basis"]) == {"units", "rotated", "random weights"}


def test_sets_are_of_one_size_and_too_few_images_are_refused():
    model, ds = linear_network(np.eye(2)), data(noise(60, 2, 0))
    shown = {"first": raised(noise(9, 2, 1), 0)}
    found = xai.tcav(model, ds, shown, n_random=5, pooling="mean", seed=3, classes=["b"])
    again = xai.tcav(model, ds, shown, n_random=5, pooling="mean", seed=3, classes=["b"])
    np.testing.assert_array_equal(found.runs["score"], again.runs["score"])
    assert set(found.table["class"]) == {"b"}
    assert len(found.runs) == 2 * 5
    with pytest.raises(ValueError, match="'random sets' has 60 images; expected 6 of each concept, and 20 times"):
        xai.tcav(model, ds, shown, n_random=20)
    with pytest.raises(ValueError, match="'first' has 5 images"):
        xai.tcav(model, ds, {"first": shown["first"][:5]}, n_random=5)
    with pytest.raises(ValueError, match="no class 'z'"):
        xai.tcav(model, ds, shown, classes=["z"])
    with pytest.raises(ValueError, match="no image of class 'a'"):
        xai.tcav(model, ds.select(ds.members(1)), shown, ds, classes=["a"], n_random=5)
    with pytest.raises(ValueError, match="pooling='sum'"):
        xai.tcav(model, ds, shown, n_random=5, pooling="sum")
    with pytest.raises(ValueError, match="expected images by name"):
        xai.tcav(model, ds, {})


def test_sets_of_classes_and_of_labels():
    ds = phantom.concept_images(2, 3, 32)
    assert {name: len(found) for name, found in concept_sets(ds).items()} == {"none": 3} | dict.fromkeys(
        phantom.CONCEPTS, 2
    )
    mixed = xai.load_dataset("phantom", "train", image_size=32, limit=32, task="concepts")
    assert [len(found) for found in concept_sets(mixed).values()] == [1] * 5


def test_a_unit_that_is_the_mask_has_an_IoU_of_1():
    rng = np.random.default_rng(0)
    masks = np.zeros((40, SIDE, SIDE), bool)
    masks.reshape(40, -1)[np.arange(40), rng.integers(SIDE**2, size=40)] = True
    images = np.stack([60.0 * masks, rng.uniform(0, 255, masks.shape)], axis=-1).astype(np.float32)
    share = 1 / SIDE**2
    table = xai.dissect(linear_network(np.eye(2)), data(images), {"dot": masks}, ["copy"], share, n_controls=3)
    units = table[table["basis"] == "units"].set_index("unit")
    assert units["iou"].tolist() == [1, pytest.approx(share / 2, abs=0.05)]  # the other unit: chance
    assert units["ceiling"].tolist() == [1, 1]
    assert units["threshold"][0] == 0
    counted = detectors(table).set_index("basis")
    assert counted.loc["units", "best"] == 1
    controls = table[table["basis"] != "units"].groupby("basis")["iou"].mean()
    assert (controls < 0.6).all()
    one = xai.dissect(
        linear_network(np.eye(2)), data(images), {"dot": masks, "all": masks | True}, ["copy"], share, 0.5, 0
    )
    assert one.groupby("concept")["detector"].sum().to_dict() == {"dot": 1, "all": 0}
    assert one.set_index(["concept", "unit"]).loc[("all", 0), "ceiling"] == share


def test_the_threshold_is_exact_on_whole_numbers():
    values = np.random.default_rng(0).permutation(1000)[:, None]
    assert top_quantile(values, 0.005) == 994  # 995 to 999 exceed it
    assert top_quantile(values, 0.0051) == 994
    assert top_quantile(values, 0.0049) == 995
    assert top_quantile(np.repeat([0, 1], [998, 2])[:, None], 0.005) == 0
    assert top_quantile(np.repeat([0, 1], [990, 10])[:, None], 0.005) == 1  # none exceeds it


def test_what_cannot_be_dissected_is_refused_by_name():
    model, ds = linear_network(np.eye(2)), data(noise(4, 2, 0))
    with pytest.raises(ValueError, match="no masks of concepts"):
        xai.dissect(model, ds)
    with pytest.raises(ValueError, match=r"concepts\['dot'\] is \(4, 2, 2\)"):
        xai.dissect(model, ds, {"dot": np.zeros((4, 2, 2), bool)})
    with pytest.raises(ValueError, match="marks no pixel"):
        xai.dissect(model, ds, {"dot": np.zeros((4, SIDE, SIDE), bool)})
