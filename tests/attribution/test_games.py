"""Shapley values and sensitivity analysis: games whose answer is known, naive forms, and shap's values."""

import itertools
import math

import numpy as np
import pytest
from conftest import SIZE

import xaiutils as xai
from xaiutils.attribution.shapley import exact_values, orders
from xaiutils.backend import keras

QUARTERS = (np.indices((SIZE, SIZE)) // (SIZE // 2) * np.array([2, 1])[:, None, None]).sum(axis=0)  # 0 1 / 2 3
STRIPES = np.indices((SIZE, SIZE))[0] // 2  # 16 of them
SHAPS = [[-0.13322, 0.093623, 0.2999, 0.024562], [-0.090706, 0.087481, -0.00958, -0.132644]]


def test_exact_values_are_the_mean_over_all_orders():
    """Four players in a random game; and the glove game: two left gloves, one right, a pair is worth 1."""
    scores = np.random.default_rng(0).normal(size=16)
    expected = np.zeros(4)
    for order in itertools.permutations(range(4)):
        shown = 0
        for i in order:
            expected[i] += (scores[shown | 1 << i] - scores[shown]) / math.factorial(4)
            shown |= 1 << i
    np.testing.assert_allclose(exact_values(scores, 4), expected)
    gloves = np.array([float(c & 4 > 0 and c & 3 > 0) for c in range(8)])
    np.testing.assert_allclose(exact_values(gloves, 3), [1 / 6, 1 / 6, 2 / 3])


def test_orders_are_followed_by_their_reverse():
    drawn = orders(5, 5, 0)
    assert (np.sort(drawn, axis=1) == np.arange(5)).all()
    np.testing.assert_array_equal(drawn[1], drawn[0][::-1])
    np.testing.assert_array_equal(drawn[3], drawn[2][::-1])


def values_of(maps, segments):
    return np.stack([maps[:, segments == i][:, 0] for i in range(segments.max() + 1)], axis=1)


@pytest.mark.parametrize("name", ["nested", "vit"])
@pytest.mark.parametrize("segments", [QUARTERS, STRIPES])
def test_values_add_up_to_the_score(models, images, name, segments):
    """Exactly, by enumeration and by orders alike."""
    found = xai.explain(models[name], images[:2], 1, "shapley", segments=segments, fill="black", n_samples=4)
    for i in range(segments.max() + 1):
        assert np.ptp(found[:, segments == i], axis=1).max() == 0
    rise = xai.predict(models[name], images[:2])[:, 1] - xai.predict(models[name], 0 * images[:2])[:, 1]
    np.testing.assert_allclose(values_of(found, segments).sum(axis=1), rise, atol=1e-5)


def test_orders_of_an_additive_game_are_exact(linear, images):
    model, w = linear
    found = xai.explain(model, images[:2], 1, "shapley", segments=STRIPES, fill="black", n_samples=2)
    own = (images[:2] * w[..., 1]).sum(-1)
    expected = np.stack([own[:, i == STRIPES].sum(axis=1) for i in range(16)], axis=1)
    np.testing.assert_allclose(values_of(found, STRIPES), expected, atol=1e-4)


def test_exact_values_are_shaps(models, images):
    """shap 0.51's ExactExplainer of class 1's logit, quarters hidden by grey (stored values)."""
    found = xai.explain(models["vit"], images[:2], 1, "shapley", segments=QUARTERS, fill="grey")
    np.testing.assert_allclose(values_of(found, QUARTERS), SHAPS, atol=2e-5)


def squares_of(w, images, fill, cells=2):
    """What each of 2 x 2 cells gives S on top of the fill."""
    own = ((images - fill) * w[..., 1]).sum(-1).reshape(-1, cells, SIZE // cells, cells, SIZE // cells)
    return own.sum(axis=(2, 4))


def corners(maps):
    """The maps at the middles of 2 x 2 cells: what the cells are, enlarged."""
    ends = [0, SIZE - 1]
    return maps[:, ends][:, :, ends]


def test_sobol_indices_of_a_sum(linear, images):
    """The variance of sum_i m_i c_i is sum_i c_i^2 / 12: first and total order are c_i^2 / sum c^2."""
    model, w = linear
    parts = squares_of(w, images[:2], 127.5) ** 2
    expected = parts / parts.sum(axis=(1, 2), keepdims=True)
    for order in ("total", "first"):
        found = xai.explain(model, images[:2], 1, "sobol", cells=2, n_samples=256, order=order)
        np.testing.assert_allclose(corners(found), expected, atol=0.02, err_msg=order)


def test_sobol_indices_of_a_product():
    """Of m_0 m_1 with both uniform: alone each has 3/7 of the variance, with the other 4/7; the others none."""
    inputs = keras.Input((SIZE, SIZE, 3))
    means = keras.layers.AveragePooling2D(SIZE // 2)(inputs) / 255
    product = means[:, 0, 0, :1] * means[:, 0, 1, :1]
    model = keras.Model(inputs, keras.layers.Concatenate()([product, -product]))
    white = np.full((1, SIZE, SIZE, 3), 255, np.float32)
    for order, share in (("total", 4 / 7), ("first", 3 / 7)):
        found = xai.explain(model, white, 0, "sobol", cells=2, n_samples=512, order=order, fill="black")
        np.testing.assert_allclose(corners(found)[0], [[share, share], [0, 0]], atol=0.03, err_msg=order)


def test_hsic_is_the_trace(models, images):
    """tr(K H L H) / n^2 as written, K being 1 where a cell is alike in two masks."""
    n, model = 40, models["flat softmax"]
    shown = np.random.default_rng(0).random((n, 4)) < 0.5
    masks = np.kron(shown.reshape(n, 2, 2), np.ones((SIZE // 2, SIZE // 2)))
    mixed = 127.5 + masks[..., None] * (images[:1] - 127.5)
    S = xai.predict(model, mixed.astype(np.float32))[:, 1].astype(np.float64)
    away = np.abs(S[:, None] - S)
    L = np.exp(-(away**2) / (2 * np.median(away[np.triu_indices(n, 1)]) ** 2))
    H = np.eye(n) - 1 / n
    expected = [np.trace((shown[:, None, i] == shown[None, :, i]) @ H @ L @ H) / n**2 for i in range(4)]
    found = xai.explain(model, images[:1], 1, "hsic", cells=2, n_masks=n)
    np.testing.assert_allclose(corners(found).ravel(), expected, rtol=1e-3)


@pytest.mark.parametrize(("method", "options"), [("hsic", {"n_masks": 200}), ("sobol", {"n_samples": 64})])
def test_cells_that_the_score_does_not_read_have_none(linear, images, method, options):
    model, w = linear
    kept = [v.copy() for v in model.get_weights()]
    blind = w.copy()
    blind[:, SIZE // 2 :] = 0
    try:
        model.set_weights([blind.reshape(-1, 2), kept[1]])
        found = corners(xai.explain(model, images[:2], 1, method, cells=2, **options))
        model.set_weights([0 * v for v in kept])
        assert not xai.explain(model, images[:2], 1, method, cells=2, **options).any()
    finally:
        model.set_weights(kept)
    assert (found[:, :, 1].max(axis=1) < 0.1 * found[:, :, 0].max(axis=1)).all()
