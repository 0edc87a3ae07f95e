"""Guided backpropagation, deconvolution and DeepLIFT: reference files, analytic cases, naive forms, completeness."""

import h5py
import numpy as np
import pytest
from conftest import SIZE

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.attribution.guided_backprop import rectified_gradients
from xaiutils.backend import keras, tf

layers = keras.layers
GOLDEN = ("Dense", "Dense_relu", "Conv2D", "Conv2D_relu", "AveragePooling2D", "MaxPooling2D")


def golden(kit, method, name):
    """A one-layer model of iNNvestigate's reference files with its images, outputs and attributions."""
    with h5py.File(kit / "golden" / f"{method}.hdf5") as file:
        images, case = file["input"][:], file[name]
        inputs = keras.Input((10, 10, 3))
        activation = "relu" if name.endswith("_relu") else None
        layer = {
            "Dense": lambda: layers.Dense(5, activation),
            "Conv2D": lambda: layers.Conv2D(5, 3, activation=activation),
            "AveragePooling2D": lambda: layers.AveragePooling2D(2),
            "MaxPooling2D": lambda: layers.MaxPooling2D(2),
        }[name.removesuffix("_relu")]()
        model = keras.Model(inputs, layers.Flatten()(layer(inputs)))
        layer.set_weights([case["weights"][k][:] for k in sorted(case["weights"])])
        output, expected = case["output"][:], case["attribution"][:]
    np.testing.assert_allclose(model(images), output, atol=1e-5)
    return Network(model), images, output, expected


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize(("file", "method"), [("GuidedBackprop", "guided"), ("Deconvnet", "deconvolution")])
def test_innvestigates_reference_files(kit, file, method, name):
    network, images, output, expected = golden(kit, file, name)
    targets = output.argmax(axis=1).astype(np.int32)
    found = rectified_gradients(network, images, targets, 8, method)
    seed = output.max(axis=1)[:, None, None, None]  # theirs starts with f(x) instead of 1
    np.testing.assert_allclose(np.maximum(seed, 0) * found if "relu" in name else seed * found, expected, atol=4e-7)


def pixel(*values):
    """One image of one row; every pixel has a value in its first channel, and 0 in the others."""
    image = np.zeros((1, 1, len(values), 3), np.float32)
    image[0, 0, :, 0] = values
    return image


def one_hidden_layer(weights, bias, out, activation="relu") -> keras.Model:
    """Pixels' first channels to ``activation(weights.T x + bias)``, then ``out``."""
    weights, out = np.asarray(weights, np.float32), np.asarray(out, np.float32)
    inputs = keras.Input((1, len(weights), 3))
    hidden, last = layers.Dense(weights.shape[1]), layers.Dense(out.shape[1])
    act = layers.Activation(activation) if isinstance(activation, str) else activation
    model = keras.Model(inputs, last(act(hidden(layers.Flatten()(inputs)))))
    full = np.zeros((3 * len(weights), weights.shape[1]), np.float32)
    full[::3] = weights
    hidden.set_weights([full, np.asarray(bias, np.float32)])
    last.set_weights([out, np.zeros(out.shape[1])])
    return model


@pytest.mark.parametrize(
    ("activation", "guided", "deconvolution"),
    [
        ("relu", [1, 0, 0, 4], [1, 0, 3, 4]),
        # the last unit is above ReLU6's cap: no gradient there, but a signal for a deconvolution
        (layers.ReLU(6.0), [1, 0, 0, 0], [1, 0, 3, 4]),
    ],
)
def test_gates(activation, guided, deconvolution):
    """Units 2, 2, -2 and 20 with the signals 1, -2, 3 and 4: guided needs both positive, deconvolution the signal."""
    model = one_hidden_layer(np.eye(4), np.zeros(4), [[1, 0], [-2, 0], [3, 0], [4, 0]], activation)
    image = pixel(2, 2, -2, 20)
    targets = np.zeros(1, np.int32)
    for method, expected in (("guided", guided), ("deconvolution", deconvolution)):
        found = rectified_gradients(Network(model), image, targets, 1, method)
        np.testing.assert_array_equal(found[0, 0, :, 0], expected)


