"""The panel without a browser: its controls, its errors, its state, and what it keeps."""

import dataclasses
import io
import json
import re
import threading
import time

import numpy as np
import pytest
from conftest import make_flat
from PIL import Image
from small_models import discs, where_and_what_network
from toy_panel import toy_dataset, written

import xaiutils as xai
from xaiutils.datasets import ImageDataset
from xaiutils.map_reading import read_maps
from xaiutils.progress import progress
from xaiutils.widgets import (
    Board,
    Explorer,
    MethodChoice,
    View,
    compute_scene,
    recreate,
)
from xaiutils.widgets.explorer import done_text
from xaiutils.widgets.image_picker import PER_PAGE
from xaiutils.widgets.pinned_views import CARDS
from xaiutils.widgets.scene import RANDOM_ORDER
from xaiutils.widgets.scene_drawing import draw_scene
from xaiutils.widgets.view_settings import READ_AS


@pytest.fixture(scope="module")
def ds(images):
    return toy_dataset(images)


@pytest.fixture
def networks(models):
    return {"cnn": models["nested"], "vit": models["vit"]}


@pytest.fixture
def explorer(networks, ds, tmp_path):
    made = Explorer(networks, ds, folder=tmp_path)
    yield made
    made.close()


def parameter(explorer, name, column=0):
    return explorer.controls.maps[column].parameters.controls[name]


def cells(explorer, quantity) -> list[str]:
    """What the table says of a quantity, by map."""
    return re.findall(rf'<td [^>]*class="[^"]*\b{quantity}"[^>]*>([^<]*)</td>', explorer.parts.numbers.value)


def test_first_picture_is_there_at_once(explorer, models, ds):
    assert explorer.status.startswith("done in ")
    assert explorer.status.endswith(": grad_cam of image 0 on cnn, original (i0)")
    assert bytes(explorer.parts.picture.value).startswith(b"\x89PNG")
    expected = xai.explain(models["nested"], ds.images[:1])[0]
    np.testing.assert_allclose(explorer.scene.maps[0].values, expected, atol=1e-6)


def test_changes_are_computed_behind_the_panel(explorer, models, ds):
    before = bytes(explorer.parts.picture.value)
    explorer.controls.maps[0].method.value = "smoothgrad"
    explorer.controls.widgets["image"].value = 3
    explorer.controls.widgets["model"].value = "vit"
    parameter(explorer, "n_samples").value = 4
    explorer.controls.widgets["transform"].value = "rotate_180"
    explorer.controls.widgets["target"].value = 2
    explorer.wait()
    assert explorer.status.endswith(": smoothgrad of image 3 on vit, rotate_180 (i3)")
    assert explorer.parts.picture.value != before
    rotated = xai.TRANSFORMS["rotate_180"].apply(ds.images[3:4])
    expected = xai.explain(models["vit"], rotated, 2, "smoothgrad", n_samples=4)[0]
    np.testing.assert_allclose(explorer.scene.maps[0].values, expected, atol=1e-6)
    probabilities = xai.predict(models["vit"], np.concatenate([ds.images[3:4], rotated]), probabilities=True)
    np.testing.assert_allclose([explorer.scene.before, explorer.scene.probabilities], probabilities, atol=1e-5)


def test_cheap_controls_run_no_model(explorer, monkeypatch):
    for name in ("explain", "answers"):
        monkeypatch.setattr(compute_scene, name, lambda *a, **k: pytest.fail("a model was run"))
    seen = {bytes(explorer.parts.picture.value)}
    c = explorer.controls.widgets
    changes = {
        "opacity": 0.3,
        "style": "contour",
        "palette": "earth",
        "scale": "shared",
        "show_found": True,
        "threshold": "top_area",
        "area": 0.3,
        "show_mask": False,
        "show_grid": True,
        "region": "2, 3, 20, 30",
    }
    c["style"].value = "contour"
    explorer.wait()
    for name, value in changes.items():
        c[name].value = value
        explorer.wait()
        assert explorer.status.startswith("done"), explorer.status
        assert not explorer.is_stale
        if name not in ("opacity", "scale"):  # of contours and of one map they change nothing
            assert bytes(explorer.parts.picture.value) not in seen or name == "style", name
        seen.add(bytes(explorer.parts.picture.value))
    assert c["opacity"].disabled
    assert c["area"].layout.display == ""
    assert c["level"].layout.display == "none"


