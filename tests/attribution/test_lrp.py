"""Layer-wise relevance propagation: reference files, published values, naive matrix forms, conservation, contrasts."""

import dataclasses

import numpy as np
import pytest
from conftest import SIZE, make_flat
from test_backprop import GOLDEN, golden, one_hidden_layer, pixel, rich_model
from test_methods import captum_cnn

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.attribution.relevance.contrastive import (
    clrp_dual,
    clrp_seed,
    clrp_target,
    sglrp_dual,
    sglrp_seed,
    sglrp_target,
)
from xaiutils.attribution.relevance.linear_rules import RULES, Settings
from xaiutils.attribution.relevance.lrp import logit_seed, relevance
from xaiutils.attribution.relevance.propagation import COMPOSITES, Propagation, matmul, softmax
from xaiutils.backend import keras, tf
from xaiutils.graph.layers.batch_norm import with_batch_norm
from xaiutils.graph.layers.step_kinds import kind_of, kinds
from xaiutils.graph.layers.table import ACTIVATION, AFFINE, SOFTMAX, linear_parts

layers = keras.layers


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize(("file", "epsilon"), [("LRPZ", 0.0), ("LRPEpsilon", 1e-7)])
def test_innvestigates_reference_files(kit, file, epsilon, name):
    network, images, output, expected = golden(kit, file, name)
    targets = output.argmax(axis=1).astype(np.int32)
    found = relevance(network, images, targets, 8, logit_seed, "epsilon", epsilon=epsilon)
    np.testing.assert_allclose(found, expected, atol=4e-7)


def test_captums_values():
    """Its two test networks: pixels 1, 2, 3 through weights 2 and 3, and the convolution of its Grad-CAM test."""
    model = one_hidden_layer(np.full((3, 3), 2), np.zeros(3), np.full((3, 2), 3))
    np.testing.assert_allclose(
        xai.explain(model, pixel(1, 2, 3), 0, "lrp", rule="epsilon")[0], [[18, 36, 54]], rtol=1e-5
    )
    image = np.repeat(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1), 3, axis=-1)
    found = xai.explain(captum_cnn(), image, 0, "lrp", rule="epsilon")[0]
    expected = [[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11], [0, 0, 0, 0]]
    np.testing.assert_allclose(found, expected, atol=2e-4)


# Each rule against its matrix form ----------------------------------------------------------------------------------


def naive(rule, W, b, x, R, *, epsilon, gamma, alpha, bias, low, high):
    """Relevance of x, ``z = x @ W + b``, by the formulas as they are printed."""
    b = b if bias else np.zeros_like(b)
    c = x[:, None] * W  # contributions (inputs, outputs)
    plus, minus = np.maximum(c, 0), np.minimum(c, 0)
    z_plus, z_minus = plus.sum(0) + np.maximum(b, 0), minus.sum(0) + np.minimum(b, 0)

    def share(parts, whole):
        return (np.divide(parts, whole, out=np.zeros_like(parts), where=np.abs(whole) > 1e-12) * R).sum(1)

    if rule == "epsilon":
        z = c.sum(0) + b
        return share(c, z + epsilon * np.where(z >= 0, 1, -1))
    if rule == "z_plus":
        return share(plus, z_plus)
    if rule == "alpha_beta":
        return alpha * share(plus, z_plus) - (alpha - 1) * share(minus, z_minus)
    if rule == "gamma":
        z = c.sum(0) + b
        parts = c + gamma * np.where(z >= 0, plus, minus)
        return share(parts, z + gamma * np.where(z >= 0, z_plus, z_minus))
    connected = (W != 0).astype(float)
    if rule == "flat":
        return share(connected, connected.sum(0))
    if rule == "w2":
        return share(W**2, (W**2).sum(0))
    parts = c - low[:, None] * np.maximum(W, 0) - high[:, None] * np.minimum(W, 0)
    return share(parts, parts.sum(0))


def matrix(part, shape):
    """The matrix of a linear operation on inputs of a shape, and its bias."""
    size = int(np.prod(shape))
    columns = part.apply(
        tf.eye(size, dtype=tf.float32)[..., None] if shape == () else tf.reshape(tf.eye(size), (size, *shape)),
        part.kernel,
    )
    bias = tf.zeros(columns.shape[1:]) if part.bias is None else part.bias + tf.zeros(columns.shape[1:])
    return np.asarray(columns, np.float64).reshape(size, -1), np.asarray(bias, np.float64).ravel()


