"""The head "where_and_what": its shapes, what it computes, and that it is saved and refused as other heads are."""

import numpy as np
import pytest
from small_models import where_and_what_network

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.graph.network import Network
from xaiutils.models.where_and_what import KeepLargest, SumPlaces, tensor_of_stride

NOISE = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype(np.float32)


def outputs(model, *names):
    return [y.numpy() for y in keras.Model(model.inputs, [model.get_layer(n).output for n in names])(NOISE)]


@pytest.mark.parametrize("pooling", ["attention", "top_k", "mean"])
def test_logits_are_what_is_said_where(pooling, tmp_path):
    """The sum over places of attention times m, worked out in NumPy; the same from a file."""
    model = where_and_what_network(pooling=pooling)
    where, what, attention, evidence, logits = outputs(model, "where", "what", "attention", "evidence", "logits")
    assert where.shape == (2, 4, 6, 1)
    assert what.shape == evidence.shape == (2, 4, 6, 2)
    weights = np.ones_like(where) if pooling == "mean" else np.exp(where)
    if pooling == "top_k":  # 2 % of 24 places are less than one
        weights = np.where(where == where.max(axis=(1, 2), keepdims=True), 1, 0)
    weights = weights / weights.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(attention, weights, rtol=1e-5)
    np.testing.assert_allclose(logits, (weights * what).sum(axis=(1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(evidence, attention * what, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(NOISE), model(NOISE))


def test_a_model_of_the_registry_of_any_size():
    model = xai.build_model("efficientnet_lite0", 3, (70, 100), head="where_and_what")
    assert model.input_shape == (None, 70, 100, 3)
    assert model.get_layer("where").output.shape == (None, 5, 7, 1)
    network = Network.of(model)
    assert (network.activation, network.n_classes, network.image_size) == ("softmax", 3, (70, 100))
    assert tensor_of_stride(model, 8) is model.get_layer("block_04_add").output
    assert model.get_layer("neck_fine").input is model.get_layer("block_10_add").output
    assert model.get_layer("neck_dropout").rate == 0.2
    assert xai.build_model("efficientnet_lite0", 2, (64, 96)).input_shape == (None, 64, 96, 3)


def test_refusals():
    with pytest.raises(ValueError, match="needs a CNN and images of at least 64"):
        xai.build_model("vit_ti16", 2, 64, head="where_and_what")
    with pytest.raises(ValueError, match="at least 64 pixels"):
        xai.build_model("efficientnet_lite0", 2, (96, 32), head="where_and_what")
    with pytest.raises(TypeError, match="no option .pooling."):
        xai.build_model("efficientnet_lite0", 2, 64, head_options={"pooling": "mean"})
    with pytest.raises(ValueError, match=r"expected one number, or of a CNN \(height, width\)"):
        xai.build_model("vit_ti16", 2, (64, 96))


def test_layers_by_hand():
    x = np.arange(24, dtype=np.float32).reshape(1, 4, 6, 1)
    np.testing.assert_array_equal(SumPlaces()(x), [[276]])
    kept = KeepLargest(0.125)(x).numpy()
    assert sorted(kept[kept > -1e9]) == [21, 22, 23]
