"""Metric-driven attribution: the search on games, the convex curve against a general solver, and a ViT by hand."""

import numpy as np
import pytest
from conftest import SIZE
from scipy.optimize import LinearConstraint, minimize

import xaiutils as xai
from xaiutils.attribution.baselines import fill_images
from xaiutils.attribution.mda import best_order, convex_fall, metric_curve
from xaiutils.graph.passes import enlarge


def additive(values):
    return lambda shown: shown @ np.asarray(values, float)


def test_order_of_an_additive_game():
    """Insertion takes 5 and 3, which are 8 of 9.6; deletion orders the rest; the reference only says who is tried."""
    values = [1.0, 5.0, 0.1, 3.0, 0.5]
    for enough in (0.0, 0.8, 1.0):
        order = best_order(additive(values), additive(values), np.array(values), enough)
        assert order.tolist() == [1, 3, 0, 4, 2]


def test_only_candidates_are_tried():
    """Of four patches four are tried at once, of 9 six: the best patch waits until the reference has come to it."""
    values = np.arange(9.0)
    order = best_order(additive(values), additive(values), -values, 1.0)
    assert order[0] == 5
    assert sorted(order) == list(range(9))


def test_insertion_stops_where_enough_is_reached():
    """Patches 0 and 1 count twice together; over the other ground the rest are worth something else."""
    shown_over = []

    def score(rows):
        return rows @ np.array([4.0, 4.0, 1.0, 1.0])

    def over_hidden(rows):
        shown_over.append(rows)
        return rows @ np.array([0.0, 0.0, 1.0, 2.0])

    order = best_order(score, over_hidden, np.array([4.0, 3.0, 2.0, 1.0]), 0.8)
    assert order.tolist() == [0, 1, 3, 2]
    assert not any(rows[:, :2].any() for rows in shown_over)


def test_curve_by_hand():
    """Insertion 0, 4, 3, 8 of 8 is 0, .5, .5, 1; deletion 10, 4, 6, 2 is 1, .25, .25, 0."""
    inserted = {(0, 0, 0): 0.0, (1, 0, 0): 4.0, (1, 1, 0): 3.0, (1, 1, 1): 8.0}
    deleted = {(1, 1, 1): 10.0, (0, 1, 1): 4.0, (0, 0, 1): 6.0, (0, 0, 0): 2.0}
    curve = metric_curve(
        *(lambda rows, d=d: np.array([d[tuple(r)] for r in rows.astype(int)]) for d in (inserted, deleted)),
        np.arange(3),
    )
    np.testing.assert_allclose(curve, [1, (0.5 + 0.25) / 2, (0.5 + 0.25) / 2, 0])


def test_convex_fall_is_the_nearest():
    rng = np.random.default_rng(0)
    for n in (3, 6, 10):
        curve = np.concatenate([[1.0], np.sort(rng.random(n - 1))[::-1], [0.0]])
        second = np.zeros((n - 1, n + 1))
        for i in range(n - 1):
            second[i, i : i + 3] = 1, -2, 1
        ends = np.zeros((2, n + 1))
        ends[0, 0] = ends[1, -1] = 1
        best = minimize(
            lambda m, curve=curve: ((m - curve) ** 2).sum(),
            np.linspace(1, 0, n + 1),
            method="SLSQP",
            bounds=[(0, 1)] * (n + 1),
            constraints=[LinearConstraint(second, 0, np.inf), LinearConstraint(ends, [1, 0], [1, 0])],
            options={"ftol": 1e-14, "maxiter": 500},
        )
        np.testing.assert_allclose(convex_fall(curve), best.x, atol=1e-4)
    already = np.array([1.0, 0.5, 0.2, 0.1, 0.0])
    np.testing.assert_allclose(convex_fall(already), already, atol=1e-7)
    np.testing.assert_array_equal(convex_fall(np.zeros(4)), 0)


def test_a_vit_by_hand(models, images):
    """Four quarters: every set of them is scored by the model, and the order, curve and shares are made of the 32
    scores alone."""
    model, image = models["vit"], images[:1]
    target = int(xai.predict(model, image)[0].argmax())
    quarter = (np.arange(SIZE) // 16)[:, None] * 2 + np.arange(SIZE) // 16

    def all_scores(fill):
        rows = (np.arange(16)[:, None] >> np.arange(4)) & 1 == 1
        mixed = np.where(rows[:, quarter][..., None], image, fill_images(image, fill))
        return xai.predict(model, mixed, probabilities=True)[:, target]

    tables = [all_scores(fill) for fill in ("blur", "grey")]
    inserted, deleted = (lambda rows, t=table: t[rows @ (1 << np.arange(4))] for table in tables)
    reference = xai.explain(model, image, target, "transformer_attribution")[0]
    means = np.array([reference[quarter == k].mean() for k in range(4)])
    order = best_order(inserted, deleted, means, 0.9)
    drops = -np.diff(convex_fall(metric_curve(inserted, deleted, order)))
    sparse = np.zeros(4)
    sparse[order] = drops * (1 / 256 + (3 - np.arange(4)) / 4)
    found = xai.explain(model, image, target, "mda", cells=2)
    np.testing.assert_allclose(found, enlarge(sparse.reshape(1, 2, 2), SIZE, SIZE), atol=1e-4 * sparse.max())
    dense = xai.explain(model, image, target, "mda", cells=2, density=1.0, kappa=0.0)
    assert dense.max() == pytest.approx(sparse.max(), rel=1e-3)
    corners = dense[0][[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(corners[order], sparse.max() * (3 - np.arange(4)) / 3, atol=1e-3 * sparse.max())


def test_its_own_patches(models, images):
    found = xai.explain(models["vit"], images[:1], 1, "mda", enough=0.5)
    assert found.shape == (1, SIZE, SIZE)
    assert found.min() >= 0 < found.max()


def test_it_cannot_be_its_own_base(models, images):
    with pytest.raises(ValueError, match="base='mda'"):
        xai.explain(models["vit"], images[:1], 1, "mda", base="mda")
    maps = xai.explain(models["nested"], images, None, "mda", base="grad_cam", cells=2)
    assert maps.max() > 0
