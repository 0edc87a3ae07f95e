"""Attacks: exact on linear models, inside their ball, stronger with more steps, the same in any batch."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

import xaiutils as xai
from xaiutils.attribution import Network
from xaiutils.backend import keras

FGSM, PGD = xai.TRANSFORMS["fgsm"], xai.TRANSFORMS["pgd"]
SHAPE = (6, 5, 3)


@functools.cache
def linear_model(units, activation, scale=1):
    """Scores w x + b with known weights that are nowhere 0, ``(model, weights (units, 6, 5, 3))``."""
    rng = np.random.default_rng(units)
    weights = rng.choice([-1, 1], (units, *SHAPE)) * rng.uniform(0.001, 0.01, (units, *SHAPE)) * scale
    inputs = keras.Input(SHAPE)
    dense = keras.layers.Dense(units, activation=activation)
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    dense.set_weights([weights.reshape(units, -1).T, rng.normal(size=units)])
    return model, weights


def middle_images(n=7):
    """Random images ``(n, 6, 5, 3)`` of whole grey levels, 60 away from the ends of the range."""
    return np.random.default_rng(3).integers(60, 196, (n, *SHAPE)).astype(np.float32)


def losses(model, images, targets):
    """Cross-entropy of the targets, float64 ``(n,)``, from the logits: exact where the model is sure."""
    logits, rows = xai.predict(model, images).astype(np.float64), np.arange(len(images))
    if Network.of(model).activation != "softmax":
        return np.logaddexp(0, -logits[rows, targets])
    return np.logaddexp.reduce(logits, axis=1) - logits[rows, targets]


def predicted(model, images):
    return xai.predict(model, images).argmax(axis=1)


# Against known gradients --------------------------------------------------------------------------------------------


@given(st.integers(0, 50), st.sampled_from(["softmax", None]), st.sampled_from([None, 0, 1]))
def test_fgsm_on_two_linear_scores_is_the_sign_of_their_difference(epsilon, activation, target):
    model, weights = linear_model(2, activation)
    images = middle_images()
    targets = predicted(model, images) if target is None else np.full(len(images), target)
    changed = FGSM.apply(images, model=model, targets=target, epsilon=epsilon)
    expected = epsilon * np.sign(weights[1 - targets] - weights[targets])
    np.testing.assert_array_equal(changed - images, expected)
    if epsilon:
        assert (losses(model, changed, targets) > losses(model, images, targets)).all()


def test_fgsm_on_linear_sigmoids():
    images = middle_images()
    for units in (1, 3):
        model, weights = linear_model(units, "sigmoid")
        signs = np.concatenate([-weights, weights]) if units == 1 else weights  # one unit z scores (-z, z)
        targets = predicted(model, images)
        changed = FGSM.apply(images, model=model, epsilon=3)
        np.testing.assert_array_equal(changed - images, -3 * np.sign(signs)[targets])
        assert (losses(model, changed, targets) > losses(model, images, targets)).all()


def test_several_classes_weigh_in_by_their_probability():
    """dL/dx of three linear scores is the probability-weighted sum of their weights, less the target's."""
    model, weights = linear_model(3, "softmax")
    images = middle_images()
    targets = np.array([0, 1, 2, 0, 1, 2, 0])
    p = softmax(xai.predict(model, images).astype(np.float64), axis=1)
    towards = weights[None] - weights[targets][:, None]  # (image, class, ...); 0 for the target, where p may be near 1
    gradient = (p[..., None, None, None] * towards).sum(axis=1)
    changed = FGSM.apply(images, model=model, targets=targets)
    clear = np.abs(gradient) > 1e-3 * np.abs(gradient).max(axis=(1, 2, 3), keepdims=True)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal((changed - images)[clear], 4 * np.sign(gradient)[clear])


@pytest.mark.parametrize("units", [1, 2, 3])
@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_a_large_epsilon_turns_every_prediction(units, attack):
    model, _ = linear_model(units, "sigmoid" if units == 1 else "softmax")
    images = middle_images()
    changed = xai.TRANSFORMS[attack].apply(images, model=model, epsilon=50.0)
    assert (predicted(model, changed) != predicted(model, images)).all()


