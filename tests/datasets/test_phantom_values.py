"""The phantom is the same data set for everybody: means over twelve images that any changed constant would move."""

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.datasets import phantom
from xaiutils.datasets.loaders.digits import read_strokes

# Of the image: mean and standard deviation; the latter without noise; means of the evidence, the lesion, the breast,
# the contrast, the radius in mm, the marker and the pectoral muscle.
KNOWN = [
    (
        "presence",
        "easy",
        [0.15447, 0.19544, 0.19575, 0.0035929, 0.014685, 0.42083, 0.37069, 16.216, 0.0087891, 0.046188],
    ),
    (
        "presence",
        "hard",
        [0.15174, 0.19011, 0.1904, 0.00086302, 0.014685, 0.42083, 0.088966, 16.216, 0.0087891, 0.046188],
    ),
    ("margin", "easy", [0.15849, 0.20274, 0.20303, 0.0026647, 0.025391, 0.42083, 0.39142, 16.543, 0.0087891, 0.046188]),
    (
        "margin",
        "hard",
        [0.15271, 0.19126, 0.19154, 0.00064004, 0.025391, 0.42083, 0.09394, 16.543, 0.0087891, 0.046188],
    ),
    (
        "calcifications",
        "easy",
        [0.1524, 0.19148, 0.19176, 0.0013532, 0.010887, 0.42083, 0.4697, 12.543, 0.0087891, 0.046188],
    ),
    (
        "calcifications",
        "hard",
        [0.15127, 0.18942, 0.1897, 0.00034553, 0.010887, 0.42083, 0.1196, 12.543, 0.0087891, 0.046188],
    ),
    (
        "shortcut",
        "easy",
        [0.15785, 0.2024, 0.20268, 0.0026647, 0.025391, 0.42083, 0.39142, 16.543, 0.0058594, 0.046188],
    ),
    (
        "shortcut",
        "hard",
        [0.15207, 0.19086, 0.19114, 0.00064004, 0.025391, 0.42083, 0.09394, 16.543, 0.0058594, 0.046188],
    ),
    ("five", "easy", [0.15463, 0.19615, 0.19643, 0.0014747, 0.014214, 0.42083, 0.42182, 14.665, 0.0087891, 0.046188]),
    ("five", "hard", [0.15179, 0.19015, 0.19043, 0.00036034, 0.014214, 0.42083, 0.10437, 14.665, 0.0087891, 0.046188]),
]


@pytest.mark.parametrize(("task", "difficulty", "known"), KNOWN)
def test_phantoms_stay_the_same(task, difficulty, known):
    made = [phantom.generate(seed, 48, task, difficulty) for seed in range(12)]
    found = [
        np.mean([p.image.mean() for p in made]),
        np.mean([p.image.std() for p in made]),
        np.mean([p.noise_free.std() for p in made]),
        np.mean([p.evidence.mean() for p in made]),
        np.mean([p.lesion.mean() for p in made]),
        np.mean([p.breast.mean() for p in made]),
        np.nanmean([p.contrast for p in made]),
        np.nanmean([p.radius_mm for p in made]),
        np.mean([p.tag_mask.mean() for p in made]),
        np.mean([p.pectoral.mean() for p in made]),
    ]
    np.testing.assert_allclose(found, known, rtol=2e-4)


def test_pictures_of_the_data_set_are_the_phantoms_rounded():
    ds = xai.load_dataset("phantom", split="test", image_size=48, limit=3, task="margin")
    for image_id, pixels, mask in zip(ds.ids, ds.pixels, ds.masks, strict=True):
        p = phantom.generate(int(image_id.removeprefix("phantom_")), 48, "margin", "easy")
        np.testing.assert_array_equal(pixels[..., 0], np.rint(255 * p.image))
        np.testing.assert_array_equal(mask, p.lesion)
    assert ds.metadata["mm_per_pixel"].tolist() == pytest.approx([224 / 48] * 3)
    assert (ds.metadata["lesion_mm"] == 2 * ds.metadata["radius_mm"]).all()


def test_strokes_of_digits_by_hand():
    """A column of ink: white on black, its mask where the ink is over a half, its length in new pixels."""
    ink = np.zeros((8, 8))
    ink[2:7, 3] = 1
    found = read_strokes(ink, 64)
    assert found.metadata["lesion_pixels"] == 5 * 8
    assert (found.pixels.min(), found.pixels.max()) == (0, 255)
    half = np.full((8, 8), 0.5)
    half[0, 0] = 1
    found = read_strokes(half, 8)
    assert np.argwhere(found.mask).tolist() == [[0, 0]]  # a half is not over a half
    assert found.metadata["lesion_pixels"] == 1
