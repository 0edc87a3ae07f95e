"""After Simonyan et al. 2014: an image made for a class, and the outline that a saliency map points at."""

import numpy as np
import pytest
from conftest import SIZE, make_flat

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.beyond_maps.class_model import class_model
from xaiutils.beyond_maps.segmentation import segment_from_saliency

# The class model --------------------------------------------------------------------------------------------------


def test_the_ascent_finds_the_optimum_of_a_linear_model():
    """S = w . I: S(I) - l2 sum u^2 with I = mean + 127.5 u is largest at u = 127.5 w / (2 l2)."""
    inputs = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    w = np.random.default_rng(0).normal(size=(SIZE * SIZE * 3, 2)) * 1e-3
    model.layers[-1].set_weights([w, np.zeros(2)])
    expected = 127.5 * w[:, 1].reshape(SIZE, SIZE, 3) / (2 * 0.4)
    assert np.abs(expected).max() < 0.8  # within [0, 255]
    found = class_model(model, 1, n_steps=300, learning_rate=0.05, l2=0.4, mean=[120, 125, 130])
    u = (found.image - np.array([120, 125, 130])) / 127.5
    np.testing.assert_allclose(u, expected, atol=0.01)
    # A larger penalty draws the image to the mean.
    near = class_model(model, 1, n_steps=300, learning_rate=0.05, l2=4.0, mean=[120, 125, 130])
    np.testing.assert_allclose((near.image - np.array([120, 125, 130])) / 127.5, expected / 10, atol=0.01)


@pytest.mark.parametrize("shape", ["flat softmax", "one-unit sigmoid", "nested", "vit"])
def test_the_logit_rises(models, shape):
    model = models[shape]
    for target in (0, 1):
        image, history = class_model(model, target, n_steps=15, learning_rate=0.05, mean=[110, 120, 90])
        assert image.shape == (SIZE, SIZE, 3)
        assert image.dtype == np.float32
        assert image.min() >= 0
        assert image.max() <= 255
        assert history.shape == (16,)
        grey = np.full((1, SIZE, SIZE, 3), [110, 120, 90], np.float32)
        assert history[0] == pytest.approx(xai.predict(model, grey)[0, target], abs=1e-5)
        assert history[-1] == pytest.approx(xai.predict(model, image[None])[0, target], abs=1e-4)
        assert history[-1] > history[0] + 0.01


def test_starts_and_seeds(models):
    model = models["flat softmax"]
    black = class_model(model, 1, n_steps=1, start="zero")
    assert black.history[0] == pytest.approx(xai.predict(model, np.zeros((1, SIZE, SIZE, 3)))[0, 1], abs=1e-5)
    noise = [class_model(model, 1, n_steps=2, start="noise", jitter=3, seed=s).image for s in (0, 0, 1)]
    np.testing.assert_array_equal(noise[0], noise[1])
    assert np.abs(noise[0] - noise[2]).max() > 1


def test_blur_and_total_variation_make_it_smooth(models):
    def roughness(**options):
        image = class_model(models["vit"], 2, n_steps=20, learning_rate=0.1, **options).image
        return np.abs(np.diff(image, axis=0)).mean()

    plain = roughness()
    assert roughness(blur=1.0) < plain / 2
    assert roughness(total_variation=1e-2) < 0.9 * plain


def test_any_size_and_bad_arguments(models):
    keras.utils.set_random_seed(0)  # all ReLUs may be off in mid-grey
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, activation="relu")(inputs))
    free = keras.Model(inputs, keras.layers.Dense(2)(x))
    assert class_model(free, 0, n_steps=2, image_size=20).image.shape == (20, 20, 3)
    with pytest.raises(ValueError, match="takes any size"):
        class_model(free, 0)
    model = models["flat softmax"]
    for options, words in (
        ({"target": 3}, "from 0 to 2"),
        ({"n_steps": 0}, "n_steps=0"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"l2": -1}, "l2=-1"),
        ({"blur": float("nan")}, "blur=nan"),
        ({"jitter": 0.5}, "jitter=0.5"),
        ({"start": "grey"}, "mean, zero, noise"),
        ({"mean": [1, 2]}, "mean has shape"),
        ({"image_size": 64}, "image_size=64"),
    ):
        with pytest.raises(ValueError, match=words):
            class_model(model, **{"target": 1, **options})


