"""FullGrad: the terms add up to the logit, each bias is what the formula says, and the map is their published sum."""

import numpy as np
import pytest
from conftest import SIZE, make_flat

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.attribution.full_grad import full_grad_terms
from xaiutils.backend import keras, tf
from xaiutils.graph.passes import enlarge

layers, ops = keras.layers, keras.ops


def gap(model, images, target=1):
    """Largest error of the sum, relative to the sum of the terms' sizes."""
    network = Network.of(model)
    scores, terms = full_grad_terms(network, images, np.full(len(images), target, np.int32))
    np.testing.assert_allclose(scores, xai.predict(model, images)[:, target], atol=1e-4)
    return (np.abs(sum(terms.values()) - scores) / sum(np.abs(t) for t in terms.values())).max(), terms


def gated_net() -> keras.Model:
    """Everything with an implicit bias: SiLU, GELU, softplus, capped ReLU, a gate, layer and group norm, pooling."""
    keras.utils.set_random_seed(4)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Normalization(mean=[100.0, 110, 120], variance=[900.0, 800, 700], name="scale")(inputs)
    x = layers.Conv2D(8, 3, padding="same", activation="silu", bias_initializer="random_normal", name="conv1")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(gate)
    x = layers.Multiply(name="gated")([x, gate])
    x = layers.MaxPooling2D(2, name="max")(x)
    x = layers.DepthwiseConv2D(3, bias_initializer="random_normal", name="depthwise")(x)
    x = layers.LayerNormalization(name="layer_norm")(x)
    x = layers.Activation("gelu", name="gelu")(x)
    x = layers.GroupNormalization(2, name="group_norm")(x)
    x = layers.AveragePooling2D(2, name="mean")(layers.Activation("softplus", name="softplus")(x))
    x = layers.ReLU(max_value=0.7, name="capped")(x)
    x = layers.Dense(5, activation="tanh", bias_initializer="ones", name="hidden")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax", bias_initializer="ones", name="classes")(x))


@pytest.mark.parametrize("shape", ["flat softmax", "one-unit sigmoid", "fused sigmoid", "nested", "vit"])
def test_completeness(models, images, shape):
    for target in (0, 1):
        assert gap(models[shape], images, target)[0] < 1e-5


def test_completeness_with_every_implicit_bias(images):
    error, terms = gap(gated_net(), images)
    assert error < 1e-5
    for path in ("scale", "conv1", "excite", "gated", "layer_norm", "gelu", "group_norm", "softplus", "capped"):
        assert np.abs(terms[path]).min() > 0, path
    assert "max" not in terms  # homogeneous: no bias


def test_completeness_on_real_weights(kit):
    with np.load(kit / "weights" / "efficientnet_lite0_reference.npz") as file:
        photos = file["images"][:2, ::2, ::2].astype(np.float32)[:, 8:104, 8:104]
    model = xai.build_model("efficientnet_lite0", image_size=96, weights="imagenet", head="imagenet")
    assert gap(model, photos, 207)[0] < 1e-5


@pytest.mark.slow
def test_completeness_on_efficientnet_b0(images):
    """Squeeze-and-excitation and SiLU, with batch norms whose statistics are not neutral."""
    model = xai.build_model("efficientnet_b0", image_size=64)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            n = layer.gamma.shape[0]
            values = rng.uniform(0.8, 1.2, n), rng.normal(0, 0.2, n), rng.normal(0, 0.1, n), rng.uniform(0.05, 0.2, n)
            layer.set_weights([v.astype(np.float32) for v in values])
    x = np.repeat(np.repeat(images[:2], 2, axis=1), 2, axis=2)
    network = Network.of(model)
    scores, terms = full_grad_terms(network, x, np.array([0, 1], np.int32))
    np.testing.assert_allclose(sum(terms.values()), scores, atol=1e-3 * np.abs(scores).max())
    assert np.abs(scores).min() > 1e-3


def test_biases_by_hand():
    """One convolution 1 x 1, one batch norm, SiLU, a sum: every share is known."""
    inputs = keras.Input((2, 2, 3))
    x = layers.Conv2D(1, 1, name="conv")(inputs)
    x = layers.BatchNormalization(epsilon=0.0, name="norm")(x)
    x = layers.Activation("silu", name="silu")(x)
    model = keras.Model(inputs, layers.Dense(2, use_bias=False, name="out")(layers.Flatten()(x)))
    model.get_layer("conv").set_weights([np.full((1, 1, 3, 1), 0.1), np.array([0.5])])
    gamma, beta, mean, variance = 2.0, 0.3, 1.5, 4.0
    model.get_layer("norm").set_weights([np.array([v]) for v in (gamma, beta, mean, variance)])
    w = np.array([1.0, -2.0, 3.0, 0.5])
    model.get_layer("out").set_weights([np.stack([w, -w], axis=1)])
    image = np.array([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]], np.float32)[None]
    conv = 0.1 * image.sum(-1).ravel() + 0.5
    z = gamma * (conv - mean) / np.sqrt(variance) + beta
    sigmoid = 1 / (1 + np.exp(-z))
    slope = sigmoid * (1 + z * (1 - sigmoid))
    g = w * slope  # dS/dz
    scores, terms = full_grad_terms(Network.of(model), image, np.zeros(1, np.int32))
    expected = {
        "input": (0.1 * image.sum(-1).ravel() * gamma / 2 * g).sum(),
        "conv": (0.5 * gamma / 2 * g).sum(),
        "norm": ((beta - mean * gamma / 2) * g).sum(),
        "silu": ((z * sigmoid - slope * z) * w).sum(),
    }
    for path, value in expected.items():
        assert terms[path][0] == pytest.approx(value, rel=1e-4), path
    assert scores[0] == pytest.approx((z * sigmoid * w).sum(), rel=1e-5)


