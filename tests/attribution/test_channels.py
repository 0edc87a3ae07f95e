"""Images of any number of channels: grey, stacked slices, RGB with a depth."""

import numpy as np
import pytest
from conftest import cnn_body

import xaiutils as xai
from xaiutils.attribution.libraries import ADAPTERS
from xaiutils.backend import keras
from xaiutils.beyond_maps.class_model import class_model
from xaiutils.images import as_rgb

FEW = {
    "rise": {"n_masks": 8},
    "lime": {"n_samples": 8},
    "prediction_difference": {"n_samples": 1},
    "integrated_gradients": {"n_steps": 20},
    "expected_gradients": {"n_samples": 2},
    "guided_ig": {"n_steps": 4},
    "blur_ig": {"n_steps": 4, "max_sigma": 4.0},
    "idgi": {"n_steps": 2},
    "shapley": {"n_segments": 40, "n_samples": 2},
    "kernel_shap": {"n_segments": 20, "n_coalitions": 60},
    "sobol": {"cells": 2, "n_samples": 4},
    "hsic": {"cells": 3, "n_masks": 24},
    "ss_cam": {"n_samples": 2},
    "smooth_grad_cam_plus_plus": {"n_samples": 2},
}


def make(channels: int) -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((32, 32, channels))
    x = keras.layers.GlobalAveragePooling2D()(cnn_body(inputs))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


@pytest.fixture(scope="module")
def few() -> dict[int, tuple[keras.Model, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {c: (make(c), rng.uniform(0, 255, (2, 32, 32, c)).astype(np.float32)) for c in (1, 2, 5)}


@pytest.mark.parametrize("method", [m for m in xai.METHODS if "cnn" in xai.METHODS[m].suits])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_every_method_takes_any_number_of_channels(few, channels, method):
    model, images = few[channels]
    maps = xai.explain(model, images, 1, method, **FEW.get(method, {}))
    assert maps.shape == (2, 32, 32)
    assert maps.any()


@pytest.mark.parametrize(("library", "method"), ADAPTERS)
def test_libraries_take_them_or_refuse_by_name(few, library, method):
    options = {"n_samples": 8} if method in ("lime", "smoothgrad") else {}
    for channels in (1, 2):
        model, images = few[channels]
        if library == "lime" and channels == 2:
            with pytest.raises(xai.attribution.ModelError, match="lime takes grey and RGB images"):
                xai.explain(model, images, 1, method, library, **options)
        else:
            assert xai.explain(model, images, 1, method, library, **options).shape == (2, 32, 32)


@pytest.mark.parametrize("method", ["occlusion", "lime", "xrai", "grad_cam", "integrated_gradients"])
def test_a_grey_model_and_its_rgb_twin_agree(few, method):
    """Grey images are handed on as either of them takes them."""
    grey, images = few[1]
    inputs = keras.Input((32, 32, 3))
    twin = keras.Model(inputs, grey(keras.layers.Lambda(lambda x: x[..., :1])(inputs)))
    options = FEW.get(method, {})
    expected = xai.explain(grey, images, 0, method, **options)
    np.testing.assert_array_equal(xai.explain(grey, as_rgb(images), 0, method, **options), expected)
    found = xai.explain(twin, images, 0, method, **options)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_other_numbers_of_channels_are_refused(few):
    grey, _ = few[1]
    with pytest.raises(ValueError, match=r"images \[1\] have colours"):
        xai.predict(grey, np.stack([np.full((32, 32, 3), 9.0), np.broadcast_to([9.0, 9, 8], (32, 32, 3))]))
    with pytest.raises(ValueError, match="images have 3 channels.*the model takes 5"):
        xai.predict(few[5][0], np.zeros((1, 32, 32, 3)))
    inputs = keras.Input((3, 32, 32))
    with pytest.raises(xai.attribution.ModelError, match="channels first.*xai.wrap"):
        xai.predict(
            keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs))), np.zeros((1, 3, 32, 32))
        )


def test_references_have_the_channels_of_the_model(few):
    for model, images in few.values():
        colour = np.full(images.shape[-1], 40.0)
        maps = xai.explain(model, images, 0, "integrated_gradients", baseline_image=colour)
        whole = xai.explain(model, images, 0, "integrated_gradients", baseline_image=np.full(images.shape[1:], 40.0))
        np.testing.assert_array_equal(maps, whole)
        assert class_model(model, 0, n_steps=2, start="noise").image.shape == images.shape[1:]
    with pytest.raises(ValueError, match=r"expected a colour \(5,\)|the model takes 5"):
        xai.explain(few[5][0], few[5][1], 0, "integrated_gradients", baseline_image=np.zeros((7,)))


def test_as_rgb():
    rgb = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert as_rgb(rgb) is rgb
    np.testing.assert_array_equal(as_rgb(rgb[..., :1]), np.repeat(rgb[..., :1], 3, axis=-1))
    np.testing.assert_array_equal(as_rgb(np.array([[[10.0, 20.0]]])), [[[15.0] * 3]])


@pytest.mark.parametrize("transform", xai.TRANSFORMS)
def test_transforms_keep_the_channels(few, transform):
    for model, images in few.values():
        assert xai.TRANSFORMS[transform].apply(images, model=model).shape == images.shape
