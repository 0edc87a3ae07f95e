"""Which scaling a model was trained with, found on images whose right reading is known."""

import warnings

import keras
import numpy as np
import pytest

import xaiutils as xai
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.evaluate import check_order
from xaiutils.own_model.class_order import in_order_of
from xaiutils.own_model.measure_scaling import batch_norm_misfit, measure_scaling
from xaiutils.own_model.scalings import SCALINGS, scale

READINGS = ["model", "0-1", "-1-1", "imagenet", "caffe"]
RNG = np.random.default_rng(0)


def grey_images(n, channels=3):
    """Flat images of every brightness, so that half of them lie above 127.5."""
    levels = RNG.permutation(np.linspace(20, 235, n))
    images = np.repeat(levels[:, None, None, None], 8, axis=1).repeat(8, axis=2).repeat(channels, axis=3)
    return images.astype(np.uint8)


def dataset(pixels, labels, names=("dark", "bright"), **more):
    return ImageDataset(pixels, labels, names, [str(i) for i in range(len(pixels))], **more)


def scaled(value, reading, channels=3):
    """A flat image of one brightness, as a reading scales it: one number for each channel."""
    pixel = keras.Input((1, 1, channels))
    return keras.Model(pixel, scale(pixel, reading)[0])(np.full((1, 1, 1, channels), value, "float32")).numpy().ravel()


def brightness(reading, units, channels=3, head="softmax", **model):
    """A model of scaled images that is right, and sure, on images above and below 127.5 under one reading alone."""
    middle, unit = scaled(127.5, reading, channels), scaled(137.5, reading, channels) - scaled(127.5, reading, channels)
    images = keras.Input((8, 8, channels))
    dense = keras.layers.Dense(units, activation=head)
    outputs = dense(keras.layers.GlobalAveragePooling2D()(images))
    slope = 1 / unit / channels
    kernel, bias = slope[:, None], -np.array([slope @ middle])
    dense.set_weights([np.hstack([-kernel, kernel]), np.r_[-bias, bias]] if units == 2 else [kernel, bias])
    return keras.Model(images, outputs, **model)


@pytest.mark.parametrize("reading", READINGS)
def test_the_reading_that_a_classifier_was_made_for_is_found(reading):
    pixels = grey_images(60)
    ds = dataset(pixels, pixels[:, 0, 0, 0] > 127.5)
    found = measure_scaling(lambda name: xai.wrap(brightness(reading, 2), scaling=name), ds)
    assert found.chosen == reading
    assert not found.near_chance
    assert found.table.loc[reading, "value"] == 1
    assert found.table.loc[reading, "n"] == 60
    assert found.table.loc[reading, "low"] == pytest.approx(0.9398, abs=1e-3)  # Wilson's interval of 60 of 60
    assert "accuracy 100.0 % [94 to 100 %]" in found.sentences[0]


def test_wrap_measures_where_the_scaling_is_not_given():
    pixels = grey_images(60)
    ds = dataset(pixels, pixels[:, 0, 0, 0] > 127.5)
    model = xai.wrap(brightness("0-1", 2), sample=ds)
    assert (model.facts.scaling, model.facts.scaling_from) == ("0-1", "measured")
    assert (xai.predict(model, ds.images).argmax(1) == ds.labels).all()
    assert "'0-1' fits best" in model.facts.notes[0]
    assert model.facts.class_names == ds.class_names
    assert f"the outputs are taken to be {', '.join(ds.class_names)}, as the sample has them" in model.facts.notes[-1]
    assert xai.wrap(brightness("0-1", 2), class_names=["x", "y"], sample=ds).facts.class_names == ("x", "y")
    given = xai.wrap(brightness("0-1", 2), scaling="-1-1", sample=ds)
    assert (given.facts.scaling, given.facts.scaling_from) == ("-1-1", "given")