OPERATIONS = {
    "dense": (lambda: layers.Dense(6), (7,)),
    "convolution": (lambda: layers.Conv2D(3, 3, strides=2, padding="same"), (5, 6, 2)),
    "groups": (lambda: layers.Conv2D(4, 3, padding="same", groups=2), (4, 5, 6)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2), (4, 5, 3)),
    "transposed": (lambda: layers.Conv2DTranspose(2, 3, strides=2), (3, 3, 2)),
    "einsum": (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"), (4, 5)),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_rules_are_their_matrix_forms(operation):
    make, shape = OPERATIONS[operation]
    keras.utils.set_random_seed(1)
    layer, rng = make(), np.random.default_rng(2)
    layer.build((None, *shape))
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    (part,) = (maker() for maker in linear_parts(layer))
    for nonnegative in (False, True):
        x = rng.normal(size=(2, *shape)).astype(np.float32)
        x = np.maximum(x, 0) if nonnegative else x
        low, high = (np.full((1, *shape), v, np.float32) for v in (-3.5, 4.0))
        z = part(tf.constant(x))
        np.testing.assert_allclose(z, layer(x), atol=1e-5)
        R = rng.normal(size=z.shape).astype(np.float32)
        W, b = matrix(part, shape)
        for bias in (True, False):
            settings = Settings(0.1, 0.3, 1.7, bias, nonnegative=nonnegative, bounds=lambda _, ends=(low, high): ends)
            for name, rule in RULES.items():
                found = rule(part, tf.constant(x), z, tf.constant(R), settings).numpy()
                for i in range(2):
                    expected = naive(
                        name, W, b, x[i].ravel().astype(np.float64), R[i].ravel(), epsilon=0.1, gamma=0.3, alpha=1.7,
                        bias=bias, low=low.ravel(), high=high.ravel(),
                    )  # fmt: skip
                    scale = np.abs(expected).max()
                    np.testing.assert_allclose(found[i].ravel(), expected, atol=1e-4 * scale, err_msg=f"{name} {bias}")


@pytest.mark.parametrize("rule", ["epsilon", "epsilon_gamma_box", "epsilon_alpha_beta_flat", "w2"])
def test_a_whole_network_is_its_chain_of_matrix_forms(images, rule):
    """Rescaling, convolution with batch norm, ReLU6, convolution with fused SiLU, mean, dense: one layer at a time."""
    keras.utils.set_random_seed(4)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, name="one")(layers.Rescaling(1 / 100, offset=-1)(inputs))
    x = layers.ReLU(6)(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(5, 2, activation="silu", name="two")(x)
    model = keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(8)
    for layer in model.layers:
        layer.set_weights([rng.uniform(-1, 1, w.shape) for w in layer.get_weights()])
    norm = [[1, -1, 2, 0.5], [0.3, 0, -0.2, 1], [0.1, -0.4, 0, 0.2], [1, 2, 0.5, 1]]
    model.get_layer("norm").set_weights([np.array(w) for w in norm])
    image = images[0, ::4, ::4]
    found = xai.explain(model, image[None], 2, "lrp", rule=rule, epsilon=1e-3)[0]

    conv_rule, dense_rule, first = COMPOSITES[rule]
    one, two, out = (linear_parts(model.get_layer(n))[0]() for n in ("one", "two", "out"))
    one = with_batch_norm(one, model.get_layer("norm"))
    x0 = (image / 100 - 1).astype(np.float64)
    (W1, b1), (W2, b2), (W3, b3) = matrix(one, (8, 8, 3)), matrix(two, (3, 3, 4)), matrix(out, (5,))
    a1 = np.clip(x0.ravel() @ W1 + b1, 0, 6)
    z2 = a1 @ W2 + b2
    a2 = z2 / (1 + np.exp(-z2))
    W_mean = np.tile(np.eye(5), (4, 1)) / 4
    a3 = a2 @ W_mean
    logit = a3 @ W3 + b3
    np.testing.assert_allclose(logit, model(image[None])[0], atol=1e-4)
    options = {"epsilon": 1e-3, "gamma": 0.25, "alpha": 2.0, "bias": True}
    box = {"low": np.full(x0.size, -1.0), "high": np.full(x0.size, 1.55)}
    R = naive(dense_rule, W3, b3, a3, np.array([0, 0, logit[2]]), **options, **box)
    pooling = "flat" if rule == "w2" else "epsilon"
    R = naive(pooling, W_mean, np.zeros(5), a2, R, **{**options, "epsilon": 1e-9}, **box)
    R = naive(conv_rule, W2, b2, a1, R, **options, **box)
    R = naive(first or conv_rule, W1, b1, x0.ravel(), R, **options, **box)
    expected = R.reshape(8, 8, 3).sum(-1)
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


def test_layer_normalisation_is_linear_with_its_deviation_held(images):
    """y = gamma (z - mean z) r + beta of each token, where r is a constant and the mean is not (epsilon rule)."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 2, strides=2, name="conv")(inputs)
    x = layers.LayerNormalization(epsilon=0.1, name="norm")(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(9)
    for layer in model.layers:
        layer.set_weights([rng.uniform(-1, 1, w.shape) for w in layer.get_weights()])
    image = images[0, ::8, ::8] / 100
    found = xai.explain(model, image[None], 1, "lrp", rule="epsilon", epsilon=1e-6)[0]

    (W1, b1), (W2, b2) = (
        matrix(linear_parts(model.get_layer(name))[0](), shape) for name, shape in (("conv", (4, 4, 3)), ("out", (4,)))
    )
    gamma, beta = (np.asarray(w, np.float64) for w in model.get_layer("norm").get_weights())
    x0 = image.ravel().astype(np.float64)
    z = (x0 @ W1 + b1).reshape(4, 4)  # tokens, channels
    rate = 1 / np.sqrt(z.var(axis=1, keepdims=True) + 0.1)
    y = gamma * (z - z.mean(axis=1, keepdims=True)) * rate + beta
    logits = y.mean(axis=0) @ W2 + b2
    np.testing.assert_allclose(logits, model(image[None])[0], rtol=1e-4)
    R = y.mean(axis=0) * W2[:, 1]  # the bias of the last layer keeps its share
    s = np.tile(R / y.mean(axis=0) / 4, (4, 1))  # relevance of y by its value, the same after a mean
    share = s * gamma * rate
    R = (z * (share - share.mean(axis=1, keepdims=True))).ravel()
    expected = (x0[:, None] * W1 * (R / z.ravel())).sum(axis=1)
    np.testing.assert_allclose(found, expected.reshape(4, 4, 3).sum(axis=-1), atol=1e-4 * np.abs(expected).max())


# Conservation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["epsilon", "z_plus"])
def test_an_activation_after_a_fused_one(images, rule):
    """Both count, whether the first is part of the convolution or a layer of its own."""
    found = []
    for fused in (True, False):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((SIZE, SIZE, 3))
        x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
        x = layers.Conv2D(6, 3, activation="relu" if fused else None, bias_initializer="ones", name="conv")(x)
        x = x if fused else layers.ReLU()(x)
        x = layers.GlobalAveragePooling2D()(layers.Activation("tanh")(x))
        model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
        found.append(xai.explain(model, images, 1, "lrp", rule=rule))
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-7)


def without_biases(activation):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(6, 3, strides=2, use_bias=False, activation="relu")(layers.Rescaling(1 / 255)(inputs))
    x = layers.MaxPooling2D()(x)
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.Add()([x, layers.Activation(activation)(y)])
    gate = layers.Dense(6, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply()([x, layers.Reshape((1, 1, 6))(gate)])
    x = layers.Concatenate()([layers.GlobalMaxPooling2D()(x), layers.GlobalAveragePooling2D()(x)])
    return keras.Model(inputs, layers.Dense(3, use_bias=False)(x))


@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus", "epsilon_gamma_box", "epsilon_plus_flat", "w2"])
def test_relevance_is_conserved_without_biases(images, rule):
    # Where no contribution is positive the z+ rule has nothing to share; a ReLU has no relevance there, a GELU may.
    model = without_biases("relu" if "plus" in rule else "gelu")
    scores = xai.predict(model, images)
    for target, gates in ((0, "constant"), (1, "relevance")):
        if gates == "relevance" and rule == "w2":
            with pytest.raises(ModelError, match="'multiply.*gates='relevance', because the rule 'w2' does not look"):
                xai.explain(model, images, target, "lrp", rule=rule, gates=gates)
            continue
        maps = xai.explain(model, images, target, "lrp", rule=rule, epsilon=0.0, gates=gates)
        total = np.abs(maps).sum(axis=(1, 2)).max()
        np.testing.assert_allclose(maps.sum(axis=(1, 2)), scores[:, target], atol=2e-5 * total)


def test_half_of_a_products_relevance_goes_through_its_gate():
    """S = sum_p w x_p max(x): a constant gate leaves all with each x_p; else half of S is that of the largest."""
    inputs = keras.Input((2, 2, 1))
    x = layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones")(inputs)
    x = layers.Multiply()([x, layers.GlobalMaxPooling2D(keepdims=True)(x)])
    dense = layers.Dense(2, use_bias=False, kernel_initializer="ones")(layers.Flatten()(x))
    image = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32).reshape(1, 2, 2, 1)
    for gates, expected in (("constant", [[4, 8], [12, 16]]), ("relevance", [[2, 4], [6, 8 + 20]])):
        found = xai.explain(keras.Model(inputs, dense), image, 0, "lrp", rule="epsilon", gates=gates)
        np.testing.assert_allclose(found[0], expected, rtol=1e-4)


def test_attention_is_conserved_by_its_published_rules(models, images):
    """AttnLRP: half of what a product has goes to each factor; softmax keeps p_i (s_i - sum_k p_k s_k) R_i / p_i."""
    rng = np.random.default_rng(0)
    a, b, R = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 4), (2, 4, 5), (2, 3, 5)))
    with tf.GradientTape() as tape:
        ta, tb = tf.constant(a), tf.constant(b)
        tape.watch([ta, tb])
        y = matmul(ta, tb)
    Ra, Rb = tape.gradient(y, [ta, tb], output_gradients=tf.constant(R))
    for n in range(2):
        y = a[n] @ b[n]
        expected = np.array(
            [
                [sum(a[n, j, i] * b[n, i, p] * R[n, j, p] / (2 * y[j, p]) for p in range(5)) for i in range(4)]
                for j in range(3)
            ]
        )
        np.testing.assert_allclose(Ra[n], expected, atol=2e-4 * np.abs(expected).max())
    np.testing.assert_allclose(tf.reduce_sum(Ra), R.sum() / 2, rtol=1e-3)
    np.testing.assert_allclose(tf.reduce_sum(Rb), R.sum() / 2, rtol=1e-3)
    with tf.GradientTape() as tape:
        tape.watch(ta)
        p = softmax(ta)
    signal = rng.normal(size=p.shape).astype(np.float32)
    Rs = tape.gradient(p, ta, output_gradients=tf.constant(signal))
    np.testing.assert_allclose(Rs, a * (signal - p * signal.sum(-1, keepdims=True)), atol=1e-5)


def test_opened_attention_is_the_layer(models, images):
    """Forward, the modified pass gives the model's own logits: both attention layers, and everything else."""
    for model in (models["vit"], rich_model()):
        network = Network(model)
        known = kinds(network, "LRP")
        rule = Propagation(network, known, tf.constant(images), "epsilon_plus", "", Settings())
        logits, _ = network.forward(tf.constant(images), [], rule=rule)
        np.testing.assert_allclose(logits, network.logits(tf.constant(images)), atol=1e-5)
        assert np.abs(xai.explain(model, images, 1, "lrp")).max() > 0


def test_masked_attention_is_refused(images):
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Reshape((-1, 8))(layers.Conv2D(8, 8, strides=8)(inputs))
    x = layers.MultiHeadAttention(2, 4, name="causal")(x, x, use_causal_mask=True)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    for method in ("lrp", "deep_lift"):
        with pytest.raises(ModelError, match="'causal'.*with masks"):
            xai.explain(model, images, 0, method)


def test_flat_has_no_meaning_for_attention(models, images):
    with pytest.raises(ModelError, match="'flat' does not look at"):
        xai.explain(models["vit"], images, 0, "lrp", rule="flat")


def test_lambdas_are_tried(images):
    """An affine one is a linear layer, an elementwise one an activation; others are refused."""
    inputs = keras.Input((SIZE, SIZE, 3))

    def model(function):
        x = layers.Conv2D(4, 3, name="conv")(layers.Rescaling(1 / 255)(inputs))
        x = layers.GlobalAveragePooling2D()(layers.Lambda(function, name="own")(x))
        return keras.Model(inputs, layers.Dense(2)(x))

    def kind(function):
        network = Network(model(function))
        return kind_of(network, network.step("own"))

    assert kind(lambda x: x[:, 1:, :5] * 2 + 1) == AFFINE
    assert kind(tf.nn.relu) == ACTIVATION
    assert kind(lambda x: tf.nn.softmax(x, axis=1)) == SOFTMAX
    with pytest.raises(ModelError, match=r"'own' \(Lambda\)"):
        xai.explain(model(lambda x: x * tf.reduce_mean(x, axis=-1, keepdims=True)), images, 0, "lrp")


# Contrasts ------------------------------------------------------------------------------------------------------------


def test_pixels_whose_mean_is_subtracted_keep_their_relevance(images):
    """The weights of x - mean(x) sum to 0: shared by them, all relevance was lost."""
    mean = float(images[0].mean())

    def centred(by):
        keras.utils.set_random_seed(2)
        inputs = keras.Input((SIZE, SIZE, 3))
        x = layers.Lambda(by, output_shape=(SIZE, SIZE, 3))(inputs)
        x = layers.Conv2D(4, 3, strides=2, activation="relu")(x)
        return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))

    own = centred(lambda v: (v - tf.reduce_mean(v, (1, 2, 3), keepdims=True)) / 50)
    fixed = centred(lambda v: (v - mean) / 50)
    for rule in ("epsilon", "epsilon_plus", "epsilon_plus_flat", "w2"):
        maps, wanted = (xai.explain(m, images[:1], 1, "lrp", rule=rule) for m in (own, fixed))
        assert wanted.any()
        np.testing.assert_allclose(maps, wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("by", ["maximum", "mean", "maximum of scaled"])
@pytest.mark.parametrize("method", ["clrp", "sglrp"])
def test_bounds_hold_where_each_image_is_scaled_by_its_own(images, method, by):
    """A black image has no maximum to be divided by, and less its mean a white one is black. The image holds 0 and 255,
    so that its own bounds are those of all images."""
    image = images[:1].copy()
    image[0, 0, 0], image[0, 0, 1] = 0, 255
    mean = float(image.mean())
    own, fixed = {
        "maximum": (lambda v: v / tf.reduce_max(v, (1, 2, 3), keepdims=True), lambda v: v / 255),
        "mean": (lambda v: v - tf.reduce_mean(v, (1, 2, 3), keepdims=True), lambda v: v - mean),
        "maximum of scaled": (lambda v: v / tf.reduce_max(v, (1, 2, 3), keepdims=True), lambda v: v),
    }[by]

    def model(change):
        keras.utils.set_random_seed(2)
        x = inputs = keras.Input((SIZE, SIZE, 3))
        if by == "maximum of scaled":
            x = layers.Rescaling(1 / 255)(x)
        x = layers.Lambda(change, output_shape=(SIZE, SIZE, 3))(x)
        x = layers.Conv2D(4, 3, strides=2, activation="relu")(x)
        return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))

    found, wanted = (xai.explain(model(change), image, 1, method) for change in (own, fixed))
    assert wanted.any()
    np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())


