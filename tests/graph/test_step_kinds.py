"""Operations that are told by what they do, and the rules of those that are none of the common layers."""

import warnings

import numpy as np
import pytest
from conftest import SIZE

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.attribution.guided_backprop import rectifiers
from xaiutils.attribution.relevance.linear_rules import Settings
from xaiutils.attribution.relevance.lrp import logit_seed, relevance
from xaiutils.attribution.relevance.propagation import Propagation
from xaiutils.backend import keras, tf
from xaiutils.graph.layers.activations import is_nonnegative, keeps_scale, rectifier
from xaiutils.graph.layers.step_kinds import kind_of, kinds, norm_of
from xaiutils.graph.layers.table import ACTIVATION, AFFINE, LAYER_NORM, SOFTMAX

layers, ops = keras.layers, keras.ops
RULE_METHODS = ("lrp", "clrp", "sglrp", "guided_backprop", "deconvolution", "relevance_cam", "deep_lift")


class AffineSum(layers.Layer):
    """a + s b, as Keras' InceptionResNetV2 has it."""

    def __init__(self, scale=0.3, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, inputs):
        return inputs[0] + inputs[1] * self.scale


class Outer(layers.Layer):
    def call(self, inputs):
        a, b = inputs
        return ops.einsum("nhwc,nhwd->ncd", a, b)


class Add(layers.Layer):
    """Named like Keras' layer, and something else."""

    def call(self, inputs):
        return inputs[0] * ops.sigmoid(inputs[1])


class Hidden(layers.Layer):
    def call(self, x):
        return ops.mean(ops.relu(x), axis=-1, keepdims=True) * ops.relu(x)


def conv(x, filters=4, **options):
    options = {"padding": "same", "use_bias": False, "activation": "relu", **options}
    return layers.Conv2D(filters, 3, **options)(x)


def selective_kernel(x):
    """Two branches, weighed by a softmax over them (Li et al. 2019)."""
    branches = layers.Lambda(lambda t: ops.stack(t, 1), output_shape=(2, 8, 8, 4))([conv(x), conv(x)])
    pooled = layers.GlobalAveragePooling2D()(layers.Add()([conv(x), conv(x)]))
    gates = layers.Reshape((2, 1, 1, 4))(layers.Dense(8, use_bias=False)(pooled))
    return ops.sum(layers.Multiply()([branches, layers.Softmax(axis=1)(gates)]), axis=1)


def attend(x):
    """A softmax over places in the way of the data, not a gate."""
    tokens = layers.Reshape((64, 4))(conv(x, activation=None))
    weights = layers.Softmax(axis=1)(layers.Dense(3, use_bias=False)(tokens))
    return layers.Dot((1, 1))([weights, tokens])


BLOCKS = {
    "a + s b": lambda x: AffineSum()([conv(x), conv(x)]),
    "selective kernel": selective_kernel,
    "Dot": lambda x: layers.Dot((1, 1))([layers.Reshape((64, 4))(conv(x)), layers.Reshape((64, 4))(conv(x))]),
    "attention by hand": attend,
    "own product": lambda x: Outer()([conv(x), conv(x)]),
    "Maximum": lambda x: layers.Maximum()([conv(x), conv(x)]),
    "Minimum": lambda x: layers.Minimum()([conv(x), conv(x), conv(x)]),
    "minimum over places": lambda x: ops.min(conv(x, activation=None), axis=(1, 2)),
    "UpSampling2D": lambda x: layers.UpSampling2D()(conv(x)),
    "bilinear": lambda x: layers.UpSampling2D(interpolation="bilinear")(conv(x)),
    "Resizing": lambda x: layers.Resizing(5, 7)(conv(x)),
    "constant factors": lambda x: conv(x) * np.linspace(-1, 1, 4, dtype=np.float32),
}
NORMS = {
    "GroupNormalization": lambda x: layers.GroupNormalization(2)(conv(x)),
    "instance norm": lambda x: layers.GroupNormalization(-1)(conv(x)),
    "UnitNormalization": lambda x: layers.UnitNormalization()(conv(x)),
    "RMSNormalization": lambda x: layers.RMSNormalization()(conv(x)),
    "LayerNormalization over places": lambda x: layers.LayerNormalization(axis=(1, 2, 3))(conv(x)),
    "rms_scaling": lambda x: layers.LayerNormalization(rms_scaling=True)(conv(x)),
    "Lambda": lambda x: layers.Lambda(tf.image.per_image_standardization, output_shape=(8, 8, 4))(conv(x)),
}


def classifier(block, seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    x = block(conv(layers.Rescaling(1 / 255)(inputs)))
    while len(x.shape) > 2:
        x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(3, use_bias=False)(x))


@pytest.fixture
def small(images):
    return images[:3, ::4, ::4]


