"""Files that users bring: what each is, and what is refused by name."""

import shutil
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from small_models import PIXELS, classifier

import xaiutils as xai
from xaiutils.backend import tf
from xaiutils.own_model.load import load

MODEL = classifier()
KERAS2 = Path(__file__).parent / "keras2"  # written by write.py there, with Keras 2.15


@keras.saving.register_keras_serializable("tests_own_model")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


@pytest.mark.parametrize("name", ["mine.keras", "mine.h5", "mine.hdf5"])
def test_whole_models_are_read_without_their_optimizer(name, tmp_path):
    trained = classifier()
    trained.compile("adam", "categorical_crossentropy")
    trained.fit(PIXELS, np.eye(3), verbose=0)
    trained.save(tmp_path / name)
    wrapped = xai.wrap(tmp_path / name, scaling="0-1")
    np.testing.assert_allclose(wrapped(PIXELS), trained(PIXELS / 255), atol=1e-6)
    assert wrapped.facts.source == str(tmp_path / name)
    assert not wrapped.core.compiled


@pytest.mark.parametrize("name", ["old.h5", "old.keras"])
def test_keras_2_files_answer_as_they_did_there(name):
    kept = np.load(KERAS2 / "old.npz")
    wrapped = xai.wrap(KERAS2 / name, scaling="model")
    np.testing.assert_allclose(wrapped(kept["images"]), kept["answers"], atol=1e-6)
    np.testing.assert_allclose(xai.predict(wrapped, kept["images"], probabilities=True), kept["answers"], atol=1e-6)
    assert xai.explain(wrapped, kept["images"], 1, "vanilla_gradients").shape == (2, 12, 12)


@pytest.mark.parametrize("name", ["older_lstm", "older_seq"])
def test_files_of_keras_2_2_answer_as_they_did_there(name):
    """The LSTM's gates are hard sigmoids, whose slope changed in Keras 3; the Sequential model has no input layer."""
    kept = np.load(KERAS2 / f"{name}.npz")
    np.testing.assert_allclose(xai.wrap(KERAS2 / f"{name}.h5")(kept["x"]), kept["y"], atol=1e-6)


def test_what_keras_2_computed_otherwise_is_refused(tmp_path):
    path = tmp_path / "changed.h5"
    shutil.copy(KERAS2 / "old.h5", path)
    with h5py.File(path, "r+") as file:
        config = file.attrs["model_config"]
        file.attrs["model_config"] = config.replace('"class_name": "DepthwiseConv2D", "config": {', '"class_name": '
                                                    '"DepthwiseConv2D", "config": {"renorm": true, ')  # fmt: skip
    with pytest.raises(ValueError, match="cannot be read by Keras 3.*renorm"):
        load(path)
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = config.replace("math.truediv", "io.read_file")
    with pytest.raises(ValueError, match=r"tf\.io\.read_file.*SavedModel"):
        load(path)