def test_classes_are_matched_by_their_names():
    pixels = grey_images(60)
    swapped = dataset(pixels, pixels[:, 0, 0, 0] <= 127.5, names=("bright", "dark"))
    model = brightness("0-1", 2)
    named = measure_scaling(lambda n: xai.wrap(model, scaling=n, class_names=["dark", "bright"]), swapped)
    assert named.chosen == "0-1"
    assert named.table["value"].max() == 1
    unnamed = measure_scaling(lambda n: xai.wrap(model, scaling=n), swapped)
    assert unnamed.near_chance
    assert "would be 1.00 if the two classes were swapped" in unnamed.sentences[-1]
    other = measure_scaling(lambda n: xai.wrap(model, scaling=n, class_names=["cat", "dog"]), swapped)
    assert "the model's classes are cat, dog" in other.sentences[0]


def test_a_grey_model_of_one_unit():
    pixels = grey_images(60)
    ds = dataset(pixels, pixels[:, 0, 0, 0] > 127.5)
    model = brightness("-1-1", 1, channels=1, head="sigmoid")
    found = measure_scaling(lambda name: xai.wrap(model, scaling=name), ds)
    assert found.chosen == "-1-1"
    assert set(found.table.index) == set(SCALINGS) - {"imagenet", "caffe"}


def test_labels_of_several_at_once_with_some_unknown():
    pixels = grey_images(60)
    bright = pixels[:, 0, 0, 0] > 127.5
    labels = np.stack([~bright, bright], axis=1).astype(np.int8)
    labels[:5, 0] = -1
    found = measure_scaling(
        lambda n: xai.wrap(brightness("0-1", 2, head="sigmoid"), scaling=n), dataset(pixels, labels)
    )
    assert found.chosen == "0-1"
    assert found.table.loc["0-1", "figure"] == "macro AUC"
    assert found.table.loc["0-1", "value"] == 1


def test_a_model_that_knows_nothing_is_told_before_any_map():
    pixels = grey_images(60)
    ds = dataset(pixels, RNG.integers(0, 2, 60))
    with pytest.warns(UserWarning, match="Under no reading .* better than chance"):
        xai.wrap(brightness("0-1", 2), sample=ds)


def test_readings_that_give_the_same_answers_are_said_to():
    images = keras.Input((8, 8, 3))
    normed = keras.layers.Lambda(lambda x: keras.ops.cast(x > keras.ops.mean(x), "float32"))(images)  # of any scale
    model = keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(normed)))
    pixels = RNG.integers(0, 255, (40, 8, 8, 3)).astype(np.uint8)
    wrap = lambda name: xai.wrap(model, scaling=name)  # noqa: E731
    ds = dataset(pixels, xai.predict(wrap("model"), pixels).argmax(1))
    found = measure_scaling(wrap, ds, names=["model", "0-1"])
    assert found.chosen == "model"
    assert not found.clear
    assert found.sentences[1] == "'model', '0-1' give the same answers: it does not matter which is taken."


def normed_model(reading, channels=3):
    """A classifier whose first layer remembers the pixels of training under ``reading``; its answers say nothing."""
    norm = keras.layers.BatchNormalization()
    images = keras.Input((8, 8, channels))
    model = keras.Model(images, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(norm(images))))
    pixels = grey_images(60, channels).astype("float32")
    seen = keras.Model(images, scale(images, reading)[0]).predict(pixels, verbose=0)
    norm.set_weights([*norm.get_weights()[:2], seen.mean((0, 1, 2)), seen.var((0, 1, 2))])
    return model


@pytest.mark.parametrize("reading", READINGS)
def test_without_labels_the_batch_normalisation_tells(reading):
    model = normed_model(reading)
    found = measure_scaling(lambda name: xai.wrap(model, scaling=name), grey_images(60))
    assert found.chosen == reading
    assert not found.clear
    assert found.table.loc[reading, "misfit"] == pytest.approx(0, abs=2e-3)
    assert "without labels" in found.sentences[0]
    assert "batch normalisation" in found.sentences[0]


def test_where_labels_do_not_tell_the_batch_normalisation_decides():
    model = normed_model("0-1")
    ds = dataset(grey_images(60), RNG.integers(0, 2, 60))
    found = measure_scaling(lambda name: xai.wrap(model, scaling=name), ds)
    assert found.chosen == "0-1"
    assert found.near_chance
    assert "first batch normalisation keeps from training speak for '0-1'" in " ".join(found.sentences)


