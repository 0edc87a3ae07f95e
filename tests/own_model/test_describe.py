"""What `xai.describe` says of models whose parts are known."""

import keras
import numpy as np
import pytest

import xaiutils as xai
from xaiutils.datasets import ImageDataset
from xaiutils.graph.network import ModelError

L = keras.layers
RNG = np.random.default_rng(0)


def features(x, dtype=None):
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="early", dtype=dtype)(x)
    x = L.MaxPooling2D(4, name="pool", dtype=dtype)(x)
    return L.GlobalAveragePooling2D(dtype=dtype)(L.Conv2D(6, 3, padding="same", name="late", dtype=dtype)(x))


def model(end, channels=3, size=16, start=lambda x: x, dtype=None):
    x = keras.Input((size, size, channels))
    return keras.Model(x, end(features(start(x), dtype)))


def softmax_layer(x):
    return L.Softmax()(L.Dense(3)(x))


def mean_of_members(x):
    return L.Average()([L.Dense(3, activation="softmax")(x) for _ in range(2)])


def two_inputs():
    x, row = keras.Input((16, 16, 3), name="image"), keras.Input((2,), name="clinical")
    return keras.Model([x, row], L.Dense(3, activation="softmax")(L.Concatenate()([features(x), row])))


def no_maps():
    x = keras.Input((16, 16, 3))
    return keras.Model(x, L.Dense(3)(L.Dense(4, activation="relu")(L.Flatten()(x))))


def nested():
    x = keras.Input((16, 16, 3))
    trunk = keras.Model(x, features(x), name="trunk")
    y = keras.Input((16, 16, 3))
    return keras.Model(y, L.Dense(3, activation="softmax")(trunk(y)))


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv, self.head = L.Conv2D(4, 3), L.Dense(3)

    def call(self, x):
        return keras.ops.softmax(self.head(keras.ops.mean(keras.ops.relu(self.conv(x)), axis=(1, 2))))


def subclassed():
    found = Own()
    found(np.zeros((1, 16, 16, 3), np.float32))
    return found


def dense(units, activation=None):
    return L.Dense(units, activation=activation)


