"""Attention methods: naive NumPy forms, hand-made transformers, Keras' own attention layers, DINOv2's reference."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import SIZE, make_flat, make_vit

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.attribution.relevance.transformer import TransformerPropagation
from xaiutils.backend import keras, tf
from xaiutils.graph.layers.step_kinds import kinds
from xaiutils.graph.passes import enlarge
from xaiutils.models.vit import SelfAttention, ViTConfig, vit_backbone

layers = keras.layers
METHODS = ("raw_attention", "attention_rollout", "transformer_attribution", "legrad")
VIT = ViTConfig(patch_size=8, width=16, depth=2, heads=2, mlp_ratio=2)


@pytest.fixture(autouse=True)
def eager():
    """Small networks take longer to trace than to run, and numbers are what is tested here: test_methods.py compiles
    every method, and some tests below turn this off."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def drawn(row, grid=(4, 4), size=(SIZE, SIZE)):
    """A row of patches ``(n, patches)`` as the map that `explain` must give."""
    return enlarge(np.reshape(row, (-1, *grid)), *size)


@pytest.fixture(scope="module")
def vit():
    """Two blocks whose attention is far from uniform, a class token and a linear head."""
    keras.utils.set_random_seed(2)
    inputs, tokens = vit_backbone(VIT, SIZE)
    x = layers.Lambda(lambda t: t[:, 0], output_shape=(16,), name="first_token")(tokens)
    model = keras.Model(inputs, layers.Dense(3, name="logits", kernel_initializer="random_normal")(x))
    for weight in model.weights:
        if "kernel" in weight.path:
            weight.assign(weight * 2.5)
    return model


@pytest.fixture(scope="module")
def read(vit, images):
    """Probabilities of the two layers, float64, and the gradient of each class's logit by them."""
    outputs = [vit.get_layer(f"block_{i:02d}_attention").output[1] for i in range(2)]
    model = keras.Model(vit.input, [*outputs, vit.output])
    with tf.GradientTape(persistent=True) as tape:
        x = tf.constant(images)
        tape.watch(x)
        *maps, logits = model(x)
        totals = [tf.reduce_sum(logits[:, c]) for c in range(3)]
    gradients = [[g.numpy().astype(np.float64) for g in tape.gradient(total, maps)] for total in totals]
    return [m.numpy().astype(np.float64) for m in maps], gradients


# Naive forms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "fusion"), [(0, "mean"), (0, "max"), (1, "min"), (1, "mean")])
def test_raw_attention_is_the_class_tokens_row(vit, images, read, layer, fusion):
    expected = getattr(np, fusion)(read[0][layer], axis=1)[:, 0, 1:]
    found = xai.explain(vit, images, 0, "raw_attention", layer=f"block_{layer:02d}_attention", fusion=fusion)
    np.testing.assert_allclose(found, drawn(expected), atol=1e-6)
    if layer == 1:
        np.testing.assert_array_equal(found, xai.explain(vit, images, 0, "raw_attention", fusion=fusion))


def naive_rollout(maps, fusion="mean", discard=0.0):
    expected = []
    for n in range(len(maps[0])):
        R = np.eye(maps[0].shape[-1])
        for A in maps:
            fused = getattr(np, fusion)(A[n], axis=0)
            flat = fused.ravel()
            flat[np.argsort(flat)[: int(discard * flat.size)]] = 0
            mixed = flat.reshape(fused.shape) + np.eye(len(fused))
            R = (mixed / mixed.sum(axis=1, keepdims=True)) @ R
        expected.append(R)
    return np.array(expected)


@pytest.mark.parametrize(("fusion", "discard"), [("mean", 0.0), ("max", 0.0), ("mean", 0.6)])
def test_rollout_naive(vit, images, read, fusion, discard):
    expected = naive_rollout(read[0], fusion, discard)
    found = xai.explain(vit, images, 0, "attention_rollout", fusion=fusion, discard_ratio=discard)
    np.testing.assert_allclose(found, drawn(expected[:, 0, 1:]), atol=1e-6)
    patches = xai.explain(vit, images, 0, "attention_rollout", fusion=fusion, discard_ratio=discard, query="patches")
    np.testing.assert_allclose(patches, drawn(expected[:, 1:, 1:].mean(axis=1)), atol=1e-6)
    np.testing.assert_allclose(expected.sum(axis=-1), 1)  # rows stay distributions


