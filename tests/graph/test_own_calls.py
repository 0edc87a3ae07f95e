"""Models with a call of their own, and SavedModels: retraced where possible, else one step."""

import gc
import re
import weakref

import numpy as np
import pytest
from conftest import SIZE

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.backend import keras, tf

layers = keras.layers


class Block(keras.Model):
    def __init__(self, filters):
        super().__init__()
        self.conv, self.norm = layers.Conv2D(filters, 3, strides=2, padding="same"), layers.BatchNormalization()

    def call(self, x, training=False):
        return keras.ops.relu(self.norm(self.conv(x), training=training))


class Own(keras.Model):
    """Two levels of models of their own, a weight of its own, keras.ops."""

    def __init__(self):
        super().__init__()
        self.scale, self.one, self.two = layers.Rescaling(1 / 127.5, -1.0), Block(8), Block(6)
        self.drop, self.pool, self.classes = layers.Dropout(0.5), layers.GlobalAveragePooling2D(), layers.Dense(3)
        self.gain = self.add_weight(shape=(6,), initializer="ones", name="gain")

    def call(self, x, training=False):
        x = self.two(self.one(self.scale(x), training=training), training=training) * self.gain
        return keras.ops.softmax(self.classes(self.drop(self.pool(x), training=training)))


class OfTensorFlow(keras.Model):
    """What keras.ops cannot follow."""

    def __init__(self):
        super().__init__()
        self.conv, self.classes = layers.Conv2D(6, 3, strides=2, activation="relu"), layers.Dense(3)

    def call(self, x):
        return tf.nn.softmax(self.classes(tf.reduce_mean(self.conv(x / 255.0), axis=(1, 2))))


def built(kind) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = kind()
    model(np.zeros((1, SIZE, SIZE, 3), np.float32))
    return model


def gradient(model, images, k):
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(tf.math.log(keras.tree.flatten(model(x, training=False))[0][:, k]))
    return tape.gradient(total, x).numpy()


def test_a_model_of_models_is_opened(images):
    model = built(Own)
    calls = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    network = Network.of(model)
    assert re.fullmatch(r"multiply(_\d+)?", network.cam_layer())  # Keras counts the names of a process
    assert [re.sub(r"_\d+", "", step.path) for step in network.steps][1:4] == [
        "block/conv2d",
        "block/batch_normalization",
        "block/relu",
    ]
    np.testing.assert_allclose(xai.predict(model, images, probabilities=True), model(images), atol=1e-6)
    for method in ("grad_cam", "lrp", "deep_lift", "guided_backprop", "integrated_gradients", "full_grad"):
        assert xai.explain(model, images[:1], method=method).any()
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == calls  # left as it was
    assert Network.of(model) is network
    model.classes.activation = keras.activations.relu
    assert Network.of(model) is not network


def test_inside_a_functional_model_too(images):
    model = built(Own)
    inputs = keras.Input((SIZE, SIZE, 3))
    outer = keras.Model(inputs, model(layers.Identity()(inputs)))
    for method in ("grad_cam", "lrp", "vanilla_gradients"):
        expected = xai.explain(model, images, 1, method)
        np.testing.assert_allclose(xai.explain(outer, images, 1, method), expected, atol=1e-6 * np.abs(expected).max())


def test_what_cannot_be_opened_is_one_step(images):
    model = built(OfTensorFlow)
    np.testing.assert_allclose(xai.predict(model, images, probabilities=True), model(images), atol=1e-6)
    # log p of the output: its gradient is that of a tape by hand
    found = xai.explain(model, images, 1, "vanilla_gradients", reduction="sum")
    np.testing.assert_allclose(found, gradient(model, images, 1).sum(axis=-1), atol=1e-5 * np.abs(found).max())
    for method in ("occlusion", "integrated_gradients", "xrai"):
        assert np.isfinite(xai.explain(model, images[:1], method=method)).all()
    with pytest.raises(ModelError, match="use a gradient method or occlusion"):
        xai.explain(model, images)
    for method in ("lrp", "deep_lift"):
        with pytest.raises(ModelError, match="has no rule for 'of_tensor_flow.*'.*integrated_gradients"):
            xai.explain(model, images, method=method)


def test_it_is_not_kept_alive(images):
    for kind in (Own, OfTensorFlow):
        model = built(kind)
        xai.explain(model, images[:1], method="vanilla_gradients")
        known = weakref.ref(model)
        del model
        gc.collect()
        assert known() is None


def test_a_model_that_was_never_called_is_refused(images):
    with pytest.raises(ModelError, match="has never been called"):
        xai.explain(Own(), images)


@pytest.mark.parametrize("how", ["export", "saved_model"])
def test_saved_models(tmp_path, images, how):
    keras.utils.set_random_seed(4)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(6, 3, strides=2, activation="relu")(layers.Rescaling(1 / 255.0)(inputs))
    original = keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    folder = str(tmp_path / how)
    if how == "export":
        original.export(folder, verbose=False)
    else:
        tf.saved_model.save(original, folder)
    image = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, layers.TFSMLayer(folder, call_endpoint="serving_default")(image))  # a dict of one tensor
    np.testing.assert_allclose(xai.predict(model, images), np.log(original(images)), atol=1e-4)
    found = xai.explain(model, images, 1, "vanilla_gradients", reduction="sum")
    np.testing.assert_allclose(found, gradient(original, images, 1).sum(axis=-1), atol=1e-4 * np.abs(found).max())
    with pytest.raises(ModelError, match=r"no rule for .*TFSMLayer"):
        xai.explain(model, images, method="lrp")
    with pytest.raises(ModelError, match="use a gradient method or occlusion"):
        xai.explain(model, images)


def test_several_inputs_and_outputs_lead_to_wrap(images):
    image, age = keras.Input((SIZE, SIZE, 3), name="image"), keras.Input((1,), name="age")
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(image), age])
    with pytest.raises(ModelError, match=r"image .*, age .*xai\.wrap\(model, inputs="):
        xai.explain(keras.Model([image, age], layers.Dense(2)(x)), images)
    x = layers.GlobalAveragePooling2D()(image)
    two = keras.Model(image, {"sex": layers.Dense(2, name="sex")(x), "stage": layers.Dense(3, name="stage")(x)})
    with pytest.raises(ModelError, match=r"sex .*stage .*xai\.wrap\(model, output='sex'\)"):
        xai.explain(two, images)
    one = keras.Model(image, {"stage": two.output["stage"]})
    assert xai.predict(one, images).shape == (5, 3)


class _Scaled(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return 3 * super().call(x, training=training) + 1.0


@pytest.mark.parametrize("case", ["subclass", "instance", "nested subclass", "nested instance"])
def test_a_call_of_its_own_is_what_is_explained(images, case):
    """Of a Sequential, or of one model alone, though its layers form a graph without it."""
    parts = [keras.Input((SIZE, SIZE, 3)), layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D()]
    parts.append(layers.Dense(2))
    model = (_Scaled if "subclass" in case else keras.Sequential)(parts)
    if "instance" in case:
        plain = model.call
        model.call = lambda x, training=None, mask=None: 3 * plain(x) + 1.0
    if "nested" in case:
        given = keras.Input((SIZE, SIZE, 3))
        model = keras.Model(given, model(given))
    np.testing.assert_allclose(xai.predict(model, images), model(images), rtol=1e-5)
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = tf.reduce_sum(model(x)[:, 1])
    expected = tape.gradient(score, x).numpy()
    found = xai.explain(model, images, 1, "vanilla_gradients", reduction="sum")
    np.testing.assert_allclose(found, expected.sum(axis=-1), atol=1e-6 * np.abs(expected).max())
