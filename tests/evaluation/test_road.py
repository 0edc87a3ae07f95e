"""ROAD: the imputation against dense and sparse solutions of the same system, the curves against known answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage, sparse

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.metrics import imputation
from xaiutils.evaluation.metrics.imputation import impute
from xaiutils.evaluation.metrics.metric import Case
from xaiutils.evaluation.metrics.road import road_curve
from xaiutils.evaluation.thresholds import pixel_ranks

SIZE = 32
ROAD = ["road_morf", "road_lerf", "road"]


def exact(image, removed):
    """The paper's equations, one row a removed pixel, straight from their definition, solved by SciPy's sparse LU."""
    height, width = removed.shape
    places = [tuple(p) for p in np.argwhere(removed)]
    number = {place: k for k, place in enumerate(places)}
    entries, known = [], np.zeros((len(places), 3))
    for k, (y, x) in enumerate(places):
        total = 0.0
        for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                weight = 1 / 6 if 0 in (dy, dx) else 1 / 12
                total += weight
                if removed[y + dy, x + dx]:
                    entries.append((k, number[y + dy, x + dx], -weight))
                else:
                    known[k] += weight * image[y + dy, x + dx]
        entries.append((k, k, total))
    rows, columns, values = zip(*entries, strict=True)
    matrix = sparse.csc_matrix((values, (rows, columns)))
    result = image.astype(float)
    result[removed] = sparse.linalg.spsolve(matrix, known).reshape(-1, 3)
    return result


def photograph(seed, height, width):
    """Rough and smooth at once, each channel its own."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    layers = [ndimage.gaussian_filter(noise, (s, s, 0)) * s for s in (0.3, 2, 8)]
    return np.clip(128 + 80 * sum(layers), 0, 255).astype(np.float32)


def spiral(size):
    """Kept pixels in a thin spiral: the removed ones are one long corridor."""
    removed = np.ones((size, size), bool)
    angle = np.linspace(0, 8 * np.pi, 20 * size)
    y, x = (size / 2 + f(angle) * angle / (8 * np.pi) * size * 0.49 for f in (np.sin, np.cos))
    removed[y.astype(int), x.astype(int)] = False
    return removed


def checkerboard(size):
    return np.indices((size, size)).sum(axis=0) % 2 == 0


def one_kept(size):
    removed = np.ones((size, size), bool)
    removed[3, size - 2] = False
    return removed


def two_kept(size):
    removed = one_kept(size)
    removed[size - 1, 0] = False
    return removed


def scattered(size):
    return np.random.default_rng(5).random((size, size)) > 0.01


def blob(size):
    field = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(size, size)), size / 12)
    return field > np.quantile(field, 0.1)


# Imputation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [spiral, checkerboard, one_kept, two_kept, scattered, blob])
def test_imputation_is_the_solution_of_the_papers_equations(make):
    image, removed = photograph(0, 67, 67), make(67)
    found = impute(image[None], removed[None])[0]
    assert found.dtype == np.float32
    assert np.abs(found - exact(image, removed)).max() < 3 * imputation.TOLERANCE
    np.testing.assert_array_equal(found[~removed], image[~removed])


