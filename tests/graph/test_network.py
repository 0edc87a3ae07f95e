"""A model's graph: its logits under every head, its layers flat or nested, and clear refusals."""

import numpy as np
import pytest
from conftest import MODELS, SIZE, make_flat

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.backend import keras, tf
from xaiutils.graph.cam_layers import bottlenecks, cuts


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
        (_subclassed, "has never been called"),
        (_two_inputs, "xai.wrap.model, inputs="),
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


# Models that a review found explained wrongly -----------------------------------------------------------------------


def head(x, activation="softmax"):
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.layers.Activation(activation)(x)


def test_augmentation_layers_rest(images):
    """Keras' random layers are active unless told otherwise: every pass would see another image."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.RandomRotation(0.4)(keras.layers.RandomFlip()(inputs))
    model = keras.Model(inputs, head(keras.layers.Conv2D(4, 3, name="conv")(x)))
    expected = model(images, training=False).numpy()
    for _ in range(2):
        np.testing.assert_allclose(xai.predict(model, images, probabilities=True), expected, atol=1e-5)
    for library in ("xaiutils", "tf-explain"):
        first, second = (xai.explain(model, images[:2], 0, "vanilla_gradients", library) for _ in range(2))
        np.testing.assert_array_equal(first, second)


def test_a_backbone_without_a_size_has_feature_maps(images):
    inner = keras.Input((None, None, 3))
    backbone = keras.Model(inner, keras.layers.Conv2D(4, 3, strides=2, name="conv")(inner), name="backbone")
    inputs = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(inputs, head(backbone(keras.layers.Rescaling(1 / 255, name="scale")(inputs))))
    assert Network.of(model).cam_layer() == "backbone/conv"
    assert Network.of(model).grid("backbone/conv") == (15, 15)
    free = keras.Model(inner, head(backbone(inner)))
    for size in (32, 24):
        maps = xai.explain(free, images[:, :size, :size], 0, "grad_cam")
        assert maps.shape == (5, size, size)
    assert Network.of(free).grid("backbone/conv") == (11, 11)


def test_scaling_layers_are_no_feature_maps(images):
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 255, name="scale")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    with pytest.raises(ModelError, match="no layer with a feature map"):
        xai.explain(model, images)


def test_a_layer_that_is_called_twice_has_two_paths(images):
    inputs = keras.Input((SIZE, SIZE, 3))
    relu = keras.layers.ReLU(name="act")
    x = relu(keras.layers.Conv2D(4, 3, name="one")(inputs))
    x = relu(keras.layers.Conv2D(4, 3, name="two")(x))
    model = keras.Model(inputs, head(x))
    assert Network.of(model).spatial_layers() == ["one", "act", "two", "act#2"]
    assert Network.of(model).cam_layer() == "act#2"
    for library in ("xaiutils", "tf-explain", "tf-keras-vis"):
        assert xai.explain(model, images, 0, "grad_cam", library, layer="act#2").shape == (5, SIZE, SIZE)


def token_model(height, width, patch, class_token):
    from xaiutils.models.vit import ClassToken

    inputs = keras.Input((height, width, 3))
    x = keras.layers.Conv2D(8, patch, strides=patch, name="patches")(inputs)
    x = keras.layers.Reshape((-1, 8), name="tokens")(x)
    x = ClassToken()(x) if class_token else x
    x = keras.layers.LayerNormalization(name="before")(x)
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(x)))


@pytest.mark.parametrize(
    ("size", "patch", "token", "grid"),
    [((100, 60), 16, False, (6, 3)), ((32, 64), 8, True, (4, 8)), ((48, 48), 8, True, (6, 6))],
)
def test_token_grids_are_those_of_the_patches(size, patch, token, grid):
    network = Network(token_model(*size, patch, token))
    assert network.cam_layer() == "before"
    assert network.grid("before") == grid


def test_hidden_attention_asks_for_a_layer(images):
    class Block(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = keras.layers.MultiHeadAttention(2, 4)

        def build(self, shape):
            self.inner.build(shape, shape)

        def call(self, x):
            return x + self.inner(x, x)

    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Reshape((-1, 8))(keras.layers.Conv2D(8, 8, strides=8, name="patch")(inputs))
    for i in range(3):
        x = Block(name=f"block{i}")(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(x)))
    with pytest.raises(ModelError, match=r"give layer=, one of block0, block1, block2"):
        xai.explain(model, images)
    assert xai.explain(model, images, layer="block1").shape == (5, SIZE, SIZE)


def test_adapted_statistics_and_new_layers_are_seen(images):
    normalise = keras.layers.Normalization()
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), normalise, keras.layers.Conv2D(4, 3)])
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(3))
    xai.predict(model, images)
    normalise.adapt(images)
    np.testing.assert_allclose(xai.predict(model, images), model(images), atol=1e-4)
    ours, theirs = (xai.explain(model, images, 0, "vanilla_gradients", lib) for lib in ("xaiutils", "tf-keras-vis"))
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * ours.max())
    model.pop()
    model.add(keras.layers.Dense(5))
    np.testing.assert_allclose(xai.predict(model, images), model(images), atol=1e-4)


def test_gates_keep_their_sigmoid_in_the_copy_for_libraries(images):
    """Squeeze and excitation: a Dense sigmoid inside the network is no head."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(6, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
    gate = keras.layers.Dense(6, activation="sigmoid")(keras.layers.GlobalAveragePooling2D()(x))
    x = keras.layers.Multiply()([x, keras.layers.Reshape((1, 1, 6))(gate)])
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x)))
    ours, theirs = (xai.explain(model, images, 1, "vanilla_gradients", lib) for lib in ("xaiutils", "tf-keras-vis"))
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * ours.max())


