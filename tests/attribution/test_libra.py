"""LibraGrad: the shares of input and biases add up to the logit, networks by hand, and nothing changes without need."""

import math

import numpy as np
import pytest
from conftest import SIZE, make_vit

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.attribution.full_grad import full_grad_terms
from xaiutils.attribution.libra import balanced_network
from xaiutils.backend import keras, tf

layers, ops = keras.layers, keras.ops
BIASES = ("bias", "beta", "token", "positions")
WITH_OPTION = [name for name, m in xai.METHODS.items() if any(p.name == "balanced" for p in m.parameters)]


def with_own_biases(model):
    """Weights of their own for what begins at 0 or 1, so that a forgotten share is noticed."""
    rng = np.random.default_rng(2)
    for variable in model.weights:
        if variable.name in (*BIASES, "gamma"):
            variable.assign(variable + 0.3 * rng.normal(size=variable.shape).astype(np.float32))
    return model


def gap(network, model, images, scaled, target=1):
    """|shares - S| of each image, over the shares' sizes: those of what ``scaled`` puts out and of each bias variable,
    by a tape that knows nothing of FullGrad."""
    biases = [v.value for v in model.trainable_variables if v.name in BIASES]
    totals, sizes, scores = [], [], []
    for image in images:
        with tf.GradientTape(persistent=True) as tape:
            logits, (x,) = network.forward(tf.constant(image[None]), [scaled], tape.watch)
            score = logits[0, target]
        gradients = tape.gradient(score, [x, *biases], unconnected_gradients="zero")
        shares = [float(tf.reduce_sum(v * g)) for v, g in zip([x, *biases], gradients, strict=True)]
        totals.append(sum(shares))
        sizes.append(np.abs(shares).sum())
        scores.append(float(score))
    return np.abs(np.array(totals) - scores) / sizes


def mlp_mixer() -> keras.Model:
    """Two blocks that mix tokens and channels, without attention."""
    keras.utils.set_random_seed(6)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(12, 8, strides=8)(layers.Rescaling(1 / 255, name="scale")(inputs))
    x = layers.Reshape((16, 12))(x)
    for _ in range(2):
        y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        y = layers.Dense(16)(layers.Dense(8, activation="gelu")(y))
        x = layers.Add()([x, layers.Permute((2, 1))(y)])
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.Dense(12)(layers.Dense(24, activation="silu")(y))])
    x = layers.GlobalAveragePooling1D()(layers.RMSNormalization()(x))
    return keras.Model(inputs, layers.Dense(3)(x))


def gated_transformer() -> keras.Model:
    """Keras' attention, a gated MLP (SwiGLU), and attention written out with keras.ops."""
    keras.utils.set_random_seed(7)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(8, 8, strides=8)(layers.Rescaling(1 / 255, name="scale")(inputs))
    x = layers.Reshape((16, 8))(x)
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(y, y)])
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.Dense(8)(layers.Multiply()([layers.Dense(12)(y), layers.Dense(12, "silu")(y)]))])
    query, key, value = (layers.Dense(8)(x) for _ in range(3))
    scores = layers.Softmax()(ops.matmul(query, ops.transpose(key, (0, 2, 1))) / math.sqrt(8))
    x = layers.Add()([x, ops.matmul(scores, value)])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


@pytest.mark.parametrize("make", [make_vit, mlp_mixer, gated_transformer])
def test_shares_add_up_to_the_logit(images, make):
    """FullGrad-complete with the balance, and not without."""
    model = with_own_biases(make())
    network = Network.of(model)
    plain, balanced = (gap(n, model, images[:2], "scale") for n in (network, balanced_network(network)))
    assert balanced.max() < 1e-5
    assert plain.min() > 1e-2


def test_the_forward_pass_is_left_as_it_is(images):
    network = Network.of(make_vit())
    plain, balanced = (n.logits(tf.constant(images)).numpy() for n in (network, balanced_network(network)))
    np.testing.assert_allclose(balanced, plain, atol=1e-5)


def both(model, images):
    """Maps of each method that has the option, without and with it."""
    names = [*WITH_OPTION, *(f"balanced {name}" for name in WITH_OPTION)]
    given = {f"balanced {name}": {"method": name, "balanced": True} for name in WITH_OPTION}
    maps = xai.explain_all(model, images, 1, names, parameters=given)
    return {name: (maps[name], maps[f"balanced {name}"]) for name in WITH_OPTION}


def test_nothing_changes_in_a_relu_network(models, images):
    for method, (plain, balanced) in both(models["nested"], images[:2]).items():
        np.testing.assert_allclose(balanced, plain, atol=1e-6 * np.abs(plain).max(), err_msg=method)


def test_maps_of_transformers_change(models, images):
    found = both(models["vit"], images[:1])
    for method, (plain, balanced) in found.items():
        assert balanced.any(), method
        assert np.abs(balanced - plain).max() > 0.01 * np.abs(plain).max(), method
    alone = xai.explain(models["vit"], images[:1], 1, "hirescam", balanced=True)
    np.testing.assert_allclose(found["hirescam"][1], alone, atol=1e-5 * np.abs(alone).max())
    given = {"base": "hirescam", "layers": ["block_00_norm1"], "scale_layers": "max_abs"}
    plain, balanced = (
        xai.explain(models["vit"], images[:1], 1, "layer_aggregate", base_parameters={"balanced": b}, **given)
        for b in (False, True)
    )
    assert np.abs(balanced - plain).max() > 0.01


