"""Metrics, similarities and controls whose value follows by hand or from a naive form: each constant counts."""

import numpy as np
import pandas as pd
import pytest
from skimage.feature import hog

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation import chance, control_maps, summarise
from xaiutils.evaluation.map_similarity import SIMILARITIES, hog_correlation, spearman, ssim, top_intersection
from xaiutils.evaluation.metrics.confidence import soft_masks
from xaiutils.evaluation.metrics.insertion_deletion import perturbation_curve
from xaiutils.evaluation.metrics.localisation import area_chance
from xaiutils.evaluation.metrics.metric import Case
from xaiutils.evaluation.metrics.robustness import max_sensitivity
from xaiutils.evaluation.ranking import against_chance, compare
from xaiutils.evaluation.studies.planted_mark import Mark, plant
from xaiutils.evaluation.thresholds import binary_map, pixel_ranks, top_pixels, tune_level

# The largest value is outside the mask; the mask's two values are equal.
MAP = np.array([[[3, 1, 2], [0, -1, 2]]], np.float32)
MASK = np.array([[[0, 0, 1], [0, 0, 1]]], bool)


def data(masks, pixels=None):
    masks = np.asarray(masks, bool)
    n, height, width = masks.shape
    pixels = np.full((n, height, width, 3), 100, np.uint8) if pixels is None else pixels
    return ImageDataset(pixels, [0] * n, ("a", "b"), [f"i{k}" for k in range(n)], masks)


def score(metric, maps=MAP, masks=MASK, **parameters):
    how = {"parameters": {metric: parameters}, "reading": "signed"}
    return xai.evaluate(None, data(masks), maps, [metric], **how)["value"].to_numpy()[0]


def table(**columns):
    """A long table with a column of values for each method."""
    rows = [
        {"method": m, "image_id": f"i{i}", "metric": "roc_auc", "value": v}
        for m, values in columns.items()
        for i, v in enumerate(values)
    ]
    return pd.DataFrame(rows)


# Localisation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "parameters", "value"),
    [
        ("relevance_rank", {}, 1 / 2),  # of the tied pixels the upper one is among the two largest
        ("relevance_mass", {}, 4 / 8),
        ("energy_pointing_game", {}, 6 / 13),  # from the smallest value, -1
        ("roc_auc", {}, 3 / 4),
        ("average_precision", {}, 2 / 3),
        ("hit_rate", {}, 0),
        ("pointing_game", {}, 0),
        ("pointing_game", {"tolerance": 1}, 0),
        ("pointing_game", {"tolerance": 2}, 1),
        ("best_dice", {}, 4 / 5),  # of the three largest
        ("iou", {"threshold": "top_area", "area": 0.5}, 2 / 3),
        ("iou", {"threshold": "top_area", "area": 0.4}, 1 / 3),  # 2.4 pixels are 2
        ("iou", {"threshold": "top_area", "area": 0.45}, 2 / 3),  # 2.7 are 3
        ("dice", {"threshold": "top_area", "area": 0.5}, 4 / 5),
        ("intersection_over_sum", {"threshold": "top_area", "area": 0.5}, 2 / 5),
        ("pixel_accuracy", {"threshold": "top_area", "area": 0.5}, 5 / 6),
        ("iou", {"threshold": "fixed", "level": 0.7}, 2 / 3),  # over -1 + 0.7 * 4 = 1.8
        ("iou", {"threshold": "fixed", "level": 0.75}, 0),  # 2 is not over 2
        ("pixel_accuracy", {}, 3 / 6),  # over 7 / 6 + sqrt(65) / 6 = 2.51
        ("pixel_accuracy", {"threshold": "fixed"}, 5 / 6),  # level 0.5: over 1
    ],
)
def test_localisation_by_hand(metric, parameters, value):
    assert score(metric, **parameters) == pytest.approx(value, abs=1e-7)


def test_hits_of_tied_maxima():
    """The hit rate takes the first maximum in reading order, the pointing game the part of them that hits."""
    tied = np.array([[[0, 2, 1], [2, 0, 2]]], np.float32)
    assert score("hit_rate", tied) == 0
    assert score("hit_rate", tied[:, :, ::-1], MASK[:, :, ::-1]) == 0
    assert score("hit_rate", tied, ~MASK) == 1
    assert score("pointing_game", tied) == pytest.approx(1 / 3)


