"""One entry in the table of layer types makes a layer known to every method."""

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.attribution import ModelError
from xaiutils.backend import keras, tf
from xaiutils.graph.layers.linear import Linear
from xaiutils.graph.layers.table import LAYER_TYPES, LINEAR, LayerType, has_learned_weights, layer_type

layers, ops = keras.layers, keras.ops
METHODS = {
    "vanilla_gradients": {},
    "grad_cam": {"layer": "mix"},
    "lrp": {"rule": "alpha_beta"},
    "deep_lift": {},
    "guided_backprop": {"reduction": "sum"},
    "full_grad": {"biases": "explicit"},
}


class Mix(layers.Layer):
    """relu(x W + b) over the channels at each place: a 1 x 1 convolution that Keras does not know as one."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.activation = units, keras.activations.relu

    def build(self, shape):
        self.kernel = self.add_weight(shape=(1, 1, shape[-1], self.units), name="kernel")
        self.bias = self.add_weight(shape=(self.units,), name="bias")

    def call(self, x):
        return self.activation(ops.matmul(x, self.kernel[0, 0]) + self.bias)


def mix_parts(layer):
    def make():
        return Linear(lambda x, k: ops.matmul(x, k[0, 0]), tf.cast(layer.kernel, tf.float32), layer.bias.value, None)

    return [make]


def classifier(mix):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 255)(inputs))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(mix(x)))
    model = keras.Model(inputs, layers.Dense(3)(x))
    rng = np.random.default_rng(2)
    model.set_weights([rng.normal(0, 0.4, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (2, 12, 12, 3)).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_one_entry_makes_a_layer_known(method, images, monkeypatch):
    """Every method treats it as Keras' convolution of the same weights."""
    monkeypatch.setitem(LAYER_TYPES, Mix, LayerType(LINEAR, parts=mix_parts))
    found = xai.explain(classifier(Mix(5, name="mix")), images, 1, method, **METHODS[method])
    same = classifier(layers.Conv2D(5, 1, activation="relu", name="mix"))
    expected = xai.explain(same, images, 1, method, **METHODS[method])
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("method", ["lrp", "deep_lift", "guided_backprop"])
@pytest.mark.parametrize("entry", [None, LayerType(opaque=True)])
def test_methods_with_rules_refuse_others_by_name(method, entry, images, monkeypatch):
    if entry is not None:
        monkeypatch.setitem(LAYER_TYPES, Mix, entry)
    with pytest.raises(ModelError, match=r"'mix' \(Mix\)"):
        xai.explain(classifier(Mix(5, name="mix")), images, 1, method)


def test_a_subclass_is_known_unless_it_computes_otherwise():
    class Renamed(layers.Conv2D):
        def get_config(self):
            return super().get_config()

    class Other(layers.Conv2D):
        def convolution_op(self, inputs, kernel):
            return ops.abs(super().convolution_op(inputs, kernel))

    class OtherSum(layers.Add):
        def _merge_function(self, inputs):
            return inputs[0] * inputs[1]

    assert layer_type(Renamed(2, 3)).kind == LINEAR
    assert layer_type(Other(2, 3)).kind is None
    assert layer_type(OtherSum()).kind is None
    assert layer_type(keras.Sequential([layers.Dense(2)])).opaque


def test_every_entry_names_a_class_or_an_operation_of_keras():
    """A typing error in a name would be an entry that nothing meets."""
    modules = (keras.src.ops.numpy, keras.src.ops.nn, keras.src.ops.core, layers)
    known = {value.__name__ for module in modules for value in vars(module).values() if isinstance(value, type)}
    assert {key for key in LAYER_TYPES if isinstance(key, str)} <= known


def test_statistics_of_the_data_are_no_learned_weights():
    scaling = layers.Normalization()
    scaling.adapt(np.random.default_rng(0).normal(size=(4, 2)))
    norm = layers.BatchNormalization()
    norm.build((None, 2))
    assert scaling.weights
    assert not has_learned_weights(scaling)
    assert has_learned_weights(norm)
    assert not has_learned_weights(layers.ReLU())
