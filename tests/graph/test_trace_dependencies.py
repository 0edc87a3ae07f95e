"""A model that is changed after a first call is explained as it is now; what no pass depends on traces nothing anew."""

import functools

import numpy as np
import pytest
from conftest import SIZE

import xaiutils as xai
from xaiutils.attribution import Network
from xaiutils.backend import keras, tf

layers, ops = keras.layers, keras.ops
GLOBAL_SHIFT = 0.0


class Block(layers.Layer):
    """A layer with plain attributes, an inner layer, and a list of them."""

    def __init__(self):
        super().__init__(name="block")
        self.inner, self.more = layers.Dense(8, name="inner"), [layers.Dense(8, name="more")]
        self.power, self.factors, self.table = 1.0, [1.0, 2.0], np.ones(8, np.float32)

    def build(self, shape):
        self.inner.build(shape)
        self.more[0].build(shape)

    def call(self, x):
        x = self.more[0](self.inner(x)) * self.factors[0] * self.table
        return ops.sign(x) * ops.abs(x) ** self.power


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    gain = [1.0]
    inner = keras.Input((None, None, 8))
    nested = keras.Sequential([inner, layers.Conv2D(8, 3, name="deep", activation="relu"), layers.ReLU(name="act")])
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Normalization(name="statistics")(inputs)
    x = layers.Lambda(lambda v: v * gain[0] + GLOBAL_SHIFT, name="own")(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="conv")(x)
    x = layers.BatchNormalization(name="norm")(nested(x))
    x = Block()(layers.GlobalAveragePooling2D()(layers.Dropout(0.5, name="drop")(x)))
    found = keras.Model(inputs, layers.Dense(3, name="classes")(x))
    found.get_layer("statistics").adapt(np.full((1, SIZE, SIZE, 3), 100.0) + np.arange(SIZE)[:, None])
    found.nested, found.set_gain = nested, lambda value: gain.__setitem__(0, value)
    return found


def swap_function(model):
    model.get_layer("own").function = lambda v: v**2


def change_closure(model):
    model.set_gain(-2.0)


class Gain:
    __slots__ = ("value",)

    def __init__(self):
        self.value = 1.0

    def times(self, x):
        return x * self.value


def change_global(model):
    global GLOBAL_SHIFT
    GLOBAL_SHIFT += 3.0


def replace_inner(model):
    model.get_layer("block")._tracker.unlock()
    model.get_layer("block").inner = layers.Dense(8)
    model.get_layer("block").inner.build((None, 8))


def replace_in_list(model):
    model.get_layer("block").more[0] = layers.Dense(8)
    model.get_layer("block").more[0].build((None, 8))


def set_lora(model):
    model.get_layer("classes").enable_lora(2)
    model.get_layer("classes").lora_kernel_b.assign(np.ones((2, 3)))


