"""Inputs beside the image, of which every case brings its own row."""

import numpy as np
import pytest

import xaiutils as xai
from xaiutils.attribution.completeness import completeness_gap
from xaiutils.attribution.full_grad import full_grad_terms
from xaiutils.backend import keras
from xaiutils.graph.case_inputs import case_rows, groups, holding
from xaiutils.graph.network import Network

layers = keras.layers


def two_inputs() -> keras.Model:
    """The image's features times what age and sex (an embedding) make of it."""
    keras.utils.set_random_seed(3)
    image, age = keras.Input((32, 32, 1), name="image"), keras.Input((2,), name="age")
    sex = keras.Input((1,), name="sex", dtype="int32")
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")(layers.Rescaling(1 / 255.0)(image))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="conv2")(x)
    x = layers.GlobalAveragePooling2D()(x)
    gate = layers.Concatenate()([age, layers.Flatten()(layers.Embedding(2, 4)(sex))])
    x = layers.Multiply()([x, layers.Dense(8, activation="relu", bias_initializer="ones")(gate)])
    return keras.Model([image, age, sex], layers.Dense(3, activation="softmax", bias_initializer="ones")(x))


@pytest.fixture(scope="module")
def cases():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (4, 32, 32, 1)).astype(np.float32)
    age = rng.normal(size=(4, 2)).astype(np.float32)
    age[2] = age[0]
    core = two_inputs()
    return (
        core,
        xai.wrap(core, scaling="model", inputs={"age": "case", "sex": "case"}),
        images,
        age,
        np.array([0, 1, 0, 1]),
    )


def of(rows, members):
    return {name: array[members] for name, array in rows.items()}


def test_predictions_are_the_models(cases):
    core, model, images, age, sex = cases
    expected = core.predict([images, age, sex[:, None]], verbose=0)
    rows = {"age": age, "sex": sex}
    for batch_size in (1, 3, 32):
        found = xai.predict(model, images, batch_size, probabilities=True, inputs=rows)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "method", ["hirescam", "integrated_gradients", "occlusion", "rise", "lrp", "deep_lift", "ablation_cam", "full_grad"]
)
def test_a_case_alone_is_the_case_among_others(cases, method):
    _, model, images, age, sex = cases
    rows = {"age": age, "sex": sex}
    options = {"n_masks": 16} if method == "rise" else {}
    together = xai.explain(model, images, None, method, inputs=rows, **options)
    for member in ([1], [2]):
        alone = xai.explain(model, images[member], None, method, inputs=of(rows, member), **options)
        np.testing.assert_allclose(alone[0], together[member[0]], atol=1e-4 * np.abs(together[member[0]]).max())
    if method == "ablation_cam":  # its ReLU leaves nothing here
        return
    other = xai.explain(model, images[:1], 1, method, inputs={"age": -age[:1], "sex": sex[1:2]}, **options)
    assert np.abs(other - xai.explain(model, images[:1], 1, method, inputs=of(rows, [0]), **options)).max() > 0


def test_several_methods_and_baselines_of_their_own(cases):
    _, model, images, age, sex = cases
    rows = {"age": age, "sex": sex}
    own = {"integrated_gradients": {"baseline_image": np.ascontiguousarray(images[::-1])}}
    maps = xai.explain_all(model, images, 1, ["grad_cam", "integrated_gradients"], parameters=own, inputs=rows)
    for i in range(4):
        given = {"baseline_image": images[3 - i]}
        alone = xai.explain(model, images[i : i + 1], 1, "integrated_gradients", inputs=of(rows, [i]), **given)
        np.testing.assert_allclose(maps["integrated_gradients"][i], alone[0], atol=1e-5 * np.abs(alone).max())


