"""Planted evidence: mosaics that are what they say, and a mark that a model uses or not."""

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation import evaluate_all
from xaiutils.evaluation.studies.mosaics import grid_mosaics
from xaiutils.evaluation.studies.planted_mark import PLACES, Mark, confound, mark_found, mark_use, plant

SIZE = 32


def colours(n=24, classes=3, seed=0):
    """Images of one colour channel each, the class's, of different strength; the model below knows them all."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    pixels = np.zeros((n, SIZE, SIZE, 3), np.uint8)
    pixels[np.arange(n), :, :, labels] = rng.integers(60, 256, (n, 1, 1))
    return ImageDataset(pixels, labels, ("red", "green", "blue")[:classes], [f"i{k}" for k in range(n)])


def channel_model(classes=3, size=SIZE):
    """Logit of a class: the mean of its colour channel."""
    inputs = keras.Input((size, size, 3))
    convolution, dense = keras.layers.Conv2D(3, 1, use_bias=False), keras.layers.Dense(classes)
    model = keras.Model(inputs, dense(keras.layers.GlobalAveragePooling2D()(convolution(inputs))))
    convolution.set_weights([np.eye(3)[None, None]])
    dense.set_weights([np.eye(3)[:, :classes] / 10, np.zeros(classes)])
    return model


@pytest.mark.parametrize(("k", "classes"), [(2, 3), (2, 2), (3, 3)])
def test_mosaics_show_the_images_that_they_name(k, classes):
    ds = colours(60, classes)
    found = grid_mosaics(channel_model(classes), ds, n=4, k=k, seed=1)
    share = k * k // classes
    assert found.pixels.shape == (4, SIZE, SIZE, 3)
    assert found.labels.tolist() == [0, 1, 2, 0][:4] if classes == 3 else [0, 1, 0, 1]
    edges = np.rint(np.linspace(0, SIZE, k + 1)).astype(int)
    used = []
    for pixels, mask, label, cells in zip(
        found.pixels, found.masks, found.labels, found.metadata["cells"], strict=True
    ):
        ids = cells.split(" | ")
        used += ids
        members = [ds.ids.index(i) for i in ids]
        assert (ds.labels[members] == label).sum() == share
        assert len(set(ds.labels[members])) == classes  # the others share the other cells
        for place, member in enumerate(members):
            row, column = divmod(place, k)
            cell = np.s_[edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
            np.testing.assert_array_equal(pixels[cell], np.broadcast_to(ds.pixels[member, 0, 0], pixels[cell].shape))
            assert (mask[cell] == (ds.labels[member] == label)).all()
    assert len(set(used)) == len(used)


def test_a_map_of_the_class_finds_its_cells_and_its_negative_the_others():
    ds, model = colours(), channel_model()
    mosaics = grid_mosaics(model, ds, n=6, seed=3)
    maps = xai.explain(model, mosaics.images, mosaics.labels, "gradients_x_inputs")
    other = xai.explain(model, mosaics.images, (mosaics.labels + 1) % 3, "gradients_x_inputs")
    flat = np.ones_like(maps)
    table = evaluate_all(None, mosaics, {"own": maps, "other": other, "flat": flat}, ["relevance_mass", "roc_auc"])
    means = table.pivot_table("value", "method", "metric")
    assert means.loc["own"].tolist() == [1, 1]
    assert means.loc["other", "relevance_mass"] == 0
    assert means.loc["flat"].tolist() == [0.25, 0.5]


def test_only_images_that_the_model_knows_the_surest_first():
    ds = colours(12, 2)
    strong = ds.pixels.max(axis=(1, 2, 3)).astype(float)
    wrong = ds.pixels.copy()
    wrong[0] = 0
    wrong[0, ..., 1] = 255  # a red one that is green: the model says green, and surely
    ds = ImageDataset(wrong, ds.labels, ds.class_names, ds.ids)
    found = grid_mosaics(channel_model(2), ds, n=2)
    used = set(" | ".join(found.metadata["cells"]).split(" | "))
    assert "i0" not in used
    for label in (0, 1):
        members = [i for i in np.flatnonzero(ds.labels == label) if i != 0]
        best = sorted(members, key=lambda i: -strong[i])[:4]
        assert {ds.ids[i] for i in best} <= used
    assert found.metadata["confidence"].is_monotonic_decreasing
    # 5 red and 6 green images: 2 mosaics of two each, and no third.
    assert len(grid_mosaics(channel_model(2), ds, n=24)) == 2
    again = grid_mosaics(channel_model(2), ds, n=2, batch_size=1)
    np.testing.assert_array_equal(again.pixels, found.pixels)


def test_full_cells_and_one_target_cell():
    ds = colours(24, 2)
    found = grid_mosaics(channel_model(2, None), ds, n=3, k=3, cells="full", target_cells=1)
    # 12 images of each class: one and eight, eight and one, and no third.
    assert found.pixels.shape == (2, 3 * SIZE, 3 * SIZE, 3)
    np.testing.assert_allclose(found.masks.mean(axis=(1, 2)), 1 / 9)
    with pytest.raises(ValueError, match="the model takes"):
        grid_mosaics(channel_model(2), ds, cells="full")


def test_mosaics_that_cannot_be_made():
    ds, model = colours(24, 3), channel_model()
    with pytest.raises(ValueError, match="not one mosaic"):
        grid_mosaics(model, ds.select(ds.labels == 1))
    with pytest.raises(ValueError, match=r"\{'red': 1, 'green': 1, 'blue': 1\}"):
        grid_mosaics(model, ds.take(3))
    with pytest.raises(ValueError, match="4 of them of the target class"):
        grid_mosaics(model, ds, target_cells=4)
    with pytest.raises(ValueError, match="cells='half'"):
        grid_mosaics(model, ds, cells="half")
    with pytest.raises(ValueError, match="k=1"):
        grid_mosaics(model, ds, k=1)
    with pytest.raises(ValueError, match="8 pixels a side"):
        grid_mosaics(model, ds, k=5)


# A mark -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grey():
    n = 40
    return ImageDataset(
        np.full((n, 64, 64, 3), 100, np.uint8), np.arange(n) % 2, ("a", "b"), [f"g{k}" for k in range(n)]
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", ["", "RCC"])
def test_the_mark_is_where_it_says(grey, place, text):
    mark = Mark(text, place, height=0.125, margin=0.0625, brightness=1.0)
    present = np.arange(40) % 4 == 0
    found = plant(grey, mark, present)
    assert found.masks.any(axis=(1, 2)).tolist() == present.tolist() == found.metadata["mark"].tolist()
    rows, columns = np.nonzero(found.masks[0])
    assert np.ptp(rows) + 1 == 8
    assert rows.min() == (4 if place.startswith("top") else 64 - 4 - 8)
    assert (columns.min() == 4) if place.endswith("left") else (columns.max() == 64 - 4 - 1)
    changed = (found.pixels != grey.pixels).any(axis=-1)
    assert not changed[~found.masks].any()
    inside = found.pixels[0][found.masks[0]]
    assert inside.max() == 255
    if not text:
        assert (inside == 255).all()
        assert len(rows) == 64
    else:
        assert 0.2 < changed[0][found.masks[0]].mean() < 0.9  # letters, not a block
        assert np.ptp(columns) > 8
    np.testing.assert_array_equal(grey.pixels, 100)


def test_contrast_of_the_mark(grey):
    faint = plant(grey.take(1), Mark("", brightness=0.8, opacity=0.25))
    assert set(faint.pixels[faint.masks].ravel()) == {round(100 + 0.25 * (0.8 * 255 - 100))}
    with pytest.raises(ValueError, match="opacity=0"):
        Mark(opacity=0)
    with pytest.raises(ValueError, match="choose one of top_left"):
        Mark(place="middle")
    with pytest.raises(ValueError, match="have no room"):
        plant(grey, Mark("A VERY LONG WATERMARK", height=0.3))


def test_random_places_belong_to_the_image(grey):
    mark = Mark("", "random")
    found = plant(grey, mark, seed=1)
    corners = {tuple(np.argwhere(m)[0]) for m in found.masks}
    assert len(corners) == 4
    np.testing.assert_array_equal(plant(grey.select([7]), mark, seed=1).pixels[0], found.pixels[7])


def test_the_mark_goes_with_the_class(grey):
    many = grey.select(np.arange(2000) % 40)
    many = ImageDataset(many.pixels[:, :32, :32], many.labels, many.class_names, [f"m{k}" for k in range(2000)])
    for marks, expected in (("iid", 0.9), ("neutral", 0.5), ("flipped", 0.1)):
        there = confound(many, 1, Mark(""), 0.9, marks).metadata["mark"].to_numpy()
        assert there[many.labels == 1].mean() == pytest.approx(expected, abs=0.03)
        assert there[many.labels == 0].mean() == pytest.approx(1 - expected, abs=0.03)
    always = confound(grey, 0, Mark(""), 1.0)
    assert always.metadata["mark"].tolist() == (grey.labels == 0).tolist()
    for bad in ({"marks": "none"}, {"probability": 1.5}, {"marked_class": 2}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            confound(grey, **{"marked_class": 1, **bad})


def reader(box, weight):
    """A linear model whose logit of class 1 is the sum of the pixels in ``box`` times a weight, of class 0 nothing."""
    inputs = keras.Input((*box.shape, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    kernel = np.zeros((*box.shape, 3, 2), np.float32)
    kernel[box, :, 1] = weight
    model.layers[-1].set_weights([kernel.reshape(-1, 2), np.zeros(2)])
    return model


def test_a_model_that_reads_the_mark_alone_and_one_that_does_not(grey):
    mark = Mark("", brightness=1.0)
    marked = plant(grey, mark, grey.labels == 1)
    box = marked.masks[1]
    weight = 1e-4
    use = mark_use(reader(box, weight), grey, marked, 1)
    expected = np.where(grey.labels == 1, 3 * box.sum() * weight * 155, 0)
    np.testing.assert_allclose(use["logit_change"], expected, rtol=1e-4)
    assert use["mark"].tolist() == (grey.labels == 1).tolist()
    assert (use["p_with"] > use["p_without"]).tolist() == use["mark"].tolist()
    assert not use["turned"].any()
    maps = xai.explain(reader(box, weight), marked.images, 1, "gradients_x_inputs")
    found = mark_found(marked, {"right": maps, "wrong": 1.0 * ~marked.masks}, use)
    assert found["image_id"].nunique() == 20
    means = found.pivot_table("value", "method", "metric")
    assert means.loc["right"].tolist() == [1, 1, 1]
    assert means.loc["wrong"].tolist() == [0, 0, 0]
    assert found["logit_change"].to_numpy() == pytest.approx(expected.max(), rel=1e-4)
    other = np.roll(box, 30, axis=0)
    np.testing.assert_allclose(mark_use(reader(other, weight), grey, marked, 1)["logit_change"], 0, atol=1e-6)
    with pytest.raises(ValueError, match="not the same images"):
        mark_use(reader(box, weight), grey.take(3), marked)
