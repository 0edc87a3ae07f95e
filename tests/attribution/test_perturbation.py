"""Occlusion, RISE, LIME and prediction difference analysis: naive forms, published values, linear models, libraries."""

import warnings

import numpy as np
import pytest
from conftest import SIZE
from scipy.stats import spearmanr
from trees import read_image

import xaiutils as xai
from xaiutils.attribution import MapWarning, Network, lime
from xaiutils.attribution.baselines import fill_images
from xaiutils.attribution.libraries.lime_package import lime_of_package
from xaiutils.attribution.prediction_difference import PatchGaussian
from xaiutils.attribution.rise import RandomMasks
from xaiutils.attribution.windows import window_starts
from xaiutils.backend import keras, tf
from xaiutils.graph import passes
from xaiutils.graph.layers.batch_norm import foldable_norms

layers = keras.layers


@pytest.fixture(scope="module")
def left_half():
    """A model that reads the left half of the image only."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Cropping2D(((0, 0), (0, SIZE // 2)))(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Dense(4, activation="tanh")(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def checkerboard(cell: int) -> np.ndarray:
    """Superpixel numbers of a grid of square cells."""
    rows = np.arange(SIZE) // cell
    return rows[:, None] * (SIZE // cell) + rows


# The engine -------------------------------------------------------------------------------------------------------


def conv_norm_model(**options) -> keras.Model:
    """Convolutions with and without bias, depthwise, strided, dilated and grouped, each before a batch norm with
    statistics of its own; one convolution is read twice and one has an activation, so they must not be folded."""
    keras.utils.set_random_seed(2)
    layers = keras.layers

    def norm(name, **more):
        draw = keras.initializers.RandomUniform(0.5, 1.5, seed=len(name))
        names = ("beta_initializer", "gamma_initializer", "moving_mean_initializer", "moving_variance_initializer")
        return layers.BatchNormalization(name=name, **dict.fromkeys(names, draw), **more)

    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.ReLU(6.0)(norm("a")(layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)))
    x = norm("bb", scale=False)(layers.DepthwiseConv2D(3, padding="same", bias_initializer="random_normal")(x))
    x = norm("ccc", center=False)(layers.Conv2D(8, 3, groups=2, dilation_rate=2, bias_initializer="random_normal")(x))
    twice = layers.Conv2D(8, 1)(x)
    x = layers.Add()([norm("dddd")(twice), twice])
    x = norm("eeeee")(layers.Conv2D(6, 3, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def test_folded_logits_are_the_logits(images):
    model = conv_norm_model()
    network = Network.of(model)
    assert len(foldable_norms(network)) == 3
    expected = model(images, training=False).numpy()
    np.testing.assert_allclose(xai.predict(model, images), expected, atol=2e-5 * np.abs(expected).max())
    norm = model.get_layer("bb")  # new weights count at once in the compiled function
    norm.moving_mean.assign(norm.moving_mean + 3.0)
    changed = model(images, training=False).numpy()
    assert not np.allclose(changed, expected, rtol=1e-2)
    np.testing.assert_allclose(xai.predict(model, images), changed, atol=2e-5 * np.abs(changed).max())


def test_folded_logits_leave_other_networks_alone(models, images):
    network = Network.of(models["vit"])
    assert foldable_norms(network) == {}
    np.testing.assert_array_equal(passes.folded_logits(network, images), network.logits(images))
    assert foldable_norms(Network.of(models["flat softmax"])) == {}  # the activation comes before the norm


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_masked_scores_and_scores_of_are_predictions(models, images, score):
    network = Network.of(models["flat softmax"])
    rng = np.random.default_rng(0)
    masks, members = rng.random((7, SIZE, SIZE)).astype(np.float32), rng.integers(0, 5, 7)
    targets = np.array([0, 1, 2, 0, 1], np.int32)
    mixed = masks[..., None] * images[members] + (1 - masks[..., None]) * 127.5
    expected = xai.predict(models["flat softmax"], mixed, probabilities=score == "probability")
    expected = expected[np.arange(7), targets[members]]
    grey = fill_images(images, "grey")
    found = passes.masked_scores(network, images, grey, targets, members, lambda b: masks[b], 3, score)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    made = passes.scores_of(network, lambda b: mixed[b], targets[members], 3, score)
    np.testing.assert_allclose(made, expected, atol=1e-5)


# Occlusion --------------------------------------------------------------------------------------------------------


def captum_layers(bias: list[float]) -> keras.Model:
    """captum's test network: the sum of three pixels into four ReLU units with the biases given."""
    inputs = keras.Input((1, 3, 3))
    x = keras.layers.Dense(4, activation="relu", name="hidden")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(x))
    model.get_layer("hidden").set_weights([np.tile(np.array([[1], [0], [0]], np.float32), (3, 4)), np.array(bias)])
    model.get_layer("out").set_weights([np.ones((4, 2)), np.zeros(2)])
    return model


