"""torchvision's and timm's residual networks: names, shapes and outputs, files of theirs, and what explains them."""

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.attribution.cam.relevance_cam import activations_and_relevance
from xaiutils.backend import keras, tf
from xaiutils.file_limits import FileError
from xaiutils.models.grouped_convolution import GroupedConv2D, grouped_convolution, has_gradient
from xaiutils.models.resnets import ResNet, layout, load_resnet, resnet_backbone
from xaiutils.models.torch_checkpoint import read_state_dict

# Made by timm 1.0 and torchvision 0.29 with the weights of `drawn`: logits of small networks for `IMAGES`, and the
# digest of the names and shapes of the whole ones' weights. "float64": the first five logits of the whole one by timm
# in double precision, and the largest of all, of images scaled by float32's constants, as Keras holds them.
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "resnets.json").read_text())
SMALL = {
    "resnet50_torch": ResNet("", depths=(1, 2, 1, 2), planes=(16, 16, 32, 32)),
    "resnext50_32x4d": ResNet("", 8, 16, depths=(1, 2, 1, 2), planes=(16, 16, 32, 32)),
    "skresnext50_32x4d": ResNet("", 8, 16, True, (1, 2, 1, 2), (16, 16, 32, 32)),
}
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 64, 75, 3)).astype(np.float32)  # an odd side: padding counts


def drawn(name, shape):
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if len(shape) > 1:
        return x * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return 1 + 0.1 * np.abs(x) if name.endswith(("running_var", "weight")) else np.float32(0.1) * x


def small(name, units=5):
    inputs, x = resnet_backbone(SMALL[name], IMAGES.shape[1:3])
    x = keras.layers.Dense(units, name="logits")(keras.layers.GlobalAveragePooling2D(name="features")(x))
    return keras.Model(inputs, keras.layers.Softmax(name="probabilities")(x), name=name)


