"""Recipes: their fields, augmentation, losses for rare classes, early stopping, resuming a cut run, and the toy."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml
from sklearn.metrics import roc_auc_score

import xaiutils as xai
from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.plots import toy_accuracy
from xaiutils.progress import listening
from xaiutils.training import RECIPES, Recipe, read_recipe, recipe_differences, recipe_warnings, toy_optimisers
from xaiutils.training import augmentation as aug
from xaiutils.training.features import backbone_features
from xaiutils.training.losses import class_weights, epoch_order, make_loss
from xaiutils.training.optimisation import make_schedule
from xaiutils.training.recipes import batch_size_for, change_recipe
from xaiutils.training.toy_problem import toy_recipes

PLAIN = Recipe("plain", frozen=False, learning_rate=1e-2, weight_decay=0, epochs=4)


def colours(n, seed, rare=0.5, spread=60, mirrors=True):
    """Images of two classes, red and green; a part ``rare`` of them is green."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) < n * rare).astype(int)
    pixels = rng.integers(0, spread, (n, 16, 16, 3), np.uint8)
    pixels[np.arange(n), :, :, labels] += 40
    return ImageDataset(pixels, labels, ("red", "green"), [f"{seed}-{i}" for i in range(n)], mirrors=mirrors)


def tiny(seed=0, dropout=None):
    """A network with batch norm and, if asked for, dropout in its head; quick to trace."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, strides=2, activation="relu")(layers.Rescaling(1 / 255)(inputs))
    x = layers.GlobalAveragePooling2D(name="features")(layers.BatchNormalization()(x))
    x = x if dropout is None else layers.Dropout(dropout)(x)
    return keras.Model(inputs, layers.Softmax(name="probabilities")(layers.Dense(2, name="logits")(x)))


# Fields ---------------------------------------------------------------------------------------------------------------


def test_the_thesis_is_as_written():
    """Every number of section 3.3 of the thesis."""
    expected = {
        "optimizer": "sgdw",
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "decay_by_rate": False,
        "momentum": 0.9,
        "clip": 0.001,
        "clip_by": "variable",
        "schedule": "restarts",
        "first_decay_steps": 100_000,
        "t_mul": 2,
        "m_mul": 1,
        "alpha": 1e-6,
        "epochs": 300,
        "patience": 50,
        "min_delta": 1e-4,
        "monitor": "val_accuracy",
        "dropout": 0.2,
        "rotation": 20,
        "shift": 0.2,
        "shear": 0.15,
        "zoom": 0.15,
        "flip_horizontal": True,
        "flip": False,
        "frozen": True,
        "batch_size": 0,
    }
    assert {name: getattr(RECIPES["thesis"], name) for name in expected} == expected


def test_differences_of_the_thesis_and_its_correction():
    table = recipe_differences("thesis", "thesis_corrected")
    assert table[["thesis", "thesis_corrected"]].T.to_dict("list") == {
        "clip": [0.001, 1.0],
        "decay_by_rate": [False, True],
        "clip_by": ["variable", "global"],
        "schedule": ["restarts", "cosine"],
    }
    assert table["meaning"].str.len().min() > 10
    assert recipe_differences(RECIPES["modern"], "modern").empty
    same_name = recipe_differences("modern", replace(RECIPES["modern"], epochs=2))
    assert list(same_name) == ["modern (1)", "modern (2)", "meaning"]


def test_recipes_from_yaml(tmp_path):
    recipe = read_recipe("base: thesis\nname: longer\npatience: 100\nlearning_rate: 1e-4\nclip: 1")
    assert recipe == replace(RECIPES["thesis"], name="longer", patience=100, learning_rate=1e-4, clip=1.0)
    for one in RECIPES.values():
        assert read_recipe(one.to_yaml()) == one
        (tmp_path / "r.yaml").write_text(one.to_yaml())
        assert read_recipe(tmp_path / "r.yaml") == read_recipe(str(tmp_path / "r.yaml")) == one
        assert yaml.safe_load(one.to_yaml()) == asdict(one)
    with pytest.raises(TypeError, match="no field 'patiense'; did you mean patience"):
        read_recipe({"base": "thesis", "patiense": 1})
    with pytest.raises(TypeError, match="lacks learning_rate, weight_decay, epochs"):
        read_recipe("name: mine\nfrozen: true")
    with pytest.raises(KeyError, match="did you mean thesis"):
        read_recipe("base: tesis")
    with pytest.raises(ValueError, match="not YAML"):
        read_recipe("base: [")
    with pytest.raises(TypeError, match="a recipe is a mapping"):
        read_recipe("- 1")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"patience": 2.5}, TypeError, "patience=2.5; expected int"),
        ({"batch_size": True}, TypeError, "batch_size=True; expected int"),
        ({"clip": "1"}, TypeError, "clip='1'; expected a number"),
        ({"clip": float("nan")}, TypeError, "clip=nan"),
        ({"flip": 1}, TypeError, "flip=1; expected bool"),
        ({"dropout": 1.0}, ValueError, "dropout=1.0; expected 0 to 0.99"),
        ({"weight_decay": -1}, ValueError, "weight_decay=-1.0; expected 0 to 1"),
        ({"monitor": "val_acc"}, ValueError, "did you mean val_auc or val_accuracy"),
        ({"optimizer": "adamaxw"}, ValueError, "did you mean adam"),
        ({"balance": "weights"}, ValueError, "'weights' is not known"),
        ({"optimizer": "radam", "decay_by_rate": False}, ValueError, "goes with sgdw and adamw"),
        ({"optimizer": "adam", "weight_decay": 0.1}, ValueError, "no effect with adam"),
        ({"frozen": True, "rotation": 5}, ValueError, "rotation=5.0 has no effect .* copies=4"),
        ({"frozen": True, "rotation": 5, "copies": 2, "fresh": True}, ValueError, "fresh=True is for .* copies=0"),
        ({"fresh": True, "flip": True}, ValueError, "fresh=True is for a frozen recipe"),
        ({"epochs": 0}, ValueError, "must be positive"),
        ({"then": "finetune"}, TypeError, "then='finetune'; expected a Recipe"),
        ({"then": RECIPES["modern"]}, ValueError, "cannot follow one that trains the backbone"),
        ({"also_keep": "val_loss"}, ValueError, "must differ from monitor"),
        ({"also_keep": "loss", "then": PLAIN}, ValueError, "be of the last stage"),
        ({"last_layers": 2}, ValueError, "last_layers=2 needs freeze_norm=True"),
    ],
)
def test_bad_fields(changes, error, message):
    with pytest.raises(error, match=message):
        replace(PLAIN, **changes)


def test_changes_without_effect_are_refused():
    for changes, message in (
        ({"momentum": 0.5}, "momentum=0.5 has no effect with optimizer='adamw'; it is for sgdw"),
        ({"focal_gamma": 1.0}, "loss='cross_entropy'; it is for focal"),
        ({"t_mul": 3.0, "optimizer": "sgdw"}, "schedule='cosine'; it is for restarts"),
    ):
        with pytest.raises(ValueError, match=message):
            change_recipe("modern", changes)
    with pytest.raises(ValueError, match="warmup=0.2 has no effect"):
        read_recipe("base: thesis\nwarmup: 0.2")
    assert change_recipe("thesis", {"schedule": "cosine"}).first_decay_steps == 100_000  # not what was asked for


def test_stages_in_yaml_and_print():
    recipe = read_recipe("base: modern\nthen: {base: finetune, last_layers: 3}")
    assert recipe.then == replace(RECIPES["finetune"], last_layers=3)
    assert read_recipe("base: modern\nname: modern_finetune\nthen: finetune") == RECIPES["modern_finetune"]
    assert [s.name for s in recipe.stages] == ["modern", "finetune"]
    assert all(s.then is None for s in recipe.stages)
    assert "then=(recipe finetune: " in str(recipe)
    assert "last_layers=3" in str(recipe)
    assert list(recipe_differences("modern", recipe).index) == ["then"]
    with pytest.raises(TypeError, match="no field 'last_layer'"):
        read_recipe("base: modern\nthen: {base: finetune, last_layer: 3}")


def test_batches_by_the_size_of_the_data():
    assert [batch_size_for(n) for n in (1, 2000, 2001, 10_000, 10_001)] == [16, 16, 32, 32, 64]
    with pytest.warns(UserWarning, match="can hardly learn"):
        history = xai.train(tiny(), colours(40, 0), colours(8, 1), "thesis", epochs=2, copies=1)
    # Two steps of 16 images an epoch; the rate is that of the fourth step.
    schedule = make_schedule(RECIPES["thesis"], 1)
    assert history["learning_rate"].tolist() == [float(schedule(2)), float(schedule(4))]


def test_the_thesis_alone_is_warned_of():
    for name, recipe in RECIPES.items():
        found = recipe_warnings(recipe, 10_000)
        assert len(found) == (name == "thesis"), name
    assert (
        "length of 1e-05, all 10,000 steps together to 0.1, while the decay shrinks whatever is longer than 0.1"
        in (recipe_warnings(RECIPES["thesis"], 10_000)[0])
    )
    slow = replace(RECIPES["thesis"], weight_decay=0.0)
    assert len(recipe_warnings(slow, 10_000)) == 1
    assert recipe_warnings(slow, 1_000_000) == []
    assert recipe_warnings(replace(slow, clip=0.0), 10_000) == []
    history = xai.train(tiny(), colours(16, 0), colours(8, 1), PLAIN, epochs=1)
    assert history.attrs["warnings"] == []


def test_a_recipe_prints_what_matters():
    text = str(RECIPES["thesis"])
    assert "clip=0.001" in text
    assert "decay_by_rate=False" in text
    assert "label_smoothing" not in text


# Augmentation ---------------------------------------------------------------------------------------------------------


def matrices(size=(4, 4), rotation=0.0, shift=(0.0, 0.0), shear=0.0, zoom=(1.0, 1.0)):
    one = [np.array([v], float) for v in (rotation, shift, shear, zoom)]
    return aug.affine_matrices(size, *one)


def test_warps_by_hand():
    images = np.random.default_rng(0).uniform(0, 255, (1, 4, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(aug.warp(images, matrices()), images)
    turned = aug.warp(images, matrices(rotation=90.0))
    np.testing.assert_allclose(turned[0], np.rot90(images[0], -1), atol=1e-3)
    # A shift of a quarter is one pixel up; the edge is repeated. Of a quarter across, one pixel to the left.
    up = np.concatenate([images[:, 1:], images[:, -1:]], axis=1)
    np.testing.assert_allclose(aug.warp(images, matrices(shift=(0.25, 0))), up, atol=1e-3)
    left = np.concatenate([images[:, :, 1:], images[:, :, -1:]], axis=2)
    np.testing.assert_allclose(aug.warp(images, matrices(shift=(0, 0.25))), left, atol=1e-3)
    # Zoom by 3 of the height about the centre 1.5: rows 1 and 2 show rows 0 and 3, those beyond the edge too.
    small = aug.warp(images, matrices(zoom=(3.0, 1.0)))
    np.testing.assert_allclose(small, images[:, [0, 0, 3, 3]], atol=1e-3)
    # Shear by 45 degrees: a row keeps its height up to cos, and slides by sin times its distance from the centre.
    matrix = matrices(shear=30.0)[0]
    np.testing.assert_allclose(matrix @ [1.5, 1.5, 1], [1.5, 1.5, 1])
    np.testing.assert_allclose(matrix @ [1.5, 2.5, 1], [1.5 - 0.5, 1.5 + np.sqrt(3) / 2, 1])


def test_warps_agree_with_scipy():
    """Rotation, shift, shear and zoom together, at an odd size, against an affine transform by another library."""
    from scipy import ndimage

    image = ndimage.gaussian_filter(np.random.default_rng(1).uniform(0, 255, (21, 34)), 2).astype(np.float32)
    matrix = matrices((21, 34), 17.0, (0.1, -0.15), 10.0, (0.9, 1.1))[0]
    expected = ndimage.affine_transform(image, matrix[:2, :2], matrix[:2, 2], order=1, mode="nearest")
    found = aug.warp(np.repeat(image[None, ..., None], 3, axis=-1), matrix[None])[0, ..., 0]
    inside = ndimage.affine_transform(np.ones_like(image), matrix[:2, :2], matrix[:2, 2], order=1) > 0.99
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.05)


def test_draws_fill_their_ranges():
    thesis = RECIPES["thesis"]
    drawn = aug.draw(4000, thesis, np.random.default_rng(0))
    for name, low, high in (("rotation", -20, 20), ("shift", -0.2, 0.2), ("shear", -0.15, 0.15), ("zoom", 0.85, 1.15)):
        width = high - low
        assert low <= drawn[name].min() < low + 0.01 * width
        assert high - 0.01 * width < drawn[name].max() <= high
        assert drawn[name].mean() == pytest.approx((low + high) / 2, abs=0.03 * width)


def test_contrast_is_about_each_images_mean():
    images = np.array([[10, 30], [100, 200]], np.float32).reshape(2, 1, 2, 1)
    recipe = replace(RECIPES["xrelevance_study"], flip=False, rotation=0.0, contrast=0.5)
    drawn = np.random.default_rng(0).uniform(0.5, 1.5, 2)
    expected = [[20 - 10 * drawn[0], 20 + 10 * drawn[0]], [150 - 50 * drawn[1], 150 + 50 * drawn[1]]]
    found = aug.augment(images, recipe, np.random.default_rng(0))
    np.testing.assert_allclose(found[:, 0, :, 0], expected, rtol=1e-5)
    assert found.dtype == np.float32


def test_masks_move_with_their_images():
    size = (32, 32)
    square = np.zeros((3, *size, 1), np.float32)
    square[:, 10:20, 12:25] = 1
    moves = aug.affine_matrices(size, **aug.draw(3, RECIPES["thesis"], np.random.default_rng(3)))
    moved = aug.warp(square, moves) > 0.5
    masks = aug.warp(square, moves, "NEAREST") > 0.5
    assert not np.array_equal(masks, square > 0.5)
    assert np.mean(moved != masks) < 0.01


def test_the_studys_augmentation():
    """RandomAffine(degrees=10, translate=(0.05, 0.1), scale=(0.95, 1.05), fillcolor=0): across and down, one factor."""
    moves = aug.draw(400, RECIPES["attention_study"], np.random.default_rng(0))
    for name, largest in (("rotation", 10), ("shift", (0.1, 0.05)), ("shear", 0), ("zoom", (1.05, 1.05))):
        np.testing.assert_allclose(moves[name].max(axis=0), largest, rtol=0.05)
    np.testing.assert_array_equal(*moves["zoom"].T)
    white = np.full((1, 8, 8, 1), 255, np.float32)
    up = aug.warp(white, matrices((8, 8), shift=(0.25, 0)), black=True)[0, :, :, 0]
    assert (up[:6] == 255).all()
    assert (up[6:] == 0).all()


def test_mirroring_by_axis_and_seed():
    images = np.random.default_rng(0).uniform(0, 255, (64, 4, 4, 3)).astype(np.float32)
    recipe = replace(PLAIN, flip_horizontal=True)
    changed = aug.augment(images.copy(), recipe, np.random.default_rng(0))
    flipped = np.array([np.array_equal(c, i[:, ::-1]) for c, i in zip(changed, images, strict=True)])
    kept = np.array([np.array_equal(c, i) for c, i in zip(changed, images, strict=True)])
    assert (flipped ^ kept).all()
    assert 16 < flipped.sum() < 48
    np.testing.assert_array_equal(changed, aug.augment(images.copy(), recipe, np.random.default_rng(0)))


def test_an_image_is_changed_alike_in_any_batch_of_features(monkeypatch):
    """Copies are made in batches; the generator goes on from one to the next, so that the seed decides them."""
    model, train, val = tiny(), colours(20, 0), colours(8, 1)
    seen = []
    real = aug.augment
    monkeypatch.setattr("xaiutils.training.features.BATCH_SIZE", 8)
    monkeypatch.setattr("xaiutils.training.features.augment", lambda *a: seen.append(real(*a)) or seen[-1])
    recipe = replace(RECIPES["thesis_corrected"], epochs=2, batch_size=4, copies=2)
    xai.train(model, train, val, recipe)
    assert [len(s) for s in seen] == [8, 8, 4] * 2
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    assert np.abs(first - second).max() > 10


def test_a_frozen_backbone_may_see_images_changed_anew_in_each_epoch(monkeypatch):
    model, train, val = tiny(), colours(20, 0), colours(8, 1)
    before = [w.copy() for w in model.get_weights()[:-2]]
    seen = []
    real = aug.augment
    monkeypatch.setattr("xaiutils.training.loop.augment", lambda *a: seen.append(real(*a)) or seen[-1])
    history = xai.train(
        model, train, val, "thesis_corrected", epochs=3, batch_size=20, copies=0, fresh=True, momentum=0
    )
    assert [len(s) for s in seen] == [20] * 3
    assert np.abs(np.sort(seen[0], axis=0) - np.sort(seen[1], axis=0)).max() > 10
    for a, b in zip(model.get_weights()[:-2], before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert history["val_loss"].nunique() == 3
    # Of images that nothing changes, it is the training on kept features.
    same = {"frozen": True, "contrast": 1e-9, "epochs": 3}
    found = xai.train(tiny(), train, val, replace(PLAIN, **same, fresh=True))
    kept = xai.train(tiny(), train, val, replace(PLAIN, frozen=True, epochs=3))
    np.testing.assert_allclose(found["val_loss"], kept["val_loss"], rtol=0.05)


def test_no_mirroring_where_it_changes_the_class(monkeypatch):
    monkeypatch.setattr(aug, "mirrored", lambda *_, **__: pytest.fail("mirrored"))
    train, val = colours(16, 0, mirrors=False), colours(8, 1, mirrors=False)
    xai.train(tiny(), train, val, "thesis", epochs=1, copies=1)
    xai.train(tiny(), train, val, PLAIN, epochs=1, flip=True)
    only_flips = replace(RECIPES["modern"], flip_horizontal=True, copies=3, epochs=1)
    xai.train(tiny(), train, val, only_flips)
    with pytest.raises(pytest.fail.Exception, match="mirrored"):
        xai.train(tiny(), colours(16, 0), val, only_flips)


# Losses and rare classes ----------------------------------------------------------------------------------------------


def loss_of(logits, labels, all_labels=None, **changes):
    labels = np.asarray(labels)
    loss = make_loss(replace(PLAIN, **changes), labels if all_labels is None else all_labels, len(logits[0]))
    return float(loss(tf.constant(labels, tf.int64), tf.constant(logits, tf.float32)))


def test_losses_by_hand():
    """Logits whose probabilities are 3/4 and 1/4."""
    logits = [[np.log(3.0), 0.0]]
    p = np.array([0.75, 0.25])
    assert loss_of(logits, [0]) == pytest.approx(-np.log(0.75), rel=1e-6)
    smooth = loss_of(logits, [0], label_smoothing=0.2)
    assert smooth == pytest.approx(-(0.9 * np.log(0.75) + 0.1 * np.log(0.25)), rel=1e-6)
    assert loss_of(logits, [0], loss="focal") == pytest.approx(0.25**2 * -np.log(0.75), rel=1e-6)
    assert loss_of(logits, [1], loss="focal", focal_gamma=0.5) == pytest.approx(0.75**0.5 * -np.log(0.25), rel=1e-6)
    assert loss_of(logits, [1], loss="focal", focal_gamma=0.0) == pytest.approx(-np.log(0.25), rel=1e-6)
    both = loss_of(logits, [0], loss="focal", label_smoothing=0.2)
    assert both == pytest.approx(-np.sum([0.9, 0.1] * (1 - p) ** 2 * np.log(p)), rel=1e-6)
    # Three of class 0 and one of class 1: weights 4 / (2*3) and 4 / (2*1).
    labels = np.array([0, 0, 0, 1])
    weighted = loss_of(logits * 2, [0, 1], labels, balance="class_weights")
    assert weighted == pytest.approx((-2 / 3 * np.log(0.75) - 2 * np.log(0.25)) / 2, rel=1e-6)


def test_the_focal_loss_has_a_gradient_where_the_model_is_certain():
    logits = tf.Variable([[200.0, -200.0], [-200.0, 200.0]])
    for gamma in (0.5, 2.0):
        with tf.GradientTape() as tape:
            loss = make_loss(replace(PLAIN, loss="focal", focal_gamma=gamma), np.array([0, 1]), 2)
            value = loss(tf.constant([0, 0], tf.int64), logits)
        gradient = tape.gradient(value, logits).numpy()
        assert np.isfinite(gradient).all()
        assert gradient[1, 0] < -0.1
        np.testing.assert_allclose(gradient[0], 0, atol=1e-4)


def test_class_weights():
    np.testing.assert_allclose(class_weights(np.array([0, 0, 0, 1]), 3), [2 / 3, 2, 0])
    labels = np.random.default_rng(0).integers(0, 4, 100)
    assert class_weights(labels, 4)[labels].mean() == pytest.approx(1)


def test_balanced_batches():
    labels = np.array([0] * 90 + [1] * 7 + [3] * 3)
    order = epoch_order(labels, 96, balanced=True, rng=np.random.default_rng(0))
    for batch in order.reshape(6, 16):
        assert sorted(np.bincount(labels[batch], minlength=4)[[0, 1, 3]]) in ([5, 5, 6],)
    counts = np.bincount(order, minlength=100)
    assert counts[:90].max() == 1  # 32 different ones of the 90
    assert set(counts[90:97]) <= {4, 5}  # none a second time more than another
    assert set(counts[97:]) <= {10, 11}
    plain = epoch_order(labels, 96, balanced=False, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(plain, np.random.default_rng(0).permutation(100)[:96])


@pytest.mark.parametrize(
    "changes", [{"balance": "class_weights"}, {"balance": "balanced_batches"}, {}], ids=["weights", "batches", "plain"]
)
def test_what_is_done_for_a_rare_class_finds_it(changes):
    """One image in sixteen is green, and hard to tell: without help the model calls nearly all of them red."""
    train, val = colours(320, 0, rare=1 / 16, spread=214), colours(64, 1, rare=0.5, spread=214)
    recipe = replace(PLAIN, epochs=12, batch_size=32, patience=12, monitor="val_auc", optimizer="sgdw", **changes)
    model = tiny()
    xai.train(model, train, val, replace(recipe, frozen=True, learning_rate=0.1))
    found = (xai.predict(model, val.images).argmax(axis=1) == 1)[val.labels == 1].mean()
    assert found > 0.6 if changes else found < 0.3


def test_binary_cross_entropy_by_hand():
    """Of two classes it is cross-entropy; of three, with probabilities 1/2, 1/3, 1/6, each class against the rest."""
    two = [[1.3, -0.4], [20.0, -25.0]]
    for changes in ({}, {"label_smoothing": 0.2}):
        both = [loss_of(two, [1, 1], loss=name, **changes) for name in ("binary_cross_entropy", "cross_entropy")]
        assert both[0] == pytest.approx(both[1], rel=1e-6)
    p = np.array([1 / 2, 1 / 3, 1 / 6])
    found = loss_of([np.log(p)], [1], loss="binary_cross_entropy")
    assert found == pytest.approx(-np.mean([np.log(1 / 2), np.log(1 / 3), np.log(5 / 6)]), rel=1e-6)
    # Certain and wrong, where 1 - p is 0 in float32: log(1 - p) is log 2 - 60.
    wrong = tf.Variable([[60.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        value = make_loss(replace(PLAIN, loss="binary_cross_entropy"), np.array([1]), 3)(tf.constant([1]), wrong)
    assert float(value) == pytest.approx((60 + 60 - np.log(2)) / 3, rel=1e-5)
    np.testing.assert_allclose(tape.gradient(value, wrong), [[2 / 3, -1 / 2, -1 / 6]], atol=1e-6)


# Early stopping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy", "val_auc"])
def test_the_best_epoch_by_the_monitor_is_kept(monitor):
    model, val = tiny(), colours(40, 1, spread=214)
    history = xai.train(model, colours(40, 0, spread=214), val, PLAIN, epochs=8, monitor=monitor, batch_size=8)
    assert ("val_auc" in history) == (monitor == "val_auc")
    values = history[monitor] * (-1 if monitor == "val_loss" else 1)
    kept = history.attrs["kept_epoch"]
    best = history[values == values.max()]  # of equals the first, or in val_auc the one of the lowest val_loss
    assert kept == best["epoch"].iloc[best["val_loss"].argmin() if monitor == "val_auc" else 0]
    assert history["epoch"][history["kept"]].tolist() == [kept]
    p = xai.predict(model, val.images, probabilities=True)
    now = {
        "val_loss": -np.log(p[np.arange(40), val.labels]).mean(),
        "val_accuracy": (p.argmax(axis=1) == val.labels).mean(),
        "val_auc": roc_auc_score(val.labels, p[:, 1]),
    }
    assert now[monitor] == pytest.approx(history.set_index("epoch")[monitor][kept], abs=1e-5)


def test_a_gain_below_min_delta_is_none(monkeypatch):
    gains = iter([0.5, 0.55, 0.6, 0.7, 0.71, 0.72, 0.73])
    monkeypatch.setattr("xaiutils.training.loop.validate", lambda *_: {"val_loss": 1.0, "val_accuracy": next(gains)})
    recipe = replace(PLAIN, epochs=7, monitor="val_accuracy", min_delta=0.125, patience=3)
    history = xai.train(tiny(), colours(8, 0), colours(8, 1), recipe)
    assert history["val_accuracy"].tolist() == [0.5, 0.55, 0.6, 0.7, 0.71, 0.72, 0.73]
    assert history.attrs["kept_epoch"] == 4


def test_equal_aucs_are_told_apart_by_the_loss(monkeypatch):
    """An AUC of 1 comes early and stays; the epoch that is kept is the one that is surest of it."""
    measured = iter([(0.9, 0.5), (1.0, 0.4), (1.0, 0.3), (1.0, 0.35), (0.9, 0.1), (1.0, 0.3)])
    monkeypatch.setattr(
        "xaiutils.training.loop.validate",
        lambda *_: dict(zip(("val_auc", "val_loss"), next(measured), strict=True)) | {"val_accuracy": 1.0},
    )
    recipe = replace(PLAIN, epochs=9, monitor="val_auc", patience=3)
    history = xai.train(tiny(), colours(8, 0), colours(8, 1), recipe)
    assert (len(history), history.attrs["kept_epoch"]) == (6, 3)


def test_two_sets_of_weights_are_kept(tmp_path):
    """The study's recipe: by validation loss, and by training loss."""
    train, val = colours(24, 0, spread=214), colours(24, 1, spread=214)
    model = tiny()
    history = xai.train(
        model, train, val, "attention_study", epochs=5, learning_rate=0.05, run_dir=tmp_path, batch_size=8
    )
    by_loss = history["epoch"][history["kept_by_loss"]].tolist()
    assert by_loss == [history["epoch"][history["loss"].idxmin()]]
    other = keras.models.load_model(tmp_path / "model_by_loss.keras")
    for one, epoch in ((model, history.attrs["kept_epoch"]), (other, by_loss[0])):
        p = xai.predict(one, val.images, probabilities=True)[np.arange(24), val.labels]
        assert -np.log(p).mean() == pytest.approx(history.set_index("epoch")["val_loss"][epoch], rel=1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["history.csv", "model.keras", "model_by_loss.keras"]


def test_the_auc_needs_two_classes():
    with pytest.warns(UserWarning, match="one class alone"):
        history = xai.train(tiny(), colours(8, 0), colours(8, 1, rare=0), PLAIN, monitor="val_auc")
    assert history.attrs["kept_epoch"] == history["epoch"][history["val_loss"].idxmin()]
    assert "val_auc" not in history
    assert "val_loss is watched" in history.attrs["warnings"][0]


# The thesis' recipes on images, dropout -------------------------------------------------------------------------------


def test_the_corrected_recipe_learns_and_the_thesis_hardly():
    """The same images, epochs and initial weights, on the cached features of a frozen backbone."""
    fallen = {}
    for name in ("thesis", "thesis_corrected"):
        model = tiny()
        before = model.layers[2].get_weights()
        changes = {"epochs": 30, "batch_size": 4, "learning_rate": 0.1, "rotation": 0, "copies": 2}
        history = xai.train(model, colours(64, 0), colours(64, 1), name, **changes)
        fallen[name] = history["val_loss"].min() / history["val_loss"].iloc[0]
        for a, b in zip(before, model.layers[2].get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert fallen["thesis_corrected"] < 0.8
    assert fallen["thesis"] > 0.95


def test_dropout_on_the_features():
    """A head without Dropout gets the recipe's; one with layers of its own must have the same rate."""
    train, val = colours(16, 0), colours(16, 1)
    recipe = replace(RECIPES["modern"], epochs=2)
    weights = {}
    for dropout in (0.0, 0.5):
        model = tiny()
        xai.train(model, train, val, recipe, dropout=dropout)
        weights[dropout] = model.get_layer("logits").kernel.numpy()
        assert not any(isinstance(layer, keras.layers.Dropout) for layer in model.layers)
    assert not np.allclose(weights[0.0], weights[0.5], atol=1e-5)
    whole = xai.train(tiny(), train, val, PLAIN, dropout=0.5, epochs=1)
    assert np.isfinite(whole["loss"]).all()
    xai.train(tiny(dropout=0.2), train, val, "thesis", epochs=1)
    with pytest.raises(ValueError, match=r"dropout=0.2, but the model's head has Dropout layers of \[0.5\]"):
        xai.train(tiny(dropout=0.5), train, val, "thesis", epochs=1)


@pytest.mark.parametrize("copies", [0, 2])
def test_features_may_be_rows_of_tokens(copies):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Reshape((4, 192), name="features")(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Dense(2, name="logits")(keras.layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, keras.layers.Softmax(name="probabilities")(x))
    rotation = 5.0 if copies else 0.0
    history = xai.train(
        model, colours(48, 0), colours(16, 1), epochs=30, copies=copies, rotation=rotation, batch_size=8
    )
    assert history["val_accuracy"].max() > 0.9


def test_dropout_drops_its_rate_and_scales_the_rest():
    """Through a head that adds up its inputs, the logits show how many of 1000 features of 1 were kept."""
    from xaiutils.training.loop import compiled

    inputs = keras.Input((1000,))
    head = keras.Model(inputs, keras.layers.Dense(2, kernel_initializer="ones")(inputs))
    seen = []
    optimizer = keras.optimizers.SGD(0.0)
    recipe, trained = replace(PLAIN, dropout=0.2), head.trainable_variables
    step, forward = compiled(None, head, trained, lambda y, z: tf.reduce_sum(z), optimizer, recipe, 0)
    for _ in range(2):
        seen.append(float(step(np.ones((4, 1000), np.float32), np.zeros(4, np.int64))[0]))
    kept = np.array(seen) / (4 * 2 * 1.25)
    assert kept[0] != kept[1]  # another draw each step
    np.testing.assert_allclose(kept, 800, atol=40)
    np.testing.assert_allclose(forward(np.ones((1, 1000), np.float32)), 1000)


def test_mixup():
    """Inputs that are their own labels stay so: each mixture is part of one and the rest of another of its batch."""
    from xaiutils.training.loop import mix

    y = tf.constant([0, 1, 2, 3, 4], tf.int64)
    x = tf.one_hot(y, 5)
    parts = []
    for i in range(200):
        mixed, other, part = mix(x, y, 0.4, tf.constant([7, 10 * i]))
        np.testing.assert_allclose(mixed, part * x + (1 - part) * tf.one_hot(other, 5), atol=1e-6)
        assert sorted(other.numpy()) == [0, 1, 2, 3, 4]
        parts.append(float(part))
    assert 0.5 <= min(parts) < 0.55 < 0.95 < max(parts) <= 1
    draws = np.random.default_rng(0).beta(0.4, 0.4, 100_000)
    assert np.mean(parts) == pytest.approx(np.maximum(draws, 1 - draws).mean(), abs=0.05)


def test_mixup_of_a_small_alpha_mixes_next_to_nothing():
    """Both draws of Gamma(0.001) underflow in float32, which must not make halves of all."""
    from xaiutils.training.loop import mix

    x, y = tf.zeros((2, 1)), tf.constant([0, 1], tf.int64)
    parts = [float(mix(x, y, 1e-3, tf.constant([7, 10 * i]))[2]) for i in range(40)]
    assert np.mean(parts) > 0.98


def test_mixup_trains_and_blurs_the_labels():
    """With blended labels a model cannot become certain: its training loss ends higher than without."""
    recipe = replace(PLAIN, frozen=True, learning_rate=0.5, epochs=20, batch_size=16)
    train, val = colours(64, 0), colours(32, 1)
    plain = xai.train(tiny(), train, val, recipe)
    mixed = xai.train(tiny(), train, val, recipe, mixup=1.0)
    assert mixed["loss"].iloc[-1] > plain["loss"].iloc[-1] + 0.1
    assert mixed["val_accuracy"].max() == 1


# Fine-tuning ----------------------------------------------------------------------------------------------------------


def changed_layers(model, before):
    """Names of layers of whose weights any has changed."""
    return {
        layer.name
        for layer, then in zip(model.layers, before, strict=True)
        if any(not np.array_equal(a, b) for a, b in zip(layer.get_weights(), then, strict=True))
    }


def deep(seed=0):
    """Two convolutions, each with batch norm, the second pair in a nested model, and dropout in the backbone."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inner = keras.Input((8, 8, 4))
    x = layers.BatchNormalization(name="norm2")(layers.Conv2D(4, 3, name="conv2")(inner))
    block = keras.Model(inner, layers.Dropout(0.5)(x), name="block")
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="conv1")(layers.Rescaling(1 / 255)(inputs))
    x = block(layers.BatchNormalization(name="norm1")(x))
    x = layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D(name="features")(x))
    return keras.Model(inputs, layers.Softmax(name="probabilities")(x))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"conv1", "conv2", "logits"}),
        ({"last_layers": 1}, {"conv2", "logits"}),
        ({"freeze_norm": False}, {"conv1", "norm1", "conv2", "norm2", "logits"}),
    ],
)
def test_fine_tuning_moves_what_it_should(changes, expected):
    """Without freeze_norm batch norms follow the data."""
    model = deep()
    block = model.get_layer("block")
    before, inner = ([layer.get_weights() for layer in m.layers] for m in (model, block))
    xai.train(model, colours(16, 0), colours(8, 1), "finetune", epochs=2, **changes)
    assert changed_layers(model, before) - {"block"} | changed_layers(block, inner) == expected


def test_fine_tuning_uses_the_backbone_as_it_predicts():
    """At a rate of next to nothing the training loss is the prediction's loss: no dropout, no batch statistics."""
    model, train = deep(), colours(32, 0)
    history = xai.train(model, train, colours(8, 1), "finetune", epochs=1, learning_rate=1e-12, flip=False)
    p = xai.predict(model, train.images, probabilities=True)
    assert history["loss"][0] == pytest.approx(-np.log(p[np.arange(32), train.labels]).mean(), rel=1e-5)
    with pytest.raises(ValueError, match="for a backbone that trains"):
        replace(RECIPES["modern"], freeze_norm=True)


# Checkpoints and resuming ---------------------------------------------------------------------------------------------


class Cut(Exception):
    pass


def cut_before(epoch, epochs):
    """A listener that ends a run of ``epochs`` epochs when ``epoch`` of them are done."""

    def listener(done, total):
        if (done, total) == (epoch, epochs):
            raise Cut

    return listening(listener)


RUNS = {
    "whole model, mirroring, dropout in the head": ({"flip": True, "epochs": 6}, 0.3),
    "dropout of the recipe, copies": (
        {"frozen": True, "copies": 2, "rotation": 9.0, "dropout": 0.3, "epochs": 6, "balance": "balanced_batches"},
        None,
    ),
    "changed anew in each epoch": ({"frozen": True, "fresh": True, "rotation": 9.0, "mixup": 0.4, "epochs": 6}, None),
    "sgdw": ({"optimizer": "sgdw", "mixup": 0.4, "schedule": "restarts", "first_decay_steps": 5, "epochs": 6}, None),
    "radam, stops early": (
        {"optimizer": "radam", "epochs": 6, "patience": 1, "learning_rate": 1e-7, "min_delta": 1.0},
        0.3,
    ),
}


@pytest.mark.parametrize("changes", RUNS, ids=list(RUNS))
def test_a_cut_run_goes_on_to_the_last_bit(changes, tmp_path):
    changes, dropout = RUNS[changes]
    train, val = colours(40, 0, spread=214), colours(16, 1, spread=214)
    recipe = replace(PLAIN, batch_size=8, **{"patience": 6} | changes)

    def run(folder, **options):
        model = tiny(dropout=dropout)
        history = xai.train(model, train, val, recipe, run_dir=tmp_path / folder, seed=3, **options)
        return history.drop(columns="seconds"), model.get_weights(), history.attrs["kept_epoch"]

    expected = run("whole")
    at = 4 if recipe.patience > 1 else 1
    with pytest.raises(Cut), cut_before(at, 6):
        run("cut", save_every=3 if at == 4 else 1)
    cache = ["features"] if recipe.frozen else []
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == [*cache, "training_state.npz"]
    found = run("cut", resume=True)
    assert found[0].equals(expected[0])
    assert found[2] == expected[2]
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == [*cache, "history.csv", "model.keras"]


def test_a_run_that_was_cut_in_its_last_moment_only_ends(tmp_path, monkeypatch):
    train, val = colours(16, 0), colours(8, 1)
    expected = xai.train(tiny(), train, val, PLAIN)
    model = tiny()
    monkeypatch.setattr(type(model), "save", lambda *_: (_ for _ in ()).throw(Cut))
    with pytest.raises(Cut):
        xai.train(model, train, val, PLAIN, run_dir=tmp_path, save_every=1)
    monkeypatch.undo()
    history = xai.train(tiny(), train, val, PLAIN, run_dir=tmp_path, resume=True)
    assert history.drop(columns="seconds").equals(expected.drop(columns="seconds"))


def test_a_state_of_another_run_is_refused(tmp_path):
    train, val = colours(16, 0), colours(8, 1)
    frozen = replace(PLAIN, frozen=True)
    with pytest.raises(Cut), cut_before(2, 4):
        xai.train(tiny(), train, val, frozen, run_dir=tmp_path, save_every=1)
    again = {"run_dir": tmp_path, "resume": True}
    with pytest.raises(
        ValueError, match=r"of another run: learning_rate \(0.01 then, 0.02 now\), seed \(0 then, 1 now\)"
    ):
        xai.train(tiny(), train, val, frozen, learning_rate=0.02, seed=1, **again)
    with pytest.raises(ValueError, match="training images"):
        xai.train(tiny(), colours(16, 5), val, frozen, **again)
    with pytest.raises(ValueError, match="of another model"):
        xai.train(tiny(seed=1), train, val, frozen, **again)
    with pytest.raises(ValueError, match="of another model"):
        other = tiny()
        head = keras.layers.Dense(2, name="logits")(keras.layers.Dense(3)(other.get_layer("features").output))
        xai.train(keras.Model(other.inputs, head), train, val, frozen, **again)
    # Without resume the old state does no harm.
    assert len(xai.train(tiny(), train, val, PLAIN, run_dir=tmp_path)) == 4


def test_states_are_written_by_age_where_no_number_of_epochs_is_given(tmp_path, monkeypatch):
    """A run of milliseconds leaves none; one whose last state is too old, at each epoch's end."""
    train, val = colours(16, 0), colours(8, 1)
    with pytest.raises(Cut), cut_before(2, 4):
        xai.train(tiny(), train, val, PLAIN, run_dir=tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("xaiutils.training.loop.SAVE_SECONDS", 0.0)
    with pytest.raises(Cut), cut_before(2, 4):
        xai.train(tiny(), train, val, PLAIN, run_dir=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["training_state.npz"]


def test_weights_files(tmp_path):
    model, train, val = tiny(), colours(16, 0), colours(8, 1)
    xai.train(model, train, val, PLAIN, epochs=1, run_dir=tmp_path, formats=(".keras", ".weights.h5"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["history.csv", "model.keras", "model.weights.h5"]
    other = tiny(seed=1)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(xai.predict(other, val.images), xai.predict(model, val.images))
    with pytest.raises(ValueError, match="formats has '.h5'; known: .keras, .weights.h5"):
        xai.train(model, train, val, PLAIN, formats=(".h5",))
    with pytest.raises(ValueError, match="save_every=0"):
        xai.train(model, train, val, PLAIN, save_every=0)
    with pytest.raises(ValueError, match="resume=True needs run_dir"):
        xai.train(model, train, val, PLAIN, resume=True)


# Stages ---------------------------------------------------------------------------------------------------------------

STAGED = replace(
    PLAIN,
    frozen=True,
    epochs=4,
    batch_size=8,
    then=replace(PLAIN, name="second", freeze_norm=True, epochs=3, flip=True, batch_size=8),
)


def test_a_second_stage_begins_with_the_best_of_the_first():
    """A second stage that does nothing but harm is undone: the weights are the first's best."""
    train, val = colours(40, 0, spread=214), colours(16, 1, spread=214)
    alone, model = tiny(), tiny()
    expected = xai.train(alone, train, val, replace(STAGED, then=None))
    harmful = replace(STAGED, then=replace(STAGED.then, learning_rate=50.0, clip=0.0, patience=2))
    history = xai.train(model, train, val, harmful)
    assert history["stage"].tolist() == ["plain"] * 4 + ["second"] * 2
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert history.attrs["kept_epoch"] == expected.attrs["kept_epoch"]
    assert np.allclose(history["val_loss"][:4], expected["val_loss"], rtol=1e-5)
    for a, b in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    # A rate of next to nothing: the second stage begins where the first was best.
    still = replace(STAGED, then=replace(STAGED.then, learning_rate=1e-12, flip=False, epochs=1))
    history = xai.train(tiny(), train, val, still)
    assert history["val_loss"][4] == pytest.approx(history["val_loss"][:4].min(), rel=1e-4)


def test_the_history_says_what_was_done():
    """The recipe as these data made it, in all stages, and the time of the whole call."""
    train, val = colours(16, 0, mirrors=False), colours(8, 1, rare=0)
    with pytest.warns(UserWarning, match="one class alone"):
        history = xai.train(tiny(), train, val, STAGED, epochs=1, batch_size=0, monitor="val_auc")
    first, second = history.attrs["recipe"], history.attrs["recipe"]["then"]
    assert (first["batch_size"], first["monitor"], second["batch_size"], second["flip"]) == (16, "val_loss", 16, False)
    assert second["then"] is None
    assert read_recipe(first).stages[1].name == "second"
    assert history.attrs["seconds"] > history["seconds"].sum()


def test_patients_in_both_splits_are_told():
    train, val = (replace(colours(n, n), patients=[f"p{i}" for i in range(at, at + n)]) for n, at in ((16, 0), (8, 14)))
    with pytest.warns(UserWarning, match="2 patients have images in both train_ds and val_ds, such as 'p14'"):
        history = xai.train(tiny(), train, val, PLAIN, frozen=True, epochs=1)
    assert len(history.attrs["warnings"]) == 1


def test_epochs_and_batch_size_hold_in_every_stage():
    train, val = colours(16, 0), colours(8, 1)
    history = xai.train(tiny(), train, val, PLAIN, epochs=2, frozen=True, then="finetune", batch_size=4)
    assert history["stage"].tolist() == ["plain"] * 2 + ["finetune"] * 2


@pytest.mark.parametrize("at", [(3, 4), (2, 3)], ids=["first stage", "second stage"])
def test_a_run_of_two_stages_goes_on_to_the_last_bit(at, tmp_path):
    train, val = colours(40, 0, spread=214), colours(16, 1, spread=214)

    def run(folder, **options):
        model = tiny(dropout=0.3)
        history = xai.train(model, train, val, STAGED, run_dir=tmp_path / folder, seed=3, **options)
        return history.drop(columns="seconds"), model.get_weights()

    expected = run("whole")
    assert len(expected[0]) == 7
    with pytest.raises(Cut), cut_before(*at):
        run("cut", save_every=2)
    found = run("cut", resume=True)
    assert found[0].equals(expected[0])
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_array_equal(a, b)


# Features on disk -----------------------------------------------------------------------------------------------------


def test_features_are_computed_once_for_all_runs(tmp_path, monkeypatch):
    from xaiutils.training import features

    train, val = colours(20, 0), colours(8, 1)
    computed = []
    real = features.progress
    monkeypatch.setattr(features, "progress", lambda *a: computed.append(a[2]) or real(*a))
    frozen = replace(PLAIN, frozen=True, epochs=2)

    def passes(model=None, train_ds=train, **changes):
        computed.clear()
        model = model or tiny()
        history = xai.train(model, train_ds, val, frozen, run_dir=tmp_path, **changes)
        return len(computed), history["val_loss"].tolist()

    first = passes()
    assert first[0] == 2
    assert passes() == (0, first[1])
    assert passes(optimizer="sgdw", learning_rate=0.1)[0] == 0
    assert passes(copies=3, rotation=5.0)[0] == 3  # those of the validation images are there
    assert passes(copies=3, rotation=5.0)[0] == 0
    assert passes(copies=3, rotation=5.0, seed=1)[0] == 3
    assert passes(batch_size=8)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(features, "code_of_features", lambda: "newer")
        assert passes()[0] == 2
    assert passes(tiny(seed=1))[0] == 2
    other = tiny()
    other.layers[1].scale = 1 / 127.5  # another network with the same weights
    assert passes(other)[0] == 2
    changed = train.pixels.copy()
    changed[3, 0, 0, 0] ^= 1
    assert passes(train_ds=replace(train, pixels=changed))[0] == 1
    files = sorted((tmp_path / "features").iterdir())
    for file in files:
        file.write_bytes(b"broken")
    assert passes() == first
    # The oldest go where there is no room.
    monkeypatch.setattr(features, "CACHE_BYTES", 2 * 20 * 4 * 4)
    passes(tiny(seed=2))
    left = sum(f.stat().st_size for f in (tmp_path / "features").iterdir())
    assert 0 < left <= features.CACHE_BYTES


def test_features_of_a_network_that_is_wired_otherwise_are_not_taken(tmp_path):
    """The same layers and weights: features of the one say nothing of the other."""

    def extractor(residual: bool) -> keras.Model:
        inputs = keras.Input((16, 16, 3))
        pooled = keras.layers.MaxPooling2D(4)(inputs)
        scaled = keras.layers.Rescaling(-0.5)(pooled)
        added = keras.layers.Add()([pooled if residual else scaled, scaled])
        return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(added))

    data = colours(6, 0), colours(4, 1), replace(PLAIN, frozen=True), 0
    for residual in (False, True, False):
        kept = backbone_features(extractor(residual), *data, tmp_path)
        np.testing.assert_array_equal(kept[0], backbone_features(extractor(residual), *data)[0])
    assert len(list(tmp_path.iterdir())) == 4


# Precision ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(precision, monkeypatch):
    """It computes in half precision, with variables, logits and the trained model in float32, and learns the same."""
    from xaiutils.training import loop

    seen = {}
    real = loop.compiled

    def spy(body, head, trained, loss, optimizer, *more):
        seen["scaled"] = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        seen["variables"] = {v.dtype for v in trained}
        seen["policies"] = [layer.compute_dtype for layer in head.layers if layer.name != "probabilities"]

        def noted(y, logits):
            seen["logits"] = logits.dtype
            return loss(y, logits)

        return real(body, head, trained, noted, optimizer, *more)

    monkeypatch.setattr(loop, "compiled", spy)
    train, val = colours(48, 0), colours(16, 1)
    losses = {}
    for name in ("float32", precision):
        model = tiny()
        history = xai.train(model, train, val, PLAIN, epochs=4, batch_size=8, precision=name, freeze_norm=False)
        losses[name] = history["val_loss"].to_numpy()
    half = precision.removeprefix("mixed_")
    #  input, rescaling, convolution, batch norm, features, logits
    assert seen["policies"] == ["float32", "float32", half, half, half, "float32"]
    assert seen["scaled"] == (half == "float16")
    assert (seen["variables"], seen["logits"]) == ({"float32"}, tf.float32)
    assert not np.array_equal(losses[precision], losses["float32"])
    np.testing.assert_allclose(losses[precision], losses["float32"], rtol=0.05, atol=0.01)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    with pytest.raises(ValueError, match="did you mean .*mixed_float16"):
        xai.train(tiny(), train, val, PLAIN, precision="float16")


# The toy --------------------------------------------------------------------------------------------------------------


def test_the_thesis_optimiser_cannot_learn_what_the_corrected_one_can():
    thesis, unclipped, corrected = toy_recipes()
    slow = toy_optimisers(n_steps=2000, every=2000, recipes=[thesis])  # after 10,000: 0.58
    assert slow["accuracy"].iloc[-1] < 0.6
    # Its kernel has done little but shrink, by 1e-4 a step.
    assert slow["weight_norm"].iloc[-1] == pytest.approx(slow["weight_norm"].iloc[0] * np.exp(-0.2), rel=0.01)
    quick = toy_optimisers(n_steps=1000, every=500, recipes=[unclipped, corrected])
    assert list(quick["step"]) == [0, 500, 1000] * 2
    assert (quick.groupby("recipe")["accuracy"].last() > 0.95).all()
    figure = toy_accuracy(quick)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert {"thesis without the clip", "thesis_corrected"} <= set(labels)


def test_the_toy_repeats_itself_and_checks_its_sizes():
    few = {"n_steps": 30, "every": 20, "n_train": 128, "n_test": 64, "recipes": ["thesis_corrected"]}
    first = toy_optimisers(**few)
    assert first.equals(toy_optimisers(**few))
    assert list(first["step"]) == [0, 20, 30]
    assert not first["weight_norm"].equals(toy_optimisers(seed=1, **few)["weight_norm"])
    with pytest.raises(ValueError, match="n_train=63 at least 64"):
        toy_optimisers(n_train=63)


def test_the_notebooks_may_name_every_recipe():
    from xaiutils.workbook.parameters import PARAMETERS

    assert set(PARAMETERS["recipe"].choices) == {"auto", *RECIPES}