@pytest.mark.parametrize(
    ("pixels", "bias", "parameters", "expected"),
    [
        ([20, 50, 30], [-10, 1, 1, 1], {"patch_size": 1}, [[80, 200, 120]]),
        ([20, 50, 30], [-10, 1, 1, 1], {"patch_size": 2, "stride": 2}, [[280, 280, 120]]),
        # Published with the baseline 10: the same network on pixels less 10, the biases larger by three pixels of 10.
        ([10, 40, 20], [20, 31, 31, 31], {"patch_size": 2, "stride": 1}, [[200, 220, 240]]),
    ],
)
def test_occlusion_gives_captums_published_values(pixels, bias, parameters, expected):
    image = np.repeat(np.array(pixels, np.float32).reshape(1, 1, 3, 1), 3, axis=-1)
    found = xai.explain(captum_layers(bias), image, 0, "occlusion", fill="black", **parameters)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


@pytest.mark.parametrize("fill", ["grey", "black", "white", "mean", "blur"])
@pytest.mark.parametrize(("rows", "columns", "stride"), [(9, 4, 3), (5, 0, 0), (3, 40, 1)])
def test_occlusion_naive(linear, images, fill, rows, columns, stride):
    """Of a linear model a window takes away the sum of its pixels' parts; rectangular windows, overlaps, edges."""
    model, w = linear
    part = ((images[:1] - fill_images(images[:1], fill)) * w[..., 1]).sum(-1)[0].astype(np.float64)
    total, covers = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    wide = min(columns or rows, SIZE)
    for y in window_starts(SIZE, rows, stride or rows):
        for x in window_starts(SIZE, wide, stride or wide):
            total[y : y + rows, x : x + wide] += part[y : y + rows, x : x + wide].sum()
            covers[y : y + rows, x : x + wide] += 1
    assert covers.min() > 0
    found = xai.explain(
        model, images[:1], 1, "occlusion", patch_size=rows, patch_width=columns, stride=stride, fill=fill
    )
    np.testing.assert_allclose(found[0], total / covers, atol=1e-4 * np.abs(total / covers).max())


def test_occlusion_of_probabilities(models, images):
    """One window over the image: p(x) - p(grey)."""
    model = models["flat softmax"]
    p = xai.predict(model, np.concatenate([images, np.full_like(images[:1], 127.5)]), probabilities=True)[:, 2]
    found = xai.explain(model, images, 2, "occlusion", patch_size=SIZE, score="probability")
    np.testing.assert_allclose(found, np.broadcast_to((p[:5] - p[5])[:, None, None], found.shape), atol=1e-6)


@pytest.mark.parametrize(("method", "parameters"), [("occlusion", {}), ("prediction_difference", {"n_samples": 1})])
def test_strides_that_leave_gaps_are_refused(linear, images, method, parameters):
    with pytest.raises(ValueError, match="stride=9 is larger than the window of 8"):
        xai.explain(linear[0], images, 0, method, patch_size=8, stride=9, **parameters)


