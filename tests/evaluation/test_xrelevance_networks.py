"""The study of XRelevance-CAM over several networks, and pretrained beside scratch: tables by hand, marks that are used
or not, and networks that come out the same whatever was built before."""

import numpy as np
import pandas as pd
import pytest

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.studies import xrelevance_claims as claims
from xaiutils.evaluation.studies import xrelevance_networks as nets
from xaiutils.evaluation.studies import xrelevance_study as study
from xaiutils.evaluation.studies import xrelevance_transfer
from xaiutils.evaluation.studies.planted_mark import MARKS, Mark, confound

SIZE, LABELS = 32, [0, 1, 0, 1, 1, 0, 0, 1]


def grey(split="train", level=100, patients=None):
    pixels = np.full((8, SIZE, SIZE, 3), level, np.uint8) + np.arange(8, dtype=np.uint8)[:, None, None, None]
    return ImageDataset(pixels, LABELS, ("no", "yes"), [f"{split}{i}" for i in range(8)], patients=patients)


def threshold(above, of):
    """ "Yes" where the mean of ``of`` the image (its last rows) is over ``above``."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Cropping2D(((SIZE - of, 0), (0, 0)))(inputs)
    dense = keras.layers.Dense(2, name="logits")
    model = keras.Model(inputs, dense(keras.layers.GlobalAveragePooling2D()(x)))
    dense.set_weights([np.array([[0, 1 / 3]] * 3), np.array([0.0, -above])])
    return model


class Untrained:
    """Stands for `Training`: the networks of the tests, by what they start from."""

    def __init__(self, by_start):
        self.by_start, self.seen = by_start, []

    def network(self, name, splits, seed=0, weights=None, dropout=0.0):
        self.seen.append((name, [ds.split for ds in splits], seed, weights, dropout))
        return self.by_start[weights]


def test_accuracy_of_networks_by_hand():
    always, dark = threshold(-1, SIZE), threshold(104, SIZE)  # yes to all; yes to images 5, 6, 7
    networks = nets.Networks(("a",), {("a", 3): always}, dark)
    found = networks.accuracy(grey()).set_index("network")["mean"]
    assert found.to_dict() == {"a, seed 3": 4 / 8, "with dropout": 3 / 8}
    assert networks.first is always
    few = networks.accuracy(grey(patients=list("aabbccdd")))
    assert (few["high"] - few["low"] > 0.3).all()


def test_the_first_two_networks_have_all_seeds():
    training = Untrained({None: "random", "imagenet": "pretrained"})
    found = nets.train_networks(training, ["a", "b", "c"], (), range(2, 4), {"b": "imagenet"}, 0.2)
    assert list(found.trained) == [("a", 2), ("a", 3), ("b", 2), ("b", 3), ("c", 2)]
    assert (found.trained["b", 3], found.dropped) == ("pretrained", "random")
    assert training.seen[-1] == ("a", [], 2, None, 0.2)
    for names in ([], list("abcd")):
        with pytest.raises(ValueError, match="compares one to 3 networks"):
            nets.train_networks(training, names, ())


@pytest.mark.slow
def test_a_training_comes_out_the_same_whatever_was_built_before(tmp_path):
    """To the last bit, the dropout's draws too, and the kept weights are read again."""
    splits, found = (grey(), grey("val")), []
    for folder in ("a", "b", "b"):
        training = nets.Training(SIZE, "xrelevance_study_small", 1, tmp_path / folder)
        found.append(training.network("resnext_mini", splits, seed=1, dropout=0.1).get_weights())
        xai.build_model("resnet_mini", 2, SIZE, seed=5)
    assert len(list(tmp_path.glob("*/*.weights.h5"))) == 2
    for one, other, read in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(other, read)


def table(value, **facts):
    rows = [
        {
            "method": m,
            "layer": c,
            "image_id": i,
            "metric": "iou",
            "value": value + (m == study.CAMS[-1]) * (1 + 0.02 * int(i)) + 0.01 * int(i),
        }
        for m in study.CAMS
        for c in study.COLUMNS
        for i in "0123"
    ]
    return pd.DataFrame(rows).assign(**facts)


def test_tables_of_networks_beside_the_thesis():
    with_kernels = pd.concat([table(0.5, seed=0), table(0.7, seed=1)])
    by = {"k": with_kernels, "plain": with_kernels.assign(value=0.3), "o": table(0.1, seed=0), nets.DROPOUT: table(0.2)}
    shown = nets.cells_by_network(by)
    assert list(shown)[::2] == [f"IoU (%), thesis, 5.{n}" for n in (2, 1, 4, 5)]
    assert shown["ours, k"].loc["grad_cam", "layer2"] == pytest.approx(100 * (0.6 + 0.015))
    assert shown["IoU (%), thesis, 5.2"].loc["xrelevance_cam", "layer1"] == 28.07
    means = nets.means_by_seed(by)
    assert list(means) == ["k", "plain", "o"]
    assert means.loc[1, "k"] == pytest.approx(0.7 + 1.03 / 7 + 0.015)
    found = claims.of_networks(by)
    assert [one["claim"] for one in found] == ["selective", "other network", "dropout"]
    assert found[1]["ours"] == pytest.approx(1.03)  # XRelevance-CAM was made the best
    assert list(claims.so_far(found)["verdict"]) == [claims.HOLDS] * 3
    assert [one["claim"] for one in claims.of_networks({"k": with_kernels, nets.DROPOUT: table(0.2)})] == ["dropout"]


