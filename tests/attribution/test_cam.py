"""Class activation maps: identities, hand-made networks, naive re-implementations, real weights, tf-keras-vis."""

import numpy as np
import pytest
from conftest import SIZE, make_flat, make_vit

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.attribution.cam import layer_aggregate, score_cam
from xaiutils.attribution.cam.ablation_cam import ablation
from xaiutils.attribution.cam.gradient_cams import xgrad_cam_weights
from xaiutils.attribution.cam.weighted_sum import (
    cam_of_weights,
    combination,
    maps_of_one_pass,
    relu_option,
    weighted_sum,
)
from xaiutils.attribution.libraries.tf_keras_vis import cam_of_library
from xaiutils.backend import keras, tf
from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.studies.cam_axioms import cam_axioms
from xaiutils.graph.passes import activations_and_gradients, enlarge
from xaiutils.registry import Parameter

ONE_PASS = ("grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hirescam", "layer_cam")


@pytest.fixture(scope="module")
def lite0(kit):
    """EfficientNet-Lite0 with ImageNet's weights and head, at 96 pixels, and two photographs."""
    with np.load(kit / "weights" / "efficientnet_lite0_reference.npz") as file:
        photos = file["images"][:2, ::2, ::2].astype(np.float32)[:, 8:104, 8:104]
    return xai.build_model("efficientnet_lite0", image_size=96, weights="imagenet", head="imagenet"), photos


def A_and_g(model, images, target, layer=""):
    network = Network.of(model)
    run = activations_and_gradients(network, [network.cam_layer(layer)])
    ((A, g),) = run(images, np.full(len(images), target, np.int32))
    return A.numpy().astype(np.float64), g.numpy().astype(np.float64)


# CAM, and the identity of four methods under a pooled linear head -----------------------------------------------------


def check_identity(model, images, target, positions, rtol=2e-4):
    exact = xai.explain(model, images, target, "cam")
    others = {
        "grad_cam": xai.explain(model, images, target, "grad_cam", relu=False),
        "hirescam": xai.explain(model, images, target, "hirescam"),
        "xgrad_cam": xai.explain(model, images, target, "xgrad_cam", relu=False, epsilon=0.0),
    }
    for name, maps in others.items():
        np.testing.assert_allclose(positions * maps, exact, atol=rtol * np.abs(exact).max(), err_msg=name)


@pytest.mark.parametrize("shape", ["flat softmax", "fused softmax", "one-unit sigmoid", "nested", "sequential"])
def test_four_methods_are_one_under_a_pooled_linear_head(models, images, shape):
    for target in (0, 1):
        check_identity(models[shape], images, target, 64)


def test_four_methods_are_one_on_real_weights(lite0):
    model, photos = lite0
    check_identity(model, photos, int(xai.predict(model, photos)[0].argmax()), 9)


def test_mean_of_cam_is_the_logit_less_its_bias():
    """Enlarging by a whole number, here 8 x 8 to 32 x 32, keeps the mean."""
    model = make_flat("linear")
    dense = model.get_layer("classes")
    dense.bias.assign([1.0, 2.0, 3.0])
    image = np.random.default_rng(0).uniform(0, 255, (3, SIZE, SIZE, 3)).astype(np.float32)
    for target in range(3):
        maps = xai.explain(model, image, target, "cam")
        np.testing.assert_allclose(maps.mean(axis=(1, 2)), xai.predict(model, image)[:, target] - target - 1, atol=1e-5)


def test_cam_refuses_other_heads(models, images):
    with pytest.raises(ModelError, match="use grad_cam"):
        xai.explain(models["vit"], images, 0, "cam")
    with pytest.raises(ModelError, match="only of 'conv2'"):
        xai.explain(models["flat softmax"], images, 0, "cam", layer="conv1")
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3)(inputs)
    most = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalMaxPooling2D()(x)))
    with pytest.raises(ModelError, match="global average pooling"):
        xai.explain(most, images, 0, "cam")
    hidden = keras.layers.Dense(5, activation="relu")(keras.layers.GlobalAveragePooling2D()(x))
    with pytest.raises(ModelError, match="global average pooling"):
        xai.explain(keras.Model(inputs, keras.layers.Dense(2)(hidden)), images, 0, "cam")


