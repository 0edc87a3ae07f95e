"""What a model's output is, read from its graph: the same answer whatever the weights, with exact probabilities."""

import numpy as np
import pytest
from conftest import SIZE

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.backend import keras, tf

layers, ops = keras.layers, keras.ops


class OwnHead(layers.Layer):
    """A Dense layer and an activation in one layer that is not Keras'."""

    def __init__(self, activation, units=3):
        super().__init__()
        self.activation, self.dense = activation, layers.Dense(units)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.activation(self.dense(x))


def members(x, activation="softmax", units=3, n=3):
    return [layers.Activation(activation)(layers.Dense(units)(x)) for _ in range(n)]


def tempered(x):
    (p,) = members(x, n=1)
    return p**0.5 / ops.sum(p**0.5, axis=-1, keepdims=True)


def hierarchy(x):
    """P(coarse) P(fine given coarse), four classes."""
    coarse, *fine = members(x, units=2)
    return layers.Concatenate()([layers.Multiply()([coarse[:, i : i + 1], fine[i]]) for i in range(2)])


def experts(x):
    gates, *found = members(x, n=4)
    return ops.sum(ops.expand_dims(gates, -1) * ops.stack(found, 1), axis=1)


def two_sided(x):
    (p,) = members(x, "sigmoid", 1, n=1)
    return layers.Concatenate()([1 - p, p])


# Heads that are taken off: their logits are a Dense layer's.
READ = {
    "softmax": lambda x: members(x, n=1)[0],
    "fused lambda": lambda x: layers.Dense(3, activation=lambda z: tf.nn.softmax(z))(x),
    "Lambda": lambda x: layers.Lambda(tf.nn.softmax, output_shape=(3,))(layers.Dense(3)(x)),
    "Lambda of a lambda": lambda x: layers.Lambda(lambda z: ops.softmax(z), output_shape=(3,))(layers.Dense(3)(x)),
    "axis 1": lambda x: layers.Softmax(axis=1)(layers.Dense(3)(x)),
    "keras.ops": lambda x: ops.softmax(layers.Dense(3)(x), axis=-1),
    "sigmoids": lambda x: members(x, "sigmoid", n=1)[0],
    "one sigmoid": lambda x: ops.sigmoid(layers.Dense(1)(x)),
}
# Heads that are explained by the logarithm of their probability.
LOGS = {
    "mean": lambda x: layers.Average()(members(x)),
    "sum of ops": lambda x: sum(members(x)) / 3,
    "stacked mean": lambda x: ops.mean(ops.stack(members(x), 1), axis=1),
    "weighted": lambda x: 0.25 * members(x, n=1)[0] + 0.75 * members(x, n=1)[0],
    "Lambda mean": lambda x: layers.Lambda(lambda t: sum(t) / 3, output_shape=(3,))(members(x)),
    "mean of sigmoids": lambda x: layers.Average()(members(x, "sigmoid")),
    "mean of one-unit sigmoids": lambda x: layers.Average()(members(x, "sigmoid", 1)),
    "smoothed labels": lambda x: layers.Rescaling(0.9, 0.1 / 3)(members(x, n=1)[0]),
    "tempered behind the softmax": tempered,
    "tempered in a lambda": lambda x: layers.Dense(3, activation=lambda z: tf.nn.softmax(z / 2))(x),
    "1 - p and p": two_sided,
    "hierarchy": hierarchy,
    "experts": experts,
    "experts by Dot": lambda x: layers.Dot((1, 1))(
        [members(x, n=1)[0], layers.Lambda(lambda t: ops.stack(t, 1), output_shape=(3, 3))(members(x))]
    ),
    "exp of log-softmax": lambda x: ops.exp(ops.log_softmax(layers.Dense(3)(x))),
    "own layer": lambda x: OwnHead(ops.softmax)(x),
    "own sigmoids": lambda x: OwnHead(ops.sigmoid)(x),
    "hard sigmoids": lambda x: layers.Dense(3, activation="hard_sigmoid")(x),
}
EXACT = (
    set(LOGS)
    - {"Lambda mean", "tempered in a lambda", "experts by Dot", "own layer", "own sigmoids"}
    - {"hard sigmoids"}
)  # of the others only the value is known


