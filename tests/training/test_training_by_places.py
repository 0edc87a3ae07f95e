"""Training by places: grids, losses and crops worked out by hand, and that the head learns where to look."""

import numpy as np
import pytest
from small_models import discs, where_and_what_network

import xaiutils as xai
from xaiutils.backend import keras, tf
from xaiutils.evaluation.detection import where_and_what_maps
from xaiutils.training import RECIPES, Callback, Recipe, default_recipe
from xaiutils.training.checks import attention_warnings, check_devices
from xaiutils.training.optimisation import MovingAverage
from xaiutils.training.places import (
    DARK,
    IGNORED,
    LESION,
    OTHER,
    attention_loss,
    changed_together,
    crop_start,
    evidence_grid,
    what_loss,
    where_loss,
)
from xaiutils.training.recipes import change_recipe

QUICK = {"learning_rate": 5e-3, "copies": 2, "epochs": 6}


def points(model, ds):
    """How often the highest place of the map of where lies on the evidence."""
    where, _ = where_and_what_maps(model, ds.pixels)
    places = [np.add(np.multiply(np.unravel_index(l.argmax(), l.shape), 16), 8) for l in where]  # noqa: E741
    return np.mean(
        [
            mask[row - 8 : row + 8, column - 8 : column + 8].any()
            for mask, (row, column) in zip(ds.masks, places, strict=True)
        ]
    )


# By hand --------------------------------------------------------------------------------------------------------------


def test_the_grid_of_a_box():
    """A box of 32 x 32 pixels is the ellipse in it: four places of 16 pixels inside, a ring of which nothing is asked
    (8 places), and not the ring's corners. The left column of the image is black."""
    mask, grey = np.zeros((96, 96), bool), np.ones((96, 96))
    mask[32:64, 32:64], grey[:, :16] = True, 0
    x, o, d, L = IGNORED, OTHER, DARK, LESION
    expected = [
        [d, o, o, o, o, o],
        [d, o, x, x, o, o],
        [d, x, L, L, x, o],
        [d, x, L, L, x, o],
        [d, o, x, x, o, o],
        [d, o, o, o, o, o],
    ]
    np.testing.assert_array_equal(evidence_grid(mask, grey, (6, 6)), expected)


def test_a_lesion_of_one_pixel_has_its_place():
    mask = np.zeros((64, 96), bool)
    mask[17, 90] = mask[50, 3] = True
    grid = evidence_grid(mask, np.ones(mask.shape), (4, 6))
    assert {tuple(place) for place in np.argwhere(grid == LESION)} == {(1, 5), (3, 0)}


def test_losses():
    grids = tf.constant([[[1, -1], [0, 2]], [[0, 0], [0, 0]]], tf.int8)
    where = tf.constant([[[np.log(3.0), 50.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]], tf.float32)
    # -log(3/4) once, halved, by 1 + 1; six times log 2 by 6 + 1
    assert np.isclose(where_loss(where, grids), 0.5 * np.log(4 / 3) / 2 + 6 * np.log(2) / 7)
    what = tf.reshape(tf.constant([[0.0, np.log(4.0)]] + [[9.0, -9.0]] * 7, tf.float32), (2, 2, 2, 2))
    assert np.isclose(what_loss(what, grids, tf.constant([1, 0], tf.int64), 0.0), -np.log(0.8))
    smoothed = what_loss(what, grids, tf.constant([1, 0], tf.int64), 0.2)
    assert np.isclose(smoothed, -0.9 * np.log(0.8) - 0.1 * np.log(0.2))
    attention = tf.constant([[[0.3, 0.2], [0.4, 0.1]], [[0.25, 0.25], [0.25, 0.25]]])
    assert np.isclose(attention_loss(attention, grids), -np.log(0.5 * 0.98 + 0.01))
    nothing = tf.zeros_like(grids)
    assert attention_loss(attention, nothing) == what_loss(what, nothing, tf.constant([1, 0], tf.int64), 0.0) == 0


def test_crops_are_about_the_evidence():
    grid = np.zeros((8, 12), np.int8)
    grid[5, 10] = LESION
    rng = np.random.default_rng(0)
    starts = np.array([crop_start(grid, 4, LESION, rng) for _ in range(50)])
    assert (starts % 2 == 0).all()
    assert ((starts <= [5, 10]) & (starts + 4 > [5, 10])).all()
    assert (starts.min(axis=0) >= 0).all()
    assert (starts.max(axis=0) <= [4, 8]).all()
    elsewhere = np.array([crop_start(grid, 4, OTHER, rng) for _ in range(50)])
    assert len(np.unique(elsewhere, axis=0)) > 6


def test_masks_move_with_their_images():
    ds = discs(6, 0)
    recipe = change_recipe("where_and_what", {"rotation": 20, "shift": 0.1, "zoom": 0.2})
    pixels = 200.0 * ds.masks[..., None].repeat(3, -1)
    x, masks = changed_together(pixels, ds.masks, recipe, np.random.default_rng(0))
    assert not np.array_equal(masks, ds.masks)
    np.testing.assert_array_equal(x[..., 0] > 100, masks)


def test_moving_average():
    variable = keras.Variable(0.0)
    average = MovingAverage([variable], 0.5)
    expected = 0.0
    for step, value in enumerate([10.0, 20.0, 30.0]):
        variable.assign(value)
        average.update(step)
        d = min(0.5, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * value
    with average.in_place():
        assert np.isclose(variable, expected)
    assert float(variable) == 30
    assert MovingAverage([variable], 0).variables == []


# Learning -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("where_and_what_images", {}),
        ("where_and_what", {"crop": 64, "frozen_lower": False, "batch_size": 8}),
    ],
)
def test_it_learns_where_to_look(recipe, options):
    model, train, val = where_and_what_network(), discs(48, 0), discs(24, 1)
    before = points(model, val)
    history = xai.train(model, train, val, recipe, **QUICK, **options)
    assert points(model, val) > max(0.6, before + 0.2)
    assert set(history["stage"]) == {stage.name for stage in RECIPES[recipe].stages}
    assert model.get_layer("what").trainable


