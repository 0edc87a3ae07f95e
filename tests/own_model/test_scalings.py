"""What each scaling computes, against the functions that users scaled with in training."""

import numpy as np
import pytest
from conftest import make_flat
from small_models import PIXELS, classifier

import xaiutils as xai
from xaiutils.backend import keras, tf

A = keras.applications
MODEL = classifier()
PREPROCESS = {
    "model": lambda x: x,
    "0-1": lambda x: x / 255,
    "-1-1": lambda x: A.mobilenet_v2.preprocess_input(x.copy()),
    "imagenet": lambda x: A.densenet.preprocess_input(x.copy()),
    "caffe": lambda x: A.vgg16.preprocess_input(x.copy()),
    "standardise": lambda x: tf.map_fn(tf.image.per_image_standardization, x),
}


@pytest.mark.parametrize("name", PREPROCESS)
def test_named_scalings_equal_what_was_done_in_training(name):
    wrapped = xai.wrap(MODEL, scaling=name)
    np.testing.assert_allclose(wrapped(PIXELS), MODEL(PREPROCESS[name](PIXELS)), atol=1e-6)
    assert wrapped.facts.scaling == name
    assert wrapped.facts.scaling_from == "given"


def test_standardised_flat_images_stay_finite():
    flat = np.full((1, 16, 16, 3), 77.0, np.float32)
    np.testing.assert_allclose(
        xai.wrap(MODEL, scaling="standardise")(flat),
        MODEL(tf.map_fn(tf.image.per_image_standardization, flat)),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("pair", "by_hand", "said"),
    [
        (([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), PREPROCESS["imagenet"], "of [0, 1]"),
        ((0.5, 0.25), lambda x: (x / 255 - 0.5) / 0.25, "mean 0.5, std 0.25 of [0, 1]"),
        ((120, 58), lambda x: (x - 120) / 58, "mean 120, std 58 in pixels"),
        (([1, 2, 3], 255), lambda x: (x - [1, 2, 3]) / 255, "in pixels"),
        ((0, 255), lambda x: x / 255, "in pixels"),
    ],
)
def test_mean_and_deviation_of_images_in_0_1_or_of_pixels(pair, by_hand, said):
    wrapped = xai.wrap(MODEL, scaling=pair)
    np.testing.assert_allclose(wrapped(PIXELS), MODEL(by_hand(PIXELS)), atol=1e-6)
    assert said in wrapped.facts.scaling


def test_functions_of_tensors_are_taken():
    expected = MODEL(PIXELS / 127.5 - 1)
    np.testing.assert_allclose(xai.wrap(MODEL, scaling=lambda x: (x - 127.5) / 127.5)(PIXELS), expected, atol=1e-6)
    np.testing.assert_allclose(xai.wrap(MODEL, scaling=A.mobilenet_v2.preprocess_input)(PIXELS), expected, atol=1e-6)
    by_tensorflow = xai.wrap(MODEL, scaling=lambda x: tf.map_fn(tf.image.per_image_standardization, x))
    np.testing.assert_allclose(by_tensorflow(PIXELS), MODEL(PREPROCESS["standardise"](PIXELS)), atol=1e-6)


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ("0_1", "did you mean 0-1"),
        (3, r"expected one of model, .*a pair"),
        ((120, 0.2), "different units"),
        (([0.485] * 3, [58] * 3), "different units"),
        (([1, 2], [3, 4]), "mean has 2 values, and the model takes 3 channels"),
        ((0.5, 0), "std above 0"),
        ((np.nan, 1), "finite"),
        (lambda x: np.asarray(x) / 255, "function of NumPy cannot be one"),
        (lambda x: x[:, :8], "must keep the shape"),
    ],
)
def test_other_scalings_are_refused_in_words(scaling, words):
    with pytest.raises((ValueError, TypeError), match=words):
        xai.wrap(MODEL, scaling=scaling)


def test_scaling_twice_is_said_and_not_refused():
    wrapped = xai.wrap(make_flat(), scaling="0-1")  # its own first layer is a Rescaling
    assert "scales its input itself" in wrapped.facts.notes[0]
    assert "/scale" in wrapped.facts.notes[0]
    assert xai.wrap(make_flat(), scaling="model").facts.notes == ()


def test_an_assumed_scaling_is_said():
    facts = xai.wrap(MODEL).facts
    assert facts.scaling == "model"
    assert facts.scaling_from == "assumed"
    assert "no Rescaling or Normalization stands first" in facts.notes[0]


def test_images_in_0_1_lead_to_the_scaling_of_the_model():
    """FAULTS A12: the advice was to multiply by 255, which explained another function without a word."""
    with pytest.raises(ValueError, match=r'xai\.wrap\(model, scaling=\.\.\.\) with "0-1"'):
        xai.explain(MODEL, PIXELS / 255)
    by_hand = keras.Model(MODEL.inputs, MODEL(keras.layers.Rescaling(1 / 255)(MODEL.inputs[0])))
    wrapped = xai.wrap(MODEL, scaling="0-1")
    np.testing.assert_allclose(xai.predict(wrapped, PIXELS, probabilities=True), MODEL(PIXELS / 255), atol=1e-5)
    np.testing.assert_allclose(
        xai.explain(wrapped, PIXELS, 0, "integrated_gradients"),
        xai.explain(by_hand, PIXELS, 0, "integrated_gradients"),
        atol=1e-6,
    )