def test_several_independent_classes_keep_their_sigmoids(images):
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, head(x, "sigmoid"))
    p = model(images).numpy()
    np.testing.assert_allclose(xai.predict(model, images, probabilities=True), p, atol=1e-6)
    theirs = xai.explain(model, images, 1, "occlusion", "tf-explain", patch_size=SIZE)
    grey = model(np.full_like(images, 127.5)).numpy()[:, 1]
    np.testing.assert_allclose(theirs[:, 0, 0], 1 - grey, atol=1e-5)
    with pytest.raises(ModelError, match="softmax over the classes"):
        xai.explain(model, images, 1, "score_cam", "tf-keras-vis")


def test_small_logits_are_not_taken_for_probabilities(images):
    model = make_flat("linear")
    model.get_layer("classes").set_weights([np.zeros((6, 3)), np.array([0.2, 0.5, 0.9])])
    np.testing.assert_allclose(xai.predict(model, images)[0], [0.2, 0.5, 0.9])


@pytest.mark.parametrize("activation", ["log_softmax", tf.nn.softmax])
def test_other_softmaxes_are_taken_off(models, images, activation):
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(inputs))
    if activation == "log_softmax":
        model = keras.Model(inputs, head(x, activation))
        expected = np.exp(model(images).numpy())
    else:
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model(inputs, keras.layers.Dense(3, activation=activation)(x))
        expected = model(images).numpy()
    np.testing.assert_allclose(xai.predict(model, images, probabilities=True), expected, atol=1e-6)


def test_a_layer_with_a_way_around_it_cannot_start_the_model(images):
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(3, 3, padding="same", name="conv")(inputs)
    network = Network(keras.Model(inputs, head(keras.layers.Add()([x, inputs]))))
    with pytest.raises(ModelError, match="other paths lead around it"):
        network.from_layer("conv", tf.zeros((1, SIZE, SIZE, 3)))


def test_a_cut_gradient_is_named(images):
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.ops.cast(keras.ops.cast(inputs, "int32"), "float32")
    model = keras.Model(inputs, head(keras.layers.Conv2D(4, 3, name="conv")(x)))
    assert xai.explain(model, images, 0).shape == (5, SIZE, SIZE)  # Grad-CAM needs no gradient beyond its layer
    with pytest.raises(ModelError, match="cuts the gradient to its input"):
        xai.explain(model, images, 0, "vanilla_gradients")


def test_what_modified_passes_ask(models, images):
    network = Network.of(models["flat softmax"])
    conv2, image = network.step("conv2"), tf.constant(images)
    assert [step.path for step in network.producers(conv2)] == ["norm"]
    assert network.producers(network.step("scale")) == [None]
    assert network.input_shapes(conv2) == [(None, 16, 16, 8)]
    (found,) = network.inputs_at(conv2, image)
    np.testing.assert_allclose(found, network.forward(image, ["norm"])[1][0], atol=1e-6)
    assert "last" not in [step.path for step in network.steps_to_logits]
    assert network.steps_to_logits[-1].path == "classes"
    assert not network.is_head(network.step("classes"))
    fused = Network.of(models["fused softmax"])
    assert fused.is_head(fused.step("classes"))


def test_a_rule_computes_every_step(models, images):
    """The outputs of a rule take the place of the step's own."""
    network, image = Network.of(models["nested"]), tf.constant(images)
    seen = []

    def rule(step, inputs, compute):
        seen.append(step.path)
        outputs = compute(inputs)
        return [2 * y for y in outputs] if step.path == "classes" else outputs

    np.testing.assert_allclose(network.forward(image, [], rule=rule)[0], 2 * network.logits(image), rtol=1e-5)
    assert seen == [step.path for step in network.steps_to_logits]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vit_mini16"])
def test_bottlenecks_are_the_steps_that_cut_alone(name):
    network = Network.of(xai.build_model(name, 3, 32))
    assert bottlenecks(network) == {step for step in network.steps_to_logits if cuts(network, {step})}
