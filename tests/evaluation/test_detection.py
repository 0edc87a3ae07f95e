"""Detection in two stages: suppression, FROC and pasted maps worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from small_models import discs, where_and_what_network

from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.detection import SIDES, crops_of, detect, froc, heat_maps, paste, peaks_of, read_crops


def network_of(where, what):
    """A model whose maps are the images' first three channels at every 16th pixel: l, m_0 and m_1."""
    inputs = keras.Input((64, 96, 3))
    x = keras.layers.AveragePooling2D(16)(inputs)
    model = keras.Model(
        inputs,
        [
            keras.layers.Conv2D(1, 1, use_bias=False, name="where")(x),
            keras.layers.Conv2D(2, 1, use_bias=False, name="what")(x),
        ],
    )
    model.get_layer("where").set_weights([np.reshape([1.0, 0, 0], (1, 1, 3, 1))])
    model.get_layer("what").set_weights([np.reshape([0.0, 0, 1, 0, 0, 1], (1, 1, 3, 2))])
    maps = np.stack([where, *np.moveaxis(what, -1, 0)], axis=-1)
    return model, maps.repeat(16, 0).repeat(16, 1)[None].astype(np.float32)


def test_finds_and_suppression():
    """Two lesions and the shoulder of one: the shoulder is a peak too, and lies in the other's box."""
    where, what = np.full((4, 6), -6.0), np.zeros((4, 6, 2))
    where[1, 1], where[1, 2], where[1, 3], where[3, 5] = 4, 1, 3.9, 2
    what[1, 1, 1], what[3, 5, 0] = 1, 1
    found = detect(*network_of(where, what), n=3)
    first, second = found.iloc[0], found.iloc[1]
    assert (first["row"], first["column"]) == (24, 24)
    assert list(first[list(SIDES)]) == [16, 16, 32, 64]  # sigmoid(1) is over half of sigmoid(4): three places
    log_p = -np.log1p(np.exp(-1))
    assert np.isclose(first["score"], 4 + log_p, atol=1e-5)
    assert np.isclose(first["probability"], 1 / (1 + np.exp(-1)))
    assert (second["row"], second["column"]) == (56, 88)
    assert np.isclose(second["score"], 2 - np.log1p(np.exp(1)), atol=1e-5)
    assert len(detect(*network_of(where, what), n=1)) == 1
    assert np.isclose(heat_maps(where[None], what[None], 1)[0, 1, 1], 4 + log_p)


def test_peaks_of_any_map():
    maps = np.zeros((3, 32, 32), np.float32)
    maps[0, 3, 4], maps[0, 5, 4], maps[0, 20, 21], maps[0, 31, 0], maps[1] = 5, 4, 2, -1, 7
    maps[2] = -2
    maps[2, 10, 11] = -1
    found = peaks_of(maps, n=2, distance=4)
    assert found.to_numpy().tolist() == [[0, 5, 3, 4], [0, 2, 20, 21], [2, -1, 10, 11]]
    assert len(peaks_of(maps, n=3, distance=1)[lambda t: t["image"] == 0]) == 3  # the shoulder of the first counts now


def test_froc_by_hand():
    """Three images, three lesions: hits of 5 and 1, one lesion missed; false finds of 4, 3 and 2, and one more find of
    a lesion already found, which counts for nothing."""
    masks = np.zeros((3, 32, 32), bool)
    masks[0, 2:6, 2:6] = masks[0, 20:24, 20:24] = masks[1, 2:6, 2:6] = True
    ds = ImageDataset(
        np.zeros((3, 32, 32, 1), np.uint8),
        [1, 1, 0],
        ("a", "b"),
        ["x", "y", "z"],
        masks=masks,
        patients=["p", "q", "r"],
    )
    rows = [(0, 5, 3, 3), (0, 4.5, 4, 4), (0, 4, 12, 12), (1, 3, 30, 3), (2, 2, 3, 3), (1, 1, 5, 5)]
    found = pd.DataFrame(rows, columns=["image", "score", "row", "column"])
    table = froc(found, ds, rates=(0.3, 1 / 3, 0.5, 1.0), n_resamples=50)
    np.testing.assert_allclose(table["sensitivity"], [1 / 3, 1 / 3, 1 / 3, 2 / 3])
    np.testing.assert_allclose(table["threshold"], [4, 3, 3, -np.inf])
    assert set(table["lesions"]) == {3}
    assert set(table["images"]) == {3}
    unknown = ImageDataset(
        ds.pixels, ds.labels, ds.class_names, ds.ids, masks=masks, evidence=np.array(["known", "unknown", "empty"])
    )
    assert froc(found, unknown, rates=(1.0,), n_resamples=10)["lesions"][0] == 2
    with pytest.raises(ValueError, match="no evidence"):
        froc(found, ImageDataset(ds.pixels, ds.labels, ds.class_names, ds.ids))


def test_the_interval_is_of_patients():
    """One patient has all that is found, ten have what is missed: between them lies the interval."""
    masks = np.zeros((20, 16, 16), bool)
    masks[:, 4:8, 4:8] = True
    patients = [f"p{i // 2}" for i in range(20)]
    ds = ImageDataset(
        np.zeros((20, 16, 16, 1), np.uint8),
        [1] * 20,
        ("a", "b"),
        list(map(str, range(20))),
        masks=masks,
        patients=patients,
    )
    found = pd.DataFrame([(i, 1.0, 5, 5) for i in range(10)], columns=["image", "score", "row", "column"])
    row = froc(found, ds, rates=(1.0,)).iloc[0]
    assert row["sensitivity"] == 0.5
    assert row["low"] == pytest.approx(0.2, abs=0.1)  # of 10 units; of 20 it would be .3
    assert row["high"] == pytest.approx(0.8, abs=0.1)


def test_crops_are_pasted_where_they_were():
    images = np.arange(2 * 20 * 30, dtype=np.float32).reshape(2, 20, 30, 1)
    found = pd.DataFrame([(0, 0, 0, 4, 4), (0, 2, 3, 6, 9), (1, 16, 26, 20, 30)], columns=["image", *SIDES])
    crops, starts = crops_of(images, found, 6)
    np.testing.assert_array_equal(starts, [[0, 0], [1, 3], [14, 24]])
    np.testing.assert_array_equal(crops[1], images[0, 1:7, 3:9])
    maps = np.stack([np.full((6, 6), v, np.float32) for v in (1, -3, 2)])
    pasted = paste(maps, starts, found, (2, 20, 30))
    assert pasted[0, 0, 0] == 1
    assert pasted[0, 5, 5] == -3  # both lie there
    assert pasted[1].sum() == 2 * 36
    assert pasted[0].sum() == -3 * 36 + (36 - 15)
    scores, again = read_crops(lambda x: x.mean(axis=(1, 2, 3)), lambda x: x[..., 0], images, found, 6)
    np.testing.assert_allclose(scores, crops.mean(axis=(1, 2, 3)))
    np.testing.assert_array_equal(again[1, 14:, 24:], images[1, 14:, 24:, 0])
    with pytest.raises(ValueError, match="side=25; the images are only 20 x 30"):
        crops_of(images, found, 25)


def test_a_network_of_the_head_is_read():
    found = detect(where_and_what_network(), discs(3, 0).pixels, n=2)
    assert found["image"].value_counts().max() <= 2
    with pytest.raises(ValueError, match="no maps of where and what"):
        detect(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]), np.zeros((1, 8, 8, 3)))