@pytest.mark.parametrize("target", [0, 2])
def test_transformer_attribution_naive(vit, images, read, target):
    maps, gradients = read
    expected = []
    for n in range(len(images)):
        R = np.eye(17)
        for A, g in zip(maps, gradients[target], strict=True):
            R = R + np.maximum(g[n] * A[n], 0).mean(axis=0) @ R
        expected.append(R)
    expected = np.array(expected)
    found = xai.explain(vit, images, target, "transformer_attribution")
    np.testing.assert_allclose(found, drawn(expected[:, 0, 1:]), rtol=1e-3, atol=1e-4 * expected[:, 0, 1:].max())
    patches = xai.explain(vit, images, target, "transformer_attribution", query="patches")
    pooled = (expected - np.eye(17))[:, 1:, 1:].mean(axis=1)
    np.testing.assert_allclose(patches, drawn(pooled), rtol=1e-3, atol=1e-4 * pooled.max())


@pytest.mark.parametrize(("target", "pooling"), [(0, "mean"), (2, "mean"), (2, "model")])
def test_legrad_naive(vit, images, target, pooling):
    """One tape for each block: the gradient of its own score by its own probabilities. The authors' code gives norm and
    head the mean of all the block's tokens (github.com/WalBouss/LeGrad, compute_legrad_clip)."""
    network = Network(vit)
    expected = np.zeros((len(images), 17))
    for block in ("block_00", "block_01"):
        with tf.GradientTape() as tape:
            _, (A, tokens) = network.forward(
                tf.constant(images), [(f"{block}_attention", 1), f"{block}_add2"], tape.watch
            )
            token = tf.reduce_mean(tokens, axis=1, keepdims=True) if pooling == "mean" else tokens[:, :1]
            tail = vit.get_layer("norm")(token)[:, 0]
            score = tf.reduce_sum(vit.get_layer("logits")(tail)[:, target])
        # Only what lies behind A and before this block's end is on the way from one to the other.
        expected += np.maximum(tape.gradient(score, A).numpy(), 0).mean(axis=(1, 2))
    found = xai.explain(vit, images, target, "legrad", pooling=pooling)
    np.testing.assert_allclose(found, drawn(expected[:, 1:]), rtol=1e-3, atol=1e-5 * expected.max())
    if pooling == "mean":
        np.testing.assert_array_equal(found, xai.explain(vit, images, target, "legrad"))
        assert not np.allclose(found, xai.explain(vit, images, target, "legrad", pooling="model"), rtol=0.1)


def test_legrad_leaves_a_head_that_pools_as_it_is(images):
    model = keras_vit("pool")
    maps = [xai.explain(model, images, 0, "legrad", pooling=p) for p in ("mean", "model")]
    np.testing.assert_array_equal(*maps)


# Cases that are known -------------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("tests")
class FixedAttention(layers.Layer):
    """Tokens mixed by given probabilities ``(heads, tokens, tokens)``, averaged over heads."""

    def __init__(self, probabilities, **kwargs):
        super().__init__(**kwargs)
        self.probabilities = np.asarray(probabilities, np.float32)

    def call(self, x):
        A = keras.ops.broadcast_to(self.probabilities[None], (keras.ops.shape(x)[0], *self.probabilities.shape))
        A = A + 0 * keras.ops.mean(x)  # on the path from the image, as real probabilities are
        return keras.ops.mean(keras.ops.matmul(A, x[:, None]), axis=1), A

    def compute_output_shape(self, shape):
        return shape, (shape[0], *self.probabilities.shape)


def fixed_model(*probabilities):
    """Patches 2 x 2 of one value each behind a class token of zeros, fixed attention with residuals, and the class
    token's value times (1, -2) as logits."""
    from xaiutils.models.vit import ClassToken

    inputs = keras.Input((2, 2, 3))
    x = layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones", name="patches")(inputs)
    x = ClassToken(name="token")(layers.Reshape((-1, 1))(x))
    for i, A in enumerate(probabilities):
        x = layers.Add(name=f"add{i}")([x, FixedAttention(A, name=f"attention{i}")(x)[0]])
    x = layers.Lambda(lambda t: t[:, 0], output_shape=(1,))(x)
    model = keras.Model(inputs, layers.Dense(2, use_bias=False, name="classes")(x))
    model.get_layer("classes").set_weights([np.array([[1.0, -2.0]])])
    return model


