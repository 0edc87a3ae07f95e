"""Attribution methods: one contract for all of them, then analytic cases, axioms and naive re-implementations."""

import numpy as np
import pytest
from conftest import SIZE, make_flat, make_vit

import xaiutils as xai
from xaiutils.attribution import Network
from xaiutils.attribution.cam.gradient_cams import grad_cam_weights
from xaiutils.attribution.cam.weighted_sum import weighted_sum
from xaiutils.attribution.integrated_gradients import quadrature_rule
from xaiutils.attribution.windows import window_starts
from xaiutils.backend import keras, tf
from xaiutils.graph.passes import activations_and_gradients, enlarge

QUICK = {
    "smoothgrad": {"n_samples": 3},
    "smoothgrad_squared": {"n_samples": 3},
    "vargrad": {"n_samples": 3},
    "integrated_gradients_bw": {"n_steps": 4},
    "expected_gradients": {"n_samples": 4},
    "integrated_gradients": {"n_steps": 4},
    "occlusion": {"patch_size": 8},
    "rise": {"n_masks": 60},
    "lime": {"n_samples": 40, "segmentation": "slic"},
    "prediction_difference": {"patch_size": 4, "padding": 1, "n_samples": 1},
    "smooth_grad_cam_plus_plus": {"n_samples": 2},
    "integrated_grad_cam": {"n_steps": 2},
    "ss_cam": {"n_samples": 2},
    "is_cam": {"n_steps": 2},
    "guided_ig": {"n_steps": 3},
    "blur_ig": {"n_steps": 3, "max_sigma": 4.0},
    "idgi": {"n_steps": 2},
    "shapley": {"n_segments": 40, "n_samples": 2},
    "kernel_shap": {"n_segments": 20, "n_coalitions": 60},
    "mda": {"cells": 2},
    "sobol": {"cells": 2, "n_samples": 4},
    "hsic": {"cells": 3, "n_masks": 24},
    "xrai": {"base_parameters": {"n_steps": 4}, "algorithm": "fast"},
}
SHAPES = ("flat softmax", "one-unit sigmoid", "nested", "vit")
# What each model shape is refused, and why: GELU, no pooled linear head, no attention.
ON_VIT = {
    "guided_backprop": "GELU|gelu",
    "deconvolution": "GELU|gelu",
    "guided_grad_cam": "GELU|gelu",
    "cam": "grad_cam",
}
ON_CNN = dict.fromkeys(
    ("raw_attention", "attention_rollout", "transformer_attribution", "legrad", "mda"), "self-attention layers"
)
ANY_CNN = [name for name in xai.METHODS if name not in ON_CNN]


def refused(method, shape):
    return (ON_VIT if shape == "vit" else ON_CNN).get(method)


def quick(model, images, method, targets=None, **more):
    return xai.explain(model, images, targets, method, **{**QUICK.get(method, {}), **more})


# The contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", xai.METHODS)
def test_contract(models, images, shape, method):
    model = models[shape]
    if why := refused(method, shape):
        with pytest.raises(xai.attribution.ModelError, match=why):
            quick(model, images, method)
        return
    maps = quick(model, images, method)
    assert maps.dtype == np.float32
    assert maps.shape == images.shape[:3]
    assert np.isfinite(maps).all()
    if not xai.METHODS[method].signed:
        assert maps.min() >= 0
    scale = np.abs(maps).max()
    assert scale > 0
    alone = quick(model, images[3:4], method, targets=int(xai.predict(model, images)[3].argmax()))
    others = {b: quick(model, images, method, batch_size=b) for b in (1, 3, 32)}
    if method == "guided_ig":  # where the next smallest gradients are equal but for rounding, other pixels go first
        for again in (np.concatenate([maps[:3], alone, maps[4:]]), *others.values()):
            assert np.linalg.norm(again - maps) <= 0.1 * np.linalg.norm(maps)
        return
    np.testing.assert_allclose(alone[0], maps[3], atol=2e-4 * scale, err_msg="depends on its batch mates")
    for batch_size, again in others.items():
        np.testing.assert_allclose(again, maps, atol=2e-4 * scale, err_msg=f"batch_size={batch_size}")


