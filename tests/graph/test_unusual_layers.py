"""Layers that look like common ones and compute something else: seen for what they are, or refused by name."""

import keras
import numpy as np
import pytest
from conftest import SIZE

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.backend import tf
from xaiutils.graph.layers.attention import attention_steps

layers = keras.layers


@keras.saving.register_keras_serializable("tests")
class Doubled(keras.Model):
    """A functional model with a call of its own, which its graph does not show."""

    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training, mask=mask)


def test_a_nested_model_with_a_call_of_its_own_keeps_it(images):
    keras.utils.set_random_seed(0)
    inside = keras.Input((SIZE, SIZE, 3))
    doubled = Doubled(inside, layers.Conv2D(4, 3, activation="relu")(inside))
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.GlobalAveragePooling2D()(doubled(layers.Rescaling(1 / 255)(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(x))
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logit = model(x)[:, 1]
    gradient = np.abs(tape.gradient(logit, x)).max(axis=-1)
    np.testing.assert_allclose(xai.explain(model, images, 1, "vanilla_gradients"), gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("unusual", [{"use_gate": True}, {"sliding_window": 3}])
def test_attention_with_a_gate_or_a_window_is_refused_by_the_rules_of_attention(unusual, images):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(8, 8, strides=8)(layers.Rescaling(1 / 255)(inputs))
    tokens = layers.Reshape((-1, 8))(x)
    try:
        attention = layers.MultiHeadAttention(2, 4, **unusual)
    except (TypeError, ValueError):
        attention = layers.GroupQueryAttention(4, 2, 1, **unusual)
    x = layers.GlobalAveragePooling1D()(attention(tokens, tokens))
    model = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.raises(ModelError, match="attention"):
        xai.explain(model, images, 0, "lrp")


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_that_returns_its_probabilities_is_attention(heads):
    """Those of Keras' ``Attention`` have no axis of heads."""
    inputs = keras.Input((SIZE, SIZE, 3))
    tokens = layers.Reshape((-1, 8))(layers.Conv2D(8, 8, strides=8)(inputs))
    layer = layers.Attention(name="mixer") if heads == 1 else layers.MultiHeadAttention(heads, 4, name="mixer")
    given = [[tokens, tokens]] if heads == 1 else [tokens, tokens]
    mixed, _ = layer(*given, return_attention_scores=True)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(mixed)))
    assert [step.path for step in attention_steps(Network.of(model))] == ["mixer"]


def test_a_layer_without_any_activation_adds_nothing_to_an_aggregate(images):
    """Its map is the same everywhere, so it has no range that it could be scaled by."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="alive")(layers.Rescaling(1 / 255)(inputs))
    dead = layers.Conv2D(
        4, 3, padding="same", activation="relu", name="dead", bias_initializer=keras.initializers.Constant(-1e3)
    )(x)
    x = layers.GlobalAveragePooling2D()(layers.Concatenate()([x, dead]))
    model = keras.Model(inputs, layers.Dense(2)(x))
    both = xai.explain(model, images, 0, "layer_aggregate", layers=["alive", "dead"])
    alone = xai.explain(model, images, 0, "layer_aggregate", layers=["alive"])
    assert np.isfinite(both).all()
    np.testing.assert_allclose(both, alone, atol=1e-6)