def classifier(head, seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(6, 3, strides=2, activation="relu")(layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, head(layers.GlobalAveragePooling2D()(x)))


def output(model, images):
    p = np.asarray(model(images), np.float64)
    return np.concatenate([1 - p, p], axis=1) if p.shape[1] == 1 else p


def scaled(model, factor):
    model.set_weights([factor * w for w in model.get_weights()])
    return model


@pytest.mark.parametrize("name", [*READ, *LOGS])
def test_probabilities_are_the_output_whatever_the_weights(images, name):
    """Untrained, saturated, and with weights of zero: the same head is found."""
    model = classifier((READ | LOGS)[name])
    for factor in (1, 20, 0):
        network = Network(scaled(model, factor))
        assert (type(network.steps_to_logits[-1].operation).__name__ == "LogProbability") == (name in LOGS)
        assert network.activation == ("binary" if "one" in name else "sigmoid" if "sigmoids" in name else "softmax")
        logits = network.logits(tf.constant(images))
        assert np.isfinite(logits).all()
        np.testing.assert_allclose(network.probabilities(logits), output(model, images), atol=3e-7)


def test_an_ensemble_is_read_alike_under_every_seed(images):
    for seed in range(8):
        model = classifier(LOGS["mean"], seed)
        logits = Network(model).logits(tf.constant(images))
        np.testing.assert_allclose(np.exp(logits), output(model, images), atol=2e-7)


@pytest.mark.parametrize("name", sorted(EXACT))
def test_the_logarithm_is_exact_where_the_probability_underflows(images, name):
    """Against the same model in float64, whose probabilities reach far below those of float32."""
    model = scaled(classifier(LOGS[name]), 6)
    scores = Network(model).logits(tf.constant(images)).numpy()
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("float64")
        wide = classifier(LOGS[name])
    finally:
        keras.config.set_dtype_policy(before)
    wide.set_weights([w.astype(np.float64) for w in model.get_weights()])
    p = output(wide, images.astype(np.float64))
    sigmoid = "sigmoid" in name
    expected = np.log(p) - (np.log1p(-p) if sigmoid else 0)
    known = np.isfinite(expected) & ((p > 1e-290) if not sigmoid else (p > 1e-290) & (p < 1 - 1e-6))
    assert known.any()
    np.testing.assert_allclose(scores[known], expected[known], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["sum of softmaxes", "percent", "unbalanced"])
def test_numbers_made_of_probabilities_that_are_none_are_refused(images, name):
    head = {
        "sum of softmaxes": lambda x: layers.Add()(members(x, n=2)),
        "percent": lambda x: layers.Rescaling(100.0)(members(x, n=1)[0]),
        "unbalanced": lambda x: members(x, n=1)[0] - members(x, n=1)[0],
    }[name]
    for seed in range(2):
        with pytest.raises(ModelError, match="no probabilities themselves"):
            xai.explain(classifier(head, seed), images)


@pytest.mark.parametrize(
    "head", [lambda x: OwnHead(lambda z: z)(x), lambda x: layers.Rescaling(0.5)(layers.Dense(3)(x))]
)
def test_logits_are_logits_however_small(images, head):
    """Untrained logits may all lie in [0, 1]; they are logits all the same."""
    for factor in (0, 1e-3, 1):
        model = scaled(classifier(head), factor)
        np.testing.assert_allclose(Network(model).logits(tf.constant(images)), model(images), atol=1e-6)


def test_a_function_named_softmax_is_judged_by_what_it_does(images):
    def softmax(z):
        return ops.softmax(z / 5)

    model = classifier(lambda x: layers.Dense(3, activation=softmax)(x))
    np.testing.assert_allclose(xai.predict(model, images, probabilities=True), output(model, images), atol=1e-6)


def test_a_softmax_of_one_unit_is_refused(images):
    with pytest.raises(ModelError, match="1 whatever the image"):
        xai.explain(classifier(lambda x: layers.Dense(1, activation="softmax")(x)), images)


def test_maps_of_an_ensemble(images):
    """The gradient of log p by hand; relevance and DeepLIFT as they promise."""
    model = classifier(LOGS["mean"])
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D | layers.Dense):
            layer.bias.assign(0.1 * np.arange(layer.bias.shape[0]))
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(tf.math.log(model(x)[:, 1]))
    expected = np.abs(tape.gradient(total, x)).max(axis=-1)
    np.testing.assert_allclose(xai.explain(model, images, 1, "vanilla_gradients"), expected, rtol=1e-4, atol=1e-9)
    lift = xai.explain(model, images, 1, "deep_lift").sum(axis=(1, 2))
    scores = xai.predict(model, np.concatenate([images, 0 * images]))[:, 1]
    np.testing.assert_allclose(lift, scores[:5] - scores[5:], atol=1e-5)