def test_only_the_parameters_of_the_method_are_shown(explorer):
    column = explorer.controls.maps[1]
    for name, method in xai.METHODS.items():
        column.set(MethodChoice(name))
        shown = [w.description for w in column.parameters.box.children]
        assert shown == [p.name for p in method.parameters if p.kind is not np.ndarray]
        assert column.library.options == method.libraries
        assert column.library.value == "xaiutils"
        about = next(one["about"] for one in column.method.methods if one["name"] == name)
        assert method.paper.split(",")[0].replace("&", "&amp;") in about
    column.set(None)
    explorer.wait()
    assert explorer.status.startswith("done in ")  # setting asks for nothing
    assert column.parameters.box.children == ()
    assert column.choice is None


def test_only_the_parameters_of_the_transform_are_shown(explorer):
    assert [name for _, name in explorer.controls.widgets["transform"].options] == list(xai.TRANSFORMS)
    for name, transform in xai.TRANSFORMS.items():
        explorer.controls.widgets["transform"].value = name
        shown = [w.description for w in explorer.controls.transform_parameters.box.children]
        assert shown == [p.name for p in transform.parameters]
    explorer.wait()
    assert ": grad_cam of image 0 on cnn, pgd (i0)" in explorer.status


def test_libraries_get_the_parameters_that_they_take(explorer):
    explorer.controls.maps[0].method.value = "score_cam"
    explorer.controls.maps[0].library.value = "tf-keras-vis"
    explorer.wait()
    assert ": score_cam" in explorer.status
    assert explorer.view.maps[0].library == "tf-keras-vis"
    assert parameter(explorer, "weighting").disabled
    assert not parameter(explorer, "max_channels").disabled
    explorer.controls.maps[0].library.value = "xaiutils"
    explorer.wait()
    assert not parameter(explorer, "weighting").disabled


def test_layers_are_offered(explorer):
    layer = parameter(explorer, "layer")
    assert {"backbone/conv1", "backbone/conv2"} <= set(layer.options)
    layer.value = "conv1"
    explorer.wait()
    assert explorer.status.startswith("done")
    explorer.controls.widgets["model"].value = "vit"
    explorer.wait()
    assert "backbone/conv1" not in parameter(explorer, "layer").options


def test_errors_are_shown_in_words_beside_what_works(explorer):
    asked = MethodChoice("raw_attention")  # the model has no attention: a finding of another may ask for it
    explorer.view = dataclasses.replace(explorer.view, maps=(*explorer.view.maps, asked))
    explorer.wait()
    assert explorer.status.startswith("error in map 2 (Raw attention): ")
    assert explorer.scene.maps[0].values is not None
    assert explorer.scene.maps[1].values is None
    parameter(explorer, "layer").value = "conv9"
    explorer.wait()
    assert "map 1 (Grad-CAM): layer 'conv9' is not in the model" in explorer.status
    explorer.controls.maps[1].method.value = ""
    parameter(explorer, "layer").value = ""
    explorer.wait()
    assert explorer.status.startswith("done")


_FOUR, _BEYOND = "expected four numbers", "reaches beyond the image of 32 x 32"


_BAD_REGIONS = {
    _FOUR: ("1, 2, 3", "a, b, c, d", "1, 2, 3, 4, 5", ",,,", "nan, 1, 9, 9", "0, 0, inf, 9", "0 0 1e300 3", "1 2 3 4p"),
    _BEYOND: ("40, 40, 50, 50", "-5, -5, 500, 500", "0, 0, 32, 33", "-1, 0, 4, 4"),
    "is empty": ("9, 9, 3, 12", "1, 9, 3, 4", "3, 3, 3, 9", "9, 9, 3, 3"),
    "holds no whole pixel": ("1.2, 1.2, 1.4, 1.4",),
}  # fmt: skip


