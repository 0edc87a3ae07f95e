"""Models: pretrained weights that reproduce their reference, checkpoints read safely, scaling inside, round trips."""

import functools
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.file_limits import FileError
from xaiutils.models.efficientnet_lite0 import weights_file
from xaiutils.models.torch_checkpoint import read_torch_checkpoint

SMALL = ("efficientnet_lite0", "vit_mini16")


@pytest.fixture(scope="module")
def plain():
    """A model by name, for two classes at 64 px, built once."""
    return functools.cache(lambda name: xai.build_model(name, 2, 64))


@pytest.fixture(scope="module")
def imagenet():
    return xai.build_model("efficientnet_lite0", weights="imagenet", head="imagenet")


def test_lite0_reproduces_the_reference(imagenet, kit):
    reference = np.load(kit / "weights" / "efficientnet_lite0_reference.npz")
    found = xai.predict(imagenet, reference["images"], probabilities=True)
    np.testing.assert_allclose(found, reference["probabilities"], atol=1e-4)


def test_lite0_knows_a_cat(imagenet):
    from skimage import data
    from skimage.transform import resize

    cat = resize(data.chelsea(), (224, 224), preserve_range=True, anti_aliasing=True)[None]
    assert xai.predict(imagenet, cat).argmax() in range(281, 286)  # ImageNet's five domestic cats


def legacy_checkpoint(state: bytes, storages) -> bytes:
    """The bytes of a legacy PyTorch file, written by its published layout."""

    out = io.BytesIO()
    for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(head, out, protocol=2)
    out.write(state)
    pickle.dump([key for key, _ in storages], out, protocol=2)
    for _, values in storages:
        out.write(struct.pack("<q", len(values)) + np.asarray(values, np.float32).tobytes())
    return out.getvalue()


