"""Image changes: ranges, seeds, batches, masks, the way back for maps, and their stated formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.data import chelsea

import xaiutils as xai
from xaiutils.registry import check_parameters
from xaiutils.transforms.image_changes import affine_matrix

TRANSFORMS = xai.TRANSFORMS
PLAIN = [name for name, transform in TRANSFORMS.items() if not transform.needs_model]  # the others: test_adversarial
GEOMETRIC = [name for name in PLAIN if TRANSFORMS[name].geometric]
# Parameters that change nothing.
IDENTITY = {
    "original": {},
    "gaussian_noise": {"noise": 0.0},
    "speckle_noise": {"noise": 0.0},
    "affine": {"rotation": 0.0, "scale": 1.0, "shear": 0.0, "shift": 0.0},
    "brightness_contrast": {"brightness": 0.0, "contrast": 1.0},
    "blur": {"sigma": 0.0},
}

pictures = arrays(np.uint8, st.tuples(st.integers(2, 4), st.integers(12, 20), st.integers(12, 20), st.just(3)))
seeds = st.integers(0, 2**32)
affine_parameters = st.fixed_dictionaries(
    {
        "rotation": st.floats(-180, 180),
        "scale": st.floats(0.6, 1.6),
        "shear": st.floats(-20, 20),
        "shift": st.floats(-0.1, 0.1),
    }
)


def parameters_of(name):
    """Any allowed parameters of a transform."""
    kinds = {float: lambda p: st.floats(p.low, p.high), int: lambda p: st.integers(p.low, p.high)}
    return st.fixed_dictionaries({p.name: kinds[p.kind](p) for p in TRANSFORMS[name].parameters})


def grey(array):
    return np.repeat(np.asarray(array, np.float32)[..., None], 3, axis=-1)


@pytest.fixture(scope="module")
def photo():
    """A cat, ``(1, 100, 150, 3)``."""
    return chelsea()[::3, ::3].astype(np.float32)[None]


# All of them --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_default_changes_are_changes(images, name):
    changed = TRANSFORMS[name].apply(images, seed=3)
    assert np.array_equal(changed, images) == (name == "original")
    assert not np.shares_memory(changed, images)


@pytest.mark.parametrize("name", PLAIN)
def test_contract(name):
    transform = TRANSFORMS[name]

    @given(pictures, seeds, parameters_of(name))
    def contract(images, seed, parameters):
        changed = transform.apply(images, seed, **parameters)
        assert changed.shape == images.shape
        assert changed.dtype == np.float32
        assert 0 <= changed.min() <= changed.max() <= 255  # NaN fails too
        np.testing.assert_array_equal(changed, transform.apply(images, seed, **parameters))
        backwards = transform.apply(images[::-1], seed, **parameters)
        np.testing.assert_array_equal(changed[0], backwards[-1])
        np.testing.assert_array_equal(changed[:1], transform.apply(images[:1], seed, **parameters))
        masks = images[..., 0] > 127
        for moved in (transform.apply_to_masks(masks, **parameters), transform.hidden(images, seed, **parameters)):
            assert moved.shape == masks.shape
            assert moved.dtype == bool
        maps = transform.invert(images[..., 0], **parameters)
        assert maps.shape == masks.shape
        assert maps.dtype == np.float32
        assert np.isfinite(maps).all()
        if not transform.geometric:
            np.testing.assert_array_equal(maps, images[..., 0])
            np.testing.assert_array_equal(transform.apply_to_masks(masks, **parameters), masks)

    contract()


@pytest.mark.parametrize("name", PLAIN)
def test_bad_arguments(images, name):
    transform = TRANSFORMS[name]
    with pytest.raises(TypeError, match="no_such"):
        transform.apply(images, no_such=1)
    with pytest.raises(ValueError, match="NaN"):
        transform.apply(images * np.nan)
    with pytest.raises(ValueError, match="one image"):
        transform.apply(images[0])
    with pytest.raises(ValueError, match="masks has shape"):
        transform.apply_to_masks(images[0, ..., 0])
    with pytest.raises(ValueError, match="maps has shape"):
        transform.invert(images)
    for parameter in transform.parameters:
        too_high = type(parameter.default)(parameter.high + 1)
        with pytest.raises(ValueError, match=parameter.name):
            transform.apply(images, **{parameter.name: too_high})


@pytest.mark.parametrize("name", PLAIN)
def test_parameters_defaults_are_allowed_and_models_are_ignored(images, name):
    transform = TRANSFORMS[name]
    defaults = {p.name: p.default for p in transform.parameters}
    assert check_parameters(name, transform.parameters, defaults) == defaults
    given_all = transform.apply(images, 5, model="not a model", targets=[99], **defaults)
    np.testing.assert_array_equal(given_all, transform.apply(images, 5))


@pytest.mark.parametrize("name", ["gaussian_noise", "speckle_noise", "black_rectangle"])
def test_seeds_differ(images, name):
    assert not np.array_equal(TRANSFORMS[name].apply(images, seed=0), TRANSFORMS[name].apply(images, seed=1))


@pytest.mark.parametrize("name", IDENTITY)
def test_identity_parameters(name):
    @given(pictures, seeds)
    def same(images, seed):
        np.testing.assert_allclose(TRANSFORMS[name].apply(images, seed, **IDENTITY[name]), images, atol=1e-3)
        assert not TRANSFORMS[name].hidden(images, seed, **IDENTITY[name]).any()

    same()


@pytest.mark.parametrize("name", PLAIN)
def test_grey_stays_grey(images, name):
    changed = TRANSFORMS[name].apply(np.concatenate([grey(images[..., 0]), images]), seed=1)
    np.testing.assert_array_equal(changed[:5], changed[:5, ..., :1].repeat(3, axis=-1))
    assert (changed[5:, ..., 0] != changed[5:, ..., 1]).any()


def test_unknown_transform():
    with pytest.raises(KeyError, match="did you mean rotate_180"):
        xai.TRANSFORMS["rotate180"]


# Geometry -----------------------------------------------------------------------------------------------------------


def test_rotation_is_its_own_inverse(images):
    t = TRANSFORMS["rotate_180"]
    np.testing.assert_array_equal(t.apply(t.apply(images)), images)
    np.testing.assert_array_equal(t.invert(t.apply(images)[..., 1]), images[..., 1])
    assert t.apply(images)[0, 0, 0, 0] == images[0, -1, -1, 0]


def smooth_blob(rows, columns, y, x):
    r, c = np.mgrid[0:rows, 0:columns]
    return (200 * np.exp(-((r - y) ** 2 + (c - x) ** 2) / (2 * 4.0**2))).astype(np.float32)[None]


@given(affine_parameters, st.integers(40, 72), st.integers(40, 72), st.floats(0.42, 0.58), st.floats(0.42, 0.58))
def test_affine_way_back(parameters, rows, columns, y, x):
    """A smooth signed map near the middle comes back, to what two linear interpolations blur."""
    blob = smooth_blob(rows, columns, y * (rows - 1), x * (columns - 1))
    t = TRANSFORMS["affine"]
    there = t.apply(grey(blob), **parameters)[..., 0]
    back = t.invert(there, **parameters)
    assert np.abs(t.invert(-there, **parameters) + back).max() < 1e-4
    survives = t.invert(np.ones_like(there), **parameters) > 0.999
    kept = (survives & (blob > 20)).sum() / (blob > 20).sum()
    assert np.abs(back - blob)[survives].max() < 25
    if kept == 1:
        assert back.sum() == pytest.approx(blob.sum(), rel=0.05)


@given(affine_parameters, st.integers(0, 12), st.integers(0, 12))
def test_affine_moves_masks_with_the_image(parameters, y, x):
    masks = np.zeros((1, 64, 80), bool)
    masks[0, 20 + y : 34 + y, 26 + x : 44 + x] = True
    t = TRANSFORMS["affine"]
    moved = t.apply_to_masks(masks, **parameters)
    bright = t.apply(grey(masks * 255.0), **parameters)[..., 0] > 127.5
    assert (moved != bright).sum() <= 2  # rounding at the threshold
    hidden = t.hidden(grey(masks), **parameters)
    assert not (moved & hidden).any()
    white = t.apply(np.full((1, 64, 80, 3), 255.0), **parameters)[..., 0]
    assert (white[hidden] <= 128).all()
    assert (white[~hidden] >= 127).all()
    framed = moved[0, 1:-1, 1:-1].sum() == moved.sum()  # nothing was pushed out of the picture
    if framed:
        determinant = np.linalg.det(centred_matrix(**parameters))
        assert moved.sum() == pytest.approx(14 * 18 * abs(determinant), rel=0.12, abs=4)


def centred_matrix(rotation, scale, shear, shift):
    """The warp's 2 x 2 matrix, from where it takes three points."""
    points = affine_matrix(64, 80, rotation, scale, shear, shift)(np.array([[0, 0], [1, 0], [0, 1]]))
    return np.stack([points[1] - points[0], points[2] - points[0]], axis=1)


