"""Shared fixtures: small models of every shape that users bring, photographs, and the kit of real data."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("XAI_PROGRESS", "off")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # values are compared to rounding, which GPUs round otherwise
os.environ.pop("XAI_RUNS", None)

import numpy as np
import pytest
from forked_kernels import forked_kernels
from hypothesis import settings

from xaiutils.backend import keras
from xaiutils.models.vit import ViTConfig, vit_backbone

settings.register_profile("suite", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("suite")
SIZE = 32
_CACHE = tempfile.TemporaryDirectory(prefix="xai-cache-")  # converted pictures of the tests, not among the user's
os.environ["XAI_CACHE"] = _CACHE.name

LONG = ("test_notebooks", "test_run_all", "test_studies", "test_panel", "test_batch_survives")  # files of minutes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: ``make test`` hands files out in this order, so that its processes end together. Their slow
    tests come first too: a process is given its next file when two tests are left of the one at hand."""

    def place(item: pytest.Item) -> tuple[int, bool]:
        if item.path.stem not in LONG:
            return len(LONG), False
        return LONG.index(item.path.stem), item.get_closest_marker("slow") is None

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """TensorFlow's half a million objects stay: searched for cycles again and again, they take 3 % of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def kit() -> Path:
    """The folder of real images and weights; tests that need it are skipped without it."""
    folder = os.environ.get("XAI_KIT")
    if not folder or not Path(folder).is_dir():
        pytest.skip("XAI_KIT does not name the kit of real data")
    return Path(folder)


@pytest.fixture(scope="session")
def kernel_server() -> Iterator[dict[str, str]]:
    with forked_kernels() as variables:
        yield variables


@pytest.fixture
def forked(kernel_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks that the test executes, or a process of it, run in `forked_kernels`."""
    for name, value in kernel_server.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Five smooth random images ``(5, 32, 32, 3)`` in [0, 255]."""
    rng = np.random.default_rng(7)
    coarse = rng.uniform(0, 255, (5, 8, 8, 3)).astype(np.float32)
    return np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)


def cnn_body(x, activation="relu"):
    """Two convolutions and batch norm with statistics of their own, so that a forgotten layer is noticed."""
    layers = keras.layers
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation=activation, name="conv1")(x)
    x = layers.BatchNormalization(name="norm", moving_mean_initializer="ones", beta_initializer="ones")(x)
    return layers.Conv2D(6, 3, strides=2, padding="same", activation=activation, name="conv2")(x)


def make_flat(last="softmax", n_classes=3, fused=False, seed=1, size=SIZE) -> keras.Model:
    """A flat CNN that ends in a softmax, a sigmoid or logits, fused into the last Dense layer or not; for images of
    any size with ``size=None``."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((size, size, 3))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(cnn_body(inputs))
    if fused:
        return keras.Model(inputs, keras.layers.Dense(n_classes, activation=last, name="classes")(x))
    x = keras.layers.Dense(n_classes, name="classes")(x)
    return keras.Model(inputs, x if last == "linear" else keras.layers.Activation(last, name="last")(x))


def make_nested(seed=1) -> keras.Model:
    """The flat softmax CNN with its body as a nested model, the weights the same for the same seed."""
    keras.utils.set_random_seed(seed)
    inner = keras.Input((SIZE, SIZE, 3))
    body = keras.Model(inner, cnn_body(inner), name="backbone")
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(body(inputs))
    x = keras.layers.Dense(3, name="classes")(x)
    return keras.Model(inputs, keras.layers.Activation("softmax", name="last")(x))


def make_sequential(seed=1) -> keras.Model:
    """The same network once more, as a Sequential model around the nested body."""
    keras.utils.set_random_seed(seed)
    inner = keras.Input((SIZE, SIZE, 3))
    body = keras.Model(inner, cnn_body(inner), name="backbone")
    layers = [body, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")]
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), *layers])


def make_vit(seed=1) -> keras.Model:
    """A ViT of two blocks with 4 x 4 patches and a class token."""
    keras.utils.set_random_seed(seed)
    inputs, tokens = vit_backbone(ViTConfig(patch_size=8, width=16, depth=2, heads=2, mlp_ratio=2), SIZE)
    x = keras.layers.Lambda(lambda t: t[:, 0], output_shape=(16,), name="first_token")(tokens)
    x = keras.layers.Dense(3, name="logits", kernel_initializer="random_normal")(x)
    return keras.Model(inputs, keras.layers.Softmax(name="probabilities")(x))


MODELS = {
    "flat softmax": make_flat,
    "flat logits": lambda: make_flat("linear"),
    "fused softmax": lambda: make_flat("softmax", fused=True),
    "one-unit sigmoid": lambda: make_flat("sigmoid", n_classes=1),
    "fused sigmoid": lambda: make_flat("sigmoid", n_classes=1, fused=True),
    "nested": make_nested,
    "sequential": make_sequential,
    "vit": make_vit,
}


@pytest.fixture(scope="session")
def models() -> dict[str, keras.Model]:
    """One model of every shape, built once."""
    return {name: make() for name, make in MODELS.items()}


@pytest.fixture(scope="session")
def linear() -> tuple[keras.Model, np.ndarray]:
    """S_c = sum x * w_c + b_c, of which every method's answer is known, and w ``(height, width, 3, classes)``."""
    inputs = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    weights = np.random.default_rng(3).normal(size=(SIZE, SIZE, 3, 2)).astype(np.float32) / 1000
    model.layers[-1].set_weights([weights.reshape(-1, 2), np.array([0.5, -0.25], np.float32)])
    return model, weights
