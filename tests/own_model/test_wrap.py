"""The wrapped model: its inputs, outputs and heads, whose weights it has, and what is refused by name."""

import gc
import weakref

import keras
import numpy as np
import pytest
from small_models import PIXELS, classifier

import xaiutils as xai
from xaiutils.models.wrapped import facts_of

layers, ops = keras.layers, keras.ops
MODEL = classifier()


def test_weights_are_shared_and_the_model_stays_as_it_is():
    mine = classifier()
    before = [layer.name for layer in mine.layers], mine.name, mine(PIXELS).numpy()
    wrapped = xai.wrap(mine, scaling="0-1")
    assert [id(w) for w in wrapped.weights] == [id(w) for w in mine.weights]
    xai.explain(wrapped, PIXELS, 0)
    assert ([layer.name for layer in mine.layers], mine.name) == before[:2]
    np.testing.assert_array_equal(mine(PIXELS), before[2])
    mine.get_layer("classes").bias.assign([5.0, 0.0, 0.0])
    np.testing.assert_allclose(wrapped(PIXELS), mine(PIXELS / 255), atol=1e-6)
    gone = weakref.ref(wrapped)
    del wrapped
    gc.collect()
    assert gone() is None


def test_wrapping_again_keeps_what_was_said():
    wrapped = xai.wrap(MODEL, scaling="0-1", class_names=["a", "b", "c"])
    assert facts_of(xai.wrap(wrapped)) == wrapped.facts
    again = xai.wrap(wrapped, scaling="-1-1", positive_class="b")
    assert (again.facts.scaling, again.facts.class_names, again.facts.positive_class) == ("-1-1", ("a", "b", "c"), "b")
    np.testing.assert_allclose(again(PIXELS), MODEL(PIXELS / 127.5 - 1), atol=1e-6)
    assert facts_of(MODEL) is None


def test_sequential_models_need_a_size_once():
    mine = keras.Sequential([layers.Conv2D(2, 3), layers.GlobalMaxPooling2D(), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"does not say what it takes: give image_size="):
        xai.wrap(mine)
    with pytest.raises(ValueError, match="image_size"):
        xai.wrap(mine, image_size=(16,))
    wrapped = xai.wrap(mine, image_size=16)
    np.testing.assert_allclose(wrapped(PIXELS), mine(PIXELS), atol=1e-6)
    assert xai.wrap(mine).input_shape == (None, 16, 16, 3)
    with pytest.raises(ValueError, match="image_size=8, but the model takes"):
        xai.wrap(mine, image_size=8)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.core = classifier()

    def call(self, x, training=False):
        return self.core(x, training=training)


def test_subclassed_models():
    mine = Subclassed()
    with pytest.raises(ValueError, match="give image_size="):
        xai.wrap(mine)
    np.testing.assert_allclose(xai.wrap(mine, image_size=16)(PIXELS), mine.core(PIXELS), atol=1e-6)
    wrapped = xai.wrap(mine, scaling="0-1")  # built by now
    assert wrapped.input_shape == (None, 16, 16, 3)
    np.testing.assert_allclose(xai.predict(wrapped, PIXELS, probabilities=True), mine(PIXELS / 255), atol=1e-5)


def test_any_size_of_image():
    wrapped = xai.wrap(classifier((None, None, 3)), scaling="0-1")
    assert wrapped.input_shape == (None, None, None, 3)
    assert xai.explain(wrapped, PIXELS[:, :12], 0).shape == (3, 12, 16)
    assert xai.wrap(classifier((None, None, 3)), image_size=(8, 16)).input_shape == (None, 8, 16, 3)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(channels):
    mine = classifier((16, 16, channels))
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, channels)).astype(np.float32)
    wrapped = xai.wrap(mine, scaling="0-1")
    np.testing.assert_allclose(wrapped(images), mine(images / 255), atol=1e-6)
    assert wrapped.facts.channels == channels
    with pytest.raises(ValueError, match=f"'caffe' is for three channels .RGB., and the model takes {channels}"):
        xai.wrap(mine, scaling="caffe")