def test_smooth_activations_are_refused_or_generalised(images):
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 3, strides=4, activation="silu", name="conv")(layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    for method in ("guided_backprop", "deconvolution"):
        with pytest.raises(ModelError, match=r"defined for ReLU networks, and 'conv'.*activations=\"all\""):
            xai.explain(model, images, 0, method)
    conv, dense = model.layers[-3].get_weights(), model.layers[-1].get_weights()[0][:, 0]
    x = images / np.float32(255)
    z = tf.Variable(tf.nn.conv2d(x, conv[0], 4, "VALID") + conv[1])
    with tf.GradientTape() as tape:
        y = tf.nn.silu(z)
    slope = tape.gradient(y, z)
    signal = np.maximum(dense.reshape(1, *z.shape[1:]), 0)
    for method, s in (("guided_backprop", signal * slope), ("deconvolution", signal + tf.zeros_like(z))):
        expected = tf.nn.conv2d_transpose(s, conv[0], x.shape, 4, "VALID") / 255
        found = xai.explain(model, images, 0, method, activations="all", reduction="sum")
        np.testing.assert_allclose(found, tf.reduce_sum(expected, -1), atol=1e-6)


def test_layers_that_may_hide_activations_are_refused(images):
    class Hidden(layers.Layer):
        def build(self, shape):
            self.dense = layers.Dense(4, activation="gelu")
            self.dense.build(shape)

        def call(self, x):
            return self.dense(x)

    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(inputs))
    model = keras.Model(inputs, layers.Dense(2)(Hidden(name="own")(x)))
    for method in ("guided_backprop", "deep_lift", "lrp"):
        with pytest.raises(ModelError, match=r"has no rule for 'own' \(Hidden\).*integrated_gradients"):
            xai.explain(model, images, 0, method)


# DeepLIFT -------------------------------------------------------------------------------------------------------------


def lift(model, image, rule, target=0, **more):
    return xai.explain(model, image, target, "deep_lift", rule=rule, **more)[0]


def test_deep_lift_of_captums_network():
    """2 relu(x1) + 2 relu(x2 - 1.5) at (1, 2) against 0: 2 and 1, where the gradient says 2 and 4."""
    model = one_hidden_layer([[2, 0], [0, 2]], [0, -3], [[1, 0], [1, 0]])
    np.testing.assert_allclose(lift(model, pixel(1, 2), "rescale")[0], [2, 1], rtol=1e-6)


def test_reveal_cancel_shares_a_minimum():
    """min(a, b) = a - relu(a - b), Shrikumar's example: rescale gives all to the smaller, reveal-cancel half each."""
    model = one_hidden_layer([[1, 1], [0, -1]], [0, 0], [[1, 0], [-1, 0]])
    np.testing.assert_allclose(lift(model, pixel(200, 80), "rescale")[0], [0, 80], atol=1e-4)
    np.testing.assert_allclose(lift(model, pixel(200, 80), "reveal_cancel")[0], [40, 40], rtol=1e-5)


def test_deep_lift_adds_overlapping_windows():
    """ReLU, then the largest of pixels 0 to 2 and of 2 to 4: the 4 in the middle is both, with the weights 1 and 10."""
    inputs = keras.Input((1, 5, 1))
    pooled = layers.MaxPooling2D((1, 3), strides=(1, 2))(layers.ReLU()(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.Flatten()(pooled)))
    model.get_layer("out").set_weights([np.array([[1.0, 0], [10, 0]]), np.zeros(2)])
    row = np.array([3.0, 1, 4, 2, 0])[None, None, :, None]
    np.testing.assert_allclose(lift(model, row, "rescale")[0], [0, 0, 44, 0, 0], atol=1e-5)


def test_a_small_difference_is_no_rounding():
    """silu(x1 - x2 + 3) at (2, 2 - 2^-16) against 0: D silu is some seventy units in the last place."""
    model = one_hidden_layer([[1, 0], [-1, 0]], [3, 0], [[1, 0], [0, 0]], "silu")
    slope = (silu(3 + 2**-16) - silu(3)) * 2**16
    np.testing.assert_allclose(lift(model, pixel(2, 2 - 2**-16), "rescale")[0], [2 * slope, -2 * slope], rtol=3e-5)