def start(seed, model, images, target):
    network = Network.of(model)
    targets = np.full(len(images), target, np.int32)
    return relevance(network, images, targets, 32, seed, "deep_taylor", bias=False).sum(-1)


@pytest.mark.parametrize("method", ["clrp", "sglrp"])
def test_contrasts(models, images, method):
    """One pass from the difference of the seeds is the difference of the passes; the code's variant is its formula."""
    model, target = models["flat softmax"], 2
    logits = xai.predict(model, images)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    network, hot = Network.of(model), np.arange(3) == target
    if method == "clrp":
        seeds, at = (clrp_target, clrp_dual), clrp_seed
        logits = logits - 1  # of both signs
        assert logits[:, 2].min() < 0
        expected = np.abs(logits[:, [2]]) * np.where(hot, 1, -1 / 2)
    else:
        seeds, at = (sglrp_target, sglrp_dual), sglrp_seed
        expected = p[:, [2]] * (hot - p)  # the softmax's gradient
    found = at(network, tf.constant(logits), tf.constant(np.full(5, target, np.int32)))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    R, dual = (start(seed, model, images, target) for seed in seeds)
    published = xai.explain(model, images, target, method)
    np.testing.assert_allclose(published, R - dual, atol=1e-5 * np.abs(R).max())
    code = np.maximum(R - dual * (R.sum((1, 2)) / dual.sum((1, 2)))[:, None, None], 0)
    np.testing.assert_allclose(
        xai.explain(model, images, target, method, variant="code"), code, atol=1e-5 * np.abs(R).max()
    )