# RISE -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "cells"), [(32, 32, 7), (33, 20, 4), (8, 8, 1)])
def test_rise_masks_are_enlarged_grids_at_random_shifts(height, width, cells):
    masks = RandomMasks(40, cells, 0.5, height, width, seed=0)
    found = masks(np.arange(40))
    assert found.shape == (40, height, width)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6
    steps = -(-height // cells), -(-width // cells)
    size = [(cells + 1) * step for step in steps]
    large = tf.image.resize(masks.grids[..., None], size)[..., 0].numpy()
    for mask, (dy, dx), grid in zip(found, masks.shifts, large, strict=True):
        np.testing.assert_allclose(mask, grid[dy : dy + height, dx : dx + width], atol=1e-5)
    assert masks.shifts.min() == 0
    assert (masks.shifts.max(axis=0) < steps).all()
    if cells > 1:
        assert len({tuple(s) for s in masks.shifts}) > 10  # each mask its own
    np.testing.assert_array_equal(masks(np.array([3, 3, 17])), found[[3, 3, 17]])
    more = RandomMasks(60, cells, 0.5, height, width, seed=0)
    np.testing.assert_array_equal(more(np.arange(40)), found)  # more masks add to the same ones


def test_rise_masks_show_a_pixel_with_probability_p1():
    for p1 in (0.1, 0.5):
        masks = RandomMasks(4000, 7, p1, 28, 28, seed=1)(np.arange(4000))
        np.testing.assert_allclose(masks.mean(axis=0), p1, atol=5 * np.sqrt(p1 * (1 - p1) / 4000))


@pytest.mark.parametrize(("fill", "score"), [("black", "probability"), ("grey", "logit")])
def test_rise_naive(models, images, fill, score):
    model, n, p1 = models["flat softmax"], 30, 0.3
    masks = RandomMasks(n, 4, p1, SIZE, SIZE, seed=2)(np.arange(n))
    expected = np.zeros((2, SIZE, SIZE))
    for i, hidden in enumerate(fill_images(images[:2], fill)):
        for mask in masks:
            seen = mask[..., None] * images[i] + (1 - mask[..., None]) * hidden
            s = xai.predict(model, np.clip(seen, 0, 255)[None], probabilities=score == "probability")[0, 1]
            expected[i] += s * mask / (n * p1)
    found = xai.explain(
        model, images[:2], 1, "rise", n_masks=n, cells=4, p1=p1, fill=fill, score=score, seed=2, batch_size=7
    )
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_rise_finds_the_half_that_is_read(left_half, images):
    maps = xai.explain(left_half, images, None, "rise", n_masks=600, cells=4, score="logit")
    spread = maps.std(axis=(1, 2))
    assert (np.ptp(maps[:, :, 24:].mean(axis=1), axis=1) < spread).all()  # flat where nothing is read


def blob_detector(gain: float) -> keras.Model:
    """Logits -gain and gain times the largest 5 x 5 mean of the image above mid-grey."""
    inputs = keras.Input((64, 64, 3))
    found = layers.Conv2D(1, 5, padding="same", kernel_initializer=keras.initializers.Constant(1 / 75), name="mean")
    x = layers.ReLU()(layers.Rescaling(1.0, -0.5)(found(layers.Rescaling(1 / 255)(inputs))))
    weights = keras.initializers.Constant([[-gain, gain]])
    return keras.Model(inputs, layers.Dense(2, "softmax", kernel_initializer=weights)(layers.GlobalMaxPooling2D()(x)))


@pytest.mark.parametrize(
    ("gain", "score", "found"), [(10, "probability", True), (1000, "logit", True), (1000, "probability", False)]
)
def test_rise_finds_a_blob_or_says_that_it_draws_chance(gain, score, found):
    """A saturated probability is 1 under almost every mask; its logit still tells how much of the blob is seen."""
    image = np.full((1, 64, 64, 3), 60, np.float32)
    image[:, 34:40, 20:26] = 250
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (rise_map,) = xai.explain(blob_detector(gain), image, 1, "rise", n_masks=2000, score=score, batch_size=200)
    warned = [w for w in caught if issubclass(w.category, MapWarning) and "n_masks" in str(w.message)]
    assert bool(warned) is not found
    if found:
        y, x = np.unravel_index(rise_map.argmax(), rise_map.shape)
        assert abs(y - 36.5) < 5
        assert abs(x - 22.5) < 5


# LIME -------------------------------------------------------------------------------------------------------------


def test_lime_recovers_a_linear_model(linear, images):
    """Hiding a superpixel of a linear model takes away its part: with little penalty the coefficient is that part."""
    model, w = linear
    segments = checkerboard(8)
    part = ((images - fill_images(images, "black")) * w[..., 0]).sum(-1)
    sums = np.stack([np.bincount(segments.ravel(), p.ravel())[segments] for p in part])
    found = xai.explain(
        model, images, 0, "lime", n_samples=100, segments=segments, fill="black", alpha=1e-6, score="logit"
    )
    np.testing.assert_allclose(found, sums, atol=1e-4 * np.abs(sums).max())


def test_lime_is_the_weighted_ridge_of_scikit_learn(models, images):
    from sklearn.linear_model import Ridge
    from sklearn.metrics import pairwise_distances

    model, segments = models["flat softmax"], np.stack([checkerboard(16), checkerboard(8)])
    found = xai.explain(model, images[:2], 1, "lime", n_samples=50, segments=segments, kernel_width=0.4, seed=3)
    for image, labels, lime_map in zip(images, segments, found, strict=False):
        shown = lime.shown_superpixels(50, labels.max() + 1, 3)
        assert shown[0].all()
        hidden = np.stack([image[labels == k].mean(axis=0) for k in range(labels.max() + 1)])[labels]
        seen = np.where(shown[:, labels, None], image, hidden)
        p = xai.predict(model, seen, probabilities=True)[:, 1]
        distance = pairwise_distances(shown.astype(float), np.ones((1, shown.shape[1])), metric="cosine").ravel()
        ridge = Ridge(alpha=1).fit(shown, p, sample_weight=np.sqrt(np.exp(-(distance**2) / 0.4**2)))
        np.testing.assert_allclose(lime_map, ridge.coef_[labels], atol=1e-4 * np.abs(ridge.coef_).max())


def test_lime_of_the_package_is_the_same(models, images, monkeypatch):
    """Given the package's own draws, to rounding."""
    pytest.importorskip("lime")
    model, segments, n = models["one-unit sigmoid"], checkerboard(8), 60
    network, two, targets = xai.attribution.prepare(model, images[:2], 1, 32)
    common = {"n_samples": n, "kernel_width": 0.25, "segments": segments.astype(np.float32), "seed": 4}
    theirs = lime_of_package(network, two, targets, segmentation="slic", n_segments=9, **common)

    def draws(n_samples, n_superpixels, seed):
        rng = np.random.RandomState(seed)
        rng.randint(0, 1000)  # the package's seed of a segmentation
        shown = rng.randint(0, 2, (n_samples, n_superpixels)).astype(bool)
        shown[0] = True
        return shown

    independent = xai.explain(model, two, 1, "lime", **{**common, "n_samples": 2000})
    assert spearmanr(independent.ravel(), theirs.ravel()).statistic > 0.6
    monkeypatch.setattr(lime, "shown_superpixels", draws)
    ours = xai.explain(model, two, 1, "lime", **common)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("segmentation", ["quickshift", "slic"])
def test_superpixels_are_numbered_without_gaps(kit, segmentation):
    photo = read_image(kit / "photos" / "chelsea.png", 64)
    found = lime.superpixels(photo, segmentation, 30, 0)
    assert found.shape == (64, 64)
    assert 3 <= found.max() < 200
    np.testing.assert_array_equal(np.unique(found), np.arange(found.max() + 1))
    np.testing.assert_array_equal(found, lime.superpixels(photo, segmentation, 30, 0))
    assert (lime.superpixels(np.zeros_like(photo), segmentation, 30, 0) >= 0).all()  # one colour


@pytest.mark.parametrize("wrong", [np.zeros((4, 4)), np.full((SIZE, SIZE), 0.5), 3])
def test_lime_refuses_other_superpixels(models, images, wrong):
    with pytest.raises(ValueError, match="segments has the shape"):
        xai.explain(models["flat softmax"], images, 0, "lime", segments=wrong)


def test_lime_gives_nothing_to_what_is_not_read(left_half, images):
    found = xai.explain(left_half, images, None, "lime", n_samples=400, segments=checkerboard(8), score="logit")
    right, left = np.abs(found[:, :, 16:]).max(), np.abs(found[:, :, :16]).max()
    assert right < 0.1 * left


# Prediction difference analysis -----------------------------------------------------------------------------------


def test_patch_gaussian_is_conditional():
    """White noise summed with that of the next row: the middle pixel given its neighbours is known in closed form."""
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=20, size=(6, 41, 40, 3))
    images = (128 + (noise[:, 1:] + noise[:, :-1]) / np.sqrt(2)).astype(np.float32)
    gaussian = PatchGaussian(images, 3, 1)
    # Rows have the variance 400 and the covariance 200 with the next: given both neighbours a and c, the middle has the
    # mean 128 + (a - 128 + c - 128) / 2 and the variance 400 - 200.
    patch = np.array([100, 0, 170], np.float32).reshape(3, 1, 1).repeat(3, axis=2)
    drawn = gaussian.draw(patch, 1, 0, 1, 1, np.random.default_rng(1).standard_normal((20_000, 3)))
    assert drawn.shape == (20_000, 1, 1, 3)
    np.testing.assert_allclose(drawn.mean(axis=0).ravel(), 128 + (100 - 128 + 170 - 128) / 2, atol=2)
    np.testing.assert_allclose(drawn.std(axis=0).ravel(), np.sqrt(200), rtol=0.05)
    alone = gaussian.draw(patch, 0, 0, 3, 1, np.random.default_rng(1).standard_normal((20_000, 9)))
    np.testing.assert_allclose(alone.mean(axis=(0, 3)).ravel(), 128, atol=2)  # nothing given: the distribution itself
    np.testing.assert_allclose(alone.std(axis=0), 20, rtol=0.06)


