"""Every block of code in docs/your_model.md runs, on a tiny model of the kind that it is about."""

import re
import sys
from importlib import import_module

import keras
import numpy as np
import pytest
from PIL import Image

from xaiutils.workbook.run_all import ROOT

PAGE = (ROOT / "docs" / "your_model.md").read_text()
BLOCKS = re.findall(r"<!-- tiny: (\w+) -->\n```python\n(.*?)```", PAGE, re.DOTALL)
L = keras.layers
RNG = np.random.default_rng(0)
OWN_CLASS = """
import keras

class MyModel(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.head = keras.layers.Conv2D(4, 3, strides=2), keras.layers.Dense(2)

    def call(self, x):
        return keras.ops.softmax(self.head(keras.ops.mean(keras.ops.relu(self.conv(x)), axis=(1, 2))))
"""


def features(x):
    return L.GlobalAveragePooling2D()(L.Conv2D(4, 3, strides=2, activation="relu")(x))


def small(units=2, activation="softmax", channels=3):
    x = keras.Input((64, 64, channels))
    return keras.Model(x, L.Dense(units, activation=activation)(features(x)))


def channels_first():
    x = keras.Input((3, 64, 64))
    return keras.Model(x, L.Dense(2)(features(L.Permute((2, 3, 1))(x))))


def two_inputs():
    x, row = keras.Input((64, 64, 3), name="image"), keras.Input((2,), name="clinical")
    return keras.Model([x, row], L.Dense(2, activation="softmax")(L.Concatenate()([features(x), row])))


def two_outputs():
    x = keras.Input((64, 64, 3))
    found = features(x)
    return keras.Model(x, [L.Dense(2, activation="softmax", name="diagnosis")(found), L.Dense(1, name="age")(found)])


def with_lambda():
    x = keras.Input((64, 64, 3))
    return keras.Model(x, L.Dense(2)(features(L.Lambda(lambda t: t / 255.0, output_shape=(64, 64, 3))(x))))


def subclassed(folder):
    (folder / "my_code.py").write_text(OWN_CLASS)
    model = import_module("my_code").MyModel()
    model(np.zeros((1, 64, 64, 3), np.float32))
    return model


def state_dict():
    """What a network of one convolution, batch normalisation and linear layer holds in PyTorch's axes."""
    drawn = {"conv.weight": (8, 3, 3, 3), "conv.bias": (8,), "fc.weight": (2, 8), "fc.bias": (2,)}
    drawn |= {f"bn.{name}": (8,) for name in ("weight", "bias", "running_mean", "running_var")}
    return {name: np.abs(RNG.normal(size=shape)).astype(np.float32) for name, shape in drawn.items()}


MODELS = {
    "softmax": small,
    "labels": lambda: small(3, "sigmoid"),
    "unit": lambda: small(1, "sigmoid"),
    "regression": lambda: small(1, None),
    "ordinal": lambda: small(2, "sigmoid"),
    "grey": lambda: small(channels=1),
    "channels_first": channels_first,
    "two_inputs": two_inputs,
    "two_outputs": two_outputs,
    "lambda": with_lambda,
}


def write(kind, folder):
    if kind in MODELS:
        MODELS[kind]().save(folder / "mine.keras")
    elif kind == "subclassed":
        subclassed(folder).save(folder / "mine.keras")
    elif kind == "ensemble":
        for fold in (1, 2):
            small().save(folder / f"fold_{fold}.keras")
    elif kind == "saved_model":
        small().export(folder / "mine_saved", verbose=False)
    elif kind == "torch":
        np.savez(folder / "state_dict.npz", **state_dict())
    else:
        from xaiutils.models import build_model

        assert kind == "weights"
        built = build_model("efficientnet_lite0", n_classes=2, image_size=64)
        built.save_weights(folder / "mine.weights.h5")


def write_images(folder):
    for name in ("benign", "malignant"):
        for i in range(3):
            path = folder / "path" / "to" / "images" / "test" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)


