"""The younger class activation maps: NumPy's SVD, naive forms, identities, and pytorch-grad-cam's stored maps."""

from pathlib import Path

import numpy as np
import pytest
from conftest import SIZE

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.backend import keras
from xaiutils.graph.passes import activations_and_gradients, enlarge

GOLDEN = Path(__file__).parents[1] / "golden" / "pytorch_grad_cam.npz"
ORACLE = {
    "eigen_cam": {"layer": "conv2", "centred": True},
    "eigengrad_cam": {"layer": "norm"},
    "shapley_cam": {"layer": "conv1"},
    "finer_cam": {"layer": "conv1", "gamma": 0.6, "n_similar": 2},
    "refine_cam": {"layers": ["conv1", "conv2"], "base": "layer_cam"},  # its Grad-CAM++ adds 1e-6 to g^2
}


def min_max(maps):
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    return (maps - low) / (high - low)


@pytest.mark.parametrize("method", ORACLE)
def test_as_pytorch_grad_cam(models, images, method):
    """Its 1.5.7 on the same weights and images, each map in [0, 1], every fourth pixel; of class 1."""
    with np.load(GOLDEN) as file:
        theirs = file[method]
    ours = min_max(xai.explain(models["flat softmax"], images[:2], 1, method, **ORACLE[method]))
    np.testing.assert_allclose(ours[:, ::4, ::4], theirs, atol=2e-4)


def pairs(model, images, layer, target=1):
    run = activations_and_gradients(Network.of(model), [layer])
    ((A, g),) = run(images, np.full(len(images), target, np.int32))
    return A.numpy().astype(np.float64), g.numpy().astype(np.float64)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("method", "name"), [("eigen_cam", "vit"), ("eigengrad_cam", "vit"), ("eigen_cam", "nested")])
def test_eigen_cams_are_numpys_svd_with_the_larger_side_up(models, images, method, name, centred):
    model = models[name]
    A, g = pairs(model, images, Network.of(model).cam_layer())
    X = A if method == "eigen_cam" else A * g
    expected = []
    for places in X.reshape(len(X), -1, X.shape[-1]):
        places = places - places.mean(axis=0) if centred else places
        along = places @ np.linalg.svd(places)[2][0]
        expected.append(along if along.max() > -along.min() else -along)
    expected = enlarge(np.maximum(expected, 0).reshape(A.shape[:3]), SIZE, SIZE)
    found = xai.explain(model, images, 1, method, centred=centred)
    np.testing.assert_allclose(found, expected, atol=2e-4 * expected.max())