def test_pgd_on_a_linear_model_ends_in_the_corner_of_fgsm():
    """From any start, 10 steps of a quarter of epsilon reach it; 0 and 255 bound it too."""
    model, _ = linear_model(2, "softmax")
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPE)).astype(np.float32)
    for seed in range(3):
        found = PGD.apply(images, seed, model=model, epsilon=8)
        np.testing.assert_allclose(found, FGSM.apply(images, model=model, epsilon=8), atol=1e-4)


def test_a_sure_model_is_attacked_all_the_same():
    """Logits 1000 apart: the cross-entropy is 0 in float32, and so is its gradient, but not the attack."""
    model, weights = linear_model(2, "softmax", scale=1000)
    images = middle_images()
    targets = predicted(model, images)
    assert np.median(xai.predict(model, images, probabilities=True).max(axis=1)) == 1
    changed = FGSM.apply(images, model=model)
    np.testing.assert_array_equal(changed - images, 4 * np.sign(weights[1 - targets] - weights[targets]))


# Against real networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
@pytest.mark.parametrize(
    "name", ["flat softmax", "flat logits", "one-unit sigmoid", "fused sigmoid", "sequential", "vit"]
)
def test_every_model_is_attacked_within_the_ball(models, images, name, attack):
    model, epsilon = models[name], 6.0
    targets = predicted(model, images)
    changed = xai.TRANSFORMS[attack].apply(images, seed=1, model=model, epsilon=epsilon)
    assert changed.shape == images.shape
    assert changed.dtype == np.float32
    assert 0 <= changed.min() <= changed.max() <= 255
    assert np.abs(changed - images).max() <= epsilon + 1e-4
    assert (losses(model, changed, targets) > losses(model, images, targets)).all()
    np.testing.assert_array_equal(
        changed, xai.TRANSFORMS[attack].apply(images, seed=1, model=model, targets=targets, epsilon=epsilon)
    )


@given(st.floats(0, 50), st.integers(1, 6), st.floats(0, 1), st.integers(0, 2**32))
def test_pgd_never_leaves_the_ball(models, images, epsilon, n_steps, step_size, seed):
    parameters = {"epsilon": epsilon, "n_steps": n_steps, "step_size": step_size}
    changed = PGD.apply(images[:2], seed, model=models["flat softmax"], **parameters)
    assert np.abs(changed - images[:2]).max() <= epsilon + 1e-4
    assert 0 <= changed.min() <= changed.max() <= 255


@pytest.mark.parametrize("name", ["flat softmax", "one-unit sigmoid", "vit"])
def test_pgd_is_as_strong_as_fgsm(models, images, name):
    """Not a law for one image and one start: the mean over images, at an epsilon where models are not linear."""
    model = models[name]
    targets = predicted(model, images)
    one, many = (t.apply(images, model=model, epsilon=20.0) for t in (FGSM, PGD))
    assert losses(model, many, targets).mean() > losses(model, one, targets).mean()
    more = PGD.apply(images, model=model, epsilon=20.0, n_steps=40, step_size=0.1)
    first = PGD.apply(images, model=model, epsilon=20.0, n_steps=1)
    assert losses(model, more, targets).mean() > losses(model, first, targets).mean()


def test_pgd_asks_the_model_for_images_in_range_only():
    """A model that is flat outside [0, 255]: from the start on, no point lies there, so every value moves."""
    inputs = keras.Input(SHAPE)
    scores = keras.layers.Dense(1)(keras.layers.Flatten()(keras.ops.clip(inputs, 0, 255)))
    black = np.zeros((1, *SHAPE), np.float32)
    (targets,) = predicted(model := keras.Model(inputs, scores), black)
    up = (model.layers[-1].kernel.numpy().reshape(SHAPE) > 0) == (targets == 0)
    changed = PGD.apply(black, model=model, n_steps=1, step_size=1.0)
    np.testing.assert_array_equal(changed[0] == 4.0, up)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_batches_and_seeds(models, images, attack):
    transform, model = xai.TRANSFORMS[attack], models["flat softmax"]
    whole = transform.apply(images, seed=2, model=model)
    np.testing.assert_array_equal(whole, transform.apply(images, seed=2, model=model))
    small = transform.apply(images, seed=2, model=model, batch_size=2)
    alone = transform.apply(images[3:4], seed=2, model=model)
    # A gradient that is 0 to rounding may take the other sign in a batch of another size.
    assert (np.abs(small - whole) > 1e-3).mean() < 1e-3
    assert (np.abs(alone[0] - whole[3]) > 1e-3).mean() < 1e-3
    other = transform.apply(images, seed=3, model=model)
    assert np.array_equal(other, whole) == (attack == "fgsm")