def test_channels_first():
    mine = classifier((3, 16, 16), data_format="channels_first")
    wrapped = xai.wrap(mine, scaling="caffe")
    assert wrapped.input_shape == (None, 16, 16, 3)
    by_hand = keras.applications.vgg16.preprocess_input(PIXELS.copy())
    np.testing.assert_allclose(wrapped(PIXELS), mine(np.moveaxis(by_hand, -1, 1)), atol=1e-5)
    assert xai.explain(wrapped, PIXELS, 0, "integrated_gradients").shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("shape", "given", "taken"),
    [
        ((3, 16, 16), None, (16, 16, 3)),
        ((16, 16, 3), None, (16, 16, 3)),
        ((12, 16, 16), None, (16, 16, 12)),
        ((16, 16, 12), None, (16, 16, 12)),
        ((3, None, None), None, (None, None, 3)),
        ((3, 16, 4), True, (16, 4, 3)),
        ((3, 16, 4), False, (3, 16, 4)),
        ((3, 16, 4), None, "say by channels_first="),
        ((None, None, None), None, "give the channels by image_size"),
    ],
)
def test_where_the_channels_stand_is_read_from_the_shape(shape, given, taken):
    inputs = keras.Input(shape)
    mine = keras.Model(inputs, ops.mean(inputs, axis=(1, 2, 3)))
    if isinstance(taken, str):
        with pytest.raises(ValueError, match=taken):
            xai.wrap(mine, channels_first=given)
    else:
        assert xai.wrap(mine, channels_first=given).input_shape == (None, *taken)


def several_inputs(as_mapping=True):
    keras.utils.set_random_seed(2)
    image, age = keras.Input((16, 16, 3), name="image"), keras.Input((2,), name="clinical")
    site = keras.Input((1,), name="site", dtype="int32")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(image))
    x = layers.Concatenate()([x, age, layers.Flatten()(layers.Embedding(5, 2)(site))])
    inputs = {"image": image, "clinical": age, "site": site} if as_mapping else [age, image, site]
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


@pytest.mark.parametrize("as_mapping", [True, False])
def test_further_inputs_are_held(as_mapping):
    mine = several_inputs(as_mapping)
    rows = {"image": PIXELS / 255, "clinical": np.array([[1.0, 2.0]] * 3), "site": np.full((3, 1), 4)}
    given = rows if as_mapping else [rows["clinical"], rows["image"], rows["site"]]
    wrapped = xai.wrap(mine, scaling="0-1", inputs={"clinical": [1, 2], "site": 4})
    np.testing.assert_allclose(wrapped(PIXELS), mine(given), atol=1e-6)
    assert wrapped.facts.case_inputs == ()
    each = xai.wrap(mine, scaling="0-1", inputs={"clinical": "case", "site": 4})
    assert each.facts.case_inputs == ("clinical",)
    rows["clinical"] = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    each.held_inputs["clinical"].hold(rows["clinical"])
    given = rows if as_mapping else [rows["clinical"], rows["image"], rows["site"]]
    np.testing.assert_allclose(each(PIXELS), mine(given), atol=1e-6)
    np.testing.assert_allclose(wrapped(PIXELS)[0], wrapped(PIXELS[:1])[0], atol=1e-6)  # its own row still


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (
            None,
            r"the image is image. Give inputs=\{'clinical': value\} to hold clinical and site at a value, or 'case'",
        ),
        ({"clinicl": 1}, "no input 'clinicl'; did you mean clinical"),
        ({"clinical": [1, 2, 3], "site": 1}, r"clinical has shape \(3,\); the model takes rows of \(2,\)"),
        ({"clinical": [1, np.nan], "site": 1}, "NaN"),
        ({"clinical": [1, 2], "site": 1.5}, "site takes integers"),
        ({"clinical": "cases", "site": 1}, "no number"),
        ({"clinical": [1, 2], "site": 1, "image": 0}, "none of them can be the image"),
    ],
)
def test_other_inputs_are_refused_in_words(inputs, words):
    with pytest.raises(ValueError, match=words):
        xai.wrap(several_inputs(), inputs=inputs)


def several_outputs():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, activation="relu")(inputs)
    pooled = layers.GlobalAveragePooling2D()(x)
    outputs = {"sex": layers.Dense(1, activation="sigmoid")(pooled), "age": layers.Dense(1)(pooled)}
    return keras.Model(inputs, outputs | {"place": layers.Conv2D(1, 1)(x)})


