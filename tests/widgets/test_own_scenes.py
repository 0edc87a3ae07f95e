"""Models of users in the panel: scores, several labels, one channel, rows of further inputs, unsuitable methods."""

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.datasets import ImageDataset
from xaiutils.plots import image_grid, intensities, patch_grid
from xaiutils.widgets import Explorer, MethodChoice, View
from xaiutils.widgets.compute_scene import SceneComputer
from xaiutils.widgets.image_picker import ImageFilter, are_right, select
from xaiutils.widgets.scene_drawing import draw_scene

layers = keras.layers
MASKS = np.zeros((4, 24, 24), bool)
MASKS[:, 4:12, 4:12] = True


def network(units, last, channels=3, with_age=False):
    keras.utils.set_random_seed(1)
    image = keras.Input((24, 24, channels), name="image")
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D()(x)
    age = keras.Input((1,), name="age")
    x = layers.Concatenate()([x, age]) if with_age else x
    return keras.Model([image, age] if with_age else image, layers.Dense(units, activation=last)(x))


def dataset(images, labels=(0, 1, 0, 1), names=("benign", "malignant"), **more):
    pixels = images[:4, :24, :24].astype(np.uint8)
    return ImageDataset(pixels, np.array(labels), names, ["a", "b", "c", "d"], split="test", **more)


def drawn_text(drawing):
    return " ".join(text.get_text() for axes in drawing.figure.axes for text in [*axes.texts, axes.title])


def test_a_score_is_shown_in_its_unit(images):
    model = xai.wrap(network(1, None), scaling="0-1", head="regression")
    values = np.array([10.0, 20, 30, 40])
    ds = dataset(images, [0] * 4, ("all",), values=values, value_name="area_mm2", masks=MASKS)
    computer = SceneComputer({"m": model}, {"d": ds})
    scene = computer.scene(View("m", 1, transform="log", maps=(MethodChoice("vanilla_gradients"),)))
    assert scene.is_score
    assert (scene.truth, scene.explains) == ("area_mm2 20", "area_mm2")
    assert scene.answer == f"{xai.predict(model, scene.image[None])[0, 0]:.4g}"
    assert "p = " not in drawn_text(draw_scene(scene))
    assert computer.compute_answers("m", "d") == 4
    np.testing.assert_allclose(computer.answers("m", "d"), xai.predict(model, ds.images))
    assert set(computer.deletion_curves(scene).areas) == {0, 1}
    with pytest.raises(ValueError, match="target 1: the classes are 0 to 0"):
        computer.check(View("m", 0, target=1))
    explorer = Explorer({"m": model}, {"d": ds})
    assert explorer.controls.widgets["target"].options[0][0] == "the score"
    assert explorer.picker.controls["answer"].layout.display == "none"
    explorer.close()


def test_several_labels_at_once(images):
    labels = np.array([[1, 0, 1], [0, 0, 0], [1, -1, 0], [0, 1, 1]], np.int8)
    marks = np.zeros((4, 3, 24, 24), bool)
    marks[:, 0, :4], marks[:, 2, 20:] = True, True
    ds = dataset(images, labels, ("mass", "clip", "tag"), label_masks=marks)
    model = xai.wrap(network(3, "sigmoid"), scaling="0-1", class_names=["mass", "clip", "tag"])
    scene = SceneComputer({"m": model}, {"d": ds}).scene(View("m", 0, target=2))
    assert (scene.truth, scene.explains) == ("mass + tag", "tag")
    np.testing.assert_array_equal(scene.mask, marks[0, 2])
    answers = np.array([[0.9, 0.1, 0.8], [0.1, 0.2, 0.6], [0.7, 0.9, 0.1], [0.2, 0.9, 0.9]])
    assert are_right(ds, answers).tolist() == [True, False, True, True], "what is unknown counts for nothing"
    assert select(ds, ImageFilter(label=1)).tolist() == [3]


def test_one_channel_is_drawn(images):
    model = xai.wrap(network(2, "softmax", channels=1), scaling="0-1")
    grey = np.repeat(images[:4, :24, :24, :1], 3, axis=-1).astype(np.uint8)
    for pixels in (grey, grey[..., :1]):
        ds = ImageDataset(pixels, np.array([0, 1, 0, 1]), ("a", "b"), list("wxyz"))
        scene = SceneComputer({"m": model}, {"d": ds}).scene(View("m", 0, transform="fgsm"))
        assert scene.maps[0].values.shape == (24, 24)
        assert draw_scene(scene).png()


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_any_number_of_channels_is_drawn(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 24, 24, channels)).astype(np.uint8)
    ds = ImageDataset(pixels, np.array([0, 1, 0, 1]), ("a", "b"), list("wxyz"))
    model = xai.wrap(network(2, "softmax", channels=channels), scaling="0-1")
    scene = SceneComputer({"m": model}, {"d": ds}).scene(View("m", 0, transform="gaussian_noise"))
    assert scene.maps[0].values.shape == (24, 24)
    assert draw_scene(scene).png()
    for figure in (image_grid(ds), intensities(ds), patch_grid(ds.take(2))):
        assert figure.axes


def test_a_case_brings_its_own_row(images):
    model = xai.wrap(network(2, "softmax", with_age=True), scaling="0-1", inputs={"age": "case"})
    ages = np.array([[20.0], [80], [20], [50]], np.float32)
    ds = dataset(images, inputs={"age": ages})
    computer = SceneComputer({"m": model}, {"d": ds})
    choice = MethodChoice("occlusion", {"patch_size": 8})
    scene = computer.scene(View("m", 1, maps=(choice,)))
    expected = xai.predict(model, ds.images, probabilities=True, inputs=ds.inputs)
    np.testing.assert_allclose(scene.probabilities, expected[1], atol=1e-6)
    again = xai.explain(model, ds.images[1:2], scene.target, "occlusion", patch_size=8, inputs={"age": ages[1:2]})
    np.testing.assert_allclose(scene.maps[0].values, np.maximum(again[0], 0), atol=1e-6)
    older = SceneComputer({"m": model}, {"d": dataset(images, inputs={"age": ages + 40})})
    assert older.scene(View("m", 1, maps=(choice,))).key != scene.key, "another row is another result"
    computer.compute_answers("m", "d")
    np.testing.assert_allclose(computer.answers("m", "d"), expected, atol=1e-6)


def test_methods_that_do_not_suit_are_pale_with_the_reason(images):
    model = xai.wrap(network(2, "softmax"), scaling="0-1")
    explorer = Explorer({"m": model}, dataset(images))
    unsuited = explorer.computer.unsuited("m")
    assert "raw_attention" in unsuited
    assert explorer.controls.maps[0].method.unsuited == unsuited
    explorer.view = View("m", 0, maps=(MethodChoice("raw_attention"),))
    explorer.wait()
    assert "Does not suit this model" in explorer.controls.maps[0].cost.value
    assert explorer.status.startswith("error in map 1")
    explorer.close()


def test_classes_in_another_order_than_the_data_are_refused(images):
    model = xai.wrap(network(2, "softmax"), scaling="0-1", class_names=["malignant", "benign"])
    with pytest.raises(ValueError, match="labels would name the wrong outputs"):
        SceneComputer({"m": model}, {"d": dataset(images)}).scene(View("m", 0))