IMAGE = np.array([[10, 20], [30, 40]], np.float32).reshape(1, 2, 2, 1).repeat(3, axis=-1)


def test_attention_of_every_token_to_itself_says_nothing():
    model = fixed_model(np.eye(5)[None], np.eye(5)[None])
    for method in METHODS[:3]:
        assert (xai.explain(model, IMAGE, 0, method) == 0).all()


def test_uniform_attention_gives_a_uniform_map():
    uniform = np.full((2, 5, 5), 0.2)
    model = fixed_model(uniform, uniform)
    np.testing.assert_allclose(xai.explain(model, IMAGE, 0, "raw_attention"), 0.2, rtol=1e-6)
    # ((U + I) / 2)^2 = U / 2 + U / 4 + I / 4
    np.testing.assert_allclose(xai.explain(model, IMAGE, 0, "attention_rollout"), 0.15, rtol=1e-6)


def test_one_hand_made_layer():
    """The class token takes a_j of patch j (x_j = 30, 60, 90, 120): dS_0/dA_0j = x_j, so Chefer gives a_j x_j, LeGrad
    the mean over the 5 queries of relu(x_j), and class 1, whose logit falls with every patch, gets nothing."""
    A = np.full((1, 5, 5), 0.2)
    A[0, 0] = [0.1, 0.4, 0.3, 0.2, 0.0]
    model, x = fixed_model(A), IMAGE.sum(axis=-1)
    weights = np.array([[0.4, 0.3], [0.2, 0.0]])
    np.testing.assert_allclose(xai.explain(model, IMAGE, 0, "raw_attention")[0], weights, rtol=1e-6)
    rolled = xai.explain(model, IMAGE, 0, "attention_rollout")
    np.testing.assert_allclose(rolled[0], weights / 2, rtol=1e-6)  # rows of A sum to 1, rows of A + I to 2
    np.testing.assert_allclose(xai.explain(model, IMAGE, 0, "transformer_attribution"), x * weights, rtol=1e-5)
    np.testing.assert_allclose(xai.explain(model, IMAGE, 0, "legrad"), x / 5, rtol=1e-5)
    for method in METHODS[2:]:
        assert (xai.explain(model, IMAGE, 1, method) == 0).all()


def test_the_form_with_relevance_is_the_authors(images):
    """Rows made by the authors' code (github.com/hila-chefer/Transformer-Explainability, commit c3e578f, its
    VisionTransformer in float64 with both norms' epsilon 1e-6) with the weights and images below."""
    golden = np.load(Path(__file__).parents[1] / "golden" / "transformer_attribution.npz")
    inputs, tokens = vit_backbone(ViTConfig(patch_size=8, width=16, depth=3, heads=2, mlp_ratio=2), SIZE)
    x = layers.Lambda(lambda t: t[:, 0], output_shape=(16,))(tokens)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    for weight in model.weights:
        drawn_weight = np.random.default_rng(zlib.crc32(weight.path.encode())).normal(size=weight.shape)
        weight.assign(1 + 0.2 * drawn_weight if weight.path.endswith("gamma") else 0.4 * drawn_weight)
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32).repeat(4, 1).repeat(4, 2)
    for target in (0, 2):
        expected = drawn(golden[f"target_{target}"])
        found = xai.explain(model, images, target, "transformer_attribution", form="relevance")
        for one, other in zip(found, expected, strict=True):  # q k near 0 divides relevance, so float32 shows
            np.testing.assert_allclose(one, other, atol=5e-3 * other.max())