def test_cam_of_a_mean_by_keras_ops(images):
    """As by a layer of pooling, if the mean is over the places; a mean over columns and channels is none."""
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, padding="same", name="conv")(image)
    model = keras.Model(image, keras.layers.Dense(3)(keras.ops.mean(x, axis=(1, 2))))
    hires = xai.explain(model, images, 1, "hirescam")
    np.testing.assert_allclose(xai.explain(model, images, 1, "cam"), 64 * hires, rtol=1e-4, atol=1e-4)
    rows = keras.Model(image, keras.layers.Dense(3)(keras.ops.mean(x, axis=(2, 3))))
    with pytest.raises(ModelError, match="global average pooling"):
        xai.explain(rows, images, 1, "cam")
    dot = keras.Model(image, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x[:, :1, :1])))
    with pytest.raises(ModelError, match="1 x 1, too small"):
        xai.explain(dot, images, 1, "cam")


def test_cam_of_pooled_tokens(images):
    """A transformer whose patch tokens are averaged: the map's mean is the logit less its bias."""
    body = make_vit()
    patches = keras.layers.Cropping1D((1, 0), name="patch_tokens")(body.get_layer("norm").output)
    x = keras.layers.Dense(3, bias_initializer="ones")(keras.layers.GlobalAveragePooling1D()(patches))
    model = keras.Model(body.inputs, x)
    maps = xai.explain(model, images, 2, "cam")
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), xai.predict(model, images)[:, 2] - 1, atol=1e-5)
    hires = xai.explain(model, images, 2, "hirescam", layer="patch_tokens")
    np.testing.assert_allclose(16 * hires, maps, atol=1e-5)


# Formulas -------------------------------------------------------------------------------------------------------------


def test_xgrad_cam_conserves_what_hirescam_shows(models, images, lite0):
    """sum_ij M_ij = sum_k sum_ij A g, also where sums of A are negative (the LayerNorm of a transformer)."""
    cases = [(models["flat softmax"], images, "conv1"), (models["vit"], images, ""), (*lite0, "")]
    for model, x, layer in cases:
        A, g = A_and_g(model, x, 1, layer)
        A, g = (tf.constant(t, tf.float32) for t in (A, g))
        for epsilon in (0.0, 1e-6):
            found = weighted_sum(A, xgrad_cam_weights(A, g, epsilon)).numpy()
            product = (A * g).numpy()
            expected = product.sum(axis=(1, 2, 3))
            scale = np.abs(product.sum(axis=(1, 2))).sum(axis=-1)
            assert np.abs(found.sum(axis=(1, 2)) - expected).max() < 1e-3 * scale.max()


def test_xgrad_cams_stabiliser_takes_the_sign_of_the_sum():
    A = tf.constant([[[[1.0, -1.0, 0.0]]]])
    weights = xgrad_cam_weights(A, tf.ones_like(A), epsilon=0.5)
    np.testing.assert_allclose(weights[0, 0, 0], [1 / 1.5, -1 / -1.5, 0])  # without the sign -1 / -0.5


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_formulas_naive(models, images, layer):
    model = models["flat softmax"]
    A, g = A_and_g(model, images, 1, layer)
    n, rows, columns, channels = A.shape
    expected = {name: np.zeros((n, rows, columns)) for name in ("grad_cam", "xgrad_cam", "hirescam", "layer_cam")}
    for i in range(n):
        for k in range(channels):
            a, d = A[i, :, :, k], g[i, :, :, k]
            expected["grad_cam"][i] += d.mean() * a
            expected["xgrad_cam"][i] += (a * d).sum() / (a.sum() + (1e-6 if a.sum() >= 0 else -1e-6)) * a
            expected["hirescam"][i] += a * d
            expected["layer_cam"][i] += np.maximum(d, 0) * a
    for name, maps in expected.items():
        found = xai.explain(model, images, 1, name, layer=layer)
        maps = maps if name == "hirescam" else np.maximum(maps, 0)
        np.testing.assert_allclose(found, enlarge(maps, SIZE, SIZE), atol=1e-5 * np.abs(maps).max(), err_msg=name)


