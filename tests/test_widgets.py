"""The panel without a browser: its controls, its numbers, its errors. (XAI_STRICT makes callbacks raise in tests.)"""

import threading

import ipywidgets
import numpy as np
import pytest

import xaiutils as xai
from xaiutils import widgets
from xaiutils.datasets import ImageDataset
from xaiutils.registry import Parameter
from xaiutils.widgets import Explorer, View, control, draw, read_control, thumbnails, write_control


@pytest.fixture(scope="module")
def ds(images):
    masks = np.zeros((5, 32, 32), bool)
    masks[:, 4:12, 4:12] = True
    return ImageDataset(images.astype(np.uint8), [0, 1, 2, 0, 1], ("a", "b", "c"), [f"i{k}" for k in range(5)], masks)


@pytest.fixture
def explorer(models, ds):
    made = Explorer({"cnn": models["nested"], "vit": models["vit"]}, ds)
    yield made
    made.close()


def test_first_picture_is_there_at_once(explorer, models, ds):
    assert explorer.status == "done: grad_cam of image 0 on cnn, original (i0)"
    assert bytes(explorer.picture.value).startswith(b"\x89PNG")
    expected = xai.explain(models["nested"], ds.images[:1])[0]
    np.testing.assert_allclose(explorer.shown.attribution, expected, atol=1e-6)


def test_changes_are_computed_behind_the_panel(explorer, models, ds):
    before = bytes(explorer.picture.value)
    explorer.controls["method"].value = "smoothgrad"
    explorer.controls["image"].value = 3
    explorer.controls["model"].value = "vit"
    explorer._parameters["method"]["n_samples"].value = 4
    explorer.controls["transform"].value = "rotate_180"
    explorer.controls["target"].value = 2
    explorer.wait()
    assert explorer.status == "done: smoothgrad of image 3 on vit, rotate_180 (i3)"
    assert explorer.picture.value != before
    rotated = xai.TRANSFORMS["rotate_180"].apply(ds.images[3:4])
    expected = xai.explain(models["vit"], rotated, 2, "smoothgrad", n_samples=4)[0]
    np.testing.assert_allclose(explorer.shown.attribution, expected, atol=1e-6)


def test_only_the_parameters_of_the_method_are_shown(explorer):
    for name, method in xai.METHODS.items():
        explorer.controls["method"].value = name
        shown = [w.description for w in explorer._boxes["method"].children]
        assert shown == [p.name for p in method.parameters if p.kind is not np.ndarray]
        assert explorer.controls["library"].options == method.libraries
        assert explorer.controls["library"].value == "xaiutils"
    explorer.wait()


def test_libraries_get_the_parameters_that_they_take(explorer):
    explorer.controls["method"].value = "score_cam"
    explorer.controls["library"].value = "tf-keras-vis"
    explorer.wait()
    assert explorer.status.startswith("done: score_cam")
    assert explorer._parameters["method"]["weighting"].disabled
    assert not explorer._parameters["method"]["max_channels"].disabled
    explorer.controls["library"].value = "xaiutils"
    explorer.wait()
    assert not explorer._parameters["method"]["weighting"].disabled


def test_errors_are_shown_in_words(explorer, monkeypatch):
    monkeypatch.delenv("XAI_STRICT", raising=False)
    explorer._parameters["method"]["layer"].value = "conv9"
    explorer.wait()
    assert explorer.status.startswith("error: layer 'conv9' is not in the model")
    explorer._parameters["method"]["layer"].value = ""
    explorer.wait()
    assert explorer.status.startswith("done")


def test_a_newer_request_drops_the_older_and_stop_ends_work(explorer, monkeypatch):
    entered, release, drawn = threading.Event(), threading.Event(), []
    real = widgets.draw

    def slow(view, *rest):
        if view.method == "occlusion":
            entered.set()
            release.wait(10)
        drawn.append(view.method)
        return real(view, *rest)

    monkeypatch.setattr(widgets, "draw", slow)
    explorer.controls["method"].value = "occlusion"
    assert entered.wait(10)
    assert explorer.picture.layout.opacity == "0.4"
    assert not explorer.stop.disabled
    explorer.controls["method"].value = "smoothgrad"
    explorer.controls["method"].value = "vanilla_gradients"
    release.set()
    explorer.wait()
    assert explorer.status.startswith("done: vanilla_gradients")
    assert drawn == ["occlusion", "vanilla_gradients"]  # smoothgrad was never begun
    entered.clear()
    release.clear()
    explorer.controls["method"].value = "occlusion"
    assert entered.wait(10)
    explorer.stop.click()
    assert explorer.status.startswith("stopped")
    release.set()
    explorer.wait()
    assert explorer.status.startswith("stopped")
    assert explorer.stop.disabled


