"""Training for several labels in one image and for a measured quantity: the losses by hand, and that both learn."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score
from small_models import discs, mldam_network

import xaiutils as xai
from xaiutils.backend import keras, tf
from xaiutils.classification.curves import mean_label_auc
from xaiutils.datasets import ImageDataset
from xaiutils.plots import training_curves
from xaiutils.training import RECIPES, classification_report, clear_example, multi_label_report, regression_report
from xaiutils.training.devices import computing_in
from xaiutils.training.losses import epoch_order, make_label_loss, squared_error
from xaiutils.training.objectives import Classes, OneUnit

FAST = {"epochs": 12, "batch_size": 16, "learning_rate": 0.02, "weight_decay": 0.0, "flip": False, "patience": 12}


def made(n, seed, unknown=0.2):
    """Images in which each colour is or is not there, and whose brightness is the value."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (n, 3))
    pixels = rng.integers(0, 60, (n, 16, 16, 3)).astype(np.uint8) + (150 * labels).astype(np.uint8)[:, None, None]
    values = 1000 + 3 * pixels.mean(axis=(1, 2, 3))
    labels[rng.random((n, 3)) < unknown] = -1
    ids = [f"{seed}-{i}" for i in range(n)]
    return ImageDataset(pixels, labels, ("r", "g", "b"), ids, values=values, value_name="light", split="test")


