"""What is explained: classes by index and name, and any score of the outputs."""

import gc
import weakref

import numpy as np
import pytest
from conftest import SIZE, cnn_body, make_flat

import xaiutils as xai
from xaiutils.attribution import ModelError
from xaiutils.backend import keras, tf
from xaiutils.graph.targets import target_classes

FEW = {
    "rise": {"n_masks": 8, "score": "logit"},
    "lime": {"n_samples": 8, "score": "logit"},
    "integrated_gradients": {"n_steps": 20},
    "integrated_gradients_bw": {"n_steps": 2},
    "expected_gradients": {"n_samples": 2},
    "smoothgrad": {"n_samples": 2},
    "smoothgrad_squared": {"n_samples": 2},
    "vargrad": {"n_samples": 2},
    "occlusion": {"score": "logit"},
    "score_cam": {"weighting": "softmax"},
    "faster_score_cam": {"weighting": "softmax"},
    "kernel_shap": {"n_segments": 5},
    "ss_cam": {"n_samples": 2},
    "smooth_grad_cam_plus_plus": {"n_samples": 2},
}
# Their definition contrasts a class with the others, or needs a probability: of one score there is no such thing.
REFUSED = dict.fromkeys(("clrp", "sglrp", "finer_cam"), "contrasts") | {"prediction_difference": "no probability"}
CONTRASTED = ("relevance_cam", "xrelevance_cam", "layer_aggregate")


def class_one(z):
    return z[:, 1]


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("flat softmax", [m for m in xai.METHODS if xai.METHODS[m].family != "attention"]),
        (
            "fused sigmoid",
            ["vanilla_gradients", "deep_lift", "cam", "ablation_cam", "lrp", "relevance_cam"],
        ),
        ("vit", ["lrp", "deep_lift", "transformer_attribution", "legrad"]),
    ],
)
def test_a_function_that_picks_a_class_gives_that_class_map(models, images, name, methods):
    for method, declared in ((name, xai.METHODS[name]) for name in methods):
        options = {k: v for k, v in FEW.get(method, {}).items() if k in {p.name for p in declared.parameters}}
        if method in REFUSED:
            with pytest.raises(ModelError, match=REFUSED[method]):
                xai.explain(models[name], images[:2], class_one, method, **options)
            continue
        try:
            expected = xai.explain(models[name], images[:2], 1, method, **options)
        except ModelError as refusal:
            with pytest.raises(ModelError, match=str(refusal)[:12]):
                xai.explain(models[name], images[:2], class_one, method, **options)
            continue
        found = xai.explain(models[name], images[:2], class_one, method, **options)
        if method in CONTRASTED and name != "fused sigmoid":
            assert np.isfinite(found).all()
            continue
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max(), err_msg=method)


@pytest.mark.parametrize("method", ["gradients_x_inputs", "integrated_gradients", "deep_lift", "cam", "hirescam"])
def test_linear_methods_add_up(models, images, method):
    model = models["flat softmax"]
    a, b, both = (
        xai.explain(model, images, targets, method)
        for targets in (1, 0, lambda z: 2 * z[:, 1] - tf.gather(z, 0, axis=1))
    )
    np.testing.assert_allclose(both, 2 * a - b, atol=1e-5 * np.abs(both).max())


def test_relevance_of_a_sum_is_each_logits_own(models, images):
    """The epsilon rule of the last step: R(z_j) = z_j w_j; and LRP is linear in what enters at the logits."""
    model = models["flat softmax"]
    one, two = (xai.explain(model, images, c, "lrp") for c in (1, 2))
    both = xai.explain(model, images, lambda z: z[:, 1] + z[:, 2], "lrp")
    np.testing.assert_allclose(both, one + two, atol=1e-5 * np.abs(both).max())


def test_any_differentiable_function(models, images):
    model = models["flat softmax"]

    def free_energy(z):
        return keras.ops.logsumexp(z, axis=1)

    z = xai.predict(model, images)
    total = xai.explain(model, images, free_energy, "deep_lift").sum(axis=(1, 2))
    black = xai.predict(model, np.zeros_like(images[:1]))
    expected = np.log(np.exp(z).sum(axis=1)) - np.log(np.exp(black).sum(axis=1))
    np.testing.assert_allclose(total, expected, atol=1e-4)
    p = xai.predict(model, images, probabilities=True)
    by_class = np.stack(
        [xai.explain(model, images, c, "vanilla_gradients", reduction="sum") for c in range(3)], axis=-1
    )
    found = xai.explain(model, images, free_energy, "vanilla_gradients", reduction="sum")
    np.testing.assert_allclose(found, (by_class * p[:, None, None]).sum(axis=-1), atol=1e-5 * np.abs(found).max())
    with pytest.raises(ModelError, match="CAM has weights for sums of logits alone"):
        xai.explain(model, images, free_energy, "cam")
    maps = xai.explain_all(model, images, free_energy, ["grad_cam", "hirescam", "rise", "faster_score_cam"])
    assert all(np.isfinite(m).all() for m in maps.values())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda z: z, "gives 18 numbers for 6 images"),
        (lambda z: tf.reduce_sum(z), "gives 1 numbers"),
        (lambda z: tf.argmax(z, axis=1), "gradient by the outputs is 0"),
        (lambda z: 0 * z[:, 0], "gradient by the outputs is 0"),
        (lambda z: z[:, 0] - tf.reduce_mean(z[:, 0]), "another score in another batch"),
        (lambda z: z[:, 9], "fails on outputs"),
        (lambda z: z.nothing(), "fails on outputs"),
    ],
)
def test_functions_that_are_no_score_are_refused(models, images, function, words):
    with pytest.raises(ModelError, match=words):
        xai.explain(models["flat softmax"], images[:1], function)


