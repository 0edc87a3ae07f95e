"""The head of ordered classes: its probabilities by hand, trained, saved, explained, and what it refuses."""

import numpy as np
import pytest
from scipy.special import expit

import xaiutils as xai
from xaiutils import training
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.models import load_model
from xaiutils.models.ordinal import CumulativeLogits, ordinal_logits


def test_probabilities_are_differences_of_sigmoids():
    layer = CumulativeLogits(4)
    score = np.array([[0.0], [-3.0], [2.5], [60.0]], np.float32)
    p = np.exp(np.asarray(layer(score), np.float64))
    assert p[0] == pytest.approx([0.25] * 4, abs=1e-6)
    layer.set_weights([np.array([-1.0]), np.array([0.3, -2.0])])
    steps = np.log1p(np.exp([0.3, -2.0]))
    t = np.array([-1.0, -1.0 + steps[0], -1.0 + steps.sum()])
    below = np.pad(expit(t - score.astype(float)), ((0, 0), (1, 1)), constant_values=(0, 1))
    found = np.asarray(layer(score))
    assert np.exp(found[:3]) == pytest.approx(np.diff(below)[:3], rel=1e-5)
    assert np.isfinite(found).all()  # where differences of sigmoids are 0 in float32
    two = CumulativeLogits(2)
    assert np.exp(np.asarray(two(score)))[:, 1] == pytest.approx(expit(score[:, 0]), rel=1e-5)


def small(n_classes=4):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D(name="features")(keras.layers.Rescaling(1 / 32, -4)(inputs))
    return keras.Model(inputs, keras.layers.Softmax(name="probabilities")(ordinal_logits(x, n_classes)))


def grey(n, seed):
    rng = np.random.default_rng(seed)
    levels = rng.uniform(0, 256, n)
    pixels = np.clip(levels[:, None, None, None] + rng.normal(0, 8, (n, 8, 8, 3)), 0, 255).astype(np.uint8)
    names = tuple(f"grade {i}" for i in range(1, 5))
    return ImageDataset(pixels, (levels // 64).astype(np.int64), names, [f"{seed}-{i}" for i in range(n)])


def test_it_learns_the_order(tmp_path):
    keras.utils.set_random_seed(0)
    model, test = small(), grey(60, 2)
    training.train(model, grey(120, 0), grey(40, 1), "modern", 40, learning_rate=0.3, patience=40, monitor="val_loss")
    p = model.predict(test.images, verbose=0)
    said = xai.classification.Predictions(test.labels, p, test.class_names)
    assert xai.classification.assess_grades(said, n_resamples=10)["value"]["quadratic kappa"] > 0.9
    assert (np.diff(model.get_layer("logits").thresholds) > 0).all()
    model.save(tmp_path / "m.keras")
    assert load_model(tmp_path / "m.keras").predict(test.images, verbose=0) == pytest.approx(p, abs=1e-6)
    assert np.isfinite(xai.explain(model, test.images[:2], method="vanilla_gradients")).all()
    with pytest.raises(ValueError, match="explain that instead"):
        xai.explain(model, test.images[:2], method="lrp")


def test_build_model():
    model = xai.build_model("efficientnet_lite0", 6, 32, outputs="ordinal")
    assert model.output_shape == (None, 6)
    assert model.get_layer("grade").output.shape == (None, 1)
    for head in ("where_and_what", "imagenet"):
        with pytest.raises(ValueError, match="outputs='ordinal'"):
            xai.build_model("efficientnet_lite0", 6, 64, head=head, outputs="ordinal")


def test_one_class_has_no_order():
    with pytest.raises(ValueError, match="two or more"):
        CumulativeLogits(1)
