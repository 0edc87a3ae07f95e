"""Methods on the head "mldam": attention between places as a map, and all methods that suit it."""

import numpy as np
import pytest
from small_models import mldam_network

import xaiutils as xai
from xaiutils.attribution import ModelError
from xaiutils.attribution.cam.layer_aggregate import default_layers
from xaiutils.attribution.suitability import suits
from xaiutils.backend import keras, tf
from xaiutils.graph.network import Network
from xaiutils.graph.passes import enlarge

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype(np.float32)
QUICK = {
    "smoothgrad": {"n_samples": 2},
    "smoothgrad_squared": {"n_samples": 2},
    "vargrad": {"n_samples": 2},
    "integrated_gradients": {"n_steps": 4},
    "integrated_gradients_bw": {"n_steps": 4},
    "expected_gradients": {"n_samples": 2},
    "occlusion": {"patch_size": 32, "stride": 32},
    "rise": {"n_masks": 16},
    "lime": {"n_samples": 16},
    "prediction_difference": {"patch_size": 16, "stride": 16, "n_samples": 1, "n_training": 20},
    "smooth_grad_cam_plus_plus": {"n_samples": 2},
    "integrated_grad_cam": {"n_steps": 2},
    "ss_cam": {"n_samples": 2},
    "is_cam": {"n_steps": 2},
    "guided_ig": {"n_steps": 3},
    "blur_ig": {"n_steps": 3, "max_sigma": 4.0},
    "idgi": {"n_steps": 2},
    "shapley": {"n_segments": 40, "n_samples": 2},
    "kernel_shap": {"n_segments": 20, "n_coalitions": 60},
    "sobol": {"cells": 2, "n_samples": 4},
    "hsic": {"cells": 3, "n_masks": 24},
    "xrai": {"base_parameters": {"n_steps": 2}, "algorithm": "fast"},
}


@pytest.fixture(autouse=True)
def eager():
    """A small network takes longer to trace than to run."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("variant", ["published", "study"])
def test_attention_between_places_as_a_map(variant):
    """The mean row: how much of each place's value all 2 x 3 places take."""
    model = mldam_network(variant)
    A = keras.Model(model.inputs, model.get_layer("mldam_attention").output)([IMAGES]).numpy()
    maps = xai.explain(model, IMAGES, 1, "raw_attention")
    np.testing.assert_allclose(maps, enlarge(A.mean(axis=1).reshape(2, 2, 3), 64, 96), rtol=1e-6)
    np.testing.assert_array_equal(maps, xai.explain(model, IMAGES, 1, "raw_attention", layer="mldam_attention"))
    with pytest.raises(ModelError, match="places have none"):
        xai.explain(model, IMAGES, 1, "raw_attention", query="class_token")
    for part in ("channel", "none"):
        with pytest.raises(ModelError, match="none was found"):
            xai.explain(mldam_network(variant, part), IMAGES, 1, "raw_attention")


def test_every_method_that_suits():
    """All but CAM, which is for a mean over places, and those on layers of self-attention."""
    model = mldam_network("study")
    network = Network.of(model)
    assert network.cam_layers() == ["mldam"]
    assert default_layers(network)[-1] == "mldam"
    unsuited = {method for method in xai.METHODS if suits(network, method)}
    assert unsuited == {"cam", "attention_rollout", "transformer_attribution", "legrad", "mda"}
    for method, declared in xai.METHODS.items():
        if method in unsuited:
            continue
        maps = xai.explain(model, IMAGES, 1, method, **QUICK.get(method, {}))
        assert (maps.shape, maps.dtype) == ((2, 64, 96), np.float32), method
        assert np.isfinite(maps).all(), method
        assert declared.signed or maps.min() >= 0, method
        assert np.abs(maps).max() > 0, method


@pytest.mark.parametrize("variant", ["published", "study"])
def test_rules_pass_both_products(variant):
    """DeepLIFT's shares sum to the rise of the logit above the black image's, through Q K^T, P V and (V V^T) V; those
    of one unit's other class are the negative."""
    model = mldam_network(variant)
    rise = np.diff([xai.predict(model, x)[:, 1] for x in (0 * IMAGES, IMAGES)], axis=0)[0]
    maps = xai.explain(model, IMAGES, 1, "deep_lift")
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), rise, rtol=1e-3)
    np.testing.assert_allclose(xai.explain(model, IMAGES, 0, "deep_lift"), -maps, rtol=1e-4, atol=1e-7)