def test_patch_gaussian_keeps_grey_images_grey(images):
    grey = np.repeat(images[..., :1], 3, axis=-1)
    noise = np.random.default_rng(1).standard_normal((50, 48))
    drawn = PatchGaussian(grey, 8, 8).draw(grey[0, :8, :8], 2, 2, 4, 4, noise)
    assert drawn.std() > 5
    assert np.ptp(drawn, axis=-1).mean() < 0.1 * drawn.std()


@pytest.mark.parametrize("shape", ["flat softmax", "one-unit sigmoid"])
def test_prediction_difference_naive(models, images, shape):
    """Marginal sampling, with the paper's formulas; 32 is no multiple of 12, so the last window ends at the edge."""
    model, background = models[shape], images[2:]
    n_classes = 3 if shape == "flat softmax" else 2
    found = xai.explain(
        model,
        images[:2],
        1,
        "prediction_difference",
        patch_size=12,
        n_samples=4,
        sampling="marginal",
        background=background,
        n_training=500,
        seed=5,
        batch_size=7,
    )

    def evidence(p):
        p = (p * 500 + 1) / (500 + n_classes)
        return np.log2(p / (1 - p))

    total, covers = np.zeros((2, SIZE, SIZE)), np.zeros((SIZE, SIZE))
    corners = [(y, x) for y in (0, 12, 20) for x in (0, 12, 20)]
    for i, image in enumerate(images[:2]):
        whole = xai.predict(model, image[None], probabilities=True)[0, 1].astype(np.float64)
        for k, (y, x) in enumerate(corners):
            window = np.s_[y : y + 12, x : x + 12]
            p = []
            for other in np.random.default_rng([5, k]).integers(0, 3, 4):
                changed = image.copy()
                changed[window] = background[other][window]
                p.append(xai.predict(model, changed[None], probabilities=True)[0, 1].astype(np.float64))
            total[i][window] += evidence(whole) - evidence(np.mean(p))
            covers[window] += i == 0
    expected = total / covers
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_prediction_difference_of_pixels_that_are_not_read_is_nothing(left_half, images):
    found = xai.explain(
        left_half, images[:2], None, "prediction_difference", patch_size=8, n_samples=3, background=images
    )
    np.testing.assert_allclose(found[:, :, 16:], 0, atol=1e-4)
    assert np.abs(found[:, :, :16]).max() > 0.01


