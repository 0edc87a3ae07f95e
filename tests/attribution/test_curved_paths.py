"""Guided and blur integrated gradients against the authors' package `saliency`, IDGI by hand; all are complete."""

import numpy as np
import pytest
from saliency.core import BlurIG, GuidedIG
from saliency.core.base import INPUT_OUTPUT_GRADIENTS
from scipy import ndimage

import xaiutils as xai
from xaiutils.attribution import Network, curved_paths
from xaiutils.attribution.completeness import completeness_gap
from xaiutils.backend import keras, tf
from xaiutils.graph.passes import input_gradients


@pytest.fixture(scope="module")
def gradient(models):
    run = input_gradients(Network.of(models["flat softmax"]))
    return lambda x: run(np.asarray(x, np.float32), np.ones(len(x), np.int32))


@pytest.mark.parametrize("max_distance", [0.02, 0.3, 1.0])
def test_guided_ig_as_its_authors_package(models, images, gradient, max_distance, monkeypatch):
    """It calls `quantile` with an argument that NumPy 2.4 no longer has."""
    quantile = np.quantile
    monkeypatch.setattr(np, "quantile", lambda a, q, interpolation="lower", **_: quantile(a, q, method=interpolation))
    model, x = models["flat softmax"], images[:2]
    options = {"fraction": 0.25, "max_distance": max_distance}
    found = xai.explain(model, x, 1, "guided_ig", n_steps=12, **options)
    for image, ours in zip(x, found, strict=True):
        call = lambda batch, **_: {INPUT_OUTPUT_GRADIENTS: gradient(batch)}  # noqa: E731
        theirs = GuidedIG().GetMask(image, call, x_baseline=0 * image, x_steps=12, fraction=0.25, max_dist=max_distance)
        np.testing.assert_allclose(ours, theirs.sum(-1), atol=1e-4 * np.abs(ours).max())


def test_guided_ig_that_may_not_stray_is_integrated_gradients(models, images, gradient):
    x = images[:2]
    found = xai.explain(models["flat softmax"], x, 1, "guided_ig", n_steps=5, max_distance=0.0)
    expected = sum(gradient(x * j / 5) * x / 5 for j in range(5)).sum(-1)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_blur_ig_as_its_authors_package(models, images, gradient):
    """Of many steps, for gradients at their ends and in their middles differ."""
    image = images[0]
    found = xai.explain(models["flat softmax"], images[:1], 1, "blur_ig", n_steps=40, max_sigma=4.0)[0]
    call = lambda batch, **_: {INPUT_OUTPUT_GRADIENTS: gradient(batch)}  # noqa: E731
    theirs = BlurIG().GetMask(image, call, max_sigma=4.0, steps=240, batch_size=60).sum(-1)
    np.testing.assert_allclose(found, theirs, atol=0.05 * np.abs(theirs).max())
    assert np.corrcoef(found.ravel(), theirs.ravel())[0, 1] > 0.999


def test_idgi_by_hand(models, images, gradient):
    """Two steps; on a guided path it is another map."""
    model, x = models["flat softmax"], images[:2]
    middle = x / 2
    S = [xai.predict(model, at)[:, 1] for at in (0 * x, middle, x)]
    expected = 0
    for at, rise in ((0 * x, S[1] - S[0]), (middle, S[2] - S[1])):
        g = gradient(at) ** 2
        expected = expected + rise[:, None, None] * (g / g.sum(axis=(1, 2, 3), keepdims=True)).sum(-1)
    found = xai.explain(model, x, 1, "idgi", n_steps=2)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    guided = xai.explain(model, x, 1, "idgi", path="guided", n_steps=2)
    assert not np.allclose(guided, found, atol=1e-3 * np.abs(found).max())


@pytest.mark.parametrize(
    ("method", "options", "most"),
    [
        ("guided_ig", {"n_steps": 25}, 0.15),
        ("blur_ig", {"n_steps": 20, "max_sigma": 5.0}, 0.05),
        *(("idgi", {"n_steps": 2, "path": path}, 1e-4) for path in ("straight", "guided", "blur")),
    ],
)
def test_they_are_complete(models, images, method, options, most):
    name = "vit" if method == "idgi" else "nested"
    table = completeness_gap(models[name], images[:2], 1, method, **options)
    size = np.maximum(table["total"].abs(), 0.05)
    assert (table["gap"].abs() < most * size).all(), table


