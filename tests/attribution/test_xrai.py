"""XRAI: against the paper's algorithm written out, the package's own segmentation, and cases that are known."""

import numpy as np
import pytest
from conftest import SIZE
from trees import read_image

import xaiutils as xai
from xaiutils.attribution import xrai

QUICK = {"base_parameters": {"n_steps": 4}}


@pytest.fixture(scope="module")
def photo(kit):
    return read_image(kit / "photos" / "chelsea.png", 96).astype(np.float32)


def test_regions_are_those_of_the_package(photo):
    from saliency.core.xrai import _get_segments_felzenszwalb

    found, expected = xrai.regions(photo), _get_segments_felzenszwalb(photo)
    assert len(found) == len(expected) > 10
    np.testing.assert_array_equal(found, expected)
    assert np.any(found, axis=0).all()


def test_an_image_of_one_colour_is_one_region(models):
    flat = np.full((1, SIZE, SIZE, 3), 90, np.float32)
    base = xai.explain(models["flat softmax"], flat, 0, "integrated_gradients", n_steps=4)
    found = xai.explain(models["flat softmax"], flat, 0, "xrai", base="integrated_gradients", **QUICK)
    np.testing.assert_allclose(found, base.mean(), rtol=1e-5)


def greedy(attribution: np.ndarray, masks: list[np.ndarray]) -> np.ndarray:
    """Algorithm 1 of the paper; a mask that adds fewer than 50 pixels is left out, as by the authors' code."""
    found, taken, masks = np.full(attribution.shape, np.nan), np.zeros(attribution.shape, bool), list(masks)
    while masks := [m for m in masks if (m & ~taken).sum() >= 50]:
        gains = [attribution[m & ~taken].mean() for m in masks]
        best = masks[int(np.argmax(gains))] & ~taken
        found[best] = max(gains)
        taken |= best
    found[~taken] = attribution[~taken].mean() if (~taken).any() else 0
    return found


@pytest.mark.parametrize("base", ["integrated_gradients", "vanilla_gradients"])
def test_xrai_is_the_greedy_algorithm(models, images, base):
    parameters = {"n_steps": 4} if base == "integrated_gradients" else {}
    model = models["flat softmax"]
    base_maps = xai.explain(model, images[:2], 1, base, **parameters)
    found = xai.explain(model, images[:2], 1, "xrai", base=base, base_parameters=parameters)
    for image, attribution, xrai_map in zip(images, base_maps, found, strict=False):
        expected = greedy(attribution.astype(np.float64), xrai.regions(image))
        np.testing.assert_allclose(xrai_map, expected, atol=1e-4 * np.abs(expected).max())
    assert base == "integrated_gradients" or found.min() >= 0


def test_xrai_spreads_the_base_over_regions_and_keeps_its_sum(models, images):
    """Each pixel has its region's mean, so the sum over the image is the base's; "fast" agrees in that."""
    model = models["flat softmax"]
    base = xai.explain(model, images[:2], 1, "integrated_gradients_bw", n_steps=4)
    for algorithm in ("full", "fast"):
        found = xai.explain(model, images[:2], 1, "xrai", algorithm=algorithm, **QUICK)
        assert all(len(np.unique(m)) < 60 for m in found)
        total = base.sum(axis=(1, 2))
        np.testing.assert_allclose(found.sum(axis=(1, 2)), total, atol=1e-4 * np.abs(base).sum(axis=(1, 2)).max())


def test_xrai_checks_its_base(models, images):
    model = models["flat softmax"]
    with pytest.raises(ValueError, match="base='xrai'"):
        xai.explain(model, images, 0, "xrai", base="xrai")
    with pytest.raises(KeyError, match="did you mean"):
        xai.explain(model, images, 0, "xrai", base="integrated_gradient")
    with pytest.raises(TypeError, match="has no parameter 'steps'"):
        xai.explain(model, images, 0, "xrai", base_parameters={"steps": 3})