@pytest.mark.parametrize("words", _BAD_REGIONS)
def test_a_bad_region_is_refused_in_words(explorer, words):
    for text in _BAD_REGIONS[words]:
        explorer.controls.widgets["region"].value = text
        explorer.wait()
        assert explorer.status.startswith("error: region '")
        assert words in explorer.status
        assert explorer.is_stale
        with pytest.raises(ValueError, match="another view than the picture"):
            explorer.pin()
    explorer.controls.widgets["region"].value = ""
    explorer.wait()
    assert explorer.status.startswith("done")
    assert not explorer.is_stale


def test_yaml_that_cannot_be_read_is_refused_in_words(explorer):
    explorer.controls.maps[0].method.value = "smoothgrad"
    parameter(explorer, "base_parameters").value = "{a: ["
    explorer.wait()
    assert explorer.status.startswith("error: base_parameters: '{a: [' cannot be read; expected {name: value}")


def test_a_box_drawn_on_the_page_is_the_region(explorer):
    explorer.layer.receive({"box": [0.25, 0.125, 0.5, 0.75]})  # as the page's script sends it
    explorer.wait()
    assert explorer.controls.widgets["region"].value == "8, 4, 16, 24"
    assert explorer.scene.view.region == (8, 4, 16, 24)
    values = np.maximum(explorer.scene.maps[0].values, 0)
    numbers = explorer.scene.numbers.set_index("quantity").value
    assert numbers.region_positive == pytest.approx(values[4:24, 8:16].sum() / values.sum(), abs=1e-6)
    assert "share of the map in the region" in explorer.parts.numbers.value
    assert "evidence 6.2%, region 15.6%" in explorer.parts.numbers.value
    explorer.controls.widgets["region"].value = "0, 0, 4, 32"
    explorer.wait()
    assert explorer.layer.box == [0, 0, 0.125, 1]
    explorer.layer.receive({"box": []})
    explorer.wait()
    assert explorer.layer.box == []
    assert explorer.scene.view.region is None


def test_the_picture_follows_the_width_of_the_page(explorer):
    narrow = Image.open(io.BytesIO(explorer.parts.picture.value)).size
    for column in explorer.controls.maps[1:]:
        column.method.value = "layer_cam"
    explorer.layer.width, explorer.layer.ratio = 1400, 2.0
    explorer.wait()
    wide = Image.open(io.BytesIO(explorer.parts.picture.value)).size
    assert wide[0] == pytest.approx(2800, abs=4)
    assert explorer.parts.stage.layout.width == "1400px"
    assert narrow[0] < 1000
    assert len(explorer.layer.frames) == 4


def test_one_panel_at_a_time(explorer, networks, ds):
    inner = explorer.controls.maps[0].method
    view = View("vit", 1, maps=(MethodChoice("occlusion", {"patch_size": 8}),))
    other = Explorer(networks, ds, view)
    assert inner.comm is None  # closed, with all in it
    assert other.panel.comm is not None
    assert other.view.maps[0].parameters["patch_size"] == 8
    assert other.keep.pin_button.disabled
    with pytest.raises(ValueError, match="without folder"):
        other.pin()
    other.close()


def test_given_parameters_take_the_place_of_the_declared(networks, ds):
    made = Explorer(networks, ds, method_parameters={"score_cam": {"max_channels": 3}})
    made.controls.maps[2].method.value = "score_cam"
    assert made.view.maps[1].parameters["max_channels"] == 3
    made.wait()
    made.close()