@pytest.mark.parametrize("method", [n for n, m in xai.METHODS.items() if any(p.name == "seed" for p in m.parameters)])
def test_seeds(models, images, method):
    more = {"layer": "conv1"} if method == "smooth_grad_cam_plus_plus" else {}  # conv2's gradients are constant
    first, same, other = (quick(models["flat softmax"], images, method, seed=s, **more) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other, atol=1e-6 * np.abs(first).max())


@pytest.mark.parametrize("method", ANY_CNN)
def test_flat_nested_and_sequential_agree(models, images, method):
    maps = [quick(models[name], images[:2], method) for name in ("flat softmax", "nested", "sequential", "flat logits")]
    for other in maps[1:]:
        np.testing.assert_allclose(other, maps[0], atol=1e-5 * np.abs(maps[0]).max())


@pytest.mark.parametrize("method", xai.METHODS)
def test_declared_parameters_are_checked(models, images, method):
    with pytest.raises(TypeError, match="has no parameter|takes no parameters"):
        quick(models["flat softmax"], images, method, no_such_parameter=1)
    for parameter in xai.METHODS[method].parameters:
        assert parameter.check(parameter.default) == parameter.default
        wrong = "no such choice" if parameter.choices else -5 if parameter.kind in (int, float) else 3
        wrong = np.zeros((2, 2)) if parameter.kind is np.ndarray else wrong  # neither a colour nor an image
        with pytest.raises((TypeError, ValueError), match=parameter.name):
            quick(models["flat softmax"], images, method, **{parameter.name: wrong})


@pytest.mark.parametrize("method", ANY_CNN)
def test_models_of_any_size_agree_with_fixed_ones(images, method):
    fixed, any_size = make_flat(), make_flat(size=None)
    maps = [quick(model, images[:2], method, targets=1) for model in (fixed, any_size)]
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-5 * np.abs(maps[0]).max())


BY_RULES = (
    "guided_backprop",
    "deconvolution",
    "deep_lift",
    "lrp",
    "clrp",
    "sglrp",
    "crp",
    "relevance_cam",
    "xrelevance_cam",
)


@pytest.mark.parametrize("make", [make_flat, make_vit])
@pytest.mark.parametrize("method", [*BY_RULES, "transformer_attribution"])
def test_models_in_half_precision_are_taken_apart_in_float32(images, method, make):
    shape = "vit" if make is make_vit else "flat softmax"
    if why := refused(method, shape):
        pytest.skip(f"refused on this model: {why}")
    given = {"form": "relevance"} if method == "transformer_attribution" else {}
    whole = make()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        half = make()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    half.set_weights(whole.get_weights())
    maps = [xai.explain(model, images[:2], 1, method, **given) for model in (whole, half)]
    if given:  # the relevance form weighs by gradients, too, which stay in half precision
        assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.99
    else:
        np.testing.assert_allclose(maps[1], maps[0], atol=1e-5 * np.abs(maps[0]).max())
    assert half.layers[-2].compute_dtype == "bfloat16"


def test_explain_all_equals_explain(models, images):
    """Options of methods that share a pass arrive too."""
    chosen = [n for n, m in xai.METHODS.items() if m.family in ("gradients", "cam", "perturbation") and n in ANY_CNN]
    given = {**QUICK, "grad_cam": {"relu": False}, "xgrad_cam": {"epsilon": 0.5, "layer": "conv1"}}
    together = xai.explain_all(models["nested"], images, None, chosen, parameters=given)
    assert list(together) == chosen
    for method, maps in together.items():
        alone = xai.explain(models["nested"], images, None, method, **given.get(method, {}))
        np.testing.assert_allclose(maps, alone, atol=1e-5, err_msg=method)
    assert together["grad_cam"].min() < 0


