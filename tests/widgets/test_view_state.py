"""What a panel comes back to, what stands side by side in it, and which part of the images is drawn in which greys."""

import dataclasses

import numpy as np
import pytest
from conftest import make_flat
from toy_panel import toy_dataset, written

import xaiutils as xai
from xaiutils.widgets import Explorer, MethodChoice, View
from xaiutils.widgets.compute_scene import SceneComputer
from xaiutils.widgets.scene_drawing import draw_scene
from xaiutils.widgets.view_history import ViewHistory


@pytest.fixture(scope="module")
def ds(images):
    return toy_dataset(images)


@pytest.fixture
def explorer(models, ds):
    made = Explorer({"cnn": models["nested"], "vit": models["vit"]}, ds)
    yield made
    made.close()


def test_history_goes_back_and_forth_and_forgets_what_was_undone():
    history, views = ViewHistory(), [View("m", k) for k in range(4)]
    assert not history.can(-1)
    for view in views[:3]:
        history.add(view)
    assert history.go(-1) == views[1]
    history.add(views[1])  # drawn again: no step
    assert history.can(1)
    history.add(views[3])
    assert not history.can(1)
    assert [history.go(-1), history.go(1)] == [views[1], views[3]]
    with pytest.raises(ValueError, match="no other view"):
        history.go(1)


def test_a_slider_that_is_pulled_is_undone_at_once():
    history = ViewHistory()
    for opacity in (0.8, 0.7, 0.6, 0.5):
        history.add(View("m", 0, opacity=opacity))
    assert history.go(-1).opacity == 0.8
    assert history.go(1).opacity == 0.5


def test_undo_and_redo_in_the_panel(explorer):
    buttons, first = explorer.parts.buttons, explorer.view
    assert buttons["undo"].disabled
    explorer.controls.widgets["image"].value = 3
    explorer.wait()
    second = explorer.view
    buttons["undo"].click()
    explorer.wait()
    assert explorer.scene.view == explorer.view == first
    explorer.layer.receive({"undo": 1})  # Ctrl+Shift+Z on the page
    explorer.wait()
    assert explorer.scene.view == explorer.view == second
    explorer.layer.receive({"undo": 1})  # nothing is left
    assert buttons["redo"].disabled
    assert explorer.status.startswith("done")


def test_a_view_in_an_address_is_the_same_when_read():
    maps = (MethodChoice("smoothgrad", {"n_samples": 3}, target=1), MethodChoice("grad_cam", model="vit"))
    view = View("cnn", 2, maps=maps, region=(1, 2, 3, 4), zoom=(0, 0, 8, 8), window=(20, 200), transform="rotate_180")
    assert View.from_text(view.to_text()) == view
    assert View.from_text(View("cnn", 2).to_text()) == View("cnn", 2)
    assert len(View("cnn", 2).to_text()) < 40  # what is as by default is left out
    for text in ("{", "3", "[" * 10_000, '{"maps": 3}', '{"model": "m", "colour": "red"}'):
        with pytest.raises(ValueError, match=r"cannot be read|a view has no|Expecting"):
            View.from_text(text)
    for text in ('{"model": "m", "image": 0, "show_mask": 3}', '{"model": "m", "image": 0, "window": [0.5, 9]}'):
        with pytest.raises(TypeError, match="expected True or False|expected an integer from 0 to 255"):
            View.from_text(text).check()  # before a control is set to it


def test_models_and_classes_stand_side_by_side(explorer, models, ds):
    maps = (MethodChoice("grad_cam"), MethodChoice("grad_cam", target=2), MethodChoice("grad_cam", model="vit"))
    explorer.view = View("cnn", 1, 0, maps=maps)
    explorer.wait()
    scene, image = explorer.scene, ds.images[1:2]
    asked = (("nested", 0), ("nested", 2), ("vit", 0))
    for found, (model, target) in zip(scene.maps, asked, strict=True):
        np.testing.assert_allclose(found.values, xai.explain(models[model], image, target)[0], atol=1e-6)
    p = {name: xai.predict(models[name], image, probabilities=True)[0] for name in ("nested", "vit")}
    said = written(draw_scene(scene))
    assert f"for a, p = {p['nested'][0]:.2f}" in said
    assert f"for c, p = {p['nested'][2]:.2f}" in said
    assert f"for a, p = {p['vit'][0]:.2f}, on vit" in said
    assert "grad_cam, grad_cam (c), grad_cam (vit) of image 1 on cnn" in explorer.status
    explorer.controls.widgets["show_grid"].value = True
    explorer.parts.buttons["curves"].click()
    explorer.wait()
    assert [found.answer.grid for found in explorer.scene.maps] == [(8, 8), (8, 8), (4, 4)], "each of its model"
    assert explorer.parts.numbers.value.count("(random ") == 1, "of the view's model and class alone"
    explorer.controls.maps[2].target.value = -1  # the class that this model predicts
    explorer.wait()
    assert explorer.scene.maps[2].answer.target == p["vit"].argmax()
    with pytest.raises(ValueError, match="target 3 of a map: the classes are 0 to 2"):
        explorer.view = View("cnn", 1, maps=(MethodChoice("grad_cam", target=3),))


