"""XRelevance-CAM's study: its maps, pooled overlap by hand, the thesis' tables, and claims whose truth is planted."""

import numpy as np
import pandas as pd
import pytest

import xaiutils as xai
from xaiutils.attribution import ModelError
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.pooled import pooled_overlap
from xaiutils.evaluation.studies import xrelevance_claims as claims
from xaiutils.evaluation.studies import xrelevance_study as study
from xaiutils.evaluation.studies.xrelevance_transfer import Transfer

IDS = [f"image {i}" for i in range(20)]


@pytest.fixture(scope="module")
def network():
    return xai.build_model("skresnext_mini", 2, 64, seed=1)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 64, 64), bool)
    masks[:3, 8:40, 8:40] = True
    pixels = rng.integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    return ImageDataset(pixels, [1, 1, 1, 0], ("no", "yes"), list("abcd"), masks=masks)


@pytest.fixture(scope="module")
def maps(network, images):
    return study.layer_maps(network, images.images, images.labels)


def test_maps_of_layers_are_those_of_the_methods(network, images, maps):
    assert study.stage_layers(network) == {name: name for name in study.LAYERS}
    assert list(maps) == [(m, c) for m in study.CAMS for c in study.COLUMNS]
    for method, layer in (("hirescam", "layer2"), ("xrelevance_cam", "layer3")):
        one = xai.explain(network, images.images, images.labels, method, layer=layer)
        np.testing.assert_allclose(maps[method, layer], one, rtol=1e-4, atol=1e-5 * np.abs(one).max())
    whole = xai.explain(network, images.images, images.labels, "layer_aggregate", layers=list(study.LAYERS))
    np.testing.assert_allclose(maps["xrelevance_cam", "4+3+2+1"], whole, atol=1e-4)


def test_scores_of_maps_have_each_image_once(network, images, maps):
    chosen = {key: maps[key] for key in (("grad_cam", "layer4"), ("xrelevance_cam", "4+3"))}
    table = study.map_scores(images, chosen, network)
    assert len(table) == 2 * 3 * 4
    assert table[table["image_id"] == "d"].groupby("metric")["value"].count().to_dict() == {
        "drop_hard": 2, "drop_soft": 2, "iou": 0,
    }  # fmt: skip
    assert list(study.pooled_iou(images, chosen)["layer"]) == ["layer4", "4+3"]


@pytest.mark.parametrize(("bias", "kept"), [((0, 9), list("abc")), ((9, 0), None)])
def test_images_that_are_called_right_must_show_evidence(images, bias, kept):
    """A network that always says yes is right on a, b and c; one that always says no on d alone, without evidence."""
    x = xai.backend.keras.Input((64, 64, 3))
    head = xai.backend.keras.layers.Dense(2, kernel_initializer="zeros", name="logits")
    always = xai.backend.keras.Model(x, head(xai.backend.keras.layers.GlobalAveragePooling2D()(x)))
    head.bias.assign(bias)
    if kept:
        assert study.right_images([always], images).ids == kept
        assert len(study.right_images([always], images, 2)) == 2
    else:
        with pytest.raises(
            ValueError, match=r"of 4 images all networks are right on 1 \(classes: no\), and none of these"
        ):
            study.right_images([always], images)


def test_a_network_of_fewer_resolutions_is_refused():
    x = xai.backend.keras.Input((32, 32, 3))
    y = xai.backend.keras.layers.Conv2D(4, 3, activation="relu")(x)
    y = xai.backend.keras.layers.Dense(2)(xai.backend.keras.layers.GlobalAveragePooling2D()(y))
    with pytest.raises(ModelError, match="four resolutions"):
        study.stage_layers(xai.backend.keras.Model(x, y))


def test_pooled_overlap_by_hand():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, 0, 0], masks[1, :2] = True, True  # 1 and 8 pixels, and none
    found = np.zeros((3, 4, 4), np.float32)
    found[0, 0, :2], found[1, 0, :3] = 1, 1  # 2 pixels, of which 1 hits; 3 pixels, all hits
    ds = ImageDataset(np.zeros((3, 4, 4, 3), np.uint8), [0] * 3, ("a", "b"), list("xyz"), masks=masks)
    how = {"threshold": {"threshold": "fixed"}}
    iou, dice = (pooled_overlap(ds, {"m": found}, measure, **how).iloc[0] for measure in ("iou", "dice"))
    assert iou["mean"] == pytest.approx((1 + 3) / (2 + 8))
    assert dice["mean"] == pytest.approx(2 * (1 + 3) / (3 + 11))
    assert (iou["low"], iou["high"], iou["n"]) == (3 / 8, 0.5, 2)  # drawn: the second alone, the first alone
    with pytest.raises(ValueError, match="nothing to overlap"):
        pooled_overlap(ds.select([2]), {"m": found[2:]})