def test_options_reach_the_formula(models, images):
    model = models["flat softmax"]
    signed = xai.explain(model, images, 1, "hirescam")
    assert signed.min() < 0
    assert xai.explain(model, images, 1, "hirescam", relu=True).min() == 0
    assert xai.explain(model, images, 1, "grad_cam", relu=False).min() < 0
    one, other = (xai.explain(model, images, 1, "xgrad_cam", epsilon=e) for e in (0.0, 1.0))
    assert not np.allclose(one, other)


def test_one_pass_serves_all(models, images):
    network = Network.of(models["nested"])
    targets = np.zeros(len(images), np.int32)
    combines = [combination(xai.METHODS[name], {}) for name in ONE_PASS]
    layers = network.cam_layers()
    found = maps_of_one_pass(network, images, targets, 2, layers, activations_and_gradients, combines)
    for name, maps in zip(ONE_PASS, found, strict=True):
        np.testing.assert_allclose(maps, xai.explain(models["nested"], images, 0, name), atol=1e-6)


def test_a_new_map_is_its_weights_and_a_line(models, images):
    """A function of (A, g), declared: it is explained, shares the pass of the others, and has its axioms measured."""

    def weights(A, g, power=1.0):
        return tf.reduce_max(g, axis=(1, 2), keepdims=True) ** power

    toy = cam_of_weights("toy_cam", "Toy", weights, "none", (Parameter("power", float, 1.0, ""), relu_option(False)))
    assert toy.is_signed({"relu": False})
    assert not toy.is_signed({"relu": True})
    model = models["flat softmax"]
    A, g = A_and_g(model, images, 1, "conv1")
    expected = enlarge((g.max(axis=(1, 2), keepdims=True) * A).sum(-1), SIZE, SIZE)
    xai.METHODS.add(toy)
    try:
        found = xai.explain(model, images, 1, "toy_cam", layer="conv1")
        given = {"toy_cam": {"layer": "conv1"}, "cubed": {"method": "toy_cam", "layer": "conv1", "power": 3.0}}
        several = xai.explain_all(model, images, 1, ["toy_cam", "cubed", "grad_cam"], parameters=given)
        ds = ImageDataset(images.astype(np.uint8), [0] * 5, ("a", "b", "c"), list("vwxyz"))
        assert np.isfinite(cam_axioms(model, ds, ["toy_cam"], ["conv1"], 1)["value"]).all()
    finally:
        xai.METHODS.remove("toy_cam")
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(several["toy_cam"], found)
    assert not np.allclose(several["cubed"], found)


@pytest.mark.parametrize("method", [*ONE_PASS, "score_cam", "ablation_cam"])
def test_a_class_of_two_flips_the_gradient(models, images, method):
    """What the signed maps say for one class they deny for the other."""
    if method in ("grad_cam", "xgrad_cam", "hirescam"):
        zero, one = (xai.explain(models["one-unit sigmoid"], images, c, method, relu=False) for c in (0, 1))
        np.testing.assert_allclose(zero, -one, atol=1e-6 * np.abs(one).max())
    else:
        zero, one = (xai.explain(models["one-unit sigmoid"], images, c, method) for c in (0, 1))
        assert not np.allclose(zero, one)


# Score-CAM and Ablation-CAM -------------------------------------------------------------------------------------------


