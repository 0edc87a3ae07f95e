"""Kernel SHAP: exact by all coalitions, near the exact values by few, and shap's own values."""

import math

import numpy as np
import pytest
from test_games import QUARTERS, SHAPS, STRIPES, values_of

import xaiutils as xai
from xaiutils.attribution.kernel_shap import coalitions, regression_values
from xaiutils.attribution.shapley import exact_values


def all_scores(n, game):
    return game((np.arange(2**n)[:, None] >> np.arange(n)) & 1 == 1)


def interacting(n, seed=0):
    """v(z) = a.z + sum_ij b_ij z_i z_j + a threshold: players that need each other."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=n), rng.normal(size=(n, n)) / n
    return lambda z: z @ a + np.einsum("ki,ij,kj->k", z, b, z) + 2.0 * (z[:, : n // 2].sum(axis=1) > n // 4)


def found_values(n, game, n_coalitions, seed=0):
    shown, weights = coalitions(n, n_coalitions, seed)
    empty, full = game(np.array([[False] * n, [True] * n]))
    return regression_values(shown, weights, game(shown), empty, full)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10])
def test_all_coalitions_give_the_shapley_values(n):
    game = interacting(n)
    np.testing.assert_allclose(found_values(n, game, 2**n), exact_values(all_scores(n, game), n), atol=1e-10)


def test_weights_are_the_shapley_kernel():
    for n in (4, 5):
        shown, weights = coalitions(n, 2**n, 0)
        sizes = shown.sum(axis=1)
        assert len(np.unique(shown, axis=0)) == len(shown) == 2**n - 2
        kernel = np.array([(n - 1) / (math.comb(n, s) * s * (n - s)) for s in sizes])
        np.testing.assert_allclose(weights, kernel / kernel.sum())


@pytest.mark.parametrize("n_coalitions", [60, 150, 400])
def test_fewer_coalitions_are_paired_and_weigh_as_their_sizes(n_coalitions):
    n = 12
    shown, weights = coalitions(n, n_coalitions, 3)
    assert len(shown) <= n_coalitions
    assert weights.sum() == pytest.approx(1)
    rows = {row.tobytes(): w for row, w in zip(shown, weights, strict=True)}
    assert len(rows) == len(shown)
    for row, w in zip(shown, weights, strict=True):
        assert rows[(~row).tobytes()] == pytest.approx(w)
    ones = shown.sum(axis=1) == 1
    if n_coalitions == 400:  # those of one player are whole, and weigh as they do among all
        assert ones.sum() == n
        kernel = np.array([1 / (s * (n - s)) for s in range(1, n)])
        assert weights[ones].sum() == pytest.approx(kernel[0] / kernel.sum())


def test_few_coalitions_come_near():
    """16 players: the error falls with the samples, the sum is kept, and an additive game needs no more than it has
    players."""
    n, game = 16, interacting(16)
    exact = exact_values(all_scores(n, game), n)
    errors = [
        np.mean([np.abs(found_values(n, game, samples, seed) - exact).mean() for seed in range(6)])
        for samples in (100, 800, 6400)
    ]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.05 * np.abs(exact).mean()
    rise = np.diff(game(np.array([[False] * n, [True] * n])))[0]
    assert found_values(n, game, 100).sum() == pytest.approx(rise)
    a = np.random.default_rng(1).normal(size=n)
    np.testing.assert_allclose(found_values(n, lambda z: z @ a + 3, 64), a, atol=1e-8)


def test_players_that_are_alike_are_worth_the_same_whatever_is_drawn():
    found = found_values(20, lambda z: (z.sum(axis=1) > 10) * 1.0, 60)
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found_values(20, lambda z: z.sum(axis=1) / 20, 60), np.full(20, 1 / 20), atol=1e-12)


def test_four_superpixels_are_shaps(models, images):
    found = xai.explain(models["vit"], images[:2], 1, "kernel_shap", segments=QUARTERS, fill="grey")
    np.testing.assert_allclose(values_of(found, QUARTERS), SHAPS, atol=2e-5)


@pytest.mark.parametrize("name", ["nested", "vit"])
def test_values_add_up_to_the_score_and_come_near_the_orders(models, images, name):
    given = {"segments": STRIPES, "fill": "black"}
    found = values_of(xai.explain(models[name], images[:2], 1, "kernel_shap", n_coalitions=400, **given), STRIPES)
    rise = xai.predict(models[name], images[:2])[:, 1] - xai.predict(models[name], 0 * images[:2])[:, 1]
    np.testing.assert_allclose(found.sum(axis=1), rise, atol=1e-5)
    orders = values_of(xai.explain(models[name], images[:2], 1, "shapley", n_samples=40, **given), STRIPES)
    for one, other in zip(found, orders, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.95


def test_too_few_are_refused(models, images):
    with pytest.raises(ValueError, match="n_coalitions=20 are too few for 16 superpixels; give at least 32"):
        xai.explain(models["nested"], images[:1], 1, "kernel_shap", segments=STRIPES, n_coalitions=20)