def test_the_misfit_is_the_divergence_of_normal_distributions():
    model = normed_model("model")
    variance, mean = (keras.ops.convert_to_numpy(getattr(model.layers[1], f"moving_{w}")) for w in ("variance", "mean"))
    norm = model.layers[1]
    norm.set_weights([*norm.get_weights()[:2], mean + np.sqrt(variance), variance])  # one deviation away: 1/2
    assert batch_norm_misfit(model, grey_images(60)) == pytest.approx(0.5, abs=0.01)


def test_without_labels_or_batch_normalisation_the_answers_are_weak_evidence():
    found = measure_scaling(lambda n: xai.wrap(brightness("0-1", 2), scaling=n), grey_images(60))
    assert "weak evidence" in found.sentences[0]
    assert not found.clear


def test_an_empty_sample_is_refused():
    with warnings.catch_warnings(), pytest.raises(ValueError, match="sample is empty"):
        measure_scaling(lambda n: brightness("0-1", 2), np.zeros((0, 8, 8, 3), np.uint8))


def test_a_score_is_measured_by_its_error():
    pixels = grey_images(40)
    values = pixels[:, 0, 0, 0].astype(float)  # the model's answer is the brightness in grey values
    core = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)])
    core.layers[-1].set_weights([np.full((3, 1), 42.5), np.array([127.5])])
    ds = dataset(pixels, np.zeros(40), names=("all",), values=values)
    found = measure_scaling(lambda n: xai.wrap(core, scaling=n, head="regression"), ds)
    assert found.chosen == "-1-1"
    assert found.table.loc["-1-1", "value"] == pytest.approx(1, abs=1e-4)
    assert "correlation 1.00" in found.sentences[0] or "correlation 1" in found.sentences[0]
    assert not found.near_chance


def test_each_case_brings_its_own_row():
    pixels = grey_images(40)
    image, row = keras.Input((8, 8, 3), name="image"), keras.Input((1,), name="row")
    joined = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(image), row])
    dense = keras.layers.Dense(1, activation="sigmoid")
    core = keras.Model([image, row], dense(joined))
    dense.set_weights([np.array([[20.0], [20], [20], [60]]), np.array([-30.0])])  # bright in [0, 1], or the row's
    rows = RNG.choice([-1.0, 1.0], 40)
    bright = pixels[:, 0, 0, 0] / 255 > 0.5
    ds = dataset(pixels, np.where(rows > 0, True, np.where(rows < 0, False, bright)), inputs={"row": rows[:, None]})
    found = measure_scaling(lambda n: xai.wrap(core, scaling=n, inputs={"row": "case"}), ds)
    assert found.table.loc["0-1", "value"] == 1


def test_one_unit_of_the_class_that_the_data_have_first():
    """Labels read the other way round would choose a scaling that makes the model least sure."""
    pixels = grey_images(60)
    ds = dataset(pixels, pixels[:, 0, 0, 0] <= 127.5, names=("malignant", "normal"))
    found = xai.wrap(brightness("0-1", 1, head="sigmoid"), sample=ds, positive_class="malignant")
    assert found.facts.scaling == "0-1"
    assert found.facts.class_names == ("normal", "malignant"), "as many as the sample has, the positive one last"
    with pytest.raises(ValueError, match="the model's classes are normal, malignant"):
        check_order(found, ds.class_names)
    unnamed = xai.wrap(brightness("0-1", 1, head="sigmoid"), scaling="0-1", positive_class="malignant")
    with pytest.raises(ValueError, match="one unit is the probability of 'malignant'"):
        check_order(unnamed, ds.class_names)
    ordered = in_order_of(found, ds.class_names)
    assert (xai.predict(ordered, ds.images).argmax(1) == ds.labels).all()


def test_a_sample_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="sample is int; expected an ImageDataset"):
        xai.wrap(brightness("0-1", 2), sample=3)