def test_chance_by_hand():
    """Two of six pixels; within a pixel of them, four, for the distance to a diagonal neighbour is over 1."""
    found = chance(data(MASK), ["hit_rate", "roc_auc"]).set_index("metric")["value"]
    assert found.to_dict() == pytest.approx({"hit_rate": 1 / 3, "roc_auc": 0.5})
    one = np.zeros((1, 5, 5), bool)
    one[0, 2, 2] = True
    for tolerance, pixels in ((0, 1), (1, 5), (2, 13)):
        how = {"pointing_game": {"tolerance": tolerance}}
        assert chance(data(one), ["pointing_game"], how)["value"].tolist() == [pytest.approx(pixels / 25)]


def test_counts_are_rounded_and_ties_go_by_position():
    flat = np.zeros((3, 5))
    assert binary_map(flat, "top_area", area=0.1).ravel().tolist() == [True, True] + [False] * 13  # 1.5 is 2
    assert top_pixels(np.array([[1.0, 2, 2], [2, 0, 1]]), 3).tolist() == [[False, True, True], [True, False, False]]
    assert pixel_ranks(np.array([[[1.0, 2, 2], [2, 0, 1]]])).tolist() == [[[3, 0, 1], [2, 5, 4]]]
    mask = flat == 1
    mask[0, :2] = True
    assert score("best_dice", flat[None].astype(np.float32), mask[None]) == 1  # the first two, 10 to 16 % of 15


def test_the_lowest_of_equal_levels_is_tuned():
    """Levels from 0.2 to 0.8 in steps of 0.05; over 0.4 only the mask is found."""
    graded = np.array([[[1, 0.9, 0.4], [0.4, 0.3, 0]]], np.float32)
    mask = graded > 0.8
    assert tune_level(graded, mask) == pytest.approx(0.4)
    assert tune_level(graded, graded > 0.25) == pytest.approx(0.2)


# Faithfulness, robustness, complexity -----------------------------------------------------------------------------


