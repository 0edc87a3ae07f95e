"""ConvNeXt and EfficientNetV2: Keras' own networks in our graphs, their weights, their places for CAMs."""

import functools

import numpy as np
import pytest
from keras.src.applications.convnext import ConvNeXt

import xaiutils as xai
from xaiutils.attribution import ModelError, Network
from xaiutils.backend import keras
from xaiutils.models import applications, convnext
from xaiutils.models.applications import Application, application_backbone, load_application_file, load_imagenet
from xaiutils.models.scaling import standardised

layers = keras.layers
SIZES = {"depths": (1, 2, 1, 1), "widths": (8, 12, 16, 24)}
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)


def keras_convnext(include_top=True, weights=None, input_shape=(64, 64, 3), **options):
    """As ``keras.applications.ConvNeXtTiny``, of few and narrow blocks, with random weights."""
    depths, widths = SIZES["depths"], SIZES["widths"]
    model = ConvNeXt(
        depths, widths, include_top=include_top, input_shape=input_shape, name="convnext_tiny", classes=5, **options
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if not isinstance(layer, layers.Normalization):
            drawn = [rng.normal(0.5 if w.ndim < 2 else 0, 0.3, w.shape) for w in layer.get_weights()]
            layer.set_weights(drawn)
    if weights not in (None, "imagenet"):
        model.load_weights(weights)
    return model


@pytest.fixture
def small(monkeypatch):
    """The application, with Keras' class and our graph as small as that."""
    monkeypatch.setattr(keras.applications, "ConvNeXtTiny", keras_convnext)
    known = applications.APPLICATIONS["convnext_tiny"]
    graph = functools.partial(convnext.convnext, **SIZES)
    return Application("ConvNeXtTiny", known.module, known.scale, known.paper, graph=graph, neck=known.neck)


def classifier(application, neck=True):
    inputs, top = application_backbone(application, (64, 64))
    x = layers.GlobalAveragePooling2D(name="pooled" if neck else "features")(top)
    x = application.neck(x) if neck else x
    x = layers.Dense(5, name="logits")(x)
    return keras.Model(inputs, layers.Softmax(name="probabilities")(x), name="small")


def test_convnext_is_keras_own(small):
    source, model = keras_convnext(), classifier(small)
    load_imagenet(small, model, with_head=True)  # which compares them too
    np.testing.assert_allclose(model(IMAGES), source(IMAGES), atol=1e-5)
    first = model.get_layer("stage1_block1_depthwise").get_weights()[0]
    assert np.ptp(first) > 0.5


@pytest.mark.parametrize("neck", [True, False])
def test_a_backbone_without_its_classes(small, neck, tmp_path):
    """The last LayerNorm is Keras', where the head has one; a file of a whole classifier is refused."""
    source, model = keras_convnext(False), classifier(small, neck)
    before = model.get_layer("logits").get_weights()
    load_imagenet(small, model, with_head=False)
    found = keras.Model(model.input, model.get_layer("layer4").output)(IMAGES)
    expected = keras.Model(source.input, convnext.last_norm(source).input)(IMAGES)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(model.get_layer("logits").get_weights()[0], before[0])
    if neck:
        for ours, theirs in zip(
            model.get_layer("features").get_weights(), source.layers[-1].get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        for top in (False, True):
            keras_convnext(top).save_weights(tmp_path / f"{top}.weights.h5")
        again = classifier(small)
        load_application_file(small, again, tmp_path / "False.weights.h5", False)
        np.testing.assert_array_equal(again.get_layer("layer4").output.shape, model.get_layer("layer4").output.shape)
        np.testing.assert_array_equal(again.get_layer("stem_conv").kernel, model.get_layer("stem_conv").kernel)
        with pytest.raises(ValueError, match="the file holds a whole classifier"):
            load_application_file(small, again, tmp_path / "True.weights.h5", False)


def test_every_layer_starts_from_numbers_of_its_own_which_the_seed_gives():
    def kernels():
        keras.utils.set_random_seed(3)
        inputs = keras.Input((64, 64, 3))
        network = keras.Model(inputs, convnext.convnext(inputs, (2, 1), (8, 16)))
        return {layer.name: np.array(layer.kernel) for layer in network.layers if hasattr(layer, "kernel")}

    first, again = kernels(), kernels()
    assert not np.array_equal(first["stage1_block1_in"], first["stage1_block2_in"])
    for name, kernel in first.items():
        np.testing.assert_array_equal(kernel, again[name], err_msg=name)


def test_numbers_of_weights_are_the_published_ones():
    """ConvNeXt's with 1000 classes (torchvision's count), EfficientNetV2's of the backbone (Keras')."""
    for name, head, published in (
        ("convnext_tiny", "imagenet", 28_589_128),
        ("efficientnet_v2_b0", "linear", 5_919_312),
    ):
        with keras.StatelessScope(initialize_variables=False):
            model = xai.build_model(name, 2, head=head)
        head_weights = 0 if head == "imagenet" else 2 * (1280 + 1)
        assert model.count_params() - head_weights == published


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("efficientnet_v2_b0", (IMAGES / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        ("efficientnet_v2_s", IMAGES / 128 - 1),
        ("convnext_tiny", (IMAGES / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
    ],
)
def test_scaling_is_that_of_keras_graph(name, expected):
    scaled = applications.APPLICATIONS[name].scale(keras.Input((64, 64, 3)))
    found = keras.Model(scaled._keras_history.operation.input, scaled)(IMAGES)
    np.testing.assert_allclose(found, expected, atol=1e-5)


# Maps -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64, 64, 3))
    top = convnext.convnext(standardised(inputs), **SIZES)
    x = convnext.convnext_neck(layers.GlobalAveragePooling2D(name="pooled")(top))
    found = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    rng = np.random.default_rng(0)
    for weight in found.weights:
        spread = 0.3 if len(weight.shape) == 1 else 1 / np.sqrt(np.prod(weight.shape[:-1]))
        weight.assign(rng.normal(0.5 if len(weight.shape) == 1 else 0, spread, weight.shape))
    return found


def test_convnexts_places_for_class_activation_maps(model):
    network = Network.of(model)
    assert network.cam_layer() == "layer4"
    assert [network.grid(f"layer{n}") for n in (1, 2, 3, 4)] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    with pytest.raises(ModelError, match="CAM is made for models whose layers end in global average pooling and one"):
        xai.explain(model, IMAGES, 0, "cam")


def test_convnext_is_explained_by_rules(model):
    """DeepLIFT sums to the change of the logit; Grad-CAM of layer3 by hand; LRP and the others are defined."""
    change = xai.predict(model, IMAGES)[:, 1] - xai.predict(model, np.zeros_like(IMAGES))[:, 1]
    maps = xai.explain(model, IMAGES, 1, "deep_lift", baseline="black")
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), change, rtol=1e-2, atol=1e-2 * np.abs(change).max())
    for method in ("lrp", "full_grad", "relevance_cam", "grad_cam", "occlusion"):
        found = xai.explain(model, IMAGES, 1, method)
        assert np.isfinite(found).all()
        assert np.ptp(found) > 0
    third, fourth = (xai.explain(model, IMAGES, 1, "hirescam", layer=f"layer{n}") for n in (3, 4))
    assert not np.allclose(third, fourth)


def test_keras_own_layer_scale_is_known_to_rules():
    """A ConvNeXt that a user brings as keras.applications makes it."""
    source = keras_convnext(classifier_activation=None)
    maps = xai.explain(source, IMAGES[:1], 1, "deep_lift", baseline="black")
    change = xai.predict(source, IMAGES[:1])[0, 1] - xai.predict(source, 0 * IMAGES[:1])[0, 1]
    np.testing.assert_allclose(maps.sum(), change, rtol=2e-2)


def test_stages_of_efficientnets_have_names():
    inputs = keras.Input((32, 32, 3))
    x = inputs
    for name in ("block1a_project_conv", "block2a_expand_conv", "block2b_add", "block6a_project_bn", "block6h_add"):
        x = layers.Conv2D(2, 3, name=name)(x)
    network = Network.of(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))))
    assert [network.cam_layer(f"block{n}") for n in (1, 2, 6)] == ["block1a_project_conv", "block2b_add", "block6h_add"]
    with pytest.raises(ModelError, match="layer 'block5' is not in the model"):
        network.cam_layer("block5")