def test_score_cam_as_the_authors_wrote_it(models, images):
    model = models["flat softmax"]
    A, _ = A_and_g(model, images, 1)
    expected = np.zeros((len(images), SIZE, SIZE), np.float32)
    for i, image in enumerate(images):
        for k in range(A.shape[-1]):
            large = enlarge(A[i : i + 1, :, :, k], SIZE, SIZE)[0]
            if np.ptp(large) > 0:
                masked = image * ((large - large.min()) / np.ptp(large))[..., None]
                expected[i] += xai.predict(model, masked[None], probabilities=True)[0, 1] * large
    found = xai.explain(model, images, 1, "score_cam", weighting="authors")
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-3, atol=1e-4 * expected.max())
    faster = xai.explain(model, images, 1, "faster_score_cam", max_channels=A.shape[-1])  # its source's weights
    np.testing.assert_allclose(faster, found, rtol=1e-4, atol=1e-5 * expected.max())


def test_score_cam_scores_each_channel_once(models, images, monkeypatch):
    scored = []
    original = score_cam.masked_scores

    def counting(network, images, fills, targets, members, *rest, **options):
        scored.append(len(members))
        return original(network, images, fills, targets, members, *rest, **options)

    monkeypatch.setattr(score_cam, "masked_scores", counting)
    xai.explain(models["flat softmax"], images, 1, "score_cam", batch_size=2)
    assert scored == [12, 12, 6]  # 5 images of 6 channels, of 2 images at a time
    scored.clear()
    xai.explain(models["flat softmax"], images, 1, "faster_score_cam", max_channels=2)
    assert sum(scored) == 10


def test_faster_score_cam_is_score_cam_with_fewer_channels(models, images):
    model = models["flat softmax"]
    target = int(np.argmax([xai.explain(model, images, c, "score_cam").max() for c in range(3)]))
    full = xai.explain(model, images, target, "score_cam")
    assert full.max() > 0
    np.testing.assert_array_equal(
        xai.explain(model, images, target, "faster_score_cam", weighting="softmax"), full
    )  # 10 of 6 channels
    few = xai.explain(model, images, target, "faster_score_cam", weighting="softmax", max_channels=3)
    np.testing.assert_array_equal(few, xai.explain(model, images, target, "score_cam", max_channels=3))
    assert not np.allclose(few, full)


@pytest.mark.parametrize(("shape", "layer"), [("flat softmax", "conv1"), ("one-unit sigmoid", ""), ("nested", "conv1")])
def test_ablation_cam_naive(images, models, shape, layer):
    """Each channel set to 0 in turn, in the whole model and one image at a time."""
    model = models[shape]
    network = Network.of(model)
    path = network.cam_layer(layer)
    A = network.forward(images, [path])[1][0].numpy()
    S = xai.predict(model, images)[:, 1]
    weights = np.zeros((len(images), A.shape[-1]))
    for i in range(len(images)):
        for k in range(A.shape[-1]):
            ablated = A[i : i + 1].copy()
            ablated[..., k] = 0
            weights[i, k] = S[i] - network.from_layer(path, tf.constant(ablated)).numpy()[0, 1]
    for relative in (False, True):
        w = weights / S[:, None] if relative else weights
        expected = enlarge(np.maximum(np.einsum("nk,nrck->nrc", w, A), 0), SIZE, SIZE)
        found = xai.explain(model, images, 1, "ablation_cam", layer=layer, relative=relative, batch_size=4)
        np.testing.assert_allclose(found, expected, atol=1e-4 * max(expected.max(), 1e-3))