def tiny() -> tuple[keras.Model, np.ndarray]:
    """3 x 3 pixels; two logits, 0 and the weighted sum of the pixels."""
    inputs = keras.Input((3, 3, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    weights = np.linspace(-0.002, 0.003, 27).astype(np.float32)
    model.layers[-1].set_weights([np.stack([0 * weights, weights], axis=1), np.zeros(2)])
    return model, weights.reshape(3, 3, 3)


@pytest.mark.parametrize("insert", [True, False])
def test_perturbation_curve_naive(insert):
    """9 pixels in 4 steps: 0, 2.25, 4.5, 6.75 and 9 are rounded; the tied pixels go in reading order."""
    model, weights = tiny()
    images = np.random.default_rng(0).uniform(0, 255, (1, 3, 3, 3)).astype(np.float32)
    maps = np.array([[[1, 5, 5], [2, 5, 0], [0, 3, 1]]], np.float32)
    order = [(0, 1), (0, 2), (1, 1), (2, 1), (1, 0), (0, 0), (2, 2), (1, 2), (2, 0)]
    expected = []
    for count in (0, 2, 4, 7, 9):
        changed = np.zeros((3, 3), bool)
        for place in order[:count]:
            changed[place] = True
        shown = changed if insert else ~changed
        expected.append(1 / (1 + np.exp(-(images[0] * shown[..., None] * weights).sum())))
    case = Case(maps, model=model, images=images, targets=np.array([1], np.int32), batch_size=4)
    x, curve = perturbation_curve(case, n_steps=4, fill="black", insert=insert)
    np.testing.assert_allclose(x, np.array([0, 2, 4, 7, 9]) / 9)
    np.testing.assert_allclose(curve[0], expected, atol=1e-6)
    name = "insertion_auc" if insert else "deletion_auc"
    ds = data(np.ones((1, 3, 3)), np.rint(images).astype(np.uint8))
    found = xai.evaluate(model, ds, maps, [name], 1, parameters={name: {"n_steps": 4, "fill": "black"}})["value"]
    by_steps = sum((b + a) / 2 * (q - p) for a, b, p, q in zip(expected, expected[1:], x, x[1:], strict=False))
    assert found.tolist() == [pytest.approx(by_steps, abs=2e-3)]  # the data set's pixels are whole numbers


def test_max_sensitivity_of_a_map_that_is_the_image():
    """The map moves as the image does: uniform noise of 0.05 times the range of 100, of which no copy is clipped."""
    images = np.full((2, 30, 40, 3), 100, np.float32)
    images[:, 0] = 200
    maps = images[..., 0]
    found = max_sensitivity(Case(maps, images=images, explain=lambda x: x[..., 0]), n_samples=5, noise=0.05, seed=0)
    one = (
        5 * np.sqrt(30 * 40 / 3) / np.linalg.norm(maps[0])
    )  # the root of the mean square of uniform noise is 1 / sqrt(3)
    np.testing.assert_allclose(found, one, rtol=0.04)
    assert (found > one).all()  # the largest of five
    zeros = Case(0 * maps, images=images, explain=lambda x: 0 * x[..., 0])
    still = max_sensitivity(zeros, n_samples=1, noise=1, seed=0)
    assert np.isnan(still).all()


def test_complexity_by_hand():
    maps = np.array([[[1, -2], [3, -4]]], np.float32)
    assert score("sparseness", maps, maps > 0) == pytest.approx((-3 * 1 - 1 * 2 + 1 * 3 + 3 * 4) / (4 * 10))
    parts = np.array([0.1, 0.2, 0.3, 0.4])
    assert score("entropy", maps, maps > 0) == pytest.approx(-(parts * np.log(parts)).sum())
    for level, part in ((0.25, 3 / 4), (0.5, 2 / 4), (0.1, 1)):  # over, not at
        assert score("effective_complexity", maps, maps > 0, level=level) == part


# Similarities -----------------------------------------------------------------------------------------------------


def naive_ssim(a, b, seen, sigma=1.5):
    """Wang et al. 2004 with their window of 11 x 11 pixels, mirrored at the edges; population moments."""
    scaled = [np.pad((m - m[seen].min()) / (m[seen].max() - m[seen].min()) * seen, 5, mode="symmetric") for m in (a, b)]
    x, y = (np.lib.stride_tricks.sliding_window_view(m, (11, 11)) for m in scaled)
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * sigma**2))
    window = np.outer(line, line) / line.sum() ** 2

    def mean(values):
        return (values * window).sum(axis=(-2, -1))

    ux, uy = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - ux**2, mean(y * y) - uy**2, mean(x * y) - ux * uy
    c1, c2 = 0.01**2, 0.03**2
    field = (2 * ux * uy + c1) * (2 * vxy + c2) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))
    return field[seen].mean()


def test_ssim_naive():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2, 16, 20))
    b = a + rng.normal(size=a.shape)
    seen = np.ones(a.shape, bool)
    seen[:, :4] = False
    for valid in (None, seen):
        expected = [
            naive_ssim(x, y, s) for x, y, s in zip(a, b, seen if valid is not None else seen | True, strict=True)
        ]
        np.testing.assert_allclose(ssim(a, b, valid), expected, atol=1e-9)


def test_similarities_by_hand():
    a = np.arange(15.0).reshape(1, 3, 5)
    b = a.copy()
    b[0, 2, 3], b[0, 0, 0] = 0, 13  # the second largest and the smallest change places
    assert spearman(a, b)[0] == pytest.approx(1 - 6 * 2 * 13**2 / (15 * (15**2 - 1)))
    assert top_intersection(a, b)[0] == 1 / 2  # a tenth of 15 pixels, 1.5, is 2
    tied = np.array([[[2.0, 2, 2], [1, 2, 0]]])
    other = np.array([[[3.0, 1, 0], [1, 2, 0]]])
    assert top_intersection(tied, other, area=2 / 6)[0] == 1 / 2  # the first two of the tied pixels
    assert top_intersection(a, b, area=0.01)[0] == 1  # at least one pixel
    assert np.isnan(spearman(a, np.ones_like(a))).all()
    two = np.zeros(a.shape, bool)
    two[0, 0, :2] = True
    assert np.isnan(spearman(a, b, two)).all()
    two[0, 0, 2] = True
    assert np.isfinite(spearman(a, b, two)).all()
    for similarity in SIMILARITIES.values():
        with pytest.raises(ValueError, match="one shape"):
            similarity(a, a[:, :2])


