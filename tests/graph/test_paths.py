"""Points of paths and noisy copies: what the host does, and what their sums do not depend on."""

import numpy as np
import pytest
from conftest import make_flat

import xaiutils as xai
from xaiutils.attribution import Network
from xaiutils.backend import keras, tf
from xaiutils.graph.paths import sent
from xaiutils.graph.xla import xla_pays
from xaiutils.progress import listening

METHODS = {
    "integrated_gradients": {"n_steps": 12},
    "integrated_gradients_bw": {"n_steps": 6},
    "expected_gradients": {"n_samples": 12},
    "smoothgrad": {"n_samples": 12},
    "vargrad": {"n_samples": 12},
    "blur_ig": {"n_steps": 12, "max_sigma": 4.0},
    "idgi": {"n_steps": 12},
    "guided_ig": {"n_steps": 12},
}
FOUND_ON_THE_WAY = ("guided_ig",)  # one point at a time


@pytest.fixture(scope="module")
def model():
    return make_flat()


@pytest.mark.parametrize("method", METHODS)
def test_the_host_waits_once_however_many_batches_there_are(model, images, method, monkeypatch):
    """A batch of the predicted classes' logits is none of the method's: the target is given."""
    waits, batches = [], []
    fetch = tf.__internal__.EagerTensor.numpy
    xai.explain(model, images, 1, method, batch_size=4, **METHODS[method])  # completeness is checked at the first call
    monkeypatch.setattr(
        tf.__internal__.EagerTensor, "numpy", lambda tensor: waits.append(tensor.shape) or fetch(tensor)
    )
    with listening(lambda done, total: batches.append(total)):
        for batch_size in (6, 30):
            xai.explain(model, images, 1, method, batch_size=batch_size, **METHODS[method])
    assert batches == [12] * 12 + ([12] * 12 if method in FOUND_ON_THE_WAY else [2] * 2)
    sums = 1 + (method == "vargrad")  # those of the squares too
    assert waits == [(sums, *images.shape)] * 2


@pytest.mark.parametrize("method", ["integrated_gradients", "vargrad", "idgi", "guided_ig"])
def test_xla_gives_the_same(model, images, method, monkeypatch):
    """Where it is asked for; points without weight fill the last batch."""
    expected = xai.explain(model, images, 1, method, batch_size=25, **METHODS[method])
    monkeypatch.setenv("XAI_XLA", "on")
    found = xai.explain(model, images, 1, method, batch_size=25, **METHODS[method])
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    monkeypatch.setenv("XAI_XLA", "yes")
    with pytest.raises(ValueError, match="XAI_XLA='yes'"):
        xai.explain(model, images, 1, method)


def test_xla_is_measured_once_for_long_work_on_a_gpu(model, monkeypatch):
    monkeypatch.delenv("XAI_XLA", raising=False)
    network = Network.of(model)
    assert not xla_pays(network, 10**6)  # no GPU
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [kind])
    assert not xla_pays(network, 10)
    first = xla_pays(network, 10**6)
    assert type(first) is bool
    monkeypatch.setattr(tf, "function", None)  # nothing is compiled again
    assert xla_pays(network, 10**6) == first


@pytest.mark.parametrize("method", METHODS)
def test_groups_of_images_and_points_do_not_show(model, images, method):
    whole = xai.explain(model, images, 1, method, batch_size=64, **METHODS[method])
    for batch_size in (1, 2, 7):  # more images than that are split, fewer share a pass
        found = xai.explain(model, images, 1, method, batch_size=batch_size, **METHODS[method])
        np.testing.assert_allclose(found, whole, atol=2e-6 * np.abs(whole).max())
    alone = xai.explain(model, images[2:3], 1, method, batch_size=5, **METHODS[method])
    np.testing.assert_allclose(alone[0], whole[2], atol=2e-6 * np.abs(whole).max())


def test_no_pass_has_more_copies_than_the_batch_size(images):
    sizes = []

    @keras.saving.register_keras_serializable("test_paths")
    class Watched(keras.layers.Layer):
        def call(self, x):
            tf.py_function(lambda n: sizes.append(int(n)), [tf.shape(x)[0]], [])
            return x

    inputs = keras.Input(images.shape[1:])
    x = keras.layers.GlobalAveragePooling2D()(Watched()(inputs))
    watched = keras.Model(inputs, keras.layers.Dense(2)(x))
    xai.explain(watched, images, 0, "smoothgrad", n_samples=5, batch_size=4)
    sizes.clear()
    xai.explain(watched, images, 0, "smoothgrad", n_samples=5, batch_size=4)
    # Four images, one point at a time; then one image, four points and the fifth.
    assert sizes == [4] * 5 + [4, 1]


def test_whole_numbers_travel_as_bytes_and_others_as_they_are():
    for values in ([0, 255, 7], [0.5, 255, 7], [-1, 3, 4], [256, 3, 4]):
        array = np.array(values, np.float32)
        found = sent(array)
        assert found.dtype == tf.float32
        np.testing.assert_array_equal(found.numpy(), array)


def test_many_small_gradients_are_summed_in_double_precision(images):
    """A linear model: a thousand equal terms give that term, to float32's last digit."""
    inputs = keras.Input(images.shape[1:])
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    one, many = (xai.explain(model, images[:1], 0, "integrated_gradients", n_steps=n, batch_size=16) for n in (1, 1000))
    np.testing.assert_allclose(many, one, rtol=2e-7, atol=1e-7 * np.abs(one).max())
    assert Network.of(model).image_spec.dtype == tf.float32
