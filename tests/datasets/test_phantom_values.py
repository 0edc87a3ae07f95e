"""The phantom is the same data set for everybody: means over twelve images that any changed constant would move."""

import hashlib

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
        "medium",
        [0.16337, 0.20411, 0.20437, 0.0010166, 0.0091869, 0.42083, 0.18276, 12.162, 0.0087891, 0.046188],
    ),
    ("margin", "easy", [0.15849, 0.20274, 0.20303, 0.0026647, 0.025391, 0.42083, 0.39142, 16.543, 0.0087891, 0.046188]),
    (
        "margin",
        "medium",
        [0.16452, 0.20521, 0.20547, 0.00077713, 0.015336, 0.42083, 0.19354, 12.408, 0.0087891, 0.046188],
    ),
    (
        "calcifications",
        "easy",
        [0.1524, 0.19148, 0.19176, 0.0013532, 0.010887, 0.42083, 0.4697, 12.543, 0.0087891, 0.046188],
    ),
    (
        "calcifications",
        "medium",
        [0.16311, 0.20376, 0.20402, 0.00067662, 0.010887, 0.42083, 0.23485, 12.543, 0.0087891, 0.046188],
    ),
    (
        "shortcut",
        "easy",
        [0.15785, 0.2024, 0.20268, 0.0026647, 0.025391, 0.42083, 0.39142, 16.543, 0.0058594, 0.046188],
    ),
    (
        "shortcut",
        "medium",
        [0.16388, 0.20488, 0.20513, 0.00077713, 0.015336, 0.42083, 0.19354, 12.408, 0.0058594, 0.046188],
    ),
    ("five", "easy", [0.15463, 0.19615, 0.19643, 0.0014747, 0.014214, 0.42083, 0.42182, 14.665, 0.0087891, 0.046188]),
    ("five", "medium", [0.16353, 0.20434, 0.2046, 0.00050029, 0.010163, 0.42083, 0.20987, 12.384, 0.0087891, 0.046188]),
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


def test_the_easy_task_stays_as_it_was_before_there_were_decoys():
    """To the last bit of each picture."""
    made = [phantom.generate(seed, 48, task, "easy").image for task in phantom.TASKS for seed in range(5)]
    made += [phantom.generate_labelled(seed, 48, "easy").image for seed in range(5)]
    found = hashlib.sha256(np.rint(255 * np.stack(made)).astype(np.uint8).tobytes()).hexdigest()
    assert found == "c27da2a3bb873aa759890d8365451b27bfd5bea0c9bac4c653d169646ce19d8b"


def test_pictures_of_the_data_set_are_the_phantoms_rounded():
    ds = xai.load_dataset("phantom", split="test", image_size=48, limit=3, task="margin", difficulty="medium")
    for image_id, pixels, mask in zip(ds.ids, ds.pixels, ds.masks, strict=True):
        p = phantom.generate(int(image_id.removeprefix("phantom_")), 48, "margin", "medium")
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