@pytest.mark.parametrize("name", [*BLOCKS, *NORMS])
def test_deep_lift_is_complete(small, name):
    model = classifier((BLOCKS | NORMS)[name])
    if name in NORMS and (last := model.layers[-3]).weights:
        last.set_weights([w + np.linspace(0.1, 0.4, w.size).reshape(w.shape) for w in last.get_weights()])
    grey = np.full((3,), 40.0, np.float32)
    maps = xai.explain(model, small, 1, "deep_lift", baseline_image=grey)
    scores = xai.predict(model, small)[:, 1] - xai.predict(model, np.full_like(small, 40.0))[:, 1]
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), scores, rtol=2e-3, atol=2e-3 * np.abs(scores).max())


@pytest.mark.parametrize("name", BLOCKS)
def test_relevance_is_conserved(small, name):
    """All of these are homogeneous of degree one or two and without biases; AttnLRP's softmax does not conserve."""
    model = classifier(BLOCKS[name])
    maps = xai.explain(model, small, 1, "lrp", rule="epsilon", epsilon=0.0)
    if name == "attention by hand":
        assert np.abs(maps).max() > 0
        return
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), xai.predict(model, small)[:, 1], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_relevance_of_norms_is_that_of_a_fixed_deviation(small, name):
    """Against a convolution, a fixed scale and a Dense layer written out in NumPy."""
    model = classifier(NORMS[name])
    network = Network.of(model)
    norm = next(s for s in network.steps if kind_of(network, s) == LAYER_NORM)
    (x,) = (v.numpy() for v in network.inputs_at(norm, tf.constant(small)))
    y = network.forward(tf.constant(small), [norm.path])[1][0].numpy()
    kernel = model.layers[-1].kernel.numpy()[:, 1].reshape(y.shape[1:])
    R = y * kernel  # of the norm's output, epsilon rule without bias
    parts = norm_of(network, norm)
    groups = parts.average(tf.constant(x)).numpy() if parts.centred else np.zeros_like(x)
    rate = np.divide(y, x - groups, out=np.zeros_like(x), where=np.abs(x - groups) > 1e-6)
    s = tf.constant(kernel * rate)
    expected = x * (s.numpy() - (parts.average(s).numpy() if parts.centred else 0))
    with tf.GradientTape() as tape:
        t = tf.constant(x)
        tape.watch(t)
        rule = Propagation(network, kinds(network, "LRP"), tf.constant(small), "epsilon", "", SETTINGS)
        out = rule(norm, [t], lambda v: norm.call(norm.operation, {norm.reads[0]: v[0]}))[0]
    found = tape.gradient(out, t, output_gradients=tf.constant(R.astype(np.float32)))
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=2e-3 * np.abs(expected).max())


SETTINGS = Settings()


@pytest.mark.parametrize("name", ["a + s b", "selective kernel", "Dot", "attention by hand", "GroupNormalization"])
def test_rectified_gradients_need_rules_at_activations_alone(small, name):
    """Guided backpropagation is the gradient with relu(g) [z > 0] at each ReLU, whatever else there is."""
    model = classifier((BLOCKS | NORMS)[name])
    layer_of = {layer: layer.activation for layer in model.layers if isinstance(layer, layers.Conv2D)}

    @tf.custom_gradient
    def guided(z):
        return tf.nn.relu(z), lambda g: tf.nn.relu(g) * tf.cast(z > 0, tf.float32)

    found = xai.explain(model, small, 1, "guided_backprop", reduction="sum")
    for layer, activation in layer_of.items():
        layer.activation = guided if activation is keras.activations.relu else activation
    x = tf.constant(small)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(model(x)[:, 1])
    np.testing.assert_allclose(found, tape.gradient(total, x).numpy().sum(-1), rtol=1e-4, atol=1e-8)


# Lambdas and other functions ----------------------------------------------------------------------------------------


def network_of(function, shape=(8, 8, 3), behind=False):
    inputs = keras.Input(shape)
    x = layers.Conv2D(3, 1)(inputs) if behind else inputs
    x = layers.Lambda(function, name="own")(x)
    x = layers.Conv2D(4, 3, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: x / 255, AFFINE),
        (lambda x: x[..., ::-1] - np.array([1.0, 2, 3], np.float32), AFFINE),
        (lambda x: tf.repeat(tf.image.rgb_to_grayscale(x), 3, -1), AFFINE),
        (lambda x: tf.image.resize(x, (5, 5)), AFFINE),
        (lambda x: tf.clip_by_value(x, 0.0, 255.0), ACTIVATION),
        (lambda x: tf.math.log1p(x), ACTIVATION),
        (lambda x: tf.nn.softmax(x, axis=1), SOFTMAX),
        (tf.image.per_image_standardization, LAYER_NORM),
        (lambda x: x / tf.reduce_max(x, axis=(1, 2, 3), keepdims=True), LAYER_NORM),
        (lambda x: tf.nn.l2_normalize(x, axis=(1, 2)), LAYER_NORM),
        (lambda x: tf.nn.l2_normalize(x, axis=-1), LAYER_NORM),
        (lambda x: x * tf.reduce_mean(x, axis=(1, 2, 3), keepdims=True), None),
        (lambda x: tf.sort(x, axis=1), None),
        (lambda x: tf.image.adjust_gamma(x / 255) * x[:, :1], None),
        (lambda x: tf.concat([tf.nn.relu(x[..., :1]), x[..., 1:]], -1), None),
    ],
)
def test_lambdas_are_told_by_what_they_do(function, kind):
    network = Network(network_of(function))
    assert kind_of(network, network.step("own")) == kind