def test_a_class_that_is_chosen_for_an_empty_column_makes_its_map(explorer):
    explorer.controls.maps[0].parameters.controls["relu"].value = False
    explorer.controls.maps[1].target.value = 2
    explorer.wait()
    first, second = explorer.view.maps
    assert second == dataclasses.replace(first, target=2)


def test_zoom_moves_all_pictures_and_no_number(explorer):
    explorer.controls.maps[1].method.value = "layer_cam"
    explorer.wait()
    numbers = explorer.scene.numbers
    explorer.layer.receive({"zoom": [0.25, 0.5, 0.75, 1.0]})
    explorer.wait()
    assert explorer.view.zoom == (8, 16, 24, 32)
    pictures = [axes for axes in draw_scene(explorer.scene).figure.axes if axes.get_xlim() == (7.5, 23.5)]
    assert [axes.get_ylim() for axes in pictures] == [(31.5, 15.5)] * 3
    assert explorer.scene.numbers.equals(numbers)
    explorer.layer.receive({"box": [0.5, 0, 1, 1]})  # fractions of what is shown
    explorer.wait()
    assert explorer.view.region == (16, 16, 24, 32)
    assert explorer.layer.box == [0.5, 0, 1, 1]
    explorer.parts.buttons["whole"].click()
    explorer.wait()
    assert explorer.view.zoom is None
    assert explorer.layer.box == [0.5, 0.5, 0.75, 1]


def test_an_array_is_refused_that_no_control_would_keep(explorer, ds):
    view, segments = explorer.view, np.zeros(ds.pixels.shape[:3], np.float32)
    with pytest.raises(ValueError, match=r"segments is an array, which the panel has no control for"):
        explorer.view = View("cnn", 1, maps=(MethodChoice("lime", {"segments": segments}),))
    assert explorer.view == view


def test_grey_levels_change_the_picture_alone(explorer):
    maps = explorer.scene.maps[0].values
    explorer.layer.receive({"window": [50, 150]})
    explorer.wait()
    shown = draw_scene(explorer.scene).figure.axes[0].images[0].get_array()
    expected = np.clip((explorer.scene.image - 50) * 2.55, 0, 255)
    np.testing.assert_allclose(np.asarray(shown, float), expected, atol=1)
    assert explorer.scene.maps[0].values is maps
    with pytest.raises(ValueError, match="two rising grey levels"):
        View("cnn", 0, window=(9, 9)).check()


def test_a_score_stands_beside_classes(models, ds):
    score = xai.wrap(make_flat("linear", 1), head="regression", scaling="model")
    computer = SceneComputer({"cnn": models["nested"], "score": score}, {"toy": ds})
    for model, other, target in (("cnn", "score", 2), ("score", "cnn", -1)):
        view = View(model, 0, target if model == "cnn" else -1, maps=(MethodChoice("hirescam", model=other),))
        (found,) = computer.scene(view).maps
        assert found.answer.target == (0 if other == "score" else xai.predict(models["nested"], ds.images[:1]).argmax())
        assert computer.is_computed(view)


@pytest.mark.parametrize(("mm", "zoom", "bar"), [(0.5, None, "5 mm"), (0.5, (0, 0, 8, 8), "1 mm"), (0.0, None, None)])
def test_a_scale_bar_where_the_size_of_a_pixel_is_known(models, images, mm, zoom, bar):
    ds = toy_dataset(images)
    ds.metadata["mm_per_pixel"], ds.metadata["mm_down"], ds.metadata["mm_along"] = 2 * mm, 3 * mm, mm
    made = Explorer({"cnn": models["nested"]}, ds, View("cnn", 0, zoom=zoom))
    try:
        assert [text for text in written(draw_scene(made.scene)) if text.endswith(" mm")] == ([bar] if bar else [])
    finally:
        made.close()