def test_one_of_several_outputs_is_chosen():
    mine = several_outputs()
    answers = mine(PIXELS)
    for chosen, expected in [("sex", "sex"), (0, "age"), (2, "sex"), (lambda y: y["age"], "age")]:
        np.testing.assert_allclose(xai.wrap(mine, output=chosen)(PIXELS), answers[expected], atol=1e-6)
    area = xai.wrap(mine, output=lambda y: ops.mean(y["place"], axis=(1, 2)), head="regression", class_names=["mm2"])
    np.testing.assert_allclose(area(PIXELS), ops.mean(answers["place"], axis=(1, 2)), atol=1e-6)
    assert xai.wrap(mine, output="sex").facts.output == "sex"
    flat = xai.wrap(mine, output=lambda y: y["age"][:, 0])  # a number for each image
    np.testing.assert_allclose(flat(PIXELS), answers["age"], atol=1e-6)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (None, r"returns age \(None, 1\), place .*, sex \(None, 1\); choose one by output="),
        ("sx", "no output of the model; did you mean sex"),
        (3, "an index from 0 to 2"),
        (True, "an index from 0 to 2"),
        ("place", r"one row of scores \(n, k\) is needed.*keras\.ops\.mean"),
        (lambda y: np.asarray(y["sex"]), "fails on the model's outputs; write it with keras.ops"),
        (lambda y: y["place"], "what output= returns has shape"),
    ],
)
def test_other_outputs_are_refused_in_words(output, words):
    with pytest.raises(ValueError, match=words):
        xai.wrap(several_outputs(), output=output)


def test_ordinal_heads_give_probabilities_of_classes():
    inputs = keras.Input((16, 16, 1))
    above = layers.Activation("sigmoid")(layers.GlobalAveragePooling2D()(layers.Conv2D(3, 1, name="c")(inputs)))
    mine = keras.Model(inputs, above)
    mine.get_layer("c").set_weights([np.array([[[[0.02, 0.01, 0.03]]]]), np.array([0.0, -1.0, -3.0])])
    wrapped = xai.wrap(mine, head="ordinal", class_names=["none", "mild", "moderate", "severe"])
    image = np.full((1, 16, 16, 1), 100.0, np.float32)
    p = 1 / (1 + np.exp(-np.array([2.0, 0.0, 0.0])))
    np.testing.assert_allclose(wrapped(image)[0], [1 - p[0], p[0] - p[1], 0, p[2]], atol=1e-6)
    rising = np.full((1, 16, 16, 1), 200.0, np.float32)  # P(y > 2) = 0.95 above P(y > 1) = 0.73: taken for 0.73
    p = 1 / (1 + np.exp(-np.array([4.0, 1.0, 1.0])))
    np.testing.assert_allclose(wrapped(rising)[0], [1 - p[0], p[0] - p[1], 0, p[2]], atol=1e-6)
    logits = keras.Model(mine.inputs, mine.layers[-2].output)  # the sigmoid left out
    np.testing.assert_allclose(xai.wrap(logits, head="ordinal")(image), wrapped(image), atol=1e-6)
    with pytest.raises(ValueError, match="ends in a softmax, whose classes are explained as they are"):
        xai.wrap(MODEL, head="ordinal")
    with pytest.raises(ValueError, match="class_names has 3 names, and the output is of 4 classes"):
        xai.wrap(mine, head="ordinal", class_names=["a", "b", "c"])


@pytest.mark.parametrize(
    ("units", "given", "words"),
    [
        (3, {"class_names": ["a", "b"]}, "2 names, and the output is of 3 classes"),
        (3, {"class_names": ["a", "b", "b"]}, "names a class twice"),
        (3, {"class_names": "abc"}, "one text"),
        (3, {"class_names": ["a", "b", "c"], "positive_class": "d"}, "'d' is not one of the classes"),
        (1, {"class_names": ["a"]}, "of one sigmoid unit give both"),
        (1, {"class_names": ["a", "b"], "head": "regression"}, "2 names, and the output is of 1"),
        (3, {"head": "ordnal"}, "did you mean ordinal"),
        (3, {"head": "regression"}, "the output has 3 numbers"),
    ],
)
def test_names_and_heads_that_do_not_fit_are_refused(units, given, words):
    with pytest.raises((ValueError, TypeError), match=words):
        xai.wrap(classifier(units=units, last="sigmoid"), **given)


def test_averaged_members_go_through():
    inputs = keras.Input((16, 16, 3))
    members = [classifier(), classifier((16, 16, 3))]
    members[1].get_layer("classes").bias.assign([1.0, 0.0, -1.0])
    ensemble = keras.Model(inputs, layers.Average()([members[0](inputs), keras.Model(*_ends(members[1]))(inputs)]))
    wrapped = xai.wrap(ensemble, scaling="0-1")
    expected = (members[0](PIXELS / 255) + members[1](PIXELS / 255)) / 2
    np.testing.assert_allclose(xai.predict(wrapped, PIXELS, probabilities=True), expected, atol=1e-5)