def test_an_image_that_standardises_itself(images):
    """All methods with rules work, and pass on to the pixels what reaches the standardised image."""
    model = network_of(tf.image.per_image_standardization, (SIZE, SIZE, 3))
    for method in RULE_METHODS:
        assert np.abs(xai.explain(model, images, 1, method)).max() > 0
    inputs = x = keras.Input((SIZE, SIZE, 3))
    for layer in model.layers[-3:]:
        x = layer(x)
    bare = keras.Model(inputs, x)
    network = Network.of(bare)
    ready = tf.image.per_image_standardization(images).numpy()
    found = relevance(network, ready, np.ones(5, np.int32), 5, logit_seed, "epsilon")
    np.testing.assert_allclose(
        xai.explain(model, images, 1, "lrp", rule="epsilon"), found.sum(-1), rtol=1e-3, atol=1e-5
    )
    lift = xai.explain(model, images, 1, "deep_lift").sum(axis=(1, 2))
    scores = xai.predict(model, np.concatenate([images, 0 * images]))[:, 1]
    np.testing.assert_allclose(lift, scores[:5] - scores[5:], rtol=1e-3, atol=1e-4)


def test_pixels_that_are_cut_off_are_no_activation(images):
    """tf.clip_by_value before the first layer is a ReLU by its values, and no unit of the network."""
    clipped = network_of(lambda x: tf.clip_by_value(x, 0.0, 255.0), (SIZE, SIZE, 3))
    inside = np.clip(images, 1, 254)
    found = xai.explain(clipped, inside, 1, "guided_backprop", reduction="sum")
    assert (found < 0).any()
    network = Network.of(network_of(tf.nn.relu, (SIZE, SIZE, 3), behind=True))
    assert rectifiers(network)[network.step("own")][1] == "relu"


def test_what_cannot_be_told_is_refused_by_name(small):
    """A layer of one's own of the name of Keras' is none of Keras'; one with a hidden ReLU has no rule."""
    for block, words in (
        (lambda x: Add(name="mine")([conv(x), conv(x)]), "'mine'"),
        (lambda x: Hidden(name="hides")(conv(x)), "'hides'"),
        (lambda x: layers.LSTM(4, name="tail")(layers.Reshape((8, 32))(conv(x))), "'tail'"),
    ):
        for method in ("lrp", "deep_lift"):
            with pytest.raises(ModelError, match=words):
                xai.explain(classifier(block), small, 1, method)
    with pytest.raises(ModelError, match="'hides'.*may be activations"):
        xai.explain(classifier(lambda x: Hidden(name="hides")(conv(x))), small, 1, "guided_backprop")
    tail = classifier(lambda x: layers.LSTM(4)(layers.Reshape((8, 32))(conv(x))))
    assert np.abs(xai.explain(tail, small, 1, "guided_backprop")).max() > 0


def test_quantised_layers_are_refused_by_name_where_they_are_taken_apart(small):
    model = classifier(lambda x: layers.Dense(4, name="rounded")(layers.Flatten()(x)))
    model.get_layer("rounded").quantize("int8")
    with pytest.raises(ModelError, match="'rounded'"):
        xai.explain(model, small, 1, "lrp")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert xai.explain(model, small, 1, "occlusion", patch_size=4, stride=4).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("layer", "name", "nonnegative", "scales"),
    [
        (layers.ReLU(), "relu", True, True),
        (layers.ReLU(max_value=6), "relu", True, False),
        (layers.ReLU(negative_slope=0.1), "smooth", False, True),
        (layers.ReLU(threshold=1), "smooth", True, False),
        (layers.LeakyReLU(), "smooth", False, True),
        (layers.ELU(), "smooth", False, False),
        (layers.PReLU(), "smooth", False, True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else None,
)
def test_what_an_activation_layer_is_does_not_depend_on_the_shape_that_it_is_asked_in(layer, name, nonnegative, scales):
    shape = (4, 5, 3)
    layer.build((None, *shape))
    hidden = lambda x: layer(x)  # noqa: E731 - an unknown function, asked in the whole shape
    assert is_nonnegative(layer, shape) == nonnegative
    assert keeps_scale(layer, shape) == keeps_scale(hidden, shape) == scales
    assert rectifier(layer, shape) == name
    if not layer.weights:
        assert rectifier(hidden, shape) == name
        assert is_nonnegative(hidden, shape) == nonnegative
