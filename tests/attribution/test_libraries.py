"""How closely the thesis' libraries agree with the published formula as computed here, and where they do not.

The sentences of `xaiutils.attribution.libraries.ADAPTERS` say the same in words.
"""

import numpy as np
import pytest
from conftest import make_flat

import xaiutils as xai
from xaiutils.attribution.libraries import ADAPTERS
from xaiutils.backend import tf
from xaiutils.graph.network import Network
from xaiutils.graph.passes import activation, activations_and_gradients, enlarge

SHAPES = ("flat softmax", "fused sigmoid", "nested", "vit")
# Relative to the largest value: methods that agree to rounding.
EXACT = [
    ("tf-explain", "vanilla_gradients"),
    ("tf-explain", "gradients_x_inputs"),
    ("tf-explain", "grad_cam"),
    ("tf-keras-vis", "vanilla_gradients"),
    ("tf-keras-vis", "grad_cam"),
]


def both(model, images, library, method, targets=1, **parameters):
    ours = xai.explain(model, images, targets, method, **parameters)
    return ours, xai.explain(model, images, targets, method, library, **parameters)


def correlation(a, b):
    """Mean over images of the correlation of two maps of the same image."""
    return np.mean([np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b, strict=True)])


def test_every_adapter_is_offered_and_says_where_it_deviates():
    for (library, method), adapter in ADAPTERS.items():
        assert library in xai.METHODS[method].libraries
        assert adapter.deviation
        assert set(adapter.parameters) <= {p.name for p in xai.METHODS[method].parameters}
    assert all(m.libraries[0] == "xaiutils" for m in xai.METHODS.values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("library", "method"), EXACT)
def test_same_to_rounding(models, images, shape, library, method):
    ours, theirs = both(models[shape], images[:2], library, method)
    np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("library", "method"), [k for k in ADAPTERS if k not in EXACT])
def test_contract_of_the_others(models, images, shape, library, method):
    pytest.importorskip(library.replace("-", "_"))
    quick = {"smoothgrad": {"n_samples": 3}, "integrated_gradients": {"n_steps": 4}, "occlusion": {"patch_size": 8}}
    quick["lime"] = {"n_samples": 40, "segmentation": "slic"}
    maps = xai.explain(models[shape], images[:2], None, method, library, **quick.get(method, {}))
    assert maps.shape == (2, 32, 32)
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()


def test_keras_vis_smoothgrad_is_the_same_in_expectation(models, images):
    ours, theirs = both(
        models["flat softmax"], images[:2], "tf-keras-vis", "smoothgrad", n_samples=200, noise=0.1, reduction="sum"
    )
    assert correlation(ours, theirs) > 0.98


def test_tf_explain_smoothgrad_differentiates_the_cross_entropy(models, images):
    """For two classes -log p has the gradient -(1 - p) dz of the one-unit logit z: without noise the two are
    parallel."""
    model = models["one-unit sigmoid"]
    ours, theirs = both(model, images[:2], "tf-explain", "smoothgrad", n_samples=2, noise=0.0, reduction="sum")
    z = xai.predict(model, images[:2])
    p = tf.nn.sigmoid(z).numpy()[:, 1]
    np.testing.assert_allclose(theirs, -(1 - p)[:, None, None] * ours, atol=1e-4 * np.abs(ours).max())


def test_tf_explain_integrated_gradients_lack_the_input(models, images):
    """Times the image it would be integrated gradients from black by the plain mean over both ends."""
    model, n = models["flat softmax"], 8
    gradients = []
    for alpha in np.linspace(0, 1, n):
        gradients.append(
            xai.explain(model, np.float32(alpha) * images[:2] + 0, 1, "vanilla_gradients", reduction="sum")
        )
    theirs = xai.explain(model, images[:2], 1, "integrated_gradients", "tf-explain", n_steps=n)
    np.testing.assert_allclose(theirs, np.mean(gradients, axis=0), atol=1e-4 * np.abs(theirs).max())
    logits = xai.predict(model, images[:2])[:, 1] - xai.predict(model, np.zeros_like(images[:2]))[:, 1]
    assert not np.allclose(theirs.sum(axis=(1, 2)), logits, rtol=0.2)


def test_tf_explain_occlusion_is_one_minus_p(models, images):
    model = models["flat softmax"]
    theirs = xai.explain(model, images[:2], 1, "occlusion", "tf-explain", patch_size=4)
    ours = xai.explain(model, images[:2], 1, "occlusion", patch_size=4, score="probability")
    p = xai.predict(model, images[:2], probabilities=True)[:, 1]
    windows = (1 - p)[:, None, None] + ours[:, ::4, ::4]
    np.testing.assert_allclose(theirs, enlarge(windows, 32, 32), atol=1e-5)


def test_keras_vis_grad_cam_plus_plus_is_another_formula(models, images):
    """exp(S) in the weights, and alpha over its signed sum: computed here so, it is the library's map to rounding,
    and it is not equation 19."""
    model = models["flat softmax"]
    ours, theirs = both(model, images, "tf-keras-vis", "grad_cam_plus_plus")
    ((A, g),) = activations_and_gradients(Network.of(model), ["conv2"])(images, np.full(5, 1, np.int32))
    A, g = A.numpy().astype(np.float64), g.numpy().astype(np.float64)
    first = np.exp(xai.predict(model, images)[:, 1])[:, None, None, None] * g
    second = first * g
    denominator = 2 * second + A.sum(axis=(1, 2), keepdims=True) * second * g
    alpha = second / np.where(second == 0, 1, denominator)
    total = alpha.sum(axis=(1, 2), keepdims=True)
    weights = (np.maximum(first, 0) * alpha / np.where(total == 0, 1, total)).sum(axis=(1, 2), keepdims=True)
    expected = enlarge(np.maximum((weights * A).sum(-1), 0), 32, 32)
    np.testing.assert_allclose(theirs, expected, rtol=1e-3, atol=1e-4 * expected.max())
    assert not np.allclose(ours / ours.max(), theirs / theirs.max(), atol=0.01)


def test_keras_vis_score_cam_is_close(models, images):
    """Same probabilities, without the black image's, and with another way of enlarging the masks."""
    model = models["flat softmax"]
    theirs = both(model, images[:2], "tf-keras-vis", "score_cam", targets=0)[1]
    ours = xai.explain(model, images[:2], 0, "score_cam", weighting="probability")
    A = activation(Network.of(model), "conv2", images[:2], 2)
    black = xai.predict(model, np.zeros_like(images[:1]), probabilities=True)[0, 0]
    shift = np.maximum(black * A.sum(-1), 0)
    shifted = enlarge(shift, 32, 32) + ours
    assert correlation(shifted, theirs) > 0.98
    assert np.abs(shifted - theirs).max() < 0.1 * theirs.max()


def test_global_random_state_is_put_back(models, images):
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    xai.explain(models["flat softmax"], images[:1], 0, "smoothgrad", "tf-explain", n_samples=2)
    assert np.random.random() == expected  # noqa: NPY002


def test_a_layer_that_cannot_be_copied_is_named(images):
    from xaiutils.backend import keras

    class Odd(keras.layers.Layer):
        def __init__(self, secret, **kwargs):
            super().__init__(**kwargs)
            self.secret, self.scale = secret, self.add_weight(shape=())

        def call(self, x):
            return x + self.scale

    inputs = keras.Input((32, 32, 3))
    body = make_flat("linear")
    model = keras.Model(inputs, body(Odd(object(), name="odd")(inputs)))
    with pytest.raises(ValueError, match="'odd'"):
        xai.explain(model, images[:1], 0, "vanilla_gradients", "tf-explain")