def state_of(model):
    state = {name: drawn(name, shape) for name, _, shape in layout(model)}
    return state | {"bn1.num_batches_tracked": np.array(7)}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The small networks with the weights of a safetensors file."""
    found = {}
    for name in SMALL:
        model, path = small(name), tmp_path_factory.mktemp("weights") / f"{name}.safetensors"
        save_file({key: np.ascontiguousarray(x) for key, x in state_of(model).items()}, path)
        load_resnet(model, path, with_head=True)
        found[name] = model
    return found


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_theirs(loaded, name):
    found = xai.predict(loaded[name], IMAGES)
    np.testing.assert_allclose(found, GOLDEN[name]["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_names_and_shapes_of_all_weights(name):
    with keras.StatelessScope(initialize_variables=False):
        model = xai.build_model(name, head="imagenet")
    rows = sorted(f"{key} {shape}" for key, _, shape in layout(model))
    assert hashlib.sha256("\n".join(rows).encode()).hexdigest() == GOLDEN[name]["names"]
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == GOLDEN[name]["weights"]


@pytest.mark.slow
def test_the_whole_network_is_theirs_in_float64():
    """All 27.5 million weights. In float32 the gates of 16 blocks carry rounding on: with these weights timm's logits
    are 3.7e-3 of the largest one away from its own in float64 and ours 4.1e-3, so that no smaller tolerance is fair."""
    name, before = "skresnext50_32x4d", (keras.config.floatx(), keras.config.dtype_policy())
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        model = xai.build_model(name, 1000, IMAGES.shape[1:3])
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])
    variables = {w.path: w for w in model.weights}
    for key, path, shape in layout(model):
        x = drawn(key, shape)
        variables[path].assign(x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T)
    logits = keras.Model(model.inputs, model.get_layer("logits").output)
    found = logits({"images": IMAGES.astype(np.float64)}).numpy()
    theirs = GOLDEN[name]["float64"]
    assert np.abs(found).max() == pytest.approx(theirs["largest"], rel=1e-9)
    np.testing.assert_allclose(found[:, :5], theirs["logits"], rtol=0, atol=1e-9 * theirs["largest"])


def test_each_layer_starts_from_numbers_of_its_own_the_same_in_every_process():
    """The values are of other processes; one initializer for all layers, made at import, gave others in each."""
    kernels = {
        w.path: w.numpy() for w in xai.build_model("skresnext_mini", 2, 32, seed=0).weights if w.name == "kernel"
    }
    assert len({x.tobytes() for x in kernels.values()}) == len(kernels)
    first, last = (kernels[f"{name}/kernel"][0, 0, 0, :3] for name in ("conv1", "layer4.0.conv3.conv"))
    np.testing.assert_allclose(first, [0.05417135, -0.0210795, 0.01858567], atol=1e-6)
    np.testing.assert_allclose(last, [-0.02177914, -0.09051918, -0.07105389], atol=1e-6)
    again = {w.path: w.numpy() for w in xai.build_model("skresnext_mini", 2, 32, seed=0).weights}
    assert all(np.array_equal(again[path], x) for path, x in kernels.items())


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_grouped_convolution_one_output_at_a_time(own, stride, dilation):
    """Whole where that has a gradient on this machine, and group by group; forward and backward."""
    if own and not has_gradient():
        pytest.skip("TensorFlow's own has no gradient here")
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 7, 8, 4)), rng.normal(size=(3, 3, 2, 6))
    expected = np.zeros((1, (6 - 2 * dilation) // stride + 1, (7 - 2 * dilation) // stride + 1, 6))
    at_x, at_kernel = np.zeros_like(x), np.zeros_like(kernel)
    for r, c, out in np.ndindex(expected.shape[1:]):
        for i, j, k in np.ndindex(3, 3, 2):
            at = (0, r * stride + i * dilation, c * stride + j * dilation, 2 * (out // 3) + k)
            expected[0, r, c, out] += x[at] * kernel[i, j, k, out]
            at_x[at] += kernel[i, j, k, out]
            at_kernel[i, j, k, out] += x[at]
    x, kernel = (tf.constant(v, tf.float32) for v in (x, kernel))
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = grouped_convolution(x, kernel, (stride, stride), "valid", (dilation, dilation), own)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for found, wanted in zip(tape.gradient(y, [x, kernel]), (at_x, at_kernel), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_grouped_layer_is_keras_own():
    inputs = keras.Input((6, 6, 4))
    ours = keras.Model(inputs, GroupedConv2D(6, 3, 2, groups=2, padding="same", name="conv")(inputs))
    theirs = keras.Model(inputs, keras.layers.Conv2D(6, 3, 2, groups=2, padding="same")(inputs))
    theirs.set_weights(ours.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)
    kept = GroupedConv2D(6, 3, (2, 1), 2, groups=2)
    again = keras.layers.deserialize(keras.layers.serialize(kept))
    assert again.get_config() == kept.get_config()
    assert again(x).shape == kept(x).shape == (2, 1, 2, 6)
    with pytest.raises(ValueError, match="strides beside a dilation need 'valid'"):
        GroupedConv2D(6, 3, 2, 2, groups=2, padding="same")
    with pytest.raises(ValueError, match="channels_last"):
        GroupedConv2D(6, 3, groups=2, data_format="channels_first")


def test_weights_that_do_not_fit(loaded, tmp_path):
    model, path = small("resnext50_32x4d"), tmp_path / "a.safetensors"
    state = state_of(model)
    for changed, words in (
        ({k: v for k, v in state.items() if k != "layer1.0.conv2.weight"}, "missing: layer1.0.conv2.weight"),
        (
            state | {"fc.weight": np.zeros((9, 128), "f")},
            r"of another shape: fc.weight \(9, 128\) in place of",
        ),
        (state | {"bn1.bias": state["bn1.bias"] * np.nan}, "not finite numbers: bn1.bias"),
        (state_of(loaded["skresnext50_32x4d"]), "missing: layer1.0.bn1.bias.* and .* more; unexpected: .*timm"),
    ):
        save_file({k: np.ascontiguousarray(v) for k, v in changed.items()}, path)
        with pytest.raises(ValueError, match=words):
            load_resnet(model, path, with_head=True)
    save_file(state | {"fc.weight": np.zeros((9, 128), "f")}, path)
    before = model.get_layer("logits").get_weights()[0]
    load_resnet(model, path)  # the backbone alone, for the classes are others
    np.testing.assert_array_equal(model.get_layer("logits").get_weights()[0], before)
    save_file(state, path)
    load_resnet(model, path)  # as many classes: a network that was trained on them
    np.testing.assert_array_equal(model.get_layer("logits").get_weights()[0], state["fc.weight"].T)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FileError, match="a.safetensors: it is not a readable safetensors file"):
        read_state_dict(path)
    words = r"of its formats \(.weights.h5, .keras, .pth, .safetensors\)"
    with pytest.raises(ValueError, match=words), keras.StatelessScope(initialize_variables=False):
        xai.build_model("resnet50_torch", image_size=32, weights=Path(__file__))


def test_relevance_goes_through_groups_and_selective_kernels(loaded):
    """From 1 - 4/5 at the logits, all of it through gates that are constants. DeepLIFT sums to the logits' change."""
    model, stages = loaded["skresnext50_32x4d"], ["layer1", "layer2", "layer3", "layer4"]
    network, target = Network.of(model), np.array([1], np.int32)
    sums = {}
    for gates in ("constant", "relevance"):
        found = activations_and_relevance(network, stages, gates)(IMAGES[:1], target)
        sums[gates] = np.array([tf.reduce_sum(R) for _, R in found])
    np.testing.assert_allclose(sums["constant"], 0.2, rtol=1e-3)
    assert sums["relevance"][0] < 0.9 * sums["relevance"][3]  # the softmax of the gates keeps none
    maps = xai.explain(model, IMAGES[:1], 1, "deep_lift")
    change = xai.predict(model, IMAGES[:1])[0, 1] - xai.predict(model, 0 * IMAGES[:1])[0, 1]
    np.testing.assert_allclose(maps.sum(), change, rtol=1e-3)
    cam, again = (xai.explain(model, IMAGES[:1], 1, "xrelevance_cam", layer="layer2", gates=g) for g in sums)
    assert np.abs(cam - again).max() > 0.01 * np.abs(cam).max()


def test_stages_have_pytorchs_names_in_keras_resnets_too():
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for name in ("conv2_block1_out", "conv2_block2_out", "conv3_block1_out"):
        x = keras.layers.Conv2D(2, 3, name=name)(x)
    network = Network.of(keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))))
    assert [network.cam_layer(f"layer{n}") for n in (1, 2)] == ["conv2_block2_out", "conv3_block1_out"]
    with pytest.raises(ModelError, match="layer 'layer3' is not in the model"):
        network.cam_layer("layer3")
