"""The head "mldam": naive forms of both attentions, the study's own outputs, its numbers of weights, and files."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from small_models import mldam_network

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.graph.network import Network
from xaiutils.models.mldam import PlaceProduct, RepeatChannels, mldam, mldam_taps

SIZES = {"shallow": (8, 12, 2), "middle": (4, 6, 4), "last": (2, 3, 8)}
NOISE = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype(np.float32)


def drawn(name, shape):
    return np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)


MAPS = [np.maximum(0.5 * drawn(name, (2, *shape)), 0) for name, shape in SIZES.items()]


def head(**options):
    inputs = [keras.Input(shape, name=name) for name, shape in SIZES.items()]
    return keras.Model(inputs, keras.layers.Dense(1, name="logits")(mldam(*inputs, **options)))


def outputs(model, *names):
    found = keras.Model(model.inputs, [model.get_layer(name).output for name in names])
    return [y.numpy() for y in keras.tree.flatten(found([x.astype(np.float32) for x in MAPS]))]


def averaged(x, channels=8):
    """A map's places as rows, averaged to 2 x 3 of them, its channels repeated to 8."""
    n, rows, columns, own = x.shape
    x = x.reshape(n, 2, rows // 2, 3, columns // 3, own).mean(axis=(2, 4)).reshape(n, 6, own)
    return np.concatenate([x] * (channels // own), axis=-1)


@pytest.mark.parametrize("variant", ["published", "study"])
def test_both_attentions_by_loops(variant):
    q, k, v = (averaged(x) for x in MAPS)
    position, channel = v.copy(), v.copy()
    for n in range(2):
        scores = np.exp(q[n] @ k[n].T)
        for i in range(6):
            for j in range(6):
                if variant == "published":
                    position[n, i] += scores[i, j] / scores[i].sum() * v[n, j]
                else:  # one softmax over all, and the transpose
                    position[n, i] += scores[j, i] / scores.sum() * v[n, j]
        gram = np.zeros((8, 8))
        for place in v[n]:
            gram += np.outer(place, place)
        channel[n] += v[n] @ gram
    model = head(variant=variant)
    a, found, other = outputs(model, "mldam_attention", "mldam_position", "mldam_channel")
    np.testing.assert_allclose(a.sum(axis=(1, 2)), 6 if variant == "published" else 1, rtol=1e-5)
    np.testing.assert_allclose(found, position, rtol=1e-5)
    np.testing.assert_allclose(other, channel, rtol=1e-5)
    widths = [model.get_layer(f"mldam_dense_{i}").units for i in (1, 2)]
    assert widths == ([512, 512] if variant == "published" else [8, 4])
    if variant == "published":
        parts = [np.maximum(x, 0) for x in (position, channel)]
        normed = [(x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) for x in parts]
        features = outputs(model, "features")[0]
        np.testing.assert_allclose(features, np.mean(normed, axis=0).reshape(2, -1), atol=1e-4)


def test_the_study_is_the_authors():
    """Made by the layers and the forward pass of the study's PyTorch module (MultiLevelDAM of
    github.com/TiagoFilipeSousaGoncalves/attention-mechanisms-healthcare, commit 04f50db, branch resnet50) in float64,
    at C = 8 and 2 x 3 places, with the maps and weights below; in training with its dropout off."""
    golden = np.load(Path(__file__).parents[1] / "golden" / "mldam_study.npz")
    model = head(variant="study")
    for number, branch in enumerate(("position", "channel"), 1):
        norm = [drawn(f"batch_norm{number}.{name}", 8) * 0.5 for name in ("weight", "bias", "running_mean")]
        variance = 1 + np.abs(0.5 * drawn(f"batch_norm{number}.running_var", 8))
        model.get_layer(f"mldam_{branch}_norm").set_weights([1 + np.abs(norm[0]), *norm[1:], variance])
    shapes = {"mldam_dense_1": (8, 48), "mldam_dense_2": (4, 8), "logits": (1, 4)}
    for number, (name, shape) in enumerate(shapes.items(), 1):
        kernel, bias = 0.5 * drawn(f"fc{number}.weight", shape), 0.5 * drawn(f"fc{number}.bias", shape[:1])
        if number == 1:  # PyTorch flattens channels first
            kernel = kernel.reshape(8, 8, 6).transpose(0, 2, 1).reshape(8, 48)
        model.get_layer(name).set_weights([kernel.T, bias])
    for name in ("position", "channel"):
        np.testing.assert_allclose(
            outputs(model, f"mldam_{name}")[0], golden[name].reshape(2, 6, 8), rtol=1e-5, atol=1e-6
        )
    maps = [x.astype(np.float32) for x in MAPS]
    np.testing.assert_allclose(keras.ops.sigmoid(model(maps)), golden["probability"], rtol=1e-5)
    for number in (1, 2):
        model.get_layer(f"mldam_dropout_{number}").rate = 0.0
    trained = keras.ops.sigmoid(model(maps, training=True))
    np.testing.assert_allclose(trained, golden["probability_in_training"], rtol=1e-4)


def test_queries_of_zero_attend_to_all_alike_and_places_may_be_permuted():
    maps = [x.astype(np.float32) for x in MAPS]
    for variant, each in (("published", 1 / 6), ("study", 1 / 36)):
        model = head(variant=variant)
        read = keras.Model(model.inputs, [model.get_layer(f"mldam_{n}").output for n in ("attention", "position")])
        np.testing.assert_allclose(read([0 * maps[0], *maps[1:]])[0], each, rtol=1e-5)
        turned, back = read([x[:, ::-1] for x in maps])[1], read(maps)[1].numpy()
        np.testing.assert_allclose(turned, back.reshape(2, 2, 3, 8)[:, ::-1].reshape(2, 6, 8), rtol=1e-5)


def test_equal_queries_and_keys_ask_alike_both_ways():
    inputs = [keras.Input((2, 3, 8), name=name) for name in SIZES]
    model = keras.Model(inputs, mldam(*inputs))
    scores = keras.Model(inputs, model.get_layer("mldam_scores").output)([MAPS[2].astype(np.float32)] * 3).numpy()
    assert np.ptp(scores) > 1
    np.testing.assert_allclose(scores, scores.transpose(0, 2, 1), rtol=1e-6)


def test_without_attention_the_weights_are_the_same_and_nothing_else_is_left_out():
    """The control of the study: norm(relu(V)) in both branches, and the layers behind them."""
    whole, none = head(variant="study", units=(5, 4)), head(variant="study", units=(5, 4), attention="none")
    assert {w.path: w.shape for w in whole.weights} == {w.path: w.shape for w in none.weights}
    features = keras.Model(none.inputs, none.get_layer("features").output)([x.astype(np.float32) for x in MAPS])
    np.testing.assert_allclose(features, MAPS[2].reshape(2, -1), rtol=1e-5)  # a new batch norm leaves all as it is
    for alone, other in (("position", "channel"), ("channel", "position")):
        names = {layer.name for layer in head(attention=alone).layers}
        assert f"mldam_{alone}" in names
        assert f"mldam_{other}" not in names


# Weights of the backbones alone in torchvision, and biases that only Keras' ResNet has in its convolutions.
BACKBONES = {"vgg16": (14_714_688, 0), "resnet50": (23_508_032, 26_560), "densenet121": (6_953_856, 0)}
TAPS = {
    "vgg16": ("block3_pool", "block4_pool", "block5_pool"),
    "resnet50": ("conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
    "densenet121": ("conv3_block12_concat", "conv4_block24_concat", "bn"),
}


@pytest.mark.parametrize(
    ("name", "baseline", "with_mldam"),
    [
        ("vgg16", 14_739_777, 27_693_889),
        ("resnet50", 23_510_081, 231_138_369),
        ("densenet121", 7_004_033, 58_864_513),
    ],
)
def test_weights_and_taps_of_the_study(name, baseline, with_mldam):
    """Counted on shapes: no weight is made. The study's ResNet-50 without attention has a pooled head."""
    options = {"outputs": "binary", "scaling": "imagenet"}
    backbone, biases = BACKBONES[name]
    with keras.StatelessScope(initialize_variables=False):
        model = xai.build_model(name, head="mldam", head_options={"variant": "study"}, **options)
        flat = model.get_layer(TAPS[name][2]).output
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) - biases == with_mldam
    features = flat.shape[-1] if name == "resnet50" else int(np.prod(flat.shape[1:]))
    assert backbone + features + 1 == baseline
    read = {"query": TAPS[name][0], "key": TAPS[name][1], "value": TAPS[name][2]}
    for part, tap in read.items():
        first = next(x for end in ("_pool", "") if (x := layer(model, f"mldam_{part}{end}")) is not None)
        assert first.input is model.get_layer(tap).output
    assert model.get_layer("mldam_attention").output.shape == (None, 49, 49)


def layer(model, name):
    return next((x for x in model.layers if x.name == name), None)


def test_networks_of_the_registry():
    """The last of strides 8 and 16, and the feature map; the whole of it is what a flat head reads."""
    with keras.StatelessScope(initialize_variables=False):
        model = xai.build_model("efficientnet_lite0", image_size=(64, 96), head="mldam")
        flat = xai.build_model("efficientnet_lite0", image_size=(64, 96), head="flat", outputs="binary")
    assert model.get_layer("mldam_query_pool").input is model.get_layer("block_04_add").output
    assert model.get_layer("mldam_key_pool").input is model.get_layer("block_10_add").output
    assert [model.get_layer(f"mldam_{part}").output.shape for part in ("query", "key", "value")] == [
        (None, 6, 1280)
    ] * 3
    assert flat.get_layer("features").output.shape == (None, 6 * 1280)
    assert flat.output.shape == (None, 1)


def test_imagenets_weights_are_those_of_the_backbone():
    options = {"weights": "imagenet", "image_size": 64, "head_options": {"units": (4, 4)}}
    model = xai.build_model("efficientnet_lite0", head="mldam", **options)
    assert np.any(model.get_layer("top_norm").moving_mean)
    np.testing.assert_array_equal(model.get_layer("mldam_position_norm").gamma, 1)


@pytest.mark.parametrize("variant", ["published", "study"])
def test_it_is_saved_and_loaded(variant, tmp_path):
    model = mldam_network(variant)
    assert Network.of(model).activation == "binary"
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(NOISE), model(NOISE))


def test_layers_by_hand():
    a, b = np.arange(6.0).reshape(1, 2, 3), np.arange(12.0).reshape(1, 3, 4)
    np.testing.assert_allclose(PlaceProduct()([a, b]), a @ b)
    np.testing.assert_allclose(PlaceProduct(transposed=True)([a, a]), a @ a.transpose(0, 2, 1))
    np.testing.assert_array_equal(RepeatChannels(5)(np.array([[1, 2]])), [[1, 2, 1, 2, 1]])


def test_refusals():
    for options, message in (
        ({"variant": "studdy"}, "variant='studdy' is unknown; did you mean study"),
        ({"attention": "no"}, "attention='no' is unknown"),
        ({"units": (4,)}, "expected two numbers"),
        ({"units": (4, 0)}, "units=0; expected an integer of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            head(**options)
    with pytest.raises(ValueError, match="cannot be averaged"):
        mldam(*[keras.Input((n, n, 4)) for n in (6, 4, 4)])
    network = head()
    with pytest.raises(ValueError, match="expected three of mine's layers: shallow, .*middle, .*last, .*mldam"):
        mldam_taps("mine", network.inputs, network.output, ("shallow", "last"))
    for error, message, name, options in (
        (ValueError, "multiples of 32; got", "vgg16", {"head": "mldam", "image_size": (64, 100)}),
        (ValueError, "needs a CNN", "vit_ti16", {"head": "flat"}),
        (TypeError, "no option 'unit'; did you mean units", "vgg16", {"head": "mldam", "head_options": {"unit": 4}}),
        (ValueError, "has a map for", "vgg16", {"head": "where_and_what", "outputs": "binary"}),
        (ValueError, "one unit for two classes", "vgg16", {"n_classes": 3, "outputs": "binary"}),
        (ValueError, "weights were trained with another", "vgg16", {"weights": "imagenet", "scaling": "imagenet"}),
        (ValueError, "vit_ti16 is made with another", "vit_ti16", {"scaling": "imagenet"}),
    ):
        with pytest.raises(error, match=message):
            xai.build_model(name, **options)