def test_attacks_are_made_against_the_chosen_model(explorer, models, ds):
    explorer.controls.widgets["model"].value = "vit"
    explorer.controls.widgets["seed"].value = 4
    explorer.controls.widgets["transform"].value = "pgd"
    explorer.controls.transform_parameters.controls["epsilon"].value = 20.0
    explorer.wait()
    image = xai.TRANSFORMS["pgd"].apply(ds.images[:1], 4, model=models["vit"], epsilon=20.0)
    predicted = xai.predict(models["vit"], ds.images[:1])[0].argmax()
    expected = xai.predict(models["vit"], image, probabilities=True)[0]
    np.testing.assert_allclose(explorer.scene.probabilities, expected, atol=1e-3)
    assert explorer.scene.target == predicted
    explorer.controls.widgets["target"].value = int((predicted + 1) % 3)  # another class is explained on the same image
    explorer.wait()
    assert explorer.scene.target != predicted
    np.testing.assert_allclose(explorer.scene.probabilities, expected, atol=1e-3)


def test_data_sets_and_models_are_changed(networks, ds, models):
    other = ds.select([4, 3])
    two = ImageDataset(ds.pixels[:2], [0, 1], ("p", "q"), ["x", "y"])
    made = Explorer(networks, {"first": ds, "second": other, "of two classes": two})
    made.controls.widgets["image"].value = 4
    made.controls.widgets["region"].value = "0, 0, 8, 8"
    made.controls.widgets["dataset"].value = "second"
    made.wait()
    assert made.controls.widgets["image"].value == 1
    assert made.controls.widgets["region"].value == ""
    assert made.scene.image_id == "i3"
    made.controls.widgets["dataset"].value = "of two classes"
    made.wait()
    assert made.status.startswith("error: cnn knows 3 classes, the data set has 2: p, q.")
    assert [text for text, _ in made.controls.widgets["target"].options] == ["predicted class", "p", "q"]
    for view, words in (
        (View("cnn", 0, dataset="third"), "no data set 'third'"),
        (View("cnn", 2, dataset="second"), "the images 0 to 1"),
        (View("cnn", 0, 3, dataset="first"), "the classes are 0 to 2"),
    ):
        with pytest.raises(ValueError, match=words):
            made.view = view
    made.close()


def test_stop_in_the_panel(explorer, monkeypatch):
    entered = threading.Event()
    real = compute_scene.explain

    def slow(*args, **kwargs):
        if args[3] == "occlusion":
            for _ in progress(range(10_000), title="slow"):
                entered.set()
                time.sleep(0.001)
        return real(*args, **kwargs)

    monkeypatch.setattr(compute_scene, "explain", slow)
    picture = bytes(explorer.parts.picture.value)
    explorer.controls.maps[0].method.value = "occlusion"
    assert entered.wait(10)
    time.sleep(0.3)
    assert explorer.is_stale
    assert not explorer.status_line.stop.disabled
    assert explorer.status.startswith("computing: ")
    assert "of 10000 steps, about " in explorer.status
    start = time.monotonic()
    explorer.status_line.stop.click()
    assert explorer.status == "stopped; picture and controls are of the last finished view"
    explorer.wait()
    assert time.monotonic() - start < 0.3
    assert explorer.status.startswith("stopped")
    assert explorer.status_line.stop.disabled
    assert explorer.parts.picture.value == picture
    entered.clear()
    explorer.controls.maps[0].method.value = "rise"
    explorer.controls.maps[0].method.value = "vanilla_gradients"  # drops the request before it
    explorer.wait()
    assert ": vanilla_gradients" in explorer.status


def test_after_a_stop_controls_and_picture_agree(explorer, monkeypatch):
    explorer.controls.widgets["image"].value = 1
    explorer.wait()
    before, real, entered = explorer.view, compute_scene.explain, threading.Event()

    def slow(*args, **kwargs):
        for _ in progress(range(10_000), title="slow"):
            entered.set()
            time.sleep(0.001)
        return real(*args, **kwargs)

    monkeypatch.setattr(compute_scene, "explain", slow)
    explorer.controls.widgets["image"].value = 4
    explorer.controls.widgets["transform"].value = "rotate_180"
    explorer.controls.widgets["model"].value = "vit"
    explorer.controls.maps[1].method.value = "layer_cam"
    explorer.controls.widgets["region"].value = "1, 1, 9, 9"
    assert entered.wait(10)
    explorer.status_line.stop.click()
    explorer.wait()
    assert explorer.view == before
    assert explorer.scene.view.image == explorer.picker.image == 1
    assert not explorer.is_stale
    finding = explorer.pin()
    assert finding.view.image == 1
    assert finding.view.model == "cnn"


