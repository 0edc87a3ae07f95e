"""Class imbalance and maps: sets that are drawn as said, effects that are planted and found, remedies that coincide."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from small_models import discs

from xaiutils.backend import keras
from xaiutils.evaluation.studies import imbalance as study

POOL, VAL, TEST = (discs(n, seed, (16, 16), 3) for seed, n in enumerate((64, 4, 24)))


KINDS = (("total", 0.5, "none"), ("total", 0.5, "class_weights"), ("total", 0.5, study.PLANTED))
CELLS = [study.Cell(*kind, 0) for kind in (*KINDS, ("total", 0.25, "none"), ("minority", 0.25, "none"))]
SHORT = study.RECIPE.__class__("short", False, 0.01, 0.0, 25, monitor="loss", patience=25)


def network(seed):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 64)(x)
    for filters in (8, 16):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalMaxPooling2D(name="features")(x)
    logits = keras.layers.Dense(2, name="logits")(x)
    return keras.Model(inputs, keras.layers.Softmax(name="probabilities")(logits))


def test_total_or_minority_is_held_and_draws_are_nested():
    assert study.counts("total", 0.5, 200, 0.05) == (100, 100)
    assert study.counts("total", 0.05, 200, 0.05) == study.counts("minority", 0.05, 200, 0.05) == (10, 190)
    assert study.counts("minority", 0.5, 200, 0.05) == (10, 10)
    with pytest.raises(ValueError, match="least"):
        study.counts("total", 0.01, 200, 0.05)
    few, more = study.uneven(POOL, 1, 3, 20, 7), study.uneven(POOL, 1, 9, 20, 7)
    assert few.class_counts.tolist() == [20, 3]
    assert set(few.ids) < set(more.ids)
    with pytest.raises(ValueError, match="of 32 of the class"):
        study.uneven(POOL, 1, 33, 2)


def test_a_choice_of_classes_is_numbered_as_it_is_named():
    five = TEST.__class__(POOL.pixels[:5], [0, 1, 2, 2, 1], ("a", "b", "c"), list("vwxyz"), POOL.masks[:5])
    chosen = study.of_classes(five, ["c", "a"])
    assert (chosen.ids, chosen.labels.tolist(), chosen.class_names) == (["v", "x", "y"], [1, 0, 0], ("c", "a"))
    assert np.array_equal(chosen.masks, POOL.masks[[0, 2, 3]])
    with pytest.raises(ValueError, match="no class 'd'"):
        study.of_classes(five, ["a", "d"])
    with pytest.raises(ValueError, match="two or more"):
        study.of_classes(five, ["a"])


def test_the_grid_has_what_all_else_is_compared_with():
    cells = study.grid((0.5, 0.1), ("none", "focal"), (0, 1), everywhere=False)
    assert len(cells) == len(set(cells)) == 2 * (2 + 2 + 1 + 1)
    assert {(c.hold, c.share) for c in cells if c.remedy == "focal"} == {("total", 0.1)}
    assert len(study.grid((0.5, 0.1), ("none", "focal"), (0, 1), planted=False)) == 16
    for shares, names, message in (((0.1,), ("none",), "0.5"), ((0.5,), ("focal",), "'none'"), ((0.5,), ("x",), "x")):
        with pytest.raises(ValueError, match=message):
            study.grid(shares, names, (0,))


def test_changes_are_summarised_over_images_and_seeds():
    """Changes of 0 and 2 by the image and 0 and 2 by the seed, by hand; NaN is counted, and no change no certainty."""
    facts = {"hold": "total", "remedy": "none", "metric": "m", "margin": 0.0, "p": 1.0}
    even = pd.DataFrame(
        [{**facts, "share": 0.5, "seed": s, "image_id": i, "value": 7.0} for s in (0, 1) for i in (0, 1)]
    )
    less = even.assign(share=0.1, value=7.0 + 2 * even["seed"] + 2 * even["image_id"])
    images = pd.concat([even, less, less.assign(share=0.2, value=[7.0, np.nan] * 2)])
    found = study.judge(study.summarise_seeds(study.against_even(images))).set_index("share")
    half = np.sqrt(2) * stats.t.ppf(0.975, 2)
    numbers = found.loc[0.1, ["mean", "low", "high", "least", "greatest", "n", "seeds", "missing"]].tolist()
    assert numbers == pytest.approx([2, 2 - half, 2 + half, 1, 3, 2, 2, 0])
    assert found["verdict"].tolist() == ["undecided", "undecided"]
    assert found.loc[0.2, ["mean", "missing"]].tolist() == [0, 2]
    assert np.isnan(found.loc[0.2, "low"])
    table = pd.DataFrame({"low": [0.1, -0.2, -0.1, np.nan], "high": [0.2, -0.1, 0.1, np.nan]})
    assert study.judge(table)["verdict"].tolist() == ["higher", "lower", "undecided", "undecided"]
    with pytest.raises(ValueError, match="several networks"):
        study.against(less, images)


def table(change):
    """200 images, even and uneven, of which ``change(margin)`` gives the values."""
    rng = np.random.default_rng(0)
    even, less = rng.normal(4, 1, 200), rng.normal(4, 1, 200) - rng.uniform(0, 4, 200)
    parts = []
    for share, margin in ((0.5, even), (0.1, less)):
        facts = {"hold": "total", "share": share, "remedy": "none", "seed": 0, "metric": "m"}
        value = change(share, margin) + rng.normal(0, 0.02, 200)
        p = 1 / (1 + np.exp(-margin))
        parts.append(pd.DataFrame({**facts, "image_id": range(200), "p": p, "margin": margin, "value": value}))
    return pd.concat(parts)


def test_what_goes_with_the_margin_is_mediated_and_what_does_not_is_direct():
    by_margin = study.mediation(table(lambda share, margin: 0.1 * margin)).set_index("effect")
    assert by_margin.loc["total", "mean"] == pytest.approx(-0.2, abs=0.03)
    assert by_margin.loc["direct", "low"] < 0.01
    assert by_margin.loc["direct", "high"] > -0.01
    assert by_margin.loc["mediated", "high"] < -0.15
    by_share = study.mediation(table(lambda share, margin: 0.3 * (share == 0.5))).set_index("effect")
    assert by_share.loc["direct", "mean"] == pytest.approx(-0.3, abs=0.01)
    assert abs(by_share.loc["mediated", "mean"]) < 0.01
    matched = study.against_even(table(lambda share, margin: 0.1 * margin), caliper=0.01)
    everything = study.against_even(table(lambda share, margin: 0.1 * margin))
    assert 5 < len(matched) < 200 == len(everything)
    assert abs(matched["value"].mean()) < abs(everything["value"].mean()) / 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def found(folder):
    return study.sweep(network, (POOL, VAL, TEST), 1, CELLS, 40, recipe=SHORT, folder=folder)


def test_a_sweep_that_was_cut_goes_on(found, folder, monkeypatch):
    """Kept networks are read, not trained; another recipe, or other masks, are others."""
    monkeypatch.setattr(study, "train", lambda *_, **__: pytest.fail("trained again"))
    again = study.sweep(network, (POOL, VAL, TEST), 1, CELLS, 40, recipe=SHORT, folder=folder)
    for name in ("images", "classes", "random"):
        tables = (pd.DataFrame(getattr(one, name)) for one in (again, found))
        pd.testing.assert_frame_equal(*tables, check_dtype=False)
    assert all(np.array_equal(again.maps[cell], found.maps[cell]) for cell in CELLS)
    others = replace(TEST, masks=~TEST.masks)
    for test, recipe in ((TEST, replace(SHORT, epochs=26)), (others, SHORT)):
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            study.sweep(network, (POOL, VAL, test), 1, CELLS[:2], 40, recipe=recipe, folder=folder)


def test_at_even_classes_remedies_coincide_and_both_sweeps_meet(found):
    assert np.array_equal(*(found.maps[study.Cell("total", 0.5, name, 0)] for name in ("none", "class_weights")))
    least = [found.maps[study.Cell(hold, 0.25, "none", 0)] for hold in study.HOLDS]
    assert np.array_equal(*least)


def test_maps_of_random_weights_are_another_networks(found):
    """Less evidence than the trained network's, and no likeness to it."""
    even = found.random[(found.random["share"] == 0.5) & (found.random["remedy"] == "none")]
    own = found.images[(found.images["share"] == 0.5) & (found.images["remedy"] == "none")]
    means, trained = (x.groupby("metric")["value"].mean() for x in (even, own))
    assert set(even["image_id"]) == set(own["image_id"])
    assert means["relevance_mass"] < trained["relevance_mass"]
    assert means["likeness"] < 0.9


def test_removed_evidence_is_found(found):
    images = found.images[(found.images["metric"] == "relevance_mass") & (found.images["hold"] == "total")]
    means = images[images["share"] == 0.5].groupby("remedy")["value"].mean()
    assert means["none"] > means[study.PLANTED] + 0.2
    classes = found.classes[(found.classes["class"] == TEST.class_names[1]) & (found.classes["share"] == 0.5)]
    right = classes.groupby("remedy")["sensitivity"].mean()
    assert right["none"] >= 0.8 > right[study.PLANTED]
    alike = study.likeness(found.maps, [i for i, y in zip(TEST.ids, TEST.labels, strict=True) if y == 1])
    weighted = alike[(alike["remedy"] == "class_weights") & (alike["share"] == 0.5)]["value"]
    assert np.allclose(weighted, 1)
    assert alike[alike["share"] == 0.25]["value"].mean() < 1