def test_relevance_of_a_sum_is_normalised_as_published(images):
    """Eq. 9 by hand, for each image alone: sums of both signs, where the shares themselves exceed what there is."""
    inputs = keras.Input((SIZE, SIZE, 3))
    parts = [layers.Conv2D(2, 4, strides=4, name=name)(inputs) for name in "uv"]
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Add(name="sum")(parts))))
    network = Network(model)
    step = next(s for s in network.steps if s.path == "sum")
    rule = TransformerPropagation(network, kinds(network, "LRP"), images)
    rng = np.random.default_rng(0)
    u, v, R = (tf.constant(rng.normal(size=(2, 8, 8, 2)).astype(np.float32)) for _ in range(3))
    with tf.GradientTape() as tape:
        tape.watch([u, v])
        (y,) = rule(step, [u, v], lambda xs: [xs[0] + xs[1]])
    found = [g.numpy() for g in tape.gradient(y, [u, v], output_gradients=R)]
    u, v, R = (x.numpy().astype(np.float64) for x in (u, v, R))
    shares = [x * R / (u + v) for x in (u, v)]
    for n in range(2):
        sums = [share[n].sum() for share in shares]
        for share, total, one in zip(shares, sums, found, strict=True):
            expected = share[n] * abs(total) / sum(map(abs, sums)) * R[n].sum() / total
            np.testing.assert_allclose(one[n], expected, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(sum(one[n].sum() for one in found), R[n].sum(), rtol=1e-3)


def test_the_form_with_relevance_naive(images):
    """One attention layer without norm or residual: z_plus in the head and the output projection, then half of what
    arrives at the product of probabilities and values, in shares of its terms."""
    model = attention_alone()
    network, images = Network(model), images[:2]
    _, (x, A) = network.forward(tf.constant(images), ["token", ("attention", 1)])
    attention, x, A = model.get_layer("attention"), x.numpy(), A.numpy().astype(np.float64)
    value = x @ attention.value.kernel.numpy() + attention.value.bias.numpy()
    value = value.reshape(2, 17, 2, 4).transpose(0, 2, 1, 3)  # (n, heads, tokens, size)
    mixed = (A @ value)[:, :, 0]  # the class token's, (n, heads, size)
    flat, kernel = mixed.reshape(2, 8), attention.out.kernel.numpy()
    out = flat @ kernel + attention.out.bias.numpy()
    head = model.get_layer("classes").kernel.numpy()
    for target in (0, 2):
        share = np.maximum(out * head[:, target], 0)
        R = share / share.sum(axis=1, keepdims=True)
        terms = np.maximum(flat[:, :, None] * kernel, 0)
        R = (terms / terms.sum(axis=1, keepdims=True) * R[:, None]).sum(axis=2)  # the bias takes none
        terms = A[:, :, 0, :, None] * value  # (n, heads, tokens, size), sums over tokens to mixed
        RA = (terms / (2 * mixed[:, :, None]) * R.reshape(2, 2, 1, 4)).sum(axis=-1)
        gradient = np.einsum("nhtd,hd->nht", value, (kernel @ head[:, target]).reshape(2, 4))
        expected = np.maximum(gradient * RA, 0).mean(axis=1)[:, 1:]
        found = xai.explain(model, images, target, "transformer_attribution", form="relevance")
        np.testing.assert_allclose(found, drawn(expected), rtol=1e-3, atol=1e-4 * expected.max())


def attention_alone():
    """Tokens, one attention layer of two heads, and the class token's result times a matrix."""
    from xaiutils.models.vit import ClassToken

    keras.utils.set_random_seed(4)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(8, 8, strides=8)(layers.Rescaling(1 / 127.5, offset=-1.0)(inputs))
    x = ClassToken(name="token")(layers.Reshape((-1, 8))(x))
    x = layers.Lambda(lambda t: t[:, 0], output_shape=(8,))(SelfAttention(2, name="attention")(x)[0])
    model = keras.Model(inputs, layers.Dense(3, use_bias=False, name="classes")(x))
    rng = np.random.default_rng(0)
    for weight in model.get_layer("attention").weights:
        weight.assign(rng.normal(size=weight.shape) * 0.4)
    return model


def test_which_methods_know_the_class(vit, images):
    for method in METHODS:
        one, other = (xai.explain(vit, images, c, method) for c in (0, 1))
        if method in ("raw_attention", "attention_rollout"):
            np.testing.assert_array_equal(one, other)
        else:
            assert np.corrcoef(one.ravel(), other.ravel())[0, 1] < 0.95, method


def test_a_binary_head_has_two_classes(images):
    keras.utils.set_random_seed(2)
    inputs, tokens = vit_backbone(VIT, SIZE)
    x = layers.Lambda(lambda t: t[:, 0], output_shape=(16,))(tokens)
    z = layers.Dense(1, name="z", kernel_initializer="random_normal")(x)
    one_unit = keras.Model(inputs, layers.Activation("sigmoid")(z))
    kernel, bias = one_unit.get_layer("z").get_weights()
    two = layers.Dense(2, name="two")
    two_units = keras.Model(inputs, two(x))
    two.set_weights([np.concatenate([-kernel, kernel], axis=1), np.concatenate([-bias, bias])])
    for method in METHODS[2:]:
        for target in (0, 1):
            found, expected = (xai.explain(m, images, target, method) for m in (one_unit, two_units))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())
    zero, one = (xai.explain(one_unit, images, c, "transformer_attribution", form="relevance") for c in (0, 1))
    assert min(zero.max(), one.max()) > 0
    assert not np.allclose(zero, one)