def test_on_a_linear_model(linear, images):
    """The gradient w is the same everywhere: shares of the path's ends, or of w^2."""
    model, w = linear
    guided = xai.explain(model, images[:2], 1, "guided_ig", n_steps=3)
    np.testing.assert_allclose(guided, (images[:2] * w[..., 1]).sum(-1), atol=2e-4)
    squares = (w[..., 1] ** 2).sum(-1) / (w[..., 1] ** 2).sum()
    rise = (images[:2] * w[..., 1]).sum(axis=(1, 2, 3))
    found = xai.explain(model, images[:2], 1, "idgi", n_steps=3)
    np.testing.assert_allclose(found, rise[:, None, None] * squares, atol=1e-5)


def test_idgi_of_gradients_whose_squares_are_no_float32(images):
    """A linear model whose weights are 1e-25; shares of its rise are those of their squares, not 0."""
    w = np.random.default_rng(0).normal(size=(images[0].size, 2)).astype(np.float32) * 1e-25
    inputs = keras.Input(images.shape[1:])
    model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False)(keras.layers.Flatten()(inputs)))
    model.layers[-1].kernel.assign(w)
    found = xai.explain(model, images[:2], 1, "idgi", n_steps=3).astype(float)
    of_one = w[:, 1].astype(float).reshape(images.shape[1:]) ** 2
    rise = (images[:2].reshape(2, -1).astype(float) @ w[:, 1].astype(float))[:, None, None]
    expected = rise * of_one.sum(axis=-1) / of_one.sum()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("max_distance", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 1.0])
def test_a_guided_step_as_numpy_makes_it(fraction, max_distance):
    """With values that have no way to go, gradients of 0, and a baseline that is no colour; one step after another."""
    rng = np.random.default_rng(3)
    shape, n_steps = (2, 12, 10, 3), 4
    x, start = rng.uniform(0, 255, shape), rng.uniform(0, 255, shape)
    x[:, :2] = start[:, :2]
    points = curved_paths._guided(start, x[0].size, n_steps, fraction, max_distance, rises=False)
    now, reached = start, tf.zeros(shape)
    for j in range(n_steps):
        g = rng.standard_t(2, shape).astype(np.float32) * (rng.random(shape) < 0.7)
        now = np.stack(
            [guided_step(*one, (j + 1) / n_steps, fraction, max_distance) for one in zip(now, start, x, g, strict=True)]
        )
        numbers = points.scales[j].reshape(1, 1, 1, -1)
        reached = curved_paths._go_on(reached, tf.constant(g), tf.constant(x - start, tf.float32), tf.constant(numbers))
        np.testing.assert_allclose(start + reached.numpy() * (x - start), now, atol=2e-3)
    np.testing.assert_allclose(now, x, atol=0.01)


def guided_step(now, start, end, g, alpha, fraction, max_distance):
    """The step of one image: the smallest gradients' values go as far as they may, until enough of the way is gone."""
    way, size = end - start, np.abs(g).astype(float)
    low, high = max(alpha - max_distance, 0), min(alpha + max_distance, 1)
    least, most = start + low * way, start + high * way
    now = np.where(np.sign(way) * (least - now) > 0, least, now)
    while (left := np.abs(end - now).sum() - (1 - alpha) * np.abs(way).sum()) > 1e-7 * np.abs(way).sum():
        size[np.isclose(now, most, atol=1e-9)] = np.inf
        chosen = (size <= np.quantile(size, fraction, method="lower")) & np.isfinite(size)
        reach = np.abs(most - now)[chosen].sum()
        if not reach:
            break
        now = np.where(chosen, now + min(1, left / reach) * (most - now), now)
    return now


def test_the_smallest_values_are_those_that_sorting_finds():
    rng = np.random.default_rng(0)
    rows = np.abs(rng.standard_t(2, (5, 4000))).astype(np.float32)
    rows[1, :2500] = 0.0
    rows[2] = rng.integers(0, 4, 4000)
    rows[3, 50:] = np.inf
    rows[4] = 1.0
    for count in (1, 2, 61, 1000, 3999, 4000):
        limit = curved_paths._smallest(tf.constant(rows), tf.constant(count)).numpy()[:, None]
        expected = np.sort(rows, axis=1)[:, count - 1 : count]
        np.testing.assert_array_equal(rows <= limit, rows <= expected)


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.7, 3.0, 20.0])
def test_blurs_as_scipy_makes_them(sigma):
    """20: further than the image reaches."""
    x = np.random.default_rng(0).uniform(0, 255, (2, 14, 9, 3)).astype(np.float32)
    taps = curved_paths._gaussian(sigma, 14)[None]
    (found,) = curved_paths._blur(tf.constant(x), tf.constant(taps)).numpy()
    expected = ndimage.gaussian_filter(x.astype(float), (0, sigma, sigma, 0), mode="constant") if sigma else x
    np.testing.assert_allclose(found, expected, atol=1e-4)