def test_a_scene_that_fails_is_not_shown_under_the_new_controls(explorer, monkeypatch):
    def fails(*_args, **_kwargs):
        raise RuntimeError("the transform broke")

    monkeypatch.setattr(type(compute_scene.TRANSFORMS["rotate_180"]), "apply", fails)
    explorer.controls.widgets["transform"].value = "rotate_180"
    explorer.wait()
    assert explorer.status == "error: the transform broke"
    assert explorer.is_stale
    explorer.keep.save_button.click()
    explorer.wait()
    assert "nothing was kept" in explorer.status


def test_the_explained_class_is_named_under_a_transform(explorer):
    explorer.controls.widgets["transform"].value = "rotate_180"
    explorer.wait()
    shown = explorer.scene
    name = shown.class_names[int(shown.before.argmax())]
    assert f"explained is {name}, predicted for the original" in explorer.status
    assert any(text.startswith(f"for {name}, predicted for the original, p = ") for text in written(draw_scene(shown)))
    turned = dataclasses.replace(shown, probabilities=np.roll(shown.before, 1))
    assert f"now predicted: {shown.class_names[int(turned.probabilities.argmax())]}" in done_text(turned)[1]
    explorer.controls.widgets["target"].value = 2
    explorer.wait()
    assert "predicted for" not in explorer.status
    assert any(text.startswith("for c, p = ") for text in written(draw_scene(explorer.scene)))


def test_values_that_are_no_numbers_are_refused(explorer, monkeypatch):
    real = compute_scene.explain

    def broken(*args, **kwargs):
        found = real(*args, **kwargs)
        found[0, 3, 4] = np.nan
        return found

    monkeypatch.setattr(compute_scene, "explain", broken)
    explorer.controls.maps[0].method.value = "layer_cam"
    explorer.wait()
    assert "1 of the map's 1024 values are no numbers" in explorer.status
    assert explorer.scene.maps[0].values is None
    monkeypatch.setattr(compute_scene, "answers", lambda *_a, **_k: np.full((1, 3), np.nan, np.float32))
    explorer.controls.widgets["image"].value = 2
    explorer.wait()
    assert explorer.status.startswith("error: cnn answers image 2 (original) with values that are NaN")


def test_names_of_classes_are_shown_as_they_are(models, images):
    names = ("a$x_{b$", "$5 - $10", "<b>&amp;|")
    odd = ImageDataset(images.astype(np.uint8), [0, 1, 2, 0, 1], names, [f"$i_{k}<" for k in range(5)], name="toy")
    made = Explorer({"$m$": models["nested"]}, odd)
    try:
        made.parts.buttons["curves"].click()
        made.wait()
        assert made.status.startswith("done")
        assert "&lt;" in made.status_line.line.value
        assert "$i_0<" not in made.status_line.line.value
        assert [text for text, _ in made.controls.widgets["target"].options][1:] == list(names)
        assert any(r"a\$x_{b\$" in text for text in written(draw_scene(made.scene)))
    finally:
        made.close()


def test_filters_that_leave_nothing_and_sets_of_one_image(models, ds):
    made = Explorer({"cnn": models["nested"]}, ds.select([2]))
    try:
        assert made.picker.count.value == "1-1 of 1"
        assert made.controls.widgets["image"].max == 0
        made.picker.controls["label"].value = 0
        made.wait()
        assert made.picker.count.value == "no image"
        assert made.picker.back.disabled
        assert made.picker.forth.disabled
        assert made.picker.thumbnails.cells == []
    finally:
        made.close()