def test_ablation_cam_of_a_transformer(models, images):
    """The residual stream leads around the default layer; a channel is set to 0 in the patch tokens alone."""
    network = Network.of(models["vit"])
    path = network.cam_layer()
    tokens = network.forward(images, [path])[1][0].numpy()
    S = xai.predict(models["vit"], images)[:, 2]
    weights = np.zeros((len(images), tokens.shape[-1]))
    for k in range(tokens.shape[-1]):
        keep = np.ones(tokens.shape[1:], np.float32)
        keep[1:, k] = 0

        def rule(step, inputs, compute, keep=keep):
            return [compute(inputs)[0] * keep] if step.path == path else compute(inputs)

        weights[:, k] = S - network.forward(tf.constant(images), [], rule=rule)[0].numpy()[:, 2]
    A = tokens[:, 1:].reshape(len(images), 4, 4, -1)
    expected = enlarge(np.maximum(np.einsum("nk,nrck->nrc", weights, A), 0), SIZE, SIZE)
    found = xai.explain(models["vit"], images, 2, "ablation_cam")
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_a_dead_channel_weighs_nothing(images):
    """A channel that is 0 everywhere, and one that the head does not read."""
    model = make_flat("linear")
    dense, conv = model.get_layer("classes"), model.get_layer("conv2")
    kernel, bias = conv.get_weights()
    kernel[..., 0], bias[0] = 0, -1
    conv.set_weights([kernel, bias])
    weights = dense.get_weights()
    weights[0][1] = 0
    dense.set_weights(weights)
    network = Network.of(model)
    start, ablate = ablation(network, "conv2")
    _, A, *state = start(images, tf.constant(np.ones(len(images), np.int32)))
    each = [[tensor[i : i + 1] for tensor in state] for i in range(len(images))]
    change = np.stack([ablate(np.int32(1), np.arange(6, dtype=np.int32), *one) for one in each], axis=1)
    np.testing.assert_array_equal(A[..., 0], 0)
    assert np.abs(A[..., 1]).max() > 0
    np.testing.assert_array_equal(change[:2], 0)
    np.testing.assert_allclose(
        change[2:].T, (A.numpy().mean(axis=(1, 2)) * dense.kernel.numpy()[:, 1])[:, 2:], atol=1e-5
    )


# Guided Grad-CAM and aggregates ---------------------------------------------------------------------------------------


def test_guided_grad_cam_is_the_product(models, images):
    model = models["flat softmax"]
    for reduction in ("max_abs", "sum"):
        fine = xai.explain(model, images, 1, "guided_backprop", reduction=reduction)
        coarse = xai.explain(model, images, 1, "grad_cam", layer="norm")
        found = xai.explain(model, images, 1, "guided_grad_cam", layer="norm", reduction=reduction)
        np.testing.assert_allclose(found, fine * coarse, atol=1e-6 * np.abs(found).max())
        assert np.abs(found).max() > 0
    other = xai.explain(model, images, 1, "guided_grad_cam", layer="norm", reduction="sum", fine="deconvolution")
    fine = xai.explain(model, images, 1, "deconvolution", reduction="sum")
    np.testing.assert_allclose(other, fine * coarse, atol=1e-6 * np.abs(other).max())
    assert not np.allclose(other, found)


def test_guided_grad_cam_refuses_gelu_by_default(models, images):
    with pytest.raises(ModelError, match="activations"):
        xai.explain(models["vit"], images, 0, "guided_grad_cam")
    assert xai.explain(models["vit"], images, 0, "guided_grad_cam", activations="all").max() > 0


def min_max(maps):
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return (maps - low) / (high - low)


SCALINGS = {"min_max": min_max, "max_abs": lambda m: m / np.abs(m).max(axis=(1, 2), keepdims=True), "none": lambda m: m}


@pytest.mark.parametrize("base", ["hirescam", "ablation_cam", "xrelevance_cam"])
def test_layer_aggregate_is_the_mean_then_min_max(models, images, base):
    model = models["nested"]
    layers = ["norm", "conv2"]
    maps = [xai.explain(model, images, 1, base, layer=layer) for layer in layers]
    for name, scale in SCALINGS.items():
        expected = min_max((scale(maps[0]) + scale(maps[1])) / 2)
        found = xai.explain(model, images, 1, "layer_aggregate", base=base, layers=layers, scale_layers=name)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        if name == "min_max":
            default = xai.explain(model, images, 1, "layer_aggregate", base=base, layers=layers)
            np.testing.assert_array_equal(default, found)