def zip_checkpoint(state: bytes, storages, order: str = "little") -> bytes:
    """The bytes of a PyTorch file as it is written since 1.6."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("m/data.pkl", state)
        packed.writestr("m/byteorder", order)
        for key, values in storages:
            packed.writestr(f"m/data/{key}", np.asarray(values, np.float32).tobytes())
    return out.getvalue()


CONTAINERS = pytest.mark.parametrize("contained", [legacy_checkpoint, zip_checkpoint])


def raw_state(name="w", shape=(2, 3), stride=(3, 1), size=6, module=b"torch._utils", function=b"_rebuild_tensor_v2"):
    """A hand-written pickle of {name: tensor}, so that no PyTorch is needed to write it."""

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def ints(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"

    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"J" + struct.pack("<i", size)
    )
    storage += b"NtQ"
    arguments = b"(" + storage + b"J" + struct.pack("<i", 0) + ints(shape) + ints(stride) + b"\x89Nt"
    return b"\x80\x02}" + text(name) + b"c" + module + b"\n" + function + b"\n" + arguments + b"Rs."


@CONTAINERS
def test_a_checkpoint_is_read(tmp_path, contained):
    path = tmp_path / "a.pth"
    path.write_bytes(contained(raw_state(), [("0", range(6))]))
    np.testing.assert_array_equal(read_torch_checkpoint(path)["w"], [[0, 1, 2], [3, 4, 5]])
    path.write_bytes(contained(raw_state(shape=(3, 2), stride=(1, 3)), [("0", range(6))]))
    np.testing.assert_array_equal(read_torch_checkpoint(path)["w"], [[0, 3], [1, 4], [2, 5]])


@CONTAINERS
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (raw_state(module=b"os", function=b"system"), "os.system, which is not allowed"),
        (raw_state(module=b"builtins", function=b"eval"), "builtins.eval, which is not allowed"),
        (raw_state(module=b"torch", function=b"load"), "torch.load, which is not allowed"),
        (raw_state(shape=(9, 9)), "outside its storage"),
        (raw_state(stride=(-3, 1)), "outside its storage"),
        (raw_state(size=60), "does not match"),
        (b"\x80\x02]q\x00.", "does not match|other than a dict"),
    ],
)
def test_a_tampered_checkpoint_is_refused(tmp_path, contained, content, words):
    path = tmp_path / "bad.pth"
    path.write_bytes(contained(content, [("0", range(6))]))
    with pytest.raises(FileError, match=words):
        read_torch_checkpoint(path)


def test_a_zip_file_of_something_else_is_refused(tmp_path):
    path, whole = tmp_path / "bad.pth", zip_checkpoint(raw_state(), [("0", range(6))])
    for content, words in (
        (zip_checkpoint(raw_state(), []), "'0' does not match"),
        (zip_checkpoint(raw_state(), [("0", range(6))], "big"), "another byte order"),
        (whole.replace(b"data.pkl", b"data.pkk"), "no state dict"),
        (whole[:-30], "zip file"),
    ):
        path.write_bytes(content)
        with pytest.raises(FileError, match=words):
            read_torch_checkpoint(path)


def test_a_cut_checkpoint_is_refused(tmp_path):
    whole = weights_file().read_bytes()
    path = tmp_path / "cut.pth"
    for length in (0, 10, 5000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FileError):
            read_torch_checkpoint(path)


@pytest.mark.parametrize("put", ["q%c", "q%cq%c", "\x80\x02q%c", "K\x010q%c"])
def test_a_checkpoint_of_tuples_in_tuples_does_not_hang(tmp_path, put):
    """A key whose hash takes two to the forty steps."""
    key = b")q\x00" + b"".join(
        b"0h%ch%c\x86" % (i, i) + put.encode("latin1").replace(b"%c", bytes([i + 1])) for i in range(40)
    )
    path = tmp_path / "x.pth"
    start = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {}))
    for keyed in (key, key.replace(b"0h", b"h")):
        path.write_bytes(start + b"\x80\x02}" + keyed + b"K\x01s.")
        with pytest.raises(FileError, match="not those of a state dict"):
            read_torch_checkpoint(path)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("head", ["linear", "thesis"])
def test_models_end_alike_and_survive_a_file(tmp_path, name, head):
    model = xai.build_model(name, 4, 64, head=head, seed=2)
    assert [layer.name for layer in model.layers[-2:]] == ["logits", "probabilities"]
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    expected = xai.predict(model, images, probabilities=True)
    assert expected.shape == (2, 4)
    same, other = (xai.build_model(name, 4, 64, head=head, seed=seed) for seed in (2, 3))
    for a, b in zip(model.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(model.get_layer("logits").kernel, other.get_layer("logits").kernel)
    model.save(tmp_path / "m.keras")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "m.keras")(images), expected, atol=1e-6)
    model.save_weights(tmp_path / "m.weights.h5")
    for file in ("m.weights.h5", "m.keras"):
        again = xai.build_model(name, 4, 64, weights=tmp_path / file, head=head, seed=9)
        np.testing.assert_allclose(again(images), expected, atol=1e-6)


def entering(model):
    """The submodel from images to what enters the first convolution, before its zero padding."""
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    tensor = first.input
    producer = tensor._keras_history.operation
    return keras.Model(model.input, producer.input if isinstance(producer, keras.layers.ZeroPadding2D) else tensor)


RAMP = np.linspace(0, 255, 64 * 64 * 3, dtype=np.float32).reshape(1, 64, 64, 3)[:, :, :, ::-1]
STANDARDISED = (RAMP / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
APPLICATIONS = ("resnet50", "vgg16", "densenet121", "mobilenet_v2")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("efficientnet_lite0", (RAMP - 127) / 128),
        ("efficientnet_b0", STANDARDISED),
        ("efficientnet_b5", STANDARDISED),
        ("vit_mini16", RAMP / 127.5 - 1),
        ("vit_ti16", RAMP / 127.5 - 1),
        ("vit_s32", RAMP / 127.5 - 1),
    ],
)
def test_every_model_scales_its_own_input(plain, name, expected):
    """What enters the first convolution is the family's published scaling of [0, 255]."""
    np.testing.assert_allclose(entering(plain(name))(RAMP), expected, atol=1e-4)


def test_dinov2_scales_its_own_input():
    ramp = RAMP[:, :56, :56]
    found = entering(xai.build_model("dinov2_vits14", 2, 56))(ramp)
    np.testing.assert_allclose(found, STANDARDISED[:, :56, :56], atol=1e-5)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications_scale_as_their_preprocess_input(plain, name):
    module = {"vgg16": "vgg16", "resnet50": "resnet50", "densenet121": "densenet", "mobilenet_v2": "mobilenet_v2"}[name]
    expected = getattr(keras.applications, module).preprocess_input(RAMP.copy())
    np.testing.assert_allclose(entering(plain(name))(RAMP), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "published"),  # of the backbones: Keras' documentation; the normalisation's 7 constants are counted there
    [
        ("efficientnet_b0", 4_049_571),
        ("efficientnet_b5", 28_513_527),
        ("resnet50", 23_587_712),
        ("vgg16", 14_714_688),
        ("densenet121", 7_037_504),
        ("mobilenet_v2", 2_257_984),
    ],
)
def test_numbers_of_weights_are_the_published_ones(plain, name, published):
    model = plain(name)
    assert keras.Model(model.input, model.get_layer("features").input).count_params() == published


