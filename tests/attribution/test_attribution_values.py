"""Where relevance starts, and how maps are scaled: values by hand, for every kind of head."""

from types import SimpleNamespace

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.attribution.baselines import baseline_images
from xaiutils.attribution.cam.gradient_cams import grad_cam_plus_plus_weights, xgrad_cam_weights
from xaiutils.attribution.cam.weighted_sum import combination
from xaiutils.attribution.relevance.contrastive import clrp_dual, clrp_seed, clrp_target, sglrp_dual, sglrp_seed
from xaiutils.attribution.relevance.lrp import logit_seed
from xaiutils.attribution.relevance.seeds import target_scores
from xaiutils.attribution.rise import RandomMasks
from xaiutils.backend import keras, tf

LOGITS = tf.constant([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
TARGETS = tf.constant([0, 2])
P = np.exp(LOGITS.numpy()) / np.exp(LOGITS.numpy()).sum(axis=1, keepdims=True)
SOFTMAX = SimpleNamespace(activation="softmax", n_classes=3)
BINARY = SimpleNamespace(activation="binary", n_classes=2)
SIGMOID = SimpleNamespace(activation="sigmoid", n_classes=3)
PAIR = tf.constant([[-1.5, 1.5], [0.5, -0.5]])


def test_relevance_starts_at_the_target_of_three():
    np.testing.assert_allclose(logit_seed(SOFTMAX, LOGITS, TARGETS), [[2, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(clrp_target(SOFTMAX, LOGITS, TARGETS), [[2, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(clrp_dual(SOFTMAX, LOGITS, TARGETS), [[0, 1, 1], [0.5, 0.5, 0]])
    np.testing.assert_allclose(clrp_seed(SOFTMAX, LOGITS, TARGETS), [[2, -1, -1], [-0.5, -0.5, 1]])
    gradient = [[P[0, 0] * (1 - P[0, 0]), -P[0, 0] * P[0, 1], -P[0, 0] * P[0, 2]],
                [-P[1, 2] * P[1, 0], -P[1, 2] * P[1, 1], P[1, 2] * (1 - P[1, 2])]]  # fmt: skip
    np.testing.assert_allclose(sglrp_seed(SOFTMAX, LOGITS, TARGETS), gradient, rtol=1e-5)
    np.testing.assert_allclose(sglrp_dual(SOFTMAX, LOGITS, TARGETS), np.maximum(-np.array(gradient), 0), rtol=1e-5)


def test_relevance_of_one_unit_takes_the_sign_of_the_class():
    """Classes 0 and 1 of the logits (-z, z): z = 1.5 and -0.5."""
    targets = tf.constant([1, 0])
    np.testing.assert_allclose(target_scores(BINARY, PAIR, targets), [1.5, -0.5])
    np.testing.assert_allclose(logit_seed(BINARY, PAIR, targets), [[0, 1.5], [0, 0.5]])
    np.testing.assert_allclose(clrp_seed(BINARY, PAIR, targets), [[0, 1.5], [0, -0.5]])
    slope = np.array([1.5, -0.5])
    slope = 1 / (1 + np.exp(-slope)) / (1 + np.exp(slope))
    expected = [[0, slope[0]], [0, -slope[1]]]
    np.testing.assert_allclose(sglrp_seed(BINARY, PAIR, targets), expected, rtol=1e-5)


def test_other_labels_of_a_picture_get_no_relevance():
    np.testing.assert_allclose(clrp_seed(SIGMOID, LOGITS, TARGETS), [[2, 0, 0], [0, 0, 1]])
    z = np.array([2.0, 1.0])
    slope = 1 / (1 + np.exp(-z)) / (1 + np.exp(z))
    expected = [[slope[0], 0, 0], [0, 0, slope[1]]]
    np.testing.assert_allclose(sglrp_seed(SIGMOID, LOGITS, TARGETS), expected, rtol=1e-5)


# Class activation maps by hand: two channels on a row of two pixels ------------------------------------------------

A = tf.constant([[[[1.0, 2.0], [3.0, -1.0]]]])
G = tf.constant([[[[0.5, -1.0], [1.5, 3.0]]]])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("grad_cam", [1 * 1 + 2 * 1, 3 * 1 - 1 * 1]),  # the mean gradients are 1 and 1
        ("hirescam", [0.5 - 2, 4.5 - 3]),
        ("layer_cam", [0.5, 4.5 - 3]),  # relu(g) A
        ("xgrad_cam", [1 * 1.25 + 2 * -5, 3 * 1.25 + 5]),  # (0.5 + 4.5) / 4 and (-2 - 3) / 1
    ],
)
def test_combinations_by_hand(method, expected):
    found = combination(xai.METHODS[method], {})(A, G)[0, 0]
    np.testing.assert_allclose(found, expected if method == "hirescam" else np.maximum(expected, 0), rtol=1e-5)


def test_grad_cam_plus_plus_by_hand():
    """alpha = 1 / (2 + sum A g) where g is not 0: sums of A are 4 and 1."""
    first = 0.5 / (2 + 4 * 0.5) + 1.5 / (2 + 4 * 1.5)
    second = 3 / (2 + 1 * 3)  # the negative gradient is cut
    np.testing.assert_allclose(grad_cam_plus_plus_weights(A, G)[0, 0, 0], [first, second], rtol=1e-5)


def test_an_even_map_is_scaled_to_zeros():
    """An image of one colour under a convolution of one pixel: no value is the smallest."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(2, 1, activation="relu", kernel_initializer="ones", name="even")(inputs)
    outputs = keras.layers.Dense(2, kernel_initializer="ones")(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    image = np.full((1, 16, 16, 3), 80, np.float32)
    options = {"base": "grad_cam", "layers": ["even"], "scale_layers": "min_max"}
    with pytest.warns(UserWarning, match="0 everywhere"):
        found = xai.explain(model, image, 1, "layer_aggregate", **options)
    assert (found == 0).all()


def test_the_blur_stays_within_a_colour_and_has_a_tenth_of_the_height():
    images = np.zeros((1, 40, 40, 3), np.float32)
    images[0, 20, 20, 0] = 255
    blurred = baseline_images(images, "blur")
    assert (blurred[..., 1:] == 0).all()
    line = np.exp(-(np.arange(-12, 13) ** 2) / (2 * 4**2))
    line /= line.sum()
    np.testing.assert_allclose(blurred[0, 8:33, 8:33, 0], 255 * np.outer(line, line), atol=1e-5)
    assert baseline_images(images, "mean")[0, 3, 4].tolist() == pytest.approx([255 / 1600, 0, 0])


def test_rise_draws_every_grid_at_every_shift():
    """2 x 2 cells over 4 x 4 pixels: grids of 6 x 6 pixels, cut at shifts of 0 and 1 down and along."""
    every = np.array([[(k >> bit) & 1 for bit in range(4)] for k in range(16)], np.float32).reshape(16, 2, 2, 1)
    large = tf.image.resize(every, (6, 6))[..., 0].numpy()
    windows = [g[y : y + 4, x : x + 4] for g in large for y in range(2) for x in range(2)]
    found = RandomMasks(1500, 2, 0.5, 4, 4, seed=0)(np.arange(1500))
    assert {tuple(np.round(m, 4).ravel()) for m in found} == {tuple(np.round(w, 4).ravel()) for w in windows}


def test_xgrad_cam_adds_a_millionth_to_an_empty_sum():
    A, g = tf.constant([[[[1.0], [-1.0]]]]), tf.constant([[[[1.0], [0.0]]]])
    np.testing.assert_allclose(xgrad_cam_weights(A, g)[0, 0, 0], [1e6], rtol=1e-5)