def test_numbers_are_those_of_evaluate_by_every_reading(explorer, models, ds):
    """Also the outline, the curve, the colours and the label are of what was read."""
    explorer.controls.maps[0].method.value = "gradients_x_inputs"
    explorer.controls.maps[1].method.value = "hirescam"
    explorer.controls.maps[2].method.value = "grad_cam"
    one, steps = ds.select([0]), {"deletion_auc": {"n_steps": compute_scene.DELETION_STEPS}}
    names = ("gradients_x_inputs", "hirescam", "grad_cam")
    raw = xai.explain_all(models["nested"], one.images, None, names)
    for reading in ("own", "signed", "positive", "magnitude"):
        explorer.controls.widgets["reading"].value = reading
        explorer.wait()
        read = explorer.scene.maps
        numbers = explorer.scene.numbers.set_index(["map", "quantity"]).value
        deletion = explorer.computer.deletion_curves(explorer.scene)
        for k, name in enumerate(names, 1):
            asked = None if reading == "own" else reading
            metrics = ["iou", "pointing_game", "relevance_mass", "deletion_auc"]
            table = xai.evaluate(
                models["nested"], one, raw[name], metrics, None, parameters=steps, method=name, reading=asked
            ).set_index("metric")
            for metric in metrics[:3]:
                assert numbers[k, metric] == pytest.approx(table.value[metric], rel=1e-4, nan_ok=True), (reading, name)
            assert deletion.areas[k] == pytest.approx(table.value["deletion_auc"], abs=1e-5)
            used = table.reading["iou"]
            assert read[k - 1].signed == (used == "signed" and name != "grad_cam")
            np.testing.assert_allclose(read[k - 1].values, read_maps(raw[name][0], used), rtol=1e-4)
        shown = cells(explorer, "read")
        said = {"own": ["magnitude", "positive part"]}.get(reading, [READ_AS[reading]] * 2)
        assert shown == [*said, "no sign"]
        assert ("against" in written(draw_scene(explorer.scene))) == (reading == "signed")
    old = explorer.view.to_json()
    del old["reading"]
    assert View.from_json(old).reading == "signed"  # as it was drawn
    with pytest.raises(ValueError, match="reading: .*own"):
        View("cnn", 0, reading="abs").check()


def test_deletion_curves_on_demand(explorer, models, ds):
    assert explorer.parts.curve_picture.layout.display == "none"
    explorer.controls.maps[1].method.value = "occlusion"
    explorer.wait()
    explorer.parts.buttons["curves"].click()
    explorer.wait()
    assert explorer.parts.curve_picture.layout.display == ""
    assert explorer.status.startswith("done")
    maps = explorer.scene.maps[1].values[None]
    one = ds.select([0])
    expected = xai.evaluate(
        models["nested"],
        one,
        maps,
        ["deletion_auc"],
        parameters={"deletion_auc": {"n_steps": compute_scene.DELETION_STEPS}},
    )  # of what was read, as its method declares
    deletion = explorer.computer.deletion_curves(explorer.scene)
    assert list(deletion.curves) == [1, 2, RANDOM_ORDER]
    assert deletion.areas[2] == pytest.approx(expected.value[0], abs=1e-5)
    assert cells(explorer, "deletion")[1] == f"{deletion.areas[2]:.2f} (random {deletion.areas[RANDOM_ORDER]:.2f})"
    explorer.controls.widgets["opacity"].value = 0.1
    explorer.wait()
    assert explorer.parts.curve_picture.layout.display == ""  # the maps are the same
    explorer.controls.widgets["image"].value = 1
    explorer.wait()
    assert explorer.parts.curve_picture.layout.display == "none"