def test_one_panel_at_a_time(explorer, models, ds):
    other = Explorer(
        {"cnn": models["nested"]}, ds, method="occlusion", method_parameters={"occlusion": {"patch_size": 8}}
    )
    assert explorer.panel.comm is None or explorer.panel._view_count is None
    assert explorer not in widgets._LIVE
    assert other.view.method_parameters["patch_size"] == 8
    other.close()


def test_attacks_are_made_against_the_chosen_model(explorer, models, ds):
    explorer.controls["model"].value = "vit"
    explorer.controls["seed"].value = 4
    explorer.controls["transform"].value = "pgd"
    explorer._parameters["transform"]["epsilon"].value = 20.0
    explorer.wait()
    assert explorer.status == "done: grad_cam of image 0 on vit, pgd (i0)"
    image = xai.TRANSFORMS["pgd"].apply(ds.images[:1], 4, model=models["vit"], epsilon=20.0)
    predicted = xai.predict(models["vit"], ds.images[:1])[0].argmax()
    expected = xai.predict(models["vit"], image, probabilities=True)[0]
    np.testing.assert_allclose(explorer.shown.probabilities, expected, atol=1e-3)
    assert explorer.shown.target == predicted
    explorer.controls["target"].value = int((predicted + 1) % 3)  # another class is explained on the same image
    explorer.wait()
    assert explorer.shown.target != predicted
    np.testing.assert_allclose(explorer.shown.probabilities, expected, atol=1e-3)


def test_only_the_parameters_of_the_transform_are_shown(explorer):
    assert [name for _, name in explorer.controls["transform"].options] == list(xai.TRANSFORMS)
    for name, transform in xai.TRANSFORMS.items():
        explorer.controls["transform"].value = name
        assert [w.description for w in explorer._boxes["transform"].children] == [p.name for p in transform.parameters]
    explorer.wait()
    assert explorer.status == "done: grad_cam of image 0 on cnn, pgd (i0)"


def test_fine_sliders_show_their_value():
    sigma = control(next(p for p in xai.TRANSFORMS["blur"].parameters if p.name == "sigma"))
    assert format(sigma.step, sigma.readout_format) == "0.001"


@pytest.mark.parametrize("name", [*xai.METHODS, *xai.TRANSFORMS])
def test_every_parameter_has_a_control(name):
    for parameter in {**xai.METHODS, **xai.TRANSFORMS}[name].parameters:
        if parameter.kind is np.ndarray:
            continue
        made = control(parameter)
        assert read_control(parameter, made) == parameter.default
        assert made.tooltip == parameter.help
        assert isinstance(made, ipywidgets.Dropdown) == (bool(parameter.choices) and parameter.kind is str)


@pytest.mark.parametrize(
    ("parameter", "value", "text"),
    [
        (Parameter("layers", list, [], "some"), ["conv1", "conv2"], "[conv1, conv2]"),
        (Parameter("base_parameters", dict, {}, "some"), {"n_steps": 5, "baseline": "blur"}, None),
        (Parameter("factor", float, 1.0, "of any size"), 2.5, 2.5),
    ],
)
def test_lists_and_mappings_are_typed_as_yaml(parameter, value, text):
    made = control(parameter)
    write_control(parameter, made, value)
    assert text is None or made.value == text
    assert parameter.check(read_control(parameter, made)) == value


def test_drawing_without_masks_and_thumbnails(models, ds):
    plain = ImageDataset(ds.pixels, ds.labels, ds.class_names, ds.ids)
    shown = draw(
        View("m", 1, 2, "black_rectangle", "occlusion", method_parameters={"patch_size": 8}),
        {"m": models["vit"]},
        plain,
    )
    assert shown.target == 2
    assert len(shown.figure.axes) == 4  # image, map, probabilities, colour bar
    assert [a.get_title() for a in thumbnails(ds, [0, 3]).axes[:2]] == ["0: a", "3: a"]