def test_affine_directions():
    """Clockwise, larger, to the right and down, as the parameters' texts say."""
    none = IDENTITY["affine"]
    t, dot = TRANSFORMS["affine"], grey(smooth_blob(65, 65, 12, 32))  # above the centre

    def peak(**parameters):
        return np.unravel_index(t.apply(dot, **{**none, **parameters})[0, ..., 0].argmax(), (65, 65))

    assert peak(rotation=90.0) == (32, 52)  # to the right of it
    assert peak(scale=1.5) == (2, 32)
    assert peak(shift=10 / 65) == (22, 42)
    right, left = (peak(shear=angle)[1] for angle in (20.0, -20.0))
    assert abs(right - 32) == abs(left - 32) > 3


# Grey values --------------------------------------------------------------------------------------------------------


@given(arrays(np.uint8, (1, 8, 8, 3)))
def test_log_keeps_the_order_and_the_ends(image):
    image[0, 0, 0] = 0
    image[0, 0, 1] = max(2, image.max())
    changed = TRANSFORMS["log"].apply(image)
    order = np.argsort(image.ravel(), kind="stable")
    steps, rises = np.diff(image.ravel()[order].astype(int)), np.diff(changed.ravel()[order])
    assert (rises[steps > 0] > 0).all()
    assert (rises[steps == 0] == 0).all()
    assert changed[0, 0, 0, 0] == 0
    assert changed.max() == pytest.approx(255, abs=1e-3)