def test_calls_that_go_on_with_classes_refuse_functions(models, images):
    with pytest.raises(TypeError, match=r"xai\.explain"):
        xai.attribution.prepare(models["flat softmax"], images, class_one, 2)


def test_neither_the_model_nor_the_function_is_kept(images):
    def use():
        model = make_flat()

        def score(z):
            assert model is not None  # it closes over the model
            return z[:, 0]

        xai.explain(model, images[:1], score, "lrp")
        known = weakref.ref(score)
        del score
        gc.collect()
        assert known() is None
        return weakref.ref(model)

    model = use()
    gc.collect()
    assert model() is None


def test_a_function_is_traced_once(models, images, monkeypatch):
    monkeypatch.setenv("XAI_COMPILE", "first")
    traces = []

    def score(z):
        traces.append(1)
        return z[:, 0]

    xai.explain(models["flat softmax"], images[:1], score, "vanilla_gradients")
    before = len(traces)
    xai.explain(models["flat softmax"], images[1:3], score, "vanilla_gradients")
    assert len(traces) == before


def test_classes_by_name(images):
    model = xai.wrap(make_flat(), scaling="model", class_names=["a", "b", "c"])
    expected = xai.explain(model, images, [0, 2, 1, 1, 0])
    np.testing.assert_array_equal(xai.explain(model, images, ["a", "c", "b", "b", "a"]), expected)
    np.testing.assert_array_equal(xai.explain(model, images, "c"), xai.explain(model, images, 2))
    with pytest.raises(ValueError, match="'d' is not a class"):
        xai.explain(model, images, "d")
    with pytest.raises(ValueError, match=r"not known; give xai\.wrap"):
        xai.explain(make_flat(), images, "a")
    with pytest.raises(ValueError, match="expected a class index or name"):
        xai.explain(model, images, [0.5, 1, 1, 1, 1])


# Heads that are no classes --------------------------------------------------------------------------------------------


def regression(units=1, activation="softplus") -> keras.Model:
    keras.utils.set_random_seed(2)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.GlobalAveragePooling2D()(cnn_body(inputs))
    return keras.Model(inputs, keras.layers.Dense(units, activation=activation)(x))


def test_a_regression_is_explained_in_its_own_units(images):
    core = regression()
    model = xai.wrap(core, scaling="model", head="regression")
    np.testing.assert_allclose(xai.predict(model, images), core.predict(images, verbose=0), rtol=1e-5)
    assert xai.predict(model, images).shape == (5, 1)
    maps = xai.explain(model, images, None, "integrated_gradients", n_steps=200)
    black = core.predict(np.zeros((1, SIZE, SIZE, 3)), verbose=0)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), (core.predict(images, verbose=0) - black)[:, 0], atol=2e-3)
    np.testing.assert_array_equal(target_classes(model, np.array([0.5, 7, 3])), [0, 0, 0])
    with pytest.raises(ModelError, match="no probability"):
        xai.predict(model, images, probabilities=True)
    with pytest.raises(ModelError, match="no probability"):
        xai.explain(model, images, method="lime", score="probability", n_samples=4)
    assert np.isfinite(xai.explain(model, images[:1], method="lime", n_samples=4)).all()  # the score, unless asked
    with pytest.raises(ModelError, match="no attack"):
        xai.TRANSFORMS["fgsm"].apply(images, model=model)


def test_a_bare_unit_stays_two_classes(images):
    assert xai.predict(regression(activation="linear"), images).shape == (5, 2)


def test_what_is_told_of_the_head(images):
    core = make_flat("linear")
    z = xai.predict(core, images)
    several = xai.wrap(core, scaling="model", head="sigmoid")
    np.testing.assert_allclose(xai.predict(several, images, probabilities=True), 1 / (1 + np.exp(-z)), rtol=1e-5)
    np.testing.assert_allclose(xai.predict(several, images), z, rtol=1e-6)


def test_labels_as_targets(models):
    np.testing.assert_array_equal(target_classes(models["flat softmax"], np.array([2, 0])), [2, 0])
    with pytest.raises(ValueError, match="of_label"):
        target_classes(models["flat softmax"], np.zeros((2, 3), np.int8))