def test_signs_follow_the_parameters(models, images):
    signs = {
        ("grad_cam", "relu", False): True,
        ("hirescam", "relu", True): False,
        ("vanilla_gradients", "reduction", "sum"): True,
        ("smoothgrad", "base", "gradients_x_inputs"): True,
        ("smoothgrad_squared", "base", "gradients_x_inputs"): False,
        ("rise", "score", "logit"): True,
    }
    for (method, name, value), signed in signs.items():
        declared = xai.METHODS[method]
        assert declared.is_signed({}) == declared.signed
        assert declared.is_signed({name: value}) == signed
        least = xai.predict(models["nested"], images).argmin(axis=1)
        maps = quick(models["nested"], images, method, targets=least, **{name: value})
        assert (maps.min() < 0) == signed, method


def test_one_method_under_two_names(models, images):
    model = models["flat softmax"]
    parameters = {"early": {"method": "grad_cam", "layer": "conv1"}, "many": {"method": "smoothgrad", "n_samples": 2}}
    maps = xai.explain_all(model, images, 0, ["grad_cam", "early", "many"], parameters=parameters)
    np.testing.assert_allclose(maps["grad_cam"], xai.explain(model, images, 0, "grad_cam"), atol=1e-6)
    np.testing.assert_allclose(maps["early"], xai.explain(model, images, 0, "grad_cam", layer="conv1"), atol=1e-6)
    np.testing.assert_allclose(maps["many"], xai.explain(model, images, 0, "smoothgrad", n_samples=2), atol=1e-6)
    with pytest.raises(KeyError, match="Unknown method 'late'"):
        xai.explain_all(model, images, 0, ["late"], parameters=parameters)


def test_bad_input_is_refused_in_words(models, images):
    model = models["flat softmax"]
    with pytest.raises(KeyError, match=r"did you mean grad_cam"):
        xai.explain(model, images, method="gradcam")
    with pytest.raises(ValueError, match="not available from 'tf-explain'"):
        xai.explain(model, images, method="score_cam", library="tf-explain")
    with pytest.raises(ValueError, match=r"images \[1\] hold NaN"):
        xai.explain(model, np.where(np.arange(5)[:, None, None, None] == 1, np.nan, images))
    with pytest.raises(ValueError, match="32 x 32"):
        xai.explain(model, images[:, :20])
    with pytest.raises(ValueError, match="have 2 channels.*takes 3"):
        xai.explain(model, images[..., :2])
    with pytest.raises(ValueError, match="expected raw pixels"):
        xai.explain(model, images / 255)
    with pytest.raises(ValueError, match="expected raw pixels"):
        xai.explain(model, images / 127.5 - 1)
    with pytest.raises(ValueError, match="empty"):
        xai.explain(model, images[:0])
    with pytest.raises(ValueError, match="has 3 classes"):
        xai.explain(model, images, 3)
    with pytest.raises(ValueError, match="one for each of 5 images"):
        xai.explain(model, images, [0, 1])
    with pytest.raises(ValueError, match="batch_size=0"):
        xai.explain(model, images, batch_size=0)


def test_a_model_that_overflows_is_named(images):
    model = make_flat()
    model.get_layer("conv2").kernel.assign(model.get_layer("conv2").kernel * np.inf)
    with pytest.raises(FloatingPointError, match="vanilla_gradients gave NaN"):
        xai.explain(model, images, 0, "vanilla_gradients")


# Analytic cases ---------------------------------------------------------------------------------------------------


def test_linear_model(linear, images):
    model, w = linear
    w1 = w[..., 1]
    expected = {
        "vanilla_gradients": np.broadcast_to(np.abs(w1).max(-1), images.shape[:3]),
        "gradients_x_inputs": (images * w1).sum(-1),
        "smoothgrad": np.broadcast_to(np.abs(w1).max(-1), images.shape[:3]),
        "integrated_gradients": (images * w1).sum(-1),
    }
    for method, maps in expected.items():
        np.testing.assert_allclose(
            quick(model, images, method, 1), maps, atol=1e-4 * np.abs(maps).max(), err_msg=method
        )
    found = xai.explain(model, images, 1, "occlusion", patch_size=1, fill="black", batch_size=256)
    np.testing.assert_allclose(found, (images * w1).sum(-1), atol=2e-4)