def test_log_formula():
    ramp = grey(np.arange(256).reshape(1, 16, 16))
    found = TRANSFORMS["log"].apply(ramp)[0, ..., 0].ravel()
    np.testing.assert_allclose(found, 255 / np.log(256) * np.log1p(np.arange(256)), rtol=1e-5, atol=1e-3)
    gain = np.diff(found)
    assert (np.diff(gain) < 0).all()  # the darker, the more a step is spread
    assert gain[:40].min() > 1 > gain[60:].max()
    assert (TRANSFORMS["log"].apply(0 * ramp) == 0).all()


@given(
    arrays(
        np.uint8, st.tuples(st.just(2), st.integers(4, 9), st.integers(4, 9), st.just(3)), elements=st.integers(90, 160)
    ),
    st.floats(-0.1, 0.1),
    st.floats(0.5, 2.0),
)
def test_brightness_and_contrast_are_undone_where_nothing_is_clipped(images, brightness, contrast):
    t = TRANSFORMS["brightness_contrast"]
    changed = t.apply(images, brightness=brightness, contrast=contrast)
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    expected = mean + contrast * (images - mean) + 255 * brightness
    inside = (expected >= 0).all() and (expected <= 255).all()
    np.testing.assert_allclose(changed, np.clip(expected, 0, 255), atol=1e-2)
    if inside:
        np.testing.assert_allclose(changed.mean(axis=(1, 2, 3)), mean.ravel() + 255 * brightness, atol=1e-2)
        back = t.apply(changed, brightness=-brightness, contrast=1 / contrast)
        np.testing.assert_allclose(back, images, atol=1e-2)