def test_means_are_of_images_with_evidence():
    rows = [("iou", "a", 0.2), ("iou", "b", np.nan), ("drop_hard", "a", 0.6), ("drop_hard", "b", 0.9)]
    given = pd.DataFrame(rows, columns=["metric", "image_id", "value"]).assign(method="grad_cam", layer="layer1")
    assert study.cell_means(given).to_dict("records") == [
        {"method": "grad_cam", "layer": "layer1", "iou": 0.2, "drop_hard": 0.6}
    ]


def test_axioms_have_the_layers_of_the_thesis_and_medians(monkeypatch):
    def cam_axioms(model, ds, methods, layers, targets, max_channels, seed):
        assert (methods, list(targets), max_channels, seed) == (study.CAMS, LABELS, 4, 1)
        rows = [(m, c, i, a) for m in methods for c in layers for i in ds.ids for a in study.AXIOMS]
        found = pd.DataFrame(rows, columns=["method", "layer", "image_id", "axiom"])
        return found.assign(value=found["image_id"].str[-1].astype(int) ** 2 + found["layer"].map(layers.index))

    monkeypatch.setattr(study, "cam_axioms", cam_axioms)
    monkeypatch.setattr(study, "stage_layers", lambda model: dict(zip(study.LAYERS, ["x", "b", "y", "a"], strict=True)))
    errors = study.axiom_errors(None, grey(patients=list("aabbccdd")), 4, 1)
    assert list(errors["layer"].unique()) == list(study.LAYERS)
    assert list(errors["patient_id"].unique()) == list("abcd")
    shown, flagged = study.axiom_cells(errors)
    assert list(shown) == [f"{a}, {x}" for a, n in study.AXIOMS.items() for x in (f"thesis, {n}", "ours, medians")]
    assert shown["conservation, ours, medians"].loc["hirescam"].tolist() == [12.5, 13.5, 14.5, 15.5]
    assert flagged["sensitivity, thesis, 5.8"].loc["hirescam"].tolist() == [False, False, False, True]


def test_both_randomisations_share_their_first_stages():
    network = xai.build_model("resnet_mini", 2, 64, seed=1)
    rng = np.random.default_rng(0)
    ds = ImageDataset(rng.integers(0, 256, (3, 64, 64, 3)).astype(np.uint8), [0, 1, 1], ("no", "yes"), list("abc"))
    tested, chance = study.randomised(network, ds, ["hirescam"], seed=3)
    assert list(tested["mode"].unique()) == ["cascading", "independent"]
    assert tested["depth"].max() == 6
    both = tested[tested["depth"] < 2].pivot_table("value", ["depth", "image_id"], "mode", dropna=False)
    pd.testing.assert_series_equal(both["cascading"], both["independent"], check_names=False)
    assert len(chance) == 3


def test_use_of_the_mark_tells_a_network_that_needs_it(monkeypatch):
    """The mark is white in the lower left corner; one network looks at the lower rows, the other says always no."""
    monkeypatch.setattr(
        xrelevance_transfer,
        "layer_maps",
        lambda m, images, *_: {("relevance_cam", "layer1"): np.ones(images.shape[:3])},
    )
    mark = Mark("", place="bottom_left", height=0.25, margin=0, brightness=1.0)
    training = Untrained({None: threshold(120, 8), "imagenet": threshold(1000, SIZE)})
    test = grey("test")
    found = xrelevance_transfer.transfer(training, "a", (grey(), grey("val"), test), mark=mark, n_images=5, seed=2)
    assert [one[3] for one in training.seen] == [None, "imagenet"]
    assert found.uses().loc[("scratch", "yes")].to_dict() == pytest.approx(
        {"p_without": 0, "p_with": 1, "turned": 1, "n": 4}, abs=1e-5
    )
    assert found.uses().loc[("imagenet", "no"), "p_with"] == pytest.approx(0, abs=1e-5)
    assert claims.transfer(found.use["scratch"], found.use["imagenet"])["ours"] == pytest.approx(1, abs=1e-5)
    assert not found.learnt()["imagenet"]  # it always says no
    right = found.accuracy().set_index(["start", "marks"])["mean"]
    for kind in MARKS:
        marked = confound(test, 1, mark, marks=kind, seed=2).masks.any(axis=(1, 2))
        assert right["scratch", kind] == (marked == np.array(LABELS)).mean()
        assert right["imagenet", kind] == 0.5
    assert found.chance == 1 / 16
    assert len(found.share) == 2 * 5
    np.testing.assert_allclose(found.share["value"], 1 / 16, rtol=1e-5)


def test_other_starts_than_imagenet(monkeypatch):
    monkeypatch.setattr(
        xrelevance_transfer,
        "layer_maps",
        lambda m, images, *_: {("relevance_cam", "layer1"): np.ones(images.shape[:3])},
    )
    training = Untrained({None: threshold(120, 8), "digits.weights.h5": threshold(1000, SIZE)})
    starts = {"digits": "digits.weights.h5", "nothing": None}
    mark = Mark("", place="bottom_left", height=0.25, margin=0, brightness=1.0)
    splits = (grey(), grey("val"), grey("test"))
    found = xrelevance_transfer.transfer(training, "a", splits, mark=mark, n_images=5, starts=starts)
    assert [one[3] for one in training.seen] == ["digits.weights.h5", None]
    assert list(found.learnt()) == list(found.use) == ["digits", "nothing"]
    assert found.uses().loc[("nothing", "yes"), "turned"] == 1
    assert found.uses().loc[("digits", "yes"), "turned"] == 0
    with pytest.raises(ValueError, match="at least one start"):
        xrelevance_transfer.transfer(training, "a", splits, starts={})