@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(2, 12), st.floats(0, 0.99))
def test_imputation_of_small_images_of_any_shape(seed, height, width, part):
    removed = np.random.default_rng(seed).random((height, width)) < part
    removed[height // 2, width // 2] = False
    image = photograph(seed, height, width)
    found = impute(image[None], removed[None])[0]
    assert np.abs(found - (exact(image, removed) if removed.any() else image)).max() < 0.5


def test_constants_stay_and_ramps_are_reproduced():
    removed = blob(64)
    flat = np.full((1, 64, 64, 3), 77, np.float32)
    np.testing.assert_allclose(impute(flat, removed[None]), 77, atol=1e-4)
    # The weights are those of a mean: a plane is its own imputation where no border cuts them.
    removed[:2], removed[-2:], removed[:, :2], removed[:, -2:] = False, False, False, False
    y, x = np.mgrid[0:64, 0:64]
    ramp = np.stack([2 * x + y, 190 - x - 2 * y, 3 * y], axis=-1).astype(np.float32)
    np.testing.assert_allclose(impute(ramp[None], removed[None])[0], ramp, atol=0.3)


def test_images_are_imputed_each_by_itself_and_without_what_was_removed():
    images = np.stack([photograph(k, 40, 48) for k in range(4)])
    images[3] = images[3, ..., :1]  # grey, which takes one channel for three
    removed = np.random.default_rng(3).random((4, 40, 48)) < 0.7
    together = impute(images, removed)
    for k in range(4):
        np.testing.assert_array_equal(impute(images[k : k + 1], removed[k : k + 1])[0], together[k])
    others = np.where(removed[..., None], 255 - images, images)
    others[3] = np.where(removed[3][..., None], 255 - images[3], images[3])
    np.testing.assert_array_equal(impute(others, removed), together)
    np.testing.assert_array_equal(impute(images, np.zeros_like(removed)), images)
    with pytest.raises(ValueError, match="a pixel that is kept"):
        impute(images, np.ones_like(removed))


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 2), (2, 1), (3, 3)])
def test_windows_and_grids_to_their_edges(size):
    """By SciPy; coarse to fine and fine to coarse are each other's transpose, without which the search goes astray."""
    rng = np.random.default_rng(2)
    fine, coarse = (
        rng.normal(size=(3, *shape)).astype(np.float32) for shape in (size, [-(-side // 2) for side in size])
    )
    window = np.outer([1, 2, 1], [1, 2, 1])
    expected = [ndimage.convolve(channel, window, mode="constant") for channel in fine]
    np.testing.assert_allclose(imputation._window(fine, np.empty_like(fine)), expected, atol=1e-5)
    room = np.empty((3, *(side + side % 2 for side in size)), np.float32)
    larger = imputation._double(coarse, room.copy())[:, : size[0], : size[1]]
    smaller = imputation._halve(fine, room.copy())
    assert smaller.shape == coarse.shape
    np.testing.assert_allclose((larger * fine).sum(), (coarse * smaller).sum(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(imputation._double(np.ones_like(coarse), room), 1)


def test_the_search_begins_at_means_of_what_is_kept_nearby():
    image = np.array([[[8, 4, 0], [2, 0, 0], [0, 0, 6]]], np.float32)
    kept = image[0] > 0
    # Grids of 2 x 2 cells and of one: the means are 14/3, -, -, 6 and 16/3.
    grid = np.array([[14 / 3, 16 / 3], [16 / 3, 6]])
    larger = imputation._double(grid[None].astype(np.float32), np.empty((1, 4, 4), np.float32))[:, :3, :3]
    np.testing.assert_allclose(imputation._filled(image, kept), np.where(kept, image, larger), rtol=1e-6)


# Curves -----------------------------------------------------------------------------------------------------------


def test_ranks_go_by_value_then_position():
    maps = np.array([[[3, 1], [3, 2]], [[0, 0], [0, 0]]], np.float32)
    np.testing.assert_array_equal(pixel_ranks(maps), [[[0, 3], [1, 2]], [[0, 1], [2, 3]]])


@pytest.fixture(scope="module")
def square_model():
    """The logit of class 1 is the mean brightness of a square in the middle, less the mean around it: imputed from
    what lies around, the square goes without a trace."""
    weights = np.full((SIZE, SIZE), -1.0)
    weights[12:20, 12:20] = 0
    weights[weights < 0] /= (weights < 0).sum()
    weights[12:20, 12:20] = 1 / 64
    inputs = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    kernel = np.repeat(weights[..., None], 3, axis=-1).reshape(-1, 1) / 3 / 10
    model.layers[-1].set_weights([np.concatenate([-kernel, kernel], axis=1), np.zeros(2)])
    return model


@pytest.fixture(scope="module")
def square_data():
    pixels = np.full((3, SIZE, SIZE, 3), 100, np.uint8)
    pixels[:, 12:20, 12:20] = np.array([140, 180, 255])[:, None, None, None]
    return ImageDataset(pixels, [1, 1, 1], ("a", "b"), list("pqr"))


def evidence(ds):
    maps = np.zeros(ds.pixels.shape[:3], np.float32)
    maps[:, 12:20, 12:20] = 1
    return maps


def case_of(model, images, maps, targets, batch_size):
    return Case(maps, model=model, images=images, targets=targets, batch_size=batch_size)


def scores(model, ds, maps, **parameters):
    table = xai.evaluate(model, ds, maps, ROAD, 1, parameters=dict.fromkeys(ROAD, parameters), reading="signed")
    return table.pivot(index="image_id", columns="metric", values="value")


def test_perfect_and_reversed_rankings(square_model, square_data):
    """The square is a sixteenth of the pixels: once it is gone, so is the evidence, and class 1 has p = 1/2. As many
    pixels at the top of the image are all alike, and leave no trace."""
    how = {"percentages": [0, 6.25], "noise": 0.0}
    found = scores(square_model, square_data, evidence(square_data), **how)
    p = xai.predict(square_model, square_data.images, probabilities=True)[:, 1]
    np.testing.assert_allclose(found["road_morf"], (p + 0.5) / 2, atol=1e-3)
    np.testing.assert_allclose(found["road_lerf"], p, atol=1e-3)
    np.testing.assert_allclose(found["road"], (found["road_lerf"] - found["road_morf"]) / 2, atol=1e-6)
    turned = scores(square_model, square_data, -evidence(square_data), **how)
    np.testing.assert_allclose(turned[["road_morf", "road_lerf"]], found[["road_lerf", "road_morf"]], atol=1e-3)
    np.testing.assert_allclose(turned["road"], -found["road"], atol=1e-3)
    assert (scores(square_model, square_data, evidence(square_data))["road"] > 0.05).all()


def test_the_mean_of_correct_is_the_papers_accuracy(square_model, square_data):
    """One white pixel more decides for class 1, and noise of one seed is the same in every call."""
    ds = square_data
    how = {"percentages": [0, 20], "noise": 0.0, "seed": 0, "most_relevant_first": True}
    around = ImageDataset(255 - ds.pixels, [0, 0, 0], ds.class_names, ds.ids)  # the square is darker: class 0
    for data, target in ((ds, 1), (around, 0)):
        case = case_of(square_model, data.images, evidence(ds), np.full(3, target, np.int32), 2)
        fractions, values = road_curve(case, score="correct", **how)
        assert values[:, 0].tolist() == [1, 1, 1]
        assert set(np.unique(values)) <= {0, 1}
        logit = road_curve(case, score="logit", **how)[1]
        np.testing.assert_allclose(logit[:, 0], xai.predict(square_model, data.images)[:, target], rtol=1e-4)
        np.testing.assert_allclose(logit[:, 1], 0, atol=0.05)
    np.testing.assert_allclose(fractions, [0, round(0.2 * SIZE**2) / SIZE**2])


def test_a_constant_map_has_no_order(models, images):
    """MoRF and LeRF take its pixels by position alike, so that the difference says nothing either way."""
    ds = ImageDataset(images.astype(np.uint8), [0] * 5, ("a", "b", "c"), list("vwxyz"))
    found = scores(models["nested"], ds, np.full((5, SIZE, SIZE), 2.5, np.float32))
    np.testing.assert_array_equal(found["road_morf"], found["road_lerf"])
    assert (found["road"] == 0).all()
    with pytest.raises(ValueError, match=r"maps \[0, 1, 2, 3, 4\] hold NaN"):
        scores(models["nested"], ds, np.full((5, SIZE, SIZE), np.nan, np.float32))


def test_values_do_not_depend_on_batches_nor_on_other_images(models, images):
    maps = np.random.default_rng(0).normal(size=(5, SIZE, SIZE)).astype(np.float32)
    targets = np.arange(5, dtype=np.int32) % 3
    how = {"percentages": range(10, 100, 20), "noise": 0.02, "seed": 3, "score": "logit"}
    for order in (True, False):
        cases = [case_of(models["nested"], images[[k]], maps[[k]], targets[[k]], 4) for k in range(5)]
        alone = [road_curve(case, most_relevant_first=order, **how)[1][0] for case in cases]
        for batch_size in (1, 3, 32):
            case = case_of(models["nested"], images, maps, targets, batch_size)
            found = road_curve(case, most_relevant_first=order, **how)[1]
            np.testing.assert_allclose(found, alone, atol=1e-5)
    other = road_curve(case, most_relevant_first=order, **how | {"seed": 4})[1]
    assert np.abs(other - found).min(axis=1).max() > 0


def test_noise_is_a_part_of_the_range_on_imputed_pixels_alone():
    """A model whose logit is the mean square of the image less 100, of a constant image: the noise alone is left."""
    inputs = keras.Input((64, 64, 3))
    square = keras.ops.mean((inputs - 100.0) ** 2, axis=(1, 2, 3))[:, None]
    model = keras.Model(inputs, keras.layers.Dense(2)(square))
    model.layers[-1].set_weights([np.array([[0.0, 1.0]]), np.zeros(2)])
    flat = np.full((1, 64, 64, 3), 100, np.float32)
    maps = np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.float32)
    for percentage, noise in ((50, 0.01), (25, 0.1)):
        how = {"percentages": [percentage], "noise": noise, "seed": 0, "score": "logit", "most_relevant_first": True}
        found = road_curve(case_of(model, flat, maps, np.array([1], np.int32), 8), **how)[1]
        assert found == pytest.approx(percentage / 100 * (255 * noise) ** 2, rel=0.1)


@pytest.mark.parametrize(
    ("percentages", "error", "words"),
    [
        ([10, 100], ValueError, "percentages has 100; expected numbers from 0 to less than 100"),
        ([-1], ValueError, "percentages has -1"),
        ([np.nan], ValueError, "percentages has nan"),
        ([True], TypeError, "percentages has True, a bool"),
        (["10"], TypeError, "percentages has '10', a str"),
        ([], ValueError, "percentages is empty"),
    ],
)
def test_percentages_are_refused_in_words(models, images, percentages, error, words):
    ds = ImageDataset(images.astype(np.uint8), [0] * 5, ("a", "b", "c"), list("vwxyz"))
    with pytest.raises(error, match=words):
        xai.evaluate(
            models["nested"], ds, images[..., 0], ["road"], 1, parameters={"road": {"percentages": percentages}}
        )
