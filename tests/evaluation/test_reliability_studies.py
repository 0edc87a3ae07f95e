"""F-Fidelity, MeGe and ReCo, the prediction-saliency correlation and the rise of complexity: by hand, and on models
whose evidence is known."""

import numpy as np
import pandas as pd
import pytest

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.studies.complexity_rise import complexity_rise, histogram_entropy
from xaiutils.evaluation.studies.f_fidelity import f_fidelity, fill_colour, fine_tuned_on_holes, with_holes
from xaiutils.evaluation.studies.prediction_saliency import correlations, prediction_saliency
from xaiutils.evaluation.studies.stability import mege, pair_distances, reco

SIZE = 8


def classifier(seed=0):
    """Logits (-z, z), z in proportion to the mean of the left half - 127.5."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((SIZE, SIZE, 3))
    z = keras.layers.Dense(2, name="logits")(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(x)))
    model = keras.Model(x, keras.layers.Activation("softmax")(z))
    weights = np.zeros((SIZE, SIZE, 3, 2), np.float32)
    weights[:, : SIZE // 2] = -0.1, 0.1
    total = weights[..., 1].sum() / 2
    model.get_layer("logits").set_weights([weights.reshape(-1, 2), np.array([total, -total])])
    return model


@pytest.fixture(scope="module")
def ds():
    """Bright or dark in the left half; anything in the right."""
    rng, labels = np.random.default_rng(0), np.arange(24) % 2
    pixels = rng.integers(0, 256, (24, SIZE, SIZE, 3)).astype(np.uint8)
    pixels[:, :, : SIZE // 2] = np.where(labels[:, None, None, None] == 1, 160, 96)
    return ImageDataset(pixels, labels, ("dark", "bright"), [f"i{k}" for k in range(24)])


def test_f_fidelity_tells_the_evidence_from_the_rest(ds):
    """The fill is black: holes in the left half turn "bright" over, and cannot "dark"; others change nothing."""
    left = np.zeros((24, SIZE, SIZE), np.float32)
    left[..., : SIZE // 2] = 1
    maps, how = {"left": left, "right": 1 - left}, {"alpha": 0.9, "beta": 0.45, "n_samples": 4}
    table = f_fidelity(classifier(), ds, maps, ds.labels, np.zeros(3), [0.5], **how)
    assert list(table) == ["method", "fraction", "image_id", "plus", "minus"]
    bright = table[table["image_id"].isin([ds.ids[i] for i in np.flatnonzero(ds.labels)])].groupby("method")
    assert bright["plus"].mean().to_dict() == {"left": 1, "right": 0}
    assert bright["minus"].mean().to_dict() == {"left": 0, "right": 1}
    few = f_fidelity(classifier(), ds, maps, ds.labels, np.zeros(3), [0.5], **how | {"beta": 0.05})
    assert few["plus"].max() == 0  # a tenth of the half can go: too few to turn anything over
    with pytest.raises(ValueError, match=r"fractions=\[0, 0.5\]"):
        f_fidelity(classifier(), ds, maps, 1, np.zeros(3), [0, 0.5])
    with pytest.raises(ValueError, match="targets"):
        f_fidelity(classifier(), ds, maps, 2, np.zeros(3), [0.5])
    with pytest.raises(ValueError, match="beta=0"):
        f_fidelity(classifier(), ds, maps, 1, np.zeros(3), [0.5], beta=0)


def test_holes_are_random_up_to_beta_and_show_the_mean_colour(ds):
    changed = with_holes(ds, 0.4, copies=3, seed=1)
    assert len(changed) == 72
    assert changed.labels.tolist() == ds.labels.tolist() * 3
    assert len(set(changed.ids)) == 72
    holes = (changed.pixels != np.tile(ds.pixels, (3, 1, 1, 1))).any(axis=-1)
    assert (changed.pixels[holes] == fill_colour(ds)).all()
    share = holes.mean(axis=(1, 2))
    assert 0.12 < share.mean() < 0.28
    assert share.max() < 0.6


def test_a_judge_is_trained_once_and_the_model_stays(ds, tmp_path):
    model = classifier()
    before = [w.copy() for w in model.get_weights()]
    parts = [ds.select(np.arange(24)[rows]) for rows in (np.s_[:12], np.s_[12:18], np.s_[18:])]
    how = {"recipe": "scratch", "epochs": 2, "beta": 0.3, "copies": 1}
    judge, table = fine_tuned_on_holes(model, classifier, parts, tmp_path, **how)
    for kept, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)
    assert not np.array_equal(judge.get_weights()[0], before[0])
    assert table["model"].tolist() == ["explained"] * 2 + ["fine-tuned"] * 2
    assert table.loc[0, "accuracy"] == 1
    again, _ = fine_tuned_on_holes(model, classifier, parts, tmp_path, **how)
    np.testing.assert_array_equal(judge.get_weights()[0], again.get_weights()[0])
    assert len(list(tmp_path.iterdir())) == 1


def test_mege_and_reco_by_hand():
    ramp = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    maps = {"a": np.concatenate([ramp, ramp]), "b": np.concatenate([ramp, -ramp])}
    right = {"a": [True, True], "b": [True, False]}
    distances = pair_distances(maps, right)
    assert distances[["agree", "distance"]].to_numpy().tolist() == [[True, 0], [False, 2]]
    assert (mege(distances), reco(distances)) == (1, 1)
    swapped = pair_distances(maps, {"a": [True, True], "b": [False, True]})
    assert mege(swapped) == pytest.approx(1 / 3)
    assert reco(swapped) == 0
    assert np.isnan(reco(pair_distances(maps, {"a": [True, True], "b": [True, True]})))
    assert pair_distances(maps, {"a": [False, True], "b": [False, True]})["image"].tolist() == [1]
    with pytest.raises(ValueError, match="the same models"):
        pair_distances(maps, {"a": [True, True]})


def test_reco_is_the_best_threshold():
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"agree": rng.random(60) < 0.5, "distance": rng.random(60).round(1)})
    table["distance"] += 0.2 * ~table["agree"]
    near, far = (table.loc[table["agree"] == kind, "distance"].to_numpy() for kind in (True, False))
    naive = max((near <= t).mean() + (far > t).mean() - 1 for t in table["distance"])
    assert reco(table) == pytest.approx(naive)


def test_prediction_saliency_correlation_by_hand():
    table = pd.DataFrame({"method": "m", "change": "c", "image_id": list("aabbcc")})
    table["answer"], table["map"] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.3, 0.1, 0.4, 0.4, 0.8, 0.5]
    found = correlations(table, n_resamples=200).iloc[0]
    assert found["value"] == pytest.approx(np.corrcoef(table["answer"], table["map"])[0, 1])
    assert found["low"] < found["value"] <= found["high"] + 1e-9
    table.loc[0, "map"] = np.nan
    assert correlations(table, n_resamples=50)["n"].tolist() == [5]
    table["map"] = np.nan
    assert correlations(table, n_resamples=50)["n"].tolist() == [0]


def test_a_map_that_never_moves_has_no_correlation(ds):
    """Gradients of a linear model stay as they are whatever the answer does; times the image they move with it."""
    methods = ["vanilla_gradients", "gradients_x_inputs"]
    changes = [("fgsm", {"epsilon": 8.0}), ("gaussian_noise", {"noise": 0.05})]
    with pytest.raises(ValueError, match="rotate_180"):
        prediction_saliency(classifier(), ds, methods, [("rotate_180", {})])
    with pytest.raises(ValueError, match="ssim needs maps of at least 11 x 11"):
        prediction_saliency(classifier(), ds, ["gradients_x_inputs"], changes[1:])
    table = prediction_saliency(classifier(), ds, methods, changes, similarity="spearman")
    assert len(table) == 2 * 2 * 24
    by_method = table.groupby("method")["map"].max()
    assert by_method["vanilla_gradients"] == pytest.approx(0, abs=1e-12)
    assert by_method["gradients_x_inputs"] > 0
    assert table.loc[table["change"] == "fgsm epsilon=8.0", "answer"].min() > 0.05
    assert np.isnan(correlations(table, 50).set_index("method").loc["vanilla_gradients", "value"])


def test_complexity_rises_from_one_value_to_many():
    two = np.zeros((1, 10, 10), np.float32)
    two[:, :5] = 1
    assert histogram_entropy(two) == pytest.approx([np.log(2)])
    assert histogram_entropy(np.ones((1, 10, 10))) == [0]
    assert histogram_entropy(np.float32(1) + np.float32(1e-7) * two) == pytest.approx([np.log(2)])
    four = np.repeat(np.arange(4, dtype=np.float32), 25).reshape(1, 10, 10)
    table = complexity_rise({"m": np.concatenate([two, 0 * two])}, {"m": np.concatenate([four, two])}, ["a", "b"])
    assert table["value"].tolist() == [pytest.approx(1), pytest.approx(np.nan, nan_ok=True)]
    assert list(table) == ["method", "image_id", "trained", "random", "value"]