def test_relevance_of_an_ensemble_is_that_of_its_members(images):
    """Of three times the same member, that of the member; of different ones, conserved."""
    dense = layers.Dense(3, use_bias=False)
    alone = classifier(lambda x: layers.Activation("softmax")(dense(x)))
    logit = xai.explain(alone, images, 1, "relevance_cam")
    model = classifier(lambda x: layers.Average()([layers.Activation("softmax")(dense(x)) for _ in range(3)]))
    model.layers[2].set_weights(alone.layers[2].get_weights())
    np.testing.assert_allclose(xai.explain(model, images, 1, "relevance_cam"), logit, rtol=1e-4, atol=1e-6)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    found = [layers.Softmax()(layers.Dense(3, use_bias=False)(layers.Flatten()(inputs))) for _ in range(3)]
    model = keras.Model(inputs, layers.Average()(found))
    maps = xai.explain(model, images / 100, 1, "lrp", rule="epsilon", epsilon=0.0)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), xai.predict(model, images / 100)[:, 1], rtol=1e-3)


# One output, however it is wrapped --------------------------------------------------------------------------------


def test_one_output_in_a_dictionary_or_list_is_taken(images):
    plain = classifier(READ["softmax"])
    for wrapped in ({"class": plain.output}, [plain.output]):
        model = keras.Model(plain.input, wrapped)
        np.testing.assert_allclose(xai.predict(model, images), xai.predict(plain, images), atol=1e-6)
        np.testing.assert_allclose(xai.explain(model, images, 0), xai.explain(plain, images, 0), atol=1e-6)


def test_several_outputs_are_named(images):
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, {"sex": layers.Dense(2, name="sex")(x), "age": layers.Dense(1, name="age")(x)})
    with pytest.raises(ModelError, match=r"age.*sex|sex.*age"):
        xai.explain(model, images)


def test_a_saved_model_as_a_layer(images, tmp_path):
    """TFSMLayer returns a dictionary of one tensor."""
    plain = classifier(READ["softmax"])
    plain.export(str(tmp_path / "saved"), verbose=False)
    inputs = keras.Input((SIZE, SIZE, 3))
    layer = layers.TFSMLayer(str(tmp_path / "saved"), call_endpoint="serving_default")
    model = keras.Model(inputs, layer(inputs))
    np.testing.assert_allclose(xai.predict(model, images, probabilities=True), plain(images), atol=1e-6)
    mine, theirs = (xai.explain(m, images, 1, "occlusion", patch_size=8, stride=8) for m in (plain, model))
    assert np.isfinite(theirs).all()
    assert mine.shape == theirs.shape
    with pytest.raises(ModelError, match="no layer with a feature map"):
        xai.explain(model, images, 1)
    gradients = xai.explain(model, images, 1, "vanilla_gradients")
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(tf.math.log(plain(x)[:, 1]))
    np.testing.assert_allclose(gradients, np.abs(tape.gradient(total, x)).max(axis=-1), rtol=1e-3, atol=1e-8)
    with pytest.raises(ModelError, match="TFSMLayer"):
        xai.explain(model, images, 1, "lrp")


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_of_members_is_no_distribution(images, seed):
    """Of equal members it would be: the answer must not depend on weights."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(inputs)))
    model = keras.Model(inputs, layers.Maximum()(members(x)))
    assert Network.of(model).activation == "sigmoid"
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(xai.predict(model, images, probabilities=True), expected, rtol=1e-4)


class ScoresOfImages(keras.layers.Layer):
    """A network in one layer, as a SavedModel is: logits that lie in [0, 1] unless images are extreme."""

    def call(self, x):
        mean = keras.ops.mean(x, axis=(1, 2, 3))[:, None]
        return 0.5 + 2e-3 * mean * keras.ops.convert_to_tensor([[1.0, -0.5, 0.1]])


def test_scores_that_lie_in_the_unit_interval_are_no_probabilities(images):
    """Whether a network in one step returns probabilities is not to be read from outputs that hardly move."""
    inputs = keras.Input(images.shape[1:])
    model = keras.Model(inputs, ScoresOfImages()(inputs))
    expected = model(images).numpy()
    assert 0 < expected.min() < expected.max() < 1
    np.testing.assert_allclose(xai.predict(model, images), expected, rtol=1e-5)