CHANGES = {
    "activation of the last layer": lambda m: setattr(m.get_layer("classes"), "activation", keras.activations.softmax),
    "activation of a convolution": lambda m: setattr(m.get_layer("conv"), "activation", keras.activations.tanh),
    "activation in a nested model": lambda m: setattr(m.nested.get_layer("deep"), "activation", ops.sigmoid),
    "slope of a ReLU": lambda m: setattr(m.nested.get_layer("act"), "negative_slope", 0.5),
    "cap of a ReLU": lambda m: setattr(m.nested.get_layer("act"), "max_value", 0.1),
    "strides": lambda m: setattr(m.get_layer("conv"), "strides", (4, 4)),
    "epsilon": lambda m: setattr(m.get_layer("norm"), "epsilon", 2.0),
    "a Lambda's function": swap_function,
    "what a function closes over": change_closure,
    "a global that a function reads": change_global,
    "statistics": lambda m: m.get_layer("statistics").adapt(np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3))),
    "a number of a layer of one's own": lambda m: setattr(m.get_layer("block"), "power", 2.0),
    "a number in a list": lambda m: m.get_layer("block").factors.__setitem__(0, 3.0),
    "an array in place": lambda m: m.get_layer("block").table.__setitem__(0, 9.0),
    "a layer inside": replace_inner,
    "a layer in a list inside": replace_in_list,
    "a layer taken from a nested Sequential": lambda m: m.nested.pop(),
    "LoRA": set_lora,
    "quantisation": lambda m: m.get_layer("classes").quantize("int8"),
    "precision": lambda m: setattr(m.get_layer("conv"), "dtype_policy", "mixed_float16"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen_at_the_next_call(model, images, name):
    first = Network.of(model)
    assert Network.of(model) is first
    kept = first.compiled("logits of a test", lambda: tf.function(first.logits, autograph=False))
    before = kept(tf.constant(images)).numpy()
    CHANGES[name](model)
    network = Network.of(model)
    assert network is not first
    found = tf.function(network.logits, autograph=False)(tf.constant(images)).numpy()
    if "last" in name:
        np.testing.assert_allclose(tf.nn.softmax(found), model(images), atol=1e-6)
        assert network.is_head(network.step("classes"))
        return
    np.testing.assert_allclose(found, model(images, training=False), rtol=1e-3, atol=1e-4)
    # The change counts (quantisation rounds, and a popped ReLU stands behind another), and the old trace missed it.
    if "nested Sequential" not in name and "slope" not in name:
        assert np.abs(found - before).max() > 1e-7
    assert Network.of(model) is network


def train(model):
    model.compile("sgd", "mse")
    model.train_on_batch(np.zeros((1, SIZE, SIZE, 3)), np.ones((1, 3)))


IRRELEVANT = {
    "weights": lambda m: m.set_weights([w + 0.01 for w in m.get_weights()]),
    "trainable": lambda m: setattr(m.layers[3], "trainable", False),
    "all trainable": lambda m: setattr(m, "trainable", False),
    "momentum": lambda m: setattr(m.get_layer("norm"), "momentum", 0.1),
    "equal values": lambda m: setattr(m.get_layer("conv"), "strides", (2, 2)),
    "compiled": lambda m: m.compile("sgd", "mse"),
    "used": lambda m: m.predict(np.zeros((1, SIZE, SIZE, 3)), verbose=0),
    "used elsewhere": lambda m: keras.Model(m.inputs, layers.Dense(2)(m.output)),
    "trained": train,
}


@pytest.mark.parametrize("name", IRRELEVANT)
def test_what_no_pass_depends_on_traces_nothing_anew(model, name):
    first = Network.of(model)
    IRRELEVANT[name](model)
    assert Network.of(model) is first


def test_an_unchanged_model_is_not_read_again(model):
    """Every call asks whether the model has changed, so what is still the same object is not looked into."""
    read = []

    class Number(float):
        def __repr__(self):
            read.append(float(self))
            return super().__repr__()

    model.get_layer("block").power = Number(1)
    first = Network.of(model)
    before = len(read)
    assert before > 0
    assert Network.of(model) is first
    assert len(read) == before
    model.get_layer("block").power = Number(2)
    assert Network.of(model) is not first


def test_global_settings_count(model):
    first = Network.of(model)
    before = keras.config.epsilon()
    try:
        keras.config.set_epsilon(1e-3)
        assert Network.of(model) is not first
    finally:
        keras.config.set_epsilon(before)


def test_gradients_follow_a_changed_head(images):
    """The example of a dense layer that becomes a softmax after a first call."""
    inputs = keras.Input((SIZE, SIZE, 3))
    last = layers.Dense(3)
    x = layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, last(layers.GlobalAveragePooling2D()(x)))
    expected = xai.explain(model, images, 1, "vanilla_gradients")
    last.activation = keras.activations.softmax
    np.testing.assert_allclose(xai.explain(model, images, 1, "vanilla_gradients"), expected, rtol=1e-5)
    np.testing.assert_allclose(xai.predict(model, images, probabilities=True), model(images), atol=1e-6)


@pytest.mark.parametrize("kind", ["a bound method", "slots", "a partial", "a function inside"])
def test_what_a_function_holds_is_looked_at(model, images, kind):
    gain, numbers = Gain(), {"gain": 1.0}

    def outer(x):
        def inner(y):
            return y * numbers["gain"] + 0 * GLOBAL_SHIFT

        return inner(x)

    functions = {
        "a bound method": gain.times,
        "slots": lambda x: x * gain.value,
        "a partial": functools.partial(lambda x, held: x * held["gain"], held=numbers),
        "a function inside": outer,
    }
    model.get_layer("own").function = functions[kind]
    before = xai.predict(model, images)
    gain.value = numbers["gain"] = 3.0
    found = xai.predict(model, images)
    np.testing.assert_allclose(found, model(images, training=False), rtol=1e-4, atol=1e-4)
    assert np.abs(found - before).max() > 1e-3


def test_a_layer_that_counts_its_calls_is_traced_once(model, images, monkeypatch):
    monkeypatch.setenv("XAI_COMPILE", "first")  # run eagerly a layer is called each time
    calls, gain = [], [1.0]
    model.get_layer("own").function = lambda x: calls.append({"shape": x.shape}) or x * gain[0]
    xai.predict(model, images)
    network, traced = Network.of(model), len(calls)
    xai.predict(model, images)
    assert Network.of(model) is network
    assert len(calls) == traced
    gain[0] = 3.0  # what it computes with is looked at all the same
    found = xai.predict(model, images)
    np.testing.assert_allclose(found, model(images, training=False), rtol=1e-4, atol=1e-4)