def test_whole_grey_levels_stay_whole_with_fgsm(models, images):
    whole = np.rint(images)
    changed = FGSM.apply(whole, model=models["vit"])
    np.testing.assert_array_equal(changed, np.rint(changed))


def test_nothing_moves_with_epsilon_or_steps_of_nothing(models, images):
    model = models["flat softmax"]
    np.testing.assert_array_equal(FGSM.apply(images, model=model, epsilon=0.0), images)
    np.testing.assert_array_equal(PGD.apply(images, model=model, epsilon=0.0), images)
    start = PGD.apply(images, model=model, epsilon=8.0, step_size=0.0) - images
    inside = (images > 8) & (images < 247)
    assert np.abs(start[inside]).mean() == pytest.approx(4, rel=0.05)  # uniform in the ball


def test_one_trace_serves_every_call(images, monkeypatch):
    monkeypatch.setenv("XAI_COMPILE", "first")  # run eagerly a layer is called each time
    inputs = keras.Input((32, 32, 3))
    traces = []

    def count(x):
        traces.append(x.shape)
        return x

    x = keras.layers.Lambda(count, output_shape=(32, 32, 3))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    FGSM.apply(images, model=model)
    before = len(traces)
    FGSM.apply(images[:3], model=model, targets=1, epsilon=9.0)
    PGD.apply(images, model=model, batch_size=2, n_steps=3)
    assert len(traces) == before


# What is asked of the caller ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [FGSM, PGD], ids=["fgsm", "pgd"])
def test_errors(models, images, attack):
    assert attack.needs_model
    model = models["flat softmax"]
    with pytest.raises(ValueError, match=r"made against a model; give it: .*model=\.\.\."):
        attack.apply(images)
    with pytest.raises(ValueError, match="expected a Keras model, got str"):
        attack.apply(images, model="efficientnet_lite0")
    with pytest.raises(ValueError, match="the model has 3 classes"):
        attack.apply(images, model=model, targets=3)
    with pytest.raises(ValueError, match="the model takes 32 x 32"):
        attack.apply(images[:, :16], model=model)
    with pytest.raises(ValueError, match="epsilon"):
        attack.apply(images, model=model, epsilon=-1.0)
    with pytest.raises(TypeError, match="did you mean epsilon"):
        attack.apply(images, model=model, epsilom=1.0)


def test_models_without_a_gradient_are_refused(images):
    inputs = keras.Input((32, 32, 3))
    whole = keras.layers.Lambda(lambda x: keras.ops.cast(keras.ops.cast(x, "int32"), "float32"))(inputs)
    x = keras.layers.GlobalAveragePooling2D()(whole)
    blind = keras.Model(inputs, keras.layers.Dense(2)(x))
    with pytest.raises(ValueError, match="cuts the gradient"):
        FGSM.apply(images, model=blind)


@pytest.mark.parametrize("attack", [FGSM, PGD], ids=["fgsm", "pgd"])
def test_masks_and_maps_stay_where_they_are(images, attack):
    masks, maps = images[..., 0] > 127, images[..., 1]
    np.testing.assert_array_equal(attack.apply_to_masks(masks), masks)
    np.testing.assert_array_equal(attack.invert(maps), maps)
    assert not attack.hidden(images).any()


def test_all_transforms_come_with_the_package():
    added = ["brightness_contrast", "blur", "jpeg", "fgsm", "pgd"]
    thesis = ["original", "log", "gaussian_noise", "speckle_noise", "black_rectangle", "affine", "rotate_180"]
    assert list(xai.TRANSFORMS) == thesis + added
    assert [name for name, t in xai.TRANSFORMS.items() if t.needs_model] == ["fgsm", "pgd"]