def test_hog_correlation_takes_cells_of_a_sixth():
    a, b = np.random.default_rng(0).random((2, 1, 36, 48))
    features = [hog((m - m.min()) / np.ptp(m), pixels_per_cell=(6, 6), cells_per_block=(3, 3)) for m in (a[0], b[0])]
    assert hog_correlation(a, b)[0] == pytest.approx(np.corrcoef(*features)[0, 1])


# Controls, fills, masks -------------------------------------------------------------------------------------------


def test_controls_by_hand():
    pixels = np.zeros((2, 4, 6, 3), np.uint8)
    pixels[:, 1, 2] = [30, 60, 90]
    masks = np.zeros((2, 4, 6), bool)
    masks[:, 1, 2] = True
    found = control_maps(data(masks, pixels), seed=3, grid=(2, 2))
    rows, columns = np.mgrid[0:4, 0:6]
    distance = (rows - 1.5) ** 2 + (columns - 2.5) ** 2  # sigma: a quarter of the height, 1 pixel
    np.testing.assert_allclose(found["centre"], np.broadcast_to(np.exp(-distance / 2), (2, 4, 6)), rtol=1e-6)
    np.testing.assert_allclose(found["intensity"][0, 1, 2], 60)
    cross = np.zeros((4, 6))
    cross[1, 2], cross[[0, 2, 1, 1], [2, 2, 1, 3]] = 4 * 60, 60
    np.testing.assert_allclose(found["laplace"][0], cross)
    # Below and beside the point: (1 2 1) / 4 across (1 0 -1), the two directions' root mean square.
    np.testing.assert_allclose(found["edges"][0, 2, 1:4], [15, 30 / np.sqrt(2), 15], atol=1e-4)
    assert (found["oracle_full"] == masks).all()
    assert found["random"].min() >= 0
    assert found["random"].max() < 1
    assert (found["random"][0] != found["random"][1]).all()
    assert found["oracle"].max() <= 1 / 6 + 1e-6  # one of the six pixels of its field
    assert found["oracle"][0, 0, 0] == pytest.approx(1 / 6)


# Means, intervals, tests ------------------------------------------------------------------------------------------


def test_default_intervals_hold_95_percent():
    rare = [2.0] * 2 + [0] * 8  # of 10 draws at 0.2 the 95 % quantile is 4, the 97.5 % quantile 5
    found = summarise(pd.DataFrame({"m": "a", "value": rare}), "m", 20_000).iloc[0]
    assert found["high"] == pytest.approx(1.0)
    common = [2.0] * 4 + [0] * 6  # at 0.4 the 5 % quantile is 2, the 2.5 % quantile 1
    for values, low, high in ((rare, 0, 1.0), (common, 0.2, 1.4)):
        row = compare(table(a=values, b=[0.0] * 10), "roc_auc", n_resamples=20_000).iloc[0]
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        known = pd.DataFrame({"m": "a", "value": values, "patient_id": list("abcdefghij")})
        found = summarise(known, "m", 20_000).iloc[0]
        assert (found["low"], found["high"]) == pytest.approx((low, high))
    few = summarise(pd.DataFrame({"m": "a", "value": [1.0] * 3 + [0] * 7}), "m").iloc[0]
    assert (few["low"], few["high"]) == pytest.approx((0.1078, 0.6032), abs=1e-4)  # Wilson's of 3 in 10