def test_a_b5_has_the_map_and_the_norms_of_the_thesis():
    model = xai.build_model("efficientnet_b5", 2, 224)
    assert model.get_layer("features").input.shape == (None, 7, 7, 2048)
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers) == 116


@pytest.mark.parametrize("name", [*APPLICATIONS, "vit_ti16", "dinov2_vits14"])
def test_published_models_survive_a_file_and_are_explained(tmp_path, name):
    size = 56 if name.startswith("dinov2") else 64
    model = xai.build_model(name, 3, size, head="thesis", seed=1)
    images = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    expected = xai.predict(model, images, probabilities=True)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again(images), expected, atol=1e-6)
    if name in APPLICATIONS:
        maps = xai.explain(again, images, method="grad_cam")
        assert maps.shape == (2, size, size)
        assert np.isfinite(maps).all()


@pytest.mark.parametrize("name", ["efficientnet_b0", "vit_mini16"])
def test_the_heads_of_the_thesis(name):
    """0-M3 and 0-M4: (global max pooling,) dropout 0.2, GELU, softmax."""
    model = xai.build_model(name, 4, 64, head="thesis")
    head = model.layers[[layer.name for layer in model.layers].index("features") :]
    kinds = [type(layer).__name__ for layer in head]
    pooling = "GlobalMaxPooling2D" if name.startswith("efficient") else "TakeClassToken"
    assert kinds == [pooling, "Dropout", "Dense", "Dense", "Softmax"]
    assert head[1].rate == 0.2
    assert head[2].activation is keras.activations.gelu
    assert head[3].units == 4
    plain = xai.build_model(name, 4, 64, head="linear").layers[-3:]
    assert [layer.name for layer in plain] == ["features", "logits", "probabilities"]
    if name.startswith("efficient"):
        assert isinstance(plain[0], keras.layers.GlobalAveragePooling2D)


def test_vgg16_keeps_its_own_imagenet_head():
    model = xai.build_model("vgg16", image_size=32, head="imagenet")
    assert [layer.name for layer in model.layers[-5:]] == ["features", "fc1", "fc2", "logits", "probabilities"]
    assert model.output_shape == (None, 1000)


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # of Keras, for files of older Keras
def test_a_backbone_of_keras_applications_is_loaded(kit):
    path = kit / "weights" / "mobilenetv2_1.00_160_dogbreeds_notop.weights.h5"
    images = np.random.default_rng(0).uniform(0, 255, (2, 160, 160, 3)).astype(np.float32)
    source = keras.applications.MobileNetV2(include_top=False, weights=str(path), input_shape=(160, 160, 3))
    model = xai.build_model("mobilenet_v2", 2, 160, weights=path, head="thesis")
    found = keras.Model(model.input, model.get_layer("features").input)(images)
    np.testing.assert_allclose(found, source(images / 127.5 - 1), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mobilenet_v2", {"n_classes": 3}),
        ("mobilenet_v2", {"n_classes": 2, "head": "thesis"}),
        ("resnet50", {}),
        ("vit_mini16", {}),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, name, arguments):
    path = tmp_path / "m.weights.h5"
    xai.build_model("mobilenet_v2", 2, 64).save_weights(path)
    with pytest.raises(
        ValueError, match=f"does not fit {name} of . classes.*could not be loaded.*same name, n_classes"
    ):
        xai.build_model(name, image_size=64, weights=path, **arguments)


@pytest.fixture
def keras_downloads(monkeypatch):
    """Keras' download of ImageNet's weights, replaced by random weights in the same layers."""

    def drawn(weight, rng):  # kernels of He's size, so that the image neither fades nor overflows on its way
        if weight.ndim < 2:
            return weight + 0.05 * rng.random(weight.shape).astype(np.float32)
        fan_in = np.prod(weight.shape[:2] if weight.shape[-1] == 1 else weight.shape[:-1])
        return rng.normal(0, np.sqrt(2 / fan_in), weight.shape).astype(np.float32)

    def random_weights(model, *_args, **_kwargs):
        rng = np.random.default_rng(0)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Normalization):
                mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
                layer.set_weights([mean, std, np.array(1)])  # Keras stores the deviation as variance, and divides twice
                layer.finalize_state()
            elif layer.weights:
                layer.set_weights([drawn(w, rng) for w in layer.get_weights()])

    monkeypatch.setattr(keras.src.utils.file_utils, "get_file", lambda *a, **k: "nowhere")
    monkeypatch.setattr(keras.Model, "load_weights", random_weights)


