"""Checks that train anew: what they train on, that finished work is kept, and data for which the answer is known."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.studies import label_randomisation
from xaiutils.evaluation.studies import remove_and_retrain as roar
from xaiutils.evaluation.studies.label_randomisation import ANOTHER, PERMUTED, label_models, map_similarity
from xaiutils.evaluation.studies.remove_and_retrain import remove_and_retrain
from xaiutils.plots.retraining import retraining_curves
from xaiutils.training import RECIPES

SIZE, SQUARE = 32, 8
QUICK = replace(RECIPES["modern"], learning_rate=0.3, batch_size=8, epochs=10)


def squares(n, seed):
    """A bright square somewhere in the dark; its colour, red or green, is the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    pixels = rng.integers(0, 40, (n, SIZE, SIZE, 3), np.uint8)
    for image, label, (y, x) in zip(pixels, labels, rng.integers(0, SIZE - SQUARE, (n, 2)), strict=True):
        image[y : y + SQUARE, x : x + SQUARE, label] += 200
    return ImageDataset(pixels, labels, ("red", "green"), [f"{seed}-{i}" for i in range(n)])


SPLITS = squares(48, 0), squares(24, 1), squares(40, 2)


def build(seed, pooled=SIZE):
    """A linear model of the colours, averaged over fields of ``pooled`` pixels a side."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 25.5)(inputs)
    x = keras.layers.Flatten(name="features")(keras.layers.AveragePooling2D(pooled)(x))
    x = keras.layers.Dense(2, name="logits")(x)
    return keras.Model(inputs, keras.layers.Softmax(name="probabilities")(x))


@pytest.fixture(scope="module")
def model():
    made = build(0)
    xai.train(made, *SPLITS[:2], QUICK)
    return made


@pytest.fixture
def trainings(monkeypatch):
    """In place of training: what each would have been trained on."""
    seen = []

    def train(model, train_ds, val_ds, recipe, epochs, run_dir, seed, **options):
        seen.append((train_ds, val_ds, seed, model.get_weights()))
        model.get_layer("logits").bias.assign([seed, 0.5])  # a model that is not as it was
        history = pd.DataFrame({"epoch": [1]})
        history.attrs["kept_epoch"] = 1
        return history

    for module in (roar, label_randomisation):
        monkeypatch.setattr(module, "train", train)
    return seen


# Remove and retrain -------------------------------------------------------------------------------------------------


def test_removing_the_evidence_ends_learning_and_keeping_it_is_enough(model):
    """The square is 64 of 1024 pixels: the brightest tenth holds all of it, and so does the top of the model's map.

    But that map, read with its sign, is of the predicted class: on red images it also takes the reddest pixels of the
    noise, on green ones the greenest. What is left tells the class by what is missing, as Rong et al. 2022 found of
    ROAR.
    """
    signed = {"gradients_x_inputs": {"reading": "signed"}}
    how = {"controls": ["random", "intensity"], "recipe": QUICK, "parameters": signed}
    methods, fractions = ["gradients_x_inputs"], [0.1]
    table = remove_and_retrain(model, build, SPLITS, methods, fractions, [0], **how)
    kept = remove_and_retrain(model, build, SPLITS, methods, fractions, [0], mode="keep", **how)
    assert list(table) == ["mode", "method", "fraction", "seed", "accuracy", "auc", "kept_epoch", "seconds"]
    assert table["method"].drop_duplicates().tolist() == ["unchanged", "gradients_x_inputs", "random", "intensity"]
    assert table["fraction"].tolist() == [0, 0.1, 0.1, 0.1]
    assert kept["fraction"].tolist() == [1, 0.1, 0.1, 0.1]
    removed, left = (t.set_index("method")[["accuracy", "auc"]] for t in (table, kept))
    assert (removed.loc[["unchanged", "random"]] == 1).all(axis=None)
    assert (removed.loc["intensity"] < 0.7).all()
    assert (removed.loc["gradients_x_inputs"] > 0.9).all()
    assert (left.loc[["unchanged", "intensity", "gradients_x_inputs"]] > 0.95).all(axis=None)


def test_each_image_loses_the_top_of_its_own_map_to_the_training_mean(model, trainings):
    methods, fractions = ["vanilla_gradients", "whole"], [0.25, 0.5]
    parameters = {"whole": {"method": "gradients_x_inputs"}}
    how = {"parameters": parameters, "controls": ["random"]}
    remove_and_retrain(model, build, SPLITS, methods, fractions, [3], **how)
    assert len(trainings) == 1 + 3 * 2
    mean = SPLITS[0].pixels.mean(axis=(0, 1, 2)).round()
    for before, after in zip(SPLITS[:2], trainings[0][:2], strict=True):
        assert after is before
    how_read = {"method": "gradients_x_inputs", "reading": "magnitude"}  # as it declares
    maps = [xai.explain(model, ds.images, None, **how_read) for ds in SPLITS[:2]]
    for fraction, (*changed, seed, _) in zip(fractions, trainings[3:5], strict=True):
        assert seed == 3
        for before, after, found in zip(SPLITS, changed, maps, strict=False):
            assert after.ids == before.ids
            np.testing.assert_array_equal(after.labels, before.labels)
            order = np.argsort(-found.reshape(len(found), -1), axis=1, kind="stable")
            for i, pixels in enumerate(before.pixels.reshape(len(before), -1, 3).copy()):
                pixels[order[i, : int(fraction * SIZE**2)]] = mean
                np.testing.assert_array_equal(after.pixels[i].reshape(-1, 3), pixels)
    random = trainings[6][0].pixels
    replaced = (random == mean).all(axis=-1).reshape(len(random), -1)
    assert replaced.sum(axis=1) == pytest.approx(SIZE**2 / 2, abs=3)  # a pixel may have had this colour
    assert np.corrcoef(replaced[0], replaced[1])[0, 1] < 0.2  # each image its own

    trainings.clear()
    remove_and_retrain(model, build, SPLITS, ["whole"], fractions, [3], mode="keep", **how | {"controls": []})
    removed = np.argsort(-maps[0].reshape(len(maps[0]), -1), axis=1, kind="stable")[0, SIZE**2 // 4 :]
    assert (trainings[1][0].pixels[0].reshape(-1, 3)[removed] == mean).all()
    for fraction in (0, 1):  # of the shape alone, nothing of the image is left
        trainings.clear()
        remove_and_retrain(model, build, SPLITS, ["whole"], fractions, [3], mode="shape", **how | {"controls": []})
        colours = trainings[1 + fraction][0].pixels[0].reshape(-1, 3)
        assert (colours == mean).all(axis=1).sum() == int(fractions[fraction] * SIZE**2)
        assert ((colours == mean) | (colours == 255)).all()


def test_the_class_that_is_explained(model, trainings):
    """With two linear classes, the map of the other class is the negative."""
    wrong = ImageDataset(SPLITS[0].pixels, 1 - SPLITS[0].labels, SPLITS[0].class_names, SPLITS[0].ids)
    splits, how = (wrong, *SPLITS[1:]), {"controls": [], "methods": ["gradients_x_inputs"], "fractions": [0.1]}
    how["parameters"] = {"gradients_x_inputs": {"reading": "signed"}}
    found = {}
    for explained in ("predicted", "label"):
        trainings.clear()
        remove_and_retrain(model, build, splits, seeds=[0], explained=explained, **how)
        found[explained] = trainings[1]
    bright = [(found[name][0].pixels > 150).any(axis=(1, 2, 3)).mean() for name in ("predicted", "label")]
    assert bright == [0, 1]
    np.testing.assert_array_equal(found["predicted"][1].pixels, found["label"][1].pixels)


def test_finished_models_are_not_trained_again(model, trainings, tmp_path, monkeypatch):
    how = {"methods": ["vanilla_gradients"], "fractions": [0.3, 0.6], "seeds": (0, 1)}
    fake = roar.train

    def cut(*arguments, **options):
        if len(trainings) == 3:
            raise KeyboardInterrupt
        return fake(*arguments, **options)

    whole = remove_and_retrain(model, build, SPLITS, folder=None, **how).drop(columns="seconds")
    assert len(trainings) == len(whole) == 10
    trainings.clear()
    monkeypatch.setattr(roar, "train", cut)
    with pytest.raises(KeyboardInterrupt):
        remove_and_retrain(model, build, SPLITS, folder=tmp_path, **how)
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(roar, "train", fake)
    table = remove_and_retrain(model, build, SPLITS, folder=tmp_path, **how)
    assert len(trainings) == 10
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), whole)
    again = remove_and_retrain(model, build, SPLITS, folder=tmp_path, **how)
    assert len(trainings) == 10
    pd.testing.assert_frame_equal(again, table)
    first = build(0).get_weights()
    for *_, seed, weights in trainings:
        for now, start in zip(weights, first if seed == 0 else build(1).get_weights(), strict=True):
            np.testing.assert_array_equal(now, start)

    lost = sorted(tmp_path.glob("remove-random-0.6-1-*.json"))
    assert json.loads(lost[0].read_text())["result"] == {
        k: v for k, v in table.iloc[-1].items() if k in ("accuracy", "auc", "kept_epoch", "seconds")
    }
    lost[0].unlink()
    remove_and_retrain(model, build, SPLITS, folder=tmp_path, **how)
    assert len(trainings) == 11
    remove_and_retrain(model, build, SPLITS, folder=tmp_path, **how | {"fractions": [0.3, 0.45, 0.6]})
    assert len(trainings) == 15  # a further fraction, of the method and of the control
    more = how | {"methods": ["vanilla_gradients", "gradients_x_inputs"]}
    remove_and_retrain(model, build, SPLITS, folder=tmp_path, **more)
    assert len(trainings) == 19
    remove_and_retrain(model, build, SPLITS, folder=tmp_path, **how, epochs=3)
    assert len(trainings) == 29
    other = build(5)  # explained in its place: all but the control and the unchanged are new
    remove_and_retrain(other, build, SPLITS, folder=tmp_path, **how)
    assert len(trainings) == 33
    remove_and_retrain(model, build, (*SPLITS[:2], SPLITS[2].take(20)), folder=tmp_path, **how)
    assert len(trainings) == 43
    remove_and_retrain(model, build, SPLITS, folder=tmp_path, **how, mode="keep")
    assert len(trainings) == 51  # unchanged images are the same in every mode


def test_a_resumed_study_gives_the_same_numbers(model, tmp_path):
    """With dropout, whose generator a model carries from one training to the next."""

    def with_dropout(seed):
        made = build(seed, pooled=8)
        features = keras.layers.Dropout(0.3)(made.get_layer("features").output)
        logits = keras.layers.Dense(2, name="logits")(features)
        return keras.Model(made.inputs, keras.layers.Softmax(name="probabilities")(logits))

    how = {"methods": [], "fractions": [0.5], "seeds": [0], "controls": ["random", "centre"], "recipe": "scratch"}
    how |= {"epochs": 2, "flip": False}
    whole = remove_and_retrain(model, with_dropout, SPLITS, folder=tmp_path, **how)
    (last,) = tmp_path.glob("remove-centre-*.json")
    last.unlink()
    again = remove_and_retrain(model, with_dropout, SPLITS, folder=tmp_path, **how)
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), whole.drop(columns="seconds"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fractions": [0.5, 0.1]}, "in rising order"),
        ({"fractions": [0, 0.5]}, "between 0 and 1"),
        ({"fractions": []}, "between 0 and 1"),
        ({"seeds": []}, "seeds="),
        ({"seeds": [1, 1]}, "each once"),
        ({"controls": ["oracle"]}, "controls: 'oracle' is unknown"),
        ({"controls": ["randon"]}, "did you mean random"),
        ({"methods": [], "controls": []}, "at least one"),
        ({"methods": ["random"], "parameters": {"random": {"method": "grad_cam"}}}, "different names"),
        ({"methods": ["gradcam"]}, "did you mean grad_cam"),
        ({"explained": "labels"}, "did you mean label"),
        ({"mode": "keeping"}, "did you mean keep"),
        ({"splits": SPLITS[:2]}, "expected three"),
        ({"rate": 0.1}, "rate"),
    ],
)
def test_refusals(model, trainings, change, words):
    arguments = {"model": model, "build": build, "splits": SPLITS} | change
    with pytest.raises((ValueError, TypeError, KeyError), match=words):
        remove_and_retrain(**arguments)
    assert not trainings


# Labels at random ---------------------------------------------------------------------------------------------------


def test_permuted_labels_are_fitted_and_change_the_maps(tmp_path, monkeypatch):
    def fields(seed):
        return build(seed, pooled=4)  # 192 numbers an image, for 48 images: any labels can be fitted

    model = fields(0)
    xai.train(model, *SPLITS[:2], QUICK)
    how = {"fit": {"epochs": 60}, "recipe": QUICK}
    models, fits = label_models(fields, SPLITS, tmp_path, **how)
    assert fits["model"].tolist() == [PERMUTED, ANOTHER]
    assert (fits["train_accuracy"] > 0.95).all()
    test = fits.set_index("model")[["accuracy", "auc"]]
    assert (test.loc[ANOTHER] > 0.95).all()
    assert (test.loc[PERMUTED] < 0.85).all()

    methods, similarities = ["vanilla_gradients", "gradients_x_inputs"], ["spearman", "top_intersection"]
    table = map_similarity(model, models | {"itself": model}, SPLITS[2], methods, 0, similarities)
    assert list(table) == ["method", "model", "image_id", "reading", "similarity", "value", "p"]
    assert len(table) == 2 * 3 * 40 * 2
    means = table.groupby(["similarity", "method", "model"])["value"].mean()
    for similarity in similarities:
        for method in methods:
            assert means[similarity, method, "itself"] == pytest.approx(1)
            assert means[similarity, method, PERMUTED] < means[similarity, method, ANOTHER] < 1
    p = xai.predict(models[PERMUTED], SPLITS[2].images, probabilities=True)[:, 0]
    found = table[table["model"] == PERMUTED].groupby("image_id", sort=False)["p"].first()
    np.testing.assert_allclose(found, p, atol=1e-6)

    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(label_randomisation, "train", never)
    kept, same = label_models(fields, SPLITS, tmp_path, **how)
    pd.testing.assert_frame_equal(same, fits)
    np.testing.assert_array_equal(kept[PERMUTED].get_weights()[0], models[PERMUTED].get_weights()[0])
    with pytest.raises(AssertionError, match="trained again"):
        label_models(fields, SPLITS, tmp_path, **how | {"seed": 1})
    with pytest.raises(ValueError, match="expected three"):
        label_models(fields, SPLITS[:2])


def test_two_stages_fit_permuted_labels_to_the_end(trainings, monkeypatch):
    """Whatever a recipe watches, and however many stages it has: the training loss decides, and nothing stops early."""
    seen = []
    original = label_randomisation.train

    def train(model, train_ds, val_ds, recipe, epochs=None, run_dir=None, seed=0, **options):
        seen.append((recipe, epochs))
        return original(model, train_ds, val_ds, recipe, epochs, run_dir, seed)

    monkeypatch.setattr(label_randomisation, "train", train)
    label_models(build, SPLITS, recipe="modern_finetune", epochs=4, fit={"learning_rate": 0.5})
    permuted, another = seen
    assert [s.monitor for s in permuted[0].stages] == ["loss", "loss"]
    assert [s.patience >= s.epochs == 4 for s in permuted[0].stages] == [True, True]
    assert permuted[0].learning_rate == 0.5
    assert [s.monitor for s in another[0].stages] == ["val_auc", "val_auc"]
    assert another[1] == 4
    labels = [trained[0].labels for trained in trainings]
    assert sorted(labels[0]) == sorted(labels[1])
    assert (labels[0] != labels[1]).any()
    np.testing.assert_array_equal(labels[1], SPLITS[0].labels)


# Figure -----------------------------------------------------------------------------------------------------------


def test_retraining_curves():
    rows = [("remove", "unchanged", 0.0, s, 0.9 + s / 100, 0.95) for s in (0, 1)]
    for method, drop in (("grad_cam", 0.5), ("random", 0.1)):
        rows += [("remove", method, f, s, 0.9 - drop * f, 0.95 - drop * f) for f in (0.1, 0.9) for s in (0, 1)]
    table = pd.DataFrame(rows, columns=["mode", "method", "fraction", "seed", "accuracy", "auc"])
    figure = retraining_curves(table, ["random"], 0.6)
    figure.savefig("/dev/null", format="png")
    top, below = figure.axes
    lines = {line.get_label(): line for line in top.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["unchanged", "grad_cam", "random"]
    np.testing.assert_allclose(lines["grad_cam"].get_ydata(), [0.85, 0.45])
    assert lines["unchanged"].get_ydata()[0] == pytest.approx(0.905)
    assert top.lines[0].get_ydata()[0] == 0.6
    assert below.lines[0].get_ydata()[0] == 0.5
    assert below.get_xlabel() == "fraction of pixels, highest first, replaced"
    both = retraining_curves(pd.concat([table, table.assign(mode="keep")]), ["random"])
    assert len(both.axes) == 4
