"""A model's outputs in the order of the data's classes."""

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.own_model.class_order import in_order_of

layers = keras.layers


def head(last):
    """A small network that ends as ``last`` makes it."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(inputs))
    return keras.Model(inputs, last(x))


def mean_of_two(x):
    return layers.Average()([layers.Dense(3, activation="softmax")(x), layers.Dense(3, activation="softmax")(x)])


@pytest.mark.parametrize("last", [
    layers.Dense(3, activation="softmax"),
    lambda x: layers.Softmax()(layers.Dense(3)(x)),
    layers.Dense(3, activation="sigmoid"),
    mean_of_two,
])  # fmt: skip
def test_classes_are_exchanged_by_name(images, last):
    x = images[:, :16, :16]
    model = xai.wrap(head(last), scaling="0-1", class_names=["c", "a", "b"])
    before = xai.predict(model, x, probabilities=True)
    ordered = in_order_of(model, ("a", "b", "c"))
    assert ordered.facts.class_names == ("a", "b", "c")
    np.testing.assert_allclose(xai.predict(ordered, x, probabilities=True), before[:, [1, 2, 0]], atol=1e-6)


def test_logits_stay_logits_where_the_last_layer_can_be_exchanged(images):
    """Taken behind the softmax, the classes would be explained by log p, and every map be another."""
    x = images[:, :16, :16]
    model = xai.wrap(head(layers.Dense(3, activation="softmax")), scaling="0-1", class_names=["c", "a", "b"])
    maps = xai.explain(model, x, 0, "vanilla_gradients")
    again = xai.explain(in_order_of(model, ("a", "b", "c")), x, 2, "vanilla_gradients")
    np.testing.assert_allclose(again, maps, rtol=1e-5)


@pytest.mark.parametrize("names", [["benign", "malignant"], None])
def test_one_unit_of_the_first_class(images, names):
    """A unit that gives the probability of the class that the data have first."""
    x = images[:, :16, :16]
    names = names and names[::-1]
    model = xai.wrap(head(layers.Dense(1, activation="sigmoid")), scaling="0-1", class_names=names)
    before = xai.predict(model, x, probabilities=True)
    ordered = in_order_of(model, ("benign", "malignant"), "benign")
    np.testing.assert_allclose(xai.predict(ordered, x, probabilities=True), before[:, ::-1], atol=1e-6)


def test_names_that_do_not_match_are_refused():
    model = xai.wrap(head(layers.Dense(2, activation="softmax")), scaling="0-1", class_names=["cat", "dog"])
    with pytest.raises(ValueError, match=r"class_names are cat, dog, and the data's classes benign, malignant"):
        in_order_of(model, ("benign", "malignant"))
    with pytest.raises(ValueError, match="answers with 2 classes and the data have 3"):
        in_order_of(model, ("a", "b", "c"))
