"""Training: that it learns, keeps the best epoch, repeats itself, and reports honestly."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.file_limits import FileError
from xaiutils.models.scaling import standardised, with_z_norm
from xaiutils.training import RECIPES, classification_report, clear_example
from xaiutils.training.state import Variables, load_state, load_variables


def colours(n, seed, n_classes=2):
    """Images whose class is their dominant colour channel."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    pixels = rng.integers(0, 60, (n, 32, 32, 3), np.uint8)
    pixels[np.arange(n), :, :, labels] += 150
    return ImageDataset(pixels, labels, tuple("rgb")[:n_classes], [f"{seed}-{i}" for i in range(n)])


def small(n_classes=2, seed=0):
    """A network with dropout that is quick to trace, for what does not depend on the architecture."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(layers.Rescaling(1 / 127.5, -1)(inputs))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D(name="features")(x))
    return keras.Model(inputs, layers.Softmax(name="probabilities")(layers.Dense(n_classes, name="logits")(x)))


@pytest.fixture(scope="module")
def frozen():
    model = xai.build_model("efficientnet_lite0", 2, 32, weights="imagenet")
    before = model.get_layer("top_conv").weights[0].numpy()
    history = xai.train(model, colours(64, 0), colours(32, 1), epochs=20)
    return model, history, before


def test_a_frozen_backbone_learns_with_its_head_only(frozen):
    model, history, before = frozen
    report = classification_report(model, colours(40, 2))
    assert report.summary["accuracy"] > 0.95
    assert report.beats_chance
    np.testing.assert_array_equal(model.get_layer("top_conv").weights[0], before)
    measured = ["loss", "accuracy", "val_loss", "val_accuracy", "val_auc"]
    assert list(history) == ["epoch", "stage", *measured, "learning_rate", "seconds", "kept"]
    assert set(history["stage"]) == {"modern"}
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_the_whole_model_learns_from_scratch_and_keeps_its_best_epoch(tmp_path):
    model = xai.build_model("vit_mini16", 2, 32)
    val = colours(32, 1)
    history = xai.train(model, colours(96, 0), val, "scratch", epochs=8, run_dir=tmp_path, patience=8)
    report = classification_report(model, val)
    best = history.loc[history["val_loss"].idxmin()]
    p = report.probabilities[np.arange(len(val)), val.labels]
    assert -np.log(p).mean() == pytest.approx(best["val_loss"], rel=1e-2, abs=1e-6)
    assert report.summary["accuracy"] == pytest.approx(best["val_accuracy"])
    assert best["val_accuracy"] > 0.9
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(xai.predict(loaded, val.images), xai.predict(model, val.images), atol=1e-5)
    assert len((tmp_path / "history.csv").read_text().splitlines()) == len(history) + 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["history.csv", "model.keras"]


def test_same_seed_same_weights():
    results = []
    for seed in (0, 0, 1):
        model = small()
        xai.train(model, colours(32, 0), colours(16, 1), "scratch", epochs=1, seed=seed, batch_size=8)
        results.append(model.get_layer("logits").kernel.numpy())
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)
    assert not np.allclose(results[0], results[2], atol=1e-6)


def test_early_stopping():
    model = xai.build_model("efficientnet_lite0", 2, 32, weights="imagenet")
    noise = colours(32, 1)
    noise = ImageDataset(noise.pixels, np.random.default_rng(0).permutation(noise.labels), noise.class_names, noise.ids)
    history = xai.train(model, colours(64, 0), noise, epochs=60, patience=3)
    assert len(history) < 60
    assert len(history) - history["val_auc"].idxmax() - 1 == len(history) - history.attrs["kept_epoch"] == 3


def test_bad_arguments(frozen):
    model, train, val = frozen[0], colours(8, 0), colours(8, 1)
    with pytest.raises(TypeError, match="no field 'learningrate'"):
        xai.train(model, train, val, learningrate=1)
    with pytest.raises(KeyError, match="did you mean modern"):
        xai.train(model, train, val, "moderm")
    with pytest.raises(ValueError, match="8 images are in both"):
        xai.train(model, train, train)
    with pytest.raises(ValueError, match="val_ds has 3 classes"):
        xai.train(model, train, colours(9, 1, 3))
    with pytest.raises(ValueError, match="flip=True has no effect"):
        xai.train(model, train, val, flip=True)
    with pytest.raises(ValueError, match="train_ds is empty"):
        xai.train(model, train.select([]), val)
    with pytest.raises(ValueError, match="layer named 'features'"):
        x = keras.Input((32, 32, 3))
        plain = keras.Model(x, keras.layers.Dense(2, name="logits")(keras.layers.Flatten()(x)))
        xai.train(plain, train, val)
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        broken = small()
        broken.get_layer("logits").bias.assign([np.nan, 0])
        xai.train(broken, colours(32, 0), val, "scratch", epochs=1)


def test_wrong_input_scaling_is_said():
    """A network without scaling, one that scales twice, and pixels in [0, 1]."""

    def network(*scale):
        x = inputs = keras.Input((32, 32, 3))
        for factor in scale:
            x = keras.layers.Rescaling(factor)(x)
        x = keras.layers.GlobalAveragePooling2D(name="features")(keras.layers.Conv2D(2, 3)(x))
        return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))

    train = colours(16, 0)
    for model, message in (
        (network(), "does not scale its input"),
        (network(1 / 255, 1 / 255), "scale its input twice"),
    ):
        with pytest.warns(UserWarning, match=message):
            history = xai.train(model, train, colours(8, 1), "scratch", epochs=1)
        assert message in history.attrs["warnings"][0]
    dark = ImageDataset(train.pixels // 150, train.labels, train.class_names, train.ids)
    with pytest.warns(UserWarning, match="range over \\[0, 1\\]"):
        xai.train(network(1 / 255), dark, colours(8, 1), "scratch", epochs=1)


def test_z_normalisation_of_each_image():
    """Behind ``z_norm`` and ImageNet's standardisation are the z-scores; the weights behind it stay the same."""
    rng = np.random.default_rng(0)
    images = rng.uniform((0, 40, 160), (90, 130, 250), (3, 32, 32, 3)).astype(np.float32)
    images[2, ..., 1] = 77  # a flat channel
    inputs = keras.Input((32, 32, 3))
    z = with_z_norm(keras.Model(inputs, standardised(inputs)))(images).numpy()
    expected = (images - images.mean(axis=(1, 2), keepdims=True)) / np.maximum(
        images.std(axis=(1, 2), keepdims=True), 1
    )
    np.testing.assert_allclose(z, expected, atol=1e-4)
    plain = xai.build_model("vit_mini16", 2, 32)
    normed = xai.build_model("vit_mini16", 2, 32, scaling="per_image")
    for a, b in zip(plain.get_weights(), normed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    brighter = images * 0.5 + 20
    np.testing.assert_allclose(xai.predict(normed, brighter)[:2], xai.predict(normed, images)[:2], atol=1e-4)
    assert not np.allclose(xai.predict(plain, brighter), xai.predict(plain, images), atol=1e-4)
    assert np.isfinite(xai.explain(normed, images, method="vanilla_gradients")).all()
    with pytest.raises(ValueError, match="did you mean per_image"):
        xai.build_model("vit_mini16", 2, 32, scaling="per image")


def test_z_normalised_models_are_saved_and_loaded(tmp_path):
    model = xai.build_model("vit_mini16", 2, 32, scaling="per_image", seed=3)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    images = colours(3, 0).images
    expected = xai.predict(model, images)
    for file in ("m.keras", "m.weights.h5"):
        again = xai.build_model("vit_mini16", 2, 32, tmp_path / file, scaling="per_image")
        np.testing.assert_allclose(xai.predict(again, images), expected, atol=1e-5)
    np.testing.assert_allclose(xai.predict(keras.models.load_model(tmp_path / "m.keras"), images), expected, atol=1e-5)


def test_two_right_answers_prove_nothing():
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    pixels[:, 0, 0, 1] = [0, 200]
    report = classification_report(Fixed(), ImageDataset(pixels, [0, 1], ("a", "b"), ["x", "y"]))
    assert report.summary["accuracy"] == 1
    assert not report.beats_chance


def test_digits_are_not_mirrored(monkeypatch):
    """A six that is turned by 180 degrees is a nine."""
    monkeypatch.setattr("xaiutils.training.augmentation.mirrored", lambda *_, **__: pytest.fail("mirrored"))
    digits = xai.load_dataset("digits", split="all", image_size=32, limit=60)
    assert not digits.mirrors
    model = small(10)
    xai.train(model, digits.select(range(40)), digits.select(range(40, 60)), "scratch", epochs=1)


def test_recipes_print_themselves():
    assert "learning_rate=0.001" in str(RECIPES["modern"])


class Fixed:
    """A model whose logits are given: the green channel of the first pixel, minus 100."""

    def __new__(cls):
        x = keras.Input((32, 32, 3))
        pixel = keras.layers.Flatten()(keras.layers.Cropping2D(((0, 31), (0, 31)))(x))
        model = keras.Model(x, keras.layers.Dense(2, name="logits")(pixel))
        model.get_layer("logits").set_weights([np.array([[0, 0], [0, 0.1], [0, 0]]), np.array([0, -10.0])])
        return model


def test_report_counts():
    """Six of 'a', two of 'b'; the model says 'b' for green > 100."""
    green = [0, 10, 20, 30, 40, 150, 120, 50]
    pixels = np.zeros((8, 32, 32, 3), np.uint8)
    pixels[:, 0, 0, 1] = green
    labels = [0, 0, 0, 0, 0, 0, 1, 1]
    ds = ImageDataset(pixels, labels, ("a", "b"), list("12345678"))
    report = classification_report(Fixed(), ds)
    assert report.confusion.to_numpy().tolist() == [[5, 1], [1, 1]]
    s = report.summary
    assert (s["n"], s["accuracy"], s["majority accuracy"]) == (8, 0.75, 0.75)
    assert s["balanced accuracy"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert s["AUC"] == pytest.approx(roc_auc_score(labels, green))
    assert report.classes.loc["b"].tolist() == [0.5, 0.5, 0.5, 2]
    assert not report.beats_chance  # eight images prove nothing


def test_a_model_that_names_the_majority_is_not_said_to_beat_it():
    pixels = np.zeros((8, 32, 32, 3), np.uint8)
    pixels[:, 0, 0, 1] = range(8)
    report = classification_report(Fixed(), ImageDataset(pixels, [0] * 6 + [1] * 2, ("a", "b"), list("12345678")))
    assert report.summary["accuracy"] == 0.75
    assert not report.beats_chance


def test_clear_example():
    pixels = np.zeros((4, 32, 32, 3), np.uint8)
    pixels[:, 0, 0, 1] = [200, 120, 160, 10]
    ds = ImageDataset(pixels, [0, 1, 1, 1], ("a", "b"), list("wxyz"))
    assert clear_example(Fixed(), ds) == 2
    masks = np.zeros((4, 32, 32), bool)
    masks[1] = True
    assert clear_example(Fixed(), ImageDataset(pixels, [0, 1, 1, 1], ("a", "b"), list("wxyz"), masks)) == 1
    assert clear_example(Fixed(), ds.select([0])) == 0
    assert clear_example(Fixed(), ds, positive_class="a") == clear_example(Fixed(), ds, 0) == 0


def test_a_damaged_state_is_named(tmp_path):
    path = tmp_path / "state.npz"
    rng = np.random.default_rng(0)
    text = {"about": {}, "rng": rng.bit_generator.state, "stage": 0, "epoch": 1, "rows": [], "kept": {"auc": [0.5, 1]}}
    for wrong in (b"", b"PK\x03\x04", {**text, "about": 3}, {**text, "kept": {"auc": 1}}, {"stage": 0}):
        if isinstance(wrong, bytes):
            path.write_bytes(wrong)
        else:
            np.savez(path, text=json.dumps(wrong), probe=np.zeros(2))
        with pytest.raises(FileError, match="state.npz: it is not a readable state of a run; delete it"):
            load_state(path, {})
    np.savez(path, text=json.dumps({**text, "rng": 1}), probe=np.zeros(2))
    with pytest.raises(FileError, match="not a readable state"):
        load_variables(path, Variables(rng, [], np.zeros(2)))