def test_every_block_says_what_it_is_about():
    assert len(BLOCKS) == PAGE.count("```python") >= 16


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "code"), BLOCKS, ids=[f"{i}-{kind}" for i, (kind, _) in enumerate(BLOCKS)])
def test_the_block_runs(kind, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write(kind, tmp_path)
    write_images(tmp_path)
    channels = 1 if kind == "grey" else 3
    images = RNG.uniform(0, 255, (2, 64, 64, channels)).astype(np.float32)
    space = {"images": images, "rows": np.array([[40, 1], [70, 3]])}
    exec(compile(code, f"docs/your_model.md, {kind}", "exec"), space)
    if "maps" in space:
        n = len(space["ds"]) if "ds" in space else 2
        assert space["maps"].shape == (n, 64, 64)
        assert np.isfinite(space["maps"]).all()
    if kind == "torch":
        assert_as_in_torch(space)
    sys.modules.pop("my_code", None)


def assert_as_in_torch(space):
    """The copied network computes what PyTorch's layers are defined to, worked out here in NumPy at one place."""
    state, images = space["state"], space["images"]
    scaled = (images / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    padded = np.pad(scaled, ((0, 0), (1, 1), (1, 1), (0, 0))).transpose(0, 3, 1, 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    conv = np.einsum("nchwij,ocij->nohw", windows, state["conv.weight"]) + state["conv.bias"][:, None, None]
    kept = {name: state[f"bn.{name}"][:, None, None] for name in ("weight", "bias", "running_mean", "running_var")}
    normed = (conv - kept["running_mean"]) / np.sqrt(kept["running_var"] + 1e-5) * kept["weight"] + kept["bias"]
    logits = np.maximum(normed, 0).mean(axis=(2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    import xaiutils as xai

    np.testing.assert_allclose(xai.predict(space["model"], images), logits, rtol=1e-4, atol=1e-4)


def test_the_parameter_file_is_read(tmp_path, monkeypatch):
    from xaiutils.workbook.assignments import read_arguments
    from xaiutils.workbook.own_models import by_name

    monkeypatch.chdir(tmp_path)
    small().save("mine.keras")
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "mine.yml").write_text(block)
    values, own = by_name(read_arguments([], tmp_path / "mine.yml"))
    assert values["models"] == ["mine"]
    assert own["mine"].wrap().facts.class_names == ("benign", "malignant")
    (assignments,) = re.findall(r"`SET='(.*?)'`", PAGE)
    _, own = by_name(read_arguments(["models=mine.keras", *assignments.split()]))
    assert own["mine"].wrap().facts.scaling == "-1-1"
    assert own["mine"].wrap().facts.class_names == ("benign", "malignant")


@pytest.mark.filterwarnings("ignore")
def test_the_six_lines_of_the_readme(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path)
    small().save(tmp_path / "path" / "mine.keras")
    space = {}
    exec(compile(block.replace("image_size=224", "image_size=64"), "README.md", "exec"), space)
    assert space["maps"].shape == (6, 64, 64)
    assert {"image_id", "metric", "value"} <= set(space["table"])
    assert len(block.strip().splitlines()) <= 8


APPLICATIONS = {
    "model": ["efficientnet", "efficientnet_v2", "convnext", "mobilenet_v3"],
    "-1-1": ["mobilenet", "mobilenet_v2", "inception_v3", "inception_resnet_v2", "xception", "nasnet", "resnet_v2"],
    "imagenet": ["densenet"],
    "caffe": ["vgg16", "vgg19", "resnet"],
}


@pytest.mark.parametrize("scaling", APPLICATIONS)
def test_the_table_of_scalings_is_that_of_keras_applications(scaling):
    from xaiutils.own_model.scalings import scale

    images = RNG.uniform(0, 255, (1, 8, 8, 3)).astype(np.float32)
    x = keras.Input((8, 8, 3))
    found = keras.Model(x, scale(x, scaling)[0])(images)
    for name in APPLICATIONS[scaling]:
        expected = getattr(keras.applications, name).preprocess_input(images.copy())
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=name)
