"""What is told of a method before it runs is what it does then."""

import numpy as np
import pytest
from conftest import MODELS, SIZE, cnn_body

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.attribution.suitability import suits
from xaiutils.backend import keras, tf

layers = keras.layers
FEW = {
    "integrated_gradients": {"n_steps": 1},
    "integrated_gradients_bw": {"n_steps": 1},
    "prediction_difference": {"n_samples": 1, "patch_size": 16},
    "score_cam": {"max_channels": 1},
    "rise": {"n_masks": 2},
    "lime": {"n_samples": 2},
    "occlusion": {"patch_size": 16},
    "vargrad": {"n_samples": 1},
}
# One of each kind of need; what they share is checked once.
METHODS = [
    *("vanilla_gradients", "guided_backprop", "deep_lift", "rise", "prediction_difference", "cam", "grad_cam"),
    *("score_cam", "guided_grad_cam", "full_grad", "lrp", "clrp", "relevance_cam", "layer_aggregate"),
    *("raw_attention", "attention_rollout", "transformer_attribution", "legrad", "xrai"),
]


def functional(make):
    def build():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((SIZE, SIZE, 3))
        return keras.Model(inputs, layers.Dense(2)(make(inputs)))

    return build


def integers(x):
    return layers.GlobalAveragePooling2D()(keras.ops.cast(keras.ops.cast(x, "int32"), "float32"))


class OfTensorFlow(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv, self.classes = layers.Conv2D(4, 3, strides=4), layers.Dense(2)

    def call(self, x):
        return self.classes(tf.reduce_mean(tf.nn.relu(self.conv(x)), axis=(1, 2)))


def opaque():
    model = OfTensorFlow()
    model(np.zeros((1, SIZE, SIZE, 3), np.float32))
    return model


def regression():
    core = functional(lambda x: layers.GlobalAveragePooling2D()(cnn_body(x)))()
    return xai.wrap(core, scaling="model", head="regression", output=lambda y: y[:, :1])


FOREIGN = {
    "flat softmax": MODELS["flat softmax"],
    "one-unit sigmoid": MODELS["one-unit sigmoid"],
    "vit": MODELS["vit"],
    "no feature map": functional(lambda x: layers.Flatten()(x)),
    "silu": functional(lambda x: layers.GlobalMaxPooling2D()(cnn_body(x, "silu"))),
    "lstm": functional(lambda x: layers.LSTM(4)(layers.Reshape((64, 6))(cnn_body(x)))),
    "around": functional(
        lambda x: layers.Concatenate()(
            [layers.GlobalAveragePooling2D()(cnn_body(x)), layers.Dense(3)(layers.Flatten()(x))]
        )
    ),
    "integers": functional(integers),
    "opaque": opaque,
    "score": regression,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_told_is_what_happens(images, kind):
    model = FOREIGN[kind]()
    network = Network.of(model)
    for method in METHODS:
        told = suits(network, method)
        try:
            xai.explain(model, images[:1], 0, method, **FEW.get(method, {}))
            happened = ""
        except ModelError as reason:
            happened = str(reason)
        assert told == happened, method
        assert not told or len(told) > 40  # says why, and what instead


def test_needs_are_declared():
    for method in xai.METHODS.values():
        assert method.needs in ("nothing", "gradient", "layers", "rules", "attention")