def test_one_unit_has_two_opposite_classes(models, images):
    model = models["one-unit sigmoid"]
    for method in ("lrp", "clrp", "sglrp"):
        zero, one = (xai.explain(model, images, c, method) for c in (0, 1))
        np.testing.assert_allclose(zero, -one, atol=1e-6 * np.abs(one).max())
    z, p = xai.predict(model, images)[:, 1], xai.predict(model, images, probabilities=True)
    rules_of_sglrp = {"rule": "deep_taylor", "bias": False}
    lrp = xai.explain(model, images, 1, "lrp", **rules_of_sglrp)
    np.testing.assert_allclose(
        xai.explain(model, images, 1, "sglrp"), lrp * (p[:, 0] * p[:, 1] / z)[:, None, None], atol=1e-4 * p.max()
    )


def test_the_target_of_two_logits_is_explained_against_the_other(images):
    """CLRP of two classes with epsilon rules, seeds abs(S_t) and its negative: a class is contrasted with the
    other's."""
    model = make_flat("linear", n_classes=2)
    logits = xai.predict(model, images)
    maps = xai.explain(model, images, 0, "clrp", rule="epsilon", epsilon=0.0, bias=True)
    lrp = [xai.explain(model, images, c, "lrp", rule="epsilon", epsilon=0.0) for c in (0, 1)]
    ratio = (logits[:, 0] / logits[:, 1])[:, None, None]
    expected = np.sign(logits[:, 0])[:, None, None] * (lrp[0] - ratio * lrp[1])
    np.testing.assert_allclose(maps, expected, atol=1e-4 * np.abs(lrp[0]).max())