def test_completeness_counts_the_held_inputs(cases):
    """DeepLIFT's baseline has the same row, so nothing of it is lost; in FullGrad what is held is a bias."""
    _, model, images, age, sex = cases
    rows = {"age": age, "sex": sex}
    at, black = (xai.predict(model, x, inputs=rows)[:, 1] for x in (images, np.zeros_like(images)))
    gaps = completeness_gap(model, images, lambda z: 2 * z[:, 1], "deep_lift", inputs=rows)
    np.testing.assert_allclose(gaps["total"], 2 * (at - black), rtol=1e-4, atol=1e-6)
    assert gaps["relative_gap"].max() < 1e-3
    found = xai.explain(model, images, 1, "deep_lift", inputs=rows).sum(axis=(1, 2))
    np.testing.assert_allclose(found, at - black, rtol=1e-4, atol=1e-6)
    with holding(model, case_rows(model, of(rows, [1]), 1)):
        scores, terms = full_grad_terms(Network.of(model), images[1:2], np.ones(1, np.int32))
    np.testing.assert_allclose(sum(terms.values()), scores, rtol=1e-4)


def test_rows_are_checked_and_given_back(cases):
    _, model, images, age, sex = cases
    for call in (xai.predict, xai.explain):
        with pytest.raises(ValueError, match=r"takes a row of 'age' for each case.*inputs="):
            call(model, images)
    for bad in ({"age": age}, {"age": age[:2], "sex": sex}, {"age": age[:, :1], "sex": sex}):
        with pytest.raises(ValueError, match="a row for each case|a row of 'sex'"):
            xai.predict(model, images, inputs=bad)
    with pytest.raises(ValueError, match=r"cases \[1\] hold NaN"):
        xai.predict(model, images, inputs={"age": np.where(np.arange(4)[:, None] == 1, np.nan, age), "sex": sex})
    before = {name: layer.rows for name, layer in model.held_inputs.items()}
    xai.explain(model, images, inputs={"age": age, "sex": sex, "more": np.zeros(4)})
    assert all((layer.rows == before[name]).all() for name, layer in model.held_inputs.items())


def test_a_held_row_serves_calls_without_inputs(cases):
    _, model, images, age, sex = cases
    rows = {"age": age[1:2], "sex": sex[1:2]}
    with holding(model, case_rows(model, rows, 1)):
        found = xai.explain(model, images[1:2], 1)
    np.testing.assert_array_equal(found, xai.explain(model, images[1:2], 1, inputs=rows))
    with pytest.raises(ValueError, match="takes a row"):
        xai.explain(model, images[1:2], 1)


def test_equal_rows_are_one_group():
    rows = {"a": np.array([[1.0], [2], [1]]), "b": np.array([0, 0, 0])}
    assert [list(members) for members, _ in groups(rows, 3)] == [[0, 2], [1]]
    assert [list(members) for members, _ in groups({}, 3)] == [[0, 1, 2]]


@pytest.mark.parametrize("table", ["embedding", "encoding"])
def test_numbers_that_a_model_cannot_look_up_are_named(table):
    """TensorFlow fails on a CPU, and takes zeros on a GPU."""
    images, site = keras.Input((8, 8, 3)), keras.Input((1,), name="site", dtype="float32")
    found = layers.Embedding(4, 2, name="sites")(keras.ops.cast(site, "int32"))
    if table == "encoding":
        found = layers.CategoryEncoding(4, output_mode="one_hot", name="sites")(site)
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(images), layers.Flatten()(found)])
    mine, pixels = keras.Model([images, site], layers.Dense(2)(x)), np.zeros((3, 8, 8, 3), np.float32)
    wrapped = xai.wrap(mine, scaling="0-1", inputs={"site": "case"})
    assert np.isfinite(xai.predict(wrapped, pixels, inputs={"site": [0, 3, 1]})).all()
    said = r"inputs\['site'\]: the rows of the cases \[1, 2\] hold -1, 4; .*sites has entries from 0 to 3"
    with pytest.raises(ValueError, match=said):
        xai.predict(wrapped, pixels, inputs={"site": [0, 4, -1]})
    with pytest.raises(ValueError, match="the rows of the cases"):
        xai.explain(wrapped, pixels, 0, "vanilla_gradients", inputs={"site": [0, 4, -1]})
    with pytest.raises(ValueError, match=r"inputs\['site'\] holds 7; .* has entries from 0 to 3"):
        xai.wrap(mine, scaling="0-1", inputs={"site": 7})
