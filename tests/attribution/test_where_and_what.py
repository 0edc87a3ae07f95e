"""Methods on the head "where_and_what": all that suit it find the blob that a network weighed by hand looks at."""

import numpy as np
import pytest
from small_models import where_and_what_network

import xaiutils as xai
from xaiutils.attribution.methods import METHODS
from xaiutils.attribution.suitability import suits
from xaiutils.backend import keras
from xaiutils.graph.cam_layers import cam_layers
from xaiutils.graph.network import Network

QUICK = {
    "rise": {"n_masks": 400, "score": "logit", "fill": "black"},
    "lime": {"n_samples": 100, "score": "logit"},
    # Of evidence, m_0 = -m_1, they may weigh both alike, and the sum is 0: they are for maps that have no sign.
    "score_cam": {"layer": "neck"},
    "faster_score_cam": {"layer": "neck"},
    "guided_ig": {"n_steps": 10},
    "blur_ig": {"n_steps": 10},
    "idgi": {"n_steps": 10},
    "shapley": {"n_segments": 8, "fill": "black"},
    "kernel_shap": {"n_segments": 8, "fill": "black"},
    "sobol": {"cells": 6, "n_samples": 16, "fill": "black"},
    "hsic": {"cells": 6, "n_masks": 200, "fill": "black"},
    "ss_cam": {"layer": "neck", "n_samples": 4, "noise": 0.1},
    "is_cam": {"layer": "neck"},
    "smooth_grad_cam_plus_plus": {"n_samples": 2, "noise": 0.02},
    "prediction_difference": {"n_training": 200, "stride": 8, "patch_size": 8},
    "smoothgrad": {"n_samples": 5, "noise": 0.02},
}


@pytest.fixture(scope="module")
def by_brightness():
    """The brighter a place, the more it is looked at, and the more it speaks for class 1 and against class 0."""
    model = where_and_what_network(norm=False)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.name not in ("sharpness", "where", "what"):
            kernel, bias = layer.get_weights()
            layer.set_weights([np.full_like(kernel, 1 / kernel[..., 0].size), bias])
    for name, signs in (("where", [8]), ("what", [-2, 2])):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[:] = 0
        kernel[1, 1] = np.array(signs) / kernel.shape[2]
        model.get_layer(name).set_weights([kernel, bias])
    return model


@pytest.fixture(scope="module")
def blob():
    image = np.full((1, 64, 96, 3), 20, np.float32)
    image[:, 34:46, 66:78] = 250
    return image


def suited():
    network = Network.of(where_and_what_network())
    return [name for name in METHODS if not suits(network, name)]


def test_which_methods_suit():
    """All but those on attention between tokens, and CAM, which is for a mean over places."""
    attention = {"raw_attention", "attention_rollout", "transformer_attribution", "legrad", "mda"}
    assert set(METHODS) - set(suited()) == attention | {"cam"}
    network = Network.of(where_and_what_network(pooling="top_k"))
    with_rules = {name for name in METHODS if "keep_largest" in suits(network, name)}
    assert {"lrp", "deep_lift", "guided_backprop"} <= with_rules
    assert not with_rules & {"grad_cam", "integrated_gradients", "occlusion"}


@pytest.mark.parametrize("method", suited())
def test_maps_find_the_blob(by_brightness, blob, method):
    map_ = xai.explain(by_brightness, blob, 1, method, reading="positive", **QUICK.get(method, {}))[0]
    row, column = np.unravel_index(map_.argmax(), map_.shape)
    assert 34 - 18 <= row < 46 + 18, (
        row,
        column,
    )  # to within a place of the maps, of 16 pixels, and a superpixel's edge
    assert 66 - 18 <= column < 78 + 18, (row, column)


def test_grad_cam_is_the_models_own_account(by_brightness, blob):
    """All of the score goes through a_p m_p: with W the identity, Grad-CAM's weights are 1 for the target's map."""
    assert cam_layers(Network.of(by_brightness)) == ["evidence"]
    evidence = keras.Model(by_brightness.inputs, by_brightness.get_layer("evidence").output)(blob).numpy()[0, ..., 1]
    map_ = xai.explain(by_brightness, blob, 1, "grad_cam")[0]
    np.testing.assert_allclose(map_[8::16, 8::16].max() * 24, evidence.max() * 24, rtol=0.3)
    assert np.corrcoef(map_[8::16, 8::16].ravel(), evidence.ravel())[0, 1] > 0.95


def test_rules_keep_the_sum(by_brightness, blob):
    """DeepLIFT's shares sum to what the logit is above the black image's, LRP's (without biases) to the logit, though
    attention is a softmax over all places and evidence a product."""
    black = np.zeros_like(blob)
    logit, of_black = (xai.predict(by_brightness, x)[0, 1] for x in (blob, black))
    lift = xai.explain(by_brightness, blob, 1, "deep_lift")
    np.testing.assert_allclose(lift.sum(), logit - of_black, rtol=1e-3)