def _ends(model):
    return model.inputs, model.outputs[0]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float16"])
def test_half_precision_within_and_float32_outside(policy):
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(policy)
        mine = classifier()
        wrapped = xai.wrap(mine, scaling="0-1")
    finally:
        keras.config.set_dtype_policy(before)
    answers = wrapped(PIXELS)
    assert answers.dtype == "float32"
    np.testing.assert_array_equal(answers, ops.cast(mine(PIXELS / np.float32(255)), "float32"))
    assert xai.explain(wrapped, PIXELS, 0, "integrated_gradients").dtype == np.float32


def test_integer_inputs_take_whole_pixels_and_keep_the_gradient():
    inputs = keras.Input((16, 16, 3), dtype="uint8")
    mine = keras.Model(inputs, classifier()(layers.Rescaling(1 / 255)(inputs)))
    wrapped = xai.wrap(mine, scaling="model")
    np.testing.assert_allclose(wrapped(PIXELS), mine(PIXELS.astype(np.uint8)), atol=1e-6)
    assert np.abs(xai.explain(wrapped, PIXELS, 0, "vanilla_gradients")).max() > 0


def test_a_saved_copy_needs_no_wrapping(tmp_path):
    wrapped = xai.wrap(MODEL, scaling="standardise")
    wrapped.save(tmp_path / "pixels.keras")
    read = keras.models.load_model(tmp_path / "pixels.keras")
    np.testing.assert_allclose(read(PIXELS), wrapped(PIXELS), atol=1e-6)


def test_rows_of_cases_come_with_the_call():
    mine, rows = several_inputs(), np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    wrapped = xai.wrap(mine, scaling="0-1", inputs={"clinical": "case", "site": 2})
    answers = xai.predict(wrapped, PIXELS, inputs={"clinical": rows}, probabilities=True)
    expected = mine({"image": PIXELS / 255, "clinical": rows, "site": np.full((3, 1), 2)})
    np.testing.assert_allclose(answers, expected, atol=1e-5)
    with pytest.raises(ValueError, match="row of 'clinical' for each case, which is missing"):
        xai.predict(wrapped, PIXELS)


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="model is int; expected a Keras model, or the path"):
        xai.wrap(3)


@pytest.mark.parametrize(("units", "last"), [(2, "softmax"), (1, "sigmoid")])
def test_a_head_that_the_graph_contradicts_is_refused_at_once(units, last):
    """Another softmax of the probabilities would be explained."""
    with pytest.raises(ValueError, match=f"head='logits' was given, but the model ends in a {last}"):
        xai.wrap(classifier(units=units, last=last), head="logits")


def test_what_is_assumed_of_one_unit_and_of_a_second_image_is_said():
    assert "Give head='regression'" in xai.wrap(classifier(units=1, last=None), scaling="0-1").facts.notes[0]
    assert xai.wrap(classifier(units=1, last=None), scaling="0-1", head="regression").facts.notes == ()
    views = [keras.Input((16, 16, 3), name=name) for name in ("cc", "mlo")]
    mine = keras.Model(views, layers.Dense(2)(layers.Concatenate()([layers.Flatten()(v) for v in views])))
    assert "its input mlo" in xai.wrap(mine, scaling="0-1", inputs={"mlo": "case"}).facts.notes[0]


def test_rows_of_integers_are_not_cut():
    model = xai.wrap(several_inputs(), scaling="0-1", inputs={"clinical": [1, 2], "site": "case"})
    rows = np.zeros((len(PIXELS), *model.held_inputs["site"].row_shape))
    xai.predict(model, PIXELS, inputs={"site": rows})
    with pytest.raises(ValueError, match="'site'.*takes integers"):
        xai.predict(model, PIXELS, inputs={"site": rows + 0.5})
    with pytest.raises(TypeError, match="inputs is list"):
        xai.predict(model, PIXELS, inputs=[rows])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"inputs": 3}, "inputs=3; expected values by the names"),
        ({"output": ops.mean}, "one number for all images"),
        ({"scaling": ("a", 1)}, "mean='a'; expected a number"),
        ({"scaling": lambda x: x - ops.mean(x)}, "scales an image otherwise in another batch"),
        ({"scaling": lambda x: ops.log(x - 300)}, "NaN or infinite"),
    ],
)
def test_plausible_slips_are_refused_by_name(given, words):
    with pytest.raises((ValueError, TypeError), match=words):
        xai.wrap(classifier(units=2, last="softmax"), **given)