@pytest.mark.parametrize("reduction", ["max_abs", "sum_abs", "sum"])
def test_reduction_of_channels(linear, images, reduction):
    w1 = linear[1][..., 1]
    expected = {"max_abs": np.abs(w1).max(-1), "sum_abs": np.abs(w1).sum(-1), "sum": w1.sum(-1)}[reduction]
    found = xai.explain(linear[0], images[:1], 1, "vanilla_gradients", reduction=reduction)
    np.testing.assert_allclose(found[0], expected, atol=1e-7)


def test_two_class_head_flips_the_sign(models, images):
    for method in ("gradients_x_inputs", "integrated_gradients", "occlusion"):
        zero, one = (quick(models["one-unit sigmoid"], images, method, targets=c) for c in (0, 1))
        np.testing.assert_allclose(zero, -one, atol=1e-5 * np.abs(one).max())


def captum_cnn() -> keras.Model:
    """captum's one-convolution test network in Keras' layout (its published Grad-CAM values are facts)."""
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(2, 3, name="conv1")(inputs)
    x = keras.layers.ReLU(name="relu1")(x)
    x = keras.layers.Flatten()(keras.layers.Permute((3, 1, 2))(x))
    model = keras.Model(inputs, keras.layers.Dense(4, name="fc")(x))
    kernel = np.zeros((3, 3, 3, 2), np.float32)
    kernel[:, :, 0] = 1
    model.get_layer("conv1").set_weights([kernel, np.array([-50.0, -75.0])])
    row = np.array([1, 1, 1, 1, 1, -1, -1, -1], np.float32)
    model.get_layer("fc").set_weights([np.repeat(row[:, None], 4, axis=1), np.zeros(4)])
    return model


@pytest.mark.parametrize(
    ("layer", "expected"),
    [("conv1", [[11.25, 13.5], [20.25, 22.5]]), ("relu1", [[0.0, 4.0], [28.0, 32.5]])],
)
def test_grad_cam_of_captums_network(layer, expected):
    image = np.repeat(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1), 3, axis=-1)
    ((A, g),) = activations_and_gradients(Network(captum_cnn()), [layer])(image, np.zeros(1, np.int32))
    np.testing.assert_allclose(weighted_sum(A, grad_cam_weights(A, g), relu=True)[0], expected, rtol=1e-6)
    found = xai.explain(captum_cnn(), image, 0, "grad_cam", layer=layer)
    np.testing.assert_allclose(found, enlarge(np.array([expected]), 4, 4), rtol=1e-6)


def test_occlusion_of_captums_network():
    """Pixels 20, 50, 30 into four ReLU units of unit weights: hiding one takes away 4 times its value."""
    inputs = keras.Input((1, 3, 3))
    x = keras.layers.Dense(4, activation="relu", name="hidden")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(x))
    weights = np.tile(np.array([1, 0, 0], np.float32)[:, None], (3, 4))
    model.get_layer("hidden").set_weights([weights, np.array([-10.0, 1, 1, 1])])
    model.get_layer("out").set_weights([np.ones((4, 2)), np.zeros(2)])
    image = np.repeat(np.array([20, 50, 30], np.float32).reshape(1, 1, 3, 1), 3, axis=-1)
    found = xai.explain(model, image, 0, "occlusion", patch_size=1, fill="black")
    np.testing.assert_allclose(found[0], [[80, 200, 120]], rtol=1e-5)


def test_occlusion_averages_overlaps_and_covers_the_edges(linear, images):
    """With a linear model a window's drop is the sum of its pixels' drops; 32 is no multiple of 7 or 3."""
    model, w = linear
    drop = ((images[:1] - 127.5) * w[..., 0]).sum(-1)[0].astype(np.float64)
    total, covers = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    for y in range(0, 28, 3):
        for x in range(0, 28, 3):
            window = np.s_[y : y + 7, x : x + 7]
            total[window] += drop[window].sum()
            covers[window] += 1
    assert covers.min() > 0
    found = xai.explain(model, images[:1], 0, "occlusion", patch_size=7, stride=3)
    np.testing.assert_allclose(found[0], total / covers, atol=2e-3)


def test_windows_reach_the_end():
    for length, patch, stride in [(32, 7, 3), (224, 15, 15), (5, 5, 5), (224, 224, 1), (33, 8, 8)]:
        starts = window_starts(length, patch, stride)
        assert starts[0] == 0
        assert starts[-1] < length <= starts[-1] + patch
        assert (np.diff(starts) == stride).all()


