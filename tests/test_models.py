"""Models: pretrained weights that reproduce their reference, checkpoints read safely, scaling inside, round trips."""

import io
import pickle
import struct

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.backend import keras
from xaiutils.models.efficientnet_lite0 import weights_file
from xaiutils.models.torch_checkpoint import read_torch_checkpoint

SMALL = ("efficientnet_lite0", "vit_mini16")


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


def test_a_legacy_checkpoint_is_read(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(legacy_checkpoint(raw_state(), [("0", range(6))]))
    np.testing.assert_array_equal(read_torch_checkpoint(path)["w"], [[0, 1, 2], [3, 4, 5]])
    path.write_bytes(legacy_checkpoint(raw_state(shape=(3, 2), stride=(1, 3)), [("0", range(6))]))
    np.testing.assert_array_equal(read_torch_checkpoint(path)["w"], [[0, 3], [1, 4], [2, 5]])


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
def test_a_tampered_checkpoint_is_refused(tmp_path, content, words):
    path = tmp_path / "bad.pth"
    path.write_bytes(legacy_checkpoint(content, [("0", range(6))]))
    with pytest.raises(pickle.UnpicklingError, match=words):
        read_torch_checkpoint(path)


def test_a_cut_checkpoint_is_refused(tmp_path):
    whole = weights_file().read_bytes()
    path = tmp_path / "cut.pth"
    for length in (0, 10, 5000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(pickle.UnpicklingError):
            read_torch_checkpoint(path)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("head", ["linear", "thesis"])
def test_models_end_alike_and_survive_a_file(tmp_path, name, head):
    model = xai.build_model(name, 4, 64, head=head, seed=2)
    assert [layer.name for layer in model.layers[-2:]] == ["logits", "probabilities"]
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    expected = xai.predict(model, images)
    assert expected.shape == (2, 4)
    np.testing.assert_array_equal(expected, xai.predict(xai.build_model(name, 4, 64, head=head, seed=2), images))
    kernels = [xai.build_model(name, 4, 64, head=head, seed=s).get_layer("logits").kernel.numpy() for s in (2, 3)]
    assert not np.allclose(*kernels)
    model.save(tmp_path / "m.keras")
    np.testing.assert_allclose(xai.predict(keras.models.load_model(tmp_path / "m.keras"), images), expected, atol=1e-6)
    model.save_weights(tmp_path / "m.weights.h5")
    again = xai.build_model(name, 4, 64, weights=tmp_path / "m.weights.h5", head=head, seed=9)
    np.testing.assert_allclose(xai.predict(again, images), expected, atol=1e-6)


def test_every_model_scales_its_own_input():
    """What enters the first convolution is the family's published scaling of [0, 255]."""
    ramp = np.linspace(0, 255, 64 * 64 * 3, dtype=np.float32).reshape(1, 64, 64, 3)

    def scaled(name, layer):
        model = xai.build_model(name, 2, 64)
        (output,) = [x.output for x in model.layers if layer in (x.name, type(x))]
        return keras.Model(model.inputs, output)(ramp).numpy()

    np.testing.assert_allclose(scaled("efficientnet_lite0", "scale"), (ramp - 127) / 128, atol=1e-5)
    np.testing.assert_allclose(scaled("vit_mini16", "scale"), ramp / 127.5 - 1, atol=1e-5)
    standardised = (ramp / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(scaled("efficientnet_b0", keras.layers.Normalization), standardised, atol=1e-4)


def test_imagenet_weights_of_an_efficientnet_give_keras_features(monkeypatch):
    """The copy from Keras' own ImageNet graph, whose download is replaced by random weights in the same file layout."""
    module, real = keras.src.applications.efficientnet, keras.Model.load_weights

    def random_weights(model, *_args, **_kwargs):
        rng = np.random.default_rng(0)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Normalization):
                mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
                layer.set_weights([mean, std, np.array(1)])  # Keras stores the deviation as variance, and divides twice
                layer.finalize_state()
            elif layer.weights:
                layer.set_weights([w + 0.05 * rng.random(w.shape).astype(np.float32) for w in layer.get_weights()])

    monkeypatch.setattr(module.file_utils, "get_file", lambda *a, **k: "nowhere")
    monkeypatch.setattr(keras.Model, "load_weights", random_weights)
    model = xai.build_model("efficientnet_b0", 2, 64, weights="imagenet")  # raises if the features differ
    assert keras.Model.load_weights is not real
    assert np.ptp(model.get_layer("stem_conv").kernel) > 0.04


def test_vit_attention_rows_sum_to_one_and_carry_gradients(models, images):
    from xaiutils.attribution import Network
    from xaiutils.backend import tf

    network = Network.of(models["vit"])
    step = next(s for s in network.steps if s.path == "block_00_attention")
    with tf.GradientTape() as tape:
        x = tf.constant(images)
        tape.watch(x)
        logits, probabilities = network._run({network._input: x}, [network._logits, step.outputs[1]])
        score = logits[:, 0]
    assert probabilities.shape == (5, 2, 17, 17)
    np.testing.assert_allclose(tf.reduce_sum(probabilities, -1), 1, atol=1e-5)
    gradient = tape.gradient(score, probabilities)
    assert float(tf.reduce_max(tf.abs(gradient))) > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "efficientnet_lite1"}, "did you mean efficientnet_lite0"),
        ({"name": "vit_mini16", "weights": "imagenet"}, "has no pretrained weights.*efficientnet_lite0"),
        ({"name": "vit_mini16", "image_size": 100}, "multiple of the patch size 16; use 96"),
        ({"name": "efficientnet_lite0", "head": "lineal"}, "did you mean linear"),
        ({"name": "efficientnet_lite0", "n_classes": 1}, "at least 2"),
        ({"name": "efficientnet_lite0", "weights": "nowhere.h5"}, "neither 'imagenet' nor an existing file"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises((KeyError, ValueError, FileNotFoundError), match=words):
        xai.build_model(**arguments)
