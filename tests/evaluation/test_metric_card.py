"""Maps of known quality, and the card that says which metrics tell them apart."""

import numpy as np
import pandas as pd
import pytest

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.metrics.separation import LEAST, fails_on, known_card
from xaiutils.evaluation.studies.metric_card import (
    EVIDENCE,
    IMPOSTORS,
    KIN,
    NOISE,
    card,
    graded_maps,
    measure,
)

SIZE = 48


@pytest.fixture(scope="module")
def squares():
    """Eight images, each brighter by 100 in one of eight places, and darker in another."""
    rng, masks = np.random.default_rng(0), np.zeros((8, SIZE, SIZE), bool)
    for i in range(8):
        top, left = 12 * (i // 2), 24 * (i % 2)
        masks[i, top : top + 8, left : left + 8] = True
    pixels = rng.integers(80, 120, (8, SIZE, SIZE, 3)) + 100 * masks[..., None] - 60 * masks[::-1, ..., None]
    return ImageDataset(pixels.astype(np.uint8), [1] * 8, ("none", "square"), [f"i{k}" for k in range(8)], masks)


def brightest():
    """Logits (0, sum over pixels of relu(grey - 150) / 1000): the evidence is all that it uses."""
    x = keras.Input((SIZE, SIZE, 3))
    grey = keras.layers.ReLU()(keras.layers.Rescaling(1 / 255, offset=-150 / 255)(x))
    z = keras.layers.Dense(2, name="logits")(keras.layers.Flatten()(grey))
    model = keras.Model(x, keras.layers.Softmax()(z))
    kernel = np.stack([np.zeros(3 * SIZE**2), np.full(3 * SIZE**2, 0.1)], axis=1)
    model.get_layer("logits").set_weights([kernel, np.array([2.0, 0])])
    return model


def test_the_maps_are_what_they_are_called(squares):
    maps = graded_maps(squares, seed=3)
    assert next(iter(maps)) == EVIDENCE
    assert set(maps) == {EVIDENCE, *KIN, *NOISE, *IMPOSTORS}
    masks = squares.masks
    assert all(m.dtype == np.float32 and m.shape == masks.shape for m in maps.values())
    assert np.array_equal(maps[EVIDENCE] > 0, masks)
    assert np.array_equal(np.roll(maps["shifted 8 px"], -8, 2) > 0, masks)
    assert not (maps["another's"] * masks).any()
    sizes = [np.std(maps[name] - masks) for name in NOISE]
    np.testing.assert_allclose(sizes, [0.25, 0.5, 1, 2, 4], rtol=0.02)
    again = graded_maps(squares, seed=4)
    changed = {name for name in maps if not np.array_equal(maps[name], again[name])}
    assert changed == {*NOISE, "random", "blurred random"}
    masks = masks.copy()
    masks[2] = False
    with pytest.raises(ValueError, match="all have a mask"):
        graded_maps(ImageDataset(squares.pixels, squares.labels, squares.class_names, squares.ids, masks))
    with pytest.raises(ValueError, match="1 images, 48 pixels across"):
        graded_maps(squares.select([0]))


def test_a_card_tells_metrics_that_know_from_those_that_do_not(squares):
    metrics = ["roc_auc", "deletion_auc", "sparseness"]
    table = measure(brightest(), squares, metrics, parameters={"deletion_auc": {"n_steps": 12, "fill": "black"}})
    found = card(table).set_index("metric")
    others = [name for name in IMPOSTORS if name != "intensity"]  # which is this model's evidence
    assert found.loc["roc_auc", others].min() == 1
    assert found.loc["deletion_auc", others].min() > LEAST
    assert found.loc["roc_auc", "monotony"] > 0.9
    assert found.loc["sparseness", "shifted 32 px"] == 0.5  # as sparse as the evidence
    assert np.isnan(found["spread"]).all()
    assert found.loc["deletion_auc", "passes"] > 0


def test_a_card_by_hand():
    values = {EVIDENCE: [1, 3], "random": [2, 0], "edges": [np.nan, 3]}
    rows = [("iou", name, i, v) for name, both in values.items() for i, v in enumerate(both)]
    rows += [("iou", name, i, 0.5 - k * (-1) ** i) for i in (0, 1) for k, name in enumerate(NOISE)]
    rows += [("iou", name, 0, 0) for name in (*KIN, *IMPOSTORS) if name not in values]
    table = pd.DataFrame(rows, columns=["metric", "map", "image_id", "value"]).assign(passes=2.0)
    found = card(table).iloc[0]
    assert found["random"] == 1 / 2  # worse on one image, better on the other
    assert found["edges"] == 1 / 2  # a draw on the only image that has a value
    assert found["another's"] == 1
    assert (found["worst"], found["impostor"]) == (1 / 2, "random")
    assert found["monotony"] == 0  # one image follows every step, the other none
    twice = card(pd.concat([table.assign(seed=0), table[table["map"] != "edges"].assign(seed=1)]))
    assert twice["spread"].iloc[0] == 0  # the random map is the worst of both
    assert card(table.assign(value=np.nan))["impostor"].tolist() == [""]


def test_every_metric_of_maps_is_on_the_known_card_and_its_warning_is_printed():
    known = known_card().set_index("metric")
    assert set(known.index) == {name for name, m in xai.METRICS.items() if m.needs != "method"}
    for name, metric in xai.METRICS.items():
        fails = name in known.index and known.loc[name, "worst"] < LEAST
        assert bool(fails_on(name)) == fails == metric.direction.endswith("does not separate")
        assert fails == metric.label.endswith(" (does not separate)")
    assert not fails_on("roc_auc")
    assert fails_on("sparseness") in IMPOSTORS
