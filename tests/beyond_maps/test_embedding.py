"""Methods on the similarity of an image's embedding to that of a reference."""

import numpy as np
import pytest
from conftest import SIZE, make_flat

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.backend import keras
from xaiutils.beyond_maps import embedding
from xaiutils.beyond_maps.embedding import similarity_model
from xaiutils.graph.passes import activations_and_gradients
from xaiutils.own_model.label_view import of_label

SHAPES = ("flat softmax", "flat logits", "fused softmax", "one-unit sigmoid", "nested", "sequential", "vit")


def embeddings(model, images):
    """What the last Dense layer reads."""
    dense = [x for x in model.layers if isinstance(x, keras.layers.Dense)][-1]
    return keras.Model(model.inputs[0], dense.input).predict(images, verbose=0).astype(np.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_cosine_similarities(models, images, shape):
    model = models[shape]
    e = embeddings(model, images)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    similar = similarity_model(model, images[:3], batch_size=2)
    assert similar.layers[-1].name == "logits"
    found = xai.predict(similar, images)
    np.testing.assert_allclose(found, e @ e[:3].T, atol=1e-5)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-5)
    dot = xai.predict(similarity_model(model, images[:3], similarity="dot"), images)
    raw = embeddings(model, images)
    np.testing.assert_allclose(dot, raw @ raw[:3].T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_methods_explain_a_similarity(models, images, shape):
    similar = similarity_model(models[shape], images[:2])
    for method, options in (
        ("grad_cam", {}),
        ("vanilla_gradients", {}),
        ("integrated_gradients", {"n_steps": 4}),
        ("occlusion", {"patch_size": 16}),
        ("score_cam", {"weighting": "softmax", "max_channels": 2}),
    ):
        zero, one = (xai.explain(similar, images[2:4], k, method, **options) for k in (0, 1))
        assert np.abs(zero).max() > 0, method
        assert not np.allclose(zero, one), method


def test_gradient_of_the_similarity_by_hand(models, images):
    """With e the mean of A over Z positions, cos = e.r / (|e| |r|) has d cos / dA = (r/|r| - cos e/|e|) / (|e| Z)."""
    model = models["flat softmax"]
    similar = similarity_model(model, images[4:])
    run = activations_and_gradients(Network.of(similar), ["conv2"])
    ((A, g),) = run(images[:2], np.zeros(2, np.int32))
    A, g = A.numpy().astype(np.float64), g.numpy()
    e, r = A.mean(axis=(1, 2)), embeddings(model, images[4:])[0]
    length, r = np.linalg.norm(e, axis=1, keepdims=True), r / np.linalg.norm(r)
    cosine = (e / length) @ r
    expected = (r - cosine[:, None] * e / length) / (length * 64)
    np.testing.assert_allclose(g, np.broadcast_to(expected[:, None, None], g.shape), atol=1e-5 * np.abs(g).max())
    # At the reference itself the similarity is at its maximum: the gradient vanishes.
    ((_, flat),) = run(images[4:], np.zeros(1, np.int32))
    assert np.abs(flat).max() < 1e-4 * np.abs(g).max()


def test_one_reference_is_target_0(models, images):
    """One unit would be read as two classes, with the opposite of the reference first."""
    similar = similarity_model(models["vit"], images[:1])
    found = xai.predict(similar, images)
    assert found.shape == (5, 2)
    assert found[0, 0] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found[:, 1], -found[:, 0], atol=1e-6)


def test_references_may_be_embeddings(models, images):
    model = models["nested"]
    e = embeddings(model, images)
    by_image, by_vector = similarity_model(model, images[:3]), similarity_model(model, e[:3])
    np.testing.assert_allclose(xai.predict(by_vector, images), xai.predict(by_image, images), atol=1e-5)
    built = xai.build_model("vit_mini16", 3, 32)
    by_name = similarity_model(built, images[:2], layer="features")
    np.testing.assert_array_equal(
        xai.predict(by_name, images), xai.predict(similarity_model(built, images[:2]), images)
    )
    assert xai.predict(similarity_model(built, images[:2], layer="logits"), images).shape == (5, 2)


def test_weights_are_shared(images):
    model = make_flat()
    similar = similarity_model(model, images[:2])
    assert similar.get_layer("conv2") is model.get_layer("conv2")
    before, answer = xai.predict(similar, images), xai.predict(model, images)
    np.testing.assert_array_equal(xai.predict(model, images), answer)  # the model itself is as it was
    kernel = model.get_layer("conv2").kernel
    kernel.assign(kernel[..., ::-1])
    assert not np.allclose(xai.predict(similar, images), before)


def test_what_has_no_embedding_is_refused(models, images):
    model = models["flat softmax"]
    with pytest.raises(ModelError, match=r"no embedding \(n, width\), but the shape"):
        similarity_model(model, images, layer="conv2")
    with pytest.raises(ModelError, match="'backbone/conv2' is not among the model's own"):
        similarity_model(models["nested"], images, layer="backbone/conv2")
    with pytest.raises(ModelError, match="not a functional"):
        similarity_model("a model", images)
    inputs = keras.Input((SIZE, SIZE, 3))
    pooled = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pooled")(inputs))
    with pytest.raises(ModelError, match="give layer="):
        similarity_model(pooled, images)
    assert xai.predict(similarity_model(pooled, images, layer="pooled"), images).shape == (5, 5)
    for wrong in (images[0], np.zeros((2, 5)), np.zeros((0, 6))):
        with pytest.raises(ValueError, match="references has shape"):
            similarity_model(model, wrong)
    with pytest.raises(ValueError, match="expected raw pixels"):
        similarity_model(model, images / 255)
    with pytest.raises(ValueError, match=r"references \[1\] have an embedding of length 0"):
        similarity_model(model, np.eye(3, 6) * [[1], [0], [1]])
    with pytest.raises(ValueError, match="cosine, dot"):
        similarity_model(model, images, similarity="euclid")


def test_a_wrapped_model_has_the_embedding_of_its_core(images):
    """Of a user's own model, scaled outside, and of one label of it."""
    several = xai.wrap(make_flat("sigmoid"), scaling="0-1", class_names=["a", "b", "c"])
    expected = embeddings(several.core, images / 255)
    for model in (several, of_label(several, "b")):
        np.testing.assert_allclose(embedding.embeddings(model, images), expected, rtol=1e-4, atol=1e-6)
        similar = similarity_model(model, images[:2])
        assert xai.explain(similar, images, 1, "grad_cam").shape == images.shape[:3]
        assert embedding.no_embedding(model) == ""
    inputs = keras.Input((SIZE, SIZE, 3))
    without = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    assert "no Dense layer" in embedding.no_embedding(xai.wrap(without, scaling="0-1"))
