"""Tokens that are no patches: a class token, a distillation token, registers. Every method leaves them out of its map.

The naive forms are those of test_attention.py, with the rows that a head reads and the columns of the patches alone.
"""

import numpy as np
import pytest
from conftest import SIZE

import xaiutils as xai
from xaiutils.attribution import Network
from xaiutils.attribution.attention_maps import class_tokens, no_patches
from xaiutils.attribution.relevance.propagation import turned
from xaiutils.backend import keras, tf
from xaiutils.graph.layers.attention import attention_steps
from xaiutils.graph.passes import enlarge
from xaiutils.models.vit import TakeClassToken, ViTConfig, turns, vit_backbone

layers = keras.layers
TINY = {"patch_size": 8, "width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2}
CONFIGS = {
    "registers": ViTConfig(**TINY, layer_scale=True, registers=4),
    "distilled": ViTConfig(**TINY, distilled=True),
    "rotary": ViTConfig(**TINY, layer_scale=True, registers=3, rotary=100.0),
}


def make(config, seed=2):
    keras.utils.set_random_seed(seed)
    inputs, tokens = vit_backbone(config, SIZE)
    x = TakeClassToken(1 + config.distilled, name="features")(tokens)
    model = keras.Model(inputs, layers.Dense(3, name="logits", kernel_initializer="random_normal")(x))
    rng = np.random.default_rng(0)
    for weight in model.weights:  # attention far from uniform, and no bias or token of 0
        extra = 0.3 * rng.normal(size=weight.shape) if len(weight.shape) != 2 else 0
        weight.assign(weight * (2.5 if "kernel" in weight.path else 1) + extra)
    return model


@pytest.fixture(scope="module", autouse=True)
def eager():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def pair(images):
    return images[:2]


@pytest.fixture(scope="module", params=CONFIGS)
def case(request):
    """A network, its configuration, and how many tokens come before the patches."""
    config = CONFIGS[request.param]
    return make(config), config, config.prefix


def drawn(row):
    return enlarge(np.reshape(row, (-1, 4, 4)), SIZE, SIZE)


def test_which_tokens_are_no_patches(case, pair):
    model, config, prefix = case
    network = Network.of(model)
    *_, last = attention_steps(network)
    np.testing.assert_array_equal(no_patches(network, last), np.arange(prefix))
    np.testing.assert_array_equal(class_tokens(network, last, pair), np.arange(1 + config.distilled))
    assert network.cam_layer() == "block_01_norm1"
    assert network.grid("block_01_norm1") == (4, 4)
    np.testing.assert_array_equal(network.field("block_01_norm1").order, prefix + np.arange(16))


def test_attention_methods_naive(case, pair):
    model, config, prefix = case
    read = 1 + config.distilled
    outputs = [model.get_layer(f"block_{i:02d}_attention").output[1] for i in range(2)]
    with tf.GradientTape(persistent=True) as tape:
        x = tf.constant(pair)
        tape.watch(x)
        *maps, logits = keras.Model(model.input, [*outputs, model.output])(x)
        total = tf.reduce_sum(logits[:, 2])
    gradients = [g.numpy() for g in tape.gradient(total, maps)]
    maps = [m.numpy() for m in maps]
    assert maps[0].shape[-1] == prefix + 16
    rollout, weighted = np.eye(prefix + 16)[None], np.eye(prefix + 16)[None]
    for A, g in zip(maps, gradients, strict=True):
        mixed = A.mean(axis=1) + np.eye(prefix + 16)
        rollout = mixed / mixed.sum(axis=-1, keepdims=True) @ rollout
        weighted = weighted + np.maximum(g * A, 0).mean(axis=1) @ weighted
    expected = {
        "raw_attention": maps[1].mean(axis=1),
        "attention_rollout": rollout,
        "transformer_attribution": weighted,
    }
    for method, rows in expected.items():
        row = rows[:, :read, prefix:].mean(axis=1)
        found = xai.explain(model, pair, 2, method)
        np.testing.assert_allclose(found, drawn(row), rtol=1e-3, atol=1e-4 * row.max(), err_msg=method)


@pytest.mark.parametrize("pooling", ["mean", "model"])
def test_legrad_naive(case, pair, pooling):
    model, config, prefix = case
    network, read = Network(model), 1 + config.distilled
    expected = np.zeros((len(pair), prefix + 16))
    for block in ("block_00", "block_01"):
        with tf.GradientTape() as tape:
            places = [(f"{block}_attention", 1), f"{block}_add2"]
            _, (A, tokens) = network.forward(tf.constant(pair), places, tape.watch)
            mean = tf.repeat(tf.reduce_mean(tokens, axis=1, keepdims=True), read, axis=1)
            tail = model.get_layer("norm")(mean if pooling == "mean" else tokens[:, :read])
            score = tf.reduce_sum(model.get_layer("logits")(tf.reshape(tail, (len(pair), -1)))[:, 1])
        expected += np.maximum(tape.gradient(score, A).numpy(), 0).mean(axis=(1, 2))
    found = xai.explain(model, pair, 1, "legrad", pooling=pooling)
    np.testing.assert_allclose(found, drawn(expected[:, prefix:]), rtol=1e-3, atol=1e-5 * expected.max())


def test_gradient_cams_read_the_patches_alone(case, pair):
    """HiResCAM: gradient times value, summed over channels, of the patches' tokens before the last attention."""
    model, _, prefix = case
    split = keras.Model(model.input, [model.get_layer("block_01_norm1").output, model.output])
    with tf.GradientTape() as tape:
        x = tf.constant(pair)
        tape.watch(x)
        tokens, logits = split(x)
        score = tf.reduce_sum(logits[:, 0])
    expected = (tape.gradient(score, tokens) * tokens).numpy()[:, prefix:].sum(axis=-1)
    found = xai.explain(model, pair, 0, "hirescam")
    np.testing.assert_allclose(found, drawn(expected), rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_rules_pass_registers_and_turns(images):
    """DeepLIFT sums to the change of the logit from the baseline, also through registers and turned queries; LRP and
    the relevance of attention are defined."""
    model, images = make(CONFIGS["rotary"]), images[:1]
    change = xai.predict(model, images)[:, 1] - xai.predict(model, 0 * images)[:, 1]
    maps = xai.explain(model, images, 1, "deep_lift", baseline="black")
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), change, rtol=2e-3)
    for method, options in (("lrp", {}), ("transformer_attribution", {"form": "relevance"})):
        found = xai.explain(model, images, 1, method, **options)
        assert np.isfinite(found).all()
        assert np.ptp(found) > 0