@pytest.mark.parametrize("shift", [-5.0, 100.0])
@pytest.mark.parametrize("parameters", [{}, {"variant": "code"}])
def test_contrasts_keep_their_sign_whatever_that_of_the_logit(images, shift, parameters):
    """A constant added to all logits changes no probability: SGLRP's map stays, CLRP's keeps its pattern."""
    model = make_flat()
    before = {m: xai.explain(model, images, 1, m, **parameters) for m in ("clrp", "sglrp")}
    size = np.abs(xai.predict(model, images)[:, 1])[:, None, None]
    model.get_layer("classes").bias.assign_add(np.full(3, shift))
    after = {m: xai.explain(model, images, 1, m, **parameters) for m in ("clrp", "sglrp")}
    np.testing.assert_allclose(after["sglrp"], before["sglrp"], atol=1e-4 * np.abs(before["sglrp"]).max())
    size = np.abs(xai.predict(model, images)[:, 1])[:, None, None] / size
    np.testing.assert_allclose(after["clrp"], size * before["clrp"], atol=1e-3 * np.abs(after["clrp"]).max())


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().alpha = 3.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b0", "vit_mini16"])
def test_real_networks(kit, name):
    """The modified pass computes the network's own logits, and every rule gives finite maps that are not empty; Lite0
    has its ImageNet weights, the others random ones."""
    images = np.load(kit / "weights" / "efficientnet_lite0_reference.npz")["images"][:2, ::2, ::2].astype(np.float32)
    model = xai.build_model(name, 2, 112, weights="imagenet" if name == "efficientnet_lite0" else None)
    network, x = Network.of(model), tf.constant(images)
    rule = Propagation(network, kinds(network, "LRP"), x, "epsilon", "", Settings())
    logits = network.logits(x)
    np.testing.assert_allclose(network.forward(x, [], rule=rule)[0], logits, atol=1e-4 * np.abs(logits).max())
    for composite in ("epsilon_plus", "epsilon_gamma_box"):
        maps = xai.explain(model, images, 1, "lrp", rule=composite)
        assert np.isfinite(maps).all()
        assert np.abs(maps).max(axis=(1, 2)).min() > 0
