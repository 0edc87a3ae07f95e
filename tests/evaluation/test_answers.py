"""Scores of maps of users' models: a score in its own units, rows of further inputs, classes in another order."""

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation import evaluate, evaluate_all
from xaiutils.evaluation.answers import explain_suited, suited_methods
from xaiutils.evaluation.studies.compare_maps import measure
from xaiutils.evaluation.studies.prediction_change import prediction_change

layers = keras.layers
MASKS = np.zeros((5, 24, 24), bool)
MASKS[:, 4:12, 4:12] = True


def network(units, last, with_age=False):
    keras.utils.set_random_seed(1)
    image, age = keras.Input((24, 24, 3), name="image"), keras.Input((1,), name="age")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, strides=2, activation="relu", name="conv")(image))
    x = layers.Concatenate()([x, layers.Rescaling(0.1)(age)]) if with_age else x
    return keras.Model([image, age] if with_age else image, layers.Dense(units, activation=last)(x))


def dataset(images, names=("a", "b"), **more):
    pixels = images[:, :24, :24].astype(np.uint8)
    labels = np.arange(5) % len(names)
    return ImageDataset(pixels, labels, names, list("vwxyz"), masks=MASKS, split="test", **more)


def test_a_score_is_measured_where_it_has_a_meaning(images):
    model = xai.wrap(network(1, None), scaling="0-1", head="regression")
    ds = dataset(images, ("all",), values=np.arange(5.0))
    asked = ["iou", "deletion_auc", "confidence_drop", "fidelity"]
    found = measure(model, ds, ["vanilla_gradients", "raw_attention"], asked, n_faithfulness=2)
    assert set(found.scores["metric"]) == {"iou", "deletion_auc", "fidelity"}
    assert "correct" not in found.scores
    scores = found.scores.drop_duplicates("image_id").set_index("image_id")["p"]
    np.testing.assert_allclose(scores[ds.ids], xai.predict(model, ds.images)[:, 0], rtol=1e-5)
    said = " ".join(found.notes)
    assert "confidence_drop have no meaning" in said
    assert "1 left out: raw_attention (" in said
    maps = xai.explain(model, ds.images, None, "vanilla_gradients")
    with pytest.raises(ValueError, match="'average_drop' is a fraction of a probability"):
        evaluate(model, ds, maps, ["average_drop"])


def test_each_case_is_scored_at_its_own_row(images):
    model = xai.wrap(network(2, "softmax", with_age=True), scaling="0-1", inputs={"age": "case"})
    ages = np.array([[1.0], [9], [1], [5], [9]], np.float32)
    ds = dataset(images, inputs={"age": ages})
    maps = np.random.default_rng(0).random((5, 24, 24)).astype(np.float32)
    targets = np.array([0, 1, 1, 0, 1])
    table = evaluate(model, ds, maps, ["deletion_auc", "iou", "fidelity"], targets)
    assert table["image_id"].tolist() == ds.ids * 3
    for i in range(5):
        held = xai.wrap(model.core, scaling="0-1", inputs={"age": ages[i]})
        alone = evaluate(held, ds.select([i]), maps[i : i + 1], ["deletion_auc", "iou", "fidelity"], targets[i : i + 1])
        np.testing.assert_allclose(table[table["image_id"] == ds.ids[i]]["value"], alone["value"], atol=1e-5)
    changes = prediction_change(model, ds, ["log", "fgsm"])
    expected = xai.predict(model, ds.images, probabilities=True, inputs=ds.inputs).max(axis=1)
    np.testing.assert_allclose(changes["p_before"][:5], expected, atol=1e-6)


def test_the_whole_comparison_takes_rows(images):
    model = xai.wrap(network(2, "softmax", with_age=True), scaling="0-1", inputs={"age": "case"})
    ds = dataset(images, inputs={"age": np.arange(5.0)[:, None]})
    found = measure(model, ds, ["vanilla_gradients", "occlusion"], ["iou", "fidelity"], n_faithfulness=2)
    assert np.isfinite(found.scores["value"]).all()
    np.testing.assert_allclose(
        found.maps["vanilla_gradients"], xai.explain(model, ds.images, None, "vanilla_gradients", inputs=ds.inputs)
    )


def test_one_method_that_does_not_suit_does_not_stop_the_others(images):
    model = xai.wrap(network(2, "softmax"), scaling="0-1")
    suited, left_out = suited_methods(model, ["raw_attention", "grad_cam"])
    assert (suited, list(left_out)) == (["grad_cam"], ["raw_attention"])
    maps, left_out = explain_suited(model, images[:, :24, :24], None, ["raw_attention", "grad_cam"])
    assert list(maps) == ["grad_cam"]
    with pytest.raises(ValueError, match=r"no method suits this model: 1 left out: raw_attention \("):
        explain_suited(model, images[:, :24, :24], None, ["raw_attention"])


def test_classes_of_another_order_or_several_labels_are_refused(images):
    model = xai.wrap(network(2, "softmax"), scaling="0-1", class_names=["b", "a"])
    with pytest.raises(ValueError, match="the model's classes are b, a and the data's a, b"):
        evaluate_all(model, dataset(images), {"random": MASKS.astype(np.float32)}, ["iou"])
    labels = np.zeros((5, 2), np.int8)
    several = ImageDataset(images[:, :24, :24].astype(np.uint8), labels, ("a", "b"), list("vwxyz"), masks=MASKS)
    with pytest.raises(ValueError, match="of_label"):
        evaluate(None, several, MASKS.astype(np.float32), ["iou"])
