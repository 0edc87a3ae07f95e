"""What `benchmarks/mammograms_gpu.py` gives a network is what `train` gives it."""

import numpy as np
from mammogram_networks import CHOICES
from mammograms_gpu import changed, stages_of

from xaiutils.training.places import STRIDE, changed_together, grids_of
from xaiutils.training.recipes import RECIPES


def _image() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.indices((96, 128))
    pixels = (120 + 60 * np.sin(rows / 7) + 60 * np.cos(columns / 11)).astype(np.uint8)
    mask = (rows - 40) ** 2 + (columns - 70) ** 2 < 15**2
    return pixels, mask


def test_copies_are_changed_as_by_the_package() -> None:
    pixels, mask = _image()
    recipe, seeds = RECIPES["where_and_what_images"], [3, 8]
    images, grids = changed(pixels, mask, recipe, 6, seeds)
    repeated = np.repeat(pixels[None, ..., None], 6, axis=0), np.repeat(mask[None], 6, axis=0)
    wanted, masks = changed_together(*repeated, recipe, np.random.default_rng(seeds))
    # OpenCV interpolates at 32nds of a pixel, and grey values are whole.
    assert np.abs(images - wanted[..., 0]).max() < 2
    assert np.abs(images - wanted[..., 0]).mean() < 0.4
    assert len(np.unique(images.reshape(6, -1), axis=0)) == 6
    by_package = grids_of(wanted, masks, np.full(6, "known"), (96 // STRIDE, 128 // STRIDE))
    assert (grids == by_package).mean() > 0.98  # a place at the edge of an ellipse may be on either side


def test_stages_are_those_that_train_makes_of_the_same_arguments() -> None:
    crops, whole = stages_of(CHOICES["from the pixels"])
    assert (crops.frozen_lower, whole.frozen_lower) == (False, False)
    assert [stage.copies for stage in stages_of(CHOICES["more copies"])] == [16, 16]
    assert [(stage.name, stage.epochs) for stage in stages_of(CHOICES["no stage of crops"])] == [
        ("where_and_what_images", 8)
    ]
    longer = stages_of(CHOICES["more copies, longer"])
    assert [(stage.epochs, stage.copies, stage.crop) for stage in longer] == [(20, 16, 192), (6, 16, 0)]