def psi(share):
    """Absolute value, min-max over the whole tensor, sum over channels; one image ``(rows, columns, channels)``."""
    share = np.abs(share)
    return ((share - share.min()) / np.ptp(share)).sum(-1) if np.ptp(share) > 0 else np.zeros(share.shape[:2])


@pytest.mark.parametrize("biases", ["all", "explicit"])
def test_map_naive(images, biases):
    """On a ReLU network: input, convolutions and batch norm, from Keras' own gradients."""
    model = make_flat("linear")
    model.get_layer("conv1").bias.assign(np.linspace(-1, 1, 8))
    model.get_layer("conv2").bias.assign(np.linspace(-1, 1, 6))
    names = ["scale", "conv1", "norm", "conv2"]
    inner = [model.get_layer(name) for name in names]
    with tf.GradientTape() as tape:
        x = tf.constant(images)
        tape.watch(x)
        values, y = [x], x
        for layer in inner:
            y = layer(y)
            tape.watch(y)
            values.append(y)
        S = model.get_layer("classes")(model.get_layer("pool")(y))[:, 2]
    gradients = [g.numpy() for g in tape.gradient(S, values)]
    conv1, norm, conv2 = (model.get_layer(n) for n in names[1:])
    beta, mean, variance, gamma = (v.numpy() for v in (norm.beta, norm.moving_mean, norm.moving_variance, norm.gamma))
    shares = [
        images * gradients[0],
        np.full_like(images, -1.0) * gradients[1],  # the offset of the scaling layer
        (values[2].numpy() > 0) * conv1.bias.numpy() * gradients[2],
        (beta - mean * gamma / np.sqrt(variance + norm.epsilon)) * gradients[3],
        (values[4].numpy() > 0) * conv2.bias.numpy() * gradients[4],
    ]
    if biases == "explicit":
        del shares[1]
    expected = sum(enlarge(np.stack([psi(image) for image in share]), SIZE, SIZE) for share in shares)
    found = xai.explain(model, images, 2, "full_grad", biases=biases)
    np.testing.assert_allclose(found, expected, atol=1e-3 * expected.max())


def test_a_bias_that_is_rounding_draws_nothing(images):
    """A linear layer that is not known beforehand: y - J x is rounding, which min-max would make a full map."""
    inputs = keras.Input((SIZE, SIZE, 3))
    blur = layers.Lambda(lambda x: tf.nn.depthwise_conv2d(x, tf.ones((3, 3, 3, 1)) / 9, [1] * 4, "SAME") / 7.0)
    x = layers.Dense(2, name="out")(layers.Flatten()(blur(inputs)))
    model = keras.Model(inputs, x)
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        S = model(x)[:, 0]
    share = images * tape.gradient(S, x).numpy()
    expected = np.stack([psi(image) for image in share])
    found = xai.explain(model, images, 0, "full_grad")
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_a_layer_without_second_derivative_is_named(images):
    @tf.custom_gradient
    def odd(x):
        return tf.cumsum(x * x, axis=1), lambda g: tf.raw_ops.ResizeNearestNeighborGrad(grads=g * x, size=[SIZE, SIZE])

    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Lambda(odd, output_shape=(SIZE, SIZE, 3), name="odd")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    with pytest.raises(ModelError, match="bias of layer 'odd' cannot be found"):
        xai.explain(model, images, 0, "full_grad")
    assert np.isfinite(xai.explain(model, images, 0, "full_grad", biases="explicit")).all()


@keras.saving.register_keras_serializable("tests")
class Positions(layers.Layer):
    """Embeddings of positions as some packages have them: of one row, whatever the number of images."""

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[1], shape[2]), initializer="random_normal", name="table")

    def call(self, x):
        places = ops.arange(x.shape[1])[None]
        return ops.take(self.table, places, axis=0)


def in_windows(x):
    """Attention in windows: the rows of its tensors are windows, not images."""
    windows = ops.reshape(ops.transpose(ops.reshape(x, (-1, 2, 4, 2, 4, 6)), (0, 1, 3, 2, 4, 5)), (-1, 16, 6))
    windows = layers.Dense(6, activation="gelu")(windows)
    back = ops.transpose(ops.reshape(windows, (-1, 2, 2, 4, 4, 6)), (0, 1, 3, 2, 4, 5))
    return layers.GlobalAveragePooling2D()(ops.reshape(back, (-1, 8, 8, 6)))


def same_tokens_twice(x):
    tokens = layers.Reshape((64, 6))(x)
    return layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 4)(tokens, tokens))


def same_map_twice(x):
    return layers.GlobalAveragePooling2D()(layers.Multiply()([x, x]))


def positions_of_one_row(x):
    tokens = layers.Reshape((64, 6))(x)
    tokens = layers.Add()([tokens, Positions()(tokens)])
    return layers.GlobalAveragePooling1D()(layers.Activation("gelu")(tokens))


@pytest.mark.parametrize("tail", [same_tokens_twice, same_map_twice, in_windows, positions_of_one_row])
def test_shares_of_each_image_add_up_to_its_score(images, tail):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(6, 4, strides=4, activation="gelu")(layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, layers.Dense(3, bias_initializer="random_normal")(tail(x)))
    scores, terms = full_grad_terms(Network.of(model), images, np.array([1] * 5, np.int32))
    np.testing.assert_allclose(np.sum(list(terms.values()), axis=0), scores, rtol=1e-4, atol=1e-5)
    maps = xai.explain(model, images, 1, "full_grad")
    alone = xai.explain(model, images[3:4], 1, "full_grad")
    np.testing.assert_allclose(alone[0], maps[3], atol=1e-5 * maps.max())