@given(pictures, st.floats(0.04, 0.1))
def test_blur_keeps_the_mean_and_lowers_the_variance(images, sigma):
    blurred = TRANSFORMS["blur"].apply(images, sigma=sigma)
    np.testing.assert_allclose(blurred.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=0.02)
    before, after = images.std(axis=(1, 2)), blurred.std(axis=(1, 2))
    assert (after <= before + 1e-3).all()
    assert (after[before > 1] < before[before > 1]).all()


def test_blur_is_a_gaussian_of_the_stated_width():
    dot = np.zeros((1, 81, 100, 3), np.float32)
    dot[0, 40, 50] = 255
    found = TRANSFORMS["blur"].apply(dot, sigma=0.03)[0, ..., 0]
    rows, columns = np.mgrid[0:81, 0:100]
    for position, centre in ((rows, 40), (columns, 50)):
        spread = np.sqrt((found * (position - centre) ** 2).sum() / found.sum())
        assert spread == pytest.approx(3.0, rel=0.01)  # 0.03 of 100 columns


def test_blur_loses_the_same_detail_at_any_size(photo):
    def loss(image):
        return xai.signal_to_noise(image, TRANSFORMS["blur"].apply(image, sigma=0.02))[0]

    doubled = photo.repeat(2, axis=1).repeat(2, axis=2)
    assert loss(doubled) == pytest.approx(loss(photo), abs=0.2)


def test_jpeg(photo):
    t = TRANSFORMS["jpeg"]
    levels = [xai.signal_to_noise(photo, t.apply(photo, quality=q))[0] for q in (2, 10, 25, 50, 75, 95)]
    assert (np.diff(levels) > 0.5).all()
    assert levels[-1] > 30
    coded = t.apply(photo)
    np.testing.assert_array_equal(coded, np.rint(coded))
    for fraction in (-0.3, 0.3):
        np.testing.assert_array_equal(coded, t.apply(np.clip(photo + fraction, 0, 255)))  # the nearest level is coded
    flat = np.full((1, 16, 16, 3), 77.0)
    np.testing.assert_array_equal(t.apply(flat, quality=95), flat)


# Noise and occlusion ------------------------------------------------------------------------------------------------


def test_noise_levels():
    colour = np.full((1, 100, 100, 3), 127.0, np.float32) + np.array([0, 1, 0], np.float32)
    for image in (colour, colour[..., :1].repeat(3, axis=-1)):
        noisy = TRANSFORMS["gaussian_noise"].apply(image, noise=0.05) - image
        assert noisy.std() == pytest.approx(0.05 * 255, rel=0.03)
        assert abs(noisy.mean()) < 0.4
        speckled = TRANSFORMS["speckle_noise"].apply(image, noise=0.1) - image
        assert speckled.std() == pytest.approx(12.7, rel=0.03)
    channels = TRANSFORMS["gaussian_noise"].apply(colour, noise=0.05).reshape(-1, 3)
    assert np.abs(np.corrcoef(channels.T) - np.eye(3)).max() < 0.05  # a draw for each channel
    assert (TRANSFORMS["speckle_noise"].apply(0 * colour, noise=1.0) == 0).all()