# Other transformers ---------------------------------------------------------------------------------------------------


def keras_vit(head="flatten", height=SIZE, width=SIZE, flags=None, seed=3):
    """A transformer of Keras' own layers without a class token, in the manner of Keras' examples."""
    keras.utils.set_random_seed(seed)
    flags = flags or {}
    inputs = keras.Input((height, width, 3))
    x = layers.Conv2D(16, 8, strides=8, name="patches")(layers.Rescaling(1 / 127.5, offset=-1.0)(inputs))
    x = layers.Reshape((-1, 16))(x)
    x = x + layers.Embedding(x.shape[1], 16)(keras.ops.arange(x.shape[1]))
    for i in range(2):
        x1 = layers.LayerNormalization(epsilon=1e-6)(x)
        attention = layers.MultiHeadAttention(2, 8, dropout=0.1, kernel_initializer="random_normal", name=f"mha{i}")
        mixed = attention(x1, x1, **flags)
        x2 = layers.Add()([mixed[0] if isinstance(mixed, tuple | list) else mixed, x])
        x3 = layers.Dense(32, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(x2))
        x = layers.Add(name=f"end{i}")([layers.Dense(16)(layers.Dropout(0.1)(x3)), x2])
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    x = layers.Flatten()(x) if head == "flatten" else layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3, kernel_initializer="random_normal", name="classes")(x))


