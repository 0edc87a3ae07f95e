"""Copies, pickles, files and clones of wrapped models: they answer as the model does, or are refused by name."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import PIXELS, classifier

import xaiutils as xai
from xaiutils.own_model.class_order import in_order_of
from xaiutils.own_model.label_view import of_label

layers = keras.layers
NAMES = ["a", "b", "c"]


class Unregistered(keras.Model):
    """As users write them, at the head of a script."""

    def __init__(self):
        super().__init__()
        self.inner = classifier()

    def call(self, x):
        return self.inner(x)


def unregistered():
    mine = Unregistered()
    mine(PIXELS)
    return xai.wrap(mine, scaling="0-1")


def of_two_inputs():
    images, age = keras.Input((16, 16, 3)), keras.Input((1,), name="age")
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(images), age])
    return xai.wrap(keras.Model([images, age], layers.Dense(2)(x)), scaling="0-1", inputs={"age": "case"})


KINDS = {
    "a network": lambda: xai.wrap(classifier(), scaling="standardise", class_names=NAMES, positive_class="b"),
    "an ordinal one": lambda: xai.wrap(classifier(last="sigmoid"), scaling=lambda x: x / 200, head="ordinal"),
    "a label": lambda: of_label(xai.wrap(classifier(last="sigmoid"), scaling="0-1", class_names=NAMES), "b"),
    "classes in another order": lambda: in_order_of(xai.wrap(classifier(), "0-1", NAMES), ["c", "a", "b"]),
}
WAYS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "copy": copy.copy,
}


@pytest.mark.parametrize("kind", KINDS)
def test_copies_answer_as_the_model_and_keep_what_is_known(kind):
    wrapped = KINDS[kind]()
    answers = wrapped([PIXELS])
    for way in WAYS.values():
        other = way(wrapped)
        np.testing.assert_allclose(other([PIXELS]), answers, atol=1e-6)
        assert other.facts == wrapped.facts
        assert other.core is not wrapped.core
        assert not set(map(id, other.weights)) & set(map(id, wrapped.weights))
    np.testing.assert_allclose(
        xai.explain(other, PIXELS, 1, "grad_cam"), xai.explain(wrapped, PIXELS, 1, "grad_cam"), atol=1e-5
    )
    assert xai.wrap(other) is other
    with pytest.raises(ValueError, match="is a copy, or was not made by xaiutils.wrap; wrap its core anew"):
        xai.wrap(other, scaling="0-1")


def test_files_and_clones(tmp_path):
    wrapped = KINDS["a network"]()
    keras.saving.save_model(wrapped, tmp_path / "known.keras")
    assert keras.models.load_model(tmp_path / "known.keras").facts == wrapped.facts
    clone = keras.models.clone_model(wrapped)
    clone.set_weights(wrapped.get_weights())
    np.testing.assert_allclose(clone(PIXELS), wrapped(PIXELS), atol=1e-6)


REFUSED = {
    "unregistered": (unregistered, "holds Unregistered, which no file, copy or clone of Keras finds again"),
    "two inputs": (of_two_inputs, "the input 'age' is held beside the images, which no file, copy or clone keeps"),
    "a function": (
        lambda: xai.wrap(classifier(), scaling=lambda x: tf.cast(x, tf.float32) / 200),
        "a function that is given is kept by no file, copy or clone unless it is written with keras.ops",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_keras_could_not_read_again_is_refused(kind, tmp_path):
    make, reason = REFUSED[kind]
    wrapped = make()
    for way in (*WAYS.values(), lambda model: model.save(tmp_path / "mine.keras")):
        with pytest.raises(ValueError, match=reason):
            way(wrapped)
    assert not (tmp_path / "mine.keras").exists()
