"""What a map must not depend on: a constant in all logits (as each method declares), and the order of the classes."""

import numpy as np
import pytest
from conftest import SIZE, make_flat, make_vit
from test_methods import quick, refused

import xaiutils as xai
from xaiutils.backend import keras

layers = keras.layers
MAKE = {"flat softmax": make_flat, "vit": make_vit}
# Parameters at which the answer is another one than at the defaults, or is known of a base.
VARIANTS = [
    ("ablation_cam", {"relative": True}, False),
    ("layer_aggregate", {"base": "ablation_cam", "base_parameters": {"relative": True}}, False),
    ("layer_aggregate", {"base": "grad_cam"}, True),
    ("smoothgrad", {"base": "clrp", "n_samples": 2}, False),
    ("xrai", {"base": "clrp", "base_parameters": {}}, False),
    ("lrp", {"rule": "deep_taylor"}, False),
    ("lrp", {"rule": "epsilon"}, True),
    ("lrp", {"bias": False}, False),
    ("sglrp", {"bias": True}, False),
    ("sglrp", {"variant": "code"}, True),
    ("rise", {"score": "logit"}, False),
    ("occlusion", {"score": "probability"}, True),
    ("lime", {"score": "logit"}, True),
    ("deep_lift", {"rule": "reveal_cancel"}, True),
    ("score_cam", {"weighting": "authors"}, True),
]


@pytest.fixture(scope="module")
def heads():
    """Each model with its last layer and that layer's weights; tests put these back."""
    made = {}
    for name, make in MAKE.items():
        model = make()
        head = model.get_layer("logits" if name == "vit" else "classes")
        made[name] = model, head, head.get_weights()
    return made


def shifted_maps(heads, shape, images, method, parameters):
    """Maps as the model is, and with -50 and with 100 added to all logits: these change signs."""
    model, head, (kernel, bias) = heads[shape]
    scores = xai.predict(model, images)
    targets = scores.argmin(axis=1)
    assert np.abs(scores).max() < 50
    maps = []
    for shift in (0, -50, 100):
        head.set_weights([kernel, bias + shift])
        maps.append(quick(model, images, method, targets, **parameters))
    head.set_weights([kernel, bias])
    return maps


def is_same(maps, other):
    """To the rounding of logits near 100."""
    return np.allclose(maps, other, atol=3e-3 * np.abs(maps).max())


@pytest.mark.parametrize("shape", MAKE)
@pytest.mark.parametrize("method", xai.METHODS)
def test_a_constant_added_to_all_logits(heads, images, method, shape):
    if why := refused(method, shape):
        pytest.skip(f"refused on this model: {why}")
    declared = xai.METHODS[method]
    assert declared.is_shift_invariant({}) == declared.shift_invariant
    before, *after = shifted_maps(heads, shape, images[:2], method, {})
    assert before.any()
    for maps in after:
        assert is_same(before, maps) == declared.shift_invariant
        for one, other in zip(before, maps, strict=True):  # what is not the same is so in its scale alone
            assert one.std() == 0 == other.std() or np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999


@pytest.mark.parametrize(("method", "parameters", "same"), VARIANTS)
def test_parameters_decide_too(heads, images, method, parameters, same):
    assert xai.METHODS[method].is_shift_invariant(parameters) == same
    before, *after = shifted_maps(heads, "flat softmax", images[:2], method, parameters)
    assert before.any()
    assert all(is_same(before, maps) for maps in after) == same


def with_temperature() -> keras.Model:
    inner = make_flat("linear")
    return keras.Model(inner.inputs, layers.Softmax()(layers.Rescaling(1 / 2.5)(inner.output)))


def with_sigmoids() -> keras.Model:
    inner = make_flat("linear")
    return keras.Model(inner.inputs, layers.Activation("sigmoid")(inner.output))


def mean_of_members() -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((SIZE, SIZE, 3))
    members = []
    for name in ("classes", "others"):
        x = layers.Conv2D(6, 3, padding="same", activation="relu")(layers.Rescaling(1 / 127.5, -1.0)(inputs))
        members.append(layers.Dense(3, activation="softmax", name=name)(layers.GlobalAveragePooling2D()(x)))
    return keras.Model(inputs, layers.Average()(members))


# A mean of members is explained by log p, so the members' logits are within the network and take relevance: a constant
# in them changes how much.
RELEVANCE = ("clrp", "sglrp", "relevance_cam", "xrelevance_cam", "layer_aggregate")
BY_PROBABILITY = ("rise", "lime", "prediction_difference", "score_cam", "faster_score_cam", "sglrp", "clrp")
OTHER_HEADS = {with_temperature: (), mean_of_members: RELEVANCE, with_sigmoids: BY_PROBABILITY}


@pytest.mark.parametrize("make", OTHER_HEADS)
def test_a_constant_in_the_logits_of_other_heads(images, make):
    """Before a temperature as before a plain softmax, in one member of a mean, and in independent sigmoids, where it
    changes every probability, but no difference of logits."""
    model = make()
    head = model.get_layer("classes")
    kernel, bias = head.get_weights()
    shift = -2.0 if make is with_sigmoids else -50.0
    for method, declared in xai.METHODS.items():
        without_cam = method == "cam" and make is not with_sigmoids  # its head is not a linear layer alone
        if refused(method, "flat") or without_cam or method in OTHER_HEADS[make]:
            continue
        head.set_weights([kernel, bias])
        before = quick(model, images[:2], method, 1)
        head.set_weights([kernel, bias + shift])
        after = quick(model, images[:2], method, 1)
        assert is_same(before, after) == declared.shift_invariant, method


@pytest.mark.parametrize("shape", MAKE)
@pytest.mark.parametrize("method", xai.METHODS)
def test_the_order_of_the_classes(heads, images, method, shape):
    if why := refused(method, shape):
        pytest.skip(f"refused on this model: {why}")
    model, head, (kernel, bias) = heads[shape]
    before = quick(model, images[:2], method, [0, 2])
    head.set_weights([kernel[:, [2, 0, 1]], bias[[2, 0, 1]]])
    after = quick(model, images[:2], method, [1, 0])
    head.set_weights([kernel, bias])
    np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max())


@pytest.mark.parametrize(
    "method", ["relevance_cam", "xrelevance_cam", "layer_aggregate", "ablation_cam", "lrp", "clrp"]
)
def test_one_unit_does_not_turn_over_with_the_sign_of_its_logit(images, method):
    model = make_flat("sigmoid", n_classes=1)
    maps = []
    for bias in (-5.0, 5.0):
        model.get_layer("classes").bias.assign([bias])
        maps.append(xai.explain(model, images, 1, method))
    for one, other in zip(*maps, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999