def silu(z):
    return z / (1 + np.exp(-z))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_reveal_cancel_naive(images, batch_norm):
    """The formulas of section 3.5.3, written out for Dense, batch norm and SiLU."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4, 4, 3))
    norm = layers.BatchNormalization(moving_mean_initializer="ones", beta_initializer="ones", gamma_initializer="ones")
    x = layers.Dense(5, name="hidden")(layers.Flatten()(layers.Rescaling(1 / 255)(inputs)))
    x = layers.Activation("silu")(norm(x) if batch_norm else x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    norm.set_weights([np.array([1, -2, 3, 1, 0.5]), *norm.get_weights()[1:]]) if batch_norm else None
    image, start = images[:2, ::8, ::8].astype(np.float64), 255.0 * np.eye(4)[None, :, :, None].repeat(3, -1)
    W, b = (w.astype(np.float64) for w in model.get_layer("hidden").get_weights())
    if batch_norm:
        scale = norm.get_weights()[0] / np.sqrt(1 + norm.epsilon)
        W, b = W * scale, (b - 1) * scale + 1
    m_y = model.get_layer("out").get_weights()[0][:, 1]
    for picture, found in zip(image, xai.explain(
        model, image, 1, "deep_lift", rule="reveal_cancel", baseline_image=start[0]
    ), strict=True):  # fmt: skip
        dx = (picture - start[0]).ravel() / 255
        z0 = start.ravel() / 255 @ W + b
        contributions = dx[:, None] * W
        rise, fall = np.maximum(contributions, 0).sum(0), np.minimum(contributions, 0).sum(0)
        up = 0.5 * (silu(z0 + rise) - silu(z0) + silu(z0 + rise + fall) - silu(z0 + fall))
        down = 0.5 * (silu(z0 + fall) - silu(z0) + silu(z0 + rise + fall) - silu(z0 + rise))
        expected = np.maximum(contributions, 0) @ (m_y * up / rise) + np.minimum(contributions, 0) @ (m_y * down / fall)
        np.testing.assert_allclose(found, expected.reshape(4, 4, 3).sum(-1), atol=1e-5)


def rich_model():
    """Every kind of step that has a rule of its own: gates, max pooling, norms, attention, softmax, products."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.ZeroPadding2D(1)(layers.Rescaling(1 / 64, offset=-2)(inputs))
    x = layers.SeparableConv2D(8, 3, strides=2, activation="swish")(x)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    gate = layers.Conv2D(8, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply()([x, gate])
    y = layers.LeakyReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x)))
    x = layers.Concatenate()([layers.Add()([x, y]), layers.AveragePooling2D(1)(y)])
    x = layers.Reshape((-1, 16))(x)
    x = x + layers.MultiHeadAttention(2, 6)(layers.LayerNormalization()(x), x)
    p = keras.ops.softmax(keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1))) * 0.3)
    x = keras.ops.matmul(p, x) * x
    x = layers.Dense(6, activation=tf.nn.elu)(layers.Lambda(lambda t: t * tf.constant(0.5) + 0.1)(x))
    x = layers.Concatenate()([layers.GlobalMaxPooling1D()(x), layers.GlobalAveragePooling1D()(x)])
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.fixture(scope="module")
def rich():
    return rich_model()


@pytest.mark.parametrize("rule", ["rescale", "reveal_cancel"])
def test_deep_lift_is_complete(models, images, rich, rule):
    cases = ((rich, "black"), (models["vit"], "mean"), (models["one-unit sigmoid"], "black"))
    for model, baseline in cases:
        maps = xai.explain(model, images, 1, "deep_lift", rule=rule, baseline=baseline)
        total = xai.METHODS["deep_lift"].total(
            Network.of(model), images, np.ones(5, np.int32), 32, baseline=baseline, baseline_image=None, rule=rule
        )
        difference = xai.predict(model, images)[:, 1] - xai.predict(model, start_of(images, baseline))[:, 1]
        np.testing.assert_allclose(total, difference, atol=1e-5)
        np.testing.assert_allclose(maps.sum(axis=(1, 2)), total, atol=2e-5 * np.abs(maps).sum(axis=(1, 2)).max())


def start_of(images, baseline):
    return (
        np.zeros_like(images)
        if baseline == "black"
        else np.broadcast_to(images.mean((1, 2), keepdims=True), images.shape)
    )


def test_deep_lift_of_an_image_against_itself_is_0(models, images):
    for name in ("vit", "flat softmax"):
        maps = xai.explain(models[name], images[:2], 1, "deep_lift", baseline_image=images[:2])
        assert (maps == 0).all()
    with pytest.raises(ValueError, match="baseline_image"):
        xai.explain(models["vit"], images, 1, "deep_lift", baseline_image=images[:2])


def test_two_classes_of_one_unit_are_each_others_negative(models, images):
    zero, one = (xai.explain(models["one-unit sigmoid"], images, c, "deep_lift") for c in (0, 1))
    np.testing.assert_allclose(zero, -one, atol=1e-6 * np.abs(one).max())


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b0", "vit_mini16"])
@pytest.mark.slow
def test_deep_lift_is_complete_on_real_networks(kit, name):
    """Lite0 has its ImageNet weights, the others random ones."""
    images = np.load(kit / "weights" / "efficientnet_lite0_reference.npz")["images"][:2, ::2, ::2].astype(np.float32)
    model = xai.build_model(name, 2, 112, weights="imagenet" if name == "efficientnet_lite0" else None)
    logits, black = (xai.predict(model, x)[:, 1] for x in (images, np.zeros_like(images)))
    for rule in ("rescale", "reveal_cancel"):
        maps = xai.explain(model, images, 1, "deep_lift", rule=rule)
        scale = np.abs(maps).sum(axis=(1, 2)).max()
        np.testing.assert_allclose(maps.sum(axis=(1, 2), dtype=np.float64), logits - black, atol=1e-4 * scale)
