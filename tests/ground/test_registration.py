"""Warps that are known are undone, and the same warp moves images, masks and maps."""

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from xaiutils.datasets import phantom
from xaiutils.datasets.reading.breast_region import breast_landmarks
from xaiutils.registration import KINDS, landmarks_in, mean_shape, register

RNG = np.random.default_rng(0)
BASE = np.array([[20.0, 44.0], [8.0, 6.0], [50.0, 10.0], [40.0, 30.0]])
MIDDLE = np.array([31.5, 31.5])


def turned(points, degrees, scale=1.0, shear=0.0, shift=(0.0, 0.0)):
    """Points after a known affine map about the middle of 64 x 64 pixels."""
    a = np.deg2rad(degrees)
    matrix = scale * np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) @ [[1, shear], [0, 1]]
    return (points - MIDDLE) @ matrix + MIDDLE + shift


@pytest.mark.parametrize("kind", ["similarity", "affine", "tps"])
def test_known_warps_are_undone(kind):
    """+-20 degrees, scales .8 to 1.2, landmarks known to a quarter of a pixel: under one pixel all over the image."""
    how = [(-20, 0.8), (20, 1.2), (12, 1.0)]
    truth = np.stack([turned(BASE, *one, 0.1 * (kind != "similarity"), (3, -2)) for one in how])
    exact = register(truth, (64, 64), kind, to=BASE)
    grid = np.argwhere(np.ones((8, 8))) * 9.0
    where = np.stack([turned(grid, *one, 0.1 * (kind != "similarity"), (3, -2)) for one in how])
    assert exact.errors(grid, where).max() < 1e-6
    noisy = register(truth + RNG.uniform(-0.25, 0.25, truth.shape), (64, 64), kind, to=BASE)
    assert 0.01 < noisy.errors(grid, where).max() < 1


@pytest.mark.parametrize("kind", KINDS)
def test_identity_is_bit_equal(kind):
    images = RNG.random((2, 64, 48, 3), np.float32)
    same = register(np.stack([BASE, BASE]), (64, 48), kind)
    assert np.array_equal(same.apply(images), images)
    assert np.array_equal(same.apply(images[..., 0], "mass"), images[..., 0])
    mirrored = register(np.stack([BASE * [1, -1] + [0, 47]] * 2), (64, 48), kind, to=BASE, mirrored=[True, True])
    assert np.array_equal(mirrored.apply(images), images[:, :, ::-1])


def test_a_point_lands_on_the_mean_landmark_in_images_masks_and_maps():
    landmarks = np.stack([np.round(turned(BASE, *one)) for one in ((0, 1.0), (15, 1.1), (-10, 0.9))])
    moved = register(landmarks, (64, 64), "tps")
    maps = np.zeros((3, 64, 64))
    for one, points in zip(maps, landmarks.astype(int), strict=True):
        one[tuple(points[3])] = 1
        one[:] = gaussian_filter(one, 2)
    for stack in (maps, maps > 0.01, np.repeat(maps[..., None], 3, axis=-1)):
        found = np.nan_to_num(moved.apply(stack).reshape(3, 64, 64, -1)[..., 0])
        weights = found / found.sum(axis=(1, 2), keepdims=True)
        centres = [(weights * axis).sum(axis=(1, 2)) for axis in np.indices((64, 64))]
        assert np.abs(np.stack(centres, axis=1) - moved.frame[3]).max() < 0.6


def test_outside_is_nan_and_mass_is_conserved():
    blob = gaussian_filter(np.pad(np.ones((1, 4, 4)), ((0, 0), (30, 30), (30, 30))), (0, 2, 2))
    smaller = register(turned(BASE, 10, 1.5)[None], (64, 64), "affine", to=BASE)  # the image shrinks to two thirds
    value, mass = smaller.apply(blob), smaller.apply(blob, "mass")
    assert np.isnan(value[0, 0, 0])
    assert not np.isnan(value[0, 32, 32])
    assert np.nansum(mass) == pytest.approx(blob.sum(), rel=1e-3)
    assert np.nansum(value) == pytest.approx(blob.sum() / 2.25, rel=1e-2)
    assert np.nanmax(value) == pytest.approx(blob.max(), rel=0.1)


def test_the_mean_shape_is_that_of_shapes_that_differ_by_similarities():
    shapes = np.stack([turned(BASE, *one) for one in ((-20, 0.8), (20, 1.2), (0, 1.0))])
    mean = mean_shape(shapes)
    assert register(shapes, (64, 64)).errors(mean, shapes).max() < 1e-6
    spread = [np.sqrt(((one - one.mean(axis=0)) ** 2).sum(axis=1).mean()) for one in (*shapes, mean)]
    assert spread[3] == pytest.approx(np.mean(spread[:3]))


def test_landmarks_of_phantoms_are_known_and_found():
    """The nipple is a point of the breast farthest from the chest wall; found ones lie near the known."""
    ps = [phantom.generate(seed, 64) for seed in range(12)]
    for p in ps:
        columns = np.flatnonzero(p.breast.any(axis=0))
        tip, wall = (columns[-1], 0) if p.side == "L" else (columns[0], 63)
        assert abs(p.landmarks[0, 1] - tip) <= 2  # the fold of an MLO view is rounded
        assert (p.landmarks[1:, 1] == wall).all()
        assert p.landmarks[1, 0] < p.landmarks[0, 0] < p.landmarks[2, 0]
    found, right = breast_landmarks(np.stack([p.image for p in ps]))
    assert right.tolist() == [p.side == "R" for p in ps]
    apart = np.linalg.norm(found - np.stack([p.landmarks for p in ps]), axis=-1)
    assert np.median(apart[:, 0]) < 3
    assert np.isnan(breast_landmarks(np.zeros((1, 32, 32)))[0]).all()


def test_bright_edges_of_a_film_are_no_landmarks():
    """Half a disc at the wall, with strips along the upper edge and the wall that hang together with it."""
    rows, columns = np.indices((200, 160))
    film = 180.0 * ((rows - 110) ** 2 + columns**2 <= 75**2)
    plain, _ = breast_landmarks(film[None])
    film[:7, :], film[:, :7] = 250, 250
    found, right = breast_landmarks(film[None])
    assert not right[0]
    assert np.abs(plain[0] - [(110, 75), (35, 0), (185, 0)]).max() <= 6  # corners are rounded
    assert np.abs(found[0] - plain[0])[:, 0].max() <= 12
    assert abs(found[0, 0, 1] - 75) <= 3


def test_what_cannot_be_registered_is_refused():
    table = pd.DataFrame({"eye_row": [1.0], "eye_column": [2.0]})
    assert landmarks_in(table, ["eye"]).tolist() == [[[1.0, 2.0]]]
    with pytest.raises(KeyError, match="no column nose_row, nose_column"):
        landmarks_in(table, ["eye", "nose"])
    good = np.stack([BASE, BASE])
    for changed, said in ((good[:, :2], "3 or more"), (good * [0, 1], r"images \[0, 1\]"), (good * np.nan, "missing")):
        with pytest.raises(ValueError, match=said):
            register(changed, (64, 64), "affine")
    with pytest.raises(ValueError, match="kind"):
        register(good, (64, 64), "rigid")
    with pytest.raises(ValueError, match="to has shape"):
        register(good, (64, 64), to=BASE[:2])
    with pytest.raises(ValueError, match="stack has shape"):
        register(good, (64, 64)).apply(np.zeros((2, 32, 32)))