def test_full_grad_has_no_biases_but_the_networks_own(images):
    network = Network.of(with_own_biases(make_vit()))
    wanted = np.ones(2, np.int32)
    scores, before = full_grad_terms(network, images[:2], wanted)
    balanced_scores, after = full_grad_terms(balanced_network(network), images[:2], wanted)
    np.testing.assert_allclose(balanced_scores, scores, atol=1e-5)
    size = sum(np.abs(term) for term in after.values())
    np.testing.assert_allclose(sum(after.values()), scores, atol=1e-5 * size.max())
    for path in ("block_00_gelu", "block_01_gelu"):
        assert np.abs(before[path]).min() > 0
        assert np.abs(after.get(path, np.zeros(2))).max() <= 1e-5 * size.max()


def one_step(make, weights=None):
    """Three pixels of one channel, what ``make`` makes of them, and its sum by (1, -2, 3) as logit 0."""
    inputs = keras.Input((1, 3, 1))
    x = make(layers.Reshape((3,))(inputs))
    out = layers.Dense(2, use_bias=False)
    model = keras.Model(inputs, out(x))
    out.set_weights([np.stack([W, -W], axis=1)])
    return model


W, X = np.array([1.0, -2.0, 3.0]), np.array([0.5, 2.0, 4.0])
SIGMOID = 1 / (1 + np.exp(-X))
PHI = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in X])
MEAN, RATE = X.mean(), 1 / np.sqrt(X.var() + 1e-3)
BY_HAND = {
    "gelu": (lambda x: layers.Activation("gelu")(x), W * PHI),
    "silu": (lambda x: layers.Activation("silu")(x), W * SIGMOID),
    "tanh": (lambda x: layers.Activation("tanh")(x), W * np.tanh(X) / X),
    "sigmoid": (lambda x: layers.Activation("sigmoid")(x), W * SIGMOID * (1 - SIGMOID)),
    "relu": (lambda x: layers.ReLU()(x), W),
    "norm": (lambda x: layers.LayerNormalization()(x), (W - W.mean()) * RATE),
    "square": (lambda x: layers.Multiply()([x, x]), W * X),
    "product": (lambda x: layers.Multiply()([x, layers.Rescaling(2.0)(x)]), W * 2 * X),
    "gate": (lambda x: layers.Multiply()([x, layers.Activation("sigmoid")(x)]), W * SIGMOID),
}


@pytest.mark.parametrize("step", BY_HAND)
def test_gradients_by_hand(step):
    make, expected = BY_HAND[step]
    image = X.reshape(1, 1, 3, 1).astype(np.float32)
    found = xai.explain(one_step(make), image, 0, "vanilla_gradients", reduction="sum", balanced=True)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)


def test_gated_activation_at_zero():
    found = xai.explain(
        one_step(BY_HAND["gelu"][0]), np.zeros((1, 1, 3, 1)), 0, "vanilla_gradients", reduction="sum", balanced=True
    )
    np.testing.assert_allclose(found.ravel(), W / 2, rtol=1e-3)


def test_attention_in_numpy(images):
    """One attention layer alone: dS/dx goes through values by probabilities that are held."""
    keras.utils.set_random_seed(8)
    inputs = keras.Input((SIZE, SIZE, 3))
    tokens = layers.Reshape((16, 4))(layers.Conv2D(4, 8, strides=8, name="patches")(inputs))
    attention = layers.MultiHeadAttention(1, 4, name="attention")
    x = layers.GlobalAveragePooling1D()(attention(tokens, tokens))
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    model.get_layer("patches").kernel.assign(model.get_layer("patches").kernel / 100)
    patches = images[:1].reshape(1, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(16, -1)
    kernel = model.get_layer("patches").kernel.numpy().reshape(-1, 4)
    t = patches @ kernel
    q, k, v, o = (w.numpy() for w in attention.weights[::2])  # kernels (4, 1, 4), biases between them
    scores = (t @ q[:, 0]) @ (t @ k[:, 0]).T / 2
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    to_token = p.mean(axis=0)[:, None] * (v[:, 0] @ o[0] @ model.get_layer("logits").kernel.numpy()[:, 1])[None]
    expected = (to_token @ kernel.T).reshape(4, 4, 8, 8, 3).transpose(0, 2, 1, 3, 4).reshape(SIZE, SIZE, 3).sum(-1)
    found = xai.explain(model, images[:1], 1, "vanilla_gradients", reduction="sum", balanced=True)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    plain = xai.explain(model, images[:1], 1, "vanilla_gradients", reduction="sum")[0]
    assert np.abs(plain - expected).max() > 1e-2 * np.abs(expected).max()


def test_models_in_half_precision(images):
    whole = make_vit()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        half = make_vit()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    half.set_weights(whole.get_weights())
    maps = [xai.explain(m, images[:2], 1, "gradients_x_inputs", balanced=True) for m in (whole, half)]
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.98


def test_new_weights_count_at_once(images):
    model = make_vit()
    before = xai.explain(model, images[:1], 1, "gradients_x_inputs", balanced=True)
    norm = model.get_layer("norm")
    norm.gamma.assign(2 * norm.gamma)
    after = xai.explain(model, images[:1], 1, "gradients_x_inputs", balanced=True)
    np.testing.assert_allclose(after, 2 * before, atol=1e-4 * np.abs(before).max())


@keras.saving.register_keras_serializable("tests")
class Scaled(layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(), initializer="ones", name="factor")

    def call(self, x):
        return ops.cumsum(x * self.factor, axis=1)


def test_a_step_without_a_rule_is_named(images):
    inputs = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(Scaled(name="odd")(inputs))))
    with pytest.raises(ModelError, match="balanced=True has no rule for 'odd'"):
        xai.explain(model, images[:1], 0, "vanilla_gradients", balanced=True)