def test_a_small_p_needs_an_interval_on_that_side_too():
    """34 of 40 images are a little better than chance and 6 much worse: most are better, the mean is not."""
    values = np.concatenate([0.6 + np.arange(34) / 1000, 0.05 - np.arange(6) / 1000])
    row = against_chance(table(m=values, chance=np.full(40, 0.5)), "roc_auc").iloc[0]
    assert row["p"] < 0.05
    assert row["low"] < 0.5 < row["high"]
    assert row["verdict"] == "undecided"
    better = against_chance(table(m=values[:34], chance=np.full(34, 0.5)), "roc_auc").iloc[0]
    assert better["verdict"] == "better"
    worse = against_chance(table(m=1 - values[:34], chance=np.full(34, 0.5)), "roc_auc").iloc[0]
    assert worse["verdict"] == "worse"


def test_rank_biserial_effect_by_hand():
    row = compare(table(a=[0.1, 0.2, 0.9, 0.5], b=[0.0, 0.4, 0.6, 0.5]), "roc_auc").iloc[0]
    assert row["effect"] == pytest.approx((1 - 2 + 3) / 6)  # the image without a difference has no rank
    assert row["p"] == pytest.approx(0.75)  # 6 of the 8 signs of three ranks are as far from the middle
    assert (row["n"], row["verdict"]) == (4, "undecided")
    assert row["difference"] == pytest.approx(0.05)


# Regression, marks ------------------------------------------------------------------------------------------------


def test_a_planted_mark_by_hand():
    """A square of a tenth of the height, half of white and half of the image, a twentieth from the edges."""
    pixels = np.full((1, 40, 60, 3), 101, np.uint8)
    ds = ImageDataset(pixels, [0], ("a", "b"), ["i"])
    for place, rows, columns in (("top_left", (2, 6), (2, 6)), ("bottom_right", (34, 38), (54, 58))):
        mark = Mark(text="", place=place, height=0.1, margin=0.05, brightness=1.0, opacity=0.5)
        found = plant(ds, mark)
        box = np.zeros((40, 60), bool)
        box[slice(*rows), slice(*columns)] = True
        np.testing.assert_array_equal(found.masks[0], box)
        assert (found.pixels[0][box] == 178).all()  # 101 + (255 - 101) / 2
        assert (found.pixels[0][~box] == 101).all()


def test_a_soft_mask_is_the_positive_part_over_its_maximum():
    maps = np.array([[[0.1, -3.0], [0.25, 0.5]], [[8.0, 0.0], [-1.0, 2.0]], [[0.0, -1.0], [-2.0, 0.0]]], np.float32)
    expected = [[[0.2, 0.0], [0.5, 1.0]], [[1.0, 0.0], [0.0, 0.25]], [[0.0, 0.0], [0.0, 0.0]]]
    np.testing.assert_allclose(soft_masks(maps), expected, rtol=1e-6)


def test_random_evidence_is_the_mean_of_the_masks():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :2] = masks[1, 0] = True
    assert area_chance(masks).tolist() == [0.5, 0.25]
    assert np.isnan(area_chance(np.zeros((1, 4, 4), bool))).all()


def test_sensitivity_n_naive():
    """Three of nine pixels at a time go black; the drop of the probability against the map's sum in the set."""
    model, weights = tiny()
    pixels = np.random.default_rng(1).integers(0, 256, (1, 3, 3, 3)).astype(np.uint8)
    maps = np.random.default_rng(2).normal(size=(1, 3, 3)).astype(np.float32)

    def p(image):
        return 1 / (1 + np.exp(-(image * weights).sum()))

    sums, drops = [], []
    for sample in range(40):
        chosen = np.random.default_rng([5, sample]).permutation(9)[:3]  # 0.3 of 9 is 2.7
        kept = np.ones(9)
        kept[chosen] = 0
        sums.append(maps[0].ravel()[chosen].sum())
        drops.append(p(pixels[0]) - p(pixels[0] * kept.reshape(3, 3, 1)))
    how = {"area": 0.3, "n_samples": 40, "fill": "black", "score": "probability", "seed": 5}
    ds = data(np.ones((1, 3, 3)), pixels)
    found = xai.evaluate(model, ds, maps, ["sensitivity_n"], 1, parameters={"sensitivity_n": how}, reading="signed")
    assert found["value"].tolist() == [pytest.approx(np.corrcoef(sums, drops)[0, 1], abs=1e-4)]
