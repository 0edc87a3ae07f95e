"""SaCo, infidelity, IROF, information curves, random logit and fragments against naive forms of their papers."""

import itertools

import numpy as np
import pytest
from saliency.metrics import pic

import xaiutils as xai
from xaiutils.attribution.lime import superpixels
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.metrics.information_curve import information, interpolated

SIZE = 12
RNG = np.random.default_rng(7)
WEIGHTS = RNG.normal(0, 0.01, (SIZE, SIZE, 3)).astype(np.float32)
PIXELS = RNG.integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)
MAPS = RNG.normal(size=(3, SIZE, SIZE)).astype(np.float32)
DATA = ImageDataset(PIXELS, [0] * 3, ("a", "b"), ["i0", "i1", "i2"])


def logit(image):
    """Of class "b"; that of "a" is 0."""
    return float((np.asarray(image, np.float64) * WEIGHTS).sum())


def p(image):
    return 1 / (1 + np.exp(-logit(image)))


@pytest.fixture(scope="module")
def linear():
    """Two logits, (0, w . x), whose gradient is w whatever the image."""
    kernel = np.stack([np.zeros(WEIGHTS.size), WEIGHTS.ravel()], axis=1)
    x = keras.Input((SIZE, SIZE, 3))
    z = keras.layers.Dense(2, name="logits")(keras.layers.Flatten()(x))
    model = keras.Model(x, keras.layers.Activation("softmax")(z))
    model.get_layer("logits").set_weights([kernel, np.zeros(2)])
    return model


def found(model, metric, maps=MAPS, reading="signed", **parameters):
    how = {"parameters": {metric: parameters}, "reading": reading}
    return xai.evaluate(model, DATA, maps, [metric], 1, **how)["value"].to_numpy()


def test_saco_naive(linear):
    expected = []
    for image, one in zip(PIXELS.astype(float), MAPS, strict=True):
        order = np.argsort(-one.ravel(), kind="stable").reshape(4, -1)
        falls, sums = [], []
        for group in order:
            gone = image.copy().reshape(-1, 3)
            gone[group] = image.mean(axis=(0, 1))
            falls.append(logit(image) - logit(gone.reshape(image.shape)))
            sums.append(one.ravel()[group].sum())
        counted = total = 0.0
        for i in range(3):
            for j in range(i + 1, 4):
                weight = sums[i] - sums[j]
                counted += weight if falls[i] >= falls[j] else -weight
                total += abs(weight)
        expected.append(counted / total)
    np.testing.assert_allclose(found(linear, "saco", n_groups=4, score="logit"), expected, atol=1e-5)
    exact = ((PIXELS - PIXELS.mean(axis=(1, 2), keepdims=True)) * WEIGHTS).sum(axis=-1).astype(np.float32)
    np.testing.assert_allclose(found(linear, "saco", exact), 1, atol=1e-6)
    np.testing.assert_allclose(found(linear, "saco", -exact), -1, atol=1e-6)
    assert np.isnan(found(linear, "saco", np.ones_like(MAPS), n_groups=5)).all()  # groups of 28 and 29 pixels
    blind = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    blind.set_weights([0 * w for w in blind.get_weights()])
    assert np.isnan(found(blind, "saco")).all()
    with pytest.raises(ValueError, match="n_groups=145 of 144 pixels"):
        found(linear, "saco", n_groups=145)


def test_infidelity_is_0_where_the_map_adds_up_and_naive_elsewhere(linear):
    exact = (PIXELS * WEIGHTS).sum(axis=-1).astype(np.float32)
    how = {"fill": "black", "n_samples": 30, "seed": 3}
    zeros, scaled = found(linear, "infidelity", 0 * exact, **how), found(linear, "infidelity", -5 * exact, **how)
    assert (scaled < 1e-6 * zeros).all()
    assert (zeros > 0.1).all()
    rng = np.random.default_rng(3)
    sides = rng.integers(1, round(SIZE * 10 / 28) + 1, 30)
    tops, lefts = rng.integers(0, SIZE - sides + 1), rng.integers(0, SIZE - sides + 1)
    for image, one, value in zip(PIXELS.astype(float), MAPS, found(linear, "infidelity", **how), strict=True):
        sums, falls = [], []
        for top, left, side in zip(tops, lefts, sides, strict=True):
            square = np.s_[top : top + side, left : left + side]
            gone = image.copy()
            gone[square] = 0
            sums.append(one[square].sum(dtype=float))
            falls.append(logit(image) - logit(gone))
        line = np.linalg.lstsq(np.array(sums)[:, None], np.array(falls), rcond=None)[1][0]
        assert value == pytest.approx(line / 30, rel=1e-4)