def as_keras_mha(ours, inputs_shape=(SIZE, SIZE, 3)):
    """A model of `vit_backbone` with a MultiHeadAttention of the same weights in place of each of our layers."""
    inputs = keras.Input(inputs_shape)
    tensors = {ours.input.name: inputs}
    made = {}
    for layer in ours.layers[1:]:
        given = [tensors[t.name] for t in keras.tree.flatten(layer.input)]
        if isinstance(layer, SelfAttention):
            made[layer.name] = layers.MultiHeadAttention(layer.heads, 16 // layer.heads, name=layer.name)
            outputs = [made[layer.name](given[0], given[0])]
        else:
            outputs = keras.tree.flatten(layer(given if len(given) > 1 else given[0]))
        tensors.update({t.name: y for t, y in zip(keras.tree.flatten(layer.output), outputs, strict=False)})
    for name, layer in made.items():
        source, heads = ours.get_layer(name), ours.get_layer(name).heads
        values = []
        for part in ("query", "key", "value"):
            kernel, bias = getattr(source, part).get_weights()
            values += [kernel.reshape(16, heads, -1), bias.reshape(heads, -1)]
        kernel, bias = source.out.get_weights()
        layer.set_weights([*values, kernel.reshape(heads, -1, 16), bias])
    return keras.Model(inputs, tensors[ours.output.name])


def test_keras_attention_layers_give_the_maps_of_ours(vit, images):
    """The same weights in keras.layers.MultiHeadAttention, called for tokens alone."""
    theirs = as_keras_mha(vit)
    np.testing.assert_allclose(xai.predict(theirs, images), xai.predict(vit, images), atol=1e-4)
    for method, parameters in [*((name, {}) for name in METHODS), ("transformer_attribution", {"form": "relevance"})]:
        expected = xai.explain(vit, images, 1, method, **parameters)
        tf.config.run_functions_eagerly(method != "legrad")
        found = xai.explain(theirs, images, 1, method, **parameters)
        np.testing.assert_allclose(found, expected, atol=1e-3 * expected.max(), err_msg=method)


@pytest.mark.parametrize("head", ["flatten", "pool"])
def test_without_a_class_token_the_patches_rows_are_averaged(images, head):
    model = keras_vit(head)
    scores = keras_vit(head, flags={"return_attention_scores": True})  # the same seed, so the same weights
    scores.set_weights(model.get_weights())
    maps = keras.Model(scores.input, [scores.get_layer(f"mha{i}").output[1] for i in range(2)])(images)
    maps = [m.numpy().astype(np.float64) for m in maps]
    raw = maps[1].mean(axis=1).mean(axis=1)
    np.testing.assert_allclose(xai.explain(model, images, 0, "raw_attention"), drawn(raw), atol=1e-6)
    rolled = naive_rollout(maps).mean(axis=1)
    np.testing.assert_allclose(xai.explain(model, images, 0, "attention_rollout"), drawn(rolled), atol=1e-6)
    for method in METHODS[2:]:
        expected = xai.explain(scores, images, 0, method)
        assert expected.max() > 0
        np.testing.assert_allclose(xai.explain(model, images, 0, method), expected, atol=1e-5 * expected.max())
    with pytest.raises(ModelError, match="patch tokens only"):
        xai.explain(model, images, 0, "raw_attention", query="class_token")


def test_a_class_token_that_the_head_does_not_read_is_not_drawn(vit, images):
    """The head decides, not the layout: a mean over the patches, or over all tokens, averages the patches' rows."""
    for first in (0, 1):
        keras.utils.set_random_seed(2)
        inputs, tokens = vit_backbone(VIT, SIZE)
        patches = layers.Cropping1D((first, 0))(tokens) if first else tokens
        model = keras.Model(inputs, layers.Dense(3, name="classes")(layers.GlobalAveragePooling1D()(patches)))
        auto, pooled, token = (
            xai.explain(model, images, 1, "raw_attention", query=q) for q in ("auto", "patches", "class_token")
        )
        np.testing.assert_array_equal(auto, pooled)
        assert not np.allclose(auto, token)
    auto, token = (xai.explain(vit, images, 1, "raw_attention", query=q) for q in ("auto", "class_token"))
    np.testing.assert_array_equal(auto, token)


def test_a_head_of_zeros_is_asked_again_once_it_is_trained(images):
    inputs, tokens = vit_backbone(VIT, SIZE)
    x = layers.GlobalAveragePooling1D()(layers.Cropping1D((1, 0))(tokens))
    model = keras.Model(inputs, layers.Dense(2, kernel_initializer="zeros", name="classes")(x))
    before = xai.explain(model, images, 0, "raw_attention")
    np.testing.assert_array_equal(before, xai.explain(model, images, 0, "raw_attention", query="class_token"))
    model.get_layer("classes").kernel.assign(np.random.default_rng(0).normal(size=(16, 2)))
    after = xai.explain(model, images, 0, "raw_attention")
    np.testing.assert_array_equal(after, xai.explain(model, images, 0, "raw_attention", query="patches"))


def test_other_aspects_follow_the_patches():
    """Patches 2 x 6: a token that all attend to lights up at its own place."""
    model = keras_vit("pool", height=16, width=48)
    images = np.full((2, 16, 48, 3), 90, np.float32)
    images[0, 8:16, 24:32] = 255  # patch 9
    for method in METHODS[1:3]:
        maps = xai.explain(model, images, 0, method)
        assert maps.shape == (2, 16, 48)
        change = np.abs(maps[0] - maps[1])
        y, x = np.unravel_index(change.argmax(), change.shape)
        assert 8 <= y < 16, method
        assert 24 <= x < 32, method


def test_nested_backbones_and_mixed_precision(vit, images):
    inputs, tokens = keras.Input((SIZE, SIZE, 3)), vit.get_layer("norm").output
    body = keras.Model(vit.input, tokens, name="body")
    x = layers.Lambda(lambda t: t[:, 0], output_shape=(16,))(body(inputs))
    nested = keras.Model(inputs, vit.get_layer("logits")(x))
    for method in METHODS[1:]:
        expected = xai.explain(vit, images, 1, method)
        np.testing.assert_allclose(xai.explain(nested, images, 1, method), expected, atol=1e-6 * expected.max())
    first = xai.explain(nested, images, 1, "raw_attention", layer="body/block_00_attention")
    np.testing.assert_array_equal(first, xai.explain(nested, images, 1, "raw_attention", layer="block_00_attention"))
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        half = make_vit(seed=1)
    finally:
        keras.config.set_dtype_policy(policy)
    whole = make_vit(seed=1)
    for method in METHODS[2:]:
        found, expected = (xai.explain(m, images, 1, method) for m in (half, whole))
        assert found.dtype == np.float32
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9, method


def test_single_head_and_grouped_attention_layers(images):
    for make in (lambda: layers.Attention(), lambda: layers.GroupQueryAttention(8, 2, 1)):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((SIZE, SIZE, 3))
        x = layers.Conv2D(16, 8, strides=8)(layers.Rescaling(1 / 255)(inputs))
        x = layers.Reshape((-1, 16))(x)
        layer = make()
        mixed = layer([x, x]) if isinstance(layer, layers.Attention) else layer(x, x)
        x = layers.GlobalAveragePooling1D()(layers.Add()([x, mixed]))
        model = keras.Model(inputs, layers.Dense(2)(x))
        for method in METHODS[2:]:
            maps = xai.explain(model, images, 0, method)
            assert np.isfinite(maps).all()
            assert maps.max() > 0, method
        np.testing.assert_allclose(xai.explain(model, images, 0, "raw_attention").mean(), 1 / 16, rtol=0.02)


# Refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_cnn_has_no_attention(images, method):
    with pytest.raises(ModelError, match=r"need self-attention layers.*For a CNN use grad_cam"):
        xai.explain(make_flat(), images, 0, method)


def test_other_refusals_say_why(vit, images):
    with pytest.raises(ModelError, match="did you mean block_00_attention"):
        xai.explain(vit, images, 0, "raw_attention", layer="block_00_atention")
    inputs = keras.Input((SIZE, SIZE, 3))
    tokens = layers.Reshape((-1, 16))(layers.Conv2D(16, 8, strides=8)(inputs))
    crossed = layers.MultiHeadAttention(2, 8, name="crossed")(tokens, layers.Dense(16)(tokens))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(crossed)))
    with pytest.raises(ModelError, match="'crossed'.*cross-attention"):
        xai.explain(model, images, 0, "attention_rollout")
    plain = layers.MultiHeadAttention(2, 8, name="plain")(tokens, tokens)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(plain)))
    with pytest.raises(ModelError, match="no residual addition .* follows layer 'plain'"):
        xai.explain(model, images, 0, "legrad")
    pooled = layers.MaxPooling1D(3)(plain)
    mixed = layers.MultiHeadAttention(2, 8)(pooled, pooled)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(mixed)))
    with pytest.raises(ModelError, match="cannot be laid on a grid"):
        xai.explain(model, images, 0, "attention_rollout")

    @keras.saving.register_keras_serializable("tests")
    class Cut(SelfAttention):
        def call(self, x):
            mixed, probabilities = super().call(x)
            return mixed, keras.ops.copy(probabilities)

    tokens = layers.Add()([tokens, Cut(2, name="cut")(tokens)[0]])
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(tokens)))
    with pytest.raises(ModelError, match="'cut'.*from the very tensor"):
        xai.explain(model, images, 0, "transformer_attribution")


# Real weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_raw_attention_of_dinov2_is_the_references(kit):
    """Attention of ONNX Runtime's run of the original network; the weights here are rounded to float16."""
    tf.config.run_functions_eagerly(False)
    reference = np.load(kit / "weights" / "dinov2_vits14_reference.npz")
    scaled = reference["x_nchw"].transpose(0, 2, 3, 1)
    # Noise that reaches beyond [0, 255], which `explain` refuses: the method itself is called.
    images = ((scaled * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]) * 255).astype(np.float32)
    weights = kit / "weights" / "dinov2_vits14_saliency_fp16.npz"
    network = Network(xai.build_model("dinov2_vits14", 2, 224, weights=weights))
    for block in (0, 11):
        expected = drawn(reference[f"attention_block{block}"].mean(axis=1)[:, 0, 1:], (16, 16), (224, 224))
        options = {"layer": f"block_{block:02d}_attention", "fusion": "mean", "query": "auto"}
        found = xai.METHODS["raw_attention"].compute(network, images, np.zeros(2, np.int32), 2, **options)
        np.testing.assert_allclose(found, expected, atol=2e-3 * expected.max())
