"""Maps of classes: means by hand, a test that finds what is planted and little else, reliability that is known."""

import numpy as np
import pandas as pd
import pytest

from xaiutils.evaluation.studies import class_maps as study


def test_patients_weigh_alike_and_maps_are_normalised():
    maps = np.array([[[2.0, -4.0]], [[6.0, 2.0]], [[1.0, np.nan]]])
    found = study.patient_maps(maps, [1, 1, 0], ["a", "a", "b"], "max_abs")
    assert found.of(1).tolist() == [[[0.75, (-1 + 1 / 3) / 2]]]
    assert (found.patients, found.counts.tolist(), found.labels.tolist()) == (["a", "b"], [2, 1], [1, 0])
    assert study.normalised(maps, "l1")[1].tolist() == [[1.5, 0.5]]
    assert study.normalised(maps, "rank")[:2].tolist() == [[[1.0, 0.5]], [[1.0, 0.5]]]
    assert np.array_equal(study.normalised(maps, "none"), maps, equal_nan=True)
    assert not study.normalised(np.zeros((1, 2, 2)), "l1").any()
    with pytest.raises(ValueError, match="patients a have images of several classes"):
        study.patient_maps(maps, [1, 0, 0], ["a", "a", "b"])


def test_the_class_map_has_an_interval_over_patients_and_says_how_many():
    rng = np.random.default_rng(0)
    maps = rng.normal(3, 1, (40, 4, 5))
    maps[:10, 0, 0], maps[:, 3, 4] = np.nan, np.nan
    found = study.class_map(maps, 500)
    assert found.n[0, 0] == 30
    assert found.n[3, 4] == 0
    assert np.isnan(found.mean[3, 4])
    assert np.isnan(found.low[3, 4])
    assert found.mean[1, 1] == pytest.approx(maps[:, 1, 1].mean())
    assert ((found.low < 3) & (found.high > 3)).sum() >= 16
    half_width = (found.high - found.low)[1:3].mean() / 2
    assert half_width == pytest.approx(1.96 / np.sqrt(40), rel=0.15)


def test_a_planted_difference_is_outlined_and_nothing_else():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(20, 12, 12)), rng.normal(size=(25, 12, 12))
    a[:, 2:5, 2:5] += 2
    a[:3, 11] = np.nan
    found = study.difference(a, b, n_permutations=300)
    assert found.differs[2:5, 2:5].all()
    assert found.differs.sum() <= 10
    assert found.n == (20, 25)
    assert found.mean[3, 3] == pytest.approx(a[:, 3, 3].mean() - b[:, 3, 3].mean())
    assert study.difference(a, b, n_permutations=100, same_n=True).n == (20, 20)
    turned = study.difference(-a, -b, n_permutations=300)
    assert np.allclose(turned.p, found.p)
    assert np.allclose(turned.t, -found.t)


def test_the_error_is_familywise():
    """200 pixels, no difference: some pixel is outlined in about 1 of 20 trials, of correlated pixels too."""
    rng, wrong = np.random.default_rng(2), 0
    for trial in range(100):
        maps = rng.normal(size=(16, 1, 200)) + rng.normal(size=(16, 1, 1)) * (trial % 2)
        wrong += study.difference(maps[:8], maps[8:], n_permutations=100, seed=trial).differs.any()
    assert wrong <= 11  # of 100 at .05: more has a chance of one in a hundred


def test_too_few_patients_cannot_be_tested():
    with pytest.raises(ValueError, match="3 and 3 patients are too few"):
        study.difference(np.zeros((3, 2, 2)), np.zeros((3, 2, 2)))


def test_reliability_is_that_of_the_model_that_made_the_maps():
    """A pattern of variance 1 under noise of variance 4: two means of n patients correlate 1 / (1 + 4 / n)."""
    rng = np.random.default_rng(3)
    pattern = rng.normal(size=(1, 30, 30))
    maps = pattern + 2 * rng.normal(size=(64, 30, 30))
    table = study.split_half(maps, n_splits=20)
    assert table["n"].tolist() == [1, 2, 4, 8, 16, 32, 64]
    assert np.allclose(table["mean"][:6], 1 / (1 + 4 / table["n"][:6]), atol=0.06)
    assert np.allclose(table["predicted"], 1 / (1 + 4 / table["n"]), atol=0.06)
    assert study.patients_needed(0.2, 1) == pytest.approx(36)
    assert study.patients_needed(-0.1, 1) == float("inf")
    others = rng.normal(size=(64, 30, 30))
    assert abs(study.split_half(maps, [32], others)["mean"][0]) < 0.1
    with pytest.raises(ValueError, match="a half of 33"):
        study.split_half(maps, [33])


def test_composites_have_the_sharpness_of_fewer_images_as_control():
    rng = np.random.default_rng(4)
    images = rng.normal(size=(40, 16, 16))
    images[:10] += 3 * (np.indices((16, 16)).sum(axis=0) % 2)
    images[0, 0, 0] = np.nan
    own = study.composite(images, np.arange(10))
    assert own.mean[0, 0] == pytest.approx(images[1:10, 0, 0].mean())
    assert own.median[5, 5] == pytest.approx(np.median(images[:10, 5, 5]))
    assert own.sharpness > own.controls.max()
    assert study.composite(images, np.arange(20, 24)).sharpness > study.composite(images, np.arange(20, 40)).sharpness


def test_similar_classes_are_similar():
    rng = np.random.default_rng(5)
    a = rng.normal(size=(12, 12))
    table = study.similarity_of_classes({"a": a, "b": a + 0.1 * rng.normal(size=a.shape), "c": -a})
    assert isinstance(table, pd.DataFrame)
    assert table.loc["a", "b"] > 0.9
    assert table.loc["a", "c"] == pytest.approx(-1)