def test_a_model_that_was_trained_further_is_computed_again(ds):
    network, other = make_flat(seed=1), make_flat(seed=2)
    made = Explorer({"m": network}, ds, folder=None)
    try:
        made.picker.controls["answer"].value = "wrong"
        made.wait()
        before, marks = made.scene, made.picker.found
        network.set_weights(other.get_weights())
        assert not made.computer.is_computed(before.view)
        with pytest.raises(ValueError, match="the model or the data changed"):
            made.computer.deletion_curves(before)
        made.controls.widgets["opacity"].value = 0.5
        made.wait()
        np.testing.assert_allclose(made.scene.maps[0].values, xai.explain(other, ds.images[:1])[0], atol=1e-6)
        np.testing.assert_allclose(made.scene.before, xai.predict(other, ds.images[:1], probabilities=True)[0])
        said = xai.predict(other, ds.images).argmax(axis=1)
        assert made.picker.found.tolist() == np.flatnonzero(said != ds.labels).tolist() != marks.tolist()
        made.computer.models["m"] = make_flat(seed=1)  # another model under the name
        made.view = before.view
        made.wait()
        np.testing.assert_allclose(made.scene.maps[0].values, before.maps[0].values, atol=1e-6)
    finally:
        made.close()


def test_a_scene_of_a_model_that_changed_is_not_pinned(ds, tmp_path):
    network = make_flat(seed=1)
    made = Explorer({"m": network}, ds, folder=tmp_path)
    try:
        network.set_weights(make_flat(seed=2).get_weights())
        with pytest.raises(ValueError, match="the model or the data changed"):
            made.pin()
        assert made.board.findings() == []
    finally:
        made.close()


def test_thumbnails_choose_the_image(explorer, models, ds):
    picker = explorer.picker
    assert [cell["label"] for cell in picker.thumbnails.cells] == list("01234")
    assert picker.thumbnails.chosen == 0
    assert Image.open(io.BytesIO(picker.thumbnails.sheet)).size == (5 * 64, 64)
    picker.thumbnails.receive({"image": 2})  # as the page's script does
    explorer.wait()
    assert explorer.scene.image_id == "i2"
    explorer.controls.widgets["image"].value = 4
    explorer.wait()
    assert picker.thumbnails.chosen == 4
    picker.controls["answer"].value = "wrong"
    explorer.wait()
    said = xai.predict(models["nested"], ds.images).argmax(axis=1)
    assert picker.found.tolist() == np.flatnonzero(said != ds.labels).tolist()
    assert all(cell["mark"] == "wrong" for cell in picker.thumbnails.cells)
    picker.controls["answer"].value = "any"
    picker.controls["label"].value = 2
    assert picker.found.tolist() == [2]
    assert picker.count.value == "1-1 of 1"
    explorer.controls.widgets["model"].value = "vit"
    explorer.wait()
    assert explorer.status.startswith("done")


def test_pages_of_thumbnails(models, images):
    n = PER_PAGE + 3
    many = ImageDataset(
        np.repeat(images[:1].astype(np.uint8), n, axis=0), [0] * n, ("a", "b", "c"), [f"{k}" for k in range(n)]
    )
    made = Explorer({"m": models["nested"]}, many, View("m", PER_PAGE + 1))
    assert made.picker.thumbnails.chosen == 1  # on the second page
    made.picker.back.click()
    assert len(made.picker.thumbnails.cells) == PER_PAGE
    assert made.picker.thumbnails.chosen == -1
    assert made.picker.back.disabled
    made.picker.forth.click()
    assert made.picker.count.value == f"{PER_PAGE + 1}-{n} of {n}"
    assert made.picker.controls["size"].layout.display == "none"  # no masks
    made.close()


