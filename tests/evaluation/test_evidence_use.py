"""Does the model use the evidence? Planted findings and a marker, models that read the one or the other, and phantoms
whose images without the finding are known exactly."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset, phantom
from xaiutils.evaluation.studies import evidence_use as study
from xaiutils.evaluation.studies.evidence_use_tables import use_by_label, use_by_model, use_in_words, use_table
from xaiutils.evaluation.studies.painting import body, grown, healthy_place, paint_over

SIZE, N = 40, 48
CORNER = np.s_[:5, :5]


def planted(n=N, seed=0):
    """Grainy images with a bright finding (class "malignant") or a faint one, and a white marker in the corner of the
    malignant ones; two images of each patient."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) // 2 % 2
    pixels, masks = rng.normal(100, 6, (n, SIZE, SIZE)), np.zeros((n, SIZE, SIZE), bool)
    for i, label in enumerate(labels):
        side, (row, column) = rng.integers(5, 9), rng.integers(8, SIZE - 10, 2)
        masks[i, row : row + side, column : column + side] = True
        pixels[i][masks[i]] = 210 if label else 130
        pixels[i][CORNER] = 250 if label else pixels[i][CORNER]
    grey = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return ImageDataset(
        np.repeat(grey[..., None], 3, axis=-1),
        labels,
        ("benign", "malignant"),
        [f"i{k}" for k in range(n)],
        masks,
        [f"p{k // 2}" for k in range(n)],
        metadata=pd.DataFrame({"density": np.where(np.arange(n) % 4 < 2, "fatty", "dense")}),
    )