@pytest.mark.parametrize(("name", "layer"), [("efficientnet_b0", "stem_conv"), ("resnet50", "conv1_conv")])
def test_imagenet_weights_give_keras_features(keras_downloads, name, layer):
    """`build_model` raises if the features are not those of Keras' own graph after its `preprocess_input`."""
    model = xai.build_model(name, 2, 64, weights="imagenet")
    fresh = xai.build_model(name, 2, 64)
    assert not np.allclose(model.get_layer(layer).kernel, fresh.get_layer(layer).kernel, atol=0.02)


@pytest.mark.filterwarnings("ignore:.input_shape. is undefined")  # of MobileNetV2, at sizes that it was not trained at
@pytest.mark.parametrize("name", ["vgg16", "densenet121", "mobilenet_v2"])
def test_imagenet_weights_of_the_other_applications(keras_downloads, name):
    model, fresh = (xai.build_model(name, 2, 64, weights=weights) for weights in ("imagenet", None))
    convolutions = [next(x for x in m.layers if isinstance(x, keras.layers.Conv2D)) for m in (model, fresh)]
    assert not np.allclose(convolutions[0].kernel, convolutions[1].kernel, atol=0.02)


def test_imagenet_weights_with_their_classes(keras_downloads):
    model = xai.build_model("mobilenet_v2", weights="imagenet", head="imagenet")
    assert np.ptp(model.get_layer("logits").bias) > 0.04


def attention_and_gradient(model, images, layer):
    """Probabilities of an attention layer, and the gradient of the first logit by them."""
    from xaiutils.attribution import Network
    from xaiutils.backend import tf

    network = Network.of(model)
    step = next(s for s in network.steps if s.path == layer)
    with tf.GradientTape() as tape:
        x = tf.constant(images)
        tape.watch(x)
        logits, probabilities = network.run({network.input_key: x}, [network.logits_key, step.outputs[1]])
        score = logits[:, 0]
    return probabilities.numpy(), tape.gradient(score, probabilities).numpy()


def test_vit_attention_rows_sum_to_one_and_carry_gradients(models, images):
    probabilities, gradient = attention_and_gradient(models["vit"], images, "block_00_attention")
    assert probabilities.shape == (5, 2, 17, 17)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    assert np.abs(gradient).max() > 0


@pytest.mark.parametrize(
    ("name", "size", "shape"), [("vit_ti16", 48, (2, 3, 10, 10)), ("dinov2_vits14", 42, (2, 6, 10, 10))]
)
def test_blocks_of_the_published_vits_give_their_attention(name, size, shape):
    model = xai.build_model(name, 2, size)
    images = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    for block in (0, 5, 11):
        probabilities, gradient = attention_and_gradient(model, images, f"block_{block:02d}_attention")
        assert probabilities.shape == shape
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
        assert np.abs(gradient).max() > 0


def test_the_summary_of_a_vit_is_readable():
    lines = []
    xai.build_model("vit_ti16").summary(line_length=160, print_fn=lambda line, **_: lines.append(line))
    text = "\n".join(lines)
    for name in ("scale", "patches", "class_token", "positions", "block_11_attention", "block_11_mlp_in", "logits"):
        assert name in text
    assert "block_00_attention (SelfAttention)" in text
    assert "[(None, 197, 192), (None, 3, 1" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "efficientnet_lite1"}, "did you mean efficientnet_lite0"),
        ({"name": "vit_mini16", "weights": "imagenet"}, "has no pretrained weights.*efficientnet_lite0"),
        ({"name": "vit_mini16", "image_size": 100}, "multiple of the patch size 16; use 96"),
        ({"name": "efficientnet_lite0", "head": "lineal"}, "did you mean linear"),
        ({"name": "efficientnet_lite0", "n_classes": 1}, "at least 2"),
        ({"name": "efficientnet_lite0", "weights": "nowhere.h5"}, "neither 'imagenet' nor an existing file"),
        ({"name": "efficientnet_lite0", "weights": 3}, "expected None, 'imagenet' or a path"),
        ({"name": "efficientnet_lite0", "weights": __file__}, "of its formats .*keras.* the name shows none"),
        ({"name": "dinov2_vits14", "weights": "imagenet"}, "give the path of a file as weights=, or choose one of"),
        ({"name": "dinov2_vits14", "image_size": 256}, "multiple of the patch size 14; use 252"),
        ({"name": "vit_b32", "image_size": 240}, "multiple of the patch size 32; use 256|224"),
        ({"name": "resnet50", "image_size": 30}, "needs at least 32 pixels"),
        ({"name": "resnet50", "image_size": 224.0}, "expected an integer"),
        ({"name": "vgg16", "image_size": 64, "weights": "imagenet", "head": "imagenet"}, "made for 224 pixels"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises((KeyError, TypeError, ValueError, FileNotFoundError), match=words):
        xai.build_model(**arguments)