def test_irof_naive(linear):
    expected = []
    for image, one in zip(PIXELS.astype(np.float32), MAPS, strict=True):
        segments = superpixels(image, "slic", 6, 0)
        means = [one[segments == k].mean() for k in range(segments.max() + 1)]
        gone, curve = image.copy(), [1.0]
        for k in np.argsort(-np.array(means)):
            gone[segments == k] = image.mean(axis=(0, 1))
            curve.append(p(gone) / p(image))
        expected.append(sum((1 - a + 1 - b) / 2 for a, b in itertools.pairwise(curve)) / (len(curve) - 1))
    np.testing.assert_allclose(found(linear, "irof", n_segments=6), expected, atol=1e-4)


def test_information_curves_agree_with_the_authors_code(linear, monkeypatch):
    """The package saliency, on the same known pixels: its curve is interpolated at a thousand places."""
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # as it was named before NumPy 2
    fractions, maps, values = [0.05, 0.2, 0.5], np.abs(MAPS), {}
    for name, of in (("sic_auc", p), ("aic_auc", lambda image: float(logit(image) > 0))):
        values[name] = found(linear, name, maps, fractions=fractions, lowest=0.0, known=0.1)
        for i, value in enumerate(values[name]):
            few = np.random.default_rng(0).permutation(SIZE**2).reshape(SIZE, SIZE) < round(0.1 * SIZE**2)
            try:
                theirs = pic.compute_pic_metric(
                    PIXELS[i], maps[i], few, lambda batch, of=of: [of(image) for image in batch], fractions, 0.0
                ).auc
            except pic.ComputePicMetricError:
                theirs = np.nan
            assert value == pytest.approx(theirs, abs=0.01, nan_ok=True)
    assert np.isfinite(values["sic_auc"]).any()
    assert np.isnan(found(linear, "sic_auc", maps, lowest=1.0)).all()
    with pytest.raises(ValueError, match=r"fractions=\[1.0\]"):
        found(linear, "sic_auc", fractions=[1.0])


def test_interpolation_keeps_what_is_known_and_is_linear_between():
    image = np.broadcast_to(np.arange(0, 50, 10)[:, None, None], (5, 5, 3)).astype(np.uint8)
    assert np.array_equal(interpolated(image, np.zeros((5, 5), bool)), image)  # from its four corners
    noise = RNG.integers(0, 256, (9, 9, 1)).astype(np.uint8)
    known = RNG.random((9, 9)) < 0.5
    assert np.array_equal(interpolated(noise, known)[known], noise[known])
    assert information(noise) > information(interpolated(noise, np.zeros((9, 9), bool)))
    assert information(np.repeat(noise, 5, axis=-1)) == 5 * information(noise)


@pytest.mark.parametrize("metric", ["sic_auc", "random_logit"])
def test_an_image_scores_the_same_whatever_stands_beside_it(linear, metric):
    how = {"parameters": {"sic_auc": {"known": 0.1, "lowest": 0.0}}, "method": "gradients_x_inputs"}
    alone = [xai.evaluate(linear, DATA.select([i]), MAPS[[i]], [metric], 1, **how)["value"].item() for i in range(3)]
    np.testing.assert_allclose(xai.evaluate(linear, DATA, MAPS, [metric], 1, **how)["value"], alone, rtol=1e-5)


def test_random_logit_tells_a_map_of_the_class_from_one_of_the_image(linear):
    """Gradients of "a" are 0 everywhere; signed products for "b" are those of "b" alone."""
    x = keras.Input((SIZE, SIZE, 3))
    kernel = np.stack([-WEIGHTS.ravel(), WEIGHTS.ravel()], axis=1)
    model = keras.Model(x, keras.layers.Dense(2, name="logits")(keras.layers.Flatten()(x)))
    model.get_layer("logits").set_weights([kernel, np.zeros(2)])
    maps = xai.explain(model, DATA.images, 1, "gradients_x_inputs")
    values = {}
    for reading in ("signed", "magnitude"):
        how = {"method": "gradients_x_inputs", "reading": reading}
        how |= {"parameters": {"random_logit": {"similarity": "spearman"}}}
        values[reading] = xai.evaluate(model, DATA, maps, ["random_logit"], 1, **how)["value"].to_numpy()
    np.testing.assert_allclose(values["signed"], -1, atol=1e-6)
    np.testing.assert_allclose(values["magnitude"], 1, atol=1e-6)


def test_fragments_are_counted_with_their_corners():
    one = np.zeros((1, 6, 6), np.float32)
    one[0, 0, 0] = one[0, 1, 1] = 3  # corners touch
    one[0, 4, 4] = -3
    ds = ImageDataset(np.zeros((1, 6, 6, 3), np.uint8), [0], ("a", "b"), ["i"])
    assert xai.evaluate(None, ds, one, ["fragments"])["value"].tolist() == [2]
    assert xai.evaluate(None, ds, np.float32(1e-30) * one, ["fragments"])["value"].tolist() == [2]
    for threshold in ("mean_std", "top_area"):
        how = {"parameters": {"fragments": {"threshold": threshold}}}
        assert np.isnan(xai.evaluate(None, ds, 0 * one, ["fragments"], **how)["value"]).all()