# Axioms and naive forms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["black", "white", "mean", "blur"])
@pytest.mark.parametrize("shape", ["flat softmax", "vit", "one-unit sigmoid"])
def test_integrated_gradients_are_complete(models, images, shape, baseline):
    from xaiutils.attribution.baselines import baseline_images

    model = models[shape]
    maps = xai.explain(model, images, 1, "integrated_gradients", n_steps=200, baseline=baseline)
    gap = xai.predict(model, images)[:, 1] - xai.predict(model, baseline_images(images, baseline))[:, 1]
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), gap, atol=0.02 * np.abs(gap).max() + 1e-3)


@pytest.mark.parametrize("rule", ["midpoint", "gauss_legendre", "trapezoid"])
def test_quadrature(rule):
    for n in (1, 2, 5, 20):
        points, weights = quadrature_rule(rule, n)
        assert weights.sum() == pytest.approx(1)
        assert (points * weights).sum() == pytest.approx(0.5)  # exact for straight lines
    points, weights = quadrature_rule(rule, 25)
    assert (points**3 * weights).sum() == pytest.approx(0.25, rel=2e-3)
    if rule == "gauss_legendre":
        points, weights = quadrature_rule(rule, 5)
        assert (points**9 * weights).sum() == pytest.approx(0.1)