def test_labels_alone_need_no_masks():
    """Without masks the same head trains, and where the lower layers stay they do."""
    train, val = (
        xai.datasets.ImageDataset(d.pixels, d.labels, d.class_names, d.ids) for d in (discs(16, 0), discs(8, 1))
    )
    model = where_and_what_network()
    lower, kept = model.layers[2].get_weights(), model.get_layer("where").get_weights()
    xai.train(model, train, val, "where_and_what_labels", epochs=1, copies=1)
    np.testing.assert_array_equal(model.layers[2].get_weights()[0], lower[0])
    assert not np.array_equal(model.get_layer("where").get_weights()[0], kept[0])
    with pytest.raises(ValueError, match="needs evidence .*'where_and_what_labels' does without"):
        xai.train(where_and_what_network(), train, val, "where_and_what")


def test_attention_that_does_not_look_at_the_images_is_named():
    """On one place whatever is pictured, as a place of its own makes it; not where it follows the images, nor where it
    is even, as that of new weights."""
    images = np.zeros((3, 64, 96, 3), np.float32)
    for image, column in zip(images, (0, 32, 64), strict=True):
        image[:, column : column + 32] = 200
    model = where_and_what_network()
    assert attention_warnings(model, images) == []
    neck = keras.Model(model.inputs, model.get_layer("where").input)([images]).numpy()
    direction = neck[0, 2, 0] - neck[0, 2, -1]  # from black to what is pictured
    kernel = np.zeros(model.get_layer("where").get_weights()[0].shape, np.float32)
    kernel[1, 1, :, 0] = 50 * direction / np.square(direction).sum()
    model.get_layer("where").set_weights([kernel, np.zeros(1, np.float32)])
    assert attention_warnings(model, images) == []
    same = np.repeat(images[:1], 3, axis=0)  # the same attention in all, and uneven
    (text,) = attention_warnings(model, same)
    assert text.startswith("the attention lies on the same places in all of 3 images of val_ds")


class Stop(Callback):
    def on_epoch_end(self, epoch, model, row):
        if epoch == 3:
            raise KeyboardInterrupt


def test_a_cut_run_goes_on(tmp_path):
    """In the second stage, with average, files of features and all: to the last bit."""
    train, val, weights = discs(16, 0), discs(8, 1), []
    options = {"crop": 32, "copies": 2, "epochs": 2, "batch_size": 8}
    for folder, cut in ((tmp_path / "whole", False), (tmp_path / "cut", True)):
        model = where_and_what_network()
        if cut:
            with pytest.raises(KeyboardInterrupt):
                xai.train(
                    model, train, val, "where_and_what", run_dir=folder, save_every=1, callbacks=[Stop()], **options
                )
            model = where_and_what_network()
        xai.train(model, train, val, "where_and_what", run_dir=folder, resume=True, **options)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(list((tmp_path / "cut" / "lower_features").glob("*.npy"))) == 16 + 16 + 8


def test_refusals():
    train, val = discs(4, 0), discs(4, 1)
    with pytest.raises(ValueError, match=r"is for build_model\(head='where_and_what'\)"):
        xai.train(xai.build_model("vit_ti16", 2, 64), discs(4, 0, (64, 64)), discs(4, 1, (64, 64)), "where_and_what")
    with pytest.raises(ValueError, match="crop=192 needs images whose sides"):
        xai.train(where_and_what_network(), train, val, "where_and_what")
    with pytest.raises(ValueError, match="crop=40; expected a multiple of 32"):
        change_recipe("where_and_what", {"crop": 40})
    with pytest.raises(ValueError, match="does not go with mixup"):
        change_recipe("where_and_what", {"mixup": 0.2})
    with pytest.raises(ValueError, match="is for one device"):
        check_devices(2, [change_recipe("scratch", {"average": 0.9})], 64)
    with pytest.raises(ValueError, match="crop=32; expected"):
        Recipe("x", frozen=False, learning_rate=1, weight_decay=0, epochs=1, crop=32)
    assert default_recipe("imagenet", "where_and_what") == "where_and_what"
