"""Concept relevance propagation: by hand, as LRP without the other channels, and its parts add up to LRP's map."""

import numpy as np
import pytest
from conftest import SIZE, make_flat, make_nested
from test_backprop import one_hidden_layer, pixel

import xaiutils as xai
from xaiutils.attribution import Network
from xaiutils.attribution.relevance.crp import channel_relevance, relevance_through
from xaiutils.backend import keras

layers = keras.layers


def each_channel(model, images, layer, n, target=1, **rules):
    return [xai.explain(model, images, target, "crp", layer=layer, channels=[k], **rules) for k in range(n)]


def test_by_hand():
    """Pixels 1, 2, 3 by the units 2 x1 + x2 = 4, x2 - x3 = -1 and x1 + x3 = 4 with ReLU, and S = 3, 5, -2 of them: 12
    go through the first unit, 0 through the second, -8 through the third."""
    model = one_hidden_layer([[2, 0, 1], [1, 1, 0], [0, -1, 1]], np.zeros(3), [[3, 0], [5, 0], [-2, 0]])
    layer = next(one.name for one in model.layers if isinstance(one, layers.Activation))
    network = Network.of(model)
    expected = [[6, 6, 0], [0, 0, 0], [-2, 0, -6]]
    for channel, shares in enumerate(expected):
        found = _pixels(network, layer, [channel])
        np.testing.assert_allclose(found, shares, atol=1e-5)
    np.testing.assert_allclose(_pixels(network, layer, [0, 2]), [4, 6, -6], atol=1e-5)


def _pixels(network, layer, channels):
    kept = np.isin(np.arange(3), channels)[None]
    found = relevance_through(
        network, pixel(1, 2, 3), np.zeros(1, np.int32), 1, layer, kept, rule="epsilon", epsilon=1e-9
    )
    return found[0, 0, :, 0]


@pytest.mark.parametrize("rule", ["epsilon_plus_flat", "epsilon", "epsilon_gamma_box"])
def test_channels_add_up_to_the_map_of_lrp(models, images, rule):
    parts = each_channel(models["nested"], images, "conv2", 6, rule=rule)
    whole = xai.explain(models["nested"], images, 1, "lrp", rule=rule)
    assert min(np.abs(part).max() for part in parts) < np.abs(whole).max()
    np.testing.assert_allclose(sum(parts), whole, atol=1e-5 * np.abs(whole).max())
    both = xai.explain(models["nested"], images, 1, "crp", layer="conv2", channels=[1, 4], rule=rule)
    np.testing.assert_allclose(both, parts[1] + parts[4], atol=1e-5 * np.abs(whole).max())


def test_channels_of_tokens_add_up_to_the_map_of_lrp(models, images):
    """At the sum after a block, which nothing goes around, the class token's part included."""
    groups = [[0], list(range(1, 9)), list(range(9, 16))]
    parts = [xai.explain(models["vit"], images[:2], 1, "crp", layer="block_00_add2", channels=g) for g in groups]
    whole = xai.explain(models["vit"], images[:2], 1, "lrp", rule="epsilon_plus_flat")
    np.testing.assert_allclose(sum(parts), whole, atol=1e-4 * sum(np.abs(part) for part in parts).max())


def test_it_is_lrp_of_the_network_without_the_other_channels(images):
    """The epsilon rule of the last layer gives a unit a w whatever the other units give."""
    model, without = make_nested(), make_nested()
    kernel, bias = model.get_layer("classes").get_weights()
    for channel in (0, 3):
        alone = np.where(np.arange(len(kernel))[:, None] == channel, kernel, 0)
        without.get_layer("classes").set_weights([alone, bias])
        expected = xai.explain(without, images, 2, "lrp", rule="epsilon_plus_flat")
        found = xai.explain(model, images, 2, "crp", layer="conv2", channels=[channel])
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_without_channels_each_image_has_its_own(models, images):
    model, network = models["nested"], Network.of(models["nested"])
    wanted = np.ones(len(images), np.int32)
    totals = channel_relevance(network, images, wanted, 2, network.cam_layer(), rule="epsilon_plus_flat")
    most = np.abs(totals).argmax(axis=1)
    parts = each_channel(model, images, "", 6)
    expected = np.stack([parts[channel][i] for i, channel in enumerate(most)])
    np.testing.assert_allclose(xai.explain(model, images, 1, "crp"), expected, atol=1e-6 * np.abs(expected).max())


def test_relevance_of_channels(models, images):
    """a_k w_k of the mean over places, at the layer that is pooled into the logits."""
    model = models["flat softmax"]
    network, wanted = Network.of(model), np.full(len(images), 2, np.int32)
    A = keras.Model(model.inputs, model.get_layer("conv2").output)([images]).numpy()
    shares = A / (A.shape[1] * A.shape[2]) * model.get_layer("classes").kernel.numpy()[:, 2]
    for over_places, expected in (("sum", shares.sum(axis=(1, 2))), ("max", shares.max(axis=(1, 2)))):
        found = channel_relevance(network, images, wanted, 2, "conv2", over_places, rule="epsilon")
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("channels", [[6], [-1], ["a"], [True], [1.5]])
def test_channels_that_are_not_there_are_refused(images, channels):
    with pytest.raises(ValueError, match=r"channels=.*expected numbers from 0 to 5, those of 'conv2'"):
        xai.explain(make_flat(size=SIZE), images, 0, "crp", channels=channels)
