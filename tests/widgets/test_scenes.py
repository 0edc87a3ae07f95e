"""Views as data, what is computed for them, its numbers, and its picture."""

import dataclasses
import io
import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from toy_panel import toy_dataset, written

import xaiutils as xai
from xaiutils import widgets
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.metrics.localisation import iou
from xaiutils.widgets import (
    MethodChoice,
    View,
    compute_scene,
    draw,
)
from xaiutils.widgets.image_picker import ImageFilter, select
from xaiutils.widgets.result_cache import ResultCache
from xaiutils.widgets.scene_drawing import draw_scene
from xaiutils.widgets.view_settings import clip_box, read_box


@pytest.fixture(scope="module")
def ds(images):
    return toy_dataset(images)


@pytest.fixture
def networks(models):
    return {"cnn": models["nested"], "vit": models["vit"]}


@pytest.mark.parametrize("box", [(-5, -5, 500, 500), (0, 0, float("nan"), 3), (3, 0, 1, 9), (1, 2, 3), ("1", 2, 3, 4)])
def test_a_view_takes_no_region_that_the_panel_would_not(networks, ds, box):
    with pytest.raises(ValueError, match="region '"):
        draw(View("cnn", 0, region=box), networks, ds)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"opacity": value} for value in (1.5, float("nan"), float("inf"))),
        *({"image": value} for value in (0.5, True, -1, 5)),
        *({"target": -2}, {"target": 3}, {"seed": -1}, {"level": float("nan")}, {"area": -0.1}),
    ],
)
def test_a_view_takes_no_number_that_cannot_be(networks, ds, wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        draw(View(**{"model": "cnn", "image": 0, **wrong}), networks, ds)


@pytest.mark.parametrize("value", [0.0, 0.25, -3.0])
@pytest.mark.parametrize("scale", ["own", "shared"])
@pytest.mark.parametrize("method", ["grad_cam", "gradients_x_inputs"])
def test_a_map_of_one_value_has_no_colour_scale(networks, ds, value, scale, method):
    view = View("cnn", 0, maps=(MethodChoice(method),), scale=scale, show_found=True, reading="signed")
    shown = draw(view, networks, ds).scene
    assert {"attribution (raw)", "for"} & set(written(draw_scene(shown)))
    flat = dataclasses.replace(shown.maps[0], values=np.full((32, 32), value, np.float32))
    said = written(draw_scene(dataclasses.replace(shown, maps=(flat,))))
    assert f"every value is {value:.3g}:" in said
    assert "no colour scale" in said
    assert not {"attribution (raw)", "for", "against"} & set(said)


def test_numbers_are_those_of_the_metrics(networks, ds):
    choices = (MethodChoice("gradients_x_inputs"), MethodChoice("grad_cam"), MethodChoice("gradients_x_inputs"))
    view = View("cnn", 1, maps=choices, threshold="top_area", area=0.2, region=(0, 0, 16, 8), reading="signed")
    shown = draw(view, networks, ds).scene
    numbers = shown.numbers.set_index(["map", "quantity"]).value
    maps = np.stack([m.values for m in shown.maps])
    for k in (1, 2):
        found = np.zeros(1024, bool)
        found[np.argsort(-maps[k - 1].ravel(), kind="stable")[:205]] = True
        assert numbers[k, "iou"] == pytest.approx(iou(found.reshape(32, 32), ds.masks[1]))
        positive = np.maximum(maps[k - 1], 0)
        assert numbers[k, "relevance_mass"] == pytest.approx(positive[4:12, 4:12].sum() / positive.sum(), rel=1e-5)
        assert numbers[k, "region_positive"] == pytest.approx(positive[:8, :16].sum() / positive.sum(), rel=1e-5)
    negative = np.minimum(maps[0], 0)
    assert numbers[1, "region_negative"] == pytest.approx(negative[:8, :16].sum() / negative.sum(), rel=1e-5)
    assert (2, "region_negative") not in numbers
    assert numbers[1, "correlation_3"] == pytest.approx(1)
    from scipy.stats import spearmanr

    assert numbers[1, "correlation_2"] == pytest.approx(spearmanr(maps[0].ravel(), maps[1].ravel()).statistic)
    chances = shown.numbers.set_index(["map", "quantity"]).chance
    assert chances[1, "relevance_mass"] == pytest.approx(64 / 1024)
    assert chances[1, "region_positive"] == pytest.approx(128 / 1024)
    nothing = draw(View("cnn", 3), networks, ds).scene  # whose mask is empty
    assert nothing.numbers.empty


def test_another_data_set_under_an_old_name_is_computed_again(networks, ds, models):
    computer = compute_scene.SceneComputer(networks, {"toy": ds})
    view = View("cnn", 1)
    computer.scene(view)
    brighter = dataclasses.replace(ds, pixels=np.minimum(ds.pixels.astype(int) + 60, 255).astype(np.uint8))
    computer.datasets["toy"] = brighter
    assert not computer.is_computed(view)
    expected = xai.explain(models["nested"], brighter.images[1:2])[0]
    np.testing.assert_allclose(computer.scene(view).maps[0].values, expected, atol=1e-6)


def test_results_depend_on_every_parameter_and_seed(networks, ds):
    computer = compute_scene.SceneComputer(networks, {"toy": ds})
    one = View("cnn", 1, transform="gaussian_noise", seed=1, maps=(MethodChoice("smoothgrad", {"n_samples": 2}),))
    computer.scene(one)
    assert computer.is_computed(one)
    assert computer.is_computed(dataclasses.replace(one, opacity=0.1, reading="magnitude"))
    others = (
        {"seed": 2},
        {"transform_parameters": {"sigma": 3.0}},
        {"maps": (MethodChoice("smoothgrad", {"n_samples": 3}),)},
        {"maps": (MethodChoice("smoothgrad", {"n_samples": 2, "noise": 0.3}),)},
        {"target": (computer.scene(one).target + 1) % 3},
        {"model": "vit"},
    )
    for change in others:
        assert not computer.is_computed(dataclasses.replace(one, **change)), change


def test_results_take_no_more_than_their_share():
    cache = ResultCache(limit=1000)
    for k in range(5):
        cache.get(k, lambda: np.zeros(50))  # 400 bytes
    assert [k in cache for k in range(5)] == [False, False, False, True, True]
    assert cache.get(4, lambda: pytest.fail("made again")).shape == (50,)


def test_views_are_data(networks):
    view = View("m", 3, maps=(MethodChoice("lrp", {"rule": "gamma"}), MethodChoice("cam")), region=(1, 2, 3, 4))
    assert View.from_json(json.loads(json.dumps(view.to_json()))) == view
    with pytest.raises(ValueError, match="no maps_of"):
        View.from_json({**view.to_json(), "maps_of": 1})
    with pytest.raises(ValueError, match="expected 1 to 3"):
        View("m", 0, maps=()).check()
    with pytest.raises(ValueError, match="overlay"):
        View("m", 0, style="overlays").check()
    with pytest.raises(TypeError, match="no parameter 'n_sample'"):
        View("m", 0, maps=(MethodChoice("smoothgrad", {"n_sample": 3}),)).check()
    with pytest.raises(ValueError, match="not offered by 'captum'"):
        View("m", 0, maps=(MethodChoice("lrp", library="captum"),)).check()


def test_boxes():
    assert read_box(" ", 10, 10) is None
    assert read_box("1 2, 20 9.6", 10, 20) == (1, 2, 20, 10)
    assert clip_box((8.0, 9.0, 2.2, -4.0), 10, 20) == (2, 0, 8, 9)
    assert clip_box((3.1, 0.0, 3.2, 5.0), 10, 20) is None


def test_drawing_without_masks_and_thumbnails(networks, ds):
    plain = ImageDataset(ds.pixels, ds.labels, ds.class_names, ds.ids)
    view = View("vit", 1, 2, "black_rectangle", maps=(MethodChoice("occlusion", {"patch_size": 8}),))
    shown = draw(view, networks, plain)
    assert shown.scene.target == 2
    assert shown.scene.mask is None
    image, probabilities, found, scale = shown.figure.axes
    assert [len(axes.images) for axes in (image, found)] == [1, 1]
    assert {text.get_text() for text in probabilities.get_yticklabels()} == set(plain.class_names)
    assert scale.get_xlabel() == "attribution (positive part)"
    assert [a.get_title() for a in widgets.thumbnails(ds, [0, 3]).axes[:2]] == ["0: a", "3: a"]
    with pytest.raises(ValueError, match="attention"):
        draw(View("cnn", 0, maps=(MethodChoice("raw_attention"),)), networks, ds)
    with pytest.raises(ValueError, match="the images 0 to 4"):
        draw(View("cnn", 5), networks, ds)


def test_frames_are_where_the_images_are(networks, ds):
    shown = draw(View("cnn", 0, maps=(MethodChoice("cam"), MethodChoice("grad_cam"))), networks, ds)
    drawing = draw_scene(shown.scene)
    pixels = np.array(Image.open(io.BytesIO(drawing.png())).convert("RGB")).astype(int)
    height, width = pixels.shape[:2]
    assert len(drawing.frames) == 3
    left, top, wide, high = np.multiply(drawing.frames[0], (width, height, width, height))
    seen = pixels[round(top) : round(top + high), round(left) : round(left + wide)]
    expected = np.array(Image.fromarray(ds.pixels[0]).resize(seen.shape[1::-1])).astype(int)
    inner = np.abs(seen - expected).mean(axis=-1) < 40  # but for edges and the border of the evidence
    assert inner.mean() > 0.9
    assert (pixels[:, : round(left) - 2] == 255).all()


def test_the_picture_is_drawn_as_in_the_figures(networks, ds):
    for choice in (MethodChoice("grad_cam"), MethodChoice("gradients_x_inputs")):
        shown = draw(View("cnn", 0, maps=(choice,), opacity=0.6), networks, ds)
        (one,) = shown.scene.maps
        axes = Figure().subplots()
        xai.plots.draw_map(axes, shown.scene.image, one.values, one.signed, opacity=0.6)
        expected, made = (a.images[0].get_array() for a in (axes, shown.figure.axes[2]))
        np.testing.assert_array_equal(made, expected)


def test_shared_scales(networks, ds):
    choices = (MethodChoice("grad_cam"), MethodChoice("gradients_x_inputs"))

    def ends(scale):
        shown = draw(View("cnn", 0, maps=choices, scale=scale, reading="signed"), networks, ds)
        bars = shown.figure.axes[3::2]
        texts = [[t.get_text().split("\n")[0] for t in axes.get_xticklabels()] for axes in bars]
        return texts, [m.values for m in shown.scene.maps]

    own, (positive, signed) = ends("own")
    shared, _ = ends("shared")
    first, second = xai.plots.display_range(positive, False), xai.plots.display_range(signed, True)
    assert own == [["0", f"{first.vmax:.2g}"], [f"{second.vmin:.2g}", "0", f"{second.vmax:.2g}"]]
    both = xai.plots.display_range(np.stack([positive, signed]), True)  # one of them is signed
    assert shared == [[f"{both.vmin:.2g}", "0", f"{both.vmax:.2g}"]] * 2


def test_large_images_are_thinned_out_for_the_screen_alone(models):
    keras = xai.backend.keras
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(2, 3, 16)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(0)
    ds = ImageDataset(rng.integers(0, 255, (1, 1400, 700, 3)).astype(np.uint8), [0], ("a", "b"), ["x"])
    shown = draw(View("m", 0, show_grid=True), {"m": model}, ds).scene
    for full, shape in ((False, (467, 234, 3)), (True, (1400, 700, 3))):
        drawing = draw_scene(shown, full=full)
        assert drawing.figure.axes[0].images[0].get_array().shape == shape
        _, _, width, height = drawing.frames[0]
        size = drawing.figure.get_size_inches()
        assert height * size[1] == pytest.approx(2 * width * size[0])


def test_filters():
    labels = [0, 1, 0, 1, 0]
    masks = np.zeros((5, 32, 32), bool)
    for i, side in enumerate((0, 4, 8, 20, 2)):
        masks[i, :side, :side] = True
    ds = ImageDataset(np.zeros((5, 32, 32, 3), np.uint8), labels, ("a", "b"), list("vwxyz"), masks)
    p = np.array([0.9, 0.6, 0.2, 0.45, 0.55])  # of class a
    answers = np.stack([p, 1 - p], axis=1)
    sizes = ds.lesion_lengths()

    def found(**given):
        return select(ds, ImageFilter(**given), answers, sizes).tolist()

    assert found() == [0, 1, 2, 3, 4]
    assert found(label=1) == [1, 3]
    assert found(answer="right") == [0, 3, 4]
    assert found(answer="wrong", label=0) == [2]
    assert found(confidence=(0.55, 0.8)) == [1, 2, 3, 4]
    assert found(confidence=(0.0, 0.56)) == [3, 4]
    assert found(order="sure") == [0, 2, 1, 3, 4]
    assert found(order="unsure", answer="right") == [3, 4, 0] or found(order="unsure", answer="right") == [4, 3, 0]
    assert found(size=(3, 10)) == [1, 2]
    assert found(order="large") == [3, 2, 1, 4, 0]
    assert not ImageFilter(label=1, size=(1, 2)).needs_answers
    with pytest.raises(ValueError, match="answers"):
        select(ds, ImageFilter(answer="right"))
