"""Relevance-CAM and XRelevance-CAM: their formulas, what they conserve, and every layer of every model."""

import numpy as np
import pytest
from conftest import SIZE, make_flat

import xaiutils as xai
from xaiutils.attribution import Network
from xaiutils.attribution.cam.relevance_cam import activations_and_relevance
from xaiutils.backend import keras, tf
from xaiutils.graph.passes import enlarge

TARGETS = np.ones(5, np.int32)


def naive_relevance(model, images, seed):
    """z+ from the logits of the flat model down to conv2, written out."""
    A = keras.Model(model.inputs, model.get_layer("conv2").output)(images).numpy().astype(np.float64)
    pooled = A.mean(axis=(1, 2))
    W, _ = model.get_layer("classes").get_weights()
    z = np.maximum(pooled[:, :, None] * W, 0)
    R = (z / z.sum(1)[:, None] * seed[:, None]).sum(-1)  # of the pooled channels
    return A, A / A.sum(axis=(1, 2), keepdims=True).clip(1e-12) * R[:, None, None]


def test_formulas(models, images):
    model = models["flat softmax"]
    A, R = naive_relevance(model, images, np.tile([-1 / 3, 1, -1 / 3], (5, 1)))
    for method, weights in (
        ("relevance_cam", R.mean(axis=(1, 2))),
        ("xrelevance_cam", R.sum(axis=(1, 2)) / A.sum(axis=(1, 2)).clip(1e-12)),
    ):
        expected = enlarge((A * weights[:, None, None]).sum(-1), SIZE, SIZE)
        found = xai.explain(model, images, 1, method)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("shift", [-5.0, 100.0])
@pytest.mark.parametrize("method", ["relevance_cam", "xrelevance_cam", "layer_aggregate"])
def test_a_constant_added_to_all_logits_changes_nothing(images, method, shift):
    """It changes no probability; a start with logits turned the map over."""
    model = make_flat()
    before = xai.explain(model, images, 1, method)
    bias = model.get_layer("classes").bias
    bias.assign_add(np.full(3, shift))
    np.testing.assert_allclose(xai.explain(model, images, 1, method), before, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("layer", ["conv1", "norm", "conv2"])
def test_xrelevance_cam_sums_to_the_relevance_of_any_layer(models, images, layer):
    network = Network.of(models["flat softmax"])
    A, R = (x.numpy() for x in activations_and_relevance(network, [layer])(images, TARGETS)[0])
    np.testing.assert_allclose(A, network.forward(tf.constant(images), [layer])[1][0], atol=1e-5)
    # 1 - 2 / 3: biases take none, except that what batch norm made of a 0 of conv1 has nowhere to go.
    np.testing.assert_allclose(R.sum(axis=(1, 2, 3)), 1 / 3, rtol=5e-3 if layer == "conv1" else 1e-4)
    small = R.sum(axis=(1, 2)) / A.sum(axis=(1, 2))
    maps = xai.explain(models["flat softmax"], images, 1, "xrelevance_cam", layer=layer)
    expected = enlarge((small[:, None, None] * A).sum(-1), SIZE, SIZE)
    np.testing.assert_allclose(maps, expected, atol=1e-4 * np.abs(maps).max())


def test_relevance_of_a_convolution_before_its_batch_norm(images):
    """Folding must not skip the layer that is asked for."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, name="conv")(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    network = Network.of(model)
    before, after = (
        activations_and_relevance(network, [layer])(images, TARGETS)[0][1].numpy() for layer in ("conv", "norm")
    )
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-7)  # its mean is 0 and its scale 1


def test_one_unit_has_two_opposite_classes(models, images):
    for method in ("relevance_cam", "xrelevance_cam"):
        zero, one = (xai.explain(models["one-unit sigmoid"], images, c, method) for c in (0, 1))
        np.testing.assert_allclose(zero, -one, atol=1e-6 * np.abs(one).max())


def test_layers_that_share_a_pass_have_the_relevance_that_each_has_alone(models, images):
    for name in ("flat softmax", "nested", "vit"):
        network = Network.of(models[name])
        layers = network.spatial_layers()[-4:]
        together = activations_and_relevance(network, layers)(images, TARGETS)
        for layer, (A, R) in zip(layers, together, strict=True):
            ((A_alone, R_alone),) = activations_and_relevance(network, [layer])(images, TARGETS)
            np.testing.assert_allclose(A, A_alone, atol=1e-5)
            np.testing.assert_allclose(R, R_alone, atol=1e-5 * np.abs(R_alone).max())