def test_a_finding_is_made_again_from_its_json(explorer, networks, ds, tmp_path):
    explorer.controls.maps[1].method.value = "smoothgrad"
    parameter(explorer, "n_samples", 1).value = 3
    explorer.controls.widgets["transform"].value = "gaussian_noise"
    explorer.controls.widgets["seed"].value = 5
    explorer.controls.widgets["region"].value = "1, 2, 9, 30"
    explorer.keep.note.value = "looks <odd>"
    explorer.wait()
    explorer.keep.pin_button.click()
    explorer.wait()
    assert explorer.status.startswith("done: pinned as finding_001")
    explorer.layer.width = 1100  # the page tells its width late: the same view is drawn anew, and nothing else is said
    explorer.wait()
    assert explorer.status.startswith("done: pinned as finding_001")
    record = tmp_path / "findings" / "finding_001.json"
    facts = json.loads(record.read_text())
    assert facts["note"] == "looks <odd>"
    assert facts["image"]["id"] == "i0"
    assert facts["environment"]["versions"]["keras"]
    with Image.open(record.with_suffix(".png")) as picture:
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    again, drawing = recreate(record, networks, ds.select([2, 1, 0]))  # where the image has another position
    for a, b in zip(again.maps, explorer.scene.maps, strict=True):
        np.testing.assert_array_equal(a.values, b.values)
    assert again.numbers.equals(explorer.scene.numbers)
    assert len(drawing.frames) == 3
    assert len(explorer.keep.cards.box.children) == 1
    assert "looks &lt;odd&gt;" in explorer.keep.cards.box.children[0].children[1].value

    explorer.controls.widgets["transform"].value = "original"
    explorer.controls.maps[1].method.value = ""
    explorer.wait()
    explorer.keep.cards.box.children[0].children[2].click()  # show again
    explorer.wait()
    assert explorer.scene.view == View.from_json(facts["view"]).check()
    assert explorer.pin("mine").record.name == "mine.json"
    assert [f.name for f in explorer.board.findings()] == ["finding_001", "mine"]
    with pytest.raises(ValueError, match="not a file name"):
        explorer.pin("../x")


def test_two_panels_of_one_run_take_no_names_from_each_other(explorer, tmp_path):
    """As two pages of the app do, each in a kernel of its own."""
    boards = [Board(tmp_path / "findings") for _ in range(4)]
    made, start = [], threading.Barrier(len(boards))

    def pin(board):
        start.wait(10)
        made.extend(board.pin(explorer.scene, explorer.computer).name for _ in range(2))

    threads = [threading.Thread(target=pin, args=(board,)) for board in boards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(made) == [f"finding_{k:03d}" for k in range(1, 9)]
    assert len(boards[0].findings()) == 8
    explorer.keep.pin_button.click()
    explorer.wait()
    assert len(explorer.keep.cards.box.children) == CARDS  # those of the others too


def test_findings_that_cannot_be_the_same_say_so(explorer, networks, ds, models, tmp_path):
    finding = explorer.pin("x")
    darker = ImageDataset(ds.pixels // 2, ds.labels, ds.class_names, ds.ids)
    with pytest.warns(UserWarning, match="x cannot be the same: the image has other pixels and cnn has other weights"):
        recreate(finding, {"cnn": make_flat(seed=2)}, darker)
    with pytest.raises(ValueError, match="has no image 'i0'"):
        recreate(finding, networks, ds.select([1, 2]))
    with pytest.raises(ValueError, match="no model 'cnn'"):
        recreate(finding, {"vit": models["vit"]}, ds)
    finding.record.write_text("{")
    assert explorer.board.findings() == []


def test_saving_for_print(explorer, tmp_path):
    explorer.keep.save_button.click()
    explorer.wait()
    assert "explorer_001.png and explorer_001.pdf" in explorer.status
    assert (tmp_path / "figures" / "explorer_001.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(tmp_path / "figures" / "explorer_001.png") as picture:
        assert picture.width > 2000
    assert explorer.save()[0].name == "explorer_002.png"


def test_a_head_of_maps_and_images_that_are_no_squares():
    """The panel draws a network of the head "where_and_what" on images of 64 x 96 pixels."""
    explorer = Explorer({"where and what": where_and_what_network()}, discs(2, 0))
    try:
        explorer.wait()
        assert explorer.status.startswith("done"), explorer.status
        assert explorer.scene.maps[0].values.shape == (64, 96)
    finally:
        explorer.close()