def test_the_noise_of_the_thesis():
    """N(0, 1) on 0..255 is one grey level; x N(0, 1) blackens half of the values and keeps the seed's factor."""
    image = grey(np.full((1, 100, 100), 50.0))
    level = xai.signal_to_noise(image, TRANSFORMS["gaussian_noise"].apply(image, noise=1 / 255))[0]
    assert level == pytest.approx(20 * np.log10(50), abs=0.2)
    literal = TRANSFORMS["speckle_noise"].apply(image, noise=1.0, mean=0.0)
    assert (literal == 0).mean() == pytest.approx(0.5, abs=0.02)
    assert literal[literal > 0].mean() == pytest.approx(50 * np.sqrt(2 / np.pi), rel=0.03)
    classic = TRANSFORMS["speckle_noise"].apply(image, noise=1.0)
    unclipped = (literal > 0) & (classic < 255)
    np.testing.assert_allclose(classic[unclipped], literal[unclipped] + 50, rtol=1e-4)


@given(pictures, seeds, st.floats(0, 1), st.floats(0, 1))
def test_black_rectangle(images, seed, low, high):
    """One rectangle of the stated size in each image, the one that `hidden` marks; all else as it was."""
    t, sides = TRANSFORMS["black_rectangle"], {"min_side": low, "max_side": high}
    hidden, changed = t.hidden(images, seed, **sides), t.apply(images, seed, **sides)
    assert (changed[hidden] == 0).all()
    np.testing.assert_array_equal(changed[~hidden], images[~hidden])
    low, high = min(low, high), max(low, high)
    sizes = set()
    for mask in hidden:
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        np.testing.assert_array_equal(mask, rows[:, None] & columns)
        for line in (rows, columns):
            (filled,) = np.nonzero(line)
            assert np.ptp(filled) + 1 == len(filled)
            assert max(1, low * len(line) - 0.51) <= len(filled) <= max(1, high * len(line) + 0.51)
        sizes.add((rows.sum(), columns.sum()))
    assert len(sizes) == 1  # one draw for all images


@given(seeds, st.booleans(), st.floats(0.3, 0.5))
def test_black_rectangle_falls_on_the_breast(seed, flipped, width):
    """A half ellipse at either side of a dark picture: the rectangle does not fall beside it."""
    rows, columns = np.mgrid[0:96, 0:96] / 96
    breast = ((rows - 0.5) / 0.4) ** 2 + (columns / width) ** 2 < 1
    breast = breast[:, ::-1] if flipped else breast
    hidden = TRANSFORMS["black_rectangle"].hidden(grey(breast * 120.0)[None], seed)[0]
    assert breast[hidden].mean() > 0.3


def test_black_rectangle_on_white_is_near_the_middle():
    white = np.full((1, 90, 120, 3), 255.0, np.float32)
    centres = []
    for seed in range(200):
        mask = TRANSFORMS["black_rectangle"].hidden(white, seed)[0]
        centres.append([line.nonzero()[0].mean() / len(line) for line in (mask.any(axis=1), mask.any(axis=0))])
    low, high = np.min(centres, axis=0), np.max(centres, axis=0)
    assert (np.abs(low - 1 / 3) < 0.03).all()
    assert (np.abs(high - 2 / 3) < 0.03).all()


# Signal to noise ----------------------------------------------------------------------------------------------------


@given(pictures, st.floats(0.01, 0.9))
def test_signal_to_noise_of_a_scaled_image(images, share):
    images[:, 0, 0] = 200
    x = images.astype(np.float32)
    found = xai.signal_to_noise(x, x * np.float32(1 - share))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, -20 * np.log10(share), atol=0.01)


def test_signal_to_noise_exactly():
    x = np.full((3, 4, 4, 3), 100.0, np.float32)
    y = x.copy()
    y[0] += 10  # amplitude 1/10 of the signal
    y[1, :2, :2] = 0  # a quarter of the pixels lost
    np.testing.assert_allclose(xai.signal_to_noise(x, y), [20, 10 * np.log10(4), np.inf], rtol=1e-6)
    assert xai.signal_to_noise(0 * x, y)[0] == -np.inf
    assert xai.signal_to_noise(0 * x, 0 * y)[0] == np.inf
    with pytest.raises(ValueError, match="changed has shape"):
        xai.signal_to_noise(x, y[:2])