# Rotary positions -----------------------------------------------------------------------------------------------------


def test_turns_by_hand():
    """4 x 4 patches, heads of 4 values, base 100: one period, 1, so a centre c turns by 2 pi c; c is -3/4, -1/4, 1/4,
    3/4. Values 0 and 2 are a pair that is turned by the row, 1 and 3 by the column."""
    cosines, sines = turns(2 + 16, 2, 4, 100.0)
    np.testing.assert_array_equal(cosines[:2], 1)
    np.testing.assert_array_equal(sines[:2], 0)
    quarter = {0: 1.0, 1: -1.0, 2: 1.0, 3: -1.0}  # sin(2 pi c) of the four centres; the cosines are 0
    for row in range(4):
        for column in range(4):
            at = 2 + 4 * row + column
            np.testing.assert_allclose(cosines[at], 0, atol=1e-6)
            np.testing.assert_allclose(sines[at], [quarter[row], quarter[column]] * 2, atol=1e-6)
    cosines, sines = turns(1 + 9, 1, 8, 100.0)  # periods 1 and 10; the rows' centres are -2/3, 0 and 2/3
    angles = 2 * np.pi * np.array([-2 / 3, -2 / 30, 2 / 3, 2 / 30])
    np.testing.assert_allclose(
        np.arctan2(sines[3], cosines[3]), np.arctan2(np.sin(angles), np.cos(angles)).tolist() * 2, atol=1e-5
    )
    for tokens, size in ((1 + 8, 8), (1 + 9, 6)):
        with pytest.raises(ValueError, match="expected a square, and a multiple of 4"):
            turns(tokens, 1, size, 100.0)


def test_turned_scores_depend_on_the_offset_alone():
    layer = make(CONFIGS["rotary"]).get_layer("block_00_attention")
    rng = np.random.default_rng(0)
    query, key = (np.tile(rng.normal(size=(1, 2, 1, 8)), (1, 1, 20, 1)).astype(np.float32) for _ in range(2))
    scores = np.einsum("nhqd,nhkd->nhqk", layer.turned(query), layer.turned(key))[0]
    grid = scores[:, 4:, 4:].reshape(2, 4, 4, 4, 4)
    np.testing.assert_allclose(grid[:, 0, 0, 2, 1], grid[:, 1, 2, 3, 3], rtol=1e-4)
    assert np.abs(grid[:, 0, 0, 2, 1] - grid[:, 0, 0, 1, 2]).max() > 0.01
    np.testing.assert_allclose(scores[:, 0, 0], (query * key)[0, :, 0].sum(-1), rtol=1e-4)
    assert layer.key.bias is None


def test_relevance_of_a_turn_by_hand():
    """(1, 2) turned by 90 degrees is (-2, 1): each value's relevance moves to the other. By 45 degrees (1, 3) becomes
    (-2, 4) / sqrt 2, of relevance (3, 5): 3 is shared as 1 to -3, and 5 as 1 to 3."""
    for x, angle, R, expected in (
        ([1.0, 2.0], 90, [3.0, 5.0], [5.0, 3.0]),
        ([1.0, 3.0], 45, [3.0, 5.0], [-0.25, 8.25]),
    ):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        matrix = tf.constant([[c, -s], [s, c]], tf.float32)
        with tf.GradientTape() as tape:
            v = tf.constant([x])
            tape.watch(v)
            y = turned(lambda z, m=matrix: z @ tf.transpose(m), v)
        np.testing.assert_allclose(tape.gradient(y, v, output_gradients=tf.constant([R])), [expected], rtol=1e-4)