def test_shapley_cam_is_the_second_order_shapley_value(images):
    """Of S = a b + c^2 with players a, b, c: a b is shared by halves, and c takes its square. ReLU networks bend
    nowhere, so there the map is Grad-CAM's, and HiResCAM's under a pooled head."""
    inputs = keras.Input((4, 4, 3))
    rows = keras.layers.Conv2D(3, 4, strides=4, padding="same", name="players")(keras.layers.UpSampling2D(2)(inputs))
    mean = keras.layers.GlobalAveragePooling2D()(rows)
    product = keras.layers.Lambda(lambda m: m[:, :1] * m[:, 1:2] + m[:, 2:] ** 2, output_shape=(1,))(mean)
    model = keras.Model(inputs, keras.layers.Concatenate()([product, 0 * product]))
    x = images[:1, :4, :4]
    a, b, c = keras.Model(inputs, mean)(x).numpy()[0]
    A = keras.Model(inputs, rows)(x).numpy()[0]
    weights = np.array([b / 2, a / 2, c]) / 4  # the gradient of each of 4 places, less half of what bends
    found = xai.explain(model, x, 0, "shapley_cam", layer="players", relu=False)
    np.testing.assert_allclose(found, enlarge((A * weights).sum(-1)[None], 4, 4), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", ["nested", "one-unit sigmoid"])
def test_shapley_cam_of_a_pooled_linear_head_is_hirescam(models, images, shape):
    bent, plain = (xai.explain(models[shape], images, 1, m, relu=False) for m in ("shapley_cam", "hirescam"))
    np.testing.assert_allclose(bent, plain, atol=1e-6 * np.abs(plain).max())


def test_finer_cam(models, images):
    """Gamma 0 is the base; of two classes 1 + gamma times it; of three the difference to the weighted rivals."""
    for base in ("grad_cam", "layer_cam"):
        plain = xai.explain(models["vit"], images, 2, base)
        found = xai.explain(models["vit"], images, 2, "finer_cam", base=base, gamma=0.0)
        np.testing.assert_allclose(found, plain, atol=1e-5 * plain.max())
    plain = xai.explain(models["one-unit sigmoid"], images, 0, "grad_cam")
    found = xai.explain(models["one-unit sigmoid"], images, 0, "finer_cam", gamma=0.5)
    np.testing.assert_allclose(found, 1.5 * plain, atol=1e-5 * plain.max())
    model = models["flat logits"]
    nearest = np.abs(xai.predict(model, images) - xai.predict(model, images)[:, :1])[:, 1:].argmin(axis=1) + 1
    own, other = (xai.explain(model, images, t, "hirescam") for t in (0, nearest))
    found = xai.explain(model, images, 0, "finer_cam", base="hirescam", n_similar=1, relu=False)
    np.testing.assert_allclose(found, own - other, atol=1e-5 * np.abs(own).max())
    with pytest.raises(ModelError, match="a score has none"):
        xai.explain(model, images, lambda z: z[:, 0], "finer_cam")


def test_smooth_grad_cam_plus_plus(models, images):
    """One copy without noise is Grad-CAM++; of two, the moments are averaged before they are combined."""
    model, x = models["flat softmax"], images[:1]
    plain = xai.explain(model, x, 1, "grad_cam_plus_plus", layer="conv1")
    still = xai.explain(model, x, 1, "smooth_grad_cam_plus_plus", layer="conv1", n_samples=1, noise=0.0)
    np.testing.assert_allclose(still, plain, atol=1e-5 * plain.max())
    A, _ = pairs(model, x, "conv1")
    sigma = 0.15 * np.ptp(x)
    unit = [np.random.default_rng([0, k]).standard_normal(x.shape[1:], dtype=np.float32) for k in range(2)]
    g = np.stack([pairs(model, x + np.float32(sigma) * u, "conv1")[1] for u in unit])
    second, third = (g**2).mean(axis=0), (g**3).mean(axis=0)
    below = 2 * second + A.sum(axis=(1, 2), keepdims=True) * third
    alpha = np.divide(second, below, out=np.zeros_like(second), where=second > 0)
    weights = (alpha * np.maximum(g.mean(axis=0), 0)).sum(axis=(1, 2), keepdims=True)
    expected = enlarge(np.maximum((weights * A).sum(-1), 0), SIZE, SIZE)
    found = xai.explain(model, x, 1, "smooth_grad_cam_plus_plus", layer="conv1", n_samples=2)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize("difference", [True, False])
def test_integrated_grad_cam_naive(models, images, difference):
    model, x = models["flat softmax"], images[:2]
    lowest = pairs(model, 0 * x, "conv1")[0] if difference else 0
    expected = 0
    for alpha in (0.25, 0.75):
        A, g = pairs(model, np.float32(alpha) * x, "conv1")
        expected = expected + np.maximum((g.mean(axis=(1, 2), keepdims=True) * (A - lowest)).sum(-1), 0) / 2
    options = {"layer": "conv1", "n_steps": 2, "difference": difference}
    found = xai.explain(model, x, 1, "integrated_grad_cam", **options)
    np.testing.assert_allclose(found, enlarge(expected, SIZE, SIZE), atol=1e-5 * expected.max())


def test_several_looks_through_a_channel(models, images):
    """One look, still and undimmed, is Score-CAM; of two, a channel's weight is the mean of both scores."""
    model, x = models["flat softmax"], images[:2]
    target = int(np.argmax([xai.explain(model, x, c, "score_cam").max() for c in range(3)]))
    plain = xai.explain(model, x, target, "score_cam")
    for method, options in (("ss_cam", {"n_samples": 1, "noise": 0.0}), ("is_cam", {"n_steps": 1})):
        np.testing.assert_allclose(xai.explain(model, x, target, method, **options), plain, atol=1e-5 * plain.max())
    A, _ = pairs(model, x, "conv1")
    assert np.ptp(A, axis=(1, 2)).all()  # no channel is flat
    expected = {"is_cam": 0, "ss_cam": 0}
    unit = [np.random.default_rng([0, k]).standard_normal((SIZE, SIZE), dtype=np.float32) for k in range(2)]
    for k in range(A.shape[-1]):
        mask = min_max(enlarge(A[..., k], SIZE, SIZE))
        for method, looks in (("is_cam", [mask / 2, mask]), ("ss_cam", [mask + u / 2 for u in unit])):
            seen = [model(x * look[..., None]).numpy()[:, target] for look in looks]
            expected[method] = expected[method] + np.mean(seen, axis=0)[:, None, None] * A[..., k]
    for method, options in (("is_cam", {"n_steps": 2}), ("ss_cam", {"n_samples": 2, "noise": 0.5})):
        found = xai.explain(model, x, target, method, layer="conv1", weighting="authors", **options)
        np.testing.assert_allclose(found, enlarge(expected[method], SIZE, SIZE), rtol=1e-3)


def test_refine_cam_is_the_product_of_the_layers(models, images):
    model, layers = models["nested"], ["norm", "conv2"]
    maps = [min_max(xai.explain(model, images, 1, "grad_cam_plus_plus", layer=layer)) for layer in layers]
    found = xai.explain(model, images, 1, "refine_cam", layers=layers)
    np.testing.assert_allclose(found, min_max(maps[0] * maps[1]), atol=1e-4)
    with pytest.raises(ValueError, match="fusion='product' scales every layer itself"):
        xai.explain(model, images, 1, "refine_cam", scale_layers="none")