CASES = {
    "softmax": (lambda: model(dense(3, "softmax")), {}, {
        "images": "16 x 16 pixels, 3 channels", "head": "softmax over 3 classes", "score": "before the softmax",
        "scaling": "no layer of the model scales", "classes": "3, not named", "CAM layer": "late (4 x 4)",
        "other layers": "early (16 x 16)", "kind": "convolutional network: 2 convolutions",
    }),
    "softmax layer": (lambda: model(softmax_layer), {}, {"head": "softmax over 3 classes"}),
    "logits": (lambda: model(dense(3)), {}, {"head": "3 logits, read as those of a softmax"}),
    "one sigmoid": (lambda: model(dense(1, "sigmoid")), {"class_names": ["well", "ill"], "positive_class": "ill"}, {
        "head": "one sigmoid unit", "score": "log-odds of class 1", "classes": "0 well, 1 ill; to be detected: ill",
    }),
    "one unit": (lambda: model(dense(1)), {}, {"head": "one unit of logits"}),
    "sigmoids": (lambda: model(dense(3, "sigmoid")), {}, {"head": "3 independent sigmoids", "score": "log-odds"}),
    "told": (lambda: model(dense(3)), {"head": "sigmoid"}, {"head": "(head='sigmoid' was given)"}),
    "members": (lambda: model(mean_of_members), {}, {"head": "3 classes, which sum to one", "score": "log p of"}),
    "ordinal": (lambda: model(dense(2, "sigmoid")), {"head": "ordinal"}, {"head": "probabilities of 3 classes"}),
    "regression": (lambda: model(dense(1)), {"head": "regression", "class_names": ["age"]}, {
        "head": "a score (head='regression' was given)", "score": "own units", "classes": "none: age",
    }),
    "grey, scales": (lambda: model(dense(2), 1, start=L.Rescaling(1 / 255, name="unit")), {}, {
        "images": "one channel (grey)", "scaling": "unit (Rescaling)",
    }),
    "scaled outside": (lambda: model(dense(2)), {"scaling": "-1-1"}, {"scaling": "-1-1 (given); no layer"}),
    "divides": (lambda: model(dense(2), start=lambda x: x / 255), {}, {"scaling": "(TrueDivide)"}),
    "any size": (lambda: model(dense(2), size=None), {}, {"images": "any size"}),
    "half": (lambda: model(dense(2), dtype="mixed_bfloat16"), {}, {"model": "computed in bfloat16 and float32"}),
    "two inputs": (two_inputs, {"inputs": {"clinical": "case"}}, {
        "other inputs": "clinical (2,): every case brings its own row", "CAM layer": "late (4 x 4)",
    }),
    "held input": (two_inputs, {"inputs": {"clinical": [55, 2]}}, {"other inputs": "held at [55.  2.]"}),
    "nested": (nested, {}, {"CAM layer": "trunk/late (4 x 4)"}),
    "no maps": (no_maps, {}, {"CAM layer": "none: ", "kind": "neither", "other layers": "none"}),
    "subclassed": (subclassed, {"image_size": 16}, {"CAM layer": "(14 x 14)", "kind": "1 convolution"}),
    "transformer": (lambda: xai.build_model("vit_mini16", n_classes=2, image_size=32), {}, {
        "kind": "transformer: ", "head": "softmax over 2 classes",
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_said(case):
    make, options, expected = CASES[case]
    found = xai.describe(xai.wrap(make(), **{"scaling": "model", **options}))
    for heading, part in expected.items():
        assert part in found.said[heading], heading
    for path, (rows, columns) in found.candidates.items():
        assert f"({rows} x {columns})" in found.said["CAM layer"] + found.said["other layers"], path


def test_a_bare_model_and_one_that_cannot_be_explained():
    assert "a bare Keras model: see xai.wrap" in xai.describe(model(dense(2))).said["scaling"]
    with pytest.raises(ModelError, match="inputs"):
        xai.describe(two_inputs())


def test_methods_that_suit_run_and_the_others_refuse_for_the_reason_that_is_said():
    wrapped = xai.wrap(model(dense(3, "softmax")), scaling="0-1")
    found = xai.describe(wrapped)
    images = RNG.uniform(0, 255, (1, 16, 16, 3)).astype(np.float32)
    for name in ("grad_cam", "cam", "integrated_gradients", "lrp", "guided_backprop"):
        assert name in found.suitable
        assert xai.explain(wrapped, images, 0, method=name).shape == (1, 16, 16)
    for name, reason in found.methods.items():
        if reason:
            with pytest.raises(ModelError):
                xai.explain(wrapped, images, 0, method=name)
    assert set(found.methods) == set(xai.METHODS)
    assert not {"raw_attention", "attention_rollout"} & set(found.suitable)


def test_it_is_shown_as_text_and_as_markdown_and_nothing_is_printed(capsys):
    found = xai.describe(xai.wrap(model(dense(2)), class_names=["a|b", "c"]))
    assert capsys.readouterr().out == ""
    assert "CAM layer" in repr(found)
    assert "Note: scaling= is not given" in repr(found)
    assert all(not line.endswith(" ") for line in repr(found).splitlines())
    assert r"a\|b" in found._repr_markdown_()


def test_a_sample_says_first_how_well_the_model_does():
    bright = keras.Sequential([keras.Input((8, 8, 3)), L.GlobalAveragePooling2D(), L.Dense(1, activation="sigmoid")])
    bright.layers[-1].set_weights([np.full((3, 1), 20.0), np.array([-30.0])])  # brighter than half of [0, 1]
    pixels = np.repeat(np.linspace(20, 235, 40).astype(np.uint8)[:, None], 192, axis=1).reshape(40, 8, 8, 3)
    ds = ImageDataset(pixels, np.arange(40) >= 20, ("dark", "bright"), [str(i) for i in range(40)])
    found = xai.describe(xai.wrap(bright), ds)
    assert "Scaling '0-1' fits best on 40 labelled images" in found.notes[0]