def test_no_layer_rules_an_aggregate(images):
    """The last layer's activations made 1000 times as large, and the head's weights as much smaller: the same function
    and the same map, where raw maps leave nothing of the other layer."""
    model, options = make_flat("linear"), {"base": "relevance_cam", "layers": ["conv1", "conv2"]}
    before = xai.explain(model, images, 1, "layer_aggregate", **options)
    kernel, bias = model.get_layer("classes").get_weights()
    for weight in model.get_layer("conv2").weights:
        weight.assign(weight * 1000)
    model.get_layer("classes").set_weights([kernel / 1000, bias])
    np.testing.assert_allclose(xai.explain(model, images, 1, "layer_aggregate", **options), before, atol=1e-4)
    raw = xai.explain(model, images, 1, "layer_aggregate", scale_layers="none", **options)
    last = min_max(xai.explain(model, images, 1, "relevance_cam", layer="conv2"))
    np.testing.assert_allclose(raw, last, atol=0.02)
    assert np.abs(before - last).max() > 0.1


def test_layer_aggregate_by_maximum(models, images):
    model = models["flat softmax"]
    maps = [xai.explain(model, images, 1, "layer_cam", layer=layer) for layer in ("norm", "conv2")]
    tanh = [np.tanh(2 * m / m.max(axis=(1, 2), keepdims=True)) for m in maps]
    found = xai.explain(model, images, 1, "layer_aggregate", base="layer_cam", fusion="max", layers=["norm", "conv2"])
    np.testing.assert_allclose(found, np.maximum(*tanh), atol=1e-5)
    with pytest.raises(ValueError, match="scale_layers='none' is for fusion='mean'"):
        xai.explain(model, images, 1, "layer_aggregate", fusion="max", scale_layers="none")


def test_layers_of_an_aggregate(models, images, lite0):
    assert layer_aggregate.default_layers(Network.of(models["nested"])) == ["backbone/norm", "backbone/conv2"]
    assert layer_aggregate.default_layers(Network.of(models["vit"])) == ["block_00_norm1", "block_01_norm1"]
    network = Network.of(lite0[0])
    assert [network.grid(path)[0] for path in layer_aggregate.default_layers(network)] == [48, 24, 12, 6, 3]
    with pytest.raises(ModelError, match="'conv9' is not in the model"):
        xai.explain(models["nested"], images, 1, "layer_aggregate", layers=["conv9"])
    with pytest.raises(TypeError, match="no parameter 'layer'"):
        xai.explain(models["nested"], images, 1, "layer_aggregate", base="grad_cam", base_parameters={"layer": "conv1"})
    (base,) = (p for p in xai.METHODS["layer_aggregate"].parameters if p.name == "base")
    for name in base.choices:
        assert "layer" in [p.name for p in xai.METHODS[name].parameters]


def test_options_of_the_base_reach_it(models, images):
    kwargs = {"base": "grad_cam", "layers": ["conv2"]}
    plain = xai.explain(models["nested"], images, 1, "layer_aggregate", **kwargs)
    signed = xai.explain(models["nested"], images, 1, "layer_aggregate", base_parameters={"relu": False}, **kwargs)
    assert not np.allclose(plain, signed)


# tf-keras-vis ---------------------------------------------------------------------------------------------------------


def test_layer_cam_agrees_with_tf_keras_vis(models, images):
    from tf_keras_vis.layercam import Layercam

    model, targets = models["flat softmax"], np.ones(len(images), np.int32)
    theirs = cam_of_library(Layercam, Network.of(model), images, targets, "conv1")
    ours = xai.explain(model, images, 1, "layer_cam", layer="conv1")
    np.testing.assert_allclose(theirs, ours, atol=1e-5 * ours.max())


def test_faster_score_cam_agrees_with_tf_keras_vis_on_one_image(models, images):
    """Its weight is the probability without a baseline, on masks that SciPy's zoom enlarged: close to "authors"."""
    model = models["flat softmax"]
    theirs = xai.explain(model, images[:1], 1, "score_cam", library="tf-keras-vis", max_channels=3)
    ours = xai.explain(model, images[:1], 1, "faster_score_cam", max_channels=3, weighting="authors")
    assert ours.max() > 0
    assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.99