def test_prediction_difference_flips_with_the_class(models, images):
    """Of two classes, odds(c) = 1 / odds(1 - c), also after the correction."""
    zero, one = (
        xai.explain(models["one-unit sigmoid"], images[:2], c, "prediction_difference", patch_size=16, n_samples=2)
        for c in (0, 1)
    )
    np.testing.assert_allclose(zero, -one, atol=1e-3 * np.abs(one).max())


def test_prediction_difference_refuses_bad_backgrounds(models, images):
    def run(**parameters):
        xai.explain(models["flat softmax"], images[:1], 0, "prediction_difference", n_samples=1, **parameters)

    with pytest.raises(ValueError, match="give background="):
        run(sampling="marginal")
    with pytest.raises(ValueError, match=r"background has the shape \(32, 32, 3\)"):
        run(background=images[0])
    with pytest.raises(ValueError, match="the size of the explained ones"):
        run(sampling="marginal", background=images[:, :20])
    with pytest.raises(ValueError, match="smaller than a window with its padding, 14 x 14"):
        run(background=images[:, :12])


# All --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("occlusion", {"patch_size": 16, "stride": 8}),
        ("rise", {"n_masks": 20}),
        ("lime", {"n_samples": 20, "segmentation": "slic"}),
        ("prediction_difference", {"patch_size": 16, "n_samples": 2}),
    ],
)
def test_memory_is_bounded_by_the_batch(models, images, monkeypatch, method, parameters):
    """No pass is given more than ``batch_size`` images or masks, and none is wasted on one image's remainder."""
    sizes = []
    original = passes.batches

    def watched(n, batch_size, title):
        for part in original(n, batch_size, title):
            sizes.append((part.stop - part.start, n))
            yield part

    monkeypatch.setattr(passes, "batches", watched)
    xai.explain(models["flat softmax"], images, 0, method, batch_size=4, **parameters)
    assert max(size for size, _ in sizes) == 4
    assert sum(size < 4 for size, _ in sizes) <= 2  # one remainder of the stream, one of the plain images