def test_a_start_without_a_gradient_is_named(models):
    """Mid-grey is 0 after this network's scaling, where all its ReLUs have no slope."""
    with pytest.raises(ValueError, match="the gradient is 0 at start='mean'"):
        class_model(models["flat softmax"], 0)


def test_weights_that_are_not_finite_are_named():
    model = make_flat("linear")
    model.get_layer("classes").kernel.assign(model.get_layer("classes").kernel * np.inf)
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        class_model(model, 0, n_steps=2)


# The segmentation -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disc():
    """A speckled red disc on speckled blue ground: image, mask, and a saliency that marks the disc's middle only."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:80, :80]
    distance = np.hypot(y - 40, x - 36)
    mask = distance < 24
    image = np.where(mask[..., None], [190, 60, 50], [50, 70, 180]) + rng.normal(0, 18, (80, 80, 3))
    saliency = np.exp(-((distance / 12) ** 2)) + rng.uniform(0, 1e-6, mask.shape)
    return np.clip(image, 0, 255).astype(np.float32), mask, saliency.astype(np.float32)


def iou(found, mask):
    return (found & mask).sum() / (found | mask).sum()


@pytest.mark.parametrize("method", ["graph_cut", "gmm"])
def test_a_disc_is_found_by_its_colour(disc, method):
    image, mask, saliency = disc
    found = segment_from_saliency(image, saliency, method=method)
    assert found.dtype == bool
    assert found.shape == mask.shape
    assert iou(saliency > saliency.mean() + saliency.std(), mask) < 0.6  # what a threshold finds
    assert iou(found, mask) > 0.97
    np.testing.assert_array_equal(found, segment_from_saliency(image, saliency, method=method))


def test_the_cut_is_smoother_than_the_colours_alone(disc):
    """Under heavy noise single pixels are mistaken by their colour; a cut pays for each edge."""
    image, mask, saliency = disc
    loud = np.clip(image + np.random.default_rng(1).normal(0, 60, image.shape), 0, 255)
    cut, single = (
        segment_from_saliency(loud, saliency, method=m, largest_component=False) for m in ("graph_cut", "gmm")
    )
    assert iou(cut, mask) > iou(single, mask) + 0.02


def test_seeds_keep_their_side(disc):
    image, _, saliency = disc
    for method in ("graph_cut", "gmm"):
        found = segment_from_saliency(image, saliency, 0.9, 0.5, method, largest_component=False)
        assert found[saliency > np.quantile(saliency, 0.9)].all()
        assert not found[saliency <= np.quantile(saliency, 0.5)].any()


def test_only_the_largest_part_is_kept(disc):
    image, mask, saliency = disc
    image, saliency = image.copy(), saliency.copy()
    image[2:8, 70:76], saliency[2:8, 70:76] = [190, 60, 50], 1e-3  # a small second object, of middling saliency
    assert segment_from_saliency(image, saliency, largest_component=False)[4, 72]
    found = segment_from_saliency(image, saliency)
    assert not found[4, 72]
    assert iou(found, mask) > 0.95


def test_grey_sparse_and_constant_input(disc):
    image, mask, saliency = disc
    grey = np.repeat(image[..., :1], 3, axis=-1)
    assert iou(segment_from_saliency(grey, saliency), mask) > 0.95
    sparse = np.where(saliency > np.quantile(saliency, 0.97), saliency, 0)  # most of it exactly 0, as after a ReLU
    assert segment_from_saliency(image, sparse).any()
    assert not segment_from_saliency(image, np.zeros_like(saliency)).any()
    dot = np.zeros_like(saliency)
    dot[40, 36] = 1  # one pixel of foreground, one Gaussian
    assert segment_from_saliency(image, dot)[40, 36]
    flat = np.full_like(image, 99)
    assert segment_from_saliency(flat, saliency).any()


def test_bad_arguments_of_the_segmentation(disc):
    image, _, saliency = disc
    with pytest.raises(ValueError, match="'graph_cut' or 'gmm'"):
        segment_from_saliency(image, saliency, method="grabcut")
    with pytest.raises(ValueError, match="background=0.9, foreground=0.5"):
        segment_from_saliency(image, saliency, 0.5, 0.9)
    with pytest.raises(ValueError, match="maps has shape"):
        segment_from_saliency(image, saliency[:5])
    with pytest.raises(ValueError, match="expected raw pixels"):
        segment_from_saliency(image / 255, saliency)