def exported(folder, model, old=False):
    """A SavedModel as Keras 3 writes it, or TensorFlow with its own endpoint."""
    if not old:
        model.export(folder, verbose=False)
        return folder
    module = tf.Module()
    module.model = model
    spec = tf.TensorSpec((None, 16, 16, 3), name="picture")
    serve = tf.function(lambda picture: {"p": model(picture), "double": 2 * model(picture)}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return folder


def test_saved_models_of_keras_3(tmp_path):
    wrapped = xai.wrap(exported(tmp_path / "folder", MODEL), scaling="0-1")
    np.testing.assert_allclose(wrapped(PIXELS), MODEL(PIXELS / 255), atol=1e-6)
    maps = xai.explain(wrapped, PIXELS, 1, "vanilla_gradients")  # of log p, for the graph shows no logits
    x = tf.constant(PIXELS)
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = tf.math.log(MODEL(x / 255)[:, 1])
    by_hand = tape.gradient(score, x).numpy()
    np.testing.assert_allclose(np.abs(maps), np.abs(by_hand).max(axis=-1), rtol=1e-2, atol=1e-7)


def test_a_saved_model_takes_float32_under_a_mixed_policy(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        wrapped = xai.wrap(exported(tmp_path / "folder", MODEL), scaling="0-1")
        assert np.isfinite(xai.explain(wrapped, PIXELS, 1, "vanilla_gradients")).all()
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(wrapped(PIXELS), MODEL(PIXELS / 255), atol=1e-6)


def test_of_several_outputs_of_a_saved_model_one_is_chosen(tmp_path):
    folder = exported(tmp_path / "folder", MODEL, old=True)
    with pytest.raises(ValueError, match=r"returns double \(None, 3\), p \(None, 3\); choose one by output="):
        xai.wrap(folder)
    np.testing.assert_allclose(xai.wrap(folder, output="p")(PIXELS), MODEL(PIXELS), atol=1e-6)


def test_a_saved_model_layer_of_one_output_inside_a_model(tmp_path):
    """FAULTS C1: a mapping of one tensor is that tensor."""
    exported(tmp_path / "folder", MODEL)
    inputs = keras.Input((16, 16, 3))
    layer = keras.layers.TFSMLayer(str(tmp_path / "folder"), call_endpoint="serving_default")
    wrapped = xai.wrap(keras.Model(inputs, layer(inputs)))
    np.testing.assert_allclose(wrapped(PIXELS), MODEL(PIXELS), atol=1e-6)
    np.testing.assert_allclose(xai.predict(wrapped, PIXELS, probabilities=True), MODEL(PIXELS), atol=1e-5)


def test_a_graph_that_reaches_files_needs_consent(tmp_path):
    module = tf.Module()
    path = tf.constant(str(tmp_path / "secret"))

    def serve(image):
        return {"y": tf.reduce_mean(image, [1, 2]) + tf.cast(tf.strings.length(tf.io.read_file(path)), tf.float32)}

    spec = tf.TensorSpec((None, 16, 16, 3), name="image")
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=tf.function(serve, input_signature=[spec]))
    with pytest.raises(ValueError, match=r"reach files or Python \(ReadFile\).*trusted=True"):
        xai.wrap(tmp_path / "m")
    (tmp_path / "secret").write_text("12345")
    wrapped = xai.wrap(tmp_path / "m", trusted=True)
    np.testing.assert_allclose(wrapped(PIXELS), PIXELS.mean(axis=(1, 2)) + 5, rtol=1e-5)


def with_lambda():
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Lambda(lambda v: v / 255.0, output_shape=(16, 16, 3))(inputs)
    return keras.Model(inputs, MODEL(x))


@pytest.mark.parametrize("name", ["coded.keras", "coded.h5"])
def test_code_in_a_file_needs_consent(name, tmp_path):
    made = with_lambda()
    made.save(tmp_path / name)
    with pytest.raises(ValueError, match="holds a Lambda layer: code that would run.*trusted=True"):
        xai.wrap(tmp_path / name)
    np.testing.assert_allclose(xai.wrap(tmp_path / name, trusted=True)(PIXELS), made(PIXELS), atol=1e-6)


def test_code_in_a_keras_2_file_needs_consent():
    with pytest.raises(ValueError, match="holds a Lambda layer: code that would run.*trusted=True"):
        xai.wrap(KERAS2 / "old_lambda.h5")


def test_layers_of_the_author_are_asked_for(tmp_path):
    class Tripled(keras.layers.Layer):
        def call(self, x):
            return 3 * x

    inputs = keras.Input((16, 16, 3))
    made = keras.Model(inputs, MODEL(Doubled()(Tripled()(inputs))))
    for name in ("coded.keras", "coded.h5"):
        made.save(tmp_path / name)
        with pytest.raises(ValueError, match=r"names Tripled.*custom_objects=\{'Tripled': Tripled\}"):
            load(tmp_path / name)
        wrapped = xai.wrap(tmp_path / name, custom_objects={"Tripled": Tripled})
        np.testing.assert_allclose(wrapped(PIXELS), made(PIXELS), atol=1e-6)


def test_weights_need_their_architecture(tmp_path):
    path = tmp_path / "best.weights.h5"
    built = xai.build_model("efficientnet_lite0", n_classes=3, image_size=32)
    built.save_weights(path)
    images = np.repeat(np.repeat(PIXELS, 2, axis=1), 2, axis=2)
    architecture = {"name": "efficientnet_lite0", "image_size": 32}
    wrapped = xai.wrap(path, architecture=architecture, class_names=["a", "b", "c"])
    np.testing.assert_allclose(wrapped(images), built(images), atol=1e-6)
    for given, words in [
        (None, "holds weights and no model. Give architecture="),
        ({"image_size": 32}, "with a 'name'"),
        ({**architecture, "depth": 3}, "depth"),
        ({**architecture, "n_classes": 2}, "does not fit efficientnet_lite0 of 2 classes"),
    ]:
        with pytest.raises(ValueError, match=words):
            xai.wrap(path, architecture=given)
    MODEL.save(tmp_path / "whole.keras")
    with pytest.raises(ValueError, match="holds a whole model; architecture="):
        xai.wrap(tmp_path / "whole.keras", architecture=architecture)


def test_what_is_no_model_is_refused_in_words(tmp_path):
    MODEL.save(tmp_path / "a.keras")
    MODEL.save(tmp_path / "a.h5")
    for name in ("a.keras", "a.h5"):
        half = (tmp_path / name).read_bytes()
        (tmp_path / f"half_{name}").write_bytes(half[: len(half) // 2])
        (tmp_path / f"empty_{name}").write_bytes(b"")
    shutil.copy(tmp_path / "a.keras", tmp_path / "b.zip")
    shutil.copy(tmp_path / "a.h5", tmp_path / "b.model")
    (tmp_path / "folder").mkdir()
    (tmp_path / "net.onnx").write_bytes(b"onnx....")
    (tmp_path / "net.pkl").write_bytes(b"\x80\x05K\x01.")
    (tmp_path / "net.keras").write_bytes(b"not a model")
    (tmp_path / "net.txt").write_bytes(b"not a model")
    for name, member in (("torch.pt", "archive/data.pkl"), ("any.keras", "readme.txt")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(member, b"x")
    for name, words in {
        "b.kers": r"there is no .*b\.kers; did you mean",
        "nowhere/b.keras": "there is no folder",
        "half_a.keras": "damaged or incomplete",
        "half_a.h5": "damaged or incomplete",
        "empty_a.keras": "damaged or incomplete",
        "empty_a.h5": "damaged or incomplete",
        "net.keras": "damaged or incomplete",
        "b.zip": r"under another name; call it b\.keras",
        "b.model": r"under another name; call it b\.h5",
        "folder": "holds no model",
        "net.onnx": r"file of ONNX.*your_model\.md",
        "net.pkl": "file of pickle",
        "torch.pt": "file of PyTorch, and a pickle: it is not opened",
        "any.keras": "and no model of Keras",
        "net.txt": "is no model: give a .keras or .h5 file",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            xai.wrap(tmp_path / name)
