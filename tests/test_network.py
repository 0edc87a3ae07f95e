"""A model's graph: its logits under every head, its layers flat or nested, and clear refusals."""

import numpy as np
import pytest
from conftest import MODELS, SIZE, make_flat

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.backend import keras, tf


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_of_the_logits_are_the_model_output(models, images, name):
    model = models[name]
    expected = model(images).numpy()
    if expected.shape[1] == 1:
        expected = np.concatenate([1 - expected, expected], axis=1)
    found = xai.predict(model, images, probabilities=True)
    if name == "flat logits":
        expected = tf.nn.softmax(expected).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_logits_are_not_probabilities(models, images):
    logits = xai.predict(models["flat softmax"], images)
    np.testing.assert_allclose(logits, xai.predict(models["flat logits"], images), atol=1e-5)
    assert not np.allclose(logits.sum(axis=1), 1)


def test_one_unit_sigmoid_is_two_classes(models, images):
    logits = xai.predict(models["one-unit sigmoid"], images)
    assert logits.shape == (5, 2)
    np.testing.assert_allclose(logits[:, 0], -logits[:, 1])
    z = keras.Model(models["one-unit sigmoid"].inputs, models["one-unit sigmoid"].get_layer("classes").output)(images)
    np.testing.assert_allclose(logits[:, 1:], z, atol=1e-5)


def test_nested_layers_have_paths_and_the_same_activation(models, images):
    flat, nested = Network.of(models["flat softmax"]), Network.of(models["nested"])
    assert nested.cam_layer() == "backbone/conv2"
    assert nested.cam_layer("conv1") == "backbone/conv1"
    for a, b in (("conv1", "backbone/conv1"), ("conv2", "backbone/conv2")):
        first, second = flat.forward(images, [a])[1][0], nested.forward(images, [b])[1][0]
        np.testing.assert_allclose(first, second, atol=1e-6)


def test_running_from_a_layer_gives_the_same_logits(models, images):
    for name in ("nested", "vit"):
        network = Network.of(models[name])
        layer = network.cam_layer()
        logits, (activation,) = network.forward(images, [layer])
        if name == "nested":
            np.testing.assert_allclose(network.from_layer(layer, activation), logits, atol=1e-6)
            assert not np.allclose(network.from_layer(layer, 0 * activation), logits)


def test_the_tokens_that_enter_the_last_attention_are_the_default_layer_of_a_vit(models, images):
    network = Network.of(models["vit"])
    assert network.cam_layer() == "block_01_norm1"
    assert network.grid("block_01_norm1") == (4, 4)
    tokens = network.forward(images, ["block_01_norm1"])[1][0]
    grid = network.to_grid("block_01_norm1", tokens)
    np.testing.assert_array_equal(grid[:, 1, 2], tokens[:, 1 + 4 + 2])  # a class token, then rows of 4 patches


def test_grid_follows_the_aspect_of_the_image():
    inputs = keras.Input((16, 64, 3))
    x = keras.layers.Conv2D(4, 8, strides=8)(inputs)
    x = keras.layers.Reshape((16, 4), name="tokens")(x)
    x = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(x))
    assert Network(keras.Model(inputs, x)).grid("tokens") == (2, 8)


def test_the_user_model_is_left_as_it_was(images):
    model = make_flat()
    before = [len(layer._inbound_nodes) for layer in model.layers], model.layers[-2].activation
    for library in ("xaiutils", "tf-keras-vis"):
        xai.explain(model, images[:1], library=library)
    assert ([len(layer._inbound_nodes) for layer in model.layers], model.layers[-2].activation) == before


def test_weights_that_change_are_seen_at_the_next_call(images):
    model = make_flat()
    results = []
    for _ in range(2):
        results.append([xai.explain(model, images, 0, library=lib) for lib in ("xaiutils", "tf-keras-vis")])
        kernel = model.get_layer("conv2").kernel
        kernel.assign(-kernel + 0.1)
    assert not np.allclose(results[0][0], results[1][0])
    np.testing.assert_allclose(results[1][0], results[1][1], atol=1e-5)


def test_a_model_is_forgotten_when_it_is_deleted(images):
    import gc
    import weakref

    model = make_flat()
    xai.explain(model, images[:1])
    known = weakref.ref(model)
    del model
    gc.collect()
    assert known() is None


def _subclassed():
    class Own(keras.Model):
        def call(self, x):
            return x[:, 0, 0]

    return Own()


def _lambda_softmax():
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(inputs))
    return keras.Model(inputs, keras.layers.Lambda(tf.nn.softmax, output_shape=(3,))(x))


def _two_inputs():
    a, b = keras.Input((SIZE, SIZE, 3)), keras.Input((4,))
    x = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(a), b])
    return keras.Model([a, b], keras.layers.Dense(2)(x))


def _segmenter():
    inputs = keras.Input((SIZE, SIZE, 3))
    return keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_subclassed, "not a functional"),
        (_lambda_softmax, "look like probabilities"),
        (_two_inputs, "expected one image input"),
        (_segmenter, "expected one output"),
        (lambda: "a path", "expected a Keras model, got str"),
    ],
)
def test_models_that_cannot_be_explained_are_refused_in_words(make, words, images):
    with pytest.raises(ModelError, match=words):
        xai.explain(make(), images)


def test_a_missing_layer_names_the_candidates(models, images):
    with pytest.raises(ModelError, match=r"'conv9' is not in the model.*conv2"):
        xai.explain(models["flat softmax"], images, layer="conv9")
    with pytest.raises(ModelError, match=r"'pool' has the output shape.*conv2"):
        xai.explain(models["flat softmax"], images, layer="pool")


def test_a_model_without_feature_maps_has_no_cam(images):
    inputs = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    assert xai.explain(model, images, method="vanilla_gradients").shape == (5, SIZE, SIZE)
    with pytest.raises(ModelError, match="no layer with a feature map"):
        xai.explain(model, images, method="grad_cam")