def reader(where, units=2, last=None):
    """Logit of the second class: how much brighter than 170 the pixels of ``where`` are, less an offset."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(1, 1, activation="relu", name="bright")(inputs)
    outputs = keras.layers.Dense(units, activation=last, name="classes")(keras.layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    model.get_layer("bright").set_weights([np.full((1, 1, 3, 1), 1 / 3), np.full(1, -170.0)])
    kernel = np.zeros((SIZE, SIZE, units))
    kernel[where, -1] = 0.005
    model.get_layer("classes").set_weights([kernel.reshape(-1, units), np.eye(units)[-1] * -2.0])
    return model


def corner(inside=True):
    where = np.zeros((SIZE, SIZE), bool)
    where[CORNER] = True
    return where if inside else ~where


@pytest.fixture(scope="module")
def data():
    return planted()


@pytest.fixture(scope="module")
def honest(data):
    return xai.evidence_use(reader(corner(False)), data)


def test_a_model_that_reads_the_finding_and_one_that_reads_the_marker(data, honest):
    shortcut = xai.evidence_use(reader(corner()), data)
    before = [found.merit.set_index(["version", "quantity"])["before"] for found in (honest, shortcut)]
    assert before[0].tolist() == before[1].tolist() == [1, 1, 1, 1]  # no measure of merit tells them apart
    assert honest.verdict == study.USES
    assert shortcut.verdict == study.DOES_NOT
    gone = honest.merit.set_index(["version", "quantity"])["after"]
    assert gone["evidence gone", "AUC"] == 0.5
    assert gone["healthy place gone", "AUC"] == 1
    row = honest.groups.set_index(["by", "group"]).loc[("called right", "malignant")]
    assert row["n"] == row["n_paired"] == 24
    assert row["patients"] == 12
    # All that speaks for it goes, and as much again: the offset.
    expected = 0.005 * 40 * data.masks[data.labels == 1].sum(axis=(1, 2))
    assert row["evidence"] == pytest.approx(np.median(expected), rel=0.02)
    assert row["control"] == pytest.approx(0, abs=0.01)
    images = honest.images[honest.images["label"] == "malignant"]
    np.testing.assert_allclose(images["evidence"], expected, rtol=0.02)
    assert (shortcut.images["evidence"] == 0).all()
    assert "takes 0.00 [0.00, 0.00]" in shortcut.sentence
    assert "for 'benign' (24)" in honest.sentence
    assert {"fatty", "dense", "small", "large"} <= set(honest.groups["group"])


def test_a_model_that_reads_both_does_not_need_the_finding():
    data = replace(planted(80), patients=None)
    found = xai.evidence_use(reader(corner() | corner(False)), data)
    assert found.verdict == study.NEEDS_NOT
    assert found.merit["after"].iloc[0] == 1


def blobs(size, sigma=5.0, over=6.0):
    """Evidence for "mass": how much blobs of a size stand out of their surroundings, anywhere in the image."""
    at = np.arange(-12, 13)
    inner, outer = (np.exp(-(at[:, None] ** 2 + at**2) / (2 * s**2)) for s in (sigma, 2 * sigma))
    kernel = (inner / inner.sum() - outer / outer.sum())[..., None, None] / 3
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(1, len(at), padding="valid", activation="relu", name="blobs")(inputs)
    outputs = keras.layers.Dense(2, name="classes")(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    model.get_layer("blobs").set_weights([np.repeat(kernel, 3, axis=2), np.full(1, -over)])
    model.get_layer("classes").set_weights([np.array([[0.0, 8.0]]), np.array([0.0, -2.0])])
    return model


def test_painting_agrees_with_the_phantoms_twins_and_leaves_few_traces():
    ds = xai.load_dataset("phantom", "test", 96, 40, task="presence", difficulty="easy")
    twins = np.stack([phantom.generate(int(i[-8:]), 96, "presence", "easy", lesion=False).image for i in ds.ids])
    twins = np.repeat(np.rint(255 * twins)[..., None], 3, axis=-1).astype(np.float32)
    model = blobs(96)
    found = xai.evidence_use(model, ds)
    assert found.verdict == study.USES
    has = ds.labels == 1
    exact = np.diff(xai.predict(model, ds.images) - xai.predict(model, twins), axis=1)[has, 0]
    painted = (found.images["evidence"] * np.where(found.images["predicted"] == "mass", 1, -1))[has]
    assert np.corrcoef(exact, painted)[0, 1] > 0.95
    assert np.median(np.abs(painted - exact)) < 0.1 * np.median(exact)
    # Healthy places painted over in all images, those without a mass too, change nothing.
    control = found.images["control"]
    assert control.notna().sum() >= 38
    assert abs(control.median()) < 0.05 * np.median(exact)
    traces = found.merit[found.merit["version"] == "healthy place gone"].set_index("quantity").loc["AUC"]
    assert traces["low"] < 0 < traces["high"]
    assert abs(traces["loss"]) < 0.02
    assert pd.isna(found.images.loc[~has, "evidence"]).all()
    gone = found.merit.set_index(["version", "quantity"]).loc[("evidence gone", "AUC")]
    assert gone["n"] == 40
    assert gone["low"] > 0


def test_images_are_painted_each_by_itself(data):
    model = reader(corner(False))
    few = data.select([3, 9, 30, 31])
    one, other = (xai.evidence_use(model, few, batch_size=size).images for size in (1, 4))
    pd.testing.assert_frame_equal(one, other, rtol=1e-5)
    again = xai.evidence_use(model, few.select([2, 0]), seed=0).images
    pd.testing.assert_frame_equal(again, one.loc[[2, 0]].reset_index(drop=True), rtol=1e-5)
    grainy = reader(np.ones((SIZE, SIZE), bool))
    grainy.get_layer("bright").set_weights([np.full((1, 1, 3, 1), 1 / 3), np.full(1, -90.0)])
    drawn = [xai.evidence_use(grainy, few, seed=seed).images["control"].tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_is_not_known_is_counted_and_not_guessed(data):
    masks, evidence = data.masks.copy(), data.evidence.astype(object)
    masks[0], evidence[0] = False, "unknown"
    masks[1] = False  # known, but lost
    masks[2] = True
    masks[3] = False
    masks[3, 2:, 2:] = True
    masks[4], evidence[4] = False, "empty"
    ds = ImageDataset(data.pixels, data.labels, data.class_names, data.ids, masks, evidence=evidence)
    found = xai.evidence_use(reader(corner(False)), ds)
    images = found.images.set_index("image_id")
    assert [i for i in data.ids if i not in images.index] == ["i0", "i1", "i2"]
    said = " ".join(found.notes)
    assert "1 image (i0) left out: their evidence is not known" in said
    assert "1 image (i1) left out: their evidence was lost in resizing" in said
    assert "1 image (i2) left out: evidence all over" in said
    assert "1 image (i3) in no pair" in said
    assert np.isfinite(images.loc["i3", "evidence"])
    assert pd.isna(images.loc["i4", "evidence"])
    assert np.isfinite(images.loc["i4", "control"])
    few = xai.evidence_use(reader(corner(False)), ds.select(np.arange(3, 20)))
    assert few.verdict == study.CANNOT_TELL
    assert "at most 8" in few.sentence
    with pytest.raises(ValueError, match="no image with evidence"):
        xai.evidence_use(reader(corner(False)), ds.take(3))
    with pytest.raises(ValueError, match="no masks"):
        xai.evidence_use(reader(corner(False)), ImageDataset(ds.pixels, ds.labels, ds.class_names, ds.ids))
    with pytest.raises(ValueError, match="margin=0.7"):
        xai.evidence_use(reader(corner(False)), ds, margin=0.7)


def test_large_evidence_is_paired_by_its_core(data):
    image, region = data.images[0], np.zeros((SIZE, SIZE), bool)
    region[:, :26] = True
    core, place = healthy_place(image, region, ~region, np.random.default_rng(0))
    assert core.sum() == place.sum() >= 200
    assert core[~region].sum() == place[region].sum() == 0
    rows, columns = np.nonzero(core)
    down, right = np.argwhere(place)[0] - [rows[0], columns[0]]
    assert place[rows + down, columns + right].all()
    assert healthy_place(image, region, np.zeros_like(region), np.random.default_rng(0)) is None


def test_paint_is_of_the_surroundings_alone():
    ramp = np.broadcast_to(np.arange(SIZE, dtype=np.float32)[:, None, None] * 4, (SIZE, SIZE, 3)).copy()
    region = np.zeros((SIZE, SIZE), bool)
    region[10:20, 12:25] = True
    found = paint_over(ramp, region)
    np.testing.assert_allclose(found, ramp, atol=0.5)
    marked = ramp.copy()
    marked[region] = [255, 0, 99]
    np.testing.assert_array_equal(paint_over(marked, region), found)
    np.testing.assert_array_equal(found[~region], ramp[~region])
    noisy = np.clip(ramp + np.random.default_rng(1).normal(0, 12, ramp.shape), 0, 255).astype(np.float32)
    filled = paint_over(noisy, region)
    assert filled[region].std() == pytest.approx(noisy[region].std(), rel=0.35)
    with pytest.raises(ValueError, match="kept"):
        paint_over(ramp, np.ones_like(region))


def test_the_body_is_what_is_not_black_beside_it():
    image = np.full((20, 20, 3), 120, np.float32)
    image[:, :6] = 3
    image[8:12, 10:14] = 0  # black within the body
    assert body(image)[:, 6:].all()
    assert not body(image)[:, :6].any()
    assert grown(~body(image), 2)[:, :8].all()


def test_healthy_places_are_like_the_evidence():
    """The right half is bright: of evidence there, the equal lies there too."""
    image = np.random.default_rng(0).normal(60, 2, (SIZE, SIZE, 1)).astype(np.float32)
    image[:, 20:] += 100
    region = np.zeros((SIZE, SIZE), bool)
    region[18:22, 30:34] = True
    for seed in range(5):
        _, place = healthy_place(image, region, ~grown(region, 2), np.random.default_rng(seed))
        assert image[place].mean() > 150
        assert not (place & region).any()


def test_scores_and_labels(data):
    wrapped = xai.wrap(reader(corner(False), units=1), scaling="model", head="regression", class_names=["size"])
    found = xai.evidence_use(wrapped, data.select(data.labels == 1))
    assert found.verdict == study.USES
    assert found.merit.empty
    assert "standard deviations" in found.sentence
    labels = np.stack([data.labels, 1 - data.labels], axis=1).astype(np.int8)
    several = ImageDataset(data.pixels, labels, ("a", "b"), data.ids, label_masks=np.stack([data.masks] * 2, axis=1))
    with pytest.raises(ValueError, match="of_label"):
        xai.evidence_use(reader(corner(False)), several)
    one = xai.evidence_use(reader(corner(False)), several.of_label("a"))
    assert one.verdict == study.USES


def test_each_image_keeps_its_row_of_further_inputs(data):
    image, age = keras.Input((SIZE, SIZE, 3), name="image"), keras.Input((1,), name="age")
    z = keras.layers.Concatenate()([reader(corner(False), units=1)(image), age])
    mine = keras.Model([image, age], keras.layers.Dense(1, "sigmoid", kernel_initializer="ones")(z))
    model = xai.wrap(mine, scaling="model", inputs={"age": "case"})
    ages = np.random.default_rng(0).normal(0, 1, (N, 1)).astype(np.float32)
    found = xai.evidence_use(model, replace(data, inputs={"age": ages}), batch_size=5).images
    plain = xai.evidence_use(reader(corner(False), units=1, last="sigmoid"), data).images
    said = np.where(found["predicted"] == "malignant", 1, -1)
    np.testing.assert_allclose(found["score"] * said - ages[:, 0], plain["score"] * np.where(
        plain["predicted"] == "malignant", 1, -1), atol=1e-4)  # fmt: skip
    np.testing.assert_allclose(found["evidence"].abs(), plain["evidence"].abs(), atol=1e-4)


@pytest.mark.parametrize("activation", ["softmax", "binary", "score"])
def test_log_odds(activation):
    z = np.array([[1.0, 3.0, 200.0], [0.0, 0.0, 0.0]])
    found = study.log_odds(z, activation)
    if activation != "softmax":
        np.testing.assert_array_equal(found, z)
        return
    np.testing.assert_allclose(found[0], [-199, -197, 200 - np.log(np.exp(3) + np.exp(1))])
    np.testing.assert_allclose(found[1], np.log(1 / 2))


def test_every_model_and_every_label_in_a_table_and_in_words(data):
    found = use_by_model({"honest": reader(corner(False)), "short*cut": reader(corner())}, data)
    table = use_table(found)
    assert table.drop_duplicates("model").set_index("model")["verdict"].tolist() == [study.USES, study.DOES_NOT]
    assert table.drop_duplicates("model")["AUC_evidence_gone"].tolist() == [0.5, 1]
    first, second = use_in_words(found).split("\n")
    assert first.startswith("- **honest**: The model uses the evidence: painted over, it takes")
    assert second.startswith(r"- **short\*cut**: The model does not use the evidence")
    no_masks = replace(data, masks=None, evidence=None)
    assert use_by_model({"m": reader(corner())}, no_masks)["m"].verdict == study.CANNOT_TELL
    # Two labels: the finding, and the marker, which is a finding of its own with a mask.
    masks = np.stack([data.masks, np.broadcast_to(corner(), data.masks.shape) & (data.labels == 1)[:, None, None]], 1)
    labels = np.stack([data.labels, data.labels], axis=1).astype(np.int8)
    several = ImageDataset(data.pixels, labels, ("mass", "marker"), data.ids, label_masks=masks)
    model = xai.wrap(reader(corner(False), 2, "sigmoid"), scaling="model", class_names=["marker", "mass"])
    by_label = use_by_label(model, several)
    assert list(by_label) == ["mass", "marker"]
    assert by_label["mass"].verdict == study.USES
    assert use_table(by_label, "label")["label"].unique().tolist() == ["mass", "marker"]


def tables(share, low, high, loss, ends, traces=0.0):
    """A class of which so much is taken (of a score of 1), and an AUC of 0.9 that loses so much."""
    group = {"by": "called right", "group": "a", "n": 50, "n_paired": 50, "patients": 50, "score": 1.0, "control": 0.0}
    group |= {"difference": share, "low": low, "high": high, "share": share, "share_low": low, "share_high": high}
    merit = [
        {"version": version, "quantity": "AUC", "before": 0.9, "after": 0.9 - lost, "loss": lost, "low": a, "high": b}
        for version, lost, a, b in (("evidence gone", loss, *ends), ("healthy place gone", traces, -0.1, 0.1))
    ]
    return pd.DataFrame([group]), pd.DataFrame(merit)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (tables(0.6, 0.4, 0.8, 0.3, (0.2, 0.4)), study.USES),
        (tables(0.6, 0.4, 0.8, 0.1, (-0.1, 0.3)), study.USES),
        (tables(0.6, 0.4, 0.8, 0.01, (-0.02, 0.04)), study.NEEDS_NOT),
        (tables(0.1, 0.03, 0.23, 0.02, (0.0, 0.04)), study.DOES_NOT),
        (tables(0.0, -0.05, 0.05, 0.05, (-0.1, 0.2)), study.DOES_NOT),  # too few for the AUC
        (tables(0.05, -0.2, 0.3, 0.02, (0.0, 0.04)), study.CANNOT_TELL),
        (tables(0.05, 0.01, 0.2, 0.02, (-0.1, 0.14)), study.CANNOT_TELL),  # certain, and small
        (tables(0.05, -0.2, 0.3, 0.3, (0.15, 0.45)), study.USES),  # large evidence: its core alone has an equal
        (tables(0.05, -0.2, 0.3, 0.3, (0.15, 0.45), traces=0.2), study.CANNOT_TELL),  # any paint does that
        (tables(np.nan, np.nan, np.nan, 0.0, (-0.1, 0.1)), study.CANNOT_TELL),
    ],
)
def test_the_rule_of_the_verdict(found, verdict):
    assert study.judge(*found)[0] == verdict


@pytest.mark.parametrize("side", [1, -1])
def test_a_score_may_rise_or_fall_with_the_evidence(side):
    groups, _ = tables(0.6 * side, *sorted([0.4 * side, 0.8 * side]), 0, (0, 0))
    assert study.judge(groups.assign(by="all"), pd.DataFrame())[0] == study.USES
