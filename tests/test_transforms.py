"""Image changes: ranges, seeds, the way back for maps, and their stated formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xaiutils as xai
from xaiutils.transforms import TRANSFORMS

names = pytest.mark.parametrize("name", TRANSFORMS)


@names
def test_contract(images, name):
    transform = TRANSFORMS[name]
    changed = transform.apply(images, seed=3)
    assert changed.shape == images.shape
    assert changed.dtype == np.float32
    assert 0 <= changed.min() <= changed.max() <= 255
    np.testing.assert_array_equal(changed, transform.apply(images, seed=3))
    np.testing.assert_allclose(transform.apply(images[2:3], seed=3)[0], changed[2], atol=1e-3)
    assert np.array_equal(changed, images) == (name == "original")
    masks = images[..., 0] > 127
    assert transform.apply_to_masks(masks).dtype == bool
    maps = transform.invert(images[..., 0])
    assert maps.shape == images.shape[:3]
    assert maps.dtype == np.float32
    with pytest.raises(TypeError, match="no_such"):
        transform.apply(images, no_such=1)
    with pytest.raises(ValueError, match="NaN"):
        transform.apply(images * np.nan)


@pytest.mark.parametrize("name", ["gaussian_noise", "speckle_noise", "black_rectangle"])
def test_seeds_differ(images, name):
    assert not np.array_equal(TRANSFORMS[name].apply(images, seed=0), TRANSFORMS[name].apply(images, seed=1))


def test_rotation_is_its_own_inverse(images):
    t = TRANSFORMS["rotate_180"]
    np.testing.assert_array_equal(t.apply(t.apply(images)), images)
    np.testing.assert_array_equal(t.invert(t.apply(images)[..., 1]), images[..., 1])
    assert t.apply(images)[0, 0, 0, 0] == images[0, -1, -1, 0]


@given(
    st.floats(-40, 40),
    st.floats(0.7, 1.3),
    st.floats(-15, 15),
    st.floats(-0.1, 0.1),
    st.integers(20, 44),
    st.integers(20, 44),
)
def test_affine_way_back_restores_the_middle(rotation, scale, shear, shift, y, x):
    """A smooth blob near the middle returns to its place, whatever the warp."""
    rows, columns = np.mgrid[0:64, 0:64]
    blob = 200 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * 4.0**2)).astype(np.float32)
    image = np.repeat(blob[None, :, :, None], 3, axis=-1)
    p = {"rotation": rotation, "scale": scale, "shear": shear, "shift": shift}
    t = TRANSFORMS["affine"]
    there = t.apply(image, **p)
    back = t.invert(there[..., 0], **p)[0]
    peak = np.array(np.unravel_index(there[0, ..., 0].argmax(), (64, 64)))
    if (peak > 12).all() and (peak < 52).all():
        assert np.abs(np.array(np.unravel_index(back.argmax(), back.shape)) - (y, x)).max() <= 1
        assert np.abs(back - blob).max() < 40


def test_affine_moves_masks_with_the_image():
    image = np.zeros((1, 64, 64, 3), np.float32)
    image[0, 20:40, 25:45] = 255
    t = TRANSFORMS["affine"]
    moved = t.apply_to_masks(image[..., 0] > 0)[0]
    bright = t.apply(image)[0, ..., 0] > 127
    assert (moved != bright).mean() < 0.005
    assert moved.sum() == pytest.approx(400 * 0.81, rel=0.1)  # the default scale 0.9 shrinks areas by 0.81


def test_identity_affine(images):
    same = TRANSFORMS["affine"].apply(images, rotation=0.0, scale=1.0, shear=0.0, shift=0.0)
    np.testing.assert_allclose(same, images, atol=1e-3)


def test_log_keeps_the_ends_and_the_order(images):
    ramp = np.repeat(np.linspace(0, 255, 256, dtype=np.float32).reshape(1, 16, 16, 1), 3, axis=-1)
    found = TRANSFORMS["log"].apply(ramp)[0, ..., 0].ravel()
    assert found[0] == 0
    assert found[-1] == pytest.approx(255)
    assert (np.diff(found) > 0).all()
    np.testing.assert_allclose(found, 255 / np.log(256) * np.log1p(ramp[0, ..., 0].ravel()), rtol=1e-5)


def test_noise_levels():
    grey = np.full((1, 100, 100, 3), 127.0, np.float32)
    noisy = TRANSFORMS["gaussian_noise"].apply(grey, noise=0.05)
    assert noisy.std() == pytest.approx(0.05 * 255, rel=0.03)
    speckled = TRANSFORMS["speckle_noise"].apply(grey, noise=0.1)
    assert speckled.std() == pytest.approx(12.7, rel=0.03)
    assert (TRANSFORMS["speckle_noise"].apply(0 * grey, noise=1.0) == 0).all()


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_black_rectangle_is_one_rectangle_of_the_stated_size(seed, low, high):
    white = np.full((1, 40, 60, 3), 255.0, np.float32)
    black = TRANSFORMS["black_rectangle"].apply(white, seed=seed, min_side=low, max_side=high)[0, ..., 0] == 0
    rows, columns = np.flatnonzero(black.any(1)), np.flatnonzero(black.any(0))
    assert black.sum() == len(rows) * len(columns) >= 1
    low, high = min(low, high), max(low, high)
    assert low * 40 - 1 <= len(rows) <= max(1, high * 40 + 1)
    assert low * 60 - 1 <= len(columns) <= max(1, high * 60 + 1)


def test_unknown_transform():
    with pytest.raises(KeyError, match="did you mean rotate_180"):
        xai.TRANSFORMS["rotate180"]