def test_dummy_pixels_get_nothing(images):
    """A model that reads the left half says nothing about the right half."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Cropping2D(((0, 0), (0, 16)))(inputs)
    x = keras.layers.Dense(4, activation="tanh")(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(x)))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    for method in ("vanilla_gradients", "gradients_x_inputs", "smoothgrad", "integrated_gradients"):
        maps = quick(model, images, method)
        assert (maps[:, :, 16:] == 0).all()
        assert np.abs(maps[:, :, :16]).max() > 0
    hidden = xai.explain(model, images, method="occlusion", patch_size=8)
    np.testing.assert_allclose(hidden[:, :, 16:], 0, atol=1e-5)


def test_vanilla_gradients_are_finite_differences(images):
    model = make_flat("linear")
    w = xai.explain(model, images[:1], 2, "vanilla_gradients", reduction="sum")[0]
    for y, x in ((3, 4), (16, 16), (30, 9)):
        up, down = images[:1].copy(), images[:1].copy()
        up[0, y, x] += 0.5
        down[0, y, x] -= 0.5
        up, down = np.clip(up, 0, 255), np.clip(down, 0, 255)
        slope = (xai.predict(model, up)[0, 2] - xai.predict(model, down)[0, 2]) / (up - down)[0, y, x, 0]
        assert w[y, x] == pytest.approx(slope, abs=2e-4)


def test_smoothgrad_noise_is_a_fraction_of_each_images_range(images):
    """On S = sum x^2 the gradient 2 (x + n) shows the noise: its spread over samples is 2 sigma."""
    inputs = keras.Input((SIZE, SIZE, 3))
    square = keras.layers.Lambda(lambda x: tf.reduce_sum(x * x, axis=(1, 2)) / 1e4, output_shape=(3,))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, kernel_initializer="ones")(square))
    one = xai.explain(model, images, 0, "smoothgrad", n_samples=1, noise=0.2, reduction="sum")
    none = xai.explain(model, images, 0, "smoothgrad", n_samples=1, noise=0.0, reduction="sum")
    sigma = 0.2 * np.ptp(images, axis=(1, 2, 3))
    np.testing.assert_allclose((one - none).std(axis=(1, 2)), 2 * sigma * np.sqrt(3) / 1e4, rtol=0.06)
    np.testing.assert_allclose(none, xai.explain(model, images, 0, "vanilla_gradients", reduction="sum"), rtol=1e-5)


@pytest.fixture(scope="module")
def activations(models, images):
    network = Network.of(models["flat softmax"])
    ((A, g),) = activations_and_gradients(network, ["conv2"])(images, np.full(5, 1, np.int32))
    return A.numpy().astype(np.float64), g.numpy().astype(np.float64)


def test_grad_cam_plus_plus_is_equation_19(models, images, activations):
    A, g = activations
    expected = np.zeros(A.shape[:3])
    for n in range(len(A)):
        for k in range(A.shape[-1]):
            weight, total = 0.0, A[n, :, :, k].sum()
            for d in g[n, :, :, k].ravel():
                alpha = d**2 / (2 * d**2 + total * d**3) if d != 0 else 0.0
                weight += alpha * max(d, 0)
            expected[n] += weight * A[n, :, :, k]
    found = xai.explain(models["flat softmax"], images, 1, "grad_cam_plus_plus", layer="conv2")
    np.testing.assert_allclose(found, enlarge(np.maximum(expected, 0), SIZE, SIZE), rtol=1e-4, atol=1e-6)


def test_grad_cam_of_a_pooled_head_is_cam(models, images):
    """With global average pooling and a Dense layer the weights are the Dense kernel over the number of positions."""
    model = models["flat softmax"]
    A = keras.Model(model.inputs, model.get_layer("conv2").output)(images).numpy()
    kernel = model.get_layer("classes").kernel.numpy()[:, 1]
    expected = np.maximum((A * kernel / 64).sum(-1), 0)
    found = xai.explain(model, images, 1, "grad_cam")
    np.testing.assert_allclose(found, enlarge(expected, SIZE, SIZE), atol=1e-6)


@pytest.fixture(scope="module")
def scored(models, images):
    """A class whose Score-CAM maps are not empty: their ReLU would hide an error."""
    model = models["flat softmax"]
    means = [xai.explain(model, images, c, "score_cam").max(axis=(1, 2)).min() for c in range(3)]
    assert max(means) > 0
    return int(np.argmax(means))


@pytest.mark.parametrize("weighting", ["probability", "softmax"])
def test_score_cam_naive(models, images, activations, weighting, scored):
    model, A = models["flat softmax"], activations[0]
    expected = []
    for image, channels in zip(images, A, strict=True):
        black = np.zeros_like(image)
        weights = []
        for k in range(channels.shape[-1]):
            mask = enlarge(channels[None, :, :, k], SIZE, SIZE)[0]
            mask = (mask - mask.min()) / (mask.max() - mask.min()) if np.ptp(mask) > 0 else 0 * mask
            pair = np.stack([image * mask[..., None], black])
            scores = xai.predict(model, pair, probabilities=weighting == "probability")[:, scored]
            weights.append(scores[0] - scores[1])
        weights = np.array(weights)
        if weighting == "softmax":
            weights = np.exp(weights) / np.exp(weights).sum()
        weights[np.ptp(channels, axis=(0, 1)) == 0] = 0
        expected.append(np.maximum((channels * weights).sum(-1), 0))
    found = xai.explain(model, images, scored, "score_cam", weighting=weighting)
    if weighting == "softmax":  # the paper's Algorithm 1
        np.testing.assert_array_equal(found, xai.explain(model, images, scored, "score_cam"))
    assert np.max(expected) > 0
    np.testing.assert_allclose(found, enlarge(np.array(expected), SIZE, SIZE), rtol=1e-3, atol=1e-5)


def test_score_cam_keeps_each_images_own_channels(models, images, scored):
    """The channels kept for one image do not depend on the others (tf-keras-vis pools them over the batch)."""
    model = models["flat softmax"]
    together = xai.explain(model, images, scored, "score_cam", max_channels=2)
    alone = [xai.explain(model, images[i : i + 1], scored, "score_cam", max_channels=2) for i in range(5)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
    assert not np.allclose(together, xai.explain(model, images, scored, "score_cam"))


def test_maps_follow_the_model_not_the_image(images):
    """A sanity check (Adebayo et al. 2018): other weights, other maps."""
    one, other = make_flat(seed=1), make_flat(seed=5)
    for method in ANY_CNN:
        # XRAI ranks a handful of regions of the image; RISE on untrained models, whose probabilities hardly move, draws
        # how often its masks showed a pixel.
        if method in ("xrai", "rise"):
            continue
        a, b = (quick(m, images, method) for m in (one, other))
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] < 0.97, method