def small(outputs, seed=0):
    """A network that is quick to trace, with the ends that `build_model` makes."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(layers.Rescaling(1 / 127.5, -1)(inputs))
    x = layers.GlobalAveragePooling2D(name="features")(x)
    logits = layers.Dense(3 if outputs == "sigmoid" else 1, name="logits")(x)
    if outputs == "regression":
        last = layers.Dense(1, kernel_initializer="ones", name="value", trainable=False)
    else:
        last = layers.Activation("sigmoid", name="probabilities")
    return keras.Model(inputs, last(logits))


TRAIN, VAL, TEST = made(96, 0), made(48, 1), made(64, 2)


@pytest.mark.parametrize("outputs", ["sigmoid", "regression"])
def test_built_models_end_as_they_are_asked_to(outputs):
    model = xai.build_model("vit_mini16", 3, 32, outputs=outputs)
    assert model.output_shape == ((None, 3) if outputs == "sigmoid" else (None, 1))
    assert [layer.name for layer in model.layers][-1] == small(outputs).layers[-1].name
    with pytest.raises(ValueError, match="outputs='ranks'"):
        xai.build_model("vit_mini16", 3, 32, outputs="ranks")


def test_one_unit_is_the_softmax_of_two():
    """Losses and measures are those of the logits 0 and z; it learns, and has two classes."""
    one, two = OneUnit(), Classes()
    y, z = np.array([0, 1, 1, 0]), np.array([[2.0], [-1.0], [3.0], [-30.0]], np.float32)
    both = np.concatenate([0 * z, z], axis=1)
    for changes in ({}, {"loss": "binary_cross_entropy"}, {"loss": "focal"}, {"balance": "class_weights"}):
        recipe = replace(RECIPES["scratch"], **changes)
        np.testing.assert_allclose(one.loss(recipe, y, 1)(y, z), two.loss(recipe, y, 2)(y, both), rtol=1e-6)
    assert one.validate(y, z, auc=True) == two.validate(y, both, auc=True)
    assert one.validate(y, z, auc=False)["val_loss"] == pytest.approx(log_loss(y, 1 / (1 + np.exp(-z[:, 0]))))
    train, val = TRAIN.of_label("r"), VAL.of_label("r")
    model = small("binary")
    history = xai.train(model, train, val, "scratch", **FAST)
    right = xai.predict(model, val.images).argmax(axis=1) == val.labels
    assert right.mean() == history["val_accuracy"][history["kept"]].item() > 0.9


def test_a_new_batch_norm_of_attention_is_not_left_as_it_is():
    with pytest.raises(ValueError, match="recipe modern leaves batch norm as it is, .*mldam_position_norm"):
        xai.train(mldam_network("study"), discs(4, 0), discs(4, 1), "modern")


def test_attention_of_channels_keeps_float32():
    model = mldam_network()
    with computing_in(model, "mixed_float16"):
        computes_in = {layer.name: layer.compute_dtype for layer in model.layers}
    assert {computes_in[f"mldam_{part}"] for part in ("mixed", "channel", "channel_norm")} == {"float32"}
    assert computes_in["features"] == "float16"


def test_several_labels_are_learnt_around_what_is_unknown(tmp_path):
    model = small("sigmoid")
    history = xai.train(model, TRAIN, VAL, "scratch", monitor="val_auc", run_dir=tmp_path, **FAST)
    report = multi_label_report(model, TEST, val_ds=VAL)
    assert report.averages.loc["macro average", "AUC low"] > 0.8
    assert report.table["unknown"].tolist() == (TEST.labels == -1).sum(axis=0).tolist()
    kept = history[history["kept"]].iloc[0]
    p = np.asarray(model(VAL.images))
    known = VAL.labels >= 0
    assert kept["val_loss"] == pytest.approx(log_loss(VAL.labels[known], p[known]), rel=1e-4)
    assert kept["val_accuracy"] == pytest.approx(((p > 0.5) == VAL.labels)[known].mean())
    each = [roc_auc_score(VAL.labels[k, c], p[k, c]) for c, k in enumerate(known.T)]
    assert kept["val_auc"] == pytest.approx(np.mean(each)) == mean_label_auc(VAL.labels, p)
    again = xai.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(TEST.images), model(TEST.images), atol=1e-6)
    assert training_curves({"a": history}).axes[2].get_ylabel() == "AUC"


def test_a_quantity_is_learnt_in_its_own_units(tmp_path):
    model = small("regression")
    history = xai.train(model, TRAIN, VAL, "scratch", run_dir=tmp_path, **FAST | {"epochs": 25, "patience": 25})
    value = model.get_layer("value")
    assert float(value.kernel[0, 0]) == pytest.approx(TRAIN.values.std(), rel=1e-5)
    assert float(value.bias[0]) == pytest.approx(TRAIN.values.mean(), rel=1e-5)
    report = regression_report(model, TEST, train_ds=TRAIN)
    assert report.metrics.loc["R2", "value"] > 0.8
    assert report.beats_mean
    assert report.constant == pytest.approx(TRAIN.values.mean())
    kept = history[history["kept"]].iloc[0]
    error = np.abs(np.asarray(model(VAL.images))[:, 0] - VAL.values).mean()
    assert kept["val_mae"] == pytest.approx(error, rel=1e-3)
    assert "val_accuracy" not in history
    again = xai.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(TEST.images), model(TEST.images), rtol=1e-6)
    # trained further on others, it keeps its units
    xai.train(model, VAL, TRAIN, "scratch", epochs=1, batch_size=16)
    assert float(value.bias[0]) == pytest.approx(TRAIN.values.mean(), rel=1e-5)
    assert training_curves({"a": history}).axes[1].get_ylabel() == "mean absolute error"


def test_frozen_features_and_two_stages_do_too():
    model = small("sigmoid")
    history = xai.train(model, TRAIN, VAL, "modern", epochs=1, then="finetune", balance="balanced_batches")
    assert history["stage"].tolist() == ["modern", "finetune"]
    history = xai.train(small("regression"), TRAIN, VAL, "modern", epochs=2)
    assert history["val_loss"].iloc[1] < history["val_loss"].iloc[0]


def test_a_resumed_run_is_the_same(tmp_path):
    whole, cut = small("sigmoid"), small("sigmoid")
    plain = {"batch_size": 16, "save_every": 1}

    class Stop(xai.training.Callback):
        def on_epoch_end(self, epoch, model, row):
            if epoch == 2:
                raise KeyboardInterrupt

    xai.train(whole, TRAIN, VAL, "scratch", 4, mixup=0.2, batch_size=16)
    with pytest.raises(KeyboardInterrupt):
        xai.train(cut, TRAIN, VAL, "scratch", 4, tmp_path, mixup=0.2, callbacks=[Stop()], **plain)
    cut = small("sigmoid")
    xai.train(cut, TRAIN, VAL, "scratch", 4, tmp_path, mixup=0.2, resume=True, **plain)
    np.testing.assert_array_equal(cut.get_layer("logits").kernel, whole.get_layer("logits").kernel)


# Losses by hand -----------------------------------------------------------------------------------------------------

Y = np.array([[1, 0], [0, -1], [1, 1], [1, 0]])
Z = np.array([[2.0, -1.0], [0.5, 30.0], [-1.0, 0.0], [3.0, 1.0]], np.float32)


def by_hand(weight=lambda y, c, p: 1.0, smooth=0.0):
    total = []
    for (i, c), y in np.ndenumerate(Y):
        if y >= 0:
            p = 1 / (1 + np.exp(-float(Z[i, c])))
            q = y * (1 - smooth) + smooth / 2
            total.append(weight(y, c, p) * -(q * np.log(p) + (1 - q) * np.log(1 - p)))
    return np.mean(total)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, by_hand()),
        ({"loss": "binary_cross_entropy"}, by_hand()),
        ({"label_smoothing": 0.2}, by_hand(smooth=0.2)),
        ({"loss": "focal", "focal_gamma": 2.0}, by_hand(lambda y, c, p: (1 - p if y else p) ** 2)),
        # of the first label one of four is absent, of the second two of three
        ({"balance": "class_weights"}, by_hand(lambda y, c, p: [[4 / 2, 4 / 6], [3 / 4, 3 / 2]][c][y])),
    ],
)
def test_the_loss_of_labels_is_the_mean_over_the_known(changes, expected):
    recipe = xai.training.recipes.change_recipe("scratch", changes)
    loss = make_label_loss(recipe, Y)
    assert float(loss(tf.constant(Y, tf.int8), tf.constant(Z))) == pytest.approx(expected, rel=1e-5)
    assert float(loss(tf.constant(np.full_like(Y, -1), tf.int8), tf.constant(Z))) == 0


def test_the_loss_of_a_quantity_is_the_mean_squared_error():
    assert float(squared_error(tf.constant([1.0, 0.0]), tf.constant([[3.0], [1.0]]))) == 2.5


def test_balanced_batches_of_labels_take_turns_among_the_rarest():
    labels = np.zeros((40, 2), np.int8)
    labels[:4, 0] = 1
    order = epoch_order(labels, 20, True, np.random.default_rng(0))
    assert (labels[order, 0] == 1).sum() == 10


# What does not go together ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "ds", "said"),
    [
        ("softmax", TRAIN, "have several labels; the model names one class. Build it with outputs='sigmoid'"),
        ("sigmoid", TRAIN.of_label("r"), "have one class each; the model has a sigmoid for each label"),
        ("regression", ImageDataset(TRAIN.pixels, TRAIN.labels, TRAIN.class_names, TRAIN.ids), "no measured values"),
        ("regression", ImageDataset(TRAIN.pixels, TRAIN.labels, TRAIN.class_names, TRAIN.ids, values=np.ones(96)),
         "all values of train_ds are 1"),
        ("sigmoid", ImageDataset(TRAIN.pixels[..., :1], TRAIN.labels, TRAIN.class_names, TRAIN.ids), "1 channels"),
        ("sigmoid", ImageDataset(TRAIN.pixels, -np.ones((96, 3)), TRAIN.class_names, TRAIN.ids), "is unknown"),
    ],
)  # fmt: skip
def test_a_model_and_data_that_do_not_fit_are_refused(outputs, ds, said):
    model = xai.build_model("vit_mini16", 3, 32) if outputs == "softmax" else small(outputs)
    if outputs == "softmax":
        ds = ImageDataset(np.zeros((96, 32, 32, 3), np.uint8), ds.labels, ds.class_names, ds.ids)
    with pytest.raises(ValueError, match=said):
        xai.train(model, ds, ds, "scratch", epochs=1)


def test_recipes_for_classes_are_refused_for_a_quantity():
    with pytest.raises(ValueError, match="are for classes, not for a quantity"):
        xai.train(small("regression"), TRAIN, VAL, "scratch", epochs=1, label_smoothing=0.1)
    assert RECIPES["modern"].monitor == "val_auc"  # and gives way to val_loss without a word


def test_reports_that_do_not_fit_are_refused():
    model = small("sigmoid")
    with pytest.raises(ValueError, match="multi_label_report"):
        classification_report(model, TEST)
    with pytest.raises(ValueError, match="clear_example needs one class for each image"):
        clear_example(model, TEST)
    with pytest.raises(ValueError, match="these have one class each"):
        multi_label_report(model, TEST.of_label("r"))
    with pytest.raises(ValueError, match="the model has 4 outputs for 3 labels"):
        keras.utils.set_random_seed(0)
        four = keras.Model(
            model.inputs, keras.layers.Dense(4, activation="sigmoid")(model.get_layer("features").output)
        )
        multi_label_report(four, TEST)
    with pytest.raises(ValueError, match="sum to one"):
        named = keras.layers.Dense(3, activation="softmax")(model.get_layer("features").output)
        multi_label_report(keras.Model(model.inputs, named), TEST)
    with pytest.raises(ValueError, match="needs the measured values"):
        regression_report(small("regression"), ImageDataset(TEST.pixels, TEST.labels, TEST.class_names, TEST.ids))
    with pytest.raises(ValueError, match="a quantity is one"):
        regression_report(model, TEST)


def test_an_example_of_a_score_is_the_highest():
    pixels = np.zeros((3, 16, 16, 3), np.uint8)
    pixels[:, 0, 0, 0] = [50, 200, 100]
    ds = ImageDataset(pixels, [0, 0, 0], ("light",), list("abc"), values=[1, 2, 3])
    inputs = keras.Input((16, 16, 3))
    y = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(keras.layers.Flatten()(inputs))
    model = xai.wrap(keras.Model(inputs, y), "model", head="regression")
    assert clear_example(model, ds) == 1
    np.testing.assert_allclose(regression_report(model, ds).predictions.predicted, [50, 200, 100])


def test_a_model_of_two_inputs_is_judged_with_each_cases_own_row():
    inputs = keras.Input((16, 16, 3)), keras.Input((1,), name="age")
    light = keras.layers.GlobalAveragePooling2D()(inputs[0])
    both = keras.layers.Concatenate()([light, inputs[1]])
    two = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(both))
    ages = np.linspace(20, 80, len(TEST)).astype(np.float32)[:, None]
    ds = ImageDataset(TEST.pixels, TEST.labels, TEST.class_names, TEST.ids, values=TEST.values, inputs={"age": ages})
    model = xai.wrap(two, "model", head="regression", inputs={"age": "case"})
    said = regression_report(model, ds).predictions.predicted
    np.testing.assert_allclose(said, TEST.pixels.mean(axis=(1, 2)).sum(axis=1) + ages[:, 0], rtol=1e-5)