def test_the_thesis_tables_and_their_faults():
    table = study.published()
    assert len(table) == 6 * 5 + 7 * (5 + 4 + 4 + 5 + 5 + 5 + 5 + 5)
    for name, rows in table.groupby("table"):
        wide = rows.pivot(index="method", columns="layer", values="value")
        if "average" not in wide:
            continue
        off = (wide[list(study.LAYERS)].mean(axis=1) - wide["average"]).abs()
        odd = set(off[off > 0.0125 * wide["average"]].index)
        assert not odd, (name, odd)
    flagged = table[(table["flag"] != "") & ~table["flag"].str.startswith("copied")]
    assert len(flagged) == 7
    copied = table[table["flag"] == "copied from table 5.2"].set_index("method")["value"]
    same = table[(table["table"] == "5.2") & (table["layer"] == "layer4")].set_index("method")["value"]
    pd.testing.assert_series_equal(copied, same)


def scores(level, metric="iou", seed=0):
    """A table of scores around ``level(method, layer)``."""
    rng, cells = np.random.default_rng(seed), [(m, c) for m in study.CAMS for c in study.COLUMNS]
    noise = [x - x.mean() for x in rng.normal(0, 0.002, (len(cells), len(IDS)))]
    tables = [
        pd.DataFrame({"method": m, "layer": c, "image_id": IDS, "metric": metric, "value": level(m, c) + x})
        for (m, c), x in zip(cells, noise, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)


def height(method, layer):
    return 0.1 * study.CAMS.index(method) + 0.01 * study.COLUMNS.index(layer)


@pytest.mark.parametrize(("sign", "verdict"), [(1, claims.HOLDS), (-1, claims.REVERSE)])
def test_claims_of_planted_tables(sign, verdict):
    table = scores(lambda m, c: sign * height(m, c))
    found = claims.lead("best", table, study.LAYERS)
    assert found["verdict"] == verdict
    assert found["ours"] == pytest.approx(0.1 if sign > 0 else -0.6)
    found = claims.lead("aggregate", table, ["4+3+2+1"], "layer4")
    assert (found["verdict"], found["ours"]) == (verdict, pytest.approx(0.03 if sign > 0 else -0.6))
    both = pd.concat([table, scores(lambda m, c: -sign * height(m, c), "drop_hard")])
    assert claims.dilemma(both)["ours"] == pytest.approx(1)
    plain = [scores(lambda m, c: 0.2, seed=s).assign(seed=s) for s in (1, 2)]
    kernels = [scores(lambda m, c: 0.2 + sign * 0.1, seed=s + 5).assign(seed=s) for s in (1, 2)]
    found = claims.selective(pd.concat(kernels), pd.concat(plain))
    assert found["verdict"] == verdict
    kernels[1]["value"] -= sign * 0.12  # one seed says the contrary
    assert claims.selective(pd.concat(kernels), pd.concat(plain))["verdict"] == claims.OPEN


def test_other_claims_by_hand_and_the_list_of_all():
    use = pd.DataFrame({"image_id": IDS, "p_without": 0.1, "p_with": np.linspace(0.7, 0.9, len(IDS))})
    found = claims.transfer(use, use.assign(p_with=0.2))
    assert found["ours"] == pytest.approx(0.6)
    assert found["verdict"] == claims.HOLDS
    assert claims.transfer(use, use.assign(p_with=0.2), learnt=False)["verdict"] == claims.OPEN
    hits = pd.DataFrame({"image_id": IDS, "class": ["a", "b"] * 10, "marks": "iid", "value": 1.0})
    hits = pd.concat([hits.assign(start="imagenet"), hits.assign(start="scratch", value=[1.0, 0.0] * 10)])
    assert Transfer(hits, {}, hits, 0.0).learnt() == {"imagenet": True, "scratch": False}
    left = pd.DataFrame(
        {"method": "xrelevance_cam", "similarity": "spearman", "depth": [1, 2], "left": [0.9, 0.01]}
        | {"low": [0.8, -0.02], "high": [0.95, 0.05], "n": 8}
    )
    assert claims.randomisation(left)["verdict"] == claims.HOLDS
    errors = pd.DataFrame(
        [
            {"method": m, "layer": c, "image_id": i, "axiom": "conservation", "value": v * (1 + k / 50)}
            for m, v in (("xgrad_cam", 1.0), ("xrelevance_cam", 0.01))
            for c in study.LAYERS
            for k, i in enumerate(IDS)
        ]
    )
    assert claims.conservation(errors)["ours"] == pytest.approx(2)
    table = claims.judged([found])
    assert len(table) == 9
    assert list(table["verdict"].unique()) == [claims.HOLDS, "not measured"]
    thesis = table.set_index("number")["thesis"]
    assert thesis.iloc[2] == pytest.approx(0.3183 - 0.28341, abs=1e-4)  # over LayerCAM, its strongest other
    assert thesis.iloc[3] == pytest.approx(0.3820 - 0.3593)
    assert thesis.iloc[8] == pytest.approx(np.log10(0.981 / 0.02))  # its "50 fold"
